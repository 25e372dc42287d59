/* Reading GGUF: one pass over the header, every length compared with what is left of the file before it is
 * believed. */
#include "frontend/gguf.h"
#include <math.h>
#include <string.h>
#include "base/size.h"

enum {
    max_keys = 1 << 16,
    max_tensors = 1 << 20,
    max_string = 1 << 24,
    max_depth = 4,
    max_name = 1024,
    max_alignment = 1 << 16
};

typedef struct cursor {
    syl_gguf *file;
    syl_diag *diag;
    size_t at;
} cursor;

static const struct {
    const char *name;
    size_t size; /* of a number; of strings and arrays: the least an element takes */
} kinds[SYL_GGUF_KIND_COUNT] = {
    [SYL_GGUF_U8] = {"u8", 1},        [SYL_GGUF_I8] = {"i8", 1},     [SYL_GGUF_U16] = {"u16", 2},
    [SYL_GGUF_I16] = {"i16", 2},      [SYL_GGUF_U32] = {"u32", 4},   [SYL_GGUF_I32] = {"i32", 4},
    [SYL_GGUF_F32] = {"f32", 4},      [SYL_GGUF_BOOL] = {"bool", 1}, [SYL_GGUF_STRING] = {"string", 8},
    [SYL_GGUF_ARRAY] = {"array", 12}, [SYL_GGUF_U64] = {"u64", 8},   [SYL_GGUF_I64] = {"i64", 8},
    [SYL_GGUF_F64] = {"f64", 8},
};

static uint64_t load(const unsigned char *p, size_t size) {
    uint64_t v = 0;
    for (size_t i = 0; i < size; i++) v |= (uint64_t)p[i] << (8 * i);
    return v;
}

static syl_loc here(const cursor *c, size_t offset) {
    return (syl_loc){&c->file->source, offset};
}

static syl_status skip(cursor *c, uint64_t n, const char *what) {
    size_t left = c->file->mapping.size - c->at;
    if (n > left)
        return syl_error(c->diag, SYL_ERR_gguf_truncated, here(c, c->at),
                         "%s needs %llu bytes, %zu are left in the file", what, (unsigned long long)n, left);
    c->at += (size_t)n;
    return SYL_OK;
}

static syl_status number(cursor *c, size_t size, const char *what, uint64_t *out) {
    size_t at = c->at;
    SYL_TRY(skip(c, size, what));
    *out = load(c->file->mapping.data + at, size);
    return SYL_OK;
}

static syl_status count(cursor *c, const char *what, uint64_t max, uint64_t *out) {
    size_t at = c->at;
    SYL_TRY(number(c, 8, what, out));
    if (*out > max)
        return syl_error(c->diag, SYL_ERR_gguf_count, here(c, at), "the %s is %llu, more than %llu", what,
                         (unsigned long long)*out, (unsigned long long)max);
    return SYL_OK;
}

static bool utf8_valid(const unsigned char *p, size_t n) {
    for (size_t i = 0; i < n;) {
        unsigned c = p[i++], more = c < 0x80                ? 0
                                    : c >= 0xc2 && c < 0xe0 ? 1
                                    : c >= 0xe0 && c < 0xf0 ? 2
                                    : c >= 0xf0 && c < 0xf5 ? 3
                                                            : 4;
        if (more == 4 || more > n - i || c == 0) return false;
        for (unsigned k = 0; k < more; k++, i++) {
            unsigned
                low = 0x80,
                high = 0xbf; /* the first continuation byte excludes long forms, surrogates and > U+10FFFF */
            if (k == 0 && c == 0xe0) low = 0xa0;
            if (k == 0 && c == 0xed) high = 0x9f;
            if (k == 0 && c == 0xf0) low = 0x90;
            if (k == 0 && c == 0xf4) high = 0x8f;
            if (p[i] < low || p[i] > high) return false;
        }
    }
    return true;
}

