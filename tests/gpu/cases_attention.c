/* Attention over the paged cache in every format, contexts around whole pages, grouped queries; and attention within sequences. */
#include "cases.h"

static const gpu_context contexts[] = {
    {1, {1}},
    {1, {63}},
    {2, {64, 65}},
    {3, {500, 1, 130}},
    {8, {257, 64, 300, 5, 1000, 128, 129, 7}},
    {2, {4100, 2048}},
};
enum { N_CONTEXTS = sizeof contexts / sizeof *contexts };

static void cached(gpu_cases *c, const char *store, int heads, int kv_heads, int dim, int context,
                   int64_t max_rows, const char *type) {
    int q = heads * dim, k = kv_heads * dim;
    char *kv = syl_arena_printf(c->arena, "kv<1x%dx%dx%s>", kv_heads, dim, store);
    const char *clips = store[0] == 'i' && context % 2 ? ", k_clip = 0.95" : ""; /* of codes alone */
    char *name = syl_arena_printf(c->arena, "attention %s %s heads %d/%d of %d context %d", store, type,
                                  heads, kv_heads, dim, context);
    gpu_cases_add(
        c, (gpu_problem_spec){.nmse = 1e-5, .context = contexts[context], .max_rows = max_rows}, name,
        "module @m { func @forward(%%k: tensor<Tx%dxf32>, %%v: tensor<Tx%dxf32>, %%pos: tensor<Txi32>, "
        "%%seq: "
        "tensor<Txi32>, %%q: tensor<Rx%dxf32>, %%qpos: tensor<Rxi32>, %%qseq: tensor<Rxi32>, %%kv: %s) -> "
        "tensor<Rx%dx%s> { %%a = kv_append %%kv, %%k, %%v, %%pos, %%seq {layer = 0%s} : %s %%y = attention "
        "%%q, "
        "%%a, %%qpos, %%qseq {heads = %d, layer = 0, scale = 0.1} : tensor<Rx%dx%s> return %%y } }",
        k, k, q, kv, q, type, clips, kv, heads, q, type);
}

static void full(gpu_cases *c, int heads, int dim, int tokens, int sequences) {
    int w = heads * dim;
    char *name = syl_arena_printf(c->arena, "full_attention %d heads of %d tokens %d", heads, dim, tokens);
    gpu_cases_add(
        c, (gpu_problem_spec){.nmse = 1e-5, .multiple = tokens, .max_rows = (int64_t)tokens * sequences},
        name,
        "module @m { func @forward(%%x: tensor<Tx%dxf32>) -> tensor<Tx%dxf32> { %%q = slice %%x {axis = 1, "
        "begin "
        "= 0, end = %d} : tensor<Tx%dxf32> %%k = slice %%x {axis = 1, begin = %d, end = %d} : "
        "tensor<Tx%dxf32> "
        "%%v = slice %%x {axis = 1, begin = %d, end = %d} : tensor<Tx%dxf32> %%y = full_attention %%q, %%k, "
        "%%v "
        "{heads = %d, scale = 0.2, tokens = %d} : tensor<Tx%dxf32> return %%y } }",
        3 * w, w, w, w, w, 2 * w, w, 2 * w, 3 * w, w, heads, tokens, w);
}

void gpu_cases_add_attention(gpu_cases *c) {
    static const struct {
        const char *store;
        int heads, kv_heads, dim;
    } shapes[] = {
        {"f32", 9, 3, 64},         {"bf16", 9, 3, 64},
        {"int8_g64", 9, 3, 64},    {"int4_g64", 9, 3, 64},
        {"bf16", 4, 4, 16},        {"int8_g32", 8, 1, 128},
        {"int4_g32", 6, 2, 96},    {"int8_g64.int4_g32", 4, 2, 64},
        {"f32", 2, 1, 80},         {"bf16.int4_g64", 8, 2, 64},
        {"f16", 3, 3, 48},         {"int8_g128", 32, 8, 128},
        {"int4_g128", 32, 8, 128}, {"bf16", 32, 8, 128},
        {"int4_g16", 5, 5, 16},    {"f32", 1, 1, 256},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int j = 0; j < 3; j++)
            cached(c, shapes[i].store, shapes[i].heads, shapes[i].kv_heads, shapes[i].dim,
                   (int)(i + (size_t)j * 2) % N_CONTEXTS, 300, "f32");
    cached(c, "bf16", 9, 3, 64, 3, 1024, "bf16");
    cached(c, "int8_g64", 9, 3, 64, 4, 1024, "bf16");
    static const struct {
        int heads, dim, tokens, sequences;
    } sizes[] = {{2, 64, 32, 50}, {2, 20, 7, 100},  {1, 16, 1, 40}, {4, 32, 64, 30},
                 {6, 64, 256, 9}, {3, 128, 100, 9}, {1, 8, 13, 60}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        full(c, sizes[i].heads, sizes[i].dim, sizes[i].tokens, sizes[i].sequences);
}
