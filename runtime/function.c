/* Functions of tensors (function.h): every input is checked before the first step, so that the generated code stays inside its
 * buffers. */
#include "runtime/function.h"

#include <stdlib.h>
#include <string.h>

#include "base/size.h"

typedef struct buffer {
    void *data;
    size_t size;
} buffer;

struct syl_function {
    const syl_engine *engine;
    const syl_func *func;
    syl_steps steps;
    int64_t sizes[2]; /* of the plan's symbols in the last run; 0: not known yet */
    buffer *inputs, *outputs;
    void **input_data, **output_data;
};

/* ---- the signature ---- */

static const syl_value *output_value(const syl_func *func, int i) {
    return syl_operand(func->body->last, i);
}

static syl_status bad_signature(const syl_func *func, syl_diag *diag, const char *what, int i,
                                const char *why) {
    return syl_error(diag, SYL_ERR_exec_signature, func->loc, "%s %d of @forward %s", what, i + 1, why);
}

/* Where an i32 argument picks rows; anything else it may be used for has no check here. */
static const syl_value *rows_picked(const syl_use *use) {
    if (use->user->code == SYL_OP_embedding && use->index == 0) return syl_operand(use->user, 1);
    if (use->user->code == SYL_OP_take && use->index == 1) return syl_operand(use->user, 0);
    return NULL;
}

static syl_status check_signature(const syl_func *func, syl_diag *diag) {
    for (int i = 0; i < func->n_args; i++) {
        const syl_type *type = &func->args[i].type;
        if (type->kind == SYL_KV)
            return bad_signature(func, diag, "argument", i, "is a KV cache: this is a language model");
        if (type->dtype != SYL_f32 && type->dtype != SYL_i32)
            return bad_signature(func, diag, "argument", i, "is neither f32 nor i32");
        for (const syl_use *use = func->args[i].uses; use; use = use->next)
            if (type->dtype == SYL_i32 && !rows_picked(use))
                return bad_signature(func, diag, "argument", i, "is used where its range cannot be checked");
    }
    for (int i = 0; i < func->n_results; i++) {
        if (func->result_types[i].kind == SYL_KV || func->result_types[i].dtype != SYL_f32)
            return bad_signature(func, diag, "result", i, "is not f32");
        for (int k = 0; k < i; k++)
            if (output_value(func, k) == output_value(func, i))
                return bad_signature(func, diag, "result", i, "is the same value as an earlier one");
    }
    return SYL_OK;
}

/* ---- creation ---- */

syl_status syl_function_create(const syl_engine *engine, syl_pool *pool, syl_diag *diag, syl_function **out) {
    *out = NULL;
    const syl_func *func = syl_module_func(engine->artifact.module, "forward");
    SYL_TRY(check_signature(func, diag));
    syl_function *f = calloc(1, sizeof *f);
    if (!f) return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for a function");
    f->engine = engine;
    f->func = func;
    size_t n_in = (size_t)func->n_args + 1, n_out = (size_t)func->n_results + 1;
    f->inputs = calloc(n_in, sizeof *f->inputs);
    f->outputs = calloc(n_out, sizeof *f->outputs);
    f->input_data = calloc(n_in, sizeof *f->input_data);
    f->output_data = calloc(n_out, sizeof *f->output_data);
    syl_status status = SYL_OK;
    if (!f->inputs || !f->outputs || !f->input_data || !f->output_data)
        status = syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for a function");
    if (status == SYL_OK) status = syl_steps_create(engine, pool, diag, &f->steps);
    if (status != SYL_OK) {
        syl_function_destroy(f);
        return status;
    }
    *out = f;
    return SYL_OK;
}

static void free_buffers(buffer *buffers, int n) {
    for (int i = 0; buffers && i < n; i++) free(buffers[i].data);
    free(buffers);
}

