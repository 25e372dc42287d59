// Operand A of mma: 16 rows of weights from fragment order (pack.c says how a unit of 64 rows lies in memory). One struct a coding:
//     Raw             what a lane reads of a chunk of a block of 16 rows
//     load            from global or shared memory
//     fragment        the four registers of mma number m of the chunk
//     finish          what the codes' encoding leaves to be done to a sum
#include "ptx.cuh"

template <bool SHARED> __device__ __forceinline__ uint4 load_piece(const uint8_t *p) {
    if (SHARED) return *(const uint4 *)p;
    return load_once(p);
}

// INT8, or bf16: registers as they lie in memory.
template <int MMA_COUNT, int MMA_K> struct PlainWeights {
    static constexpr int MMAS = MMA_COUNT, DATA = 2048 * MMA_COUNT, CHUNK = DATA, GROUP_MMAS = 0;
    struct Raw {
        uint4 piece[MMAS];
    };
    template <bool SHARED> static __device__ __forceinline__ void load(Raw &raw, const uint8_t *unit, int block, int lane) {
#pragma unroll
        for (int m = 0; m < MMAS; m++) raw.piece[m] = load_piece<SHARED>(unit + (block * MMAS + m) * 512 + lane * 16);
    }
    static __device__ __forceinline__ void fragment(uint32_t (&a)[4], const Raw &raw, int m) {
        a[0] = raw.piece[m].x, a[1] = raw.piece[m].y, a[2] = raw.piece[m].z, a[3] = raw.piece[m].w;
    }
    template <class Acc> static __device__ __forceinline__ Acc finish(Acc sum) {
        return sum;
    }
};

// Symmetric INT4 beside INT8: a code in the high half of a byte is the INT8 number 16 code, so no sign has to be spread; the sums are divided
// by 16, without a rest.
struct Int4Weights {
    static constexpr int MMAS = 4, DATA = 4096, CHUNK = DATA, GROUP_MMAS = 0;
    struct Raw {
        uint4 piece[2];
    };
    template <bool SHARED> static __device__ __forceinline__ void load(Raw &raw, const uint8_t *unit, int block, int lane) {
#pragma unroll
        for (int p = 0; p < 2; p++) raw.piece[p] = load_piece<SHARED>(unit + (block * 2 + p) * 512 + lane * 16);
    }
    static __device__ __forceinline__ void fragment(uint32_t (&a)[4], const Raw &raw, int m) {
        const uint4 &w = raw.piece[m / 2];
        int shift = m % 2 ? 0 : 4;
        a[0] = w.x << shift & 0xf0f0f0f0, a[1] = w.y << shift & 0xf0f0f0f0;
        a[2] = w.z << shift & 0xf0f0f0f0, a[3] = w.w << shift & 0xf0f0f0f0;
    }
    static __device__ __forceinline__ int finish(int sum) {
        return sum >> 4;
    }
};

// The same with an f32 scale for each row of a group, by which the group's own sums are multiplied.
template <int GROUP> struct Int4ScaledWeights {
    static constexpr int MMAS = 4, GROUPS = 128 / GROUP, DATA = 4096, CHUNK = DATA + 256 * GROUPS, GROUP_MMAS = GROUP / 32;
    struct Raw {
        uint4 piece[2];
        float2 scale[GROUPS];
    };
    template <bool SHARED> static __device__ __forceinline__ void load(Raw &raw, const uint8_t *unit, int block, int lane) {
#pragma unroll
        for (int p = 0; p < 2; p++) raw.piece[p] = load_piece<SHARED>(unit + (block * 2 + p) * 512 + lane * 16);
#pragma unroll
        for (int g = 0; g < GROUPS; g++)
            raw.scale[g] = *(const float2 *)(unit + DATA + g * 256 + block * 64 + lane / 4 * 8);
    }
    static __device__ __forceinline__ void fragment(uint32_t (&a)[4], const Raw &raw, int m) {
        const uint4 &w = raw.piece[m / 2];
        int shift = m % 2 ? 0 : 4;
        a[0] = w.x << shift & 0xf0f0f0f0, a[1] = w.y << shift & 0xf0f0f0f0;
        a[2] = w.z << shift & 0xf0f0f0f0, a[3] = w.w << shift & 0xf0f0f0f0;
    }
    static __device__ __forceinline__ float2 scale(const Raw &raw, int m) {
        return raw.scale[m / GROUP_MMAS];
    }
    static __device__ __forceinline__ int finish(int sum) {
        return sum >> 4;
    }
    static __device__ __forceinline__ float finish(float sum) {
        return sum;
    }
};

