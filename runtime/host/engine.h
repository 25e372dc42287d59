/* What the host's backend keeps of an engine: packed weights and code (private to runtime/host). */
#ifndef SYL_RUNTIME_HOST_ENGINE_H
#define SYL_RUNTIME_HOST_ENGINE_H

#include "codegen/host/host.h"
#include "runtime/backend.h"

enum { SYL_READ_SLACK = 64 }; /* kernels may read so many bytes behind a buffer's end */

typedef struct syl_host_engine {
    syl_host_target target;
    syl_host_code *code;
    size_t n_weights;
    const void **weights; /* one for each plan->weights: into the mapping, or owned */
    void **owned;         /* as many; NULL where the mapping is used */
} syl_host_engine;

static inline const syl_host_engine *syl_host_engine_of(const syl_engine *engine) {
    return engine->loaded;
}

syl_status syl_host_load(syl_engine *engine, const syl_engine_options *options, syl_pool *pool,
                         syl_diag *diag);
void syl_host_unload(syl_engine *engine);

#endif
