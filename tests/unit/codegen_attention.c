/* Generated attention and KV-cache writes against a float64 reference, and the invariance of a row's bits under batching. */
#include "codegen_testing.h"
#include <math.h>
#include "base/numeric.h"

enum { MAX_SEQUENCES = 4, MAX_PAGES = 8 };

typedef struct world {
    int heads, kv_heads, dim;
    kir_type io;
    kir_cache cache;
    kir_cache_layout layout;
    int64_t layer_offset;
    size_t page_bytes;
    void *pages[MAX_SEQUENCES * MAX_PAGES];
    int32_t table[MAX_SEQUENCES * MAX_PAGES];
    syl_kv_view view;
    /* what was appended, rounded as the cache rounds it */
    double *keys, *values; /* [sequence][position][kv_heads * dim] */
} world;

static size_t width(kir_type type) {
    return type == KIR_F32 ? 4 : 2;
}
static double clip_of(kir_codes codes) {
    return codes.bits == 4 ? 0.95 : 1;
}
static int emit(syl_arena *arena, kir_kernel *k, kir_op op, int a, int b, int c, int buffer) {
    return kir_emit(arena, k, (kir_inst){.op = op, .args = {a, b, c}, .buffer = buffer});
}

static void set(void *data, kir_type type, int64_t i, float x) {
    if (type == KIR_F32)
        ((float *)data)[i] = x;
    else
        ((uint16_t *)data)[i] = syl_bf16_from_f32(x);
}
static double get(const void *data, kir_type type, int64_t i) {
    return type == KIR_F32 ? ((const float *)data)[i] : syl_bf16_to_f32(((const uint16_t *)data)[i]);
}

static void make_world(world *w) {
    w->layout = kir_cache_layout_of(&w->cache);
    w->layer_offset = 192; /* not the first layer */
    w->page_bytes = (size_t)(w->layer_offset + w->kv_heads * w->layout.size);
    for (int i = 0; i < MAX_SEQUENCES * MAX_PAGES; i++) {
        w->pages[i] = new_buffer(w->page_bytes);
        w->table[i] = (i * 5 + 3) % (MAX_SEQUENCES * MAX_PAGES); /* pages are out of order */
    }
    w->view = (syl_kv_view){w->pages, w->table, MAX_PAGES, w->layer_offset};
    size_t n = (size_t)(MAX_SEQUENCES * MAX_PAGES * SYL_KV_PAGE * w->kv_heads * w->dim);
    w->keys = calloc(n, sizeof *w->keys);
    w->values = calloc(n, sizeof *w->values);
}

static void free_world(world *w) {
    for (int i = 0; i < MAX_SEQUENCES * MAX_PAGES; i++) {
        check_slack(w->pages[i], w->page_bytes);
        free(w->pages[i]);
    }
    free(w->keys);
    free(w->values);
}

static double *place(const world *w, double *data, int sequence, int position) {
    return data + ((int64_t)sequence * MAX_PAGES * SYL_KV_PAGE + position) * w->kv_heads * w->dim;
}

