/* Number formats against slow, independent definitions. */
#include <math.h>
#include "base/numeric.h"
#include "base_testing.h"

typedef struct format {
    int mantissa, bias;
    uint16_t infinity;
    uint16_t (*from_f32)(float);
    uint16_t (*from_f64)(double);
    float (*to_f32)(uint16_t);
} format;

static float bf16_to_f32(uint16_t h) {
    return syl_bf16_to_f32(h);
}
static const format f16 = {10, 15, 0x7c00, syl_f16_from_f32, syl_f16_from_f64, syl_f16_to_f32};
static const format bf16 = {7, 127, 0x7f80, syl_bf16_from_f32, syl_bf16_from_f64, bf16_to_f32};

/* The value of a pattern's magnitude, by definition; the infinity pattern counts as the next power of two, as
 * rounding does. */
static double value_of(const format *f, uint16_t magnitude) {
    int exponent = magnitude >> f->mantissa, fraction = magnitude & ((1 << f->mantissa) - 1);
    if (exponent == 0) return ldexp(fraction, 1 - f->bias - f->mantissa);
    return ldexp((1 << f->mantissa) + fraction, exponent - f->bias - f->mantissa);
}

/* Nearest pattern by bisection over values, ties to even: exact, since differences of neighbours in double
 * are. */
static uint16_t slow_round(const format *f, double d) {
    uint16_t sign = signbit(d) ? 0x8000 : 0;
    d = fabs(d);
    if (d >= value_of(f, f->infinity)) return sign | f->infinity;
    uint16_t low = 0, high = f->infinity; /* value(low) <= d < value(high) */
    while (high - low > 1) {
        uint16_t middle = (uint16_t)((low + high) / 2);
        if (value_of(f, middle) <= d)
            low = middle;
        else
            high = middle;
    }
    double below = value_of(f, low), middle = below + (value_of(f, high) - below) / 2;
    if (d != middle) return sign | (d < middle ? low : high);
    return sign | (low % 2 ? high : low);
}

static void check(const format *f, float x) {
    uint16_t expected = slow_round(f, (double)x);
    if (f->from_f32(x) != expected || f->from_f64((double)x) != expected)
        fail_msg("%a: expected %04x, found %04x from f32, %04x from f64", (double)x, expected, f->from_f32(x),
                 f->from_f64((double)x));
}

static void round_trip(const format *f) {
    for (int i = 0; i < 65536; i++) {
        uint16_t h = (uint16_t)i, magnitude = h & 0x7fff;
        float x = f->to_f32(h);
        assert_int_equal(signbit(x) != 0, h >> 15);
        if (magnitude > f->infinity) {
            assert_true(isnan(x));
            assert_int_equal(f->from_f32(x), h | 1 << (f->mantissa - 1));
            assert_int_equal(f->from_f64((double)x), h | 1 << (f->mantissa - 1));
            continue;
        }
        if (magnitude == f->infinity)
            assert_true(isinf(x));
        else
            assert_true(fabs((double)x) == value_of(f, magnitude));
        assert_int_equal(f->from_f32(x), h);
        assert_int_equal(f->from_f64((double)x), h);
    }
}

static void test_round_trip(void **state) {
    (void)state;
    round_trip(&f16);
    round_trip(&bf16);
}

/* Every value, every midpoint, and the binary32 neighbours of both. */
static void neighbours(const format *f) {
    for (uint16_t h = 0; h < f->infinity; h++) {
        double a = value_of(f, h), middle = a + (value_of(f, (uint16_t)(h + 1)) - a) / 2;
        float points[] = {(float)a, (float)middle};
        for (int i = 0; i < 2; i++)
            for (int sign = 0; sign < 2; sign++) {
                float x = sign ? -points[i] : points[i];
                check(f, x);
                check(f, nextafterf(x, INFINITY));
                check(f, nextafterf(x, -INFINITY));
            }
        assert_int_equal(f->from_f64(nextafter(middle, 0)), slow_round(f, nextafter(middle, 0)));
        assert_int_equal(f->from_f64(nextafter(middle, INFINITY)),
                         slow_round(f, nextafter(middle, INFINITY)));
    }
}

