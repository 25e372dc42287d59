/* Behind include/syl/syl.h: the handles, and what every public function does at its beginning and end.
 *
 * Invariant: a public function that takes an instance runs between api_begin and api_end, which keep the messages of
 * the call, hold the instance for this thread, and free what the call put into its arena. */
#ifndef SYL_DRIVER_API_H
#define SYL_DRIVER_API_H

#include <stdatomic.h>

#include "base/threads.h"
#include "codegen/host/host.h"
#include "include/syl/syl.h"
#include "runtime/devices.h"
#include "runtime/function.h"
#include "runtime/lm.h"

struct syl_instance {
    syl_arena arena; /* texts of the options and of the device */
    int threads;
    const char *cpu;
    const char *device;    /* as it was asked for; NULL until api_device: the default */
    const char *cache_dir; /* NULL: the user's; "": none */
    void (*message)(void *user, const syl_notice *notice);
    void (*progress)(void *user, const char *what, int64_t done, int64_t total);
    void *user;
    syl_pool *pool;          /* NULL until api_pool */
    syl_host_target *target; /* NULL until api_target */
    syl_cuda_properties *gpus;
    int n_gpus;         /* -1 until they are looked for */
    const char *no_gpu; /* why there are none */
    syl_arena errors_arena;
    syl_text errors; /* of the last call, rendered */
    atomic_flag busy;
};

struct syl_program {
    syl_engine *engine;
    char *path;
    char *folds; /* NULL: not known */
};

struct syl_session {
    syl_instance *instance;
    const syl_program *program;
    syl_lm lm;              /* of a language model; else zeroed */
    syl_function *function; /* of another model; else NULL */
    bool called;            /* the function has results */
    int sequences;
    size_t n_rows;                     /* of the last run */
    struct session_observer *observer; /* NULL until syl_session_observe */
    syl_profile profile;
    syl_step_time *times; /* of the run that is measured; NULL until the first */
    void (*step)(void *user, const syl_step_report *report);
    void *step_user;
};

typedef struct api_call {
    syl_instance *instance;
    syl_diag *diag;
    syl_arena arena; /* freed at the end of the call */
} api_call;

/* SYL_USAGE where the instance is NULL or in use; nothing is then to be ended. */
SYL_NODISCARD syl_status api_begin(api_call *call, syl_instance *instance);
SYL_NODISCARD syl_status api_end(api_call *call, syl_status status); /* returns status */

/* The same for a call that needs a language model's session (exec-signature where it is none). */
SYL_NODISCARD syl_status api_begin_lm(api_call *call, syl_session *session);

void api_observer_destroy(struct session_observer *observer); /* NULL is fine */

/* Reports api-argument: "FUNCTION: what". */
SYL_NODISCARD syl_status api_bad(const api_call *call, const char *function, const char *what);

/* Reads a struct of a caller: as many bytes as both sides know of, zeros for the rest. False if its size field is too
 * small to be one, or if it holds something this version does not know. */
bool api_take(void *own, size_t own_size, const void *given);
/* Writes a result into the struct of a caller, which keeps its size. False as above. */
bool api_give(void *given, const void *own, size_t own_size);
/* The same checks without copying. */
bool api_fits(const void *given);

/* A copy for the caller, NUL-terminated; *size may be NULL. */
SYL_NODISCARD syl_status api_text(const api_call *call, const char *text, size_t n, char **out, size_t *size);

SYL_NODISCARD syl_status api_pool(const api_call *call, syl_pool **out);
SYL_NODISCARD syl_status api_target(const api_call *call, const syl_host_target **out);
const char *api_device(const api_call *call);                         /* "cpu", "cuda", "cuda:1" */
SYL_NODISCARD syl_status api_cache(api_call *call, const char **out); /* NULL: none; in the call's arena */

/* ---- api_inspect.c, api_cuda.c ---- */

/* Which kernels of a plan are called `name` or numbered k<N>: all where it is NULL. Error: cli-kernel where none is. */
SYL_NODISCARD syl_status api_pick_kernels(api_call *call, const syl_plan *plan, const char *name,
                                          const bool **out);
/* A stage of CUDA code of a module. `name` is the public function, for messages. */
SYL_NODISCARD syl_status api_print_cuda(api_call *call, const char *name, syl_stage stage,
                                        const syl_module *module, const syl_cuda_settings *given,
                                        syl_text *out);

#endif
