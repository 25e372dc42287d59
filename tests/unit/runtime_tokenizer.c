/* The tokenizer and the chat formats: merges checked by hand, every named error, decoding byte by byte, and
 * (where the environment variable SYL_TEST_TOKENIZER names SmolLM2's tokenizer JSON) the ids of the
 * reference, made by tests/goldens/tokenizer.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>
#include <cjson/cJSON.h>
#include "base/file.h"
#include "base/json.h"
#include "runtime/chat.h"
#include "runtime/tokenizer.h"

typedef struct fixture {
    syl_arena arena;
    syl_text messages; /* what the diagnostics said */
    syl_diag *diag;
    syl_tokenizer *t;
} fixture;

static void begin(fixture *f) {
    *f = (fixture){0};
    syl_arena_init(&f->arena);
    f->messages.arena = &f->arena;
    f->diag = syl_diag_create(syl_diag_capture, &f->messages);
}

static syl_status open_text(fixture *f, const char *json, size_t size) {
    syl_source source = {"tokenizer.json", json, size};
    return syl_tokenizer_create(&source, f->diag, &f->t);
}

static void end(fixture *f) {
    syl_tokenizer_destroy(f->t);
    syl_diag_destroy(f->diag);
    syl_arena_free(&f->arena);
}

/* ids:       0 a 1 b 2 c 3 ab 4 bc 5 abc 6 aa 7 Ġ 8 Ġa 9 1 10 2 11 C3 12 A9 13 é 14 U+00AD 15 Ċ 16 < 17..
 * control, 22 user defined */
#define TOKENS                                                                                               \
    "\"tokens\":[\"a\",\"b\",\"c\",\"ab\",\"bc\",\"abc\",\"aa\",\"Ġ\",\"Ġa\",\"1\",\"2\",\"Ã\",\"©\","       \
    "\"Ã©\",\"Ń\",\"Ċ\",\"<\","                                                                              \
    "\"<|im_start|>\",\"<|im_end|>\",\"<|end|>\",\"<|end|>>\",\"?\",\"<cab>\"]"
#define TYPES                                                                                                \
    "\"types\":[{\"id\":17,\"special\":true},{\"id\":18,\"special\":true},{\"id\":19,\"special\":true},"     \
    "{\"id\":20,\"special\":true},{\"id\":22,\"special\":false}]"
#define MERGES "\"merges\":[\"b c\",\"a b\",\"a bc\",\"a a\",\"Ġ a\",\"Ã ©\"]"
#define JSON(type, pre, tokens, types, merges, bos, eos, unk, add_bos, chat)                                 \
    "{\"type\":" type ",\"pre\":" pre "," tokens "," types "," merges ",\"bos\":" bos ",\"eos\":" eos        \
    ",\"unk\":" unk ",\"add_bos\":" add_bos ",\"chat\":" chat "}"
#define CHATML "{\"format\":\"chatml\",\"system\":\"ab\"}"

static const char small[] =
    JSON("\"bpe\"", "\"smollm\"", TOKENS, TYPES, MERGES, "19", "[18,19]", "null", "false", CHATML);

static void expect_ids(fixture *f, const char *text, size_t size, int flags, const int32_t *ids, size_t n,
                       size_t dropped) {
    syl_token_list list = {.arena = &f->arena};
    assert_int_equal(syl_tokenizer_encode(f->t, text, size, flags, f->diag, &list), SYL_OK);
    if (list.n != n || (n && memcmp(list.p, ids, n * sizeof *ids) != 0)) {
        print_error("'%s' became", text);
        for (size_t i = 0; i < list.n; i++) print_error(" %d", list.p[i]);
        fail_msg("; expected %zu tokens, from %d", n, n ? ids[0] : -1);
    }
    assert_int_equal(list.dropped, dropped);
}
#define EXPECT_FLAGS(f, text, flags, dropped, ...)                                                           \
    do {                                                                                                     \
        const int32_t want[] = {-1, __VA_ARGS__};                                                            \
        expect_ids(f, text, sizeof text - 1, flags, want + 1, sizeof want / sizeof *want - 1, dropped);      \
    } while (0)
#define EXPECT(f, text, ...) EXPECT_FLAGS(f, text, SYL_ENCODE_PLAIN, 0, __VA_ARGS__)

static syl_chat_message message(const char *role, const char *content) {
    return (syl_chat_message){role, content, strlen(content)};
}

static void expect_chat(fixture *f, const syl_chat_message *messages, size_t n, bool ask, const int32_t *ids,
                        size_t n_ids) {
    syl_token_list list = {.arena = &f->arena};
    assert_int_equal(syl_chat_encode(f->t, messages, n, ask, f->diag, &list), SYL_OK);
    assert_int_equal(list.n, n_ids);
    assert_memory_equal(list.p, ids, n_ids * sizeof *ids);
}

