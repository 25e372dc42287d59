/* Printed CUDA GEMMs without tensor cores, run on the CPU (codegen_cuda_emulated.h), against plain loops: every sum is one chain over k, so all bits are
 * compared, for any number of rows and both tiles. */
#include "codegen_cuda_emulated.h"
#include <math.h>
#include "base/numeric.h"
#include "codegen/cuda/emit.h"

typedef struct gemm_case {
    kir_type a, w;
    kir_dot dot;
    kir_weight_codes codes;
    int64_t n, k, rank;
} gemm_case;

enum { A, W, ROW, COL, OUT, TILED, T, U, BUFFERS };

static size_t elem_size(kir_type t) {
    return (size_t)cu_elem_bytes(t);
}

static kir_kernel make_kernel(syl_arena *arena, const gemm_case *c) {
    kir_kernel k = {.kind = KIR_GEMM, .name = "linear"};
    const kir_buffer buffers[] = {
        [A] = {"x", KIR_MATRIX, c->a, c->k, c->k + (c->k % 4 ? 1 : 16), false},
        [W] = {"w", KIR_PACKED, c->w, 0, 0, false},
        [ROW] = {"s", KIR_PER_ROW, KIR_F32, 1, 1, false},
        [COL] = {"ws", KIR_PER_COL, KIR_F32, c->n, 1, false},
        [OUT] = {"y", KIR_MATRIX, KIR_F32, c->n, c->n + 3, true},
        [TILED] = {"z", KIR_TILED, KIR_BF16, c->n, 0, true},
        [T] = {"t", KIR_MATRIX, KIR_F32, c->rank, c->rank, false},
        [U] = {"u", KIR_MATRIX, KIR_BF16, c->rank, c->rank, false},
    };
    for (int i = 0; i < (c->rank ? BUFFERS : T); i++) kir_add_buffer(arena, &k, buffers[i]);
    k.gemm = (kir_gemm){.a = A,
                        .w = W,
                        .n = c->n,
                        .k = c->k,
                        .codes = c->codes,
                        .dot = c->dot,
                        .mr = 1,
                        .nr = 1,
                        .ku = 1,
                        .mblock = 1};
    if (c->rank) k.branch = (kir_branch){T, U, c->rank};
    int y = kir_emit(arena, &k, (kir_inst){.op = KIR_acc, .buffer = -1});
    if (kir_acc_type(&k.gemm) == KIR_I32)
        y = kir_emit(arena, &k, (kir_inst){.op = KIR_to_f32, .args = {y}, .buffer = -1});
    int s = kir_emit(arena, &k, (kir_inst){.op = KIR_load_row, .buffer = ROW}),
        ws = kir_emit(arena, &k, (kir_inst){.op = KIR_load_col, .buffer = COL});
    y = kir_emit(arena, &k, (kir_inst){.op = KIR_mul, .args = {y, s}, .buffer = -1});
    y = kir_emit(arena, &k, (kir_inst){.op = KIR_mul, .args = {y, ws}, .buffer = -1});
    if (c->rank) {
        int low = kir_emit(arena, &k, (kir_inst){.op = KIR_low_rank, .buffer = -1});
        y = kir_emit(arena, &k, (kir_inst){.op = KIR_add, .args = {y, low}, .buffer = -1});
    }
    kir_emit(arena, &k, (kir_inst){.op = KIR_store, .args = {y}, .buffer = OUT});
    kir_emit(arena, &k, (kir_inst){.op = KIR_store, .args = {y}, .buffer = TILED});
    return k;
}

static void set(void *data, kir_type type, int64_t i) {
    float x = random_float();
    if (type == KIR_F32) ((float *)data)[i] = x;
    if (type == KIR_BF16) ((uint16_t *)data)[i] = syl_bf16_from_f32(x);
    if (type == KIR_F16) ((uint16_t *)data)[i] = syl_f16_from_f32(x);
    if (type == KIR_I8) ((int8_t *)data)[i] = random_code();
}
static float get(const void *data, kir_type type, int64_t i) {
    return type == KIR_F32    ? ((const float *)data)[i]
           : type == KIR_BF16 ? syl_bf16_to_f32(((const uint16_t *)data)[i])
           : type == KIR_F16  ? syl_f16_to_f32(((const uint16_t *)data)[i])
                              : ((const int8_t *)data)[i];
}

