/* The database of what was tuned (tuning.h): opening, records. */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "runtime/tuning_impl.h"

enum {
    APPLICATION = 0x53594c54, /* "SYLT", in the file's header */
    VERSION = 1,
    PATIENCE_MS = 30000, /* for other processes' writes */
};

const char *syl_tuning_state_name(syl_tuning_state state) {
    static const char *const names[] = {
#define STATE(ident, name, meaning) name,
        SYL_TUNING_STATES(STATE)
#undef STATE
    };
    return state < SYL_TUNING_STATE_COUNT ? names[state] : "";
}

/* ---- SQLite ---- */

syl_status tuning_failed(const syl_tuning *t, int result, const char *what, syl_diag *diag) {
    switch (result & 0xff) {
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT:
        return syl_error(diag, SYL_ERR_tuning_damaged, SYL_NOWHERE, "\"%s\" is damaged (%s): %s", t->path,
                         what, sqlite3_errstr(result));
    case SQLITE_NOMEM:
        return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for the tuning database");
    default:
        return syl_error(diag, SYL_ERR_tuning_database, SYL_NOWHERE, "\"%s\" cannot be used (%s): %s",
                         t->path, what, t->db ? sqlite3_errmsg(t->db) : sqlite3_errstr(result));
    }
}

syl_status tuning_run(syl_tuning *t, const char *sql, syl_diag *diag) {
    int result = sqlite3_exec(t->db, sql, NULL, NULL, NULL);
    return result == SQLITE_OK ? SYL_OK : tuning_failed(t, result, "preparing it", diag);
}

syl_status tuning_prepare(syl_tuning *t, const char *sql, syl_diag *diag, sqlite3_stmt **out) {
    int result = sqlite3_prepare_v2(t->db, sql, -1, out, NULL);
    return result == SQLITE_OK ? SYL_OK : tuning_failed(t, result, "reading its tables", diag);
}

syl_status tuning_bind(syl_tuning *t, sqlite3_stmt *s, syl_diag *diag, const char *kinds, ...) {
    va_list values;
    int result = SQLITE_OK;
    va_start(values, kinds);
    for (int i = 0; kinds[i] && result == SQLITE_OK; i++) {
        if (kinds[i] == 't')
            result = sqlite3_bind_text(s, i + 1, va_arg(values, const char *), -1, SQLITE_STATIC);
        else if (kinds[i] == 'i')
            result = sqlite3_bind_int64(s, i + 1, va_arg(values, int64_t));
        else
            result = sqlite3_bind_double(s, i + 1, va_arg(values, double));
    }
    va_end(values);
    if (result == SQLITE_OK) return SYL_OK;
    sqlite3_finalize(s);
    return tuning_failed(t, result, "passing values", diag);
}

bool tuning_step(syl_tuning *t, sqlite3_stmt *s, syl_diag *diag, syl_status *status) {
    int result = sqlite3_step(s);
    if (result != SQLITE_ROW && result != SQLITE_DONE)
        *status = tuning_failed(t, result, "reading or writing records", diag);
    return result == SQLITE_ROW;
}

syl_status tuning_finish(syl_tuning *t, sqlite3_stmt *s, syl_diag *diag) {
    syl_status status = SYL_OK;
    while (tuning_step(t, s, diag, &status)) {
    }
    sqlite3_finalize(s);
    return status;
}

const char *tuning_text(sqlite3_stmt *s, int column, syl_arena *arena) {
    const unsigned char *text = sqlite3_column_text(s, column);
    return syl_arena_strdup(arena, text ? (const char *)text : "");
}

/* ---- opening ---- */

static const char schema[] =
    "CREATE TABLE IF NOT EXISTS machine(id INTEGER PRIMARY KEY, gpu TEXT NOT NULL, capability INTEGER NOT "
    "NULL,"
    " sms INTEGER NOT NULL, memory_mhz INTEGER NOT NULL, driver TEXT NOT NULL, nvrtc TEXT NOT NULL,"
    " library TEXT NOT NULL, UNIQUE(" TUNING_MACHINE "));"
    "CREATE TABLE IF NOT EXISTS measured(machine INTEGER NOT NULL, kernel TEXT NOT NULL, rows INTEGER NOT "
    "NULL,"
    " variant TEXT NOT NULL, source TEXT NOT NULL, name TEXT NOT NULL, state TEXT NOT NULL,"
    " seconds REAL NOT NULL, model REAL NOT NULL, registers INTEGER NOT NULL, shared INTEGER NOT NULL,"
    " date INTEGER NOT NULL, PRIMARY KEY(machine, kernel, rows, variant, source)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS chosen(machine INTEGER NOT NULL, kernel TEXT NOT NULL, rows INTEGER NOT NULL,"
    " variant TEXT NOT NULL, source TEXT NOT NULL, name TEXT NOT NULL, seconds REAL NOT NULL,"
    " tried INTEGER NOT NULL, candidates INTEGER NOT NULL, budget REAL NOT NULL, date INTEGER NOT NULL,"
    " PRIMARY KEY(machine, kernel, rows)) WITHOUT ROWID;";

