/* Shape and type inference, and the checks of single ops: one infer_<ident> for each row of ops.def.
 *
 * Nothing about an op is believed: number of operands and results and all attributes are checked before the
 * op's own rule runs, so the rules may read them freely. */
#include <math.h>
#include <string.h>
#include "base/hadamard.h"
#include "ir/ir.h"

/* Reports at the op, its name in front. */
#define FAIL(op, diag, id, ...) syl_error((diag), SYL_ERR_ir_##id, (op)->loc, __VA_ARGS__)

/* A type as text, in a buffer that lives as long as the full expression it is used in. */
typedef struct type_text {
    char s[160];
} type_text;

static type_text text_of(const syl_type *type) {
    type_text text;
    syl_arena arena;
    syl_arena_init(&arena);
    syl_text out = {.arena = &arena};
    syl_type_print(type, &out);
    snprintf(text.s, sizeof text.s, "%s", out.p);
    syl_arena_free(&arena);
    return text;
}

/* ---- form: numbers of operands and results, attributes ---- */

static const char *const attr_kind_names[] = {"an int",   "a float",        "true or false",
                                              "a string", "a list of ints", "one of"};

static bool choice_exists(const char *choices, const char *word) {
    size_t n = strlen(word);
    while (*choices != ')') {
        size_t length = strcspn(choices, "|)");
        if (length == n && memcmp(choices, word, n) == 0) return true;
        choices += length + (choices[length] == '|');
    }
    return false;
}

static syl_status check_attr(const syl_op *op, const syl_attr *attr, syl_diag *diag) {
    const char *name = syl_ops[op->code].name, *choices = "";
    syl_attr_kind kind;
    bool optional;
    if (!syl_op_attr_spec(op->code, attr->name, &kind, &optional, &choices))
        return FAIL(op, diag, attribute, "%s has no attribute '%s'", name, attr->name);
    if (attr->kind != kind)
        return FAIL(op, diag, attribute, "%s: attribute '%s' must be %s%.*s", name, attr->name,
                    attr_kind_names[kind], kind == SYL_ATTR_ENUM ? (int)strcspn(choices, ")") : 0, choices);
    if (kind == SYL_ATTR_ENUM && !choice_exists(choices, attr->s))
        return FAIL(op, diag, attribute, "%s: attribute '%s' is '%s', expected one of %.*s", name, attr->name,
                    attr->s, (int)strcspn(choices, ")"), choices);
    if (kind == SYL_ATTR_FLOAT && !isfinite(attr->f))
        return FAIL(op, diag, attribute, "%s: attribute '%s' is not a finite number", name, attr->name);
    if (kind == SYL_ATTR_STR && strcmp(attr->name, "name") == 0 && !*attr->s)
        return FAIL(op, diag, attribute, "%s: the name is empty", name);
    return SYL_OK;
}

static syl_status check_form(const syl_op *op, syl_diag *diag) {
    const syl_op_info *info = &syl_ops[op->code];
    if (op->n_operands < info->min_operands ||
        (info->max_operands >= 0 && op->n_operands > info->max_operands)) {
        if (info->min_operands == info->max_operands)
            return FAIL(op, diag, type, "%s takes %d operands, found %d", info->name, info->min_operands,
                        op->n_operands);
        if (info->max_operands < 0)
            return FAIL(op, diag, type, "%s takes at least %d operands, found %d", info->name,
                        info->min_operands, op->n_operands);
        return FAIL(op, diag, type, "%s takes %d to %d operands, found %d", info->name, info->min_operands,
                    info->max_operands, op->n_operands);
    }
    if (info->results >= 0 && op->n_results != info->results)
        return FAIL(op, diag, type, "%s has %d results, found %d", info->name, info->results, op->n_results);

    for (size_t i = 0; i < op->attrs.n; i++) SYL_TRY(check_attr(op, &op->attrs.p[i], diag));
    for (const char *p = info->attrs; *p;) { /* "name:kind name:kind?" */
        size_t length = strcspn(p, " "), n = strcspn(p, ":");
        char name[32];
        snprintf(name, sizeof name, "%.*s", (int)n, p);
        if (p[length - 1] != '?' && !syl_attr_get(op, name))
            return FAIL(op, diag, attribute, "%s needs the attribute '%s'", info->name, name);
        p += length + strspn(p + length, " ");
    }
    return SYL_OK;
}

/* ---- pieces of the rules ---- */

static const syl_type *type_in(const syl_op *op, int i) {
    return &syl_operand(op, i)->type;
}
static const char *name_of(const syl_op *op) {
    return syl_ops[op->code].name;
}

static bool is_tensor(const syl_type *type, syl_type_class class) {
    return type->kind == SYL_TENSOR && syl_type_class_of(type) == class;
}
static bool is_real(const syl_type *type) {
    return is_tensor(type, SYL_CLASS_REAL);
}
static bool is_float(const syl_type *type) {
    return is_tensor(type, SYL_CLASS_FLOAT);
}

