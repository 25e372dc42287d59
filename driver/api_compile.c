/* The public API: compiling, passes, and the texts of stages. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "driver/api.h"
#include "driver/compile.h"

/* ---- passes, as they run ---- */

static void after_pass(void *user, int index, const char *pass, const syl_module *module,
                       const syl_pass_stat *stats, size_t n_stats, double seconds) {
    const syl_compile_settings *settings = user;
    syl_arena arena;
    syl_arena_init(&arena);
    syl_pass_counter *counters = SYL_NEW_ARRAY(&arena, syl_pass_counter, n_stats);
    for (size_t i = 0; i < n_stats; i++) counters[i] = (syl_pass_counter){stats[i].name, stats[i].value};
    syl_pass_event event = {sizeof event, index, pass, seconds, counters, n_stats, module};
    settings->after_pass(settings->after_pass_user, &event);
    syl_arena_free(&arena);
}

syl_status syl_pass_event_ir(const syl_pass_event *event, char **text, size_t *size) {
    if (text) *text = NULL;
    if (!text || !event || !event->module) return SYL_USAGE;
    syl_arena arena;
    syl_arena_init(&arena);
    syl_text out = {.arena = &arena};
    syl_module_print(event->module, &out);
    *text = malloc(out.n + 1);
    if (*text) memcpy(*text, out.p ? out.p : "", out.n + 1);
    if (size) *size = out.n;
    syl_arena_free(&arena);
    return *text ? SYL_OK : SYL_MEMORY;
}

static syl_pass_options pass_options(const syl_compile_settings *settings) {
    return (syl_pass_options){.after = settings->after_pass ? after_pass : NULL,
                              .user = (void *)settings,
                              .reproducer = settings->reproducer};
}

static syl_compile_options compile_options(const syl_compile_settings *settings) {
    return (syl_compile_options){.recipe = settings->recipe,
                                 .pipeline = settings->passes,
                                 .kv = settings->kv,
                                 .passes = pass_options(settings),
                                 .memory = settings->memory,
                                 .dump_dir = settings->dump_dir,
                                 .progress = settings->progress,
                                 .user = settings->progress_user};
}

/* ---- checkpoint or graph to artifact ---- */

/* Finished tensors go to the caller's folder, or to "tensors" in the cache. */
static syl_status find_work_dir(api_call *call, const char *asked, const char **out) {
    *out = asked && *asked ? asked : NULL;
    if (asked) return SYL_OK;
    const char *cache;
    SYL_TRY(api_cache(call, &cache));
    if (cache) *out = syl_arena_printf(&call->arena, "%s/tensors", cache);
    return SYL_OK;
}

/* What compiling and forecasting share: checks, threads and options. `settings` must outlive `options`. */
static syl_status prepare(api_call *call, const char *name, const char *in, const syl_compile_settings *given,
                          syl_compile_settings *settings, syl_compile_options *options, syl_pool **pool) {
    if (!in) return api_bad(call, name, "in is NULL");
    if (!api_take(settings, sizeof *settings, given))
        return api_bad(call, name, "settings is NULL, has no size, or asks for what this version lacks");
    if (!settings->recipe == !settings->passes)
        return api_bad(call, name, "give a recipe or passes, and not both");
    if (settings->memory < 0) return api_bad(call, name, "memory is below 0");
    *options = compile_options(settings);
    options->dump_cpu = call->instance->cpu;
    SYL_TRY(find_work_dir(call, settings->work_dir, &options->work_dir));
    return api_pool(call, pool);
}

