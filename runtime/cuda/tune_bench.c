/* Kernels one by one on the device (tune_bench.h).
 *
 * Launches of a timing are one graph, so that the device goes from one to the next as it does in a run; each takes the next set of buffers.
 * Times of one race are taken in turns, so that a clock that changes in the meantime changes all of them. */
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "runtime/cuda/tune_bench.h"

enum {
    MOST_SETS = 256,
    LEAST_CALLS = 4, /* of a timing */
    STAGING = 16 << 20,
    POISON = 0xa5,
    TRY_ROUNDS = 3,
    RACE_ROUNDS = 11,
    MOST_LOADED = 256,
};
static const double MOST_TIMING_S = 0.02; /* of one replay, about */
static const double WARM_S = 0.03;        /* of work in front of times, for the clocks to be up */

typedef struct racer {
    syl_cuda_variant variant;
    syl_cuda_launch launch;
    cu_module module;
    cu_function function;
    cu_graph_exec graph;
    bool right; /* has the reference's bits */
} racer;

struct tune_bench {
    syl_engine engine; /* artifact and plan; no backend */
    syl_cuda_device *device;
    syl_cuda_target target;
    syl_pool *pool;
    const char *cache_dir;
    cu_stream stream;
    cu_event events[2];
    syl_cuda_pinned staging;
    cu_module differ_module;
    cu_function differ;
    syl_cuda_memory count; /* of differing words */
    tune_weights weights;
    /* the unit */
    bool open;
    tune_inputs in;
    int sets, calls;
    syl_cuda_memory memory, common, views, reference, workspace;
    racer *racers;
    int n_racers;
};

static syl_status check(tune_bench *b, int result, const char *what, syl_diag *diag) {
    return syl_cuda_check(b->device, result, what, diag);
}

bool tune_bench_lost(const tune_bench *b) {
    return atomic_load(&b->device->lost);
}

/* ---- counting words that differ ---- */

/* Of a tiled matrix rows that only fill the last atom are passed over. */
static const char differ_source[] =
    "struct Args { const unsigned *a, *b; unsigned long long words; unsigned long long *count; int rows, "
    "blocks; };\n"
    "extern \"C\" __global__ void syl_differ(const __grid_constant__ Args args) {\n"
    "    unsigned long long n = 0, step = (unsigned long long)gridDim.x * blockDim.x;\n"
    "    for (unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x; i < "
    "args.words; i += step) {\n"
    "        if (args.rows) {\n"
    "            unsigned long long row = i / 256 % args.blocks * 8 + i / 32 % 8;\n"
    "            if (row >= (unsigned)args.rows) continue;\n"
    "        }\n"
    "        n += args.a[i] != args.b[i];\n"
    "    }\n"
    "    if (n) atomicAdd(args.count, n);\n"
    "}\n";

typedef struct differ_args {
    uint64_t a, b, words, count;
    int32_t rows, blocks;
    uint64_t unused[SYL_CUDA_MAX_BUFFERS]; /* parameters of all kernels here have one size at least */
} differ_args;

static syl_status load_differ(tune_bench *b, syl_diag *diag) {
    const syl_cuda_text text = {"differ", "tuning", "syl_differ", differ_source};
    syl_cuda_compile_options options = {.cache_dir = b->cache_dir, .threads = 1, .arch = b->target.name};
    syl_cuda_binaries *binaries = NULL;
    SYL_TRY(syl_cuda_compile_texts(&text, 1, &options, diag, &binaries));
    syl_status status = check(b, b->device->driver.module_load(&b->differ_module, binaries->codes[0].code),
                              "loading a kernel", diag);
    if (status == SYL_OK)
        status = check(b, b->device->driver.module_function(&b->differ, b->differ_module, "syl_differ"),
                       "finding a kernel in its module", diag);
    syl_cuda_binaries_destroy(binaries);
    return status;
}

