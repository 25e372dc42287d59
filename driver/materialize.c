/* The work of materialize (materialize.h): evaluating blocks of rows and rounding them. The roots and their
 * expressions are found in materialize_plan.c, the work is handed out in materialize_run.c.
 *
 * A value is a matrix of `rows` x `cols` doubles; a vector has one column. Rows [begin, end) of a value are
 * computed from rows of its operands: the same rows where the op works along axis 1 or element by element,
 * whole Hadamard blocks of rows where it transforms axis 0, the whole operand where it is decomposed. Blocks of
 * a root are cut at multiples of its granule (materialize_run.c), so that no row is computed twice. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/hadamard.h"
#include "base/numeric.h"
#include "base/size.h"
#include "driver/materialize_plan.h"
#include "ir/ref/ref.h"
#include "runtime/artifact.h"

static syl_status no_memory(run_state *run, const char *name) {
    return syl_error(run->m->diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory to evaluate \"%s\"", name);
}

/* ---- evaluation ---- */

static syl_status evaluate(run_state *run, const mat_node *node, int64_t begin, int64_t end, double *out);

static double *make_block(int64_t rows, int64_t cols) {
    size_t cells, bytes;
    if (!syl_size_mul((size_t)rows, (size_t)cols, &cells) || !syl_size_mul(cells, sizeof(double), &bytes))
        return NULL;
    return syl_alloc_aligned(bytes);
}

static syl_status evaluate_weight(run_state *run, const mat_node *node, int64_t begin, int64_t end,
                                  double *out) {
    const char *name = syl_attr_str(node->op, "name");
    const syl_weights *weights = run->m->sources[syl_attr_int(node->op, "source")];
    SYL_TRY(syl_weights_read(weights, name, begin, end, run->m->diag, out));
    for (int64_t i = 0; i < (end - begin) * node->cols; i++) {
        if (!isfinite(out[i])) {
            return syl_error(run->m->diag, SYL_ERR_materialize_value, node->op->loc,
                             "element [%lld, %lld] of weight \"%s\" is %s",
                             (long long)(begin + i / node->cols), (long long)(i % node->cols), name,
                             isnan(out[i]) ? "not a number" : "infinite");
        }
    }
    return SYL_OK;
}

static syl_status evaluate_scale(run_state *run, const mat_node *node, int64_t begin, int64_t end,
                                 double *out) {
    SYL_TRY(evaluate(run, node->inputs[0], begin, end, out));
    const mat_node *vector = node->inputs[1];
    bool along_rows = node->axis == 0;
    int64_t v_begin = along_rows ? begin : 0, v_end = along_rows ? end : vector->rows;
    double *v = make_block(v_end - v_begin, 1);
    if (!v) return no_memory(run, "scale");
    syl_status status = evaluate(run, vector, v_begin, v_end, v);
    if (status == SYL_OK) {
        syl_ref_scale(out, along_rows ? 1 : end - begin, along_rows ? end - begin : node->cols,
                      along_rows ? node->cols : 1, v);
    }
    free(v);
    return status;
}

static syl_status evaluate_signs(run_state *run, const mat_node *node, int64_t begin, int64_t end,
                                 double *out) {
    int64_t seed = syl_attr_int(node->op, "seed"), period = syl_attr_int(node->op, "period");
    SYL_TRY(evaluate(run, node->inputs[0], begin, end, out));
    if (node->axis == 1) {
        syl_ref_signs(out, end - begin, node->cols, 1, seed, period);
        return SYL_OK;
    }
    if (period == 0) period = node->rows;
    for (int64_t row = begin; row < end; row++) {
        double sign = syl_random_sign((uint64_t)seed, (uint64_t)(row % period));
        for (int64_t c = 0; c < node->cols; c++) out[(row - begin) * node->cols + c] *= sign;
    }
    return SYL_OK;
}

static syl_status evaluate_hadamard(run_state *run, const mat_node *node, int64_t begin, int64_t end,
                                    double *out) {
    const syl_attr *factors = syl_attr_get(node->op, "factors");
    bool transpose = syl_attr_bool(node->op, "transpose"), ok;
    if (node->axis == 1) {
        SYL_TRY(evaluate(run, node->inputs[0], begin, end, out));
        ok = syl_ref_hadamard(out, end - begin, node->cols, 1, factors->ints.p, factors->ints.n, transpose);
        return ok ? SYL_OK : no_memory(run, "hadamard");
    }
    int64_t first = begin / node->block * node->block, last = syl_ceil_div(end, node->block) * node->block;
    double *rows = first == begin && last == end ? out : make_block(last - first, node->cols);
    if (!rows) return no_memory(run, "hadamard");
    syl_status status = evaluate(run, node->inputs[0], first, last, rows);
    if (status == SYL_OK &&
        !syl_ref_hadamard(rows, 1, last - first, node->cols, factors->ints.p, factors->ints.n, transpose)) {
        status = no_memory(run, "hadamard");
    }
    if (rows != out) {
        if (status == SYL_OK)
            memcpy(out, rows + (begin - first) * node->cols,
                   (size_t)((end - begin) * node->cols) * sizeof *out);
        free(rows);
    }
    return status;
}

