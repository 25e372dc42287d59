/* Parts that the verbs share (tool.h). */
#include "tools/tool.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/json.h"

double tool_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- loading ---- */

syl_status tool_pool(tool *t, syl_pool **out) {
    if (!t->pool) t->pool = syl_pool_create((int)t->threads);
    *out = t->pool;
    return t->pool ? SYL_OK
                   : syl_error(t->diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "cannot start %lld threads",
                               (long long)t->threads);
}

syl_status tool_load(tool *t, const char *path, syl_engine **out) {
    syl_pool *pool;
    syl_engine_options options = {.cpu = t->cpu};
    if (access(path, R_OK) == 0 && !syl_artifact_probe(path)) {
        return syl_error(t->diag, SYL_ERR_artifact_format, SYL_NOWHERE,
                         "\"%s\" is no artifact; make one of it: syl compile %s -o model.syl --recipe w8a8",
                         path, path);
    }
    SYL_TRY(tool_pool(t, &pool));
    SYL_TRY(syl_cache_folder(&t->arena, t->diag, &options.cache_dir));
    SYL_TRY(syl_engine_load(path, &options, pool, t->diag, out));
    const syl_engine_stats *stats = &(*out)->stats;
    tool_say(t, "loaded %s in %.2f s (open %.2f, pack %.2f, %d kernels %.2f: %d compiled, %d from the cache)",
             path, stats->total_s, stats->open_s, stats->pack_s, stats->kernels, stats->compile_s,
             stats->compiled, stats->cached);
    return SYL_OK;
}

syl_status tool_session(tool *t, const syl_engine *engine, int64_t context, syl_lm *out) {
    syl_context_options options = {.context = context};
    return syl_lm_create(engine, t->pool, &options, t->diag, out);
}

syl_status tool_need_tokenizer(tool *t, const syl_lm *lm, const char *path) {
    if (lm->tokenizer) return SYL_OK;
    return syl_error(t->diag, SYL_ERR_lm_tokenizer, SYL_NOWHERE, "\"%s\" has no tokenizer", path);
}

/* ---- output ---- */

void tool_say(const tool *t, const char *fmt, ...) {
    if (t->quiet) return;
    va_list args;
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
}

syl_status tool_print(tool *t, const char *text, size_t size) {
    if (fwrite(text, 1, size, stdout) == size && fflush(stdout) == 0) return SYL_OK;
    return syl_error(t->diag, SYL_ERR_file_write, SYL_NOWHERE, "cannot write to the standard output");
}

tool_json tool_json_begin(tool *t) {
    return (tool_json){{.arena = &t->arena}};
}

static void json_key(tool_json *json, const char *key) {
    syl_text_printf(&json->text, json->text.n ? ", " : "{");
    syl_json_quote(&json->text, key);
    syl_text_printf(&json->text, ": ");
}

void tool_json_number(tool_json *json, const char *key, double value) {
    json_key(json, key);
    if (isfinite(value)) {
        syl_json_print_number(&json->text, value);
    } else {
        syl_text_printf(&json->text, "null");
    }
}

void tool_json_int(tool_json *json, const char *key, int64_t value) {
    json_key(json, key);
    syl_text_printf(&json->text, "%lld", (long long)value);
}

void tool_json_text(tool_json *json, const char *key, const char *value) {
    json_key(json, key);
    syl_json_quote(&json->text, value);
}

syl_status tool_json_end(tool *t, tool_json *json) {
    syl_text_printf(&json->text, json->text.n ? "}\n" : "{}\n");
    return tool_print(t, json->text.p, json->text.n);
}

/* ---- progress ---- */

tool_progress tool_progress_begin(const tool *t, const char *label) {
    double now = tool_seconds();
    return (tool_progress){
        .t = t, .label = label, .start = now, .last = now, .terminal = isatty(STDERR_FILENO) != 0};
}

void tool_progress_update(tool_progress *progress, double done, double total, const char *extra) {
    double now = tool_seconds(), interval = progress->terminal ? 0.1 : 5.0;
    if (progress->t->quiet || total <= 0 || now - progress->last < interval) return;
    progress->last = now;
    progress->shown = true;
    double left = done > 0 ? (now - progress->start) * (total - done) / done : 0;
    fprintf(stderr, "%s%s %3.0f %%, %.0f s left%s%s%s", progress->terminal ? "\r" : "", progress->label,
            100 * done / total, left, extra ? ", " : "", extra ? extra : "",
            progress->terminal ? "\033[K" : "\n");
    fflush(stderr);
}

void tool_progress_end(tool_progress *progress) {
    if (progress->terminal && progress->shown) fputs("\r\033[K", stderr);
    progress->shown = false;
}
