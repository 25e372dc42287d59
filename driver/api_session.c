/* The public API: sessions, their KV cache, and running tokens. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "driver/api.h"

enum { MAX_INPUTS = 64 }; /* arguments of @forward */

static syl_status create(api_call *call, const syl_program *program, const syl_session_options *given,
                         syl_session **out) {
    static const char name[] = "syl_session_create";
    syl_session_options options = {0};
    syl_pool *pool;
    if (!program || !out) return api_bad(call, name, "program or out is NULL");
    if (given && !api_take(&options, sizeof options, given))
        return api_bad(call, name, "options has no size, or asks for what this version lacks");
    if (options.context < 0 || options.sequences < 0 || options.sequences > 1 << 20)
        return api_bad(call, name, "context and sequences must be 0 or more, and at most 2^20 sequences");
    SYL_TRY(api_pool(call, &pool));
    syl_session *session = calloc(1, sizeof *session);
    if (!session) return syl_error(call->diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for a session");
    session->instance = call->instance;
    session->program = program;
    session->sequences = options.sequences ? options.sequences : 1;
    syl_context_options context = {.sequences = session->sequences, .context = options.context};
    syl_status status = program->engine->is_language_model
                            ? syl_lm_create(program->engine, pool, &context, call->diag, &session->lm)
                            : syl_function_create(program->engine, pool, call->diag, &session->function);
    if (status != SYL_OK) {
        free(session);
        return status;
    }
    *out = session;
    return SYL_OK;
}

syl_status syl_session_create(syl_instance *instance, const syl_program *program,
                              const syl_session_options *options, syl_session **out) {
    api_call call;
    if (out) *out = NULL;
    SYL_TRY(api_begin(&call, instance));
    return api_end(&call, create(&call, program, options, out));
}

void syl_session_destroy(syl_session *session) {
    if (!session) return;
    syl_lm_destroy(&session->lm);
    syl_function_destroy(session->function);
    free(session->times);
    api_observer_destroy(session->observer);
    free(session);
}

/* ---- the KV cache ---- */

int64_t syl_session_limit(const syl_session *session) {
    if (!session) return -1;
    return session->lm.context ? syl_context_limit(session->lm.context) : 0;
}

static bool has_sequence(const syl_session *session, int sequence) {
    return session->lm.context && sequence >= 0 && sequence < session->sequences;
}

int64_t syl_session_length(const syl_session *session, int sequence) {
    return session && has_sequence(session, sequence) ? syl_context_length(session->lm.context, sequence)
                                                      : -1;
}

size_t syl_session_bytes(const syl_session *session) {
    return session && session->lm.context ? syl_context_bytes(session->lm.context) : 0;
}

syl_status syl_session_truncate(syl_session *session, int sequence, int64_t length) {
    api_call call;
    SYL_TRY(api_begin_lm(&call, session));
    if (!has_sequence(session, sequence) || length < 0)
        return api_end(&call, api_bad(&call, __func__, "no such sequence, or a length below 0"));
    session->n_rows = 0;
    syl_context_truncate(session->lm.context, sequence, length);
    return api_end(&call, SYL_OK);
}

/* ---- measuring ---- */

static void report_step(void *user, const syl_plan_step *step, const kir_kernel *kernel, int64_t rows,
                        const syl_step_time *time, const syl_step_cost *cost) {
    const syl_session *session = user;
    const syl_engine *engine = session->program->engine;
    syl_step_report report = {
        .size = sizeof report,
        .kernel = kernel->name,
        .kernel_number = step->kernel,
        .label = step->label,
        .rows = rows,
        .start_s = time->start_s,
        .seconds = time->seconds,
        .bytes = cost->bytes,
        .operations = cost->operations,
        .peak = syl_peak_operations(kernel, engine->capability, engine->multiprocessors, engine->clock_mhz)};
    session->step(session->step_user, &report);
}

syl_status syl_session_profile(syl_session *session, void (*step)(void *user, const syl_step_report *report),
                               void *user) {
    api_call call;
    SYL_TRY(api_begin(&call, session ? session->instance : NULL));
    if (!step) return api_end(&call, api_bad(&call, __func__, "step is NULL"));
    if (!session->times)
        session->times = calloc(session->program->engine->plan->steps.n + 1, sizeof *session->times);
    if (!session->times)
        return api_end(&call,
                       syl_error(call.diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for times"));
    session->step = step;
    session->step_user = user;
    session->profile = (syl_profile){.step = report_step, .user = session};
    if (session->function)
        syl_function_profile(session->function, &session->profile, session->times);
    else
        syl_context_profile(session->lm.context, &session->profile, session->times);
    return api_end(&call, SYL_OK);
}

syl_status syl_session_copy_rate(syl_session *session, double *out) {
    api_call call;
    SYL_TRY(api_begin(&call, session ? session->instance : NULL));
    if (!out) return api_end(&call, api_bad(&call, __func__, "out is NULL"));
    return api_end(&call, session->function ? syl_function_copy_rate(session->function, call.diag, out)
                                            : syl_context_copy_rate(session->lm.context, call.diag, out));
}

syl_status syl_session_wait(syl_session *session) {
    api_call call;
    SYL_TRY(api_begin(&call, session ? session->instance : NULL));
    return api_end(&call, session->function ? syl_function_wait(session->function, call.diag)
                                            : syl_context_wait(session->lm.context, call.diag));
}

/* ---- on a GPU ---- */

syl_status syl_session_set_stream(syl_session *session, void *stream) {
    api_call call;
    SYL_TRY(api_begin(&call, session ? session->instance : NULL));
    return api_end(&call, session->function ? syl_function_stream(session->function, stream, call.diag)
                                            : syl_context_stream(session->lm.context, stream, call.diag));
}

syl_status syl_session_keep_on_device(syl_session *session, int keep) {
    api_call call;
    SYL_TRY(api_begin(&call, session ? session->instance : NULL));
    if (!session->function)
        return api_end(&call, api_bad(&call, __func__, "a language model's logits are on the device anyway"));
    session->called = false;
    return api_end(&call, syl_function_stay(session->function, keep != 0, call.diag));
}

const void *syl_session_device_logits(const syl_session *session, size_t row) {
    if (!session || row >= session->n_rows) return NULL;
    return (const void *)(uintptr_t)syl_context_device_logits(session->lm.context, (int64_t)row);
}

/* ---- functions of tensors ---- */

/* inputs[i] as this version knows it. */
static bool take_input(syl_tensor *own, const syl_tensor *inputs, size_t i) {
    return api_take(own, sizeof *own, (const char *)inputs + i * inputs->size);
}

static syl_status input_of(const api_call *call, const syl_function *function, const syl_tensor *tensor,
                           bool *given, syl_array *arrays) {
    const char *names[MAX_INPUTS + 1] = {0};
    int n = syl_function_inputs(function);
    for (int i = 0; i < n; i++) {
        names[i] = syl_function_input_name(function, i);
        if (strcmp(names[i], tensor->name) != 0 || given[i]) continue;
        given[i] = true;
        arrays[i] =
            (syl_array){.rank = tensor->rank, .data = tensor->data, .on_device = tensor->on_device != 0};
        bool is_f32 = strcmp(tensor->element, "f32") == 0;
        arrays[i].dtype = is_f32 ? SYL_f32 : SYL_i32;
        if (!is_f32 && strcmp(tensor->element, "i32") != 0) {
            return syl_error(call->diag, SYL_ERR_api_argument, SYL_NOWHERE,
                             "input \"%s\" has elements \"%s\", expected f32 or i32", tensor->name,
                             tensor->element);
        }
        memcpy(arrays[i].dims, tensor->dims, sizeof arrays[i].dims);
        return SYL_OK;
    }
    const char *nearest = syl_nearest(tensor->name, names);
    return syl_error(call->diag, SYL_ERR_api_argument, SYL_NOWHERE,
                     "input \"%s\" is no argument of the model, or given twice%s%s%s", tensor->name,
                     nearest ? "; did you mean \"" : "", nearest ? nearest : "", nearest ? "\"?" : "");
}

static syl_status call_function(api_call *call, syl_session *session, const syl_tensor *inputs, size_t n) {
    static const char name[] = "syl_session_call";
    syl_array arrays[MAX_INPUTS] = {0};
    bool given[MAX_INPUTS] = {0};
    if (!session->function) {
        return syl_error(call->diag, SYL_ERR_exec_signature, SYL_NOWHERE,
                         "\"%s\" is a language model: it takes tokens", session->program->path);
    }
    int wanted = syl_function_inputs(session->function);
    if (wanted > MAX_INPUTS) return api_bad(call, name, "the model has too many arguments");
    if (n > MAX_INPUTS || (n && !api_fits(inputs)))
        return api_bad(call, name, "inputs is NULL, has no size, or too many");
    for (size_t i = 0; i < n; i++) {
        syl_tensor tensor;
        if (!take_input(&tensor, inputs, i) || !tensor.name || !tensor.element || !tensor.data)
            return api_bad(call, name,
                           "an input has no name, element or data, or another size than the first");
        if (tensor.rank < 0 || tensor.rank > SYL_MAX_RANK) return api_bad(call, name, "the rank of an input");
        SYL_TRY(input_of(call, session->function, &tensor, given, arrays));
    }
    for (int i = 0; i < wanted; i++) {
        if (!given[i]) {
            return syl_error(call->diag, SYL_ERR_api_argument, SYL_NOWHERE, "input \"%s\" is missing",
                             syl_function_input_name(session->function, i));
        }
    }
    session->called = false;
    SYL_TRY(syl_function_run(session->function, arrays, call->diag));
    session->called = true;
    return SYL_OK;
}

syl_status syl_session_call(syl_session *session, const syl_tensor *inputs, size_t n) {
    api_call call;
    SYL_TRY(api_begin(&call, session ? session->instance : NULL));
    return api_end(&call, call_function(&call, session, inputs, n));
}

syl_status syl_session_output(const syl_session *session, size_t index, syl_tensor *out) {
    if (!session || !session->called || !api_fits(out) ||
        index >= (size_t)syl_function_outputs(session->function))
        return SYL_USAGE;
    syl_array array = syl_function_output(session->function, (int)index);
    syl_tensor tensor = {.name = syl_function_output_name(session->function, (int)index),
                         .element = syl_dtypes[array.dtype].name,
                         .rank = array.rank,
                         .data = array.data,
                         .on_device = array.on_device};
    memcpy(tensor.dims, array.dims, sizeof array.dims);
    api_give(out, &tensor, sizeof tensor);
    return SYL_OK;
}

/* ---- running tokens ---- */

static syl_status run(api_call *call, syl_session *session, const syl_tokens *given) {
    static const char name[] = "syl_session_run";
    syl_tokens tokens;
    if (!api_take(&tokens, sizeof tokens, given))
        return api_bad(call, name, "tokens is NULL, has no size, or asks for what this version lacks");
    if (!tokens.ids || (tokens.n_rows && !tokens.rows)) return api_bad(call, name, "ids or rows is NULL");
    if (tokens.n > INT32_MAX || tokens.n_rows > INT32_MAX)
        return api_bad(call, name, "n or n_rows is above 2^31 - 1");
    syl_batch batch = {.n_tokens = (int64_t)tokens.n,
                       .ids = tokens.ids,
                       .seq = tokens.sequences,
                       .n_rows = (int64_t)tokens.n_rows,
                       .rows = tokens.rows};
    session->n_rows = 0;
    SYL_TRY(syl_context_run(session->lm.context, &batch, call->diag));
    session->n_rows = tokens.n_rows;
    return SYL_OK;
}

syl_status syl_session_run(syl_session *session, const syl_tokens *tokens) {
    api_call call;
    SYL_TRY(api_begin_lm(&call, session));
    return api_end(&call, run(&call, session, tokens));
}

const float *syl_session_logits(const syl_session *session, size_t row) {
    if (!session || row >= session->n_rows) return NULL;
    if (!syl_context_fetched(session->lm.context)) {
        api_call call;
        if (api_begin(&call, session->instance) != SYL_OK) return NULL;
        if (api_end(&call, syl_context_fetch(session->lm.context, call.diag)) != SYL_OK) return NULL;
    }
    return syl_context_logits(session->lm.context, (int64_t)row);
}

syl_status syl_session_read(syl_session *session, int sequence, const int32_t *ids, size_t n,
                            const float **logits) {
    api_call call;
    const float *last = NULL;
    if (logits) *logits = NULL;
    SYL_TRY(api_begin_lm(&call, session));
    if (!ids || n < 1 || n > INT32_MAX || !has_sequence(session, sequence))
        return api_end(&call, api_bad(&call, __func__, "no ids, too many, or no such sequence"));
    session->n_rows = 0;
    syl_status status =
        syl_lm_prefill(&session->lm, sequence, ids, (int64_t)n, call.diag, logits ? &last : NULL);
    if (status == SYL_OK) session->n_rows = 1;
    if (logits) *logits = last;
    return api_end(&call, status);
}
