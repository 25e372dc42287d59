/* Printed CUDA row kernels, run on the CPU (codegen_cuda_emulated.h), against the host's code for the same kernel IR: the same bits, from all variants. */
#include "codegen_cuda_emulated.h"
#include <math.h>
#include "base/numeric.h"

typedef struct making {
    syl_arena arena;
    kir_kernel kernel;
} making;

static void start(making *m, const char *name, int64_t cols) {
    *m = (making){0};
    syl_arena_init(&m->arena);
    m->kernel = (kir_kernel){.kind = KIR_ROWS, .name = name, .cols = cols};
}
static int buffer(making *m, const char *name, kir_shape shape, kir_type elem, int64_t cols, int64_t stride,
                  bool written) {
    return kir_add_buffer(&m->arena, &m->kernel, (kir_buffer){name, shape, elem, cols, stride, written});
}
static int emit(making *m, kir_op op, int a, int b, int buf) {
    return kir_emit(&m->arena, &m->kernel, (kir_inst){.op = op, .args = {a, b}, .buffer = buf});
}
static int imm(making *m, double f) {
    return kir_emit(&m->arena, &m->kernel, (kir_inst){.op = KIR_imm, .f = f, .buffer = -1});
}

/* ---- comparing with the host ---- */

static size_t elem_size(kir_type t) {
    return t == KIR_I8 ? 1 : t == KIR_BF16 || t == KIR_F16 ? 2 : 4;
}

enum { MAX_RANK = 32 };

/* Elements of a buffer for some rows, as matrices; tiled ones take whole atoms, what is read has rows for a projection's outputs. */
static int64_t elements(const kir_buffer *b, int64_t rows) {
    if (!b->written && b->shape == KIR_MATRIX) return (rows < MAX_RANK ? MAX_RANK : rows) * b->stride;
    if (b->shape == KIR_TILED) {
        int64_t per_atom = KIR_ATOM_BYTES / (int64_t)elem_size(b->elem);
        return syl_ceil_div(rows, 8) * 8 * syl_ceil_div(b->cols, per_atom) * per_atom;
    }
    return b->shape == KIR_PER_COL ? b->cols : b->shape == KIR_PER_ROW ? rows : rows * b->stride;
}

static float value_at(const void *data, kir_type type, int64_t i) {
    return type == KIR_F32    ? ((const float *)data)[i]
           : type == KIR_BF16 ? syl_bf16_to_f32(((const uint16_t *)data)[i])
           : type == KIR_F16  ? syl_f16_to_f32(((const uint16_t *)data)[i])
           : type == KIR_I8   ? ((const int8_t *)data)[i]
                              : (float)((const int32_t *)data)[i];
}

static void fill(void *data, const kir_buffer *b, int64_t n, int64_t rows) {
    for (int64_t i = 0; i < n; i++) {
        float x = 3 * random_float();
        if (strcmp(b->name, "wide") == 0) /* of all sizes, and both zeros */
            x = i % 50 < 2 ? copysignf(0, x) : ldexpf(x, (int)(random_bits() % 60) - 50);
        if (b->elem == KIR_F32) ((float *)data)[i] = x;
        if (b->elem == KIR_BF16) ((uint16_t *)data)[i] = syl_bf16_from_f32(x);
        if (b->elem == KIR_F16) ((uint16_t *)data)[i] = syl_f16_from_f32(x);
        if (b->elem == KIR_I32) ((int32_t *)data)[i] = (int32_t)(random_bits() % (uint64_t)rows);
    }
}

/* Bit by bit. */
static void compare(const char *name, const kir_buffer *b, const void *want, const void *got, int64_t rows) {
    int64_t cols = b->shape == KIR_PER_ROW ? 1 : b->cols;
    size_t size = elem_size(b->elem);
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < cols; j++) {
            int64_t at = b->shape == KIR_PER_ROW ? i : i * b->stride + j;
            int64_t there = b->shape == KIR_TILED ? tiled_index(i, j, rows, (int)size) : at;
            if (memcmp((const char *)want + (size_t)at * size, (const char *)got + (size_t)there * size,
                       size))
                fail_msg("%s, %s [%d, %d]: %.9g, expected %.9g", name, b->name, (int)i, (int)j,
                         (double)value_at(got, b->elem, there), (double)value_at(want, b->elem, at));
        }
        if (b->shape != KIR_TILED) continue;
        int64_t per_atom = KIR_ATOM_BYTES / (int64_t)size;
        for (int64_t j = cols; j < syl_ceil_div(cols, per_atom) * per_atom; j++)
            assert_true(value_at(got, b->elem, tiled_index(i, j, rows, (int)size)) == 0);
    }
}

