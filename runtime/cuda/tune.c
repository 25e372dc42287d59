/* Tuning a plan (tune.h): units one after the other, while the next ones are compiled. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "runtime/cuda/engine.h"
#include "runtime/cuda/tune.h"
#include "runtime/cuda/tuned.h"

enum { MOST_RACERS = 8, MOST_RACERS_EXHAUSTIVE = 14, REFERENCES = 3 };
static const double CLOSE = 1.25;   /* times of the first look that may turn out to be the best */
static const double PATIENCE = 1.5; /* times its share of the time that a unit may take */

typedef struct tuner {
    const syl_tune_options *options;
    syl_pool *pool;
    syl_diag *diag;
    syl_arena arena;
    syl_engine engine; /* artifact and plan */
    syl_cuda_properties gpu;
    syl_cuda_target target;
    tune_plan plan;
    syl_tuning *tuning;        /* NULL: frozen, and there is none */
    bool *known;               /* [unit] */
    syl_tuning_choice *before; /* [unit] what the database has */
    tune_compiler *compiler;
    tune_link *link;
    bool opened; /* the unit at hand, by the process that runs now */
    double start, end;
    int done;
    int disagreeing; /* units whose reference is alone with its bits */
    syl_tune_stats stats;
} tuner;

/* ---- what is known ---- */

static tune_candidate *candidate_of(const tune_unit *unit, const char *variant, const char *source) {
    for (size_t i = 0; i < unit->n; i++) {
        tune_candidate *c = &unit->candidates[i];
        if (strcmp(c->code->text, variant) == 0 && strcmp(c->code->source.hex, source) == 0) return c;
    }
    return NULL;
}

/* Takes over what earlier runs measured: good and bad. */
static syl_status recall(tuner *t, tune_unit *unit) {
    syl_tuning_measured *list;
    size_t n;
    if (!t->tuning) return SYL_OK;
    SYL_TRY(syl_tuning_list(t->tuning, &t->arena, unit->hash.hex, unit->rows, t->diag, &list, &n));
    for (size_t i = 0; i < n; i++) {
        tune_candidate *c = candidate_of(unit, list[i].variant, list[i].source);
        if (!c) continue;
        c->measured = true;
        c->state = list[i].state;
        c->seconds = list[i].seconds;
        c->registers = list[i].registers;
        c->shared = list[i].shared;
        c->why = c->state == SYL_TUNING_GOOD ? "" : "found by an earlier run";
    }
    return SYL_OK;
}

/* A choice holds if its variant still is one of the kernel's and, where the time cut it short, more time was not given now. */
static bool holds(const tuner *t, const tune_unit *unit, const syl_tuning_choice *choice) {
    if (!choice->variant || t->options->exhaustive) return false;
    syl_cuda_variant variant;
    if (!syl_cuda_variant_parse(choice->variant, &variant)) return false;
    bool there = false;
    for (size_t i = 0; i < t->plan.codes.n && !there; i++) {
        const tune_code *code = t->plan.codes.p[i];
        there = code->kernel == unit->kernel && strcmp(code->text, choice->variant) == 0 &&
                strcmp(code->source.hex, choice->source) == 0;
    }
    return there && (choice->tried >= choice->candidates || t->options->frozen || choice->budget == 0 ||
                     choice->budget >= t->options->budget);
}

static syl_status look_up(tuner *t) {
    t->known = SYL_NEW_ARRAY(&t->arena, bool, t->plan.units.n + 1);
    t->before = SYL_NEW_ARRAY(&t->arena, syl_tuning_choice, t->plan.units.n + 1);
    for (size_t i = 0; i < t->plan.units.n; i++) {
        tune_unit *unit = &t->plan.units.p[i];
        if (t->tuning)
            SYL_TRY(
                syl_tuning_find(t->tuning, &t->arena, unit->hash.hex, unit->rows, t->diag, &t->before[i]));
        t->known[i] = holds(t, unit, &t->before[i]);
        t->stats.known += t->known[i];
        SYL_TRY(recall(t, unit));
    }
    t->stats.units = (int)t->plan.units.n;
    return SYL_OK;
}

