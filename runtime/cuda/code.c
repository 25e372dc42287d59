/* Kernels on the device: for each kernel of the plan and each bucket of rows the variant that was tuned on such a machine (tuned.h) or else
 * the one that the cost model likes best, equal ones once; for few rows the steps that are launched together (codegen/cuda/schedule.h); compiled or taken from the cache, then loaded as modules. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "codegen/cuda/compile.h"
#include "runtime/cuda/engine.h"
#include "runtime/cuda/tuned.h"

const int64_t syl_cuda_buckets[SYL_CUDA_BUCKETS] = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048};

int syl_cuda_bucket_of(int64_t rows) {
    int bucket = 0;
    while (bucket < SYL_CUDA_BUCKETS - 1 && syl_cuda_buckets[bucket] < rows) bucket++;
    return bucket;
}

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static bool same_variant(const syl_cuda_variant *a, const syl_cuda_variant *b) {
    return a->family == b->family && memcmp(a->values, b->values, sizeof a->values) == 0;
}

/* ---- choosing ---- */

static syl_status choose(syl_engine *engine, syl_cuda_tuned *tuned, syl_diag *diag) {
    syl_cuda_engine *cuda = syl_cuda_engine_of(engine);
    syl_cuda_code_set *code = &cuda->code;
    size_t kernels = engine->plan->kernels.n, first;
    code->choice = calloc(kernels * SYL_CUDA_BUCKETS + 1, sizeof *code->choice);
    code->tuned = calloc(kernels * SYL_CUDA_BUCKETS + 1, sizeof *code->tuned);
    code->loaded = calloc(kernels * SYL_CUDA_BUCKETS + 1, sizeof *code->loaded);
    if (!code->choice || !code->tuned || !code->loaded)
        return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for the list of kernels");
    for (size_t k = 0; k < kernels; k++) {
        const kir_kernel *kernel = engine->plan->kernels.p[k];
        bool any = false;
        first = code->n;
        for (int b = 0; b < SYL_CUDA_BUCKETS; b++) {
            syl_cuda_variant best;
            bool known = syl_cuda_tuned_find(tuned, kernel, &cuda->target, syl_cuda_buckets[b], &best);
            any = any || known;
            if (!known && syl_cuda_variants(kernel, &cuda->target, syl_cuda_buckets[b], &best, 1) < 1)
                return syl_error(diag, SYL_ERR_internal, SYL_NOWHERE,
                                 "no family of CUDA kernels takes kernel k%zu (%s)", k, kernel->name);
            size_t at = first;
            while (at < code->n && !same_variant(&code->loaded[at].variant, &best)) at++;
            if (at == code->n) code->loaded[code->n++] = (syl_cuda_loaded){.kernel = kernel, .variant = best};
            code->choice[k * SYL_CUDA_BUCKETS + (size_t)b] = (int)at;
            code->tuned[k * SYL_CUDA_BUCKETS + (size_t)b] = known;
        }
        engine->stats.tuned += any;
    }
    return SYL_OK;
}

/* ---- steps that are launched together ---- */

typedef struct picker {
    const syl_cuda_code_set *code;
    int bucket;
} picker;

static syl_cuda_variant pick(void *user, int kernel, bool *measured) {
    const picker *p = user;
    int choice = kernel * SYL_CUDA_BUCKETS + p->bucket;
    *measured = p->code->tuned[choice];
    return p->code->loaded[p->code->choice[choice]].variant;
}

static syl_status plan_together(syl_engine *engine, syl_diag *diag) {
    syl_cuda_engine *cuda = syl_cuda_engine_of(engine);
    syl_cuda_code_set *code = &cuda->code;
    for (int b = 0; b < SYL_CUDA_FEW_BUCKETS && cuda->fuse; b++) {
        picker p = {code, b};
        SYL_TRY(syl_cuda_schedule_create(engine->plan, &cuda->target, syl_cuda_buckets[b], pick, &p, diag,
                                         &code->few[b]));
        code->few_loaded[b] = code->n;
        size_t more = code->few[b] ? code->few[b]->fused.n : 0;
        syl_cuda_loaded *loaded = realloc(code->loaded, (code->n + more + 1) * sizeof *loaded);
        if (!loaded)
            return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for the list of kernels");
        code->loaded = loaded;
        for (size_t i = 0; i < more; i++) {
            const syl_cuda_fused *fused = &code->few[b]->fused.p[i];
            code->loaded[code->n++] =
                (syl_cuda_loaded){.kernel = fused->kernels[fused->n - 1], .fused = fused};
        }
    }
    return SYL_OK;
}

