/* The tuner's inputs under real kernels: printed as CUDA C++ and run by the emulation of tests/cuda_emulation behind the driver of
 * tests/fake/cuda.c. Variants agree to the bit, on every kind of buffer that a language model in floats has; and a kernel that is made to miscompute
 * is found. */
#include <dlfcn.h>
#include <pthread.h>
#include <sys/wait.h>
#include "codegen/cuda/compile.h"
#include "codegen/cuda/nvrtc.h"
#include "runtime/artifact.h"
#include "runtime/cuda/tune.h"
#include "fake_gpu.h"

typedef int emulated_function(const void *args, size_t size, const int64_t grid[3], int threads,
                              size_t shared);
typedef struct image {
    char hash[33]; /* of the source; "": the comparison */
    size_t buffers;
    emulated_function *function;
    syl_cuda_launch launch;
} image;
enum { MAX_IMAGES = 64 };
static image images[MAX_IMAGES];
static int n_images;
static const char *broken; /* the variant whose source is changed, or NULL */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- compiling: each source once ---- */

static emulated_function *build(const char *source, size_t n, int number) {
    char path[160], object[160];
    snprintf(path, sizeof path, "%s/%d.cc", test_folder, number);
    snprintf(object, sizeof object, "%s/%d.so", test_folder, number);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(source, 1, n, file), n);
    fclose(file);
    pid_t pid = fork();
    if (pid == 0) {
        execlp(SYL_CXX, SYL_CXX, "-std=c++17", "-O1", "-w", "-fPIC", "-shared", "-ffp-contract=off",
               "-U_FORTIFY_SOURCE", "-I" SYL_SOURCE_DIR "/tests/cuda_emulation", "-o", object, path,
               (char *)NULL);
        _exit(127);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    void *library = dlopen(object, RTLD_NOW | RTLD_LOCAL);
    if (!library) fail_msg("%s", dlerror());
    emulated_function *function;
    *(void **)&function = dlsym(library, "emulated");
    return function;
}

/* The broken variant's sums are off by the last bit now and then: the least that a variant can do wrong. */
static void print_source(const syl_cuda_job *job, const syl_cuda_target *target, syl_diag *diag,
                         syl_text *out, syl_cuda_launch *launch) {
    syl_text variant = {.arena = out->arena};
    syl_text_printf(out, "#include \"emulation.hpp\"\n");
    assert_int_equal(syl_cuda_source(job->kernel, target, &job->variant, diag, out, launch), SYL_OK);
    syl_text_printf(out, "\nEMULATED_KERNEL(emulated, %s, %d)\n", launch->entry,
                    launch->cluster_z > 1 ? launch->cluster_z : 1);
    syl_cuda_variant_print(&job->variant, &variant);
    if (!broken || strcmp(broken, variant.p) != 0) return;
    const char *text = syl_arena_strdup(out->arena, out->p), *sums = strstr(text, "gemm_simt.cuh ----");
    assert_non_null(sums);
    out->n = (size_t)(sums - text);
    for (const char *at; (at = strstr(sums, "__fmaf_rn(")); sums = at + 2) {
        syl_text_append(out, sums, (size_t)(at - sums));
        syl_text_printf(out, "1.0000001f * __");
    }
    syl_text_printf(out, "%s", sums);
}

static image *image_of(const syl_cuda_job *job, const syl_cuda_target *target, syl_diag *diag) {
    syl_arena arena;
    syl_arena_init(&arena);
    syl_text source = {.arena = &arena};
    syl_cuda_launch launch;
    print_source(job, target, diag, &source, &launch);
    syl_hash hash = syl_hash_bytes(source.p, source.n);
    pthread_mutex_lock(&lock);
    image *found = NULL;
    for (int i = 0; i < n_images && !found; i++)
        if (strcmp(images[i].hash, hash.hex) == 0) found = &images[i];
    if (!found) {
        assert_true(n_images < MAX_IMAGES);
        found = &images[n_images];
        *found = (image){.buffers = job->kernel->buffers.n, .launch = launch};
        memcpy(found->hash, hash.hex, sizeof found->hash);
        found->function = build(source.p, source.n, n_images++);
    }
    pthread_mutex_unlock(&lock);
    syl_arena_free(&arena);
    return found;
}

static syl_cuda_binaries *binaries_of(size_t n) {
    syl_cuda_binaries *b = calloc(1, sizeof *b);
    b->codes = calloc(n, sizeof *b->codes);
    b->n = n;
    return b;
}

