/* Tokens of the IR's text (docs/ir.md). */
#ifndef SYL_IR_LEX_H
#define SYL_IR_LEX_H

#include "ir/ir.h"

typedef enum syl_token_kind {
    SYL_TOK_END,
    SYL_TOK_NAME,   /* word: op, keyword, attribute, choice */
    SYL_TOK_VALUE,  /* %word or %digits; text without '%' */
    SYL_TOK_FUNC,   /* @word; text without '@' */
    SYL_TOK_TYPE,   /* tensor<...> or kv<...>; text with both */
    SYL_TOK_STRING, /* text: escapes resolved */
    SYL_TOK_INT,
    SYL_TOK_FLOAT,
    SYL_TOK_ARROW, /* -> */
    SYL_TOK_PUNCT, /* one of { } ( ) [ ] , : = in `punct` */
} syl_token_kind;

typedef struct syl_token {
    syl_token_kind kind;
    size_t offset;
    const char *text; /* NUL-terminated, in the lexer's arena */
    int64_t i;
    double f;
    char punct;
} syl_token;

typedef struct syl_lexer {
    const syl_source *source;
    syl_diag *diag;
    syl_arena *arena; /* for the texts of tokens */
    size_t at;
} syl_lexer;

/* The next token; SYL_TOK_END again and again at the end of the text. */
SYL_NODISCARD syl_status syl_lex(syl_lexer *lexer, syl_token *out);

/* What a token is called in a message: "'word'", "'%x'", "the end of the text". In the lexer's arena. */
const char *syl_token_describe(const syl_lexer *lexer, const syl_token *token);

#endif
