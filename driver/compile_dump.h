/* Every stage of a compile as numbered text files, for `syl compile --dump-dir`. Private to compile. */
#ifndef SYL_DRIVER_COMPILE_DUMP_H
#define SYL_DRIVER_COMPILE_DUMP_H

#include "driver/compile.h"

/* A folder that takes the stages; the first failure is kept and returned by dump_end. */
typedef struct compile_dump {
    const char *folder; /* NULL: nothing is written */
    const char *cpu;
    const syl_pass_options *passes; /* the caller's, called too */
    syl_diag *diag;
    int next; /* number of the next stage */
    syl_status status;
} compile_dump;

/* Makes the folder, and writes 00.import.json (of a checkpoint; a graph is one already) and 01.import.sir. */
void dump_begin(compile_dump *dump, const char *in, const syl_module *module);
/* Pass options that write NN.PASS.sir after each pass. */
syl_pass_options dump_passes(compile_dump *dump);
/* Writes NN.materialized.sir, NN.plan.txt and NN.kernels.txt of the final module. */
SYL_NODISCARD syl_status dump_end(compile_dump *dump, const syl_module *module);

#endif
