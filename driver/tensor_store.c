/* The file of one tensor (tensor_store.h):
 *
 *     header    magic, key, sizes of the parts, number of pieces, hash of the header so far and the table
 *     parts     one behind the other
 *     table     the pieces they were written in, by rising offset: offset among the parts, size, XXH3-128
 *
 * Pieces carry their hashes so that threads which write a tensor together hash it together. Together they cover
 * every byte of the parts once. Numbers are little-endian. */
#include "driver/tensor_store.h"

#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/size.h"
#include "runtime/engine.h"

static const char magic[8] = "SYLTEN1\n";

typedef struct entry_header {
    char magic[8], key[32];
    uint64_t parts, size[SYL_STORE_PARTS], pieces;
    char hash[32];
} entry_header;

typedef struct entry_piece {
    uint64_t offset, size;
    char hash[32];
} entry_piece;

struct syl_store {
    char *folder;
    syl_diag *diag, *quiet;
    pthread_mutex_t lock;
    bool warned, read_only;
};

struct syl_store_entry {
    syl_store *store;
    syl_output *output;
    entry_header header;
    uint64_t total;
    pthread_mutex_t lock;
    entry_piece *pieces;
    size_t n, cap;
    bool failed;
};

/* ---- the folder ---- */

syl_status syl_store_open(const char *folder, syl_diag *diag, syl_store **out) {
    *out = NULL;
    SYL_TRY(syl_private_folder(folder, diag));
    syl_store *store = calloc(1, sizeof *store);
    if (store) {
        store->folder = strdup(folder);
        store->diag = diag;
        store->quiet = syl_diag_create(NULL, NULL);
        pthread_mutex_init(&store->lock, NULL);
    }
    if (!store || !store->folder || !store->quiet) {
        syl_store_close(store);
        return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory to open \"%s\"", folder);
    }
    syl_output_sweep(folder, NULL);
    *out = store;
    return SYL_OK;
}

void syl_store_read_only(syl_store *store) {
    store->read_only = true;
}

void syl_store_close(syl_store *store) {
    if (!store) return;
    syl_diag_destroy(store->quiet);
    pthread_mutex_destroy(&store->lock);
    free(store->folder);
    free(store);
}

static char *path_of(syl_arena *arena, const syl_store *store, const char key[32]) {
    return syl_arena_printf(arena, "%s/%.32s" SYL_STORE_SUFFIX, store->folder, key);
}

static syl_hash hash_of(const entry_header *header, const void *table, size_t size) {
    syl_hasher *hasher = syl_hasher_create();
    if (!hasher) return (syl_hash){{0}};
    syl_hasher_field(hasher, header, offsetof(entry_header, hash));
    syl_hasher_field(hasher, table, size);
    return syl_hasher_finish(hasher);
}

/* ---- reading ---- */

static bool total_of(const entry_header *header, uint64_t *total) {
    *total = 0;
    for (int p = 0; p < SYL_STORE_PARTS; p++) {
        if (__builtin_add_overflow(*total, header->size[p], total)) return false;
    }
    return header->parts >= 1 && header->parts <= SYL_STORE_PARTS;
}

/* Checks a whole file; *header gets its header. */
static bool check_file(const syl_mapping *file, const char *key, entry_header *header) {
    uint64_t total, at = 0;
    size_t table_size, size;
    if (file->size < sizeof *header) return false;
    memcpy(header, file->data, sizeof *header);
    if (memcmp(header->magic, magic, sizeof magic) || memcmp(header->key, key, 32)) return false;
    if (!total_of(header, &total) || !syl_size_mul(header->pieces, sizeof(entry_piece), &table_size) ||
        !syl_size_add(sizeof *header + table_size, (size_t)total, &size) || table_size > file->size ||
        size != file->size)
        return false;
    const unsigned char *data = file->data + sizeof *header, *table = data + total;
    if (memcmp(hash_of(header, table, table_size).hex, header->hash, 32)) return false;
    for (uint64_t i = 0; i < header->pieces; i++) {
        entry_piece piece;
        memcpy(&piece, table + i * sizeof piece, sizeof piece);
        if (piece.offset != at || piece.size > total - at) return false;
        if (memcmp(syl_hash_mapped(data + at, piece.size).hex, piece.hash, 32)) return false;
        at += piece.size;
    }
    return at == total;
}

static syl_status hand_over(const unsigned char *data, const entry_header *header,
                            syl_status (*sink)(void *user, int part, size_t offset, const void *data,
                                               size_t size),
                            void *user) {
    enum { piece = 4 << 20 };
    for (int p = 0; p < (int)header->parts; p++) {
        for (size_t at = 0, n; at < header->size[p]; at += n) {
            n = header->size[p] - at < piece ? header->size[p] - at : piece;
            SYL_TRY(sink(user, p, at, data + at, n));
            syl_mapping_drop(data + at, n);
        }
        data += header->size[p];
    }
    return SYL_OK;
}

static bool shape_equal(const entry_header *header, const syl_store_shape *shape) {
    bool same = header->parts == (uint64_t)shape->parts;
    for (int p = 0; same && p < shape->parts; p++) same = header->size[p] == shape->size[p];
    return same;
}

