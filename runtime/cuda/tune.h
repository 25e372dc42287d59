/* Tuning: the variants of a plan's kernels, measured on the GPU that will run them.
 *
 *     tune_plan.c     what is to be measured: kernels, buckets of rows, candidates in the order of the cost model, pruned
 *     tune_compile.c  threads that compile ahead
 *     tune_link.c     questions to the one who measures: a process of its own, which may crash or hang, or this process
 *     tune_worker.c   who measures: answers questions, a line of JSON each
 *     tune_inputs.c   buffers of a kernel, filled with random values and with the model's weights
 *     tune_bench.c    launches, comparison of bits, times
 *     tune.c          the whole, with the database
 *     tune_report.c   why the quickest is the quickest
 *
 * A unit of work is a kernel for one bucket of rows. What was measured is recorded at once, so a run that is killed loses one candidate. */
#ifndef SYL_RUNTIME_CUDA_TUNE_H
#define SYL_RUNTIME_CUDA_TUNE_H

#include "base/hash.h"
#include "base/threads.h"
#include "codegen/cuda/compile.h"
#include "runtime/cuda/device.h"
#include "runtime/engine.h"
#include "runtime/tuning.h"

/* A candidate of a unit, as it is told to the caller. */
typedef struct syl_tune_result_row {
    const char *variant;
    syl_tuning_state state;
    bool measured;  /* in this run or an earlier one */
    bool raced;     /* in this run; those that took no part are behind them */
    double seconds; /* of a launch; 0 unless good */
    double model;   /* seconds that the cost model expects */
    int64_t registers, shared;
    int threads;
    int64_t blocks;
    int resident;    /* blocks that a multiprocessor holds at a time */
    double waves;    /* blocks / all that are resident */
    const char *why; /* of one that is not good; else "" */
} syl_tune_result_row;

/* A unit that is done. Texts are borrowed for the call. */
typedef struct syl_tune_unit_report {
    const kir_kernel *kernel;
    int number;    /* in the plan */
    int64_t steps; /* of the plan that run it */
    int64_t rows;
    int done, total;                /* units */
    bool known;                     /* tuned before */
    double bytes, operations;       /* of a launch, at least */
    double memory_s, arithmetic_s;  /* at the GPU's peak; 0: not known */
    const syl_tune_result_row *row; /* [n] the quickest first */
    size_t n;
    size_t candidates; /* that the kernel has */
    const char *why;   /* the first is the quickest */
    double
        before; /* exhaustive: seconds of what was chosen before, by tuning or by the cost model, in the same race; else 0 */
    const char *before_variant;
} syl_tune_unit_report;

typedef struct syl_tune_options {
    const char *device, *cache_dir;
    double budget;       /* seconds */
    const char *kernels; /* POSIX extended regular expression, NULL: all */
    const int64_t *rows; /* [n_rows]; 0: all buckets */
    size_t n_rows;
    bool frozen, exhaustive;
    const char *const
        *worker; /* program to run and its arguments: [0] the path, from [1] on argv; NULL: in this process */
    double limit;                                                   /* seconds for one question */
    void (*report)(void *user, const syl_tune_unit_report *report); /* may be NULL */
    void (*progress)(void *user, double done, double total, const char *what);
    void *user;
} syl_tune_options;

typedef struct syl_tune_stats {
    int units, known, tuned;
    int left;              /* units that the time was not enough for */
    int64_t measured, bad; /* candidates of this run */
    int lost;              /* processes that crashed, hung or spoke nonsense */
    double worst; /* exhaustive: the worst share of the best speed that what was chosen before reached */
    double seconds, compile_s; /* compile_s: of all threads */
} syl_tune_stats;

SYL_NODISCARD syl_status syl_cuda_tune(const char *path, const syl_tune_options *options, syl_pool *pool,
                                       syl_diag *diag, syl_tune_stats *out);
/* The process that measures: answers lines from `in` on `out` until the end of `in`. */
SYL_NODISCARD syl_status syl_cuda_tune_serve(const char *path, const char *device, const char *cache_dir,
                                             int in, int out, syl_pool *pool, syl_diag *diag);

/* ---- tune_plan.c ---- */

/* A variant of a kernel: one source, for all units of the kernel. */
typedef struct tune_code {
    const kir_kernel *kernel;
    syl_cuda_variant variant;
    const char *text; /* of the variant */
    syl_hash source;
    syl_cuda_launch launch;
    syl_status status; /* of printing its source */
    /* by the compiling threads, under their lock */
    bool queued, done, compiled;
    syl_cuda_resources resources;
    const char *why;
} tune_code;