/* A name (of a key or tensor): short, UTF-8, in the arena. */
static syl_status name(cursor *c, const char *what, const char **out) {
    uint64_t n;
    size_t at = c->at;
    SYL_TRY(number(c, 8, what, &n));
    if (n == 0 || n > max_name)
        return syl_error(c->diag, SYL_ERR_gguf_string, here(c, at), "%s is %llu bytes long, expected 1 to %d",
                         what, (unsigned long long)n, max_name);
    SYL_TRY(skip(c, n, what));
    const unsigned char *text = c->file->mapping.data + at + 8;
    if (!utf8_valid(text, (size_t)n))
        return syl_error(c->diag, SYL_ERR_gguf_string, here(c, at + 8), "%s is not UTF-8 without NUL", what);
    *out = syl_arena_strndup(&c->file->arena, (const char *)text, (size_t)n);
    return SYL_OK;
}

static syl_status kind_of(cursor *c, const char *key, syl_gguf_kind *out) {
    uint64_t id;
    size_t at = c->at;
    SYL_TRY(number(c, 4, "the type of a value", &id));
    if (id >= SYL_GGUF_KIND_COUNT)
        return syl_error(c->diag, SYL_ERR_gguf_type, here(c, at),
                         "key \"%s\" has a value of unknown type %llu", key, (unsigned long long)id);
    *out = (syl_gguf_kind)id;
    return SYL_OK;
}

/* The value at the cursor; fills everything but the key and kind. */
static syl_status value(cursor *c, const char *key, int depth, syl_gguf_value *out) {
    size_t at = c->at;
    if (out->kind == SYL_GGUF_STRING) {
        SYL_TRY(number(c, 8, "a string", &out->count));
        if (out->count > max_string)
            return syl_error(c->diag, SYL_ERR_gguf_string, here(c, at),
                             "a string of key \"%s\" is %llu bytes long, more than %d", key,
                             (unsigned long long)out->count, max_string);
        out->offset = c->at;
        return skip(c, out->count, "a string");
    }
    if (out->kind != SYL_GGUF_ARRAY) {
        out->offset = at;
        SYL_TRY(skip(c, kinds[out->kind].size, "a value"));
        if (out->kind == SYL_GGUF_BOOL && c->file->mapping.data[at] > 1)
            return syl_error(c->diag, SYL_ERR_gguf_type, here(c, at),
                             "key \"%s\" has a bool that is %d, neither 0 nor 1", key,
                             c->file->mapping.data[at]);
        return SYL_OK;
    }
    if (depth == max_depth)
        return syl_error(c->diag, SYL_ERR_gguf_depth, here(c, at),
                         "key \"%s\" has arrays nested deeper than %d", key, max_depth);
    SYL_TRY(kind_of(c, key, &out->element));
    SYL_TRY(number(c, 8, "an array", &out->count));
    out->offset = c->at;
    size_t left = c->file->mapping.size - c->at, element = kinds[out->element].size;
    if (out->count > left / element)
        return syl_error(
            c->diag, SYL_ERR_gguf_truncated, here(c, at),
            "the array of key \"%s\" has %llu elements of at least %zu bytes, %zu bytes are left in the file",
            key, (unsigned long long)out->count, element, left);
    if (out->element != SYL_GGUF_STRING && out->element != SYL_GGUF_ARRAY && out->element != SYL_GGUF_BOOL)
        return skip(c, out->count * element, "an array");
    for (uint64_t i = 0; i < out->count; i++) {
        syl_gguf_value inner = {.kind = out->element};
        SYL_TRY(value(c, key, depth + 1, &inner));
    }
    return SYL_OK;
}

static syl_status insert(cursor *c, syl_map *map, const char *what, const char *text, size_t at,
                         size_t index) {
    int fresh;
    void **slot = syl_map_slot(map, text, strlen(text), &fresh);
    if (!fresh)
        return syl_error(c->diag, SYL_ERR_gguf_duplicate, here(c, at), "%s \"%s\" is there twice", what,
                         text);
    *slot = (void *)(uintptr_t)(index + 1);
    return SYL_OK;
}

