// GEMM without tensor cores. Every output is one chain over k in order (floats by fma), whatever the tile, so all variants give the same bits.
//
// Weights are packed in panels of 32 channels: [k / U][32] units of 16 bytes, U values of k of one channel; then, where groups of k have scales,
// float [panel][group][32]. A is the type of activations, W of weights; S of sums: int, or float.
#include "base.cuh"

// Units in flight: two halves of a ring. A half's loads are issued together, behind the use of what was there: one of the few scoreboards of a warp
// serves them all, and waiting for the other half does not wait for them.
constexpr int few_ahead = 4, few_ring = 2 * few_ahead;

template <typename A, typename W, typename S, int K, int GROUP>
struct Gemm {
    static constexpr int U = 16 / sizeof(W), units = (K + U - 1) / U, groups = GROUP ? K / GROUP : 1;
    static constexpr int64_t panel = (int64_t)units * 32;
    static constexpr bool whole = units % few_ahead == 0;
};

template <typename S>
constexpr bool is_whole = S(0.5f) == S(0);

// The values of a unit as floats. Bytes: (b ^ 128) in the mantissa of 2^23 is 2^23 + b + 128.
__device__ inline void unit_values(uint4 w, float, float *x) {
    x[0] = __uint_as_float(w.x), x[1] = __uint_as_float(w.y), x[2] = __uint_as_float(w.z), x[3] = __uint_as_float(w.w);
}
template <typename H>
__device__ inline void unit_values(uint4 w, H half, float *x) {
    const uint32_t words[4] = {w.x, w.y, w.z, w.w};
    #pragma unroll
    for (int i = 0; i < 8; i++) unpack(words, i, half, x[i]);
}
__device__ inline void unit_values(uint4 w, int8_t, float *x) {
    const uint32_t words[4] = {w.x, w.y, w.z, w.w};
    #pragma unroll
    for (int i = 0; i < 16; i++)
        x[i] = __uint_as_float(__byte_perm(words[i / 4] ^ 0x80808080u, 0x4b000000u, 0x7540 + i % 4)) - 8388736.0f;
}

// ---- few rows: a lane has a channel, and its sums with ROWS rows ----

constexpr int few_k = 512; // values of k of the activations in shared memory

template <int ROWS, typename A, typename W, int K>
__device__ inline void stage_rows(const A *a, int64_t stride, int first, int rows, int k0, bool aligned, float *x) {
    #pragma unroll 4
    for (int n = threadIdx.x * 4; n < ROWS * few_k; n += blockDim.x * 4) {
        const int r = n / few_k, k = k0 + n % few_k;
        float y[4] = {};
        if (first + r < rows) {
            const A *from = a + (first + r) * stride + k;
            if (aligned && k + 4 <= K)
                load_some<4>(from, true, y);
            else
                #pragma unroll
                for (int i = 0; i < 4; i++)
                    if (k + i < K) y[i] = widen(from[i]);
        }
        *(float4 *)(x + n) = make_float4(y[0], y[1], y[2], y[3]);
    }
}
// Four bytes of k as one int.
template <int ROWS, int K>
__device__ inline void stage_codes(const int8_t *a, int64_t stride, int first, int rows, int k0, int *x) {
    for (int n = threadIdx.x; n < ROWS * few_k / 4; n += blockDim.x) {
        const int r = n / (few_k / 4), k = k0 + n % (few_k / 4) * 4;
        uint32_t word = 0;
        #pragma unroll
        for (int b = 0; b < 4; b++)
            if (first + r < rows && k + b < K) word |= ((uint32_t)a[(first + r) * stride + k + b] & 255) << 8 * b;
        x[n] = (int)word;
    }
}

template <int ROWS, typename W>
__device__ inline void add_unit(uint4 w, const float *x, float *sum) {
    constexpr int U = 16 / sizeof(W);
    float y[U];
    unit_values(w, W(), y);
    #pragma unroll
    for (int r = 0; r < ROWS; r++)
        #pragma unroll
        for (int k = 0; k < U; k += 4) {
            const float4 v = *(const float4 *)(x + r * few_k + k);
            sum[r] = __fmaf_rn(v.x, y[k], sum[r]);
            sum[r] = __fmaf_rn(v.y, y[k + 1], sum[r]);
            sum[r] = __fmaf_rn(v.z, y[k + 2], sum[r]);
            sum[r] = __fmaf_rn(v.w, y[k + 3], sum[r]);
        }
}
template <int ROWS, typename W>
__device__ inline void add_unit(uint4 w, const int *x, int *sum) {
    #pragma unroll
    for (int r = 0; r < ROWS; r++) {
        const int4 v = *(const int4 *)(x + r * (few_k / 4));
        sum[r] = __dp4a(v.x, (int)w.x, sum[r]);
        sum[r] = __dp4a(v.y, (int)w.y, sum[r]);
        sum[r] = __dp4a(v.z, (int)w.z, sum[r]);
        sum[r] = __dp4a(v.w, (int)w.w, sum[r]);
    }
}