static syl_status compile_file(api_call *call, const char *in, const char *out,
                               const syl_compile_settings *given, syl_compile_result *result) {
    static const char name[] = "syl_compile_file";
    syl_compile_settings settings;
    syl_compile_options options;
    syl_pool *pool;
    syl_compile_stats stats;
    if (!out) return api_bad(call, name, "out is NULL");
    if (result && !api_fits(result)) return api_bad(call, name, "result has no size");
    SYL_TRY(prepare(call, name, in, given, &settings, &options, &pool));
    SYL_TRY(syl_compile(in, out, &options, pool, call->diag, &stats));
    if (result) {
        syl_compile_result r = {.open_s = stats.open_s,
                                .passes_s = stats.passes_s,
                                .materialize_s = stats.materialize_s,
                                .write_s = stats.write_s,
                                .tensors = stats.tensors,
                                .elements = stats.elements,
                                .reused = stats.reused};
        api_give(result, &r, sizeof r);
    }
    return SYL_OK;
}

syl_status syl_compile_file(syl_instance *instance, const char *in, const char *out,
                            const syl_compile_settings *settings, syl_compile_result *result) {
    api_call call;
    SYL_TRY(api_begin(&call, instance));
    return api_end(&call, compile_file(&call, in, out, settings, result));
}

static syl_status forecast_file(api_call *call, const char *in, const char *out,
                                const syl_compile_settings *given, syl_forecast *forecast) {
    static const char name[] = "syl_compile_forecast_file";
    syl_compile_settings settings;
    syl_compile_options options;
    syl_pool *pool;
    syl_compile_forecast f;
    if (!api_fits(forecast)) return api_bad(call, name, "forecast is NULL or has no size");
    SYL_TRY(prepare(call, name, in, given, &settings, &options, &pool));
    SYL_TRY(syl_compile_estimate(in, out, &options, pool, call->diag, &f));
    syl_forecast own = {.tensors = f.tensors,
                        .reused = f.reused,
                        .bytes = f.bytes,
                        .work_bytes = f.work_bytes,
                        .memory = f.memory,
                        .seconds = f.seconds,
                        .disk_free = f.disk_free};
    api_give(forecast, &own, sizeof own);
    return SYL_OK;
}

syl_status syl_compile_forecast_file(syl_instance *instance, const char *in, const char *out,
                                     const syl_compile_settings *settings, syl_forecast *forecast) {
    api_call call;
    SYL_TRY(api_begin(&call, instance));
    return api_end(&call, forecast_file(&call, in, out, settings, forecast));
}

/* ---- IR ---- */

static syl_status print_module(const api_call *call, const syl_module *module, char **text, size_t *size) {
    syl_text out = {.arena = (syl_arena *)&call->arena};
    syl_module_print(module, &out);
    return api_text(call, out.p, out.n, text, size);
}

static syl_status compile_ir(api_call *call, const char *in, const syl_compile_settings *given, char **text,
                             size_t *size) {
    static const char name[] = "syl_compile_ir";
    syl_compile_settings settings = {0};
    syl_model model;
    if (!in || !text) return api_bad(call, name, "in or text is NULL");
    if (given && !api_take(&settings, sizeof settings, given))
        return api_bad(call, name, "settings has no size, or asks for what this version lacks");
    if (settings.recipe && settings.passes)
        return api_bad(call, name, "give a recipe or passes, and not both");
    syl_compile_options options = compile_options(&settings);
    if (settings.recipe || settings.passes) {
        SYL_TRY(syl_compile_front(in, &options, call->diag, &model));
    } else {
        SYL_TRY(syl_model_open(in, call->diag, &model));
    }
    syl_status status = print_module(call, model.module, text, size);
    syl_model_close(&model);
    return status;
}

syl_status syl_compile_ir(syl_instance *instance, const char *in, const syl_compile_settings *settings,
                          char **text, size_t *size) {
    api_call call;
    if (text) *text = NULL;
    SYL_TRY(api_begin(&call, instance));
    return api_end(&call, compile_ir(&call, in, settings, text, size));
}

