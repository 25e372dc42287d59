/* syl tune: measures kernels on the GPU, so that models run the quickest of their variants. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "tools/tool.h"

typedef struct settings {
    const char *budget, *kernels, *rows, *export_to, *import_from;
    double limit;
    bool explain, exhaustive, frozen, worker;
} settings;

static const opt_spec options[] = {
    OPT_ROW_TEXT(settings, budget, "budget", 0, "TIME", "time to spend: 60s (the default), 5m, 1h"),
    OPT_ROW_TEXT(settings, kernels, "kernels", 0, "RE",
                 "only kernels whose name or number (k3) matches an extended regular expression"),
    OPT_ROW_TEXT(settings, rows, "rows", 0, "LIST", "only for these numbers of rows: 1,16,512"),
    OPT_ROW_FLAG(settings, explain, "explain", 0,
                 "show all candidates with their times, and why the quickest is the quickest"),
    OPT_ROW_FLAG(settings, exhaustive, "exhaustive", 0,
                 "measure all variants, without a limit of time, also where something is tuned; shows how "
                 "near to the best the choice of before was"),
    OPT_ROW_FLAG(settings, frozen, "frozen", 0,
                 "measure and write nothing; an error if something is not tuned"),
    OPT_ROW_TEXT(settings, export_to, "export", 0, "FILE.jsonl",
                 "write all that was measured, of all models and machines"),
    OPT_ROW_TEXT(settings, import_from, "import", 0, "FILE.jsonl", "take over what --export wrote"),
    OPT_ROW_NUMBER(settings, limit, "limit", 0, "SECONDS", 0.1, 3600,
                   "a variant that takes longer counts as hanging (default: 30)"),
    OPT_ROW_FLAG(settings, worker, "worker", 0,
                 "measure what the standard input asks for; syl tune starts such a process by itself"),
    {0},
};

static void defaults(void *user) {
    ((settings *)user)->limit = 30;
}

/* ---- options ---- */

static syl_status parse_time(tool *t, const char *text, double *out) {
    char *end;
    errno = 0;
    *out = strtod(text, &end);
    double unit = strcmp(end, "m") == 0 ? 60 : strcmp(end, "h") == 0 ? 3600 : 1;
    bool known = !*end || strcmp(end, "s") == 0 || unit > 1;
    *out *= unit;
    if (end != text && known && !errno && *out >= 1 && *out <= 7 * 86400) return SYL_OK;
    return syl_error(t->diag, SYL_ERR_cli_value, SYL_NOWHERE,
                     "--budget is \"%s\", expected a time between 1s and 7 days, such as 60s, 5m or 1h",
                     text);
}

static syl_status parse_rows(tool *t, const char *text, int64_t **out, size_t *n) {
    SYL_VEC(int64_t) list = {0};
    for (const char *at = text; at && *at;) {
        char *end;
        errno = 0;
        long long value = strtoll(at, &end, 10);
        if (end == at || errno || value < 1 || value > INT32_MAX || (*end && *end != ','))
            return syl_error(t->diag, SYL_ERR_tune_rows, SYL_NOWHERE, "--rows is \"%s\"", text);
        SYL_PUSH(&t->arena, &list, value);
        at = *end ? end + 1 : end;
    }
    if (text && !list.n) return syl_error(t->diag, SYL_ERR_tune_rows, SYL_NOWHERE, "--rows is \"%s\"", text);
    *out = list.p;
    *n = list.n;
    return SYL_OK;
}

/* ---- reports ---- */

typedef struct reporter {
    tool *t;
    const settings *s;
    tool_progress progress;
    syl_text choices; /* JSON */
    syl_status status;
} reporter;

/* The candidate that would have run untuned: that of which the cost model expects most. */
static const syl_tune_candidate *untuned(const syl_tune_report *r) {
    const syl_tune_candidate *first = NULL;
    for (size_t i = 0; i < r->n_candidates; i++)
        if (!first || r->candidates[i].expected_s < first->expected_s) first = &r->candidates[i];
    return first && first->seconds > 0 ? first : NULL;
}

