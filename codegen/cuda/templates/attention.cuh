// Attention of Q queries that read the same keys and values, 64 positions (a page) at a time, in f32.
//
// Every page is softmax by itself: m the largest score, p = exp(score - m), l the sum of p, o the sum of p v; then pages are merged in order of position. A score is four chains
// of fma, over a quarter of the features each, o four chains over a quarter of the page's positions each, added as (0 + 1) + (2 + 3). So a query's bits
// depend on nothing but its own keys and values, whoever makes which page. A page behind a query's position changes nothing.
//
// C holds the constants. H gives keys and values: page(position), keys<N>(feature, p, out), stage_values(shared, t), value(j, d, shared).
#include "base.cuh"

constexpr int attention_threads = 256;

// 128 bytes into the L2 cache.
__device__ inline void prefetch_line(const void *p) {
#ifdef __CUDA_ARCH__
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#endif
}

// D features, of which PART make a chain; Q queries; VALUE_FLOATS of shared memory for what values need.
template <int D_, int Q_, int VALUE_FLOATS_>
struct AttentionShape {
    static constexpr int D = D_, Q = Q_, VALUE_FLOATS = VALUE_FLOATS_, QP = Q + 4;
    static constexpr int PARTS = D % 8 == 0 ? 4 : 1, PART = D / PARTS;
    static constexpr int DL = D <= 16 ? 16 : D <= 32 ? 32 : D <= 64 ? 64 : 128, DT = (D + DL - 1) / DL; // lanes along D, features of each
};

template <typename C>
struct AttentionTile {
    float q[C::D][C::Q];                        // times the scale
    float p[64][C::QP];                         // scores, then probabilities
    float m[C::Q], l[C::Q];                     // of the pages so far
    float before[C::Q], now[C::Q];              // what merging multiplies those and this page by
    int pos[C::Q];                              // the last position a query sees; -1: no query
    float values[C::VALUE_FLOATS];
};

