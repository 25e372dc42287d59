/* low_rank_split: W = U D + R, U D near the best approximation of W of its rank. U and D are rounded before R is made, so that the sum holds. */
#include <stdlib.h>
#include "base/linalg.h"
#include "base/numeric.h"
#include "ir/ref/ops.h"

enum { SEED = 1 };

static void round_bf16(double *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] = syl_bf16_to_f32(syl_bf16_from_f64(x[i]));
}

syl_status syl_ref_low_rank_factors(const syl_op *op, syl_diag *diag, const double *w, double *u, double *d) {
    int64_t rows = op->results[2].type.dims[0].size, cols = op->results[2].type.dims[1].size,
            rank = syl_attr_int(op, "rank");
    double *values = syl_ref_alloc(rank, sizeof *values);
    syl_linalg_status status =
        values ? syl_linalg_truncated_svd(w, rows, cols, rank, SEED, u, d, values) : SYL_LINALG_NO_MEMORY;
    free(values);
    if (status == SYL_LINALG_NO_MEMORY)
        return syl_error(diag, SYL_ERR_out_of_memory, op->loc, "no memory to evaluate low_rank_split");
    if (status != SYL_LINALG_OK)
        return syl_error(diag, SYL_ERR_ir_low_rank, op->loc,
                         "low_rank_split: the singular values of the %lld x %lld matrix were not found: %s",
                         (long long)rows, (long long)cols,
                         status == SYL_LINALG_SIZE ? "it is too large"
                                                   : "the decomposition did not converge");
    if (syl_attr_str(op, "round")[0] == 'b') {
        round_bf16(u, rows * rank);
        round_bf16(d, rank * cols);
    }
    return SYL_OK;
}

void syl_ref_low_rank_residual(const syl_op *op, int64_t rows, const double *u, const double *d, double *x) {
    syl_linalg_multiply_add(rows, op->results[2].type.dims[1].size, syl_attr_int(op, "rank"), -1, u, d, x);
}