static syl_status bad_operand(const syl_op *op, syl_diag *diag, int i, const char *expected) {
    return FAIL(op, diag, type, "%s: operand %d must be %s, found %s", name_of(op), i + 1, expected,
                text_of(type_in(op, i)).s);
}

/* A FLOAT tensor of `rank`, 0 = any. */
static syl_status need_float(const syl_op *op, syl_diag *diag, int i, int rank) {
    const syl_type *type = type_in(op, i);
    if (!is_float(type)) return bad_operand(op, diag, i, "a float tensor");
    if (rank && type->rank != rank) return bad_operand(op, diag, i, rank == 1 ? "a vector" : "a matrix");
    return SYL_OK;
}

/* A tensor of class REAL or FLOAT: weights and what is computed from them, or activations. */
static syl_status need_number(const syl_op *op, syl_diag *diag, int i, int rank) {
    const syl_type *type = type_in(op, i);
    if (!is_float(type) && !is_real(type)) return bad_operand(op, diag, i, "a real or float tensor");
    if (rank && type->rank != rank) return bad_operand(op, diag, i, rank == 1 ? "a vector" : "a matrix");
    return SYL_OK;
}

/* A vector of i32, as long as dimension `length` of what `of` names. */
static syl_status need_indices(const syl_op *op, syl_diag *diag, int i, const syl_dim *length) {
    const syl_type *type = type_in(op, i);
    if (type->kind != SYL_TENSOR || type->dtype != SYL_i32 || type->rank != 1)
        return bad_operand(op, diag, i, "a vector of i32");
    if (length && !syl_dim_equal(type->dims[0], *length))
        return FAIL(op, diag, shape,
                    "%s: operand %d is %s, which does not have one element for each row of operand 1",
                    name_of(op), i + 1, text_of(type).s);
    return SYL_OK;
}

static syl_status bad_shapes(const syl_op *op, syl_diag *diag, int i, int k, const char *why) {
    return FAIL(op, diag, shape, "%s: operands %d (%s) and %d (%s) don't fit: %s", name_of(op), i + 1,
                text_of(type_in(op, i)).s, k + 1, text_of(type_in(op, k)).s, why);
}

/* Ops that may stand on the weight side stay there: x real, result real. */
static syl_dtype dtype_of_result(const syl_type *x) {
    return is_real(x) ? SYL_real : SYL_f32;
}

/* The attribute `axis`, in range and of a size known at compile time. */
static syl_status need_axis(const syl_op *op, syl_diag *diag, bool is_static, int *axis) {
    const syl_type *x = type_in(op, 0);
    int64_t value = syl_attr_int(op, "axis");
    if (value < 0 || value >= x->rank)
        return FAIL(op, diag, shape, "%s: axis %lld of %s does not exist", name_of(op), (long long)value,
                    text_of(x).s);
    *axis = (int)value;
    if (is_static && x->dims[*axis].symbol)
        return FAIL(op, diag, shape, "%s: axis %d of %s has no fixed size", name_of(op), *axis, text_of(x).s);
    return SYL_OK;
}

static syl_status need_static(const syl_op *op, syl_diag *diag, const syl_type *type, const char *what) {
    int64_t n;
    if (type->kind != SYL_TENSOR || !syl_type_elements(type, &n))
        return FAIL(op, diag, shape, "%s: %s needs fixed sizes, found %s", name_of(op), what,
                    text_of(type).s);
    return SYL_OK;
}

static bool same_shape(const syl_type *a, const syl_type *b) {
    syl_type c = *b;
    c.dtype = a->dtype;
    return syl_type_equal(a, &c);
}

static syl_status declared_shape(const syl_op *op, syl_diag *diag) {
    const syl_type *declared = &op->results[0].type;
    if (declared->kind != SYL_TENSOR || !same_shape(type_in(op, 0), declared))
        return FAIL(op, diag, shape,
                    "%s: the result is declared %s, which is not the shape of the operand %s", name_of(op),
                    text_of(declared).s, text_of(type_in(op, 0)).s);
    return SYL_OK;
}

/* A matrix whose rows can have its weight scheme. */
static syl_status need_scheme_fits(const syl_op *op, syl_diag *diag, const syl_type *type) {
    const syl_dtype_info *info = &syl_dtypes[type->dtype];
    if (type->rank != 2)
        return FAIL(op, diag, shape, "%s: %s is for matrices, declared %s", name_of(op), info->name,
                    text_of(type).s);
    if (type->dims[1].symbol || syl_row_fits(type->dtype, type->dims[1].size)) return SYL_OK;
    return FAIL(op, diag, shape, "%s: rows of %s need a multiple of %d elements, found %lld", name_of(op),
                info->name, info->group ? info->group : 8 / info->bits, (long long)type->dims[1].size);
}

/* ---- the rules: weight side ---- */

typedef syl_status infer_fn(const syl_op *op, syl_diag *diag, syl_type *out);

