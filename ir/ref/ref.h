/* The reference: what each op means, in plain C, and an interpreter of functions made of them. It is the
 * oracle of all tests, and materialize evaluates the weight side with its transforms.
 *
 * Two precisions. F64: every number is a double and FLOAT results are not rounded, so that graphs which are
 * equal on paper agree to about 1e-12 (quantize still quantizes). F32: run-time ops compute in float and
 * round each result to its declared FLOAT type. In both, `real` values are doubles and are rounded once, by
 * cast or quantize or the op that reads them. Clarity before speed. */
#ifndef SYL_IR_REF_REF_H
#define SYL_IR_REF_REF_H

#include "ir/ir.h"

typedef enum syl_ref_precision { SYL_REF_F32, SYL_REF_F64 } syl_ref_precision;

/* ---- values
 * ------------------------------------------------------------------------------------------------------ */

/* A tensor in row-major order. Exactly the arrays of its class are there: REAL, FLOAT: data; INT: ints;
 * QUANT: codes (unpacked, an int8 each) and scales: one a row, or
 * GROUP: one a group, row after row; two-level types: group_scale and group_zero, one a group, too. */
typedef struct syl_ref_tensor {
    syl_dtype dtype;
    int rank;
    int64_t dims[SYL_MAX_RANK];
    double *data;
    int32_t *ints;
    int8_t *codes;
    double *scales;
    uint8_t *group_scale, *group_zero;
    int refs;
} syl_ref_tensor;

/* Uninitialised elements, one reference. NULL where the size overflows or there is no memory. */
syl_ref_tensor *syl_ref_tensor_create(syl_dtype dtype, int rank, const int64_t *dims);
syl_ref_tensor *syl_ref_tensor_share(syl_ref_tensor *tensor); /* one more reference; returns it */
void syl_ref_tensor_release(syl_ref_tensor *tensor);          /* one reference less; NULL is fine */
int64_t syl_ref_tensor_elements(const syl_ref_tensor *tensor);

/* The state behind a kv value: keys and values by (layer, sequence, position), grown as needed. A kv_append
 * changes it in place, which the verifier's rules on kv values make unobservable. */
typedef struct syl_ref_kv syl_ref_kv;
syl_ref_kv *
syl_ref_kv_create(const syl_type *type); /* empty; NULL when out of memory. The caller destroys it. */
void syl_ref_kv_destroy(syl_ref_kv *kv); /* NULL is fine */

/* An argument or result: the one that its type says; the other is NULL. */
typedef struct syl_ref_value {
    syl_ref_tensor *tensor;
    syl_ref_kv *kv;
} syl_ref_value;

/* ---- the interpreter
 * --------------------------------------------------------------------------------------------- */

/* Where weights come from. Each is called at most once for one op in a run, when its first reader runs. */
typedef struct syl_ref_weights {
    void *user;
    /* All elements of tensor `name` of source file `source` of the module, row-major, as doubles. */
    syl_status (*weight)(void *user, const char *name, int64_t source, const syl_type *type, syl_diag *diag,
                         double *out);
    /* Fills the arrays of a stored tensor: data, or codes and parameters. May be NULL if the function has none.
     */
    syl_status (*materialized)(void *user, const char *name, const syl_type *type, syl_diag *diag,
                               syl_ref_tensor *out);
} syl_ref_weights;

/* Runs a function of a verified module. Arguments stay the caller's; shapes must fit the argument types,
 * equal symbols standing for equal sizes. On success results[func->n_results] hold a reference each that the
 * caller releases (a kv result is the argument's own state, and is not released). On failure they are all
 * NULL; kv states may have changed. Errors: ir-run where inputs don't fit (ids, rows, positions out of
 * range), out-of-memory, those of the callbacks. */
SYL_NODISCARD syl_status syl_ref_run(const syl_func *func, const syl_ref_value *args, int n_args,
                                     const syl_ref_weights *weights, syl_ref_precision precision,
                                     syl_diag *diag, syl_ref_value *results);

/* True if the interpreter runs the op: every row of ops.def. */
bool syl_ref_has(syl_opcode code);

/* ---- transforms of the weight side, for materialize
 * ---------------------------------------------------------------- */

/* Each works on x[outer][n][inner], n the axis: a matrix [rows, cols] is (rows, cols, 1) along axis 1 and (1,
 * rows, cols) along axis 0, a vector (1, n, 1). Along axis 1 any block of rows may be transformed by itself.
 */

/* x[o][k][i] *= v[k]. */
void syl_ref_scale(double *x, int64_t outer, int64_t n, int64_t inner, const double *v);
/* x[o][k][i] *= syl_random_sign(seed, k mod period); period 0 = n. */
void syl_ref_signs(double *x, int64_t outer, int64_t n, int64_t inner, int64_t seed, int64_t period);
/* Hadamard transform along the axis; the factors must be valid for n (syl_hadamard_valid). false when out of
 * memory. */
SYL_NODISCARD bool syl_ref_hadamard(double *x, int64_t outer, int64_t n, int64_t inner,
                                    const int64_t *factors, int n_factors, bool transpose);
/* low_rank_split of w[rows, cols]: its results u[rows, rank] and d[rank, cols], for the sizes and attributes of `op`, which may be erased. Equal inputs give equal bits
 * on one kind of CPU, whatever the threads (base/linalg.h). Errors: ir-low-rank where the decomposition fails (NaN,
 * infinity), out-of-memory. */
SYL_NODISCARD syl_status syl_ref_low_rank_factors(const syl_op *op, syl_diag *diag, const double *w,
                                                  double *u, double *d);
/* Its third result: x -= u d for rows of w and the same rows of u; cols and rank are those of `op`. */
void syl_ref_low_rank_residual(const syl_op *op, int64_t rows, const double *u, const double *d, double *x);

/* Arrays of the caller for codes of `rows` x `cols` weights: codes[rows * cols]; scales[rows], of GROUP types
 * scales[rows * groups]; of two-level types group_scale and group_zero [rows * groups], else unused. */
typedef struct syl_ref_codes {
    int8_t *codes;
    float *scales;
    uint8_t *group_scale, *group_zero;
} syl_ref_codes;

/* Codes of a weight scheme. Symmetric types: the scale (of a row or group) is rounded to f32, then code = round(x /
 * scale) with that scale, clamped to [-127, 127] or [-8, 7]. mse: of the 41 scales absmax * p / high, p = 1, 0.99,
 * ..., 0.6, high = 127 or 7, the one with the least squared error, the largest on a tie. Two-level types: scale =
 * absmax / 119 of the row; with lo and hi the group's extremes as INT8, s = round((hi - lo) p / 15) in 1..16, z =
 * round(-lo p / s) in 0..15, code = round(x / scale / s + z) in 0..15; p = 1, or with mse the p of 1, 0.95, ..., 0.7
 * of least squared error, the largest on a tie. The searches work on f32 copies of the elements and sum errors in
 * double, in an order that is the same on every machine. NaNs count as 0. false when out of memory. */
SYL_NODISCARD bool syl_ref_quantize(const double *x, int64_t rows, int64_t cols, syl_dtype scheme, bool mse,
                                    const syl_ref_codes *out);
/* clamp((code - group_zero) * group_scale, -127, 127): the INT8 code that a two-level code stands for. */
int syl_ref_inner_code(int code, int group_scale, int group_zero);

#endif
