/* Steps launched together, on the CUDA runtime with emulated kernels (runtime_cuda_emulated.h): small models whose rows of up to 8 run with and without. The
 * same bits everywhere: fused or not, a token alone or with others, as runs or as graphs; and as many launches as there should be. */
#include <math.h>
#include "runtime_cuda_emulated.h"

int __real_syl_cuda_variants(const kir_kernel *kernel, const syl_cuda_target *target, int64_t rows,
                             syl_cuda_variant *out, int cap);
int __wrap_syl_cuda_variants(const kir_kernel *kernel, const syl_cuda_target *target, int64_t rows,
                             syl_cuda_variant *out, int cap);
/* Few rows is all that is run here. */
int __wrap_syl_cuda_variants(const kir_kernel *kernel, const syl_cuda_target *target, int64_t rows,
                             syl_cuda_variant *out, int cap) {
    return __real_syl_cuda_variants(kernel, target, rows < 8 ? rows : 8, out, cap);
}

/* ---- the models ---- */

enum { LAYERS = 2, VOCAB = 40, CONTEXT = 100, TOKENS = 7, NEW = 6, LAYER_LAUNCHES = 6, LAYER_STEPS = 11 };

typedef struct recipe {
    const char *name, *weights, *kv;
    bool low_rank;
} recipe;

/* Text with marks: @W the weights' type, @K the cache's, @L the layer, @P the one in front, @A the slot of its input, @B of its result. Lines that begin
 * with ~ are of models with low-rank branches alone, those with - of the others. */
static const char begin[] = "module @small {\n"
                            "  func @forward(%ids: tensor<Txi32>, %pos: tensor<Txi32>, %seq: tensor<Txi32>, "
                            "%rows: tensor<Rxi32>, %kvP: @K) -> (tensor<Rx40xf32>, @K) {\n"
                            "    %table = materialized \"table\" : tensor<40x128xf32>\n"
                            "    %head = materialized \"head\" : tensor<40x128xint8_channel>\n"
                            "    %xP = fused {slots = [0]} : tensor<Tx128xf32> {\n"
                            "      %e = embedding %ids, %table : tensor<Tx128xf32>\n"
                            "      yield %e\n"
                            "    }\n"
                            "    %angles = fused {slots = [1]} : tensor<Tx32xf32> {\n"
                            "      %r = rope_table %pos {base = 10000.0, dims = 32} : tensor<Tx32xf32>\n"
                            "      yield %r\n"
                            "    }\n";
