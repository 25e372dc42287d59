/* Paged KV cache (kv.h). Freed pages are kept in a list and zeroed when they are taken again. */
#include "runtime/kv.h"

#include <stdlib.h>

#include "base/size.h"

struct syl_kv {
    syl_kv_shape shape;
    syl_kv_memory memory;
    kir_cache_layout layout; /* of a head */
    size_t page_size;
    int64_t stride; /* pages a sequence may have: width of the table */
    int32_t n_pages, cap_pages;
    int32_t *free_pages;
    int32_t n_free;   /* capacity: cap_pages */
    int32_t *table;   /* [sequences][stride] */
    int64_t *lengths; /* [sequences] */
    uint64_t changes;
};

bool syl_kv_page_bytes(const syl_kv_shape *shape, size_t *out) {
    /* fits: a head has fewer than 2^31 features */
    size_t page = (size_t)kir_cache_layout_of(&shape->cache).size;
    return syl_size_mul(page, (size_t)shape->layers, &page) &&
           syl_size_mul(page, (size_t)shape->cache.heads, out);
}

int64_t syl_kv_layer_offset(const syl_kv_shape *shape, int layer) {
    return layer * shape->cache.heads *
           kir_cache_layout_of(&shape->cache).size; /* inside of a page, which fits */
}

int64_t syl_kv_table_stride(const syl_kv_shape *shape) {
    return syl_ceil_div(shape->context, SYL_KV_PAGE);
}

syl_status syl_kv_create(const syl_kv_shape *shape, const syl_kv_memory *memory, syl_diag *diag,
                         syl_kv **out) {
    *out = NULL;
    size_t page, cells;
    if (!syl_kv_page_bytes(shape, &page))
        return syl_error(diag, SYL_ERR_size_overflow, SYL_NOWHERE, "the KV cache's page size overflows");
    int64_t stride = syl_kv_table_stride(shape);
    if (!syl_size_mul((size_t)stride, (size_t)shape->sequences, &cells) || cells > INT32_MAX) {
        return syl_error(diag, SYL_ERR_size_overflow, SYL_NOWHERE,
                         "%d sequences of %lld positions need too many pages of KV cache", shape->sequences,
                         (long long)shape->context);
    }
    syl_kv *kv = calloc(1, sizeof *kv);
    if (kv) {
        *kv = (syl_kv){.shape = *shape,
                       .memory = *memory,
                       .layout = kir_cache_layout_of(&shape->cache),
                       .page_size = page,
                       .stride = stride,
                       .changes = 1};
        kv->table = calloc(cells ? cells : 1, sizeof *kv->table);
        kv->lengths = calloc((size_t)shape->sequences, sizeof *kv->lengths);
    }
    if (!kv || !kv->table || !kv->lengths) {
        syl_kv_destroy(kv);
        return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for the KV cache's page table");
    }
    *out = kv;
    return SYL_OK;
}

void syl_kv_destroy(syl_kv *kv) {
    if (!kv) return;
    free(kv->free_pages);
    free(kv->table);
    free(kv->lengths);
    free(kv);
}

int64_t syl_kv_length(const syl_kv *kv, int sequence) {
    return kv->lengths[sequence];
}

const int32_t *syl_kv_table(const syl_kv *kv) {
    return kv->table;
}

uint64_t syl_kv_changes(const syl_kv *kv) {
    return kv->changes;
}

size_t syl_kv_bytes(const syl_kv *kv) {
    return kv->page_size * (size_t)kv->n_pages;
}

static bool grow_list(syl_kv *kv) {
    if (kv->n_pages < kv->cap_pages) return true;
    int32_t cap = kv->cap_pages ? 2 * kv->cap_pages : 16;
    int32_t *free_pages = realloc(kv->free_pages, (size_t)cap * sizeof *free_pages);
    if (!free_pages) return false;
    kv->free_pages = free_pages;
    kv->cap_pages = cap;
    return true;
}

