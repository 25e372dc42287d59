/* A machine behind tests/fake/cuda.c for the tuner: each variant takes the time that a test says, and may be made to compute other bits, to
 * trap, or to end or hold up the process. Results depend on the kernel, the row and the first bytes of the inputs. */
#ifndef TESTS_UNIT_RUNTIME_CUDA_TUNE_MACHINE_H
#define TESTS_UNIT_RUNTIME_CUDA_TUNE_MACHINE_H

#include <signal.h>
#include <unistd.h>
#include "codegen/cuda/compile.h"
#include "codegen/cuda/nvrtc.h"
#include "fake_gpu.h"
#include "runtime_tiny.h"

typedef enum machine_fault {
    MACHINE_FINE,
    MACHINE_WRONG,
    MACHINE_TRAP,
    MACHINE_KILL,
    MACHINE_HANG,
    MACHINE_NO_COMPILE
} machine_fault;

/* What a variant is like; the first that matches the begin of its text. */
typedef struct machine_rule {
    const char *variant;
    double seconds;
    machine_fault fault;
} machine_rule;
static const machine_rule *machine_rules; /* the last has no variant: for all others */
static fake_cuda_state *machine_gpu;
static int machine_compiled; /* sources */

typedef struct machine_image {
    struct machine_image *next;
    const kir_kernel *kernel; /* NULL: the comparison */
    const machine_rule *rule;
} machine_image;
static machine_image *machine_images;

static const machine_rule *machine_rule_of(const syl_cuda_variant *variant) {
    syl_arena arena;
    syl_arena_init(&arena);
    syl_text text = {.arena = &arena};
    syl_cuda_variant_print(variant, &text);
    const machine_rule *rule = machine_rules;
    while (rule->variant && strncmp(text.p, rule->variant, strlen(rule->variant)) != 0) rule++;
    syl_arena_free(&arena);
    return rule;
}

/* ---- compiling (the linker's --wrap) ---- */

static syl_cuda_binaries *machine_binaries(size_t n) {
    syl_cuda_binaries *b = calloc(1, sizeof *b);
    b->codes = calloc(n, sizeof *b->codes);
    b->n = n;
    for (size_t i = 0; i < n; i++) {
        machine_image *image = calloc(1, sizeof *image);
        b->codes[i].code = image;
        b->codes[i].resources.registers = 40;
        do image->next = __atomic_load_n(&machine_images, __ATOMIC_RELAXED); /* several threads compile */
        while (!__atomic_compare_exchange_n(&machine_images, &image->next, image, 0, __ATOMIC_RELEASE,
                                            __ATOMIC_RELAXED));
    }
    return b;
}

syl_status __wrap_syl_cuda_compile(const syl_cuda_job *jobs, size_t n, const syl_cuda_target *target,
                                   const syl_cuda_compile_options *options, syl_diag *diag,
                                   syl_cuda_binaries **out);
syl_status __wrap_syl_cuda_compile_texts(const syl_cuda_text *texts, size_t n,
                                         const syl_cuda_compile_options *options, syl_diag *diag,
                                         syl_cuda_binaries **out);
void __wrap_syl_cuda_binaries_destroy(syl_cuda_binaries *binaries);
syl_status __wrap_syl_nvrtc_find(syl_arena *arena, syl_diag *diag, syl_nvrtc_place *out);
syl_status __wrap_syl_nvrtc_open(const syl_nvrtc_place *place, syl_diag *diag, syl_nvrtc **out);
void __wrap_syl_nvrtc_close(syl_nvrtc *nvrtc);

syl_status __wrap_syl_cuda_compile(const syl_cuda_job *jobs, size_t n, const syl_cuda_target *target,
                                   const syl_cuda_compile_options *options, syl_diag *diag,
                                   syl_cuda_binaries **out) {
    (void)options;
    *out = NULL;
    for (size_t i = 0; i < n; i++)
        if (machine_rule_of(&jobs[i].variant)->fault == MACHINE_NO_COMPILE)
            return syl_error(diag, SYL_ERR_codegen_cuda, SYL_NOWHERE, "it does not compile");
    *out = machine_binaries(n);
    for (size_t i = 0; i < n; i++) {
        machine_image *image = (machine_image *)(uintptr_t)(*out)->codes[i].code;
        syl_arena arena;
        syl_arena_init(&arena);
        syl_text source = {.arena = &arena};
        image->kernel = jobs[i].kernel;
        image->rule = machine_rule_of(&jobs[i].variant);
        syl_status status = syl_cuda_source(jobs[i].kernel, target, &jobs[i].variant, diag, &source,
                                            &(*out)->codes[i].launch);
        syl_arena_free(&arena);
        SYL_TRY(status);
    }
    __atomic_fetch_add(&machine_compiled, (int)n, __ATOMIC_RELAXED);
    return SYL_OK;
}
syl_status __wrap_syl_cuda_compile_texts(const syl_cuda_text *texts, size_t n,
                                         const syl_cuda_compile_options *options, syl_diag *diag,
                                         syl_cuda_binaries **out) {
    (void)texts, (void)options, (void)diag;
    *out = machine_binaries(n);
    return SYL_OK;
}
void __wrap_syl_cuda_binaries_destroy(syl_cuda_binaries *binaries) {
    if (binaries) free(binaries->codes);
    free(binaries);
}
syl_status __wrap_syl_nvrtc_find(syl_arena *arena, syl_diag *diag, syl_nvrtc_place *out) {
    (void)arena, (void)diag;
    *out = (syl_nvrtc_place){.path = "/libnvrtc.so", .identity = "build 1", .major = 13, .minor = 0};
    return SYL_OK;
}
syl_status __wrap_syl_nvrtc_open(const syl_nvrtc_place *place, syl_diag *diag, syl_nvrtc **out) {
    (void)place, (void)diag;
    *out = NULL;
    return SYL_OK;
}
void __wrap_syl_nvrtc_close(syl_nvrtc *nvrtc) {
    (void)nvrtc;
}

