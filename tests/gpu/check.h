/* Comparing what the device computed: bits with bits there, sampled rows with the reference here. */
#ifndef SYL_TESTS_GPU_CHECK_H
#define SYL_TESTS_GPU_CHECK_H

#include "run.h"

typedef struct gpu_checker { /* the checks' own kernels and two words of device memory */
    cu_function differ, other_than;
    cu_address counts;
} gpu_checker;
void gpu_checker_create(gpu *g, gpu_checker *out); /* outside of enter */

/* How many 16-bit words of a and b differ, and the first that does. `size` is even. Inside of enter, as the next. */
uint64_t gpu_differ(gpu *g, const gpu_checker *c, cu_address a, cu_address b, size_t size, uint64_t *first);
/* How many bytes are not `value`. */
uint64_t gpu_other_than(gpu *g, const gpu_checker *c, cu_address a, size_t size, unsigned char value);

/* Sampled rows below `rows` of all results, read from outputs[], against the reference. */
typedef struct gpu_error {
    double nmse;    /* the largest of the results' */
    double largest; /* error of an element over the root mean square of its result */
    bool same;      /* the same bits */
    int result;     /* of the largest error */
    int64_t row, column;
    double got, expected;
} gpu_error;
gpu_error gpu_compare(gpu_run *run, const cu_address *outputs, int64_t rows);
/* How many elements of the sampled rows below `rows` are not the host's bit by bit (0 where it computed none), and in out the first. */
int64_t gpu_compare_host(gpu_run *run, const cu_address *outputs, int64_t rows, gpu_error *out);

#endif
