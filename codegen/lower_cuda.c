/* What lowering decides for CUDA: which linears run on tensor cores, and which activations are stored the way those read them. */
#include "codegen/lower.h"

kir_dot lower_cuda_dot(kir_type a, syl_dtype w) {
    bool coded = syl_dtypes[w].class == SYL_CLASS_QUANT;
    if (a == KIR_I8) return coded ? KIR_DOT_MMA_I8 : KIR_DOT_I8;
    if (a == KIR_BF16 && (coded || w == SYL_bf16)) return KIR_DOT_MMA_BF16;
    return KIR_DOT_F32;
}

void lower_cuda_tile(const lower_place *a, syl_dtype w, kir_gemm *gemm) {
    gemm->dot = lower_cuda_dot(a->elem, w);
    if (!a->tiled) gemm->dot = a->elem == KIR_I8 ? KIR_DOT_I8 : KIR_DOT_F32;
    bool mma = gemm->dot == KIR_DOT_MMA_I8 || gemm->dot == KIR_DOT_MMA_BF16;
    gemm->nr = mma ? 64 : 1; /* packed rows are padded to so many */
    gemm->ku = gemm->dot == KIR_DOT_MMA_I8 ? 32 : gemm->dot == KIR_DOT_MMA_BF16 ? 16 : 1;
    gemm->mr = gemm->mblock = 1; /* the host's: tiles of CUDA kernels are those of their variant */
}

/* The region's kernel is a GEMM (lower_region), and the linear is not its low-rank branch. */
static bool is_main_linear(const syl_op *op) {
    if (op->code != SYL_OP_linear || !op->parent->owner || lower_is_branch(op)) return false;
    for (const syl_op *other = op->parent->first; other; other = other->next)
        if (other->code == SYL_OP_quantize) return false;
    return true;
}

bool lower_is_tiled(const syl_value *value) {
    kir_type elem = lower_elem(value->type.dtype);
    if (value->type.rank != 2 || !value->uses) return false;
    for (const syl_use *use = value->uses; use; use = use->next) {
        if (use->index != 0 || !is_main_linear(use->user)) return false;
        kir_dot dot = lower_cuda_dot(elem, syl_operand(use->user, 1)->type.dtype);
        if (dot != KIR_DOT_MMA_I8 && dot != KIR_DOT_MMA_BF16) return false;
    }
    return true;
}
