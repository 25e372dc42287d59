/* cuBLASLt as an anchor: y[M, N] = x[M, K] w[N, K]^T by the best of its heuristics, opened by dlopen. */
#ifndef SYL_BENCH_GPU_CUBLAS_H
#define SYL_BENCH_GPU_CUBLAS_H

#include "gpu.h"

typedef enum cublas_type { CUBLAS_I8, CUBLAS_E4M3, CUBLAS_BF16, CUBLAS_TYPES } cublas_type;
extern const char *const cublas_names[CUBLAS_TYPES];

typedef struct cublas cublas;
/* NULL where libcublasLt.so.13 (.12) is not to be found: then the table lacks these columns. Inside of enter, as all here. */
cublas *cublas_open(gpu *g);
void cublas_close(cublas *c);

/* Tries up to 16 algorithms of the heuristics with 64 MiB of workspace, and keeps the fastest. False if there is none. Results are i32 for
 * INT8, bf16 else; FP8 with scales a tensor and fast accumulation. */
typedef struct cublas_plan {
    cublas *c;
    void *desc, *x_layout, *w_layout, *y_layout;
    uint64_t algorithm[8];
    int tried;
    cublas_type type;
} cublas_plan;
bool cublas_choose(cublas *c, cublas_type type, int64_t m, int64_t n, int64_t k, cu_address x, cu_address w,
                   cu_address y, cublas_plan *out);
void cublas_run(const cublas_plan *plan, cu_address x, cu_address w, cu_address y);
void cublas_drop(cublas_plan *plan);

#endif
