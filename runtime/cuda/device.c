/* Devices: context, errors, the account of memory (device.h). */
#include "runtime/cuda/device.h"

#include <stdlib.h>
#include <string.h>

#include "base/size.h"

/* ---- properties ---- */

static syl_status describe(const syl_cuda_driver *driver, int ordinal, int handle, syl_diag *diag,
                           syl_cuda_properties *out) {
    *out = (syl_cuda_properties){.ordinal = ordinal, .driver = driver->version};
    int major = 0, minor = 0, l2 = 0, shared = 0, clock = 0, memory_clock = 0;
    const struct {
        int attribute;
        int *to;
        bool needed;
    } attributes[] = {
        {CU_ATTRIBUTE_MAJOR, &major, true},
        {CU_ATTRIBUTE_MINOR, &minor, true},
        {CU_ATTRIBUTE_SMS, &out->sms, true},
        {CU_ATTRIBUTE_L2, &l2, true},
        {CU_ATTRIBUTE_SHARED, &shared, true},
        {CU_ATTRIBUTE_CLOCK_KHZ, &clock, false}, /* newer drivers may stop telling clocks */
        {CU_ATTRIBUTE_MEMORY_CLOCK_KHZ, &memory_clock, false},
        {CU_ATTRIBUTE_MEMORY_BITS, &out->memory_bits, false},
    };
    size_t memory = 0;
    int result = driver->device_name(out->name, sizeof out->name, handle);
    if (result == CU_SUCCESS) result = driver->device_memory(&memory, handle);
    for (size_t i = 0; i < sizeof attributes / sizeof *attributes && result == CU_SUCCESS; i++) {
        int one = driver->device_attribute(attributes[i].to, attributes[i].attribute, handle);
        if (attributes[i].needed)
            result = one;
        else if (one != CU_SUCCESS)
            *attributes[i].to = 0;
    }
    out->name[sizeof out->name - 1] = 0;
    out->capability = major * 10 + minor;
    out->memory = (int64_t)memory;
    out->l2 = l2;
    out->shared = shared;
    out->clock_mhz = clock / 1000;
    out->memory_mhz = memory_clock / 1000;
    return result == CU_SUCCESS
               ? SYL_OK
               : syl_cuda_error(driver, result, NULL, "asking a GPU for its properties", diag);
}

static syl_status count_devices(const syl_cuda_driver *driver, syl_diag *diag, int *out) {
    int result = driver->device_count(out);
    if (result == CU_NO_DEVICE || (result == CU_SUCCESS && *out < 1))
        return syl_error(diag, SYL_ERR_cuda_no_device, SYL_NOWHERE,
                         "the CUDA driver is there and finds no GPU");
    return result == CU_SUCCESS ? SYL_OK : syl_cuda_error(driver, result, NULL, "counting the GPUs", diag);
}

static syl_status find_device(const syl_cuda_driver *driver, int ordinal, syl_diag *diag, int *handle,
                              syl_cuda_properties *out) {
    int result = driver->device_get(handle, ordinal);
    if (result != CU_SUCCESS) return syl_cuda_error(driver, result, NULL, "looking for a GPU", diag);
    return describe(driver, ordinal, *handle, diag, out);
}

syl_status syl_cuda_list(syl_arena *arena, syl_diag *diag, syl_cuda_properties **out, int *n) {
    syl_cuda_driver driver;
    *out = NULL;
    *n = 0;
    SYL_TRY(syl_cuda_driver_open(diag, &driver));
    int count = 0, handle;
    syl_status status = count_devices(&driver, diag, &count);
    syl_cuda_properties *list = SYL_NEW_ARRAY(arena, syl_cuda_properties, (size_t)count);
    for (int i = 0; i < count && status == SYL_OK; i++)
        status = find_device(&driver, i, diag, &handle, &list[i]);
    syl_cuda_driver_close(&driver);
    if (status != SYL_OK) return status;
    *out = list;
    *n = count;
    return SYL_OK;
}

/* ---- opening ---- */

