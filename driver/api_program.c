/* The public API: loading artifacts, and what they take and give. */
#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "driver/api.h"
#include "passes/pass.h"

/* The folding passes of the pipeline in the provenance; NULL where it names none. */
static syl_status find_folds(const api_call *call, syl_program *program) {
    const char *provenance = program->engine->artifact.provenance;
    syl_source source = {"provenance", provenance, strlen(provenance)};
    syl_json json = {0};
    syl_arena arena;
    SYL_TRY(syl_json_parse(&source, call->diag, &json)); /* was checked when the artifact was opened */
    const cJSON *pipeline = cJSON_GetObjectItemCaseSensitive(json.root, "pipeline");
    syl_arena_init(&arena);
    syl_text text = {.arena = &arena};
    syl_text_append(&text, "", 0);
    if (cJSON_IsString(pipeline)) {
        syl_pipeline_folds(pipeline->valuestring, &text);
        program->folds = strdup(text.p);
    }
    bool lost = cJSON_IsString(pipeline) && !program->folds;
    syl_arena_free(&arena);
    syl_json_free(&json);
    return lost ? syl_error(call->diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory to load \"%s\"",
                            program->path)
                : SYL_OK;
}

static void report_progress(void *user, int done, int total) {
    const syl_instance *instance = user;
    instance->progress(instance->user, "compiling kernels", done, total);
}

static syl_status load(api_call *call, const char *path, syl_program **out) {
    syl_engine_options options = {.cpu = call->instance->cpu};
    syl_pool *pool;
    if (!path || !out) return api_bad(call, "syl_program_load", "path or out is NULL");
    if (syl_file_is_artifact(path) == 0) {
        return syl_error(call->diag, SYL_ERR_artifact_format, SYL_NOWHERE,
                         "\"%s\" is no artifact; make one of it: syl compile %s -o model.syl --recipe w8a8",
                         path, path);
    }
    SYL_TRY(api_pool(call, &pool));
    SYL_TRY(api_cache(call, &options.cache_dir));
    options.device = api_device(call);
    if (call->instance->progress) options.progress = report_progress;
    options.progress_user = call->instance;
    syl_program *program = calloc(1, sizeof *program);
    if (program) program->path = strdup(path);
    if (!program || !program->path) {
        syl_program_destroy(program);
        return syl_error(call->diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory to load \"%s\"", path);
    }
    syl_status status = syl_engine_load(path, &options, pool, call->diag, &program->engine);
    if (status == SYL_OK) status = find_folds(call, program);
    if (status != SYL_OK) {
        syl_program_destroy(program);
        return status;
    }
    *out = program;
    return SYL_OK;
}

syl_status syl_program_load(syl_instance *instance, const char *path, syl_program **out) {
    api_call call;
    if (out) *out = NULL;
    SYL_TRY(api_begin(&call, instance));
    return api_end(&call, load(&call, path, out));
}

void syl_program_destroy(syl_program *program) {
    if (!program) return;
    syl_engine_destroy(program->engine);
    free(program->path);
    free(program->folds);
    free(program);
}

syl_status syl_program_describe(const syl_program *program, syl_program_info *out) {
    if (!program || !api_fits(out)) return SYL_USAGE;
    const syl_engine *engine = program->engine;
    const syl_artifact *artifact = &engine->artifact;
    const syl_engine_stats *stats = &engine->stats;
    syl_program_info info = {.path = program->path,
                             .name = artifact->name,
                             .cpu = engine->target,
                             .context_length = artifact->context_length,
                             .vocabulary = engine->is_language_model ? engine->signature.vocab : 0,
                             .token_limit = engine->is_language_model ? engine->signature.id_limit : 0,
                             .has_tokenizer = artifact->tokenizer != NULL,
                             .recipe = artifact->recipe,
                             .provenance = artifact->provenance,
                             .open_s = stats->open_s,
                             .pack_s = stats->pack_s,
                             .compile_s = stats->compile_s,
                             .total_s = stats->total_s,
                             .kernels = stats->kernels,
                             .kernels_compiled = stats->compiled,
                             .kernels_cached = stats->cached,
                             .packed_bytes = stats->packed_bytes,
                             .device = engine->device,
                             .processor = engine->processor,
                             .device_bytes = engine->device_bytes,
                             .weight_bytes = (int64_t)syl_plan_weight_bytes(engine->plan),
                             .position_bytes = (int64_t)syl_plan_position_bytes(engine->plan),
                             .kernels_tuned = stats->tuned,
                             .folds = program->folds,
                             .driver_s = stats->driver_s,
                             .modules_s = stats->modules_s};
    api_give(out, &info, sizeof info);
    return SYL_OK;
}

/* ---- arguments and results of @forward ---- */

/* The artifact's verifier has made sure that there is one. */
static const syl_func *forward_of(const syl_program *program) {
    for (const syl_func *func = program->engine->artifact.module->funcs; func; func = func->next) {
        if (strcmp(func->name, "forward") == 0) return func;
    }
    return NULL;
}

size_t syl_program_values(const syl_program *program, syl_direction direction) {
    const syl_func *func = program ? forward_of(program) : NULL;
    if (!func) return 0;
    return (size_t)(direction == SYL_DIRECTION_IN    ? func->n_args
                    : direction == SYL_DIRECTION_OUT ? func->n_results
                                                     : 0);
}

_Static_assert((int)SYL_MAX_DIMS >= (int)SYL_MAX_RANK, "every type of the IR can be described");

syl_status syl_program_value(const syl_program *program, syl_direction direction, size_t index,
                             syl_value_info *out) {
    if (!api_fits(out) || index >= syl_program_values(program, direction)) return SYL_USAGE;
    const syl_func *func = forward_of(program);
    const syl_value *value =
        direction == SYL_DIRECTION_IN ? &func->args[index] : syl_operand(func->body->last, (int)index);
    const syl_type *type = &value->type;
    syl_value_info info = {.name = value->name ? value->name : "",
                           .element = syl_dtypes[type->dtype].name,
                           .is_cache = type->kind == SYL_KV,
                           .rank = type->rank};
    for (int i = 0; i < type->rank; i++) {
        info.dims[i] = type->dims[i].symbol ? -1 : type->dims[i].size;
        info.symbols[i] = type->dims[i].symbol;
    }
    api_give(out, &info, sizeof info);
    return SYL_OK;
}