static void check(making *m, int64_t rows, int step) {
    kir_kernel twin = m->kernel;
    syl_host_target host;
    kir_buffer buffers[16];
    void *data[16], *want[16], *first[16], *got[16];
    int n = (int)m->kernel.buffers.n;
    memcpy(buffers, m->kernel.buffers.p, (size_t)n * sizeof *buffers);
    for (int i = 0; i < n; i++) {
        if (buffers[i].shape == KIR_TILED) { /* the host stores plain matrices */
            buffers[i].shape = KIR_MATRIX;
            buffers[i].stride = buffers[i].cols;
        }
        int64_t count = elements(&m->kernel.buffers.p[i], rows);
        size_t bytes = (size_t)count * elem_size(buffers[i].elem);
        data[i] = new_buffer(bytes);
        first[i] = got[i] = want[i] = data[i];
        if (!buffers[i].written) {
            fill(data[i], &buffers[i], count, rows);
            continue;
        }
        want[i] = new_buffer(bytes);
        first[i] = new_buffer(bytes);
    }
    twin.buffers.p = buffers;
    for (int t = 0; t < 2; t++) { /* whatever the width of its vectors */
        if (!find_target(all_targets[t], &host)) continue;
        built b = build_kernel(&twin, &host);
        run_kernel(&b, t ? first : want, rows);
        drop_kernel(&b);
        for (int i = 0; t && i < n; i++)
            if (buffers[i].written) compare(m->kernel.name, &buffers[i], want[i], first[i], rows);
    }
    emulated e = emulate(&m->kernel, "sm_90a", rows, step);
    for (int v = 0; v < e.n; v++) {
        for (int i = 0; i < n; i++) {
            size_t bytes = (size_t)elements(&m->kernel.buffers.p[i], rows) * elem_size(buffers[i].elem);
            if (buffers[i].written) memset(got[i], 0x55, bytes);
        }
        run_emulated(&e, v, got, rows, 0);
        for (int i = 0; i < n; i++) {
            const kir_buffer *k = &m->kernel.buffers.p[i];
            size_t bytes = (size_t)elements(k, rows) * elem_size(k->elem);
            check_slack(got[i], bytes);
            if (!k->written) continue;
            kir_buffer shown = *k;
            if (shown.shape == KIR_TILED) shown.stride = shown.cols;
            compare(m->kernel.name, &shown, want[i], got[i], rows);
            if (v == 0)
                memcpy(first[i], got[i], bytes);
            else if (memcmp(first[i], got[i], bytes) != 0)
                fail_msg("%s: variant %d gives other bits for %s", m->kernel.name, v, k->name);
        }
    }
    drop_emulated(&e);
    for (int i = 0; i < n; i++) {
        free(data[i]);
        if (!buffers[i].written) continue;
        free(want[i]);
        free(first[i]);
    }
    syl_arena_free(&m->arena);
}

/* ---- rows of a quantized model ---- */

typedef struct quantize_case {
    int64_t cols;
    kir_type in;
    int rank; /* of a projection; 0: none */
    int n_factors;
    int64_t factors[4];
    bool transpose, gather, silu, norm, signs, layer_norm;
} quantize_case;

static int add_norm(making *m, int x, bool layer) {
    int share = imm(m, 1.0 / (double)m->kernel.cols);
    if (layer) x = emit(m, KIR_sub, x, emit(m, KIR_mul, emit(m, KIR_reduce_sum, x, 0, -1), share, -1), -1);
    int mean = emit(m, KIR_mul, emit(m, KIR_reduce_sum, emit(m, KIR_mul, x, x, -1), 0, -1), share, -1);
    int root = emit(m, KIR_sqrt, emit(m, KIR_add, mean, imm(m, 1e-5), -1), 0, -1);
    int gain = buffer(m, "gain", KIR_PER_COL, KIR_F32, m->kernel.cols, 1, false);
    int y = emit(m, KIR_mul, x, emit(m, KIR_div, imm(m, 1), root, -1), -1);
    return emit(m, KIR_mul, y, emit(m, KIR_load_col, 0, 0, gain), -1);
}