static syl_status parse_name(const char *name, syl_diag *diag, int *ordinal) {
    char *end = NULL;
    *ordinal = 0;
    if (strcmp(name, "cuda") == 0) return SYL_OK;
    if (strncmp(name, "cuda:", 5) == 0 && name[5] >= '0' && name[5] <= '9') {
        long value = strtol(name + 5, &end, 10);
        if (!*end && value < 1 << 16) {
            *ordinal = (int)value;
            return SYL_OK;
        }
    }
    return syl_error(diag, SYL_ERR_device_unknown, SYL_NOWHERE,
                     "the device is \"%s\", expected cpu, cuda or cuda:N", name);
}

static syl_status find_numbered(const syl_cuda_driver *driver, int ordinal, syl_diag *diag, int *handle,
                                syl_cuda_properties *out) {
    int count;
    SYL_TRY(count_devices(driver, diag, &count));
    if (ordinal >= count)
        return syl_error(diag, SYL_ERR_cuda_device, SYL_NOWHERE,
                         "there is no cuda:%d: this machine has %d GPU%s", ordinal, count,
                         count == 1 ? "" : "s");
    return find_device(driver, ordinal, diag, handle, out);
}

syl_status syl_cuda_properties_of(const char *name, syl_diag *diag, syl_cuda_properties *out) {
    syl_cuda_driver driver;
    int ordinal, handle;
    SYL_TRY(parse_name(name, diag, &ordinal));
    SYL_TRY(syl_cuda_driver_open(diag, &driver));
    syl_status status = find_numbered(&driver, ordinal, diag, &handle, out);
    syl_cuda_driver_close(&driver);
    return status;
}

static syl_status open_device(syl_cuda_device *device, int ordinal, syl_diag *diag) {
    SYL_TRY(syl_cuda_driver_open(diag, &device->driver));
    SYL_TRY(find_numbered(&device->driver, ordinal, diag, &device->handle, &device->properties));
    snprintf(device->label, sizeof device->label, "cuda:%d (%s)", ordinal, device->properties.name);
    return syl_cuda_check(device, device->driver.context_retain(&device->context, device->handle),
                          "making a context", diag);
}

syl_status syl_cuda_open(const char *name, syl_diag *diag, syl_cuda_device **out) {
    int ordinal;
    *out = NULL;
    SYL_TRY(parse_name(name, diag, &ordinal));
    syl_cuda_device *device = calloc(1, sizeof *device);
    if (!device) return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for a device");
    syl_status status = open_device(device, ordinal, diag);
    if (status != SYL_OK) {
        syl_cuda_close(device);
        return status;
    }
    *out = device;
    return SYL_OK;
}

void syl_cuda_close(syl_cuda_device *device) {
    if (!device) return;
    if (device->context) device->driver.context_release(device->handle);
    syl_cuda_driver_close(&device->driver);
    free(device);
}

/* ---- the context ---- */

void syl_cuda_enter_anyway(syl_cuda_device *device) {
    device->driver.context_push(device->context);
}

syl_status syl_cuda_enter(syl_cuda_device *device, syl_diag *diag) {
    if (atomic_load(&device->lost))
        return syl_error(diag, SYL_ERR_cuda_lost, SYL_NOWHERE,
                         "%s cannot be used any more: an earlier launch failed there", device->label);
    return syl_cuda_check(device, device->driver.context_push(device->context), "entering the context", diag);
}

void syl_cuda_leave(syl_cuda_device *device) {
    cu_context context;
    device->driver.context_pop(&context);
}

syl_status syl_cuda_check(syl_cuda_device *device, int result, const char *what, syl_diag *diag) {
    if (result == CU_SUCCESS) return SYL_OK;
    if (syl_cuda_is_fatal(result)) atomic_store(&device->lost, true);
    return syl_cuda_error(&device->driver, result, device->label[0] ? device->label : NULL, what, diag);
}

/* ---- memory ---- */

static const struct {
    const char *name, *hint;
} uses[] = {
#define USE(ident, name, hint) {name, hint},
    SYL_CUDA_USES(USE)
#undef USE
};

size_t syl_cuda_used(const syl_cuda_device *device) {
    size_t sum = 0;
    for (int u = 0; u < SYL_CUDA_USE_COUNT; u++) sum += (size_t)atomic_load(&device->used[u]);
    return sum;
}

