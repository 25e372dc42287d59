/* GEMM by wgmma on sm_90a (templates/gemm_wgmma.cuh). */
#include "base/size.h"
#include "codegen/cuda/gemm.h"

typedef struct plan {
    cu_gemm_tile tile;
    int groups, stages, cluster;
    int64_t stage, rows, shared; /* rows: bytes of their values, of the branch or for the epilogue */
} plan;

static plan plan_of(const kir_kernel *kernel, const syl_cuda_variant *variant) {
    plan p = {.groups = cu_param(variant, "groups"),
              .stages = cu_param(variant, "stages"),
              .cluster = cu_param(variant, "cluster")};
    int tokens = cu_param(variant, "tokens");
    cu_layout l = cu_gemm_layout(kernel);
    p.tile = (cu_gemm_tile){.tokens = tokens,
                            .channels = 64 * p.groups,
                            .blocks = 1,
                            .threads = 128 * p.groups,
                            .at_once = tokens};
    p.stage = syl_ceil_div(tokens * 128 + p.groups * l.chunk, 1024) * 1024;
    if (cu_gemm_stage_bytes(&p.tile) > p.stages * p.stage) p.tile.at_once = tokens % 64 ? 8 : 64;
    p.rows = cu_gemm_has_branch(kernel) ? cu_gemm_branch_bytes(kernel, tokens) : 16 * tokens; /* ROW_BYTES */
    p.shared = p.stages * p.stage + p.rows + 16 * p.stages + 1024;
    return p;
}

bool cu_fits_gemm_wgmma(const kir_kernel *kernel, const syl_cuda_target *target,
                        const syl_cuda_variant *variant) {
    if (!cu_gemm_fits(kernel) || kir_scaled_groups(&kernel->gemm.codes)) return false;
    plan p = plan_of(kernel, variant);
    return p.shared <= target->shared && cu_gemm_stage_bytes(&p.tile) <= p.stages * p.stage;
}

/* wgmma(d, a, b): d += a b for 64 channels and the tile's tokens, a from registers, b by its descriptor. */
static void print_wgmma(cu_source *s, int tokens) {
    bool integer = s->kernel->gemm.dot == KIR_DOT_MMA_I8;
    int n = tokens / 2;
    syl_text_printf(
        s->out,
        "\n__device__ __forceinline__ void wgmma(%s (&d)[%d], const uint32_t (&a)[4], uint64_t b) {\n"
        "    asm volatile(\"{\\n.reg .pred add;\\nsetp.eq.u32 add, 0, 0;\\n\"\n"
        "                 \"wgmma.mma_async.sync.aligned.m64n%dk%d.%s \"\n                 \"{",
        integer ? "int" : "float", n, tokens, integer ? 32 : 16, integer ? "s32.s8.s8" : "f32.bf16.bf16");
    for (int i = 0; i < n; i++) syl_text_printf(s->out, "%s%%%d", i ? ", " : "", i);
    syl_text_printf(
        s->out,
        "}, \"\n                 \"{%%%d, %%%d, %%%d, %%%d}, %%%d, add%s;\\n}\"\n                 : ", n,
        n + 1, n + 2, n + 3, n + 4, integer ? "" : ", 1, 1, 0");
    for (int i = 0; i < n; i++)
        syl_text_printf(s->out, "%s\"+%s\"(d[%d])", i ? ", " : "", integer ? "r" : "f", i);
    syl_text_printf(
        s->out, "\n                 : \"r\"(a[0]), \"r\"(a[1]), \"r\"(a[2]), \"r\"(a[3]), \"l\"(b));\n}\n");
}

syl_status cu_emit_gemm_wgmma(cu_source *s) {
    plan p = plan_of(s->kernel, s->variant);
    s->launch->threads = p.groups * 128 + 128; /* a warpgroup fetches: registers are counted for warpgroups */
    s->launch->shared = p.shared;
    s->launch->cluster = p.cluster;
    s->launch->rows_per_block = p.tile.tokens;
    s->launch->blocks_y =
        syl_ceil_div(syl_ceil_div(s->kernel->gemm.n, p.tile.channels), p.cluster) * p.cluster;
    p.tile.more = syl_arena_printf(
        s->arena, "    static constexpr int GROUPS = %d, STAGES = %d, CLUSTER = %d, ROWS_BYTES = %lld;\n",
        p.groups, p.stages, p.cluster, (long long)p.rows);
    print_wgmma(s, p.tile.tokens);
    return cu_gemm_print(s, &p.tile, "gemm_wgmma");
}

double cu_cost_gemm_wgmma(const kir_kernel *kernel, const syl_cuda_target *target,
                          const syl_cuda_variant *variant, int64_t rows) {
    plan p = plan_of(kernel, variant);
    cu_layout l = cu_gemm_layout(kernel);
    cu_rates rates = cu_rates_of(target);
    int64_t tiles = syl_ceil_div(rows, p.tile.tokens) * syl_ceil_div(kernel->gemm.n, p.tile.channels);
    int resident = (int)(232448 / (p.shared + 1024));
    int threads = p.groups * 128 + 128, registers = p.groups == 2 ? 168 : p.tile.tokens / 2 + 90;
    if (resident > 65536 / (threads * registers)) resident = 65536 / (threads * registers);
    if (resident < 1) resident = 1;
    double clock = 1.6e9, rate = kernel->gemm.dot == KIR_DOT_MMA_I8 ? 4096 : 2048;
    double chunk = (double)p.tile.tokens * p.tile.channels * l.chunk_k / rate;
    double issue = l.mmas * 24.0 * p.groups; /* cycles that small tiles need all the same */
    if (chunk < issue) chunk = issue;
    double fetch = (double)p.stage / 30; /* L2 to a multiprocessor, bytes a cycle */
    if (p.cluster > 1) fetch = ((double)p.stage - p.tile.tokens * 64.0) / 30;
    double slow = chunk > fetch ? chunk : fetch, latency = 1500.0 / p.stages;
    double tile = (double)l.chunks * (slow * resident > latency ? slow * resident : latency) + 2500 +
                  12.0 * p.tile.tokens * resident;
    tile *= 1 + 0.2 / p.stages + (p.cluster > 1 ? 0.04 : 0);
    double waves = (double)syl_ceil_div(tiles, (int64_t)target->sms * resident);
    double bytes = cu_gemm_weight_bytes(kernel) / rates.bytes, time = tile * waves / clock;
    return 2e-6 + (time > bytes ? time : bytes);
}
