/* quantize-weights: the real weights of linears get codes and scales.
 *
 *     %y = linear %x, %w                        %q = quantize %w {clip = mse} : tensor<576x1536xint8_channel>
 *                                         =>    %d = dequantize %q : tensor<576x1536xf32>
 *                                               %y = linear %x, %d
 *
 * The dequantize keeps the module valid on its own (weights only); quantize-activations removes it where it
 * quantizes the input too, canonicalize where the linear is to read the codes with a float input. A weight of
 * several linears is quantized once. A weight that something else reads too stays for that reader. A linear whose
 * result leaves the function is a head: option `head`; a head tied to the embedding gets codes of its own, the
 * table stays as it is.
 *
 * Groups: option `group`, or by the length of the rows: 128 where it is at least 2048 and a multiple of 128, else
 * 64. Rows that are no whole number of groups become int8_channel, with a remark. */
#include <string.h>
#include "passes/rewrite.h"

static bool is_head(const syl_op *linear) {
    for (const syl_use *use = linear->results[0].uses; use; use = use->next)
        if (use->user->code == SYL_OP_return) return true;
    return false;
}

static bool is_body(const syl_op *linear, void *unused) {
    (void)unused;
    return !is_head(linear);
}

static bool is_any(const syl_op *linear, void *unused) {
    (void)linear, (void)unused;
    return true;
}

/* The linears that read the weight, or the heads among them, read its codes. */
static void quantize(syl_pass_ctx *ctx, syl_op *linear, syl_dtype scheme, bool heads_only) {
    syl_value *weight = syl_operand(linear, 1);
    int64_t cols = weight->type.dims[1].size;
    if (!syl_row_fits(scheme, cols)) {
        syl_remark(ctx->diag, linear->loc,
                   "weight '%s' becomes int8_channel: its rows of %lld elements do not fit %s",
                   syl_weight_name(weight), (long long)cols, syl_dtypes[scheme].name);
        scheme = SYL_int8_channel;
    }
    syl_builder b = syl_build_before(ctx->module, linear);
    syl_type type = weight->type;
    type.dtype = scheme;
    syl_value *codes = syl_build(&b, SYL_OP_quantize, type, 1, weight);
    if (strcmp(syl_pass_option_str(ctx, "clip"), "mse") == 0)
        syl_attr_set_enum(ctx->module, codes->def, "clip", "mse");
    type.dtype = SYL_f32;
    syl_value *back = syl_build(&b, SYL_OP_dequantize, type, 1, codes);
    for (syl_use *use = weight->uses, *next; use; use = next) {
        next = use->next;
        if (use->user->code == SYL_OP_linear && use->index == 1 && (!heads_only || is_head(use->user)))
            syl_op_set_operand(use->user, 1, back);
    }
    syl_pass_count(ctx, "weights", 1);
}

syl_status syl_pass_quantize_weights(syl_pass_ctx *ctx) {
    const char *head = syl_pass_option_str(ctx, "head");
    bool with_head = strcmp(head, "none") != 0;
    for (syl_func *func = ctx->module->funcs; func; func = func->next) {
        syl_op_list ops = syl_block_ops(ctx->scratch, func->body);
        for (size_t i = 0; i < ops.ops.n; i++) {
            syl_op *linear = ops.ops.p[i];
            if (linear->code != SYL_OP_linear || !syl_is_real(syl_operand(linear, 1))) continue;
            if (syl_is_branch(syl_operand(linear, 1))) continue; /* stays in bf16 */
            const char *name = syl_weight_name(syl_operand(linear, 1));
            bool alone = syl_weight_only_of(syl_operand(linear, 1), is_any, NULL);
            if (is_head(linear) && !with_head)
                syl_remark(ctx->diag, linear->loc,
                           "weight '%s' is not quantized: its linear makes a result of the function, and "
                           "'head' is none",
                           name);
            else if (!alone && !is_head(linear))
                syl_remark(ctx->diag, linear->loc,
                           "weight '%s' is not quantized: not only linears read it (a table tied to the "
                           "embedding stays as it is)",
                           name);
            else if (!with_head && !syl_weight_only_of(syl_operand(linear, 1), is_body, NULL))
                syl_remark(ctx->diag, linear->loc,
                           "weight '%s' is not quantized: a linear that makes a result of the function "
                           "shares it, and 'head' is none",
                           name);
            else
                quantize(ctx, linear,
                         is_head(linear) ? syl_dtype_of(head)
                                         : syl_weight_scheme(ctx, syl_operand(linear, 1)->type.dims[1].size),
                         !alone);
        }
    }
    return SYL_OK;
}
