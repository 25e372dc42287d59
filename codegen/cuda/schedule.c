/* Deciding which steps of a plan are launched together (schedule.h), from what they read and write.
 *
 * A slot holds one value after the other. First each value is found: the step that writes it, the steps that read it. Two neighbours are a prologue and its
 * GEMM if all that the first writes are values which the second alone reads. Row-wise neighbours are siblings if none reads what another writes. In the
 * end the values that are still in memory are given cells, in the order of the launches. */
#include "codegen/cuda/schedule.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/size.h"

typedef struct value {
    int slot;
    int writer, last; /* steps; `last` reads it last, or is its writer */
    bool inside;      /* never in memory */
    int cell;
} value;

typedef struct prologue {
    syl_cuda_fused fused;
    bool pays; /* to launch the two together */
} prologue;

typedef struct planner {
    const syl_plan *plan;
    const syl_cuda_target *target;
    syl_cuda_pick *pick;
    void *user;
    syl_cuda_schedule *schedule;
    syl_arena scratch;
    SYL_VEC(value) values;
    SYL_VEC(prologue) prologues; /* that were thought about */
    bool measured;               /* the variant picked last */
    int **of_arg;                /* [step][argument]: value, or -1 */
} planner;

static const kir_kernel *kernel_of(const planner *p, int step) {
    return p->plan->kernels.p[p->plan->steps.p[step].kernel];
}

/* ---- values ---- */

/* False where slots are used in a way that this file does not know: by parts, or before they are written. */
static bool find_values(planner *p) {
    const syl_plan *plan = p->plan;
    int *held = SYL_NEW_ARRAY(&p->scratch, int, plan->slots.n + 1);
    for (size_t s = 0; s < plan->slots.n; s++) held[s] = -1;
    p->of_arg = SYL_NEW_ARRAY(&p->scratch, int *, plan->steps.n + 1);
    for (int i = 0; i < (int)plan->steps.n; i++) {
        const syl_plan_step *step = &plan->steps.p[i];
        int *of = p->of_arg[i] = SYL_NEW_ARRAY(&p->scratch, int, step->n_args + 1);
        for (int a = 0; a < step->n_args; a++) {
            of[a] = -1;
            if (step->args[a].kind != SYL_ARG_SLOT || kernel_of(p, i)->buffers.p[a].written) continue;
            of[a] = held[step->args[a].index];
            if (of[a] < 0) return false;
            p->values.p[of[a]].last = i;
        }
        for (int a = 0; a < step->n_args; a++) {
            int slot = step->args[a].index;
            if (step->args[a].kind != SYL_ARG_SLOT || !kernel_of(p, i)->buffers.p[a].written) continue;
            if (step->args[a].offset || (held[slot] >= 0 && p->values.p[held[slot]].writer == i))
                return false;
            held[slot] = of[a] = (int)p->values.n;
            SYL_PUSH(&p->scratch, &p->values, (value){.slot = slot, .writer = i, .last = i, .cell = -1});
        }
    }
    return true;
}

/* ---- what goes together ---- */

static int total_buffers(const planner *p, int first, int n) {
    int total = 0;
    for (int i = first; i < first + n; i++) total += p->plan->steps.p[i].n_args;
    return total;
}

/* The group as a launch; what the first step writes stays inside where `inside` says so. */
static syl_cuda_fused group(planner *p, syl_cuda_fusion fusion, int first, int n) {
    syl_cuda_fused fused = {.fusion = fusion, .n = n, .max_rows = p->schedule->max_rows};
    int *buffers = SYL_NEW_ARRAY(&p->scratch, int, total_buffers(p, first, n) + 1), at = 0;
    for (int k = 0; k < n; k++) {
        const syl_plan_step *step = &p->plan->steps.p[first + k];
        fused.kernels[k] = kernel_of(p, first + k);
        fused.variants[k] = p->pick(p->user, step->kernel, &p->measured);
        for (int a = 0; a < step->n_args; a++) {
            int inside = -1, v = p->of_arg[first + k][a];
            for (int b = 0; fusion == SYL_CUDA_PROLOGUE && b < p->plan->steps.p[first].n_args; b++)
                if (v >= 0 && p->of_arg[first][b] == v && p->values.p[v].writer == first) inside = b;
            buffers[at++] = inside < 0 ? fused.n_buffers++ : SYL_CUDA_INSIDE - inside;
        }
    }
    fused.buffers = buffers;
    return fused;
}

