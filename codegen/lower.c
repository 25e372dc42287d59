/* Lowering: @forward with fused regions -> plan. Each region becomes a kernel; equal kernels are shared; each
 * value that passes between regions has a place: a slot, a function argument or result, a stored tensor, or a
 * column range (slice) of one of these. */
#include "codegen/lower.h"
#include <stdlib.h>
#include <string.h>
#include "base/map.h"
#include "base/size.h"
#include "codegen/host/host.h"

syl_status lower_refuse(lower_ctx *ctx, const syl_op *op, const char *why) {
    return syl_error(ctx->diag, SYL_ERR_lower_unsupported, op->loc, "op '%s'%s%s: %s", syl_ops[op->code].name,
                     op->n_results && op->results[0].name ? " %" : "",
                     op->n_results && op->results[0].name ? op->results[0].name : "", why);
}

kir_type lower_elem(syl_dtype dtype) {
    switch (dtype) {
    case SYL_bf16:
        return KIR_BF16;
    case SYL_f16:
        return KIR_F16;
    case SYL_i32:
        return KIR_I32;
    default:
        return syl_dtypes[dtype].class == SYL_CLASS_QUANT ? KIR_I8 : KIR_F32;
    }
}

static int64_t elem_bytes(kir_type elem) {
    return elem == KIR_I8 ? 1 : elem == KIR_BF16 || elem == KIR_F16 ? 2 : elem == KIR_F64 ? 8 : 4;
}

int64_t lower_cols(const syl_type *type) {
    return type->rank > 1 ? type->dims[type->rank - 1].size : 1;
}

/* ---- places ---- */

static bool is_stored(const syl_value *value) {
    return value->def && value->def->code == SYL_OP_materialized;
}

/* The number of the operand of the function's return that is `value`, or -1. */
static int result_number(const lower_ctx *ctx, const syl_value *value) {
    const syl_op *ret = ctx->func->body->last;
    for (int i = 0; i < ret->n_operands; i++)
        if (syl_operand(ret, i) == value) return i;
    return -1;
}

static syl_status fused_place(lower_ctx *ctx, const syl_value *value, lower_place *out) {
    const syl_op *op = value->def;
    const syl_attr *slots = syl_attr_get(op, "slots");
    int result = result_number(ctx, value);
    if (result >= 0) {
        out->data = (syl_plan_arg){SYL_ARG_OUTPUT, result, 0};
        return SYL_OK;
    }
    if (!slots || slots->ints.n != op->n_results || slots->ints.p[value->index] < 0 ||
        slots->ints.p[value->index] > 1 << 20)
        return lower_refuse(ctx, op, "its results have no buffer slots; run the pass plan-memory");
    int slot = (int)slots->ints.p[value->index];
    out->tiled = !ctx->target && lower_is_tiled(value);
    out->data = (syl_plan_arg){SYL_ARG_SLOT, 2 * slot, 0};
    out->scale = (syl_plan_arg){SYL_ARG_SLOT, 2 * slot + 1, 0};
    return SYL_OK;
}

syl_status lower_find_place(lower_ctx *ctx, const syl_value *value, lower_place *out) {
    *out = (lower_place){.stride = lower_cols(&value->type),
                         .elem = lower_elem(value->type.dtype),
                         .name = value->name ? value->name : "v"};
    out->has_scale = syl_type_class_of(&value->type) == SYL_CLASS_QUANT;
    if (!value->def) {
        out->data = (syl_plan_arg){SYL_ARG_INPUT, value->index, 0};
        return SYL_OK;
    }
    const syl_op *op = value->def;
    if (op->code == SYL_OP_fused) return fused_place(ctx, value, out);
    if (op->code == SYL_OP_slice) {
        if (value->type.rank != 2 || syl_attr_int(op, "axis") != 1 || out->has_scale)
            return lower_refuse(ctx, op, "only columns of float activations can be sliced at run time");
        int64_t begin = syl_attr_int(op, "begin");
        SYL_TRY(lower_find_place(ctx, syl_operand(op, 0), out));
        out->data.offset += begin * elem_bytes(out->elem);
        if (value->name) out->name = value->name;
        return SYL_OK;
    }
    if (is_stored(value)) {
        syl_plan_weight weight = {.name = syl_attr_str(op, "name"),
                                  .elem = out->elem,
                                  .rows = value->type.rank == 2 ? value->type.dims[0].size : 1,
                                  .cols = value->type.dims[value->type.rank - 1].size};
        out->data = (syl_plan_arg){SYL_ARG_WEIGHT, lower_weight(ctx, weight), 0};
        return SYL_OK;
    }
    return lower_refuse(ctx, op, "it stands outside every fused region; run the pass fuse");
}

