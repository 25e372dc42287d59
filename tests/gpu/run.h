/* A problem on the device: its memory, and its plan run with chosen variants of the kernels. */
#ifndef SYL_TESTS_GPU_RUN_H
#define SYL_TESTS_GPU_RUN_H

#include "gpu.h"
#include "problem.h"

enum { GPU_MAX_VARIANTS = 64, GPU_MAX_KERNELS = 8, GPU_MAX_SLOTS = 32 };

/* The variants to run of a kernel: those of the cost model's choice for some numbers of rows, and some more of each family. */
typedef struct gpu_choice {
    gpu_kernel kernels[GPU_MAX_VARIANTS];
    int n;
} gpu_choice;

typedef struct gpu_run {
    gpu *g;
    gpu_problem *problem;
    cu_address args[GPU_MAX_ARGS], *weights, slots[GPU_MAX_SLOTS], outputs[4], workspace, views, pages, table;
    size_t slot_bytes[GPU_MAX_SLOTS], output_bytes[4], workspace_bytes, counters, page_bytes, cache_bytes;
    gpu_choice *choices; /* [plan->kernels.n] */
} gpu_run;

enum { GPU_GUARD = 4096, GPU_POISON = 0xff }; /* bytes behind each output that stay as they are */

/* Adds to the kernels' choices, for a number of rows, up to `more` variants of each family beyond the best, or all where more < 0. Families
 * whose name does not contain `only` (NULL: any) are left out, unless nothing is left. Any thread. */
SYL_NODISCARD syl_status gpu_run_choose(gpu_run *run, int64_t rows, int more, const char *only);
/* Numbers of the variants in choices[kernel] that fit `rows` rows, best first; returns how many. */
int gpu_run_variants(const gpu_run *run, int kernel, int64_t rows, int *out);

/* Device memory for a problem and its largest number of rows; choices must be made. Inside of enter, as all below. */
void gpu_run_create(gpu_run *run);
void gpu_run_destroy(gpu_run *run);
/* Slots and outputs are filled with GPU_POISON, the cache with zeros. */
void gpu_run_poison(gpu_run *run, int64_t rows);
/* Runs the plan: of kernel k the variant chosen[k] of its choices. */
void gpu_run_plan(gpu_run *run, int64_t rows, const int *chosen);
/* One step of it. */
void gpu_run_step(gpu_run *run, size_t step, int64_t rows, gpu_kernel *kernel);

#endif
