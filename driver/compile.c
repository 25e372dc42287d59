/* Compiling (compile.h). */
#include "driver/compile.h"

#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/hash.h"
#include "base/json.h"
#include "driver/cache.h"
#include "driver/compile_dump.h"
#include "driver/machine.h"
#include "driver/materialize.h"
#include "runtime/artifact.h"

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- passes ---- */

/* A pipeline given by itself becomes a recipe without a name. */
static syl_status load_recipe(syl_arena *arena, const syl_compile_options *options, syl_diag *diag,
                              syl_recipe *out) {
    if (!options->pipeline) return syl_recipe_load(arena, options->recipe, diag, out);
    syl_text text = {.arena = arena};
    syl_text_printf(&text, "{\"name\": \"custom\", \"description\": \"\", \"pipeline\": ");
    syl_json_quote(&text, options->pipeline);
    syl_text_printf(&text, "}");
    *out = (syl_recipe){.name = "custom", .description = "", .pipeline = options->pipeline, .text = text.p};
    return SYL_OK;
}

static syl_status find_recipe(syl_arena *arena, const syl_compile_options *options, syl_diag *diag,
                              syl_recipe *out) {
    SYL_TRY(load_recipe(arena, options, diag, out));
    return options->kv ? syl_recipe_quantize_kv(arena, options->kv, diag, out) : SYL_OK;
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

/* A file by its name and content; a folder by its name, its files stand among the sources. */
static syl_status describe_file(const char *path, syl_diag *diag, syl_text *out) {
    struct stat info;
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
        size_t n = strlen(path);
        while (n > 1 && path[n - 1] == '/') n--;
        const char *folder = syl_arena_strndup(out->arena, path, n);
        syl_text_printf(out, "{\"folder\": ");
        syl_json_quote(out, file_name(folder));
        syl_text_printf(out, "}");
        return SYL_OK;
    }
    syl_mapping mapping = {0};
    SYL_TRY(syl_file_map(path, diag, &mapping));
    syl_text_printf(out, "{\"file\": ");
    syl_json_quote(out, file_name(path));
    syl_text_printf(out, ", \"bytes\": %zu, \"xxh3_128\": \"%s\"}", mapping.size,
                    syl_hash_mapped(mapping.data, mapping.size).hex);
    syl_file_unmap(&mapping);
    return SYL_OK;
}

