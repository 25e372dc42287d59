/* The differential test: every op x scheme x layout x shape class, generated CUDA against the reference in plain C, on identical random
 * inputs.
 *
 *     gpu_diff [--case N] [--only TEXT] [--family NAME] [--more N] [--sparse N] [--rows N] [--arch sm_80] [--threads N] [--json FILE] [--list] [--brief] [--plain] [--dry]
 *
 * A case is a problem at a number of rows. All variants of its kernels must give the same bits as the first variant at the problem's largest
 * number of rows: that holds variants to each other, and a row alone to the row in a batch. Sampled rows are compared with the
 * reference: bit by bit where integers are summed, else by their normalized mean squared error; and with this machine's own code, bit by bit where
 * docs/numerics.md promises that. Outputs are filled with NaNs before each run, what
 * lies behind them must stay, and so must the zeros at the begin of the workspace. Exit code 77: there is no GPU here.
 *
 * --dry needs no GPU: every problem is planned, its reference runs over a few rows, that of every third one is compared with this machine's own code, and the sources of
 * its kernels are printed for each architecture. */
#include <getopt.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/threads.h"
#include "cases.h"
#include "check.h"

enum { MAX_FAILURES = 60, BRIEF_ROWS = 6, BRIEF_POSITIONS = 600 };
static const double largest_error =
    0.1; /* of an element, over the root mean square: no wrong element hides among many */

typedef struct settings {
    int64_t only_case;
    int64_t rows; /* none with more */
    const char *only, *family, *arch, *json;
    int more, threads, sparse; /* sparse: every so many-th problem */
    bool list, brief, plain, verbose, dry;
} settings;

/* Problems of one op against the host's code: how many have the same bits, of those that are promised to and of the others. */
typedef struct host_tally {
    char op[40];
    int same[2], differ[2]; /* [promised] */
    const char *first;      /* difference */
} host_tally;

enum { MAX_OPS = 64 };

typedef struct tally {
    pthread_mutex_t lock;
    int64_t cases, failed, runs, skipped;
    double worst_nmse;
    int launched[SYL_CUDA_FAMILY_COUNT]; /* variants compiled, by family */
    host_tally host[MAX_OPS];
    int n_ops;
    SYL_VEC(const char *) failures;
    syl_arena arena;
} tally;

typedef struct test {
    settings set;
    gpu g;
    gpu_checker checker;
    gpu_cases cases;
    int64_t *first_case; /* of each problem */
    atomic_size_t next;
    tally t;
} test;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void fail(test *t, int64_t number, const gpu_problem_spec *spec, int64_t rows, const char *why) {
    pthread_mutex_lock(&t->t.lock);
    t->t.failed++;
    char *line = syl_arena_printf(&t->t.arena, "case %lld: %s, rows %lld: %s", (long long)number, spec->name,
                                  (long long)rows, why);
    SYL_PUSH(&t->t.arena, &t->t.failures, line);
    if (t->t.failures.n <= MAX_FAILURES)
        printf("FAIL %s; again: gpu_diff --case %lld\n", line, (long long)number);
    fflush(stdout);
    pthread_mutex_unlock(&t->t.lock);
}

/* ---- one problem ---- */

typedef struct job {
    test *t;
    gpu_problem problem;
    gpu_run run;
    cu_address base[4];
    int64_t rows[GPU_MAX_ROW_COUNTS], base_rows;
    int n_rows;
    char why[1024];
} job;

static const char *variants_text(job *j, const int *chosen) {
    syl_text text = {.arena = &j->problem.arena};
    for (size_t k = 0; k < j->problem.plan->kernels.n; k++) {
        syl_text_printf(&text, "%s", k ? " | " : "");
        syl_cuda_variant_print(&j->run.choices[k].kernels[chosen[k]].variant, &text);
    }
    return text.p;
}

/* Of each kernel its variant number `round` for these rows, round and round. Returns the number of rounds that differ. */
static int choose(job *j, int64_t rows, int round, int *chosen) {
    const syl_plan *plan = j->problem.plan;
    int most = 1;
    for (size_t i = 0; i < plan->steps.n; i++) {
        int k = plan->steps.p[i].kernel, fitting[GPU_MAX_VARIANTS * 8];
        int64_t size = gpu_problem_size(&j->problem, (int)plan->steps.p[i].rows, rows);
        int n = gpu_run_variants(&j->run, k, size, fitting);
        chosen[k] = fitting[n ? round % n : 0];
        if (n > most) most = n;
    }
    return most;
}

