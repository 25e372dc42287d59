/* Printed CUDA attention within sequences, run on the CPU (codegen_cuda_emulated.h), against float64; the same bits as the host's code, from all variants. */
#include "codegen_cuda_emulated.h"
#include <math.h>
#include "base/numeric.h"

typedef struct full_case {
    int heads, dim, tokens;
    kir_type in, out;
    bool tiled;
} full_case;

static float value_at(const void *data, kir_type type, int64_t i) {
    return type == KIR_F32 ? ((const float *)data)[i] : syl_bf16_to_f32(((const uint16_t *)data)[i]);
}

static double expected(const full_case *c, const void *x, int64_t stride, int row, int head, int d,
                       double *p) {
    int64_t cols = (int64_t)c->heads * c->dim;
    int first = row / c->tokens * c->tokens;
    double top = -INFINITY, sum = 0, y = 0;
    for (int j = 0; j < c->tokens; j++) {
        p[j] = 0;
        for (int i = 0; i < c->dim; i++)
            p[j] += (double)value_at(x, c->in, row * stride + head * c->dim + i) *
                    (double)value_at(x, c->in, (first + j) * stride + cols + head * c->dim + i) * 0.3;
        top = fmax(top, p[j]);
    }
    for (int j = 0; j < c->tokens; j++) sum += p[j] = exp(p[j] - top);
    for (int j = 0; j < c->tokens; j++)
        y += p[j] / sum * (double)value_at(x, c->in, (first + j) * stride + 2 * cols + head * c->dim + d);
    return y;
}

static void check(const full_case *c) {
    enum { SEQUENCES = 2 };
    syl_arena arena;
    syl_arena_init(&arena);
    int64_t cols = (int64_t)c->heads * c->dim, stride = 3 * cols; /* queries, keys and values side by side */
    int rows = SEQUENCES * c->tokens;
    kir_kernel k = {.kind = KIR_FULL_ATTENTION, .name = "full_attention"};
    for (int i = 0; i < 3; i++)
        kir_add_buffer(&arena, &k, (kir_buffer){"x", KIR_MATRIX, c->in, cols, stride, false});
    kir_add_buffer(
        &arena, &k,
        (kir_buffer){"y", c->tiled ? KIR_TILED : KIR_MATRIX, c->out, cols, c->tiled ? 0 : cols, true});
    k.full_attention = (kir_full_attention){0, 1, 2, 3, c->heads, c->dim, c->tokens, (double)0.3f, 4};
    size_t in_size = c->in == KIR_F32 ? 4 : 2, out_size = c->out == KIR_F32 ? 4 : 2;
    size_t out_bytes = (size_t)((rows + 7) / 8 * 8 * ((cols + 63) / 64 * 64)) * out_size;
    unsigned char *x = new_buffer((size_t)(rows * stride) * in_size), *first = new_buffer(out_bytes),
                  *got = new_buffer(out_bytes);
    double *p = calloc((size_t)c->tokens, sizeof *p);
    for (int64_t i = 0; i < rows * stride; i++) {
        float value = 2 * random_float();
        uint16_t half = syl_bf16_from_f32(value);
        memcpy(x + (size_t)i * in_size, in_size == 4 ? (void *)&value : (void *)&half, in_size);
    }
    kir_buffer plain[4];
    kir_kernel twin = k; /* the host stores plain matrices */
    memcpy(plain, k.buffers.p, sizeof plain);
    plain[3].shape = KIR_MATRIX;
    plain[3].stride = cols;
    twin.buffers.p = plain;
    unsigned char *host = new_buffer((size_t)(rows * cols) * out_size);
    for (int t = 0; t < 2; t++) {
        syl_host_target target;
        void *buffers[] = {x, x + (size_t)cols * in_size, x + (size_t)(2 * cols) * in_size, t ? got : host};
        if (!find_target(all_targets[t], &target)) continue;
        built b = build_kernel(&twin, &target);
        run_kernel(&b, buffers, rows);
        drop_kernel(&b);
        if (t) assert_memory_equal(got, host, (size_t)(rows * cols) * out_size);
    }
    emulated e = emulate(&k, "sm_75", rows, 1);
    for (int v = 0; v < e.n; v++) {
        void *buffers[] = {x, x + (size_t)cols * in_size, x + (size_t)(2 * cols) * in_size, got};
        memset(got, 0, out_bytes);
        run_emulated(&e, v, buffers, rows, 0);
        check_slack(got, out_bytes);
        if (v == 0) memcpy(first, got, out_bytes);
        assert_memory_equal(first, got, out_bytes);
    }
    for (int i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) {
            int64_t at = c->tiled ? tiled_index(i, j, rows, (int)out_size) : i * cols + j;
            assert_memory_equal(got + (size_t)at * out_size, host + (size_t)(i * cols + j) * out_size,
                                out_size);
            if (i % 3) continue; /* the other is slow */
            double want = expected(c, x, stride, i, (int)(j / c->dim), (int)(j % c->dim), p);
            double y = (double)value_at(got, c->out, at);
            if (!(fabs(y - want) <= (out_size == 4 ? 1e-5 : 0x1p-8) * fmax(1, fabs(want))))
                fail_msg("row %d, column %d: %.9g, expected %.9g", i, (int)j, y, want);
        }
    void *owned[] = {x, first, got, p, host};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    drop_emulated(&e);
    syl_arena_free(&arena);
}

static void shapes(void **state) {
    (void)state;
    static const full_case cases[] = {
        {3, 64, 128, KIR_F32, KIR_F32, false}, {2, 32, 70, KIR_BF16, KIR_BF16, true},
        {1, 128, 65, KIR_F32, KIR_BF16, true}, {2, 12, 20, KIR_F32, KIR_F32, false},
        {2, 72, 150, KIR_F32, KIR_F32, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check(&cases[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(shapes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
