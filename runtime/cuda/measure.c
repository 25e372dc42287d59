/* Measuring on the device. Steps of a few microseconds are timed inside of a graph, where the device goes from one to the next by itself:
 * launched one by one, the time of launching would be measured. */
#include <stdlib.h>

#include "runtime/cuda/runner.h"

static syl_status check(syl_cuda_runner *r, int result, syl_diag *diag) {
    return syl_cuda_check(r->cuda->device, result, "measuring", diag);
}

static syl_status read_marks(syl_cuda_runner *r, size_t steps, syl_diag *diag) {
    const syl_cuda_driver *driver = &r->cuda->device->driver;
    for (size_t i = 0; i < steps; i++) {
        float start = 0, took = 0;
        SYL_TRY(check(r, driver->event_elapsed(&start, r->marks[0], r->marks[i]), diag));
        SYL_TRY(check(r, driver->event_elapsed(&took, r->marks[i], r->marks[i + 1]), diag));
        r->base.times[i] = (syl_step_time){1e-3 * (double)start, 1e-3 * (double)took};
    }
    return SYL_OK;
}

/* The graph is run twice, so that the second finds code and caches as in the midst of work: it computes the same, and appends the same to
 * the KV cache. A choice of a token is made once. */
static syl_status time_graph(syl_cuda_runner *r, const syl_cuda_shape *shape, size_t steps, syl_diag *diag) {
    const syl_cuda_driver *driver = &r->cuda->device->driver;
    cu_graph_exec exec = NULL;
    syl_status status = SYL_OK;
    for (size_t i = 0; i <= steps && status == SYL_OK; i++)
        status = check(r, driver->event_create(&r->marks[i], CU_EVENT_DEFAULT), diag);
    if (status == SYL_OK) status = syl_cuda_capture(r, shape, diag, &exec);
    for (int i = 0; i < (shape->choose < 0 ? 2 : 1) && status == SYL_OK; i++)
        status = check(r, driver->graph_launch(exec, r->stream), diag);
    if (status == SYL_OK) status = check(r, driver->stream_wait(r->stream), diag);
    if (status == SYL_OK) status = read_marks(r, steps, diag);
    if (exec) driver->graph_exec_destroy(exec);
    for (size_t i = 0; i <= steps; i++)
        if (r->marks[i]) driver->event_destroy(r->marks[i]);
    return status;
}

syl_status syl_cuda_time_shape(syl_cuda_runner *r, const syl_cuda_shape *shape, syl_diag *diag) {
    size_t steps = r->base.engine->plan->steps.n;
    r->marks = calloc(steps + 1, sizeof(cu_event));
    if (!r->marks) return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for times");
    syl_status status = time_graph(r, shape, steps, diag);
    free(r->marks);
    r->marks = NULL;
    r->after_kernel = false;
    return status;
}

static syl_status copy_between(syl_cuda_runner *r, const syl_cuda_memory *a, const syl_cuda_memory *b,
                               const cu_event events[2], syl_diag *diag, double *out) {
    enum { TIMES = 7 };
    const syl_cuda_driver *driver = &r->cuda->device->driver;
    *out = 0;
    for (int i = 0; i < TIMES; i++) {
        float took = 0;
        SYL_TRY(check(r, driver->event_record(events[0], r->stream), diag));
        SYL_TRY(check(r, driver->copy(b->at, a->at, a->size, r->stream), diag));
        SYL_TRY(check(r, driver->event_record(events[1], r->stream), diag));
        SYL_TRY(check(r, driver->event_wait(events[1]), diag));
        SYL_TRY(check(r, driver->event_elapsed(&took, events[0], events[1]), diag));
        double rate = took > 0 ? 2e3 * (double)a->size / (double)took : 0;
        if (rate > *out) *out = rate;
    }
    return SYL_OK;
}

syl_status syl_cuda_copy_rate(syl_cuda_runner *r, syl_diag *diag, double *out) {
    enum { SIZE = 512 << 20 }; /* many times the L2 */
    syl_cuda_device *device = r->cuda->device;
    syl_cuda_memory a = {0}, b = {0};
    cu_event events[2] = {0};
    r->after_kernel = false;
    syl_status status = syl_cuda_alloc(device, SYL_CUDA_WORKSPACE, SIZE, diag, &a);
    if (status == SYL_OK) status = syl_cuda_alloc(device, SYL_CUDA_WORKSPACE, SIZE, diag, &b);
    for (int i = 0; i < 2 && status == SYL_OK; i++)
        status = check(r, device->driver.event_create(&events[i], CU_EVENT_DEFAULT), diag);
    if (status == SYL_OK) status = copy_between(r, &a, &b, events, diag, out);
    for (int i = 0; i < 2; i++)
        if (events[i]) device->driver.event_destroy(events[i]);
    syl_cuda_free(device, &a);
    syl_cuda_free(device, &b);
    return status;
}
