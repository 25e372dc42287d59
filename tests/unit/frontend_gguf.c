/* GGUF: what is read, what is refused, and the values of tensors. */
#include "frontend_gguf_file.h"
#include <math.h>
#include "base/safetensors.h"
#include "frontend/frontend.h"

static bytes b;

/* ---- metadata ---- */

static void test_metadata(void **state) {
    (void)state;
    static const char *const words[] = {"one", "two", "dr\xc3\xa9i"};
    begin(&b, 0, 15);
    key(&b, "u8", SYL_GGUF_U8), put_int(&b, 200, 1);
    key(&b, "i8", SYL_GGUF_I8), put_int(&b, 0xff, 1);
    key(&b, "u16", SYL_GGUF_U16), put_int(&b, 65535, 2);
    key(&b, "i16", SYL_GGUF_I16), put_int(&b, 0x8000, 2);
    key(&b, "u32", SYL_GGUF_U32), put_int(&b, 0xffffffff, 4);
    key(&b, "i32", SYL_GGUF_I32), put_int(&b, 0xffffffff, 4);
    key_f32(&b, "f32", 0.25f);
    key(&b, "bool", SYL_GGUF_BOOL), put_int(&b, 1, 1);
    key_text(&b, "string", "text");
    key_texts(&b, "strings", words, 3);
    key(&b, "u64", SYL_GGUF_U64), put_int(&b, (uint64_t)1 << 40, 8);
    key(&b, "i64", SYL_GGUF_I64), put_int(&b, (uint64_t)-5, 8);
    key(&b, "f64", SYL_GGUF_F64), put_int(&b, 0x3ff8000000000000, 8);
    key(&b, "ints", SYL_GGUF_ARRAY), put_int(&b, SYL_GGUF_I16, 4), put_int(&b, 2, 8), put_int(&b, 7, 2),
        put_int(&b, 0xfffe, 2);
    key(&b, "nested", SYL_GGUF_ARRAY), put_int(&b, SYL_GGUF_ARRAY, 4), put_int(&b, 2, 8);
    for (int i = 0; i < 2; i++) put_int(&b, SYL_GGUF_U8, 4), put_int(&b, 3, 8), put(&b, "abc", 3);

    syl_arena arena;
    syl_arena_init(&arena);
    recorder r;
    recorder_init(&r);
    syl_gguf file;
    expect_ok(&r, syl_gguf_open(save(&arena, "meta.gguf", b.p, b.n), r.diag, &file));
    static const struct {
        const char *key;
        int64_t value;
    } ints[] = {{"u8", 200},
                {"i8", -1},
                {"u16", 65535},
                {"i16", -32768},
                {"u32", 4294967295},
                {"i32", -1},
                {"u64", (int64_t)1 << 40},
                {"i64", -5}};
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
        int64_t v;
        expect_ok(&r, syl_gguf_int(&file, ints[i].key, true, INT64_MIN, INT64_MAX, r.diag, &v));
        assert_int_equal(v, ints[i].value);
    }
    double d;
    bool flag = false;
    const char *text;
    const char *const *texts;
    const int64_t *numbers;
    size_t n;
    expect_ok(&r, syl_gguf_float(&file, "f32", true, r.diag, &d));
    assert_true(d == 0.25);
    expect_ok(&r, syl_gguf_float(&file, "f64", true, r.diag, &d));
    assert_true(d == 1.5);
    expect_ok(&r, syl_gguf_bool(&file, "bool", true, r.diag, &flag));
    assert_true(flag);
    expect_ok(&r, syl_gguf_string(&file, "string", true, &arena, r.diag, &text));
    assert_string_equal(text, "text");
    expect_ok(&r, syl_gguf_strings(&file, "strings", true, &arena, r.diag, &texts, &n));
    assert_int_equal(n, 3);
    assert_string_equal(texts[2], "dr\xc3\xa9i");
    expect_ok(&r, syl_gguf_ints(&file, "ints", true, &arena, r.diag, &numbers, &n));
    assert_true(n == 2 && numbers[0] == 7 && numbers[1] == -2);
    assert_non_null(syl_gguf_value_of(&file, "nested"));

    int64_t v = 3;
    expect_ok(&r, syl_gguf_int(&file, "absent", false, 0, 9, r.diag, &v));
    assert_int_equal(v, 3);
    expect_error(&r, syl_gguf_int(&file, "absent", true, 0, 9, r.diag, &v), "gguf-missing-key", "absent");
    expect_error(&r, syl_gguf_int(&file, "string", true, 0, 9, r.diag, &v), "gguf-type", "string as integer");
    expect_error(&r, syl_gguf_int(&file, "u8", true, 0, 9, r.diag, &v), "gguf-value", "range");
    expect_error(&r, syl_gguf_float(&file, "u8", true, r.diag, &d), "gguf-type", "integer as float");
    expect_error(&r, syl_gguf_strings(&file, "ints", true, &arena, r.diag, &texts, &n), "gguf-type",
                 "ints as strings");
    expect_error(&r, syl_gguf_ints(&file, "strings", true, &arena, r.diag, &numbers, &n), "gguf-type",
                 "strings as ints");
    expect_error(&r, syl_gguf_ints(&file, "nested", true, &arena, r.diag, &numbers, &n), "gguf-type",
                 "arrays as ints");
    syl_gguf_close(&file);
    syl_diag_destroy(r.diag);
    syl_arena_free(&arena);
}

