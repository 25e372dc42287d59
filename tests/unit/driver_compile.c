/* The whole road on random models: compiled, loaded, and run by generated code, against the reference on the
 * same artifact; and the promises on bits: chunks, batches and threads change none. */
#include "driver_testing.h"

typedef struct running {
    syl_engine *engine;
    syl_context *context;
} running;

static running start(fixture *f, const char *path, const char *cpu) {
    running run;
    syl_engine_options options = {.cpu = cpu, .cache_dir = test_folder};
    syl_context_options context = {.sequences = 3};
    fixture_ok(f, syl_engine_load(path, &options, f->pool, f->diag, &run.engine));
    fixture_ok(f, syl_context_create(run.engine, f->pool, &context, f->diag, &run.context));
    return run;
}

static void stop(running *run) {
    syl_context_destroy(run->context);
    syl_engine_destroy(run->engine);
}

/* ---- against the reference ---- */

/* Runs what ir_random_run runs: two sequences, then a further token of each. Gives the largest difference
 * relative to the largest logit. */
static double compare(fixture *f, running *run, ir_random *r) {
    static const int32_t seq[2][7] = {{0, 0, 0, 1, 1, 1, 1}, {0, 1}}, rows[2][3] = {{6, 0, 2}, {0, 1}};
    syl_ref_weights weights = {&run->engine->artifact, NULL, read_materialized};
    ir_random_outputs expected =
        ir_random_run_with(run->engine->artifact.module, r, &weights, SYL_REF_F32, f->diag);
    fixture_ok(f, expected.status);
    double error = 0, size = 1e-300;
    for (int call = 0; call < 2; call++) {
        int32_t ids[7];
        for (int i = 0; i < 7; i++) {
            ids[i] =
                (int32_t)(ir_random_mix(r->seed * 31 + (uint64_t)(call * 7 + i)) % (uint64_t)r->vocabulary);
        }
        syl_batch batch = {call ? 2 : 7, ids, seq[call], call ? 2 : 3, rows[call], false};
        fixture_ok(f, syl_context_run(run->context, &batch, f->diag));
        fixture_ok(f, syl_context_fetch(run->context, f->diag));
        for (int64_t i = 0; i < batch.n_rows * r->vocabulary; i++) {
            double x = expected.logits[call]->data[i];
            double y = syl_context_logits(run->context, i / r->vocabulary)[i % r->vocabulary];
            if (!(fabs(x - y) <= error)) error = fabs(x - y);
            if (fabs(x) > size) size = fabs(x);
        }
    }
    ir_random_free(&expected);
    return error / size;
}

static void check_against_reference(uint64_t seed, const char *recipe, const char *cpu, double tolerance) {
    fixture f;
    ir_random r;
    fixture_open(&f, 2);
    const char *path = test_path(&f, "model.syl");
    compile_random(&f, seed, recipe, path, &r);
    running run = start(&f, path, cpu);
    double error = compare(&f, &run, &r);
    if (!(error <= tolerance)) fail_msg("seed %d, %s, %s: error %g", (int)seed, recipe, cpu, error);
    stop(&run);
    fixture_close(&f);
}

static void f32_equals_the_reference(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 2; seed++) check_against_reference(seed, "f32", "host", 1e-5);
    check_against_reference(4, "f32-rotated", "host", 1e-5);
}

/* A code may fall to the other side of a rounding: one step of 127. */
static void w8a8_equals_the_reference(void **state) {
    (void)state;
    for (uint64_t seed = 10; seed < 12; seed++) check_against_reference(seed, "w8a8", "host", 0.03);
    check_against_reference(13, "bf16", "host", 0.02);
}

/* A code of the cache may fall to the other side of a rounding too. */
static void codes_in_the_cache_equal_the_reference(void **state) {
    (void)state;
    for (uint64_t seed = 14; seed < 16; seed++) {
        check_against_reference(seed, "w8a8-kv8", "host", 0.03);
        check_against_reference(seed, "w8a8-kv4", "host", 0.12);
    }
}

static void low_rank_branches_equal_the_reference(void **state) {
    (void)state;
    for (uint64_t seed = 17; seed < 19; seed++) check_against_reference(seed, "w8a8-svd32", "host", 0.03);
    check_against_reference(19, "w8a8-svd32", "generic", 0.03);
    check_against_reference(19, "w4a8-svd32", "host", 0.03);
}

static void other_machines_equal_the_reference(void **state) {
    (void)state;
    static const char *const cpus[] = {"generic", "x86-64-v3"};
    for (int i = 0; i < 2; i++) {
#if defined(__x86_64__)
        if (i == 1 && !__builtin_cpu_supports("avx2")) continue;
#else
        if (i == 1) continue;
#endif
        check_against_reference(20, "w8a8", cpus[i], 0.03);
    }
}

/* ---- bits ---- */

enum { LENGTH = 70, OTHERS = 5 }; /* across a page of the KV cache */

/* Logits [LENGTH][vocab] of a sequence, read in chunks of `chunk` tokens, with `others` tokens of sequence 0
 * in front of each chunk. */
