/* Prompts and generation (lm.h). */
#include "runtime/lm.h"

#include <string.h>
#include <time.h>

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

syl_status syl_lm_create(const syl_engine *engine, syl_pool *pool, const syl_context_options *options,
                         syl_diag *diag, syl_lm *out) {
    *out = (syl_lm){.engine = engine, .pool = pool};
    const syl_artifact *artifact = &engine->artifact;
    syl_status status = syl_context_create(engine, pool, options, diag, &out->context);
    if (status == SYL_OK && artifact->tokenizer) {
        syl_source source = {SYL_ARTIFACT_TOKENIZER, artifact->tokenizer, artifact->tokenizer_size};
        status = syl_tokenizer_create(&source, diag, &out->tokenizer);
    }
    if (status == SYL_OK && out->tokenizer &&
        syl_tokenizer_size(out->tokenizer) > engine->signature.id_limit) {
        status = syl_error(diag, SYL_ERR_lm_vocabulary, SYL_NOWHERE,
                           "the tokenizer has %d tokens, the model's table %lld rows",
                           syl_tokenizer_size(out->tokenizer), (long long)engine->signature.id_limit);
    }
    if (status != SYL_OK) syl_lm_destroy(out);
    return status;
}

void syl_lm_destroy(syl_lm *lm) {
    syl_tokenizer_destroy(lm->tokenizer);
    syl_context_destroy(lm->context);
    *lm = (syl_lm){0};
}

/* Runs the tokens chunk by chunk, with the logits behind the last one; and chooses a token by them, if asked to. */
static syl_status read_prompt(syl_lm *lm, int sequence, const int32_t *ids, int64_t n, bool choose,
                              syl_diag *diag) {
    int64_t length = syl_context_length(lm->context, sequence), limit = syl_context_limit(lm->context);
    if (n > limit - length) { /* before the first chunk is read */
        return syl_error(
            diag, SYL_ERR_kv_context, SYL_NOWHERE,
            "%lld tokens behind the %lld of sequence %d are more than the %lld positions of the context",
            (long long)n, (long long)length, sequence, (long long)limit);
    }
    int32_t sequences[SYL_PREFILL_CHUNK];
    int64_t chunk = lm->engine->backend->chunk;
    if (chunk > SYL_PREFILL_CHUNK) chunk = SYL_PREFILL_CHUNK;
    for (int i = 0; i < SYL_PREFILL_CHUNK; i++) sequences[i] = sequence;
    for (int64_t done = 0; done < n; done += chunk) {
        int64_t count = n - done < chunk ? n - done : chunk;
        int32_t last = (int32_t)count - 1;
        bool ends = done + count == n;
        syl_batch batch = {.n_tokens = count,
                           .ids = ids + done,
                           .seq = sequences,
                           .n_rows = ends,
                           .rows = &last,
                           .choose = choose && ends};
        SYL_TRY(syl_context_run(lm->context, &batch, diag));
    }
    return SYL_OK;
}

syl_status syl_lm_prefill(syl_lm *lm, int sequence, const int32_t *ids, int64_t n, syl_diag *diag,
                          const float **logits) {
    SYL_TRY(read_prompt(lm, sequence, ids, n, false, diag));
    if (!logits) return SYL_OK;
    SYL_TRY(syl_context_fetch(lm->context, diag));
    *logits = syl_context_logits(lm->context, 0);
    return SYL_OK;
}

/* ---- generation ---- */

const char *syl_stop_name(syl_stop stop) {
    static const char *const names[] = {"end-token", "length", "context", "caller"};
    return names[stop];
}

/* One token more, the one that was chosen last, and the choice of the next. */
static syl_status follow(syl_lm *lm, syl_diag *diag) {
    static const int32_t zero = 0;
    syl_batch batch = {.n_tokens = 1, .seq = &zero, .n_rows = 1, .rows = &zero, .choose = true};
    return syl_context_run(lm->context, &batch, diag);
}

/* Takes tokens one after the other, and keeps as many runs begun as the device likes: their tokens are known to it, not yet here. */
static syl_status decode(syl_lm *lm, const syl_generate_options *options, double start, syl_diag *diag,
                         syl_generation *out) {
    double first = 0;
    int64_t begun = 1, taken = 0, limit = syl_context_limit(lm->context); /* the prompt has chosen one */
    out->stop = SYL_STOP_LENGTH;
    while (out->new_tokens < options->max_tokens) {
        int32_t id;
        while (begun - taken <= lm->engine->backend->ahead && begun < options->max_tokens &&
               syl_context_length(lm->context, 0) < limit) {
            SYL_TRY(follow(lm, diag));
            begun++;
        }
        if (begun == taken) {
            out->stop = SYL_STOP_CONTEXT;
            break;
        }
        SYL_TRY(syl_context_chosen(lm->context, diag, &id));
        taken++;
        if (!first) {
            first = seconds_now();
            out->first_token_s = first - start;
        }
        if (lm->tokenizer && syl_tokenizer_is_end(lm->tokenizer, id)) {
            out->stop = SYL_STOP_END;
            break;
        }
        out->new_tokens++;
        if (options->token && !options->token(options->user, id)) {
            out->stop = SYL_STOP_CALLER;
            break;
        }
    }
    if (first) out->decode_s = seconds_now() - first;
    /* Forget what was run ahead: all tokens taken are in the cache but for the last. */
    if (taken) syl_context_truncate(lm->context, 0, out->prompt_tokens + taken - 1);
    return SYL_OK;
}

syl_status syl_lm_generate(syl_lm *lm, const int32_t *prompt, int64_t n, const syl_generate_options *options,
                           syl_diag *diag, syl_generation *out) {
    *out = (syl_generation){.prompt_tokens = n};
    if (n < 1) return syl_error(diag, SYL_ERR_lm_text, SYL_NOWHERE, "the prompt has no tokens");
    SYL_TRY(syl_context_choose_begin(lm->context, &options->sampling, diag));
    syl_context_truncate(lm->context, 0, 0);
    double start = seconds_now();
    SYL_TRY(read_prompt(lm, 0, prompt, n, true, diag));
    SYL_TRY(syl_context_wait(lm->context, diag));
    out->prefill_s = seconds_now() - start;
    return decode(lm, options, start, diag, out);
}
