/* store-activations: the f32 values that pass between kernels, and the KV cache, are stored in `type`.
 *
 *     %x1 = fused : tensor<Tx64xf32> {                  %x1 = fused : tensor<Tx64xbf16> {
 *       %d = linear %1, %w : tensor<Tx64xf32>             %d = linear %1, %w : tensor<Tx64xf32>
 *       %2 = add %x, %d : tensor<Tx64xf32>        =>      %2 = add %x, %d : tensor<Tx64xbf16>
 *       yield %2                                          yield %2
 *     }                                                 }
 * Inside a region everything stays f32; the last op rounds once. Results of the function (logits) and rope
 * tables keep f32, and so do patches that are only cut of an argument or put together to a result; codes keep their
 * scheme (those in the cache too). A value that is stored in another float type already keeps it; type = f32 changes nothing. */
#include "passes/rewrite.h"

static bool leaves_function(const syl_value *value) {
    for (const syl_use *use = value->uses; use; use = use->next)
        if (use->user->code == SYL_OP_return) return true;
    return false;
}

/* Ops that move elements and compute nothing. */
static bool moves(const syl_op *op) {
    return op && (op->code == SYL_OP_patchify || op->code == SYL_OP_unpatchify);
}

/* The caller's numbers at other places: what is cut of an argument, and what a result is put together of. */
static bool is_callers(const syl_value *outer, const syl_value *inner) {
    if (moves(inner->def) && !syl_operand(inner->def, 0)->def) return true;
    for (const syl_use *use = outer->uses; use; use = use->next) {
        const syl_op *op = use->user, *yield = op->parent->last;
        bool leaves = false;
        for (int i = 0; moves(op) && op->parent->owner && i < yield->n_operands; i++)
            leaves = leaves || (syl_operand(yield, i) == syl_result(op) &&
                                leaves_function(&op->parent->owner->results[i]));
        if (!leaves) return false;
    }
    return outer->uses != NULL;
}

static void store_results(syl_pass_ctx *ctx, syl_op *fused, syl_dtype type) {
    for (int i = 0; i < fused->n_results; i++) {
        syl_value *outer = &fused->results[i], *inner = syl_operand(fused->body->last, i);
        bool rounds =
            inner->def && inner->def->parent == fused->body && syl_op_has(inner->def, SYL_TRAIT_FLOAT);
        if (outer->type.kind != SYL_TENSOR || outer->type.dtype != SYL_f32 || !rounds ||
            leaves_function(outer) || is_callers(outer, inner))
            continue;
        outer->type.dtype = inner->type.dtype = type;
        syl_pass_count(ctx, "values", 1);
    }
}

/* A cache with keys or values in f32. */
static bool stores_floats(const syl_type *type) {
    return type->kind == SYL_KV && type->dtype == SYL_f32 && !(type->k.bits && type->v.bits);
}

static void store_kv(syl_value *value, syl_dtype type) {
    if (stores_floats(&value->type)) value->type.dtype = type;
}

static void store_block(syl_pass_ctx *ctx, syl_block *block, syl_dtype type) {
    for (syl_op *op = block->first; op; op = op->next) {
        for (int i = 0; i < op->n_results; i++) store_kv(&op->results[i], type);
        if (!op->body) continue;
        store_block(ctx, op->body, type);
        store_results(ctx, op, type);
    }
}

syl_status syl_pass_store_activations(syl_pass_ctx *ctx) {
    syl_dtype type = syl_dtype_of(syl_pass_option_str(ctx, "type"));
    if (type == SYL_f32) return SYL_OK;
    for (syl_func *func = ctx->module->funcs; func; func = func->next) {
        for (int i = 0; i < func->n_args; i++) store_kv(&func->args[i], type);
        store_block(ctx, func->body, type);
        for (int i = 0; i < func->n_results; i++)
            if (stores_floats(&func->result_types[i])) func->result_types[i].dtype = type;
    }
    return SYL_OK;
}
