/* Causal attention over the paged KV cache (templates/attention.cuh, paged_attention.cuh). split=0: a block has the query heads of one KV head for some tokens and
 * walks all chunks of 512 positions. split=1: a block for each token and chunk; the last one to arrive merges.
 *
 * Invariant: both make the same sums in the same order, so which one runs never shows in the bits. */
#include "base/size.h"
#include "codegen/cuda/emit.h"

enum {
    most_split_rows = 4096, /* as many counters there are for each kv head */
    most_dim = 1024,
    threads = 128,
};

typedef struct attention_tile {
    int queries;       /* of a tile */
    int heads, pieces; /* query heads of a tile; tiles that the heads of one KV head make */
    int tokens;        /* of a tile */
    int step;          /* features that a thread loads at once */
} attention_tile;

static int lanes_of(int dim) {
    return dim <= 16 ? 16 : dim <= 32 ? 32 : dim <= 64 ? 64 : 128;
}

static attention_tile tile_of(const kir_kernel *k, bool split) {
    const kir_attention *a = &k->attention;
    int group = a->heads / a->kv_heads, most = a->head_dim <= 128 ? 32 : a->head_dim <= 256 ? 16 : 8;
    attention_tile tile = {.heads = group < most ? group : most, .step = 8};
    tile.pieces = (group + tile.heads - 1) / tile.heads;
    tile.queries = most;
    tile.tokens = split ? 1 : most / tile.heads;
    if (split) { /* no more than one token has */
        int least = threads / lanes_of(a->head_dim) < 4 ? 4 : threads / lanes_of(a->head_dim);
        for (tile.queries = least; tile.queries < tile.heads;) tile.queries *= 2;
    }
    while (a->head_dim % tile.step || (k->cache.k.bits && k->cache.k.group % tile.step)) tile.step /= 2;
    return tile;
}

