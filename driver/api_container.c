/* The public API: files of tensors, looked at from outside: artifacts, GGUF checkpoints, safetensors files.
 *
 * Invariant: a container does not change once it is loaded, so that any threads may share it. */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/size.h"
#include "driver/api.h"
#include "driver/stored.h"
#include "frontend/gguf.h"

/* A tensor with all its parts; `stored` of artifacts only. */
typedef struct entry {
    const char *name, *type;
    int rank;
    int64_t dims[SYL_MAX_DIMS];
    int64_t elements, bytes;
    int parts;
    const unsigned char *part[SYL_STORED_PARTS];
    int64_t part_bytes[SYL_STORED_PARTS];
    syl_stored_tensor stored;
} entry;

struct syl_container {
    syl_arena arena;
    const char *kind, *path;
    int64_t file_bytes;
    SYL_VEC(entry) entries;
    syl_map by_name; /* of an artifact: several ops may name one tensor */
    syl_artifact artifact;
    syl_safetensors safetensors;
    syl_gguf gguf;
};

_Static_assert((int)SYL_MAX_DIMS >= (int)SYL_ST_MAX_RANK && (int)SYL_MAX_DIMS >= (int)SYL_GGUF_MAX_RANK,
               "every shape can be described");

/* ---- loading ---- */

static syl_status add_stored(void *user, const syl_op *op) {
    syl_container *c = user;
    entry e = {0};
    int fresh;
    syl_stored_find(&c->artifact, op, &e.stored);
    syl_map_slot(&c->by_name, e.stored.name, strlen(e.stored.name), &fresh);
    if (!fresh) return SYL_OK;
    e.name = e.stored.name;
    e.type = syl_dtypes[e.stored.type.dtype].name;
    e.rank = e.stored.type.rank;
    for (int i = 0; i < e.rank; i++) e.dims[i] = e.stored.type.dims[i].size;
    e.elements = e.stored.rows * e.stored.cols;
    e.bytes = e.stored.bytes;
    e.parts = e.stored.parts;
    memcpy(e.part, e.stored.part, sizeof e.part);
    memcpy(e.part_bytes, e.stored.part_bytes, sizeof e.part_bytes);
    SYL_PUSH(&c->arena, &c->entries, e);
    return SYL_OK;
}

static void add_plain(syl_container *c, entry e, const unsigned char *data, size_t size) {
    e.elements = 1;
    for (int i = 0; i < e.rank; i++) e.elements *= e.dims[i];
    e.bytes = e.part_bytes[0] = (int64_t)size;
    e.parts = 1;
    e.part[0] = data;
    SYL_PUSH(&c->arena, &c->entries, e);
}

static syl_status load_artifact(syl_container *c, syl_diag *diag) {
    SYL_TRY(syl_artifact_open(c->path, diag, &c->artifact));
    c->kind = "artifact";
    c->file_bytes = (int64_t)c->artifact.file.mapping.size;
    return syl_artifact_each(c->artifact.module, add_stored, c);
}

static syl_status load_safetensors(syl_container *c, syl_diag *diag) {
    syl_safetensors *file = &c->safetensors;
    SYL_TRY(syl_safetensors_open(c->path, diag, file));
    if (syl_safetensors_metadata(file, "sylvester.version")) {
        syl_safetensors_close(file);
        *file = (syl_safetensors){0};
        return load_artifact(c, diag);
    }
    c->kind = "safetensors";
    c->file_bytes = (int64_t)file->mapping.size;
    for (size_t i = 0; i < file->tensors.n; i++) {
        const syl_st_tensor *t = &file->tensors.p[i];
        entry e = {.name = t->name, .type = syl_st_dtype_name(t->dtype), .rank = t->rank};
        for (int k = 0; k < t->rank; k++) e.dims[k] = t->shape[k];
        add_plain(c, e, syl_safetensors_data(file, t), t->size);
    }
    return SYL_OK;
}

static syl_status load_gguf(syl_container *c, syl_diag *diag) {
    SYL_TRY(syl_gguf_open(c->path, diag, &c->gguf));
    c->kind = "gguf";
    c->file_bytes = (int64_t)c->gguf.mapping.size;
    for (size_t i = 0; i < c->gguf.tensors.n; i++) {
        const syl_gguf_tensor *t = &c->gguf.tensors.p[i];
        entry e = {.name = t->name, .type = t->format->name, .rank = t->rank};
        for (int k = 0; k < t->rank; k++) e.dims[k] = t->dims[t->rank - 1 - k];
        add_plain(c, e, c->gguf.mapping.data + t->offset, t->size);
    }
    return SYL_OK;
}

static syl_status load(syl_container *c, syl_diag *diag) {
    syl_mapping probe;
    SYL_TRY(syl_file_map(c->path, diag, &probe));
    bool gguf = syl_gguf_magic(probe.data, probe.size);
    syl_file_unmap(&probe);
    if (gguf) return load_gguf(c, diag);
    if (syl_artifact_probe(c->path)) return load_safetensors(c, diag);
    return syl_error(diag, SYL_ERR_weights_file, SYL_NOWHERE,
                     "\"%s\" is neither an artifact nor a GGUF or safetensors file", c->path);
}

static syl_status create(api_call *call, const char *path, syl_container **out) {
    if (!path || !out) return api_bad(call, "syl_container_load", "path or out is NULL");
    syl_container *c = calloc(1, sizeof *c);
    if (!c) return syl_error(call->diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for \"%s\"", path);
    syl_arena_init(&c->arena);
    syl_map_init(&c->by_name, &c->arena);
    c->path = syl_arena_strdup(&c->arena, path);
    syl_status status = load(c, call->diag);
    if (status == SYL_OK) {
        *out = c;
    } else {
        syl_container_destroy(c);
    }
    return status;
}

