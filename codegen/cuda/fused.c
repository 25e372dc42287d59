/* Several kernels in one launch: the source, whether it fits, its cost.
 *
 * Each kernel is printed in a namespace of its own, part0, part1, ..., as a function of its own Args; templates stand in front of them. The entry fills
 * those Args from its own. A prologue's results have addresses in shared memory there: codes in the tiled form, where the GEMM's tokens lie anyway (for at
 * most 8 rows the form is the same for all numbers of rows), and scales and low-rank factors behind the GEMM's part. */
#include <string.h>
#include "base/size.h"
#include "codegen/cuda/emit.h"
#include "codegen/cuda/gemm.h"

static const int *buffers_of(const syl_cuda_fused *fused, int part) {
    const int *at = fused->buffers;
    for (int p = 0; p < part; p++) at += fused->kernels[p]->buffers.n;
    return at;
}

static void join(const syl_cuda_fused *fused, const char *between, bool variants, syl_text *out) {
    for (int p = 0; p < fused->n; p++) {
        if (p) syl_text_printf(out, "%s", between);
        if (variants)
            syl_cuda_variant_print(&fused->variants[p], out);
        else
            syl_text_printf(out, "%s", fused->kernels[p]->name);
    }
}

void syl_cuda_fused_name(const syl_cuda_fused *fused, syl_text *out) {
    join(fused, " + ", false, out);
}

void syl_cuda_fused_print(const syl_cuda_fused *fused, syl_text *out) {
    join(fused, " + ", true, out);
}

/* ---- shared memory ---- */

/* The GEMM's, then results of the prologue but for the codes, then what its rows work with. */
typedef struct places {
    cu_stream_part gemm;
    cu_rows_part rows;
    int64_t scratch, size;
    int registers; /* of a thread, left for weights */
} places;

static int64_t bytes_inside(const kir_buffer *b) {
    int64_t values = b->shape == KIR_PER_ROW ? 1 : b->stride;
    return syl_ceil_div(values * KIR_ATOM_ROWS * cu_elem_bytes(b->elem), 128) * 128;
}

static places places_of(const syl_cuda_fused *fused, const syl_cuda_target *target) {
    places p = {.gemm = cu_stream_part_of(fused->kernels[1], target, &fused->variants[1])};
    if (!p.gemm.fits) return p;
    p.rows = cu_rows_part_of(fused->kernels[0], p.gemm.threads, fused->max_rows);
    p.registers = (p.rows.threads < 256 ? 255 : 65536 / p.rows.threads) - p.rows.registers;
    if (target->arch >= 100) p.registers -= 8; /* their code takes some more */
    p.scratch = p.gemm.shared;
    for (size_t b = 0; b < fused->kernels[0]->buffers.n; b++) {
        const kir_buffer *buffer = &fused->kernels[0]->buffers.p[b];
        if (fused->buffers[b] < 0 && buffer->shape != KIR_TILED) p.scratch += bytes_inside(buffer);
    }
    p.size = p.scratch + p.rows.shared;
    return p;
}

/* Where result b of the prologue begins. */
static int64_t place_inside(const syl_cuda_fused *fused, const places *p, int b) {
    const kir_kernel *kernel = fused->kernels[0];
    if (kernel->buffers.p[b].shape == KIR_TILED) return p->gemm.tokens;
    int64_t at = p->gemm.shared;
    for (int i = 0; i < b; i++)
        if (fused->buffers[i] < 0 && kernel->buffers.p[i].shape != KIR_TILED)
            at += bytes_inside(&kernel->buffers.p[i]);
    return at;
}

/* ---- what fits ---- */