static void test_merges(void **state) {
    (void)state;
    fixture f;
    begin(&f);
    assert_int_equal(open_text(&f, small, sizeof small - 1), SYL_OK);
    assert_int_equal(syl_tokenizer_size(f.t), 23);
    EXPECT(&f, "ab", 3);
    EXPECT(&f, "abc", 5); /* b c goes first, then a bc */
    EXPECT(&f, "abab", 3, 3);
    EXPECT(&f, "aab", 0, 3);     /* a b before a a */
    EXPECT(&f, "aaa", 6, 0);     /* the leftmost of equal rank */
    EXPECT(&f, "a ab", 0, 7, 3); /* the pieces are a and _ab; a b before _ a */
    EXPECT(&f, "a aa", 0, 7, 6); /* and a a before _ a */
    EXPECT(&f, "a a", 0, 8);
    EXPECT(&f, "  a", 7, 8);              /* the last space goes with the word */
    EXPECT(&f, "a12 2", 0, 9, 10, 7, 10); /* each digit alone, even without its space */
    EXPECT(&f, "\xc3\xa9", 13);
    EXPECT_FLAGS(&f, "\n\xc2\xad", SYL_ENCODE_PLAIN, 1, 15, 14); /* U+00AD is C2 AD, and C2 has no token */
    end(&f);
}

static void test_bytes_without_token(void **state) {
    (void)state;
    fixture f;
    begin(&f);
    assert_int_equal(open_text(&f, small, sizeof small - 1), SYL_OK);
    EXPECT_FLAGS(&f, "axb", SYL_ENCODE_PLAIN, 1, 3); /* dropped, so a and b meet */
    EXPECT_FLAGS(&f,
                 "a\xff"
                 "a\xc3",
                 SYL_ENCODE_PLAIN, 1, 0, 0, 11); /* ill-formed bytes are pieces of their own */
    EXPECT_FLAGS(&f, "\xc3\xc3\xa9", SYL_ENCODE_PLAIN, 0, 11, 13);
    end(&f);

    static const char with_unk[] =
        JSON("\"bpe\"", "\"smollm\"", TOKENS, TYPES, MERGES, "null", "[18]", "21", "false", "null");
    begin(&f);
    assert_int_equal(open_text(&f, with_unk, sizeof with_unk - 1), SYL_OK);
    EXPECT(&f, "axb", 0, 21, 1);
    end(&f);

    static const char control_unk[] =
        JSON("\"bpe\"", "\"smollm\"", TOKENS, TYPES, MERGES, "null", "[18]", "19", "false", "null");
    begin(&f);
    assert_int_equal(open_text(&f, control_unk, sizeof control_unk - 1), SYL_OK);
    EXPECT_FLAGS(&f, "axb", SYL_ENCODE_PLAIN, 1, 3); /* a control token never comes out of text */
    end(&f);
}

static void test_control_tokens(void **state) {
    (void)state;
    fixture f;
    begin(&f);
    static const char json[] =
        JSON("\"bpe\"", "\"smollm\"", TOKENS, TYPES, MERGES, "19", "[18,19]", "null", "true", "null");
    assert_int_equal(open_text(&f, json, sizeof json - 1), SYL_OK);
    EXPECT_FLAGS(&f, "ab<|end|>c", SYL_ENCODE_CONTROL, 0, 3, 19, 2);
    EXPECT_FLAGS(&f, "<|end|>>a", SYL_ENCODE_CONTROL, 0, 20, 0); /* the longest */
    EXPECT_FLAGS(&f, "<|end|>", SYL_ENCODE_PLAIN, 6,
                 16); /* only text: of its bytes this vocabulary knows '<' */
    EXPECT_FLAGS(&f, "<|end|", SYL_ENCODE_CONTROL, 5, 16);
    EXPECT(&f, "a<cab>b", 0, 22, 1); /* user defined: always */
    EXPECT_FLAGS(&f, "a", SYL_ENCODE_BOS, 0, 19, 0);
    assert_int_equal(syl_tokenizer_bos(f.t), 19);
    assert_true(syl_tokenizer_is_end(f.t, 18));
    assert_true(syl_tokenizer_is_end(f.t, 19));
    assert_false(syl_tokenizer_is_end(f.t, 17));
    assert_true(syl_tokenizer_is_control(f.t, 17));
    assert_false(syl_tokenizer_is_control(f.t, 22));
    assert_false(syl_tokenizer_is_control(f.t, -1));
    assert_false(syl_tokenizer_is_control(f.t, 23));
    end(&f);
}

static void test_pre_tokenizers(void **state) {
    (void)state;
    static const char *const pres[] = {"default", "gpt-2", "llama-bpe", "qwen2", "smollm"};
    for (size_t i = 0; i < sizeof pres / sizeof *pres; i++) {
        fixture f;
        begin(&f);
        char *json = syl_arena_printf(&f.arena,
                                      "{\"type\":\"bpe\",\"pre\":\"%s\",\"tokens\":[\"1\",\"2\",\"12\",\"a\","
                                      "\"Ġ\",\"ĠĠ\",\"aaa\",\"Ċ\",\"ĠĊ\",\"1212\","
                                      "\"x\"],\"types\":[],\"merges\":[\"1 2\",\"Ġ Ġ\",\"Ġ Ċ\",\"12 "
                                      "12\"],\"bos\":null,\"eos\":[10],\"unk\":null,"
                                      "\"add_bos\":false,\"chat\":null}",
                                      pres[i]);
        assert_int_equal(open_text(&f, json, strlen(json)), SYL_OK);
        switch (i) {
        case 0:
            EXPECT(&f, "1212", 2, 0, 1);
            break; /* cut in threes: 121 2 */
        case 1:
            EXPECT(&f, "1212", 9);
            break;
        case 2:
            EXPECT(&f, "1212", 2, 0, 1);
            break;
        default:
            EXPECT(&f, "1212", 0, 1, 0, 1);
        }
        if (i == 2)
            EXPECT(&f, "aaa", 6); /* a whole piece needs no merges */
        else
            EXPECT(&f, "aaa", 3, 3, 3);
        if (i == 2 || i == 3)
            EXPECT(&f, " \na", 8, 3); /* white space stays with its line feed */
        else
            EXPECT(&f, " \na", 4, 7, 3);
        end(&f);
    }
}

