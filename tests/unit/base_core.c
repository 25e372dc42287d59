/* Arena, text, map, sizes, diagnostics, hashes. */
#include <stdalign.h>
#include "base/hash.h"
#include "base/map.h"
#include "base/size.h"
#include "base_testing.h"

static void test_arena(void **state) {
    (void)state;
    syl_arena arena;
    syl_arena_init(&arena);
    unsigned char *blocks[200];
    for (size_t i = 0; i < 200; i++) {
        size_t size = i * i * 17 % 100000; /* some beyond a block */
        blocks[i] = syl_arena_alloc(&arena, size);
        assert_int_equal((uintptr_t)blocks[i] % alignof(max_align_t), 0);
        for (size_t k = 0; k < size; k++) assert_int_equal(blocks[i][k], 0);
        memset(blocks[i], (int)i, size);
    }
    for (size_t i = 0; i < 200; i++)
        for (size_t k = 0; k < i * i * 17 % 100000; k++) assert_int_equal(blocks[i][k], i);
    assert_ptr_not_equal(syl_arena_alloc(&arena, 0), syl_arena_alloc(&arena, 0));
    assert_string_equal(syl_arena_strndup(&arena, "abcdef", 3), "abc");
    assert_string_equal(syl_arena_printf(&arena, "%d-%s", 7, "x"), "7-x");
    assert_true(arena.used > 0);
    syl_arena_free(&arena);
    assert_int_equal(arena.used, 0);

    SYL_VEC(int) numbers = {0};
    for (int i = 0; i < 1000; i++) SYL_PUSH(&arena, &numbers, i);
    for (int i = 0; i < 1000; i++) assert_int_equal(numbers.p[i], i);

    syl_text text = {.arena = &arena};
    for (int i = 0; i < 300; i++) syl_text_printf(&text, "%d,", i);
    syl_text_printf(&text, "%0600d", 1); /* longer than the buffer on the stack */
    assert_int_equal(text.n, 10 * 2 + 90 * 3 + 200 * 4 + 600);
    assert_int_equal(strlen(text.p), text.n);
    assert_memory_equal(text.p, "0,1,2,", 6);
    syl_arena_free(&arena);
}

static void test_map(void **state) {
    (void)state;
    syl_arena arena;
    syl_arena_init(&arena);
    syl_map map;
    syl_map_init(&map, &arena);
    assert_null(syl_map_get_str(&map, "absent"));
    enum { n = 5000 };
    for (size_t round = 0; round < 2; round++)
        for (size_t i = 0; i < n; i++) {
            char key[32];
            int fresh = -1, size = snprintf(key, sizeof key, "key %zu", i * 7919 % n);
            void **slot = syl_map_slot(&map, key, (size_t)size, &fresh);
            assert_int_equal(fresh, round == 0);
            if (fresh)
                *slot = (void *)(uintptr_t)(i + 1);
            else
                assert_int_equal((uintptr_t)*slot, i + 1);
        }
    assert_int_equal(map.entries.n, n);
    assert_string_equal(map.entries.p[1].key, "key 2919"); /* in order of insertion */
    assert_null(syl_map_get_str(&map, "key 5000"));
    assert_non_null(syl_map_get_str(&map, "key 4999"));
    *syl_map_slot(&map, "a\0b", 3, NULL) = &map;
    assert_null(syl_map_get(&map, "a\0c", 3));
    assert_null(syl_map_get_str(&map, "a"));
    assert_ptr_equal(syl_map_get(&map, "a\0b", 3), &map);
    syl_arena_free(&arena);
}

