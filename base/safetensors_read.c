/* Reading safetensors. Invariant after a successful open: tensors follow each other in file order without
 * holes up to the end of the file, each entry's size is its shape's, and every byte of it lies inside the
 * mapping. */
#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>
#include "base/json.h"
#include "base/safetensors.h"
#include "base/size.h"

/* The format allows 100 MB; the limit of the JSON reader (json.h) is the smaller one and holds. */
static const size_t max_header = 64 << 20;

static const struct {
    const char *name;
    size_t size;
} dtypes[SYL_ST_COUNT] = {
    [SYL_ST_BOOL] = {"BOOL", 1},       [SYL_ST_U8] = {"U8", 1},           [SYL_ST_I8] = {"I8", 1},
    [SYL_ST_F8_E4M3] = {"F8_E4M3", 1}, [SYL_ST_F8_E5M2] = {"F8_E5M2", 1}, [SYL_ST_I16] = {"I16", 2},
    [SYL_ST_U16] = {"U16", 2},         [SYL_ST_F16] = {"F16", 2},         [SYL_ST_BF16] = {"BF16", 2},
    [SYL_ST_I32] = {"I32", 4},         [SYL_ST_U32] = {"U32", 4},         [SYL_ST_F32] = {"F32", 4},
    [SYL_ST_F64] = {"F64", 8},         [SYL_ST_I64] = {"I64", 8},         [SYL_ST_U64] = {"U64", 8},
};

size_t syl_st_dtype_size(syl_st_dtype dtype) {
    return dtypes[dtype].size;
}
const char *syl_st_dtype_name(syl_st_dtype dtype) {
    return dtypes[dtype].name;
}

/* A header being read: the text, its tree, and the file it fills. */
typedef struct reader {
    syl_safetensors *file;
    syl_json json;
    syl_diag *diag;
    size_t data; /* where tensor bytes begin */
} reader;

static bool good_name(const char *name) {
    if (!*name) return false;
    for (; *name; name++)
        if ((unsigned char)*name < 0x20 || *name == 0x7f) return false;
    return true;
}

static syl_status read_metadata(reader *r, const cJSON *object) {
    if (!cJSON_IsObject(object))
        return syl_error(r->diag, SYL_ERR_st_header, syl_json_loc(&r->json, object),
                         "'__metadata__' must be an object");
    for (const cJSON *node = object->child; node; node = node->next) {
        if (!cJSON_IsString(node))
            return syl_error(r->diag, SYL_ERR_st_header, syl_json_loc(&r->json, node),
                             "'%s' in '__metadata__' must be a string", node->string);
        SYL_PUSH(&r->file->arena, &r->file->keys, syl_arena_strdup(&r->file->arena, node->string));
        SYL_PUSH(&r->file->arena, &r->file->values, syl_arena_strdup(&r->file->arena, node->valuestring));
    }
    return SYL_OK;
}

static syl_status read_dtype(reader *r, const cJSON *object, syl_st_dtype *out) {
    const char *name;
    SYL_TRY(syl_json_string(&r->json, object, "dtype", r->diag, &name));
    for (int i = 0; i < SYL_ST_COUNT; i++)
        if (strcmp(name, dtypes[i].name) == 0) {
            *out = (syl_st_dtype)i;
            return SYL_OK;
        }
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(object, "dtype");
    return syl_error(r->diag, SYL_ERR_st_dtype, syl_json_loc(&r->json, node),
                     "tensor '%s' has the unknown type '%s'", object->string, name);
}

/* A whole number of an array, exact: the JSON layer keeps integers within 2^53 - 1. */
static bool whole_number(const cJSON *node, int64_t *out) {
    if (!cJSON_IsNumber(node) || !(node->valuedouble >= 0 && node->valuedouble <= 0x1p53)) return false;
    *out = (int64_t)node->valuedouble;
    return (double)*out == node->valuedouble;
}