/* ---- malformed files ---- */

static void one_tensor(const char *name, uint64_t rows, uint64_t cols, uint32_t type, uint64_t offset) {
    begin(&b, 1, 0);
    tensor(&b, name, rows, cols, type, offset);
    pad(&b, 32);
    for (int i = 0; i < 64; i++) put_int(&b, 0, 1);
}

static void bad_magic(void) {
    begin(&b, 0, 0), b.p[3] = 'X';
}
static void bad_empty(void) {
    b.n = 0;
}
static void bad_short(void) {
    begin(&b, 0, 0), b.n = 15;
}
static void bad_version(void) {
    begin(&b, 0, 0), b.p[4] = 2;
}
static void bad_big_endian(void) {
    begin(&b, 0, 0), b.p[4] = 0, b.p[7] = 3;
}
static void bad_tensor_count(void) {
    begin(&b, UINT64_MAX, 0);
}
static void bad_key_count(void) {
    begin(&b, 0, (uint64_t)1 << 40);
}
static void bad_missing_keys(void) {
    begin(&b, 0, 2), key_u32(&b, "a", 1);
}
static void bad_key_length(void) {
    begin(&b, 0, 1), put_int(&b, UINT64_MAX, 8);
}
static void bad_key_empty(void) {
    begin(&b, 0, 1), key_u32(&b, "", 1);
}
static void bad_key_utf8(void) {
    begin(&b, 0, 1), key_u32(&b, "a\xc0\xaf", 1);
}
static void bad_duplicate_key(void) {
    begin(&b, 0, 2), key_u32(&b, "a", 1), key_u32(&b, "a", 2);
}
static void bad_kind(void) {
    begin(&b, 0, 1), key(&b, "a", SYL_GGUF_KIND_COUNT);
}
static void bad_bool(void) {
    begin(&b, 0, 1), key(&b, "a", SYL_GGUF_BOOL), put_int(&b, 2, 1);
}
static void bad_string(void) {
    begin(&b, 0, 1), key(&b, "a", SYL_GGUF_STRING), put_int(&b, UINT64_MAX, 8);
}
static void bad_string_end(void) {
    begin(&b, 0, 1), key(&b, "a", SYL_GGUF_STRING), put_int(&b, 100, 8);
}
static void bad_array(void) {
    begin(&b, 0, 1), key(&b, "a", SYL_GGUF_ARRAY), put_int(&b, SYL_GGUF_U64, 4),
        put_int(&b, (uint64_t)1 << 61, 8), put_int(&b, 0, 8);
}
static void bad_element(void) {
    begin(&b, 0, 1), key(&b, "a", SYL_GGUF_ARRAY), put_int(&b, 99, 4), put_int(&b, 1, 8), put_int(&b, 0, 8);
}
static void bad_depth(void) {
    begin(&b, 0, 1), key(&b, "a", SYL_GGUF_ARRAY);
    for (int i = 0; i < 9; i++) put_int(&b, SYL_GGUF_ARRAY, 4), put_int(&b, 1, 8);
    for (int i = 0; i < 64; i++) put_int(&b, 0, 1);
}
static void bad_alignment(void) {
    begin(&b, 0, 1), key_u32(&b, "general.alignment", 24);
}
static void bad_alignment_zero(void) {
    begin(&b, 0, 1), key_u32(&b, "general.alignment", 0);
}
static void bad_alignment_type(void) {
    begin(&b, 0, 1), key_text(&b, "general.alignment", "32");
}
static void bad_rank(void) {
    begin(&b, 1, 0), put_text(&b, "t"), put_int(&b, 5, 4), put_int(&b, 0, 64);
}
static void bad_dim_zero(void) {
    one_tensor("t", 0, 4, 0, 0);
}
static void bad_dim_large(void) {
    one_tensor("t", 1, UINT64_MAX, 0, 0);
}
static void bad_dims_product(void) {
    begin(&b, 1, 0), put_text(&b, "t"), put_int(&b, 2, 4), put_int(&b, (uint64_t)1 << 40, 8),
        put_int(&b, (uint64_t)1 << 40, 8), put_int(&b, 0, 64);
}
static void bad_block(void) {
    one_tensor("t", 1, 48, 8, 0);
}
static void bad_type(void) {
    one_tensor("t", 1, 4, 77, 0);
}
static void bad_unaligned(void) {
    one_tensor("t", 1, 4, 0, 8);
}
static void bad_offset(void) {
    one_tensor("t", 1, 4, 0, UINT64_MAX - 31);
}
static void bad_size(void) {
    one_tensor("t", 5, 4, 0, 0);
}
static void bad_no_data(void) {
    begin(&b, 1, 0), tensor(&b, "t", 1, 4, 0, 0);
}
static void bad_duplicate_tensor(void) {
    begin(&b, 2, 0), tensor(&b, "t", 1, 4, 0, 0), tensor(&b, "t", 1, 4, 0, 0), put_int(&b, 0, 64);
}

