/* The executor's checks, and the paged KV cache. What models compute is tested in driver_compile.c. */
#include "runtime/host/pages.h"
#include "runtime/lm.h"
#include "runtime_tiny.h"

/* ---- the cache ---- */

static const syl_kv_shape shape = {
    .layers = 2, .cache = {.heads = 3, .dim = 5, .elem = KIR_F32}, .sequences = 2, .context = 200};

/* The key element d of (layer, head, position). */
static float *key_at(const syl_host_kv *host, int sequence, int64_t position, int layer, int head, int d) {
    const syl_kv_view *view = syl_host_kv_view(host, layer);
    unsigned char *page = view->pages[view->table[sequence * view->table_stride + position / SYL_KV_PAGE]];
    float *keys = (float *)(page + view->layer_offset + head * kir_cache_layout_of(&shape.cache).size);
    return keys + (int64_t)d * SYL_KV_PAGE + position % SYL_KV_PAGE;
}

static void pages_come_and_go(void **state) {
    (void)state;
    fixture f;
    syl_host_kv *host;
    fixture_open(&f, 1);
    fixture_ok(&f, syl_host_kv_create(&shape, f.diag, &host));
    syl_kv *kv = host->kv;
    size_t page = sizeof(float) * 2 * 3 * 2 * 5 * SYL_KV_PAGE;
    assert_int_equal(syl_kv_bytes(kv), 0);
    fixture_ok(&f, syl_kv_extend(kv, 0, 65, f.diag));
    fixture_ok(&f, syl_kv_extend(kv, 1, 1, f.diag));
    assert_int_equal(syl_kv_bytes(kv), 3 * page);
    assert_int_equal(syl_kv_length(kv, 0), 65);
    for (int64_t p = 0; p < 65; p++) *key_at(host, 0, p, 1, 2, 4) = 7;
    syl_kv_truncate(kv, 0, 10); /* positions behind the length are zero again */
    fixture_ok(&f, syl_kv_extend(kv, 0, 130, f.diag));
    assert_true(*key_at(host, 0, 9, 1, 2, 4) == 7);
    for (int64_t p = 10; p < 130; p++) assert_true(*key_at(host, 0, p, 1, 2, 4) == 0);
    syl_kv_truncate(kv, 0, 0);
    fixture_ok(&f, syl_kv_extend(kv, 1, 150, f.diag));
    assert_int_equal(syl_kv_bytes(kv), 4 * page); /* freed pages were used again */
    for (int64_t p = 64; p < 150; p++) assert_true(*key_at(host, 1, p, 1, 2, 4) == 0);
    fixture_error(&f, syl_kv_extend(kv, 0, 201, f.diag), "kv-context", "201", "past the context");
    fixture_error(&f, syl_kv_extend(kv, 2, 1, f.diag), "kv-sequence", "0..1", "an unknown sequence");
    assert_int_equal(syl_kv_length(kv, 0), 0);
    syl_host_kv_destroy(host);
    fixture_close(&f);
}

/* Bits an element of a head of 64, scales and zero points counted, and the memory of pages: 2 layers, 3 heads, keys and values. */
static void codes_take_less(void **state) {
    (void)state;
    static const struct {
        kir_codes codes;
        double bits;
    } cases[] = {{{0}, 32}, {{8, 64}, 8.375}, {{4, 64}, 4.375}, {{4, 32}, 4.75}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture f;
        syl_host_kv *host;
        syl_kv_shape codes = {.layers = 2, .sequences = 1, .context = 200};
        codes.cache = (kir_cache){3, 64, KIR_F32, cases[i].codes, cases[i].codes};
        fixture_open(&f, 1);
        fixture_ok(&f, syl_host_kv_create(&codes, f.diag, &host));
        syl_kv *kv = host->kv;
        fixture_ok(&f, syl_kv_extend(kv, 0, 70, f.diag));
        assert_true((double)syl_kv_bytes(kv) == cases[i].bits / 8 * 2 * 2 * 3 * 64 * (2 * SYL_KV_PAGE));
        syl_host_kv_destroy(host);
        fixture_close(&f);
    }
}

/* Forgetting positions zeroes every byte of theirs, and no other. */
static void codes_are_forgotten(void **state) {
    (void)state;
    fixture f;
    syl_host_kv *host;
    syl_kv_shape codes = {.layers = 2, .sequences = 1, .context = 200};
    codes.cache = (kir_cache){3, 32, KIR_BF16, {8, 16}, {4, 32}};
    kir_cache_layout layout = kir_cache_layout_of(&codes.cache);
    fixture_open(&f, 1);
    fixture_ok(&f, syl_host_kv_create(&codes, f.diag, &host));
    syl_kv *kv = host->kv;
    fixture_ok(&f, syl_kv_extend(kv, 0, 64, f.diag));
    unsigned char *page = syl_host_kv_view(host, 0)->pages[0];
    memset(page, 0xee, syl_kv_bytes(kv));
    syl_kv_truncate(kv, 0, 10);
    for (int64_t head = 0; head < 6; head++)
        for (int64_t i = 0; i < layout.size; i++) {
            int64_t position = i < layout.values     ? i % SYL_KV_PAGE
                               : i < layout.k_groups ? (i - layout.values) / 16
                                                     : (i - layout.k_groups) % KIR_GROUP_BYTES;
            if (i >= layout.k_groups) /* bf16 scales, then bytes */
                position = position < KIR_GROUP_ZEROS ? position / 2 : position - KIR_GROUP_ZEROS;
            assert_int_equal(page[head * layout.size + i], position < 10 ? 0xee : 0);
        }
    syl_host_kv_destroy(host);
    fixture_close(&f);
}

