/* Speed of GEMM on a GPU: ours in every scheme, cuBLASLt and a device-to-device copy, interleaved in one process.
 *
 *     gpu_gemm [--shape NAME] [--m LIST] [--scheme NAME] [--variant TEXT] [--all] [--more N] [--rounds N] [--threads N] [--json FILE]
 *
 * Shapes are those of an 8B model. Weights rotate through copies larger than the L2 cache, numbers are random and bell-shaped, times are medians of
 * interleaved rounds, each a replay of a graph of several calls (kernels overlap there as in a model). Of our variants the cost
 * model's choice and the fastest of those tried are shown; --all tries every variant and prints each, --variant forces one ("gemm_mma
 * tokens=64 warps=4 stages=3", or the begin of it). The roofline is the larger of bytes (weights, activations and results once) over the
 * measured copy bandwidth and operations over the tensor cores' peak. */
#include <getopt.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/numeric.h"
#include "base/size.h"
#include "base/threads.h"
#include "gpu_cublas.h"
#include "run.h"

typedef struct shape {
    const char *name;
    int n, k;
} shape;
static const shape shapes[] = {
    {"qkv", 6144, 4096}, {"o", 4096, 4096}, {"gate_up", 28672, 4096}, {"down", 4096, 14336}};
typedef struct scheme {
    const char *name, *weight; /* weight NULL: bf16 by bf16 */
    int rank;
} scheme;
static const scheme schemes[] = {
    {"w8a8", "int8_channel", 0},
    {"w8a8-r32", "int8_channel", 32},
    {"w4a8", "int4_two_level_g128", 0},
    {"w4a8-r32", "int4_two_level_g128", 32},
    {"w4a8-channel", "int4_channel", 0},
    {"w4a8-channel-r32", "int4_channel", 32},
    {"bf16", NULL, 0},
};
enum {
    N_SHAPES = 4,
    N_SCHEMES = 7,
    MAX_M = 16,
    MAX_ROUNDS = 32,
    MAX_CONTENDERS = 2 * N_SCHEMES + CUBLAS_TYPES + 1
};
enum { ROTATED = 256 << 20, COPIED = 512 << 20 };

typedef struct settings {
    const char *shape, *scheme, *variant, *json;
    int64_t m[MAX_M];
    int n_m, more, rounds, threads;
    bool all;
} settings;

/* One of ours: a shape in a scheme. */
typedef struct ours {
    const shape *shape;
    const scheme *scheme;
    gpu_problem_spec spec;
    gpu_problem problem;
    gpu_run run;
    bool ready;
    size_t weight; /* the plan's number of the packed weight */
    cu_address *copies;
    int n_copies;
} ours;

typedef struct bench {
    settings set;
    gpu g;
    cublas *cublas;
    syl_arena arena;
    ours *list;
    int n_list;
    atomic_int next;
    cu_address x[CUBLAS_TYPES], w[CUBLAS_TYPES], y; /* of the anchors */
    size_t w_bytes;
    double copy_bandwidth;
    FILE *json;
    int n_json;
} bench;

/* ---- ours ---- */

static const char *module_text(syl_arena *arena, const shape *s, const scheme *c) {
    syl_text t = {.arena = arena};
    int n = s->n, k = s->k;
    syl_text_printf(&t, "module @gemm { func @forward(%%x: tensor<Tx%dxf32>) -> tensor<Tx%dxbf16> {\n", k, n);
    syl_text_printf(&t, "%%w = materialized \"w\" : tensor<%dx%dx%s>\n", n, k,
                    c->weight ? c->weight : "bf16");
    if (c->rank)
        syl_text_printf(&t,
                        "%%d = materialized \"d\" : tensor<%dx%dxbf16>\n%%u = materialized \"u\" : "
                        "tensor<%dx%dxbf16>\n%%t = linear %%x, %%d : tensor<Tx%dxbf16>\n",
                        c->rank, k, n, c->rank, c->rank);
    syl_text_printf(&t,
                    c->weight ? "%%q = quantize %%x : tensor<Tx%dxint8_token>\n"
                              : "%%q = cast %%x : tensor<Tx%dxbf16>\n",
                    k);
    if (c->rank)
        syl_text_printf(&t,
                        "%%s = linear %%t, %%u : tensor<Tx%dxf32>\n%%m = linear %%q, %%w : tensor<Tx%dxf32>\n"
                        "%%y = add %%m, %%s : tensor<Tx%dxbf16>\n",
                        n, n, n);
    else
        syl_text_printf(&t, "%%y = linear %%q, %%w : tensor<Tx%dxbf16>\n", n);
    syl_text_printf(&t, "return %%y } }\n");
    return t.p;
}

