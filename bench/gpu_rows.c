/* Speed of the kernels that are bound by memory: transforms and quantization of rows, and attention of single tokens over a long cache, each
 * beside a device-to-device copy in the same rounds.
 *
 *     gpu_rows [--only TEXT] [--rows N] [--rounds N] [--all] [--json FILE]
 *
 * Row-wise kernels: the time over that of copying the input, which moves twice its bytes (the kernels write a quarter or half of it, so 1 is
 * not the floor). Attention: bytes of keys and values over the time, in shares of the copy's bandwidth. All variants are
 * tried; the cost model's choice and the fastest are shown, as medians of interleaved rounds of graphs. --all prints each variant. */
#include <getopt.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/threads.h"
#include "run.h"

enum { MAX_ITEMS = 48, MAX_ROUNDS = 32, N_OUT = 64 };

typedef struct item {
    char name[96];
    gpu_problem_spec spec;
    gpu_problem problem;
    gpu_run run;
    size_t step;  /* the one that is timed; those in front of it run once */
    double bytes; /* copied for comparison: the input, or keys and values */
    bool attention, ready;
} item;

typedef struct bench {
    gpu g;
    syl_arena arena;
    item items[MAX_ITEMS];
    int n_items, rounds;
    int64_t rows;
    bool all;
    const char *only, *json_path;
    atomic_int next;
    cu_address from, to;
    size_t copied;
    double worst_rows, worst_rank, worst_attention;
} bench;

/* ---- what is timed ---- */

static item *add(bench *b, const char *text, double bytes) {
    item *it = &b->items[b->n_items];
    if (b->n_items == MAX_ITEMS || (b->only && !strstr(it->name, b->only))) return NULL;
    it->spec.name = it->name;
    it->spec.text = text;
    it->spec.noise = true;
    it->spec.multiple = 1;
    it->bytes = bytes;
    b->n_items++;
    return it;
}

typedef enum prologue { PLAIN, NORM, GATED } prologue;

/* (norm | gated activation |) Hadamard, quantize (, project), for a small GEMM that is not timed. */
static void add_rows(bench *b, prologue what, const char *type, int k, const char *factors, int rank) {
    static const char *const names[] = {"hadamard+quantize", "norm+quantize", "silu*up+hadamard+quantize"};
    syl_text t = {.arena = &b->arena};
    int in = what == GATED ? 2 * k : k;
    syl_text_printf(&t, "module @rows { func @forward(%%x: tensor<Tx%dx%s>) -> tensor<Tx%dxf32> {\n", in,
                    type, N_OUT);
    syl_text_printf(&t, "%%w = materialized \"w\" : tensor<%dx%dxint8_channel>\n", N_OUT, k);
    if (rank)
        syl_text_printf(&t,
                        "%%d = materialized \"d\" : tensor<%dx%dxbf16>\n%%u = materialized \"u\" : "
                        "tensor<%dx%dxbf16>\n",
                        rank, k, N_OUT, rank);
    const char *y = "%x";
    if (what == GATED) {
        syl_text_printf(
            &t,
            "%%a = slice %%x {axis = 1, begin = 0, end = %d} : tensor<Tx%dx%s>\n%%b = slice %%x {axis = "
            "1, begin = %d, end = %d} : tensor<Tx%dx%s>\n%%s = silu %%a : tensor<Tx%dxf32>\n%%m = mul %%s, "
            "%%b : tensor<Tx%dxf32>\n",
            k, k, type, k, 2 * k, k, type, k, k);
        y = "%m";
    }
    if (what == NORM)
        syl_text_printf(&t, "%%n = rms_norm %%x {eps = 1e-05} : tensor<Tx%dxf32>\n", k), y = "%n";
    else
        syl_text_printf(&t, "%%h = hadamard %s {axis = 1, factors = [%s]} : tensor<Tx%dxf32>\n", y, factors,
                        k),
            y = "%h";
    if (rank) syl_text_printf(&t, "%%t = linear %s, %%d : tensor<Tx%dxbf16>\n", y, rank);
    syl_text_printf(&t, "%%q = quantize %s : tensor<Tx%dxint8_token>\n", y, k);
    if (rank) syl_text_printf(&t, "%%l = linear %%t, %%u : tensor<Tx%dxf32>\n", N_OUT);
    syl_text_printf(&t, "%%o = linear %%q, %%w : tensor<Tx%dxf32>\n", N_OUT);
    if (rank) syl_text_printf(&t, "%%p = add %%o, %%l : tensor<Tx%dxf32>\n", N_OUT);
    syl_text_printf(&t, "return %s } }\n", rank ? "%p" : "%o");
    item *it = &b->items[b->n_items < MAX_ITEMS ? b->n_items : 0];
    snprintf(it->name, sizeof it->name, "%s %s %d%s", names[what], type, k, rank ? " r32" : "");
    /* at least 128 MiB of input */
    double row = (double)in * (strcmp(type, "f32") == 0 ? 4 : 2);
    int64_t rows = b->rows ? b->rows : 8192;
    while (!b->rows && (double)rows * row < 134217728.0) rows *= 2;
    if (!(it = add(b, t.p, row * (double)rows))) return;
    it->spec.max_rows = rows;
    it->spec.others = 1;
}

