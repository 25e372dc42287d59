/* The lexer of the IR's text. Bytes are looked at only inside [0, size); no token spans a line break. */
#include "ir/lex.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}
static bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}
static bool is_word(char c) {
    return is_letter(c) || is_digit(c) || c == '.';
}

static char peek(const syl_lexer *lexer, size_t ahead) {
    size_t at = lexer->at + ahead;
    return at < lexer->source->size ? lexer->source->text[at] : 0;
}

static syl_status fail(const syl_lexer *lexer, size_t offset, const char *message) {
    return syl_error(lexer->diag, SYL_ERR_ir_syntax, (syl_loc){lexer->source, offset}, "%s", message);
}

static void skip_blank(syl_lexer *lexer) {
    const char *text = lexer->source->text;
    size_t size = lexer->source->size;
    while (lexer->at < size) {
        char c = text[lexer->at];
        if (c == ' ' || c == '\t' || c == '\r' || c == '\n') {
            lexer->at++;
        } else if (c == '/' && peek(lexer, 1) == '/') {
            const char *end = memchr(text + lexer->at, '\n', size - lexer->at);
            lexer->at = end ? (size_t)(end - text) : size;
        } else {
            break;
        }
    }
}

static const char *copy(const syl_lexer *lexer, size_t begin) {
    return syl_arena_strndup(lexer->arena, lexer->source->text + begin, lexer->at - begin);
}

static const char *lex_word(syl_lexer *lexer) {
    size_t begin = lexer->at;
    while (is_word(peek(lexer, 0))) lexer->at++;
    return copy(lexer, begin);
}

static syl_status lex_number(syl_lexer *lexer, syl_token *out) {
    size_t begin = lexer->at;
    bool is_float = false;
    if (peek(lexer, 0) == '-') lexer->at++;
    if (!is_digit(peek(lexer, 0))) return fail(lexer, begin, "expected a digit behind '-'");
    while (is_digit(peek(lexer, 0))) lexer->at++;
    if (peek(lexer, 0) == '.') {
        is_float = true;
        lexer->at++;
        if (!is_digit(peek(lexer, 0))) return fail(lexer, lexer->at, "expected a digit behind '.'");
        while (is_digit(peek(lexer, 0))) lexer->at++;
    }
    if (peek(lexer, 0) == 'e' || peek(lexer, 0) == 'E') {
        is_float = true;
        lexer->at++;
        if (peek(lexer, 0) == '+' || peek(lexer, 0) == '-') lexer->at++;
        if (!is_digit(peek(lexer, 0))) return fail(lexer, lexer->at, "expected the digits of an exponent");
        while (is_digit(peek(lexer, 0))) lexer->at++;
    }
    if (is_word(peek(lexer, 0)))
        return fail(lexer, lexer->at, "a name cannot follow a number without a space");
    out->text = copy(lexer, begin);
    out->kind = is_float ? SYL_TOK_FLOAT : SYL_TOK_INT;
    errno = 0;
    if (is_float)
        out->f = strtod(out->text, NULL);
    else
        out->i = strtoll(out->text, NULL, 10);
    if (is_float ? !isfinite(out->f) : errno == ERANGE)
        return fail(lexer, begin, "the number is out of range");
    return SYL_OK;
}

static int hex_digit(char c) {
    if (is_digit(c)) return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
}

static syl_status lex_string(syl_lexer *lexer, syl_token *out) {
    size_t begin = lexer->at++;
    syl_text text = {.arena = lexer->arena};
    for (;;) {
        size_t at = lexer->at;
        char c = peek(lexer, 0);
        if (at >= lexer->source->size || c == '\n')
            return fail(lexer, begin, "the string has no end on its line");
        lexer->at++;
        if (c == '"') break;
        if ((unsigned char)c < 0x20 || c == 0x7f)
            return fail(lexer, at, "control characters in strings are written \\n, \\t or \\xHH");
        if (c == '\\') {
            c = peek(lexer, 0);
            lexer->at++;
            if (c == 'n') {
                c = '\n';
            } else if (c == 't') {
                c = '\t';
            } else if (c == 'x') {
                int high = hex_digit(peek(lexer, 0)), low = high < 0 ? -1 : hex_digit(peek(lexer, 1));
                if (low < 0) return fail(lexer, at, "expected two hex digits behind \\x");
                if (high == 0 && low == 0) return fail(lexer, at, "strings cannot hold \\x00");
                c = (char)(high * 16 + low);
                lexer->at += 2;
            } else if (c != '"' && c != '\\') {
                return fail(lexer, at, "unknown escape, expected \\\" \\\\ \\n \\t or \\xHH");
            }
        }
        syl_text_append(&text, &c, 1);
    }
    out->kind = SYL_TOK_STRING;
    out->text = text.p ? text.p : "";
    return SYL_OK;
}

