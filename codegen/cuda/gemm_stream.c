/* GEMM of few rows (templates/gemm_stream.cuh): weights streamed from memory into registers. */
#include <limits.h>
#include "base/size.h"
#include "codegen/cuda/gemm.h"

typedef struct plan {
    cu_gemm_tile tile;
    int warps, split, depth;
    int64_t chunks, shared, units; /* chunks of k a block at most; blocks of 64 channels */
} plan;

static plan plan_of(const kir_kernel *kernel, const syl_cuda_variant *variant) {
    plan p = {.warps = cu_param(variant, "warps"), .split = cu_param(variant, "split")};
    int tokens = cu_param(variant, "tokens");
    cu_layout l = cu_gemm_layout(kernel);
    p.tile = (cu_gemm_tile){
        .tokens = tokens, .channels = 64, .blocks = 1, .threads = p.warps * 32, .at_once = tokens};
    p.chunks = syl_ceil_div(l.chunks, p.split);
    p.units = syl_ceil_div(kernel->gemm.n, 64);
    int64_t turns = syl_ceil_div(p.chunks, p.warps / 4);
    p.depth = l.data >= 8192 ? 4 : 6;
    if (p.depth > turns) p.depth = (int)turns;
    int64_t tokens_bytes = p.chunks * tokens * 128, parts = (p.warps / 4 - 1) * 4 * (tokens / 2) * 128;
    p.shared = cu_gemm_stage_bytes(&p.tile);
    if (tokens_bytes > p.shared) p.shared = tokens_bytes;
    if (parts > p.shared) p.shared = parts;
    p.shared += cu_gemm_branch_bytes(kernel, tokens);
    return p;
}

enum { MAX_BLOCKS_X = 64 }; /* where blocks share k: counters are there for so many */

bool cu_fits_gemm_stream(const kir_kernel *kernel, const syl_cuda_target *target,
                         const syl_cuda_variant *variant) {
    if (!cu_gemm_fits(kernel)) return false;
    plan p = plan_of(kernel, variant);
    int64_t chunks = cu_gemm_layout(kernel).chunks;
    if (cu_gemm_is_float(kernel) && (p.warps != 4 || p.split != 1)) return false;
    if (p.split > 1 && 4 * p.units * MAX_BLOCKS_X > SYL_CUDA_COUNTERS) return false;
    return p.split * (p.warps / 4) <= chunks && p.shared + 64 <= target->shared;
}

static void fill_launch(cu_source *s, plan *p) {
    s->launch->threads = p->warps * 32;
    s->launch->shared = p->shared;
    s->launch->rows_per_block = p->tile.tokens;
    s->launch->blocks_y = p->units;
    s->launch->blocks_z = p->split;
    if (p->split > 1) {
        s->launch->counters = SYL_CUDA_COUNTERS;
        s->launch->workspace_block = 64 * p->tile.tokens * 4;
        s->launch->max_rows = p->tile.tokens * MAX_BLOCKS_X;
    }
    p->tile.more = syl_arena_printf(
        s->arena,
        "    static constexpr int PHASES = %d, SPLIT = %d, DEPTH = %d, ALL_THREADS = %d, COUNTERS = %lld;\n",
        p->warps / 4, p->split, p->depth, p->warps * 32, (long long)s->launch->counters);
}

syl_status cu_emit_gemm_stream(cu_source *s) {
    plan p = plan_of(s->kernel, s->variant);
    fill_launch(s, &p);
    return cu_gemm_print(s, &p.tile, "gemm_stream");
}

/* Bytes a second that the warps of a block take: they wait for memory, and spread codes over registers (measured on an H100). */
static double rate_of_block(const kir_kernel *kernel, const plan *p) {
    const kir_weight_codes *codes = &kernel->gemm.codes;
    double rate = !codes->bits ? 20e9 : codes->two_level ? 10e9 : kir_scaled_groups(codes) ? 8e9 : 12e9;
    if (kernel->gemm.dot == KIR_DOT_MMA_BF16 && kernel->buffers.p[kernel->gemm.w].elem == KIR_I8) rate *= 0.5;
    rate *= p->warps == 4 ? 0.6 : p->warps == 16 ? 1.5 : 1;
    return p->tile.tokens == 16 ? rate * 0.95 : rate;
}

/* Blocks on a multiprocessor. */
static int64_t resident_of(const syl_cuda_target *target, const plan *p) {
    int64_t by_shared = target->shared / (p->shared + 1024), by_registers = 16 / p->warps;
    int64_t resident = by_shared < by_registers ? by_shared : by_registers;
    return resident < 1 ? 1 : resident;
}

