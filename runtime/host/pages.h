/* Pages of the KV cache in the host's memory, and the views of them that generated code reads. */
#ifndef SYL_RUNTIME_HOST_PAGES_H
#define SYL_RUNTIME_HOST_PAGES_H

#include "runtime/kv.h"

typedef struct syl_host_kv {
    syl_kv *kv;
    size_t page_size;
    int layers;
    void **pages; /* page number -> memory */
    int32_t n_pages, cap_pages;
    syl_kv_view *views; /* [layers] */
} syl_host_kv;

SYL_NODISCARD syl_status syl_host_kv_create(const syl_kv_shape *shape, syl_diag *diag, syl_host_kv **out);
void syl_host_kv_destroy(syl_host_kv *host); /* NULL is fine */
/* What kernels of a layer read; valid until the next extend or truncate. */
const syl_kv_view *syl_host_kv_view(const syl_host_kv *host, int layer);

#endif