/* What a run must have left alone. */
static bool check_borders(job *j, int64_t rows) {
    gpu *g = &j->t->g;
    for (int r = 0; r < j->problem.n_results; r++) {
        cu_address end = j->run.outputs[r] + (cu_address)rows * j->problem.results[r].row_bytes;
        uint64_t n = gpu_other_than(g, &j->t->checker, end, GPU_GUARD, GPU_POISON);
        if (n) {
            snprintf(j->why, sizeof j->why, "%llu bytes behind result %d were written", (unsigned long long)n,
                     r);
            return false;
        }
    }
    uint64_t n = gpu_other_than(g, &j->t->checker, j->run.workspace, j->run.counters, 0);
    if (n)
        snprintf(j->why, sizeof j->why, "%llu bytes of counters are not zero afterwards",
                 (unsigned long long)n);
    return n == 0;
}

static bool check_bits(job *j, int64_t rows, const int *chosen) {
    for (int r = 0; r < j->problem.n_results; r++) {
        uint64_t first;
        size_t size = (size_t)rows * j->problem.results[r].row_bytes, row = j->problem.results[r].row_bytes;
        uint64_t n = gpu_differ(&j->t->g, &j->t->checker, j->base[r], j->run.outputs[r], size, &first);
        if (!n) continue;
        snprintf(j->why, sizeof j->why,
                 "%s: %llu of %zu words of result %d differ from the first variant over %lld rows, the first "
                 "in row "
                 "%llu, byte %llu",
                 variants_text(j, chosen), (unsigned long long)n, size / 2, r, (long long)j->base_rows,
                 (unsigned long long)(first * 2 / row), (unsigned long long)(first * 2 % row));
        return false;
    }
    return true;
}

static bool check_numbers(job *j, int64_t rows) {
    const gpu_problem_spec *spec = j->problem.spec;
    int chosen[GPU_MAX_KERNELS];
    gpu_error e = gpu_compare(&j->run, j->base, rows);
    pthread_mutex_lock(&j->t->t.lock);
    if (e.nmse > j->t->t.worst_nmse && e.nmse <= spec->nmse) j->t->t.worst_nmse = e.nmse;
    pthread_mutex_unlock(&j->t->t.lock);
    bool good = spec->nmse == 0 ? e.same : e.nmse <= spec->nmse && e.largest <= largest_error;
    if (good) return true;
    choose(j, j->base_rows, 0, chosen);
    snprintf(j->why, sizeof j->why,
             "%s: nmse %.3g (at most %.3g), largest error %.3g of the rms, at result %d, row %lld, column "
             "%lld: %.9g, "
             "expected %.9g",
             variants_text(j, chosen), e.nmse, spec->nmse, e.largest, e.result, (long long)e.row,
             (long long)e.column, e.got, e.expected);
    return false;
}

static host_tally *tally_of(tally *t, const char *name) {
    int n = (int)strcspn(name, " "), i = 0;
    if (n > (int)sizeof t->host[0].op - 1) n = sizeof t->host[0].op - 1;
    while (i < t->n_ops && (strncmp(t->host[i].op, name, (size_t)n) != 0 || t->host[i].op[n])) i++;
    if (i == MAX_OPS) return &t->host[0];
    if (i == t->n_ops) memcpy(t->host[t->n_ops++].op, name, (size_t)n);
    return &t->host[i];
}

