/* Generated GEMM kernels against plain loops: integer products exactly, float ones closely, and the same bits for a row whatever the batch. */
#include "codegen_testing.h"
#include <math.h>
#include "base/numeric.h"

typedef struct gemm_case {
    syl_arena arena;
    kir_kernel kernel;
    kir_type a_elem, w_elem;
    int64_t n, k, stride;
    int scale, bias, residual, row_scale, out;
} gemm_case;

/* out = acc * row_scale * scale + bias + residual */
static void make_case(gemm_case *c, const syl_host_target *target, kir_type a_elem, kir_type w_elem,
                      int64_t n, int64_t k) {
    *c = (gemm_case){.a_elem = a_elem, .w_elem = w_elem, .n = n, .k = k, .stride = k + 3};
    syl_arena_init(&c->arena);
    kir_kernel *g = &c->kernel;
    g->kind = KIR_GEMM;
    g->name = "gemm";
    int a = kir_add_buffer(&c->arena, g, (kir_buffer){"a", KIR_MATRIX, a_elem, k, c->stride, false});
    int w = kir_add_buffer(&c->arena, g, (kir_buffer){"w", KIR_PACKED, w_elem, k, k, false});
    g->gemm = (kir_gemm){.a = a, .w = w, .n = n, .k = k};
    syl_host_tile(target, a_elem, w_elem, &g->gemm);
    c->row_scale = kir_add_buffer(&c->arena, g, (kir_buffer){"row_scale", KIR_PER_ROW, KIR_F32, 1, 1, false});
    c->scale = kir_add_buffer(&c->arena, g, (kir_buffer){"scale", KIR_PER_COL, KIR_F32, n, n, false});
    c->bias = kir_add_buffer(&c->arena, g, (kir_buffer){"bias", KIR_PER_COL, KIR_F32, n, n, false});
    c->residual = kir_add_buffer(&c->arena, g, (kir_buffer){"residual", KIR_MATRIX, KIR_F32, n, n, false});
    c->out = kir_add_buffer(&c->arena, g, (kir_buffer){"out", KIR_MATRIX, KIR_F32, n, n + 5, true});
    int acc = kir_emit(&c->arena, g, (kir_inst){.op = KIR_acc, .buffer = -1});
    int x = kir_emit(&c->arena, g, (kir_inst){.op = KIR_to_f32, .args = {acc}, .buffer = -1});
    int rs = kir_emit(&c->arena, g, (kir_inst){.op = KIR_load_row, .buffer = c->row_scale});
    int s = kir_emit(&c->arena, g, (kir_inst){.op = KIR_load_col, .buffer = c->scale});
    x = kir_emit(&c->arena, g, (kir_inst){.op = KIR_mul, .args = {x, rs}, .buffer = -1});
    x = kir_emit(&c->arena, g, (kir_inst){.op = KIR_mul, .args = {x, s}, .buffer = -1});
    int b = kir_emit(&c->arena, g, (kir_inst){.op = KIR_load_col, .buffer = c->bias});
    x = kir_emit(&c->arena, g, (kir_inst){.op = KIR_add, .args = {x, b}, .buffer = -1});
    int r = kir_emit(&c->arena, g, (kir_inst){.op = KIR_load, .buffer = c->residual});
    x = kir_emit(&c->arena, g, (kir_inst){.op = KIR_add, .args = {x, r}, .buffer = -1});
    kir_emit(&c->arena, g, (kir_inst){.op = KIR_store, .args = {x}, .buffer = c->out});
}

static size_t size_of(kir_type type) {
    return type == KIR_I8 ? 1 : type == KIR_BF16 ? 2 : 4;
}

static double element(const void *data, kir_type type, int64_t i) {
    return type == KIR_I8     ? ((const int8_t *)data)[i]
           : type == KIR_BF16 ? syl_bf16_to_f32(((const uint16_t *)data)[i])
                              : ((const float *)data)[i];
}

static void *random_data(kir_type type, int64_t n) {
    void *data = new_buffer((size_t)n * size_of(type));
    for (int64_t i = 0; i < n; i++) {
        if (type == KIR_I8)
            ((int8_t *)data)[i] = random_code();
        else if (type == KIR_BF16)
            ((uint16_t *)data)[i] = syl_bf16_from_f32(random_float());
        else
            ((float *)data)[i] = random_float();
    }
    return data;
}

