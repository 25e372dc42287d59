/* Tokenizers of SentencePiece's kind from checkpoint to ids and back, against SentencePiece and Hugging Face's tokenizers
 * (tests/data/tokenizer_spm.json, made by tests/goldens/tokenizer_spm.py): as tokenizer.json in all spellings, and as
 * GGUF with scores. */
#include <cjson/cJSON.h>
#include <math.h>
#include <sys/stat.h>
#include "base/json.h"
#include "frontend/tokenizer.h"
#include "frontend_gguf_file.h"
#include "runtime/chat.h"
#include "runtime/tokenizer.h"

static syl_arena arena;
static recorder r;
static syl_source source;
static syl_json golden;

static const cJSON *item(const char *key) {
    return cJSON_GetObjectItemCaseSensitive(golden.root, key);
}

static int setup(void **state) {
    syl_arena_init(&arena);
    recorder_init(&r);
    if (syl_file_read(&arena, SYL_TEST_DATA "/tokenizer_spm.json", 1 << 20, r.diag, &source) != SYL_OK ||
        syl_json_parse(&source, r.diag, &golden) != SYL_OK)
        return -1;
    return make_folder(state);
}

static int teardown(void **state) {
    syl_json_free(&golden);
    syl_diag_destroy(r.diag);
    syl_arena_free(&arena);
    return delete_folder(state);
}

static syl_tokenizer *load(const char *path) {
    char *text = NULL;
    syl_tokenizer *t = NULL;
    expect_ok(&r, syl_tokenizer_load(path, &arena, r.diag, &text));
    syl_source json = {"tokenizer", text, strlen(text)};
    expect_ok(&r, syl_tokenizer_create(&json, r.diag, &t));
    return t;
}

/* A directory with a tokenizer.json in a spelling, and tokenizer_config.json with a chat template (or none). */
static const char *write_file(const char *spelling, const char *template, const char *find, const char *put) {
    static int n;
    const char *folder = syl_arena_printf(&arena, "spm%d", n++);
    assert_int_equal(mkdir(in_folder(&arena, folder), 0700), 0);
    cJSON *file = cJSON_Duplicate(cJSON_GetObjectItem(item("files"), spelling), true),
          *model = cJSON_Duplicate(item("model"), true), *vocab = cJSON_GetObjectItem(model, "vocab"),
          *config = cJSON_CreateObject();
    const cJSON *piece;
    int id = 0;
    cJSON_ArrayForEach(piece, item("pieces"))
        cJSON_AddNumberToObject(vocab, cJSON_GetArrayItem(piece, 0)->valuestring, id++);
    cJSON_AddItemToObject(file, "model", model);
    cJSON_AddStringToObject(config, "eos_token", "</s>");
    if (template) cJSON_AddStringToObject(config, "chat_template", template);
    char *printed = cJSON_PrintUnformatted(file), *config_text = cJSON_PrintUnformatted(config);
    const char *text = printed, *at = find ? strstr(printed, find) : NULL;
    if (find) {
        assert_non_null(at);
        text = syl_arena_printf(&arena, "%.*s%s%s", (int)(at - printed), printed, put, at + strlen(find));
    }
    const char *path =
        save(&arena, syl_arena_printf(&arena, "%s/tokenizer.json", folder), text, strlen(text));
    save(&arena, syl_arena_printf(&arena, "%s/tokenizer_config.json", folder), config_text,
         strlen(config_text));
    cJSON_free(printed);
    cJSON_free(config_text);
    cJSON_Delete(file);
    cJSON_Delete(config);
    return path;
}

static syl_tokenizer *load_file(const char *spelling, const char *template) {
    return load(write_file(spelling, template, NULL, NULL));
}

/* How a GGUF differs from what it should be. */
typedef struct change {
    const char *flag;    /* one more key, true */
    const char *text;    /* one more key, a text */
    const char *without; /* an array that is not there */
    int token;           /* this one has another text, type or score, whichever is set */
    const char *token_text;
    int type;
    bool nan_score, short_scores;
} change;

/* Begins an array of the vocabulary's size, less a few; false: it is to be left out. */
static bool begin_array(bytes *b, const change *c, const char *name, syl_gguf_kind element, int less) {
    if (c->without && strcmp(c->without, name) == 0) return false;
    key(b, name, SYL_GGUF_ARRAY);
    put_int(b, element, 4);
    put_int(b, (uint64_t)(cJSON_GetArraySize(item("pieces")) - less), 8);
    return true;
}

