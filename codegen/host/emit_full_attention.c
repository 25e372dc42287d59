/* Attention within fixed-length sequences of consecutive rows, read from matrices: no cache and no mask.
 *
 * A task is one head of one sequence. It copies the head's keys, turned, and values into scratch as f32, once; then rows go in blocks of `mr` (what is
 * left over: one by one): scores of all positions, softmax, weighted sum of values. Invariant: a row's result has the same bits in a block and alone,
 * since each sum has one order.
 *
 * Scratch, in floats: keys [dim][positions], values [tokens][padded dim], scores [mr][positions], queries times scale [mr][padded dim], sums [mr];
 * positions and padded dim are rounded up to whole vectors. */
#include "codegen/host/emit.h"
#include <math.h>

typedef struct full_state {
    em *e;
    const kir_full_attention *a;
    int64_t positions, padded;
    int chunk;                         /* vectors in registers for each row */
    em_value keys, values, p, q, sums; /* scratch */
    em_value first, column;            /* first row of the sequence, first column of the head */
} full_state;

static em_value matrix_at(const full_state *s, int buffer, em_value row, em_value column) {
    return em_mul_add(s->e, row, s->e->kernel->buffers.p[buffer].stride, em_add(s->e, s->column, column));
}

static em_value load(const full_state *s, int buffer, em_value row, em_value column) {
    em *e = s->e;
    return em_load_widened(e, e->kernel->buffers.p[buffer].elem, e->buffers[buffer],
                           matrix_at(s, buffer, row, column), 0);
}

static void put(em *e, em_value value, em_value base, em_value index) {
    em_store(e, value, em_at(e, e->f32, base, index), 4);
}

static em_value vector_at(em *e, em_value base, em_value index) {
    return em_load(e, e->f32v, em_at(e, e->f32, base, index), 64);
}

/* Keys and values of the task; the padding of keys is zero, that of values too. */
static void gather(const full_state *s) {
    em *e = s->e;
    em_value zero = em_real(e->f32, 0.0);
    em_loop p = em_loop_begin(e, em_long(e, 0), em_long(e, s->a->tokens), 1);
    em_loop d = em_loop_begin(e, em_long(e, 0), em_long(e, s->a->head_dim), 1);
    em_value row = em_add(e, s->first, p.index);
    put(e, load(s, s->a->k, row, d.index), s->keys, em_mul_add(e, d.index, s->positions, p.index));
    put(e, load(s, s->a->v, row, d.index), s->values, em_mul_add(e, p.index, s->padded, d.index));
    em_loop_end(e, &d);
    for (int64_t i = s->a->head_dim; i < s->padded; i++)
        put(e, zero, s->values, em_mul_add(e, p.index, s->padded, em_long(e, i)));
    em_loop_end(e, &p);
    for (int64_t i = s->a->tokens; i < s->positions; i++) {
        em_loop k = em_loop_begin(e, em_long(e, 0), em_long(e, s->a->head_dim), 1);
        put(e, zero, s->keys, em_mul_add(e, k.index, s->positions, em_long(e, i)));
        em_loop_end(e, &k);
    }
}

/* out[i][at + 16 v] = sum over n of x[i][n] * m[n][at + 16 v], for `lanes` rows and `vectors` vectors: scores and weighted sums alike.
 * The results go to done(). */
typedef void done_fn(const full_state *s, int lane, em_value at, em_value value, em_value user);

