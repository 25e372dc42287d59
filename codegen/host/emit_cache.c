/* The KV cache in generated code: finding a position's page, and appending keys and values to it, as elements or as codes.
 *
 * Invariant: every byte written belongs to the row's own position, so rows of one sequence may be appended by different threads. */
#include "codegen/host/emit.h"

em_value em_view_field(em *e, em_value view, em_type type, int64_t offset) {
    return em_load(e, type, em_offset(e, view, offset), 8);
}

em_value em_page_memory(em *e, em_value table, em_value pages, em_value position) {
    em_value page = LLVMBuildLShr(e->b, position, em_long(e, 6), "");
    em_value number = em_load(e, e->i32, em_at(e, e->i32, table, page), 4);
    return em_load(e, e->ptr, em_at(e, e->ptr, pages, LLVMBuildSExt(e->b, number, e->i64, "")), 8);
}

/* Where the row's keys or values go: the first head of the layer, and the position in the page. */
typedef struct cache_place {
    em_value layer, within;
} cache_place;

static cache_place find_place(em_body *body, const kir_inst *inst) {
    em *e = body->e;
    em_value view = e->buffers[inst->buffer];
    em_value position = LLVMBuildSExt(e->b, body->scalar[inst->args[1]], e->i64, "");
    em_value sequence = LLVMBuildSExt(e->b, body->scalar[inst->args[2]], e->i64, "");
    em_value stride = em_view_field(e, view, e->i64, offsetof(syl_kv_view, table_stride));
    em_value table = em_at(e, e->i32, em_view_field(e, view, e->ptr, offsetof(syl_kv_view, table)),
                           em_mul(e, sequence, stride));
    em_value memory =
        em_page_memory(e, table, em_view_field(e, view, e->ptr, offsetof(syl_kv_view, pages)), position);
    em_value offset = em_view_field(e, view, e->i64, offsetof(syl_kv_view, layer_offset));
    return (cache_place){em_at(e, e->i8, memory, offset),
                         LLVMBuildAnd(e->b, position, em_long(e, SYL_KV_PAGE - 1), "")};
}

/* ---- elements ---- */

void em_append(em_body *body, const kir_inst *inst, em_value vector) {
    em *e = body->e;
    const kir_cache *cache = &e->kernel->cache;
    kir_cache_layout layout = kir_cache_layout_of(cache);
    bool key = inst->op == KIR_append_k;
    int64_t dim = cache->dim, step = key ? SYL_KV_PAGE : 1;
    cache_place place = find_place(body, inst);
    /* keys: d * PAGE + p; values: p * dim + d */
    em_value base = key ? place.within : em_mul(e, place.within, em_long(e, dim));
    em_value part = em_offset(e, place.layer, key ? 0 : layout.values);
    for (int lane = 0; lane < body->valid; lane++) {
        em_value column = em_add(e, body->col, em_long(e, lane));
        em_value head = LLVMBuildUDiv(e->b, column, em_long(e, dim), ""),
                 d = LLVMBuildURem(e->b, column, em_long(e, dim), "");
        em_value memory = em_at(e, e->i8, part, em_mul(e, head, em_long(e, layout.size)));
        em_value index = em_mul_add(e, d, step, base);
        if (!key && dim % KIR_LANES == 0) { /* one head has all columns of the vector */
            em_store_rounded(e, cache->elem, memory, index, vector, body->valid);
            return;
        }
        em_store_rounded(e, cache->elem, memory, index,
                         LLVMBuildExtractElement(e->b, vector, em_long(e, lane), ""), 1);
    }
}

/* ---- codes ---- */

/* One group of features of one head. */
typedef struct group_state {
    em *e;
    em_value x;             /* the features */
    em_value lo, hi;        /* stack vectors: the least and the largest so far, and 0 */
    em_value inverse, zero; /* splatted */
    em_value codes;         /* memory of the group's first code */
    int bits;
    int64_t step; /* bytes from the code, or pair of codes, of one feature to the next */
} group_state;

static em_value features(const group_state *s, em_value d, int valid) {
    em *e = s->e;
    em_value x = em_load(e, e->f32v, em_at(e, e->f32, s->x, d), 4);
    if (valid == KIR_LANES) return x;
    return LLVMBuildSelect(e->b, em_first_lanes(e, valid, KIR_LANES), x, em_real(e->f32v, 0.0), "");
}

static void extend_range(group_state *s, em_value d, int valid) {
    em *e = s->e;
    em_value x = features(s, d, valid);
    em_store(e, em_smaller(e, x, em_load(e, e->f32v, s->lo, 64)), s->lo, 64);
    em_store(e, em_larger(e, x, em_load(e, e->f32v, s->hi, 64)), s->hi, 64);
}

