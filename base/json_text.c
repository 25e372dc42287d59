/* Writing JSON's scalars, and the nearest word for suggestions. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/json.h"

void syl_json_quote(syl_text *out, const char *text) {
    syl_text_append(out, "\"", 1);
    for (const char *p = text; *p;) {
        size_t plain = strcspn(p, "\"\\\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10\x11"
                                  "\x12\x13\x14\x15\x16\x17\x18"
                                  "\x19\x1a\x1b\x1c\x1d\x1e\x1f");
        syl_text_append(out, p, plain);
        p += plain;
        if (!*p) break;
        switch (*p) {
        case '"':
            syl_text_append(out, "\\\"", 2);
            break;
        case '\\':
            syl_text_append(out, "\\\\", 2);
            break;
        case '\n':
            syl_text_append(out, "\\n", 2);
            break;
        case '\r':
            syl_text_append(out, "\\r", 2);
            break;
        case '\t':
            syl_text_append(out, "\\t", 2);
            break;
        default:
            syl_text_printf(out, "\\u%04x", (unsigned char)*p);
        }
        p++;
    }
    syl_text_append(out, "\"", 1);
}

void syl_json_print_number(syl_text *out, double value) {
    char digits[40];
    if (!isfinite(value)) { /* JSON has no such number */
        syl_text_append(out, "null", 4);
        return;
    }
    if (value == trunc(value) && fabs(value) < 0x1p53) {
        snprintf(digits, sizeof digits, "%.0f", value);
    } else {
        for (int precision = 1; precision <= 17; precision++) {
            snprintf(digits, sizeof digits, "%.*g", precision, value);
            if (strtod(digits, NULL) == value) break;
        }
    }
    for (char *p = digits; *p; p++)
        if (!strchr("+-0123456789eE", *p)) *p = '.'; /* the decimal point of the process's locale */
    syl_text_append(out, digits, strlen(digits));
}

/* Levenshtein distance of two words of at most max_word bytes, by rows. */
enum { max_word = 63 };
static size_t edit_distance(const char *a, size_t n, const char *b, size_t m) {
    size_t row[max_word + 1];
    for (size_t j = 0; j <= m; j++) row[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[m];
}

const char *syl_nearest(const char *word, const char *const *words) {
    const char *nearest = NULL;
    size_t n = strlen(word), least = n / 3 + 1;
    if (n > max_word) return NULL;
    for (; *words; words++) {
        size_t m = strlen(*words);
        if (m > max_word) continue;
        size_t distance = edit_distance(word, n, *words, m);
        if (distance < least) {
            least = distance;
            nearest = *words;
        }
    }
    return nearest;
}
