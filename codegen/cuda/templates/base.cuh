// What all kernels share: types, launching, number formats, elementary functions, addresses. docs/numerics.md has the formulas; the host's code
// spells the same ones. Compiled without fast math and with -fmad=false: a product and a sum become one fma only where it says __fmaf_rn.
#ifdef __CUDACC_RTC__
#pragma nv_diag_suppress 177, 550 // printed code may name what it then has no use for
#endif

typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long int64_t;
typedef unsigned long uint64_t;

struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};

#ifdef __CUDACC_RTC__
extern __shared__ __align__(1024) unsigned char shared_memory[];
#endif

// ---- launching: a kernel may begin before the one in front of it has ended ----

// Before memory is touched that other kernels of the stream write or read.
__device__ inline void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ inline void let_next_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// ---- barriers ----

#ifdef __CUDACC_RTC__
// Of `threads` threads of the block; barrier 0 is __syncthreads.
__device__ __forceinline__ void barrier(int number, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}
#endif

// ---- number formats: to nearest, ties to even ----

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(bf16 x) { return __uint_as_float((uint32_t)x.bits << 16); }
__device__ inline float widen(f16 x) {
#ifdef __CUDA_ARCH__
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
#else
    uint32_t magnitude = (uint32_t)(x.bits & 0x7fff) << 13, sign = (uint32_t)(x.bits & 0x8000) << 16;
    uint32_t scaled = __float_as_uint(__uint_as_float(magnitude) * 0x1p112f);
    return __uint_as_float(((x.bits & 0x7fff) < 0x7c00 ? scaled : magnitude | 0x7f800000u) | sign);
#endif
}
__device__ inline double widen(double x) { return x; }
__device__ inline int widen(int8_t x) { return x; }
__device__ inline int widen(int x) { return x; }

__device__ inline bf16 round_to_bf16(float x) {
    bf16 h;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h.bits) : "f"(x));
#else
    uint32_t u = __float_as_uint(x);
    h.bits = (uint16_t)(x != x ? u >> 16 | 0x40 : (u + 0x7fff + (u >> 16 & 1)) >> 16);
#endif
    return h;
}

__device__ inline f16 round_to_f16(float x) {
    f16 h;
#ifdef __CUDA_ARCH__
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h.bits) : "f"(x));
#else
    uint32_t u = __float_as_uint(x), sign = u >> 16 & 0x8000, a = u & 0x7fffffff;
    uint32_t normal = (a + 0xfff - (112u << 23) + (a >> 13 & 1)) >> 13;
    uint32_t subnormal = __float_as_uint(__uint_as_float(a) + 0.5f) - 0x3f000000;
    uint32_t finite = a < 0x38800000 ? subnormal : a >= 0x477ff000 ? 0x7c00 : normal;
    h.bits = (uint16_t)((a > 0x7f800000 ? 0x7e00 : finite) | sign);
#endif
    return h;
}

// Two values as two neighbours in memory, the first in the low half.
__device__ inline uint32_t round_pair(float low, float high, bf16) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return round_to_bf16(low).bits | (uint32_t)round_to_bf16(high).bits << 16;
#endif
}
__device__ inline uint32_t round_pair(float low, float high, f16) {
    return round_to_f16(low).bits | (uint32_t)round_to_f16(high).bits << 16;
}

__device__ inline void narrow(float x, float &out) { out = x; }
__device__ inline void narrow(float x, bf16 &out) { out = round_to_bf16(x); }
__device__ inline void narrow(float x, f16 &out) { out = round_to_f16(x); }
__device__ inline void narrow(double x, double &out) { out = x; }
__device__ inline void narrow(int x, int8_t &out) { out = (int8_t)x; }
__device__ inline void narrow(int x, int &out) { out = x; }

// ---- arithmetic ----

__device__ inline float absolute(float x) { return fabsf(x); }
__device__ inline double absolute(double x) { return fabs(x); }
__device__ inline int absolute(int x) { return x < 0 ? -x : x; }
__device__ inline float larger(float a, float b) { return fmaxf(a, b); }
__device__ inline double larger(double a, double b) { return a > b ? a : b; }
__device__ inline int larger(int a, int b) { return a > b ? a : b; }
__device__ inline float smaller(float a, float b) { return fminf(a, b); }
__device__ inline double smaller(double a, double b) { return a < b ? a : b; }
__device__ inline int smaller(int a, int b) { return a < b ? a : b; }
__device__ inline float divide(float a, float b) { return __fdiv_rn(a, b); }
__device__ inline double divide(double a, double b) { return a / b; }
__device__ inline float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ inline double fused(double a, double b, double c) { return __fma_rn(a, b, c); }
__device__ inline float square_root(float x) { return __fsqrt_rn(x); }
__device__ inline double square_root(double x) { return __dsqrt_rn(x); }
__device__ inline float recip_or_zero(float x) { return x == 0.0f ? 0.0f : __fdiv_rn(1.0f, x); }
__device__ inline double recip_or_zero(double x) { return x == 0.0 ? 0.0 : 1.0 / x; }
__device__ inline float round_even(float x) { return rintf(x); }