syl_status syl_container_load(syl_instance *instance, const char *path, syl_container **out) {
    api_call call;
    if (out) *out = NULL;
    SYL_TRY(api_begin(&call, instance));
    return api_end(&call, create(&call, path, out));
}

void syl_container_destroy(syl_container *container) {
    if (!container) return;
    syl_artifact_close(&container->artifact);
    syl_safetensors_close(&container->safetensors);
    syl_gguf_close(&container->gguf);
    syl_arena_free(&container->arena);
    free(container);
}

/* ---- what is in it ---- */

syl_status syl_container_describe(const syl_container *container, syl_container_info *out) {
    if (!container || !api_fits(out)) return SYL_USAGE;
    syl_container_info info = {.kind = container->kind,
                               .file_bytes = container->file_bytes,
                               .tensors = container->entries.n,
                               .name = container->artifact.name,
                               .recipe = container->artifact.recipe,
                               .provenance = container->artifact.provenance,
                               .context_length = container->artifact.context_length};
    api_give(out, &info, sizeof info);
    return SYL_OK;
}

syl_status syl_container_tensor(const syl_container *container, size_t index, syl_tensor_info *out) {
    if (!container || index >= container->entries.n || !api_fits(out)) return SYL_USAGE;
    const entry *e = &container->entries.p[index];
    syl_tensor_info info = {
        .name = e->name, .type = e->type, .rank = e->rank, .elements = e->elements, .bytes = e->bytes};
    memcpy(info.dims, e->dims, sizeof info.dims);
    api_give(out, &info, sizeof info);
    return SYL_OK;
}

syl_status syl_container_hash(const syl_container *container, size_t index, char out[33]) {
    if (!container || index >= container->entries.n || !out) return SYL_USAGE;
    const entry *e = &container->entries.p[index];
    char all[SYL_STORED_PARTS * 32 + 1];
    for (int p = 0; p < e->parts; p++)
        memcpy(all + 32 * p, syl_hash_mapped(e->part[p], (size_t)e->part_bytes[p]).hex, 33);
    memcpy(out, e->parts == 1 ? all : syl_hash_bytes(all, 32 * (size_t)e->parts).hex, 33);
    return SYL_OK;
}

/* ---- distance ---- */

enum { BLOCK_ELEMENTS = 256 << 10 };

typedef struct sums {
    const syl_stored_tensor *a, *b;
    double *difference, *reference; /* a row each */
    atomic_int out_of_memory;
} sums;

/* Sums of each row on its own, so that no result depends on the threads. */
static void add_rows(void *user, int64_t begin, int64_t end, int thread) {
    (void)thread;
    sums *s = user;
    int64_t cols = s->a->cols;
    double *a = malloc((size_t)cols * sizeof *a), *b = malloc((size_t)cols * sizeof *b);
    if (!a || !b) atomic_store(&s->out_of_memory, 1);
    for (int64_t r = begin; r < end && a && b; r++) {
        syl_stored_read(s->a, r, r + 1, a);
        syl_stored_read(s->b, r, r + 1, b);
        s->difference[r] = s->reference[r] = 0;
        for (int64_t c = 0; c < cols; c++) {
            s->difference[r] += (b[c] - a[c]) * (b[c] - a[c]);
            s->reference[r] += a[c] * a[c];
        }
    }
    free(a);
    free(b);
}

static syl_status distance(const api_call *call, const entry *a, const entry *b, double *out) {
    int64_t rows = a->stored.rows;
    syl_pool *pool;
    SYL_TRY(api_pool(call, &pool));
    sums s = {&a->stored, &b->stored, calloc((size_t)rows, sizeof(double)),
              calloc((size_t)rows, sizeof(double)), 0};
    if (s.difference && s.reference)
        syl_pool_for(pool, rows, syl_ceil_div(BLOCK_ELEMENTS, a->stored.cols), add_rows, &s);
    bool ok = s.difference && s.reference && !atomic_load(&s.out_of_memory);
    double difference = 0, reference = 0;
    for (int64_t r = 0; ok && r < rows; r++) {
        difference += s.difference[r];
        reference += s.reference[r];
    }
    free(s.difference);
    free(s.reference);
    if (!ok)
        return syl_error(call->diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory to compare \"%s\"",
                         a->name);
    *out = difference == 0 ? 0 : sqrt(difference / reference);
    return SYL_OK;
}

syl_status syl_container_distance(syl_instance *instance, const syl_container *a, size_t index_a,
                                  const syl_container *b, size_t index_b, double *out) {
    api_call call;
    SYL_TRY(api_begin(&call, instance));
    if (!a || !b || !out || index_a >= a->entries.n || index_b >= b->entries.n)
        return api_end(&call, api_bad(&call, __func__, "a container or out is NULL, or an index too large"));
    const entry *x = &a->entries.p[index_a], *y = &b->entries.p[index_b];
    bool same = x->rank == y->rank;
    for (int i = 0; same && i < x->rank; i++) same = x->dims[i] == y->dims[i];
    if (!same || !x->stored.parts || !y->stored.parts)
        return api_end(&call, api_bad(&call, __func__, "only tensors of artifacts, of one shape, compare"));
    return api_end(&call, distance(&call, x, y, out));
}
