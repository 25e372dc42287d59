/* rotate-keys (R3): each head of queries and keys is turned by a Hadamard transform behind its rotary embedding.
 *
 *     %kr = rope %k, %t                              %kr = rope %k, %t
 *     %c = kv_append %kv, %kr, %v, ...               %kh = hadamard %kr {axis = 1, factors = [64]}
 *     %a = attention %qr, %c, ...             =>     %c = kv_append %kv, %kh, %v, ...
 *                                                    %qh = hadamard %qr {axis = 1, factors = [64]}
 *                                                    %a = attention %qh, %c, ...
 *
 * H is orthogonal, so q H . k H = q . k: no score changes, and the keys that the cache holds lose their outlier features
 * before they are quantized. Nothing can be folded, since the embedding stands between: the transform runs. The cache of
 * a layer outlives a call: every kv_append and every attention of the layer, in all functions, must qualify, or the layer
 * stays as it is. (QuaRot, arXiv 2404.00456, section 4.) */
#include "passes/rewrite.h"

typedef struct layer {
    syl_pass_ctx *ctx;
    int64_t number, head_dim;
    syl_op_list readers; /* kv_append: of keys; attention: of queries */
    const char *obstacle;
} layer;

/* The operand of a reader that is rotated. */
static int operand_of(const syl_op *op) {
    return op->code == SYL_OP_kv_append ? 1 : 0;
}

static void scan(layer *l, const syl_block *block) {
    for (syl_op *op = block->first; op; op = op->next) {
        if (op->body) scan(l, op->body);
        bool reads = op->code == SYL_OP_kv_append || op->code == SYL_OP_attention;
        if (!reads || syl_attr_int(op, "layer") != l->number) continue;
        if (block->owner) l->obstacle = "the layer is fused already";
        if (op->code == SYL_OP_kv_append) l->head_dim = syl_operand(op, 0)->type.dims[2].size;
        if (syl_op_is(syl_operand(op, operand_of(op))->def, SYL_OP_hadamard))
            l->obstacle = "they are rotated already";
        SYL_PUSH(l->ctx->scratch, &l->readers.ops, op);
    }
}

static void rotate_layer(syl_pass_ctx *ctx, syl_loc loc, int64_t number) {
    layer l = {.ctx = ctx, .number = number};
    for (const syl_func *func = ctx->module->funcs; func; func = func->next) scan(&l, func->body);
    if (l.obstacle) {
        syl_remark(ctx->diag, loc, "the keys of layer %lld are not rotated: %s", (long long)number,
                   l.obstacle);
        return;
    }
    syl_rotation q;
    const char *what = syl_arena_printf(ctx->scratch, "a key head of layer %lld", (long long)number);
    if (!syl_rotation_choose(ctx, loc, what, l.head_dim, &q)) return;
    for (size_t i = 0; i < l.readers.ops.n; i++) {
        syl_op *op = l.readers.ops.p[i];
        syl_builder b = syl_build_before(ctx->module, op);
        int index = operand_of(op);
        syl_op_set_operand(op, index, syl_rotation_apply(&b, &q, syl_operand(op, index), 1));
    }
    syl_pass_count(ctx, "layers", 1);
}

syl_status syl_pass_rotate_keys(syl_pass_ctx *ctx) {
    syl_op_list appends = syl_first_appends(ctx);
    for (size_t i = 0; i < appends.ops.n; i++)
        rotate_layer(ctx, appends.ops.p[i]->loc, syl_attr_int(appends.ops.p[i], "layer"));
    return SYL_OK;
}
