/* The public API: text to tokens and back, generation, perplexity. */
#include <stdlib.h>
#include <string.h>

#include "driver/api.h"

_Static_assert((int)SYL_END_TOKEN == SYL_STOP_END && (int)SYL_END_LENGTH == SYL_STOP_LENGTH &&
                   (int)SYL_END_CONTEXT == SYL_STOP_CONTEXT && (int)SYL_END_CALLER == SYL_STOP_CALLER,
               "public ends are the stops");
_Static_assert((int)SYL_TEXT_CONTROL == SYL_ENCODE_CONTROL && (int)SYL_TEXT_BEGIN == SYL_ENCODE_BOS,
               "public flags are those of the tokenizer");

/* ---- tokens ---- */

static syl_status need_tokenizer(const api_call *call, const syl_session *session) {
    if (session->lm.tokenizer) return SYL_OK;
    return syl_error(call->diag, SYL_ERR_lm_tokenizer, SYL_NOWHERE, "\"%s\" has no tokenizer",
                     session->program->path);
}

int syl_session_has_tokenizer(const syl_session *session) {
    return session && session->lm.tokenizer;
}

int syl_session_has_chat(const syl_session *session) {
    return session && session->lm.tokenizer && syl_chat_format_name(session->lm.tokenizer);
}

