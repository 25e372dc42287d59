/* Root-mean-square norm of the heads of a scratch row, each by itself, in place.
 *
 * The squares of a head are summed in ROWS_NORM_SUMS partial sums, then by halves: an order that depends on the size of the head alone. */
#include "codegen/host/emit.h"
#include "codegen/rows_layout.h"

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

enum { PARTS = ROWS_NORM_SUMS / KIR_LANES }; /* vectors of partial sums */

/* Adds the squares of features [d + KIR_LANES * part, ...), of which `valid` are the head's, to partial sums number `part`. */
static void add_squares(em *e, em_value head, em_value d, em_value sums, int part, int valid) {
    if (valid <= 0) return;
    em_value x = em_load_first(e, KIR_F32, head, em_add(e, d, em_long(e, (int64_t)part * KIR_LANES)), valid);
    em_value at = em_offset(e, sums, (int64_t)part * KIR_LANES * 4);
    em_store(e, LLVMBuildFAdd(e->b, em_load(e, e->f32v, at, 64), square(e, x), ""), at, 64);
}

void em_head_norm(em *e, const kir_inst *inst, em_value row) {
    int64_t width = e->kernel->cols / inst->heads, whole = width / KIR_LANES * KIR_LANES,
            rounds = width / ROWS_NORM_SUMS * ROWS_NORM_SUMS;
    em_value sums = em_local_array(e, e->f32, ROWS_NORM_SUMS);
    em_loop head = em_loop_begin(e, em_long(e, 0), em_long(e, inst->heads * width), width);
    em_value begin = em_at(e, e->f32, row, head.index);
    for (int p = 0; p < PARTS; p++)
        em_store(e, em_real(e->f32v, 0.0), em_offset(e, sums, (int64_t)p * KIR_LANES * 4), 64);
    if (rounds) {
        em_loop d = em_loop_begin(e, em_long(e, 0), em_long(e, rounds), ROWS_NORM_SUMS);
        for (int p = 0; p < PARTS; p++) add_squares(e, begin, d.index, sums, p, KIR_LANES);
        em_loop_end(e, &d);
    }
    for (int p = 0; p < PARTS; p++)
        add_squares(e, begin, em_long(e, rounds), sums, p, (int)(width - rounds) - p * KIR_LANES);
    em_value halves = LLVMBuildFAdd(e->b, em_load(e, e->f32v, sums, 64),
                                    em_load(e, e->f32v, em_offset(e, sums, KIR_LANES * 4), 64), "");
    em_value mean = LLVMBuildFMul(e->b, em_reduce_add(e, halves), em_real(e->f32, 1.0 / (double)width), "");
    em_value sum = LLVMBuildFAdd(e->b, mean, em_real(e->f32, inst->f), "");
    em_value root = em_intrinsic(e, "llvm.sqrt", &e->f32, 1, &sum, 1);
    em_value factor = LLVMBuildFDiv(e->b, em_real(e->f32, 1.0), root, "");
    multiply(e, begin, 0, whole, KIR_LANES, factor);
    multiply(e, begin, whole, width, 0, factor);
    em_loop_end(e, &head);
}
