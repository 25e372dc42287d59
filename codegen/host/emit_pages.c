/* Attention page by page: 64 positions, their softmax by itself, merged behind the pages before (emit_attention.h).
 *
 * Every sum has the order of the CUDA templates (codegen/cuda/templates/attention.cuh), so that both targets give the same bits. A score is four chains of fma over a
 * quarter of the features each, (0 + 1) + (2 + 3); one chain where the features don't divide by 8. The sum of the probabilities adds position j + 32 to j, then by
 * halves. A page's result is four chains over 16 positions each, (0 + 1) + (2 + 3).
 *
 * Keys and values stored as codes become (code - zero) * scale in registers, the numbers that the reference's cache holds; all else is the same. */
#include "codegen/host/emit_attention.h"
#include <math.h>

enum { STATE_M, STATE_L, STATE_BEFORE, STATE_NOW, STATE_SIZE = 16 }; /* floats */
enum { CHAINS = 4, MAX_SUMS = 64 };

static em_value scratch_at(em *e, em_value base, int64_t index, em_value more) {
    em_value pointer = em_offset(e, base, index * 4);
    return more ? em_at(e, e->f32, pointer, more) : pointer;
}

static em_value splat_at(em *e, em_value pointer) {
    return em_splat(e, em_load(e, e->f32, pointer, 4), KIR_LANES);
}

static int valid_lanes(const attention_state *s, int64_t d) {
    return s->dim - d < KIR_LANES ? (int)(s->dim - d) : KIR_LANES;
}

/* ---- scratch ---- */

void attention_begin(attention_state *s, em_value scratch) {
    s->padded = (s->dim + KIR_LANES - 1) / KIR_LANES * KIR_LANES;
    s->chunk = s->e->target->vector_floats >= 16 ? 4 : 1;
    s->p = scratch;
    s->q = scratch_at(s->e, s->p, (int64_t)s->lanes * SYL_KV_PAGE, NULL);
    s->out = scratch_at(s->e, s->q, s->lanes * s->padded, NULL);
    s->state = scratch_at(s->e, s->out, s->lanes * s->padded, NULL);
    s->groups = scratch_at(s->e, s->state, (int64_t)s->lanes * STATE_SIZE, NULL);
}

void attention_start(const attention_state *s, int q) {
    em *e = s->e;
    const kir_buffer *buffer = &e->kernel->buffers.p[q];
    for (int i = 0; i < s->lanes; i++) {
        for (int64_t d = 0; d < s->dim; d += KIR_LANES) {
            em_value x = em_load_first(e, buffer->elem, e->buffers[q],
                                       em_add(e, s->q_index[i], em_long(e, d)), valid_lanes(s, d));
            em_store(e, LLVMBuildFMul(e->b, x, em_real(e->f32v, s->scale), ""),
                     scratch_at(e, s->q, i * s->padded + d, NULL), 64);
            em_store(e, em_real(e->f32v, 0.0), scratch_at(e, s->out, i * s->padded + d, NULL), 64);
        }
        em_store(e, em_real(e->f32, -INFINITY), scratch_at(e, s->state, i * STATE_SIZE + STATE_M, NULL), 4);
        em_store(e, em_real(e->f32, 0.0), scratch_at(e, s->state, i * STATE_SIZE + STATE_L, NULL), 4);
    }
}

/* ---- chains of sums: n vectors each for all lanes, kept on the stack until all are there ---- */

typedef struct chains {
    em_value acc[MAX_SUMS]; /* of the chain being made */
    em_value done;          /* [CHAINS][n] vectors */
    int n;
} chains;

static chains new_chains(em *e, int n) {
    chains c = {.n = n, .done = em_local_array(e, e->f32, (int64_t)CHAINS * n * KIR_LANES)};
    for (int i = 0; i < n; i++) {
        c.acc[i] = em_local(e, e->f32v);
        LLVMSetAlignment(c.acc[i], 64);
    }
    return c;
}

static void begin_chain(em *e, const chains *c) {
    for (int i = 0; i < c->n; i++) em_store(e, em_real(e->f32v, 0.0), c->acc[i], 64);
}

