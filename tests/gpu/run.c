/* Running a plan step by step, as the executor does, but with any variant of each kernel. */
#include "run.h"
#include <stdlib.h>
#include <string.h>
#include "base/size.h"

/* ---- variants ---- */

static bool same_variant(const syl_cuda_variant *a, const syl_cuda_variant *b) {
    return a->family == b->family && memcmp(a->values, b->values, sizeof a->values) == 0;
}

static int find_variant(const gpu_choice *choice, const syl_cuda_variant *variant) {
    for (int i = 0; i < choice->n; i++)
        if (same_variant(&choice->kernels[i].variant, variant)) return i;
    return -1;
}

static bool wanted(const syl_cuda_variant *variant, const char *only) {
    return !only || strstr(syl_cuda_families[variant->family].name, only);
}

static uint64_t hash_variant(const syl_cuda_variant *variant, uint64_t salt) {
    uint64_t h = salt * 1099511628211u + (uint64_t)variant->family;
    for (int i = 0; i < SYL_CUDA_PARAMS; i++) h = (h ^ (uint64_t)variant->values[i]) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

/* Of each family the best one, then those `more` others with the least hashes: the same for all numbers of rows that they fit, others for
 * each problem, so that in the course of many all are met. */
static int pick(const syl_cuda_variant *all, int n, int more, const char *only, uint64_t salt, int *out) {
    int n_out = 0;
    bool any = false;
    for (int i = 0; i < n; i++) any |= wanted(&all[i], only);
    for (int i = 0; i < n; i++) {
        if (any && !wanted(&all[i], only)) continue;
        int first = -1, below = 0; /* others of the family with a smaller hash */
        for (int j = 0; j < n; j++) {
            if (all[j].family != all[i].family) continue;
            if (first < 0)
                first = j;
            else
                below += hash_variant(&all[j], salt) < hash_variant(&all[i], salt);
        }
        if ((first == i || more < 0 || below < more) && n_out < GPU_MAX_VARIANTS) out[n_out++] = i;
    }
    return n_out;
}

syl_status gpu_run_choose(gpu_run *run, int64_t rows, int more, const char *only) {
    enum { CAP = 512 };
    gpu_problem *p = run->problem;
    const syl_plan *plan = p->plan;
    if (plan->kernels.n > GPU_MAX_KERNELS || plan->slots.n > GPU_MAX_SLOTS)
        return syl_error(p->diag, SYL_ERR_exec_input, SYL_NOWHERE, "the problem has more than %d kernels",
                         GPU_MAX_KERNELS);
    if (!run->choices) run->choices = SYL_NEW_ARRAY(&p->arena, gpu_choice, plan->kernels.n);
    syl_cuda_variant *all = malloc(CAP * sizeof *all);
    if (!all) return syl_error(p->diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for variants");
    syl_status status = SYL_OK;
    for (size_t i = 0; i < plan->steps.n && status == SYL_OK; i++) {
        int k = plan->steps.p[i].kernel, picked[GPU_MAX_VARIANTS];
        int64_t size = gpu_problem_size(p, (int)plan->steps.p[i].rows, rows);
        gpu_choice *choice = &run->choices[k];
        int n = syl_cuda_variants(plan->kernels.p[k], &run->g->target, size, all, CAP);
        int n_picked = pick(all, n, more, only, p->random, picked);
        if (n_picked == 0)
            status =
                syl_error(p->diag, SYL_ERR_exec_input, SYL_NOWHERE, "kernel %s has no variant for %lld rows",
                          plan->kernels.p[k]->name, (long long)size);
        for (int v = 0; v < n_picked && status == SYL_OK; v++) {
            const syl_cuda_variant *variant = &all[picked[v]];
            if (find_variant(choice, variant) >= 0 || choice->n == GPU_MAX_VARIANTS) continue;
            status = gpu_compile(run->g, plan->kernels.p[k], variant, p->diag, &choice->kernels[choice->n]);
            choice->n += status == SYL_OK;
        }
    }
    free(all);
    return status;
}

int gpu_run_variants(const gpu_run *run, int kernel, int64_t rows, int *out) {
    enum { CAP = 512 };
    const syl_plan *plan = run->problem->plan;
    syl_cuda_variant *all = malloc(CAP * sizeof *all);
    int n = all ? syl_cuda_variants(plan->kernels.p[kernel], &run->g->target, rows, all, CAP) : 0, n_out = 0;
    for (int i = 0; i < n; i++) {
        int at = find_variant(&run->choices[kernel], &all[i]);
        if (at >= 0) out[n_out++] = at;
    }
    free(all);
    return n_out;
}

/* ---- memory ---- */

static int64_t pages_of_sequence(const gpu_problem *p) {
    return syl_ceil_div(gpu_problem_positions(p), SYL_KV_PAGE) + 1;
}

/* Pages of the sequences, in an order that is not their own. */
static void make_cache(gpu_run *run) {
    gpu_problem *p = run->problem;
    const kir_cache *cache = &p->plan->cache;
    int64_t sequences = p->spec->context.sequences, stride = pages_of_sequence(p), n = sequences * stride,
            layer = cache->heads * kir_cache_layout_of(cache).size;
    run->page_bytes = (size_t)(layer * p->plan->cache_layers);
    run->cache_bytes = run->page_bytes * (size_t)n;
    run->pages = gpu_alloc(run->g, run->cache_bytes);
    int32_t *table = SYL_NEW_ARRAY(&p->arena, int32_t, (size_t)n);
    for (int64_t i = 0; i < n; i++) table[i] = (int32_t)(n - 1 - i);
    run->table = gpu_alloc(run->g, (size_t)n * sizeof *table);
    gpu_put(run->g, run->table, table, (size_t)n * sizeof *table);
    syl_cuda_kv_view *views = SYL_NEW_ARRAY(&p->arena, syl_cuda_kv_view, (size_t)p->plan->cache_layers);
    for (int l = 0; l < p->plan->cache_layers; l++)
        views[l] = (syl_cuda_kv_view){run->pages, run->table, stride, (int64_t)run->page_bytes, l * layer};
    run->views = gpu_alloc(run->g, sizeof *views * (size_t)p->plan->cache_layers);
    gpu_put(run->g, run->views, views, sizeof *views * (size_t)p->plan->cache_layers);
}

static void grow_workspace(gpu_run *run, size_t step, int64_t rows) {
    const syl_plan_step *s = &run->problem->plan->steps.p[step];
    gpu_choice *choice = &run->choices[s->kernel];
    int64_t size = gpu_problem_size(run->problem, (int)s->rows, rows),
            positions = gpu_problem_positions(run->problem);
    for (int v = 0; v < choice->n; v++) {
        const syl_cuda_launch *launch = &choice->kernels[v].launch;
        size_t bytes = (size_t)syl_cuda_workspace_of(launch, size, positions);
        if (bytes > run->workspace_bytes) run->workspace_bytes = bytes;
        if ((size_t)launch->counters > run->counters) run->counters = (size_t)launch->counters;
    }
}

void gpu_run_create(gpu_run *run) {
    gpu *g = run->g;
    gpu_problem *p = run->problem;
    const syl_plan *plan = p->plan;
    int64_t rows = p->spec->max_rows;
    for (int i = 0; i < p->func->n_args; i++) {
        size_t size = (size_t)p->args[i].rows * p->args[i].row_bytes;
        if (!p->args[i].data) continue;
        run->args[i] = gpu_alloc(g, size);
        gpu_put(g, run->args[i], p->args[i].data, size);
    }
    run->weights = SYL_NEW_ARRAY(&p->arena, cu_address, plan->weights.n + 1);
    for (size_t i = 0; i < plan->weights.n; i++) {
        run->weights[i] = gpu_alloc(g, p->weights[i].size);
        gpu_put(g, run->weights[i], p->weights[i].data, p->weights[i].size);
    }
    for (size_t i = 0; i < plan->slots.n; i++) {
        int64_t size = gpu_problem_size(p, (int)plan->slots.p[i].rows, rows);
        run->slot_bytes[i] =
            (size_t)(syl_ceil_div(size, KIR_ATOM_ROWS) * KIR_ATOM_ROWS * plan->slots.p[i].row_bytes);
        if (run->slot_bytes[i]) run->slots[i] = gpu_alloc(g, run->slot_bytes[i]);
    }
    for (int i = 0; i < p->n_results; i++) {
        run->output_bytes[i] = (size_t)rows * p->results[i].row_bytes;
        run->outputs[i] = gpu_alloc(g, run->output_bytes[i] + GPU_GUARD);
    }
    if (p->spec->context.sequences) make_cache(run);
    /* fewer rows can mean more workspace: k is split further then */
    for (int64_t r = 1; r < 2 * rows; r *= 2)
        for (size_t i = 0; i < plan->steps.n; i++) grow_workspace(run, i, r < rows ? r : rows);
    run->workspace_bytes += 1 << 20;
    run->workspace = gpu_alloc(g, run->workspace_bytes);
    gpu_fill(g, run->workspace, 0, run->workspace_bytes);
    gpu_wait(g);
}

void gpu_run_destroy(gpu_run *run) {
    gpu *g = run->g;
    for (int i = 0; i < GPU_MAX_ARGS; i++) gpu_free(g, run->args[i]);
    for (size_t i = 0; run->weights && i < run->problem->plan->weights.n; i++) gpu_free(g, run->weights[i]);
    for (int i = 0; i < GPU_MAX_SLOTS; i++) gpu_free(g, run->slots[i]);
    for (int i = 0; i < 4; i++) gpu_free(g, run->outputs[i]);
    cu_address others[] = {run->workspace, run->views, run->pages, run->table};
    for (int i = 0; i < 4; i++) gpu_free(g, others[i]);
}

void gpu_run_poison(gpu_run *run, int64_t rows) {
    gpu *g = run->g;
    const syl_plan *plan = run->problem->plan;
    for (size_t i = 0; i < plan->slots.n; i++) {
        int64_t size = gpu_problem_size(run->problem, (int)plan->slots.p[i].rows, rows);
        gpu_fill(g, run->slots[i], GPU_POISON,
                 (size_t)(syl_ceil_div(size, KIR_ATOM_ROWS) * KIR_ATOM_ROWS * plan->slots.p[i].row_bytes));
    }
    for (int i = 0; i < run->problem->n_results; i++)
        gpu_fill(g, run->outputs[i], GPU_POISON,
                 (size_t)rows * run->problem->results[i].row_bytes + GPU_GUARD);
    gpu_fill(g, run->pages, 0, run->cache_bytes);
}

/* ---- running ---- */

static cu_address address_of(const gpu_run *run, const syl_plan_arg *arg) {
    cu_address offset = (cu_address)arg->offset;
    switch (arg->kind) {
    case SYL_ARG_SLOT:
        return run->slots[arg->index] + offset;
    case SYL_ARG_INPUT:
        return run->args[arg->index] + offset;
    case SYL_ARG_OUTPUT:
        return run->outputs[arg->index] + offset;
    case SYL_ARG_WEIGHT:
        return run->weights[arg->index] + offset;
    case SYL_ARG_CACHE:
        return run->views + (cu_address)arg->index * sizeof(syl_cuda_kv_view);
    }
    return 0;
}

void gpu_run_step(gpu_run *run, size_t step, int64_t rows, gpu_kernel *kernel) {
    const syl_plan_step *s = &run->problem->plan->steps.p[step];
    cu_address buffers[24];
    if (s->n_args > 24) abort();
    for (int a = 0; a < s->n_args; a++) buffers[a] = address_of(run, &s->args[a]);
    gpu_launch(run->g, kernel, buffers, run->workspace, gpu_problem_size(run->problem, (int)s->rows, rows),
               gpu_problem_positions(run->problem));
}

void gpu_run_plan(gpu_run *run, int64_t rows, const int *chosen) {
    const syl_plan *plan = run->problem->plan;
    for (size_t i = 0; i < plan->steps.n; i++) {
        int k = plan->steps.p[i].kernel;
        gpu_run_step(run, i, rows, &run->choices[k].kernels[chosen[k]]);
    }
}
