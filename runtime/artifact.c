/* Reading artifacts (artifact.h): the container is checked by safetensors.c, the IR by the verifier, and here
 * the tensors against what the IR asks for. */
#include "runtime/artifact.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"

bool syl_artifact_probe(const char *path) {
    /* 8 bytes of header length, then the header's '{'; a text or a GGUF file begins otherwise */
    unsigned char head[9] = {0};
    FILE *file = fopen(path, "rb");
    if (!file) return false;
    size_t n = fread(head, 1, sizeof head, file);
    fclose(file);
    bool text = true;
    for (int i = 0; i < 8; i++)
        text = text && (head[i] >= ' ' || head[i] == '\n' || head[i] == '\r' || head[i] == '\t');
    return n == sizeof head && head[8] == '{' && !text && memcmp(head, "GGUF", 4) != 0;
}

const char *const syl_artifact_suffixes[SYL_STORED_PARTS] = {"", ".scale", ".group_scale", ".group_zero"};

static bool st_dtype_of(syl_dtype dtype, syl_st_dtype *out) {
    switch (dtype) {
    case SYL_f32:
        *out = SYL_ST_F32;
        return true;
    case SYL_bf16:
        *out = SYL_ST_BF16;
        return true;
    case SYL_f16:
        *out = SYL_ST_F16;
        return true;
    default:
        *out = syl_dtypes[dtype].bits == 8 ? SYL_ST_I8 : SYL_ST_U8;
        return syl_is_weight_scheme(dtype);
    }
}

static void set_part(syl_stored *out, int part, syl_st_dtype dtype, int64_t rows, int64_t cols) {
    out->part[part].dtype = dtype;
    out->part[part].rank = cols ? 2 : 1;
    out->part[part].shape[0] = rows;
    out->part[part].shape[1] = cols;
}

bool syl_stored_of(const syl_type *type, syl_stored *out) {
    *out = (syl_stored){.parts = 1};
    const syl_dtype_info *info = &syl_dtypes[type->dtype];
    int64_t elements;
    if (type->kind != SYL_TENSOR || !syl_type_elements(type, &elements)) return false;
    if (!st_dtype_of(type->dtype, &out->part[0].dtype)) return false;
    out->part[0].rank = type->rank;
    for (int i = 0; i < type->rank; i++) out->part[0].shape[i] = type->dims[i].size;
    if (!syl_is_weight_scheme(type->dtype)) return true;
    int64_t rows = type->dims[0].size, cols = type->dims[type->rank - 1].size, groups;
    if (type->rank != 2 || !syl_row_fits(type->dtype, cols)) return false;
    groups = syl_row_groups(type->dtype, cols);
    out->parts = info->two_level ? 4 : 2;
    out->part[0].shape[1] = cols * info->bits / 8;
    set_part(out, 1, SYL_ST_F32, rows, info->row_scale ? 0 : groups);
    set_part(out, 2, SYL_ST_U8, rows, groups);
    set_part(out, 3, SYL_ST_U8, rows, groups);
    return true;
}

static syl_status each_in(const syl_block *block, syl_status (*fn)(void *user, const syl_op *op),
                          void *user) {
    for (const syl_op *op = block->first; op; op = op->next) {
        if (op->code == SYL_OP_materialized) SYL_TRY(fn(user, op));
        if (op->body) SYL_TRY(each_in(op->body, fn, user));
    }
    return SYL_OK;
}

syl_status syl_artifact_each(const syl_module *module, syl_status (*fn)(void *user, const syl_op *op),
                             void *user) {
    for (const syl_func *func = module->funcs; func; func = func->next)
        SYL_TRY(each_in(func->body, fn, user));
    return SYL_OK;
}

/* ---- metadata ---- */

static syl_status read_metadata(syl_artifact *artifact, const char *key, syl_diag *diag, const char **out) {
    *out = syl_safetensors_metadata(&artifact->file, key);
    if (*out) return SYL_OK;
    return syl_error(diag, SYL_ERR_artifact_metadata, (syl_loc){&artifact->file.source, 8},
                     "the metadata has no entry \"%s\"", key);
}

static syl_status check_version(syl_artifact *artifact, syl_diag *diag) {
    syl_loc loc = {&artifact->file.source, 8};
    const char *version = syl_safetensors_metadata(&artifact->file, "sylvester.version");
    if (!version) {
        return syl_error(
            diag, SYL_ERR_artifact_format, loc,
            "this safetensors file is no Sylvester artifact: its metadata has no \"sylvester.version\"");
    }
    if (strcmp(version, SYL_ARTIFACT_VERSION) != 0) {
        return syl_error(diag, SYL_ERR_artifact_version, loc,
                         "artifact of format version \"%s\", this program reads \"%s\"", version,
                         SYL_ARTIFACT_VERSION);
    }
    return SYL_OK;
}