/* ---- records ---- */

static syl_status record(tuner *t, const tune_unit *unit, const tune_candidate *c) {
    const syl_tuning_measured m = {.kernel = unit->hash.hex,
                                   .rows = unit->rows,
                                   .variant = c->code->text,
                                   .source = c->code->source.hex,
                                   .name = unit->kernel->name,
                                   .state = c->state,
                                   .seconds = c->state == SYL_TUNING_GOOD ? c->seconds : 0,
                                   .model = c->model,
                                   .registers = c->registers,
                                   .shared = c->shared,
                                   .date = (int64_t)time(NULL)};
    return syl_tuning_put(t->tuning, &m, t->diag);
}

static void measured(tuner *t, tune_candidate *c, syl_tuning_state state, double seconds, const char *why) {
    c->measured = c->here = true;
    c->state = state;
    c->seconds = seconds;
    c->why = syl_arena_strdup(&t->arena, why);
    t->stats.measured++;
    t->stats.bad += state != SYL_TUNING_GOOD;
}

/* ---- questions ---- */

static tune_outcome ask(tuner *t, const char *request, int expected, tune_answer *out) {
    tune_outcome outcome = tune_link_ask(t->link, request, expected, t->diag, out);
    if (outcome != TUNE_ANSWERED) t->opened = false;
    return outcome;
}

static const char *quoted(syl_arena *arena, const char *text) {
    syl_text out = {.arena = arena};
    syl_json_quote(&out, text);
    return out.p;
}

/* Waits for the code. One that does not compile is measured by that. */
static bool compiled(tuner *t, tune_candidate *c, double until) {
    if (!tune_compiler_wait(t->compiler, c->code, until)) return false;
    c->registers = c->code->resources.registers;
    c->shared = c->code->launch.shared + (c->code->resources.shared > 0 ? c->code->resources.shared : 0);
    if (!c->code->compiled && !c->measured) measured(t, c, SYL_TUNING_FAILED, 0, c->code->why);
    return c->code->compiled;
}

static bool is_good(const tune_candidate *c) {
    return c->measured && c->state == SYL_TUNING_GOOD;
}
static bool is_bad(const tune_candidate *c) {
    return c->measured && c->state != SYL_TUNING_GOOD;
}

/* Opens the unit with a reference: the first candidate with which it can be. *out NULL: with none, or the time is up. */
static syl_status open_unit(tuner *t, tune_unit *unit, double until, tune_candidate **out) {
    int failed = 0;
    *out = NULL;
    for (size_t i = 0; i < unit->n && failed < REFERENCES; i++) {
        tune_candidate *c = &unit->candidates[i];
        tune_answer answer;
        if (is_bad(c)) continue;
        if (!compiled(t, c, until)) {
            if (!is_bad(c)) return SYL_OK; /* the time */
            SYL_TRY(record(t, unit, c));
            continue;
        }
        const char *request =
            syl_arena_printf(&t->arena, "\"do\": \"open\", \"kernel\": %d, \"rows\": %lld, \"reference\": %s",
                             unit->number, (long long)unit->rows, quoted(&t->arena, c->code->text));
        tune_outcome outcome = ask(t, request, 0, &answer);
        if (outcome == TUNE_BROKEN) return SYL_DEVICE;
        if (outcome == TUNE_ANSWERED && answer.state == SYL_TUNING_GOOD) {
            t->opened = true;
            *out = c;
            return SYL_OK;
        }
        failed++;
        measured(t, c, answer.state, 0, answer.message);
        if (outcome != TUNE_ANSWERED) SYL_TRY(record(t, unit, c));
        if (outcome == TUNE_ANSWERED) c->measured = false; /* memory, perhaps: another day it may do */
    }
    return SYL_OK;
}

