/* What tuning.c and tuning_text.c share (private to both). */
#ifndef SYL_RUNTIME_TUNING_IMPL_H
#define SYL_RUNTIME_TUNING_IMPL_H

#include <sqlite3.h>

#include "runtime/tuning.h"

struct syl_tuning {
    sqlite3 *db;
    char *path;
    int64_t machine; /* its number; 0: none of the database's */
};

/* Reports a result of SQLite, sorted into the named errors. */
SYL_NODISCARD syl_status tuning_failed(const syl_tuning *t, int result, const char *what, syl_diag *diag);
SYL_NODISCARD syl_status tuning_run(syl_tuning *t, const char *sql, syl_diag *diag);
SYL_NODISCARD syl_status tuning_prepare(syl_tuning *t, const char *sql, syl_diag *diag, sqlite3_stmt **out);
/* Binds values to ?1, ?2, ...: t a text, i an int64_t, d a double. Texts are borrowed until the statement is done. */
SYL_NODISCARD syl_status tuning_bind(syl_tuning *t, sqlite3_stmt *s, syl_diag *diag, const char *kinds, ...);
/* True with a row; false at the end, or with *status set. */
bool tuning_step(syl_tuning *t, sqlite3_stmt *s, syl_diag *diag, syl_status *status);
/* A statement without rows, to its end; drops it. */
SYL_NODISCARD syl_status tuning_finish(syl_tuning *t, sqlite3_stmt *s, syl_diag *diag);
const char *tuning_text(sqlite3_stmt *s, int column, syl_arena *arena);

/* Columns, in the order of these lists. */
#define TUNING_MACHINE  "gpu, capability, sms, memory_mhz, driver, nvrtc, library"
#define TUNING_MEASURED "kernel, rows, variant, source, name, state, seconds, model, registers, shared, date"
#define TUNING_CHOSEN   "kernel, rows, variant, source, name, seconds, tried, candidates, budget, date"
/* From column `at` on. */
void tuning_read_measured(sqlite3_stmt *s, int at, syl_arena *arena, syl_tuning_measured *out);
void tuning_read_choice(sqlite3_stmt *s, int at, syl_arena *arena, syl_tuning_choice *out);

#endif
