/* Runs functions op by op. Values that depend on no argument (the weight side) are evaluated when first read,
 * and every value is released behind its last use, so that a model needs little more memory than its largest
 * tensor. */
#include <stdlib.h>
#include <string.h>
#include "base/map.h"
#include "ir/ref/ops.h"

/* A value during a run. */
typedef struct slot {
    syl_ref_value value;
    int64_t readers; /* operands that still have to read it */
    bool known;      /* evaluated */
    bool constant;   /* depends on no argument */
} slot;

typedef struct symbol {
    const char *name;
    int64_t size;
} symbol;

typedef struct run {
    const syl_ref_weights *weights;
    syl_ref_precision precision;
    syl_diag *diag;
    syl_arena scratch;
    syl_map slots; /* const syl_value * -> slot * */
    SYL_VEC(symbol) symbols;
} run;

/* ---- slots ---- */

static slot *slot_of(run *r, const syl_value *value) {
    return syl_map_get(&r->slots, &value, sizeof value);
}

static slot *make_slot(run *r, const syl_value *value) {
    slot *s = SYL_NEW(&r->scratch, slot);
    for (const syl_use *use = value->uses; use; use = use->next) s->readers++;
    *syl_map_slot(&r->slots, &value, sizeof value, NULL) = s;
    return s;
}

static void drop(slot *s) {
    syl_ref_tensor_release(s->value.tensor);
    s->value = (syl_ref_value){0};
}

/* Takes over the reference in `value`. */
static void set_slot(slot *s, syl_ref_value value) {
    s->value = value;
    s->known = true;
    if (s->readers == 0) drop(s);
}

static void release_operands(run *r, const syl_op *op) {
    for (int i = 0; i < op->n_operands; i++) {
        slot *s = slot_of(r, syl_operand(op, i));
        if (--s->readers == 0) drop(s);
    }
}

/* ---- shapes ---- */

static const symbol *find_symbol(const run *r, const char *name) {
    for (size_t i = 0; i < r->symbols.n; i++)
        if (strcmp(r->symbols.p[i].name, name) == 0) return &r->symbols.p[i];
    return NULL;
}

static syl_status bind_arg(run *r, const syl_func *func, int index, const syl_ref_value *arg) {
    const syl_type *type = &func->args[index].type;
    const syl_ref_tensor *x = arg->tensor;
    if (type->kind == SYL_KV)
        return arg->kv ? SYL_OK
                       : syl_error(r->diag, SYL_ERR_ir_run, func->loc, "argument %d of @%s is no kv state",
                                   index + 1, func->name);
    if (!x || x->dtype != type->dtype || x->rank != type->rank)
        return syl_error(r->diag, SYL_ERR_ir_run, func->loc, "argument %d of @%s is no tensor of its type",
                         index + 1, func->name);
    for (int i = 0; i < type->rank; i++) {
        syl_dim dim = type->dims[i];
        const symbol *bound = dim.symbol ? find_symbol(r, dim.symbol) : NULL;
        if (dim.symbol && !bound) {
            SYL_PUSH(&r->scratch, &r->symbols, (symbol){dim.symbol, x->dims[i]});
            continue;
        }
        int64_t expected = bound ? bound->size : dim.size;
        if (x->dims[i] != expected)
            return syl_error(r->diag, SYL_ERR_ir_run, func->loc,
                             "argument %d of @%s has %lld elements in dimension %d, expected %lld", index + 1,
                             func->name, (long long)x->dims[i], i, (long long)expected);
    }
    return SYL_OK;
}

static syl_ref_tensor *allocate(const run *r, const syl_type *type) {
    int64_t dims[SYL_MAX_RANK];
    for (int i = 0; i < type->rank; i++) {
        const symbol *bound = type->dims[i].symbol ? find_symbol(r, type->dims[i].symbol) : NULL;
        dims[i] = bound ? bound->size : type->dims[i].size;
    }
    return syl_ref_tensor_create(type->dtype, type->rank, dims);
}

/* ---- ops ---- */

static syl_status read_weight(run *r, const syl_op *op, syl_ref_tensor *out) {
    const char *name = syl_attr_str(op, "name");
    const syl_type *type = &syl_result(op)->type;
    if (op->code == SYL_OP_weight)
        return r->weights->weight(r->weights->user, name, syl_attr_int(op, "source"), type, r->diag,
                                  out->data);
    if (!r->weights->materialized)
        return syl_error(r->diag, SYL_ERR_ir_run, op->loc, "nobody provides the stored tensor '%s'", name);
    return r->weights->materialized(r->weights->user, name, type, r->diag, out);
}

/* The weight side is always exact; so is what rounds it. */
static syl_ref_fn *function_for(const run *r, const syl_op *op, const syl_ref_tensor *out) {
    bool from_real = op->n_operands && syl_operand(op, 0)->type.dtype == SYL_real;
    bool exact = r->precision == SYL_REF_F64 || (out && out->dtype == SYL_real) || from_real;
    return exact ? syl_ref_ops_f64[op->code] : syl_ref_ops_f32[op->code];
}

static void round_result(const run *r, syl_ref_tensor *y) {
    if (r->precision != SYL_REF_F32 || !y || syl_dtypes[y->dtype].class != SYL_CLASS_FLOAT) return;
    for (int64_t i = 0, n = syl_ref_tensor_elements(y); i < n; i++)
        y->data[i] = syl_ref_round(y->dtype, y->data[i]);
}

