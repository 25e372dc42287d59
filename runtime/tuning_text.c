/* Records as text: a JSON object a line, for taking them from one machine to another (tuning.h). A line has the machine, so lines of any
 * machines may be mixed, and each is checked by itself. */
#include <cjson/cJSON.h>
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "runtime/tuning_impl.h"

/* ---- writing ---- */

static void put_text(syl_text *out, const char *key, const char *value) {
    syl_text_printf(out, ", \"%s\": ", key);
    syl_json_quote(out, value);
}
static void put_int(syl_text *out, const char *key, int64_t value) {
    syl_text_printf(out, ", \"%s\": %lld", key, (long long)value);
}
static void put_number(syl_text *out, const char *key, double value) {
    syl_text_printf(out, ", \"%s\": ", key);
    syl_json_print_number(out, value);
}

/* The machine's columns, from 0 on; the record's are behind them. */
enum { MACHINE_COLUMNS = 7 };

static void put_machine(sqlite3_stmt *s, syl_arena *arena, const char *record, syl_text *out) {
    syl_text_printf(out, "{\"record\": \"%s\"", record);
    put_text(out, "gpu", tuning_text(s, 0, arena));
    put_int(out, "capability", sqlite3_column_int64(s, 1));
    put_int(out, "sms", sqlite3_column_int64(s, 2));
    put_int(out, "memory_mhz", sqlite3_column_int64(s, 3));
    put_text(out, "driver", tuning_text(s, 4, arena));
    put_text(out, "nvrtc", tuning_text(s, 5, arena));
    put_text(out, "library", tuning_text(s, 6, arena));
}

static void put_measured(sqlite3_stmt *s, syl_arena *arena, syl_text *out) {
    syl_tuning_measured m;
    tuning_read_measured(s, MACHINE_COLUMNS, arena, &m);
    put_machine(s, arena, "measured", out);
    put_text(out, "kernel", m.kernel);
    put_int(out, "rows", m.rows);
    put_text(out, "variant", m.variant);
    put_text(out, "source", m.source);
    put_text(out, "name", m.name);
    put_text(out, "state", syl_tuning_state_name(m.state));
    put_number(out, "seconds", m.seconds);
    put_number(out, "model_seconds", m.model);
    put_int(out, "registers", m.registers);
    put_int(out, "shared", m.shared);
    put_int(out, "date", m.date);
    syl_text_printf(out, "}\n");
}

static void put_choice(sqlite3_stmt *s, syl_arena *arena, syl_text *out) {
    syl_tuning_choice c;
    tuning_read_choice(s, MACHINE_COLUMNS, arena, &c);
    put_machine(s, arena, "choice", out);
    put_text(out, "kernel", c.kernel);
    put_int(out, "rows", c.rows);
    put_text(out, "variant", c.variant);
    put_text(out, "source", c.source);
    put_text(out, "name", c.name);
    put_number(out, "seconds", c.seconds);
    put_int(out, "tried", c.tried);
    put_int(out, "candidates", c.candidates);
    put_number(out, "budget", c.budget);
    put_int(out, "date", c.date);
    syl_text_printf(out, "}\n");
}

static syl_status put_all(syl_tuning *t, const char *sql,
                          void (*put)(sqlite3_stmt *, syl_arena *, syl_text *), syl_diag *diag, syl_text *out,
                          int64_t *n) {
    sqlite3_stmt *s;
    syl_status status = SYL_OK;
    SYL_TRY(tuning_prepare(t, sql, diag, &s));
    while (tuning_step(t, s, diag, &status)) {
        syl_arena line;
        syl_arena_init(&line);
        put(s, &line, out);
        syl_arena_free(&line);
        ++*n;
    }
    sqlite3_finalize(s);
    return status;
}

#define ORDER " ORDER BY " TUNING_MACHINE ", kernel, rows"
syl_status syl_tuning_export(syl_tuning *t, syl_diag *diag, syl_text *out, int64_t *n) {
    *n = 0;
    SYL_TRY(tuning_run(t, "BEGIN", diag)); /* one moment's state */
    syl_status status = put_all(
        t, "SELECT " TUNING_MACHINE ", " TUNING_CHOSEN " FROM chosen JOIN machine ON machine = id" ORDER,
        put_choice, diag, out, n);
    if (status == SYL_OK)
        status = put_all(t,
                         "SELECT " TUNING_MACHINE ", " TUNING_MEASURED
                         " FROM measured JOIN machine ON machine = id" ORDER ", variant, source",
                         put_measured, diag, out, n);
    sqlite3_exec(t->db, "COMMIT", NULL, NULL, NULL);
    return status;
}

/* ---- reading ---- */

typedef struct line {
    syl_json json;
    syl_diag *diag;
} line;

static syl_status take_text(line *l, const char *key, const char **out) {
    return syl_json_string(&l->json, l->json.root, key, l->diag, out);
}
static syl_status take_int(line *l, const char *key, int64_t min, int64_t *out) {
    return syl_json_int(&l->json, l->json.root, key, min, (int64_t)1 << 53, l->diag, out);
}

static syl_status bad(line *l, const char *key, const char *expected) {
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(l->json.root, key);
    return syl_error(l->diag, SYL_ERR_tuning_record, syl_json_loc(&l->json, node), "'%s' is no %s", key,
                     expected);
}

static syl_status take_hash(line *l, const char *key, const char **out) {
    SYL_TRY(take_text(l, key, out));
    bool hash = strlen(*out) == 32 && strspn(*out, "0123456789abcdef") == 32;
    return hash ? SYL_OK : bad(l, key, "hash of 32 digits");
}

