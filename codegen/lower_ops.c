/* Lowering, op by op: what each op of a region adds to the kernel. The formulas are those of ops.def;
 * docs/numerics.md says where they round. */
#include <math.h>
#include "base/hadamard.h"
#include "base/numeric.h"
#include "codegen/host/host.h"
#include "codegen/lower.h"
#include "ir/rope.h"

#ifndef M_PI
#define M_PI 3.14159265358979323846
#endif

/* Rounds a result to the FLOAT type the op declares, and binds it. */
static syl_status finish(lower_ctx *ctx, const syl_op *op, int inst) {
    syl_dtype dtype = syl_result(op)->type.dtype;
    if (dtype == SYL_bf16) inst = lower_emit1(ctx, KIR_round_bf16, inst);
    if (dtype == SYL_f16) inst = lower_emit1(ctx, KIR_round_f16, inst);
    lower_bind(ctx, syl_result(op), inst);
    return SYL_OK;
}

/* A column table of constants as f32. */
static int constants(lower_ctx *ctx, const double *values, int64_t n) {
    SYL_PUSH(ctx->arena, &ctx->kernel->tables, (kir_table){n, values});
    return kir_emit(ctx->arena, ctx->kernel,
                    (kir_inst){.op = KIR_table, .table = (int)ctx->kernel->tables.n - 1, .buffer = -1});
}

/* All elements of a row kernel have one width. */
static syl_status set_cols(lower_ctx *ctx, const syl_op *op, int64_t cols) {
    if (ctx->kernel->kind != KIR_ROWS) return SYL_OK;
    if (ctx->kernel->cols && ctx->kernel->cols != cols)
        return lower_refuse(ctx, op, "a region's rows must have one width");
    ctx->kernel->cols = cols;
    return SYL_OK;
}

static syl_status unary(lower_ctx *ctx, const syl_op *op, int *x) {
    SYL_TRY(set_cols(ctx, op, lower_cols(&syl_operand(op, 0)->type)));
    return lower_value(ctx, syl_operand(op, 0), x);
}

static syl_status lower_cast(lower_ctx *ctx, const syl_op *op) {
    int x;
    SYL_TRY(unary(ctx, op, &x));
    return finish(ctx, op, x);
}

static syl_status lower_silu(lower_ctx *ctx, const syl_op *op) {
    int x;
    SYL_TRY(unary(ctx, op, &x));
    int e = lower_emit1(ctx, KIR_exp, lower_emit1(ctx, KIR_neg, x));
    return finish(ctx, op, lower_emit2(ctx, KIR_div, x, lower_emit2(ctx, KIR_add, lower_imm(ctx, 1), e)));
}

/* tanh: x (1 + tanh(u)) / 2 = x / (1 + exp(-2u)). erf: Phi(x) by Abramowitz and Stegun, Handbook of Mathematical
 * Functions (1964), 7.1.26, |error of erf| <= 1.5e-7, in a form that does not cancel: max(x, 0) - |x| t P(t) exp(-x^2 / 2) / 2,
 * t = 1 / (1 + p |x| / sqrt(2)). */
static syl_status lower_gelu(lower_ctx *ctx, const syl_op *op) {
    static const double p[] = {0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429};
    int x;
    SYL_TRY(unary(ctx, op, &x));
    int one = lower_imm(ctx, 1), square = lower_emit2(ctx, KIR_mul, x, x);
    if (syl_attr_str(op, "form")[0] == 't') {
        const double c = 2 * 0.79788456080286536; /* 2 sqrt(2 / pi) */
        int u = lower_emit2(ctx, KIR_mul, square, lower_imm(ctx, -c * 0.044715));
        u = lower_emit2(ctx, KIR_mul, lower_emit2(ctx, KIR_add, u, lower_imm(ctx, -c)), x);
        int e = lower_emit1(ctx, KIR_exp, u);
        return finish(ctx, op, lower_emit2(ctx, KIR_div, x, lower_emit2(ctx, KIR_add, one, e)));
    }
    int size = lower_emit1(ctx, KIR_abs, x);
    int t = lower_emit2(ctx, KIR_mul, size, lower_imm(ctx, 0.3275911 * 0.70710678118654752));
    t = lower_emit2(ctx, KIR_div, one, lower_emit2(ctx, KIR_add, one, t));
    int sum = lower_imm(ctx, 0.5 * p[4]);
    for (int i = 3; i >= 0; i--)
        sum = lower_emit2(ctx, KIR_add, lower_emit2(ctx, KIR_mul, sum, t), lower_imm(ctx, 0.5 * p[i]));
    int e = lower_emit1(ctx, KIR_exp, lower_emit2(ctx, KIR_mul, square, lower_imm(ctx, -0.5)));
    int tail =
        lower_emit2(ctx, KIR_mul, lower_emit2(ctx, KIR_mul, sum, t), lower_emit2(ctx, KIR_mul, e, size));
    return finish(ctx, op, lower_emit2(ctx, KIR_sub, lower_emit2(ctx, KIR_max, x, lower_imm(ctx, 0)), tail));
}