static void test_malformed(void **state) {
    (void)state;
    static const struct {
        void (*make)(void);
        const char *what, *error;
    } cases[] = {
        {bad_magic, "magic", "gguf-magic"},
        {bad_empty, "an empty file", "gguf-magic"},
        {bad_short, "half a header", "gguf-truncated"},
        {bad_version, "version 2", "gguf-version"},
        {bad_big_endian, "big endian", "gguf-version"},
        {bad_tensor_count, "number of tensors", "gguf-count"},
        {bad_key_count, "number of keys", "gguf-count"},
        {bad_missing_keys, "fewer keys than said", "gguf-truncated"},
        {bad_key_length, "length of a key", "gguf-string"},
        {bad_key_empty, "empty key", "gguf-string"},
        {bad_key_utf8, "key not UTF-8", "gguf-string"},
        {bad_duplicate_key, "key twice", "gguf-duplicate"},
        {bad_kind, "type of a value", "gguf-type"},
        {bad_bool, "bool of 2", "gguf-type"},
        {bad_string, "length of a string", "gguf-string"},
        {bad_string_end, "string beyond the end", "gguf-truncated"},
        {bad_array, "length of an array", "gguf-truncated"},
        {bad_element, "type of elements", "gguf-type"},
        {bad_depth, "deep arrays", "gguf-depth"},
        {bad_alignment, "alignment 24", "gguf-value"},
        {bad_alignment_zero, "alignment 0", "gguf-value"},
        {bad_alignment_type, "alignment as text", "gguf-type"},
        {bad_rank, "rank 5", "gguf-tensor-shape"},
        {bad_dim_zero, "dimension 0", "gguf-tensor-shape"},
        {bad_dim_large, "huge dimension", "gguf-tensor-shape"},
        {bad_dims_product, "product of dimensions", "gguf-tensor-shape"},
        {bad_block, "part of a block", "gguf-tensor-shape"},
        {bad_type, "type of a tensor", "gguf-tensor-type"},
        {bad_unaligned, "unaligned data", "gguf-tensor-range"},
        {bad_offset, "offset beyond the end", "gguf-tensor-range"},
        {bad_size, "data beyond the end", "gguf-tensor-range"},
        {bad_no_data, "no data", "gguf-truncated"},
        {bad_duplicate_tensor, "tensor twice", "gguf-duplicate"},
    };
    syl_arena arena;
    syl_arena_init(&arena);
    recorder r;
    recorder_init(&r);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        syl_gguf file;
        recorder_renew(&r);
        cases[i].make();
        expect_error(&r, syl_gguf_open(save(&arena, "bad.gguf", b.p, b.n), r.diag, &file), cases[i].error,
                     cases[i].what);
        syl_gguf_close(&file);
    }
    /* A whole file cut off anywhere is refused, and the error points into the file. */
    begin(&b, 1, 2);
    key_text(&b, "general.name", "x");
    key(&b, "list", SYL_GGUF_ARRAY), put_int(&b, SYL_GGUF_STRING, 4), put_int(&b, 2, 8), put_text(&b, "p"),
        put_text(&b, "q");
    tensor(&b, "t", 2, 4, 0, 0);
    pad(&b, 32);
    for (int i = 0; i < 32; i++) put_int(&b, 0, 1);
    for (size_t n = 0; n <= b.n; n++) {
        syl_gguf file;
        recorder_renew(&r);
        syl_status status = syl_gguf_open(save(&arena, "cut.gguf", b.p, n), r.diag, &file);
        assert_int_equal(status == SYL_OK, n == b.n);
        assert_true(r.offset <= n);
        syl_gguf_close(&file);
    }
    syl_diag_destroy(r.diag);
    syl_arena_free(&arena);
}

