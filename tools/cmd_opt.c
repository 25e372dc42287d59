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

static syl_status list_passes(tool *t) {
    syl_text text = {.arena = &t->arena};
#define PASS(ident, name, defaults, doc)                                                                     \
    syl_text_printf(&text, "%s%s%s%s\n    %s\n", name, *(defaults) ? " {" : "", defaults,                    \
                    *(defaults) ? "}" : "", doc);
#include "passes/passes.def"
    return tool_print(t, text.p, text.n);
}

static syl_status list_ops(tool *t) {
    syl_text text = {.arena = &t->arena};
    for (int i = 0; i < SYL_OP_COUNT; i++) {
        const syl_op_info *op = &syl_ops[i];
        syl_text_printf(&text, "%s%s%s%s\n    %s\n", op->name, *op->attrs ? " {" : "", op->attrs,
                        *op->attrs ? "}" : "", op->doc);
    }
    return tool_print(t, text.p, text.n);
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

static syl_status run_passes(tool *t, settings *s, const syl_source *source, syl_module *module) {
    const char *text = s->passes ? s->passes : pipeline_line(&t->arena, source->text);
    if (!text) {
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE,
                         "syl opt needs --passes: \"%s\" has no line \"// pipeline:\"", source->name);
    }
    syl_source pipeline_text = {s->passes ? "--passes" : source->name, text, strlen(text)};
    syl_pipeline *pipeline;
    SYL_TRY(syl_pipeline_parse(&t->arena, &pipeline_text, t->diag, &pipeline));
    syl_pass_options pass = pass_options_of(&s->pass);
    SYL_TRY(syl_pipeline_run(pipeline, module, t->diag, &pass));
    if (s->pass.timing) fprintf(stderr, "    %-22s %9.3f ms\n", "all passes", 1e3 * s->pass.seconds);
    syl_text out = {.arena = &t->arena};
    syl_module_print(module, &out);
    return s->output ? syl_file_write(s->output, out.p, out.n, t->diag) : tool_print(t, out.p, out.n);
}

static syl_status run(tool *t, void *user, const char **args, int n_args) {
    settings *s = user;
    if (s->list_passes) return list_passes(t);
    if (s->list_ops) return list_ops(t);
    if (n_args != 1)
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE, "syl opt needs a file of IR text");
    syl_source source;
    syl_module *module;
    SYL_TRY(syl_file_read(&t->arena, args[0], MAX_IR, t->diag, &source));
    SYL_TRY(syl_module_parse(&source, t->diag, &module));
    syl_status status = run_passes(t, s, &source, module);
    syl_module_destroy(module);
    return status;
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
