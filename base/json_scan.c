/* Grammar scan of RFC 8259. It knows the place of every error to the byte, which cJSON does not, and refuses
 * what cJSON lets through (trailing text, leading zeros, raw control bytes, broken UTF-8, NUL in strings). */
#include "base/json_scan.h"
#include <stdbool.h>
#include <string.h>

typedef struct scanner {
    const syl_source *source;
    const char *text;
    size_t at, size;
    int depth;
    syl_arena *arena;
    syl_diag *diag;
    SYL_VEC(syl_json_place) places;
} scanner;

static syl_loc here(const scanner *s, size_t offset) {
    return (syl_loc){s->source, offset};
}

/* What stands at the cursor, for messages. */
static const char *found(const scanner *s, char buffer[16]) {
    if (s->at >= s->size) return "the end of the text";
    unsigned char c = (unsigned char)s->text[s->at];
    snprintf(buffer, 16, c > 0x20 && c < 0x7f ? "'%c'" : "byte 0x%02x", c);
    return buffer;
}

static syl_status expected(scanner *s, const char *what) {
    char buffer[16];
    return syl_error(s->diag, SYL_ERR_json_syntax, here(s, s->at), "expected %s, found %s", what,
                     found(s, buffer));
}

static void skip_space(scanner *s) {
    while (s->at < s->size && (s->text[s->at] == ' ' || s->text[s->at] == '\t' || s->text[s->at] == '\n' ||
                               s->text[s->at] == '\r'))
        s->at++;
}

static bool take(scanner *s, char c) {
    if (s->at >= s->size || s->text[s->at] != c) return false;
    s->at++;
    return true;
}

/* Length of the well-formed UTF-8 sequence at p (Unicode 15, table 3-7), or 0. */
static size_t utf8_length(const unsigned char *p, size_t left) {
    unsigned char c = p[0], low = 0x80, high = 0xbf;
    size_t n = c < 0x80                 ? 1
               : c >= 0xc2 && c <= 0xdf ? 2
               : c >= 0xe0 && c <= 0xef ? 3
               : c >= 0xf0 && c <= 0xf4 ? 4
                                        : 0;
    if (n > left) return 0;
    if (c == 0xe0)
        low = 0xa0; /* overlong */
    else if (c == 0xed)
        high = 0x9f; /* surrogates */
    else if (c == 0xf0)
        low = 0x90; /* overlong */
    else if (c == 0xf4)
        high = 0x8f; /* beyond U+10FFFF */
    if (n > 1 && (p[1] < low || p[1] > high)) return 0;
    for (size_t i = 2; i < n; i++)
        if (p[i] < 0x80 || p[i] > 0xbf) return 0;
    return n;
}