/* A time in seconds: 0 where `none` is allowed. */
static syl_status take_seconds(line *l, const char *key, bool none, double *out) {
    SYL_TRY(syl_json_number(&l->json, l->json.root, key, l->diag, out));
    return (*out > 0 && *out < 1e6) || (none && *out == 0) ? SYL_OK : bad(l, key, "time in seconds");
}

static syl_status take_machine(line *l, syl_tuning *t) {
    syl_tuning_machine m;
    SYL_TRY(take_text(l, "gpu", &m.gpu));
    SYL_TRY(take_int(l, "capability", 1, &m.capability));
    SYL_TRY(take_int(l, "sms", 1, &m.sms));
    SYL_TRY(take_int(l, "memory_mhz", 0, &m.memory_mhz));
    SYL_TRY(take_text(l, "driver", &m.driver));
    SYL_TRY(take_text(l, "nvrtc", &m.nvrtc));
    SYL_TRY(take_text(l, "library", &m.library));
    return syl_tuning_use(t, &m, l->diag);
}

#define COMMON_KEYS                                                                                          \
    "record", "gpu", "capability", "sms", "memory_mhz", "driver", "nvrtc", "library", "kernel", "rows",      \
        "variant", "source", "name", "seconds", "date"

static syl_status take_measured(line *l, syl_tuning *t) {
    static const char *const keys[] = {COMMON_KEYS, "state", "model_seconds", "registers", "shared", NULL};
    syl_tuning_measured m = {.state = SYL_TUNING_STATE_COUNT};
    const char *state;
    SYL_TRY(syl_json_known_keys(&l->json, l->json.root, keys, l->diag));
    SYL_TRY(take_machine(l, t));
    SYL_TRY(take_hash(l, "kernel", &m.kernel));
    SYL_TRY(take_int(l, "rows", 1, &m.rows));
    SYL_TRY(take_text(l, "variant", &m.variant));
    SYL_TRY(take_hash(l, "source", &m.source));
    SYL_TRY(take_text(l, "name", &m.name));
    SYL_TRY(take_text(l, "state", &state));
    for (int s = 0; s < SYL_TUNING_STATE_COUNT; s++)
        if (strcmp(state, syl_tuning_state_name((syl_tuning_state)s)) == 0) m.state = (syl_tuning_state)s;
    if (m.state == SYL_TUNING_STATE_COUNT) return bad(l, "state", "state of a candidate");
    SYL_TRY(take_seconds(l, "seconds", m.state != SYL_TUNING_GOOD, &m.seconds));
    SYL_TRY(take_seconds(l, "model_seconds", true, &m.model));
    SYL_TRY(take_int(l, "registers", 0, &m.registers));
    SYL_TRY(take_int(l, "shared", 0, &m.shared));
    SYL_TRY(take_int(l, "date", 0, &m.date));
    return syl_tuning_put(t, &m, l->diag);
}

static syl_status take_choice(line *l, syl_tuning *t) {
    static const char *const keys[] = {COMMON_KEYS, "tried", "candidates", "budget", NULL};
    syl_tuning_choice c = {0};
    SYL_TRY(syl_json_known_keys(&l->json, l->json.root, keys, l->diag));
    SYL_TRY(take_machine(l, t));
    SYL_TRY(take_hash(l, "kernel", &c.kernel));
    SYL_TRY(take_int(l, "rows", 1, &c.rows));
    SYL_TRY(take_text(l, "variant", &c.variant));
    SYL_TRY(take_hash(l, "source", &c.source));
    SYL_TRY(take_text(l, "name", &c.name));
    SYL_TRY(take_seconds(l, "seconds", false, &c.seconds));
    SYL_TRY(take_int(l, "tried", 0, &c.tried));
    SYL_TRY(take_int(l, "candidates", 0, &c.candidates));
    SYL_TRY(take_seconds(l, "budget", true, &c.budget));
    SYL_TRY(take_int(l, "date", 0, &c.date));
    return syl_tuning_choose(t, &c, l->diag);
}

static syl_status take_line(syl_tuning *t, const syl_source *text, syl_diag *diag) {
    line l = {.diag = diag};
    const char *record;
    SYL_TRY(syl_json_parse(text, diag, &l.json));
    syl_status status = take_text(&l, "record", &record);
    if (status == SYL_OK) {
        if (strcmp(record, "measured") == 0)
            status = take_measured(&l, t);
        else if (strcmp(record, "choice") == 0)
            status = take_choice(&l, t);
        else
            status = bad(&l, "record", "kind of record: choice or measured");
    }
    syl_json_free(&l.json);
    return status;
}

static syl_status take_lines(syl_tuning *t, const syl_source *text, syl_diag *diag, int64_t *n) {
    size_t number = 0, length;
    for (const char *at = text->text, *end = at + text->size; at < end; at += length + 1) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        length = stop ? (size_t)(stop - at) : (size_t)(end - at);
        number++;
        if (length == 0 || strspn(at, " \t\r") >= length) continue;
        syl_arena arena;
        syl_arena_init(&arena);
        syl_source one = {syl_arena_printf(&arena, "%s, line %zu", text->name, number),
                          syl_arena_strndup(&arena, at, length), length};
        syl_status status = take_line(t, &one, diag);
        syl_arena_free(&arena);
        SYL_TRY(status);
        ++*n;
    }
    return SYL_OK;
}

syl_status syl_tuning_import(syl_tuning *t, const syl_source *text, syl_diag *diag, int64_t *n) {
    int64_t machine = t->machine;
    *n = 0;
    SYL_TRY(tuning_run(t, "BEGIN IMMEDIATE", diag));
    syl_status status = take_lines(t, text, diag, n);
    t->machine = machine;
    if (status == SYL_OK) return tuning_run(t, "COMMIT", diag);
    sqlite3_exec(t->db, "ROLLBACK", NULL, NULL, NULL);
    *n = 0;
    return status;
}
