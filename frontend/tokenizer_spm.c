/* SentencePiece's handling of spaces as a tokenizer.json spells it.
 *
 * Two spellings of the way there: a normalizer that writes spaces as U+2581 and may put one in front, or the
 * pre-tokenizer Metaspace, which does both and may cut. One of the way back: U+2581 to spaces, bytes, all of it one
 * text, and off with the space in front. What is not exactly this is refused by name. */
#include "frontend/tokenizer_hf.h"

static const char mark[] = "\xe2\x96\x81"; /* U+2581 */

static syl_status refuse(const syl_json *json, const syl_vocabulary *v, const cJSON *node, const char *what,
                         const char *type) {
    return syl_error(v->diag, SYL_ERR_tokenizer_type, syl_json_loc(json, node),
                     "%s \"%s\" is not supported with \"byte_fallback\"", what, type);
}

/* The parts of a Sequence, or the one part itself; *n = -1: none, or too many. */
enum { max_parts = 4 };
static void parts_of(const cJSON *node, const char *key, const cJSON *parts[max_parts], int *n) {
    *n = 0;
    if (!node) return;
    if (strcmp(type_of(node), "Sequence") != 0) {
        parts[(*n)++] = node;
        return;
    }
    const cJSON *part, *list = member(node, key);
    cJSON_ArrayForEach(part, list) {
        if (*n == max_parts) {
            *n = -1;
            return;
        }
        parts[(*n)++] = part;
    }
}

static bool replaces(const cJSON *part, const char *from, const char *to) {
    return strcmp(type_of(part), "Replace") == 0 &&
           text_is(member(member(part, "pattern"), "String"), from) && text_is(member(part, "content"), to);
}

/* Prepend and Replace, or Replace, or nothing. */
static syl_status read_normalizer(const syl_json *json, syl_vocabulary *v, bool *prepends, bool *marks) {
    const cJSON *node = member(json->root, "normalizer"), *parts[max_parts];
    int n, at = 0;
    parts_of(node, "normalizers", parts, &n);
    *prepends =
        n > 0 && strcmp(type_of(parts[0]), "Prepend") == 0 && text_is(member(parts[0], "prepend"), mark);
    if (*prepends) at++;
    *marks = at < n && replaces(parts[at], " ", mark);
    if (*marks) at++;
    if (n == at && *prepends <= *marks) return SYL_OK;
    return refuse(json, v, node, "the normalizer", at < n ? type_of(parts[at]) : type_of(node));
}

static syl_status read_metaspace(const syl_json *json, syl_vocabulary *v, const cJSON *node) {
    const cJSON *scheme = member(node, "prepend_scheme"), *split = member(node, "split"),
                *add = member(node, "add_prefix_space");
    if (strcmp(type_of(node), "Metaspace") != 0 || !text_is(member(node, "replacement"), mark))
        return refuse(json, v, node, "the pre-tokenizer", type_of(node));
    v->pre = split && cJSON_IsFalse(split) ? "whole" : "spaces";
    if (!scheme) {
        v->prefix = add && cJSON_IsFalse(add) ? "never" : "each-missing";
    } else if (text_is(scheme, "always")) {
        v->prefix = "each-missing";
    } else if (text_is(scheme, "first")) {
        v->prefix = "first-missing";
    } else if (text_is(scheme, "never")) {
        v->prefix = "never";
    } else {
        return refuse(json, v, scheme, "the prepend_scheme",
                      cJSON_IsString(scheme) ? scheme->valuestring : "?");
    }
    return SYL_OK;
}

/* Replace, ByteFallback, Fuse, and Strip of one space at the begin exactly where one was put there. */
static syl_status read_decoder(const syl_json *json, const syl_vocabulary *v) {
    const cJSON *node = member(json->root, "decoder"), *parts[max_parts];
    int n;
    if (!node)
        return syl_error(v->diag, SYL_ERR_tokenizer_type, syl_json_loc(json, json->root),
                         "a tokenizer with \"byte_fallback\" and without a decoder is not supported");
    parts_of(node, "decoders", parts, &n);
    bool prefixed = strcmp(v->prefix, "never") != 0;
    for (int i = 0; i < n; i++) {
        const cJSON *start = member(parts[i], "start"), *stop = member(parts[i], "stop");
        bool known = i == 0   ? replaces(parts[i], mark, " ")
                     : i == 1 ? strcmp(type_of(parts[i]), "ByteFallback") == 0
                     : i == 2 ? strcmp(type_of(parts[i]), "Fuse") == 0
                              : prefixed && strcmp(type_of(parts[i]), "Strip") == 0 &&
                                    text_is(member(parts[i], "content"), " ") && cJSON_IsNumber(start) &&
                                    start->valuedouble == 1 && cJSON_IsNumber(stop) && stop->valuedouble == 0;
        if (!known) return refuse(json, v, parts[i], "the decoder", type_of(parts[i]));
    }
    if (n == 3 + prefixed) return SYL_OK;
    return syl_error(
        v->diag, SYL_ERR_tokenizer_type, syl_json_loc(json, node),
        "expected the decoders Replace, ByteFallback, Fuse%s: a space is %sput in front of texts",
        prefixed ? ", Strip" : "", prefixed ? "" : "not ");
}

syl_status syl_hf_read_spaces(const syl_json *json, syl_vocabulary *v, bool *out_prepends) {
    const cJSON *pre = member(json->root, "pre_tokenizer");
    bool marks;
    v->spm = true;
    v->pre = "whole";
    SYL_TRY(read_normalizer(json, v, out_prepends, &marks));
    v->prefix = *out_prepends ? "each" : "never";
    if (marks && pre)
        return refuse(json, v, pre, "a normalizer that replaces spaces with the pre-tokenizer", type_of(pre));
    if (!marks && !pre)
        return syl_error(
            v->diag, SYL_ERR_tokenizer_type, syl_json_loc(json, json->root),
            "a tokenizer with \"byte_fallback\" in which nothing replaces spaces is not supported");
    if (pre) SYL_TRY(read_metaspace(json, v, pre));
    return read_decoder(json, v);
}
