/* Reading tokenizer JSON (docs/artifact.md).
 *
 * Invariant: what syl_tokenizer_create hands out has been checked whole (ids in range, merges made of known
 * tokens and each there once), so that encoding never meets a bad id. */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/json.h"
#include "runtime/tokenizer_impl.h"

enum { max_tokens = 1 << 21, max_merges = 1 << 22, max_ranked = 512 };

typedef struct loader {
    syl_tokenizer *t;
    const syl_json *json;
    const cJSON *root;
    syl_diag *diag;
    syl_arena scratch;
    syl_text joined;    /* scratch of read_merge */
    syl_map vocabulary; /* text of ordinary and user tokens -> syl_token, the lowest id of equal ones */
    syl_map pieces;     /* type "spm": what text can become, by its bytes, -> id + 1 */
} loader;

static syl_loc loc_of(const loader *l, const cJSON *node) {
    return syl_json_loc(l->json, node);
}

/* GPT-2 writes a byte that is printable in Latin-1 as itself, the others as the characters from U+0100 on, in
 * order. The byte of a character, -1 if it stands for none. */
static int alphabet_byte(unsigned character) {
    if ((character >= 0x21 && character <= 0x7e) || (character >= 0xa1 && character <= 0xac) ||
        (character >= 0xae && character <= 0xff))
        return (int)character;
    if (character >= 0x100 && character <= 0x120) return (int)(character - 0x100);        /* 00 .. 20 */
    if (character >= 0x121 && character <= 0x142) return (int)(character - 0x121 + 0x7f); /* 7f .. a0 */
    return character == 0x143 ? 0xad : -1;
}

/* Decodes a text of the byte alphabet in place; false, and nothing done, if a character is not of the
 * alphabet. */
static bool decode_alphabet(char *text, size_t *size) {
    const unsigned char *p = (const unsigned char *)text;
    for (int pass = 0; pass < 2; pass++) {
        size_t n = 0;
        for (size_t i = 0; i < *size; n++) { /* every character of the alphabet has one or two bytes */
            bool two = p[i] >= 0x80;
            if (p[i] >= 0xe0) return false;
            int byte = alphabet_byte(two ? (p[i] & 0x1fu) << 6 | (p[i + 1] & 0x3fu) : p[i]);
            if (byte < 0) return false;
            i += two ? 2 : 1;
            if (pass) text[n] = (char)byte;
        }
        if (pass) *size = n;
    }
    return true;
}

static syl_status read_id(const loader *l, const cJSON *node, const char *key, int32_t *out) {
    double value = cJSON_IsNumber(node) ? node->valuedouble : -1;
    if (value < 0 || value >= l->t->n_tokens || value != floor(value))
        return syl_error(l->diag, SYL_ERR_tokenizer_id, loc_of(l, node), "'%s' must be a token id in 0 .. %d",
                         key, l->t->n_tokens - 1);
    *out = (int32_t)value;
    return SYL_OK;
}

/* A member that must be there, whatever its type. */
static syl_status read_member(const loader *l, const cJSON *object, const char *key, const cJSON **out) {
    *out = cJSON_GetObjectItemCaseSensitive(object, key);
    if (*out) return SYL_OK;
    return syl_error(l->diag, SYL_ERR_tokenizer_format, loc_of(l, object), "the key '%s' is missing", key);
}

static syl_status read_bool(const loader *l, const cJSON *object, const char *key, bool *out) {
    const cJSON *node;
    SYL_TRY(read_member(l, object, key, &node));
    *out = cJSON_IsTrue(node);
    if (cJSON_IsBool(node)) return SYL_OK;
    return syl_error(l->diag, SYL_ERR_tokenizer_format, loc_of(l, node), "'%s' must be true or false", key);
}

/* An id or null (-1). */
static syl_status read_optional_id(const loader *l, const char *key, int32_t *out) {
    const cJSON *node;
    SYL_TRY(read_member(l, l->root, key, &node));
    *out = -1;
    return cJSON_IsNull(node) ? SYL_OK : read_id(l, node, key, out);
}

