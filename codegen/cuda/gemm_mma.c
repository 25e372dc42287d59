/* GEMM by mma.sync (templates/gemm_mma.cuh). */
#include "base/size.h"
#include "codegen/cuda/gemm.h"

typedef struct plan {
    cu_gemm_tile tile;
    int warps, stages;
    int64_t shared;
} plan;

static plan plan_of(const kir_kernel *kernel, const syl_cuda_variant *variant) {
    plan p = {.warps = cu_param(variant, "warps"), .stages = cu_param(variant, "stages")};
    int tokens = cu_param(variant, "tokens"), blocks = cu_param(variant, "blocks");
    p.tile = (cu_gemm_tile){.tokens = tokens,
                            .channels = p.warps * blocks * 16,
                            .blocks = blocks,
                            .threads = p.warps * 32,
                            .at_once = tokens < 32 ? tokens : 32};
    p.shared = (int64_t)p.stages * tokens * 128;
    if (cu_gemm_stage_bytes(&p.tile) > p.shared) p.shared = cu_gemm_stage_bytes(&p.tile);
    p.shared += cu_gemm_branch_bytes(kernel, tokens);
    return p;
}

bool cu_fits_gemm_mma(const kir_kernel *kernel, const syl_cuda_target *target,
                      const syl_cuda_variant *variant) {
    if (!cu_gemm_fits(kernel)) return false;
    plan p = plan_of(kernel, variant);
    int sums = p.tile.blocks * p.tile.tokens / 2;
    if (kir_scaled_groups(&kernel->gemm.codes)) sums *= 2;
    if (target->arch < 80 && sums > 64) return false; /* an mma there is four, with more addresses alive */
    return sums <= 128 && p.shared <= target->shared;
}

syl_status cu_emit_gemm_mma(cu_source *s) {
    plan p = plan_of(s->kernel, s->variant);
    s->launch->threads = p.warps * 32;
    s->launch->shared = p.shared;
    s->launch->rows_per_block = p.tile.tokens;
    s->launch->blocks_y = syl_ceil_div(s->kernel->gemm.n, p.tile.channels);
    p.tile.more = syl_arena_printf(s->arena, "    static constexpr int STAGES = %d;\n", p.stages);
    return cu_gemm_print(s, &p.tile, "gemm_mma");
}

double cu_cost_gemm_mma(const kir_kernel *kernel, const syl_cuda_target *target,
                        const syl_cuda_variant *variant, int64_t rows) {
    plan p = plan_of(kernel, variant);
    cu_rates rates = cu_rates_of(target);
    cu_layout l = cu_gemm_layout(kernel);
    int64_t tiles = syl_ceil_div(rows, p.tile.tokens) * syl_ceil_div(kernel->gemm.n, p.tile.channels);
    int resident = p.tile.blocks * p.tile.tokens > 64 || p.warps == 8 ? 2 : 4;
    double macs = kernel->gemm.dot == KIR_DOT_MMA_I8 ? rates.macs_i8 : rates.macs_bf16;
    double chunk = (double)p.tile.tokens * p.tile.channels * l.chunk_k / (macs / target->sms);
    chunk *= p.tile.blocks == 1
                 ? 1.6
                 : 1.2; /* shared memory: tokens are read again for each block of 16 channels */
    if (p.tile.tokens < 64) chunk *= 1.3;
    double latency = 0.7e-6 * (2.0 / p.stages) / 2;
    double tile = (double)l.chunks * (chunk * resident > latency ? chunk * resident : latency) + 2e-6;
    double waves = (double)syl_ceil_div(tiles, (int64_t)target->sms * resident);
    double bytes = cu_gemm_weight_bytes(kernel) / rates.bytes;
    double time = tile * waves;
    return 2e-6 + (time > bytes ? time : bytes);
}
