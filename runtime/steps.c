/* Running a plan (steps.h). */
#include "runtime/steps.h"

#include <stdlib.h>
#include <string.h>

#include "base/size.h"

enum {
    MAX_ARGS = 64,
    SMALL_WORK = 32 << 10, /* scalar operations below which waking a worker costs more than it gives */
    RANGES_PER_THREAD =
        4, /* ranges a thread takes of a parallel step: enough to even out, few enough to stream */
};

static syl_status no_memory(syl_diag *diag, const char *what) {
    return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for %s", what);
}

/* ---- creation ---- */

static syl_status make_scratch(syl_steps *steps, syl_diag *diag) {
    const syl_plan *plan = steps->engine->plan;
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
        !syl_size_mul(largest, (size_t)syl_pool_threads(steps->pool), &total)) {
        return syl_error(diag, SYL_ERR_size_overflow, SYL_NOWHERE,
                         "the kernels need too much scratch memory");
    }
    steps->scratch_stride = largest;
    steps->scratch = syl_alloc_aligned(total);
    return steps->scratch ? SYL_OK : no_memory(diag, "the kernels' scratch memory");
}

syl_status syl_steps_create(const syl_engine *engine, syl_pool *pool, syl_diag *diag, syl_steps *out) {
    *out = (syl_steps){.engine = engine, .pool = pool};
    size_t n_slots = engine->plan->slots.n;
    out->slot_offset = calloc(n_slots ? n_slots : 1, sizeof *out->slot_offset);
    syl_status status = out->slot_offset ? make_scratch(out, diag) : no_memory(diag, "a list of buffers");
    if (status != SYL_OK) syl_steps_destroy(out);
    return status;
}

void syl_steps_destroy(syl_steps *steps) {
    free(steps->arena);
    free(steps->slot_offset);
    free(steps->scratch);
    *steps = (syl_steps){0};
}

/* ---- slots ---- */

static bool add_slot(size_t *total, int64_t rows, int64_t row_bytes, size_t *offset) {
    size_t bytes;
    *offset = *total;
    return syl_size_mul((size_t)rows, (size_t)row_bytes, &bytes) &&
           syl_size_add(bytes, *total + SYL_READ_SLACK, total) && syl_size_align(*total, 64, total);
}

syl_status syl_steps_reserve(syl_steps *steps, const int64_t rows[2], syl_diag *diag) {
    const syl_plan *plan = steps->engine->plan;
    if (steps->arena && rows[0] <= steps->cap[0] && rows[1] <= steps->cap[1]) return SYL_OK;
    int64_t grown[2];
    for (int s = 0; s < 2; s++) grown[s] = rows[s] > steps->cap[s] ? rows[s] : steps->cap[s];
    free(steps->arena);
    steps->arena = NULL;
    steps->cap[0] = steps->cap[1] = 0;
    size_t total = 0;
    for (size_t i = 0; i < plan->slots.n; i++) {
        const syl_plan_slot *slot = &plan->slots.p[i];
        if (!add_slot(&total, grown[slot->rows], slot->row_bytes, &steps->slot_offset[i])) {
            return syl_error(diag, SYL_ERR_size_overflow, SYL_NOWHERE,
                             "activations of %lld rows are too large", (long long)grown[slot->rows]);
        }
    }
    steps->arena = syl_alloc_aligned(total ? total : SYL_READ_SLACK);
    if (!steps->arena) return no_memory(diag, "activations");
    steps->arena_size = total;
    for (int s = 0; s < 2; s++) steps->cap[s] = grown[s];
    return SYL_OK;
}

/* ---- running ---- */

static void *argument(const syl_steps *steps, const syl_steps_io *io, const syl_plan_arg *arg) {
    unsigned char *base = NULL;
    switch (arg->kind) {
    case SYL_ARG_SLOT:
        base = steps->arena + steps->slot_offset[arg->index];
        break;
    case SYL_ARG_INPUT:
        base = io->inputs[arg->index];
        break;
    case SYL_ARG_OUTPUT:
        base = io->outputs[arg->index];
        break;
    case SYL_ARG_WEIGHT:
        base = (void *)(uintptr_t)steps->engine->weights[arg->index];
        break;
    case SYL_ARG_CACHE:
        return (void *)(uintptr_t)syl_kv_view_of(io->kv, arg->index);
    }
    return base + arg->offset;
}

typedef struct step_job {
    syl_steps *steps;
    kir_function function;
    int64_t rows;
    void *args[MAX_ARGS];
} step_job;

static void run_tasks(void *user, int64_t begin, int64_t end, int thread) {
    step_job *job = user;
    void *scratch = job->steps->scratch + (size_t)thread * job->steps->scratch_stride;
    job->function(job->args, job->rows, begin, end, scratch);
}

/* A rough number of scalar operations, to tell steps that are worth a second thread from those that aren't.
 */
static double work_of(const syl_steps_io *io, const kir_kernel *kernel, int64_t rows) {
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
    for (int64_t t = 0; t < rows; t++) positions += io->pos[t] + 1;
    return 2 * positions * kernel->attention.heads * kernel->attention.head_dim;
}

static void copy_argument(const syl_step_view *view, int arg, size_t offset, size_t size, void *out) {
    const step_job *job = view->executor;
    memcpy(out, (const unsigned char *)job->args[arg] + offset, size);
}

static void run_step(syl_steps *steps, const syl_steps_io *io, const syl_plan_step *step) {
    const syl_engine *engine = steps->engine;
    const kir_kernel *kernel = engine->plan->kernels.p[step->kernel];
    step_job job = {.steps = steps,
                    .function = syl_host_function(engine->code, step->kernel),
                    .rows = io->rows[step->rows]};
    if (job.rows == 0) return;
    for (int i = 0; i < step->n_args; i++) job.args[i] = argument(steps, io, &step->args[i]);
    int64_t tasks = kir_tasks(kernel, job.rows), grain = tasks;
    if (work_of(io, kernel, job.rows) >= SMALL_WORK) {
        grain = syl_ceil_div(tasks, (int64_t)syl_pool_threads(steps->pool) * RANGES_PER_THREAD);
    }
    syl_pool_for(steps->pool, tasks, grain, run_tasks, &job);
    if (!steps->observer.step) return;
    syl_step_view view = {(size_t)(step - engine->plan->steps.p), job.rows, copy_argument, &job};
    steps->observer.step(steps->observer.user, &view);
}

void syl_steps_run(syl_steps *steps, const syl_steps_io *io) {
    const syl_plan *plan = steps->engine->plan;
    for (size_t i = 0; i < plan->steps.n; i++) run_step(steps, io, &plan->steps.p[i]);
}