static size_t gemm_step(const ours *o) {
    return o->problem.plan->steps.n - 1;
}
static int gemm_kernel(const ours *o) {
    return o->problem.plan->steps.p[gemm_step(o)].kernel;
}

static bool begins_with(const syl_cuda_variant *variant, const char *wanted) {
    syl_arena arena;
    syl_arena_init(&arena);
    syl_text text = {.arena = &arena};
    syl_cuda_variant_print(variant, &text);
    bool yes = strncmp(text.p, wanted, strlen(wanted)) == 0;
    syl_arena_free(&arena);
    return yes;
}

static void prepare(bench *b, ours *o) {
    syl_status status = gpu_problem_create(&o->spec, &o->problem);
    o->run = (gpu_run){.g = &b->g, .problem = &o->problem};
    for (int i = 0; i < b->set.n_m && status == SYL_OK; i++)
        status = gpu_run_choose(&o->run, b->set.m[i], b->set.all || b->set.variant ? -1 : b->set.more, NULL);
    if (status != SYL_OK) {
        fprintf(stderr, "%s %s: %s\n", o->shape->name, o->scheme->name,
                o->problem.errors.p ? o->problem.errors.p : "no message");
        return;
    }
    for (size_t i = 0; i < o->problem.plan->weights.n; i++)
        if (o->problem.weights[i].size > o->problem.weights[o->weight].size) o->weight = i;
    o->ready = true;
}

static void *prepare_all(void *user) {
    bench *b = user;
    for (int i; (i = atomic_fetch_add(&b->next, 1)) < b->n_list;) prepare(b, &b->list[i]);
    return NULL;
}

/* The weight, again and again until it is larger than the cache. */
static void place(bench *b, ours *o) {
    gpu_run_create(&o->run);
    size_t size = o->problem.weights[o->weight].size;
    o->n_copies = (int)(ROTATED / size) + 1;
    o->copies = SYL_NEW_ARRAY(&b->arena, cu_address, (size_t)o->n_copies);
    o->copies[0] = o->run.weights[o->weight];
    for (int i = 1; i < o->n_copies; i++) {
        o->copies[i] = gpu_alloc(&b->g, size);
        gpu_must(&b->g, b->g.driver.copy(o->copies[i], o->copies[0], size, b->g.stream), "copying weights");
    }
    gpu_wait(&b->g);
}

static void take_away(bench *b, ours *o) {
    o->run.weights[o->weight] = o->copies[0];
    for (int i = 1; i < o->n_copies; i++) gpu_free(&b->g, o->copies[i]);
    gpu_run_destroy(&o->run);
}

/* ---- contenders ---- */

typedef struct contender {
    bench *b;
    const char *name;
    char variant[128];
    gpu_work *work;
    ours *o;
    gpu_kernel *kernel;
    cublas_plan plan;
    size_t w_bytes, n_copies; /* of the anchors' weights */
    int64_t m;
    double operations, bytes, peak;
    bool choice; /* the cost model's */
    cu_graph_exec graph;
    int calls;
    double times[MAX_ROUNDS], seconds;
} contender;

static void run_ours(void *user, int round) {
    contender *c = user;
    c->o->run.weights[c->o->weight] = c->o->copies[round % c->o->n_copies];
    gpu_run_step(&c->o->run, gemm_step(c->o), c->m, c->kernel);
}

static void run_cublas(void *user, int round) {
    contender *c = user;
    cublas_type t = c->plan.type;
    cublas_run(&c->plan, c->b->x[t], c->b->w[t] + (cu_address)((size_t)round % c->n_copies) * c->w_bytes,
               c->b->y);
}

static void run_copy(void *user, int round) {
    contender *c = user;
    (void)round;
    gpu_must(&c->b->g, c->b->g.driver.copy(c->b->y, c->b->w[0], COPIED, c->b->g.stream), "copying");
}

/* A graph of about 2 ms, at least 4 calls and at most 64; its first launches warm it up. */
static void start(contender *c) {
    gpu *g = &c->b->g;
    cu_graph_exec first = gpu_capture(g, c->work, c, 4);
    gpu_time_graph(g, first);
    double t = gpu_time_graph(g, first) / 4;
    gpu_must(g, g->driver.graph_exec_destroy(first), "dropping a graph");
    c->calls = t > 5e-4 ? 4 : t < 2e-3 / 64 ? 64 : (int)(2e-3 / t) + 1;
    c->graph = gpu_capture(g, c->work, c, c->calls);
    gpu_time_graph(g, c->graph);
}

