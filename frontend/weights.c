/* Tensors of GGUF and safetensors files as float64 rows. Reading decodes only the rows asked for, straight
 * from the mapping. */
#include "frontend/weights.h"
#include <stdlib.h>
#include <string.h>
#include "base/hash.h"
#include "base/json.h"
#include "base/numeric.h"

/* A tensor of either container. */
typedef struct entry {
    const char *format;
    int rank;
    int64_t dims[SYL_ST_MAX_RANK]; /* row major */
    const unsigned char *data;
    size_t size;
    void (*decode)(const unsigned char *data, int64_t begin, int64_t end, double *out); /* NULL: not read */
    bool blocks; /* block quantized: rounded to bf16 */
} entry;

static bool find(const syl_weights *weights, const char *name, entry *out) {
    *out = (entry){0};
    if (weights->is_gguf) {
        const syl_gguf_tensor *t = syl_gguf_tensor_of(&weights->gguf, name);
        if (!t) return false;
        *out = (entry){.format = t->format->name,
                       .rank = t->rank,
                       .data = weights->gguf.mapping.data + t->offset,
                       .size = t->size,
                       .decode = t->format->decode,
                       .blocks = t->format->block > 1};
        for (int i = 0; i < t->rank; i++) out->dims[i] = t->dims[t->rank - 1 - i];
        return true;
    }
    const syl_st_tensor *t = syl_safetensors_find(&weights->safetensors, name);
    if (!t) return false;
    *out = (entry){.format = syl_st_dtype_name(t->dtype),
                   .rank = t->rank,
                   .data = syl_safetensors_data(&weights->safetensors, t),
                   .size = t->size};
    const syl_gguf_format *format = t->dtype == SYL_ST_F32    ? syl_gguf_format_of(0)
                                    : t->dtype == SYL_ST_F16  ? syl_gguf_format_of(1)
                                    : t->dtype == SYL_ST_BF16 ? syl_gguf_format_of(30)
                                    : t->dtype == SYL_ST_F64  ? syl_gguf_format_of(28)
                                                              : NULL;
    if (format) out->decode = format->decode;
    memcpy(out->dims, t->shape, sizeof t->shape);
    return true;
}

syl_status syl_weights_open(const char *path, syl_diag *diag, syl_weights **out) {
    *out = NULL;
    syl_mapping probe;
    SYL_TRY(syl_file_map(path, diag, &probe));
    bool is_gguf = syl_gguf_magic(probe.data, probe.size),
         is_safetensors = probe.size >= 9 && probe.data[8] == '{';
    syl_file_unmap(&probe);
    syl_source source = {path, NULL, 0};
    if (!is_gguf && !is_safetensors)
        return syl_error(diag, SYL_ERR_weights_file, (syl_loc){&source, 0},
                         "the file is neither GGUF nor safetensors");
    syl_weights *weights = calloc(1, sizeof *weights);
    if (!weights)
        return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory to open \"%s\"", path);
    weights->is_gguf = is_gguf;
    syl_status status = is_gguf ? syl_gguf_open(path, diag, &weights->gguf)
                                : syl_safetensors_open(path, diag, &weights->safetensors);
    if (status != SYL_OK) {
        free(weights);
        return status;
    }
    *out = weights;
    return SYL_OK;
}

void syl_weights_close(syl_weights *weights) {
    if (!weights) return;
    syl_gguf_close(&weights->gguf);
    syl_safetensors_close(&weights->safetensors);
    free(weights);
}

bool syl_weights_shape(const syl_weights *weights, const char *name, int *rank, int64_t dims[SYL_MAX_RANK]) {
    entry e;
    if (!find(weights, name, &e) || e.rank > SYL_MAX_RANK) return false;
    *rank = e.rank;
    memcpy(dims, e.dims, (size_t)e.rank * sizeof *dims);
    return true;
}

static const syl_source *source_of(const syl_weights *weights) {
    return weights->is_gguf ? &weights->gguf.source : &weights->safetensors.source;
}

size_t syl_weights_count(const syl_weights *weights) {
    return weights->is_gguf ? weights->gguf.tensors.n : weights->safetensors.tensors.n;
}

const char *syl_weights_name(const syl_weights *weights, size_t index) {
    return weights->is_gguf ? weights->gguf.tensors.p[index].name
                            : weights->safetensors.tensors.p[index].name;
}

const char *syl_weights_path(const syl_weights *weights) {
    return source_of(weights)->name;
}