static kir_kernel append_kernel(syl_arena *arena, const world *w) {
    int64_t cols = (int64_t)w->kv_heads * w->dim;
    kir_kernel k = {.kind = KIR_ROWS, .name = "append", .cols = cols, .cache = w->cache};
    int key = kir_add_buffer(arena, &k, (kir_buffer){"k", KIR_MATRIX, KIR_F32, cols, cols, false}),
        value = kir_add_buffer(arena, &k, (kir_buffer){"v", KIR_MATRIX, KIR_F32, cols, cols, false});
    int cache = kir_add_buffer(arena, &k, (kir_buffer){"kv", KIR_CACHE, w->cache.elem, 0, 0, true});
    int pos = kir_add_buffer(arena, &k, (kir_buffer){"pos", KIR_PER_ROW, KIR_I32, 1, 1, false}),
        seq = kir_add_buffer(arena, &k, (kir_buffer){"seq", KIR_PER_ROW, KIR_I32, 1, 1, false});
    int p = emit(arena, &k, KIR_load_row, 0, 0, 0, pos), s = emit(arena, &k, KIR_load_row, 0, 0, 0, seq);
    kir_op append_k = w->cache.k.bits ? KIR_append_codes_k : KIR_append_k,
           append_v = w->cache.v.bits ? KIR_append_codes_v : KIR_append_v;
    int x = emit(arena, &k, KIR_load, 0, 0, 0, key), y = emit(arena, &k, KIR_load, 0, 0, 0, value);
    kir_emit(arena, &k,
             (kir_inst){.op = append_k, .args = {x, p, s}, .buffer = cache, .f = clip_of(w->cache.k)});
    kir_emit(arena, &k,
             (kir_inst){.op = append_v, .args = {y, p, s}, .buffer = cache, .f = clip_of(w->cache.v)});
    return k;
}

/* What a cache makes of the keys or values of one position; and the codes, one a feature. */
static void round_row(const world *w, kir_codes codes, const float *x, double *out, int *code) {
    float top = (float)((1 << codes.bits) - 1), clip = (float)clip_of(codes);
    for (int j = 0; j < w->kv_heads * w->dim; j++)
        out[j] = w->cache.elem == KIR_BF16 ? syl_bf16_to_f32(syl_bf16_from_f32(x[j])) : x[j];
    for (int begin = 0; codes.bits && begin < w->kv_heads * w->dim; begin += codes.group) {
        float lo = 0, hi = 0;
        for (int j = begin; j < begin + codes.group; j++) lo = fminf(lo, x[j]), hi = fmaxf(hi, x[j]);
        float scale = syl_bf16_to_f32(syl_bf16_from_f32((hi * clip - lo * clip) / top));
        float inverse = scale > 0 ? 1 / scale : 0, zero = fminf(rintf(-(lo * clip) * inverse), top);
        for (int j = begin; j < begin + codes.group; j++) {
            float c = fmaxf(fminf(rintf(x[j] * inverse) + zero, top), 0);
            out[j] = (c - zero) * scale;
            if (code) code[j] = (int)c;
        }
    }
}

/* Appends `n` positions of random keys and values to a sequence, from position `first`. */
static void append(world *w, const built *b, int sequence, int first, int n) {
    int64_t cols = b->kernel->cols;
    float *k = new_buffer((size_t)(n * cols) * 4), *v = new_buffer((size_t)(n * cols) * 4);
    int32_t *pos = new_buffer((size_t)n * 4), *seq = new_buffer((size_t)n * 4);
    for (int i = 0; i < n; i++) {
        pos[i] = first + i;
        seq[i] = sequence;
        for (int64_t j = 0; j < cols; j++) {
            k[i * cols + j] = 2 * random_float();
            v[i * cols + j] = random_float();
            if (j % 50 == 49) k[i * cols + j] *= 20; /* an outlier */
        }
        if (i % 7 == 3) memset(v + i * cols, 0, (size_t)w->dim * 4); /* a head of zeros */
        round_row(w, w->cache.k, k + i * cols, place(w, w->keys, sequence, first + i), NULL);
        round_row(w, w->cache.v, v + i * cols, place(w, w->values, sequence, first + i), NULL);
    }
    void *buffers[] = {k, v, &w->view, pos, seq};
    run_kernel(b, buffers, n);
    void *owned[] = {k, v, pos, seq};
    for (int i = 0; i < 4; i++) free(owned[i]);
}

