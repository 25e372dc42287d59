/* syl cache: what the cache folder holds, and getting rid of it. */
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "tools/sizes.h"
#include "tools/tool.h"

typedef struct settings {
    const char *folder, *max_size;
} settings;

static const opt_spec options[] = {
    OPT_ROW_TEXT(settings, folder, "dir", 0, "DIR", "the folder (default: the cache folder)"),
    OPT_ROW_TEXT(settings, max_size, "max-size", 0, "SIZE", "gc: what may stay, as 2G (default: 10G)"),
    {0},
};

static const char *const kind_names[] = {"kernel", "tensor"};

static const char *time_text(syl_arena *arena, int64_t nanoseconds) {
    time_t seconds = (time_t)(nanoseconds / 1000000000);
    struct tm parts;
    char text[32] = "?";
    if (gmtime_r(&seconds, &parts)) strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
    return syl_arena_strdup(arena, text);
}

/* ---- ls ---- */

typedef struct listing {
    tool *t;
    syl_text text;
    bool any;
} listing;

static void list_file(void *user, const syl_cached_file *file) {
    listing *l = user;
    const char *used = time_text(&l->t->arena, file->used);
    if (l->t->json) {
        syl_text_printf(&l->text, "%s{\"file\": ", l->any ? ", " : "");
        syl_json_quote(&l->text, file->name);
        syl_text_printf(&l->text, ", \"kind\": \"%s\", \"bytes\": %lld, \"used\": \"%s\"}",
                        kind_names[file->kind], (long long)file->bytes, used);
    } else {
        syl_text_printf(&l->text, "%s  %s  %10s  %s\n", used, kind_names[file->kind],
                        size_text(&l->t->arena, file->bytes), file->name);
    }
    l->any = true;
}

static syl_status list(tool *t, syl_instance *instance, const char *folder) {
    listing l = {.t = t, .text = {.arena = &t->arena}};
    syl_cache_settings look = {.size = sizeof look, .folder = folder, .file = list_file, .user = &l};
    if (t->json) {
        syl_text_printf(&l.text, "{\"folder\": ");
        syl_json_quote(&l.text, folder);
        syl_text_printf(&l.text, ", \"entries\": [");
    }
    SYL_TRY(syl_cache_sweep(instance, &look, NULL));
    if (t->json) syl_text_printf(&l.text, "]}\n");
    return tool_print(t, l.text.p ? l.text.p : "", l.text.n);
}

/* ---- the others: a summary ---- */

static syl_status print_summary(tool *t, const char *folder, int sweep, const syl_cache_report *r) {
    if (t->json) {
        tool_json json = tool_json_begin(t);
        tool_json_text(&json, "folder", folder);
        tool_json_int(&json, "kernels", r->kernels);
        tool_json_int(&json, "kernel_bytes", r->kernel_bytes);
        tool_json_int(&json, "tensors", r->tensors);
        tool_json_int(&json, "tensor_bytes", r->tensor_bytes);
        tool_json_int(&json, "damaged", r->damaged);
        tool_json_int(&json, "freed_bytes", r->freed_bytes);
        return tool_json_end(t, &json);
    }
    syl_text text = {.arena = &t->arena};
    syl_text_printf(&text, "%s\n", folder);
    syl_text_printf(&text, "  %-8s %6lld  %10s\n", "kernels", (long long)r->kernels,
                    size_text(&t->arena, r->kernel_bytes));
    syl_text_printf(&text, "  %-8s %6lld  %10s\n", "tensors", (long long)r->tensors,
                    size_text(&t->arena, r->tensor_bytes));
    if (sweep == SYL_SWEEP_DAMAGED)
        syl_text_printf(&text, "  %lld damaged%s\n", (long long)r->damaged, r->damaged ? ", removed" : "");
    if (sweep != SYL_SWEEP_NOTHING)
        syl_text_printf(&text, "  %s freed\n", size_text(&t->arena, r->freed_bytes));
    return tool_print(t, text.p, text.n);
}

static syl_status act(tool *t, const settings *o, syl_instance *instance, const char *folder, int sweep) {
    syl_cache_settings work = {
        .size = sizeof work, .folder = folder, .sweep = sweep, .max_bytes = (int64_t)10 << 30};
    syl_cache_report report = {.size = sizeof report};
    if (o->max_size) SYL_TRY(size_parse("max-size", o->max_size, t->diag, &work.max_bytes));
    SYL_TRY(syl_cache_sweep(instance, &work, &report));
    return print_summary(t, folder, sweep, &report);
}

/* The folder that is meant; the text is the arena's. */
static syl_status find_folder(tool *t, syl_instance *instance, const char **folder) {
    char *found;
    if (*folder) return SYL_OK;
    SYL_TRY(syl_instance_cache(instance, &found));
    if (!found) {
        return syl_error(t->diag, SYL_ERR_cache_folder, SYL_NOWHERE,
                         "there is no cache folder: neither SYL_CACHE_DIR, XDG_CACHE_HOME nor HOME is set");
    }
    *folder = syl_arena_strdup(&t->arena, found);
    syl_free(found);
    return SYL_OK;
}

static syl_status run(tool *t, void *user, const char **args, int n_args) {
    static const char *const actions[] = {"ls", "stats", "verify", "clear", "gc", NULL};
    static const int sweeps[] = {SYL_SWEEP_NOTHING, SYL_SWEEP_NOTHING, SYL_SWEEP_DAMAGED, SYL_SWEEP_ALL,
                                 SYL_SWEEP_UNUSED};
    const settings *o = user;
    const char *action = n_args ? args[0] : "stats", *folder = o->folder;
    syl_instance *instance;
    int found = 0;
    while (actions[found] && strcmp(action, actions[found]) != 0) found++;
    if (!actions[found]) {
        const char *nearest = syl_nearest(action, actions);
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE,
                         "syl cache does ls, stats, verify, clear or gc, found \"%s\"%s%s%s", action,
                         nearest ? "; did you mean \"" : "", nearest ? nearest : "", nearest ? "\"?" : "");
    }
    if (o->max_size && strcmp(action, "gc") != 0)
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE, "--max-size goes with syl cache gc");
    SYL_TRY(tool_instance(t, &instance));
    SYL_TRY(find_folder(t, instance, &folder));
    return found == 0 ? list(t, instance, folder) : act(t, o, instance, folder, sweeps[found]);
}

const verb verb_cache = {
    .name = "cache",
    .summary = "show, verify and clear compiled kernels and finished tensors",
    .usage = "ls | stats | verify | clear | gc [--max-size 2G]",
    .details = "stats (the default): how many, how large; ls: each, the longest unused first; verify: "
               "removes what is\n"
               "damaged; gc: drops the longest unused until the rest fits; clear: drops everything. All of "
               "it can be "
               "made again.",
    .options = options,
    .settings_size = sizeof(settings),
    .max_args = 1,
    .run = run,
};
