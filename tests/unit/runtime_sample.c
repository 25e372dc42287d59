/* Sampling: what is kept, how often it is drawn (fixed seeds), ties, errors; and the likelihood helpers
 * against closed forms. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "runtime/sample.h"

enum { n_draws = 20000 };

/* How often each of n tokens comes up in n_draws draws. */
static void count(syl_sampling options, const float *logits, int64_t n, int *counts) {
    syl_sampler *s;
    assert_int_equal(syl_sampler_create(&options, n, NULL, &s), SYL_OK);
    memset(counts, 0, (size_t)n * sizeof *counts);
    for (int i = 0; i < n_draws; i++) {
        int32_t id = -1;
        assert_int_equal(syl_sampler_next(s, logits, NULL, &id), SYL_OK);
        assert_in_range(id, 0, n - 1);
        counts[id]++;
    }
    syl_sampler_destroy(s);
}

/* Within 4.5 standard deviations of the binomial distribution. */
static void expect_share(int got, double p) {
    double sigma = sqrt(n_draws * p * (1 - p));
    if (fabs(got - n_draws * p) > 4.5 * sigma)
        fail_msg("drawn %d times, expected %.0f +- %.0f", got, n_draws * p, sigma);
}

static void test_shares(void **state) {
    (void)state;
    const float logits[] = {logf(0.1f), logf(0.4f), logf(0.2f), -INFINITY, logf(0.3f)};
    const double p[] = {0.1, 0.4, 0.2, 0, 0.3};
    int counts[5];
    count((syl_sampling){1, 0, 1, 1}, logits, 5, counts);
    for (int i = 0; i < 5; i++) expect_share(counts[i], p[i]);

    double sum = 0;
    for (int i = 0; i < 5; i++) sum += p[i] * p[i]; /* temperature 1/2 squares */
    count((syl_sampling){0.5, 0, 1, 2}, logits, 5, counts);
    for (int i = 0; i < 5; i++) expect_share(counts[i], p[i] * p[i] / sum);

    count((syl_sampling){1, 2, 1, 3}, logits, 5, counts);
    expect_share(counts[1], 4.0 / 7);
    assert_int_equal(counts[1] + counts[4], n_draws);

    count((syl_sampling){1, 0, 0.65, 4}, logits, 5, counts); /* 0.4 + 0.3 reach 0.65 */
    expect_share(counts[1], 4.0 / 7);
    assert_int_equal(counts[1] + counts[4], n_draws);

    count((syl_sampling){1, 3, 0.5, 5}, logits, 5, counts); /* of 0.9, 4/9 are not enough and 7/9 are */
    expect_share(counts[1], 4.0 / 7);
    assert_int_equal(counts[1] + counts[4], n_draws);

    count((syl_sampling){1, 0, 1e-9, 6}, logits, 5, counts);
    assert_int_equal(counts[1], n_draws);
    count((syl_sampling){1e-300, 0, 1, 7}, logits, 5, counts);
    assert_int_equal(counts[1], n_draws);
    count((syl_sampling){1, 100, 1, 8}, logits, 5, counts); /* more than there are */
    expect_share(counts[0], 0.1);
}

static void test_ties(void **state) {
    (void)state;
    const float logits[] = {0, 3, 3, 1, 3};
    int counts[5];
    count((syl_sampling){0, 0, 1, 1}, logits, 5, counts);
    assert_int_equal(counts[1], n_draws);
    count((syl_sampling){1, 1, 1, 1}, logits, 5, counts);
    assert_int_equal(counts[1], n_draws);
    count((syl_sampling){1, 2, 1, 1}, logits, 5, counts);
    expect_share(counts[1], 0.5);
    assert_int_equal(counts[1] + counts[2], n_draws);
    assert_int_equal(syl_argmax(logits, 5), 1);
}

static void test_seeds(void **state) {
    (void)state;
    enum { n = 1000, length = 64 };
    float logits[n];
    for (int i = 0; i < n; i++) logits[i] = sinf((float)i);
    int32_t ids[3][length];
    for (int run = 0; run < 3; run++) {
        syl_sampler *s;
        assert_int_equal(syl_sampler_create(&(syl_sampling){0.8, 40, 0.95, run == 2 ? 6 : 5}, n, NULL, &s),
                         SYL_OK);
        for (int i = 0; i < length; i++)
            assert_int_equal(syl_sampler_next(s, logits, NULL, &ids[run][i]), SYL_OK);
        syl_sampler_destroy(s);
    }
    assert_memory_equal(ids[0], ids[1], sizeof ids[0]);
    assert_memory_not_equal(ids[0], ids[2], sizeof ids[0]);
}