/* ---- values ---- */

/* Blocks of four formats made by hand, with every code and every scale pattern in some place, against the formulas
 * of the specification written out another way: element by element from a table of where its bits are. */
static void test_blocks(void **state) {
    (void)state;
    static const struct {
        uint32_t id;
        int elements, size;
    } formats[] = {{2, 32, 18}, {6, 32, 22}, {7, 32, 24}, {12, 256, 144}, {13, 256, 176}, {14, 256, 210}};
    enum { BLOCKS = 64 };
    static const uint16_t numbers[] = {0x3c00, 0x3800, 0xb400, 0x1400}; /* 1, 1/2, -1/4, 2^-10 */
    static const double values[] = {1, 0.5, -0.25, 0x1p-10};
    for (size_t f = 0; f < sizeof formats / sizeof *formats; f++) {
        unsigned char data[BLOCKS * 210];
        double out[BLOCKS * 256];
        int elements = formats[f].elements, size = formats[f].size;
        uint32_t random = 1;
        for (int i = 0; i < BLOCKS * size; i++)
            data[i] = (unsigned char)((random = random * 1664525u + 1013904223u) >> 24);
        bool k_quant = formats[f].id == 12 || formats[f].id == 13;
        int d_at = formats[f].id == 14 ? 208 : 0;
        for (int n = 0; n < BLOCKS; n++) { /* known d and m */
            unsigned char *p = data + n * size;
            p[d_at] = (unsigned char)(numbers[n % 4] & 255),
            p[d_at + 1] = (unsigned char)(numbers[n % 4] >> 8);
            if (k_quant || formats[f].id == 7)
                p[2] = (unsigned char)(numbers[n / 4 % 4] & 255),
                p[3] = (unsigned char)(numbers[n / 4 % 4] >> 8);
        }
        const syl_gguf_format *format = syl_gguf_format_of(formats[f].id);
        assert_true((int)format->block == elements && (int)format->bytes == size);
        format->decode(data, 0, BLOCKS * elements, out);
        for (int n = 0; n < BLOCKS; n++)
            for (int i = 0; i < elements; i++) {
                const unsigned char *p = data + n * size;
                double d = values[n % 4], m = values[n / 4 % 4], expected = 0;
                int part = i / 32, in_part = i % 32, code, scale = 0, low = 0;
                int small = elements == 32 ? (i < 16 ? p[size - 16 + i] % 16 : p[size - 32 + i] / 16) : 0;
                switch (formats[f].id) {
                case 2:
                    expected = d * (small - 8);
                    break;
                case 6:
                    code = small + 16 * (p[2 + i / 8] >> i % 8 & 1);
                    expected = d * (code - 16);
                    break;
                case 7:
                    code = small + 16 * (p[4 + i / 8] >> i % 8 & 1);
                    expected = d * code + m;
                    break;
                case 12:
                case 13:
                    if (part < 4) {
                        scale = p[4 + part] % 64, low = p[8 + part] % 64;
                    } else {
                        scale = p[8 + part] % 16 + p[part] / 64 * 16;
                        low = p[8 + part] / 16 + p[4 + part] / 64 * 16;
                    }
                    code = p[size - 128 + i / 64 * 32 + in_part];
                    code = i / 32 % 2 ? code / 16 : code % 16;
                    if (formats[f].id == 13) code += 16 * (p[16 + in_part] >> part & 1);
                    expected = d * scale * code - m * low;
                    break;
                default: {
                    int half = i / 128, quarter = i % 128 / 32;
                    code = p[64 * half + 32 * (quarter % 2) + in_part];
                    code = quarter < 2 ? code % 16 : code / 16;
                    code += (p[128 + 32 * half + in_part] >> (2 * quarter) & 3) * 16;
                    expected = d * (signed char)p[192 + i / 16] * (code - 32);
                }
                }
                if (out[n * elements + i] != expected)
                    fail_msg("%s block %d element %d: %g, expected %g", format->name, n, i,
                             out[n * elements + i], expected);
            }
        double some[70]; /* a range that begins and ends within blocks */
        format->decode(data, elements - 7, elements + 50, some);
        assert_memory_equal(some, out + elements - 7, 57 * sizeof *some);
    }
}

