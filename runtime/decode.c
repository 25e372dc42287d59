/* Tokens back to text.
 *
 * Invariant: what comes out is well-formed UTF-8, and the same however many tokens come at a time. Where the encoder
 * puts a space in front of a text, the first space of a text is taken off here. */
#include <stdlib.h>
#include <string.h>
#include "runtime/tokenizer_impl.h"

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

static const char replacement[] = "\xef\xbf\xbd"; /* U+FFFD */

void syl_decoder_follow(syl_decoder *d, const syl_tokenizer *t, int32_t id) {
    if (id < 0 || id >= t->n_tokens) return;
    bool each = t->prefix == SYL_PREFIX_EACH || t->prefix == SYL_PREFIX_EACH_MISSING;
    switch (t->tokens[id].kind) {
    case SYL_TOKEN_ORDINARY:
        if (t->tokens[id].size) d->inside = true;
        break;
    case SYL_TOKEN_USER:
        d->inside = !each; /* the next text is prefixed again, but not if only the first is */
        break;
    case SYL_TOKEN_CONTROL:
        if (each) d->inside = false;
        break;
    }
}

static void push_byte(syl_decoder *d, unsigned char byte, syl_text *out) {
    d->held[d->n_held++] = byte;
    /* Only the byte just added can end the sequence, well or ill; it may then begin the next one. */
    for (int n; d->n_held && (n = syl_utf8_next(d->held, d->n_held)) != 0;) {
        if (n > 0)
            syl_text_append(out, (const char *)d->held, (size_t)n);
        else
            syl_text_append(out, replacement, 3);
        d->n_held -= (unsigned)abs(n);
        memmove(d->held, d->held + abs(n), d->n_held);
    }
}

void syl_decoder_push(syl_decoder *d, const syl_tokenizer *t, int32_t id, syl_text *out) {
    if (id < 0 || id >= t->n_tokens) return;
    const syl_token *token = &t->tokens[id];
    bool prefixed = t->prefix != SYL_PREFIX_NEVER && !d->inside && token->kind == SYL_TOKEN_ORDINARY;
    size_t i = prefixed && token->size && *token->bytes == ' ' ? 1 : 0;
    syl_decoder_follow(d, t, id);
    if (token->kind == SYL_TOKEN_CONTROL && !d->show_control) return;
    for (; i < token->size; i++) push_byte(d, (unsigned char)token->bytes[i], out);
}

void syl_decoder_finish(syl_decoder *d, syl_text *out) {
    if (d->n_held) syl_text_append(out, replacement, 3);
    d->n_held = 0;
}