static syl_status read_array(const loader *l, const char *key, int max, const cJSON **out, int32_t *out_n) {
    SYL_TRY(syl_json_array(l->json, l->root, key, true, l->diag, out));
    *out_n = cJSON_GetArraySize(*out);
    if (*out_n <= max) return SYL_OK;
    return syl_error(l->diag, SYL_ERR_tokenizer_limit, loc_of(l, *out),
                     "'%s' has %d entries, at most %d are allowed", key, *out_n, max);
}

static syl_status read_tokens(loader *l) {
    syl_tokenizer *t = l->t;
    const cJSON *array, *node;
    SYL_TRY(read_array(l, "tokens", max_tokens, &array, &t->n_tokens));
    if (!t->n_tokens)
        return syl_error(l->diag, SYL_ERR_tokenizer_format, loc_of(l, array), "'tokens' is empty");
    t->tokens = SYL_NEW_ARRAY(&t->arena, syl_token, (size_t)t->n_tokens);
    syl_token *token = t->tokens;
    cJSON_ArrayForEach(node, array) {
        if (!cJSON_IsString(node))
            return syl_error(l->diag, SYL_ERR_tokenizer_format, loc_of(l, node), "token %d is not a string",
                             (int)(token - t->tokens));
        token->size = (uint32_t)strlen(node->valuestring);
        token->bytes = node->valuestring; /* its own copy follows when its kind is known */
        token++;
    }
    return SYL_OK;
}

static syl_status read_types(loader *l) {
    syl_tokenizer *t = l->t;
    const cJSON *array, *node;
    int32_t n, last = -1;
    SYL_TRY(read_array(l, "types", t->n_tokens, &array, &n));
    cJSON_ArrayForEach(node, array) {
        static const char *const keys[] = {"id", "special", NULL};
        if (!cJSON_IsObject(node))
            return syl_error(l->diag, SYL_ERR_tokenizer_format, loc_of(l, node),
                             "an entry of 'types' must be an object");
        SYL_TRY(syl_json_known_keys(l->json, node, keys, l->diag));
        const cJSON *id_node;
        int32_t id;
        bool special;
        SYL_TRY(read_member(l, node, "id", &id_node));
        SYL_TRY(read_id(l, id_node, "id", &id));
        SYL_TRY(read_bool(l, node, "special", &special));
        if (id <= last)
            return syl_error(l->diag, SYL_ERR_tokenizer_id, loc_of(l, id_node),
                             "the ids of 'types' must rise, but %d follows %d", id, last);
        if (!t->tokens[id].size)
            return syl_error(l->diag, SYL_ERR_tokenizer_format, loc_of(l, node),
                             "token %d is listed in 'types' but has no text", id);
        t->tokens[id].kind = special ? SYL_TOKEN_CONTROL : SYL_TOKEN_USER;
        last = id;
    }
    return SYL_OK;
}