static syl_status infer_weight(const syl_op *op, syl_diag *diag, syl_type *out) {
    *out = op->results[0].type;
    if (!is_real(out))
        return FAIL(op, diag, type, "weight: the result must be a real tensor, declared %s", text_of(out).s);
    if (syl_attr_int(op, "source") < 0)
        return FAIL(op, diag, attribute, "weight: source is %lld", (long long)syl_attr_int(op, "source"));
    return need_static(op, diag, out, "a weight");
}

static syl_status infer_materialized(const syl_op *op, syl_diag *diag, syl_type *out) {
    *out = op->results[0].type;
    bool codes = out->kind == SYL_TENSOR && syl_is_weight_scheme(out->dtype);
    if (!is_float(out) && !codes)
        return FAIL(op, diag, type,
                    "materialized: the result must be a tensor of floats or of a weight's codes, declared %s",
                    text_of(out).s);
    SYL_TRY(need_static(op, diag, out, "a stored tensor"));
    return codes ? need_scheme_fits(op, diag, out) : SYL_OK;
}

static syl_status infer_cast(const syl_op *op, syl_diag *diag, syl_type *out) {
    SYL_TRY(need_number(op, diag, 0, 0));
    SYL_TRY(declared_shape(op, diag));
    *out = op->results[0].type;
    if (!is_float(out))
        return FAIL(op, diag, type, "cast: the result must be a float tensor, declared %s", text_of(out).s);
    return SYL_OK;
}

static syl_status infer_scale(const syl_op *op, syl_diag *diag, syl_type *out) {
    int axis;
    SYL_TRY(need_number(op, diag, 0, 0));
    SYL_TRY(need_number(op, diag, 1, 1));
    SYL_TRY(need_axis(op, diag, false, &axis));
    const syl_type *x = type_in(op, 0), *v = type_in(op, 1);
    if (is_real(x) && !is_real(v)) return bad_operand(op, diag, 1, "real, as operand 1 is");
    if (!syl_dim_equal(x->dims[axis], v->dims[0]))
        return bad_shapes(op, diag, 0, 1, "the vector is not as long as the axis");
    *out = *x;
    out->dtype = dtype_of_result(x);
    return SYL_OK;
}

static syl_status infer_signs(const syl_op *op, syl_diag *diag, syl_type *out) {
    int axis;
    SYL_TRY(need_number(op, diag, 0, 0));
    SYL_TRY(need_axis(op, diag, true, &axis));
    if (syl_attr_int(op, "seed") < 0 || syl_attr_int(op, "period") < 0)
        return FAIL(op, diag, attribute, "signs: seed and period must not be negative");
    *out = *type_in(op, 0);
    out->dtype = dtype_of_result(type_in(op, 0));
    return SYL_OK;
}

static syl_status infer_hadamard(const syl_op *op, syl_diag *diag, syl_type *out) {
    int axis;
    SYL_TRY(need_number(op, diag, 0, 0));
    SYL_TRY(need_axis(op, diag, true, &axis));
    const syl_type *x = type_in(op, 0);
    const syl_attr *factors = syl_attr_get(op, "factors");
    int64_t block;
    if (factors->ints.n < 1 || factors->ints.n > SYL_HADAMARD_MAX_FACTORS ||
        !syl_hadamard_valid(x->dims[axis].size, factors->ints.p, factors->ints.n, &block))
        return FAIL(op, diag, attribute,
                    "hadamard: factors must be 1 to %d orders of known Hadamard matrices whose product "
                    "divides the axis of size %lld",
                    SYL_HADAMARD_MAX_FACTORS, (long long)x->dims[axis].size);
    *out = *x;
    out->dtype = dtype_of_result(x);
    return SYL_OK;
}

static syl_status infer_concat(const syl_op *op, syl_diag *diag, syl_type *out) {
    int axis;
    SYL_TRY(need_number(op, diag, 0, 0));
    SYL_TRY(need_axis(op, diag, true, &axis));
    const syl_type *first = type_in(op, 0);
    *out = *first;
    out->dtype = dtype_of_result(first);
    int64_t size = first->dims[axis].size;
    for (int i = 1; i < op->n_operands; i++) {
        const syl_type *x = type_in(op, i);
        SYL_TRY(need_number(op, diag, i, 0));
        if (is_real(x) != is_real(first))
            return bad_operand(op, diag, i,
                               is_real(first) ? "real, as operand 1 is" : "a float tensor, as operand 1 is");
        if (x->rank != first->rank) return bad_shapes(op, diag, 0, i, "their ranks differ");
        if (x->dims[axis].symbol)
            return FAIL(op, diag, shape, "concat: axis %d of %s has no fixed size", axis, text_of(x).s);
        for (int k = 0; k < x->rank; k++)
            if (k != axis && !syl_dim_equal(x->dims[k], first->dims[k]))
                return bad_shapes(op, diag, 0, i, "they differ off the axis");
        if (__builtin_add_overflow(size, x->dims[axis].size, &size))
            return FAIL(op, diag, shape, "concat: the sizes overflow");
    }
    out->dims[axis] = syl_size(size);
    return SYL_OK;
}

