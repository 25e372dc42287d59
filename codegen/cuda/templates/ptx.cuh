// One PTX instruction a function. Where an architecture lacks one, the function does the same with what is there. Off the GPU these are functions of
// whoever compiles the code there (tests/cuda_emulation).
#include "base.cuh"
#ifdef __CUDA_ARCH__

// 16 bytes that are read once: past the L1 cache.
__device__ __forceinline__ uint4 load_once(const void *address) {
    uint4 x;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "l"(address));
    return x;
}

__device__ __forceinline__ uint32_t shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

// Four 8 x 8 matrices of 16-bit elements: lane l gives the address of row l % 8 of matrix l / 8, and gets elements (2 (l % 4), + 1) of row l / 4
// of each.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&x)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(address)
                 : "memory");
}

// d += a b, a: 16 x 32 INT8, b: 32 x 8, exact in s32. Lane l holds of d rows l / 4 and l / 4 + 8, columns 2 (l % 4) and + 1.
__device__ __forceinline__ void mma(int *d, const uint32_t *a, uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
        for (int rows = 0; rows < 2; rows++)
            asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
                : "+r"(d[2 * rows]), "+r"(d[2 * rows + 1])
                : "r"(a[2 * half + rows]), "r"(half ? b1 : b0));
#endif
}

// d += a b, a: 16 x 16 bf16, b: 16 x 8, f32 sums. sm_75 has no bf16 in its tensor cores: there every lane gathers what its sums need.
#if __CUDA_ARCH__ >= 800
__device__ __forceinline__
#else
__device__ __noinline__ // inlined hundreds of times it takes NVRTC minutes
#endif
void mma(float *d, const uint32_t *a, uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < 8; k++) { // pairs of k
        int source = k % 4;
        uint32_t b = k < 4 ? b0 : b1;
        uint32_t column0 = __shfl_sync(~0u, b, lane % 4 * 8 + source),
                 column1 = __shfl_sync(~0u, b, lane % 4 * 8 + 4 + source);
#pragma unroll
        for (int rows = 0; rows < 2; rows++) {
            uint32_t row = __shfl_sync(~0u, a[(k < 4 ? 0 : 2) + rows], lane / 4 * 4 + source);
            float low = __uint_as_float(row << 16), high = __uint_as_float(row & 0xffff0000);
            d[2 * rows] = __fmaf_rn(low, __uint_as_float(column0 << 16), d[2 * rows]);
            d[2 * rows] = __fmaf_rn(high, __uint_as_float(column0 & 0xffff0000), d[2 * rows]);
            d[2 * rows + 1] = __fmaf_rn(low, __uint_as_float(column1 << 16), d[2 * rows + 1]);
            d[2 * rows + 1] = __fmaf_rn(high, __uint_as_float(column1 & 0xffff0000), d[2 * rows + 1]);
        }
    }
#endif
}

// 16 bytes from global to shared memory, beside the computation where the machine can.
__device__ __forceinline__ void copy_async(uint32_t shared, const void *global) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(global) : "memory");
#else
    uint4 x = *(const uint4 *)global;
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(shared), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w)
                 : "memory");
#endif
}
__device__ __forceinline__ void copy_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int PENDING> __device__ __forceinline__ void copy_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}
#endif
