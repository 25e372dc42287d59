/* canonicalize: rewrites each op that says too much into what it means, until nothing changes.
 *
 *     %a = hadamard %x {axis = 1, factors = [36, 16]}
 *     %b = hadamard %a {axis = 1, factors = [36, 16], transpose = true}      =>    %x
 *
 *     hadamard, hadamard {transpose} of one axis and factors -> x   (powers of two are symmetric: no transpose there)
 *     signs, signs of one axis, seed and period              -> x
 *     hadamard of factors 1, slice of everything, concat of one, cast to the type it has -> x
 *     slice of slice                -> one slice
 *     slice inside one part of a concat -> slice of the part
 *     concat of concat              -> one concat
 *     linear with a dequantized weight -> linear with its codes
 *
 * Values are the same but for rounding inside the pairs that vanish. An op is left alone where its operand was rounded
 * to less than f32, since the rounding would be lost. */
#include <string.h>
#include "passes/rewrite.h"

static bool is_exact(const syl_value *value) {
    return value->type.dtype == SYL_real || value->type.dtype == SYL_f32;
}

/* The operand's def, if it is the same kind of op along the same axis and its result was not rounded. */
static syl_op *below(const syl_op *op, syl_opcode code) {
    syl_value *x = syl_operand(op, 0);
    return syl_op_is(x->def, code) && is_exact(x) && syl_attr_int(op, "axis") == syl_attr_int(x->def, "axis")
               ? x->def
               : NULL;
}

static bool is_symmetric(const syl_op *hadamard) {
    const syl_attr *factors = syl_attr_get(hadamard, "factors");
    for (int i = 0; i < factors->ints.n; i++)
        if (factors->ints.p[i] & (factors->ints.p[i] - 1)) return false;
    return true;
}

static bool same_factors(const syl_op *a, const syl_op *b) {
    const syl_attr *x = syl_attr_get(a, "factors"), *y = syl_attr_get(b, "factors");
    return x->ints.n == y->ints.n && memcmp(x->ints.p, y->ints.p, (size_t)x->ints.n * sizeof *x->ints.p) == 0;
}

/* Each rule gives the value that replaces the op's result, or NULL; *changed: the op itself was rewritten. */

static syl_value *simplify_hadamard(syl_op *op, bool *changed) {
    const syl_attr *factors = syl_attr_get(op, "factors");
    if (syl_attr_get(op, "transpose") && (!syl_attr_bool(op, "transpose") || is_symmetric(op))) {
        syl_attr_remove(op, "transpose");
        *changed = true;
    }
    bool is_one = true;
    for (int i = 0; i < factors->ints.n; i++) is_one = is_one && factors->ints.p[i] == 1;
    if (is_one) return syl_operand(op, 0);
    syl_op *inner = below(op, SYL_OP_hadamard);
    if (!inner || !same_factors(op, inner)) return NULL;
    return is_symmetric(op) || syl_attr_bool(op, "transpose") != syl_attr_bool(inner, "transpose")
               ? syl_operand(inner, 0)
               : NULL;
}

static syl_value *simplify_signs(syl_op *op, bool *changed) {
    int64_t period = syl_attr_int(op, "period"),
            size = op->results[0].type.dims[syl_attr_int(op, "axis")].size;
    if (syl_attr_get(op, "period") && (period == 0 || period >= size)) {
        syl_attr_remove(op, "period");
        *changed = true;
    }
    syl_op *inner = below(op, SYL_OP_signs);
    bool is_pair = inner && syl_attr_int(op, "seed") == syl_attr_int(inner, "seed") &&
                   syl_attr_int(op, "period") == syl_attr_int(inner, "period");
    return is_pair ? syl_operand(inner, 0) : NULL;
}

static syl_value *slice_of(syl_module *module, syl_op *op, syl_value *x, int64_t begin, int64_t end) {
    syl_builder b = syl_build_before(module, op);
    syl_value *slice = syl_build(&b, SYL_OP_slice, op->results[0].type, 1, x);
    syl_attr_set_int(module, slice->def, "axis", syl_attr_int(op, "axis"));
    syl_attr_set_int(module, slice->def, "begin", begin);
    syl_attr_set_int(module, slice->def, "end", end);
    slice->name = op->results[0].name;
    return slice;
}

