/* The elementary functions of generated code against libm in higher precision, and its roundings against base/numeric, over whole ranges. */
#include "codegen_testing.h"
#include <math.h>
#include "base/numeric.h"

enum { COLS = 1 << 16 };

typedef struct function {
    syl_arena arena;
    kir_kernel kernel;
    built built;
    float *in, *out;
} function;

static int emit(function *f, kir_op op, int a, int buf) {
    return kir_emit(&f->arena, &f->kernel, (kir_inst){.op = op, .args = {a}, .buffer = buf});
}

/* out = op(in), in the element types given; cos is computed between to_f64 and to_f32. */
static void make(function *f, const syl_host_target *target, kir_op op, kir_type out_elem) {
    *f = (function){0};
    syl_arena_init(&f->arena);
    f->kernel = (kir_kernel){.kind = KIR_ROWS, .name = kir_ops[op].name, .cols = COLS};
    int in = kir_add_buffer(&f->arena, &f->kernel, (kir_buffer){"x", KIR_MATRIX, KIR_F32, COLS, COLS, false});
    int out =
        kir_add_buffer(&f->arena, &f->kernel, (kir_buffer){"y", KIR_MATRIX, out_elem, COLS, COLS, true});
    int x = emit(f, KIR_load, 0, in);
    x = emit(f, op, x, -1);
    emit(f, KIR_store, x, out);
    f->built = build_kernel(&f->kernel, target);
    f->in = new_buffer(COLS * 4);
    f->out = new_buffer(COLS * 4);
}
static void run(function *f) {
    void *buffers[] = {f->in, f->out};
    run_kernel(&f->built, buffers, 1);
}
static void drop(function *f) {
    drop_kernel(&f->built);
    free(f->in);
    free(f->out);
    syl_arena_free(&f->arena);
}