/* Columns [at, at + count) of `out` from columns [from, from + count) of rows of `node`. */
static syl_status evaluate_columns(run_state *run, const mat_node *node, int64_t begin, int64_t end,
                                   int64_t from, int64_t count, double *out, int64_t out_cols, int64_t at) {
    double *block = make_block(end - begin, node->cols);
    if (!block) return no_memory(run, "columns");
    syl_status status = evaluate(run, node, begin, end, block);
    for (int64_t i = 0; status == SYL_OK && i < end - begin; i++) {
        memcpy(out + i * out_cols + at, block + i * node->cols + from, (size_t)count * sizeof *out);
    }
    free(block);
    return status;
}

static syl_status evaluate_concat(run_state *run, const mat_node *node, int64_t begin, int64_t end,
                                  double *out) {
    int64_t at = 0;
    for (int i = 0; i < node->n_inputs; i++) {
        const mat_node *input = node->inputs[i];
        if (node->axis == 1) {
            SYL_TRY(evaluate_columns(run, input, begin, end, 0, input->cols, out, node->cols, at));
            at += input->cols;
            continue;
        }
        int64_t from = begin > at ? begin - at : 0, to = end - at < input->rows ? end - at : input->rows;
        if (from < to) SYL_TRY(evaluate(run, input, from, to, out + (at + from - begin) * node->cols));
        at += input->rows;
    }
    return SYL_OK;
}

/* The factors of a split, found once. */
syl_status mat_find_factors(run_state *run, const mat_node *node) {
    mat_factors *factors = node->factors;
    const mat_node *input = node->inputs[0];
    int64_t rank = syl_attr_int(node->op, "rank");
    syl_status status = SYL_OK;
    pthread_mutex_lock(&factors->lock);
    if (!factors->d) {
        double *w = make_block(input->rows, input->cols);
        double *u = make_block(input->rows, rank), *d = make_block(rank, input->cols);
        if (!w || !u || !d) status = no_memory(run, "low_rank_split");
        if (status == SYL_OK) status = evaluate(run, input, 0, input->rows, w);
        if (status == SYL_OK) status = syl_ref_low_rank_factors(node->op, run->m->diag, w, u, d);
        free(w);
        if (status == SYL_OK) {
            factors->u = u;
            factors->d = d;
        } else {
            free(u);
            free(d);
        }
    }
    pthread_mutex_unlock(&factors->lock);
    return status;
}

/* Results: 0 is U, 1 is D, 2 is R = W - U D. */
static syl_status evaluate_split(run_state *run, const mat_node *node, int64_t begin, int64_t end,
                                 double *out) {
    SYL_TRY(mat_find_factors(run, node));
    const mat_factors *factors = node->factors;
    if (node->result < 2) {
        const double *all = node->result == 0 ? factors->u : factors->d;
        memcpy(out, all + begin * node->cols, (size_t)((end - begin) * node->cols) * sizeof *out);
        return SYL_OK;
    }
    SYL_TRY(evaluate(run, node->inputs[0], begin, end, out));
    syl_ref_low_rank_residual(node->op, end - begin, factors->u + begin * syl_attr_int(node->op, "rank"),
                              factors->d, out);
    return SYL_OK;
}

static syl_status evaluate(run_state *run, const mat_node *node, int64_t begin, int64_t end, double *out) {
    int64_t from = syl_attr_int(node->op, "begin");
    switch (node->op->code) {
    case SYL_OP_weight:
        return evaluate_weight(run, node, begin, end, out);
    case SYL_OP_scale:
        return evaluate_scale(run, node, begin, end, out);
    case SYL_OP_signs:
        return evaluate_signs(run, node, begin, end, out);
    case SYL_OP_hadamard:
        return evaluate_hadamard(run, node, begin, end, out);
    case SYL_OP_concat:
        return evaluate_concat(run, node, begin, end, out);
    case SYL_OP_low_rank_split:
        return evaluate_split(run, node, begin, end, out);
    case SYL_OP_slice:
        if (node->axis == 0) return evaluate(run, node->inputs[0], begin + from, end + from, out);
        return evaluate_columns(run, node->inputs[0], begin, end, from, node->cols, out, node->cols, 0);
    default:
        return syl_error(run->m->diag, SYL_ERR_internal, node->op->loc,
                         "op %s on the weight side has no evaluation", syl_ops[node->op->code].name);
    }
}

