/* syl profile: what a run spends its time on, step by step. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "tools/tool.h"

typedef struct settings {
    const char *output;
    int64_t prompt, rows;
} settings;

static const opt_spec options[] = {
    OPT_ROW_TEXT(settings, output, "output", 'o', "TRACE.json",
                 "where to write a trace for Perfetto (ui.perfetto.dev)"),
    OPT_ROW_INT(settings, prompt, "prompt", 'p', "N", 1, 1 << 20,
                "language models: tokens of the prompt in front of the decode step (default: 512)"),
    OPT_ROW_INT(settings, rows, "rows", 0, "N", 1, 1 << 20,
                "other models: what symbols of shapes stand for (default: 1024)"),
    {0},
};

static void defaults(void *user) {
    settings *s = user;
    s->prompt = 512;
    s->rows = 1024;
}

/* All steps that one kernel runs. */
typedef struct row {
    const char *kernel;
    int number;
    int64_t runs;
    double seconds, bytes, operations, floor_s;
} row;

typedef struct profile {
    tool *t;
    double copy_rate;
    const char *phase;
    double begin_s; /* of the phase, in the trace */
    double end_s;
    SYL_VEC(row) rows;
    syl_text trace;
} profile;

static row *row_of(profile *p, const syl_step_report *step) {
    for (size_t i = 0; i < p->rows.n; i++)
        if (p->rows.p[i].number == step->kernel_number) return &p->rows.p[i];
    SYL_PUSH(&p->t->arena, &p->rows,
             (row){.kernel = syl_arena_strdup(&p->t->arena, step->kernel), .number = step->kernel_number});
    return &p->rows.p[p->rows.n - 1];
}

/* The shortest time for what the step does: by the device's copy, or by its arithmetic. */
static double floor_of(const profile *p, const syl_step_report *step) {
    double memory = p->copy_rate > 0 ? step->bytes / p->copy_rate : 0;
    double arithmetic = step->peak > 0 ? step->operations / step->peak : 0;
    return memory > arithmetic ? memory : arithmetic;
}

static void take_step(void *user, const syl_step_report *step) {
    profile *p = user;
    row *r = row_of(p, step);
    double floor_s = floor_of(p, step);
    r->runs++;
    r->seconds += step->seconds;
    r->bytes += step->bytes;
    r->operations += step->operations;
    r->floor_s += floor_s;
    if (p->end_s < p->begin_s + step->start_s + step->seconds)
        p->end_s = p->begin_s + step->start_s + step->seconds;
    syl_text_printf(&p->trace, "%s{\"name\": ", p->trace.n ? ",\n" : "");
    syl_json_quote(&p->trace, step->kernel);
    syl_text_printf(&p->trace,
                    ", \"cat\": \"%s\", \"ph\": \"X\", \"pid\": 1, \"tid\": 1, \"ts\": %.3f, \"dur\": %.3f, "
                    "\"args\": {\"step\": ",
                    p->phase, 1e6 * (p->begin_s + step->start_s), 1e6 * step->seconds);
    syl_json_quote(&p->trace, step->label);
    syl_text_printf(&p->trace,
                    ", \"rows\": %lld, \"bytes\": %.0f, \"operations\": %.0f, \"roofline_percent\": %.1f}}",
                    (long long)step->rows, step->bytes, step->operations,
                    step->seconds > 0 ? 100 * floor_s / step->seconds : 0);
}

static int by_time(const void *a, const void *b) {
    double x = ((const row *)a)->seconds, y = ((const row *)b)->seconds;
    return (x < y) - (x > y);
}

/* A phase's kernels, the most expensive first; forgotten behind it. */
static syl_status print_phase(profile *p, const char *title, tool_json *json) {
    syl_text text = {.arena = &p->t->arena};
    double total = 0;
    if (p->rows.n) qsort(p->rows.p, p->rows.n, sizeof *p->rows.p, by_time);
    for (size_t i = 0; i < p->rows.n; i++) total += p->rows.p[i].seconds;
    if (p->t->json) {
        syl_text_printf(&text, "[");
        for (size_t i = 0; i < p->rows.n; i++) {
            const row *r = &p->rows.p[i];
            syl_text_printf(&text, "%s{\"kernel\": ", i ? ", " : "");
            syl_json_quote(&text, r->kernel);
            syl_text_printf(&text,
                            ", \"number\": %d, \"runs\": %lld, \"seconds\": %.9f, \"bytes\": %.0f, "
                            "\"operations\": %.0f, \"floor_s\": %.9f}",
                            r->number, (long long)r->runs, r->seconds, r->bytes, r->operations, r->floor_s);
        }
        syl_text_printf(&text, "]");
        tool_json_raw(json, p->phase, text.p);
    } else {
        syl_text_printf(&text, "%s: %.3f ms\n%9s %6s %6s %10s %10s %6s  %s\n", title, 1e3 * total, "us", "%",
                        "runs", "MB", "Mop", "roof%", "kernel");
        for (size_t i = 0; i < p->rows.n; i++) {
            const row *r = &p->rows.p[i];
            syl_text_printf(&text, "%9.1f %6.1f %6lld %10.2f %10.1f %6.1f  k%d %s\n", 1e6 * r->seconds,
                            total > 0 ? 100 * r->seconds / total : 0, (long long)r->runs, 1e-6 * r->bytes,
                            1e-6 * r->operations, r->seconds > 0 ? 100 * r->floor_s / r->seconds : 0,
                            r->number, r->kernel);
        }
        SYL_TRY(tool_print(p->t, text.p, text.n));
    }
    p->rows.n = 0;
    p->begin_s = p->end_s;
    return SYL_OK;
}

/* ---- language models: a prompt, then a token behind it ---- */