/* The key or value of feature d of position p of a page, from its bytes; `group`: scales and zero points. */
static double stored(const world *w, kir_codes codes, const unsigned char *part, const unsigned char *groups,
                     bool key, int d, int p) {
    int unit = codes.bits == 4 ? d / 2 : d;
    int64_t units = kir_cache_units(&w->cache, codes), at = key ? unit * SYL_KV_PAGE + p : p * units + unit;
    if (!codes.bits) return get(part, w->cache.elem, at);
    int code = codes.bits == 8 ? part[at] : d % 2 ? part[at] >> 4 : part[at] & 15;
    groups += d / codes.group * KIR_GROUP_BYTES;
    uint16_t scale;
    memcpy(&scale, groups + 2 * p, 2);
    return (double)(code - groups[KIR_GROUP_ZEROS + p]) * syl_bf16_to_f32(scale);
}

static void check_cache(const world *w, int sequence, int n) {
    for (int p = 0; p < n; p++) {
        const unsigned char *page = w->pages[w->table[sequence * MAX_PAGES + p / SYL_KV_PAGE]];
        for (int h = 0; h < w->kv_heads; h++) {
            const unsigned char *head = page + w->layer_offset + h * w->layout.size;
            for (int d = 0; d < w->dim; d++) {
                double k = stored(w, w->cache.k, head, head + w->layout.k_groups, true, d, p % SYL_KV_PAGE);
                double v = stored(w, w->cache.v, head + w->layout.values, head + w->layout.v_groups, false, d,
                                  p % SYL_KV_PAGE);
                assert_true(fabs(k - place(w, w->keys, sequence, p)[h * w->dim + d]) <= 1e-6 * fabs(k));
                assert_true(fabs(v - place(w, w->values, sequence, p)[h * w->dim + d]) <= 1e-6 * fabs(v));
            }
        }
    }
    /* pages hold nothing but what was appended */
    int last = (n - 1) / SYL_KV_PAGE, behind = n % SYL_KV_PAGE;
    const unsigned char *head =
        (unsigned char *)w->pages[w->table[sequence * MAX_PAGES + last]] + w->layer_offset;
    for (int p = behind; behind && p < SYL_KV_PAGE; p++)
        for (int d = 0; d < w->dim; d++) {
            assert_true(stored(w, w->cache.k, head, head + w->layout.k_groups, true, d, p) == 0);
            assert_true(
                stored(w, w->cache.v, head + w->layout.values, head + w->layout.v_groups, false, d, p) == 0);
        }
}

static kir_kernel attention_kernel(syl_arena *arena, const world *w, int mr) {
    int64_t cols = (int64_t)w->heads * w->dim;
    kir_kernel k = {.kind = KIR_ATTENTION, .name = "attention", .cache = w->cache};
    int q = kir_add_buffer(arena, &k, (kir_buffer){"q", KIR_MATRIX, w->io, cols, cols + 7, false}),
        out = kir_add_buffer(arena, &k, (kir_buffer){"out", KIR_MATRIX, w->io, cols, cols + 2, true});
    int cache = kir_add_buffer(arena, &k, (kir_buffer){"kv", KIR_CACHE, w->cache.elem, 0, 0, false});
    int pos = kir_add_buffer(arena, &k, (kir_buffer){"pos", KIR_PER_ROW, KIR_I32, 1, 1, false}),
        seq = kir_add_buffer(arena, &k, (kir_buffer){"seq", KIR_PER_ROW, KIR_I32, 1, 1, false});
    k.attention = (kir_attention){.q = q,
                                  .out = out,
                                  .cache = cache,
                                  .pos = pos,
                                  .seq = seq,
                                  .heads = w->heads,
                                  .kv_heads = w->kv_heads,
                                  .head_dim = w->dim,
                                  .scale = 1 / sqrt(w->dim),
                                  .mr = mr};
    return k;
}