static void products(const full_state *s, int lanes, em_value x, int64_t x_stride, em_value m,
                     int64_t m_stride, int64_t n, em_value at, int vectors, done_fn *done, em_value user) {
    em *e = s->e;
    em_value acc[64], row[8];
    for (int i = 0; i < lanes * vectors; i++) {
        acc[i] = em_local(e, e->f32v);
        em_store(e, em_real(e->f32v, 0.0), acc[i], 64);
    }
    em_loop k = em_loop_begin(e, em_long(e, 0), em_long(e, n), 1);
    em_value base = em_mul_add(e, k.index, m_stride, at);
    for (int v = 0; v < vectors; v++) row[v] = vector_at(e, m, em_add(e, base, em_long(e, v * KIR_LANES)));
    for (int i = 0; i < lanes; i++) {
        em_value scalar = em_load(e, e->f32, em_at(e, e->f32, em_offset(e, x, i * x_stride * 4), k.index), 4);
        em_value splat = em_splat(e, scalar, KIR_LANES);
        for (int v = 0; v < vectors; v++)
            em_store(e, em_fma(e, splat, row[v], em_load(e, e->f32v, acc[i * vectors + v], 64)),
                     acc[i * vectors + v], 64);
    }
    em_loop_end(e, &k);
    for (int i = 0; i < lanes; i++)
        for (int v = 0; v < vectors; v++)
            done(s, i, em_add(e, at, em_long(e, v * KIR_LANES)),
                 em_load(e, e->f32v, acc[i * vectors + v], 64), user);
}

/* products() over all of `width` columns. */
static void all_products(const full_state *s, int lanes, em_value x, int64_t x_stride, em_value m,
                         int64_t width, int64_t n, done_fn *done, em_value user) {
    em *e = s->e;
    int64_t step = (int64_t)s->chunk * KIR_LANES, whole = width / step * step;
    if (whole) {
        em_loop at = em_loop_begin(e, em_long(e, 0), em_long(e, whole), step);
        products(s, lanes, x, x_stride, m, width, n, at.index, s->chunk, done, user);
        em_loop_end(e, &at);
    }
    if (whole < width)
        products(s, lanes, x, x_stride, m, width, n, em_long(e, whole), (int)((width - whole) / KIR_LANES),
                 done, user);
}

static void store_score(const full_state *s, int lane, em_value at, em_value value, em_value unused) {
    (void)unused;
    em_store(s->e, value, em_at(s->e, s->e->f32, em_offset(s->e, s->p, lane * s->positions * 4), at), 64);
}

/* Rounds a row's result to the element of the output; the last vector of a head may be a part of one. */
static void store_result(const full_state *s, int lane, em_value at, em_value value, em_value row) {
    em *e = s->e;
    const kir_buffer *out = &e->kernel->buffers.p[s->a->out];
    em_value sum = em_load(e, e->f32, em_offset(e, s->sums, lane * 4), 4);
    value = LLVMBuildFDiv(e->b, value, em_splat(e, sum, KIR_LANES), "");
    em_value index = matrix_at(s, s->a->out, em_add(e, row, em_long(e, lane)), at);
    int rest = (int)(s->a->head_dim % KIR_LANES);
    if (!rest) {
        em_store_rounded(e, out->elem, e->buffers[s->a->out], index, value, KIR_LANES);
        return;
    }
    em_branch full = em_if(e, LLVMBuildICmp(e->b, LLVMIntSLT, at, em_long(e, s->padded - KIR_LANES), ""));
    em_store_rounded(e, out->elem, e->buffers[s->a->out], index, value, KIR_LANES);
    em_else(e, &full);
    em_store_rounded(e, out->elem, e->buffers[s->a->out], index, value, rest);
    em_endif(e, &full);
}