// x rounded to an integer and cut to +-127, in the low byte of the result: cutting first is the same, and then adding 1.5 * 2^23 leaves it there. What an i8 register
// holds above its low byte never matters.
__device__ inline int code_of(float x) {
    return __float_as_int(fmaxf(fminf(x, 127.0f), -127.0f) + 12582912.0f);
}

__device__ inline float exponential(float x) {
    const float top = 0x1.62e42ep+6f, bottom = -0x1.5d589ep+6f, magic = 0x1.8p23f;
    float clamped = fmaxf(fminf(x, top), bottom);
    float shifted = __fmaf_rn(clamped, 0x1.715476p+0f, magic), n = shifted - magic;
    float r = __fmaf_rn(n, -0x1.63p-1f, clamped);
    r = __fmaf_rn(n, 0x1.bd0106p-13f, r);
    float p = __fmaf_rn(0x1.6a23dp-10f, r, 0x1.123a2p-7f);
    p = __fmaf_rn(p, r, 0x1.5558f2p-5f);
    p = __fmaf_rn(p, r, 0x1.555492p-3f);
    p = __fmaf_rn(p, r, 0x1.fffffcp-2f);
    float y = (r * r * p + r) + 1.0f;
    y = __int_as_float(__float_as_int(y) + (int)((uint32_t)(__float_as_int(shifted) - 0x4b400000) << 23));
    y = x > top ? __int_as_float(0x7f800000) : y;
    y = x < bottom ? 0.0f : y;
    return x != x ? x : y;
}

__device__ inline double cosine(double x) {
    const double magic = 0x1.8p52;
    double shifted = x * 0x1.45f306dc9c883p-1 + magic, n = shifted - magic;
    double r = __fma_rn(n, -0x1.921fb4p+0, x);
    r = __fma_rn(n, -0x1.4442dp-24, r);
    r = __fma_rn(n, -0x1.8469898cc5170p-48, r);
    double q = r * r, c = 1.0 / 20922789888000, s = -1.0 / 1307674368000;
    c = __fma_rn(c, q, -1.0 / 87178291200);
    c = __fma_rn(c, q, 1.0 / 479001600);
    c = __fma_rn(c, q, -1.0 / 3628800);
    c = __fma_rn(c, q, 1.0 / 40320);
    c = __fma_rn(c, q, -1.0 / 720);
    c = __fma_rn(c, q, 1.0 / 24);
    c = __fma_rn(c, q, -1.0 / 2);
    c = __fma_rn(c, q, 1.0);
    s = __fma_rn(s, q, 1.0 / 6227020800);
    s = __fma_rn(s, q, -1.0 / 39916800);
    s = __fma_rn(s, q, 1.0 / 362880);
    s = __fma_rn(s, q, -1.0 / 5040);
    s = __fma_rn(s, q, 1.0 / 120);
    s = __fma_rn(s, q, -1.0 / 6);
    s = __fma_rn(s, q, 1.0);
    s = r * s;
    int quadrant = (int)__double_as_longlong(shifted); // cos in 0 and 2, sin in 1 and 3; negative in 1 and 2
    double y = quadrant & 1 ? s : c;
    return (quadrant + 1) & 2 ? -y : y;
}

// ---- memory ----

// Bytes from the begin of a tiled matrix to byte b of row i: atoms of 8 rows x 128 bytes, [b / 128][i / 8], their 16-byte units swizzled.
__device__ inline int64_t tiled(int i, int b, int rows) {
    return ((int64_t)(b >> 7) * ((rows + 7) >> 3) + (i >> 3)) * 1024 + (i & 7) * 128 + (((b >> 4) ^ i) & 7) * 16 + (b & 15);
}

// And from there to `atoms` atoms further in the row.
__device__ inline int64_t atoms_apart(int atoms, int rows) { return (int64_t)atoms * ((rows + 7) >> 3) * 1024; }

