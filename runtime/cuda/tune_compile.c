/* Compiling ahead (tune.h): threads that take codes from a list, each through the cache of compiled kernels, so that who measures finds
 * them there. A code that does not compile costs itself alone. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "codegen/cuda/nvrtc.h"
#include "runtime/cuda/tune.h"

struct tune_compiler {
    const syl_cuda_target *target;
    const char *cache_dir;
    tune_code *const *codes;
    size_t n, next;
    bool stop;
    pthread_mutex_t lock; /* of what follows, of next, stop and the codes' results */
    pthread_cond_t changed;
    syl_arena arena;
    double seconds;
    syl_nvrtc *nvrtc; /* held open, so that the threads' own uses of it find it loaded */
    pthread_t *threads;
    int n_threads;
};

double tune_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct first_error {
    syl_arena arena;
    const char *text;
} first_error;

static void keep_first(void *user, const syl_message *message) {
    first_error *e = user;
    if (!e->text && message->severity == SYL_SEV_ERROR) e->text = syl_arena_strdup(&e->arena, message->text);
}

static void compile_one(tune_compiler *c, tune_code *code) {
    first_error error = {0};
    syl_arena_init(&error.arena);
    syl_diag *diag = syl_diag_create(keep_first, &error);
    syl_cuda_job job = {.kernel = code->kernel, .variant = code->variant};
    syl_cuda_compile_options options = {.cache_dir = c->cache_dir, .threads = 1};
    syl_cuda_binaries *binaries = NULL;
    syl_status status = diag ? syl_cuda_compile(&job, 1, c->target, &options, diag, &binaries) : SYL_MEMORY;
    pthread_mutex_lock(&c->lock);
    code->done = true;
    code->compiled = status == SYL_OK;
    if (code->compiled) {
        code->resources = binaries->codes[0].resources;
        if (!binaries->codes[0].cached) c->seconds += binaries->codes[0].seconds;
    } else {
        code->why = syl_arena_strdup(&c->arena, error.text ? error.text : syl_status_meaning(status));
    }
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    syl_cuda_binaries_destroy(binaries);
    syl_diag_destroy(diag);
    syl_arena_free(&error.arena);
}

static void *work(void *user) {
    tune_compiler *c = user;
    pthread_mutex_lock(&c->lock);
    while (!c->stop && c->next < c->n) {
        tune_code *code = c->codes[c->next++];
        pthread_mutex_unlock(&c->lock);
        compile_one(c, code);
        pthread_mutex_lock(&c->lock);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

static syl_status open_nvrtc(tune_compiler *c, syl_diag *diag) {
    syl_nvrtc_place place;
    SYL_TRY(syl_nvrtc_find(&c->arena, diag, &place));
    return syl_nvrtc_open(&place, diag, &c->nvrtc);
}

static syl_status start_threads(tune_compiler *c, int threads, syl_diag *diag) {
    c->threads = calloc((size_t)threads, sizeof *c->threads);
    while (c->threads && c->n_threads < threads &&
           pthread_create(&c->threads[c->n_threads], NULL, work, c) == 0)
        c->n_threads++;
    return c->n_threads
               ? SYL_OK
               : syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "cannot start threads for compiling");
}

syl_status tune_compiler_start(const syl_cuda_target *target, const char *cache_dir, int threads,
                               tune_code *const *codes, size_t n, syl_diag *diag, tune_compiler **out) {
    *out = NULL;
    tune_compiler *c = calloc(1, sizeof *c);
    if (!c) return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for compiling");
    *c = (tune_compiler){.target = target, .cache_dir = cache_dir, .codes = codes, .n = n};
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, &clock);
    pthread_condattr_destroy(&clock);
    syl_arena_init(&c->arena);
    syl_status status = open_nvrtc(c, diag);
    if (status == SYL_OK) status = start_threads(c, threads, diag);
    if (status != SYL_OK) {
        tune_compiler_stop(c);
        return status;
    }
    *out = c;
    return SYL_OK;
}

bool tune_compiler_wait(tune_compiler *c, const tune_code *code, double until) {
    struct timespec t = {.tv_sec = (time_t)until, .tv_nsec = (long)((until - (double)(time_t)until) * 1e9)};
    pthread_mutex_lock(&c->lock);
    while (!code->done && pthread_cond_timedwait(&c->changed, &c->lock, &t) != ETIMEDOUT) {
    }
    bool done = code->done;
    pthread_mutex_unlock(&c->lock);
    return done;
}

double tune_compiler_seconds(tune_compiler *c) {
    pthread_mutex_lock(&c->lock);
    double seconds = c->seconds;
    pthread_mutex_unlock(&c->lock);
    return seconds;
}

void tune_compiler_stop(tune_compiler *c) {
    if (!c) return;
    pthread_mutex_lock(&c->lock);
    c->stop = true;
    pthread_mutex_unlock(&c->lock);
    for (int i = 0; i < c->n_threads; i++) pthread_join(c->threads[i], NULL);
    free(c->threads);
    syl_nvrtc_close(c->nvrtc);
    syl_arena_free(&c->arena);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
    free(c);
}
