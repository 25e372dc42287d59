/* GEMM kernels: acc[i, n] = sum over k of a[i, k] * w[n, k], then the body as the epilogue of each tile.
 *
 * A task is a block of rows times one panel of weights (host.h). The micro kernel holds rows x nr accumulators in registers and walks k once; the panel
 * stays in the caches for all rows of the block. Where a's elements are not what the products need (u8 for vpdpbusd, i16 for pmaddwd, f32 for
 * bf16) the block is converted once into the scratch.
 *
 * Invariant: each sum runs over k in order, whatever the number of rows, so float results don't depend on the batch. */
#include "codegen/host/emit.h"
#include <string.h>
#include "base/size.h"

typedef struct gemm_state {
    em *e;
    const kir_gemm *g;
    kir_type a_elem, w_elem;
    bool convert;  /* a goes through the scratch */
    int64_t a_row; /* bytes between rows of a as the micro kernel reads it */
    int a_step;    /* bytes of a a step of ku */
    int64_t steps; /* k / ku, rounded up */
    int64_t panels, panel_bytes;
    int lanes, pieces; /* accumulator vectors of a row */
    em_type piece;     /* their type */
} gemm_state;

static int64_t round_up(int64_t n, int64_t to) {
    return (n + to - 1) / to * to;
}

static gemm_state describe(em *e) {
    const kir_gemm *g = &e->kernel->gemm;
    const kir_buffer *a = &e->kernel->buffers.p[g->a], *w = &e->kernel->buffers.p[g->w];
    gemm_state s = {.e = e, .g = g, .a_elem = a->elem, .w_elem = w->elem};
    int width = em_elem_size(a->elem);
    s.convert =
        g->dot == KIR_DOT_VNNI || g->dot == KIR_DOT_MADD || (g->dot == KIR_DOT_F32 && a->elem != KIR_F32);
    if (g->dot == KIR_DOT_MADD) width = 2;
    if (g->dot == KIR_DOT_F32) width = 4;
    s.a_row = s.convert ? round_up(g->k, 64) * width : a->stride * width;
    s.a_step = g->ku * width;
    s.steps = syl_ceil_div(g->k, g->ku);
    s.panels = syl_ceil_div(g->n, g->nr);
    s.panel_bytes = s.steps * g->ku * g->nr * em_elem_size(w->elem);
    s.lanes =
        g->dot == KIR_DOT_MADD || (g->dot == KIR_DOT_VNNI && e->target->vector_floats < 16) ? 8 : KIR_LANES;
    s.pieces = g->nr / s.lanes;
    s.piece = em_vec(g->dot == KIR_DOT_F32 ? e->f32 : e->i32, s.lanes);
    return s;
}

/* ---- the block of a ---- */

/* Rows [row, row + count) of a into the scratch as the products need them. Reads whole vectors, at most 63 bytes behind a row. */
static void convert_block(const gemm_state *s, em_value row, em_value count) {
    em *e = s->e;
    const kir_buffer *a = &e->kernel->buffers.p[s->g->a];
    int at_once = s->g->dot == KIR_DOT_VNNI ? 64 : 16;
    em_type element = em_elem_type(e, a->elem), source = em_vec(element, at_once);
    em_loop i = em_loop_begin(e, em_long(e, 0), count, 1);
    em_value from =
        em_at(e, element, e->buffers[s->g->a], em_mul(e, em_add(e, row, i.index), em_long(e, a->stride)));
    em_value to = em_at(e, e->i8, e->scratch, em_mul(e, i.index, em_long(e, s->a_row)));
    em_loop k = em_loop_begin(e, em_long(e, 0), em_long(e, s->g->k), at_once);
    em_value x = em_load(e, source, em_at(e, element, from, k.index), em_elem_size(a->elem));
    em_type target = element;
    if (s->g->dot == KIR_DOT_VNNI) {
        x = LLVMBuildXor(e->b, x, em_int(source, -128), "");
    } else if (s->g->dot == KIR_DOT_MADD) {
        target = e->i16;
        x = LLVMBuildSExt(e->b, x, em_vec(target, at_once), "");
    } else {
        target = e->f32;
        x = a->elem == KIR_BF16 ? em_bf16_to_f32(e, x) : em_f16_to_f32(e, x);
    }
    em_store(e, x, em_at(e, target, to, k.index), 32);
    em_loop_end(e, &k);
    em_loop_end(e, &i);
}