/* The whole body of such kernels: what is loaded, gated, transformed, normed, projected, quantized, and stored tiled and as bf16. */
static void quantize(const quantize_case *c) {
    making m;
    assert_true(c->rank <= MAX_RANK);
    int64_t cols = c->cols, stride = cols + (cols % 2 ? 1 : 8);
    char name[64];
    snprintf(name, sizeof name, "quantize_%d_%d", (int)cols, (int)c->factors[0]);
    start(&m, name, cols);
    int in = buffer(&m, "x", KIR_MATRIX, c->in, cols, stride, false);
    int x;
    if (c->gather)
        x = emit(&m, KIR_load_at,
                 emit(&m, KIR_load_row, 0, 0, buffer(&m, "r", KIR_PER_ROW, KIR_I32, 1, 1, false)), 0, in);
    else
        x = emit(&m, KIR_load, 0, 0, in);
    int before = x;
    if (c->silu) {
        int e = emit(&m, KIR_exp, emit(&m, KIR_neg, x, 0, -1), 0, -1);
        x = emit(&m, KIR_div, x, emit(&m, KIR_add, imm(&m, 1), e, -1), -1);
        x = emit(&m, KIR_mul, x,
                 emit(&m, KIR_load, 0, 0, buffer(&m, "up", KIR_MATRIX, c->in, cols, stride, false)), -1);
    }
    if (c->signs) {
        double *signs = SYL_NEW_ARRAY(&m.arena, double, (size_t)cols);
        for (int64_t j = 0; j < cols; j++) signs[j] = syl_random_sign(7, (uint64_t)j);
        SYL_PUSH(&m.arena, &m.kernel.tables, (kir_table){cols, signs});
        int t = kir_emit(&m.arena, &m.kernel, (kir_inst){.op = KIR_table, .buffer = -1});
        x = emit(&m, KIR_mul, x, emit(&m, KIR_to_f32, t, 0, -1), -1);
    }
    if (c->n_factors) {
        x = kir_emit(&m.arena, &m.kernel,
                     (kir_inst){.op = KIR_hadamard,
                                .args = {x},
                                .buffer = -1,
                                .factors = c->factors,
                                .n_factors = c->n_factors,
                                .transpose = c->transpose});
        if (c->gather) x = emit(&m, KIR_add, x, before, -1); /* a value from in front of the transform */
    }
    if (c->norm || c->layer_norm) x = add_norm(&m, x, c->layer_norm);
    if (c->rank) {
        int out = buffer(&m, "t", KIR_MATRIX, KIR_F32, c->rank, c->rank, true),
            d = buffer(&m, "d", KIR_MATRIX, KIR_BF16, cols, cols, false);
        kir_emit(&m.arena, &m.kernel, (kir_inst){.op = KIR_project, .args = {x}, .buffer = out, .second = d});
    }
    int s = emit(&m, KIR_div, emit(&m, KIR_reduce_max, emit(&m, KIR_abs, x, 0, -1), 0, -1), imm(&m, 127), -1);
    int code = emit(&m, KIR_round, emit(&m, KIR_mul, x, emit(&m, KIR_recip_or_zero, s, 0, -1), -1), 0, -1);
    code = emit(&m, KIR_max, emit(&m, KIR_min, code, imm(&m, 127), -1), imm(&m, -127), -1);
    emit(&m, KIR_store, emit(&m, KIR_to_i8, code, 0, -1), 0,
         buffer(&m, "codes", KIR_TILED, KIR_I8, cols, 0, true));
    emit(&m, KIR_store_row, s, 0, buffer(&m, "scales", KIR_PER_ROW, KIR_F32, 1, 1, true));
    emit(&m, KIR_store, emit(&m, KIR_round_bf16, x, 0, -1), 0,
         buffer(&m, "copy", KIR_TILED, KIR_BF16, cols, 0, true));
    emit(&m, KIR_store, x, 0, buffer(&m, "whole", KIR_MATRIX, KIR_F32, cols, cols, true));
    check(&m, 5, 2);
}

static void widths(void **state) {
    (void)state;
    static const quantize_case cases[] = {
        {.cols = 1, .in = KIR_F32},
        {.cols = 7, .in = KIR_BF16, .rank = 3, .norm = true},
        {.cols = 33, .in = KIR_F16, .silu = true, .layer_norm = true},
        {.cols = 192, .in = KIR_F32, .rank = 32, .layer_norm = true, .gather = true},
        {.cols = 576, .in = KIR_F32, .rank = 32, .norm = true},
        {.cols = 1009, .in = KIR_BF16, .norm = true},
        {.cols = 4096, .in = KIR_BF16, .rank = 5, .norm = true},
        {.cols = 1536, .in = KIR_F32, .norm = true, .silu = true},
        {.cols = 14336, .in = KIR_BF16, .rank = 6, .norm = true},
        {.cols = 30000, .in = KIR_F32, .norm = true},
        {.cols = 80000, .in = KIR_BF16, .norm = true}, /* wider than registers hold */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) quantize(&cases[i]);
}

