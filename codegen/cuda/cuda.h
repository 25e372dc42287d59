/* CUDA code: kernels printed as CUDA C++ from the kernel IR and the templates of this folder, compiled by NVRTC, and kept as cubins in
 * a cache folder. Nothing here needs a GPU or its driver: what a kernel needs of the machine stands in syl_cuda_target.
 *
 * A kernel of the plan has variants: a row of kernels.def (a family) with values of its parameters. All variants compute the same bits,
 * whatever the number of rows, so which one runs is a matter of speed alone. */
#ifndef SYL_CODEGEN_CUDA_CUDA_H
#define SYL_CODEGEN_CUDA_CUDA_H

#include "codegen/plan.h"

/* ---- families and variants (family.c, kernels.def) ---- */

typedef enum syl_cuda_family {
#define KERNEL(ident, ...) SYL_CUDA_##ident,
#include "codegen/cuda/kernels.def"
    SYL_CUDA_FAMILY_COUNT
} syl_cuda_family;

enum { SYL_CUDA_PARAMS = 6 };

typedef struct syl_cuda_variant {
    syl_cuda_family family;
    int values[SYL_CUDA_PARAMS]; /* of the row's parameters, in its order; 0 behind them */
} syl_cuda_variant;

typedef struct syl_cuda_family_info {
    const char *name, *doc;
    unsigned archs;     /* bit i: syl_cuda_archs[i] */
    const char *params; /* with their legal values, in order: "tokens=8|16 warps=4|8" */
    int registers;      /* at most so many a thread */
    int spills;         /* at most so many bytes */
} syl_cuda_family_info;
extern const syl_cuda_family_info syl_cuda_families[SYL_CUDA_FAMILY_COUNT];

/* Parameter `index` of a family; false behind the last one. */
enum { SYL_CUDA_CHOICES = 16 };
typedef struct syl_cuda_parameter {
    const char *name; /* name_size bytes, no end */
    int name_size;
    int n, choices[SYL_CUDA_CHOICES];
} syl_cuda_parameter;
bool syl_cuda_parameter_of(syl_cuda_family family, int index, syl_cuda_parameter *out);

/* The architectures code is generated for: 75, 80, 86, 89, 90, 100, 120; names "sm_75" ... "sm_90a", "sm_100a", "sm_120a". */
enum { SYL_CUDA_ARCHS = 7 };
extern const struct syl_cuda_arch {
    int arch;
    const char *name;
    int64_t shared; /* bytes of shared memory a block may have */
} syl_cuda_archs[SYL_CUDA_ARCHS];
/* A target without a machine, for compiling alone (132 multiprocessors); by NVRTC's name. False if there is no such architecture. */
bool syl_cuda_target_named(const char *name, syl_cuda_target *out);
/* The target of a device of this compute capability (major * 10 + minor): the nearest architecture not above it. False below 75. */
bool syl_cuda_target_for(int capability, int sms, int64_t l2, syl_cuda_target *out);

/* All variants of a kernel for `rows` rows on the target that fit its shared memory, best first by the cost model. Returns how many were
 * written to out[cap]; at least 1 for every kernel that syl_plan_create makes. */
int syl_cuda_variants(const kir_kernel *kernel, const syl_cuda_target *target, int64_t rows,
                      syl_cuda_variant *out, int cap);
/* Seconds that the cost model expects. */
double syl_cuda_cost(const kir_kernel *kernel, const syl_cuda_target *target, const syl_cuda_variant *variant,
                     int64_t rows);
/* "gemm_wgmma tokens=128 stages=4", and back; false if it is none. */
void syl_cuda_variant_print(const syl_cuda_variant *variant, syl_text *out);
bool syl_cuda_variant_parse(const char *text, syl_cuda_variant *out);

/* ---- sources (source.c) ---- */

/* Where blocks meet: counters at the begin of every kernel's workspace, so that what one kernel leaves behind them is never another's counter. */
enum { SYL_CUDA_COUNTERS = 4 << 20 };

/* How a kernel is launched. The grid is (x, y, z):
 *     x = ceil(rows / rows_per_block), or blocks_x where rows_per_block is 0
 *     y = blocks_y
 *     z = blocks_z, or ceil(positions / positions_per_block) where that is not 0 (attention split over the sequence)
 * The one parameter is a struct by value:
 *     void *buffers[n];     in the kernel's order; of a cache: syl_cuda_kv_view * in device memory
 *     void *workspace;      see below
 *     int rows, positions;  rows of the step; an upper bound of positions of all sequences of the batch (attention)
 * The workspace is zero when it is first handed out, and kernels leave its first `counters` bytes zero. */
