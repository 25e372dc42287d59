/* CUDA graphs: all launches of a run as one. A run's shape (rows of each symbol, rounded positions, whether it chooses tokens) that comes a
 * second time is captured, and from then on replayed: what differs between such runs lies in device memory. A graph holds addresses, so all
 * are dropped when a buffer moves. */
#include "runtime/cuda/runner.h"

static bool same_shape(const syl_cuda_graph *g, const syl_cuda_shape *shape) {
    return g->shape.rows[0] == shape->rows[0] && g->shape.rows[1] == shape->rows[1] &&
           g->shape.positions == shape->positions && g->shape.choose == shape->choose;
}

static void drop(syl_cuda_runner *r, syl_cuda_graph *g) {
    if (g->exec) r->cuda->device->driver.graph_exec_destroy(g->exec);
    *g = (syl_cuda_graph){0};
}

void syl_cuda_graphs_drop(syl_cuda_runner *r) {
    for (int i = 0; i < SYL_CUDA_GRAPHS; i++) drop(r, &r->graphs[i]);
}

/* The graph of this shape, or the place of the one unused for longest. */
static syl_cuda_graph *find(syl_cuda_runner *r, const syl_cuda_shape *shape) {
    syl_cuda_graph *oldest = &r->graphs[0];
    for (int i = 0; i < SYL_CUDA_GRAPHS; i++) {
        syl_cuda_graph *g = &r->graphs[i];
        if (g->used && same_shape(g, shape)) return g;
        if (g->used < oldest->used) oldest = g;
    }
    drop(r, oldest);
    oldest->shape = *shape;
    return oldest;
}

syl_status syl_cuda_capture(syl_cuda_runner *r, const syl_cuda_shape *shape, syl_diag *diag,
                            cu_graph_exec *out) {
    syl_cuda_device *device = r->cuda->device;
    const syl_cuda_driver *driver = &device->driver;
    cu_graph graph = NULL;
    cu_stream stream = r->stream; /* a caller's may be one that cannot be captured */
    SYL_TRY(syl_cuda_check(device, driver->stream_capture(r->own, CU_CAPTURE_THREAD_LOCAL),
                           "beginning a graph", diag));
    r->stream = r->own;
    r->after_kernel = false;
    syl_status status = syl_cuda_launch_steps(r, shape, diag);
    int result = driver->stream_captured(r->own, &graph);
    r->stream = stream;
    if (status == SYL_OK) status = syl_cuda_check(device, result, "capturing a graph", diag);
    if (status == SYL_OK)
        status = syl_cuda_check(device, driver->graph_instantiate(out, graph, 0), "making a graph", diag);
    if (graph) driver->graph_destroy(graph);
    return status;
}

syl_status syl_cuda_run_shape(syl_cuda_runner *r, const syl_cuda_shape *shape, syl_diag *diag) {
    if (!r->cuda->graphs || r->base.observer.step) return syl_cuda_launch_steps(r, shape, diag);
    syl_cuda_graph *g = find(r, shape);
    bool first = !g->used;
    g->used = ++r->clock;
    if (first) return syl_cuda_launch_steps(r, shape, diag);
    if (!g->exec) {
        syl_status status = syl_cuda_capture(r, shape, diag, &g->exec);
        if (status != SYL_OK) {
            drop(r, g);
            return status;
        }
    }
    r->after_kernel = false;
    return syl_cuda_check(r->cuda->device, r->cuda->device->driver.graph_launch(g->exec, r->stream),
                          "launching a graph", diag);
}
