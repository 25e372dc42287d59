/* Causal attention over the paged KV cache, with the running softmax of Milakov and Gimelshein, "Online normalizer calculation for softmax" (2018), and
 * the tiling of Dao et al., "FlashAttention" (2022), one page of SYL_KV_PAGE positions at a time.
 *
 * A pass takes 1 to mr lanes, each a (row, head), that read the same keys: rows of one sequence, or, where the block has one row only, the
 * heads of one kv head. Invariant: a lane's result has the same bits whatever lanes share its pass: pages go in order of absolute position from 0, each
 * sum has one order, and a page wholly behind a lane's position changes nothing (probabilities 0, correction exp(0) = 1).
 *
 * Keys and values stored as codes become (code - zero) * scale in registers, the numbers that the reference's cache holds; all else is the same.
 *
 * Scratch: probabilities [mr][PAGE], queries times scale [mr][dim], running outputs [mr][dim], dim rounded up to whole vectors; then the state of each
 * lane: maximum, sum and correction; then scales and zero points of the page's values [groups][2][PAGE]. */
#include "codegen/host/emit.h"
#include <math.h>

enum { STATE_M, STATE_L, STATE_CORR, STATE_SIZE = 16 }; /* floats */

typedef struct attention_state {
    em *e;
    const kir_attention *a;
    const kir_cache *cache;
    kir_cache_layout layout; /* of a head */
    int64_t dim, padded, group;
    int lanes;                         /* of this pass */
    int chunk;                         /* vectors of positions or of values held in registers for each lane */
    em_value p, q, out, state, groups; /* scratch */
    em_value row[16], head[16], pos[16];
    em_value first, last; /* of the page: position of its first element, and the largest pos */
    em_value memory;      /* of the page: this head */
    em_value next;        /* bytes from this page to the next one of the sequence, 0 at the last */
    em_value cold;        /* true where the lanes are of one row: nobody else has just read these pages */
} attention_state;

static em_value scratch_at(em *e, em_value base, int64_t index, em_value more) {
    em_value pointer = em_offset(e, base, index * 4);
    return more ? em_at(e, e->f32, pointer, more) : pointer;
}

static em_value splat_at(em *e, em_value pointer) {
    return em_splat(e, em_load(e, e->f32, pointer, 4), KIR_LANES);
}

/* ---- reading the cache ---- */

/* Pages lie anywhere in memory: in decoding, while one is read the next is fetched, line by line. `at`: of the first of `bytes` bytes of the head. */
static void prefetch(const attention_state *s, em_value at, int64_t bytes) {
    em *e = s->e;
    em_value wanted = s->cold;
    if (bytes < 64) { /* several vectors share a line: the first one fetches it */
        em_value within = LLVMBuildAnd(e->b, at, em_long(e, 63), "");
        wanted =
            LLVMBuildAnd(e->b, wanted, LLVMBuildICmp(e->b, LLVMIntULT, within, em_long(e, bytes), ""), "");
    }
    em_branch branch = em_if(e, wanted);
    em_value start = em_at(e, e->i8, s->memory, em_add(e, at, s->next));
    for (int64_t line = 0; line < bytes; line += 64) {
        em_value args[] = {em_offset(e, start, line), em_int(e->i32, 0), em_int(e->i32, 3),
                           em_int(e->i32, 1)};
        em_intrinsic(e, "llvm.prefetch", &e->ptr, 1, args, 4);
    }
    em_endif(e, &branch);
}

/* KIR_LANES bytes of codes, of which the first `valid` may be read. */
static em_value load_codes(em *e, em_value pointer, int lanes, int valid) {
    em_type type = em_vec(e->i8, lanes);
    if (valid >= lanes) return em_load(e, type, pointer, 1);
    em_type overloads[] = {type, e->ptr};
    em_value args[] = {pointer, em_int(e->i32, 1), em_first_lanes(e, valid, lanes), LLVMConstNull(type)};
    return em_intrinsic(e, "llvm.masked.load", overloads, 2, args, 4);
}

