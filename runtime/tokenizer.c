/* Reading tokenizer JSON (docs/artifact.md), and tokens back to text.
 *
 * Invariant: what syl_tokenizer_create hands out has been checked whole (ids in range, merges made of known tokens and each there once), so
 * that encoding never meets a bad id. */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/json.h"
#include "runtime/tokenizer_impl.h"

enum { max_tokens = 1 << 21, max_merges = 1 << 22 };

int syl_utf8_next(const unsigned char *p, size_t n) {
    unsigned char b = *p, low = 0x80, high = 0xbf;
    if (b < 0x80) return 1;
    if (b < 0xc2 || b > 0xf4) return -1;
    int length = b < 0xe0 ? 2 : b < 0xf0 ? 3 : 4;
    if (b == 0xe0) low = 0xa0;
    if (b == 0xed) high = 0x9f;
    if (b == 0xf0) low = 0x90;
    if (b == 0xf4) high = 0x8f;
    for (int i = 1; i < length; i++, low = 0x80, high = 0xbf) {
        if ((size_t)i == n) return 0;
        if (p[i] < low || p[i] > high) return -i;
    }
    return length;
}

typedef struct loader {
    syl_tokenizer *t;
    const syl_json *json;
    const cJSON *root;
    syl_diag *diag;
    syl_arena scratch;
    syl_map vocabulary; /* text of ordinary and user tokens -> syl_token, the lowest id of equal ones */
} loader;

static syl_loc loc_of(const loader *l, const cJSON *node) { return syl_json_loc(l->json, node); }

/* GPT-2 writes a byte that is printable in Latin-1 as itself, the others as the characters from U+0100 on, in order. The byte of a
 * character, -1 if it stands for none. */
static int alphabet_byte(unsigned character) {
    if ((character >= 0x21 && character <= 0x7e) || (character >= 0xa1 && character <= 0xac) || (character >= 0xae && character <= 0xff))
        return (int)character;
    if (character >= 0x100 && character <= 0x120) return (int)(character - 0x100);         /* 00 .. 20 */
    if (character >= 0x121 && character <= 0x142) return (int)(character - 0x121 + 0x7f);  /* 7f .. a0 */
    return character == 0x143 ? 0xad : -1;
}

/* Decodes a text of the byte alphabet in place; false, and nothing done, if a character is not of the alphabet. */
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

static syl_status read_id(const loader *l, const cJSON *node, const char *what, int32_t *out) {
    double value = cJSON_IsNumber(node) ? node->valuedouble : -1;
    if (value < 0 || value >= l->t->n_tokens || value != floor(value))
        return syl_error(l->diag, SYL_ERR_tokenizer_id, loc_of(l, node), "%s must be a token id in 0 .. %d", what, l->t->n_tokens - 1);
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
    return syl_error(l->diag, SYL_ERR_tokenizer_limit, loc_of(l, *out), "'%s' has %d entries, at most %d are allowed", key, *out_n, max);
}

static syl_status read_tokens(loader *l) {
    syl_tokenizer *t = l->t;
    const cJSON *array, *node;
    SYL_TRY(read_array(l, "tokens", max_tokens, &array, &t->n_tokens));
    if (!t->n_tokens) return syl_error(l->diag, SYL_ERR_tokenizer_format, loc_of(l, array), "'tokens' is empty");
    t->tokens = SYL_NEW_ARRAY(&t->arena, syl_token, (size_t)t->n_tokens);
    syl_token *token = t->tokens;
    cJSON_ArrayForEach(node, array) {
        if (!cJSON_IsString(node))
            return syl_error(l->diag, SYL_ERR_tokenizer_format, loc_of(l, node), "token %d is not a string", (int)(token - t->tokens));
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
            return syl_error(l->diag, SYL_ERR_tokenizer_format, loc_of(l, node), "an entry of 'types' must be an object");
        SYL_TRY(syl_json_known_keys(l->json, node, keys, l->diag));
        const cJSON *id_node;
        int32_t id;
        bool special;
        SYL_TRY(read_member(l, node, "id", &id_node));
        SYL_TRY(read_id(l, id_node, "'id'", &id));
        SYL_TRY(read_bool(l, node, "special", &special));
        if (id <= last)
            return syl_error(l->diag, SYL_ERR_tokenizer_id, loc_of(l, id_node), "the ids of 'types' must rise, but %d follows %d", id, last);
        if (!t->tokens[id].size)
            return syl_error(l->diag, SYL_ERR_tokenizer_format, loc_of(l, node), "token %d is listed in 'types' but has no text", id);
        t->tokens[id].kind = special ? SYL_TOKEN_CONTROL : SYL_TOKEN_USER;
        last = id;
    }
    return SYL_OK;
}

/* Copies the tokens' bytes out of the JSON, and fills the tables that lead from text to them. */
static void index_tokens(loader *l) {
    syl_tokenizer *t = l->t;
    for (int i = 0; i < 256; i++) t->byte_tokens[i] = -1;
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
        if (!encodes) continue; /* an ordinary token outside of the alphabet stands for its text, but no text leads to it */
        if (size == 1 && t->byte_tokens[(unsigned char)*bytes] < 0) t->byte_tokens[(unsigned char)*bytes] = id;
        if (t->pre->whole_pieces) {
            void **slot = syl_map_slot(&t->by_bytes, bytes, size, NULL);
            if (!*slot) *slot = token;
        }
    }
}

static const syl_tokenizer *sorted_tokenizer; /* never set: see compare_whole */

static int compare_merges(const void *a, const void *b) {
    const syl_merge *x = a, *y = b;
    if (x->left != y->left) return x->left < y->left ? -1 : 1;
    if (x->right != y->right) return x->right < y->right ? -1 : 1;
    return (x->rank > y->rank) - (x->rank < y->rank);
}