/* The weight as the artifact stores it, and as numbers. */
typedef struct stored {
    syl_weight_source source;
    void *data;
    float *scales, *values;
    uint8_t *group_scale, *group_zero;
} stored;

static stored make_weight(const gemm_case *c) {
    stored s = {0};
    int64_t count = c->n * c->k, groups = c->codes.group ? c->n * c->k / c->codes.group : 0;
    s.data = calloc((size_t)count, elem_size(c->w));
    s.values = calloc((size_t)count, 4);
    s.scales = calloc((size_t)groups + 1, 4);
    s.group_scale = calloc((size_t)groups + 1, 1);
    s.group_zero = calloc((size_t)groups + 1, 1);
    for (int64_t g = 0; g < groups; g++) {
        s.scales[g] = 0.5f + random_float() / 4;
        s.group_scale[g] = (uint8_t)(1 + random_bits() % 16);
        s.group_zero[g] = (uint8_t)(random_bits() % 16);
    }
    for (int64_t i = 0; i < count; i++) {
        if (!c->codes.bits) {
            set(s.data, c->w, i);
            s.values[i] = get(s.data, c->w, i);
            continue;
        }
        int code = (int)(random_bits() % 16);
        ((uint8_t *)s.data)[i / 2] |= (uint8_t)(code << (i % 2) * 4);
        int64_t g = c->codes.group ? i / c->codes.group : 0;
        int value = c->codes.two_level ? (code - s.group_zero[g]) * s.group_scale[g] : (code ^ 8) - 8;
        s.values[i] = (float)(value < -127 ? -127 : value > 127 ? 127 : value);
    }
    s.source = (syl_weight_source){s.data, s.scales, s.group_scale, s.group_zero};
    return s;
}

static float expected(const gemm_case *c, const stored *w, const void *a, int64_t stride, int64_t i,
                      int64_t j) {
    int64_t size = kir_scaled_groups(&c->codes) ? c->codes.group : c->k;
    float total = 0;
    for (int64_t k0 = 0; k0 < c->k; k0 += size) {
        float sum = 0;
        int whole = 0;
        for (int64_t k = k0; k < k0 + size; k++) {
            float x = get(a, c->a, i * stride + k), y = w->values[j * c->k + k];
            if (c->dot == KIR_DOT_I8)
                whole += (int)x * (int)y;
            else
                sum = fmaf(x, y, sum);
        }
        if (c->dot == KIR_DOT_I8) sum = (float)whole;
        total = size == c->k && !kir_scaled_groups(&c->codes)
                    ? sum
                    : total + sum * w->scales[j * (c->k / size) + k0 / size];
    }
    return total;
}

