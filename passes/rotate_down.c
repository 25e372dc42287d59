/* rotate-down (R4): a gated activation, or one behind a nonlinearity, is rotated at run time, and the linear
 * behind it reads the rotated one.
 *
 *     %m = mul %s, %u                           %m = mul %s, %u
 *     %d = linear %m, %wd                 =>    %h = hadamard %m {axis = 1, factors = [12, 128]}
 *                                               %d = linear %h, hadamard(%wd) {axis = 1}
 *
 * H is orthogonal: (m H)(W H)^T = m W^T. The transform costs n log n a token and spreads the outliers that
 * gating makes over the whole row, just before it is quantized. No signs: they would cost a multiplication
 * and change little here. */
#include "passes/rewrite.h"

static bool reads(const syl_op *linear, void *value) {
    return syl_operand(linear, 0) == value;
}

static const char *obstacle(syl_pass_ctx *ctx, syl_value *m) {
    if (m->type.rank != 2 || m->type.dims[1].symbol) return "its width is not fixed";
    for (const syl_use *use = m->uses; use; use = use->next) {
        if (use->index != 0 || !syl_linear_is_real(use->user) || use->user->parent != m->def->parent)
            return syl_arena_printf(ctx->scratch, "%s reads it, not only linears with real weights",
                                    syl_ops[use->user->code].name);
        const syl_value *weight = syl_operand(use->user, 1);
        if (!syl_weight_only_of(weight, reads, m))
            return syl_arena_printf(ctx->scratch,
                                    "weight '%s' of a reader has other users too, and would be stored twice",
                                    syl_weight_name(weight));
    }
    return NULL;
}

static bool feeds_a_linear(const syl_value *m) {
    for (const syl_use *use = m->uses; use; use = use->next)
        if (use->user->code == SYL_OP_linear && use->index == 0) return true;
    return false;
}

/* What makes outliers element by element. */
static bool is_activation(const syl_op *op) {
    return op->code == SYL_OP_mul || op->code == SYL_OP_silu || op->code == SYL_OP_gelu;
}

static void rotate(syl_pass_ctx *ctx, syl_op *mul, const syl_op_list *ops) {
    syl_value *m = syl_result(mul);
    const char *what = mul->code == SYL_OP_mul ? "a gated activation" : "an activation";
    const char *why = obstacle(ctx, m);
    syl_rotation q;
    if (why) {
        syl_remark(ctx->diag, mul->loc, "%s is not rotated: %s", what, why);
        return;
    }
    if (!syl_rotation_choose(ctx, mul->loc, what, m->type.dims[1].size, &q)) return;
    syl_builder b = syl_build_after(ctx->module, mul);
    syl_value *rotated = syl_rotation_apply(&b, &q, m, 1);
    for (size_t i = 0; i < ops->ops.n; i++) {
        syl_op *linear = ops->ops.p[i];
        if (linear->code != SYL_OP_linear || syl_operand(linear, 0) != m) continue;
        syl_op_set_operand(linear, 0, rotated);
        syl_rotation_fold(ctx->module, &q, linear, 1);
        syl_pass_count(ctx, "linears", 1);
    }
    syl_pass_count(ctx, "activations", 1);
}

syl_status syl_pass_rotate_down(syl_pass_ctx *ctx) {
    for (syl_func *func = ctx->module->funcs; func; func = func->next) {
        syl_op_list ops = syl_block_ops(ctx->scratch, func->body);
        for (size_t i = 0; i < ops.ops.n; i++)
            if (is_activation(ops.ops.p[i]) && feeds_a_linear(syl_result(ops.ops.p[i])))
                rotate(ctx, ops.ops.p[i], &ops);
    }
    return SYL_OK;
}