void syl_function_destroy(syl_function *f) {
    if (!f) return;
    syl_steps_destroy(&f->steps);
    free_buffers(f->inputs, f->func->n_args);
    free_buffers(f->outputs, f->func->n_results);
    free(f->input_data);
    free(f->output_data);
    free(f);
}

int syl_function_inputs(const syl_function *f) {
    return f->func->n_args;
}
int syl_function_outputs(const syl_function *f) {
    return f->func->n_results;
}
const char *syl_function_input_name(const syl_function *f, int i) {
    return f->func->args[i].name ? f->func->args[i].name : "";
}
const char *syl_function_output_name(const syl_function *f, int i) {
    const syl_value *value = output_value(f->func, i);
    return value->name ? value->name : "";
}
const syl_type *syl_function_input_type(const syl_function *f, int i) {
    return &f->func->args[i].type;
}
const syl_type *syl_function_output_type(const syl_function *f, int i) {
    return &f->func->result_types[i];
}

/* ---- inputs ---- */

/* The size of a dimension in this run: a symbol's is that of the plan's symbol; NULL where it is a number. */
static int64_t *symbol_size(syl_function *f, syl_dim dim) {
    const syl_plan *plan = f->engine->plan;
    for (int s = 0; dim.symbol && s < plan->n_symbols; s++)
        if (strcmp(plan->symbols[s], dim.symbol) == 0) return &f->sizes[s];
    return NULL;
}

static int64_t size_of(syl_function *f, syl_dim dim) {
    const int64_t *size = symbol_size(f, dim);
    return size ? *size : dim.size;
}

static syl_status bind_shape(syl_function *f, int i, const syl_array *input, syl_diag *diag) {
    const syl_type *type = &f->func->args[i].type;
    const char *name = syl_function_input_name(f, i);
    if (input->dtype != type->dtype || input->rank != type->rank)
        return syl_error(
            diag, SYL_ERR_exec_input, SYL_NOWHERE, "input \"%s\" is %s of %d dimensions, expected %s of %d",
            name, syl_dtypes[input->dtype].name, input->rank, syl_dtypes[type->dtype].name, type->rank);
    for (int d = 0; d < type->rank; d++) {
        int64_t *symbol = symbol_size(f, type->dims[d]), given = input->dims[d];
        if (symbol && !*symbol) { /* its first appearance */
            if (given < 1 || given > INT32_MAX)
                return syl_error(diag, SYL_ERR_exec_input, SYL_NOWHERE,
                                 "input \"%s\" has %lld elements in dimension %d, expected 1 to %d", name,
                                 (long long)given, d, INT32_MAX);
            *symbol = given;
        }
        if (given != size_of(f, type->dims[d]))
            return syl_error(diag, SYL_ERR_exec_input, SYL_NOWHERE,
                             "input \"%s\" has %lld elements in dimension %d, expected %s%s%lld", name,
                             (long long)given, d, symbol ? type->dims[d].symbol : "", symbol ? " = " : "",
                             (long long)size_of(f, type->dims[d]));
    }
    return SYL_OK;
}

/* Each use of an i32 argument bounds it by the rows it picks from. */
static syl_status check_range(syl_function *f, int i, const syl_array *input, syl_diag *diag) {
    const syl_value *arg = &f->func->args[i];
    int64_t limit = INT64_MAX;
    for (const syl_use *use = arg->uses; use && arg->type.dtype == SYL_i32; use = use->next) {
        int64_t rows = size_of(f, rows_picked(use)->type.dims[0]);
        if (rows < limit) limit = rows;
    }
    if (limit == INT64_MAX) return SYL_OK;
    const int32_t *values = input->data;
    for (int64_t k = 0; k < input->dims[0]; k++)
        if (values[k] < 0 || values[k] >= limit)
            return syl_error(diag, SYL_ERR_exec_range, SYL_NOWHERE,
                             "element %lld of input \"%s\" is %d, expected 0..%lld", (long long)k,
                             syl_function_input_name(f, i), values[k], (long long)limit - 1);
    return SYL_OK;
}

