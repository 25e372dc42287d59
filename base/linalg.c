/* Truncated singular value decompositions over LAPACKE (linalg.h).
 *
 * LAPACK counts columns first: a row-major matrix is the transposed one to it. So the orthonormal basis of the
 * columns of a tall row-major matrix comes from its LQ decomposition, and a = u s v from v' s u'; nothing is
 * copied to be transposed but u. */
#include "base/linalg.h"
#include <cblas.h>
#include <lapacke.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "base/numeric.h"
#include "base/size.h"

static void use_one_thread(void) {
    openblas_set_num_threads(1);
}

static void start(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, use_one_thread);
}

static double *matrix(int64_t m, int64_t n) {
    size_t cells, bytes;
    if (!syl_size_mul((size_t)m, (size_t)n, &cells) || !syl_size_mul(cells, sizeof(double), &bytes))
        return NULL;
    return syl_alloc_aligned(bytes);
}

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

void syl_linalg_multiply_add(int64_t m, int64_t n, int64_t k, double alpha, const double *a, const double *b,
                             double *c) {
    start();
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)m, (int)n, (int)k, alpha, a, (int)k, b,
                (int)n, 1, c, (int)n);
}

/* y[m, l] = a[m, n] x[n, l], or a' x with x[m, l] and y[n, l]. */
static void apply(const double *a, int64_t m, int64_t n, bool transpose, const double *x, int64_t l,
                  double *y) {
    cblas_dgemm(CblasRowMajor, transpose ? CblasTrans : CblasNoTrans, CblasNoTrans, (int)(transpose ? n : m),
                (int)l, (int)(transpose ? m : n), 1, a, (int)n, x, (int)l, 0, y, (int)l);
}

static syl_linalg_status status_of(lapack_int info) {
    if (info == LAPACK_WORK_MEMORY_ERROR || info == LAPACK_TRANSPOSE_MEMORY_ERROR)
        return SYL_LINALG_NO_MEMORY;
    return info == 0 ? SYL_LINALG_OK : SYL_LINALG_DIVERGED;
}

/* An orthonormal basis of the columns of y[m, l], l <= m, in place; tau[l] is to work in. */
static syl_linalg_status orthonormalize(double *y, int64_t m, int64_t l, double *tau) {
    lapack_int info = LAPACKE_dgelqf(LAPACK_COL_MAJOR, (int)l, (int)m, y, (int)l, tau);
    if (info == 0) info = LAPACKE_dorglq(LAPACK_COL_MAJOR, (int)l, (int)m, (int)l, y, (int)l, tau);
    return status_of(info);
}

/* All singular triples of a[m, n], which is destroyed: left[m, k] s[k] right[k, n] with k = min(m, n). */
static syl_linalg_status decompose(double *a, int64_t m, int64_t n, double *left, double *s, double *right) {
    int k = (int)smaller(m, n);
    return status_of(
        LAPACKE_dgesdd(LAPACK_COL_MAJOR, 'S', (int)n, (int)m, a, (int)n, s, right, (int)n, left, k));
}

/* The sign of a singular pair is arbitrary: the largest element of each row of v, the first of them, is made positive. */
static void fix_signs(double *u, int64_t m, double *v, int64_t n, int64_t rank) {
    for (int64_t r = 0; r < rank; r++) {
        double *row = v + r * n, largest = 0;
        for (int64_t k = 0; k < n; k++)
            if (row[k] * row[k] > largest * largest) largest = row[k];
        if (largest >= 0) continue;
        for (int64_t k = 0; k < n; k++) row[k] = -row[k];
        for (int64_t i = 0; i < m; i++) u[i * rank + r] = -u[i * rank + r];
    }
}

syl_linalg_status syl_linalg_full_svd(const double *a, int64_t m, int64_t n, int64_t rank, double *u,
                                      double *v, double *s) {
    if (m > INT_MAX || n > INT_MAX) return SYL_LINALG_SIZE;
    start();
    int64_t k = smaller(m, n);
    double *copy = matrix(m, n), *left = matrix(m, k), *right = matrix(k, n), *values = matrix(k, 1);
    syl_linalg_status status = copy && left && right && values ? SYL_LINALG_OK : SYL_LINALG_NO_MEMORY;
    if (status == SYL_LINALG_OK) {
        memcpy(copy, a, (size_t)(m * n) * sizeof *a);
        status = decompose(copy, m, n, left, values, right);
    }
    if (status == SYL_LINALG_OK) {
        for (int64_t i = 0; i < m; i++)
            for (int64_t r = 0; r < rank; r++) u[i * rank + r] = left[i * k + r] * values[r];
        memcpy(v, right, (size_t)(rank * n) * sizeof *v);
        memcpy(s, values, (size_t)rank * sizeof *s);
        fix_signs(u, m, v, n, rank);
    }
    free(copy), free(left), free(right), free(values);
    return status;
}

