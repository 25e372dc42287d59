/* The same bits again: a model on the GPU gives equal results in 100 runs, alone and in a batch, with and without CUDA graphs.
 *
 *     gpu_determinism [--runs N] [--device cuda:N] ARTIFACT...
 *
 * Uses the public API alone. For each artifact it ends with a line "bits HASH", over all results: whoever tunes the kernels in
 * between compares the lines before and behind. Language models, and models with the arguments of examples/emoji-dit. Exit code 77: no GPU. */
#include <getopt.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "syl/syl.h"

enum { SEQUENCES = 8, STEPS = 6, WATCHED = 3, TOKENS = 256, PATCH = 12, NOT_RUN = 77 };

typedef struct bits { /* everything a run computed */
    float *data;
    size_t n;
} bits;

static int failures;
static const char *device = "cuda";

static void print_notice(void *user, const syl_notice *notice) {
    (void)user;
    fprintf(stderr, "%s\n", notice->text);
}

static void must(syl_instance *instance, syl_status status, const char *what) {
    if (status == SYL_OK) return;
    fprintf(stderr, "%s: %s\n", what, syl_instance_error(instance));
    exit(status);
}

static void expect(int good, const char *model, const char *what) {
    printf("%s %s: %s\n", good ? "ok  " : "FAIL", model, what);
    fflush(stdout);
    failures += !good;
}

static void put(bits *b, const float *data, size_t n) {
    float *grown = realloc(b->data, (b->n + n) * sizeof *grown);
    if (!grown || !data) {
        fprintf(stderr, "no results, or no memory for them\n");
        exit(5);
    }
    memcpy(grown + b->n, data, n * sizeof *grown);
    b->data = grown;
    b->n += n;
}

static int same(const bits *a, const bits *b) {
    return a->n == b->n && a->n > 0 && memcmp(a->data, b->data, a->n * sizeof *a->data) == 0;
}

static void drop(bits *b) {
    free(b->data);
    *b = (bits){0};
}

static uint64_t hash_of(const bits *b) {
    uint64_t h = 14695981039346656037u;
    const unsigned char *p = (const unsigned char *)b->data;
    for (size_t i = 0; i < b->n * sizeof *b->data; i++) h = (h ^ p[i]) * 1099511628211u;
    return h;
}

