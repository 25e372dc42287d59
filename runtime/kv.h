/* The paged KV cache: keys and values of all layers for several sequences, a page at a time.
 *
 * A page (SYL_KV_PAGE positions, laid out as kir.h says) is taken when a sequence first reaches it, and
 * given back when the sequence is truncated below it. Positions at or behind a sequence's length are always
 * zero. This is the bookkeeping, the same for all devices; the pages themselves lie where the backend keeps
 * them (syl_kv_memory). Used by one thread at a time. */
#ifndef SYL_RUNTIME_KV_H
#define SYL_RUNTIME_KV_H

#include "codegen/kir.h"

typedef struct syl_kv_shape {
    int layers;
    kir_cache cache; /* of each layer */
    int sequences;   /* sequences are numbered from 0 */
    int64_t context; /* positions a sequence may have */
} syl_kv_shape;

/* Bytes of a page: all layers, all heads. False on overflow. */
bool syl_kv_page_bytes(const syl_kv_shape *shape, size_t *out);
/* Bytes from the start of a page to a layer. */
int64_t syl_kv_layer_offset(const syl_kv_shape *shape, int layer);
/* Pages a sequence may have: the width of the table. */
int64_t syl_kv_table_stride(const syl_kv_shape *shape);

/* Where the pages lie. They are numbered from 0 in the order in which they are added. */
typedef struct syl_kv_memory {
    void *user;
    /* Makes page `page` exist, zeroed. False without memory. */
    bool (*add)(void *user, int32_t page);
    /* Zeroes `height` runs of `width` bytes, `pitch` bytes apart, the first at byte `offset` of a page. */
    void (*clear)(void *user, int32_t page, size_t offset, size_t pitch, size_t width, size_t height);
} syl_kv_memory;

typedef struct syl_kv syl_kv;
SYL_NODISCARD syl_status syl_kv_create(const syl_kv_shape *shape, const syl_kv_memory *memory, syl_diag *diag,
                                       syl_kv **out);
void syl_kv_destroy(syl_kv *kv); /* NULL is fine */

int64_t syl_kv_length(const syl_kv *kv, int sequence);
/* Makes room for positions up to `length` and sets it as the length. Errors: kv-sequence, kv-context (beyond
 * shape.context), out-of-memory; the lengths are then unchanged. */
SYL_NODISCARD syl_status syl_kv_extend(syl_kv *kv, int sequence, int64_t length, syl_diag *diag);
/* Forgets the positions from `length` on; 0 frees the sequence. A length above the sequence's does nothing.
 */
void syl_kv_truncate(syl_kv *kv, int sequence, int64_t length);

/* int32 [sequences][table_stride]: page number of each SYL_KV_PAGE positions of a sequence; lives as long as the cache. */
const int32_t *syl_kv_table(const syl_kv *kv);
uint64_t syl_kv_changes(const syl_kv *kv); /* grows with every change of the table */
size_t syl_kv_bytes(const syl_kv *kv);     /* memory of the pages in use or kept for reuse */

#endif
