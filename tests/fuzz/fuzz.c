/* One run of a fuzz target: its diagnostics and its files (fuzz.h). */
#include "fuzz.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/file.h"
#include "base/json.h"

static struct {
    const char *path;
    const void *data;
    size_t size;
} files[4];
static size_t n_files;

void fuzz_open(fuzz *f) {
    memset(f, 0, sizeof *f);
    syl_arena_init(&f->arena);
    f->messages.arena = &f->arena;
    f->diag = syl_diag_create(syl_diag_capture, &f->messages);
    if (!f->diag) abort();
}

void fuzz_close(fuzz *f) {
    syl_diag_destroy(f->diag);
    syl_arena_free(&f->arena);
    n_files = 0;
}

_Noreturn void fuzz_die(const fuzz *f, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fprintf(stderr, "\n%s\n", f->messages.p ? f->messages.p : "(nothing was reported)");
    abort();
}

bool fuzz_ok(fuzz *f, syl_status status) {
    size_t errors = syl_diag_errors(f->diag);
    if (status == SYL_INTERNAL) fuzz_die(f, "finding: the status is INTERNAL");
    if (status == SYL_OK && errors) fuzz_die(f, "finding: a call that succeeded reported %zu errors", errors);
    if (status != SYL_OK && !errors)
        fuzz_die(f, "finding: a failure, %s, without a report", syl_status_name(status));
    f->messages.n = 0;
    syl_diag_destroy(f->diag);
    f->diag = syl_diag_create(syl_diag_capture, &f->messages);
    if (!f->diag) abort();
    return status == SYL_OK;
}

void fuzz_json(fuzz *f, const char *what, const char *text, size_t size) {
    syl_source source = {what, text, size};
    syl_json json;
    if (!fuzz_ok(f, syl_json_parse(&source, f->diag, &json)))
        fuzz_die(f, "finding: the %s is not JSON:\n%.*s", what, (int)size, text);
    syl_json_free(&json);
}

void fuzz_serve(const char *path, const void *data, size_t size) {
    if (n_files == sizeof files / sizeof *files) abort();
    files[n_files].path = path;
    files[n_files].data = data;
    files[n_files++].size = size;
}

/* ---- in place of base/file.c and access, by the linker's --wrap ---- */

int __wrap_access(const char *path, int mode);
void __wrap_syl_mapping_drop(const void *data, size_t size);
syl_status __wrap_syl_file_map(const char *path, syl_diag *diag, syl_mapping *out);
void __wrap_syl_file_unmap(syl_mapping *mapping);
syl_status __wrap_syl_file_read(syl_arena *arena, const char *path, size_t max_size, syl_diag *diag,
                                syl_source *out);

syl_status __wrap_syl_file_map(const char *path, syl_diag *diag, syl_mapping *out) {
    *out = (syl_mapping){0};
    for (size_t i = 0; i < n_files; i++) {
        if (strcmp(path, files[i].path) != 0) continue;
        void *copy;
        if (posix_memalign(&copy, 64, files[i].size)) abort();
        if (files[i].size) memcpy(copy, files[i].data, files[i].size);
        *out = (syl_mapping){copy, files[i].size};
        return SYL_OK;
    }
    return syl_error(diag, SYL_ERR_file_open, SYL_NOWHERE, "cannot open '%s'", path);
}

void __wrap_syl_file_unmap(syl_mapping *mapping) {
    free((void *)(uintptr_t)mapping->data);
    *mapping = (syl_mapping){0};
}

syl_status __wrap_syl_file_read(syl_arena *arena, const char *path, size_t max_size, syl_diag *diag,
                                syl_source *out) {
    syl_mapping mapping;
    *out = (syl_source){0};
    SYL_TRY(__wrap_syl_file_map(path, diag, &mapping));
    syl_status status = SYL_OK;
    if (mapping.size > max_size)
        status = syl_error(diag, SYL_ERR_file_too_large, SYL_NOWHERE, "'%s' is too large", path);
    else
        *out = (syl_source){syl_arena_strdup(arena, path),
                            syl_arena_strndup(arena, (const char *)mapping.data, mapping.size), mapping.size};
    __wrap_syl_file_unmap(&mapping);
    return status;
}

void __wrap_syl_mapping_drop(const void *data, size_t size) {
    (void)data, (void)size; /* the heap has nothing to fetch it from again */
}

int __wrap_access(const char *path, int mode) {
    (void)mode;
    for (size_t i = 0; i < n_files; i++)
        if (strcmp(path, files[i].path) == 0) return 0;
    return -1;
}
