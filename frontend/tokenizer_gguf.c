/* The vocabulary of GGUF metadata. */
#include <string.h>
#include "frontend/tokenizer.h"
#include "frontend/vocabulary.h"

enum { type_control = 3, type_user_defined = 4 }; /* of tokenizer.ggml.token_type */

/* Where the value of a key is. */
static syl_loc loc_of(const syl_gguf *file, const char *key) {
    return syl_gguf_loc(file, syl_gguf_value_of(file, key));
}

static syl_status read_tokens(const syl_gguf *file, syl_vocabulary *v) {
    static const char key[] = "tokenizer.ggml.tokens", types_key[] = "tokenizer.ggml.token_type";
    const int64_t *types;
    size_t n_types;
    SYL_TRY(syl_gguf_strings(file, key, true, v->arena, v->diag, &v->tokens, &v->n_tokens));
    if (v->n_tokens == 0 || v->n_tokens > SYL_VOCABULARY_TOKENS)
        return syl_error(v->diag, SYL_ERR_tokenizer_data, loc_of(file, key),
                         "\"%s\" has %zu tokens, expected 1 to %d", key, v->n_tokens, SYL_VOCABULARY_TOKENS);
    SYL_TRY(syl_gguf_ints(file, types_key, false, v->arena, v->diag, &types, &n_types));
    if (types && n_types != v->n_tokens)
        return syl_error(v->diag, SYL_ERR_tokenizer_data, loc_of(file, types_key),
                         "\"%s\" has %zu elements for %zu tokens", types_key, n_types, v->n_tokens);
    unsigned char *kinds = SYL_NEW_ARRAY(v->arena, unsigned char, v->n_tokens);
    for (size_t i = 0; types && i < v->n_tokens; i++)
        kinds[i] = types[i] == type_control        ? SYL_WORD_CONTROL
                   : types[i] == type_user_defined ? SYL_WORD_USER
                                                   : SYL_WORD_ORDINARY;
    v->kinds = kinds;
    return SYL_OK;
}

/* A token id, or -1 where the key is absent. */
static syl_status read_id(const syl_gguf *file, const syl_vocabulary *v, const char *key, int64_t *out) {
    *out = -1;
    return syl_gguf_int(file, key, false, 0, (int64_t)v->n_tokens - 1, v->diag, out);
}

static syl_status read_all(const syl_gguf *file, syl_vocabulary *v, syl_text *out) {
    static const char template_key[] = "tokenizer.chat_template";
    const char *model;
    int64_t eos, eot;
    v->pre = "default";
    v->loc = loc_of(file, "tokenizer.ggml.merges");
    v->template_loc = loc_of(file, template_key);
    SYL_TRY(syl_gguf_string(file, "tokenizer.ggml.model", true, v->arena, v->diag, &model));
    if (strcmp(model, "gpt2") != 0)
        return syl_error(v->diag, SYL_ERR_tokenizer_type, loc_of(file, "tokenizer.ggml.model"),
                         "the checkpoint has a tokenizer of type \"%s\"", model);
    SYL_TRY(syl_gguf_string(file, "tokenizer.ggml.pre", false, v->arena, v->diag, &v->pre));
    SYL_TRY(read_tokens(file, v));
    SYL_TRY(
        syl_gguf_strings(file, "tokenizer.ggml.merges", true, v->arena, v->diag, &v->merges, &v->n_merges));
    SYL_TRY(read_id(file, v, "tokenizer.ggml.bos_token_id", &v->bos));
    SYL_TRY(read_id(file, v, "tokenizer.ggml.eos_token_id", &eos));
    SYL_TRY(read_id(file, v, "tokenizer.ggml.eot_token_id", &eot));
    SYL_TRY(read_id(file, v, "tokenizer.ggml.unknown_token_id", &v->unk));
    SYL_TRY(syl_gguf_bool(file, "tokenizer.ggml.add_bos_token", false, v->diag, &v->add_bos));
    SYL_TRY(syl_gguf_string(file, template_key, false, v->arena, v->diag, &v->template));
    syl_vocabulary_add_end(v, eos);
    syl_vocabulary_add_end(v, eot);
    return syl_vocabulary_write(v, out);
}

syl_status syl_tokenizer_from_gguf(const syl_gguf *file, syl_diag *diag, syl_text *out) {
    syl_arena arena;
    syl_arena_init(&arena);
    syl_vocabulary v = {.diag = diag, .arena = &arena};
    syl_status status = read_all(file, &v, out);
    syl_arena_free(&arena);
    return status;
}