/* softmax(p, sum): scores to exponentials relative to the largest, and their sum; one function for all rows. */
static em_value softmax(const full_state *s) {
    em *e = s->e;
    em_type params[] = {e->ptr, e->ptr};
    em_place saved;
    em_value function = em_begin_helper(e, "softmax", params, 2, &saved), p = LLVMGetParam(function, 0);
    for (int64_t i = s->a->tokens; i < s->positions; i++)
        put(e, em_real(e->f32, -INFINITY), p, em_long(e, i));
    em_value vector = em_local(e, e->f32v);
    em_store(e, em_real(e->f32v, -INFINITY), vector, 64);
    em_loop i = em_loop_begin(e, em_long(e, 0), em_long(e, s->positions), KIR_LANES);
    em_store(e, em_larger(e, em_load(e, e->f32v, vector, 64), vector_at(e, p, i.index)), vector, 64);
    em_loop_end(e, &i);
    em_value largest = em_splat(e, em_reduce_max(e, em_load(e, e->f32v, vector, 64)), KIR_LANES);
    em_store(e, em_real(e->f32v, 0.0), vector, 64);
    i = em_loop_begin(e, em_long(e, 0), em_long(e, s->positions), KIR_LANES);
    em_value x = em_exp(e, LLVMBuildFSub(e->b, vector_at(e, p, i.index), largest, ""));
    em_store(e, x, em_at(e, e->f32, p, i.index), 64);
    em_store(e, LLVMBuildFAdd(e->b, em_load(e, e->f32v, vector, 64), x, ""), vector, 64);
    em_loop_end(e, &i);
    em_store(e, em_reduce_add(e, em_load(e, e->f32v, vector, 64)), LLVMGetParam(function, 1), 4);
    em_end_helper(e, saved);
    return function;
}

/* Rows [row, row + lanes) of the matrices. */
static void attend(const full_state *s, int lanes, em_value row, em_value normalise) {
    em *e = s->e;
    for (int i = 0; i < lanes; i++) {
        em_loop d = em_loop_begin(e, em_long(e, 0), em_long(e, s->a->head_dim), 1);
        em_value x = load(s, s->a->q, em_add(e, row, em_long(e, i)), d.index);
        put(e, LLVMBuildFMul(e->b, x, em_real(e->f32, s->a->scale), ""),
            em_offset(e, s->q, i * s->padded * 4), d.index);
        em_loop_end(e, &d);
    }
    all_products(s, lanes, s->q, s->padded, s->keys, s->positions, s->a->head_dim, store_score, NULL);
    for (int i = 0; i < lanes; i++) {
        em_value args[] = {em_offset(e, s->p, i * s->positions * 4), em_offset(e, s->sums, i * 4)};
        em_call_helper(e, normalise, args, 2);
    }
    all_products(s, lanes, s->p, s->positions, s->values, s->padded, s->a->tokens, store_result, row);
}

void em_full_attention(em *e, const char *symbol) {
    const kir_full_attention *a = &e->kernel->full_attention;
    full_state s = {.e = e,
                    .a = a,
                    .positions = (a->tokens + KIR_LANES - 1) / KIR_LANES * KIR_LANES,
                    .padded = (a->head_dim + KIR_LANES - 1) / KIR_LANES * KIR_LANES,
                    .chunk = e->target->vector_floats >= 16 ? 4 : 1};
    em_begin_kernel(e, symbol);
    em_value normalise = softmax(&s);
    s.keys = e->scratch;
    s.values = em_offset(e, s.keys, a->head_dim * s.positions * 4);
    s.p = em_offset(e, s.values, a->tokens * s.padded * 4);
    s.q = em_offset(e, s.p, a->mr * s.positions * 4);
    s.sums = em_offset(e, s.q, a->mr * s.padded * 4);

    em_loop t = em_loop_begin(e, e->begin, e->end, 1);
    s.first = em_mul(e, LLVMBuildUDiv(e->b, t.index, em_long(e, a->heads), ""), em_long(e, a->tokens));
    s.column = em_mul(e, LLVMBuildURem(e->b, t.index, em_long(e, a->heads), ""), em_long(e, a->head_dim));
    gather(&s);
    int64_t whole = a->tokens / a->mr * a->mr;
    em_value end = em_add(e, s.first, em_long(e, a->tokens)), middle = em_add(e, s.first, em_long(e, whole));
    if (whole) {
        em_loop row = em_loop_begin(e, s.first, middle, a->mr);
        attend(&s, a->mr, row.index, normalise);
        em_loop_end(e, &row);
    }
    if (whole < a->tokens) {
        em_loop row = em_loop_begin(e, middle, end, 1);
        attend(&s, 1, row.index, normalise);
        em_loop_end(e, &row);
    }
    em_loop_end(e, &t);
    LLVMBuildRetVoid(e->b);
}