static void reference(world *w, const double *q, int sequence, int pos, int head, double *out) {
    double *p = calloc((size_t)pos + 1, sizeof *p), top = -INFINITY, sum = 0;
    int kv = head / (w->heads / w->kv_heads) * w->dim;
    for (int t = 0; t <= pos; t++) {
        for (int d = 0; d < w->dim; d++) p[t] += q[d] * place(w, w->keys, sequence, t)[kv + d];
        p[t] /= sqrt(w->dim);
        top = fmax(top, p[t]);
    }
    for (int t = 0; t <= pos; t++) sum += p[t] = exp(p[t] - top);
    for (int d = 0; d < w->dim; d++) {
        out[d] = 0;
        for (int t = 0; t <= pos; t++) out[d] += p[t] / sum * place(w, w->values, sequence, t)[kv + d];
    }
    free(p);
}

static void check_codes(const syl_host_target *target, int heads, int kv_heads, int dim, kir_type elem,
                        kir_codes k_codes, kir_codes v_codes, kir_type io, int mr) {
    world w = {.heads = heads, .kv_heads = kv_heads, .dim = dim, .io = io};
    w.cache = (kir_cache){kv_heads, dim, elem, k_codes, v_codes};
    make_world(&w);
    syl_arena arena;
    syl_arena_init(&arena);
    static const int lengths[MAX_SEQUENCES] = {1, 64, 65, 200};
    kir_kernel appending = append_kernel(&arena, &w);
    built writer = build_kernel(&appending, target);
    for (int s = 0; s < MAX_SEQUENCES; s++) {
        append(&w, &writer, s, 0, lengths[s] - lengths[s] / 2);
        append(&w, &writer, s, lengths[s] - lengths[s] / 2, lengths[s] / 2);
        check_cache(&w, s, lengths[s]);
    }
    drop_kernel(&writer);
    /* rows: neighbours of one sequence, of mixed sequences, around the edges of pages */
    static const int32_t sequences[] = {3, 3, 3, 3, 3, 3, 3, 3, 2, 2, 2, 0, 1, 1, 1, 2, 3, 3, 3};
    static const int32_t positions[] = {61, 62, 63, 64, 65, 0,  1,   199, 62, 63,
                                        64, 0,  62, 63, 7,  64, 127, 128, 129};
    enum { ROWS = sizeof sequences / sizeof *sequences };
    int64_t cols = (int64_t)heads * dim, q_stride = cols + 7, out_stride = cols + 2;
    void *q = new_buffer((size_t)(ROWS * q_stride) * width(io)),
         *out = new_buffer((size_t)(ROWS * out_stride) * width(io));
    void *alone = new_buffer((size_t)out_stride * width(io));
    int32_t *pos = new_buffer(sizeof positions), *seq = new_buffer(sizeof sequences);
    memcpy(pos, positions, sizeof positions);
    memcpy(seq, sequences, sizeof sequences);
    for (int64_t i = 0; i < ROWS * q_stride; i++) set(q, io, i, 2 * random_float());
    kir_kernel kernel = attention_kernel(&arena, &w, mr);
    built b = build_kernel(&kernel, target);
    void *buffers[] = {q, out, &w.view, pos, seq};
    run_kernel(&b, buffers, ROWS);
    check_slack(out, (size_t)(ROWS * out_stride) * width(io));
    double *qd = calloc((size_t)dim, sizeof *qd), *expected = calloc((size_t)dim, sizeof *expected);
    for (int r = 0; r < ROWS; r++)
        for (int h = 0; h < heads; h++) {
            for (int d = 0; d < dim; d++) qd[d] = get(q, io, r * q_stride + h * dim + d);
            reference(&w, qd, sequences[r], positions[r], h, expected);
            for (int d = 0; d < dim; d++) {
                double got = get(out, io, r * out_stride + h * dim + d);
                double size = w.cache.v.bits || w.cache.k.bits ? 10 : 1; /* outliers make the scores steep */
                assert_true(fabs(got - expected[d]) <= size * (io == KIR_F32 ? 3e-6 : 4e-3));
            }
        }
    /* each row alone, as one range of tasks and task by task: the same bits */
    for (int r = 0; r < ROWS; r++) {
        unsigned char *row_q = (unsigned char *)q + (size_t)(r * q_stride) * width(io),
                      *row_out = (unsigned char *)out + (size_t)(r * out_stride) * width(io);
        void *one[] = {row_q, alone, &w.view, pos + r, seq + r};
        memset(alone, 0, (size_t)cols * width(io));
        run_kernel(&b, one, 1);
        assert_memory_equal(alone, row_out, (size_t)cols * width(io));
        memset(alone, 0, (size_t)cols * width(io));
        for (int h = 0; h < heads; h++) b.function(one, 1, h, h + 1, b.scratch);
        assert_memory_equal(alone, row_out, (size_t)cols * width(io));
    }
    void *owned[] = {q, out, alone, pos, seq, qd, expected};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    drop_kernel(&b);
    syl_arena_free(&arena);
    free_world(&w);
}

