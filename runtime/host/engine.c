/* Loading on the host: plan, pack weights in parallel, compile. */
#include "runtime/host/engine.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/size.h"

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct pack_job {
    const syl_plan_weight *weight;
    syl_weight_source source;
    void *packed;
} pack_job;

static void pack_range(void *user, int64_t begin, int64_t end, int thread) {
    (void)thread;
    const pack_job *job = user;
    syl_host_pack(job->weight, &job->source, job->packed, begin, end);
}

/* The weight as it lies in the mapping, if slack behind it does too. */
static const void *in_mapping(const syl_engine *engine, const void *data, size_t size) {
    const syl_mapping *mapping = &engine->artifact.file.mapping;
    size_t behind = mapping->size - (size_t)((const unsigned char *)data - mapping->data) - size;
    return behind >= SYL_READ_SLACK ? data : NULL;
}

static syl_status prepare_weight(syl_engine *engine, size_t i, syl_pool *pool, syl_diag *diag) {
    syl_host_engine *host = engine->loaded;
    const syl_plan_weight *weight = &engine->plan->weights.p[i];
    syl_weight_source source;
    size_t stored, size, padded;
    SYL_TRY(syl_engine_source(engine, weight, diag, &source, &stored));
    size = stored;
    if (!weight->packed && (host->weights[i] = in_mapping(engine, source.data, stored))) return SYL_OK;
    if (weight->packed && !syl_host_packed_size(weight, &size)) {
        return syl_error(diag, SYL_ERR_size_overflow, SYL_NOWHERE, "tensor \"%s\" is too large to pack",
                         weight->name);
    }
    void *memory = syl_size_add(size, SYL_READ_SLACK, &padded) ? syl_alloc_aligned(padded) : NULL;
    if (!memory)
        return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for tensor \"%s\" (%zu bytes)",
                         weight->name, size);
    host->weights[i] = host->owned[i] = memory;
    memset((char *)memory + size, 0, SYL_READ_SLACK);
    if (!weight->packed) {
        memcpy(memory, source.data, stored);
        return SYL_OK;
    }
    pack_job job = {weight, source, memory};
    syl_pool_for(pool, syl_host_panels(weight), 16, pack_range, &job);
    engine->stats.packed_bytes += size;
    return SYL_OK;
}

static syl_status prepare_weights(syl_engine *engine, syl_pool *pool, syl_diag *diag) {
    syl_host_engine *host = engine->loaded;
    size_t n = engine->plan->weights.n;
    host->weights = calloc(n ? n : 1, sizeof *host->weights);
    host->owned = calloc(n ? n : 1, sizeof *host->owned);
    if (!host->weights || !host->owned)
        return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for the list of weights");
    host->n_weights = n;
    for (size_t i = 0; i < n; i++) SYL_TRY(prepare_weight(engine, i, pool, diag));
    return SYL_OK;
}

syl_status syl_host_load(syl_engine *engine, const syl_engine_options *options, syl_pool *pool,
                         syl_diag *diag) {
    syl_engine_stats *stats = &engine->stats;
    if (options->device && strcmp(options->device, syl_backend_host.name) != 0)
        return syl_error(diag, SYL_ERR_device_unknown, SYL_NOWHERE, "the device is \"%s\", there is one cpu",
                         options->device);
    syl_host_engine *host = engine->loaded = calloc(1, sizeof *host);
    if (!host) return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for an engine");
    double start = seconds_now();
    SYL_TRY(syl_host_target_find(options->cpu ? options->cpu : "host", diag, &host->target));
    SYL_TRY(syl_plan_create(engine->artifact.module, &host->target, diag, &engine->plan));
    double planned = seconds_now();
    SYL_TRY(prepare_weights(engine, pool, diag));
    double packed = seconds_now();
    syl_host_options compile = {.cache_dir = options->cache_dir, .threads = syl_pool_threads(pool)};
    syl_host_stats compiled = {0};
    SYL_TRY(syl_host_compile(engine->plan, &host->target, &compile, diag, &compiled, &host->code));
    stats->open_s += planned - start;
    stats->pack_s = packed - planned;
    stats->compile_s = seconds_now() - packed;
    stats->compiled = compiled.compiled;
    stats->cached = compiled.cached;
    engine->device = syl_backend_host.name;
    engine->target = host->target.cpu;
    return SYL_OK;
}

void syl_host_unload(syl_engine *engine) {
    syl_host_engine *host = engine->loaded;
    if (!host) return;
    syl_host_code_destroy(host->code);
    for (size_t i = 0; i < host->n_weights; i++) free(host->owned[i]);
    free(host->owned);
    free((void *)host->weights);
    free(host);
    engine->loaded = NULL;
}