static double once(contender *c) {
    return gpu_time_graph(&c->b->g, c->graph) / c->calls;
}

static void stop(contender *c) {
    if (c->graph) gpu_must(&c->b->g, c->b->g.driver.graph_exec_destroy(c->graph), "dropping a graph");
    c->graph = NULL;
}

static double peak_of(const bench *b, bool eight_bits) { /* dense, vendor's datasheet, by multiprocessors */
    if (b->g.target.arch != 90) return 0;
    return (eight_bits ? 1979e12 : 989.5e12) * b->g.target.sms / 132;
}

static contender make_ours(bench *b, ours *o, int64_t m, gpu_kernel *kernel) {
    const shape *s = o->shape;
    double x = o->scheme->weight ? 1 : 2, rank = o->scheme->rank;
    contender c = {.b = b, .name = o->scheme->name, .work = run_ours, .o = o, .kernel = kernel, .m = m};
    c.operations = 2.0 * (double)m * s->n * s->k;
    c.bytes = (double)o->problem.weights[o->weight].size + x * (double)m * s->k + 2.0 * (double)m * s->n +
              2 * rank * (s->n + (double)m);
    c.peak = peak_of(b, o->scheme->weight != NULL);
    syl_text text = {.arena = &b->arena};
    syl_cuda_variant_print(&kernel->variant, &text);
    snprintf(c.variant, sizeof c.variant, "%s", text.p);
    return c;
}

static void print_json(bench *b, const shape *s, const contender *c, double lt_int8, const gpu_state *state) {
    if (!b->json) return;
    double floor = c->bytes / b->copy_bandwidth, compute = c->peak ? c->operations / c->peak : 0;
    fprintf(
        b->json,
        "%s\n  {\"shape\": \"%s\", \"n\": %d, \"k\": %d, \"m\": %lld, \"what\": \"%s\", \"variant\": \"%s\", "
        "\"choice\": %s, \"us\": %.3f, "
        "\"tops\": %.1f, \"gb_s\": %.0f, \"of_roofline\": %.3f, \"times_cublaslt_int8\": %.3f, "
        "\"sm_clock_mhz\": %.0f, \"power_w\": %.0f}",
        b->n_json++ ? "," : "", s->name, s->n, s->k, (long long)c->m, c->name, c->variant,
        c->choice ? "true" : "false", c->seconds * 1e6, c->operations / c->seconds * 1e-12,
        c->bytes / c->seconds * 1e-9, (compute > floor ? compute : floor) / c->seconds,
        lt_int8 > 0 ? lt_int8 / c->seconds : 0, state->sm_clock, state->power);
}

/* Tries the variants of one of ours for m rows; the cost model's first, then the fastest if it is another. Returns how many contenders. */
static int enter_ours(bench *b, ours *o, int64_t m, contender *out) {
    int fitting[GPU_MAX_VARIANTS], k = gemm_kernel(o), best = -1, first = -1, chosen[GPU_MAX_KERNELS] = {0};
    int n = gpu_run_variants(&o->run, k, m, fitting);
    double best_time = 1e9;
    for (size_t i = 0; i < gemm_step(o); i++) { /* the activation, as the GEMM reads it */
        int row_kernel = o->problem.plan->steps.p[i].kernel, all[GPU_MAX_VARIANTS];
        chosen[row_kernel] = gpu_run_variants(&o->run, row_kernel, m, all) ? all[0] : 0;
        gpu_run_step(&o->run, i, m, &o->run.choices[row_kernel].kernels[chosen[row_kernel]]);
    }
    for (int i = 0; i < n; i++) {
        gpu_kernel *kernel = &o->run.choices[k].kernels[fitting[i]];
        if (b->set.variant && !begins_with(&kernel->variant, b->set.variant)) continue;
        if (first < 0) first = fitting[i];
        contender c = make_ours(b, o, m, kernel);
        start(&c);
        double t = once(&c), again = once(&c);
        t = t < again ? t : again;
        stop(&c);
        if (b->set.all) printf("    %-18s %9.2f us  %s\n", c.name, t * 1e6, c.variant);
        if (t < best_time) best_time = t, best = fitting[i];
    }
    if (first < 0) return 0;
    int count = 0;
    out[count] = make_ours(b, o, m, &o->run.choices[k].kernels[first]);
    out[count++].choice = true;
    if (best != first) out[count++] = make_ours(b, o, m, &o->run.choices[k].kernels[best]);
    return count;
}

