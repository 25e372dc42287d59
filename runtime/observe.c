/* Which steps make named values, and the way back to the graph's basis (observe.h).
 *
 * The way back is found in the final IR alone. Values that must be in the graph's basis are known: arguments and results of the
 * function, and whatever an op reads or makes that does not commute with rotations (a gate, a rotary embedding, a gain).
 * From there it spreads through ops that commute (add, take, a norm without gain), and through transforms at run time
 * in both directions. Where it does not reach (attention, a linear with a folded rotation and no online transform near),
 * the value is known up to a rotation. */
#include "runtime/observe.h"

#include <stdlib.h>
#include <string.h>

#include "base/hadamard.h"
#include "base/map.h"
#include "base/numeric.h"
#include "base/size.h"

/* ---- ways ---- */

static bool inverse_pair(const syl_turn_op *a, const syl_turn_op *b) {
    if (a->hadamard != b->hadamard) return false;
    if (!a->hadamard) return a->seed == b->seed && a->period == b->period;
    return a->transpose != b->transpose && a->n_factors == b->n_factors &&
           memcmp(a->factors, b->factors, (size_t)a->n_factors * sizeof *a->factors) == 0;
}

/* Appends a transform, or takes the last away where it is the inverse. */
static void append(syl_arena *arena, syl_turn_list *way, syl_turn_op turn) {
    if (way->n && inverse_pair(&way->p[way->n - 1], &turn)) {
        way->n--;
    } else {
        SYL_PUSH(arena, way, turn);
    }
}

static syl_turn_op turn_of(const syl_op *op, bool inverse) {
    syl_turn_op turn = {.hadamard = op->code == SYL_OP_hadamard};
    if (!turn.hadamard) {
        turn.seed = syl_attr_int(op, "seed");
        turn.period = syl_attr_int(op, "period");
        return turn;
    }
    const syl_attr *factors = syl_attr_get(op, "factors");
    turn.transpose = syl_attr_bool(op, "transpose") != inverse;
    turn.factors = factors->ints.p;
    turn.n_factors = factors->ints.n;
    return turn;
}

static bool is_turn(const syl_op *op) {
    return (op->code == SYL_OP_hadamard || op->code == SYL_OP_signs) && syl_result(op)->type.rank == 2 &&
           syl_attr_int(op, "axis") == 1;
}

/* ---- what is known ---- */

typedef struct basis {
    bool known;
    syl_turn_list way; /* from the value to the graph's basis */
} basis;

typedef struct search {
    syl_arena *arena;
    syl_map map; /* value -> basis */
    bool changed;
} search;

static basis *basis_of(search *s, const syl_value *value) {
    void **slot = syl_map_slot(&s->map, &value, sizeof value, NULL);
    if (!*slot) *slot = SYL_NEW(s->arena, basis);
    return *slot;
}

static void fix(search *s, const syl_value *value) {
    basis *b = basis_of(s, value);
    s->changed = s->changed || !b->known;
    b->known = true;
}

/* b gets what is known of a, with `first` (may be NULL) in front of the way. */
static void spread(search *s, const basis *a, const syl_turn_op *first, basis *b) {
    if (!a->known || b->known) return;
    if (first) append(s->arena, &b->way, *first);
    for (size_t i = 0; i < a->way.n; i++) append(s->arena, &b->way, a->way.p[i]);
    b->known = s->changed = true;
}

static void link(search *s, const syl_value *x, const syl_value *y) {
    basis *a = basis_of(s, x), *b = basis_of(s, y);
    spread(s, a, NULL, b);
    spread(s, b, NULL, a);
}

