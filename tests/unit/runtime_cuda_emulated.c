/* A language model on the CUDA runtime, its kernels printed as CUDA C++ and run by the emulation of tests/cuda_emulation behind the driver of
 * tests/fake/cuda.c: the same logits as on the host. Floats only: the emulation has no tensor cores. */
#include <dlfcn.h>
#include <math.h>
#include <sys/wait.h>
#include "../fake/cuda.h"
#include "base/file.h"
#include "codegen/cuda/choose.h"
#include "codegen/cuda/compile.h"
#include "runtime/lm.h"
#include "runtime/artifact.h"
#include "runtime_testing.h"

typedef int emulated_function(const void *args, size_t size, const int64_t grid[3], int threads,
                              size_t shared);
typedef struct image {
    const kir_kernel *kernel; /* NULL: the choice of a token */
    emulated_function *function;
} image;
enum { MAX_IMAGES = 64 };
static image images[MAX_IMAGES];
static int n_images;

/* ---- compiling ---- */

int __real_syl_cuda_variants(const kir_kernel *kernel, const syl_cuda_target *target, int64_t rows,
                             syl_cuda_variant *out, int cap);
int __wrap_syl_cuda_variants(const kir_kernel *kernel, const syl_cuda_target *target, int64_t rows,
                             syl_cuda_variant *out, int cap);
/* Two variants of a kernel are enough: for up to 64 rows, and for more. */
int __wrap_syl_cuda_variants(const kir_kernel *kernel, const syl_cuda_target *target, int64_t rows,
                             syl_cuda_variant *out, int cap) {
    return __real_syl_cuda_variants(kernel, target, rows <= 64 ? 1 : 128, out, cap);
}

static pid_t start_compiler(const char *source, const char *object) {
    pid_t pid = fork();
    if (pid) return pid;
    execlp(SYL_CXX, SYL_CXX, "-std=c++17", "-O1", "-w", "-fPIC", "-shared", "-ffp-contract=off",
           "-U_FORTIFY_SOURCE", "-I" SYL_SOURCE_DIR "/tests/cuda_emulation", "-o", object, source,
           (char *)NULL);
    _exit(127);
}

syl_status __wrap_syl_cuda_compile(const syl_cuda_job *jobs, size_t n, const syl_cuda_target *target,
                                   const syl_cuda_compile_options *options, syl_diag *diag,
                                   syl_cuda_binaries **out);
syl_status __wrap_syl_cuda_compile(const syl_cuda_job *jobs, size_t n, const syl_cuda_target *target,
                                   const syl_cuda_compile_options *options, syl_diag *diag,
                                   syl_cuda_binaries **out) {
    (void)options;
    pid_t pids[MAX_IMAGES];
    syl_arena arena;
    syl_arena_init(&arena);
    assert_true(n_images + (int)n <= MAX_IMAGES);
    *out = calloc(1, sizeof **out);
    (*out)->codes = calloc(n, sizeof *(*out)->codes);
    for (size_t i = 0; i < n; i++) {
        syl_text source = {.arena = &arena};
        syl_cuda_launch *launch = &(*out)->codes[i].launch;
        syl_text_printf(&source, "#include \"emulation.hpp\"\n");
        SYL_TRY(syl_cuda_source(jobs[i].kernel, target, &jobs[i].variant, diag, &source, launch));
        syl_text_printf(&source, "\nEMULATED_KERNEL(emulated, %s)\n", launch->entry);
        char *path = syl_arena_printf(&arena, "%s/%zu.cc", test_folder, i);
        SYL_TRY(syl_file_write(path, source.p, source.n, diag));
        pids[i] = start_compiler(path, syl_arena_printf(&arena, "%s/%zu.so", test_folder, i));
    }
    for (size_t i = 0; i < n; i++) {
        int status;
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
        void *library = dlopen(syl_arena_printf(&arena, "%s/%zu.so", test_folder, i), RTLD_NOW | RTLD_LOCAL);
        if (!library) fail_msg("%s", dlerror());
        images[n_images].kernel = jobs[i].kernel;
        *(void **)&images[n_images].function = dlsym(library, "emulated");
        (*out)->codes[i].code = &images[n_images++];
    }
    syl_arena_free(&arena);
    return SYL_OK;
}

syl_status __wrap_syl_cuda_compile_texts(const syl_cuda_text *texts, size_t n,
                                         const syl_cuda_compile_options *options, syl_diag *diag,
                                         syl_cuda_binaries **out);
syl_status __wrap_syl_cuda_compile_texts(const syl_cuda_text *texts, size_t n,
                                         const syl_cuda_compile_options *options, syl_diag *diag,
                                         syl_cuda_binaries **out) {
    (void)texts, (void)options, (void)diag;
    *out = calloc(1, sizeof **out);
    (*out)->codes = calloc(n, sizeof *(*out)->codes);
    for (size_t i = 0; i < n; i++) (*out)->codes[i].code = &images[n_images++];
    return SYL_OK;
}
void __wrap_syl_cuda_binaries_destroy(syl_cuda_binaries *binaries);
void __wrap_syl_cuda_binaries_destroy(syl_cuda_binaries *binaries) {
    if (binaries) free(binaries->codes);
    free(binaries);
}

/* ---- running ---- */

static void launch(void *user, const fake_launch *l) {
    (void)user;
    const image *code = l->image;
    if (!code->kernel) { /* its own test: runtime_cuda_choose.c */
        const syl_cuda_choose_args *a = (const void *)l->parameter;
        syl_cuda_choice *state = (syl_cuda_choice *)(uintptr_t)a->state;
        int32_t best = (int32_t)syl_argmax((const float *)(uintptr_t)a->logits, a->n);
        *(int32_t *)(uintptr_t)a->ids = best;
        ((int32_t *)(uintptr_t)a->ring)[state->chosen++ % a->ring_size] = best;
        return;
    }
    const int64_t grid[3] = {l->grid[0], l->grid[1], l->grid[2]};
    size_t size = (code->kernel->buffers.n + 1) * sizeof(uint64_t) + 8;
    assert_int_equal(code->function(l->parameter, size, grid, (int)l->block[0], l->shared), 0);
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
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    assert_non_null(library);
    fake_cuda_function *find;
    *(void **)&find = dlsym(library, "fake_cuda");
    fake_cuda_state *gpu = find();
    gpu->launch = launch;
    const char *path = write_model(&f);
    run_on(&f, path, "cpu", &host);
    run_on(&f, path, "cuda", &device);
    if (gpu->errors) fail_msg("%s", gpu->error);
    assert_int_equal(gpu->used, 0);
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
