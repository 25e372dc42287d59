/* The types of GGUF tensor data, and decoding those that are read. Block layouts as in ggml's reference
 * (ggml-common.h): Q4_1 is f16 d, f16 m, 16 bytes of nibbles (low ones first): d * q + m; Q8_0 is f16 d, 32
 * int8: d * q. Every result is exact in float64. */
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

static void decode_q4_1(const unsigned char *data, int64_t begin, int64_t end, double *out) {
    for (int64_t i = begin; i < end;) {
        const unsigned char *block = data + i / block_elements * q4_1_bytes;
        double d = syl_f16_to_f32(u16_at(block)), m = syl_f16_to_f32(u16_at(block + 2));
        int k = (int)(i % block_elements);
        for (; k < block_elements && i < end; k++, i++) {
            int q = k < 16 ? block[4 + k] & 15 : block[4 + k - 16] >> 4;
            *out++ = d * q + m;
        }
    }
}

static void decode_q8_0(const unsigned char *data, int64_t begin, int64_t end, double *out) {
    for (int64_t i = begin; i < end;) {
        const unsigned char *block = data + i / block_elements * q8_0_bytes;
        double d = syl_f16_to_f32(u16_at(block));
        int k = (int)(i % block_elements);
        for (; k < block_elements && i < end; k++, i++) *out++ = d * (int8_t)block[2 + k];
    }
}

static const syl_gguf_format formats[] = {
    {0, "F32", 1, 4, decode_f32},
    {1, "F16", 1, 2, decode_f16},
    {30, "BF16", 1, 2, decode_bf16},
    {28, "F64", 1, 8, decode_f64},
    {3, "Q4_1", block_elements, q4_1_bytes, decode_q4_1},
    {8, "Q8_0", block_elements, q8_0_bytes, decode_q8_0},
    {2, "Q4_0", 32, 18, NULL},
    {6, "Q5_0", 32, 22, NULL},
    {7, "Q5_1", 32, 24, NULL},
    {9, "Q8_1", 32, 40, NULL},
    {10, "Q2_K", 256, 84, NULL},
    {11, "Q3_K", 256, 110, NULL},
    {12, "Q4_K", 256, 144, NULL},
    {13, "Q5_K", 256, 176, NULL},
    {14, "Q6_K", 256, 210, NULL},
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
