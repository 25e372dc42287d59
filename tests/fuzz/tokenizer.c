/* Tokenizer JSON; what loads encodes and decodes a text. */
#include "fuzz.h"
#include <string.h>
#include "runtime/chat.h"
#include "runtime/tokenizer.h"

static void use(fuzz *f, const syl_tokenizer *tokenizer) {
    static const char text[] = "the 12 <|a|> \xf0\x9f\x98\x80\xff\n\n";
    syl_token_list ids = {.arena = &f->arena};
    if (!fuzz_ok(f, syl_tokenizer_encode(tokenizer, text, sizeof text, SYL_ENCODE_CONTROL | SYL_ENCODE_BOS,
                                         f->diag, &ids)))
        return;
    syl_decoder decoder = {.show_control = true};
    syl_text out = {.arena = &f->arena};
    for (size_t i = 0; i < ids.n; i++) {
        if (ids.p[i] < 0 || ids.p[i] >= syl_tokenizer_size(tokenizer))
            fuzz_die(f, "finding: the id %d of %d", (int)ids.p[i], (int)syl_tokenizer_size(tokenizer));
        syl_decoder_push(&decoder, tokenizer, ids.p[i], &out);
    }
    syl_decoder_finish(&decoder, &out);
    static const syl_chat_message messages[] = {{"user", "the", 3}, {"assistant", " <|a|>", 6}};
    ids.n = 0;
    fuzz_ok(f, syl_chat_encode(tokenizer, messages, 2, true, f->diag, &ids));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz f;
    fuzz_open(&f);
    syl_source source = {"tokenizer.json", (const char *)data, size};
    syl_tokenizer *tokenizer;
    if (fuzz_ok(&f, syl_tokenizer_create(&source, f.diag, &tokenizer))) use(&f, tokenizer);
    syl_tokenizer_destroy(tokenizer);
    fuzz_close(&f);
    return 0;
}