static syl_status lower_binary(lower_ctx *ctx, const syl_op *op, kir_op code) {
    int x, y;
    SYL_TRY(unary(ctx, op, &x));
    SYL_TRY(lower_value(ctx, syl_operand(op, 1), &y));
    return finish(ctx, op, lower_emit2(ctx, code, x, y));
}

static syl_status lower_rms_norm(lower_ctx *ctx, const syl_op *op) {
    int x;
    SYL_TRY(unary(ctx, op, &x));
    double n = (double)lower_cols(&syl_operand(op, 0)->type), eps = syl_attr_float(op, "eps");
    int y, heads = (int)syl_attr_int(op, "heads");
    if (heads > 1) {
        y = kir_emit(ctx->arena, ctx->kernel,
                     (kir_inst){.op = KIR_head_norm, .args = {x}, .buffer = -1, .heads = heads, .f = eps});
    } else {
        int sum = lower_emit1(ctx, KIR_reduce_sum, lower_emit2(ctx, KIR_mul, x, x));
        int mean = lower_emit2(ctx, KIR_mul, sum, lower_imm(ctx, 1.0 / n));
        int root = lower_emit1(ctx, KIR_sqrt, lower_emit2(ctx, KIR_add, mean, lower_imm(ctx, eps)));
        y = lower_emit2(ctx, KIR_mul, x, lower_emit2(ctx, KIR_div, lower_imm(ctx, 1), root));
    }
    if (op->n_operands == 2) {
        int gain;
        SYL_TRY(lower_col_vector(ctx, syl_operand(op, 1), &gain));
        y = lower_emit2(ctx, KIR_mul, y, lower_load(ctx, KIR_load_col, gain));
    }
    return finish(ctx, op, y);
}

/* Two passes: the mean, then the squares of what is left. */
static syl_status lower_layer_norm(lower_ctx *ctx, const syl_op *op) {
    int x;
    SYL_TRY(unary(ctx, op, &x));
    int share = lower_imm(ctx, 1.0 / (double)lower_cols(&syl_operand(op, 0)->type));
    int mean = lower_emit2(ctx, KIR_mul, lower_emit1(ctx, KIR_reduce_sum, x), share);
    int y = lower_emit2(ctx, KIR_sub, x, mean);
    int variance =
        lower_emit2(ctx, KIR_mul, lower_emit1(ctx, KIR_reduce_sum, lower_emit2(ctx, KIR_mul, y, y)), share);
    int root = lower_emit1(ctx, KIR_sqrt,
                           lower_emit2(ctx, KIR_add, variance, lower_imm(ctx, syl_attr_float(op, "eps"))));
    y = lower_emit2(ctx, KIR_mul, y, lower_emit2(ctx, KIR_div, lower_imm(ctx, 1), root));
    for (int i = 1; i < op->n_operands; i++) { /* gain, bias */
        int vector;
        SYL_TRY(lower_col_vector(ctx, syl_operand(op, i), &vector));
        y = lower_emit2(ctx, i == 1 ? KIR_mul : KIR_add, y, lower_load(ctx, KIR_load_col, vector));
    }
    return finish(ctx, op, y);
}

static bool last_axis(const syl_op *op) {
    int64_t axis = syl_attr_int(op, "axis");
    return axis == syl_operand(op, 0)->type.rank - 1;
}