static float *logits_of(fixture *f, const char *path, int chunk, int others, const int32_t *ids,
                        int64_t vocab) {
    running run = start(f, path, "host");
    float *out = SYL_NEW_ARRAY(&f->arena, float, (size_t)(LENGTH * vocab));
    for (int done = 0; done < LENGTH; done += chunk) {
        int32_t batch_ids[LENGTH + OTHERS], seq[LENGTH + OTHERS], rows[LENGTH];
        int n = 0, count = LENGTH - done < chunk ? LENGTH - done : chunk;
        bool more = syl_context_length(run.context, 0) + others < 300;
        for (int i = 0; more && i < others; i++, n++) batch_ids[n] = ids[LENGTH - 1 - i], seq[n] = 0;
        for (int i = 0; i < count; i++, n++) {
            batch_ids[n] = ids[done + i];
            seq[n] = 2;
            rows[i] = n;
        }
        syl_batch batch = {n, batch_ids, seq, count, rows, false};
        fixture_ok(f, syl_context_run(run.context, &batch, f->diag));
        fixture_ok(f, syl_context_fetch(run.context, f->diag));
        for (int i = 0; i < count; i++) {
            memcpy(out + (done + i) * vocab, syl_context_logits(run.context, i), (size_t)vocab * sizeof *out);
        }
    }
    stop(&run);
    return out;
}

static void check_bits(uint64_t seed, const char *recipe) {
    fixture f, three;
    ir_random r;
    fixture_open(&f, 1);
    fixture_open(&three, 3);
    const char *path = test_path(&f, "model.syl");
    compile_random(&f, seed, recipe, path, &r);
    int32_t ids[LENGTH];
    for (int i = 0; i < LENGTH; i++) ids[i] = (int32_t)(ir_random_mix((uint64_t)i) % (uint64_t)r.vocabulary);
    size_t size = (size_t)(LENGTH * r.vocabulary) * sizeof(float);
    const float *whole = logits_of(&f, path, LENGTH, 0, ids, r.vocabulary);
    if (memcmp(whole, logits_of(&f, path, 1, 0, ids, r.vocabulary), size) != 0)
        fail_msg("%s: decode differs from prefill", recipe);
    if (memcmp(whole, logits_of(&f, path, 13, 0, ids, r.vocabulary), size) != 0)
        fail_msg("%s: chunks differ", recipe);
    if (memcmp(whole, logits_of(&f, path, 11, OTHERS, ids, r.vocabulary), size) != 0)
        fail_msg("%s: the batch matters", recipe);
    if (memcmp(whole, logits_of(&f, path, 1, 1, ids, r.vocabulary), size) != 0)
        fail_msg("%s: the batch matters to decode", recipe);
    if (memcmp(whole, logits_of(&three, path, LENGTH, 0, ids, r.vocabulary), size) != 0)
        fail_msg("%s: threads matter", recipe);
    fixture_close(&three);
    fixture_close(&f);
}

static void batches_and_threads_change_no_bit(void **state) {
    (void)state;
    check_bits(31, "f32");
    check_bits(32, "w8a8");
    check_bits(33, "w8a8-kv8");
    check_bits(34, "w8a8-kv4");
    check_bits(35, "w8a8-svd32");
}

/* ---- files ---- */

static void check_bytes(const char *recipe) {
    fixture f, three;
    ir_random r;
    fixture_open(&f, 1);
    fixture_open(&three, 3);
    const char *a = test_path(&f, "a.syl"), *b = test_path(&f, "b.syl");
    compile_random(&f, 40, recipe, a, &r);
    compile_random(&three, 40, recipe, b, &r);
    syl_mapping x, y;
    fixture_ok(&f, syl_file_map(a, f.diag, &x));
    fixture_ok(&f, syl_file_map(b, f.diag, &y));
    assert_int_equal(x.size, y.size);
    assert_memory_equal(x.data, y.data, x.size);
    syl_file_unmap(&x);
    syl_file_unmap(&y);
    fixture_close(&three);
    fixture_close(&f);
}

static void compiles_give_equal_bytes(void **state) {
    (void)state;
    check_bytes("w8a8");
    check_bytes("w8a8-svd32");
    check_bytes("w4a8-svd32");
}

static void an_input_is_never_replaced(void **state) {
    (void)state;
    fixture f;
    ir_random r;
    fixture_open(&f, 1);
    syl_model model = {.module = ir_random_module(50, &r)};
    const char *weights = test_path(&f, "weights.safetensors");
    write_weights(&f, model.module, &r, weights);
    syl_compile_options options = {.recipe = "f32"};
    syl_compile_stats stats = {0};
    syl_status status = syl_compile_model(&model, NULL, weights, &options, f.pool, f.diag, &stats);
    assert_int_equal(status, SYL_USAGE);
    assert_true(fixture_said(&f, "compile-output"));
    syl_module_destroy(model.module);
    fixture_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f32_equals_the_reference),
        cmocka_unit_test(w8a8_equals_the_reference),
        cmocka_unit_test(codes_in_the_cache_equal_the_reference),
        cmocka_unit_test(low_rank_branches_equal_the_reference),
        cmocka_unit_test(other_machines_equal_the_reference),
        cmocka_unit_test(batches_and_threads_change_no_bit),
        cmocka_unit_test(compiles_give_equal_bytes),
        cmocka_unit_test(an_input_is_never_replaced),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
