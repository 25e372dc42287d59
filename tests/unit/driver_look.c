/* The public API for looking at things: files of tensors, the cache folder, the machine. */
#include <fcntl.h>
#include <math.h>
#include "include/syl/syl.h"
#include "runtime_tiny.h"
#include "base/file.h"

static syl_instance *instance;

static const char *path_of(const char *name) {
    static char paths[4][256];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", test_folder, name);
    return path;
}

static void ok(syl_status status) {
    if (status != SYL_OK) fail_msg("%s: %s", syl_status_identifier(status), syl_instance_error(instance));
}

/* tiny.syl, and plain.safetensors: a matrix and a scalar. */
static int setup(void **state) {
    if (make_folder(state) != 0) return -1;
    fixture f;
    fixture_open(&f, 1);
    write_tiny(&f, path_of("tiny.syl"));
    static const float matrix[6] = {1, 2, 3, 4, 5, 6};
    static const int64_t shape[2] = {2, 3};
    syl_st_writer *writer;
    int a, b;
    fixture_ok(&f, syl_st_writer_create(path_of("plain.safetensors"), f.diag, &writer));
    fixture_ok(&f, syl_st_writer_declare(writer, "matrix", SYL_ST_F32, 2, shape, &a));
    fixture_ok(&f, syl_st_writer_declare(writer, "scalar", SYL_ST_F32, 0, NULL, &b));
    fixture_ok(&f, syl_st_writer_begin(writer));
    fixture_ok(&f, syl_st_writer_write(writer, a, 0, matrix, sizeof matrix));
    fixture_ok(&f, syl_st_writer_write(writer, b, 0, matrix, sizeof *matrix));
    fixture_ok(&f, syl_st_writer_commit(writer));
    fixture_close(&f);
    syl_instance_options options = {.size = sizeof options, .threads = 2, .cache_dir = test_folder};
    return syl_instance_create(&options, &instance) == SYL_OK ? 0 : -1;
}

static int teardown(void **state) {
    syl_instance_destroy(instance);
    return remove_folder(state);
}

/* ---- files of tensors ---- */

static void lists_the_tensors_of_files(void **state) {
    (void)state;
    syl_container *c;
    syl_container_info info = {.size = sizeof info};
    syl_tensor_info tensor = {.size = sizeof tensor};
    char hash[33], other[33];
    ok(syl_container_load(instance, path_of("tiny.syl"), &c));
    ok(syl_container_describe(c, &info));
    assert_string_equal(info.kind, "artifact");
    assert_string_equal(info.name, "tiny");
    assert_int_equal(info.context_length, TINY_CONTEXT);
    assert_int_equal(info.tensors, 2);
    ok(syl_container_tensor(c, 1, &tensor));
    assert_string_equal(tensor.name, "w");
    assert_string_equal(tensor.type, "int8_channel");
    assert_int_equal(tensor.elements, 40 * 16);
    assert_int_equal(tensor.bytes, 40 * 16 + 40 * 4);
    assert_int_equal(tensor.dims[1], 16);
    ok(syl_container_hash(c, 1, hash));
    ok(syl_container_hash(c, 0, other));
    assert_int_equal(strlen(hash), 32);
    assert_string_not_equal(hash, other);
    assert_int_equal(syl_container_tensor(c, 2, &tensor), SYL_USAGE);
    assert_int_equal(syl_container_hash(c, 2, hash), SYL_USAGE);
    syl_container_destroy(c);

    ok(syl_container_load(instance, path_of("plain.safetensors"), &c));
    ok(syl_container_describe(c, &info));
    assert_string_equal(info.kind, "safetensors");
    assert_null(info.name);
    ok(syl_container_tensor(c, 0, &tensor));
    assert_string_equal(tensor.type, "F32");
    assert_int_equal(tensor.bytes, 24);
    ok(syl_container_tensor(c, 1, &tensor));
    assert_true(tensor.rank == 0 && tensor.elements == 1);
    syl_container_destroy(c);
}

