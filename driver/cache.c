/* The cache folder (cache.h). Only files whose names are 32 hexadecimal digits and a suffix of the table below are entries. */
#include "driver/cache.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "codegen/cuda/cache.h"
#include "codegen/host/host.h"
#include "driver/tensor_store.h"
#include "runtime/engine.h"

syl_status syl_cache_tensors(syl_arena *arena, syl_diag *diag, const char **out) {
    const char *folder;
    SYL_TRY(syl_cache_folder(arena, diag, &folder));
    *out = folder ? syl_arena_printf(arena, "%s/tensors", folder) : NULL;
    return SYL_OK;
}

/* Of failed compiles the sources are left for the user to look at: entries that are never valid, so verify drops them. */
static bool never_valid(const char *path) {
    (void)path;
    return false;
}

static const struct suffix {
    const char *text;
    syl_cache_kind kind;
    bool (*valid)(const char *path);
} suffixes[] = {{".o", SYL_CACHE_KERNEL, syl_host_object_valid},
                {SYL_CUDA_SUFFIX, SYL_CACHE_KERNEL, syl_cuda_entry_valid},
                {SYL_CUDA_FAILED, SYL_CACHE_KERNEL, never_valid},
                {SYL_STORE_SUFFIX, SYL_CACHE_TENSOR, syl_store_valid}};

/* NULL where the name is none of an entry. */
static const struct suffix *suffix_of(const char *name) {
    if (strspn(name, "0123456789abcdef") != 32) return NULL;
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++)
        if (strcmp(name + 32, suffixes[i].text) == 0) return &suffixes[i];
    return NULL;
}

static syl_status read_folder(syl_arena *arena, const char *folder, bool needed, syl_diag *diag,
                              syl_cache_list *out) {
    DIR *dir = opendir(folder);
    if (!dir && errno == ENOENT && !needed) return SYL_OK;
    if (!dir) {
        return syl_error(diag, SYL_ERR_cache_folder, SYL_NOWHERE, "cannot read the folder \"%s\": %s", folder,
                         strerror(errno));
    }
    for (struct dirent *file; (file = readdir(dir));) {
        syl_cache_entry entry;
        struct stat info;
        const struct suffix *suffix = suffix_of(file->d_name);
        if (!suffix) continue;
        entry.kind = suffix->kind;
        if (fstatat(dirfd(dir), file->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(info.st_mode))
            continue;
        entry.path = syl_arena_printf(arena, "%s/%s", folder, file->d_name);
        entry.bytes = info.st_size;
        entry.used = (int64_t)info.st_mtim.tv_sec * 1000000000 + info.st_mtim.tv_nsec;
        SYL_PUSH(arena, &out->entries, entry);
        out->bytes += entry.bytes;
    }
    closedir(dir);
    return SYL_OK;
}

static int compare_entries(const void *a, const void *b) {
    const syl_cache_entry *x = a, *y = b;
    return x->used != y->used ? (x->used > y->used) - (x->used < y->used) : strcmp(x->path, y->path);
}

syl_status syl_cache_read(syl_arena *arena, const char *folder, syl_diag *diag, syl_cache_list *out) {
    *out = (syl_cache_list){0};
    SYL_TRY(read_folder(arena, folder, true, diag, out));
    SYL_TRY(read_folder(arena, syl_arena_printf(arena, "%s/tensors", folder), false, diag, out));
    if (out->entries.n) qsort(out->entries.p, out->entries.n, sizeof *out->entries.p, compare_entries);
    return SYL_OK;
}

bool syl_cache_valid(const syl_cache_entry *entry) {
    const char *slash = strrchr(entry->path, '/');
    const struct suffix *suffix = suffix_of(slash ? slash + 1 : entry->path);
    return suffix && suffix->valid(entry->path);
}

syl_status syl_cache_remove(const syl_cache_entry *entry, syl_diag *diag) {
    if (unlink(entry->path) == 0 || errno == ENOENT) return SYL_OK;
    return syl_error(diag, SYL_ERR_cache_folder, SYL_NOWHERE, "cannot remove \"%s\": %s", entry->path,
                     strerror(errno));
}

syl_status syl_cache_trim(const char *folder, int64_t max_bytes, syl_diag *diag, int64_t *freed) {
    syl_arena arena;
    syl_cache_list list;
    syl_arena_init(&arena);
    syl_status status = syl_cache_read(&arena, folder, diag, &list);
    int64_t left = list.bytes;
    for (size_t i = 0; i < list.entries.n && left > max_bytes && status == SYL_OK; i++) {
        status = syl_cache_remove(&list.entries.p[i], diag);
        if (status == SYL_OK) left -= list.entries.p[i].bytes;
    }
    if (freed) *freed = list.bytes - left;
    syl_arena_free(&arena);
    return status;
}