/* The step writes nothing but values that the next step alone reads, from their begin. */
static bool all_for_next(const planner *p, int step) {
    const syl_plan_step *s = &p->plan->steps.p[step], *next = s + 1;
    if (step + 1 >= (int)p->plan->steps.n || s->rows != next->rows) return false;
    for (int a = 0; a < s->n_args; a++) {
        if (s->args[a].kind == SYL_ARG_CACHE) return false;
        if (!kernel_of(p, step)->buffers.p[a].written) continue;
        int v = p->of_arg[step][a];
        if (v < 0 || p->values.p[v].last != step + 1) return false;
        for (int b = 0; b < next->n_args; b++)
            if (p->of_arg[step + 1][b] == v && next->args[b].offset) return false;
    }
    return true;
}

enum { most_variants = 256 };

/* What was found for two steps with these kernels and buffers; NULL: they come for the first time. Layers are alike. */
static const prologue *prologue_like(const planner *p, const syl_cuda_fused *fused, int buffers) {
    for (size_t i = 0; i < p->prologues.n; i++) {
        const prologue *known = &p->prologues.p[i];
        if (known->fused.kernels[0] == fused->kernels[0] && known->fused.kernels[1] == fused->kernels[1] &&
            memcmp(known->fused.buffers, fused->buffers, (size_t)buffers * sizeof *fused->buffers) == 0)
            return known;
    }
    return NULL;
}

/* With the quickest of the GEMM's variants that stream; with its own where that was measured and is not much slower here: it was measured alone, with all its
 * weights in memory. False where launching together does not pay. */
static bool is_prologue(planner *p, int step, syl_cuda_fused *fused) {
    if (!all_for_next(p, step) || kernel_of(p, step)->kind != KIR_ROWS) return false;
    *fused = group(p, SYL_CUDA_PROLOGUE, step, 2);
    const prologue *known = prologue_like(p, fused, total_buffers(p, step, 2));
    if (known) {
        *fused = known->fused;
        return known->pays;
    }
    double apart = 0, best = 0;
    for (int k = 0; k < 2; k++)
        apart += syl_cuda_cost(fused->kernels[k], p->target, &fused->variants[k], fused->max_rows);
    syl_cuda_variant variants[most_variants], own = fused->variants[1], chosen = own;
    double measured = p->measured && syl_cuda_fused_fits(fused, p->target)
                          ? syl_cuda_fused_cost(fused, p->target)
                          : INFINITY;
    int n = syl_cuda_variants(fused->kernels[1], p->target, fused->max_rows, variants, most_variants);
    for (int i = 0; i < n; i++) {
        fused->variants[1] = variants[i];
        if (!syl_cuda_fused_fits(fused, p->target)) continue;
        double cost = syl_cuda_fused_cost(fused, p->target);
        if (best > 0 && cost >= best) continue;
        best = cost;
        chosen = variants[i];
    }
    fused->variants[1] = measured <= best * 1.3 ? own : chosen;
    SYL_PUSH(&p->scratch, &p->prologues, (prologue){*fused, best > 0 && best <= apart});
    return best > 0 && best <= apart;
}

/* Step b reads nothing that step a writes, and they touch no cache both. */
static bool are_apart(const planner *p, int a, int b) {
    const syl_plan_step *x = &p->plan->steps.p[a], *y = &p->plan->steps.p[b];
    for (int i = 0; i < y->n_args; i++) {
        int v = p->of_arg[b][i];
        if (v >= 0 && p->values.p[v].writer == a) return false;
        for (int j = 0; j < x->n_args && y->args[i].kind == SYL_ARG_CACHE; j++)
            if (x->args[j].kind == SYL_ARG_CACHE) return false;
        for (int j = 0; j < x->n_args && y->args[i].kind == SYL_ARG_OUTPUT; j++)
            if (x->args[j].kind == SYL_ARG_OUTPUT && x->args[j].index == y->args[i].index) return false;
    }
    return true;
}

