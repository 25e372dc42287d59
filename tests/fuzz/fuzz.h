/* What the fuzz targets share.
 *
 * A target is one file with LLVMFuzzerTestOneInput, linked with libFuzzer where SYL_FUZZ is on, else with
 * replay.c, which runs the files of a corpus. It may do anything with the input but crash, leak, hang, and
 * what fuzz_ok and fuzz_die call a finding. The targets touch no files: fuzz_serve says what paths hold. */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include "base/diag.h"
#include "ir/ir.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* One run: diagnostics are rendered, as the command does. */
typedef struct fuzz {
    syl_arena arena;
    syl_text messages;
    syl_diag *diag;
} fuzz;
void fuzz_open(fuzz *f);
void fuzz_close(fuzz *f); /* and forgets the files served */

/* True if the call succeeded. A finding: a failure that nobody reported, an error reported by a call that
 * succeeded, and the status INTERNAL, with which the library says that its own invariant is broken. Either
 * way what was reported is forgotten. */
bool fuzz_ok(fuzz *f, syl_status status);
/* A finding: prints why, and aborts. */
_Noreturn void fuzz_die(const fuzz *f, const char *fmt, ...) SYL_PRINTF(2, 3);

/* From now on the file `path` has these bytes (borrowed), for what base/file.h reads with, and access; any other file
 * is not there. A mapping is a heap block of exactly `size` bytes, so that the address sanitizer sees the
 * first byte behind it. */
void fuzz_serve(const char *path, const void *data, size_t size);

/* A finding unless the text is JSON. */
void fuzz_json(fuzz *f, const char *what, const char *text, size_t size);

/* What must hold for any module: its text reads back to a module of the same text, which verifies if this one
 * does. Returns whether it does. */
bool fuzz_module(fuzz *f, const syl_module *module);
/* All that, and if it verifies: the pipeline of each recipe, run on a copy, either refuses it or leaves a
 * module that verifies and of which all that is true. */
void fuzz_recipes(fuzz *f, const syl_module *module);

#endif