/* ---- the micro kernel ---- */

static em_value bitcast(em *e, em_value x, em_type type) {
    return LLVMBuildBitCast(e->b, x, type, "");
}

/* ku values of a row of a, in all lanes. */
static em_value broadcast_a(const gemm_state *s, em_value pointer) {
    em *e = s->e;
    switch (s->g->dot) {
    case KIR_DOT_F32:
        return em_splat(e, em_load(e, e->f32, pointer, 4), s->lanes);
    case KIR_DOT_I8:
        return em_splat(e, LLVMBuildSExt(e->b, em_load(e, e->i8, pointer, 1), e->i16, ""), s->lanes);
    case KIR_DOT_MADD:
        return bitcast(e, em_splat(e, em_load(e, e->i32, pointer, 4), s->lanes),
                       em_vec(e->i16, 2 * s->lanes));
    case KIR_DOT_VNNI:
        return em_splat(e, em_load(e, e->i32, pointer, 4), s->lanes);
    }
    return NULL;
}

/* ku values for each of `lanes` columns. */
static em_value load_w(const gemm_state *s, em_value pointer) {
    em *e = s->e;
    switch (s->g->dot) {
    case KIR_DOT_F32:
        return em_load_widened(e, s->w_elem, pointer, em_long(e, 0), s->lanes);
    case KIR_DOT_I8:
        return LLVMBuildSExt(e->b, em_load(e, em_vec(e->i8, s->lanes), pointer, 1), em_vec(e->i16, s->lanes),
                             "");
    case KIR_DOT_MADD:
        return LLVMBuildSExt(e->b, em_load(e, em_vec(e->i8, 2 * s->lanes), pointer, 1),
                             em_vec(e->i16, 2 * s->lanes), "");
    case KIR_DOT_VNNI:
        return em_load(e, s->piece, pointer, 4);
    }
    return NULL;
}

static em_value multiply_add(const gemm_state *s, em_value a, em_value w, em_value acc) {
    em *e = s->e;
    switch (s->g->dot) {
    case KIR_DOT_F32:
        return em_fma(e, a, w, acc);
    case KIR_DOT_I8:
        return em_add(e, LLVMBuildSExt(e->b, em_mul(e, a, w), s->piece, ""),
                      acc); /* |product| <= 2^14 fits in i16 */
    case KIR_DOT_MADD: {
        em_value args[] = {a, w};
        return em_add(e, em_intrinsic(e, "llvm.x86.avx2.pmadd.wd", NULL, 0, args, 2), acc);
    }
    case KIR_DOT_VNNI: {
        em_value args[] = {acc, a, w};
        return em_intrinsic(e,
                            s->lanes == 16 ? "llvm.x86.avx512.vpdpbusd.512" : "llvm.x86.avx512.vpdpbusd.256",
                            NULL, 0, args, 3);
    }
    }
    return NULL;
}

