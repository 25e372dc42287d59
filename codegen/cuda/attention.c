/* Causal attention over the paged KV cache (templates/attention.cuh, paged_attention.cuh). split=0: a block has the query heads of one KV head for some tokens and
 * walks all pages. split=1: a block for each token and page; the last one to arrive merges.
 *
 * Invariant: both make the same sums in the same order, so which one runs never shows in the bits. */
#include "base/size.h"
#include "codegen/cuda/emit.h"

enum {
    most_split_rows = 4096, /* as many counters there are for each tile of a token */
    most_dim = 1024,
    threads = 256,
    pages_at_once = 32, /* that are merged; as in the template */
};

typedef struct attention_tile {
    int queries;       /* of a tile */
    int heads, pieces; /* query heads of a tile; tiles that the heads of one KV head make */
    int tokens;        /* of a tile */
    int step;          /* features that a thread loads at once */
} attention_tile;

static attention_tile tile_of(const kir_kernel *k, bool split) {
    const kir_attention *a = &k->attention;
    int dim = a->head_dim, group = a->heads / a->kv_heads, part = dim / kir_score_chains(dim);
    int most = split || dim > 128 ? 16 : 32;
    if (dim > 256) most = 8;
    attention_tile tile = {.heads = group < most ? group : most, .step = split ? 16 : 8, .queries = most};
    tile.pieces = (group + tile.heads - 1) / tile.heads;
    tile.tokens = split ? 1 : most / tile.heads;
    if (split) /* no more than one token has */
        for (tile.queries = 1; tile.queries < tile.heads;) tile.queries *= 2;
    while (part % tile.step || (k->cache.k.bits && k->cache.k.group % tile.step)) tile.step /= 2;
    return tile;
}

bool cu_fits_attention(const kir_kernel *kernel, const syl_cuda_target *target,
                       const syl_cuda_variant *variant) {
    (void)target;
    if (kernel->kind != KIR_ATTENTION || kernel->attention.head_dim > most_dim) return false;
    bool split = cu_param(variant, "split");
    attention_tile tile = tile_of(kernel, split);
    return !split ||
           (int64_t)kernel->attention.kv_heads * tile.pieces * most_split_rows * 4 <= SYL_CUDA_COUNTERS;
}

double cu_cost_attention(const kir_kernel *kernel, const syl_cuda_target *target,
                         const syl_cuda_variant *variant, int64_t rows) {
    (void)kernel, (void)target;
    /* few rows decode; many are a prompt, whose tokens share what is read */
    if (cu_param(variant, "split") == 0) return 32e-6 + 1e-7 * (double)rows;
    return rows > most_split_rows ? 1e3 : 1e-6 * (double)rows;
}

static int value_floats(const kir_cache *cache) {
    return cache->v.bits ? (int)(cache->dim / cache->v.group) * 128 : 1;
}

/* As sizeof(AttentionTile<C>), rounded up to 16 bytes. */
static int64_t tile_bytes(const attention_tile *tile, int dim, int values) {
    int64_t floats = (int64_t)dim * tile->queries + 64 * (tile->queries + 4) + 5 * tile->queries + values;
    return syl_ceil_div(floats * 4, 16) * 16;
}

static void print_types(cu_source *s, const attention_tile *tile) {
    const kir_attention *a = &s->kernel->attention;
    const kir_cache *cache = &s->kernel->cache;
    kir_cache_layout l = kir_cache_layout_of(cache);
    syl_text_printf(s->out,
                    "\ntypedef AttentionShape<%d, %d, %d> C;\n"
                    "typedef CachedHead<%s, %d, %d, %d, %d, %d, %lld, %lld, %lld, %lld> Head;\n",
                    a->head_dim, tile->queries, value_floats(cache), cu_elem_type(cache->elem), a->head_dim,
                    cache->k.bits, cache->k.group, cache->v.bits, cache->v.group, (long long)l.values,
                    (long long)l.k_groups, (long long)l.v_groups, (long long)l.size);
}

