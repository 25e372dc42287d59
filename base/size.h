/* Overflow-checked sizes, and aligned tensor-sized allocations that may fail. */
#ifndef SYL_BASE_SIZE_H
#define SYL_BASE_SIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* false on overflow or negative input; *out is then untouched. */
static inline bool syl_size_mul(size_t a, size_t b, size_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}
static inline bool syl_size_add(size_t a, size_t b, size_t *out) {
    return !__builtin_add_overflow(a, b, out);
}

/* Round up to a multiple of a power of two; false on overflow. */
static inline bool syl_size_align(size_t a, size_t align, size_t *out) {
    size_t sum;
    if (!syl_size_add(a, align - 1, &sum)) return false;
    *out = sum & ~(align - 1);
    return true;
}

static inline int64_t syl_ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

/* 64-byte aligned, uninitialised; NULL when there is no memory. Free with free(). Size 0 gives a valid
 * pointer. */
void *syl_alloc_aligned(size_t size);

#endif
