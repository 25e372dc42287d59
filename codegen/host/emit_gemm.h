/* Shared by emit_gemm.c (main loops, epilogue) and emit_codes.c (weights of 4 bits). */
#ifndef SYL_CODEGEN_HOST_EMIT_GEMM_H
#define SYL_CODEGEN_HOST_EMIT_GEMM_H

#include "codegen/host/emit.h"

typedef struct gemm_state {
    em *e;
    const kir_gemm *g;
    kir_type a_elem, w_elem;
    bool convert;  /* a goes through the scratch */
    int64_t a_row; /* bytes between rows of a as the micro kernel reads it */
    int a_step;    /* bytes of a a step of ku */
    syl_host_layout layout;
    int64_t steps; /* of all groups */
    int64_t panels;
    int lanes, pieces; /* accumulator vectors of a row */
    em_type piece;     /* their type */
    bool scaled;       /* groups have f32 scales: their sums are scaled and added up in f32 */
} gemm_state;

/* ku values for each of `lanes` columns, as multiply_add takes them, from an expanded panel. */
em_value gemm_load_w(const gemm_state *s, em_value pointer);

/* What the codes of one group and one piece need to become INT8: of two-level types scale and zero * scale. */
typedef struct gemm_grid {
    em_value scale, zero;
} gemm_grid;
/* header: the parameters of the group, for all nr columns. */
gemm_grid gemm_load_grid(const gemm_state *s, em_value header, int piece);
/* Two steps of a piece from the packed bytes at `pointer`, as multiply_add takes them. */
void gemm_load_codes(const gemm_state *s, em_value pointer, const gemm_grid *grid, em_value out[2]);
/* expand(panel, to): the function that writes a panel of codes as INT8, in the layout of an INT8 panel. */
em_value gemm_expander(const gemm_state *s);

#endif