/* Rounds need the type that they alternate with; without rounds it would say nothing. */
static syl_status check_rounds(const syl_op *op, syl_diag *diag, const syl_type *w) {
    int64_t rounds = syl_attr_int(op, "rounds");
    const char *name = syl_attr_str(op, "scheme");
    if (rounds < 0 || rounds > SYL_SPLIT_MAX_ROUNDS)
        return FAIL(op, diag, attribute, "low_rank_split: rounds is %lld, expected 0 to %d",
                    (long long)rounds, SYL_SPLIT_MAX_ROUNDS);
    if (rounds == 0) {
        if (!*name && !syl_attr_get(op, "clip")) return SYL_OK;
        return FAIL(op, diag, attribute, "low_rank_split: 'scheme' and 'clip' are for splits with rounds");
    }
    syl_dtype scheme = syl_dtype_of(name);
    if (scheme == SYL_DTYPE_COUNT || !syl_is_weight_scheme(scheme))
        return FAIL(op, diag, attribute,
                    "low_rank_split: scheme is '%s', expected the type of a weight's codes", name);
    if (!syl_row_fits(scheme, w->dims[1].size))
        return FAIL(op, diag, shape, "low_rank_split: rows of %lld elements do not fit scheme %s",
                    (long long)w->dims[1].size, name);
    return SYL_OK;
}

static syl_status infer_low_rank_split(const syl_op *op, syl_diag *diag, syl_type *out) {
    const syl_type *w = type_in(op, 0);
    if (!is_real(w) || w->rank != 2) return bad_operand(op, diag, 0, "a real matrix");
    SYL_TRY(need_static(op, diag, w, "a weight"));
    int64_t rank = syl_attr_int(op, "rank");
    if (rank < 1 || rank > w->dims[0].size || rank > w->dims[1].size)
        return FAIL(op, diag, attribute, "low_rank_split: rank is %lld, expected 1 to the smaller size of %s",
                    (long long)rank, text_of(w).s);
    SYL_TRY(check_rounds(op, diag, w));
    out[0] = syl_tensor2(SYL_real, w->dims[0], syl_size(rank));
    out[1] = syl_tensor2(SYL_real, syl_size(rank), w->dims[1]);
    out[2] = *w;
    return SYL_OK;
}

static syl_status infer_slice(const syl_op *op, syl_diag *diag, syl_type *out) {
    int axis;
    SYL_TRY(need_number(op, diag, 0, 0));
    SYL_TRY(need_axis(op, diag, true, &axis));
    const syl_type *x = type_in(op, 0);
    int64_t begin = syl_attr_int(op, "begin"), end = syl_attr_int(op, "end");
    if (begin < 0 || begin >= end || end > x->dims[axis].size)
        return FAIL(op, diag, shape, "slice: %lld to %lld is not a range in axis %d of %s", (long long)begin,
                    (long long)end, axis, text_of(x).s);
    *out = *x;
    out->dtype = dtype_of_result(x);
    out->dims[axis] = syl_size(end - begin);
    return SYL_OK;
}

/* ---- quantization ---- */

static syl_status infer_quantize(const syl_op *op, syl_diag *diag, syl_type *out) {
    SYL_TRY(need_number(op, diag, 0, 2));
    SYL_TRY(declared_shape(op, diag));
    *out = op->results[0].type;
    bool weight = is_real(type_in(op, 0));
    if (weight ? !syl_is_weight_scheme(out->dtype) : out->dtype != SYL_int8_token)
        return FAIL(op, diag, type, "quantize: %s is quantized to %s, declared %s", text_of(type_in(op, 0)).s,
                    weight ? "a weight scheme" : "int8_token", text_of(out).s);
    if (weight) SYL_TRY(need_scheme_fits(op, diag, out));
    if (!weight && strcmp(syl_attr_str(op, "clip"), "mse") == 0)
        return FAIL(op, diag, attribute,
                    "quantize: clip = mse is for weights; int8_token scales are absmax / 127");
    return SYL_OK;
}

static syl_status infer_dequantize(const syl_op *op, syl_diag *diag, syl_type *out) {
    *out = *type_in(op, 0);
    if (!is_tensor(out, SYL_CLASS_QUANT)) return bad_operand(op, diag, 0, "a quantized tensor");
    out->dtype = SYL_f32;
    return SYL_OK;
}

/* ---- activations ---- */

static syl_status infer_embedding(const syl_op *op, syl_diag *diag, syl_type *out) {
    SYL_TRY(need_indices(op, diag, 0, NULL));
    SYL_TRY(need_number(op, diag, 1, 2));
    *out = syl_tensor2(SYL_f32, type_in(op, 0)->dims[0], type_in(op, 1)->dims[1]);
    return SYL_OK;
}

static syl_status infer_take(const syl_op *op, syl_diag *diag, syl_type *out) {
    SYL_TRY(need_float(op, diag, 0, 2));
    SYL_TRY(need_indices(op, diag, 1, NULL));
    *out = syl_tensor2(SYL_f32, type_in(op, 1)->dims[0], type_in(op, 0)->dims[1]);
    return SYL_OK;
}

