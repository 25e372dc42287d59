/* What a kernel is measured on: the sizes of its buffers, and bytes for them (tune_bench.h).
 *
 * Weights are the model's own, packed as loading packs them, since their codes have rules that random bytes break. Everything else is
 * random: floats between 1/16 and 2 of both signs, INT8 values, and indices inside of what they point into, so that kernels, which check
 * nothing, stay inside of their buffers. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "runtime/cuda/tune_bench.h"

enum { ALIGN = 256, GUARD = 256, POSITIONS = 1024, BATCH = 64, MOST_CACHE = 128 << 20, KINDS_OF_PAGES = 8 };

/* ---- random values ---- */

uint64_t tune_random(tune_generator *g) { /* xorshift64* */
    g->state ^= g->state >> 12;
    g->state ^= g->state << 25;
    g->state ^= g->state >> 27;
    return g->state * 0x2545f4914f6cdd1du;
}

static int64_t elem_bytes(kir_type elem) {
    return elem == KIR_I8 ? 1 : elem == KIR_BF16 || elem == KIR_F16 ? 2 : elem == KIR_F64 ? 8 : 4;
}

/* A float of any format by its bits: sign, exponent of 2^-4 to 2^0, mantissa. */
static void put_value(tune_generator *g, kir_type elem, bool positive, unsigned char *to) {
    uint64_t r = tune_random(g), sign = positive ? 0 : r >> 63, exponent = (r >> 40) % 5;
    uint32_t f32 = (uint32_t)(sign << 31 | (123 + exponent) << 23 | (r & 0x7fffff));
    uint16_t bf16 = (uint16_t)(f32 >> 16), f16 = (uint16_t)(sign << 15 | (11 + exponent) << 10 | (r & 0x3ff));
    uint64_t f64 = sign << 63 | (1019 + exponent) << 52 | (r & 0xfffffffffffff);
    int8_t i8 = (int8_t)((int)(r >> 33) % 255 - 127);
    int32_t i32 = (int32_t)((r >> 33) % POSITIONS);
    const void *from = elem == KIR_BF16  ? (const void *)&bf16
                       : elem == KIR_F16 ? (const void *)&f16
                       : elem == KIR_F64 ? (const void *)&f64
                       : elem == KIR_I8  ? (const void *)&i8
                       : elem == KIR_I32 ? (const void *)&i32
                                         : (const void *)&f32;
    memcpy(to, from, (size_t)elem_bytes(elem));
}

/* Random values up to PERIOD, which is prime so that rows differ; then the same again, at the speed of memory. */
enum { PERIOD = 65521 };

static void fill(tune_generator *g, kir_type elem, bool positive, void *to, int64_t n) {
    unsigned char *at = to;
    int64_t unit = elem_bytes(elem);
    for (int64_t i = 0; i < n && i < PERIOD; i++) put_value(g, elem, positive, at + i * unit);
    for (int64_t i = PERIOD; i < n; i += PERIOD)
        memcpy(at + i * unit, at, (size_t)((n - i < PERIOD ? n - i : PERIOD) * unit));
}

/* kir.h has the address; what is behind a row's end is zero. `values` has PERIOD of them and 16 bytes more. */
static void fill_tiled(const unsigned char *values, const kir_buffer *b, int64_t rows, unsigned char *to) {
    int64_t unit = elem_bytes(b->elem), line = b->cols * unit, blocks = syl_ceil_div(rows, KIR_ATOM_ROWS);
    int64_t place = 0;
    for (int64_t i = 0; i < blocks * KIR_ATOM_ROWS; i++) {
        for (int64_t byte = 0; byte < line; byte += 16) {
            int64_t n = line - byte < 16 ? line - byte : 16;
            memcpy(to + ((byte / 128) * blocks + i / 8) * 1024 + (i % 8) * 128 +
                       (((byte / 16) % 8) ^ (i % 8)) * 16,
                   values + place * unit, (size_t)n);
            place = (place + 16 / unit) % PERIOD;
        }
    }
}

/* ---- what indices point into ---- */

/* The buffer that instruction `index` loads; -1 where it loads none. */
static int loaded(const kir_kernel *kernel, int index) {
    return index >= 0 && index < (int)kernel->body.n ? kernel->body.p[index].buffer : -1;
}

typedef struct roles {
    int positions, sequences;        /* buffers; -1: none */
    int picks[SYL_CUDA_MAX_BUFFERS]; /* of an index buffer: the buffer it picks rows of; -1 */
    bool picked[SYL_CUDA_MAX_BUFFERS];
} roles;