typedef struct syl_cuda_launch {
    char entry[64];
    int threads, cluster, /* blocks along y of a cluster, 0 or 1 = none; blocks_y is a multiple of it */
        cluster_z;        /* along z; z is rounded up to a multiple of it */
    int64_t shared;       /* dynamic shared memory, bytes */
    int64_t rows_per_block, blocks_x, blocks_y, blocks_z, positions_per_block;
    int64_t counters; /* SYL_CUDA_COUNTERS bytes at the workspace's begin, zero between kernels; or 0 */
    int64_t workspace_block; /* bytes behind them for each block of the grid */
    int64_t max_rows;        /* more rows cannot be run by it; 0: any number can */
    bool
        dependent; /* begins before the kernel in front of it ends, and waits for it itself (griddepcontrol) */
} syl_cuda_launch;

typedef struct syl_cuda_grid {
    int64_t x, y, z;
} syl_cuda_grid;
/* The grid for a call; blocks of it that have nothing to do leave at once. */
syl_cuda_grid syl_cuda_grid_of(const syl_cuda_launch *launch, int64_t rows, int64_t positions);
int64_t syl_cuda_workspace_of(const syl_cuda_launch *launch, int64_t rows, int64_t positions);

/* What the KV cache's kernels read in device memory: one layer. */
typedef struct syl_cuda_kv_view {
    uint64_t pages; /* device address of the first page; page p lies at pages + p * page_size */
    uint64_t table; /* device address of int32 [sequences][table_stride] */
    int64_t table_stride;
    int64_t page_size;    /* bytes of a page, all layers */
    int64_t layer_offset; /* bytes from the start of a page to this layer */
} syl_cuda_kv_view;

/* The whole source of a kernel, and how it is launched: self-contained text, readable, with the ops it came from. */
SYL_NODISCARD syl_status syl_cuda_source(const kir_kernel *kernel, const syl_cuda_target *target,
                                         const syl_cuda_variant *variant, syl_diag *diag, syl_text *out,
                                         syl_cuda_launch *launch);

/* ---- several kernels in one launch (fused.c) ---- */

enum { SYL_CUDA_TOGETHER = 4, SYL_CUDA_INSIDE = -1, SYL_CUDA_MAX_BUFFERS = 64 }; /* buffers of a launch */

/* Few rows are launched less often than the plan has steps: a dependent launch costs some microseconds however little it does.
 *   PROLOGUE  a row-wise kernel and the GEMM that alone reads its results: every block computes them for all rows, in its shared memory, and then its
 *             part of the GEMM (gemm_stream)
 *   SIBLINGS  row-wise kernels that don't depend on each other, side by side in the grid
 * Each row is computed as in launches of their own, to the bit. */
typedef enum syl_cuda_fusion { SYL_CUDA_PROLOGUE, SYL_CUDA_SIBLINGS } syl_cuda_fusion;
typedef struct syl_cuda_fused {
    syl_cuda_fusion fusion;
    int n;
    const kir_kernel *kernels[SYL_CUDA_TOGETHER];
    syl_cuda_variant variants[SYL_CUDA_TOGETHER];
    /* For each buffer of each kernel, one behind the other: its number among the launch's buffers; or SYL_CUDA_INSIDE - b, the prologue's result b, which
     * is never in memory. */
    const int *buffers;
    int n_buffers;    /* of the launch */
    int64_t max_rows; /* at most 8 */
} syl_cuda_fused;

/* Whether blocks of the target can be made like that. */
bool syl_cuda_fused_fits(const syl_cuda_fused *fused, const syl_cuda_target *target);
/* Seconds that the cost model expects, for max_rows rows. */
double syl_cuda_fused_cost(const syl_cuda_fused *fused, const syl_cuda_target *target);
/* "rms_norm_quantize + linear"; and the variants, "rows threads=128 + gemm_stream tokens=8 ...". */
void syl_cuda_fused_name(const syl_cuda_fused *fused, syl_text *out);
void syl_cuda_fused_print(const syl_cuda_fused *fused, syl_text *out);
SYL_NODISCARD syl_status syl_cuda_fused_source(const syl_cuda_fused *fused, const syl_cuda_target *target,
                                               syl_diag *diag, syl_text *out, syl_cuda_launch *launch);

/* ---- weights (pack.c) ---- */

/* Bytes of a weight in device memory, false on overflow: packed in fragment order for KIR_DOT_MMA_*, else row-major with 4-bit codes
 * expanded to INT8 values. */
bool syl_cuda_packed_size(const syl_plan_weight *weight, size_t *out);
/* Units of work of syl_cuda_pack (blocks of 64 rows), and packing units [begin, end) of them. False where a two-level code means a value that
 * is cut to INT8, which kernels don't do (no quantizer of this library makes one). */
int64_t syl_cuda_pack_units(const syl_plan_weight *weight);
bool syl_cuda_pack(const syl_plan_weight *weight, const syl_weight_source *source, void *packed,
                   int64_t begin, int64_t end);

#endif
