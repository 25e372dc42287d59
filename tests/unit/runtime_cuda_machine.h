/* A machine behind tests/fake/cuda.c that computes: not what kernels mean, but numbers that depend on everything a kernel reads and on
 * nothing else, row by row. So a wrong address, a stale page table or an input that was not copied changes the tokens of a model, and
 * batches, graphs and runs one after the other must agree to the bit. Compiling gives no code, but says how kernels are launched. */
#ifndef TESTS_UNIT_RUNTIME_CUDA_MACHINE_H
#define TESTS_UNIT_RUNTIME_CUDA_MACHINE_H

#include "codegen/cuda/choose.h"
#include "codegen/cuda/compile.h"
#include "runtime/backend.h"
#include "fake_gpu.h"
#include "runtime_tiny.h"

/* ---- compiling: in place of codegen/cuda/compile.c (the linker's --wrap) ---- */

typedef struct machine_image {
    struct machine_image *next;
    const kir_kernel *kernel; /* NULL: the choice of a token */
} machine_image;
static machine_image *machine_images;

static syl_status machine_compile(size_t n, syl_cuda_binaries **out) {
    *out = calloc(1, sizeof **out);
    (*out)->codes = calloc(n + 1, sizeof *(*out)->codes);
    (*out)->n = n;
    (*out)->compiled = (int)n;
    for (size_t i = 0; i < n; i++) {
        machine_image *image = calloc(1, sizeof *image);
        image->next = machine_images;
        machine_images = image;
        (*out)->codes[i].code = image;
    }
    return SYL_OK;
}

/* Two variants of each kernel: for one row, and for more. */
int __wrap_syl_cuda_variants(const kir_kernel *kernel, const syl_cuda_target *target, int64_t rows,
                             syl_cuda_variant *out, int cap);
int __wrap_syl_cuda_variants(const kir_kernel *kernel, const syl_cuda_target *target, int64_t rows,
                             syl_cuda_variant *out, int cap) {
    (void)kernel, (void)target;
    assert_true(cap >= 1);
    *out = (syl_cuda_variant){.values = {rows > 1}};
    return 1;
}

syl_status __wrap_syl_cuda_compile(const syl_cuda_job *jobs, size_t n, const syl_cuda_target *target,
                                   const syl_cuda_compile_options *options, syl_diag *diag,
                                   syl_cuda_binaries **out);
syl_status __wrap_syl_cuda_compile_texts(const syl_cuda_text *texts, size_t n,
                                         const syl_cuda_compile_options *options, syl_diag *diag,
                                         syl_cuda_binaries **out);
void __wrap_syl_cuda_binaries_destroy(syl_cuda_binaries *binaries);

syl_status __wrap_syl_cuda_compile(const syl_cuda_job *jobs, size_t n, const syl_cuda_target *target,
                                   const syl_cuda_compile_options *options, syl_diag *diag,
                                   syl_cuda_binaries **out) {
    (void)target, (void)options, (void)diag;
    SYL_TRY(machine_compile(n, out));
    for (size_t i = 0; i < n; i++) {
        ((machine_image *)(uintptr_t)(*out)->codes[i].code)->kernel = jobs[i].kernel;
        (*out)->codes[i].launch = (syl_cuda_launch){.entry = "kernel",
                                                    .threads = 128,
                                                    .cluster = i % 2 ? 2 : 1,
                                                    .shared = 1024,
                                                    .rows_per_block = 4,
                                                    .blocks_y = 2,
                                                    .blocks_z = 1,
                                                    .counters = 256,
                                                    .workspace_block = 64,
                                                    .dependent = true};
    }
    return SYL_OK;
}
syl_status __wrap_syl_cuda_compile_texts(const syl_cuda_text *texts, size_t n,
                                         const syl_cuda_compile_options *options, syl_diag *diag,
                                         syl_cuda_binaries **out) {
    (void)texts, (void)options, (void)diag;
    return machine_compile(n, out);
}
void __wrap_syl_cuda_binaries_destroy(syl_cuda_binaries *binaries) {
    if (binaries) free(binaries->codes);
    free(binaries);
}

/* ---- running ---- */

static uint64_t machine_mix(uint64_t h, const void *data, size_t n) {
    const unsigned char *bytes = data;
    for (size_t i = 0; i < n; i++) h = (h ^ bytes[i]) * 0x100000001b3u;
    return h;
}