/* Bytes of two codes each as twice as many codes, in order. */
static em_value spread_pairs(em *e, em_value pairs) {
    em_value x = LLVMBuildZExt(e->b, pairs, em_vec(e->i16, KIR_LANES / 2), "");
    em_type type = LLVMTypeOf(x);
    em_value low = LLVMBuildAnd(e->b, x, em_int(type, 15), "");
    em_value high = LLVMBuildShl(e->b, LLVMBuildAnd(e->b, x, em_int(type, 240), ""), em_int(type, 4), "");
    return LLVMBuildBitCast(e->b, LLVMBuildOr(e->b, low, high, ""), em_vec(e->i8, KIR_LANES), "");
}

static em_value dequantize(em *e, em_value codes, em_value scale, em_value zero) {
    em_value x = LLVMBuildSIToFP(e->b, LLVMBuildZExt(e->b, codes, e->i32v, ""), e->f32v, "");
    return LLVMBuildFMul(e->b, LLVMBuildFSub(e->b, x, zero, ""), scale, "");
}

/* Scales and zero points of positions [at, at + 16) of the group whose block begins at `block` of the head. */
static void load_group(const attention_state *s, em_value block, em_value at, em_value *scale,
                       em_value *zero) {
    em *e = s->e;
    em_value memory = em_at(e, e->i8, s->memory, block);
    *scale = em_load_widened(e, KIR_BF16, memory, at, KIR_LANES);
    em_value codes =
        load_codes(e, em_at(e, e->i8, em_offset(e, memory, KIR_GROUP_ZEROS), at), KIR_LANES, KIR_LANES);
    *zero = LLVMBuildSIToFP(e->b, LLVMBuildZExt(e->b, codes, e->i32v, ""), e->f32v, "");
}

static int valid_lanes(const attention_state *s, int64_t d) {
    return s->dim - d < KIR_LANES ? (int)(s->dim - d) : KIR_LANES;
}

/* q * scale into the scratch, outputs and sums cleared. */
static void start(attention_state *s) {
    em *e = s->e;
    const kir_buffer *q = &e->kernel->buffers.p[s->a->q];
    for (int i = 0; i < s->lanes; i++) {
        em_value base = em_mul_add(e, s->row[i], q->stride, em_mul(e, s->head[i], em_long(e, s->dim)));
        for (int64_t d = 0; d < s->dim; d += KIR_LANES) {
            em_value x = em_load_first(e, q->elem, e->buffers[s->a->q], em_add(e, base, em_long(e, d)),
                                       valid_lanes(s, d));
            em_store(e, LLVMBuildFMul(e->b, x, em_real(e->f32v, s->a->scale), ""),
                     scratch_at(e, s->q, i * s->padded + d, NULL), 64);
            em_store(e, em_real(e->f32v, 0.0), scratch_at(e, s->out, i * s->padded + d, NULL), 64);
        }
        em_store(e, em_real(e->f32, -INFINITY), scratch_at(e, s->state, i * STATE_SIZE + STATE_M, NULL), 4);
        em_store(e, em_real(e->f32, 0.0), scratch_at(e, s->state, i * STATE_SIZE + STATE_L, NULL), 4);
    }
}

/* Adds the products of feature d, whose keys are k, to the sums. */
static void add_products(const attention_state *s, em_value d, const em_value *k, em_value *acc, int n) {
    em *e = s->e;
    for (int i = 0; i < s->lanes; i++) {
        em_value q = splat_at(e, scratch_at(e, s->q, i * s->padded, d));
        for (int v = 0; v < n; v++)
            em_store(e, em_fma(e, q, k[v], em_load(e, e->f32v, acc[i * n + v], 64)), acc[i * n + v], 64);
    }
}

