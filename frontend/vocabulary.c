/* Writing tokenizer JSON. What comes out is whole: every id is in range and every key is there. */
#include "frontend/vocabulary.h"
#include <string.h>
#include "base/json.h"
#include "base/map.h"

int syl_vocabulary_byte(const char *text) {
    static const char digits[] = "0123456789ABCDEF";
    if (strlen(text) != 6 || strncmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
    const char *high = strchr(digits, text[3]), *low = strchr(digits, text[4]);
    return high && low ? (int)(high - digits) << 4 | (int)(low - digits) : -1;
}

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

/* Merges of two tokens to a third, so that the runtime takes what was compiled. */
static syl_status check_merges(syl_vocabulary *v) {
    syl_map known;
    syl_text joined = {.arena = v->arena};
    if (v->n_merges > SYL_VOCABULARY_MERGES)
        return syl_error(v->diag, SYL_ERR_tokenizer_data, v->loc,
                         "the checkpoint has %zu merges, more than %d", v->n_merges, SYL_VOCABULARY_MERGES);
    syl_map_init(&known, v->arena);
    for (size_t i = 0; i < v->n_tokens; i++)
        if (v->kinds[i] != SYL_WORD_CONTROL)
            *syl_map_slot(&known, v->tokens[i], strlen(v->tokens[i]), NULL) = (void *)(uintptr_t)1;
    for (size_t i = 0; i < v->n_merges; i++) {
        const char *merge = v->merges[i], *space = strchr(merge, ' ');
        if (!space || space == merge || !space[1] || strchr(space + 1, ' '))
            return syl_error(v->diag, SYL_ERR_tokenizer_data, v->loc,
                             "merge %zu is \"%s\", expected two tokens with one space between", i, merge);
        size_t left = (size_t)(space - merge), right = strlen(space + 1);
        joined.n = 0;
        syl_text_append(&joined, merge, left);
        syl_text_append(&joined, space + 1, right);
        if (!syl_map_get(&known, merge, left) || !syl_map_get(&known, space + 1, right) ||
            !syl_map_get(&known, joined.p, joined.n))
            return syl_error(v->diag, SYL_ERR_tokenizer_data, v->loc,
                             "merge %zu, \"%.80s\", is not of two tokens that make a third", i, merge);
    }
    return SYL_OK;
}

/* A space and all bytes, so that every text has tokens. */
static syl_status check_pieces(const syl_vocabulary *v) {
    static const char space[] = "\xe2\x96\x81";
    bool bytes[256] = {false}, has_space = false;
    for (size_t i = 0; i < v->n_tokens; i++) {
        if (v->kinds[i] != SYL_WORD_ORDINARY) continue;
        int byte = syl_vocabulary_byte(v->tokens[i]);
        if (byte >= 0) bytes[byte] = true;
        has_space |= strcmp(v->tokens[i], space) == 0;
    }
    if (!has_space)
        return syl_error(v->diag, SYL_ERR_tokenizer_data, v->loc,
                         "there is no token \"%s\" (U+2581), the space", space);
    for (int i = 0; i < 256; i++)
        if (!bytes[i])
            return syl_error(v->diag, SYL_ERR_tokenizer_data, v->loc,
                             "there is no token \"<0x%02X>\", a byte", i);
    return SYL_OK;
}

static void write_ranks(const syl_vocabulary *v, syl_text *out) {
    syl_text_printf(out, ",\"ranks\":[");
    for (size_t i = 0; i < v->n_tokens; i++) syl_text_printf(out, "%s%d", i ? "," : "", (int)v->ranks[i]);
    syl_text_printf(out, "]");
}

syl_status syl_vocabulary_write(syl_vocabulary *v, syl_text *out) {
    SYL_TRY(check_merges(v));
    if (v->spm) SYL_TRY(check_pieces(v));
    if (v->add_bos && v->bos < 0)
        return syl_error(v->diag, SYL_ERR_tokenizer_data, v->loc,
                         "texts begin with a token for that, but the checkpoint names no such token");
    syl_text chat = {.arena = v->arena};
    syl_vocabulary_write_chat(v, &chat);
    if (v->n_ends == 0)
        return syl_error(v->diag, SYL_ERR_tokenizer_data, v->loc,
                         "the checkpoint names no token that ends a text (eos)");

    syl_text_printf(out, "{\"type\":\"%s\",\"pre\":", v->spm ? "spm" : "bpe");
    syl_json_quote(out, v->pre);
    if (v->spm) syl_text_printf(out, ",\"prefix\":\"%s\"", v->prefix);
    if (v->nfc) syl_text_printf(out, ",\"normalizer\":\"nfc\"");
    write_strings(out, "tokens", v->tokens, v->n_tokens);
    write_types(v, out);
    if (v->ranks)
        write_ranks(v, out);
    else
        write_strings(out, "merges", v->merges, v->n_merges);
    write_id(out, "bos", v->bos);
    syl_text_printf(out, ",\"eos\":[");
    for (int i = 0; i < v->n_ends; i++) syl_text_printf(out, "%s%lld", i ? "," : "", (long long)v->ends[i]);
    syl_text_printf(out, "]");
    write_id(out, "unk", v->unk);
    syl_text_printf(out, ",\"add_bos\":%s,\"chat\":%s}", v->add_bos ? "true" : "false", chat.p);
    return SYL_OK;
}
