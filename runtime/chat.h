/* Conversations as the model was trained to see them.
 *
 * The formats are those of docs/artifact.md. Roles and marks come from the format; what a message says is
 * always plain text: the name of a control token in it stays text. */
#ifndef SYL_RUNTIME_CHAT_H
#define SYL_RUNTIME_CHAT_H

#include "runtime/tokenizer.h"

typedef struct syl_chat_message {
    const char *role; /* "system", "user" or "assistant" */
    const char *content;
    size_t content_size; /* bytes */
} syl_chat_message;

/* NULL if the model has no chat format. */
const char *syl_chat_format_name(const syl_tokenizer *tokenizer);

/* Appends the tokens of a conversation: the begin-of-text token if the model was trained so, the model's
 * default system message if it has one and the first message is no system message, the messages, and, if
 * `ask`, what makes the model answer as the assistant. Errors: chat-format (the model has none), chat-role,
 * and those of syl_tokenizer_encode. */
SYL_NODISCARD syl_status syl_chat_encode(const syl_tokenizer *tokenizer, const syl_chat_message *messages,
                                         size_t n, bool ask, syl_diag *diag, syl_token_list *out);

#endif