/* How many words of a result differ between two places. */
static syl_status count_differing(tune_bench *b, const tune_buffer *buffer, cu_address x, cu_address y,
                                  syl_diag *diag, uint64_t *out) {
    const syl_cuda_driver *driver = &b->device->driver;
    differ_args args = {.a = x, .b = y, .words = (buffer->size + 3) / 4, .count = b->count.at};
    if (buffer->tiled) {
        args.rows = (int32_t)b->in.rows;
        args.blocks = (int32_t)syl_ceil_div(b->in.rows, KIR_ATOM_ROWS);
    }
    uint64_t blocks = (args.words + 1023) / 1024;
    cu_launch_config config = {
        .grid = {(unsigned)(blocks < 2048 ? blocks : 2048), 1, 1}, .block = {256, 1, 1}, .stream = b->stream};
    void *parameters[] = {&args};
    SYL_TRY(check(b, driver->fill(b->count.at, 0, sizeof *out, b->stream), "comparing results", diag));
    SYL_TRY(check(b, driver->launch(&config, b->differ, parameters, NULL), "comparing results", diag));
    SYL_TRY(check(b, driver->copy_out(b->staging.data, b->count.at, sizeof *out, b->stream),
                  "comparing results", diag));
    SYL_TRY(check(b, driver->stream_wait(b->stream), "comparing results", diag));
    memcpy(out, b->staging.data, sizeof *out);
    return SYL_OK;
}

/* ---- opening ---- */

static syl_status open_inside(tune_bench *b, syl_diag *diag) {
    const syl_cuda_driver *driver = &b->device->driver;
    SYL_TRY(check(b, driver->stream_create(&b->stream, CU_STREAM_NON_BLOCKING), "making a stream", diag));
    for (int i = 0; i < 2; i++)
        SYL_TRY(check(b, driver->event_create(&b->events[i], CU_EVENT_DEFAULT), "making an event", diag));
    SYL_TRY(syl_cuda_pin(b->device, STAGING, diag, &b->staging));
    SYL_TRY(syl_cuda_alloc(b->device, SYL_CUDA_WORKSPACE, 256, diag, &b->count));
    return load_differ(b, diag);
}

static syl_status open_bench(tune_bench *b, const char *path, const char *device, syl_diag *diag) {
    SYL_TRY(syl_artifact_open(path, diag, &b->engine.artifact));
    SYL_TRY(syl_plan_create_cuda(b->engine.artifact.module, diag, &b->engine.plan));
    SYL_TRY(syl_cuda_open(device, diag, &b->device));
    SYL_TRY(syl_cuda_find_target(&b->device->properties, diag, &b->target));
    SYL_TRY(syl_cuda_enter(b->device, diag));
    syl_status status = open_inside(b, diag);
    syl_cuda_leave(b->device);
    return status;
}

syl_status tune_bench_open(const char *path, const char *device, const char *cache_dir, syl_pool *pool,
                           syl_diag *diag, tune_bench **out) {
    *out = NULL;
    tune_bench *b = calloc(1, sizeof *b);
    if (b) b->racers = calloc(MOST_LOADED, sizeof *b->racers);
    if (!b || !b->racers) {
        free(b);
        return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for measuring");
    }
    b->pool = pool;
    b->cache_dir = cache_dir;
    b->weights.kernel = -1;
    syl_status status = open_bench(b, path, device, diag);
    if (status != SYL_OK) {
        tune_bench_close(b);
        return status;
    }
    *out = b;
    return SYL_OK;
}

static void drop_racer(tune_bench *b, racer *r) {
    if (r->graph) b->device->driver.graph_exec_destroy(r->graph);
    if (r->module) b->device->driver.module_unload(r->module);
    *r = (racer){0};
}

static void close_unit(tune_bench *b) {
    for (int i = 0; i < b->n_racers; i++) drop_racer(b, &b->racers[i]);
    b->n_racers = 0;
    b->open = false;
    syl_cuda_memory *const all[] = {&b->memory, &b->common, &b->views, &b->reference, &b->workspace};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) syl_cuda_free(b->device, all[i]);
    tune_inputs_free(&b->in);
}

static void close_inside(tune_bench *b) {
    const syl_cuda_driver *driver = &b->device->driver;
    if (b->stream) driver->stream_wait(b->stream);
    close_unit(b);
    if (b->differ_module) driver->module_unload(b->differ_module);
    syl_cuda_free(b->device, &b->count);
    syl_cuda_unpin(b->device, &b->staging);
    for (int i = 0; i < 2; i++)
        if (b->events[i]) driver->event_destroy(b->events[i]);
    if (b->stream) driver->stream_destroy(b->stream);
}

void tune_bench_close(tune_bench *b) {
    if (!b) return;
    if (b->device) {
        syl_cuda_enter_anyway(b->device);
        close_inside(b);
        syl_cuda_leave(b->device);
        syl_cuda_close(b->device);
    }
    tune_weights_free(&b->weights);
    syl_plan_destroy(b->engine.plan);
    syl_artifact_close(&b->engine.artifact);
    free(b->racers);
    free(b);
}

/* ---- memory of a unit ---- */

