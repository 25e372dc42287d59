/* rotate-residual (R1): the residual stream x becomes x Q with Q = diag(signs) H, a randomized Hadamard
 * matrix.
 *
 *     %o = linear %a, %wo                       %o = linear %a, hadamard(signs(%wo)) {axis = 0}    (writer:
 * gives y Q) %x1 = add %x, %o                    =>    %x1 = add %x, %o %n = rms_norm %x1 {eps = 1e-05} %n =
 * rms_norm %x1 {eps = 1e-05} %g = linear %n, %wg                       %g = linear %n, hadamard(signs(%wg))
 * {axis = 1}    (reader: reads y Q)
 *
 * A stream is what values are joined into by the ops that commute with Q: add, rms_norm without gain (|x Q| =
 * |x|), take. Q is orthogonal, so y Q (W Q)^T = y W^T and the stream may be rotated if every edge across its
 * border is: linears with real weights of their own fold Q, an embedding with a table of its own too; any
 * other edge (function arguments, a norm that kept its gain, a table tied to the head) gets signs and
 * hadamard, or hadamard {transpose} and signs, at run time. A stream that needs more than `online` of them
 * stays as it is. Follows QuaRot (arXiv 2404.00456, §3) and keeps tied tables tied. */
#include <string.h>
#include "passes/rewrite.h"

typedef struct stream {
    syl_pass_ctx *ctx;
    syl_block *block;
    syl_value_set values;
    syl_op_list ops; /* of the block */
    syl_dim width;
    SYL_VEC(syl_op *) writers, readers, tables; /* edges that fold: linears, linears, embeddings */
    syl_value_set folding;                      /* results of the readers */
    SYL_VEC(syl_value *)
    in, out;             /* edges at run time: values that come in rotated, that go out rotated back */
    const char *example; /* one of them, in words */
} stream;

/* ---- the stream of an add ---- */

static bool is_connector(const syl_op *op) {
    return op->code == SYL_OP_add || op->code == SYL_OP_take ||
           (op->code == SYL_OP_rms_norm && op->n_operands == 1 && syl_attr_int(op, "heads") <= 1);
}

static bool connects(const syl_op *op, int operand) {
    return op->code == SYL_OP_add || operand == 0;
}

static void grow(stream *s, syl_op *seed) {
    syl_value_set_add(&s->values, syl_result(seed));
    for (size_t i = 0; i < s->values.values.n; i++) {
        const syl_value *value = s->values.values.p[i];
        if (value->def && value->def->parent == s->block && is_connector(value->def))
            for (int k = 0; k < value->def->n_operands; k++)
                if (connects(value->def, k)) syl_value_set_add(&s->values, syl_operand(value->def, k));
        for (const syl_use *use = value->uses; use; use = use->next)
            if (use->user->parent == s->block && is_connector(use->user) && connects(use->user, use->index))
                syl_value_set_add(&s->values, syl_result(use->user));
    }
}

static bool is_inner(const stream *s, const syl_op *op) {
    return op->parent == s->block && is_connector(op) && syl_value_set_has(&s->values, syl_result(op));
}

/* ---- its edges ---- */

static bool writes(const syl_op *linear, void *user) {
    const stream *s = user;
    return linear->parent == s->block && syl_value_set_has(&s->values, syl_result(linear));
}

static bool reads(const syl_op *linear, void *user) {
    const stream *s = user;
    return linear->parent == s->block && syl_value_set_has(&s->values, syl_operand(linear, 0));
}

static bool table_folds(const stream *s, const syl_op *embedding) {
    const syl_value *table = syl_operand(embedding, 1);
    if (!syl_is_real(table)) return false;
    for (const syl_use *use = table->uses; use; use = use->next)
        if (use->user->code != SYL_OP_embedding || use->index != 1 || use->user->parent != s->block ||
            !syl_value_set_has(&s->values, syl_result(use->user)))
            return false;
    return true;
}

