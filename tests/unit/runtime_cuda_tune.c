/* The tuner on a GPU that pretends: which candidates, in what order; workers that crash, hang and lie; what is recorded and chosen, goes on
 * and is believed. This program is its own worker: "worker MODE". */

#include <sys/wait.h>
#include <stdio.h>

#include "runtime/cuda/engine.h"
#include "runtime/cuda/tune.h"
#include "runtime/cuda/tuned.h"
#include "runtime_cuda_tune_machine.h"

static char program[512];

static const char *model(fixture *f) {
    const char *path = test_path(f, "tiny.syl");
    if (access(path, F_OK) != 0) write_tiny(f, path);
    return path;
}

static void forget(fixture *f) {
    static const char *const names[] = {"tuning.db", "tuning.db-wal", "tuning.db-shm"};
    for (int i = 0; i < 3; i++) unlink(test_path(f, names[i]));
}

/* ---- candidates ---- */

static void the_cost_model_prunes(void **state) {
    (void)state;
    const double costs[] = {1, 1.1, 1.2, 1.3, 1.5, 1.79, 1.81, 5};
    assert_int_equal(tune_worth(costs, 8, 24), 6);
    assert_int_equal(tune_worth(costs, 8, 3), 3);
    assert_int_equal(tune_worth(costs, 2, 24), 2);
    const double steep[] = {1, 10, 100, 1000, 10000};
    assert_int_equal(tune_worth(steep, 5, 24), 4); /* the model may be wrong: some are tried all the same */
    assert_int_equal(tune_worth(steep, 0, 24), 0);
}

typedef struct planned {
    syl_artifact artifact;
    syl_plan *plan;
    syl_cuda_target target;
    tune_plan tune;
} planned;

static void plan(fixture *f, const syl_tune_options *options, planned *p) {
    memset(p, 0, sizeof *p);
    fixture_ok(f, syl_artifact_open(model(f), f->diag, &p->artifact));
    fixture_ok(f, syl_plan_create_cuda(p->artifact.module, f->diag, &p->plan));
    assert_true(syl_cuda_target_named("sm_90a", &p->target));
    p->tune = (tune_plan){.arena = &f->arena, .plan = p->plan, .target = &p->target};
    fixture_ok(f, tune_plan_make(&p->tune, options, 4, f->diag));
}

static void drop(planned *p) {
    syl_plan_destroy(p->plan);
    syl_artifact_close(&p->artifact);
}

static void candidates_are_in_the_models_order(void **state) {
    (void)state;
    fixture f;
    planned p;
    fixture_open(&f, 1);
    plan(&f, &(syl_tune_options){.budget = 1000}, &p);
    assert_int_equal(p.tune.units.n, p.plan->kernels.n * SYL_CUDA_BUCKETS);
    size_t several = 0;
    for (size_t u = 0; u < p.tune.units.n; u++) {
        const tune_unit *unit = &p.tune.units.p[u];
        assert_true(unit->n >= 1 && unit->n <= unit->all);
        several += unit->n > 1;
        syl_cuda_variant best;
        assert_int_equal(syl_cuda_variants(unit->kernel, &p.target, unit->rows, &best, 1), 1);
        assert_memory_equal(&unit->candidates[0].code->variant, &best, sizeof best);
        for (size_t c = 1; c < unit->n; c++)
            assert_true(unit->candidates[c - 1].model <= unit->candidates[c].model);
        for (size_t c = 0; c < unit->n; c++)
            assert_true(syl_cuda_covers(&unit->candidates[c].code->launch, unit->rows));
        if (u && unit->number == p.tune.units.p[u - 1].number) /* a kernel's weights stay where they are */
            assert_true(unit->rows > p.tune.units.p[u - 1].rows);
    }
    assert_true(several > SYL_CUDA_BUCKETS);
    drop(&p);
    fixture_close(&f);
}

static size_t candidates(const planned *p) {
    size_t n = 0;
    for (size_t u = 0; u < p->tune.units.n; u++) n += p->tune.units.p[u].n;
    return n;
}

