/* Tokenizer JSON (docs/artifact.md) from GGUF metadata. What comes out is whole: every id is in range and
 * every key is there. */
#include "frontend/tokenizer.h"
#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>
#include "base/json.h"

enum { max_tokens = 1 << 21, max_merges = 1 << 22, max_eos = 8, max_system = 4096 };
enum { type_control = 3, type_user_defined = 4 }; /* of tokenizer.ggml.token_type */

typedef struct vocabulary {
    const syl_gguf *file;
    syl_diag *diag;
    syl_arena arena;
    const char *const *tokens;
    size_t n_tokens;
    const int64_t *types; /* NULL: all ordinary */
    int64_t eos[max_eos];
    int n_eos;
} vocabulary;

/* Where the value of a key is; NULL: the file. */
static syl_loc loc_of(const vocabulary *v, const char *key) {
    return syl_gguf_loc(v->file, key ? syl_gguf_value_of(v->file, key) : NULL);
}

static syl_status read_tokens(vocabulary *v) {
    static const char key[] = "tokenizer.ggml.tokens", types[] = "tokenizer.ggml.token_type";
    size_t n_types;
    SYL_TRY(syl_gguf_strings(v->file, key, true, &v->arena, v->diag, &v->tokens, &v->n_tokens));
    if (v->n_tokens == 0 || v->n_tokens > max_tokens)
        return syl_error(v->diag, SYL_ERR_tokenizer_data, loc_of(v, key),
                         "\"%s\" has %zu tokens, expected 1 to %d", key, v->n_tokens, max_tokens);
    SYL_TRY(syl_gguf_ints(v->file, types, false, &v->arena, v->diag, &v->types, &n_types));
    if (v->types && n_types != v->n_tokens)
        return syl_error(v->diag, SYL_ERR_tokenizer_data, loc_of(v, types),
                         "\"%s\" has %zu elements for %zu tokens", types, n_types, v->n_tokens);
    return SYL_OK;
}

/* A token id, or -1 where the key is absent. */
static syl_status read_id(const vocabulary *v, const char *key, int64_t *out) {
    *out = -1;
    return syl_gguf_int(v->file, key, false, 0, (int64_t)v->n_tokens - 1, v->diag, out);
}

static int64_t token_id(const vocabulary *v, const char *text) {
    for (size_t i = 0; i < v->n_tokens; i++)
        if (strcmp(v->tokens[i], text) == 0) return (int64_t)i;
    return -1;
}

