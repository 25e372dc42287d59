/* Hadamard matrices and transforms against their definitions. */
#include <math.h>
#include "base/hadamard.h"
#include "base/numeric.h"
#include "base/threads.h"
#include "base_testing.h"

/* The orders the constructions give, from the theorems: a sieve of prime powers, then closure under products.
 */
static void reachable_orders(bool reachable[257]) {
    bool power[257] = {0};
    for (int p = 2; p <= 256; p++) {
        bool prime = true;
        for (int d = 2; d < p; d++) prime = prime && p % d;
        if (prime)
            for (int q = p; q <= 256; q *= p) power[q] = true;
    }
    memset(reachable, 0, 257);
    reachable[1] = reachable[2] = true;
    for (int q = 3; q <= 256; q++) {
        if (power[q] && q % 4 == 3 && q + 1 <= 256) reachable[q + 1] = true;
        if (power[q] && q % 4 == 1 && 2 * (q + 1) <= 256) reachable[2 * (q + 1)] = true;
    }
    for (int a = 2; a <= 256; a++)
        for (int b = 2; a * b <= 256; b++)
            if (reachable[a] && reachable[b]) reachable[a * b] = true; /* ascending a: complete in one pass */
}

static void test_exists(void **state) {
    (void)state;
    static const int missing[] = {92, 116, 156, 172, 184, 188, 232, 236};
    bool reachable[257];
    reachable_orders(reachable);
    size_t n_missing = 0;
    for (int n = 1; n <= 256; n++) {
        if (syl_hadamard_exists(n) != reachable[n]) fail_msg("order %d", n);
        if (n % 4 == 0 && !reachable[n]) assert_int_equal(n, missing[n_missing++]);
        if (n % 4 && n > 2) assert_false(syl_hadamard_exists(n));
        /* What the factor search relies on: an order 8 * odd comes with 4 * odd. */
        if (n % 8 == 0 && n / 8 % 2 && n > 8 && syl_hadamard_exists(n))
            assert_true(syl_hadamard_exists(n / 2));
    }
    assert_int_equal(n_missing, sizeof missing / sizeof *missing);
    assert_false(syl_hadamard_exists(0));
    assert_false(syl_hadamard_exists(-4));
    assert_false(syl_hadamard_exists(512));
}

static void test_orthogonal(void **state) {
    (void)state;
    static int8_t h[256 * 256];
    for (int n = 1; n <= 256; n++) {
        assert_int_equal(syl_hadamard_matrix(n, h), syl_hadamard_exists(n));
        if (!syl_hadamard_exists(n)) continue;
        for (int i = 0; i < n * n; i++) assert_true(h[i] == 1 || h[i] == -1);
        for (int i = 0; i < n; i++)
            for (int j = 0; j <= i; j++) {
                int dot = 0;
                for (int k = 0; k < n; k++) dot += h[i * n + k] * h[j * n + k];
                if (dot != (i == j ? n : 0))
                    fail_msg("order %d: rows %d and %d have product %d", n, i, j, dot);
            }
    }
}

static void test_sylvester(void **state) {
    (void)state;
    static int8_t h[256 * 256];
    for (int n = 1; n <= 256; n *= 2) {
        assert_true(syl_hadamard_matrix(n, h));
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++) {
                int parity = 0;
                for (int both = i & j; both; both >>= 1) parity ^= both & 1;
                assert_int_equal(h[i * n + j], parity ? -1 : 1);
            }
    }
}