// Two-level INT4: (q - z) s as INT8. All four bytes at once: q s + (128 - z s) lies in 1..255, so no byte carries into the next; the sign bit
// flipped, it is the INT8 number.
template <int GROUP> struct TwoLevelWeights {
    static constexpr int MMAS = 4, GROUPS = 128 / GROUP, DATA = 4096, CHUNK = DATA + 128 * GROUPS, GROUP_MMAS = 0;
    struct Raw {
        uint4 piece[2];
        uint32_t params[GROUPS]; // s, z of the upper row, s, z of the lower
    };
    template <bool SHARED> static __device__ __forceinline__ void load(Raw &raw, const uint8_t *unit, int block, int lane) {
#pragma unroll
        for (int p = 0; p < 2; p++) raw.piece[p] = load_piece<SHARED>(unit + (block * 2 + p) * 512 + lane * 16);
#pragma unroll
        for (int g = 0; g < GROUPS; g++)
            raw.params[g] = *(const uint32_t *)(unit + DATA + g * 128 + block * 32 + lane / 4 * 4);
    }
    static __device__ __forceinline__ uint32_t widen(uint32_t codes, uint32_t s, uint32_t offset) {
        return (codes * s + offset) ^ 0x80808080;
    }
    static __device__ __forceinline__ void fragment(uint32_t (&a)[4], const Raw &raw, int m) {
        const uint4 &w = raw.piece[m / 2];
        uint32_t p = raw.params[m * 32 / GROUP], s0 = p & 255, s1 = p >> 16 & 255;
        uint32_t offset0 = (128 - (p >> 8 & 255) * s0) * 0x01010101, offset1 = (128 - (p >> 24) * s1) * 0x01010101;
        int shift = m % 2 ? 4 : 0;
        a[0] = widen(w.x >> shift & 0x0f0f0f0f, s0, offset0), a[1] = widen(w.y >> shift & 0x0f0f0f0f, s1, offset1);
        a[2] = widen(w.z >> shift & 0x0f0f0f0f, s0, offset0), a[3] = widen(w.w >> shift & 0x0f0f0f0f, s1, offset1);
    }
    static __device__ __forceinline__ int finish(int sum) {
        return sum;
    }
};

// ---- beside bf16 activations: INT8 values are bf16 numbers exactly ----

__device__ __forceinline__ uint32_t bf16_pair(float low, float high) {
    return __float_as_uint(low) >> 16 | (__float_as_uint(high) & 0xffff0000);
}

struct Int8Bf16Weights {
    static constexpr int MMAS = 4, DATA = 4096, CHUNK = DATA, GROUP_MMAS = 0;
    struct Raw {
        uint4 piece[2];
    };
    template <bool SHARED> static __device__ __forceinline__ void load(Raw &raw, const uint8_t *unit, int block, int lane) {
#pragma unroll
        for (int p = 0; p < 2; p++) raw.piece[p] = load_piece<SHARED>(unit + (block * 2 + p) * 512 + lane * 16);
    }
    static __device__ __forceinline__ uint32_t widen(uint32_t codes) { // two bytes
        return bf16_pair((float)(int8_t)codes, (float)(int8_t)(codes >> 8));
    }
    static __device__ __forceinline__ void fragment(uint32_t (&a)[4], const Raw &raw, int m) {
        const uint4 &w = raw.piece[m / 2];
        uint32_t low = m % 2 ? w.z : w.x, high = m % 2 ? w.w : w.y;
        a[0] = widen(low), a[1] = widen(low >> 16), a[2] = widen(high), a[3] = widen(high >> 16);
    }
    static __device__ __forceinline__ float finish(float sum) {
        return sum;
    }
};

// INT4: the code in the mantissa of 128 is the number 128 + code; from it ZERO (8, or the group's z) and 128 are subtracted. GROUP 0: codes are
// symmetric; TWO_LEVEL: times the group's s, else the group's f32 scale multiplies its sums.
template <int GROUP, bool TWO_LEVEL> struct Int4Bf16Weights {
    static constexpr int MMAS = 4, DATA = 2048, CHUNK = DATA + (GROUP == 0 ? 0 : TWO_LEVEL ? 128 : 256),
                         GROUP_MMAS = GROUP && !TWO_LEVEL ? 4 : 0; // a chunk of 64 lies in one group
    struct Raw {
        uint4 piece;
        uint32_t params;
        float2 group_scale;
    };
    template <bool SHARED> static __device__ __forceinline__ void load(Raw &raw, const uint8_t *unit, int block, int lane) {
        raw.piece = load_piece<SHARED>(unit + block * 512 + lane * 16);
        raw.params = 0;
        if (GROUP && TWO_LEVEL) raw.params = *(const uint32_t *)(unit + DATA + block * 32 + lane / 4 * 4);
        if (GROUP && !TWO_LEVEL) raw.group_scale = *(const float2 *)(unit + DATA + block * 64 + lane / 4 * 8);
    }
    static __device__ __forceinline__ uint32_t widen(uint32_t pair, float zero, float s) {
        float low = __uint_as_float(pair << 16), high = __uint_as_float(pair & 0xffff0000); // 128 + code
        return bf16_pair((low - zero) * s, (high - zero) * s);
    }
    static __device__ __forceinline__ void fragment(uint32_t (&a)[4], const Raw &raw, int m) {
        uint32_t w = m == 0 ? raw.piece.x : m == 1 ? raw.piece.y : m == 2 ? raw.piece.z : raw.piece.w;
        float zero0 = 136, zero1 = 136, s0 = 1, s1 = 1;
        if (TWO_LEVEL) {
            s0 = (float)(raw.params & 255), s1 = (float)(raw.params >> 16 & 255);
            zero0 = (float)(128 + (raw.params >> 8 & 255)), zero1 = (float)(128 + (raw.params >> 24));
        }
#pragma unroll
        for (int j = 0; j < 4; j++)
            a[j] = widen((w >> 4 * j & 0x000f000f) | 0x43004300, j % 2 ? zero1 : zero0, j % 2 ? s1 : s0);
    }
    static __device__ __forceinline__ float2 scale(const Raw &raw, int) {
        return raw.group_scale;
    }
    static __device__ __forceinline__ float finish(float sum) {
        return sum;
    }
};
