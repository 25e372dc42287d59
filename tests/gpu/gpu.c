/* Memory, compiles and launches on one device. Codes are kept by their source, so that equal kernels of several problems compile once. */
#include "gpu.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "runtime/cuda/runner.h"

enum { NOT_RUN = 77 };

struct gpu_code {
    struct gpu_code *next;
    uint64_t hash;
    char *source;
    syl_nvrtc_output output;
    syl_status status;
    bool done; /* else another thread compiles it */
    cu_module module;
    cu_function function;
};

static pthread_mutex_t codes_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t codes_changed = PTHREAD_COND_INITIALIZER;

static void print_message(void *user, const syl_message *message) {
    (void)user;
    fprintf(stderr, "%s\n", message->text);
}

static _Noreturn void not_run(const char *why) {
    fprintf(stderr, "not run: %s\n", why);
    exit(NOT_RUN);
}

void gpu_must(gpu *g, int result, const char *what) {
    if (result == CU_SUCCESS) return;
    syl_status status = syl_cuda_error(&g->driver, result, g->name, what, g->diag);
    fflush(stdout);
    fprintf(stderr, "%s: failed with CUDA result %d\n", what, result);
    _exit(status == SYL_OK ? 1 : status);
}

static int attribute(gpu *g, int which) {
    int value = 0;
    gpu_must(g, g->driver.device_attribute(&value, which, g->device), "reading an attribute");
    return value;
}

void gpu_open(gpu *g, const char *architecture) {
    *g = (gpu){.diag = syl_diag_create(print_message, NULL)};
    pthread_mutex_init(&g->lock, NULL);
    if (syl_cuda_driver_open(g->diag, &g->driver) != SYL_OK)
        not_run("there is no CUDA driver with a device here");
    const char *ordinal = getenv("SYL_GPU_DEVICE");
    gpu_must(g, g->driver.device_get(&g->device, ordinal ? atoi(ordinal) : 0), "finding the device");
    gpu_must(g, g->driver.device_name(g->name, sizeof g->name, g->device), "naming the device");
    gpu_must(g, g->driver.context_retain(&g->context, g->device), "opening the device");
    g->capability = attribute(g, CU_ATTRIBUTE_MAJOR) * 10 + attribute(g, CU_ATTRIBUTE_MINOR);
    int sms = attribute(g, CU_ATTRIBUTE_SMS);
    if (!syl_cuda_target_for(g->capability, sms, attribute(g, CU_ATTRIBUTE_L2), &g->target))
        not_run("the device is older than all architectures that code is generated for");
    if (architecture) {
        if (!syl_cuda_target_named(architecture, &g->target) || g->target.arch > g->capability)
            not_run("the device does not run code of that architecture");
        g->target.sms = sms;
        g->ptx = true;
        snprintf(g->target.name, sizeof g->target.name, "compute_%d", g->target.arch);
    }
    syl_arena arena;
    syl_arena_init(&arena);
    syl_nvrtc_place place;
    if (syl_nvrtc_find(&arena, g->diag, &place) != SYL_OK ||
        syl_nvrtc_open(&place, g->diag, &g->nvrtc) != SYL_OK)
        not_run("there is no NVRTC here");
    int major, minor;
    syl_nvrtc_version(g->nvrtc, &major, &minor);
    g->nvrtc_version = major * 1000 + minor * 10;
    syl_arena_free(&arena);
    gpu_enter(g);
    gpu_must(g, g->driver.stream_create(&g->stream, CU_STREAM_NON_BLOCKING), "making a stream");
    gpu_leave(g);
}

void gpu_close(gpu *g) {
    gpu_enter(g);
    for (struct gpu_code *c = g->codes, *next; c; c = next) {
        next = c->next;
        if (c->module) gpu_must(g, g->driver.module_unload(c->module), "unloading code");
        syl_nvrtc_output_free(&c->output);
        free(c->source);
        free(c);
    }
    gpu_must(g, g->driver.stream_destroy(g->stream), "dropping the stream");
    gpu_leave(g);
    gpu_must(g, g->driver.context_release(g->device), "closing the device");
    syl_nvrtc_close(g->nvrtc);
    syl_cuda_driver_close(&g->driver);
    syl_diag_destroy(g->diag);
    pthread_mutex_destroy(&g->lock);
}

void gpu_enter(gpu *g) {
    pthread_mutex_lock(&g->lock);
    gpu_must(g, g->driver.context_push(g->context), "entering the context");
}

void gpu_leave(gpu *g) {
    cu_context popped;
    gpu_must(g, g->driver.context_pop(&popped), "leaving the context");
    pthread_mutex_unlock(&g->lock);
}

/* ---- memory ---- */

cu_address gpu_alloc(gpu *g, size_t size) {
    cu_address address = 0;
    gpu_must(g, g->driver.alloc(&address, size ? size : 1), "allocating memory");
    return address;
}