/* Query n's feature d of a tile at token `first` and head `head`, rounded once. */
static void print_result(cu_source *s, const attention_tile *tile) {
    const kir_attention *a = &s->kernel->attention;
    const kir_buffer *out = &s->kernel->buffers.p[a->out];
    const char *type = cu_elem_type(out->elem);
    syl_text_printf(s->out,
                    "\n__device__ inline void result(const Args &args, int first, int tokens, int head, int "
                    "heads, int n, int d, float x) {\n"
                    "    const int row = first + n / %d, j = (head + n %% %d) * C::D + d;\n"
                    "    if (n / %d >= tokens || n %% %d >= heads || d >= C::D) return;\n",
                    tile->heads, tile->heads, tile->heads, tile->heads);
    if (out->shape == KIR_TILED)
        syl_text_printf(
            s->out, "    narrow(x, *(%s *)((char *)args.buffers[%d] + tiled(row, j * %d, args.rows)));\n}\n",
            type, a->out, cu_elem_bytes(out->elem));
    else
        syl_text_printf(s->out, "    narrow(x, ((%s *)args.buffers[%d])[(int64_t)row * %lld + j]);\n}\n",
                        type, a->out, (long long)out->stride);
}

/* The queries of a tile of tokens of one sequence; returns their largest position. */
static void print_stage(cu_source *s, const attention_tile *tile) {
    const kir_attention *a = &s->kernel->attention;
    const kir_buffer *q = &s->kernel->buffers.p[a->q];
    syl_text_printf(s->out,
                    "\n__device__ inline int stage(const Args &args, AttentionTile<C> &s, int first, int "
                    "tokens, int head, int heads, int t) {\n"
                    "    return stage_queries<C, %d>(s, (const %s *)args.buffers[%d] + head * C::D, %lld, "
                    "(const int *)args.buffers[%d], first, "
                    "tokens, heads, %s, t);\n}\n",
                    tile->heads, cu_elem_type(q->elem), a->q, (long long)q->stride, a->pos,
                    cu_float(s, a->scale));
}

static void print_whole(cu_source *s, const attention_tile *tile) {
    const kir_attention *a = &s->kernel->attention;
    syl_text_printf(
        s->out,
        "    const int stop = smaller((int)blockIdx.x * %d + %d, args.rows);\n"
        "    const int *seq = (const int *)args.buffers[%d];\n"
        "    for (int first = blockIdx.x * %d, end; first < stop; first = end) {\n"
        "        for (end = first + 1; end < stop && seq[end] == seq[first];) end++; // tokens of one "
        "sequence\n"
        "        const int last = stage(args, s, first, end - first, head, heads, t);\n"
        "        source.sequence = seq[first];\n"
        "        float total[Wide<C>::QN][C::DT];\n"
        "        wide_walk<C, %d>(s, source, last + 1, t, total);\n"
        "        #pragma unroll\n        for (int i = 0; i < Wide<C>::QN * C::DT; i++) {\n"
        "            const int n = t / C::DL * Wide<C>::QN + i / C::DT;\n"
        "            result(args, first, end - first, head, heads, n, t %% C::DL + i %% C::DT * C::DL, "
        "divide(total[i / C::DT][i %% C::DT], s.l[n]));\n"
        "        }\n    }\n",
        tile->tokens, tile->tokens, a->seq, tile->tokens, tile->step);
}

/* A block's page is found before the kernel in front has ended: positions, sequences and the page table are arguments of the run. Those are reads that
 * wait for each other. */
static void print_first_page(cu_source *s) {
    const kir_attention *a = &s->kernel->attention;
    syl_text_printf(s->out,
                    "    const int row = blockIdx.x;\n"
                    "    const int last = ((const int *)args.buffers[%d])[row], pages = last / 64 + 1;\n"
                    "    source.sequence = ((const int *)args.buffers[%d])[row];\n"
                    "    source.page(smaller((int)blockIdx.z, pages - 1) * 64);\n"
                    "    let_next_begin();\n    wait_for_previous();\n",
                    a->pos, a->seq);
}