static syl_status lower_hadamard(lower_ctx *ctx, const syl_op *op) {
    int x;
    if (!last_axis(op)) return lower_refuse(ctx, op, "an online transform must go along the last axis");
    SYL_TRY(unary(ctx, op, &x));
    const syl_attr *factors = syl_attr_get(op, "factors");
    kir_inst inst = {.op = KIR_hadamard,
                     .args = {x},
                     .buffer = -1,
                     .factors = factors->ints.p,
                     .n_factors = factors->ints.n,
                     .transpose = syl_attr_bool(op, "transpose")};
    return finish(ctx, op, kir_emit(ctx->arena, ctx->kernel, inst));
}

static syl_status lower_signs(lower_ctx *ctx, const syl_op *op) {
    int x;
    if (!last_axis(op)) return lower_refuse(ctx, op, "online signs must go along the last axis");
    SYL_TRY(unary(ctx, op, &x));
    int64_t n = lower_cols(&syl_operand(op, 0)->type), period = syl_attr_int(op, "period");
    double *signs = SYL_NEW_ARRAY(ctx->arena, double, (size_t)n);
    for (int64_t k = 0; k < n; k++)
        signs[k] = syl_random_sign((uint64_t)syl_attr_int(op, "seed"), (uint64_t)(period ? k % period : k));
    return finish(ctx, op,
                  lower_emit2(ctx, KIR_mul, x, lower_emit1(ctx, KIR_to_f32, constants(ctx, signs, n))));
}

static syl_status lower_scale(lower_ctx *ctx, const syl_op *op) {
    int x, v;
    if (!last_axis(op)) return lower_refuse(ctx, op, "an online scale must go along the last axis");
    SYL_TRY(unary(ctx, op, &x));
    SYL_TRY(lower_col_vector(ctx, syl_operand(op, 1), &v));
    return finish(ctx, op, lower_emit2(ctx, KIR_mul, x, lower_load(ctx, KIR_load_col, v)));
}

/* Rows picked by an index: embedding(ids, table), take(x, rows). */
static syl_status lower_rows_of(lower_ctx *ctx, const syl_op *op, const syl_value *matrix,
                                const syl_value *index) {
    int row;
    int64_t cols = lower_cols(&matrix->type);
    lower_place place;
    SYL_TRY(set_cols(ctx, op, cols));
    SYL_TRY(lower_value(ctx, index, &row));
    SYL_TRY(lower_find_place(ctx, matrix, &place));
    if (place.has_scale) return lower_refuse(ctx, op, "rows of a quantized matrix cannot be picked");
    int buffer = lower_matrix(ctx, &place, cols, false);
    return finish(
        ctx, op,
        kir_emit(ctx->arena, ctx->kernel, (kir_inst){.op = KIR_load_at, .args = {row}, .buffer = buffer}));
}

/* Patches of pictures, and back: an element-wise load at another place. */
static syl_status lower_pictures(lower_ctx *ctx, const syl_op *op, kir_op load) {
    const syl_value *x = syl_operand(op, 0);
    lower_place place;
    SYL_TRY(set_cols(ctx, op, lower_cols(&syl_result(op)->type)));
    SYL_TRY(lower_find_place(ctx, x, &place));
    kir_inst inst = {.op = load,
                     .buffer = lower_matrix(ctx, &place, lower_cols(&x->type), false),
                     .pictures = {syl_attr_int(op, "channels"), syl_attr_int(op, "height"),
                                  syl_attr_int(op, "width"), syl_attr_int(op, "patch")}};
    return finish(ctx, op, kir_emit(ctx->arena, ctx->kernel, inst));
}

static syl_status lower_rope_table(lower_ctx *ctx, const syl_op *op) {
    int pos;
    int64_t dims = syl_attr_int(op, "dims"), half = dims / 2;
    double *frequency = SYL_NEW_ARRAY(ctx->arena, double, (size_t)dims),
           *phase = SYL_NEW_ARRAY(ctx->arena, double, (size_t)dims);
    for (int64_t k = 0; k < dims; k++) {
        frequency[k] = syl_rope_frequency(op, k % half);
        phase[k] = k < half ? 0 : M_PI / 2; /* sin x = cos(x - pi/2) */
    }
    SYL_TRY(set_cols(ctx, op, dims));
    SYL_TRY(lower_value(ctx, syl_operand(op, 0), &pos));
    int angle = lower_emit2(ctx, KIR_mul, lower_emit1(ctx, KIR_to_f64, pos), constants(ctx, frequency, dims));
    angle = lower_emit2(ctx, KIR_sub, angle, constants(ctx, phase, dims));
    return finish(ctx, op, lower_emit1(ctx, KIR_to_f32, lower_emit1(ctx, KIR_cos, angle)));
}

