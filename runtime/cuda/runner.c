/* The CUDA backend (backend.h): plans in use, each in a stream of its own.
 *
 * Arguments are written to pinned memory and go to the device in one copy; results stay there until they are fetched. All memory is
 * taken in reserve, so a run allocates nothing. */
#include "runtime/cuda/runner.h"

#include <stdlib.h>
#include <string.h>

#include "base/size.h"

enum { ALIGN = 256 };

static syl_cuda_runner *runner_of(syl_runner *base) {
    return (syl_cuda_runner *)base;
}

static syl_status check(syl_cuda_runner *r, int result, const char *what, syl_diag *diag) {
    return syl_cuda_check(r->cuda->device, result, what, diag);
}

/* ---- creation ---- */

static syl_status make_tensors(syl_cuda_tensors *t, int n, syl_diag *diag) {
    t->n = n;
    t->offsets = calloc((size_t)n + 1, sizeof *t->offsets);
    t->sizes = calloc((size_t)n + 1, sizeof *t->sizes);
    t->given = calloc((size_t)n + 1, sizeof *t->given);
    return t->offsets && t->sizes && t->given
               ? SYL_OK
               : syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for a list of buffers");
}

static void free_tensors(syl_cuda_runner *r, syl_cuda_tensors *t) {
    syl_cuda_free(r->cuda->device, &t->memory);
    syl_cuda_unpin(r->cuda->device, &t->host);
    free(t->offsets);
    free(t->sizes);
    free(t->given);
}

static syl_status check_buffers(const syl_plan *plan, syl_diag *diag) {
    for (size_t i = 0; i < plan->kernels.n; i++)
        if (plan->kernels.p[i]->buffers.n > SYL_CUDA_MAX_BUFFERS)
            return syl_error(diag, SYL_ERR_exec_signature, SYL_NOWHERE,
                             "kernel %s has %zu buffers, at most %d are supported", plan->kernels.p[i]->name,
                             plan->kernels.p[i]->buffers.n, SYL_CUDA_MAX_BUFFERS);
    return SYL_OK;
}

/* A block at least this large; what it held is lost if it grows. The stream is idle. */
static syl_status grow(syl_cuda_runner *r, syl_cuda_memory *memory, syl_cuda_use use, size_t size,
                       syl_diag *diag) {
    if (memory->at && size <= memory->size) return SYL_OK;
    syl_cuda_graphs_drop(r);
    syl_cuda_free(r->cuda->device, memory);
    return syl_cuda_alloc(r->cuda->device, use, size, diag, memory);
}

static syl_status too_large(syl_diag *diag, int64_t rows) {
    return syl_error(diag, SYL_ERR_size_overflow, SYL_NOWHERE, "activations of %lld rows are too large",
                     (long long)rows);
}

/* Slots and workspace; both keep what they have room for already. */
static syl_status reserve_rows(syl_cuda_runner *r, const int64_t wanted[2], syl_diag *diag) {
    int64_t rows[2], positions = syl_cuda_round_positions(r, r->base.kv ? r->shape.context : 1);
    size_t slots, arena, workspace;
    if (r->arena.at && wanted[0] <= r->cap[0] && wanted[1] <= r->cap[1]) return SYL_OK;
    for (int s = 0; s < 2; s++) rows[s] = wanted[s] > r->cap[s] ? wanted[s] : r->cap[s];
    r->cap[0] = r->cap[1] = 0;
    if (!syl_cuda_slots(r->base.engine->plan, rows, r->slot_offset, &slots) ||
        !syl_cuda_workspace(r->base.engine, rows, positions, &workspace) ||
        !syl_size_add(slots, syl_cuda_cells(r->cuda), &arena))
        return too_large(diag, rows[0]);
    r->cells = slots;
    SYL_TRY(check(r, r->cuda->device->driver.stream_wait(r->stream), "waiting for runs", diag));
    SYL_TRY(grow(r, &r->arena, SYL_CUDA_ACTIVATIONS, arena + ALIGN, diag));
    if (workspace > r->workspace.size || !r->workspace.at) {
        SYL_TRY(grow(r, &r->workspace, SYL_CUDA_WORKSPACE, workspace + ALIGN, diag));
        r->after_kernel = false;
        SYL_TRY(check(r, r->cuda->device->driver.fill(r->workspace.at, 0, r->workspace.size, r->stream),
                      "clearing the workspace", diag));
    }
    for (int s = 0; s < 2; s++) r->cap[s] = rows[s];
    return SYL_OK;
}

