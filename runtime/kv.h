/* The paged KV cache: keys and values of all layers for several sequences, a page at a time.
 *
 * A page (SYL_KV_PAGE positions, laid out as kir.h says) is allocated when a sequence first reaches it, and
 * given back when the sequence is truncated below it. Positions at or behind a sequence's length are always
 * zero. Used by one thread at a time. */
#ifndef SYL_RUNTIME_KV_H
#define SYL_RUNTIME_KV_H

#include "codegen/kir.h"

typedef struct syl_kv_shape {
    int layers;
    kir_cache cache; /* of each layer */
    int sequences;   /* sequences are numbered from 0 */
    int64_t context; /* positions a sequence may have */
} syl_kv_shape;

typedef struct syl_kv syl_kv;
SYL_NODISCARD syl_status syl_kv_create(const syl_kv_shape *shape, syl_diag *diag, syl_kv **out);
void syl_kv_destroy(syl_kv *kv); /* NULL is fine */

int64_t syl_kv_length(const syl_kv *kv, int sequence);
/* Makes room for positions up to `length` and sets it as the length. Errors: kv-sequence, kv-context (beyond
 * shape.context), out-of-memory; the lengths are then unchanged. */
SYL_NODISCARD syl_status syl_kv_extend(syl_kv *kv, int sequence, int64_t length, syl_diag *diag);
/* Forgets the positions from `length` on; 0 frees the sequence. A length above the sequence's does nothing.
 */
void syl_kv_truncate(syl_kv *kv, int sequence, int64_t length);

/* What kernels of a layer read; valid until the next extend or truncate. */
const syl_kv_view *syl_kv_view_of(const syl_kv *kv, int layer);
size_t syl_kv_bytes(const syl_kv *kv); /* memory of the pages in use or kept for reuse */

#endif