static void transforms(void **state) {
    (void)state;
    static const quantize_case cases[] = {
        {.cols = 576, .in = KIR_F32, .n_factors = 2, .factors = {36, 16}, .signs = true, .gather = true},
        {.cols = 576, .in = KIR_F32, .n_factors = 2, .factors = {36, 16}, .transpose = true, .norm = true},
        {.cols = 576, .in = KIR_F32, .n_factors = 1, .factors = {64}},
        {.cols = 768, .in = KIR_F32, .n_factors = 2, .factors = {12, 64}, .rank = 32},
        {.cols = 1536, .in = KIR_F32, .n_factors = 2, .factors = {12, 128}, .silu = true, .rank = 32},
        {.cols = 1536, .in = KIR_BF16, .n_factors = 1, .factors = {128}, .silu = true},
        {.cols = 4096, .in = KIR_BF16, .n_factors = 1, .factors = {4096}},
        {.cols = 8192, .in = KIR_BF16, .n_factors = 1, .factors = {8192}, .norm = true},
        {.cols = 14336, .in = KIR_BF16, .n_factors = 2, .factors = {28, 512}},
        {.cols = 5376, .in = KIR_BF16, .n_factors = 2, .factors = {84, 64}},
        {.cols = 132, .in = KIR_F32, .n_factors = 1, .factors = {132}, .transpose = true},
        {.cols = 1024, .in = KIR_BF16, .n_factors = 1, .factors = {1024}, .gather = true},
        {.cols = 2048, .in = KIR_F32, .n_factors = 1, .factors = {2048}},
        {.cols = 1200, .in = KIR_F32, .n_factors = 2, .factors = {20, 12}, .norm = true}, /* five blocks */
        {.cols = 576, .in = KIR_F32, .n_factors = 3, .factors = {4, 12, 4}, .transpose = true},
        {.cols = 36, .in = KIR_F32, .n_factors = 1, .factors = {36}, .transpose = true},
        {.cols = 90, .in = KIR_F32, .n_factors = 1, .factors = {2}},
        {.cols = 32768, .in = KIR_BF16, .n_factors = 1, .factors = {32768}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) quantize(&cases[i]);
}

/* ---- heads ---- */

typedef struct heads_case {
    int heads, width, dims;
    bool interleaved, norm;
    kir_type in;
    int64_t factor; /* of a transform behind the embedding; 0: none */
} heads_case;

/* A norm by heads, rotary embedding, and a transform of each head. */
static void heads(const heads_case *c) {
    making m;
    int64_t cols = (int64_t)c->heads * c->width, factors[] = {c->factor};
    char name[64];
    snprintf(name, sizeof name, "heads_%d_%d", c->heads, c->width);
    start(&m, name, cols);
    int x =
        emit(&m, KIR_load, 0, 0, buffer(&m, "x", KIR_MATRIX, c->in, cols, cols + 3 * (cols % 2) + 8, false));
    if (c->norm)
        x = kir_emit(
            &m.arena, &m.kernel,
            (kir_inst){.op = KIR_head_norm, .args = {x}, .buffer = -1, .heads = c->heads, .f = 1e-5});
    int angles = buffer(&m, "angles", KIR_MATRIX, KIR_F32, c->dims, c->dims, false);
    x = kir_emit(&m.arena, &m.kernel,
                 (kir_inst){.op = KIR_rope,
                            .args = {x},
                            .buffer = angles,
                            .heads = c->heads,
                            .dims = c->dims,
                            .interleaved = c->interleaved});
    if (c->factor)
        x = kir_emit(
            &m.arena, &m.kernel,
            (kir_inst){.op = KIR_hadamard, .args = {x}, .buffer = -1, .factors = factors, .n_factors = 1});
    emit(&m, KIR_store, x, 0, buffer(&m, "y", KIR_MATRIX, KIR_F32, cols, cols, true));
    check(&m, 9, 2);
}

static void embeddings(void **state) {
    (void)state;
    static const heads_case cases[] = {
        {9, 64, 64, true, false, KIR_F32, 64}, {3, 64, 64, false, true, KIR_BF16, 0},
        {5, 80, 32, false, true, KIR_F32, 0},  {7, 10, 6, true, true, KIR_F32, 0},
        {3, 7, 6, true, false, KIR_BF16, 0},   {32, 128, 128, false, true, KIR_BF16, 128},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) heads(&cases[i]);
}

/* cos(position * frequency - phase) in f64, and what a scalar chain of other instructions makes of a column vector. */
static void tables(void **state) {
    (void)state;
    making m;
    enum { COLS = 48 };
    start(&m, "tables", COLS);
    double *frequency = SYL_NEW_ARRAY(&m.arena, double, COLS), *phase = SYL_NEW_ARRAY(&m.arena, double, COLS);
    for (int j = 0; j < COLS; j++) {
        frequency[j] = pow(10000, -j / 24.0);
        phase[j] = j % 2 ? 1.5707963267948966 : 0;
    }
    SYL_PUSH(&m.arena, &m.kernel.tables, (kir_table){COLS, frequency});
    SYL_PUSH(&m.arena, &m.kernel.tables, (kir_table){COLS, phase});
    int row = emit(&m, KIR_load_row, 0, 0, buffer(&m, "pos", KIR_PER_ROW, KIR_I32, 1, 1, false));
    int angle = emit(&m, KIR_mul, emit(&m, KIR_to_f64, row, 0, -1),
                     kir_emit(&m.arena, &m.kernel, (kir_inst){.op = KIR_table, .buffer = -1}), -1);
    angle = emit(&m, KIR_sub, angle,
                 kir_emit(&m.arena, &m.kernel, (kir_inst){.op = KIR_table, .buffer = -1, .table = 1}), -1);
    int y = emit(&m, KIR_to_f32, emit(&m, KIR_cos, angle, 0, -1), 0, -1);
    emit(&m, KIR_store, y, 0, buffer(&m, "y", KIR_MATRIX, KIR_F32, COLS, COLS, true));
    int gain = emit(&m, KIR_load_col, 0, 0, buffer(&m, "gain", KIR_PER_COL, KIR_F32, COLS, 1, false));
    int z = kir_emit(&m.arena, &m.kernel, (kir_inst){.op = KIR_fma, .args = {y, gain, gain}, .buffer = -1});
    z = emit(&m, KIR_add, emit(&m, KIR_round_f16, z, 0, -1), emit(&m, KIR_round, gain, 0, -1), -1);
    emit(&m, KIR_store, z, 0, buffer(&m, "z", KIR_MATRIX, KIR_F16, COLS, COLS, true));
    check(&m, 70, 3);
}

/* Scalar instructions one by one, over numbers of all sizes. */
static void scalars(void **state) {
    (void)state;
    enum { COLS = 1000 };
    making m;
    start(&m, "scalars", COLS);
    int x = emit(&m, KIR_load, 0, 0, buffer(&m, "wide", KIR_MATRIX, KIR_F32, COLS, COLS, false));
    int one = imm(&m, 1), size = emit(&m, KIR_abs, x, 0, -1);
    int small = emit(&m, KIR_max, emit(&m, KIR_min, x, imm(&m, 100), -1), imm(&m, -100), -1);
    int power = emit(&m, KIR_exp, emit(&m, KIR_neg, small, 0, -1), 0, -1);
    int inner = emit(&m, KIR_mul, emit(&m, KIR_mul, small, small, -1),
                     emit(&m, KIR_mul, small, imm(&m, 0.0356774081), -1), -1);
    int u = kir_emit(&m.arena, &m.kernel,
                     (kir_inst){.op = KIR_fma, .args = {small, imm(&m, 0.797884561), inner}, .buffer = -1});
    int gate = emit(&m, KIR_exp, emit(&m, KIR_mul, u, imm(&m, -2), -1), 0, -1);
    int values[] = {
        power,
        emit(&m, KIR_div, small, emit(&m, KIR_add, one, power, -1), -1),
        emit(&m, KIR_div, small, emit(&m, KIR_add, one, gate, -1), -1),
        emit(&m, KIR_sqrt, size, 0, -1),
        emit(&m, KIR_recip_or_zero, small, 0, -1),
        emit(&m, KIR_div, one, emit(&m, KIR_sqrt, emit(&m, KIR_add, size, imm(&m, 1e-5), -1), 0, -1), -1),
        emit(&m, KIR_round, small, 0, -1),
        emit(&m, KIR_round_bf16, x, 0, -1),
        emit(&m, KIR_round_f16, x, 0, -1),
        emit(&m, KIR_sub, x, emit(&m, KIR_mul, x, imm(&m, 0.333333343), -1), -1)};
    for (int i = 0; i < (int)(sizeof values / sizeof *values); i++)
        emit(&m, KIR_store, values[i], 0,
             buffer(&m, syl_arena_printf(&m.arena, "y%d", i), KIR_MATRIX, KIR_F32, COLS, COLS, true));
    check(&m, 40, 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(widths),     cmocka_unit_test(scalars), cmocka_unit_test(transforms),
        cmocka_unit_test(embeddings), cmocka_unit_test(tables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
