/* Paged KV cache (kv.h). Freed pages are kept in a list and zeroed when they are taken again. */
#include "runtime/kv.h"

#include <stdlib.h>
#include <string.h>

#include "base/size.h"

struct syl_kv {
    syl_kv_shape shape;
    kir_cache_layout layout; /* of a head */
    size_t page_size;
    int64_t stride; /* pages a sequence may have: width of the table */
    void **pages;   /* page number -> memory */
    int32_t n_pages, cap_pages;
    int32_t *free_pages;
    int32_t n_free;     /* capacity: cap_pages */
    int32_t *table;     /* [sequences][stride] */
    int64_t *lengths;   /* [sequences] */
    syl_kv_view *views; /* [layers] */
};

syl_status syl_kv_create(const syl_kv_shape *shape, syl_diag *diag, syl_kv **out) {
    *out = NULL;
    kir_cache_layout layout =
        kir_cache_layout_of(&shape->cache); /* fits: a head has fewer than 2^31 features */
    size_t page = (size_t)layout.size, cells;
    if (!syl_size_mul(page, (size_t)shape->layers, &page) ||
        !syl_size_mul(page, (size_t)shape->cache.heads, &page)) {
        return syl_error(diag, SYL_ERR_size_overflow, SYL_NOWHERE, "the KV cache's page size overflows");
    }
    int64_t stride = syl_ceil_div(shape->context, SYL_KV_PAGE);
    if (!syl_size_mul((size_t)stride, (size_t)shape->sequences, &cells) || cells > INT32_MAX) {
        return syl_error(diag, SYL_ERR_size_overflow, SYL_NOWHERE,
                         "%d sequences of %lld positions need too many pages of KV cache", shape->sequences,
                         (long long)shape->context);
    }
    syl_kv *kv = calloc(1, sizeof *kv);
    if (kv) {
        *kv = (syl_kv){.shape = *shape, .layout = layout, .page_size = page, .stride = stride};
        kv->table = calloc(cells ? cells : 1, sizeof *kv->table);
        kv->lengths = calloc((size_t)shape->sequences, sizeof *kv->lengths);
        kv->views = calloc((size_t)shape->layers, sizeof *kv->views);
    }
    if (!kv || !kv->table || !kv->lengths || !kv->views) {
        syl_kv_destroy(kv);
        return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for the KV cache's page table");
    }
    int64_t layer_size = shape->cache.heads * layout.size; /* fits: the page size does */
    for (int i = 0; i < shape->layers; i++) {
        kv->views[i] =
            (syl_kv_view){.table = kv->table, .table_stride = stride, .layer_offset = i * layer_size};
    }
    *out = kv;
    return SYL_OK;
}

void syl_kv_destroy(syl_kv *kv) {
    if (!kv) return;
    for (int32_t i = 0; i < kv->n_pages; i++) free(kv->pages[i]);
    free(kv->pages);
    free(kv->free_pages);
    free(kv->table);
    free(kv->lengths);
    free(kv->views);
    free(kv);
}

int64_t syl_kv_length(const syl_kv *kv, int sequence) {
    return kv->lengths[sequence];
}

const syl_kv_view *syl_kv_view_of(const syl_kv *kv, int layer) {
    return &kv->views[layer];
}

size_t syl_kv_bytes(const syl_kv *kv) {
    return kv->page_size * (size_t)kv->n_pages;
}

static bool grow_lists(syl_kv *kv) {
    if (kv->n_pages < kv->cap_pages) return true;
    int32_t cap = kv->cap_pages ? 2 * kv->cap_pages : 16;
    void **pages = realloc(kv->pages, (size_t)cap * sizeof *pages);
    if (pages) kv->pages = pages;
    for (int i = 0; i < kv->shape.layers; i++) kv->views[i].pages = kv->pages;
    int32_t *free_pages = realloc(kv->free_pages, (size_t)cap * sizeof *free_pages);
    if (free_pages) kv->free_pages = free_pages;
    if (!pages || !free_pages) return false;
    kv->cap_pages = cap;
    return true;
}

/* A zeroed page, or -1 without memory. Kernels may read 64 bytes behind a page. */
static int32_t take_page(syl_kv *kv) {
    if (kv->n_free > 0) {
        int32_t page = kv->free_pages[--kv->n_free];
        memset(kv->pages[page], 0, kv->page_size);
        return page;
    }
    if (!grow_lists(kv)) return -1;
    void *memory = syl_alloc_aligned(kv->page_size + 64);
    if (!memory) return -1;
    memset(memory, 0, kv->page_size + 64);
    kv->pages[kv->n_pages] = memory;
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
    }
    if (length > kv->lengths[sequence]) kv->lengths[sequence] = length;
    return SYL_OK;
}

/* Zeroes the columns [begin, SYL_KV_PAGE) of elements[rows][SYL_KV_PAGE]. */
static void clear_columns(unsigned char *elements, int64_t begin, int64_t rows, int64_t size) {
    for (int64_t r = 0; r < rows; r++)
        memset(elements + (r * SYL_KV_PAGE + begin) * size, 0, (size_t)((SYL_KV_PAGE - begin) * size));
}

/* Zeroes the positions [begin, SYL_KV_PAGE) of a page. */
static void clear_tail(const syl_kv *kv, unsigned char *page, int64_t begin) {
    const kir_cache *cache = &kv->shape.cache;
    int64_t groups = kir_cache_groups(cache, cache->k) + kir_cache_groups(cache, cache->v);
    for (int64_t i = 0; i < (int64_t)kv->shape.layers * cache->heads; i++, page += kv->layout.size) {
        clear_columns(page, begin, kir_cache_units(cache, cache->k), kir_cache_unit(cache, cache->k));
        size_t value = (size_t)(kir_cache_unit(cache, cache->v) * kir_cache_units(cache, cache->v));
        memset(page + kv->layout.values + (size_t)begin * value, 0, (size_t)(SYL_KV_PAGE - begin) * value);
        for (int64_t g = 0; g < groups; g++) {
            unsigned char *scales = page + kv->layout.k_groups + g * KIR_GROUP_BYTES;
            clear_columns(scales, begin, 1, 2);
            clear_columns(scales + KIR_GROUP_ZEROS, begin, 1, 1);
        }
    }
}

void syl_kv_truncate(syl_kv *kv, int sequence, int64_t length) {
    if (length >= kv->lengths[sequence]) return;
    int32_t *row = kv->table + kv->stride * sequence;
    int64_t keep = syl_ceil_div(length, SYL_KV_PAGE), have = syl_ceil_div(kv->lengths[sequence], SYL_KV_PAGE);
    for (int64_t p = keep; p < have; p++) kv->free_pages[kv->n_free++] = row[p];
    if (length % SYL_KV_PAGE) clear_tail(kv, kv->pages[row[keep - 1]], length % SYL_KV_PAGE);
    kv->lengths[sequence] = length;
}