/* micro(a, panel, start, tile): tile[rows][nr] = sums of `rows` rows; start: the packed compensation of the panel (DOT_VNNI). */
static em_value micro_kernel(const gemm_state *s, int rows) {
    em *e = s->e;
    em_type params[] = {e->ptr, e->ptr, e->ptr, e->ptr};
    em_place saved;
    em_value function = em_begin_helper(e, syl_arena_printf(&e->arena, "micro%d", rows), params, 4, &saved);
    em_value a = LLVMGetParam(function, 0), panel = LLVMGetParam(function, 1),
             start = LLVMGetParam(function, 2), tile = LLVMGetParam(function, 3);
    em_value *acc = SYL_NEW_ARRAY(&e->arena, em_value, (size_t)(rows * s->pieces));
    em_value *w = SYL_NEW_ARRAY(&e->arena, em_value, (size_t)s->pieces);
    for (int i = 0; i < rows * s->pieces; i++) {
        acc[i] = em_local(e, s->piece);
        em_value zero = LLVMConstNull(s->piece);
        em_value first = s->g->dot == KIR_DOT_VNNI
                             ? em_load(e, s->piece, em_offset(e, start, i % s->pieces * s->lanes * 4), 4)
                             : zero;
        em_store(e, first, acc[i], 64);
    }
    int w_step = s->g->nr * s->g->ku * em_elem_size(s->w_elem),
        w_piece = s->lanes * s->g->ku * em_elem_size(s->w_elem);
    int unroll = rows == 1 ? 4 : rows <= 4 ? 2 : 1;
    int64_t whole = s->steps / unroll * unroll;
    for (int part = 0; part < 2; part++) { /* unrolled steps, then the rest one by one */
        em_value lo = em_long(e, part ? whole : 0), hi = em_long(e, part ? s->steps : whole);
        int together = part ? 1 : unroll;
        if (part ? whole == s->steps : whole == 0) continue;
        em_loop k = em_loop_begin(e, lo, hi, together);
        em_value a_k = em_at(e, e->i8, a, em_mul(e, k.index, em_long(e, s->a_step)));
        em_value w_k = em_at(e, e->i8, panel, em_mul(e, k.index, em_long(e, w_step)));
        for (int u = 0; u < together; u++) {
            for (int p = 0; p < s->pieces; p++)
                w[p] = load_w(s, em_offset(e, w_k, (int64_t)u * w_step + p * w_piece));
            for (int r = 0; r < rows; r++) {
                em_value x = broadcast_a(s, em_offset(e, a_k, (int64_t)u * s->a_step + r * s->a_row));
                for (int p = 0; p < s->pieces; p++) {
                    em_value *sum = &acc[r * s->pieces + p];
                    em_store(e, multiply_add(s, x, w[p], em_load(e, s->piece, *sum, 64)), *sum, 64);
                }
            }
        }
        em_loop_end(e, &k);
    }
    for (int i = 0; i < rows * s->pieces; i++)
        em_store(e, em_load(e, s->piece, acc[i], 64), em_offset(e, tile, (int64_t)i * s->lanes * 4), 32);
    em_end_helper(e, saved);
    return function;
}

/* ---- the epilogue ---- */

/* Rows [row, row + count) of a tile whose columns begin at `col`, of which `columns` exist. */
static void epilogue_rows(const gemm_state *s, em_value tile, em_value row, em_value count, em_value col,
                          int64_t columns) {
    em *e = s->e;
    em_body body;
    em_body_init(&body, e);
    em_loop r = em_loop_begin(e, em_long(e, 0), count, 1);
    em_body_new_row(&body, em_add(e, row, r.index));
    em_body_scalars(&body);
    for (int64_t v = 0; v < s->g->nr && v < columns; v += KIR_LANES) {
        em_body_new_place(&body, em_add(e, col, em_long(e, v)),
                          columns - v < KIR_LANES ? (int)(columns - v) : KIR_LANES);
        em_value at = em_at(e, e->f32, tile, em_mul_add(e, r.index, s->g->nr, em_long(e, v)));
        body.acc = em_load(e, s->g->dot == KIR_DOT_F32 ? e->f32v : e->i32v, at, 64);
        for (size_t i = 0; i < e->kernel->body.n; i++)
            if (em_is_vector_store(e->kernel->body.p[i].op)) em_body_store(&body, (int)i);
    }
    em_loop_end(e, &r);
}