static syl_status try_candidate(tuner *t, tune_unit *unit, tune_candidate *c) {
    tune_answer answer;
    const char *request =
        syl_arena_printf(&t->arena, "\"do\": \"try\", \"variant\": %s", quoted(&t->arena, c->code->text));
    tune_outcome outcome = ask(t, request, 1, &answer);
    if (outcome == TUNE_BROKEN) return SYL_DEVICE;
    measured(t, c, answer.state, answer.n ? answer.seconds[0] : 0, answer.message);
    /* one that differs is recorded when it is clear that it is not the reference that is wrong */
    return c->state == SYL_TUNING_WRONG ? SYL_OK : record(t, unit, c);
}

/* ---- the race ---- */

static int compare_times(const void *a, const void *b) {
    const tune_candidate *x = *(tune_candidate *const *)a, *y = *(tune_candidate *const *)b;
    if (x->seconds != y->seconds) return x->seconds < y->seconds ? -1 : 1;
    return (x > y) - (x < y); /* the model's order */
}

/* Those that may be the best, the quickest first, and what was chosen before. */
static size_t pick_racers(const tuner *t, const tune_unit *unit, tune_candidate *before,
                          tune_candidate **out) {
    size_t n = 0, kept = 0, most = t->options->exhaustive ? MOST_RACERS_EXHAUSTIVE : MOST_RACERS;
    tune_candidate **good = malloc((unit->n + 1) * sizeof(tune_candidate *));
    for (size_t i = 0; i < unit->n && good; i++)
        if (is_good(&unit->candidates[i])) good[n++] = &unit->candidates[i];
    if (n) qsort(good, n, sizeof(tune_candidate *), compare_times);
    while (kept < n && kept < most && good[kept]->seconds <= CLOSE * good[0]->seconds) {
        out[kept] = good[kept];
        kept++;
    }
    for (size_t i = 0; before && i < kept; i++)
        if (out[i] == before) before = NULL;
    if (before && is_good(before)) out[kept++] = before;
    free(good);
    return kept;
}

static tune_outcome ask_race(tuner *t, tune_candidate *const *racers, size_t n, tune_answer *answer) {
    syl_text request = {.arena = &t->arena};
    syl_text_printf(&request, "\"do\": \"race\", \"variants\": [");
    for (size_t i = 0; i < n; i++)
        syl_text_printf(&request, "%s%s", i ? ", " : "", quoted(&t->arena, racers[i]->code->text));
    syl_text_printf(&request, "]");
    return ask(t, request.p, (int)n, answer);
}

/* Of a race that ended a process, each by itself: who did it is found, and the others have their times. */
static syl_status race_alone(tuner *t, tune_unit *unit, tune_candidate *const *racers, size_t n,
                             double until) {
    for (size_t i = 0; i < n; i++) {
        tune_candidate *reference;
        tune_answer answer;
        if (!t->opened) SYL_TRY(open_unit(t, unit, until, &reference));
        if (!t->opened) return SYL_OK;
        tune_outcome outcome = ask_race(t, &racers[i], 1, &answer);
        if (outcome == TUNE_BROKEN) return SYL_DEVICE;
        bool good = outcome == TUNE_ANSWERED && answer.state == SYL_TUNING_GOOD;
        measured(t, racers[i], good ? SYL_TUNING_GOOD : answer.state, good ? answer.seconds[0] : 0,
                 answer.message);
    }
    return SYL_OK;
}