static syl_status read_pragma(syl_tuning *t, const char *sql, syl_diag *diag, int64_t *out) {
    sqlite3_stmt *s;
    syl_status status = SYL_OK;
    *out = 0;
    SYL_TRY(tuning_prepare(t, sql, diag, &s));
    if (tuning_step(t, s, diag, &status)) *out = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    return status;
}

/* The change to a write-ahead log wants the file alone, and does not wait for it as other statements do. */
static syl_status begin_log(syl_tuning *t, syl_diag *diag) {
    for (int waited = 0;; waited += 10) {
        int result = sqlite3_exec(t->db, "PRAGMA journal_mode = WAL", NULL, NULL, NULL);
        if (result == SQLITE_OK) return tuning_run(t, "PRAGMA synchronous = NORMAL", diag);
        if ((result & 0xff) != SQLITE_BUSY || waited > PATIENCE_MS)
            return tuning_failed(t, result, "beginning a log", diag);
        usleep(10000);
    }
}

/* Whose file it is: 0 for an empty one. */
static syl_status check_owner(syl_tuning *t, bool *empty, syl_diag *diag) {
    int64_t application, version, objects;
    SYL_TRY(read_pragma(t, "SELECT count(*) FROM sqlite_master", diag, &objects));
    SYL_TRY(read_pragma(t, "PRAGMA application_id", diag, &application));
    SYL_TRY(read_pragma(t, "PRAGMA user_version", diag, &version));
    *empty = objects == 0;
    if (*empty) return SYL_OK;
    if (application != APPLICATION)
        return syl_error(diag, SYL_ERR_tuning_damaged, SYL_NOWHERE, "\"%s\" is a database of another program",
                         t->path);
    if (version == VERSION) return SYL_OK;
    return syl_error(diag, SYL_ERR_tuning_version, SYL_NOWHERE,
                     "\"%s\" has layout %lld, this version reads and writes layout %d", t->path,
                     (long long)version, VERSION);
}

/* Under the lock of a writer, so that of several processes that begin at once one makes the tables. */
static syl_status make_tables(syl_tuning *t, syl_diag *diag) {
    bool empty;
    SYL_TRY(tuning_run(t, "BEGIN IMMEDIATE", diag));
    syl_status status = check_owner(t, &empty, diag);
    if (status == SYL_OK && empty) {
        char identity[100];
        snprintf(identity, sizeof identity, "PRAGMA application_id = %d; PRAGMA user_version = %d",
                 APPLICATION, VERSION);
        status = tuning_run(t, identity, diag);
        if (status == SYL_OK) status = tuning_run(t, schema, diag);
    }
    if (status == SYL_OK) return tuning_run(t, "COMMIT", diag);
    sqlite3_exec(t->db, "ROLLBACK", NULL, NULL, NULL);
    return status;
}

/* A damaged page shows when it is read, which may be long after; the file is small enough to be looked through. */
static syl_status check_pages(syl_tuning *t, syl_diag *diag) {
    sqlite3_stmt *s;
    syl_status status = SYL_OK;
    SYL_TRY(tuning_prepare(t, "PRAGMA quick_check(1)", diag, &s));
    if (tuning_step(t, s, diag, &status)) {
        const char *said = (const char *)sqlite3_column_text(s, 0);
        if (!said || strcmp(said, "ok") != 0)
            status = syl_error(diag, SYL_ERR_tuning_damaged, SYL_NOWHERE, "\"%s\" is damaged: %s", t->path,
                               said ? said : "it cannot be read");
    }
    sqlite3_finalize(s);
    return status;
}