static void check_case(const syl_host_target *target, kir_type a_elem, kir_type w_elem, int64_t n,
                       int64_t k) {
    enum { MAX_ROWS = 13 };
    gemm_case c;
    make_case(&c, target, a_elem, w_elem, n, k);
    built b = build_kernel(&c.kernel, target);
    void *a = random_data(a_elem, MAX_ROWS * c.stride), *w = random_data(w_elem, n * k);
    float *row_scale = random_data(KIR_F32, MAX_ROWS), *scale = random_data(KIR_F32, n),
          *bias = random_data(KIR_F32, n);
    float *residual = random_data(KIR_F32, MAX_ROWS * n);
    size_t out_bytes = (size_t)(MAX_ROWS * (n + 5)) * 4, packed_bytes;
    float *out = new_buffer(out_bytes), *all = new_buffer(out_bytes);
    syl_plan_weight weight = {.elem = w_elem,
                              .rows = n,
                              .cols = k,
                              .packed = true,
                              .dot = c.kernel.gemm.dot,
                              .nr = c.kernel.gemm.nr,
                              .ku = c.kernel.gemm.ku};
    assert_true(syl_host_packed_size(&weight, &packed_bytes));
    void *packed = new_buffer(packed_bytes);
    int64_t panels = syl_host_panels(&weight);
    syl_host_pack(&weight, &(syl_weight_source){.data = w}, packed, 0, panels / 2);
    syl_host_pack(&weight, &(syl_weight_source){.data = w}, packed, panels / 2, panels);
    check_slack(packed, packed_bytes);
    for (int rows = MAX_ROWS; rows >= 1; rows -= rows > 4 ? 4 : 1) {
        for (size_t i = 0; i < out_bytes / 4; i++) out[i] = 777;
        void *buffers[] = {a, packed, row_scale, scale, bias, residual, out};
        run_kernel(&b, buffers, rows);
        check_slack(out, out_bytes);
        for (int64_t i = 0; i < MAX_ROWS; i++) {
            for (int64_t j = 0; j < n + 5; j++) {
                float got = out[i * (n + 5) + j];
                if (i >= rows || j >= n) {
                    assert_true(got == 777);
                    continue;
                }
                if (rows == MAX_ROWS) {
                    double acc = 0, size = 0;
                    for (int64_t x = 0; x < k; x++) {
                        double product = element(a, a_elem, i * c.stride + x) * element(w, w_elem, j * k + x);
                        acc += product;
                        size += fabs(product);
                    }
                    if (a_elem == KIR_I8) {
                        float exact = (float)acc * row_scale[i] * scale[j] + bias[j] + residual[i * n + j];
                        assert_true(got == exact);
                    } else {
                        double expected = acc * row_scale[i] * scale[j] + bias[j] + residual[i * n + j];
                        assert_true(fabs(got - expected) <= 1e-6 * (size + 4));
                    }
                } else {
                    assert_memory_equal(&got, &all[i * (n + 5) + j], 4);
                }
            }
        }
        if (rows == MAX_ROWS) memcpy(all, out, out_bytes);
    }
    void *owned[] = {a, w, row_scale, scale, bias, residual, out, all, packed};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    drop_kernel(&b);
    syl_arena_free(&c.arena);
}

static void check_shapes(kir_type a_elem, kir_type w_elem, int every) {
    static const int64_t ns[] = {1, 5, 48, 50, 97}, ks[] = {1, 3, 4, 64, 97};
    for (int t = 0; t < N_TARGETS; t++) {
        syl_host_target target;
        if (!find_target(all_targets[t], &target)) continue;
        /* each n with some k and each k with some n: code is made anew for each shape */
        for (int i = 0; i < 5; i += every) check_case(&target, a_elem, w_elem, ns[i], ks[(i + t + 1) % 5]);
        check_case(&target, a_elem, w_elem, 97, 97);
    }
}

static void integers_are_exact(void **state) {
    (void)state;
    check_shapes(KIR_I8, KIR_I8, 1);
}

static void floats_are_close(void **state) {
    (void)state;
    check_shapes(KIR_F32, KIR_F32, 1);
    check_shapes(KIR_F32, KIR_BF16, 2);
    check_shapes(KIR_BF16, KIR_BF16, 2);
}

