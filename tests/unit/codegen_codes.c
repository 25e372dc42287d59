/* Generated GEMM kernels with 4-bit weights: every scheme on every target against sums formed from the definition, exactly for integer
 * activations, closely for floats, and the same bits for a row whatever the batch: one row forms weights in registers, more expand a panel. */
#include "codegen_testing.h"
#include <math.h>
#include "base/numeric.h"

enum { MAX_ROWS = 13 };

/* A random weight [n, k] as the artifact stores it, and the INT8 values its codes stand for. */
typedef struct coded {
    kir_weight_codes codes;
    int64_t n, k, groups;
    uint8_t *bytes, *group_scale, *group_zero;
    float *scales;
    int *values;
} coded;

static int clamp_int8(int x) {
    return x < -127 ? -127 : x > 127 ? 127 : x;
}

static void make_codes(coded *w, kir_weight_codes codes, int64_t n, int64_t k, bool extreme) {
    *w = (coded){.codes = codes, .n = n, .k = k, .groups = codes.group ? k / codes.group : 1};
    w->bytes = calloc((size_t)(n * k / 2), 1);
    w->values = calloc((size_t)(n * k), sizeof *w->values);
    w->scales = calloc((size_t)(n * w->groups), sizeof *w->scales);
    w->group_scale = calloc((size_t)(n * w->groups), 1);
    w->group_zero = calloc((size_t)(n * w->groups), 1);
    for (int64_t g = 0; g < n * w->groups; g++) {
        w->scales[g] = random_float();
        w->group_scale[g] = (uint8_t)(extreme ? 16 : 1 + random_bits() % 16);
        w->group_zero[g] = (uint8_t)(extreme ? random_bits() % 2 * 15 : random_bits() % 16);
    }
    for (int64_t i = 0; i < n * k; i++) {
        int code = extreme ? (random_bits() % 2 ? 15 : 0) : (int)(random_bits() % 16);
        int64_t g = i / k * w->groups + (codes.group ? i % k / codes.group : 0);
        w->bytes[i / 2] |= (uint8_t)(i % 2 ? code << 4 : code);
        w->values[i] =
            codes.two_level ? clamp_int8((code - w->group_zero[g]) * w->group_scale[g]) : (code ^ 8) - 8;
    }
}

static void free_codes(coded *w) {
    free(w->bytes), free(w->values), free(w->scales), free(w->group_scale), free(w->group_zero);
}

typedef struct gemm {
    syl_arena arena;
    kir_kernel kernel;
} gemm;

/* out = acc, as f32 */
static void make_kernel(gemm *c, const syl_host_target *target, kir_type a_elem, const coded *w) {
    *c = (gemm){0};
    syl_arena_init(&c->arena);
    kir_kernel *g = &c->kernel;
    g->kind = KIR_GEMM;
    g->name = "gemm";
    int a = kir_add_buffer(&c->arena, g, (kir_buffer){"a", KIR_MATRIX, a_elem, w->k, w->k, false});
    int b = kir_add_buffer(&c->arena, g, (kir_buffer){"w", KIR_PACKED, KIR_I8, 0, 0, false});
    g->gemm = (kir_gemm){.a = a, .w = b, .n = w->n, .k = w->k, .codes = w->codes};
    syl_host_tile(target, a_elem, KIR_I8, &g->gemm);
    int out = kir_add_buffer(&c->arena, g, (kir_buffer){"out", KIR_MATRIX, KIR_F32, w->n, w->n, true});
    int x = kir_emit(&c->arena, g, (kir_inst){.op = KIR_acc, .buffer = -1});
    if (kir_acc_type(&g->gemm) == KIR_I32)
        x = kir_emit(&c->arena, g, (kir_inst){.op = KIR_to_f32, .args = {x}, .buffer = -1});
    kir_emit(&c->arena, g, (kir_inst){.op = KIR_store, .args = {x}, .buffer = out});
}