/* Products with the keys of features [begin, begin + group): one group of codes. */
static void score_codes(const attention_state *s, em_value begin, em_value at, em_value *acc, int n) {
    em *e = s->e;
    kir_codes codes = s->cache->k;
    bool pairs = codes.bits == 4;
    em_value scale[8], zero[8], raw[8], k[8];
    em_value block = em_mul_add(e, LLVMBuildUDiv(e->b, begin, em_long(e, codes.group), ""), KIR_GROUP_BYTES,
                                em_long(e, s->layout.k_groups));
    for (int v = 0; v < n; v++)
        load_group(s, block, em_add(e, at, em_long(e, v * KIR_LANES)), &scale[v], &zero[v]);
    em_loop d = em_loop_begin(e, begin, em_add(e, begin, em_long(e, codes.group)), pairs ? 2 : 1);
    em_value unit = pairs ? LLVMBuildLShr(e->b, d.index, em_long(e, 1), "") : d.index;
    em_value base = em_mul_add(e, unit, SYL_KV_PAGE, at);
    prefetch(s, base, n * KIR_LANES);
    for (int v = 0; v < n; v++)
        raw[v] = load_codes(e, em_at(e, e->i8, s->memory, em_add(e, base, em_long(e, v * KIR_LANES))),
                            KIR_LANES, KIR_LANES);
    for (int part = 0; part < 1 + pairs; part++) {
        for (int v = 0; v < n; v++) {
            em_type type = LLVMTypeOf(raw[v]);
            em_value code = !pairs ? raw[v]
                            : part ? LLVMBuildLShr(e->b, raw[v], em_int(type, 4), "")
                                   : LLVMBuildAnd(e->b, raw[v], em_int(type, 15), "");
            k[v] = dequantize(e, code, scale[v], zero[v]);
        }
        /* behind an odd last feature the query has a 0 */
        add_products(s, em_add(e, d.index, em_long(e, part)), k, acc, n);
    }
    em_loop_end(e, &d);
}

static void score_elements(const attention_state *s, em_value at, em_value *acc, int n) {
    em *e = s->e;
    kir_type elem = s->cache->elem;
    em_value k[8];
    em_loop d = em_loop_begin(e, em_long(e, 0), em_long(e, s->dim), 1);
    em_value base = em_mul_add(e, d.index, SYL_KV_PAGE, at);
    int64_t size = em_elem_size(elem);
    prefetch(s, em_mul(e, base, em_long(e, size)), n * KIR_LANES * size);
    for (int v = 0; v < n; v++)
        k[v] = em_load_widened(e, elem, s->memory, em_add(e, base, em_long(e, v * KIR_LANES)), KIR_LANES);
    add_products(s, d.index, k, acc, n);
    em_loop_end(e, &d);
}

/* Scores of positions [at, at + 16 * n) of the page, masked by each lane's position, into the scratch. */
static void scores(attention_state *s, em_value at, int n) {
    em *e = s->e;
    em_value acc[64];
    for (int i = 0; i < s->lanes * n; i++) {
        acc[i] = em_local(e, e->f32v);
        em_store(e, em_real(e->f32v, 0.0), acc[i], 64);
    }
    if (s->cache->k.bits) {
        em_loop group = em_loop_begin(e, em_long(e, 0), em_long(e, s->dim), s->cache->k.group);
        score_codes(s, group.index, at, acc, n);
        em_loop_end(e, &group);
    } else {
        score_elements(s, at, acc, n);
    }
    int64_t iota[KIR_LANES];
    for (int i = 0; i < KIR_LANES; i++) iota[i] = i;
    em_value lane = em_ints(e->i32, iota, KIR_LANES);
    for (int i = 0; i < s->lanes; i++)
        for (int v = 0; v < n; v++) {
            em_value start_of = em_add(e, em_add(e, s->first, at), em_long(e, v * KIR_LANES));
            em_value position =
                em_add(e, em_splat(e, LLVMBuildTrunc(e->b, start_of, e->i32, ""), KIR_LANES), lane);
            em_value limit = em_splat(e, LLVMBuildTrunc(e->b, s->pos[i], e->i32, ""), KIR_LANES);
            em_value seen = LLVMBuildICmp(e->b, LLVMIntSLE, position, limit, "");
            em_value masked = LLVMBuildSelect(e->b, seen, em_load(e, e->f32v, acc[i * n + v], 64),
                                              em_real(e->f32v, -INFINITY), "");
            em_store(e, masked, scratch_at(e, s->p, i * SYL_KV_PAGE + v * KIR_LANES, at), 64);
        }
}

/* softmax(p, state), one function for all lanes: a page's scores to probabilities relative to the running maximum, and the correction of what
 * was summed before. */
