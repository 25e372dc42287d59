/* Costs of steps (profile.h). */
#include "runtime/profile.h"

static double elem_bytes(kir_type elem) {
    return elem == KIR_I8 ? 1 : elem == KIR_BF16 || elem == KIR_F16 ? 2 : elem == KIR_F64 ? 8 : 4;
}

/* As the artifact stores it: codes and the parameters of their groups. */
static double weight_bytes(const syl_plan_weight *w) {
    double cells = (double)w->rows * (double)w->cols;
    if (!w->codes.bits) return cells * elem_bytes(w->elem);
    return cells / 2 + (w->codes.group ? cells / w->codes.group * (w->codes.two_level ? 2 : 4) : 0);
}

double syl_plan_position_bytes(const syl_plan *plan) {
    if (!plan->cache_layers) return 0;
    return (double)kir_cache_layout_of(&plan->cache).size * plan->cache.heads * plan->cache_layers /
           SYL_KV_PAGE;
}

static bool is_picked(const kir_kernel *kernel, int buffer) {
    for (size_t i = 0; i < kernel->body.n; i++)
        if (kernel->body.p[i].op == KIR_load_at && kernel->body.p[i].buffer == buffer) return true;
    return false;
}

double syl_plan_weight_bytes(const syl_plan *plan) {
    double sum = 0;
    for (size_t i = 0; i < plan->steps.n; i++) {
        const syl_plan_step *step = &plan->steps.p[i];
        const kir_kernel *kernel = plan->kernels.p[step->kernel];
        for (int a = 0; a < step->n_args; a++) {
            if (step->args[a].kind != SYL_ARG_WEIGHT) continue;
            const syl_plan_weight *w = &plan->weights.p[step->args[a].index];
            sum += is_picked(kernel, a) ? (double)w->cols * elem_bytes(w->elem) : weight_bytes(w);
        }
    }
    return sum;
}

/* Positions that the rows attend to, each row its own; and those read at least, each sequence once. */
static double attended(const syl_run *run, int64_t rows, double *distinct) {
    double sum = 0;
    *distinct = 0;
    for (int64_t t = 0; t < rows; t++) {
        sum += run->pos[t] + 1;
        bool last = true; /* of its sequence: positions rise */
        for (int64_t k = t + 1; k < rows && last && run->seq; k++) last = run->seq[k] != run->seq[t];
        if (run->seq ? last : t == rows - 1) *distinct += run->pos[t] + 1;
    }
    return sum;
}

static double cache_bytes(const kir_kernel *kernel, const syl_run *run, int64_t rows) {
    double position = (double)kir_cache_layout_of(&kernel->cache).size * kernel->cache.heads / SYL_KV_PAGE,
           distinct;
    if (kernel->kind != KIR_ATTENTION) return position * (double)rows; /* appends */
    attended(run, rows, &distinct);
    return position * distinct;
}

syl_step_cost syl_step_cost_of(const syl_plan *plan, const syl_plan_step *step, const syl_run *run) {
    const kir_kernel *kernel = plan->kernels.p[step->kernel];
    syl_step_cost cost = {0};
    int64_t rows = run->rows[step->rows];
    double m = (double)rows, distinct;
    for (int a = 0; a < step->n_args && rows; a++) {
        const kir_buffer *b = &kernel->buffers.p[a];
        const syl_plan_arg *arg = &step->args[a];
        if (b->shape == KIR_CACHE)
            cost.bytes += cache_bytes(kernel, run, rows);
        else if (arg->kind == SYL_ARG_WEIGHT && !is_picked(kernel, a))
            cost.bytes += weight_bytes(&plan->weights.p[arg->index]);
        else
            cost.bytes += m * (b->shape == KIR_PER_ROW ? 1 : (double)b->cols) * elem_bytes(b->elem);
    }
    switch (kernel->kind) {
    case KIR_GEMM:
        cost.operations = 2 * m * (double)kernel->gemm.n * (double)(kernel->gemm.k + kernel->branch.rank);
        break;
    case KIR_ROWS:
        cost.operations = m * (double)kernel->cols * (double)kernel->body.n;
        break;
    case KIR_ATTENTION:
        cost.operations =
            4 * attended(run, rows, &distinct) * kernel->attention.heads * kernel->attention.head_dim;
        break;
    case KIR_FULL_ATTENTION:
        cost.operations = 4 * m * (double)kernel->full_attention.tokens * kernel->full_attention.heads *
                          (double)kernel->full_attention.head_dim;
        break;
    }
    return cost;
}

/* Operations a clock and multiprocessor, a fused multiply-add counted as two: INT8 and bf16 on tensor cores, f32 beside them. Dense rates of
 * NVIDIA's architecture papers; for consumer cards those with f32 sums. */
static const struct {
    int capability;
    double int8, bf16, f32;
} rates[] = {{75, 2048, 1024, 128}, {80, 4096, 2048, 128},   {86, 2048, 512, 256}, {89, 2048, 512, 256},
             {90, 8192, 4096, 256}, {100, 16384, 8192, 256}, {120, 2048, 512, 256}};

double syl_peak_operations(const kir_kernel *kernel, int capability, int multiprocessors, int clock_mhz) {
    double a_clock = 0;
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++) {
        if (capability < rates[i].capability) break;
        a_clock = kernel->kind != KIR_GEMM               ? rates[i].f32
                  : kernel->gemm.dot == KIR_DOT_MMA_I8   ? rates[i].int8
                  : kernel->gemm.dot == KIR_DOT_MMA_BF16 ? rates[i].bf16
                                                         : rates[i].f32;
    }
    return a_clock * multiprocessors * clock_mhz * 1e6;
}

void syl_profile_report(const syl_profile *profile, const syl_runner *runner, const syl_run *run) {
    const syl_plan *plan = runner->engine->plan;
    for (size_t i = 0; i < plan->steps.n; i++) {
        const syl_plan_step *step = &plan->steps.p[i];
        if (run->rows[step->rows] == 0) continue;
        syl_step_cost cost = syl_step_cost_of(plan, step, run);
        profile->step(profile->user, step, plan->kernels.p[step->kernel], run->rows[step->rows],
                      &runner->times[i], &cost);
    }
}