static syl_status optimize_ir(api_call *call, const syl_source *source, const syl_compile_settings *given,
                              const char *passes_name, char **text, size_t *size) {
    static const char name[] = "syl_optimize_ir";
    syl_compile_settings settings;
    syl_module *module;
    syl_pipeline *pipeline;
    if (!source->name || !source->text || !text) return api_bad(call, name, "name, ir or text is NULL");
    if (!api_take(&settings, sizeof settings, given) || !settings.passes || settings.recipe)
        return api_bad(call, name, "settings must give passes, no recipe, and nothing this version lacks");
    SYL_TRY(syl_module_parse(source, call->diag, &module));
    syl_source passes = {passes_name ? passes_name : "passes", settings.passes, strlen(settings.passes)};
    syl_pass_options options = pass_options(&settings);
    syl_status status = syl_pipeline_parse(&call->arena, &passes, call->diag, &pipeline);
    if (status == SYL_OK) status = syl_pipeline_run(pipeline, module, call->diag, &options);
    if (status == SYL_OK) status = print_module(call, module, text, size);
    syl_module_destroy(module);
    return status;
}

syl_status syl_optimize_ir(syl_instance *instance, const char *name, const char *ir, size_t ir_size,
                           const syl_compile_settings *settings, const char *passes_name, char **text,
                           size_t *size) {
    api_call call;
    if (text) *text = NULL;
    SYL_TRY(api_begin(&call, instance));
    syl_source source = {name, ir, ir_size};
    return api_end(&call, optimize_ir(&call, &source, settings, passes_name, text, size));
}

/* ---- graphs ---- */

syl_status syl_import_file(syl_instance *instance, const char *in, const char *graph_path, char **json,
                           size_t *size) {
    api_call call;
    if (json) *json = NULL;
    SYL_TRY(api_begin(&call, instance));
    if (!in || !json) return api_end(&call, api_bad(&call, __func__, "in or json is NULL"));
    syl_text out = {.arena = &call.arena};
    syl_status status;
    if (graph_path && syl_file_same(in, graph_path)) {
        status = syl_error(call.diag, SYL_ERR_compile_output, SYL_NOWHERE,
                           "the output \"%s\" is the checkpoint itself", graph_path);
    } else {
        status = syl_import_checkpoint(in, graph_path, call.diag, &out);
    }
    if (status == SYL_OK) status = api_text(&call, out.p, out.n, json, size);
    return api_end(&call, status);
}

/* ---- lists ---- */

static syl_status list_recipes(api_call *call, syl_text *out) {
    for (const char *const *name = syl_recipe_names(); *name; name++) {
        syl_recipe recipe;
        SYL_TRY(syl_recipe_load(&call->arena, *name, call->diag, &recipe));
        syl_text_printf(out, "%s\n    %s\n", recipe.name, recipe.description);
    }
    return SYL_OK;
}

static syl_status list(api_call *call, syl_list what, syl_text *out) {
    switch (what) {
    case SYL_LIST_PASSES:
#define PASS(ident, name, defaults, doc)                                                                     \
    syl_text_printf(out, "%s%s%s%s\n    %s\n", name, *(defaults) ? " {" : "", defaults,                      \
                    *(defaults) ? "}" : "", doc);
#include "passes/passes.def"
        return SYL_OK;
    case SYL_LIST_OPS:
        for (int i = 0; i < SYL_OP_COUNT; i++) {
            const syl_op_info *op = &syl_ops[i];
            syl_text_printf(out, "%s%s%s%s\n    %s\n", op->name, *op->attrs ? " {" : "", op->attrs,
                            *op->attrs ? "}" : "", op->doc);
        }
        return SYL_OK;
    case SYL_LIST_RECIPES:
        return list_recipes(call, out);
    }
    return api_bad(call, "syl_list_text", "there is no such list");
}

syl_status syl_list_text(syl_instance *instance, syl_list what, char **text, size_t *size) {
    api_call call;
    if (text) *text = NULL;
    SYL_TRY(api_begin(&call, instance));
    if (!text) return api_end(&call, api_bad(&call, __func__, "text is NULL"));
    syl_text out = {.arena = &call.arena};
    syl_status status = list(&call, what, &out);
    if (status == SYL_OK) status = api_text(&call, out.p, out.n, text, size);
    return api_end(&call, status);
}
