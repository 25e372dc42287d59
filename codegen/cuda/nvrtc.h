/* NVRTC, NVIDIA's compiler of CUDA C++ as a library: found on disk, opened only when something must be compiled, and called through one
 * table of symbols (nvrtc.def). No CUDA header and no CUDA library is needed to build or to start this program. */
#ifndef SYL_CODEGEN_CUDA_NVRTC_H
#define SYL_CODEGEN_CUDA_NVRTC_H

#include <stdbool.h>
#include <stddef.h>
#include "base/diag.h"

enum { SYL_NVRTC_MAJOR = 12, SYL_NVRTC_MINOR = 8 }; /* the oldest that knows all architectures of cuda.h */

/* A library on disk, not opened. */
typedef struct syl_nvrtc_place {
    const char *path;
    char identity
        [64]; /* what stands for the file in cache keys: its build id, or where and when it was written */
    int major, minor; /* as its library of builtins beside it is called; 0 where that is not there */
} syl_nvrtc_place;

/* Looks for libnvrtc.so.13, then .12 (docs/cli.md lists the places): SYL_NVRTC, a file or its folder, if that is set; else beside the
 * program, in Python's wheels, on the loader's path, in the toolkit's folder. Opens nothing; a library that is seen to be too old is passed
 * over. Errors: nvrtc-missing, nvrtc-old. */
SYL_NODISCARD syl_status syl_nvrtc_find(syl_arena *arena, syl_diag *diag, syl_nvrtc_place *out);

/* An open library. Any threads may compile with it at the same time. */
typedef struct syl_nvrtc syl_nvrtc;
SYL_NODISCARD syl_status syl_nvrtc_open(const syl_nvrtc_place *place, syl_diag *diag, syl_nvrtc **out);
void syl_nvrtc_close(syl_nvrtc *nvrtc); /* NULL is fine */
void syl_nvrtc_version(const syl_nvrtc *nvrtc, int *major, int *minor);

typedef struct syl_nvrtc_input {
    const char *name;         /* of the kernel, for messages: "k3 rms_norm_quantize" */
    const char *source;       /* the whole text */
    const char *arch;         /* "sm_90a": a cubin; "compute_80": PTX */
    const char *failures_dir; /* where the source of a failed compile is left; NULL: in TMPDIR */
} syl_nvrtc_input;

typedef struct syl_nvrtc_output {
    char *code; /* with a NUL behind it, as the log */
    size_t size;
    char *log; /* of the assembler: registers, spills (resources.h) */
    double seconds;
} syl_nvrtc_output;

/* Errors: codegen-cuda, with the begin of the log; nvrtc-builtins. The output is freed by syl_nvrtc_output_free. */
SYL_NODISCARD syl_status syl_nvrtc_compile(const syl_nvrtc *nvrtc, const syl_nvrtc_input *input,
                                           syl_diag *diag, syl_nvrtc_output *out);
void syl_nvrtc_output_free(syl_nvrtc_output *output); /* fine on a zeroed one */

/* The options for an architecture, separated by spaces: a part of cache keys. */
const char *syl_nvrtc_options(syl_arena *arena, const char *arch);

#endif