syl_status __wrap_syl_cuda_compile(const syl_cuda_job *jobs, size_t n, const syl_cuda_target *target,
                                   const syl_cuda_compile_options *options, syl_diag *diag,
                                   syl_cuda_binaries **out);
syl_status __wrap_syl_cuda_compile(const syl_cuda_job *jobs, size_t n, const syl_cuda_target *target,
                                   const syl_cuda_compile_options *options, syl_diag *diag,
                                   syl_cuda_binaries **out) {
    (void)options;
    *out = binaries_of(n);
    for (size_t i = 0; i < n; i++) {
        const image *code = image_of(&jobs[i], target, diag);
        (*out)->codes[i].code = code;
        (*out)->codes[i].launch = code->launch;
    }
    return SYL_OK;
}
syl_status __wrap_syl_cuda_compile_texts(const syl_cuda_text *texts, size_t n,
                                         const syl_cuda_compile_options *options, syl_diag *diag,
                                         syl_cuda_binaries **out);
syl_status __wrap_syl_cuda_compile_texts(const syl_cuda_text *texts, size_t n,
                                         const syl_cuda_compile_options *options, syl_diag *diag,
                                         syl_cuda_binaries **out) {
    static const image comparison;
    (void)texts, (void)options, (void)diag;
    *out = binaries_of(n);
    for (size_t i = 0; i < n; i++) (*out)->codes[i].code = &comparison;
    return SYL_OK;
}
void __wrap_syl_cuda_binaries_destroy(syl_cuda_binaries *binaries);
void __wrap_syl_cuda_binaries_destroy(syl_cuda_binaries *binaries) {
    if (binaries) free(binaries->codes);
    free(binaries);
}
syl_status __wrap_syl_nvrtc_find(syl_arena *arena, syl_diag *diag, syl_nvrtc_place *out);
syl_status __wrap_syl_nvrtc_find(syl_arena *arena, syl_diag *diag, syl_nvrtc_place *out) {
    (void)arena, (void)diag;
    *out = (syl_nvrtc_place){.path = "/libnvrtc.so", .identity = "build 1", .major = 13};
    return SYL_OK;
}
syl_status __wrap_syl_nvrtc_open(const syl_nvrtc_place *place, syl_diag *diag, syl_nvrtc **out);
syl_status __wrap_syl_nvrtc_open(const syl_nvrtc_place *place, syl_diag *diag, syl_nvrtc **out) {
    (void)place, (void)diag;
    *out = NULL;
    return SYL_OK;
}
void __wrap_syl_nvrtc_close(syl_nvrtc *nvrtc);
void __wrap_syl_nvrtc_close(syl_nvrtc *nvrtc) {
    (void)nvrtc;
}

/* ---- running ---- */

static void compare(const uint64_t *p) {
    const uint32_t *a = (const uint32_t *)(uintptr_t)p[0], *b = (const uint32_t *)(uintptr_t)p[1];
    for (uint64_t i = 0; i < p[2]; i++) *(uint64_t *)(uintptr_t)p[3] += a[i] != b[i];
}

static void launch(void *user, const fake_launch *l) {
    (void)user;
    const image *code = l->image;
    const int64_t grid[3] = {l->grid[0], l->grid[1], l->grid[2]};
    if (!code->function)
        compare(l->parameter);
    else
        assert_int_equal(code->function(l->parameter, (code->buffers + 1) * sizeof(uint64_t) + 8, grid,
                                        (int)l->block[0], l->shared),
                         0);
}

/* ---- the model ---- */

static const char ir[] =
    "module @float {\n"
    "  func @forward(%ids: tensor<Txi32>, %pos: tensor<Txi32>, %seq: tensor<Txi32>, %rows: tensor<Rxi32>, "
    "%kv: kv<1x1x16xf32>) -> (tensor<Rx40xf32>, kv<1x1x16xf32>) {\n"
    "    %table = materialized \"table\" : tensor<40x16xf32>\n"
    "    %v = materialized \"v\" : tensor<40x16xbf16>\n"
    "    %x = fused {slots = [0]} : tensor<Tx16xf32> {\n"
    "      %e = embedding %ids, %table : tensor<Tx16xf32>\n"
    "      yield %e\n"
    "    }\n"
    "    %kv1 = fused {slots = [-1]} : kv<1x1x16xf32> {\n"
    "      %c = kv_append %kv, %x, %x, %pos, %seq {layer = 0} : kv<1x1x16xf32>\n"
    "      yield %c\n"
    "    }\n"
    "    %a = fused {slots = [1]} : tensor<Tx16xf32> {\n"
    "      %b = attention %x, %kv1, %pos, %seq {heads = 1, layer = 0, scale = 0.25} : tensor<Tx16xf32>\n"
    "      yield %b\n"
    "    }\n"
    "    %last = fused {slots = [2]} : tensor<Rx16xf32> {\n"
    "      %t = take %a, %rows : tensor<Rx16xf32>\n"
    "      %s = silu %t : tensor<Rx16xf32>\n"
    "      yield %s\n"
    "    }\n"
    "    %logits = fused {slots = [-1]} : tensor<Rx40xf32> {\n"
    "      %l = linear %last, %v : tensor<Rx40xf32>\n"
    "      yield %l\n"
    "    }\n"
    "    return %logits, %kv1\n"
    "  }\n"
    "}\n";
