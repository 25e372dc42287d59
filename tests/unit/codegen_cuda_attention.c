/* Printed CUDA attention and KV-cache writes, run on the CPU (codegen_cuda_emulated.h): pages hold the bytes that the host's code writes, results are the host's bit by bit, and
 * a row has the same bits from both variants, alone and in any batch. */
#include "codegen_cuda_emulated.h"
#include <math.h>
#include "base/numeric.h"

enum { SEQUENCES = 3, PAGES = 24, ROWS = 48 };

typedef struct world {
    int heads, kv_heads, dim;
    kir_type io;
    bool tiled;
    kir_cache cache;
    int64_t page_bytes, layer_offset;
    unsigned char *memory; /* all pages */
    void *pages[SEQUENCES * PAGES];
    int32_t table[SEQUENCES * PAGES];
    syl_kv_view host;
    syl_cuda_kv_view device;
} world;

static void make_world(world *w) {
    kir_cache_layout layout = kir_cache_layout_of(&w->cache);
    w->layer_offset = 192; /* not the first layer */
    w->page_bytes = w->layer_offset + w->kv_heads * layout.size;
    w->page_bytes = (w->page_bytes + 63) / 64 * 64;
    w->memory = new_buffer((size_t)(w->page_bytes * SEQUENCES * PAGES));
    for (int i = 0; i < SEQUENCES * PAGES; i++) {
        w->pages[i] = w->memory + i * w->page_bytes;
        w->table[i] = (i * 5 + 3) % (SEQUENCES * PAGES); /* pages are out of order */
    }
    w->host = (syl_kv_view){w->pages, w->table, PAGES, w->layer_offset};
    w->device = (syl_cuda_kv_view){(uint64_t)(uintptr_t)w->memory, (uint64_t)(uintptr_t)w->table, PAGES,
                                   w->page_bytes, w->layer_offset};
}

static kir_kernel append_kernel(syl_arena *arena, const world *w) {
    int64_t cols = (int64_t)w->kv_heads * w->dim, stride = cols + 4;
    kir_kernel k = {.kind = KIR_ROWS, .name = "append", .cols = cols, .cache = w->cache};
    kir_add_buffer(arena, &k, (kir_buffer){"k", KIR_MATRIX, KIR_F32, cols, stride, false});
    kir_add_buffer(arena, &k, (kir_buffer){"v", KIR_MATRIX, KIR_F32, cols, stride, false});
    kir_add_buffer(arena, &k, (kir_buffer){"kv", KIR_CACHE, w->cache.elem, 0, 0, false});
    kir_add_buffer(arena, &k, (kir_buffer){"pos", KIR_PER_ROW, KIR_I32, 1, 1, false});
    kir_add_buffer(arena, &k, (kir_buffer){"seq", KIR_PER_ROW, KIR_I32, 1, 1, false});
    int p = kir_emit(arena, &k, (kir_inst){.op = KIR_load_row, .buffer = 3}),
        s = kir_emit(arena, &k, (kir_inst){.op = KIR_load_row, .buffer = 4});
    int x = kir_emit(arena, &k, (kir_inst){.op = KIR_load, .buffer = 0}),
        y = kir_emit(arena, &k, (kir_inst){.op = KIR_load, .buffer = 1});
    kir_op key = w->cache.k.bits ? KIR_append_codes_k : KIR_append_k,
           value = w->cache.v.bits ? KIR_append_codes_v : KIR_append_v;
    kir_emit(arena, &k, (kir_inst){.op = key, .args = {x, p, s}, .buffer = 2, .f = 0.95});
    kir_emit(arena, &k, (kir_inst){.op = value, .args = {y, p, s}, .buffer = 2, .f = 1});
    return k;
}

static kir_kernel attention_kernel(syl_arena *arena, const world *w, bool tiled) {
    int64_t cols = (int64_t)w->heads * w->dim;
    kir_kernel k = {.kind = KIR_ATTENTION, .name = "attention", .cache = w->cache};
    kir_add_buffer(arena, &k, (kir_buffer){"q", KIR_MATRIX, w->io, cols, cols + 8, false});
    kir_add_buffer(arena, &k, (kir_buffer){"kv", KIR_CACHE, w->cache.elem, 0, 0, false});
    kir_add_buffer(arena, &k, (kir_buffer){"pos", KIR_PER_ROW, KIR_I32, 1, 1, false});
    kir_add_buffer(arena, &k, (kir_buffer){"seq", KIR_PER_ROW, KIR_I32, 1, 1, false});
    kir_add_buffer(arena, &k,
                   (kir_buffer){"y", tiled ? KIR_TILED : KIR_MATRIX, w->io, cols, tiled ? 0 : cols, true});
    k.attention = (kir_attention){0, 4, 1, 2, 3, w->heads, w->kv_heads, w->dim, 1 / sqrt(w->dim), 4};
    return k;
}

