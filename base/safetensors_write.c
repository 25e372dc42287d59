/* Writing safetensors. Invariants: the bytes depend only on the declarations and the data, not on the order
 * or the threads of the writes; a file is committed only when every tensor got exactly its size in bytes. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include "base/json.h"
#include "base/safetensors.h"
#include "base/size.h"

typedef struct declaration {
    syl_st_tensor
        tensor; /* offset counts from the start of the data until begin, then from the start of the file */
    _Atomic size_t written;
} declaration;

struct syl_st_writer {
    syl_arena arena;
    syl_source source;
    syl_diag *diag;
    syl_output *output;
    syl_text metadata; /* "key":"value", ... */
    syl_map names, keys;
    SYL_VEC(declaration *) tensors;
    size_t data_size;
    bool begun;
};

static syl_loc place(const syl_st_writer *writer) {
    return (syl_loc){&writer->source, 0};
}

syl_status syl_st_writer_create(const char *path, syl_diag *diag, syl_st_writer **out) {
    *out = NULL;
    syl_st_writer *writer = calloc(1, sizeof *writer);
    if (!writer) return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory to write '%s'", path);
    writer->source.name = syl_arena_strdup(&writer->arena, path);
    writer->diag = diag;
    writer->metadata.arena = &writer->arena;
    syl_map_init(&writer->names, &writer->arena);
    syl_map_init(&writer->keys, &writer->arena);
    syl_status status = syl_output_open(path, diag, &writer->output);
    if (status == SYL_OK)
        *out = writer;
    else
        syl_st_writer_discard(writer);
    return status;
}

/* Declarations come before begin, and no name twice. */
static syl_status check_declaration(syl_st_writer *writer, syl_map *seen, const char *name) {
    int fresh;
    if (writer->begun)
        return syl_error(writer->diag, SYL_ERR_internal, place(writer),
                         "'%s' is declared after the header was written", name);
    syl_map_slot(seen, name, strlen(name), &fresh);
    if (!fresh)
        return syl_error(writer->diag, SYL_ERR_st_name, place(writer), "'%s' is declared twice", name);
    return SYL_OK;
}

syl_status syl_st_writer_metadata(syl_st_writer *writer, const char *key, const char *value) {
    SYL_TRY(check_declaration(writer, &writer->keys, key));
    if (writer->metadata.n) syl_text_append(&writer->metadata, ",", 1);
    syl_json_quote(&writer->metadata, key);
    syl_text_append(&writer->metadata, ":", 1);
    syl_json_quote(&writer->metadata, value);
    return SYL_OK;
}

syl_status syl_st_writer_declare(syl_st_writer *writer, const char *name, syl_st_dtype dtype, int rank,
                                 const int64_t *shape, int *out_id) {
    bool printable = *name != 0;
    for (const char *p = name; *p; p++) printable = printable && (unsigned char)*p >= 0x20 && *p != 0x7f;
    if (!printable || strcmp(name, "__metadata__") == 0)
        return syl_error(writer->diag, SYL_ERR_st_name, place(writer), "'%s' cannot name a tensor", name);
    SYL_TRY(check_declaration(writer, &writer->names, name));
    if (rank < 0 || rank > SYL_ST_MAX_RANK)
        return syl_error(writer->diag, SYL_ERR_st_shape, place(writer),
                         "tensor '%s' has %d dimensions, expected at most %d", name, rank, SYL_ST_MAX_RANK);
    declaration *d = SYL_NEW(&writer->arena, declaration);
    d->tensor = (syl_st_tensor){syl_arena_strdup(&writer->arena, name),
                                dtype,
                                rank,
                                {0},
                                writer->data_size,
                                syl_st_dtype_size(dtype)};
    for (int i = 0; i < rank; i++) {
        d->tensor.shape[i] = shape[i];
        if (shape[i] < 0 || !syl_size_mul(d->tensor.size, (size_t)shape[i], &d->tensor.size))
            return syl_error(writer->diag, SYL_ERR_st_shape, place(writer),
                             "dimension %d of tensor '%s' is %lld: negative or too large", i, name,
                             (long long)shape[i]);
    }
    if (!syl_size_add(writer->data_size, d->tensor.size, &writer->data_size))
        return syl_error(writer->diag, SYL_ERR_size_overflow, place(writer),
                         "the tensors up to '%s' are too large together", name);
    *out_id = (int)writer->tensors.n;
    SYL_PUSH(&writer->arena, &writer->tensors, d);
    return SYL_OK;
}