static void *pack(const gemm *c, const coded *w, size_t *bytes) {
    const kir_gemm *g = &c->kernel.gemm;
    syl_plan_weight weight = {.elem = KIR_I8,
                              .rows = w->n,
                              .cols = w->k,
                              .packed = true,
                              .dot = g->dot,
                              .nr = g->nr,
                              .ku = g->ku,
                              .codes = w->codes};
    assert_true(syl_host_packed_size(&weight, bytes));
    void *packed = new_buffer(*bytes);
    int64_t panels = syl_host_panels(&weight);
    syl_weight_source source = {w->bytes, w->scales, w->group_scale, w->group_zero};
    syl_host_pack(&weight, &source, packed, 0, panels / 2);
    syl_host_pack(&weight, &source, packed, panels / 2, panels);
    check_slack(packed, *bytes);
    return packed;
}

static size_t size_of(kir_type type) {
    return type == KIR_I8 ? 1 : type == KIR_BF16 ? 2 : 4;
}

static void *random_activations(kir_type type, int64_t n, bool extreme) {
    void *data = new_buffer((size_t)n * size_of(type));
    for (int64_t i = 0; i < n; i++) {
        if (type == KIR_I8)
            ((int8_t *)data)[i] = extreme ? (random_bits() % 2 ? 127 : -127) : random_code();
        else if (type == KIR_BF16)
            ((uint16_t *)data)[i] = syl_bf16_from_f32(random_float());
        else
            ((float *)data)[i] = random_float();
    }
    return data;
}

static double activation(const void *a, kir_type type, int64_t i) {
    return type == KIR_I8     ? ((const int8_t *)a)[i]
           : type == KIR_BF16 ? syl_bf16_to_f32(((const uint16_t *)a)[i])
                              : ((const float *)a)[i];
}

/* Element (i, j) by the definition; *size: the sum of the sizes of what was added. */
static double expected(const coded *w, const void *a, kir_type type, int64_t i, int64_t j, double *size) {
    bool scaled = kir_scaled_groups(&w->codes);
    int64_t step = scaled ? w->codes.group : w->k;
    float total = 0;
    double exact = 0;
    *size = 0;
    for (int64_t begin = 0; begin < w->k; begin += step) {
        double sum = 0, scale = scaled ? w->scales[j * w->groups + begin / step] : 1;
        for (int64_t k = begin; k < begin + step; k++) {
            double product = activation(a, type, i * w->k + k) * w->values[j * w->k + k];
            sum += product;
            *size += fabs(product * scale);
        }
        exact += sum * scale;
        volatile float part = (float)sum * (float)scale; /* each rounded */
        total = total + part;
    }
    return type == KIR_I8 ? total : exact;
}

static void check_case(const syl_host_target *target, kir_type a_elem, kir_weight_codes codes, int64_t n,
                       int64_t k, bool extreme) {
    coded w;
    gemm c;
    make_codes(&w, codes, n, k, extreme);
    make_kernel(&c, target, a_elem, &w);
    built b = build_kernel(&c.kernel, target);
    size_t packed_bytes, out_bytes = (size_t)(MAX_ROWS * n) * 4;
    void *packed = pack(&c, &w, &packed_bytes), *a = random_activations(a_elem, MAX_ROWS * k, extreme);
    float *out = new_buffer(out_bytes), *all = new_buffer(out_bytes);
    for (int rows = MAX_ROWS; rows >= 1; rows--) {
        for (size_t i = 0; i < out_bytes / 4; i++) out[i] = 777;
        run_kernel(&b, (void *[]){a, packed, out}, rows);
        check_slack(out, out_bytes);
        if (rows == MAX_ROWS) memcpy(all, out, out_bytes);
        assert_memory_equal(out, all, (size_t)(rows * n) * 4);
        for (int64_t i = rows * n; i < MAX_ROWS * n; i++) assert_true(out[i] == 777);
    }
    for (int64_t i = 0; i < MAX_ROWS * n; i++) {
        double size, y = expected(&w, a, a_elem, i / n, i % n, &size);
        if (a_elem == KIR_I8)
            assert_true(all[i] == (float)y);
        else
            assert_true(fabs(all[i] - y) <= 1e-6 * (size + 1));
    }
    void *owned[] = {packed, a, out, all};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    drop_kernel(&b);
    syl_arena_free(&c.arena);
    free_codes(&w);
}

