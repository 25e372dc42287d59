// CUDA C++ on a CPU, for tests without a GPU: stands in front of a printed kernel, which is then plain C++. The threads of a block are fibers, run in turn
// until each waits at a barrier; clusters of blocks along z run one after the other. Shuffles are two barriers of a warp. A barrier that some
// threads never reach ends the program, as does a kernel that reads behind its shared memory (a guard lies there).
#pragma once
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

struct uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// ---- arithmetic ----

template <typename To, typename From>
static inline To bits_as(From x) {
    To y;
    static_assert(sizeof x == sizeof y, "");
    memcpy(&y, &x, sizeof y);
    return y;
}
static inline float __uint_as_float(unsigned x) { return bits_as<float>(x); }
static inline unsigned __float_as_uint(float x) { return bits_as<unsigned>(x); }
static inline float __int_as_float(int x) { return bits_as<float>(x); }
static inline int __float_as_int(float x) { return bits_as<int>(x); }
static inline long long __double_as_longlong(double x) { return bits_as<long long>(x); }
static inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline double __fma_rn(double a, double b, double c) { return __builtin_fma(a, b, c); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float x) { return __builtin_sqrtf(x); }
static inline double __dsqrt_rn(double x) { return __builtin_sqrt(x); }
static inline float fabsf(float x) { return __builtin_fabsf(x); }
static inline double fabs(double x) { return __builtin_fabs(x); }
static inline float fmaxf(float a, float b) { return __builtin_fmaxf(a, b); }
static inline float fminf(float a, float b) { return __builtin_fminf(a, b); }
static inline float rintf(float x) { return __builtin_rintf(x); }

static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    uint64_t bytes = (uint64_t)y << 32 | x;
    unsigned out = 0;
    for (int i = 0; i < 4; i++) out |= (unsigned)(bytes >> (selector >> 4 * i & 7) * 8 & 255) << 8 * i;
    return out;
}
static inline int __dp4a(int a, int b, int sum) {
    for (int i = 0; i < 4; i++) sum += (int8_t)(a >> 8 * i) * (int8_t)(b >> 8 * i);
    return sum;
}

// ---- threads ----

static unsigned char *shared_memory; // of the block that runs