static roles find_roles(const kir_kernel *kernel, tune_inputs *in) {
    roles r = {.positions = -1, .sequences = -1};
    for (int b = 0; b < SYL_CUDA_MAX_BUFFERS; b++) r.picks[b] = -1;
    in->cache = -1;
    for (size_t b = 0; b < kernel->buffers.n; b++)
        if (kernel->buffers.p[b].shape == KIR_CACHE) in->cache = (int)b;
    if (kernel->kind == KIR_ATTENTION) {
        r.positions = kernel->attention.pos;
        r.sequences = kernel->attention.seq;
    }
    for (size_t i = 0; i < kernel->body.n; i++) {
        const kir_inst *inst = &kernel->body.p[i];
        if (inst->op == KIR_append_k || inst->op == KIR_append_v || inst->op == KIR_append_codes_k ||
            inst->op == KIR_append_codes_v) {
            r.positions = loaded(kernel, inst->args[1]);
            r.sequences = loaded(kernel, inst->args[2]);
            in->appends = true;
        }
        if (inst->op != KIR_load_at) continue;
        int picker = loaded(kernel, inst->args[0]);
        if (picker >= 0) r.picks[picker] = inst->buffer;
        r.picked[inst->buffer] = true;
    }
    return r;
}

/* ---- the KV cache ---- */

/* Few rows are a batch of sequences in the midst of their texts, many are the end of one prompt. */
static void plan_cache(const kir_kernel *kernel, tune_inputs *in) {
    in->positions = in->rows > POSITIONS ? in->rows : POSITIONS;
    in->sequences = in->rows <= BATCH ? in->rows : 1;
    if (in->cache < 0) return;
    in->page_bytes = kir_cache_layout_of(&kernel->cache).size * kernel->cache.heads;
    while (in->sequences > 1 && in->positions > SYL_KV_PAGE &&
           in->sequences * (in->positions / SYL_KV_PAGE) * in->page_bytes > MOST_CACHE)
        in->positions /= 2;
    in->pages = in->sequences * syl_ceil_div(in->positions, SYL_KV_PAGE);
}

/* Scales and zero points are what quantizing makes; codes are any. */
static void fill_groups(tune_generator *g, kir_codes codes, int64_t groups, unsigned char *at) {
    for (int64_t i = 0; i < groups; i++, at += KIR_GROUP_BYTES) {
        fill(g, KIR_BF16, true, at, SYL_KV_PAGE);
        for (int p = 0; p < SYL_KV_PAGE; p++)
            at[KIR_GROUP_ZEROS + p] = (unsigned char)(tune_random(g) % (codes.bits == 4 ? 16 : 256));
    }
}

static void fill_part(tune_generator *g, const kir_cache *cache, kir_codes codes, unsigned char *at,
                      int64_t size) {
    if (!codes.bits) {
        fill(g, cache->elem, false, at, size / elem_bytes(cache->elem));
        return;
    }
    for (int64_t i = 0; i < size; i++) at[i] = (unsigned char)(tune_random(g) >> 32);
}

static void fill_page(tune_generator *g, const kir_cache *cache, unsigned char *page) {
    kir_cache_layout l = kir_cache_layout_of(cache);
    for (int h = 0; h < cache->heads; h++, page += l.size) {
        int64_t values_end = l.k_groups < l.size ? l.k_groups : l.size;
        fill_part(g, cache, cache->k, page, l.values);
        fill_part(g, cache, cache->v, page + l.values, values_end - l.values);
        fill_groups(g, cache->k, kir_cache_groups(cache, cache->k), page + l.k_groups);
        fill_groups(g, cache->v, kir_cache_groups(cache, cache->v), page + l.v_groups);
    }
}

static void fill_cache(tune_generator *g, const kir_kernel *kernel, tune_inputs *in, unsigned char *to) {
    int64_t stride = in->pages / in->sequences;
    for (int64_t p = 0; p < in->pages; p++) {
        unsigned char *page = to + p * in->page_bytes;
        if (p < KINDS_OF_PAGES)
            fill_page(g, &kernel->cache, page);
        else
            memcpy(page, to + (p % KINDS_OF_PAGES) * in->page_bytes, (size_t)in->page_bytes);
    }
    /* pages of the sequences in an order that is not their own */
    for (int64_t i = 0; i < in->pages; i++)
        in->table[(i % in->sequences) * stride + i / in->sequences] = (int32_t)i;
}

static void fill_indices(tune_generator *g, const tune_inputs *in, const roles *r, int b, int64_t limit,
                         int32_t *to) {
    for (int64_t i = 0; i < in->rows; i++) {
        if (b == r->positions)
            to[i] = (int32_t)(in->sequences > 1 ? in->positions - 1 : in->positions - in->rows + i);
        else if (b == r->sequences)
            to[i] = (int32_t)(in->sequences > 1 ? i : 0);
        else
            to[i] = (int32_t)((int64_t)(tune_random(g) >> 33) % limit);
    }
}

