/* The types of GGUF tensor data, and decoding those that are read. Block layouts as in ggml's reference
 * (ggml-common.h), in bytes in this order. Results are exact in float64, but for the
 * subtraction of K blocks, which is rounded once.
 *
 *   Q4_0  f16 d, 16 of nibbles (the low ones are elements 0 to 15): d * (q - 8)
 *   Q4_1  f16 d, f16 m, nibbles likewise: d * q + m
 *   Q5_0  f16 d, 4 of fifth bits (bit i: element i), nibbles likewise: d * (q - 16)
 *   Q5_1  f16 d, f16 m, fifth bits, nibbles: d * q + m
 *   Q8_0  f16 d, 32 int8: d * q
 *   Q4_K  f16 d, f16 m, 12 of eight pairs of 6-bit scale and minimum (below), 128 of nibbles: of each 32 the low ones
 *         are one part of 32 elements, the high ones the next; d * scale * q - m * minimum
 *   Q5_K  the same with 32 bytes of fifth bits before the nibbles: bit p of byte i is of element i of part p
 *   Q6_K  128 of nibbles, 64 of upper pairs of bits, 16 int8 scales (of 16 elements each), f16 d: d * scale * (q - 32) */
#include <stdbool.h>
#include <string.h>
#include "base/numeric.h"
#include "frontend/gguf.h"

static uint16_t u16_at(const unsigned char *p) {
    return (uint16_t)(p[0] | p[1] << 8);
}
static uint32_t u32_at(const unsigned char *p) {
    return (uint32_t)u16_at(p) | (uint32_t)u16_at(p + 2) << 16;
}

static void decode_f32(const unsigned char *data, int64_t begin, int64_t end, double *out) {
    for (int64_t i = begin; i < end; i++) {
        uint32_t bits = u32_at(data + 4 * i);
        float f;
        memcpy(&f, &bits, sizeof f);
        *out++ = f;
    }
}

static void decode_f64(const unsigned char *data, int64_t begin, int64_t end, double *out) {
    for (int64_t i = begin; i < end; i++) {
        uint64_t bits = u32_at(data + 8 * i) | (uint64_t)u32_at(data + 8 * i + 4) << 32;
        memcpy(out++, &bits, sizeof bits);
    }
}

static void decode_f16(const unsigned char *data, int64_t begin, int64_t end, double *out) {
    for (int64_t i = begin; i < end; i++) *out++ = syl_f16_to_f32(u16_at(data + 2 * i));
}

static void decode_bf16(const unsigned char *data, int64_t begin, int64_t end, double *out) {
    for (int64_t i = begin; i < end; i++) *out++ = syl_bf16_to_f32(u16_at(data + 2 * i));
}

enum { block_elements = 32, q4_1_bytes = 20, q8_0_bytes = 34 };

static void decode_q8_0(const unsigned char *data, int64_t begin, int64_t end, double *out) {
    for (int64_t i = begin; i < end;) {
        const unsigned char *block = data + i / block_elements * q8_0_bytes;
        double d = syl_f16_to_f32(u16_at(block));
        int k = (int)(i % block_elements);
        for (; k < block_elements && i < end; k++, i++) *out++ = d * (int8_t)block[2 + k];
    }
}

enum { q4_0_bytes = 18, q5_0_bytes = 22, q5_1_bytes = 24 };

static int nibble(const unsigned char *p, int k) {
    return k < 16 ? p[k] & 15 : p[k - 16] >> 4;
}

/* The formats of blocks of 32 with 4 or 5 bits: an offset is in the codes or a minimum in the block. */
static void decode_small(const unsigned char *data, int64_t begin, int64_t end, int bytes, bool minimum,
                         bool fifth, double *out) {
    for (int64_t i = begin; i < end;) {
        const unsigned char *block = data + i / block_elements * bytes, *codes = block + bytes - 16;
        double d = syl_f16_to_f32(u16_at(block)), m = minimum ? syl_f16_to_f32(u16_at(block + 2)) : 0;
        uint32_t high = fifth ? u32_at(codes - 4) : 0;
        int offset = minimum ? 0 : fifth ? 16 : 8;
        for (int k = (int)(i % block_elements); k < block_elements && i < end; k++, i++)
            *out++ = d * ((nibble(codes, k) | (int)(high >> k & 1) << 4) - offset) + m;
    }
}

static void decode_q4_0(const unsigned char *data, int64_t begin, int64_t end, double *out) {
    decode_small(data, begin, end, q4_0_bytes, false, false, out);
}

static void decode_q4_1(const unsigned char *data, int64_t begin, int64_t end, double *out) {
    decode_small(data, begin, end, q4_1_bytes, true, false, out);
}

static void decode_q5_0(const unsigned char *data, int64_t begin, int64_t end, double *out) {
    decode_small(data, begin, end, q5_0_bytes, false, true, out);
}

static void decode_q5_1(const unsigned char *data, int64_t begin, int64_t end, double *out) {
    decode_small(data, begin, end, q5_1_bytes, true, true, out);
}

