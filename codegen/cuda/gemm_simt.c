/* GEMM without tensor cores (templates/gemm_simt.cuh). tile=16: few rows, a lane a channel, up to 16 rows a block; tile=64: 64 x 64 outputs a block. */
#include <string.h>
#include "base/size.h"
#include "codegen/cuda/emit.h"

static bool is_float(kir_type elem) {
    return elem == KIR_F32 || elem == KIR_BF16 || elem == KIR_F16;
}

bool cu_fits_gemm_simt(const kir_kernel *kernel, const syl_cuda_target *target,
                       const syl_cuda_variant *variant) {
    (void)target, (void)variant;
    const kir_gemm *g = &kernel->gemm;
    if (kernel->kind != KIR_GEMM || kernel->buffers.p[g->a].shape != KIR_MATRIX) return false;
    kir_type a = kernel->buffers.p[g->a].elem, w = kernel->buffers.p[g->w].elem;
    return g->dot == KIR_DOT_F32 ? is_float(a) && (is_float(w) || w == KIR_I8)
                                 : g->dot == KIR_DOT_I8 && a == KIR_I8 && w == KIR_I8;
}

/* Warps of a block of few rows: they share the activations in shared memory. */
static int few_warps(const kir_gemm *g) {
    int64_t panels = syl_ceil_div(g->n, 32);
    return panels < 4 ? (int)panels : 4;
}

/* Whether rows of activations begin at multiples of 16 bytes: an expression, or "false". */
static const char *aligned(cu_source *s) {
    const kir_buffer *a = &s->kernel->buffers.p[s->kernel->gemm.a];
    if (a->stride * cu_elem_bytes(a->elem) % 16) return "false";
    return syl_arena_printf(s->arena, "is_aligned(args.buffers[%d], 16)", s->kernel->gemm.a);
}

double cu_cost_gemm_simt(const kir_kernel *kernel, const syl_cuda_target *target,
                         const syl_cuda_variant *variant, int64_t rows) {
    const kir_gemm *g = &kernel->gemm;
    double weight = (double)g->n * (double)g->k * cu_elem_bytes(kernel->buffers.p[g->w].elem);
    double flop = 2.0 * (double)g->n * (double)g->k * (double)rows;
    double rate = target->sms * 128 * 2 * 1.5e9, chain = 2e-6 + (double)g->k * 4 / 1.5e9;
    if (cu_param(variant, "tile") == 64) {
        double blocks = (double)(syl_ceil_div(rows, 64) * syl_ceil_div(g->n, 64));
        double full = blocks < target->sms ? blocks / target->sms : 1;
        double padded = (double)(syl_ceil_div(rows, 64) * 64) / (double)rows;
        return chain + flop * padded / (rate * full * 0.5) + weight / 2e12;
    }
    double passes = (double)syl_ceil_div(rows, 16);
    double blocks = passes * (double)syl_ceil_div(g->n, 32 * few_warps(g));
    double full = blocks < target->sms ? blocks / target->sms : 1;
    double some = rows == 1 ? 1 : rows <= 4 ? 4 : 16;
    return chain + passes * (weight / 2e12) + flop / (double)rows * some * passes / (rate * full * 0.3);
}

static void print_low_rank(cu_source *s, const char *rows, int cols, const char *first, const char *column) {
    const kir_branch *branch = &s->kernel->branch;
    if (!branch->rank) return;
    const kir_buffer *t = &s->kernel->buffers.p[branch->t], *u = &s->kernel->buffers.p[branch->u];
    syl_text_printf(s->out,
                    "    low_rank_sums<%s, %d, %lld>((const %s *)args.buffers[%d], %lld, %s, args.rows, "
                    "(const %s *)args.buffers[%d], %s, "
                    "%lld, low);\n",
                    rows, cols, (long long)branch->rank, cu_elem_type(t->elem), branch->t,
                    (long long)t->stride, first, cu_elem_type(u->elem), branch->u, column,
                    (long long)s->kernel->gemm.n);
}

/* Template arguments <A, W, S, T, K, GROUP>, as far as few_rows and many_rows share them. */
static const char *types(cu_source *s) {
    const kir_gemm *g = &s->kernel->gemm;
    const char *sum = g->dot == KIR_DOT_I8 ? "int" : "float";
    return syl_arena_printf(
        s->arena, "%s, %s, %s, %s, %lld, %d", cu_elem_type(s->kernel->buffers.p[g->a].elem),
        cu_elem_type(s->kernel->buffers.p[g->w].elem), sum, kir_acc_type(g) == KIR_I32 ? "int" : "float",
        (long long)g->k, kir_scaled_groups(&g->codes) ? g->codes.group : 0);
}

