/* The driver that cuda.h describes. Types are spelt as the real driver's header does, apart from the runtime's own. */
#include "cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define API __attribute__((visibility("default")))

enum {
    OK,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    NOT_FOUND = 500,
    NOT_PERMITTED = 800
};
enum { TRAPPED = 719, MAX_BLOCKS = 4096 };

typedef struct stream stream;
typedef struct operation {
    struct operation *next;
    fake_launch launch;
    uint64_t parameter[FAKE_PARAMETER / 8];
} operation;
typedef struct graph {
    operation *first, **end;
} graph;
struct stream {
    graph *capturing;
};
typedef struct function {
    struct function *next;
    const void *image;
    char name[64];
} function;
typedef struct module {
    const void *image;
    function *functions;
} module;
typedef struct config { /* CUlaunchConfig */
    unsigned grid[3], block[3], shared;
    stream *stream;
    const struct {
        int id, pad;
        unsigned value[16];
    } *attributes;
    unsigned n_attributes;
} config;

static fake_cuda_state s;
static _Thread_local int entered_here; /* contexts that this thread has pushed and not popped */
static int ready;
static struct {
    char *at;
    size_t size;
    int pinned;
} blocks[MAX_BLOCKS];

static size_t number(const char *name, size_t otherwise) {
    const char *text = getenv(name);
    return text && *text ? strtoull(text, NULL, 10) : otherwise;
}

API fake_cuda_state *fake_cuda(void);
fake_cuda_state *fake_cuda(void) {
    if (!ready) {
        s.devices = (int)number("FAKE_CUDA_DEVICES", 1);
        s.version = (int)number("FAKE_CUDA_VERSION", 13000);
        s.memory = number("FAKE_CUDA_MEMORY", (size_t)8 << 30);
        s.trap = (long)number("FAKE_CUDA_TRAP", 0);
        s.capability = 90;
        ready = 1;
    }
    return &s;
}

static int wrong(const char *what) {
    if (!s.errors++) snprintf(s.error, sizeof s.error, "%s", what);
    return INVALID_VALUE;
}

/* Work needs a context that is current and alive. */
static int usable(const char *what) {
    if (entered_here < 1) return wrong(what);
    return s.dead;
}
#define USABLE()                                                                                             \
    do {                                                                                                     \
        int usable_result = usable(__func__);                                                                \
        if (usable_result) return usable_result;                                                             \
    } while (0)

/* Whether [at, at + size) is inside of a block of this kind. */
static int inside(const void *at, size_t size, int pinned) {
    for (int i = 0; i < MAX_BLOCKS; i++)
        if (blocks[i].at && blocks[i].pinned == pinned && (const char *)at >= blocks[i].at &&
            (const char *)at + size <= blocks[i].at + blocks[i].size)
            return 1;
    return 0;
}

/* ---- the machine ---- */

API int cuInit(unsigned flags) {
    (void)flags;
    return fake_cuda()->devices ? OK : NO_DEVICE;
}
API int cuDriverGetVersion(int *version) {
    *version = fake_cuda()->version;
    return OK;
}
API int cuGetErrorName(int result, const char **name) {
    *name = result == TRAPPED         ? "CUDA_ERROR_LAUNCH_FAILED"
            : result == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY"
                                      : "CUDA_ERROR_OTHER";
    return OK;
}
API int cuGetErrorString(int result, const char **text) {
    *text = result == TRAPPED ? "unspecified launch failure" : "something else";
    return OK;
}
API int cuDeviceGetCount(int *count) {
    *count = s.devices;
    return OK;
}
API int cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return ordinal < s.devices ? OK : INVALID_DEVICE;
}
API int cuDeviceGetName(char *name, int size, int device) {
    snprintf(name, (size_t)size, "Fake GPU %d", device);
    return OK;
}
API int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    (void)device;
    *bytes = s.memory;
    return OK;
}
API int cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    switch (attribute) {
    case 16:
        *value = 132;
        return OK;
    case 38:
        *value = s.l2 ? s.l2 : 50 << 20;
        return OK;
    case 75:
        *value = s.capability / 10;
        return OK;
    case 76:
        *value = s.capability % 10;
        return OK;
    case 97:
        *value = 227 << 10;
        return OK;
    default:
        return INVALID_VALUE; /* as newer drivers do with clocks */
    }
}
API int cuDevicePrimaryCtxRetain(void **context, int device) {
    (void)device;
    *context = &s;
    s.contexts++;
    return s.dead;
}
API int cuDevicePrimaryCtxRelease_v2(int device) {
    (void)device;
    return s.contexts-- > 0 ? OK : wrong(__func__);
}
API int cuCtxPushCurrent_v2(void *context) {
    if (context != &s) return wrong(__func__);
    entered_here++;
    __atomic_add_fetch(&s.entered, 1, __ATOMIC_RELAXED);
    return OK;
}
API int cuCtxPopCurrent_v2(void **context) {
    *context = &s;
    __atomic_sub_fetch(&s.entered, 1, __ATOMIC_RELAXED);
    return entered_here-- > 0 ? OK : wrong(__func__);
}