static const char layer[] =
    "    %wq@L = materialized \"wq@L\" : tensor<256x128x@W>\n"
    "    %wo@L = materialized \"wo@L\" : tensor<128x128x@W>\n"
    "    %wg@L = materialized \"wg@L\" : tensor<384x128x@W>\n"
    "    %wd@L = materialized \"wd@L\" : tensor<128x192x@W>\n"
    "~    %dq@L = materialized \"dq@L\" : tensor<32x128xbf16>\n"
    "~    %do@L = materialized \"do@L\" : tensor<32x128xbf16>\n"
    "~    %dg@L = materialized \"dg@L\" : tensor<32x128xbf16>\n"
    "~    %dd@L = materialized \"dd@L\" : tensor<32x192xbf16>\n"
    "~    %uq@L = materialized \"uq@L\" : tensor<256x32xbf16>\n"
    "~    %uo@L = materialized \"uo@L\" : tensor<128x32xbf16>\n"
    "~    %ug@L = materialized \"ug@L\" : tensor<384x32xbf16>\n"
    "~    %ud@L = materialized \"ud@L\" : tensor<128x32xbf16>\n"
    "-    %cq@L = fused {slots = [@B]} : tensor<Tx128xint8_token> {\n"
    "~    %cq@L, %tq@L = fused {slots = [@B, 3]} : tensor<Tx128xint8_token>, tensor<Tx32xf32> {\n"
    "      %n@L = rms_norm %x@P {eps = 1e-05} : tensor<Tx128xf32>\n"
    "~      %nt@L = linear %n@L, %dq@L : tensor<Tx32xf32>\n"
    "      %nq@L = quantize %n@L : tensor<Tx128xint8_token>\n"
    "-      yield %nq@L\n"
    "~      yield %nq@L, %nt@L\n"
    "    }\n"
    "    %qkv@L = fused {slots = [4]} : tensor<Tx256xf32> {\n"
    "~      %ql@L = linear %tq@L, %uq@L : tensor<Tx256xf32>\n"
    "      %qm@L = linear %cq@L, %wq@L : tensor<Tx256xf32>\n"
    "~      %qa@L = add %qm@L, %ql@L : tensor<Tx256xf32>\n"
    "-      yield %qm@L\n"
    "~      yield %qa@L\n"
    "    }\n"
    "    %q@L = fused {slots = [@B]} : tensor<Tx128xf32> {\n"
    "      %qs@L = slice %qkv@L {axis = 1, begin = 0, end = 128} : tensor<Tx128xf32>\n"
    "      %qr@L = rope %qs@L, %angles {heads = 4, style = interleaved} : tensor<Tx128xf32>\n"
    "      yield %qr@L\n"
    "    }\n"
    "    %kv@L = fused {slots = [-1]} : @K {\n"
    "      %ks@L = slice %qkv@L {axis = 1, begin = 128, end = 192} : tensor<Tx64xf32>\n"
    "      %kr@L = rope %ks@L, %angles {heads = 2, style = interleaved} : tensor<Tx64xf32>\n"
    "      %vs@L = slice %qkv@L {axis = 1, begin = 192, end = 256} : tensor<Tx64xf32>\n"
    "      %ka@L = kv_append %kv@P, %kr@L, %vs@L, %pos, %seq {layer = @L} : @K\n"
    "      yield %ka@L\n"
    "    }\n"
    "    %a@L = fused {slots = [4]} : tensor<Tx128xf32> {\n"
    "      %at@L = attention %q@L, %kv@L, %pos, %seq {heads = 4, layer = @L, scale = 0.18} : "
    "tensor<Tx128xf32>\n"
    "      yield %at@L\n"
    "    }\n"
    "-    %co@L = fused {slots = [@B]} : tensor<Tx128xint8_token> {\n"
    "~    %co@L, %to@L = fused {slots = [@B, 3]} : tensor<Tx128xint8_token>, tensor<Tx32xf32> {\n"
    "~      %ot@L = linear %a@L, %do@L : tensor<Tx32xf32>\n"
    "      %oq@L = quantize %a@L : tensor<Tx128xint8_token>\n"
    "-      yield %oq@L\n"
    "~      yield %oq@L, %ot@L\n"
    "    }\n"
    "    %y@L = fused {slots = [4]} : tensor<Tx128xf32> {\n"
    "~      %ol@L = linear %to@L, %uo@L : tensor<Tx128xf32>\n"
    "-      %oa@L = linear %co@L, %wo@L : tensor<Tx128xf32>\n"
    "~      %om@L = linear %co@L, %wo@L : tensor<Tx128xf32>\n"
    "~      %oa@L = add %om@L, %ol@L : tensor<Tx128xf32>\n"
    "      %or@L = add %x@P, %oa@L : tensor<Tx128xf32>\n"
    "      yield %or@L\n"
    "    }\n"
    "-    %cg@L = fused {slots = [@A]} : tensor<Tx128xint8_token> {\n"
    "~    %cg@L, %tg@L = fused {slots = [@A, 3]} : tensor<Tx128xint8_token>, tensor<Tx32xf32> {\n"
    "      %m@L = rms_norm %y@L {eps = 1e-05} : tensor<Tx128xf32>\n"
    "~      %mt@L = linear %m@L, %dg@L : tensor<Tx32xf32>\n"
    "      %mq@L = quantize %m@L : tensor<Tx128xint8_token>\n"
    "-      yield %mq@L\n"
    "~      yield %mq@L, %mt@L\n"
    "    }\n"
    "    %g@L = fused {slots = [@B]} : tensor<Tx384xf32> {\n"
    "~      %gl@L = linear %tg@L, %ug@L : tensor<Tx384xf32>\n"
    "      %gm@L = linear %cg@L, %wg@L : tensor<Tx384xf32>\n"
    "~      %ga@L = add %gm@L, %gl@L : tensor<Tx384xf32>\n"
    "-      yield %gm@L\n"
    "~      yield %ga@L\n"
    "    }\n"
    "-    %cd@L = fused {slots = [@A]} : tensor<Tx192xint8_token> {\n"
    "~    %cd@L, %td@L = fused {slots = [@A, 3]} : tensor<Tx192xint8_token>, tensor<Tx32xf32> {\n"
    "      %gs@L = slice %g@L {axis = 1, begin = 0, end = 192} : tensor<Tx192xf32>\n"
    "      %si@L = silu %gs@L : tensor<Tx192xf32>\n"
    "      %us@L = slice %g@L {axis = 1, begin = 192, end = 384} : tensor<Tx192xf32>\n"
    "      %pr@L = mul %si@L, %us@L : tensor<Tx192xf32>\n"
    "      %ha@L = hadamard %pr@L {axis = 1, factors = [12, 16]} : tensor<Tx192xf32>\n"
    "~      %ht@L = linear %ha@L, %dd@L : tensor<Tx32xf32>\n"
    "      %hq@L = quantize %ha@L : tensor<Tx192xint8_token>\n"
    "-      yield %hq@L\n"
    "~      yield %hq@L, %ht@L\n"
    "    }\n"
    "    %x@L = fused {slots = [@B]} : tensor<Tx128xf32> {\n" /* the slot of what its prologue reads */
    "~      %dl@L = linear %td@L, %ud@L : tensor<Tx128xf32>\n"
    "-      %da@L = linear %cd@L, %wd@L : tensor<Tx128xf32>\n"
    "~      %dm@L = linear %cd@L, %wd@L : tensor<Tx128xf32>\n"
    "~      %da@L = add %dm@L, %dl@L : tensor<Tx128xf32>\n"
    "      %dr@L = add %y@L, %da@L : tensor<Tx128xf32>\n"
    "      yield %dr@L\n"
    "    }\n";
