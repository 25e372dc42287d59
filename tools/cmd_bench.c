/* syl bench: speed of prefill and decode, and how long loading takes. */
#include <stdlib.h>

#include "tools/tool.h"

typedef struct settings {
    int64_t prompt, new_tokens, repeat;
} settings;

static const opt_spec options[] = {
    OPT_ROW_INT(settings, prompt, "prompt", 'p', "N", 1, 1 << 20, "tokens of the prompt (default: 512)"),
    OPT_ROW_INT(settings, new_tokens, "tokens", 'n', "N", 1, 1 << 20,
                "tokens to decode behind it (default: 128)"),
    OPT_ROW_INT(settings, repeat, "repeat", 'r', "N", 1, 1000,
                "runs, of which the median counts (default: 5)"),
    {0},
};

static void defaults(void *user) {
    *(settings *)user = (settings){512, 128, 5};
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

typedef struct bench {
    syl_program_info info;
    syl_session *session;
    int threads;
} bench;

static syl_status run_once(const settings *s, const bench *b, const int32_t *ids, double *prefill_s,
                           double *decode_s) {
    SYL_TRY(syl_session_truncate(b->session, 0, 0));
    double start = tool_seconds();
    SYL_TRY(syl_session_read(b->session, 0, ids, (size_t)s->prompt, NULL));
    SYL_TRY(syl_session_wait(b->session));
    double middle = tool_seconds();
    for (int64_t i = 0; i < s->new_tokens; i++)
        SYL_TRY(syl_session_read(b->session, 0, ids + s->prompt + i, 1, NULL));
    SYL_TRY(syl_session_wait(b->session));
    *prefill_s = middle - start;
    *decode_s = tool_seconds() - middle;
    return SYL_OK;
}

static syl_status report(tool *t, const settings *s, const bench *b, double load_s, double first_s,
                         double prefill, double decode) {
    if (t->json) {
        tool_json json = tool_json_begin(t);
        tool_json_number(&json, "prefill_tokens_per_s", prefill);
        tool_json_number(&json, "decode_tokens_per_s", decode);
        tool_json_number(&json, "load_s", load_s);
        tool_json_number(&json, "first_token_s", first_s);
        tool_json_int(&json, "prompt_tokens", s->prompt);
        tool_json_int(&json, "tokens", s->new_tokens);
        tool_json_int(&json, "repeat", s->repeat);
        tool_json_int(&json, "threads", b->threads);
        tool_json_int(&json, "kernels", b->info.kernels);
        tool_json_int(&json, "kernels_compiled", b->info.kernels_compiled);
        tool_json_int(&json, "packed_bytes", (int64_t)b->info.packed_bytes);
        tool_json_int(&json, "context_bytes", (int64_t)syl_session_bytes(b->session));
        tool_json_text(&json, "cpu", b->info.cpu);
        return tool_json_end(t, &json);
    }
    syl_text text = {.arena = &t->arena};
    syl_text_printf(
        &text,
        "prefill  %9.1f tokens/s  (%lld tokens)\ndecode   %9.1f tokens/s  (%lld tokens behind them)\n"
        "load     %9.3f s         (first token of a prompt of %d: %.3f s)\n%d threads, %s, median of %lld "
        "runs\n",
        prefill, (long long)s->prompt, decode, (long long)s->new_tokens, load_s, FIRST_PROMPT, first_s,
        b->threads, b->info.cpu, (long long)s->repeat);
    return tool_print(t, text.p, text.n);
}

static syl_status measure(tool *t, const settings *s, const bench *b, double start, double load_s) {
    int64_t n = s->prompt + s->new_tokens > FIRST_PROMPT ? s->prompt + s->new_tokens : FIRST_PROMPT;
    int32_t *ids = SYL_NEW_ARRAY(&t->arena, int32_t, (size_t)n);
    double *prefill = SYL_NEW_ARRAY(&t->arena, double, (size_t)s->repeat),
           *decode = SYL_NEW_ARRAY(&t->arena, double, (size_t)s->repeat);
    fill_ids(ids, n, b->info.token_limit);
    SYL_TRY(syl_session_read(b->session, 0, ids, FIRST_PROMPT, NULL));
    SYL_TRY(syl_session_wait(b->session));
    double first_s = tool_seconds() - start;
    tool_progress progress = tool_progress_begin(t, "bench");
    for (int64_t r = 0; r < s->repeat; r++) {
        double prefill_s, decode_s;
        SYL_TRY(run_once(s, b, ids, &prefill_s, &decode_s));
        prefill[r] = (double)s->prompt / prefill_s;
        decode[r] = (double)s->new_tokens / decode_s;
        tool_progress_update(&progress, (double)(r + 1), (double)s->repeat, NULL);
    }
    tool_progress_end(&progress);
    return report(t, s, b, load_s, first_s, median(prefill, s->repeat), median(decode, s->repeat));
}

static syl_status run(tool *t, void *user, const char **args, int n_args) {
    (void)n_args;
    const settings *s = user;
    syl_program *program;
    bench b = {.info.size = sizeof b.info};
    double start = tool_seconds();
    SYL_TRY(tool_open_lm(t, args[0], 0, &program, &b.session));
    syl_status status = syl_program_describe(program, &b.info);
    b.threads = syl_instance_threads(t->instance);
    if (status == SYL_OK) status = measure(t, s, &b, start, tool_seconds() - start);
    syl_session_destroy(b.session);
    syl_program_destroy(program);
    return status;
}

const verb verb_bench = {
    .name = "bench",
    .summary = "measure the speed of a model",
    .usage = "FILE.syl [-p 512] [-n 128] [-r 5]",
    .details = "Reads a prompt of made-up tokens and decodes behind it, several times; medians are printed. "
               "load: opening the artifact,\n"
               "packing its weights, kernels from the cache or compiled, and the tokenizer; first token: "
               "load and a prompt of 16 tokens.",
    .options = options,
    .settings_size = sizeof(settings),
    .defaults = defaults,
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
