/* 4-bit weights in artifacts: the parts each scheme is stored in, and that wrong ones are refused by name. */
#include "runtime/artifact.h"
#include "runtime_testing.h"

enum { N = 2, K = 128 };

static const char *ir_of(fixture *f, const char *scheme) {
    return syl_arena_printf(&f->arena,
                            "module @m {\n"
                            "  func @forward(%%x: tensor<Tx%dxf32>) -> tensor<Tx%dxf32> {\n"
                            "    %%w = materialized \"w\" : tensor<%dx%dx%s>\n"
                            "    %%y = linear %%x, %%w : tensor<Tx%dxf32>\n"
                            "    return %%y\n  }\n}\n",
                            K, N, N, K, scheme, N);
}

typedef struct part {
    const char *name;
    syl_st_dtype dtype;
    int rank;
    int64_t shape[2];
    int fill; /* every byte */
} part;

static void write_parts(fixture *f, const char *path, const char *scheme, const part *parts, int n) {
    syl_st_writer *writer;
    int ids[4];
    size_t sizes[4];
    fixture_ok(f, syl_st_writer_create(path, f->diag, &writer));
    fixture_ok(f, syl_st_writer_metadata(writer, "sylvester.version", SYL_ARTIFACT_VERSION));
    fixture_ok(f,
               syl_st_writer_metadata(writer, "sylvester.model", "{\"name\": \"x\", \"context_length\": 0}"));
    fixture_ok(f, syl_st_writer_metadata(writer, "sylvester.recipe", "{}"));
    fixture_ok(f, syl_st_writer_metadata(writer, "sylvester.provenance", "{}"));
    fixture_ok(f, syl_st_writer_metadata(writer, "sylvester.ir", ir_of(f, scheme)));
    for (int i = 0; i < n; i++) {
        sizes[i] = syl_st_dtype_size(parts[i].dtype) * (size_t)parts[i].shape[0] *
                   (size_t)(parts[i].rank == 2 ? parts[i].shape[1] : 1);
        fixture_ok(f, syl_st_writer_declare(writer, parts[i].name, parts[i].dtype, parts[i].rank,
                                            parts[i].shape, &ids[i]));
    }
    fixture_ok(f, syl_st_writer_begin(writer));
    for (int i = 0; i < n; i++) {
        void *data = syl_arena_alloc(&f->arena, sizes[i]);
        memset(data, parts[i].fill, sizes[i]);
        fixture_ok(f, syl_st_writer_write(writer, ids[i], 0, data, sizes[i]));
    }
    fixture_ok(f, syl_st_writer_commit(writer));
}

#define SCALE {"w.scale", SYL_ST_F32, 1, {N, 0}, 0}
#define CODES {"w", SYL_ST_U8, 2, {N, K / 2}, 0x7f}
#define S(v)  {"w.group_scale", SYL_ST_U8, 2, {N, K / 64}, v}
#define Z(v)  {"w.group_zero", SYL_ST_U8, 2, {N, K / 64}, v}

static void good_parts_open(void **state) {
    (void)state;
    static const struct {
        const char *scheme;
        part parts[4];
        int n;
    } cases[] = {{"int4_channel", {SCALE, CODES}, 2},
                 {"int4_group64", {{"w.scale", SYL_ST_F32, 2, {N, K / 64}, 0}, CODES}, 2},
                 {"int4_group128", {{"w.scale", SYL_ST_F32, 2, {N, 1}, 0}, CODES}, 2},
                 {"int4_two_level_g64", {SCALE, CODES, S(16), Z(15)}, 4},
                 {"int4_two_level_g128",
                  {SCALE,
                   CODES,
                   {"w.group_scale", SYL_ST_U8, 2, {N, 1}, 1},
                   {"w.group_zero", SYL_ST_U8, 2, {N, 1}, 0}},
                  4}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture f;
        syl_artifact a;
        fixture_open(&f, 1);
        const char *path = test_path(&f, "codes.syl");
        write_parts(&f, path, cases[i].scheme, cases[i].parts, cases[i].n);
        fixture_ok(&f, syl_artifact_open(path, f.diag, &a));
        syl_artifact_close(&a);
        fixture_close(&f);
    }
}

static void wrong_parts_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *what, *error, *said, *scheme;
        part parts[4];
        int n;
    } cases[] = {
        {"codes a byte each",
         "artifact-tensor-shape",
         "[2, 128]",
         "int4_channel",
         {SCALE, {"w", SYL_ST_U8, 2, {N, K}, 0}},
         2},
        {"signed codes",
         "artifact-tensor-dtype",
         "I8",
         "int4_channel",
         {SCALE, {"w", SYL_ST_I8, 2, {N, K / 2}, 0}},
         2},
        {"scales of rows", "artifact-tensor-shape", "\"w.scale\"", "int4_group64", {SCALE, CODES}, 2},
        {"no zero points",
         "artifact-tensor-missing",
         "\"w.group_zero\"",
         "int4_two_level_g64",
         {SCALE, CODES, S(1)},
         3},
        {"groups of another size",
         "artifact-tensor-shape",
         "\"w.group_scale\"",
         "int4_two_level_g128",
         {SCALE, CODES, S(1), Z(0)},
         4},
        {"a group scale of 0",
         "artifact-tensor-value",
         "expected 1 to 16",
         "int4_two_level_g64",
         {SCALE, CODES, S(0), Z(0)},
         4},
        {"a group scale of 17",
         "artifact-tensor-value",
         "is 17",
         "int4_two_level_g64",
         {SCALE, CODES, S(17), Z(0)},
         4},
        {"a zero point of 16",
         "artifact-tensor-value",
         "expected 0 to 15",
         "int4_two_level_g64",
         {SCALE, CODES, S(1), Z(16)},
         4},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture f;
        syl_artifact a;
        fixture_open(&f, 1);
        const char *path = test_path(&f, "bad.syl");
        write_parts(&f, path, cases[i].scheme, cases[i].parts, cases[i].n);
        fixture_error(&f, syl_artifact_open(path, f.diag, &a), cases[i].error, cases[i].said, cases[i].what);
        fixture_close(&f);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_parts_open),
        cmocka_unit_test(wrong_parts_are_refused),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