static em_value softmax(em *e) {
    enum { n = SYL_KV_PAGE / KIR_LANES };
    em_type params[] = {e->ptr, e->ptr};
    em_place saved;
    em_value function = em_begin_helper(e, "softmax", params, 2, &saved), p = LLVMGetParam(function, 0),
             state = LLVMGetParam(function, 1), x[n];
    for (int v = 0; v < n; v++) x[v] = em_load(e, e->f32v, scratch_at(e, p, v * KIR_LANES, NULL), 64);
    em_value largest = em_reduce_max(e, em_larger(e, em_larger(e, x[0], x[1]), em_larger(e, x[2], x[3])));
    em_value before = em_load(e, e->f32, scratch_at(e, state, STATE_M, NULL), 4),
             m = em_larger(e, before, largest);
    em_value corr = em_exp(e, LLVMBuildFSub(e->b, before, m, "")), center = em_splat(e, m, KIR_LANES);
    for (int v = 0; v < n; v++) {
        x[v] = em_exp(e, LLVMBuildFSub(e->b, x[v], center, ""));
        em_store(e, x[v], scratch_at(e, p, v * KIR_LANES, NULL), 64);
    }
    em_value total =
        LLVMBuildFAdd(e->b, LLVMBuildFAdd(e->b, x[0], x[1], ""), LLVMBuildFAdd(e->b, x[2], x[3], ""), "");
    em_value l =
        em_fma(e, em_load(e, e->f32, scratch_at(e, state, STATE_L, NULL), 4), corr, em_reduce_add(e, total));
    em_store(e, m, scratch_at(e, state, STATE_M, NULL), 4);
    em_store(e, l, scratch_at(e, state, STATE_L, NULL), 4);
    em_store(e, corr, scratch_at(e, state, STATE_CORR, NULL), 4);
    em_end_helper(e, saved);
    return function;
}

/* Scales and zero points of the page's values as floats, into the scratch. */
static void unpack_groups(const attention_state *s) {
    em *e = s->e;
    int64_t n = kir_cache_groups(s->cache, s->cache->v);
    for (int64_t g = 0; g < n; g++)
        for (int64_t j = 0; j < SYL_KV_PAGE; j += KIR_LANES) {
            em_value scale, zero;
            load_group(s, em_long(e, s->layout.v_groups + g * KIR_GROUP_BYTES), em_long(e, j), &scale, &zero);
            em_store(e, scale, scratch_at(e, s->groups, g * 2 * SYL_KV_PAGE + j, NULL), 64);
            em_store(e, zero, scratch_at(e, s->groups, (g * 2 + 1) * SYL_KV_PAGE + j, NULL), 64);
        }
}

/* Values [at, at + 16) of position j, of which `valid` exist. */
static em_value load_value(const attention_state *s, em_value j, em_value at, int valid) {
    em *e = s->e;
    kir_codes codes = s->cache->v;
    em_value values = em_offset(e, s->memory, s->layout.values);
    if (!codes.bits) return em_load_first(e, s->cache->elem, values, em_mul_add(e, j, s->dim, at), valid);
    em_value number = LLVMBuildUDiv(e->b, at, em_long(e, codes.group), "");
    em_value group = em_at(e, e->f32, s->groups, em_mul_add(e, number, 2 * SYL_KV_PAGE, j));
    em_value scale = splat_at(e, group), zero = splat_at(e, em_offset(e, group, SYL_KV_PAGE * 4)), x;
    if (codes.bits == 4) {
        em_value unit = LLVMBuildLShr(e->b, at, em_long(e, 1), "");
        em_value pointer = em_at(e, e->i8, values, em_mul_add(e, j, kir_cache_units(s->cache, codes), unit));
        x = spread_pairs(e, load_codes(e, pointer, KIR_LANES / 2, (valid + 1) / 2));
    } else {
        x = load_codes(e, em_at(e, e->i8, values, em_mul_add(e, j, s->dim, at)), KIR_LANES, valid);
    }
    return dequantize(e, x, scale, zero);
}

/* Fetches the values of position j and features [at, at + 16 n) of the next page. */
static void prefetch_values(const attention_state *s, em_value j, em_value at, int n) {
    em *e = s->e;
    kir_codes codes = s->cache->v;
    int64_t unit = kir_cache_unit(s->cache, codes), per_unit = codes.bits == 4 ? 2 : 1;
    em_value index =
        em_mul_add(e, j, kir_cache_units(s->cache, codes), LLVMBuildUDiv(e->b, at, em_long(e, per_unit), ""));
    prefetch(s, em_add(e, em_mul(e, index, em_long(e, unit)), em_long(e, s->layout.values)),
             n * KIR_LANES * unit / per_unit);
}

