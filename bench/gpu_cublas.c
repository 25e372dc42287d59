/* The few functions of cuBLASLt that the anchor needs, by their symbols; types and numbers as its interface has them since version 12. */
#include "gpu_cublas.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const cublas_names[CUBLAS_TYPES] = {"cublaslt int8", "cublaslt fp8", "cublaslt bf16"};

enum { /* data types, compute types, attributes */
       R_32F = 0,
       R_8I = 3,
       R_32I = 10,
       R_16BF = 14,
       R_8F_E4M3 = 28,
       COMPUTE_32F = 68,
       COMPUTE_32I = 72,
       DESC_TRANSA = 3,
       DESC_A_SCALE = 17,
       DESC_B_SCALE = 18,
       DESC_FAST_ACCUMULATION = 25,
       PREFERENCE_WORKSPACE = 1,
       OP_TRANSPOSE = 1,
};

typedef struct heuristic { /* cublasLtMatmulHeuristicResult_t */
    uint64_t algorithm[8];
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
} heuristic;
_Static_assert(sizeof(heuristic) == 96, "as the library lays it out");

#define FUNCTIONS(X)                                                                                         \
    X(create, "cublasLtCreate", (void **handle))                                                             \
    X(destroy, "cublasLtDestroy", (void *handle))                                                            \
    X(desc_create, "cublasLtMatmulDescCreate", (void **desc, int compute, int scale))                        \
    X(desc_set, "cublasLtMatmulDescSetAttribute", (void *desc, int which, const void *value, size_t size))   \
    X(desc_destroy, "cublasLtMatmulDescDestroy", (void *desc))                                               \
    X(layout_create, "cublasLtMatrixLayoutCreate",                                                           \
      (void **layout, int type, uint64_t rows, uint64_t cols, int64_t stride))                               \
    X(layout_destroy, "cublasLtMatrixLayoutDestroy", (void *layout))                                         \
    X(preference_create, "cublasLtMatmulPreferenceCreate", (void **preference))                              \
    X(preference_set, "cublasLtMatmulPreferenceSetAttribute",                                                \
      (void *preference, int which, const void *value, size_t size))                                         \
    X(preference_destroy, "cublasLtMatmulPreferenceDestroy", (void *preference))                             \
    X(heuristics, "cublasLtMatmulAlgoGetHeuristic",                                                          \
      (void *handle, void *desc, void *a, void *b, void *c, void *d, void *preference, int wanted,           \
       heuristic *found, int *n_found))                                                                      \
    X(matmul, "cublasLtMatmul",                                                                              \
      (void *handle, void *desc, const void *alpha, cu_address a, void *a_layout, cu_address b,              \
       void *b_layout, const void *beta, cu_address c, void *c_layout, cu_address d, void *d_layout,         \
       const void *algorithm, cu_address workspace, size_t size, cu_stream stream))

struct cublas {
    gpu *g;
    void *library, *handle;
    cu_address workspace, one;
#define FIELD(ident, symbol, args) int(*ident) args;
    FUNCTIONS(FIELD)
#undef FIELD
};

enum { WORKSPACE = 64 << 20, TRIED = 16 };

static void must(int status, const char *what) {
    if (status == 0) return;
    fprintf(stderr, "cublasLt: %s failed with status %d\n", what, status);
    exit(1);
}

cublas *cublas_open(gpu *g) {
    static const char *const names[] = {"libcublasLt.so.13", "/usr/local/cuda/lib64/libcublasLt.so.13",
                                        "libcublasLt.so.12", "/usr/local/cuda/lib64/libcublasLt.so.12"};
    const char *given = getenv("SYL_CUBLASLT");
    void *library = given ? dlopen(given, RTLD_NOW | RTLD_LOCAL) : NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names && !library && !given; i++)
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "no cuBLASLt: %s\n", dlerror());
        return NULL;
    }
    cublas *c = calloc(1, sizeof *c);
    if (!c) abort();
    c->g = g;
    c->library = library;
    bool all = true;
#define FIND(ident, symbol, args)                                                                            \
    *(void **)&c->ident = dlsym(library, symbol);                                                            \
    all &= c->ident != NULL;
    FUNCTIONS(FIND)
#undef FIND
    if (!all) {
        fprintf(stderr, "cuBLASLt lacks a function\n");
        free(c);
        return NULL;
    }
    int status = c->create(&c->handle);
    if (status != 0) {
        fprintf(stderr, "no cuBLASLt: creating a handle failed with status %d\n", status);
        free(c);
        return NULL;
    }
    float one = 1;
    c->workspace = gpu_alloc(g, WORKSPACE);
    c->one = gpu_alloc(g, sizeof one);
    gpu_put(g, c->one, &one, sizeof one);
    return c;
}

