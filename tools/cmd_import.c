/* syl import: a checkpoint's graph as JSON. */
#include "base/file.h"
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
    syl_instance *instance;
    char *json;
    size_t size;
    SYL_TRY(tool_instance(t, &instance));
    SYL_TRY(syl_import_file(instance, args[0], s->output, &json, &size));
    syl_status status =
        s->output ? syl_file_write(s->output, json, size, t->diag) : tool_print(t, json, size);
    syl_free(json);
    if (status == SYL_OK && s->output) tool_say(t, "wrote %s", s->output);
    return status;
}

const verb verb_import = {
    .name = "import",
    .summary = "write the graph of a checkpoint as JSON",
    .usage = "FILE.gguf|DIRECTORY [-o graph.json]",
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
