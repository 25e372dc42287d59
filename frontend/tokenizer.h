/* The tokenizer a graph names, as tokenizer JSON (docs/artifact.md); inside the frontend. */
#ifndef SYL_FRONTEND_TOKENIZER_H
#define SYL_FRONTEND_TOKENIZER_H

#include "base/json.h"
#include "frontend/gguf.h"

/* Makes the text from GGUF metadata. */
SYL_NODISCARD syl_status syl_tokenizer_from_gguf(const syl_gguf *file, syl_diag *diag, syl_text *out);
/* Makes the text from a tokenizer.json of Hugging Face, and tokenizer_config.json, generation_config.json,
 * config.json and chat_template.jinja beside it. `arena` is scratch. */
SYL_NODISCARD syl_status syl_tokenizer_from_hf(const syl_json *json, syl_arena *arena, syl_diag *diag,
                                               syl_text *out);
/* The tokenizer of a file: a GGUF, a tokenizer.json of Hugging Face, or tokenizer JSON (checked to be a JSON object,
 * no more). *out lives in `arena`. */
SYL_NODISCARD syl_status syl_tokenizer_load(const char *path, syl_arena *arena, syl_diag *diag, char **out);

#endif
