/* syl run: @forward of a model of any kind but a language model, on tensors from .npy files. */
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "tools/inputs.h"

typedef struct settings {
    opt_list inputs, outputs, expected;
    double atol, rtol;
    int64_t repeat;
} settings;

static void defaults(void *user) {
    settings *s = user;
    s->atol = 1e-5;
    s->rtol = 1e-5;
    s->repeat = 1;
}

static const opt_spec options[] = {
    OPT_ROW_LIST(settings, inputs, "input", 'i', "NAME=@X.npy", "an input (f32 or i32); give each one"),
    OPT_ROW_LIST(settings, outputs, "output", 'o', "NAME=@Y.npy", "where to write a result"),
    OPT_ROW_LIST(settings, expected, "expect", 0, "NAME=@Y.npy",
                 "what a result must be: |result - expected| <= atol + rtol * |expected|"),
    OPT_ROW_NUMBER(settings, atol, "atol", 0, "A", 0, 1e30, "absolute tolerance (default 1e-5)"),
    OPT_ROW_NUMBER(settings, rtol, "rtol", 0, "R", 0, 1e30, "relative tolerance (default 1e-5)"),
    OPT_ROW_INT(settings, repeat, "repeat", 0, "N", 1, 1000000,
                "run N times; the time is that of the fastest"),
    {0},
};

/* A result of the last run. */
static syl_status npy_of(const syl_session *session, int index, syl_npy *out) {
    syl_tensor tensor = {.size = sizeof tensor};
    SYL_TRY(syl_session_output(session, (size_t)index, &tensor));
    *out = (syl_npy){.is_int = strcmp(tensor.element, "i32") == 0,
                     .rank = tensor.rank,
                     .elements = 1,
                     .data = tensor.data};
    for (int d = 0; d < tensor.rank && d < SYL_NPY_MAX_RANK; d++) {
        out->dims[d] = tensor.dims[d];
        out->elements *= tensor.dims[d];
    }
    return SYL_OK;
}

static syl_status open_inputs(tool *t, const settings *s, const syl_program *p, syl_npy *files) {
    int n = (int)syl_program_values(p, SYL_DIRECTION_IN);
    SYL_TRY(inputs_open(t, &s->inputs, p, files));
    for (int i = 0; i < n; i++) {
        if (files[i].mapping.data) continue;
        syl_value_info info = inputs_value(p, SYL_DIRECTION_IN, i);
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE,
                         "input \"%s\" (%s) is missing: --input %s=@FILE.npy", info.name,
                         inputs_type_text(t, &info), info.name);
    }
    return SYL_OK;
}

/* Largest errors, and the first element outside the tolerance; NaN is outside of any. */
static syl_status compare(tool *t, const settings *s, const char *name, const syl_npy *got,
                          const syl_npy *want, tool_json *json) {
    bool same = got->rank == want->rank && !want->is_int;
    for (int d = 0; same && d < got->rank; d++) same = got->dims[d] == want->dims[d];
    if (!same)
        return syl_error(t->diag, SYL_ERR_exec_expect, SYL_NOWHERE,
                         "result \"%s\" and what is expected differ in type or shape", name);
    const float *a = got->data, *b = want->data;
    double worst = 0, squares = 0;
    int64_t outside = 0, first = -1;
    for (int64_t i = 0; i < got->elements; i++) {
        double error = fabs((double)a[i] - (double)b[i]);
        bool inside = a[i] == b[i] || error <= s->atol + s->rtol * fabs((double)b[i]);
        if (!inside && first < 0) first = i;
        outside += !inside;
        if (error > worst || isnan(error)) worst = error;
        squares += error * error;
    }
    double rms = sqrt(squares / (double)(got->elements ? got->elements : 1));
    if (t->json) {
        tool_json_number(json, syl_arena_printf(&t->arena, "%s_max_error", name), worst);
        tool_json_number(json, syl_arena_printf(&t->arena, "%s_rms_error", name), rms);
        tool_json_int(json, syl_arena_printf(&t->arena, "%s_outside", name), outside);
    }
    tool_say(t, "%s: largest error %.3g, rms %.3g", name, worst, rms);
    if (!outside) return SYL_OK;
    return syl_error(t->diag, SYL_ERR_exec_expect, SYL_NOWHERE,
                     "result \"%s\": %lld of %lld elements are outside atol %g, rtol %g; element %lld is "
                     "%.9g, expected %.9g",
                     name, (long long)outside, (long long)got->elements, s->atol, s->rtol, (long long)first,
                     (double)a[first], (double)b[first]);
}

