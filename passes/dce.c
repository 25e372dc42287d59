/* dce: pure ops whose results nobody reads go, from the end of a block to its start, so that one walk is
 * enough.
 *
 *     %a = silu %x
 *     %b = mul %a, %a              (nothing)
 *     return %x              =>    return %x
 *
 * Ops with state (kv_append, attention) stay. A fused region loses the results that nobody reads, and goes
 * itself when none is left and all in it was pure. */
#include "passes/rewrite.h"

static bool is_unused(const syl_op *op) {
    for (int i = 0; i < op->n_results; i++)
        if (op->results[i].uses) return false;
    return true;
}

static bool is_pure(const syl_op *op) {
    if (!op->body) return syl_op_has(op, SYL_TRAIT_PURE);
    for (const syl_op *inner = op->body->first; inner; inner = inner->next)
        if (inner->code != SYL_OP_yield && !is_pure(inner)) return false;
    return true;
}

/* Rebuilds a region with the results that are read. */
static syl_op *drop_results(syl_pass_ctx *ctx, syl_op *fused) {
    SYL_VEC(syl_value *) yielded = {0};
    SYL_VEC(syl_type) types = {0};
    SYL_VEC(int64_t) slots = {0};
    const syl_attr *old_slots = syl_attr_get(fused, "slots");
    for (int i = 0; i < fused->n_results; i++) {
        if (!fused->results[i].uses) continue;
        SYL_PUSH(ctx->scratch, &yielded, syl_operand(fused->body->last, i));
        SYL_PUSH(ctx->scratch, &types, fused->results[i].type);
        if (old_slots) SYL_PUSH(ctx->scratch, &slots, old_slots->ints.p[i]);
    }
    syl_builder b = syl_build_before(ctx->module, fused);
    syl_op *fresh = syl_build_op(&b, SYL_OP_fused, 0, NULL, (int)types.n, types.p);
    if (old_slots) syl_attr_set_ints(ctx->module, fresh, "slots", slots.p, (int)slots.n);
    syl_op_erase(fused->body->last);
    while (fused->body->first) syl_op_move_to_end(fused->body->first, fresh->body);
    syl_builder end = syl_build_at_end(ctx->module, fresh->body);
    syl_build_op(&end, SYL_OP_yield, (int)yielded.n, yielded.p, 0, NULL);
    for (int i = 0, k = 0; i < fused->n_results; i++) {
        if (!fused->results[i].uses) continue;
        fresh->results[k].name = fused->results[i].name;
        syl_value_replace_uses(&fused->results[i], &fresh->results[k++]);
        syl_pass_count(ctx, "results", 1);
    }
    syl_op_erase(fused);
    return fresh;
}

static bool has_unused(const syl_op *op) {
    for (int i = 0; i < op->n_results; i++)
        if (!op->results[i].uses) return true;
    return false;
}

static void run(syl_pass_ctx *ctx, syl_block *block) {
    for (syl_op *op = block->last, *prev; op; op = prev) {
        prev = op->prev;
        if (syl_op_has(op, SYL_TRAIT_TERMINATOR)) continue;
        if (is_unused(op) && is_pure(op)) {
            syl_op_erase(op);
            syl_pass_count(ctx, "ops", 1);
            continue;
        }
        if (!op->body) continue;
        if (has_unused(op) && !is_unused(op)) op = drop_results(ctx, op);
        run(ctx, op->body);
    }
}

syl_status syl_pass_dce(syl_pass_ctx *ctx) {
    for (syl_func *func = ctx->module->funcs; func; func = func->next) run(ctx, func->body);
    return SYL_OK;
}
