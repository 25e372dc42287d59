/* Inside ref/: the op functions, made twice from ops.inc, and what they and the interpreter share. */
#ifndef SYL_IR_REF_OPS_H
#define SYL_IR_REF_OPS_H

#include "ir/ref/ref.h"
#include "ir/rope.h"

/* One op to compute: operands are evaluated, result tensors allocated in their final shape. */
typedef struct syl_ref_call {
    const syl_op *op;
    const syl_ref_value *in;
    const syl_ref_value *outs; /* [n_results] */
    syl_ref_tensor *out;       /* the first result; NULL for kv_append, whose result is its first operand */
    syl_diag *diag;
} syl_ref_call;

typedef syl_status syl_ref_fn(const syl_ref_call *call);

/* NULL for weight and materialized, which the interpreter reads itself, and for the structural ops. */
extern syl_ref_fn *const syl_ref_ops_f32[SYL_OP_COUNT], *const syl_ref_ops_f64[SYL_OP_COUNT];

/* x rounded to a FLOAT type, once, to nearest even. */
double syl_ref_round(syl_dtype dtype, double x);

/* Room for `count` elements of `size` bytes; NULL where that overflows or there is no memory. Free with
 * free(). */
void *syl_ref_alloc(int64_t count, size_t size);
syl_status syl_ref_no_memory(const syl_ref_call *call);

/* x[outer][n][inner]: a tensor seen from one of its axes. */
typedef struct syl_ref_view {
    int64_t outer, n, inner;
} syl_ref_view;
syl_ref_view syl_ref_view_of(const syl_ref_tensor *tensor, int64_t axis);

/* The row of keys, with the row of values behind it, of a place in the cache. find: NULL where nothing was
 * appended. make: NULL when out of memory. width = kv_heads * head_dim. */
double *syl_ref_kv_find(const syl_ref_kv *kv, int64_t layer, int32_t seq, int32_t pos);
double *syl_ref_kv_make(syl_ref_kv *kv, int64_t layer, int32_t seq, int32_t pos);

#endif
