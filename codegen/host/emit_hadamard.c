/* Hadamard transform of a scratch row: y = x H / sqrt(n), block by block, H a Kronecker product.
 *
 * Each factor is a pass over the row. Dense factors (12, 20, 28, 36 ...) multiply by a constant table of +1 and -1: y_b = sum_a s[a][b] x_a, whole vectors at a
 * time, a group of outputs in registers; they go from one of two rows to the other. A power of two needs no table: butterflies at distances below KIR_LANES
 * by shuffles within a vector, others between vectors, several levels for one trip through memory. Where vectors don't fit (a factor whose
 * inner stride is no multiple of KIR_LANES) scalar loops do the same sums. Products with +-1 are exact, so all forms round alike up to the order of sums. */
#include "codegen/host/emit.h"
#include <math.h>
#include "base/hadamard.h"

typedef struct pass {
    enum { PASS_DENSE, PASS_BUTTERFLY, PASS_SCALAR, PASS_SCALE } kind;
    int64_t factor, inner; /* of the Kronecker product: elements of the factor stand `inner` apart */
    int64_t stride;        /* butterflies: distance of the first level, in elements */
    int levels;            /* butterflies between vectors, at stride, 2 stride, ... */
    int lane_levels;       /* butterflies within a vector, at 1, 2, 4, 8 */
} pass;

typedef struct transform {
    em *e;
    bool transpose;
    int64_t total, block; /* columns; those of one block */
    double scale;         /* of the pass being emitted: 1 but for the last */
    em_value from, to;
    int tables;
} transform;

static int log2_of(int64_t n) {
    return n <= 1 ? 0 : 1 + log2_of(n / 2);
}
static bool is_power_of_two(int64_t n) {
    return (n & (n - 1)) == 0;
}

static em_value scaled(transform *t, em_value x) {
    return t->scale == 1.0 ? x : LLVMBuildFMul(t->e->b, x, em_real(LLVMTypeOf(x), t->scale), "");
}

/* The table s[a][b] = H[a][b], or H[b][a] transposed, as floats. */
static em_value sign_table(transform *t, int64_t factor) {
    em *e = t->e;
    size_t n = (size_t)(factor * factor);
    int8_t *h = syl_arena_alloc(&e->arena, n);
    em_value *values = SYL_NEW_ARRAY(&e->arena, em_value, n), plus = em_real(e->f32, 1.0),
             minus = em_real(e->f32, -1.0);
    if (!syl_hadamard_matrix((int)factor, h)) return NULL;
    for (int64_t a = 0; a < factor; a++)
        for (int64_t b = 0; b < factor; b++)
            values[a * factor + b] = h[t->transpose ? b * factor + a : a * factor + b] > 0 ? plus : minus;
    return em_global(e, "signs", LLVMConstArray2(e->f32, values, n));
}

static em_value vector_at(em *e, em_value row, em_value index) {
    return em_at(e, e->f32, row, index);
}

/* ---- dense ---- */

