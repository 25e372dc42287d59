/* The seam between what a model does and where it runs. A backend makes engines ready and runs their plans on one kind of device; the
 * executors of language models (exec.c) and of functions (function.c) stand on these operations alone, and know no device.
 *
 * A run is reserve, input (for each argument, filled by the caller), run, and fetch for each result that is wanted. Runs may be under
 * way when `run` returns; fetch and wait return behind them, and report what failed. Nothing is checked here: the caller has checked
 * sizes and every index, so that generated code, which checks nothing, stays inside its buffers. A runner is used by one thread at a
 * time. */
#ifndef SYL_RUNTIME_BACKEND_H
#define SYL_RUNTIME_BACKEND_H

#include "runtime/engine.h"
#include "runtime/kv.h"
#include "runtime/sample.h"

/* When a step of a run began, from the run's begin, and how long it took; of a step over no rows nothing. */
typedef struct syl_step_time {
    double start_s, seconds;
} syl_step_time;

struct syl_step_view;
/* Who is told behind each step that has rows, by the thread that runs them (observe.h). */
typedef struct syl_observer {
    void (*step)(void *user, const struct syl_step_view *view);
    void *user;
} syl_observer;

/* A plan in use: its buffers and, where the model has one, its KV cache. Each backend puts its own behind this. */
typedef struct syl_runner {
    const syl_engine *engine; /* borrowed */
    syl_kv *kv;               /* NULL: none */
    syl_step_time *
        times; /* [steps of the plan], where the next runs write how long each step took; NULL: not measured */
    syl_observer observer; /* of the next runs; step NULL: none */
} syl_runner;

/* One call of @forward. */
typedef struct syl_run {
    int64_t rows[2];            /* of the plan's symbols */
    const size_t *input_bytes;  /* of each argument of @forward; 0 of a cache */
    const size_t *output_bytes; /* of each result, likewise */
    const int32_t *pos; /* with a cache: position of each row of the first symbol, as the input has them */
    const int32_t *seq; /* and its sequence */
    int64_t positions;  /* no sequence of the batch has more, these included; 0 without a cache */
    int64_t choose;     /* row of the logits by which a token is chosen behind the steps; -1: none */
    bool follow; /* the one id of the run is the token chosen last, which the caller may not know yet */
} syl_run;

struct syl_backend {
    const char *name; /* "cpu", "cuda" */
    int64_t chunk;    /* tokens of a prompt that one run takes best; no result depends on it */

    /* Fills engine->plan, engine->loaded, the device's texts and the statistics; the artifact is open. */
    syl_status (*load)(syl_engine *engine, const syl_engine_options *options, syl_pool *pool, syl_diag *diag);
    void (*unload)(syl_engine *engine); /* fine where load failed half way */

    /* kv: the shape of the cache, or NULL. engine and pool are borrowed. */
    syl_status (*open)(const syl_engine *engine, syl_pool *pool, const syl_kv_shape *kv, syl_diag *diag,
                       syl_runner **out);
    void (*close)(syl_runner *runner);
    /* Room for a run; what buffers held is lost where they have to grow. */
    syl_status (*reserve)(syl_runner *runner, const syl_run *run, syl_diag *diag);
    /* Where argument `i` of the next run is written; behind reserve. */
    void *(*input)(syl_runner *runner, int i);
    syl_status (*run)(syl_runner *runner, const syl_run *run, syl_diag *diag);
    /* Bytes [offset, offset + size) of result `i` of the last run in the host's memory, until the next reserve or fetch of it. */
    syl_status (*fetch)(syl_runner *runner, int i, size_t offset, size_t size, syl_diag *diag,
                        const void **out);
    syl_status (*wait)(syl_runner *runner, syl_diag *diag); /* until all runs are done */

    /* Choosing tokens of a language model's logits (runtime/sample.h): choose_begin, runs that choose, of which all but the first may
     * follow, and chosen for each of them, in order. Up to `ahead` runs may be begun before the token of the first is taken. */
    int ahead;
    syl_status (*choose_begin)(syl_runner *runner, const syl_sampling *sampling, syl_diag *diag);
    syl_status (*chosen)(syl_runner *runner, syl_diag *diag, int32_t *id); /* error: sample-logits */

    /* For programs that work on the same device (docs/api.md); NULL where there is none. The stream of the runner's work, NULL: its own;
     * argument `i` of the next run from the device's memory, behind reserve, in the order of the stream; where result `i` lies; and bytes of
     * the device's memory as they are behind the work in the stream. */
    syl_status (*device_stream)(syl_runner *runner, void *stream, syl_diag *diag);
    syl_status (*device_input)(syl_runner *runner, int i, uint64_t address, size_t size, syl_diag *diag);
    uint64_t (*device_output)(syl_runner *runner, int i);
    syl_status (*device_read)(syl_runner *runner, uint64_t address, size_t size, void *to, syl_diag *diag);

    /* In the observer's call behind a step: bytes [offset, offset + size) of the buffer of one of its arguments (no cache) as the step left
     * them. */
    syl_status (*peek)(syl_runner *runner, const syl_plan_arg *arg, size_t offset, size_t size,
                       syl_diag *diag, void *out);

    /* Bytes a second, read and written together, that a copy in the device's memory reaches. */
    syl_status (*copy_rate)(syl_runner *runner, syl_diag *diag, double *out);
    size_t (*bytes)(const syl_runner *runner); /* memory of its buffers and its cache's pages */
};

extern const syl_backend syl_backend_host, syl_backend_cuda;

/* Where results and arguments of @forward that the caller sees lie in a row of the plan's tables: numbers of arguments and results. */
int syl_engine_inputs(const syl_engine *engine);
int syl_engine_outputs(const syl_engine *engine);

#endif
