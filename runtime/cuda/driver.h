/* The CUDA driver (libcuda.so.1), opened by dlopen when a CUDA device is asked for, and never linked: one program runs where there is no
 * GPU. Its types are declared here, without the toolkit's headers. */
#ifndef SYL_RUNTIME_CUDA_DRIVER_H
#define SYL_RUNTIME_CUDA_DRIVER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/diag.h"

/* 12.8: kernels' cubins are of a toolkit from there on, and programmatic launches inside of graphs are. */
enum { SYL_CUDA_DRIVER_VERSION = 12080 };

typedef uint64_t cu_address;
typedef struct cu_context_st *cu_context;
typedef struct cu_stream_st *cu_stream;
typedef struct cu_event_st *cu_event;
typedef struct cu_module_st *cu_module;
typedef struct cu_function_st *cu_function;
typedef struct cu_graph_st *cu_graph;
typedef struct cu_graph_exec_st *cu_graph_exec;

/* Results (CUresult) that are told apart. */
enum {
    CU_SUCCESS = 0,
    CU_INVALID_VALUE = 1,
    CU_OUT_OF_MEMORY = 2,
    CU_NO_DEVICE = 100,
    CU_INVALID_DEVICE = 101,
    CU_INVALID_IMAGE = 200,
    CU_NO_BINARY_FOR_GPU = 209,
    CU_ECC_UNCORRECTABLE = 214,
    CU_ILLEGAL_ADDRESS = 700,
    CU_LAUNCH_TIMEOUT = 702,
    CU_ASSERT = 710,
    CU_HARDWARE_STACK_ERROR = 714,
    CU_ILLEGAL_INSTRUCTION = 715,
    CU_MISALIGNED_ADDRESS = 716,
    CU_INVALID_ADDRESS_SPACE = 717,
    CU_INVALID_PC = 718,
    CU_LAUNCH_FAILED = 719,
    CU_UNKNOWN = 999,
};

enum { /* CUdevice_attribute */
       CU_ATTRIBUTE_CLOCK_KHZ = 13,
       CU_ATTRIBUTE_SMS = 16,
       CU_ATTRIBUTE_MEMORY_CLOCK_KHZ = 36,
       CU_ATTRIBUTE_MEMORY_BITS = 37,
       CU_ATTRIBUTE_L2 = 38,
       CU_ATTRIBUTE_MAJOR = 75,
       CU_ATTRIBUTE_MINOR = 76,
       CU_ATTRIBUTE_SHARED = 97,
};
enum { CU_HOST_MAPPED = 2 }; /* pinned memory that the device reads and writes at the same address */
enum { CU_STREAM_NON_BLOCKING = 1, CU_EVENT_DEFAULT = 0, CU_EVENT_NO_TIMING = 2 };
enum { CU_CAPTURE_THREAD_LOCAL = 1, CU_EVENT_RECORD_EXTERNAL = 1 };
enum { CU_FUNCTION_DYNAMIC_SHARED = 8 };
enum { CU_LAUNCH_CLUSTER = 4, CU_LAUNCH_PROGRAMMATIC = 6 };

typedef struct cu_launch_attribute { /* CUlaunchAttribute */
    int id, pad;
    union {
        char bytes[64];
        struct {
            unsigned x, y, z;
        } cluster;
        int programmatic;
    } value;
} cu_launch_attribute;
_Static_assert(sizeof(cu_launch_attribute) == 72, "as the driver lays it out");

typedef struct cu_launch_config { /* CUlaunchConfig */
    unsigned grid[3], block[3], shared;
    cu_stream stream;
    cu_launch_attribute *attributes;
    unsigned n_attributes;
} cu_launch_config;
_Static_assert(sizeof(cu_launch_config) == 56, "as the driver lays it out");

typedef struct syl_cuda_driver {
    void *library;
    int version; /* of the interface: 13000 is 13.0 */
#define DRIVER(ident, symbol, args) int(*ident) args;
#include "runtime/cuda/driver.def"
} syl_cuda_driver;

/* Opens the driver and initialises it. Errors: cuda-no-driver, cuda-old-driver, cuda-no-device, cuda-driver. */
SYL_NODISCARD syl_status syl_cuda_driver_open(syl_diag *diag, syl_cuda_driver *out);
void syl_cuda_driver_close(syl_cuda_driver *driver); /* fine on a zeroed one */

/* Reports that a call of the driver failed: "WHAT on DEVICE: CUDA_ERROR_NAME (its text)". Sorted into cuda-launch (a kernel trapped or
 * the device failed), cuda-image (it cannot load the code) and cuda-driver. */
SYL_NODISCARD syl_status syl_cuda_error(const syl_cuda_driver *driver, int result, const char *device,
                                        const char *what, syl_diag *diag);
/* Whether the process's context of the device is lost by this result: each later call gives the same. */
bool syl_cuda_is_fatal(int result);

#endif
