/* Speed of generated host kernels on this machine, at the shapes of SmolLM2-135M: GB/s of weights for one row (decode), GMAC/s for 512
 * rows (prefill). Weights rotate through copies larger than the last-level cache, as a model's layers do. For tuning the tiles of
 * codegen/host/target.c.
 *
 *     host_kernels [target] [threads]
 *
 * With one thread its CPU time is measured, which other processes disturb less than the time on the wall. The first line is a plain read of memory with the same threads: the bound for one row. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/size.h"
#include "base/threads.h"
#include "codegen/host/host.h"

enum { COPIES_BYTES = 192 << 20, MAX_BUFFERS = 8 };

static clockid_t clock_id = CLOCK_MONOTONIC;

static double now(void) {
    struct timespec t;
    clock_gettime(clock_id, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void print_message(void *user, const syl_message *message) {
    (void)user;
    fprintf(stderr, "%s\n", message->text);
}

static void *memory(size_t bytes) {
    void *p = syl_alloc_aligned(bytes + 64);
    if (!p) {
        fprintf(stderr, "no memory for %zu bytes\n", bytes);
        exit(5);
    }
    memset(p, 0x3f, bytes + 64); /* as float, bf16 and int8 an ordinary number */
    return p;
}

/* ---- running a kernel on the pool ---- */

typedef struct bench {
    syl_pool *pool;
    syl_host_target target;
    syl_diag *diag;
    kir_kernel kernel;
    syl_arena arena;
    syl_host_code *code;
    kir_function function;
    void *scratch[64];
    void *buffers[MAX_BUFFERS];
    int64_t rows;
} bench;

static void run_range(void *user, int64_t begin, int64_t end, int thread) {
    bench *b = user;
    b->function(b->buffers, b->rows, begin, end, b->scratch[thread]);
}

static void run(bench *b, int64_t grain) {
    syl_pool_for(b->pool, kir_tasks(&b->kernel, b->rows), grain, run_range, b);
}

static void start_kernel(bench *b, kir_kind kind, const char *name) {
    syl_arena_init(&b->arena);
    b->kernel = (kir_kernel){.kind = kind, .name = name};
}

static void compile(bench *b) {
    kir_kernel *list[] = {&b->kernel};
    syl_plan plan = {0};
    plan.kernels.p = list;
    plan.kernels.n = 1;
    if (syl_host_compile(&plan, &b->target, NULL, b->diag, NULL, &b->code) != SYL_OK) exit(9);
    b->function = syl_host_function(b->code, 0);
    for (int i = 0; i < syl_pool_threads(b->pool); i++)
        b->scratch[i] = memory((size_t)kir_scratch(&b->kernel));
}

static void finish_kernel(bench *b) {
    for (int i = 0; i < syl_pool_threads(b->pool); i++) free(b->scratch[i]);
    syl_host_code_destroy(b->code);
    syl_arena_free(&b->arena);
}

static int buffer(bench *b, const char *name, kir_shape shape, kir_type elem, int64_t cols, bool written) {
    return kir_add_buffer(&b->arena, &b->kernel, (kir_buffer){name, shape, elem, cols, cols, written});
}

static int emit(bench *b, kir_op op, int a0, int a1, int buf) {
    return kir_emit(&b->arena, &b->kernel, (kir_inst){.op = op, .args = {a0, a1}, .buffer = buf});
}

/* ---- reading memory ---- */

typedef struct reader {
    const uint64_t *data;
    uint64_t sums[64];
} reader;

static void read_range(void *user, int64_t begin, int64_t end, int thread) {
    reader *r = user;
    uint64_t sum = 0;
    for (int64_t i = begin * 512; i < end * 512; i++) sum ^= r->data[i];
    r->sums[thread] ^= sum;
}

static void bench_read(bench *b) {
    reader r = {.data = memory(COPIES_BYTES)};
    double best = 1e9;
    for (int i = 0; i < 5; i++) {
        double t = now();
        syl_pool_for(b->pool, COPIES_BYTES / 4096, 64, read_range, &r);
        t = now() - t;
        if (t < best) best = t;
    }
    printf("%-34s %8.1f GB/s\n", "plain read", COPIES_BYTES / best * 1e-9);
    free((void *)(uintptr_t)r.data);
}

