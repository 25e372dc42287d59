/* Chat formats: how a conversation becomes tokens.
 *
 * Invariant: control tokens come only from a format's own marks, never from a message. What stands between
 * two marks is tokenized as one text, as if the whole conversation had been written out first. */
#include <stdlib.h>
#include <string.h>
#include "runtime/tokenizer_impl.h"

/* What stands around the content of a message. */
typedef struct chat_part {
    const char *before, *after; /* NULL: there is no such message */
    bool trim;                  /* content without white space at its ends */
} chat_part;

typedef enum system_place {
    SYSTEM_ALONE, /* a message like others, and those come in any order */
    SYSTEM_FIRST, /* in front of the content of the first user message; users and assistants alternate */
    SYSTEM_LAST,  /* of the last one */
} system_place;

typedef struct syl_chat_format {
    const char *name;
    const char *begin; /* of a conversation; NULL: the begin-of-text token if texts get one */
    chat_part system, user, assistant;
    const char *ask;      /* what makes the model answer */
    const char *marks[4]; /* the control tokens in the above */
    system_place place;
} syl_chat_format;

static const syl_chat_format formats[] = {
    {"chatml",
     NULL,
     {"<|im_start|>system\n", "<|im_end|>\n", false},
     {"<|im_start|>user\n", "<|im_end|>\n", false},
     {"<|im_start|>assistant\n", "<|im_end|>\n", false},
     "<|im_start|>assistant\n",
     {"<|im_start|>", "<|im_end|>"},
     SYSTEM_ALONE},
    {"llama3",
     NULL,
     {"<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>", true},
     {"<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>", true},
     {"<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>", true},
     "<|start_header_id|>assistant<|end_header_id|>\n\n",
     {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"},
     SYSTEM_ALONE},
    {"llama2",
     "",
     {"<<SYS>>\n", "\n<</SYS>>\n\n", false},
     {"<s>[INST] ", " [/INST]", true},
     {" ", " </s>", true},
     "",
     {"<s>", "</s>"},
     SYSTEM_FIRST},
    /* The first templates of Mistral 7B Instruct v0.1 and v0.2, what both have today, and that of v0.3. */
    {"mistral-v0.1",
     "<s>",
     {NULL, NULL, false},
     {"[INST] ", " [/INST]", false},
     {"", "</s> ", false},
     "",
     {"<s>", "</s>"},
     SYSTEM_FIRST},
    {"mistral-v0.2",
     "<s>",
     {NULL, NULL, false},
     {"[INST] ", " [/INST]", false},
     {"", "</s>", false},
     "",
     {"<s>", "</s>"},
     SYSTEM_FIRST},
    {"mistral-v1",
     "<s>",
     {"", "\n\n", false},
     {" [INST] ", " [/INST]", false},
     {" ", "</s>", false},
     "",
     {"<s>", "</s>"},
     SYSTEM_FIRST},
    {"mistral-v3",
     "<s>",
     {"", "\n\n", false},
     {"[INST] ", "[/INST]", false},
     {" ", "</s>", true},
     "",
     {"<s>", "</s>", "[INST]", "[/INST]"},
     SYSTEM_LAST},
};
enum {
    n_formats = sizeof formats / sizeof *formats,
    max_marks = sizeof formats->marks / sizeof *formats->marks
};

syl_status syl_tokenizer_prepare_chat(syl_tokenizer *t, const char *format, syl_loc loc, syl_diag *diag) {
    for (int i = 0; i < n_formats; i++)
        if (strcmp(formats[i].name, format) == 0) t->chat = &formats[i];
    if (!t->chat) {
        syl_text known = {.arena = &t->arena};
        for (int i = 0; i < n_formats; i++) syl_text_printf(&known, "%s'%s'", i ? ", " : "", formats[i].name);
        return syl_error(diag, SYL_ERR_chat_format, loc, "unknown chat format '%s', expected one of %s",
                         format, known.p);
    }
    for (int i = 0; i < max_marks && t->chat->marks[i]; i++) {
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
    bool inside;    /* something stands before it */
} writer;

static syl_status flush(writer *w) {
    SYL_TRY(syl_tokenizer_encode(w->t, w->plain.p, w->plain.n,
                                 w->inside ? SYL_ENCODE_INSIDE : SYL_ENCODE_PLAIN, w->diag, w->out));
    w->plain.n = 0;
    return SYL_OK;
}

static void put(writer *w, int32_t id) {
    SYL_PUSH(w->out->arena, w->out, id);
    w->inside = true;
}

/* Text of the format: its marks become control tokens. */
static syl_status write_format(writer *w, const char *text) {
    for (size_t size = strlen(text); size;) {
        int32_t id = syl_tokenizer_match_whole(w->t, text, size, true);
        size_t step = 1;
        if (id >= 0 && w->t->tokens[id].kind == SYL_TOKEN_CONTROL) {
            SYL_TRY(flush(w));
            put(w, id);
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

static syl_status write_message(writer *w, const chat_part *part, const char *content, size_t size) {
    if (part->trim) {
        while (size && is_space(content[size - 1])) size--;
        while (size && is_space(*content)) content++, size--;
    }
    SYL_TRY(write_format(w, part->before));
    syl_text_append(&w->plain, content, size);
    return write_format(w, part->after);
}

enum { role_system, role_user, role_assistant, n_roles };
static const char *const roles[n_roles] = {"system", "user", "assistant"};

static int role_of(const syl_chat_message *message) {
    int role = 0;
    while (role < n_roles && strcmp(roles[role], message->role) != 0) role++;
    return role;
}

static bool begins_with_system(const syl_chat_message *messages, size_t n) {
    return n && role_of(messages) == role_system;
}

/* Roles that exist, and in an order that the format has. */
static syl_status check_roles(const writer *w, const syl_chat_message *messages, size_t n, bool ask) {
    const syl_chat_format *f = w->t->chat;
    for (size_t i = 0; i < n; i++)
        if (role_of(&messages[i]) == n_roles)
            return syl_error(w->diag, SYL_ERR_chat_role, SYL_NOWHERE,
                             "message %zu has the role '%s', expected 'system', 'user' or 'assistant'", i + 1,
                             messages[i].role);
    if (f->place == SYSTEM_ALONE) return SYL_OK;
    size_t first = begins_with_system(messages, n);
    if (first && !f->system.before)
        return syl_error(w->diag, SYL_ERR_chat_role, SYL_NOWHERE,
                         "the chat format '%s' has no system messages", f->name);
    for (size_t i = first; i < n; i++)
        if (role_of(&messages[i]) != ((i - first) % 2 ? role_assistant : role_user))
            return syl_error(
                w->diag, SYL_ERR_chat_role, SYL_NOWHERE,
                "message %zu has the role '%s', but in the chat format '%s' 'user' and 'assistant' "
                "take turns",
                i + 1, messages[i].role, f->name);
    if (n == first || (ask && (n - first) % 2 == 0))
        return syl_error(w->diag, SYL_ERR_chat_role, SYL_NOWHERE,
                         "a conversation in the chat format '%s' must %s a message of the user", f->name,
                         n == first ? "have" : "end with");
    return SYL_OK;
}

static syl_status write_chat(writer *w, const syl_chat_message *messages, size_t n, bool ask) {
    const syl_tokenizer *t = w->t;
    const syl_chat_format *f = t->chat;
    SYL_TRY(check_roles(w, messages, n, ask));
    if (f->begin)
        SYL_TRY(write_format(w, f->begin));
    else if (t->add_bos)
        put(w, t->bos);
    const char *system = begins_with_system(messages, n) ? NULL : t->chat_system;
    const chat_part *const parts[] = {&f->system, &f->user, &f->assistant};
    size_t at = 0, bearer = n; /* the message that begins with the system message */
    syl_text content = {.arena = w->plain.arena};
    if (f->place == SYSTEM_ALONE) {
        if (system) SYL_TRY(write_message(w, &f->system, system, strlen(system)));
    } else if (f->system.before && (system || begins_with_system(messages, n))) {
        syl_text_append(&content, f->system.before, strlen(f->system.before));
        if (system)
            syl_text_append(&content, system, strlen(system));
        else
            syl_text_append(&content, messages->content, messages->content_size), at = 1;
        syl_text_append(&content, f->system.after, strlen(f->system.after));
        bearer = f->place == SYSTEM_FIRST ? at : n - 1 - (n - at + 1) % 2;
        syl_text_append(&content, messages[bearer].content, messages[bearer].content_size);
    }
    for (; at < n; at++) {
        const syl_chat_message *m = &messages[at];
        bool bears = at == bearer;
        SYL_TRY(write_message(w, parts[role_of(m)], bears ? content.p : m->content,
                              bears ? content.n : m->content_size));
    }
    if (ask) SYL_TRY(write_format(w, f->ask));
    return flush(w);
}

syl_status syl_chat_encode(const syl_tokenizer *t, const syl_chat_message *messages, size_t n, bool ask,
                           syl_diag *diag, syl_token_list *out) {
    if (!t->chat)
        return syl_error(diag, SYL_ERR_chat_format, SYL_NOWHERE,
                         "the model has no chat format that is known");
    syl_arena scratch;
    syl_arena_init(&scratch);
    writer w = {t, diag, out, {.arena = &scratch}, false};
    syl_status status = write_chat(&w, messages, n, ask);
    syl_arena_free(&scratch);
    return status;
}