static const kir_weight_codes channel = {4, 0, false}, group64 = {4, 64, false}, group128 = {4, 128, false},
                              two_level64 = {4, 64, true}, two_level128 = {4, 128, true};

static void check_type(kir_type a_elem, bool extreme) {
    for (int t = 0; t < N_TARGETS; t++) {
        syl_host_target target;
        if (!find_target(all_targets[t], &target)) continue;
        check_case(&target, a_elem, channel, 97, 98, extreme);
        check_case(&target, a_elem, group64, 49, 192, extreme);
        check_case(&target, a_elem, group128, 5, 256, extreme);
        check_case(&target, a_elem, two_level64, 97, 320, extreme);
        check_case(&target, a_elem, two_level128, 1, 128, extreme);
    }
}

static void integers_are_exact(void **state) {
    (void)state;
    check_type(KIR_I8, false);
    for (int t = 0; t < N_TARGETS; t++) {
        syl_host_target target;
        if (!find_target(all_targets[t], &target)) continue;
        check_case(&target, KIR_I8, channel, 3, 2, false);
        check_case(&target, KIR_I8, channel, 48, 6, false);
        check_case(&target, KIR_I8, two_level64, 48, 64, false);
    }
}

/* Codes far from their zero point, whose INT8 value is the clamp's, and sums of the largest products. */
static void extremes_are_exact(void **state) {
    (void)state;
    check_type(KIR_I8, true);
}

static void floats_are_close(void **state) {
    (void)state;
    check_type(KIR_F32, false);
    check_type(KIR_BF16, false);
}

/* Every code with every scale and zero point of two-level groups, through one row (registers) and two (an expanded panel). */
static void every_code_expands(void **state) {
    (void)state;
    enum { K = 64, N = 16 * 16 };
    for (int t = 0; t < N_TARGETS; t++) {
        syl_host_target target;
        if (!find_target(all_targets[t], &target)) continue;
        coded w;
        gemm c;
        make_codes(&w, two_level64, N, K, false);
        memset(w.bytes, 0, N * K / 2);
        for (int j = 0; j < N; j++) {
            w.group_scale[j] = (uint8_t)(1 + j / 16);
            w.group_zero[j] = (uint8_t)(j % 16);
            for (int k = 0; k < K; k++) w.bytes[(j * K + k) / 2] |= (uint8_t)(k % 16 << k % 2 * 4);
        }
        make_kernel(&c, &target, KIR_I8, &w);
        built b = build_kernel(&c.kernel, &target);
        size_t bytes;
        void *packed = pack(&c, &w, &bytes);
        int8_t *a = new_buffer(2 * K);
        float *out = new_buffer(2 * N * 4);
        for (int k = 0; k < 32; k++) {
            memset(a, 0, 2 * K);
            a[k] = 1, a[K + k] = -1;
            run_kernel(&b, (void *[]){a, packed, out}, 2);
            for (int j = 0; j < N; j++) {
                int value = clamp_int8((k % 16 - j % 16) * (1 + j / 16));
                assert_true(out[j] == (float)value && out[N + j] == (float)-value);
            }
            run_kernel(&b, (void *[]){a, packed, out}, 1);
            for (int j = 0; j < N; j++)
                assert_true(out[j] == (float)clamp_int8((k % 16 - j % 16) * (1 + j / 16)));
        }
        free(packed), free(a), free(out);
        drop_kernel(&b);
        syl_arena_free(&c.arena);
        free_codes(&w);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integers_are_exact),
        cmocka_unit_test(extremes_are_exact),
        cmocka_unit_test(floats_are_close),
        cmocka_unit_test(every_code_expands),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
