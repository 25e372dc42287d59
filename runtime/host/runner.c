/* Running a plan on the host (backend.h): each step is spread over the threads of a pool. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/size.h"
#include "runtime/host/engine.h"
#include "runtime/host/pages.h"
#include "runtime/observe.h"

enum {
    MAX_ARGS = 64,
    SMALL_WORK = 32 << 10, /* scalar operations below which waking a worker costs more than it gives */
    RANGES_PER_THREAD =
        4, /* ranges a thread takes of a parallel step: enough to even out, few enough to stream */
};

typedef struct buffer {
    void *data;
    size_t size;
} buffer;

typedef struct host_runner {
    syl_runner base;
    syl_pool *pool;       /* borrowed */
    syl_host_kv *pages;   /* NULL: no cache */
    int64_t cap[2];       /* rows of each symbol that the slots are made for */
    unsigned char *arena; /* all slots */
    size_t arena_size;
    size_t *slot_offset;
    unsigned char *scratch; /* `scratch_stride` bytes a thread */
    size_t scratch_stride;
    int n_inputs, n_outputs;
    buffer *inputs, *outputs;
    syl_sampler *sampler; /* NULL until choose_begin */
    int32_t token;        /* the last one chosen */
} host_runner;

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static syl_status no_memory(syl_diag *diag, const char *what) {
    return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for %s", what);
}

/* ---- creation ---- */

static syl_status make_scratch(host_runner *r, syl_diag *diag) {
    const syl_plan *plan = r->base.engine->plan;
    size_t largest = 64, total;
    for (size_t i = 0; i < plan->kernels.n; i++) {
        if (plan->kernels.p[i]->buffers.n > MAX_ARGS) {
            return syl_error(diag, SYL_ERR_exec_signature, SYL_NOWHERE,
                             "kernel %s has %zu buffers, at most %d are supported", plan->kernels.p[i]->name,
                             plan->kernels.p[i]->buffers.n, MAX_ARGS);
        }
        size_t size = (size_t)kir_scratch(plan->kernels.p[i]);
        if (size > largest) largest = size;
    }
    /* a page apart, so that threads don't share cache lines or prefetched neighbours */
    if (!syl_size_align(largest, 4096, &largest) ||
        !syl_size_mul(largest, (size_t)syl_pool_threads(r->pool), &total)) {
        return syl_error(diag, SYL_ERR_size_overflow, SYL_NOWHERE,
                         "the kernels need too much scratch memory");
    }
    r->scratch_stride = largest;
    r->scratch = syl_alloc_aligned(total);
    return r->scratch ? SYL_OK : no_memory(diag, "the kernels' scratch memory");
}

static void close_runner(syl_runner *base) {
    host_runner *r = (host_runner *)base;
    if (!r) return;
    for (int i = 0; r->inputs && i < r->n_inputs; i++) free(r->inputs[i].data);
    for (int i = 0; r->outputs && i < r->n_outputs; i++) free(r->outputs[i].data);
    free(r->inputs);
    free(r->outputs);
    free(r->arena);
    free(r->slot_offset);
    free(r->scratch);
    syl_host_kv_destroy(r->pages);
    syl_sampler_destroy(r->sampler);
    free(r);
}

static syl_status fill(host_runner *r, const syl_kv_shape *kv, syl_diag *diag) {
    const syl_engine *engine = r->base.engine;
    r->n_inputs = syl_engine_inputs(engine);
    r->n_outputs = syl_engine_outputs(engine);
    r->slot_offset = calloc(engine->plan->slots.n + 1, sizeof *r->slot_offset);
    r->inputs = calloc((size_t)r->n_inputs + 1, sizeof *r->inputs);
    r->outputs = calloc((size_t)r->n_outputs + 1, sizeof *r->outputs);
    if (!r->slot_offset || !r->inputs || !r->outputs) return no_memory(diag, "a list of buffers");
    if (kv) SYL_TRY(syl_host_kv_create(kv, diag, &r->pages));
    r->base.kv = r->pages ? r->pages->kv : NULL;
    return make_scratch(r, diag);
}

static syl_status open_runner(const syl_engine *engine, syl_pool *pool, const syl_kv_shape *kv,
                              syl_diag *diag, syl_runner **out) {
    *out = NULL;
    host_runner *r = calloc(1, sizeof *r);
    if (!r) return no_memory(diag, "a run");
    r->base.engine = engine;
    r->pool = pool;
    syl_status status = fill(r, kv, diag);
    if (status != SYL_OK) {
        close_runner(&r->base);
        return status;
    }
    *out = &r->base;
    return SYL_OK;
}

/* ---- buffers ---- */

static bool add_slot(size_t *total, int64_t rows, int64_t row_bytes, size_t *offset) {
    size_t bytes;
    *offset = *total;
    return syl_size_mul((size_t)rows, (size_t)row_bytes, &bytes) &&
           syl_size_add(bytes, *total + SYL_READ_SLACK, total) && syl_size_align(*total, 64, total);
}

