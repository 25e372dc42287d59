/* Low-rank branches: the down-projection of a row kernel and the up-projection of a GEMM tile.
 *
 * Invariant: each sum has one order on every machine, whatever the rows beside it: down that of the lanes of a CUDA warp (rows_project_run), up over r in order from
 * 0, by fma.
 *
 * Down: a lane of partial sums has runs of neighbouring columns. So the row is first copied with its runs turned: vectors of the first columns of KIR_LANES runs, of
 * the second, ... The same is done in registers to what is read of the matrix. */
#include "codegen/host/emit.h"
#include "codegen/rows_layout.h"

/* ---- down ---- */

enum { HALVES = ROWS_PROJECT_LANES / KIR_LANES, MAX_RUN = 8 };

typedef struct projection {
    em *e;
    const kir_inst *inst;
    kir_type elem; /* of the matrix */
    int run;
    bool
        words; /* runs of the matrix are 16 bytes: turned as words, which leaves run 4 i + r in lane 4 r + i */
    em_value turned;
} projection;

/* Lane `lane` of a turned vector: the number of its run. */
static int run_of(const projection *p, int lane) {
    return p->words ? lane % 4 * 4 + lane / 4 : lane;
}

/* `lanes` elements at `pointer`, of which the first `valid` may be read; the others are 0. */
static em_value load_valid(em *e, em_type element, int lanes, em_value pointer, int64_t valid) {
    em_type type = em_vec(element, lanes), overloads[] = {type, e->ptr};
    if (valid >= lanes) return em_load(e, type, pointer, 2);
    if (valid <= 0) return LLVMConstNull(type);
    em_value args[] = {pointer, em_int(e->i32, 2), em_first_lanes(e, (int)valid, lanes), LLVMConstNull(type)};
    return em_intrinsic(e, "llvm.masked.load", overloads, 2, args, 4);
}

/* Rows of 4 words, 4 in each of 4 vectors, to columns. */
static void turn_words(em *e, em_value x[4]) {
    int low[KIR_LANES], high[KIR_LANES], pair_low[KIR_LANES], pair_high[KIR_LANES];
    for (int i = 0; i < KIR_LANES; i++) {
        int row = i / 4 * 4, other = i % 2 * KIR_LANES, word = i % 4;
        low[i] = row + word / 2 + other;
        high[i] = low[i] + 2;
        pair_low[i] = row + word % 2 + word / 2 * KIR_LANES;
        pair_high[i] = pair_low[i] + 2;
    }
    em_value y[4];
    for (int i = 0; i < 2; i++) {
        y[i] = em_shuffle(e, x[2 * i], x[2 * i + 1], low, KIR_LANES);
        y[2 + i] = em_shuffle(e, x[2 * i], x[2 * i + 1], high, KIR_LANES);
    }
    for (int i = 0; i < 2; i++) {
        x[2 * i] = em_shuffle(e, y[2 * i], y[2 * i + 1], pair_low, KIR_LANES);
        x[2 * i + 1] = em_shuffle(e, y[2 * i], y[2 * i + 1], pair_high, KIR_LANES);
    }
}

/* KIR_LANES runs of the matrix from `index` on, turned; `valid` elements exist. */
static void load_turned(const projection *p, em_value index, int64_t valid, em_value *out) {
    em *e = p->e;
    em_type element = em_elem_type(e, p->elem);
    em_value from = em_at(e, element, e->buffers[p->inst->second], index);
    if (p->words) {
        int per_word = 4 / em_elem_size(p->elem);
        em_value x[4];
        for (int i = 0; i < 4; i++)
            x[i] = load_valid(e, e->i32, KIR_LANES, em_offset(e, from, i * KIR_LANES * 4),
                              valid / per_word - i * KIR_LANES);
        turn_words(e, x);
        for (int i = 0; i < 4; i++) {
            if (per_word == 1) {
                out[i] = LLVMBuildBitCast(e->b, x[i], e->f32v, "");
                continue;
            }
            em_value low = LLVMBuildShl(e->b, x[i], em_int(e->i32v, 16), ""),
                     high = LLVMBuildAnd(e->b, x[i], em_int(e->i32v, -65536), "");
            out[2 * i] = LLVMBuildBitCast(e->b, low, e->f32v, "");
            out[2 * i + 1] = LLVMBuildBitCast(e->b, high, e->f32v, "");
        }
        return;
    }
    em_value x = load_valid(e, element, KIR_LANES * p->run, from, valid);
    for (int m = 0; m < p->run; m++) {
        int lanes[KIR_LANES];
        for (int l = 0; l < KIR_LANES; l++) lanes[l] = l * p->run + m;
        em_value y = em_shuffle(e, x, NULL, lanes, KIR_LANES);
        out[m] = p->elem == KIR_BF16 ? em_bf16_to_f32(e, y) : y;
    }
}

