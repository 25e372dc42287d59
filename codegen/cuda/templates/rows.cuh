// What row-wise kernels share: a row lies in the registers of T threads, and goes through shared memory where neighbours are needed.
#include "base.cuh"
#include "cache.cuh"

// ---- exchanges ----

// Where float j of a row lies: gaps keep the threads of a warp in different banks.
template <int A, int SHIFT, int B>
__device__ constexpr int padded(int j) {
    return j + (j >> 5) * A + (j >> SHIFT) * B;
}

template <int N>
__device__ inline void put(float *p, const float *x) {
    if constexpr (N % 4 == 0) {
        #pragma unroll
        for (int i = 0; i < N; i += 4) *(float4 *)(p + i) = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
    } else {
        *(float2 *)p = make_float2(x[0], x[1]);
    }
}

template <int N>
__device__ inline void get(const float *p, float *x) {
    if constexpr (N % 4 == 0) {
        #pragma unroll
        for (int i = 0; i < N; i += 4) {
            float4 y = *(const float4 *)(p + i);
            x[i] = y.x, x[i + 1] = y.y, x[i + 2] = y.z, x[i + 3] = y.w;
        }
    } else {
        float2 y = *(const float2 *)p;
        x[0] = y.x, x[1] = y.y;
    }
}

// The threads of a row meet: all of the block's, or at a barrier of the row's OWN.
template <int T, bool OWN>
__device__ inline void meet(int part) {
    if constexpr (T <= 32)
        __syncwarp();
    else if constexpr (OWN)
        barrier(1 + part, T);
    else
        __syncthreads();
}

// ---- reductions: the threads of a row, then its warps in order; all of them get the result ----

template <int T, bool OWN, int C>
__device__ inline float sum_over(const float (&sums)[C], float *partial, int t, int part) {
    float x = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    if constexpr (C == 8) x += (sums[4] + sums[5]) + (sums[6] + sums[7]);
    #pragma unroll
    for (int d = (T < 32 ? T : 32) / 2; d > 0; d /= 2) x += __shfl_xor_sync(0xffffffffu, x, d);
    if constexpr (T > 32) {
        if ((t & 31) == 0) partial[t >> 5] = x;
        meet<T, OWN>(part);
        x = partial[0];
        #pragma unroll
        for (int w = 1; w < T / 32; w++) x += partial[w];
    }
    return x;
}

template <int T, bool OWN>
__device__ inline float max_over(const float *sums, float *partial, int t, int part) {
    float x = larger(larger(sums[0], sums[1]), larger(sums[2], sums[3]));
    #pragma unroll
    for (int d = (T < 32 ? T : 32) / 2; d > 0; d /= 2) x = larger(x, __shfl_xor_sync(0xffffffffu, x, d));
    if constexpr (T > 32) {
        if ((t & 31) == 0) partial[t >> 5] = x;
        meet<T, OWN>(part);
        x = partial[0];
        #pragma unroll
        for (int w = 1; w < T / 32; w++) x = larger(x, partial[w]);
    }
    return x;
}

