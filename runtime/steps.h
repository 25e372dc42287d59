/* The steps of a plan over buffers: what runs language models (exec.h) and plain functions (function.h) alike.
 *
 * Nothing is checked here: the caller has checked sizes and every index, so the generated code, which checks
 * nothing, stays inside its buffers. Used by one thread at a time; it spreads each step over its pool. */
#ifndef SYL_RUNTIME_STEPS_H
#define SYL_RUNTIME_STEPS_H

#include "runtime/engine.h"
#include "runtime/kv.h"
#include "runtime/observe.h"

enum { SYL_READ_SLACK = 64 }; /* kernels may read so many bytes behind a buffer's end */

typedef struct syl_steps {
    const syl_engine *engine; /* borrowed, as is the pool */
    syl_pool *pool;
    int64_t cap[2];       /* rows of each symbol that the slots are made for */
    unsigned char *arena; /* all slots */
    size_t arena_size;
    size_t *slot_offset;
    unsigned char *scratch; /* `scratch_stride` bytes a thread */
    size_t scratch_stride;
    syl_observer observer; /* the owner's to set; step NULL: none */
} syl_steps;

/* The buffers of one run: by argument and by result of @forward (NULL for a cache). */
typedef struct syl_steps_io {
    int64_t rows[2]; /* of the plan's symbols */
    void *const *inputs, *const *outputs;
    syl_kv *kv;         /* NULL: none */
    const int32_t *pos; /* with kv: position of each row of the first symbol, for sharing out the work */
} syl_steps_io;

SYL_NODISCARD syl_status syl_steps_create(const syl_engine *engine, syl_pool *pool, syl_diag *diag,
                                          syl_steps *out);
void syl_steps_destroy(syl_steps *steps); /* fine on a zeroed one */
/* Makes the slots large enough; what they held is lost if they have to grow. */
SYL_NODISCARD syl_status syl_steps_reserve(syl_steps *steps, const int64_t rows[2], syl_diag *diag);
void syl_steps_run(syl_steps *steps, const syl_steps_io *io);

#endif