static void test_neighbours(void **state) {
    (void)state;
    neighbours(&f16);
    neighbours(&bf16);
}

static void test_sweep(void **state) {
    (void)state;
    for (uint64_t u = 0; u < UINT64_C(1) << 32; u += 8191) {
        uint32_t bits = (uint32_t)u;
        float x;
        memcpy(&x, &bits, sizeof x);
        if (isnan(x)) continue;
        check(&f16, x);
        check(&bf16, x);
    }
}

static void test_extremes(void **state) {
    (void)state;
    static const double values[] = {0x1p1023,
                                    0x1.fffffffffffffp1023,
                                    0x1p-1022,
                                    0x1p-1074,
                                    65504,
                                    65519.99,
                                    65520,
                                    0x1p-25,
                                    0x1.0000000000001p-25,
                                    0x1p-134,
                                    0x1.0000000000001p-134};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        for (int sign = -1; sign <= 1; sign += 2) {
            assert_int_equal(syl_f16_from_f64(sign * values[i]), slow_round(&f16, sign * values[i]));
            assert_int_equal(syl_bf16_from_f64(sign * values[i]), slow_round(&bf16, sign * values[i]));
        }
    assert_int_equal(syl_f16_from_f64(-INFINITY), 0xfc00);
    assert_int_equal(syl_bf16_from_f64(INFINITY), 0x7f80);
    assert_true(isnan(syl_bf16_to_f32(syl_bf16_from_f64((double)NAN))));
}

/* Just above a midpoint by less than binary32 sees: through binary32 it would become the tie, and go down to
 * even. */
static void test_single_rounding(void **state) {
    (void)state;
    const double d = 1 + 0x1p-8 + 0x1p-40;
    assert_int_equal(syl_bf16_from_f64(d), 0x3f81);
    assert_int_equal(syl_bf16_from_f32((float)d), 0x3f80);
    const double e = 1 + 0x1p-11 + 0x1p-40;
    assert_int_equal(syl_f16_from_f64(e), 0x3c01);
    assert_int_equal(syl_f16_from_f32((float)e), 0x3c00);
}

static void test_int8(void **state) {
    (void)state;
    for (int i = -600; i <= 600; i++) { /* quarters: every tie, and both sides of it */
        double x = i / 4.0, floor_x = floor(x), part = x - floor_x;
        double expected = part < 0.5 || (part == 0.5 && fmod(floor_x, 2) == 0) ? floor_x : floor_x + 1;
        if (expected > 127) expected = 127;
        if (expected < -127) expected = -127;
        assert_int_equal(syl_int8_from_f64(x), (int)expected);
        assert_int_equal(syl_int8_from_f32((float)x), (int)expected);
    }
    assert_int_equal(syl_int8_from_f64((double)NAN), 0);
    assert_int_equal(syl_int8_from_f32(NAN), 0);
    assert_int_equal(syl_int8_from_f32(INFINITY), 127);
    assert_int_equal(syl_int8_from_f64(-1e300), -127);
    assert_int_equal(syl_int8_from_f64(0.49999999999999994), 0);
    assert_int_equal(syl_int8_from_f32(126.5f), 126);
}

/* The top bit of SplitMix64's published outputs for seed 1234567: 0x599ed017fb08fc85, 0x2c73f08458540fa5,
 * 0x883ebce5a3f27c77, 0x3fbef740e9177b3f, 0xe3b8346708cb5ecd. */
static void test_random_sign(void **state) {
    (void)state;
    static const double expected[] = {1, 1, -1, 1, -1};
    for (uint64_t i = 0; i < 5; i++) assert_true(syl_random_sign(1234567, i) == expected[i]);
    double sum = 0;
    for (uint64_t i = 0; i < 1 << 16; i++) sum += syl_random_sign(7, i);
    assert_true(fabs(sum) < 4 * 256); /* four standard deviations */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),      cmocka_unit_test(test_neighbours),
        cmocka_unit_test(test_sweep),           cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_single_rounding), cmocka_unit_test(test_int8),
        cmocka_unit_test(test_random_sign),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