// N neighbours in memory as words: 16, 8 or 4 bytes at a time, by an address aligned to as many.
template <int BYTES>
__device__ inline void load_words(const void *p, uint32_t *w) {
    if constexpr (BYTES >= 16) {
        #pragma unroll
        for (int i = 0; i < BYTES / 16; i++) {
            uint4 x = ((const uint4 *)p)[i];
            w[4 * i] = x.x, w[4 * i + 1] = x.y, w[4 * i + 2] = x.z, w[4 * i + 3] = x.w;
        }
    } else if constexpr (BYTES == 8) {
        uint2 x = *(const uint2 *)p;
        w[0] = x.x, w[1] = x.y;
    } else if constexpr (BYTES == 4) {
        w[0] = *(const uint32_t *)p;
    } else if constexpr (BYTES == 2) {
        w[0] = *(const uint16_t *)p;
    } else {
        w[0] = *(const uint8_t *)p;
    }
}

template <int BYTES>
__device__ inline void store_words(void *p, const uint32_t *w) {
    if constexpr (BYTES >= 16) {
        #pragma unroll
        for (int i = 0; i < BYTES / 16; i++)
            ((uint4 *)p)[i] = make_uint4(w[4 * i], w[4 * i + 1], w[4 * i + 2], w[4 * i + 3]);
    } else if constexpr (BYTES == 8) {
        *(uint2 *)p = make_uint2(w[0], w[1]);
    } else if constexpr (BYTES == 4) {
        *(uint32_t *)p = w[0];
    } else if constexpr (BYTES == 2) {
        *(uint16_t *)p = (uint16_t)w[0];
    } else {
        *(uint8_t *)p = (uint8_t)w[0];
    }
}

__device__ inline void unpack(const uint32_t *w, int i, float, float &x) { x = __uint_as_float(w[i]); }
__device__ inline void unpack(const uint32_t *w, int i, int, int &x) { x = (int)w[i]; }
__device__ inline void unpack(const uint32_t *w, int i, bf16, float &x) {
    x = __uint_as_float(i & 1 ? w[i / 2] & 0xffff0000u : w[i / 2] << 16);
}
__device__ inline void unpack(const uint32_t *w, int i, f16, float &x) {
    f16 h;
    h.bits = (uint16_t)(w[i / 2] >> (i & 1) * 16);
    x = widen(h);
}
__device__ inline void unpack(const uint32_t *w, int i, int8_t, int &x) { x = (int8_t)(w[i / 4] >> (i & 3) * 8); }

template <int N>
__device__ inline void pack(const float *x, uint32_t *w, float) {
    #pragma unroll
    for (int i = 0; i < N; i++) w[i] = __float_as_uint(x[i]);
}
template <int N>
__device__ inline void pack(const int *x, uint32_t *w, int) {
    #pragma unroll
    for (int i = 0; i < N; i++) w[i] = (uint32_t)x[i];
}
template <int N, typename T>
__device__ inline void pack(const float *x, uint32_t *w, T half) {
    #pragma unroll
    for (int i = 0; i < N / 2; i++) w[i] = round_pair(x[2 * i], x[2 * i + 1], half);
    if constexpr (N == 1) w[0] = round_pair(x[0], 0.0f, half);
}
template <int N>
__device__ inline void pack(const int *x, uint32_t *w, int8_t) {
    #pragma unroll
    for (int i = 0; i < N / 4; i++)
        w[i] = __byte_perm(__byte_perm(x[4 * i], x[4 * i + 1], 0x0040), __byte_perm(x[4 * i + 2], x[4 * i + 3], 0x0040), 0x5410);
    if constexpr (N == 2) w[0] = __byte_perm(x[0], x[1], 0x0040);
    if constexpr (N == 1) w[0] = (uint32_t)x[0];
}

// N neighbours at p, widened. `aligned`: the address is a multiple of their bytes (of 16, if they are more).
template <int N, typename T, typename R>
__device__ inline void load_some(const T *p, bool aligned, R *x) {
    constexpr int bytes = N * (int)sizeof(T);
    if (N == 1 || aligned) {
        uint32_t w[(bytes + 3) / 4];
        load_words<bytes>(p, w);
        #pragma unroll
        for (int i = 0; i < N; i++) unpack(w, i, T(), x[i]);
    } else {
        #pragma unroll
        for (int i = 0; i < N; i++) x[i] = widen(p[i]);
    }
}

template <int N, typename T, typename R>
__device__ inline void store_some(T *p, bool aligned, const R *x) {
    constexpr int bytes = N * (int)sizeof(T);
    if (N == 1 || aligned) {
        uint32_t w[(bytes + 3) / 4];
        pack<N>(x, w, T());
        store_words<bytes>(p, w);
    } else {
        #pragma unroll
        for (int i = 0; i < N; i++) narrow(x[i], p[i]);
    }
}

__device__ inline bool is_aligned(const void *p, int bytes) { return ((uint64_t)p & (uint64_t)(bytes - 1)) == 0; }
