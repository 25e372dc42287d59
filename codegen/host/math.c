/* Elementary functions and roundings as LLVM IR, on scalars and vectors alike. docs/numerics.md holds the formulas and their error
 * bounds; the CUDA printer spells the same ones. Invariant: only +, -, *, /, fma, compares and integer operations, so that the results do not
 * depend on a libm, and on nothing of the target but whether it has a fused multiply-add. */
#include "codegen/host/emit.h"
#include <math.h>

static em_value bits(em *e, em_value value, em_type element) {
    return LLVMBuildBitCast(e->b, value, em_like(LLVMTypeOf(value), element), "");
}

static em_value choose(em *e, em_value condition, em_value a, em_value b) {
    return LLVMBuildSelect(e->b, condition, a, b, "");
}

em_value em_larger(em *e, em_value a, em_value b) {
    return choose(e, LLVMBuildFCmp(e->b, LLVMRealOGT, a, b, ""), a, b);
}
em_value em_smaller(em *e, em_value a, em_value b) {
    return choose(e, LLVMBuildFCmp(e->b, LLVMRealOLT, a, b, ""), a, b);
}

static em_value absolute(em *e, em_value x) {
    em_type type = LLVMTypeOf(x);
    return em_intrinsic(e, "llvm.fabs", &type, 1, &x, 1);
}

/* Horner: c[0] + x (c[1] + x (...)). */
static em_value polynomial(em *e, em_value x, const double *c, int n) {
    em_type type = LLVMTypeOf(x);
    em_value sum = em_real(type, c[n - 1]);
    for (int i = n - 2; i >= 0; i--) sum = em_fma(e, sum, x, em_real(type, c[i]));
    return sum;
}

/* exp(x) = 2^n exp(r), n = round(x / ln 2), r = x - n ln 2 with ln 2 in two parts, the first with so few bits that n * part is exact.
 * exp(r) = 1 + r + r^2 P(r), P minimax of degree 4. 2^n by adding n to the exponent field. */
em_value em_exp(em *e, em_value x) {
    static const double p[] = {0x1.fffffcp-2, 0x1.555492p-3, 0x1.5558f2p-5, 0x1.123a2p-7, 0x1.6a23dp-10};
    const double top = 0x1.62e42ep+6,
                 bottom = -0x1.5d589ep+6; /* largest finite result, smallest normal result */
    em_type type = LLVMTypeOf(x), itype = em_like(type, e->i32);
    em_value magic = em_real(type, 0x1.8p23);
    em_value clamped = em_larger(e, em_smaller(e, x, em_real(type, top)), em_real(type, bottom));
    em_value shifted = em_fma(e, clamped, em_real(type, 0x1.715476p+0), magic);
    em_value n = LLVMBuildFSub(e->b, shifted, magic, "");
    em_value r = em_fma(e, n, em_real(type, -0x1.63p-1), clamped);
    r = em_fma(e, n, em_real(type, 0x1.bd0106p-13), r);
    em_value tail = LLVMBuildFMul(e->b, LLVMBuildFMul(e->b, r, r, ""), polynomial(e, r, p, 5), "");
    em_value y = LLVMBuildFAdd(e->b, LLVMBuildFAdd(e->b, tail, r, ""), em_real(type, 1.0), "");
    em_value exponent = LLVMBuildSub(e->b, bits(e, shifted, e->i32), em_int(itype, 0x4b400000), "");
    y = bits(e, em_add(e, bits(e, y, e->i32), LLVMBuildShl(e->b, exponent, em_int(itype, 23), "")), e->f32);
    y = choose(e, LLVMBuildFCmp(e->b, LLVMRealOGT, x, em_real(type, top), ""), em_real(type, INFINITY), y);
    y = choose(e, LLVMBuildFCmp(e->b, LLVMRealOLT, x, em_real(type, bottom), ""), em_real(type, 0.0), y);
    return choose(e, LLVMBuildFCmp(e->b, LLVMRealUNO, x, x, ""), x, y);
}

/* cos(x): n = round(x 2 / pi); r = x - n pi / 2 with pi / 2 in three parts of 23, 23 and 53 bits (n has at most 30, so the first two products
 * are exact); then the Taylor series of cos or sin on |r| <= pi / 4, by the quadrant n mod 4. */