static void budgets_prune(void **state) {
    (void)state;
    fixture f;
    planned p;
    size_t n[3];
    const double budgets[] = {2, 20, 1000};
    fixture_open(&f, 1);
    for (int i = 0; i < 3; i++) {
        plan(&f, &(syl_tune_options){.budget = budgets[i]}, &p);
        n[i] = candidates(&p);
        assert_int_equal(p.tune.units.n, p.plan->kernels.n * SYL_CUDA_BUCKETS); /* none is left out */
        drop(&p);
    }
    assert_true(n[0] < n[1] && n[1] < n[2]);
    plan(&f, &(syl_tune_options){.budget = 2, .exhaustive = true}, &p);
    assert_true(candidates(&p) > n[2]);
    for (size_t u = 0; u < p.tune.units.n; u++) assert_int_equal(p.tune.units.p[u].n, p.tune.units.p[u].all);
    drop(&p);
    fixture_close(&f);
}

static void units_are_picked(void **state) {
    (void)state;
    fixture f;
    planned p;
    fixture_open(&f, 1);
    const int64_t rows[] = {1, 13, 16, 5000};
    plan(&f, &(syl_tune_options){.budget = 60, .kernels = "^attention$|^k0$", .rows = rows, .n_rows = 4}, &p);
    assert_int_equal(p.tune.units.n, 2 * 3);
    for (size_t u = 0; u < 6; u++) {
        static const int64_t buckets[] = {1, 16, 2048};
        assert_int_equal(p.tune.units.p[u].rows, buckets[u % 3]);
        assert_true(p.tune.units.p[u].number == 0 || p.tune.units.p[u].kernel->kind == KIR_ATTENTION);
    }
    const struct {
        syl_tune_options options;
        const char *name, *said;
    } bad[] = {{{.kernels = "("}, "tune-kernels", "no regular expression"},
               {{.kernels = "conv"}, "tune-kernels", "no kernel of the plan is called \"conv\""},
               {{.rows = (int64_t[]){0}, .n_rows = 1}, "tune-rows", "0 is no number of rows"}};
    for (int i = 0; i < 3; i++) {
        tune_plan other = {.arena = &f.arena, .plan = p.plan, .target = &p.target};
        syl_status status = tune_plan_make(&other, &bad[i].options, 4, f.diag);
        fixture_error(&f, status, bad[i].name, bad[i].said, bad[i].said);
    }
    drop(&p);
    fixture_close(&f);
}

/* The last bucket has no end: what runs a limited number of rows may not be chosen for it. */
static void limits_of_rows_are_kept(void **state) {
    (void)state;
    const syl_cuda_launch free_launch = {.max_rows = 0}, limited = {.max_rows = 512};
    assert_true(syl_cuda_covers(&free_launch, 2048) && syl_cuda_covers(&limited, 512));
    assert_false(syl_cuda_covers(&limited, 1024) || syl_cuda_covers(&limited, 2048));
    const syl_cuda_launch much = {.max_rows = 100000};
    assert_false(syl_cuda_covers(&much, 2048));
}

/* ---- the link: workers that do as the mode says ---- */

static void say(const char *text) {
    ssize_t n = write(STDOUT_FILENO, text, strlen(text));
    (void)n;
}

static bool hear(char *line, size_t size) {
    size_t n = 0;
    while (n + 1 < size && read(STDIN_FILENO, line + n, 1) == 1 && line[n] != '\n') n++;
    line[n] = 0;
    return n > 0;
}

