/* Hadamard transform of a scratch row: y = x H / sqrt(n), block by block, H a Kronecker product.
 *
 * The stages and their order are those of the CUDA kernel (codegen/rows_layout.h), so that both round alike. Butterflies at distances below KIR_LANES are shuffles
 * within a vector, others go between vectors; several stages make one trip through memory. A dense factor (12, 20, 28, 36 ...) makes the eight sums +-a +-b +-c +-d
 * of each four inputs once, whole vectors at a time, and adds them up; it goes from one of two rows to the other, as does a large one, which multiplies by a
 * constant table of +1 and -1. Where vectors don't fit (elements that stand no multiple of KIR_LANES apart) scalars do the same sums. */
#include "codegen/host/emit.h"
#include <math.h>
#include <string.h>
#include "base/hadamard.h"
#include "codegen/rows_layout.h"

typedef struct transform {
    em *e;
    bool transpose;
    int64_t total; /* columns */
    double scale;  /* of the pass being emitted: 1 but for the last */
    em_value from, to;
} transform;

static int log2_of(int64_t n) {
    return n <= 1 ? 0 : 1 + log2_of(n / 2);
}

static em_value scaled(transform *t, em_value x) {
    return t->scale == 1.0 ? x : LLVMBuildFMul(t->e->b, x, em_real(LLVMTypeOf(x), t->scale), "");
}

/* H[input][output], or its transpose. The order has a matrix: kir_verify. */
static int8_t *matrix_of(transform *t, int order) {
    size_t n = (size_t)order;
    int8_t *h = syl_arena_alloc(&t->e->arena, n * n), *out = syl_arena_alloc(&t->e->arena, n * n);
    if (!syl_hadamard_matrix(order, h)) memset(h, 1, n * n);
    for (size_t a = 0; a < n; a++)
        for (size_t b = 0; b < n; b++) out[a * n + b] = h[t->transpose ? b * n + a : a * n + b];
    return out;
}

/* One vector at a time, or one element where elements of a factor stand no whole vectors apart. */
static int lanes_at(int64_t stride) {
    return stride % KIR_LANES == 0 ? KIR_LANES : 0;
}
static em_type type_of(em *e, int lanes) {
    return lanes ? em_vec(e->f32, lanes) : e->f32;
}
static em_value load(em *e, int lanes, em_value row, em_value index) {
    return em_load(e, type_of(e, lanes), em_at(e, e->f32, row, index), lanes ? 64 : 4);
}
static void store(em *e, em_value x, em_value row, em_value index) {
    em_store(e, x, em_at(e, e->f32, row, index), em_lanes(LLVMTypeOf(x)) ? 64 : 4);
}

/* ---- dense ---- */

/* sums[0..7] = a +-b +-c +-d (rows_signed_sum). */
static void signed_sums(em *e, const em_value x[4], em_value *sums) {
    em_value p = LLVMBuildFAdd(e->b, x[0], x[1], ""), m = LLVMBuildFSub(e->b, x[0], x[1], ""),
             q = LLVMBuildFAdd(e->b, x[2], x[3], ""), n = LLVMBuildFSub(e->b, x[2], x[3], "");
    for (int half = 0; half < 2; half++) {
        em_value first = half ? m : p;
        sums[4 * half] = LLVMBuildFAdd(e->b, first, q, "");
        sums[4 * half + 1] = LLVMBuildFAdd(e->b, first, n, "");
        sums[4 * half + 2] = LLVMBuildFSub(e->b, first, n, "");
        sums[4 * half + 3] = LLVMBuildFSub(e->b, first, q, "");
    }
}

