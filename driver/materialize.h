/* Materialize: where weight-side expressions become stored tensors. Passes only ever rewrote the graph; here,
 * once, numbers are computed: each expression in float64 from the checkpoint's values, rounded once by the
 * cast or quantize at its root. */
#ifndef SYL_DRIVER_MATERIALIZE_H
#define SYL_DRIVER_MATERIALIZE_H

#include "base/threads.h"
#include "driver/tensor_store.h"
#include "frontend/frontend.h"

/* Version of the evaluation: to be raised whenever an expression may come out in other bits than before. Part of
 * what finished tensors are filed under. */
#define SYL_EVALUATOR 1

typedef struct syl_materializer syl_materializer;

/* Finds the roots (cast and quantize of real values), replaces each by `materialized {name}` and erases the
 * weight side, so that the module is final, as the artifact stores it; opens the source files. Names are
 * those of the weights below the root, joined by '+'. Errors: materialize-real where a real value reaches
 * another op, materialize-name, and those of opening the files. */
SYL_NODISCARD syl_status syl_materialize_begin(syl_module *module, syl_diag *diag, syl_materializer **out);
void syl_materialize_end(syl_materializer *materializer); /* NULL is fine */

/* Before run. Finished tensors are kept in a store, and taken from it (NULL, as at first: neither); the store is
 * the caller's. */
void syl_materialize_keep(syl_materializer *materializer, syl_store *store);
/* Before run. Memory that blocks in flight may take together, in bytes; 0, as at first: half of what the machine
 * has left. Ops that need a whole tensor (low_rank_split, hadamard along axis 0) need a multiple of it in
 * float64: at worst they go one at a time, whatever the limit. */
void syl_materialize_memory(syl_materializer *materializer, int64_t bytes);

int64_t syl_materialize_bytes(const syl_materializer *materializer); /* of all tensors, as stored */

typedef struct syl_materialize_stats {
    int64_t tensors, reused; /* in all, and taken from the store */
} syl_materialize_stats;
syl_materialize_stats syl_materialize_counts(const syl_materializer *materializer); /* after run */

/* What run will take, without doing it. */
typedef struct syl_materialize_forecast {
    int64_t tensors, reused; /* in all, and what the store has */
    int64_t bytes;           /* stored, of all tensors */
    int64_t new_bytes;       /* of those that are computed */
    int64_t memory;          /* of blocks in flight, at the worst moment */
    double seconds;          /* by the rate of a few blocks, measured */
} syl_materialize_forecast;
SYL_NODISCARD syl_status syl_materialize_estimate(syl_materializer *materializer, syl_pool *pool,
                                                  syl_materialize_forecast *out);

/* Takes bytes of a part of a tensor (syl_stored: elements or codes, f32 scales, parameters of groups). Called from several threads, in
 * any order. */
typedef syl_status (*syl_materialize_sink)(void *user, const char *name, int part, size_t offset,
                                           const void *data, size_t size);
/* Elements done and in all; called by one thread at a time, with rising numbers. */
typedef void (*syl_materialize_progress)(void *user, int64_t done, int64_t total);

/* Evaluates everything, in blocks of rows over all threads. The bytes do not depend on the number of threads.
 * Memory: a few blocks (about 256 Ki elements each, or one tensor where a transform mixes all its rows) a
 * thread, within the limit of syl_materialize_memory; what was read of the sources is dropped. Errors: materialize-value where a weight is NaN or infinite or too large for its type, those of
 * reading the weights and of the sink. */
SYL_NODISCARD syl_status syl_materialize_run(syl_materializer *materializer, syl_pool *pool,
                                             syl_materialize_sink sink, void *sink_user,
                                             syl_materialize_progress progress, void *progress_user);

#endif
