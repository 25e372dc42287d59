/* A language model on the CUDA runtime, its kernels printed as CUDA C++ and run by the emulation of tests/cuda_emulation behind the driver of
 * tests/fake/cuda.c: the same logits as on the host. Floats only: the emulation has no tensor cores. */
#include <math.h>
#include "runtime_cuda_emulated.h"

int __real_syl_cuda_variants(const kir_kernel *kernel, const syl_cuda_target *target, int64_t rows,
                             syl_cuda_variant *out, int cap);
int __wrap_syl_cuda_variants(const kir_kernel *kernel, const syl_cuda_target *target, int64_t rows,
                             syl_cuda_variant *out, int cap);
/* Two variants of a kernel are enough: for up to 64 rows, and for more. */
int __wrap_syl_cuda_variants(const kir_kernel *kernel, const syl_cuda_target *target, int64_t rows,
                             syl_cuda_variant *out, int cap) {
    return __real_syl_cuda_variants(kernel, target, rows <= 64 ? 1 : 128, out, cap);
}

/* ---- the model ---- */

static const char ir[] =
    "module @float {\n"
    "  func @forward(%ids: tensor<Txi32>, %pos: tensor<Txi32>, %seq: tensor<Txi32>, %rows: tensor<Rxi32>, "
    "%kv: kv<1x1x16xf32>) -> (tensor<Rx40xf32>, kv<1x1x16xf32>) {\n"
    "    %table = materialized \"table\" : tensor<40x16xf32>\n"
    "    %w = materialized \"w\" : tensor<40x16xf32>\n"
    "    %v = materialized \"v\" : tensor<16x16xbf16>\n"
    "    %x = fused {slots = [0]} : tensor<Tx16xf32> {\n"
    "      %e = embedding %ids, %table : tensor<Tx16xf32>\n"
    "      yield %e\n"
    "    }\n"
    "    %y = fused {slots = [1]} : tensor<Tx16xf32> {\n"
    "      %m = linear %x, %v : tensor<Tx16xf32>\n"
    "      %z = add %m, %x : tensor<Tx16xf32>\n"
    "      yield %z\n"
    "    }\n"
    "    %kv1 = fused {slots = [-1]} : kv<1x1x16xf32> {\n"
    "      %c = kv_append %kv, %y, %x, %pos, %seq {layer = 0} : kv<1x1x16xf32>\n"
    "      yield %c\n"
    "    }\n"
    "    %a = fused {slots = [2]} : tensor<Tx16xf32> {\n"
    "      %b = attention %y, %kv1, %pos, %seq {heads = 1, layer = 0, scale = 0.25} : tensor<Tx16xf32>\n"
    "      yield %b\n"
    "    }\n"
    "    %last = fused {slots = [3]} : tensor<Rx16xf32> {\n"
    "      %t = take %a, %rows : tensor<Rx16xf32>\n"
    "      %s = silu %t : tensor<Rx16xf32>\n"
    "      yield %s\n"
    "    }\n"
    "    %logits = fused {slots = [-1]} : tensor<Rx40xf32> {\n"
    "      %l = linear %last, %w : tensor<Rx40xf32>\n"
    "      yield %l\n"
    "    }\n"
    "    return %logits, %kv1\n"
    "  }\n"
    "}\n";
enum { VOCAB = 40, WIDTH = 16, CONTEXT = 200, PROMPT = 90, NEW = 12 };