static syl_status upload(tune_bench *b, cu_address to, const void *from, size_t size, syl_diag *diag) {
    const syl_cuda_driver *driver = &b->device->driver;
    for (size_t done = 0; done < size;) {
        size_t n = size - done < STAGING ? size - done : STAGING;
        memcpy(b->staging.data, (const char *)from + done, n);
        SYL_TRY(check(b, driver->copy_in(to + done, b->staging.data, n, b->stream), "copying inputs", diag));
        SYL_TRY(check(b, driver->stream_wait(b->stream), "copying inputs", diag));
        done += n;
    }
    return SYL_OK;
}

/* So many that what lies in the L2 cache is gone when a set's turn comes again, as far as memory goes. */
static syl_status choose_sets(tune_bench *b, syl_diag *diag) {
    size_t free_bytes = 0, total = 0, set = b->in.set ? b->in.set : 1;
    SYL_TRY(check(b, b->device->driver.memory_info(&free_bytes, &total), "asking for free memory", diag));
    size_t sets = 2 * (size_t)b->target.l2 / set + 1, fit = free_bytes / 2 / set;
    if (sets < 2) sets = 2;
    if (sets > MOST_SETS) sets = MOST_SETS;
    b->sets = (int)(sets < fit ? sets : fit > 0 ? fit : 1);
    return SYL_OK;
}

static cu_address set_at(const tune_bench *b, int set) {
    return b->memory.at + (cu_address)set * b->in.set;
}

static syl_status fill_set(tune_bench *b, syl_diag *diag) {
    for (int i = 0; i < b->in.n; i++) {
        const tune_buffer *buffer = &b->in.buffers[i];
        if (buffer->bytes && buffer->size)
            SYL_TRY(upload(b, (buffer->shared ? b->common.at : b->memory.at) + buffer->at, buffer->bytes,
                           buffer->size, diag));
    }
    if (b->in.cache >= 0)
        SYL_TRY(upload(b, b->memory.at + b->in.table_at, b->in.table, sizeof(int32_t) * (size_t)b->in.pages,
                       diag));
    for (int s = 1; s < b->sets; s++)
        SYL_TRY(check(b, b->device->driver.copy(set_at(b, s), b->memory.at, b->in.set, b->stream),
                      "copying inputs", diag));
    return SYL_OK;
}

static syl_status fill_views(tune_bench *b, syl_diag *diag) {
    if (b->in.cache < 0) return SYL_OK;
    syl_cuda_kv_view *views = calloc((size_t)b->sets, sizeof *views);
    if (!views)
        return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for inputs of a kernel");
    for (int s = 0; s < b->sets; s++)
        views[s] = (syl_cuda_kv_view){.pages = set_at(b, s) + b->in.buffers[b->in.cache].at,
                                      .table = set_at(b, s) + b->in.table_at,
                                      .table_stride = b->in.pages / b->in.sequences,
                                      .page_size = b->in.page_bytes};
    syl_status status = upload(b, b->views.at, views, (size_t)b->sets * sizeof *views, diag);
    free(views);
    return status;
}

static syl_status make_memory(tune_bench *b, syl_diag *diag) {
    SYL_TRY(choose_sets(b, diag));
    SYL_TRY(syl_cuda_alloc(b->device, SYL_CUDA_TENSORS, b->in.common, diag, &b->common));
    SYL_TRY(syl_cuda_alloc(b->device, SYL_CUDA_TENSORS, (size_t)b->sets * b->in.set, diag, &b->memory));
    SYL_TRY(syl_cuda_alloc(b->device, SYL_CUDA_TENSORS, b->in.set, diag, &b->reference));
    if (b->in.cache >= 0)
        SYL_TRY(syl_cuda_alloc(b->device, SYL_CUDA_TENSORS, (size_t)b->sets * sizeof(syl_cuda_kv_view), diag,
                               &b->views));
    SYL_TRY(fill_set(b, diag));
    return fill_views(b, diag);
}

/* ---- variants ---- */

static bool same(const syl_cuda_variant *a, const syl_cuda_variant *b) {
    return a->family == b->family && memcmp(a->values, b->values, sizeof a->values) == 0;
}