/* What a language model's runner will take, before any of it is taken: the KV cache, slots and workspace for the largest chunk of a prompt
 * and for a token of each sequence. cap gets the rows. */
static syl_status plan_memory(syl_cuda_runner *r, syl_diag *diag) {
    const syl_engine *engine = r->base.engine;
    size_t want[SYL_CUDA_USE_COUNT] = {0}, page, pages;
    int64_t positions = syl_cuda_round_positions(r, r->shape.context), chunk = syl_backend_cuda.chunk;
    if (chunk > r->shape.context) chunk = r->shape.context;
    if (chunk < r->shape.sequences) chunk = r->shape.sequences;
    syl_engine_rows(engine, chunk, r->shape.sequences, r->cap);
    if (!syl_kv_page_bytes(&r->shape, &page) ||
        !syl_size_mul((size_t)syl_kv_table_stride(&r->shape), (size_t)r->shape.sequences, &pages) ||
        !syl_size_mul(page, pages, &want[SYL_CUDA_KV]))
        want[SYL_CUDA_KV] = SIZE_MAX;
    if (!syl_cuda_slots(engine->plan, r->cap, NULL, &want[SYL_CUDA_ACTIVATIONS]) ||
        !syl_cuda_workspace(engine, r->cap, positions, &want[SYL_CUDA_WORKSPACE]))
        return too_large(diag, chunk);
    want[SYL_CUDA_ACTIVATIONS] += syl_cuda_cells(r->cuda);
    return syl_cuda_room(r->cuda->device, want, diag);
}

static syl_status fill(syl_cuda_runner *r, const syl_kv_shape *kv, syl_diag *diag) {
    const syl_engine *engine = r->base.engine;
    const syl_cuda_driver *driver = &r->cuda->device->driver;
    SYL_TRY(check_buffers(engine->plan, diag));
    SYL_TRY(make_tensors(&r->in, syl_engine_inputs(engine), diag));
    SYL_TRY(make_tensors(&r->out, syl_engine_outputs(engine), diag));
    r->slot_offset = calloc(engine->plan->slots.n + 1, sizeof *r->slot_offset);
    if (!r->slot_offset)
        return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for a list of buffers");
    SYL_TRY(check(r, driver->stream_create(&r->own, CU_STREAM_NON_BLOCKING), "making a stream", diag));
    r->stream = r->own;
    SYL_TRY(check(r, driver->event_create(&r->staged, CU_EVENT_NO_TIMING), "making an event", diag));
    if (!kv) return SYL_OK;
    r->shape = *kv;
    SYL_TRY(plan_memory(r, diag));
    SYL_TRY(syl_cuda_pages_create(r, diag));
    const int64_t rows[2] = {r->cap[0], r->cap[1]};
    return reserve_rows(r, rows, diag);
}

static void close_inside(syl_cuda_runner *r) {
    const syl_cuda_driver *driver = &r->cuda->device->driver;
    if (r->stream) driver->stream_wait(r->stream);
    free_tensors(r, &r->in);
    free_tensors(r, &r->out);
    syl_cuda_free(r->cuda->device, &r->arena);
    syl_cuda_free(r->cuda->device, &r->workspace);
    syl_cuda_unpin(r->cuda->device, &r->seen);
    syl_cuda_graphs_drop(r);
    syl_cuda_choose_destroy(r);
    syl_cuda_pages_destroy(r);
    if (r->staged) driver->event_destroy(r->staged);
    if (r->own) driver->stream_destroy(r->own);
    free(r->slot_offset);
}

static void close_runner(syl_runner *base) {
    syl_cuda_runner *r = runner_of(base);
    syl_cuda_device *device = r->cuda->device;
    syl_cuda_enter_anyway(device);
    close_inside(r);
    syl_cuda_leave(device);
    free(r);
}

static syl_status open_runner(const syl_engine *engine, syl_pool *pool, const syl_kv_shape *kv,
                              syl_diag *diag, syl_runner **out) {
    (void)pool;
    *out = NULL;
    syl_cuda_engine *cuda = syl_cuda_engine_of(engine);
    SYL_TRY(syl_cuda_enter(cuda->device, diag));
    syl_cuda_runner *r = calloc(1, sizeof *r);
    syl_status status = SYL_OK;
    if (!r) status = syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for a run");
    if (r) {
        r->base.engine = engine;
        r->cuda = cuda;
        status = fill(r, kv, diag);
    }
    if (r && status != SYL_OK) {
        close_inside(r);
        free(r);
        r = NULL;
    }
    syl_cuda_leave(cuda->device);
    *out = r ? &r->base : NULL;
    return status;
}

