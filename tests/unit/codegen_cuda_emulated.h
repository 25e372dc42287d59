/* Running printed CUDA kernels without a GPU: the source, with tests/cuda_emulation/emulation.hpp in front, goes through the C++ compiler that built the
 * project, and the shared object is loaded. All variants of a kernel are built at once. */
#ifndef SYL_TESTS_CODEGEN_CUDA_EMULATED_H
#define SYL_TESTS_CODEGEN_CUDA_EMULATED_H

#include "codegen_testing.h"
#include <dlfcn.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
#include "codegen/cuda/cuda.h"

typedef int emulated_function(const void *args, size_t size, const int64_t grid[3], int threads,
                              size_t shared);

enum { MAX_EMULATED = 24 };
typedef struct emulated {
    const kir_kernel *kernel;
    int n;
    struct {
        syl_cuda_variant variant;
        syl_cuda_launch launch;
        void *library;
        emulated_function *function;
    } variants[MAX_EMULATED];
} emulated;

static inline void write_text(const char *path, const char *text, size_t n) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static inline pid_t start_compiler(const char *source, const char *object) {
    pid_t pid = fork();
    if (pid) return pid;
    execlp(SYL_CXX, SYL_CXX, "-std=c++17", "-O1", "-w", "-fPIC", "-shared", "-ffp-contract=off",
           "-U_FORTIFY_SOURCE", "-I" SYL_SOURCE_DIR "/tests/cuda_emulation", "-o", object, source,
           (char *)NULL);
    _exit(127);
}

/* Variants that fit for `rows` rows; every `step`-th. */
static inline emulated emulate(const kir_kernel *kernel, const char *target_name, int64_t rows, int step) {
    emulated e = {.kernel = kernel};
    char dir[] = "/tmp/syl-emulated-XXXXXX";
    assert_non_null(mkdtemp(dir));
    syl_arena arena;
    syl_arena_init(&arena);
    syl_text errors = {.arena = &arena};
    syl_diag *diag = syl_diag_create(syl_diag_capture, &errors);
    syl_cuda_target target;
    assert_true(syl_cuda_target_named(target_name, &target));
    if (kir_verify(kernel, diag) != SYL_OK) fail_msg("%s", errors.p);
    syl_cuda_variant variants[128];
    int n = syl_cuda_variants(kernel, &target, rows, variants, 128);
    assert_true(n > 0);
    pid_t pids[MAX_EMULATED];
    for (int i = 0; i < n && e.n < MAX_EMULATED; i += step) {
        syl_text source = {.arena = &arena};
        syl_text_printf(&source, "#include \"emulation.hpp\"\n");
        e.variants[e.n].variant = variants[i];
        if (syl_cuda_source(kernel, &target, &variants[i], diag, &source, &e.variants[e.n].launch) != SYL_OK)
            fail_msg("%s", errors.p);
        syl_text_printf(&source, "\nEMULATED_KERNEL(emulated, %s, %d)\n", e.variants[e.n].launch.entry,
                        e.variants[e.n].launch.cluster_z > 1 ? e.variants[e.n].launch.cluster_z : 1);
        char *path = syl_arena_printf(&arena, "%s/%d.cc", dir, e.n);
        write_text(path, source.p, source.n);
        pids[e.n] = start_compiler(path, syl_arena_printf(&arena, "%s/%d.so", dir, e.n));
        e.n++;
    }
    for (int i = 0; i < e.n; i++) {
        int status;
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        char *object = syl_arena_printf(&arena, "%s/%d.so", dir, i);
        if (status)
            fail_msg("the C++ compiler does not take the source of kernel '%s' (%s)", kernel->name, object);
        e.variants[i].library = dlopen(object, RTLD_NOW | RTLD_LOCAL);
        if (!e.variants[i].library) fail_msg("%s", dlerror());
        void *symbol = dlsym(e.variants[i].library, "emulated");
        memcpy(&e.variants[i].function, &symbol, sizeof symbol);
        unlink(object);
        unlink(syl_arena_printf(&arena, "%s/%d.cc", dir, i));
    }
    rmdir(dir);
    syl_diag_destroy(diag);
    syl_arena_free(&arena);
    return e;
}

/* One launch of variant `v`; buffers in the kernel's order, KIR_CACHE: syl_cuda_kv_view *. */
static inline void run_emulated(const emulated *e, int v, void *const *buffers, int64_t rows,
                                int64_t positions) {
    const syl_cuda_launch *launch = &e->variants[v].launch;
    size_t n = e->kernel->buffers.n, size = (n + 1) * sizeof(void *) + 8;
    syl_cuda_grid grid = syl_cuda_grid_of(launch, rows, positions);
    size_t workspace_size = (size_t)syl_cuda_workspace_of(launch, rows, positions);
    unsigned char *args = calloc(1, size), *workspace = new_buffer(workspace_size);
    void *at = workspace;
    int32_t counts[2] = {(int32_t)rows, (int32_t)positions};
    memset(workspace + launch->counters, 0xff, workspace_size - (size_t)launch->counters);
    memcpy(args, buffers, n * sizeof(void *));
    memcpy(args + n * sizeof(void *), &at, sizeof at);
    memcpy(args + (n + 1) * sizeof(void *), counts, 8);
    assert_int_equal(e->variants[v].function(args, size, (int64_t[]){grid.x, grid.y, grid.z}, launch->threads,
                                             (size_t)launch->shared),
                     0);
    for (int64_t i = 0; i < launch->counters; i++) assert_int_equal(workspace[i], 0);
    check_slack(workspace, workspace_size);
    free(workspace);
    free(args);
}

static inline void drop_emulated(emulated *e) {
    for (int i = 0; i < e->n; i++) dlclose(e->variants[i].library);
}

/* Where element (i, j) of a tiled matrix lies, in elements. */
static inline int64_t tiled_index(int64_t i, int64_t j, int64_t rows, int bytes) {
    int64_t b = j * bytes;
    return (((b / 128) * ((rows + 7) / 8) + i / 8) * 1024 + i % 8 * 128 + (b / 16 % 8 ^ i % 8) * 16 +
            b % 16) /
           bytes;
}

#endif