/* out = out * corr + p V for values [at, at + 16 n), of which the last vector has `valid`. */
static void weigh(attention_state *s, em_value at, int n, int valid) {
    em *e = s->e;
    em_value acc[64], v[8];
    for (int i = 0; i < s->lanes; i++) {
        em_value corr = splat_at(e, scratch_at(e, s->state, i * STATE_SIZE + STATE_CORR, NULL));
        for (int c = 0; c < n; c++) {
            em_value before =
                em_load(e, e->f32v, scratch_at(e, s->out, i * s->padded + c * KIR_LANES, at), 64);
            acc[i * n + c] = em_local(e, e->f32v);
            em_store(e, LLVMBuildFMul(e->b, before, corr, ""), acc[i * n + c], 64);
        }
    }
    em_value count = em_min(e, em_long(e, SYL_KV_PAGE),
                            em_add(e, LLVMBuildSub(e->b, s->last, s->first, ""), em_long(e, 1)));
    em_loop j = em_loop_begin(e, em_long(e, 0), count, 1);
    prefetch_values(s, j.index, at, n);
    for (int c = 0; c < n; c++)
        v[c] =
            load_value(s, j.index, em_add(e, at, em_long(e, c * KIR_LANES)), c == n - 1 ? valid : KIR_LANES);
    for (int i = 0; i < s->lanes; i++) {
        em_value p = splat_at(e, scratch_at(e, s->p, i * SYL_KV_PAGE, j.index));
        for (int c = 0; c < n; c++)
            em_store(e, em_fma(e, p, v[c], em_load(e, e->f32v, acc[i * n + c], 64)), acc[i * n + c], 64);
    }
    em_loop_end(e, &j);
    for (int i = 0; i < s->lanes; i++)
        for (int c = 0; c < n; c++)
            em_store(e, em_load(e, e->f32v, acc[i * n + c], 64),
                     scratch_at(e, s->out, i * s->padded + c * KIR_LANES, at), 64);
}

static void finish(attention_state *s) {
    em *e = s->e;
    const kir_buffer *out = &e->kernel->buffers.p[s->a->out];
    for (int i = 0; i < s->lanes; i++) {
        em_value base = em_mul_add(e, s->row[i], out->stride, em_mul(e, s->head[i], em_long(e, s->dim)));
        em_value l = splat_at(e, scratch_at(e, s->state, i * STATE_SIZE + STATE_L, NULL));
        for (int64_t d = 0; d < s->dim; d += KIR_LANES) {
            em_value x = em_load(e, e->f32v, scratch_at(e, s->out, i * s->padded + d, NULL), 64);
            em_store_rounded(e, out->elem, e->buffers[s->a->out], em_add(e, base, em_long(e, d)),
                             LLVMBuildFDiv(e->b, x, l, ""), valid_lanes(s, d));
        }
    }
}

static em_value load_index(em *e, int buffer, em_value row) {
    return LLVMBuildSExt(e->b, em_load(e, e->i32, em_at(e, e->i32, e->buffers[buffer], row), 4), e->i64, "");
}

