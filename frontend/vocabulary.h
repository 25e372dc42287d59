/* A vocabulary on its way from a checkpoint to tokenizer JSON (docs/artifact.md); inside the frontend. The readers of
 * GGUF metadata and of tokenizer.json fill it, vocabulary.c recognises the chat format and writes the text. */
#ifndef SYL_FRONTEND_VOCABULARY_H
#define SYL_FRONTEND_VOCABULARY_H

#include <stdbool.h>
#include <stdint.h>
#include "base/diag.h"

enum { SYL_VOCABULARY_TOKENS = 1 << 21, SYL_VOCABULARY_MERGES = 1 << 22, SYL_VOCABULARY_ENDS = 8 };

typedef enum syl_vocabulary_kind { SYL_WORD_ORDINARY, SYL_WORD_CONTROL, SYL_WORD_USER } syl_vocabulary_kind;

typedef struct syl_vocabulary {
    syl_diag *diag;
    syl_arena *arena;
    bool spm; /* of SentencePiece's kind: type "spm", else "bpe" */
    const char *pre;
    const char *prefix; /* type "spm" */
    bool nfc;           /* text is normalised to NFC first */
    const char *const *tokens;
    size_t n_tokens;
    const unsigned char *kinds; /* syl_vocabulary_kind of each */
    const char *const *merges;  /* "a b" */
    size_t n_merges;
    const int32_t *ranks; /* type "spm": of each token, instead of merges; or NULL */
    int64_t bos, unk;     /* -1: none */
    bool add_bos;
    int64_t ends[SYL_VOCABULARY_ENDS]; /* rising */
    int n_ends;
    const char *template; /* of chats, or NULL */
    syl_loc template_loc, loc;
} syl_vocabulary;

/* The byte of a token like <0x0A>, as SentencePiece names those of bytes; -1 if it is none. */
int syl_vocabulary_byte(const char *text);
int64_t syl_vocabulary_id(const syl_vocabulary *v, const char *text); /* the lowest of that text, or -1 */
/* One more end of generation; nothing for -1. */
void syl_vocabulary_add_end(syl_vocabulary *v, int64_t id);
/* Recognises the chat template: writes the value of "chat" and adds the token that ends a turn to the ends of
 * generation; warns where the format is not known. chat_template.c. */
void syl_vocabulary_write_chat(syl_vocabulary *v, syl_text *out);
/* Checks the merges, the begin and the ends, and writes the text. */
SYL_NODISCARD syl_status syl_vocabulary_write(syl_vocabulary *v, syl_text *out);

#endif