/* What the artifact was made of and by: no dates and no folders, so that equal inputs give equal bytes. */
static syl_status write_provenance(const char *in, const char *const *sources, size_t n_sources,
                                   const syl_recipe *recipe, syl_diag *diag, syl_text *out) {
    syl_text input = {.arena = out->arena};
    syl_text_printf(out, "{\"tool\": \"sylvester " SYL_VERSION "\", ");
    if (in) {
        SYL_TRY(describe_file(in, diag, &input));
        syl_text_printf(out, "\"input\": %s, ", input.p);
    }
    syl_text_printf(out, "\"sources\": [");
    for (size_t i = 0; i < n_sources; i++) {
        if (i) syl_text_printf(out, ", ");
        if (in && strcmp(file_name(in), file_name(sources[i])) == 0 && syl_file_same(in, sources[i])) {
            syl_text_append(out, input.p, input.n); /* a large file is read once */
        } else {
            SYL_TRY(describe_file(sources[i], diag, out));
        }
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

static syl_status write_artifact(const char *out, const syl_compile_options *options,
                                 const syl_recipe *recipe, const syl_model *model,
                                 syl_materializer *materializer, const char *provenance, syl_pool *pool,
                                 syl_diag *diag, syl_compile_stats *stats) {
    double start = seconds_now();
    syl_artifact_info info = {.name = model->module->name,
                              .context_length = model->context_length,
                              .recipe = recipe->text,
                              .provenance = provenance,
                              .tokenizer = model->tokenizer};
    syl_artifact_writer *writer = NULL;
    syl_status status = syl_artifact_begin(out, model->module, &info, diag, &writer);
    if (status == SYL_OK)
        status = syl_materialize_run(materializer, pool, sink, writer, options->progress, options->user);
    stats->reused += syl_materialize_counts(materializer).reused;
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

/* ---- disk and the work folder ---- */

/* What a killed compile of the same output left beside it. */
static void sweep_beside(syl_arena *arena, const char *out) {
    const char *name = file_name(out);
    const char *folder = name == out ? "." : syl_arena_strndup(arena, out, (size_t)(name - out));
    syl_output_sweep(folder, name);
}

/* Refuses to begin where the artifact has no room. Where only what is kept on the side has none, nothing is. */
static syl_status check_disk(const char *out, int64_t bytes, syl_store *store, const char *work_dir,
                             syl_diag *diag) {
    int64_t out_free, work_free;
    uint64_t out_disk, work_disk;
    if (!syl_machine_disk(out, &out_free, &out_disk)) return SYL_OK;
    if (bytes > out_free) {
        return syl_error(diag, SYL_ERR_compile_disk, SYL_NOWHERE,
                         "\"%s\" takes %.1f MB, and the disk has %.1f MB free", out, 1e-6 * (double)bytes,
                         1e-6 * (double)out_free);
    }
    if (!store || !syl_machine_disk(work_dir, &work_free, &work_disk)) return SYL_OK;
    if (work_free / 2 > bytes || (work_disk != out_disk && work_free > bytes)) return SYL_OK;
    syl_warning(
        diag, SYL_NOWHERE,
        "the disk of \"%s\" has %.1f MB free: finished tensors are not kept, so that an interrupted compile "
        "would begin anew",
        work_dir, 1e-6 * (double)work_free);
    syl_store_read_only(store);
    return SYL_OK;
}

/* The module becomes final; then everything is checked before the first tensor is computed. */
static syl_status materialize(syl_arena *arena, const char *in, const char *out,
                              const syl_compile_options *options, const syl_recipe *recipe,
                              const syl_model *model, syl_store *store, compile_dump *dump, syl_pool *pool,
                              syl_diag *diag, syl_compile_stats *stats) {
    syl_text provenance = {.arena = arena};
    syl_materializer *materializer;
    const char **sources = model->module->sources.p;
    size_t n_sources = model->module->sources.n;
    SYL_TRY(syl_materialize_begin(model->module, diag, &materializer));
    syl_materialize_keep(materializer, store);
    syl_materialize_memory(materializer, options->memory);
    syl_status status = syl_module_verify(model->module, diag);
    if (status == SYL_OK) status = dump_end(dump, model->module);
    if (status == SYL_OK) {
        status = check_disk(out, syl_materialize_bytes(materializer), store, options->work_dir, diag);
    }
    if (status == SYL_OK) status = write_provenance(in, sources, n_sources, recipe, diag, &provenance);
    if (status == SYL_OK) {
        status = write_artifact(out, options, recipe, model, materializer, provenance.p, pool, diag, stats);
    }
    syl_materialize_end(materializer);
    return status;
}

/* Opens the work folder, if there is to be one, for the time of the materializing. */
static syl_status with_store(syl_arena *arena, const char *in, const char *out,
                             const syl_compile_options *options, const syl_recipe *recipe,
                             const syl_model *model, compile_dump *dump, syl_pool *pool, syl_diag *diag,
                             syl_compile_stats *stats) {
    syl_store *store = NULL;
    if (options->work_dir) SYL_TRY(syl_store_open(options->work_dir, diag, &store));
    syl_status status = materialize(arena, in, out, options, recipe, model, store, dump, pool, diag, stats);
    syl_store_close(store);
    if (status == SYL_OK && options->work_dir)
        status = syl_cache_trim(options->work_dir, SYL_WORK_BYTES, diag, NULL);
    return status;
}

syl_status syl_compile_model(syl_model *model, const char *in, const char *out,
                             const syl_compile_options *options, syl_pool *pool, syl_diag *diag,
                             syl_compile_stats *stats) {
    syl_arena arena;
    syl_recipe recipe;
    syl_arena_init(&arena);
    compile_dump dump = {
        .folder = options->dump_dir, .cpu = options->dump_cpu, .passes = &options->passes, .diag = diag};
    syl_status status = check_output(in, out, model->module, diag);
    if (status == SYL_OK) status = find_recipe(&arena, options, diag, &recipe);
    double start = seconds_now();
    if (status == SYL_OK) {
        sweep_beside(&arena, out);
        dump_begin(&dump, in, model->module);
        syl_compile_options dumping = *options;
        dumping.passes = dump_passes(&dump);
        status = run_passes(&arena, &dumping, &recipe, model->module, diag);
    }
    stats->passes_s = seconds_now() - start;
    if (status == SYL_OK)
        status = with_store(&arena, in, out, options, &recipe, model, &dump, pool, diag, stats);
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

/* ---- the forecast ---- */

/* Seconds to read the sources twice (their hashes, then their values), at the rate of hashing a part of one. */
static syl_status reading_seconds(const syl_module *module, syl_diag *diag, double *seconds) {
    enum { sample = 64 << 20 };
    double rate = 0, bytes = 0;
    for (size_t i = 0; i < module->sources.n; i++) {
        syl_mapping file;
        SYL_TRY(syl_file_map(module->sources.p[i], diag, &file));
        size_t part = file.size < sample ? file.size : sample;
        double start = seconds_now();
        if (rate == 0 && part) {
            (void)syl_hash_mapped(file.data, part);
            rate = (double)part / (seconds_now() - start + 1e-9);
        }
        bytes += (double)file.size;
        syl_file_unmap(&file);
    }
    *seconds = rate > 0 ? 2 * bytes / rate : 0;
    return SYL_OK;
}

static syl_status estimate(syl_model *model, const syl_compile_options *options, syl_store *store,
                           syl_pool *pool, syl_diag *diag, syl_compile_forecast *out) {
    syl_materializer *materializer;
    syl_materialize_forecast work;
    double reading = 0;
    SYL_TRY(reading_seconds(model->module, diag, &reading));
    SYL_TRY(syl_materialize_begin(model->module, diag, &materializer));
    syl_materialize_keep(materializer, store);
    syl_materialize_memory(materializer, options->memory);
    int64_t resident = syl_machine_resident();
    syl_status status = syl_materialize_estimate(materializer, pool, &work);
    syl_materialize_end(materializer);
    if (status != SYL_OK) return status;
    *out = (syl_compile_forecast){.tensors = work.tensors,
                                  .reused = work.reused,
                                  .bytes = work.bytes,
                                  .work_bytes = store ? work.new_bytes : 0,
                                  .memory = resident + work.memory + ((int64_t)syl_pool_threads(pool) << 23),
                                  .seconds = reading + work.seconds,
                                  .disk_free = -1};
    return SYL_OK;
}

syl_status syl_compile_estimate(const char *in, const char *out, const syl_compile_options *options,
                                syl_pool *pool, syl_diag *diag, syl_compile_forecast *forecast) {
    syl_model model;
    syl_store *store = NULL;
    uint64_t disk;
    SYL_TRY(syl_compile_front(in, options, diag, &model));
    syl_status status = options->work_dir ? syl_store_open(options->work_dir, diag, &store) : SYL_OK;
    if (status == SYL_OK) status = estimate(&model, options, store, pool, diag, forecast);
    if (status == SYL_OK && !syl_machine_disk(out ? out : ".", &forecast->disk_free, &disk))
        forecast->disk_free = -1;
    syl_store_close(store);
    syl_model_close(&model);
    return status;
}
