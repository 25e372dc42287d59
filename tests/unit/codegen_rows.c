/* Generated row kernels against plain loops: the order of reductions, stages and kept values, transforms, loads and stores of every element type. */
#include "codegen_testing.h"
#include <math.h>
#include "base/hadamard.h"
#include "base/numeric.h"
#include "codegen/rows_layout.h"

static const int64_t widths[] = {1, 7, 16, 33, 576, 90, 1009, 1536, 4096};

typedef struct making {
    syl_arena arena;
    kir_kernel kernel;
} making;

static void start(making *m, int64_t cols) {
    *m = (making){0};
    syl_arena_init(&m->arena);
    m->kernel = (kir_kernel){.kind = KIR_ROWS, .name = "rows", .cols = cols};
}
static int buffer(making *m, const char *name, kir_shape shape, kir_type elem, int64_t stride, bool written) {
    return kir_add_buffer(&m->arena, &m->kernel,
                          (kir_buffer){name, shape, elem, m->kernel.cols, stride, written});
}
static int emit(making *m, kir_op op, int a, int b, int buf) {
    return kir_emit(&m->arena, &m->kernel, (kir_inst){.op = op, .args = {a, b}, .buffer = buf});
}
static int imm(making *m, double f) {
    return kir_emit(&m->arena, &m->kernel, (kir_inst){.op = KIR_imm, .f = f, .buffer = -1});
}

/* The sum of docs/numerics.md, "Reductions". */
static float row_sum(const kir_kernel *kernel, const float *x, int64_t n) {
    rows_shape shape = rows_shape_of(kernel);
    int threads = shape.threads, vector = shape.vector, chains = vector > 4 ? vector : 4;
    float *part = calloc((size_t)(threads * chains), sizeof *part), total = 0;
    for (int64_t j = 0; j < n; j++) part[j % (threads * chains)] += x[j];
    for (int w = 0; w < threads; w += 32) { /* a warp */
        float lane[32] = {0};
        for (int t = w; t < threads && t < w + 32; t++) {
            float own[8];
            for (int c = 0; c < chains; c++) own[c] = part[(c / vector * threads + t) * vector + c % vector];
            for (int s = 1; s < chains; s *= 2)
                for (int c = 0; c < chains; c += 2 * s) own[c] += own[c + s];
            lane[t - w] = own[0];
        }
        for (int s = (threads < 32 ? threads : 32) / 2; s >= 1; s /= 2)
            for (int i = 0; i < s; i++) lane[i] += lane[i + s];
        total += lane[0];
    }
    free(part);
    return total;
}

