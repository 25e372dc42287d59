/* syl compile: a checkpoint or a graph to an artifact. */
#include <sys/stat.h>

#include "driver/compile.h"
#include "tools/pass_options.h"

typedef struct settings {
    const char *output, *recipe, *passes;
    pass_settings pass;
} settings;

static const opt_spec options[] = {
    OPT_ROW_TEXT(settings, output, "output", 'o', "OUT.syl", "where to write the artifact"),
    OPT_ROW_TEXT(settings, recipe, "recipe", 'r', "NAME|FILE.json",
                 "which passes to run: f32, bf16, w8a8, ... or a recipe file"),
    OPT_ROW_TEXT(settings, passes, "passes", 0, "PIPELINE", "these passes instead of a recipe's"),
    PASS_OPTION_ROWS(settings),
    {0},
};

static void show_progress(void *user, int64_t done, int64_t total) {
    tool_progress_update(user, (double)done, (double)total, NULL);
}

static syl_status report(tool *t, const settings *s, const syl_compile_stats *stats, double seconds) {
    struct stat info;
    double bytes = stat(s->output, &info) == 0 ? (double)info.st_size : 0;
    if (s->pass.timing) {
        fprintf(stderr, "open %.3f s, passes %.3f s, materialize %.3f s, finish %.3f s\n", stats->open_s,
                stats->passes_s, stats->materialize_s, stats->write_s);
    }
    tool_say(t, "wrote %s: %lld tensors, %.1f MB, in %.1f s", s->output, (long long)stats->tensors,
             bytes / 1e6, seconds);
    if (!t->json) return SYL_OK;
    tool_json json = tool_json_begin(t);
    tool_json_text(&json, "output", s->output);
    tool_json_int(&json, "bytes", (int64_t)bytes);
    tool_json_int(&json, "tensors", stats->tensors);
    tool_json_int(&json, "elements", stats->elements);
    tool_json_number(&json, "open_s", stats->open_s);
    tool_json_number(&json, "passes_s", stats->passes_s);
    tool_json_number(&json, "materialize_s", stats->materialize_s);
    tool_json_number(&json, "total_s", seconds);
    return tool_json_end(t, &json);
}

static syl_status run(tool *t, void *user, const char **args, int n_args) {
    (void)n_args;
    settings *s = user;
    if (!s->output)
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE, "syl compile needs -o OUT.syl");
    if (!s->recipe == !s->passes) {
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE,
                         "syl compile needs --recipe or --passes, and not both");
    }
    double start = tool_seconds();
    syl_pool *pool;
    SYL_TRY(tool_pool(t, &pool));
    tool_progress progress = tool_progress_begin(t, "compile");
    syl_compile_options compile = {.recipe = s->recipe,
                                   .pipeline = s->passes,
                                   .passes = pass_options_of(&s->pass),
                                   .progress = show_progress,
                                   .user = &progress};
    syl_compile_stats stats;
    syl_status status = syl_compile(args[0], s->output, &compile, pool, t->diag, &stats);
    tool_progress_end(&progress);
    return status == SYL_OK ? report(t, s, &stats, tool_seconds() - start) : status;
}

const verb verb_compile = {
    .name = "compile",
    .summary = "compile a checkpoint or a graph to an artifact, by a recipe",
    .usage = "IN -o OUT.syl --recipe NAME|FILE.json",
    .details = "IN is a checkpoint (GGUF of the Llama family) or a graph.json. The artifact appears when it "
               "is complete; two compiles\n"
               "of one input give the same bytes. docs/passes.md lists the recipes.",
    .options = options,
    .settings_size = sizeof(settings),
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
