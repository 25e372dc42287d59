/* A plan in use on a GPU (private to runtime/cuda): its stream, buffers, KV cache and graphs. */
#ifndef SYL_RUNTIME_CUDA_RUNNER_H
#define SYL_RUNTIME_CUDA_RUNNER_H

#include "codegen/cuda/choose.h"
#include "runtime/cuda/engine.h"

/* Pages of the KV cache: one block for all that sequences may reach, a table of which the device has a copy, and the layers' views. */
typedef struct syl_cuda_pages {
    syl_cuda_memory pages, table, views;
    syl_cuda_pinned table_copy; /* what the device's table was last set from */
    size_t page_size, table_bytes;
    int32_t n_pages;
    uint64_t seen; /* changes of the table that the device knows */
} syl_cuda_pages;

/* Buffers of arguments or of results: one block of the device, one of the host. */
typedef struct syl_cuda_tensors {
    int n;
    size_t *offsets, *sizes; /* of the run at hand */
    bool *given;             /* arguments that the device has of its own memory already */
    syl_cuda_memory memory;
    syl_cuda_pinned host;
} syl_cuda_tensors;

/* What two runs must share to be one graph. */
typedef struct syl_cuda_shape {
    int64_t rows[2];
    int64_t positions; /* rounded */
    int64_t choose;    /* row of the logits by which a token is chosen behind the steps; -1: none */
} syl_cuda_shape;

enum { SYL_CUDA_GRAPHS = 32 };
typedef struct syl_cuda_graph {
    syl_cuda_shape shape;
    cu_graph_exec exec; /* NULL: the shape has been seen once */
    uint64_t used;      /* when it was last; 0: never */
} syl_cuda_graph;

/* Tokens chosen on the device. */
enum { SYL_CUDA_RING = 8 }; /* choices that may be under way */
typedef struct syl_cuda_choices {
    syl_cuda_memory state; /* syl_cuda_choice */
    syl_cuda_pinned host;  /* a copy of it, then int32 [SYL_CUDA_RING], into which the device writes */
    cu_event done[SYL_CUDA_RING];
    int64_t made, taken;
} syl_cuda_choices;

typedef struct syl_cuda_runner {
    syl_runner base;
    syl_cuda_engine *cuda;
    cu_stream stream; /* where work goes: its own, or a caller's */
    cu_stream own;
    cu_event staged; /* behind the last copy out of pinned memory */
    syl_kv_shape shape;
    syl_cuda_pages pages;
    int64_t cap[2]; /* rows of each symbol that slots and workspace are made for */
    size_t *slot_offset;
    size_t cells; /* where the cells of schedules begin in the arena, behind the slots */
    syl_cuda_memory arena, workspace;
    syl_cuda_tensors in, out;
    syl_cuda_choices choices;
    syl_cuda_graph graphs[SYL_CUDA_GRAPHS];
    uint64_t clock;
    syl_cuda_pinned seen; /* what an observer has read last */
    cu_event *
        marks; /* [steps + 1] of a run that is measured: recorded in front of the first step and behind each; NULL: none */
    bool after_kernel; /* the stream ends with a kernel of this runner: the next may begin before its end */
} syl_cuda_runner;

/* pages.c. Inside of enter, as all here. */
SYL_NODISCARD syl_status syl_cuda_pages_create(syl_cuda_runner *r, syl_diag *diag);
void syl_cuda_pages_destroy(syl_cuda_runner *r);
/* Brings changes of the table to the device. */
SYL_NODISCARD syl_status syl_cuda_pages_mirror(syl_cuda_runner *r, syl_diag *diag);
cu_address syl_cuda_pages_view(const syl_cuda_runner *r, int layer);

/* launch.c. A kernel's one parameter: addresses of its buffers, the workspace's, and two ints, without gaps (cuda.h). */
typedef struct syl_cuda_arguments {
    uint64_t words[SYL_CUDA_MAX_BUFFERS + 2];
} syl_cuda_arguments;
typedef struct syl_cuda_counts {
    int64_t rows, positions;
} syl_cuda_counts;
/* Launches a kernel whose buffers' addresses stand in p, and gives the driver's result. early: it may begin before the end of the kernel in
 * front of it, where it can wait for that itself. */
int syl_cuda_launch_kernel(const syl_cuda_driver *driver, cu_stream stream, cu_function function,
                           const syl_cuda_launch *how, syl_cuda_arguments *p, int buffers,
                           cu_address workspace, const syl_cuda_counts *counts, bool early);
/* Where the buffer of an argument lies; all steps of a run, in the runner's stream, with an observer behind each of them. */
cu_address syl_cuda_address(const syl_cuda_runner *r, const syl_plan_arg *arg);
SYL_NODISCARD syl_status syl_cuda_launch_steps(syl_cuda_runner *r, const syl_cuda_shape *shape,
                                               syl_diag *diag);
/* graph.c: the same, as a graph where the shape has come before and nobody observes. */
SYL_NODISCARD syl_status syl_cuda_run_shape(syl_cuda_runner *r, const syl_cuda_shape *shape, syl_diag *diag);
/* All steps as a graph, not launched; the caller's. */
SYL_NODISCARD syl_status syl_cuda_capture(syl_cuda_runner *r, const syl_cuda_shape *shape, syl_diag *diag,
                                          cu_graph_exec *out);
void syl_cuda_graphs_drop(syl_cuda_runner *r); /* when a buffer has moved */

/* The number of positions that kernels are told: few different ones, none below the run's. */
int64_t syl_cuda_round_positions(const syl_cuda_runner *r, int64_t positions);

/* measure.c: a run with the time of each step (base.times), and how fast the device copies. */
SYL_NODISCARD syl_status syl_cuda_time_shape(syl_cuda_runner *r, const syl_cuda_shape *shape, syl_diag *diag);
SYL_NODISCARD syl_status syl_cuda_copy_rate(syl_cuda_runner *r, syl_diag *diag, double *out);

/* choose.c. */
SYL_NODISCARD syl_status syl_cuda_choose_begin(syl_cuda_runner *r, const syl_sampling *sampling,
                                               syl_diag *diag);
SYL_NODISCARD syl_status syl_cuda_choose_launch(syl_cuda_runner *r, int64_t row, syl_diag *diag);
SYL_NODISCARD syl_status syl_cuda_choose_made(syl_cuda_runner *r, syl_diag *diag); /* behind the run */
SYL_NODISCARD syl_status syl_cuda_choose_take(syl_cuda_runner *r, syl_diag *diag, int32_t *id);
void syl_cuda_choose_destroy(syl_cuda_runner *r);

#endif