static void add_eos(vocabulary *v, int64_t id) {
    if (id < 0 || v->n_eos == max_eos) return;
    int at = 0;
    while (at < v->n_eos && v->eos[at] < id) at++;
    if (at < v->n_eos && v->eos[at] == id) return;
    memmove(&v->eos[at + 1], &v->eos[at], (size_t)(v->n_eos - at) * sizeof *v->eos);
    v->eos[at] = id;
    v->n_eos++;
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
static syl_status read_chat(vocabulary *v, syl_text *out) {
    static const char key[] = "tokenizer.chat_template";
    const char *template = NULL;
    SYL_TRY(syl_gguf_string(v->file, key, false, &v->arena, v->diag, &template));
    if (!template) {
        syl_text_printf(out, "null");
        return SYL_OK;
    }
    bool role = strstr(template, "['role']") || strstr(template, "[\"role\"]") || strstr(template, ".role");
    int64_t im_start = token_id(v, "<|im_start|>"), im_end = token_id(v, "<|im_end|>"),
            eot = token_id(v, "<|eot_id|>");
    if (role && im_start >= 0 && im_end >= 0 && strstr(template, "<|im_start|>") &&
        strstr(template, "<|im_end|>")) {
        const char *system = default_system(template, &v->arena);
        add_eos(v, im_end);
        syl_text_printf(out, "{\"format\":\"chatml\",\"system\":");
        if (system)
            syl_json_quote(out, system);
        else
            syl_text_printf(out, "null");
        syl_text_printf(out, "}");
        return SYL_OK;
    }
    /* Later templates of this family put dates and tool lists into the system message; those are not this
     * format. */
    bool plain = !strstr(template, "date") && !strstr(template, "tools");
    if (role && plain && eot >= 0 && token_id(v, "<|start_header_id|>") >= 0 &&
        strstr(template, "<|start_header_id|>") && strstr(template, "<|eot_id|>")) {
        add_eos(v, eot);
        syl_text_printf(out, "{\"format\":\"llama3\",\"system\":null}");
        return SYL_OK;
    }
    syl_warning(v->diag, loc_of(v, key),
                "the chat template is of no known format, so the model is imported without one");
    syl_text_printf(out, "null");
    return SYL_OK;
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

static void write_types(const vocabulary *v, syl_text *out) {
    const char *separator = "";
    syl_text_printf(out, ",\"types\":[");
    for (size_t i = 0; v->types && i < v->n_tokens; i++) {
        if (v->types[i] != type_control && v->types[i] != type_user_defined) continue;
        syl_text_printf(out, "%s{\"id\":%zu,\"special\":%s}", separator, i,
                        v->types[i] == type_control ? "true" : "false");
        separator = ",";
    }
    syl_text_printf(out, "]");
}

static syl_status write_all(vocabulary *v, syl_text *out) {
    static const char merges_key[] = "tokenizer.ggml.merges", add_bos_key[] = "tokenizer.ggml.add_bos_token";
    const char *model, *pre = "default";
    SYL_TRY(syl_gguf_string(v->file, "tokenizer.ggml.model", true, &v->arena, v->diag, &model));
    if (strcmp(model, "gpt2") != 0)
        return syl_error(v->diag, SYL_ERR_tokenizer_type, loc_of(v, "tokenizer.ggml.model"),
                         "the checkpoint has a tokenizer of type \"%s\"", model);
    SYL_TRY(syl_gguf_string(v->file, "tokenizer.ggml.pre", false, &v->arena, v->diag, &pre));
    SYL_TRY(read_tokens(v));

    const char *const *merges = NULL;
    size_t n_merges;
    SYL_TRY(syl_gguf_strings(v->file, merges_key, true, &v->arena, v->diag, &merges, &n_merges));
    if (n_merges > max_merges)
        return syl_error(v->diag, SYL_ERR_tokenizer_data, loc_of(v, merges_key),
                         "\"%s\" has %zu merges, more than %d", merges_key, n_merges, max_merges);
    for (size_t i = 0; i < n_merges; i++) {
        const char *space = strchr(merges[i], ' ');
        if (!space || space == merges[i] || !space[1] || strchr(space + 1, ' '))
            return syl_error(v->diag, SYL_ERR_tokenizer_data, loc_of(v, merges_key),
                             "merge %zu is \"%s\", expected two tokens with one space between", i, merges[i]);
    }

    int64_t bos, eos, eot, unk;
    bool add_bos = false;
    SYL_TRY(read_id(v, "tokenizer.ggml.bos_token_id", &bos));
    SYL_TRY(read_id(v, "tokenizer.ggml.eos_token_id", &eos));
    SYL_TRY(read_id(v, "tokenizer.ggml.eot_token_id", &eot));
    SYL_TRY(read_id(v, "tokenizer.ggml.unknown_token_id", &unk));
    SYL_TRY(syl_gguf_bool(v->file, add_bos_key, false, v->diag, &add_bos));
    if (add_bos && bos < 0)
        return syl_error(v->diag, SYL_ERR_tokenizer_data, loc_of(v, add_bos_key),
                         "\"%s\" is true, but the checkpoint names no such token", add_bos_key);
    add_eos(v, eos);
    add_eos(v, eot);
    syl_text chat = {.arena = &v->arena};
    SYL_TRY(read_chat(v, &chat));
    if (v->n_eos == 0)
        return syl_error(v->diag, SYL_ERR_tokenizer_data, loc_of(v, NULL),
                         "the checkpoint names no token that ends a text (\"tokenizer.ggml.eos_token_id\")");

    syl_text_printf(out, "{\"type\":\"bpe\",\"pre\":");
    syl_json_quote(out, pre);
    write_strings(out, "tokens", v->tokens, v->n_tokens);
    write_types(v, out);
    write_strings(out, "merges", merges, n_merges);
    write_id(out, "bos", bos);
    syl_text_printf(out, ",\"eos\":[");
    for (int i = 0; i < v->n_eos; i++) syl_text_printf(out, "%s%lld", i ? "," : "", (long long)v->eos[i]);
    syl_text_printf(out, "]");
    write_id(out, "unk", unk);
    syl_text_printf(out, ",\"add_bos\":%s,\"chat\":%s}", add_bos ? "true" : "false", chat.p);
    return SYL_OK;
}

syl_status syl_tokenizer_from_gguf(const syl_gguf *file, syl_diag *diag, syl_text *out) {
    vocabulary v = {.file = file, .diag = diag};
    syl_arena_init(&v.arena);
    syl_status status = write_all(&v, out);
    syl_arena_free(&v.arena);
    return status;
}

/* ---- loading ---- */

static syl_status load_json(const char *path, syl_arena *scratch, syl_arena *arena, syl_diag *diag,
                            char **out) {
    syl_source source;
    syl_json json;
    SYL_TRY(syl_file_read(scratch, path, (size_t)64 << 20, diag, &source));
    SYL_TRY(syl_json_parse(&source, diag, &json));
    syl_status status = cJSON_IsObject(json.root)
                            ? SYL_OK
                            : syl_error(diag, SYL_ERR_json_type, syl_json_loc(&json, json.root),
                                        "expected an object: a tokenizer");
    syl_json_free(&json);
    if (status == SYL_OK) *out = syl_arena_strndup(arena, source.text, source.size);
    return status;
}

syl_status syl_tokenizer_load(const char *path, syl_arena *arena, syl_diag *diag, char **out) {
    syl_mapping probe;
    SYL_TRY(syl_file_map(path, diag, &probe));
    bool is_gguf = syl_gguf_magic(probe.data, probe.size);
    syl_file_unmap(&probe);
    syl_arena scratch;
    syl_arena_init(&scratch);
    syl_status status;
    if (is_gguf) {
        syl_gguf file;
        syl_text text = {.arena = &scratch};
        status = syl_gguf_open(path, diag, &file);
        if (status == SYL_OK) {
            status = syl_tokenizer_from_gguf(&file, diag, &text);
            if (status == SYL_OK) *out = syl_arena_strndup(arena, text.p, text.n);
            syl_gguf_close(&file);
        }
    } else {
        status = load_json(path, &scratch, arena, diag, out);
    }
    syl_arena_free(&scratch);
    return status;
}
