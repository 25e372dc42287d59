/* Diagnostics: what failed, where, why, and what to do next.
 *
 * A function that fails reports once, at the place that knows most, and returns the status of the report:
 *     return syl_error(diag, SYL_ERR_json_syntax, loc, "expected ',' or '}', found '%c'", c);
 * Messages are lower case without a full stop, quote the user's text, and say what was expected and what was
 * found. The rows of errors.def give each error its printed name, status and help line. A sink receives every
 * message; the library itself prints nothing. All functions here may be called from several threads with one
 * syl_diag. */
#ifndef SYL_BASE_DIAG_H
#define SYL_BASE_DIAG_H

#include <stddef.h>
#include <stdio.h>
#include "base/arena.h"

typedef enum syl_error_id {
#define ERROR(ident, name, status, help) SYL_ERR_##ident,
#include "base/errors.def"
    SYL_ERR_COUNT
} syl_error_id;

typedef enum syl_severity { SYL_SEV_ERROR, SYL_SEV_WARNING, SYL_SEV_REMARK, SYL_SEV_NOTE } syl_severity;

/* A file or text that locations point into. `text` may be NULL (binary file): then places print as
 * name:+offset. */
typedef struct syl_source {
    const char *name; /* borrowed: must outlive every location */
    const char *text; /* borrowed, or NULL */
    size_t size;
} syl_source;

/* A place: source may be NULL (no place known). Line and column are computed only when printing. */
typedef struct syl_loc {
    const syl_source *source;
    size_t offset;
} syl_loc;
#define SYL_NOWHERE ((syl_loc){0})

typedef struct syl_message {
    syl_severity severity;
    syl_error_id error; /* errors only */
    syl_loc loc;
    const char *text; /* borrowed for the call */
} syl_message;

typedef void (*syl_diag_sink)(void *user, const syl_message *message);

typedef struct syl_diag syl_diag;
syl_diag *syl_diag_create(syl_diag_sink sink, void *user); /* sink NULL: messages are only counted */
void syl_diag_destroy(syl_diag *diag);
size_t syl_diag_errors(const syl_diag *diag);

/* Reports an error and returns its status. At most 20 errors reach the sink. */
syl_status syl_error(syl_diag *diag, syl_error_id id, syl_loc loc, const char *fmt, ...) SYL_PRINTF(4, 5);
void syl_warning(syl_diag *diag, syl_loc loc, const char *fmt, ...) SYL_PRINTF(3, 4);
void syl_remark(syl_diag *diag, syl_loc loc, const char *fmt, ...)
    SYL_PRINTF(3, 4); /* what a pass decided, and why */
void syl_note(syl_diag *diag, syl_loc loc, const char *fmt, ...)
    SYL_PRINTF(3, 4); /* attaches to the last message */

const char *syl_error_name(syl_error_id id); /* "json-syntax" */
syl_status syl_error_status(syl_error_id id);
const char *syl_error_help(syl_error_id id);

/* 1-based line and column (bytes) of a place in a text source; 0, 0 where there is none. */
void syl_loc_line(syl_loc loc, size_t *out_line, size_t *out_column);

/* Renders as the command prints it: "file:line:col: error[name]: text", the source line, a caret, the help
 * line. */
void syl_message_render(const syl_message *message, syl_text *out);

/* A sink that appends rendered messages to the syl_text passed as user; for tests. */
void syl_diag_capture(void *text, const syl_message *message);

#endif
