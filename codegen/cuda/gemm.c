/* What the GEMMs on tensor cores have in common (gemm.h): what fits, the shape, rates for the cost models. */
#include "codegen/cuda/gemm.h"
#include "base/size.h"

bool cu_gemm_is_float(const kir_kernel *kernel) {
    return kir_acc_type(&kernel->gemm) == KIR_F32;
}

cu_layout cu_gemm_layout(const kir_kernel *kernel) {
    const kir_gemm *g = &kernel->gemm;
    return cu_layout_of(g->dot, kernel->buffers.p[g->w].elem, &g->codes, g->k);
}

bool cu_gemm_has_branch(const kir_kernel *kernel) {
    return kernel->branch.rank && kernel->buffers.p[kernel->branch.u].shape == KIR_PACKED;
}

bool cu_gemm_fits(const kir_kernel *kernel) {
    if (kernel->kind != KIR_GEMM || !cu_is_mma(kernel->gemm.dot)) return false;
    for (size_t i = 0; i < kernel->body.n; i++)
        if (kernel->body.p[i].op == KIR_store_row) return false;
    return kernel->gemm.n < 1 << 30 && kernel->gemm.k < 1 << 30 && kernel->branch.rank <= 256;
}

static int branch_pieces(const kir_kernel *kernel) { /* as Branch::PIECES */
    int pieces = 2;
    while (pieces * 8 < kernel->branch.rank) pieces *= 2;
    return pieces;
}

int cu_gemm_branch_bytes(const kir_kernel *kernel, int tokens) {
    if (!cu_gemm_has_branch(kernel)) return 0;
    int parts = kernel->buffers.p[kernel->branch.t].elem == KIR_F32 ? 2 : 1;
    return (int)syl_ceil_div(tokens * (branch_pieces(kernel) * 16 * parts + 16), 1024) *
           1024; /* 16: the values of a row */
}

int cu_gemm_stage_bytes(const cu_gemm_tile *tile) {
    return tile->at_once * (tile->channels + 4) * 4;
}

const char *cu_gemm_weights(cu_source *s) {
    const kir_gemm *g = &s->kernel->gemm;
    const kir_weight_codes *codes = &g->codes;
    cu_layout l = cu_gemm_layout(s->kernel);
    bool coded = s->kernel->buffers.p[g->w].elem == KIR_I8;
    if (g->dot == KIR_DOT_MMA_BF16) {
        if (!coded) return syl_arena_printf(s->arena, "PlainWeights<%d, 16>", l.mmas);
        if (!codes->bits) return "Int8Bf16Weights";
        return syl_arena_printf(s->arena, "Int4Bf16Weights<%d, %s>", codes->group,
                                codes->two_level ? "true" : "false");
    }
    if (!codes->bits) return "PlainWeights<4, 32>";
    if (!codes->group) return "Int4Weights";
    return syl_arena_printf(s->arena, "%s<%d>", codes->two_level ? "TwoLevelWeights" : "Int4ScaledWeights",
                            codes->group);
}

/* ---- the whole ---- */

static void print_shape(cu_source *s, const cu_gemm_tile *tile) {
    const kir_kernel *k = s->kernel;
    const kir_gemm *g = &k->gemm;
    cu_layout l = cu_gemm_layout(k);
    const char *acc = cu_register_type(kir_acc_type(g));
    const char *space = s->space ? syl_arena_printf(s->arena, "::%s", s->space) : "";
    const kir_buffer *t = cu_gemm_has_branch(k) ? &k->buffers.p[k->branch.t] : NULL;
    syl_text_printf(
        s->out,
        "\nstruct Shape {\n"
        "    typedef %s::Args Args;\n    typedef %s::Epilogue Epilogue;\n    typedef %s::Scaled Scaled;\n"
        "    typedef %s Acc;\n    typedef %s Sum;\n"
        "    static constexpr int A = %d, W = %d, N = %lld, CHUNKS = %lld;\n"
        "    static constexpr int TOKENS = %d, CHANNELS = %d, BLOCKS = %d, THREADS = %d, SPLIT_TOKENS = %d;\n"
        "    static constexpr int RANK = %lld, T = %d, U = %d, T_STRIDE = %lld, T_BYTES = %d;\n"
        "    static constexpr bool T_IS_F32 = %s;\n%s};\n\n",
        space, space, space, acc, g->dot == KIR_DOT_MMA_I8 ? "int" : "float", g->a, g->w, (long long)g->n,
        (long long)l.chunks, tile->tokens, tile->channels, tile->blocks, tile->threads, tile->at_once,
        t ? (long long)k->branch.rank : 0LL, t ? k->branch.t : 0, t ? k->branch.u : 0,
        t ? (long long)t->stride : 0LL, cu_gemm_branch_bytes(k, tile->tokens),
        t && t->elem == KIR_F32 ? "true" : "false", tile->more);
}

syl_status cu_gemm_print_parts(cu_source *s, const cu_gemm_tile *tile) {
    cu_print_args(s);
    if (!cu_gemm_print_epilogue(s))
        return syl_error(s->diag, SYL_ERR_internal, SYL_NOWHERE,
                         "kernel '%s': its epilogue holds a row-wide instruction", s->kernel->name);
    print_shape(s, tile);
    return SYL_OK;
}

syl_status cu_gemm_print(cu_source *s, const cu_gemm_tile *tile, const char *name) {
    SYL_TRY(cu_gemm_print_parts(s, tile));
    cu_template(s, syl_arena_printf(s->arena, "%s.cuh", name));
    syl_text_printf(
        s->out,
        "\nextern \"C\" __global__ void __launch_bounds__(%d, 1) %s(const __grid_constant__ Args args) {\n"
        "    %s<Shape, %s>(args);\n}\n",
        s->launch->threads, s->launch->entry, name, cu_gemm_weights(s));
    return SYL_OK;
}

/* ---- costs ---- */

cu_rates cu_rates_of(const syl_cuda_target *target) {
    static const struct {
        int arch;
        double bytes, clock, i8, bf16; /* multiply-adds a cycle and multiprocessor by mma.sync */
    } table[] = {{75, 0.3e12, 1.5e9, 1024, 64},   {80, 1.5e12, 1.4e9, 2048, 1024},
                 {86, 0.7e12, 1.7e9, 1024, 512},  {89, 0.9e12, 2.4e9, 1024, 512},
                 {90, 3.0e12, 1.6e9, 2300, 1200}, {100, 7e12, 1.8e9, 2300, 1200},
                 {120, 1.6e12, 2.4e9, 1024, 512}};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (table[i].arch == target->arch) {
            double cycles = table[i].clock * target->sms;
            return (cu_rates){table[i].bytes, cycles * table[i].i8, cycles * table[i].bf16};
        }
    return (cu_rates){1e12, 1e14, 1e14};
}

double cu_gemm_weight_bytes(const kir_kernel *kernel) {
    cu_layout l = cu_gemm_layout(kernel);
    return (double)syl_ceil_div(kernel->gemm.n, 64) * (double)l.chunks * l.chunk;
}