/* The base against the host. A difference where none may be is a failure. */
static bool check_host(job *j) {
    const gpu_problem_spec *spec = j->problem.spec;
    bool promised = gpu_problem_promises_bits(&j->problem);
    tally *t = &j->t->t;
    gpu_error e = {0};
    if (!j->problem.results[0].host) return true;
    int64_t differ = gpu_compare_host(&j->run, j->base, j->base_rows, &e);
    if (differ)
        snprintf(j->why, sizeof j->why,
                 "%lld elements are not the host's, the first at result %d, row %lld, column %lld: %.9g, the "
                 "host has %.9g",
                 (long long)differ, e.result, (long long)e.row, (long long)e.column, e.got, e.expected);
    pthread_mutex_lock(&t->lock);
    host_tally *h = tally_of(t, spec->name);
    ++*(differ ? &h->differ[promised] : &h->same[promised]);
    if (differ && promised && !h->first) h->first = syl_arena_printf(&t->arena, "%s: %s", spec->name, j->why);
    pthread_mutex_unlock(&t->lock);
    return !differ || !promised;
}

static void print_host(const tally *t) {
    printf("bits of the host, problems by op (equal/different; in brackets where tensor cores sum bf16):");
    for (int i = 0; i < t->n_ops; i++) {
        const host_tally *h = &t->host[i];
        printf(" %s %d/%d", h->op, h->same[1], h->differ[1]);
        if (h->same[0] + h->differ[0]) printf(" (%d/%d)", h->same[0], h->differ[0]);
    }
    printf("\n");
    for (int i = 0; i < t->n_ops; i++)
        if (t->host[i].first) printf("first of %s: %s\n", t->host[i].op, t->host[i].first);
}

static void run_once(job *j, int64_t rows, const int *chosen) {
    gpu_run_poison(&j->run, rows);
    gpu_run_plan(&j->run, rows, chosen);
    gpu_wait(&j->t->g);
    j->t->t.runs++; /* the device's lock is held */
}

static bool run_case(job *j, int64_t rows) {
    int chosen[GPU_MAX_KERNELS] = {0}, rounds = 1;
    for (int round = 0; round < rounds; round++) {
        rounds = choose(j, rows, round, chosen);
        run_once(j, rows, chosen);
        if (!check_borders(j, rows) || !check_bits(j, rows, chosen)) return false;
    }
    return j->t->set.brief || check_numbers(j, rows);
}

static void run_base(job *j) {
    int chosen[GPU_MAX_KERNELS] = {0};
    gpu *g = &j->t->g;
    choose(j, j->base_rows, 0, chosen);
    run_once(j, j->base_rows, chosen);
    for (int r = 0; r < j->problem.n_results; r++) {
        j->base[r] = gpu_alloc(g, j->run.output_bytes[r]);
        gpu_must(g, g->driver.copy(j->base[r], j->run.outputs[r], j->run.output_bytes[r], g->stream),
                 "copying");
    }
    gpu_wait(g);
}

static void count_variants(job *j) {
    pthread_mutex_lock(&j->t->t.lock);
    for (size_t k = 0; k < j->problem.plan->kernels.n; k++)
        for (int v = 0; v < j->run.choices[k].n; v++)
            j->t->t.launched[j->run.choices[k].kernels[v].variant.family]++;
    pthread_mutex_unlock(&j->t->t.lock);
}

static bool is_large(const char *name) {
    const char *x = strrchr(name, ' ');
    int n, k;
    return strncmp(name, "linear", 6) == 0 && x && sscanf(x, "%dx%d", &n, &k) == 2 &&
           n * (int64_t)k > 2000000;
}

/* The host's results against the reference's. */
static syl_status check_reference(gpu_problem *p) {
    for (int r = 0; r < p->n_results; r++) {
        const gpu_result *result = &p->results[r];
        double error = 0, power = 0;
        for (int64_t i = 0; i < p->n_sample * result->cols; i++) {
            double d = gpu_element(result->host, result->dtype, i) - result->expected[i];
            error += d * d;
            power += result->expected[i] * result->expected[i];
        }
        if (!(error <= p->spec->nmse * power))
            return syl_error(p->diag, SYL_ERR_exec_input, SYL_NOWHERE,
                             "the host's result %d has an nmse of %.3g against the reference", r,
                             error / power);
    }
    return SYL_OK;
}