/* ---- the executor ---- */

typedef struct running {
    fixture f;
    syl_engine *engine;
    syl_lm lm;
} running;

static void start(running *r, int sequences) {
    fixture_open(&r->f, 2);
    const char *path = test_path(&r->f, "tiny.syl");
    write_tiny(&r->f, path);
    syl_engine_options options = {.cache_dir = test_folder};
    syl_context_options context = {.sequences = sequences};
    fixture_ok(&r->f, syl_engine_load(path, &options, r->f.pool, r->f.diag, &r->engine));
    fixture_ok(&r->f, syl_lm_create(r->engine, r->f.pool, &context, r->f.diag, &r->lm));
}

static void stop(running *r) {
    syl_lm_destroy(&r->lm);
    syl_engine_destroy(r->engine);
    fixture_close(&r->f);
}

static void inputs_are_checked(void **state) {
    (void)state;
    running r;
    start(&r, 2);
    syl_context *c = r.lm.context;
    const int32_t ids[] = {1, 2, 3}, seq[] = {0, 1, 0}, rows[] = {2};
    const int32_t bad_ids[] = {1, 40, 3}, negative[] = {-1, 2, 3}, bad_seq[] = {0, 2, 0}, bad_rows[] = {3};
    const struct {
        const char *error, *said;
        syl_batch batch;
    } bad[] = {
        {"exec-range", "token 1 is 40, expected 0..39", {3, bad_ids, seq, 1, rows, false}},
        {"exec-range", "token 0 is -1", {3, negative, seq, 1, rows, false}},
        {"kv-sequence", "token 1 is of sequence 2", {3, ids, bad_seq, 1, rows, false}},
        {"exec-range", "row 0 is 3, expected 0..2", {3, ids, seq, 1, bad_rows, false}},
        {"exec-range", "0 tokens", {0, ids, seq, 0, rows, false}},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        fixture_error(&r.f, syl_context_run(c, &bad[i].batch, r.f.diag), bad[i].error, bad[i].said,
                      bad[i].said);
        assert_int_equal(syl_context_length(c, 0), 0);
    }
    syl_batch good = {3, ids, seq, 1, rows, false};
    fixture_ok(&r.f, syl_context_run(c, &good, r.f.diag));
    assert_int_equal(syl_context_length(c, 0), 2);
    assert_int_equal(syl_context_length(c, 1), 1);
    stop(&r);
}

static void the_context_ends(void **state) {
    (void)state;
    running r;
    start(&r, 1);
    int32_t ids[TINY_CONTEXT + 1];
    const float *logits;
    for (int i = 0; i <= TINY_CONTEXT; i++) ids[i] = i % TINY_VOCAB;
    fixture_error(&r.f, syl_lm_prefill(&r.lm, 0, ids, TINY_CONTEXT + 1, r.f.diag, &logits), "kv-context",
                  "200", "too long");
    fixture_ok(&r.f, syl_lm_prefill(&r.lm, 0, ids, TINY_CONTEXT, r.f.diag, &logits));
    fixture_error(&r.f, syl_lm_prefill(&r.lm, 0, ids, 1, r.f.diag, &logits), "kv-context", "200", "one more");
    syl_context_options more = {.context = TINY_CONTEXT + 1};
    syl_context *c;
    fixture_error(&r.f, syl_context_create(r.engine, r.f.pool, &more, r.f.diag, &c), "kv-context",
                  "trained for 200", "a larger context");
    stop(&r);
}

/* Truncating and reading again gives the bits of a fresh sequence. */
static void truncation_forgets(void **state) {
    (void)state;
    running r;
    start(&r, 1);
    int32_t ids[100], other[100];
    float first[TINY_VOCAB];
    const float *logits;
    for (int i = 0; i < 100; i++) ids[i] = i * 7 % TINY_VOCAB, other[i] = i * 11 % TINY_VOCAB;
    fixture_ok(&r.f, syl_lm_prefill(&r.lm, 0, ids, 100, r.f.diag, &logits));
    memcpy(first, logits, sizeof first);
    syl_context_truncate(r.lm.context, 0, 30);
    fixture_ok(&r.f, syl_lm_prefill(&r.lm, 0, other, 90, r.f.diag, &logits));
    syl_context_truncate(r.lm.context, 0, 30);
    fixture_ok(&r.f, syl_lm_prefill(&r.lm, 0, ids + 30, 70, r.f.diag, &logits));
    assert_memory_equal(first, logits, sizeof first);
    stop(&r);
}