namespace emulation {
struct index3 { unsigned x, y, z; };
enum waiting { RUNNING, AT_BLOCK, AT_WARP, AT_BARRIER, AT_CLUSTER, DONE };
struct fiber {
    ucontext_t start;
    jmp_buf at;
    bool begun;
    waiting state;
    int number, expected; // of the barrier
    char *stack;
    ~fiber() { free(stack); }
};
enum { stack_size = 256 << 10, max_cluster = 8, max_threads = 1024 * max_cluster, memory_size = 256 << 10, guard = 4096 };

alignas(1024) static unsigned char memory[max_cluster][memory_size + guard]; // shared memory of each block
static fiber fibers[max_threads]; // of a cluster, block by block
static ucontext_t main_context;
static jmp_buf scheduler;
static int threads, cluster, current; // of a block; blocks; the one that runs
static index3 thread, block, first_block, grid, dimensions;
static uint64_t slots[max_threads];
static void (*body)();

static inline void resume_scheduler() {
    if (!_setjmp(fibers[current].at)) _longjmp(scheduler, 1);
}

static inline void become(int self) {
    unsigned rank = (unsigned)(self / threads);
    current = self;
    thread = {(unsigned)(self % threads), 0, 0};
    block = {first_block.x, first_block.y, first_block.z + rank};
    shared_memory = memory[rank];
}

static inline void wait(waiting state) {
    int self = current;
    fibers[self].state = state;
    resume_scheduler();
    become(self);
}

static void entry() {
    body();
    fibers[current].state = DONE;
    _longjmp(scheduler, 1);
}

// All that are left of threads [begin, end) wait at `state`: they go on.
static inline bool release(int begin, int end, waiting state) {
    bool some = false;
    for (int i = begin; i < end; i++) {
        if (fibers[i].state == DONE) continue;
        if (fibers[i].state != state) return false;
        some = true;
    }
    for (int i = begin; some && i < end; i++)
        if (fibers[i].state != DONE) fibers[i].state = RUNNING;
    return some;
}

// So many threads as each expects wait at a barrier of one number: they go on.
static inline bool release_barriers() {
    bool some = false;
    for (int i = 0; i < threads * cluster; i++) {
        if (fibers[i].state != AT_BARRIER) continue;
        int n = 0, begin = i / threads * threads, end = begin + threads;
        for (int j = begin; j < end; j++) n += fibers[j].state == AT_BARRIER && fibers[j].number == fibers[i].number;
        if (n > fibers[i].expected) {
            fprintf(stderr, "emulation: %d threads at barrier %d of %d\n", n, fibers[i].number, fibers[i].expected);
            abort();
        }
        if (n < fibers[i].expected) continue;
        for (int j = end - 1; j >= i; j--)
            if (fibers[j].state == AT_BARRIER && fibers[j].number == fibers[i].number) fibers[j].state = RUNNING;
        some = true;
    }
    return some;
}

static void run_cluster() {
    const int all = threads * cluster;
    for (int i = 0; i < all; i++) {
        fibers[i].state = RUNNING;
        fibers[i].begun = false;
        if (!fibers[i].stack) fibers[i].stack = (char *)malloc(stack_size);
    }
    for (;;) {
        for (volatile int i = 0; i < all; i++) {
            if (fibers[i].state != RUNNING) continue;
            become(i);
            if (_setjmp(scheduler)) continue;
            if (fibers[i].begun) _longjmp(fibers[i].at, 1);
            fibers[i].begun = true;
            getcontext(&fibers[i].start);
            fibers[i].start.uc_stack.ss_sp = fibers[i].stack;
            fibers[i].start.uc_stack.ss_size = stack_size;
            fibers[i].start.uc_link = nullptr;
            makecontext(&fibers[i].start, entry, 0);
            swapcontext(&main_context, &fibers[i].start);
        }
        bool done = true, moved = release_barriers() | release(0, all, AT_CLUSTER);
        for (int b = 0; b < all; b += threads) moved |= release(b, b + threads, AT_BLOCK);
        for (int b = 0; b < all; b += threads)
            for (int w = 0; w < threads; w += 32) moved |= release(b + w, b + (w + 32 < threads ? w + 32 : threads), AT_WARP);
        for (int i = 0; i < all; i++) done = done && fibers[i].state == DONE;
        if (done) return;
        if (!moved) {
            fprintf(stderr, "emulation: threads wait at different barriers, for ever\n");
            abort();
        }
    }
}

template <typename T>
static inline T exchange(T x, int from) {
    int self = current, warp = self - (int)thread.x % 32;
    memcpy(&slots[self], &x, sizeof x);
    wait(AT_WARP);
    if ((int)thread.x / 32 * 32 + from < threads) memcpy(&x, &slots[warp + from], sizeof x);
    wait(AT_WARP);
    return x;
}
} // namespace emulation

#define threadIdx (emulation::thread)
#define blockIdx  (emulation::block)
#define gridDim   (emulation::grid)
#define blockDim  (emulation::dimensions)

static inline void __syncthreads() { emulation::wait(emulation::AT_BLOCK); }
static inline void __syncwarp(unsigned = 0xffffffffu) { emulation::wait(emulation::AT_WARP); }
template <typename T>
static inline T __shfl_xor_sync(unsigned, T x, int mask) { return emulation::exchange(x, (int)(emulation::thread.x % 32) ^ mask); }
template <typename T>
static inline T __shfl_sync(unsigned, T x, int lane) { return emulation::exchange(x, lane & 31); }
static inline int atomicAdd(int *p, int x) { int y = *p; *p += x; return y; }
static inline unsigned atomicAdd(unsigned *p, unsigned x) { unsigned y = *p; *p += x; return y; }
static inline void __threadfence() {}
template <typename T> static inline void __stcg(T *p, T x) { *p = x; }
template <typename T> static inline T __ldcg(const T *p) { return *p; }

// ---- what ptx.cuh and hopper.cuh have of instructions ----

static inline uint32_t shared_address(const void *p) { return (uint32_t)((const unsigned char *)p - shared_memory); }
static inline uint4 load_once(const void *p) { return *(const uint4 *)p; }
static inline void copy_async(uint32_t shared, const void *global) { memcpy(shared_memory + shared, global, 16); }
static inline void copy_commit() {}
template <int PENDING> static inline void copy_wait() {}
static inline void barrier(int number, int count) {
    emulation::fibers[emulation::current].number = number;
    emulation::fibers[emulation::current].expected = count;
    emulation::wait(emulation::AT_BARRIER);
}

static inline void cluster_arrive() {}
static inline void cluster_wait() { emulation::wait(emulation::AT_CLUSTER); } // for all that have not ended
static inline int cluster_rank() { return (int)(emulation::block.z - emulation::first_block.z); }
static inline void write_to_block(float *place, int rank, float x) {
    *(float *)(emulation::memory[rank] + ((unsigned char *)place - shared_memory)) = x;
}