static syl_status lower_timestep_embedding(lower_ctx *ctx, const syl_op *op) {
    int t;
    int64_t dims = syl_attr_int(op, "dims"), half = dims / 2;
    double base = syl_attr_float(op, "base"), scale = syl_attr_float(op, "scale");
    double *frequency = SYL_NEW_ARRAY(ctx->arena, double, (size_t)dims),
           *phase = SYL_NEW_ARRAY(ctx->arena, double, (size_t)dims);
    for (int64_t k = 0; k < dims; k++) {
        frequency[k] = scale * pow(base, -(double)(k % half) / (double)half);
        phase[k] = k < half ? 0 : M_PI / 2; /* sin x = cos(x - pi/2) */
    }
    SYL_TRY(set_cols(ctx, op, dims));
    SYL_TRY(lower_value(ctx, syl_operand(op, 0), &t));
    int angle = lower_emit2(ctx, KIR_mul, lower_emit1(ctx, KIR_to_f64, t), constants(ctx, frequency, dims));
    angle = lower_emit2(ctx, KIR_sub, angle, constants(ctx, phase, dims));
    return finish(ctx, op, lower_emit1(ctx, KIR_to_f32, lower_emit1(ctx, KIR_cos, angle)));
}

static syl_status lower_rope(lower_ctx *ctx, const syl_op *op) {
    int x;
    const syl_value *table = syl_operand(op, 1);
    lower_place place;
    SYL_TRY(unary(ctx, op, &x));
    SYL_TRY(lower_find_place(ctx, table, &place));
    int buffer = lower_matrix(ctx, &place, lower_cols(&table->type), false);
    kir_inst inst = {.op = KIR_rope,
                     .args = {x},
                     .buffer = buffer,
                     .heads = (int)syl_attr_int(op, "heads"),
                     .dims = (int)lower_cols(&table->type),
                     .interleaved = syl_attr_str(op, "style")[0] == 'i'};
    return finish(ctx, op, kir_emit(ctx->arena, ctx->kernel, inst));
}

kir_cache lower_cache(const syl_type *kv) {
    return (kir_cache){.heads = (int)kv->dims[1].size,
                       .dim = (int)kv->dims[2].size,
                       .elem = lower_elem(kv->dtype),
                       .k = {kv->k.bits, (int)kv->k.group},
                       .v = {kv->v.bits, (int)kv->v.group}};
}

/* The cache's buffer, and the parameters of its layout. */
static int cache_buffer(lower_ctx *ctx, const syl_value *kv, int64_t layer) {
    ctx->kernel->cache = lower_cache(&kv->type);
    SYL_PUSH(ctx->arena, &ctx->args, (syl_plan_arg){SYL_ARG_CACHE, (int)layer, 0});
    return kir_add_buffer(ctx->arena, ctx->kernel,
                          (kir_buffer){"cache", KIR_CACHE, ctx->kernel->cache.elem, 0, 0, false});
}

/* Positions and sequences must be arguments of the function: the runtime has checked those, and CUDA kernels read them before the kernel in front of
 * them has ended. */
static syl_status check_rows_of_cache(lower_ctx *ctx, const syl_op *op, int first) {
    for (int i = first; i < first + 2; i++) {
        lower_place place;
        SYL_TRY(lower_find_place(ctx, syl_operand(op, i), &place));
        if (place.data.kind != SYL_ARG_INPUT)
            return lower_refuse(ctx, op, "its positions and sequences must be arguments of the function");
    }
    return SYL_OK;
}

