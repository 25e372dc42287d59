/* What the tests of base share: a sink that remembers the first error, and a folder of its own for files. */
#ifndef SYL_TESTS_BASE_TESTING_H
#define SYL_TESTS_BASE_TESTING_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/diag.h"

typedef struct recorder {
    syl_diag *diag;
    syl_error_id error;
    size_t line, column, offset, count;
    char text[256];
} recorder;

static inline void record(void *user, const syl_message *message) {
    recorder *r = user;
    if (message->severity != SYL_SEV_ERROR || r->count++) return;
    r->error = message->error;
    r->offset = message->loc.offset;
    syl_loc_line(message->loc, &r->line, &r->column);
    snprintf(r->text, sizeof r->text, "%s", message->text);
}

static inline void recorder_init(recorder *r) {
    memset(r, 0, sizeof *r);
    r->diag = syl_diag_create(record, r);
    assert_non_null(r->diag);
}

/* A fresh diag: each passes on only its first 20 errors. */
static inline void recorder_renew(recorder *r) {
    syl_diag_destroy(r->diag);
    recorder_init(r);
}

/* Asserts that exactly one error, of this name, was reported with this status; and is ready for the next
 * case. */
static inline void expect_error(recorder *r, syl_status status, const char *name, const char *what) {
    if (r->count != 1 || strcmp(syl_error_name(r->error), name) != 0 || status != syl_error_status(r->error))
        fail_msg("%s: expected one %s, found %zu, first %s (%s), status %s", what, name, r->count,
                 r->count ? syl_error_name(r->error) : "-", r->text, syl_status_name(status));
    r->count = 0;
}

static inline void expect_ok(const recorder *r, syl_status status) {
    if (status != SYL_OK || r->count)
        fail_msg("expected success, found %s: %s", syl_status_name(status), r->text);
}

/* Where a test program puts its files; made by make_folder as the group's setup. */
static char test_folder[] = "/tmp/syl-test-XXXXXX";

static inline int make_folder(void **state) {
    (void)state;
    return mkdtemp(test_folder) ? 0 : -1;
}

static inline char *in_folder(syl_arena *arena, const char *name) {
    return syl_arena_printf(arena, "%s/%s", test_folder, name);
}

#endif