static syl_value *simplify_slice(syl_module *module, syl_op *op) {
    int64_t axis = syl_attr_int(op, "axis"), begin = syl_attr_int(op, "begin"), end = syl_attr_int(op, "end");
    syl_value *x = syl_operand(op, 0);
    if (begin == 0 && end == x->type.dims[axis].size) return x;
    syl_op *inner = below(op, SYL_OP_slice);
    if (inner)
        return slice_of(module, op, syl_operand(inner, 0), begin + syl_attr_int(inner, "begin"),
                        end + syl_attr_int(inner, "begin"));
    inner = below(op, SYL_OP_concat);
    int64_t at = 0;
    for (int i = 0; inner && i < inner->n_operands; i++) {
        syl_value *part = syl_operand(inner, i);
        int64_t size = part->type.dims[axis].size;
        if (begin >= at && end <= at + size && is_exact(part))
            return slice_of(module, op, part, begin - at, end - at);
        at += size;
    }
    return NULL;
}

static syl_value *simplify_concat(syl_module *module, syl_op *op) {
    if (op->n_operands == 1) return syl_operand(op, 0);
    SYL_VEC(syl_value *) parts = {0};
    bool nested = false;
    for (int i = 0; i < op->n_operands; i++) {
        syl_value *part = syl_operand(op, i);
        bool flatten = syl_op_is(part->def, SYL_OP_concat) && is_exact(part) &&
                       syl_attr_int(part->def, "axis") == syl_attr_int(op, "axis");
        for (int k = 0; flatten && k < part->def->n_operands; k++)
            SYL_PUSH(&module->arena, &parts, syl_operand(part->def, k));
        if (!flatten) SYL_PUSH(&module->arena, &parts, part);
        nested = nested || flatten;
    }
    if (!nested) return NULL;
    syl_builder b = syl_build_before(module, op);
    syl_op *concat = syl_build_op(&b, SYL_OP_concat, (int)parts.n, parts.p, 1, &op->results[0].type);
    syl_attr_set_int(module, concat, "axis", syl_attr_int(op, "axis"));
    concat->results[0].name = op->results[0].name;
    return syl_result(concat);
}

/* The codes are what is stored, so they are what a kernel reads. */
static void simplify_linear(syl_op *op, bool *changed) {
    syl_op *weight = syl_operand(op, 1)->def;
    if (!syl_op_is(weight, SYL_OP_dequantize) || !syl_is_weight_scheme(syl_operand(weight, 0)->type.dtype) ||
        syl_result(weight)->type.dtype != SYL_f32)
        return;
    syl_op_set_operand(op, 1, syl_operand(weight, 0));
    *changed = true;
}

static syl_value *simplify(syl_module *module, syl_op *op, bool *changed) {
    switch (op->code) {
    case SYL_OP_linear:
        simplify_linear(op, changed);
        return NULL;
    case SYL_OP_hadamard:
        return simplify_hadamard(op, changed);
    case SYL_OP_signs:
        return simplify_signs(op, changed);
    case SYL_OP_slice:
        return simplify_slice(module, op);
    case SYL_OP_concat:
        return simplify_concat(module, op);
    case SYL_OP_cast:
        return syl_operand(op, 0);
    default:
        return NULL;
    }
}

/* A region's results must be made in it. */
static bool may_replace(const syl_op *op, const syl_value *with) {
    if (!syl_type_equal(&op->results[0].type, &with->type)) return false;
    if (!op->parent->owner || (with->def && with->def->parent == op->parent)) return true;
    for (const syl_use *use = op->results[0].uses; use; use = use->next)
        if (use->user->code == SYL_OP_yield) return false;
    return true;
}

static bool run(syl_pass_ctx *ctx, syl_block *block) {
    bool any = false;
    for (syl_op *op = block->first, *next; op; op = next) {
        next = op->next;
        if (op->body && run(ctx, op->body)) any = true;
        bool changed = false;
        syl_value *with = simplify(ctx->module, op, &changed);
        if (with && may_replace(op, with)) {
            syl_value_replace_uses(syl_result(op), with);
            syl_op_erase(op);
            changed = true;
        }
        if (changed) syl_pass_count(ctx, "rewrites", 1);
        any = any || changed;
    }
    return any;
}

syl_status syl_pass_canonicalize(syl_pass_ctx *ctx) {
    for (syl_func *func = ctx->module->funcs; func; func = func->next)
        while (run(ctx, func->body)) {
        }
    return SYL_OK;
}
