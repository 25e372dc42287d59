/* Number formats. Every narrowing goes through one rounding of the binary64 pattern: a binary32 widens to
 * binary64 exactly, so the f32 entry points inherit its correctness. Integer arithmetic only: no dependence
 * on F16C or on the rounding mode (except the int8 ones, which use rint under the default mode). */
#include "base/numeric.h"
#include <math.h>
#include <string.h>

/* v / 2^shift to nearest, ties to even; 1 <= shift <= 63, v < 2^62. */
static uint64_t shift_round(uint64_t v, int shift) {
    return (v + (UINT64_C(1) << (shift - 1)) - 1 + (v >> shift & 1)) >> shift;
}

/* Rounds to a 16-bit IEEE format with `mantissa` stored significand bits (10: binary16, 7: bfloat16). */
static uint16_t round_to_16(double d, int mantissa) {
    const int bias = (1 << (14 - mantissa)) - 1, drop = 52 - mantissa;
    const uint16_t infinity = (uint16_t)(0x7fff >> mantissa << mantissa);
    uint64_t bits, fraction_mask = (UINT64_C(1) << 52) - 1;
    memcpy(&bits, &d, sizeof bits);
    const uint16_t sign = (uint16_t)(bits >> 48 & 0x8000);
    bits &= ~(UINT64_C(1) << 63);
    const int exponent = (int)(bits >> 52) - 1023 + bias; /* in the target's bias */
    const uint64_t fraction = bits & fraction_mask;

    if (bits > UINT64_C(0x7ff) << 52) /* NaN: keep the top of the payload, set the quiet bit */
        return (uint16_t)(sign | infinity | 1 << (mantissa - 1) | (int)(fraction >> drop));
    uint64_t rounded;
    if (exponent >= 1) {
        /* A carry out of the fraction moves into the exponent, which is what rounding up to the next binade
         * means. */
        if (exponent > 2 * bias + 1) return (uint16_t)(sign | infinity);
        rounded = shift_round((uint64_t)exponent << 52 | fraction, drop);
    } else {
        /* Subnormal: the result counts units of the smallest subnormal. Below half a unit everything is zero.
         */
        int shift = drop + 1 - exponent;
        rounded = shift >= 54 ? 0 : shift_round(fraction | UINT64_C(1) << 52, shift);
    }
    return (uint16_t)(sign | (rounded > infinity ? infinity : rounded));
}

uint16_t syl_f16_from_f64(double d) {
    return round_to_16(d, 10);
}
uint16_t syl_bf16_from_f64(double d) {
    return round_to_16(d, 7);
}
uint16_t syl_f16_from_f32(float f) {
    return round_to_16((double)f, 10);
}

/* bfloat16 is the upper half of binary32, so this frequent case is a rounding of the pattern itself. */
uint16_t syl_bf16_from_f32(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float syl_f16_to_f32(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, magnitude = h & 0x7fff;
    if (magnitude < 0x0400) { /* zero and subnormals: a count of 2^-24, exact in binary32 */
        float value = (float)magnitude * 0x1p-24f;
        return sign ? -value : value;
    }
    uint32_t bits = magnitude << 13;
    if (magnitude < 0x7c00)
        bits += (127 - 15) << 23;
    else
        bits |= 0x7f800000 | (magnitude > 0x7c00 ? 0x00400000 : 0);
    bits |= sign;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

int8_t syl_int8_from_f64(double x) {
    if (isnan(x)) return 0;
    if (x >= 127) return 127;
    if (x <= -127) return -127;
    return (int8_t)rint(x);
}

int8_t syl_int8_from_f32(float x) {
    if (isnan(x)) return 0;
    if (x >= 127) return 127;
    if (x <= -127) return -127;
    return (int8_t)rintf(x);
}

/* Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014): output index of SplitMix64
 * from `seed`. */
double syl_random_sign(uint64_t seed, uint64_t index) {
    uint64_t z = seed + (index + 1) * UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    z ^= z >> 31;
    return z >> 63 ? -1.0 : 1.0;
}
