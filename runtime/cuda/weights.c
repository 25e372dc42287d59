/* Weights to the device: read from the file by pread on all threads, packed into pinned memory, and copied while the next are read. Page
 * faults of the mapping would read one piece after the other.
 *
 * Work is cut into slices: bytes of a weight that goes as it is stored; blocks of 64 rows of one in fragment order, each of which is a
 * small weight of its own (cuda/pack.c: units of the same rows follow each other). Weights for kernels without tensor cores are packed
 * whole. A batch of slices fills one of two pinned buffers. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/size.h"
#include "runtime/cuda/engine.h"

enum {
    ALIGN = 256,
    STAGING = 32 << 20, /* bytes of a pinned buffer */
    SLICE = 1 << 20,    /* bytes of a slice, about */
    UNIT_ROWS = 64,
};

/* ---- places ---- */

static bool device_size(const syl_plan_weight *weight, size_t stored, size_t *out) {
    *out = stored;
    return !weight->packed || syl_cuda_packed_size(weight, out);
}

syl_status syl_cuda_weights_place(const syl_engine *engine, syl_diag *diag, size_t *total) {
    syl_cuda_engine *cuda = syl_cuda_engine_of(engine);
    const syl_plan *plan = engine->plan;
    *total = 0;
    cuda->weight_offset = calloc(plan->weights.n + 1, sizeof *cuda->weight_offset);
    if (!cuda->weight_offset)
        return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for the list of weights");
    for (size_t i = 0; i < plan->weights.n; i++) {
        syl_weight_source source;
        size_t stored, size;
        SYL_TRY(syl_engine_source(engine, &plan->weights.p[i], diag, &source, &stored));
        cuda->weight_offset[i] = *total;
        if (!device_size(&plan->weights.p[i], stored, &size) || !syl_size_align(size, ALIGN, &size) ||
            !syl_size_add(size, *total, total))
            return syl_error(diag, SYL_ERR_size_overflow, SYL_NOWHERE, "tensor \"%s\" is too large to pack",
                             plan->weights.p[i].name);
    }
    return syl_size_add(*total, ALIGN, total) /* kernels may read behind the last */
               ? SYL_OK
               : syl_error(diag, SYL_ERR_size_overflow, SYL_NOWHERE, "the weights are too large");
}

/* ---- slices ---- */

typedef struct slice {
    const syl_plan_weight *weight;
    syl_weight_source source; /* of the whole weight, in the mapping */
    int64_t first, rows;      /* packed: rows of the slice */
    size_t from, size;        /* as stored: bytes of the tensor; packed: size on the device */
    size_t to;                /* in the memory of weights */
    size_t staging;           /* in the pinned buffer */
} slice;

typedef struct loader {
    syl_engine *engine;
    syl_cuda_engine *cuda;
    const atomic_bool *stop;
    syl_pool *pool;
    syl_diag *diag;
    int fd;
    syl_arena arena;
    SYL_VEC(slice) slices;
    size_t next;           /* slice that is not in a batch yet */
    const slice *batch;    /* of the batch at work */
    unsigned char *target; /* its pinned buffer */
    atomic_int failed;     /* slices that could not be made, or errno of a read */
    atomic_int bad_weight; /* number of a slice whose codes no kernel takes, + 1 */
    cu_stream stream;
    syl_cuda_pinned pinned[2];
    cu_event free_again[2];
} loader;

static size_t elem_bytes(kir_type elem) {
    return elem == KIR_I8 ? 1 : elem == KIR_BF16 || elem == KIR_F16 ? 2 : elem == KIR_F64 ? 8 : 4;
}

static bool is_mma(kir_dot dot) {
    return dot == KIR_DOT_MMA_I8 || dot == KIR_DOT_MMA_BF16;
}

static syl_status cut_weight(loader *l, size_t i) {
    const syl_plan_weight *weight = &l->engine->plan->weights.p[i];
    slice s = {.weight = weight};
    size_t stored, size;
    SYL_TRY(syl_engine_source(l->engine, weight, l->diag, &s.source, &stored));
    if (!device_size(weight, stored, &size))
        return syl_error(l->diag, SYL_ERR_size_overflow, SYL_NOWHERE, "tensor \"%s\" is too large",
                         weight->name);
    size_t base = l->cuda->weight_offset[i];
    if (!weight->packed) {
        for (size_t at = 0; at < size; at += SLICE) {
            s.from = at;
            s.to = base + at;
            s.size = size - at < SLICE ? size - at : SLICE;
            SYL_PUSH(&l->arena, &l->slices, s);
        }
        return SYL_OK;
    }
    int64_t units = syl_cuda_pack_units(weight), step = units;
    size_t unit = units ? size / (size_t)units : 0;
    if (is_mma(weight->dot)) step = unit >= SLICE ? 1 : unit ? (int64_t)(SLICE / unit) : units;
    for (int64_t u = 0; u < units; u += step) {
        int64_t n = units - u < step ? units - u : step;
        bool whole = n == units;
        s.first = u * UNIT_ROWS;
        s.rows = whole ? weight->rows : n * UNIT_ROWS;
        if (s.first + s.rows > weight->rows) s.rows = weight->rows - s.first;
        s.to = base + (size_t)u * unit;
        s.size = whole ? size : (size_t)n * unit;
        SYL_PUSH(&l->arena, &l->slices, s);
    }
    return SYL_OK;
}

