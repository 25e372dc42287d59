/* Lowering of low-rank branches: the down-projection of a row-wise region, and the up-projection beside the main linear of
 * a GEMM region. */
#include "codegen/lower.h"

/* Floats that the two instructions multiply. */
static bool is_plain(kir_type elem) {
    return elem == KIR_F32 || elem == KIR_BF16;
}

static syl_status stored_matrix(lower_ctx *ctx, const syl_op *op, lower_place *out) {
    const syl_value *w = syl_operand(op, 1);
    if (op->n_operands != 2) return lower_refuse(ctx, op, "a low-rank branch has no bias");
    if (!syl_op_is(w->def, SYL_OP_materialized))
        return lower_refuse(ctx, op, "its weight must be a stored tensor");
    SYL_TRY(lower_find_place(ctx, w, out));
    return is_plain(out->elem) ? SYL_OK : lower_refuse(ctx, op, "no kernel multiplies these types");
}

const syl_value *lower_yielded(const syl_op *op) {
    const syl_op *yield = op->parent->last;
    for (int i = 0; i < yield->n_operands; i++)
        if (syl_operand(yield, i) == syl_result(op)) return &op->parent->owner->results[i];
    return NULL;
}

syl_status lower_projection(lower_ctx *ctx, const syl_op *linear) {
    const syl_value *x = syl_operand(linear, 0), *result = lower_yielded(linear);
    int64_t cols = lower_cols(&x->type);
    lower_place d, out;
    int inst;
    if (!result || !syl_value_has_one_use(syl_result(linear)))
        return lower_refuse(ctx, linear, "a projection must be yielded by its region, and nothing else");
    if (ctx->kernel->cols && ctx->kernel->cols != cols)
        return lower_refuse(ctx, linear, "a region's rows must have one width");
    ctx->kernel->cols = cols;
    SYL_TRY(stored_matrix(ctx, linear, &d));
    SYL_TRY(lower_find_place(ctx, result, &out));
    SYL_TRY(lower_value(ctx, x, &inst));
    kir_emit(ctx->arena, ctx->kernel,
             (kir_inst){.op = KIR_project,
                        .args = {inst},
                        .buffer = lower_matrix(ctx, &out, lower_cols(&result->type), true),
                        .second = lower_matrix(ctx, &d, cols, false)});
    return SYL_OK;
}

/* Fusing puts the main linear behind its branch. */
bool lower_is_branch(const syl_op *linear) {
    for (const syl_op *op = linear->next; op; op = op->next)
        if (op->code == SYL_OP_linear) return true;
    return false;
}

syl_status lower_branch_term(lower_ctx *ctx, const syl_op *linear) {
    lower_place t, u;
    if (ctx->branch)
        return lower_refuse(ctx, linear, "a region holds at most one linear and one low-rank branch");
    SYL_TRY(lower_find_place(ctx, syl_operand(linear, 0), &t));
    SYL_TRY(stored_matrix(ctx, linear, &u));
    if (!is_plain(t.elem)) return lower_refuse(ctx, linear, "no kernel multiplies these types");
    ctx->branch = linear;
    ctx->kernel->branch.rank = lower_cols(&syl_operand(linear, 0)->type);
    ctx->kernel->branch.t = lower_matrix(ctx, &t, ctx->kernel->branch.rank, false);
    int y = kir_emit(ctx->arena, ctx->kernel, (kir_inst){.op = KIR_low_rank, .buffer = -1});
    syl_dtype dtype = syl_result(linear)->type.dtype;
    if (dtype == SYL_bf16) y = lower_emit1(ctx, KIR_round_bf16, y);
    if (dtype == SYL_f16) y = lower_emit1(ctx, KIR_round_f16, y);
    lower_bind(ctx, syl_result(linear), y);
    return SYL_OK;
}

/* The branch's only reader adds it to what comes of the main sum: then both can have the same accumulators. */
static bool is_added_to_acc(const kir_kernel *kernel) {
    int users = 0, sums = 0;
    for (size_t i = 0; i < kernel->body.n; i++)
        for (int a = 0; a < kir_ops[kernel->body.p[i].op].args; a++)
            if (kernel->body.p[kernel->body.p[i].args[a]].op == KIR_low_rank) {
                users++;
                sums += kernel->body.p[i].op == KIR_add;
            }
    return users == 1 && sums == 1;
}

syl_status lower_branch(lower_ctx *ctx) {
    if (!ctx->branch) return SYL_OK;
    const syl_value *w = syl_operand(ctx->branch, 1);
    if (w->type.dims[0].size != ctx->kernel->gemm.n)
        return lower_refuse(ctx, ctx->branch,
                            "the branch has other columns than the linear it stands beside");
    syl_plan_weight packed = {.name = syl_attr_str(w->def, "name"),
                              .elem = lower_elem(w->type.dtype),
                              .rows = ctx->kernel->gemm.n,
                              .cols = ctx->kernel->branch.rank,
                              .packed = true,
                              .dot = KIR_DOT_F32,
                              .nr = ctx->kernel->gemm.nr,
                              .ku = 1};
    if (!ctx->target) { /* CUDA: on tensor cores beside a main loop that runs there, else one by one */
        const kir_kernel *kernel = ctx->kernel;
        if (kernel->gemm.nr == 1 || packed.elem != KIR_BF16 || kernel->branch.rank % 8 ||
            !is_added_to_acc(kernel)) {
            lower_place u;
            SYL_TRY(stored_matrix(ctx, ctx->branch, &u));
            ctx->kernel->branch.u = lower_matrix(ctx, &u, kernel->branch.rank, false);
            return SYL_OK;
        }
        packed.dot = KIR_DOT_MMA_BF16;
        packed.ku = 16;
    }
    SYL_PUSH(ctx->arena, &ctx->args, (syl_plan_arg){SYL_ARG_WEIGHT, lower_weight(ctx, packed), 0});
    ctx->kernel->branch.u =
        kir_add_buffer(ctx->arena, ctx->kernel, (kir_buffer){"u", KIR_PACKED, packed.elem, 0, 0, false});
    return SYL_OK;
}