/* ---- buffers ---- */

static syl_status place_tensors(syl_cuda_tensors *t, const size_t *sizes, syl_diag *diag, size_t *total) {
    *total = 0;
    for (int i = 0; i < t->n; i++) {
        size_t size;
        t->offsets[i] = *total;
        t->sizes[i] = sizes[i];
        if (!syl_size_align(sizes[i], ALIGN, &size) || !syl_size_add(*total, size, total))
            return syl_error(diag, SYL_ERR_size_overflow, SYL_NOWHERE, "tensors are too large");
    }
    return syl_size_add(*total, ALIGN, total)
               ? SYL_OK
               : syl_error(diag, SYL_ERR_size_overflow, SYL_NOWHERE, "tensors are too large");
}

static syl_status reserve_tensors(syl_cuda_runner *r, syl_cuda_tensors *t, const size_t *sizes, bool pinned,
                                  syl_diag *diag) {
    size_t total;
    SYL_TRY(place_tensors(t, sizes, diag, &total));
    if (!t->memory.at || total > t->memory.size) {
        SYL_TRY(check(r, r->cuda->device->driver.stream_wait(r->stream), "waiting for runs", diag));
        SYL_TRY(grow(r, &t->memory, SYL_CUDA_TENSORS, total, diag));
    }
    if (!pinned || (t->host.data && total <= t->host.size)) return SYL_OK;
    syl_cuda_unpin(r->cuda->device, &t->host);
    return syl_cuda_pin(r->cuda->device, total, diag, &t->host);
}

static syl_status reserve_inside(syl_cuda_runner *r, const syl_run *run, syl_diag *diag) {
    SYL_TRY(check(r, r->cuda->device->driver.event_wait(r->staged), "waiting for a copy", diag));
    SYL_TRY(reserve_rows(r, run->rows, diag));
    SYL_TRY(reserve_tensors(r, &r->in, run->input_bytes, true, diag));
    return reserve_tensors(r, &r->out, run->output_bytes, false, diag);
}

static syl_status reserve(syl_runner *base, const syl_run *run, syl_diag *diag) {
    syl_cuda_runner *r = runner_of(base);
    SYL_TRY(syl_cuda_enter(r->cuda->device, diag));
    syl_status status = reserve_inside(r, run, diag);
    syl_cuda_leave(r->cuda->device);
    return status;
}

static void *input(syl_runner *base, int i) {
    syl_cuda_tensors *in = &runner_of(base)->in;
    return (unsigned char *)in->host.data + in->offsets[i];
}

/* ---- running ---- */

static syl_status copy_part(syl_cuda_runner *r, size_t begin, size_t end, syl_diag *diag) {
    if (begin >= end) return SYL_OK;
    r->after_kernel = false;
    return check(r,
                 r->cuda->device->driver.copy_in(r->in.memory.at + begin,
                                                 (const unsigned char *)r->in.host.data + begin, end - begin,
                                                 r->stream),
                 "copying inputs", diag);
}

/* All inputs, in as few copies as may be, but for those that the device has: the token it has chosen, and what callers gave there. */
static syl_status copy_inputs(syl_cuda_runner *r, const syl_run *run, syl_diag *diag) {
    syl_cuda_tensors *in = &r->in;
    const syl_engine *engine = r->base.engine;
    size_t begin = 0;
    for (int i = 0; i < in->n; i++) {
        bool skip = in->given[i] || (run->follow && engine->signature.roles[i] == SYL_INPUT_IDS);
        in->given[i] = false;
        if (!skip) continue;
        SYL_TRY(copy_part(r, begin, in->offsets[i], diag));
        begin = i + 1 < in->n ? in->offsets[i + 1] : SIZE_MAX;
    }
    return in->n ? copy_part(r, begin, in->offsets[in->n - 1] + in->sizes[in->n - 1], diag) : SYL_OK;
}