static syl_status infer_linear(const syl_op *op, syl_diag *diag, syl_type *out) {
    const syl_type *x = type_in(op, 0), *w = type_in(op, 1);
    bool codes = w->kind == SYL_TENSOR && syl_is_weight_scheme(w->dtype);
    if (x->kind == SYL_TENSOR && x->dtype == SYL_int8_token && x->rank == 2) {
        if (!codes || w->rank != 2)
            return bad_operand(op, diag, 1, "a matrix of a weight's codes, as operand 1 is int8_token");
    } else {
        if (!is_float(x) || x->rank != 2) return bad_operand(op, diag, 0, "a float or int8_token matrix");
        if ((!is_float(w) && !is_real(w) && !codes) || w->rank != 2)
            return bad_operand(op, diag, 1, "a matrix of real or float numbers or of a weight's codes");
    }
    if (x->dims[1].symbol || !syl_dim_equal(x->dims[1], w->dims[1]))
        return bad_shapes(op, diag, 0, 1, "their rows differ in length");
    if (w->dims[0].symbol)
        return FAIL(op, diag, shape, "linear: the weight %s needs fixed sizes", text_of(w).s);
    if (op->n_operands == 3) {
        SYL_TRY(need_number(op, diag, 2, 1));
        if (!syl_dim_equal(type_in(op, 2)->dims[0], w->dims[0]))
            return bad_shapes(op, diag, 1, 2, "the bias needs one element a row of the weight");
    }
    *out = syl_tensor2(SYL_f32, x->dims[0], w->dims[0]);
    return SYL_OK;
}

/* Columns of operand `i` as heads of equal size. */
static syl_status head_size(const syl_op *op, syl_diag *diag, int i, int64_t heads, int64_t *size) {
    const syl_type *x = type_in(op, i);
    syl_dim cols = x->dims[x->rank - 1];
    if (heads < 1) return FAIL(op, diag, attribute, "%s: heads is %lld", name_of(op), (long long)heads);
    if (cols.symbol || cols.size % heads)
        return FAIL(op, diag, shape, "%s: the columns of %s are not %lld heads", name_of(op),
                    text_of(type_in(op, i)).s, (long long)heads);
    *size = cols.size / heads;
    return SYL_OK;
}

static syl_status infer_rms_norm(const syl_op *op, syl_diag *diag, syl_type *out) {
    SYL_TRY(need_float(op, diag, 0, 0));
    const syl_type *x = type_in(op, 0);
    syl_dim last = x->dims[x->rank - 1];
    if (last.symbol)
        return FAIL(op, diag, shape, "rms_norm: the last axis of %s has no fixed size", text_of(x).s);
    if (op->n_operands == 2) {
        SYL_TRY(need_number(op, diag, 1, 1));
        if (!syl_dim_equal(type_in(op, 1)->dims[0], last))
            return bad_shapes(op, diag, 0, 1, "the gain is not as long as the last axis");
    }
    if (syl_attr_float(op, "eps") < 0) return FAIL(op, diag, attribute, "rms_norm: eps is negative");
    int64_t size;
    if (syl_attr_get(op, "heads")) SYL_TRY(head_size(op, diag, 0, syl_attr_int(op, "heads"), &size));
    *out = *x;
    out->dtype = SYL_f32;
    return SYL_OK;
}

static syl_status infer_layer_norm(const syl_op *op, syl_diag *diag, syl_type *out) {
    SYL_TRY(need_float(op, diag, 0, 0));
    const syl_type *x = type_in(op, 0);
    syl_dim last = x->dims[x->rank - 1];
    if (last.symbol)
        return FAIL(op, diag, shape, "layer_norm: the last axis of %s has no fixed size", text_of(x).s);
    for (int i = 1; i < op->n_operands; i++) {
        SYL_TRY(need_number(op, diag, i, 1));
        if (!syl_dim_equal(type_in(op, i)->dims[0], last))
            return bad_shapes(op, diag, 0, i, "the vector is not as long as the last axis");
    }
    if (syl_attr_float(op, "eps") < 0) return FAIL(op, diag, attribute, "layer_norm: eps is negative");
    *out = *x;
    out->dtype = SYL_f32;
    return SYL_OK;
}

static syl_status infer_silu(const syl_op *op, syl_diag *diag, syl_type *out) {
    SYL_TRY(need_float(op, diag, 0, 0));
    *out = *type_in(op, 0);
    out->dtype = SYL_f32;
    return SYL_OK;
}

static syl_status infer_gelu(const syl_op *op, syl_diag *diag, syl_type *out) {
    return infer_silu(op, diag, out);
}

static syl_status infer_mul(const syl_op *op, syl_diag *diag, syl_type *out) {
    SYL_TRY(need_float(op, diag, 0, 0));
    SYL_TRY(need_float(op, diag, 1, 0));
    if (!same_shape(type_in(op, 0), type_in(op, 1))) return bad_shapes(op, diag, 0, 1, "their shapes differ");
    *out = *type_in(op, 0);
    out->dtype = SYL_f32;
    return SYL_OK;
}

