/* Measuring kernels of a plan one by one (private to runtime/cuda/tune_*.c).
 *
 * A unit is a kernel over some rows. Its buffers exist many times, as sets, so that launches one behind the other find nothing in the L2
 * cache that the launch before left there. All variants get the same bytes in, and must give the same bytes out. */
#ifndef SYL_RUNTIME_CUDA_TUNE_BENCH_H
#define SYL_RUNTIME_CUDA_TUNE_BENCH_H

#include "runtime/cuda/runner.h"
#include "runtime/cuda/tune.h"

enum { TUNE_RACERS = 16 };

typedef struct tune_verdict {
    syl_tuning_state state;
    double seconds[TUNE_RACERS];
    int n;
    char message[160];
} tune_verdict;

typedef struct tune_bench tune_bench;
SYL_NODISCARD syl_status tune_bench_open(const char *path, const char *device, const char *cache_dir,
                                         syl_pool *pool, syl_diag *diag, tune_bench **out);
void tune_bench_close(tune_bench *bench); /* NULL is fine */
bool tune_bench_lost(const tune_bench *bench);
/* Begins a unit: buffers, and the reference's result. */
SYL_NODISCARD syl_status tune_bench_unit(tune_bench *bench, size_t kernel, int64_t rows,
                                         const syl_cuda_variant *reference, syl_diag *diag,
                                         tune_verdict *out);
/* Compares a variant's result with the reference's, and gives a first time. */
SYL_NODISCARD syl_status tune_bench_try(tune_bench *bench, const syl_cuda_variant *variant, syl_diag *diag,
                                        tune_verdict *out);
/* Times of several, in turns, each the median of its rounds. All must be right. */
SYL_NODISCARD syl_status tune_bench_race(tune_bench *bench, const syl_cuda_variant *variants, int n,
                                         syl_diag *diag, tune_verdict *out);

/* ---- tune_inputs.c: a unit's buffers ---- */

typedef struct tune_generator {
    uint64_t state; /* not 0 */
} tune_generator;
uint64_t tune_random(tune_generator *generator);

typedef struct tune_buffer {
    size_t at, size;  /* in a set, or in the shared block */
    size_t offset;    /* of the kernel's address behind it */
    bool shared;      /* a table that rows are picked from: once for all sets */
    bool compared;    /* written by the kernel */
    bool tiled;       /* rows that fill the last atom hold anything */
    void *bytes;      /* host: what a set begins with; NULL: nothing */
    bool bytes_owned; /* to be freed with the unit */
} tune_buffer;

typedef struct tune_inputs {
    const kir_kernel *kernel;
    const syl_plan_step *step; /* the first that runs it */
    int64_t rows, positions;
    int n;
    tune_buffer buffers[SYL_CUDA_MAX_BUFFERS];
    size_t set, common; /* bytes of a set, of the shared block */
    /* the KV cache, in every set */
    int cache; /* buffer; -1: none */
    bool appends;
    int64_t sequences, pages, page_bytes;
    size_t table_at; /* in a set */
    int32_t *table;
} tune_inputs;

/* Host memory only. Weights are kept for the next unit of the same kernel. */
typedef struct tune_weights {
    int kernel; /* whose they are; -1: none */
    void *packed[SYL_CUDA_MAX_BUFFERS];
} tune_weights;
SYL_NODISCARD syl_status tune_inputs_make(const syl_engine *engine, syl_pool *pool, size_t kernel,
                                          int64_t rows, tune_weights *weights, syl_diag *diag,
                                          tune_inputs *out);
void tune_inputs_free(tune_inputs *inputs); /* fine on a zeroed one */
void tune_weights_free(tune_weights *weights);

#endif