enum { VOCAB = 40, WIDTH = 16 };

static const char *write_model(fixture *f) {
    const char *path = test_path(f, "float.syl");
    syl_source source = {"float.sir", ir, sizeof ir - 1};
    syl_artifact_info info = {"float", 200, "{\"name\": \"none\"}", "{}", NULL};
    syl_artifact_writer *writer;
    syl_module *module;
    float table[VOCAB * WIDTH];
    uint16_t v[VOCAB * WIDTH];
    for (int i = 0; i < VOCAB * WIDTH; i++) {
        table[i] = (float)(i * 37 % 101 - 50) / 48;
        float x = (float)(i * 29 % 61 - 30) / 31;
        uint32_t bits;
        memcpy(&bits, &x, 4);
        v[i] = (uint16_t)(bits >> 16);
    }
    fixture_ok(f, syl_module_parse(&source, f->diag, &module));
    fixture_ok(f, syl_module_verify(module, f->diag));
    fixture_ok(f, syl_artifact_begin(path, module, &info, f->diag, &writer));
    fixture_ok(f, syl_artifact_write(writer, "table", 0, 0, table, sizeof table));
    fixture_ok(f, syl_artifact_write(writer, "v", 0, 0, v, sizeof v));
    fixture_ok(f, syl_artifact_commit(writer));
    syl_module_destroy(module);
    return path;
}

typedef struct seen {
    int units, several, wrong;
} seen;

static void see(void *user, const syl_tune_unit_report *r) {
    seen *s = user;
    int good = 0;
    for (size_t i = 0; i < r->n; i++) {
        if (!r->row[i].measured) continue;
        good += r->row[i].state == SYL_TUNING_GOOD;
        s->wrong += r->row[i].state == SYL_TUNING_WRONG;
        if (r->row[i].state != SYL_TUNING_GOOD) print_message("%s: %s\n", r->row[i].variant, r->row[i].why);
    }
    s->units++;
    s->several += good > 1;
}

static void tune(fixture *f, const char *kernels, seen *s, syl_tune_stats *stats) {
    static const char *const names[] = {"tuning.db", "tuning.db-wal", "tuning.db-shm"};
    static const int64_t rows[] = {8};
    for (int i = 0; i < 3; i++) unlink(test_path(f, names[i]));
    *s = (seen){0};
    fake_cuda_state *gpu = fake_gpu_start(80, launch);
    gpu->l2 = 1024;
    const syl_tune_options options = {.device = "cuda",
                                      .cache_dir = test_folder,
                                      .budget = 600,
                                      .kernels = kernels,
                                      .rows = rows,
                                      .n_rows = 1,
                                      .limit = 60,
                                      .report = see,
                                      .user = s};
    fixture_ok(f, syl_cuda_tune(write_model(f), &options, f->pool, f->diag, stats));
    fake_gpu_check(gpu);
}

static void variants_agree_on_what_they_get(void **state) {
    (void)state;
    fixture f;
    seen s;
    syl_tune_stats stats;
    fixture_open(&f, 2);
    tune(&f, NULL, &s, &stats);
    assert_int_equal(stats.tuned, 5);
    assert_int_equal(stats.bad + s.wrong, 0);
    assert_true(s.several >= 4);
    fixture_close(&f);
}

static void a_changed_rounding_is_found(void **state) {
    (void)state;
    fixture f;
    seen s;
    syl_tune_stats stats;
    fixture_open(&f, 2);
    broken = "gemm_simt tile=64";
    tune(&f, "^linear$", &s, &stats);
    broken = NULL;
    assert_int_equal(s.wrong, 1);
    assert_int_equal(stats.tuned, 1);
    fixture_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(variants_agree_on_what_they_get),
        cmocka_unit_test(a_changed_rounding_is_found),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