/* The directions from which the range is sought: other[n, l], random signs but for the first `rank` columns, which
 * are the rows of v[rank, n] where there is a v. They are made as long as the signs are. */
static void make_directions(const double *v, int64_t rank, int64_t n, int64_t l, uint64_t seed,
                            double *other) {
    double length = sqrt((double)n);
    for (int64_t i = 0; i < n; i++)
        for (int64_t r = 0; r < l; r++)
            other[i * l + r] =
                v && r < rank ? v[r * n + i] * length : syl_random_sign(seed, (uint64_t)(i * l + r));
}

/* basis[m, l]: orthonormal, and its span nearly that of the leading l left singular vectors of a. */
static syl_linalg_status find_range(const double *a, int64_t m, int64_t n, int64_t l, int iterations,
                                    double *basis, double *other, double *tau) {
    apply(a, m, n, false, other, l, basis);
    syl_linalg_status status = orthonormalize(basis, m, l, tau);
    for (int i = 0; status == SYL_LINALG_OK && i < iterations; i++) {
        apply(a, m, n, true, basis, l, other);
        status = orthonormalize(other, n, l, tau);
        if (status != SYL_LINALG_OK) break;
        apply(a, m, n, false, other, l, basis);
        status = orthonormalize(basis, m, l, tau);
    }
    return status;
}

/* known: v holds directions to start from. */
static syl_linalg_status truncated_svd(const double *a, int64_t m, int64_t n, int64_t rank, uint64_t seed,
                                       bool known, double *u, double *v, double *s) {
    int64_t l = rank + SYL_LINALG_OVERSAMPLING;
    if (m > INT_MAX || n > INT_MAX) return SYL_LINALG_SIZE;
    if (m / 4 < l || n / 4 < l) return syl_linalg_full_svd(a, m, n, rank, u, v, s);
    start();
    double *basis = matrix(m, l), *other = matrix(n, l), *tau = matrix(l, 1), *small = matrix(l, n),
           *left = matrix(l, l), *right = matrix(l, n), *values = matrix(l, 1);
    bool room = basis && other && tau && small && left && right && values;
    syl_linalg_status status = room ? SYL_LINALG_OK : SYL_LINALG_NO_MEMORY;
    if (status == SYL_LINALG_OK) {
        make_directions(known ? v : NULL, rank, n, l, seed, other);
        int iterations = known ? 0 : SYL_LINALG_ITERATIONS;
        status = find_range(a, m, n, l, iterations, basis, other, tau);
    }
    if (status == SYL_LINALG_OK) {
        cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)l, (int)n, (int)m, 1, basis, (int)l, a,
                    (int)n, 0, small, (int)n);
        status = decompose(small, l, n, left, values, right);
    }
    if (status == SYL_LINALG_OK) {
        for (int64_t i = 0; i < l; i++)
            for (int64_t r = 0; r < l; r++) left[i * l + r] *= values[r];
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)m, (int)rank, (int)l, 1, basis, (int)l,
                    left, (int)l, 0, u, (int)rank);
        memcpy(v, right, (size_t)(rank * n) * sizeof *v);
        memcpy(s, values, (size_t)rank * sizeof *s);
        fix_signs(u, m, v, n, rank);
    }
    free(basis), free(other), free(tau), free(small), free(left), free(right), free(values);
    return status;
}

syl_linalg_status syl_linalg_truncated_svd(const double *a, int64_t m, int64_t n, int64_t rank, uint64_t seed,
                                           double *u, double *v, double *s) {
    return truncated_svd(a, m, n, rank, seed, false, u, v, s);
}

syl_linalg_status syl_linalg_refine_svd(const double *a, int64_t m, int64_t n, int64_t rank, uint64_t seed,
                                        double *u, double *v, double *s) {
    return truncated_svd(a, m, n, rank, seed, true, u, v, s);
}
