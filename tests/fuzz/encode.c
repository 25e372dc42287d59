/* Text to tokens and back, with a tokenizer that knows every byte. The first byte of the input chooses the
 * tokenizer and the flags, the others are text, and then ids.
 *
 * Held to: the bytes of the tokens are the text (with SentencePiece's spaces); what is decoded is well formed, that
 * is, encoding and decoding it again changes nothing; a well-formed text comes back. */
#include "fuzz.h"
#include <stdlib.h>
#include <string.h>
#include "runtime/tokenizer.h"
#include "runtime/tokenizer_impl.h"

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

/* The kinds of tokenizers: byte-level ones by their pre-tokenizer, then SentencePiece's. */
static const struct kind {
    const char *pre, *prefix; /* prefix NULL: type "bpe" */
    bool ranks;
} kinds[] = {
    {"default", NULL, false},        {"gpt-2", NULL, false},
    {"llama-bpe", NULL, false},      {"qwen2", NULL, false},
    {"smollm", NULL, false},         {"whole", "each", true},
    {"whole", "each", false},        {"spaces", "never", true},
    {"whole", "each-missing", true}, {"spaces", "first-missing", false},
};
enum { n_kinds = sizeof kinds / sizeof *kinds };

static syl_tokenizer *load(fuzz *f, const char *pre, const syl_text *json) {
    syl_source source = {"tokenizer", json->p, json->n};
    syl_tokenizer *tokenizer;
    if (!fuzz_ok(f, syl_tokenizer_create(&source, f->diag, &tokenizer)))
        fuzz_die(f, "finding: the tokenizer '%s' does not load", pre);
    return tokenizer;
}

static syl_tokenizer *make_spm(fuzz *f, const struct kind *kind) {
    syl_text json = {.arena = &f->arena};
    syl_text_printf(&json, "{\"type\":\"spm\",\"pre\":\"%s\",\"prefix\":\"%s\",\"tokens\":[", kind->pre,
                    kind->prefix);
    for (unsigned byte = 0; byte < 256; byte++) syl_text_printf(&json, "\"<0x%02X>\",", byte);
    syl_text_printf(
        &json,
        "\"t\",\"h\",\"th\",\"e\",\"the\",\"\\u2581\",\"\\u2581t\",\"aa\",\"<|a|>\",\"<|a|>b\",\"<u>\","
        "\"a\",\"aaaa\",\"\\u2581\\u2581\",\"\\u00e9a\",\"a\\u2581a\",\"\\u2581a\"],\"types\":["
        "{\"id\":264,\"special\":true},{\"id\":265,\"special\":true},{\"id\":266,\"special\":"
        "false}],");
    if (kind->ranks) {
        syl_text_printf(&json, "\"ranks\":[");
        for (int i = 0; i < 273; i++) syl_text_printf(&json, "%s%d", i ? "," : "", i < 256 ? 0 : i * 7 % 5);
    } else {
        syl_text_printf(&json,
                        "\"merges\":[\"a a\",\"t h\",\"th e\",\"\\u2581 t\",\"aa aa\",\"\\u2581 \\u2581\"");
    }
    syl_text_printf(&json, "],\"bos\":264,\"eos\":[265],\"unk\":null,\"add_bos\":true,\"chat\":null}");
    return load(f, kind->pre, &json);
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
    return load(f, pre, &json);
}

static bool begins(const char *p, const char *end, const char *with) {
    size_t n = strlen(with);
    return (size_t)(end - p) >= n && memcmp(p, with, n) == 0;
}

/* Bytes of the token of those above that are always cut out, or on demand, at the begin of a text. */
static size_t whole_at(const char *p, const char *end, int flags) {
    if (begins(p, end, "<u>")) return 3;
    if (!(flags & SYL_ENCODE_CONTROL) || !begins(p, end, "<|a|>")) return 0;
    return begins(p, end, "<|a|>b") ? 6 : 5;
}

static syl_text without_marks(fuzz *f, const char *text, size_t size) {
    syl_text out = {.arena = &f->arena};
    syl_text_append(&out, "", 0);
    for (const char *p = text; p < text + size; p++) {
        bool mark = begins(p, text + size, "\xe2\x96\x81");
        syl_text_append(&out, mark ? " " : p, 1);
        if (mark) p += 2;
    }
    return out;
}