static syl_status run_inside(syl_cuda_runner *r, const syl_run *run, syl_diag *diag) {
    syl_cuda_shape shape = {.rows = {run->rows[0], run->rows[1]},
                            .positions = syl_cuda_round_positions(r, run->positions),
                            .choose = run->choose};
    SYL_TRY(syl_cuda_pages_mirror(r, diag));
    SYL_TRY(copy_inputs(r, run, diag));
    SYL_TRY(check(r, r->cuda->device->driver.event_record(r->staged, r->stream), "copying inputs", diag));
    if (r->base.times && r->base.observer.step) { /* measured first: the same is computed again */
        shape.choose = -1;
        SYL_TRY(syl_cuda_time_shape(r, &shape, diag));
        shape.choose = run->choose;
        SYL_TRY(syl_cuda_run_shape(r, &shape, diag));
    } else {
        SYL_TRY(r->base.times ? syl_cuda_time_shape(r, &shape, diag) : syl_cuda_run_shape(r, &shape, diag));
    }
    return run->choose >= 0 ? syl_cuda_choose_made(r, diag) : SYL_OK;
}

static syl_status run_plan(syl_runner *base, const syl_run *run, syl_diag *diag) {
    syl_cuda_runner *r = runner_of(base);
    SYL_TRY(syl_cuda_enter(r->cuda->device, diag));
    syl_status status = run_inside(r, run, diag);
    syl_cuda_leave(r->cuda->device);
    return status;
}

/* ---- results ---- */

static syl_status fetch_inside(syl_cuda_runner *r, int i, size_t offset, size_t size, syl_diag *diag) {
    const syl_cuda_driver *driver = &r->cuda->device->driver;
    size_t at = r->out.offsets[i] + offset;
    if (!r->out.host.data || r->out.host.size < at + size) {
        /* earlier results in the host's memory are lost: those of one run are fetched behind each other, so room is made for all */
        size_t total = r->out.offsets[r->out.n - 1] + r->out.sizes[r->out.n - 1] + ALIGN;
        syl_cuda_unpin(r->cuda->device, &r->out.host);
        SYL_TRY(syl_cuda_pin(r->cuda->device, total, diag, &r->out.host));
    }
    if (size) {
        r->after_kernel = false;
        SYL_TRY(check(
            r,
            driver->copy_out((unsigned char *)r->out.host.data + at, r->out.memory.at + at, size, r->stream),
            "copying results", diag));
    }
    return check(r, driver->stream_wait(r->stream), "running the model", diag);
}

static syl_status fetch(syl_runner *base, int i, size_t offset, size_t size, syl_diag *diag,
                        const void **out) {
    syl_cuda_runner *r = runner_of(base);
    SYL_TRY(syl_cuda_enter(r->cuda->device, diag));
    syl_status status = fetch_inside(r, i, offset, size, diag);
    syl_cuda_leave(r->cuda->device);
    *out = status == SYL_OK ? (unsigned char *)r->out.host.data + r->out.offsets[i] + offset : NULL;
    return status;
}

static syl_status peek_inside(syl_cuda_runner *r, const syl_plan_arg *arg, size_t offset, size_t size,
                              syl_diag *diag) {
    const syl_cuda_driver *driver = &r->cuda->device->driver;
    if (!r->seen.data || size > r->seen.size) {
        syl_cuda_unpin(r->cuda->device, &r->seen);
        SYL_TRY(syl_cuda_pin(r->cuda->device, size, diag, &r->seen));
    }
    r->after_kernel = false;
    int result = driver->copy_out(r->seen.data, syl_cuda_address(r, arg) + offset, size, r->stream);
    SYL_TRY(check(r, result, "copying values", diag));
    return check(r, driver->stream_wait(r->stream), "running the model", diag);
}

static syl_status peek(syl_runner *base, const syl_plan_arg *arg, size_t offset, size_t size, syl_diag *diag,
                       void *out) {
    syl_cuda_runner *r = runner_of(base);
    if (size == 0) return SYL_OK;
    SYL_TRY(syl_cuda_enter(r->cuda->device, diag));
    syl_status status = peek_inside(r, arg, offset, size, diag);
    syl_cuda_leave(r->cuda->device);
    if (status == SYL_OK) memcpy(out, r->seen.data, size);
    return status;
}

static syl_status wait_for(syl_runner *base, syl_diag *diag) {
    syl_cuda_runner *r = runner_of(base);
    SYL_TRY(syl_cuda_enter(r->cuda->device, diag));
    syl_status status = check(r, r->cuda->device->driver.stream_wait(r->stream), "running the model", diag);
    syl_cuda_leave(r->cuda->device);
    return status;
}

