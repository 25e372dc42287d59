/* The artifact: model.syl, a safetensors file with the model's final IR in its metadata and no code
 * (docs/artifact.md).
 *
 * Nothing in the file is believed: the IR is parsed and verified, and the presence, element type and shape of
 * every tensor are recomputed from it. What opens can be planned and run without further checks of sizes. */
#ifndef SYL_RUNTIME_ARTIFACT_H
#define SYL_RUNTIME_ARTIFACT_H

#include "base/safetensors.h"
#include "ir/ir.h"

#define SYL_ARTIFACT_VERSION   "1"
#define SYL_ARTIFACT_TOKENIZER "tokenizer.json" /* name of the U8 tensor */

typedef struct syl_artifact {
    syl_arena arena;
    syl_safetensors file;
    syl_source ir; /* the IR text that `module` was parsed from */
    syl_module *module;
    const char *name;       /* of the model */
    int64_t context_length; /* 0: not a language model */
    const char *recipe;     /* JSON */
    const char *provenance; /* JSON */
    const char *tokenizer;  /* JSON, or NULL */
    size_t tokenizer_size;
} syl_artifact;

/* True if the file begins like a safetensors file; false too where it cannot be read. */
bool syl_artifact_probe(const char *path);
/* Opens and verifies. Errors: safetensors-*, artifact-*, the parser's and the verifier's. */
SYL_NODISCARD syl_status syl_artifact_open(const char *path, syl_diag *diag, syl_artifact *out);
void syl_artifact_close(syl_artifact *artifact); /* fine on a zeroed one */

/* How a materialized value is stored: `parts` tensors, one of elements; of QUANT types codes (4 bits: two a byte,
 * the low half first), f32 scales, and of two-level types the groups' integer scales and zero points. The tensor
 * of part p is called name + syl_artifact_suffixes[p]. */
enum { SYL_STORED_PARTS = 4 };
extern const char
    *const syl_artifact_suffixes[SYL_STORED_PARTS]; /* "", ".scale", ".group_scale", ".group_zero" */
typedef struct syl_stored {
    int parts;
    struct {
        syl_st_dtype dtype;
        int rank;
        int64_t shape[SYL_MAX_RANK];
    } part[SYL_STORED_PARTS];
} syl_stored;
/* False if values of the type cannot be stored (real, INT, symbolic, made at run time). */
bool syl_stored_of(const syl_type *type, syl_stored *out);

/* Calls fn for every `materialized` op of the module, in order. Stops at the first failure. */
SYL_NODISCARD syl_status syl_artifact_each(const syl_module *module,
                                           syl_status (*fn)(void *user, const syl_op *op), void *user);

/* What the metadata says; texts are borrowed for the call. */
typedef struct syl_artifact_info {
    const char *name;
    int64_t context_length;
    const char *recipe, *provenance; /* JSON */
    const char *tokenizer;           /* JSON, or NULL */
} syl_artifact_info;

/* Writing: begin declares every materialized tensor of the final module and writes the header and the
 * tokenizer; then the tensors' bytes are written in any order from any thread; commit makes the file appear,
 * whole. */
typedef struct syl_artifact_writer syl_artifact_writer;
SYL_NODISCARD syl_status syl_artifact_begin(const char *path, const syl_module *module,
                                            const syl_artifact_info *info, syl_diag *diag,
                                            syl_artifact_writer **out);
/* Bytes of `part` of the materialized tensor `name`, from byte `offset` on. */
SYL_NODISCARD syl_status syl_artifact_write(syl_artifact_writer *writer, const char *name, int part,
                                            size_t offset, const void *data, size_t size);
SYL_NODISCARD syl_status syl_artifact_commit(syl_artifact_writer *writer); /* consumes */
void syl_artifact_discard(syl_artifact_writer *writer);                    /* consumes; NULL is fine */

#endif
