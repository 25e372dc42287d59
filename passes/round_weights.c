/* round-weights: what is still real and read at run time is rounded, once: matrices to `type`, vectors
 * (gains, biases) to f32.
 *
 *     %w = weight "output.weight" : tensor<99x64xreal>       %w = weight "output.weight" : tensor<99x64xreal>
 *     %y = linear %x, %w                               =>    %c = cast %w : tensor<99x64xbf16>
 *                                                            %y = linear %x, %c
 *
 * All readers share one cast, so a tied table stays one tensor. After this pass no op that runs has a real
 * operand. */
#include "passes/rewrite.h"

/* Ops that stay on the weight side or round by themselves. */
static bool takes_real(const syl_op *op) {
    return op->code == SYL_OP_cast || op->code == SYL_OP_quantize ||
           (op->n_results > 0 && syl_is_real(&op->results[0]));
}

static void round_value(syl_pass_ctx *ctx, syl_value *value, syl_dtype type) {
    bool needed = false;
    for (const syl_use *use = value->uses; use; use = use->next) needed = needed || !takes_real(use->user);
    if (!needed) return;
    syl_type rounded = value->type;
    rounded.dtype = rounded.rank >= 2 ? type : SYL_f32;
    syl_builder b = syl_build_after(ctx->module, value->def);
    syl_value *cast = syl_build(&b, SYL_OP_cast, rounded, 1, value);
    for (syl_use *use = value->uses, *next; use; use = next) {
        next = use->next;
        if (takes_real(use->user)) continue;
        if (use->user->code == SYL_OP_return) use->user->parent->func->result_types[use->index] = rounded;
        syl_op_set_operand(use->user, use->index, cast);
    }
    syl_pass_count(ctx, rounded.rank >= 2 ? "matrices" : "vectors", 1);
}

syl_status syl_pass_round_weights(syl_pass_ctx *ctx) {
    syl_dtype type = syl_dtype_of(syl_pass_option_str(ctx, "type"));
    for (syl_func *func = ctx->module->funcs; func; func = func->next) {
        syl_op_list ops = syl_block_ops(ctx->scratch, func->body);
        for (size_t i = 0; i < ops.ops.n; i++)
            for (int k = 0; k < ops.ops.p[i]->n_results; k++)
                if (syl_is_real(&ops.ops.p[i]->results[k])) round_value(ctx, &ops.ops.p[i]->results[k], type);
    }
    return SYL_OK;
}