/* A text as SentencePiece sees it, with the names of the tokens that are cut out. */
static syl_text spaced(fuzz *f, const struct kind *kind, const char *text, size_t size, int flags) {
    syl_text out = {.arena = &f->arena};
    const char *end = text + size, *begin = text;
    syl_text_append(&out, "", 0);
    for (const char *p = text; size && p <= end; p++) {
        size_t whole = p < end ? whole_at(p, end, flags) : 0;
        if (p < end && !whole) continue;
        syl_text part = without_marks(f, begin, (size_t)(p - begin));
        bool missing = part.n && *part.p != ' ', first = begin == text;
        if (part.n &&
            (strcmp(kind->prefix, "each") == 0 || (missing && strcmp(kind->prefix, "each-missing") == 0) ||
             (missing && first && strcmp(kind->prefix, "first-missing") == 0)))
            syl_text_append(&out, " ", 1);
        syl_text_append(&out, part.p, part.n);
        syl_text_append(&out, p, whole);
        begin = p + whole;
        p += whole ? whole - 1 : 0;
    }
    return out;
}

static syl_text decode(fuzz *f, const syl_tokenizer *tokenizer, const syl_token_list *ids, size_t first) {
    syl_decoder decoder = {.show_control = true};
    syl_text out = {.arena = &f->arena};
    for (size_t i = first; i < ids->n; i++) syl_decoder_push(&decoder, tokenizer, ids->p[i], &out);
    syl_decoder_finish(&decoder, &out);
    return out;
}

/* Encodes and decodes; checks that the tokens' bytes are the text. */
static syl_text there_and_back(fuzz *f, const struct kind *kind, const syl_tokenizer *tokenizer,
                               const char *text, size_t size, int flags) {
    syl_token_list ids = {.arena = &f->arena};
    if (!fuzz_ok(f, syl_tokenizer_encode(tokenizer, text, size, flags, f->diag, &ids)))
        fuzz_die(f, "finding: a text of %zu bytes is not encoded", size);
    size_t first = flags & SYL_ENCODE_BOS ? 1 : 0, at = 0;
    if (first && (!ids.n || ids.p[0] != syl_tokenizer_bos(tokenizer)))
        fuzz_die(f, "finding: no begin-of-text token");
    if (kind->prefix) {
        syl_text seen = spaced(f, kind, text, size, flags);
        text = seen.p;
        size = seen.n;
    }
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

/* Where a missing space only is put in front, spaces at the begin of a text are lost. */
static bool comes_back(const struct kind *kind) {
    return !kind->prefix || !strstr(kind->prefix, "missing");
}

static void expect_same(fuzz *f, syl_text a, syl_text b, const char *what) {
    if (a.n != b.n || (a.n && memcmp(a.p, b.p, a.n) != 0)) fuzz_die(f, "finding: %s", what);
}

static bool is_utf8(const char *text, size_t size) {
    const unsigned char *p = (const unsigned char *)text;
    for (size_t at = 0; at < size;) {
        int n = syl_utf8_next(p + at, size - at);
        if (n <= 0) return false;
        at += (size_t)n;
    }
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static syl_tokenizer *tokenizers[n_kinds];
    if (size == 0) return 0;
    fuzz f;
    fuzz_open(&f);
    size_t which = data[0] % n_kinds;
    const struct kind *kind = &kinds[which];
    int flags = data[0] / n_kinds % 4;
    if (!tokenizers[which]) tokenizers[which] = kind->prefix ? make_spm(&f, kind) : make(&f, kind->pre);
    const syl_tokenizer *tokenizer = tokenizers[which];

    const char *text = (const char *)data + 1;
    syl_text out = there_and_back(&f, kind, tokenizer, text, size - 1, flags);
    if (kind->prefix) out = without_marks(&f, out.p ? out.p : "", out.n);
    if (kind->prefix && comes_back(kind) && is_utf8(text, size - 1))
        expect_same(&f, out, without_marks(&f, text, size - 1), "a text does not come back");
    if (comes_back(kind))
        expect_same(&f, out, there_and_back(&f, kind, tokenizer, out.p, out.n, flags),
                    "what was decoded is not well formed");

    syl_token_list ids = {.arena = &f.arena};
    for (size_t i = 1; i + 1 < size; i += 2)
        SYL_PUSH(&f.arena, &ids, (int32_t)(data[i] | data[i + 1] << 8) % 512 - 16);
    out = decode(&f, tokenizer, &ids, 0);
    if (kind->prefix) out = without_marks(&f, out.p ? out.p : "", out.n);
    syl_text again = there_and_back(&f, kind, tokenizer, out.p, out.n, flags);
    if (comes_back(kind)) expect_same(&f, out, again, "what was decoded of ids is not well formed");
    fuzz_close(&f);
    return 0;
}
