/* group: linears that read one value become one linear, whose result is sliced.
 *
 *     %g = linear %n, %wg                       %w = concat %wg, %wu {axis = 0}
 *     %u = linear %n, %wu                 =>    %y = linear %n, %w
 *                                               %g = slice %y {axis = 1, begin = 0, end = 1536}
 *                                               %u = slice %y {axis = 1, begin = 1536, end = 3072}
 *
 * One long GEMM in place of several short ones; rows of the weight stay rows, so scales a channel are the
 * same as before. The concatenation stands below quantize and cast, hence the pass runs while weights are
 * real. Only linears with weights of their own join (a table shared with the embedding would be stored
 * twice), and with a bias each or none. */
#include "passes/rewrite.h"

static bool joins(const syl_op *first, const syl_op *op) {
    return syl_linear_is_real(op) && syl_operand(op, 0) == syl_operand(first, 0) &&
           op->n_operands == first->n_operands && syl_value_has_one_use(syl_operand(op, 1)) &&
           op->results[0].type.dtype == first->results[0].type.dtype;
}

static syl_value *join(syl_builder *b, const syl_op_list *members, int operand, int64_t size) {
    SYL_VEC(syl_value *) parts = {0};
    for (size_t i = 0; i < members->ops.n; i++) {
        syl_hoist(syl_operand(members->ops.p[i], operand), b->before);
        SYL_PUSH(&b->module->arena, &parts, syl_operand(members->ops.p[i], operand));
    }
    syl_type type = parts.p[0]->type;
    type.dims[0] = syl_size(size);
    syl_op *concat = syl_build_op(b, SYL_OP_concat, (int)parts.n, parts.p, 1, &type);
    syl_attr_set_int(b->module, concat, "axis", 0);
    return syl_result(concat);
}

static void group(syl_pass_ctx *ctx, const syl_op_list *members, int64_t size) {
    syl_op *first = members->ops.p[0];
    syl_builder b = syl_build_before(ctx->module, first);
    syl_value *operands[3] = {syl_operand(first, 0), join(&b, members, 1, size), NULL};
    if (first->n_operands == 3) operands[2] = join(&b, members, 2, size);
    syl_type type = first->results[0].type;
    type.dims[1] = syl_size(size);
    syl_value *y = syl_result(syl_build_op(&b, SYL_OP_linear, first->n_operands, operands, 1, &type));
    int64_t begin = 0;
    for (size_t i = 0; i < members->ops.n; i++) {
        syl_value *result = syl_result(members->ops.p[i]);
        int64_t end = begin + result->type.dims[1].size;
        syl_value *slice = syl_build(&b, SYL_OP_slice, result->type, 1, y);
        syl_attr_set_int(ctx->module, slice->def, "axis", 1);
        syl_attr_set_int(ctx->module, slice->def, "begin", begin);
        syl_attr_set_int(ctx->module, slice->def, "end", end);
        slice->name = result->name;
        syl_value_replace_uses(result, slice);
        begin = end;
    }
    for (size_t i = 0; i < members->ops.n; i++) syl_op_erase(members->ops.p[i]);
    syl_pass_count(ctx, "groups", 1);
    syl_pass_count(ctx, "linears", (int64_t)members->ops.n);
}

syl_status syl_pass_group(syl_pass_ctx *ctx) {
    for (syl_func *func = ctx->module->funcs; func; func = func->next) {
        syl_op_list ops = syl_block_ops(ctx->scratch, func->body);
        for (size_t i = 0; i < ops.ops.n; i++) {
            syl_op *first = ops.ops.p[i];
            if (!first->parent || !syl_linear_is_real(first) || !joins(first, first)) continue;
            syl_op_list members = {0};
            int64_t size = 0;
            for (size_t k = i; k < ops.ops.n; k++) {
                syl_op *op = ops.ops.p[k];
                int64_t with = 0;
                if (!op->parent || op->code != SYL_OP_linear || !joins(first, op) ||
                    __builtin_add_overflow(size, op->results[0].type.dims[1].size, &with))
                    continue;
                SYL_PUSH(ctx->scratch, &members.ops, op);
                size = with;
            }
            if (members.ops.n > 1) group(ctx, &members, size);
        }
    }
    return SYL_OK;
}