static void test_sizes(void **state) {
    (void)state;
    size_t out = 77;
    assert_true(syl_size_mul(SIZE_MAX / 2, 2, &out));
    assert_false(syl_size_mul(SIZE_MAX / 2 + 1, 2, &out));
    assert_true(syl_size_add(SIZE_MAX - 1, 1, &out));
    assert_false(syl_size_add(SIZE_MAX, 1, &out));
    assert_true(syl_size_align(65, 64, &out));
    assert_int_equal(out, 128);
    assert_false(syl_size_align(SIZE_MAX - 3, 64, &out));
    assert_int_equal(syl_ceil_div(9, 4), 3);
    assert_int_equal(syl_ceil_div(8, 4), 2);
    void *p = syl_alloc_aligned(100);
    assert_non_null(p);
    assert_int_equal((uintptr_t)p % 64, 0);
    free(p);
    assert_null(syl_alloc_aligned(SIZE_MAX - 10));
    p = syl_alloc_aligned(0);
    assert_non_null(p);
    free(p);
}

static void test_diag(void **state) {
    (void)state;
    syl_arena arena;
    syl_arena_init(&arena);
    syl_text text = {.arena = &arena};
    syl_diag *diag = syl_diag_create(syl_diag_capture, &text);
    const char *code = "first\n  \"key\" 1\nlast";
    syl_source source = {"f.json", code, strlen(code)};
    syl_status status =
        syl_error(diag, SYL_ERR_json_syntax, (syl_loc){&source, 14}, "expected ':', found '%c'", '1');
    assert_int_equal(status, SYL_INPUT);
    assert_non_null(strstr(text.p, "f.json:2:9: error[json-syntax]: expected ':', found '1'\n"));
    assert_non_null(strstr(text.p, "      \"key\" 1\n            ^\n"));
    assert_non_null(strstr(text.p, "    help: "));

    text.n = 0;
    syl_source binary = {"w.bin", NULL, 100};
    syl_warning(diag, (syl_loc){&binary, 12}, "odd");
    assert_string_equal(text.p, "w.bin:+12: warning: odd\n");
    text.n = 0;
    syl_note(diag, SYL_NOWHERE, "because");
    assert_string_equal(text.p, "note: because\n");
    assert_int_equal(syl_diag_errors(diag), 1);

    text.n = 0;
    text.p[0] = 0;
    for (int i = 0; i < 30; i++)
        assert_int_equal(syl_error(diag, SYL_ERR_file_open, SYL_NOWHERE, "x"), SYL_IO);
    assert_int_equal(syl_diag_errors(diag), 31);
    size_t shown = 0;
    for (const char *p = text.p; (p = strstr(p, "error[file-open]")); p++) shown++;
    assert_int_equal(shown, 19); /* 20 with the first */
    syl_diag_destroy(diag);
    syl_arena_free(&arena);

    for (int id = 0; id < SYL_ERR_COUNT; id++) { /* names are words joined by '-', unique, and have help */
        const char *name = syl_error_name((syl_error_id)id);
        assert_int_equal(strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-"), strlen(name));
        assert_true(strlen(syl_error_help((syl_error_id)id)) > 10);
        assert_int_not_equal(syl_error_status((syl_error_id)id), SYL_OK);
        for (int other = 0; other < id; other++)
            assert_string_not_equal(name, syl_error_name((syl_error_id)other));
    }
    assert_string_equal(syl_status_name(SYL_UNSUPPORTED), "UNSUPPORTED");
}

static syl_hash hash_fields(const char *a, const char *b) {
    syl_hasher *hasher = syl_hasher_create();
    assert_non_null(hasher);
    syl_hasher_text(hasher, a);
    syl_hasher_text(hasher, b);
    return syl_hasher_finish(hasher);
}

static void test_hash(void **state) {
    (void)state;
    assert_string_equal(syl_hash_bytes("", 0).hex,
                        "99aa06d3014798d86001c324468d497f"); /* XXH3's published value */
    assert_string_equal(hash_fields("ab", "c").hex, hash_fields("ab", "c").hex);
    assert_string_not_equal(hash_fields("ab", "c").hex, hash_fields("a", "bc").hex);
    assert_string_not_equal(hash_fields("", "x").hex, hash_fields("x", "").hex);
    assert_int_equal(strlen(hash_fields("", "").hex), 32);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arena), cmocka_unit_test(test_map),  cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_diag),  cmocka_unit_test(test_hash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
