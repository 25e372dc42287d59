// GEMM by wgmma (sm_90a): a thread of its own fetches chunks of weights and tokens by bulk copies into a ring of STAGES, GROUPS warpgroups take weights from
// there into registers (operand A), 64 channels each, and multiply them by the tokens where they lie (operand B). CLUSTER blocks of neighbouring
// channels share the tokens: each fetches a part for all. wgmma() is printed for the tile's size by gemm_wgmma.c.
//
// Chunk c lies in stage c % STAGES, which has two mbarriers. It is full when the bytes have come; it is empty again when all have read them: every thread of
// the block arrives (racecheck of compute-sanitizer knows of no lane that arrives for others), and one of each warp of other blocks, which got the same tokens.
#include "hopper.cuh"
#include "gemm.cuh"

template <class S, class W> struct Ring {
    static constexpr int TOKEN_BYTES = S::TOKENS * 128, WEIGHT_BYTES = S::GROUPS * W::CHUNK,
                         STAGE = (TOKEN_BYTES + WEIGHT_BYTES + 1023) / 1024 * 1024;
};

template <class S, class W> __device__ __forceinline__ void gemm_wgmma_fetch(const typename S::Args &args, uint32_t ring, uint32_t full, uint32_t empty) {
    typedef Ring<S, W> R;
    constexpr int UNITS = (S::N + 63) / 64, PART = S::TOKENS / S::CLUSTER; // tokens that a block fetches of a chunk
    int unit = blockIdx.y * S::GROUPS, i0 = blockIdx.x * S::TOKENS, rank = S::CLUSTER > 1 ? cluster_rank() : 0;
    int units = UNITS - unit < S::GROUPS ? UNITS - unit : S::GROUPS; // none behind the last channel
    const uint8_t *weights = (const uint8_t *)args.buffers[S::W] + (int64_t)unit * S::CHUNKS * W::CHUNK;
    int atoms = (args.rows + 7) / 8, have = (atoms - i0 / 8) * 1024;
    if (have > R::TOKEN_BYTES) have = R::TOKEN_BYTES;
    int part = have - rank * PART * 128; // this block's
    part = part < 0 ? 0 : part > PART * 128 ? PART * 128 : part;
    const uint8_t *x = (const uint8_t *)args.buffers[S::A] + (int64_t)(i0 / 8) * 1024 + rank * PART * 128;

    auto fetch_weights = [&](int c) {
        int s = c % S::STAGES;
        mbarrier_expect(full + 8 * s, have + (units > 0 ? units * W::CHUNK : 0));
        for (int u = 0; u < units; u++)
            bulk_copy(ring + s * R::STAGE + R::TOKEN_BYTES + u * W::CHUNK, weights + ((int64_t)u * S::CHUNKS + c) * W::CHUNK, W::CHUNK, full + 8 * s);
    };
    auto fetch_tokens = [&](int c) {
        int s = c % S::STAGES;
        uint32_t to = ring + s * R::STAGE + rank * PART * 128;
        if (S::CLUSTER == 1)
            bulk_copy(to, x + (int64_t)c * atoms * 1024, part, full + 8 * s);
        else if (part > 0)
            bulk_copy_to(to, x + (int64_t)c * atoms * 1024, part, full + 8 * s, (1 << S::CLUSTER) - 1);
    };
    constexpr int AHEAD = S::STAGES < S::CHUNKS ? S::STAGES : S::CHUNKS;
    for (int c = 0; c < AHEAD; c++) fetch_weights(c); // no other kernel writes weights
    wait_for_previous();
    for (int c = 0; c < AHEAD; c++) fetch_tokens(c);
    for (int c = AHEAD; c < S::CHUNKS; c++) {
        mbarrier_wait(empty + 8 * (c % S::STAGES), (c / S::STAGES - 1) & 1);
        fetch_weights(c);
        fetch_tokens(c);
    }
}