bool cu_fits_attention(const kir_kernel *kernel, const syl_cuda_target *target,
                       const syl_cuda_variant *variant) {
    (void)target, (void)variant;
    return kernel->kind == KIR_ATTENTION && kernel->attention.head_dim <= most_dim;
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

static int64_t shared_bytes(const attention_tile *tile, int dim, int values) {
    int64_t floats = (int64_t)dim * tile->queries + 64 * (tile->queries + 4) + 7 * tile->queries + values;
    return floats * 4;
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

/* Results of the tile: total / l, rounded once. */
static void print_finish(cu_source *s, const attention_tile *tile) {
    const kir_attention *a = &s->kernel->attention;
    const kir_buffer *out = &s->kernel->buffers.p[a->out];
    const char *type = cu_elem_type(out->elem);
    syl_text_printf(s->out,
                    "\n__device__ inline void finish(const Args &args, const AttentionTile<C> &s, int first, "
                    "int tokens, int head, int heads, int t, "
                    "const float (*total)[C::DT]) {\n"
                    "    #pragma unroll\n    for (int i = 0; i < C::QN; i++) {\n"
                    "        const int n = t / C::DL * C::QN + i, row = first + n / %d;\n"
                    "        if (n / %d >= tokens || n %% %d >= heads) continue;\n"
                    "        #pragma unroll\n        for (int k = 0; k < C::DT; k++) {\n"
                    "            const int d = t %% C::DL + k * C::DL, j = (head + n %% %d) * C::D + d;\n"
                    "            if (d < C::D) narrow(divide(total[i][k], s.tl[n]), ",
                    tile->heads, tile->heads, tile->heads, tile->heads);
    if (out->shape == KIR_TILED)
        syl_text_printf(s->out, "*(%s *)((char *)args.buffers[%d] + tiled(row, j * %d, args.rows)));\n", type,
                        a->out, cu_elem_bytes(out->elem));
    else
        syl_text_printf(s->out, "((%s *)args.buffers[%d])[(int64_t)row * %lld + j]);\n", type, a->out,
                        (long long)out->stride);
    syl_text_printf(s->out, "        }\n    }\n}\n");
}

/* What both variants do for a tile of tokens of one sequence: `last` is the largest position. */
static void print_tile(cu_source *s, const attention_tile *tile) {
    const kir_attention *a = &s->kernel->attention;
    const kir_buffer *q = &s->kernel->buffers.p[a->q];
    syl_text_printf(
        s->out,
        "\n__device__ inline int stage(const Args &args, AttentionTile<C> &s, int first, int tokens, int "
        "head, int heads, int t) {\n"
        "    return stage_queries<C, %d>(s, (const %s *)args.buffers[%d] + head * C::D, %lld, (const int "
        "*)args.buffers[%d], first, "
        "tokens, heads, %s, t);\n}\n"
        "\n__device__ inline void walk(const Args &args, AttentionTile<C> &s, Head &source, int last, int t, "
        "float (*total)[C::DT]) {\n"
        "    float o[C::QN][C::DT];\n    clear_total(s, t, total);\n"
        "    for (int begin = 0; begin <= last; begin += attention_chunk) {\n"
        "        attend<C, %d>(s, source, begin, smaller(begin + attention_chunk, last + 1), t, o);\n"
        "        merge_chunk(s, t, o, total);\n    }\n}\n",
        tile->heads, cu_elem_type(q->elem), a->q, (long long)q->stride, a->pos, cu_float(s, a->scale),
        tile->step);
}

static void print_whole(cu_source *s, const attention_tile *tile) {
    const kir_attention *a = &s->kernel->attention;
    syl_text_printf(s->out,
                    "    const int stop = smaller((int)blockIdx.x * %d + %d, args.rows);\n"
                    "    const int *seq = (const int *)args.buffers[%d];\n"
                    "    for (int first = blockIdx.x * %d, end; first < stop; first = end) {\n"
                    "        for (end = first + 1; end < stop && seq[end] == seq[first];) end++; // tokens "
                    "of one sequence\n"
                    "        const int last = stage(args, s, first, end - first, head, heads, t);\n"
                    "        source.sequence = seq[first];\n"
                    "        float total[C::QN][C::DT];\n"
                    "        walk(args, s, source, last, t, total);\n"
                    "        finish(args, s, first, end - first, head, heads, t, total);\n    }\n",
                    tile->tokens, tile->tokens, a->seq, tile->tokens);
}

static void print_split(cu_source *s, const attention_tile *tile, int64_t counters, int64_t block) {
    const kir_attention *a = &s->kernel->attention;
    syl_text_printf(
        s->out,
        "    const int row = blockIdx.x, chunk = blockIdx.z;\n"
        "    const int last = ((const int *)args.buffers[%d])[row], chunks = last / attention_chunk + 1;\n"
        "    const bool alone = args.rows > %d; // more rows than counters: one block has all chunks\n"
        "    if (chunk >= (alone ? 1 : chunks)) return;\n"
        "    source.sequence = ((const int *)args.buffers[%d])[row];\n"
        "    stage(args, s, row, 1, head, heads, t);\n"
        "    float o[C::QN][C::DT], total[C::QN][C::DT];\n"
        "    if (alone || chunks == 1) {\n"
        "        walk(args, s, source, last, t, total);\n"
        "        finish(args, s, row, 1, head, heads, t, total);\n"
        "        return;\n    }\n"
        "    const int begin = chunk * attention_chunk;\n"
        "    attend<C, %d>(s, source, begin, smaller(begin + attention_chunk, last + 1), t, o);\n"
        "    char *partials = (char *)args.workspace + %lld + ((int64_t)blockIdx.y * gridDim.x + row) * "
        "%lld;\n"
        "    const int64_t next = (int64_t)gridDim.x * gridDim.y * %lld; // from a chunk to the next\n"
        "    store_partial(s, (float *)(partials + chunk * next), t, o);\n"
        "    __threadfence();\n    __syncthreads();\n"
        "    int *counter = (int *)args.workspace + blockIdx.y * %d + row;\n"
        "    if (t == 0) s.pos[0] = atomicAdd(counter, 1);\n"
        "    __syncthreads();\n"
        "    if (s.pos[0] != chunks - 1) return; // another block is the last\n"
        "    __threadfence();\n"
        "    if (t == 0) *counter = 0;\n"
        "    clear_total(s, t, total);\n"
        "    for (int c = 0; c < chunks; c++) {\n"
        "        load_partial(s, (const volatile float *)(partials + c * next), t, o);\n"
        "        __syncthreads();\n        merge_chunk(s, t, o, total);\n    }\n"
        "    finish(args, s, row, 1, head, heads, t, total);\n",
        a->pos, most_split_rows, a->seq, tile->step, (long long)counters, (long long)block, (long long)block,
        most_split_rows);
}

syl_status cu_emit_attention(cu_source *s) {
    const kir_attention *a = &s->kernel->attention;
    bool split = cu_param(s->variant, "split");
    attention_tile tile = tile_of(s->kernel, split);
    int group = a->heads / a->kv_heads;
    int per_thread = tile.queries / (threads / lanes_of(a->head_dim)) *
                     (int)syl_ceil_div(a->head_dim, lanes_of(a->head_dim));
    int64_t block = syl_ceil_div((2 * tile.queries + per_thread * threads) * 4, 256) * 256;
    int64_t counters = syl_ceil_div((int64_t)a->kv_heads * tile.pieces * most_split_rows * 4, 256) * 256;
    cu_template(s, "paged_attention.cuh");
    cu_print_args(s);
    print_types(s, &tile);
    print_finish(s, &tile);
    print_tile(s, &tile);
    syl_text_printf(
        s->out,
        "\nextern \"C\" __global__ void __launch_bounds__(%d) %s(const __grid_constant__ Args args) {\n"
        "    AttentionTile<C> &s = *(AttentionTile<C> *)shared_memory;\n"
        "    const int t = threadIdx.x, kv_head = blockIdx.y / %d, piece = blockIdx.y %% %d;\n"
        "    const int head = kv_head * %d + piece * %d, heads = smaller(%d, %d - piece * %d);\n"
        "    let_next_begin();\n    wait_for_previous();\n"
        "    Head source = {(const KvView *)args.buffers[%d], 0, kv_head, nullptr};\n",
        threads, s->launch->entry, tile.pieces, tile.pieces, group, tile.heads, tile.heads, group, tile.heads,
        a->cache);
    if (!split) {
        print_whole(s, &tile);
        cu_print_tiled_padding(s, syl_arena_printf(s->arena, "(int)blockIdx.x * %d", tile.tokens),
                               "blockIdx.y == 0 ? stop : 0", "    ");
    } else {
        cu_print_tiled_padding(s, "(int)blockIdx.x",
                               "blockIdx.y == 0 && blockIdx.z == 0 ? (int)blockIdx.x + 1 : 0", "    ");
        print_split(s, &tile, counters, block);
    }
    syl_text_printf(s->out, "}\n");
    s->launch->threads = threads;
    s->launch->rows_per_block = tile.tokens;
    s->launch->blocks_y = (int64_t)a->kv_heads * tile.pieces;
    s->launch->shared = shared_bytes(&tile, a->head_dim, value_floats(&s->kernel->cache));
    if (split) {
        s->launch->positions_per_block = 512;
        s->launch->counters = counters;
        s->launch->workspace_block = block;
    }
    return SYL_OK;
}
