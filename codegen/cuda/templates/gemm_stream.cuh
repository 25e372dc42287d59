// GEMM of few rows: the time is that of reading the weights once. Every warp streams its own rows from memory into registers, several chunks ahead,
// and begins before the kernel in front has ended; the tokens of the block's share of k lie in shared memory as a whole, so the loop has no barrier.
// Integer sums: PHASES warps share a block of rows, each with every PHASES-th chunk, and SPLIT blocks of the grid share k; the last one to arrive
// adds up. Sums are exact, so their order is free. Float sums have one warp and one block.
//
// P says where the tokens come from: memory; or a prologue, which every block runs by itself, with all its threads, while its first weights are on the
// way. It writes the codes of all of k to where tokens lie; what else it makes lies in shared memory, behind what is used here, and args point there.
#include "gemm.cuh"

struct TokensOfMemory {
    static constexpr bool HERE = false;
    __device__ void operator()() const {}
};

template <class S, class W, class P = TokensOfMemory>
__device__ __forceinline__ void gemm_stream(const typename S::Args &args, const P &prologue = P()) {
    typedef typename S::Acc Acc;
    uint8_t *t = shared_memory, *tokens = shared_memory + S::T_BYTES;
    int thread = threadIdx.x, lane = thread % 32, warp = thread / 32, block = warp % 4, phase = warp / 4;
    int unit = blockIdx.y, i0 = blockIdx.x * S::TOKENS;
    int begin = S::CHUNKS * blockIdx.z / S::SPLIT, end = S::CHUNKS * (blockIdx.z + 1) / S::SPLIT;
    const uint8_t *weights = (const uint8_t *)args.buffers[S::W] + (int64_t)unit * S::CHUNKS * W::CHUNK;

    typename W::Raw raw[S::DEPTH][1];
#pragma unroll
    for (int d = 0; d < S::DEPTH; d++) {
        int c = begin + phase + d * S::PHASES;
        if (c < end && (!P::HERE || thread < S::ALL_THREADS)) W::template load<false>(raw[d][0], weights + (int64_t)c * W::CHUNK, block, lane);
    }
    TileEnd<S> results;
    results.load_columns(args, unit * 64, thread);
    let_next_begin();
    wait_for_previous();

    const uint8_t *mine = tokens; // of this block's chunks
    if constexpr (P::HERE) {
        prologue();
        __syncthreads();
        if (thread >= S::ALL_THREADS) return; // only the prologue has use for so many
        mine += begin * (S::TOKENS * 128);
        if constexpr (S::RANK > 0) {
            Branch<S>::stage(args, i0, t, thread, S::ALL_THREADS);
            __syncthreads();
        }
    } else {
        int atoms = (args.rows + 7) / 8, have = atoms - i0 / 8;
        if (have > S::TOKENS / 8) have = S::TOKENS / 8;
        const uint8_t *x = (const uint8_t *)args.buffers[S::A] + (int64_t)(i0 / 8) * 1024;
        for (int c = begin; c < end; c++)
            for (int at = thread * 16; at < have * 1024; at += S::ALL_THREADS * 16)
                copy_async(shared_address(tokens + (c - begin) * (S::TOKENS * 128) + at), x + (int64_t)c * atoms * 1024 + at);
        copy_commit();
        if constexpr (S::RANK > 0) Branch<S>::stage(args, i0, t, thread, S::ALL_THREADS);
        copy_wait<0>();
        __syncthreads();
    }

    if constexpr (S::SPLIT == 1) results.load_rows(args, i0);
    Acc acc[1][S::TOKENS / 2];
    typename S::Sum sums[1][S::TOKENS / 2];
#pragma unroll
    for (int r = 0; r < S::TOKENS / 2; r++) acc[0][r] = 0, sums[0][r] = 0;
    for (int first = begin + phase; first < end; first += S::DEPTH * S::PHASES) {
#pragma unroll
        for (int d = 0; d < S::DEPTH; d++) {
            int c = first + d * S::PHASES, next = c + S::DEPTH * S::PHASES;
            if (c < end) {
                multiply_chunk<S, W>(acc, sums, raw[d], shared_address(mine + (c - begin) * (S::TOKENS * 128)), lane);
                if (next < end) W::template load<false>(raw[d][0], weights + (int64_t)next * W::CHUNK, block, lane);
            }
        }
    }

    if constexpr (S::PHASES > 1) { // lanes of the same place in each phase hold sums of the same elements
        Acc *parts = (Acc *)tokens;
        __syncthreads();
        if (phase > 0)
#pragma unroll
            for (int r = 0; r < S::TOKENS / 2; r++) parts[(((phase - 1) * 4 + block) * (S::TOKENS / 2) + r) * 32 + lane] = acc[0][r];
        __syncthreads();
        if (phase == 0)
#pragma unroll
            for (int p = 0; p < S::PHASES - 1; p++)
#pragma unroll
                for (int r = 0; r < S::TOKENS / 2; r++) acc[0][r] += parts[((p * 4 + block) * (S::TOKENS / 2) + r) * 32 + lane];
    }

    if constexpr (S::SPLIT > 1) {
        static __shared__ int last;
        int tile = blockIdx.y * gridDim.x + blockIdx.x;
        int *counter = (int *)args.workspace + tile;
        Acc *parts = (Acc *)((uint8_t *)args.workspace + S::COUNTERS) + (int64_t)tile * S::SPLIT * (64 * S::TOKENS);
        if (phase == 0)
#pragma unroll
            for (int r = 0; r < S::TOKENS / 2; r++)
                __stcg(&parts[((blockIdx.z * 4 + block) * (S::TOKENS / 2) + r) * 32 + lane], acc[0][r]);
        __threadfence();
        __syncthreads();
        if (thread == 0) {
            last = atomicAdd(counter, 1) == S::SPLIT - 1;
            if (last) *counter = 0; // as the next kernel expects it
            __threadfence();
        }
        __syncthreads();
        if (!last) return;
        if (phase == 0)
            for (int z = 0; z < S::SPLIT; z++) {
                if (z == (int)blockIdx.z) continue;
#pragma unroll
                for (int r = 0; r < S::TOKENS / 2; r++) acc[0][r] += __ldcg(&parts[((z * 4 + block) * (S::TOKENS / 2) + r) * 32 + lane]);
            }
    }
    finish_tile<S, W>(args, results, acc, tokens, t, unit * 64, block, phase == 0, i0, thread, S::SPLIT == 1);
}