static void end_chain(em *e, const chains *c, em_value number) {
    em_value first = em_mul(e, number, em_long(e, (int64_t)c->n * KIR_LANES));
    for (int i = 0; i < c->n; i++)
        em_store(e, em_load(e, e->f32v, c->acc[i], 64), scratch_at(e, c->done, (int64_t)i * KIR_LANES, first),
                 64);
}

/* Sum i of `count` chains. */
static em_value chains_sum(em *e, const chains *c, int count, int i) {
    em_value x[CHAINS];
    for (int k = 0; k < count; k++)
        x[k] = em_load(e, e->f32v, scratch_at(e, c->done, ((int64_t)k * c->n + i) * KIR_LANES, NULL), 64);
    if (count == 1) return x[0];
    return LLVMBuildFAdd(e->b, LLVMBuildFAdd(e->b, x[0], x[1], ""), LLVMBuildFAdd(e->b, x[2], x[3], ""), "");
}

/* ---- reading the cache ---- */

/* Pages lie anywhere in memory: in decoding, while one is read the next is fetched, line by line. `at`: of the first of `bytes` bytes of the head. */
static void prefetch(const attention_state *s, em_value at, int64_t bytes) {
    em *e = s->e;
    if (!s->cold) return;
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

/* ---- scores ---- */

/* Adds the products of feature d, whose keys are k, to the sums. */
static void add_products(const attention_state *s, em_value d, const em_value *k, const em_value *acc,
                         int n) {
    em *e = s->e;
    for (int i = 0; i < s->lanes; i++) {
        em_value q = splat_at(e, scratch_at(e, s->q, i * s->padded, d));
        for (int v = 0; v < n; v++)
            em_store(e, em_fma(e, q, k[v], em_load(e, e->f32v, acc[i * n + v], 64)), acc[i * n + v], 64);
    }
}

/* Products with the keys of features [begin, begin + count), which are of one group of codes. */
static void score_codes(const attention_state *s, em_value begin, int64_t count, em_value at,
                        const em_value *acc, int n) {
    em *e = s->e;
    kir_codes codes = s->cache->k;
    bool pairs = codes.bits == 4;
    em_value scale[8], zero[8], raw[8], k[8];
    em_value block = em_mul_add(e, LLVMBuildUDiv(e->b, begin, em_long(e, codes.group), ""), KIR_GROUP_BYTES,
                                em_long(e, s->layout.k_groups));
    for (int v = 0; v < n; v++)
        load_group(s, block, em_add(e, at, em_long(e, v * KIR_LANES)), &scale[v], &zero[v]);
    em_loop d = em_loop_begin(e, begin, em_add(e, begin, em_long(e, count)), pairs ? 2 : 1);
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

static void score_elements(const attention_state *s, em_value begin, int64_t count, em_value at,
                           const em_value *acc, int n) {
    em *e = s->e;
    kir_type elem = s->cache->elem;
    em_value k[8];
    em_loop d = em_loop_begin(e, begin, em_add(e, begin, em_long(e, count)), 1);
    em_value base = em_mul_add(e, d.index, SYL_KV_PAGE, at);
    int64_t size = em_elem_size(elem);
    prefetch(s, em_mul(e, base, em_long(e, size)), n * KIR_LANES * size);
    for (int v = 0; v < n; v++)
        k[v] = em_load_widened(e, elem, s->memory, em_add(e, base, em_long(e, v * KIR_LANES)), KIR_LANES);
    add_products(s, d.index, k, acc, n);
    em_loop_end(e, &d);
}

static int64_t common_divisor(int64_t a, int64_t b) {
    return b ? common_divisor(b, a % b) : a;
}

/* Scores of positions [at, at + 16 * n) of the page, masked by each lane's position, into the scratch. */
static void scores(const attention_state *s, em_value at, int n) {
    em *e = s->e;
    int count = kir_score_chains(s->dim);
    int64_t part = s->dim / count, some = part;
    chains c = new_chains(e, s->lanes * n);
    em_loop chain = em_loop_begin(e, em_long(e, 0), em_long(e, count), 1);
    em_value begin = em_mul(e, chain.index, em_long(e, part));
    begin_chain(e, &c);
    if (s->cache->k.bits) {
        some = common_divisor(part, s->cache->k.group);
        em_loop piece = em_loop_begin(e, begin, em_add(e, begin, em_long(e, part)), some);
        score_codes(s, piece.index, some, at, c.acc, n);
        em_loop_end(e, &piece);
    } else {
        score_elements(s, begin, part, at, c.acc, n);
    }
    end_chain(e, &c, chain.index);
    em_loop_end(e, &chain);
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
            em_value masked = LLVMBuildSelect(e->b, seen, chains_sum(e, &c, count, i * n + v),
                                              em_real(e->f32v, -INFINITY), "");
            em_store(e, masked, scratch_at(e, s->p, i * SYL_KV_PAGE + v * KIR_LANES, at), 64);
        }
}
/* ---- softmax ---- */

em_value attention_softmax(em *e) {
    enum { n = SYL_KV_PAGE / KIR_LANES };
    em_type params[] = {e->ptr, e->ptr};
    em_place saved;
    em_value function = em_begin_helper(e, "softmax", params, 2, &saved), p = LLVMGetParam(function, 0),
             state = LLVMGetParam(function, 1), x[n], none = em_real(e->f32, -INFINITY);
    for (int v = 0; v < n; v++) x[v] = em_load(e, e->f32v, scratch_at(e, p, v * KIR_LANES, NULL), 64);
    em_value m = em_reduce_max(e, em_larger(e, em_larger(e, x[0], x[1]), em_larger(e, x[2], x[3])));
    em_value nothing = LLVMBuildFCmp(e->b, LLVMRealOEQ, m, none, "");
    em_value center = em_splat(e, LLVMBuildSelect(e->b, nothing, em_real(e->f32, 0.0), m, ""), KIR_LANES);
    for (int v = 0; v < n; v++) {
        x[v] = em_exp(e, LLVMBuildFSub(e->b, x[v], center, ""));
        em_store(e, x[v], scratch_at(e, p, v * KIR_LANES, NULL), 64);
    }
    em_value total =
        LLVMBuildFAdd(e->b, LLVMBuildFAdd(e->b, x[0], x[2], ""), LLVMBuildFAdd(e->b, x[1], x[3], ""), "");
    em_value sum = em_reduce_add(e, total);

    /* what merging multiplies the pages before and this one by */
    em_value all = em_load(e, e->f32, scratch_at(e, state, STATE_M, NULL), 4), top = em_larger(e, all, m);
    em_type pair = em_vec(e->f32, 2);
    em_value both = LLVMBuildInsertElement(e->b, LLVMGetPoison(pair), all, em_long(e, 0), "");
    both = LLVMBuildInsertElement(e->b, both, m, em_long(e, 1), "");
    both = em_exp(e, LLVMBuildFSub(e->b, both, em_splat(e, top, 2), ""));
    em_value before =
        LLVMBuildSelect(e->b, LLVMBuildFCmp(e->b, LLVMRealOEQ, all, top, ""), em_real(e->f32, 1.0),
                        LLVMBuildExtractElement(e->b, both, em_long(e, 0), ""), "");
    em_value now = LLVMBuildSelect(e->b, nothing, em_real(e->f32, 0.0),
                                   LLVMBuildExtractElement(e->b, both, em_long(e, 1), ""), "");
    em_value l = em_fma(e, em_load(e, e->f32, scratch_at(e, state, STATE_L, NULL), 4), before,
                        LLVMBuildFMul(e->b, sum, now, ""));
    em_store(e, top, scratch_at(e, state, STATE_M, NULL), 4);
    em_store(e, l, scratch_at(e, state, STATE_L, NULL), 4);
    em_store(e, before, scratch_at(e, state, STATE_BEFORE, NULL), 4);
    em_store(e, now, scratch_at(e, state, STATE_NOW, NULL), 4);
    em_end_helper(e, saved);
    return function;
}
/* ---- values ---- */

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

/* out = out * before + (p V) * now for values [at, at + 16 n), of which the last vector has `valid`. */
static void weigh(const attention_state *s, em_value at, int n, int valid) {
    enum { QUARTER = SYL_KV_PAGE / CHAINS };
    em *e = s->e;
    em_value v[8];
    chains sums = new_chains(e, s->lanes * n);
    em_value count = em_min(e, em_long(e, SYL_KV_PAGE),
                            em_add(e, LLVMBuildSub(e->b, s->last, s->first, ""), em_long(e, 1)));
    em_loop chain = em_loop_begin(e, em_long(e, 0), em_long(e, CHAINS), 1);
    em_value begin = em_mul(e, chain.index, em_long(e, QUARTER));
    begin_chain(e, &sums);
    em_loop j = em_loop_begin(e, begin, em_min(e, count, em_add(e, begin, em_long(e, QUARTER))), 1);
    prefetch_values(s, j.index, at, n);
    for (int c = 0; c < n; c++)
        v[c] =
            load_value(s, j.index, em_add(e, at, em_long(e, c * KIR_LANES)), c == n - 1 ? valid : KIR_LANES);
    for (int i = 0; i < s->lanes; i++) {
        em_value p = splat_at(e, scratch_at(e, s->p, i * SYL_KV_PAGE, j.index));
        for (int c = 0; c < n; c++) {
            em_value acc = sums.acc[i * n + c];
            em_store(e, em_fma(e, p, v[c], em_load(e, e->f32v, acc, 64)), acc, 64);
        }
    }
    em_loop_end(e, &j);
    end_chain(e, &sums, chain.index);
    em_loop_end(e, &chain);
    for (int i = 0; i < s->lanes; i++) {
        em_value before = splat_at(e, scratch_at(e, s->state, i * STATE_SIZE + STATE_BEFORE, NULL)),
                 now = splat_at(e, scratch_at(e, s->state, i * STATE_SIZE + STATE_NOW, NULL));
        for (int c = 0; c < n; c++) {
            em_value out = scratch_at(e, s->out, i * s->padded + c * KIR_LANES, at);
            em_value page = LLVMBuildFMul(e->b, chains_sum(e, &sums, CHAINS, i * n + c), now, "");
            em_store(e, em_fma(e, em_load(e, e->f32v, out, 64), before, page), out, 64);
        }
    }
}

/* ---- a page ---- */

void attention_page(const attention_state *s, em_value softmax) {
    em *e = s->e;
    if (s->layout.size > s->layout.k_groups)
        prefetch(s, em_long(e, s->layout.k_groups), s->layout.size - s->layout.k_groups);
    unpack_groups(s);
    int64_t step = (int64_t)s->chunk * KIR_LANES, whole = s->dim / step * step;
    em_loop part = em_loop_begin(e, em_long(e, 0), em_long(e, SYL_KV_PAGE), step);
    scores(s, part.index, s->chunk);
    em_loop_end(e, &part);
    for (int i = 0; i < s->lanes; i++) {
        em_value args[] = {scratch_at(e, s->p, i * SYL_KV_PAGE, NULL),
                           scratch_at(e, s->state, i * STATE_SIZE, NULL)};
        em_call_helper(e, softmax, args, 2);
    }
    if (whole) {
        em_loop d = em_loop_begin(e, em_long(e, 0), em_long(e, whole), step);
        weigh(s, d.index, s->chunk, KIR_LANES);
        em_loop_end(e, &d);
    }
    if (whole < s->dim) {
        int rest = (int)((s->dim - whole + KIR_LANES - 1) / KIR_LANES);
        weigh(s, em_long(e, whole), rest, valid_lanes(s, whole + (int64_t)(rest - 1) * KIR_LANES));
    }
}

void attention_finish(const attention_state *s, int out) {
    em *e = s->e;
    const kir_buffer *buffer = &e->kernel->buffers.p[out];
    for (int i = 0; i < s->lanes; i++) {
        em_value l = splat_at(e, scratch_at(e, s->state, i * STATE_SIZE + STATE_L, NULL));
        for (int64_t d = 0; d < s->dim; d += KIR_LANES) {
            em_value x = em_load(e, e->f32v, scratch_at(e, s->out, i * s->padded + d, NULL), 64);
            em_store_rounded(e, buffer->elem, e->buffers[out], em_add(e, s->out_index[i], em_long(e, d)),
                             LLVMBuildFDiv(e->b, x, l, ""), valid_lanes(s, d));
        }
    }
}
