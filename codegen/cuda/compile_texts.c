/* Sources to code (compile.h): each from the cache or from NVRTC, several at a time. NVRTC is opened by the first thread that needs it. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/threads.h"
#include "codegen/code_cache.h"
#include "codegen/cuda/cache.h"
#include "codegen/cuda/compile.h"
#include "codegen/cuda/nvrtc.h"

typedef struct text_job {
    const syl_cuda_text *text;
    syl_hash key;
    size_t same_as; /* an earlier text with the same key, or its own number */
    cu_entry entry;
    bool cached;
    syl_status status;
} text_job;

typedef struct compile_state {
    const syl_cuda_compile_options *options;
    const char *cache_dir; /* NULL: none */
    const char *option_line;
    syl_nvrtc_place place;
    syl_diag *diag;
    text_job *jobs;
    atomic_bool failed;   /* the rest is given up */
    pthread_mutex_t lock; /* of what follows, and of calls of progress */
    syl_nvrtc *nvrtc;     /* NULL until the first compile */
    syl_cuda_progress progress;
} compile_state;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static syl_status open_compiler(compile_state *state, const syl_nvrtc **out) {
    pthread_mutex_lock(&state->lock);
    syl_status status = SYL_OK;
    if (!state->nvrtc && !atomic_load(&state->failed)) {
        status = syl_nvrtc_open(&state->place, state->diag, &state->nvrtc);
        if (status != SYL_OK) atomic_store(&state->failed, true); /* before another thread tries the same */
    }
    *out = state->nvrtc;
    pthread_mutex_unlock(&state->lock);
    return status;
}

static syl_status compile_job(compile_state *state, text_job *job) {
    const syl_nvrtc *nvrtc;
    const syl_cuda_text *text = job->text;
    SYL_TRY(open_compiler(state, &nvrtc));
    if (!nvrtc) return SYL_OK; /* given up; whoever failed has reported it */
    const char *arch = state->options->arch;
    char name[200];
    snprintf(name, sizeof name, "%s%s%s", text->name, *text->variant ? ", " : "", text->variant);
    syl_nvrtc_input input = {name, text->source, arch, state->cache_dir};
    syl_nvrtc_output output;
    SYL_TRY(syl_nvrtc_compile(nvrtc, &input, state->diag, &output));
    syl_cuda_resources resources = {.spill_stores = -1, .spill_loads = -1, .shared = -1};
    syl_status status = SYL_OK;
    if (strncmp(arch, "sm_", 3) == 0)
        status = syl_cuda_resources_read(output.code, output.size, text->entry, output.log, text->name,
                                         state->diag, &resources);
    if (status != SYL_OK) {
        syl_nvrtc_output_free(&output);
        return status;
    }
    job->entry = (cu_entry){.name = text->name,
                            .variant = text->variant,
                            .entry = text->entry,
                            .options = state->option_line,
                            .compiler = state->place.identity,
                            .source = syl_hash_bytes(text->source, strlen(text->source)),
                            .resources = resources,
                            .seconds = output.seconds,
                            .code = output.code,
                            .size = output.size};
    free(output.log);
    if (state->cache_dir) cu_entry_store(state->cache_dir, &job->key, &job->entry);
    return SYL_OK;
}

static void tell_progress(compile_state *state, const text_job *job) {
    pthread_mutex_lock(&state->lock);
    syl_cuda_progress *p = &state->progress;
    p->done++;
    p->cached += job->cached;
    p->name = job->text->name;
    if (state->options->progress) state->options->progress(state->options->user, p);
    pthread_mutex_unlock(&state->lock);
}

static void compile_range(void *user, int64_t begin, int64_t end, int thread) {
    compile_state *state = user;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        text_job *job = &state->jobs[i];
        if (job->same_as != (size_t)i || atomic_load(&state->failed)) continue;
        job->cached = state->cache_dir && cu_entry_load(state->cache_dir, &job->key, &job->entry);
        if (!job->cached) job->status = compile_job(state, job);
        if (job->status == SYL_OK)
            tell_progress(state, job);
        else
            atomic_store(&state->failed, true);
    }
}

/* ---- keys: equal sources are compiled once ---- */

static int compare_jobs(const void *a, const void *b) {
    const text_job *x = *(text_job *const *)a, *y = *(text_job *const *)b;
    int order = memcmp(x->key.hex, y->key.hex, 32);
    return order ? order : (x > y) - (x < y); /* all of one array: the earlier first */
}