static const char *write_gguf(const change *c) {
    static bytes b;
    const cJSON *pieces = item("pieces"), *piece;
    int n = cJSON_GetArraySize(pieces), id;
    begin(&b, 0, (uint64_t)(6 + (c->flag != NULL) + (c->text != NULL) - (c->without != NULL)));
    if (c->flag) key(&b, c->flag, SYL_GGUF_BOOL), put_int(&b, 1, 1);
    if (c->text) key_text(&b, c->text, "x");
    key_text(&b, "tokenizer.ggml.model", "llama");
    key_u32(&b, "tokenizer.ggml.bos_token_id", 1);
    key_u32(&b, "tokenizer.ggml.eos_token_id", 2);
    begin_array(&b, c, "tokenizer.ggml.tokens", SYL_GGUF_STRING, 0);
    id = 0;
    cJSON_ArrayForEach(piece, pieces) {
        bool other = c->token_text && id++ == c->token;
        put_text(&b, other ? c->token_text : cJSON_GetArrayItem(piece, 0)->valuestring);
    }
    bool scores = begin_array(&b, c, "tokenizer.ggml.scores", SYL_GGUF_F32, c->short_scores);
    for (id = 0; scores && id < n - c->short_scores; id++) {
        piece = cJSON_GetArrayItem(pieces, id);
        put_f32(&b, c->nan_score && id == c->token ? NAN : (float)cJSON_GetArrayItem(piece, 1)->valuedouble);
    }
    bool types = begin_array(&b, c, "tokenizer.ggml.token_type", SYL_GGUF_I32, 0);
    for (id = 0; types && id < n; id++) {
        piece = cJSON_GetArrayItem(pieces, id);
        put_int(&b, (uint64_t)(c->type && id == c->token ? c->type : cJSON_GetArrayItem(piece, 2)->valueint),
                4);
    }
    pad(&b, 32);
    return save(&arena, "spm.gguf", b.p, b.n);
}

static void expect_ids(const syl_token_list *list, const cJSON *ids, const char *what, const char *text) {
    const cJSON *id;
    size_t i = 0;
    cJSON_ArrayForEach(id, ids) {
        if (i >= list->n || list->p[i] != id->valueint)
            fail_msg("%s: '%s' has the token %d at %zu, expected %d", what, text,
                     i < list->n ? list->p[i] : -1, i, id->valueint);
        i++;
    }
    if (i != list->n) fail_msg("%s: '%s' has %zu tokens, expected %zu", what, text, list->n, i);
}

/* The text of the ids, one pushed at a time: what is there never changes again. */
static const char *decoded(const syl_tokenizer *t, const syl_token_list *ids) {
    syl_decoder d = {0};
    syl_text out = {.arena = &arena};
    syl_text_append(&out, "", 0);
    for (size_t i = 0; i < ids->n; i++) syl_decoder_push(&d, t, ids->p[i], &out);
    syl_decoder_finish(&d, &out);
    return out.p;
}

/* A text comes back but for U+2581, which is a space, and for a space in front of one where the tokenizer puts only a
 * missing one there. */
static const char *expected_back(const char *spelling, const char *text) {
    syl_text out = {.arena = &arena};
    syl_text_append(&out, "", 0);
    bool missing = strcmp(spelling, "first") == 0 || strcmp(spelling, "always") == 0, begins = true;
    for (const char *p = text; *p; p++) {
        bool mark = strncmp(p, "\xe2\x96\x81", 3) == 0, user = strncmp(p, "<cab>", 5) == 0;
        bool drop = missing && begins && (mark || *p == ' ');
        if (!drop) syl_text_append(&out, mark ? " " : p, 1);
        begins = false;
        if (mark) p += 2;
        if (user) {
            syl_text_append(&out, p + 1, 4);
            p += 4;
            begins = strcmp(spelling, "always") == 0;
        }
    }
    return out.p;
}

static void check_texts(const syl_tokenizer *t, const char *what, const char *column, bool back) {
    const cJSON *row;
    int n = 0;
    cJSON_ArrayForEach(row, item("texts")) {
        const char *text = cJSON_GetObjectItem(row, "text")->valuestring;
        const cJSON *ids = cJSON_GetObjectItemCaseSensitive(row, column);
        syl_token_list list = {.arena = &arena};
        if (cJSON_IsNull(ids)) continue;
        expect_ok(&r, syl_tokenizer_encode(t, text, strlen(text), SYL_ENCODE_PLAIN, r.diag, &list));
        expect_ids(&list, ids, what, text);
        assert_int_equal(list.dropped, 0);
        if (back) assert_string_equal(decoded(t, &list), expected_back(column, text));
        n++;
    }
    assert_true(n > 60);
}

static void test_spellings(void **state) {
    (void)state;
    static const char *const spellings[] = {"prepend", "replace", "first", "always", "never"};
    for (size_t i = 0; i < sizeof spellings / sizeof *spellings; i++) {
        syl_tokenizer *t = load_file(spellings[i], NULL);
        check_texts(t, spellings[i], spellings[i], true);
        syl_token_list list = {.arena = &arena};
        expect_ok(&r, syl_tokenizer_encode(t, "the", 3, SYL_ENCODE_BOS, r.diag, &list));
        assert_int_equal(list.p[0], 1);
        assert_true(syl_tokenizer_is_control(t, 0) && syl_tokenizer_is_control(t, 2) &&
                    syl_tokenizer_is_end(t, 2));
        syl_tokenizer_destroy(t);
    }
}

