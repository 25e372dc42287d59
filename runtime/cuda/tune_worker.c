/* Who measures (tune.h): a request a line, an answer a line.
 *
 *     {"id": 1, "do": "open", "kernel": 3, "rows": 16, "reference": "rows threads=64"}
 *     {"id": 2, "do": "try", "variant": "rows threads=128"}              -> its bits, and a first time
 *     {"id": 3, "do": "race", "variants": ["rows threads=64", "..."]}    -> times that may be compared
 *     {"id": 2, "state": "good", "seconds": [1.2e-06]}
 *     {"id": 2, "state": "wrong", "message": "17 of 1024 values differ"} */
#include <cjson/cJSON.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "include/syl/syl.h"
#include "runtime/cuda/tune_bench.h"

typedef struct first_error {
    syl_arena *arena;
    const char *text;
} first_error;

struct tune_worker {
    syl_arena arena; /* of one answer */
    first_error error;
    syl_diag *diag; /* of one answer: what fails is told in it */
    tune_bench *bench;
};

static void keep_first(void *user, const syl_message *message) {
    first_error *e = user;
    if (!e->text && message->severity == SYL_SEV_ERROR) e->text = syl_arena_strdup(e->arena, message->text);
}

void tune_worker_hello(syl_text *out) {
    syl_text_printf(out, "{\"hello\": \"sylvester %s\"}\n", SYL_VERSION);
}

syl_status tune_worker_open(const char *path, const char *device, const char *cache_dir, syl_pool *pool,
                            syl_diag *diag, tune_worker **out) {
    tune_worker *w = *out = calloc(1, sizeof *w);
    if (!w) return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for measuring");
    syl_arena_init(&w->arena);
    w->error.arena = &w->arena;
    syl_status status = tune_bench_open(path, device, cache_dir, pool, diag, &w->bench);
    if (status == SYL_OK) return SYL_OK;
    tune_worker_close(w);
    *out = NULL;
    return status;
}

void tune_worker_close(tune_worker *w) {
    if (!w) return;
    tune_bench_close(w->bench);
    syl_diag_destroy(w->diag);
    syl_arena_free(&w->arena);
    free(w);
}

/* ---- requests ---- */

typedef struct request {
    syl_json json;
    syl_diag *diag;
    int64_t id;
} request;

static syl_status take_variant(request *r, const char *text, const cJSON *node, syl_cuda_variant *out) {
    return syl_cuda_variant_parse(text, out)
               ? SYL_OK
               : syl_error(r->diag, SYL_ERR_tune_request, syl_json_loc(&r->json, node),
                           "\"%s\" is no variant", text);
}

static syl_status take_named(request *r, const char *key, syl_cuda_variant *out) {
    const char *text;
    SYL_TRY(syl_json_string(&r->json, r->json.root, key, r->diag, &text));
    return take_variant(r, text, cJSON_GetObjectItemCaseSensitive(r->json.root, key), out);
}

static syl_status open_unit(tune_worker *w, request *r, tune_verdict *out) {
    int64_t kernel, rows;
    syl_cuda_variant reference;
    SYL_TRY(syl_json_int(&r->json, r->json.root, "kernel", 0, INT32_MAX, r->diag, &kernel));
    SYL_TRY(syl_json_int(&r->json, r->json.root, "rows", 1, INT32_MAX, r->diag, &rows));
    SYL_TRY(take_named(r, "reference", &reference));
    return tune_bench_unit(w->bench, (size_t)kernel, rows, &reference, r->diag, out);
}

static syl_status try_variant(tune_worker *w, request *r, tune_verdict *out) {
    syl_cuda_variant variant;
    SYL_TRY(take_named(r, "variant", &variant));
    return tune_bench_try(w->bench, &variant, r->diag, out);
}

static syl_status race(tune_worker *w, request *r, tune_verdict *out) {
    syl_cuda_variant variants[TUNE_RACERS];
    const cJSON *list, *item;
    int n = 0;
    SYL_TRY(syl_json_array(&r->json, r->json.root, "variants", true, r->diag, &list));
    cJSON_ArrayForEach(item, list) {
        if (n == TUNE_RACERS || !cJSON_IsString(item))
            return syl_error(r->diag, SYL_ERR_tune_request, syl_json_loc(&r->json, item),
                             "a race takes up to %d variants as texts", TUNE_RACERS);
        SYL_TRY(take_variant(r, item->valuestring, item, &variants[n++]));
    }
    return tune_bench_race(w->bench, variants, n, r->diag, out);
}

static syl_status do_request(tune_worker *w, request *r, tune_verdict *out) {
    const char *what;
    SYL_TRY(syl_json_int(&r->json, r->json.root, "id", 0, (int64_t)1 << 53, r->diag, &r->id));
    SYL_TRY(syl_json_string(&r->json, r->json.root, "do", r->diag, &what));
    if (strcmp(what, "open") == 0) return open_unit(w, r, out);
    if (strcmp(what, "try") == 0) return try_variant(w, r, out);
    if (strcmp(what, "race") == 0) return race(w, r, out);
    return syl_error(r->diag, SYL_ERR_tune_request, SYL_NOWHERE, "nobody knows how to do \"%s\"", what);
}