// 1 / sqrt(mean of squares + eps) of each head: 32 partial sums, dealt to LANES lanes.
template <int T, int LANES>
__device__ inline void norm_factors(const float *row, float *factors, int heads, int width, float share, float eps, int t) {
    for (int h = t / LANES; h < heads; h += T / LANES) {
        float part[32 / LANES] = {};
        #pragma unroll
        for (int i = 0; i < 32 / LANES; i++)
            for (int d = t % LANES + i * LANES; d < width; d += 32) part[i] += row[h * width + d] * row[h * width + d];
        #pragma unroll
        for (int n = 16 / LANES; n > 0; n /= 2)
            #pragma unroll
            for (int i = 0; i < n; i++) part[i] += part[i + n];
        float sum = part[0];
        #pragma unroll
        for (int d = LANES / 2; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
        if (t % LANES == 0) factors[h] = __fdiv_rn(1.0f, __fsqrt_rn(sum * share + eps));
    }
}

// ---- transforms ----

// Butterflies over COUNT registers, STEP apart.
template <int N, int STEP, int COUNT>
__device__ inline void butterflies(float *x) {
    #pragma unroll
    for (int h = STEP; h < STEP * COUNT; h *= 2) {
        #pragma unroll
        for (int i = 0; i < N; i++)
            if (!(i / h & 1)) {
                const float a = x[i], b = x[i + h];
                x[i] = a + b;
                x[i + h] = a - b;
            }
    }
}

// Over COUNT neighbouring threads.
template <int N, int COUNT>
__device__ inline void lane_butterflies(float *x, int t) {
    #pragma unroll
    for (int h = 1; h < COUNT; h *= 2) {
        const float sign = t & h ? -1.0f : 1.0f;
        #pragma unroll
        for (int i = 0; i < N; i++) x[i] = __fmaf_rn(x[i], sign, __shfl_xor_sync(0xffffffffu, x[i], h));
    }
}

// a +-b +-c +-d: bit 2 of the number is b's sign, bit 1 c's, bit 0 d's.
__device__ inline void signed_sums(float a, float b, float c, float d, float *s) {
    const float p = a + b, m = a - b, q = c + d, n = c - d;
    s[0] = p + q, s[1] = p + n, s[2] = p - n, s[3] = p - q;
    s[4] = m + q, s[5] = m + n, s[6] = m - n, s[7] = m - q;
}

// R outputs of a factor whose ORDER inputs lie INNER apart; a set bit takes the input's negative.
template <int R, int ORDER, int INNER>
__device__ inline void large_factor(const float *x, const uint32_t (*signs)[2], float *y) {
    #pragma unroll
    for (int i = 0; i < R; i++) y[i] = 0.0f;
    for (int a = 0; a < ORDER; a++) {
        const uint32_t in = __float_as_uint(x[a * INNER]), low = signs[a][0], high = signs[a][1];
        #pragma unroll
        for (int i = 0; i < R; i++) y[i] += __uint_as_float(in ^ ((i < 32 ? low : high) << (31 - i % 32) & 0x80000000u));
    }
}

// ---- projections ----

// out[i][q] = sum over j of x[i][j] * d[q][j] for ROWS rows of a block: four outputs at a time a warp, V neighbours at a time a lane; then lanes by halves.
template <int ROWS, int V, int COLS, typename D, typename O>
__device__ inline void project_rows(const float *x, int64_t stride, const D *d, int64_t d_stride, int n, bool aligned, O *out,
                                    int64_t out_stride, int first, int rows, int warps) {
    const int lane = threadIdx.x % 32;
    for (int q = threadIdx.x / 32 * 4; q < n; q += warps * 4) {
        float sum[ROWS][4] = {};
        #pragma unroll 2
        for (int j = lane * V; j < COLS; j += 32 * V) {
            float w[4][V];
            #pragma unroll
            for (int o = 0; o < 4; o++) load_some<V>(d + (q + o < n ? q + o : n - 1) * d_stride + j, aligned, w[o]);
            #pragma unroll
            for (int i = 0; i < ROWS; i++) {
                float y[V];
                if constexpr (V == 1)
                    y[0] = x[i * stride + j];
                else
                    get<V>(x + i * stride + j, y);
                #pragma unroll
                for (int m = 0; m < V; m++)
                    #pragma unroll
                    for (int o = 0; o < 4; o++) sum[i][o] = __fmaf_rn(y[m], w[o][m], sum[i][o]);
            }
        }
        #pragma unroll
        for (int i = 0; i < ROWS; i++)
            #pragma unroll
            for (int o = 0; o < 4; o++) {
                #pragma unroll
                for (int h = 16; h > 0; h /= 2) sum[i][o] += __shfl_xor_sync(0xffffffffu, sum[i][o], h);
                if (lane == 0 && q + o < n && first + i < rows) narrow(sum[i][o], out[(first + i) * out_stride + q + o]);
            }
    }
}

// ---- the KV cache ----

// Codes, scale and zero point of one group of features: `codes` is the first one's place, the next ones STEP bytes on.
template <int LANES, int BITS, int STEP>
__device__ inline void append_group(const float *x, int n, float clip, bool alive, unsigned char *codes, unsigned char *scales,
                                    int at, int t) {
    const float top = (float)((1 << BITS) - 1);
    float low = 0.0f, high = 0.0f; // how far below and above 0
    for (int d = t % LANES; d < n; d += LANES) low = larger(low, -x[d]), high = larger(high, x[d]);
    #pragma unroll
    for (int h = LANES / 2; h > 0; h /= 2) {
        low = larger(low, __shfl_xor_sync(0xffffffffu, low, h));
        high = larger(high, __shfl_xor_sync(0xffffffffu, high, h));
    }
    low *= clip, high *= clip;
    const bf16 half = round_to_bf16(__fdiv_rn(high + low, top));
    const float scale = widen(half), inverse = scale > 0.0f ? __fdiv_rn(1.0f, scale) : 0.0f;
    const float zero = smaller(round_even(low * inverse), top);
    if (!alive) return;
    if (t % LANES == 0) {
        ((bf16 *)scales)[at] = half;
        scales[128 + at] = (unsigned char)(int)zero;
    }
    for (int u = t % LANES; u < (BITS == 4 ? (n + 1) / 2 : n); u += LANES) {
        int byte = 0;
        #pragma unroll
        for (int part = 0; part < 8 / BITS; part++) {
            const int d = u * (8 / BITS) + part;
            const float c = d < n ? larger(smaller(round_even(x[d] * inverse) + zero, top), 0.0f) : 0.0f;
            byte |= (int)c << BITS * part;
        }
        codes[u * STEP] = (unsigned char)byte;
    }
}
