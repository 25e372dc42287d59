/* What the verbs of the command share: the verb table's row, the common options, and output. Results go to
 * stdout, messages and progress to stderr. */
#ifndef SYL_TOOLS_TOOL_H
#define SYL_TOOLS_TOOL_H

#include "syl/syl.h"
#include "tools/options.h"

/* Progress of long work: one line with percent and remaining time on a terminal, a line every few seconds
 * elsewhere. */
typedef struct tool_progress {
    const struct tool *t;
    const char *label;
    double start, last; /* seconds */
    bool terminal, shown;
} tool_progress;

typedef struct tool {
    syl_arena arena; /* lives as long as the command */
    syl_diag *diag;
    /* common options */
    int64_t threads; /* 0: one a core */
    const char *cpu;
    const char *device; /* NULL: the library's default */
    bool quiet, json, help;
    const char *program;    /* as it was called */
    syl_instance *instance; /* made by tool_instance */
    tool_progress library;  /* of the library's long work */
} tool;

typedef struct verb {
    const char *name, *summary;
    const char *usage;   /* behind "syl NAME" */
    const char *details; /* paragraphs of --help, or NULL */
    const opt_spec *options;
    size_t settings_size; /* zeroed, then by defaults() */
    void (*defaults)(void *settings);
    int min_args, max_args;
    syl_status (*run)(tool *t, void *settings, const char **args, int n_args);
} verb;

/* Every verb, in the order of --help; each is defined in cmd_<name>.c. */
#define TOOL_VERBS(X)                                                                                        \
    X(import)                                                                                                \
    X(compile)                                                                                               \
    X(generate)                                                                                              \
    X(perplexity)                                                                                            \
    X(bench)                                                                                                 \
    X(tune) X(profile) X(logits) X(run) X(dump) X(opt) X(inspect) X(diff) X(cache) X(doctor) X(devices)
#define TOOL_VERB_EXTERN(name) extern const verb verb_##name;
TOOL_VERBS(TOOL_VERB_EXTERN)

/* The command's instance of the library, by the common options; its messages go to stderr. */
SYL_NODISCARD syl_status tool_instance(tool *t, syl_instance **out);

/* Loads an artifact, and says how long it took. */
SYL_NODISCARD syl_status tool_open(tool *t, const char *path, syl_program **out);
/* The same with a session of it; fails where it is no language model. context: 0 = the model's. */
SYL_NODISCARD syl_status tool_open_lm(tool *t, const char *path, int64_t context, syl_program **program,
                                      syl_session **session);

/* A line on stderr, unless --quiet. */
void tool_say(const tool *t, const char *fmt, ...) SYL_PRINTF(2, 3);

/* One flat JSON object on stdout: fields in the order given, numbers that are not finite as null. */
typedef struct tool_json {
    syl_text text;
} tool_json;
tool_json tool_json_begin(tool *t);
void tool_json_number(tool_json *json, const char *key, double value);
void tool_json_int(tool_json *json, const char *key, int64_t value);
void tool_json_text(tool_json *json, const char *key, const char *value);
void tool_json_raw(tool_json *json, const char *key, const char *value); /* JSON as it stands */
SYL_NODISCARD syl_status tool_json_end(tool *t, tool_json *json);
/* Writes to stdout; a full disk or closed pipe is an error (file-write). */
SYL_NODISCARD syl_status tool_print(tool *t, const char *text, size_t size);

tool_progress tool_progress_begin(const tool *t, const char *label);
/* `extra` (may be NULL) stands behind. */
void tool_progress_update(tool_progress *progress, double done, double total, const char *extra);
void tool_progress_end(tool_progress *progress); /* clears the line */

double tool_seconds(void); /* monotonic */

#endif
