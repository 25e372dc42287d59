/* GEMM weights of 4 bits: from packed codes (host.h) to the INT8 values that the products take, in registers for one row of activations,
 * through an expanded panel in the scratch for more.
 *
 * A byte holds the same place of two steps. Symmetric codes are stored as code + 8. Two-level: (q - z) * s = q * s - z * s, clamped. For
 * vpdpbusd the values are made in bytes: a 16-bit product of two neighbouring codes of a column with their s <= 16 keeps them apart, since
 * q * s <= 240; then both sides are moved down by 128 and subtracted with signed saturation (QServe, arXiv 2405.04532, does the same without the clamp). */
#include "codegen/host/emit_gemm.h"

static int codes_of_piece(const gemm_state *s) {
    return s->lanes * s->g->ku;
}

/* Where an expanded value lives: bytes for vpdpbusd, else as wide as the products take them. */
static em_type wide(const gemm_state *s) {
    em *e = s->e;
    return em_vec(s->g->dot == KIR_DOT_VNNI  ? e->i8
                  : s->g->dot == KIR_DOT_F32 ? e->i32
                                             : e->i16,
                  codes_of_piece(s));
}

static em_value widen(const gemm_state *s, em_value bytes) {
    return s->g->dot == KIR_DOT_VNNI ? bytes : LLVMBuildZExt(s->e->b, bytes, wide(s), "");
}

static em_value bitcast(const gemm_state *s, em_value x, em_type type) {
    return LLVMBuildBitCast(s->e->b, x, type, "");
}

static em_type words(const gemm_state *s) {
    return em_vec(s->e->i16, codes_of_piece(s) / 2);
}

gemm_grid gemm_load_grid(const gemm_state *s, em_value header, int piece) {
    em *e = s->e;
    if (!s->g->codes.two_level) return (gemm_grid){NULL, NULL};
    int lanes[64], n = codes_of_piece(s);
    for (int i = 0; i < n; i++) lanes[i] = i / s->g->ku;
    em_value parts[2];
    for (int p = 0; p < 2; p++) {
        em_value bytes =
            em_load(e, em_vec(e->i8, s->lanes), em_offset(e, header, p * s->g->nr + piece * s->lanes), 1);
        parts[p] = widen(s, em_shuffle(e, bytes, LLVMGetUndef(em_vec(e->i8, s->lanes)), lanes, n));
    }
    if (s->g->dot != KIR_DOT_VNNI) return (gemm_grid){parts[0], parts[1]};
    em_value scale = LLVMBuildAnd(e->b, bitcast(s, parts[0], words(s)), em_int(words(s), 255), "");
    return (gemm_grid){scale, LLVMBuildXor(e->b, parts[1], em_int(wide(s), -128), "")};
}

static em_value clamp(const gemm_state *s, em_value x, bool below_only) {
    em_type type = LLVMTypeOf(x);
    x = em_intrinsic(s->e, "llvm.smax", &type, 1, (em_value[]){x, em_int(type, -127)}, 2);
    return below_only ? x : em_intrinsic(s->e, "llvm.smin", &type, 1, (em_value[]){x, em_int(type, 127)}, 2);
}

/* INT8 values, in the type `wide`, from codes in the low halves of bytes. */
static em_value expand(const gemm_state *s, em_value codes, const gemm_grid *grid) {
    em *e = s->e;
    em_value x = widen(s, codes);
    if (!s->g->codes.two_level) return LLVMBuildSub(e->b, x, em_int(wide(s), 8), "");
    if (s->g->dot != KIR_DOT_VNNI)
        return clamp(s, LLVMBuildSub(e->b, em_mul(e, x, grid->scale), grid->zero, ""), false);
    em_type type = wide(s);
    x = bitcast(s, em_mul(e, bitcast(s, x, words(s)), grid->scale), type);
    x = LLVMBuildXor(e->b, x, em_int(type, -128), "");
    return clamp(s, em_intrinsic(e, "llvm.ssub.sat", &type, 1, (em_value[]){x, grid->zero}, 2), true);
}

/* Codes of two steps. */
static void load_halves(const gemm_state *s, em_value pointer, em_value out[2]) {
    em *e = s->e;
    em_type bytes = em_vec(e->i8, codes_of_piece(s));
    em_value x = em_load(e, bytes, pointer, 1);
    out[0] = LLVMBuildAnd(e->b, x, em_int(bytes, 15), "");
    out[1] = LLVMBuildLShr(e->b, x, em_int(bytes, 4), "");
}

void gemm_load_codes(const gemm_state *s, em_value pointer, const gemm_grid *grid, em_value out[2]) {
    load_halves(s, pointer, out);
    for (int i = 0; i < 2; i++) {
        out[i] = expand(s, out[i], grid);
        if (s->g->dot == KIR_DOT_VNNI) out[i] = bitcast(s, out[i], s->piece);
        if (s->g->dot == KIR_DOT_F32) out[i] = LLVMBuildSIToFP(s->e->b, out[i], s->piece, "");
    }
}

em_value gemm_expander(const gemm_state *s) {
    em *e = s->e;
    em_type params[] = {e->ptr, e->ptr}, bytes = em_vec(e->i8, codes_of_piece(s));
    em_place saved;
    em_value function = em_begin_helper(e, "expand", params, 2, &saved);
    em_value panel = LLVMGetParam(function, 0), to = LLVMGetParam(function, 1);
    int64_t step = (int64_t)s->g->nr * s->g->ku, pairs = s->layout.steps / 2;
    em_loop g = em_loop_begin(e, em_long(e, 0), em_long(e, s->layout.groups), 1);
    em_value header = em_at(e, e->i8, panel, em_mul(e, g.index, em_long(e, s->layout.group)));
    em_value from = em_offset(e, header, s->layout.header);
    em_value group_to = em_at(e, e->i8, to, em_mul(e, g.index, em_long(e, s->layout.steps * step)));
    for (int p = 0; p < s->pieces; p++) {
        gemm_grid grid = gemm_load_grid(s, header, p);
        em_loop k = em_loop_begin(e, em_long(e, 0), em_long(e, pairs), 1);
        em_value halves[2], at = em_long(e, p * codes_of_piece(s));
        load_halves(s, em_at(e, e->i8, from, em_mul_add(e, k.index, step, at)), halves);
        for (int i = 0; i < 2; i++) {
            em_value x = expand(s, halves[i], &grid);
            if (LLVMTypeOf(x) != bytes) x = LLVMBuildTrunc(e->b, x, bytes, "");
            em_store(e, x,
                     em_offset(e, em_at(e, e->i8, group_to, em_mul_add(e, k.index, 2 * step, at)), i * step),
                     1);
        }
        em_loop_end(e, &k);
    }
    em_loop_end(e, &g);
    em_end_helper(e, saved);
    return function;
}
