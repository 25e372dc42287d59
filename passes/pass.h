/* Passes rewrite modules; they never touch weight data. passes.def lists them, pipelines are text:
 *     fold-norms,rotate-residual{seed=1},cse,dce
 * A pass is idempotent, deterministic, and leaves a module that verifies. */
#ifndef SYL_PASSES_PASS_H
#define SYL_PASSES_PASS_H

#include "ir/ir.h"

/* One option of one pass in a pipeline, or one counter it reports. */
typedef struct syl_pass_stat {
    const char *name;
    int64_t value;
} syl_pass_stat;

typedef struct syl_pass_ctx {
    syl_module *module;
    syl_arena *scratch; /* rewound after the pass */
    syl_diag *diag;
    const struct syl_pass_run *run; /* options: syl_pass_option_* */
    SYL_VEC(syl_pass_stat) stats;
} syl_pass_ctx;

void syl_pass_count(syl_pass_ctx *ctx, const char *stat, int64_t n); /* adds to a statistic */

/* Options as given in the pipeline, else as defaulted in passes.def. Both are checked when the pipeline is
 * parsed: a number is at least 0, a word is one of the choices. */
int64_t syl_pass_option_int(const syl_pass_ctx *ctx, const char *name);
const char *syl_pass_option_str(const syl_pass_ctx *ctx, const char *name);

#define PASS(ident, name, options, doc) SYL_NODISCARD syl_status syl_pass_##ident(syl_pass_ctx *ctx);
#include "passes/passes.def"

typedef struct syl_pipeline syl_pipeline; /* parsed; lives in the arena it was parsed into */
SYL_NODISCARD syl_status syl_pipeline_parse(syl_arena *arena, const syl_source *text, syl_diag *diag,
                                            syl_pipeline **out);
void syl_pipeline_print(const syl_pipeline *pipeline, syl_text *out); /* canonical text, defaults left out */
/* Of the text of a pipeline, which may be of another version: the passes that fold (passes.def), with their options. */
void syl_pipeline_folds(const char *pipeline, syl_text *out);

typedef struct syl_pass_options {
    /* After each pass (index from 1): its name, the module, the statistics and seconds; NULL: none. */
    void (*after)(void *user, int index, const char *pass, const syl_module *module,
                  const syl_pass_stat *stats, size_t n_stats, double seconds);
    void *user;
    const char
        *reproducer; /* where to write IR + pipeline when a pass fails or breaks the module; NULL: nowhere */
} syl_pass_options;

/* Runs the pipeline, verifying the module before the first and after each pass. */
SYL_NODISCARD syl_status syl_pipeline_run(const syl_pipeline *pipeline, syl_module *module, syl_diag *diag,
                                          const syl_pass_options *options);

/* Recipes: named pipelines in JSON files, some embedded in the library. */
typedef struct syl_recipe {
    const char *name, *description, *pipeline, *text; /* text: the JSON, as stored in artifacts */
} syl_recipe;
/* By name of an embedded recipe ("w8a8"), or a path ending in .json. */
SYL_NODISCARD syl_status syl_recipe_load(syl_arena *arena, const char *name_or_path, syl_diag *diag,
                                         syl_recipe *out);
/* The same recipe with a KV cache of `bits` bits, 8 or 4: rotate-keys and quantize-kv go in front of fuse. Errors:
 * recipe-kv where the pipeline has no fuse, or quantizes the cache already. */
SYL_NODISCARD syl_status syl_recipe_quantize_kv(syl_arena *arena, int bits, syl_diag *diag,
                                                syl_recipe *recipe);
const char *const *syl_recipe_names(void); /* embedded ones, NULL-terminated */

#endif