static syl_status read_shape(reader *r, const cJSON *object, syl_st_tensor *tensor) {
    const cJSON *shape;
    SYL_TRY(syl_json_array(&r->json, object, "shape", true, r->diag, &shape));
    tensor->size = syl_st_dtype_size(tensor->dtype);
    for (const cJSON *node = shape->child; node; node = node->next) {
        const syl_loc loc = syl_json_loc(&r->json, node);
        if (tensor->rank == SYL_ST_MAX_RANK)
            return syl_error(r->diag, SYL_ERR_st_shape, loc, "tensor '%s' has more than %d dimensions",
                             tensor->name, SYL_ST_MAX_RANK);
        int64_t *dimension = &tensor->shape[tensor->rank++];
        if (!whole_number(node, dimension))
            return syl_error(r->diag, SYL_ERR_st_shape, loc,
                             "a dimension of tensor '%s' is not a whole number from 0 to 2^53 - 1",
                             tensor->name);
        if (!syl_size_mul(tensor->size, (size_t)*dimension, &tensor->size))
            return syl_error(r->diag, SYL_ERR_st_shape, loc, "the size of tensor '%s' overflows",
                             tensor->name);
    }
    return SYL_OK;
}

static syl_status read_offsets(reader *r, const cJSON *object, syl_st_tensor *tensor) {
    const cJSON *offsets;
    int64_t begin, end;
    SYL_TRY(syl_json_array(&r->json, object, "data_offsets", true, r->diag, &offsets));
    const syl_loc loc = syl_json_loc(&r->json, offsets);
    if (cJSON_GetArraySize(offsets) != 2 || !whole_number(offsets->child, &begin) ||
        !whole_number(offsets->child->next, &end) || begin > end)
        return syl_error(r->diag, SYL_ERR_st_offsets, loc,
                         "the offsets of tensor '%s' are not two whole numbers, begin and end", tensor->name);
    const size_t available = r->file->mapping.size - r->data;
    if ((size_t)end > available)
        return syl_error(r->diag, SYL_ERR_st_offsets, loc,
                         "tensor '%s' ends at byte %lld of the data, which has %zu", tensor->name,
                         (long long)end, available);
    if ((size_t)(end - begin) != tensor->size)
        return syl_error(r->diag, SYL_ERR_st_offsets, loc,
                         "tensor '%s' needs %zu bytes, its offsets give %lld", tensor->name, tensor->size,
                         (long long)(end - begin));
    tensor->offset = r->data + (size_t)begin;
    return SYL_OK;
}

static syl_status read_tensor(reader *r, const cJSON *object) {
    static const char *const keys[] = {"dtype", "shape", "data_offsets", NULL};
    const syl_loc loc = syl_json_loc(&r->json, object);
    if (!good_name(object->string))
        return syl_error(r->diag, SYL_ERR_st_name, loc, "a tensor's name is %s",
                         *object->string ? "not printable" : "empty");
    if (!cJSON_IsObject(object))
        return syl_error(r->diag, SYL_ERR_st_header, loc, "expected an object for the tensor '%s'",
                         object->string);
    SYL_TRY(syl_json_known_keys(&r->json, object, keys, r->diag));
    syl_st_tensor tensor = {.name = syl_arena_strdup(&r->file->arena, object->string)};
    SYL_TRY(read_dtype(r, object, &tensor.dtype));
    SYL_TRY(read_shape(r, object, &tensor));
    SYL_TRY(read_offsets(r, object, &tensor));
    SYL_PUSH(&r->file->arena, &r->file->tensors, tensor);
    return SYL_OK;
}

/* Empty tensors share their begin with a neighbour, so the end decides next, then the name. */
static int compare_tensors(const void *a, const void *b) {
    const syl_st_tensor *left = a, *right = b;
    if (left->offset != right->offset) return left->offset < right->offset ? -1 : 1;
    if (left->size != right->size) return left->size < right->size ? -1 : 1;
    return strcmp(left->name, right->name);
}

