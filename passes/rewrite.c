/* Helpers of passes: rewrite.h says what they do. Everything walks blocks in order, never lists of uses, so
 * that results depend on the printed module alone. */
#include <string.h>
#include "base/map.h"
#include "passes/rewrite.h"

syl_op_list syl_block_ops(syl_arena *arena, const syl_block *block) {
    syl_op_list list = {0};
    for (syl_op *op = block->first; op; op = op->next) SYL_PUSH(arena, &list.ops, op);
    return list;
}

struct syl_value_set_table {
    syl_map map;
};

void syl_value_set_init(syl_value_set *set, syl_arena *arena) {
    *set = (syl_value_set){.arena = arena, .table = SYL_NEW(arena, struct syl_value_set_table)};
    syl_map_init(&set->table->map, arena);
}

bool syl_value_set_add(syl_value_set *set, const syl_value *value) {
    int is_new;
    *syl_map_slot(&set->table->map, &value, sizeof value, &is_new) = set;
    if (is_new) SYL_PUSH(set->arena, &set->values, value);
    return is_new != 0;
}

bool syl_value_set_has(const syl_value_set *set, const syl_value *value) {
    return syl_map_get(&set->table->map, &value, sizeof value) != NULL;
}

/* ---- weights ---- */

bool syl_linear_is_real(const syl_op *op) {
    if (!syl_op_is(op, SYL_OP_linear)) return false;
    for (int i = 1; i < op->n_operands; i++)
        if (!syl_is_real(syl_operand(op, i))) return false;
    return true;
}

bool syl_weight_only_of(const syl_value *weight, bool (*member)(const syl_op *linear, void *user),
                        void *user) {
    for (const syl_use *use = weight->uses; use; use = use->next)
        if (use->index != 1 || !syl_linear_is_real(use->user) || !member(use->user, user)) return false;
    return true;
}

bool syl_is_branch(const syl_value *weight) {
    return syl_op_is(weight->def, SYL_OP_low_rank_split) && weight->index < 2;
}

const char *syl_weight_name(const syl_value *value) {
    while (value->def && value->def->code != SYL_OP_weight && value->def->n_operands > 0)
        value = syl_operand(value->def, 0);
    const char *name = value->def ? syl_attr_str(value->def, "name") : "";
    return *name ? name : "?";
}

syl_dtype syl_weight_scheme(syl_pass_ctx *ctx, int64_t cols) {
    const char *word = syl_pass_option_str(ctx, "scheme");
    syl_dtype named = syl_dtype_of(word); /* not a family of group sizes */
    if (named != SYL_DTYPE_COUNT) return named;
    bool wide = cols >= 2048 && cols % 128 == 0;
    if (strcmp(syl_pass_option_str(ctx, "group"), "auto") != 0)
        wide = *syl_pass_option_str(ctx, "group") == '1';
    if (strcmp(word, "int4_two_level") == 0) return wide ? SYL_int4_two_level_g128 : SYL_int4_two_level_g64;
    return wide ? SYL_int4_group128 : SYL_int4_group64;
}

bool syl_weight_is_rotated(const syl_value *value, int axis) {
    for (const syl_op *op = value->def; op && op->n_operands > 0; op = syl_operand(op, 0)->def)
        if (op->code == SYL_OP_hadamard && syl_attr_int(op, "axis") == axis) return true;
    return false;
}

/* ---- rotations ---- */

bool syl_rotation_choose(syl_pass_ctx *ctx, syl_loc loc, const char *what, int64_t n, syl_rotation *out) {
    *out = (syl_rotation){0};
    out->n_factors = syl_hadamard_factor(n, out->factors);
    if (out->n_factors == 0) {
        int64_t block = syl_hadamard_block(n);
        out->n_factors = syl_hadamard_factor(block, out->factors);
        if (block > 1)
            syl_remark(ctx->diag, loc,
                       "%s has %lld elements, for which there is no Hadamard matrix: it is rotated in blocks "
                       "of %lld",
                       what, (long long)n, (long long)block);
    }
    if (n > 1 && out->n_factors > 0 && !(out->n_factors == 1 && out->factors[0] == 1)) return true;
    syl_remark(ctx->diag, loc,
               "%s is not rotated: no divisor of its %lld elements but 1 has a Hadamard matrix", what,
               (long long)n);
    return false;
}

static syl_type transformed(const syl_value *x) {
    syl_type type = x->type;
    if (!syl_is_real(x)) type.dtype = SYL_f32;
    return type;
}

static syl_value *build_signs(syl_builder *b, const syl_rotation *q, syl_value *x, int axis) {
    if (!q->signs) return x;
    syl_value *y = syl_build(b, SYL_OP_signs, transformed(x), 1, x);
    syl_attr_set_int(b->module, y->def, "axis", axis);
    syl_attr_set_int(b->module, y->def, "seed", q->seed);
    if (q->period) syl_attr_set_int(b->module, y->def, "period", q->period);
    return y;
}

static syl_value *build_hadamard(syl_builder *b, const syl_rotation *q, syl_value *x, int axis,
                                 bool transpose) {
    syl_value *y = syl_build(b, SYL_OP_hadamard, transformed(x), 1, x);
    syl_attr_set_int(b->module, y->def, "axis", axis);
    syl_attr_set_ints(b->module, y->def, "factors", q->factors, q->n_factors);
    if (transpose) syl_attr_set_bool(b->module, y->def, "transpose", true);
    return y;
}

syl_value *syl_rotation_apply(syl_builder *b, const syl_rotation *q, syl_value *x, int axis) {
    return build_hadamard(b, q, build_signs(b, q, x, axis), axis, false);
}

syl_value *syl_rotation_invert(syl_builder *b, const syl_rotation *q, syl_value *x, int axis) {
    return build_signs(b, q, build_hadamard(b, q, x, axis, true), axis);
}

void syl_rotation_fold(syl_module *module, const syl_rotation *q, syl_op *linear, int axis) {
    syl_builder b = syl_build_before(module, linear);
    syl_op_set_operand(linear, 1, syl_rotation_apply(&b, q, syl_operand(linear, 1), axis));
    if (axis == 0 && linear->n_operands == 3)
        syl_op_set_operand(linear, 2, syl_rotation_apply(&b, q, syl_operand(linear, 2), 0));
}

/* ---- layers ---- */

static void find_layers(syl_arena *arena, const syl_block *block, syl_op_list *appends) {
    for (syl_op *op = block->first; op; op = op->next) {
        if (op->body) find_layers(arena, op->body, appends);
        if (op->code != SYL_OP_kv_append) continue;
        bool known = false;
        for (size_t i = 0; i < appends->ops.n && !known; i++)
            known = syl_attr_int(appends->ops.p[i], "layer") == syl_attr_int(op, "layer");
        if (!known) SYL_PUSH(arena, &appends->ops, op);
    }
}

syl_op_list syl_first_appends(const syl_pass_ctx *ctx) {
    syl_op_list appends = {0};
    for (const syl_func *func = ctx->module->funcs; func; func = func->next)
        find_layers(ctx->scratch, func->body, &appends);
    return appends;
}

/* ---- order ---- */

static bool stands_behind(const syl_op *op, const syl_op *place) {
    for (const syl_op *next = place; next; next = next->next)
        if (next == op) return true;
    return false;
}

void syl_hoist(syl_value *value, syl_op *before) {
    syl_op *op = value->def;
    if (!op || op->parent != before->parent || !stands_behind(op, before)) return;
    for (int i = 0; i < op->n_operands; i++) syl_hoist(syl_operand(op, i), before);
    syl_op_move_before(op, before);
}
