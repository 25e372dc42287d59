// Causal attention over the paged KV cache. Positions go in chunks of 512 from position 0, each by itself, merged in order: by one block, or by the
// last to arrive of a block for each chunk. Both make the same sums.
#include "attention.cuh"
#include "cache.cuh"

constexpr int attention_chunk = 512;

// One KV head of one sequence. E: type of plain elements; bits 0, 4 or 8 and group of keys and values; offsets in a head (codegen/kir.h).
template <typename E, int D, int KBITS, int KGROUP, int VBITS, int VGROUP, int64_t VALUES, int64_t KGROUPS, int64_t VGROUPS, int64_t SIZE>
struct CachedHead {
    const KvView *view;
    int sequence, kv_head;
    const unsigned char *head;

    __device__ inline void page(int position) { head = cache_layer(view, sequence, position) + kv_head * SIZE; }

    template <int N>
    __device__ inline void keys(int d, int p, float *k) const {
        if constexpr (KBITS == 0) {
            #pragma unroll
            for (int n = 0; n < N; n++) k[n] = widen(((const E *)head)[(d + n) * 64 + p]);
        } else {
            const unsigned char *group = head + KGROUPS + d / KGROUP * 192;
            const float scale = widen(((const bf16 *)group)[p]), zero = (float)group[128 + p];
            #pragma unroll
            for (int n = 0; n < N; n++) {
                const int code = KBITS == 8 ? head[(d + n) * 64 + p] : head[(d + n) / 2 * 64 + p] >> ((d + n) & 1) * 4 & 15;
                k[n] = ((float)code - zero) * scale;
            }
        }
    }

    // Scales, then zero points, of each group of the page's values.
    __device__ inline void stage_values(float *to, int t) const {
        if constexpr (VBITS > 0)
            for (int n = t; n < D / VGROUP * 64; n += attention_threads) {
                const unsigned char *group = head + VGROUPS + n / 64 * 192;
                to[n / 64 * 128 + n % 64] = widen(((const bf16 *)group)[n % 64]);
                to[n / 64 * 128 + 64 + n % 64] = (float)group[128 + n % 64];
            }
    }

    __device__ inline float value(int j, int d, const float *groups) const {
        if constexpr (VBITS == 0) {
            return widen(((const E *)(head + VALUES))[j * D + d]);
        } else {
            const int code = VBITS == 8 ? head[VALUES + j * D + d] : head[VALUES + j * ((D + 1) / 2) + d / 2] >> (d & 1) * 4 & 15;
            const float *group = groups + d / VGROUP * 128 + j;
            return ((float)code - group[64]) * group[0];
        }
    }
};

// The tile's queries: query n is head n % HEADS of token first + n / HEADS, for `tokens` tokens and `heads` heads; q points at the first head.
template <typename C, int HEADS, typename T>
__device__ inline int stage_queries(AttentionTile<C> &s, const T *q, int64_t stride, const int *pos, int first, int tokens, int heads,
                                    float scale, int t) {
    int last = 0;
    for (int i = 0; i < tokens; i++) last = larger(last, pos[first + i]);
    __syncthreads(); // a tile before this one is done
    if (t < C::Q) s.pos[t] = t / HEADS < tokens && t % HEADS < heads ? pos[first + t / HEADS] : -1;
    for (int n = t; n < C::Q * C::D; n += attention_threads) {
        const int i = n / C::D, d = n % C::D;
        const bool there = i / HEADS < tokens && i % HEADS < heads;
        s.q[d][i] = there ? widen(q[(first + i / HEADS) * stride + i % HEADS * C::D + d]) * scale : 0.0f;
    }
    return last;
}

// Partial results of a chunk in the workspace: m, l, then o of the threads in turn.
template <typename C>
__device__ inline void store_partial(const AttentionTile<C> &s, float *to, int t, const float (*o)[C::DT]) {
    if (t < C::Q) to[t] = s.m[t], to[C::Q + t] = s.l[t];
    #pragma unroll
    for (int i = 0; i < C::QN; i++)
        #pragma unroll
        for (int k = 0; k < C::DT; k++) to[2 * C::Q + (i * C::DT + k) * attention_threads + t] = o[i][k];
}
template <typename C>
__device__ inline void load_partial(AttentionTile<C> &s, const volatile float *from, int t, float (*o)[C::DT]) {
    if (t < C::Q) s.m[t] = from[t], s.l[t] = from[C::Q + t];
    #pragma unroll
    for (int i = 0; i < C::QN; i++)
        #pragma unroll
        for (int k = 0; k < C::DT; k++) o[i][k] = from[2 * C::Q + (i * C::DT + k) * attention_threads + t];
}
