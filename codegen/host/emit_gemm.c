/* GEMM kernels: acc[i, n] = sum over k of a[i, k] * w[n, k], then the body as the epilogue of each tile.
 *
 * A task is a block of rows times one panel of weights (host.h). The micro kernel holds rows x nr accumulators in registers and walks k once; the panel
 * stays in the caches for all rows of the block. Where a's elements are not what the products need (u8 for vpdpbusd, i16 for pmaddwd, f32 for
 * bf16) the block is converted once into the scratch.
 *
 * Weights of 4 bits (emit_codes.c): a task of one row forms their INT8 values in registers; one of more rows expands the panel once into the
 * scratch, and is then the same as INT8. Where groups have f32 scales, each group's sum is scaled and added up in f32, group after group.
 *
 * Invariant: each sum runs over k in order, whatever the number of rows, so float results don't depend on the batch. */
#include "codegen/host/emit_gemm.h"
#include <string.h>
#include "base/size.h"

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
    s.layout = syl_host_layout_of(&g->codes, w->elem, g->dot, g->k, g->nr, g->ku);
    s.steps = s.layout.groups * s.layout.steps;
    s.panels = syl_ceil_div(g->n, g->nr);
    s.scaled = kir_scaled_groups(&g->codes);
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
    default: /* CUDA's */
        break;
    }
    return NULL;
}

/* ku values for each of `lanes` columns. */
em_value gemm_load_w(const gemm_state *s, em_value pointer) {
    em *e = s->e;
    switch (s->g->dot) {
    case KIR_DOT_F32: {
        em_value x = em_load_widened(e, s->w_elem, pointer, em_long(e, 0), s->lanes);
        return s->w_elem == KIR_I8 ? LLVMBuildSIToFP(e->b, x, s->piece, "") : x;
    }
    case KIR_DOT_I8:
        return LLVMBuildSExt(e->b, em_load(e, em_vec(e->i8, s->lanes), pointer, 1), em_vec(e->i16, s->lanes),
                             "");
    case KIR_DOT_MADD:
        return LLVMBuildSExt(e->b, em_load(e, em_vec(e->i8, 2 * s->lanes), pointer, 1),
                             em_vec(e->i16, 2 * s->lanes), "");
    case KIR_DOT_VNNI:
        return em_load(e, s->piece, pointer, 4);
    default:
        break;
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
    default:
        break;
    }
    return NULL;
}

/* The main loop as it is emitted. `direct`: weights of 4 bits are read from the packed panel, one group after the other where groups have
 * parameters; else from a panel of elements, and groups matter only where they are scaled. */
typedef struct micro_state {
    const gemm_state *s;
    int rows;
    bool direct;
    em_value a, header, panel; /* arguments: header: parameters of the panel's groups */
    em_value *acc, *total;     /* [rows * pieces]: sums of products; scaled groups: what was added up */
    em_value a_group, w_group; /* the current group's first step */
    gemm_grid *grid;           /* [pieces], direct */
} micro_state;

/* Products of `together` steps from step `k` of the group on. */
static void micro_steps(const micro_state *m, em_value k, int together) {
    const gemm_state *s = m->s;
    em *e = s->e;
    int piece_codes = s->lanes * s->g->ku, elem = m->direct ? 1 : em_elem_size(s->w_elem);
    int w_piece = piece_codes * elem, w_step = s->g->nr * s->g->ku * elem, shared = m->direct ? 2 : 1;
    em_value *w = SYL_NEW_ARRAY(&e->arena, em_value, (size_t)(2 * s->pieces));
    em_value a = em_at(e, e->i8, m->a_group, em_mul(e, k, em_long(e, s->a_step)));
    em_value panel = em_at(e, e->i8, m->w_group,
                           em_mul(e, LLVMBuildUDiv(e->b, k, em_long(e, shared), ""), em_long(e, w_step)));
    for (int u = 0; u < together; u++) {
        for (int p = 0; p < s->pieces && u % shared == 0; p++) {
            em_value at = em_offset(e, panel, (int64_t)(u / shared) * w_step + p * w_piece),
                     halves[2] = {NULL, NULL};
            if (m->direct)
                gemm_load_codes(s, at, &m->grid[p], halves);
            else
                halves[0] = gemm_load_w(s, at);
            w[p] = halves[0];
            w[s->pieces + p] = halves[1];
        }
        for (int r = 0; r < m->rows; r++) {
            em_value x = broadcast_a(s, em_offset(e, a, (int64_t)u * s->a_step + r * s->a_row));
            for (int p = 0; p < s->pieces; p++) {
                em_value *sum = &m->acc[r * s->pieces + p], y = w[u % shared * s->pieces + p];
                em_store(e, multiply_add(s, x, y, em_load(e, s->piece, *sum, 64)), *sum, 64);
            }
        }
    }
}

