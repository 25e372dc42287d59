/* The vocabulary of GGUF metadata. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "frontend/tokenizer.h"
#include "frontend/vocabulary.h"

/* Of tokenizer.ggml.token_type. */
enum { type_unknown = 2, type_control = 3, type_user_defined = 4, type_byte = 6 };

/* Where the value of a key is. */
static syl_loc loc_of(const syl_gguf *file, const char *key) {
    return syl_gguf_loc(file, syl_gguf_value_of(file, key));
}

static syl_status read_tokens(const syl_gguf *file, syl_vocabulary *v) {
    static const char key[] = "tokenizer.ggml.tokens", types_key[] = "tokenizer.ggml.token_type";
    const int64_t *types = NULL;
    size_t n_types;
    SYL_TRY(syl_gguf_strings(file, key, true, v->arena, v->diag, &v->tokens, &v->n_tokens));
    if (v->n_tokens == 0 || v->n_tokens > SYL_VOCABULARY_TOKENS)
        return syl_error(v->diag, SYL_ERR_tokenizer_data, loc_of(file, key),
                         "\"%s\" has %zu tokens, expected 1 to %d", key, v->n_tokens, SYL_VOCABULARY_TOKENS);
    SYL_TRY(syl_gguf_ints(file, types_key, v->spm, v->arena, v->diag, &types, &n_types));
    if (types && n_types != v->n_tokens)
        return syl_error(v->diag, SYL_ERR_tokenizer_data, loc_of(file, types_key),
                         "\"%s\" has %zu elements for %zu tokens", types_key, n_types, v->n_tokens);
    unsigned char *kinds = SYL_NEW_ARRAY(v->arena, unsigned char, v->n_tokens);
    for (size_t i = 0; types && i < v->n_tokens; i++) {
        bool control = types[i] == type_control || (v->spm && types[i] == type_unknown);
        kinds[i] = control                         ? SYL_WORD_CONTROL
                   : types[i] == type_user_defined ? SYL_WORD_USER
                                                   : SYL_WORD_ORDINARY;
        if (v->spm && kinds[i] == SYL_WORD_ORDINARY &&
            (types[i] == type_byte) != (syl_vocabulary_byte(v->tokens[i]) >= 0))
            return syl_error(
                v->diag, SYL_ERR_tokenizer_data, loc_of(file, types_key),
                "token %zu is \"%.80s\", but has the type %lld: bytes are called <0x00> to <0xFF> and "
                "have the type %d",
                i, v->tokens[i], (long long)types[i], type_byte);
    }
    v->kinds = kinds;
    return SYL_OK;
}

static int compare_scores(const void *a, const void *b, void *scores) {
    double x = ((const double *)scores)[*(const int32_t *)a],
           y = ((const double *)scores)[*(const int32_t *)b];
    return x > y ? -1 : x < y;
}

/* Scores as ranks: 0 is the best, equal scores have one rank. */
static syl_status read_scores(const syl_gguf *file, syl_vocabulary *v) {
    static const char key[] = "tokenizer.ggml.scores";
    const double *scores;
    size_t n;
    SYL_TRY(syl_gguf_floats(file, key, true, v->arena, v->diag, &scores, &n));
    if (n != v->n_tokens)
        return syl_error(v->diag, SYL_ERR_tokenizer_data, loc_of(file, key),
                         "\"%s\" has %zu elements for %zu tokens", key, n, v->n_tokens);
    int32_t *order = SYL_NEW_ARRAY(v->arena, int32_t, n), *ranks = SYL_NEW_ARRAY(v->arena, int32_t, n);
    for (size_t i = 0; i < n; i++) {
        order[i] = (int32_t)i;
        if (isnan(scores[i]))
            return syl_error(v->diag, SYL_ERR_tokenizer_data, loc_of(file, key),
                             "the score of token %zu is no number", i);
    }
    qsort_r(order, n, sizeof *order, compare_scores, (void *)scores);
    for (size_t i = 1; i < n; i++)
        ranks[order[i]] = ranks[order[i - 1]] + (scores[order[i]] < scores[order[i - 1]]);
    v->ranks = ranks;
    return SYL_OK;
}

/* What changes a text in a way that the runtime doesn't have. */
static syl_status refuse_unknown(const syl_gguf *file, const syl_vocabulary *v) {
    static const char *const flags[] = {"tokenizer.ggml.add_eos_token",
                                        "tokenizer.ggml.remove_extra_whitespaces"};
    static const char charsmap[] = "tokenizer.ggml.precompiled_charsmap";
    for (int i = 0; i < 2; i++) {
        bool flag = false;
        SYL_TRY(syl_gguf_bool(file, flags[i], false, v->diag, &flag));
        if (flag)
            return syl_error(v->diag, SYL_ERR_tokenizer_type, loc_of(file, flags[i]),
                             "a tokenizer with \"%s\" is not supported", flags[i]);
    }
    if (syl_gguf_value_of(file, charsmap))
        return syl_error(v->diag, SYL_ERR_tokenizer_type, loc_of(file, charsmap),
                         "a tokenizer with \"%s\" is not supported", charsmap);
    return SYL_OK;
}

/* SentencePiece's BPE: scores instead of merges, and other defaults. */
static syl_status read_spm(const syl_gguf *file, syl_vocabulary *v) {
    bool space = true;
    v->loc = loc_of(file, "tokenizer.ggml.tokens");
    v->add_bos = true;
    v->pre = "whole";
    SYL_TRY(refuse_unknown(file, v));
    SYL_TRY(syl_gguf_bool(file, "tokenizer.ggml.add_space_prefix", false, v->diag, &space));
    v->prefix = space ? "each" : "never";
    SYL_TRY(read_tokens(file, v));
    return read_scores(file, v);
}

static syl_status read_bpe(const syl_gguf *file, syl_vocabulary *v) {
    static const char key[] = "tokenizer.ggml.merges";
    v->loc = loc_of(file, key);
    v->pre = "default";
    SYL_TRY(syl_gguf_string(file, "tokenizer.ggml.pre", false, v->arena, v->diag, &v->pre));
    SYL_TRY(read_tokens(file, v));
    return syl_gguf_strings(file, key, true, v->arena, v->diag, &v->merges, &v->n_merges);
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
    v->template_loc = loc_of(file, template_key);
    SYL_TRY(syl_gguf_string(file, "tokenizer.ggml.model", true, v->arena, v->diag, &model));
    v->spm = strcmp(model, "llama") == 0;
    if (!v->spm && strcmp(model, "gpt2") != 0)
        return syl_error(v->diag, SYL_ERR_tokenizer_type, loc_of(file, "tokenizer.ggml.model"),
                         "the checkpoint has a tokenizer of type \"%s\"", model);
    SYL_TRY(v->spm ? read_spm(file, v) : read_bpe(file, v));
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
