/* Inside of the tokenizer, shared by the files that load it (tokenizer.c), use it (encode.c) and format chats
 * (chat.c). */
#ifndef SYL_RUNTIME_TOKENIZER_IMPL_H
#define SYL_RUNTIME_TOKENIZER_IMPL_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include "base/map.h"
#include "runtime/chat.h"
#include "runtime/tokenizer.h"

enum { SYL_MAX_SPLIT_STAGES = 4 };

/* How text is cut before merging: each stage cuts every piece of the stage before into matches and the gaps
 * between them. */
typedef struct syl_pre_tokenizer {
    const char *name;
    bool spm;          /* of the type "spm", else of "bpe" */
    bool whole_pieces; /* a piece that is itself a token is not built by merges */
    const char *patterns[SYL_MAX_SPLIT_STAGES + 1];
} syl_pre_tokenizer;

/* Where a tokenizer of the type "spm" puts a space in front of a text. Texts are what stands between control and
 * user tokens. */
typedef enum syl_prefix {
    SYL_PREFIX_NEVER,
    SYL_PREFIX_EACH,          /* every text */
    SYL_PREFIX_EACH_MISSING,  /* every text that doesn't begin with one */
    SYL_PREFIX_FIRST_MISSING, /* only the very first, if it doesn't begin with one */
} syl_prefix;

typedef struct syl_merge {
    int32_t left, right; /* the pair, symbols */
    int32_t rank;        /* lower goes first */
    int32_t joined;      /* the token it becomes */
} syl_merge;

typedef enum syl_token_kind {
    SYL_TOKEN_ORDINARY, /* made by merges */
    SYL_TOKEN_USER,     /* always cut out of the text as it stands */
    SYL_TOKEN_CONTROL,  /* cut out only where the caller asks for it; no text */
} syl_token_kind;

typedef struct syl_token {
    const char *bytes;
    uint32_t size;
    syl_token_kind kind;
} syl_token;

struct syl_tokenizer {
    syl_arena arena;
    syl_token *tokens;
    int32_t n_tokens;
    int32_t byte_tokens[256]; /* -1: no token for this byte */
    /* What merges is a symbol: a token, or (type "spm", from n_tokens on) a character that is none but part of
     * one. */
    int32_t n_symbols;
    syl_merge *merges;     /* sorted by (left, right) */
    uint32_t *merge_begin; /* [n_symbols + 1]: where the merges with this left symbol begin */
    int32_t *whole;        /* user and control tokens, by first byte, longest first */
    uint32_t whole_begin[257];
    int32_t *ends;
    int32_t n_ends;
    int32_t bos, unk; /* -1: none */
    bool add_bos;
    bool nfc; /* text is normalised to NFC before it is cut */
    bool spm; /* text is merged from characters, else from bytes */
    syl_prefix prefix;
    syl_map chars;    /* type "spm": characters -> their symbol + 1 */
    syl_map by_bytes; /* ordinary tokens: their entry in `tokens`; filled only if pre->whole_pieces */
    const syl_pre_tokenizer *pre;
    pcre2_code *stages[SYL_MAX_SPLIT_STAGES];
    pcre2_match_context *limits;
    const struct syl_chat_format *chat; /* NULL: not a chat model */
    const char *chat_system;            /* default system prompt, or NULL */
};

/* Length of the UTF-8 sequence (Unicode 15, table 3-7) at p, n >= 1: positive if well formed, 0 if the text
 * ends within it, else minus the length of the maximal ill-formed part. */
int syl_utf8_next(const unsigned char *p, size_t n);

/* The user or (if asked for) control token whose name begins the text, the longest if several do; -1 if none.
 */
int32_t syl_tokenizer_match_whole(const syl_tokenizer *tokenizer, const char *text, size_t size,
                                  bool control);

/* encode.c: finds and compiles the pre-tokenizer's patterns. */
SYL_NODISCARD syl_status syl_tokenizer_prepare_split(syl_tokenizer *tokenizer, const char *pre, syl_loc loc,
                                                     syl_diag *diag);
/* chat.c: finds the chat format and checks that its special tokens exist. */
SYL_NODISCARD syl_status syl_tokenizer_prepare_chat(syl_tokenizer *tokenizer, const char *format, syl_loc loc,
                                                    syl_diag *diag);

#endif