static syl_status print_few(cu_source *s) {
    const kir_gemm *g = &s->kernel->gemm;
    const kir_buffer *a = &s->kernel->buffers.p[g->a], *w = &s->kernel->buffers.p[g->w];
    int threads = 32 * few_warps(g);
    const char *sum = kir_acc_type(g) == KIR_I32 ? "int" : "float";
    syl_text_printf(
        s->out,
        "\n#define FEW(rows_)                                                                    \\\n"
        "    {                                                                                 \\\n"
        "        %s acc[rows_][1];                                                          \\\n"
        "        float low[rows_][1];                                                          \\\n"
        "        tile<rows_>(args, first, column, w, scales, ring, acc, low);                  \\\n"
        "    }\n",
        sum);
    syl_text_printf(
        s->out,
        "\ntemplate <int ROWS>\n__device__ inline void tile(const Args &args, int first, int "
        "column, const uint4 *w, "
        "const float *scales, uint4 *ring, %s (*acc)[1], float (*low)[1]) {\n"
        "    few_rows<ROWS, %s>((const %s *)args.buffers[%d], %lld, first, args.rows, %s, w, scales, "
        "ring, acc);\n",
        sum, types(s), cu_elem_type(a->elem), g->a, (long long)a->stride, aligned(s));
    print_low_rank(s, "ROWS", 1, "first", "column");
    syl_text_printf(
        s->out,
        "    epilogue<ROWS, 1>(args, first, column, acc, low);\n}\n"
        "\nextern \"C\" __global__ void __launch_bounds__(%d, 3) %s(const __grid_constant__ Args args) {\n"
        "    const int first = blockIdx.x * 16, column = blockIdx.y * %d + threadIdx.x, left = args.rows - "
        "first;\n"
        "    typedef Gemm<%s, %s, %s, %lld, %d> G;\n"
        "    const int panel = smaller(column / 32, %lld); // warps behind the last one repeat it\n"
        "    const uint4 *w = (const uint4 *)args.buffers[%d] + panel * G::panel + column %% 32;\n"
        "    const float *scales = (const float *)((const char *)args.buffers[%d] + %lld) + panel * "
        "G::groups * 32 + column %% 32;\n"
        "    uint4 ring[few_ring];\n"
        "    let_next_begin();\n    first_units<G>(w, ring);\n    wait_for_previous();\n"
        "    if (left == 1) FEW(1)\n    else if (left <= 4) FEW(4)\n    else FEW(16)\n",
        threads, s->launch->entry, threads, cu_elem_type(a->elem), cu_elem_type(w->elem),
        g->dot == KIR_DOT_I8 ? "int" : "float", (long long)g->k,
        kir_scaled_groups(&g->codes) ? g->codes.group : 0, (long long)syl_ceil_div(g->n, 32) - 1, g->w, g->w,
        (long long)cu_pack_simt_panels(g->n, g->k, w->elem));
    cu_print_tiled_padding(s, "first", "blockIdx.y == 0 ? first + 16 : first", "    ");
    syl_text_printf(s->out, "}\n");
    s->launch->threads = threads;
    s->launch->rows_per_block = 16;
    s->launch->blocks_y = syl_ceil_div(g->n, threads);
    s->launch->shared = 16 * 512 * (g->dot == KIR_DOT_I8 ? 1 : 4);
    return SYL_OK;
}

static syl_status print_many(cu_source *s) {
    const kir_gemm *g = &s->kernel->gemm;
    const kir_buffer *a = &s->kernel->buffers.p[g->a], *w = &s->kernel->buffers.p[g->w];
    syl_text_printf(
        s->out,
        "\nextern \"C\" __global__ void __launch_bounds__(256) %s(const __grid_constant__ Args args) {\n"
        "    const int first = blockIdx.x * 64, from = blockIdx.y * 64;\n"
        "    typedef Gemm<%s, %s, %s, %lld, %d> G;\n"
        "    const uint4 *w = (const uint4 *)args.buffers[%d] + from / 32 * G::panel;\n"
        "    const float *scales = (const float *)((const char *)args.buffers[%d] + %lld) + from / 32 * "
        "G::groups * 32;\n"
        "    %s acc[4][4];\n    float low[4][4];\n"
        "    let_next_begin();\n    wait_for_previous();\n"
        "    many_rows<%s>((const %s *)args.buffers[%d], %lld, first, args.rows, %s, w, scales, acc);\n"
        "    const int row = first + threadIdx.x / 16 * 4, column = from + threadIdx.x %% 16 * 4;\n",
        s->launch->entry, cu_elem_type(a->elem), cu_elem_type(w->elem),
        g->dot == KIR_DOT_I8 ? "int" : "float", (long long)g->k,
        kir_scaled_groups(&g->codes) ? g->codes.group : 0, g->w, g->w,
        (long long)cu_pack_simt_panels(g->n, g->k, w->elem), kir_acc_type(g) == KIR_I32 ? "int" : "float",
        types(s), cu_elem_type(a->elem), g->a, (long long)a->stride, aligned(s));
    print_low_rank(s, "4", 4, "row", "column");
    syl_text_printf(s->out, "    epilogue<4, 4>(args, row, column, acc, low);\n");
    cu_print_tiled_padding(s, "first", "blockIdx.y == 0 ? first + 64 : first", "    ");
    syl_text_printf(s->out, "}\n");
    s->launch->threads = 256;
    s->launch->rows_per_block = 64;
    s->launch->blocks_y = syl_ceil_div(g->n, 64);
    s->launch->shared = 2 * 16 * 68 * 4;
    return SYL_OK;
}

syl_status cu_emit_gemm_simt(cu_source *s) {
    cu_template(s, "gemm_simt.cuh");
    cu_print_args(s);
    SYL_TRY(cu_print_epilogue(s));
    return cu_param(s->variant, "tile") == 64 ? print_many(s) : print_few(s);
}