em_value em_cos(em *e, em_value x) {
    static const double cos_c[] = {1.0,
                                   -1.0 / 2,
                                   1.0 / 24,
                                   -1.0 / 720,
                                   1.0 / 40320,
                                   -1.0 / 3628800,
                                   1.0 / 479001600,
                                   -1.0 / 87178291200,
                                   1.0 / 20922789888000};
    static const double sin_c[] = {1.0,          -1.0 / 6,        1.0 / 120,        -1.0 / 5040,
                                   1.0 / 362880, -1.0 / 39916800, 1.0 / 6227020800, -1.0 / 1307674368000};
    em_type type = LLVMTypeOf(x), itype = em_like(type, e->i64);
    em_value magic = em_real(type, 0x1.8p52);
    em_value shifted =
        LLVMBuildFAdd(e->b, LLVMBuildFMul(e->b, x, em_real(type, 0x1.45f306dc9c883p-1), ""), magic, "");
    em_value n = LLVMBuildFSub(e->b, shifted, magic, "");
    em_value r = em_fma(e, n, em_real(type, -0x1.921fb4p+0), x);
    r = em_fma(e, n, em_real(type, -0x1.4442dp-24), r);
    r = em_fma(e, n, em_real(type, -0x1.8469898cc5170p-48), r);
    em_value square = LLVMBuildFMul(e->b, r, r, "");
    em_value c = polynomial(e, square, cos_c, 9),
             s = LLVMBuildFMul(e->b, r, polynomial(e, square, sin_c, 8), "");
    em_value quadrant = bits(e, shifted, e->i64);
    em_value odd = LLVMBuildTrunc(e->b, quadrant, em_like(type, e->i1), "");
    /* cos in quadrants 0 and 2, sin in 1 and 3; negative in 1 and 2 */
    em_value value = choose(e, odd, s, c);
    em_value sign = LLVMBuildAnd(e->b, em_add(e, quadrant, em_int(itype, 1)), em_int(itype, 2), "");
    return bits(
        e, LLVMBuildXor(e->b, bits(e, value, e->i64), LLVMBuildShl(e->b, sign, em_int(itype, 62), ""), ""),
        e->f64);
}

/* Where the machine rounds to integer in one instruction LLVM uses it (SSE4.1 and later); else by adding and subtracting 2^23, whose unit
 * in the last place is 1. */
em_value em_round_even(em *e, em_value x) {
    em_type type = LLVMTypeOf(x);
    if (e->target->vector_floats >= 8) return em_intrinsic(e, "llvm.roundeven", &type, 1, &x, 1);
    em_value args[] = {em_real(type, 0x1p23), x};
    em_value big = em_intrinsic(e, "llvm.copysign", &type, 1, args, 2);
    em_value rounded[] = {LLVMBuildFSub(e->b, LLVMBuildFAdd(e->b, x, big, ""), big, ""), x};
    em_value small = LLVMBuildFCmp(e->b, LLVMRealOLT, absolute(e, x), em_real(type, 0x1p23), "");
    return choose(e, small, em_intrinsic(e, "llvm.copysign", &type, 1, rounded, 2), x);
}

em_value em_bf16_from_f32(em *e, em_value x) {
    em_value u = bits(e, x, e->i32);
    em_type type = LLVMTypeOf(u);
    em_value high = LLVMBuildLShr(e->b, u, em_int(type, 16), "");
    em_value odd = LLVMBuildAnd(e->b, high, em_int(type, 1), "");
    em_value rounded =
        LLVMBuildLShr(e->b, em_add(e, em_add(e, u, em_int(type, 0x7fff)), odd), em_int(type, 16), "");
    em_value quiet = LLVMBuildOr(e->b, high, em_int(type, 0x40), "");
    em_value h = choose(e, LLVMBuildFCmp(e->b, LLVMRealUNO, x, x, ""), quiet, rounded);
    return LLVMBuildTrunc(e->b, h, em_like(type, e->i16), "");
}

em_value em_bf16_to_f32(em *e, em_value h) {
    em_type type = em_like(LLVMTypeOf(h), e->i32);
    return bits(e, LLVMBuildShl(e->b, LLVMBuildZExt(e->b, h, type, ""), em_int(type, 16), ""), e->f32);
}