/* All steps of the current group: unrolled ones, then the rest. */
static void micro_loop(const micro_state *m, int64_t steps) {
    em *e = m->s->e;
    int least = m->direct ? 2 : 1, unroll = m->rows == 1 ? 4 : m->rows <= 4 ? 2 : 1;
    if (unroll < least) unroll = least;
    int64_t whole = steps / unroll * unroll;
    for (int part = 0; part < 2; part++) {
        int64_t lo = part ? whole : 0, hi = part ? steps : whole;
        int together = part ? least : unroll;
        if (lo == hi) continue;
        em_loop k = em_loop_begin(e, em_long(e, lo), em_long(e, hi), together);
        micro_steps(m, k.index, together);
        em_loop_end(e, &k);
    }
}

/* The sums' first values: zero, or the packed compensation of DOT_VNNI. */
static void micro_start(const micro_state *m, em_value compensation) {
    const gemm_state *s = m->s;
    em *e = s->e;
    for (int i = 0; i < m->rows * s->pieces; i++) {
        em_value first =
            s->g->dot == KIR_DOT_VNNI
                ? em_load(e, s->piece, em_offset(e, compensation, i % s->pieces * s->lanes * 4), 4)
                : LLVMConstNull(s->piece);
        em_store(e, first, m->acc[i], 64);
    }
}

/* total += sum * scale, each rounded: the same on every machine. */
static void micro_scale_group(const micro_state *m, em_value scales) {
    const gemm_state *s = m->s;
    em *e = s->e;
    em_type floats = em_vec(e->f32, s->lanes);
    for (int i = 0; i < m->rows * s->pieces; i++) {
        em_value sum = em_load(e, s->piece, m->acc[i], 64);
        if (s->g->dot != KIR_DOT_F32) sum = LLVMBuildSIToFP(e->b, sum, floats, "");
        em_value scale = em_load(e, floats, em_offset(e, scales, i % s->pieces * s->lanes * 4), 4);
        em_value scaled = LLVMBuildFMul(e->b, sum, scale, "");
        em_store(e, LLVMBuildFAdd(e->b, em_load(e, floats, m->total[i], 64), scaled, ""), m->total[i], 64);
    }
}

static void micro_groups(micro_state *m) {
    const gemm_state *s = m->s;
    em *e = s->e;
    const syl_host_layout *l = &s->layout;
    em_loop g = em_loop_begin(e, em_long(e, 0), em_long(e, l->groups), 1);
    em_value header = em_at(e, e->i8, m->header, em_mul(e, g.index, em_long(e, l->group)));
    m->a_group = em_at(e, e->i8, m->a, em_mul(e, g.index, em_long(e, l->steps * s->a_step)));
    m->w_group = em_offset(e, header, l->header);
    if (!m->direct)
        m->w_group =
            em_at(e, e->i8, m->panel, em_mul(e, g.index, em_long(e, l->steps * s->g->nr * s->g->ku)));
    for (int p = 0; m->direct && p < s->pieces; p++) m->grid[p] = gemm_load_grid(s, header, p);
    if (s->scaled) micro_start(m, em_offset(e, header, (int64_t)s->g->nr * 4));
    micro_loop(m, l->steps);
    if (s->scaled) micro_scale_group(m, header);
    em_loop_end(e, &g);
}

/* micro(a, panel, start, header, tile): tile[rows][nr] = sums of `rows` rows; start: the packed compensation of the panel (DOT_VNNI, unless
 * groups have their own). */
