/* Pages in the host's memory (pages.h): each an allocation of its own. */
#include "runtime/host/pages.h"

#include <stdlib.h>
#include <string.h>

#include "base/size.h"

enum { SLACK = 64 }; /* kernels may read so many bytes behind a page */

static bool grow_list(syl_host_kv *host) {
    if (host->n_pages < host->cap_pages) return true;
    int32_t cap = host->cap_pages ? 2 * host->cap_pages : 16;
    void **pages = realloc(host->pages, (size_t)cap * sizeof *pages);
    if (!pages) return false;
    host->pages = pages;
    host->cap_pages = cap;
    for (int i = 0; i < host->layers; i++) host->views[i].pages = pages;
    return true;
}

static bool add_page(void *user, int32_t page) {
    syl_host_kv *host = user;
    if (page != host->n_pages || !grow_list(host)) return false;
    void *memory = syl_alloc_aligned(host->page_size + SLACK);
    if (!memory) return false;
    memset(memory, 0, host->page_size + SLACK);
    host->pages[host->n_pages++] = memory;
    return true;
}

static void clear_page(void *user, int32_t page, size_t offset, size_t pitch, size_t width, size_t height) {
    const syl_host_kv *host = user;
    unsigned char *at = (unsigned char *)host->pages[page] + offset;
    for (size_t i = 0; i < height; i++) memset(at + i * pitch, 0, width);
}

syl_status syl_host_kv_create(const syl_kv_shape *shape, syl_diag *diag, syl_host_kv **out) {
    *out = NULL;
    syl_host_kv *host = calloc(1, sizeof *host);
    if (host) host->views = calloc((size_t)shape->layers + 1, sizeof *host->views);
    if (!host || !host->views) {
        free(host);
        return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for a KV cache");
    }
    syl_kv_memory memory = {.user = host, .add = add_page, .clear = clear_page};
    syl_status status = syl_kv_create(shape, &memory, diag, &host->kv);
    if (status != SYL_OK || !syl_kv_page_bytes(shape, &host->page_size)) {
        syl_host_kv_destroy(host);
        return status;
    }
    host->layers = shape->layers;
    for (int i = 0; i < shape->layers; i++) {
        host->views[i] = (syl_kv_view){.table = syl_kv_table(host->kv),
                                       .table_stride = syl_kv_table_stride(shape),
                                       .layer_offset = syl_kv_layer_offset(shape, i)};
    }
    *out = host;
    return SYL_OK;
}

void syl_host_kv_destroy(syl_host_kv *host) {
    if (!host) return;
    for (int32_t i = 0; i < host->n_pages; i++) free(host->pages[i]);
    free(host->pages);
    free(host->views);
    syl_kv_destroy(host->kv);
    free(host);
}

const syl_kv_view *syl_host_kv_view(const syl_host_kv *host, int layer) {
    return &host->views[layer];
}