/* Codes of the largest size in one long sum: no intermediate may saturate. */
static void extreme_codes_do_not_saturate(void **state) {
    (void)state;
    enum { K = 1537, N = 17 };
    for (int t = 0; t < N_TARGETS; t++) {
        syl_host_target target;
        if (!find_target(all_targets[t], &target)) continue;
        gemm_case c;
        make_case(&c, &target, KIR_I8, KIR_I8, N, K);
        built b = build_kernel(&c.kernel, &target);
        int8_t *a = new_buffer(K + 3), *w = new_buffer(N * K);
        memset(a, -127, K);
        memset(w, -127, N * K);
        float one[N], zero[N] = {0}, *ones = new_buffer(4 * N), *zeros = new_buffer(4 * N),
                      *out = new_buffer(4 * (N + 5));
        for (int i = 0; i < N; i++) one[i] = 1;
        memcpy(ones, one, sizeof one);
        memcpy(zeros, zero, sizeof zero);
        syl_plan_weight weight = {.elem = KIR_I8,
                                  .rows = N,
                                  .cols = K,
                                  .packed = true,
                                  .dot = c.kernel.gemm.dot,
                                  .nr = c.kernel.gemm.nr,
                                  .ku = c.kernel.gemm.ku};
        size_t packed_bytes;
        assert_true(syl_host_packed_size(&weight, &packed_bytes));
        void *packed = new_buffer(packed_bytes);
        syl_host_pack(&weight, &(syl_weight_source){.data = w}, packed, 0, syl_host_panels(&weight));
        void *buffers[] = {a, packed, ones, ones, zeros, zeros, out};
        run_kernel(&b, buffers, 1);
        for (int j = 0; j < N; j++) assert_true(out[j] == (float)(127.0 * 127 * K));
        void *owned[] = {a, w, ones, zeros, out, packed};
        for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
        drop_kernel(&b);
        syl_arena_free(&c.arena);
    }
}

/* More rows than a block, in ranges of tasks as the executor hands them out. */
static void task_ranges_cover_everything(void **state) {
    (void)state;
    enum { ROWS = 150, N = 100, K = 40 };
    syl_host_target target;
    assert_true(find_target("host", &target));
    gemm_case c;
    make_case(&c, &target, KIR_I8, KIR_I8, N, K);
    built b = build_kernel(&c.kernel, &target);
    int8_t *a = random_data(KIR_I8, ROWS * (K + 3)), *w = random_data(KIR_I8, N * K);
    float *ones = random_data(KIR_F32, ROWS), *scale = random_data(KIR_F32, N),
          *residual = random_data(KIR_F32, ROWS * N), *out = new_buffer(4 * ROWS * (N + 5));
    for (int i = 0; i < ROWS; i++) ones[i] = 1;
    syl_plan_weight weight = {.elem = KIR_I8,
                              .rows = N,
                              .cols = K,
                              .packed = true,
                              .dot = c.kernel.gemm.dot,
                              .nr = c.kernel.gemm.nr,
                              .ku = c.kernel.gemm.ku};
    size_t packed_bytes;
    assert_true(syl_host_packed_size(&weight, &packed_bytes));
    void *packed = new_buffer(packed_bytes), *buffers[] = {a, packed, ones, scale, scale, residual, out};
    syl_host_pack(&weight, &(syl_weight_source){.data = w}, packed, 0, syl_host_panels(&weight));
    int64_t tasks = kir_tasks(&c.kernel, ROWS);
    for (int64_t begin = 0; begin < tasks; begin += 2)
        b.function(buffers, ROWS, begin, begin + 2 < tasks ? begin + 2 : tasks, b.scratch);
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < N; j++) {
            int sum = 0;
            for (int k = 0; k < K; k++) sum += a[i * (K + 3) + k] * w[j * K + k];
            assert_true(out[i * (N + 5) + j] ==
                        (float)sum * 1.0f * scale[j] + scale[j] + residual[i * N + j]);
        }
    void *owned[] = {a, w, ones, scale, residual, out, packed};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    drop_kernel(&b);
    syl_arena_free(&c.arena);
}

static void packing_checks_sizes(void **state) {
    (void)state;
    size_t bytes;
    syl_plan_weight weight = {.elem = KIR_F32,
                              .rows = (int64_t)1 << 40,
                              .cols = (int64_t)1 << 40,
                              .packed = true,
                              .nr = 16,
                              .ku = 1};
    assert_false(syl_host_packed_size(&weight, &bytes));
    weight = (syl_plan_weight){
        .elem = KIR_I8, .rows = 50, .cols = 5, .packed = true, .dot = KIR_DOT_VNNI, .nr = 48, .ku = 4};
    assert_true(syl_host_packed_size(&weight, &bytes));
    assert_int_equal(bytes, 96 * 8 + 96 * 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integers_are_exact),
        cmocka_unit_test(floats_are_close),
        cmocka_unit_test(extreme_codes_do_not_saturate),
        cmocka_unit_test(task_ranges_cover_everything),
        cmocka_unit_test(packing_checks_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
