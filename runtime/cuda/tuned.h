/* Asking the database of tuning (runtime/tuning.h) about kernels: the one place where what was tuned meets what runs. */
#ifndef SYL_RUNTIME_CUDA_TUNED_H
#define SYL_RUNTIME_CUDA_TUNED_H

#include "base/hash.h"
#include "runtime/cuda/device.h"
#include "codegen/cuda/cuda.h"
#include "runtime/tuning.h"

/* By what records are kept. Error: nvrtc-missing, where there is no compiler whose version could be told. */
SYL_NODISCARD syl_status syl_cuda_tuning_machine(const syl_cuda_properties *gpu, syl_arena *arena,
                                                 syl_diag *diag, syl_tuning_machine *out);
syl_hash syl_cuda_kernel_hash(const kir_kernel *kernel);
/* Whether the variant can run all numbers of rows of this bucket; the last bucket has no end. */
bool syl_cuda_covers(const syl_cuda_launch *launch, int64_t bucket);

typedef struct syl_cuda_tuned syl_cuda_tuned;
/* NULL where nothing was tuned: no folder, no database, nothing of this machine. A database that cannot be read is a warning. */
syl_cuda_tuned *syl_cuda_tuned_open(const char *cache_dir, const syl_cuda_properties *gpu, syl_diag *diag);
void syl_cuda_tuned_close(syl_cuda_tuned *tuned); /* NULL is fine */

/* The variant that was tuned for these rows, a bucket of engine.h. False where there is none, or where it is not what was measured any more:
 * the database is believed only as far as the kernel's own variants and their sources go. NULL is fine. */
bool syl_cuda_tuned_find(syl_cuda_tuned *tuned, const kir_kernel *kernel, const syl_cuda_target *target,
                         int64_t rows, syl_cuda_variant *out);

#endif
