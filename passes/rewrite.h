/* What several passes share: walking ops, asking about weights, rotations, and rebuilding linears. */
#ifndef SYL_PASSES_REWRITE_H
#define SYL_PASSES_REWRITE_H

#include "base/hadamard.h"
#include "passes/pass.h"

typedef struct syl_op_list {
    SYL_VEC(syl_op *) ops;
} syl_op_list;

/* The ops that stand in a block itself (not in its regions), in order: a copy, so the block may change while
 * it is walked. */
syl_op_list syl_block_ops(syl_arena *arena, const syl_block *block);

/* A number for each value, for maps and sets that are walked in a fixed order. */
typedef struct syl_value_set {
    syl_arena *arena;
    SYL_VEC(const syl_value *) values; /* in order of insertion */
    struct syl_value_set_table *table;
} syl_value_set;
void syl_value_set_init(syl_value_set *set, syl_arena *arena);
bool syl_value_set_add(syl_value_set *set, const syl_value *value); /* false: it was there */
bool syl_value_set_has(const syl_value_set *set, const syl_value *value);

static inline bool syl_is_class(const syl_value *value, syl_type_class class) {
    return value->type.kind == SYL_TENSOR && syl_type_class_of(&value->type) == class;
}
static inline bool syl_is_real(const syl_value *value) {
    return syl_is_class(value, SYL_CLASS_REAL);
}
/* A linear whose weight, and bias if it has one, are still real: transforms can be folded into it. */
bool syl_linear_is_real(const syl_op *op);
/* True if every use of `weight` is as the weight of a linear for which `member` holds: then folding into all
 * of them keeps it one tensor. */
bool syl_weight_only_of(const syl_value *weight, bool (*member)(const syl_op *linear, void *user),
                        void *user);
/* True for the U or D of a low_rank_split: what is rounded to bf16 and never quantized. */
bool syl_is_branch(const syl_value *weight);
/* The checkpoint name of the first `weight` below a weight-side expression, for remarks. */
const char *syl_weight_name(const syl_value *value);
/* The type that the options `scheme` and `group` of quantize-weights and split-low-rank stand for, for rows of
 * `cols` elements (which it may not fit: syl_row_fits). */
syl_dtype syl_weight_scheme(syl_pass_ctx *ctx, int64_t cols);
/* True if a hadamard along `axis` stands on the way from a weight-side value to its first weight. */
bool syl_weight_is_rotated(const syl_value *value, int axis);

/* ---- rotations: Q = diag(signs) H of row vectors, y = x Q ---- */

typedef struct syl_rotation {
    int64_t factors[SYL_HADAMARD_MAX_FACTORS];
    int n_factors;
    bool signs;
    int64_t seed, period; /* period: as of the op `signs` */
} syl_rotation;

/* Chooses the Hadamard factors for vectors of n elements: of n itself, else of its largest block that has
 * some (a remark says so). False, with a remark, where only blocks of 1 are left. `what` names the vectors in
 * remarks. */
bool syl_rotation_choose(syl_pass_ctx *ctx, syl_loc loc, const char *what, int64_t n, syl_rotation *out);
/* Builds x Q along an axis of x (activations: the last axis), or x Q^T. The result is real where x is, else
 * f32. */
syl_value *syl_rotation_apply(syl_builder *b, const syl_rotation *q, syl_value *x, int axis);
syl_value *syl_rotation_invert(syl_builder *b, const syl_rotation *q, syl_value *x, int axis);
/* The linear's rows of weights (axis 1: it then reads x Q) or its results (axis 0, with the bias: it then
 * gives y Q). */
void syl_rotation_fold(syl_module *module, const syl_rotation *q, syl_op *linear, int axis);

/* Moves the ops that `value` is computed by in front of `before` where they stand behind it in the same
 * block. */
void syl_hoist(syl_value *value, syl_op *before);

/* The first kv_append of each layer of the cache, in order, over all functions. In the scratch arena. */
syl_op_list syl_first_appends(const syl_pass_ctx *ctx);

#endif
