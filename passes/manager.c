/* Runs pipelines: a module verifies before the first pass and after each one, or the run stops with the pass
 * named and, if asked for, a file that reproduces it: `// pipeline: ...` (the passes from the failing one on)
 * above the IR that it met. */
#include <string.h>
#include <time.h>
#include "base/file.h"
#include "passes/pipeline.h"

void syl_pass_count(syl_pass_ctx *ctx, const char *stat, int64_t n) {
    for (size_t i = 0; i < ctx->stats.n; i++)
        if (strcmp(ctx->stats.p[i].name, stat) == 0) {
            ctx->stats.p[i].value += n;
            return;
        }
    SYL_PUSH(ctx->scratch, &ctx->stats, (syl_pass_stat){stat, n});
}

static const syl_option_value *option(const syl_pass_ctx *ctx, const char *name) {
    for (int i = 0; i < ctx->run->n_options; i++)
        if (strcmp(ctx->run->options[i].name, name) == 0) return &ctx->run->options[i];
    return NULL;
}

int64_t syl_pass_option_int(const syl_pass_ctx *ctx, const char *name) {
    const syl_option_value *value = option(ctx, name);
    return value ? value->number : 0;
}

const char *syl_pass_option_str(const syl_pass_ctx *ctx, const char *name) {
    const syl_option_value *value = option(ctx, name);
    return value ? value->word : "";
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static bool verifies(const syl_module *module) {
    syl_diag *quiet = syl_diag_create(NULL, NULL);
    bool good = syl_module_verify(module, quiet) == SYL_OK;
    syl_diag_destroy(quiet);
    return good;
}

static void write_reproducer(const syl_pipeline *pipeline, int index, const syl_text *before,
                             const char *path, syl_arena *arena, syl_diag *diag) {
    syl_text text = {.arena = arena};
    syl_text_printf(&text, "// pipeline: ");
    syl_pipeline_print_from(pipeline, index, &text);
    syl_text_printf(&text, "\n");
    syl_text_append(&text, before->p, before->n);
    if (syl_file_write(path, text.p, text.n, diag) == SYL_OK)
        syl_note(diag, SYL_NOWHERE, "wrote a reproducer to '%s'; run it with: syl opt '%s'", path, path);
}

static syl_status run_one(const syl_pipeline *pipeline, int index, syl_module *module, syl_diag *diag,
                          const syl_pass_options *options, syl_arena *scratch) {
    const struct syl_pass_run *run = &pipeline->runs[index];
    syl_text before = {.arena = scratch};
    if (options->reproducer) syl_module_print(module, &before);
    syl_pass_ctx ctx = {.module = module, .scratch = scratch, .diag = diag, .run = run};
    double start = now();
    syl_status status = run->pass->run(&ctx);
    double seconds = now() - start;
    if (status == SYL_OK && !verifies(module)) {
        status = syl_error(diag, SYL_ERR_pass_broke_module, SYL_NOWHERE,
                           "pass '%s' (%d of %d) left a module that does not verify", run->pass->name,
                           index + 1, pipeline->n_runs);
        syl_status details = syl_module_verify(module, diag);
        (void)details; /* the errors of the verifier follow ours */
    }
    if (status != SYL_OK) {
        if (options->reproducer)
            write_reproducer(pipeline, index, &before, options->reproducer, scratch, diag);
        return status;
    }
    if (options->after)
        options->after(options->user, index + 1, run->pass->name, module, ctx.stats.p, ctx.stats.n, seconds);
    return SYL_OK;
}

syl_status syl_pipeline_run(const syl_pipeline *pipeline, syl_module *module, syl_diag *diag,
                            const syl_pass_options *options) {
    static const syl_pass_options none = {0};
    SYL_TRY(syl_module_verify(module, diag));
    for (int i = 0; i < pipeline->n_runs; i++) {
        syl_arena scratch;
        syl_arena_init(&scratch);
        syl_status status = run_one(pipeline, i, module, diag, options ? options : &none, &scratch);
        syl_arena_free(&scratch);
        SYL_TRY(status);
    }
    return SYL_OK;
}