static size_t count_measured(const syl_tune_report *r) {
    size_t n = 0;
    for (size_t i = 0; i < r->n_candidates; i++) n += r->candidates[i].state[0] != 0;
    return n;
}

static void print_line(const syl_tune_report *r, syl_text *out) {
    const syl_tune_candidate *best = r->n_candidates ? &r->candidates[0] : NULL, *model = untuned(r);
    char number[16];
    snprintf(number, sizeof number, "k%d", r->kernel_number);
    syl_text_printf(out, "%-4s %-32.32s %5lld rows", number, r->kernel, (long long)r->rows);
    if (best && best->seconds > 0) {
        syl_text_printf(out, "  %9.2f us  %-44s", 1e6 * best->seconds, best->variant);
        if (model) syl_text_printf(out, "  %.2fx the cost model's", model->seconds / best->seconds);
        if (r->before)
            syl_text_printf(out, "; before: %.1f %% of it (%s)", 100 * best->seconds / r->before_s,
                            r->before);
    }
    syl_text_printf(out, "%s\n", r->known ? "  (known)" : "");
}

static void print_table(const syl_tune_report *r, syl_text *out) {
    syl_text_printf(
        out, "     %lld steps of a run, %.3f MB, %.3f Gop a launch; %zu of %zu variants measured\n",
        (long long)r->steps, 1e-6 * r->bytes, 1e-9 * r->operations, count_measured(r), r->all_candidates);
    syl_text_printf(out, "     why: %s\n", r->why);
    syl_text_printf(out, "     %10s %10s %5s %5s %7s %7s %6s  %s\n", "measured", "model", "regs", "thr",
                    "shared", "blocks", "waves", "variant");
    for (size_t i = 0; i < r->n_candidates; i++) {
        const syl_tune_candidate *c = &r->candidates[i];
        char time[24];
        if (!c->state[0]) continue;
        snprintf(time, sizeof time, c->seconds > 0 ? "%.2f us" : "-", 1e6 * c->seconds);
        syl_text_printf(out, "     %10s %7.2f us %5d %5d %7lld %7lld %6.2f  %s%s%s%s%s\n", time,
                        1e6 * c->expected_s, c->registers, c->threads, (long long)c->shared,
                        (long long)c->blocks, c->waves, c->variant, c->seconds > 0 ? "" : "  ",
                        c->seconds > 0 ? "" : c->state, c->why[0] ? ": " : "", c->why);
    }
    syl_text_printf(out, "\n");
}

static void print_number(syl_text *out, const char *key, double value) {
    syl_text_printf(out, ", \"%s\": ", key);
    syl_json_print_number(out, value);
}