static em_value micro_kernel(const gemm_state *s, int rows, bool direct) {
    em *e = s->e;
    em_type params[] = {e->ptr, e->ptr, e->ptr, e->ptr, e->ptr}, floats = em_vec(e->f32, s->lanes);
    em_place saved;
    em_value function = em_begin_helper(
        e, syl_arena_printf(&e->arena, "%s%d", direct ? "direct" : "micro", rows), params, 5, &saved);
    int n = rows * s->pieces;
    micro_state m = {.s = s,
                     .rows = rows,
                     .direct = direct,
                     .a = LLVMGetParam(function, 0),
                     .panel = LLVMGetParam(function, 1),
                     .header = LLVMGetParam(function, 3),
                     .acc = SYL_NEW_ARRAY(&e->arena, em_value, (size_t)n),
                     .total = SYL_NEW_ARRAY(&e->arena, em_value, (size_t)n),
                     .grid = SYL_NEW_ARRAY(&e->arena, gemm_grid, (size_t)s->pieces)};
    em_value tile = LLVMGetParam(function, 4);
    for (int i = 0; i < n; i++) {
        m.acc[i] = em_local(e, s->piece);
        if (!s->scaled) continue;
        m.total[i] = em_local(e, floats);
        em_store(e, LLVMConstNull(floats), m.total[i], 64);
    }
    if (!s->scaled) micro_start(&m, LLVMGetParam(function, 2));
    if (s->scaled || (direct && s->layout.groups > 1)) {
        micro_groups(&m);
    } else {
        m.a_group = m.a;
        m.w_group = direct ? em_offset(e, m.header, s->layout.header) : m.panel;
        for (int p = 0; direct && p < s->pieces; p++) m.grid[p] = gemm_load_grid(s, m.header, p);
        micro_loop(&m, s->steps);
    }
    for (int i = 0; i < n; i++) {
        em_value sum = s->scaled ? em_load(e, floats, m.total[i], 64) : em_load(e, s->piece, m.acc[i], 64);
        em_store(e, sum, em_offset(e, tile, (int64_t)i * s->lanes * 4), 32);
    }
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
        body.acc = em_load(e, kir_acc_type(s->g) == KIR_F32 ? e->f32v : e->i32v, at, 64);
        if (e->kernel->branch.rank)
            body.low_rank = em_load(e, e->f32v, em_offset(e, at, (int64_t)s->g->mr * s->g->nr * 4), 64);
        for (size_t i = 0; i < e->kernel->body.n; i++)
            if (em_is_vector_store(e->kernel->body.p[i].op)) em_body_store(&body, (int)i);
    }
    em_loop_end(e, &r);
}

/* epilogue(tile, buffers, row, count, col); behind a tile lies that of the low-rank branch. */
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

typedef struct gemm_helpers {
    em_value micro[3], direct, expand, finish; /* direct, expand: weights of 4 bits */
    int sizes[3], n_sizes;                     /* rows of micro[i] */
    em_value low_rank[3];                      /* beside micro[i] */
    em_value tile, next; /* memory: a tile (and that of the branch), the next row to do */
} gemm_helpers;

static gemm_helpers make_helpers(const gemm_state *s) {
    const kir_gemm *g = s->g;
    gemm_helpers h = {.sizes = {g->mr, 0, 0}, .n_sizes = 1};
    if (g->mr > 4) h.sizes[h.n_sizes++] = 4;
    if (g->mr > 1) h.sizes[h.n_sizes++] = 1;
    h.finish = epilogue(s);
    for (int i = 0; i < h.n_sizes; i++) h.micro[i] = micro_kernel(s, h.sizes[i], false);
    if (g->codes.bits) {
        h.direct = micro_kernel(s, 1, true);
        h.expand = gemm_expander(s);
    }
    bool branch = s->e->kernel->branch.rank > 0;
    for (int i = 0; branch && i < h.n_sizes; i++) h.low_rank[i] = em_low_rank_helper(s->e, h.sizes[i]);
    h.tile = em_local_array(s->e, s->e->f32, (int64_t)g->mr * g->nr * (1 + branch));
    h.next = em_local(s->e, s->e->i64);
    return h;
}

/* One panel of weights, whose columns begin at `col`, against rows [row, row + count). */
typedef struct gemm_task {
    em_value a, panel, start, header, row, count, col;
} gemm_task;