static void visit(search *s, const syl_op *op) {
    switch (op->code) {
    case SYL_OP_yield:
        for (int i = 0; i < op->n_operands; i++) link(s, syl_operand(op, i), &op->parent->owner->results[i]);
        return;
    case SYL_OP_add:
        link(s, syl_operand(op, 0), syl_result(op));
        link(s, syl_operand(op, 1), syl_result(op));
        return;
    case SYL_OP_take:
    case SYL_OP_cast:
    case SYL_OP_quantize:
    case SYL_OP_dequantize:
        link(s, syl_operand(op, 0), syl_result(op));
        return;
    case SYL_OP_hadamard:
    case SYL_OP_signs:
        if (is_turn(op)) {
            syl_turn_op there = turn_of(op, false), back = turn_of(op, true);
            basis *x = basis_of(s, syl_operand(op, 0)), *y = basis_of(s, syl_result(op));
            spread(s, x, &back, y);
            spread(s, y, &there, x);
        }
        return;
    case SYL_OP_weight:
    case SYL_OP_materialized:
    case SYL_OP_embedding: /* rows, outputs and values may have a rotation folded in */
    case SYL_OP_linear:
    case SYL_OP_low_rank_split:
    case SYL_OP_kv_append:
    case SYL_OP_attention:
    case SYL_OP_full_attention:
    case SYL_OP_slice: /* of joined linears */
    case SYL_OP_concat:
    case SYL_OP_fused:
        return;
    case SYL_OP_rms_norm:
        if (op->n_operands == 1 && syl_attr_int(op, "heads") <= 1) {
            link(s, syl_operand(op, 0), syl_result(op));
            return;
        }
        break;
    default:
        break;
    }
    for (int i = 0; i < op->n_operands; i++) fix(s, syl_operand(op, i));
    for (int i = 0; i < op->n_results; i++) fix(s, &op->results[i]);
}

static void visit_block(search *s, const syl_block *block, bool forward) {
    for (const syl_op *op = forward ? block->first : block->last; op; op = forward ? op->next : op->prev) {
        visit(s, op);
        if (op->body) visit_block(s, op->body, forward);
    }
}

static void find_bases(search *s, const syl_func *func) {
    for (int i = 0; i < func->n_args; i++) fix(s, &func->args[i]);
    do {
        s->changed = false;
        visit_block(s, func->body, true);
        visit_block(s, func->body, false);
    } while (s->changed);
}

/* ---- points ---- */

/* The argument of the step that is the written buffer of that kind and number, or -1. */
static int written(const syl_plan *plan, const syl_plan_step *step, syl_arg_kind kind, int index,
                   kir_shape shape) {
    const kir_kernel *kernel = plan->kernels.p[step->kernel];
    for (int i = 0; i < step->n_args; i++) {
        const kir_buffer *buffer = &kernel->buffers.p[i];
        if (step->args[i].kind == kind && step->args[i].index == index && buffer->written &&
            buffer->shape == shape && (shape != KIR_MATRIX || buffer->stride == buffer->cols))
            return i;
    }
    return -1;
}

static bool find_buffers(const syl_plan *plan, const syl_plan_step *step, int result, const syl_op *ret,
                         syl_point *point) {
    const syl_attr *slots = syl_attr_get(step->op, "slots");
    bool codes = syl_dtypes[point->dtype].class == SYL_CLASS_QUANT;
    point->scale = -1;
    point->tiled = false;
    for (int i = 0; i < ret->n_operands; i++) {
        if (syl_operand(ret, i) != &step->op->results[result]) continue;
        point->data = written(plan, step, SYL_ARG_OUTPUT, i, KIR_MATRIX);
        return point->data >= 0 && !codes;
    }
    if (!slots || slots->ints.n <= result || slots->ints.p[result] < 0) return false;
    int slot = (int)slots->ints.p[result];
    point->data = written(plan, step, SYL_ARG_SLOT, 2 * slot, KIR_MATRIX);
    if (point->data < 0) {
        point->data = written(plan, step, SYL_ARG_SLOT, 2 * slot, KIR_TILED);
        point->tiled = point->data >= 0;
    }
    if (codes) point->scale = written(plan, step, SYL_ARG_SLOT, 2 * slot + 1, KIR_PER_ROW);
    return point->data >= 0 && (!codes || point->scale >= 0);
}

