/* The KV cache on the device: pages in one block, the table as the host's bookkeeping (kv.h) has it. */
#include <string.h>

#include "base/size.h"
#include "runtime/cuda/runner.h"

/* The block holds every page that may be asked for. Failures of these show at the next call that waits. */
static void clear(syl_cuda_runner *r, int32_t page, size_t offset, size_t pitch, size_t width,
                  size_t height) {
    const syl_cuda_driver *driver = &r->cuda->device->driver;
    cu_address at = r->pages.pages.at + (cu_address)page * r->pages.page_size + offset;
    if (height == 1)
        driver->fill(at, 0, width, r->stream);
    else
        driver->fill_rows(at, pitch, 0, width, height, r->stream);
    r->after_kernel = false;
}

static void clear_page(void *user, int32_t page, size_t offset, size_t pitch, size_t width, size_t height) {
    syl_cuda_runner *r = user;
    syl_cuda_enter_anyway(r->cuda->device);
    clear(r, page, offset, pitch, width, height);
    syl_cuda_leave(r->cuda->device);
}

static bool add_page(void *user, int32_t page) {
    syl_cuda_runner *r = user;
    if (page != r->pages.n_pages || (size_t)page >= r->pages.pages.size / r->pages.page_size) return false;
    clear_page(r, page, 0, r->pages.page_size, r->pages.page_size, 1);
    r->pages.n_pages++;
    return true;
}

static syl_status fill_views(syl_cuda_runner *r, syl_diag *diag) {
    syl_cuda_pages *p = &r->pages;
    syl_cuda_kv_view *views = r->pages.table_copy.data; /* on loan: it has room for both */
    for (int i = 0; i < r->shape.layers; i++) {
        views[i] = (syl_cuda_kv_view){.pages = p->pages.at,
                                      .table = p->table.at,
                                      .table_stride = syl_kv_table_stride(&r->shape),
                                      .page_size = (int64_t)p->page_size,
                                      .layer_offset = syl_kv_layer_offset(&r->shape, i)};
    }
    const syl_cuda_driver *driver = &r->cuda->device->driver;
    int result = driver->copy_in(p->views.at, views, p->views.size, r->stream);
    if (result == CU_SUCCESS) result = driver->stream_wait(r->stream);
    return syl_cuda_check(r->cuda->device, result, "preparing the KV cache", diag);
}

syl_status syl_cuda_pages_create(syl_cuda_runner *r, syl_diag *diag) {
    syl_cuda_pages *p = &r->pages;
    syl_cuda_device *device = r->cuda->device;
    syl_kv_memory memory = {.user = r, .add = add_page, .clear = clear_page};
    SYL_TRY(syl_kv_create(&r->shape, &memory, diag, &r->base.kv));
    size_t pages = (size_t)(syl_kv_table_stride(&r->shape) * r->shape.sequences), total;
    size_t views = sizeof(syl_cuda_kv_view) * (size_t)r->shape.layers;
    p->table_bytes = sizeof(int32_t) * pages; /* kv.c has checked their number */
    if (!syl_kv_page_bytes(&r->shape, &p->page_size) || !syl_size_mul(pages, p->page_size, &total) ||
        !syl_size_add(total, 256, &total))
        return syl_error(diag, SYL_ERR_size_overflow, SYL_NOWHERE, "the KV cache's pages are too large");
    SYL_TRY(syl_cuda_alloc(device, SYL_CUDA_KV, total, diag, &p->pages));
    SYL_TRY(syl_cuda_alloc(device, SYL_CUDA_KV, p->table_bytes, diag, &p->table));
    SYL_TRY(syl_cuda_alloc(device, SYL_CUDA_KV, views, diag, &p->views));
    SYL_TRY(syl_cuda_pin(device, p->table_bytes > views ? p->table_bytes : views, diag, &p->table_copy));
    return fill_views(r, diag);
}

void syl_cuda_pages_destroy(syl_cuda_runner *r) {
    syl_cuda_pages *p = &r->pages;
    syl_cuda_free(r->cuda->device, &p->pages);
    syl_cuda_free(r->cuda->device, &p->table);
    syl_cuda_free(r->cuda->device, &p->views);
    syl_cuda_unpin(r->cuda->device, &p->table_copy);
    syl_kv_destroy(r->base.kv);
    r->base.kv = NULL;
}

/* The pinned copy is free to be written: the last one out of it is over (reserve waits for it). */
syl_status syl_cuda_pages_mirror(syl_cuda_runner *r, syl_diag *diag) {
    syl_cuda_pages *p = &r->pages;
    if (!r->base.kv || p->seen == syl_kv_changes(r->base.kv)) return SYL_OK;
    memcpy(p->table_copy.data, syl_kv_table(r->base.kv), p->table_bytes);
    r->after_kernel = false;
    SYL_TRY(syl_cuda_check(
        r->cuda->device,
        r->cuda->device->driver.copy_in(p->table.at, p->table_copy.data, p->table_bytes, r->stream),
        "copying the KV cache's table", diag));
    p->seen = syl_kv_changes(r->base.kv);
    return SYL_OK;
}

cu_address syl_cuda_pages_view(const syl_cuda_runner *r, int layer) {
    return r->pages.views.at + sizeof(syl_cuda_kv_view) * (cu_address)layer;
}
