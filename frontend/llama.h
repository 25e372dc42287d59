/* What a Llama-like checkpoint computes, whatever it is stored in; inside the frontend.
 *
 * The family: RMSNorm, rotary grouped-query attention, SwiGLU (Touvron et al., "LLaMA" 2023, "Llama 2" 2023, "The
 * Llama 3 Herd of Models" 2024; Jiang et al., "Mistral 7B" 2023; "Qwen2" 2024: biases of q, k and v; "Qwen3" 2025:
 * norms of the heads of q and k). The readers of containers (import_llama.c, import_hf.c) fill the description
 * from metadata; llama.c checks every tensor against it and writes the graph. */
#ifndef SYL_FRONTEND_LLAMA_H
#define SYL_FRONTEND_LLAMA_H

#include "frontend/weights.h"

typedef enum syl_presence {
    SYL_ABSENT,
    SYL_OPTIONAL,
    SYL_REQUIRED
} syl_presence; /* optional: the first layer decides */

typedef struct syl_rope_scaling {
    const char *kind; /* "linear", "llama3", or NULL: none. The parameters are those of the op rope_table. */
    double factor, low, high;
    int64_t original;
} syl_rope_scaling;

typedef struct syl_llama {
    syl_diag *diag;
    syl_arena *arena;
    const syl_source *source; /* where errors about tensors point */
    const char *architecture; /* for messages */
    const char *name;         /* of the module */
    bool hugging_face;        /* names of tensors, and rotary pairs (k, k + dims/2); else GGUF's */
    bool half;                /* rotary pairs */
    int64_t layers, context, width, hidden, heads, kv_heads, head_dim, rope_dims;
    double eps, rope_base;
    syl_rope_scaling scaling;
    syl_presence qkv_bias, o_bias, mlp_bias, qk_norm, head;
    syl_weights **files;           /* open while the graph is made */
    const char *const *file_names; /* as the graph names them */
    size_t n_files;
    const char *tokenizer_file; /* as the graph names it; NULL: none */
} syl_llama;

/* A module name from a model's name: lower case, everything else '_'. */
const char *syl_llama_name(syl_arena *arena, const char *text);

/* Sizes of heads and rotary parameters make sense; reports at `loc`. */
SYL_NODISCARD syl_status syl_llama_check_sizes(const syl_llama *m, syl_loc loc);

/* Checks that every tensor the graph reads is there with its shape in a readable format, that none is left over,
 * and writes the graph JSON. `allowed` (may be NULL) tells of tensors that may be left over. */
SYL_NODISCARD syl_status syl_llama_write(syl_llama *m, bool (*allowed)(const char *name), syl_text *out);

#endif