static void measures_distances(void **state) {
    (void)state;
    syl_container *a, *plain;
    double error = -1;
    ok(syl_container_load(instance, path_of("tiny.syl"), &a));
    ok(syl_container_load(instance, path_of("plain.safetensors"), &plain));
    ok(syl_container_distance(instance, a, 1, a, 1, &error));
    assert_true(error == 0);
    ok(syl_container_distance(instance, a, 0, a, 1, &error)); /* 40 x 16 both */
    assert_true(error > 0.5 && error < 2);
    assert_int_equal(syl_container_distance(instance, a, 2, a, 1, &error), SYL_USAGE);
    assert_int_equal(syl_container_distance(instance, a, 0, plain, 0, &error), SYL_USAGE);
    assert_non_null(strstr(syl_instance_error(instance), "of one shape"));
    assert_int_equal(syl_container_distance(instance, NULL, 0, a, 0, &error), SYL_USAGE);
    assert_int_equal(syl_container_distance(instance, a, 0, a, 0, NULL), SYL_USAGE);
    syl_container_destroy(a);
    syl_container_destroy(plain);
}

static void files_that_are_none_have_their_names(void **state) {
    (void)state;
    syl_container *c = (syl_container *)&instance;
    FILE *file = fopen(path_of("words.txt"), "w");
    assert_non_null(file);
    fputs("no tensors here", file);
    fclose(file);
    assert_int_equal(syl_container_load(instance, path_of("words.txt"), &c), SYL_INPUT);
    assert_null(c);
    assert_non_null(strstr(syl_instance_error(instance), "weights-file"));
    assert_int_equal(syl_container_load(instance, path_of("nowhere"), &c), SYL_IO);
    assert_int_equal(syl_container_load(instance, NULL, &c), SYL_USAGE);
    assert_int_equal(syl_container_load(NULL, path_of("tiny.syl"), &c), SYL_USAGE);
    assert_int_equal(syl_container_describe(NULL, NULL), SYL_USAGE);
    syl_container_destroy(NULL);
}

/* ---- the values between kernels ---- */

typedef struct watched {
    char names[200];
    float a[3][TINY_WIDTH], last[3][TINY_WIDTH], logits[3][TINY_VOCAB];
    int calls;
} watched;

static void watch(void *user, const syl_observation *o) {
    watched *w = user;
    float none;
    assert_int_equal(o->rows, 3);
    snprintf(w->names + strlen(w->names), sizeof w->names - strlen(w->names), "%s:%s:%d ", o->name,
             o->element, o->basis);
    w->calls++;
    if (strcmp(o->name, "a") == 0) {
        ok(syl_observation_read(o, 0, 1, w->a[0]));
        ok(syl_observation_read(o, 1, 3, w->a[1]));
    }
    if (strcmp(o->name, "last") == 0) ok(syl_observation_read(o, 0, 3, w->last[0]));
    if (strcmp(o->name, "logits") == 0) ok(syl_observation_read(o, 0, 3, w->logits[0]));
    ok(syl_observation_read(o, 3, 3, &none));
    assert_int_equal(syl_observation_read(o, 2, 4, &none), SYL_USAGE);
    assert_int_equal(syl_observation_read(o, -1, 0, &none), SYL_USAGE);
    assert_int_equal(syl_observation_read(o, 0, 1, NULL), SYL_USAGE);
}

