/* What a compiled kernel takes of a multiprocessor. Registers and the stack stand in the cubin, an ELF file; spills and static shared memory
 * only in the assembler's log (--ptxas-options=-v). */
#ifndef SYL_CODEGEN_CUDA_RESOURCES_H
#define SYL_CODEGEN_CUDA_RESOURCES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/diag.h"

typedef struct syl_cuda_resources {
    int registers;                     /* of a thread; 0: PTX, which the driver assembles */
    int64_t stack;                     /* bytes of local memory of a thread, spills included */
    int64_t spill_stores, spill_loads; /* bytes of a thread; -1: the log doesn't tell */
    int64_t shared;                    /* bytes of static shared memory of a block; -1 likewise */
    bool serialized; /* the assembler found its wgmma unsafe to overlap: correct, and slow */
} syl_cuda_resources;

/* Of the function `entry` of a cubin; the log may be NULL. Functions that it calls count to its spills. `name` is for messages. Error:
 * codegen-cuda, where the bytes are no cubin or have no such function. */
SYL_NODISCARD syl_status syl_cuda_resources_read(const void *cubin, size_t size, const char *entry,
                                                 const char *log, const char *name, syl_diag *diag,
                                                 syl_cuda_resources *out);

#endif