static void find_equal(compile_state *state, syl_arena *arena, size_t n) {
    text_job **sorted = SYL_NEW_ARRAY(arena, text_job *, n);
    for (size_t i = 0; i < n; i++) sorted[i] = &state->jobs[i];
    if (n) qsort(sorted, n, sizeof *sorted, compare_jobs);
    for (size_t i = 0; i < n; i++) {
        bool equal = i && memcmp(sorted[i]->key.hex, sorted[i - 1]->key.hex, 32) == 0;
        sorted[i]->same_as = equal ? sorted[i - 1]->same_as : (size_t)(sorted[i] - state->jobs);
        state->progress.total += !equal;
    }
}

/* ---- the call ---- */

static syl_status run_jobs(compile_state *state, size_t n) {
    syl_pool *pool = syl_pool_create(state->options->threads);
    if (!pool)
        return syl_error(state->diag, SYL_ERR_out_of_memory, SYL_NOWHERE,
                         "cannot start threads for compiling");
    syl_pool_for(pool, (int64_t)n, 1, compile_range, state);
    syl_pool_destroy(pool);
    for (size_t i = 0; i < n; i++)
        if (state->jobs[i].status != SYL_OK) return state->jobs[i].status;
    return SYL_OK;
}

static syl_status gather(compile_state *state, size_t n, double start, syl_cuda_binaries **out) {
    syl_cuda_binaries *b = calloc(1, sizeof *b);
    if (b) b->codes = calloc(n ? n : 1, sizeof *b->codes);
    if (!b || !b->codes) {
        free(b);
        return syl_error(state->diag, SYL_ERR_out_of_memory, SYL_NOWHERE,
                         "no memory for %zu compiled kernels", n);
    }
    b->n = n;
    b->cached = state->progress.cached;
    b->compiled = state->progress.done - b->cached;
    for (size_t i = 0; i < n; i++) {
        const text_job *job = &state->jobs[state->jobs[i].same_as];
        b->codes[i] = (syl_cuda_code){.code = job->entry.code,
                                      .size = job->entry.size,
                                      .resources = job->entry.resources,
                                      .cached = job->cached,
                                      .seconds = job->entry.seconds};
    }
    b->seconds = now() - start;
    *out = b;
    return SYL_OK;
}

static syl_status compile_all(compile_state *state, syl_arena *arena, const syl_cuda_text *texts, size_t n,
                              double start, syl_cuda_binaries **out) {
    SYL_TRY(syl_nvrtc_find(arena, state->diag, &state->place));
    state->option_line = syl_nvrtc_options(arena, state->options->arch);
    for (size_t i = 0; i < n; i++) {
        state->jobs[i].text = &texts[i];
        state->jobs[i].key =
            cu_entry_key(texts[i].source, texts[i].entry, state->option_line, state->place.identity);
    }
    find_equal(state, arena, n);
    SYL_TRY(run_jobs(state, n));
    return gather(state, n, start, out);
}

syl_status syl_cuda_compile_texts(const syl_cuda_text *texts, size_t n,
                                  const syl_cuda_compile_options *options, syl_diag *diag,
                                  syl_cuda_binaries **out) {
    double start = now();
    syl_arena arena;
    syl_arena_init(&arena);
    compile_state state = {.options = options, .cache_dir = options->cache_dir, .diag = diag};
    *out = NULL;
    pthread_mutex_init(&state.lock, NULL);
    state.jobs = SYL_NEW_ARRAY(&arena, text_job, n);
    if (state.cache_dir && !syl_code_folder_usable(state.cache_dir, diag)) state.cache_dir = NULL;
    syl_status status = compile_all(&state, &arena, texts, n, start, out);
    for (size_t i = 0; i < n && status != SYL_OK; i++) free(state.jobs[i].entry.code);
    syl_nvrtc_close(state.nvrtc);
    pthread_mutex_destroy(&state.lock);
    syl_arena_free(&arena);
    return status;
}

static int compare_code(const void *a, const void *b) {
    const syl_cuda_code *x = a, *y = b;
    return ((uintptr_t)x->code > (uintptr_t)y->code) - ((uintptr_t)x->code < (uintptr_t)y->code);
}

void syl_cuda_binaries_destroy(syl_cuda_binaries *b) {
    if (!b) return;
    if (b->n) qsort(b->codes, b->n, sizeof *b->codes, compare_code); /* equal sources share their code */
    for (size_t i = 0; i < b->n; i++)
        if (i + 1 == b->n || b->codes[i + 1].code != b->codes[i].code) free((void *)b->codes[i].code);
    free(b->codes);
    free(b);
}
