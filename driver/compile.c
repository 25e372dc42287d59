/* Compiling (compile.h). */
#include "driver/compile.h"

#include <string.h>
#include <time.h>

#include "base/hash.h"
#include "base/json.h"
#include "driver/materialize.h"
#include "runtime/artifact.h"

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- passes ---- */

/* A pipeline given by itself becomes a recipe without a name. */
static syl_status find_recipe(syl_arena *arena, const syl_compile_options *options, syl_diag *diag,
                              syl_recipe *out) {
    if (!options->pipeline) return syl_recipe_load(arena, options->recipe, diag, out);
    syl_text text = {.arena = arena};
    syl_text_printf(&text, "{\"name\": \"custom\", \"description\": \"\", \"pipeline\": ");
    syl_json_quote(&text, options->pipeline);
    syl_text_printf(&text, "}");
    *out = (syl_recipe){.name = "custom", .description = "", .pipeline = options->pipeline, .text = text.p};
    return SYL_OK;
}

static syl_status run_passes(syl_arena *arena, const syl_compile_options *options, const syl_recipe *recipe,
                             syl_module *module, syl_diag *diag) {
    syl_source source = {recipe->name, recipe->pipeline, strlen(recipe->pipeline)};
    syl_pipeline *pipeline;
    SYL_TRY(syl_pipeline_parse(arena, &source, diag, &pipeline));
    return syl_pipeline_run(pipeline, module, diag, &options->passes);
}

static syl_status open_model(const char *in, syl_diag *diag, syl_model *model, syl_compile_stats *stats) {
    double start = seconds_now();
    if (syl_artifact_probe(in)) {
        return syl_error(diag, SYL_ERR_compile_input, SYL_NOWHERE,
                         "\"%s\" is an artifact or another safetensors file", in);
    }
    SYL_TRY(syl_model_open(in, diag, model));
    stats->open_s = seconds_now() - start;
    return SYL_OK;
}

syl_status syl_compile_front(const char *in, const syl_compile_options *options, syl_diag *diag,
                             syl_model *model) {
    syl_arena arena;
    syl_recipe recipe;
    syl_compile_stats stats;
    syl_arena_init(&arena);
    syl_status status = find_recipe(&arena, options, diag, &recipe);
    if (status == SYL_OK) status = open_model(in, diag, model, &stats);
    if (status == SYL_OK) {
        status = run_passes(&arena, options, &recipe, model->module, diag);
        if (status != SYL_OK) syl_model_close(model);
    }
    syl_arena_free(&arena);
    return status;
}

/* ---- provenance ---- */

static const char *file_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static syl_status describe_file(const char *path, syl_diag *diag, syl_text *out) {
    syl_mapping mapping = {0};
    SYL_TRY(syl_file_map(path, diag, &mapping));
    syl_text_printf(out, "{\"file\": ");
    syl_json_quote(out, file_name(path));
    syl_text_printf(out, ", \"bytes\": %zu, \"xxh3_128\": \"%s\"}", mapping.size,
                    syl_hash_bytes(mapping.data, mapping.size).hex);
    syl_file_unmap(&mapping);
    return SYL_OK;
}

/* What the artifact was made of and by: no dates and no folders, so that equal inputs give equal bytes. */
static syl_status write_provenance(const char *in, const syl_module *module, const syl_recipe *recipe,
                                   syl_diag *diag, syl_text *out) {
    syl_text_printf(out, "{\"tool\": \"sylvester " SYL_VERSION "\", ");
    if (in) {
        syl_text_printf(out, "\"input\": ");
        SYL_TRY(describe_file(in, diag, out));
        syl_text_printf(out, ", ");
    }
    syl_text_printf(out, "\"sources\": [");
    for (size_t i = 0; i < module->sources.n; i++) {
        if (i) syl_text_printf(out, ", ");
        SYL_TRY(describe_file(module->sources.p[i], diag, out));
    }
    syl_text_printf(out, "], \"pipeline\": ");
    syl_json_quote(out, recipe->pipeline);
    syl_text_printf(out, "}");
    return SYL_OK;
}

