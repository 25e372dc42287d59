/* syl opt: passes on IR text. */
#include <string.h>

#include "base/file.h"
#include "tools/pass_options.h"

typedef struct settings {
    const char *passes, *output;
    bool list_passes, list_ops;
    pass_settings pass;
} settings;

static const opt_spec options[] = {
    OPT_ROW_TEXT(settings, passes, "passes", 'p', "PIPELINE",
                 "as \"fold-norms,rotate-residual{seed=1}\"; default: the file's \"// pipeline:\" line"),
    OPT_ROW_TEXT(settings, output, "output", 'o', "FILE",
                 "where to write the IR (default: the standard output)"),
    OPT_ROW_FLAG(settings, list_passes, "list-passes", 0, "list the passes with their options"),
    OPT_ROW_FLAG(settings, list_ops, "list-ops", 0, "list the ops with their attributes"),
    PASS_OPTION_ROWS(settings),
    {0},
};

enum { MAX_IR = 256 << 20 };

static syl_status print_list(tool *t, syl_list what) {
    syl_instance *instance;
    char *text;
    size_t size;
    SYL_TRY(tool_instance(t, &instance));
    SYL_TRY(syl_list_text(instance, what, &text, &size));
    syl_status status = tool_print(t, text, size);
    syl_free(text);
    return status;
}

/* The text behind "// pipeline:" at the start of a line, or NULL. */
static const char *pipeline_line(syl_arena *arena, const char *text) {
    static const char mark[] = "// pipeline:";
    for (const char *line = text; line; line = strchr(line, '\n')) {
        if (*line == '\n') line++;
        if (strncmp(line, mark, sizeof mark - 1) != 0) continue;
        line += sizeof mark - 1;
        line += strspn(line, " ");
        return syl_arena_strndup(arena, line, strcspn(line, "\r\n"));
    }
    return NULL;
}

static syl_status run_passes(tool *t, settings *s, const syl_source *source) {
    const char *passes = s->passes ? s->passes : pipeline_line(&t->arena, source->text);
    if (!passes) {
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE,
                         "syl opt needs --passes: \"%s\" has no line \"// pipeline:\"", source->name);
    }
    syl_instance *instance;
    syl_compile_settings compile = {.size = sizeof compile, .passes = passes};
    char *text;
    size_t size;
    pass_options_apply(&s->pass, &compile);
    SYL_TRY(tool_instance(t, &instance));
    SYL_TRY(syl_optimize_ir(instance, source->name, source->text, source->size, &compile,
                            s->passes ? "--passes" : source->name, &text, &size));
    if (s->pass.timing) fprintf(stderr, "    %-22s %9.3f ms\n", "all passes", 1e3 * s->pass.seconds);
    syl_status status =
        s->output ? syl_file_write(s->output, text, size, t->diag) : tool_print(t, text, size);
    syl_free(text);
    return status;
}

static syl_status run(tool *t, void *user, const char **args, int n_args) {
    settings *s = user;
    if (s->list_passes) return print_list(t, SYL_LIST_PASSES);
    if (s->list_ops) return print_list(t, SYL_LIST_OPS);
    if (n_args != 1)
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE, "syl opt needs a file of IR text");
    syl_source source;
    SYL_TRY(syl_file_read(&t->arena, args[0], MAX_IR, t->diag, &source));
    return run_passes(t, s, &source);
}

const verb verb_opt = {
    .name = "opt",
    .summary = "run passes on IR text",
    .usage = "FILE.sir --passes \"a,b{x=1}\" | --list-passes | --list-ops",
    .details = "docs/passes.md describes the passes, docs/ir.md the text. A file that a failing pass left "
               "behind (--reproducer) runs as it is.",
    .options = options,
    .settings_size = sizeof(settings),
    .min_args = 0,
    .max_args = 1,
    .run = run,
};
