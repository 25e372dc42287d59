/* What tuning has found out: a SQLite database in the cache folder, shared by any number of processes.
 *
 * Records belong to a machine: GPU, driver, compiler, version of the library. A kernel is named by the hash of what it computes, a variant by
 * its text and the hash of its source, so a record never outlives what it was measured of. `measured` has every candidate that was tried,
 * written as soon as it was; `chosen` the variant of a kernel for a number of rows. Every write is a transaction of its own: a process that
 * is killed loses what it was measuring and nothing else.
 *
 * All texts go in borrowed, and come out in the arena that is given. */
#ifndef SYL_RUNTIME_TUNING_H
#define SYL_RUNTIME_TUNING_H

#include <stdbool.h>
#include <stdint.h>

#include "base/diag.h"

#define SYL_TUNING_FILE "tuning.db" /* in the cache folder */

typedef struct syl_tuning_machine {
    const char *gpu;     /* "NVIDIA H200" */
    int64_t capability;  /* compute capability * 10 */
    int64_t sms;         /* multiprocessors */
    int64_t memory_mhz;  /* 0: not known */
    const char *driver;  /* "13000 580.65.06" */
    const char *nvrtc;   /* "13.0" */
    const char *library; /* "0.1.0" */
} syl_tuning_machine;

/* How a candidate did.
 * STATE(ident, "name", "what it means") */
#define SYL_TUNING_STATES(STATE)                                                                             \
    STATE(GOOD, "good", "computes the right bits, and was timed")                                            \
    STATE(WRONG, "wrong", "computes other bits than the reference")                                          \
    STATE(CRASHED, "crashed", "ended the process that measured it")                                          \
    STATE(HUNG, "hung", "ran past the limit of time")                                                        \
    STATE(FAILED, "failed", "cannot be compiled or loaded")
typedef enum syl_tuning_state {
#define STATE(ident, name, meaning) SYL_TUNING_##ident,
    SYL_TUNING_STATES(STATE)
#undef STATE
        SYL_TUNING_STATE_COUNT
} syl_tuning_state;
const char *syl_tuning_state_name(syl_tuning_state state);

typedef struct syl_tuning_measured {
    const char *kernel; /* hash */
    int64_t rows;
    const char *variant, *source; /* text, and hash of the source */
    const char *name;             /* of the kernel, for people */
    syl_tuning_state state;
    double seconds; /* of a launch; 0 unless good */
    double model;   /* what the cost model expected */
    int64_t registers, shared;
    int64_t date; /* seconds since 1970 */
} syl_tuning_measured;

typedef struct syl_tuning_choice {
    const char *kernel;
    int64_t rows;
    const char *variant, *source, *name;
    double seconds;
    int64_t tried, candidates; /* candidates > tried: the time was up */
    double budget;             /* seconds of the tuning that made it; 0: without end */
    int64_t date;
} syl_tuning_choice;

typedef struct syl_tuning syl_tuning;

/* To read: *out is NULL where there is no database yet. To write: it is made. Errors: tuning-damaged, tuning-version, tuning-database. */
SYL_NODISCARD syl_status syl_tuning_open(const char *folder, bool write, syl_diag *diag, syl_tuning **out);
void syl_tuning_close(syl_tuning *tuning); /* NULL is fine */

/* The machine that the calls below are about. */
SYL_NODISCARD syl_status syl_tuning_use(syl_tuning *tuning, const syl_tuning_machine *machine,
                                        syl_diag *diag);

/* The choice for exactly these rows; out->variant is NULL where there is none. */
SYL_NODISCARD syl_status syl_tuning_find(syl_tuning *tuning, syl_arena *arena, const char *kernel,
                                         int64_t rows, syl_diag *diag, syl_tuning_choice *out);
/* All candidates that were measured for these rows, the quickest first, those that are not good last. */
SYL_NODISCARD syl_status syl_tuning_list(syl_tuning *tuning, syl_arena *arena, const char *kernel,
                                         int64_t rows, syl_diag *diag, syl_tuning_measured **out, size_t *n);
/* Both replace an older record. */
SYL_NODISCARD syl_status syl_tuning_put(syl_tuning *tuning, const syl_tuning_measured *measured,
                                        syl_diag *diag);
SYL_NODISCARD syl_status syl_tuning_choose(syl_tuning *tuning, const syl_tuning_choice *choice,
                                           syl_diag *diag);

/* ---- text: JSON, a record a line (docs/tuning.md) ---- */

/* All records of all machines, in an order that depends on them alone. */
SYL_NODISCARD syl_status syl_tuning_export(syl_tuning *tuning, syl_diag *diag, syl_text *out, int64_t *n);
/* All lines or, where one is malformed, none. Of two records for the same the newer stays. Errors: those of JSON, tuning-record. */
SYL_NODISCARD syl_status syl_tuning_import(syl_tuning *tuning, const syl_source *text, syl_diag *diag,
                                           int64_t *n);

#endif
