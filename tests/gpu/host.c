/* The same problem by this machine's own code, over the sampled rows. */
#include <stdlib.h>
#include <string.h>
#include "base/size.h"
#include "codegen/host/host.h"
#include "problem.h"

enum { MAX_SLOTS = 32, MAX_BUFFERS = 24, MAX_LAYERS = 8 };

typedef struct host_run {
    gpu_problem *p;
    syl_plan *plan;
    syl_host_code *code;
    int64_t rows; /* of the symbol that varies */
    void *args[GPU_MAX_ARGS], *slots[MAX_SLOTS], *outputs[4], **pages;
    gpu_weight *weights;
    syl_kv_view views[MAX_LAYERS];
} host_run;

/* Zeroed, with what kernels may read behind the end. */
static void *memory(int64_t bytes) {
    void *p = syl_alloc_aligned((size_t)bytes + 64);
    if (!p) abort();
    memset(p, 0, (size_t)bytes + 64);
    return p;
}

bool gpu_problem_promises_bits(const gpu_problem *p) {
    for (size_t i = 0; i < p->plan->kernels.n; i++) {
        const kir_kernel *k = p->plan->kernels.p[i];
        if (k->kind != KIR_GEMM) continue;
        if (k->gemm.dot == KIR_DOT_MMA_BF16) return false;
        if (k->branch.rank && k->buffers.p[k->branch.u].shape == KIR_PACKED) return false;
    }
    return true;
}

/* The sampled rows of arguments that vary, as the reference gets them. */
static void copy_arguments(host_run *h) {
    gpu_problem *p = h->p;
    for (int i = 0; i < p->func->n_args; i++) {
        const gpu_argument *a = &p->args[i];
        int64_t rows = a->varies ? h->rows : a->rows, row = (int64_t)a->row_bytes;
        if (!a->data) continue;
        h->args[i] = memory(rows * row);
        for (int64_t r = 0; r < rows; r++) {
            int64_t from = !a->varies || r >= p->n_sample ? r : p->sample[r];
            memcpy((char *)h->args[i] + r * row, (const char *)a->data + from * row, (size_t)row);
        }
    }
}

static void make_cache(host_run *h) {
    gpu_problem *p = h->p;
    int64_t per_sequence = syl_ceil_div(gpu_problem_positions(p), SYL_KV_PAGE) + 1,
            n = per_sequence * p->spec->context.sequences;
    int64_t layer = h->plan->cache.heads * kir_cache_layout_of(&h->plan->cache).size;
    int32_t *table = SYL_NEW_ARRAY(&p->arena, int32_t, (size_t)n + 1);
    h->pages = SYL_NEW_ARRAY(&p->arena, void *, (size_t)n + 1);
    for (int64_t i = 0; i < n; i++) {
        table[i] = (int32_t)(n - 1 - i);
        h->pages[i] = memory(layer * h->plan->cache_layers);
    }
    for (int l = 0; l < h->plan->cache_layers; l++)
        h->views[l] = (syl_kv_view){h->pages, table, per_sequence, l * layer};
}

static void *address_of(host_run *h, const syl_plan_arg *arg) {
    switch (arg->kind) {
    case SYL_ARG_SLOT:
        return (char *)h->slots[arg->index] + arg->offset;
    case SYL_ARG_INPUT:
        return (char *)h->args[arg->index] + arg->offset;
    case SYL_ARG_OUTPUT:
        return (char *)h->outputs[arg->index] + arg->offset;
    case SYL_ARG_WEIGHT:
        return (char *)h->weights[arg->index].data + arg->offset;
    case SYL_ARG_CACHE:
        return &h->views[arg->index];
    }
    return NULL;
}

static void run_steps(host_run *h) {
    for (size_t i = 0; i < h->plan->steps.n; i++) {
        const syl_plan_step *step = &h->plan->steps.p[i];
        const kir_kernel *kernel = h->plan->kernels.p[step->kernel];
        void *buffers[MAX_BUFFERS], *scratch = memory(kir_scratch(kernel));
        int64_t rows = gpu_problem_size(h->p, (int)step->rows, h->rows);
        for (int a = 0; a < step->n_args; a++) buffers[a] = address_of(h, &step->args[a]);
        syl_host_function(h->code, step->kernel)(buffers, rows, 0, kir_tasks(kernel, rows), scratch);
        free(scratch);
    }
}

static syl_status compute(host_run *h, const syl_host_target *target) {
    gpu_problem *p = h->p;
    SYL_TRY(syl_plan_create(p->module, target, p->diag, &h->plan));
    if (h->plan->slots.n > MAX_SLOTS || h->plan->cache_layers > MAX_LAYERS)
        return syl_error(p->diag, SYL_ERR_exec_input, SYL_NOWHERE, "the problem has too many buffers");
    SYL_TRY(syl_host_compile(h->plan, target, &(syl_host_options){.threads = 1}, p->diag, NULL, &h->code));
    h->weights = SYL_NEW_ARRAY(&p->arena, gpu_weight, h->plan->weights.n + 1);
    for (size_t i = 0; i < h->plan->weights.n; i++)
        SYL_TRY(gpu_problem_weight(p, &h->plan->weights.p[i], true, &h->weights[i]));
    copy_arguments(h);
    for (size_t i = 0; i < h->plan->slots.n; i++)
        h->slots[i] = memory(gpu_problem_size(p, (int)h->plan->slots.p[i].rows, h->rows) *
                             h->plan->slots.p[i].row_bytes);
    for (int r = 0; r < p->n_results; r++)
        h->outputs[r] = p->results[r].host = memory(h->rows * (int64_t)p->results[r].row_bytes);
    if (p->spec->context.sequences) make_cache(h);
    run_steps(h);
    return SYL_OK;
}

syl_status gpu_problem_run_host(gpu_problem *p) {
    host_run h = {.p = p, .rows = gpu_problem_sample_rows(p)};
    syl_host_target target;
    SYL_TRY(syl_host_target_find("host", p->diag, &target));
    if (!target.fma) return SYL_OK; /* its sums are rounded otherwise */
    syl_status status = compute(&h, &target);
    for (size_t i = 0; h.weights && i < h.plan->weights.n; i++) free(h.weights[i].data);
    for (int i = 0; i < GPU_MAX_ARGS; i++) free(h.args[i]);
    for (int i = 0; i < MAX_SLOTS; i++) free(h.slots[i]);
    int64_t pages = p->spec->context.sequences * (syl_ceil_div(gpu_problem_positions(p), SYL_KV_PAGE) + 1);
    for (int64_t i = 0; h.pages && i < pages; i++) free(h.pages[i]);
    syl_host_code_destroy(h.code);
    syl_plan_destroy(h.plan);
    return status;
}