static void contexts_share_an_engine(void **state) {
    (void)state;
    running r;
    start(&r, 1);
    syl_lm other;
    syl_context_options options = {0};
    const float *a, *b;
    const int32_t ids[] = {5, 6, 7};
    fixture_ok(&r.f, syl_lm_create(r.engine, r.f.pool, &options, r.f.diag, &other));
    fixture_ok(&r.f, syl_lm_prefill(&r.lm, 0, ids, 3, r.f.diag, &a));
    fixture_ok(&r.f, syl_lm_prefill(&other, 0, ids + 1, 2, r.f.diag, &b));
    assert_memory_not_equal(a, b, TINY_VOCAB * sizeof *a);
    syl_context_truncate(other.context, 0, 0);
    fixture_ok(&r.f, syl_lm_prefill(&other, 0, ids, 3, r.f.diag, &b));
    assert_memory_equal(a, b, TINY_VOCAB * sizeof *a);
    syl_lm_destroy(&other);
    stop(&r);
}

/* ---- language models ---- */

static bool collect(void *user, int32_t id) {
    int32_t **next = user;
    *(*next)++ = id;
    return true;
}

static void generation_is_greedy(void **state) {
    (void)state;
    running r;
    start(&r, 1);
    int32_t prompt[13] = {3, 1, 4}, out[10], *next = out;
    syl_generate_options options = {
        .max_tokens = 10, .sampling = {.top_p = 1}, .token = collect, .user = &next};
    syl_generation g;
    fixture_ok(&r.f, syl_lm_generate(&r.lm, prompt, 3, &options, r.f.diag, &g));
    assert_int_equal(g.new_tokens, 10);
    assert_int_equal(g.stop, SYL_STOP_LENGTH);
    for (int i = 0; i < 10; i++) {
        const float *logits;
        syl_context_truncate(r.lm.context, 0, 0);
        fixture_ok(&r.f, syl_lm_prefill(&r.lm, 0, prompt, 3 + i, r.f.diag, &logits));
        assert_int_equal(syl_argmax(logits, TINY_VOCAB), out[i]);
        prompt[3 + i] = out[i];
    }
    options.max_tokens = 1000; /* runs into the end of the context */
    options.token = NULL;
    fixture_ok(&r.f, syl_lm_generate(&r.lm, prompt, 3, &options, r.f.diag, &g));
    assert_int_equal(g.stop, SYL_STOP_CONTEXT);
    assert_int_equal(g.new_tokens, TINY_CONTEXT - 3 + 1);
    stop(&r);
}

/* By the definition: each window alone, logits at positions 3 .. size - 2 score tokens 4 .. size - 1. */
static void perplexity_follows_the_protocol(void **state) {
    (void)state;
    running r;
    start(&r, 1);
    enum { SIZE = 150, WINDOWS = 2 };
    int32_t ids[SIZE * WINDOWS + 60];
    for (int i = 0; i < SIZE * WINDOWS + 60; i++) ids[i] = i * i % TINY_VOCAB;
    double sum = 0;
    int n = 0;
    for (int w = 0; w < WINDOWS; w++) {
        syl_context_truncate(r.lm.context, 0, 0);
        for (int p = 0; p < SIZE - 1; p++) {
            const float *logits;
            fixture_ok(&r.f, syl_lm_prefill(&r.lm, 0, ids + w * SIZE + p, 1, r.f.diag, &logits));
            if (p + 1 < SYL_PPL_SKIPPED) continue;
            sum += syl_nll(logits, TINY_VOCAB, ids[w * SIZE + p + 1]);
            n++;
        }
    }
    syl_lm same;
    syl_context_options context = {0};
    fixture_ok(&r.f, syl_lm_create(r.engine, r.f.pool, &context, r.f.diag, &same));
    syl_perplexity_options options = {.window = SIZE, .against = &same};
    syl_perplexity p;
    fixture_ok(&r.f, syl_lm_perplexity(&r.lm, ids, SIZE * WINDOWS + 60, &options, r.f.diag, &p));
    assert_int_equal(p.windows, WINDOWS);
    assert_int_equal(p.tokens, n);
    assert_true(p.nll == sum / n);
    assert_true(p.kl == 0);
    assert_true(p.same_top == 1);
    options.window = 301 + 60;
    fixture_error(&r.f, syl_lm_perplexity(&r.lm, ids, SIZE * WINDOWS + 60, &options, r.f.diag, &p), "lm-text",
                  "360", "a short text");
    syl_lm_destroy(&same);
    stop(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_come_and_go),
        cmocka_unit_test(codes_take_less),
        cmocka_unit_test(codes_are_forgotten),
        cmocka_unit_test(inputs_are_checked),
        cmocka_unit_test(the_context_ends),
        cmocka_unit_test(truncation_forgets),
        cmocka_unit_test(contexts_share_an_engine),
        cmocka_unit_test(generation_is_greedy),
        cmocka_unit_test(perplexity_follows_the_protocol),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
