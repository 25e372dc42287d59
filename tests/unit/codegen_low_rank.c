/* The two instructions of a low-rank branch against plain loops, over sizes that divide nothing: bit by bit where the target has fma (docs/numerics.md
 * fixes the order of the sums), closely elsewhere. */
#include "codegen_testing.h"
#include <math.h>
#include "base/numeric.h"

static int64_t elem_bytes(kir_type type) {
    return type == KIR_I8 ? 1 : type == KIR_BF16 ? 2 : 4;
}

static void put(void *data, kir_type type, int64_t i, float x) {
    if (type == KIR_BF16)
        ((uint16_t *)data)[i] = syl_bf16_from_f32(x);
    else
        ((float *)data)[i] = x;
}

static float get(const void *data, kir_type type, int64_t i) {
    return type == KIR_BF16 ? syl_bf16_to_f32(((const uint16_t *)data)[i]) : ((const float *)data)[i];
}

static void *random_data(kir_type type, int64_t n) {
    void *data = new_buffer((size_t)(n * elem_bytes(type)));
    for (int64_t i = 0; i < n; i++) {
        if (type == KIR_I8)
            ((int8_t *)data)[i] = random_code();
        else
            put(data, type, i, random_float());
    }
    return data;
}

/* A product is rounded by itself where the target has no fma. */
static float multiply_add(const syl_host_target *target, float a, float b, float c) {
    if (target->fma) return fmaf(a, b, c);
    volatile float product = a * b;
    return product + c;
}

/* ---- down: 2 x, quantized beside its projection ---- */

static float projection(const syl_host_target *target, int run, const float *x, const void *d, kir_type elem,
                        int64_t cols, int64_t q) {
    float lane[32] = {0};
    for (int64_t j = 0; j < cols; j++) {
        float *sum = &lane[j / run % 32];
        *sum = multiply_add(target, 2 * x[j], get(d, elem, q * cols + j), *sum);
    }
    for (int s = 16; s >= 1; s /= 2)
        for (int i = 0; i < s; i++) lane[i] += lane[i + s];
    return lane[0];
}

static void project_case(const syl_host_target *target, int64_t cols, int64_t rank, kir_type d_elem,
                         kir_type out_elem) {
    enum { ROWS = 3, GAP = 2 };
    syl_arena arena;
    syl_arena_init(&arena);
    kir_kernel kernel = {.kind = KIR_ROWS, .name = "project", .cols = cols};
    int x = kir_add_buffer(&arena, &kernel, (kir_buffer){"x", KIR_MATRIX, KIR_F32, cols, cols, false});
    int d = kir_add_buffer(&arena, &kernel, (kir_buffer){"d", KIR_MATRIX, d_elem, cols, cols, false});
    int t = kir_add_buffer(&arena, &kernel, (kir_buffer){"t", KIR_MATRIX, out_elem, rank, rank + GAP, true});
    int twice = kir_add_buffer(&arena, &kernel, (kir_buffer){"y", KIR_MATRIX, KIR_F32, cols, cols, true});
    int v = kir_emit(&arena, &kernel, (kir_inst){.op = KIR_load, .buffer = x});
    v = kir_emit(&arena, &kernel, (kir_inst){.op = KIR_add, .args = {v, v}, .buffer = -1});
    kir_emit(&arena, &kernel, (kir_inst){.op = KIR_project, .args = {v}, .buffer = t, .second = d});
    kir_emit(&arena, &kernel, (kir_inst){.op = KIR_store, .args = {v}, .buffer = twice});
    int run = d_elem == KIR_F32 ? 4 : 8; /* neighbours of a lane: 16 bytes, or what divides the row */
    while (cols % run) run /= 2;
    built b = build_kernel(&kernel, target);
    float *xs = random_data(KIR_F32, ROWS * cols), *ys = new_buffer((size_t)(ROWS * cols) * 4);
    void *ds = random_data(d_elem, rank * cols);
    size_t bytes = (size_t)(ROWS * (rank + GAP) * elem_bytes(out_elem));
    void *out = new_buffer(bytes);
    for (int64_t i = 0; i < ROWS * (rank + GAP); i++) put(out, out_elem, i, 777);
    void *buffers[] = {xs, ds, out, ys};
    run_kernel(&b, buffers, ROWS);
    check_slack(out, bytes);
    for (int64_t i = 0; i < ROWS; i++) {
        for (int64_t q = 0; q < rank; q++) {
            float expected = projection(target, run, xs + i * cols, ds, d_elem, cols, q);
            if (out_elem == KIR_BF16) expected = syl_bf16_to_f32(syl_bf16_from_f32(expected));
            assert_true(get(out, out_elem, i * (rank + GAP) + q) == expected);
        }
        for (int64_t q = rank; q < rank + GAP; q++)
            assert_true(get(out, out_elem, i * (rank + GAP) + q) == get(out, out_elem, rank));
        for (int64_t j = 0; j < cols; j++) assert_true(ys[i * cols + j] == 2 * xs[i * cols + j]);
    }
    void *owned[] = {xs, ys, ds, out};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    drop_kernel(&b);
    syl_arena_free(&arena);
}

