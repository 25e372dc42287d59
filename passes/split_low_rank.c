/* split-low-rank: each linear's weight becomes a low-rank branch in bf16 and a residual, which is easier to quantize
 * (SVDQuant: Li et al., "SVDQuant: Absorbing Outliers by Low-Rank Components for 4-Bit Diffusion Models", 2025).
 *
 *     %y = linear %x, %w, %b             %u, %d, %r = low_rank_split %w {rank = 32, round = bf16}
 *                                        %t = linear %x, %d
 *                                  =>    %s = linear %t, %u
 *                                        %m = linear %x, %r, %b
 *                                        %y = add %m, %s
 *
 * The rows of D are orthonormal, so t is no larger than x. The quantize passes behind see the linear with %r only: U and D are
 * for round-weights, which casts them to bf16 without loss (option `round`; none keeps them exact, for tests).
 * With option `rounds` the split alternates with the quantizer (ir/ref/low_rank.c). Options scheme, group and clip
 * say which one: those that quantize-weights has further down the pipeline; others would only cost accuracy.
 *
 * The pass stands behind the rotations and group: what is split is the weight that will be quantized, and
 * grouped linears share one D. Weights that quantize-weights would leave alone are left: those of heads, and those
 * that something else than linears reads. */
#include "passes/rewrite.h"

static bool is_any(const syl_op *linear, void *unused) {
    (void)linear, (void)unused;
    return true;
}

static bool makes_a_result(const syl_op *linear) {
    for (const syl_use *use = linear->results[0].uses; use; use = use->next)
        if (use->user->code == SYL_OP_return) return true;
    return false;
}

static bool is_split(const syl_value *weight) {
    return syl_op_is(weight->def, SYL_OP_low_rank_split);
}

static bool splits(syl_pass_ctx *ctx, const syl_op *linear) {
    const syl_value *weight = syl_operand(linear, 1);
    if (!syl_is_real(weight) || is_split(weight)) return false;
    const char *why = makes_a_result(linear) ? "its linear makes a result of the function"
                      : !syl_weight_only_of(weight, is_any, NULL) ? "not only linears read it"
                                                                  : NULL;
    if (why) syl_remark(ctx->diag, linear->loc, "weight '%s' is not split: %s", syl_weight_name(weight), why);
    return !why;
}

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* The quantizer that the split alternates with; rows that do not fit the scheme become int8_channel, as in quantize-weights. */
static void add_rounds(syl_pass_ctx *ctx, syl_op *op, int64_t cols) {
    int64_t rounds = syl_pass_option_int(ctx, "rounds");
    if (rounds == 0) return;
    syl_dtype scheme = syl_weight_scheme(ctx, cols);
    if (!syl_row_fits(scheme, cols)) scheme = SYL_int8_channel;
    syl_attr_set_int(ctx->module, op, "rounds", rounds);
    syl_attr_set_str(ctx->module, op, "scheme", syl_dtypes[scheme].name);
    if (syl_pass_option_str(ctx, "clip")[0] == 'm') syl_attr_set_enum(ctx->module, op, "clip", "mse");
}

/* The split of a weight, made at its first reader, which stands above all others. */
static syl_op *split(syl_pass_ctx *ctx, syl_op *linear) {
    syl_value *weight = syl_operand(linear, 1);
    for (const syl_use *use = weight->uses; use; use = use->next)
        if (use->user->code == SYL_OP_low_rank_split) return use->user;
    syl_dim rows = weight->type.dims[0], cols = weight->type.dims[1];
    int64_t rank = smaller(syl_pass_option_int(ctx, "rank"), smaller(rows.size, cols.size));
    syl_type types[] = {syl_tensor2(SYL_real, rows, syl_size(rank)),
                        syl_tensor2(SYL_real, syl_size(rank), cols), weight->type};
    syl_builder b = syl_build_before(ctx->module, linear);
    syl_op *op = syl_build_op(&b, SYL_OP_low_rank_split, 1, &weight, 3, types);
    syl_attr_set_int(ctx->module, op, "rank", rank);
    if (syl_pass_option_str(ctx, "round")[0] == 'b') syl_attr_set_enum(ctx->module, op, "round", "bf16");
    add_rounds(ctx, op, cols.size);
    syl_pass_count(ctx, "weights", 1);
    return op;
}

static void add_branch(syl_pass_ctx *ctx, syl_op *linear) {
    syl_op *parts = split(ctx, linear);
    syl_value *x = syl_operand(linear, 0), *y = syl_result(linear);
    syl_type down = syl_tensor2(SYL_f32, x->type.dims[0], parts->results[1].type.dims[0]);
    syl_builder b = syl_build_before(ctx->module, linear);
    b.loc = linear->loc;
    syl_value *t = syl_build(&b, SYL_OP_linear, down, 2, x, &parts->results[1]);
    syl_value *s = syl_build(&b, SYL_OP_linear, y->type, 2, t, &parts->results[0]);
    syl_op_set_operand(linear, 1, &parts->results[2]);
    b = syl_build_after(ctx->module, linear);
    syl_value *sum = syl_build(&b, SYL_OP_add, y->type, 2, y, s);
    sum->name = y->name;
    y->name = NULL;
    syl_value_replace_uses_except(y, sum, sum->def);
    syl_pass_count(ctx, "linears", 1);
}

syl_status syl_pass_split_low_rank(syl_pass_ctx *ctx) {
    if (syl_pass_option_int(ctx, "rank") < 1)
        return syl_error(ctx->diag, SYL_ERR_pass_option, SYL_NOWHERE,
                         "split-low-rank: the rank must be at least 1");
    if (syl_pass_option_int(ctx, "rounds") > SYL_SPLIT_MAX_ROUNDS)
        return syl_error(ctx->diag, SYL_ERR_pass_option, SYL_NOWHERE,
                         "split-low-rank: rounds must be at most %d", SYL_SPLIT_MAX_ROUNDS);
    for (syl_func *func = ctx->module->funcs; func; func = func->next) {
        syl_op_list ops = syl_block_ops(ctx->scratch, func->body);
        /* Which ones is decided before any is changed: a weight that two linears share is split for both. */
        syl_op_list chosen = {0};
        for (size_t i = 0; i < ops.ops.n; i++)
            if (ops.ops.p[i]->code == SYL_OP_linear && splits(ctx, ops.ops.p[i]))
                SYL_PUSH(ctx->scratch, &chosen.ops, ops.ops.p[i]);
        for (size_t i = 0; i < chosen.ops.n; i++) add_branch(ctx, chosen.ops.p[i]);
    }
    return SYL_OK;
}
