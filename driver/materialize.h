/* Materialize: where weight-side expressions become stored tensors. Passes only ever rewrote the graph; here,
 * once, numbers are computed: each expression in float64 from the checkpoint's values, rounded once by the
 * cast or quantize at its root. */
#ifndef SYL_DRIVER_MATERIALIZE_H
#define SYL_DRIVER_MATERIALIZE_H

#include "base/threads.h"
#include "frontend/frontend.h"

typedef struct syl_materializer syl_materializer;

/* Finds the roots (cast and quantize of real values), replaces each by `materialized {name}` and erases the
 * weight side, so that the module is final, as the artifact stores it; opens the source files. Names are
 * those of the weights below the root, joined by '+'. Errors: materialize-real where a real value reaches
 * another op, materialize-name, and those of opening the files. */
SYL_NODISCARD syl_status syl_materialize_begin(syl_module *module, syl_diag *diag, syl_materializer **out);
void syl_materialize_end(syl_materializer *materializer); /* NULL is fine */

/* Takes bytes of part 0 (elements or codes) or 1 (f32 scales) of a tensor. Called from several threads, in
 * any order. */
typedef syl_status (*syl_materialize_sink)(void *user, const char *name, int part, size_t offset,
                                           const void *data, size_t size);
/* Elements done and in all; called by one thread at a time, with rising numbers. */
typedef void (*syl_materialize_progress)(void *user, int64_t done, int64_t total);

/* Evaluates everything, in blocks of rows over all threads. The bytes do not depend on the number of threads.
 * Memory: a few blocks (about 256 Ki elements each, or one tensor where a transform mixes all its rows) a
 * thread. Errors: materialize-value where a weight is NaN or infinite or too large for its type, those of
 * reading the weights and of the sink. */
SYL_NODISCARD syl_status syl_materialize_run(syl_materializer *materializer, syl_pool *pool,
                                             syl_materialize_sink sink, void *sink_user,
                                             syl_materialize_progress progress, void *progress_user);

#endif