static void projections(void **state) {
    (void)state;
    static const int64_t cols[] = {1, 16, 33, 576, 90, 1516, 1544}, ranks[] = {3, 32, 1, 13};
    for (int t = 0; t < N_TARGETS; t++) {
        syl_host_target target;
        if (!find_target(all_targets[t], &target)) continue;
        for (int i = 0; i < 14; i++)
            project_case(&target, cols[i % 7], ranks[(i + t) % 4], i % 2 ? KIR_BF16 : KIR_F32,
                         i % 4 < 2 ? KIR_F32 : KIR_BF16);
    }
}

/* ---- up: main + branch, either order of types ---- */

typedef struct branch_case {
    kir_type a, w, t, u;
    int64_t n, k, rank;
} branch_case;

static void *pack(const syl_plan_weight *weight, const void *data) {
    size_t bytes;
    assert_true(syl_host_packed_size(weight, &bytes));
    void *packed = new_buffer(bytes);
    syl_host_pack(weight, &(syl_weight_source){.data = data}, packed, 0, syl_host_panels(weight));
    check_slack(packed, bytes);
    return packed;
}

static void branch(const syl_host_target *target, const branch_case *c) {
    enum { MAX_ROWS = 13, GAP = 3 };
    syl_arena arena;
    syl_arena_init(&arena);
    kir_kernel kernel = {.kind = KIR_GEMM, .name = "branch"};
    int a = kir_add_buffer(&arena, &kernel, (kir_buffer){"a", KIR_MATRIX, c->a, c->k, c->k, false});
    int w = kir_add_buffer(&arena, &kernel, (kir_buffer){"w", KIR_PACKED, c->w, 0, 0, false});
    int t =
        kir_add_buffer(&arena, &kernel, (kir_buffer){"t", KIR_MATRIX, c->t, c->rank, c->rank + GAP, false});
    int u = kir_add_buffer(&arena, &kernel, (kir_buffer){"u", KIR_PACKED, c->u, 0, 0, false});
    int main_out = kir_add_buffer(&arena, &kernel, (kir_buffer){"m", KIR_MATRIX, KIR_F32, c->n, c->n, true});
    int low_out = kir_add_buffer(&arena, &kernel, (kir_buffer){"s", KIR_MATRIX, KIR_F32, c->n, c->n, true});
    kernel.gemm = (kir_gemm){.a = a, .w = w, .n = c->n, .k = c->k};
    syl_host_tile(target, c->a, c->w, &kernel.gemm);
    kernel.branch = (kir_branch){t, u, c->rank};
    int acc = kir_emit(&arena, &kernel, (kir_inst){.op = KIR_acc, .buffer = -1});
    if (c->a == KIR_I8)
        acc = kir_emit(&arena, &kernel, (kir_inst){.op = KIR_to_f32, .args = {acc}, .buffer = -1});
    int low = kir_emit(&arena, &kernel, (kir_inst){.op = KIR_low_rank, .buffer = -1});
    kir_emit(&arena, &kernel, (kir_inst){.op = KIR_store, .args = {acc}, .buffer = main_out});
    kir_emit(&arena, &kernel, (kir_inst){.op = KIR_store, .args = {low}, .buffer = low_out});
    built b = build_kernel(&kernel, target);

    void *as = random_data(c->a, MAX_ROWS * c->k), *ws = random_data(c->w, c->n * c->k),
         *ts = random_data(c->t, MAX_ROWS * (c->rank + GAP)), *us = random_data(c->u, c->n * c->rank);
    syl_plan_weight main_weight = {.elem = c->w,
                                   .rows = c->n,
                                   .cols = c->k,
                                   .packed = true,
                                   .dot = kernel.gemm.dot,
                                   .nr = kernel.gemm.nr,
                                   .ku = kernel.gemm.ku},
                    low_weight = {.elem = c->u,
                                  .rows = c->n,
                                  .cols = c->rank,
                                  .packed = true,
                                  .dot = KIR_DOT_F32,
                                  .nr = kernel.gemm.nr,
                                  .ku = 1};
    void *w_packed = pack(&main_weight, ws), *u_packed = pack(&low_weight, us);
    size_t bytes = (size_t)(MAX_ROWS * c->n) * 4;
    float *ms = new_buffer(bytes), *ss = new_buffer(bytes);
    void *buffers[] = {as, w_packed, ts, u_packed, ms, ss};
    for (int rows = MAX_ROWS; rows >= 1; rows -= rows > 4 ? 4 : 1) {
        memset(ss, 0x55, bytes);
        run_kernel(&b, buffers, rows);
        check_slack(ms, bytes);
        check_slack(ss, bytes);
        for (int64_t i = 0; i < rows; i++)
            for (int64_t n = 0; n < c->n; n++) {
                float low_sum = 0;
                double sum = 0;
                for (int64_t r = 0; r < c->rank; r++)
                    low_sum = multiply_add(target, get(ts, c->t, i * (c->rank + GAP) + r),
                                           get(us, c->u, n * c->rank + r), low_sum);
                assert_true(ss[i * c->n + n] == low_sum);
                for (int64_t k = 0; k < c->k; k++)
                    sum += c->a == KIR_I8
                               ? (double)((int8_t *)as)[i * c->k + k] * ((int8_t *)ws)[n * c->k + k]
                               : (double)get(as, c->a, i * c->k + k) * (double)get(ws, c->w, n * c->k + k);
                assert_true(fabs(ms[i * c->n + n] - sum) <= (c->a == KIR_I8 ? 0 : 1e-4));
            }
        uint32_t untouched;
        for (int64_t i = rows * c->n; i < MAX_ROWS * c->n; i++) {
            memcpy(&untouched, &ss[i], 4);
            assert_int_equal(untouched, 0x55555555);
        }
    }
    void *owned[] = {as, ws, ts, us, w_packed, u_packed, ms, ss};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    drop_kernel(&b);
    syl_arena_free(&arena);
}

