/* Chat formats: how a conversation becomes tokens.
 *
 * Invariant: control tokens come only from a format's own marks, never from a message. What stands between
 * two marks is tokenized as one text, as if the whole conversation had been written out first. */
#include <stdlib.h>
#include <string.h>
#include "runtime/tokenizer_impl.h"

typedef struct syl_chat_format {
    const char *name;
    const char *before, *after_role, *after; /* around the role and the content of a message */
    const char *marks[4];                    /* the control tokens in the above */
    bool trim;                               /* content without white space at its ends */
} syl_chat_format;

static const syl_chat_format formats[] = {
    {"chatml", "<|im_start|>", "\n", "<|im_end|>\n", {"<|im_start|>", "<|im_end|>"}, false},
    {"llama3",
     "<|start_header_id|>",
     "<|end_header_id|>\n\n",
     "<|eot_id|>",
     {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"},
     true},
};
enum { n_formats = sizeof formats / sizeof *formats };

syl_status syl_tokenizer_prepare_chat(syl_tokenizer *t, const char *format, syl_loc loc, syl_diag *diag) {
    for (int i = 0; i < n_formats; i++)
        if (strcmp(formats[i].name, format) == 0) t->chat = &formats[i];
    if (!t->chat)
        return syl_error(diag, SYL_ERR_chat_format, loc,
                         "unknown chat format '%s', expected 'chatml' or 'llama3'", format);
    for (int i = 0; t->chat->marks[i]; i++) {
        size_t size = strlen(t->chat->marks[i]);
        int32_t id = syl_tokenizer_match_whole(t, t->chat->marks[i], size, true);
        if (id < 0 || t->tokens[id].kind != SYL_TOKEN_CONTROL || t->tokens[id].size != size)
            return syl_error(diag, SYL_ERR_chat_format, loc,
                             "chat format '%s' needs the control token '%s', which 'types' does not list",
                             format, t->chat->marks[i]);
    }
    return SYL_OK;
}

const char *syl_chat_format_name(const syl_tokenizer *t) {
    return t->chat ? t->chat->name : NULL;
}

typedef struct writer {
    const syl_tokenizer *t;
    syl_diag *diag;
    syl_token_list *out;
    syl_text plain; /* since the last mark */
} writer;

static syl_status flush(writer *w) {
    SYL_TRY(syl_tokenizer_encode(w->t, w->plain.p, w->plain.n, SYL_ENCODE_PLAIN, w->diag, w->out));
    w->plain.n = 0;
    return SYL_OK;
}

/* Text of the format: its marks become control tokens. */
static syl_status write_format(writer *w, const char *text) {
    for (size_t size = strlen(text); size;) {
        int32_t id = syl_tokenizer_match_whole(w->t, text, size, true);
        size_t step = 1;
        if (id >= 0 && w->t->tokens[id].kind == SYL_TOKEN_CONTROL) {
            SYL_TRY(flush(w));
            SYL_PUSH(w->out->arena, w->out, id);
            step = w->t->tokens[id].size;
        } else
            syl_text_append(&w->plain, text, 1);
        text += step;
        size -= step;
    }
    return SYL_OK;
}

static bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static syl_status write_message(writer *w, const char *role, const char *content, size_t size) {
    const syl_chat_format *f = w->t->chat;
    if (f->trim) {
        while (size && is_space(content[size - 1])) size--;
        while (size && is_space(*content)) content++, size--;
    }
    SYL_TRY(write_format(w, f->before));
    syl_text_append(&w->plain, role, strlen(role));
    SYL_TRY(write_format(w, f->after_role));
    syl_text_append(&w->plain, content, size);
    return write_format(w, f->after);
}

static syl_status write_chat(writer *w, const syl_chat_message *messages, size_t n, bool ask) {
    const syl_tokenizer *t = w->t;
    static const char *const roles[] = {"system", "user", "assistant", NULL};
    for (size_t i = 0; i < n; i++) {
        int role = 0;
        while (roles[role] && strcmp(roles[role], messages[i].role) != 0) role++;
        if (!roles[role])
            return syl_error(w->diag, SYL_ERR_chat_role, SYL_NOWHERE,
                             "message %zu has the role '%s', expected 'system', 'user' or 'assistant'", i + 1,
                             messages[i].role);
    }
    if (t->add_bos) SYL_PUSH(w->out->arena, w->out, t->bos);
    if (t->chat_system && (!n || strcmp(messages[0].role, "system") != 0))
        SYL_TRY(write_message(w, "system", t->chat_system, strlen(t->chat_system)));
    for (size_t i = 0; i < n; i++)
        SYL_TRY(write_message(w, messages[i].role, messages[i].content, messages[i].content_size));
    if (ask) {
        SYL_TRY(write_format(w, t->chat->before));
        syl_text_append(&w->plain, "assistant", strlen("assistant"));
        SYL_TRY(write_format(w, t->chat->after_role));
    }
    return flush(w);
}

syl_status syl_chat_encode(const syl_tokenizer *t, const syl_chat_message *messages, size_t n, bool ask,
                           syl_diag *diag, syl_token_list *out) {
    if (!t->chat)
        return syl_error(diag, SYL_ERR_chat_format, SYL_NOWHERE,
                         "the model has no chat format that is known");
    syl_arena scratch;
    syl_arena_init(&scratch);
    writer w = {t, diag, out, {.arena = &scratch}};
    syl_status status = write_chat(&w, messages, n, ask);
    syl_arena_free(&scratch);
    return status;
}