static syl_status load_code(tune_bench *b, racer *r, syl_diag *diag) {
    const syl_cuda_driver *driver = &b->device->driver;
    const syl_cuda_job job = {.kernel = b->in.kernel, .variant = r->variant};
    const syl_cuda_compile_options options = {.cache_dir = b->cache_dir, .threads = 1};
    syl_cuda_binaries *binaries = NULL;
    SYL_TRY(syl_cuda_compile(&job, 1, &b->target, &options, diag, &binaries));
    r->launch = binaries->codes[0].launch;
    syl_status status =
        check(b, driver->module_load(&r->module, binaries->codes[0].code), "loading a kernel", diag);
    syl_cuda_binaries_destroy(binaries);
    SYL_TRY(status);
    return check(b, syl_cuda_find_kernel(driver, r->module, r->launch.entry, r->launch.shared, &r->function),
                 "finding a kernel in its module", diag);
}

/* Clean for each variant: what the one before left there is none of its business. */
static syl_status make_workspace(tune_bench *b, const racer *r, syl_diag *diag) {
    int64_t need = syl_cuda_workspace_of(&r->launch, b->in.rows, b->in.positions);
    if (need > 0 && (size_t)need > b->workspace.size) {
        /* graphs that were captured know the old place */
        for (int i = 0; i < b->n_racers; i++) {
            if (b->racers[i].graph) b->device->driver.graph_exec_destroy(b->racers[i].graph);
            b->racers[i].graph = NULL;
        }
        syl_cuda_free(b->device, &b->workspace);
        SYL_TRY(syl_cuda_alloc(b->device, SYL_CUDA_WORKSPACE, (size_t)need + 256, diag, &b->workspace));
    }
    if (!b->workspace.size) return SYL_OK;
    return check(b, b->device->driver.fill(b->workspace.at, 0, b->workspace.size, b->stream),
                 "clearing the workspace", diag);
}

static syl_status launch(tune_bench *b, const racer *r, int set, bool early, syl_diag *diag) {
    syl_cuda_arguments p = {0};
    const syl_cuda_counts counts = {b->in.rows, b->in.positions};
    for (int i = 0; i < b->in.n; i++) {
        const tune_buffer *buffer = &b->in.buffers[i];
        p.words[i] = (buffer->shared ? b->common.at : set_at(b, set)) + buffer->at + buffer->offset;
    }
    if (b->in.cache >= 0) p.words[b->in.cache] = b->views.at + (cu_address)set * sizeof(syl_cuda_kv_view);
    return check(b,
                 syl_cuda_launch_kernel(&b->device->driver, b->stream, r->function, &r->launch, &p, b->in.n,
                                        b->workspace.at, &counts, early),
                 "launching a kernel", diag);
}

/* ---- bits ---- */

/* Runs on the first set, whose results were poisoned: what is not written is seen. */
static syl_status run_once(tune_bench *b, const racer *r, syl_diag *diag) {
    for (int i = 0; i < b->in.n; i++) {
        const tune_buffer *buffer = &b->in.buffers[i];
        if (buffer->compared && buffer->size)
            SYL_TRY(check(b,
                          b->device->driver.fill(b->memory.at + buffer->at, i == b->in.cache ? 0 : POISON,
                                                 (buffer->size + 3) / 4 * 4, b->stream),
                          "clearing results", diag));
    }
    SYL_TRY(make_workspace(b, r, diag));
    SYL_TRY(launch(b, r, 0, false, diag));
    return check(b, b->device->driver.stream_wait(b->stream), "running a kernel", diag);
}

static syl_status keep_reference(tune_bench *b, syl_diag *diag) {
    return check(b, b->device->driver.copy(b->reference.at, b->memory.at, b->in.set, b->stream),
                 "keeping the reference", diag);
}

static syl_status compare(tune_bench *b, tune_verdict *out, syl_diag *diag) {
    uint64_t differing = 0, of = 0;
    for (int i = 0; i < b->in.n; i++) {
        const tune_buffer *buffer = &b->in.buffers[i];
        uint64_t n;
        if (!buffer->compared || !buffer->size) continue;
        SYL_TRY(
            count_differing(b, buffer, b->memory.at + buffer->at, b->reference.at + buffer->at, diag, &n));
        differing += n;
        of += (buffer->size + 3) / 4;
    }
    if (!differing) return SYL_OK;
    out->state = SYL_TUNING_WRONG;
    snprintf(out->message, sizeof out->message, "%llu of %llu words differ from the reference's",
             (unsigned long long)differing, (unsigned long long)of);
    return SYL_OK;
}

/* ---- times ---- */

