/* load_patch and load_picture (kir.def): elements gathered from a picture's patches, or from the pictures that patches are cut of.
 *
 * The place in the source is a part that the row decides, computed once as a scalar, and a part for each lane, from its column by division
 * by constants. Invariant: lanes behind the last column read what the last column reads, so nothing outside of the buffer is touched. */
#include "codegen/host/emit.h"

static em_value divide(em *e, em_value x, int64_t by) {
    return LLVMBuildUDiv(e->b, x, em_int(LLVMTypeOf(x), by), "");
}

static em_value modulo(em *e, em_value x, int64_t by) {
    return LLVMBuildURem(e->b, x, em_int(LLVMTypeOf(x), by), "");
}

static em_value times(em *e, em_value x, int64_t by) {
    return em_mul(e, x, em_int(LLVMTypeOf(x), by));
}

static int64_t across(const kir_pictures *p) {
    return p->width / p->patch;
}

static int64_t count(const kir_pictures *p) {
    return p->height / p->patch * across(p);
}

/* Element of a picture: of a lane's column [channel, row, column] in its patch. */
static em_value pixel_of(em *e, const kir_pictures *p, em_value col) {
    em_value channel = divide(e, col, p->patch * p->patch);
    em_value row = modulo(e, divide(e, col, p->patch), p->patch), column = modulo(e, col, p->patch);
    return em_add(e, em_add(e, times(e, channel, p->height * p->width), times(e, row, p->width)), column);
}

/* Element of a picture's patches, `stride` apart: of a lane's column [channel, row, column] in the picture. */
static em_value place_of(em *e, const kir_pictures *p, int64_t stride, em_value col) {
    em_value channel = divide(e, col, p->height * p->width);
    em_value row = modulo(e, divide(e, col, p->width), p->height), column = modulo(e, col, p->width);
    em_value patch = em_add(e, times(e, divide(e, row, p->patch), across(p)), divide(e, column, p->patch));
    em_value in_row = times(e, modulo(e, row, p->patch), p->patch), in_column = modulo(e, column, p->patch);
    em_value element = em_add(e, em_add(e, times(e, channel, p->patch * p->patch), in_row), in_column);
    return em_add(e, times(e, patch, stride), element);
}

/* Where the first pixel of patch row mod n of picture row / n is. */
static em_value patch_base(em *e, const kir_pictures *p, int64_t stride, em_value row) {
    em_value picture = divide(e, row, count(p)), patch = modulo(e, row, count(p));
    em_value y = times(e, divide(e, patch, across(p)), p->patch * p->width);
    em_value x = times(e, modulo(e, patch, across(p)), p->patch);
    return em_add(e, em_add(e, times(e, picture, stride), y), x);
}

em_value em_load_pictures(em_body *body, const kir_inst *inst) {
    em *e = body->e;
    const kir_pictures *p = &inst->pictures;
    const kir_buffer *buffer = &e->kernel->buffers.p[inst->buffer];
    bool cuts = inst->op == KIR_load_patch;
    int64_t cols = cuts ? p->channels * p->patch * p->patch : p->channels * p->height * p->width,
            lanes[KIR_LANES];
    for (int i = 0; i < KIR_LANES; i++) lanes[i] = i;
    em_value col = em_add(e, em_splat(e, body->col, KIR_LANES), em_ints(e->i64, lanes, KIR_LANES));
    col = em_min(e, col, em_int(LLVMTypeOf(col), cols - 1));
    em_value base =
        cuts ? patch_base(e, p, buffer->stride, body->row) : times(e, body->row, count(p) * buffer->stride);
    em_value offset = cuts ? pixel_of(e, p, col) : place_of(e, p, buffer->stride, col);
    em_value result = NULL;
    for (int i = 0; i < KIR_LANES; i++) {
        em_value lane = em_long(e, i);
        em_value at = em_add(e, base, LLVMBuildExtractElement(e->b, offset, lane, ""));
        em_value x = em_load_widened(e, buffer->elem, e->buffers[inst->buffer], at, 0);
        if (!result) result = LLVMGetUndef(em_vec(LLVMTypeOf(x), KIR_LANES));
        result = LLVMBuildInsertElement(e->b, result, x, lane, "");
    }
    return result;
}