static syl_status infer_add(const syl_op *op, syl_diag *diag, syl_type *out) {
    return infer_mul(op, diag, out);
}

/* Each kind of scaling has its parameters, and no others. */
static syl_status check_rope_scaling(const syl_op *op, syl_diag *diag) {
    static const char *const parameters[] = {"factor", "low", "high", "original"};
    const char *scaling = syl_attr_str(op, "scaling");
    int needed = scaling[0] == 0 ? 0 : strcmp(scaling, "linear") == 0 ? 1 : 4;
    for (int i = 0; i < 4; i++)
        if ((syl_attr_get(op, parameters[i]) != NULL) != (i < needed))
            return FAIL(op, diag, attribute, "rope_table: scaling %s %s the attribute '%s'",
                        needed ? scaling : "none", i < needed ? "needs" : "does not have", parameters[i]);
    if (needed && syl_attr_float(op, "factor") < 1)
        return FAIL(op, diag, attribute, "rope_table: factor must be at least 1");
    double low = syl_attr_float(op, "low"), high = syl_attr_float(op, "high");
    if (needed == 4 && (low <= 0 || high <= low || syl_attr_int(op, "original") < 1))
        return FAIL(op, diag, attribute, "rope_table: scaling llama3 needs 0 < low < high and original >= 1");
    return SYL_OK;
}

static syl_status infer_rope_table(const syl_op *op, syl_diag *diag, syl_type *out) {
    SYL_TRY(need_indices(op, diag, 0, NULL));
    int64_t dims = syl_attr_int(op, "dims");
    if (dims < 2 || dims % 2)
        return FAIL(op, diag, attribute, "rope_table: dims is %lld, expected an even number >= 2",
                    (long long)dims);
    if (syl_attr_float(op, "base") <= 0)
        return FAIL(op, diag, attribute, "rope_table: base must be positive");
    SYL_TRY(check_rope_scaling(op, diag));
    *out = syl_tensor2(SYL_f32, type_in(op, 0)->dims[0], syl_size(dims));
    return SYL_OK;
}

static syl_status infer_rope(const syl_op *op, syl_diag *diag, syl_type *out) {
    SYL_TRY(need_float(op, diag, 0, 2));
    SYL_TRY(need_float(op, diag, 1, 2));
    int64_t size;
    SYL_TRY(head_size(op, diag, 0, syl_attr_int(op, "heads"), &size));
    const syl_type *x = type_in(op, 0), *table = type_in(op, 1);
    if (table->dtype != SYL_f32) return bad_operand(op, diag, 1, "an f32 rope_table");
    if (!syl_dim_equal(x->dims[0], table->dims[0]))
        return bad_shapes(op, diag, 0, 1, "the numbers of rows differ");
    syl_dim dims = table->dims[1];
    if (dims.symbol || dims.size % 2 || dims.size > size)
        return bad_shapes(op, diag, 0, 1, "the table must be even and at most a head wide");
    *out = *x;
    out->dtype = SYL_f32;
    return SYL_OK;
}

static syl_status need_kv_layer(const syl_op *op, syl_diag *diag, int i) {
    const syl_type *kv = type_in(op, i);
    if (kv->kind != SYL_KV || kv->rank != 3) return bad_operand(op, diag, i, "a kv cache");
    int64_t layer = syl_attr_int(op, "layer");
    if (layer < 0 || layer >= kv->dims[0].size)
        return FAIL(op, diag, attribute, "%s: layer %lld is not in %s", name_of(op), (long long)layer,
                    text_of(kv).s);
    return SYL_OK;
}

/* The clip of keys or values, which only codes have. */
static syl_status check_clip(const syl_op *op, syl_diag *diag, const char *name, syl_kv_store store) {
    if (!syl_attr_get(op, name)) return SYL_OK;
    double clip = syl_attr_float(op, name);
    if (!store.bits)
        return FAIL(op, diag, attribute, "kv_append: %s is given, but %s does not quantize", name,
                    text_of(type_in(op, 0)).s);
    if (clip <= 0 || clip > 1)
        return FAIL(op, diag, attribute, "kv_append: %s is %g, expected more than 0 and at most 1", name,
                    clip);
    return SYL_OK;
}

