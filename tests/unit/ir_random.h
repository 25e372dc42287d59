/* Random Llama-like modules for differential tests: before a pass and after it, a graph must compute the
 * same.
 *
 *     ir_random r;
 *     syl_module *m = ir_random_module(seed, &r);            // built, not yet verified
 *     ir_random_outputs before = ir_random_run(m, &r, SYL_REF_F64, diag);
 *     ... run the pass on m ...
 *     ir_random_outputs after = ir_random_run(m, &r, SYL_REF_F64, diag);
 *     assert_true(ir_random_error(&before, &after) <= 1e-10);
 *     ir_random_free(&before), ir_random_free(&after), syl_module_destroy(m);
 *
 * The module has func @forward(ids, pos, seq, rows, kv) -> (logits, kv) as the frontend makes it. A run does
 * two calls on one cache, a prefill of two sequences and a further token for each, and keeps the logits of
 * both. Weights are random numbers that depend only on seed, name and place (ir_random_weights is the
 * callback). */
#ifndef TESTS_UNIT_IR_RANDOM_H
#define TESTS_UNIT_IR_RANDOM_H

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "ir/ir.h"
#include "ir/ref/ref.h"

typedef struct ir_random {
    uint64_t seed, state;
    int64_t layers, width, heads, kv_heads, head_dim, rope_dims, hidden, vocabulary;
    bool tied, gains; /* gains: norms have gain vectors */
    bool qk_norm;     /* heads of q and k are normalised before they are turned */
} ir_random;

