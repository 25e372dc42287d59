/* Inside of pipelines: what pipeline.c parses and manager.c runs. */
#ifndef SYL_PASSES_PIPELINE_H
#define SYL_PASSES_PIPELINE_H

#include "passes/pass.h"

typedef struct syl_pass_info {
    const char *name, *options, *doc; /* the row of passes.def */
    syl_status (*run)(syl_pass_ctx *ctx);
} syl_pass_info;

enum {
    SYL_PASS_COUNT = 0
#define PASS(ident, name, options, doc) +1
#include "passes/passes.def"
};
extern const syl_pass_info syl_passes[SYL_PASS_COUNT];

/* One option of a pass as its row declares it: name and default (and for words the choices) are parts of the
 * row's text. */
typedef struct syl_option_spec {
    const char *name, *choices; /* not terminated */
    int name_size, choices_size;
    bool number;
} syl_option_spec;
/* Reads the spec at *cursor (start: pass->options) and moves on; false at the end. */
bool syl_option_next(const char **cursor, syl_option_spec *spec);

typedef struct syl_option_value {
    const char *name, *word; /* word: the value as text */
    int64_t number;          /* of number options */
} syl_option_value;

/* One pass of a pipeline with a value for each of its options, in the order of its row. */
struct syl_pass_run {
    const syl_pass_info *pass;
    syl_option_value *options;
    int n_options;
};

struct syl_pipeline {
    struct syl_pass_run *runs;
    int n_runs;
};

/* Prints runs [first, n_runs). */
void syl_pipeline_print_from(const syl_pipeline *pipeline, int first, syl_text *out);

#endif
