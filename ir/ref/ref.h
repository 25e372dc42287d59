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
 * QUANT: codes and scales (one a row). */
typedef struct syl_ref_tensor {
    syl_dtype dtype;
    int rank;
    int64_t dims[SYL_MAX_RANK];
    double *data;
    int32_t *ints;
    int8_t *codes;
    double *scales;
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
    /* Fills the arrays of a stored tensor: data, or codes and scales. May be NULL if the function has none.
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
/* Codes and scales of int8_channel, by row: the scale is rounded to f32, then code = round(x / scale) with
 * that scale, clamped to
 * [-127, 127]. mse: of the 41 scales absmax * p / 127, p = 1, 0.99, ..., 0.6, the one with the least squared
 * error, the largest on a tie; the search works on f32 copies of the elements and sums errors in double, in
 * an order that is the same on every machine. NaNs count as 0. false when out of memory. */
SYL_NODISCARD bool syl_ref_quantize(const double *x, int64_t rows, int64_t cols, bool mse, int8_t *codes,
                                    float *scales);

#endif