static int64_t machine_unit(kir_type elem) {
    return elem == KIR_I8 ? 1 : elem == KIR_BF16 || elem == KIR_F16 ? 2 : elem == KIR_F64 ? 8 : 4;
}

/* Byte b of row i of a matrix. */
static unsigned char *machine_byte(const kir_buffer *b, uint64_t base, int64_t rows, int64_t i, int64_t at) {
    unsigned char *p = (unsigned char *)(uintptr_t)base;
    if (b->shape != KIR_TILED) return p + i * b->stride * machine_unit(b->elem) + at;
    return p + ((at / 128) * ((rows + 7) / 8) + i / 8) * 1024 + (i % 8) * 128 +
           (((at / 16) % 8) ^ (i % 8)) * 16 + at % 16;
}

/* The buffer of row numbers by which this buffer is read, or -1. */
static int machine_gathered_by(const kir_kernel *kernel, int buffer) {
    for (size_t i = 0; i < kernel->body.n; i++) {
        const kir_inst *inst = &kernel->body.p[i];
        if (inst->op == KIR_load_at && inst->buffer == buffer) return kernel->body.p[inst->args[0]].buffer;
    }
    return -1;
}

static bool machine_picks_rows(const kir_kernel *kernel, int buffer) {
    for (size_t b = 0; b < kernel->buffers.n; b++)
        if (machine_gathered_by(kernel, (int)b) == buffer) return true;
    return false;
}

typedef struct machine_append {
    int cache, pos, seq; /* buffers; cache -1: none */
    bool key;
} machine_append;

static machine_append machine_appends(const kir_kernel *kernel, bool key) {
    for (size_t i = 0; i < kernel->body.n; i++) {
        const kir_inst *inst = &kernel->body.p[i];
        if (inst->op == (key ? KIR_append_k : KIR_append_v))
            return (machine_append){inst->buffer, kernel->body.p[inst->args[1]].buffer,
                                    kernel->body.p[inst->args[2]].buffer, key};
    }
    return (machine_append){.cache = -1};
}

/* Where the machine keeps its number for a position: the first element of the first head. */
static uint32_t *machine_cell(const kir_kernel *kernel, const uint64_t *words, int cache, int32_t seq,
                              int64_t p, bool key) {
    const syl_cuda_kv_view *view = (const syl_cuda_kv_view *)(uintptr_t)words[cache];
    const int32_t *table = (const int32_t *)(uintptr_t)view->table;
    kir_cache_layout layout = kir_cache_layout_of(&kernel->cache);
    uint64_t page =
        view->pages + (uint64_t)(table[seq * view->table_stride + p / SYL_KV_PAGE] * view->page_size);
    uint64_t at = key ? 4 * (uint64_t)(p % SYL_KV_PAGE)
                      : (uint64_t)(layout.values + 4 * kernel->cache.dim * (p % SYL_KV_PAGE));
    return (uint32_t *)(uintptr_t)(page + (uint64_t)view->layer_offset + at);
}

static uint64_t machine_read_row(const kir_kernel *kernel, const uint64_t *words, int64_t rows, int64_t i) {
    uint64_t h = 0xcbf29ce484222325u;
    const kir_attention *attention = &kernel->attention;
    bool attends = kernel->kind == KIR_ATTENTION;
    int sequences = attends ? attention->seq : machine_appends(kernel, true).seq;
    bool has_cache = attends || machine_appends(kernel, true).cache >= 0;
    for (size_t b = 0; b < kernel->buffers.n; b++) {
        const kir_buffer *buffer = &kernel->buffers.p[b];
        if (buffer->written || buffer->shape == KIR_CACHE || (has_cache && (int)b == sequences) ||
            machine_picks_rows(kernel, (int)b))
            continue;
        int picker = machine_gathered_by(kernel, (int)b);
        int64_t row = picker < 0 ? i : ((const int32_t *)(uintptr_t)words[picker])[i];
        if (buffer->shape == KIR_MATRIX || buffer->shape == KIR_TILED) {
            for (int64_t at = 0; at < buffer->cols * machine_unit(buffer->elem); at++)
                h = machine_mix(h, machine_byte(buffer, words[b], rows, row, at), 1);
        } else if (buffer->shape == KIR_PER_ROW) {
            h = machine_mix(h, (const char *)(uintptr_t)words[b] + row * machine_unit(buffer->elem),
                            (size_t)machine_unit(buffer->elem));
        } else {
            h = machine_mix(h, (const void *)(uintptr_t)words[b],
                            16); /* weights: that they are the right ones */
        }
    }
    if (attends) {
        int32_t pos = ((const int32_t *)(uintptr_t)words[attention->pos])[i];
        int32_t seq = ((const int32_t *)(uintptr_t)words[attention->seq])[i];
        for (int64_t p = 0; p <= pos; p++) {
            h = machine_mix(h, machine_cell(kernel, words, attention->cache, seq, p, true), 4);
            h = machine_mix(h, machine_cell(kernel, words, attention->cache, seq, p, false), 4);
        }
    }
    return h;
}

