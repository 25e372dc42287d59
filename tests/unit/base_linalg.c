/* Truncated singular value decompositions: the range finder against the whole decomposition, and both against what they must satisfy. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/linalg.h"

static double *make(int64_t n) {
    double *x = calloc((size_t)n, sizeof *x);
    assert_non_null(x);
    return x;
}

static uint64_t state = 1;
static double normal(void) { /* the sum of twelve uniform numbers */
    double sum = -6;
    for (int i = 0; i < 12; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        sum += (double)(state >> 11) * 0x1p-53;
    }
    return sum;
}

typedef enum spectrum { FLAT, FALLING, OUTLIERS, LOW_RANK, N_SPECTRA } spectrum;

/* FLAT is the hardest for a range finder: neighbouring singular values hardly differ. */
static double *random_matrix(int64_t m, int64_t n, spectrum kind) {
    double *a = make(m * n);
    for (int64_t i = 0; i < m * n; i++) {
        int64_t j = i % n;
        double size = kind == FALLING ? exp(-0.01 * (double)j) : kind == OUTLIERS && j % 97 == 0 ? 30 : 1;
        a[i] = kind == LOW_RANK ? 0 : size * normal();
    }
    if (kind != LOW_RANK) return a;
    double *u = make(m * 5), *v = make(5 * n);
    for (int64_t i = 0; i < m * 5; i++) u[i] = normal();
    for (int64_t i = 0; i < 5 * n; i++) v[i] = normal();
    syl_linalg_multiply_add(m, n, 5, 1, u, v, a);
    free(u), free(v);
    return a;
}

static double norm(const double *x, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * x[i];
    return sqrt(sum);
}

static double residual(const double *a, int64_t m, int64_t n, int64_t rank, const double *u,
                       const double *v) {
    double *r = make(m * n);
    memcpy(r, a, (size_t)(m * n) * sizeof *r);
    syl_linalg_multiply_add(m, n, rank, -1, u, v, r);
    double size = norm(r, m * n);
    free(r);
    return size;
}

/* v has orthonormal rows, the columns of u have the singular values as norms, which fall. */
static void check_form(int64_t m, int64_t n, int64_t rank, const double *u, const double *v,
                       const double *s) {
    for (int64_t p = 0; p < rank; p++) {
        for (int64_t q = 0; q <= p; q++) {
            double dot = 0;
            for (int64_t k = 0; k < n; k++) dot += v[p * n + k] * v[q * n + k];
            assert_true(fabs(dot - (p == q)) < 1e-10);
        }
        double size = 0;
        for (int64_t i = 0; i < m; i++) size += u[i * rank + p] * u[i * rank + p];
        assert_true(fabs(sqrt(size) - s[p]) <= 1e-10 * s[0]);
        assert_true(p == 0 || s[p] <= s[p - 1]);
    }
}

static void range_finder_finds_what_the_whole_does(void **unused) {
    (void)unused;
    static const int64_t sizes[][3] = {{300, 700, 16}, {700, 300, 16}, {576, 576, 32}, {260, 257, 8}};
    for (int i = 0; i < 4; i++)
        for (spectrum kind = 0; kind < N_SPECTRA; kind++) {
            int64_t m = sizes[i][0], n = sizes[i][1], rank = sizes[i][2];
            double *a = random_matrix(m, n, kind), *u = make(m * rank), *v = make(rank * n), *s = make(rank),
                   *exact = make(rank), *exact_u = make(m * rank), *exact_v = make(rank * n);
            assert_int_equal(syl_linalg_truncated_svd(a, m, n, rank, 1, u, v, s), SYL_LINALG_OK);
            assert_int_equal(syl_linalg_full_svd(a, m, n, rank, exact_u, exact_v, exact), SYL_LINALG_OK);
            check_form(m, n, rank, u, v, s);
            check_form(m, n, rank, exact_u, exact_v, exact);
            for (int64_t r = 0; r < rank; r++) {
                assert_true(s[r] <= exact[r] * (1 + 1e-10) + 1e-8);
                assert_true(s[r] >= 0.99 * exact[r] - 1e-8);
            }
            double near = residual(a, m, n, rank, u, v), best = residual(a, m, n, rank, exact_u, exact_v);
            assert_true(near <= 1.01 * best + 1e-9 * norm(a, m * n));
            assert_true(best <= near * (1 + 1e-10) + 1e-9 * norm(a, m * n));
            if (kind == LOW_RANK) assert_true(near <= 1e-10 * norm(a, m * n));
            free(a), free(u), free(v), free(s), free(exact), free(exact_u), free(exact_v);
        }
}