static syl_status capture(tune_bench *b, racer *r, syl_diag *diag) {
    const syl_cuda_driver *driver = &b->device->driver;
    cu_graph graph = NULL;
    SYL_TRY(check(b, driver->stream_capture(b->stream, CU_CAPTURE_THREAD_LOCAL), "capturing launches", diag));
    syl_status status = SYL_OK;
    for (int i = 0; i < b->calls && status == SYL_OK; i++)
        status = launch(b, r, i % b->sets, i > 0 && b->target.arch >= 90, diag);
    syl_status ended = check(b, driver->stream_captured(b->stream, &graph), "capturing launches", diag);
    if (status == SYL_OK) status = ended;
    if (status == SYL_OK)
        status = check(b, driver->graph_instantiate(&r->graph, graph, 0), "capturing launches", diag);
    if (graph) driver->graph_destroy(graph);
    return status;
}

/* Seconds of one launch, of one replay. */
static syl_status replay(tune_bench *b, const racer *r, syl_diag *diag, double *out) {
    const syl_cuda_driver *driver = &b->device->driver;
    float milliseconds = 0;
    SYL_TRY(check(b, driver->event_record(b->events[0], b->stream), "timing a kernel", diag));
    SYL_TRY(check(b, driver->graph_launch(r->graph, b->stream), "timing a kernel", diag));
    SYL_TRY(check(b, driver->event_record(b->events[1], b->stream), "timing a kernel", diag));
    SYL_TRY(check(b, driver->event_wait(b->events[1]), "timing a kernel", diag));
    SYL_TRY(
        check(b, driver->event_elapsed(&milliseconds, b->events[0], b->events[1]), "timing a kernel", diag));
    *out = 1e-3 * (milliseconds > 1e-6f ? (double)milliseconds : 1e-6) / b->calls;
    return SYL_OK;
}