template <typename G>
__device__ inline void load_units(const uint4 *w, int first, uint4 *half) {
    #pragma unroll
    for (int i = 0; i < few_ahead; i++) half[i] = G::whole || first + i < G::units ? w[(first + i) * 32] : make_uint4(0, 0, 0, 0);
}
template <typename G>
__device__ inline void first_units(const uint4 *w, uint4 *ring) {
    load_units<G>(w, 0, ring);
    if (few_ahead < G::units) load_units<G>(w, few_ahead, ring + few_ahead);
}

// w: the lane's first unit; scales: the lane's first group, 32 apart. T: the result's type, float where groups are scaled. aligned: rows of a begin at
// multiples of 16 bytes.
template <int ROWS, typename A, typename W, typename S, typename T, int K, int GROUP>
__device__ inline void few_rows(const A *a, int64_t stride, int first, int rows, bool aligned, const uint4 *w,
                                const float *scales, uint4 *ring, T (*total)[1]) {
    typedef Gemm<A, W, S, K, GROUP> G;
    constexpr int in_stage = few_k / G::U, words = is_whole<S> ? 4 : 1;
    S *x = (S *)shared_memory, sum[ROWS] = {};
    #pragma unroll
    for (int r = 0; r < ROWS; r++) total[r][0] = 0;
    for (int u0 = 0; u0 < G::units; u0 += in_stage) {
        __syncthreads();
        if constexpr (words == 4)
            stage_codes<ROWS, K>(a, stride, first, rows, u0 * G::U, (int *)x);
        else
            stage_rows<ROWS, A, W, K>(a, stride, first, rows, u0 * G::U, aligned, (float *)x);
        __syncthreads();
        for (int c = 0; c < in_stage && u0 + c < G::units; c += few_ring) {
            #pragma unroll
            for (int half = 0; half < few_ring; half += few_ahead) {
                if (u0 + c + half >= G::units) break;
                #pragma unroll
                for (int i = half; i < half + few_ahead; i++) {
                    const int u = u0 + c + i;
                    if (!G::whole && u >= G::units) break;
                    add_unit<ROWS, W>(ring[i], x + (c + i) * G::U / words, sum);
                    if constexpr (GROUP > 0) {
                        if ((u + 1) * G::U % GROUP == 0) {
                            const float scale = scales[((u + 1) * G::U / GROUP - 1) * 32];
                            #pragma unroll
                            for (int r = 0; r < ROWS; r++) {
                                total[r][0] += (float)sum[r] * scale;
                                sum[r] = 0;
                            }
                        }
                    }
                }
                if (u0 + c + half + few_ring < G::units) load_units<G>(w, u0 + c + half + few_ring, ring + half);
            }
        }
    }
    if constexpr (GROUP == 0) {
        #pragma unroll
        for (int r = 0; r < ROWS; r++) total[r][0] = sum[r];
    }
}

// ---- many rows: a block has 64 x 64 outputs, a thread 4 x 4, k goes through shared memory ----

constexpr int many_k = 16, many_stride = 68; // floats, or ints of four codes

template <typename W, typename G>
__device__ inline void stage_weights(const uint4 *w, int u0, int t, float *to) {
    constexpr int n = many_k / G::U;
    if (t < n * 64) {
        const int u = t / 64, channel = t % 64;
        float y[G::U];
        unit_values(u0 + u < G::units ? w[channel / 32 * G::panel + (int64_t)(u0 + u) * 32 + channel % 32] : make_uint4(0, 0, 0, 0),
                    W(), y);
        #pragma unroll
        for (int k = 0; k < G::U; k++) to[(u * G::U + k) * many_stride + channel] = y[k];
    }
}
template <typename W, typename G>
__device__ inline void stage_weights(const uint4 *w, int u0, int t, int *to) {
    const int u = t / 64, channel = t % 64;
    const uint4 y = u0 + u < G::units ? w[channel / 32 * G::panel + (int64_t)(u0 + u) * 32 + channel % 32] : make_uint4(0, 0, 0, 0);
    to[(u * 4) * many_stride + channel] = (int)y.x, to[(u * 4 + 1) * many_stride + channel] = (int)y.y;
    to[(u * 4 + 2) * many_stride + channel] = (int)y.z, to[(u * 4 + 3) * many_stride + channel] = (int)y.w;
}

