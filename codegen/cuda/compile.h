/* From kernels and variants to code: sources, NVRTC on several threads, the cache. Needs no GPU and no driver. */
#ifndef SYL_CODEGEN_CUDA_COMPILE_H
#define SYL_CODEGEN_CUDA_COMPILE_H

#include "codegen/cuda/cuda.h"
#include "codegen/cuda/resources.h"

typedef struct syl_cuda_job {
    const kir_kernel *kernel;
    syl_cuda_variant variant;
    const syl_cuda_fused *fused; /* NULL, or several kernels in one launch, in place of kernel and variant */
} syl_cuda_job;
SYL_NODISCARD syl_status syl_cuda_job_source(const syl_cuda_job *job, const syl_cuda_target *target,
                                             syl_diag *diag, syl_text *out, syl_cuda_launch *launch);

/* A source as it stands, with one function `entry` (extern "C"). Name and variant are for people. */
typedef struct syl_cuda_text {
    const char *name, *variant, *entry, *source;
} syl_cuda_text;

typedef struct syl_cuda_progress {
    int done, total;  /* kernels; equal sources count once */
    int cached;       /* of those done */
    const char *name; /* of the kernel that was just done */
} syl_cuda_progress;

typedef struct syl_cuda_compile_options {
    const char *cache_dir; /* NULL: no cache */
    int threads;           /* 0 = one a core */
    const char *arch;      /* NULL: the target's name; "compute_80": PTX for it, which a driver assembles */
    void (*progress)(void *user, const syl_cuda_progress *progress); /* one call at a time, from any thread */
    void *user;
} syl_cuda_compile_options;

/* The code of a job. */
typedef struct syl_cuda_code {
    const void *code; /* a cubin or PTX, with a NUL behind it; equal sources share it */
    size_t size;
    syl_cuda_launch launch; /* zeros for a text */
    syl_cuda_resources resources;
    bool cached;    /* found, not compiled */
    double seconds; /* that compiling took, now or then */
} syl_cuda_code;

typedef struct syl_cuda_binaries {
    syl_cuda_code *codes; /* [n], in the order of the jobs */
    size_t n;
    int compiled, cached; /* equal sources count once */
    double seconds;       /* of the call */
} syl_cuda_binaries;

/* Compiles all jobs, or none: where one fails, its error is returned and the others are given up. NVRTC is looked for, but opened only
 * if something must be compiled. A cache entry that is damaged or stale counts as absent. */
SYL_NODISCARD syl_status syl_cuda_compile(const syl_cuda_job *jobs, size_t n, const syl_cuda_target *target,
                                          const syl_cuda_compile_options *options, syl_diag *diag,
                                          syl_cuda_binaries **out);
/* The same of texts, for options->arch (not NULL). */
SYL_NODISCARD syl_status syl_cuda_compile_texts(const syl_cuda_text *texts, size_t n,
                                                const syl_cuda_compile_options *options, syl_diag *diag,
                                                syl_cuda_binaries **out);
void syl_cuda_binaries_destroy(syl_cuda_binaries *binaries); /* NULL is fine */

#endif
