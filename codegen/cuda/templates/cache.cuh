// The KV cache in device memory: pages of 64 positions of one sequence, all layers; codegen/kir.h has the layout of a head.
#include "base.cuh"

struct KvView {
    uint64_t pages, table; // device addresses: page p at pages + p * page_size; int32 [sequences][table_stride]
    int64_t table_stride, page_size, layer_offset;
};

// The first head of the layer in the page of a sequence's position.
__device__ inline unsigned char *cache_layer(const KvView *view, int sequence, int position) {
    const int32_t *table = (const int32_t *)view->table + sequence * view->table_stride;
    return (unsigned char *)view->pages + table[position >> 6] * view->page_size + view->layer_offset;
}