/* Floats, and the codes that activations have. */
static bool is_readable(syl_dtype dtype) {
    const syl_dtype_info *info = &syl_dtypes[dtype];
    return info->class == SYL_CLASS_FLOAT ||
           (info->class == SYL_CLASS_QUANT && info->bits == 8 && !syl_is_weight_scheme(dtype));
}

/* Follows what is yielded back through quantization and transforms to a value that has a name, and finds the way to it and on. */
static void add_point(search *s, syl_points *out, size_t number, int result, const syl_op *ret) {
    const syl_plan_step *step = &out->plan->steps.p[number];
    const syl_value *outer = &step->op->results[result], *inner = syl_operand(step->op->body->last, result);
    syl_point point = {.step = number, .dtype = outer->type.dtype};
    if (outer->type.kind != SYL_TENSOR || outer->type.rank != 2 || !is_readable(point.dtype)) return;
    point.cols = outer->type.dims[1].size;
    if (!find_buffers(out->plan, step, result, ret, &point)) return;
    while (inner->def && inner->def->parent == step->op->body &&
           (is_turn(inner->def) || inner->def->code == SYL_OP_quantize)) {
        if (is_turn(inner->def)) append(s->arena, &point.undo, turn_of(inner->def, true));
        inner = syl_operand(inner->def, 0);
    }
    point.name = point.undo.n == 0 && outer->name ? outer->name : inner->name;
    if (!point.name || !inner->def || inner->def->parent != step->op->body) return;
    const basis *b = basis_of(s, inner);
    for (size_t i = 0; b->known && i < b->way.n; i++) append(s->arena, &point.undo, b->way.p[i]);
    point.meaning = b->known ? SYL_MEANING_SAME : SYL_MEANING_ROTATED;
    if (inner->def->code == SYL_OP_rms_norm && inner->def->n_operands == 1)
        point.meaning = SYL_MEANING_SCALED;
    SYL_PUSH(s->arena, &out->list, point);
}

void syl_points_find(const syl_plan *plan, syl_arena *arena, syl_points *out) {
    search s = {.arena = arena};
    syl_map_init(&s.map, arena);
    *out = (syl_points){.plan = plan};
    if (!plan->steps.n) return;
    const syl_func *func = plan->steps.p[0].op->parent->func;
    find_bases(&s, func);
    for (size_t i = 0; i < plan->steps.n; i++)
        for (int r = 0; r < plan->steps.p[i].op->n_results; r++) add_point(&s, out, i, r, func->body->last);
}

/* ---- reading ---- */

static void decode(const syl_point *point, const unsigned char *data, float scale, double *row) {
    for (int64_t c = 0; c < point->cols; c++) {
        uint16_t half;
        float value;
        switch (point->dtype) {
        case SYL_f32:
            memcpy(&value, data + 4 * c, sizeof value);
            break;
        case SYL_bf16:
        case SYL_f16:
            memcpy(&half, data + 2 * c, sizeof half);
            value = point->dtype == SYL_bf16 ? syl_bf16_to_f32(half) : syl_f16_to_f32(half);
            break;
        default:
            value = (float)(int8_t)data[c] * scale;
            break;
        }
        row[c] = (double)value;
    }
}