static void test_errors(void **state) {
    (void)state;
    syl_arena arena;
    syl_arena_init(&arena);
    syl_text said = {.arena = &arena};
    syl_diag *diag = syl_diag_create(syl_diag_capture, &said);
    const syl_sampling bad[] = {{-1, 0, 1, 0}, {NAN, 0, 1, 0}, {INFINITY, 0, 1, 0}, {1, -1, 1, 0},
                                {1, 0, 0, 0},  {1, 0, 1.5, 0}, {1, 0, NAN, 0}};
    syl_sampler *s;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(syl_sampler_create(&bad[i], 3, diag, &s), SYL_USAGE);
        assert_null(s);
    }
    assert_int_equal(syl_sampler_create(&(syl_sampling){1, 0, 1, 0}, 0, diag, &s), SYL_USAGE);
    assert_non_null(strstr(said.p, "error[sample-options]: the temperature is -1"));
    const float rows[][3] = {{0, NAN, 1}, {NAN, 0, 1}, {0, 1, INFINITY}, {-INFINITY, -INFINITY, -INFINITY}};
    for (double temperature = 0; temperature < 2; temperature++) {
        assert_int_equal(syl_sampler_create(&(syl_sampling){temperature, 0, 1, 0}, 3, diag, &s), SYL_OK);
        for (size_t i = 0; i < 4; i++) {
            int32_t id;
            size_t before = syl_diag_errors(diag);
            assert_int_equal(syl_sampler_next(s, rows[i], diag, &id), SYL_INTERNAL);
            assert_int_equal(syl_diag_errors(diag), before + 1);
        }
        syl_sampler_destroy(s);
    }
    assert_non_null(strstr(said.p, "error[sample-logits]: the logit of token 1 is nan"));
    syl_diag_destroy(diag);
    syl_arena_free(&arena);
}

static void expect_close(double got, double want) {
    if (!(fabs(got - want) <= 1e-12 * (1 + fabs(want)))) fail_msg("got %.17g, expected %.17g", got, want);
}

static void test_likelihoods(void **state) {
    double lse_p, lse_q;
    (void)state;
    const float row[] = {1, 2, 3, -4}, shifted[] = {1001, 1002, 1003, 996}, flat[] = {7, 7, 7, 7};
    double sum = exp(1) + exp(2) + exp(3) + exp(-4);
    expect_close(syl_log_sum_exp(row, 4), log(sum));
    expect_close(syl_log_sum_exp(shifted, 4), log(sum) + 1000);
    expect_close(syl_nll(row, 4, 1), log(sum) - 2);
    expect_close(syl_nll(flat, 4, 3), log(4));
    double kl = 0, back = 0;
    for (int i = 0; i < 4; i++) {
        double p = exp((double)row[i]) / sum;
        kl += p * log(p * 4);
        back += 0.25 * log(0.25 / p);
    }
    expect_close(syl_kl(row, flat, 4, &lse_p, &lse_q), kl);
    expect_close(syl_kl(flat, row, 4, &lse_p, &lse_q), back);
    expect_close(lse_p, syl_log_sum_exp(flat, 4));
    expect_close(lse_q, syl_log_sum_exp(row, 4));
    assert_true(syl_kl(row, row, 4, &lse_p, &lse_q) == 0);
    expect_close(syl_kl(row, shifted, 4, &lse_p, &lse_q), 0);
    const float some[] = {0, -INFINITY, 0, -INFINITY}, none[] = {-INFINITY, -INFINITY},
                broken[] = {0, NAN, INFINITY};
    expect_close(syl_kl(some, flat, 4, &lse_p, &lse_q), log(2));
    assert_true(isinf(syl_kl(flat, some, 4, &lse_p, &lse_q)));
    assert_true(syl_log_sum_exp(none, 2) == -INFINITY);
    assert_true(isnan(syl_log_sum_exp(broken, 3)));
    assert_int_equal(syl_argmax(row, 4), 2);
    assert_int_equal(syl_argmax(none, 2), 0);
    assert_int_equal(syl_argmax(broken, 3), -1);
    assert_int_equal(syl_argmax(row, 0), -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shares), cmocka_unit_test(test_ties),        cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_errors), cmocka_unit_test(test_likelihoods),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
