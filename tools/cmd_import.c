/* syl import: a checkpoint's graph as JSON. */
#include "base/file.h"
#include "frontend/frontend.h"
#include "tools/tool.h"

typedef struct settings {
    const char *output;
} settings;

static const opt_spec options[] = {
    OPT_ROW_TEXT(settings, output, "output", 'o', "FILE",
                 "where to write the graph (default: the standard output)"),
    {0},
};

static syl_status run(tool *t, void *user, const char **args, int n_args) {
    (void)n_args;
    const settings *s = user;
    syl_text json = {.arena = &t->arena};
    if (s->output && syl_file_same(args[0], s->output)) {
        return syl_error(t->diag, SYL_ERR_compile_output, SYL_NOWHERE,
                         "the output \"%s\" is the checkpoint itself", s->output);
    }
    SYL_TRY(syl_import_checkpoint(args[0], s->output, t->diag, &json));
    if (!s->output) return tool_print(t, json.p, json.n);
    SYL_TRY(syl_file_write(s->output, json.p, json.n, t->diag));
    tool_say(t, "wrote %s", s->output);
    return SYL_OK;
}

const verb verb_import = {
    .name = "import",
    .summary = "write the graph of a checkpoint as JSON",
    .usage = "FILE.gguf [-o graph.json]",
    .details =
        "The graph refers to the checkpoint for its weights, by a path relative to the graph's own folder\n"
        "(without -o: an absolute one). syl compile takes it like the checkpoint. docs/graph.md describes "
        "it.",
    .options = options,
    .settings_size = sizeof(settings),
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