static syl_status lex_type(syl_lexer *lexer, size_t begin, syl_token *out) {
    lexer->at++; /* '<' */
    while (is_word(peek(lexer, 0))) lexer->at++;
    if (peek(lexer, 0) != '>') return fail(lexer, lexer->at, "expected '>' at the end of the type");
    lexer->at++;
    out->kind = SYL_TOK_TYPE;
    out->text = copy(lexer, begin);
    return SYL_OK;
}

syl_status syl_lex(syl_lexer *lexer, syl_token *out) {
    skip_blank(lexer);
    size_t begin = lexer->at;
    *out = (syl_token){.kind = SYL_TOK_END, .offset = begin, .text = ""};
    if (begin >= lexer->source->size) return SYL_OK;
    char c = peek(lexer, 0);
    if (is_letter(c)) {
        out->kind = SYL_TOK_NAME;
        out->text = lex_word(lexer);
        bool type = strcmp(out->text, "tensor") == 0 || strcmp(out->text, "kv") == 0;
        return type && peek(lexer, 0) == '<' ? lex_type(lexer, begin, out) : SYL_OK;
    }
    if (is_digit(c) || (c == '-' && peek(lexer, 1) != '>')) return lex_number(lexer, out);
    if (c == '"') return lex_string(lexer, out);
    if (c == '%' || c == '@') {
        lexer->at++;
        char first = peek(lexer, 0);
        out->kind = c == '%' ? SYL_TOK_VALUE : SYL_TOK_FUNC;
        if (c == '%' && is_digit(first)) {
            while (is_digit(peek(lexer, 0))) lexer->at++;
            if (is_word(peek(lexer, 0)))
                return fail(lexer, begin,
                            "a value is %digits or %name, and a name does not begin with a digit");
            out->text = copy(lexer, begin + 1);
            return SYL_OK;
        }
        if (!is_letter(first))
            return fail(lexer, begin,
                        c == '%' ? "expected a name or a number behind '%'" : "expected a name behind '@'");
        out->text = lex_word(lexer);
        return SYL_OK;
    }
    if (c == '-') {
        lexer->at += 2;
        out->kind = SYL_TOK_ARROW;
        return SYL_OK;
    }
    if (c && strchr("{}()[],:=", c)) {
        lexer->at++;
        out->kind = SYL_TOK_PUNCT;
        out->punct = c;
        return SYL_OK;
    }
    const char *format = (unsigned char)c > 0x20 && (unsigned char)c < 0x7f
                             ? "'%c' has no meaning here"
                             : "byte 0x%02x has no meaning here";
    return fail(lexer, begin, syl_arena_printf(lexer->arena, format, (unsigned char)c));
}

const char *syl_token_describe(const syl_lexer *lexer, const syl_token *token) {
    switch (token->kind) {
    case SYL_TOK_END:
        return "the end of the text";
    case SYL_TOK_VALUE:
        return syl_arena_printf(lexer->arena, "'%%%s'", token->text);
    case SYL_TOK_FUNC:
        return syl_arena_printf(lexer->arena, "'@%s'", token->text);
    case SYL_TOK_STRING:
        return "a string";
    case SYL_TOK_ARROW:
        return "'->'";
    case SYL_TOK_PUNCT:
        return syl_arena_printf(lexer->arena, "'%c'", token->punct);
    default:
        return syl_arena_printf(lexer->arena, "'%s'", token->text);
    }
}