/* ---- GEMM: out = acc * row scale * column scale (+ residual) ---- */

static void bench_gemm(bench *b, kir_type a_elem, kir_type w_elem, kir_weight_codes codes, int64_t n,
                       int64_t k) {
    enum { ROWS = 512 };
    start_kernel(b, KIR_GEMM, "gemm");
    int a = buffer(b, "a", KIR_MATRIX, a_elem, k, false), w = buffer(b, "w", KIR_PACKED, w_elem, k, false);
    int row_scale = buffer(b, "row_scale", KIR_PER_ROW, KIR_F32, 1, false),
        scale = buffer(b, "scale", KIR_PER_COL, KIR_F32, n, false);
    int out = buffer(b, "out", KIR_MATRIX, KIR_F32, n, true);
    b->kernel.gemm = (kir_gemm){.a = a, .w = w, .n = n, .k = k, .codes = codes};
    syl_host_tile(&b->target, a_elem, w_elem, &b->kernel.gemm);
    const char *tile = getenv("TILE"); /* mr,nr,mblock: for tuning */
    if (tile) sscanf(tile, "%d,%d,%d", &b->kernel.gemm.mr, &b->kernel.gemm.nr, &b->kernel.gemm.mblock);
    int x = emit(b, KIR_acc, 0, 0, -1);
    if (kir_acc_type(&b->kernel.gemm) == KIR_I32) x = emit(b, KIR_to_f32, x, 0, -1);
    if (a_elem == KIR_I8) {
        x = emit(b, KIR_mul, x, emit(b, KIR_load_row, 0, 0, row_scale), -1);
        x = emit(b, KIR_mul, x, emit(b, KIR_load_col, 0, 0, scale), -1);
    }
    emit(b, KIR_store, x, 0, out);
    compile(b);
    const kir_gemm *g = &b->kernel.gemm;
    syl_plan_weight weight = {.elem = w_elem,
                              .rows = n,
                              .cols = k,
                              .packed = true,
                              .dot = g->dot,
                              .nr = g->nr,
                              .ku = g->ku,
                              .codes = codes};
    size_t bytes, element = a_elem == KIR_I8 ? 1 : a_elem == KIR_BF16 ? 2 : 4;
    if (!syl_host_packed_size(&weight, &bytes)) exit(3);
    size_t stride = (bytes + 4095) / 4096 * 4096, copies = COPIES_BYTES / stride ? COPIES_BYTES / stride : 1;
    unsigned char *weights = memory(stride * copies);
    b->buffers[0] = memory(ROWS * (size_t)k * element);
    b->buffers[2] = memory(ROWS * 4);
    b->buffers[3] = memory((size_t)n * 4);
    b->buffers[4] = memory(ROWS * (size_t)n * 4);
    double one = 1e9, many = 1e9;
    int64_t panels = syl_host_panels(&weight), grain = (panels + 7) / 8;
    b->rows = 1;
    for (int round = 0; round < 5; round++) {
        for (size_t i = 0; i < copies;) { /* windows of a few calls: the best one was not disturbed */
            double t = now();
            int calls = 0;
            for (; i < copies && calls < 16; i++, calls++) {
                b->buffers[1] = weights + i * stride;
                run(b, grain);
            }
            t = (now() - t) / calls;
            if (t < one) one = t;
        }
    }
    b->rows = ROWS;
    for (int round = 0; round < (n > 10000 ? 2 : 8); round++) {
        double t = now();
        run(b, 4);
        t = now() - t;
        if (t < many) many = t;
    }
    char name[64];
    snprintf(name, sizeof name, "gemm %s%s%s %lldx%lld tile %dx%d/%d", a_elem == KIR_F32 ? "f32*" : "",
             codes.two_level ? "two-level "
             : codes.group   ? "group "
                             : "",
             codes.bits           ? "int4"
             : w_elem == KIR_I8   ? "int8"
             : w_elem == KIR_BF16 ? "bf16"
                                  : "f32",
             (long long)n, (long long)k, g->mr, g->nr, g->mblock);
    printf("%-34s %8.1f GB/s (1 row, %.1f us) %8.1f GMAC/s (%d rows)\n", name, (double)bytes / one * 1e-9,
           one * 1e6, (double)(n * k * ROWS) / many * 1e-9, ROWS);
    free(weights);
    for (int i = 0; i < 5; i++)
        if (i != 1) free(b->buffers[i]);
    finish_kernel(b);
}