static bool prologue_fits(const syl_cuda_fused *fused, const syl_cuda_target *target) {
    if (fused->n != 2 || fused->kernels[0]->kind != KIR_ROWS || fused->kernels[1]->kind != KIR_GEMM ||
        fused->max_rows > KIR_ATOM_ROWS)
        return false;
    places p = places_of(fused, target);
    if (!p.gemm.fits || !p.rows.fits || p.size + 64 > target->shared) return false;
    if (p.registers < p.gemm.registers) return false;
    const kir_kernel *rows = fused->kernels[0], *gemm = fused->kernels[1];
    const int *buffers = buffers_of(fused, 1);
    int codes = 0;
    for (size_t b = 0; b < rows->buffers.n; b++)
        if (fused->buffers[b] < 0 && rows->buffers.p[b].shape == KIR_TILED) codes++;
    for (size_t b = 0; b < gemm->buffers.n; b++) {
        if (buffers[b] >= 0) continue;
        const kir_buffer *to = &gemm->buffers.p[b], *from = &rows->buffers.p[SYL_CUDA_INSIDE - buffers[b]];
        if (to->shape != from->shape || to->elem != from->elem || to->cols != from->cols ||
            (to->shape == KIR_MATRIX && to->stride != from->stride))
            return false;
        if (to->shape == KIR_TILED && (int)b != gemm->gemm.a) return false;
    }
    return codes == 1 && buffers[gemm->gemm.a] < 0;
}

static cu_rows_part sibling_of(const syl_cuda_fused *fused, int p) {
    return cu_rows_part_of(fused->kernels[p], 32, 1); /* as few rows a block as may be */
}

static bool siblings_fit(const syl_cuda_fused *fused, const syl_cuda_target *target) {
    for (int p = 0; p < fused->n; p++) {
        if (fused->kernels[p]->kind != KIR_ROWS) return false;
        cu_rows_part part = sibling_of(fused, p);
        if (!part.fits || part.shared > target->shared) return false;
    }
    return true;
}

bool syl_cuda_fused_fits(const syl_cuda_fused *fused, const syl_cuda_target *target) {
    if (fused->n_buffers > SYL_CUDA_MAX_BUFFERS) return false;
    return fused->fusion == SYL_CUDA_PROLOGUE ? prologue_fits(fused, target) : siblings_fit(fused, target);
}

double syl_cuda_fused_cost(const syl_cuda_fused *fused, const syl_cuda_target *target) {
    double most = 0;
    if (fused->fusion == SYL_CUDA_PROLOGUE) {
        places p = places_of(fused, target);
        return cu_stream_part_cost(fused->kernels[1], target, &fused->variants[1], p.registers,
                                   p.rows.seconds, p.size - p.gemm.shared);
    }
    for (int p = 0; p < fused->n; p++) {
        double cost = sibling_of(fused, p).seconds;
        if (cost > most) most = cost;
    }
    return 1.5e-6 + most;
}

/* ---- the source ---- */

/* `const part1::Args args1 = {{args.buffers[4], shared_memory + 1024, ...}, args.workspace, args.rows, args.positions};` */
static void print_arguments(cu_source *s, const syl_cuda_fused *fused, int part, const places *p,
                            const char *indent) {
    const int *buffers = buffers_of(fused, part);
    syl_text_printf(s->out, "%sconst part%d::Args args%d = {{", indent, part, part);
    for (size_t b = 0; b < fused->kernels[part]->buffers.n; b++) {
        if (b) syl_text_printf(s->out, ", ");
        if (buffers[b] >= 0)
            syl_text_printf(s->out, "args.buffers[%d]", buffers[b]);
        else
            syl_text_printf(s->out, "shared_memory + %lld",
                            (long long)place_inside(fused, p, SYL_CUDA_INSIDE - buffers[b]));
    }
    syl_text_printf(s->out, "}, args.workspace, args.rows, args.positions};\n");
}

static void print_args(cu_source *s, const syl_cuda_fused *fused) {
    syl_text_printf(
        s->out,
        "\nstruct Args {\n    void *buffers[%d]; // of part0 that are in memory, then of part1 ...\n"
        "    void *workspace;\n    int rows, positions;\n};\n",
        fused->n_buffers ? fused->n_buffers : 1);
}

static cu_source part_source(const cu_source *s, const syl_cuda_fused *fused, int part,
                             syl_cuda_launch *launch) {
    cu_source inner = *s;
    inner.kernel = fused->kernels[part];
    inner.variant = &fused->variants[part];
    inner.space = syl_arena_printf(s->arena, "part%d", part);
    inner.launch = launch;
    return inner;
}

static syl_status print_rows(const cu_source *s, const syl_cuda_fused *fused, int p, const cu_rows_part *part,
                             int64_t shared, bool waits) {
    syl_cuda_launch none = {0};
    cu_source inner = part_source(s, fused, p, &none);
    syl_text_printf(s->out, "\nnamespace part%d {\n", p);
    SYL_TRY(cu_print_rows_part(&inner, part, shared, waits));
    syl_text_printf(s->out, "} // namespace part%d\n", p);
    return SYL_OK;
}