static syl_status metadata(cursor *c, uint64_t n) {
    for (uint64_t i = 0; i < n; i++) {
        syl_gguf_value v = {0};
        size_t at = c->at;
        SYL_TRY(name(c, "a key", &v.key));
        SYL_TRY(kind_of(c, v.key, &v.kind));
        SYL_TRY(value(c, v.key, 0, &v));
        SYL_TRY(insert(c, &c->file->value_by_key, "key", v.key, at, c->file->values.n));
        SYL_PUSH(&c->file->arena, &c->file->values, v);
    }
    return SYL_OK;
}

/* One row of the tensor table; offset stays relative to the data. */
static syl_status tensor_info(cursor *c, size_t alignment, syl_gguf_tensor *out) {
    size_t at = c->at;
    SYL_TRY(name(c, "a tensor name", &out->name));
    SYL_TRY(insert(c, &c->file->tensor_by_name, "tensor", out->name, at, c->file->tensors.n));
    uint64_t rank, id, offset;
    at = c->at;
    SYL_TRY(number(c, 4, "the rank of a tensor", &rank));
    if (rank < 1 || rank > SYL_GGUF_MAX_RANK)
        return syl_error(c->diag, SYL_ERR_gguf_tensor_shape, here(c, at),
                         "tensor \"%s\" has rank %llu, expected 1 to %d", out->name, (unsigned long long)rank,
                         SYL_GGUF_MAX_RANK);
    out->rank = (int)rank;
    size_t elements = 1;
    for (int k = 0; k < out->rank; k++) {
        uint64_t dim;
        at = c->at;
        SYL_TRY(number(c, 8, "a dimension of a tensor", &dim));
        if (dim < 1 || dim > (uint64_t)1 << 40)
            return syl_error(c->diag, SYL_ERR_gguf_tensor_shape, here(c, at),
                             "dimension %d of tensor \"%s\" is %llu, expected 1 to 2^40", k, out->name,
                             (unsigned long long)dim);
        if (!syl_size_mul(elements, (size_t)dim, &elements))
            return syl_error(c->diag, SYL_ERR_gguf_tensor_shape, here(c, at),
                             "the dimensions of tensor \"%s\" multiply to more than 64 bits hold", out->name);
        out->dims[k] = (int64_t)dim;
    }
    at = c->at;
    SYL_TRY(number(c, 4, "the type of a tensor", &id));
    out->format = syl_gguf_format_of((uint32_t)id);
    if (!out->format)
        return syl_error(c->diag, SYL_ERR_gguf_tensor_type, here(c, at),
                         "tensor \"%s\" has unknown type %llu", out->name, (unsigned long long)id);
    if (out->dims[0] % out->format->block != 0)
        return syl_error(c->diag, SYL_ERR_gguf_tensor_shape, here(c, at),
                         "rows of tensor \"%s\" have %lld elements, not a multiple of the %u of a %s block",
                         out->name, (long long)out->dims[0], out->format->block, out->format->name);
    if (!syl_size_mul(elements / out->format->block, out->format->bytes, &out->size))
        return syl_error(c->diag, SYL_ERR_gguf_tensor_shape, here(c, at),
                         "tensor \"%s\" has more bytes than 64 bits hold", out->name);
    at = c->at;
    SYL_TRY(number(c, 8, "the offset of a tensor", &offset));
    if (offset % alignment != 0)
        return syl_error(c->diag, SYL_ERR_gguf_tensor_range, here(c, at),
                         "the offset %llu of tensor \"%s\" is not a multiple of the alignment %zu",
                         (unsigned long long)offset, out->name, alignment);
    out->offset = (size_t)offset;
    return SYL_OK;
}

