/* quantize-kv: the KV cache holds codes in place of floats; keys and values by themselves.
 *
 *     %c = kv_append %kv, %k, %v, ... : kv<30x3x64xf32>
 * =>  %c = kv_append %kv, %k, %v, ... {k_clip = 0.95, v_clip = 0.95} : kv<30x3x64xint4_g64>
 *
 * `group` is the number of features of a head that share a scale, 0 for all of them. `clip`, in percent, shrinks the
 * range that the codes cover; 0 is what is right for most models: 100 at 8 bits, 95 at 4. What is quantized already
 * stays as it is. */
#include "passes/rewrite.h"

typedef struct choice {
    syl_pass_ctx *ctx;
    int bits[2]; /* of keys, of values; 0 for none */
    int64_t group, clip;
} choice;

static int bits_of(const char *word) {
    return word[0] == 'i' ? word[3] - '0' : 0;
}

static syl_kv_store *store_of(syl_type *type, int part) {
    return part ? &type->v : &type->k;
}

static bool is_kv(const syl_type *type) {
    return type->kind == SYL_KV && type->rank == 3;
}

/* A head's features must be whole groups of whole vectors: what the verifier holds kv types to, said before it is done. */
static syl_status check_type(const choice *c, const syl_type *type, syl_loc loc) {
    if (!is_kv(type) || c->group == 0) return SYL_OK;
    int64_t dim = type->dims[2].size;
    if (dim % c->group == 0 && (c->group == dim || c->group % 16 == 0)) return SYL_OK;
    return syl_error(
        c->ctx->diag, SYL_ERR_pass_option, loc,
        "quantize-kv: group=%lld does not cut heads of %lld features; expected 0, %lld or a multiple of 16 "
        "that divides it",
        (long long)c->group, (long long)dim, (long long)dim);
}

static void quantize_type(const choice *c, syl_type *type) {
    if (!is_kv(type)) return;
    for (int part = 0; part < 2; part++)
        if (c->bits[part] && !store_of(type, part)->bits)
            *store_of(type, part) = (syl_kv_store){c->bits[part], c->group ? c->group : type->dims[2].size};
    if (type->k.bits && type->v.bits) type->dtype = SYL_f32;
}

/* Clips of what this append now quantizes; its operand still has the old type. */
static void set_clips(const choice *c, syl_op *append) {
    for (int part = 0; part < 2; part++) {
        if (!c->bits[part] || store_of(&append->results[0].type, part)->bits) continue;
        int64_t clip = c->clip ? c->clip : c->bits[part] == 4 ? 95 : 100;
        if (clip != 100)
            syl_attr_set_float(c->ctx->module, append, part ? "v_clip" : "k_clip", (double)clip / 100);
        syl_pass_count(c->ctx, part ? "values" : "keys", 1);
    }
}

static void quantize_block(const choice *c, syl_block *block) {
    for (syl_op *op = block->first; op; op = op->next) {
        if (op->code == SYL_OP_kv_append) set_clips(c, op);
        for (int i = 0; i < op->n_results; i++) quantize_type(c, &op->results[i].type);
        if (op->body) quantize_block(c, op->body);
    }
}

syl_status syl_pass_quantize_kv(syl_pass_ctx *ctx) {
    choice c = {.ctx = ctx,
                .bits = {bits_of(syl_pass_option_str(ctx, "k")), bits_of(syl_pass_option_str(ctx, "v"))},
                .group = syl_pass_option_int(ctx, "group"),
                .clip = syl_pass_option_int(ctx, "clip")};
    if (c.clip > 100)
        return syl_error(ctx->diag, SYL_ERR_pass_option, SYL_NOWHERE,
                         "quantize-kv: clip=%lld, expected at most 100 percent", (long long)c.clip);
    for (const syl_func *func = ctx->module->funcs; func; func = func->next)
        for (int i = 0; i < func->n_args; i++) SYL_TRY(check_type(&c, &func->args[i].type, func->loc));
    for (syl_func *func = ctx->module->funcs; func; func = func->next) {
        for (int i = 0; i < func->n_args; i++) quantize_type(&c, &func->args[i].type);
        quantize_block(&c, func->body);
        for (int i = 0; i < func->n_results; i++) quantize_type(&c, &func->result_types[i]);
    }
    return SYL_OK;
}