/* e and U+0301 become U+00E9 (C3 A9) with "nfc", and stay two characters (65, CC 81) without. */
static void test_nfc(void **state) {
    (void)state;
    for (int nfc = 0; nfc < 2; nfc++) {
        fixture f;
        begin(&f);
        char *json =
            syl_arena_printf(&f.arena,
                             "{\"type\":\"bpe\",\"pre\":\"qwen2\",%s\"tokens\":[\"e\",\"Ì\",\"ģ\",\"Ã\","
                             "\"©\",\"x\"],\"types\":[],\"merges\":[],\"bos\":null,\"eos\":[5],\"unk\":null,"
                             "\"add_bos\":false,\"chat\":null}",
                             nfc ? "\"normalizer\":\"nfc\"," : "");
        assert_int_equal(open_text(&f, json, strlen(json)), SYL_OK);
        if (nfc)
            EXPECT(&f, "xe\xcc\x81", 5, 3, 4);
        else
            EXPECT(&f, "xe\xcc\x81", 5, 0, 1, 2);
        end(&f);
    }
}

/* ids: 0 <s> control 1 _ 2 a 3 b 4 c 5 ab 6 bc 7 _a 8 éb 9 C3 10 A9 11 __ 12 <u> user 13 aa 14 abc, and maybe 15 a_; é is no
 * token */
#define MARK "\xe2\x96\x81"
#define SPM_PIECES                                                                                           \
    "\"<s>\",\"" MARK "\",\"a\",\"b\",\"c\",\"ab\",\"bc\",\"" MARK "a\",\"\xc3\xa9"                          \
    "b\",\"<0xC3>\",\"<0xA9>\",\"" MARK MARK "\",\"<u>\",\"aa\",\"abc\""
#define SPM_TOKENS "\"tokens\":[" SPM_PIECES "]"
#define SPM_RANKS  "\"ranks\":[0,0,0,0,0,3,3,5,4,0,0,2,0,3,6]"
#define SPM_JSON(pre, prefix, tokens, merging)                                                               \
    "{\"type\":\"spm\",\"pre\":\"" pre "\",\"prefix\":\"" prefix "\"," tokens                                \
    ",\"types\":[{\"id\":0,\"special\":true},{\"id\":12,\"special\":false}]," merging                        \
    ",\"bos\":0,\"eos\":[0],\"unk\":null,\"add_bos\":true,\"chat\":null}"

static void open_spm(fixture *f, const char *json) {
    begin(f);
    assert_int_equal(open_text(f, json, strlen(json)), SYL_OK);
}

static void test_characters(void **state) {
    (void)state;
    fixture f;
    open_spm(&f, SPM_JSON("whole", "never", SPM_TOKENS, SPM_RANKS));
    EXPECT(&f, "abc", 14); /* ab and bc are equally good: the leftmost, and abc from it */
    EXPECT(&f, "cbc", 4, 6);
    EXPECT(&f, "abbc", 5, 6);
    EXPECT(&f, "aab", 13, 3);
    EXPECT(&f, "aabc", 13, 6);
    EXPECT(&f, " a", 7);
    EXPECT(&f, MARK "a", 7);
    EXPECT(&f, " ab", 1, 5);  /* ab before _a */
    EXPECT(&f, "  a", 11, 2); /* __ before _a */
    EXPECT(&f, "\xc3\xa9", 9, 10);
    EXPECT(&f,
           "\xc3\xa9"
           "b",
           8); /* from a character that is no token */
    EXPECT(&f, "\xc3", 9);
    EXPECT(&f,
           "\xc3"
           "bc",
           9, 6); /* ill-formed bytes stand alone */
    EXPECT_FLAGS(&f, "abxc", SYL_ENCODE_PLAIN, 1, 5, 4);
    EXPECT_FLAGS(&f, "<0xC3>", SYL_ENCODE_PLAIN, 6, ); /* the name of a byte is no text of it */
    end(&f);

    open_spm(&f,
             SPM_JSON("whole", "never", SPM_TOKENS, "\"merges\":[\"b c\",\"a b\",\"a bc\",\"" MARK " a\"]"));
    EXPECT(&f, "abc", 14);
    EXPECT(&f, "abab", 5, 5);
    EXPECT(&f, "  a", 1, 7);
    EXPECT(&f,
           "aa\xc3\xa9"
           "b",
           2, 2, 9, 10, 3);
    end(&f);

    /* With a token that has a space inside, a whole text can't be cut anywhere. */
#define INNER       "\"tokens\":[" SPM_PIECES ",\"a" MARK "\"]"
#define INNER_RANKS "\"ranks\":[0,0,0,0,0,3,3,5,4,0,0,2,0,3,6,1]"
    open_spm(&f, SPM_JSON("whole", "never", INNER, INNER_RANKS));
    EXPECT(&f, "a a", 15, 2);
    end(&f);
    open_spm(&f, SPM_JSON("spaces", "never", INNER, INNER_RANKS));
    EXPECT(&f, "a a", 2, 7);
    EXPECT(&f, "a  a", 2, 1, 7);
    end(&f);
}