static syl_status missing(const syl_weights *weights, const char *name, syl_loc loc, syl_diag *diag) {
    syl_arena arena;
    syl_arena_init(&arena);
    size_t n = syl_weights_count(weights);
    const char **names = SYL_NEW_ARRAY(&arena, const char *, n + 1);
    for (size_t i = 0; i < n; i++) names[i] = syl_weights_name(weights, i);
    const char *near = syl_nearest(name, names);
    syl_status status = near ? syl_error(diag, SYL_ERR_weights_missing, loc,
                                         "no tensor \"%s\" in \"%s\"; did you mean \"%s\"?", name,
                                         source_of(weights)->name, near)
                             : syl_error(diag, SYL_ERR_weights_missing, loc, "no tensor \"%s\" in \"%s\"",
                                         name, source_of(weights)->name);
    syl_arena_free(&arena);
    return status;
}

static syl_status unreadable(const char *name, const char *format, syl_loc loc, syl_diag *diag) {
    return syl_error(diag, SYL_ERR_weights_format, loc, "tensor \"%s\" has the format %s, which is not read",
                     name, format);
}

syl_status syl_weights_check(const syl_weights *weights, const char *name, int rank, const syl_dim *dims,
                             syl_loc loc, syl_diag *diag) {
    entry e;
    if (!find(weights, name, &e)) return missing(weights, name, loc, diag);
    if (!e.decode) return unreadable(name, e.format, loc, diag);
    bool equal = e.rank == rank;
    for (int i = 0; equal && i < rank; i++) equal = !dims[i].symbol && dims[i].size == e.dims[i];
    if (equal) return SYL_OK;
    syl_arena arena;
    syl_arena_init(&arena);
    syl_text declared = {.arena = &arena}, found = {.arena = &arena};
    for (int i = 0; i < rank; i++) {
        if (dims[i].symbol)
            syl_text_printf(&declared, "%s%s", i ? ", " : "", dims[i].symbol);
        else
            syl_text_printf(&declared, "%s%lld", i ? ", " : "", (long long)dims[i].size);
    }
    for (int i = 0; i < e.rank; i++) syl_text_printf(&found, "%s%lld", i ? ", " : "", (long long)e.dims[i]);
    syl_status status =
        syl_error(diag, SYL_ERR_weights_shape, loc, "tensor \"%s\" is declared as [%s], in \"%s\" it is [%s]",
                  name, declared.p ? declared.p : "", source_of(weights)->name, found.p ? found.p : "");
    syl_arena_free(&arena);
    return status;
}

syl_status syl_weights_read(const syl_weights *weights, const char *name, int64_t row_begin, int64_t row_end,
                            syl_diag *diag, double *out) {
    entry e;
    syl_loc loc = {source_of(weights), 0};
    if (!find(weights, name, &e)) return missing(weights, name, loc, diag);
    if (!e.decode) return unreadable(name, e.format, loc, diag);
    int64_t rows = e.rank ? e.dims[0] : 1,
            row = 1; /* elements of a row; the readers have bounded the products */
    for (int i = 1; i < e.rank; i++) row *= e.dims[i];
    if (row_begin < 0 || row_begin > row_end || row_end > rows)
        return syl_error(diag, SYL_ERR_internal, loc, "rows %lld to %lld of tensor \"%s\", which has %lld",
                         (long long)row_begin, (long long)row_end, name, (long long)rows);
    e.decode(e.data, row_begin * row, row_end * row, out);
    if (rows > 0) { /* what was read is not needed again: large models stay out of memory */
        size_t row_bytes = e.size / (size_t)rows;
        syl_mapping_drop(e.data + (size_t)row_begin * row_bytes, (size_t)(row_end - row_begin) * row_bytes);
    }
    if (e.blocks)
        for (int64_t i = 0; i < (row_end - row_begin) * row; i++)
            out[i] = syl_bf16_to_f32(syl_bf16_from_f64(out[i]));
    return SYL_OK;
}

bool syl_weights_hash(const syl_weights *weights, const char *name, char hex[33]) {
    entry e;
    if (!find(weights, name, &e)) return false;
    syl_hasher *hasher = syl_hasher_create();
    if (!hasher) return false;
    syl_hasher_text(hasher, e.format);
    syl_hasher_mapped(hasher, e.data, e.size);
    syl_hash hash = syl_hasher_finish(hasher);
    memcpy(hex, hash.hex, sizeof hash.hex);
    return true;
}
