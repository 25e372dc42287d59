/* The executor: runs @forward of an engine over a batch of tokens, with a KV cache of its own.
 *
 * A batch is any mix of tokens of any sequences; each token takes the next position of its sequence. A
 * sequence's logits have the same bits however its tokens are cut into batches, whatever else is in them, and
 * whatever the number of threads. A context is used by one thread at a time; several contexts may share an
 * engine. */
#ifndef SYL_RUNTIME_EXEC_H
#define SYL_RUNTIME_EXEC_H

#include "runtime/profile.h"

typedef struct syl_context syl_context;

typedef struct syl_context_options {
    int sequences; /* 0 = 1 */
    int64_t
        context; /* positions a sequence may have; 0 = the model's context_length, or 4096 if it has none */
} syl_context_options;

/* engine and pool are borrowed. */
SYL_NODISCARD syl_status syl_context_create(const syl_engine *engine, syl_pool *pool,
                                            const syl_context_options *options, syl_diag *diag,
                                            syl_context **out);
void syl_context_destroy(syl_context *context); /* NULL is fine */

typedef struct syl_batch {
    int64_t n_tokens;
    const int32_t
        *ids; /* [n_tokens], 0 <= id < vocabulary; NULL: the one token of the run is the one chosen last */
    const int32_t *seq; /* [n_tokens] sequence numbers, or NULL: all 0 */
    int64_t n_rows;
    const int32_t *rows; /* [n_rows] token numbers (in the batch) whose logits are wanted */
    bool choose; /* behind the run, a token is chosen by the last of these rows (syl_context_choose_begin) */
} syl_batch;

/* Errors: exec-range, kv-sequence, kv-context, out-of-memory; nothing has then changed. On a GPU the run may be under way when this
 * returns, and what fails there is reported by the call that waits for it. */
SYL_NODISCARD syl_status syl_context_run(syl_context *context, const syl_batch *batch, syl_diag *diag);
/* Waits for the last run and brings its logits to the host. */
SYL_NODISCARD syl_status syl_context_fetch(syl_context *context, syl_diag *diag);
bool syl_context_fetched(const syl_context *context);
/* The logits [vocab] of row `row` (0 .. n_rows - 1) of the last run, fetched; valid until the next. */
const float *syl_context_logits(const syl_context *context, int64_t row);
/* Callers on the device: backend.h. Errors: device-host. */
SYL_NODISCARD syl_status syl_context_stream(syl_context *context, void *stream, syl_diag *diag);
/* Where row `row` of the last run's logits lies, or will; until the next run. 0: on the host. */
uint64_t syl_context_device_logits(const syl_context *context, int64_t row);
/* Measures the next run, step by step; times is [steps of the plan]. Both are borrowed until then. */
void syl_context_profile(syl_context *context, const syl_profile *profile, syl_step_time *times);
SYL_NODISCARD syl_status syl_context_copy_rate(syl_context *context, syl_diag *diag, double *out);
SYL_NODISCARD syl_status syl_context_wait(syl_context *context, syl_diag *diag); /* until all runs are done */

/* Choosing tokens where the logits are: begin, runs that choose, and the tokens in order. A run that follows may be begun before the
 * token of the one in front of it is taken, as often as backend->ahead says. Errors: sample-options; of taking: sample-logits. */
SYL_NODISCARD syl_status syl_context_choose_begin(syl_context *context, const syl_sampling *sampling,
                                                  syl_diag *diag);
SYL_NODISCARD syl_status syl_context_chosen(syl_context *context, syl_diag *diag, int32_t *id);

/* From the next run on, behind each step; NULL: no longer. */
void syl_context_observe(syl_context *context, const syl_observer *observer);

int64_t syl_context_vocab(const syl_context *context);
int64_t syl_context_limit(const syl_context *context);                /* positions a sequence may have */
int64_t syl_context_length(const syl_context *context, int sequence); /* 0 <= sequence < sequences */
/* Forgets the positions from `length` on; 0 frees the sequence. */
void syl_context_truncate(syl_context *context, int sequence, int64_t length);
size_t syl_context_bytes(const syl_context *context); /* memory of buffers and KV pages */

#endif