static void test_scores(void **state) {
    (void)state;
    syl_tokenizer *t = load(write_gguf(&(change){0}));
    check_texts(t, "gguf", "spm", true);
    check_texts(t, "gguf", "prepend", true);
    syl_token_list list = {.arena = &arena};
    expect_ok(&r, syl_tokenizer_encode(t, "the", 3, SYL_ENCODE_BOS, r.diag, &list));
    assert_int_equal(list.p[0], 1); /* the default of this model */
    syl_tokenizer_destroy(t);
}

static void test_chats(void **state) {
    (void)state;
    const cJSON *row, *entry;
    cJSON_ArrayForEach(row, item("chats")) {
        const char *format = cJSON_GetObjectItem(row, "format")->valuestring,
                   *file = cJSON_GetObjectItem(row, "file")->valuestring;
        recorder_renew(&r);
        syl_tokenizer *t = load_file(file, cJSON_GetObjectItem(item("templates"), format)->valuestring);
        assert_non_null(syl_chat_format_name(t));
        assert_string_equal(syl_chat_format_name(t), format);
        syl_chat_message messages[8];
        size_t n = 0;
        cJSON_ArrayForEach(entry, cJSON_GetObjectItem(row, "messages")) {
            const char *content = cJSON_GetArrayItem(entry, 1)->valuestring;
            messages[n++] =
                (syl_chat_message){cJSON_GetArrayItem(entry, 0)->valuestring, content, strlen(content)};
        }
        syl_token_list list = {.arena = &arena};
        expect_ok(&r, syl_chat_encode(t, messages, n, true, r.diag, &list));
        expect_ids(&list, cJSON_GetObjectItem(row, "ids"), format, messages[n - 1].content);
        /* With the answer to come missing, the last user twice, or (where there are none) a system message. */
        list.n = 0;
        if (n > 1)
            expect_error(&r, syl_chat_encode(t, messages, n - 1, true, r.diag, &list), "chat-role", format);
        syl_chat_message odd[] = {messages[n - 1], messages[n - 1], {"system", "x", 1}};
        expect_error(&r, syl_chat_encode(t, odd, 2, true, r.diag, &list), "chat-role", format);
        expect_error(&r, syl_chat_encode(t, odd + 2, 1, false, r.diag, &list), "chat-role", format);
        assert_int_equal(list.n, 0);
        syl_tokenizer_destroy(t);
    }
}

