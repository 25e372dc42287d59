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

/* ---- the library ---- */

/* --quiet leaves the errors. */
static void print_notice(void *user, const syl_notice *notice) {
    const tool *t = user;
    if (!t->quiet || notice->level == SYL_LEVEL_ERROR) fputs(notice->rendered, stderr);
}

static void show_progress(void *user, const char *what, int64_t done, int64_t total) {
    tool *t = user;
    if (!t->library.t) t->library = tool_progress_begin(t, what);
    tool_progress_update(&t->library, (double)done, (double)total, NULL);
    if (done < total) return;
    tool_progress_end(&t->library);
    t->library.t = NULL;
}

syl_status tool_instance(tool *t, syl_instance **out) {
    syl_instance_options options = {.size = sizeof options,
                                    .threads = (int)t->threads,
                                    .cpu = t->cpu,
                                    .device = t->device,
                                    .progress = show_progress,
                                    .message = print_notice,
                                    .user = t};
    if (!t->instance) SYL_TRY(syl_instance_create(&options, &t->instance));
    *out = t->instance;
    return SYL_OK;
}

syl_status tool_open(tool *t, const char *path, syl_program **out) {
    syl_instance *instance;
    syl_program_info info = {.size = sizeof info};
    SYL_TRY(tool_instance(t, &instance));
    SYL_TRY(syl_program_load(instance, path, out));
    SYL_TRY(syl_program_describe(*out, &info));
    tool_say(
        t,
        "loaded %s on %s%s%s%s in %.2f s (open %.2f, pack %.2f, %d kernels %.2f: %d compiled, %d from the "
        "cache)",
        path, info.device, info.processor ? " (" : "", info.processor ? info.processor : "",
        info.processor ? ")" : "", info.total_s, info.open_s, info.pack_s, info.kernels, info.compile_s,
        info.kernels_compiled, info.kernels_cached);
    return SYL_OK;
}

syl_status tool_open_lm(tool *t, const char *path, int64_t context, syl_program **program,
                        syl_session **session) {
    syl_session_options options = {.size = sizeof options, .context = context};
    *session = NULL;
    SYL_TRY(tool_open(t, path, program));
    syl_status status = syl_session_create(t->instance, *program, &options, session);
    if (status == SYL_OK) status = syl_session_truncate(*session, 0, 0); /* a language model has sequences */
    if (status != SYL_OK) {
        syl_session_destroy(*session);
        syl_program_destroy(*program);
        *session = NULL;
        *program = NULL;
    }
    return status;
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

void tool_json_raw(tool_json *json, const char *key, const char *value) {
    json_key(json, key);
    syl_text_printf(&json->text, "%s", value);
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