/* Computes all results: outs[op->n_results]. */
static syl_status call_op(run *r, const syl_op *op, const syl_ref_value *in, syl_ref_value *outs) {
    bool room = true;
    for (int i = 0; i < op->n_results; i++) {
        outs[i] = (syl_ref_value){0};
        if (op->results[i].type.kind == SYL_KV)
            outs[i].kv = in[0].kv;
        else
            room = (outs[i].tensor = allocate(r, &op->results[i].type)) != NULL && room;
    }
    syl_ref_tensor *y = outs[0].tensor;
    syl_ref_call call = {.op = op, .in = in, .outs = outs, .out = y, .diag = r->diag};

    syl_status status;
    if (!room)
        status = syl_ref_no_memory(&call);
    else if (op->code == SYL_OP_weight || op->code == SYL_OP_materialized)
        status = read_weight(r, op, y);
    else
        status = function_for(r, op, y)(&call);
    for (int i = 0; i < op->n_results; i++) {
        if (status == SYL_OK)
            round_result(r, outs[i].tensor);
        else
            syl_ref_tensor_release(outs[i].tensor);
    }
    return status;
}

/* Evaluates the operands of `op` that wait for their first reader. */
static syl_status need_operands(run *r, const syl_op *op);

static syl_status evaluate(run *r, const syl_op *op) {
    SYL_TRY(need_operands(r, op));
    syl_ref_value *in = SYL_NEW_ARRAY(&r->scratch, syl_ref_value, (size_t)op->n_operands);
    syl_ref_value *outs = SYL_NEW_ARRAY(&r->scratch, syl_ref_value, (size_t)op->n_results);
    for (int i = 0; i < op->n_operands; i++) in[i] = slot_of(r, syl_operand(op, i))->value;
    SYL_TRY(call_op(r, op, in, outs));
    for (int i = 0; i < op->n_results; i++) set_slot(slot_of(r, &op->results[i]), outs[i]);
    release_operands(r, op);
    return SYL_OK;
}

static syl_status need_operands(run *r, const syl_op *op) {
    for (int i = 0; i < op->n_operands; i++) {
        const slot *s = slot_of(r, syl_operand(op, i));
        if (!s->known) SYL_TRY(evaluate(r, syl_operand(op, i)->def));
    }
    return SYL_OK;
}

static bool is_constant(run *r, const syl_op *op) {
    if (!syl_op_has(op, SYL_TRAIT_PURE)) return false;
    for (int i = 0; i < op->n_operands; i++)
        if (!slot_of(r, syl_operand(op, i))->constant) return false;
    return true;
}

/* Hands the operands of a terminator on: each out[i] gets a reference. */
static syl_status hand_on(run *r, const syl_op *terminator, syl_ref_value *out) {
    SYL_TRY(need_operands(r, terminator));
    for (int i = 0; i < terminator->n_operands; i++) {
        out[i] = slot_of(r, syl_operand(terminator, i))->value;
        if (out[i].tensor) syl_ref_tensor_share(out[i].tensor);
    }
    release_operands(r, terminator);
    return SYL_OK;
}

static syl_status run_block(run *r, const syl_block *block, syl_ref_value *out) {
    for (const syl_op *op = block->first; op != block->last; op = op->next) {
        for (int i = 0; i < op->n_results; i++) make_slot(r, &op->results[i]);
        if (op->body) {
            syl_ref_value *yielded = SYL_NEW_ARRAY(&r->scratch, syl_ref_value, (size_t)op->n_results);
            SYL_TRY(run_block(r, op->body, yielded));
            for (int i = 0; i < op->n_results; i++) set_slot(slot_of(r, &op->results[i]), yielded[i]);
        } else if (is_constant(r, op)) {
            for (int i = 0; i < op->n_results; i++) slot_of(r, &op->results[i])->constant = true;
        } else {
            SYL_TRY(evaluate(r, op));
        }
    }
    return hand_on(r, block->last, out);
}

syl_status syl_ref_run(const syl_func *func, const syl_ref_value *args, int n_args,
                       const syl_ref_weights *weights, syl_ref_precision precision, syl_diag *diag,
                       syl_ref_value *results) {
    for (int i = 0; i < func->n_results; i++) results[i] = (syl_ref_value){0};
    if (n_args != func->n_args)
        return syl_error(diag, SYL_ERR_ir_run, func->loc, "@%s has %d arguments, given %d", func->name,
                         func->n_args, n_args);
    run r = {.weights = weights, .precision = precision, .diag = diag};
    syl_arena_init(&r.scratch);
    syl_map_init(&r.slots, &r.scratch);
    syl_status status = SYL_OK;
    for (int i = 0; i < n_args && status == SYL_OK; i++) {
        status = bind_arg(&r, func, i, &args[i]);
        if (status != SYL_OK) break;
        syl_ref_value value = args[i];
        if (value.tensor) syl_ref_tensor_share(value.tensor);
        set_slot(make_slot(&r, &func->args[i]), value);
    }
    if (status == SYL_OK) status = run_block(&r, func->body, results);
    for (size_t i = 0; i < r.slots.entries.n; i++) drop(r.slots.entries.p[i].value);
    syl_arena_free(&r.scratch);
    return status;
}

bool syl_ref_has(syl_opcode code) {
    switch (code) {
    case SYL_OP_weight:
    case SYL_OP_materialized:
    case SYL_OP_fused:
    case SYL_OP_yield:
    case SYL_OP_return:
        return true;
    default:
        return syl_ref_ops_f32[code] && syl_ref_ops_f64[code];
    }
}