/* Four hexadecimal digits at the cursor, or -1. */
static int hex4(scanner *s) {
    int value = 0;
    if (s->size - s->at < 4) return -1;
    for (int i = 0; i < 4; i++) {
        char c = s->text[s->at + (size_t)i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    s->at += 4;
    return value;
}

/* After the backslash. */
static syl_status scan_escape(scanner *s) {
    size_t start = s->at - 1;
    if (s->at < s->size && s->text[s->at] && strchr("\"\\/bfnrt", s->text[s->at])) {
        s->at++;
        return SYL_OK;
    }
    if (!take(s, 'u')) return expected(s, "one of \"\\/bfnrtu after '\\'");
    int unit = hex4(s);
    if (unit < 0)
        return syl_error(s->diag, SYL_ERR_json_syntax, here(s, start),
                         "expected four hexadecimal digits after '\\u'");
    if (unit == 0)
        return syl_error(s->diag, SYL_ERR_json_syntax, here(s, start),
                         "'\\u0000' (NUL) is not supported in strings");
    if (unit >= 0xd800 && unit <= 0xdfff) {
        int low = unit <= 0xdbff && take(s, '\\') && take(s, 'u') ? hex4(s) : -1;
        if (low < 0xdc00 || low > 0xdfff)
            return syl_error(s->diag, SYL_ERR_json_utf8, here(s, start),
                             "surrogate '\\u%04x' without its other half", (unsigned)unit);
    }
    return SYL_OK;
}

static syl_status scan_string(scanner *s) {
    size_t start = s->at++;
    for (;;) {
        if (s->at >= s->size)
            return syl_error(s->diag, SYL_ERR_json_syntax, here(s, start), "the string is not closed");
        unsigned char c = (unsigned char)s->text[s->at];
        if (c == '"') {
            s->at++;
            return SYL_OK;
        }
        if (c < 0x20)
            return syl_error(s->diag, SYL_ERR_json_syntax, here(s, s->at),
                             "control byte 0x%02x in a string; write it as '\\u%04x'", c, c);
        if (c == '\\') {
            s->at++;
            SYL_TRY(scan_escape(s));
            continue;
        }
        size_t n = utf8_length((const unsigned char *)s->text + s->at, s->size - s->at);
        if (!n)
            return syl_error(s->diag, SYL_ERR_json_utf8, here(s, s->at),
                             "byte 0x%02x is not valid UTF-8 here", c);
        s->at += n;
    }
}

static size_t skip_digits(scanner *s) {
    size_t start = s->at;
    while (s->at < s->size && s->text[s->at] >= '0' && s->text[s->at] <= '9') s->at++;
    return s->at - start;
}

static syl_status scan_number(scanner *s) {
    size_t start = s->at;
    take(s, '-');
    size_t first = s->at, digits = skip_digits(s);
    char buffer[16];
    if (digits > 1 && s->text[first] == '0')
        return syl_error(s->diag, SYL_ERR_json_number, here(s, first), "a number may not begin with a zero");
    bool bad = digits == 0;
    if (!bad && take(s, '.')) bad = skip_digits(s) == 0;
    if (!bad && (take(s, 'e') || take(s, 'E'))) {
        if (!take(s, '+')) take(s, '-');
        bad = skip_digits(s) == 0;
    }
    if (bad)
        return syl_error(s->diag, SYL_ERR_json_number, here(s, s->at), "expected a digit, found %s",
                         found(s, buffer));
    if (s->at - start > SYL_JSON_MAX_NUMBER)
        return syl_error(s->diag, SYL_ERR_json_number, here(s, start),
                         "a number of %zu characters; at most %d are read", s->at - start,
                         SYL_JSON_MAX_NUMBER);
    return SYL_OK;
}

static syl_status scan_word(scanner *s, const char *word) {
    size_t n = strlen(word);
    if (s->size - s->at < n || memcmp(s->text + s->at, word, n) != 0) return expected(s, "a value");
    s->at += n;
    return SYL_OK;
}

static syl_status scan_value(scanner *s, size_t key);

static syl_status scan_container(scanner *s, bool object) {
    const char close = object ? '}' : ']';
    if (++s->depth > SYL_JSON_MAX_DEPTH)
        return syl_error(s->diag, SYL_ERR_json_depth, here(s, s->at), "nested more than %d deep",
                         SYL_JSON_MAX_DEPTH);
    s->at++;
    skip_space(s);
    if (!take(s, close)) {
        do {
            size_t key = 0;
            skip_space(s);
            if (object) {
                key = s->at;
                if (key >= s->size || s->text[key] != '"') return expected(s, "a key in double quotes");
                SYL_TRY(scan_string(s));
                skip_space(s);
                if (!take(s, ':')) return expected(s, "':'");
                skip_space(s);
            }
            SYL_TRY(scan_value(s, key));
            skip_space(s);
        } while (take(s, ','));
        if (!take(s, close)) return expected(s, object ? "',' or '}'" : "',' or ']'");
    }
    s->depth--;
    return SYL_OK;
}

static syl_status scan_value(scanner *s, size_t key) {
    if (s->places.n >= SYL_JSON_MAX_NODES)
        return syl_error(s->diag, SYL_ERR_json_too_large, here(s, s->at), "more than %d values",
                         SYL_JSON_MAX_NODES);
    SYL_PUSH(s->arena, &s->places, (syl_json_place){(uint32_t)key, (uint32_t)s->at});
    switch (s->at < s->size ? s->text[s->at] : 0) {
    case '{':
        return scan_container(s, true);
    case '[':
        return scan_container(s, false);
    case '"':
        return scan_string(s);
    case 't':
        return scan_word(s, "true");
    case 'f':
        return scan_word(s, "false");
    case 'n':
        return scan_word(s, "null");
    case '-':
    case '0':
    case '1':
    case '2':
    case '3':
    case '4':
    case '5':
    case '6':
    case '7':
    case '8':
    case '9':
        return scan_number(s);
    default:
        return expected(s, "a value");
    }
}

syl_status syl_json_scan(const syl_source *source, syl_arena *arena, syl_diag *diag,
                         syl_json_place **out_places, size_t *out_n) {
    scanner s = {.source = source, .text = source->text, .size = source->size, .arena = arena, .diag = diag};
    if (s.size > SYL_JSON_MAX_SIZE)
        return syl_error(diag, SYL_ERR_json_too_large, (syl_loc){source, 0},
                         "the text has %zu bytes; at most %d are read", s.size, SYL_JSON_MAX_SIZE);
    if (s.size >= 3 && memcmp(s.text, "\xef\xbb\xbf", 3) == 0)
        return syl_error(diag, SYL_ERR_json_syntax, (syl_loc){source, 0},
                         "the text begins with a byte order mark");
    skip_space(&s);
    SYL_TRY(scan_value(&s, 0));
    skip_space(&s);
    if (s.at < s.size) return expected(&s, "the end of the text");
    *out_places = s.places.p;
    *out_n = s.places.n;
    return SYL_OK;
}
