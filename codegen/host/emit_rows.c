/* Row kernels: for each row, the stages of kir_schedule one after the other, each a loop over the columns.
 *
 * Scratch: one row (columns rounded up to whole vectors) for each kept instruction, one for each transform (its operand is written there,
 * then transformed in place) and each append of codes and projection, and a work row. Padding columns hold garbage that nothing reads as a value: stores and reductions leave them out. */
#include "codegen/host/emit.h"
#include <math.h>

typedef struct rows_state {
    em *e;
    em_body body;
    int *stage;
    bool *keep;
    em_value *partial; /* stack vector of each reduction */
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
        work = work || inst->op == KIR_hadamard;
        if (!s->keep[i] && !needs_scratch_row(inst->op)) continue;
        s->body.memory[i] = em_offset(e, e->scratch, offset);
        offset += s->padded * (inst->type == KIR_F64 ? 8 : 4);
    }
    s->work = work ? em_offset(e, e->scratch, offset) : NULL;
}

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
            em_value partial = em_load(e, e->f32v, s->partial[i], 64);
            partial = inst->op == KIR_reduce_sum ? LLVMBuildFAdd(e->b, partial, value, "")
                                                 : em_larger(e, partial, value);
            em_store(e, partial, s->partial[i], 64);
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
        if (s->stage[i] == stage && is_reduction(inst->op))
            em_store(e, em_real(e->f32v, neutral(inst->op)), s->partial[i], 64);
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
        if (is_reduction(inst->op)) {
            em_value partial = em_load(e, e->f32v, s->partial[i], 64);
            s->body.scalar[i] =
                inst->op == KIR_reduce_sum ? em_reduce_add(e, partial) : em_reduce_max(e, partial);
        }
        if (inst->op == KIR_hadamard) em_hadamard(e, inst, s->body.memory[i], s->work);
        if (inst->op == KIR_head_norm) em_head_norm(e, inst, s->body.memory[i]);
        if (inst->op == KIR_project) em_project(e, inst, s->body.memory[i], s->body.row);
        if (is_append_codes(inst->op)) em_append_codes(&s->body, inst, s->body.memory[i]);
        if (inst->op == KIR_rope) em_rope(e, inst, s->body.memory[i], s->body.row);
    }
}

void em_rows(em *e, const char *symbol) {
    rows_state s = {.e = e, .n = (int)e->kernel->body.n, .cols = e->kernel->cols};
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
        if (is_reduction(e->kernel->body.p[i].op)) {
            s.partial[i] = em_local(e, e->f32v);
            LLVMSetAlignment(s.partial[i], 64);
        }
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