static void add_writer(stream *s, syl_value *value) {
    syl_op *op = value->def;
    if (op && op->parent == s->block && syl_linear_is_real(op) &&
        syl_weight_only_of(syl_operand(op, 1), writes, s)) {
        SYL_PUSH(s->ctx->scratch, &s->writers, op);
    } else if (op && op->code == SYL_OP_embedding && table_folds(s, op)) {
        SYL_PUSH(s->ctx->scratch, &s->tables, op);
    } else {
        SYL_PUSH(s->ctx->scratch, &s->in, value);
        s->example = op ? syl_arena_printf(s->ctx->scratch, "the result of %s", syl_ops[op->code].name)
                        : "an argument";
    }
}

/* The value of the stream that is operand `index` of op, if that is an edge. */
static bool is_edge(const stream *s, const syl_op *op, int index) {
    return syl_value_set_has(&s->values, syl_operand(op, index)) && !(is_inner(s, op) && connects(op, index));
}

static void add_reader(stream *s, syl_op *op, int index) {
    if (index == 0 && op->parent == s->block && syl_linear_is_real(op) &&
        syl_weight_only_of(syl_operand(op, 1), reads, s)) {
        SYL_PUSH(s->ctx->scratch, &s->readers, op);
        syl_value_set_add(&s->folding, syl_result(op));
        return;
    }
    syl_value *value = syl_operand(op, index);
    for (size_t i = 0; i < s->in.n; i++)
        if (s->in.p[i] == value) return; /* reads what was there before the rotation */
    for (size_t i = 0; i < s->out.n; i++)
        if (s->out.p[i] == value) return; /* shares the inverse of another reader */
    SYL_PUSH(s->ctx->scratch, &s->out, value);
    s->example = syl_arena_printf(s->ctx->scratch, "the operand of %s", syl_ops[op->code].name);
}

static void find_readers(stream *s, const syl_block *block) {
    for (syl_op *op = block->first; op; op = op->next) {
        for (int i = 0; i < op->n_operands; i++)
            if (is_edge(s, op, i)) add_reader(s, op, i);
        if (op->body) find_readers(s, op->body);
    }
}

static void find_edges(stream *s) {
    const syl_func *func = s->block->func;
    for (int i = 0; i < func->n_args; i++)
        if (syl_value_set_has(&s->values, &func->args[i])) add_writer(s, &func->args[i]);
    for (size_t i = 0; i < s->ops.ops.n; i++) {
        syl_op *op = s->ops.ops.p[i];
        for (int k = 0; k < op->n_results; k++)
            if (syl_value_set_has(&s->values, &op->results[k]) && !is_inner(s, op))
                add_writer(s, &op->results[k]);
    }
    find_readers(s, s->block);
}

/* ---- the rewrite ---- */

static bool is_rotated(const stream *s) {
    for (size_t i = 0; i < s->writers.n; i++)
        if (syl_weight_is_rotated(syl_operand(s->writers.p[i], 1), 0)) return true;
    for (size_t i = 0; i < s->tables.n; i++)
        if (syl_weight_is_rotated(syl_operand(s->tables.p[i], 1), 1)) return true;
    for (size_t i = 0; i < s->in.n; i++)
        if (syl_op_is(s->in.p[i]->def, SYL_OP_hadamard)) return true;
    return false;
}

/* True if operand `index` of op belongs to the rotated side of the border. */
static bool is_inside(const stream *s, const syl_op *op, int index) {
    if (is_inner(s, op)) return connects(op, index);
    return index == 0 && op->code == SYL_OP_linear && syl_value_set_has(&s->folding, syl_result(op));
}

/* The uses of x on one side of the border, but those by the two ops that make y from x, then read y. */
static void redirect(const stream *s, syl_value *x, syl_value *y, bool inside) {
    for (syl_use *use = x->uses, *next; use; use = next) {
        next = use->next;
        bool is_ours = use->user == y->def || syl_operand(y->def, 0)->def == use->user;
        if (!is_ours && is_inside(s, use->user, use->index) == inside)
            syl_op_set_operand(use->user, use->index, y);
    }
}