syl_status syl_store_load(syl_store *store, const syl_hash *key, const syl_store_shape *shape,
                          syl_status (*sink)(void *user, int part, size_t offset, const void *data,
                                             size_t size),
                          void *user, bool *found) {
    syl_arena arena;
    syl_mapping file = {0};
    entry_header header;
    syl_arena_init(&arena);
    const char *path = path_of(&arena, store, key->hex);
    syl_status status = SYL_OK;
    *found = access(path, R_OK) == 0 && syl_file_map(path, store->quiet, &file) == SYL_OK;
    if (*found && (!check_file(&file, key->hex, &header) || !shape_equal(&header, shape))) {
        *found = false;
        unlink(path);
    }
    if (*found) {
        utimensat(AT_FDCWD, path, NULL, 0); /* used now: the oldest are dropped first */
        status = hand_over(file.data + sizeof header, &header, sink, user);
    }
    syl_file_unmap(&file);
    syl_arena_free(&arena);
    return status;
}

bool syl_store_has(const syl_store *store, const syl_hash *key, const syl_store_shape *shape) {
    syl_arena arena;
    syl_arena_init(&arena);
    entry_header header;
    FILE *file = fopen(path_of(&arena, store, key->hex), "rb");
    bool found = file && fread(&header, sizeof header, 1, file) == 1 &&
                 !memcmp(header.magic, magic, sizeof magic) && !memcmp(header.key, key->hex, 32) &&
                 shape_equal(&header, shape);
    if (file) fclose(file);
    syl_arena_free(&arena);
    return found;
}

bool syl_store_valid(const char *path) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    syl_mapping file = {0};
    entry_header header;
    syl_diag *quiet = syl_diag_create(NULL, NULL);
    bool valid = quiet && strlen(name) >= 32 && syl_file_map(path, quiet, &file) == SYL_OK &&
                 check_file(&file, name, &header);
    syl_file_unmap(&file);
    syl_diag_destroy(quiet);
    return valid;
}

/* ---- writing ---- */

static void warn(syl_store *store) {
    pthread_mutex_lock(&store->lock);
    bool first = !store->warned;
    store->warned = true;
    pthread_mutex_unlock(&store->lock);
    if (first)
        syl_warning(
            store->diag, SYL_NOWHERE,
            "cannot keep finished tensors in \"%s\" (is the disk full?): an interrupted compile would "
            "begin anew",
            store->folder);
}

syl_store_entry *syl_store_begin(syl_store *store, const syl_hash *key, const syl_store_shape *shape) {
    if (store->read_only) return NULL;
    syl_store_entry *entry = calloc(1, sizeof *entry);
    syl_arena arena;
    syl_arena_init(&arena);
    if (entry) {
        entry->store = store;
        memcpy(entry->header.magic, magic, sizeof magic);
        memcpy(entry->header.key, key->hex, 32);
        entry->header.parts = (uint64_t)shape->parts;
        for (int p = 0; p < shape->parts; p++) entry->header.size[p] = shape->size[p];
        pthread_mutex_init(&entry->lock, NULL);
        if (!total_of(&entry->header, &entry->total) ||
            syl_output_open(path_of(&arena, store, key->hex), store->quiet, &entry->output) != SYL_OK) {
            syl_store_end(entry, false);
            entry = NULL;
        }
    }
    syl_arena_free(&arena);
    if (!entry) warn(store);
    return entry;
}

/* Takes note of a piece; false where there is no memory. */
static bool note_piece(syl_store_entry *entry, const entry_piece *piece) {
    bool ok = true;
    pthread_mutex_lock(&entry->lock);
    if (entry->n == entry->cap) {
        size_t cap = entry->cap ? 2 * entry->cap : 16;
        entry_piece *grown = realloc(entry->pieces, cap * sizeof *grown);
        ok = grown != NULL;
        if (ok) {
            entry->pieces = grown;
            entry->cap = cap;
        }
    }
    if (ok) entry->pieces[entry->n++] = *piece;
    pthread_mutex_unlock(&entry->lock);
    return ok;
}

void syl_store_put(syl_store_entry *entry, int part, size_t offset, const void *data, size_t size) {
    if (!entry || size == 0) return;
    entry_piece piece = {.offset = offset, .size = size};
    for (int p = 0; p < part; p++) piece.offset += entry->header.size[p];
    syl_hash hash = syl_hash_bytes(data, size);
    memcpy(piece.hash, hash.hex, 32);
    bool ok = syl_output_write_at(entry->output, sizeof entry->header + (size_t)piece.offset, data, size) ==
                  SYL_OK &&
              note_piece(entry, &piece);
    if (ok) return;
    pthread_mutex_lock(&entry->lock);
    entry->failed = true;
    pthread_mutex_unlock(&entry->lock);
}

static int compare_pieces(const void *a, const void *b) {
    const entry_piece *x = a, *y = b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

static bool write_frame(syl_store_entry *entry) {
    size_t size = entry->n * sizeof *entry->pieces;
    if (entry->n) qsort(entry->pieces, entry->n, sizeof *entry->pieces, compare_pieces);
    entry->header.pieces = entry->n;
    syl_hash hash = hash_of(&entry->header, entry->pieces, size);
    memcpy(entry->header.hash, hash.hex, 32);
    return syl_output_write_at(entry->output, sizeof entry->header + (size_t)entry->total, entry->pieces,
                               size) == SYL_OK &&
           syl_output_write_at(entry->output, 0, &entry->header, sizeof entry->header) == SYL_OK;
}

void syl_store_end(syl_store_entry *entry, bool keep) {
    if (!entry) return;
    bool written = keep && !entry->failed && write_frame(entry);
    if (!written) {
        syl_output_discard(entry->output);
    } else {
        written = syl_output_publish(entry->output) == SYL_OK;
    }
    if (keep && !written) warn(entry->store);
    pthread_mutex_destroy(&entry->lock);
    free(entry->pieces);
    free(entry);
}