static void print_header(const syl_st_writer *writer, syl_text *text) {
    syl_text_append(text, "{", 1);
    const char *separator = "";
    if (writer->metadata.n) {
        syl_text_printf(text, "\"__metadata__\":{");
        syl_text_append(text, writer->metadata.p, writer->metadata.n);
        syl_text_append(text, "}", 1);
        separator = ",";
    }
    for (size_t i = 0; i < writer->tensors.n; i++, separator = ",") {
        const syl_st_tensor *tensor = &writer->tensors.p[i]->tensor;
        syl_text_printf(text, "%s", separator);
        syl_json_quote(text, tensor->name);
        syl_text_printf(text, ":{\"dtype\":\"%s\",\"shape\":[", syl_st_dtype_name(tensor->dtype));
        for (int k = 0; k < tensor->rank; k++)
            syl_text_printf(text, "%s%lld", k ? "," : "", (long long)tensor->shape[k]);
        syl_text_printf(text, "],\"data_offsets\":[%zu,%zu]}", tensor->offset, tensor->offset + tensor->size);
    }
    syl_text_append(text, "}", 1);
}

syl_status syl_st_writer_begin(syl_st_writer *writer) {
    if (writer->begun)
        return syl_error(writer->diag, SYL_ERR_internal, place(writer), "the header is written twice");
    writer->begun = true;
    syl_text text = {.arena = &writer->arena};
    print_header(writer, &text);
    while ((8 + text.n) % 64) syl_text_append(&text, " ", 1);

    /* What the reader would refuse (a name that is not UTF-8, a header beyond the limit) is refused here. */
    syl_json check;
    const syl_source header = {writer->source.name, text.p, text.n};
    SYL_TRY(syl_json_parse(&header, writer->diag, &check));
    syl_json_free(&check);

    unsigned char length[8];
    for (int i = 0; i < 8; i++) length[i] = (unsigned char)((uint64_t)text.n >> 8 * i);
    SYL_TRY(syl_output_write(writer->output, length, sizeof length));
    SYL_TRY(syl_output_write(writer->output, text.p, text.n));
    for (size_t i = 0; i < writer->tensors.n; i++) writer->tensors.p[i]->tensor.offset += 8 + text.n;
    return SYL_OK;
}

syl_status syl_st_writer_write(syl_st_writer *writer, int id, size_t offset, const void *data, size_t size) {
    if (!writer->begun || id < 0 || (size_t)id >= writer->tensors.n)
        return syl_error(writer->diag, SYL_ERR_internal, place(writer),
                         "tensor %d is written before the header, or not declared", id);
    declaration *d = writer->tensors.p[id];
    if (offset > d->tensor.size || size > d->tensor.size - offset)
        return syl_error(writer->diag, SYL_ERR_internal, place(writer),
                         "%zu bytes at %zu don't fit tensor '%s' of %zu bytes", size, offset, d->tensor.name,
                         d->tensor.size);
    SYL_TRY(syl_output_write_at(writer->output, d->tensor.offset + offset, data, size));
    atomic_fetch_add(&d->written, size);
    return SYL_OK;
}

syl_status syl_st_writer_commit(syl_st_writer *writer) {
    syl_status status = SYL_OK;
    if (!writer->begun)
        status = syl_error(writer->diag, SYL_ERR_internal, place(writer), "the header was never written");
    for (size_t i = 0; status == SYL_OK && i < writer->tensors.n; i++) {
        declaration *d = writer->tensors.p[i];
        if (d->written != d->tensor.size)
            status = syl_error(writer->diag, SYL_ERR_internal, place(writer),
                               "tensor '%s' got %zu of its %zu bytes", d->tensor.name, (size_t)d->written,
                               d->tensor.size);
    }
    if (status == SYL_OK) {
        status = syl_output_commit(writer->output);
        writer->output = NULL;
    }
    syl_st_writer_discard(writer);
    return status;
}

void syl_st_writer_discard(syl_st_writer *writer) {
    if (!writer) return;
    syl_output_discard(writer->output);
    syl_arena_free(&writer->arena);
    free(writer);
}