static void dense_pass(transform *t, const pass *p) {
    em *e = t->e;
    int64_t d = p->factor, inner = p->inner;
    int limit = e->target->vector_floats >= 16 ? 14 : e->target->vector_floats >= 8 ? 6 : 3, group = 1;
    em_value table = sign_table(t, d), sums[16];
    for (int g = 2; g <= limit; g++)
        if (d % g == 0) group = g;
    for (int g = 0; g < group; g++) sums[g] = em_local(e, e->f32v);
    em_loop outer = em_loop_begin(e, em_long(e, 0), em_long(e, t->total), d * inner);
    em_loop column = em_loop_begin(e, em_long(e, 0), em_long(e, inner), KIR_LANES);
    em_value base = em_add(e, outer.index, column.index);
    em_loop output = em_loop_begin(e, em_long(e, 0), em_long(e, d), group);
    for (int g = 0; g < group; g++) em_store(e, em_real(e->f32v, 0.0), sums[g], 64);
    em_loop a = em_loop_begin(e, em_long(e, 0), em_long(e, d), 1);
    em_value x = em_load(e, e->f32v, vector_at(e, t->from, em_mul_add(e, a.index, inner, base)), 64);
    for (int g = 0; g < group; g++) {
        em_value index = em_mul_add(e, a.index, d, em_add(e, output.index, em_long(e, g)));
        em_value sign = em_splat(e, em_load(e, e->f32, em_at(e, e->f32, table, index), 4), KIR_LANES);
        em_store(e, em_fma(e, x, sign, em_load(e, e->f32v, sums[g], 64)), sums[g], 64);
    }
    em_loop_end(e, &a);
    for (int g = 0; g < group; g++) {
        em_value index = em_mul_add(e, em_add(e, output.index, em_long(e, g)), inner, base);
        em_store(e, scaled(t, em_load(e, e->f32v, sums[g], 64)), vector_at(e, t->to, index), 64);
    }
    em_loop_end(e, &output);
    em_loop_end(e, &column);
    em_loop_end(e, &outer);
}

/* ---- power of two ---- */

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

static void butterfly_pass(transform *t, const pass *p) {
    em *e = t->e;
    em_value x[16];
    int n = 1 << p->levels;
    int64_t span = p->stride * n; /* vectors of a group stand p->stride apart */
    em_loop outer = em_loop_begin(e, em_long(e, 0), em_long(e, t->total), span);
    em_loop inner = em_loop_begin(e, em_long(e, 0), em_long(e, p->stride), KIR_LANES);
    em_value base = em_add(e, outer.index, inner.index);
    for (int v = 0; v < n; v++) {
        x[v] = em_load(e, e->f32v, vector_at(e, t->from, em_add(e, base, em_long(e, v * p->stride))), 64);
        for (int l = 0; l < p->lane_levels; l++) x[v] = lane_level(e, x[v], 1 << l);
    }
    for (int s = 1; s < n; s *= 2)
        for (int v = 0; v < n; v++) {
            if (v & s) continue;
            em_value a = x[v], b = x[v | s];
            x[v] = LLVMBuildFAdd(e->b, a, b, "");
            x[v | s] = LLVMBuildFSub(e->b, a, b, "");
        }
    for (int v = 0; v < n; v++)
        em_store(e, scaled(t, x[v]), vector_at(e, t->to, em_add(e, base, em_long(e, v * p->stride))), 64);
    em_loop_end(e, &inner);
    em_loop_end(e, &outer);
}

/* ---- scalar: any shape ---- */

/* Sign of H[a][b] for a power of two: parity of a & b. */
static em_value parity_sign(em *e, em_value a, em_value b) {
    em_value bits = LLVMBuildAnd(e->b, a, b, "");
    em_value odd = LLVMBuildTrunc(e->b, em_intrinsic(e, "llvm.ctpop", &e->i64, 1, &bits, 1), e->i1, "");
    return LLVMBuildSelect(e->b, odd, em_real(e->f32, -1.0), em_real(e->f32, 1.0), "");
}

static void scalar_pass(transform *t, const pass *p) {
    em *e = t->e;
    int64_t d = p->factor;
    em_value table = is_power_of_two(d) ? NULL : sign_table(t, d), sum = em_local(e, e->f32);
    em_loop outer = em_loop_begin(e, em_long(e, 0), em_long(e, t->total), d * p->inner);
    em_loop b = em_loop_begin(e, em_long(e, 0), em_long(e, d), 1);
    em_loop column = em_loop_begin(e, em_long(e, 0), em_long(e, p->inner), 1);
    em_value base = em_add(e, outer.index, column.index);
    em_store(e, em_real(e->f32, 0.0), sum, 4);
    em_loop a = em_loop_begin(e, em_long(e, 0), em_long(e, d), 1);
    em_value sign = table ? em_load(e, e->f32, em_at(e, e->f32, table, em_mul_add(e, a.index, d, b.index)), 4)
                          : parity_sign(e, a.index, b.index);
    em_value x = em_load(e, e->f32, vector_at(e, t->from, em_mul_add(e, a.index, p->inner, base)), 4);
    em_store(e, em_fma(e, x, sign, em_load(e, e->f32, sum, 4)), sum, 4);
    em_loop_end(e, &a);
    em_store(e, scaled(t, em_load(e, e->f32, sum, 4)),
             vector_at(e, t->to, em_mul_add(e, b.index, p->inner, base)), 4);
    em_loop_end(e, &column);
    em_loop_end(e, &b);
    em_loop_end(e, &outer);
}