static void test_factor(void **state) {
    (void)state;
    static const struct {
        int64_t n, factors[8];
        int count;
    } cases[] = {
        {1, {1}, 1},
        {2, {2}, 1},
        {64, {64}, 1},
        {65536, {65536}, 1},
        {12, {12}, 1},
        {24, {12, 2}, 2},
        {576, {36, 16}, 2},
        {1536, {12, 128}, 2},
        {14336, {28, 512}, 2},
        {29568, {12, 28, 44, 2}, 4},
        {2304, {36, 64}, 2},
        {960, {60, 16}, 2},
        {8960, {20, 28, 16}, 3},
        {9, {0}, 0},
        {6, {0}, 0},
        {13696, {0}, 0},
        {92, {0}, 0},
        {0, {0}, 0},
        {-8, {0}, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t factors[SYL_HADAMARD_MAX_FACTORS];
        int count = syl_hadamard_factor(cases[i].n, factors);
        if (count != cases[i].count) fail_msg("%lld: %d factors", (long long)cases[i].n, count);
        for (int k = 0; k < count; k++) assert_int_equal(factors[k], cases[i].factors[k]);
    }
}

/* Over a range: what is returned is valid; what is not found has no factorisation, by a search over products
 * of any orders. */
static void test_factor_complete(void **state) {
    (void)state;
    enum { limit = 4096 };
    static bool product[limit + 1];
    product[1] = true;
    for (int n = 2; n <= limit; n++) {
        for (int order = 2; order <= 256 && !product[n]; order++)
            product[n] = n % order == 0 && syl_hadamard_exists(order) && product[n / order];
        int64_t factors[SYL_HADAMARD_MAX_FACTORS], block = 0;
        int count = syl_hadamard_factor(n, factors);
        assert_int_equal(count > 0, product[n]);
        if (count) {
            assert_true(syl_hadamard_valid(n, factors, count, &block));
            assert_int_equal(block, n);
        }
        int64_t largest = 1;
        for (int d = 1; d <= n; d++)
            if (n % d == 0 && product[d]) largest = d;
        assert_int_equal(syl_hadamard_block(n), largest);
    }
    assert_int_equal(syl_hadamard_block(13696), 128);
    assert_int_equal(syl_hadamard_block(9), 1);
    assert_int_equal(syl_hadamard_block(INT64_C(1) << 40), INT64_C(1) << 40);
}

static void test_valid(void **state) {
    (void)state;
    int64_t block = -1;
    assert_true(syl_hadamard_valid(13696, (int64_t[]){128}, 1, &block));
    assert_int_equal(block, 128);
    assert_true(syl_hadamard_valid(96, (int64_t[]){24, 2}, 2, &block));
    assert_int_equal(block, 48);
    assert_false(syl_hadamard_valid(576, (int64_t[]){36, 32}, 2, &block));
    assert_false(syl_hadamard_valid(92, (int64_t[]){92}, 1, &block));
    assert_false(syl_hadamard_valid(18, (int64_t[]){9, 2}, 2, &block));
    assert_false(syl_hadamard_valid(16, (int64_t[]){-4, -4}, 2, &block));
    assert_false(syl_hadamard_valid(16, (int64_t[]){0}, 1, &block));
    assert_false(syl_hadamard_valid(16, (int64_t[]){16}, 0, &block));
    assert_false(syl_hadamard_valid(0, (int64_t[]){2}, 1, &block));
    assert_false(syl_hadamard_valid(16, (int64_t[]){INT64_C(1) << 62, 4}, 2, &block));
    assert_false(syl_hadamard_valid(1 << 20, (int64_t[]){INT64_C(0x100000004)}, 1, &block));
    assert_int_equal(block, 48);
}

/* One entry of the Kronecker product, from the factors' matrices. */
static int entry(int8_t *const *h, const int64_t *factors, int n_factors, int64_t i, int64_t j) {
    int sign = 1;
    for (int k = n_factors - 1; k >= 0; k--) {
        sign *= h[k][i % factors[k] * factors[k] + j % factors[k]];
        i /= factors[k];
        j /= factors[k];
    }
    return sign;
}

static void check_apply(int64_t n, const int64_t *factors, int n_factors) {
    int8_t *h[SYL_HADAMARD_MAX_FACTORS];
    int64_t block = 0;
    assert_true(syl_hadamard_valid(n, factors, n_factors, &block));
    for (int k = 0; k < n_factors; k++) {
        h[k] = malloc((size_t)(factors[k] * factors[k]));
        assert_true(syl_hadamard_matrix((int)factors[k], h[k]));
    }
    double *x = malloc((size_t)n * 4 * sizeof *x), *y = x + n, *expected = y + n, *work = expected + n;
    float *single = malloc((size_t)n * 2 * sizeof *single), *single_work = single + n;
    for (int64_t i = 0; i < n; i++) x[i] = (double)(float)sin((double)(i * i % 1009));
    for (int transpose = 0; transpose < 2; transpose++) {
        for (int64_t at = 0; at < n; at += block)
            for (int64_t j = 0; j < block; j++) {
                double sum = 0;
                for (int64_t i = 0; i < block; i++)
                    sum += x[at + i] * (transpose ? entry(h, factors, n_factors, j, i)
                                                  : entry(h, factors, n_factors, i, j));
                expected[at + j] = sum / sqrt((double)block);
            }
        memcpy(y, x, (size_t)n * sizeof *y);
        syl_hadamard_apply_f64(y, n, factors, n_factors, transpose, work);
        for (int64_t i = 0; i < n; i++) single[i] = (float)x[i];
        syl_hadamard_apply_f32(single, n, factors, n_factors, transpose, single_work);
        for (int64_t i = 0; i < n; i++) {
            if (fabs(y[i] - expected[i]) > 1e-13)
                fail_msg("n %lld, element %lld: %g, expected %g", (long long)n, (long long)i, y[i],
                         expected[i]);
            assert_true(fabs((double)single[i] - expected[i]) < 1e-5);
        }
        syl_hadamard_apply_f64(y, n, factors, n_factors, !transpose, work);
        for (int64_t i = 0; i < n; i++) assert_true(fabs(y[i] - x[i]) < 1e-13);
    }
    for (int k = 0; k < n_factors; k++) free(h[k]);
    free(x);
    free(single);
}

static void test_apply(void **state) {
    (void)state;
    static const int64_t sizes[] = {1, 2, 4, 12, 20, 36, 64, 76, 100, 244, 256, 576, 720, 1536, 336};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int64_t factors[SYL_HADAMARD_MAX_FACTORS];
        int count = syl_hadamard_factor(sizes[i], factors);
        assert_true(count > 0);
        check_apply(sizes[i], factors, count);
    }
    check_apply(28 * 12 * 2, (int64_t[]){28, 12}, 2); /* block-diagonal, no butterfly */
    check_apply(3 * 16 * 12, (int64_t[]){16, 12}, 2); /* power of two slowest */
    check_apply(107 * 16, (int64_t[]){16}, 1);        /* block-diagonal where n has no factorisation */
    check_apply(2 * 12 * 2 * 20, (int64_t[]){2, 12, 2, 20}, 4);
    check_apply(248, (int64_t[]){248}, 1);
}

