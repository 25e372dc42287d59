/* Programs that work on the GPU beside the library: streams and device memory of the caller's through the public API.
 *
 *     gpu_api [--rounds 20] [--device cuda:N] ARTIFACT...
 *
 * Two sessions run in turns, each in a stream of the caller's, with nothing waited for in between. The caller writes inputs to one place of the
 * device's memory and copies results out of it, both in the order of the stream only: a run that began early, or a result that came late, would have
 * other bits than the run through memory of the host that each is compared with. Language models, and models with the arguments of
 * examples/emoji-dit. Exit code 77: no GPU. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "runtime/cuda/device.h"
#include "syl/syl.h"

enum { CALLERS = 2, MAX_ROUNDS = 200, NOT_RUN = 77 };

static int failures, rounds = 20;
static const char *device_name = "cuda";

static void print_message(void *user, const syl_message *message) {
    (void)user;
    fprintf(stderr, "%s\n", message->text);
}

static void must(syl_instance *instance, syl_status status, const char *what) {
    if (status == SYL_OK) return;
    fprintf(stderr, "%s: %s\n", what, instance ? syl_instance_error(instance) : "failed");
    exit(status);
}

static void expect(int good, const char *model, const char *what) {
    printf("%s %s: %s\n", good ? "ok  " : "FAIL", model, what);
    fflush(stdout);
    failures += !good;
}

static uint32_t draw(uint32_t x) {
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

/* ---- the caller's side of the GPU ---- */

typedef struct caller {
    syl_session *session;
    cu_stream stream;
    syl_cuda_memory inputs;
    syl_cuda_pinned given, taken; /* [rounds]: copies read and write them long behind the call */
    size_t given_size, taken_size;
    unsigned char *expected; /* [rounds] of taken_size */
} caller;

typedef struct test {
    syl_instance *instance;
    syl_program *program;
    syl_program_info info;
    const char *model;
    syl_diag *diag;
    syl_cuda_device *device; /* entered */
    syl_session *host;       /* whose results are expected */
    caller callers[CALLERS];
} test;

static void driver_must(const test *t, int result, const char *what) {
    must(NULL, syl_cuda_check(t->device, result, what, t->diag), what);
}

static void open_caller(test *t, caller *c, size_t given, const syl_session_options *options) {
    c->given_size = given;
    must(t->instance, syl_session_create(t->instance, t->program, options, &c->session), "a session");
    driver_must(t, t->device->driver.stream_create(&c->stream, CU_STREAM_NON_BLOCKING), "a stream");
    must(NULL, syl_cuda_alloc(t->device, SYL_CUDA_TENSORS, given, t->diag, &c->inputs), "inputs");
    must(NULL, syl_cuda_pin(t->device, given * (size_t)rounds, t->diag, &c->given), "inputs of the host");
    must(t->instance, syl_session_set_stream(c->session, c->stream), "a stream of the caller's");
}

/* What results are expected of a round; the first says how large they are. */
static void expect_result(test *t, caller *c, int round, const void *data, size_t size) {
    if (!c->expected) {
        c->taken_size = size;
        c->expected = malloc(size * (size_t)rounds);
        if (!c->expected) exit(SYL_MEMORY);
        must(NULL, syl_cuda_pin(t->device, size * (size_t)rounds, t->diag, &c->taken), "results of the host");
    }
    if (!data || size != c->taken_size) exit(SYL_INTERNAL);
    memcpy(c->expected + (size_t)round * size, data, size);
}

static void take_result(const test *t, caller *c, int round, const void *data) {
    unsigned char *to = (unsigned char *)c->taken.data + (size_t)round * c->taken_size;
    if (!data) exit(SYL_INTERNAL);
    driver_must(t, t->device->driver.copy_out(to, (cu_address)(uintptr_t)data, c->taken_size, c->stream),
                "copying results");
}