void gpu_free(gpu *g, cu_address address) {
    if (address) gpu_must(g, g->driver.free(address), "freeing memory");
}

void gpu_put(gpu *g, cu_address to, const void *from, size_t size) {
    if (!size) return;
    gpu_must(g, g->driver.copy_in(to, from, size, g->stream), "copying to the device");
    gpu_wait(g);
}

void gpu_get(gpu *g, void *to, cu_address from, size_t size) {
    if (size) gpu_must(g, g->driver.copy_out(to, from, size, g->stream), "copying from the device");
    gpu_wait(g);
}

void gpu_fill(gpu *g, cu_address to, unsigned char value, size_t size) {
    if (size) gpu_must(g, g->driver.fill(to, value, size, g->stream), "filling memory");
}

void gpu_wait(gpu *g) {
    gpu_must(g, g->driver.stream_wait(g->stream), "waiting for the device");
}

/* ---- code ---- */

static uint64_t hash_text(const char *text) {
    uint64_t h = 14695981039346656037u;
    for (; *text; text++) h = (h ^ (unsigned char)*text) * 1099511628211u;
    return h;
}

/* The code of a source, compiled by who asks first; others wait for that. */
static struct gpu_code *code_of(gpu *g, const char *name, const char *source, syl_diag *diag) {
    uint64_t hash = hash_text(source);
    pthread_mutex_lock(&codes_lock);
    struct gpu_code *c = g->codes;
    while (c && (c->hash != hash || strcmp(c->source, source) != 0)) c = c->next;
    if (c) {
        g->reused++;
        while (!c->done) pthread_cond_wait(&codes_changed, &codes_lock);
        pthread_mutex_unlock(&codes_lock);
        return c;
    }
    if (!(c = calloc(1, sizeof *c)) || !(c->source = strdup(source))) abort();
    c->hash = hash;
    c->next = g->codes;
    g->codes = c;
    g->compiled++;
    pthread_mutex_unlock(&codes_lock);
    syl_nvrtc_input input = {.name = name, .source = source, .arch = g->target.name};
    c->status = syl_nvrtc_compile(g->nvrtc, &input, diag, &c->output);
    pthread_mutex_lock(&codes_lock);
    c->done = true;
    pthread_cond_broadcast(&codes_changed);
    pthread_mutex_unlock(&codes_lock);
    return c;
}

syl_status gpu_compile(gpu *g, const kir_kernel *kernel, const syl_cuda_variant *variant, syl_diag *diag,
                       gpu_kernel *out) {
    syl_arena arena;
    syl_arena_init(&arena);
    syl_text source = {.arena = &arena};
    *out = (gpu_kernel){.kernel = kernel, .variant = *variant};
    syl_status status = syl_cuda_source(kernel, &g->target, variant, diag, &source, &out->launch);
    if (status == SYL_OK) {
        out->code = code_of(g, kernel->name, source.p, diag);
        status = out->code->status;
    }
    syl_arena_free(&arena);
    return status;
}

static cu_function load(gpu *g, struct gpu_code *c, const char *entry, int64_t shared) {
    if (!c->module) {
        gpu_must(g, g->driver.module_load(&c->module, c->output.code), "loading code");
        gpu_must(g, syl_cuda_find_kernel(&g->driver, c->module, entry, shared, &c->function),
                 "finding a kernel");
    }
    return c->function;
}

void gpu_launch(gpu *g, gpu_kernel *k, const cu_address *buffers, cu_address workspace, int64_t rows,
                int64_t positions) {
    syl_cuda_arguments arguments;
    int n = (int)k->kernel->buffers.n;
    memcpy(arguments.words, buffers, (size_t)n * sizeof *buffers);
    gpu_must(g,
             syl_cuda_launch_kernel(&g->driver, g->stream,
                                    load(g, k->code, k->launch.entry, k->launch.shared), &k->launch,
                                    &arguments, n, workspace, &(syl_cuda_counts){rows, positions},
                                    !g->plain && g->capability >= 90),
             k->kernel->name);
}

cu_function gpu_build(gpu *g, const char *name, const char *source) {
    struct gpu_code *c = code_of(g, name, source, g->diag);
    if (c->status != SYL_OK) {
        fprintf(stderr, "%s does not compile\n", name);
        exit(1);
    }
    gpu_enter(g);
    cu_function function = load(g, c, name, 0);
    gpu_leave(g);
    return function;
}

void gpu_launch_plain(gpu *g, cu_function function, unsigned blocks, unsigned threads, void **parameters) {
    cu_launch_config config = {.grid = {blocks, 1, 1}, .block = {threads, 1, 1}, .stream = g->stream};
    gpu_must(g, g->driver.launch(&config, function, parameters, NULL), "a kernel of the tests");
}