static void print_json(const reporter *p, const syl_tune_report *r, syl_text *out) {
    const syl_tune_candidate *best = r->n_candidates ? &r->candidates[0] : NULL;
    syl_text_printf(out, "%s{\"kernel\": %d, \"name\": ", out->n ? ", " : "", r->kernel_number);
    syl_json_quote(out, r->kernel);
    syl_text_printf(out, ", \"rows\": %lld, \"known\": %s", (long long)r->rows, r->known ? "true" : "false");
    if (best && best->seconds > 0) {
        syl_text_printf(out, ", \"variant\": ");
        syl_json_quote(out, best->variant);
        print_number(out, "seconds", best->seconds);
        if (untuned(r)) print_number(out, "model_choice_seconds", untuned(r)->seconds);
        if (r->before) print_number(out, "before_share", best->seconds / r->before_s);
    }
    syl_text_printf(out, ", \"tried\": %zu, \"candidates\": %zu, \"variants\": %zu", count_measured(r),
                    r->n_candidates, r->all_candidates);
    if (p->s->explain) {
        syl_text_printf(out, ", \"why\": ");
        syl_json_quote(out, r->why);
        print_number(out, "bytes", r->bytes);
        print_number(out, "operations", r->operations);
        print_number(out, "memory_s", r->memory_s);
        print_number(out, "arithmetic_s", r->arithmetic_s);
        syl_text_printf(out, ", \"measured\": [");
        for (size_t i = 0, n = 0; i < r->n_candidates; i++) {
            const syl_tune_candidate *c = &r->candidates[i];
            if (!c->state[0]) continue;
            syl_text_printf(out, "%s{\"variant\": ", n++ ? ", " : "");
            syl_json_quote(out, c->variant);
            syl_text_printf(out, ", \"state\": \"%s\"", c->state);
            print_number(out, "seconds", c->seconds);
            print_number(out, "expected_s", c->expected_s);
            syl_text_printf(out,
                            ", \"registers\": %d, \"threads\": %d, \"shared\": %lld, \"blocks\": %lld, "
                            "\"resident\": %d",
                            c->registers, c->threads, (long long)c->shared, (long long)c->blocks,
                            c->resident);
            print_number(out, "waves", c->waves);
            syl_text_printf(out, "}");
        }
        syl_text_printf(out, "]");
    }
    syl_text_printf(out, "}");
}

/* Choices that were known are shown where they are asked for. */
static void on_report(void *user, const syl_tune_report *r) {
    reporter *p = user;
    syl_arena arena;
    if (p->t->json) {
        print_json(p, r, &p->choices);
        return;
    }
    if (r->known && !p->s->explain && !p->s->frozen) return;
    syl_arena_init(&arena);
    syl_text text = {.arena = &arena};
    tool_progress_end(&p->progress);
    print_line(r, &text);
    if (p->s->explain) print_table(r, &text);
    syl_status status = tool_print(p->t, text.p, text.n);
    if (p->status == SYL_OK) p->status = status;
    syl_arena_free(&arena);
}

static void on_progress(void *user, double done, double total, const char *kernel) {
    reporter *p = user;
    tool_progress_update(&p->progress, done, total, kernel);
}

/* ---- the verb ---- */

static syl_status print_result(tool *t, const reporter *p, const syl_tune_result *r, int64_t imported,
                               int64_t exported) {
    if (t->json) {
        tool_json json = tool_json_begin(t);
        tool_json_int(&json, "choices", r->choices);
        tool_json_int(&json, "known", r->known);
        tool_json_int(&json, "tuned", r->tuned);
        tool_json_int(&json, "left", r->left);
        tool_json_int(&json, "measured", r->measured);
        tool_json_int(&json, "bad", r->bad);
        tool_json_int(&json, "lost_processes", r->lost);
        if (r->worst > 0) tool_json_number(&json, "worst_share", r->worst);
        tool_json_number(&json, "seconds", r->seconds);
        tool_json_number(&json, "compile_s", r->compile_s);
        tool_json_int(&json, "imported", imported);
        tool_json_int(&json, "exported", exported);
        syl_text list = {.arena = &t->arena};
        syl_text_printf(&list, "[%s]", p->choices.p ? p->choices.p : "");
        tool_json_raw(&json, "list", list.p);
        return tool_json_end(t, &json);
    }
    syl_text text = {.arena = &t->arena};
    if (r->choices && r->known == r->choices)
        syl_text_printf(&text, "nothing to tune: all %d choices are known\n", r->choices);
    else if (r->choices)
        syl_text_printf(&text,
                        "%d choices: %d tuned, %d known before, %d left; %lld variants measured in %.1f s, "
                        "%lld of them bad, %d processes lost\n",
                        r->choices, r->tuned, r->known, r->left, (long long)r->measured, r->seconds,
                        (long long)r->bad, r->lost);
    if (r->worst > 0)
        syl_text_printf(&text, "what was chosen before reaches at least %.1f %% of the best\n",
                        100 * r->worst);
    if (imported >= 0) syl_text_printf(&text, "%lld records taken over\n", (long long)imported);
    if (exported >= 0) syl_text_printf(&text, "%lld records written\n", (long long)exported);
    return tool_print(t, text.p ? text.p : "", text.n);
}