/* Questions are numbered from 1 on; each second one is the one that goes wrong. */
static int lie(const char *mode) {
    char line[512];
    syl_arena arena;
    syl_arena_init(&arena);
    syl_text hello = {.arena = &arena};
    tune_worker_hello(&hello);
    if (strcmp(mode, "dies") == 0) return 3;
    if (strcmp(mode, "stranger") == 0) say("hello, I am sh\n");
    if (strcmp(mode, "sick") == 0) say("{\"message\": \"there is no GPU\"}\n");
    if (strcmp(mode, "stranger") == 0 || strcmp(mode, "sick") == 0) pause();
    say(hello.p);
    while (hear(line, sizeof line)) {
        int id = atoi(line + strlen("{\"id\": "));
        char good[100];
        snprintf(good, sizeof good, "{\"id\": %d, \"state\": \"good\", \"seconds\": [0.5]}\n", id);
        if (id % 2) {
            say(good);
            continue;
        }
        if (strcmp(mode, "abort") == 0) abort();
        if (strcmp(mode, "exit") == 0) return 9;
        if (strcmp(mode, "hang") == 0) pause();
        if (strcmp(mode, "half") == 0) {
            say("{\"id\": 2, \"sta");
            return 0;
        }
        if (strcmp(mode, "half-hang") == 0) {
            say("{\"id\": 2, \"sta");
            pause();
        }
        if (strcmp(mode, "garbage") == 0) say("Segmentation fault\n");
        if (strcmp(mode, "number") == 0) say("{\"id\": 7, \"state\": \"good\", \"seconds\": [0.5]}\n");
        if (strcmp(mode, "state") == 0) say("{\"id\": 2, \"state\": \"perfect\", \"seconds\": [0.5]}\n");
        if (strcmp(mode, "zero") == 0) say("{\"id\": 2, \"state\": \"good\", \"seconds\": [0]}\n");
        if (strcmp(mode, "negative") == 0) say("{\"id\": 2, \"state\": \"good\", \"seconds\": [-1e-6]}\n");
        if (strcmp(mode, "infinite") == 0) say("{\"id\": 2, \"state\": \"good\", \"seconds\": [1e999]}\n");
        if (strcmp(mode, "few") == 0) say("{\"id\": 2, \"state\": \"good\", \"seconds\": []}\n");
        if (strcmp(mode, "many") == 0) say("{\"id\": 2, \"state\": \"good\", \"seconds\": [1, 2]}\n");
        if (strcmp(mode, "text") == 0) say("{\"id\": 2, \"state\": \"good\", \"seconds\": [\"fast\"]}\n");
        if (strcmp(mode, "fatal") == 0)
            say("{\"id\": 2, \"state\": \"crashed\", \"message\": \"the context is lost\"}\n");
        for (int i = 0; i < 30000 && strcmp(mode, "endless") == 0; i++)
            say("{\"id\": 2, \"state\": \"good\", \"seconds\": [");
        pause();
    }
    return 0;
}

static const char *const *worker(fixture *f, const char *mode) {
    const char **list = SYL_NEW_ARRAY(&f->arena, const char *, 5);
    list[0] = list[1] = program;
    list[2] = "worker";
    list[3] = mode;
    return list;
}

static tune_link *open_link(fixture *f, const char *mode, double limit) {
    tune_link *link;
    tune_link_options options = {.worker = worker(f, mode), .path = "", .limit = limit};
    fixture_ok(f, tune_link_open(&options, f->diag, &link));
    return link;
}

static void workers_may_not_be_trusted(void **state) {
    (void)state;
    static const struct {
        const char *mode, *why;
        tune_outcome outcome;
    } lies[] = {
        {"abort", "signal 6", TUNE_CRASHED},
        {"exit", "exit code 9", TUNE_CRASHED},
        {"hang", "no answer within", TUNE_HUNG},
        {"half", "exit code 0", TUNE_CRASHED},
        {"half-hang", "no answer within", TUNE_HUNG},
        {"garbage", "Segmentation fault", TUNE_CRASHED},
        {"number", "is no answer", TUNE_CRASHED},
        {"state", "is no answer", TUNE_CRASHED},
        {"zero", "is no answer", TUNE_CRASHED},
        {"negative", "is no answer", TUNE_CRASHED},
        {"infinite", "is no answer", TUNE_CRASHED},
        {"few", "is no answer", TUNE_CRASHED},
        {"many", "is no answer", TUNE_CRASHED},
        {"text", "is no answer", TUNE_CRASHED},
        {"fatal", "the context is lost", TUNE_CRASHED},
        {"endless", "has no end", TUNE_CRASHED},
    };
    fixture f;
    fixture_open(&f, 1);
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        tune_answer answer;
        tune_link *link = open_link(&f, lies[i].mode, lies[i].outcome == TUNE_HUNG ? 1 : 20);
        assert_int_equal(tune_link_ask(link, "\"do\": \"try\"", 1, f.diag, &answer), TUNE_ANSWERED);
        assert_true(answer.state == SYL_TUNING_GOOD && answer.n == 1 && answer.seconds[0] == 0.5);
        tune_outcome outcome = tune_link_ask(link, "\"do\": \"try\"", 1, f.diag, &answer);
        if (outcome != lies[i].outcome || !strstr(answer.message, lies[i].why))
            fail_msg("%s: outcome %d: %s", lies[i].mode, outcome, answer.message);
        assert_int_equal(answer.state, outcome == TUNE_HUNG ? SYL_TUNING_HUNG : SYL_TUNING_CRASHED);
        /* the next question finds another process */
        assert_int_equal(tune_link_ask(link, "\"do\": \"try\"", 1, f.diag, &answer), TUNE_ANSWERED);
        assert_true(answer.seconds[0] == 0.5);
        assert_int_equal(tune_link_lost(link), 1);
        tune_link_close(link);
    }
    assert_null(f.messages.p);
    fixture_close(&f);
}

