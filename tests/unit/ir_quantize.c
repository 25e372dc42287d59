/* The 4-bit quantizers of the reference against their definition worked out slowly, and what must hold for any of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "unit/ir_random.h"

enum { ROWS = 6, COLS = 256, MAX_GROUPS = COLS / 64 };

typedef struct quantized {
    int8_t codes[ROWS * COLS];
    float scales[ROWS * MAX_GROUPS];
    uint8_t group_scale[ROWS * MAX_GROUPS], group_zero[ROWS * MAX_GROUPS];
} quantized;

static void quantize(const double *x, syl_dtype scheme, bool mse, quantized *out) {
    memset(out, 0, sizeof *out);
    syl_ref_codes codes = {out->codes, out->scales, out->group_scale, out->group_zero};
    assert_true(syl_ref_quantize(x, ROWS, COLS, scheme, mse, &codes));
}

static double value(const quantized *q, syl_dtype scheme, int i) {
    const syl_dtype_info *info = &syl_dtypes[scheme];
    int row = i / COLS, group = info->group ? i / info->group : row;
    double scale = q->scales[info->row_scale ? row : group];
    return info->two_level
               ? scale * syl_ref_inner_code(q->codes[i], q->group_scale[group], q->group_zero[group])
               : scale * q->codes[i];
}

/* Heavy tails; row 2 is zero, row 3 has one sign, row 4 is flat but for one element. */
static void make_weights(double *x) {
    for (int i = 0; i < ROWS * COLS; i++) {
        double u = (double)(ir_random_mix((uint64_t)i) >> 11) / 9007199254740992.0 - 0.5;
        int row = i / COLS;
        x[i] = row == 2   ? 0
               : row == 3 ? fabs(u) + 0.1
               : row == 4 ? (i % COLS == 7 ? 3 : 0.02 * u)
                          : u * u * u + 0.1 * u;
    }
}

static const syl_dtype symmetric[] = {SYL_int4_channel, SYL_int4_group64, SYL_int4_group128},
                       two_level[] = {SYL_int4_two_level_g64, SYL_int4_two_level_g128};

/* The least squared error of n elements over the candidates, and that of what was found. */
static void check_symmetric_part(const double *x, const int8_t *codes, float scale, int n, bool mse) {
    double absmax = 0, least = INFINITY, found = 0;
    for (int k = 0; k < n; k++) absmax = fmax(absmax, fabs(x[k]));
    for (int i = 0; i <= (mse ? 40 : 0) && absmax > 0; i++) {
        double candidate = (float)(absmax * (100 - i) / 100 / 7), error = 0;
        for (int k = 0; k < n; k++)
            error += pow(x[k] - candidate * fmax(-8, fmin(7, rint(x[k] / candidate))), 2);
        least = fmin(least, error);
    }
    for (int k = 0; k < n; k++) {
        found += pow(x[k] - (double)scale * codes[k], 2);
        assert_int_equal(codes[k], scale > 0 ? (int)fmax(-8, fmin(7, rint(x[k] / scale))) : 0);
    }
    if (absmax > 0)
        assert_true(found <= least * (1 + 1e-4));
    else
        assert_true(scale == 0);
    if (!mse) assert_true(scale == (float)(absmax / 7));
}

static void symmetric_scales_are_the_best(void **state) {
    (void)state;
    static double x[ROWS * COLS];
    static quantized q;
    make_weights(x);
    for (size_t s = 0; s < sizeof symmetric / sizeof *symmetric; s++)
        for (int mse = 0; mse < 2; mse++) {
            quantize(x, symmetric[s], mse, &q);
            int size = syl_dtypes[symmetric[s]].group ? syl_dtypes[symmetric[s]].group : COLS;
            for (int g = 0; g < ROWS * COLS / size; g++)
                check_symmetric_part(x + g * size, q.codes + g * size, q.scales[g], size, mse);
        }
}

/* Codes and squared error of a group for the clip `part`. */
static double slow_group(const double *x, int n, double scale, double part, int *s, int *z, int *codes) {
    double low = INFINITY, high = -INFINITY, error = 0;
    for (int k = 0; k < n; k++) {
        double w8 = fmax(-119, fmin(119, rint((float)x[k] / scale)));
        low = fmin(low, w8), high = fmax(high, w8);
    }
    *s = (int)fmax(1, rint((high - low) * part / 15));
    *z = (int)fmax(0, fmin(15, rint(-low * part / *s)));
    for (int k = 0; k < n; k++) {
        codes[k] = (int)fmax(0, fmin(15, rint(x[k] / scale / *s + *z)));
        error += pow(x[k] - scale * fmax(-127, fmin(127, (codes[k] - *z) * *s)), 2);
    }
    return error;
}