static bool same_arg(syl_plan_arg a, syl_plan_arg b) {
    return a.kind == b.kind && a.index == b.index && a.offset == b.offset;
}

static int add_buffer(lower_ctx *ctx, syl_plan_arg arg, kir_buffer buffer) {
    for (size_t i = 0; i < ctx->args.n; i++) {
        const kir_buffer *have = &ctx->kernel->buffers.p[i];
        if (same_arg(ctx->args.p[i], arg) && have->shape == buffer.shape && have->elem == buffer.elem &&
            have->cols == buffer.cols && have->stride == buffer.stride && have->written == buffer.written)
            return (int)i;
    }
    /* Named by number and role, never by the IR's names: equal layers must print equal kernels. */
    buffer.name = syl_arena_printf(ctx->arena, "%s%zu", buffer.name, ctx->args.n);
    SYL_PUSH(ctx->arena, &ctx->args, arg);
    return kir_add_buffer(ctx->arena, ctx->kernel, buffer);
}

int lower_matrix(lower_ctx *ctx, const lower_place *place, int64_t cols, bool written) {
    return add_buffer(ctx, place->data,
                      (kir_buffer){written ? "y" : "x", place->tiled ? KIR_TILED : KIR_MATRIX, place->elem,
                                   cols, place->tiled ? 0 : place->stride, written});
}

int lower_row_vector(lower_ctx *ctx, syl_plan_arg arg, kir_type elem, const char *name, bool written) {
    return add_buffer(ctx, arg, (kir_buffer){name, KIR_PER_ROW, elem, 1, 1, written});
}

int lower_weight(lower_ctx *ctx, syl_plan_weight weight) {
    for (size_t i = 0; i < ctx->plan->weights.n; i++) {
        const syl_plan_weight *have = &ctx->plan->weights.p[i];
        if (strcmp(have->name, weight.name) == 0 && have->packed == weight.packed &&
            (!weight.packed || (have->dot == weight.dot && have->nr == weight.nr && have->ku == weight.ku)))
            return (int)i;
    }
    SYL_PUSH(ctx->arena, &ctx->plan->weights, weight);
    return (int)ctx->plan->weights.n - 1;
}

syl_status lower_col_vector(lower_ctx *ctx, const syl_value *value, int *out_buffer) {
    if (!is_stored(value) || value->type.rank != 1)
        return lower_refuse(ctx, value->def ? value->def : ctx->func->body->first,
                            "a vector operand must be a stored tensor");
    lower_place place;
    SYL_TRY(lower_find_place(ctx, value, &place));
    *out_buffer = add_buffer(ctx, place.data,
                             (kir_buffer){"v", KIR_PER_COL, place.elem, value->type.dims[0].size, 1, false});
    return SYL_OK;
}

/* ---- values ---- */