/* epilogue(tile, buffers, row, count, col) */
static em_value epilogue(const gemm_state *s) {
    em *e = s->e;
    em_type params[] = {e->ptr, e->ptr, e->i64, e->i64, e->i64};
    em_place saved;
    em_value function = em_begin_helper(e, "epilogue", params, 5, &saved), *outer = e->buffers;
    em_value tile = LLVMGetParam(function, 0), row = LLVMGetParam(function, 2),
             count = LLVMGetParam(function, 3), col = LLVMGetParam(function, 4);
    em_load_buffers(e, LLVMGetParam(function, 1));
    int64_t last = (s->panels - 1) * s->g->nr, columns = s->g->n - last;
    if (columns == s->g->nr) {
        epilogue_rows(s, tile, row, count, col, s->g->nr);
    } else {
        em_branch branch = em_if(e, LLVMBuildICmp(e->b, LLVMIntEQ, col, em_long(e, last), ""));
        epilogue_rows(s, tile, row, count, col, columns);
        if (s->panels > 1) {
            em_else(e, &branch);
            epilogue_rows(s, tile, row, count, col, s->g->nr);
        }
        em_endif(e, &branch);
    }
    em_end_helper(e, saved);
    e->buffers = outer;
    return function;
}

/* ---- the kernel ---- */

void em_gemm(em *e, const char *symbol) {
    gemm_state s = describe(e);
    const kir_gemm *g = s.g;
    em_begin_kernel(e, symbol);
    int sizes[3] = {g->mr, 0, 0}, n_sizes = 1;
    if (g->mr > 4) sizes[n_sizes++] = 4;
    if (g->mr > 1) sizes[n_sizes++] = 1;
    em_value micro[3], finish = epilogue(&s);
    for (int i = 0; i < n_sizes; i++) micro[i] = micro_kernel(&s, sizes[i]);

    em_value tile = em_local_array(e, e->f32, (int64_t)g->mr * g->nr), next = em_local(e, e->i64),
             converted = em_local(e, e->i64);
    em_store(e, em_long(e, -1), converted, 8);
    em_loop t = em_loop_begin(e, e->begin, e->end, 1);
    em_value block = LLVMBuildUDiv(e->b, t.index, em_long(e, s.panels), ""),
             panel = LLVMBuildURem(e->b, t.index, em_long(e, s.panels), "");
    em_value row = em_mul(e, block, em_long(e, g->mblock));
    em_value count = em_min(e, LLVMBuildSub(e->b, e->rows, row, ""), em_long(e, g->mblock));
    em_value a;
    if (s.convert) {
        em_branch fresh =
            em_if(e, LLVMBuildICmp(e->b, LLVMIntNE, em_load(e, e->i64, converted, 8), block, ""));
        convert_block(&s, row, count);
        em_store(e, block, converted, 8);
        em_endif(e, &fresh);
        a = e->scratch;
    } else {
        a = em_at(e, e->i8, e->buffers[g->a], em_mul(e, row, em_long(e, s.a_row)));
    }
    em_value w = em_at(e, e->i8, e->buffers[g->w], em_mul(e, panel, em_long(e, s.panel_bytes)));
    em_value start = em_at(e, e->i8, e->buffers[g->w],
                           em_mul_add(e, panel, (int64_t)g->nr * 4, em_long(e, s.panels * s.panel_bytes)));
    em_value col = em_mul(e, panel, em_long(e, g->nr));
    em_store(e, em_long(e, 0), next, 8);
    for (int i = 0; i < n_sizes; i++) {
        /* while at least sizes[i] rows remain */
        em_value end = em_add(e, count, em_long(e, 1 - sizes[i]));
        em_loop r = em_loop_begin(e, em_load(e, e->i64, next, 8), end, sizes[i]);
        em_value args[] = {em_at(e, e->i8, a, em_mul(e, r.index, em_long(e, s.a_row))), w, start, tile};
        em_call_helper(e, micro[i], args, 4);
        em_value finish_args[] = {tile, LLVMGetParam(e->function, 0), em_add(e, row, r.index),
                                  em_long(e, sizes[i]), col};
        em_call_helper(e, finish, finish_args, 5);
        em_store(e, em_add(e, r.index, em_long(e, sizes[i])), next, 8);
        em_loop_end(e, &r);
    }
    em_loop_end(e, &t);
    LLVMBuildRetVoid(e->b);
}