static syl_status open_file(syl_tuning *t, bool write, syl_diag *diag) {
    int flags =
        SQLITE_OPEN_NOMUTEX | (write ? SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE : SQLITE_OPEN_READONLY);
    int result = sqlite3_open_v2(t->path, &t->db, flags, NULL);
    if (result != SQLITE_OK) return tuning_failed(t, result, "opening it", diag);
    sqlite3_extended_result_codes(t->db, 1);
    sqlite3_busy_timeout(t->db, PATIENCE_MS);
    if (!write) {
        bool empty;
        SYL_TRY(check_owner(t, &empty, diag));
        return empty ? tuning_failed(t, SQLITE_NOTADB, "it is empty", diag) : SYL_OK;
    }
    SYL_TRY(begin_log(t, diag));
    SYL_TRY(make_tables(t, diag));
    return check_pages(t, diag);
}

syl_status syl_tuning_open(const char *folder, bool write, syl_diag *diag, syl_tuning **out) {
    *out = NULL;
    size_t size = strlen(folder) + sizeof "/" SYL_TUNING_FILE;
    syl_tuning *t = calloc(1, sizeof *t);
    if (t) t->path = malloc(size);
    if (!t || !t->path) {
        free(t);
        return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for the tuning database");
    }
    snprintf(t->path, size, "%s/" SYL_TUNING_FILE, folder);
    bool absent = !write && access(t->path, F_OK) != 0 && errno == ENOENT;
    syl_status status = absent ? SYL_OK : open_file(t, write, diag);
    if (absent || status != SYL_OK) {
        syl_tuning_close(t);
        return status;
    }
    *out = t;
    return SYL_OK;
}

void syl_tuning_close(syl_tuning *t) {
    if (!t) return;
    sqlite3_close(t->db);
    free(t->path);
    free(t);
}

/* ---- records ---- */

static syl_status find_machine(syl_tuning *t, const syl_tuning_machine *m, syl_diag *diag) {
    sqlite3_stmt *s;
    syl_status status = SYL_OK;
    t->machine = 0;
    SYL_TRY(tuning_prepare(
        t, "SELECT id FROM machine WHERE (" TUNING_MACHINE ") = (?1, ?2, ?3, ?4, ?5, ?6, ?7)", diag, &s));
    SYL_TRY(tuning_bind(t, s, diag, "tiiittt", m->gpu, m->capability, m->sms, m->memory_mhz, m->driver,
                        m->nvrtc, m->library));
    if (tuning_step(t, s, diag, &status)) t->machine = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    return status;
}

syl_status syl_tuning_use(syl_tuning *t, const syl_tuning_machine *m, syl_diag *diag) {
    SYL_TRY(find_machine(t, m, diag));
    if (t->machine || sqlite3_db_readonly(t->db, "main") == 1) return SYL_OK;
    sqlite3_stmt *s;
    SYL_TRY(tuning_prepare(
        t, "INSERT OR IGNORE INTO machine(" TUNING_MACHINE ") VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)", diag, &s));
    SYL_TRY(tuning_bind(t, s, diag, "tiiittt", m->gpu, m->capability, m->sms, m->memory_mhz, m->driver,
                        m->nvrtc, m->library));
    SYL_TRY(tuning_finish(t, s, diag));
    return find_machine(t, m, diag);
}

/* What it says is no state of this version counts as failed: such a variant is not chosen. */
static syl_tuning_state state_of(const char *name) {
    for (int s = 0; s < SYL_TUNING_STATE_COUNT; s++)
        if (strcmp(syl_tuning_state_name((syl_tuning_state)s), name) == 0) return (syl_tuning_state)s;
    return SYL_TUNING_FAILED;
}

void tuning_read_measured(sqlite3_stmt *s, int at, syl_arena *arena, syl_tuning_measured *out) {
    *out = (syl_tuning_measured){.kernel = tuning_text(s, at, arena),
                                 .rows = sqlite3_column_int64(s, at + 1),
                                 .variant = tuning_text(s, at + 2, arena),
                                 .source = tuning_text(s, at + 3, arena),
                                 .name = tuning_text(s, at + 4, arena),
                                 .state = state_of(tuning_text(s, at + 5, arena)),
                                 .seconds = sqlite3_column_double(s, at + 6),
                                 .model = sqlite3_column_double(s, at + 7),
                                 .registers = sqlite3_column_int64(s, at + 8),
                                 .shared = sqlite3_column_int64(s, at + 9),
                                 .date = sqlite3_column_int64(s, at + 10)};
}

