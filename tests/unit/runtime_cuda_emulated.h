/* The CUDA runtime with kernels printed as CUDA C++ and run by the emulation of tests/cuda_emulation behind the driver of tests/fake/cuda.c. A source
 * is compiled once, however many engines are loaded. Whoever includes this wraps syl_cuda_variants. */
#ifndef TESTS_UNIT_RUNTIME_CUDA_EMULATED_H
#define TESTS_UNIT_RUNTIME_CUDA_EMULATED_H

#include <dlfcn.h>
#include <math.h>
#include <sys/wait.h>
#include "base/file.h"
#include "codegen/cuda/choose.h"
#include "codegen/cuda/compile.h"
#include "runtime/lm.h"
#include "runtime/artifact.h"
#include "fake_gpu.h"

typedef int emulated_function(const void *args, size_t size, const int64_t grid[3], int threads,
                              size_t shared);
typedef struct image {
    char *source;     /* NULL: the choice of a token */
    size_t parameter; /* bytes */
    emulated_function *function;
} image;
enum { MAX_IMAGES = 128, AT_ONCE = 4 };
static image images[MAX_IMAGES];
static int n_images;
static long emulated_launches; /* of kernels of plans */

/* ---- compiling ---- */

static pid_t start_compiler(const char *source, const char *object) {
    pid_t pid = fork();
    if (pid) return pid;
    execlp(SYL_CXX, SYL_CXX, "-std=c++17", "-O1", "-w", "-fPIC", "-shared", "-ffp-contract=off",
           "-U_FORTIFY_SOURCE", "-I" SYL_SOURCE_DIR "/tests/cuda_emulation", "-o", object, source,
           (char *)NULL);
    _exit(127);
}

syl_status __wrap_syl_cuda_compile(const syl_cuda_job *jobs, size_t n, const syl_cuda_target *target,
                                   const syl_cuda_compile_options *options, syl_diag *diag,
                                   syl_cuda_binaries **out);
syl_status __wrap_syl_cuda_compile(const syl_cuda_job *jobs, size_t n, const syl_cuda_target *target,
                                   const syl_cuda_compile_options *options, syl_diag *diag,
                                   syl_cuda_binaries **out) {
    (void)options;
    syl_arena arena;
    syl_arena_init(&arena);
    *out = calloc(1, sizeof **out);
    (*out)->codes = calloc(n, sizeof *(*out)->codes);
    int first = n_images;
    for (size_t i = 0; i < n; i++) {
        syl_text source = {.arena = &arena};
        syl_cuda_launch *launch = &(*out)->codes[i].launch;
        syl_text_printf(&source, "#include \"emulation.hpp\"\n");
        SYL_TRY(syl_cuda_job_source(&jobs[i], target, diag, &source, launch));
        syl_text_printf(&source, "\nEMULATED_KERNEL(emulated, %s, %d)\n", launch->entry,
                        launch->cluster_z > 1 ? launch->cluster_z : 1);
        int at = 0;
        while (at < n_images && (!images[at].source || strcmp(images[at].source, source.p) != 0)) at++;
        (*out)->codes[i].code = &images[at];
        if (at < n_images) continue;
        assert_true(n_images < MAX_IMAGES);
        int buffers = jobs[i].fused ? jobs[i].fused->n_buffers : (int)jobs[i].kernel->buffers.n;
        images[n_images++] =
            (image){.source = strdup(source.p),
                    .parameter = ((size_t)(buffers ? buffers : 1) + 1) * sizeof(uint64_t) + 8};
        char *path = syl_arena_printf(&arena, "%s/%d.cc", test_folder, at);
        SYL_TRY(syl_file_write(path, source.p, source.n, diag));
    }
    pid_t pids[MAX_IMAGES];
    for (int i = first; i < n_images + AT_ONCE; i++) {
        if (i < n_images)
            pids[i] = start_compiler(syl_arena_printf(&arena, "%s/%d.cc", test_folder, i),
                                     syl_arena_printf(&arena, "%s/%d.so", test_folder, i));
        int done = i - AT_ONCE, status;
        if (done < first) continue;
        assert_int_equal(waitpid(pids[done], &status, 0), pids[done]);
        if (status) fail_msg("%s does not compile", images[done].source);
        void *library =
            dlopen(syl_arena_printf(&arena, "%s/%d.so", test_folder, done), RTLD_NOW | RTLD_LOCAL);
        if (!library) fail_msg("%s", dlerror());
        *(void **)&images[done].function = dlsym(library, "emulated");
    }
    syl_arena_free(&arena);
    return SYL_OK;
}

syl_status __wrap_syl_cuda_compile_texts(const syl_cuda_text *texts, size_t n,
                                         const syl_cuda_compile_options *options, syl_diag *diag,
                                         syl_cuda_binaries **out);
syl_status __wrap_syl_cuda_compile_texts(const syl_cuda_text *texts, size_t n,
                                         const syl_cuda_compile_options *options, syl_diag *diag,
                                         syl_cuda_binaries **out) {
    (void)texts, (void)options, (void)diag;
    *out = calloc(1, sizeof **out);
    (*out)->codes = calloc(n, sizeof *(*out)->codes);
    for (size_t i = 0; i < n; i++) (*out)->codes[i].code = &images[n_images++];
    return SYL_OK;
}
void __wrap_syl_cuda_binaries_destroy(syl_cuda_binaries *binaries);
void __wrap_syl_cuda_binaries_destroy(syl_cuda_binaries *binaries) {
    if (binaries) free(binaries->codes);
    free(binaries);
}

/* ---- running ---- */

static void emulate_launch(void *user, const fake_launch *l) {
    (void)user;
    const image *code = l->image;
    if (!code->source) { /* its own test: runtime_cuda_choose.c */
        const syl_cuda_choose_args *a = (const void *)l->parameter;
        syl_cuda_choice *state = (syl_cuda_choice *)(uintptr_t)a->state;
        int32_t best = (int32_t)syl_argmax((const float *)(uintptr_t)a->logits, a->n);
        *(int32_t *)(uintptr_t)a->ids = best;
        ((int32_t *)(uintptr_t)a->ring)[state->chosen++ % a->ring_size] = best;
        return;
    }
    const int64_t grid[3] = {l->grid[0], l->grid[1], l->grid[2]};
    emulated_launches++;
    assert_int_equal(code->function(l->parameter, code->parameter, grid, (int)l->block[0], l->shared), 0);
}

static fake_cuda_state *emulated_gpu(void) {
    return fake_gpu_start(90, emulate_launch);
}

#endif