static void workers_that_cannot_begin_are_named(void **state) {
    (void)state;
    static const char *const modes[][2] = {
        {"dies", "it ended with exit code 3"}, {"stranger", "hello, I am sh"}, {"sick", "there is no GPU"}};
    fixture f;
    tune_answer answer;
    fixture_open(&f, 1);
    for (int i = 0; i < 3; i++) {
        tune_link *link = open_link(&f, modes[i][0], 20);
        assert_int_equal(tune_link_ask(link, "\"do\": \"try\"", 1, f.diag, &answer), TUNE_BROKEN);
        fixture_error(&f, SYL_DEVICE, "tune-worker", modes[i][1], modes[i][0]);
        tune_link_close(link);
    }
    tune_link *link;
    const char *const nowhere[] = {"/nowhere/syl", "syl", NULL};
    tune_link_options options = {.worker = nowhere, .path = "", .limit = 1};
    fixture_ok(&f, tune_link_open(&options, f.diag, &link));
    assert_int_equal(tune_link_ask(link, "\"do\": \"try\"", 1, f.diag, &answer), TUNE_BROKEN);
    fixture_error(&f, SYL_DEVICE, "tune-worker", "/nowhere/syl", "nowhere");
    tune_link_close(link);
    fixture_close(&f);
}

/* ---- the whole ---- */

/* Of the kernels with threads=N the middle is the quickest, against the model. */
static const machine_rule plain_rules[] = {{"rows threads=128", 2e-6, MACHINE_FINE},
                                           {"rows threads=64", 3e-6, MACHINE_FINE},
                                           {"rows threads=32", 4e-6, MACHINE_FINE},
                                           {NULL, 5e-6, MACHINE_FINE}};
static const machine_rule bad_rules[] = {{"rows threads=32", 4e-6, MACHINE_FINE},
                                         {"rows threads=64", 3e-6, MACHINE_FINE},
                                         {"rows threads=128", 1e-6, MACHINE_WRONG},
                                         {"rows threads=256", 1e-6, MACHINE_NO_COMPILE},
                                         {NULL, 5e-6, MACHINE_FINE}};
static const machine_rule trap_rules[] = {{"rows threads=64", 1e-6, MACHINE_TRAP},
                                          {NULL, 5e-6, MACHINE_FINE}};
static const machine_rule deadly_rules[] = {{"rows threads=64", 1e-6, MACHINE_TRAP},
                                            {"rows threads=128", 1e-6, MACHINE_KILL},
                                            {"rows threads=256", 1e-6, MACHINE_HANG},
                                            {NULL, 5e-6, MACHINE_FINE}};
/* Of a row-wise kernel all but the first differ from it, and agree with each other. */
static const machine_rule lonely_rules[] = {
    {"rows threads=32", 5e-6, MACHINE_FINE}, {"rows", 1e-6, MACHINE_WRONG}, {NULL, 5e-6, MACHINE_FINE}};

typedef struct seen {
    int units, known, measured;
    char best[80], before[80];
    const char *states; /* of one unit: "good good wrong" */
    syl_arena *arena;
} seen;

static void see(void *user, const syl_tune_unit_report *r) {
    seen *s = user;
    s->units++;
    s->known += r->known;
    snprintf(s->best, sizeof s->best, "%s", r->row[0].variant);
    snprintf(s->before, sizeof s->before, "%s", r->before_variant ? r->before_variant : "");
    s->states = "";
    for (size_t i = 0; i < r->n; i++)
        if (r->row[i].measured)
            s->states =
                syl_arena_printf(s->arena, "%s%s ", s->states, syl_tuning_state_name(r->row[i].state));
    assert_non_null(r->why);
    assert_true(r->bytes > 0 && r->steps > 0 && r->rows > 0);
}

static const int64_t one_row[] = {1, 8};

static syl_tune_options options_for(fixture *f, seen *s, const char *kernels) {
    *s = (seen){.arena = &f->arena};
    return (syl_tune_options){.device = "cuda",
                              .cache_dir = test_folder,
                              .budget = 60,
                              .kernels = kernels,
                              .rows = one_row,
                              .n_rows = 1,
                              .limit = 20,
                              .report = see,
                              .user = s};
}