int lower_emit1(lower_ctx *ctx, kir_op op, int a) {
    return kir_emit(ctx->arena, ctx->kernel, (kir_inst){.op = op, .args = {a}, .buffer = -1});
}
int lower_emit2(lower_ctx *ctx, kir_op op, int a, int b) {
    return kir_emit(ctx->arena, ctx->kernel, (kir_inst){.op = op, .args = {a, b}, .buffer = -1});
}
int lower_imm(lower_ctx *ctx, double value) {
    return kir_emit(ctx->arena, ctx->kernel, (kir_inst){.op = KIR_imm, .f = value, .buffer = -1});
}
int lower_load(lower_ctx *ctx, kir_op op, int buffer) {
    return kir_emit(ctx->arena, ctx->kernel, (kir_inst){.op = op, .buffer = buffer});
}

void lower_bind(lower_ctx *ctx, const syl_value *value, int inst) {
    SYL_PUSH(ctx->arena, &ctx->bindings, (lower_binding){value, inst});
}

syl_status lower_value(lower_ctx *ctx, const syl_value *value, int *out_inst) {
    for (size_t i = 0; i < ctx->bindings.n; i++)
        if (ctx->bindings.p[i].value == value) {
            *out_inst = ctx->bindings.p[i].inst;
            return SYL_OK;
        }
    lower_place place;
    SYL_TRY(lower_find_place(ctx, value, &place));
    if (value->type.rank == 1)
        *out_inst = lower_load(ctx, KIR_load_row, lower_row_vector(ctx, place.data, place.elem, "r", false));
    else
        *out_inst = lower_load(ctx, KIR_load, lower_matrix(ctx, &place, lower_cols(&value->type), false));
    lower_bind(ctx, value, *out_inst);
    return SYL_OK;
}

/* ---- regions ---- */

static const syl_op *find_in(const syl_block *block, syl_opcode code) {
    for (const syl_op *op = block->first; op; op = op->next)
        if (op->code == code) return op;
    return NULL;
}

/* Stores what the region yields. */
static syl_status lower_results(lower_ctx *ctx, const syl_op *fused) {
    const syl_op *yield = fused->body->last;
    for (int i = 0; i < yield->n_operands; i++) {
        const syl_value *inner = syl_operand(yield, i), *result = &fused->results[i];
        if (result->type.kind == SYL_KV || syl_op_is(inner->def, SYL_OP_quantize))
            continue; /* appended and stored by their ops */
        if (ctx->kernel->kind == KIR_ROWS && syl_op_is(inner->def, SYL_OP_linear))
            continue; /* so is a projection */
        if (syl_op_is(inner->def, SYL_OP_attention) || syl_op_is(inner->def, SYL_OP_full_attention)) continue;
        lower_place place;
        int inst;
        SYL_TRY(lower_find_place(ctx, result, &place));
        SYL_TRY(lower_value(ctx, inner, &inst));
        if (result->type.rank == 1)
            kir_emit(ctx->arena, ctx->kernel,
                     (kir_inst){.op = KIR_store_row,
                                .args = {inst},
                                .buffer = lower_row_vector(ctx, place.data, place.elem, "s", true)});
        else
            kir_emit(ctx->arena, ctx->kernel,
                     (kir_inst){.op = KIR_store,
                                .args = {inst},
                                .buffer = lower_matrix(ctx, &place, lower_cols(&result->type), true)});
    }
    return SYL_OK;
}

static void add_name(lower_ctx *ctx, syl_text *name, const syl_op *fused) {
    name->arena = ctx->arena;
    for (const syl_op *op = fused->body->first; op; op = op->next)
        if (op->code != SYL_OP_yield && op->code != SYL_OP_slice)
            syl_text_printf(name, "%s%s", name->n ? "_" : "", syl_ops[op->code].name);
}

/* What a step computes, for people: the region's results by name, or the first named value inside, or
 * the weight. */