/* One new token of each sequence, 32 query heads over 8 of keys and values, heads of 128. */
static void add_attention(bench *b, const char *store, double bits, int sequences, int64_t length) {
    item *it = &b->items[b->n_items < MAX_ITEMS ? b->n_items : 0];
    snprintf(it->name, sizeof it->name, "attention %s, %d x %lld positions", store, sequences,
             (long long)length);
    const char *text = syl_arena_printf(
        &b->arena,
        "module @attention { func @forward(%%k: tensor<Tx1024xf32>, %%v: tensor<Tx1024xf32>, %%pos: "
        "tensor<Txi32>, "
        "%%seq: tensor<Txi32>, %%q: tensor<Rx4096xf32>, %%qpos: tensor<Rxi32>, %%qseq: tensor<Rxi32>, %%kv: "
        "kv<1x8x128x%s>) -> tensor<Rx4096xf32> { %%a = kv_append %%kv, %%k, %%v, %%pos, %%seq {layer = 0} : "
        "kv<1x8x128x%s> %%y = attention %%q, %%a, %%qpos, %%qseq {heads = 32, layer = 0, scale = 0.088} : "
        "tensor<Rx4096xf32> return %%y } }",
        store, store);
    if (!(it = add(b, text, (double)sequences * (double)length * 2048 * bits / 8))) return;
    it->attention = true;
    it->step = 1;
    it->spec.max_rows = sequences;
    it->spec.others = 1;
    it->spec.context.sequences = sequences;
    for (int s = 0; s < sequences; s++) it->spec.context.lengths[s] = length;
}

static void list_items(bench *b) {
    static const struct {
        int k;
        const char *factors;
    } sizes[] = {{4096, "4096"}, {8192, "8192"}, {14336, "28, 512"}};
    static const char *const types[] = {"f32", "bf16"};
    for (int t = 0; t < 2; t++) {
        for (int s = 0; s < 3; s++)
            for (int rank = 0; rank <= 32; rank += 32)
                add_rows(b, PLAIN, types[t], sizes[s].k, sizes[s].factors, rank);
        for (int rank = 0; rank <= 32; rank += 32) {
            add_rows(b, NORM, types[t], 4096, "", rank);
            add_rows(b, GATED, types[t], 14336, "28, 512", rank);
        }
    }
    static const struct {
        const char *store;
        double bits;
    } stores[] = {{"bf16", 16}, {"int8_g128", 8.1875}, {"int4_g128", 4.1875}};
    for (int s = 0; s < 3; s++) {
        add_attention(b, stores[s].store, stores[s].bits, 8, 8192);
        add_attention(b, stores[s].store, stores[s].bits, 1, 65536);
    }
}

static void *prepare_all(void *user) {
    bench *b = user;
    for (int i; (i = atomic_fetch_add(&b->next, 1)) < b->n_items;) {
        item *it = &b->items[i];
        it->run = (gpu_run){.g = &b->g, .problem = &it->problem};
        syl_status status = gpu_problem_create(&it->spec, &it->problem);
        if (status == SYL_OK) status = gpu_run_choose(&it->run, it->spec.max_rows, -1, NULL);
        it->ready = status == SYL_OK && it->problem.plan->steps.n > it->step;
        if (!it->ready)
            fprintf(stderr, "%s: %s\n", it->name, it->problem.errors.p ? it->problem.errors.p : "no message");
    }
    return NULL;
}