/* RMS norm, then per-row int8: the shape of most of a quantized model's row kernels. Everything is fixed but fma, so results are compared exactly. */
static void norm_and_quantize(const syl_host_target *target, int64_t cols) {
    enum { ROWS = 3 };
    making m;
    start(&m, cols);
    int64_t stride = cols + 3;
    int in = buffer(&m, "x", KIR_MATRIX, KIR_F32, stride, false),
        gain = buffer(&m, "gain", KIR_PER_COL, KIR_F32, cols, false);
    int codes = buffer(&m, "codes", KIR_MATRIX, KIR_I8, stride, true),
        scales = buffer(&m, "scales", KIR_PER_ROW, KIR_F32, 1, true);
    int normed = buffer(&m, "normed", KIR_MATRIX, KIR_BF16, stride, true);
    int x = emit(&m, KIR_load, 0, 0, in);
    int mean = emit(&m, KIR_mul, emit(&m, KIR_reduce_sum, emit(&m, KIR_mul, x, x, -1), 0, -1),
                    imm(&m, 1.0 / (double)cols), -1);
    int inverse = emit(&m, KIR_recip_or_zero,
                       emit(&m, KIR_sqrt, emit(&m, KIR_add, mean, imm(&m, 1e-5), -1), 0, -1), 0, -1);
    int y = emit(&m, KIR_mul, emit(&m, KIR_mul, x, inverse, -1), emit(&m, KIR_load_col, 0, 0, gain), -1);
    emit(&m, KIR_store, y, 0, normed);
    int s = emit(&m, KIR_mul, emit(&m, KIR_reduce_max, emit(&m, KIR_abs, y, 0, -1), 0, -1),
                 imm(&m, 1.0 / 127), -1);
    emit(&m, KIR_store_row, s, 0, scales);
    int code = emit(&m, KIR_round, emit(&m, KIR_mul, y, emit(&m, KIR_recip_or_zero, s, 0, -1), -1), 0, -1);
    code = emit(&m, KIR_max, emit(&m, KIR_min, code, imm(&m, 127), -1), imm(&m, -127), -1);
    emit(&m, KIR_store, emit(&m, KIR_to_i8, code, 0, -1), 0, codes);
    built b = build_kernel(&m.kernel, target);

    size_t n = (size_t)(ROWS * stride);
    float *xs = new_buffer(n * 4), *gains = new_buffer((size_t)cols * 4), *got_scales = new_buffer(ROWS * 4),
          *work = calloc((size_t)cols, 8), *ys = work + cols;
    int8_t *got = new_buffer(n);
    uint16_t *got_normed = new_buffer(n * 2);
    for (size_t i = 0; i < n; i++) xs[i] = 5 * random_float();
    for (int64_t j = 0; j < cols; j++) {
        xs[stride + j] = 0; /* a row of zeros */
        gains[j] = 1 + random_float();
    }
    memset(got, 99, n);
    memset(got_normed, 99, n * 2);
    void *buffers[] = {xs, gains, got, got_scales, got_normed};
    run_kernel(&b, buffers, ROWS);
    for (int64_t i = 0; i < ROWS; i++) {
        for (int64_t j = 0; j < cols; j++) work[j] = xs[i * stride + j] * xs[i * stride + j];
        float inv = 1.0f / sqrtf(row_sum(&m.kernel, work, cols) * (float)(1.0 / (double)cols) + 1e-5f),
              top = 0;
        for (int64_t j = 0; j < cols; j++) {
            ys[j] = xs[i * stride + j] * inv * gains[j];
            top = fmaxf(top, fabsf(ys[j]));
        }
        float scale = top * (float)(1.0 / 127), over = scale == 0 ? 0 : 1.0f / scale;
        assert_true(got_scales[i] == scale);
        for (int64_t j = 0; j < cols; j++) {
            assert_int_equal(got[i * stride + j], (int)fminf(fmaxf(nearbyintf(ys[j] * over), -127), 127));
            assert_int_equal(got_normed[i * stride + j], syl_bf16_from_f32(ys[j]));
        }
        for (int64_t j = cols; j < stride; j++) {
            assert_int_equal(got[i * stride + j], 99);
            assert_int_equal(got_normed[i * stride + j], 0x6363);
        }
    }
    check_slack(got, n);
    check_slack(got_normed, n * 2);
    void *owned[] = {xs, gains, got_scales, work, got, got_normed};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    drop_kernel(&b);
    syl_arena_free(&m.arena);
}

static void norms(void **state) {
    (void)state;
    for (int t = 0; t < N_TARGETS; t++) {
        syl_host_target target;
        if (!find_target(all_targets[t], &target)) continue;
        for (int i = 0; i < 9; i++) norm_and_quantize(&target, widths[i]);
    }
}