static void check(const gemm_case *c) {
    static const int64_t rows_of[] = {1, 3, 17, 70};
    enum { MAX_ROWS = 70 };
    syl_arena arena;
    syl_arena_init(&arena);
    kir_kernel k = make_kernel(&arena, c);
    stored w = make_weight(c);
    syl_plan_weight weight = {.name = "w",
                              .elem = c->w,
                              .rows = c->n,
                              .cols = c->k,
                              .packed = true,
                              .dot = c->dot,
                              .nr = 1,
                              .ku = 1,
                              .codes = c->codes};
    size_t packed_size;
    assert_true(cu_pack_simt_size(&weight, &packed_size));
    int64_t stride = k.buffers.p[A].stride, out_stride = c->n + 3, padded = syl_ceil_div(c->n, 64) * 64;
    void *packed = new_buffer(packed_size), *a = new_buffer((size_t)(MAX_ROWS * stride) * elem_size(c->a));
    float *row = new_buffer(MAX_ROWS * 4), *col = new_buffer((size_t)c->n * 4),
          *out = new_buffer((size_t)(MAX_ROWS * out_stride) * 4);
    float *t = new_buffer((size_t)(MAX_ROWS * c->rank) * 4);
    uint16_t *tiled = new_buffer((size_t)(72 * padded) * 2), *u = new_buffer((size_t)(c->n * c->rank) * 2);
    memset(packed, 0x77, packed_size);
    for (int64_t b = syl_ceil_div(c->n, 64); b-- > 0;) cu_pack_simt(&weight, &w.source, packed, b, b + 1);
    check_slack(packed, packed_size);
    for (int64_t i = 0; i < MAX_ROWS * stride; i++) set(a, c->a, i);
    for (int64_t i = 0; i < MAX_ROWS; i++) row[i] = random_float();
    for (int64_t i = 0; i < c->n; i++) col[i] = random_float();
    for (int64_t i = 0; i < MAX_ROWS * c->rank; i++) set(t, KIR_F32, i);
    for (int64_t i = 0; i < c->n * c->rank; i++) set(u, KIR_BF16, i);
    emulated e = emulate(&k, "sm_75", 64, 1);
    assert_int_equal(e.n, 2);
    void *buffers[BUFFERS] = {a, packed, row, col, out, tiled, t, u};
    for (int v = 0; v < e.n; v++)
        for (int r = 0; r < 4; r++) {
            int64_t rows = rows_of[r];
            memset(out, 0x55, (size_t)(MAX_ROWS * out_stride) * 4);
            memset(tiled, 0x55, (size_t)(72 * padded) * 2);
            run_emulated(&e, v, buffers, rows, 0);
            for (int64_t i = 0; i < rows; i++)
                for (int64_t j = 0; j < padded; j++) {
                    uint16_t stored_tiled = tiled[tiled_index(i, j, rows, 2)];
                    if (j >= c->n) {
                        assert_int_equal(stored_tiled, 0);
                        continue;
                    }
                    float want = expected(c, &w, a, stride, i, j) * row[i] * col[j], low = 0;
                    for (int64_t q = 0; q < c->rank; q++)
                        low = fmaf(t[i * c->rank + q], syl_bf16_to_f32(u[j * c->rank + q]), low);
                    if (c->rank) want += low;
                    if (out[i * out_stride + j] != want)
                        fail_msg("variant %d, %d rows, [%d, %d]: %.9g, expected %.9g", v, (int)rows, (int)i,
                                 (int)j, (double)out[i * out_stride + j], (double)want);
                    assert_int_equal(stored_tiled, syl_bf16_from_f32(want));
                }
            for (int64_t j = c->n; j < out_stride; j++) assert_int_equal(((uint32_t *)out)[j], 0x55555555);
            if (rows < MAX_ROWS) assert_int_equal(((uint32_t *)out)[rows * out_stride], 0x55555555);
        }
    drop_emulated(&e);
    void *owned[] = {packed, a,      row,      col,      out,           t,           tiled,
                     u,      w.data, w.values, w.scales, w.group_scale, w.group_zero};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    syl_arena_free(&arena);
}

static void all_types(void **state) {
    (void)state;
    static const gemm_case cases[] = {
        {KIR_F32, KIR_F32, KIR_DOT_F32, {0}, 70, 12, 0},
        {KIR_F32, KIR_BF16, KIR_DOT_F32, {0}, 33, 193, 5},
        {KIR_BF16, KIR_BF16, KIR_DOT_F32, {0}, 129, 600, 0},
        {KIR_F16, KIR_F16, KIR_DOT_F32, {0}, 260, 40, 0},
        {KIR_F32, KIR_I8, KIR_DOT_F32, {0}, 12, 530, 0},
        {KIR_F32, KIR_I8, KIR_DOT_F32, {4, 64, true}, 65, 576, 32},
        {KIR_BF16, KIR_I8, KIR_DOT_F32, {4, 128, false}, 40, 640, 0},
        {KIR_I8, KIR_I8, KIR_DOT_I8, {0}, 70, 133, 0},
        {KIR_I8, KIR_I8, KIR_DOT_I8, {4, 0, false}, 40, 50, 0},
        {KIR_I8, KIR_I8, KIR_DOT_I8, {4, 64, false}, 96, 576, 8},
        {KIR_I8, KIR_I8, KIR_DOT_I8, {4, 128, true}, 31, 256, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check(&cases[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(all_types)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