/* Time to read the weights once for each block of rows: by memory as a whole, and by the multiprocessor with the most blocks. */
static double cost_of(const kir_kernel *kernel, const syl_cuda_target *target, const plan *p, int64_t rows) {
    cu_rates rates = cu_rates_of(target);
    int64_t x = syl_ceil_div(rows, p->tile.tokens), blocks = p->units * p->split * x;
    if (p->split > 1 && x > MAX_BLOCKS_X) return 1;
    double bytes = cu_gemm_weight_bytes(kernel) * (double)x, block = bytes / (double)blocks;
    int64_t resident = resident_of(target, p), together = syl_ceil_div(blocks, target->sms);
    if (together > resident) together = resident;
    double share = rates.bytes / target->sms * 0.95, rate = rate_of_block(kernel, p) * (double)together;
    if (rate > share) rate = share;
    double waves = (double)syl_ceil_div(blocks, target->sms * together);
    double time = waves * (double)together * block / rate, memory = bytes / rates.bytes;
    if (memory > time) time = memory;
    return 2e-6 + time + (p->split > 1 ? 0.7e-6 + p->split * 0.03e-6 : 0);
}

double cu_cost_gemm_stream(const kir_kernel *kernel, const syl_cuda_target *target,
                           const syl_cuda_variant *variant, int64_t rows) {
    plan p = plan_of(kernel, variant);
    return cost_of(kernel, target, &p, rows);
}

/* ---- behind a prologue ---- */

/* What a lane reads of a chunk. */
static int registers_of(const kir_kernel *kernel) {
    cu_layout l = cu_gemm_layout(kernel);
    return l.data / 512 + l.params / 128;
}

/* Every block has the codes of all of k, and while it makes them its first weights in some registers. */
static plan part_of(const kir_kernel *kernel, const syl_cuda_variant *variant, int registers) {
    plan p = plan_of(kernel, variant);
    if (p.depth > registers / registers_of(kernel)) p.depth = registers / registers_of(kernel);
    int64_t tokens = cu_gemm_layout(kernel).chunks * p.tile.tokens * 128,
            branch = cu_gemm_branch_bytes(kernel, p.tile.tokens);
    if (p.shared < tokens + branch) p.shared = tokens + branch;
    p.shared = syl_ceil_div(p.shared, 128) * 128;
    return p;
}

cu_stream_part cu_stream_part_of(const kir_kernel *kernel, const syl_cuda_target *target,
                                 const syl_cuda_variant *variant) {
    cu_stream_part part = {0};
    if (variant->family != SYL_CUDA_gemm_stream || !cu_fits_gemm_stream(kernel, target, variant)) return part;
    plan p = part_of(kernel, variant, INT_MAX);
    return (cu_stream_part){.fits = p.tile.tokens == 8,
                            .threads = p.warps * 32,
                            .registers = registers_of(kernel),
                            .shared = p.shared,
                            .tokens = cu_gemm_branch_bytes(kernel, p.tile.tokens)};
}

/* Blocks of launches that begin early, as many as there is room for, wait with their first weights in registers: what memory gives until then. What is
 * left is the rest of the weights, and a chain of latencies (measured on an H100): the wait, the prologue, chunks of k, sums of phases, of blocks, and the
 * epilogue. */
double cu_stream_part_cost(const kir_kernel *kernel, const syl_cuda_target *target,
                           const syl_cuda_variant *variant, int registers, double before, int64_t more) {
    plan p = part_of(kernel, variant, registers);
    cu_rates rates = cu_rates_of(target);
    p.shared += more;
    int64_t blocks = p.units * p.split, phases = p.warps / 4, slots = target->sms * resident_of(target, &p),
            early = blocks < slots ? blocks : slots;
    double bytes = cu_gemm_weight_bytes(kernel), block = bytes / (double)blocks,
           chunk = block / (double)p.chunks, waves = (double)syl_ceil_div(blocks, slots);
    double ahead = (double)(phases * p.depth) * chunk, most = (before + 2e-6) * rates.bytes / (double)early;
    if (ahead > block) ahead = block;
    if (ahead > most) ahead = most;
    if (target->arch < 90) ahead = 0;
    double left = (waves * block - ahead) / rate_of_block(kernel, &p),
           memory = (bytes - (double)early * ahead) / rates.bytes;
    return 0.7e-6 + waves * before + (memory > left ? memory : left) +
           (double)syl_ceil_div(p.chunks, phases) * 0.04e-6 + (phases > 1 ? 0.13e-6 : 0) +
           (p.split > 1 ? 1.9e-6 : 0) + 0.4e-6;
}

syl_status cu_print_stream_part(cu_source *s, int registers) {
    plan p = part_of(s->kernel, s->variant, registers);
    fill_launch(s, &p);
    return cu_gemm_print_parts(s, &p.tile);
}
