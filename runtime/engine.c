/* Loading engines (engine.h): the artifact, what @forward is, and the backend that makes the rest. */
#include "runtime/backend.h"

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

/* ---- weights ---- */

/* Bytes of a stored weight; artifact_open has checked the tensor's size, plan and IR agree on it. */
static bool stored_size(const syl_plan_weight *weight, size_t *out) {
    static const size_t sizes[] = {
        [KIR_F32] = 4, [KIR_F64] = 8, [KIR_BF16] = 2, [KIR_F16] = 2, [KIR_I8] = 1, [KIR_I32] = 4};
    size_t cells;
    if (!syl_size_mul((size_t)weight->rows, (size_t)weight->cols, &cells)) return false;
    return syl_size_mul(weight->codes.bits ? cells / 2 : cells, sizes[weight->elem], out);
}

/* The parameters of a coded weight's groups; artifact_open has checked the tensors. */
static const void *part_of(const syl_safetensors *file, const syl_plan_weight *weight, int part) {
    char name[512];
    snprintf(name, sizeof name, "%s%s", weight->name, syl_artifact_suffixes[part]);
    const syl_st_tensor *tensor = syl_safetensors_find(file, name);
    return tensor ? syl_safetensors_data(file, tensor) : NULL;
}

static bool find_groups(const syl_safetensors *file, const syl_plan_weight *weight, syl_weight_source *out) {
    if (!weight->codes.group) return true;
    out->scales = part_of(file, weight, 1);
    out->group_scale = part_of(file, weight, 2);
    out->group_zero = part_of(file, weight, 3);
    return out->scales && (!weight->codes.two_level || (out->group_scale && out->group_zero));
}

syl_status syl_engine_source(const syl_engine *engine, const syl_plan_weight *weight, syl_diag *diag,
                             syl_weight_source *out, size_t *size) {
    const syl_safetensors *file = &engine->artifact.file;
    const syl_st_tensor *tensor = syl_safetensors_find(file, weight->name);
    *out = (syl_weight_source){0};
    if (!tensor || !stored_size(weight, size) || *size != tensor->size || !find_groups(file, weight, out)) {
        return syl_error(diag, SYL_ERR_internal, SYL_NOWHERE,
                         "the plan reads tensor \"%s\" otherwise than it is stored", weight->name);
    }
    out->data = syl_safetensors_data(file, tensor);
    return SYL_OK;
}

/* ---- loading ---- */

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

/* The backend of a device's name: what stands in front of ':'. */
static syl_status find_backend(const char *device, syl_diag *diag, const syl_backend **out) {
    static const syl_backend *const backends[] = {&syl_backend_host, &syl_backend_cuda};
    if (!device) device = syl_backend_host.name;
    size_t n = strcspn(device, ":");
    for (size_t i = 0; i < sizeof backends / sizeof *backends; i++) {
        if (strlen(backends[i]->name) != n || strncmp(backends[i]->name, device, n) != 0) continue;
        *out = backends[i];
        return SYL_OK;
    }
    return syl_error(diag, SYL_ERR_device_unknown, SYL_NOWHERE,
                     "the device is \"%s\", expected cpu, cuda or cuda:N", device);
}

static syl_status load(syl_engine *engine, const char *path, const syl_engine_options *options,
                       syl_pool *pool, syl_diag *diag) {
    syl_engine_stats *stats = &engine->stats;
    double start = seconds_now();
    const syl_backend *backend;
    SYL_TRY(find_backend(options->device, diag, &backend));
    SYL_TRY(syl_artifact_open(path, diag, &engine->artifact));
    SYL_TRY(find_signature(engine, diag));
    stats->open_s = seconds_now() - start;
    engine->backend = backend;
    SYL_TRY(backend->load(engine, options, pool, diag));
    stats->kernels = (int)engine->plan->kernels.n;
    stats->total_s = seconds_now() - start;
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
    if (engine->backend) engine->backend->unload(engine);
    syl_plan_destroy(engine->plan);
    syl_artifact_close(&engine->artifact);
    free(engine);
}

void syl_engine_rows(const syl_engine *engine, int64_t tokens, int64_t rows, int64_t out[2]) {
    const char *const *symbols = engine->plan->symbols;
    for (int s = 0; s < 2; s++) out[s] = symbols[s] && strcmp(symbols[s], "R") == 0 ? rows : tokens;
}

int syl_engine_inputs(const syl_engine *engine) {
    return syl_module_func(engine->artifact.module, "forward")->n_args;
}

int syl_engine_outputs(const syl_engine *engine) {
    return syl_module_func(engine->artifact.module, "forward")->n_results;
}
