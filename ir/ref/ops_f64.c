/* The reference ops in double: results of FLOAT types are not rounded. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/hadamard.h"
#include "base/numeric.h"
#include "ir/ref/ops.h"

#define REAL                   double
#define FN(name)               f64_##name
#define MATH(name)             name
#define HADAMARD               syl_hadamard_apply_f64
#define TO_INT8                syl_int8_from_f64
#define ROUND_STORED(dtype, x) ((void)(dtype), (x))
#define OPS                    syl_ref_ops_f64

/* Run by the interpreter itself. */
#define f64_weight       NULL
#define f64_materialized NULL
#define f64_fused        NULL
#define f64_yield        NULL
#define f64_return       NULL

#include "ir/ref/ops.inc"

/* ---- the transforms for materialize ---- */

void syl_ref_scale(double *x, int64_t outer, int64_t n, int64_t inner, const double *v) {
    f64_scale_axis(x, (syl_ref_view){outer, n, inner}, v);
}

void syl_ref_signs(double *x, int64_t outer, int64_t n, int64_t inner, int64_t seed, int64_t period) {
    f64_signs_axis(x, (syl_ref_view){outer, n, inner}, seed, period);
}

bool syl_ref_hadamard(double *x, int64_t outer, int64_t n, int64_t inner, const int64_t *factors,
                      int n_factors, bool transpose) {
    return f64_hadamard_axis(x, (syl_ref_view){outer, n, inner}, factors, n_factors, transpose);
}
