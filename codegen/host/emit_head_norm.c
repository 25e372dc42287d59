/* Root-mean-square norm of the heads of a scratch row, each by itself, in place.
 *
 * The squares of a head are summed in KIR_LANES partial sums and a tree, then those behind its last whole vector one
 * by one: an order that depends on the size of the head alone. */
#include "codegen/host/emit.h"

static em_value square(em *e, em_value x) {
    return LLVMBuildFMul(e->b, x, x, "");
}

/* Multiplies the values [from, to) of a head by `factor`, `lanes` at a time (0: one by one). */
static void multiply(em *e, em_value head, int64_t from, int64_t to, int lanes, em_value factor) {
    if (from == to) return;
    em_loop d = em_loop_begin(e, em_long(e, from), em_long(e, to), lanes ? lanes : 1);
    em_value at = em_at(e, e->f32, head, d.index);
    em_value x = em_load(e, lanes ? em_vec(e->f32, lanes) : e->f32, at, 4);
    em_store(e, LLVMBuildFMul(e->b, x, lanes ? em_splat(e, factor, lanes) : factor, ""), at, 4);
    em_loop_end(e, &d);
}

void em_head_norm(em *e, const kir_inst *inst, em_value row) {
    int64_t width = e->kernel->cols / inst->heads, whole = width / KIR_LANES * KIR_LANES;
    em_value partial = em_local(e, e->f32v), total = em_local(e, e->f32);
    LLVMSetAlignment(partial, 64);
    em_loop head = em_loop_begin(e, em_long(e, 0), em_long(e, inst->heads * width), width);
    em_value begin = em_at(e, e->f32, row, head.index);
    em_store(e, em_real(e->f32v, 0.0), partial, 64);
    if (whole) {
        em_loop d = em_loop_begin(e, em_long(e, 0), em_long(e, whole), KIR_LANES);
        em_value x = em_load(e, e->f32v, em_at(e, e->f32, begin, d.index), 4);
        em_store(e, LLVMBuildFAdd(e->b, em_load(e, e->f32v, partial, 64), square(e, x), ""), partial, 64);
        em_loop_end(e, &d);
    }
    em_store(e, em_reduce_add(e, em_load(e, e->f32v, partial, 64)), total, 4);
    if (whole < width) {
        em_loop d = em_loop_begin(e, em_long(e, whole), em_long(e, width), 1);
        em_value x = em_load(e, e->f32, em_at(e, e->f32, begin, d.index), 4);
        em_store(e, LLVMBuildFAdd(e->b, em_load(e, e->f32, total, 4), square(e, x), ""), total, 4);
        em_loop_end(e, &d);
    }
    em_value mean =
        LLVMBuildFMul(e->b, em_load(e, e->f32, total, 4), em_real(e->f32, 1.0 / (double)width), "");
    em_value sum = LLVMBuildFAdd(e->b, mean, em_real(e->f32, inst->f), "");
    em_value root = em_intrinsic(e, "llvm.sqrt", &e->f32, 1, &sum, 1);
    em_value factor = LLVMBuildFDiv(e->b, em_real(e->f32, 1.0), root, "");
    multiply(e, begin, 0, whole, KIR_LANES, factor);
    multiply(e, begin, whole, width, 0, factor);
    em_loop_end(e, &head);
}
