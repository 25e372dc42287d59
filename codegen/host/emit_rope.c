/* Rotary embedding of a scratch row (Su et al., "RoFormer", 2021), in place.
 *
 * The first `dims` values of each head turn in pairs by the angles of the row: (x, y) -> (x cos - y sin, x sin + y cos). A pair is (d, d + dims / 2), as
 * in Hugging Face's models, or (2d, 2d + 1), interleaved, as in GGUF files. Each product is rounded: no fused multiply-add, whatever the target. */
#include "codegen/host/emit.h"

typedef struct rope_state {
    em *e;
    const kir_inst *inst;
    em_value row;    /* of the head */
    em_value angles; /* index of the row's first cosine in the table */
} rope_state;

static void turn(em *e, em_value *x, em_value *y, em_value c, em_value s) {
    em_value left = LLVMBuildFSub(e->b, LLVMBuildFMul(e->b, *x, c, ""), LLVMBuildFMul(e->b, *y, s, ""), "");
    em_value right = LLVMBuildFAdd(e->b, LLVMBuildFMul(e->b, *x, s, ""), LLVMBuildFMul(e->b, *y, c, ""), "");
    *x = left;
    *y = right;
}

/* Pairs [d, d + lanes), or one pair where lanes is 0. */
static void turn_pairs(const rope_state *r, em_value d, int lanes) {
    em *e = r->e;
    const kir_buffer *table = &e->kernel->buffers.p[r->inst->buffer];
    int64_t half = r->inst->dims / 2;
    em_value base = e->buffers[r->inst->buffer], at = em_add(e, r->angles, d);
    em_value c = em_load_widened(e, table->elem, base, at, lanes);
    em_value s = em_load_widened(e, table->elem, base, em_add(e, at, em_long(e, half)), lanes);
    em_type type = lanes ? em_vec(e->f32, lanes) : e->f32;
    if (!r->inst->interleaved) {
        em_value at_x = em_at(e, e->f32, r->row, d),
                 at_y = em_at(e, e->f32, r->row, em_add(e, d, em_long(e, half)));
        em_value x = em_load(e, type, at_x, 4), y = em_load(e, type, at_y, 4);
        turn(e, &x, &y, c, s);
        em_store(e, x, at_x, 4);
        em_store(e, y, at_y, 4);
        return;
    }
    em_value at_x = em_at(e, e->f32, r->row, em_add(e, d, d)),
             at_y = em_at(e, e->f32, at_x, em_long(e, lanes ? lanes : 1));
    em_value low = em_load(e, type, at_x, 4), high = em_load(e, type, at_y, 4), x = low, y = high;
    int even[KIR_LANES], odd[KIR_LANES], first[KIR_LANES], second[KIR_LANES];
    for (int i = 0; i < lanes; i++) {
        even[i] = 2 * i;
        odd[i] = 2 * i + 1;
        first[i] = i / 2 + (i % 2) * lanes;
        second[i] = lanes / 2 + first[i];
    }
    if (lanes) {
        x = em_shuffle(e, low, high, even, lanes);
        y = em_shuffle(e, low, high, odd, lanes);
    }
    turn(e, &x, &y, c, s);
    em_store(e, lanes ? em_shuffle(e, x, y, first, lanes) : x, at_x, 4);
    em_store(e, lanes ? em_shuffle(e, x, y, second, lanes) : y, at_y, 4);
}

void em_rope(em *e, const kir_inst *inst, em_value row, em_value row_index) {
    int64_t width = e->kernel->cols / inst->heads, half = inst->dims / 2,
            whole = half / KIR_LANES * KIR_LANES;
    rope_state r = {.e = e, .inst = inst};
    r.angles = em_mul(e, row_index, em_long(e, e->kernel->buffers.p[inst->buffer].stride));
    em_loop head = em_loop_begin(e, em_long(e, 0), em_long(e, inst->heads * width), width);
    r.row = em_at(e, e->f32, row, head.index);
    if (whole) {
        em_loop d = em_loop_begin(e, em_long(e, 0), em_long(e, whole), KIR_LANES);
        turn_pairs(&r, d.index, KIR_LANES);
        em_loop_end(e, &d);
    }
    if (whole < half) {
        em_loop d = em_loop_begin(e, em_long(e, whole), em_long(e, half), 1);
        turn_pairs(&r, d.index, 0);
        em_loop_end(e, &d);
    }
    em_loop_end(e, &head);
}