/* pass(buffers, scratch, row, row step, head, head step): lane i is (row + i * row step, head + i * head step). */
static em_value attention_pass(em *e, int lanes, em_value normalise) {
    const kir_attention *a = &e->kernel->attention;
    attention_state s = {.e = e,
                         .a = a,
                         .cache = &e->kernel->cache,
                         .layout = kir_cache_layout_of(&e->kernel->cache),
                         .dim = a->head_dim,
                         .group = a->heads / a->kv_heads,
                         .lanes = lanes};
    s.padded = (s.dim + KIR_LANES - 1) / KIR_LANES * KIR_LANES;
    s.chunk = e->target->vector_floats >= 16 ? 4 : 1;
    em_type params[] = {e->ptr, e->ptr, e->i64, e->i64, e->i64, e->i64};
    em_place saved;
    em_value function = em_begin_helper(e, syl_arena_printf(&e->arena, "pass%d", lanes), params, 6, &saved),
             *outer = e->buffers;
    em_load_buffers(e, LLVMGetParam(function, 0));
    s.p = LLVMGetParam(function, 1);
    s.q = scratch_at(e, s.p, (int64_t)lanes * SYL_KV_PAGE, NULL);
    s.out = scratch_at(e, s.q, lanes * s.padded, NULL);
    s.state = scratch_at(e, s.out, lanes * s.padded, NULL);
    s.groups = scratch_at(e, s.state, lanes * STATE_SIZE, NULL);
    s.last = em_long(e, 0);
    s.cold = LLVMBuildICmp(e->b, LLVMIntEQ, LLVMGetParam(function, 3), em_long(e, 0), "");
    for (int i = 0; i < lanes; i++) {
        s.row[i] = em_add(e, LLVMGetParam(function, 2), em_mul(e, LLVMGetParam(function, 3), em_long(e, i)));
        s.head[i] = em_add(e, LLVMGetParam(function, 4), em_mul(e, LLVMGetParam(function, 5), em_long(e, i)));
        s.pos[i] = load_index(e, a->pos, s.row[i]);
        s.last = LLVMBuildSelect(e->b, LLVMBuildICmp(e->b, LLVMIntSGT, s.pos[i], s.last, ""), s.pos[i],
                                 s.last, "");
    }
    em_value view = e->buffers[a->cache], kv_head = LLVMBuildUDiv(e->b, s.head[0], em_long(e, s.group), "");
    em_value stride = em_view_field(e, view, e->i64, offsetof(syl_kv_view, table_stride)),
             pages = em_view_field(e, view, e->ptr, offsetof(syl_kv_view, pages));
    em_value table = em_at(e, e->i32, em_view_field(e, view, e->ptr, offsetof(syl_kv_view, table)),
                           em_mul(e, load_index(e, a->seq, s.row[0]), stride));
    em_value layer = em_mul_add(e, kv_head, s.layout.size,
                                em_view_field(e, view, e->i64, offsetof(syl_kv_view, layer_offset)));
    start(&s);

    em_loop page = em_loop_begin(e, em_long(e, 0), em_add(e, s.last, em_long(e, 1)), SYL_KV_PAGE);
    s.first = page.index;
    em_value memory = em_page_memory(e, table, pages, page.index);
    em_value following = em_add(e, page.index, em_long(e, SYL_KV_PAGE));
    following = LLVMBuildSelect(e->b, LLVMBuildICmp(e->b, LLVMIntSLE, following, s.last, ""), following,
                                page.index, "");
    s.next =
        LLVMBuildSub(e->b, LLVMBuildPtrToInt(e->b, em_page_memory(e, table, pages, following), e->i64, ""),
                     LLVMBuildPtrToInt(e->b, memory, e->i64, ""), "");
    s.memory = em_at(e, e->i8, memory, layer);
    if (s.layout.size > s.layout.k_groups)
        prefetch(&s, em_long(e, s.layout.k_groups), s.layout.size - s.layout.k_groups);
    unpack_groups(&s);
    em_loop part = em_loop_begin(e, em_long(e, 0), em_long(e, SYL_KV_PAGE), s.chunk * KIR_LANES);
    scores(&s, part.index, s.chunk);
    em_loop_end(e, &part);
    for (int i = 0; i < lanes; i++) {
        em_value args[] = {scratch_at(e, s.p, i * SYL_KV_PAGE, NULL),
                           scratch_at(e, s.state, i * STATE_SIZE, NULL)};
        em_call_helper(e, normalise, args, 2);
    }
    int64_t step = (int64_t)s.chunk * KIR_LANES, whole = s.dim / step * step;
    if (whole) {
        em_loop d = em_loop_begin(e, em_long(e, 0), em_long(e, whole), step);
        weigh(&s, d.index, s.chunk, KIR_LANES);
        em_loop_end(e, &d);
    }
    if (whole < s.dim) {
        int rest = (int)((s.dim - whole + KIR_LANES - 1) / KIR_LANES);
        weigh(&s, em_long(e, whole), rest, valid_lanes(&s, whole + (rest - 1) * KIR_LANES));
    }
    em_loop_end(e, &page);
    finish(&s);
    em_end_helper(e, saved);
    e->buffers = outer;
    return function;
}