static syl_status lower_kv_append(lower_ctx *ctx, const syl_op *op) {
    int k, v, pos, seq;
    SYL_TRY(check_rows_of_cache(ctx, op, 3));
    SYL_TRY(set_cols(ctx, op, lower_cols(&syl_operand(op, 1)->type)));
    SYL_TRY(lower_value(ctx, syl_operand(op, 1), &k));
    SYL_TRY(lower_value(ctx, syl_operand(op, 2), &v));
    SYL_TRY(lower_value(ctx, syl_operand(op, 3), &pos));
    SYL_TRY(lower_value(ctx, syl_operand(op, 4), &seq));
    int cache = cache_buffer(ctx, syl_operand(op, 0), syl_attr_int(op, "layer"));
    kir_emit(ctx->arena, ctx->kernel,
             (kir_inst){.op = ctx->kernel->cache.k.bits ? KIR_append_codes_k : KIR_append_k,
                        .args = {k, pos, seq},
                        .buffer = cache,
                        .f = syl_attr_get(op, "k_clip") ? syl_attr_float(op, "k_clip") : 1});
    kir_emit(ctx->arena, ctx->kernel,
             (kir_inst){.op = ctx->kernel->cache.v.bits ? KIR_append_codes_v : KIR_append_v,
                        .args = {v, pos, seq},
                        .buffer = cache,
                        .f = syl_attr_get(op, "v_clip") ? syl_attr_float(op, "v_clip") : 1});
    return SYL_OK;
}

static syl_status lower_quantize(lower_ctx *ctx, const syl_op *op) {
    int x;
    lower_place place;
    const syl_value *result = lower_yielded(op);
    if (!result || !syl_value_has_one_use(syl_result(op)))
        return lower_refuse(ctx, op, "quantized values must be yielded by their region, and nothing else");
    if (syl_attr_str(op, "clip")[0] == 'm') return lower_refuse(ctx, op, "clip = mse is for weights");
    SYL_TRY(unary(ctx, op, &x));
    SYL_TRY(lower_find_place(ctx, result, &place));
    int absmax = lower_emit1(ctx, KIR_reduce_max, lower_emit1(ctx, KIR_abs, x));
    int scale = lower_emit2(ctx, KIR_div, absmax, lower_imm(ctx, 127));
    int code =
        lower_emit1(ctx, KIR_round, lower_emit2(ctx, KIR_mul, x, lower_emit1(ctx, KIR_recip_or_zero, scale)));
    code =
        lower_emit2(ctx, KIR_max, lower_emit2(ctx, KIR_min, code, lower_imm(ctx, 127)), lower_imm(ctx, -127));
    int64_t cols = lower_cols(&result->type);
    kir_emit(ctx->arena, ctx->kernel,
             (kir_inst){.op = KIR_store,
                        .args = {lower_emit1(ctx, KIR_to_i8, code)},
                        .buffer = lower_matrix(ctx, &place, cols, true)});
    kir_emit(ctx->arena, ctx->kernel,
             (kir_inst){.op = KIR_store_row,
                        .args = {scale},
                        .buffer = lower_row_vector(ctx, place.scale, KIR_F32, "s", true)});
    return SYL_OK;
}

static syl_status lower_dequantize(lower_ctx *ctx, const syl_op *op) {
    int x;
    lower_place place;
    SYL_TRY(set_cols(ctx, op, lower_cols(&syl_operand(op, 0)->type)));
    SYL_TRY(lower_find_place(ctx, syl_operand(op, 0), &place));
    SYL_TRY(lower_value(ctx, syl_operand(op, 0), &x));
    int scale = lower_load(ctx, KIR_load_row, lower_row_vector(ctx, place.scale, KIR_F32, "s", false));
    return finish(ctx, op, lower_emit2(ctx, KIR_mul, lower_emit1(ctx, KIR_to_f32, x), scale));
}