static syl_status reserve_slots(host_runner *r, const int64_t rows[2], syl_diag *diag) {
    const syl_plan *plan = r->base.engine->plan;
    if (r->arena && rows[0] <= r->cap[0] && rows[1] <= r->cap[1]) return SYL_OK;
    int64_t grown[2];
    for (int s = 0; s < 2; s++) grown[s] = rows[s] > r->cap[s] ? rows[s] : r->cap[s];
    free(r->arena);
    r->arena = NULL;
    r->cap[0] = r->cap[1] = 0;
    size_t total = 0;
    for (size_t i = 0; i < plan->slots.n; i++) {
        const syl_plan_slot *slot = &plan->slots.p[i];
        if (!add_slot(&total, grown[slot->rows], slot->row_bytes, &r->slot_offset[i])) {
            return syl_error(diag, SYL_ERR_size_overflow, SYL_NOWHERE,
                             "activations of %lld rows are too large", (long long)grown[slot->rows]);
        }
    }
    r->arena = syl_alloc_aligned(total ? total : SYL_READ_SLACK);
    if (!r->arena) return no_memory(diag, "activations");
    r->arena_size = total;
    for (int s = 0; s < 2; s++) r->cap[s] = grown[s];
    return SYL_OK;
}

static syl_status reserve_buffer(buffer *b, size_t size, syl_diag *diag) {
    if (!syl_size_add(size, SYL_READ_SLACK, &size))
        return syl_error(diag, SYL_ERR_size_overflow, SYL_NOWHERE, "a tensor is too large");
    if (b->data && size <= b->size) return SYL_OK;
    free(b->data);
    b->size = 0;
    b->data = syl_alloc_aligned(size);
    if (!b->data) return no_memory(diag, "a tensor");
    b->size = size;
    return SYL_OK;
}

static syl_status reserve(syl_runner *base, const syl_run *run, syl_diag *diag) {
    host_runner *r = (host_runner *)base;
    SYL_TRY(reserve_slots(r, run->rows, diag));
    for (int i = 0; i < r->n_inputs; i++) SYL_TRY(reserve_buffer(&r->inputs[i], run->input_bytes[i], diag));
    for (int i = 0; i < r->n_outputs; i++)
        SYL_TRY(reserve_buffer(&r->outputs[i], run->output_bytes[i], diag));
    return SYL_OK;
}

static void *input(syl_runner *base, int i) {
    return ((host_runner *)base)->inputs[i].data;
}

/* ---- running ---- */

static void *argument(const host_runner *r, const syl_plan_arg *arg) {
    unsigned char *base = NULL;
    switch (arg->kind) {
    case SYL_ARG_SLOT:
        base = r->arena + r->slot_offset[arg->index];
        break;
    case SYL_ARG_INPUT:
        base = r->inputs[arg->index].data;
        break;
    case SYL_ARG_OUTPUT:
        base = r->outputs[arg->index].data;
        break;
    case SYL_ARG_WEIGHT:
        base = (void *)(uintptr_t)syl_host_engine_of(r->base.engine)->weights[arg->index];
        break;
    case SYL_ARG_CACHE:
        return (void *)(uintptr_t)syl_host_kv_view(r->pages, arg->index);
    }
    return base + arg->offset;
}

typedef struct step_job {
    host_runner *r;
    kir_function function;
    int64_t rows;
    void *args[MAX_ARGS];
} step_job;

static void run_tasks(void *user, int64_t begin, int64_t end, int thread) {
    step_job *job = user;
    void *scratch = job->r->scratch + (size_t)thread * job->r->scratch_stride;
    job->function(job->args, job->rows, begin, end, scratch);
}

/* A rough number of scalar operations, to tell steps that are worth a second thread from those that aren't.
 */
static double work_of(const syl_run *run, const kir_kernel *kernel, int64_t rows) {
    switch (kernel->kind) {
    case KIR_GEMM:
        return (double)rows * (double)kernel->gemm.n * (double)kernel->gemm.k;
    case KIR_ROWS:
        return (double)rows * (double)kernel->cols * (double)kernel->body.n;
    case KIR_FULL_ATTENTION:
        return 2.0 * (double)rows * (double)kernel->full_attention.tokens * kernel->full_attention.heads *
               (double)kernel->full_attention.head_dim;
    case KIR_ATTENTION:
        break;
    }
    double positions = 0;
    for (int64_t t = 0; t < rows; t++) positions += run->pos[t] + 1;
    return 2 * positions * kernel->attention.heads * kernel->attention.head_dim;
}

static void run_step(host_runner *r, const syl_run *run, const syl_plan_step *step) {
    const syl_engine *engine = r->base.engine;
    const kir_kernel *kernel = engine->plan->kernels.p[step->kernel];
    step_job job = {.r = r,
                    .function = syl_host_function(syl_host_engine_of(engine)->code, step->kernel),
                    .rows = run->rows[step->rows]};
    if (job.rows == 0) return;
    for (int i = 0; i < step->n_args; i++) job.args[i] = argument(r, &step->args[i]);
    int64_t tasks = kir_tasks(kernel, job.rows), grain = tasks;
    if (work_of(run, kernel, job.rows) >= SMALL_WORK) {
        grain = syl_ceil_div(tasks, (int64_t)syl_pool_threads(r->pool) * RANGES_PER_THREAD);
    }
    syl_pool_for(r->pool, tasks, grain, run_tasks, &job);
}

