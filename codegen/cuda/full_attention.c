/* Attention within sequences of a fixed number of rows (templates/full_attention.cuh): a block has up to `rows` queries of one head and one sequence, and
 * goes through its positions in pages of 64. */
#include "base/size.h"
#include "codegen/cuda/emit.h"

enum { most_dim = 1024, threads = 256 };

static int lanes_of(int64_t dim) {
    return dim <= 16 ? 16 : dim <= 32 ? 32 : dim <= 64 ? 64 : 128;
}

static int64_t shared_bytes(int64_t dim, int queries) {
    return (dim * queries + 64 * (queries + 4) + 5 * queries + 1) * 4;
}

bool cu_fits_full_attention(const kir_kernel *kernel, const syl_cuda_target *target,
                            const syl_cuda_variant *variant) {
    if (kernel->kind != KIR_FULL_ATTENTION) return false;
    const kir_full_attention *a = &kernel->full_attention;
    int queries = cu_param(variant, "rows");
    /* sums of a thread: its queries times its features */
    int64_t sums =
        queries / (threads / lanes_of(a->head_dim)) * syl_ceil_div(a->head_dim, lanes_of(a->head_dim));
    return a->head_dim <= most_dim && a->tokens < 1 << 24 && (queries == 16 || sums <= 16) &&
           shared_bytes(a->head_dim, queries) <= target->shared;
}

double cu_cost_full_attention(const kir_kernel *kernel, const syl_cuda_target *target,
                              const syl_cuda_variant *variant, int64_t rows) {
    const kir_full_attention *a = &kernel->full_attention;
    int queries = cu_param(variant, "rows");
    double blocks = (double)(rows / a->tokens) * a->heads * (double)syl_ceil_div(a->tokens, queries);
    double block = (double)a->tokens * (double)a->head_dim * (queries == 16 ? 16 : 40) * 4e-12 * 60;
    double waves = blocks / target->sms < 1 ? 1 : blocks / target->sms;
    return 3e-6 + waves * block;
}

syl_status cu_emit_full_attention(cu_source *s) {
    const kir_full_attention *a = &s->kernel->full_attention;
    const kir_buffer *q = &s->kernel->buffers.p[a->q], *k = &s->kernel->buffers.p[a->k],
                     *v = &s->kernel->buffers.p[a->v], *out = &s->kernel->buffers.p[a->out];
    int queries = cu_param(s->variant, "rows"), step = 8,
        part = (int)(a->head_dim / kir_score_chains(a->head_dim));
    if (k->elem != v->elem)
        return syl_error(s->diag, SYL_ERR_internal, SYL_NOWHERE, "kernel '%s': keys and values of two types",
                         s->kernel->name);
    while (part % step) step /= 2;
    int bytes = step * cu_elem_bytes(k->elem) < 16 ? step * cu_elem_bytes(k->elem) : 16;
    bool even =
        k->stride * cu_elem_bytes(k->elem) % bytes == 0 && a->head_dim * cu_elem_bytes(k->elem) % bytes == 0;
    const char *type = cu_elem_type(k->elem), *to = cu_elem_type(out->elem);
    cu_template(s, "full_attention.cuh");
    cu_print_args(s);
    syl_text_printf(
        s->out,
        "\ntypedef AttentionShape<%lld, %d, 1> C;\ntypedef RowsHead<%s, %lld, %lld, %lld, %lld> Head;\n"
        "\nextern \"C\" __global__ void __launch_bounds__(%d) %s(const __grid_constant__ Args args) {\n"
        "    AttentionTile<C> &s = *(AttentionTile<C> *)shared_memory;\n"
        "    const int t = threadIdx.x, sequence = blockIdx.x * %lld, column = blockIdx.y * C::D, first = "
        "blockIdx.z * C::Q;\n"
        "    const int queries = smaller(C::Q, %lld - first);\n"
        "    Head source = {(const %s *)args.buffers[%d] + (int64_t)sequence * %lld + column,\n"
        "                   (const %s *)args.buffers[%d] + (int64_t)sequence * %lld + column, %s, 0};\n"
        "    let_next_begin();\n    wait_for_previous();\n"
        "    stage_rows(s, (const %s *)args.buffers[%d] + (int64_t)(sequence + first) * %lld + column, %lld, "
        "queries, %lld, %s, t);\n"
        "    constexpr int QN = Wide<C>::QN;\n    float total[QN][C::DT];\n"
        "    wide_walk<C, %d>(s, source, %lld, t, total);\n"
        "    #pragma unroll\n    for (int i = 0; i < QN; i++) {\n"
        "        const int n = t / C::DL * QN + i, row = sequence + first + n;\n"
        "        if (n >= queries) continue;\n"
        "        #pragma unroll\n        for (int k = 0; k < C::DT; k++) {\n"
        "            const int d = t %% C::DL + k * C::DL, j = column + d;\n"
        "            if (d < C::D) narrow(divide(total[i][k], s.l[n]), ",
        (long long)a->head_dim, queries, type, (long long)a->head_dim, (long long)a->tokens,
        (long long)k->stride, (long long)v->stride, threads, s->launch->entry, (long long)a->tokens,
        (long long)a->tokens, type, a->k, (long long)k->stride, type, a->v, (long long)v->stride,
        even ? syl_arena_printf(s->arena, "is_aligned(args.buffers[%d], 16)", a->k) : "false",
        cu_elem_type(q->elem), a->q, (long long)q->stride, (long long)q->stride, (long long)a->tokens,
        cu_float(s, a->scale), step, (long long)a->tokens);
    if (out->shape == KIR_TILED)
        syl_text_printf(s->out, "*(%s *)((char *)args.buffers[%d] + tiled(row, j * %d, args.rows)));\n", to,
                        a->out, cu_elem_bytes(out->elem));
    else
        syl_text_printf(s->out, "((%s *)args.buffers[%d])[(int64_t)row * %lld + j]);\n", to, a->out,
                        (long long)out->stride);
    syl_text_printf(s->out, "        }\n    }\n");
    cu_print_tiled_padding(s, "sequence + first", "blockIdx.y == 0 ? sequence + first + queries : 0", "    ");
    syl_text_printf(s->out, "}\n");
    s->launch->threads = threads;
    s->launch->rows_per_block = a->tokens;
    s->launch->blocks_y = a->heads;
    s->launch->blocks_z = syl_ceil_div(a->tokens, queries);
    s->launch->shared = shared_bytes(a->head_dim, queries);
    return SYL_OK;
}