static int enter_anchors(bench *b, const shape *s, int64_t m, contender *out) {
    int n = 0;
    for (int type = 0; type < CUBLAS_TYPES && b->cublas; type++) {
        int size = type == CUBLAS_BF16 ? 2 : 1, out_size = type == CUBLAS_I8 ? 4 : 2;
        contender c = {.b = b, .name = cublas_names[type], .work = run_cublas, .m = m};
        if (!cublas_choose(b->cublas, (cublas_type)type, m, s->n, s->k, b->x[type], b->w[type], b->y,
                           &c.plan))
            continue;
        c.w_bytes = (size_t)s->n * (size_t)s->k * (size_t)size;
        c.n_copies = b->w_bytes / c.w_bytes ? b->w_bytes / c.w_bytes : 1;
        c.operations = 2.0 * (double)m * s->n * s->k;
        c.bytes = (double)c.w_bytes + (double)size * (double)m * s->k + (double)out_size * (double)m * s->n;
        c.peak = peak_of(b, type != CUBLAS_BF16);
        snprintf(c.variant, sizeof c.variant, "best of %d", c.plan.tried);
        out[n++] = c;
    }
    return n;
}

typedef struct gates { /* of the issue that asks for these figures */
    double w8a8, w4a8, rank, decode;
} gates;

static const contender *find(const contender *list, int n, const char *name) {
    const contender *best = NULL;
    for (int i = 0; i < n; i++)
        if (strcmp(list[i].name, name) == 0 && (!best || list[i].seconds < best->seconds)) best = &list[i];
    return best;
}

static void check_gates(bench *b, const contender *list, int n, int64_t m, gates *g) {
    const contender *lt = find(list, n, "cublaslt int8"), *w8 = find(list, n, "w8a8"),
                    *w4 = find(list, n, "w4a8");
    static const char *const pairs[][2] = {
        {"w8a8", "w8a8-r32"}, {"w4a8", "w4a8-r32"}, {"w4a8-channel", "w4a8-channel-r32"}};
    if (m >= 2048 && lt && w8 && lt->seconds / w8->seconds < g->w8a8) g->w8a8 = lt->seconds / w8->seconds;
    if (m >= 2048 && lt && w4 && lt->seconds / w4->seconds < g->w4a8) g->w4a8 = lt->seconds / w4->seconds;
    for (int i = 0; i < 3 && m >= 2048; i++) {
        const contender *plain = find(list, n, pairs[i][0]), *rank = find(list, n, pairs[i][1]);
        if (plain && rank && rank->seconds / plain->seconds > g->rank)
            g->rank = rank->seconds / plain->seconds;
    }
    if (m <= 16 && w4 && w4->o->problem.weights[w4->o->weight].size >= 25e6 &&
        w4->bytes / w4->seconds / b->copy_bandwidth < g->decode)
        g->decode = w4->bytes / w4->seconds / b->copy_bandwidth;
}

static void bench_point(bench *b, const shape *s, int64_t m, gates *g) {
    contender *list = calloc(MAX_CONTENDERS, sizeof *list);
    int n = 0, rounds = b->set.rounds;
    if (!list) abort();
    printf("%s %dx%d, M = %lld\n", s->name, s->n, s->k, (long long)m);
    for (int i = 0; i < b->n_list; i++)
        if (b->list[i].ready && b->list[i].shape == s) n += enter_ours(b, &b->list[i], m, list + n);
    n += enter_anchors(b, s, m, list + n);
    list[n++] = (contender){.b = b, .name = "copy", .work = run_copy, .m = m, .bytes = 2.0 * COPIED};
    for (int i = 0; i < n; i++) start(&list[i]);
    for (int r = 0; r < rounds; r++)
        for (int i = 0; i < n; i++) {
            contender *c = &list[(i + r) % n]; /* each round begins with another */
            c->times[r] = once(c);
        }
    gpu_state state = gpu_read_state();
    for (int i = 0; i < n; i++) list[i].seconds = gpu_median(list[i].times, rounds);
    b->copy_bandwidth = list[n - 1].bytes / list[n - 1].seconds;
    const contender *lt = find(list, n, "cublaslt int8");
    for (int i = 0; i < n; i++) {
        contender *c = &list[i];
        double floor = c->bytes / b->copy_bandwidth, compute = c->peak ? c->operations / c->peak : 0;
        if (compute > floor) floor = compute;
        printf("  %-18s %9.2f us %8.1f TOPS %7.0f GB/s %6.1f %% of roofline", c->name, c->seconds * 1e6,
               c->operations / c->seconds * 1e-12, c->bytes / c->seconds * 1e-9, 100 * floor / c->seconds);
        if (lt) printf("  %5.2f x Lt int8", lt->seconds / c->seconds);
        printf("  %s%s\n", c->variant, c->choice ? " (chosen)" : "");
        print_json(b, s, c, lt ? lt->seconds : 0, &state);
    }
    printf("  SM %.0f MHz, memory %.0f MHz, %.0f W\n", state.sm_clock, state.memory_clock, state.power);
    fflush(stdout);
    check_gates(b, list, n, m, g);
    for (int i = 0; i < n; i++) {
        stop(&list[i]);
        if (list[i].work == run_cublas) cublas_drop(&list[i].plan);
    }
    free(list);
}

