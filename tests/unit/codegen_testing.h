/* Shared by the tests of generated host code: compiling one kernel, buffers with the slack that kernels may read, random numbers. */
#ifndef SYL_TESTS_CODEGEN_TESTING_H
#define SYL_TESTS_CODEGEN_TESTING_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/size.h"
#include "codegen/host/host.h"

static const char *const all_targets[] = {"host", "x86-64-v3", "generic"};
enum { N_TARGETS = 3 };

/* False where this machine has no such target. */
static inline bool find_target(const char *name, syl_host_target *out) {
    syl_diag *diag = syl_diag_create(NULL, NULL);
    syl_status status = syl_host_target_find(name, diag, out);
    syl_diag_destroy(diag);
    return status == SYL_OK;
}

/* Zeroed memory with 64 readable bytes behind its end, filled with 0xaa there; check_slack sees writes into them. */
static inline void *new_buffer(size_t bytes) {
    unsigned char *p = syl_alloc_aligned(bytes + 64);
    assert_non_null(p);
    memset(p, 0, bytes);
    memset(p + bytes, 0xaa, 64);
    return p;
}

static inline void check_slack(const void *buffer, size_t bytes) {
    for (int i = 0; i < 64; i++) assert_int_equal(((const unsigned char *)buffer)[bytes + (size_t)i], 0xaa);
}

/* One kernel, compiled. */
typedef struct built {
    const kir_kernel *kernel;
    syl_host_code *code;
    kir_function function;
    void *scratch;
} built;

static inline built build_kernel(kir_kernel *kernel, const syl_host_target *target) {
    built b = {.kernel = kernel};
    syl_arena arena;
    syl_arena_init(&arena);
    syl_text errors = {.arena = &arena};
    syl_diag *diag = syl_diag_create(syl_diag_capture, &errors);
    kir_kernel *list[] = {kernel};
    syl_plan plan = {0};
    plan.kernels.p = list;
    plan.kernels.n = 1;
    syl_status status = kir_verify(kernel, diag);
    if (status == SYL_OK)
        status = syl_host_compile(&plan, target, &(syl_host_options){.threads = 1}, diag, NULL, &b.code);
    if (status != SYL_OK) fail_msg("%s", errors.p ? errors.p : "failed without a message");
    b.function = syl_host_function(b.code, 0);
    b.scratch = new_buffer((size_t)kir_scratch(kernel));
    memset(b.scratch, 0xff, (size_t)kir_scratch(kernel)); /* NaNs */
    syl_diag_destroy(diag);
    syl_arena_free(&arena);
    return b;
}

static inline void run_kernel(const built *b, void *const *buffers, int64_t rows) {
    b->function(buffers, rows, 0, kir_tasks(b->kernel, rows), b->scratch);
}

static inline void drop_kernel(built *b) {
    check_slack(b->scratch,
                (size_t)kir_scratch(b->kernel)); /* generated code stays within the scratch it asked for */
    syl_host_code_destroy(b->code);
    free(b->scratch);
}

static uint64_t random_state = 1;
static inline uint64_t random_bits(void) {
    random_state += 0x9e3779b97f4a7c15u;
    uint64_t z = random_state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
/* In [-1, 1). */
static inline float random_float(void) {
    return (float)((double)(random_bits() >> 11) * 0x1p-52 - 1.0);
}
static inline int8_t random_code(void) {
    return (int8_t)((int)(random_bits() % 255) - 127);
}

#endif