/* Butterflies beyond the order of any explicit matrix: against the definition by parity of i & j. */
static void test_large_butterfly(void **state) {
    (void)state;
    enum { n = 1024 };
    static double x[n], y[n], work[n];
    for (int i = 0; i < n; i++) x[i] = y[i] = syl_random_sign(3, (uint64_t)i) * (1 + i % 7);
    syl_hadamard_apply_f64(y, n, (int64_t[]){n}, 1, false, work);
    for (int j = 0; j < n; j++) {
        double sum = 0;
        for (int i = 0; i < n; i++) sum += __builtin_parity((unsigned)(i & j)) ? -x[i] : x[i];
        assert_true(y[j] == sum / 32);
    }
}

/* Orders used first from several threads at once: their matrices are made once, and no thread sees a
 * half-made one. */
static void apply_rows(void *user, int64_t begin, int64_t end, int thread) {
    double(*rows)[140 * 2] = user, work[140 * 2];
    (void)thread;
    for (int64_t i = begin; i < end; i++)
        syl_hadamard_apply_f64(rows[i], 140 * 2, (int64_t[]){140, 2}, 2, false, work);
}

static void test_threads(void **state) {
    (void)state;
    static double rows[32][140 * 2];
    for (int i = 0; i < 32; i++)
        for (int j = 0; j < 140 * 2; j++) rows[i][j] = j % 11;
    syl_pool *pool = syl_pool_create(4);
    assert_non_null(pool);
    syl_pool_for(pool, 32, 1, apply_rows, rows);
    syl_pool_destroy(pool);
    for (int i = 1; i < 32; i++) assert_memory_equal(rows[i], rows[0], sizeof rows[0]);
    check_apply(140 * 2, (int64_t[]){140, 2}, 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exists),          cmocka_unit_test(test_orthogonal),
        cmocka_unit_test(test_sylvester),       cmocka_unit_test(test_factor),
        cmocka_unit_test(test_factor_complete), cmocka_unit_test(test_valid),
        cmocka_unit_test(test_apply),           cmocka_unit_test(test_large_butterfly),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