/* What loading would take for the first kernel and one row. */
static bool chosen(fixture *f, syl_cuda_variant *out) {
    planned p;
    syl_cuda_properties gpu;
    fixture_ok(f, syl_cuda_properties_of("cuda", f->diag, &gpu));
    plan(f, &(syl_tune_options){.budget = 60}, &p);
    syl_cuda_target target;
    fixture_ok(f, syl_cuda_find_target(&gpu, f->diag, &target));
    syl_cuda_tuned *tuned = syl_cuda_tuned_open(test_folder, &gpu, f->diag);
    bool found = syl_cuda_tuned_find(tuned, p.plan->kernels.p[0], &target, 1, out);
    syl_cuda_tuned_close(tuned);
    drop(&p);
    return found;
}

static const char *text_of(fixture *f, const syl_cuda_variant *variant) {
    syl_text text = {.arena = &f->arena};
    syl_cuda_variant_print(variant, &text);
    return text.p;
}

static void the_quickest_is_chosen(void **state) {
    (void)state;
    fixture f;
    seen s;
    syl_tune_stats stats;
    syl_cuda_variant variant;
    fixture_open(&f, 2);
    forget(&f);
    machine_start(plain_rules);
    assert_false(chosen(&f, &variant));
    syl_tune_options options = options_for(&f, &s, "^k0$");
    fixture_ok(&f, syl_cuda_tune(model(&f), &options, f.pool, f.diag, &stats));
    assert_true(fixture_said(&f, "measured in this process")); /* there is no worker */
    assert_int_equal(stats.units, 1);
    assert_int_equal(stats.tuned, 1);
    assert_int_equal(stats.bad + stats.left + stats.known, 0);
    assert_string_equal(s.best, "rows threads=128");
    assert_true(chosen(&f, &variant));
    assert_string_equal(text_of(&f, &variant), "rows threads=128");
    machine_stop();
    fixture_close(&f);
}

/* All kernels of the model, with its weights and its KV cache; then a second run, which has nothing to do. */
static void a_second_run_tunes_nothing(void **state) {
    (void)state;
    fixture f;
    seen s;
    syl_tune_stats stats;
    fixture_open(&f, 2);
    forget(&f);
    machine_start(plain_rules);
    syl_tune_options options = options_for(&f, &s, NULL);
    options.n_rows = 2;
    fixture_ok(&f, syl_cuda_tune(model(&f), &options, f.pool, f.diag, &stats));
    int units = stats.units;
    assert_int_equal(stats.tuned, units);
    assert_true(units >= 8 && stats.measured > units);
    long launches = machine_gpu->launches;
    int compiled = machine_compiled;
    options = options_for(&f, &s, NULL);
    options.n_rows = 2;
    fixture_ok(&f, syl_cuda_tune(model(&f), &options, f.pool, f.diag, &stats));
    assert_int_equal(stats.known, units);
    assert_int_equal(stats.tuned + stats.measured, 0);
    assert_int_equal(s.known, units);
    assert_int_equal(machine_gpu->launches, launches);
    assert_int_equal(machine_compiled, compiled);
    options = options_for(&f, &s, NULL); /* frozen: all is there; then something is not */
    options.frozen = true;
    fixture_ok(&f, syl_cuda_tune(model(&f), &options, f.pool, f.diag, &stats));
    options.n_rows = 0;
    syl_status status = syl_cuda_tune(model(&f), &options, f.pool, f.diag, &stats);
    fixture_error(&f, status, "tune-frozen", "are not tuned for Fake GPU 0", "frozen");
    assert_int_equal(status, SYL_MISMATCH);
    assert_int_equal(machine_gpu->launches, launches);
    machine_stop();
    fixture_close(&f);
}

/* An engine that is loaded then takes what was tuned, and says so. */
static void engines_take_what_was_tuned(void **state) {
    (void)state;
    fixture f;
    syl_engine *engine;
    fixture_open(&f, 2);
    machine_start(plain_rules);
    syl_engine_options options = {.device = "cuda", .cache_dir = test_folder};
    fixture_ok(&f, syl_engine_load(model(&f), &options, f.pool, f.diag, &engine));
    assert_int_equal(engine->stats.tuned, engine->stats.kernels);
    const syl_cuda_loaded *loaded = syl_cuda_loaded_for(syl_cuda_engine_of(engine), 0, 1);
    assert_string_equal(text_of(&f, &loaded->variant), "rows threads=128");
    syl_cuda_variant best;
    assert_true(syl_cuda_variants(loaded->kernel, &syl_cuda_engine_of(engine)->target, 512, &best, 1) == 1);
    loaded = syl_cuda_loaded_for(syl_cuda_engine_of(engine), 0, 512); /* which was not tuned for */
    assert_memory_equal(&loaded->variant, &best, sizeof best);
    syl_engine_destroy(engine);
    forget(&f); /* without the database the cost model chooses */
    fixture_ok(&f, syl_engine_load(model(&f), &options, f.pool, f.diag, &engine));
    assert_int_equal(engine->stats.tuned, 0);
    syl_engine_destroy(engine);
    FILE *file = fopen(test_path(&f, "tuning.db"), "w"); /* and with a damaged one, which it says */
    fputs("damaged, damaged, damaged", file);
    fclose(file);
    fixture_ok(&f, syl_engine_load(model(&f), &options, f.pool, f.diag, &engine));
    assert_int_equal(engine->stats.tuned, 0);
    assert_true(fixture_said(&f, "kernels are chosen by the cost model") && fixture_said(&f, "is damaged"));
    syl_engine_destroy(engine);
    forget(&f);
    machine_stop();
    fixture_close(&f);
}