static const char end[] = "    %last = fused {slots = [5]} : tensor<Rx128xint8_token> {\n"
                          "      %tk = take %x@P, %rows : tensor<Rx128xf32>\n"
                          "      %tn = rms_norm %tk {eps = 1e-05} : tensor<Rx128xf32>\n"
                          "      %tq = quantize %tn : tensor<Rx128xint8_token>\n"
                          "      yield %tq\n"
                          "    }\n"
                          "    %logits = fused {slots = [-1]} : tensor<Rx40xf32> {\n"
                          "      %lo = linear %last, %head : tensor<Rx40xf32>\n"
                          "      yield %lo\n"
                          "    }\n"
                          "    return %logits, %kv@P\n"
                          "  }\n"
                          "}\n";

static void print(syl_text *out, const char *text, const recipe *r, int number) {
    char front[4] = "P";
    if (number > 0) snprintf(front, sizeof front, "%d", number - 1);
    for (bool fresh = true; *text; text++) {
        if (fresh && (*text == '~' || *text == '-')) {
            fresh = false;
            if ((*text == '~') == r->low_rank) continue;
            text = strchr(text, '\n');
            fresh = true;
            continue;
        }
        fresh = *text == '\n';
        if (*text != '@' || !strchr("WKLPAB", text[1])) {
            syl_text_append(out, text, 1);
            continue;
        }
        switch (*++text) {
        case 'W':
            syl_text_printf(out, "%s", r->weights);
            break;
        case 'K':
            syl_text_printf(out, "%s", r->kv);
            break;
        case 'L':
            syl_text_printf(out, "%d", number);
            break;
        case 'P':
            syl_text_printf(out, "%s", front);
            break;
        default:
            syl_text_printf(out, "%d", (*text == 'A') == (number % 2 == 0) ? 0 : 2);
        }
    }
}

typedef struct filler {
    fixture *f;
    syl_artifact_writer *writer;
    uint32_t seed;
} filler;

static float random_of(filler *f) { /* in [-1, 1] */
    f->seed = f->seed * 1664525 + 1013904223;
    return (float)(int32_t)f->seed / 2147483648.0f;
}

static syl_status fill(void *user, const syl_op *op) {
    filler *f = user;
    syl_stored stored;
    const char *name = syl_attr_str(op, "name");
    assert_true(syl_stored_of(&op->results[0].type, &stored));
    for (int p = 0; p < stored.parts; p++) {
        size_t n = 1;
        for (int d = 0; d < stored.part[p].rank; d++) n *= (size_t)stored.part[p].shape[d];
        float *floats = calloc(n, sizeof *floats);
        uint8_t *bytes = calloc(n, 4);
        syl_st_dtype type = stored.part[p].dtype;
        size_t unit = type == SYL_ST_F32 ? 4 : type == SYL_ST_BF16 ? 2 : 1;
        for (size_t i = 0; i < n; i++) {
            floats[i] =
                p ? 0.004f + 0.001f * random_of(f) : random_of(f) * (type == SYL_ST_BF16 ? 0.1f : 1.0f);
            uint32_t bits;
            memcpy(&bits, &floats[i], 4);
            if (type == SYL_ST_F32)
                memcpy(bytes + 4 * i, &bits, 4);
            else if (type == SYL_ST_BF16)
                memcpy(bytes + 2 * i, (uint8_t *)&bits + 2, 2);
            else /* codes; scales and zero points of groups, within INT8 */
                bytes[i] = (uint8_t)(p == 2                    ? 1 + (f->seed >> 24) % 8
                                     : p == 3                  ? (f->seed >> 24) % 16
                                     : (f->seed >> 24) == 0x80 ? 0
                                                               : f->seed >> 24);
        }
        fixture_ok(f->f, syl_artifact_write(f->writer, name, p, 0, bytes, n * unit));
        free(floats);
        free(bytes);
    }
    return SYL_OK;
}