void cublas_close(cublas *c) {
    if (!c) return;
    must(c->destroy(c->handle), "destroying a handle");
    gpu_free(c->g, c->workspace);
    gpu_free(c->g, c->one);
    free(c); /* the library stays: it has threads and registered itself with the driver */
}

static int run_with(const cublas_plan *p, const void *algorithm, cu_address x, cu_address w, cu_address y) {
    static const int32_t int_one = 1, int_zero = 0;
    static const float one = 1, zero = 0;
    const void *alpha = p->type == CUBLAS_I8 ? (const void *)&int_one : &one,
               *beta = p->type == CUBLAS_I8 ? (const void *)&int_zero : &zero;
    cublas *c = p->c;
    return c->matmul(c->handle, p->desc, alpha, w, p->w_layout, x, p->x_layout, beta, y, p->y_layout, y,
                     p->y_layout, algorithm, c->workspace, WORKSPACE, c->g->stream);
}

void cublas_run(const cublas_plan *plan, cu_address x, cu_address w, cu_address y) {
    must(run_with(plan, plan->algorithm, x, w, y), "a product");
}

/* The library is column-major: y^T[N, M] = w x^T, with w as a transposed [K, N] matrix. */
static void describe(cublas_plan *p, int64_t m, int64_t n, int64_t k) {
    static const int inputs[] = {R_8I, R_8F_E4M3, R_16BF}, outputs[] = {R_32I, R_16BF, R_16BF};
    cublas *c = p->c;
    bool integer = p->type == CUBLAS_I8;
    must(c->desc_create(&p->desc, integer ? COMPUTE_32I : COMPUTE_32F, integer ? R_32I : R_32F),
         "a descriptor");
    int transpose = OP_TRANSPOSE;
    must(c->desc_set(p->desc, DESC_TRANSA, &transpose, sizeof transpose), "setting the transposition");
    if (p->type == CUBLAS_E4M3) {
        int8_t fast = 1;
        must(c->desc_set(p->desc, DESC_FAST_ACCUMULATION, &fast, sizeof fast), "setting fast accumulation");
        must(c->desc_set(p->desc, DESC_A_SCALE, &c->one, sizeof c->one), "setting a scale");
        must(c->desc_set(p->desc, DESC_B_SCALE, &c->one, sizeof c->one), "setting a scale");
    }
    must(c->layout_create(&p->w_layout, inputs[p->type], (uint64_t)k, (uint64_t)n, k), "a layout");
    must(c->layout_create(&p->x_layout, inputs[p->type], (uint64_t)k, (uint64_t)m, k), "a layout");
    must(c->layout_create(&p->y_layout, outputs[p->type], (uint64_t)n, (uint64_t)m, n), "a layout");
}

typedef struct attempt {
    const cublas_plan *plan;
    const heuristic *h;
    cu_address x, w, y;
} attempt;

static void run_attempt(void *user, int round) {
    const attempt *a = user;
    (void)round;
    must(run_with(a->plan, a->h->algorithm, a->x, a->w, a->y), "a product");
}

bool cublas_choose(cublas *c, cublas_type type, int64_t m, int64_t n, int64_t k, cu_address x, cu_address w,
                   cu_address y, cublas_plan *out) {
    heuristic found[TRIED];
    int n_found = 0;
    void *preference;
    *out = (cublas_plan){.c = c, .type = type};
    describe(out, m, n, k);
    size_t workspace = WORKSPACE;
    must(c->preference_create(&preference), "a preference");
    must(c->preference_set(preference, PREFERENCE_WORKSPACE, &workspace, sizeof workspace), "the workspace");
    int status = c->heuristics(c->handle, out->desc, out->w_layout, out->x_layout, out->y_layout,
                               out->y_layout, preference, TRIED, found, &n_found);
    must(c->preference_destroy(preference), "dropping a preference");
    double best = 1e9;
    for (int i = 0; status == 0 && i < n_found; i++) {
        attempt a = {out, &found[i], x, w, y};
        if (found[i].state != 0 || run_with(out, found[i].algorithm, x, w, y) != 0) continue;
        cu_graph_exec graph = gpu_capture(c->g, run_attempt, &a, 3);
        double t = gpu_time_graph(c->g, graph), again = gpu_time_graph(c->g, graph);
        gpu_must(c->g, c->g->driver.graph_exec_destroy(graph), "dropping a graph");
        t = t < again ? t : again;
        out->tried++;
        if (t < best) {
            best = t;
            memcpy(out->algorithm, found[i].algorithm, sizeof out->algorithm);
        }
    }
    if (!out->tried) cublas_drop(out);
    return out->tried > 0;
}

void cublas_drop(cublas_plan *p) {
    must(p->c->desc_destroy(p->desc), "dropping a descriptor");
    void *layouts[] = {p->x_layout, p->w_layout, p->y_layout};
    for (int i = 0; i < 3; i++) must(p->c->layout_destroy(layouts[i]), "dropping a layout");
}
