// Attention within a sequence of consecutive rows of matrices: no cache, no mask.
#include "attention.cuh"

// One head of one sequence; keys and values point at its first row and column.
template <typename T, int D, int TOKENS, int KSTRIDE, int VSTRIDE>
struct RowsHead {
    const T *k, *v;
    bool aligned;
    int first; // of the page

    __device__ inline void page(int position) { first = position; }

    template <int N>
    __device__ inline void keys(int d, int p, float *out) const {
        const int row = first + p < TOKENS ? first + p : TOKENS - 1; // those behind are masked
        load_some<N>(k + (int64_t)row * KSTRIDE + d, aligned, out);
    }

    __device__ inline void stage_values(float *, int) const {}
    __device__ inline float value(int j, int d, const float *) const { return widen(v[(int64_t)(first + j) * VSTRIDE + d]); }
};

template <typename C, typename T>
__device__ inline void stage_rows(AttentionTile<C> &s, const T *q, int64_t stride, int queries, int tokens, float scale, int t) {
    if (t < C::Q) s.pos[t] = t < queries ? tokens - 1 : -1;
    for (int n = t; n < C::Q * C::D; n += attention_threads) {
        const int i = n / C::D, d = n % C::D;
        s.q[d][i] = i < queries ? widen(q[i * stride + d]) * scale : 0.0f;
    }
}
