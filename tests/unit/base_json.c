/* The strict JSON layer: what it refuses, where it points, what it reads and writes. */
#include <cjson/cJSON.h>
#include <math.h>
#include "base/json.h"
#include "base_testing.h"

#define DEPTH_64       "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["
#define DEPTH_64_CLOSE "]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]"

static const struct {
    const char *text, *error;
    size_t offset;
} malformed[] = {
    {"", "json-syntax", 0},
    {"   ", "json-syntax", 3},
    {"\xef\xbb\xbf{}", "json-syntax", 0},
    {"{\"a\":1} x", "json-syntax", 8},
    {"[1,]", "json-syntax", 3},
    {"[1 2]", "json-syntax", 3},
    {"{\"a\":1,}", "json-syntax", 7},
    {"{\"a\" 1}", "json-syntax", 5},
    {"{a:1}", "json-syntax", 1},
    {"{'a':1}", "json-syntax", 1},
    {"{1:2}", "json-syntax", 1},
    {"[1", "json-syntax", 2},
    {"{", "json-syntax", 1},
    {"{\"a\":", "json-syntax", 5},
    {"]", "json-syntax", 0},
    {"[1]]", "json-syntax", 3},
    {"\"abc", "json-syntax", 0},
    {"\"a\\", "json-syntax", 3},
    {"\"a\nb\"", "json-syntax", 2},
    {"\"a\\x\"", "json-syntax", 3},
    {"\"\\u12g4\"", "json-syntax", 1},
    {"\"\\u0000\"", "json-syntax", 1},
    {"tru", "json-syntax", 0},
    {"True", "json-syntax", 0},
    {"nul1", "json-syntax", 0},
    {"NaN", "json-syntax", 0},
    {"-Infinity", "json-number", 1},
    {"+1", "json-syntax", 0},
    {".5", "json-syntax", 0},
    {"[1] // c", "json-syntax", 4},
    {"[\f1]", "json-syntax", 1},
    {"01", "json-number", 0},
    {"-01", "json-number", 1},
    {"[1.]", "json-number", 3},
    {"1e", "json-number", 2},
    {"[1e+]", "json-number", 4},
    {"-", "json-number", 1},
    {"1e999", "json-number", 0},
    {"[0, -1e999]", "json-number", 4},
    {"9007199254740992", "json-number", 0},
    {"[-9007199254740993]", "json-number", 1},
    {"[1111111111222222222233333333334444444444.55555555556666666666e100]", "json-number", 1},
    {"\"\x80\"", "json-utf8", 1},
    {"\"\xc0\xaf\"", "json-utf8", 1},
    {"\"a\xe0\x9f\xbf\"", "json-utf8", 2},
    {"\"\xed\xa0\x80\"", "json-utf8", 1},
    {"\"\xf4\x90\x80\x80\"", "json-utf8", 1},
    {"\"\xf5\x80\x80\x80\"", "json-utf8", 1},
    {"\"\xe2\x82\"", "json-utf8", 1},
    {"\"\xe2\x82", "json-utf8", 1},
    {"\"\\ud800\"", "json-utf8", 1},
    {"\"\\udc00\"", "json-utf8", 1},
    {"\"\\ud83d\\u0041\"", "json-utf8", 1},
    {"{\"a\":1,\"b\":2,\"a\":3}", "json-duplicate-key", 13},
    {"[{\"x\":{\"a\":1,\"\\u0061\":2}}]", "json-duplicate-key", 13},
    {"[" DEPTH_64 DEPTH_64_CLOSE "]", "json-depth", 64},
};

static void test_malformed(void **state) {
    (void)state;
    recorder r;
    recorder_init(&r);
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++) {
        /* A copy of the exact size, so that a sanitizer sees a read beyond the end. */
        recorder_renew(&r);
        size_t size = strlen(malformed[i].text);
        char *text = malloc(size ? size : 1);
        memcpy(text, malformed[i].text, size);
        syl_source source = {"case.json", text, size};
        syl_json json;
        syl_status status = syl_json_parse(&source, r.diag, &json);
        expect_error(&r, status, malformed[i].error, malformed[i].text);
        if (r.offset != malformed[i].offset)
            fail_msg("%s: at %zu, expected %zu", malformed[i].text, r.offset, malformed[i].offset);
        assert_null(json.root);
        syl_json_free(&json);
        free(text);
    }
    syl_diag_destroy(r.diag);
}

static syl_status parse(const char *text, syl_source *source, recorder *r, syl_json *json) {
    *source = (syl_source){"text.json", text, strlen(text)};
    return syl_json_parse(source, r->diag, json);
}