static uint32_t draw(uint32_t x) {
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

/* ---- language models ---- */

static int length_of(int sequence) {
    return 5 + 29 * sequence;
}
static int32_t token_of(int sequence, int position, int64_t limit) {
    return (int32_t)(draw((uint32_t)(sequence * 100003 + position)) % (uint64_t)limit);
}

/* Reads the prompts of sequences [first, last) in one run, then STEPS tokens of each, one a run; keeps the logits of WATCHED. */
static void run_sequences(syl_instance *instance, syl_session *session, const syl_program_info *info,
                          int first, int last, bits *out) {
    int32_t ids[4096], sequences[4096], rows[SEQUENCES];
    for (int s = 0; s < SEQUENCES; s++)
        must(instance, syl_session_truncate(session, s, 0), "emptying a sequence");
    for (int step = 0; step <= STEPS; step++) {
        size_t n = 0, n_rows = 0, watched = 0;
        for (int s = first; s < last; s++) {
            int begin = step ? length_of(s) + step - 1 : 0, end = length_of(s) + step;
            for (int i = begin; i < end; i++, n++) {
                ids[n] = token_of(s, i, info->token_limit);
                sequences[n] = s;
            }
            if (s == WATCHED) watched = n_rows;
            rows[n_rows++] = (int32_t)n - 1;
        }
        syl_tokens tokens = {.size = sizeof tokens,
                             .ids = ids,
                             .sequences = sequences,
                             .n = n,
                             .rows = rows,
                             .n_rows = n_rows};
        must(instance, syl_session_run(session, &tokens), "running the model");
        put(out, syl_session_logits(session, watched), (size_t)info->vocabulary);
    }
}

static void language_model(syl_instance *instance, const syl_program *program, const syl_program_info *info,
                           const char *model, int runs, bits *alone) {
    syl_session_options options = {.size = sizeof options, .context = 512, .sequences = SEQUENCES};
    syl_session *session;
    must(instance, syl_session_create(instance, program, &options, &session), "a session");
    run_sequences(instance, session, info, WATCHED, WATCHED + 1, alone);
    int equal = 1;
    for (int i = 1; i < runs; i++) {
        bits again = {0};
        run_sequences(instance, session, info, WATCHED, WATCHED + 1, &again);
        equal += same(alone, &again);
        drop(&again);
    }
    char text[96];
    snprintf(text, sizeof text, "%d of %d runs have the same bits", equal, runs);
    if (runs > 1) expect(equal == runs, model, text);
    bits batch = {0};
    run_sequences(instance, session, info, 0, SEQUENCES, &batch);
    if (runs > 1) expect(same(alone, &batch), model, "a sequence among 7 others has the bits of it alone");
    put(alone, batch.data, batch.n);
    drop(&batch);
    syl_session_destroy(session);
}

/* ---- models of tensors ---- */

/* Samples first ... first + n - 1 of a fixed set, in one call; keeps the result of sample WATCHED. */
static void run_samples(syl_instance *instance, syl_session *session, int first, int n, bits *out) {
    size_t rows = (size_t)n * TOKENS;
    float *x = malloc(rows * PATCH * sizeof *x), times[SEQUENCES];
    int32_t *sample = malloc(rows * sizeof *sample), *place = malloc(rows * sizeof *place),
            classes[SEQUENCES];
    if (!x || !sample || !place) exit(5);
    for (int s = 0; s < n; s++) {
        times[s] = (float)(first + s) / SEQUENCES;
        classes[s] = (first + s) * 31;
        for (int i = 0; i < TOKENS; i++) {
            sample[s * TOKENS + i] = s;
            place[s * TOKENS + i] = i;
            for (int j = 0; j < PATCH; j++)
                x[(s * TOKENS + i) * PATCH + j] =
                    (float)(draw((uint32_t)(((first + s) * TOKENS + i) * PATCH + j)) % 4001) / 1000 - 2;
        }
    }
    syl_tensor inputs[] = {
        {.size = sizeof *inputs,
         .name = "x",
         .element = "f32",
         .rank = 2,
         .dims = {n, TOKENS * PATCH},
         .data = x},
        {.size = sizeof *inputs,
         .name = "sample",
         .element = "i32",
         .rank = 1,
         .dims = {(int64_t)rows},
         .data = sample},
        {.size = sizeof *inputs,
         .name = "place",
         .element = "i32",
         .rank = 1,
         .dims = {(int64_t)rows},
         .data = place},
        {.size = sizeof *inputs, .name = "t", .element = "f32", .rank = 1, .dims = {n}, .data = times},
        {.size = sizeof *inputs, .name = "class", .element = "i32", .rank = 1, .dims = {n}, .data = classes},
    };
    must(instance, syl_session_call(session, inputs, sizeof inputs / sizeof *inputs), "running the model");
    syl_tensor result = {.size = sizeof result};
    must(instance, syl_session_output(session, 0, &result), "its result");
    size_t width = (size_t)result.dims[1];
    put(out, (const float *)result.data + (size_t)(WATCHED - first) * width, width);
    free(x);
    free(sample);
    free(place);
}

static void tensor_model(syl_instance *instance, const syl_program *program, const char *model, int runs,
                         bits *alone) {
    syl_session *session;
    must(instance, syl_session_create(instance, program, NULL, &session), "a session");
    run_samples(instance, session, WATCHED, 1, alone);
    int equal = 1;
    for (int i = 1; i < runs; i++) {
        bits again = {0};
        run_samples(instance, session, WATCHED, 1, &again);
        equal += same(alone, &again);
        drop(&again);
    }
    char text[96];
    snprintf(text, sizeof text, "%d of %d runs have the same bits", equal, runs);
    if (runs > 1) expect(equal == runs, model, text);
    bits batch = {0};
    run_samples(instance, session, 0, SEQUENCES, &batch);
    if (runs > 1) expect(same(alone, &batch), model, "a sample among 7 others has the bits of it alone");
    put(alone, batch.data, batch.n);
    drop(&batch);
    syl_session_destroy(session);
}

/* ---- all ---- */

static void run_model(const char *path, int runs, bits *out) {
    syl_instance_options options = {.size = sizeof options, .message = print_notice, .device = device};
    syl_instance *instance;
    syl_program *program;
    size_t gpus = 0;
    const char *why = "";
    must(NULL, syl_instance_create(&options, &instance), "an instance");
    must(instance, syl_instance_gpus(instance, &gpus, &why), "looking for GPUs");
    if (!gpus && strcmp(device, "cpu") != 0) {
        fprintf(stderr, "not run: %s\n", why);
        exit(NOT_RUN);
    }
    must(instance, syl_program_load(instance, path, &program), path);
    syl_program_info info = {.size = sizeof info};
    must(instance, syl_program_describe(program, &info), path);
    if (info.vocabulary)
        language_model(instance, program, &info, path, runs, out);
    else
        tensor_model(instance, program, path, runs, out);
    syl_program_destroy(program);
    syl_instance_destroy(instance);
}

int main(int argc, char **argv) {
    static const struct option long_options[] = {
        {"runs", required_argument, NULL, 'r'}, {"device", required_argument, NULL, 'd'}, {0}};
    int runs = 100;
    for (int c; (c = getopt_long(argc, argv, "", long_options, NULL)) != -1;) {
        if (c == 'r') runs = atoi(optarg);
        if (c == 'd') device = optarg;
        if (c == '?') return 2;
    }
    if (optind == argc || runs < 2) {
        fprintf(stderr, "usage: gpu_determinism [--runs N] [--device NAME] ARTIFACT...\n");
        return 2;
    }
    for (int i = optind; i < argc; i++) {
        bits graphs = {0}, plain = {0};
        unsetenv("SYL_CUDA_GRAPHS");
        run_model(argv[i], runs, &graphs);
        setenv("SYL_CUDA_GRAPHS", "0", 1);
        run_model(argv[i], 1, &plain);
        expect(same(&graphs, &plain), argv[i], "with and without CUDA graphs the same bits");
        printf("bits %s %016llx\n", argv[i], (unsigned long long)hash_of(&graphs));
        drop(&graphs);
        drop(&plain);
    }
    return failures > 0;
}
