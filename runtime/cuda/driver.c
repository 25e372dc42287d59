/* Opening the CUDA driver, and its results as messages (driver.h). */
#include "runtime/cuda/driver.h"

#include <dlfcn.h>
#include <string.h>

static const struct {
    const char *name;
    size_t offset;
} symbols[] = {
#define DRIVER(ident, symbol, args) {symbol, offsetof(syl_cuda_driver, ident)},
#include "runtime/cuda/driver.def"
};

/* A symbol that is missing is an old driver's, or no driver's at all. */
static syl_status find_symbols(syl_cuda_driver *driver, syl_diag *diag) {
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        void *function = dlsym(driver->library, symbols[i].name);
        if (!function)
            return syl_error(diag, SYL_ERR_cuda_old_driver, SYL_NOWHERE, "libcuda.so.1 has no %s",
                             symbols[i].name);
        memcpy((char *)driver + symbols[i].offset, &function, sizeof function);
    }
    return SYL_OK;
}

static syl_status initialise(syl_cuda_driver *driver, syl_diag *diag) {
    int result = driver->driver_version(&driver->version);
    if (result == CU_SUCCESS && driver->version < SYL_CUDA_DRIVER_VERSION)
        return syl_error(diag, SYL_ERR_cuda_old_driver, SYL_NOWHERE,
                         "the driver serves CUDA %d.%d, at least %d.%d is needed", driver->version / 1000,
                         driver->version % 1000 / 10, SYL_CUDA_DRIVER_VERSION / 1000,
                         SYL_CUDA_DRIVER_VERSION % 1000 / 10);
    if (result == CU_SUCCESS) result = driver->init(0);
    if (result == CU_NO_DEVICE)
        return syl_error(diag, SYL_ERR_cuda_no_device, SYL_NOWHERE,
                         "the CUDA driver is there and finds no GPU");
    return result == CU_SUCCESS ? SYL_OK
                                : syl_cuda_error(driver, result, NULL, "initialising the CUDA driver", diag);
}

/* The library stays in the process once it is open: it has threads of its own. */
syl_status syl_cuda_driver_open(syl_diag *diag, syl_cuda_driver *out) {
    *out = (syl_cuda_driver){.library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE)};
    if (!out->library)
        return syl_error(diag, SYL_ERR_cuda_no_driver, SYL_NOWHERE, "cannot open the CUDA driver: %s",
                         dlerror());
    syl_status status = find_symbols(out, diag);
    if (status == SYL_OK) status = initialise(out, diag);
    if (status != SYL_OK) syl_cuda_driver_close(out);
    return status;
}

void syl_cuda_driver_close(syl_cuda_driver *driver) {
    if (driver->library) dlclose(driver->library);
    *driver = (syl_cuda_driver){0};
}

bool syl_cuda_is_fatal(int result) {
    switch (result) {
    case CU_ECC_UNCORRECTABLE:
    case CU_ILLEGAL_ADDRESS:
    case CU_LAUNCH_TIMEOUT:
    case CU_ASSERT:
    case CU_HARDWARE_STACK_ERROR:
    case CU_ILLEGAL_INSTRUCTION:
    case CU_MISALIGNED_ADDRESS:
    case CU_INVALID_ADDRESS_SPACE:
    case CU_INVALID_PC:
    case CU_LAUNCH_FAILED:
    case CU_UNKNOWN:
        return true;
    default:
        return false;
    }
}

syl_status syl_cuda_error(const syl_cuda_driver *driver, int result, const char *device, const char *what,
                          syl_diag *diag) {
    const char *name = NULL, *text = NULL;
    if (driver->error_name(result, &name) != CU_SUCCESS || !name) name = "an unknown result";
    if (driver->error_text(result, &text) != CU_SUCCESS || !text) text = "the driver does not say more";
    syl_error_id id = syl_cuda_is_fatal(result)                                      ? SYL_ERR_cuda_launch
                      : result == CU_INVALID_IMAGE || result == CU_NO_BINARY_FOR_GPU ? SYL_ERR_cuda_image
                      : result == CU_OUT_OF_MEMORY /* for a context, for code */     ? SYL_ERR_cuda_memory
                                                                                     : SYL_ERR_cuda_driver;
    return syl_error(diag, id, SYL_NOWHERE, "%s%s%s: %s (%d: %s)", what, device ? " on " : "",
                     device ? device : "", name, result, text);
}