/* Waits, compares, and gives the sessions their own streams back. */
static void close_callers(test *t) {
    int equal = 0;
    for (int i = 0; i < CALLERS; i++) {
        caller *c = &t->callers[i];
        driver_must(t, t->device->driver.stream_wait(c->stream), "waiting for a stream");
        for (int r = 0; r < rounds; r++)
            equal += memcmp((unsigned char *)c->taken.data + (size_t)r * c->taken_size,
                            c->expected + (size_t)r * c->taken_size, c->taken_size) == 0;
        must(t->instance, syl_session_set_stream(c->session, NULL), "the session's own stream");
        syl_session_destroy(c->session);
        driver_must(t, t->device->driver.stream_destroy(c->stream), "a stream");
        syl_cuda_free(t->device, &c->inputs);
        syl_cuda_unpin(t->device, &c->given);
        syl_cuda_unpin(t->device, &c->taken);
        free(c->expected);
        *c = (caller){0};
    }
    char text[120];
    snprintf(text, sizeof text,
             "%d of %d runs in two streams of the caller's have the bits of runs through the host", equal,
             CALLERS * rounds);
    expect(equal == CALLERS * rounds, t->model, text);
}

/* ---- models of tensors ---- */

enum { SAMPLES = 3, TOKENS = 256, PATCH = 12, ROWS = SAMPLES * TOKENS, ARGUMENTS = 5 };
/* The arguments in one block, whose parts begin at multiples of 256. */
typedef struct arguments {
    _Alignas(256) float x[ROWS * PATCH];
    _Alignas(256) int32_t sample[ROWS];
    _Alignas(256) int32_t place[ROWS];
    _Alignas(256) float t[SAMPLES];
    _Alignas(256) int32_t class[SAMPLES];
} arguments;

static void fill_arguments(arguments *a, uint32_t seed) {
    memset(a, 0, sizeof *a);
    for (int i = 0; i < ROWS * PATCH; i++)
        a->x[i] = (float)(draw(seed * 1000003 + (uint32_t)i) % 4001) / 1000 - 2;
    for (int i = 0; i < ROWS; i++) {
        a->sample[i] = i / TOKENS;
        a->place[i] = i % TOKENS;
    }
    for (int s = 0; s < SAMPLES; s++) {
        a->t[s] = (float)(draw(seed + (uint32_t)s) % 1000) / 1000;
        a->class[s] = (int32_t)(draw(seed + 77 + (uint32_t)s) % 200);
    }
}

/* The block at an address of the host's memory or of the device's. */
static void call(test *t, syl_session *session, uintptr_t at, int on_device, syl_tensor *result) {
    const struct {
        const char *name, *element;
        int64_t rows, cols;
        size_t offset;
    } parts[ARGUMENTS] = {
        {"x", "f32", SAMPLES, TOKENS * PATCH, offsetof(arguments, x)},
        {"sample", "i32", ROWS, 0, offsetof(arguments, sample)},
        {"place", "i32", ROWS, 0, offsetof(arguments, place)},
        {"t", "f32", SAMPLES, 0, offsetof(arguments, t)},
        {"class", "i32", SAMPLES, 0, offsetof(arguments, class)},
    };
    syl_tensor inputs[ARGUMENTS];
    for (int i = 0; i < ARGUMENTS; i++)
        inputs[i] = (syl_tensor){.size = sizeof *inputs,
                                 .name = parts[i].name,
                                 .element = parts[i].element,
                                 .rank = parts[i].cols ? 2 : 1,
                                 .dims = {parts[i].rows, parts[i].cols},
                                 .data = (const void *)(at + parts[i].offset),
                                 .on_device = on_device};
    must(t->instance, syl_session_call(session, inputs, ARGUMENTS), "running the model");
    *result = (syl_tensor){.size = sizeof *result};
    must(t->instance, syl_session_output(session, 0, result), "its result");
}

static void tensor_model(test *t) {
    arguments *given;
    syl_tensor result;
    int stayed = 0;
    for (int i = 0; i < CALLERS; i++) {
        caller *c = &t->callers[i];
        open_caller(t, c, sizeof *given, NULL);
        must(t->instance, syl_session_keep_on_device(c->session, 1), "keeping results on the device");
        given = c->given.data;
        for (int r = 0; r < rounds; r++) {
            fill_arguments(&given[r], (uint32_t)(r * CALLERS + i));
            call(t, t->host, (uintptr_t)&given[r], 0, &result);
            expect_result(t, c, r, result.data, (size_t)(result.dims[0] * result.dims[1]) * sizeof(float));
        }
    }
    for (int r = 0; r < rounds; r++)
        for (int i = 0; i < CALLERS; i++) {
            caller *c = &t->callers[i];
            given = c->given.data;
            driver_must(t, t->device->driver.copy_in(c->inputs.at, &given[r], sizeof *given, c->stream),
                        "copying inputs");
            call(t, c->session, (uintptr_t)c->inputs.at, 1, &result);
            stayed += result.on_device;
            take_result(t, c, r, result.data);
        }
    expect(stayed == CALLERS * rounds, t->model, "results stay on the device");
    close_callers(t);
}