static syl_status infer_kv_append(const syl_op *op, syl_diag *diag, syl_type *out) {
    SYL_TRY(need_kv_layer(op, diag, 0));
    const syl_type *kv = type_in(op, 0), *k = type_in(op, 1);
    int64_t width;
    if (__builtin_mul_overflow(kv->dims[1].size, kv->dims[2].size, &width))
        return FAIL(op, diag, shape, "kv_append: the sizes overflow");
    for (int i = 1; i <= 2; i++) {
        SYL_TRY(need_float(op, diag, i, 2));
        if (!syl_dim_equal(type_in(op, i)->dims[1], syl_size(width)))
            return bad_shapes(op, diag, 0, i, "the columns are not kv_heads * head_dim");
    }
    if (!syl_dim_equal(k->dims[0], type_in(op, 2)->dims[0]))
        return bad_shapes(op, diag, 1, 2, "the numbers of rows differ");
    for (int i = 3; i <= 4; i++) {
        SYL_TRY(need_indices(op, diag, i, NULL));
        if (!syl_dim_equal(k->dims[0], type_in(op, i)->dims[0]))
            return bad_shapes(op, diag, 1, i, "the numbers of rows differ");
    }
    SYL_TRY(check_clip(op, diag, "k_clip", kv->k));
    SYL_TRY(check_clip(op, diag, "v_clip", kv->v));
    *out = *kv;
    return SYL_OK;
}

static syl_status infer_attention(const syl_op *op, syl_diag *diag, syl_type *out) {
    SYL_TRY(need_float(op, diag, 0, 2));
    SYL_TRY(need_kv_layer(op, diag, 1));
    const syl_type *q = type_in(op, 0), *kv = type_in(op, 1);
    int64_t heads = syl_attr_int(op, "heads"), size;
    SYL_TRY(head_size(op, diag, 0, heads, &size));
    if (size != kv->dims[2].size) return bad_shapes(op, diag, 0, 1, "the heads differ in size");
    if (heads % kv->dims[1].size)
        return FAIL(op, diag, shape, "attention: %lld heads are not a multiple of the %lld heads of %s",
                    (long long)heads, (long long)kv->dims[1].size, text_of(kv).s);
    SYL_TRY(need_indices(op, diag, 2, &q->dims[0]));
    SYL_TRY(need_indices(op, diag, 3, &q->dims[0]));
    *out = *q;
    out->dtype = SYL_f32;
    return SYL_OK;
}

static syl_status infer_timestep_embedding(const syl_op *op, syl_diag *diag, syl_type *out) {
    SYL_TRY(need_float(op, diag, 0, 1));
    int64_t dims = syl_attr_int(op, "dims");
    if (dims < 2 || dims % 2 || dims > 1 << 20)
        return FAIL(op, diag, attribute,
                    "timestep_embedding: dims is %lld, expected an even number in 2..1048576",
                    (long long)dims);
    if (syl_attr_float(op, "base") <= 0)
        return FAIL(op, diag, attribute, "timestep_embedding: base must be positive");
    *out = syl_tensor2(SYL_f32, type_in(op, 0)->dims[0], syl_size(dims));
    return SYL_OK;
}

static syl_status infer_full_attention(const syl_op *op, syl_diag *diag, syl_type *out) {
    int64_t tokens = syl_attr_int(op, "tokens"), size;
    for (int i = 0; i < 3; i++) {
        SYL_TRY(need_float(op, diag, i, 2));
        SYL_TRY(head_size(op, diag, i, syl_attr_int(op, "heads"), &size));
        if (!same_shape(type_in(op, i), type_in(op, 0)))
            return bad_shapes(op, diag, 0, i, "their shapes differ");
    }
    syl_dim rows = type_in(op, 0)->dims[0];
    if (tokens < 1) return FAIL(op, diag, attribute, "full_attention: tokens is %lld", (long long)tokens);
    if (!rows.symbol && rows.size % tokens)
        return FAIL(op, diag, shape, "full_attention: the rows of %s are not sequences of %lld",
                    text_of(type_in(op, 0)).s, (long long)tokens);
    *out = *type_in(op, 0);
    out->dtype = SYL_f32;
    return SYL_OK;
}

/* Sizes of patchify's two sides: a picture's elements, a patch's, patches of a picture. */
typedef struct patch_sizes {
    int64_t picture, patch, count;
} patch_sizes;

static syl_status find_patch_sizes(const syl_op *op, syl_diag *diag, patch_sizes *out) {
    int64_t channels = syl_attr_int(op, "channels"), height = syl_attr_int(op, "height"),
            width = syl_attr_int(op, "width"), patch = syl_attr_int(op, "patch"),
            sizes[] = {channels, height, width, patch};
    for (int i = 0; i < 4; i++)
        if (sizes[i] < 1 || sizes[i] > SYL_PICTURE_MAX)
            return FAIL(
                op, diag, attribute,
                "%s: channels, height, width and patch are %lld, %lld, %lld and %lld, expected 1 to %d each",
                name_of(op), (long long)channels, (long long)height, (long long)width, (long long)patch,
                SYL_PICTURE_MAX);
    if (height % patch || width % patch)
        return FAIL(op, diag, attribute, "%s: squares of %lld do not fill %lld x %lld", name_of(op),
                    (long long)patch, (long long)height, (long long)width);
    if (channels * height * width > SYL_PICTURE_MAX_ELEMENTS) /* at most 2^48 */
        return FAIL(op, diag, attribute, "%s: a picture has %lld elements, expected at most %d", name_of(op),
                    (long long)(channels * height * width), SYL_PICTURE_MAX_ELEMENTS);
    *out =
        (patch_sizes){channels * height * width, channels * patch * patch, height / patch * (width / patch)};
    return SYL_OK;
}

