/* quantize-activations: linears with quantized weights read quantized inputs, so that their products are
 * integers.
 *
 *     %d = dequantize %q : tensor<576x1536xf32>           %xq = quantize %x : tensor<Tx1536xint8_token>
 *     %y = linear %x, %d                            =>    %y = linear %xq, %q
 *
 * A value that several of them read is quantized once. */
#include "base/map.h"
#include "passes/rewrite.h"

/* The codes that a linear with a float input reads, itself or through a dequantize, or NULL. */
static syl_value *codes_of(const syl_op *linear) {
    syl_value *weight = syl_operand(linear, 1);
    if (!syl_is_class(syl_operand(linear, 0), SYL_CLASS_FLOAT)) return NULL;
    if (syl_op_is(weight->def, SYL_OP_dequantize)) weight = syl_operand(weight->def, 0);
    return syl_is_weight_scheme(weight->type.dtype) ? weight : NULL;
}

syl_status syl_pass_quantize_activations(syl_pass_ctx *ctx) {
    syl_dtype scheme = syl_dtype_of(syl_pass_option_str(ctx, "scheme"));
    for (syl_func *func = ctx->module->funcs; func; func = func->next) {
        syl_op_list ops = syl_block_ops(ctx->scratch, func->body);
        syl_map quantized; /* value -> its codes: the first reader in order makes them, so they stand above
                              all others */
        syl_map_init(&quantized, ctx->scratch);
        for (size_t i = 0; i < ops.ops.n; i++) {
            syl_op *linear = ops.ops.p[i];
            syl_value *codes;
            if (linear->code != SYL_OP_linear || !(codes = codes_of(linear))) continue;
            syl_value *x = syl_operand(linear, 0);
            int is_new;
            void **slot = syl_map_slot(&quantized, &x, sizeof x, &is_new);
            if (is_new) {
                syl_type type = x->type;
                type.dtype = scheme;
                syl_builder b = syl_build_before(ctx->module, linear);
                *slot = syl_build(&b, SYL_OP_quantize, type, 1, x);
                syl_pass_count(ctx, "activations", 1);
            }
            syl_op *before = syl_operand(linear, 1)->def;
            syl_op_set_operand(linear, 0, *slot);
            syl_op_set_operand(linear, 1, codes);
            if (syl_op_is(before, SYL_OP_dequantize) && !syl_result(before)->uses) syl_op_erase(before);
            syl_pass_count(ctx, "linears", 1);
        }
    }
    return SYL_OK;
}
