/* Low-rank branches: the down-projection of a row kernel and the up-projection of a GEMM tile.
 *
 * Invariant: each sum has one order on every machine, whatever the rows beside it: down as reduce_sum has it (16 partial sums over j mod 16, by fma,
 * then a tree), up over r in order from 0, by fma. */
#include "codegen/host/emit.h"

/* ---- down ---- */

/* Outputs [q, q + n): their sums go on side by side, so that a vector of the row is read once for all of them. */
static void project_some(em *e, const kir_inst *inst, em_value row, em_value row_index, em_value q, int n) {
    const kir_buffer *d = &e->kernel->buffers.p[inst->second], *out = &e->kernel->buffers.p[inst->buffer];
    int64_t cols = e->kernel->cols, whole = cols / KIR_LANES * KIR_LANES;
    em_value acc[8], first[8];
    for (int i = 0; i < n; i++) {
        acc[i] = em_local(e, e->f32v);
        LLVMSetAlignment(acc[i], 64);
        em_store(e, em_real(e->f32v, 0.0), acc[i], 64);
        first[i] = em_mul(e, em_add(e, q, em_long(e, i)), em_long(e, d->stride));
    }
    for (int part = 0; part < 2;
         part++) { /* whole vectors, then the rest, where both factors are made 0 behind the end */
        if (part ? whole == cols : whole == 0) continue;
        em_loop j =
            em_loop_begin(e, em_long(e, part ? whole : 0), em_long(e, part ? cols : whole), KIR_LANES);
        em_value mask = em_first_lanes(e, (int)(cols - whole), KIR_LANES), zero = em_real(e->f32v, 0.0);
        em_value x = em_load(e, e->f32v, em_at(e, e->f32, row, j.index), 64);
        if (part) x = LLVMBuildSelect(e->b, mask, x, zero, "");
        for (int i = 0; i < n; i++) {
            em_value w = em_load_widened(e, d->elem, e->buffers[inst->second], em_add(e, first[i], j.index),
                                         KIR_LANES);
            if (part) w = LLVMBuildSelect(e->b, mask, w, zero, "");
            em_store(e, em_fma(e, x, w, em_load(e, e->f32v, acc[i], 64)), acc[i], 64);
        }
        em_loop_end(e, &j);
    }
    em_value at = em_mul_add(e, row_index, out->stride, q);
    for (int i = 0; i < n; i++)
        em_store_rounded(e, out->elem, e->buffers[inst->buffer], em_add(e, at, em_long(e, i)),
                         em_reduce_add(e, em_load(e, e->f32v, acc[i], 64)), 1);
}

void em_project(em *e, const kir_inst *inst, em_value row, em_value row_index) {
    int64_t n = e->kernel->buffers.p[inst->buffer].cols;
    int together = e->target->vector_registers >= 32 ? 8 : 4;
    int64_t whole = n / together * together;
    if (whole) {
        em_loop q = em_loop_begin(e, em_long(e, 0), em_long(e, whole), together);
        project_some(e, inst, row, row_index, q.index, together);
        em_loop_end(e, &q);
    }
    if (whole < n) project_some(e, inst, row, row_index, em_long(e, whole), (int)(n - whole));
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
