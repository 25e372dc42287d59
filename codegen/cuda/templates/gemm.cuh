// What the GEMMs on tensor cores share: operand B (tokens) in shared memory, the low-rank branch, and the end of a tile.
//
// The weights are operand A, so a tile of the result is channels x tokens, and few tokens waste little. S (printed by gemm.c) holds the kernel's
// shape: N channels, K, CHUNKS, TOKENS of a tile, WARPS that own rows, BLOCKS of 16 channels a warp, THREADS of the epilogue, RANK, SPLIT_TOKENS ...
// A warp's sums are acc[block][4 * (token / 8) + register], in the registers of mma.
#include "fragments.cuh"

// The fragments of B for the 4 mmas of a chunk and 8 tokens: an atom of 8 rows x 128 bytes. Pieces 2m and 2m + 1 belong to mma m.
__device__ __forceinline__ void load_tokens(uint32_t (&b)[8], uint32_t atom, int lane) {
    uint32_t row = atom + lane % 8 * 128;
    uint32_t low[4], high[4];
    ldmatrix_x4(low, row + ((lane / 8) ^ (lane % 8)) * 16);
    ldmatrix_x4(high, row + ((lane / 8 + 4) ^ (lane % 8)) * 16);
#pragma unroll
    for (int i = 0; i < 4; i++) b[i] = low[i], b[4 + i] = high[i];
}

// All mmas of a chunk. `sums` of a weight with group scales are of the group, and end in acc when it does.
template <class S, class W, class Sum, class Acc>
__device__ __forceinline__ void multiply_chunk(Acc (&acc)[S::BLOCKS][S::TOKENS / 2], Sum (&sums)[S::BLOCKS][S::TOKENS / 2],
                                               const typename W::Raw (&raw)[S::BLOCKS], uint32_t tokens, int lane) {
    uint32_t a[S::BLOCKS][W::MMAS][4];
#pragma unroll
    for (int block = 0; block < S::BLOCKS; block++)
#pragma unroll
        for (int m = 0; m < W::MMAS; m++) W::fragment(a[block][m], raw[block], m);
    if constexpr (W::GROUP_MMAS == 0) {
#pragma unroll
        for (int t = 0; t < S::TOKENS / 8; t++) {
            uint32_t b[8];
            load_tokens(b, tokens + t * 1024, lane);
#pragma unroll
            for (int m = 0; m < W::MMAS; m++)
#pragma unroll
                for (int block = 0; block < S::BLOCKS; block++)
                    mma(&acc[block][4 * t], a[block][m], b[2 * m], b[2 * m + 1]);
        }
    } else {
#pragma unroll
        for (int t = 0; t < S::TOKENS / 8; t++) {
            uint32_t b[8];
            load_tokens(b, tokens + t * 1024, lane);
#pragma unroll
            for (int block = 0; block < S::BLOCKS; block++)
#pragma unroll
                for (int m = 0; m < W::MMAS; m++) {
                    Sum *sum = &sums[block][4 * t];
                    mma(sum, a[block][m], b[2 * m], b[2 * m + 1]);
                    if ((m + 1) % W::GROUP_MMAS == 0) {
                        float2 scale = W::scale(raw[block], m);
#pragma unroll
                        for (int r = 0; r < 4; r++) {
                            acc[block][4 * t + r] =
                                __fadd_rn(acc[block][4 * t + r], __fmul_rn((float)W::finish(sum[r]), r < 2 ? scale.x : scale.y));
                            sum[r] = 0;
                        }
                    }
                }
        }
    }
}

// ---- the low-rank branch: sums += t u^T, on the accumulators themselves ----