static const char *write_model(fixture *f) {
    const char *path = test_path(f, "float.syl");
    syl_source source = {"float.sir", ir, sizeof ir - 1};
    syl_artifact_info info = {"float", CONTEXT, "{\"name\": \"none\"}", "{}", NULL};
    syl_artifact_writer *writer;
    syl_module *module;
    float table[VOCAB * WIDTH], w[VOCAB * WIDTH];
    uint16_t v[WIDTH * WIDTH];
    for (int i = 0; i < VOCAB * WIDTH; i++) {
        table[i] = (float)(i * 37 % 101 - 50) / 16;
        w[i] = (float)(i * 53 % 97 - 48) / 24;
    }
    for (int i = 0; i < WIDTH * WIDTH; i++) {
        float x = (float)(i * 29 % 61 - 30) / 32;
        uint32_t bits;
        memcpy(&bits, &x, 4);
        v[i] = (uint16_t)(bits >> 16);
    }
    fixture_ok(f, syl_module_parse(&source, f->diag, &module));
    fixture_ok(f, syl_module_verify(module, f->diag));
    fixture_ok(f, syl_artifact_begin(path, module, &info, f->diag, &writer));
    fixture_ok(f, syl_artifact_write(writer, "table", 0, 0, table, sizeof table));
    fixture_ok(f, syl_artifact_write(writer, "w", 0, 0, w, sizeof w));
    fixture_ok(f, syl_artifact_write(writer, "v", 0, 0, v, sizeof v));
    fixture_ok(f, syl_artifact_commit(writer));
    syl_module_destroy(module);
    return path;
}

static bool collect(void *user, int32_t id) {
    int32_t **next = user;
    *(*next)++ = id;
    return true;
}

typedef struct numbers {
    float logits[VOCAB], cut[VOCAB];
    int32_t ids[NEW];
} numbers;

static void run_on(fixture *f, const char *path, const char *device, numbers *out) {
    syl_engine_options options = {.device = device};
    syl_context_options context = {.sequences = 2};
    syl_engine *engine;
    syl_lm lm;
    const float *logits;
    int32_t prompt[PROMPT], *next = out->ids;
    for (int i = 0; i < PROMPT; i++) prompt[i] = i * 7 % VOCAB;
    fixture_ok(f, syl_engine_load(path, &options, f->pool, f->diag, &engine));
    fixture_ok(f, syl_lm_create(engine, f->pool, &context, f->diag, &lm));
    fixture_ok(f, syl_lm_prefill(&lm, 0, prompt, PROMPT, f->diag, &logits));
    memcpy(out->logits, logits, sizeof out->logits);
    for (int done = 0; done < PROMPT; done += 30) /* other cuts, another sequence */
        fixture_ok(f, syl_lm_prefill(&lm, 1, prompt + done, 30, f->diag, &logits));
    memcpy(out->cut, logits, sizeof out->cut);
    syl_generate_options generate = {
        .max_tokens = NEW, .sampling = {.top_p = 1}, .token = collect, .user = &next};
    syl_generation g;
    fixture_ok(f, syl_lm_generate(&lm, prompt, PROMPT, &generate, f->diag, &g));
    assert_int_equal(g.new_tokens, NEW);
    syl_lm_destroy(&lm);
    syl_engine_destroy(engine);
}

static void the_host_and_the_device_agree(void **state) {
    (void)state;
    static numbers host, device;
    fixture f;
    fixture_open(&f, 1);
    fake_cuda_state *gpu = emulated_gpu();
    const char *path = write_model(&f);
    run_on(&f, path, "cpu", &host);
    run_on(&f, path, "cuda", &device);
    fake_gpu_check(gpu);
    assert_true(gpu->graph_launches > NEW / 2);
    assert_memory_equal(device.logits, device.cut,
                        sizeof device.logits); /* bits don't depend on how a prompt is cut */
    double largest = 0, error = 0;
    for (int i = 0; i < VOCAB; i++) {
        double difference = fabs((double)host.logits[i] - (double)device.logits[i]);
        if (fabs((double)host.logits[i]) > largest) largest = fabs((double)host.logits[i]);
        if (!(difference <= error)) error = difference;
    }
    print_message("largest difference %g of %g\n", error, largest);
    assert_true(error <= 1e-5 * largest);
    assert_memory_equal(host.ids, device.ids, sizeof host.ids);
    fixture_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_host_and_the_device_agree)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
