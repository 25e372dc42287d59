/* A GPU in use: its primary context, memory with an account of what it is for, streams, copies.
 *
 * A device belongs to an engine and is shared by its runners on any threads. Every function that touches the GPU runs between
 * syl_cuda_enter and syl_cuda_leave, which make the context the calling thread's and give the caller's own back. When a kernel traps,
 * the context is lost: that call reports it (cuda-launch), and each later one that it is lost (cuda-lost). */
#ifndef SYL_RUNTIME_CUDA_DEVICE_H
#define SYL_RUNTIME_CUDA_DEVICE_H

#include <stdatomic.h>

#include "runtime/cuda/driver.h"

/* What memory of the device is for.
 * USE(ident, "what it is", "what makes it smaller") */
#define SYL_CUDA_USES(USE)                                                                                   \
    USE(WEIGHTS, "weights", "a recipe of fewer bits")                                                        \
    USE(KV, "the KV cache", "a smaller --context, fewer sequences, or syl compile --kv 8")                   \
    USE(ACTIVATIONS, "activations", "fewer tokens a call")                                                   \
    USE(TENSORS, "inputs and results", "fewer tokens or rows a call")                                        \
    USE(WORKSPACE, "the kernels' workspace", "fewer tokens a call")
typedef enum syl_cuda_use {
#define USE(ident, name, hint) SYL_CUDA_##ident,
    SYL_CUDA_USES(USE)
#undef USE
        SYL_CUDA_USE_COUNT
} syl_cuda_use;

typedef struct syl_cuda_properties {
    int ordinal;
    char name[96];   /* "NVIDIA H200" */
    int capability;  /* major * 10 + minor */
    int sms;         /* multiprocessors */
    int64_t memory;  /* bytes */
    int64_t l2;      /* bytes */
    int64_t shared;  /* bytes of shared memory a block may have */
    int clock_mhz;   /* of the multiprocessors, at most; 0: the driver does not say */
    int memory_mhz;  /* of the memory, likewise */
    int memory_bits; /* width of its bus */
    int driver;      /* version of the driver's interface: 13000 is 13.0 */
} syl_cuda_properties;

typedef struct syl_cuda_device {
    syl_cuda_driver driver;
    syl_cuda_properties properties;
    int handle;
    cu_context context;
    char label[128]; /* "cuda:0 (NVIDIA H200)" */
    atomic_llong used[SYL_CUDA_USE_COUNT];
    atomic_bool lost;
} syl_cuda_device;

/* Properties of all GPUs, in the driver's order; makes no context. The list is the arena's. Errors: those of the driver. */
SYL_NODISCARD syl_status syl_cuda_list(syl_arena *arena, syl_diag *diag, syl_cuda_properties **out, int *n);

/* Those of one GPU by its name, likewise. */
SYL_NODISCARD syl_status syl_cuda_properties_of(const char *name, syl_diag *diag, syl_cuda_properties *out);

/* "cuda" or "cuda:N". Errors: device-unknown, cuda-device, those of the driver. */
SYL_NODISCARD syl_status syl_cuda_open(const char *name, syl_diag *diag, syl_cuda_device **out);
void syl_cuda_close(syl_cuda_device *device); /* behind all that was made on it; NULL is fine */

/* Error cuda-lost; nothing is then to be left. */
SYL_NODISCARD syl_status syl_cuda_enter(syl_cuda_device *device, syl_diag *diag);
void syl_cuda_leave(syl_cuda_device *device);
/* For cleaning up, which goes on in a lost context too. */
void syl_cuda_enter_anyway(syl_cuda_device *device);

/* A result of the driver as a status; `what` says what was being done. */
SYL_NODISCARD syl_status syl_cuda_check(syl_cuda_device *device, int result, const char *what,
                                        syl_diag *diag);

/* ---- memory ---- */

typedef struct syl_cuda_memory {
    cu_address at;
    size_t size;
    syl_cuda_use use;
} syl_cuda_memory;

/* At least 256 bytes, aligned to as many. Size 0 gives no memory. Error: cuda-memory. */
SYL_NODISCARD syl_status syl_cuda_alloc(syl_cuda_device *device, syl_cuda_use use, size_t size,
                                        syl_diag *diag, syl_cuda_memory *out);
void syl_cuda_free(syl_cuda_device *device, syl_cuda_memory *memory); /* fine on a zeroed one */
/* Whether the device has room for what is wanted (bytes by use) besides what it holds. Error cuda-memory, with need, free bytes, the
 * three largest uses and what makes the first smaller. */
SYL_NODISCARD syl_status syl_cuda_room(syl_cuda_device *device, const size_t want[SYL_CUDA_USE_COUNT],
                                       syl_diag *diag);
size_t syl_cuda_used(const syl_cuda_device *device); /* bytes of all uses */

/* Memory of the host that the device copies from and to at full speed, while the caller goes on. */
typedef struct syl_cuda_pinned {
    void *data;
    size_t size;
} syl_cuda_pinned;
SYL_NODISCARD syl_status syl_cuda_pin(syl_cuda_device *device, size_t size, syl_diag *diag,
                                      syl_cuda_pinned *out);
void syl_cuda_unpin(syl_cuda_device *device, syl_cuda_pinned *pinned); /* fine on a zeroed one */

#endif