static void dense_pass(transform *t, int order, int64_t stride) {
    em *e = t->e;
    int lanes = lanes_at(stride), width = lanes ? lanes : 1;
    const int8_t *h = matrix_of(t, order);
    em_value sums = em_local_array(e, e->f32, (int64_t)order * 2 * KIR_LANES);
    em_loop outer = em_loop_begin(e, em_long(e, 0), em_long(e, t->total), order * stride);
    em_loop column = em_loop_begin(e, em_long(e, 0), em_long(e, stride), width);
    em_value base = em_add(e, outer.index, column.index);
    for (int a = 0; a < order; a += 4) {
        em_value x[4], s[8];
        for (int i = 0; i < 4; i++)
            x[i] = load(e, lanes, t->from, em_add(e, base, em_long(e, (a + i) * stride)));
        signed_sums(e, x, s);
        for (int i = 0; i < 8; i++) store(e, s[i], sums, em_long(e, (int64_t)(2 * a + i) * KIR_LANES));
    }
    for (int b = 0; b < order; b++) {
        em_value y = NULL;
        for (int a = 0; a < order; a += 4) {
            bool minus;
            int number = 2 * a + rows_signed_sum(h, order, a, b, &minus);
            em_value s = load(e, lanes, sums, em_long(e, (int64_t)number * KIR_LANES));
            if (!y)
                y = minus ? LLVMBuildFNeg(e->b, s, "") : s;
            else
                y = minus ? LLVMBuildFSub(e->b, y, s, "") : LLVMBuildFAdd(e->b, y, s, "");
        }
        store(e, scaled(t, y), t->to, em_add(e, base, em_long(e, b * stride)));
    }
    em_loop_end(e, &column);
    em_loop_end(e, &outer);
}

/* ---- large ---- */

/* The table s[a][b] = H[a][b] as floats. */
static em_value sign_table(transform *t, int order) {
    em *e = t->e;
    size_t n = (size_t)order * (size_t)order;
    const int8_t *h = matrix_of(t, order);
    em_value *values = SYL_NEW_ARRAY(&e->arena, em_value, n), plus = em_real(e->f32, 1.0),
             minus = em_real(e->f32, -1.0);
    for (size_t i = 0; i < n; i++) values[i] = h[i] > 0 ? plus : minus;
    return em_global(e, "signs", LLVMConstArray2(e->f32, values, n));
}

/* A group of outputs in registers; products with +-1 are exact, so an fma rounds as a sum. */
static void large_pass(transform *t, int order, int64_t stride) {
    em *e = t->e;
    int lanes = lanes_at(stride), width = lanes ? lanes : 1;
    int limit = e->target->vector_floats >= 16 ? 14 : e->target->vector_floats >= 8 ? 6 : 3, group = 1;
    em_type type = type_of(e, lanes);
    em_value table = sign_table(t, order), sums[16];
    for (int g = 2; g <= limit; g++)
        if (order % g == 0) group = g;
    for (int g = 0; g < group; g++) sums[g] = em_local(e, type);
    em_loop outer = em_loop_begin(e, em_long(e, 0), em_long(e, t->total), order * stride);
    em_loop column = em_loop_begin(e, em_long(e, 0), em_long(e, stride), width);
    em_value base = em_add(e, outer.index, column.index);
    em_loop output = em_loop_begin(e, em_long(e, 0), em_long(e, order), group);
    for (int g = 0; g < group; g++) em_store(e, em_real(type, 0.0), sums[g], 4);
    em_loop a = em_loop_begin(e, em_long(e, 0), em_long(e, order), 1);
    em_value x = load(e, lanes, t->from, em_mul_add(e, a.index, stride, base));
    for (int g = 0; g < group; g++) {
        em_value index = em_mul_add(e, a.index, order, em_add(e, output.index, em_long(e, g)));
        em_value sign = em_load(e, e->f32, em_at(e, e->f32, table, index), 4);
        em_store(e, em_fma(e, x, lanes ? em_splat(e, sign, lanes) : sign, em_load(e, type, sums[g], 4)),
                 sums[g], 4);
    }
    em_loop_end(e, &a);
    for (int g = 0; g < group; g++)
        store(e, scaled(t, em_load(e, type, sums[g], 4)), t->to,
              em_mul_add(e, em_add(e, output.index, em_long(e, g)), stride, base));
    em_loop_end(e, &output);
    em_loop_end(e, &column);
    em_loop_end(e, &outer);
}

/* ---- butterflies ---- */

/* One level within a vector: lane i gets x[i] + x[i ^ s], or x[i ^ s] - x[i] where bit s of i is set. */
static em_value lane_level(em *e, em_value x, int s) {
    int lanes[KIR_LANES];
    em_value signs[KIR_LANES];
    for (int i = 0; i < KIR_LANES; i++) {
        lanes[i] = i ^ s;
        signs[i] = em_real(e->f32, i & s ? -1.0 : 1.0);
    }
    return em_fma(e, x, LLVMConstVector(signs, KIR_LANES), em_shuffle(e, x, NULL, lanes, KIR_LANES));
}