/* ---- choosing tokens ---- */

static syl_status choose_begin(syl_runner *base, const syl_sampling *sampling, syl_diag *diag) {
    syl_cuda_runner *r = runner_of(base);
    SYL_TRY(syl_cuda_enter(r->cuda->device, diag));
    syl_status status = syl_cuda_choose_begin(r, sampling, diag);
    syl_cuda_leave(r->cuda->device);
    return status;
}

static syl_status chosen(syl_runner *base, syl_diag *diag, int32_t *id) {
    syl_cuda_runner *r = runner_of(base);
    SYL_TRY(syl_cuda_enter(r->cuda->device, diag));
    syl_status status = syl_cuda_choose_take(r, diag, id);
    syl_cuda_leave(r->cuda->device);
    return status;
}

/* ---- callers on the device ---- */

static syl_status device_stream(syl_runner *base, void *stream, syl_diag *diag) {
    syl_cuda_runner *r = runner_of(base);
    SYL_TRY(wait_for(base, diag));
    r->stream = stream ? stream : r->own;
    r->after_kernel = false;
    return SYL_OK;
}

static syl_status device_input(syl_runner *base, int i, uint64_t address, size_t size, syl_diag *diag) {
    syl_cuda_runner *r = runner_of(base);
    SYL_TRY(syl_cuda_enter(r->cuda->device, diag));
    r->after_kernel = false;
    r->in.given[i] = true;
    int result =
        size ? r->cuda->device->driver.copy(r->in.memory.at + r->in.offsets[i], address, size, r->stream)
             : CU_SUCCESS;
    syl_status status = check(r, result, "copying an input", diag);
    syl_cuda_leave(r->cuda->device);
    return status;
}

static uint64_t device_output(syl_runner *base, int i) {
    const syl_cuda_runner *r = runner_of(base);
    return r->out.memory.at + r->out.offsets[i];
}

static syl_status read_inside(syl_cuda_runner *r, uint64_t address, size_t size, void *to, syl_diag *diag) {
    const syl_cuda_driver *driver = &r->cuda->device->driver;
    syl_cuda_pinned host;
    SYL_TRY(syl_cuda_pin(r->cuda->device, size, diag, &host));
    r->after_kernel = false;
    int result = size ? driver->copy_out(host.data, address, size, r->stream) : CU_SUCCESS;
    if (result == CU_SUCCESS) result = driver->stream_wait(r->stream);
    if (result == CU_SUCCESS) memcpy(to, host.data, size);
    syl_cuda_unpin(r->cuda->device, &host);
    return check(r, result, "reading an input", diag);
}

static syl_status device_read(syl_runner *base, uint64_t address, size_t size, void *to, syl_diag *diag) {
    syl_cuda_runner *r = runner_of(base);
    SYL_TRY(syl_cuda_enter(r->cuda->device, diag));
    syl_status status = read_inside(r, address, size, to, diag);
    syl_cuda_leave(r->cuda->device);
    return status;
}

static syl_status copy_rate(syl_runner *base, syl_diag *diag, double *out) {
    syl_cuda_runner *r = runner_of(base);
    SYL_TRY(syl_cuda_enter(r->cuda->device, diag));
    syl_status status = syl_cuda_copy_rate(r, diag, out);
    syl_cuda_leave(r->cuda->device);
    return status;
}

static size_t bytes(const syl_runner *base) {
    const syl_cuda_runner *r = (const syl_cuda_runner *)base;
    return r->arena.size + r->workspace.size + r->in.memory.size + r->out.memory.size + r->pages.pages.size +
           r->pages.table.size + r->pages.views.size;
}

const syl_backend syl_backend_cuda = {
    .name = "cuda",
    .chunk = 2048,
    .load = syl_cuda_load,
    .unload = syl_cuda_unload,
    .open = open_runner,
    .close = close_runner,
    .reserve = reserve,
    .input = input,
    .run = run_plan,
    .fetch = fetch,
    .wait = wait_for,
    .ahead = 1,
    .choose_begin = choose_begin,
    .chosen = chosen,
    .device_stream = device_stream,
    .device_input = device_input,
    .device_output = device_output,
    .device_read = device_read,
    .peek = peek,
    .copy_rate = copy_rate,
    .bytes = bytes,
};
