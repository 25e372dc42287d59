/* low_rank_split: W = U D + R, U D near the best approximation of W of its rank. U and D are rounded before R is made, so that the sum
 * holds.
 *
 * With rounds, U D alternates with the quantizer that R will meet (as LoftQ does: Li et al., arXiv 2310.08659): what the codes of R lose is
 * decomposed with what the branch holds already, and codes are made of what is left. The error falls in the first rounds and then wavers,
 * so the best round is kept. Only U, D and the error of a round are remembered: R follows from them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/linalg.h"
#include "base/numeric.h"
#include "ir/ref/ops.h"

enum { SEED = 1 };

static void round_bf16(double *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] = syl_bf16_to_f32(syl_bf16_from_f64(x[i]));
}

/* One split: its sizes, the values that it works on, and room for them. */
typedef struct split {
    const syl_op *op;
    syl_diag *diag;
    const double *w;
    int64_t rows, cols, rank;
    double *values; /* [rank] */
    /* with rounds only */
    double *rest;          /* [rows, cols]: R, then W - Q */
    double *u, *d;         /* of the round */
    syl_dtype scheme;      /* of the quantizer */
    bool mse;              /* its clip */
    syl_ref_codes codes;   /* of a block of rows */
    int64_t block, groups; /* rows of it; parameters a row has */
} split;

static syl_status no_memory(const split *s) {
    return syl_error(s->diag, SYL_ERR_out_of_memory, s->op->loc, "no memory to evaluate low_rank_split");
}

/* a = u d, rounded. refine: d holds the directions of a round before. */
static syl_status decompose(const split *s, const double *a, bool refine, double *u, double *d) {
    syl_linalg_status status = (refine ? syl_linalg_refine_svd : syl_linalg_truncated_svd)(
        a, s->rows, s->cols, s->rank, SEED, u, d, s->values);
    if (status == SYL_LINALG_NO_MEMORY) return no_memory(s);
    if (status != SYL_LINALG_OK)
        return syl_error(s->diag, SYL_ERR_ir_low_rank, s->op->loc,
                         "low_rank_split: the singular values of the %lld x %lld matrix were not found: %s",
                         (long long)s->rows, (long long)s->cols,
                         status == SYL_LINALG_SIZE ? "it is too large"
                                                   : "the decomposition did not converge");
    if (syl_attr_str(s->op, "round")[0] == 'b') {
        round_bf16(u, s->rows * s->rank);
        round_bf16(d, s->rank * s->cols);
    }
    return SYL_OK;
}

/* ---- rounds ---- */

/* Q of a row of codes: what they stand for, in float64. */
static double value_of(const split *s, int64_t row, int64_t col) {
    const syl_dtype_info *info = &syl_dtypes[s->scheme];
    int64_t group = row * s->groups + (info->group ? col / info->group : 0);
    int code = s->codes.codes[row * s->cols + col];
    if (info->two_level)
        return (double)syl_ref_inner_code(code, s->codes.group_scale[group], s->codes.group_zero[group]) *
               (double)s->codes.scales[row];
    return (double)code * (double)s->codes.scales[info->row_scale ? row : group];
}

/* From U and D: |R - Q|^2, and W - Q in `rest`. Blocks keep the codes small beside the matrices. */
static syl_status measure(const split *s, const double *u, const double *d, double *error) {
    *error = 0;
    memcpy(s->rest, s->w, (size_t)(s->rows * s->cols) * sizeof *s->rest);
    syl_ref_low_rank_residual(s->op, s->rows, u, d, s->rest);
    for (int64_t begin = 0; begin < s->rows; begin += s->block) {
        int64_t n = begin + s->block < s->rows ? s->block : s->rows - begin;
        double *r = s->rest + begin * s->cols;
        if (!syl_ref_quantize(r, n, s->cols, s->scheme, s->mse, &s->codes)) return no_memory(s);
        for (int64_t i = 0; i < n; i++) {
            double sum = 0;
            for (int64_t k = 0; k < s->cols; k++) {
                double value = value_of(s, i, k), left = r[i * s->cols + k] - value;
                sum += left * left;
                r[i * s->cols + k] = s->w[(begin + i) * s->cols + k] - value;
            }
            *error += sum;
        }
    }
    return SYL_OK;
}

static syl_status alternate(const split *s, double *u, double *d) {
    size_t u_bytes = (size_t)(s->rows * s->rank) * sizeof *u,
           d_bytes = (size_t)(s->rank * s->cols) * sizeof *d;
    double least, error;
    SYL_TRY(measure(s, u, d, &least));
    memcpy(s->u, u, u_bytes);
    memcpy(s->d, d, d_bytes);
    for (int64_t round = 0; round < syl_attr_int(s->op, "rounds"); round++) {
        SYL_TRY(decompose(s, s->rest, true, s->u, s->d));
        SYL_TRY(measure(s, s->u, s->d, &error));
        if (!(error < least)) continue;
        least = error;
        memcpy(u, s->u, u_bytes);
        memcpy(d, s->d, d_bytes);
    }
    return SYL_OK;
}

enum { BLOCK_ROWS = 16 };

static bool make_room(split *s) {
    s->scheme = syl_dtype_of(syl_attr_str(s->op, "scheme"));
    s->mse = syl_attr_str(s->op, "clip")[0] == 'm';
    s->groups = syl_row_groups(s->scheme, s->cols);
    s->block = s->rows < BLOCK_ROWS ? s->rows : BLOCK_ROWS;
    s->rest = syl_ref_alloc(s->rows * s->cols, sizeof *s->rest);
    s->u = syl_ref_alloc(s->rows * s->rank, sizeof *s->u);
    s->d = syl_ref_alloc(s->rank * s->cols, sizeof *s->d);
    s->codes = (syl_ref_codes){
        syl_ref_alloc(s->block * s->cols, 1), syl_ref_alloc(s->block * s->groups, sizeof *s->codes.scales),
        syl_ref_alloc(s->block * s->groups, 1), syl_ref_alloc(s->block * s->groups, 1)};
    return s->rest && s->u && s->d && s->codes.codes && s->codes.scales && s->codes.group_scale &&
           s->codes.group_zero;
}

static void free_room(split *s) {
    free(s->values), free(s->rest), free(s->u), free(s->d);
    free(s->codes.codes), free(s->codes.scales), free(s->codes.group_scale), free(s->codes.group_zero);
}

syl_status syl_ref_low_rank_factors(const syl_op *op, syl_diag *diag, const double *w, double *u, double *d) {
    split s = {.op = op,
               .diag = diag,
               .w = w,
               .rows = op->results[2].type.dims[0].size,
               .cols = op->results[2].type.dims[1].size,
               .rank = syl_attr_int(op, "rank")};
    bool alternates = syl_attr_int(op, "rounds") > 0;
    s.values = syl_ref_alloc(s.rank, sizeof *s.values);
    syl_status status = s.values && (!alternates || make_room(&s)) ? SYL_OK : no_memory(&s);
    if (status == SYL_OK) status = decompose(&s, w, false, u, d);
    if (status == SYL_OK && alternates) status = alternate(&s, u, d);
    free_room(&s);
    return status;
}

void syl_ref_low_rank_residual(const syl_op *op, int64_t rows, const double *u, const double *d, double *x) {
    syl_linalg_multiply_add(rows, op->results[2].type.dims[1].size, syl_attr_int(op, "rank"), -1, u, d, x);
}
