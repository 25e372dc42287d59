/* Loading engines (engine.h): open, plan, pack in parallel, compile. */
#include "runtime/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/size.h"

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

enum { READ_SLACK = 64 }; /* kernels may read so many bytes behind a buffer's end */

/* Bytes of a stored (unpacked) weight; artifact_open has checked the tensor's size, plan and IR agree on it.
 */
static bool stored_size(const syl_plan_weight *weight, size_t *out) {
    static const size_t sizes[] = {
        [KIR_F32] = 4, [KIR_F64] = 8, [KIR_BF16] = 2, [KIR_F16] = 2, [KIR_I8] = 1, [KIR_I32] = 4};
    size_t cells;
    if (!syl_size_mul((size_t)weight->rows, (size_t)weight->cols, &cells)) return false;
    return syl_size_mul(weight->codes.bits ? cells / 2 : cells, sizes[weight->elem], out);
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

/* The parameters of a coded weight's groups; artifact_open has checked the tensors. */
static const void *part_of(const syl_safetensors *file, const syl_plan_weight *weight, int part) {
    char name[512];
    snprintf(name, sizeof name, "%s%s", weight->name, syl_artifact_suffixes[part]);
    const syl_st_tensor *tensor = syl_safetensors_find(file, name);
    return tensor ? syl_safetensors_data(file, tensor) : NULL;
}

static bool find_source(const syl_safetensors *file, const syl_plan_weight *weight, syl_weight_source *out) {
    if (!weight->codes.group) return true;
    out->scales = part_of(file, weight, 1);
    out->group_scale = part_of(file, weight, 2);
    out->group_zero = part_of(file, weight, 3);
    return out->scales && (!weight->codes.two_level || (out->group_scale && out->group_zero));
}

static syl_status prepare_weight(syl_engine *engine, size_t i, syl_pool *pool, syl_diag *diag) {
    const syl_plan_weight *weight = &engine->plan->weights.p[i];
    const syl_safetensors *file = &engine->artifact.file;
    const syl_st_tensor *tensor = syl_safetensors_find(file, weight->name);
    size_t stored, size;
    syl_weight_source parts = {0};
    if (!tensor || !stored_size(weight, &stored) || stored != tensor->size ||
        !find_source(file, weight, &parts)) {
        return syl_error(diag, SYL_ERR_internal, SYL_NOWHERE,
                         "the plan reads tensor \"%s\" otherwise than it is stored", weight->name);
    }
    const void *source = parts.data = syl_safetensors_data(file, tensor);
    if (!weight->packed && tensor->offset + tensor->size + READ_SLACK <= file->mapping.size) {
        engine->weights[i] = source; /* as stored; the slack is inside the mapping */
        return SYL_OK;
    }
    if (!weight->packed) {
        size = stored;
    } else if (!syl_host_packed_size(weight, &size)) {
        return syl_error(diag, SYL_ERR_size_overflow, SYL_NOWHERE, "tensor \"%s\" is too large to pack",
                         weight->name);
    }
    size_t padded;
    void *memory = syl_size_add(size, READ_SLACK, &padded) ? syl_alloc_aligned(padded) : NULL;
    if (!memory)
        return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for tensor \"%s\" (%zu bytes)",
                         weight->name, size);
    engine->weights[i] = engine->owned[i] = memory;
    memset((char *)memory + size, 0, READ_SLACK);
    if (!weight->packed) {
        memcpy(memory, source, stored);
        return SYL_OK;
    }
    pack_job job = {weight, parts, memory};
    syl_pool_for(pool, syl_host_panels(weight), 16, pack_range, &job);
    engine->stats.packed_bytes += size;
    return SYL_OK;
}

static syl_status prepare_weights(syl_engine *engine, syl_pool *pool, syl_diag *diag) {
    size_t n = engine->plan->weights.n;
    engine->weights = calloc(n ? n : 1, sizeof *engine->weights);
    engine->owned = calloc(n ? n : 1, sizeof *engine->owned);
    if (!engine->weights || !engine->owned)
        return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for the list of weights");
    for (size_t i = 0; i < n; i++) SYL_TRY(prepare_weight(engine, i, pool, diag));
    return SYL_OK;
}

/* Whether it is a language model is found out without a word: exec.h says why it isn't one when it is asked for. */
static syl_status find_signature(syl_engine *engine, syl_diag *diag) {
    const syl_module *module = engine->artifact.module;
    if (!syl_module_func(module, "forward")) return syl_signature_find(module, diag, &engine->signature);
    syl_diag *quiet = syl_diag_create(NULL, NULL);
    if (!quiet) return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for messages");
    engine->is_language_model = syl_signature_find(module, quiet, &engine->signature) == SYL_OK;
    syl_diag_destroy(quiet);
    return SYL_OK;
}

static syl_status load(syl_engine *engine, const char *path, const syl_engine_options *options,
                       syl_pool *pool, syl_diag *diag) {
    syl_engine_stats *stats = &engine->stats;
    double start = seconds_now();
    SYL_TRY(syl_artifact_open(path, diag, &engine->artifact));
    SYL_TRY(find_signature(engine, diag));
    SYL_TRY(syl_host_target_find(options->cpu ? options->cpu : "host", diag, &engine->target));
    SYL_TRY(syl_plan_create(engine->artifact.module, &engine->target, diag, &engine->plan));
    double opened = seconds_now();
    SYL_TRY(prepare_weights(engine, pool, diag));
    double packed = seconds_now();
    syl_host_options host = {.cache_dir = options->cache_dir, .threads = syl_pool_threads(pool)};
    syl_host_stats compiled = {0};
    SYL_TRY(syl_host_compile(engine->plan, &engine->target, &host, diag, &compiled, &engine->code));
    double done = seconds_now();
    stats->open_s = opened - start;
    stats->pack_s = packed - opened;
    stats->compile_s = done - packed;
    stats->total_s = done - start;
    stats->kernels = (int)engine->plan->kernels.n;
    stats->compiled = compiled.compiled;
    stats->cached = compiled.cached;
    return SYL_OK;
}

syl_status syl_engine_load(const char *path, const syl_engine_options *options, syl_pool *pool,
                           syl_diag *diag, syl_engine **out) {
    *out = NULL;
    syl_engine *engine = calloc(1, sizeof *engine);
    if (!engine) return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory to load \"%s\"", path);
    syl_status status = load(engine, path, options, pool, diag);
    if (status != SYL_OK) {
        syl_engine_destroy(engine);
        return status;
    }
    *out = engine;
    return SYL_OK;
}

void syl_engine_destroy(syl_engine *engine) {
    if (!engine) return;
    syl_host_code_destroy(engine->code);
    for (size_t i = 0; engine->owned && i < engine->plan->weights.n; i++) free(engine->owned[i]);
    free(engine->owned);
    free((void *)engine->weights);
    syl_plan_destroy(engine->plan);
    syl_artifact_close(&engine->artifact);
    free(engine);
}
