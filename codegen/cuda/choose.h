/* The kernel that chooses a token of a row of logits on the device (templates/choose.cuh). */
#ifndef SYL_CODEGEN_CUDA_CHOOSE_H
#define SYL_CODEGEN_CUDA_CHOOSE_H

#include <stdint.h>
#include "base/arena.h"

/* As the template declares them. */
typedef struct syl_cuda_choice {
    double temperature, top_p;
    int64_t top_k;
    uint64_t random; /* state of SplitMix64 */
    int64_t chosen;  /* tokens so far */
    int32_t token, reserved;
} syl_cuda_choice;
enum { SYL_CUDA_CHOICE_NAN = -1, SYL_CUDA_CHOICE_NOTHING = -2 };

typedef struct syl_cuda_choose_args {
    uint64_t logits, state, ids, ring; /* addresses */
    int32_t n, ring_size;
} syl_cuda_choose_args;

enum {
    SYL_CUDA_CHOOSE_THREADS = 1024,
    SYL_CUDA_CHOOSE_SHARED = 8192 /* bytes; enough for the template's struct */
};
#define SYL_CUDA_CHOOSE_ENTRY "syl_choose"
const char *syl_cuda_choose_source(syl_arena *arena);

#endif