static void run_tile(const gemm_state *s, const gemm_helpers *h, const gemm_task *t, em_value micro,
                     em_value r, int rows) {
    em *e = s->e;
    em_value args[] = {em_at(e, e->i8, t->a, em_mul(e, r, em_long(e, s->a_row))), t->panel, t->start,
                       t->header, h->tile};
    em_call_helper(e, micro, args, 5);
    for (int i = 0; e->kernel->branch.rank && i < h->n_sizes; i++)
        if (h->sizes[i] == rows)
            em_low_rank_tile(e, h->low_rank[i], em_add(e, t->row, r), t->col,
                             em_offset(e, h->tile, (int64_t)s->g->mr * s->g->nr * 4));
    em_value finish_args[] = {h->tile, LLVMGetParam(e->function, 0), em_add(e, t->row, r), em_long(e, rows),
                              t->col};
    em_call_helper(e, h->finish, finish_args, 5);
}

static void run_rows(const gemm_state *s, const gemm_helpers *h, const gemm_task *t) {
    em *e = s->e;
    em_store(e, em_long(e, 0), h->next, 8);
    for (int i = 0; i < h->n_sizes; i++) {
        /* while at least sizes[i] rows remain */
        em_value end = em_add(e, t->count, em_long(e, 1 - h->sizes[i]));
        em_loop r = em_loop_begin(e, em_load(e, e->i64, h->next, 8), end, h->sizes[i]);
        run_tile(s, h, t, h->micro[i], r.index, h->sizes[i]);
        em_store(e, em_add(e, r.index, em_long(e, h->sizes[i])), h->next, 8);
        em_loop_end(e, &r);
    }
}

/* Weights of 4 bits: one row from the codes themselves, more from the panel expanded once. */
static void run_codes(const gemm_state *s, const gemm_helpers *h, gemm_task t) {
    em *e = s->e;
    em_branch alone = em_if(e, LLVMBuildICmp(e->b, LLVMIntEQ, t.count, em_long(e, 1), ""));
    run_tile(s, h, &t, h->direct, em_long(e, 0), 1);
    em_else(e, &alone);
    t.panel = em_offset(e, e->scratch, kir_panel_scratch(s->g));
    em_call_helper(e, h->expand, (em_value[]){t.header, t.panel}, 2);
    run_rows(s, h, &t);
    em_endif(e, &alone);
}

void em_gemm(em *e, const char *symbol) {
    gemm_state s = describe(e);
    const kir_gemm *g = s.g;
    em_begin_kernel(e, symbol);
    gemm_helpers h = make_helpers(&s);
    em_value converted = em_local(e, e->i64);
    em_store(e, em_long(e, -1), converted, 8);
    em_loop t = em_loop_begin(e, e->begin, e->end, 1);
    em_value block = LLVMBuildUDiv(e->b, t.index, em_long(e, s.panels), ""),
             panel = LLVMBuildURem(e->b, t.index, em_long(e, s.panels), "");
    gemm_task task = {.row = em_mul(e, block, em_long(e, g->mblock)),
                      .col = em_mul(e, panel, em_long(e, g->nr))};
    task.count = em_min(e, LLVMBuildSub(e->b, e->rows, task.row, ""), em_long(e, g->mblock));
    if (s.convert) {
        em_branch fresh =
            em_if(e, LLVMBuildICmp(e->b, LLVMIntNE, em_load(e, e->i64, converted, 8), block, ""));
        convert_block(&s, task.row, task.count);
        em_store(e, block, converted, 8);
        em_endif(e, &fresh);
        task.a = e->scratch;
    } else {
        task.a = em_at(e, e->i8, e->buffers[g->a], em_mul(e, task.row, em_long(e, s.a_row)));
    }
    em_value w = e->buffers[g->w];
    task.panel = task.header = em_at(e, e->i8, w, em_mul(e, panel, em_long(e, s.layout.panel)));
    task.start =
        em_at(e, e->i8, w, em_mul_add(e, panel, (int64_t)g->nr * 4, em_long(e, s.panels * s.layout.panel)));
    if (g->codes.bits)
        run_codes(&s, &h, task);
    else
        run_rows(&s, &h, &task);
    em_loop_end(e, &t);
    LLVMBuildRetVoid(e->b);
}
