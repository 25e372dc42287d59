/* syl cache: what the cache folder holds, and getting rid of it. */
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "driver/cache.h"
#include "runtime/engine.h"
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

static const char *file_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static const char *time_text(syl_arena *arena, int64_t nanoseconds) {
    time_t seconds = (time_t)(nanoseconds / 1000000000);
    struct tm parts;
    char text[32] = "?";
    if (gmtime_r(&seconds, &parts)) strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
    return syl_arena_strdup(arena, text);
}

/* ---- ls ---- */

static syl_status list(tool *t, const char *folder, const syl_cache_list *cache) {
    syl_text text = {.arena = &t->arena};
    if (t->json) {
        syl_text_printf(&text, "{\"folder\": ");
        syl_json_quote(&text, folder);
        syl_text_printf(&text, ", \"entries\": [");
    }
    for (size_t i = 0; i < cache->entries.n; i++) {
        const syl_cache_entry *entry = &cache->entries.p[i];
        const char *used = time_text(&t->arena, entry->used);
        if (t->json) {
            syl_text_printf(&text, "%s{\"file\": ", i ? ", " : "");
            syl_json_quote(&text, file_name(entry->path));
            syl_text_printf(&text, ", \"kind\": \"%s\", \"bytes\": %lld, \"used\": \"%s\"}",
                            kind_names[entry->kind], (long long)entry->bytes, used);
        } else {
            syl_text_printf(&text, "%s  %s  %10s  %s\n", used, kind_names[entry->kind],
                            size_text(&t->arena, entry->bytes), file_name(entry->path));
        }
    }
    if (t->json) syl_text_printf(&text, "]}\n");
    return tool_print(t, text.p ? text.p : "", text.n);
}

/* ---- the others: a summary ---- */

typedef struct summary {
    int64_t count[2], bytes[2]; /* by kind */
    int64_t damaged, freed;
} summary;

static summary summarize(const syl_cache_list *cache) {
    summary s = {0};
    for (size_t i = 0; i < cache->entries.n; i++) {
        s.count[cache->entries.p[i].kind]++;
        s.bytes[cache->entries.p[i].kind] += cache->entries.p[i].bytes;
    }
    return s;
}

static syl_status print_summary(tool *t, const char *folder, const char *action, const summary *s) {
    if (t->json) {
        tool_json json = tool_json_begin(t);
        tool_json_text(&json, "folder", folder);
        tool_json_int(&json, "kernels", s->count[SYL_CACHE_KERNEL]);
        tool_json_int(&json, "kernel_bytes", s->bytes[SYL_CACHE_KERNEL]);
        tool_json_int(&json, "tensors", s->count[SYL_CACHE_TENSOR]);
        tool_json_int(&json, "tensor_bytes", s->bytes[SYL_CACHE_TENSOR]);
        tool_json_int(&json, "damaged", s->damaged);
        tool_json_int(&json, "freed_bytes", s->freed);
        return tool_json_end(t, &json);
    }
    syl_text text = {.arena = &t->arena};
    syl_text_printf(&text, "%s\n", folder);
    for (int kind = 0; kind < 2; kind++) {
        syl_text_printf(&text, "  %-8s %6lld  %10s\n", kind ? "tensors" : "kernels",
                        (long long)s->count[kind], size_text(&t->arena, s->bytes[kind]));
    }
    if (strcmp(action, "verify") == 0)
        syl_text_printf(&text, "  %lld damaged%s\n", (long long)s->damaged, s->damaged ? ", removed" : "");
    if (strcmp(action, "stats") != 0) syl_text_printf(&text, "  %s freed\n", size_text(&t->arena, s->freed));
    return tool_print(t, text.p, text.n);
}

static syl_status remove_entries(tool *t, const syl_cache_list *cache, bool all, summary *s) {
    for (size_t i = 0; i < cache->entries.n; i++) {
        const syl_cache_entry *entry = &cache->entries.p[i];
        bool damaged = !all && !syl_cache_valid(entry);
        if (!all && !damaged) continue;
        SYL_TRY(syl_cache_remove(entry, t->diag));
        s->damaged += damaged;
        s->freed += entry->bytes;
        s->count[entry->kind]--;
        s->bytes[entry->kind] -= entry->bytes;
    }
    return SYL_OK;
}

static syl_status collect(tool *t, const settings *o, const char *folder, summary *s) {
    int64_t most = (int64_t)10 << 30, freed;
    syl_cache_list left;
    if (o->max_size) SYL_TRY(size_parse("max-size", o->max_size, t->diag, &most));
    SYL_TRY(syl_cache_trim(folder, most, t->diag, &freed));
    SYL_TRY(syl_cache_read(&t->arena, folder, t->diag, &left));
    *s = summarize(&left);
    s->freed = freed;
    return SYL_OK;
}

static syl_status act(tool *t, const settings *o, const char *folder, const char *action) {
    syl_cache_list cache;
    SYL_TRY(syl_cache_read(&t->arena, folder, t->diag, &cache));
    summary s = summarize(&cache);
    if (strcmp(action, "ls") == 0) return list(t, folder, &cache);
    if (strcmp(action, "verify") == 0) SYL_TRY(remove_entries(t, &cache, false, &s));
    if (strcmp(action, "clear") == 0) SYL_TRY(remove_entries(t, &cache, true, &s));
    if (strcmp(action, "gc") == 0) SYL_TRY(collect(t, o, folder, &s));
    return print_summary(t, folder, action, &s);
}

static syl_status run(tool *t, void *user, const char **args, int n_args) {
    static const char *const actions[] = {"ls", "stats", "verify", "clear", "gc", NULL};
    const settings *o = user;
    const char *action = n_args ? args[0] : "stats", *folder = o->folder;
    bool known = false;
    for (int i = 0; actions[i]; i++) known = known || strcmp(action, actions[i]) == 0;
    if (!known) {
        const char *nearest = syl_nearest(action, actions);
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE,
                         "syl cache does ls, stats, verify, clear or gc, found \"%s\"%s%s%s", action,
                         nearest ? "; did you mean \"" : "", nearest ? nearest : "", nearest ? "\"?" : "");
    }
    if (o->max_size && strcmp(action, "gc") != 0)
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE, "--max-size goes with syl cache gc");
    if (!folder) SYL_TRY(syl_cache_folder(&t->arena, t->diag, &folder));
    if (!folder) {
        return syl_error(t->diag, SYL_ERR_cache_folder, SYL_NOWHERE,
                         "there is no cache folder: neither SYL_CACHE_DIR, XDG_CACHE_HOME nor HOME is set");
    }
    return act(t, o, folder, action);
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
