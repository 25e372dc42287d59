/* GGUF version 3: the container of llama.cpp checkpoints, read over a mapping.
 *
 * Layout (little endian): "GGUF", u32 version, u64 tensors, u64 keys; the metadata, each a key string, a u32
 * type and a value; the tensor table, each a name, u32 rank, u64 dimensions (the fastest first), u32 type,
 * u64 offset; padding to the alignment; the data. Opening checks every size, count, offset and type once;
 * what is then reachable through this header lies inside the file. Specification:
 * github.com/ggml-org/ggml/blob/master/docs/gguf.md. */
#ifndef SYL_FRONTEND_GGUF_H
#define SYL_FRONTEND_GGUF_H

#include <stdint.h>
#include "base/file.h"
#include "base/map.h"

/* Types of metadata values, numbered as in the file. */
typedef enum syl_gguf_kind {
    SYL_GGUF_U8,
    SYL_GGUF_I8,
    SYL_GGUF_U16,
    SYL_GGUF_I16,
    SYL_GGUF_U32,
    SYL_GGUF_I32,
    SYL_GGUF_F32,
    SYL_GGUF_BOOL,
    SYL_GGUF_STRING,
    SYL_GGUF_ARRAY,
    SYL_GGUF_U64,
    SYL_GGUF_I64,
    SYL_GGUF_F64,
    SYL_GGUF_KIND_COUNT
} syl_gguf_kind;

typedef struct syl_gguf_value {
    const char *key;
    syl_gguf_kind kind;
    syl_gguf_kind element; /* arrays */
    uint64_t count;        /* arrays: elements; strings: bytes */
    size_t offset; /* of the number, the string's first byte or the array's first element, in the file */
} syl_gguf_value;

/* A type of tensor data: `block` elements in `bytes` bytes. */
typedef struct syl_gguf_format {
    uint32_t id;
    const char *name;
    unsigned block, bytes;
    /* Elements [begin, end) of the data as float64, or NULL: a format that is known but not read. */
    void (*decode)(const unsigned char *data, int64_t begin, int64_t end, double *out);
} syl_gguf_format;
const syl_gguf_format *syl_gguf_format_of(uint32_t id); /* NULL: unknown */

enum { SYL_GGUF_MAX_RANK = 4 };
typedef struct syl_gguf_tensor {
    const char *name;
    const syl_gguf_format *format;
    int rank;
    int64_t dims[SYL_GGUF_MAX_RANK]; /* as in the file: the fastest first */
    size_t offset, size;             /* bytes, from the start of the file */
} syl_gguf_tensor;

typedef struct syl_gguf {
    syl_arena arena;
    syl_source source; /* binary */
    syl_mapping mapping;
    SYL_VEC(syl_gguf_value) values;   /* in file order */
    SYL_VEC(syl_gguf_tensor) tensors; /* in file order */
    syl_map value_by_key;             /* -> index + 1 */
    syl_map tensor_by_name;           /* -> index + 1 */
} syl_gguf;

/* True if the bytes begin like a GGUF file. */
bool syl_gguf_magic(const unsigned char *data, size_t size);
SYL_NODISCARD syl_status syl_gguf_open(const char *path, syl_diag *diag, syl_gguf *out);
void syl_gguf_close(syl_gguf *file); /* fine on a zeroed one */

const syl_gguf_value *syl_gguf_value_of(const syl_gguf *file, const char *key);    /* NULL if absent */
const syl_gguf_tensor *syl_gguf_tensor_of(const syl_gguf *file, const char *name); /* NULL if absent */
syl_loc syl_gguf_loc(const syl_gguf *file,
                     const syl_gguf_value *value); /* where the value begins; value NULL: the file */

/* Typed look-up. An absent key leaves *out as it is if `required` is false and is the error gguf-missing-key
 * otherwise; a value of another type is gguf-type, a number outside [min, max] gguf-value. Integers of every
 * width and sign are taken as integers, both float widths as floats. */
SYL_NODISCARD syl_status syl_gguf_int(const syl_gguf *file, const char *key, bool required, int64_t min,
                                      int64_t max, syl_diag *diag, int64_t *out);
SYL_NODISCARD syl_status syl_gguf_float(const syl_gguf *file, const char *key, bool required, syl_diag *diag,
                                        double *out);
SYL_NODISCARD syl_status syl_gguf_bool(const syl_gguf *file, const char *key, bool required, syl_diag *diag,
                                       bool *out);
/* A copy in `arena`, NUL-terminated; refuses strings that are not UTF-8 without NUL. */
SYL_NODISCARD syl_status syl_gguf_string(const syl_gguf *file, const char *key, bool required,
                                         syl_arena *arena, syl_diag *diag, const char **out);
/* The strings of an array of strings, as syl_gguf_string; *count = 0 where it is absent. */
SYL_NODISCARD syl_status syl_gguf_strings(const syl_gguf *file, const char *key, bool required,
                                          syl_arena *arena, syl_diag *diag, const char *const **out,
                                          size_t *count);
/* The numbers of an array of integers; *count = 0 where it is absent. */
SYL_NODISCARD syl_status syl_gguf_ints(const syl_gguf *file, const char *key, bool required, syl_arena *arena,
                                       syl_diag *diag, const int64_t **out, size_t *count);
/* The same for floats, as they stand: maybe infinite or not a number. */
SYL_NODISCARD syl_status syl_gguf_floats(const syl_gguf *file, const char *key, bool required,
                                         syl_arena *arena, syl_diag *diag, const double **out, size_t *count);

#endif
