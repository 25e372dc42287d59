/* syl diff, the part that runs both models (cmd_diff.c compares what they store). */
#ifndef SYL_TOOLS_DIFF_H
#define SYL_TOOLS_DIFF_H

#include "tools/tool.h"

typedef struct diff_settings {
    const char *file, *ids; /* of a language model: the text, or tokens */
    opt_list inputs;        /* of another model: NAME=@X.npy */
    const char *random;     /* and rows of inputs that are not given */
    int64_t tokens, seed;
} diff_settings;

/* True if they say what to run the models on. */
static inline bool diff_runs(const diff_settings *s) {
    return s->file || s->ids || s->inputs.n || s->random;
}

/* What one value is in both models: sums over all rows seen so far. */
typedef struct diff_value {
    const char *name, *element[2];
    int basis[2];
    int64_t rows, cols;
    double a2, b2, ab, d2, max_abs; /* of elements: A, B, A times B, B - A */
    double n2;                      /* of rows: (|B| - |A|)^2 */
    bool met;                       /* B made one of that name and size */
    float *kept;                    /* A's rows, until B has run */
    int64_t kept_rows;
} diff_value;

typedef struct diff_run {
    tool *t;
    syl_instance *instance;
    syl_program *program[2];
    syl_session *session[2];
    bool same_folds; /* both are made by the same folding passes: values of one name mean the same */
    SYL_VEC(diff_value) values;
    size_t hint;       /* values come in the same order */
    syl_status status; /* of the observing callbacks */
    int64_t tokens;    /* of language models */
    double kl, same_top;
} diff_run;

/* Runs both models on the same input and reports on the values between their kernels. */
SYL_NODISCARD syl_status diff_values(tool *t, const diff_settings *s, const char *const paths[2]);
/* Prints what was found. */
SYL_NODISCARD syl_status diff_report(const diff_run *run, const char *const paths[2]);

#endif
