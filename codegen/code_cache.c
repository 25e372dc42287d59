/* The folder of compiled code (code_cache.h). Entries are read through one descriptor, so what was checked is what is used. */
#include "codegen/code_cache.h"
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/file.h"

typedef struct entry_header {
    char magic[8], key[32], hash[32];
    uint64_t size;
} entry_header;

enum { MAX_ENTRY = 1 << 30 };

/* mkdir -p, new folders private. */
static bool make_folders(const char *dir) {
    char path[4096];
    if (snprintf(path, sizeof path, "%s", dir) >= (int)sizeof path) return false;
    for (char *at = strchr(path + 1, '/'); at; at = strchr(at + 1, '/')) {
        *at = 0;
        if (mkdir(path, 0700) && errno != EEXIST) return false;
        *at = '/';
    }
    return !mkdir(path, 0700) || errno == EEXIST;
}

bool syl_code_folder_usable(const char *dir, syl_diag *diag) {
    struct stat info;
    if (!make_folders(dir) || stat(dir, &info)) {
        syl_warning(diag, SYL_NOWHERE, "no code cache: cannot make folder '%s': %s", dir, strerror(errno));
        return false;
    }
    if (!S_ISDIR(info.st_mode) || info.st_uid != geteuid() || (info.st_mode & 077)) {
        syl_warning(
            diag, SYL_NOWHERE,
            "no code cache: '%s' must be a folder of this user that nobody else may enter (chmod 700)", dir);
        return false;
    }
    return true;
}

static bool read_all(int fd, void *data, size_t size) {
    for (char *at = data; size;) {
        ssize_t got = read(fd, at, size);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        at += got;
        size -= (size_t)got;
    }
    return true;
}

/* A regular file of this user, not a link to elsewhere; -1 if it is not. The folder keeps others out, whatever the file's mode. */
static int open_own(const char *path, struct stat *info) {
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return -1;
    if (fstat(fd, info) == 0 && S_ISREG(info->st_mode) && info->st_uid == geteuid()) return fd;
    close(fd);
    return -1;
}

static bool read_entry(int fd, const struct stat *info, const syl_code_kind *kind, const char key[32],
                       void **data, size_t *size) {
    entry_header header;
    if (info->st_size < (off_t)sizeof header || info->st_size > MAX_ENTRY ||
        !read_all(fd, &header, sizeof header))
        return false;
    if (memcmp(header.magic, kind->magic, sizeof header.magic) || memcmp(header.key, key, 32) ||
        header.size != (uint64_t)info->st_size - sizeof header)
        return false;
    *size = (size_t)header.size;
    *data = malloc(*size + 1);
    if (*data && read_all(fd, *data, *size)) {
        syl_hash hash = syl_hash_bytes(*data, *size);
        if (memcmp(hash.hex, header.hash, 32) == 0) return true;
    }
    free(*data);
    *data = NULL;
    return false;
}

static bool read_file(const char *path, const syl_code_kind *kind, const char key[32], bool used, void **data,
                      size_t *size) {
    struct stat info;
    int fd = open_own(path, &info);
    if (fd < 0) return false;
    bool valid = read_entry(fd, &info, kind, key, data, size);
    if (valid && used) futimens(fd, NULL); /* the longest unused are dropped first (syl cache gc) */
    close(fd);
    return valid;
}

static char *file_of(syl_arena *arena, const char *dir, const syl_code_kind *kind, const syl_hash *key) {
    return syl_arena_printf(arena, "%s/%s%s", dir, key->hex, kind->suffix);
}

bool syl_code_load(const char *dir, const syl_code_kind *kind, const syl_hash *key, void **data,
                   size_t *size) {
    syl_arena arena;
    syl_arena_init(&arena);
    bool found = read_file(file_of(&arena, dir, kind, key), kind, key->hex, true, data, size);
    syl_arena_free(&arena);
    return found;
}

bool syl_code_valid(const char *path, const syl_code_kind *kind) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    void *data = NULL;
    size_t size;
    bool valid = strlen(name) > 32 && read_file(path, kind, name, false, &data, &size);
    free(data);
    return valid;
}

static bool write_entry(const char *path, const entry_header *header, const void *data, syl_diag *diag) {
    syl_output *output;
    if (syl_output_open(path, diag, &output) != SYL_OK) return false;
    if (syl_output_write(output, header, sizeof *header) == SYL_OK &&
        syl_output_write(output, data, (size_t)header->size) == SYL_OK)
        return syl_output_publish(output) == SYL_OK;
    syl_output_discard(output);
    return false;
}

void syl_code_store(const char *dir, const syl_code_kind *kind, const syl_hash *key, const void *data,
                    size_t size) {
    syl_arena arena;
    struct stat info;
    syl_diag *quiet = syl_diag_create(NULL, NULL);
    syl_arena_init(&arena);
    const char *path = file_of(&arena, dir, kind, key);
    entry_header header = {.size = size};
    syl_hash hash = syl_hash_bytes(data, size);
    memcpy(header.magic, kind->magic, sizeof header.magic);
    memcpy(header.key, key->hex, 32);
    memcpy(header.hash, hash.hex, 32);
    /* What is in the way and could never be read back: a link would be followed by the writer. */
    if (lstat(path, &info) == 0 && !S_ISREG(info.st_mode)) unlink(path);
    if (quiet) write_entry(path, &header, data, quiet);
    syl_diag_destroy(quiet);
    syl_arena_free(&arena);
}
