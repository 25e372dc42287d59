/* Reading parts of a Hugging Face tokenizer.json; inside the frontend. */
#ifndef SYL_FRONTEND_TOKENIZER_HF_H
#define SYL_FRONTEND_TOKENIZER_HF_H

#include <cjson/cJSON.h>
#include <string.h>
#include "base/json.h"
#include "frontend/vocabulary.h"

/* A member that is there and not null. */
static inline const cJSON *member(const cJSON *object, const char *key) {
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsNull(node) ? NULL : node;
}

static inline bool text_is(const cJSON *node, const char *text) {
    return cJSON_IsString(node) && strcmp(node->valuestring, text) == 0;
}

/* The value of "type" in a part of the tokenizer, "?" if it has none. */
static inline const char *type_of(const cJSON *part) {
    const cJSON *type = member(part, "type");
    return cJSON_IsString(type) ? type->valuestring : "?";
}

/* What puts a space in front of texts, cuts them and takes it off again, of a tokenizer of SentencePiece's kind: the
 * normalizer, the pre-tokenizer and the decoder, which must fit together. Sets spm, pre and prefix; *out_prepends:
 * the normalizer does it. */
SYL_NODISCARD syl_status syl_hf_read_spaces(const syl_json *json, syl_vocabulary *v, bool *out_prepends);

#endif
