/* The executor: runs @forward of an engine over a batch of tokens, with a KV cache of its own.
 *
 * A batch is any mix of tokens of any sequences; each token takes the next position of its sequence. A
 * sequence's logits have the same bits however its tokens are cut into batches, whatever else is in them, and
 * whatever the number of threads. A context is used by one thread at a time; several contexts may share an
 * engine. */
#ifndef SYL_RUNTIME_EXEC_H
#define SYL_RUNTIME_EXEC_H

#include "runtime/engine.h"
#include "runtime/steps.h"

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
    const int32_t *ids; /* [n_tokens], 0 <= id < vocabulary */
    const int32_t *seq; /* [n_tokens] sequence numbers, or NULL: all 0 */
    int64_t n_rows;
    const int32_t *rows; /* [n_rows] token numbers (in the batch) whose logits are wanted */
} syl_batch;

/* Errors: exec-range, kv-sequence, kv-context, out-of-memory; nothing has then changed. */
SYL_NODISCARD syl_status syl_context_run(syl_context *context, const syl_batch *batch, syl_diag *diag);
/* The logits [vocab] of row `row` (0 .. n_rows - 1) of the last run; valid until the next. */
const float *syl_context_logits(const syl_context *context, int64_t row);

/* From the next run on, behind each step; NULL: no longer. */
void syl_context_observe(syl_context *context, const syl_observer *observer);

int64_t syl_context_vocab(const syl_context *context);
int64_t syl_context_limit(const syl_context *context);                /* positions a sequence may have */
int64_t syl_context_length(const syl_context *context, int sequence); /* 0 <= sequence < sequences */
/* Forgets the positions from `length` on; 0 frees the sequence. */
void syl_context_truncate(syl_context *context, int sequence, int64_t length);
size_t syl_context_bytes(const syl_context *context); /* memory of buffers and KV pages */

#endif
