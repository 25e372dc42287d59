/* Launching the steps of a plan: arguments to addresses, the variant for the number of rows, the grid. */
#include <string.h>

#include "base/size.h"
#include "runtime/cuda/runner.h"
#include "runtime/observe.h"

/* schedule: of a step of it, whose values lie in cells; else NULL. */
static cu_address address(const syl_cuda_runner *r, const syl_plan_arg *arg,
                          const syl_cuda_schedule *schedule) {
    cu_address base = 0;
    switch (arg->kind) {
    case SYL_ARG_SLOT:
        base =
            r->arena.at + (schedule ? r->cells + schedule->cells.p[arg->index] : r->slot_offset[arg->index]);
        break;
    case SYL_ARG_INPUT:
        base = r->in.memory.at + r->in.offsets[arg->index];
        break;
    case SYL_ARG_OUTPUT:
        base = r->out.memory.at + r->out.offsets[arg->index];
        break;
    case SYL_ARG_WEIGHT:
        base = r->cuda->memory.at + r->cuda->weight_offset[arg->index];
        break;
    case SYL_ARG_CACHE:
        return syl_cuda_pages_view(r, arg->index);
    }
    return base + (cu_address)arg->offset;
}

cu_address syl_cuda_address(const syl_cuda_runner *r, const syl_plan_arg *arg) {
    return address(r, arg, NULL);
}

int64_t syl_cuda_round_positions(const syl_cuda_runner *r, int64_t positions) {
    int64_t rounded = SYL_KV_PAGE;
    while (rounded < positions) rounded *= 2;
    return r->base.kv && rounded > r->shape.context && positions <= r->shape.context ? r->shape.context
                                                                                     : rounded;
}

int syl_cuda_find_kernel(const syl_cuda_driver *driver, cu_module module, const char *entry, int64_t shared,
                         cu_function *out) {
    int result = driver->module_function(out, module, entry);
    if (result == 0 && shared > 0)
        result = driver->function_set(*out, CU_FUNCTION_DYNAMIC_SHARED, (int)shared);
    return result;
}

int syl_cuda_launch_kernel(const syl_cuda_driver *driver, cu_stream stream, cu_function function,
                           const syl_cuda_launch *how, syl_cuda_arguments *p, int buffers,
                           cu_address workspace, const syl_cuda_counts *counts, bool early) {
    syl_cuda_grid grid = syl_cuda_grid_of(how, counts->rows, counts->positions);
    int32_t ints[2] = {(int32_t)counts->rows, (int32_t)counts->positions};
    p->words[buffers] = workspace;
    memcpy(&p->words[buffers + 1], ints, sizeof ints);
    cu_launch_attribute attributes[2] = {0};
    cu_launch_config config = {.grid = {(unsigned)grid.x, (unsigned)grid.y, (unsigned)grid.z},
                               .block = {(unsigned)how->threads, 1, 1},
                               .shared = (unsigned)how->shared,
                               .stream = stream,
                               .attributes = attributes};
    if (how->cluster > 1 || how->cluster_z > 1) {
        attributes[config.n_attributes].id = CU_LAUNCH_CLUSTER;
        attributes[config.n_attributes].value.cluster.x = 1;
        attributes[config.n_attributes].value.cluster.y = how->cluster > 1 ? (unsigned)how->cluster : 1;
        attributes[config.n_attributes++].value.cluster.z = how->cluster_z > 1 ? (unsigned)how->cluster_z : 1;
    }
    if (how->dependent && early) {
        attributes[config.n_attributes].id = CU_LAUNCH_PROGRAMMATIC;
        attributes[config.n_attributes++].value.programmatic = 1;
    }
    void *parameters[] = {p};
    return driver->launch(&config, function, parameters, NULL);
}

/* One launch: what it runs, its arguments; the label is for people. */
typedef struct call {
    const syl_cuda_loaded *loaded;
    const syl_plan_arg *args;
    int n_args;
    const syl_cuda_schedule *schedule;
    const char *label;
} call;