/* ---- all ---- */

static settings read_settings(int argc, char **argv) {
    settings s = {.more = 4, .rounds = 7, .m = {1, 16, 256, 2048, 8192}, .n_m = 5};
    static const struct option options[] = {
        {"shape", required_argument, NULL, 's'},   {"m", required_argument, NULL, 'm'},
        {"scheme", required_argument, NULL, 'c'},  {"variant", required_argument, NULL, 'v'},
        {"all", no_argument, NULL, 'a'},           {"more", required_argument, NULL, 'o'},
        {"rounds", required_argument, NULL, 'r'},  {"json", required_argument, NULL, 'j'},
        {"threads", required_argument, NULL, 't'}, {0},
    };
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 's') s.shape = optarg;
        if (c == 'c') s.scheme = optarg;
        if (c == 'v') s.variant = optarg;
        if (c == 'a') s.all = true;
        if (c == 'o') s.more = atoi(optarg);
        if (c == 'r') s.rounds = atoi(optarg);
        if (c == 'j') s.json = optarg;
        if (c == 't') s.threads = atoi(optarg);
        if (c == 'm') {
            s.n_m = 0;
            for (char *p = strtok(optarg, ","); p && s.n_m < MAX_M; p = strtok(NULL, ","))
                s.m[s.n_m++] = atoll(p);
        }
        if (c == '?') exit(2);
    }
    if (s.rounds < 1 || s.rounds > MAX_ROUNDS || s.n_m == 0 || s.m[0] < 1) {
        fprintf(stderr, "gpu_gemm: 1 to %d rounds, and at least one number of rows\n", MAX_ROUNDS);
        exit(2);
    }
    return s;
}

/* Bell-shaped numbers of a type of the anchors; the same 32 MiB again and again. */
static void fill_random(gpu *g, cublas_type type, cu_address to, size_t size) {
    enum { CHUNK = 32 << 20 };
    unsigned char *data = malloc(CHUNK);
    uint64_t state = 1;
    if (!data) abort();
    for (size_t i = 0; i < CHUNK;) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        uint64_t z = state >> 24;
        int sum = (int)(z & 63) + (int)(z >> 8 & 63) + (int)(z >> 16 & 63) + (int)(z >> 24 & 63) - 126;
        if (type == CUBLAS_BF16) {
            uint16_t word = syl_bf16_from_f32((float)sum / 64);
            memcpy(data + i, &word, 2);
            i += 2;
        } else {
            int size_bits = abs(sum) * 63 / 126; /* FP8: a sign, and a magnitude below 2 */
            data[i++] = (unsigned char)(type == CUBLAS_I8 ? sum : (sum < 0) << 7 | size_bits);
        }
    }
    for (size_t at = 0; at < size; at += CHUNK)
        gpu_put(g, to + at, data, size - at < CHUNK ? size - at : CHUNK);
    free(data);
}