/* ---- weights ---- */

typedef struct packing {
    const syl_plan_weight *weight;
    const syl_weight_source *source;
    void *to;
    atomic_bool bad;
} packing;

static void pack_range(void *user, int64_t begin, int64_t end, int thread) {
    packing *p = user;
    (void)thread;
    if (!syl_cuda_pack(p->weight, p->source, p->to, begin, end)) atomic_store(&p->bad, true);
}

static syl_status take_weight(const syl_engine *engine, syl_pool *pool, int index, syl_diag *diag,
                              size_t *size, void **kept) {
    const syl_plan_weight *weight = &engine->plan->weights.p[index];
    syl_weight_source source;
    SYL_TRY(syl_engine_source(engine, weight, diag, &source, size));
    if (weight->packed && !syl_cuda_packed_size(weight, size))
        return syl_error(diag, SYL_ERR_size_overflow, SYL_NOWHERE, "tensor \"%s\" is too large",
                         weight->name);
    if (*kept) return SYL_OK;
    void *memory = malloc(*size + GUARD);
    if (!memory)
        return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for tensor \"%s\"",
                         weight->name);
    memset((char *)memory + *size, 0, GUARD);
    packing p = {.weight = weight, .source = &source, .to = memory};
    if (weight->packed)
        syl_pool_for(pool, syl_cuda_pack_units(weight), 1, pack_range, &p);
    else
        memcpy(memory, source.data, *size);
    *kept = memory;
    return atomic_load(&p.bad)
               ? syl_error(diag, SYL_ERR_cuda_weight, SYL_NOWHERE,
                           "tensor \"%s\" has 4-bit codes whose values are cut to INT8, which CUDA kernels "
                           "don't do",
                           weight->name)
               : SYL_OK;
}

void tune_weights_free(tune_weights *weights) {
    for (int b = 0; b < SYL_CUDA_MAX_BUFFERS; b++) free(weights->packed[b]);
    *weights = (tune_weights){.kernel = -1};
}

/* ---- buffers ---- */

/* Bytes of a buffer that is no weight; false on overflow. */
static bool size_of(const kir_buffer *b, const tune_inputs *in, int64_t rows, size_t *out) {
    size_t unit = (size_t)elem_bytes(b->elem), line;
    switch (b->shape) {
    case KIR_MATRIX:
        return syl_size_mul((size_t)b->stride, unit, &line) && syl_size_mul(line, (size_t)rows, out);
    case KIR_TILED:
        return syl_size_mul((size_t)b->cols, unit, &line) && syl_size_align(line, KIR_ATOM_BYTES, &line) &&
               syl_size_mul(line, (size_t)(syl_ceil_div(rows, KIR_ATOM_ROWS) * KIR_ATOM_ROWS), out);
    case KIR_PER_ROW:
        return syl_size_mul((size_t)rows, unit, out);
    case KIR_PER_COL:
        return syl_size_mul((size_t)b->cols, unit, out);
    case KIR_CACHE:
        return syl_size_mul((size_t)in->pages, (size_t)in->page_bytes, out);
    case KIR_PACKED:
        break; /* always a weight */
    }
    return false;
}

static bool place(size_t *total, tune_buffer *b) {
    size_t padded;
    b->at = *total;
    return syl_size_add(b->size, GUARD, &padded) && syl_size_align(padded, ALIGN, &padded) &&
           syl_size_add(*total, padded, total);
}

/* Rows that an index may name: of a stored table its own, of an activation as many as the kernel runs over. */
static int64_t rows_of(const syl_engine *engine, const tune_inputs *in, int buffer) {
    const syl_plan_arg *arg = &in->step->args[buffer];
    if (arg->kind == SYL_ARG_WEIGHT) return engine->plan->weights.p[arg->index].rows;
    return in->rows;
}

static void fill_buffer(tune_generator *g, const syl_engine *engine, tune_inputs *in, const roles *r, int b) {
    const kir_buffer *buffer = &in->kernel->buffers.p[b];
    unsigned char *to = in->buffers[b].bytes, values[4 * PERIOD + 64];
    memset(to, 0, in->buffers[b].size);
    if (buffer->shape == KIR_CACHE) {
        fill_cache(g, in->kernel, in, to);
    } else if (buffer->shape == KIR_TILED) {
        fill(g, buffer->elem, false, values, PERIOD + 16 / elem_bytes(buffer->elem));
        fill_tiled(values, buffer, in->rows, to);
    } else if (buffer->elem == KIR_I32 && buffer->shape == KIR_PER_ROW) {
        int64_t limit = r->picks[b] >= 0 ? rows_of(engine, in, r->picks[b]) : POSITIONS;
        fill_indices(g, in, r, b, limit, (int32_t *)(void *)to);
    } else {
        fill(g, buffer->elem, buffer->shape == KIR_PER_ROW, to,
             (int64_t)in->buffers[b].size / elem_bytes(buffer->elem));
    }
}

