/* The driver of tests/fake/cuda.c in tests of a process that the loader gave it to. */
#ifndef TESTS_UNIT_FAKE_GPU_H
#define TESTS_UNIT_FAKE_GPU_H

#include <dlfcn.h>
#include "runtime_testing.h"
#include "../fake/cuda.h"

/* A GPU with 1 GiB of memory that does nothing but `launch`, which may be changed until it is used. */
static inline fake_cuda_state *fake_gpu_start(int capability,
                                              void (*launch)(void *user, const fake_launch *launch)) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    fake_cuda_function *find = library ? (fake_cuda_function *)(uintptr_t)dlsym(library, "fake_cuda") : NULL;
    assert_non_null(find);
    fake_cuda_state *s = find();
    *s = (fake_cuda_state){.devices = 1,
                           .version = 13000,
                           .memory = (size_t)1 << 30,
                           .capability = capability,
                           .launch = launch};
    return s;
}

/* Nothing is left, and no call was wrong. */
static inline void fake_gpu_check(const fake_cuda_state *s) {
    if (s->errors) fail_msg("%s", s->error);
    assert_int_equal(s->used + s->pinned, 0);
    assert_int_equal(s->allocations | s->pins | s->streams | s->events | s->modules | s->contexts | s->graphs,
                     0);
    assert_int_equal(s->entered, 0);
}

#endif
