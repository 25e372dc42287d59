/* Kernels and variants to code (compile.h): prints the sources on several threads, and compiles them (compile_texts.c). */
#include "codegen/cuda/compile.h"
#include <string.h>
#include <time.h>
#include "base/threads.h"

typedef struct source_job {
    const syl_cuda_job *job;
    syl_arena arena; /* a thread prints into its own */
    syl_text source, name, variant;
    syl_cuda_launch launch;
    syl_status status;
} source_job;

typedef struct print_state {
    const syl_cuda_target *target;
    syl_diag *diag;
    source_job *jobs;
} print_state;

syl_status syl_cuda_job_source(const syl_cuda_job *job, const syl_cuda_target *target, syl_diag *diag,
                               syl_text *out, syl_cuda_launch *launch) {
    return job->fused ? syl_cuda_fused_source(job->fused, target, diag, out, launch)
                      : syl_cuda_source(job->kernel, target, &job->variant, diag, out, launch);
}

static void print_range(void *user, int64_t begin, int64_t end, int thread) {
    print_state *state = user;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        source_job *job = &state->jobs[i];
        if (job->job->fused) {
            syl_cuda_fused_name(job->job->fused, &job->name);
            syl_cuda_fused_print(job->job->fused, &job->variant);
        } else {
            syl_text_printf(&job->name, "%s", job->job->kernel->name);
            syl_cuda_variant_print(&job->job->variant, &job->variant);
        }
        job->status = syl_cuda_job_source(job->job, state->target, state->diag, &job->source, &job->launch);
    }
}

static syl_status print_sources(print_state *state, size_t n, int threads) {
    syl_pool *pool = syl_pool_create(threads);
    if (!pool)
        return syl_error(state->diag, SYL_ERR_out_of_memory, SYL_NOWHERE,
                         "cannot start threads for compiling");
    syl_pool_for(pool, (int64_t)n, 1, print_range, state);
    syl_pool_destroy(pool);
    for (size_t i = 0; i < n; i++)
        if (state->jobs[i].status != SYL_OK) return state->jobs[i].status;
    return SYL_OK;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static syl_status compile_sources(print_state *state, syl_arena *arena, size_t n,
                                  const syl_cuda_target *target, const syl_cuda_compile_options *given,
                                  syl_cuda_binaries **out) {
    syl_cuda_compile_options options = given ? *given : (syl_cuda_compile_options){0};
    if (!options.arch) options.arch = target->name;
    SYL_TRY(print_sources(state, n, options.threads));
    syl_cuda_text *texts = SYL_NEW_ARRAY(arena, syl_cuda_text, n);
    for (size_t i = 0; i < n; i++) {
        source_job *job = &state->jobs[i];
        texts[i] = (syl_cuda_text){job->name.p, job->variant.p, job->launch.entry, job->source.p};
    }
    SYL_TRY(syl_cuda_compile_texts(texts, n, &options, state->diag, out));
    for (size_t i = 0; i < n; i++) (*out)->codes[i].launch = state->jobs[i].launch;
    return SYL_OK;
}

syl_status syl_cuda_compile(const syl_cuda_job *jobs, size_t n, const syl_cuda_target *target,
                            const syl_cuda_compile_options *options, syl_diag *diag,
                            syl_cuda_binaries **out) {
    double start = now();
    syl_arena arena;
    syl_arena_init(&arena);
    print_state state = {target, diag, SYL_NEW_ARRAY(&arena, source_job, n)};
    *out = NULL;
    for (size_t i = 0; i < n; i++) {
        source_job *job = &state.jobs[i];
        job->job = &jobs[i];
        syl_arena_init(&job->arena);
        job->source.arena = job->name.arena = job->variant.arena = &job->arena;
    }
    syl_status status = compile_sources(&state, &arena, n, target, options, out);
    if (status == SYL_OK) (*out)->seconds = now() - start;
    for (size_t i = 0; i < n; i++) syl_arena_free(&state.jobs[i].arena);
    syl_arena_free(&arena);
    return status;
}
