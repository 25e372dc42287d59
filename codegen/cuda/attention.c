/* Causal attention over the paged KV cache (templates/attention.cuh, paged_attention.cuh). split=0: a block has the query heads of one KV head for some tokens and
 * walks all pages. split=1: a block for each token and page. A cluster merges the pages of its blocks in shared memory, up to two a block;
 * more pages are merged in memory, by the last block to arrive.
 *
 * Invariant: both make the same sums in the same order, so which one runs never shows in the bits. */
#include "base/size.h"
#include "codegen/cuda/emit.h"

enum {
    most_split_rows = 4096, /* as many counters there are for each tile of a token */
    most_dim = 1024,
    threads = 256,
    pages_at_once = 32,   /* that are merged; as in the template */
    cluster = 8,          /* blocks of a token's pages, on sm_90 and later */
    most_near_pages = 16, /* that a cluster merges */
    near_bytes = 48 << 10,
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

static int value_floats(const kir_cache *cache) {
    return cache->v.bits ? (int)(cache->dim / cache->v.group) * 128 : 1;
}

/* As sizeof(AttentionTile<C>), rounded up to 16 bytes. */
static int64_t tile_bytes(const attention_tile *tile, int dim, int values) {
    int64_t floats = (int64_t)dim * tile->queries + 64 * (tile->queries + 4) + 5 * tile->queries + values;
    return syl_ceil_div(floats * 4, 16) * 16;
}

static int cluster_of(const syl_cuda_target *target) {
    return target->arch >= 90 ? cluster : 1;
}

/* Groups of threads of a block, with a page each. */
static int groups_of(const kir_kernel *kernel, const syl_cuda_target *target) {
    bool two =
        cluster_of(target) > 1 && kernel->attention.head_dim <= 64; /* 512 threads have 128 registers */
    return two ? 2 : 1;
}

/* Where results lie in shared memory and in the workspace: offsets and bytes. */
typedef struct split_places {
    int64_t parts, group, near, shared, result, block; /* parts: in a group's */
    int pages; /* of a token that its first cluster merges by itself */
} split_places;

static split_places places_of(const kir_kernel *kernel, const syl_cuda_target *target,
                              const attention_tile *tile) {
    int64_t dim = kernel->attention.head_dim, widest = dim > 64 ? dim : 64;
    int64_t parts = 4 * tile->queries * widest, factors = (int64_t)pages_at_once * 4 * tile->queries;
    split_places p = {.parts = tile_bytes(tile, (int)dim, value_floats(&kernel->cache)),
                      .result = tile->queries * (dim + 2) * 4,
                      .pages = 1};
    p.group = p.parts + (parts > factors ? parts : factors) * 4;
    p.near = groups_of(kernel, target) * p.group;
    if (cluster_of(target) > 1) {
        p.pages = most_near_pages;
        while (p.pages > 1 && p.pages * p.result > near_bytes) p.pages /= 2;
    }
    p.shared = p.near + p.pages * p.result;
    p.block = syl_ceil_div(p.result, 256) * 256;
    return p;
}

bool cu_fits_attention(const kir_kernel *kernel, const syl_cuda_target *target,
                       const syl_cuda_variant *variant) {
    if (kernel->kind != KIR_ATTENTION || kernel->attention.head_dim > most_dim) return false;
    bool split = cu_param(variant, "split");
    attention_tile tile = tile_of(kernel, split);
    return !split ||
           ((int64_t)kernel->attention.kv_heads * tile.pieces * most_split_rows * 4 <= SYL_CUDA_COUNTERS &&
            places_of(kernel, target, &tile).shared <= target->shared);
}

double cu_cost_attention(const kir_kernel *kernel, const syl_cuda_target *target,
                         const syl_cuda_variant *variant, int64_t rows) {
    (void)kernel, (void)target;
    /* few rows decode; many are a prompt, whose tokens share what is read */
    if (cu_param(variant, "split") == 0) return 32e-6 + 1e-7 * (double)rows;
    return rows > most_split_rows ? 1e3 : 1e-6 * (double)rows;
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

/* A block's page is found before the kernel in front has ended, and fetched towards it: positions, sequences and the page table are arguments of the run.
 * Those are reads that wait for each other. */
static void print_pages(cu_source *s) {
    const kir_attention *a = &s->kernel->attention;
    syl_text_printf(s->out,
                    "    const int row = blockIdx.x, z = %s; // this group's first page\n"
                    "    const int last = ((const int *)args.buffers[%d])[row], pages = last / 64 + 1;\n"
                    "    source.sequence = ((const int *)args.buffers[%d])[row];\n",
                    cluster_of(s->target) > 1
                        ? syl_arena_printf(s->arena, "blockIdx.z / %d * %d + group * %d + blockIdx.z %% %d",
                                           cluster, cluster * groups_of(s->kernel, s->target), cluster,
                                           cluster)
                        : "blockIdx.z",
                    a->pos, a->seq);
}

static void print_split(cu_source *s, const attention_tile *tile) {
    const kir_attention *a = &s->kernel->attention;
    const kir_buffer *q = &s->kernel->buffers.p[a->q];
    split_places p = places_of(s->kernel, s->target, tile);
    int blocks = cluster_of(s->target), lanes = blocks * groups_of(s->kernel, s->target);
    syl_text_printf(
        s->out,
        "    // few pages: the first block gets all results into its shared memory. Else more rows than "
        "counters: the first block makes all "
        "pages\n"
        "    const bool near = pages <= %d, alone = !near && args.rows > %d;\n"
        "    let_next_begin();\n"
        "    if (z >= pages || (near && z >= %d) || (alone && z > 0)) return;\n"
        "    float *parts = (float *)((char *)&s + %lld), *mine = (float *)(shared_memory + %lld);\n"
        "    float *results = (float *)((char *)args.workspace + %lld + ((int64_t)blockIdx.y * gridDim.x + "
        "row) * "
        "%lld);\n"
        "    const int64_t next = (int64_t)gridDim.x * gridDim.y * %lld; // from a page to the next\n"
        "    for (int page = near ? z + (pages - 1 - z) / %d * %d : z; page >= z; page -= %d) {\n"
        "        source.page(page * 64);\n        source.prefetch(t);\n    }\n",
        p.pages, most_split_rows, lanes, (long long)p.parts, (long long)p.near, (long long)SYL_CUDA_COUNTERS,
        (long long)p.block, (long long)p.block / 4, lanes, lanes, lanes);
    if (blocks > 1)
        syl_text_printf(s->out, "    cluster_arrive(); // a block writes to another that has begun\n");
    syl_text_printf(s->out, "    wait_for_previous();\n");
    cu_print_tiled_padding(s, "row", "blockIdx.y == 0 && z == 0 ? row + 1 : 0", "    ");
    syl_text_printf(
        s->out,
        "    stage_token(s, (const %s *)args.buffers[%d] + (int64_t)row * %lld + head * C::D, heads, "
        "last, %s, t);\n",
        cu_elem_type(q->elem), a->q, (long long)q->stride, cu_float(s, a->scale));
    if (blocks > 1)
        syl_text_printf(
            s->out, "    if (near && pages > 1) {\n        __syncwarp();\n        cluster_wait();\n    }\n");
    syl_text_printf(
        s->out,
        "    for (int page = z; page < (near || alone ? pages : z + 1); page += near ? %d : 1) {\n"
        "        if (page > z) source.page(page * 64);\n"
        "        narrow_page<C, %d>(s, source, parts, page * 64, last, t, [&](int n, float x) {\n"
        "            if (near)\n                %s;\n"
        "            else\n                results[page * next + n] = x;\n        });\n    }\n",
        lanes, tile->step,
        blocks > 1 ? "write_to_block(mine + page * Narrow<C>::RESULT + n, 0, x)"
                   : "mine[page * Narrow<C>::RESULT + n] = x");
    if (blocks > 1)
        syl_text_printf(s->out,
                        "    if (near && pages > 1) {\n        __syncwarp();\n        cluster_arrive();\n"
                        "        if (z > 0) return;\n        cluster_wait();\n    }\n");
    syl_text_printf(
        s->out,
        "    if (near) {\n        meet_page();\n"
        "        narrow_merge<C, false>(parts, mine, Narrow<C>::RESULT, pages, t,\n"
        "            [&](int at, float x) { result(args, row, 1, head, heads, at / C::D, at %% C::D, x); "
        "});\n"
        "        return;\n    }\n"
        "    if (!alone) {\n"
        "        __threadfence();\n        meet_page();\n"
        "        int *counter = (int *)args.workspace + blockIdx.y * %d + row;\n"
        "        if (t == 0) s.before[0] = __int_as_float(atomicAdd(counter, 1));\n"
        "        meet_page();\n"
        "        if (__float_as_int(s.before[0]) != pages - 1) return; // another block is the last\n"
        "        __threadfence();\n"
        "        if (t == 0) *counter = 0;\n    }\n    meet_page();\n"
        "    narrow_merge<C, true>(parts, results, next, pages, t,\n"
        "        [&](int at, float x) { result(args, row, 1, head, heads, at / C::D, at %% C::D, x); });\n",
        most_split_rows);
}

syl_status cu_emit_attention(cu_source *s) {
    const kir_attention *a = &s->kernel->attention;
    bool split = cu_param(s->variant, "split");
    attention_tile tile = tile_of(s->kernel, split);
    int group = a->heads / a->kv_heads, groups = split ? groups_of(s->kernel, s->target) : 1;
    split_places p = places_of(s->kernel, s->target, &tile);
    cu_template(s, "paged_attention.cuh");
    if (split && cluster_of(s->target) > 1) cu_template(s, "hopper.cuh");
    cu_print_args(s);
    print_types(s, &tile);
    print_result(s, &tile);
    if (!split) print_stage(s, &tile);
    syl_text_printf(
        s->out,
        "\nextern \"C\" __global__ void __launch_bounds__(%d, %d) %s(const __grid_constant__ Args args) {\n"
        "    const int t = threadIdx.x %% %d, group = threadIdx.x / %d;\n"
        "    AttentionTile<C> &s = *(AttentionTile<C> *)(shared_memory + group * %lld);\n"
        "    const int kv_head = blockIdx.y / %d, piece = blockIdx.y %% %d;\n"
        "    const int head = kv_head * %d + piece * %d, heads = smaller(%d, %d - piece * %d);\n"
        "    Head source = {(const KvView *)args.buffers[%d], 0, kv_head, nullptr};\n",
        threads * groups, a->head_dim <= 64 && groups == 1 ? 2 : 1, s->launch->entry, threads, threads,
        (long long)p.group, tile.pieces, tile.pieces, group, tile.heads, tile.heads, group, tile.heads,
        a->cache);
    if (!split) {
        syl_text_printf(s->out, "    let_next_begin();\n    wait_for_previous();\n");
        print_whole(s, &tile);
        cu_print_tiled_padding(s, syl_arena_printf(s->arena, "(int)blockIdx.x * %d", tile.tokens),
                               "blockIdx.y == 0 ? stop : 0", "    ");
    } else {
        print_pages(s);
        print_split(s, &tile);
    }
    syl_text_printf(s->out, "}\n");
    s->launch->threads = threads * groups;
    s->launch->rows_per_block = tile.tokens;
    s->launch->blocks_y = (int64_t)a->kv_heads * tile.pieces;
    s->launch->shared = tile_bytes(&tile, a->head_dim, value_floats(&s->kernel->cache));
    if (split) {
        s->launch->shared = p.shared;
        s->launch->positions_per_block = SYL_KV_PAGE * groups;
        s->launch->cluster_z = cluster_of(s->target);
        s->launch->counters = SYL_CUDA_COUNTERS;
        s->launch->workspace_block = p.block * groups;
    }
    return SYL_OK;
}
