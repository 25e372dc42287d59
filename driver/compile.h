/* The compile road: checkpoint or graph -> module -> passes of a recipe -> materialize -> artifact. */
#ifndef SYL_DRIVER_COMPILE_H
#define SYL_DRIVER_COMPILE_H

#include "base/threads.h"
#include "frontend/frontend.h"
#include "passes/pass.h"

#define SYL_VERSION "0.1.0"

typedef struct syl_compile_options {
    const char *recipe;   /* name or path, as for syl_recipe_load */
    const char *pipeline; /* passes to run in place of a recipe (then NULL) */
    syl_pass_options passes;
    /* Elements of the stored tensors done and in all; called by one thread at a time. May be NULL. */
    void (*progress)(void *user, int64_t done, int64_t total);
    void *user;
} syl_compile_options;

typedef struct syl_compile_stats {
    double open_s, passes_s, materialize_s, write_s;
    int64_t tensors, elements; /* stored */
} syl_compile_stats;

/* Opens a checkpoint or a graph and runs the passes: the first half of compiling. *model is the caller's to
 * close. */
SYL_NODISCARD syl_status syl_compile_front(const char *in, const syl_compile_options *options, syl_diag *diag,
                                           syl_model *model);

/* Writes the artifact `out`, whole or not at all. The bytes depend on the input, the recipe and the version
 * of the library only. Errors: compile-output where out is the input or a file the input refers to; those of
 * every stage. */
SYL_NODISCARD syl_status syl_compile(const char *in, const char *out, const syl_compile_options *options,
                                     syl_pool *pool, syl_diag *diag, syl_compile_stats *stats);
/* The same for a model that is open already, which is changed and stays the caller's. `in`: the file it came
 * from, for the provenance, or NULL. Adds to *stats. */
SYL_NODISCARD syl_status syl_compile_model(syl_model *model, const char *in, const char *out,
                                           const syl_compile_options *options, syl_pool *pool, syl_diag *diag,
                                           syl_compile_stats *stats);

#endif