// Rows of t in shared memory, bf16: PIECES of 16 bytes (a power of two), swizzled so that 8 rows of a piece have no bank in common. An f32 t is two
// parts, its bf16 and the bf16 of what that leaves, which are multiplied one behind the other.
template <class S> struct Branch {
    static constexpr int STEPS = (S::RANK + 15) / 16, PARTS = S::T_IS_F32 ? 2 : 1,
                         PIECES = S::RANK <= 16 ? 2 : S::RANK <= 32 ? 4 : S::RANK <= 64 ? 8 : S::RANK <= 128 ? 16 : 32,
                         PART = S::TOKENS * PIECES * 16, BYTES = PART * PARTS, // and behind them, Scaled::Row of each token, 16 bytes
                         ROW_BYTES = 16, MMAS = STEPS < 4 ? STEPS : 4,
                         UNITS = (STEPS + MMAS - 1) / MMAS, UNIT = 2048 * MMAS;

    static __device__ __forceinline__ uint32_t place(int row, int piece) {
        int turn = PIECES >= 8 ? row % 8 : PIECES == 4 ? row / 2 % 4 : row / 4 % 2;
        return (uint32_t)((row * PIECES + (piece ^ turn)) * 16);
    }

    static __device__ __forceinline__ typename S::Scaled::Row &row(uint8_t *shared, int token) {
        return *(typename S::Scaled::Row *)(shared + BYTES + token * ROW_BYTES);
    }

    static __device__ void stage(const typename S::Args &args, int i0, uint8_t *shared, int thread, int threads) {
        static_assert(sizeof(typename S::Scaled::Row) <= ROW_BYTES, "values of a row");
        const void *t = args.buffers[S::T];
        int rows = args.rows;
        for (int token = thread; token < S::TOKENS; token += threads)
            row(shared, token) = S::Scaled::row(args, i0 + token < rows ? i0 + token : rows - 1);
        for (int at = thread; at < S::TOKENS * PIECES; at += threads) {
            int row = at / PIECES, piece = at % PIECES;
            uint32_t high[4] = {0, 0, 0, 0}, low[4] = {0, 0, 0, 0};
            if (i0 + row < rows && piece * 8 < S::RANK) { // RANK is a multiple of 8
                int64_t from = (int64_t)(i0 + row) * S::T_STRIDE + piece * 8;
#pragma unroll
                for (int p = 0; p < 4; p++) {
                    if (S::T_IS_F32) {
                        float x = ((const float *)t)[from + 2 * p], y = ((const float *)t)[from + 2 * p + 1];
                        bf16 hx = round_to_bf16(x), hy = round_to_bf16(y);
                        bf16 lx = round_to_bf16(x - widen(hx)), ly = round_to_bf16(y - widen(hy));
                        high[p] = hx.bits | (uint32_t)hy.bits << 16;
                        low[p] = lx.bits | (uint32_t)ly.bits << 16;
                    } else {
                        high[p] = ((const uint32_t *)t)[from / 2 + p];
                    }
                }
            }
            *(uint4 *)(shared + place(row, piece)) = make_uint4(high[0], high[1], high[2], high[3]);
            if (PARTS == 2) *(uint4 *)(shared + PART + place(row, piece)) = make_uint4(low[0], low[1], low[2], low[3]);
        }
    }

    // For the block of 16 channels from `channel` on.
    static __device__ __forceinline__ void add(float (&sum)[S::TOKENS / 2], const uint8_t *u, int channel, uint32_t t, int lane) {
        const uint8_t *unit = u + (int64_t)(channel / 64) * UNITS * UNIT + channel % 64 / 16 * (MMAS * 512) + lane * 16;
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            uint4 w = *(const uint4 *)(unit + step / MMAS * UNIT + step % MMAS * 512);
            uint32_t a[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
            for (int part = 0; part < PARTS; part++)
#pragma unroll
                for (int pair = 0; pair < (S::TOKENS + 15) / 16; pair++) { // two times 8 tokens
                    int row = pair * 16 + lane / 16 * 8 + lane % 8;
                    if (S::TOKENS == 8) row = lane % 8;
                    uint32_t b[4];
                    ldmatrix_x4(b, t + part * PART + place(row, 2 * step + lane / 8 % 2));
                    mma(&sum[8 * pair], a, b[0], b[1]);
                    if (S::TOKENS > 8) mma(&sum[(8 * pair + 4) % (S::TOKENS / 2)], a, b[2], b[3]);
                }
        }
    }
};

// ---- the end of a tile ----

