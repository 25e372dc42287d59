/* The public API: tuning. */
#include <math.h>
#include <string.h>

#include "driver/api.h"
#include "runtime/cuda/tune.h"

typedef struct teller {
    api_call *call;
    syl_tune_settings settings;
} teller;

static void tell_report(void *user, const syl_tune_unit_report *unit) {
    teller *t = user;
    if (!t->settings.report) return;
    syl_arena arena;
    syl_arena_init(&arena);
    syl_tune_candidate *list = SYL_NEW_ARRAY(&arena, syl_tune_candidate, unit->n);
    for (size_t i = 0; i < unit->n; i++) {
        const syl_tune_result_row *row = &unit->row[i];
        list[i] = (syl_tune_candidate){.size = sizeof *list,
                                       .variant = row->variant,
                                       .state = row->measured ? syl_tuning_state_name(row->state) : "",
                                       .seconds = row->seconds,
                                       .expected_s = row->model,
                                       .registers = (int)row->registers,
                                       .threads = row->threads,
                                       .shared = row->shared,
                                       .blocks = row->blocks,
                                       .resident = row->resident,
                                       .waves = row->waves,
                                       .why = row->why};
    }
    const syl_tune_report report = {.size = sizeof report,
                                    .kernel = unit->kernel->name,
                                    .kernel_number = unit->number,
                                    .rows = unit->rows,
                                    .steps = unit->steps,
                                    .done = unit->done,
                                    .total = unit->total,
                                    .known = unit->known,
                                    .bytes = unit->bytes,
                                    .operations = unit->operations,
                                    .memory_s = unit->memory_s,
                                    .arithmetic_s = unit->arithmetic_s,
                                    .candidates = list,
                                    .n_candidates = unit->n,
                                    .all_candidates = unit->candidates,
                                    .why = unit->why,
                                    .before = unit->before_variant,
                                    .before_s = unit->before};
    t->settings.report(t->settings.user, &report);
    syl_arena_free(&arena);
}

static void tell_progress(void *user, double done, double total, const char *what) {
    teller *t = user;
    if (t->settings.progress) t->settings.progress(t->settings.user, done, total, what);
}

/* The program to run, and behind it its argv. */
static const char *const *worker_of(teller *t) {
    const char *const *arguments = t->settings.worker_arguments;
    size_t n = 0;
    while (arguments && arguments[n]) n++;
    const char **list = SYL_NEW_ARRAY(&t->call->arena, const char *, n + 3);
    list[0] = list[1] = t->settings.worker;
    for (size_t i = 0; i < n; i++) list[i + 1] = arguments[i];
    return list;
}

static syl_status need_artifact(api_call *call, const char *path) {
    if (syl_file_is_artifact(path) != 0) return SYL_OK;
    return syl_error(call->diag, SYL_ERR_artifact_format, SYL_NOWHERE,
                     "\"%s\" is no artifact; kernels are made of artifacts", path);
}

static syl_status tune_file(api_call *call, const char *path, const syl_tune_settings *settings,
                            syl_tune_result *result) {
    static const char name[] = "syl_tune_file";
    teller t = {.call = call};
    syl_tune_stats stats;
    syl_pool *pool;
    if (!path) return api_bad(call, name, "path is NULL");
    if (settings && !api_take(&t.settings, sizeof t.settings, settings))
        return api_bad(call, name, "settings has no size, or asks for what this version lacks");
    if (result && !api_fits(result)) return api_bad(call, name, "result has no size");
    const syl_tune_settings *s = &t.settings;
    if (!(s->budget_s >= 0) || !(s->limit_s >= 0) || isinf(s->budget_s) || isinf(s->limit_s))
        return api_bad(call, name, "a time is negative or no number");
    if (s->n_rows && !s->rows) return api_bad(call, name, "rows is NULL");
    SYL_TRY(need_artifact(call, path));
    syl_tune_options options = {.budget = s->budget_s > 0 ? s->budget_s : 60,
                                .kernels = s->kernels,
                                .rows = s->rows,
                                .n_rows = s->n_rows,
                                .frozen = s->frozen != 0,
                                .exhaustive = s->exhaustive != 0,
                                .worker = s->worker ? worker_of(&t) : NULL,
                                .limit = s->limit_s > 0 ? s->limit_s : 30,
                                .report = tell_report,
                                .progress = tell_progress,
                                .user = &t};
    SYL_TRY(api_pool(call, &pool));
    SYL_TRY(api_cache(call, &options.cache_dir));
    options.device = api_device(call);
    syl_status status = syl_cuda_tune(path, &options, pool, call->diag, &stats);
    if (result) {
        const syl_tune_result r = {.choices = stats.units,
                                   .known = stats.known,
                                   .tuned = stats.tuned,
                                   .left = stats.left,
                                   .measured = stats.measured,
                                   .bad = stats.bad,
                                   .lost = stats.lost,
                                   .worst = stats.worst,
                                   .seconds = stats.seconds,
                                   .compile_s = stats.compile_s};
        api_give(result, &r, sizeof r);
    }
    return status;
}