template <int N>
__device__ inline void read_floats(const float *p, float *x) {
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

__device__ inline bool is_nothing(float m) { return m == __int_as_float(0xff800000); }
__device__ inline float nothing() { return __int_as_float(0xff800000); }

// The chain of part `part` of the features for N queries from `first` on, AHEAD steps' keys at once.
template <typename C, int STEP, int N, int AHEAD, typename H>
__device__ inline void score_chain(const AttentionTile<C> &s, const H &head, int part, int p, int first, float *x) {
    #pragma unroll
    for (int i = 0; i < N; i++) x[i] = 0.0f;
    #pragma unroll AHEAD
    for (int d = part * C::PART; d < (part + 1) * C::PART; d += STEP) {
        float k[STEP];
        head.template keys<STEP>(d, p, k);
        #pragma unroll
        for (int n = 0; n < STEP; n++) {
            float q[N];
            read_floats<N>(&s.q[d + n][first], q);
            #pragma unroll
            for (int i = 0; i < N; i++) x[i] = __fmaf_rn(q[i], k[n], x[i]);
        }
    }
}

// What a page's softmax needs to be merged: the largest score and the sum. Scores of query q become probabilities. For a whole warp.
template <typename C>
__device__ inline void page_softmax(AttentionTile<C> &s, int q, int lane, float &m, float &l) {
    float a = s.p[lane][q], b = s.p[lane + 32][q];
    m = larger(a, b);
    #pragma unroll
    for (int h = 16; h > 0; h /= 2) m = larger(m, __shfl_xor_sync(0xffffffffu, m, h));
    const float center = is_nothing(m) ? 0.0f : m;
    a = exponential(a - center);
    b = exponential(b - center);
    l = a + b;
    #pragma unroll
    for (int h = 16; h > 0; h /= 2) l += __shfl_xor_sync(0xffffffffu, l, h);
    s.p[lane][q] = a;
    s.p[lane + 32][q] = b;
}

// Merges a page of (pm, pl) behind pages of (m, l); what both sums are multiplied by.
__device__ inline void merge(float pm, float pl, float &m, float &l, float &before, float &now) {
    const float top = larger(m, pm);
    before = m == top ? 1.0f : exponential(m - top);
    now = is_nothing(pm) ? 0.0f : exponential(pm - top);
    l = __fmaf_rn(l, before, pl * now);
    m = top;
}

// ---- many queries: a thread has a position and a quarter of the queries, then DT features of QN queries ----

template <typename C>
struct Wide {
    static constexpr int QG = attention_threads / C::DL, QN = C::Q / QG;
    static_assert(C::Q % QG == 0 && C::Q % 4 == 0, "queries are dealt evenly");
};

template <typename C>
__device__ inline void clear_totals(AttentionTile<C> &s, int t, float (*total)[C::DT]) {
    if (t < C::Q) s.m[t] = nothing(), s.l[t] = 0.0f;
    #pragma unroll
    for (int i = 0; i < Wide<C>::QN * C::DT; i++) total[i / C::DT][i % C::DT] = 0.0f;
}

template <typename C, int STEP, typename H>
__device__ inline void wide_scores(AttentionTile<C> &s, const H &head, int position, int t) {
    constexpr int N = C::Q / 4;
    const int p = t % 64, first = t / 64 * N;
    float x[N], y[N], z[N];
    score_chain<C, STEP, N, 1>(s, head, 0, p, first, x);
    if constexpr (C::PARTS == 4) {
        score_chain<C, STEP, N, 1>(s, head, 1, p, first, y);
        #pragma unroll
        for (int i = 0; i < N; i++) x[i] += y[i];
        score_chain<C, STEP, N, 1>(s, head, 2, p, first, y);
        score_chain<C, STEP, N, 1>(s, head, 3, p, first, z);
        #pragma unroll
        for (int i = 0; i < N; i++) x[i] += y[i] + z[i];
    }
    #pragma unroll
    for (int i = 0; i < N; i++) s.p[p][first + i] = position + p <= s.pos[first + i] ? x[i] : nothing();
}

template <typename C, typename H>
__device__ inline void value_chain(const AttentionTile<C> &s, const H &head, int quarter, int count, int d, int first,
                                   float (*o)[C::DT]) {
    constexpr int QN = Wide<C>::QN;
    #pragma unroll
    for (int i = 0; i < QN * C::DT; i++) o[i / C::DT][i % C::DT] = 0.0f;
    const int end = smaller(quarter * 16 + 16, count);
    #pragma unroll 4
    for (int j = quarter * 16; j < end; j++) {
        float v[C::DT], p[QN];
        #pragma unroll
        for (int k = 0; k < C::DT; k++) v[k] = d + k * C::DL < C::D ? head.value(j, d + k * C::DL, s.values) : 0.0f;
        read_floats<QN>(&s.p[j][first], p);
        #pragma unroll
        for (int i = 0; i < QN * C::DT; i++) o[i / C::DT][i % C::DT] = __fmaf_rn(p[i / C::DT], v[i % C::DT], o[i / C::DT][i % C::DT]);
    }
}

template <typename C, typename H>
__device__ inline void wide_values(const AttentionTile<C> &s, const H &head, int count, int t, float (*total)[C::DT]) {
    constexpr int QN = Wide<C>::QN, n = QN * C::DT;
    const int d = t % C::DL, first = t / C::DL * QN;
    float x[QN][C::DT], y[QN][C::DT], z[QN][C::DT];
    value_chain<C>(s, head, 0, count, d, first, x);
    value_chain<C>(s, head, 1, count, d, first, y);
    #pragma unroll
    for (int i = 0; i < n; i++) x[i / C::DT][i % C::DT] += y[i / C::DT][i % C::DT];
    value_chain<C>(s, head, 2, count, d, first, y);
    value_chain<C>(s, head, 3, count, d, first, z);
    #pragma unroll
    for (int i = 0; i < n; i++) {
        const float o = x[i / C::DT][i % C::DT] + (y[i / C::DT][i % C::DT] + z[i / C::DT][i % C::DT]);
        total[i / C::DT][i % C::DT] =
            __fmaf_rn(total[i / C::DT][i % C::DT], s.before[first + i / C::DT], o * s.now[first + i / C::DT]);
    }
}

// Positions [0, end) for a tile whose queries and positions are staged.
template <typename C, int STEP, typename H>
__device__ inline void wide_walk(AttentionTile<C> &s, H &head, int end, int t, float (*total)[C::DT]) {
    clear_totals(s, t, total);
    __syncthreads();
    for (int position = 0; position < end; position += 64) {
        head.page(position);
        wide_scores<C, STEP>(s, head, position, t);
        head.stage_values(s.values, t);
        __syncthreads();
        for (int q = t / 32; q < C::Q; q += attention_threads / 32) {
            float m, l, before, now, all_m = s.m[q], all_l = s.l[q];
            page_softmax(s, q, t % 32, m, l);
            merge(m, l, all_m, all_l, before, now);
            __syncwarp();
            if (t % 32 == 0) s.m[q] = all_m, s.l[q] = all_l, s.before[q] = before, s.now[q] = now;
        }
        __syncthreads();
        wide_values(s, head, smaller(end - position, 64), t, total);
        __syncthreads();
    }
}
