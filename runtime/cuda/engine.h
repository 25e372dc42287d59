/* What the CUDA backend keeps of an engine: the device, weights there, kernels by number of rows (private to runtime/cuda). */
#ifndef SYL_RUNTIME_CUDA_ENGINE_H
#define SYL_RUNTIME_CUDA_ENGINE_H

#include "codegen/cuda/schedule.h"
#include "runtime/backend.h"
#include "runtime/cuda/device.h"

/* Kernels have a variant for each of these numbers of rows; a run takes that of the first which is not smaller, or the last. */
enum { SYL_CUDA_BUCKETS = 10, SYL_CUDA_FEW_BUCKETS = 2 };
extern const int64_t syl_cuda_buckets[SYL_CUDA_BUCKETS];
int syl_cuda_bucket_of(int64_t rows);

/* A kernel of the plan in one variant, on the device; or several in one launch. */
typedef struct syl_cuda_loaded {
    const kir_kernel *kernel; /* of several: the last */
    const syl_cuda_fused *fused;
    syl_cuda_variant variant;
    syl_cuda_launch launch;
    cu_function function;
} syl_cuda_loaded;

typedef struct syl_cuda_code_set {
    syl_cuda_loaded *loaded; /* [n] */
    size_t n;
    int *choice; /* [kernel of the plan][bucket]: number in loaded */
    bool *tuned; /* likewise: it was measured */
    /* For the first buckets: which steps go together, NULL: none; where its launches of several begin in loaded. */
    syl_cuda_schedule *few[SYL_CUDA_FEW_BUCKETS];
    size_t few_loaded[SYL_CUDA_FEW_BUCKETS];
    cu_module *modules;
    size_t n_modules;
} syl_cuda_code_set;

typedef struct syl_cuda_engine {
    syl_cuda_device *device;
    syl_cuda_target target;
    syl_cuda_memory memory; /* all weights */
    size_t *weight_offset;  /* one for each plan->weights */
    syl_cuda_code_set code;
    cu_module choose_module; /* of language models: the choice of a token */
    cu_function choose;
    bool fuse;   /* steps of few rows are launched together: unless SYL_CUDA_FUSE=0 */
    bool graphs; /* runs are captured as CUDA graphs: unless SYL_CUDA_GRAPHS=0, for debugging */
} syl_cuda_engine;

static inline syl_cuda_engine *syl_cuda_engine_of(const syl_engine *engine) {
    return engine->loaded;
}

/* code.c: the best variants, compiled by so many threads and loaded. Inside of enter. */
SYL_NODISCARD syl_status syl_cuda_code_load(syl_engine *engine, const syl_engine_options *options,
                                            int threads, syl_diag *diag);
void syl_cuda_code_unload(syl_cuda_engine *cuda);
static inline const syl_cuda_loaded *syl_cuda_loaded_for(const syl_cuda_engine *cuda, int kernel,
                                                         int64_t rows) {
    return &cuda->code.loaded[cuda->code.choice[kernel * SYL_CUDA_BUCKETS + syl_cuda_bucket_of(rows)]];
}

/* The schedule of a run of so many rows of each symbol, or NULL: step by step. Where a schedule's launch of several has its code. */
static inline const syl_cuda_schedule *syl_cuda_schedule_for(const syl_cuda_engine *cuda,
                                                             const int64_t rows[2]) {
    int64_t most = rows[0] > rows[1] ? rows[0] : rows[1];
    return most <= SYL_CUDA_FEW ? cuda->code.few[syl_cuda_bucket_of(most)] : NULL;
}
static inline const syl_cuda_loaded *syl_cuda_loaded_together(const syl_cuda_engine *cuda,
                                                              const syl_cuda_schedule *schedule, int fused) {
    int bucket = schedule == cuda->code.few[0] ? 0 : 1;
    return &cuda->code.loaded[cuda->code.few_loaded[bucket] + (size_t)fused];
}

/* choose.c: the kernel that chooses tokens. Inside of enter. */
SYL_NODISCARD syl_status syl_cuda_choose_load(syl_engine *engine, const syl_engine_options *options,
                                              syl_diag *diag);
void syl_cuda_choose_unload(syl_cuda_engine *cuda);

/* launch.c: a kernel of a loaded module, allowed `shared` bytes of shared memory; gives the driver's result. */
int syl_cuda_find_kernel(const syl_cuda_driver *driver, cu_module module, const char *entry, int64_t shared,
                         cu_function *out);

/* weights.c: where weights will lie, and bringing them there, unless *stop tells that they are of no use. Inside of enter. */
SYL_NODISCARD syl_status syl_cuda_weights_place(const syl_engine *engine, syl_diag *diag, size_t *total);
SYL_NODISCARD syl_status syl_cuda_weights_load(syl_engine *engine, const atomic_bool *stop, syl_pool *pool,
                                               syl_diag *diag);

/* memory.c: what runs need. False on overflow. */
bool syl_cuda_slots(const syl_plan *plan, const int64_t rows[2], size_t *offsets, size_t *total);
/* Bytes of the cells of all schedules: they share their memory. */
size_t syl_cuda_cells(const syl_cuda_engine *cuda);
/* The largest workspace of runs of up to these many rows and positions. */
bool syl_cuda_workspace(const syl_engine *engine, const int64_t rows[2], int64_t positions, size_t *total);

/* What code is made for. Error: cuda-capability. */
SYL_NODISCARD syl_status syl_cuda_find_target(const syl_cuda_properties *gpu, syl_diag *diag,
                                              syl_cuda_target *out);
SYL_NODISCARD syl_status syl_cuda_load(syl_engine *engine, const syl_engine_options *options, syl_pool *pool,
                                       syl_diag *diag);
void syl_cuda_unload(syl_engine *engine);

#endif