static syl_status hand_out(tool *t, const settings *s, const syl_program *p, const syl_session *session,
                           tool_json *json) {
    int index;
    const char *path;
    syl_npy got, want;
    for (int i = 0; i < s->outputs.n; i++) {
        SYL_TRY(inputs_find(t, p, "output", s->outputs.p[i], SYL_DIRECTION_OUT, &index, &path));
        SYL_TRY(npy_of(session, index, &got));
        SYL_TRY(syl_npy_write(path, &got, t->diag));
    }
    syl_status status = SYL_OK;
    for (int i = 0; i < s->expected.n; i++) {
        SYL_TRY(inputs_find(t, p, "expect", s->expected.p[i], SYL_DIRECTION_OUT, &index, &path));
        SYL_TRY(npy_of(session, index, &got));
        SYL_TRY(syl_npy_open(path, t->diag, &want));
        syl_status one = compare(t, s, inputs_value(p, SYL_DIRECTION_OUT, index).name, &got, &want, json);
        syl_npy_close(&want);
        if (status == SYL_OK) status = one;
    }
    return status;
}

static syl_status run_program(tool *t, const settings *s, const syl_program *p, syl_session *session,
                              syl_npy *files) {
    SYL_TRY(open_inputs(t, s, p, files));
    size_t n = syl_program_values(p, SYL_DIRECTION_IN);
    syl_tensor *inputs = SYL_NEW_ARRAY(&t->arena, syl_tensor, n + 1);
    for (size_t i = 0; i < n; i++)
        inputs[i] = inputs_tensor(inputs_value(p, SYL_DIRECTION_IN, (int)i).name, &files[i]);
    double best = INFINITY;
    for (int64_t r = 0; r < s->repeat; r++) {
        double start = tool_seconds();
        SYL_TRY(syl_session_call(session, inputs, n));
        double seconds = tool_seconds() - start;
        if (seconds < best) best = seconds;
    }
    tool_say(t, "ran in %.4f s", best);
    tool_json json = tool_json_begin(t);
    tool_json_number(&json, "seconds", best);
    syl_status status = hand_out(t, s, p, session, &json);
    if (t->json && (status == SYL_OK || status == SYL_MISMATCH)) SYL_TRY(tool_json_end(t, &json));
    return status;
}

static syl_status run_session(tool *t, const settings *s, const syl_program *p, syl_session *session) {
    if (syl_session_limit(session) > 0)
        return syl_session_call(session, NULL, 0); /* a language model: refused */
    size_t n = syl_program_values(p, SYL_DIRECTION_IN);
    syl_npy *files = SYL_NEW_ARRAY(&t->arena, syl_npy, n + 1);
    syl_status status = run_program(t, s, p, session, files);
    for (size_t i = 0; i < n; i++) syl_npy_close(&files[i]);
    return status;
}

static syl_status run(tool *t, void *user, const char **args, int n_args) {
    (void)n_args;
    syl_program *program;
    syl_session *session;
    SYL_TRY(tool_open(t, args[0], &program));
    syl_status status = syl_session_create(t->instance, program, NULL, &session);
    if (status == SYL_OK) status = run_session(t, user, program, session);
    syl_session_destroy(session);
    syl_program_destroy(program);
    return status;
}

const verb verb_run = {
    .name = "run",
    .summary = "run a model on tensors from NumPy files",
    .usage = "FILE.syl --input NAME=@X.npy ... [--output NAME=@Y.npy] [--expect NAME=@REF.npy]",
    .details = "The names are those of the graph's inputs and outputs; `syl dump FILE --ir` shows them. "
               "Files are read strictly:\n"
               "little-endian f32 or i32 in C order. A result outside the tolerance ends with exit code 1.",
    .options = options,
    .settings_size = sizeof(settings),
    .defaults = defaults,
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
