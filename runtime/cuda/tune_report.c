/* What a unit's measurements say (tune.h): candidates in order, and why the first is first. */
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "runtime/cuda/tune.h"
#include "runtime/profile.h"

/* ---- what limits a launch ---- */

/* Threads, blocks and bytes of shared memory that a multiprocessor holds. */
static void limits_of(int arch, int *threads, int *blocks, int64_t *shared) {
    *threads = arch == 75 ? 1024 : arch == 86 || arch == 89 || arch == 120 ? 1536 : 2048;
    *blocks = arch == 75 || arch == 86 ? 16 : arch == 89 || arch == 120 ? 24 : 32;
    *shared = arch == 75                  ? 64 << 10
              : arch == 80                ? 164 << 10
              : arch == 90 || arch == 100 ? 228 << 10
                                          : 100 << 10;
}

static int resident(const syl_cuda_target *target, int threads, int64_t registers, int64_t shared) {
    enum { REGISTERS = 65536, RESERVED = 1024 };
    int most_threads, most_blocks;
    int64_t most_shared;
    limits_of(target->arch, &most_threads, &most_blocks, &most_shared);
    int64_t n = most_blocks, warps = syl_ceil_div(threads, 32);
    if (n > most_threads / (warps * 32)) n = most_threads / (warps * 32);
    if (registers > 0) {
        int64_t of_block = syl_ceil_div(registers, 8) * 8 * 32 * warps;
        if (n > REGISTERS / of_block) n = REGISTERS / of_block;
    }
    if (n > most_shared / (shared + RESERVED)) n = most_shared / (shared + RESERVED);
    return n > 0 ? (int)n : 1;
}

/* The positions that kernels are measured with (tune_inputs.c) at most. */
enum { POSITIONS = 1024, BATCH = 64 };

static int64_t positions_of(const tune_unit *unit) {
    return unit->rows > POSITIONS ? unit->rows : POSITIONS;
}

static syl_tune_result_row row_of(const tune_plan *plan, const tune_unit *unit, const tune_candidate *c) {
    const syl_cuda_launch *launch = &c->code->launch;
    syl_cuda_grid grid = syl_cuda_grid_of(launch, unit->rows, positions_of(unit));
    syl_tune_result_row row = {.variant = c->code->text,
                               .state = c->state,
                               .measured = c->measured,
                               .raced = c->raced,
                               .seconds = c->measured && c->state == SYL_TUNING_GOOD ? c->seconds : 0,
                               .model = c->model,
                               .registers = c->registers,
                               .shared = c->shared ? c->shared : launch->shared,
                               .threads = launch->threads,
                               .blocks = grid.x * grid.y * grid.z,
                               .why = c->why};
    row.resident = resident(plan->target, row.threads, row.registers, row.shared);
    row.waves = (double)row.blocks / ((double)plan->target->sms * row.resident);
    return row;
}

/* Good ones by time, those that raced first, bad ones, those not measured; equal ones in the model's order. */
static int rank(const syl_tune_result_row *r) {
    return !r->measured ? 2 : r->state != SYL_TUNING_GOOD;
}
static int compare_rows(const void *a, const void *b) {
    const syl_tune_result_row *x = a, *y = b;
    if (rank(x) != rank(y)) return rank(x) - rank(y);
    if (x->raced != y->raced) return y->raced - x->raced;
    if (x->seconds != y->seconds) return x->seconds < y->seconds ? -1 : 1;
    return (x->model > y->model) - (x->model < y->model);
}

/* ---- what a launch costs at least ---- */

static void find_costs(const tune_plan *plan, const tune_unit *unit, const syl_cuda_properties *gpu,
                       syl_arena *arena, syl_tune_unit_report *out) {
    const syl_plan_step *step = NULL;
    for (size_t i = 0; i < plan->plan->steps.n && !step; i++)
        if (plan->plan->steps.p[i].kernel == unit->number) step = &plan->plan->steps.p[i];
    int32_t *pos = SYL_NEW_ARRAY(arena, int32_t, (size_t)unit->rows),
            *seq = SYL_NEW_ARRAY(arena, int32_t, (size_t)unit->rows);
    int64_t positions = positions_of(unit);
    for (int64_t i = 0; i < unit->rows; i++) {
        pos[i] = (int32_t)(unit->rows <= BATCH ? positions - 1 : positions - unit->rows + i);
        seq[i] = (int32_t)(unit->rows <= BATCH ? i : 0);
    }
    syl_run run = {.rows = {unit->rows, unit->rows}, .pos = pos, .seq = seq, .positions = positions};
    syl_step_cost cost = syl_step_cost_of(plan->plan, step, &run);
    double memory = 2e6 * gpu->memory_mhz * (gpu->memory_bits / 8.0); /* two transfers a clock */
    double peak = syl_peak_operations(unit->kernel, gpu->capability, gpu->sms, gpu->clock_mhz);
    out->bytes = cost.bytes;
    out->operations = cost.operations;
    out->memory_s = memory > 0 ? cost.bytes / memory : 0;
    out->arithmetic_s = peak > 0 ? cost.operations / peak : 0;
}

static void say_grid(syl_text *text, const syl_tune_result_row *r) {
    syl_text_printf(text, "%lld blocks of %d threads, %d on a multiprocessor: %.2f waves",
                    (long long)r->blocks, r->threads, r->resident, r->waves);
}

static const char *why(const syl_tune_unit_report *report, syl_arena *arena) {
    const syl_tune_result_row *best = report->row;
    syl_text text = {.arena = arena};
    if (!report->n || rank(best) != 0) return "nothing was measured";
    double floor = report->memory_s > report->arithmetic_s ? report->memory_s : report->arithmetic_s;
    say_grid(&text, best);
    if (floor > 0)
        syl_text_printf(&text, "; its %s alone take %.2f us at the GPU's peak, %.0f %% of its time",
                        report->memory_s >= report->arithmetic_s ? "bytes" : "products", 1e6 * floor,
                        100 * floor / best->seconds);
    if (report->n > 1 && rank(&report->row[1]) == 0) {
        const syl_tune_result_row *next = &report->row[1];
        syl_text_printf(&text, "; the next, %s, takes %.2f times as long with ", next->variant,
                        next->seconds / best->seconds);
        say_grid(&text, next);
        if (next->registers != best->registers || next->shared != best->shared)
            syl_text_printf(&text, ", %lld registers (%lld) and %lld bytes of shared memory (%lld)",
                            (long long)next->registers, (long long)best->registers, (long long)next->shared,
                            (long long)best->shared);
    } else {
        syl_text_printf(&text, "; no other variant was measured");
    }
    return text.p;
}

void tune_report_unit(const tune_plan *plan, const tune_unit *unit, const syl_cuda_properties *gpu,
                      syl_arena *arena, syl_tune_unit_report *out) {
    syl_tune_result_row *rows = SYL_NEW_ARRAY(arena, syl_tune_result_row, unit->n);
    for (size_t i = 0; i < unit->n; i++) rows[i] = row_of(plan, unit, &unit->candidates[i]);
    if (unit->n) qsort(rows, unit->n, sizeof *rows, compare_rows);
    *out = (syl_tune_unit_report){.kernel = unit->kernel,
                                  .number = unit->number,
                                  .steps = unit->steps,
                                  .rows = unit->rows,
                                  .row = rows,
                                  .n = unit->n,
                                  .candidates = unit->all};
    find_costs(plan, unit, gpu, arena, out);
    out->why = why(out, arena);
}