static void scale_pass(transform *t) {
    em *e = t->e;
    em_loop j = em_loop_begin(e, em_long(e, 0), em_long(e, t->total), 1);
    em_store(e, scaled(t, em_load(e, e->f32, vector_at(e, t->from, j.index), 4)),
             vector_at(e, t->to, j.index), 4);
    em_loop_end(e, &j);
}

/* ---- planning ---- */

enum { max_passes = 64 };

static int plan_passes(const transform *t, const kir_inst *inst, pass *passes) {
    int n = 0,
        in_registers = log2_of(t->e->target->vector_registers * t->e->target->vector_floats / KIR_LANES / 2);
    int64_t inner = t->block;
    if (in_registers > 4) in_registers = 4;
    for (int i = 0; i < inst->n_factors; i++) {
        int64_t factor = inst->factors[i];
        inner /= factor;
        if (factor == 1) continue;
        bool whole =
            inner % KIR_LANES == 0 || (inner == 1 && is_power_of_two(factor) && t->block % KIR_LANES == 0);
        if (!whole) {
            passes[n++] = (pass){.kind = PASS_SCALAR, .factor = factor, .inner = inner};
            continue;
        }
        if (!is_power_of_two(factor)) {
            passes[n++] = (pass){.kind = PASS_DENSE, .factor = factor, .inner = inner};
            continue;
        }
        int levels = log2_of(factor), lane_levels = inner == 1 ? (levels < 4 ? levels : 4) : 0;
        int64_t stride = inner == 1 ? KIR_LANES : inner;
        levels -= lane_levels;
        do {
            int some = levels < in_registers ? levels : in_registers;
            passes[n++] =
                (pass){.kind = PASS_BUTTERFLY, .stride = stride, .levels = some, .lane_levels = lane_levels};
            stride <<= some;
            levels -= some;
            lane_levels = 0;
        } while (levels);
    }
    return n;
}

void em_hadamard(em *e, const kir_inst *inst, em_value row, em_value work) {
    transform t = {.e = e, .transpose = inst->transpose, .total = e->kernel->cols, .block = 1, .scale = 1.0};
    pass passes[max_passes];
    for (int i = 0; i < inst->n_factors; i++) t.block *= inst->factors[i];
    int n = plan_passes(&t, inst, passes);
    bool moved = false; /* the current row is `work` */
    double scale = 1.0 / sqrt((double)t.block);
    for (int i = 0; i < n; i++) {
        bool out_of_place = passes[i].kind != PASS_BUTTERFLY || (moved && i == n - 1);
        if (out_of_place && moved == false && i == n - 1) passes[n++] = (pass){.kind = PASS_SCALE};
        t.from = moved ? work : row;
        moved = moved != out_of_place;
        t.to = moved ? work : row;
        t.scale = i == n - 1 ? scale : 1.0;
        switch (passes[i].kind) {
        case PASS_DENSE:
            dense_pass(&t, &passes[i]);
            break;
        case PASS_BUTTERFLY:
            butterfly_pass(&t, &passes[i]);
            break;
        case PASS_SCALAR:
            scalar_pass(&t, &passes[i]);
            break;
        case PASS_SCALE:
            scale_pass(&t);
            break;
        }
    }
}