static void machine_write_row(const kir_kernel *kernel, const uint64_t *words, int64_t rows, int64_t i,
                              uint64_t h) {
    for (size_t b = 0; b < kernel->buffers.n; b++) {
        const kir_buffer *buffer = &kernel->buffers.p[b];
        if (!buffer->written || buffer->shape == KIR_CACHE) continue;
        bool per_row = buffer->shape == KIR_PER_ROW;
        int64_t unit = machine_unit(buffer->elem), n = per_row ? 1 : buffer->cols;
        for (int64_t j = 0; j < n; j++) {
            h = h * 6364136223846793005u + 1442695040888963407u;
            float value = (float)(h >> 40) / (float)(1 << 24);
            for (int64_t k = 0; k < unit; k++) {
                unsigned char byte = unit == 4 ? ((unsigned char *)&value)[k] : (unsigned char)(h >> 33);
                if (per_row)
                    ((unsigned char *)(uintptr_t)words[b])[i * unit + k] = byte;
                else
                    *machine_byte(buffer, words[b], rows, i, j * unit + k) = byte;
            }
        }
    }
    for (int key = 0; key < 2; key++) {
        machine_append append = machine_appends(kernel, key);
        if (append.cache < 0) continue;
        int32_t pos = ((const int32_t *)(uintptr_t)words[append.pos])[i];
        int32_t seq = ((const int32_t *)(uintptr_t)words[append.seq])[i];
        uint32_t *cell = machine_cell(kernel, words, append.cache, seq, pos, key);
        assert_int_equal(*cell, 0); /* positions behind the length are zero */
        *cell = (uint32_t)(h >> 20) | 1;
    }
}

/* The largest logit, as temperature 0 does. */
static void machine_choose(const syl_cuda_choose_args *a) {
    syl_cuda_choice *state = (syl_cuda_choice *)(uintptr_t)a->state;
    int32_t best = (int32_t)syl_argmax((const float *)(uintptr_t)a->logits, a->n);
    *(int32_t *)(uintptr_t)a->ids = best;
    ((int32_t *)(uintptr_t)a->ring)[state->chosen++ % a->ring_size] = best;
}

static void machine_launch(void *user, const fake_launch *launch) {
    (void)user;
    const machine_image *image = launch->image;
    if (!image->kernel) {
        machine_choose((const void *)launch->parameter);
        return;
    }
    const kir_kernel *kernel = image->kernel;
    size_t n = kernel->buffers.n;
    int32_t ints[2];
    memcpy(ints, &launch->parameter[n + 1], sizeof ints);
    assert_int_equal(launch->grid[0], (ints[0] + 3) / 4);
    const unsigned char *workspace = (const unsigned char *)(uintptr_t)launch->parameter[n];
    for (unsigned i = 0; i < 256; i++) assert_int_equal(workspace[i], 0);
    for (unsigned i = 0; i < 64 * launch->grid[0] * launch->grid[1]; i++) /* all of it is there */
        ((unsigned char *)(uintptr_t)launch->parameter[n])[256 + i] = 0x77;
    /* rows one after the other, those of one batch too: a row attends to what the rows before it appended */
    for (int64_t i = 0; i < ints[0]; i++)
        machine_write_row(kernel, launch->parameter, ints[0], i,
                          machine_read_row(kernel, launch->parameter, ints[0], i));
}

static fake_cuda_state *machine_start(void) {
    return fake_gpu_start(90, machine_launch);
}

static void machine_stop(const fake_cuda_state *s) {
    fake_gpu_check(s);
    while (machine_images) {
        machine_image *next = machine_images->next;
        free(machine_images);
        machine_images = next;
    }
}

#endif