/* ---- timing ---- */

typedef struct contender {
    bench *b;
    item *it;
    gpu_kernel *kernel; /* NULL: the copy */
    double bytes, times[MAX_ROUNDS], seconds;
    cu_graph_exec graph;
    int calls;
} contender;

static void work(void *user, int round) {
    contender *c = user;
    (void)round;
    if (c->kernel)
        gpu_run_step(&c->it->run, c->it->step, c->it->spec.max_rows, c->kernel);
    else
        gpu_must(&c->b->g, c->b->g.driver.copy(c->b->to, c->b->from, (size_t)c->bytes, c->b->g.stream),
                 "copying");
}

static void start(contender *c) {
    gpu *g = &c->b->g;
    c->calls = 8;
    c->graph = gpu_capture(g, work, c, c->calls);
    for (int i = 0; i < 2; i++) gpu_time_graph(g, c->graph);
}

static void stop(contender *c) {
    gpu_must(&c->b->g, c->b->g.driver.graph_exec_destroy(c->graph), "dropping a graph");
}

static void measure(contender *list, int n, int rounds) {
    for (int i = 0; i < n; i++) start(&list[i]);
    for (int r = 0; r < rounds; r++)
        for (int i = 0; i < n; i++) {
            contender *c = &list[(i + r) % n];
            c->times[r] = gpu_time_graph(&c->b->g, c->graph) / c->calls;
        }
    for (int i = 0; i < n; i++) {
        list[i].seconds = gpu_median(list[i].times, rounds);
        stop(&list[i]);
    }
}

static void note_worst(bench *b, const item *it, double ratio) {
    bool rank = strstr(it->name, "r32") != NULL;
    if (it->attention && (!b->worst_attention || ratio < b->worst_attention)) b->worst_attention = ratio;
    if (!it->attention && !rank && ratio > b->worst_rows) b->worst_rows = ratio;
    if (rank && ratio > b->worst_rank) b->worst_rank = ratio;
}

static void bench_item(bench *b, item *it, FILE *json, int *n_json) {
    const syl_plan *plan = it->problem.plan;
    int fitting[GPU_MAX_VARIANTS], kernel = plan->steps.p[it->step].kernel;
    contender list[GPU_MAX_VARIANTS + 1];
    gpu_run_create(&it->run);
    gpu_run_poison(&it->run, it->spec.max_rows);
    for (size_t i = 0; i < it->step; i++)
        gpu_run_step(&it->run, i, it->spec.max_rows, &it->run.choices[plan->steps.p[i].kernel].kernels[0]);
    int n = gpu_run_variants(
        &it->run, kernel,
        gpu_problem_size(&it->problem, (int)plan->steps.p[it->step].rows, it->spec.max_rows), fitting);
    list[0] = (contender){.b = b, .it = it, .bytes = it->bytes};
    for (int i = 0; i < n; i++)
        list[i + 1] = (contender){
            .b = b, .it = it, .bytes = it->bytes, .kernel = &it->run.choices[kernel].kernels[fitting[i]]};
    measure(list, n + 1, b->rounds);
    gpu_state state = gpu_read_state();
    int best = 1;
    for (int i = 2; i <= n; i++)
        if (list[i].seconds < list[best].seconds) best = i;
    double copy = list[0].seconds;
    for (int i = 1; i <= n; i++) {
        double ratio =
            it->attention ? it->bytes / list[i].seconds / (2 * it->bytes / copy) : list[i].seconds / copy;
        if (i == 1) note_worst(b, it, ratio);
        syl_text text = {.arena = &b->arena};
        syl_cuda_variant_print(&list[i].kernel->variant, &text);
        if (b->all || i == 1 || i == best)
            printf("%-44s %9.2f us %7.0f GB/s %6.3f %s  %s%s\n", it->name, list[i].seconds * 1e6,
                   it->bytes / list[i].seconds * 1e-9, ratio,
                   it->attention ? "of copy bandwidth" : "x a copy of the input", text.p,
                   i == 1      ? " (chosen)"
                   : i == best ? " (fastest)"
                               : "");
        if (json)
            fprintf(
                json,
                "%s\n  {\"what\": \"%s\", \"rows\": %lld, \"variant\": \"%s\", \"choice\": %s, \"us\": %.3f, "
                "\"copy_us\": %.3f, \"bytes\": %.0f, \"ratio\": %.4f, \"sm_clock_mhz\": %.0f, \"power_w\": "
                "%.0f}",
                (*n_json)++ ? "," : "", it->name, (long long)it->spec.max_rows, text.p,
                i == 1 ? "true" : "false", list[i].seconds * 1e6, copy * 1e6, it->bytes, ratio,
                state.sm_clock, state.power);
    }
    fflush(stdout);
    gpu_run_destroy(&it->run);
}