/* A zeroed page, or -1 without memory. */
static int32_t take_page(syl_kv *kv) {
    if (kv->n_free > 0) {
        int32_t page = kv->free_pages[--kv->n_free];
        kv->memory.clear(kv->memory.user, page, 0, kv->page_size, kv->page_size, 1);
        return page;
    }
    if (!grow_list(kv) || !kv->memory.add(kv->memory.user, kv->n_pages)) return -1;
    return kv->n_pages++;
}

syl_status syl_kv_extend(syl_kv *kv, int sequence, int64_t length, syl_diag *diag) {
    if (sequence < 0 || sequence >= kv->shape.sequences) {
        return syl_error(diag, SYL_ERR_kv_sequence, SYL_NOWHERE, "sequence %d is outside 0..%d", sequence,
                         kv->shape.sequences - 1);
    }
    if (length > kv->shape.context) {
        return syl_error(diag, SYL_ERR_kv_context, SYL_NOWHERE,
                         "sequence %d would have %lld positions, the context has %lld", sequence,
                         (long long)length, (long long)kv->shape.context);
    }
    int32_t *row = kv->table + kv->stride * sequence;
    int64_t have = syl_ceil_div(kv->lengths[sequence], SYL_KV_PAGE), want = syl_ceil_div(length, SYL_KV_PAGE);
    for (int64_t p = have; p < want; p++) {
        int32_t page = take_page(kv);
        if (page < 0) {
            while (p-- > have) kv->free_pages[kv->n_free++] = row[p];
            return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE,
                             "no memory for the KV cache at position %lld of sequence %d", (long long)length,
                             sequence);
        }
        row[p] = page;
        kv->changes++;
    }
    if (length > kv->lengths[sequence]) kv->lengths[sequence] = length;
    return SYL_OK;
}

/* Zeroes the positions [begin, SYL_KV_PAGE) of rows [rows][SYL_KV_PAGE] of units of `size` bytes. */
static void clear_columns(const syl_kv *kv, int32_t page, size_t at, int64_t begin, int64_t rows,
                          int64_t size) {
    kv->memory.clear(kv->memory.user, page, at + (size_t)(begin * size), (size_t)(SYL_KV_PAGE * size),
                     (size_t)((SYL_KV_PAGE - begin) * size), (size_t)rows);
}

/* Zeroes the positions [begin, SYL_KV_PAGE) of a page. */
static void clear_tail(const syl_kv *kv, int32_t page, int64_t begin) {
    const kir_cache *cache = &kv->shape.cache;
    int64_t k_groups = kir_cache_groups(cache, cache->k),
            groups = k_groups + kir_cache_groups(cache, cache->v);
    for (int64_t i = 0; i < (int64_t)kv->shape.layers * cache->heads; i++) {
        size_t head = (size_t)(i * kv->layout.size), scales = head + (size_t)kv->layout.k_groups;
        clear_columns(kv, page, head, begin, kir_cache_units(cache, cache->k),
                      kir_cache_unit(cache, cache->k));
        clear_columns(kv, page, head + (size_t)kv->layout.values, begin, 1,
                      kir_cache_unit(cache, cache->v) * kir_cache_units(cache, cache->v));
        for (int64_t g = 0; g < groups; g++, scales += KIR_GROUP_BYTES) {
            clear_columns(kv, page, scales, begin, 1, 2);
            clear_columns(kv, page, scales + KIR_GROUP_ZEROS, begin, 1, 1);
        }
    }
}

void syl_kv_truncate(syl_kv *kv, int sequence, int64_t length) {
    if (length >= kv->lengths[sequence]) return;
    int32_t *row = kv->table + kv->stride * sequence;
    int64_t keep = syl_ceil_div(length, SYL_KV_PAGE), have = syl_ceil_div(kv->lengths[sequence], SYL_KV_PAGE);
    for (int64_t p = keep; p < have; p++) kv->free_pages[kv->n_free++] = row[p];
    if (length % SYL_KV_PAGE) clear_tail(kv, row[keep - 1], length % SYL_KV_PAGE);
    kv->lengths[sequence] = length;
}
