/* Writing tokenizer JSON. What comes out is whole: every id is in range and every key is there. */
#include "frontend/vocabulary.h"
#include <string.h>
#include "base/json.h"

enum { max_system = 4096 };

int64_t syl_vocabulary_id(const syl_vocabulary *v, const char *text) {
    for (size_t i = 0; i < v->n_tokens; i++)
        if (strcmp(v->tokens[i], text) == 0) return (int64_t)i;
    return -1;
}

void syl_vocabulary_add_end(syl_vocabulary *v, int64_t id) {
    if (id < 0 || v->n_ends == SYL_VOCABULARY_ENDS) return;
    int at = 0;
    while (at < v->n_ends && v->ends[at] < id) at++;
    if (at < v->n_ends && v->ends[at] == id) return;
    memmove(&v->ends[at + 1], &v->ends[at], (size_t)(v->n_ends - at) * sizeof *v->ends);
    v->ends[at] = id;
    v->n_ends++;
}

/* ---- chat ---- */

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

/* Writes the value of "chat" and adds the token that ends a turn to the ends of generation. */
static void write_chat(syl_vocabulary *v, syl_text *out) {
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
    syl_warning(v->diag, v->template_loc,
                "the chat template is of no known format, so the model is imported without one");
    syl_text_printf(out, "null");
}

/* ---- the text ---- */

static void write_id(syl_text *out, const char *key, int64_t id) {
    if (id < 0)
        syl_text_printf(out, ",\"%s\":null", key);
    else
        syl_text_printf(out, ",\"%s\":%lld", key, (long long)id);
}

static void write_strings(syl_text *out, const char *key, const char *const *texts, size_t n) {
    syl_text_printf(out, ",\"%s\":[", key);
    for (size_t i = 0; i < n; i++) {
        if (i) syl_text_append(out, ",", 1);
        syl_json_quote(out, texts[i]);
    }
    syl_text_printf(out, "]");
}

static void write_types(const syl_vocabulary *v, syl_text *out) {
    const char *separator = "";
    syl_text_printf(out, ",\"types\":[");
    for (size_t i = 0; i < v->n_tokens; i++) {
        if (v->kinds[i] == SYL_WORD_ORDINARY) continue;
        syl_text_printf(out, "%s{\"id\":%zu,\"special\":%s}", separator, i,
                        v->kinds[i] == SYL_WORD_CONTROL ? "true" : "false");
        separator = ",";
    }
    syl_text_printf(out, "]");
}

syl_status syl_vocabulary_write(syl_vocabulary *v, syl_text *out) {
    if (v->n_merges > SYL_VOCABULARY_MERGES)
        return syl_error(v->diag, SYL_ERR_tokenizer_data, v->loc,
                         "the checkpoint has %zu merges, more than %d", v->n_merges, SYL_VOCABULARY_MERGES);
    for (size_t i = 0; i < v->n_merges; i++) {
        const char *space = strchr(v->merges[i], ' ');
        if (!space || space == v->merges[i] || !space[1] || strchr(space + 1, ' '))
            return syl_error(v->diag, SYL_ERR_tokenizer_data, v->loc,
                             "merge %zu is \"%s\", expected two tokens with one space between", i,
                             v->merges[i]);
    }
    if (v->add_bos && v->bos < 0)
        return syl_error(v->diag, SYL_ERR_tokenizer_data, v->loc,
                         "texts begin with a token for that, but the checkpoint names no such token");
    syl_text chat = {.arena = v->arena};
    write_chat(v, &chat);
    if (v->n_ends == 0)
        return syl_error(v->diag, SYL_ERR_tokenizer_data, v->loc,
                         "the checkpoint names no token that ends a text (eos)");

    syl_text_printf(out, "{\"type\":\"bpe\",\"pre\":");
    syl_json_quote(out, v->pre);
    if (v->nfc) syl_text_printf(out, ",\"normalizer\":\"nfc\"");
    write_strings(out, "tokens", v->tokens, v->n_tokens);
    write_types(v, out);
    write_strings(out, "merges", v->merges, v->n_merges);
    write_id(out, "bos", v->bos);
    syl_text_printf(out, ",\"eos\":[");
    for (int i = 0; i < v->n_ends; i++) syl_text_printf(out, "%s%lld", i ? "," : "", (long long)v->ends[i]);
    syl_text_printf(out, "]");
    write_id(out, "unk", v->unk);
    syl_text_printf(out, ",\"add_bos\":%s,\"chat\":%s}", v->add_bos ? "true" : "false", chat.p);
    return SYL_OK;
}
