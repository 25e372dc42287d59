/* Row kernels: for each row, the stages of kir_schedule one after the other, each a loop over the columns.
 *
 * Sums have the order of the CUDA kernel's threads (codegen/rows_layout.h): as many partial sums as its threads have together, then those of a thread, of a warp by
 * halves, and warps in order.
 *
 * Scratch: one row (columns rounded up to whole vectors) for each kept instruction, one for each transform (its operand is written there,
 * then transformed in place) and each append of codes and projection, and a work row. Padding columns hold garbage that nothing reads as a value: stores and reductions leave them out. */
#include "codegen/host/emit.h"
#include <math.h>
#include "codegen/rows_layout.h"

typedef struct rows_state {
    em *e;
    em_body body;
    int *stage;
    bool *keep;
    em_value *partial; /* on the stack, of each reduction: a vector, or all partial sums */
    rows_shape shape;
    int64_t sums; /* number of partial sums */
    em_value work;
    int n, stages;
    int64_t cols, padded;
} rows_state;

static bool is_reduction(kir_op op) {
    return op == KIR_reduce_sum || op == KIR_reduce_max;
}
static bool is_transform(kir_op op) {
    return op == KIR_hadamard || op == KIR_rope || op == KIR_head_norm;
}
static bool is_append_codes(kir_op op) {
    return op == KIR_append_codes_k || op == KIR_append_codes_v;
}
/* What works on a scratch row, to which its operand goes first. */
static bool needs_scratch_row(kir_op op) {
    return is_transform(op) || is_append_codes(op) || op == KIR_project;
}

static double neutral(kir_op op) {
    return op == KIR_reduce_max ? -INFINITY : 0.0;
}

static void assign_scratch(rows_state *s) {
    em *e = s->e;
    int64_t offset = 0;
    bool work = false;
    for (int i = 0; i < s->n; i++) {
        const kir_inst *inst = &e->kernel->body.p[i];
        work = work || inst->op == KIR_hadamard || inst->op == KIR_project;
        if (!s->keep[i] && !needs_scratch_row(inst->op)) continue;
        s->body.memory[i] = em_offset(e, e->scratch, offset);
        offset += s->padded * (inst->type == KIR_F64 ? 8 : 4);
    }
    s->work = work ? em_offset(e, e->scratch, offset) : NULL;
}

/* ---- sums ---- */

/* Where the partial sums of columns [col, col + KIR_LANES) stand: their number is a multiple of KIR_LANES. */
static em_value partial_at(const rows_state *s, int inst, em_value col) {
    em *e = s->e;
    if (s->cols > s->sums) col = LLVMBuildURem(e->b, col, em_long(e, s->sums), "");
    return em_at(e, e->f32, s->partial[inst], col);
}

/* All partial sums: 0. */
static void clear_sums(const rows_state *s, int inst) {
    em *e = s->e;
    em_loop j = em_loop_begin(e, em_long(e, 0), em_long(e, s->sums), KIR_LANES);
    em_store(e, em_real(e->f32v, 0.0), em_at(e, e->f32, s->partial[inst], j.index), 64);
    em_loop_end(e, &j);
}

/* v[0] and v[1] together: neighbours added. */
static em_value add_pairs(em *e, const em_value *v) {
    int even[KIR_LANES], odd[KIR_LANES], lanes = em_lanes(LLVMTypeOf(v[0]));
    for (int i = 0; i < lanes; i++) {
        even[i] = 2 * i;
        odd[i] = 2 * i + 1;
    }
    return LLVMBuildFAdd(e->b, em_shuffle(e, v[0], v[1], even, lanes), em_shuffle(e, v[0], v[1], odd, lanes),
                         "");
}

/* The sums of threads [first, first + lanes). A thread's partial sums stand in runs of `vector`, a run's thread after the other. */
static em_value thread_sums(const rows_state *s, int inst, em_value first, int lanes) {
    em *e = s->e;
    int vector = s->shape.vector, runs = rows_chains(&s->shape) / vector;
    em_value run[4], v[8];
    for (int q = 0; q < runs; q++) {
        em_value at = em_mul(e, em_add(e, first, em_long(e, q * s->shape.threads)), em_long(e, vector));
        for (int i = 0; i < vector; i++)
            v[i] = em_load(e, em_vec(e->f32, lanes),
                           em_at(e, e->f32, s->partial[inst], em_add(e, at, em_long(e, i * lanes))), 4);
        for (int n = vector; n > 1; n /= 2)
            for (int i = 0; i < n; i += 2) v[i / 2] = add_pairs(e, &v[i]);
        run[q] = v[0];
    }
    for (int n = runs; n > 1; n /= 2)
        for (int i = 0; i < n; i += 2) run[i / 2] = LLVMBuildFAdd(e->b, run[i], run[i + 1], "");
    return run[0];
}

static em_value total_of(const rows_state *s, int inst) {
    em *e = s->e;
    int threads = s->shape.threads;
    if (threads <= KIR_LANES) return em_reduce_add(e, thread_sums(s, inst, em_long(e, 0), threads));
    em_value total = em_local(e, e->f32);
    em_store(e, em_real(e->f32, 0.0), total, 4);
    em_loop warp = em_loop_begin(e, em_long(e, 0), em_long(e, threads), 32);
    em_value low = thread_sums(s, inst, warp.index, KIR_LANES),
             high = thread_sums(s, inst, em_add(e, warp.index, em_long(e, KIR_LANES)), KIR_LANES);
    em_value sum = em_reduce_add(e, LLVMBuildFAdd(e->b, low, high, ""));
    em_store(e, LLVMBuildFAdd(e->b, em_load(e, e->f32, total, 4), sum, ""), total, 4);
    em_loop_end(e, &warp);
    return em_load(e, e->f32, total, 4);
}