/* ---- running ---- */

static uint64_t machine_mix(uint64_t h, const void *data, size_t n) {
    const unsigned char *bytes = data;
    for (size_t i = 0; i < n; i++) h = (h ^ bytes[i]) * 0x100000001b3u;
    return h;
}

static int64_t machine_unit(kir_type elem) {
    return elem == KIR_I8 ? 1 : elem == KIR_BF16 || elem == KIR_F16 ? 2 : elem == KIR_F64 ? 8 : 4;
}

static void machine_differ(const uint64_t *p) {
    const uint32_t *a = (const uint32_t *)(uintptr_t)p[0], *b = (const uint32_t *)(uintptr_t)p[1];
    int32_t ints[2];
    memcpy(ints, &p[4], sizeof ints);
    for (uint64_t i = 0; i < p[2]; i++) {
        if (ints[0] && i / 256 % (uint64_t)ints[1] * 8 + i / 32 % 8 >= (uint64_t)ints[0]) continue;
        *(uint64_t *)(uintptr_t)p[3] += a[i] != b[i];
    }
}

static void machine_write(const kir_kernel *kernel, const uint64_t *p, bool wrong) {
    int32_t ints[2];
    memcpy(ints, &p[kernel->buffers.n + 1], sizeof ints);
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t b = 0; b < kernel->buffers.n; b++)
        if (!kernel->buffers.p[b].written && kernel->buffers.p[b].shape != KIR_CACHE)
            h = machine_mix(h, (const void *)(uintptr_t)p[b], 4);
    for (size_t b = 0; b < kernel->buffers.n; b++) {
        const kir_buffer *buffer = &kernel->buffers.p[b];
        if (!buffer->written) continue;
        int64_t line = buffer->shape == KIR_PER_ROW ? machine_unit(buffer->elem)
                                                    : buffer->stride * machine_unit(buffer->elem);
        if (buffer->shape == KIR_TILED) line = (buffer->cols * machine_unit(buffer->elem) + 127) / 128 * 128;
        unsigned char *to = (unsigned char *)(uintptr_t)p[b];
        for (int64_t i = 0; i < ints[0] * line; i++) {
            h = h * 6364136223846793005u + 1442695040888963407u;
            int64_t at = buffer->shape == KIR_TILED ? /* whole rows, of the padding too */
                             ((i % line) / 128 * ((ints[0] + 7) / 8) + i / line / 8) * 1024 +
                                 i / line % 8 * 128 + i % 128
                                                    : i;
            to[at] = (unsigned char)(h >> 33);
        }
        if (wrong) to[0] ^= 1;
    }
}

static void machine_launch(void *user, const fake_launch *launch) {
    (void)user;
    const machine_image *image = launch->image;
    if (!image->kernel) {
        machine_differ(launch->parameter);
        return;
    }
    if (image->rule->fault == MACHINE_TRAP) machine_gpu->dead = 719;
    if (image->rule->fault == MACHINE_KILL) kill(getpid(), SIGKILL);
    while (image->rule->fault == MACHINE_HANG) pause();
    machine_gpu->clock += image->rule->seconds;
    machine_write(image->kernel, launch->parameter, image->rule->fault == MACHINE_WRONG);
}

static fake_cuda_state *machine_start(const machine_rule *rules) {
    machine_gpu = fake_gpu_start(90, machine_launch);
    machine_rules = rules;
    machine_compiled = 0;
    return machine_gpu;
}

static void machine_stop(void) {
    fake_gpu_check(machine_gpu);
    while (machine_images) {
        machine_image *next = machine_images->next;
        free(machine_images);
        machine_images = next;
    }
}

#endif