static syl_status lower_linear(lower_ctx *ctx, const syl_op *op) {
    const syl_value *x = syl_operand(op, 0), *w = syl_operand(op, 1);
    kir_gemm *gemm = &ctx->kernel->gemm;
    lower_place place;
    if (ctx->kernel->kind == KIR_ROWS) return lower_projection(ctx, op);
    if (lower_is_branch(op)) return lower_branch_term(ctx, op);
    if (!syl_op_is(w->def, SYL_OP_materialized))
        return lower_refuse(ctx, op, "its weight must be a stored tensor");
    SYL_TRY(lower_find_place(ctx, x, &place));
    gemm->n = w->type.dims[0].size;
    gemm->k = w->type.dims[1].size;
    kir_type w_elem = lower_elem(w->type.dtype);
    bool integer = place.elem == KIR_I8, coded = w_elem == KIR_I8;
    if ((integer && !coded) || place.elem == KIR_F16 || w_elem == KIR_F16)
        return lower_refuse(ctx, op, "no kernel multiplies these types");
    const syl_dtype_info *scheme = &syl_dtypes[w->type.dtype];
    if (coded && scheme->bits == 4)
        gemm->codes = (kir_weight_codes){.bits = 4, .group = scheme->group, .two_level = scheme->two_level};
    if (ctx->target)
        syl_host_tile(ctx->target, place.elem, w_elem, gemm);
    else
        lower_cuda_tile(&place, w->type.dtype, gemm);
    gemm->a = lower_matrix(ctx, &place, gemm->k, false);
    const char *name = syl_attr_str(w->def, "name");
    syl_plan_weight packed = {.name = name,
                              .elem = w_elem,
                              .rows = gemm->n,
                              .cols = gemm->k,
                              .packed = true,
                              .dot = gemm->dot,
                              .nr = gemm->nr,
                              .ku = gemm->ku,
                              .codes = gemm->codes};
    SYL_PUSH(ctx->arena, &ctx->args, (syl_plan_arg){SYL_ARG_WEIGHT, lower_weight(ctx, packed), 0});
    gemm->w = kir_add_buffer(ctx->arena, ctx->kernel, (kir_buffer){"w", KIR_PACKED, w_elem, 0, 0, false});

    int y = lower_emit1(ctx, KIR_acc, 0);
    if (kir_acc_type(gemm) == KIR_I32) y = lower_emit1(ctx, KIR_to_f32, y);
    if (integer) {
        int x_scale = lower_row_vector(ctx, place.scale, KIR_F32, "s", false);
        y = lower_emit2(ctx, KIR_mul, y, lower_load(ctx, KIR_load_row, x_scale));
    }
    if (coded && scheme->row_scale) {
        syl_plan_weight scales = {.name = syl_arena_printf(ctx->arena, "%s.scale", name),
                                  .elem = KIR_F32,
                                  .rows = 1,
                                  .cols = gemm->n};
        SYL_PUSH(ctx->arena, &ctx->args, (syl_plan_arg){SYL_ARG_WEIGHT, lower_weight(ctx, scales), 0});
        int w_scale = kir_add_buffer(ctx->arena, ctx->kernel,
                                     (kir_buffer){"ws", KIR_PER_COL, KIR_F32, gemm->n, 1, false});
        y = lower_emit2(ctx, KIR_mul, y, lower_load(ctx, KIR_load_col, w_scale));
    }
    if (op->n_operands == 3) {
        int bias;
        SYL_TRY(lower_col_vector(ctx, syl_operand(op, 2), &bias));
        y = lower_emit2(ctx, KIR_add, y, lower_load(ctx, KIR_load_col, bias));
    }
    return finish(ctx, op, y);
}

static syl_status lower_attention(lower_ctx *ctx, const syl_op *op) {
    const syl_value *q = syl_operand(op, 0), *kv = syl_operand(op, 1), *result = lower_yielded(op);
    if (!result || op->parent->first != op || op->next != op->parent->last)
        return lower_refuse(ctx, op, "attention must stand alone in its region");
    lower_place q_place, out_place, pos, seq;
    SYL_TRY(check_rows_of_cache(ctx, op, 2));
    SYL_TRY(lower_find_place(ctx, q, &q_place));
    SYL_TRY(lower_find_place(ctx, result, &out_place));
    SYL_TRY(lower_find_place(ctx, syl_operand(op, 2), &pos));
    SYL_TRY(lower_find_place(ctx, syl_operand(op, 3), &seq));
    kir_attention *attention = &ctx->kernel->attention;
    attention->heads = (int)syl_attr_int(op, "heads");
    attention->kv_heads = (int)kv->type.dims[1].size;
    attention->head_dim = (int)kv->type.dims[2].size;
    attention->scale = syl_attr_float(op, "scale");
    attention->mr = 4;
    attention->q = lower_matrix(ctx, &q_place, lower_cols(&q->type), false);
    attention->cache = cache_buffer(ctx, kv, syl_attr_int(op, "layer"));
    attention->pos = lower_row_vector(ctx, pos.data, KIR_I32, "pos", false);
    attention->seq = lower_row_vector(ctx, seq.data, KIR_I32, "seq", false);
    attention->out = lower_matrix(ctx, &out_place, lower_cols(&result->type), true);
    return SYL_OK;
}