/* Encodes, and decodes again to `back`. */
static void expect_back(fixture *f, const char *text, int flags, const char *back) {
    syl_token_list list = {.arena = &f->arena};
    syl_text out = {.arena = &f->arena};
    syl_decoder d = {0};
    syl_text_append(&out, "", 0);
    assert_int_equal(syl_tokenizer_encode(f->t, text, strlen(text), flags, f->diag, &list), SYL_OK);
    for (size_t i = 0; i < list.n; i++) syl_decoder_push(&d, f->t, list.p[i], &out);
    syl_decoder_finish(&d, &out);
    assert_string_equal(out.p, back);
}

static void test_space_in_front(void **state) {
    (void)state;
    fixture f;
    open_spm(&f, SPM_JSON("whole", "each", SPM_TOKENS, SPM_RANKS));
    EXPECT(&f, "", );
    EXPECT(&f, "a", 7);
    EXPECT(&f, " a", 11, 2);
    EXPECT(&f, "a<u>a", 7, 12, 7);
    EXPECT_FLAGS(&f, "a<s>a", SYL_ENCODE_CONTROL | SYL_ENCODE_BOS | SYL_ENCODE_INSIDE, 0, 0, 7, 0, 7);
    static const char *const texts[] = {"",      " ",     "a",   " a",        "  a ",
                                        "a<u>a", "<u> a", "<u>", "a<u> <u>b", "\xc3\xa9"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        expect_back(&f, texts[i], SYL_ENCODE_BOS, texts[i]);
    expect_back(&f, "a<s>b", SYL_ENCODE_CONTROL, "ab");
    syl_text out = {.arena = &f.arena};
    syl_decoder d = {0};
    syl_decoder_push(&d, f.t, 1, &out); /* only the space that was put there */
    assert_int_equal(out.n, 0);
    syl_decoder_push(&d, f.t, 7, &out);
    assert_string_equal(out.p, " a");
    d = (syl_decoder){0};
    out.n = 0;
    syl_decoder_follow(&d, f.t, 2); /* inside a text, a space is a space */
    syl_decoder_push(&d, f.t, 7, &out);
    syl_decoder_push(&d, f.t, 9, &out);
    assert_string_equal(out.p, " a");
    syl_decoder_push(&d, f.t, 10, &out);
    assert_string_equal(out.p, " a\xc3\xa9");
    end(&f);

    open_spm(&f, SPM_JSON("whole", "each-missing", SPM_TOKENS, SPM_RANKS));
    EXPECT(&f, "a", 7);
    EXPECT(&f, " a", 7);
    EXPECT(&f, MARK "a", 7);
    EXPECT(&f, "a<u>a<u> a", 7, 12, 7, 12, 7);
    expect_back(&f, "a<u>a", SYL_ENCODE_PLAIN, "a<u>a");
    end(&f);

    open_spm(&f, SPM_JSON("whole", "first-missing", SPM_TOKENS, SPM_RANKS));
    EXPECT(&f, "a<u>a", 7, 12, 2);
    EXPECT(&f, " a", 7);
    EXPECT(&f, "<u>a", 12, 2);
    EXPECT_FLAGS(&f, "a", SYL_ENCODE_BOS, 0, 0, 7);
    EXPECT_FLAGS(&f, "a", SYL_ENCODE_INSIDE, 0, 2);
    EXPECT_FLAGS(&f, "<s>a", SYL_ENCODE_CONTROL, 0, 0, 2);
    expect_back(&f, "a<u> a", SYL_ENCODE_BOS, "a<u> a");
    expect_back(&f, "<u> a", SYL_ENCODE_PLAIN, "<u> a");
    end(&f);
}

/* Only the first text of a conversation gets a space in front, and a control token stands before the first of these. */
static void test_space_in_chats(void **state) {
    (void)state;
    static const char *const prefixes[] = {"first-missing", "each-missing"};
    for (int i = 0; i < 2; i++) {
        fixture f;
        begin(&f);
        char *json = syl_arena_printf(&f.arena,
                                      "{\"type\":\"spm\",\"pre\":\"whole\",\"prefix\":\"%s\",\"tokens\":[\"<|"
                                      "im_start|>\",\"<|im_end|>\",\"" MARK
                                      "\",\"u\",\"s\",\"e\",\"r\",\"<0x0A>\",\"x\"],\"types\":[{\"id\":0,"
                                      "\"special\":true},{\"id\":1,\"special\":"
                                      "true}],\"ranks\":[0,0,0,0,0,0,0,0,0],\"bos\":null,\"eos\":[1],\"unk\":"
                                      "null,\"add_bos\":false,\"chat\":{"
                                      "\"format\":\"chatml\",\"system\":null}}",
                                      prefixes[i]);
        assert_int_equal(open_text(&f, json, strlen(json)), SYL_OK);
        syl_chat_message one[] = {message("user", "x")};
        static const int32_t first[] = {0, 3, 4, 5, 6, 7, 8, 1, 7},
                             each[] = {0, 2, 3, 4, 5, 6, 7, 8, 1, 2, 7};
        if (i == 0)
            expect_chat(&f, one, 1, false, first, sizeof first / sizeof *first);
        else
            expect_chat(&f, one, 1, false, each, sizeof each / sizeof *each);
        end(&f);
    }
}

static void test_malformed_spm(void **state) {
    (void)state;
    char *zeros = malloc(1 << 12), *long_json = malloc(1 << 13);
    memset(zeros, 'a', 600);
    zeros[600] = 0;
    snprintf(
        long_json, 1 << 13,
        "{\"type\":\"spm\",\"pre\":\"whole\",\"prefix\":\"each\",\"tokens\":[\"" MARK
        "\",\"%s\"],\"types\":[],\"ranks\":[0,1],\"bos\":null,\"eos\":[0],\"unk\":null,\"add_bos\":false,"
        "\"chat\":null}",
        zeros);
    const struct {
        const char *json, *error;
        syl_status status;
    } cases[] = {
        {SPM_JSON("smollm", "each", SPM_TOKENS, SPM_RANKS), "expected one of 'spaces', 'whole'",
         SYL_UNSUPPORTED},
        {SPM_JSON("whole", "all", SPM_TOKENS, SPM_RANKS), "unknown prefix 'all'", SYL_INPUT},
        {SPM_JSON("whole", "each",
                  "\"tokens\":[\"<s>\",\"b\",\"c\",\"d\",\"e\",\"f\",\"g\",\"h\",\"i\",\"j\","
                  "\"k\",\"l\",\"m\"]",
                  SPM_RANKS),
         "needs the token '" MARK "'", SYL_INPUT},
        {SPM_JSON("whole", "each", SPM_TOKENS, "\"ranks\":[0,1]"), "'ranks' has 2 entries for 15 tokens",
         SYL_INPUT},
        {SPM_JSON("whole", "each", SPM_TOKENS, "\"ranks\":[0,0,0,0,0,15,3,5,4,0,0,2,0,3,6]"),
         "must be in 0 .. 14", SYL_INPUT},
        {SPM_JSON("whole", "each", SPM_TOKENS, "\"ranks\":[0,0,0,0,0,\"1\",3,5,4,0,0,2,0,3,6]"),
         "must be in 0 .. 14", SYL_INPUT},
        {SPM_JSON("whole", "each", SPM_TOKENS, SPM_RANKS ",\"merges\":[]"), "not both", SYL_INPUT},
        {SPM_JSON("whole", "each", SPM_TOKENS, SPM_RANKS ",\"normalizer\":\"nfc\""), "normalizer", SYL_INPUT},
        {SPM_JSON("whole", "each", SPM_TOKENS, "\"merges\":[\"< s>\"]"), "needs the token '<'", SYL_INPUT},
        {SPM_JSON("whole", "each", SPM_TOKENS, "\"unk\":0"), "error[json-", SYL_INPUT},
        {long_json, "at most 512", SYL_INPUT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture f;
        begin(&f);
        syl_status status = open_text(&f, cases[i].json, strlen(cases[i].json));
        const char *said = f.messages.p ? f.messages.p : "nothing";
        if (status != cases[i].status || !strstr(said, cases[i].error) || syl_diag_errors(f.diag) != 1 || f.t)
            fail_msg("case %zu: status %d, expected '%s', diagnostics: %s", i, (int)status, cases[i].error,
                     said);
        end(&f);
    }
    free(zeros);
    free(long_json);
}

static void test_long_texts(void **state) {
    (void)state;
    fixture f;
    begin(&f);
    assert_int_equal(open_text(&f, small, sizeof small - 1), SYL_OK);
    size_t n = 300000;
    char *text = syl_arena_alloc(&f.arena, n);
    syl_token_list list = {.arena = &f.arena};
    clock_t start = clock();
    memset(text, 'a', n);
    assert_int_equal(syl_tokenizer_encode(f.t, text, n, SYL_ENCODE_PLAIN, f.diag, &list), SYL_OK);
    assert_int_equal(list.n, n / 2);
    for (size_t i = 0; i < list.n; i++) assert_int_equal(list.p[i], 6);
    memset(text, ' ', n);
    list.n = 0;
    assert_int_equal(syl_tokenizer_encode(f.t, text, n, SYL_ENCODE_CONTROL, f.diag, &list), SYL_OK);
    assert_int_equal(list.n, n);
    memset(text, 0xc3, n);
    list.n = 0;
    assert_int_equal(syl_tokenizer_encode(f.t, text, n, SYL_ENCODE_CONTROL, f.diag, &list), SYL_OK);
    assert_int_equal(list.n, n);
    syl_tokenizer_destroy(f.t);
    static const char characters[] = SPM_JSON("whole", "each", SPM_TOKENS, SPM_RANKS);
    assert_int_equal(open_text(&f, characters, sizeof characters - 1), SYL_OK);
    memset(text, 'a', n);
    list.n = 0;
    assert_int_equal(syl_tokenizer_encode(f.t, text, n, SYL_ENCODE_PLAIN, f.diag, &list), SYL_OK);
    assert_int_equal(list.n, n / 2 + 1);
    assert_true(clock() - start < 5 * CLOCKS_PER_SEC); /* it takes 0.1 s; quadratic time would be minutes */
    assert_int_equal(
        syl_tokenizer_encode(f.t, text, (size_t)SYL_MAX_TEXT + 1, SYL_ENCODE_PLAIN, f.diag, &list),
        SYL_INPUT);
    assert_non_null(strstr(f.messages.p, "error[tokenizer-text]"));
    end(&f);
}

static void test_decoder(void **state) {
    (void)state;
    fixture f;
    begin(&f);
    assert_int_equal(open_text(&f, small, sizeof small - 1), SYL_OK);
    syl_text out = {.arena = &f.arena};
    syl_decoder d = {0};
    syl_decoder_push(&d, f.t, 11, &out); /* C3: held back */
    assert_int_equal(out.n, 0);
    syl_decoder_push(&d, f.t, 18, &out); /* a control token: no text */
    syl_decoder_push(&d, f.t, 12, &out);
    assert_string_equal(out.p, "\xc3\xa9");
    syl_decoder_push(&d, f.t, 11, &out);
    syl_decoder_push(&d, f.t, 3, &out); /* the C3 is alone */
    syl_decoder_push(&d, f.t, 12, &out);
    syl_decoder_push(&d, f.t, 8, &out);
    syl_decoder_push(&d, f.t, 22, &out);
    syl_decoder_push(&d, f.t, 23, &out); /* no such token */
    d.show_control = true;
    syl_decoder_push(&d, f.t, 18, &out);
    syl_decoder_push(&d, f.t, 11, &out);
    syl_decoder_finish(&d, &out);
    assert_string_equal(out.p, "\xc3\xa9\xef\xbf\xbd"
                               "ab\xef\xbf\xbd a<cab><|im_end|>\xef\xbf\xbd");
    syl_decoder_finish(&d, &out);
    size_t size;
    assert_memory_equal(syl_tokenizer_bytes(f.t, 8, &size), " a", 2);
    assert_int_equal(size, 2);
    assert_null(syl_tokenizer_bytes(f.t, 23, &size));
    end(&f);
}

static void test_malformed(void **state) {
    (void)state;
    static const struct {
        const char *json, *error;
        syl_status status;
    } cases[] = {
        {"{", "error[json-", SYL_INPUT},
        {"[]", "error[tokenizer-format]", SYL_INPUT},
        {"{}", "error[json-missing]", SYL_INPUT},
        {JSON("\"wordpiece\"", "\"smollm\"", TOKENS, TYPES, MERGES, "19", "[18]", "null", "false", "null"),
         "error[tokenizer-type]", SYL_UNSUPPORTED},
        {JSON("\"bpe\"", "\"smolm\"", TOKENS, TYPES, MERGES, "19", "[18]", "null", "false", "null"),
         "expected one of 'default', 'gpt-2', 'llama-bpe', 'qwen2', 'smollm'", SYL_UNSUPPORTED},
        {JSON("\"bpe\"", "\"smollm\"", "\"tokens\":[]", TYPES, MERGES, "19", "[18]", "null", "false", "null"),
         "'tokens' is empty", SYL_INPUT},
        {JSON("\"bpe\"", "\"smollm\"", "\"tokens\":[\"a\",1]", TYPES, MERGES, "19", "[18]", "null", "false",
              "null"),
         "token 1 is not a string", SYL_INPUT},
        {JSON("\"bpe\"", "\"smollm\"", TOKENS, "\"types\":[{\"id\":23,\"special\":true}]", MERGES, "19",
              "[18]", "null", "false", "null"),
         "error[tokenizer-id]", SYL_INPUT},
        {JSON("\"bpe\"", "\"smollm\"", TOKENS,
              "\"types\":[{\"id\":3,\"special\":true},{\"id\":3,\"special\":true}]", MERGES, "19", "[18]",
              "null", "false", "null"),
         "the ids of 'types' must rise, but 3 follows 3", SYL_INPUT},
        {JSON("\"bpe\"", "\"smollm\"", TOKENS, "\"types\":[{\"id\":3,\"special\":1}]", MERGES, "19", "[18]",
              "null", "false", "null"),
         "'special' must be true or false", SYL_INPUT},
        {JSON("\"bpe\"", "\"smollm\"", TOKENS, "\"types\":[7]", MERGES, "19", "[18]", "null", "false",
              "null"),
         "must be an object", SYL_INPUT},
        {JSON("\"bpe\"", "\"smollm\"", "\"tokens\":[\"\"]", "\"types\":[{\"id\":0,\"special\":true}]",
              "\"merges\":[]", "null", "[0]", "null", "false", "null"),
         "has no text", SYL_INPUT},
        {JSON("\"bpe\"", "\"smollm\"", TOKENS, TYPES, "\"merges\":[\"a b\",\"b a\"]", "19", "[18]", "null",
              "false", "null"),
         "merge 1, 'b a', needs the token 'ba'", SYL_INPUT},
        {JSON("\"bpe\"", "\"smollm\"", TOKENS, TYPES, "\"merges\":[\"a q\"]", "19", "[18]", "null", "false",
              "null"),
         "needs the token 'q'", SYL_INPUT},
        {JSON("\"bpe\"", "\"smollm\"", TOKENS, TYPES, "\"merges\":[\"a b\",\"b c\",\"a b\"]", "19", "[18]",
              "null", "false", "null"),
         "merge 2 repeats merge 0", SYL_INPUT},
        {JSON("\"bpe\"", "\"smollm\"", TOKENS, TYPES, "\"merges\":[\"ab\"]", "19", "[18]", "null", "false",
              "null"),
         "error[tokenizer-merge]", SYL_INPUT},
        {JSON("\"bpe\"", "\"smollm\"", TOKENS, TYPES, "\"merges\":[\"a  b\"]", "19", "[18]", "null", "false",
              "null"),
         "error[tokenizer-merge]", SYL_INPUT},
        {JSON("\"bpe\"", "\"smollm\"", TOKENS, TYPES, "\"merges\":[null]", "19", "[18]", "null", "false",
              "null"),
         "error[tokenizer-merge]", SYL_INPUT},
        {JSON("\"bpe\"", "\"smollm\"", TOKENS, TYPES, MERGES, "-1", "[18]", "null", "false", "null"),
         "'bos' must be a token id in 0 .. 22", SYL_INPUT},
        {JSON("\"bpe\"", "\"smollm\"", TOKENS, TYPES, MERGES, "1.5", "[18]", "null", "false", "null"),
         "error[tokenizer-id]", SYL_INPUT},
        {JSON("\"bpe\"", "\"smollm\"", TOKENS, TYPES, MERGES, "19", "[]", "null", "false", "null"),
         "'eos' is empty", SYL_INPUT},
        {JSON("\"bpe\"", "\"smollm\"", TOKENS, TYPES, MERGES, "19", "[18,2]", "null", "false", "null"),
         "must rise, but 2 follows 18", SYL_INPUT},
        {JSON("\"bpe\"", "\"smollm\"", TOKENS, TYPES, MERGES, "19", "[23]", "null", "false", "null"),
         "error[tokenizer-id]", SYL_INPUT},
        {JSON("\"bpe\"", "\"smollm\"", TOKENS, TYPES, MERGES, "19", "[18]", "\"x\"", "false", "null"),
         "error[tokenizer-id]", SYL_INPUT},
        {JSON("\"bpe\"", "\"smollm\"", TOKENS, TYPES, MERGES, "null", "[18]", "null", "true", "null"),
         "'bos' is null", SYL_INPUT},
        {JSON("\"bpe\"", "\"smollm\"", TOKENS, TYPES, MERGES, "19", "[18]", "null", "0", "null"),
         "'add_bos' must be true or false", SYL_INPUT},
        {JSON("\"bpe\"", "\"smollm\"", TOKENS, TYPES, MERGES, "19", "[18]", "null", "false", "\"chatml\""),
         "'chat' must be an object or null", SYL_INPUT},
        {JSON("\"bpe\"", "\"smollm\"", TOKENS, TYPES, MERGES, "19", "[18]", "null", "false",
              "{\"format\":\"x\",\"system\":null}"),
         "error[chat-format]", SYL_UNSUPPORTED},
        {JSON("\"bpe\"", "\"smollm\"", TOKENS, TYPES, MERGES, "19", "[18]", "null", "false",
              "{\"format\":\"llama3\",\"system\":null}"),
         "needs the control token '<|start_header_id|>'", SYL_UNSUPPORTED},
        {JSON("\"bpe\"", "\"smollm\"", TOKENS, TYPES, MERGES, "19", "[18]", "null", "false",
              "{\"format\":\"chatml\",\"system\":1}"),
         "'system' must be a string or null", SYL_INPUT},
        {JSON("\"bpe\"", "\"smollm\"", TOKENS, TYPES, MERGES, "19", "[18]", "null", "false",
              "{\"format\":\"chatml\"}"),
         "the key 'system' is missing", SYL_INPUT},
        {JSON("\"bpe\"", "\"smollm\"", TOKENS, TYPES, MERGES, "19", "[18]", "null", "false",
              "null,\"extra\":1"),
         "extra", SYL_INPUT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture f;
        begin(&f);
        syl_status status = open_text(&f, cases[i].json, strlen(cases[i].json));
        const char *said = f.messages.p ? f.messages.p : "nothing";
        if (status != cases[i].status || !strstr(said, cases[i].error) || syl_diag_errors(f.diag) != 1 || f.t)
            fail_msg("case %zu: status %d, expected '%s', diagnostics: %s", i, (int)status, cases[i].error,
                     said);
        end(&f);
    }
}

/* One token a letter: what is expected reads like the text. */
static char *alphabet_tokenizer(syl_arena *arena, bool add_bos, const char *chat) {
    syl_text json = {.arena = arena};
    syl_text_printf(&json,
                    "{\"type\":\"bpe\",\"pre\":\"smollm\",\"tokens\":[\"Ċ\",\"<\",\"|\",\">\",\"_\",\"Ġ\"");
    for (char c = 'a'; c <= 'z'; c++) syl_text_printf(&json, ",\"%c\"", c);
    syl_text_printf(&json, ",\"<|im_start|>\",\"<|im_end|>\",\"<|start_header_id|>\",\"<|end_header_id|>\","
                           "\"<|eot_id|>\",\"<|b|>\"],\"types\":[");
    for (int id = 32; id < 38; id++)
        syl_text_printf(&json, "%s{\"id\":%d,\"special\":true}", id == 32 ? "" : ",", id);
    syl_text_printf(&json,
                    "],\"merges\":[],\"bos\":37,\"eos\":[33,36],\"unk\":null,\"add_bos\":%s,\"chat\":%s}",
                    add_bos ? "true" : "false", chat);
    return json.p;
}

/* Ids of a picture of the tokens: letters as they are, S, E: the chatml marks; H, D, T: those of llama3; B:
 * bos. */
static size_t picture_ids(const char *picture, int32_t *ids) {
    size_t n = 0;
    for (const char *p = picture; *p; p++) {
        static const char others[] = "\n<|>_ ", marks[] = "SEHDTB";
        const char *found = strchr(others, *p);
        ids[n++] = found       ? (int32_t)(found - others)
                   : *p >= 'a' ? 6 + *p - 'a'
                               : 32 + (int32_t)(strchr(marks, *p) - marks);
    }
    return n;
}
static void expect_picture(fixture *f, const syl_chat_message *messages, size_t n, bool ask,
                           const char *picture) {
    int32_t ids[256];
    size_t n_ids = picture_ids(picture, ids);
    expect_chat(f, messages, n, ask, ids, n_ids);
}

static void test_chat(void **state) {
    (void)state;
    fixture f;
    begin(&f);
    char *json = alphabet_tokenizer(&f.arena, false, "{\"format\":\"chatml\",\"system\":\"be nice\"}");
    assert_int_equal(open_text(&f, json, strlen(json)), SYL_OK);
    assert_string_equal(syl_chat_format_name(f.t), "chatml");
    syl_chat_message one[] = {message("user", " hi\n")};
    expect_picture(&f, one, 1, true, "Ssystem\nbe niceE\nSuser\n hi\nE\nSassistant\n");
    syl_chat_message three[] = {message("system", "x"), message("user", "<|im_end|>"),
                                message("assistant", "")};
    expect_picture(&f, three, 3, false,
                   "Ssystem\nxE\nSuser\n<|im_end|>E\nSassistant\nE\n"); /* what a user writes stays text */
    expect_picture(&f, NULL, 0, false, "Ssystem\nbe niceE\n");
    syl_token_list list = {.arena = &f.arena};
    syl_chat_message bad[] = {message("user", "x"), message("<|im_start|>", "x")};
    assert_int_equal(syl_chat_encode(f.t, bad, 2, true, f.diag, &list), SYL_USAGE);
    assert_int_equal(list.n, 0);
    assert_non_null(strstr(f.messages.p, "error[chat-role]: message 2"));
    end(&f);

    begin(&f);
    json = alphabet_tokenizer(&f.arena, true, "{\"format\":\"llama3\",\"system\":null}");
    assert_int_equal(open_text(&f, json, strlen(json)), SYL_OK);
    expect_picture(&f, one, 1, true, "BHuserD\n\nhiTHassistantD\n\n");
    end(&f);

    begin(&f);
    json = alphabet_tokenizer(&f.arena, true, "null");
    assert_int_equal(open_text(&f, json, strlen(json)), SYL_OK);
    assert_null(syl_chat_format_name(f.t));
    assert_int_equal(syl_chat_encode(f.t, one, 1, true, f.diag, &list), SYL_UNSUPPORTED);
    assert_non_null(strstr(f.messages.p, "error[chat-format]"));
    end(&f);
}

static void expect_golden(const cJSON *golden, const syl_token_list *list, const char *what) {
    bool same = cJSON_GetArraySize(golden) == (int)list->n;
    size_t i = 0;
    const cJSON *id;
    cJSON_ArrayForEach(id, golden) same = same && id->valueint == list->p[i++];
    if (!same) fail_msg("'%s' differs from the reference", what);
}

static void test_smollm2(void **state) {
    (void)state;
    const char *path = getenv("SYL_TEST_TOKENIZER");
    if (!path) skip();
    fixture f;
    begin(&f);
    syl_source tokenizer, golden;
    syl_json json;
    assert_int_equal(syl_file_read(&f.arena, path, 64 << 20, f.diag, &tokenizer), SYL_OK);
    assert_int_equal(syl_tokenizer_create(&tokenizer, f.diag, &f.t), SYL_OK);
    assert_int_equal(
        syl_file_read(&f.arena, SYL_TEST_DATA "/tokenizer_smollm2.json", 1 << 20, f.diag, &golden), SYL_OK);
    assert_int_equal(syl_json_parse(&golden, f.diag, &json), SYL_OK);
    const cJSON *row, *entry;
    cJSON_ArrayForEach(row, cJSON_GetObjectItem(json.root, "texts")) {
        const char *text = cJSON_GetObjectItem(row, "text")->valuestring;
        syl_token_list list = {.arena = &f.arena};
        assert_int_equal(syl_tokenizer_encode(f.t, text, strlen(text), SYL_ENCODE_PLAIN, f.diag, &list),
                         SYL_OK);
        expect_golden(cJSON_GetObjectItem(row, "ids"), &list, text);
        syl_decoder d = {0};
        syl_text out = {.arena = &f.arena};
        for (size_t i = 0; i < list.n; i++) syl_decoder_push(&d, f.t, list.p[i], &out);
        syl_decoder_finish(&d, &out);
        assert_string_equal(out.p ? out.p : "", cJSON_GetObjectItem(row, "decoded")->valuestring);
    }
    cJSON_ArrayForEach(row, cJSON_GetObjectItem(json.root, "chats")) {
        syl_chat_message messages[8];
        size_t n = 0;
        cJSON_ArrayForEach(entry, cJSON_GetObjectItem(row, "messages")) messages[n++] =
            message(cJSON_GetArrayItem(entry, 0)->valuestring, cJSON_GetArrayItem(entry, 1)->valuestring);
        syl_token_list list = {.arena = &f.arena};
        assert_int_equal(syl_chat_encode(f.t, messages, n, true, f.diag, &list), SYL_OK);
        expect_golden(cJSON_GetObjectItem(row, "ids"), &list, messages[0].content);
    }
    syl_json_free(&json);
    end(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merges),
        cmocka_unit_test(test_bytes_without_token),
        cmocka_unit_test(test_control_tokens),
        cmocka_unit_test(test_pre_tokenizers),
        cmocka_unit_test(test_nfc),
        cmocka_unit_test(test_characters),
        cmocka_unit_test(test_space_in_front),
        cmocka_unit_test(test_space_in_chats),
        cmocka_unit_test(test_malformed_spm),
        cmocka_unit_test(test_long_texts),
        cmocka_unit_test(test_decoder),
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_chat),
        cmocka_unit_test(test_smollm2),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
