// GEMM by mma.sync: weights from memory into registers a chunk ahead (each is used by one warp only), tokens through a ring of STAGES chunks in
// shared memory.
#include "gemm.cuh"

template <class S, class W> __device__ void gemm_mma(const typename S::Args &args) {
    typedef typename S::Acc Acc;
    uint8_t *t = shared_memory, *ring = shared_memory + S::T_BYTES;
    constexpr int STAGE = S::TOKENS * 128;
    int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    int channel = blockIdx.y * S::CHANNELS, i0 = blockIdx.x * S::TOKENS, block = warp * S::BLOCKS;

    const uint8_t *weights[S::BLOCKS]; // of each block of 16 rows; rows behind the last are read from the last unit, and not stored
    int in_unit[S::BLOCKS];
#pragma unroll
    for (int b = 0; b < S::BLOCKS; b++) {
        int unit = (channel + (block + b) * 16) / 64;
        if (unit > (S::N - 1) / 64) unit = (S::N - 1) / 64;
        weights[b] = (const uint8_t *)args.buffers[S::W] + (int64_t)unit * S::CHUNKS * W::CHUNK;
        in_unit[b] = (block + b) % 4;
    }
    typename W::Raw raw[2][S::BLOCKS];
#pragma unroll
    for (int b = 0; b < S::BLOCKS; b++) W::template load<false>(raw[0][b], weights[b], in_unit[b], lane);
    let_next_begin();
    wait_for_previous();

    int atoms = (args.rows + 7) / 8, have = atoms - i0 / 8;
    if (have > S::TOKENS / 8) have = S::TOKENS / 8;
    const uint8_t *x = (const uint8_t *)args.buffers[S::A] + (int64_t)(i0 / 8) * 1024;
    auto fetch = [&](int c) {
        if (c < S::CHUNKS)
            for (int at = thread * 16; at < have * 1024; at += S::THREADS * 16)
                copy_async(shared_address(ring + c % S::STAGES * STAGE + at), x + (int64_t)c * atoms * 1024 + at);
        copy_commit();
    };
    for (int c = 0; c < S::STAGES - 1; c++) fetch(c);
    if constexpr (S::RANK > 0) Branch<S>::stage(args, i0, t, thread, S::THREADS);

    Acc acc[S::BLOCKS][S::TOKENS / 2];
    typename S::Sum sums[S::BLOCKS][S::TOKENS / 2];
#pragma unroll
    for (int b = 0; b < S::BLOCKS; b++)
#pragma unroll
        for (int r = 0; r < S::TOKENS / 2; r++) acc[b][r] = 0, sums[b][r] = 0;
    for (int first = 0; first < S::CHUNKS; first += 2) {
#pragma unroll
        for (int d = 0; d < 2; d++) {
            int c = first + d;
            if (c < S::CHUNKS) {
                copy_wait<S::STAGES - 2>();
                __syncthreads(); // chunk c is there for all, and the place of chunk c - 1 is free
                fetch(c + S::STAGES - 1);
                if (c + 1 < S::CHUNKS)
#pragma unroll
                    for (int b = 0; b < S::BLOCKS; b++)
                        W::template load<false>(raw[1 - d][b], weights[b] + (int64_t)(c + 1) * W::CHUNK, in_unit[b], lane);
                multiply_chunk<S, W>(acc, sums, raw[d], shared_address(ring + c % S::STAGES * STAGE), lane);
            }
        }
    }
    copy_wait<0>();
    finish_tile<S, W>(args, acc, ring, t, channel, block, true, i0, thread);
}