/* Everything up to the device: plan, packed weights, reference, and sources of the best variant of each family. */
static syl_status dry_run(test *t, gpu_problem *p, size_t index) {
    syl_status status = gpu_problem_expect(p);
    if (status == SYL_OK && p->results[0].host) status = check_reference(p);
    for (size_t i = 0; i < p->plan->steps.n && status == SYL_OK; i++) {
        const kir_kernel *kernel = p->plan->kernels.p[p->plan->steps.p[i].kernel];
        const char *arch = syl_cuda_archs[(index + i) % SYL_CUDA_ARCHS].name;
        syl_cuda_variant all[256];
        syl_cuda_launch launch;
        syl_cuda_target target;
        if (!syl_cuda_target_named(arch, &target))
            return syl_error(p->diag, SYL_ERR_exec_input, SYL_NOWHERE, "there is no architecture %s", arch);
        int n = syl_cuda_variants(kernel, &target, p->spec->max_rows, all, 256);
        if (n == 0)
            return syl_error(p->diag, SYL_ERR_exec_input, SYL_NOWHERE, "kernel %s has no variant for %s",
                             kernel->name, arch);
        for (int v = 0; v < n && status == SYL_OK; v++) {
            syl_text source = {.arena = &p->arena};
            if (v && all[v].family == all[v - 1].family) continue;
            status = syl_cuda_source(kernel, &target, &all[v], p->diag, &source, &launch);
            pthread_mutex_lock(&t->t.lock);
            t->t.launched[all[v].family]++;
            pthread_mutex_unlock(&t->t.lock);
        }
    }
    return status;
}

/* Fewer rows, and positions that are several blocks of a sequence still. */
static void make_brief(gpu_problem_spec *spec) {
    if (spec->multiple > 1)
        spec->max_rows = spec->multiple * 4;
    else if (spec->max_rows > 130)
        spec->max_rows = 130;
    for (int i = 0; i < spec->context.sequences; i++)
        if (spec->context.lengths[i] > BRIEF_POSITIONS) spec->context.lengths[i] = BRIEF_POSITIONS;
}

static void run_problem(test *t, size_t index) {
    gpu_problem_spec spec = t->cases.problems.p[index];
    int64_t number = t->first_case[index];
    job *j = calloc(1, sizeof *j);
    if (!j) abort();
    j->t = t;
    if (t->set.brief) make_brief(&spec);
    if (t->set.dry) spec.max_rows = spec.multiple > 1 ? spec.multiple * 2 : 9;
    j->n_rows = gpu_case_rows(&spec, index, j->rows);
    if (t->set.brief && j->n_rows > BRIEF_ROWS) {
        j->rows[BRIEF_ROWS - 1] = j->rows[j->n_rows - 1];
        j->n_rows = BRIEF_ROWS;
    }
    while (j->n_rows > 1 && j->rows[j->n_rows - 1] > t->set.rows) j->n_rows--;
    spec.max_rows = j->base_rows = j->rows[j->n_rows - 1];
    syl_status status = gpu_problem_create(&spec, &j->problem);
    if (status == SYL_OK && !t->set.brief && !t->set.dry) status = gpu_problem_expect(&j->problem);
    if (status == SYL_OK && !t->set.brief && (!t->set.dry || index % 3 == 0))
        status = gpu_problem_run_host(&j->problem);
    j->run = (gpu_run){.g = &t->g, .problem = &j->problem};
    if (t->set.dry && status == SYL_OK) status = dry_run(t, &j->problem, index);
    for (int i = 0; i < j->n_rows && status == SYL_OK && !t->set.dry; i++)
        status = gpu_run_choose(&j->run, j->rows[i], t->set.more, t->set.family);
    if (status != SYL_OK) {
        snprintf(j->why, sizeof j->why, "%.1000s", j->problem.errors.p ? j->problem.errors.p : "no message");
        for (char *c = j->why; *c; c++) *c = *c == '\n' ? ' ' : *c;
        fail(t, number, &spec, spec.max_rows, j->why);
    } else if (t->set.dry) {
        pthread_mutex_lock(&t->t.lock);
        t->t.cases += j->n_rows;
        pthread_mutex_unlock(&t->t.lock);
    } else {
        count_variants(j);
        gpu_enter(&t->g);
        gpu_run_create(&j->run);
        run_base(j);
        if (!check_host(j)) fail(t, number + j->n_rows - 1, &spec, j->base_rows, j->why);
        for (int i = 0; i < j->n_rows; i++) {
            if (t->set.only_case >= 0 && number + i != t->set.only_case) continue;
            bool good = run_case(j, j->rows[i]);
            t->t.cases++;
            if (!good) fail(t, number + i, &spec, j->rows[i], j->why);
            if (good && t->set.verbose)
                printf("ok   case %lld: %s, rows %lld\n", (long long)number + i, spec.name,
                       (long long)j->rows[i]);
        }
        for (int r = 0; r < 4; r++) gpu_free(&t->g, j->base[r]);
        gpu_run_destroy(&j->run);
        gpu_leave(&t->g);
    }
    gpu_problem_destroy(&j->problem);
    free(j);
}

