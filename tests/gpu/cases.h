/* The cases of the differential test: problems (op x scheme x layout x shape class), each at several numbers of rows. */
#ifndef SYL_TESTS_GPU_CASES_H
#define SYL_TESTS_GPU_CASES_H

#include "problem.h"

enum { GPU_MAX_ROW_COUNTS = 16 };

typedef struct gpu_cases {
    syl_arena *arena;
    SYL_VEC(gpu_problem_spec) problems;
} gpu_cases;

/* All problems, in a fixed order; texts live in the arena. */
void gpu_cases_add_rows(gpu_cases *cases);      /* elementwise, norms, transforms, quantize, positions */
void gpu_cases_add_linear(gpu_cases *cases);    /* GEMM of every scheme */
void gpu_cases_add_attention(gpu_cases *cases); /* over the cache, and full */

/* Adds one; fmt makes the IR text. Fields left 0 get: max_rows 8192, multiple 1, others 5. */
void gpu_cases_add(gpu_cases *cases, gpu_problem_spec spec, const char *name, const char *fmt, ...)
    SYL_PRINTF(4, 5);

/* The numbers of rows of problem number `index`, ascending: 1, the largest, and some between. Returns how many. */
int gpu_case_rows(const gpu_problem_spec *spec, size_t index, int64_t *out);

#endif