static syl_status place_tensors(cursor *c, size_t alignment) {
    syl_gguf *file = c->file;
    size_t size = file->mapping.size, data;
    if (file->tensors.n == 0) return SYL_OK;
    if (!syl_size_align(c->at, alignment, &data) || data > size)
        return syl_error(c->diag, SYL_ERR_gguf_truncated, here(c, c->at),
                         "the file ends before the tensor data");
    for (size_t i = 0; i < file->tensors.n; i++) {
        syl_gguf_tensor *t = &file->tensors.p[i];
        if (t->offset > size - data || t->size > size - data - t->offset)
            return syl_error(c->diag, SYL_ERR_gguf_tensor_range, here(c, data),
                             "tensor \"%s\" takes bytes %zu to %zu + %zu of the data, which has %zu", t->name,
                             t->offset, t->offset, t->size, size - data);
        t->offset += data;
    }
    return SYL_OK;
}

static syl_status read_all(cursor *c) {
    const syl_mapping *mapping = &c->file->mapping;
    if (!syl_gguf_magic(mapping->data, mapping->size))
        return syl_error(c->diag, SYL_ERR_gguf_magic, here(c, 0), "the file does not begin with \"GGUF\"");
    c->at = 4;
    uint64_t version, n_tensors, n_keys;
    SYL_TRY(number(c, 4, "the version", &version));
    if (version == 0x03000000)
        return syl_error(c->diag, SYL_ERR_gguf_version, here(c, 4), "the file is big endian");
    if (version != 3)
        return syl_error(c->diag, SYL_ERR_gguf_version, here(c, 4),
                         "the file has GGUF version %llu, expected 3", (unsigned long long)version);
    SYL_TRY(count(c, "number of tensors", max_tensors, &n_tensors));
    SYL_TRY(count(c, "number of keys", max_keys, &n_keys));
    SYL_TRY(metadata(c, n_keys));
    int64_t alignment = 32;
    SYL_TRY(syl_gguf_int(c->file, "general.alignment", false, 1, max_alignment, c->diag, &alignment));
    if (alignment % 8 != 0 || (alignment & (alignment - 1)) != 0)
        return syl_error(c->diag, SYL_ERR_gguf_value,
                         syl_gguf_loc(c->file, syl_gguf_value_of(c->file, "general.alignment")),
                         "\"general.alignment\" is %lld, expected a power of two of at least 8",
                         (long long)alignment);
    for (uint64_t i = 0; i < n_tensors; i++) {
        syl_gguf_tensor tensor = {0};
        SYL_TRY(tensor_info(c, (size_t)alignment, &tensor));
        SYL_PUSH(&c->file->arena, &c->file->tensors, tensor);
    }
    return place_tensors(c, (size_t)alignment);
}

bool syl_gguf_magic(const unsigned char *data, size_t size) {
    return size >= 4 && memcmp(data, "GGUF", 4) == 0;
}

syl_status syl_gguf_open(const char *path, syl_diag *diag, syl_gguf *out) {
    *out = (syl_gguf){0};
    SYL_TRY(syl_file_map(path, diag, &out->mapping));
    syl_arena_init(&out->arena);
    out->source = (syl_source){syl_arena_strdup(&out->arena, path), NULL, out->mapping.size};
    syl_map_init(&out->value_by_key, &out->arena);
    syl_map_init(&out->tensor_by_name, &out->arena);
    syl_status status = read_all(&(cursor){out, diag, 0});
    if (status != SYL_OK) syl_gguf_close(out);
    return status;
}

void syl_gguf_close(syl_gguf *file) {
    if (!file->source.name) return;
    syl_file_unmap(&file->mapping);
    syl_arena_free(&file->arena);
    *file = (syl_gguf){0};
}

/* ---- look-up ---- */

const syl_gguf_value *syl_gguf_value_of(const syl_gguf *file, const char *key) {
    size_t index = (uintptr_t)syl_map_get_str(&file->value_by_key, key);
    return index ? &file->values.p[index - 1] : NULL;
}

const syl_gguf_tensor *syl_gguf_tensor_of(const syl_gguf *file, const char *tensor) {
    size_t index = (uintptr_t)syl_map_get_str(&file->tensor_by_name, tensor);
    return index ? &file->tensors.p[index - 1] : NULL;
}

