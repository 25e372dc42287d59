/* Artifacts: what is written reads back, and every way to be wrong has its named error. */
#include "runtime_tiny.h"

static void what_is_written_reads_back(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, 1);
    const char *path = test_path(&f, "tiny.syl");
    write_tiny(&f, path);
    assert_true(syl_artifact_probe(path));
    syl_artifact a;
    fixture_ok(&f, syl_artifact_open(path, f.diag, &a));
    assert_string_equal(a.name, "tiny");
    assert_int_equal(a.context_length, TINY_CONTEXT);
    assert_string_equal(a.ir.text, tiny_ir);
    assert_null(a.tokenizer);
    const syl_st_tensor *w = syl_safetensors_find(&a.file, "w");
    assert_int_equal(w->dtype, SYL_ST_I8);
    assert_int_equal(((const int8_t *)syl_safetensors_data(&a.file, w))[1], 53 - 127);
    assert_int_equal(syl_safetensors_find(&a.file, "table")->offset % 4, 0);
    assert_int_equal(syl_safetensors_find(&a.file, "w.scale")->offset % 4, 0);
    syl_artifact_close(&a);
    fixture_close(&f);
}

/* ---- malformed ---- */

/* A tensor of the file a case writes; the bytes are zeros. */
typedef struct raw_tensor {
    const char *name;
    syl_st_dtype dtype;
    int rank;
    int64_t shape[2];
} raw_tensor;

typedef struct malformed {
    const char *what, *error, *said;
    const char *version, *model, *recipe, *ir; /* NULL: as it should be; "-": left out */
    raw_tensor tensors[4];                     /* all zero: as they should be */
    const char *replace, *with;                /* in the IR */
} malformed;

#define TABLE  {"table", SYL_ST_F32, 2, {40, 16}}
#define CODES  {"w", SYL_ST_I8, 2, {40, 16}}
#define SCALES {"w.scale", SYL_ST_F32, 1, {40}}

static const malformed cases[] = {
    {"no version", "artifact-format", "no Sylvester artifact", .version = "-"},
    {"a version of the future", "artifact-version", "format version \"2\"", .version = "2"},
    {"no IR", "artifact-metadata", "sylvester.ir", .ir = "-"},
    {"no recipe", "artifact-metadata", "sylvester.recipe", .recipe = "-"},
    {"a recipe that is no JSON", "json-syntax", "", .recipe = "{\"name\": }"},
    {"no model entry", "artifact-metadata", "sylvester.model", .model = "-"},
    {"a negative context", "json-range", "", .model = "{\"name\": \"x\", \"context_length\": -1}"},
    {"an unknown key", "json-unknown-key", "shape",
     .model = "{\"name\": \"x\", \"context_length\": 1, \"shape\": 2}"},
    {"IR that does not parse", "ir-syntax", "", .ir = "module @m { func }"},
    {"IR that does not verify", "ir-shape", "", .replace = "%t = take %a, %rows : tensor<Rx16xf32>",
     .with = "%t = take %a, %rows : tensor<Rx17xf32>"},
    {"no @forward", "artifact-ir", "no function @forward", .replace = "@forward", .with = "@backward"},
    {"a reference to another file", "artifact-ir", "is not materialized", .replace = "module @tiny {\n",
     .with = "module @tiny {\n  source \"/etc/passwd\"\n  func @other() -> () {\n    %s = weight \"secret\" "
             "{source = 0} : tensor<4xreal>\n    return\n  }\n"},
    {"a tensor is missing", "artifact-tensor-missing", "\"w\"", .tensors = {TABLE, SCALES}},
    {"scales are missing", "artifact-tensor-missing", "\"w.scale\"", .tensors = {TABLE, CODES}},
    {"another element type", "artifact-tensor-dtype", "BF16",
     .tensors = {{"table", SYL_ST_BF16, 2, {40, 16}}, CODES, SCALES}},
    {"another shape", "artifact-tensor-shape", "[16, 40]",
     .tensors = {{"table", SYL_ST_F32, 2, {16, 40}}, CODES, SCALES}},
    {"another rank", "artifact-tensor-shape", "[640]",
     .tensors = {{"table", SYL_ST_F32, 1, {640}}, CODES, SCALES}},
    {"a tensor nobody reads", "artifact-tensor-extra", "\"more\"",
     .tensors = {TABLE, CODES, SCALES, {"more", SYL_ST_U8, 1, {4}}}},
    {"a tokenizer that is no text", "artifact-tensor-dtype", "tokenizer",
     .tensors = {TABLE, CODES, SCALES, {"tokenizer.json", SYL_ST_F32, 1, {4}}}},
    {"one name for codes and another's scales", "artifact-ir", "share the tensor \"w.scale\"",
     .replace = "materialized \"table\" : tensor<40x16xf32>",
     .with = "materialized \"w.scale\" : tensor<40x16xf32>",
     .tensors = {{"w.scale", SYL_ST_F32, 2, {40, 16}}, CODES}},
    {"one name under two types", "artifact-ir", "under two types", .replace = "materialized \"table\"",
     .with = "materialized \"w\"", .tensors = {{"w", SYL_ST_F32, 2, {40, 16}}, SCALES}},
};