syl_status syl_tune_file(syl_instance *instance, const char *path, const syl_tune_settings *settings,
                         syl_tune_result *result) {
    api_call call;
    SYL_TRY(api_begin(&call, instance));
    return api_end(&call, tune_file(&call, path, settings, result));
}

static syl_status serve(api_call *call, const char *path, int in, int out) {
    syl_pool *pool;
    const char *cache_dir;
    if (!path) return api_bad(call, "syl_tune_worker", "path is NULL");
    SYL_TRY(need_artifact(call, path));
    SYL_TRY(api_pool(call, &pool));
    SYL_TRY(api_cache(call, &cache_dir));
    return syl_cuda_tune_serve(path, api_device(call), cache_dir, in, out, pool, call->diag);
}

syl_status syl_tune_worker(syl_instance *instance, const char *path, int in, int out) {
    api_call call;
    SYL_TRY(api_begin(&call, instance));
    return api_end(&call, serve(&call, path, in, out));
}

/* ---- records as text ---- */

static syl_status open_records(api_call *call, bool write, syl_tuning **out) {
    const char *folder;
    SYL_TRY(api_cache(call, &folder));
    if (!folder) return syl_error(call->diag, SYL_ERR_tune_folder, SYL_NOWHERE, "there is no cache folder");
    return syl_tuning_open(folder, write, call->diag, out);
}

static syl_status export_records(api_call *call, char **text, size_t *size, int64_t *n) {
    syl_tuning *tuning;
    syl_text out = {.arena = &call->arena};
    int64_t lines = 0;
    if (!text) return api_bad(call, "syl_tune_export", "text is NULL");
    SYL_TRY(open_records(call, false, &tuning));
    syl_status status = tuning ? syl_tuning_export(tuning, call->diag, &out, &lines) : SYL_OK;
    syl_tuning_close(tuning);
    SYL_TRY(status);
    if (n) *n = lines;
    return api_text(call, out.p ? out.p : "", out.n, text, size);
}

syl_status syl_tune_export(syl_instance *instance, char **text, size_t *size, int64_t *n) {
    api_call call;
    if (text) *text = NULL;
    SYL_TRY(api_begin(&call, instance));
    return api_end(&call, export_records(&call, text, size, n));
}

static syl_status import_records(api_call *call, const char *name, const char *text, size_t size,
                                 int64_t *n) {
    syl_tuning *tuning;
    int64_t lines = 0;
    if (!text) return api_bad(call, "syl_tune_import", "text is NULL");
    const syl_source source = {name ? name : "records", text, size};
    SYL_TRY(open_records(call, true, &tuning));
    syl_status status = syl_tuning_import(tuning, &source, call->diag, &lines);
    syl_tuning_close(tuning);
    if (n) *n = lines;
    return status;
}

syl_status syl_tune_import(syl_instance *instance, const char *name, const char *text, size_t size,
                           int64_t *n) {
    api_call call;
    if (n) *n = 0;
    SYL_TRY(api_begin(&call, instance));
    return api_end(&call, import_records(&call, name, text, size, n));
}