static void turn_row(const syl_turn_op *turn, int64_t n, double *row, double *work) {
    if (turn->hadamard) {
        syl_hadamard_apply_f64(row, n, turn->factors, turn->n_factors, turn->transpose, work);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        row[i] *= syl_random_sign((uint64_t)turn->seed, (uint64_t)(turn->period ? i % turn->period : i));
}

/* What is read of a point: rows of elements or codes, and a scale for each. */
typedef struct rows_read {
    size_t row_bytes, n;
    unsigned char *data, *tiles;
    float *scales;
    double *row; /* and as much room for a transform */
} rows_read;

static syl_status no_memory(const syl_step_view *view, const char *name) {
    return syl_error(view->diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory to read \"%s\"", name);
}

static syl_status peek(const syl_step_view *view, int arg, size_t offset, size_t size, void *out) {
    const syl_engine *engine = view->runner->engine;
    return engine->backend->peek(view->runner, &engine->plan->steps.p[view->step].args[arg], offset, size,
                                 view->diag, out);
}

/* Each 128 bytes of k are a piece of their own: of it the atoms of the rows are read, then each row is taken out of its atom (KIR_TILED). */
static syl_status read_tiles(const syl_point *point, const syl_step_view *view, size_t begin, rows_read *r) {
    enum { ATOM = KIR_ATOM_ROWS * KIR_ATOM_BYTES, UNIT = 16 };
    size_t atoms = syl_ceil_div((size_t)view->rows, KIR_ATOM_ROWS), first = begin / KIR_ATOM_ROWS,
           n = syl_ceil_div(begin + r->n, KIR_ATOM_ROWS) - first, bytes;
    if (!syl_size_mul(n, ATOM, &bytes) || !(r->tiles = malloc(bytes + 1)))
        return no_memory(view, point->name);
    for (size_t k = 0; k < r->row_bytes; k += KIR_ATOM_BYTES) {
        SYL_TRY(peek(view, point->data, (k / KIR_ATOM_BYTES * atoms + first) * ATOM, bytes, r->tiles));
        for (size_t i = begin; i < begin + r->n; i++) {
            const unsigned char *line =
                r->tiles + (i / KIR_ATOM_ROWS - first) * ATOM + i % KIR_ATOM_ROWS * KIR_ATOM_BYTES;
            unsigned char *to = r->data + (i - begin) * r->row_bytes + k;
            for (size_t b = 0; b < KIR_ATOM_BYTES && k + b < r->row_bytes; b++)
                to[b] = line[((b / UNIT) ^ (i % KIR_ATOM_ROWS)) * UNIT + b % UNIT];
        }
    }
    return SYL_OK;
}

static syl_status read_bytes(const syl_point *point, const syl_step_view *view, size_t begin, rows_read *r) {
    size_t bytes;
    if (!syl_size_mul(r->n, r->row_bytes, &bytes)) return no_memory(view, point->name);
    r->data = malloc(bytes + 1);
    r->scales = malloc(r->n * sizeof *r->scales + 1);
    r->row = malloc(2 * (size_t)point->cols * sizeof *r->row);
    if (!r->data || !r->scales || !r->row) return no_memory(view, point->name);
    if (point->tiled) {
        SYL_TRY(read_tiles(point, view, begin, r));
    } else {
        SYL_TRY(peek(view, point->data, begin * r->row_bytes, bytes, r->data));
    }
    if (point->scale < 0) return SYL_OK;
    return peek(view, point->scale, begin * sizeof *r->scales, r->n * sizeof *r->scales, r->scales);
}

syl_status syl_point_read(const syl_point *point, const syl_step_view *view, int64_t begin, int64_t end,
                          float *out) {
    rows_read r = {.row_bytes = (size_t)point->cols * syl_dtypes[point->dtype].bits / 8,
                   .n = (size_t)(end - begin)};
    syl_status status = begin < end ? read_bytes(point, view, (size_t)begin, &r) : SYL_OK;
    for (size_t i = 0; i < r.n && status == SYL_OK; i++) {
        decode(point, r.data + i * r.row_bytes, point->scale >= 0 ? r.scales[i] : 1, r.row);
        for (size_t k = 0; k < point->undo.n; k++)
            turn_row(&point->undo.p[k], point->cols, r.row, r.row + point->cols);
        for (int64_t c = 0; c < point->cols; c++) *out++ = (float)r.row[c];
    }
    free(r.data);
    free(r.tiles);
    free(r.scales);
    free(r.row);
    if (*view->status == SYL_OK) *view->status = status;
    return status;
}

syl_status syl_observe_step(syl_runner *runner, size_t step, int64_t rows, syl_diag *diag) {
    syl_status status = SYL_OK;
    syl_step_view view = {runner, step, rows, diag, &status};
    runner->observer.step(runner->observer.user, &view);
    return status;
}