static void test_values(void **state) {
    (void)state;
    begin(&b, 6, 0);
    tensor(&b, "f32", 2, 3, 0, 0);
    tensor(&b, "f16", 3, 0, 1, 32);
    tensor(&b, "bf16", 2, 0, 30, 64);
    tensor(&b, "q4_1", 2, 32, 3, 96);
    tensor(&b, "q8_0", 1, 64, 8, 160);
    tensor(&b, "q2_k", 1, 256, 10, 256);
    pad(&b, 32);
    size_t data = b.n;
    for (int i = 0; i < 6; i++) put_f32(&b, (float)i - 0.1f);
    pad(&b, 32);
    put_int(&b, 0x3c01, 2), put_int(&b, 0x0001, 2), put_int(&b, 0xc400, 2); /* 1 + 2^-10, 2^-24, -4 */
    pad(&b, 32);
    put_int(&b, 0x3f81, 2), put_int(&b, 0xbf80, 2); /* 1 + 2^-7, -1 */
    pad(&b, 32);
    for (int row = 0; row < 2; row++) { /* d = 0.5 and 2^-10, m = -1 and 1; low nibbles are elements 0..15 */
        put_int(&b, row ? 0x1400 : 0x3800, 2), put_int(&b, row ? 0x3c00 : 0xbc00, 2);
        for (int i = 0; i < 16; i++) put_int(&b, (unsigned)(i | (15 - i) << 4), 1);
    }
    pad(&b, 32);
    for (int block = 0; block < 2; block++) { /* d = 0.25 and 1 */
        put_int(&b, block ? 0x3c00 : 0x3400, 2);
        for (int i = 0; i < 32; i++) put_int(&b, (unsigned)(i - 16) & 255, 1);
    }
    while (b.n < data + 256 + 84) put_int(&b, 0, 1);

    syl_arena arena;
    syl_arena_init(&arena);
    recorder r;
    recorder_init(&r);
    syl_weights *weights;
    expect_ok(&r, syl_weights_open(save(&arena, "values.gguf", b.p, b.n), r.diag, &weights));
    int rank;
    int64_t dims[SYL_MAX_RANK];
    double x[64];
    assert_true(syl_weights_shape(weights, "f32", &rank, dims));
    assert_true(rank == 2 && dims[0] == 2 && dims[1] == 3);
    expect_ok(&r, syl_weights_read(weights, "f32", 1, 2, r.diag, x));
    for (int i = 0; i < 3; i++) assert_true(x[i] == (double)((float)(i + 3) - 0.1f));
    expect_ok(&r, syl_weights_read(weights, "f16", 0, 3, r.diag, x));
    assert_true(x[0] == 1 + 0x1p-10 && x[1] == 0x1p-24 && x[2] == -4);
    expect_ok(&r, syl_weights_read(weights, "bf16", 1, 2, r.diag, x));
    assert_true(x[0] == -1);
    expect_ok(&r, syl_weights_read(weights, "q4_1", 0, 1, r.diag, x));
    for (int i = 0; i < 16; i++) assert_true(x[i] == 0.5 * i - 1 && x[16 + i] == 0.5 * (15 - i) - 1);
    /* 1 + i/1024 is no bf16 (steps of 1/128 above 1): it is rounded, ties to even. */
    expect_ok(&r, syl_weights_read(weights, "q4_1", 1, 2, r.diag, x));
    for (int i = 0; i < 16; i++) assert_true(x[i] == (i <= 4 ? 1 : i < 12 ? 1 + 0x1p-7 : 1 + 0x1p-6));
    expect_ok(&r, syl_weights_read(weights, "q8_0", 0, 1, r.diag, x));
    for (int i = 0; i < 32; i++) assert_true(x[i] == 0.25 * (i - 16) && x[32 + i] == i - 16);

    char hash[33], other[33];
    assert_true(syl_weights_hash(weights, "f32", hash) && syl_weights_hash(weights, "f16", other));
    assert_int_equal(strlen(hash), 32);
    assert_string_not_equal(hash, other);
    assert_false(syl_weights_shape(weights, "f64", &rank, dims));
    expect_error(&r, syl_weights_read(weights, "f31", 0, 1, r.diag, x), "weights-missing", "absent tensor");
    expect_error(&r, syl_weights_read(weights, "q2_k", 0, 1, r.diag, x), "weights-format", "Q2_K");
    expect_error(&r, syl_weights_read(weights, "f32", 1, 3, r.diag, x), "internal", "row beyond the end");
    syl_weights_close(weights);
    expect_error(&r, syl_weights_open(save(&arena, "text", "hello, world", 12), r.diag, &weights),
                 "weights-file", "neither container");
    syl_diag_destroy(r.diag);
    syl_arena_free(&arena);
}