namespace emulation {
static uint32_t lanes[max_threads][6];
// What each lane of the warp has put there; another write waits for all.
struct warp_words {
    const uint32_t (*of)[6];
    explicit warp_words(const uint32_t (&mine)[6]) : of(lanes + (current - (int)thread.x % 32)) {
        memcpy(lanes[current], mine, sizeof mine);
        wait(AT_WARP);
    }
    ~warp_words() { wait(AT_WARP); }
};
} // namespace emulation

static inline void ldmatrix_x4(uint32_t (&x)[4], uint32_t address) {
    int lane = (int)(emulation::thread.x % 32);
    emulation::warp_words all({address});
    for (int m = 0; m < 4; m++) memcpy(&x[m], shared_memory + all.of[m * 8 + lane / 4][0] + lane % 4 * 4, 4);
}

// Element k of row i of A, of column j of B: words 0 to 3 and 4 to 5 of the lanes.
template <typename T> static inline T mma_a(const emulation::warp_words &all, int i, int k) {
    const int unit = 4 / (int)sizeof(T), half = 4 * unit;
    T x[4 / sizeof(T)];
    memcpy(x, &all.of[i % 8 * 4 + k % half / unit][i / 8 + k / half * 2], 4);
    return x[k % unit];
}
template <typename T> static inline T mma_b(const emulation::warp_words &all, int k, int j) {
    const int unit = 4 / (int)sizeof(T), half = 4 * unit;
    T x[4 / sizeof(T)];
    memcpy(x, &all.of[j * 4 + k % half / unit][4 + k / half], 4);
    return x[k % unit];
}
static inline void mma(int *d, const uint32_t *a, uint32_t b0, uint32_t b1) {
    int lane = (int)(emulation::thread.x % 32);
    emulation::warp_words all({a[0], a[1], a[2], a[3], b0, b1});
    for (int r = 0; r < 4; r++)
        for (int k = 0; k < 32; k++)
            d[r] += mma_a<signed char>(all, lane / 4 + r / 2 * 8, k) * mma_b<signed char>(all, k, lane % 4 * 2 + r % 2);
}
static inline void mma(float *d, const uint32_t *a, uint32_t b0, uint32_t b1) {
    int lane = (int)(emulation::thread.x % 32);
    emulation::warp_words all({a[0], a[1], a[2], a[3], b0, b1});
    for (int r = 0; r < 4; r++)
        for (int k = 0; k < 16; k++) {
            float x = __uint_as_float((unsigned)mma_a<unsigned short>(all, lane / 4 + r / 2 * 8, k) << 16);
            d[r] = __fmaf_rn(x, __uint_as_float((unsigned)mma_b<unsigned short>(all, k, lane % 4 * 2 + r % 2) << 16), d[r]);
        }
}

// A kernel named `kernel` with parameter type Args becomes the function `name`(arguments, grid, threads, shared bytes); BLOCKS along z are a cluster.
#define EMULATED_KERNEL(name, kernel, BLOCKS)                                                                                        \
    static Args emulated_args;                                                                                                       \
    extern "C" __attribute__((visibility("default"))) int name(const void *args, size_t size, const int64_t grid[3], int threads,    \
                                                               size_t shared) {                                                      \
        using namespace emulation;                                                                                                   \
        if (size != sizeof(Args) || shared > memory_size || BLOCKS > max_cluster || grid[2] % BLOCKS) return 1;                      \
        memcpy(&emulated_args, args, size);                                                                                          \
        emulation::threads = threads;                                                                                                \
        emulation::cluster = BLOCKS;                                                                                                 \
        emulation::dimensions = {(unsigned)threads, 1, 1};                                                                           \
        emulation::grid = {(unsigned)grid[0], (unsigned)grid[1], (unsigned)grid[2]};                                                 \
        emulation::body = [] { kernel(emulated_args); };                                                                             \
        for (unsigned z = 0; z < grid[2]; z += BLOCKS)                                                                               \
            for (unsigned y = 0; y < grid[1]; y++)                                                                                   \
                for (unsigned x = 0; x < grid[0]; x++) {                                                                             \
                    first_block = {x, y, z};                                                                                         \
                    for (int b = 0; b < BLOCKS; b++) memset(memory[b], 0xff, sizeof memory[b]);                                      \
                    run_cluster();                                                                                                   \
                    for (int b = 0; b < BLOCKS; b++)                                                                                 \
                        for (size_t i = 0; i < guard; i++)                                                                           \
                            if (memory[b][shared + i] != 0xff) return 2;                                                             \
                }                                                                                                                    \
        return 0;                                                                                                                    \
    }
