/* fold-norms: the gain of a norm becomes a scale of the weights that read it.
 *
 *     %n = rms_norm %x, %g {eps = 1e-05}        %n = rms_norm %x {eps = 1e-05}
 *     %q = linear %n, %wq                 =>    %w = scale %wq, %g {axis = 1}
 *                                               %q = linear %n, %w
 * (x * g) W^T = x (W * g)^T, so nothing is lost. All readers must be linears with real weights that nobody
 * else reads: a head tied to the embedding keeps the gain in front of it, since scaling would make a second
 * copy of the table. */
#include "passes/rewrite.h"

static bool reads(const syl_op *linear, void *norm) {
    return syl_operand(linear, 0)->def == norm;
}

/* Why the gain must stay, or NULL. */
static const char *obstacle(syl_pass_ctx *ctx, syl_op *norm) {
    const syl_value *n = syl_result(norm);
    if (!syl_is_real(syl_operand(norm, 1))) return "it is rounded already";
    if (!n->uses) return "nothing reads the norm";
    if (n->type.rank != 2) return "the norm is not one of a matrix";
    for (const syl_use *use = n->uses; use; use = use->next) {
        if (use->user->code != SYL_OP_linear || use->index != 0)
            return syl_arena_printf(ctx->scratch, "%s reads the norm, not only linears",
                                    syl_ops[use->user->code].name);
        const syl_value *weight = syl_operand(use->user, 1);
        if (use->user->parent != norm->parent) return "a fused region reads the norm";
        if (!syl_is_real(weight)) return "the weight of a reader is rounded already";
        if (!syl_weight_only_of(weight, reads, norm))
            return syl_arena_printf(ctx->scratch,
                                    "weight '%s' of a reader has other users too, and would be stored twice",
                                    syl_weight_name(weight));
    }
    return NULL;
}

static void fold(syl_pass_ctx *ctx, syl_op *norm, const syl_op_list *ops) {
    syl_value *gain = syl_operand(norm, 1);
    for (size_t i = 0; i < ops->ops.n; i++) {
        syl_op *linear = ops->ops.p[i];
        if (linear->code != SYL_OP_linear || syl_operand(linear, 0) != syl_result(norm)) continue;
        syl_builder b = syl_build_before(ctx->module, linear);
        syl_value *weight = syl_operand(linear, 1),
                  *scaled = syl_build(&b, SYL_OP_scale, weight->type, 2, weight, gain);
        syl_attr_set_int(ctx->module, scaled->def, "axis", 1);
        syl_op_set_operand(linear, 1, scaled);
        syl_pass_count(ctx, "linears", 1);
    }
    syl_builder b = syl_build_before(ctx->module, norm);
    syl_value *plain = syl_build(&b, SYL_OP_rms_norm, syl_result(norm)->type, 1, syl_operand(norm, 0));
    syl_attr_set_float(ctx->module, plain->def, "eps", syl_attr_float(norm, "eps"));
    if (syl_attr_get(norm, "heads"))
        syl_attr_set_int(ctx->module, plain->def, "heads", syl_attr_int(norm, "heads"));
    plain->name = syl_result(norm)->name;
    syl_value_replace_uses(syl_result(norm), plain);
    syl_op_erase(norm);
    syl_pass_count(ctx, "norms", 1);
}

syl_status syl_pass_fold_norms(syl_pass_ctx *ctx) {
    for (syl_func *func = ctx->module->funcs; func; func = func->next) {
        syl_op_list ops = syl_block_ops(ctx->scratch, func->body);
        for (size_t i = 0; i < ops.ops.n; i++) {
            syl_op *norm = ops.ops.p[i];
            if (norm->code != SYL_OP_rms_norm || norm->n_operands != 2) continue;
            const char *why = obstacle(ctx, norm);
            if (why)
                syl_remark(ctx->diag, norm->loc, "the gain '%s' of a norm stays: %s",
                           syl_weight_name(syl_operand(norm, 1)), why);
            else
                fold(ctx, norm, &ops);
        }
    }
    return SYL_OK;
}
