/* Linear algebra of compile time in float64, over OpenBLAS and LAPACKE. Matrices are row-major and dense.
 *
 * BLAS runs in the calling thread only: callers work on one tensor a thread, and results must not depend on
 * the number of threads. On one kind of CPU equal inputs give equal bits; OpenBLAS chooses its kernels by the
 * CPU, so another kind may round otherwise. */
#ifndef SYL_BASE_LINALG_H
#define SYL_BASE_LINALG_H

#include <stdbool.h>
#include <stdint.h>

typedef enum syl_linalg_status {
    SYL_LINALG_OK,
    SYL_LINALG_NO_MEMORY,
    SYL_LINALG_SIZE,    /* a dimension is beyond what BLAS counts in 32 bits */
    SYL_LINALG_DIVERGED /* no convergence; NaN or infinity among the elements */
} syl_linalg_status;

/* c[m, n] += alpha * a[m, k] * b[k, n]; the dimensions fit 31 bits. */
void syl_linalg_multiply_add(int64_t m, int64_t n, int64_t k, double alpha, const double *a, const double *b,
                             double *c);

/* The truncated singular value decomposition a[m, n] = u[m, rank] v[rank, n] + error, 1 <= rank <= min(m, n): v has orthonormal rows,
 * column i of u has norm s[i], s falls. u v is the nearest matrix of that rank, exactly where the whole decomposition is computed (LAPACK's
 * dgesdd), nearly where the range of a is found first (Halko, Martinsson and Tropp, "Finding structure with
 * randomness", 2011, algorithms 4.4 and 5.1): from random signs of `seed`, with SYL_LINALG_OVERSAMPLING more columns than the rank and
 * SYL_LINALG_ITERATIONS subspace iterations. That is so where m and n are at least four times as many as the columns. Fails with u, v and s
 * undefined. */
enum { SYL_LINALG_OVERSAMPLING = 16, SYL_LINALG_ITERATIONS = 12 };
syl_linalg_status syl_linalg_truncated_svd(const double *a, int64_t m, int64_t n, int64_t rank, uint64_t seed,
                                           double *u, double *v, double *s);
/* The same where v[rank, n] holds right singular vectors of a matrix near a: the range is that of a v, without iterations. Made for matrices
 * that change a little from one call to the next. */
syl_linalg_status syl_linalg_refine_svd(const double *a, int64_t m, int64_t n, int64_t rank, uint64_t seed,
                                        double *u, double *v, double *s);
/* The same by the whole decomposition, whatever the size. */
syl_linalg_status syl_linalg_full_svd(const double *a, int64_t m, int64_t n, int64_t rank, double *u,
                                      double *v, double *s);

#endif