/* ---- loading ---- */

/* Equal sources share a module. */
static syl_status load_modules(syl_cuda_engine *cuda, const syl_cuda_binaries *binaries, syl_diag *diag) {
    syl_cuda_code_set *code = &cuda->code;
    syl_cuda_device *device = cuda->device;
    const syl_cuda_driver *driver = &device->driver;
    code->modules = calloc(code->n + 1, sizeof(cu_module));
    size_t *owner = calloc(code->n + 1, sizeof *owner); /* module of each kernel */
    if (!code->modules || !owner) {
        free(owner);
        return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for the list of modules");
    }
    syl_status status = SYL_OK;
    for (size_t i = 0; i < code->n && status == SYL_OK; i++) {
        syl_cuda_loaded *loaded = &code->loaded[i];
        size_t twin = 0;
        while (twin < i && binaries->codes[twin].code != binaries->codes[i].code) twin++;
        owner[i] = twin < i ? owner[twin] : code->n_modules;
        loaded->launch = binaries->codes[i].launch;
        if (twin == i) {
            status = syl_cuda_check(
                device, driver->module_load(&code->modules[code->n_modules], binaries->codes[i].code),
                "loading a kernel", diag);
            if (status == SYL_OK) code->n_modules++;
        }
        if (status == SYL_OK)
            status =
                syl_cuda_check(device,
                               syl_cuda_find_kernel(driver, code->modules[owner[i]], loaded->launch.entry,
                                                    loaded->launch.shared, &loaded->function),
                               "finding a kernel in its module", diag);
        if (status != SYL_OK) syl_note(diag, SYL_NOWHERE, "the kernel is %s", loaded->kernel->name);
    }
    free(owner);
    return status;
}

static void report_progress(void *user, const syl_cuda_progress *progress) {
    const syl_engine_options *options = user;
    options->progress(options->progress_user, progress->done, progress->total);
}

syl_status syl_cuda_code_load(syl_engine *engine, const syl_engine_options *options, int threads,
                              syl_diag *diag) {
    syl_cuda_engine *cuda = syl_cuda_engine_of(engine);
    syl_cuda_tuned *tuned = syl_cuda_tuned_open(options->cache_dir, &cuda->device->properties, diag);
    syl_status chosen = choose(engine, tuned, diag);
    syl_cuda_tuned_close(tuned);
    SYL_TRY(chosen);
    SYL_TRY(plan_together(engine, diag));
    syl_cuda_job *jobs = calloc(cuda->code.n + 1, sizeof *jobs);
    if (!jobs)
        return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for the list of kernels");
    for (size_t i = 0; i < cuda->code.n; i++)
        jobs[i] = (syl_cuda_job){.kernel = cuda->code.loaded[i].kernel,
                                 .variant = cuda->code.loaded[i].variant,
                                 .fused = cuda->code.loaded[i].fused};
    syl_cuda_compile_options compile = {.cache_dir = options->cache_dir, .threads = threads};
    if (options->progress) {
        compile.progress = report_progress;
        compile.user = (void *)(uintptr_t)options;
    }
    syl_cuda_binaries *binaries = NULL;
    syl_status status = syl_cuda_compile(jobs, cuda->code.n, &cuda->target, &compile, diag, &binaries);
    double start = seconds_now();
    if (status == SYL_OK) status = load_modules(cuda, binaries, diag);
    engine->stats.modules_s = seconds_now() - start;
    if (status == SYL_OK) {
        engine->stats.compiled = binaries->compiled;
        engine->stats.cached = binaries->cached;
    }
    syl_cuda_binaries_destroy(binaries);
    free(jobs);
    return status;
}

void syl_cuda_code_unload(syl_cuda_engine *cuda) {
    for (size_t i = 0; i < cuda->code.n_modules; i++)
        cuda->device->driver.module_unload(cuda->code.modules[i]);
    for (int b = 0; b < SYL_CUDA_FEW_BUCKETS; b++) syl_cuda_schedule_destroy(cuda->code.few[b]);
    free(cuda->code.modules);
    free(cuda->code.loaded);
    free(cuda->code.choice);
    free(cuda->code.tuned);
    cuda->code = (syl_cuda_code_set){0};
}
