/* The compile road: checkpoint or graph -> module -> passes of a recipe -> materialize -> artifact. */
#ifndef SYL_DRIVER_COMPILE_H
#define SYL_DRIVER_COMPILE_H

#include "base/threads.h"
#include "frontend/frontend.h"
#include "include/syl/syl.h" /* SYL_VERSION */
#include "passes/pass.h"

typedef struct syl_compile_options {
    const char *recipe;   /* name or path, as for syl_recipe_load */
    const char *pipeline; /* passes to run in place of a recipe (then NULL) */
    int kv; /* bits of the KV cache, 8 or 4, added to the recipe or the passes (syl_recipe_quantize_kv); 0: as they say */
    syl_pass_options passes;
    const char *work_dir; /* where finished tensors are kept and looked for (tensor_store.h); NULL: nowhere */
    int64_t memory;       /* bytes for blocks in flight (syl_materialize_memory); 0: half of what is left */
    const char *dump_dir; /* a folder that gets the text of every stage (docs/cli.md); NULL: none */
    const char *dump_cpu; /* the target of the plan and kernels there; NULL: "host" */
    /* Elements of the stored tensors done and in all; called by one thread at a time. May be NULL. */
    void (*progress)(void *user, int64_t done, int64_t total);
    void *user;
} syl_compile_options;

typedef struct syl_compile_stats {
    double open_s, passes_s, materialize_s, write_s;
    int64_t tensors, elements; /* stored */
    int64_t reused;            /* of the tensors: taken from the work folder */
} syl_compile_stats;

/* What a compile will take. */
typedef struct syl_compile_forecast {
    int64_t tensors, reused; /* in all, and those that the work folder has */
    int64_t bytes;           /* of the artifact's tensors */
    int64_t work_bytes;      /* to be added to the work folder */
    int64_t memory;          /* of the process, at its peak */
    double seconds;          /* by rates measured on a few blocks */
    int64_t disk_free;       /* where the output goes; -1: not known */
} syl_compile_forecast;

/* Opens a checkpoint or a graph and runs the passes: the first half of compiling. *model is the caller's to
 * close. */
SYL_NODISCARD syl_status syl_compile_front(const char *in, const syl_compile_options *options, syl_diag *diag,
                                           syl_model *model);

/* Writes the artifact `out`, whole or not at all. The bytes depend on the input, the recipe and the version
 * of the library only: not on threads, memory or what an interrupted compile left. Errors: compile-disk where there
 * is not the space, before any work; compile-output where out is the input or a file the input refers to; those of
 * every stage. */
SYL_NODISCARD syl_status syl_compile(const char *in, const char *out, const syl_compile_options *options,
                                     syl_pool *pool, syl_diag *diag, syl_compile_stats *stats);
/* The same for a model that is open already, which is changed and stays the caller's. `in`: the file it came
 * from, for the provenance, or NULL. Adds to *stats. */
SYL_NODISCARD syl_status syl_compile_model(syl_model *model, const char *in, const char *out,
                                           const syl_compile_options *options, syl_pool *pool, syl_diag *diag,
                                           syl_compile_stats *stats);

/* Opens the input and runs the passes, which take no work on weights worth the name, and tells what the rest will
 * take. Nothing is written. */
SYL_NODISCARD syl_status syl_compile_estimate(const char *in, const char *out,
                                              const syl_compile_options *options, syl_pool *pool,
                                              syl_diag *diag, syl_compile_forecast *forecast);

/* Bytes that a work folder is cut back to when a compile is done, the longest unused first. */
#define SYL_WORK_BYTES ((int64_t)10 << 30)

#endif