/* ---- reading and packing ---- */

static bool read_at(loader *l, const void *where, void *to, size_t size) {
    size_t offset = (size_t)((const unsigned char *)where - l->engine->artifact.file.mapping.data);
    for (size_t done = 0; done < size;) {
        ssize_t got = pread(l->fd, (char *)to + done, size - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) {
            atomic_store(&l->failed, got < 0 ? errno : EIO);
            return false;
        }
        done += (size_t)got;
    }
    return true;
}

/* Rows of one part of the source, read to *at, which moves behind them. */
static bool read_rows(loader *l, const slice *s, const void *part, size_t row_bytes, unsigned char **at,
                      const void **out) {
    size_t size = row_bytes * (size_t)s->rows;
    *out = NULL;
    if (!part) return true;
    *out = *at;
    if (!read_at(l, (const unsigned char *)part + (size_t)s->first * row_bytes, *at, size)) return false;
    *at += (size + 63) / 64 * 64;
    return true;
}

static void pack_slice(loader *l, const slice *s, unsigned char *to) {
    const syl_plan_weight *w = s->weight;
    size_t row = w->codes.bits ? (size_t)w->cols / 2 : (size_t)w->cols * elem_bytes(w->elem);
    size_t groups = w->codes.group ? (size_t)(w->cols / w->codes.group) : 0, n = (size_t)s->rows;
    unsigned char *memory = syl_alloc_aligned(n * (row + 6 * groups) + 4 * 64), *at = memory;
    syl_plan_weight part = *w;
    syl_weight_source source = {0};
    const void *scales = NULL, *group_scale = NULL, *group_zero = NULL;
    part.rows = s->rows;
    if (!memory) {
        atomic_store(&l->failed, ENOMEM);
        return;
    }
    bool ok =
        read_rows(l, s, s->source.data, row, &at, &source.data) &&
        read_rows(l, s, s->source.scales, sizeof(float) * (w->codes.two_level ? 1 : groups), &at, &scales) &&
        read_rows(l, s, s->source.group_scale, groups, &at, &group_scale) &&
        read_rows(l, s, s->source.group_zero, groups, &at, &group_zero);
    source.scales = scales;
    source.group_scale = group_scale;
    source.group_zero = group_zero;
    if (ok && !syl_cuda_pack(&part, &source, to, 0, syl_cuda_pack_units(&part)))
        atomic_store(&l->bad_weight, (int)(s - l->slices.p) + 1);
    free(memory);
}

static void make_slices(void *user, int64_t begin, int64_t end, int thread) {
    loader *l = user;
    (void)thread;
    for (int64_t i = begin; i < end && !atomic_load(&l->failed); i++) {
        const slice *s = &l->batch[i];
        if (s->weight->packed)
            pack_slice(l, s, l->target + s->staging);
        else
            read_at(l, (const unsigned char *)s->source.data + s->from, l->target + s->staging, s->size);
    }
}

/* ---- batches ---- */

/* Slices [next, ...) that fit a pinned buffer, which grows for one that alone does not. */
static syl_status take_batch(loader *l, syl_cuda_pinned *pinned, int64_t *n) {
    size_t used = 0;
    l->batch = &l->slices.p[l->next];
    *n = 0;
    for (; l->next < l->slices.n; l->next++, ++*n) {
        slice *s = &l->slices.p[l->next];
        if (*n && used + s->size > STAGING) break;
        s->staging = used;
        used += (s->size + ALIGN - 1) / ALIGN * ALIGN;
    }
    if (used <= pinned->size) return SYL_OK;
    syl_cuda_unpin(l->cuda->device, pinned);
    return syl_cuda_pin(l->cuda->device, used > STAGING ? used : STAGING, l->diag, pinned);
}

