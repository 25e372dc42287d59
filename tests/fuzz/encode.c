/* Text to tokens and back, with a tokenizer that knows every byte. The first byte of the input chooses the
 * pre-tokenizer and the flags, the others are text, and then ids.
 *
 * Held to: the bytes of the tokens are the text; what is decoded is well formed, that is, encoding and
 * decoding it again changes nothing. */
#include "fuzz.h"
#include <stdlib.h>
#include <string.h>
#include "runtime/tokenizer.h"

/* The character that GPT-2 writes a byte as: itself where it prints, else the next free one from 256 on. */
static unsigned alphabet(unsigned byte) {
    unsigned others = 0;
    for (unsigned b = 0; b <= byte; b++) {
        bool prints = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b != 0xad);
        if (b == byte && prints) return b;
        others += !prints;
    }
    return 0xff + others;
}

static syl_tokenizer *make(fuzz *f, const char *pre) {
    syl_text json = {.arena = &f->arena};
    syl_text_printf(&json, "{\"type\":\"bpe\",\"pre\":\"%s\",\"tokens\":[", pre);
    for (unsigned byte = 0; byte < 256; byte++) syl_text_printf(&json, "\"\\u%04x\",", alphabet(byte));
    syl_text_printf(&json, "\"th\",\"the\",\"\\u0120t\",\"12\",\"\\u00c3\\u00a9\",\"\\u0120\\u0120\",\"aa\","
                           "\"aaaa\",\"<|a|>\",\"<|a|>b\",\"<u>\"],\"types\":[{\"id\":264,\"special\":true},"
                           "{\"id\":265,\"special\":true},{\"id\":266,\"special\":false}],"
                           "\"merges\":[\"a a\",\"t h\",\"th e\",\"\\u0120 t\",\"1 2\",\"\\u00c3 \\u00a9\","
                           "\"\\u0120 \\u0120\",\"aa aa\"],"
                           "\"bos\":264,\"eos\":[265],\"unk\":null,\"add_bos\":true,\"chat\":null}");
    syl_source source = {"tokenizer", json.p, json.n};
    syl_tokenizer *tokenizer;
    if (!fuzz_ok(f, syl_tokenizer_create(&source, f->diag, &tokenizer)))
        fuzz_die(f, "finding: the tokenizer '%s' does not load", pre);
    return tokenizer;
}

static syl_text decode(fuzz *f, const syl_tokenizer *tokenizer, const syl_token_list *ids, size_t first) {
    syl_decoder decoder = {.show_control = true};
    syl_text out = {.arena = &f->arena};
    for (size_t i = first; i < ids->n; i++) syl_decoder_push(&decoder, tokenizer, ids->p[i], &out);
    syl_decoder_finish(&decoder, &out);
    return out;
}

/* Encodes and decodes; checks that the tokens' bytes are the text. */
static syl_text there_and_back(fuzz *f, const syl_tokenizer *tokenizer, const char *text, size_t size,
                               int flags) {
    syl_token_list ids = {.arena = &f->arena};
    if (!fuzz_ok(f, syl_tokenizer_encode(tokenizer, text, size, flags, f->diag, &ids)))
        fuzz_die(f, "finding: a text of %zu bytes is not encoded", size);
    size_t first = flags & SYL_ENCODE_BOS ? 1 : 0, at = 0;
    if (first && (!ids.n || ids.p[0] != syl_tokenizer_bos(tokenizer)))
        fuzz_die(f, "finding: no begin-of-text token");
    for (size_t i = first; i < ids.n; i++) {
        size_t n;
        const char *bytes = syl_tokenizer_bytes(tokenizer, ids.p[i], &n);
        if (!bytes || n > size - at || memcmp(bytes, text + at, n) != 0)
            fuzz_die(f, "finding: token %zu, %d, is not the text from byte %zu on", i, (int)ids.p[i], at);
        if (!(flags & SYL_ENCODE_CONTROL) && syl_tokenizer_is_control(tokenizer, ids.p[i]))
            fuzz_die(f, "finding: the text became the control token %d", (int)ids.p[i]);
        at += n;
    }
    if (at != size || ids.dropped) fuzz_die(f, "finding: the tokens end at byte %zu of %zu", at, size);
    return decode(f, tokenizer, &ids, first);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const pre[] = {"default", "gpt-2", "llama-bpe", "qwen2", "smollm"};
    enum { n_pre = sizeof pre / sizeof *pre };
    static syl_tokenizer *tokenizers[n_pre];
    if (size == 0) return 0;
    fuzz f;
    fuzz_open(&f);
    size_t which = data[0] % n_pre;
    int flags = data[0] / n_pre % 4;
    if (!tokenizers[which]) tokenizers[which] = make(&f, pre[which]);
    const syl_tokenizer *tokenizer = tokenizers[which];

    syl_text out = there_and_back(&f, tokenizer, (const char *)data + 1, size - 1, flags);
    syl_text again = there_and_back(&f, tokenizer, out.p, out.n, flags);
    if (out.n != again.n || (out.n && memcmp(out.p, again.p, out.n) != 0))
        fuzz_die(&f, "finding: what was decoded is not well formed");

    syl_token_list ids = {.arena = &f.arena};
    for (size_t i = 1; i + 1 < size; i += 2)
        SYL_PUSH(&f.arena, &ids, (int32_t)(data[i] | data[i + 1] << 8) % 512 - 16);
    out = decode(&f, tokenizer, &ids, 0);
    again = there_and_back(&f, tokenizer, out.p, out.n, flags);
    if (out.n != again.n || (out.n && memcmp(out.p, again.p, out.n) != 0))
        fuzz_die(&f, "finding: what was decoded of ids is not well formed");
    fuzz_close(&f);
    return 0;
}