static uint64_t ir_random_mix(uint64_t x) { /* SplitMix64 */
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* A random number in [0, n). */
static int64_t ir_random_below(ir_random *r, int64_t n) {
    r->state = ir_random_mix(r->state);
    return (int64_t)(r->state >> 33) % n;
}

/* ---- the module ---- */

static syl_value *ir_random_weight(syl_builder *b, const char *name, syl_type type) {
    syl_value *w = syl_build(b, SYL_OP_weight, type, 0);
    syl_attr_set_str(b->module, w->def, "name", name);
    return w;
}

static syl_value *ir_random_linear(ir_random *r, syl_builder *b, syl_value *x, const char *prefix,
                                   const char *name, int64_t out) {
    char full[64];
    snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    syl_value *w = ir_random_weight(b, full, syl_tensor2(SYL_real, syl_size(out), x->type.dims[1]));
    syl_type type = syl_tensor2(SYL_f32, x->type.dims[0], syl_size(out));
    if (ir_random_below(r, 2)) return syl_build(b, SYL_OP_linear, type, 2, x, w);
    snprintf(full, sizeof full, "%s%s.bias", prefix, name);
    return syl_build(b, SYL_OP_linear, type, 3, x, w,
                     ir_random_weight(b, full, syl_tensor1(SYL_real, syl_size(out))));
}

static syl_value *ir_random_norm(ir_random *r, syl_builder *b, syl_value *x, const char *prefix,
                                 const char *name) {
    char full[64];
    snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    syl_value *y = r->gains ? syl_build(b, SYL_OP_rms_norm, x->type, 2, x,
                                        ir_random_weight(b, full, syl_tensor1(SYL_real, x->type.dims[1])))
                            : syl_build(b, SYL_OP_rms_norm, x->type, 1, x);
    syl_attr_set_float(b->module, y->def, "eps", 1e-5);
    return y;
}

/* The norm of each head by itself; its gain is one for all heads. */
static syl_value *ir_random_head_norm(ir_random *r, syl_builder *b, syl_value *x, const char *prefix,
                                      const char *name, int64_t heads) {
    char full[64];
    snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    syl_value *operands[16], *y;
    operands[0] = ir_random_weight(b, full, syl_tensor1(SYL_real, syl_size(r->head_dim)));
    for (int64_t h = 1; h < heads; h++) operands[h] = operands[0];
    syl_type gain_type = syl_tensor1(SYL_real, x->type.dims[1]);
    syl_op *gain = syl_build_op(b, SYL_OP_concat, (int)heads, operands, 1, &gain_type);
    syl_attr_set_int(b->module, gain, "axis", 0);
    y = syl_build(b, SYL_OP_rms_norm, x->type, 2, x, syl_result(gain));
    syl_attr_set_float(b->module, y->def, "eps", 1e-5);
    syl_attr_set_int(b->module, y->def, "heads", heads);
    return y;
}

static syl_value *ir_random_rope(ir_random *r, syl_builder *b, syl_value *x, syl_value *table,
                                 int64_t heads) {
    syl_value *y = syl_build(b, SYL_OP_rope, x->type, 2, x, table);
    syl_attr_set_int(b->module, y->def, "heads", heads);
    syl_attr_set_enum(b->module, y->def, "style", r->seed % 2 ? "interleaved" : "half");
    return y;
}

static inline void ir_random_sizes(uint64_t seed, ir_random *r) {
    *r = (ir_random){.seed = seed, .state = ir_random_mix(seed)};
    r->layers = 1 + ir_random_below(r, 2);
    r->kv_heads = 1 + ir_random_below(r, 3);
    r->heads = r->kv_heads * (1 + ir_random_below(r, 3));
    r->head_dim = 4 * (1 + ir_random_below(r, 3));
    r->rope_dims = ir_random_below(r, 4) ? r->head_dim : r->head_dim - 2;
    r->width = 4 * (1 + ir_random_below(r, 12));
    r->hidden = 4 * (1 + ir_random_below(r, 16));
    r->vocabulary = 5 + ir_random_below(r, 40);
    r->tied = ir_random_below(r, 2) != 0;
    r->gains = ir_random_below(r, 4) != 0;
    r->qk_norm = ir_random_below(r, 3) == 0;
}

/* The module of the sizes in r, which a test may have changed. */
static inline syl_module *ir_random_build(ir_random *r) {
    syl_module *module = syl_module_create("random");
    SYL_PUSH(&module->arena, &module->sources, "random");
    syl_dim tokens = {0, syl_module_symbol(module, "T")}, rows = {0, syl_module_symbol(module, "R")};
    syl_type ids_type = syl_tensor1(SYL_i32, tokens);
    syl_type kv_type = {.kind = SYL_KV,
                        .dtype = SYL_f32,
                        .rank = 3,
                        .dims = {syl_size(r->layers), syl_size(r->kv_heads), syl_size(r->head_dim)}};
    const syl_type arg_types[] = {ids_type, ids_type, ids_type, syl_tensor1(SYL_i32, rows), kv_type};
    const char *const arg_names[] = {"ids", "pos", "seq", "rows", "kv"};
    syl_func *func = syl_func_create(module, "forward", 5, arg_types, arg_names);
    syl_value *pos = &func->args[1], *seq = &func->args[2], *kv = &func->args[4];
    syl_builder builder = syl_build_at_end(module, func->body), *b = &builder;

    syl_value *table = ir_random_weight(b, "token_embd.weight",
                                        syl_tensor2(SYL_real, syl_size(r->vocabulary), syl_size(r->width)));
    syl_value *x = syl_build(b, SYL_OP_embedding, syl_tensor2(SYL_f32, tokens, syl_size(r->width)), 2,
                             &func->args[0], table);
    syl_value *angles =
        syl_build(b, SYL_OP_rope_table, syl_tensor2(SYL_f32, tokens, syl_size(r->rope_dims)), 1, pos);
    syl_attr_set_float(module, angles->def, "base", 10000.0);
    syl_attr_set_int(module, angles->def, "dims", r->rope_dims);
    for (int64_t layer = 0; layer < r->layers; layer++) {
        char prefix[32];
        snprintf(prefix, sizeof prefix, "blk.%d.", (int)layer);
        syl_value *n = ir_random_norm(r, b, x, prefix, "attn_norm");
        syl_value *q = ir_random_linear(r, b, n, prefix, "attn_q", r->heads * r->head_dim);
        syl_value *k = ir_random_linear(r, b, n, prefix, "attn_k", r->kv_heads * r->head_dim);
        syl_value *v = ir_random_linear(r, b, n, prefix, "attn_v", r->kv_heads * r->head_dim);
        if (r->qk_norm) {
            q = ir_random_head_norm(r, b, q, prefix, "attn_q_norm", r->heads);
            k = ir_random_head_norm(r, b, k, prefix, "attn_k_norm", r->kv_heads);
        }
        q = ir_random_rope(r, b, q, angles, r->heads);
        k = ir_random_rope(r, b, k, angles, r->kv_heads);
        kv = syl_build(b, SYL_OP_kv_append, kv_type, 5, kv, k, v, pos, seq);
        syl_attr_set_int(module, kv->def, "layer", layer);
        syl_value *a = syl_build(b, SYL_OP_attention, q->type, 4, q, kv, pos, seq);
        syl_attr_set_int(module, a->def, "heads", r->heads);
        syl_attr_set_int(module, a->def, "layer", layer);
        syl_attr_set_float(module, a->def, "scale", 1.0 / sqrt((double)r->head_dim));
        x = syl_build(b, SYL_OP_add, x->type, 2, x,
                      ir_random_linear(r, b, a, prefix, "attn_output", r->width));
        n = ir_random_norm(r, b, x, prefix, "ffn_norm");
        syl_value *gate = ir_random_linear(r, b, n, prefix, "ffn_gate", r->hidden);
        syl_value *up = ir_random_linear(r, b, n, prefix, "ffn_up", r->hidden);
        syl_value *m =
            syl_build(b, SYL_OP_mul, up->type, 2, syl_build(b, SYL_OP_silu, gate->type, 1, gate), up);
        x = syl_build(b, SYL_OP_add, x->type, 2, x, ir_random_linear(r, b, m, prefix, "ffn_down", r->width));
    }
    syl_value *y =
        syl_build(b, SYL_OP_take, syl_tensor2(SYL_f32, rows, syl_size(r->width)), 2, x, &func->args[3]);
    y = ir_random_norm(r, b, y, "", "output_norm");
    syl_type logits_type = syl_tensor2(SYL_f32, rows, syl_size(r->vocabulary));
    syl_value *logits = r->tied ? syl_build(b, SYL_OP_linear, logits_type, 2, y, table)
                                : ir_random_linear(r, b, y, "", "output", r->vocabulary);
    syl_value *results[] = {logits, kv};
    syl_build_op(b, SYL_OP_return, 2, results, 0, NULL);
    func->n_results = 2;
    func->result_types = SYL_NEW_ARRAY(&module->arena, syl_type, 2);
    func->result_types[0] = logits_type;
    func->result_types[1] = kv_type;
    return module;
}

static inline syl_module *ir_random_module(uint64_t seed, ir_random *r) {
    ir_random_sizes(seed, r);
    return ir_random_build(r);
}

/* ---- running it ---- */

/* Roughly normal numbers times 1/sqrt(columns); gains lie around 1, biases around 0. */
static inline syl_status ir_random_weights(void *user, const char *name, int64_t source, const syl_type *type,
                                           syl_diag *diag, double *out) {
    const ir_random *r = user;
    int64_t n = 1, cols = type->dims[type->rank - 1].size;
    uint64_t state = ir_random_mix(r->seed + (uint64_t)source);
    (void)diag;
    for (const char *c = name; *c; c++) state = ir_random_mix(state ^ (uint64_t)(unsigned char)*c);
    for (int i = 0; i < type->rank; i++) n *= type->dims[i].size;
    for (int64_t i = 0; i < n; i++) {
        double sum = 0;
        for (int k = 0; k < 3; k++)
            sum += (double)(ir_random_mix(state + (uint64_t)(3 * i + k)) >> 11) / 9007199254740992.0 - 0.5;
        if (type->rank == 2)
            out[i] = 2.0 * sum / sqrt((double)cols);
        else
            out[i] = strstr(name, "norm") ? 1.0 + sum : sum;
    }
    return SYL_OK;
}

typedef struct ir_random_outputs {
    syl_status status;
    syl_ref_tensor *logits[2]; /* of the prefill and of the step behind it; NULL where status is not SYL_OK */
} ir_random_outputs;

static inline void ir_random_free(ir_random_outputs *o) {
    for (int i = 0; i < 2; i++) syl_ref_tensor_release(o->logits[i]);
}

static inline syl_ref_tensor *ir_random_ints(const int32_t *values, int64_t n) {
    syl_ref_tensor *t = syl_ref_tensor_create(SYL_i32, 1, &n);
    if (t) memcpy(t->ints, values, (size_t)n * sizeof *values);
    return t;
}

/* Runs @forward twice on one cache, with weights of the caller. */
static inline ir_random_outputs ir_random_run_with(const syl_module *module, ir_random *r,
                                                   const syl_ref_weights *weights,
                                                   syl_ref_precision precision, syl_diag *diag) {
    const syl_func *func = syl_module_func(module, "forward");
    ir_random_outputs o = {.status = SYL_OK};
    syl_ref_kv *kv = syl_ref_kv_create(&func->args[4].type);
    static const int32_t pos[2][7] = {{0, 1, 2, 0, 1, 2, 3}, {3, 4}},
                         seq[2][7] = {{0, 0, 0, 1, 1, 1, 1}, {0, 1}};
    static const int32_t rows[2][7] = {{6, 0, 2}, {0, 1}};
    static const int64_t n_tokens[] = {7, 2}, n_rows[] = {3, 2};
    for (int call = 0; call < 2 && o.status == SYL_OK; call++) {
        int32_t ids[7];
        for (int i = 0; i < 7; i++)
            ids[i] =
                (int32_t)(ir_random_mix(r->seed * 31 + (uint64_t)(call * 7 + i)) % (uint64_t)r->vocabulary);
        syl_ref_value args[] = {{.tensor = ir_random_ints(ids, n_tokens[call])},
                                {.tensor = ir_random_ints(pos[call], n_tokens[call])},
                                {.tensor = ir_random_ints(seq[call], n_tokens[call])},
                                {.tensor = ir_random_ints(rows[call], n_rows[call])},
                                {.kv = kv}};
        syl_ref_value results[2];
        o.status = syl_ref_run(func, args, 5, weights, precision, diag, results);
        if (o.status == SYL_OK) o.logits[call] = results[0].tensor;
        for (int i = 0; i < 4; i++) syl_ref_tensor_release(args[i].tensor);
    }
    syl_ref_kv_destroy(kv);
    return o;
}

static inline ir_random_outputs ir_random_run(const syl_module *module, ir_random *r,
                                              syl_ref_precision precision, syl_diag *diag) {
    return ir_random_run_with(module, r, &(syl_ref_weights){r, ir_random_weights, NULL}, precision, diag);
}

/* Largest difference of two runs' logits, relative to the largest logit of the first; infinite where a run
 * failed or shapes differ. */
static inline double ir_random_error(const ir_random_outputs *a, const ir_random_outputs *b) {
    double error = 0, size = 1e-300;
    for (int call = 0; call < 2; call++) {
        const syl_ref_tensor *x = a->logits[call], *y = b->logits[call];
        if (!x || !y || syl_ref_tensor_elements(x) != syl_ref_tensor_elements(y)) return INFINITY;
        for (int64_t i = 0; i < syl_ref_tensor_elements(x); i++) {
            double difference = fabs(x->data[i] - y->data[i]);
            if (!isfinite(difference)) return INFINITY;
            if (difference > error) error = difference;
            if (fabs(x->data[i]) > size) size = fabs(x->data[i]);
        }
    }
    return error / size;
}

#endif