static syl_status warm_up(tune_bench *b, const racer *r, syl_diag *diag) {
    double ignored, until = tune_now() + WARM_S;
    do SYL_TRY(replay(b, r, diag, &ignored));
    while (tune_now() < until);
    return SYL_OK;
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int n) {
    qsort(values, (size_t)n, sizeof *values, compare_doubles);
    return n % 2 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

static syl_status first_time(tune_bench *b, racer *r, syl_diag *diag, double *out) {
    double times[TRY_ROUNDS];
    if (!r->graph) SYL_TRY(capture(b, r, diag));
    SYL_TRY(replay(b, r, diag, &times[0]));
    for (int i = 0; i < TRY_ROUNDS; i++) SYL_TRY(replay(b, r, diag, &times[i]));
    *out = median(times, TRY_ROUNDS);
    return SYL_OK;
}

/* Each set once, unless that takes long. */
static syl_status choose_calls(tune_bench *b, const racer *r, syl_diag *diag) {
    const syl_cuda_driver *driver = &b->device->driver;
    float milliseconds = 0;
    SYL_TRY(check(b, driver->event_record(b->events[0], b->stream), "timing a kernel", diag));
    for (int i = 0; i < LEAST_CALLS; i++) SYL_TRY(launch(b, r, i % b->sets, i > 0, diag));
    SYL_TRY(check(b, driver->event_record(b->events[1], b->stream), "timing a kernel", diag));
    SYL_TRY(check(b, driver->event_wait(b->events[1]), "timing a kernel", diag));
    SYL_TRY(
        check(b, driver->event_elapsed(&milliseconds, b->events[0], b->events[1]), "timing a kernel", diag));
    double one = 1e-3 * (double)milliseconds / LEAST_CALLS, most = one > 0 ? MOST_TIMING_S / one : MOST_SETS;
    b->calls = b->sets > LEAST_CALLS ? b->sets : LEAST_CALLS;
    if (b->calls > most) b->calls = most > 2 ? (int)most : 2;
    return SYL_OK;
}

/* ---- the calls ---- */

static racer *find(tune_bench *b, const syl_cuda_variant *variant) {
    for (int i = 0; i < b->n_racers; i++)
        if (same(&b->racers[i].variant, variant)) return &b->racers[i];
    return NULL;
}

/* Loads a variant and compares its bits; the first of a unit is the reference. */
static syl_status enter_racer(tune_bench *b, const syl_cuda_variant *variant, syl_diag *diag,
                              tune_verdict *verdict, racer **out) {
    racer *r = *out = find(b, variant);
    verdict->state = SYL_TUNING_GOOD;
    if (r && r->right) return SYL_OK;
    if (b->n_racers == MOST_LOADED)
        return syl_error(diag, SYL_ERR_tune_request, SYL_NOWHERE, "more than %d variants of one kernel",
                         MOST_LOADED);
    bool first = b->n_racers == 0;
    r = *out = &b->racers[b->n_racers++];
    r->variant = *variant;
    syl_status status = load_code(b, r, diag);
    if (status == SYL_OK) status = run_once(b, r, diag);
    if (status == SYL_OK) status = first ? keep_reference(b, diag) : compare(b, verdict, diag);
    r->right = status == SYL_OK && verdict->state == SYL_TUNING_GOOD;
    if (r->right) return SYL_OK;
    drop_racer(b, r);
    b->n_racers--;
    *out = NULL;
    return status;
}

static syl_status begin_unit(tune_bench *b, size_t kernel, int64_t rows, const syl_cuda_variant *reference,
                             syl_diag *diag, tune_verdict *out) {
    racer *r;
    close_unit(b);
    SYL_TRY(tune_inputs_make(&b->engine, b->pool, kernel, rows, &b->weights, diag, &b->in));
    SYL_TRY(make_memory(b, diag));
    SYL_TRY(enter_racer(b, reference, diag, out, &r));
    SYL_TRY(choose_calls(b, r, diag));
    SYL_TRY(capture(b, r, diag));
    SYL_TRY(warm_up(b, r, diag));
    b->open = true;
    return SYL_OK;
}

syl_status tune_bench_unit(tune_bench *b, size_t kernel, int64_t rows, const syl_cuda_variant *reference,
                           syl_diag *diag, tune_verdict *out) {
    *out = (tune_verdict){0};
    SYL_TRY(syl_cuda_enter(b->device, diag));
    syl_status status = begin_unit(b, kernel, rows, reference, diag, out);
    if (status != SYL_OK) close_unit(b);
    syl_cuda_leave(b->device);
    return status;
}

static syl_status need_unit(const tune_bench *b, syl_diag *diag) {
    return b->open ? SYL_OK
                   : syl_error(diag, SYL_ERR_tune_request, SYL_NOWHERE, "no kernel was opened for it");
}

syl_status tune_bench_try(tune_bench *b, const syl_cuda_variant *variant, syl_diag *diag, tune_verdict *out) {
    racer *r;
    *out = (tune_verdict){0};
    SYL_TRY(need_unit(b, diag));
    SYL_TRY(syl_cuda_enter(b->device, diag));
    syl_status status = enter_racer(b, variant, diag, out, &r);
    if (status == SYL_OK && r) status = first_time(b, r, diag, &out->seconds[0]);
    out->n = status == SYL_OK && r;
    syl_cuda_leave(b->device);
    return status;
}

/* Another order each round: who ran before may leave the device in a state that suits one more than another. */
static void shuffle(int *order, int n, tune_generator *g) {
    for (int i = 0; i < n; i++) {
        int j = (int)((tune_random(g) >> 33) % (uint64_t)(i + 1));
        if (j < i) order[i] = order[j];
        order[j] = i;
    }
}

/* Variants of another process's tries are loaded first. */
static syl_status race_inside(tune_bench *b, const syl_cuda_variant *variants, int n, syl_diag *diag,
                              tune_verdict *out) {
    double times[TUNE_RACERS][RACE_ROUNDS];
    tune_generator random = {1};
    racer *r = NULL;
    for (int i = 0; i < n; i++) {
        SYL_TRY(enter_racer(b, &variants[i], diag, out, &r));
        if (!r) return SYL_OK; /* wrong, which its try would have said */
    }
    for (int i = 0; i < n; i++) {
        r = find(b, &variants[i]);
        if (!r->graph) SYL_TRY(capture(b, r, diag));
        SYL_TRY(i ? replay(b, r, diag, &times[i][0]) : warm_up(b, r, diag));
    }
    for (int round = 0; round < RACE_ROUNDS; round++) {
        int order[TUNE_RACERS];
        shuffle(order, n, &random);
        for (int i = 0; i < n; i++)
            SYL_TRY(replay(b, find(b, &variants[order[i]]), diag, &times[order[i]][round]));
    }
    for (int i = 0; i < n; i++) out->seconds[i] = median(times[i], RACE_ROUNDS);
    out->n = n;
    return SYL_OK;
}

syl_status tune_bench_race(tune_bench *b, const syl_cuda_variant *variants, int n, syl_diag *diag,
                           tune_verdict *out) {
    *out = (tune_verdict){0};
    SYL_TRY(need_unit(b, diag));
    SYL_TRY(syl_cuda_enter(b->device, diag));
    syl_status status = race_inside(b, variants, n, diag, out);
    syl_cuda_leave(b->device);
    return status;
}