static void test_accepts(void **state) {
    (void)state;
    static const char *const texts[] = {
        "null",
        " \t\r\n[ ] ",
        "{}",
        "[0,-0,0.5,1e5,1E-5,-1.25e+3,9007199254740991,-9007199254740991,1e300,1e-999]",
        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\ud83d\\ude00\"",
        "\"\x7f\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xf4\x8f\xbf\xbf\"",
        "{\"a\":{\"a\":1},\"A\":2,\"\":3}",
        DEPTH_64 DEPTH_64_CLOSE,
        "[true,false,null,\"x\",[],{}]",
    };
    recorder r;
    recorder_init(&r);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        syl_source source;
        syl_json json;
        expect_ok(&r, parse(texts[i], &source, &r, &json));
        assert_non_null(json.root);
        syl_json_free(&json);
    }
    syl_diag_destroy(r.diag);
}

static void test_caps(void **state) {
    (void)state;
    recorder r;
    recorder_init(&r);
    syl_json json;
    syl_source huge = {"huge.json", "x", ((size_t)64 << 20) + 1}; /* refused before a byte is read */
    expect_error(&r, syl_json_parse(&huge, r.diag, &json), "json-too-large", "size");

    const size_t n = 4000000, size = 2 * n + 1;
    char *text = malloc(size);
    for (size_t i = 0; i < n; i++) memcpy(text + 1 + 2 * i, "0,", 2);
    text[0] = '[';
    text[size - 1] = ']';
    text[size - 2] = '0';
    text[size - 3] = ',';
    syl_source many = {"many.json", text, size}; /* n values and the array around them */
    expect_error(&r, syl_json_parse(&many, r.diag, &json), "json-too-large", "nodes");
    free(text);
    syl_diag_destroy(r.diag);
}

static void test_locations(void **state) {
    (void)state;
    recorder r;
    recorder_init(&r);
    syl_source source;
    syl_json json;
    const char *text = "{\n  \"name\": \"x\",\n  \"list\": [1, {\"deep\": true}]\n}\n";
    expect_ok(&r, parse(text, &source, &r, &json));
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(json.root, "list");
    assert_int_equal(syl_json_loc(&json, json.root).offset, 0);
    assert_int_equal(syl_json_loc(&json, list).offset, strchr(text, '[') - text);
    const cJSON *deep = cJSON_GetArrayItem(list, 1)->child;
    assert_int_equal(syl_json_loc(&json, deep).offset, strstr(text, "true") - text);
    size_t line, column;
    syl_loc_line(syl_json_loc(&json, deep), &line, &column);
    assert_int_equal(line, 3);
    assert_int_equal(column, 24);
    syl_json_free(&json);
    syl_diag_destroy(r.diag);
}

static void test_members(void **state) {
    (void)state;
    recorder r;
    recorder_init(&r);
    syl_source source;
    syl_json json;
    expect_ok(&r, parse("{\"i\":42,\"big\":3000000000,\"f\":1.5,\"s\":\"text\",\"o\":{\"k\":1},\"a\":[],"
                        "\"n\":null,\"e\":1e300}",
                        &source, &r, &json));
    const cJSON *root = json.root, *node;
    int64_t i;
    double d;
    const char *s;
    expect_ok(&r, syl_json_int(&json, root, "i", 0, 42, r.diag, &i));
    assert_int_equal(i, 42);
    expect_ok(&r, syl_json_int(&json, root, "big", 0, INT64_MAX, r.diag, &i));
    assert_int_equal(i, 3000000000);
    expect_ok(&r, syl_json_number(&json, root, "f", r.diag, &d));
    assert_true(d == 1.5);
    expect_ok(&r, syl_json_string(&json, root, "s", r.diag, &s));
    assert_string_equal(s, "text");
    expect_ok(&r, syl_json_object(&json, root, "o", true, r.diag, &node));
    assert_non_null(node);
    expect_ok(&r, syl_json_array(&json, root, "a", true, r.diag, &node));
    expect_ok(&r, syl_json_array(&json, root, "none", false, r.diag, &node));
    assert_null(node);

    expect_error(&r, syl_json_int(&json, root, "i", 0, 41, r.diag, &i), "json-range", "above");
    assert_int_equal(r.offset, 5);
    expect_error(&r, syl_json_int(&json, root, "i", 43, 50, r.diag, &i), "json-range", "below");
    expect_error(&r, syl_json_int(&json, root, "f", 0, 5, r.diag, &i), "json-type", "fraction");
    expect_error(&r, syl_json_int(&json, root, "e", 0, INT64_MAX, r.diag, &i), "json-type", "1e300");
    expect_error(&r, syl_json_int(&json, root, "s", 0, 5, r.diag, &i), "json-type", "string as int");
    expect_error(&r, syl_json_int(&json, root, "I", 0, 5, r.diag, &i), "json-missing", "case matters");
    expect_error(&r, syl_json_number(&json, root, "n", r.diag, &d), "json-type", "null as number");
    expect_error(&r, syl_json_string(&json, root, "i", r.diag, &s), "json-type", "number as string");
    expect_error(&r, syl_json_string(&json, root, "none", r.diag, &s), "json-missing", "missing string");
    expect_error(&r, syl_json_object(&json, root, "a", true, r.diag, &node), "json-type", "array as object");
    expect_error(&r, syl_json_object(&json, root, "none", true, r.diag, &node), "json-missing",
                 "missing object");
    expect_error(&r, syl_json_array(&json, root, "n", false, r.diag, &node), "json-type", "null as array");
    expect_error(&r, syl_json_string(&json, cJSON_GetObjectItemCaseSensitive(root, "a"), "x", r.diag, &s),
                 "json-type", "member of array");

    static const char *const keys[] = {"i", "big", "f", "s", "o", "a", "n", NULL};
    static const char *const all[] = {"i", "big", "f", "s", "o", "a", "n", "e", NULL};
    expect_ok(&r, syl_json_known_keys(&json, root, all, r.diag));
    expect_error(&r, syl_json_known_keys(&json, root, keys, r.diag), "json-unknown-key", "e");
    assert_int_equal(r.offset, strstr(source.text, "\"e\"") - source.text);
    syl_json_free(&json);
    syl_diag_destroy(r.diag);
}