/* Templates that differ in what counts are of no known format. */
static void test_other_templates(void **state) {
    (void)state;
    static const struct {
        const char *format, *find, *put;
    } cases[] = {
        {"llama2", "' [/INST]'", "'[/INST]'"},
        {"llama2", "content.strip()", "content"},
        {"llama2", "{%- else %}{% set loop_messages = messages %}",
         "{% elif not '<<SYS>>' in messages[0]['content'] %}{% set system_message = 'Be nice.' %}{%- else "
         "%}{% set "
         "loop_messages = messages %}"},
        {"llama2", "\\n<</SYS>>", "\n\n<</SYS>>"},
        {"mistral-v0.2", "+ eos_token", "+ eos_token + '\\n'"},
        {"mistral-v0.2", "{{ bos_token }}", ""},
        {"mistral-v1", "loop.first", "loop.last"},
        {"mistral-v1", "\" [INST] \" + message", "\"[INST] \" + message"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *template = cJSON_GetObjectItem(item("templates"), cases[i].format)->valuestring,
                   *at = strstr(template, cases[i].find);
        assert_non_null(at);
        syl_tokenizer *t =
            load_file("prepend", syl_arena_printf(&arena, "%.*s%s%s", (int)(at - template), template,
                                                  cases[i].put, at + strlen(cases[i].find)));
        if (syl_chat_format_name(t)) fail_msg("case %zu: %s", i, syl_chat_format_name(t));
        syl_tokenizer_destroy(t);
    }
    /* The marks of v3 are control tokens, which this spelling lacks. */
    syl_tokenizer *t =
        load_file("prepend", cJSON_GetObjectItem(item("templates"), "mistral-v3")->valuestring);
    assert_null(syl_chat_format_name(t));
    syl_tokenizer_destroy(t);
}

static void expect_refused(const char *path, const char *error, const char *named, const char *what) {
    char *text = NULL;
    recorder_renew(&r);
    expect_error(&r, syl_tokenizer_load(path, &arena, r.diag, &text), error, what);
    if (!strstr(r.text, named)) fail_msg("%s: no '%s' in '%s'", what, named, r.text);
    assert_null(text);
}

static void test_refused_files(void **state) {
    (void)state;
    static const struct {
        const char *spelling, *find, *put, *error, *named;
    } cases[] = {
        {"prepend", "\"type\":\"Prepend\"", "\"type\":\"NFKC\"", "tokenizer-type", "normalizer \"NFKC\""},
        {"prepend", "\"prepend\":\"", "\"prepend\":\"_", "tokenizer-type", "Prepend"},
        {"prepend", "{\"String\":\" \"}", "{\"String\":\"_\"}", "tokenizer-type", "Replace"},
        {"prepend", "\"pre_tokenizer\":null", "\"pre_tokenizer\":{\"type\":\"Metaspace\"}", "tokenizer-type",
         "Metaspace"},
        {"replace", "\"normalizer\":{", "\"normalizer\":null,\"n\":{", "tokenizer-type",
         "nothing replaces spaces"},
        {"replace", "{\"type\":\"Fuse\"}", "{\"type\":\"Fuse\"},{\"type\":\"Strip\"}", "tokenizer-type",
         "Strip"},
        {"first", "\"replacement\":\"", "\"replacement\":\"_", "tokenizer-type", "Metaspace"},
        {"first", "\"first\"", "\"last\"", "tokenizer-type", "last"},
        {"first", "\"type\":\"Metaspace\"", "\"type\":\"Digits\"", "tokenizer-type", "Digits"},
        {"always", "\"decoder\":{", "\"decoder\":null,\"d\":{", "tokenizer-type", "without a decoder"},
        {"always", "\"ByteFallback\"", "\"ByteLevel\"", "tokenizer-type", "ByteLevel"},
        {"always", ",{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}", "", "tokenizer-type",
         "Strip"},
        {"always", "\"start\":1", "\"start\":2", "tokenizer-type", "Strip"},
        {"always", "\"ignore_merges\":false", "\"ignore_merges\":true", "tokenizer-type", "ignore_merges"},
        {"never", "\"<0x0A>\":", "\"<0x0a>\":", "tokenizer-data", "<0x0A>"},
        {"never", "\"\xe2\x96\x81\":", "\"~~~\":", "tokenizer-data", "\xe2\x96\x81"},
        {"never", "\"merges\":[", "\"merges\":[[\"<\",\"s>\"],", "tokenizer-data", "merge 0"},
        {"prepend", "\"normalized\":false,\"special\":false", "\"normalized\":true,\"special\":false",
         "tokenizer-type", "<cab>"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_refused(write_file(cases[i].spelling, NULL, cases[i].find, cases[i].put), cases[i].error,
                       cases[i].named, syl_arena_printf(&arena, "case %zu", i));
}

static void test_refused_scores(void **state) {
    (void)state;
    const cJSON *piece;
    int space = 0, byte = 0, at = 0; /* their ids */
    cJSON_ArrayForEach(piece, item("pieces")) {
        const char *text = cJSON_GetArrayItem(piece, 0)->valuestring;
        if (strcmp(text, "\xe2\x96\x81") == 0) space = at;
        if (strcmp(text, "<0x41>") == 0) byte = at;
        at++;
    }
    const struct {
        change change;
        const char *error, *named;
    } cases[] = {
        {{.without = "tokenizer.ggml.scores"}, "gguf-missing-key", "scores"},
        {{.without = "tokenizer.ggml.token_type"}, "gguf-missing-key", "token_type"},
        {{.short_scores = true}, "tokenizer-data", "elements"},
        {{.token = 7, .nan_score = true}, "tokenizer-data", "the score of token 7"},
        {{.flag = "tokenizer.ggml.add_eos_token"}, "tokenizer-type", "add_eos_token"},
        {{.flag = "tokenizer.ggml.remove_extra_whitespaces"}, "tokenizer-type", "remove_extra_whitespaces"},
        {{.text = "tokenizer.ggml.precompiled_charsmap"}, "tokenizer-type", "precompiled_charsmap"},
        {{.token = byte, .type = 1}, "tokenizer-data", "<0x41>"},
        {{.token = space, .type = 6}, "tokenizer-data", "has the type 6"},
        {{.token = space, .token_text = "~~~"}, "tokenizer-data", "the space"},
        {{.token = byte, .type = 3}, "tokenizer-data", "<0x41>"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_refused(write_gguf(&cases[i].change), cases[i].error, cases[i].named,
                       syl_arena_printf(&arena, "case %zu", i));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spellings),     cmocka_unit_test(test_scores),
        cmocka_unit_test(test_chats),         cmocka_unit_test(test_other_templates),
        cmocka_unit_test(test_refused_files), cmocka_unit_test(test_refused_scores),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