/* ---- attention ---- */

static void bench_attention(bench *b, kir_type elem, int bits, int context) {
    enum { HEADS = 9, KV_HEADS = 3, DIM = 64, ROWS = 512, LAYERS = 30 };
    start_kernel(b, KIR_ATTENTION, "attention");
    int q = buffer(b, "q", KIR_MATRIX, KIR_F32, HEADS * DIM, false),
        out = buffer(b, "out", KIR_MATRIX, KIR_F32, HEADS * DIM, true);
    int cache = buffer(b, "kv", KIR_CACHE, elem, 0, false),
        pos = buffer(b, "pos", KIR_PER_ROW, KIR_I32, 1, false),
        seq = buffer(b, "seq", KIR_PER_ROW, KIR_I32, 1, false);
    b->kernel.attention = (kir_attention){.q = q,
                                          .out = out,
                                          .cache = cache,
                                          .pos = pos,
                                          .seq = seq,
                                          .heads = HEADS,
                                          .kv_heads = KV_HEADS,
                                          .head_dim = DIM,
                                          .scale = 0.125,
                                          .mr = 4};
    kir_codes codes = {bits, bits ? DIM : 0};
    b->kernel.cache = (kir_cache){KV_HEADS, DIM, elem, codes, codes};
    compile(b);
    int pages = context / SYL_KV_PAGE;
    size_t layer = KV_HEADS * (size_t)kir_cache_layout_of(&b->kernel.cache).size;
    void **page = memory((size_t)pages * sizeof *page);
    int32_t *table = memory((size_t)pages * 4), *positions = memory(ROWS * 4), *sequences = memory(ROWS * 4);
    for (int i = 0; i < pages; i++) {
        page[i] = memory(layer * LAYERS);
        memset(page[i], 0, layer * LAYERS);
        table[i] = i;
    }
    memset(sequences, 0, ROWS * 4);
    syl_kv_view views[LAYERS];
    for (int l = 0; l < LAYERS; l++)
        views[l] = (syl_kv_view){page, table, pages, (int64_t)((size_t)l * layer)};
    b->buffers[0] = memory(ROWS * HEADS * DIM * 4);
    b->buffers[1] = memory(ROWS * HEADS * DIM * 4);
    b->buffers[3] = positions;
    b->buffers[4] = sequences;
    double one = 1e9, many = 1e9;
    b->rows = 1;
    positions[0] = context - 1;
    for (int round = 0; round < 5; round++) {
        double t = now();
        for (int l = 0; l < LAYERS; l++) {
            b->buffers[2] = &views[l];
            run(b, HEADS / KV_HEADS);
        }
        t = (now() - t) / LAYERS;
        if (t < one) one = t;
    }
    b->rows = ROWS;
    for (int i = 0; i < ROWS; i++) positions[i] = context - ROWS + i;
    for (int round = 0; round < 3; round++) {
        double t = now();
        run(b, HEADS);
        t = now() - t;
        if (t < many) many = t;
    }
    double macs = (double)HEADS * DIM * 2 * ROWS * (context - ROWS / 2);
    printf("attention %s context %-11d %8.1f GB/s (1 row, %.1f us) %8.1f GMAC/s (%d rows)\n",
           bits == 8         ? "int8"
           : bits == 4       ? "int4"
           : elem == KIR_F32 ? "f32 "
                             : "bf16",
           context, (double)(layer * (size_t)pages) / one * 1e-9, one * 1e6, macs / many * 1e-9, ROWS);
    for (int i = 0; i < pages; i++) free(page[i]);
    void *owned[] = {page, table, positions, sequences, b->buffers[0], b->buffers[1]};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    finish_kernel(b);
}

