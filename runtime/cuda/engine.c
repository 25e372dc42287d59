/* Loading for a GPU: plan, a look at the memory it will take, then kernels and weights at the same time: the ones take a processor and the
 * driver, the others a disk, memory and the bus. */
#include "runtime/cuda/engine.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/size.h"

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

syl_status syl_cuda_find_target(const syl_cuda_properties *gpu, syl_diag *diag, syl_cuda_target *out) {
    if (syl_cuda_target_for(gpu->capability, gpu->sms, gpu->l2, out)) {
        if (gpu->shared < out->shared) out->shared = gpu->shared;
        return SYL_OK;
    }
    return syl_error(diag, SYL_ERR_cuda_capability, SYL_NOWHERE,
                     "cuda:%d (%s) has compute capability %d.%d, at least 7.5 is needed", gpu->ordinal,
                     gpu->name, gpu->capability / 10, gpu->capability % 10);
}

/* Before anything large is read: do the weights fit, and the activations of a chunk of a prompt or of one row? */
static syl_status check_room(const syl_engine *engine, size_t weights, syl_diag *diag) {
    int64_t chunk = engine->is_language_model ? syl_backend_cuda.chunk : 1, rows[2];
    syl_engine_rows(engine, chunk, 1, rows);
    size_t want[SYL_CUDA_USE_COUNT] = {[SYL_CUDA_WEIGHTS] = weights};
    if (!syl_cuda_slots(engine->plan, rows, NULL, &want[SYL_CUDA_ACTIVATIONS]))
        return syl_error(diag, SYL_ERR_size_overflow, SYL_NOWHERE, "activations of %lld rows are too large",
                         (long long)chunk);
    if (engine->signature.has[SYL_INPUT_CACHE]) {
        syl_kv_shape page = {.layers = engine->plan->cache_layers, .cache = engine->plan->cache};
        if (!syl_kv_page_bytes(&page, &want[SYL_CUDA_KV])) want[SYL_CUDA_KV] = SIZE_MAX;
    }
    return syl_cuda_room(syl_cuda_engine_of(engine)->device, want, diag);
}

/* Kernels, by a thread of their own. What it writes nobody else touches: the engine's code, and statistics of it. */
typedef struct kernel_loader {
    syl_engine *engine;
    const syl_engine_options *options;
    int threads;
    syl_diag *diag;
    syl_status status;
    atomic_bool failed; /* the weights are of no use any more */
} kernel_loader;

static syl_status load_kernels(const kernel_loader *k) {
    SYL_TRY(syl_cuda_code_load(k->engine, k->options, k->threads, k->diag));
    return k->engine->is_language_model ? syl_cuda_choose_load(k->engine, k->options, k->diag) : SYL_OK;
}

static void *run_kernel_loader(void *user) {
    kernel_loader *k = user;
    syl_cuda_device *device = syl_cuda_engine_of(k->engine)->device;
    double start = seconds_now();
    k->status = syl_cuda_enter(device, k->diag);
    if (k->status == SYL_OK) {
        k->status = load_kernels(k);
        syl_cuda_leave(device);
    }
    k->engine->stats.compile_s = seconds_now() - start;
    atomic_store(&k->failed, k->status != SYL_OK);
    return NULL;
}

static syl_status load_weights(syl_engine *engine, size_t size, const atomic_bool *stop, syl_pool *pool,
                               syl_diag *diag) {
    syl_cuda_engine *cuda = syl_cuda_engine_of(engine);
    double start = seconds_now();
    SYL_TRY(syl_cuda_alloc(cuda->device, SYL_CUDA_WEIGHTS, size, diag, &cuda->memory));
    SYL_TRY(syl_cuda_weights_load(engine, stop, pool, diag));
    engine->stats.pack_s = seconds_now() - start;
    return SYL_OK;
}

static syl_status load_inside(syl_engine *engine, const syl_engine_options *options, syl_pool *pool,
                              syl_diag *diag) {
    kernel_loader kernels = {
        .engine = engine, .options = options, .threads = syl_pool_threads(pool), .diag = diag};
    size_t size;
    SYL_TRY(syl_cuda_weights_place(engine, diag, &size));
    SYL_TRY(check_room(engine, size, diag));
    pthread_t thread;
    bool beside = pthread_create(&thread, NULL, run_kernel_loader, &kernels) == 0;
    if (!beside) run_kernel_loader(&kernels);
    syl_status status = load_weights(engine, size, &kernels.failed, pool, diag);
    if (beside) pthread_join(thread, NULL);
    return kernels.status != SYL_OK ? kernels.status : status;
}

syl_status syl_cuda_load(syl_engine *engine, const syl_engine_options *options, syl_pool *pool,
                         syl_diag *diag) {
    double start = seconds_now();
    syl_cuda_engine *cuda = engine->loaded = calloc(1, sizeof *cuda);
    if (!cuda) return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for an engine");
    const char *graphs = getenv("SYL_CUDA_GRAPHS");
    const char *fuse = getenv("SYL_CUDA_FUSE");
    cuda->graphs = !graphs || strcmp(graphs, "0") != 0;
    cuda->fuse = !fuse || strcmp(fuse, "0") != 0;
    SYL_TRY(syl_cuda_open(options->device, diag, &cuda->device));
    engine->stats.driver_s = seconds_now() - start;
    SYL_TRY(syl_cuda_find_target(&cuda->device->properties, diag, &cuda->target));
    SYL_TRY(syl_plan_create_cuda(engine->artifact.module, diag, &engine->plan));
    engine->stats.open_s += seconds_now() - start;
    SYL_TRY(syl_cuda_enter(cuda->device, diag));
    syl_status status = load_inside(engine, options, pool, diag);
    syl_cuda_leave(cuda->device);
    SYL_TRY(status);
    syl_arena *arena = &engine->artifact.arena;
    engine->device = syl_arena_printf(arena, "cuda:%d", cuda->device->properties.ordinal);
    engine->target = syl_arena_strdup(arena, cuda->target.name);
    engine->processor = syl_arena_strdup(arena, cuda->device->properties.name);
    engine->device_bytes = cuda->memory.size;
    engine->capability = cuda->device->properties.capability;
    engine->multiprocessors = cuda->device->properties.sms;
    engine->clock_mhz = cuda->device->properties.clock_mhz;
    return SYL_OK;
}

void syl_cuda_unload(syl_engine *engine) {
    syl_cuda_engine *cuda = engine->loaded;
    if (!cuda) return;
    if (cuda->device && cuda->device->context) {
        syl_cuda_enter_anyway(cuda->device);
        syl_cuda_code_unload(cuda);
        syl_cuda_choose_unload(cuda);
        syl_cuda_free(cuda->device, &cuda->memory);
        syl_cuda_leave(cuda->device);
    }
    syl_cuda_close(cuda->device);
    free(cuda->weight_offset);
    free(cuda);
    engine->loaded = NULL;
}
