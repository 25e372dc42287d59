/* The object cache: one file a kernel, named by the hash of everything that made it.
 *
 * File: magic, the key again, the size and the hash of the object, the object. A file that is torn, damaged or of another key counts as absent and is
 * written anew. Code from the folder is run, so the folder must belong to this user and be closed to others. */
#include "codegen/host/emit.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/file.h"

static const char magic[8] = "SYLOBJ1\n";

typedef struct cache_header {
    char magic[8], key[32], hash[32];
    uint64_t size;
} cache_header;

syl_hash em_cache_key(const kir_kernel *kernel, const syl_host_target *target) {
    syl_arena arena;
    syl_arena_init(&arena);
    syl_text text = {.arena = &arena};
    kir_kernel nameless = *kernel;
    nameless.name = "";
    kir_print(&nameless, &text);
    int *stage = SYL_NEW_ARRAY(&arena, int, kernel->body.n);
    bool *keep = SYL_NEW_ARRAY(&arena, bool, kernel->body.n);
    kir_schedule(kernel, stage, keep);
    for (size_t i = 0; i < kernel->body.n; i++) syl_text_printf(&text, "%d%c", stage[i], keep[i] ? '+' : ' ');
    const kir_attention *a = &kernel->attention;
    syl_text_printf(&text, "generator %d llvm %s\n", EM_GENERATOR, syl_host_llvm_version());
    syl_text_printf(&text, "gemm buffers %d %d attention buffers %d %d %d %d %d\n", kernel->gemm.a,
                    kernel->gemm.w, a->q, a->out, a->cache, a->pos, a->seq);
    syl_text_printf(&text, "target %s %s %s registers %d x %d fma %d\n", target->triple, target->cpu,
                    target->features, target->vector_registers, target->vector_floats, target->fma);
    syl_hash hash = syl_hash_bytes(text.p, text.n);
    syl_arena_free(&arena);
    return hash;
}

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

bool em_cache_usable(const char *dir, syl_diag *diag) {
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

static char *file_of(syl_arena *arena, const char *dir, const syl_hash *key) {
    return syl_arena_printf(arena, "%s/%s.o", dir, key->hex);
}

static bool read_entry(const syl_mapping *file, const syl_hash *key, em_object *out) {
    cache_header header;
    if (file->size < sizeof header) return false;
    memcpy(&header, file->data, sizeof header);
    if (memcmp(header.magic, magic, sizeof magic) || memcmp(header.key, key->hex, 32) ||
        header.size != file->size - sizeof header)
        return false;
    syl_hash hash = syl_hash_bytes(file->data + sizeof header, (size_t)header.size);
    if (memcmp(hash.hex, header.hash, 32)) return false;
    out->size = (size_t)header.size;
    out->data = malloc(out->size);
    if (!out->data) return false;
    memcpy(out->data, file->data + sizeof header, out->size);
    return true;
}

bool em_cache_load(const char *dir, const syl_hash *key, em_object *out) {
    syl_arena arena;
    syl_arena_init(&arena);
    const char *path = file_of(&arena, dir, key);
    syl_mapping file = {0};
    syl_diag *quiet = syl_diag_create(NULL, NULL);
    bool found =
        !access(path, R_OK) && syl_file_map(path, quiet, &file) == SYL_OK && read_entry(&file, key, out);
    syl_file_unmap(&file);
    syl_diag_destroy(quiet);
    syl_arena_free(&arena);
    return found;
}

bool syl_host_object_valid(const char *path) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    syl_hash key = {{0}};
    if (strlen(name) < 32) return false;
    memcpy(key.hex, name, 32);
    syl_mapping file = {0};
    em_object object = {0};
    syl_diag *quiet = syl_diag_create(NULL, NULL);
    bool valid = quiet && syl_file_map(path, quiet, &file) == SYL_OK && read_entry(&file, &key, &object);
    free(object.data);
    syl_file_unmap(&file);
    syl_diag_destroy(quiet);
    return valid;
}

void em_cache_store(const char *dir, const syl_hash *key, const em_object *object) {
    syl_arena arena;
    syl_arena_init(&arena);
    cache_header header = {.size = object->size};
    syl_hash hash = syl_hash_bytes(object->data, object->size);
    memcpy(header.magic, magic, sizeof magic);
    memcpy(header.key, key->hex, 32);
    memcpy(header.hash, hash.hex, 32);
    syl_diag *quiet = syl_diag_create(NULL, NULL); /* a full disk only costs the next start some time */
    syl_output *output;
    if (syl_output_open(file_of(&arena, dir, key), quiet, &output) == SYL_OK) {
        bool ok = syl_output_write(output, &header, sizeof header) == SYL_OK &&
                  syl_output_write(output, object->data, object->size) == SYL_OK;
        if (!ok)
            syl_output_discard(output);
        else if (syl_output_commit(output) != SYL_OK)
            unlink(file_of(&arena, dir, key));
    }
    syl_diag_destroy(quiet);
    syl_arena_free(&arena);
}
