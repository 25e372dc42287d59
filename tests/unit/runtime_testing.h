/* What the tests of the runtime share: messages as text, a pool, and a folder that goes away. */
#ifndef TESTS_UNIT_RUNTIME_TESTING_H
#define TESTS_UNIT_RUNTIME_TESTING_H

#include <dirent.h>
#include <unistd.h>
#include "base_testing.h"
#include "base/threads.h"

/* The group's teardown: removes test_folder and the files in it. */
static inline int remove_folder(void **state) {
    (void)state;
    char path[512];
    DIR *dir = opendir(test_folder);
    for (struct dirent *entry = dir ? readdir(dir) : NULL; entry; entry = readdir(dir)) {
        snprintf(path, sizeof path, "%s/%s", test_folder, entry->d_name);
        if (entry->d_name[0] != '.') unlink(path);
    }
    if (dir) closedir(dir);
    return rmdir(test_folder);
}

typedef struct fixture {
    syl_arena arena;
    syl_text messages;
    syl_diag *diag;
    syl_pool *pool;
} fixture;

static inline void fixture_open(fixture *f, int threads) {
    memset(f, 0, sizeof *f);
    syl_arena_init(&f->arena);
    f->messages.arena = &f->arena;
    f->diag = syl_diag_create(syl_diag_capture, &f->messages);
    f->pool = syl_pool_create(threads);
    assert_non_null(f->diag);
    assert_non_null(f->pool);
}

static inline void fixture_close(fixture *f) {
    syl_pool_destroy(f->pool);
    syl_diag_destroy(f->diag);
    syl_arena_free(&f->arena);
}

static inline void fixture_ok(const fixture *f, syl_status status) {
    if (status != SYL_OK) fail_msg("%s: %s", syl_status_name(status), f->messages.p ? f->messages.p : "-");
}

static inline bool fixture_said(const fixture *f, const char *text) {
    return f->messages.p && strstr(f->messages.p, text);
}

/* Asserts that one error of this name was reported with its status, saying `said`; and forgets it. */
static inline void fixture_error(fixture *f, syl_status status, const char *name, const char *said,
                                 const char *what) {
    char mark[80];
    snprintf(mark, sizeof mark, "error[%s]", name);
    if (status == SYL_OK || !fixture_said(f, mark) || !fixture_said(f, said)) {
        fail_msg("%s: expected %s (%s), found %s: %s", what, name, said, syl_status_name(status),
                 f->messages.p ? f->messages.p : "-");
    }
    f->messages.n = 0;
    if (f->messages.p) f->messages.p[0] = 0;
}

static inline const char *test_path(fixture *f, const char *name) {
    return in_folder(&f->arena, name);
}

#endif