static syl_source metadata_source(syl_artifact *artifact, const char *key, const char *text) {
    return (syl_source){syl_arena_printf(&artifact->arena, "%s#%s", artifact->file.source.name, key), text,
                        strlen(text)};
}

static syl_status read_model_info(syl_artifact *artifact, syl_diag *diag) {
    const char *text, *name;
    SYL_TRY(read_metadata(artifact, "sylvester.model", diag, &text));
    syl_source source = metadata_source(artifact, "sylvester.model", text);
    syl_json json = {0};
    SYL_TRY(syl_json_parse(&source, diag, &json));
    static const char *const keys[] = {"name", "context_length", NULL};
    syl_status status = syl_json_known_keys(&json, json.root, keys, diag);
    if (status == SYL_OK) status = syl_json_string(&json, json.root, "name", diag, &name);
    if (status == SYL_OK) {
        status =
            syl_json_int(&json, json.root, "context_length", 0, INT32_MAX, diag, &artifact->context_length);
    }
    if (status == SYL_OK) artifact->name = syl_arena_strdup(&artifact->arena, name);
    syl_json_free(&json);
    return status;
}

/* Recipe and provenance are for people; only their syntax is checked. */
static syl_status read_document(syl_artifact *artifact, const char *key, syl_diag *diag, const char **out) {
    SYL_TRY(read_metadata(artifact, key, diag, out));
    syl_source source = metadata_source(artifact, key, *out);
    syl_json json = {0};
    SYL_TRY(syl_json_parse(&source, diag, &json));
    syl_json_free(&json);
    return SYL_OK;
}

/* ---- tensors ---- */

typedef struct tensor_check {
    syl_artifact *artifact;
    syl_diag *diag;
    syl_map ops;    /* materialized name -> the first op of that name */
    syl_map wanted; /* tensor name -> that op */
} tensor_check;

static const char *shape_text(syl_arena *arena, int rank, const int64_t *shape) {
    syl_text text = {.arena = arena};
    syl_text_printf(&text, "[");
    for (int i = 0; i < rank; i++) syl_text_printf(&text, "%s%lld", i ? ", " : "", (long long)shape[i]);
    syl_text_printf(&text, "]");
    return text.p;
}

/* The kernels form (code - zero) * scale in bytes, so they rely on these limits. */
static syl_status check_group_values(syl_artifact *artifact, const syl_st_tensor *tensor, bool scales,
                                     syl_diag *diag) {
    const unsigned char *data = syl_safetensors_data(&artifact->file, tensor);
    int low = scales ? 1 : 0, high = scales ? SYL_GROUP_SCALE_MAX : SYL_GROUP_ZERO_MAX;
    for (size_t i = 0; i < tensor->size; i++) {
        if (data[i] >= low && data[i] <= high) continue;
        return syl_error(
            diag, SYL_ERR_artifact_tensor_value, (syl_loc){&artifact->file.source, tensor->offset + i},
            "element %zu of tensor \"%s\" is %d, expected %d to %d", i, tensor->name, data[i], low, high);
    }
    return SYL_OK;
}

static syl_status check_tensor(void *user, const syl_op *op) {
    tensor_check *check = user;
    syl_artifact *artifact = check->artifact;
    const syl_type *type = &op->results[0].type;
    const char *name = syl_attr_str(op, "name");
    int first;
    void **seen = syl_map_slot(&check->ops, name, strlen(name), &first);
    if (!first && syl_type_equal(&syl_result(*seen)->type, type)) return SYL_OK;
    if (!first)
        return syl_error(check->diag, SYL_ERR_artifact_ir, op->loc, "\"%s\" is materialized under two types",
                         name);
    *seen = (void *)(uintptr_t)op;
    syl_stored stored;
    if (!syl_stored_of(type, &stored)) {
        syl_text text = {.arena = &artifact->arena};
        syl_type_print(type, &text);
        return syl_error(check->diag, SYL_ERR_artifact_type, op->loc, "\"%s\" cannot be stored as %s", name,
                         text.p);
    }
    for (int p = 0; p < stored.parts; p++) {
        const char *full = syl_arena_printf(&artifact->arena, "%s%s", name, syl_artifact_suffixes[p]);
        int new;
        *syl_map_slot(&check->wanted, full, strlen(full), &new) = (void *)(uintptr_t)op;
        if (!new) {
            return syl_error(check->diag, SYL_ERR_artifact_ir, op->loc,
                             "two materialized values share the tensor \"%s\"", full);
        }
        const syl_st_tensor *tensor = syl_safetensors_find(&artifact->file, full);
        if (!tensor) {
            return syl_error(check->diag, SYL_ERR_artifact_tensor_missing, op->loc,
                             "the file has no tensor \"%s\"", full);
        }
        syl_loc loc = {&artifact->file.source, tensor->offset};
        if (tensor->dtype != stored.part[p].dtype) {
            return syl_error(check->diag, SYL_ERR_artifact_tensor_dtype, loc,
                             "tensor \"%s\" has elements of type %s, the IR says %s", full,
                             syl_st_dtype_name(tensor->dtype), syl_st_dtype_name(stored.part[p].dtype));
        }
        if (tensor->rank != stored.part[p].rank ||
            memcmp(tensor->shape, stored.part[p].shape, (size_t)tensor->rank * sizeof *tensor->shape) != 0) {
            return syl_error(check->diag, SYL_ERR_artifact_tensor_shape, loc,
                             "tensor \"%s\" has the shape %s, the IR says %s", full,
                             shape_text(&artifact->arena, tensor->rank, tensor->shape),
                             shape_text(&artifact->arena, stored.part[p].rank, stored.part[p].shape));
        }
        if (p >= 2) SYL_TRY(check_group_values(artifact, tensor, p == 2, check->diag));
    }
    return SYL_OK;
}