static void print_split(cu_source *s, const attention_tile *tile, int64_t block) {
    const kir_attention *a = &s->kernel->attention;
    syl_text_printf(
        s->out,
        "    float *parts = (float *)(shared_memory + %lld);\n"
        "    // more rows than counters: the first block makes all pages\n"
        "    const bool alone = args.rows > %d || pages == 1;\n"
        "    if ((int)blockIdx.z >= (alone ? 1 : pages)) return;\n"
        "    stage(args, s, row, 1, head, heads, t);\n"
        "    char *results = (char *)args.workspace + %lld + ((int64_t)blockIdx.y * gridDim.x + row) * "
        "%lld;\n"
        "    const int64_t next = (int64_t)gridDim.x * gridDim.y * %lld; // from a page to the next\n"
        "    for (int page = blockIdx.z; page < (alone ? pages : (int)blockIdx.z + 1); page++) {\n"
        "        if (page > (int)blockIdx.z) source.page(page * 64);\n"
        "        narrow_page<C, %d>(s, source, parts, page * 64, last, t, (float *)(results + page * "
        "next));\n    }\n"
        "    if (!alone) __threadfence();\n    __syncthreads();\n"
        "    if (!alone) {\n"
        "        int *counter = (int *)args.workspace + blockIdx.y * %d + row;\n"
        "        if (t == 0) s.before[0] = __int_as_float(atomicAdd(counter, 1));\n"
        "        __syncthreads();\n"
        "        if (__float_as_int(s.before[0]) != pages - 1) return; // another block is the last\n"
        "        __threadfence();\n"
        "        if (t == 0) *counter = 0;\n    }\n"
        "    narrow_merge(s, parts, results, next, pages, t, [&](int at, float x) {\n"
        "        result(args, row, 1, head, heads, at / C::D, at %% C::D, x);\n    });\n",
        (long long)tile_bytes(tile, a->head_dim, value_floats(&s->kernel->cache)), most_split_rows,
        (long long)SYL_CUDA_COUNTERS, (long long)block, (long long)block, tile->step, most_split_rows);
}

syl_status cu_emit_attention(cu_source *s) {
    const kir_attention *a = &s->kernel->attention;
    bool split = cu_param(s->variant, "split");
    attention_tile tile = tile_of(s->kernel, split);
    int group = a->heads / a->kv_heads, widest = a->head_dim > 64 ? a->head_dim : 64;
    int64_t block = syl_ceil_div((int64_t)tile.queries * (a->head_dim + 2) * 4, 256) * 256;
    cu_template(s, "paged_attention.cuh");
    cu_print_args(s);
    print_types(s, &tile);
    print_result(s, &tile);
    print_stage(s, &tile);
    syl_text_printf(
        s->out,
        "\nextern \"C\" __global__ void __launch_bounds__(%d, %d) %s(const __grid_constant__ Args args) {\n"
        "    AttentionTile<C> &s = *(AttentionTile<C> *)shared_memory;\n"
        "    const int t = threadIdx.x, kv_head = blockIdx.y / %d, piece = blockIdx.y %% %d;\n"
        "    const int head = kv_head * %d + piece * %d, heads = smaller(%d, %d - piece * %d);\n"
        "    Head source = {(const KvView *)args.buffers[%d], 0, kv_head, nullptr};\n",
        threads, a->head_dim <= 64 ? 2 : 1, s->launch->entry, tile.pieces, tile.pieces, group, tile.heads,
        tile.heads, group, tile.heads, a->cache);
    if (!split) {
        syl_text_printf(s->out, "    let_next_begin();\n    wait_for_previous();\n");
        print_whole(s, &tile);
        cu_print_tiled_padding(s, syl_arena_printf(s->arena, "(int)blockIdx.x * %d", tile.tokens),
                               "blockIdx.y == 0 ? stop : 0", "    ");
    } else {
        print_first_page(s);
        cu_print_tiled_padding(s, "(int)blockIdx.x",
                               "blockIdx.y == 0 && blockIdx.z == 0 ? (int)blockIdx.x + 1 : 0", "    ");
        print_split(s, &tile, block);
    }
    syl_text_printf(s->out, "}\n");
    s->launch->threads = threads;
    s->launch->rows_per_block = tile.tokens;
    s->launch->blocks_y = (int64_t)a->kv_heads * tile.pieces;
    s->launch->shared = tile_bytes(&tile, a->head_dim, value_floats(&s->kernel->cache));
    if (split) {
        int64_t parts = (int64_t)4 * tile.queries * widest,
                factors = (int64_t)pages_at_once * 2 * tile.queries;
        s->launch->shared += (parts > factors ? parts : factors) * 4;
        s->launch->positions_per_block = SYL_KV_PAGE;
        s->launch->counters = SYL_CUDA_COUNTERS;
        s->launch->workspace_block = block;
    }
    return SYL_OK;
}
