/* How a row kernel deals a row to the threads of a GPU, and so the order in which it sums floats. CUDA code is printed by it; host code follows it, so
 * that both targets round alike (docs/numerics.md, "Reductions"). All of it depends on the kernel alone, never on the number of rows. */
#ifndef SYL_CODEGEN_ROWS_LAYOUT_H
#define SYL_CODEGEN_ROWS_LAYOUT_H

#include "codegen/kir.h"

/* A group has r x w columns, column (k, m) at base + k * stride + m; base = (g / (stride / w)) * r * stride + g % (stride / w) * w. Thread t has the groups
 * t, t + threads, ...: n of them, the last ones may not exist. Register e = (group * r + k) * w + m. */
typedef struct rows_layout {
    int r, w, n;
    int64_t stride, groups;
} rows_layout;

static inline int rows_registers(const rows_layout *l) {
    return l->n * l->r * l->w;
}

/* One step of a transform: an exchange to its layout (but for the first, which is at home), then sums in registers. */
typedef struct rows_pass {
    rows_layout layout;
    enum { PASS_NOTHING, PASS_BUTTERFLY, PASS_DENSE, PASS_LARGE } kind;
    int low;       /* butterflies over so many neighbours (w), 1: none */
    int high;      /* and over r, where that is the pass's factor; 1: none */
    int lanes;     /* and over so many neighbouring groups, by shuffles */
    int order;     /* dense and large */
    int64_t inner; /* large: the stride of the factor */
} rows_pass;

enum { ROWS_PASSES = 32, ROWS_LAYOUTS = 64 };

/* What is fixed for a kernel: rows_layout.c. */
typedef struct rows_shape {
    int threads; /* of a row: a power of two below 32, else a multiple of 32 */
    int vector;  /* neighbours a thread loads at once */
    rows_layout home;
    int reductions;     /* with a place of their own in shared memory */
    bool exchanges;     /* some instruction needs the row in shared memory */
    int64_t row_floats; /* of the row in shared memory, with padding */
    int registers;      /* of the widest layout */
} rows_shape;
rows_shape rows_shape_of(const kir_kernel *kernel);
rows_layout rows_make_layout(int64_t cols, int threads, int r, int64_t stride, int w);
int rows_plan_hadamard(const kir_kernel *kernel, const kir_inst *inst, int threads, int vector,
                       rows_pass *passes);

/* ---- the order of sums ---- */

/* A thread has so many partial sums of a reduce_sum, in turn over its elements: `chains` times `threads` of them, and the l-th over the elements l, l + chains *
 * threads, ... of the row. */
static inline int rows_chains(const rows_shape *shape) {
    return shape->vector > 4 ? shape->vector : 4;
}

/* head_norm: so many partial sums of squares, the l-th over the features l, l + ROWS_NORM_SUMS, ... of a head; then by halves. */
enum { ROWS_NORM_SUMS = 32 };

/* project: ROWS_PROJECT_LANES partial sums, the l-th by fma over the runs l, l + ROWS_PROJECT_LANES, ... of so many neighbours; then by halves. */
enum { ROWS_PROJECT_LANES = 32 };
int rows_project_run(const kir_kernel *kernel, const kir_inst *inst);

/* One step of a transform's sums over elements `stride` apart: of two, x + y and x - y (BUTTERFLY); of `order`, by the eight signed sums of four inputs each (DENSE) or
 * one input after the other from 0 (LARGE). */
typedef struct rows_stage {
    enum { STAGE_BUTTERFLY, STAGE_DENSE, STAGE_LARGE } kind;
    int order;
    int64_t stride;
} rows_stage;
enum { ROWS_STAGES = 128 };
/* The stages of a hadamard instruction in order; returns their number. */
int rows_stages_of(const kir_kernel *kernel, const kir_inst *inst, rows_stage *stages);

/* Which of the eight sums a +-b +-c +-d a column `output` of H[input][output] (`order` x `order`) takes for inputs [input, input + 4): bit 2 of the number is set where
 * b's sign is not a's, bit 1 for c, bit 0 for d. *minus: it takes the negative. */
int rows_signed_sum(const signed char *h, int order, int input, int output, bool *minus);

#endif