static bool is_argument_symbol(const syl_op *op, syl_dim dim) {
    const syl_func *func = op->parent ? op->parent->func : NULL;
    for (int i = 0; func && i < func->n_args; i++)
        for (int k = 0; k < func->args[i].type.rank; k++)
            if (syl_dim_equal(func->args[i].type.dims[k], dim)) return true;
    return false;
}

/* The rows of the result are as declared: nothing else says which symbol they are. What can be checked here is: fixed numbers, or two
 * symbols that arguments bind. */
static syl_status declared_rows(const syl_op *op, syl_diag *diag, int64_t times, bool cuts, syl_dim *out) {
    const syl_type *declared = &op->results[0].type;
    if (declared->kind != SYL_TENSOR || declared->rank != 2)
        return FAIL(op, diag, shape, "%s: the result must be declared as a matrix", name_of(op));
    syl_dim from = type_in(op, 0)->dims[0], to = declared->dims[0], pictures = cuts ? from : to,
            patches = cuts ? to : from;
    bool fits = pictures.symbol && patches.symbol
                    ? !syl_dim_equal(pictures, patches) || times == 1
                    : !pictures.symbol && !patches.symbol && pictures.size <= INT64_MAX / times &&
                          pictures.size * times == patches.size;
    if (!fits)
        return FAIL(op, diag, shape, "%s: %s to %s: the rows of patches are %lld times those of pictures",
                    name_of(op), text_of(type_in(op, 0)).s, text_of(declared).s, (long long)times);
    if (to.symbol && !is_argument_symbol(op, to))
        return FAIL(op, diag, shape, "%s: the rows of %s are declared, but no argument has %s", name_of(op),
                    text_of(declared).s, to.symbol);
    *out = to;
    return SYL_OK;
}

static syl_status infer_patches(const syl_op *op, syl_diag *diag, bool cuts, syl_type *out) {
    patch_sizes sizes;
    syl_dim rows;
    SYL_TRY(need_float(op, diag, 0, 2));
    SYL_TRY(find_patch_sizes(op, diag, &sizes));
    int64_t cols = cuts ? sizes.picture : sizes.patch;
    syl_dim given = type_in(op, 0)->dims[1];
    if (given.symbol || given.size != cols)
        return FAIL(op, diag, shape, "%s: rows of %s are not %lld elements, a %s", name_of(op),
                    text_of(type_in(op, 0)).s, (long long)cols, cuts ? "picture" : "patch");
    SYL_TRY(declared_rows(op, diag, sizes.count, cuts, &rows));
    *out = syl_tensor2(SYL_f32, rows, syl_size(cuts ? sizes.patch : sizes.picture));
    return SYL_OK;
}

static syl_status infer_patchify(const syl_op *op, syl_diag *diag, syl_type *out) {
    return infer_patches(op, diag, true, out);
}

static syl_status infer_unpatchify(const syl_op *op, syl_diag *diag, syl_type *out) {
    return infer_patches(op, diag, false, out);
}

/* ---- structure ---- */

static syl_status infer_fused(const syl_op *op, syl_diag *diag, syl_type *out) {
    const syl_op *yield = op->body ? op->body->last : NULL;
    if (!syl_op_is(yield, SYL_OP_yield))
        return FAIL(op, diag, structure, "fused: the region does not end with yield");
    if (yield->n_operands != op->n_results)
        return syl_error(diag, SYL_ERR_ir_structure, yield->loc,
                         "yield has %d operands, the fused has %d results", yield->n_operands, op->n_results);
    const syl_attr *slots = syl_attr_get(op, "slots");
    if (slots && slots->ints.n != op->n_results)
        return FAIL(op, diag, attribute, "fused: slots has %d numbers for %d results", slots->ints.n,
                    op->n_results);
    for (int i = 0; slots && i < slots->ints.n; i++)
        if (slots->ints.p[i] < -1)
            return FAIL(op, diag, attribute, "fused: slot %lld, expected a number or -1 for none",
                        (long long)slots->ints.p[i]);
    for (int i = 0; i < op->n_results; i++) out[i] = *type_in(yield, i);
    return SYL_OK;
}

static syl_status infer_yield(const syl_op *op, syl_diag *diag, syl_type *out) {
    (void)op, (void)diag, (void)out;
    return SYL_OK;
}

static syl_status infer_return(const syl_op *op, syl_diag *diag, syl_type *out) {
    return infer_yield(op, diag, out);
}

static infer_fn *const rules[SYL_OP_COUNT] = {
#define OP(ident, name, min, max, results, attrs, traits, doc) infer_##ident,
#include "ir/ops.def"
};

syl_status syl_infer(const syl_op *op, syl_diag *diag, syl_type *types) {
    SYL_TRY(check_form(op, diag));
    return rules[op->code](op, diag, types);
}