/* How many steps from `first` on are siblings. */
static int siblings_at(planner *p, int first, syl_cuda_fused *fused) {
    syl_cuda_fused other;
    int n = 0;
    while (n < SYL_CUDA_TOGETHER && first + n < (int)p->plan->steps.n) {
        int step = first + n;
        bool fits = kernel_of(p, step)->kind == KIR_ROWS &&
                    p->plan->steps.p[step].rows == p->plan->steps.p[first].rows &&
                    !is_prologue(p, step, &other);
        for (int i = first; i < step && fits; i++) fits = are_apart(p, i, step);
        if (!fits) break;
        n++;
    }
    for (; n > 1; n--) {
        *fused = group(p, SYL_CUDA_SIBLINGS, first, n);
        if (!syl_cuda_fused_fits(fused, p->target)) continue;
        double apart = 0;
        for (int k = 0; k < n; k++)
            apart += syl_cuda_cost(fused->kernels[k], p->target, &fused->variants[k], fused->max_rows);
        if (syl_cuda_fused_cost(fused, p->target) <= apart) break;
    }
    return n;
}

/* ---- the launches ---- */

static bool same_fused(const syl_cuda_fused *a, const syl_cuda_fused *b) {
    size_t buffers = 0;
    if (a->fusion != b->fusion || a->n != b->n || a->n_buffers != b->n_buffers) return false;
    for (int k = 0; k < a->n; k++) {
        if (a->kernels[k] != b->kernels[k] || a->variants[k].family != b->variants[k].family ||
            memcmp(a->variants[k].values, b->variants[k].values, sizeof a->variants[k].values) != 0)
            return false;
        buffers += a->kernels[k]->buffers.n;
    }
    return memcmp(a->buffers, b->buffers, buffers * sizeof *a->buffers) == 0;
}

static int keep_fused(planner *p, const syl_cuda_fused *fused, int buffers) {
    syl_cuda_schedule *s = p->schedule;
    for (size_t i = 0; i < s->fused.n; i++)
        if (same_fused(&s->fused.p[i], fused)) return (int)i;
    syl_cuda_fused kept = *fused;
    int *copy = SYL_NEW_ARRAY(&s->arena, int, buffers + 1);
    memcpy(copy, fused->buffers, (size_t)buffers * sizeof *copy);
    kept.buffers = copy;
    SYL_PUSH(&s->arena, &s->fused, kept);
    return (int)s->fused.n - 1;
}

static void add_launches(planner *p) {
    syl_cuda_schedule *s = p->schedule;
    int steps = (int)p->plan->steps.n;
    for (int i = 0; i < steps;) {
        syl_cuda_fused fused;
        syl_cuda_step step = {.first = i, .n = 1, .fused = -1, .rows = p->plan->steps.p[i].rows};
        if (is_prologue(p, i, &fused)) {
            step.n = 2;
            for (int a = 0; a < p->plan->steps.p[i].n_args; a++) {
                int v = p->of_arg[i][a];
                if (v >= 0 && p->values.p[v].writer == i) p->values.p[v].inside = true;
            }
        } else {
            int n = siblings_at(p, i, &fused);
            if (n > 1) step.n = n;
        }
        if (step.n > 1) step.fused = keep_fused(p, &fused, total_buffers(p, i, step.n));
        SYL_PUSH(&s->arena, &s->steps, step);
        i += step.n;
    }
}

/* ---- cells ---- */

typedef struct cell {
    int64_t row_bytes;
    int busy; /* until this launch has ended */
} cell;

/* Values of the plan's widths; the narrowest free cell that is wide enough, else the widest, which grows. */
static syl_status give_cells(planner *p, syl_diag *diag) {
    syl_cuda_schedule *s = p->schedule;
    SYL_VEC(cell) cells = {0};
    int *launch_of = SYL_NEW_ARRAY(&p->scratch, int, p->plan->steps.n + 1);
    for (size_t l = 0; l < s->steps.n; l++)
        for (int i = 0; i < s->steps.p[l].n; i++) launch_of[s->steps.p[l].first + i] = (int)l;
    for (size_t i = 0; i < p->values.n; i++) { /* in the order of their writers */
        value *v = &p->values.p[i];
        if (v->inside) continue;
        int64_t bytes = p->plan->slots.p[v->slot].row_bytes;
        int best = -1;
        for (int c = 0; c < (int)cells.n; c++) {
            if (cells.p[c].busy >= launch_of[v->writer]) continue;
            int64_t have = cells.p[c].row_bytes, other = best < 0 ? 0 : cells.p[best].row_bytes;
            bool better = best < 0 || (have >= bytes ? other < bytes || have < other : have > other);
            if (better) best = c;
        }
        if (best < 0) {
            best = (int)cells.n;
            SYL_PUSH(&p->scratch, &cells, (cell){0});
        }
        if (cells.p[best].row_bytes < bytes) cells.p[best].row_bytes = bytes;
        cells.p[best].busy = launch_of[v->last];
        v->cell = best;
    }
    for (size_t c = 0; c < cells.n; c++) {
        size_t bytes;
        SYL_PUSH(&s->arena, &s->cells, s->bytes);
        if (!syl_size_mul((size_t)cells.p[c].row_bytes, SYL_CUDA_FEW, &bytes) ||
            !syl_size_align(bytes, 1024, &bytes) || !syl_size_add(bytes, s->bytes, &s->bytes))
            return syl_error(diag, SYL_ERR_size_overflow, SYL_NOWHERE, "activations of %d rows are too large",
                             SYL_CUDA_FEW);
    }
    return SYL_OK;
}