template <int K, typename A>
__device__ inline void stage_tile(const A *a, int64_t stride, int first, int rows, int k0, bool aligned, int t, float *to) {
    const int r = t / 4, k = k0 + t % 4 * 4;
    float x[4] = {};
    if (first + r < rows) {
        const A *from = a + (first + r) * stride + k;
        if (k + 4 <= K)
            load_some<4>(from, aligned, x);
        else
            for (int i = 0; i < 3; i++)
                if (k + i < K) x[i] = (float)widen(from[i]);
    }
    #pragma unroll
    for (int i = 0; i < 4; i++) to[(t % 4 * 4 + i) * many_stride + r] = x[i];
}
template <int K>
__device__ inline void stage_tile(const int8_t *a, int64_t stride, int first, int rows, int k0, bool aligned, int t, int *to) {
    const int r = t / 4, k = k0 + t % 4 * 16;
    uint32_t x[4] = {};
    if (first + r < rows) {
        const int8_t *from = a + (first + r) * stride + k;
        if (k + 16 <= K && aligned)
            load_words<16>(from, x);
        else
            for (int i = 0; i < 16; i++)
                if (k + i < K) x[i / 4] |= ((uint32_t)from[i] & 255) << i % 4 * 8;
    }
    #pragma unroll
    for (int i = 0; i < 4; i++) to[(t % 4 * 4 + i) * many_stride + r] = (int)x[i];
}

__device__ inline float times(float a, float b, float sum) { return __fmaf_rn(a, b, sum); }
__device__ inline int times(int a, int b, int sum) { return __dp4a(a, b, sum); }
__device__ inline void four(const float *p, float *x) {
    const float4 v = *(const float4 *)p;
    x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
}
__device__ inline void four(const int *p, int *x) {
    const int4 v = *(const int4 *)p;
    x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
}

// w: the first unit of two panels; scales: their first group. aligned: rows of a begin at multiples of 16 bytes.
template <typename A, typename W, typename S, typename T, int K, int GROUP>
__device__ inline void many_rows(const A *a, int64_t stride, int first, int rows, bool aligned, const uint4 *w,
                                 const float *scales, T (*total)[4]) {
    typedef Gemm<A, W, S, K, GROUP> G;
    constexpr int step = is_whole<S> ? 64 : many_k; // values of k
    const int t = threadIdx.x, row = t / 16 * 4, column = t % 16 * 4;
    S *x = (S *)shared_memory, *y = x + many_k * many_stride, sum[4][4] = {};
    #pragma unroll
    for (int i = 0; i < 16; i++) total[i / 4][i % 4] = 0;
    for (int k0 = 0; k0 < K; k0 += step) {
        __syncthreads();
        stage_tile<K>(a, stride, first, rows, k0, aligned, t, x);
        stage_weights<W, G>(w, k0 / G::U, t, y);
        __syncthreads();
        #pragma unroll
        for (int k = 0; k < many_k; k++) {
            S p[4], q[4];
            four(x + k * many_stride + row, p);
            four(y + k * many_stride + column, q);
            #pragma unroll
            for (int i = 0; i < 16; i++) sum[i / 4][i % 4] = times(p[i / 4], q[i % 4], sum[i / 4][i % 4]);
        }
        if constexpr (GROUP > 0) {
            if ((k0 + step) % GROUP == 0) {
                #pragma unroll
                for (int i = 0; i < 16; i++) {
                    const int channel = column + i % 4;
                    total[i / 4][i % 4] += (float)sum[i / 4][i % 4] *
                                           scales[channel / 32 * G::groups * 32 + ((k0 + step) / GROUP - 1) * 32 + channel % 32];
                    sum[i / 4][i % 4] = 0;
                }
            }
        }
    }
    if constexpr (GROUP == 0) {
        #pragma unroll
        for (int i = 0; i < 16; i++) total[i / 4][i % 4] = sum[i / 4][i % 4];
    }
}

// ---- the low-rank branch: sums over r in order ----

template <int ROWS, int COLS, int RANK, typename T, typename U>
__device__ inline void low_rank_sums(const T *t, int64_t t_stride, int first, int rows, const U *u, int column, int n,
                                     float (*sum)[COLS]) {
    #pragma unroll
    for (int i = 0; i < ROWS * COLS; i++) sum[i / COLS][i % COLS] = 0.0f;
    for (int r = 0; r < RANK; r++) {
        float y[COLS];
        #pragma unroll
        for (int c = 0; c < COLS; c++) y[c] = column + c < n ? widen(u[(int64_t)(column + c) * RANK + r]) : 0.0f;
        #pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const float x = first + i < rows ? widen(t[(first + i) * t_stride + r]) : 0.0f;
            #pragma unroll
            for (int c = 0; c < COLS; c++) sum[i][c] = __fmaf_rn(x, y[c], sum[i][c]);
        }
    }
}