static syl_status print_prologue(cu_source *s, const syl_cuda_fused *fused) {
    places p = places_of(fused, s->target);
    cu_source gemm = part_source(s, fused, 1, s->launch);
    cu_template(s, "rows.cuh");
    cu_template(s, "gemm_stream.cuh");
    SYL_TRY(print_rows(s, fused, 0, &p.rows, p.scratch, false));
    syl_text_printf(s->out, "\nnamespace part1 {\n");
    SYL_TRY(cu_print_stream_part(&gemm, p.registers));
    syl_text_printf(s->out, "} // namespace part1\n");
    print_args(s, fused);
    syl_text_printf(
        s->out,
        "\nstruct Prologue {\n    static constexpr bool HERE = true;\n    const part0::Args &args;\n"
        "    __device__ __forceinline__ void operator()() const { part0::compute_rows(args, 0, args.rows); "
        "}\n};\n"
        "\nextern \"C\" __global__ void __launch_bounds__(%d, 1) %s(const __grid_constant__ Args args) {\n",
        p.rows.threads, s->launch->entry);
    print_arguments(s, fused, 0, &p, "    ");
    print_arguments(s, fused, 1, &p, "    ");
    syl_text_printf(s->out, "    gemm_stream<part1::Shape, %s>(args1, Prologue{args0});\n}\n",
                    cu_gemm_weights(&gemm));
    s->launch->threads = p.rows.threads;
    s->launch->shared = p.size;
    s->launch->max_rows = fused->max_rows;
    return SYL_OK;
}

static syl_status print_siblings(cu_source *s, const syl_cuda_fused *fused) {
    syl_cuda_launch *launch = s->launch;
    launch->threads = 0;
    launch->blocks_y = fused->n;
    launch->rows_per_block = fused->max_rows;
    launch->max_rows = fused->max_rows;
    cu_template(s, "rows.cuh");
    for (int p = 0; p < fused->n; p++) {
        cu_rows_part part = sibling_of(fused, p);
        if (part.threads > launch->threads) launch->threads = part.threads;
        if (part.rows < launch->rows_per_block) launch->rows_per_block = part.rows;
        if (part.shared > launch->shared) launch->shared = part.shared;
        SYL_TRY(print_rows(s, fused, p, &part, 0, true));
    }
    print_args(s, fused);
    syl_text_printf(
        s->out,
        "\nextern \"C\" __global__ void __launch_bounds__(%d, 1) %s(const __grid_constant__ Args args) "
        "{\n",
        launch->threads, launch->entry);
    for (int p = 0; p < fused->n; p++) {
        cu_rows_part part = sibling_of(fused, p);
        syl_text_printf(s->out, "    if (blockIdx.y == %d) {\n        const int first = blockIdx.x * %d;\n",
                        p, part.rows);
        print_arguments(s, fused, p, NULL, "        ");
        syl_text_printf(s->out,
                        "        if (threadIdx.x < %d && first < args.rows) part%d::compute_rows(args%d, "
                        "first, first + %d);\n    }\n",
                        part.threads, p, p, part.rows);
    }
    syl_text_printf(s->out, "}\n");
    return SYL_OK;
}

syl_status syl_cuda_fused_source(const syl_cuda_fused *fused, const syl_cuda_target *target, syl_diag *diag,
                                 syl_text *out, syl_cuda_launch *launch) {
    syl_text name = {.arena = out->arena};
    *launch = (syl_cuda_launch){
        .cluster = 1, .blocks_y = 1, .blocks_z = 1, .rows_per_block = 1, .dependent = target->arch >= 90};
    join(fused, "_", false, &name);
    cu_name_entry(name.p, launch);
    cu_source s = {NULL, target, NULL, out->arena, diag, out, launch, NULL};
    for (int p = 0; p < fused->n; p++) {
        cu_source part = part_source(&s, fused, p, launch);
        syl_text_printf(out, "%s// part%d: ", p ? "//\n" : "", p);
        cu_print_comment(&part);
    }
    cu_template(&s, "base.cuh");
    return fused->fusion == SYL_CUDA_PROLOGUE ? print_prologue(&s, fused) : print_siblings(&s, fused);
}
