/* The tokenizer: text to token ids and back, as the model was trained on it.
 *
 * Byte-level byte-pair encoding (Sennrich et al. 2016; bytes written as printable characters as in GPT-2):
 * the text is cut into pieces by the patterns of a named pre-tokenizer, the bytes of a piece are its first
 * tokens, and the adjacent pair with the lowest-ranked merge is joined (leftmost first) until none is left.
 *
 * SentencePiece's BPE (Kudo and Richardson 2018) is the same with other first tokens: the characters of the text,
 * in which U+2581 and the space are one and a space may be put in front; a character that no token expresses
 * becomes the tokens of its bytes. Decoding takes that space off again.
 *
 * Described by the tokenizer JSON of docs/artifact.md.
 *
 * A tokenizer never changes after its creation: any number of threads may use one. */
#ifndef SYL_RUNTIME_TOKENIZER_H
#define SYL_RUNTIME_TOKENIZER_H

#include <stdbool.h>
#include <stdint.h>
#include "base/diag.h"

typedef struct syl_tokenizer syl_tokenizer;

/* Reads tokenizer JSON and checks all of it (errors tokenizer-* and json-*). `source` is needed only during
 * the call. */
SYL_NODISCARD syl_status syl_tokenizer_create(const syl_source *source, syl_diag *diag, syl_tokenizer **out);
void syl_tokenizer_destroy(syl_tokenizer *tokenizer); /* NULL is fine */

int32_t syl_tokenizer_size(const syl_tokenizer *tokenizer); /* tokens; ids are 0 .. size - 1 */
int32_t syl_tokenizer_bos(const syl_tokenizer *tokenizer);  /* begin-of-text token, -1 if there is none */
bool syl_tokenizer_is_end(const syl_tokenizer *tokenizer, int32_t id); /* generation stops at this token */
bool syl_tokenizer_is_control(const syl_tokenizer *tokenizer,
                              int32_t id); /* not part of the text, like <|im_end|> */
/* The bytes a token stands for (a control token: its name), not NUL-terminated; NULL if there is no such id.
 */
const char *syl_tokenizer_bytes(const syl_tokenizer *tokenizer, int32_t id, size_t *out_size);

/* A growing list of token ids; begin with {.arena = &arena}. */
typedef struct syl_token_list {
    syl_arena *arena;
    int32_t *p;
    size_t n, cap;
    size_t dropped; /* bytes of the text for which the vocabulary has no token */
} syl_token_list;

enum {
    SYL_ENCODE_PLAIN = 0,
    SYL_ENCODE_CONTROL = 1, /* names of control tokens in the text (leftmost, then longest) become these
                               tokens; only for trusted text */
    SYL_ENCODE_BOS = 2,     /* begin with the begin-of-text token if the model was trained so */
    SYL_ENCODE_INSIDE =
        4, /* the text follows others: where only the first text gets a space in front, this one gets
                               none */
};
enum { SYL_MAX_TEXT = 64 << 20 }; /* longest text, in bytes */

/* Appends the tokens of `size` bytes of text. Any bytes will do: what is not UTF-8 forms pieces of its own. A
 * byte without a token becomes the unknown token if that is no control token, else it is dropped (and
 * counted): a control token never comes out of text. Errors: tokenizer-text (longer than SYL_MAX_TEXT),
 * tokenizer-split, out-of-memory. */
SYL_NODISCARD syl_status syl_tokenizer_encode(const syl_tokenizer *tokenizer, const char *text, size_t size,
                                              int flags, syl_diag *diag, syl_token_list *out);

/* Tokens to UTF-8 text, one at a time: a character comes out when its last byte is there, and each maximal
 * part of an ill-formed sequence (Unicode 15, section 3.9) as U+FFFD. Control tokens give no text unless
 * show_control. Start from {0}. */
typedef struct syl_decoder {
    unsigned char held[4];
    unsigned n_held;
    bool show_control;
    bool
        inside; /* not at the begin of a text, where the tokenizer put a space in front that is no part of it */
} syl_decoder;
/* As if the token had been decoded, but for its text: a prompt whose continuation is decoded. */
void syl_decoder_follow(syl_decoder *decoder, const syl_tokenizer *tokenizer, int32_t id);
void syl_decoder_push(syl_decoder *decoder, const syl_tokenizer *tokenizer, int32_t id,
                      syl_text *out); /* unknown ids: nothing */
void syl_decoder_finish(syl_decoder *decoder,
                        syl_text *out); /* what is still incomplete comes out as U+FFFD */

#endif