/* The transform as the second of two row-wide steps, in place of a stage between others: y = hadamard(2 x) + x, and its maximum. */
static void hadamard_case(const syl_host_target *target, int64_t cols, const int64_t *factors, int n_factors,
                          bool transpose) {
    making m;
    start(&m, cols);
    int in = buffer(&m, "x", KIR_MATRIX, KIR_F32, cols, false),
        out = buffer(&m, "y", KIR_MATRIX, KIR_F32, cols, true),
        top = buffer(&m, "top", KIR_PER_ROW, KIR_F32, 1, true);
    int x = emit(&m, KIR_load, 0, 0, in), twice = emit(&m, KIR_add, x, x, -1);
    int h = kir_emit(&m.arena, &m.kernel,
                     (kir_inst){.op = KIR_hadamard,
                                .args = {twice},
                                .buffer = -1,
                                .factors = factors,
                                .n_factors = n_factors,
                                .transpose = transpose});
    int y = emit(&m, KIR_add, h, x, -1);
    emit(&m, KIR_store, y, 0, out);
    emit(&m, KIR_store_row, emit(&m, KIR_reduce_max, y, 0, -1), 0, top);
    built b = build_kernel(&m.kernel, target);
    size_t n = (size_t)(2 * cols);
    float *xs = new_buffer(n * 4), *got = new_buffer(n * 4), *tops = new_buffer(8);
    double *expected = calloc(n, sizeof *expected), *work = calloc((size_t)cols, sizeof *work);
    for (size_t i = 0; i < n; i++) expected[i] = 2 * (xs[i] = random_float());
    void *buffers[] = {xs, got, tops};
    run_kernel(&b, buffers, 2);
    for (int64_t i = 0; i < 2; i++) {
        float largest = -INFINITY;
        syl_hadamard_apply_f64(expected + i * cols, cols, factors, n_factors, transpose, work);
        for (int64_t j = 0; j < cols; j++) {
            assert_true(fabs(got[i * cols + j] - (expected[i * cols + j] + xs[i * cols + j])) <= 4e-6);
            largest = fmaxf(largest, got[i * cols + j]);
        }
        assert_true(tops[i] == largest);
    }
    check_slack(got, n * 4);
    void *owned[] = {xs, got, tops, expected, work};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    drop_kernel(&b);
    syl_arena_free(&m.arena);
}

static void hadamards(void **state) {
    (void)state;
    for (int t = 0; t < N_TARGETS; t++) {
        syl_host_target target;
        if (!find_target(all_targets[t], &target)) continue;
        for (int transpose = 0; transpose < 2; transpose++) {
            hadamard_case(&target, 576, (const int64_t[]){36, 16}, 2, transpose);
            hadamard_case(&target, 1536, (const int64_t[]){12, 128}, 2, transpose);
            hadamard_case(&target, 80, (const int64_t[]){20, 4}, 2, transpose);
            hadamard_case(&target, 72, (const int64_t[]){36}, 1, transpose);
        }
        hadamard_case(&target, 7, (const int64_t[]){1}, 1, false);
        hadamard_case(&target, 10, (const int64_t[]){2}, 1, false);
        hadamard_case(&target, 48, (const int64_t[]){4}, 1, false);
        hadamard_case(&target, 1024, (const int64_t[]){1024}, 1, false);
        hadamard_case(&target, 1152, (const int64_t[]){36, 16}, 2, false); /* two blocks */
        hadamard_case(&target, 768, (const int64_t[]){12, 32, 2}, 3, true);
        hadamard_case(&target, 4608, (const int64_t[]){12, 12, 32}, 3, true);
        hadamard_case(&target, 64, (const int64_t[]){4, 16}, 2, false);
    }
}