static void add_label(syl_text *label, const syl_op *fused) {
    for (int i = 0; i < fused->n_results; i++)
        if (fused->results[i].name)
            syl_text_printf(label, "%s%%%s", label->n ? ", " : "", fused->results[i].name);
    for (const syl_op *op = fused->body->first; op && !label->n; op = op->next)
        if (op->n_results && op->results[0].name) syl_text_printf(label, "from %%%s", op->results[0].name);
    for (const syl_op *op = fused->body->first; op && !label->n; op = op->next)
        if (op->code == SYL_OP_linear)
            syl_text_printf(label, "by %s", syl_attr_str(syl_operand(op, 1)->def, "name"));
    if (!label->n) syl_text_append(label, "", 0);
}

/* The rows a step runs over: the first dimension of what it makes. */
static syl_status rows_of(lower_ctx *ctx, const syl_op *fused, syl_rows *out) {
    const syl_op *yield = fused->body->last;
    for (int i = 0; i < yield->n_operands; i++) {
        const syl_value *value = syl_operand(yield, i);
        const char *symbol = value->type.kind == SYL_TENSOR ? value->type.dims[0].symbol : NULL;
        if (syl_op_is(value->def, SYL_OP_kv_append)) symbol = syl_operand(value->def, 1)->type.dims[0].symbol;
        for (int s = 0; symbol && s < ctx->plan->n_symbols; s++)
            if (strcmp(ctx->plan->symbols[s], symbol) == 0) {
                *out = (syl_rows)s;
                return SYL_OK;
            }
    }
    return lower_refuse(ctx, fused, "its rows are not a symbol of the function's arguments");
}

/* Size of the slots a region's results lie in. */
static syl_status claim_slots(lower_ctx *ctx, const syl_op *fused, syl_rows rows) {
    for (int i = 0; i < fused->n_results; i++) {
        const syl_value *value = &fused->results[i];
        if (value->type.kind == SYL_KV) continue;
        lower_place place;
        SYL_TRY(lower_find_place(ctx, value, &place));
        if (place.data.kind != SYL_ARG_SLOT) continue;
        while ((int)ctx->plan->slots.n <= place.data.index + 1)
            SYL_PUSH(ctx->arena, &ctx->plan->slots, (syl_plan_slot){0});
        syl_plan_slot *slot = &ctx->plan->slots.p[place.data.index];
        int64_t bytes = lower_cols(&value->type) * elem_bytes(place.elem);
        if (place.tiled) bytes = syl_ceil_div(bytes, KIR_ATOM_BYTES) * KIR_ATOM_BYTES;
        if (slot->row_bytes && slot->rows != rows)
            return lower_refuse(ctx, fused, "a slot is shared by values with different rows");
        slot[0].rows = slot[1].rows = rows;
        if (bytes > slot->row_bytes) slot->row_bytes = bytes;
        if (place.has_scale) slot[1].row_bytes = 4;
    }
    return SYL_OK;
}

static syl_status lower_region(lower_ctx *ctx, const syl_op *fused) {
    ctx->kernel = SYL_NEW(ctx->arena, kir_kernel);
    ctx->args.n = ctx->bindings.n = 0;
    ctx->args.p = NULL;
    ctx->args.cap = 0;
    const syl_op *yield = fused->body->last;
    if (!syl_op_is(yield, SYL_OP_yield) || yield->n_operands != fused->n_results || fused->n_results == 0)
        return lower_refuse(ctx, fused, "the region yields nothing");
    ctx->branch = NULL;
    ctx->kernel->kind = find_in(fused->body, SYL_OP_quantize)         ? KIR_ROWS
                        : find_in(fused->body, SYL_OP_linear)         ? KIR_GEMM
                        : find_in(fused->body, SYL_OP_attention)      ? KIR_ATTENTION
                        : find_in(fused->body, SYL_OP_full_attention) ? KIR_FULL_ATTENTION
                                                                      : KIR_ROWS;
    ctx->kernel->gemm.dot = KIR_DOT_F32;

    syl_rows rows;
    SYL_TRY(rows_of(ctx, fused, &rows));
    SYL_TRY(claim_slots(ctx, fused, rows));
    for (const syl_op *op = fused->body->first; op != yield; op = op->next) SYL_TRY(lower_op(ctx, op));
    SYL_TRY(lower_branch(ctx));
    SYL_TRY(lower_results(ctx, fused));
    SYL_TRY(kir_verify(ctx->kernel, ctx->diag));

    syl_text name = {0}, label = {.arena = ctx->arena};
    add_name(ctx, &name, fused);
    ctx->kernel->name = name.p;
    add_label(&label, fused);
    syl_plan_step step = {
        .rows = rows, .args = ctx->args.p, .n_args = (int)ctx->args.n, .label = label.p, .op = fused};
    SYL_PUSH(ctx->arena, &ctx->plan->steps, step);
    return SYL_OK;
}