/* The byte of a text like <0x0A>, -1 if it is none. */
static int named_byte(const char *text, size_t size) {
    static const char digits[] = "0123456789ABCDEF";
    if (size != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
    const char *high = strchr(digits, text[3]), *low = strchr(digits, text[4]);
    return high && low ? (int)(high - digits) << 4 | (int)(low - digits) : -1;
}

/* Writes U+2581 as the space that it stands for, in place; false, and nothing done, if there is a space already:
 * no text leads to such a token. */
static bool decode_spaces(char *text, size_t *size) {
    if (memchr(text, ' ', *size)) return false;
    size_t n = 0;
    for (size_t i = 0; i < *size; i++) {
        bool space = *size - i >= 3 && memcmp(text + i, "\xe2\x96\x81", 3) == 0;
        text[n++] = space ? ' ' : text[i];
        if (space) i += 2;
    }
    *size = n;
    return true;
}

/* Whether a space follows something else. */
static bool has_inner_space(const char *text, size_t size) {
    for (size_t i = 1; i < size; i++)
        if (text[i] == ' ' && text[i - 1] != ' ') return true;
    return false;
}

/* The same as index_tokens, for the type "spm": an ordinary token is a byte by its name, or a piece. A whole text may
 * be cut before its spaces to the same end, and in less memory, if no piece has one behind another character. */
static void index_pieces(loader *l) {
    syl_tokenizer *t = l->t;
    bool inner_space = false;
    for (int32_t id = 0; id < t->n_tokens; id++) {
        syl_token *token = &t->tokens[id];
        size_t size = token->size;
        int byte = token->kind == SYL_TOKEN_ORDINARY ? named_byte(token->bytes, size) : -1;
        char *bytes =
            byte < 0 ? syl_arena_strndup(&t->arena, token->bytes, size) : syl_arena_alloc(&t->arena, 1);
        if (byte >= 0) {
            *bytes = (char)byte;
            token->size = 1;
            if (t->byte_tokens[byte] < 0) t->byte_tokens[byte] = id;
        } else if (token->kind == SYL_TOKEN_ORDINARY && size && decode_spaces(bytes, &size)) {
            void **slot = syl_map_slot(&l->vocabulary, token->bytes, token->size, NULL);
            if (!*slot) {
                *slot = token;
                inner_space |= has_inner_space(bytes, size);
                *syl_map_slot(&l->pieces, bytes, size, NULL) = (void *)(uintptr_t)(id + 1);
                if (syl_utf8_next((const unsigned char *)bytes, size) == (int)size)
                    *syl_map_slot(&t->chars, bytes, size, NULL) = (void *)(uintptr_t)(id + 1);
            }
            token->size = (uint32_t)size;
        }
        token->bytes = bytes;
    }
    if (inner_space && strcmp(t->pre->name, "whole") == 0) {
        pcre2_code_free(t->stages[0]);
        t->stages[0] = NULL;
    }
}

/* Copies the tokens' bytes out of the JSON, and fills the tables that lead from text to them. */
static void index_tokens(loader *l) {
    syl_tokenizer *t = l->t;
    for (int32_t id = 0; id < t->n_tokens; id++) {
        syl_token *token = &t->tokens[id];
        if (token->kind != SYL_TOKEN_CONTROL) {
            void **slot = syl_map_slot(&l->vocabulary, token->bytes, token->size, NULL);
            if (!*slot) *slot = token;
        }
        char *bytes = syl_arena_strndup(&t->arena, token->bytes, token->size);
        size_t size = token->size;
        bool encodes = token->kind == SYL_TOKEN_ORDINARY && decode_alphabet(bytes, &size);
        token->bytes = bytes;
        token->size = (uint32_t)size;
        if (!encodes)
            continue; /* an ordinary token outside of the alphabet stands for its text, but no text leads to
                         it */
        if (size == 1 && t->byte_tokens[(unsigned char)*bytes] < 0)
            t->byte_tokens[(unsigned char)*bytes] = id;
        if (t->pre->whole_pieces) {
            void **slot = syl_map_slot(&t->by_bytes, bytes, size, NULL);
            if (!*slot) *slot = token;
        }
    }
}

/* By first byte, then longest first, then by id. */
static int compare_whole(const void *a, const void *b, void *tokens) {
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    const syl_token *s = (const syl_token *)tokens + x, *t = (const syl_token *)tokens + y;
    if (*s->bytes != *t->bytes) return (unsigned char)*s->bytes < (unsigned char)*t->bytes ? -1 : 1;
    if (s->size != t->size) return s->size > t->size ? -1 : 1;
    return x < y ? -1 : 1;
}

static void index_whole(syl_tokenizer *t) {
    SYL_VEC(int32_t) whole = {0};
    for (int32_t id = 0; id < t->n_tokens; id++) {
        if (t->tokens[id].kind == SYL_TOKEN_ORDINARY) continue;
        SYL_PUSH(&t->arena, &whole, id);
        t->whole_begin[(unsigned char)*t->tokens[id].bytes + 1]++;
    }
    for (int i = 0; i < 256; i++) t->whole_begin[i + 1] += t->whole_begin[i];
    if (whole.n) qsort_r(whole.p, whole.n, sizeof *whole.p, compare_whole, t->tokens);
    t->whole = whole.p;
}

static int compare_merges(const void *a, const void *b) {
    const syl_merge *x = a, *y = b;
    if (x->left != y->left) return x->left < y->left ? -1 : 1;
    if (x->right != y->right) return x->right < y->right ? -1 : 1;
    return x->rank < y->rank ? -1 : 1;
}

/* Sorts the merges and finds where those of each left symbol begin. */
static void index_merges(syl_tokenizer *t, size_t n) {
    if (n) qsort(t->merges, n, sizeof *t->merges, compare_merges);
    t->merge_begin = SYL_NEW_ARRAY(&t->arena, uint32_t, (size_t)t->n_symbols + 1);
    for (size_t i = 0; i < n; i++) t->merge_begin[t->merges[i].left + 1]++;
    for (int32_t i = 0; i < t->n_symbols; i++) t->merge_begin[i + 1] += t->merge_begin[i];
}

static syl_status find_token(loader *l, const cJSON *node, int32_t rank, const char *text, size_t size,
                             int32_t *out) {
    const syl_token *token = syl_map_get(&l->vocabulary, text, size);
    if (!token)
        return syl_error(l->diag, SYL_ERR_tokenizer_merge, loc_of(l, node),
                         "merge %d, '%.80s', needs the token '%.*s', which is not in 'tokens'", rank,
                         node->valuestring, size < 80 ? (int)size : 80, text);
    *out = (int32_t)(token - l->t->tokens);
    return SYL_OK;
}

static syl_status read_merge(loader *l, const cJSON *node, syl_merge *merge) {
    const char *text = cJSON_IsString(node) ? node->valuestring : "", *space = strchr(text, ' ');
    if (!space || space == text || !space[1] || strchr(space + 1, ' '))
        return syl_error(l->diag, SYL_ERR_tokenizer_merge, loc_of(l, node),
                         "merge %d must be two tokens with one space between", merge->rank);
    size_t left = (size_t)(space - text), right = strlen(space + 1);
    SYL_TRY(find_token(l, node, merge->rank, text, left, &merge->left));
    SYL_TRY(find_token(l, node, merge->rank, space + 1, right, &merge->right));
    l->joined.n = 0;
    syl_text_append(&l->joined, text, left);
    syl_text_append(&l->joined, space + 1, right);
    return find_token(l, node, merge->rank, l->joined.p, l->joined.n, &merge->joined);
}

static syl_status read_merges(loader *l) {
    syl_tokenizer *t = l->t;
    const cJSON *array, *node;
    int32_t n, rank = 0;
    SYL_TRY(read_array(l, "merges", max_merges, &array, &n));
    t->merges = SYL_NEW_ARRAY(&t->arena, syl_merge, (size_t)n);
    cJSON_ArrayForEach(node, array) {
        t->merges[rank].rank = rank;
        SYL_TRY(read_merge(l, node, &t->merges[rank]));
        rank++;
    }
    index_merges(t, (size_t)n);
    for (int32_t i = 1; i < n; i++) {
        const syl_merge *m = &t->merges[i];
        if (m[-1].left == m->left && m[-1].right == m->right)
            return syl_error(l->diag, SYL_ERR_tokenizer_merge, loc_of(l, cJSON_GetArrayItem(array, m->rank)),
                             "merge %d repeats merge %d", m->rank, m[-1].rank);
    }
    return SYL_OK;
}

/* The symbol of a part of a token, -1 if no text becomes it. A character always has one. */
static int32_t part_symbol(loader *l, const char *text, size_t size) {
    if (syl_utf8_next((const unsigned char *)text, size) != (int)size)
        return (int32_t)(uintptr_t)syl_map_get(&l->pieces, text, size) - 1;
    void **slot = syl_map_slot(&l->t->chars, text, size, NULL);
    if (!*slot) *slot = (void *)(uintptr_t)(++l->t->n_symbols);
    return (int32_t)(uintptr_t)*slot - 1;
}

/* Merges as scores imply them: any two symbols merge whose texts are that of a token, one of a lower rank first. */
static syl_status derive_merges(loader *l, const cJSON *array) {
    syl_tokenizer *t = l->t;
    SYL_VEC(syl_merge) merges = {0};
    int32_t id = 0;
    const cJSON *node;
    cJSON_ArrayForEach(node, array) {
        const syl_token *token = &t->tokens[id];
        double rank = cJSON_IsNumber(node) ? node->valuedouble : -1;
        if (!(rank >= 0 && rank < t->n_tokens) || rank != floor(rank))
            return syl_error(l->diag, SYL_ERR_tokenizer_format, loc_of(l, node),
                             "a rank of 'ranks' must be in 0 .. %d", t->n_tokens - 1);
        bool piece = (int32_t)(uintptr_t)syl_map_get(&l->pieces, token->bytes, token->size) - 1 == id;
        if (piece && token->size > max_ranked)
            return syl_error(l->diag, SYL_ERR_tokenizer_limit, loc_of(l, node),
                             "token %d has %u bytes, with 'ranks' at most %d are allowed", id, token->size,
                             max_ranked);
        for (size_t at = 0; piece;) {
            at += (size_t)syl_utf8_next((const unsigned char *)token->bytes + at, token->size - at);
            if (at == token->size) break;
            int32_t left = part_symbol(l, token->bytes, at),
                    right = part_symbol(l, token->bytes + at, token->size - at);
            if (left < 0 || right < 0) continue;
            syl_merge merge = {left, right, (int32_t)rank, id};
            SYL_PUSH(&t->arena, &merges, merge);
        }
        if (merges.n > max_merges)
            return syl_error(l->diag, SYL_ERR_tokenizer_limit, loc_of(l, array),
                             "'ranks' make more than %d merges", max_merges);
        id++;
    }
    t->merges = merges.p;
    index_merges(t, merges.n);
    return SYL_OK;
}

/* One of "merges" and "ranks", the latter for the type "spm" only. */
static syl_status read_merges_or_ranks(loader *l) {
    const cJSON *array;
    int32_t n;
    if (!cJSON_GetObjectItemCaseSensitive(l->root, "ranks")) return read_merges(l);
    if (cJSON_GetObjectItemCaseSensitive(l->root, "merges"))
        return syl_error(l->diag, SYL_ERR_tokenizer_format, loc_of(l, l->root),
                         "a tokenizer has 'merges' or 'ranks', not both");
    SYL_TRY(read_array(l, "ranks", max_tokens, &array, &n));
    if (n != l->t->n_tokens)
        return syl_error(l->diag, SYL_ERR_tokenizer_format, loc_of(l, array),
                         "'ranks' has %d entries for %d tokens", n, l->t->n_tokens);
    return derive_merges(l, array);
}

static syl_status read_ends(loader *l) {
    syl_tokenizer *t = l->t;
    const cJSON *array, *node;
    SYL_TRY(read_array(l, "eos", t->n_tokens, &array, &t->n_ends));
    if (!t->n_ends)
        return syl_error(l->diag, SYL_ERR_tokenizer_format, loc_of(l, array),
                         "'eos' is empty: a generation could never end");
    int32_t *end = t->ends = SYL_NEW_ARRAY(&t->arena, int32_t, (size_t)t->n_ends);
    cJSON_ArrayForEach(node, array) {
        SYL_TRY(read_id(l, node, "eos", end));
        if (end > t->ends && *end <= end[-1])
            return syl_error(l->diag, SYL_ERR_tokenizer_id, loc_of(l, node),
                             "the ids of 'eos' must rise, but %d follows %d", *end, end[-1]);
        end++;
    }
    return SYL_OK;
}

static syl_status read_chat(loader *l) {
    static const char *const keys[] = {"format", "system", NULL};
    const cJSON *chat, *system;
    SYL_TRY(read_member(l, l->root, "chat", &chat));
    if (cJSON_IsNull(chat)) return SYL_OK;
    if (!cJSON_IsObject(chat))
        return syl_error(l->diag, SYL_ERR_tokenizer_format, loc_of(l, chat),
                         "'chat' must be an object or null");
    SYL_TRY(syl_json_known_keys(l->json, chat, keys, l->diag));
    const char *format;
    SYL_TRY(syl_json_string(l->json, chat, "format", l->diag, &format));
    SYL_TRY(read_member(l, chat, "system", &system));
    if (cJSON_IsString(system))
        l->t->chat_system = syl_arena_strdup(&l->t->arena, system->valuestring);
    else if (!cJSON_IsNull(system))
        return syl_error(l->diag, SYL_ERR_tokenizer_format, loc_of(l, system),
                         "'system' must be a string or null");
    return syl_tokenizer_prepare_chat(l->t, format,
                                      loc_of(l, cJSON_GetObjectItemCaseSensitive(chat, "format")), l->diag);
}

static syl_status read_normalizer(loader *l) {
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(l->root, "normalizer");
    l->t->nfc = cJSON_IsString(node) && strcmp(node->valuestring, "nfc") == 0;
    if (!node || l->t->nfc) return SYL_OK;
    return syl_error(l->diag, SYL_ERR_tokenizer_format, loc_of(l, node),
                     "'normalizer' must be \"nfc\" or absent");
}

static syl_status read_prefix(loader *l) {
    static const char *const names[] = {
        [SYL_PREFIX_NEVER] = "never",
        [SYL_PREFIX_EACH] = "each",
        [SYL_PREFIX_EACH_MISSING] = "each-missing",
        [SYL_PREFIX_FIRST_MISSING] = "first-missing",
    };
    enum { n = sizeof names / sizeof *names };
    const char *prefix;
    SYL_TRY(syl_json_string(l->json, l->root, "prefix", l->diag, &prefix));
    int i = 0;
    while (i < n && strcmp(names[i], prefix) != 0) i++;
    if (i == n)
        return syl_error(
            l->diag, SYL_ERR_tokenizer_format, loc_of(l, cJSON_GetObjectItemCaseSensitive(l->root, "prefix")),
            "unknown prefix '%s', expected 'never', 'each', 'each-missing' or 'first-missing'", prefix);
    l->t->prefix = (syl_prefix)i;
    return SYL_OK;
}

static syl_status load(loader *l) {
    static const char *const bpe_keys[] = {"type", "pre", "tokens",  "types", "merges",     "bos",
                                           "eos",  "unk", "add_bos", "chat",  "normalizer", NULL};
    static const char *const spm_keys[] = {"type", "pre", "prefix", "tokens",  "types", "merges", "ranks",
                                           "bos",  "eos", "unk",    "add_bos", "chat",  NULL};
    syl_tokenizer *t = l->t;
    const char *type, *pre;
    if (!cJSON_IsObject(l->root))
        return syl_error(l->diag, SYL_ERR_tokenizer_format, loc_of(l, l->root),
                         "a tokenizer must be a JSON object");
    SYL_TRY(syl_json_string(l->json, l->root, "type", l->diag, &type));
    t->spm = strcmp(type, "spm") == 0;
    if (!t->spm && strcmp(type, "bpe") != 0)
        return syl_error(l->diag, SYL_ERR_tokenizer_type,
                         loc_of(l, cJSON_GetObjectItemCaseSensitive(l->root, "type")),
                         "unknown tokenizer type '%s', expected 'bpe' or 'spm'", type);
    SYL_TRY(syl_json_known_keys(l->json, l->root, t->spm ? spm_keys : bpe_keys, l->diag));
    SYL_TRY(syl_json_string(l->json, l->root, "pre", l->diag, &pre));
    SYL_TRY(syl_tokenizer_prepare_split(t, pre, loc_of(l, cJSON_GetObjectItemCaseSensitive(l->root, "pre")),
                                        l->diag));
    SYL_TRY(t->spm ? read_prefix(l) : read_normalizer(l));
    SYL_TRY(read_tokens(l));
    SYL_TRY(read_types(l));
    for (int i = 0; i < 256; i++) t->byte_tokens[i] = -1;
    t->n_symbols = t->n_tokens;
    if (t->spm)
        index_pieces(l);
    else
        index_tokens(l);
    index_whole(t);
    if (t->spm && !syl_map_get(&t->chars, " ", 1))
        return syl_error(l->diag, SYL_ERR_tokenizer_format, loc_of(l, l->root),
                         "a tokenizer of the type 'spm' needs the token '\xe2\x96\x81' (U+2581), the space");
    SYL_TRY(read_merges_or_ranks(l));
    SYL_TRY(read_optional_id(l, "bos", &t->bos));
    SYL_TRY(read_ends(l));
    SYL_TRY(read_optional_id(l, "unk", &t->unk));
    SYL_TRY(read_bool(l, l->root, "add_bos", &t->add_bos));
    if (t->add_bos && t->bos < 0)
        return syl_error(l->diag, SYL_ERR_tokenizer_format,
                         loc_of(l, cJSON_GetObjectItemCaseSensitive(l->root, "add_bos")),
                         "'add_bos' is true, but 'bos' is null");
    return read_chat(l);
}

syl_status syl_tokenizer_create(const syl_source *source, syl_diag *diag, syl_tokenizer **out) {
    *out = NULL;
    syl_json json;
    SYL_TRY(syl_json_parse(source, diag, &json));
    syl_tokenizer *t = calloc(1, sizeof *t);
    syl_status status;
    if (t) {
        syl_arena_init(&t->arena);
        syl_map_init(&t->by_bytes, &t->arena);
        syl_map_init(&t->chars, &t->arena);
        loader l = {.t = t, .json = &json, .root = json.root, .diag = diag};
        syl_arena_init(&l.scratch);
        syl_map_init(&l.vocabulary, &l.scratch);
        syl_map_init(&l.pieces, &l.scratch);
        l.joined.arena = &l.scratch;
        status = load(&l);
        syl_arena_free(&l.scratch);
    } else
        status = syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for the tokenizer");
    syl_json_free(&json);
    if (status == SYL_OK)
        *out = t;
    else
        syl_tokenizer_destroy(t);
    return status;
}

void syl_tokenizer_destroy(syl_tokenizer *t) {
    if (!t) return;
    for (int i = 0; i < SYL_MAX_SPLIT_STAGES; i++) pcre2_code_free(t->stages[i]);
    pcre2_match_context_free(t->limits);
    syl_arena_free(&t->arena);
    free(t);
}

int32_t syl_tokenizer_size(const syl_tokenizer *t) {
    return t->n_tokens;
}
int32_t syl_tokenizer_bos(const syl_tokenizer *t) {
    return t->bos;
}

bool syl_tokenizer_is_end(const syl_tokenizer *t, int32_t id) {
    for (int32_t i = 0; i < t->n_ends; i++)
        if (t->ends[i] == id) return true;
    return false;
}

bool syl_tokenizer_is_control(const syl_tokenizer *t, int32_t id) {
    return id >= 0 && id < t->n_tokens && t->tokens[id].kind == SYL_TOKEN_CONTROL;
}

const char *syl_tokenizer_bytes(const syl_tokenizer *t, int32_t id, size_t *out_size) {
    if (id < 0 || id >= t->n_tokens) return NULL;
    *out_size = t->tokens[id].size;
    return t->tokens[id].bytes;
}