enum { super_elements = 256, q4_k_bytes = 144, q5_k_bytes = 176, q6_k_bytes = 210 };

/* Scale and minimum of part p, 0 <= p < 8, of a K block: those of the first four parts are the lower six bits of
 * bytes p and p + 4; those of the others have their lower four bits in the nibbles of byte p + 4 and their upper
 * two in the spare bits of bytes p - 4 and p. */
static void part_scales(const unsigned char *p12, int p, int *scale, int *minimum) {
    *scale = p < 4 ? p12[p] & 63 : (p12[p + 4] & 15) | (p12[p - 4] >> 6) << 4;
    *minimum = p < 4 ? p12[p + 4] & 63 : p12[p + 4] >> 4 | (p12[p] >> 6) << 4;
}

static void decode_k(const unsigned char *data, int64_t begin, int64_t end, bool fifth, double *out) {
    for (int64_t i = begin; i < end; i++) {
        const unsigned char *block = data + i / super_elements * (fifth ? q5_k_bytes : q4_k_bytes);
        const unsigned char *codes = block + (fifth ? 48 : 16);
        int at = (int)(i % super_elements), p = at / 32, k = at % 32, scale, minimum;
        part_scales(block + 4, p, &scale, &minimum);
        int byte = codes[p / 2 * 32 + k], code = p % 2 ? byte >> 4 : byte & 15;
        if (fifth) code |= (block[16 + k] >> p & 1) << 4;
        double d = syl_f16_to_f32(u16_at(block)), m = syl_f16_to_f32(u16_at(block + 2));
        *out++ = d * (scale * code) - m * minimum;
    }
}

static void decode_q4_k(const unsigned char *data, int64_t begin, int64_t end, double *out) {
    decode_k(data, begin, end, false, out);
}

static void decode_q5_k(const unsigned char *data, int64_t begin, int64_t end, double *out) {
    decode_k(data, begin, end, true, out);
}

/* Two halves of 128, each four parts of 32: parts 0 and 1 are low nibbles, 2 and 3 the high ones of the same 64
 * bytes; the upper bits of the four parts share 32 bytes. */
static void decode_q6_k(const unsigned char *data, int64_t begin, int64_t end, double *out) {
    for (int64_t i = begin; i < end; i++) {
        const unsigned char *block = data + i / super_elements * q6_k_bytes;
        int at = (int)(i % super_elements), half = at / 128, p = at % 128 / 32, k = at % 32;
        int byte = block[half * 64 + p % 2 * 32 + k], low = p < 2 ? byte & 15 : byte >> 4;
        int code = low | (block[128 + half * 32 + k] >> 2 * p & 3) << 4;
        int scale = (int8_t)block[192 + at / 16];
        *out++ = (double)syl_f16_to_f32(u16_at(block + 208)) * (scale * (code - 32));
    }
}

static const syl_gguf_format formats[] = {
    {0, "F32", 1, 4, decode_f32},
    {1, "F16", 1, 2, decode_f16},
    {30, "BF16", 1, 2, decode_bf16},
    {28, "F64", 1, 8, decode_f64},
    {3, "Q4_1", block_elements, q4_1_bytes, decode_q4_1},
    {8, "Q8_0", block_elements, q8_0_bytes, decode_q8_0},
    {2, "Q4_0", block_elements, q4_0_bytes, decode_q4_0},
    {6, "Q5_0", block_elements, q5_0_bytes, decode_q5_0},
    {7, "Q5_1", block_elements, q5_1_bytes, decode_q5_1},
    {9, "Q8_1", 32, 40, NULL},
    {10, "Q2_K", 256, 84, NULL},
    {11, "Q3_K", 256, 110, NULL},
    {12, "Q4_K", super_elements, q4_k_bytes, decode_q4_k},
    {13, "Q5_K", super_elements, q5_k_bytes, decode_q5_k},
    {14, "Q6_K", super_elements, q6_k_bytes, decode_q6_k},
    {15, "Q8_K", 256, 292, NULL},
    {16, "IQ2_XXS", 256, 66, NULL},
    {17, "IQ2_XS", 256, 74, NULL},
    {18, "IQ3_XXS", 256, 98, NULL},
    {19, "IQ1_S", 256, 50, NULL},
    {20, "IQ4_NL", 32, 18, NULL},
    {21, "IQ3_S", 256, 110, NULL},
    {22, "IQ2_S", 256, 82, NULL},
    {23, "IQ4_XS", 256, 136, NULL},
    {24, "I8", 1, 1, NULL},
    {25, "I16", 1, 2, NULL},
    {26, "I32", 1, 4, NULL},
    {27, "I64", 1, 8, NULL},
    {29, "IQ1_M", 256, 56, NULL},
    {34, "TQ1_0", 256, 54, NULL},
    {35, "TQ2_0", 256, 66, NULL},
    {39, "MXFP4", 32, 17, NULL},
};

const syl_gguf_format *syl_gguf_format_of(uint32_t id) {
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (formats[i].id == id) return &formats[i];
    return NULL;
}