static void rotate_at_run_time(stream *s, const syl_rotation *q) {
    syl_module *module = s->ctx->module;
    for (size_t i = 0; i < s->in.n; i++) {
        syl_value *x = s->in.p[i];
        syl_builder b = x->def ? syl_build_after(module, x->def) : syl_build_before(module, s->block->first);
        redirect(s, x, syl_rotation_apply(&b, q, x, 1), true);
    }
    for (size_t i = 0; i < s->out.n; i++) {
        syl_builder b = syl_build_after(module, s->out.p[i]->def);
        redirect(s, s->out.p[i], syl_rotation_invert(&b, q, s->out.p[i], 1), false);
    }
}

static void rotate(stream *s, const syl_rotation *q) {
    syl_module *module = s->ctx->module;
    rotate_at_run_time(s, q);
    for (size_t i = 0; i < s->readers.n; i++) syl_rotation_fold(module, q, s->readers.p[i], 1);
    for (size_t i = 0; i < s->writers.n; i++) syl_rotation_fold(module, q, s->writers.p[i], 0);
    for (size_t i = 0; i < s->tables.n; i++) {
        syl_builder b = syl_build_before(module, s->tables.p[i]);
        syl_op_set_operand(s->tables.p[i], 1, syl_rotation_apply(&b, q, syl_operand(s->tables.p[i], 1), 1));
    }
    syl_pass_count(s->ctx, "streams", 1);
    syl_pass_count(s->ctx, "folded", (int64_t)(s->readers.n + s->writers.n + s->tables.n));
    syl_pass_count(s->ctx, "online", (int64_t)(s->in.n + s->out.n));
}

static void consider(stream *s, syl_loc loc, int64_t seed) {
    syl_pass_ctx *ctx = s->ctx;
    int64_t allowed = syl_pass_option_int(ctx, "online"), needed = (int64_t)(s->in.n + s->out.n);
    if (is_rotated(s)) {
        syl_remark(ctx->diag, loc, "the residual stream is rotated already");
        return;
    }
    if (s->readers.n == 0) {
        syl_remark(ctx->diag, loc,
                   "the residual stream is not rotated: no linear with a weight of its own reads it");
        return;
    }
    if (needed > allowed) {
        syl_remark(ctx->diag, loc,
                   "the residual stream is not rotated: %lld of its edges cannot fold the rotation (such as "
                   "%s), and 'online' allows %lld",
                   (long long)needed, s->example, (long long)allowed);
        return;
    }
    syl_rotation q;
    if (s->width.symbol) {
        syl_remark(ctx->diag, loc, "the residual stream is not rotated: its width '%s' is not fixed",
                   s->width.symbol);
        return;
    }
    if (!syl_rotation_choose(ctx, loc, "the residual stream", s->width.size, &q)) return;
    q.signs = true;
    q.seed = seed;
    rotate(s, &q);
}

syl_status syl_pass_rotate_residual(syl_pass_ctx *ctx) {
    int64_t seed = syl_pass_option_int(ctx, "seed");
    for (syl_func *func = ctx->module->funcs; func; func = func->next) {
        syl_op_list ops = syl_block_ops(ctx->scratch, func->body);
        syl_value_set seen;
        syl_value_set_init(&seen, ctx->scratch);
        for (size_t i = 0; i < ops.ops.n; i++) {
            syl_op *op = ops.ops.p[i];
            if (op->code != SYL_OP_add || op->results[0].type.rank != 2 ||
                syl_value_set_has(&seen, syl_result(op)))
                continue;
            stream s = {.ctx = ctx, .block = func->body, .ops = ops, .width = op->results[0].type.dims[1]};
            syl_value_set_init(&s.values, ctx->scratch);
            syl_value_set_init(&s.folding, ctx->scratch);
            grow(&s, op);
            for (size_t k = 0; k < s.values.values.n; k++) syl_value_set_add(&seen, s.values.values.p[k]);
            find_edges(&s);
            consider(&s, op->loc, seed++);
        }
    }
    return SYL_OK;
}