static const char *changed_ir(fixture *f, const malformed *c) {
    if (c->ir) return c->ir;
    if (!c->replace) return tiny_ir;
    const char *at = strstr(tiny_ir, c->replace);
    assert_non_null(at);
    return syl_arena_printf(&f->arena, "%.*s%s%s", (int)(at - tiny_ir), tiny_ir, c->with,
                            at + strlen(c->replace));
}

static void add(fixture *f, syl_st_writer *writer, const char *key, const char *given, const char *usual) {
    const char *value = given ? given : usual;
    if (strcmp(value, "-") != 0) fixture_ok(f, syl_st_writer_metadata(writer, key, value));
}

static void write_case(fixture *f, const malformed *c, const char *path) {
    static const raw_tensor usual[] = {TABLE, CODES, SCALES};
    const raw_tensor *tensors = c->tensors[0].name ? c->tensors : usual;
    int n = c->tensors[0].name ? 4 : 3;
    syl_st_writer *writer;
    fixture_ok(f, syl_st_writer_create(path, f->diag, &writer));
    add(f, writer, "sylvester.version", c->version, "1");
    add(f, writer, "sylvester.model", c->model, "{\"name\": \"x\", \"context_length\": 8}");
    add(f, writer, "sylvester.recipe", c->recipe, "{}");
    add(f, writer, "sylvester.provenance", NULL, "{}");
    add(f, writer, "sylvester.ir", changed_ir(f, c), "");
    int ids[4];
    size_t sizes[4];
    for (int i = 0; i < n && tensors[i].name; i++) {
        const raw_tensor *t = &tensors[i];
        sizes[i] =
            syl_st_dtype_size(t->dtype) * (size_t)t->shape[0] * (size_t)(t->rank == 2 ? t->shape[1] : 1);
        fixture_ok(f, syl_st_writer_declare(writer, t->name, t->dtype, t->rank, t->shape, &ids[i]));
    }
    fixture_ok(f, syl_st_writer_begin(writer));
    for (int i = 0; i < n && tensors[i].name; i++) {
        fixture_ok(f, syl_st_writer_write(writer, ids[i], 0, syl_arena_alloc(&f->arena, sizes[i]), sizes[i]));
    }
    fixture_ok(f, syl_st_writer_commit(writer));
}

static void malformed_artifacts_have_named_errors(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture f;
        syl_artifact a;
        fixture_open(&f, 1);
        const char *path = test_path(&f, "bad.syl");
        write_case(&f, &cases[i], path);
        fixture_error(&f, syl_artifact_open(path, f.diag, &a), cases[i].error, cases[i].said, cases[i].what);
        fixture_close(&f);
    }
}

/* Every cut of a good file is refused, and none crashes. */
static void cut_files_are_refused(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, 1);
    const char *path = test_path(&f, "tiny.syl"), *cut = test_path(&f, "cut.syl");
    write_tiny(&f, path);
    syl_mapping mapping;
    fixture_ok(&f, syl_file_map(path, f.diag, &mapping));
    for (size_t size = 0; size < mapping.size; size += 97) {
        syl_artifact a;
        syl_diag *quiet = syl_diag_create(NULL, NULL);
        fixture_ok(&f, syl_file_write(cut, mapping.data, size, f.diag));
        assert_int_not_equal(syl_artifact_open(cut, quiet, &a), SYL_OK);
        syl_diag_destroy(quiet);
    }
    syl_file_unmap(&mapping);
    fixture_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_reads_back),
        cmocka_unit_test(malformed_artifacts_have_named_errors),
        cmocka_unit_test(cut_files_are_refused),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