syl_loc syl_gguf_loc(const syl_gguf *file, const syl_gguf_value *v) {
    return (syl_loc){&file->source, v ? v->offset : 0};
}

/* The value of `key`, NULL where it may be and is absent. */
static syl_status find(const syl_gguf *file, const char *key, bool required, syl_diag *diag,
                       const syl_gguf_value **out) {
    *out = syl_gguf_value_of(file, key);
    if (!*out && required)
        return syl_error(diag, SYL_ERR_gguf_missing_key, syl_gguf_loc(file, NULL),
                         "the metadata has no key \"%s\"", key);
    return SYL_OK;
}

static syl_status wrong_kind(const syl_gguf *file, const syl_gguf_value *v, const char *expected,
                             syl_diag *diag) {
    bool array = v->kind == SYL_GGUF_ARRAY;
    return syl_error(diag, SYL_ERR_gguf_type, syl_gguf_loc(file, v), "\"%s\" is %s%s, expected %s", v->key,
                     array ? "an array of " : "of type ", kinds[array ? v->element : v->kind].name, expected);
}

/* An integer of any width (a u64 beyond int64 as the largest int64, which no caller's range holds); false for
 * other kinds. */
static bool integer(syl_gguf_kind kind, const unsigned char *p, int64_t *out) {
    switch (kind) {
    case SYL_GGUF_U8:
    case SYL_GGUF_U16:
    case SYL_GGUF_U32:
        *out = (int64_t)load(p, kinds[kind].size);
        return true;
    case SYL_GGUF_U64:
        *out = load(p, 8) > INT64_MAX ? INT64_MAX : (int64_t)load(p, 8);
        return true;
    case SYL_GGUF_I8:
        *out = (int8_t)load(p, 1);
        return true;
    case SYL_GGUF_I16:
        *out = (int16_t)load(p, 2);
        return true;
    case SYL_GGUF_I32:
        *out = (int32_t)load(p, 4);
        return true;
    case SYL_GGUF_I64:
        *out = (int64_t)load(p, 8);
        return true;
    default:
        return false;
    }
}

syl_status syl_gguf_int(const syl_gguf *file, const char *key, bool required, int64_t min, int64_t max,
                        syl_diag *diag, int64_t *out) {
    const syl_gguf_value *v;
    SYL_TRY(find(file, key, required, diag, &v));
    if (!v) return SYL_OK;
    int64_t i;
    if (!integer(v->kind, file->mapping.data + v->offset, &i)) return wrong_kind(file, v, "an integer", diag);
    if (i < min || i > max)
        return syl_error(diag, SYL_ERR_gguf_value, syl_gguf_loc(file, v),
                         "\"%s\" is %lld, expected %lld to %lld", key, (long long)i, (long long)min,
                         (long long)max);
    *out = i;
    return SYL_OK;
}

syl_status syl_gguf_float(const syl_gguf *file, const char *key, bool required, syl_diag *diag, double *out) {
    const syl_gguf_value *v;
    SYL_TRY(find(file, key, required, diag, &v));
    if (!v) return SYL_OK;
    if (v->kind != SYL_GGUF_F32 && v->kind != SYL_GGUF_F64) return wrong_kind(file, v, "a float", diag);
    double d;
    syl_gguf_format_of(v->kind == SYL_GGUF_F32 ? 0 : 28)->decode(file->mapping.data + v->offset, 0, 1, &d);
    if (!isfinite(d))
        return syl_error(diag, SYL_ERR_gguf_value, syl_gguf_loc(file, v), "\"%s\" is not a finite number",
                         key);
    *out = d;
    return SYL_OK;
}

syl_status syl_gguf_bool(const syl_gguf *file, const char *key, bool required, syl_diag *diag, bool *out) {
    const syl_gguf_value *v;
    SYL_TRY(find(file, key, required, diag, &v));
    if (!v) return SYL_OK;
    if (v->kind != SYL_GGUF_BOOL) return wrong_kind(file, v, "a bool", diag);
    *out = file->mapping.data[v->offset];
    return SYL_OK;
}