template <class S, class W> __device__ void gemm_wgmma(const typename S::Args &args) {
    typedef typename S::Acc Acc;
    typedef Ring<S, W> R;
    uint8_t *shared = shared_memory + (1024 - shared_address(shared_memory) % 1024) % 1024; // the same in every block of a cluster
    uint8_t *t = shared + S::STAGES * R::STAGE;
    uint32_t ring = shared_address(shared), full = ring + S::STAGES * R::STAGE + S::ROWS_BYTES, empty = full + 8 * S::STAGES;
    int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    if (thread == 0) {
        for (int s = 0; s < S::STAGES; s++) {
            mbarrier_init(full + 8 * s, 1);
            mbarrier_init(empty + 8 * s, 4 * S::GROUPS * (32 + S::CLUSTER - 1));
        }
        mbarrier_init_fence();
    }
    if (S::CLUSTER > 1)
        cluster_barrier();
    else
        __syncthreads();
    let_next_begin();

    if (warp >= 4 * S::GROUPS) {
        if (S::GROUPS == 2) registers_down<40>(); // together as many as the block began with: 384 threads of 168
        if (thread == 128 * S::GROUPS) gemm_wgmma_fetch<S, W>(args, ring, full, empty);
    } else {
        if (S::GROUPS == 2) registers_up<232>();
        int group = warp / 4, block = warp % 4, i0 = blockIdx.x * S::TOKENS, channel = blockIdx.y * S::CHANNELS;
        int rank = S::CLUSTER > 1 ? cluster_rank() : 0;
        wait_for_previous(); // other kernels write values of rows, and what the epilogue reads
        if constexpr (S::RANK > 0) {
            Branch<S>::stage(args, i0, t, thread, S::THREADS);
            barrier(1, S::THREADS);
        }
        if constexpr (TileEnd<S>::STAGES_ROWS) TileEnd<S>::stage_rows(args, i0, t, thread);
        Acc acc[1][S::TOKENS / 2];
#pragma unroll
        for (int r = 0; r < S::TOKENS / 2; r++) acc[0][r] = 0;
        uint32_t a[2][W::MMAS][4]; // of the chunk being multiplied, and of the next
        auto step = [&](int c, uint32_t(&a)[W::MMAS][4]) {
            int s = c % S::STAGES;
            mbarrier_wait(full + 8 * s, c / S::STAGES & 1);
            typename W::Raw raw;
            W::template load<true>(raw, shared + s * R::STAGE + R::TOKEN_BYTES + group * W::CHUNK, block, lane);
#pragma unroll
            for (int m = 0; m < W::MMAS; m++) W::fragment(a[m], raw, m);
            wgmma_fence();
            uint64_t b = wgmma_operand(ring + s * R::STAGE);
#pragma unroll
            for (int m = 0; m < W::MMAS; m++) wgmma(acc[0], a[m], b + 2 * m);
            wgmma_commit();
            wgmma_wait<1>();
            if (c > 0 && c - 1 + S::STAGES < S::CHUNKS) { // something else will come there
                mbarrier_arrive(empty + 8 * ((c - 1) % S::STAGES));
                if (S::CLUSTER > 1 && lane < S::CLUSTER && lane != rank) mbarrier_arrive_at(empty + 8 * ((c - 1) % S::STAGES), lane);
            }
        };
        if constexpr (S::CHUNKS % 2) step(0, a[1]); // in front: behind the loop the assembler would wait for each wgmma
        for (int c = S::CHUNKS % 2; c < S::CHUNKS; c += 2) {
            step(c, a[0]);
            step(c + 1, a[1]);
        }
        TileEnd<S> end;
        if constexpr (TileEnd<S>::STAGES_ROWS) end.staged = t;
        end.load_columns(args, channel, thread); // while the last products are made
        wgmma_wait<0>();
        finish_tile<S, W>(args, end, acc, shared, t, channel, group * 4 + block, true, i0, thread, false);
    }
    if (S::CLUSTER > 1) cluster_barrier(); // no block leaves while another may write to its memory
}
