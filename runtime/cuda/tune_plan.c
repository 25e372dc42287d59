/* What is to be measured (tune.h).
 *
 * The cost model orders the candidates; those it expects to be much slower than the best are left out, and of the rest as many are taken
 * as the time is likely to be enough for. Sources are printed once for each variant of a kernel, whatever the number of buckets. */
#include <regex.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "runtime/cuda/engine.h"
#include "runtime/cuda/tune.h"
#include "runtime/cuda/tuned.h"

enum { MOST = 256, LEAST_KEPT = 4, MOST_KEPT = 24 };
static const double SLOWER = 1.8;          /* than the best, by the model: left out */
static const double COMPILE_S = 0.7;       /* of a source, on one core, about */
static const double MEASURE_S = 0.02;      /* of a candidate */
static const double PART_OF_BUDGET = 0.75; /* that the estimate may take */

size_t tune_worth(const double *costs, size_t n, size_t most) {
    size_t kept = 0;
    while (kept < n && kept < most && (kept < LEAST_KEPT || costs[kept] <= SLOWER * costs[0])) kept++;
    return kept;
}

/* ---- codes ---- */

static bool same(const syl_cuda_variant *a, const syl_cuda_variant *b) {
    return a->family == b->family && memcmp(a->values, b->values, sizeof a->values) == 0;
}

/* What a variant cannot print is a bug that shows when it is compiled; here it is left out. */
static tune_code *code_of(tune_plan *plan, const kir_kernel *kernel, const syl_cuda_variant *variant,
                          syl_diag *quiet) {
    for (size_t i = 0; i < plan->codes.n; i++)
        if (plan->codes.p[i]->kernel == kernel && same(&plan->codes.p[i]->variant, variant))
            return plan->codes.p[i];
    tune_code *code = SYL_NEW(plan->arena, tune_code);
    syl_arena arena;
    syl_arena_init(&arena);
    syl_text text = {.arena = plan->arena}, source = {.arena = &arena};
    syl_cuda_variant_print(variant, &text);
    code->kernel = kernel;
    code->variant = *variant;
    code->text = text.p;
    code->why = "";
    code->status = syl_cuda_source(kernel, plan->target, variant, quiet, &source, &code->launch);
    if (code->status == SYL_OK) code->source = syl_hash_bytes(source.p, source.n);
    syl_arena_free(&arena);
    SYL_PUSH(plan->arena, &plan->codes, code);
    return code;
}

static void add_candidates(tune_plan *plan, tune_unit *unit, syl_diag *quiet) {
    syl_cuda_variant list[MOST];
    int n = syl_cuda_variants(unit->kernel, plan->target, unit->rows, list, MOST);
    unit->candidates = SYL_NEW_ARRAY(plan->arena, tune_candidate, (size_t)(n > 0 ? n : 1));
    for (int i = 0; i < n; i++) {
        tune_code *code = code_of(plan, unit->kernel, &list[i], quiet);
        if (code->status != SYL_OK || !syl_cuda_covers(&code->launch, unit->rows)) continue;
        unit->candidates[unit->n++] =
            (tune_candidate){.code = code,
                             .model = syl_cuda_cost(unit->kernel, plan->target, &list[i], unit->rows),
                             .state = SYL_TUNING_GOOD,
                             .why = ""};
    }
    unit->all = unit->n;
    if (unit->n) unit->weight = unit->candidates[0].model * (double)unit->steps;
}

static void prune(tune_unit *unit, size_t most) {
    double costs[MOST];
    for (size_t i = 0; i < unit->n; i++) costs[i] = unit->candidates[i].model;
    unit->n = tune_worth(costs, unit->n, most);
}

/* ---- the time it takes ---- */

static double estimate(const tune_plan *plan, size_t most, int threads) {
    double costs[MOST], measured = 0, compiled = 0;
    for (size_t i = 0; i < plan->codes.n; i++) plan->codes.p[i]->queued = false;
    for (size_t u = 0; u < plan->units.n; u++) {
        const tune_unit *unit = &plan->units.p[u];
        for (size_t i = 0; i < unit->n; i++) costs[i] = unit->candidates[i].model;
        size_t kept = tune_worth(costs, unit->n, most);
        measured += (double)kept;
        for (size_t i = 0; i < kept; i++) {
            compiled += !unit->candidates[i].code->queued;
            unit->candidates[i].code->queued = true;
        }
    }
    for (size_t i = 0; i < plan->codes.n; i++) plan->codes.p[i]->queued = false;
    return measured * MEASURE_S + compiled * COMPILE_S / threads;
}

size_t tune_most(const tune_plan *plan, double budget, int threads) {
    size_t most = MOST_KEPT;
    while (most > 1 && estimate(plan, most, threads) > PART_OF_BUDGET * budget) most--;
    return most;
}

/* ---- units ---- */

typedef struct filter {
    regex_t pattern;
    bool given;
    bool buckets[SYL_CUDA_BUCKETS];
} filter;

