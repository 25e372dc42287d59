/* Readers of checkpoints that write graph JSON; inside the frontend. */
#ifndef SYL_FRONTEND_IMPORT_H
#define SYL_FRONTEND_IMPORT_H

#include "frontend/frontend.h"

/* The graph of a GGUF checkpoint of an architecture llama, qwen2 or qwen3. `file_name` is how the graph names the
 * file. `arena` is scratch. */
SYL_NODISCARD syl_status syl_import_llama(syl_weights *weights, const char *architecture,
                                          const char *file_name, syl_arena *arena, syl_diag *diag,
                                          syl_text *out);

/* The graph of a Hugging Face directory: config.json, model.safetensors or its shards, tokenizer.json. `prefix` goes
 * before the names of its files in the graph ("" or ending in '/'). */
SYL_NODISCARD syl_status syl_import_hf(const char *directory, const char *prefix, syl_arena *arena,
                                       syl_diag *diag, syl_text *out);

#endif