/* Columns from `col` on of the row, KIR_LANES runs, to their places; `valid` exist. */
static void turn_row(const projection *p, em_value row, em_value col, int64_t valid) {
    em *e = p->e;
    em_value x = load_valid(e, e->f32, KIR_LANES * p->run, em_at(e, e->f32, row, col), valid);
    for (int m = 0; m < p->run; m++) {
        int lanes[KIR_LANES];
        for (int l = 0; l < KIR_LANES; l++) lanes[l] = run_of(p, l) * p->run + m;
        em_store(e, em_shuffle(e, x, NULL, lanes, KIR_LANES),
                 em_at(e, e->f32, p->turned, em_add(e, col, em_long(e, m * KIR_LANES))), 64);
    }
}

/* Adds the products of HALVES * KIR_LANES runs from column `col` on for n outputs, of whose sums acc[i * HALVES + half] are; `valid` columns exist. */
static void add_runs(const projection *p, em_value col, int64_t valid, const em_value *first, em_value *acc,
                     int n) {
    em *e = p->e;
    for (int half = 0; half < HALVES; half++) {
        int64_t span = (int64_t)KIR_LANES * p->run, left = valid - half * span;
        em_value at = em_add(e, col, em_long(e, half * span)), x[MAX_RUN], w[MAX_RUN];
        if (left <= 0) continue;
        for (int m = 0; m < p->run; m++)
            x[m] = em_load(e, e->f32v, em_at(e, e->f32, p->turned, em_add(e, at, em_long(e, m * KIR_LANES))),
                           64);
        for (int i = 0; i < n; i++) {
            em_value *sum = &acc[i * HALVES + half];
            load_turned(p, em_add(e, first[i], at), left, w);
            for (int m = 0; m < p->run; m++)
                em_store(e, em_fma(e, x[m], w[m], em_load(e, e->f32v, *sum, 64)), *sum, 64);
        }
    }
}

/* Outputs [q, q + n): their sums go on side by side, so that a vector of the row is read once for all of them. */
static void project_some(const projection *p, em_value row_index, em_value q, int n) {
    em *e = p->e;
    const kir_buffer *d = &e->kernel->buffers.p[p->inst->second],
                     *out = &e->kernel->buffers.p[p->inst->buffer];
    int64_t cols = e->kernel->cols, step = (int64_t)ROWS_PROJECT_LANES * p->run, whole = cols / step * step;
    em_value acc[8 * HALVES], first[8];
    for (int i = 0; i < n; i++) first[i] = em_mul(e, em_add(e, q, em_long(e, i)), em_long(e, d->stride));
    for (int i = 0; i < n * HALVES; i++) {
        acc[i] = em_local(e, e->f32v);
        LLVMSetAlignment(acc[i], 64);
        em_store(e, em_real(e->f32v, 0.0), acc[i], 64);
    }
    if (whole) {
        em_loop j = em_loop_begin(e, em_long(e, 0), em_long(e, whole), step);
        add_runs(p, j.index, step, first, acc, n);
        em_loop_end(e, &j);
    }
    if (whole < cols) add_runs(p, em_long(e, whole), cols - whole, first, acc, n);
    int order[KIR_LANES];
    for (int l = 0; l < KIR_LANES; l++) order[run_of(p, l)] = l;
    em_value at = em_mul_add(e, row_index, out->stride, q);
    for (int i = 0; i < n; i++) {
        em_value sum = LLVMBuildFAdd(e->b, em_load(e, e->f32v, acc[i * HALVES], 64),
                                     em_load(e, e->f32v, acc[i * HALVES + 1], 64), "");
        sum = em_reduce_add(e, em_shuffle(e, sum, NULL, order, KIR_LANES));
        em_store_rounded(e, out->elem, e->buffers[p->inst->buffer], em_add(e, at, em_long(e, i)), sum, 1);
    }
}