static void bad_variants_are_never_chosen(void **state) {
    (void)state;
    fixture f;
    seen s;
    syl_tune_stats stats;
    fixture_open(&f, 2);
    forget(&f);
    machine_start(bad_rules);
    syl_tune_options options = options_for(&f, &s, "^k0$");
    options.exhaustive = true;
    fixture_ok(&f, syl_cuda_tune(model(&f), &options, f.pool, f.diag, &stats));
    assert_int_equal(stats.bad, 2);
    assert_string_equal(s.best, "rows threads=64");
    assert_string_equal(s.states, "good good good good wrong failed ");
    assert_string_equal(s.before, "rows threads=32"); /* the cost model's */
    assert_true(stats.worst > 0.74 && stats.worst < 0.76);
    machine_stop();
    fixture_close(&f);
}

static void a_lonely_reference_is_not_believed(void **state) {
    (void)state;
    fixture f;
    seen s;
    syl_tune_stats stats;
    syl_cuda_variant variant;
    fixture_open(&f, 2);
    forget(&f);
    machine_start(lonely_rules);
    syl_tune_options options = options_for(&f, &s, "^k0$");
    syl_status status = syl_cuda_tune(model(&f), &options, f.pool, f.diag, &stats);
    assert_true(fixture_said(&f, "every other variant gives other bits"));
    fixture_error(&f, status, "tune-bits", "do not compute the same bits", "a lonely reference");
    assert_false(chosen(&f, &variant));
    machine_stop();
    fixture_close(&f);
}

/* In this process a trap ends the run. What was measured stays, and the next run goes on without the one that did it. */
static void a_trap_here_ends_the_run(void **state) {
    (void)state;
    fixture f;
    seen s;
    syl_tune_stats stats;
    fixture_open(&f, 2);
    forget(&f);
    machine_start(trap_rules);
    syl_tune_options options = options_for(&f, &s, "^k0$");
    syl_status status = syl_cuda_tune(model(&f), &options, f.pool, f.diag, &stats);
    fixture_error(&f, status, "tune-worker", "lost the GPU", "a trap");
    machine_stop();
    machine_start(trap_rules);
    options = options_for(&f, &s, "^k0$");
    fixture_ok(&f, syl_cuda_tune(model(&f), &options, f.pool, f.diag, &stats));
    assert_int_equal(stats.tuned, 1);
    assert_int_equal(stats.bad, 0); /* of this run */
    assert_string_equal(s.best, "rows threads=32");
    assert_non_null(strstr(s.states, "crashed"));
    machine_stop();
    fixture_close(&f);
}

/* With a process for it each of them costs that process alone. */
static void each_fault_costs_one_process(void **state) {
    (void)state;
    fixture f;
    seen s;
    syl_tune_stats stats;
    fixture_open(&f, 2);
    forget(&f);
    model(&f);
    machine_start(deadly_rules);
    setenv("TEST_FOLDER", test_folder, 1);
    syl_tune_options options = options_for(&f, &s, "^k0$");
    options.worker = worker(&f, "deadly");
    options.limit = 5;
    fixture_ok(&f, syl_cuda_tune(model(&f), &options, f.pool, f.diag, &stats));
    assert_int_equal(stats.lost, 3);
    assert_int_equal(stats.bad, 3);
    assert_int_equal(stats.tuned, 1);
    assert_string_equal(s.best, "rows threads=32");
    assert_false(fixture_said(&f, "in this process"));
    assert_int_equal(machine_gpu->launches, 0); /* nothing ran here */
    options = options_for(&f, &s, "^k0$");      /* they are not tried again, by a run that looks at all */
    options.worker = worker(&f, "deadly");
    options.exhaustive = true;
    fixture_ok(&f, syl_cuda_tune(model(&f), &options, f.pool, f.diag, &stats));
    assert_int_equal(stats.lost + (int)stats.bad, 0);
    machine_stop();
    fixture_close(&f);
}

