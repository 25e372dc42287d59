/* All kernels of a plan: from the cache or compiled, several at a time, then linked into this process by ORC.
 *
 * Each kernel is one object with one symbol, named by its cache key, so equal kernels are one function. */
#include "codegen/host/emit.h"
#include <llvm-c/Error.h>
#include <llvm-c/LLJIT.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/threads.h"
#include "codegen/code_cache.h"

struct syl_host_code {
    LLVMOrcLLJITRef jit;
    kir_function *functions;
    size_t n;
};

typedef struct kernel_job {
    const kir_kernel *kernel;
    syl_hash key;
    size_t same_as; /* an earlier kernel with the same key, or its own number */
    em_object object;
    bool cached;
    syl_status status;
} kernel_job;

typedef struct compile_state {
    const syl_host_target *target;
    const char *cache_dir; /* NULL: none */
    syl_diag *diag;
    kernel_job *jobs;
} compile_state;

typedef char symbol_name[40];

static void symbol_of(const kernel_job *job, symbol_name out) {
    snprintf(out, sizeof(symbol_name), "syl_%s", job->key.hex);
}

static void compile_range(void *user, int64_t begin, int64_t end, int thread) {
    compile_state *state = user;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        kernel_job *job = &state->jobs[i];
        symbol_name symbol;
        if (job->same_as != (size_t)i) continue;
        job->cached = state->cache_dir && em_cache_load(state->cache_dir, &job->key, &job->object);
        if (job->cached) continue;
        symbol_of(job, symbol);
        job->status = em_make_object(job->kernel, state->target, symbol, state->diag, &job->object);
        if (job->status == SYL_OK && state->cache_dir)
            em_cache_store(state->cache_dir, &job->key, &job->object);
    }
}

static syl_status report(syl_diag *diag, LLVMErrorRef error, const char *what) {
    char *message = LLVMGetErrorMessage(error);
    syl_status status = syl_error(diag, SYL_ERR_codegen_link, SYL_NOWHERE, "%s: %s", what, message);
    LLVMDisposeErrorMessage(message);
    return status;
}

static syl_status link_jobs(kernel_job *jobs, syl_host_code *code, syl_diag *diag) {
    LLVMErrorRef error = LLVMOrcCreateLLJIT(&code->jit, NULL);
    if (error) return report(diag, error, "cannot start the linker for generated code");
    LLVMOrcJITDylibRef library = LLVMOrcLLJITGetMainJITDylib(code->jit);
    for (size_t i = 0; i < code->n; i++) {
        if (jobs[i].same_as != i) continue;
        LLVMMemoryBufferRef buffer = LLVMCreateMemoryBufferWithMemoryRangeCopy(
            jobs[i].object.data, jobs[i].object.size, jobs[i].key.hex);
        if ((error = LLVMOrcLLJITAddObjectFile(code->jit, library, buffer)))
            return report(diag, error, "cannot add generated code");
    }
    for (size_t i = 0; i < code->n; i++) {
        symbol_name symbol;
        LLVMOrcExecutorAddress address;
        symbol_of(&jobs[i], symbol);
        if ((error = LLVMOrcLLJITLookup(code->jit, &address, symbol)))
            return report(diag, error, "cannot link generated code");
        code->functions[i] = (kir_function)(uintptr_t)address;
    }
    return SYL_OK;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static syl_status compile_jobs(compile_state *state, size_t n, int threads) {
    syl_pool *pool = syl_pool_create(threads);
    if (!pool)
        return syl_error(state->diag, SYL_ERR_out_of_memory, SYL_NOWHERE,
                         "cannot start threads for compiling");
    syl_pool_for(pool, (int64_t)n, 1, compile_range, state);
    syl_pool_destroy(pool);
    for (size_t i = 0; i < n; i++)
        if (state->jobs[i].status != SYL_OK) return state->jobs[i].status;
    return SYL_OK;
}

syl_status syl_host_compile(const syl_plan *plan, const syl_host_target *target,
                            const syl_host_options *options, syl_diag *diag, syl_host_stats *stats,
                            syl_host_code **out) {
    double start = now();
    size_t n = plan->kernels.n;
    syl_arena arena;
    syl_arena_init(&arena);
    em_start_llvm();
    compile_state state = {target, options ? options->cache_dir : NULL, diag,
                           SYL_NEW_ARRAY(&arena, kernel_job, n)};
    if (state.cache_dir && !syl_code_folder_usable(state.cache_dir, diag)) state.cache_dir = NULL;
    for (size_t i = 0; i < n; i++) {
        kernel_job *job = &state.jobs[i];
        job->kernel = plan->kernels.p[i];
        job->key = em_cache_key(job->kernel, target);
        for (job->same_as = 0; memcmp(state.jobs[job->same_as].key.hex, job->key.hex, 32) != 0;)
            job->same_as++;
    }
    syl_host_code *code = calloc(1, sizeof *code);
    if (code) code->functions = calloc(n ? n : 1, sizeof *code->functions);
    syl_status status = SYL_OK;
    if (!code || !code->functions) {
        status = syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for generated code");
    } else {
        code->n = n;
        status = compile_jobs(&state, n, options ? options->threads : 0);
        if (status == SYL_OK) status = link_jobs(state.jobs, code, diag);
    }
    syl_host_stats counted = {.seconds = now() - start};
    for (size_t i = 0; i < n; i++) {
        if (state.jobs[i].same_as == i) *(state.jobs[i].cached ? &counted.cached : &counted.compiled) += 1;
        free(state.jobs[i].object.data);
    }
    syl_arena_free(&arena);
    if (stats) *stats = counted;
    if (status != SYL_OK) {
        syl_host_code_destroy(code);
        return status;
    }
    *out = code;
    return SYL_OK;
}

kir_function syl_host_function(const syl_host_code *code, int kernel) {
    return code->functions[kernel];
}

void syl_host_code_destroy(syl_host_code *code) {
    if (!code) return;
    if (code->jit) LLVMConsumeError(LLVMOrcDisposeLLJIT(code->jit));
    free(code->functions);
    free(code);
}
