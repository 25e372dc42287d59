/* safetensors: what is refused by name, what is written, and that writing and reading agree. */
#include <unistd.h>
#include "base/safetensors.h"
#include "base_testing.h"

/* Header text and the number of data bytes after it; length < 0 means the true one. */
static const struct {
    const char *what, *header;
    long long length;
    size_t data;
    const char *error;
} malformed[] = {
    {"header beyond the file", "{}", 3, 0, "st-header-size"},
    {"header beyond the limit", "{}", ((long long)64 << 20) + 1, 0, "st-header-size"},
    {"header of 2^62", "{}", (long long)1 << 62, 0, "st-header-size"},
    {"empty header", "", -1, 0, "st-header"},
    {"array header", "[]", -1, 0, "st-header"},
    {"leading space", " {}", -1, 0, "st-header"},
    {"bad json", "{\"a\":}", -1, 0, "json-syntax"},
    {"text after the header", "{}x", -1, 0, "json-syntax"},
    {"not utf-8", "{\"\xff\":1}", -1, 0, "json-utf8"},
    {"same name twice",
     "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"a\":{\"dtype\":\"U8\",\"shape\":[1],"
     "\"data_offsets\":[1,2]}}",
     -1, 2, "json-duplicate-key"},
    {"metadata not an object", "{\"__metadata__\":[]}", -1, 0, "st-header"},
    {"metadata not a string", "{\"__metadata__\":{\"a\":1}}", -1, 0, "st-header"},
    {"tensor not an object", "{\"a\":7}", -1, 0, "st-header"},
    {"empty name", "{\"\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", -1, 1, "st-name"},
    {"control byte in a name", "{\"a\\n\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", -1, 1,
     "st-name"},
    {"no dtype", "{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", -1, 1, "json-missing"},
    {"no shape", "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", -1, 1, "json-missing"},
    {"no offsets", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", -1, 1, "json-missing"},
    {"unknown key", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":1}}", -1, 1,
     "json-unknown-key"},
    {"unknown dtype", "{\"a\":{\"dtype\":\"F4\",\"shape\":[1],\"data_offsets\":[0,1]}}", -1, 1, "st-dtype"},
    {"lower-case dtype", "{\"a\":{\"dtype\":\"f32\",\"shape\":[1],\"data_offsets\":[0,4]}}", -1, 4,
     "st-dtype"},
    {"dtype a number", "{\"a\":{\"dtype\":8,\"shape\":[1],\"data_offsets\":[0,1]}}", -1, 1, "json-type"},
    {"shape a number", "{\"a\":{\"dtype\":\"U8\",\"shape\":1,\"data_offsets\":[0,1]}}", -1, 1, "json-type"},
    {"negative dimension", "{\"a\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}}", -1, 1,
     "st-shape"},
    {"fractional dimension", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1.5],\"data_offsets\":[0,1]}}", -1, 1,
     "st-shape"},
    {"dimension a string", "{\"a\":{\"dtype\":\"U8\",\"shape\":[\"1\"],\"data_offsets\":[0,1]}}", -1, 1,
     "st-shape"},
    {"too many dimensions", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}",
     -1, 1, "st-shape"},
    {"size overflows", "{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,1]}}",
     -1, 1, "st-shape"},
    {"size overflows by dtype",
     "{\"a\":{\"dtype\":\"F64\",\"shape\":[2147483648,1073741824],\"data_offsets\":[0,0]}}", -1, 0,
     "st-shape"},
    {"one offset", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1]}}", -1, 1, "st-offsets"},
    {"three offsets", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]}}", -1, 1,
     "st-offsets"},
    {"negative offset", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[-1,0]}}", -1, 1,
     "st-offsets"},
    {"reversed offsets", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,0]}}", -1, 1,
     "st-offsets"},
    {"beyond the file", "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", -1, 1,
     "st-offsets"},
    {"shape does not match", "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", -1, 4,
     "st-offsets"},
    {"hole at the start", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", -1, 2,
     "st-holes"},
    {"overlap",
     "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"b\":{\"dtype\":\"U8\",\"shape\":[2],"
     "\"data_offsets\":[1,3]}}",
     -1, 3, "st-holes"},
    {"overlap that adds up to the file",
     "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"b\":{\"dtype\":\"U8\",\"shape\":[2],"
     "\"data_offsets\":[1,3]}}",
     -1, 4, "st-holes"},
    {"hole between",
     "{\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[2,3]},\"a\":{\"dtype\":\"U8\",\"shape\":[1],"
     "\"data_offsets\":[0,1]}}",
     -1, 3, "st-holes"},
    {"bytes after the last tensor", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", -1, 2,
     "st-holes"},
    {"bytes without tensors", "{}", -1, 1, "st-holes"},
};