/* ---- the function ---- */

/* Shares equal kernels: their text is their identity. */
static void intern_kernel(lower_ctx *ctx, syl_map *kernels, syl_arena *scratch) {
    syl_text text = {.arena = scratch};
    kir_print(ctx->kernel, &text);
    int fresh;
    void **slot = syl_map_slot(kernels, text.p, text.n, &fresh);
    if (fresh) {
        SYL_PUSH(ctx->arena, &ctx->plan->kernels, ctx->kernel);
        *slot = (void *)(uintptr_t)ctx->plan->kernels.n;
    }
    ctx->plan->steps.p[ctx->plan->steps.n - 1].kernel = (int)(uintptr_t)*slot - 1;
}

enum { max_layers = 1 << 16, max_heads = 1 << 16, max_head = 4096 }; /* of a KV cache */

static syl_status find_arguments(lower_ctx *ctx) {
    syl_plan *plan = ctx->plan;
    for (int i = 0; i < ctx->func->n_args; i++) {
        const syl_type *type = &ctx->func->args[i].type;
        if (type->kind == SYL_KV) {
            if (type->dims[0].size > max_layers || type->dims[1].size > max_heads ||
                type->dims[2].size > max_head)
                return syl_error(
                    ctx->diag, SYL_ERR_lower_unsupported, ctx->func->loc,
                    "argument %d of @%s: a KV cache has at most %d layers and %d heads of %d features", i,
                    ctx->func->name, max_layers, max_heads, max_head);
            plan->cache_layers = (int)type->dims[0].size;
            plan->cache = lower_cache(type);
            continue;
        }
        const char *symbol = type->dims[0].symbol;
        bool known = false;
        for (int s = 0; s < plan->n_symbols && symbol; s++) known |= strcmp(plan->symbols[s], symbol) == 0;
        if (!symbol || (!known && plan->n_symbols == 2))
            return syl_error(ctx->diag, SYL_ERR_lower_unsupported, ctx->func->loc,
                             "argument %d of @%s: the first dimension must be one of at most two symbols", i,
                             ctx->func->name);
        if (!known) plan->symbols[plan->n_symbols++] = symbol;
    }
    return SYL_OK;
}

/* Last step that reads a value, through slices and from inside regions. Steps are numbered by the order of
 * fused ops. */
static int last_use(const syl_value *value, const syl_block *body, const syl_map *order) {
    int last = -1;
    for (const syl_use *use = value->uses; use; use = use->next) {
        int at;
        if (use->user->code == SYL_OP_slice)
            at = last_use(syl_result(use->user), body, order);
        else {
            const syl_op *top = syl_op_ancestor_in(use->user, body);
            at = (int)(uintptr_t)syl_map_get(order, &top, sizeof top) - 1;
        }
        if (at > last) last = at;
    }
    return last;
}