/* ---- stages ---- */

/* What one loop does at one vector of columns. */
static void emit_place(rows_state *s, em_value col, int valid) {
    em *e = s->e;
    em_body_new_place(&s->body, col, valid);
    for (int i = 0; i < s->n; i++) {
        const kir_inst *inst = &e->kernel->body.p[i];
        if (s->stage[i] != s->body.current) continue;
        if (em_is_vector_store(inst->op))
            em_body_store(&s->body, i);
        else if (needs_scratch_row(inst->op))
            em_store(e, em_body_vector(&s->body, inst->args[0]), em_at(e, e->f32, s->body.memory[i], col),
                     64);
        else if (is_reduction(inst->op)) {
            em_value value = em_body_vector(&s->body, inst->args[0]);
            if (valid < KIR_LANES)
                value = LLVMBuildSelect(e->b, em_first_lanes(e, valid, KIR_LANES), value,
                                        em_real(e->f32v, neutral(inst->op)), "");
            em_value at = inst->op == KIR_reduce_sum ? partial_at(s, i, col) : s->partial[i];
            em_value partial = em_load(e, e->f32v, at, 64);
            partial = inst->op == KIR_reduce_sum ? LLVMBuildFAdd(e->b, partial, value, "")
                                                 : em_larger(e, partial, value);
            em_store(e, partial, at, 64);
        } else if (s->keep[i])
            em_body_vector(&s->body, i);
    }
}

/* A loop is needed where a store, a kept value or a row-wide instruction belongs to the stage. */
static bool has_work(const rows_state *s, int stage) {
    for (int i = 0; i < s->n; i++) {
        kir_op op = s->e->kernel->body.p[i].op;
        if (s->stage[i] == stage &&
            (em_is_vector_store(op) || needs_scratch_row(op) || is_reduction(op) || s->keep[i]))
            return true;
    }
    return false;
}

static void emit_stage(rows_state *s, int stage) {
    em *e = s->e;
    s->body.current = stage;
    for (int i = 0; i < s->n; i++) {
        const kir_inst *inst = &e->kernel->body.p[i];
        if (s->stage[i] != stage) continue;
        if (inst->op == KIR_reduce_sum) clear_sums(s, i);
        if (inst->op == KIR_reduce_max) em_store(e, em_real(e->f32v, neutral(inst->op)), s->partial[i], 64);
    }
    int64_t whole = s->cols / KIR_LANES * KIR_LANES;
    if (whole) {
        em_loop loop = em_loop_begin(e, em_long(e, 0), em_long(e, whole), KIR_LANES);
        emit_place(s, loop.index, KIR_LANES);
        em_loop_end(e, &loop);
    }
    if (whole < s->cols) emit_place(s, em_long(e, whole), (int)(s->cols - whole));
    for (int i = 0; i < s->n; i++) {
        const kir_inst *inst = &e->kernel->body.p[i];
        if (s->stage[i] != stage) continue;
        if (inst->op == KIR_reduce_sum) s->body.scalar[i] = total_of(s, i);
        if (inst->op == KIR_reduce_max)
            s->body.scalar[i] = em_reduce_max(e, em_load(e, e->f32v, s->partial[i], 64));
        if (inst->op == KIR_hadamard) em_hadamard(e, inst, s->body.memory[i], s->work);
        if (inst->op == KIR_head_norm) em_head_norm(e, inst, s->body.memory[i]);
        if (inst->op == KIR_project) em_project(e, inst, s->body.memory[i], s->body.row, s->work);
        if (is_append_codes(inst->op)) em_append_codes(&s->body, inst, s->body.memory[i]);
        if (inst->op == KIR_rope) em_rope(e, inst, s->body.memory[i], s->body.row);
    }
}

void em_rows(em *e, const char *symbol) {
    rows_state s = {.e = e, .n = (int)e->kernel->body.n, .cols = e->kernel->cols};
    s.shape = rows_shape_of(e->kernel);
    s.sums = (int64_t)s.shape.threads * rows_chains(&s.shape);
    s.padded = (s.cols + KIR_LANES - 1) / KIR_LANES * KIR_LANES;
    s.stage = SYL_NEW_ARRAY(&e->arena, int, (size_t)s.n);
    s.keep = SYL_NEW_ARRAY(&e->arena, bool, (size_t)s.n);
    s.partial = SYL_NEW_ARRAY(&e->arena, em_value, (size_t)s.n);
    kir_schedule(e->kernel, s.stage, s.keep);
    em_begin_kernel(e, symbol);
    em_body_init(&s.body, e);
    s.body.stage = s.stage;
    s.body.keep = s.keep;
    assign_scratch(&s);
    for (int i = 0; i < s.n; i++) {
        if (s.stage[i] >= s.stages) s.stages = s.stage[i] + 1;
        if (e->kernel->body.p[i].op == KIR_reduce_sum) s.partial[i] = em_local_array(e, e->f32, s.sums);
        if (e->kernel->body.p[i].op == KIR_reduce_max) s.partial[i] = em_local_array(e, e->f32, KIR_LANES);
    }
    em_loop row = em_loop_begin(e, e->begin, e->end, 1);
    em_body_new_row(&s.body, row.index);
    for (int stage = 0; stage < s.stages; stage++) {
        em_body_new_place(&s.body, NULL, KIR_LANES);
        em_body_scalars(&s.body);
        if (has_work(&s, stage)) emit_stage(&s, stage);
    }
    em_body_scalars(&s.body);
    em_loop_end(e, &row);
    LLVMBuildRetVoid(e->b);
}