/* Appends positions [first, first + n) of a sequence: random keys and values, an outlier now and then, a head of zeros. */
static void append(const built *b, world *w, const emulated *e, int sequence, int first, int n) {
    int64_t stride = b->kernel->cols + 4, size = n * stride;
    float *k = new_buffer((size_t)size * 4), *v = new_buffer((size_t)size * 4);
    int32_t *pos = new_buffer((size_t)n * 4), *seq = new_buffer((size_t)n * 4);
    for (int64_t i = 0; i < size; i++) {
        k[i] = 2 * random_float() * (i % 50 == 49 ? 10 : 1);
        v[i] = random_float();
    }
    for (int i = 0; i < n; i++) {
        pos[i] = first + i;
        seq[i] = sequence;
        if (i % 7 == 3) memset(v + i * stride, 0, (size_t)w->dim * 4);
    }
    void *buffers[] = {k, v, &w->host, pos, seq};
    size_t bytes = (size_t)(w->page_bytes * SEQUENCES * PAGES);
    unsigned char *before = malloc(bytes), *want = malloc(bytes);
    memcpy(before, w->memory, bytes);
    run_kernel(b, buffers, n);
    memcpy(want, w->memory, bytes);
    buffers[2] = &w->device;
    for (int variant = 0; e && variant < e->n; variant++) {
        memcpy(w->memory, before, bytes);
        run_emulated(e, variant, buffers, n, 0);
        check_slack(w->memory, bytes);
        for (size_t i = 0; i < bytes; i++)
            if (w->memory[i] != want[i])
                fail_msg("byte %d of page %d: %d, expected %d", (int)(i % (size_t)w->page_bytes),
                         (int)(i / (size_t)w->page_bytes), w->memory[i], want[i]);
    }
    void *owned[] = {k, v, pos, seq, before, want};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
}

static float value_at(const void *data, kir_type type, int64_t i) {
    return type == KIR_F32 ? ((const float *)data)[i] : syl_bf16_to_f32(((const uint16_t *)data)[i]);
}

static void attend(const world *w, const built *b, const emulated *e, const int32_t *seq, const int32_t *pos,
                   int rows, int positions) {
    int64_t cols = (int64_t)w->heads * w->dim, stride = cols + 8;
    size_t size = w->io == KIR_F32 ? 4 : 2;
    int64_t per_atom = 128 / (int64_t)size, padded = (cols + per_atom - 1) / per_atom * per_atom;
    size_t out_bytes = (size_t)((rows + 7) / 8 * 8 * padded) * size;
    unsigned char *q = new_buffer((size_t)(rows * stride) * size), *want = new_buffer(out_bytes);
    unsigned char *got[2] = {new_buffer(out_bytes), new_buffer(out_bytes)},
                  *alone = new_buffer((size_t)(8 * padded) * size);
    for (int64_t i = 0; i < rows * stride; i++) {
        float x = 2 * random_float();
        uint16_t half = syl_bf16_from_f32(x);
        memcpy(q + (size_t)i * size, size == 4 ? (void *)&x : (void *)&half, size);
    }
    void *buffers[] = {q, (void *)(uintptr_t)&w->host, (void *)(uintptr_t)pos, (void *)(uintptr_t)seq, want};
    run_kernel(&b[1], buffers, rows); /* whatever the width of its vectors */
    buffers[4] = got[0];
    run_kernel(&b[0], buffers, rows);
    assert_memory_equal(got[0], want, (size_t)(rows * cols) * size);
    buffers[1] = (void *)(uintptr_t)&w->device;
    assert_int_equal(e->n, 2);
    for (int v = 0; v < 2; v++) {
        buffers[4] = got[v];
        memset(got[v], 0, out_bytes);
        run_emulated(e, v, buffers, rows, positions);
        check_slack(got[v], out_bytes);
        for (int i = 0; i < rows; i++)
            for (int64_t j = 0; j < cols; j++) {
                int64_t at = w->tiled ? tiled_index(i, j, rows, (int)size) : i * cols + j;
                float x = value_at(got[v], w->io, at), y = value_at(want, w->io, i * cols + j);
                if (memcmp(got[v] + (size_t)at * size, want + (size_t)(i * cols + j) * size, size) != 0)
                    fail_msg("variant %d, row %d, column %d: %.9g, expected %.9g", v, i, (int)j, (double)x,
                             (double)y);
            }
    }
    assert_memory_equal(got[0], got[1], out_bytes);
    for (int i = 0; i < rows; i += 5) { /* a row by itself */
        void *one[] = {q + (size_t)(i * stride) * size, buffers[1], (void *)(uintptr_t)&pos[i],
                       (void *)(uintptr_t)&seq[i], alone};
        run_emulated(e, i % 2, one, 1, positions);
        for (int64_t j = 0; j < cols; j++) {
            int64_t at = w->tiled ? tiled_index(i, j, rows, (int)size) : i * cols + j;
            int64_t there = w->tiled ? tiled_index(0, j, 1, (int)size) : j;
            assert_memory_equal(got[0] + (size_t)at * size, alone + (size_t)there * size, size);
        }
    }
    void *owned[] = {q, want, got[0], got[1], alone};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
}