static void read_settings(bench *b, int argc, char **argv) {
    static const struct option options[] = {
        {"only", required_argument, NULL, 'o'},   {"rows", required_argument, NULL, 'n'},
        {"rounds", required_argument, NULL, 'r'}, {"json", required_argument, NULL, 'j'},
        {"all", no_argument, NULL, 'a'},          {0},
    };
    b->rounds = 9;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 'o') b->only = optarg;
        if (c == 'n') b->rows = atoll(optarg);
        if (c == 'r') b->rounds = atoi(optarg);
        if (c == 'j') b->json_path = optarg;
        if (c == 'a') b->all = true;
        if (c == '?') exit(2);
    }
    if (b->rounds < 1 || b->rounds > MAX_ROUNDS) {
        fprintf(stderr, "gpu_rows: 1 to %d rounds\n", MAX_ROUNDS);
        exit(2);
    }
}

int main(int argc, char **argv) {
    static bench b;
    syl_arena_init(&b.arena);
    read_settings(&b, argc, argv);
    gpu_open(&b.g, NULL);
    list_items(&b);
    pthread_t threads[64];
    int n = syl_cpu_count() < 64 ? syl_cpu_count() : 64, n_json = 0;
    for (int i = 0; i < n; i++)
        if (pthread_create(&threads[i], NULL, prepare_all, &b) != 0) abort();
    for (int i = 0; i < n; i++) pthread_join(threads[i], NULL);
    FILE *json = b.json_path ? fopen(b.json_path, "w") : NULL;
    if (b.json_path && !json) fprintf(stderr, "cannot write %s\n", b.json_path);
    if (json) {
        fprintf(json, "{\"what\": \"rows\", ");
        gpu_print_machine(&b.g, json);
        fprintf(json, ",\n \"points\": [");
    }
    gpu_enter(&b.g);
    for (int i = 0; i < b.n_items; i++)
        if ((size_t)b.items[i].bytes > b.copied) b.copied = (size_t)b.items[i].bytes;
    b.from = gpu_alloc(&b.g, b.copied);
    b.to = gpu_alloc(&b.g, b.copied);
    gpu_fill(&b.g, b.from, 0x3b, b.copied);
    bool failed = b.n_items == 0;
    for (int i = 0; i < b.n_items; i++) {
        failed |= !b.items[i].ready;
        if (b.items[i].ready) bench_item(&b, &b.items[i], json, &n_json);
    }
    gpu_free(&b.g, b.from);
    gpu_free(&b.g, b.to);
    gpu_leave(&b.g);
    if (b.worst_rows > 0)
        printf("row-wise kernels: at most %.3f x a copy of the input (wanted 1.25)\n", b.worst_rows);
    if (b.worst_rank > 0) printf("with rank 32: at most %.3f x\n", b.worst_rank);
    if (b.worst_attention > 0)
        printf("attention: at least %.1f %% of copy bandwidth\n", 100 * b.worst_attention);
    for (int i = 0; i < b.n_items; i++) gpu_problem_destroy(&b.items[i].problem);
    if (json) {
        fprintf(json, "]}\n");
        fclose(json);
    }
    gpu_close(&b.g);
    syl_arena_free(&b.arena);
    return failed;
}