static void branches(void **state) {
    (void)state;
    static const branch_case cases[] = {
        {KIR_I8, KIR_I8, KIR_F32, KIR_BF16, 97, 33, 32},
        {KIR_I8, KIR_I8, KIR_BF16, KIR_BF16, 48, 64, 5},
        {KIR_I8, KIR_I8, KIR_F32, KIR_F32, 3, 7, 1},
        {KIR_F32, KIR_BF16, KIR_F32, KIR_BF16, 50, 20, 13},
        {KIR_BF16, KIR_BF16, KIR_BF16, KIR_BF16, 17, 40, 64},
    };
    for (int t = 0; t < N_TARGETS; t++) {
        syl_host_target target;
        if (!find_target(all_targets[t], &target)) continue;
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) branch(&target, &cases[i]);
    }
}

/* What the generator relies on is checked before it runs. */
static void broken_kernels_are_refused(void **state) {
    (void)state;
    syl_arena arena;
    syl_arena_init(&arena);
    syl_diag *diag = syl_diag_create(NULL, NULL);
    for (int what = 0; what < 4; what++) {
        kir_kernel kernel = {.kind = what == 3 ? KIR_GEMM : KIR_ROWS, .name = "broken", .cols = 8};
        int x = kir_add_buffer(&arena, &kernel, (kir_buffer){"x", KIR_MATRIX, KIR_F32, 8, 8, false});
        int d = kir_add_buffer(&arena, &kernel,
                               (kir_buffer){"d", KIR_MATRIX, KIR_F32, what == 1 ? 7 : 8, 8, false});
        int t = kir_add_buffer(&arena, &kernel, (kir_buffer){"t", KIR_MATRIX, KIR_F32, 4, 4, what != 2});
        kernel.gemm = (kir_gemm){.a = x, .w = d, .n = 8, .k = 8, .mr = 1, .nr = 16, .ku = 1, .mblock = 64};
        if (what == 3) {
            kir_emit(&arena, &kernel, (kir_inst){.op = KIR_low_rank, .buffer = -1});
        } else {
            int v = kir_emit(&arena, &kernel, (kir_inst){.op = KIR_load, .buffer = x});
            kir_emit(&arena, &kernel, (kir_inst){.op = KIR_project, .args = {v}, .buffer = t, .second = d});
        }
        assert_int_equal(kir_verify(&kernel, diag) == SYL_OK, what == 0);
    }
    syl_diag_destroy(diag);
    syl_arena_free(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(projections),
        cmocka_unit_test(branches),
        cmocka_unit_test(broken_kernels_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
