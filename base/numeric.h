/* Number formats: conversion with round to nearest, ties to even, and bulk packing. Reference: IEEE 754-2019
 * §4.3.1 and §5.4.2; bfloat16 as the upper half of binary32. NaNs stay (quiet) NaNs, overflow goes to
 * infinity. */
#ifndef SYL_BASE_NUMERIC_H
#define SYL_BASE_NUMERIC_H

#include <stddef.h>
#include <stdint.h>

float syl_f16_to_f32(uint16_t h);
uint16_t syl_f16_from_f32(float f);
static inline float syl_bf16_to_f32(uint16_t h) {
    union {
        uint32_t u;
        float f;
    } bits = {(uint32_t)h << 16};
    return bits.f;
}
uint16_t syl_bf16_from_f32(float f);
/* One rounding from binary64 (not two through binary32). */
uint16_t syl_bf16_from_f64(double d);
uint16_t syl_f16_from_f64(double d);

/* round(x) to nearest even, clamped to [-127, 127]; NaN gives 0. */
int8_t syl_int8_from_f32(float x);
int8_t syl_int8_from_f64(double x);

/* +1.0 or -1.0: the sign of element `index` of the random sequence `seed` (SplitMix64 of seed and index, top
 * bit). Both targets and the references use this one function; it is part of the artifact format. */
double syl_random_sign(uint64_t seed, uint64_t index);

#endif