static syl_status check_tensors(syl_artifact *artifact, syl_diag *diag) {
    tensor_check check = {.artifact = artifact, .diag = diag};
    syl_map_init(&check.ops, &artifact->arena);
    syl_map_init(&check.wanted, &artifact->arena);
    SYL_TRY(syl_artifact_each(artifact->module, check_tensor, &check));
    for (size_t i = 0; i < artifact->file.tensors.n; i++) {
        const syl_st_tensor *tensor = &artifact->file.tensors.p[i];
        bool tokenizer = strcmp(tensor->name, SYL_ARTIFACT_TOKENIZER) == 0;
        bool wanted = syl_map_get_str(&check.wanted, tensor->name) != NULL;
        if (!tokenizer && !wanted) {
            return syl_error(diag, SYL_ERR_artifact_tensor_extra,
                             (syl_loc){&artifact->file.source, tensor->offset},
                             "the IR uses no tensor \"%s\"", tensor->name);
        }
        if (!tokenizer) continue;
        if (tensor->dtype != SYL_ST_U8 || tensor->rank != 1 || wanted) {
            return syl_error(diag, SYL_ERR_artifact_tensor_dtype,
                             (syl_loc){&artifact->file.source, tensor->offset},
                             "the tokenizer must be a vector of U8");
        }
        artifact->tokenizer = syl_safetensors_data(&artifact->file, tensor);
        artifact->tokenizer_size = tensor->size;
    }
    return SYL_OK;
}

/* ---- opening ---- */

static syl_status refuse_weights(const syl_block *block, syl_diag *diag) {
    for (const syl_op *op = block->first; op; op = op->next) {
        if (op->code == SYL_OP_weight) {
            return syl_error(diag, SYL_ERR_artifact_ir, op->loc,
                             "weight \"%s\" is not materialized: an artifact refers to no other file",
                             syl_attr_str(op, "name"));
        }
        if (op->body) SYL_TRY(refuse_weights(op->body, diag));
    }
    return SYL_OK;
}

static syl_status open_checked(syl_artifact *artifact, const char *path, syl_diag *diag) {
    SYL_TRY(syl_safetensors_open(path, diag, &artifact->file));
    SYL_TRY(check_version(artifact, diag));
    SYL_TRY(read_model_info(artifact, diag));
    SYL_TRY(read_document(artifact, "sylvester.recipe", diag, &artifact->recipe));
    SYL_TRY(read_document(artifact, "sylvester.provenance", diag, &artifact->provenance));
    const char *ir;
    SYL_TRY(read_metadata(artifact, "sylvester.ir", diag, &ir));
    artifact->ir = metadata_source(artifact, "sylvester.ir", ir);
    SYL_TRY(syl_module_parse(&artifact->ir, diag, &artifact->module));
    SYL_TRY(syl_module_verify(artifact->module, diag));
    if (!syl_module_func(artifact->module, "forward")) {
        return syl_error(diag, SYL_ERR_artifact_ir, (syl_loc){&artifact->ir, 0},
                         "the module has no function @forward");
    }
    for (const syl_func *func = artifact->module->funcs; func; func = func->next)
        SYL_TRY(refuse_weights(func->body, diag));
    return check_tensors(artifact, diag);
}

syl_status syl_artifact_open(const char *path, syl_diag *diag, syl_artifact *out) {
    *out = (syl_artifact){0};
    syl_arena_init(&out->arena);
    syl_status status = open_checked(out, path, diag);
    if (status != SYL_OK) syl_artifact_close(out);
    return status;
}

void syl_artifact_close(syl_artifact *artifact) {
    syl_module_destroy(artifact->module);
    syl_safetensors_close(&artifact->file);
    syl_arena_free(&artifact->arena);
    *artifact = (syl_artifact){0};
}