// Sums go through shared memory, so that neighbouring threads have neighbouring channels in the epilogue, WIDTH of them each: SPLIT_TOKENS tokens at
// a time. What the epilogue reads of other matrices is read for several tokens before the first is used.
template <class S> struct TileEnd {
    typedef typename S::Epilogue Epilogue;
    static constexpr int CHANNELS = S::CHANNELS, STRIDE = CHANNELS + 4, AT_ONCE = S::SPLIT_TOKENS, WIDTH = Epilogue::WIDTH,
                         ACROSS = CHANNELS / WIDTH, DOWN = S::THREADS / ACROSS, TURNS = AT_ONCE / DOWN > 0 ? AT_ONCE / DOWN : 1,
                         BATCH = TURNS < 8 ? TURNS : 8;
    int c0, j, down; // this thread's first channel in the tile and in the matrix; its token of each turn
    typename Epilogue::Col col;
    typename Epilogue::Row row[BATCH];
    typename Epilogue::Elem elem[BATCH];
    const uint8_t *staged = nullptr; // values of the tile's rows in shared memory, ROW_BYTES each

    // Values of columns are weights: they may be read before the kernel in front has ended. `channel` is the tile's first.
    __device__ __forceinline__ void load_columns(const typename S::Args &args, int channel, int thread) {
        c0 = thread % ACROSS * WIDTH, j = channel + c0, down = thread / ACROSS;
        col = Epilogue::col(args, j < S::N ? j : S::N - WIDTH);
    }

    // Values of the rows from i0 on, for whoever has time to wait for them. They are seen behind a barrier.
    static constexpr int ROW_BYTES = 16;
    static constexpr bool STAGES_ROWS = S::RANK == 0 && sizeof(typename Epilogue::Row) <= ROW_BYTES;
    static __device__ __forceinline__ void stage_rows(const typename S::Args &args, int i0, uint8_t *to, int thread) {
        for (int token = thread; token < S::TOKENS; token += S::THREADS)
            *(typename Epilogue::Row *)(to + token * ROW_BYTES) = Epilogue::row(args, i0 + token < args.rows ? i0 + token : args.rows - 1);
    }

    // For the tokens `first` + down, + DOWN ... of the tile that begins at i0.
    __device__ __forceinline__ void load_rows(const typename S::Args &args, int i0, int first = 0) {
#pragma unroll
        for (int u = 0; u < BATCH; u++) {
            int last = (args.rows - i0 < S::TOKENS ? args.rows - i0 : S::TOKENS) - 1, token = first + down + u * DOWN;
            token = token < last ? token : last;
            int i = i0 + token;
            row[u] = staged ? *(const typename Epilogue::Row *)(staged + token * ROW_BYTES) : Epilogue::row(args, i);
            elem[u] = Epilogue::elem(args, i, j < S::N ? j : S::N - WIDTH, row[u]);
        }
    }

    // `block`: this warp's first block of 16 channels in the tile; `owner`: whether the warp has sums; `loaded`: load_rows(i0) came before.
    template <class Sum>
    __device__ __forceinline__ void store(const typename S::Args &args, Sum (&sums)[S::BLOCKS][S::TOKENS / 2], uint8_t *shared, int block,
                                          bool owner, int i0, int thread, bool loaded) {
        Sum *tile = (Sum *)shared;
        int lane = thread % 32;
#pragma unroll
        for (int first = 0; first < S::TOKENS; first += AT_ONCE) {
            barrier(1, S::THREADS);
            if (owner) {
#pragma unroll
                for (int b = 0; b < S::BLOCKS; b++)
#pragma unroll
                    for (int t = 0; t < AT_ONCE / 8; t++)
#pragma unroll
                        for (int r = 0; r < 4; r++) {
                            int token = 8 * t + lane % 4 * 2 + r % 2, c = (block + b) * 16 + lane / 4 + r / 2 * 8;
                            tile[token * STRIDE + c] = sums[b][4 * (first / 8 + t) + r];
                        }
            }
            barrier(1, S::THREADS);
            if (j >= (S::N + 63) / 64 * 64) continue;
            for (int turn = 0; turn < TURNS; turn += BATCH) {
                int begin = first + turn * DOWN;
                if (i0 + begin + down >= args.rows) break;
                if (!loaded || begin > 0) load_rows(args, i0, begin);
#pragma unroll
                for (int u = 0; u < BATCH; u++) {
                    int token = (turn + u) * DOWN + down, i = i0 + first + token;
                    if (token >= AT_ONCE || i >= args.rows) continue;
                    if (j < S::N)
                        Epilogue::store(args, i, j, &tile[token * STRIDE + c0], row[u], col, elem[u]);
                    else
                        Epilogue::pad(args, i, j);
                }
            }
        }
    }
};

// From the sums of the main loop to memory. Branch: `t` is where stage() put the rows. The end's columns are loaded.
template <class S, class W, class Acc>
__device__ __forceinline__ void finish_tile(const typename S::Args &args, TileEnd<S> &end, Acc (&acc)[S::BLOCKS][S::TOKENS / 2], uint8_t *shared,
                                            uint8_t *t, int channel, int block, bool owner, int i0, int thread, bool loaded) {
#pragma unroll
    for (int b = 0; b < S::BLOCKS; b++)
#pragma unroll
        for (int r = 0; r < S::TOKENS / 2; r++) acc[b][r] = W::finish(acc[b][r]);
    if constexpr (S::RANK == 0) {
        end.store(args, acc, shared, block, owner, i0, thread, loaded);
    } else {
        typedef typename S::Scaled Scaled;
        float sums[S::BLOCKS][S::TOKENS / 2];
        int lane = thread % 32;
        if (owner) {
#pragma unroll
            for (int b = 0; b < S::BLOCKS; b++) {
                int first = channel + (block + b) * 16;
                typename Scaled::Col col[2];
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    int j = first + lane / 4 + half * 8;
                    col[half] = Scaled::col(args, j < S::N ? j : S::N - 1);
                }
#pragma unroll
                for (int token = 0; token < S::TOKENS / 8; token++)
#pragma unroll
                    for (int r = 0; r < 4; r++) {
                        int row = token * 8 + lane % 4 * 2 + r % 2;
                        sums[b][4 * token + r] = Scaled::value(acc[b][4 * token + r], Branch<S>::row(t, row), col[r / 2]);
                    }
                if (first < (S::N + 63) / 64 * 64) Branch<S>::add(sums[b], (const uint8_t *)args.buffers[S::U], first, shared_address(t), lane);
            }
        }
        end.store(args, sums, shared, block, owner, i0, thread, loaded);
    }
}

template <class S, class W, class Acc>
__device__ __forceinline__ void finish_tile(const typename S::Args &args, Acc (&acc)[S::BLOCKS][S::TOKENS / 2], uint8_t *shared,
                                            uint8_t *t, int channel, int block, bool owner, int i0, int thread) {
    TileEnd<S> end;
    end.load_columns(args, channel, thread);
    finish_tile<S, W>(args, end, acc, shared, t, channel, block, owner, i0, thread, false);
}