static void fill_arguments(planner *p) {
    syl_cuda_schedule *s = p->schedule;
    for (size_t l = 0; l < s->steps.n; l++) {
        syl_cuda_step *step = &s->steps.p[l];
        syl_plan_arg *args =
            SYL_NEW_ARRAY(&s->arena, syl_plan_arg, total_buffers(p, step->first, step->n) + 1);
        for (int i = step->first; i < step->first + step->n; i++)
            for (int a = 0; a < p->plan->steps.p[i].n_args; a++) {
                syl_plan_arg arg = p->plan->steps.p[i].args[a];
                int v = p->of_arg[i][a];
                if (v >= 0 && p->values.p[v].inside) continue;
                if (v >= 0) arg.index = p->values.p[v].cell;
                args[step->n_args++] = arg;
            }
        step->args = args;
    }
}

syl_status syl_cuda_schedule_create(const syl_plan *plan, const syl_cuda_target *target, int64_t max_rows,
                                    syl_cuda_pick *pick, void *user, syl_diag *diag,
                                    syl_cuda_schedule **out) {
    *out = NULL;
    syl_cuda_schedule *s = calloc(1, sizeof *s);
    if (!s) return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for a list of launches");
    planner p = {.plan = plan, .target = target, .pick = pick, .user = user, .schedule = s};
    syl_status status = SYL_OK;
    s->max_rows = max_rows;
    syl_arena_init(&s->arena);
    syl_arena_init(&p.scratch);
    if (find_values(&p)) {
        add_launches(&p);
        status = give_cells(&p, diag);
        fill_arguments(&p);
    }
    syl_arena_free(&p.scratch);
    if (status == SYL_OK && s->fused.n) {
        *out = s;
        return SYL_OK;
    }
    syl_cuda_schedule_destroy(s);
    return status;
}

void syl_cuda_schedule_destroy(syl_cuda_schedule *s) {
    if (!s) return;
    syl_arena_free(&s->arena);
    free(s);
}

void syl_cuda_schedule_print(const syl_cuda_schedule *s, const syl_plan *plan, syl_text *out) {
    syl_text_printf(out, "launches of up to %lld rows: %zu for %zu steps, %zu cells of %zu bytes together\n",
                    (long long)s->max_rows, s->steps.n, plan->steps.n, s->cells.n, s->bytes);
    for (size_t l = 0; l < s->steps.n; l++) {
        const syl_cuda_step *step = &s->steps.p[l];
        const syl_plan_step *last = &plan->steps.p[step->first + step->n - 1];
        syl_text_printf(out, "%5zu  steps %d", l, step->first);
        for (int i = 1; i < step->n; i++) syl_text_printf(out, "+%d", step->first + i);
        if (step->fused < 0) {
            syl_text_printf(out, "  k%d %s", last->kernel, plan->kernels.p[last->kernel]->name);
        } else {
            const syl_cuda_fused *fused = &s->fused.p[step->fused];
            syl_text_printf(out, "  f%d %s ", step->fused,
                            fused->fusion == SYL_CUDA_PROLOGUE ? "prologue" : "siblings");
            syl_cuda_fused_name(fused, out);
            syl_text_printf(out, " (");
            syl_cuda_fused_print(fused, out);
            syl_text_printf(out, ")");
        }
        syl_text_printf(out, "  // %s\n", last->label);
    }
}
