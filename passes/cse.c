/* cse: of equal pure ops in a block only the first stays.
 *
 *     %a = hadamard %w {axis = 1, factors = [8]}
 *     %b = hadamard %w {axis = 1, factors = [8]}      =>    %a for %b
 *
 * Equal: the op, its operands, attributes and result types. The first of them stands above all readers of the
 * others. Each region is looked at alone: what it computes is what its kernel computes. */
#include <string.h>
#include "base/map.h"
#include "passes/rewrite.h"

static const char *key_of(syl_arena *arena, const syl_op *op, size_t *size) {
    syl_text key = {.arena = arena};
    syl_text_printf(&key, "%d", (int)op->code);
    for (int i = 0; i < op->n_operands; i++) syl_text_printf(&key, " %p", (void *)syl_operand(op, i));
    for (size_t i = 0; i < op->attrs.n; i++) {
        const syl_attr *attr = &op->attrs.p[i];
        syl_text_printf(&key, " %s=", attr->name);
        switch (attr->kind) {
        case SYL_ATTR_INT:
            syl_text_printf(&key, "%lld", (long long)attr->i);
            break;
        case SYL_ATTR_FLOAT:
            syl_text_printf(&key, "%a", attr->f);
            break;
        case SYL_ATTR_BOOL:
            syl_text_printf(&key, "%d", attr->b);
            break;
        case SYL_ATTR_STR:
        case SYL_ATTR_ENUM:
            syl_text_append(&key, attr->s, strlen(attr->s) + 1);
            break;
        case SYL_ATTR_INTS:
            for (int k = 0; k < attr->ints.n; k++) syl_text_printf(&key, "%lld,", (long long)attr->ints.p[k]);
            break;
        }
    }
    for (int i = 0; i < op->n_results; i++) syl_type_print(&op->results[i].type, &key);
    *size = key.n;
    return key.p;
}

static void run(syl_pass_ctx *ctx, syl_block *block) {
    syl_map first;
    syl_map_init(&first, ctx->scratch);
    for (syl_op *op = block->first, *next; op; op = next) {
        next = op->next;
        if (op->body) run(ctx, op->body);
        if (!syl_op_has(op, SYL_TRAIT_PURE)) continue;
        size_t size;
        int is_new;
        const char *key = key_of(ctx->scratch, op, &size);
        void **slot = syl_map_slot(&first, key, size, &is_new);
        if (is_new) {
            *slot = op;
            continue;
        }
        syl_op *kept = *slot;
        for (int i = 0; i < op->n_results; i++) syl_value_replace_uses(&op->results[i], &kept->results[i]);
        syl_op_erase(op);
        syl_pass_count(ctx, "merged", 1);
    }
}

syl_status syl_pass_cse(syl_pass_ctx *ctx) {
    for (syl_func *func = ctx->module->funcs; func; func = func->next) run(ctx, func->body);
    return SYL_OK;
}