/* ---- rounding and storing ---- */

static syl_status too_large(run_state *run, const mat_root *root, double value) {
    return syl_error(run->m->diag, SYL_ERR_materialize_value, root->op->loc,
                     "\"%s\" has the value %g, too large for %s", root->name, value,
                     syl_dtypes[root->dtype].name);
}

/* Two 4-bit codes a byte, the low half first, in place. */
static void pack_codes(int8_t *codes, int64_t n) {
    uint8_t *bytes = (uint8_t *)codes;
    for (int64_t i = 0; i < n / 2; i++)
        bytes[i] = (uint8_t)((codes[2 * i] & 15) | (codes[2 * i + 1] & 15) << 4);
}

static syl_status store_quantized(run_state *run, const mat_root *root, int64_t begin, int64_t end,
                                  const double *x) {
    const syl_dtype_info *info = &syl_dtypes[root->dtype];
    int64_t rows = end - begin, cols = root->node->cols, groups = syl_row_groups(root->dtype, cols);
    int64_t scales = info->row_scale ? 1 : groups; /* of a row */
    syl_ref_codes out = {syl_alloc_aligned((size_t)(rows * cols)),
                         syl_alloc_aligned((size_t)(rows * scales) * sizeof *out.scales),
                         syl_alloc_aligned((size_t)(rows * groups)),
                         syl_alloc_aligned((size_t)(rows * groups))};
    bool mse = strcmp(syl_attr_str(root->op, "clip"), "mse") == 0;
    syl_status status = SYL_OK;
    if (!out.codes || !out.scales || !out.group_scale || !out.group_zero ||
        !syl_ref_quantize(x, rows, cols, root->dtype, mse, &out))
        status = no_memory(run, root->name);
    for (int64_t i = 0; status == SYL_OK && i < rows * scales; i++) {
        if (!isfinite(out.scales[i])) status = too_large(run, root, x[i * (cols / scales)]);
    }
    if (status == SYL_OK && info->bits == 4) pack_codes(out.codes, rows * cols);
    const struct {
        const void *data;
        int64_t row_bytes;
    } parts[SYL_STORED_PARTS] = {{out.codes, cols * info->bits / 8},
                                 {out.scales, scales * (int64_t)sizeof *out.scales},
                                 {out.group_scale, groups},
                                 {out.group_zero, groups}};
    for (int p = 0; p < (info->two_level ? 4 : 2) && status == SYL_OK; p++)
        status = run->sink(run->sink_user, root->name, p, (size_t)(begin * parts[p].row_bytes), parts[p].data,
                           (size_t)(rows * parts[p].row_bytes));
    free(out.codes);
    free(out.scales);
    free(out.group_scale);
    free(out.group_zero);
    return status;
}

/* Rounds in place: the result is never longer than the doubles it comes from. */
static syl_status store_float(run_state *run, const mat_root *root, int64_t begin, int64_t end, double *x) {
    int64_t n = (end - begin) * root->node->cols;
    unsigned char *bytes = (unsigned char *)x;
    size_t size = root->dtype == SYL_f32 ? 4 : 2;
    for (int64_t i = 0; i < n; i++) {
        double value = x[i];
        float f = (float)value;
        uint16_t h = root->dtype == SYL_bf16  ? syl_bf16_from_f64(value)
                     : root->dtype == SYL_f16 ? syl_f16_from_f64(value)
                                              : 0;
        float stored = root->dtype == SYL_bf16  ? syl_bf16_to_f32(h)
                       : root->dtype == SYL_f16 ? syl_f16_to_f32(h)
                                                : f;
        if (!isfinite(stored)) return too_large(run, root, value);
        memcpy(bytes + (size_t)i * size, size == 4 ? (const void *)&f : (const void *)&h, size);
    }
    return run->sink(run->sink_user, root->name, 0, (size_t)(begin * root->node->cols) * size, bytes,
                     (size_t)n * size);
}

syl_status mat_run_task(run_state *run, const mat_task *task) {
    const mat_root *root = &run->m->roots.p[task->root];
    double *block = make_block(task->end - task->begin, root->node->cols);
    if (!block) return no_memory(run, root->name);
    syl_status status = evaluate(run, root->node, task->begin, task->end, block);
    if (status == SYL_OK) {
        bool quantized = root->op->code == SYL_OP_quantize;
        status = quantized ? store_quantized(run, root, task->begin, task->end, block)
                           : store_float(run, root, task->begin, task->end, block);
    }
    free(block);
    return status;
}
