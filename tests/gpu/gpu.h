/* The GPU as the tests and benchmarks see it: memory, compiled variants, launches. A thin layer over runtime/cuda/driver.h and
 * codegen/cuda/nvrtc.h, apart from the executor, so that single kernels can be run, varied and timed.
 *
 * A failing call of the driver ends the program with a message: behind it the context is lost, and nothing that follows would be true. */
#ifndef SYL_TESTS_GPU_GPU_H
#define SYL_TESTS_GPU_GPU_H

#include <pthread.h>
#include "codegen/cuda/cuda.h"
#include "codegen/cuda/nvrtc.h"
#include "runtime/cuda/driver.h"

typedef struct gpu {
    syl_cuda_driver driver;
    syl_nvrtc *nvrtc;
    syl_cuda_target target;
    syl_diag *diag;
    cu_context context;
    cu_stream stream;
    char name[128];
    int device, capability, nvrtc_version; /* 13000 is 13.0 */
    pthread_mutex_t lock;                  /* between enter and leave */
    bool plain;                            /* launches without programmatic serialization */
    bool ptx;               /* compile to PTX of compute_<arch> and let the driver make code of it */
    struct gpu_code *codes; /* all that was compiled, by source */
    int64_t compiled, reused;
} gpu;

/* Opens device 0 (SYL_GPU_DEVICE names another). `architecture`: NULL for the device's own, or a name such as "sm_80" to generate for that
 * and run through PTX. Exits with 77 where there is no driver or device: not run. */
void gpu_open(gpu *g, const char *architecture);
void gpu_close(gpu *g);
/* Enter takes the lock and makes the context current on this thread; all below but gpu_compile want that. */
void gpu_enter(gpu *g);
void gpu_leave(gpu *g);
/* Ends the program where a driver call failed. */
void gpu_must(gpu *g, int result, const char *what);

cu_address gpu_alloc(gpu *g, size_t size);
void gpu_free(gpu *g, cu_address address); /* 0 is fine */
void gpu_put(gpu *g, cu_address to, const void *from, size_t size);
void gpu_get(gpu *g, void *to, cu_address from, size_t size); /* waits */
void gpu_fill(gpu *g, cu_address to, unsigned char value, size_t size);
void gpu_wait(gpu *g);

/* One variant of one kernel, compiled. The code is shared by all who compile the same source. */
typedef struct gpu_kernel {
    const kir_kernel *kernel;
    syl_cuda_variant variant;
    syl_cuda_launch launch;
    struct gpu_code *code;
} gpu_kernel;
/* Any thread, outside of enter. On failure *log says why. */
SYL_NODISCARD syl_status gpu_compile(gpu *g, const kir_kernel *kernel, const syl_cuda_variant *variant,
                                     syl_diag *diag, gpu_kernel *out);
void gpu_launch(gpu *g, gpu_kernel *kernel, const cu_address *buffers, cu_address workspace, int64_t rows,
                int64_t positions);

/* A kernel from source text of the caller's: the tests' own tools. */
cu_function gpu_build(gpu *g, const char *name, const char *source);
void gpu_launch_plain(gpu *g, cu_function function, unsigned blocks, unsigned threads, void **parameters);

/* ---- timing ---- */

typedef void gpu_work(void *user, int round);
/* Captures `calls` calls of work (round = 0, 1, ...) into a graph and instantiates it. */
cu_graph_exec gpu_capture(gpu *g, gpu_work *work, void *user, int calls);
/* Seconds of one launch of the graph, by events. */
double gpu_time_graph(gpu *g, cu_graph_exec graph);
double gpu_median(double *values, int n);
/* The state of the card, as nvidia-smi tells it: SM clock (MHz), memory clock, power (W), temperature; zeros where it does not. */
typedef struct gpu_state {
    double sm_clock, memory_clock, power, temperature;
} gpu_state;
gpu_state gpu_read_state(void);
/* Writes "device": ..., "driver": ..., "commit": ... (SYL_COMMIT, or of the file COMMIT beside the program) without braces. */
void gpu_print_machine(const gpu *g, FILE *out);

#endif
