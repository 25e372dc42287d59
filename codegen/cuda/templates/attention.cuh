// Attention of a tile of Q queries that read the same keys and values, 64 positions (a page) at a time, in f32.
//
// A score is a chain of fma over the features in order; per page: m' = max(m, scores), p = exp(score - m'), c = exp(m - m'), l = l c + sum of p, o = o c, then a chain of
// fma over the page's positions in order. So a query's bits depend on no other query of the tile. A page behind a query's position changes nothing.
//
// C holds the constants: D features, Q queries; 128 threads: a position and half of the queries each for scores, then DT features of QN queries for values.
// S gives keys and values: page(position), keys<N>(feature, p, out), stage_values(shared), value(j, d, shared).
#include "base.cuh"

constexpr int attention_threads = 128;

template <int D_, int Q_, int VALUE_FLOATS_>
struct AttentionShape {
    static constexpr int D = D_, Q = Q_, VALUE_FLOATS = VALUE_FLOATS_;
    static constexpr int DL = D <= 16 ? 16 : D <= 32 ? 32 : D <= 64 ? 64 : 128, DT = (D + DL - 1) / DL; // lanes along D
    static constexpr int QG = attention_threads / DL, QN = Q / QG, QP = Q + 4;
    static_assert(Q % QG == 0 && Q % 4 == 0 && Q <= attention_threads, "queries are dealt evenly");
};

template <typename C>
struct AttentionTile {
    float q[C::D][C::Q];                // times the scale
    float p[64][C::QP];                 // scores, then probabilities
    float m[C::Q], l[C::Q], c[C::Q];    // of the chunk; c: the correction
    float tm[C::Q], tl[C::Q], tc[C::Q]; // of the chunks so far
    int pos[C::Q];                      // the last position a query sees; -1: no query
    float values[C::VALUE_FLOATS];
};

template <int N>
__device__ inline void four_at_a_time(const float *p, float *x) {
    if constexpr (N % 4 == 0) {
        #pragma unroll
        for (int i = 0; i < N; i += 4) {
            const float4 v = *(const float4 *)(p + i);
            x[i] = v.x, x[i + 1] = v.y, x[i + 2] = v.z, x[i + 3] = v.w;
        }
    } else {
        #pragma unroll
        for (int i = 0; i < N; i++) x[i] = p[i];
    }
}

__device__ inline float not_infinite(float m) { return m == __int_as_float(0xff800000) ? 0.0f : m; }

template <typename C, int STEP, typename S>
__device__ inline void page_scores(AttentionTile<C> &s, const S &source, int position, int t) {
    constexpr int half = C::Q / 2;
    const int p = t % 64, first = t / 64 * half;
    float x[half] = {};
    for (int d = 0; d < C::D; d += STEP) {
        float k[STEP];
        source.template keys<STEP>(d, p, k);
        #pragma unroll
        for (int n = 0; n < STEP; n++) {
            float q[half];
            four_at_a_time<half>(&s.q[d + n][first], q);
            #pragma unroll
            for (int i = 0; i < half; i++) x[i] = __fmaf_rn(q[i], k[n], x[i]);
        }
    }
    #pragma unroll
    for (int i = 0; i < half; i++)
        s.p[p][first + i] = position + p <= s.pos[first + i] ? x[i] : __int_as_float(0xff800000);
}

template <typename C>
__device__ inline void page_softmax(AttentionTile<C> &s, int t) {
    const int lane = t % 32;
    for (int q = t / 32; q < C::Q; q += attention_threads / 32) {
        float a = s.p[lane][q], b = s.p[lane + 32][q], top = larger(a, b);
        #pragma unroll
        for (int h = 16; h > 0; h /= 2) top = larger(top, __shfl_xor_sync(0xffffffffu, top, h));
        const float before = s.m[q], m = larger(before, top), center = not_infinite(m);
        a = exponential(a - center);
        b = exponential(b - center);
        float sum = a + b;
        #pragma unroll
        for (int h = 16; h > 0; h /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, h);
        s.p[lane][q] = a;
        s.p[lane + 32][q] = b;
        if (lane == 0) {
            const float c = exponential(before - center);
            s.c[q] = c;
            s.m[q] = m;
            s.l[q] = __fmaf_rn(s.l[q], c, sum);
        }
        __syncwarp();
    }
}

