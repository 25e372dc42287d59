/* The `syl` command: finds the verb, parses its options, runs it. The exit code is the status
 * (include/syl/status.def). */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "tools/tool.h"

#define VERB_ADDRESS(name) &verb_##name,
static const verb *const verbs[] = {TOOL_VERBS(VERB_ADDRESS)};
enum { N_VERBS = sizeof verbs / sizeof *verbs };

static const opt_spec common_options[] = {
    OPT_ROW_INT(tool, threads, "threads", 0, "N", 0, 1024, "threads to use; 0 = one a core (the default)"),
    OPT_ROW_TEXT(tool, device, "device", 0, "cpu|cuda|cuda:N",
                 "where models run (default: $SYL_DEVICE, else the first GPU, else the CPU)"),
    OPT_ROW_CHOICE(tool, cpu, "cpu", 0, "host|x86-64-v3|generic",
                   "which machine to generate code for (default: host)"),
    OPT_ROW_FLAG(tool, json, "json", 0, "print the result as one JSON object (docs/cli.md lists the keys)"),
    OPT_ROW_FLAG(tool, quiet, "quiet", 'q', "no progress and no remarks"),
    OPT_ROW_FLAG(tool, help, "help", 'h', "show this help"),
    {0},
};

/* --quiet leaves the errors. */
static void print_message(void *user, const syl_message *message) {
    const tool *t = user;
    if (t->quiet && message->severity != SYL_SEV_ERROR) return;
    syl_arena arena;
    syl_arena_init(&arena);
    syl_text text = {.arena = &arena};
    syl_message_render(message, &text);
    fputs(text.p, stderr);
    syl_arena_free(&arena);
}

static syl_status print_overview(tool *t) {
    syl_text text = {.arena = &t->arena};
    syl_text_printf(&text,
                    "syl: compiles quantized language models, and runs them on code made for this machine\n\n"
                    "usage: syl VERB [ARGUMENTS] [OPTIONS]\n\n");
    for (int i = 0; i < N_VERBS; i++)
        syl_text_printf(&text, "  %-12s%s\n", verbs[i]->name, verbs[i]->summary);
    syl_text_printf(&text, "\nsyl VERB --help shows the options of a verb; syl --version shows the version.\n"
                           "Exit codes: 0 success");
#define STATUS(name, code, meaning)                                                                          \
    if ((code) != 0) syl_text_printf(&text, ", %d %s", (code), (meaning));
#include "syl/status.def"
    syl_text_printf(&text, ".\n");
    return tool_print(t, text.p, text.n);
}

static syl_status print_verb_help(tool *t, const verb *v) {
    syl_text text = {.arena = &t->arena};
    syl_text_printf(&text, "syl %s: %s\n\nusage: syl %s %s\n\n", v->name, v->summary, v->name, v->usage);
    if (v->details) syl_text_printf(&text, "%s\n\n", v->details);
    if (v->options[0].name) {
        syl_text_printf(&text, "options:\n");
        opt_print_help(v->options, &text);
        syl_text_printf(&text, "\n");
    }
    syl_text_printf(&text, "common options:\n");
    opt_print_help(common_options, &text);
    return tool_print(t, text.p, text.n);
}

static const verb *find_verb(const char *name) {
    for (int i = 0; i < N_VERBS; i++) {
        if (strcmp(verbs[i]->name, name) == 0) return verbs[i];
    }
    return NULL;
}

static syl_status unknown_verb(tool *t, const char *name) {
    const char *names[N_VERBS + 1];
    for (int i = 0; i < N_VERBS; i++) names[i] = verbs[i]->name;
    names[N_VERBS] = NULL;
    const char *nearest = syl_nearest(name, names);
    if (nearest)
        return syl_error(t->diag, SYL_ERR_cli_verb, SYL_NOWHERE,
                         "syl has no verb \"%s\"; did you mean \"%s\"?", name, nearest);
    return syl_error(t->diag, SYL_ERR_cli_verb, SYL_NOWHERE, "syl has no verb \"%s\"", name);
}

static syl_status run_verb(tool *t, const verb *v, int argc, char **argv) {
    void *settings = syl_arena_alloc(&t->arena, v->settings_size);
    const char **args = SYL_NEW_ARRAY(&t->arena, const char *, (size_t)argc + 1);
    int n_args;
    if (v->defaults) v->defaults(settings);
    const opt_spec *const tables[] = {v->options, common_options};
    void *const structs[] = {settings, t};
    SYL_TRY(opt_parse(tables, structs, 2, argc, argv, v->name, t->diag, args, &n_args));
    if (t->help) return print_verb_help(t, v);
    if (n_args < v->min_args || n_args > v->max_args) {
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE,
                         "syl %s takes %s%d argument%s, %d given; usage: syl %s %s", v->name,
                         v->max_args > v->min_args ? "up to " : "", v->max_args, v->max_args == 1 ? "" : "s",
                         n_args, v->name, v->usage);
    }
    return v->run(t, settings, args, n_args);
}

static syl_status run(tool *t, int argc, char **argv) {
    const char *word = argc > 1 ? argv[1] : "--help";
    if (strcmp(word, "--version") == 0)
        return tool_print(t, "syl " SYL_VERSION "\n", strlen("syl " SYL_VERSION "\n"));
    bool help = strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0;
    if (help && argc < 3) return print_overview(t);
    const verb *v = find_verb(help ? argv[2] : word);
    if (!v) return unknown_verb(t, help ? argv[2] : word);
    return help ? print_verb_help(t, v) : run_verb(t, v, argc - 2, argv + 2);
}

int main(int argc, char **argv) {
    tool t = {.cpu = "host", .program = argc > 0 ? argv[0] : "syl"};
    syl_arena_init(&t.arena);
    t.diag = syl_diag_create(print_message, &t);
    if (!t.diag) {
        fputs("syl: out of memory\n", stderr);
        return SYL_MEMORY;
    }
    syl_status status = run(&t, argc, argv);
    syl_instance_destroy(t.instance);
    syl_diag_destroy(t.diag);
    syl_arena_free(&t.arena);
    return (int)status;
}
