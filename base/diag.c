#include "base/diag.h"
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct syl_diag {
    syl_diag_sink sink;
    void *user;
    size_t errors;
    pthread_mutex_t lock;
};

enum { max_errors = 20 };

static const struct {
    const char *name, *help;
    syl_status status;
} error_table[] = {
#define ERROR(ident, name, status, help) {name, help, SYL_##status},
#include "base/errors.def"
};

const char *syl_error_name(syl_error_id id) {
    return error_table[id].name;
}
syl_status syl_error_status(syl_error_id id) {
    return error_table[id].status;
}
const char *syl_error_help(syl_error_id id) {
    return error_table[id].help;
}

const char *syl_status_name(syl_status status) {
    switch (status) {
#define STATUS(name, code, meaning)                                                                          \
    case SYL_##name:                                                                                         \
        return #name;
#include "include/syl/status.def"
    }
    return "?";
}

const char *syl_status_meaning(syl_status status) {
    switch (status) {
#define STATUS(name, code, meaning)                                                                          \
    case SYL_##name:                                                                                         \
        return meaning;
#include "include/syl/status.def"
    }
    return "?";
}

syl_diag *syl_diag_create(syl_diag_sink sink, void *user) {
    syl_diag *diag = calloc(1, sizeof *diag);
    if (!diag) return NULL;
    diag->sink = sink;
    diag->user = user;
    pthread_mutex_init(&diag->lock, NULL);
    return diag;
}

void syl_diag_destroy(syl_diag *diag) {
    if (!diag) return;
    pthread_mutex_destroy(&diag->lock);
    free(diag);
}

size_t syl_diag_errors(const syl_diag *diag) {
    return diag->errors;
}

static void emit(syl_diag *diag, syl_severity severity, syl_error_id id, syl_loc loc, const char *fmt,
                 va_list args) {
    if (!diag) return;
    syl_arena arena;
    syl_arena_init(&arena);
    syl_message message = {severity, id, loc, syl_arena_vprintf(&arena, fmt, args)};
    pthread_mutex_lock(&diag->lock);
    if (severity == SYL_SEV_ERROR) diag->errors++;
    if (diag->sink && diag->errors <= max_errors) diag->sink(diag->user, &message);
    pthread_mutex_unlock(&diag->lock);
    syl_arena_free(&arena);
}

syl_status syl_error(syl_diag *diag, syl_error_id id, syl_loc loc, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    emit(diag, SYL_SEV_ERROR, id, loc, fmt, args);
    va_end(args);
    return error_table[id].status;
}

#define REPORT(function, severity)                                                                           \
    void function(syl_diag *diag, syl_loc loc, const char *fmt, ...) {                                       \
        va_list args;                                                                                        \
        va_start(args, fmt);                                                                                 \
        emit(diag, severity, (syl_error_id)0, loc, fmt, args);                                               \
        va_end(args);                                                                                        \
    }
REPORT(syl_warning, SYL_SEV_WARNING)
REPORT(syl_remark, SYL_SEV_REMARK)
REPORT(syl_note, SYL_SEV_NOTE)

void syl_loc_line(syl_loc loc, size_t *out_line, size_t *out_column) {
    *out_line = *out_column = 0;
    if (!loc.source || !loc.source->text) return;
    size_t offset = loc.offset < loc.source->size ? loc.offset : loc.source->size, start = 0;
    *out_line = 1;
    for (size_t i = 0; i < offset; i++)
        if (loc.source->text[i] == '\n') {
            ++*out_line;
            start = i + 1;
        }
    *out_column = offset - start + 1;
}

static void render_source_line(const syl_loc *loc, size_t column, syl_text *out) {
    const char *text = loc->source->text;
    size_t size = loc->source->size, offset = loc->offset < size ? loc->offset : size;
    size_t start = offset - (column - 1), end = offset;
    while (end < size && text[end] != '\n' && text[end] != '\r') end++;
    /* Long lines (minified JSON) show a window around the place. */
    const size_t before = 60, after = 60;
    bool cut = end - offset > after;
    if (offset - start > before) start = offset - before;
    if (cut) end = offset + after;
    syl_text_printf(out, "    ");
    for (size_t i = start; i < end; i++) {
        char c = (unsigned char)text[i] < 0x20 || text[i] == 0x7f ? ' ' : text[i];
        syl_text_append(out, &c, 1);
    }
    syl_text_printf(out, "%s\n    %*s^\n", cut ? "..." : "", (int)(offset - start), "");
}

void syl_message_render(const syl_message *message, syl_text *out) {
    static const char *const names[] = {"error", "warning", "remark", "note"};
    size_t line, column;
    syl_loc_line(message->loc, &line, &column);
    if (message->loc.source) {
        if (line)
            syl_text_printf(out, "%s:%zu:%zu: ", message->loc.source->name, line, column);
        else if (message->loc.offset)
            syl_text_printf(out, "%s:+%zu: ", message->loc.source->name, message->loc.offset);
        else
            syl_text_printf(out, "%s: ", message->loc.source->name);
    }
    if (message->severity == SYL_SEV_ERROR)
        syl_text_printf(out, "error[%s]: %s\n", syl_error_name(message->error), message->text);
    else
        syl_text_printf(out, "%s: %s\n", names[message->severity], message->text);
    /* A remark is about a decision, not about the text it points to. */
    if (line && message->severity != SYL_SEV_REMARK) render_source_line(&message->loc, column, out);
    if (message->severity == SYL_SEV_ERROR)
        syl_text_printf(out, "    help: %s\n", syl_error_help(message->error));
}

void syl_diag_capture(void *text, const syl_message *message) {
    syl_message_render(message, text);
}
