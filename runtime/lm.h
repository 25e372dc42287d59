/* A language model in use: an engine's context with the model's tokenizer, and what is done with them:
 * reading a prompt, generating, measuring perplexity. Used by one thread at a time. */
#ifndef SYL_RUNTIME_LM_H
#define SYL_RUNTIME_LM_H

#include "runtime/chat.h"
#include "runtime/exec.h"
#include "runtime/sample.h"

enum { SYL_PREFILL_CHUNK = 2048 }; /* tokens a run takes of a prompt at most; the backend may want fewer */

typedef struct syl_lm {
    const syl_engine *engine; /* borrowed */
    syl_pool *pool;           /* borrowed */
    syl_context *context;
    syl_tokenizer *tokenizer; /* NULL: the artifact has none */
} syl_lm;

SYL_NODISCARD syl_status syl_lm_create(const syl_engine *engine, syl_pool *pool,
                                       const syl_context_options *options, syl_diag *diag, syl_lm *out);
void syl_lm_destroy(syl_lm *lm); /* fine on a zeroed one */

/* Appends tokens to a sequence; *logits gets those behind the last token ([vocab], valid until the next
 * call). logits NULL: they stay on the device, and runs may be under way when this returns. n >= 1. */
SYL_NODISCARD syl_status syl_lm_prefill(syl_lm *lm, int sequence, const int32_t *ids, int64_t n,
                                        syl_diag *diag, const float **logits);

/* ---- generation ---- */

typedef struct syl_generate_options {
    int64_t max_tokens;
    syl_sampling sampling;
    /* Each new token, in order, but for the end token; false stops. May be NULL. */
    bool (*token)(void *user, int32_t id);
    void *user;
} syl_generate_options;

typedef enum syl_stop { SYL_STOP_END, SYL_STOP_LENGTH, SYL_STOP_CONTEXT, SYL_STOP_CALLER } syl_stop;
const char *syl_stop_name(syl_stop stop); /* "end-token", "length", "context", "caller" */

typedef struct syl_generation {
    int64_t prompt_tokens, new_tokens; /* the end token counts as none */
    syl_stop stop;
    double prefill_s;     /* reading the prompt */
    double first_token_s; /* prefill_s and drawing the first token */
    double decode_s;      /* all tokens behind the first */
} syl_generation;

/* Sequence 0 is emptied, reads the prompt and goes on from it. */
SYL_NODISCARD syl_status syl_lm_generate(syl_lm *lm, const int32_t *prompt, int64_t n,
                                         const syl_generate_options *options, syl_diag *diag,
                                         syl_generation *out);

/* ---- perplexity ---- */

enum { SYL_PPL_SKIPPED = 4 }; /* positions at the start of a window that are not scored */

typedef struct syl_perplexity_options {
    int64_t window;      /* tokens, > SYL_PPL_SKIPPED */
    int64_t max_windows; /* 0: all */
    syl_lm *against;     /* another model over the same tokens, or NULL */
    /* Scored windows and all; may be NULL. `nll` is the mean so far. */
    void (*progress)(void *user, double done, double total, double nll);
    void *user;
} syl_perplexity_options;

typedef struct syl_perplexity {
    int64_t windows, tokens; /* scored */
    double nll, ppl;         /* mean negative log-likelihood in nats, and its exponential */
    double against_nll, against_ppl;
    double kl;       /* mean of KL(against || this) in nats */
    double same_top; /* share of positions where both hold the same token likeliest */
    double seconds;
} syl_perplexity;

/* Cuts the tokens into consecutive windows (what is left over is dropped), runs each from an empty cache
 * (sequence 0), and scores tokens SYL_PPL_SKIPPED.. of each window by the logits in front of them. All sums
 * are float64 in order of position. */
SYL_NODISCARD syl_status syl_lm_perplexity(syl_lm *lm, const int32_t *ids, int64_t n,
                                           const syl_perplexity_options *options, syl_diag *diag,
                                           syl_perplexity *out);

#endif