static void print_answer(int64_t id, const tune_verdict *v, const char *message, syl_text *out) {
    syl_text_printf(out, "{\"id\": %lld, \"state\": \"%s\"", (long long)id, syl_tuning_state_name(v->state));
    if (v->n) syl_text_printf(out, ", \"seconds\": [");
    for (int i = 0; i < v->n; i++) {
        syl_text_printf(out, "%s", i ? ", " : "");
        syl_json_print_number(out, v->seconds[i]);
    }
    if (v->n) syl_text_printf(out, "]");
    if (message && *message) {
        syl_text_printf(out, ", \"message\": ");
        syl_json_quote(out, message);
    }
    syl_text_printf(out, "}\n");
}

bool tune_worker_answer(tune_worker *w, const char *line, syl_text *out) {
    tune_verdict verdict = {.state = SYL_TUNING_FAILED};
    syl_arena_free(&w->arena);
    syl_diag_destroy(w->diag);
    w->error.text = NULL;
    w->diag = syl_diag_create(keep_first, &w->error);
    if (!w->diag) return false;
    request r = {.diag = w->diag};
    syl_source source = {"request", line, strcspn(line, "\n")};
    source.text = syl_arena_strndup(&w->arena, line, source.size);
    bool parsed = syl_json_parse(&source, w->diag, &r.json) == SYL_OK;
    syl_status status = parsed ? do_request(w, &r, &verdict) : SYL_INPUT;
    syl_json_free(&r.json);
    bool lost = tune_bench_lost(w->bench);
    if (status != SYL_OK) verdict = (tune_verdict){.state = lost ? SYL_TUNING_CRASHED : SYL_TUNING_FAILED};
    print_answer(r.id, &verdict, w->error.text ? w->error.text : verdict.message, out);
    return parsed && !lost;
}

/* ---- a process of its own ---- */

static bool write_all(int fd, const char *text, size_t n) {
    for (size_t done = 0; done < n;) {
        ssize_t wrote = write(fd, text + done, n - done);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote <= 0) return false;
        done += (size_t)wrote;
    }
    return true;
}

/* A line, NUL-terminated in place of its end. 1: there is one; 0: the end; -1: too long, or it cannot be read. */
static int read_line(int fd, char *line, size_t size) {
    for (size_t n = 0; n < size; n++) {
        ssize_t got;
        do got = read(fd, line + n, 1);
        while (got < 0 && errno == EINTR);
        if (got <= 0) return got == 0 && n == 0 ? 0 : -1;
        if (line[n] == '\n') {
            line[n] = 0;
            return 1;
        }
    }
    return -1;
}

static syl_status serve(tune_worker *w, int in, int out, syl_diag *diag) {
    enum { MOST_LINE = 1 << 16 };
    char *line = malloc(MOST_LINE);
    if (!line) return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for requests");
    syl_status status = SYL_OK;
    int got;
    for (bool useful = true; useful && status == SYL_OK && (got = read_line(in, line, MOST_LINE)) != 0;) {
        syl_arena arena;
        syl_arena_init(&arena);
        syl_text answer = {.arena = &arena};
        if (got > 0) useful = tune_worker_answer(w, line, &answer);
        if (got < 0)
            status = syl_error(diag, SYL_ERR_tune_request, SYL_NOWHERE, "a request has no end");
        else if (!answer.n || !write_all(out, answer.p, answer.n))
            status = syl_error(diag, SYL_ERR_file_write, SYL_NOWHERE, "nobody reads the answers");
        else if (!useful)
            status =
                syl_error(diag, SYL_ERR_tune_request, SYL_NOWHERE, "this process cannot measure any more: %s",
                          w->error.text ? w->error.text : "it got no request");
        syl_arena_free(&arena);
    }
    free(line);
    return status;
}

/* What is wrong goes to who asks, in place of the greeting, and is this process's error too. */
typedef struct told {
    syl_arena arena;
    const char *text;
    syl_error_id id;
} told;

static void keep_told(void *user, const syl_message *message) {
    told *t = user;
    if (t->text || message->severity != SYL_SEV_ERROR) return;
    t->text = syl_arena_strdup(&t->arena, message->text);
    t->id = message->error;
}

syl_status syl_cuda_tune_serve(const char *path, const char *device, const char *cache_dir, int in, int out,
                               syl_pool *pool, syl_diag *diag) {
    tune_worker *w = NULL;
    told t = {.id = SYL_ERR_internal};
    syl_arena_init(&t.arena);
    syl_diag *own = syl_diag_create(keep_told, &t);
    syl_status status = own ? tune_worker_open(path, device, cache_dir, pool, own, &w) : SYL_MEMORY;
    syl_text first = {.arena = &t.arena};
    if (status == SYL_OK) {
        tune_worker_hello(&first);
    } else {
        syl_text_printf(&first, "{\"message\": ");
        syl_json_quote(&first, t.text ? t.text : syl_status_meaning(status));
        syl_text_printf(&first, "}\n");
    }
    bool heard = write_all(out, first.p, first.n);
    if (status != SYL_OK)
        status = syl_error(diag, t.id, SYL_NOWHERE, "%s", t.text ? t.text : "no memory for messages");
    else if (!heard)
        status = syl_error(diag, SYL_ERR_file_write, SYL_NOWHERE, "nobody reads the answers");
    else
        status = serve(w, in, out, diag);
    tune_worker_close(w);
    syl_diag_destroy(own);
    syl_arena_free(&t.arena);
    return status;
}