static void shows_the_values_between_kernels(void **state) {
    (void)state;
    static const int32_t ids[] = {3, 1, 4}, rows[] = {0, 1, 2};
    syl_tokens tokens = {.size = sizeof tokens, .ids = ids, .n = 3, .rows = rows, .n_rows = 3};
    float before[3][TINY_VOCAB];
    syl_program *program;
    syl_session *session;
    watched w = {.calls = 0};
    ok(syl_program_load(instance, path_of("tiny.syl"), &program));
    ok(syl_session_create(instance, program, NULL, &session));
    ok(syl_session_run(session, &tokens));
    for (size_t r = 0; r < 3; r++) memcpy(before[r], syl_session_logits(session, r), sizeof before[r]);
    ok(syl_session_truncate(session, 0, 0));

    ok(syl_session_observe(session, watch, &w));
    ok(syl_session_run(session, &tokens));
    assert_string_equal(w.names, "x:f32:1 a:f32:1 last:int8_token:1 logits:f32:0 ");
    for (size_t r = 0; r < 3; r++) {
        assert_memory_equal(syl_session_logits(session, r), before[r], sizeof before[r]);
        assert_memory_equal(w.logits[r], before[r], sizeof before[r]);
        float largest = 0; /* codes are at most half a step away from what they stand for */
        for (int c = 0; c < TINY_WIDTH; c++) largest = fmaxf(largest, fabsf(w.a[r][c]));
        assert_true(largest > 0);
        for (int c = 0; c < TINY_WIDTH; c++)
            assert_true(fabsf(w.a[r][c] - w.last[r][c]) <= 0.5001f * largest / 127);
    }
    int calls = w.calls;
    ok(syl_session_observe(session, NULL, NULL));
    ok(syl_session_run(session, &tokens));
    assert_int_equal(w.calls, calls);
    assert_int_equal(syl_session_observe(NULL, watch, &w), SYL_USAGE);
    assert_int_equal(syl_observation_read(NULL, 0, 0, &before[0][0]), SYL_USAGE);
    syl_session_destroy(session);
    syl_program_destroy(program);
}

/* ---- the cache folder ---- */

typedef struct seen {
    int kernels, tensors;
} seen;

static void see(void *user, const syl_cached_file *file) {
    seen *s = user;
    assert_true(file->bytes > 0 && file->used > 0 && strlen(file->name) > 32);
    s->kernels += file->kind == SYL_CACHED_KERNEL;
    s->tensors += file->kind == SYL_CACHED_TENSOR;
}

static void sweeps_the_cache(void **state) {
    (void)state;
    syl_program *program;
    syl_cache_report report = {.size = sizeof report};
    seen s = {0};
    syl_cache_settings settings = {.size = sizeof settings, .file = see, .user = &s};
    ok(syl_program_load(instance, path_of("tiny.syl"), &program)); /* compiles kernels into it */
    syl_program_destroy(program);
    ok(syl_cache_sweep(instance, &settings, &report));
    assert_true(report.kernels > 2 && report.kernel_bytes > 0 && report.tensors == 0);
    assert_int_equal(s.kernels, report.kernels);
    assert_int_equal(report.freed_bytes, 0);
    int64_t all = report.kernel_bytes;
    settings.sweep = SYL_SWEEP_DAMAGED;
    ok(syl_cache_sweep(instance, &settings, &report));
    assert_true(report.damaged == 0 && report.kernel_bytes == all);
    settings.sweep = SYL_SWEEP_UNUSED;
    settings.max_bytes = all / 2;
    ok(syl_cache_sweep(instance, &settings, &report));
    assert_true(report.kernel_bytes <= all / 2 && report.kernel_bytes + report.freed_bytes == all);
    settings.sweep = SYL_SWEEP_ALL;
    ok(syl_cache_sweep(instance, &settings, &report));
    assert_true(report.kernels == 0 && report.kernel_bytes == 0);
    settings.sweep = 9;
    assert_int_equal(syl_cache_sweep(instance, &settings, &report), SYL_USAGE);
    settings = (syl_cache_settings){.size = sizeof settings, .folder = path_of("nowhere")};
    assert_int_equal(syl_cache_sweep(instance, &settings, NULL), SYL_IO);
    assert_int_equal(syl_cache_sweep(NULL, NULL, NULL), SYL_USAGE);
}

/* ---- the machine ---- */

static void tests_the_machine(void **state) {
    (void)state;
    ok(syl_instance_test(instance));
    assert_int_equal(syl_instance_test(NULL), SYL_USAGE);
    assert_true(syl_memory_available() > 0);
    assert_true(syl_disk_available(test_folder) > 0);
    assert_int_equal(syl_disk_available(NULL), -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_the_tensors_of_files),
        cmocka_unit_test(measures_distances),
        cmocka_unit_test(files_that_are_none_have_their_names),
        cmocka_unit_test(shows_the_values_between_kernels),
        cmocka_unit_test(sweeps_the_cache),
        cmocka_unit_test(tests_the_machine),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
