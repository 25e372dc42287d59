/* Families that are not written yet: no variant of theirs fits any kernel. */
#include "codegen/cuda/emit.h"

#define PENDING(ident)                                                                                       \
    bool cu_fits_##ident(const kir_kernel *kernel, const syl_cuda_target *target,                            \
                         const syl_cuda_variant *variant) {                                                  \
        (void)kernel, (void)target, (void)variant;                                                           \
        return false;                                                                                        \
    }                                                                                                        \
    double cu_cost_##ident(const kir_kernel *kernel, const syl_cuda_target *target,                          \
                           const syl_cuda_variant *variant, int64_t rows) {                                  \
        (void)kernel, (void)target, (void)variant, (void)rows;                                               \
        return 0;                                                                                            \
    }                                                                                                        \
    syl_status cu_emit_##ident(cu_source *s) {                                                               \
        return syl_error(s->diag, SYL_ERR_internal, SYL_NOWHERE, "kernel '%s': this family fits no kernel",  \
                         s->kernel->name);                                                                   \
    }
PENDING(gemm_stream)
PENDING(gemm_mma)
PENDING(gemm_wgmma)