/* ---- rows ---- */

static void bench_rows(bench *b, const char *name, int64_t cols, int out_bytes) {
    enum { ROWS = 512 };
    b->kernel.cols = cols;
    compile(b);
    for (int i = 0; i < (int)b->kernel.buffers.n; i++) b->buffers[i] = memory(ROWS * (size_t)cols * 4);
    double one = 1e9, many = 1e9;
    for (int round = 0; round < 20; round++) {
        b->rows = 1;
        double t = now();
        for (int i = 0; i < 100; i++) run(b, 1);
        t = (now() - t) / 100;
        if (t < one) one = t;
        b->rows = ROWS;
        t = now();
        run(b, 16);
        t = now() - t;
        if (t < many) many = t;
    }
    printf("%-34s %8.2f us (1 row) %8.2f us a row (%d rows on all threads)\n", name, one * 1e6,
           many / ROWS * 1e6, ROWS);
    (void)out_bytes;
    for (int i = 0; i < (int)b->kernel.buffers.n; i++) free(b->buffers[i]);
    finish_kernel(b);
}

/* codes and scale of x */
static void emit_quantize(bench *b, int x, int codes, int scale) {
    int top = emit(b, KIR_reduce_max, emit(b, KIR_abs, x, 0, -1), 0, -1);
    int over = kir_emit(&b->arena, &b->kernel, (kir_inst){.op = KIR_imm, .f = 1.0 / 127, .buffer = -1});
    int s = emit(b, KIR_mul, top, over, -1);
    emit(b, KIR_store_row, s, 0, scale);
    int code = emit(b, KIR_round, emit(b, KIR_mul, x, emit(b, KIR_recip_or_zero, s, 0, -1), -1), 0, -1);
    emit(b, KIR_store, emit(b, KIR_to_i8, code, 0, -1), 0, codes);
}

static void bench_norm_quantize(bench *b) {
    start_kernel(b, KIR_ROWS, "rms_norm+quantize");
    int in = buffer(b, "x", KIR_MATRIX, KIR_F32, 576, false),
        codes = buffer(b, "codes", KIR_MATRIX, KIR_I8, 576, true),
        scale = buffer(b, "scale", KIR_PER_ROW, KIR_F32, 1, true);
    int x = emit(b, KIR_load, 0, 0, in), sum = emit(b, KIR_reduce_sum, emit(b, KIR_mul, x, x, -1), 0, -1);
    int over = kir_emit(&b->arena, &b->kernel, (kir_inst){.op = KIR_imm, .f = 1.0 / 576, .buffer = -1});
    int norm = emit(b, KIR_recip_or_zero, emit(b, KIR_sqrt, emit(b, KIR_mul, sum, over, -1), 0, -1), 0, -1);
    emit_quantize(b, emit(b, KIR_mul, x, norm, -1), codes, scale);
    bench_rows(b, "rms_norm + quantize 576", 576, 1);
}

static void bench_hadamard(bench *b, const int64_t *factors, int64_t cols) {
    start_kernel(b, KIR_ROWS, "hadamard+quantize");
    int in = buffer(b, "x", KIR_MATRIX, KIR_F32, cols, false),
        codes = buffer(b, "codes", KIR_MATRIX, KIR_I8, cols, true),
        scale = buffer(b, "scale", KIR_PER_ROW, KIR_F32, 1, true);
    int h = kir_emit(&b->arena, &b->kernel,
                     (kir_inst){.op = KIR_hadamard,
                                .args = {emit(b, KIR_load, 0, 0, in)},
                                .buffer = -1,
                                .factors = factors,
                                .n_factors = 2});
    emit_quantize(b, h, codes, scale);
    char name[64];
    snprintf(name, sizeof name, "hadamard {%lld,%lld} + quantize", (long long)factors[0],
             (long long)factors[1]);
    bench_rows(b, name, cols, 1);
}