static float from_bits(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static uint32_t to_bits(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

static void for_each_target(void (*check)(const syl_host_target *)) {
    for (int t = 0; t < N_TARGETS; t++) {
        syl_host_target target;
        if (find_target(all_targets[t], &target)) check(&target);
    }
}

static void check_exp(const syl_host_target *target) {
    function f;
    make(&f, target, KIR_exp, KIR_F32);
    double worst = 0;
    for (int part = 0; part < 16; part++) {
        for (int i = 0; i < COLS; i++)
            f.in[i] = (float)(-87.3365 + (88.7228 + 87.3365) * ((double)part * COLS + i) / (16.0 * COLS));
        run(&f);
        for (int i = 0; i < COLS; i++) {
            double exact = exp((double)f.in[i]), ulp = ldexp(1, ilogb(exact) - 23),
                   error = fabs(f.out[i] - exact) / ulp;
            if (error > worst) worst = error;
        }
    }
    assert_true(worst <= 2.0);
    assert_true(worst > 0.4); /* the measure measures */
    static const float special[] = {0,     -0.0f,     88.8f, 1000,   INFINITY,  -87.4f,
                                    -1000, -INFINITY, NAN,   1e-30f, 88.72283f, -87.33654f};
    memcpy(f.in, special, sizeof special);
    run(&f);
    static const float expected[] = {1, 1, INFINITY, INFINITY, INFINITY, 0, 0, 0};
    for (int i = 0; i < 8; i++) assert_true(f.out[i] == expected[i]);
    assert_true(isnan(f.out[8]));
    assert_true(f.out[9] == 1);
    assert_true(isfinite(f.out[10]) && f.out[10] > 3.4e38f);
    assert_true(f.out[11] >= 0x1p-126f);
    drop(&f);
}

/* cos in f64 of a table times a position, as rope's angles are computed; the difference to libm goes out as f32, times 1e12. */
static void check_cos(const syl_host_target *target) {
    enum { N = 64, ROWS = 4096 };
    syl_arena arena;
    syl_arena_init(&arena);
    kir_kernel k = {.kind = KIR_ROWS, .name = "cos", .cols = N};
    double values[N];
    for (int j = 0; j < N; j++)
        values[j] =
            j < 32 ? pow(10000, -j / 32.0) : ldexp((double)(random_bits() >> 11), -53 + (j - 32)) * 0.25;
    kir_table table = {N, values};
    SYL_PUSH(&arena, &k.tables, table);
    int pos = kir_add_buffer(&arena, &k, (kir_buffer){"pos", KIR_PER_ROW, KIR_I32, 1, 1, false}),
        out = kir_add_buffer(&arena, &k, (kir_buffer){"y", KIR_MATRIX, KIR_F64, N, N, true});
    int p = kir_emit(&arena, &k, (kir_inst){.op = KIR_load_row, .buffer = pos}),
        p64 = kir_emit(&arena, &k, (kir_inst){.op = KIR_to_f64, .args = {p}, .buffer = -1});
    int t = kir_emit(&arena, &k, (kir_inst){.op = KIR_table, .table = 0, .buffer = -1}),
        a = kir_emit(&arena, &k, (kir_inst){.op = KIR_mul, .args = {p64, t}, .buffer = -1});
    int c = kir_emit(&arena, &k, (kir_inst){.op = KIR_cos, .args = {a}, .buffer = -1});
    kir_emit(&arena, &k, (kir_inst){.op = KIR_store, .args = {c}, .buffer = out});
    built b = build_kernel(&k, target);
    int32_t *positions = new_buffer(ROWS * 4);
    double *got = new_buffer(ROWS * N * 8), worst = 0;
    for (int i = 0; i < ROWS; i++) positions[i] = i < 2048 ? i : (int32_t)(random_bits() % 131072);
    positions[ROWS - 1] = -5;
    void *buffers[] = {positions, got};
    run_kernel(&b, buffers, ROWS);
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < N; j++) {
            double angle = positions[i] * values[j];
            if (fabs(angle) >= 0x1p30) continue;
            double error = fabs(got[i * N + j] - cos(angle));
            if (error > worst) worst = error;
        }
    assert_true(worst <= 1e-14);
    free(positions);
    free(got);
    drop_kernel(&b);
    syl_arena_free(&arena);
}

/* Bit patterns spread over all of f32, with every rounding tie of the narrow formats' neighbourhood. */
static void fill_patterns(function *f, int part) {
    for (int i = 0; i < COLS; i++) {
        uint32_t u = (uint32_t)i << 16;
        static const uint32_t low[] = {0, 0x8000, 0x7fff, 0x8001, 0xffff, 0x1000, 0x3000, 0xe000};
        f->in[i] = from_bits(u | low[part]);
    }
}

static void check_roundings(const syl_host_target *target) {
    function bf16, f16, whole, bf16_store, f16_store;
    make(&bf16, target, KIR_round_bf16, KIR_F32);
    make(&f16, target, KIR_round_f16, KIR_F32);
    make(&whole, target, KIR_round, KIR_F32);
    make(&bf16_store, target, KIR_abs, KIR_BF16);
    make(&f16_store, target, KIR_neg, KIR_F16);
    for (int part = 0; part < 8; part++) {
        function *all[] = {&bf16, &f16, &whole, &bf16_store, &f16_store};
        for (int k = 0; k < 5; k++) {
            fill_patterns(all[k], part);
            run(all[k]);
        }
        for (int i = 0; i < COLS; i++) {
            float x = bf16.in[i];
            if (isnan(x)) {
                assert_true(isnan(bf16.out[i]) && isnan(f16.out[i]) && isnan(whole.out[i]));
                assert_true(isnan(syl_bf16_to_f32(((uint16_t *)bf16_store.out)[i])) &&
                            isnan(syl_f16_to_f32(((uint16_t *)f16_store.out)[i])));
                continue;
            }
            assert_int_equal(to_bits(bf16.out[i]), to_bits(syl_bf16_to_f32(syl_bf16_from_f32(x))));
            assert_int_equal(to_bits(f16.out[i]), to_bits(syl_f16_to_f32(syl_f16_from_f32(x))));
            assert_int_equal(to_bits(whole.out[i]), to_bits(nearbyintf(x)));
            assert_int_equal(((uint16_t *)bf16_store.out)[i], syl_bf16_from_f32(fabsf(x)));
            assert_int_equal(((uint16_t *)f16_store.out)[i], syl_f16_from_f32(-x));
        }
    }
    drop(&bf16), drop(&f16), drop(&whole), drop(&bf16_store), drop(&f16_store);
}

/* Every half: loaded and stored again it is itself. */
static void check_f16_load(const syl_host_target *target) {
    syl_arena arena;
    syl_arena_init(&arena);
    kir_kernel k = {.kind = KIR_ROWS, .name = "halves", .cols = COLS};
    int in = kir_add_buffer(&arena, &k, (kir_buffer){"x", KIR_MATRIX, KIR_F16, COLS, COLS, false}),
        out = kir_add_buffer(&arena, &k, (kir_buffer){"y", KIR_MATRIX, KIR_F32, COLS, COLS, true});
    int x = kir_emit(&arena, &k, (kir_inst){.op = KIR_load, .buffer = in});
    kir_emit(&arena, &k, (kir_inst){.op = KIR_store, .args = {x}, .buffer = out});
    built b = build_kernel(&k, target);
    uint16_t *halves = new_buffer(COLS * 2);
    float *got = new_buffer(COLS * 4);
    for (int i = 0; i < COLS; i++) halves[i] = (uint16_t)i;
    void *buffers[] = {halves, got};
    run_kernel(&b, buffers, 1);
    for (int i = 0; i < COLS; i++) {
        float expected = syl_f16_to_f32((uint16_t)i);
        assert_true(isnan(expected) ? isnan(got[i]) : to_bits(got[i]) == to_bits(expected));
    }
    free(halves);
    free(got);
    drop_kernel(&b);
    syl_arena_free(&arena);
}

static void exp_within_2_ulp(void **state) {
    (void)state;
    for_each_target(check_exp);
}
static void cos_within_bound(void **state) {
    (void)state;
    for_each_target(check_cos);
}
static void roundings_match(void **state) {
    (void)state;
    for_each_target(check_roundings);
    for_each_target(check_f16_load);
}

static void unknown_targets_are_refused(void **state) {
    (void)state;
    syl_arena arena;
    syl_arena_init(&arena);
    syl_text errors = {.arena = &arena};
    syl_diag *diag = syl_diag_create(syl_diag_capture, &errors);
    syl_host_target target;
    assert_int_equal(syl_host_target_find("hots", diag, &target), SYL_USAGE);
    assert_non_null(strstr(errors.p, "unknown target 'hots'"));
    syl_diag_destroy(diag);
    syl_arena_free(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(exp_within_2_ulp), cmocka_unit_test(cos_within_bound),
                                       cmocka_unit_test(roundings_match),
                                       cmocka_unit_test(unknown_targets_are_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