/* Sequences of full attention are whole. */
static syl_status check_sequences(syl_function *f, syl_diag *diag) {
    const syl_plan *plan = f->engine->plan;
    for (size_t i = 0; i < plan->steps.n; i++) {
        const syl_plan_step *step = &plan->steps.p[i];
        const kir_kernel *kernel = plan->kernels.p[step->kernel];
        if (kernel->kind != KIR_FULL_ATTENTION || f->sizes[step->rows] % kernel->full_attention.tokens == 0)
            continue;
        return syl_error(
            diag, SYL_ERR_exec_input, SYL_NOWHERE,
            "%s is %lld, expected a multiple of %lld: attention is over sequences of so many rows",
            plan->symbols[step->rows], (long long)f->sizes[step->rows],
            (long long)kernel->full_attention.tokens);
    }
    return SYL_OK;
}

/* ---- running ---- */

static bool array_bytes(const syl_array *array, size_t *out) {
    *out = sizeof(float); /* f32 and i32 */
    for (int d = 0; d < array->rank; d++)
        if (!syl_size_mul(*out, (size_t)array->dims[d], out)) return false;
    return true;
}

static syl_status reserve(buffer *b, const syl_array *array, syl_diag *diag) {
    size_t size;
    if (!array_bytes(array, &size) || !syl_size_add(size, SYL_READ_SLACK, &size))
        return syl_error(diag, SYL_ERR_size_overflow, SYL_NOWHERE, "a tensor is too large");
    if (size <= b->size) return SYL_OK;
    free(b->data);
    b->size = 0;
    b->data = syl_alloc_aligned(size);
    if (!b->data) return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for a tensor");
    b->size = size;
    return SYL_OK;
}

static syl_status fill(syl_function *f, const syl_array *inputs, syl_diag *diag) {
    for (int i = 0; i < f->func->n_args; i++) {
        size_t bytes;
        SYL_TRY(reserve(&f->inputs[i], &inputs[i], diag));
        if (array_bytes(&inputs[i], &bytes)) memcpy(f->inputs[i].data, inputs[i].data, bytes);
        f->input_data[i] = f->inputs[i].data;
    }
    for (int i = 0; i < f->func->n_results; i++) {
        syl_array shape = syl_function_output(f, i);
        SYL_TRY(reserve(&f->outputs[i], &shape, diag));
        f->output_data[i] = f->outputs[i].data;
    }
    return syl_steps_reserve(&f->steps, f->sizes, diag);
}

syl_status syl_function_run(syl_function *f, const syl_array *inputs, syl_diag *diag) {
    f->sizes[0] = f->sizes[1] = 0;
    for (int i = 0; i < f->func->n_args; i++) SYL_TRY(bind_shape(f, i, &inputs[i], diag));
    for (int i = 0; i < f->func->n_args; i++) SYL_TRY(check_range(f, i, &inputs[i], diag));
    SYL_TRY(check_sequences(f, diag));
    SYL_TRY(fill(f, inputs, diag));
    syl_steps_io io = {
        .rows = {f->sizes[0], f->sizes[1]}, .inputs = f->input_data, .outputs = f->output_data};
    syl_steps_run(&f->steps, &io);
    return SYL_OK;
}

void syl_function_observe(syl_function *f, const syl_observer *observer) {
    f->steps.observer = observer ? *observer : (syl_observer){0};
}

syl_array syl_function_output(const syl_function *f, int i) {
    const syl_type *type = &f->func->result_types[i];
    const syl_plan *plan = f->engine->plan;
    syl_array out = {.dtype = type->dtype, .rank = type->rank, .data = f->outputs[i].data};
    for (int d = 0; d < type->rank; d++) {
        out.dims[d] = type->dims[d].size;
        for (int s = 0; type->dims[d].symbol && s < plan->n_symbols; s++)
            if (strcmp(plan->symbols[s], type->dims[d].symbol) == 0) out.dims[d] = f->sizes[s];
    }
    return out;
}