void tuning_read_choice(sqlite3_stmt *s, int at, syl_arena *arena, syl_tuning_choice *out) {
    *out = (syl_tuning_choice){.kernel = tuning_text(s, at, arena),
                               .rows = sqlite3_column_int64(s, at + 1),
                               .variant = tuning_text(s, at + 2, arena),
                               .source = tuning_text(s, at + 3, arena),
                               .name = tuning_text(s, at + 4, arena),
                               .seconds = sqlite3_column_double(s, at + 5),
                               .tried = sqlite3_column_int64(s, at + 6),
                               .candidates = sqlite3_column_int64(s, at + 7),
                               .budget = sqlite3_column_double(s, at + 8),
                               .date = sqlite3_column_int64(s, at + 9)};
}

syl_status syl_tuning_find(syl_tuning *t, syl_arena *arena, const char *kernel, int64_t rows, syl_diag *diag,
                           syl_tuning_choice *out) {
    sqlite3_stmt *s;
    syl_status status = SYL_OK;
    *out = (syl_tuning_choice){0};
    SYL_TRY(tuning_prepare(
        t, "SELECT " TUNING_CHOSEN " FROM chosen WHERE machine = ?1 AND kernel = ?2 AND rows = ?3", diag,
        &s));
    SYL_TRY(tuning_bind(t, s, diag, "iti", t->machine, kernel, rows));
    if (tuning_step(t, s, diag, &status)) tuning_read_choice(s, 0, arena, out);
    sqlite3_finalize(s);
    return status;
}

syl_status syl_tuning_list(syl_tuning *t, syl_arena *arena, const char *kernel, int64_t rows, syl_diag *diag,
                           syl_tuning_measured **out, size_t *n) {
    SYL_VEC(syl_tuning_measured) list = {0};
    syl_tuning_measured one;
    sqlite3_stmt *s;
    syl_status status = SYL_OK;
    SYL_TRY(tuning_prepare(t,
                           "SELECT " TUNING_MEASURED
                           " FROM measured WHERE machine = ?1 AND kernel = ?2 AND rows = ?3"
                           " ORDER BY state <> 'good', seconds, variant, source",
                           diag, &s));
    SYL_TRY(tuning_bind(t, s, diag, "iti", t->machine, kernel, rows));
    while (tuning_step(t, s, diag, &status)) {
        tuning_read_measured(s, 0, arena, &one);
        SYL_PUSH(arena, &list, one);
    }
    sqlite3_finalize(s);
    *out = list.p;
    *n = list.n;
    return status;
}

/* A newer record of the same stays: what is written here is new, what is imported may not be. */
syl_status syl_tuning_put(syl_tuning *t, const syl_tuning_measured *m, syl_diag *diag) {
    sqlite3_stmt *s;
    SYL_TRY(tuning_prepare(
        t,
        "INSERT INTO measured(machine, " TUNING_MEASURED
        ") VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)"
        " ON CONFLICT DO UPDATE SET name = excluded.name, state = excluded.state, seconds = excluded.seconds,"
        " model = excluded.model, registers = excluded.registers, shared = excluded.shared, date = "
        "excluded.date"
        " WHERE excluded.date >= date",
        diag, &s));
    SYL_TRY(tuning_bind(t, s, diag, "itittttddiii", t->machine, m->kernel, m->rows, m->variant, m->source,
                        m->name, syl_tuning_state_name(m->state), m->seconds, m->model, m->registers,
                        m->shared, m->date));
    return tuning_finish(t, s, diag);
}

syl_status syl_tuning_choose(syl_tuning *t, const syl_tuning_choice *c, syl_diag *diag) {
    sqlite3_stmt *s;
    SYL_TRY(tuning_prepare(
        t,
        "INSERT INTO chosen(machine, " TUNING_CHOSEN ") VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)"
        " ON CONFLICT DO UPDATE SET variant = excluded.variant, source = excluded.source, name = "
        "excluded.name,"
        " seconds = excluded.seconds, tried = excluded.tried, candidates = excluded.candidates,"
        " budget = excluded.budget, date = excluded.date WHERE excluded.date >= date",
        diag, &s));
    SYL_TRY(tuning_bind(t, s, diag, "ititttdiidi", t->machine, c->kernel, c->rows, c->variant, c->source,
                        c->name, c->seconds, c->tried, c->candidates, c->budget, c->date));
    return tuning_finish(t, s, diag);
}