static syl_status race(tuner *t, tune_unit *unit, tune_candidate *before, double until) {
    tune_candidate *racers[MOST_RACERS_EXHAUSTIVE + 2], *reference;
    tune_answer answer;
    size_t n = pick_racers(t, unit, before, racers);
    if (n > 1) {
        if (!t->opened) SYL_TRY(open_unit(t, unit, until, &reference));
        if (!t->opened) return SYL_OK; /* the first times stay */
        tune_outcome outcome = ask_race(t, racers, n, &answer);
        if (outcome == TUNE_BROKEN) return SYL_DEVICE;
        if (outcome == TUNE_ANSWERED && answer.state == SYL_TUNING_GOOD)
            for (size_t i = 0; i < n; i++) racers[i]->seconds = answer.seconds[i];
        else
            SYL_TRY(race_alone(t, unit, racers, n, until));
        for (size_t i = 0; i < n; i++) {
            racers[i]->raced = is_good(racers[i]);
            SYL_TRY(record(t, unit, racers[i]));
        }
    }
    return SYL_OK;
}

/* ---- a unit ---- */

/* Of those that raced, if any did: a first look at another clock may have been luckier. */
static tune_candidate *quickest(const tune_unit *unit) {
    tune_candidate *best = NULL;
    for (size_t i = 0; i < unit->n; i++) {
        tune_candidate *c = &unit->candidates[i];
        if (!is_good(c) || (best && best->raced && !c->raced)) continue;
        if (!best || c->raced > best->raced || c->seconds < best->seconds) best = c;
    }
    return best;
}

static void report(tuner *t, size_t number, const tune_candidate *before) {
    const tune_unit *unit = &t->plan.units.p[number];
    syl_tune_unit_report r;
    syl_arena arena;
    if (!t->options->report) return;
    syl_arena_init(&arena);
    tune_report_unit(&t->plan, unit, &t->gpu, &arena, &r);
    r.done = t->done;
    r.total = t->stats.units;
    r.known = t->known[number];
    if (before && is_good(before)) {
        r.before = before->seconds;
        r.before_variant = before->code->text;
    }
    t->options->report(t->options->user, &r);
    syl_arena_free(&arena);
}

/* All that differ from the reference, and none that agrees with it: which of them is right is not known. */
static bool disagree(const tune_unit *unit) {
    size_t good = 0, wrong = 0;
    for (size_t i = 0; i < unit->n; i++) {
        good += is_good(&unit->candidates[i]);
        wrong += unit->candidates[i].measured && unit->candidates[i].state == SYL_TUNING_WRONG;
    }
    return good == 1 && wrong > 1;
}

static syl_status finish_unit(tuner *t, size_t number, tune_candidate *before) {
    tune_unit *unit = &t->plan.units.p[number];
    tune_candidate *best = quickest(unit);
    int64_t tried = 0;
    if (disagree(unit)) {
        t->disagreeing++;
        syl_warning(t->diag, SYL_NOWHERE,
                    "kernel k%d (%s) for %lld rows: every other variant gives other bits than \"%s\"",
                    unit->number, unit->kernel->name, (long long)unit->rows, best->code->text);
        report(t, number, NULL);
        return SYL_OK;
    }
    for (size_t i = 0; i < unit->n; i++) {
        const tune_candidate *c = &unit->candidates[i];
        tried += c->measured;
        if (c->here && c->state == SYL_TUNING_WRONG) SYL_TRY(record(t, unit, c));
    }
    if (!best) {
        const tune_candidate *first = &unit->candidates[0];
        syl_warning(t->diag, SYL_NOWHERE, "kernel k%d (%s) for %lld rows cannot be measured: %s",
                    unit->number, unit->kernel->name, (long long)unit->rows,
                    *first->why ? first->why : "the time was not enough to compile it");
        t->stats.left++;
        return SYL_OK;
    }
    syl_tuning_choice choice = {.kernel = unit->hash.hex,
                                .rows = unit->rows,
                                .variant = best->code->text,
                                .source = best->code->source.hex,
                                .name = unit->kernel->name,
                                .seconds = best->seconds,
                                .tried = tried,
                                .candidates = (int64_t)unit->n,
                                .budget = t->options->exhaustive ? 0 : t->options->budget,
                                .date = (int64_t)time(NULL)};
    SYL_TRY(syl_tuning_choose(t->tuning, &choice, t->diag));
    t->stats.tuned++;
    if (before && is_good(before)) {
        double share = best->seconds / before->seconds;
        if (t->stats.worst == 0 || share < t->stats.worst) t->stats.worst = share;
    }
    report(t, number, before);
    return SYL_OK;
}

