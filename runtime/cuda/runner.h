/* A plan in use on a GPU (private to runtime/cuda): its stream, buffers, KV cache and graphs. */
#ifndef SYL_RUNTIME_CUDA_RUNNER_H
#define SYL_RUNTIME_CUDA_RUNNER_H

#include "runtime/cuda/engine.h"

enum { SYL_CUDA_MAX_BUFFERS = 64 };

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
    syl_cuda_memory memory;
    syl_cuda_pinned host;
} syl_cuda_tensors;

typedef struct syl_cuda_runner {
    syl_runner base;
    syl_cuda_engine *cuda;
    cu_stream stream;
    cu_event staged; /* behind the last copy out of pinned memory */
    syl_kv_shape shape;
    syl_cuda_pages pages;
    int64_t cap[2]; /* rows of each symbol that slots and workspace are made for */
    int64_t cap_positions;
    size_t *slot_offset;
    syl_cuda_memory arena, workspace;
    syl_cuda_tensors in, out;
    bool
        after_kernel; /* the stream's last work is a kernel of this runner: the next may begin before its end */
} syl_cuda_runner;

/* pages.c. Inside of enter, as all here. */
SYL_NODISCARD syl_status syl_cuda_pages_create(syl_cuda_runner *r, syl_diag *diag);
void syl_cuda_pages_destroy(syl_cuda_runner *r);
/* Brings changes of the table to the device. */
SYL_NODISCARD syl_status syl_cuda_pages_mirror(syl_cuda_runner *r, syl_diag *diag);
cu_address syl_cuda_pages_view(const syl_cuda_runner *r, int layer);

/* launch.c: all steps of a run, in the runner's stream. */
SYL_NODISCARD syl_status syl_cuda_launch_steps(syl_cuda_runner *r, const syl_run *run, syl_diag *diag);
/* The number of positions that kernels are told: few different ones, none below the run's. */
int64_t syl_cuda_round_positions(const syl_cuda_runner *r, int64_t positions);

#endif