/* ---- language models ---- */

static int prompt_of(int sequence) {
    return 37 + 11 * sequence;
}

/* A prompt, then a token a round. */
static void run_round(test *t, syl_session *session, int sequence, int round) {
    int32_t ids[64 + MAX_ROUNDS], last;
    int begin = round ? prompt_of(sequence) + round - 1 : 0, end = prompt_of(sequence) + round;
    for (int i = begin; i < end; i++)
        ids[i - begin] = (int32_t)(draw((uint32_t)(sequence * 100003 + i)) % (uint64_t)t->info.token_limit);
    last = end - begin - 1;
    syl_tokens tokens = {
        .size = sizeof tokens, .ids = ids, .n = (size_t)(end - begin), .rows = &last, .n_rows = 1};
    must(t->instance, syl_session_run(session, &tokens), "running the model");
}

static void language_model(test *t) {
    const syl_session_options options = {.size = sizeof options, .context = 64 + MAX_ROUNDS};
    size_t size = (size_t)t->info.vocabulary * sizeof(float);
    for (int i = 0; i < CALLERS; i++) {
        open_caller(t, &t->callers[i], 256, &options);
        must(t->instance, syl_session_truncate(t->host, 0, 0), "emptying the sequence");
        for (int r = 0; r < rounds; r++) {
            run_round(t, t->host, i, r);
            expect_result(t, &t->callers[i], r, syl_session_logits(t->host, 0), size);
        }
    }
    for (int r = 0; r < rounds; r++)
        for (int i = 0; i < CALLERS; i++) {
            run_round(t, t->callers[i].session, i, r);
            take_result(t, &t->callers[i], r, syl_session_device_logits(t->callers[i].session, 0));
        }
    close_callers(t);
}

/* ---- all ---- */

static void run_model(const char *path) {
    syl_instance_options options = {.size = sizeof options, .device = device_name};
    test t = {.model = path, .info.size = sizeof t.info, .diag = syl_diag_create(print_message, NULL)};
    size_t gpus = 0;
    const char *why = "";
    must(NULL, syl_instance_create(&options, &t.instance), "an instance");
    must(t.instance, syl_instance_gpus(t.instance, &gpus, &why), "looking for GPUs");
    if (!gpus) {
        fprintf(stderr, "not run: %s\n", why);
        exit(NOT_RUN);
    }
    must(t.instance, syl_program_load(t.instance, path, &t.program), path);
    must(t.instance, syl_program_describe(t.program, &t.info), path);
    const syl_session_options session = {.size = sizeof session,
                                         .context = t.info.vocabulary ? 64 + MAX_ROUNDS : 0};
    must(t.instance, syl_session_create(t.instance, t.program, &session, &t.host), "a session");
    must(NULL, syl_cuda_open(device_name, t.diag, &t.device), "the device");
    must(NULL, syl_cuda_enter(t.device, t.diag), "the device's primary context");
    if (t.info.vocabulary)
        language_model(&t);
    else
        tensor_model(&t);
    syl_cuda_leave(t.device);
    syl_cuda_close(t.device);
    syl_session_destroy(t.host);
    syl_program_destroy(t.program);
    syl_instance_destroy(t.instance);
    syl_diag_destroy(t.diag);
}

int main(int argc, char **argv) {
    static const struct option long_options[] = {
        {"rounds", required_argument, NULL, 'r'}, {"device", required_argument, NULL, 'd'}, {0}};
    for (int c; (c = getopt_long(argc, argv, "", long_options, NULL)) != -1;) {
        if (c == 'r') rounds = atoi(optarg);
        if (c == 'd') device_name = optarg;
        if (c == '?') return 2;
    }
    if (optind == argc || rounds < 1 || rounds > MAX_ROUNDS) {
        fprintf(stderr, "usage: gpu_api [--rounds 1..%d] [--device NAME] ARTIFACT...\n", MAX_ROUNDS);
        return 2;
    }
    for (int i = optind; i < argc; i++) run_model(argv[i]);
    return failures > 0;
}