/* The time that a unit may take: its share of what is left, by candidates. */
static double allowance(const tuner *t, size_t number) {
    double left = 0, own = 0;
    if (t->options->exhaustive) return 1e9;
    for (size_t i = number; i < t->plan.units.n; i++)
        if (!t->known[i]) left += (double)t->plan.units.p[i].n;
    own = (double)t->plan.units.p[number].n;
    double share = left > 0 ? (t->end - tune_now()) * own / left * PATIENCE : 0;
    return share > 0.2 ? share : 0.2;
}

static syl_status tune_one(tuner *t, size_t number) {
    tune_unit *unit = &t->plan.units.p[number];
    tune_candidate *reference = NULL, *before = NULL;
    double until = tune_now() + allowance(t, number);
    if (until > t->end) until = t->end;
    if (t->options->exhaustive) {
        const syl_tuning_choice *old = &t->before[number];
        before = old->variant ? candidate_of(unit, old->variant, old->source) : NULL;
        if (!before) before = &unit->candidates[0];
    }
    t->opened = false;
    SYL_TRY(open_unit(t, unit, t->end, &reference));
    if (reference && !reference->measured) SYL_TRY(try_candidate(t, unit, reference));
    for (size_t i = 0; i < unit->n && (t->opened || reference); i++) {
        tune_candidate *c = &unit->candidates[i];
        if (c->measured) continue;
        if (tune_now() > until || !compiled(t, c, until)) {
            if (!is_bad(c)) break;
            SYL_TRY(record(t, unit, c));
            continue;
        }
        if (!t->opened) SYL_TRY(open_unit(t, unit, t->end, &reference));
        if (!reference) break;
        if (!c->measured) SYL_TRY(try_candidate(t, unit, c));
    }
    SYL_TRY(race(t, unit, before, t->end));
    return finish_unit(t, number, before);
}

/* ---- the whole ---- */

static syl_status open_all(tuner *t, const char *path) {
    const syl_tune_options *o = t->options;
    syl_tuning_machine machine;
    if (strncmp(o->device, "cuda", 4) != 0)
        return syl_error(t->diag, SYL_ERR_tune_device, SYL_NOWHERE, "the device is \"%s\"", o->device);
    if (!o->cache_dir)
        return syl_error(t->diag, SYL_ERR_tune_folder, SYL_NOWHERE, "there is no cache folder");
    SYL_TRY(syl_artifact_open(path, t->diag, &t->engine.artifact));
    SYL_TRY(syl_plan_create_cuda(t->engine.artifact.module, t->diag, &t->engine.plan));
    SYL_TRY(syl_cuda_properties_of(o->device, t->diag, &t->gpu));
    SYL_TRY(syl_cuda_find_target(&t->gpu, t->diag, &t->target));
    SYL_TRY(syl_cuda_tuning_machine(&t->gpu, &t->arena, t->diag, &machine));
    SYL_TRY(syl_tuning_open(o->cache_dir, !o->frozen, t->diag, &t->tuning));
    return t->tuning ? syl_tuning_use(t->tuning, &machine, t->diag) : SYL_OK;
}

/* Two cores or more: one is for who measures. */
static int compiling_threads(const tuner *t) {
    int threads = syl_pool_threads(t->pool);
    return threads > 2 ? threads - 1 : threads;
}