/* ---- the road ---- */

static syl_status check_output(const char *in, const char *out, const syl_module *module, syl_diag *diag) {
    const char *clash = in && syl_file_same(in, out) ? in : NULL;
    for (size_t i = 0; i < module->sources.n && !clash; i++) {
        if (syl_file_same(module->sources.p[i], out)) clash = module->sources.p[i];
    }
    if (!clash) return SYL_OK;
    return syl_error(diag, SYL_ERR_compile_output, SYL_NOWHERE,
                     "the output \"%s\" would replace the input \"%s\"", out, clash);
}

static syl_status count_tensor(void *user, const syl_op *op) {
    syl_compile_stats *stats = user;
    int64_t elements = 0;
    if (syl_type_elements(&syl_result(op)->type, &elements)) stats->elements += elements;
    stats->tensors++;
    return SYL_OK;
}

static syl_status sink(void *writer, const char *name, int part, size_t offset, const void *data,
                       size_t size) {
    return syl_artifact_write(writer, name, part, offset, data, size);
}

static syl_status write_artifact(syl_arena *arena, const char *in, const char *out,
                                 const syl_compile_options *options, const syl_recipe *recipe,
                                 const syl_model *model, syl_pool *pool, syl_diag *diag,
                                 syl_compile_stats *stats) {
    syl_text provenance = {.arena = arena};
    SYL_TRY(write_provenance(in, model->module, recipe, diag, &provenance));
    double start = seconds_now();
    syl_materializer *materializer;
    SYL_TRY(syl_materialize_begin(model->module, diag, &materializer));
    syl_artifact_info info = {.name = model->module->name,
                              .context_length = model->context_length,
                              .recipe = recipe->text,
                              .provenance = provenance.p,
                              .tokenizer = model->tokenizer};
    syl_artifact_writer *writer = NULL;
    syl_status status = syl_module_verify(model->module, diag);
    if (status == SYL_OK) status = syl_artifact_begin(out, model->module, &info, diag, &writer);
    if (status == SYL_OK)
        status = syl_materialize_run(materializer, pool, sink, writer, options->progress, options->user);
    syl_materialize_end(materializer);
    double materialized = seconds_now();
    stats->materialize_s = materialized - start;
    if (status != SYL_OK) {
        syl_artifact_discard(writer);
        return status;
    }
    SYL_TRY(syl_artifact_commit(writer));
    stats->write_s = seconds_now() - materialized;
    return syl_artifact_each(model->module, count_tensor, stats);
}

syl_status syl_compile_model(syl_model *model, const char *in, const char *out,
                             const syl_compile_options *options, syl_pool *pool, syl_diag *diag,
                             syl_compile_stats *stats) {
    syl_arena arena;
    syl_recipe recipe;
    syl_arena_init(&arena);
    syl_status status = check_output(in, out, model->module, diag);
    if (status == SYL_OK) status = find_recipe(&arena, options, diag, &recipe);
    double start = seconds_now();
    if (status == SYL_OK) status = run_passes(&arena, options, &recipe, model->module, diag);
    stats->passes_s = seconds_now() - start;
    if (status == SYL_OK) {
        status = write_artifact(&arena, in, out, options, &recipe, model, pool, diag, stats);
    }
    syl_arena_free(&arena);
    return status;
}

syl_status syl_compile(const char *in, const char *out, const syl_compile_options *options, syl_pool *pool,
                       syl_diag *diag, syl_compile_stats *stats) {
    syl_model model;
    *stats = (syl_compile_stats){0};
    SYL_TRY(open_model(in, diag, &model, stats));
    syl_status status = syl_compile_model(&model, in, out, options, pool, diag, stats);
    syl_model_close(&model);
    return status;
}
