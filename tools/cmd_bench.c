/* syl bench: speed of prefill and decode, and how long loading takes. */
#include <stdlib.h>

#include "tools/tool.h"

typedef struct settings {
    int64_t prompt, new_tokens, repeat;
    const char *batches, *contexts;
} settings;

static const opt_spec options[] = {
    OPT_ROW_INT(settings, prompt, "prompt", 'p', "N", 1, 1 << 20, "tokens of the prompt (default: 512)"),
    OPT_ROW_INT(settings, new_tokens, "tokens", 'n', "N", 1, 1 << 20,
                "tokens to decode behind it (default: 128)"),
    OPT_ROW_INT(settings, repeat, "repeat", 'r', "N", 1, 1000,
                "runs, of which the median counts (default: 5)"),
    OPT_ROW_TEXT(settings, batches, "batch", 'b', "N,N,...",
                 "decode so many sequences at once, for each number (default: 1)"),
    OPT_ROW_TEXT(settings, contexts, "context", 'c', "N,N,...",
                 "behind so many positions of each sequence (default: the prompt's)"),
    {0},
};

static void defaults(void *user) {
    *(settings *)user = (settings){.prompt = 512, .new_tokens = 128, .repeat = 5};
}

enum { FIRST_PROMPT = 16 }; /* tokens of the prompt behind first_token_s */