/* ---- all problems ---- */

static bool selected(const test *t, size_t index) {
    const gpu_problem_spec *spec = &t->cases.problems.p[index];
    if (t->set.only && !strstr(spec->name, t->set.only)) return false;
    if (index % (size_t)t->set.sparse != 0) return false;
    if (t->set.brief) return index % 7 == 0 && !is_large(spec->name);
    if (t->set.dry) return !is_large(spec->name);
    if (t->set.only_case < 0) return true;
    int64_t rows[GPU_MAX_ROW_COUNTS], first = t->first_case[index];
    return t->set.only_case >= first && t->set.only_case < first + gpu_case_rows(spec, index, rows);
}

static void *work(void *user) {
    test *t = user;
    for (;;) {
        size_t index = atomic_fetch_add(&t->next, 1);
        if (index >= t->cases.problems.n) return NULL;
        if (selected(t, index)) run_problem(t, index);
    }
}

static void write_json(const test *t, double seconds) {
    FILE *out = fopen(t->set.json, "w");
    if (!out) {
        fprintf(stderr, "cannot write %s\n", t->set.json);
        return;
    }
    fprintf(out, "{\"what\": \"diff\", ");
    gpu_print_machine(&t->g, out);
    fprintf(out,
            ", \"cases\": %lld, \"failed\": %lld, \"runs\": %lld, \"compiled\": %lld, \"seconds\": %.1f, "
            "\"worst_passing_nmse\": %.3g,\n \"variants\": {",
            (long long)t->t.cases, (long long)t->t.failed, (long long)t->t.runs, (long long)t->g.compiled,
            seconds, t->t.worst_nmse);
    for (int f = 0; f < SYL_CUDA_FAMILY_COUNT; f++)
        fprintf(out, "%s\"%s\": %d", f ? ", " : "", syl_cuda_families[f].name, t->t.launched[f]);
    fprintf(out, "},\n \"failures\": [");
    for (size_t i = 0; i < t->t.failures.n; i++) {
        fprintf(out, "%s\n  \"", i ? "," : "");
        for (const char *c = t->t.failures.p[i]; *c; c++)
            fprintf(out, *c == '"' || *c == '\\' ? "\\%c" : "%c", (unsigned char)*c < ' ' ? ' ' : *c);
        fprintf(out, "\"");
    }
    fprintf(out, "]}\n");
    fclose(out);
}

static settings read_settings(int argc, char **argv) {
    settings s = {.only_case = -1, .more = 1, .sparse = 1, .rows = INT64_MAX};
    static const struct option options[] = {
        {"case", required_argument, NULL, 'c'},
        {"only", required_argument, NULL, 'o'},
        {"family", required_argument, NULL, 'f'},
        {"more", required_argument, NULL, 'm'},
        {"arch", required_argument, NULL, 'a'},
        {"json", required_argument, NULL, 'j'},
        {"threads", required_argument, NULL, 't'},
        {"list", no_argument, NULL, 'l'},
        {"brief", no_argument, NULL, 'b'},
        {"plain", no_argument, NULL, 'p'},
        {"verbose", no_argument, NULL, 'v'},
        {"dry", no_argument, NULL, 'd'},
        {"sparse", required_argument, NULL, 's'},
        {"rows", required_argument, NULL, 'r'},
        {0},
    };
    for (int c; (c = getopt_long(argc, argv, "v", options, NULL)) != -1;) {
        if (c == 'c') s.only_case = atoll(optarg), s.verbose = true;
        if (c == 'o') s.only = optarg;
        if (c == 'f') s.family = optarg;
        if (c == 'm') s.more = strcmp(optarg, "all") == 0 ? -1 : atoi(optarg);
        if (c == 'a') s.arch = optarg;
        if (c == 'j') s.json = optarg;
        if (c == 't') s.threads = atoi(optarg);
        if (c == 's') s.sparse = atoi(optarg) > 0 ? atoi(optarg) : 1;
        if (c == 'r') s.rows = atoll(optarg);
        if (c == 'l') s.list = true;
        if (c == 'b') s.brief = true;
        if (c == 'p') s.plain = true;
        if (c == 'v') s.verbose = true;
        if (c == 'd') s.dry = true;
        if (c == '?') exit(2);
    }
    if (s.brief) s.more = s.more == 1 ? 0 : s.more;
    return s;
}