static syl_status make_buffer(const syl_engine *engine, syl_pool *pool, tune_inputs *in, const roles *r,
                              int b, tune_weights *weights, tune_generator *g, syl_diag *diag) {
    const kir_buffer *buffer = &in->kernel->buffers.p[b];
    const syl_plan_arg *arg = &in->step->args[b];
    tune_buffer *out = &in->buffers[b];
    bool weight = arg->kind == SYL_ARG_WEIGHT;
    out->compared = buffer->written || (buffer->shape == KIR_CACHE && in->appends);
    out->tiled = buffer->shape == KIR_TILED;
    if (weight) {
        SYL_TRY(take_weight(engine, pool, arg->index, diag, &out->size, &weights->packed[b]));
        out->bytes = weights->packed[b];
        out->offset = (size_t)arg->offset;
        out->shared = r->picked[b];
    } else if (!size_of(buffer, in, in->rows, &out->size)) {
        return syl_error(diag, SYL_ERR_size_overflow, SYL_NOWHERE, "buffer %s of %lld rows is too large",
                         buffer->name, (long long)in->rows);
    }
    if (!place(out->shared ? &in->common : &in->set, out))
        return syl_error(diag, SYL_ERR_size_overflow, SYL_NOWHERE, "buffers of %lld rows are too large",
                         (long long)in->rows);
    if (weight || buffer->written || !out->size) return SYL_OK;
    out->bytes = malloc(out->size);
    out->bytes_owned = true;
    if (!out->bytes)
        return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for inputs of a kernel");
    fill_buffer(g, engine, in, r, b);
    return SYL_OK;
}

static syl_status find_step(const syl_engine *engine, size_t kernel, syl_diag *diag, tune_inputs *out) {
    const syl_plan *plan = engine->plan;
    if (kernel >= plan->kernels.n)
        return syl_error(diag, SYL_ERR_tune_request, SYL_NOWHERE, "the plan has no kernel k%zu", kernel);
    out->kernel = plan->kernels.p[kernel];
    for (size_t i = 0; i < plan->steps.n && !out->step; i++)
        if (plan->steps.p[i].kernel == (int)kernel) out->step = &plan->steps.p[i];
    if (!out->step || out->kernel->buffers.n > SYL_CUDA_MAX_BUFFERS)
        return syl_error(diag, SYL_ERR_tune_request, SYL_NOWHERE, "kernel k%zu cannot run", kernel);
    return SYL_OK;
}

syl_status tune_inputs_make(const syl_engine *engine, syl_pool *pool, size_t kernel, int64_t rows,
                            tune_weights *weights, syl_diag *diag, tune_inputs *out) {
    tune_generator g = {.state = 0x9e3779b97f4a7c15u + kernel};
    *out = (tune_inputs){.rows = rows};
    SYL_TRY(find_step(engine, kernel, diag, out));
    const kir_kernel *k = out->kernel;
    if (k->kind == KIR_FULL_ATTENTION) {
        int64_t tokens = k->full_attention.tokens;
        out->rows = syl_ceil_div(rows, tokens) * tokens;
    }
    if (weights->kernel != (int)kernel) {
        tune_weights_free(weights);
        weights->kernel = (int)kernel;
    }
    roles r = find_roles(k, out);
    plan_cache(k, out);
    out->n = (int)k->buffers.n;
    if (out->cache >= 0) {
        tune_buffer table = {.size = sizeof(int32_t) * (size_t)out->pages};
        out->table = malloc(table.size);
        if (!out->table)
            return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for inputs of a kernel");
        if (!place(&out->set, &table))
            return syl_error(diag, SYL_ERR_size_overflow, SYL_NOWHERE, "the KV cache is too large");
        out->table_at = table.at;
    }
    for (int b = 0; b < out->n; b++) SYL_TRY(make_buffer(engine, pool, out, &r, b, weights, &g, diag));
    return SYL_OK;
}

void tune_inputs_free(tune_inputs *in) {
    for (int b = 0; b < in->n; b++)
        if (in->buffers[b].bytes_owned) free(in->buffers[b].bytes);
    free(in->table);
    *in = (tune_inputs){0};
}