static syl_status check_layout(reader *r) {
    syl_safetensors *file = r->file;
    size_t at = r->data;
    if (file->tensors.n) qsort(file->tensors.p, file->tensors.n, sizeof *file->tensors.p, compare_tensors);
    for (size_t i = 0; i < file->tensors.n; i++) {
        syl_st_tensor *tensor = &file->tensors.p[i];
        if (tensor->offset != at)
            return syl_error(
                r->diag, SYL_ERR_st_holes, (syl_loc){&file->source, tensor->offset},
                "tensor '%s' begins at byte %zu, expected %zu: %s", tensor->name, tensor->offset, at,
                tensor->offset > at ? "there is a hole before it" : "it overlaps its predecessor");
        at += tensor->size;
        *syl_map_slot(&file->by_name, tensor->name, strlen(tensor->name), NULL) = tensor;
    }
    if (at != file->mapping.size)
        return syl_error(r->diag, SYL_ERR_st_holes, (syl_loc){&file->source, at},
                         "the file goes on for %zu bytes after the last tensor", file->mapping.size - at);
    return SYL_OK;
}

static syl_status read_header(reader *r) {
    if (!cJSON_IsObject(r->json.root))
        return syl_error(r->diag, SYL_ERR_st_header, syl_json_loc(&r->json, r->json.root),
                         "the header must be a JSON object");
    for (const cJSON *node = r->json.root->child; node; node = node->next)
        SYL_TRY(strcmp(node->string, "__metadata__") == 0 ? read_metadata(r, node) : read_tensor(r, node));
    return check_layout(r);
}

static syl_status read_file(syl_safetensors *file, syl_diag *diag) {
    const size_t size = file->mapping.size;
    const unsigned char *data = file->mapping.data;
    const syl_loc start = {&file->source, 0};
    if (size < 8)
        return syl_error(diag, SYL_ERR_st_header_size, start,
                         "the file has %zu bytes, too few for the header's length", size);
    uint64_t length = 0;
    for (int i = 0; i < 8; i++) length |= (uint64_t)data[i] << 8 * i;
    if (length > max_header)
        return syl_error(diag, SYL_ERR_st_header_size, start, "a header of %llu bytes; at most %zu are read",
                         (unsigned long long)length, max_header);
    if (length > size - 8)
        return syl_error(diag, SYL_ERR_st_header_size, start,
                         "the header has %llu bytes, but only %zu follow", (unsigned long long)length,
                         size - 8);
    if (length == 0 || data[8] != '{')
        return syl_error(diag, SYL_ERR_st_header, (syl_loc){&file->source, 8},
                         "the header does not begin with '{'");
    const syl_source header = {file->source.name, (const char *)data + 8, (size_t)length};
    reader r = {.file = file, .diag = diag, .data = 8 + (size_t)length};
    SYL_TRY(syl_json_parse(&header, diag, &r.json));
    syl_status status = read_header(&r);
    syl_json_free(&r.json);
    return status;
}

syl_status syl_safetensors_open(const char *path, syl_diag *diag, syl_safetensors *out) {
    *out = (syl_safetensors){0};
    syl_arena_init(&out->arena);
    syl_map_init(&out->by_name, &out->arena);
    out->source = (syl_source){syl_arena_strdup(&out->arena, path), NULL, 0};
    syl_status status = syl_file_map(path, diag, &out->mapping);
    if (status == SYL_OK) {
        out->source.size = out->mapping.size;
        status = read_file(out, diag);
    }
    if (status != SYL_OK) syl_safetensors_close(out);
    return status;
}

void syl_safetensors_close(syl_safetensors *file) {
    syl_file_unmap(&file->mapping);
    syl_arena_free(&file->arena);
    *file = (syl_safetensors){0};
}

const syl_st_tensor *syl_safetensors_find(const syl_safetensors *file, const char *name) {
    return syl_map_get_str(&file->by_name, name);
}

const char *syl_safetensors_metadata(const syl_safetensors *file, const char *key) {
    for (size_t i = 0; i < file->keys.n; i++)
        if (strcmp(file->keys.p[i], key) == 0) return file->values.p[i];
    return NULL;
}
