/* Reading whole files, mappings and paths. Output lives in file_output.c. */
#include "base/file.h"
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Opens for reading anything but a folder. The descriptor, or -1 after reporting. */
static int open_input(const char *path, syl_diag *diag, struct stat *info, syl_status *out_status) {
    const syl_source source = {path, NULL, 0};
    const syl_loc loc = {&source, 0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && fstat(fd, info) == 0 && !S_ISDIR(info->st_mode)) return fd;
    const char *why = fd >= 0 && S_ISDIR(info->st_mode) ? "it is a folder" : strerror(errno);
    *out_status = syl_error(diag, SYL_ERR_file_open, loc, "cannot open '%s': %s", path, why);
    if (fd >= 0) close(fd);
    return -1;
}

syl_status syl_file_read(syl_arena *arena, const char *path, size_t max_size, syl_diag *diag,
                         syl_source *out) {
    *out = (syl_source){0};
    const syl_source source = {path, NULL, 0};
    const syl_loc loc = {&source, 0};
    struct stat info;
    syl_status status = SYL_OK;
    int fd = open_input(path, diag, &info, &status);
    if (fd < 0) return status;

    /* A regular file tells its size; a pipe grows the buffer. One byte more than expected shows that there is
     * more. */
    size_t n = 0, expected = S_ISREG(info.st_mode) && info.st_size > 0 ? (size_t)info.st_size : 4096;
    char *text = NULL;
    for (size_t cap = 0;;) {
        if (n > max_size || (S_ISREG(info.st_mode) && expected > max_size)) {
            status =
                syl_error(diag, SYL_ERR_file_too_large, loc, "'%s' is larger than %zu bytes", path, max_size);
            break;
        }
        if (n == cap) {
            size_t fresh_cap = cap ? cap * 2 : expected + 1;
            char *fresh = syl_arena_alloc(arena, fresh_cap + 1);
            if (n) memcpy(fresh, text, n);
            text = fresh;
            cap = fresh_cap;
        }
        ssize_t got = read(fd, text + n, cap - n);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            status = syl_error(diag, SYL_ERR_file_read, loc, "cannot read '%s': %s", path, strerror(errno));
            break;
        }
        if (got == 0) {
            text[n] = 0;
            *out = (syl_source){syl_arena_strdup(arena, path), text, n};
            break;
        }
        n += (size_t)got;
    }
    close(fd);
    return status;
}

syl_status syl_file_map(const char *path, syl_diag *diag, syl_mapping *out) {
    *out = (syl_mapping){0};
    const syl_source source = {path, NULL, 0};
    const syl_loc loc = {&source, 0};
    struct stat info;
    syl_status status = SYL_OK;
    int fd = open_input(path, diag, &info, &status);
    if (fd < 0) return status;
    if (!S_ISREG(info.st_mode)) {
        status = syl_error(diag, SYL_ERR_file_open, loc, "cannot map '%s': it is not a regular file", path);
    } else if (info.st_size == 0) {
        out->data = (const unsigned char *)""; /* mmap refuses empty mappings; size 0 is never unmapped */
    } else {
        void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED)
            status = syl_error(diag, SYL_ERR_file_read, loc, "cannot map '%s': %s", path, strerror(errno));
        else
            *out = (syl_mapping){data, (size_t)info.st_size};
    }
    close(fd);
    return status;
}

void syl_file_unmap(syl_mapping *mapping) {
    if (mapping->size) munmap((void *)(uintptr_t)mapping->data, mapping->size);
    *mapping = (syl_mapping){0};
}

void syl_mapping_drop(const void *data, size_t size) {
    enum { worth = 256 << 10 };
    if (size < worth) return;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    /* Pages at the ends may be shared with what lies beside: they are fetched again where needed. */
    uintptr_t begin = (uintptr_t)data / page * page, end = (uintptr_t)data + size;
    (void)madvise((void *)begin, end - begin, MADV_DONTNEED);
}

bool syl_file_same(const char *a, const char *b) {
    struct stat left, right;
    if (stat(a, &left) != 0 || stat(b, &right) != 0) return false;
    return left.st_dev == right.st_dev && left.st_ino == right.st_ino;
}

char *syl_path_beside(syl_arena *arena, const char *base, const char *path) {
    const char *slash = strrchr(base, '/');
    if (path[0] == '/' || !slash) return syl_arena_strdup(arena, path);
    return syl_arena_printf(arena, "%.*s/%s", (int)(slash - base), base, path);
}
