/* What `syl compile`, `syl opt` and `syl dump` show of passes as they run, on stderr. */
#ifndef SYL_TOOLS_PASS_OPTIONS_H
#define SYL_TOOLS_PASS_OPTIONS_H

#include "tools/tool.h"

typedef struct pass_settings {
    bool print_ir, timing, stats;
    const char *reproducer;
    double seconds; /* of all passes */
} pass_settings;

/* Rows of a verb's option table whose settings struct has the field `pass`. */
#define PASS_OPTION_ROWS(S)                                                                                  \
    OPT_ROW_FLAG(S, pass.print_ir, "print-ir-after-all", 0, "print the IR after each pass, to stderr"),      \
        OPT_ROW_FLAG(S, pass.timing, "timing", 0, "print how long each pass took"),                          \
        OPT_ROW_FLAG(S, pass.stats, "stats", 0, "print what each pass counted"),                             \
        OPT_ROW_TEXT(S, pass.reproducer, "reproducer", 0, "FILE",                                            \
                     "where to write IR and pipeline if a pass fails")

/* Sets the callback and the reproducer. settings must outlive the run. */
void pass_options_apply(pass_settings *settings, syl_compile_settings *compile);

#endif