/* ---- memory ---- */

API int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    USABLE();
    *free_bytes = s.memory - s.others - s.used;
    *total = s.memory;
    return OK;
}
static int make_block(void **out, size_t size, int pinned) {
    int i = 0;
    while (i < MAX_BLOCKS && blocks[i].at) i++;
    if (i == MAX_BLOCKS) return OUT_OF_MEMORY;
    if (!pinned && (size > s.memory - s.others - s.used || s.fail_alloc > 0)) {
        if (s.fail_alloc > 0) s.fail_alloc--;
        return OUT_OF_MEMORY;
    }
    if (pinned && s.fail_pin > 0) {
        s.fail_pin--;
        return OUT_OF_MEMORY;
    }
    if (!size) return wrong(__func__);
    blocks[i].at = aligned_alloc(1024, (size + 1023) / 1024 * 1024);
    if (!blocks[i].at) return OUT_OF_MEMORY;
    memset(blocks[i].at, 0xee, size);
    blocks[i].size = size;
    blocks[i].pinned = pinned;
    *out = blocks[i].at;
    if (pinned)
        s.pins++, s.pinned += size;
    else
        s.allocations++, s.used += size;
    if (s.used > s.peak) s.peak = s.used;
    return OK;
}
static int free_block(void *at, int pinned) {
    for (int i = 0; i < MAX_BLOCKS; i++) {
        if (!at || blocks[i].at != at || blocks[i].pinned != pinned) continue;
        if (pinned)
            s.pins--, s.pinned -= blocks[i].size;
        else
            s.allocations--, s.used -= blocks[i].size;
        free(at);
        blocks[i].at = NULL;
        return s.dead;
    }
    return wrong(pinned ? "cuMemFreeHost" : "cuMemFree");
}
API int cuMemAlloc_v2(uint64_t *address, size_t size) {
    void *at = NULL;
    USABLE();
    int result = make_block(&at, size, 0);
    *address = (uint64_t)(uintptr_t)at;
    return result;
}
API int cuMemFree_v2(uint64_t address) {
    return entered_here < 1 ? wrong(__func__) : free_block((void *)(uintptr_t)address, 0);
}
API int cuMemHostAlloc(void **memory, size_t size, unsigned flags) {
    (void)flags;
    USABLE();
    return make_block(memory, size, 1);
}
API int cuMemFreeHost(void *memory) {
    return entered_here < 1 ? wrong(__func__) : free_block(memory, 1);
}
API int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, stream *stream) {
    USABLE();
    if (!stream || stream->capturing || !size || !inside((void *)(uintptr_t)to, size, 0) ||
        !inside(from, size, 1))
        return wrong(__func__);
    memcpy((void *)(uintptr_t)to, from, size);
    s.copies_in++;
    return OK;
}
API int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, stream *stream) {
    USABLE();
    if (!stream || stream->capturing || !size || !inside((void *)(uintptr_t)from, size, 0) ||
        !inside(to, size, 1))
        return wrong(__func__);
    memcpy(to, (void *)(uintptr_t)from, size);
    s.copies_out++;
    return OK;
}
API int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t size, stream *stream) {
    USABLE();
    if (!stream || !inside((void *)(uintptr_t)to, size, 0) || !inside((void *)(uintptr_t)from, size, 0))
        return wrong(__func__);
    memmove((void *)(uintptr_t)to, (void *)(uintptr_t)from, size);
    return OK;
}
API int cuMemsetD2D8Async(uint64_t to, size_t pitch, unsigned char value, size_t width, size_t height,
                          stream *stream) {
    USABLE();
    if (!stream || stream->capturing || !width || !height || pitch < width ||
        !inside((void *)(uintptr_t)to, pitch * (height - 1) + width, 0))
        return wrong(__func__);
    for (size_t i = 0; i < height; i++) memset((char *)(uintptr_t)to + i * pitch, value, width);
    s.fills++;
    return OK;
}
API int cuMemsetD8Async(uint64_t to, unsigned char value, size_t size, stream *stream) {
    return cuMemsetD2D8Async(to, size, value, size, 1, stream);
}

/* ---- streams and events ---- */

API int cuStreamCreate(stream **out, unsigned flags) {
    USABLE();
    *out = calloc(1, sizeof **out);
    s.streams++;
    return flags == 1 ? OK : wrong(__func__);
}
API int cuStreamDestroy_v2(stream *stream) {
    free(stream);
    s.streams--;
    return s.dead;
}
API int cuStreamSynchronize(stream *stream) {
    USABLE();
    if (!stream || stream->capturing) return wrong(__func__);
    s.waits++;
    return OK;
}
API int cuStreamWaitEvent(stream *stream, void *event, unsigned flags) {
    USABLE();
    (void)flags;
    return stream && event ? OK : wrong(__func__);
}
API int cuEventCreate(void **event, unsigned flags) {
    USABLE();
    (void)flags;
    *event = calloc(1, sizeof(double));
    s.events++;
    return OK;
}
API int cuEventDestroy_v2(void *event) {
    free(event);
    s.events--;
    return s.dead;
}
API int cuEventRecord(void *event, stream *stream) {
    USABLE();
    if (!event || !stream || stream->capturing) return wrong(__func__);
    *(double *)event = s.clock;
    return OK;
}
API int cuEventRecordWithFlags(void *event, stream *stream, unsigned flags) {
    USABLE();
    return event && stream && stream->capturing && flags == 1 ? OK : wrong(__func__);
}
API int cuEventSynchronize(void *event) {
    USABLE();
    return event ? OK : wrong(__func__);
}
API int cuEventElapsedTime(float *milliseconds, void *from, void *to) {
    USABLE();
    if (!from || !to) return wrong(__func__);
    double took = *(double *)to - *(double *)from;
    *milliseconds = took > 0 ? (float)(1e3 * took) : 0.001f;
    return OK;
}

