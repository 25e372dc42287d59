/* The choice of a token by the CUDA kernel (codegen/cuda/templates/choose.cuh), on a CPU emulation, against the host's (runtime/sample.h). */
#include <dlfcn.h>
#include <math.h>
#include <sys/wait.h>
#include "codegen/cuda/choose.h"
#include "base/file.h"
#include "runtime/sample.h"
#include "runtime_testing.h"

typedef int emulated_function(const void *args, size_t size, const int64_t grid[3], int threads,
                              size_t shared);

/* What the emulation of other kernels does not need. */
static const char more[] =
    "#include \"emulation.hpp\"\n"
    "static double exp(double x) { return __builtin_exp(x); }\n"
    "static double ceil(double x) { return __builtin_ceil(x); }\n"
    "template <typename T> static T __shfl_down_sync(unsigned, T x, int d) {\n"
    "    int lane = emulation::current % 32; return emulation::exchange(x, lane + d < 32 ? lane + d : lane); "
    "}\n"
    "template <typename T> static T __shfl_up_sync(unsigned, T x, int d) {\n"
    "    int lane = emulation::current % 32; return emulation::exchange(x, lane >= d ? lane - d : lane); }\n"
    "static bool __all_sync(unsigned mask, bool x) {\n"
    "    int all = x; for (int d = 16; d; d /= 2) all &= __shfl_xor_sync(mask, all, d); return all; }\n"
    "static void atomicAdd(unsigned long long *p, unsigned long long x) { *p += x; }\n"
    "static unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {\n"
    "    return (unsigned long long)((unsigned __int128)a * b >> 64); }\n"
    "static void __threadfence_system() {}\n";

static void *library;
static emulated_function *emulated;

static int build(void **state) {
    make_folder(state);
    fixture f;
    fixture_open(&f, 1);
    syl_text text = {.arena = &f.arena};
    syl_text_printf(&text, "%s%s\nusing Args = ChooseArgs;\nEMULATED_KERNEL(emulated, syl_choose, 1)\n", more,
                    syl_cuda_choose_source(&f.arena));
    char *source = syl_arena_strdup(&f.arena, test_path(&f, "choose.cc"));
    char *object = syl_arena_strdup(&f.arena, test_path(&f, "choose.so"));
    fixture_ok(&f, syl_file_write(source, text.p, text.n, f.diag));
    pid_t pid = fork();
    if (!pid) {
        execlp(SYL_CXX, SYL_CXX, "-std=c++17", "-O1", "-w", "-fPIC", "-shared", "-ffp-contract=off",
               "-U_FORTIFY_SOURCE", "-I" SYL_SOURCE_DIR "/tests/cuda_emulation", "-o", object, source,
               (char *)NULL);
        _exit(127);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    library = dlopen(object, RTLD_NOW | RTLD_LOCAL);
    if (!library) fail_msg("%s", dlerror());
    void *symbol = dlsym(library, "emulated");
    memcpy(&emulated, &symbol, sizeof symbol);
    fixture_close(&f);
    return 0;
}

typedef struct device {
    syl_cuda_choice state;
    int32_t id, ring[8];
} device;

static int32_t choose(device *d, const float *logits, int n) {
    syl_cuda_choose_args args = {.logits = (uint64_t)(uintptr_t)logits,
                                 .state = (uint64_t)(uintptr_t)&d->state,
                                 .ids = (uint64_t)(uintptr_t)&d->id,
                                 .ring = (uint64_t)(uintptr_t)d->ring,
                                 .n = n,
                                 .ring_size = 8};
    int64_t place = d->state.chosen % 8;
    assert_int_equal(
        emulated(&args, sizeof args, (int64_t[]){1, 1, 1}, SYL_CUDA_CHOOSE_THREADS, SYL_CUDA_CHOOSE_SHARED),
        0);
    assert_int_equal(d->state.token, d->ring[place]);
    if (d->state.token >= 0) assert_int_equal(d->state.token, d->id);
    return d->state.token;
}

static uint64_t mix(uint64_t x) {
    x = (x ^ x >> 31) * 0x7fb5d329728ea185u;
    return (x ^ x >> 27) * 0x81dadef4bc2dd44du;
}

/* Peaked, flat, with ties, with tokens that are excluded; zeros of both signs. */
static void fill(float *logits, int n, int kind, uint64_t seed) {
    for (int i = 0; i < n; i++) {
        double u = (double)(mix(seed * 1000003 + (uint64_t)i) >> 11) * 0x1p-53;
        logits[i] = kind == 0   ? (float)(-8 * log(u + 1e-9))
                    : kind == 1 ? (float)u
                    : kind == 2 ? (float)((int)(u * 5) - 2)
                                : (u < 0.7 ? -INFINITY : (float)(20 * u));
        if (kind == 2 && logits[i] == 0 && i % 2) logits[i] = -0.0f;
    }
    if (kind == 3) logits[n / 2] = 1; /* one is left */
}

static void draws_what_the_host_draws(void **state) {
    (void)state;
    static const syl_sampling options[] = {
        {.top_p = 1},
        {.temperature = 1, .top_p = 1, .seed = 5},
        {.temperature = 0.7, .top_k = 40, .top_p = 1, .seed = 1},
        {.temperature = 0.8, .top_k = 7, .top_p = 0.9, .seed = 2},
        {.temperature = 1.3, .top_p = 0.95, .seed = 3},
        {.temperature = 1, .top_k = 1, .top_p = 0.5, .seed = 4},
    };
    static float logits[3000];
    fixture f;
    fixture_open(&f, 1);
    const int sizes[] = {1, 33, 2999};
    for (size_t o = 0; o < sizeof options / sizeof *options; o++) {
        for (int c = 0; c < 12; c++) {
            int n = sizes[c / 4], kind = c % 4;
            syl_sampler *sampler;
            device d = {.state = {.temperature = options[o].temperature,
                                  .top_p = options[o].top_p,
                                  .top_k = options[o].top_k,
                                  .random = options[o].seed}};
            fixture_ok(&f, syl_sampler_create(&options[o], n, f.diag, &sampler));
            for (int i = 0; i < 3; i++) {
                int32_t expected;
                fill(logits, n, kind, (uint64_t)(c * 10 + i));
                fixture_ok(&f, syl_sampler_next(sampler, logits, f.diag, &expected));
                int32_t got = choose(&d, logits, n);
                if (got != expected)
                    fail_msg("options %zu, %d logits of kind %d, draw %d: %d (%g), expected %d (%g)", o, n,
                             kind, i, got, (double)logits[got], expected, (double)logits[expected]);
            }
            syl_sampler_destroy(sampler);
        }
    }
    fixture_close(&f);
}

static void logits_that_are_none(void **state) {
    (void)state;
    float logits[50];
    device d = {.state = {.temperature = 1, .top_p = 1}};
    for (int i = 0; i < 50; i++) logits[i] = -INFINITY;
    assert_int_equal(choose(&d, logits, 50), SYL_CUDA_CHOICE_NOTHING);
    fill(logits, 50, 0, 1);
    logits[49] = NAN;
    assert_int_equal(choose(&d, logits, 50), SYL_CUDA_CHOICE_NAN);
    logits[49] = INFINITY;
    assert_int_equal(choose(&d, logits, 50), SYL_CUDA_CHOICE_NAN);
}

static int drop(void **state) {
    if (library) dlclose(library);
    return remove_folder(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_what_the_host_draws),
        cmocka_unit_test(logits_that_are_none),
    };
    return cmocka_run_group_tests(tests, build, drop);
}