/* Token ids spread over the vocabulary: what they are does not matter to the speed. */
static void fill_ids(int32_t *ids, int64_t n, int64_t vocab) {
    uint64_t state = 1;
    for (int64_t i = 0; i < n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        ids[i] = (int32_t)((state >> 33) % (uint64_t)vocab);
    }
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int64_t n) {
    qsort(values, (size_t)n, sizeof *values, compare_doubles);
    return n % 2 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

/* "1,8,32" */
enum { MAX_NUMBERS = 32 };
typedef struct numbers {
    int64_t p[MAX_NUMBERS], most;
    int n;
} numbers;

static syl_status parse_numbers(tool *t, const char *option, const char *text, int64_t otherwise,
                                int64_t limit, numbers *out) {
    *out = (numbers){.p = {otherwise}, .n = 1, .most = otherwise};
    for (out->n = text ? 0 : 1; text; text = *text ? text + 1 : NULL) {
        char *end;
        long long value = strtoll(text, &end, 10);
        if (end == text || (*end && *end != ',') || value < 1 || value > limit || out->n == MAX_NUMBERS)
            return syl_error(
                t->diag, SYL_ERR_cli_value, SYL_NOWHERE,
                "--%s: expected at most %d numbers from 1 to %lld, separated by commas, found \"%.20s\"",
                option, MAX_NUMBERS, (long long)limit, text);
        out->p[out->n++] = value;
        if (value > out->most || out->n == 1) out->most = value;
        text = end;
        if (!*text) break;
    }
    return SYL_OK;
}

typedef struct bench {
    tool *t;
    const settings *s;
    syl_program_info info;
    syl_session *session;
    int threads;
    double copy_rate; /* bytes a second */
    int32_t *ids;     /* enough for a prompt or a context and what is decoded behind it */
} bench;

/* Appends tokens to sequences [0, n), each from its own place in ids. */
static syl_status read_all(const bench *b, int64_t n, int64_t tokens) {
    for (int64_t i = 0; i < n; i++) {
        SYL_TRY(syl_session_truncate(b->session, (int)i, 0));
        SYL_TRY(syl_session_read(b->session, (int)i, b->ids, (size_t)tokens, NULL));
    }
    return syl_session_wait(b->session);
}

/* One token of each of n sequences, with its logits, again and again. */
static syl_status decode_all(const bench *b, int64_t n, int64_t steps) {
    int32_t *sequences = SYL_NEW_ARRAY(&b->t->arena, int32_t, (size_t)n);
    for (int64_t i = 0; i < n; i++) sequences[i] = (int32_t)i;
    for (int64_t k = 0; k < steps; k++) {
        syl_tokens tokens = {.size = sizeof tokens,
                             .ids = b->ids + k,
                             .sequences = sequences,
                             .n = (size_t)n,
                             .rows = sequences,
                             .n_rows = (size_t)n};
        SYL_TRY(syl_session_run(b->session, &tokens));
    }
    return syl_session_wait(b->session);
}

/* ---- one result ---- */

typedef struct result {
    int64_t batch, context;
    double step_s;   /* median */
    double bytes;    /* that a step reads at least: weights, and keys and values of all positions */
    double roofline; /* part of the rate of a copy */
    double kv_bytes; /* of the cache, behind the last step */
} result;

static syl_status measure_decode(const bench *b, int64_t batch, int64_t context, result *out) {
    double *times = SYL_NEW_ARRAY(&b->t->arena, double, (size_t)b->s->repeat);
    for (int64_t r = 0; r < b->s->repeat; r++) {
        SYL_TRY(read_all(b, batch, context));
        SYL_TRY(decode_all(b, batch, 2)); /* the first steps of a shape cost more */
        for (int64_t i = 0; i < batch; i++) SYL_TRY(syl_session_truncate(b->session, (int)i, context));
        SYL_TRY(syl_session_wait(b->session));
        double start = tool_seconds();
        SYL_TRY(decode_all(b, batch, b->s->new_tokens));
        times[r] = (tool_seconds() - start) / (double)b->s->new_tokens;
    }
    double positions = (double)batch * ((double)context + 0.5 * (double)b->s->new_tokens);
    *out = (result){.batch = batch, .context = context, .step_s = median(times, b->s->repeat)};
    out->bytes = (double)b->info.weight_bytes + positions * (double)b->info.position_bytes;
    out->roofline = b->copy_rate > 0 ? out->bytes / b->copy_rate / out->step_s : 0;
    out->kv_bytes = (double)batch * (double)(context + b->s->new_tokens) * (double)b->info.position_bytes;
    return SYL_OK;
}

static syl_status measure_prefill(const bench *b, double *out) {
    double *rates = SYL_NEW_ARRAY(&b->t->arena, double, (size_t)b->s->repeat);
    for (int64_t r = 0; r < b->s->repeat; r++) {
        double start = tool_seconds();
        SYL_TRY(read_all(b, 1, b->s->prompt));
        rates[r] = (double)b->s->prompt / (tool_seconds() - start);
    }
    *out = median(rates, b->s->repeat);
    return SYL_OK;
}

/* ---- the report ---- */

typedef struct report {
    double load_s, first_s, prefill;
    result *results;
    int n;
} report;

static syl_status print_json(const bench *b, const report *r) {
    tool_json json = tool_json_begin(b->t);
    syl_text list = {.arena = &b->t->arena};
    for (int i = 0; i < r->n; i++) {
        const result *one = &r->results[i];
        syl_text_printf(&list,
                        "%s{\"batch\": %lld, \"context\": %lld, \"step_s\": %.9f, \"tokens_per_s\": %.3f, "
                        "\"step_bytes\": %.0f, \"roofline_percent\": %.3f, \"kv_bytes\": %.0f}",
                        i ? ", " : "", (long long)one->batch, (long long)one->context, one->step_s,
                        (double)one->batch / one->step_s, one->bytes, 100 * one->roofline, one->kv_bytes);
    }
    tool_json_number(&json, "prefill_tokens_per_s", r->prefill);
    tool_json_number(&json, "decode_tokens_per_s", (double)r->results[0].batch / r->results[0].step_s);
    tool_json_number(&json, "load_s", r->load_s);
    tool_json_number(&json, "open_s", b->info.open_s);
    tool_json_number(&json, "driver_s", b->info.driver_s);
    tool_json_number(&json, "pack_s", b->info.pack_s);
    tool_json_number(&json, "compile_s", b->info.compile_s);
    tool_json_number(&json, "modules_s", b->info.modules_s);
    tool_json_number(&json, "first_token_s", r->first_s);
    tool_json_int(&json, "prompt_tokens", b->s->prompt);
    tool_json_int(&json, "tokens", b->s->new_tokens);
    tool_json_int(&json, "repeat", b->s->repeat);
    tool_json_int(&json, "threads", b->threads);
    tool_json_int(&json, "kernels", b->info.kernels);
    tool_json_int(&json, "kernels_compiled", b->info.kernels_compiled);
    tool_json_int(&json, "kernels_cached", b->info.kernels_cached);
    tool_json_int(&json, "kernels_tuned", b->info.kernels_tuned);
    tool_json_int(&json, "packed_bytes", (int64_t)b->info.packed_bytes);
    tool_json_int(&json, "context_bytes", (int64_t)syl_session_bytes(b->session));
    tool_json_text(&json, "cpu", b->info.cpu);
    tool_json_text(&json, "device", b->info.device);
    if (b->info.processor) tool_json_text(&json, "processor", b->info.processor);
    tool_json_int(&json, "device_bytes", (int64_t)b->info.device_bytes);
    tool_json_int(&json, "weight_bytes", b->info.weight_bytes);
    tool_json_number(&json, "copy_bytes_per_s", b->copy_rate);
    tool_json_raw(&json, "results", syl_arena_printf(&b->t->arena, "[%s]", list.p));
    return tool_json_end(b->t, &json);
}

static syl_status print_report(const bench *b, const report *r) {
    if (b->t->json) return print_json(b, r);
    syl_text text = {.arena = &b->t->arena};
    const result *first = &r->results[0];
    syl_text_printf(&text, "prefill  %9.1f tokens/s  (%lld tokens)\n", r->prefill, (long long)b->s->prompt);
    if (r->n == 1) {
        syl_text_printf(
            &text,
            "decode   %9.1f tokens/s  (%lld tokens behind %lld, batch %lld; %.1f %% of a copy's rate)\n",
            (double)first->batch / first->step_s, (long long)b->s->new_tokens, (long long)first->context,
            (long long)first->batch, 100 * first->roofline);
    } else {
        syl_text_printf(&text, "%7s %8s %10s %12s %10s %7s %10s\n", "batch", "context", "ms/step", "tokens/s",
                        "MB/step", "% copy", "KV MB");
        for (int i = 0; i < r->n; i++) {
            const result *one = &r->results[i];
            syl_text_printf(&text, "%7lld %8lld %10.4f %12.1f %10.1f %7.1f %10.1f\n", (long long)one->batch,
                            (long long)one->context, 1e3 * one->step_s, (double)one->batch / one->step_s,
                            1e-6 * one->bytes, 100 * one->roofline, 1e-6 * one->kv_bytes);
        }
    }
    syl_text_printf(&text,
                    "load     %9.3f s         (first token of a prompt of %d: %.3f s)\n"
                    "memory   %9.1f MB        (weights; buffers and KV cache %.1f MB)\n",
                    r->load_s, FIRST_PROMPT, r->first_s,
                    1e-6 * (double)(b->info.device_bytes ? b->info.device_bytes : b->info.packed_bytes),
                    1e-6 * (double)syl_session_bytes(b->session));
    if (b->info.processor)
        syl_text_printf(&text, "%s (%s), %s", b->info.device, b->info.processor, b->info.cpu);
    else
        syl_text_printf(&text, "%d threads, %s", b->threads, b->info.cpu);
    syl_text_printf(&text, ", a copy reaches %.0f GB/s, median of %lld runs\n", 1e-9 * b->copy_rate,
                    (long long)b->s->repeat);
    return tool_print(b->t, text.p, text.n);
}

/* ---- the whole ---- */

static syl_status measure(bench *b, const numbers *batches, const numbers *contexts, double start,
                          double load_s) {
    int64_t longest = b->s->prompt > contexts->most ? b->s->prompt : contexts->most, n;
    longest += b->s->new_tokens + batches->most;
    n = longest > FIRST_PROMPT ? longest : FIRST_PROMPT;
    b->ids = SYL_NEW_ARRAY(&b->t->arena, int32_t, (size_t)n);
    fill_ids(b->ids, n, b->info.token_limit);
    report r = {.load_s = load_s};
    r.results = SYL_NEW_ARRAY(&b->t->arena, result, MAX_NUMBERS * MAX_NUMBERS);
    SYL_TRY(read_all(b, 1, FIRST_PROMPT));
    r.first_s = tool_seconds() - start;
    SYL_TRY(syl_session_copy_rate(b->session, &b->copy_rate));
    tool_progress progress = tool_progress_begin(b->t, "bench");
    double all = (double)batches->n * contexts->n + 1;
    SYL_TRY(measure_prefill(b, &r.prefill));
    for (int c = 0; c < contexts->n; c++) {
        for (int i = 0; i < batches->n; i++) {
            tool_progress_update(&progress, (double)r.n + 1, all, NULL);
            SYL_TRY(measure_decode(b, batches->p[i], contexts->p[c], &r.results[r.n++]));
        }
    }
    tool_progress_end(&progress);
    return print_report(b, &r);
}

static syl_status run(tool *t, void *user, const char **args, int n_args) {
    (void)n_args;
    const settings *s = user;
    syl_program *program;
    numbers batches, contexts;
    bench b = {.t = t, .s = s, .info.size = sizeof b.info};
    SYL_TRY(parse_numbers(t, "batch", s->batches, 1, 4096, &batches));
    SYL_TRY(parse_numbers(t, "context", s->contexts, s->prompt, 1 << 20, &contexts));
    double start = tool_seconds();
    SYL_TRY(tool_open(t, args[0], &program));
    int64_t context = (s->prompt > contexts.most ? s->prompt : contexts.most) + s->new_tokens;
    if (context < FIRST_PROMPT) context = FIRST_PROMPT;
    syl_session_options session_options = {
        .size = sizeof session_options, .context = context, .sequences = (int)batches.most};
    syl_status status = syl_session_create(t->instance, program, &session_options, &b.session);
    if (status == SYL_OK) status = syl_session_truncate(b.session, 0, 0); /* a language model has sequences */
    if (status == SYL_OK) status = syl_program_describe(program, &b.info);
    b.threads = syl_instance_threads(t->instance);
    if (status == SYL_OK) status = measure(&b, &batches, &contexts, start, tool_seconds() - start);
    syl_session_destroy(b.session);
    syl_program_destroy(program);
    return status;
}

const verb verb_bench = {
    .name = "bench",
    .summary = "measure the speed of a model",
    .usage = "FILE.syl [-p 512] [-n 128] [-r 5] [-b 1,8,32] [-c 512,4096]",
    .details = "Reads a prompt of made-up tokens and decodes behind it, several times; medians are printed. "
               "For each batch and context:\n"
               "the time of a step, and how near it comes to reading its weights, keys and values at the "
               "rate of a copy, measured here.\n"
               "load: opening the artifact, packing its weights, kernels from the cache or compiled, and the "
               "tokenizer; first token:\n"
               "load and a prompt of 16 tokens.",
    .options = options,
    .settings_size = sizeof(settings),
    .defaults = defaults,
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
