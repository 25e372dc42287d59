/* Functions of tensors (function.h): every input is checked before the first step, so that the generated code stays inside its
 * buffers. */
#include "runtime/function.h"

#include <stdlib.h>
#include <string.h>

#include "base/size.h"

struct syl_function {
    const syl_engine *engine;
    const syl_backend *backend;
    const syl_func *func;
    syl_runner *runner;
    const syl_profile *profile; /* of the next run; NULL: none */
    int64_t sizes[2];           /* of the plan's symbols in the last run; 0: not known yet */
    size_t *input_bytes, *output_bytes;
    const void **outputs; /* results of the last run */
    bool stay;            /* they stay on the device */
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
    f->backend = engine->backend;
    f->input_bytes = calloc((size_t)func->n_args + 1, sizeof *f->input_bytes);
    f->output_bytes = calloc((size_t)func->n_results + 1, sizeof *f->output_bytes);
    f->outputs = calloc((size_t)func->n_results + 1, sizeof *f->outputs);
    syl_status status = SYL_OK;
    if (!f->input_bytes || !f->output_bytes || !f->outputs)
        status = syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for a function");
    if (status == SYL_OK) status = f->backend->open(engine, pool, NULL, diag, &f->runner);
    if (status != SYL_OK) {
        syl_function_destroy(f);
        return status;
    }
    *out = f;
    return SYL_OK;
}