static void write_raw(const char *path, const char *header, long long length, size_t data) {
    size_t n = strlen(header);
    unsigned long long count = length < 0 ? n : (unsigned long long)length;
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    for (int i = 0; i < 8; i++) fputc((int)(count >> 8 * i & 0xff), file);
    fwrite(header, 1, n, file);
    for (size_t i = 0; i < data; i++) fputc((int)i, file);
    assert_int_equal(fclose(file), 0);
}

static void test_malformed(void **state) {
    (void)state;
    recorder r;
    recorder_init(&r);
    syl_arena arena;
    syl_arena_init(&arena);
    const char *path = in_folder(&arena, "bad.safetensors");
    syl_safetensors file;
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++) {
        recorder_renew(&r);
        write_raw(path, malformed[i].header, malformed[i].length, malformed[i].data);
        syl_status status = syl_safetensors_open(path, r.diag, &file);
        expect_error(&r, status, malformed[i].error, malformed[i].what);
        assert_null(file.mapping.data);
        syl_safetensors_close(&file);
    }
    recorder_renew(&r);
    FILE *stub = fopen(path, "wb");
    fputs("seven b", stub);
    fclose(stub);
    expect_error(&r, syl_safetensors_open(path, r.diag, &file), "st-header-size", "7 bytes");
    stub = fopen(path, "wb");
    fclose(stub);
    expect_error(&r, syl_safetensors_open(path, r.diag, &file), "st-header-size", "0 bytes");
    unlink(path);
    expect_error(&r, syl_safetensors_open(path, r.diag, &file), "file-open", "no file");
    expect_error(&r, syl_safetensors_open(test_folder, r.diag, &file), "file-open", "a folder");
    syl_arena_free(&arena);
    syl_diag_destroy(r.diag);
}

/* As another writer may have it: any order of keys, an empty tensor, a scalar, no alignment. */
static void test_foreign(void **state) {
    (void)state;
    recorder r;
    recorder_init(&r);
    syl_arena arena;
    syl_arena_init(&arena);
    const char *path = in_folder(&arena, "foreign.safetensors");
    write_raw(path,
              "{\"z\":{\"data_offsets\":[3,5],\"shape\":[],\"dtype\":\"BF16\"},\"__metadata__\":{\"format\":"
              "\"pt\"},"
              "\"none\":{\"dtype\":\"F32\",\"shape\":[0,4],\"data_offsets\":[3,3]},\"a\":{\"dtype\":\"I8\","
              "\"shape\":[3,1],\"data_offsets\":[0,3]}}   ",
              -1, 5);
    syl_safetensors file;
    expect_ok(&r, syl_safetensors_open(path, r.diag, &file));
    assert_int_equal(file.tensors.n, 3);
    assert_string_equal(file.tensors.p[0].name, "a");
    assert_string_equal(file.tensors.p[1].name, "none");
    assert_string_equal(file.tensors.p[2].name, "z");
    const syl_st_tensor *z = syl_safetensors_find(&file, "z"), *a = syl_safetensors_find(&file, "a");
    assert_int_equal(z->rank, 0);
    assert_int_equal(z->dtype, SYL_ST_BF16);
    assert_int_equal(z->size, 2);
    assert_int_equal(*(const unsigned char *)syl_safetensors_data(&file, z), 3);
    assert_int_equal(a->rank, 2);
    assert_int_equal(a->shape[0], 3);
    assert_null(syl_safetensors_find(&file, "b"));
    assert_string_equal(syl_safetensors_metadata(&file, "format"), "pt");
    assert_null(syl_safetensors_metadata(&file, "other"));
    syl_safetensors_close(&file);
    unlink(path);
    syl_arena_free(&arena);
    syl_diag_destroy(r.diag);
}

static void write_model(const char *path, recorder *r, bool backwards) {
    static const float weights[6] = {1, 2, 3, 4, 5, 6};
    static const int8_t codes[5] = {-1, 0, 1, 2, 3};
    syl_st_writer *writer;
    int w, c, e;
    expect_ok(r, syl_st_writer_create(path, r->diag, &writer));
    expect_ok(r, syl_st_writer_metadata(writer, "ir", "line 1\n\"quoted\" \xc3\xa9"));
    expect_ok(r, syl_st_writer_declare(writer, "w", SYL_ST_F32, 2, (int64_t[]){2, 3}, &w));
    expect_ok(r, syl_st_writer_metadata(writer, "a", ""));
    expect_ok(r, syl_st_writer_declare(writer, "codes \"1\"", SYL_ST_I8, 1, (int64_t[]){5}, &c));
    expect_ok(r, syl_st_writer_declare(writer, "empty", SYL_ST_F64, 1, (int64_t[]){0}, &e));
    expect_ok(r, syl_st_writer_begin(writer));
    if (backwards) {
        expect_ok(r, syl_st_writer_write(writer, c, 0, codes, sizeof codes));
        expect_ok(r, syl_st_writer_write(writer, w, 12, weights + 3, 12));
        expect_ok(r, syl_st_writer_write(writer, w, 0, weights, 12));
    } else {
        expect_ok(r, syl_st_writer_write(writer, w, 0, weights, sizeof weights));
        expect_ok(r, syl_st_writer_write(writer, c, 0, codes, sizeof codes));
    }
    expect_ok(r, syl_st_writer_commit(writer));
}