static void two_level_groups_are_the_best(void **state) {
    (void)state;
    static double x[ROWS * COLS];
    static quantized q;
    make_weights(x);
    int clipped = 0;
    for (size_t t = 0; t < sizeof two_level / sizeof *two_level; t++)
        for (int mse = 0; mse < 2; mse++) {
            int size = syl_dtypes[two_level[t]].group;
            quantize(x, two_level[t], mse, &q);
            for (int g = 0; g < ROWS * COLS / size; g++) {
                const double *group = x + g * size;
                int row = g * size / COLS, codes[COLS], s, z;
                double absmax = 0, least = INFINITY, found = 0;
                for (int k = 0; k < COLS; k++) absmax = fmax(absmax, fabs(x[row * COLS + k]));
                assert_true(q.scales[row] == (float)(absmax / 119));
                if (absmax == 0) {
                    assert_true(q.group_scale[g] == 1 && q.group_zero[g] == 0 && q.codes[g * size] == 0);
                    continue;
                }
                double full = slow_group(group, size, q.scales[row], 1, &s, &z, codes);
                for (int i = 0; i < (mse ? 7 : 1); i++)
                    least = fmin(
                        least, slow_group(group, size, q.scales[row], (100 - 5 * i) / 100.0, &s, &z, codes));
                for (int k = 0; k < size; k++) {
                    found += pow(group[k] - value(&q, two_level[t], g * size + k), 2);
                    int code = (int)fmax(
                        0, fmin(15, rint(group[k] / q.scales[row] / q.group_scale[g] + q.group_zero[g])));
                    assert_int_equal(q.codes[g * size + k], code);
                }
                assert_true(found <= least * (1 + 1e-4));
                assert_true(q.group_scale[g] >= 1 && q.group_scale[g] <= 16 && q.group_zero[g] <= 15);
                clipped += found < full * (1 - 1e-6);
            }
        }
    assert_true(clipped > 0);
}

/* Without clipping, symmetric codes lose at most half a step, two-level ones half a step of each level and what a zero point outside
 * of 0..15 costs a group of one sign; the clamp is not needed by what the quantizer makes. */
static void errors_are_bounded(void **state) {
    (void)state;
    static double x[ROWS * COLS];
    static quantized q;
    make_weights(x);
    for (size_t s = 0; s < sizeof symmetric / sizeof *symmetric; s++) {
        quantize(x, symmetric[s], false, &q);
        for (int i = 0; i < ROWS * COLS; i++) {
            int part = symmetric[s] == SYL_int4_channel ? i / COLS : i / syl_dtypes[symmetric[s]].group;
            assert_true(fabs(x[i] - value(&q, symmetric[s], i)) <= 0.5 * q.scales[part] * (1 + 1e-6));
        }
    }
    for (size_t t = 0; t < sizeof two_level / sizeof *two_level; t++) {
        quantize(x, two_level[t], false, &q);
        for (int i = 0; i < ROWS * COLS; i++) {
            int g = i / syl_dtypes[two_level[t]].group,
                inner = (q.codes[i] - q.group_zero[g]) * q.group_scale[g];
            assert_true(inner >= -127 && inner <= 127);
            if (i / COLS != 3)
                assert_true(fabs(x[i] - value(&q, two_level[t], i)) <=
                            (q.group_scale[g] * 1.0 + 8) * q.scales[i / COLS]);
        }
    }
}

/* What stands on the grid stays: the codes' own values give the codes again. */
static void quantizing_twice_is_quantizing_once(void **state) {
    (void)state;
    static double x[ROWS * COLS], y[ROWS * COLS];
    static quantized q, again;
    make_weights(x);
    for (size_t s = 0; s < sizeof symmetric / sizeof *symmetric; s++) {
        quantize(x, symmetric[s], false, &q);
        for (int i = 0; i < ROWS * COLS; i++) y[i] = value(&q, symmetric[s], i);
        quantize(y, symmetric[s], false, &again);
        assert_memory_equal(q.codes, again.codes, sizeof q.codes);
    }
}

/* What is no number is no reason to fail, nor to leave the range of codes. */
static void numbers_that_are_none(void **state) {
    (void)state;
    static double x[ROWS * COLS];
    static quantized q;
    make_weights(x);
    x[0] = NAN, x[COLS] = INFINITY, x[2 * COLS] = 1e-320, x[3 * COLS] = -1e300;
    for (size_t s = 0; s < sizeof symmetric / sizeof *symmetric; s++) {
        quantize(x, symmetric[s], true, &q);
        for (int i = 0; i < ROWS * COLS; i++) assert_in_range(q.codes[i] + 8, 0, 15);
        assert_int_equal(q.codes[0], 0);
    }
    for (size_t t = 0; t < sizeof two_level / sizeof *two_level; t++) {
        quantize(x, two_level[t], true, &q);
        for (int i = 0; i < ROWS * COLS; i++) assert_in_range(q.codes[i], 0, 15);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(symmetric_scales_are_the_best),
        cmocka_unit_test(two_level_groups_are_the_best),
        cmocka_unit_test(errors_are_bounded),
        cmocka_unit_test(quantizing_twice_is_quantizing_once),
        cmocka_unit_test(numbers_that_are_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