static syl_status read_rows(const syl_tune_options *options, filter *f, syl_diag *diag) {
    for (int b = 0; b < SYL_CUDA_BUCKETS; b++) f->buckets[b] = options->n_rows == 0;
    for (size_t i = 0; i < options->n_rows; i++) {
        if (options->rows[i] < 1 || options->rows[i] > INT32_MAX)
            return syl_error(diag, SYL_ERR_tune_rows, SYL_NOWHERE,
                             "%lld is no number of rows that a kernel runs over",
                             (long long)options->rows[i]);
        f->buckets[syl_cuda_bucket_of(options->rows[i])] = true;
    }
    return SYL_OK;
}

static bool is_picked(const filter *f, const char *name, size_t number) {
    char text[24];
    snprintf(text, sizeof text, "k%zu", number);
    return !f->given || regexec(&f->pattern, name, 0, NULL, 0) == 0 ||
           regexec(&f->pattern, text, 0, NULL, 0) == 0;
}

/* Sequences of full attention have a number of rows of their own: fewer never come. */
static bool comes(const kir_kernel *kernel, int64_t bucket) {
    return kernel->kind != KIR_FULL_ATTENTION || bucket >= kernel->full_attention.tokens ||
           bucket == syl_cuda_buckets[SYL_CUDA_BUCKETS - 1];
}

static void add_kernel(tune_plan *out, size_t k, const filter *f, syl_diag *quiet) {
    const kir_kernel *kernel = out->plan->kernels.p[k];
    tune_unit unit = {.number = (int)k, .kernel = kernel, .hash = syl_cuda_kernel_hash(kernel)};
    for (size_t s = 0; s < out->plan->steps.n; s++) unit.steps += out->plan->steps.p[s].kernel == (int)k;
    for (int b = 0; b < SYL_CUDA_BUCKETS && unit.steps; b++) {
        if (!f->buckets[b] || !comes(kernel, syl_cuda_buckets[b])) continue;
        tune_unit one = unit;
        one.rows = syl_cuda_buckets[b];
        add_candidates(out, &one, quiet);
        if (one.n) SYL_PUSH(out->arena, &out->units, one);
    }
}

/* The heaviest kernels first: if the time is not enough, the least is lost. */
static int compare_units(const void *a, const void *b) {
    const tune_unit *x = a, *y = b;
    if (x->weight != y->weight) return x->weight < y->weight ? 1 : -1;
    if (x->number != y->number) return x->number < y->number ? -1 : 1;
    return (x->rows > y->rows) - (x->rows < y->rows);
}

/* A kernel's weight is the sum of its buckets', each as a share of that bucket's run. */
static void sort_units(tune_plan *out) {
    double bucket[SYL_CUDA_BUCKETS] = {0};
    double *kernel = SYL_NEW_ARRAY(out->arena, double, out->plan->kernels.n + 1);
    for (size_t i = 0; i < out->units.n; i++)
        bucket[syl_cuda_bucket_of(out->units.p[i].rows)] += out->units.p[i].weight;
    for (size_t i = 0; i < out->units.n; i++) {
        double whole = bucket[syl_cuda_bucket_of(out->units.p[i].rows)];
        if (whole > 0) kernel[out->units.p[i].number] += out->units.p[i].weight / whole;
    }
    for (size_t i = 0; i < out->units.n; i++) out->units.p[i].weight = kernel[out->units.p[i].number];
    if (out->units.n) qsort(out->units.p, out->units.n, sizeof *out->units.p, compare_units);
}

syl_status tune_plan_make(tune_plan *out, const syl_tune_options *options, int threads, syl_diag *diag) {
    filter f = {.given = options->kernels != NULL};
    SYL_TRY(read_rows(options, &f, diag));
    if (f.given) {
        int error = regcomp(&f.pattern, options->kernels, REG_EXTENDED | REG_NOSUB);
        if (error) {
            char text[128];
            regerror(error, &f.pattern, text, sizeof text);
            return syl_error(diag, SYL_ERR_tune_kernels, SYL_NOWHERE, "\"%s\" is no regular expression: %s",
                             options->kernels, text);
        }
    }
    syl_diag *quiet = syl_diag_create(NULL, NULL);
    for (size_t k = 0; k < out->plan->kernels.n && quiet; k++)
        if (is_picked(&f, out->plan->kernels.p[k]->name, k)) add_kernel(out, k, &f, quiet);
    if (f.given) regfree(&f.pattern);
    if (!quiet) return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for messages");
    syl_diag_destroy(quiet);
    if (!out->units.n && f.given)
        return syl_error(diag, SYL_ERR_tune_kernels, SYL_NOWHERE, "no kernel of the plan is called \"%s\"",
                         options->kernels);
    sort_units(out);
    if (options->exhaustive) return SYL_OK;
    size_t most = tune_most(out, options->budget, threads);
    for (size_t i = 0; i < out->units.n; i++) prune(&out->units.p[i], most);
    return SYL_OK;
}