static void number_cases(test *t) {
    int64_t rows[GPU_MAX_ROW_COUNTS], n = 0;
    t->first_case = SYL_NEW_ARRAY(t->cases.arena, int64_t, t->cases.problems.n + 1);
    for (size_t i = 0; i < t->cases.problems.n; i++) {
        t->first_case[i] = n;
        int count = gpu_case_rows(&t->cases.problems.p[i], i, rows);
        for (int r = 0; r < count && t->set.list; r++)
            printf("%5lld  %s, rows %lld\n", (long long)n + r, t->cases.problems.p[i].name,
                   (long long)rows[r]);
        n += count;
    }
    t->first_case[t->cases.problems.n] = n;
}

int main(int argc, char **argv) {
    static test t;
    syl_arena arena;
    syl_arena_init(&arena);
    syl_arena_init(&t.t.arena);
    pthread_mutex_init(&t.t.lock, NULL);
    t.set = read_settings(argc, argv);
    t.cases.arena = &arena;
    gpu_cases_add_rows(&t.cases);
    gpu_cases_add_linear(&t.cases);
    gpu_cases_add_attention(&t.cases);
    number_cases(&t);
    if (t.set.list) return 0;
    double begin = now();
    if (!t.set.dry) {
        gpu_open(&t.g, t.set.arch);
        t.g.plain = t.set.plain;
        gpu_checker_create(&t.g, &t.checker);
    }
    int n = t.set.threads ? t.set.threads : syl_cpu_count();
    pthread_t threads[64];
    if (n > 64) n = 64;
    for (int i = 0; i < n; i++)
        if (pthread_create(&threads[i], NULL, work, &t) != 0) abort();
    for (int i = 0; i < n; i++) pthread_join(threads[i], NULL);
    double seconds = now() - begin;
    printf("%s, %s: %lld cases, %lld failed; %lld runs, %lld kernels compiled, worst passing nmse %.3g; %.1f "
           "s\n",
           t.set.dry ? "nothing run" : t.g.name, t.set.dry ? "all architectures" : t.g.target.name,
           (long long)t.t.cases, (long long)t.t.failed, (long long)t.t.runs, (long long)t.g.compiled,
           t.t.worst_nmse, seconds);
    printf("variants:");
    bool missing = false;
    for (int f = 0; f < SYL_CUDA_FAMILY_COUNT; f++) {
        bool claimed = false;
        for (int a = 0; a < SYL_CUDA_ARCHS; a++)
            claimed |= (syl_cuda_families[f].archs >> a & 1) &&
                       (t.set.dry || syl_cuda_archs[a].arch == t.g.target.arch);
        printf(" %s %d%s", syl_cuda_families[f].name, t.t.launched[f],
               !claimed ? " (not for this device)" : "");
        missing |= claimed && !t.t.launched[f] && !t.set.only && !t.set.family && t.set.sparse == 1 &&
                   t.set.only_case < 0;
    }
    printf("\n");
    if (!t.set.dry && !t.set.brief) print_host(&t.t);
    printf("%s", missing ? "a family of kernels was never launched\n" : "");
    if (t.set.json) write_json(&t, seconds);
    bool bad = t.t.failed || missing || !t.t.cases;
    if (!t.set.dry) gpu_close(&t.g);
    syl_arena_free(&t.t.arena);
    syl_arena_free(&arena);
    return bad;
}