/* From the directions of a matrix nearby, the range is nearly as good as from many iterations. */
static void neighbours_refine(void **unused) {
    (void)unused;
    enum { ROWS = 300, COLS = 420, PARTS = 12 };
    for (spectrum kind = 0; kind < N_SPECTRA; kind++) {
        double *a = random_matrix(ROWS, COLS, kind), *u = make(ROWS * PARTS), *v = make(PARTS * COLS),
               *s = make(PARTS), *best_u = make(ROWS * PARTS), *best_v = make(PARTS * COLS);
        assert_int_equal(syl_linalg_truncated_svd(a, ROWS, COLS, PARTS, 1, u, v, s), SYL_LINALG_OK);
        for (int64_t i = 0; i < ROWS * COLS; i++) a[i] += 0.03 * normal();
        assert_int_equal(syl_linalg_refine_svd(a, ROWS, COLS, PARTS, 1, u, v, s), SYL_LINALG_OK);
        check_form(ROWS, COLS, PARTS, u, v, s);
        assert_int_equal(syl_linalg_full_svd(a, ROWS, COLS, PARTS, best_u, best_v, s), SYL_LINALG_OK);
        double best = residual(a, ROWS, COLS, PARTS, best_u, best_v),
               near = residual(a, ROWS, COLS, PARTS, u, v);
        /* Seven of the directions of a matrix of rank 5 are those of noise, which is all new. */
        assert_true(near <= (kind == LOW_RANK ? 1.05 : 1.005) * best);
        free(a), free(u), free(v), free(s), free(best_u), free(best_v);
    }
}

/* Where the rank is all there is, nothing is left. */
static void whole_rank_leaves_nothing(void **unused) {
    (void)unused;
    static const int64_t sizes[][2] = {{1, 1}, {1, 9}, {9, 1}, {7, 5}, {5, 7}, {40, 64}};
    for (int i = 0; i < 6; i++) {
        int64_t m = sizes[i][0], n = sizes[i][1], rank = m < n ? m : n;
        double *a = random_matrix(m, n, FLAT), *u = make(m * rank), *v = make(rank * n), *s = make(rank);
        assert_int_equal(syl_linalg_truncated_svd(a, m, n, rank, 1, u, v, s), SYL_LINALG_OK);
        assert_true(residual(a, m, n, rank, u, v) <= 1e-12 * norm(a, m * n));
        free(a), free(u), free(v), free(s);
    }
}

typedef struct work {
    const double *a;
    double *u, *v, *s;
} work;

enum { M = 500, N = 400, RANK = 20 };

static void *decompose(void *arg) {
    work *w = arg;
    return syl_linalg_truncated_svd(w->a, M, N, RANK, 1, w->u, w->v, w->s) == SYL_LINALG_OK ? w : NULL;
}

/* The same bits again, alone and beside others. */
static void threads_change_nothing(void **unused) {
    (void)unused;
    enum { THREADS = 4 };
    double *a = random_matrix(M, N, FLAT);
    work works[THREADS];
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) works[i] = (work){a, make(M * RANK), make(RANK * N), make(RANK)};
    assert_non_null(decompose(&works[0]));
    for (int i = 1; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, decompose, &works[i]), 0);
    for (int i = 1; i < THREADS; i++) {
        void *ok;
        pthread_join(threads[i], &ok);
        assert_non_null(ok);
        assert_memory_equal(works[0].u, works[i].u, M * RANK * sizeof(double));
        assert_memory_equal(works[0].v, works[i].v, RANK * N * sizeof(double));
    }
    for (int i = 0; i < THREADS; i++) free(works[i].u), free(works[i].v), free(works[i].s);
    free(a);
}

static void bad_input_is_an_error(void **unused) {
    (void)unused;
    double a[4] = {1, NAN, 2, 3}, u[2], v[2], s[1];
    assert_int_equal(syl_linalg_truncated_svd(a, 2, 2, 1, 1, u, v, s), SYL_LINALG_DIVERGED);
    assert_int_equal(syl_linalg_truncated_svd(a, (int64_t)1 << 40, 2, 1, 1, u, v, s), SYL_LINALG_SIZE);
    double *large = random_matrix(300, 300, FLAT), *lu = make(300 * 8), *lv = make(8 * 300), *ls = make(8);
    large[12345] = NAN;
    assert_int_equal(syl_linalg_truncated_svd(large, 300, 300, 8, 1, lu, lv, ls), SYL_LINALG_DIVERGED);
    large[12345] = INFINITY;
    assert_int_equal(syl_linalg_truncated_svd(large, 300, 300, 8, 1, lu, lv, ls), SYL_LINALG_DIVERGED);
    free(large), free(lu), free(lv), free(ls);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(range_finder_finds_what_the_whole_does),
        cmocka_unit_test(neighbours_refine),
        cmocka_unit_test(whole_rank_leaves_nothing),
        cmocka_unit_test(threads_change_nothing),
        cmocka_unit_test(bad_input_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