static void call_pass(em *e, em_value pass, em_value row, int row_step, em_value head, int head_step) {
    em_value args[] = {LLVMGetParam(e->function, 0), e->scratch, row,
                       em_long(e, row_step),         head,       em_long(e, head_step)};
    em_call_helper(e, pass, args, 6);
}

/* Runs the pass of `n` lanes, n known at run time in [1, mr]. */
static void call_pass_of(em *e, em_value *passes, em_value n, em_value row, int row_step, em_value head,
                         int head_step) {
    int mr = e->kernel->attention.mr;
    for (int lanes = 1; lanes <= mr; lanes++) {
        em_branch branch = em_if(e, LLVMBuildICmp(e->b, LLVMIntEQ, n, em_long(e, lanes), ""));
        call_pass(e, passes[lanes], row, row_step, head, head_step);
        em_endif(e, &branch);
    }
}

void em_attention(em *e, const char *symbol) {
    const kir_attention *a = &e->kernel->attention;
    int64_t group = a->heads / a->kv_heads;
    em_begin_kernel(e, symbol);
    em_value *passes = SYL_NEW_ARRAY(&e->arena, em_value, (size_t)a->mr + 1), normalise = softmax(e);
    for (int lanes = 1; lanes <= a->mr; lanes++) passes[lanes] = attention_pass(e, lanes, normalise);

    em_value skip = em_local(e, e->i64),
             same = em_local(e, e->i1); /* tasks already done by an earlier pass of this loop */
    em_store(e, em_long(e, 0), skip, 8);
    em_loop t = em_loop_begin(e, e->begin, e->end, 1);
    em_value block = LLVMBuildUDiv(e->b, t.index, em_long(e, a->heads), ""),
             head = LLVMBuildURem(e->b, t.index, em_long(e, a->heads), "");
    em_value row = em_mul(e, block, em_long(e, a->mr));
    em_value count = em_min(e, LLVMBuildSub(e->b, e->rows, row, ""), em_long(e, a->mr));
    em_value pending = em_load(e, e->i64, skip, 8);
    em_branch todo = em_if(e, LLVMBuildICmp(e->b, LLVMIntEQ, pending, em_long(e, 0), ""));
    em_branch alone = em_if(e, LLVMBuildICmp(e->b, LLVMIntEQ, count, em_long(e, 1), ""));
    {
        /* the heads of one kv head read the same keys */
        em_value rest =
            LLVMBuildSub(e->b, em_long(e, group), LLVMBuildURem(e->b, head, em_long(e, group), ""), "");
        em_value n = em_min(e, em_min(e, rest, LLVMBuildSub(e->b, e->end, t.index, "")), em_long(e, a->mr));
        call_pass_of(e, passes, n, row, 0, head, 1);
        em_store(e, LLVMBuildSub(e->b, n, em_long(e, 1), ""), skip, 8);
    }
    em_else(e, &alone);
    {
        em_store(e, em_int(e->i1, 1), same, 1);
        em_value sequence = load_index(e, a->seq, row);
        em_loop i = em_loop_begin(e, em_long(e, 1), count, 1);
        em_value equal =
            LLVMBuildICmp(e->b, LLVMIntEQ, sequence, load_index(e, a->seq, em_add(e, row, i.index)), "");
        em_store(e, LLVMBuildAnd(e->b, em_load(e, e->i1, same, 1), equal, ""), same, 1);
        em_loop_end(e, &i);
        em_branch one = em_if(e, em_load(e, e->i1, same, 1));
        call_pass_of(e, passes, count, row, 1, head, 0);
        em_else(e, &one);
        em_loop r = em_loop_begin(e, em_long(e, 0), count, 1);
        call_pass(e, passes[1], em_add(e, row, r.index), 0, head, 0);
        em_loop_end(e, &r);
        em_endif(e, &one);
    }
    em_endif(e, &alone);
    em_else(e, &todo);
    em_store(e, LLVMBuildSub(e->b, pending, em_long(e, 1), ""), skip, 8);
    em_endif(e, &todo);
    em_loop_end(e, &t);
    LLVMBuildRetVoid(e->b);
}
