/* Attention of some queries ("lanes") over pages of SYL_KV_PAGE positions in the form of the KV cache, one page after the other: emit_pages.c, for
 * attention over the cache (emit_attention.c) and within sequences (emit_full_attention.c).
 *
 * Every page is softmax by itself: m the largest score, p = exp(score - m), l the sum of p, o the sum of p v; then it is merged behind the pages before it, as
 * Milakov and Gimelshein, "Online normalizer calculation for softmax" (2018), and Dao et al., "FlashAttention" (2022), do. Invariant: a lane's result has the same
 * bits whatever lanes share its pass: each sum has one order, and a page wholly behind a lane's position changes nothing. */
#ifndef SYL_CODEGEN_HOST_EMIT_ATTENTION_H
#define SYL_CODEGEN_HOST_EMIT_ATTENTION_H

#include "codegen/host/emit.h"

typedef struct attention_state {
    em *e;
    const kir_cache *cache;
    kir_cache_layout layout; /* of a head */
    int64_t dim;
    double scale;
    int lanes; /* of this pass */
    /* of each lane: its first element in the buffers of queries and results, and the last position it sees */
    em_value q_index[16], out_index[16], pos[16];
    em_value last; /* the largest pos */
    em_value
        cold; /* true where nobody else has just read these pages: the next one is fetched; NULL: never */
    /* set by attention_begin */
    int64_t padded;                    /* dim rounded up to whole vectors */
    int chunk;                         /* vectors of positions or of values held in registers for each lane */
    em_value p, q, out, state, groups; /* scratch */
    /* the page */
    em_value first;  /* position of its first element */
    em_value memory; /* this head */
    em_value
        next; /* where `cold` is set: bytes from this page to the next one of the sequence, 0 at the last */
} attention_state;

/* Places in the scratch: probabilities [lanes][PAGE], queries times scale [lanes][padded], running outputs [lanes][padded], the state of each lane, then scales and zero points
 * of the page's values [groups][2][PAGE]. */
void attention_begin(attention_state *s, em_value scratch);
/* Queries of buffer `q` times scale into the scratch, outputs and sums cleared. */
void attention_start(const attention_state *s, int q);
/* softmax(p, state): a lane's scores of a page to probabilities, and how the page is merged; one function for all lanes. */
em_value attention_softmax(em *e);
void attention_page(const attention_state *s, em_value softmax);
/* The results into buffer `out`. */
void attention_finish(const attention_state *s, int out);

#endif
