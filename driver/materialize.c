/* The work of materialize (materialize.h): evaluating blocks of rows and rounding them. The roots and their
 * expressions are found in materialize_plan.c.
 *
 * A value is a matrix of `rows` x `cols` doubles; a vector has one column. Rows [begin, end) of a value are
 * computed from rows of its operands: the same rows where the op works along axis 1 or element by element,
 * whole Hadamard blocks of rows where it transforms axis 0. Blocks of a root are cut at multiples of its
 * granule, so that no row is computed twice. */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/hadamard.h"
#include "base/numeric.h"
#include "base/size.h"
#include "driver/materialize_plan.h"
#include "ir/ref/ref.h"

enum { BLOCK_ELEMENTS = 256 << 10 };

typedef struct run_state {
    syl_materializer *m;
    syl_materialize_sink sink;
    void *sink_user;
    syl_materialize_progress progress;
    void *progress_user;
    pthread_mutex_t lock; /* progress */
    int64_t done, total;  /* elements */
    atomic_int status;    /* of the first failure */
} run_state;

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

static syl_status store_quantized(run_state *run, const mat_root *root, int64_t begin, int64_t end,
                                  const double *x) {
    int64_t rows = end - begin, cols = root->node->cols;
    int8_t *codes = syl_alloc_aligned((size_t)(rows * cols));
    float *scales = syl_alloc_aligned((size_t)rows * sizeof *scales);
    bool mse = strcmp(syl_attr_str(root->op, "clip"), "mse") == 0;
    syl_status status = SYL_OK;
    if (!codes || !scales || !syl_ref_quantize(x, rows, cols, mse, codes, scales))
        status = no_memory(run, root->name);
    for (int64_t i = 0; status == SYL_OK && i < rows; i++) {
        if (!isfinite(scales[i])) status = too_large(run, root, x[i * cols]);
    }
    if (status == SYL_OK)
        status =
            run->sink(run->sink_user, root->name, 0, (size_t)(begin * cols), codes, (size_t)(rows * cols));
    if (status == SYL_OK) {
        status = run->sink(run->sink_user, root->name, 1, (size_t)begin * sizeof *scales, scales,
                           (size_t)rows * sizeof *scales);
    }
    free(codes);
    free(scales);
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

static syl_status run_task(run_state *run, const mat_task *task) {
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

static void run_tasks(void *user, int64_t begin, int64_t end, int thread) {
    (void)thread;
    run_state *run = user;
    for (int64_t t = begin; t < end; t++) {
        if (atomic_load_explicit(&run->status, memory_order_relaxed) != SYL_OK) return;
        const mat_task *task = &run->m->tasks.p[t];
        syl_status status = run_task(run, task);
        if (status != SYL_OK) {
            int expected = SYL_OK;
            atomic_compare_exchange_strong(&run->status, &expected, status);
            return;
        }
        pthread_mutex_lock(&run->lock);
        run->done += (task->end - task->begin) * run->m->roots.p[task->root].node->cols;
        if (run->progress) run->progress(run->progress_user, run->done, run->total);
        pthread_mutex_unlock(&run->lock);
    }
}

/* ---- the whole ---- */

static int64_t greatest_divisor(int64_t a, int64_t b) {
    return b ? greatest_divisor(b, a % b) : a;
}

/* The row count that blocks of `node` should be multiples of; at most its rows. */
static int64_t granule(const mat_node *node) {
    int64_t result = node->op->code == SYL_OP_hadamard && node->axis == 0 ? node->block : 1;
    int n = node->op->code == SYL_OP_scale ? 1 : node->n_inputs;
    for (int i = 0; i < n; i++) {
        int64_t g = granule(node->inputs[i]);
        result = result / greatest_divisor(result, g) * g;
        if (result >= node->rows) return node->rows;
    }
    return result;
}

static void cut_into_tasks(syl_materializer *m) {
    m->tasks.n = 0;
    for (size_t r = 0; r < m->roots.n; r++) {
        const mat_node *node = m->roots.p[r].node;
        int64_t unit = granule(node), rows = syl_ceil_div(BLOCK_ELEMENTS, node->cols);
        rows = syl_ceil_div(rows, unit) * unit;
        for (int64_t begin = 0; begin < node->rows; begin += rows) {
            int64_t end = begin + rows < node->rows ? begin + rows : node->rows;
            SYL_PUSH(&m->arena, &m->tasks, (mat_task){r, begin, end});
        }
    }
}

syl_status syl_materialize_run(syl_materializer *m, syl_pool *pool, syl_materialize_sink sink,
                               void *sink_user, syl_materialize_progress progress, void *progress_user) {
    cut_into_tasks(m);
    run_state run = {
        .m = m, .sink = sink, .sink_user = sink_user, .progress = progress, .progress_user = progress_user};
    for (size_t r = 0; r < m->roots.n; r++) run.total += m->roots.p[r].node->rows * m->roots.p[r].node->cols;
    pthread_mutex_init(&run.lock, NULL);
    syl_pool_for(pool, (int64_t)m->tasks.n, 1, run_tasks, &run);
    pthread_mutex_destroy(&run.lock);
    return (syl_status)atomic_load(&run.status);
}
