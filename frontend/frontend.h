/* The frontend: a model graph (JSON, docs/graph.md) or a checkpoint becomes a module. One road: a checkpoint
 * is first written as graph JSON (in memory), then read like any other graph. */
#ifndef SYL_FRONTEND_FRONTEND_H
#define SYL_FRONTEND_FRONTEND_H

#include "base/diag.h"
#include "ir/ir.h"

/* A model as the frontend hands it on. */
typedef struct syl_model {
    syl_module *module;     /* func @forward; weights are `weight` ops, real valued */
    int64_t context_length; /* positions the model was trained for; 0 = not a language model */
    char *tokenizer;        /* tokenizer JSON (docs/artifact.md), or NULL; in module->arena */
} syl_model;

/* Writes the graph JSON of a checkpoint. Paths of weight files in it are relative to `graph_path` (where the
 * text will be stored; NULL: absolute paths). `path` is a GGUF v3 file or a Hugging Face directory (docs/models.md). */
SYL_NODISCARD syl_status syl_import_checkpoint(const char *path, const char *graph_path, syl_diag *diag,
                                               syl_text *out_json);

/* Reads a graph: `source` is the JSON text, source->name its path (weight files are relative to it). Checks
 * that every weight exists in its file with the declared shape, in a format that is read. The module is
 * verified; it keeps a copy of the text for the locations of its ops. */
SYL_NODISCARD syl_status syl_graph_read(const syl_source *source, syl_diag *diag, syl_model *out);

/* A .json graph or a checkpoint (a directory: of Hugging Face), by content. */
SYL_NODISCARD syl_status syl_model_open(const char *path, syl_diag *diag, syl_model *out);
void syl_model_close(syl_model *model);

/* Access to the tensors of one source file (GGUF or safetensors), for materialize. */
typedef struct syl_weights syl_weights;
SYL_NODISCARD syl_status syl_weights_open(const char *path, syl_diag *diag, syl_weights **out);
void syl_weights_close(syl_weights *weights); /* NULL is fine */
/* Shape of a tensor in row-major order ([out, in] for linears); false if there is none of that name. */
bool syl_weights_shape(const syl_weights *weights, const char *name, int *rank, int64_t dims[SYL_MAX_RANK]);
/* Elements of rows [row_begin, row_end) (first axis; a vector's elements are its rows) as float64. A
 * block-quantized tensor has no natural precision: its full-precision value is the dequantized number rounded
 * to bf16 (docs/numerics.md); others are read as stored. Thread-safe. */
SYL_NODISCARD syl_status syl_weights_read(const syl_weights *weights, const char *name, int64_t row_begin,
                                          int64_t row_end, syl_diag *diag, double *out);
/* Content hash of a tensor: of its format and its stored bytes. False too where there is no memory. */
bool syl_weights_hash(const syl_weights *weights, const char *name, char hex[33]);

#endif