/* ---- code ---- */

API int cuModuleLoadData(module **out, const void *image) {
    USABLE();
    *out = calloc(1, sizeof **out);
    (*out)->image = image;
    s.modules++;
    return OK;
}
API int cuModuleUnload(module *module) {
    for (function *f = module->functions, *next; f; f = next) {
        next = f->next;
        free(f);
    }
    free(module);
    s.modules--;
    return s.dead;
}
API int cuModuleGetFunction(function **out, module *module, const char *name) {
    USABLE();
    *out = calloc(1, sizeof **out);
    **out = (function){.next = module->functions, .image = module->image};
    snprintf((*out)->name, sizeof(*out)->name, "%s", name);
    module->functions = *out;
    return OK;
}
API int cuFuncSetAttribute(function *function, int attribute, int value) {
    USABLE();
    return function && attribute == 8 && value <= 227 << 10 ? OK : wrong(__func__);
}

static int run(const fake_launch *launch) {
    if (++s.launches == s.trap) return s.dead = TRAPPED;
    if (s.launch) s.launch(s.user, launch);
    return OK;
}

API int cuLaunchKernelEx(const config *c, function *f, void **parameters, void **extra) {
    USABLE();
    if (!c->stream || extra || !f || c->block[0] < 1 || c->block[0] > 1024) return wrong(__func__);
    for (int i = 0; i < 3; i++)
        if (!c->grid[i] || (i && c->grid[i] > 65535)) return wrong("a grid that no GPU takes");
    operation *op = calloc(1, sizeof *op);
    op->launch =
        (fake_launch){.image = f->image, .name = f->name, .shared = c->shared, .parameter = op->parameter};
    memcpy(op->launch.grid, c->grid, sizeof c->grid);
    memcpy(op->launch.block, c->block, sizeof c->block);
    for (unsigned i = 0; i < c->n_attributes; i++) {
        if (c->attributes[i].id == 4) op->launch.cluster = c->attributes[i].value[1];
        if (c->attributes[i].id == 6) op->launch.programmatic = (int)c->attributes[i].value[0];
    }
    /* The choice of a token has a smaller parameter of its own. */
    memcpy(op->parameter, parameters[0], strcmp(f->name, "syl_choose") == 0 ? 40 : FAKE_PARAMETER);
    if (c->stream->capturing) {
        op->launch.in_graph = 1;
        *c->stream->capturing->end = op;
        c->stream->capturing->end = &op->next;
        return OK;
    }
    int result = run(&op->launch);
    free(op);
    return s.dead && result ? OK : result; /* a trap shows later */
}

/* ---- graphs ---- */

API int cuStreamBeginCapture_v2(stream *stream, int mode) {
    USABLE();
    if (!stream || stream->capturing || mode != 1) return wrong(__func__);
    stream->capturing = calloc(1, sizeof *stream->capturing);
    stream->capturing->end = &stream->capturing->first;
    s.captures++;
    s.graphs++;
    return OK;
}
API int cuStreamEndCapture(stream *stream, graph **out) {
    *out = stream->capturing;
    stream->capturing = NULL;
    return *out ? s.dead : wrong(__func__);
}
API int cuGraphInstantiateWithFlags(graph **exec, graph *from, unsigned long long flags) {
    USABLE();
    (void)flags;
    *exec = calloc(1, sizeof **exec);
    operation **end = &(*exec)->first;
    for (const operation *op = from->first; op; op = op->next) {
        *end = malloc(sizeof **end);
        **end = *op;
        (*end)->launch.parameter = (*end)->parameter;
        (*end)->next = NULL;
        end = &(*end)->next;
    }
    s.graphs++;
    return OK;
}
API int cuGraphLaunch(graph *exec, stream *stream) {
    USABLE();
    if (!exec || !stream || stream->capturing) return wrong(__func__);
    s.graph_launches++;
    for (const operation *op = exec->first; op && !s.dead; op = op->next) run(&op->launch);
    return OK;
}
API int cuGraphDestroy(graph *graph) {
    for (operation *op = graph->first, *next; op; op = next) {
        next = op->next;
        free(op);
    }
    free(graph);
    s.graphs--;
    return s.dead;
}
API int cuGraphExecDestroy(graph *exec) {
    return cuGraphDestroy(exec);
}
