/* The plan: what the executor does for one call of @forward: a list of steps, each a kernel over some rows
 * with its buffers. Lowering makes one kernel of each fused region; equal kernels are shared. */
#ifndef SYL_CODEGEN_PLAN_H
#define SYL_CODEGEN_PLAN_H

#include "codegen/kir.h"
#include "ir/ir.h"

/* What the lowering must know of the machine. codegen/host/target.c finds it out. */
typedef struct syl_host_target {
    char cpu[64];        /* LLVM's name: "znver4", "x86-64" */
    char features[4096]; /* LLVM's feature string */
    char triple[128];
    kir_dot int8_dot;
    int vector_registers, vector_floats; /* 32 and 16 with AVX-512, 16 and 8 with AVX2, 16 and 4 else */
    bool fma;
} syl_host_target;

/* What CUDA code is made for (cuda/cuda.h finds it). */
typedef struct syl_cuda_target {
    int arch;       /* compute capability x 10: 75, 80, 86, 89, 90, 100, 120 */
    char name[16];  /* NVRTC's: "sm_90a" */
    int sms;        /* multiprocessors */
    int64_t shared; /* bytes of shared memory a block may have */
    int64_t l2;     /* bytes of L2 cache */
} syl_cuda_target;

typedef enum syl_arg_kind {
    SYL_ARG_SLOT,   /* activation buffer `index`, at column `offset` */
    SYL_ARG_INPUT,  /* function argument `index` */
    SYL_ARG_OUTPUT, /* function result `index` */
    SYL_ARG_WEIGHT, /* plan->weights[index] */
    SYL_ARG_CACHE,  /* the KV cache of layer `index` */
} syl_arg_kind;

typedef struct syl_plan_arg {
    syl_arg_kind kind;
    int index;
    int64_t offset; /* bytes */
} syl_plan_arg;

/* The rows of a step or a slot: the number of the row symbol in plan->symbols (T tokens, R rows with logits).
 */
typedef enum syl_rows { SYL_ROWS_T, SYL_ROWS_R } syl_rows;

typedef struct syl_plan_step {
    int kernel;
    syl_rows rows;
    syl_plan_arg *args; /* one a buffer of the kernel */
    int n_args;
    const char *label; /* what it computes, for people: "%blk.0.x1" */
    const syl_op *op;  /* the fused op in the module */
} syl_plan_step;

/* An activation buffer: `row_bytes` for each row (CUDA: of rows rounded up to 8, as tiled values need). Slot s of the IR is two buffers: 2s for elements or codes,
 * 2s + 1 for the scales of a QUANT value. */
typedef struct syl_plan_slot {
    syl_rows rows;
    int64_t row_bytes;
} syl_plan_slot;

/* A weight as the artifact stores it: elements or codes, row-major [n, k] (4 bits: two a byte, the low half first), and the parameters of
 * groups [n, groups] where there are any. */
typedef struct syl_weight_source {
    const void *data;
    const float *scales;
    const uint8_t *group_scale, *group_zero;
} syl_weight_source;

/* A stored tensor as some kernel reads it. */
typedef struct syl_plan_weight {
    const char *name; /* in the artifact; scales of a QUANT tensor: name + ".scale" */
    kir_type elem;
    int64_t rows, cols; /* vectors: rows = 1 */
    bool packed;        /* else as stored */
    kir_dot dot;        /* packed: for which main loop, with nr and ku */
    int nr, ku;
    kir_weight_codes codes; /* packed: codes of 4 bits, their groups' parameters packed with them */
} syl_plan_weight;

typedef struct syl_plan {
    syl_arena arena;
    const syl_module *module; /* borrowed */
    SYL_VEC(kir_kernel *) kernels;
    SYL_VEC(syl_plan_step) steps;
    SYL_VEC(syl_plan_slot) slots;
    SYL_VEC(syl_plan_weight) weights;
    const char *symbols[2]; /* row symbols in order of appearance among the arguments */
    int n_symbols;
    int64_t vocab; /* columns of the first result */
    int cache_layers;
    kir_cache cache; /* of each layer */
} syl_plan;

/* Lowers @forward of a fused, materialized, verified module. Checks that values sharing a slot are never live
 * together. */
SYL_NODISCARD syl_status syl_plan_create(const syl_module *module, const syl_host_target *target,
                                         syl_diag *diag, syl_plan **out);
/* The same for CUDA. The plan is one for all architectures: variants of its kernels are chosen later (cuda/cuda.h). */
SYL_NODISCARD syl_status syl_plan_create_cuda(const syl_module *module, syl_diag *diag, syl_plan **out);
void syl_plan_destroy(syl_plan *plan); /* NULL is fine */
void syl_plan_print(const syl_plan *plan, syl_text *out);

#endif