static syl_status lower_full_attention(lower_ctx *ctx, const syl_op *op) {
    const syl_value *result = lower_yielded(op), *q = syl_operand(op, 0);
    lower_place places[3], out;
    int buffers[3];
    kir_full_attention *attention = &ctx->kernel->full_attention;
    for (const syl_op *other = op->parent->first; other != op->parent->last; other = other->next)
        if (!result || (other != op && other->code != SYL_OP_slice))
            return lower_refuse(ctx, op, "attention must stand alone in its region");
    int64_t cols = lower_cols(&q->type), heads = syl_attr_int(op, "heads"),
            tokens = syl_attr_int(op, "tokens");
    if (tokens > 1 << 16 || cols / heads > 1 << 10)
        return lower_refuse(ctx, op, "more than 65536 tokens or heads wider than 1024");
    for (int i = 0; i < 3; i++) {
        SYL_TRY(lower_find_place(ctx, syl_operand(op, i), &places[i]));
        buffers[i] = lower_matrix(ctx, &places[i], cols, false);
    }
    SYL_TRY(lower_find_place(ctx, result, &out));
    *attention = (kir_full_attention){.q = buffers[0],
                                      .k = buffers[1],
                                      .v = buffers[2],
                                      .out = lower_matrix(ctx, &out, cols, true),
                                      .heads = (int)heads,
                                      .head_dim = cols / heads,
                                      .tokens = tokens,
                                      .scale = syl_attr_float(op, "scale"),
                                      .mr = 4};
    return SYL_OK;
}

syl_status lower_op(lower_ctx *ctx, const syl_op *op) {
    switch (op->code) {
    case SYL_OP_slice:
        return SYL_OK; /* a view: found through its place */
    case SYL_OP_cast:
        return lower_cast(ctx, op);
    case SYL_OP_silu:
        return lower_silu(ctx, op);
    case SYL_OP_gelu:
        return lower_gelu(ctx, op);
    case SYL_OP_layer_norm:
        return lower_layer_norm(ctx, op);
    case SYL_OP_timestep_embedding:
        return lower_timestep_embedding(ctx, op);
    case SYL_OP_full_attention:
        return lower_full_attention(ctx, op);
    case SYL_OP_mul:
        return lower_binary(ctx, op, KIR_mul);
    case SYL_OP_add:
        return lower_binary(ctx, op, KIR_add);
    case SYL_OP_rms_norm:
        return lower_rms_norm(ctx, op);
    case SYL_OP_hadamard:
        return lower_hadamard(ctx, op);
    case SYL_OP_signs:
        return lower_signs(ctx, op);
    case SYL_OP_scale:
        return lower_scale(ctx, op);
    case SYL_OP_embedding:
        return lower_rows_of(ctx, op, syl_operand(op, 1), syl_operand(op, 0));
    case SYL_OP_take:
        return lower_rows_of(ctx, op, syl_operand(op, 0), syl_operand(op, 1));
    case SYL_OP_patchify:
        return lower_pictures(ctx, op, KIR_load_patch);
    case SYL_OP_unpatchify:
        return lower_pictures(ctx, op, KIR_load_picture);
    case SYL_OP_rope_table:
        return lower_rope_table(ctx, op);
    case SYL_OP_rope:
        return lower_rope(ctx, op);
    case SYL_OP_kv_append:
        return lower_kv_append(ctx, op);
    case SYL_OP_quantize:
        return lower_quantize(ctx, op);
    case SYL_OP_dequantize:
        return lower_dequantize(ctx, op);
    case SYL_OP_linear:
        return lower_linear(ctx, op);
    case SYL_OP_attention:
        return lower_attention(ctx, op);
    default:
        return lower_refuse(ctx, op, "no kernel does it");
    }
}