template <typename C, typename S>
__device__ inline void page_values(AttentionTile<C> &s, const S &source, int count, int t, float (*o)[C::DT]) {
    const int d = t % C::DL, first = t / C::DL * C::QN;
    #pragma unroll
    for (int i = 0; i < C::QN; i++)
        #pragma unroll
        for (int k = 0; k < C::DT; k++) o[i][k] *= s.c[first + i];
    #pragma unroll 4
    for (int j = 0; j < count; j++) {
        float v[C::DT], p[C::QN];
        #pragma unroll
        for (int k = 0; k < C::DT; k++) v[k] = d + k * C::DL < C::D ? source.value(j, d + k * C::DL, s.values) : 0.0f;
        four_at_a_time<C::QN>(&s.p[j][first], p);
        #pragma unroll
        for (int i = 0; i < C::QN; i++)
            #pragma unroll
            for (int k = 0; k < C::DT; k++) o[i][k] = __fmaf_rn(p[i], v[k], o[i][k]);
    }
}

// Positions [begin, end) of a tile whose queries and `pos` are staged: m, l and o of them alone.
template <typename C, int STEP, typename S>
__device__ inline void attend(AttentionTile<C> &s, S &source, int begin, int end, int t, float (*o)[C::DT]) {
    if (t < C::Q) s.m[t] = __int_as_float(0xff800000), s.l[t] = 0.0f;
    #pragma unroll
    for (int i = 0; i < C::QN; i++)
        #pragma unroll
        for (int k = 0; k < C::DT; k++) o[i][k] = 0.0f;
    __syncthreads();
    for (int position = begin; position < end; position += 64) {
        source.page(position);
        page_scores<C, STEP>(s, source, position, t);
        source.stage_values(s.values, t);
        __syncthreads();
        page_softmax(s, t);
        __syncthreads();
        page_values(s, source, end - position < 64 ? end - position : 64, t, o);
        __syncthreads();
    }
}

// Adds a chunk (s.m, s.l, o) to those in front of it (s.tm, s.tl, total). A chunk behind a query's position has m = -infinity and leaves its bits.
template <typename C>
__device__ inline void merge_chunk(AttentionTile<C> &s, int t, const float (*o)[C::DT], float (*total)[C::DT]) {
    if (t < C::Q) {
        const float m = larger(s.tm[t], s.m[t]), center = not_infinite(m);
        const float before = m == s.tm[t] ? 1.0f : exponential(s.tm[t] - center);
        const float now = s.m[t] == __int_as_float(0xff800000) ? 0.0f : exponential(s.m[t] - center);
        s.tl[t] = __fmaf_rn(s.tl[t], before, s.l[t] * now);
        s.tm[t] = m;
        s.tc[t] = before;
        s.c[t] = now;
    }
    __syncthreads();
    const int first = t / C::DL * C::QN;
    #pragma unroll
    for (int i = 0; i < C::QN; i++)
        #pragma unroll
        for (int k = 0; k < C::DT; k++) total[i][k] = __fmaf_rn(total[i][k], s.tc[first + i], o[i][k] * s.c[first + i]);
    __syncthreads();
}

template <typename C>
__device__ inline void clear_total(AttentionTile<C> &s, int t, float (*total)[C::DT]) {
    if (t < C::Q) s.tm[t] = __int_as_float(0xff800000), s.tl[t] = 0.0f;
    #pragma unroll
    for (int i = 0; i < C::QN; i++)
        #pragma unroll
        for (int k = 0; k < C::DT; k++) total[i][k] = 0.0f;
}
