/* Host code: kernels printed as LLVM IR, optimised for this CPU, loaded through ORC, and kept as objects in a cache folder. */
#ifndef SYL_CODEGEN_HOST_HOST_H
#define SYL_CODEGEN_HOST_HOST_H

#include "codegen/plan.h"

/* The CPU this process runs on ("host"), or a named level: "generic" (the baseline of the architecture), "x86-64-v3" (AVX2). */
SYL_NODISCARD syl_status syl_host_target_find(const char *name, syl_diag *diag, syl_host_target *out);
/* Micro tile for a GEMM of the given element types on the target: fills dot, mr, nr, ku, mblock. */
void syl_host_tile(const syl_host_target *target, kir_type a, kir_type w, kir_gemm *gemm);

/* The layout of packed weights: panels of nr rows (the last padded with zeros), k padded to a multiple of ku:
 *     packed[panel][k / ku][r][k % ku] = w[panel * nr + r][k]
 * DOT_VNNI: behind all panels, int32 -128 * sum_k w[n, k] for each of the padded n.
 *
 * 4 bits: two steps of ku share bytes, low half and high half: byte (r, k % ku) of pair j has the codes of steps 2j and 2j + 1; symmetric codes
 * are stored as code + 8. Before the codes of each group stand its parameters, so that a panel is read from end to end:
 *     two-level     u8 s[nr], u8 z * s[nr]
 *     f32 scales    f32 scale[nr]; DOT_VNNI: int32 -128 * sum over the group of w[n, k] [nr], instead of the sums behind the panels
 * padded to min(64, 2 nr) bytes; w[n, k] is the INT8 value that a code stands for. */
typedef struct syl_host_layout {
    int64_t groups; /* 1 where codes have none */
    int64_t steps;  /* of ku, of a group */
    int64_t header, group, panel /* bytes: of a group's parameters, of a group with them, of a panel */;
} syl_host_layout;
syl_host_layout syl_host_layout_of(const kir_weight_codes *codes, kir_type elem, kir_dot dot, int64_t k,
                                   int nr, int ku);

/* Bytes of a packed weight, false on overflow; packing panels [begin, end). */
bool syl_host_packed_size(const syl_plan_weight *weight, size_t *out);
int64_t syl_host_panels(const syl_plan_weight *weight);
void syl_host_pack(const syl_plan_weight *weight, const syl_weight_source *source, void *packed,
                   int64_t panel_begin, int64_t panel_end);

typedef struct syl_host_code syl_host_code;
typedef struct syl_host_options {
    const char *cache_dir; /* NULL: no cache */
    int threads;           /* for compiling; 0 = one a core */
} syl_host_options;
typedef struct syl_host_stats {
    int compiled, cached;
    double seconds;
} syl_host_stats;
/* Functions of all kernels of the plan. A cache entry that is damaged or stale counts as absent. */
SYL_NODISCARD syl_status syl_host_compile(const syl_plan *plan, const syl_host_target *target,
                                          const syl_host_options *options, syl_diag *diag,
                                          syl_host_stats *stats, syl_host_code **out);
kir_function syl_host_function(const syl_host_code *code, int kernel);
/* True if a file of the cache is whole, undamaged, and of the name it has. */
bool syl_host_object_valid(const char *path);
void syl_host_code_destroy(syl_host_code *code); /* NULL is fine */

/* The text of stages, for people: LLVM IR before or after optimisation, assembly. */
typedef enum syl_host_text { SYL_HOST_LLVM, SYL_HOST_LLVM_OPTIMIZED, SYL_HOST_ASM } syl_host_text;
SYL_NODISCARD syl_status syl_host_dump(const kir_kernel *kernel, const syl_host_target *target,
                                       syl_host_text stage, syl_diag *diag, syl_text *out);

/* Version of LLVM this library runs, "19.1.7". */
const char *syl_host_llvm_version(void);

#endif
