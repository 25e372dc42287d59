/* Recognising chat templates. A template is a program and is never run: what it writes is known by expressions in its
 * text, so a template with other expressions is of no known format. */
#include <stdlib.h>
#include <string.h>
#include "base/json.h"
#include "frontend/vocabulary.h"

enum { max_system = 4096 };

/* The system message that a ChatML template puts in where a conversation has none: the text of a string
 * literal between the marks, free of template syntax. A template may hold its newlines as they are or as \n.
 * NULL if there is none. */
static const char *default_system(const char *template, syl_arena *arena) {
    static const char mark[] = "<|im_start|>system";
    for (const char *p = strstr(template, mark); p; p = strstr(p + 1, mark)) {
        const char *text = p + sizeof mark - 1;
        if (*text == '\n')
            text++;
        else if (text[0] == '\\' && text[1] == 'n')
            text += 2;
        else
            continue;
        const char *end = strstr(text, "<|im_end|>");
        if (!end || end == text || end - text > max_system || strcspn(text, "'\"{}\\") < (size_t)(end - text))
            continue;
        return syl_arena_strndup(arena, text, (size_t)(end - text));
    }
    return NULL;
}

/* Whether the vocabulary has the control tokens of a format. */
static bool has_marks(const syl_vocabulary *v, const char *const *marks, size_t n) {
    for (size_t i = 0; i < n && marks[i]; i++) {
        int64_t id = syl_vocabulary_id(v, marks[i]);
        if (id < 0 || v->kinds[id] != SYL_WORD_CONTROL) return false;
    }
    return true;
}

/* ---- [INST] ---- */

/* The expressions of a template in one spelling: without white space and with ' around strings, in which a newline is
 * \n. */
static const char *in_one_spelling(const char *template, syl_arena *arena) {
    syl_text out = {.arena = arena};
    char quote = 0;
    syl_text_append(&out, "", 0);
    for (const char *p = template; *p; p++) {
        if (!quote && strchr(" \t\r\n", *p)) continue;
        if (quote && *p == '\n') {
            syl_text_append(&out, "\\n", 2);
            continue;
        }
        bool mark = quote ? *p == quote : *p == '\'' || *p == '"';
        if (mark) quote = quote ? 0 : *p;
        if (quote && *p == '\\' && p[1]) syl_text_append(&out, p++, 1);
        syl_text_append(&out, mark ? "'" : p, 1);
    }
    return out.p;
}

/* Formats of conversations between [INST] and [/INST]: what the template must have and what it must not. */
static const struct {
    const char *name;
    const char *marks[4];
    const char *has[4], *lacks;
} inst_formats[] = {
    {"llama2",
     {"<s>", "</s>"},
     {"'<<SYS>>\\n'+system_message+'\\n<</SYS>>\\n\\n'+message['content']",
      "bos_token+'[INST] '+content.strip()+' [/INST]'", "' '+content.strip()+' '+eos_token"},
     "inmessages[0]" /* a default system message */},
    {"mistral-v0.1",
     {"<s>", "</s>"},
     {"{{bos_token}}", "{{'[INST] '+message['content']+' [/INST]'}}", "{{message['content']+eos_token+' '}}"},
     "system"},
    {"mistral-v0.2",
     {"<s>", "</s>"},
     {"{{bos_token}}", "{{'[INST] '+message['content']+' [/INST]'}}", "{{message['content']+eos_token}}"},
     "system"},
    {"mistral-v1",
     {"<s>", "</s>"},
     {"{{-bos_token}}", "{{-' [INST] '+system_message+'\\n\\n'+message['content']+' [/INST]'}}",
      "{{-' [INST] '+message['content']+' [/INST]'}}", "{{-' '+message['content']+eos_token}}"},
     "loop.last"},
    {"mistral-v3",
     {"<s>", "</s>", "[INST]", "[/INST]"},
     {"{{-bos_token}}", "{{-'[INST] '+system_message+'\\n\\n'+message['content']+'[/INST]'}}",
      "{{-'[INST] '+message['content']+'[/INST]'}}", "{{-' '+message['content']|trim+eos_token}}"},
     "loop.first"},
};

/* The name of the format, or NULL. */
static const char *inst_format(const syl_vocabulary *v) {
    if (!strstr(v->template, "[/INST]")) return NULL;
    const char *text = in_one_spelling(v->template, v->arena);
    for (size_t i = 0; i < sizeof inst_formats / sizeof *inst_formats; i++) {
        bool is = !strstr(text, inst_formats[i].lacks) && has_marks(v, inst_formats[i].marks, 4);
        for (int k = 0; k < 4 && inst_formats[i].has[k]; k++) is = is && strstr(text, inst_formats[i].has[k]);
        if (is) return inst_formats[i].name;
    }
    return NULL;
}

/* ---- all formats ---- */

/* Writes the value of "chat" and adds the token that ends a turn to the ends of generation. */
void syl_vocabulary_write_chat(syl_vocabulary *v, syl_text *out) {
    const char *template = v->template;
    if (!template) {
        syl_text_printf(out, "null");
        return;
    }
    bool role = strstr(template, "['role']") || strstr(template, "[\"role\"]") || strstr(template, ".role");
    int64_t im_start = syl_vocabulary_id(v, "<|im_start|>"), im_end = syl_vocabulary_id(v, "<|im_end|>"),
            eot = syl_vocabulary_id(v, "<|eot_id|>");
    if (role && im_start >= 0 && im_end >= 0 && strstr(template, "<|im_start|>") &&
        strstr(template, "<|im_end|>")) {
        const char *system = default_system(template, v->arena);
        syl_vocabulary_add_end(v, im_end);
        syl_text_printf(out, "{\"format\":\"chatml\",\"system\":");
        if (system)
            syl_json_quote(out, system);
        else
            syl_text_printf(out, "null");
        syl_text_printf(out, "}");
        return;
    }
    /* Later templates of this family put dates and tool lists into the system message; those are not this
     * format. */
    bool plain = !strstr(template, "date") && !strstr(template, "tools");
    if (role && plain && eot >= 0 && syl_vocabulary_id(v, "<|start_header_id|>") >= 0 &&
        strstr(template, "<|start_header_id|>") && strstr(template, "<|eot_id|>")) {
        syl_vocabulary_add_end(v, eot);
        syl_text_printf(out, "{\"format\":\"llama3\",\"system\":null}");
        return;
    }
    const char *inst = inst_format(v);
    if (inst) {
        syl_vocabulary_add_end(v, syl_vocabulary_id(v, "</s>"));
        syl_text_printf(out, "{\"format\":\"%s\",\"system\":null}", inst);
        return;
    }
    syl_warning(v->diag, v->template_loc,
                "the chat template is of no known format, so the model is imported without one");
    syl_text_printf(out, "null");
}