void em_project(em *e, const kir_inst *inst, em_value row, em_value row_index, em_value work) {
    const kir_buffer *d = &e->kernel->buffers.p[inst->second];
    projection p = {
        .e = e, .inst = inst, .elem = d->elem, .run = rows_project_run(e->kernel, inst), .turned = work};
    p.words = p.run * em_elem_size(p.elem) == 16;
    int64_t n = e->kernel->buffers.p[inst->buffer].cols, cols = e->kernel->cols,
            span = (int64_t)KIR_LANES * p.run, turned = cols / span * span;
    int together = e->target->vector_registers >= 32 ? 8 : 4;
    int64_t whole = n / together * together;
    if (turned) {
        em_loop j = em_loop_begin(e, em_long(e, 0), em_long(e, turned), span);
        turn_row(&p, row, j.index, span);
        em_loop_end(e, &j);
    }
    if (turned < cols) turn_row(&p, row, em_long(e, turned), cols - turned);
    if (whole) {
        em_loop q = em_loop_begin(e, em_long(e, 0), em_long(e, whole), together);
        project_some(&p, row_index, q.index, together);
        em_loop_end(e, &q);
    }
    if (whole < n) project_some(&p, row_index, em_long(e, whole), (int)(n - whole));
}

/* ---- up ---- */

void em_low_rank_tile(em *e, em_value helper, em_value row, em_value col, em_value tile) {
    const kir_branch *branch = &e->kernel->branch;
    const kir_buffer *t = &e->kernel->buffers.p[branch->t], *u = &e->kernel->buffers.p[branch->u];
    em_value args[] = {
        em_at(e, em_elem_type(e, t->elem), e->buffers[branch->t], em_mul(e, row, em_long(e, t->stride))),
        em_at(e, em_elem_type(e, u->elem), e->buffers[branch->u], em_mul(e, col, em_long(e, branch->rank))),
        tile};
    em_call_helper(e, helper, args, 3);
}

em_value em_low_rank_helper(em *e, int rows) {
    const kir_branch *branch = &e->kernel->branch;
    const kir_buffer *t = &e->kernel->buffers.p[branch->t], *u = &e->kernel->buffers.p[branch->u];
    int nr = e->kernel->gemm.nr, lanes = nr < KIR_LANES ? nr : KIR_LANES, pieces = nr / lanes;
    em_type piece = em_vec(e->f32, lanes), params[] = {e->ptr, e->ptr, e->ptr};
    em_place saved;
    em_value function =
        em_begin_helper(e, syl_arena_printf(&e->arena, "low_rank%d", rows), params, 3, &saved);
    em_value *acc = SYL_NEW_ARRAY(&e->arena, em_value, (size_t)(rows * pieces)),
             *w = SYL_NEW_ARRAY(&e->arena, em_value, (size_t)pieces);
    for (int i = 0; i < rows * pieces; i++) {
        acc[i] = em_local(e, piece);
        LLVMSetAlignment(acc[i], 64);
        em_store(e, em_real(piece, 0.0), acc[i], 64);
    }
    em_loop r = em_loop_begin(e, em_long(e, 0), em_long(e, branch->rank), 1);
    for (int p = 0; p < pieces; p++)
        w[p] = em_load_widened(e, u->elem, LLVMGetParam(function, 1),
                               em_mul_add(e, r.index, nr, em_long(e, p * lanes)), lanes);
    for (int i = 0; i < rows; i++) {
        em_value x = em_splat(e,
                              em_load_widened(e, t->elem, LLVMGetParam(function, 0),
                                              em_add(e, r.index, em_long(e, i * t->stride)), 0),
                              lanes);
        for (int p = 0; p < pieces; p++) {
            em_value *sum = &acc[i * pieces + p];
            em_store(e, em_fma(e, x, w[p], em_load(e, piece, *sum, 64)), *sum, 64);
        }
    }
    em_loop_end(e, &r);
    for (int i = 0; i < rows * pieces; i++)
        em_store(e, em_load(e, piece, acc[i], 64),
                 em_offset(e, LLVMGetParam(function, 2), (int64_t)i * lanes * 4), 32);
    em_end_helper(e, saved);
    return function;
}