typedef struct tune_candidate {
    tune_code *code;
    double model;
    bool measured, here; /* here: in this run */
    bool raced;          /* its time is of the last race, and may be compared with others of it only */
    syl_tuning_state state;
    double seconds;
    int64_t registers, shared; /* of an earlier run's record */
    const char *why;
} tune_candidate;

typedef struct tune_unit {
    int number; /* of the kernel in the plan */
    const kir_kernel *kernel;
    syl_hash hash;
    int64_t rows; /* the bucket */
    int64_t steps;
    tune_candidate *candidates; /* in the model's order */
    size_t n, all;              /* after and before pruning */
    double weight;              /* seconds of a run that the model expects it to take */
} tune_unit;

typedef struct tune_plan {
    syl_arena *arena;
    const syl_plan *plan;
    const syl_cuda_target *target;
    SYL_VEC(tune_code *) codes;
    SYL_VEC(tune_unit) units; /* kernel by kernel, the heaviest first; of each the buckets in order */
} tune_plan;

/* Candidates of a list of costs, ascending, that are worth a measurement: the first of them. */
size_t tune_worth(const double *costs, size_t n, size_t most);
/* A number of candidates a unit, at most, for which `budget` is enough. */
size_t tune_most(const tune_plan *plan, double budget, int threads);
/* Errors: tune-kernels, tune-rows. `out` has arena, plan and target. */
SYL_NODISCARD syl_status tune_plan_make(tune_plan *out, const syl_tune_options *options, int threads,
                                        syl_diag *diag);

/* ---- tune_compile.c ---- */

typedef struct tune_compiler tune_compiler;
/* Compiles in the order in which codes are given, on `threads` threads; begins at once. */
SYL_NODISCARD syl_status tune_compiler_start(const syl_cuda_target *target, const char *cache_dir,
                                             int threads, tune_code *const *codes, size_t n, syl_diag *diag,
                                             tune_compiler **out);
/* Until the code is compiled, or `until` (seconds of tune_now). False if it is not by then. */
bool tune_compiler_wait(tune_compiler *compiler, const tune_code *code, double until);
double tune_compiler_seconds(tune_compiler *compiler);
void tune_compiler_stop(tune_compiler *compiler); /* waits for what is being compiled; NULL is fine */
double tune_now(void);                            /* monotonic */

/* ---- tune_link.c ---- */

typedef enum tune_outcome {
    TUNE_ANSWERED,
    TUNE_CRASHED, /* or spoke nonsense */
    TUNE_HUNG,
    TUNE_BROKEN, /* the error is reported: nothing more can be measured */
} tune_outcome;

typedef struct tune_answer {
    syl_tuning_state state;
    double seconds[16]; /* of the variants asked about */
    int n;
    const char *message; /* why the state is not good; else "" */
} tune_answer;

typedef struct tune_link tune_link;
typedef struct tune_link_options {
    const char *const *worker; /* as above; NULL: in this process */
    const char *path, *device, *cache_dir;
    double limit; /* seconds for an answer */
    syl_pool *pool;
} tune_link_options;
SYL_NODISCARD syl_status tune_link_open(const tune_link_options *options, syl_diag *diag, tune_link **out);
void tune_link_close(tune_link *link); /* NULL is fine */
/* Sends {"id": N, REQUEST} and reads the answer, whose texts live until the next question. `expected` numbers must come with a good one. A
 * process that crashed, hung or spoke nonsense is ended, and the next question starts another. */
tune_outcome tune_link_ask(tune_link *link, const char *request, int expected, syl_diag *diag,
                           tune_answer *out);
int tune_link_lost(const tune_link *link); /* processes so far */

/* ---- tune_worker.c ---- */

typedef struct tune_worker tune_worker;
SYL_NODISCARD syl_status tune_worker_open(const char *path, const char *device, const char *cache_dir,
                                          syl_pool *pool, syl_diag *diag, tune_worker **out);
void tune_worker_close(tune_worker *worker); /* NULL is fine */
/* Appends the line that answers `line`. False where the process is of no use behind it: the GPU's context is lost, or it is no request. */
bool tune_worker_answer(tune_worker *worker, const char *line, syl_text *out);
/* The line that a worker begins with. */
void tune_worker_hello(syl_text *out);

/* ---- tune_report.c ---- */

/* Fills all but done, total, known and before. The quickest candidates first, then the bad ones, those not measured last. */
void tune_report_unit(const tune_plan *plan, const tune_unit *unit, const syl_cuda_properties *gpu,
                      syl_arena *arena, syl_tune_unit_report *out);

#endif