/* Exponent and mantissa move 13 bits up, which makes a number 2^112 times too small; the product mends normal and subnormal ones alike. */
em_value em_f16_to_f32(em *e, em_value h) {
    em_type shape = LLVMTypeOf(h), itype = em_like(shape, e->i32), ftype = em_like(shape, e->f32);
    em_value wide = LLVMBuildZExt(e->b, h, itype, "");
    em_value sign =
        LLVMBuildShl(e->b, LLVMBuildAnd(e->b, wide, em_int(itype, 0x8000), ""), em_int(itype, 16), "");
    em_value magnitude = LLVMBuildAnd(e->b, wide, em_int(itype, 0x7fff), "");
    em_value shifted = LLVMBuildShl(e->b, magnitude, em_int(itype, 13), "");
    em_value scaled =
        bits(e, LLVMBuildFMul(e->b, bits(e, shifted, e->f32), em_real(ftype, 0x1p112), ""), e->i32);
    em_value special = LLVMBuildOr(e->b, shifted, em_int(itype, 0x7f800000), "");
    em_value finite = LLVMBuildICmp(e->b, LLVMIntULT, magnitude, em_int(itype, 0x7c00), "");
    return bits(e, LLVMBuildOr(e->b, choose(e, finite, scaled, special), sign, ""), e->f32);
}

/* Normal results: rounding on the bits as for bf16, then the exponent rebased. Subnormal ones: adding 0.5, whose unit in the last place
 * is 2^-24, that of the subnormal halves. */
em_value em_f16_from_f32(em *e, em_value x) {
    em_value u = bits(e, x, e->i32);
    em_type itype = LLVMTypeOf(u), ftype = LLVMTypeOf(x);
    em_value sign =
        LLVMBuildAnd(e->b, LLVMBuildLShr(e->b, u, em_int(itype, 16), ""), em_int(itype, 0x8000), "");
    em_value a = LLVMBuildAnd(e->b, u, em_int(itype, 0x7fffffff), "");
    em_value odd = LLVMBuildAnd(e->b, LLVMBuildLShr(e->b, a, em_int(itype, 13), ""), em_int(itype, 1), "");
    em_value normal = em_add(e, em_add(e, a, em_int(itype, 0xfff - ((127 - 15) << 23))), odd);
    normal = LLVMBuildLShr(e->b, normal, em_int(itype, 13), "");
    em_value tiny = LLVMBuildFAdd(e->b, bits(e, a, e->f32), em_real(ftype, 0.5), "");
    em_value subnormal = LLVMBuildSub(e->b, bits(e, tiny, e->i32), em_int(itype, 0x3f000000), "");
    em_value h =
        choose(e, LLVMBuildICmp(e->b, LLVMIntULT, a, em_int(itype, 0x38800000), ""), subnormal, normal);
    h = choose(e, LLVMBuildICmp(e->b, LLVMIntUGE, a, em_int(itype, 0x477ff000), ""), em_int(itype, 0x7c00),
               h);
    h = choose(e, LLVMBuildICmp(e->b, LLVMIntUGT, a, em_int(itype, 0x7f800000), ""), em_int(itype, 0x7e00),
               h);
    return LLVMBuildTrunc(e->b, LLVMBuildOr(e->b, h, sign, ""), em_like(itype, e->i16), "");
}

static em_value tree(em *e, em_value v, em_value (*join)(em *, em_value, em_value)) {
    for (int n = em_lanes(LLVMTypeOf(v)) / 2; n >= 1; n /= 2) {
        int low[32], high[32];
        for (int i = 0; i < n; i++) {
            low[i] = i;
            high[i] = i + n;
        }
        v = join(e, em_shuffle(e, v, NULL, low, n), em_shuffle(e, v, NULL, high, n));
    }
    return LLVMBuildExtractElement(e->b, v, em_long(e, 0), "");
}

static em_value sum(em *e, em_value a, em_value b) {
    return LLVMBuildFAdd(e->b, a, b, "");
}

em_value em_reduce_add(em *e, em_value v) {
    return tree(e, v, sum);
}
em_value em_reduce_max(em *e, em_value v) {
    return tree(e, v, em_larger);
}