static void check(const syl_host_target *target, int heads, int kv_heads, int dim, kir_type elem, kir_type io,
                  int mr) {
    check_codes(target, heads, kv_heads, dim, elem, (kir_codes){0}, (kir_codes){0}, io, mr);
}

static void matches_reference_on(const char *name) {
    syl_host_target target;
    if (!find_target(name, &target)) return;
    check(&target, 3, 1, 64, KIR_F32, KIR_F32, 4);
    check(&target, 2, 2, 24, KIR_F32, KIR_F32, 2);
    check(&target, 2, 1, 80, KIR_BF16, KIR_BF16, 1);
}

static void codes_on(const char *name) {
    syl_host_target target;
    if (!find_target(name, &target)) return;
    check_codes(&target, 3, 1, 64, KIR_F32, (kir_codes){8, 64}, (kir_codes){8, 64}, KIR_F32, 4);
    check_codes(&target, 6, 2, 64, KIR_F32, (kir_codes){4, 64}, (kir_codes){4, 32}, KIR_F32, 4);
    check_codes(&target, 2, 1, 80, KIR_F32, (kir_codes){4, 16}, (kir_codes){4, 80}, KIR_BF16, 2);
}

/* Groups and heads of all shapes; keys and values in different formats. */
static void host_codes(void **state) {
    (void)state;
    codes_on("host");
    syl_host_target target;
    assert_true(find_target("host", &target));
    check_codes(&target, 9, 3, 16, KIR_F32, (kir_codes){8, 16}, (kir_codes){4, 16}, KIR_F32, 2);
    check_codes(&target, 2, 1, 96, KIR_F32, (kir_codes){4, 32}, (kir_codes){8, 48}, KIR_F32, 1);
    check_codes(&target, 2, 2, 24, KIR_BF16, (kir_codes){8, 24}, (kir_codes){0}, KIR_F32, 4);
    check_codes(&target, 3, 1, 5, KIR_BF16, (kir_codes){0}, (kir_codes){4, 5}, KIR_F32, 2);
    check_codes(&target, 3, 1, 5, KIR_F32, (kir_codes){4, 5}, (kir_codes){8, 5}, KIR_F32, 2);
}
static void avx2_codes(void **state) {
    (void)state;
    codes_on("x86-64-v3");
}
static void generic_codes(void **state) {
    (void)state;
    codes_on("generic");
}

static void host(void **state) {
    (void)state;
    matches_reference_on("host");
    syl_host_target target;
    assert_true(find_target("host", &target));
    check(&target, 9, 3, 16, KIR_F32, KIR_F32, 2);
    check(&target, 3, 1, 5, KIR_BF16, KIR_F32, 2);
}
static void avx2(void **state) {
    (void)state;
    matches_reference_on("x86-64-v3");
}
static void generic(void **state) {
    (void)state;
    matches_reference_on("generic");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(host),       cmocka_unit_test(avx2),
                                       cmocka_unit_test(generic),    cmocka_unit_test(host_codes),
                                       cmocka_unit_test(avx2_codes), cmocka_unit_test(generic_codes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
