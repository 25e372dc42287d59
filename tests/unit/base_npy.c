/* .npy files: what is written reads back; what NumPy would write otherwise, or is damaged, is refused by name. */
#include "base/npy.h"
#include "base_testing.h"

static void test_round_trip(void **state) {
    (void)state;
    recorder r;
    recorder_init(&r);
    syl_arena arena;
    syl_arena_init(&arena);
    const char *path = in_folder(&arena, "x.npy");
    float values[24];
    for (int i = 0; i < 24; i++) values[i] = (float)i / 3;
    int32_t indices[] = {3, -1, 7};
    syl_npy floats = {.rank = 4, .dims = {2, 1, 3, 4}, .elements = 24, .data = values},
            ints = {.is_int = true, .rank = 1, .dims = {3}, .elements = 3, .data = indices}, got;
    expect_ok(&r, syl_npy_write(path, &floats, r.diag));
    expect_ok(&r, syl_npy_open(path, r.diag, &got));
    assert_false(got.is_int);
    assert_int_equal(got.rank, 4);
    assert_memory_equal(got.dims, floats.dims, sizeof got.dims);
    assert_memory_equal(got.data, values, sizeof values);
    syl_npy_close(&got);
    expect_ok(&r, syl_npy_write(path, &ints, r.diag));
    expect_ok(&r, syl_npy_open(path, r.diag, &got));
    assert_true(got.is_int);
    assert_int_equal(got.rank, 1);
    assert_memory_equal(got.data, indices, sizeof indices);
    assert_int_equal(got.mapping.size, 128 + sizeof indices);
    assert_memory_equal(got.mapping.data,
                        "\x93NUMPY\x01\x00\x76\x00{'descr': '<i4', 'fortran_order': False, 'shape': (3,), }",
                        64);
    syl_npy_close(&got);
    syl_arena_free(&arena);
    syl_diag_destroy(r.diag);
}

/* A file of version `major` with this header and `bytes` zeros behind it. */
static syl_status try(recorder *r, const char *path, int major, const char *header, size_t bytes,
                      syl_npy *out) {
    unsigned char file[512] = "\x93NUMPY";
    size_t n = strlen(header), start = major == 1 ? 10 : 12;
    file[6] = (unsigned char)major;
    file[8] = (unsigned char)n;
    memcpy(file + start, header, n);
    expect_ok(r, syl_file_write(path, file, start + n + bytes, r->diag));
    return syl_npy_open(path, r->diag, out);
}

#define SHAPE(s) "{'descr': '<f4', 'fortran_order': False, 'shape': " s ", }"

static void test_headers(void **state) {
    (void)state;
    static const struct {
        int major;
        const char *header;
        size_t bytes;
        const char *error; /* NULL: is read */
    } cases[] = {
        {1, SHAPE("(3,)") "  \n", 12, NULL},
        {2, SHAPE("(3,)") "\n", 12, NULL},
        {3, "{\"shape\": (1, 3), \"fortran_order\": False, \"descr\": \"<i4\"}      ", 12, NULL},
        {1, SHAPE("(3,)") "  \n", 11, "npy-shape"},
        {1, SHAPE("(3,)") "  \n", 16, "npy-shape"},
        {1, SHAPE("()") "    \n", 4, "npy-shape"},
        {1, SHAPE("(1, 1, 1, 1, 1)") "   \n", 4, "npy-shape"},
        {1, SHAPE("(4294967296, 4294967296)") "  \n", 0, "npy-shape"},
        {1, SHAPE("(99999999999999999999,)") "  \n", 0, "npy-format"},
        {1, SHAPE("(-3,)") " \n", 12, "npy-format"},
        {1, SHAPE("(3") " \n", 12, "npy-format"},
        {1, SHAPE("[3]") "   \n", 12, "npy-format"},
        {1, SHAPE("(3)") "   \n", 12, "npy-format"},
        {1, SHAPE("(3,)") " x\n", 12, "npy-format"},
        {1, "{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }  \n", 24, "npy-type"},
        {1, "{'descr': '>f4', 'fortran_order': False, 'shape': (3,), }  \n", 12, "npy-type"},
        {1, "{'descr': '<i8', 'fortran_order': False, 'shape': (3,), }  \n", 24, "npy-type"},
        {1, "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,), }\n", 12, "npy-format"},
        {1, "{'descr': '<f4', 'fortran_order': True, 'shape': (3, 1), }\n", 12, "npy-type"},
        {1, "{'descr': '<f4', 'fortran_order': 0, 'shape': (3,), }\n", 12, "npy-format"},
        {1, "{'descr': '<f4', 'shape': (3,), }\n", 12, "npy-format"},
        {1, "{'descr': '<f4', 'descr': '<f4', 'shape': (3,), }\n", 12, "npy-format"},
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), 'more': 1}\n", 12, "npy-format"},
        {1, "{'descr': '<f4' 'fortran_order': False, 'shape': (3,)}\n", 12, "npy-format"},
        {1, "", 12, "npy-format"},
        {4, SHAPE("(3,)") "\n", 12, "npy-format"},
        {0, SHAPE("(3,)") "\n", 12, "npy-format"},
    };
    recorder r;
    recorder_init(&r);
    syl_arena arena;
    syl_arena_init(&arena);
    const char *path = in_folder(&arena, "case.npy");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        syl_npy npy;
        char header[256];
        size_t n = strlen(cases[i].header), start = cases[i].major == 1 ? 10 : 12;
        snprintf(header, sizeof header, "%s", cases[i].header);
        while ((start + n) % 4) header[n++] = '\n';
        header[n] = 0;
        syl_status status = try(&r, path, cases[i].major, header, cases[i].bytes, &npy);
        if (cases[i].error) {
            expect_error(&r, status, cases[i].error, cases[i].header);
            assert_null(npy.data);
            recorder_renew(&r);
        } else {
            expect_ok(&r, status);
            assert_int_equal(npy.elements, 3);
            syl_npy_close(&npy);
        }
    }
    syl_arena_free(&arena);
    syl_diag_destroy(r.diag);
}

static void test_damage(void **state) {
    (void)state;
    recorder r;
    recorder_init(&r);
    syl_arena arena;
    syl_arena_init(&arena);
    const char *path = in_folder(&arena, "damage.npy");
    syl_npy npy;
    expect_error(&r, syl_npy_open(in_folder(&arena, "absent.npy"), r.diag, &npy), "file-open", "absent");
    expect_error(&r, try(&r, path, 1, SHAPE("(3,)") "  ", 12, &npy), "npy-format", "data at an odd place");
    recorder_renew(&r);
    static const unsigned char text[] = "\x93NUMPY\x01\x00\xff\x00{'descr': '<f4'";
    for (size_t n = 1; n < sizeof text; n++) { /* cut off anywhere */
        expect_ok(&r, syl_file_write(path, text, n, r.diag));
        expect_error(&r, syl_npy_open(path, r.diag, &npy), "npy-format", "cut off");
        recorder_renew(&r);
    }
    syl_arena_free(&arena);
    syl_diag_destroy(r.diag);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip), cmocka_unit_test(test_headers),
                                       cmocka_unit_test(test_damage)};
    return cmocka_run_group_tests(tests, make_folder, NULL);
}