static syl_status text_at(const syl_gguf *file, const char *key, size_t offset, uint64_t n, syl_arena *arena,
                          syl_diag *diag, const char **out) {
    const unsigned char *p = file->mapping.data + offset;
    if (!utf8_valid(p, (size_t)n))
        return syl_error(diag, SYL_ERR_gguf_string, (syl_loc){&file->source, offset},
                         "a string of \"%s\" is not UTF-8 without NUL", key);
    *out = syl_arena_strndup(arena, (const char *)p, (size_t)n);
    return SYL_OK;
}

syl_status syl_gguf_string(const syl_gguf *file, const char *key, bool required, syl_arena *arena,
                           syl_diag *diag, const char **out) {
    const syl_gguf_value *v;
    SYL_TRY(find(file, key, required, diag, &v));
    if (!v) return SYL_OK;
    if (v->kind != SYL_GGUF_STRING) return wrong_kind(file, v, "a string", diag);
    return text_at(file, key, v->offset, v->count, arena, diag, out);
}

syl_status syl_gguf_strings(const syl_gguf *file, const char *key, bool required, syl_arena *arena,
                            syl_diag *diag, const char *const **out, size_t *out_count) {
    const syl_gguf_value *v;
    *out_count = 0;
    SYL_TRY(find(file, key, required, diag, &v));
    if (!v) return SYL_OK;
    if (v->kind != SYL_GGUF_ARRAY || v->element != SYL_GGUF_STRING)
        return wrong_kind(file, v, "an array of strings", diag);
    const char **texts = SYL_NEW_ARRAY(arena, const char *, (size_t)v->count);
    size_t at = v->offset;
    for (uint64_t i = 0; i < v->count; i++) {
        uint64_t n = load(file->mapping.data + at, 8);
        SYL_TRY(text_at(file, key, at + 8, n, arena, diag, &texts[i]));
        at += 8 + (size_t)n;
    }
    *out = texts;
    *out_count = (size_t)v->count;
    return SYL_OK;
}

syl_status syl_gguf_ints(const syl_gguf *file, const char *key, bool required, syl_arena *arena,
                         syl_diag *diag, const int64_t **out, size_t *out_count) {
    const syl_gguf_value *v;
    *out_count = 0;
    SYL_TRY(find(file, key, required, diag, &v));
    if (!v) return SYL_OK;
    if (v->kind != SYL_GGUF_ARRAY) return wrong_kind(file, v, "an array of integers", diag);
    int64_t *ints = SYL_NEW_ARRAY(arena, int64_t, (size_t)v->count);
    for (uint64_t i = 0; i < v->count; i++)
        if (!integer(v->element, file->mapping.data + v->offset + i * kinds[v->element].size, &ints[i]))
            return wrong_kind(file, v, "an array of integers", diag);
    *out = ints;
    *out_count = (size_t)v->count;
    return SYL_OK;
}

syl_status syl_gguf_floats(const syl_gguf *file, const char *key, bool required, syl_arena *arena,
                           syl_diag *diag, const double **out, size_t *out_count) {
    const syl_gguf_value *v;
    *out_count = 0;
    SYL_TRY(find(file, key, required, diag, &v));
    if (!v) return SYL_OK;
    if (v->kind != SYL_GGUF_ARRAY || (v->element != SYL_GGUF_F32 && v->element != SYL_GGUF_F64))
        return wrong_kind(file, v, "an array of floats", diag);
    double *floats = SYL_NEW_ARRAY(arena, double, (size_t)v->count);
    syl_gguf_format_of(v->element == SYL_GGUF_F32 ? 0 : 28)
        ->decode(file->mapping.data + v->offset, 0, (int64_t)v->count, floats);
    *out = floats;
    *out_count = (size_t)v->count;
    return SYL_OK;
}
