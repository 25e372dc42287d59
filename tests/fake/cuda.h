/* A CUDA driver without a GPU, for tests: libcuda.so.1 with the functions of runtime/cuda/driver.def. Memory of the device is memory of
 * the host, copies happen at once, launches are counted and handed to a callback, and graphs replay what was captured. It keeps account
 * of everything that is made and not destroyed, and can be told to fail.
 *
 * The environment sets up a process that knows nothing of it: FAKE_CUDA_DEVICES, FAKE_CUDA_VERSION, FAKE_CUDA_MEMORY (bytes),
 * FAKE_CUDA_TRAP (the number of the launch that traps, from 1). A test finds `fake_cuda` by dlsym. */
#ifndef TESTS_FAKE_CUDA_H
#define TESTS_FAKE_CUDA_H

#include <stddef.h>
#include <stdint.h>

enum { FAKE_PARAMETER = 66 * 8 }; /* bytes of a kernel's parameter: as many as runtime/cuda passes */

typedef struct fake_launch {
    const void *image; /* of the module */
    const char *name;  /* of the function */
    unsigned grid[3], block[3], shared;
    unsigned cluster;          /* along y; 0: none */
    int programmatic;          /* may begin before the kernel in front of it ends */
    int in_graph;              /* replayed */
    const uint64_t *parameter; /* [FAKE_PARAMETER / 8] */
} fake_launch;

typedef struct fake_cuda {
    /* what it pretends to be */
    int devices, version, capability;
    size_t memory; /* bytes of the device; those of other processes count as used */
    size_t others;
    int l2;                   /* bytes; 0: 50 MiB */
    long trap;                /* the launch of this number fails, and with it the context; 0: none */
    int fail_alloc, fail_pin; /* the next allocations fail, so many; and those of pinned memory */
    /* what happened */
    size_t used, peak, pinned;
    long allocations, pins, streams, events, modules, contexts, graphs; /* that exist */
    long launches, graph_launches, captures, copies_in, copies_out, fills, waits;
    int dead;        /* the context is lost: with this result */
    int entered;     /* contexts pushed and not popped, by all threads */
    long errors;     /* calls that no program should make: out of a context, memory that is not there, ... */
    char error[200]; /* the first of them */
    double clock;    /* seconds, which `launch` may move on; events are read off it */
    void (*launch)(void *user, const fake_launch *launch);
    void *user;
} fake_cuda_state;

typedef fake_cuda_state *fake_cuda_function(void);

#endif
