/* The safetensors container (Hugging Face, format 0.3): 8-byte little-endian header length, JSON header,
 * tensor bytes. Reading checks everything once: header size and JSON, names, dtypes, shapes against offsets
 * (overflow-safe), offsets in order without holes or overlap up to the end of the file; later code trusts the
 * entries. */
#ifndef SYL_BASE_SAFETENSORS_H
#define SYL_BASE_SAFETENSORS_H

#include <stdint.h>
#include "base/file.h"
#include "base/map.h"

enum { SYL_ST_MAX_RANK = 8 };
typedef enum syl_st_dtype {
    SYL_ST_BOOL,
    SYL_ST_U8,
    SYL_ST_I8,
    SYL_ST_F8_E4M3,
    SYL_ST_F8_E5M2,
    SYL_ST_I16,
    SYL_ST_U16,
    SYL_ST_F16,
    SYL_ST_BF16,
    SYL_ST_I32,
    SYL_ST_U32,
    SYL_ST_F32,
    SYL_ST_F64,
    SYL_ST_I64,
    SYL_ST_U64,
    SYL_ST_COUNT
} syl_st_dtype;

typedef struct syl_st_tensor {
    const char *name;
    syl_st_dtype dtype;
    int rank;
    int64_t shape[SYL_ST_MAX_RANK];
    size_t offset, size; /* bytes, from the start of the file */
} syl_st_tensor;

typedef struct syl_safetensors {
    syl_arena arena;
    syl_source source; /* binary */
    syl_mapping mapping;
    SYL_VEC(syl_st_tensor) tensors; /* in file order */
    syl_map by_name;                /* -> syl_st_tensor * */
    SYL_VEC(const char *) keys;     /* __metadata__, in order */
    SYL_VEC(const char *) values;
} syl_safetensors;

SYL_NODISCARD syl_status syl_safetensors_open(const char *path, syl_diag *diag, syl_safetensors *out);
void syl_safetensors_close(syl_safetensors *file); /* fine on a zeroed one */
const syl_st_tensor *syl_safetensors_find(const syl_safetensors *file, const char *name);
const char *syl_safetensors_metadata(const syl_safetensors *file, const char *key); /* NULL if absent */
static inline const void *syl_safetensors_data(const syl_safetensors *file, const syl_st_tensor *tensor) {
    return file->mapping.data + tensor->offset;
}
size_t syl_st_dtype_size(syl_st_dtype dtype);
const char *syl_st_dtype_name(syl_st_dtype dtype);

/* Writing: declare everything, then write each tensor's bytes (any order, any thread), then commit. The
 * header is padded with spaces so that the data begins at a multiple of 64, and tensors are laid out in the
 * order of declaration without holes: declare those of the largest alignment first where alignment matters.
 */
typedef struct syl_st_writer syl_st_writer;
SYL_NODISCARD syl_status syl_st_writer_create(const char *path, syl_diag *diag, syl_st_writer **out);
SYL_NODISCARD syl_status syl_st_writer_metadata(syl_st_writer *writer, const char *key, const char *value);
SYL_NODISCARD syl_status syl_st_writer_declare(syl_st_writer *writer, const char *name, syl_st_dtype dtype,
                                               int rank, const int64_t *shape, int *out_id);
SYL_NODISCARD syl_status
syl_st_writer_begin(syl_st_writer *writer); /* writes the header; no declarations after it */
SYL_NODISCARD syl_status syl_st_writer_write(syl_st_writer *writer, int id, size_t offset, const void *data,
                                             size_t size);
SYL_NODISCARD syl_status
syl_st_writer_commit(syl_st_writer *writer); /* consumes; every byte of every tensor must have been written */
void syl_st_writer_discard(syl_st_writer *writer); /* consumes; NULL is fine */

#endif