static syl_status start_compiling(tuner *t) {
    SYL_VEC(tune_code *) list = {0};
    for (size_t i = 0; i < t->plan.units.n; i++) {
        const tune_unit *unit = &t->plan.units.p[i];
        for (size_t c = 0; c < unit->n && !t->known[i]; c++) {
            tune_code *code = unit->candidates[c].code;
            if (code->queued || is_bad(&unit->candidates[c])) continue;
            code->queued = true;
            SYL_PUSH(&t->arena, &list, code);
        }
    }
    return tune_compiler_start(&t->target, t->options->cache_dir, compiling_threads(t), list.p, list.n,
                               t->diag, &t->compiler);
}

static syl_status refuse_frozen(tuner *t) {
    int missing = t->stats.units - t->stats.known;
    size_t first = 0;
    while (first < t->plan.units.n && t->known[first]) first++;
    if (!missing) return SYL_OK;
    const tune_unit *unit = &t->plan.units.p[first];
    return syl_error(t->diag, SYL_ERR_tune_frozen, SYL_NOWHERE,
                     "%d of %d choices are not tuned for %s; the first is kernel k%d (%s) for %lld rows",
                     missing, t->stats.units, t->gpu.name, unit->number, unit->kernel->name,
                     (long long)unit->rows);
}

static syl_status tune_units(tuner *t) {
    for (size_t i = 0; i < t->plan.units.n; i++) {
        tune_unit *unit = &t->plan.units.p[i];
        if (t->known[i]) {
            t->done++;
            report(t, i, NULL);
            continue;
        }
        if (t->options->frozen) continue;
        if (tune_now() > t->end) {
            t->stats.left++;
            continue;
        }
        if (t->options->progress)
            t->options->progress(t->options->user, (double)t->done, (double)t->stats.units,
                                 unit->kernel->name);
        t->done++;
        SYL_TRY(tune_one(t, i));
    }
    return SYL_OK;
}

static syl_status tune_all(tuner *t, const char *path) {
    const syl_tune_options *o = t->options;
    SYL_TRY(open_all(t, path));
    t->plan = (tune_plan){.arena = &t->arena, .plan = t->engine.plan, .target = &t->target};
    SYL_TRY(tune_plan_make(&t->plan, o, compiling_threads(t), t->diag));
    SYL_TRY(look_up(t));
    bool work = t->stats.known < t->stats.units && !o->frozen;
    if (work && !o->worker)
        syl_warning(
            t->diag, SYL_NOWHERE,
            "kernels are measured in this process: one that fails ends its use of the GPU, and one that "
            "hangs cannot be ended");
    if (work) {
        const tune_link_options link = {.worker = o->worker,
                                        .path = path,
                                        .device = o->device,
                                        .cache_dir = o->cache_dir,
                                        .limit = o->limit,
                                        .pool = t->pool};
        SYL_TRY(tune_link_open(&link, t->diag, &t->link));
        SYL_TRY(start_compiling(t));
    }
    SYL_TRY(tune_units(t));
    if (o->frozen) return refuse_frozen(t);
    if (t->disagreeing)
        return syl_error(t->diag, SYL_ERR_tune_bits, SYL_NOWHERE,
                         "variants of %d kernels do not compute the same bits", t->disagreeing);
    return SYL_OK;
}

syl_status syl_cuda_tune(const char *path, const syl_tune_options *options, syl_pool *pool, syl_diag *diag,
                         syl_tune_stats *out) {
    double now = tune_now();
    tuner t = {.options = options, .pool = pool, .diag = diag, .start = now};
    t.end = options->exhaustive ? now + 1e9 : now + options->budget;
    syl_arena_init(&t.arena);
    syl_status status = tune_all(&t, path);
    if (t.compiler) t.stats.compile_s = tune_compiler_seconds(t.compiler);
    if (t.link) t.stats.lost = tune_link_lost(t.link);
    tune_compiler_stop(t.compiler);
    tune_link_close(t.link);
    syl_tuning_close(t.tuning);
    syl_plan_destroy(t.engine.plan);
    syl_artifact_close(&t.engine.artifact);
    syl_arena_free(&t.arena);
    t.stats.seconds = tune_now() - now;
    *out = t.stats;
    return status;
}