/* A vector in a block format may be read in parts of blocks. */
static void test_parts_of_blocks(void **state) {
    (void)state;
    begin(&b, 1, 0);
    tensor(&b, "v", 96, 0, 8, 0);
    pad(&b, 32);
    for (int block = 0; block < 3; block++) {
        put_int(&b, 0x3c00, 2);
        for (int i = 0; i < 32; i++) put_int(&b, (unsigned)(block * 32 + i), 1);
    }
    syl_arena arena;
    syl_arena_init(&arena);
    recorder r;
    recorder_init(&r);
    syl_weights *weights;
    expect_ok(&r, syl_weights_open(save(&arena, "parts.gguf", b.p, b.n), r.diag, &weights));
    for (int64_t from = 0; from <= 96; from += 7)
        for (int64_t to = from; to <= 96; to += 5) {
            double x[97] = {0};
            expect_ok(&r, syl_weights_read(weights, "v", from, to, r.diag, x));
            for (int64_t i = 0; i < to - from; i++) assert_true(x[i] == (double)(from + i));
            assert_true(x[to - from] == 0);
        }
    syl_weights_close(weights);
    syl_diag_destroy(r.diag);
    syl_arena_free(&arena);
}

static void test_safetensors(void **state) {
    (void)state;
    syl_arena arena;
    syl_arena_init(&arena);
    recorder r;
    recorder_init(&r);
    syl_st_writer *writer;
    const char *path = in_folder(&arena, "w.safetensors");
    const double d[4] = {1.25, -2, 0.1, 3};
    const uint16_t h[2] = {0x3f81, 0xbf80};
    const int32_t ids[2] = {1, 2};
    int wide, half, ints;
    expect_ok(&r, syl_st_writer_create(path, r.diag, &writer));
    expect_ok(&r, syl_st_writer_declare(writer, "wide", SYL_ST_F64, 2, (int64_t[]){2, 2}, &wide));
    expect_ok(&r, syl_st_writer_declare(writer, "half", SYL_ST_BF16, 1, (int64_t[]){2}, &half));
    expect_ok(&r, syl_st_writer_declare(writer, "ints", SYL_ST_I32, 1, (int64_t[]){2}, &ints));
    expect_ok(&r, syl_st_writer_begin(writer));
    expect_ok(&r, syl_st_writer_write(writer, wide, 0, d, sizeof d));
    expect_ok(&r, syl_st_writer_write(writer, half, 0, h, sizeof h));
    expect_ok(&r, syl_st_writer_write(writer, ints, 0, ids, sizeof ids));
    expect_ok(&r, syl_st_writer_commit(writer));
    syl_weights *weights;
    double x[4];
    int rank;
    int64_t dims[SYL_MAX_RANK];
    expect_ok(&r, syl_weights_open(path, r.diag, &weights));
    assert_true(syl_weights_shape(weights, "wide", &rank, dims) && rank == 2 && dims[0] == 2 && dims[1] == 2);
    expect_ok(&r, syl_weights_read(weights, "wide", 1, 2, r.diag, x));
    assert_true(x[0] == 0.1 && x[1] == 3);
    expect_ok(&r, syl_weights_read(weights, "half", 0, 2, r.diag, x));
    assert_true(x[0] == 1 + 0x1p-7 && x[1] == -1);
    expect_error(&r, syl_weights_read(weights, "ints", 0, 1, r.diag, x), "weights-format", "integers");
    syl_weights_close(weights);
    syl_diag_destroy(r.diag);
    syl_arena_free(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_metadata),        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_values),          cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_parts_of_blocks), cmocka_unit_test(test_safetensors),
    };
    return cmocka_run_group_tests(tests, make_folder, delete_folder);
}
