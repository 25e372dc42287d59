/* syl compile: a checkpoint or a graph to an artifact. */
#include <math.h>
#include <sys/stat.h>

#include "tools/pass_options.h"
#include "tools/sizes.h"

typedef struct settings {
    const char *output, *recipe, *passes;
    int64_t kv;
    const char *work_dir, *memory, *dump_dir;
    bool no_resume, estimate;
    pass_settings pass;
} settings;

static const opt_spec options[] = {
    OPT_ROW_TEXT(settings, output, "output", 'o', "OUT.syl", "where to write the artifact"),
    OPT_ROW_TEXT(settings, recipe, "recipe", 'r', "NAME|FILE.json",
                 "which passes to run: f32, bf16, w8a8, ... or a recipe file"),
    OPT_ROW_TEXT(settings, passes, "passes", 0, "PIPELINE", "these passes instead of a recipe's"),
    OPT_ROW_INT(settings, kv, "kv", 0, "8|4", 4, 8, "keys and values of so many bits in the KV cache"),
    OPT_ROW_FLAG(settings, estimate, "estimate", 0,
                 "tell the time, memory and disk it will take; write nothing"),
    OPT_ROW_TEXT(settings, memory, "memory", 0, "SIZE",
                 "for tensors in flight, as 2G (default: half of what is free)"),
    OPT_ROW_TEXT(settings, work_dir, "work-dir", 0, "DIR",
                 "where finished tensors are kept (default: \"tensors\" in the cache folder)"),
    OPT_ROW_FLAG(settings, no_resume, "no-resume", 0,
                 "compute every tensor, and keep none for the next time"),
    OPT_ROW_TEXT(settings, dump_dir, "dump-dir", 0, "DIR", "write the text of every stage to files in DIR"),
    PASS_OPTION_ROWS(settings),
    {0},
};

static void show_progress(void *user, int64_t done, int64_t total) {
    tool_progress_update(user, (double)done, (double)total, NULL);
}

static syl_status report(tool *t, const settings *s, const syl_compile_result *stats, double seconds) {
    struct stat info;
    double bytes = stat(s->output, &info) == 0 ? (double)info.st_size : 0;
    if (s->pass.timing) {
        fprintf(stderr, "open %.3f s, passes %.3f s, materialize %.3f s, finish %.3f s\n", stats->open_s,
                stats->passes_s, stats->materialize_s, stats->write_s);
    }
    char reused[64] = "";
    if (stats->reused) snprintf(reused, sizeof reused, " (%lld finished before)", (long long)stats->reused);
    tool_say(t, "wrote %s: %lld tensors%s, %.1f MB, in %.1f s", s->output, (long long)stats->tensors, reused,
             bytes / 1e6, seconds);
    if (!t->json) return SYL_OK;
    tool_json json = tool_json_begin(t);
    tool_json_text(&json, "output", s->output);
    tool_json_int(&json, "bytes", (int64_t)bytes);
    tool_json_int(&json, "tensors", stats->tensors);
    tool_json_int(&json, "reused", stats->reused);
    tool_json_int(&json, "elements", stats->elements);
    tool_json_number(&json, "open_s", stats->open_s);
    tool_json_number(&json, "passes_s", stats->passes_s);
    tool_json_number(&json, "materialize_s", stats->materialize_s);
    tool_json_number(&json, "total_s", seconds);
    return tool_json_end(t, &json);
}

static syl_status report_estimate(tool *t, const syl_forecast *f) {
    if (t->json) {
        tool_json json = tool_json_begin(t);
        tool_json_int(&json, "tensors", f->tensors);
        tool_json_int(&json, "reused", f->reused);
        tool_json_int(&json, "bytes", f->bytes);
        tool_json_int(&json, "work_bytes", f->work_bytes);
        tool_json_int(&json, "memory_bytes", f->memory);
        tool_json_number(&json, "seconds", f->seconds);
        tool_json_number(&json, "disk_free_bytes", f->disk_free < 0 ? NAN : (double)f->disk_free);
        return tool_json_end(t, &json);
    }
    syl_text text = {.arena = &t->arena};
    syl_text_printf(&text, "time      about %.0f s\nmemory    %s at most\n", f->seconds + 0.5,
                    size_text(&t->arena, f->memory));
    syl_text_printf(&text, "disk      %s for the artifact", size_text(&t->arena, f->bytes));
    if (f->work_bytes)
        syl_text_printf(&text, ", %s for finished tensors", size_text(&t->arena, f->work_bytes));
    if (f->disk_free >= 0) syl_text_printf(&text, "; %s free", size_text(&t->arena, f->disk_free));
    syl_text_printf(&text, "\ntensors   %lld", (long long)f->tensors);
    if (f->reused) syl_text_printf(&text, ", %lld of them finished before", (long long)f->reused);
    syl_text_printf(&text, "\n");
    return tool_print(t, text.p, text.n);
}

/* Where finished tensors are kept, and the memory limit. */
static syl_status work_options(tool *t, const settings *s, syl_compile_settings *compile) {
    if (s->no_resume && s->work_dir) {
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE,
                         "--no-resume keeps nothing: it does not go with --work-dir");
    }
    compile->work_dir = s->no_resume ? "" : s->work_dir;
    return s->memory ? size_parse("memory", s->memory, t->diag, &compile->memory) : SYL_OK;
}

static syl_status run(tool *t, void *user, const char **args, int n_args) {
    (void)n_args;
    settings *s = user;
    if (!s->output && !s->estimate)
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE, "syl compile needs -o OUT.syl");
    if (!s->recipe == !s->passes) {
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE,
                         "syl compile needs --recipe or --passes, and not both");
    }
    double start = tool_seconds();
    syl_instance *instance;
    SYL_TRY(tool_instance(t, &instance));
    tool_progress progress;
    syl_compile_settings compile = {.size = sizeof compile,
                                    .recipe = s->recipe,
                                    .passes = s->passes,
                                    .kv = (int)s->kv,
                                    .dump_dir = s->dump_dir,
                                    .progress = show_progress,
                                    .progress_user = &progress};
    pass_options_apply(&s->pass, &compile);
    SYL_TRY(work_options(t, s, &compile));
    if (s->estimate) {
        syl_forecast forecast = {.size = sizeof forecast};
        SYL_TRY(syl_compile_forecast_file(instance, args[0], s->output, &compile, &forecast));
        return report_estimate(t, &forecast);
    }
    progress = tool_progress_begin(t, "compile");
    syl_compile_result result = {.size = sizeof result};
    syl_status status = syl_compile_file(instance, args[0], s->output, &compile, &result);
    tool_progress_end(&progress);
    return status == SYL_OK ? report(t, s, &result, tool_seconds() - start) : status;
}

const verb verb_compile = {
    .name = "compile",
    .summary = "compile a checkpoint or a graph to an artifact, by a recipe",
    .usage = "IN -o OUT.syl --recipe NAME|FILE.json",
    .details = "IN is a checkpoint (docs/models.md) or a graph.json. The artifact appears when it "
               "is complete; two compiles\n"
               "of one input give the same bytes. docs/passes.md lists the recipes.\n"
               "Finished tensors are kept: an interrupted compile goes on where it was, and a changed recipe "
               "computes\n"
               "only what changed. syl cache shows and clears them.",
    .options = options,
    .settings_size = sizeof(settings),
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