static void list_ours(bench *b) {
    int64_t most = 0;
    for (int i = 0; i < b->set.n_m; i++) most = b->set.m[i] > most ? b->set.m[i] : most;
    b->list = SYL_NEW_ARRAY(&b->arena, ours, N_SHAPES * N_SCHEMES);
    for (int s = 0; s < N_SHAPES; s++)
        for (int c = 0; c < N_SCHEMES; c++) {
            if (b->set.shape && strcmp(b->set.shape, shapes[s].name) != 0) continue;
            if (b->set.scheme && strcmp(b->set.scheme, schemes[c].name) != 0) continue;
            ours *o = &b->list[b->n_list++];
            *o = (ours){.shape = &shapes[s], .scheme = &schemes[c]};
            o->spec = (gpu_problem_spec){
                .name = syl_arena_printf(&b->arena, "%s %s", shapes[s].name, schemes[c].name),
                .text = module_text(&b->arena, &shapes[s], &schemes[c]),
                .max_rows = most,
                .multiple = 1,
                .others = 1,
                .noise = true,
                .exact = false};
        }
}

int main(int argc, char **argv) {
    static bench b;
    syl_arena_init(&b.arena);
    b.set = read_settings(argc, argv);
    gpu_open(&b.g, NULL);
    list_ours(&b);
    if (!b.n_list) {
        fprintf(stderr, "gpu_gemm: no shape or scheme of that name\n");
        return 2;
    }
    int n = b.set.threads ? b.set.threads : syl_cpu_count();
    pthread_t threads[64];
    if (n > 64) n = 64;
    for (int i = 0; i < n; i++)
        if (pthread_create(&threads[i], NULL, prepare_all, &b) != 0) abort();
    for (int i = 0; i < n; i++) pthread_join(threads[i], NULL);
    if (b.set.json && !(b.json = fopen(b.set.json, "w"))) fprintf(stderr, "cannot write %s\n", b.set.json);
    if (b.json) {
        fprintf(b.json, "{\"what\": \"gemm\", ");
        gpu_print_machine(&b.g, b.json);
        fprintf(b.json, ",\n \"points\": [");
    }
    gates g = {1e9, 1e9, 0, 1e9};
    gpu_enter(&b.g);
    b.cublas = cublas_open(&b.g);
    b.w_bytes = 512 << 20;
    size_t x_bytes = (size_t)b.list[0].spec.max_rows * 14336 * 2,
           y_bytes = (size_t)b.list[0].spec.max_rows * 28672 * 4;
    for (int t = 0; t < CUBLAS_TYPES; t++) {
        b.x[t] = gpu_alloc(&b.g, x_bytes);
        b.w[t] = gpu_alloc(&b.g, b.w_bytes);
        fill_random(&b.g, (cublas_type)t, b.x[t], x_bytes);
        fill_random(&b.g, (cublas_type)t, b.w[t], b.w_bytes);
    }
    b.y = gpu_alloc(&b.g, y_bytes > COPIED ? y_bytes : COPIED);
    for (int s = 0; s < N_SHAPES; s++) {
        bool any = false;
        for (int i = 0; i < b.n_list; i++)
            if (b.list[i].shape == &shapes[s] && b.list[i].ready) place(&b, &b.list[i]), any = true;
        for (int i = 0; i < b.set.n_m && any; i++) bench_point(&b, &shapes[s], b.set.m[i], &g);
        for (int i = 0; i < b.n_list; i++)
            if (b.list[i].shape == &shapes[s] && b.list[i].ready) take_away(&b, &b.list[i]);
    }
    cublas_close(b.cublas);
    for (int t = 0; t < CUBLAS_TYPES; t++) {
        gpu_free(&b.g, b.x[t]);
        gpu_free(&b.g, b.w[t]);
    }
    gpu_free(&b.g, b.y);
    gpu_leave(&b.g);
    if (g.w8a8 < 1e9) printf("w8a8, M >= 2048: at least %.2f x cuBLASLt int8 (wanted 0.70)\n", g.w8a8);
    if (g.w4a8 < 1e9) printf("w4a8, M >= 2048: at least %.2f x cuBLASLt int8 (wanted 0.70)\n", g.w4a8);
    if (g.rank > 0) printf("rank 32, M >= 2048: at most %.1f %% more time (wanted 8)\n", 100 * (g.rank - 1));
    if (g.decode < 1e9)
        printf("w4a8 decode, weights >= 25 MB: at least %.1f %% of copy bandwidth (wanted 60)\n",
               100 * g.decode);
    bool failed = false;
    for (int i = 0; i < b.n_list; i++) {
        failed |= !b.list[i].ready;
        gpu_problem_destroy(&b.list[i].problem);
    }
    if (b.json) {
        fprintf(b.json, "]}\n");
        fclose(b.json);
    }
    gpu_close(&b.g);
    syl_arena_free(&b.arena);
    return failed;
}
