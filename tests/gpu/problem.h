/* One function to be run on a GPU and by the reference: IR text, its plan for CUDA, random arguments and stored tensors.
 *
 * Rows of the symbol that varies (T, or R of attention) are independent of each other, so the reference runs over a sample of them, whatever
 * the number of rows the GPU runs over. Arguments are made once for the largest number of rows; a run over fewer takes the first. */
#ifndef SYL_TESTS_GPU_PROBLEM_H
#define SYL_TESTS_GPU_PROBLEM_H

#include "codegen/cuda/cuda.h"
#include "ir/ref/ref.h"

/* ---- what to run ---- */

typedef struct gpu_context { /* the KV cache of an attention problem: sequence s has lengths[s] positions */
    int sequences;
    int64_t lengths[8];
} gpu_context;

typedef struct gpu_problem_spec {
    const char *name; /* "linear int4_two_level_g64 bias 97x576" */
    const char *text; /* IR before fuse */
    double nmse;      /* of the sampled rows against the reference; 0: the same bits */
    int64_t max_rows; /* of the symbol that varies */
    int64_t multiple; /* rows come in sequences of so many (full_attention); 1 elsewhere */
    int64_t others;   /* size of the other symbol, and what i32 arguments are below */
    bool
        exact; /* f32 arguments called x are INT8 codes times a power of two for each row: quantize gives back these codes */
    bool noise;          /* bell-shaped arguments of equal size, for benchmarks */
    gpu_context context; /* attention */
} gpu_problem_spec;

enum { GPU_MAX_ARGS = 8, GPU_MAX_SAMPLE = 32 };

typedef struct gpu_argument {
    syl_dtype dtype;
    int64_t rows, cols; /* rows: the largest number */
    bool varies;
    size_t row_bytes;
    void *data; /* as kernels read it */
} gpu_argument;

typedef struct gpu_result {
    syl_dtype dtype;
    int64_t cols;
    size_t row_bytes;
    double *expected; /* [n_sample][cols] */
    void *host;       /* [n_sample] rows, as kernels write them; NULL: not computed */
} gpu_result;

typedef struct gpu_weight { /* one of plan->weights, as the device holds it */
    size_t size;
    void *data;
} gpu_weight;

typedef struct gpu_problem {
    const gpu_problem_spec *spec;
    syl_arena arena;
    syl_text errors;
    syl_diag *diag;
    syl_source source, pipeline_source;
    syl_module *module;
    const syl_func *func;
    syl_plan *plan;
    char varies; /* 'T', or 'R' of attention */
    gpu_argument args[GPU_MAX_ARGS];
    gpu_result results[4];
    int n_results;
    gpu_weight *weights;
    int64_t sample[GPU_MAX_SAMPLE]; /* ascending */
    int n_sample;
    uint64_t random;
} gpu_problem;

/* Parses, fuses, plans, and makes arguments and weights. On failure the text of the diagnostics is in errors.p; destroy it in any case. */
SYL_NODISCARD syl_status gpu_problem_create(const gpu_problem_spec *spec, gpu_problem *out);
/* Runs the reference over the sample: results[i].expected. */
SYL_NODISCARD syl_status gpu_problem_expect(gpu_problem *problem);
/* Runs this machine's own code over the sample: results[i].host. Without fused multiply-add they stay NULL. host.c */
SYL_NODISCARD syl_status gpu_problem_run_host(gpu_problem *problem);
/* Whether the device's results are promised to be the host's bit by bit (docs/numerics.md): all but what bf16 tensor cores sum. */
bool gpu_problem_promises_bits(const gpu_problem *problem);
void gpu_problem_destroy(gpu_problem *problem);

/* A weight of a plan as its kernels read it: this machine's, or CUDA's. Rows that the reference and the host run over: the sample, or whole sequences. */
SYL_NODISCARD syl_status gpu_problem_weight(gpu_problem *problem, const syl_plan_weight *weight, bool host,
                                            gpu_weight *out);
int64_t gpu_problem_sample_rows(const gpu_problem *problem);

/* Sizes of a call with `rows` rows: of the plan's symbol number `symbol`. */
int64_t gpu_problem_size(const gpu_problem *problem, int symbol, int64_t rows);
/* The largest number of positions of a sequence. */
int64_t gpu_problem_positions(const gpu_problem *problem);

/* Element `i` of memory as a double. */
double gpu_element(const void *data, syl_dtype dtype, int64_t i);

#endif