static const char *write_model(fixture *f, const recipe *r) {
    const char *path = test_path(f, syl_arena_printf(&f->arena, "%s.syl", r->name));
    syl_text ir = {.arena = &f->arena};
    print(&ir, begin, r, 0);
    for (int l = 0; l < LAYERS; l++) print(&ir, layer, r, l);
    print(&ir, end, r, LAYERS);
    syl_source source = {"small.sir", ir.p, ir.n};
    syl_artifact_info info = {"small", CONTEXT, "{\"name\": \"none\"}", "{}", NULL};
    syl_module *module;
    filler all = {.f = f, .seed = 7};
    fixture_ok(f, syl_module_parse(&source, f->diag, &module));
    fixture_ok(f, syl_module_verify(module, f->diag));
    fixture_ok(f, syl_artifact_begin(path, module, &info, f->diag, &all.writer));
    fixture_ok(f, syl_artifact_each(module, fill, &all));
    fixture_ok(f, syl_artifact_commit(all.writer));
    syl_module_destroy(module);
    return path;
}

/* ---- runs ---- */

typedef struct numbers {
    float together[VOCAB], alone[VOCAB];
    int32_t ids[NEW];
    long launches[2]; /* of a run of several rows, and of one */
} numbers;

static bool collect(void *user, int32_t id) {
    int32_t **next = user;
    *(*next)++ = id;
    return true;
}

static void run_on(fixture *f, const char *path, const char *device, numbers *out) {
    syl_engine_options options = {.device = device};
    syl_context_options context = {.sequences = 2};
    syl_engine *engine;
    syl_lm lm;
    const float *logits;
    int32_t prompt[TOKENS], *next = out->ids;
    for (int i = 0; i < TOKENS; i++) prompt[i] = i * 7 % VOCAB;
    fixture_ok(f, syl_engine_load(path, &options, f->pool, f->diag, &engine));
    fixture_ok(f, syl_lm_create(engine, f->pool, &context, f->diag, &lm));
    long before = emulated_launches;
    fixture_ok(f, syl_lm_prefill(&lm, 0, prompt, TOKENS, f->diag, &logits));
    out->launches[0] = emulated_launches - before;
    memcpy(out->together, logits, sizeof out->together);
    for (int i = 0; i < TOKENS; i++) {
        before = emulated_launches;
        fixture_ok(f, syl_lm_prefill(&lm, 1, prompt + i, 1, f->diag, &logits));
        out->launches[1] = emulated_launches - before;
    }
    memcpy(out->alone, logits, sizeof out->alone);
    syl_generate_options generate = {
        .max_tokens = NEW, .sampling = {.top_p = 1}, .token = collect, .user = &next};
    syl_generation g;
    fixture_ok(f, syl_lm_generate(&lm, prompt, TOKENS, &generate, f->diag, &g));
    assert_int_equal(g.new_tokens, NEW);
    syl_lm_destroy(&lm);
    syl_engine_destroy(engine);
}

static void check_model(const recipe *r) {
    static numbers host, fused, apart;
    fixture f;
    fixture_open(&f, 1);
    fake_cuda_state *gpu = emulated_gpu();
    const char *path = write_model(&f, r);
    run_on(&f, path, "cpu", &host);
    unsetenv("SYL_CUDA_FUSE");
    run_on(&f, path, "cuda", &fused);
    setenv("SYL_CUDA_FUSE", "0", 1);
    run_on(&f, path, "cuda", &apart);
    unsetenv("SYL_CUDA_FUSE");
    fake_gpu_check(gpu);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(apart.launches[i], LAYERS * LAYER_STEPS + 4);
        assert_int_equal(fused.launches[i], LAYERS * LAYER_LAUNCHES + 2);
    }
    assert_memory_equal(fused.together, apart.together, sizeof fused.together);
    assert_memory_equal(fused.alone, apart.alone, sizeof fused.alone);
    assert_memory_equal(fused.together, fused.alone, sizeof fused.alone);
    assert_memory_equal(fused.ids, apart.ids, sizeof fused.ids);
    double largest = 0, error = 0; /* a code may be another where the host's sums have another order */
    for (int i = 0; i < VOCAB; i++) {
        double difference = fabs((double)host.together[i] - (double)fused.together[i]);
        if (fabs((double)host.together[i]) > largest) largest = fabs((double)host.together[i]);
        if (!(difference <= error)) error = difference;
    }
    print_message("%s: largest difference to the host %g of %g\n", r->name, error, largest);
    assert_true(error <= 0.03 * largest);
    fixture_close(&f);
}

static void int8_weights_and_cache(void **state) {
    (void)state;
    check_model(&(recipe){"w8a8-kv8", "int8_channel", "kv<2x2x32xint8_g32>", false});
}

static void int4_weights_and_low_rank_branches(void **state) {
    (void)state;
    check_model(&(recipe){"w4a8-svd32", "int4_two_level_g64", "kv<2x2x32xf32>", true});
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(int8_weights_and_cache),
                                       cmocka_unit_test(int4_weights_and_low_rank_branches)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
