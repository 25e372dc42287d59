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
    const syl_host_target *target;
    syl_diag *diag;
    syl_arena *arena; /* the plan's */
    /* the kernel being made */
    kir_kernel *kernel;
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

/* The instruction whose register holds a value in the current kernel, loading it where it comes from outside.
 */
SYL_NODISCARD syl_status lower_value(lower_ctx *ctx, const syl_value *value, int *out_inst);
void lower_bind(lower_ctx *ctx, const syl_value *value, int inst);

/* Emits the instructions of one op inside a region. */
SYL_NODISCARD syl_status lower_op(lower_ctx *ctx, const syl_op *op);

/* Short forms of kir_emit. */
int lower_emit1(lower_ctx *ctx, kir_op op, int a);
int lower_emit2(lower_ctx *ctx, kir_op op, int a, int b);
int lower_imm(lower_ctx *ctx, double value);
int lower_load(lower_ctx *ctx, kir_op op, int buffer);

kir_type lower_elem(syl_dtype dtype);
/* The last dimension of a tensor type (its columns; 1 for a vector). */
int64_t lower_cols(const syl_type *type);

#endif