static syl_status what_failed(const loader *l) {
    int error = atomic_load(&l->failed), bad = atomic_load(&l->bad_weight);
    const char *path = l->engine->artifact.file.source.name;
    if (bad)
        return syl_error(
            l->diag, SYL_ERR_cuda_weight, SYL_NOWHERE,
            "tensor \"%s\" has 4-bit codes whose values are cut to INT8, which CUDA kernels don't do",
            l->slices.p[bad - 1].weight->name);
    if (error == ENOMEM)
        return syl_error(l->diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory to read weights");
    return error ? syl_error(l->diag, SYL_ERR_file_read, SYL_NOWHERE, "cannot read '%s': %s", path,
                             strerror(error))
                 : SYL_OK;
}

/* Slices that lie behind each other in both memories go in one copy. */
static syl_status copy_batch(loader *l, int64_t n) {
    for (int64_t i = 0; i < n;) {
        const slice *first = &l->batch[i];
        size_t size = 0;
        do size = l->batch[i].staging - first->staging + l->batch[i].size;
        while (++i < n && l->batch[i].staging == first->staging + size && l->batch[i].to == first->to + size);
        SYL_TRY(syl_cuda_check(l->cuda->device,
                               l->cuda->device->driver.copy_in(l->cuda->memory.at + first->to,
                                                               l->target + first->staging, size, l->stream),
                               "copying weights", l->diag));
    }
    return SYL_OK;
}

static syl_status load_batches(loader *l) {
    syl_cuda_device *device = l->cuda->device;
    const syl_cuda_driver *driver = &device->driver;
    for (int b = 0; b < 2; b++)
        SYL_TRY(syl_cuda_check(device, driver->event_create(&l->free_again[b], CU_EVENT_NO_TIMING),
                               "making an event", l->diag));
    for (int turn = 0; l->next < l->slices.n && !atomic_load(l->stop); turn ^= 1) {
        int64_t n;
        SYL_TRY(syl_cuda_check(device, driver->event_wait(l->free_again[turn]), "copying weights", l->diag));
        SYL_TRY(take_batch(l, &l->pinned[turn], &n));
        l->target = l->pinned[turn].data;
        syl_pool_for(l->pool, n, 1, make_slices, l);
        SYL_TRY(what_failed(l));
        SYL_TRY(copy_batch(l, n));
        SYL_TRY(syl_cuda_check(device, driver->event_record(l->free_again[turn], l->stream),
                               "copying weights", l->diag));
    }
    return syl_cuda_check(device, driver->stream_wait(l->stream), "copying weights", l->diag);
}

/* The file again, for pread. That it is the one which was verified is seen by its size and its header. */
static syl_status open_file(loader *l) {
    const syl_safetensors *file = &l->engine->artifact.file;
    const char *path = file->source.name;
    struct stat info;
    l->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (l->fd < 0 || fstat(l->fd, &info) != 0)
        return syl_error(l->diag, SYL_ERR_file_open, SYL_NOWHERE, "cannot open '%s': %s", path,
                         strerror(errno));
    size_t header = file->mapping.size;
    for (size_t i = 0; i < file->tensors.n; i++)
        if (file->tensors.p[i].offset < header) header = file->tensors.p[i].offset;
    unsigned char *bytes = malloc(header + 1);
    bool same = bytes && (size_t)info.st_size == file->mapping.size &&
                read_at(l, file->mapping.data, bytes, header) &&
                memcmp(bytes, file->mapping.data, header) == 0;
    free(bytes);
    return same ? SYL_OK
                : syl_error(l->diag, SYL_ERR_file_read, SYL_NOWHERE, "'%s' was changed while it was read",
                            path);
}

static syl_status load_all(loader *l) {
    for (size_t i = 0; i < l->engine->plan->weights.n; i++) SYL_TRY(cut_weight(l, i));
    SYL_TRY(open_file(l));
    SYL_TRY(syl_cuda_check(l->cuda->device,
                           l->cuda->device->driver.stream_create(&l->stream, CU_STREAM_NON_BLOCKING),
                           "making a stream", l->diag));
    return load_batches(l);
}

syl_status syl_cuda_weights_load(syl_engine *engine, const atomic_bool *stop, syl_pool *pool,
                                 syl_diag *diag) {
    syl_cuda_engine *cuda = syl_cuda_engine_of(engine);
    const syl_cuda_driver *driver = &cuda->device->driver;
    loader l = {.engine = engine, .cuda = cuda, .stop = stop, .pool = pool, .diag = diag, .fd = -1};
    syl_arena_init(&l.arena);
    syl_status status = load_all(&l);
    if (l.stream) {
        if (status != SYL_OK) driver->stream_wait(l.stream); /* copies out of the pinned buffers are over */
        driver->stream_destroy(l.stream);
    }
    for (int b = 0; b < 2; b++) {
        if (l.free_again[b]) driver->event_destroy(l.free_again[b]);
        syl_cuda_unpin(cuda->device, &l.pinned[b]);
    }
    if (l.fd >= 0) close(l.fd);
    syl_arena_free(&l.arena);
    engine->stats.packed_bytes = cuda->memory.size;
    return status;
}
