/* rotate-values (R2): each head of the values of a layer becomes v Q, Q = diag(signs) H of head_dim.
 *
 *     %v = linear %n, %wv                       %v = linear %n, hadamard(signs(%wv)) {axis = 0}    (head by
 * head) %c = kv_append %kv, %k, %v, ...     =>    %c = kv_append %kv, %k, %v, ... %a = attention %q, %c, ...
 * %a = attention %q, %c, ... %o = linear %a, %wo                       %o = linear %a, hadamard(signs(%wo))
 * {axis = 1}
 *
 * Attention takes weighted sums of value vectors, so its heads come out as a Q, which the projection behind
 * it reads. The cache of a layer outlives a call: every kv_append and every attention of the layer, in all
 * functions, must qualify, or the layer stays as it is. Grouped queries need nothing more, since Q is the
 * same for all heads of a layer. A full_attention, which has no cache, is a layer of its own. */
#include "passes/rewrite.h"

typedef struct layer {
    syl_pass_ctx *ctx;
    int64_t number, head_dim;
    SYL_VEC(syl_op *) values, outputs; /* linears: value projections, output projections */
    const char *obstacle;
} layer;

static bool is_value(const syl_op *linear, void *user) {
    const layer *l = user;
    for (size_t i = 0; i < l->values.n; i++)
        if (l->values.p[i] == linear) return true;
    return false;
}

static bool is_output(const syl_op *linear, void *user) {
    const layer *l = user;
    for (size_t i = 0; i < l->outputs.n; i++)
        if (l->outputs.p[i] == linear) return true;
    return false;
}

static void add_values(layer *l, const syl_op *reader, syl_value *v) {
    if (!syl_linear_is_real(v->def) || v->def->parent != reader->parent)
        l->obstacle = "its values do not come from a linear with a real weight";
    else if (!syl_value_has_one_use(v))
        l->obstacle = "its values have other readers than the attention";
    else
        SYL_PUSH(l->ctx->scratch, &l->values, v->def);
}

static void add_append(layer *l, const syl_op *append) {
    l->head_dim = syl_operand(append, 0)->type.dims[2].size;
    add_values(l, append, syl_operand(append, 2));
}

static void add_attention(layer *l, const syl_op *attention) {
    const syl_value *a = syl_result(attention);
    for (const syl_use *use = a->uses; use; use = use->next) {
        if (use->index == 0 && syl_linear_is_real(use->user) && use->user->parent == attention->parent)
            SYL_PUSH(l->ctx->scratch, &l->outputs, use->user);
        else
            l->obstacle = "its attention is read by more than linears with real weights";
    }
}

static void scan(layer *l, const syl_block *block) {
    for (const syl_op *op = block->first; op; op = op->next) {
        if (op->body) scan(l, op->body);
        if ((op->code != SYL_OP_kv_append && op->code != SYL_OP_attention) ||
            syl_attr_int(op, "layer") != l->number)
            continue;
        if (block->owner)
            l->obstacle = "the layer is fused already";
        else if (op->code == SYL_OP_kv_append)
            add_append(l, op);
        else
            add_attention(l, op);
    }
}

/* What has been found of a layer is rotated, if nothing is in the way. */
static void rotate_found(layer *found, syl_loc loc) {
    layer l = *found;
    syl_pass_ctx *ctx = l.ctx;
    for (size_t i = 0; i < l.values.n && !l.obstacle; i++) {
        const syl_value *weight = syl_operand(l.values.p[i], 1);
        if (syl_weight_is_rotated(weight, 0))
            l.obstacle = "they are rotated already";
        else if (!syl_weight_only_of(weight, is_value, &l))
            l.obstacle = "the value weight has other users too, and would be stored twice";
    }
    for (size_t i = 0; i < l.outputs.n && !l.obstacle; i++)
        if (!syl_weight_only_of(syl_operand(l.outputs.p[i], 1), is_output, &l))
            l.obstacle = "the output weight has other users too, and would be stored twice";
    if (l.obstacle) {
        syl_remark(ctx->diag, loc, "the values of layer %lld are not rotated: %s", (long long)l.number,
                   l.obstacle);
        return;
    }
    syl_rotation q;
    if (!syl_rotation_choose(
            ctx, loc, syl_arena_printf(ctx->scratch, "a value head of layer %lld", (long long)l.number),
            l.head_dim, &q))
        return;
    q.signs = true;
    q.seed = syl_pass_option_int(ctx, "seed") + l.number;
    q.period = l.head_dim;
    for (size_t i = 0; i < l.values.n; i++) syl_rotation_fold(ctx->module, &q, l.values.p[i], 0);
    for (size_t i = 0; i < l.outputs.n; i++) syl_rotation_fold(ctx->module, &q, l.outputs.p[i], 1);
    syl_pass_count(ctx, "layers", 1);
}

static void rotate_layer(syl_pass_ctx *ctx, syl_loc loc, int64_t number) {
    layer l = {.ctx = ctx, .number = number};
    for (const syl_func *func = ctx->module->funcs; func; func = func->next) scan(&l, func->body);
    rotate_found(&l, loc);
}

/* Numbered in order, behind the layers of the cache. */
static void rotate_full(syl_pass_ctx *ctx, const syl_block *block, int64_t *number) {
    for (syl_op *op = block->first; op; op = op->next) {
        if (op->body) rotate_full(ctx, op->body, number);
        if (op->code != SYL_OP_full_attention) continue;
        layer l = {.ctx = ctx, .number = (*number)++};
        l.head_dim = op->results[0].type.dims[1].size / syl_attr_int(op, "heads");
        if (block->owner) l.obstacle = "the layer is fused already";
        add_values(&l, op, syl_operand(op, 2));
        add_attention(&l, op);
        rotate_found(&l, op->loc);
    }
}

syl_status syl_pass_rotate_values(syl_pass_ctx *ctx) {
    syl_op_list appends = syl_first_appends(ctx);
    for (size_t i = 0; i < appends.ops.n; i++)
        rotate_layer(ctx, appends.ops.p[i]->loc, syl_attr_int(appends.ops.p[i], "layer"));
    int64_t number = (int64_t)appends.ops.n;
    for (const syl_func *func = ctx->module->funcs; func; func = func->next)
        rotate_full(ctx, func->body, &number);
    return SYL_OK;
}