void syl_function_destroy(syl_function *f) {
    if (!f) return;
    if (f->runner) f->backend->close(f->runner);
    free(f->input_bytes);
    free(f->output_bytes);
    free((void *)f->outputs);
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

static syl_status check_values(const syl_function *f, int i, const int32_t *values, int64_t n, int64_t limit,
                               syl_diag *diag) {
    for (int64_t k = 0; k < n; k++)
        if (values[k] < 0 || values[k] >= limit)
            return syl_error(diag, SYL_ERR_exec_range, SYL_NOWHERE,
                             "element %lld of input \"%s\" is %d, expected 0..%lld", (long long)k,
                             syl_function_input_name(f, i), values[k], (long long)limit - 1);
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
    if (!input->on_device) return check_values(f, i, input->data, input->dims[0], limit, diag);
    size_t size = (size_t)input->dims[0] * sizeof(int32_t);
    int32_t *copy = malloc(size + 1);
    if (!copy) return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory to check an input");
    syl_status status =
        f->backend->device_read(f->runner, (uint64_t)(uintptr_t)input->data, size, copy, diag);
    if (status == SYL_OK) status = check_values(f, i, copy, input->dims[0], limit, diag);
    free(copy);
    return status;
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

/* Pictures are whole: so many rows of patches for each. */
static syl_status check_pictures(syl_function *f, const syl_op *op, syl_diag *diag) {
    if (op->code != SYL_OP_patchify && op->code != SYL_OP_unpatchify) return SYL_OK;
    bool cuts = op->code == SYL_OP_patchify;
    const syl_type *from = &syl_operand(op, 0)->type, *to = &syl_result(op)->type,
                   *pictures = cuts ? from : to, *patches = cuts ? to : from;
    int64_t count = pictures->dims[1].size / patches->dims[1].size, n = size_of(f, pictures->dims[0]),
            rows = size_of(f, patches->dims[0]);
    if (rows % count == 0 && rows / count == n) return SYL_OK;
    return syl_error(diag, SYL_ERR_exec_input, SYL_NOWHERE,
                     "%s is %lld, expected %lld for each of %s = %lld: %s has so many patches a picture",
                     patches->dims[0].symbol, (long long)rows, (long long)count, pictures->dims[0].symbol,
                     (long long)n, syl_ops[op->code].name);
}

static syl_status check_all_pictures(syl_function *f, syl_diag *diag) {
    for (size_t i = 0; i < f->engine->plan->steps.n; i++) {
        const syl_block *body = f->engine->plan->steps.p[i].op->body;
        for (const syl_op *op = body->first; op; op = op->next) SYL_TRY(check_pictures(f, op, diag));
    }
    return SYL_OK;
}

/* ---- running ---- */

static syl_status array_bytes(const syl_array *array, syl_diag *diag, size_t *out) {
    *out = sizeof(float); /* f32 and i32 */
    for (int d = 0; d < array->rank; d++)
        if (!syl_size_mul(*out, (size_t)array->dims[d], out))
            return syl_error(diag, SYL_ERR_size_overflow, SYL_NOWHERE, "a tensor is too large");
    return SYL_OK;
}

static syl_status run(syl_function *f, const syl_array *inputs, syl_diag *diag) {
    syl_run r = {.rows = {f->sizes[0], f->sizes[1]},
                 .input_bytes = f->input_bytes,
                 .output_bytes = f->output_bytes,
                 .choose = -1};
    for (int i = 0; i < f->func->n_args; i++) SYL_TRY(array_bytes(&inputs[i], diag, &f->input_bytes[i]));
    for (int i = 0; i < f->func->n_results; i++) {
        syl_array shape = syl_function_output(f, i);
        SYL_TRY(array_bytes(&shape, diag, &f->output_bytes[i]));
    }
    SYL_TRY(f->backend->reserve(f->runner, &r, diag));
    for (int i = 0; i < f->func->n_args; i++) {
        if (!inputs[i].on_device)
            memcpy(f->backend->input(f->runner, i), inputs[i].data, f->input_bytes[i]);
        else
            SYL_TRY(f->backend->device_input(f->runner, i, (uint64_t)(uintptr_t)inputs[i].data,
                                             f->input_bytes[i], diag));
    }
    SYL_TRY(f->backend->run(f->runner, &r, diag));
    if (f->profile) syl_profile_report(f->profile, f->runner, &r);
    f->profile = NULL;
    f->runner->times = NULL;
    for (int i = 0; i < f->func->n_results; i++) {
        if (f->stay)
            f->outputs[i] = (const void *)(uintptr_t)f->backend->device_output(f->runner, i);
        else
            SYL_TRY(f->backend->fetch(f->runner, i, 0, f->output_bytes[i], diag, &f->outputs[i]));
    }
    return SYL_OK;
}

static syl_status need_device(const syl_function *f, syl_diag *diag) {
    if (f->backend->device_input) return SYL_OK;
    return syl_error(diag, SYL_ERR_device_host, SYL_NOWHERE, "the model runs on %s", f->engine->device);
}

syl_status syl_function_stream(syl_function *f, void *stream, syl_diag *diag) {
    SYL_TRY(need_device(f, diag));
    return f->backend->device_stream(f->runner, stream, diag);
}

syl_status syl_function_stay(syl_function *f, bool on_device, syl_diag *diag) {
    if (on_device) SYL_TRY(need_device(f, diag));
    f->stay = on_device;
    return SYL_OK;
}

syl_status syl_function_wait(syl_function *f, syl_diag *diag) {
    return f->backend->wait(f->runner, diag);
}

syl_status syl_function_run(syl_function *f, const syl_array *inputs, syl_diag *diag) {
    f->sizes[0] = f->sizes[1] = 0;
    for (int i = 0; i < f->func->n_args; i++)
        if (inputs[i].on_device) SYL_TRY(need_device(f, diag));
    for (int i = 0; i < f->func->n_args; i++) SYL_TRY(bind_shape(f, i, &inputs[i], diag));
    for (int i = 0; i < f->func->n_args; i++) SYL_TRY(check_range(f, i, &inputs[i], diag));
    SYL_TRY(check_sequences(f, diag));
    SYL_TRY(check_all_pictures(f, diag));
    return run(f, inputs, diag);
}

void syl_function_profile(syl_function *f, const syl_profile *profile, syl_step_time *times) {
    f->profile = profile;
    f->runner->times = times;
}

syl_status syl_function_copy_rate(syl_function *f, syl_diag *diag, double *out) {
    return f->backend->copy_rate(f->runner, diag, out);
}

void syl_function_observe(syl_function *f, const syl_observer *observer) {
    f->runner->observer = observer ? *observer : (syl_observer){0};
}

syl_array syl_function_output(const syl_function *f, int i) {
    const syl_type *type = &f->func->result_types[i];
    const syl_plan *plan = f->engine->plan;
    syl_array out = {.dtype = type->dtype, .rank = type->rank, .data = f->outputs[i], .on_device = f->stay};
    for (int d = 0; d < type->rank; d++) {
        out.dims[d] = type->dims[d].size;
        for (int s = 0; type->dims[d].symbol && s < plan->n_symbols; s++)
            if (strcmp(plan->symbols[s], type->dims[d].symbol) == 0) out.dims[d] = f->sizes[s];
    }
    return out;
}
