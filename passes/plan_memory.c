/* plan-memory: the values that pass between kernels share buffers.
 *
 *     %1 = fused : tensor<Tx64xf32> {                 %1 = fused {slots = [0]} : tensor<Tx64xf32> {
 *
 * `slots` has the slot of each result, -1 for what is not in a buffer of the plan: results of the function
 * (the caller's) and the cache. A value lives from the region that makes it to the last that reads it, both
 * included, since a kernel may write its result while it still reads its operands; a slice of it outside
 * regions reads on for it. Two values share a slot only if one is dead before the other is made, and only if
 * they have the same number of rows (the same symbol, or the same size), so that a slot is rows times its
 * widest value and the plan holds for every size. One walk in order; the free slot that wastes least is
 * taken. */
#include "base/map.h"
#include "passes/rewrite.h"

typedef struct slot {
    syl_dim rows;
    int64_t row_bytes; /* of the widest value in it */
    int64_t last;      /* place of the last reader of the value in it */
} slot;

typedef struct planner {
    syl_pass_ctx *ctx;
    syl_map places; /* op of the function's block -> its place, from 1 */
    const syl_block *block;
    SYL_VEC(slot) slots;
} planner;

static int64_t place_of(const planner *p, const syl_op *op) {
    op = syl_op_ancestor_in(op, p->block);
    return (int64_t)(uintptr_t)syl_map_get(&p->places, &op, sizeof op);
}

static int64_t last_read(const planner *p, const syl_value *value, int64_t place) {
    for (const syl_use *use = value->uses; use; use = use->next) {
        int64_t at = place_of(p, use->user);
        if (use->user->code == SYL_OP_slice && use->user->parent == p->block)
            at = last_read(p, syl_result(use->user), at);
        if (at > place) place = at;
    }
    return place;
}

static bool is_result(const syl_value *value) {
    for (const syl_use *use = value->uses; use; use = use->next)
        if (use->user->code == SYL_OP_return) return true;
    return false;
}

/* Bytes of a row with its scale; false where the row has no fixed size. */
static bool row_bytes(const syl_type *type, int64_t *out) {
    const syl_dtype_info *info = &syl_dtypes[type->dtype];
    int64_t bits = info->bits;
    for (int i = 1; i < type->rank; i++)
        if (type->dims[i].symbol || __builtin_mul_overflow(bits, type->dims[i].size, &bits)) return false;
    *out = bits / 8 + (bits % 8 != 0) + (info->row_scale ? 4 : 0);
    return true;
}

/* The free slot of these rows that fits best: the narrowest that is wide enough, else the widest; -1 if none
 * is free. */
static int64_t best_slot(const planner *p, syl_dim rows, int64_t bytes, int64_t place) {
    int64_t best = -1;
    for (size_t i = 0; i < p->slots.n; i++) {
        const slot *s = &p->slots.p[i];
        if (s->last >= place || !syl_dim_equal(s->rows, rows)) continue;
        if (best < 0) {
            best = (int64_t)i;
            continue;
        }
        int64_t old = p->slots.p[best].row_bytes;
        bool fits = s->row_bytes >= bytes, old_fits = old >= bytes;
        if (fits != old_fits ? fits : fits ? s->row_bytes < old : s->row_bytes > old) best = (int64_t)i;
    }
    return best;
}

static syl_status assign(planner *p, const syl_value *value, int64_t place, int64_t *out) {
    *out = -1;
    if (value->type.kind != SYL_TENSOR || is_result(value)) return SYL_OK;
    int64_t bytes;
    if (!row_bytes(&value->type, &bytes))
        return syl_error(p->ctx->diag, SYL_ERR_ir_shape, value->def->loc,
                         "plan-memory: the rows of %%%s have no fixed size",
                         value->name ? value->name : "<unnamed>");
    syl_dim rows = value->type.dims[0];
    *out = best_slot(p, rows, bytes, place);
    if (*out < 0) {
        *out = (int64_t)p->slots.n;
        SYL_PUSH(p->ctx->scratch, &p->slots, (slot){.rows = rows});
    }
    slot *s = &p->slots.p[*out];
    if (bytes > s->row_bytes) s->row_bytes = bytes;
    s->last = last_read(p, value, place);
    if (rows.symbol) syl_pass_count(p->ctx, "row-bytes-unshared", bytes);
    return SYL_OK;
}

static syl_status plan(syl_pass_ctx *ctx, syl_block *block) {
    planner p = {.ctx = ctx, .block = block};
    syl_map_init(&p.places, ctx->scratch);
    int64_t place = 0;
    for (syl_op *op = block->first; op; op = op->next)
        *syl_map_slot(&p.places, &op, sizeof op, NULL) = (void *)(uintptr_t)++place;
    for (syl_op *op = block->first; op; op = op->next) {
        if (op->code != SYL_OP_fused) continue;
        int64_t *slots = SYL_NEW_ARRAY(ctx->scratch, int64_t, (size_t)op->n_results);
        for (int i = 0; i < op->n_results; i++) {
            SYL_TRY(assign(&p, &op->results[i], place_of(&p, op), &slots[i]));
            if (slots[i] >= 0) syl_pass_count(ctx, "values", 1);
        }
        syl_attr_set_ints(ctx->module, op, "slots", slots, op->n_results);
    }
    syl_pass_count(ctx, "slots", (int64_t)p.slots.n);
    for (size_t i = 0; i < p.slots.n; i++)
        if (p.slots.p[i].rows.symbol) syl_pass_count(ctx, "row-bytes", p.slots.p[i].row_bytes);
    return SYL_OK;
}

syl_status syl_pass_plan_memory(syl_pass_ctx *ctx) {
    for (syl_func *func = ctx->module->funcs; func; func = func->next) SYL_TRY(plan(ctx, func->body));
    return SYL_OK;
}