static syl_status launch(syl_cuda_runner *r, const call *c, int64_t rows, int64_t positions, syl_diag *diag) {
    const syl_cuda_launch *how = &c->loaded->launch;
    const syl_cuda_counts counts = {rows, positions};
    syl_cuda_arguments p;
    for (int i = 0; i < c->n_args; i++) p.words[i] = address(r, &c->args[i], c->schedule);
    int result = syl_cuda_launch_kernel(&r->cuda->device->driver, r->stream, c->loaded->function, how, &p,
                                        c->n_args, r->workspace.at, &counts, r->after_kernel);
    r->after_kernel = true;
    if (result == CU_SUCCESS) return SYL_OK;
    syl_status status = syl_cuda_check(r->cuda->device, result, "launching a kernel", diag);
    syl_cuda_grid grid = syl_cuda_grid_of(how, rows, positions);
    syl_note(diag, SYL_NOWHERE,
             "the kernel is %s of %s over %lld rows, grid %lld x %lld x %lld of %d threads",
             c->loaded->kernel->name, c->label, (long long)rows, (long long)grid.x, (long long)grid.y,
             (long long)grid.z, how->threads);
    return status;
}

/* In a stream that is captured: a mark that a replay sets. Nothing begins early across it. */
static syl_status mark(syl_cuda_runner *r, size_t i, syl_diag *diag) {
    if (!r->marks) return SYL_OK;
    r->after_kernel = false;
    return syl_cuda_check(
        r->cuda->device,
        r->cuda->device->driver.event_record_in_graph(r->marks[i], r->stream, CU_EVENT_RECORD_EXTERNAL),
        "timing a step", diag);
}

/* Steps that are launched together: the last one's time is that of all, the others take none. */
static syl_status launch_together(syl_cuda_runner *r, const syl_cuda_schedule *schedule,
                                  const syl_cuda_shape *shape, syl_diag *diag) {
    const syl_plan *plan = r->base.engine->plan;
    for (size_t l = 0; l < schedule->steps.n; l++) {
        const syl_cuda_step *step = &schedule->steps.p[l];
        const syl_plan_step *last = &plan->steps.p[step->first + step->n - 1];
        int64_t rows = shape->rows[step->rows];
        call c = {.args = step->args, .n_args = step->n_args, .schedule = schedule, .label = last->label};
        c.loaded = step->fused < 0 ? syl_cuda_loaded_for(r->cuda, last->kernel, rows)
                                   : syl_cuda_loaded_together(r->cuda, schedule, step->fused);
        for (int i = 1; i < step->n; i++) SYL_TRY(mark(r, (size_t)(step->first + i), diag));
        if (rows > 0) SYL_TRY(launch(r, &c, rows, shape->positions, diag));
        SYL_TRY(mark(r, (size_t)(step->first + step->n), diag));
    }
    return SYL_OK;
}

/* What is captured has not run. */
static bool is_observed(const syl_cuda_runner *r) {
    return r->base.observer.step && !r->marks;
}

static syl_status launch_each(syl_cuda_runner *r, const syl_cuda_shape *shape, syl_diag *diag) {
    const syl_plan *plan = r->base.engine->plan;
    bool observed = is_observed(r);
    for (size_t i = 0; i < plan->steps.n; i++) {
        const syl_plan_step *step = &plan->steps.p[i];
        int64_t rows = shape->rows[step->rows];
        call c = {.args = step->args, .n_args = step->n_args, .label = step->label};
        c.loaded = syl_cuda_loaded_for(r->cuda, step->kernel, rows);
        if (rows > 0) SYL_TRY(launch(r, &c, rows, shape->positions, diag));
        SYL_TRY(mark(r, i + 1, diag));
        if (observed && rows > 0) SYL_TRY(syl_observe_step(&r->base, i, rows, diag));
    }
    return SYL_OK;
}

syl_status syl_cuda_launch_steps(syl_cuda_runner *r, const syl_cuda_shape *shape, syl_diag *diag) {
    const syl_cuda_schedule *schedule = is_observed(r) ? NULL : syl_cuda_schedule_for(r->cuda, shape->rows);
    SYL_TRY(mark(r, 0, diag));
    SYL_TRY(schedule ? launch_together(r, schedule, shape, diag) : launch_each(r, shape, diag));
    return shape->choose >= 0 ? syl_cuda_choose_launch(r, shape->choose, diag) : SYL_OK;
}