static void test_round_trip(void **state) {
    (void)state;
    recorder r;
    recorder_init(&r);
    syl_arena arena;
    syl_arena_init(&arena);
    const char *path = in_folder(&arena, "model.syl"), *other = in_folder(&arena, "other.syl");
    write_model(path, &r, false);
    write_model(other, &r, true);

    syl_mapping a, b;
    expect_ok(&r, syl_file_map(path, r.diag, &a));
    expect_ok(&r, syl_file_map(other, r.diag, &b));
    assert_int_equal(a.size, b.size);
    assert_memory_equal(a.data, b.data, a.size);
    syl_file_unmap(&a);
    syl_file_unmap(&b);

    syl_safetensors file;
    expect_ok(&r, syl_safetensors_open(path, r.diag, &file));
    assert_int_equal(file.tensors.n, 3);
    const syl_st_tensor *w = syl_safetensors_find(&file, "w"),
                        *c = syl_safetensors_find(&file, "codes \"1\"");
    assert_int_equal(w->offset % 64, 0);
    assert_int_equal(c->offset, w->offset + 24);
    assert_true(((const float *)syl_safetensors_data(&file, w))[5] == 6);
    assert_int_equal(((const int8_t *)syl_safetensors_data(&file, c))[0], -1);
    assert_string_equal(syl_safetensors_metadata(&file, "ir"), "line 1\n\"quoted\" \xc3\xa9");
    assert_string_equal(file.keys.p[1], "a");
    syl_safetensors_close(&file);
    unlink(path);
    unlink(other);
    syl_arena_free(&arena);
    syl_diag_destroy(r.diag);
}

static void test_writer_errors(void **state) {
    (void)state;
    recorder r;
    recorder_init(&r);
    syl_arena arena;
    syl_arena_init(&arena);
    const char *path = in_folder(&arena, "wrong.syl");
    syl_st_writer *writer;
    int id;
    int64_t four = 4, huge[] = {INT64_C(1) << 40, INT64_C(1) << 40};
    expect_ok(&r, syl_st_writer_create(path, r.diag, &writer));
    expect_ok(&r, syl_st_writer_declare(writer, "a", SYL_ST_U8, 1, &four, &id));
    expect_error(&r, syl_st_writer_declare(writer, "a", SYL_ST_U8, 1, &four, &id), "st-name", "twice");
    expect_error(&r, syl_st_writer_declare(writer, "", SYL_ST_U8, 1, &four, &id), "st-name", "empty");
    expect_error(&r, syl_st_writer_declare(writer, "__metadata__", SYL_ST_U8, 1, &four, &id), "st-name",
                 "reserved");
    expect_error(&r, syl_st_writer_declare(writer, "b", SYL_ST_U8, 9, huge, &id), "st-shape", "rank");
    expect_error(&r, syl_st_writer_declare(writer, "c", SYL_ST_U8, 2, huge, &id), "st-shape", "overflow");
    expect_ok(&r, syl_st_writer_metadata(writer, "k", "v"));
    expect_error(&r, syl_st_writer_metadata(writer, "k", "w"), "st-name", "key twice");
    expect_error(&r, syl_st_writer_write(writer, 0, 0, "abcd", 4), "internal", "before begin");
    expect_ok(&r, syl_st_writer_begin(writer));
    expect_error(&r, syl_st_writer_begin(writer), "internal", "begin twice");
    expect_error(&r, syl_st_writer_declare(writer, "d", SYL_ST_U8, 1, &four, &id), "internal", "after begin");
    expect_error(&r, syl_st_writer_write(writer, 0, 2, "abcd", 4), "internal", "beyond the tensor");
    expect_error(&r, syl_st_writer_write(writer, 7, 0, "abcd", 4), "internal", "not declared");
    expect_ok(&r, syl_st_writer_write(writer, 0, 0, "abc", 3));
    expect_error(&r, syl_st_writer_commit(writer), "internal", "a byte is missing");
    assert_int_not_equal(access(path, F_OK), 0);

    expect_ok(&r, syl_st_writer_create(path, r.diag, &writer));
    expect_ok(&r, syl_st_writer_metadata(writer, "bad", "\xff"));
    expect_error(&r, syl_st_writer_begin(writer), "json-utf8", "metadata not UTF-8");
    syl_st_writer_discard(writer);
    syl_st_writer_discard(NULL);
    expect_error(&r, syl_st_writer_create("/nonexistent-folder/x", r.diag, &writer), "file-write",
                 "no folder");
    assert_null(writer);
    assert_int_equal(rmdir(test_folder), 0); /* nothing is left behind */
    syl_arena_free(&arena);
    syl_diag_destroy(r.diag);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_foreign),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_writer_errors),
    };
    return cmocka_run_group_tests(tests, make_folder, NULL);
}