static void store_codes(group_state *s, em_value d, int valid) {
    em *e = s->e;
    em_value x = LLVMBuildFMul(e->b, features(s, d, valid), s->inverse, "");
    x = LLVMBuildFAdd(e->b, em_round_even(e, x), s->zero, "");
    x = em_smaller(e, x, em_real(e->f32v, (1 << s->bits) - 1));
    x = LLVMBuildFPToSI(e->b, em_larger(e, x, em_real(e->f32v, 0.0)), e->i32v, "");
    int n = valid;
    em_value at = d;
    if (s->bits == 4) {
        int even[KIR_LANES / 2], odd[KIR_LANES / 2];
        for (int i = 0; i < KIR_LANES / 2; i++) even[i] = 2 * i, odd[i] = 2 * i + 1;
        if (valid < KIR_LANES)
            x = LLVMBuildSelect(e->b, em_first_lanes(e, valid, KIR_LANES), x, em_int(e->i32v, 0), "");
        em_value low = em_shuffle(e, x, NULL, even, KIR_LANES / 2),
                 high = em_shuffle(e, x, NULL, odd, KIR_LANES / 2);
        x = LLVMBuildOr(e->b, low, LLVMBuildShl(e->b, high, em_int(LLVMTypeOf(high), 4), ""), "");
        n = (valid + 1) / 2;
        at = LLVMBuildLShr(e->b, d, em_long(e, 1), "");
    }
    x = LLVMBuildTrunc(e->b, x, em_like(LLVMTypeOf(x), e->i8), "");
    em_value memory = em_at(e, e->i8, s->codes, em_mul(e, at, em_long(e, s->step)));
    if (s->step == 1) {
        em_store_first(e, x, memory, 1, n);
        return;
    }
    for (int i = 0; i < n; i++)
        em_store(e, LLVMBuildExtractElement(e->b, x, em_long(e, i), ""), em_offset(e, memory, i * s->step),
                 1);
}

/* All features of the group, a vector at a time. */
static void each_vector(group_state *s, int64_t group, void (*visit)(group_state *, em_value, int)) {
    em *e = s->e;
    int64_t whole = group / KIR_LANES * KIR_LANES;
    if (whole) {
        em_loop d = em_loop_begin(e, em_long(e, 0), em_long(e, whole), KIR_LANES);
        visit(s, d.index, KIR_LANES);
        em_loop_end(e, &d);
    }
    if (whole < group) visit(s, em_long(e, whole), (int)(group - whole));
}

/* Codes, scale and zero point of one group, as kv_append of ir/ops.def says; `scales` is its scale's place. */
static void append_group(group_state *s, int64_t group, double clip, em_value scales, em_value within) {
    em *e = s->e;
    em_value none = em_real(e->f32v, 0.0), clipped = em_real(e->f32, clip);
    em_store(e, none, s->lo, 64);
    em_store(e, none, s->hi, 64);
    each_vector(s, group, extend_range);
    em_value lo = em_reduce_max(e, LLVMBuildFNeg(e->b, em_load(e, e->f32v, s->lo, 64), "")), /* -lo */
        hi = em_reduce_max(e, em_load(e, e->f32v, s->hi, 64));
    lo = LLVMBuildFMul(e->b, lo, clipped, "");
    hi = LLVMBuildFMul(e->b, hi, clipped, "");
    em_value top = em_real(e->f32, (1 << s->bits) - 1), zero = em_real(e->f32, 0.0);
    em_value half = em_bf16_from_f32(e, LLVMBuildFDiv(e->b, LLVMBuildFAdd(e->b, hi, lo, ""), top, ""));
    em_value scale = em_bf16_to_f32(e, half);
    em_value inverse = LLVMBuildFDiv(e->b, em_real(e->f32, 1.0), scale, "");
    inverse = LLVMBuildSelect(e->b, LLVMBuildFCmp(e->b, LLVMRealOGT, scale, zero, ""), inverse, zero, "");
    em_value point = em_smaller(e, em_round_even(e, LLVMBuildFMul(e->b, lo, inverse, "")), top);
    em_store(e, half, em_at(e, e->i16, scales, within), 2);
    em_store(e, LLVMBuildTrunc(e->b, LLVMBuildFPToSI(e->b, point, e->i32, ""), e->i8, ""),
             em_at(e, e->i8, em_offset(e, scales, KIR_GROUP_ZEROS), within), 1);
    s->inverse = em_splat(e, inverse, KIR_LANES);
    s->zero = em_splat(e, point, KIR_LANES);
    each_vector(s, group, store_codes);
}

void em_append_codes(em_body *body, const kir_inst *inst, em_value row) {
    em *e = body->e;
    const kir_cache *cache = &e->kernel->cache;
    kir_cache_layout layout = kir_cache_layout_of(cache);
    bool key = inst->op == KIR_append_codes_k;
    kir_codes codes = key ? cache->k : cache->v;
    int64_t units = kir_cache_units(cache, codes);
    cache_place place = find_place(body, inst);
    group_state s = {.e = e, .bits = codes.bits, .step = key ? SYL_KV_PAGE : 1};
    s.lo = em_local_array(e, e->f32, KIR_LANES);
    s.hi = em_local_array(e, e->f32, KIR_LANES);
    em_loop head = em_loop_begin(e, em_long(e, 0), em_long(e, cache->heads), 1);
    em_value memory = em_at(e, e->i8, place.layer, em_mul(e, head.index, em_long(e, layout.size)));
    em_value first = em_at(e, e->i8, em_offset(e, memory, key ? 0 : layout.values),
                           key ? place.within : em_mul(e, place.within, em_long(e, units)));
    em_loop g = em_loop_begin(e, em_long(e, 0), em_long(e, cache->dim), codes.group);
    s.x = em_at(e, e->f32, row, em_mul_add(e, head.index, cache->dim, g.index));
    em_value unit = codes.bits == 4 ? LLVMBuildLShr(e->b, g.index, em_long(e, 1), "") : g.index;
    s.codes = em_at(e, e->i8, first, em_mul(e, unit, em_long(e, s.step)));
    em_value number = LLVMBuildUDiv(e->b, g.index, em_long(e, codes.group), "");
    em_value scales = em_at(e, e->i8, em_offset(e, memory, key ? layout.k_groups : layout.v_groups),
                            em_mul(e, number, em_long(e, KIR_GROUP_BYTES)));
    append_group(&s, codes.group, inst->f, scales, place.within);
    em_loop_end(e, &g);
    em_loop_end(e, &head);
}