static void rope_case(const syl_host_target *target, int heads, int width, int dims, bool interleaved) {
    enum { ROWS = 2 };
    making m;
    start(&m, (int64_t)heads * width);
    int64_t cols = m.kernel.cols;
    int in = buffer(&m, "x", KIR_MATRIX, KIR_F32, cols, false),
        angles = buffer(&m, "angles", KIR_MATRIX, KIR_F32, dims, false),
        out = buffer(&m, "y", KIR_MATRIX, KIR_F32, cols, true);
    int x = emit(&m, KIR_load, 0, 0, in);
    int r = kir_emit(&m.arena, &m.kernel,
                     (kir_inst){.op = KIR_rope,
                                .args = {x},
                                .buffer = angles,
                                .heads = heads,
                                .dims = dims,
                                .interleaved = interleaved});
    emit(&m, KIR_store, r, 0, out);
    built b = build_kernel(&m.kernel, target);
    float *xs = new_buffer((size_t)(ROWS * cols) * 4), *table = new_buffer((size_t)(ROWS * dims) * 4),
          *got = new_buffer((size_t)(ROWS * cols) * 4);
    for (int64_t i = 0; i < ROWS * cols; i++) xs[i] = random_float();
    for (int i = 0; i < ROWS * dims; i++) table[i] = random_float();
    void *buffers[] = {xs, table, got};
    run_kernel(&b, buffers, ROWS);
    for (int i = 0; i < ROWS; i++)
        for (int h = 0; h < heads; h++) {
            const float *from = xs + i * cols + h * width, *to = got + i * cols + h * width;
            for (int d = 0; d < dims / 2; d++) {
                int first = interleaved ? 2 * d : d, second = interleaved ? 2 * d + 1 : d + dims / 2;
                float c = table[i * dims + d], s = table[i * dims + dims / 2 + d];
                assert_true(to[first] == from[first] * c - from[second] * s);
                assert_true(to[second] == from[first] * s + from[second] * c);
            }
            for (int d = dims; d < width; d++) assert_true(to[d] == from[d]);
        }
    void *owned[] = {xs, table, got};
    for (int i = 0; i < 3; i++) free(owned[i]);
    drop_kernel(&b);
    syl_arena_free(&m.arena);
}

static void ropes(void **state) {
    (void)state;
    for (int t = 0; t < N_TARGETS; t++) {
        syl_host_target target;
        if (!find_target(all_targets[t], &target)) continue;
        for (int interleaved = 0; interleaved < 2; interleaved++) {
            rope_case(&target, 9, 64, 64, interleaved);
            rope_case(&target, 2, 80, 40, interleaved);
            rope_case(&target, 3, 10, 6, interleaved);
        }
    }
}

/* Each head by itself, against float64; what stands before and behind a head must not count. */
static void head_norm_case(const syl_host_target *target, int heads, int width) {
    enum { ROWS = 3 };
    making m;
    start(&m, (int64_t)heads * width);
    int64_t cols = m.kernel.cols;
    int in = buffer(&m, "x", KIR_MATRIX, KIR_F32, cols, false),
        out = buffer(&m, "y", KIR_MATRIX, KIR_F32, cols, true);
    int x = emit(&m, KIR_load, 0, 0, in);
    int y = kir_emit(&m.arena, &m.kernel,
                     (kir_inst){.op = KIR_head_norm, .args = {x}, .buffer = -1, .heads = heads, .f = 0.125});
    emit(&m, KIR_store, y, 0, out);
    built b = build_kernel(&m.kernel, target);
    float *xs = new_buffer((size_t)(ROWS * cols) * 4), *got = new_buffer((size_t)(ROWS * cols) * 4);
    for (int64_t i = 0; i < ROWS * cols; i++) xs[i] = random_float();
    void *buffers[] = {xs, got};
    run_kernel(&b, buffers, ROWS);
    for (int64_t at = 0; at < ROWS * cols; at += width) {
        double sum = 0;
        for (int d = 0; d < width; d++) sum += (double)xs[at + d] * xs[at + d];
        double factor = 1 / sqrt(sum / width + 0.125);
        for (int d = 0; d < width; d++) assert_true(fabs(got[at + d] - xs[at + d] * factor) <= 1e-6);
    }
    check_slack(got, (size_t)(ROWS * cols) * 4);
    free(xs);
    free(got);
    drop_kernel(&b);
    syl_arena_free(&m.arena);
}

static void head_norms(void **state) {
    (void)state;
    for (int t = 0; t < N_TARGETS; t++) {
        syl_host_target target;
        if (!find_target(all_targets[t], &target)) continue;
        head_norm_case(&target, 9, 64);
        head_norm_case(&target, 3, 20);
        head_norm_case(&target, 5, 6);
        head_norm_case(&target, 2, 33);
    }
}