/* "12.3 MB": powers of 1000, as disks and GPUs are sold. */
static const char *size_text(size_t bytes, char *text, size_t n) {
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    double value = (double)bytes;
    int unit = 0;
    for (; value >= 1000 && unit < 4; unit++) value /= 1000;
    snprintf(text, n, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return text;
}

/* `need` bytes are not there. The account counts what is held and what is wanted. */
static syl_status too_little(syl_cuda_device *device, const size_t want[SYL_CUDA_USE_COUNT], size_t need,
                             size_t free_bytes, syl_diag *diag) {
    size_t total[SYL_CUDA_USE_COUNT], shown = 0;
    int largest = -1;
    char list[400] = "", a[24], b[24];
    for (int u = 0; u < SYL_CUDA_USE_COUNT; u++) {
        size_t held = (size_t)atomic_load(&device->used[u]);
        if (!syl_size_add(held, want[u], &total[u])) total[u] = SIZE_MAX;
    }
    for (int n = 0; n < 3; n++) {
        int best = -1;
        for (int u = 0; u < SYL_CUDA_USE_COUNT; u++)
            if (total[u] && (best < 0 || total[u] > total[best])) best = u;
        if (best < 0) break;
        if (largest < 0) largest = best;
        shown += (size_t)snprintf(list + shown, sizeof list - shown, "%s%s %s", n ? ", " : "",
                                  uses[best].name, size_text(total[best], a, sizeof a));
        total[best] = 0;
    }
    return syl_error(diag, SYL_ERR_cuda_memory, SYL_NOWHERE,
                     "%s are needed on %s, %s are free; largest: %s; %s needs less",
                     size_text(need, a, sizeof a), device->label, size_text(free_bytes, b, sizeof b), list,
                     largest < 0 ? "a smaller model" : uses[largest].hint);
}

syl_status syl_cuda_room(syl_cuda_device *device, const size_t want[SYL_CUDA_USE_COUNT], syl_diag *diag) {
    size_t need = 0, free_bytes = 0, total = 0;
    for (int u = 0; u < SYL_CUDA_USE_COUNT; u++)
        if (!syl_size_add(need, want[u], &need)) need = SIZE_MAX;
    SYL_TRY(syl_cuda_check(device, device->driver.memory_info(&free_bytes, &total), "asking for free memory",
                           diag));
    return need <= free_bytes ? SYL_OK : too_little(device, want, need, free_bytes, diag);
}

syl_status syl_cuda_alloc(syl_cuda_device *device, syl_cuda_use use, size_t size, syl_diag *diag,
                          syl_cuda_memory *out) {
    *out = (syl_cuda_memory){.use = use, .size = size};
    if (!size) return SYL_OK;
    int result = device->driver.alloc(&out->at, size);
    if (result == CU_SUCCESS) {
        atomic_fetch_add(&device->used[use], (long long)size);
        return SYL_OK;
    }
    *out = (syl_cuda_memory){0};
    if (result != CU_OUT_OF_MEMORY) return syl_cuda_check(device, result, "allocating memory", diag);
    size_t want[SYL_CUDA_USE_COUNT] = {0}, free_bytes = 0, total = 0;
    want[use] = size;
    device->driver.memory_info(&free_bytes, &total);
    return too_little(device, want, size, free_bytes, diag);
}

void syl_cuda_free(syl_cuda_device *device, syl_cuda_memory *memory) {
    if (memory->at) {
        device->driver.free(memory->at);
        atomic_fetch_sub(&device->used[memory->use], (long long)memory->size);
    }
    *memory = (syl_cuda_memory){0};
}

syl_status syl_cuda_pin(syl_cuda_device *device, size_t size, syl_diag *diag, syl_cuda_pinned *out) {
    *out = (syl_cuda_pinned){.size = size};
    int result = device->driver.host_alloc(&out->data, size ? size : 1, CU_HOST_MAPPED);
    if (result == CU_SUCCESS) return SYL_OK;
    *out = (syl_cuda_pinned){0};
    if (result != CU_OUT_OF_MEMORY) return syl_cuda_check(device, result, "pinning memory of the host", diag);
    return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE,
                     "cannot pin %zu bytes of the host's memory for copies to %s", size, device->label);
}

void syl_cuda_unpin(syl_cuda_device *device, syl_cuda_pinned *pinned) {
    if (pinned->data) device->driver.host_free(pinned->data);
    *pinned = (syl_cuda_pinned){0};
}
