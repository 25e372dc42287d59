// Causal attention over the paged KV cache. Whole: a block walks all pages of a tile of queries. Split: a block for each page of a token, and the last to
// arrive merges them in order. Both make the same sums.
#include "attention.cuh"
#include "cache.cuh"

// One KV head of one sequence. E: type of plain elements; bits 0, 4 or 8 and group of keys and values; offsets in a head (codegen/kir.h).
template <typename E, int D, int KBITS, int KGROUP, int VBITS, int VGROUP, int64_t VALUES, int64_t KGROUPS, int64_t VGROUPS, int64_t SIZE>
struct CachedHead {
    const KvView *view;
    int sequence, kv_head;
    const unsigned char *head;

    __device__ inline void page(int position) { head = cache_layer(view, sequence, position) + kv_head * SIZE; }

    // Towards the multiprocessors, whoever writes there still: only as far as all of them look.
    __device__ inline void prefetch(int t) const {
        for (int64_t at = t * 128; at < SIZE; at += attention_threads * 128) prefetch_line(head + at);
    }

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

// ---- one token, one page: a thread has a position and a part of the features, then a feature and a quarter of the positions ----

// The threads that work on a page; a block may have several such groups, with a page each.
__device__ inline void meet_page() { barrier(1 + threadIdx.x / attention_threads, attention_threads); }

template <typename C>
struct Narrow {
    // groups of threads with a quarter of the positions each, quarters of a thread; keys and values that may wait in registers
    static constexpr int QG = attention_threads / C::DL < 4 ? attention_threads / C::DL : 4, QT = 4 / QG;
    static constexpr bool EARLY_KEYS = C::PART <= 32, EARLY = QT * 16 * C::DT <= 64;
    static constexpr int floats = 4 * (64 * C::Q > C::Q * C::D ? 64 * C::Q : C::Q * C::D); // of parts in shared memory
    static constexpr int RESULT = C::Q * (C::D + 2);                                      // floats of a page: m, l and o of each query
};

// The queries of one token; q points at the first head.
template <typename C, typename T>
__device__ inline void stage_token(AttentionTile<C> &s, const T *q, int heads, int last, float scale, int t) {
    if (t < C::Q) s.pos[t] = t < heads ? last : -1;
    for (int n = t; n < C::Q * C::D; n += attention_threads) s.q[n % C::D][n / C::D] = n / C::D < heads ? widen(q[n]) * scale : 0.0f;
}

// m, l and o of the head's page, which begins at `position`: put(n, x) for each of Q, Q and Q x D floats. The queries need not have met yet.
template <typename C, int STEP, typename H, typename P>
__device__ inline void narrow_page(AttentionTile<C> &s, H &head, float *parts, int position, int last, int t, P put) {
    typedef Narrow<C> N;
    const int count = smaller(last + 1 - position, 64), d = t % C::DL, group = t / C::DL, part = t / 64, p = t % 64;
    const bool has_values = group < N::QG;
    float keys[N::EARLY_KEYS ? C::PART : 1], early[N::EARLY ? N::QT * 16 * C::DT : 1], x[C::Q];
    if constexpr (N::EARLY_KEYS) {
        if (part < C::PARTS)
            #pragma unroll
            for (int n = 0; n < C::PART; n += STEP) head.template keys<STEP>(part * C::PART + n, p, keys + n);
    }
    head.stage_values(s.values, t);
    meet_page();
    if constexpr (N::EARLY) {
        if (has_values)
            #pragma unroll
            for (int i = 0; i < N::QT * 16 * C::DT; i++) {
                const int j = (group * N::QT * 16) + i / C::DT, f = d + i % C::DT * C::DL;
                early[i] = j < count && f < C::D ? head.value(j, f, s.values) : 0.0f;
            }
    }
    if (part < C::PARTS) {
        if constexpr (N::EARLY_KEYS) {
            #pragma unroll
            for (int i = 0; i < C::Q; i++) x[i] = 0.0f;
            #pragma unroll
            for (int n = 0; n < C::PART; n++) {
                float q[C::Q];
                read_floats<C::Q>(&s.q[part * C::PART + n][0], q);
                #pragma unroll
                for (int i = 0; i < C::Q; i++) x[i] = __fmaf_rn(q[i], keys[n], x[i]);
            }
        } else {
            score_chain<C, STEP, C::Q, 2>(s, head, part, p, 0, x);
        }
        #pragma unroll
        for (int i = 0; i < C::Q; i++) parts[(part * C::Q + i) * 64 + p] = x[i];
    }
    meet_page();
    for (int q = t / 32; q < C::Q; q += attention_threads / 32) {
        const int lane = t % 32;
        #pragma unroll
        for (int half = 0; half < 64; half += 32) {
            const float *from = parts + q * 64 + lane + half;
            float sum = from[0];
            if constexpr (C::PARTS == 4) sum = (sum + from[C::Q * 64]) + (from[2 * C::Q * 64] + from[3 * C::Q * 64]);
            s.p[lane + half][q] = position + lane + half <= s.pos[q] ? sum : nothing();
        }
        float m, l;
        page_softmax(s, q, lane, m, l);
        if (lane == 0) put(q, m), put(C::Q + q, l);
    }
    meet_page();
    if (has_values)
        #pragma unroll
        for (int u = 0; u < N::QT; u++) {
            const int quarter = group * N::QT + u;
            #pragma unroll
            for (int k = 0; k < C::DT; k++) {
                const int f = d + k * C::DL;
                if (f >= C::D) continue;
                #pragma unroll
                for (int i = 0; i < C::Q; i++) x[i] = 0.0f;
                #pragma unroll
                for (int n = 0; n < 16; n++) {
                    const int j = quarter * 16 + n;
                    if (j >= count) break;
                    const float v = N::EARLY ? early[(u * 16 + n) * C::DT + k] : head.value(j, f, s.values);
                    #pragma unroll
                    for (int i = 0; i < C::Q; i++) x[i] = __fmaf_rn(s.p[j][i], v, x[i]);
                }
                #pragma unroll
                for (int i = 0; i < C::Q; i++) parts[(quarter * C::Q + i) * C::D + f] = x[i];
            }
        }
    meet_page();
    constexpr int size = C::Q * C::D;
    for (int n = t; n < size; n += attention_threads)
        put(2 * C::Q + n, (parts[n] + parts[size + n]) + (parts[2 * size + n] + parts[3 * size + n]));
}

constexpr int merged_pages = 32; // at once

// Merges the results of `pages` pages in order: results[page * next + n] is float n of one; sum(n, o / l) gets each of Q x D sums. FAR: other blocks have made
// them, in memory; read behind their fence. `factors`: four floats a query and page of those that are merged at once.
template <typename C, bool FAR, typename F>
__device__ inline void narrow_merge(float *factors, const float *results, int64_t next, int pages, int t, F sum) {
    constexpr int some = merged_pages, Q = C::Q, size = Q * C::D, mine = (size + attention_threads - 1) / attention_threads;
    float total[mine] = {}, l[mine] = {}, *scores = factors, *sums = scores + some * Q, *befores = sums + some * Q, *nows = befores + some * Q;
    auto read = [&](int page, int n) {
        const float *from = results + page * next + n;
        return FAR ? *(const volatile float *)from : *from;
    };
    float first_m = nothing(); // of query t % Q, over the pages in front
    for (int first = 0; first < pages; first += some) {
        const int n = smaller(pages - first, some);
        if (FAR) {
            for (int i = t; i < n * 2 * Q; i += attention_threads) {
                const int page = i / (2 * Q), at = i % (2 * Q);
                (at < Q ? scores : sums - Q)[page * Q + at] = read(first + page, at);
            }
            meet_page();
        }
        auto score = [&](int page, int q) { return FAR ? scores[page * Q + q] : read(page, q); };
        // a page and query a thread: each finds the largest score so far by itself
        for (int i = t; i < n * Q; i += attention_threads) {
            const int page = i / Q, q = i % Q;
            float m = first_m, ignored = 0.0f;
            for (int k = 0; k < page; k++) m = larger(m, score(k, q));
            merge(score(page, q), 0.0f, m, ignored, befores[i], nows[i]);
        }
        if (FAR)
            for (int k = 0; k < n; k++) first_m = larger(first_m, score(k, t % Q));
        meet_page();
        #pragma unroll 4
        for (int i = 0; i < n; i++)
            #pragma unroll
            for (int k = 0; k < mine; k++) {
                const int at = t + k * attention_threads, q = at / C::D;
                if (at >= size) continue;
                const float before = befores[i * Q + q], now = nows[i * Q + q];
                total[k] = __fmaf_rn(total[k], before, read(first + i, 2 * Q + at) * now);
                l[k] = __fmaf_rn(l[k], before, (FAR ? sums[i * Q + q] : read(i, Q + q)) * now);
            }
        if (FAR) meet_page();
    }
    #pragma unroll
    for (int k = 0; k < mine; k++) {
        const int at = t + k * attention_threads;
        if (at < size) sum(at, divide(total[k], l[k]));
    }
}
