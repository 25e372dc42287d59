/* What the three GEMM families on tensor cores print in the same way (private to codegen/cuda): templates/gemm.cuh reads it. */
#ifndef SYL_CODEGEN_CUDA_GEMM_H
#define SYL_CODEGEN_CUDA_GEMM_H

#include "codegen/cuda/emit.h"

/* A variant's tile: `channels` x `tokens` a block. */
typedef struct cu_gemm_tile {
    int tokens, channels;
    int blocks;       /* of 16 channels a warp */
    int threads;      /* that work on the epilogue */
    int at_once;      /* tokens of a tile that are staged together in the epilogue */
    const char *more; /* further members of Shape, as text */
} cu_gemm_tile;

/* The kernel is a GEMM on tensor cores whose epilogue the templates can print. */
bool cu_gemm_fits(const kir_kernel *kernel);
cu_layout cu_gemm_layout(const kir_kernel *kernel);
/* The sums are floats, so that their order is fixed: k may not be shared out. */
bool cu_gemm_is_float(const kir_kernel *kernel);
/* Shared memory of the low-rank branch's rows, bytes; 0: there is no branch on tensor cores. */
int cu_gemm_branch_bytes(const kir_kernel *kernel, int tokens);
int cu_gemm_stage_bytes(const cu_gemm_tile *tile); /* of the epilogue */
/* The C++ type of the weights' coding: "TwoLevelWeights<64>". */
const char *cu_gemm_weights(cu_source *s);

/* The branch is multiplied on tensor cores. */
bool cu_gemm_has_branch(const kir_kernel *kernel);
/* Prints Epilogue and Scaled (gemm_epilogue.c); false if the body holds what no epilogue can do. */
bool cu_gemm_print_epilogue(cu_source *s);

/* Prints Args, Epilogue, Scaled and Shape. */
syl_status cu_gemm_print_parts(cu_source *s, const cu_gemm_tile *tile);
/* The same; then the template `name` and the entry that calls it. */
syl_status cu_gemm_print(cu_source *s, const cu_gemm_tile *tile, const char *name);

/* Work of a kernel, for the cost models. Rates are those of the architecture, per second, of the whole machine. */
typedef struct cu_rates {
    double bytes, macs_i8, macs_bf16; /* memory; multiply-adds by mma.sync */
} cu_rates;
cu_rates cu_rates_of(const syl_cuda_target *target);
double cu_gemm_weight_bytes(const kir_kernel *kernel);

#endif