static void bench_silu(bench *b) {
    enum { COLS = 1536 };
    start_kernel(b, KIR_ROWS, "silu+hadamard+quantize");
    static const int64_t factors[] = {12, 128};
    int gate = buffer(b, "gate", KIR_MATRIX, KIR_F32, COLS, false),
        up = buffer(b, "up", KIR_MATRIX, KIR_F32, COLS, false);
    int codes = buffer(b, "codes", KIR_MATRIX, KIR_I8, COLS, true),
        scale = buffer(b, "scale", KIR_PER_ROW, KIR_F32, 1, true);
    int g = emit(b, KIR_load, 0, 0, gate),
        one = kir_emit(&b->arena, &b->kernel, (kir_inst){.op = KIR_imm, .f = 1, .buffer = -1});
    int e = emit(b, KIR_exp, emit(b, KIR_neg, g, 0, -1), 0, -1);
    int silu = emit(b, KIR_div, g, emit(b, KIR_add, e, one, -1), -1);
    int h = emit(b, KIR_mul, silu, emit(b, KIR_load, 0, 0, up), -1);
    h = kir_emit(
        &b->arena, &b->kernel,
        (kir_inst){.op = KIR_hadamard, .args = {h}, .buffer = -1, .factors = factors, .n_factors = 2});
    emit_quantize(b, h, codes, scale);
    bench_rows(b, "silu * up + hadamard + quantize", COLS, 1);
}

int main(int argc, char **argv) {
    bench b = {.diag = syl_diag_create(print_message, NULL)};
    if (syl_host_target_find(argc > 1 ? argv[1] : "host", b.diag, &b.target) != SYL_OK) return 2;
    b.pool = syl_pool_create(argc > 2 ? atoi(argv[2]) : 0);
    if (!b.pool || syl_pool_threads(b.pool) > 64) return 5;
    if (syl_pool_threads(b.pool) == 1) clock_id = CLOCK_THREAD_CPUTIME_ID;
    printf("cpu %s, %d threads\n", b.target.cpu, syl_pool_threads(b.pool));
    bench_read(&b);
    static const kir_weight_codes elements = {0}, channel = {.bits = 4}, group = {.bits = 4, .group = 64},
                                  two_level = {.bits = 4, .group = 64, .two_level = true};
    static const int64_t shapes[][2] = {{960, 576}, {576, 576}, {3072, 576}, {576, 1536}};
    for (int i = 0; i < 4; i++) bench_gemm(&b, KIR_I8, KIR_I8, elements, shapes[i][0], shapes[i][1]);
    for (int i = 0; i < 4; i++) bench_gemm(&b, KIR_I8, KIR_I8, two_level, shapes[i][0], shapes[i][1]);
    bench_gemm(&b, KIR_I8, KIR_I8, channel, 3072, 576);
    bench_gemm(&b, KIR_I8, KIR_I8, group, 3072, 576);
    bench_gemm(&b, KIR_F32, KIR_I8, two_level, 3072, 576);
    bench_gemm(&b, KIR_F32, KIR_I8, elements, 3072, 576);
    bench_gemm(&b, KIR_F32, KIR_BF16, elements, 49152, 576);
    bench_gemm(&b, KIR_BF16, KIR_BF16, elements, 3072, 576);
    bench_gemm(&b, KIR_F32, KIR_F32, elements, 3072, 576);
    bench_attention(&b, KIR_F32, 0, 512);
    bench_attention(&b, KIR_F32, 0, 2048);
    bench_attention(&b, KIR_BF16, 0, 2048);
    bench_attention(&b, KIR_F32, 8, 2048);
    bench_attention(&b, KIR_F32, 4, 2048);
    bench_norm_quantize(&b);
    bench_hadamard(&b, (const int64_t[]){36, 16}, 576);
    bench_hadamard(&b, (const int64_t[]){12, 128}, 1536);
    bench_silu(&b);
    syl_pool_destroy(b.pool);
    syl_diag_destroy(b.diag);
    return 0;
}