/* A run that is killed in the midst: the next one goes on with what is left. */
static void interrupted_runs_go_on(void **state) {
    (void)state;
    fixture f;
    seen s;
    syl_tune_stats stats;
    syl_tuning *tuning;
    int64_t before = 0, n;
    fixture_open(&f, 2);
    forget(&f);
    model(&f);
    pid_t pid = fork();
    if (pid == 0) {
        execl(program, program, "worker", "tune", (char *)NULL);
        _exit(127);
    }
    for (int i = 0; i < 2000 && before < 12; i++) {
        usleep(5000);
        syl_text text = {.arena = &f.arena};
        syl_diag *quiet = syl_diag_create(NULL, NULL);
        if (syl_tuning_open(test_folder, false, quiet, &tuning) == SYL_OK && tuning) {
            if (syl_tuning_export(tuning, quiet, &text, &n) == SYL_OK) before = n;
            syl_tuning_close(tuning);
        }
        syl_diag_destroy(quiet);
    }
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    assert_true(before >= 12);
    machine_start(plain_rules);
    syl_tune_options options = options_for(&f, &s, NULL);
    options.n_rows = 2;
    fixture_ok(&f, syl_cuda_tune(model(&f), &options, f.pool, f.diag, &stats));
    assert_true(stats.known >= 1);
    assert_int_equal(stats.known + stats.tuned, stats.units);
    machine_stop();
    fixture_close(&f);
}

/* Records that do not fit what there is now are passed over. */
static void stale_and_forged_choices_are_not_believed(void **state) {
    (void)state;
    fixture f;
    planned p;
    syl_cuda_properties gpu;
    syl_cuda_variant variant;
    fixture_open(&f, 1);
    forget(&f);
    machine_start(plain_rules);
    fixture_ok(&f, syl_cuda_properties_of("cuda", f.diag, &gpu));
    plan(&f, &(syl_tune_options){.budget = 60, .kernels = "^k0$"}, &p);
    const tune_unit *unit = &p.tune.units.p[0];
    const tune_code *code = unit->candidates[1].code;
    syl_tuning_machine machine;
    syl_tuning *tuning;
    fixture_ok(&f, syl_cuda_tuning_machine(&gpu, &f.arena, f.diag, &machine));
    const syl_tuning_choice good = {.kernel = unit->hash.hex,
                                    .rows = 1,
                                    .variant = code->text,
                                    .source = code->source.hex,
                                    .name = "x",
                                    .seconds = 1e-6};
    for (int i = 0; i < 6; i++) {
        syl_tuning_choice c = good;
        if (i == 1) c.source = "00000000000000000000000000000000"; /* of other templates */
        if (i == 2) c.variant = "rows threads=48";                 /* no legal value */
        if (i == 3)
            c.variant = "gemm_mma tokens=16 warps=4 blocks=1 stages=3"; /* of another kind of kernel */
        if (i == 4) c.variant = "'; DROP TABLE chosen; --";
        if (i == 5) c.rows = 8;
        forget(&f);
        fixture_ok(&f, syl_tuning_open(test_folder, true, f.diag, &tuning));
        fixture_ok(&f, syl_tuning_use(tuning, &machine, f.diag));
        fixture_ok(&f, syl_tuning_choose(tuning, &c, f.diag));
        syl_tuning_close(tuning);
        assert_int_equal(chosen(&f, &variant), i == 0);
        if (i == 0) assert_string_equal(text_of(&f, &variant), code->text);
    }
    drop(&p);
    machine_stop();
    fixture_close(&f);
}

static void devices_and_folders_are_needed(void **state) {
    (void)state;
    fixture f;
    seen s;
    syl_tune_stats stats;
    fixture_open(&f, 1);
    machine_start(plain_rules);
    syl_tune_options options = options_for(&f, &s, NULL);
    options.device = "cpu";
    syl_status status = syl_cuda_tune(model(&f), &options, f.pool, f.diag, &stats);
    fixture_error(&f, status, "tune-device", "\"cpu\"", "the CPU");
    options = options_for(&f, &s, NULL);
    options.cache_dir = NULL;
    status = syl_cuda_tune(model(&f), &options, f.pool, f.diag, &stats);
    fixture_error(&f, status, "tune-folder", "no cache folder", "no folder");
    machine_stop();
    fixture_close(&f);
}