static syl_status choose(host_runner *r, int64_t row, syl_diag *diag) {
    const syl_signature *signature = &r->base.engine->signature;
    const float *logits = r->outputs[signature->logits].data;
    return syl_sampler_next(r->sampler, logits + row * signature->vocab, diag, &r->token);
}

static void follow(host_runner *r) {
    const syl_signature *signature = &r->base.engine->signature;
    for (int i = 0; i < signature->n_args; i++)
        if (signature->roles[i] == SYL_INPUT_IDS) *(int32_t *)r->inputs[i].data = r->token;
}

static syl_status run_plan(syl_runner *base, const syl_run *run, syl_diag *diag) {
    host_runner *r = (host_runner *)base;
    const syl_plan *plan = base->engine->plan;
    if (run->follow) follow(r);
    double begin = base->times ? seconds_now() : 0, before = 0;
    for (size_t i = 0; i < plan->steps.n; i++) {
        const syl_plan_step *step = &plan->steps.p[i];
        run_step(r, run, step);
        if (base->times) {
            double now = seconds_now() - begin;
            base->times[i] = (syl_step_time){before, now - before};
        }
        if (base->observer.step && run->rows[step->rows] > 0)
            SYL_TRY(syl_observe_step(base, i, run->rows[step->rows], diag));
        if (base->times) before = seconds_now() - begin;
    }
    return run->choose >= 0 ? choose(r, run->choose, diag) : SYL_OK;
}

static syl_status fetch(syl_runner *base, int i, size_t offset, size_t size, syl_diag *diag,
                        const void **out) {
    (void)diag, (void)size;
    *out = (const unsigned char *)((host_runner *)base)->outputs[i].data + offset;
    return SYL_OK;
}

static syl_status peek(syl_runner *base, const syl_plan_arg *arg, size_t offset, size_t size, syl_diag *diag,
                       void *out) {
    (void)diag;
    memcpy(out, (const unsigned char *)argument((host_runner *)base, arg) + offset, size);
    return SYL_OK;
}

static syl_status wait_for(syl_runner *base, syl_diag *diag) {
    (void)base, (void)diag;
    return SYL_OK;
}

static syl_status choose_begin(syl_runner *base, const syl_sampling *sampling, syl_diag *diag) {
    host_runner *r = (host_runner *)base;
    syl_sampler_destroy(r->sampler);
    return syl_sampler_create(sampling, base->engine->signature.vocab, diag, &r->sampler);
}

static syl_status chosen(syl_runner *base, syl_diag *diag, int32_t *id) {
    (void)diag;
    *id = ((host_runner *)base)->token;
    return SYL_OK;
}

typedef struct copy_job {
    unsigned char *to;
    const unsigned char *from;
} copy_job;

static void copy_range(void *user, int64_t begin, int64_t end, int thread) {
    (void)thread;
    const copy_job *job = user;
    memcpy(job->to + begin, job->from + begin, (size_t)(end - begin));
}

/* The best of a few copies that no cache holds. */
static syl_status copy_rate(syl_runner *base, syl_diag *diag, double *out) {
    enum { SIZE = 128 << 20, TIMES = 5 };
    host_runner *r = (host_runner *)base;
    copy_job job = {syl_alloc_aligned(SIZE), NULL};
    unsigned char *from = syl_alloc_aligned(SIZE);
    double best = 0;
    job.from = from;
    if (job.to && from) memset(from, 1, SIZE);
    for (int i = 0; i < TIMES && job.to && from; i++) {
        double start = seconds_now();
        syl_pool_for(r->pool, SIZE, 4 << 20, copy_range, &job);
        double rate = 2.0 * SIZE / (seconds_now() - start);
        if (rate > best) best = rate;
    }
    bool ok = job.to && from;
    free(job.to);
    free(from);
    *out = best;
    return ok ? SYL_OK : no_memory(diag, "a copy");
}

static size_t bytes(const syl_runner *base) {
    return ((const host_runner *)base)->arena_size + (base->kv ? syl_kv_bytes(base->kv) : 0);
}

const syl_backend syl_backend_host = {
    .name = "cpu",
    .chunk = 512,
    .load = syl_host_load,
    .unload = syl_host_unload,
    .open = open_runner,
    .close = close_runner,
    .reserve = reserve,
    .input = input,
    .run = run_plan,
    .fetch = fetch,
    .wait = wait_for,
    .ahead = 0,
    .choose_begin = choose_begin,
    .chosen = chosen,
    .peek = peek,
    .copy_rate = copy_rate,
    .bytes = bytes,
};
