/* Command lines from tables: one table of options a verb drives parsing, --help and every error message. */
#ifndef SYL_TOOLS_OPTIONS_H
#define SYL_TOOLS_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/diag.h"

typedef enum opt_kind {
    OPT_FLAG,   /* bool */
    OPT_TEXT,   /* const char * */
    OPT_CHOICE, /* const char *: one of `value`, "a|b|c" */
    OPT_INT,    /* int64_t */
    OPT_NUMBER, /* double */
    OPT_LIST,   /* opt_list: may be given many times */
} opt_kind;

enum { OPT_LIST_MAX = 64 };
typedef struct opt_list {
    const char *p[OPT_LIST_MAX];
    int n;
} opt_list;

typedef struct opt_spec {
    const char *name; /* without dashes; NULL ends a table */
    char letter;      /* 0: none */
    opt_kind kind;
    const char *value; /* how --help calls the value: "FILE" */
    size_t offset;     /* of the field in the verb's settings */
    double min, max;   /* INT, NUMBER */
    const char *help;
} opt_spec;

/* Fields of the settings struct `S`. */
#define OPT_ROW_FLAG(S, field, opt_name, opt_letter, opt_help)                                               \
    {.name = (opt_name),                                                                                     \
     .letter = (opt_letter),                                                                                 \
     .kind = OPT_FLAG,                                                                                       \
     .offset = offsetof(S, field),                                                                           \
     .help = (opt_help)}
#define OPT_ROW_TEXT(S, field, opt_name, opt_letter, opt_value, opt_help)                                    \
    {.name = (opt_name),                                                                                     \
     .letter = (opt_letter),                                                                                 \
     .kind = OPT_TEXT,                                                                                       \
     .value = (opt_value),                                                                                   \
     .offset = offsetof(S, field),                                                                           \
     .help = (opt_help)}
#define OPT_ROW_LIST(S, field, opt_name, opt_letter, opt_value, opt_help)                                    \
    {.name = (opt_name),                                                                                     \
     .letter = (opt_letter),                                                                                 \
     .kind = OPT_LIST,                                                                                       \
     .value = (opt_value),                                                                                   \
     .offset = offsetof(S, field),                                                                           \
     .help = (opt_help)}
#define OPT_ROW_CHOICE(S, field, opt_name, opt_letter, opt_value, opt_help)                                  \
    {.name = (opt_name),                                                                                     \
     .letter = (opt_letter),                                                                                 \
     .kind = OPT_CHOICE,                                                                                     \
     .value = (opt_value),                                                                                   \
     .offset = offsetof(S, field),                                                                           \
     .help = (opt_help)}
#define OPT_ROW_INT(S, field, opt_name, opt_letter, opt_value, opt_min, opt_max, opt_help)                   \
    {.name = (opt_name),                                                                                     \
     .letter = (opt_letter),                                                                                 \
     .kind = OPT_INT,                                                                                        \
     .value = (opt_value),                                                                                   \
     .offset = offsetof(S, field),                                                                           \
     .min = (opt_min),                                                                                       \
     .max = (opt_max),                                                                                       \
     .help = (opt_help)}
#define OPT_ROW_NUMBER(S, field, opt_name, opt_letter, opt_value, opt_min, opt_max, opt_help)                \
    {.name = (opt_name),                                                                                     \
     .letter = (opt_letter),                                                                                 \
     .kind = OPT_NUMBER,                                                                                     \
     .value = (opt_value),                                                                                   \
     .offset = offsetof(S, field),                                                                           \
     .min = (opt_min),                                                                                       \
     .max = (opt_max),                                                                                       \
     .help = (opt_help)}

/* Parses argv[0..argc) by several tables; `settings[i]` is the struct of tables[i]. Words that are no options
 * go to args (room for argc); "--" ends the options. Options may be written --name VALUE, --name=VALUE, -x
 * VALUE. */
SYL_NODISCARD syl_status opt_parse(const opt_spec *const *tables, void *const *settings, int n_tables,
                                   int argc, char **argv, const char *verb, syl_diag *diag, const char **args,
                                   int *out_n_args);

void opt_print_help(const opt_spec *table, syl_text *out);

#endif