/* Stages that make one trip through memory: levels within a vector (lane_levels), then levels between 2^levels vectors or scalars, at stride, 2 stride, ... */
typedef struct trip {
    int64_t lane_levels[4], stride;
    int n_lane_levels, levels, lanes;
} trip;

static void butterfly_pass(transform *t, const trip *p) {
    em *e = t->e;
    em_value x[16];
    int n = 1 << p->levels, width = p->lanes ? p->lanes : 1;
    int64_t stride = p->levels ? p->stride : width;
    em_loop outer = em_loop_begin(e, em_long(e, 0), em_long(e, t->total), stride * n);
    em_loop inner = em_loop_begin(e, em_long(e, 0), em_long(e, stride), width);
    em_value base = em_add(e, outer.index, inner.index);
    for (int v = 0; v < n; v++) {
        x[v] = load(e, p->lanes, t->from, em_add(e, base, em_long(e, v * stride)));
        for (int l = 0; l < p->n_lane_levels; l++) x[v] = lane_level(e, x[v], (int)p->lane_levels[l]);
    }
    for (int s = 1; s < n; s *= 2)
        for (int v = 0; v < n; v++) {
            if (v & s) continue;
            em_value a = x[v], b = x[v | s];
            x[v] = LLVMBuildFAdd(e->b, a, b, "");
            x[v | s] = LLVMBuildFSub(e->b, a, b, "");
        }
    for (int v = 0; v < n; v++) store(e, scaled(t, x[v]), t->to, em_add(e, base, em_long(e, v * stride)));
    em_loop_end(e, &inner);
    em_loop_end(e, &outer);
}

/* The first stages of those given that one trip can take; returns their number. */
static int plan_trip(const transform *t, const rows_stage *stages, int n, trip *out) {
    int most = log2_of(t->e->target->vector_registers * t->e->target->vector_floats / KIR_LANES / 2), i = 0;
    bool whole = t->total % KIR_LANES == 0;
    if (most > 4) most = 4;
    *out = (trip){0};
    for (; whole && i < n && out->n_lane_levels < 4; i++) {
        int64_t s = stages[i].stride;
        if (stages[i].kind != STAGE_BUTTERFLY || (s != 1 && s != 2 && s != 4 && s != 8)) break;
        out->lane_levels[out->n_lane_levels++] = s;
        out->lanes = KIR_LANES;
    }
    for (; i < n && out->levels < most; i++) {
        int64_t s = stages[i].stride;
        if (stages[i].kind != STAGE_BUTTERFLY) break;
        if (out->levels ? s != out->stride << out->levels : out->lanes && s % KIR_LANES) break;
        if (!out->levels) {
            out->stride = s;
            out->lanes = lanes_at(s);
        }
        out->levels++;
    }
    return i;
}

static void scale_pass(transform *t) {
    em *e = t->e;
    em_loop j = em_loop_begin(e, em_long(e, 0), em_long(e, t->total), 1);
    store(e, scaled(t, load(e, 0, t->from, j.index)), t->to, j.index);
    em_loop_end(e, &j);
}

void em_hadamard(em *e, const kir_inst *inst, em_value row, em_value work) {
    transform t = {.e = e, .transpose = inst->transpose, .total = e->kernel->cols};
    rows_stage stages[ROWS_STAGES];
    int64_t block = 1;
    for (int i = 0; i < inst->n_factors; i++) block *= inst->factors[i];
    int n = rows_stages_of(e->kernel, inst, stages);
    bool moved = false; /* the current row is `work` */
    double scale = 1.0 / sqrt((double)block);
    for (int i = 0; i < n;) {
        trip butterflies;
        const rows_stage *stage = &stages[i];
        bool in_place = stage->kind == STAGE_BUTTERFLY;
        i += in_place ? plan_trip(&t, stage, n - i, &butterflies) : 1;
        t.from = moved ? work : row;
        if (!in_place || (moved && i == n)) moved = !moved;
        t.to = moved ? work : row;
        t.scale = i == n && !moved ? scale : 1.0;
        if (in_place)
            butterfly_pass(&t, &butterflies);
        else if (stage->kind == STAGE_DENSE)
            dense_pass(&t, stage->order, stage->stride);
        else
            large_pass(&t, stage->order, stage->stride);
    }
    if (moved) { /* the last one went to `work` */
        t.from = work;
        t.to = row;
        t.scale = scale;
        scale_pass(&t);
    }
}