static void check(world *w) {
    syl_arena arena;
    syl_arena_init(&arena);
    syl_host_target host, narrow;
    assert_true(find_target("host", &host));
    if (!find_target("x86-64-v3", &narrow)) narrow = host;
    make_world(w);
    kir_kernel append_k = append_kernel(&arena, w), twin = attention_kernel(&arena, w, false),
               attention = attention_kernel(&arena, w, w->tiled);
    built append_host = build_kernel(&append_k, &host);
    built attention_host[2] = {build_kernel(&twin, &host), build_kernel(&twin, &narrow)};
    emulated append_cuda = emulate(&append_k, "sm_90a", 40, 3),
             attention_cuda = emulate(&attention, "sm_90a", 8, 1);
    append(&append_host, w, &append_cuda, 0, 0, 70);
    append(&append_host, w, NULL, 0, 70, 1130);
    append(&append_host, w, &append_cuda, 1, 0, 5);
    append(&append_host, w, NULL, 1, 5, 700);
    append(&append_host, w, NULL, 2, 0, 3);

    /* decoding: each row its own sequence, of one to three chunks, whole and just begun */
    static const int32_t decode_seq[] = {0, 1, 2, 0, 1, 0, 1},
                         decode_pos[] = {1199, 511, 0, 63, 512, 1024, 700};
    attend(w, attention_host, &attention_cuda, decode_seq, decode_pos, 7, 1200);
    /* a prompt over the border of two chunks, between others */
    int32_t seq[ROWS], pos[ROWS];
    for (int i = 0; i < ROWS; i++) {
        seq[i] = i < 3 ? 2 : i < 40 ? 0 : 1;
        pos[i] = i < 3 ? i : i < 40 ? 490 + i : i;
    }
    attend(w, attention_host, &attention_cuda, seq, pos, ROWS, 1200);
    drop_emulated(&append_cuda);
    drop_emulated(&attention_cuda);
    drop_kernel(&append_host);
    for (int i = 0; i < 2; i++) drop_kernel(&attention_host[i]);
    free(w->memory);
    syl_arena_free(&arena);
}

static void caches(void **state) {
    (void)state;
    world worlds[] = {
        {.heads = 9, .kv_heads = 3, .dim = 64, .io = KIR_F32, .cache = {3, 64, KIR_F32, {0, 0}, {0, 0}}},
        {.heads = 4,
         .kv_heads = 4,
         .dim = 16,
         .io = KIR_BF16,
         .tiled = true,
         .cache = {4, 16, KIR_BF16, {0, 0}, {0, 0}}},
        {.heads = 8, .kv_heads = 1, .dim = 128, .io = KIR_F32, .cache = {1, 128, KIR_F32, {8, 64}, {8, 128}}},
        {.heads = 6,
         .kv_heads = 2,
         .dim = 80,
         .io = KIR_BF16,
         .tiled = true,
         .cache = {2, 80, KIR_F32, {4, 80}, {4, 16}}},
        {.heads = 2, .kv_heads = 1, .dim = 256, .io = KIR_F32, .cache = {1, 256, KIR_F16, {0, 0}, {4, 64}}},
        {.heads = 5, .kv_heads = 5, .dim = 20, .io = KIR_F32, .cache = {5, 20, KIR_BF16, {4, 20}, {0, 0}}},
        {.heads = 4, .kv_heads = 2, .dim = 48, .io = KIR_F32, .cache = {2, 48, KIR_F32, {8, 16}, {4, 16}}},
        {.heads = 40, .kv_heads = 1, .dim = 32, .io = KIR_F32, .cache = {1, 32, KIR_F32, {4, 32}, {8, 32}}},
    };
    for (size_t i = 0; i < sizeof worlds / sizeof *worlds; i++) check(&worlds[i]);
}

/* Every architecture has a variant for wide heads of many queries, and none takes more shared memory than there is. */
static void shared_memory(void **state) {
    (void)state;
    static const char *const targets[] = {"sm_75", "sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120a"};
    syl_arena arena;
    syl_arena_init(&arena);
    syl_diag *diag = syl_diag_create(NULL, NULL);
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++)
        for (int dim = 64; dim <= 1024; dim *= 2)
            for (int heads = 1; heads <= 16; heads *= 2) {
                world w = {.heads = heads,
                           .kv_heads = 1,
                           .dim = dim,
                           .io = KIR_F32,
                           .cache = {1, dim, KIR_BF16, {0, 0}, {0, 0}}};
                kir_kernel kernel = attention_kernel(&arena, &w, false);
                syl_cuda_target target;
                syl_cuda_variant variants[8];
                assert_true(syl_cuda_target_named(targets[i], &target));
                int n = syl_cuda_variants(&kernel, &target, 1, variants, 8);
                assert_in_range(n, 1, 2);
                for (int v = 0; v < n; v++) {
                    syl_text source = {.arena = &arena};
                    syl_cuda_launch launch;
                    assert_int_equal(syl_cuda_source(&kernel, &target, &variants[v], diag, &source, &launch),
                                     SYL_OK);
                    if (launch.shared > target.shared)
                        fail_msg("%d heads of %d on %s: %lld bytes", heads, dim, targets[i],
                                 (long long)launch.shared);
                }
            }
    syl_diag_destroy(diag);
    syl_arena_free(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(shared_memory), cmocka_unit_test(caches)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
