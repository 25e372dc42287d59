/* Greedy text on the GPU and on the CPU: the same tokens, or a first difference that a tie explains.
 *
 *     gpu_greedy [--tokens 128] [--device cuda:N] ARTIFACT [PROMPT]
 *
 * At the first difference the logits of both tokens on both devices are printed. It is a tie where the two tokens are closer together than twice
 * the largest difference of a logit between the devices, and the devices' logits agree within 5 % (rms; docs/numerics.md, "How far apart
 * runs may be"). Public API alone. */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "syl/syl.h"

enum { MAX_TOKENS = 2048, NOT_RUN = 77 };
static const double agreement = 0.05;

typedef struct side {
    const char *device;
    syl_instance *instance;
    syl_program *program;
    syl_session *session;
    int32_t tokens[MAX_TOKENS];
    size_t n;
} side;

static void print_notice(void *user, const syl_notice *notice) {
    (void)user;
    fprintf(stderr, "%s\n", notice->text);
}

static void must(const side *s, syl_status status, const char *what) {
    if (status == SYL_OK) return;
    fprintf(stderr, "%s on %s: %s\n", what, s->device, syl_instance_error(s->instance));
    exit(status);
}

static int keep(void *user, int32_t id, const char *text, size_t size) {
    side *s = user;
    (void)text, (void)size;
    if (id >= 0 && s->n < MAX_TOKENS) s->tokens[s->n++] = id;
    return 1;
}

static void start(side *s, const char *path) {
    syl_instance_options options = {.size = sizeof options, .message = print_notice, .device = s->device};
    syl_session_options session = {.size = sizeof session, .context = MAX_TOKENS};
    size_t gpus = 0;
    const char *why = "";
    must(s, syl_instance_create(&options, &s->instance), "an instance");
    must(s, syl_instance_gpus(s->instance, &gpus, &why), "looking for GPUs");
    if (!gpus && strcmp(s->device, "cpu") != 0) {
        fprintf(stderr, "not run: %s\n", why);
        exit(NOT_RUN);
    }
    must(s, syl_program_load(s->instance, path, &s->program), path);
    must(s, syl_session_create(s->instance, s->program, &session, &s->session), "a session");
}

static void stop(side *s) {
    syl_session_destroy(s->session);
    syl_program_destroy(s->program);
    syl_instance_destroy(s->instance);
}

static void generate(side *s, const int32_t *prompt, size_t n_prompt, int64_t tokens) {
    syl_generate_settings settings = {.size = sizeof settings,
                                      .tokens = prompt,
                                      .n_tokens = n_prompt,
                                      .max_tokens = tokens,
                                      .token = keep,
                                      .user = s};
    must(s, syl_session_generate(s->session, &settings, NULL, NULL, NULL), "writing text");
}

/* The logits behind the prompt and the first n tokens. */
static const float *logits(side *s, const int32_t *prompt, size_t n_prompt, size_t n) {
    const float *out = NULL;
    must(s, syl_session_truncate(s->session, 0, 0), "emptying the sequence");
    must(s, syl_session_read(s->session, 0, prompt, n_prompt, &out), "reading the prompt");
    for (size_t i = 0; i < n; i++) /* one by one, as they were generated */
        must(s, syl_session_read(s->session, 0, &s->tokens[i], 1, &out), "reading a token");
    return out;
}

static int is_tie(side *cpu, side *gpu, const int32_t *prompt, size_t n_prompt, size_t at) {
    syl_program_info info = {.size = sizeof info};
    must(cpu, syl_program_describe(cpu->program, &info), "describing the model");
    const float *a = logits(cpu, prompt, n_prompt, at), *b = logits(gpu, prompt, n_prompt, at);
    double largest = 0, error = 0, power = 0;
    for (int64_t i = 0; i < info.vocabulary; i++) {
        double d = fabs((double)a[i] - b[i]);
        largest = d > largest ? d : largest;
        error += d * d;
        power += (double)a[i] * a[i];
    }
    int32_t x = cpu->tokens[at], y = gpu->tokens[at];
    double relative = sqrt(error / power), gap_cpu = (double)a[x] - a[y], gap_gpu = (double)b[y] - b[x];
    printf("first difference at token %zu: the CPU takes %d, the GPU %d\n", at, x, y);
    printf("  cpu logits  %.7g  %.7g\n  gpu logits  %.7g  %.7g\n", (double)a[x], (double)a[y], (double)b[x],
           (double)b[y]);
    printf("  logits differ by %.4g at most, %.3g relative\n", largest, relative);
    return gap_cpu <= 2 * largest && gap_gpu <= 2 * largest && relative <= agreement;
}

int main(int argc, char **argv) {
    static const struct option options[] = {
        {"tokens", required_argument, NULL, 't'}, {"device", required_argument, NULL, 'd'}, {0}};
    static side cpu = {.device = "cpu"}, gpu = {.device = "cuda"};
    int64_t tokens = 128;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 't') tokens = atoll(optarg);
        if (c == 'd') gpu.device = optarg;
        if (c == '?') return 2;
    }
    if (optind == argc || tokens < 1 || tokens > MAX_TOKENS / 2) {
        fprintf(stderr, "usage: gpu_greedy [--tokens 1..%d] ARTIFACT [PROMPT]\n", MAX_TOKENS / 2);
        return 2;
    }
    const char *text = optind + 1 < argc ? argv[optind + 1] : "Explain how a compiler works, step by step.";
    start(&gpu, argv[optind]);
    start(&cpu, argv[optind]);
    syl_turn turn = {"user", text, strlen(text)};
    int32_t *prompt;
    size_t n_prompt;
    if (syl_session_has_chat(cpu.session))
        must(&cpu, syl_session_chat(cpu.session, &turn, 1, &prompt, &n_prompt), "the prompt");
    else
        must(&cpu, syl_session_encode(cpu.session, text, strlen(text), SYL_TEXT_BEGIN, &prompt, &n_prompt),
             "the prompt");
    generate(&cpu, prompt, n_prompt, tokens);
    generate(&gpu, prompt, n_prompt, tokens);
    size_t n = cpu.n < gpu.n ? cpu.n : gpu.n, at = 0;
    while (at < n && cpu.tokens[at] == gpu.tokens[at]) at++;
    int good = at > 0 || n > 0;
    if (at == n && cpu.n == gpu.n)
        printf("ok   %s: %zu tokens are the same\n", argv[optind], n);
    else if (at == n) /* one side ended: its end token is no token of the text */
        good = 0,
        printf("FAIL %s: the CPU ends after %zu tokens, the GPU after %zu\n", argv[optind], cpu.n, gpu.n);
    else if ((good = is_tie(&cpu, &gpu, prompt, n_prompt, at)))
        printf("ok   %s: %zu tokens are the same, then there is a tie\n", argv[optind], at);
    else
        printf("FAIL %s: they part after %zu tokens, and it is no tie\n", argv[optind], at);
    syl_free(prompt);
    stop(&cpu);
    stop(&gpu);
    return !good;
}