/* A gather of bf16 rows, f16 in and out, i32 sums: each conversion against base/numeric. */
static void conversions(void **state) {
    (void)state;
    enum { ROWS = 4, COLS = 33 };
    for (int t = 0; t < N_TARGETS; t++) {
        syl_host_target target;
        if (!find_target(all_targets[t], &target)) continue;
        making m;
        start(&m, COLS);
        int table = buffer(&m, "table", KIR_MATRIX, KIR_BF16, COLS + 1, false),
            ids = buffer(&m, "ids", KIR_PER_ROW, KIR_I32, 1, false);
        int halves = buffer(&m, "halves", KIR_MATRIX, KIR_F16, COLS, false),
            codes = buffer(&m, "codes", KIR_MATRIX, KIR_I8, COLS, false);
        int out = buffer(&m, "out", KIR_MATRIX, KIR_F32, COLS, true),
            out_half = buffer(&m, "out_half", KIR_MATRIX, KIR_F16, COLS, true);
        int out_int = buffer(&m, "out_int", KIR_MATRIX, KIR_I32, COLS, true);
        int e = emit(&m, KIR_load_at, emit(&m, KIR_load_row, 0, 0, ids), 0, table),
            h = emit(&m, KIR_load, 0, 0, halves), c = emit(&m, KIR_load, 0, 0, codes);
        emit(&m, KIR_store,
             emit(&m, KIR_add, emit(&m, KIR_add, e, h, -1), emit(&m, KIR_to_f32, c, 0, -1), -1), 0, out);
        emit(&m, KIR_store, emit(&m, KIR_mul, h, e, -1), 0, out_half);
        emit(&m, KIR_store, emit(&m, KIR_add, c, c, -1), 0, out_int);
        built b = build_kernel(&m.kernel, &target);
        uint16_t *table_data = new_buffer(7 * (COLS + 1) * 2), *half_data = new_buffer(ROWS * COLS * 2),
                 *got_half = new_buffer(ROWS * COLS * 2);
        int32_t *id = new_buffer(ROWS * 4), *got_int = new_buffer(ROWS * COLS * 4);
        int8_t *code = new_buffer(ROWS * COLS);
        float *got = new_buffer(ROWS * COLS * 4);
        for (int i = 0; i < 7 * (COLS + 1); i++) table_data[i] = syl_bf16_from_f32(random_float());
        for (int i = 0; i < ROWS * COLS; i++) {
            half_data[i] = i % 3 ? syl_f16_from_f32(random_float())
                                 : (uint16_t)(random_bits() & 0x83ff); /* a third subnormal */
            code[i] = random_code();
        }
        for (int i = 0; i < ROWS; i++) id[i] = 6 - 2 * i;
        void *buffers[] = {table_data, id, half_data, code, got, got_half, got_int};
        run_kernel(&b, buffers, ROWS);
        for (int i = 0; i < ROWS; i++)
            for (int j = 0; j < COLS; j++) {
                float ev = syl_bf16_to_f32(table_data[id[i] * (COLS + 1) + j]),
                      hv = syl_f16_to_f32(half_data[i * COLS + j]);
                assert_true(got[i * COLS + j] == ev + hv + (float)code[i * COLS + j]);
                assert_int_equal(got_half[i * COLS + j], syl_f16_from_f32(hv * ev));
                assert_int_equal(got_int[i * COLS + j], 2 * code[i * COLS + j]);
            }
        void *owned[] = {table_data, half_data, got_half, id, got_int, code, got};
        for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
        drop_kernel(&b);
        syl_arena_free(&m.arena);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(norms), cmocka_unit_test(hadamards),
                                       cmocka_unit_test(ropes), cmocka_unit_test(head_norms),
                                       cmocka_unit_test(conversions)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