static syl_status run_import(tool *t, const char *path, int64_t *n) {
    enum { MOST = 256 << 20 };
    syl_source text;
    SYL_TRY(syl_file_read(&t->arena, path, MOST, t->diag, &text));
    return syl_tune_import(t->instance, path, text.text, text.size, n);
}

static syl_status run_export(tool *t, const char *path, int64_t *n) {
    char *text;
    size_t size;
    SYL_TRY(syl_tune_export(t->instance, &text, &size, n));
    syl_status status = syl_file_write(path, text, size, t->diag);
    syl_free(text);
    return status;
}

static syl_status run_tune(tool *t, const settings *s, const char *path, reporter *p,
                           syl_tune_result *result) {
    /* This program again, called as it was called: one program may be several by its name. */
    const char *arguments[] = {t->program, "tune", "--worker", path, t->device ? "--device" : NULL,
                               t->device,  NULL};
    syl_tune_settings how = {.size = sizeof how,
                             .kernels = s->kernels,
                             .frozen = s->frozen,
                             .exhaustive = s->exhaustive,
                             .worker = "/proc/self/exe",
                             .worker_arguments = arguments,
                             .limit_s = s->limit,
                             .report = on_report,
                             .progress = on_progress,
                             .user = p};
    int64_t *rows;
    SYL_TRY(parse_time(t, s->budget ? s->budget : "60s", &how.budget_s));
    SYL_TRY(parse_rows(t, s->rows, &rows, &how.n_rows));
    how.rows = rows;
    syl_status status = syl_tune_file(t->instance, path, &how, result);
    tool_progress_end(&p->progress);
    return status == SYL_OK ? p->status : status;
}

/* Ends with its parent, also where it is in the midst of a kernel that never ends. */
static syl_status run_worker(tool *t, const char *path) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    return syl_tune_worker(t->instance, path, STDIN_FILENO, STDOUT_FILENO);
}

static syl_status run(tool *t, void *user, const char **args, int n_args) {
    const settings *s = user;
    syl_instance *instance;
    reporter p = {.t = t, .s = s, .progress = tool_progress_begin(t, "tune"), .choices.arena = &t->arena};
    syl_tune_result result = {.size = sizeof result};
    int64_t imported = -1, exported = -1;
    if (!n_args && !s->export_to && !s->import_from)
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE,
                         "syl tune takes a file, --export or --import");
    if (s->worker && !n_args)
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE, "--worker goes with a file");
    if (s->frozen && (s->import_from || s->exhaustive))
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE,
                         "--frozen writes nothing: it goes with neither --import nor --exhaustive");
    SYL_TRY(tool_instance(t, &instance));
    if (s->worker) return run_worker(t, args[0]);
    if (s->import_from) SYL_TRY(run_import(t, s->import_from, &imported));
    if (n_args) SYL_TRY(run_tune(t, s, args[0], &p, &result));
    if (s->export_to) SYL_TRY(run_export(t, s->export_to, &exported));
    return print_result(t, &p, &result, imported, exported);
}

const verb verb_tune = {
    .name = "tune",
    .summary = "measure kernels on this GPU, and keep the quickest",
    .usage = "[FILE.syl] [--budget 60s] [--kernels RE] [--rows LIST] [--explain] [--export F] [--import F]",
    .details =
        "Every kernel of the model has variants, which compute the same bits at different speeds. Those "
        "that the cost model\n"
        "likes best are measured for each number of rows, in a process of their own; what is found is "
        "kept in the\n"
        "cache folder, and models that are loaded from then on run the quickest. A run that is "
        "interrupted is gone on\n"
        "with by the next; one that finds everything tuned does nothing.",
    .options = options,
    .settings_size = sizeof(settings),
    .defaults = defaults,
    .max_args = 1,
    .run = run,
};