static syl_status check_slots(lower_ctx *ctx, syl_arena *scratch) {
    syl_map order;
    syl_map_init(&order, scratch);
    uintptr_t number = 0;
    for (const syl_op *op = ctx->func->body->first; op; op = op->next)
        if (op->code == SYL_OP_fused) *syl_map_slot(&order, &op, sizeof op, NULL) = (void *)++number;
    int *busy_until = SYL_NEW_ARRAY(scratch, int, ctx->plan->slots.n / 2 + 1);
    for (size_t i = 0; i <= ctx->plan->slots.n / 2; i++) busy_until[i] = -1;
    int step = 0;
    for (const syl_op *op = ctx->func->body->first; op; op = op->next) {
        if (op->code != SYL_OP_fused) continue;
        for (int i = 0; i < op->n_results; i++) {
            lower_place place;
            if (op->results[i].type.kind == SYL_KV) continue;
            SYL_TRY(lower_find_place(ctx, &op->results[i], &place));
            if (place.data.kind != SYL_ARG_SLOT) continue;
            int slot = place.data.index / 2, last = last_use(&op->results[i], ctx->func->body, &order);
            if (busy_until[slot] >= step)
                return lower_refuse(ctx, op, "its slot still holds a value that is read later");
            busy_until[slot] = last > step ? last : step;
        }
        step++;
    }
    return SYL_OK;
}

static syl_status lower_function(lower_ctx *ctx, syl_arena *scratch) {
    syl_map kernels;
    syl_map_init(&kernels, scratch);
    SYL_TRY(find_arguments(ctx));
    const syl_op *ret = ctx->func->body->last;
    if (ret->n_operands < 1 || syl_operand(ret, 0)->type.kind != SYL_TENSOR ||
        syl_operand(ret, 0)->type.rank != 2)
        return lower_refuse(ctx, ret, "the first result must be a matrix");
    ctx->plan->vocab = lower_cols(&syl_operand(ret, 0)->type);
    for (int i = 0; i < ret->n_operands; i++) {
        const syl_value *value = syl_operand(ret, i);
        if (!syl_op_is(value->def, SYL_OP_fused) && value->type.kind != SYL_KV)
            return lower_refuse(ctx, ret, "a result must come from a fused region");
    }
    for (const syl_op *op = ctx->func->body->first; op != ret; op = op->next) {
        if (op->code == SYL_OP_fused) {
            SYL_TRY(lower_region(ctx, op));
            intern_kernel(ctx, &kernels, scratch);
        } else if (op->code != SYL_OP_slice && op->code != SYL_OP_materialized)
            return lower_refuse(ctx, op,
                                syl_op_has(op, SYL_TRAIT_WEIGHT)
                                    ? "it stands on the weight side; materialize first"
                                    : "it stands outside every fused region; run the pass fuse");
    }
    return check_slots(ctx, scratch);
}

static syl_status create(const syl_module *module, const syl_host_target *target, syl_diag *diag,
                         syl_plan **out) {
    *out = NULL;
    const syl_func *func = syl_module_func(module, "forward");
    if (!func)
        return syl_error(diag, SYL_ERR_lower_unsupported, SYL_NOWHERE, "module @%s has no function @forward",
                         module->name);
    syl_plan *plan = calloc(1, sizeof *plan);
    if (!plan) return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for a plan");
    syl_arena_init(&plan->arena);
    plan->module = module;
    syl_arena scratch;
    syl_arena_init(&scratch);
    lower_ctx ctx = {
        .plan = plan, .module = module, .func = func, .target = target, .diag = diag, .arena = &plan->arena};
    syl_status status = lower_function(&ctx, &scratch);
    syl_arena_free(&scratch);
    if (status != SYL_OK)
        syl_plan_destroy(plan);
    else
        *out = plan;
    return status;
}

syl_status syl_plan_create(const syl_module *module, const syl_host_target *target, syl_diag *diag,
                           syl_plan **out) {
    return create(module, target, diag, out);
}

syl_status syl_plan_create_cuda(const syl_module *module, syl_diag *diag, syl_plan **out) {
    return create(module, NULL, diag, out);
}