static syl_status give_ids(const api_call *call, const syl_token_list *list, int32_t **ids, size_t *n) {
    *ids = malloc((list->n ? list->n : 1) * sizeof **ids); /* the list itself is in memory: no overflow */
    if (!*ids)
        return syl_error(call->diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for %zu tokens", list->n);
    if (list->n) memcpy(*ids, list->p, list->n * sizeof **ids);
    *n = list->n;
    return SYL_OK;
}

static syl_status encode(api_call *call, const syl_session *session, const char *text, size_t size, int flags,
                         int32_t **ids, size_t *n) {
    static const char name[] = "syl_session_encode";
    syl_token_list list = {.arena = &call->arena};
    if (!ids || !n || (!text && size)) return api_bad(call, name, "text, ids or n is NULL");
    if (flags & ~(SYL_TEXT_CONTROL | SYL_TEXT_BEGIN)) return api_bad(call, name, "an unknown flag");
    SYL_TRY(need_tokenizer(call, session));
    SYL_TRY(syl_tokenizer_encode(session->lm.tokenizer, text ? text : "", size, flags, call->diag, &list));
    return give_ids(call, &list, ids, n);
}

syl_status syl_session_encode(syl_session *session, const char *text, size_t size, int flags, int32_t **ids,
                              size_t *n) {
    api_call call;
    if (ids) *ids = NULL;
    SYL_TRY(api_begin_lm(&call, session));
    return api_end(&call, encode(&call, session, text, size, flags, ids, n));
}

static syl_status decode(api_call *call, const syl_session *session, const int32_t *ids, size_t n, int flags,
                         char **text, size_t *size) {
    static const char name[] = "syl_session_decode";
    syl_text out = {.arena = &call->arena};
    syl_decoder decoder = {.show_control = flags & SYL_TEXT_CONTROL};
    if (!text || (!ids && n)) return api_bad(call, name, "ids or text is NULL");
    if (flags & ~SYL_TEXT_CONTROL) return api_bad(call, name, "an unknown flag");
    SYL_TRY(need_tokenizer(call, session));
    for (size_t i = 0; i < n; i++) syl_decoder_push(&decoder, session->lm.tokenizer, ids[i], &out);
    syl_decoder_finish(&decoder, &out);
    return api_text(call, out.p, out.n, text, size);
}

syl_status syl_session_decode(syl_session *session, const int32_t *ids, size_t n, int flags, char **text,
                              size_t *size) {
    api_call call;
    if (text) *text = NULL;
    SYL_TRY(api_begin_lm(&call, session));
    return api_end(&call, decode(&call, session, ids, n, flags, text, size));
}

static syl_status chat(api_call *call, const char *name, const syl_session *session, const syl_turn *turns,
                       size_t n_turns, syl_token_list *out) {
    if (!turns || n_turns < 1 || n_turns > 1 << 20) return api_bad(call, name, "no turns, or too many");
    syl_chat_message *messages = SYL_NEW_ARRAY(&call->arena, syl_chat_message, n_turns);
    for (size_t i = 0; i < n_turns; i++) {
        if (!turns[i].role || (!turns[i].content && turns[i].content_size))
            return api_bad(call, name, "a turn without role or content");
        messages[i] = (syl_chat_message){turns[i].role, turns[i].content ? turns[i].content : "",
                                         turns[i].content_size};
    }
    SYL_TRY(need_tokenizer(call, session));
    return syl_chat_encode(session->lm.tokenizer, messages, n_turns, true, call->diag, out);
}

syl_status syl_session_chat(syl_session *session, const syl_turn *turns, size_t n_turns, int32_t **ids,
                            size_t *n) {
    api_call call;
    if (ids) *ids = NULL;
    SYL_TRY(api_begin_lm(&call, session));
    if (!ids || !n) return api_end(&call, api_bad(&call, __func__, "ids or n is NULL"));
    syl_token_list list = {.arena = &call.arena};
    syl_status status = chat(&call, __func__, session, turns, n_turns, &list);
    if (status == SYL_OK) status = give_ids(&call, &list, ids, n);
    return api_end(&call, status);
}

/* ---- generation ---- */

typedef struct stream {
    const syl_generate_settings *settings;
    const syl_tokenizer *tokenizer; /* NULL: no text */
    syl_decoder decoder;
    syl_text text;
    size_t passed; /* bytes of it that the caller has seen */
} stream;

static bool pass_text(stream *s, int32_t id) {
    size_t from = s->passed;
    s->passed = s->text.n;
    if (!s->settings->token) return true;
    return s->settings->token(s->settings->user, id, s->text.p ? s->text.p + from : "", s->text.n - from) !=
           0;
}

static bool take_token(void *user, int32_t id) {
    stream *s = user;
    if (s->tokenizer) syl_decoder_push(&s->decoder, s->tokenizer, id, &s->text);
    return pass_text(s, id);
}

/* Whether the prompt is a conversation, so that what is generated is a text of its own. */
static bool is_chat(const syl_session *session, const syl_generate_settings *s) {
    return s->turns || (s->prompt && !s->raw && syl_session_has_chat(session));
}

static syl_status encode_text_prompt(api_call *call, const char *name, const syl_session *session,
                                     const syl_generate_settings *s, syl_token_list *out) {
    const syl_tokenizer *tokenizer = session->lm.tokenizer;
    size_t size = s->prompt_size ? s->prompt_size : strlen(s->prompt);
    SYL_TRY(need_tokenizer(call, session));
    if (!is_chat(session, s)) {
        return syl_tokenizer_encode(tokenizer, s->prompt, size, SYL_ENCODE_CONTROL | SYL_ENCODE_BOS,
                                    call->diag, out);
    }
    syl_turn turns[2] = {{"system", s->system, s->system ? strlen(s->system) : 0}, {"user", s->prompt, size}};
    return chat(call, name, session, s->system ? turns : turns + 1, s->system ? 2 : 1, out);
}

static syl_status encode_prompt(api_call *call, const char *name, const syl_session *session,
                                const syl_generate_settings *s, syl_token_list *out) {
    if (!!s->tokens + !!s->turns + !!s->prompt != 1)
        return api_bad(call, name, "give one of tokens, turns and prompt");
    if (s->turns) return chat(call, name, session, s->turns, s->n_turns, out);
    if (s->prompt) return encode_text_prompt(call, name, session, s, out);
    if (s->n_tokens > INT32_MAX) return api_bad(call, name, "n_tokens is above 2^31 - 1");
    out->p = (int32_t *)s->tokens; /* only read from here on */
    out->n = s->n_tokens;
    return SYL_OK;
}

static syl_status generate(api_call *call, syl_session *session, const syl_generate_settings *given,
                           char **text, size_t *size, syl_generate_result *result) {
    static const char name[] = "syl_session_generate";
    syl_generate_settings s;
    syl_token_list ids = {.arena = &call->arena};
    if (!api_take(&s, sizeof s, given))
        return api_bad(call, name, "settings is NULL, has no size, or asks for what this version lacks");
    if (result && !api_fits(result)) return api_bad(call, name, "result has no size");
    if (s.max_tokens < 0) return api_bad(call, name, "max_tokens is below 0");
    SYL_TRY(encode_prompt(call, name, session, &s, &ids));
    stream out = {.settings = &s, .tokenizer = session->lm.tokenizer, .text = {.arena = &call->arena}};
    for (size_t i = 0; out.tokenizer && !is_chat(session, &s) && i < ids.n; i++)
        syl_decoder_follow(&out.decoder, out.tokenizer, ids.p[i]);
    syl_generate_options options = {.max_tokens = s.max_tokens ? s.max_tokens : 128,
                                    .sampling = {.temperature = s.temperature,
                                                 .top_k = s.top_k,
                                                 .top_p = s.top_p != 0 ? s.top_p : 1,
                                                 .seed = s.seed},
                                    .token = take_token,
                                    .user = &out};
    syl_generation g;
    session->n_rows = 0;
    SYL_TRY(syl_lm_generate(&session->lm, ids.p, (int64_t)ids.n, &options, call->diag, &g));
    syl_decoder_finish(&out.decoder, &out.text);
    if (g.stop != SYL_STOP_CALLER && out.passed < out.text.n && !pass_text(&out, -1))
        g.stop = SYL_STOP_CALLER;
    if (result) {
        syl_generate_result r = {.prompt_tokens = g.prompt_tokens,
                                 .new_tokens = g.new_tokens,
                                 .end = (int)g.stop,
                                 .end_name = syl_stop_name(g.stop),
                                 .prefill_s = g.prefill_s,
                                 .first_token_s = g.first_token_s,
                                 .decode_s = g.decode_s};
        api_give(result, &r, sizeof r);
    }
    return text ? api_text(call, out.text.p, out.text.n, text, size) : SYL_OK;
}

syl_status syl_session_generate(syl_session *session, const syl_generate_settings *settings, char **text,
                                size_t *size, syl_generate_result *result) {
    api_call call;
    if (text) *text = NULL;
    SYL_TRY(api_begin_lm(&call, session));
    return api_end(&call, generate(&call, session, settings, text, size, result));
}

/* ---- perplexity ---- */

/* Two models are comparable on a text if they read the same tokens in it. */
static syl_status check_pair(const api_call *call, const syl_session *a, const syl_session *b) {
    const syl_artifact *x = &a->program->engine->artifact, *y = &b->program->engine->artifact;
    if (x->tokenizer && y->tokenizer && x->tokenizer_size == y->tokenizer_size &&
        memcmp(x->tokenizer, y->tokenizer, x->tokenizer_size) == 0) {
        return SYL_OK;
    }
    return syl_error(call->diag, SYL_ERR_lm_compare, SYL_NOWHERE,
                     "\"%s\" and \"%s\" have different tokenizers", a->program->path, b->program->path);
}

static syl_status perplexity(api_call *call, syl_session *session, const syl_perplexity_settings *given,
                             syl_perplexity_result *result) {
    static const char name[] = "syl_session_perplexity";
    syl_perplexity_settings s;
    syl_token_list ids = {.arena = &call->arena};
    if (!api_take(&s, sizeof s, given))
        return api_bad(call, name, "settings is NULL, has no size, or asks for what this version lacks");
    if (!api_fits(result)) return api_bad(call, name, "result is NULL or has no size");
    if (!s.text == !s.tokens) return api_bad(call, name, "give a text or tokens, and not both");
    if (s.window < 0 || s.max_windows < 0) return api_bad(call, name, "window or max_windows is below 0");
    if (s.against == session ||
        (s.against && (s.against->instance != session->instance || !s.against->lm.context)))
        return api_bad(call, name,
                       "against must be another session of the same instance, of a language model");
    if (s.against && s.text) SYL_TRY(check_pair(call, session, s.against));
    if (s.text) {
        SYL_TRY(need_tokenizer(call, session));
        SYL_TRY(syl_tokenizer_encode(session->lm.tokenizer, s.text, s.text_size, SYL_ENCODE_PLAIN, call->diag,
                                     &ids));
    } else {
        ids.p = (int32_t *)s.tokens; /* only read from here on */
        ids.n = s.n_tokens;
    }
    session->n_rows = 0;
    if (s.against) s.against->n_rows = 0;
    syl_perplexity_options options = {.window = s.window ? s.window : syl_session_limit(session),
                                      .max_windows = s.max_windows,
                                      .against = s.against ? &s.against->lm : NULL,
                                      .progress = s.progress,
                                      .user = s.user};
    syl_perplexity p;
    SYL_TRY(syl_lm_perplexity(&session->lm, ids.p, (int64_t)ids.n, &options, call->diag, &p));
    syl_perplexity_result r = {.windows = p.windows,
                               .tokens = p.tokens,
                               .nll = p.nll,
                               .ppl = p.ppl,
                               .against_nll = p.against_nll,
                               .against_ppl = p.against_ppl,
                               .kl = p.kl,
                               .same_top = p.same_top,
                               .seconds = p.seconds};
    api_give(result, &r, sizeof r);
    return SYL_OK;
}

syl_status syl_session_perplexity(syl_session *session, const syl_perplexity_settings *settings,
                                  syl_perplexity_result *result) {
    api_call call;
    SYL_TRY(api_begin_lm(&call, session));
    return api_end(&call, perplexity(&call, session, settings, result));
}