static syl_status run_tokens(syl_session *session, const int32_t *ids, int64_t n, bool measured, profile *p) {
    int32_t last = (int32_t)n - 1;
    syl_tokens tokens = {.size = sizeof tokens, .ids = ids, .n = (size_t)n, .rows = &last, .n_rows = 1};
    if (measured) SYL_TRY(syl_session_profile(session, take_step, p));
    SYL_TRY(syl_session_run(session, &tokens));
    return syl_session_wait(session);
}

static syl_status profile_lm(profile *p, const settings *s, const syl_program_info *info,
                             syl_session *session, tool_json *json) {
    int32_t *ids = SYL_NEW_ARRAY(&p->t->arena, int32_t, (size_t)s->prompt + 1);
    for (int64_t i = 0; i <= s->prompt; i++) ids[i] = (int32_t)((i * 7919 + 1) % info->token_limit);
    for (int measured = 0; measured < 2; measured++) { /* the first run finds code and memory cold */
        SYL_TRY(syl_session_truncate(session, 0, 0));
        p->phase = "prefill";
        SYL_TRY(run_tokens(session, ids, s->prompt, measured, p));
        if (measured)
            SYL_TRY(print_phase(
                p, syl_arena_printf(&p->t->arena, "prefill of %lld tokens", (long long)s->prompt), json));
        p->phase = "decode";
        SYL_TRY(run_tokens(session, ids + s->prompt, 1, measured, p));
        if (measured)
            SYL_TRY(print_phase(p, syl_arena_printf(&p->t->arena, "decode of 1 token behind them"), json));
    }
    return SYL_OK;
}

/* ---- functions of tensors: a call on made-up inputs ---- */

static syl_status profile_function(profile *p, const settings *s, const syl_program *program,
                                   syl_session *session, tool_json *json) {
    size_t n = syl_program_values(program, SYL_DIRECTION_IN);
    syl_tensor *inputs = SYL_NEW_ARRAY(&p->t->arena, syl_tensor, n + 1);
    for (size_t i = 0; i < n; i++) {
        syl_value_info info = {.size = sizeof info};
        SYL_TRY(syl_program_value(program, SYL_DIRECTION_IN, i, &info));
        inputs[i] = (syl_tensor){
            .size = sizeof *inputs, .name = info.name, .element = info.element, .rank = info.rank};
        size_t elements = 1;
        for (int d = 0; d < info.rank; d++) {
            inputs[i].dims[d] = info.dims[d] < 0 ? s->rows : info.dims[d];
            elements *= (size_t)inputs[i].dims[d];
        }
        float *data =
            SYL_NEW_ARRAY(&p->t->arena, float, elements); /* i32: zeros, which pick rows that are there */
        for (size_t k = 0; strcmp(info.element, "f32") == 0 && k < elements; k++)
            data[k] = (float)(k * 7919 % 1000) / 500 - 1;
        inputs[i].data = data;
    }
    p->phase = "call";
    SYL_TRY(syl_session_call(session, inputs, n));
    SYL_TRY(syl_session_profile(session, take_step, p));
    SYL_TRY(syl_session_call(session, inputs, n));
    return print_phase(p, syl_arena_printf(&p->t->arena, "a call with %lld rows", (long long)s->rows), json);
}

static syl_status write_trace(profile *p, const char *path) {
    syl_text text = {.arena = &p->t->arena};
    syl_text_printf(&text, "{\"displayTimeUnit\": \"ns\", \"traceEvents\": [\n%s\n]}\n",
                    p->trace.p ? p->trace.p : "");
    SYL_TRY(syl_file_write(path, text.p, text.n, p->t->diag));
    tool_say(p->t, "wrote %s", path);
    return SYL_OK;
}

static syl_status profile_session(tool *t, const settings *s, const syl_program *program,
                                  syl_session *session) {
    syl_program_info info = {.size = sizeof info};
    profile p = {.t = t, .trace = {.arena = &t->arena}};
    tool_json json = tool_json_begin(t);
    SYL_TRY(syl_program_describe(program, &info));
    SYL_TRY(syl_session_copy_rate(session, &p.copy_rate));
    tool_json_text(&json, "device", info.device);
    if (info.processor) tool_json_text(&json, "processor", info.processor);
    tool_json_number(&json, "copy_bytes_per_s", p.copy_rate);
    if (info.vocabulary)
        SYL_TRY(profile_lm(&p, s, &info, session, &json));
    else
        SYL_TRY(profile_function(&p, s, program, session, &json));
    if (s->output) SYL_TRY(write_trace(&p, s->output));
    if (t->json) return tool_json_end(t, &json);
    const char *line = syl_arena_printf(&t->arena, "a copy in memory reaches %.1f GB/s (read and written)\n",
                                        1e-9 * p.copy_rate);
    return tool_print(t, line, strlen(line));
}

static syl_status run(tool *t, void *user, const char **args, int n_args) {
    (void)n_args;
    const settings *s = user;
    syl_program *program;
    syl_session *session;
    SYL_TRY(tool_open(t, args[0], &program));
    syl_session_options session_options = {.size = sizeof session_options};
    syl_status status = syl_session_create(t->instance, program, &session_options, &session);
    if (status == SYL_OK) status = profile_session(t, s, program, session);
    syl_session_destroy(session);
    syl_program_destroy(program);
    return status;
}

const verb verb_profile = {
    .name = "profile",
    .summary = "show what a model spends its time on",
    .usage = "FILE.syl [-o TRACE.json] [-p 512] [--rows N]",
    .details = "A table of kernels: time, bytes and operations of all their steps, and how near they come to "
               "the shortest time for\n"
               "these (roof%: by a measured copy, on a GPU also by the arithmetic of its datasheet).",
    .options = options,
    .settings_size = sizeof(settings),
    .defaults = defaults,
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
