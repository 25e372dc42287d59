/* Lowering of one fused region to one kernel: the parts shared by lower.c (regions, places, steps) and
 * lower_ops.c (one function an op). Private to codegen. */
#ifndef SYL_CODEGEN_LOWER_H
#define SYL_CODEGEN_LOWER_H

#include "codegen/plan.h"

/* Where a value that exists between kernels lies. */
typedef struct lower_place {
    syl_plan_arg data;
    int64_t stride; /* elements between rows of `data` */
    kir_type elem;
    bool tiled; /* CUDA: as KIR_TILED says */
    bool has_scale;
    syl_plan_arg scale; /* QUANT: f32, one a row */
    const char *name;
} lower_place;

typedef struct lower_binding { /* value -> instruction of the current kernel */
    const syl_value *value;
    int inst;
} lower_binding;

typedef struct lower_ctx {
    syl_plan *plan;
    const syl_module *module;
    const syl_func *func;
    const syl_host_target *target; /* NULL: CUDA */
    syl_diag *diag;
    syl_arena *arena; /* the plan's */
    /* the kernel being made */
    kir_kernel *kernel;
    const syl_op *branch; /* its low-rank up-projection, or NULL */
    SYL_VEC(syl_plan_arg) args;
    SYL_VEC(lower_binding) bindings;
} lower_ctx;

/* Reports that an op cannot be lowered. */
syl_status lower_refuse(lower_ctx *ctx, const syl_op *op, const char *why);

/* The place of a value made outside the current region. */
SYL_NODISCARD syl_status lower_find_place(lower_ctx *ctx, const syl_value *value, lower_place *out);
/* A buffer of the kernel for a place (made once), and for a stored vector of a column each. */
int lower_matrix(lower_ctx *ctx, const lower_place *place, int64_t cols, bool written);
int lower_row_vector(lower_ctx *ctx, syl_plan_arg arg, kir_type elem, const char *name, bool written);
SYL_NODISCARD syl_status lower_col_vector(lower_ctx *ctx, const syl_value *value, int *out_buffer);
int lower_weight(lower_ctx *ctx, syl_plan_weight weight);

/* CUDA: how a linear multiplies elements of type a by weights of type w: by tensor cores (KIR_DOT_MMA_*), or by fma or integer products one
 * by one (KIR_DOT_F32, KIR_DOT_I8). Tensor cores want a tiled. */
kir_dot lower_cuda_dot(kir_type a, syl_dtype w);
void lower_cuda_tile(const lower_place *a, syl_dtype w, kir_gemm *gemm);
/* CUDA: whether a value that regions pass on is stored tiled: all its readers are linears on tensor cores. */
bool lower_is_tiled(const syl_value *value);

/* The instruction whose register holds a value in the current kernel, loading it where it comes from outside.
 */
SYL_NODISCARD syl_status lower_value(lower_ctx *ctx, const syl_value *value, int *out_inst);
void lower_bind(lower_ctx *ctx, const syl_value *value, int inst);

/* Emits the instructions of one op inside a region. */
SYL_NODISCARD syl_status lower_op(lower_ctx *ctx, const syl_op *op);

/* Once all ops are lowered and the tile is known: the buffers of the low-rank branch, if there is one (lower_low_rank.c). */
SYL_NODISCARD syl_status lower_branch(lower_ctx *ctx);
/* True for a linear that stands beside the main one of its region, and lowering it; the same for the down-projection in a row-wise region. */
bool lower_is_branch(const syl_op *linear);
SYL_NODISCARD syl_status lower_branch_term(lower_ctx *ctx, const syl_op *linear);
SYL_NODISCARD syl_status lower_projection(lower_ctx *ctx, const syl_op *linear);
/* The result of its region that an op's result is yielded as, or NULL. */
const syl_value *lower_yielded(const syl_op *op);

/* Short forms of kir_emit. */
int lower_emit1(lower_ctx *ctx, kir_op op, int a);
int lower_emit2(lower_ctx *ctx, kir_op op, int a, int b);
int lower_imm(lower_ctx *ctx, double value);
int lower_load(lower_ctx *ctx, kir_op op, int buffer);

kir_type lower_elem(syl_dtype dtype);
kir_cache lower_cache(const syl_type *kv);
/* The last dimension of a tensor type (its columns; 1 for a vector). */
int64_t lower_cols(const syl_type *type);

#endif