/* ---- the worker's requests ---- */

static void requests_are_checked(void **state) {
    (void)state;
    static const char *const lines[][2] = {
        {"{\"id\": 1, \"do\": \"dance\"}", "nobody knows how to do"},
        {"{\"id\": 2, \"do\": \"try\", \"variant\": \"rows threads=32\"}", "no kernel was opened"},
        {"{\"id\": 3, \"do\": \"try\", \"variant\": \"rows threads=33\"}", "is no variant"},
        {"{\"id\": 4, \"do\": \"open\", \"kernel\": 99, \"rows\": 1, \"reference\": \"rows threads=32\"}",
         "the plan has no kernel k99"},
        {"{\"id\": 5, \"do\": \"open\", \"kernel\": 0, \"rows\": 0, \"reference\": \"rows threads=32\"}",
         "between 1 and"},
        {"{\"id\": 6, \"do\": \"race\", \"variants\": 1}", "expected an array"},
    };
    fixture f;
    tune_worker *w;
    fixture_open(&f, 1);
    machine_start(plain_rules);
    fixture_ok(&f, tune_worker_open(model(&f), "cuda", test_folder, f.pool, f.diag, &w));
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        syl_text answer = {.arena = &f.arena};
        assert_true(tune_worker_answer(w, lines[i][0], &answer));
        if (!strstr(answer.p, lines[i][1]) || !strstr(answer.p, "\"failed\"")) fail_msg("%s", answer.p);
    }
    syl_text answer = {.arena = &f.arena};
    assert_false(tune_worker_answer(w, "GET / HTTP/1.1", &answer));
    tune_worker_close(w);
    machine_stop();
    fixture_close(&f);
}

/* ---- this program as a worker ---- */

static int work(const char *mode) {
    bool deadly = strcmp(mode, "deadly") == 0, tunes = strcmp(mode, "tune") == 0;
    if (!deadly && !tunes) _exit(lie(mode)); /* at once, whatever it has in its hands */
    fixture f;
    syl_tune_stats stats;
    fixture_open(&f, 2);
    snprintf(test_folder, sizeof test_folder, "%s", getenv("TEST_FOLDER"));
    machine_start(deadly ? deadly_rules : plain_rules);
    syl_status status;
    if (deadly) {
        status =
            syl_cuda_tune_serve(model(&f), "cuda", test_folder, STDIN_FILENO, STDOUT_FILENO, f.pool, f.diag);
    } else {
        const syl_tune_options options = {.device = "cuda",
                                          .cache_dir = test_folder,
                                          .budget = 60,
                                          .rows = one_row,
                                          .n_rows = 2,
                                          .limit = 20};
        status = syl_cuda_tune(model(&f), &options, f.pool, f.diag, &stats);
    }
    fixture_close(&f);
    return status == SYL_OK ? 0 : 1;
}

static int make_all(void **state) {
    int made = make_folder(state);
    setenv("TEST_FOLDER", test_folder, 1);
    return made;
}

int main(int argc, char **argv) {
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (n <= 0) return 1;
    if (argc == 3 && strcmp(argv[1], "worker") == 0) return work(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_cost_model_prunes),
        cmocka_unit_test(candidates_are_in_the_models_order),
        cmocka_unit_test(budgets_prune),
        cmocka_unit_test(units_are_picked),
        cmocka_unit_test(limits_of_rows_are_kept),
        cmocka_unit_test(workers_may_not_be_trusted),
        cmocka_unit_test(workers_that_cannot_begin_are_named),
        cmocka_unit_test(the_quickest_is_chosen),
        cmocka_unit_test(a_second_run_tunes_nothing),
        cmocka_unit_test(engines_take_what_was_tuned),
        cmocka_unit_test(bad_variants_are_never_chosen),
        cmocka_unit_test(a_lonely_reference_is_not_believed),
        cmocka_unit_test(a_trap_here_ends_the_run),
        cmocka_unit_test(each_fault_costs_one_process),
        cmocka_unit_test(interrupted_runs_go_on),
        cmocka_unit_test(stale_and_forged_choices_are_not_believed),
        cmocka_unit_test(devices_and_folders_are_needed),
        cmocka_unit_test(requests_are_checked),
    };
    return cmocka_run_group_tests(tests, make_all, remove_folder);
}