static void test_quote(void **state) {
    (void)state;
    recorder r;
    recorder_init(&r);
    syl_arena arena;
    syl_arena_init(&arena);
    char every[256 + 8];
    int n = 0;
    for (int c = 1; c < 128; c++) every[n++] = (char)c;
    strcpy(every + n, "\xc3\xa9\xf0\x9f\x98\x80");
    syl_text text = {.arena = &arena};
    syl_json_quote(&text, every);
    syl_source source;
    syl_json json;
    expect_ok(&r, parse(text.p, &source, &r, &json));
    assert_string_equal(cJSON_GetStringValue(json.root), every);
    syl_json_free(&json);

    text.n = 0;
    syl_json_quote(&text, "a\"b\\c\n\x01");
    assert_string_equal(text.p, "\"a\\\"b\\\\c\\n\\u0001\"");
    syl_arena_free(&arena);
    syl_diag_destroy(r.diag);
}

static void test_print_number(void **state) {
    (void)state;
    static const struct {
        double value;
        const char *text;
    } cases[] = {{0, "0"},
                 {-0.0, "-0"},
                 {100, "100"},
                 {-7, "-7"},
                 {0.1, "0.1"},
                 {1e300, "1e+300"},
                 {1.5, "1.5"},
                 {23.9515, "23.9515"},
                 {5e-324, "5e-324"},
                 {9007199254740991, "9007199254740991"},
                 {1.0 / 3, "0.3333333333333333"},
                 {(double)NAN, "null"},
                 {(double)INFINITY, "null"}};
    syl_arena arena;
    syl_arena_init(&arena);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        syl_text text = {.arena = &arena};
        syl_json_print_number(&text, cases[i].value);
        assert_string_equal(text.p, cases[i].text);
    }
    uint64_t bits = 12345;
    for (int i = 0; i < 10000; i++) {
        bits = bits * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        double value;
        memcpy(&value, &bits, sizeof value);
        if (!isfinite(value)) continue;
        syl_text text = {.arena = &arena};
        syl_json_print_number(&text, value);
        assert_true(strtod(text.p, NULL) == value);
    }
    syl_arena_free(&arena);
}

static void test_nearest(void **state) {
    (void)state;
    static const char *const words[] = {"hidden_size", "head_dim", "rope", NULL};
    assert_string_equal(syl_nearest("hiden_size", words), "hidden_size");
    assert_string_equal(syl_nearest("head_dims", words), "head_dim");
    assert_string_equal(syl_nearest("rpoe1", (const char *const[]){"rope1", "pope", NULL}) ? "some" : "none",
                        "none");
    assert_string_equal(syl_nearest("ropes", words), "rope");
    assert_null(syl_nearest("vocabulary", words));
    assert_null(syl_nearest("xy", words));
    assert_null(syl_nearest("", words));
    char long_word[200];
    memset(long_word, 'a', sizeof long_word);
    long_word[199] = 0;
    assert_null(syl_nearest(long_word, words));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_malformed),    cmocka_unit_test(test_accepts), cmocka_unit_test(test_caps),
        cmocka_unit_test(test_locations),    cmocka_unit_test(test_members), cmocka_unit_test(test_quote),
        cmocka_unit_test(test_print_number), cmocka_unit_test(test_nearest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
