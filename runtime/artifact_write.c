/* Writing artifacts (artifact.h). The bytes depend on the module, the info and the data only. */
#include "runtime/artifact.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"

struct syl_artifact_writer {
    syl_arena arena;
    syl_diag *diag;
    syl_st_writer *file;
    syl_map ids;       /* tensor name -> 1 + id */
    size_t size_class; /* tensors of which element size are being declared */
};

static syl_status declare_part(syl_artifact_writer *writer, const char *name, syl_st_dtype dtype, int rank,
                               const int64_t *shape) {
    int new, id;
    void **slot = syl_map_slot(&writer->ids, name, strlen(name), &new);
    if (!new) return SYL_OK; /* one tensor under several ops; artifact_open refuses unequal types */
    SYL_TRY(syl_st_writer_declare(writer->file, name, dtype, rank, shape, &id));
    *slot = (void *)((uintptr_t)id + 1);
    return SYL_OK;
}

static syl_status declare_tensor(void *user, const syl_op *op) {
    syl_artifact_writer *writer = user;
    const char *name = syl_attr_str(op, "name");
    syl_stored stored;
    if (!syl_stored_of(&op->results[0].type, &stored)) {
        return syl_error(writer->diag, SYL_ERR_artifact_type, op->loc,
                         "\"%s\" has a type that cannot be stored", name);
    }
    for (int p = 0; p < stored.parts; p++) {
        if (syl_st_dtype_size(stored.part[p].dtype) != writer->size_class) continue;
        const char *full = syl_arena_printf(&writer->arena, "%s%s", name, syl_artifact_suffixes[p]);
        SYL_TRY(declare_part(writer, full, stored.part[p].dtype, stored.part[p].rank, stored.part[p].shape));
    }
    return SYL_OK;
}

static syl_status write_header(syl_artifact_writer *writer, const syl_module *module,
                               const syl_artifact_info *info) {
    syl_text ir = {.arena = &writer->arena}, model = {.arena = &writer->arena};
    syl_module_print(module, &ir);
    syl_text_printf(&model, "{\"name\": ");
    syl_json_quote(&model, info->name);
    syl_text_printf(&model, ", \"context_length\": %lld}", (long long)info->context_length);
    SYL_TRY(syl_st_writer_metadata(writer->file, "sylvester.version", SYL_ARTIFACT_VERSION));
    SYL_TRY(syl_st_writer_metadata(writer->file, "sylvester.model", model.p));
    SYL_TRY(syl_st_writer_metadata(writer->file, "sylvester.recipe", info->recipe));
    SYL_TRY(syl_st_writer_metadata(writer->file, "sylvester.provenance", info->provenance));
    SYL_TRY(syl_st_writer_metadata(writer->file, "sylvester.ir", ir.p));
    /* wide elements first: so every tensor is aligned to its element */
    for (writer->size_class = 4; writer->size_class; writer->size_class /= 2) {
        SYL_TRY(syl_artifact_each(module, declare_tensor, writer));
    }
    if (info->tokenizer) {
        int64_t size = (int64_t)strlen(info->tokenizer);
        SYL_TRY(declare_part(writer, SYL_ARTIFACT_TOKENIZER, SYL_ST_U8, 1, &size));
    }
    SYL_TRY(syl_st_writer_begin(writer->file));
    if (!info->tokenizer) return SYL_OK;
    return syl_artifact_write(writer, SYL_ARTIFACT_TOKENIZER, 0, 0, info->tokenizer, strlen(info->tokenizer));
}

syl_status syl_artifact_begin(const char *path, const syl_module *module, const syl_artifact_info *info,
                              syl_diag *diag, syl_artifact_writer **out) {
    *out = NULL;
    syl_artifact_writer *writer = calloc(1, sizeof *writer);
    if (!writer)
        return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory to write \"%s\"", path);
    syl_arena_init(&writer->arena);
    syl_map_init(&writer->ids, &writer->arena);
    writer->diag = diag;
    syl_status status = syl_st_writer_create(path, diag, &writer->file);
    if (status == SYL_OK) status = write_header(writer, module, info);
    if (status != SYL_OK) {
        syl_artifact_discard(writer);
        return status;
    }
    *out = writer;
    return SYL_OK;
}

syl_status syl_artifact_write(syl_artifact_writer *writer, const char *name, int part, size_t offset,
                              const void *data, size_t size) {
    char full[512];
    int n = snprintf(full, sizeof full, "%s%s", name, syl_artifact_suffixes[part]);
    void *id = n < (int)sizeof full ? syl_map_get_str(&writer->ids, full) : NULL;
    if (!id)
        return syl_error(writer->diag, SYL_ERR_internal, SYL_NOWHERE, "tensor \"%s\" was not declared", name);
    return syl_st_writer_write(writer->file, (int)((uintptr_t)id - 1), offset, data, size);
}

syl_status syl_artifact_commit(syl_artifact_writer *writer) {
    syl_st_writer *file = writer->file;
    writer->file = NULL;
    syl_artifact_discard(writer);
    return syl_st_writer_commit(file);
}

void syl_artifact_discard(syl_artifact_writer *writer) {
    if (!writer) return;
    syl_st_writer_discard(writer->file);
    syl_arena_free(&writer->arena);
    free(writer);
}
