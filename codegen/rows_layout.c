/* How a row is dealt to the threads of a GPU: choosing their number, and the layouts of a transform's passes. All of it depends on the kernel
 * alone. */
#include "codegen/rows_layout.h"
#include <math.h>
#include "base/size.h"

rows_layout rows_make_layout(int64_t cols, int threads, int r, int64_t stride, int w) {
    rows_layout l = {.r = r, .w = w, .stride = stride, .groups = cols / ((int64_t)r * w)};
    l.n = (int)syl_ceil_div(l.groups, threads);
    return l;
}

static bool is_power_of_two(int64_t n) {
    return n > 0 && (n & (n - 1)) == 0;
}
static int log2_of(int64_t n) {
    return n <= 1 ? 0 : 1 + log2_of(n / 2);
}

/* A small row is a step of latencies: many threads with few columns each, and few exchanges. A long one is a matter of throughput: wide loads, and exchanges rather
 * than shuffles. */
static bool is_small(int64_t cols) {
    return cols <= 2048;
}

/* Neighbours for loads of 16 bytes of the narrowest elements. */
static int vector_of(const kir_kernel *kernel) {
    int bytes = 4, vector = 8;
    for (size_t i = 0; i < kernel->body.n; i++) {
        const kir_inst *inst = &kernel->body.p[i];
        if (inst->op != KIR_load && inst->op != KIR_load_at) continue;
        int size = kir_elem_bytes(kernel->buffers.p[inst->buffer].elem);
        if (size < bytes) bytes = size;
    }
    if (vector > 16 / bytes) vector = 16 / bytes;
    while (kernel->cols % vector) vector /= 2;
    return vector;
}

/* Whole vectors, a thread's a row's length apart where they come out even: then the outermost index of a transform is in registers. */
static rows_layout home_of(int64_t cols, int threads, int vector) {
    int64_t groups = cols / vector;
    if (groups % threads == 0)
        return rows_make_layout(cols, threads, (int)(groups / threads), (int64_t)threads * vector, vector);
    return rows_make_layout(cols, threads, 1, vector, vector);
}

/* ---- transforms ---- */

enum { most_dense = 64, most_low = 16 };

/* The largest number of neighbours with which a thread has no more registers than it has at home. */
static int width_of(int64_t cols, int threads, int order, int64_t stride, int registers) {
    int best = 1;
    for (int w = 2; w <= 8; w *= 2) {
        if (stride % w || cols % ((int64_t)order * w)) break;
        rows_layout l = rows_make_layout(cols, threads, order, stride, w);
        if (rows_registers(&l) > registers && rows_registers(&l) > order) break;
        best = w;
    }
    return best;
}

typedef struct planner {
    int64_t cols;
    int threads, registers, n;
    rows_pass *passes;
} planner;

static void add_dense(planner *p, int order, int64_t stride) {
    rows_pass pass = {.kind = PASS_DENSE, .order = order, .low = 1, .high = 1, .lanes = 1, .inner = stride};
    int r = order;
    if (order > most_dense) { /* some outputs a thread, all inputs through shared memory */
        pass.kind = PASS_LARGE;
        for (r = most_dense; order % r; r--) {
        }
    }
    int w = pass.kind == PASS_DENSE ? width_of(p->cols, p->threads, r, stride, p->registers) : 1;
    pass.layout = rows_make_layout(p->cols, p->threads, r, stride, w);
    p->passes[p->n++] = pass;
}

/* Butterflies over the factor 2^bits whose elements stand `stride` apart. */
static void add_butterflies(planner *p, int bits, int64_t stride) {
    while (bits > 0) {
        int some = bits <= 6 && p->registers >= 48 ? bits : bits < 5 ? bits : 5;
        int w = width_of(p->cols, p->threads, 1 << some, stride, p->registers);
        p->passes[p->n++] = (rows_pass){.kind = PASS_BUTTERFLY,
                                        .layout = rows_make_layout(p->cols, p->threads, 1 << some, stride, w),
                                        .low = 1,
                                        .high = 1 << some,
                                        .lanes = 1};
        stride <<= some;
        bits -= some;
    }
}

int rows_plan_hadamard(const kir_kernel *kernel, const kir_inst *inst, int threads, int vector,
                       rows_pass *passes) {
    planner p = {.cols = kernel->cols, .threads = threads, .passes = passes};
    rows_layout home = home_of(kernel->cols, threads, vector);
    p.registers = rows_registers(&home);
    rows_pass *first = &passes[p.n++];
    *first = (rows_pass){.kind = PASS_NOTHING, .layout = home, .low = 1, .high = 1, .lanes = 1};
    int64_t last = inst->factors[inst->n_factors - 1];

    /* A small power of two behind dense factors comes last, in one thread: the result has neighbours together again. */
    rows_layout neighbours = rows_make_layout(p.cols, threads, 1, last, (int)last);
    bool at_end = inst->n_factors > 1 && is_power_of_two(last) && last > 1 && last <= most_low &&
                  rows_registers(&neighbours) <= 64;
    int64_t stride = 1;
    for (int i = inst->n_factors - 1; i >= 0; i--) {
        int64_t factor = inst->factors[i], step = stride;
        stride *= factor;
        if (factor == 1 || (at_end && step == 1)) continue;
        if (!is_power_of_two(factor)) {
            add_dense(&p, (int)factor, step);
            continue;
        }
        int bits = log2_of(factor);
        if (step == 1) { /* within a thread at home */
            int low = log2_of(vector) < bits ? log2_of(vector) : bits;
            first->kind = PASS_BUTTERFLY;
            first->low = 1 << low;
            bits -= low;
            step <<= low;
            int lanes = log2_of(threads < 32 ? threads : 32), high = log2_of(home.r);
            if (bits <= (is_small(p.cols) ? 5 : 4) && bits <= lanes &&
                1 << low == vector) { /* and within a warp */
                first->lanes = 1 << bits;
                bits = 0;
            } else if (factor == p.cols && is_power_of_two(home.r) && high < bits) {
                first->high = home.r;
                bits -= high;
            }
        }
        add_butterflies(&p, bits, step);
    }
    if (at_end)
        passes[p.n++] = (rows_pass){
            .kind = PASS_BUTTERFLY, .layout = neighbours, .low = (int)last, .high = 1, .lanes = 1};
    /* Scattered columns go home, for stores of whole vectors. */
    const rows_layout *end = &passes[p.n - 1].layout;
    if (p.n > 1 && end->w == 1 && end->stride < 32 && vector > 1)
        passes[p.n++] = (rows_pass){.kind = PASS_NOTHING, .layout = home, .low = 1, .high = 1, .lanes = 1};
    return p.n;
}

/* ---- threads ---- */

/* Registers that a layout takes beyond what the columns need: 1 is none. */
static double waste(const rows_layout *l, int64_t cols, int threads) {
    return (double)rows_registers(l) * threads / (double)cols;
}

static double badness(const kir_kernel *kernel, int threads, int vector, int *registers) {
    rows_layout home = home_of(kernel->cols, threads, vector);
    bool small = is_small(kernel->cols);
    double sum = waste(&home, kernel->cols, threads), ideal = small ? 8 : 16;
    *registers = rows_registers(&home);
    for (size_t i = 0; i < kernel->body.n; i++) {
        const kir_inst *inst = &kernel->body.p[i];
        if (inst->op != KIR_hadamard) continue;
        rows_pass passes[ROWS_PASSES];
        int n = rows_plan_hadamard(kernel, inst, threads, vector, passes);
        if (n > 1 && !small) ideal = 30;
        for (int k = 1; k < n; k++) {
            sum += waste(&passes[k].layout, kernel->cols, threads) / (n - 1) + 0.5;
            if (rows_registers(&passes[k].layout) > *registers)
                *registers = rows_registers(&passes[k].layout);
        }
    }
    sum += 0.2 * fabs(log2((double)kernel->cols / threads / ideal));
    if (*registers > 64) sum += 10; /* they would not stay in registers */
    if ((double)*registers * 1.6 + 32 > 65536.0 / threads) sum += 5;
    return sum;
}

static bool needs_row(kir_op op) {
    return op == KIR_hadamard || op == KIR_rope || op == KIR_head_norm || op == KIR_project ||
           op == KIR_append_codes_k || op == KIR_append_codes_v;
}

rows_shape rows_shape_of(const kir_kernel *kernel) {
    static const int choices[] = {8,   16,  32,  64,  96,  128, 160, 192, 224,
                                  256, 320, 384, 448, 512, 640, 768, 896, 1024};
    rows_shape shape = {.vector = vector_of(kernel)};
    double best = INFINITY;
    for (size_t i = 0; i < sizeof choices / sizeof choices[0]; i++) {
        int registers;
        double bad = badness(kernel, choices[i], shape.vector, &registers);
        if (bad >= best) continue;
        best = bad;
        shape.threads = choices[i];
        shape.registers = registers;
    }
    shape.home = home_of(kernel->cols, shape.threads, shape.vector);
    for (size_t i = 0; i < kernel->body.n; i++) {
        kir_op op = kernel->body.p[i].op;
        if ((op == KIR_reduce_sum || op == KIR_reduce_max) && shape.threads > 32) shape.reductions++;
        shape.exchanges = shape.exchanges || needs_row(op);
    }
    if (shape.exchanges) { /* the most that any padding takes; rows of one warp begin in different banks */
        shape.row_floats = syl_ceil_div(kernel->cols * 5 / 4 + 64, 32) * 32;
        for (size_t i = 0; i < kernel->body.n; i++) /* a factor each */
            if (kernel->body.p[i].op == KIR_head_norm)
                shape.row_floats += syl_ceil_div(kernel->body.p[i].heads, 32) * 32;
        if (shape.threads < 32) shape.row_floats += shape.threads;
    }
    return shape;
}

/* ---- the order of sums ---- */

static int add_butterfly_stages(rows_stage *stages, int n, int64_t stride, int count) {
    for (; count > 1; count /= 2, stride *= 2) stages[n++] = (rows_stage){STAGE_BUTTERFLY, 2, stride};
    return n;
}

int rows_stages_of(const kir_kernel *kernel, const kir_inst *inst, rows_stage *stages) {
    rows_shape shape = rows_shape_of(kernel);
    rows_pass passes[ROWS_PASSES];
    int n_passes = rows_plan_hadamard(kernel, inst, shape.threads, shape.vector, passes), n = 0;
    for (int i = 0; i < n_passes; i++) {
        const rows_pass *p = &passes[i];
        n = add_butterfly_stages(stages, n, 1, p->low);
        n = add_butterfly_stages(stages, n, p->layout.w, p->lanes);
        n = add_butterfly_stages(stages, n, p->layout.stride, p->high);
        if (p->kind == PASS_DENSE || p->kind == PASS_LARGE)
            stages[n++] = (rows_stage){p->kind == PASS_DENSE ? STAGE_DENSE : STAGE_LARGE, p->order, p->inner};
    }
    return n;
}

int rows_signed_sum(const signed char *h, int order, int input, int output, bool *minus) {
    int first = h[input * order + output], pattern = 0;
    for (int i = 1; i < 4; i++) pattern = 2 * pattern + (h[(input + i) * order + output] != first);
    *minus = first < 0;
    return pattern;
}

int rows_project_run(const kir_kernel *kernel, const kir_inst *inst) {
    const kir_buffer *d = &kernel->buffers.p[inst->second];
    int run = d->elem == KIR_F32 ? 4 : 8; /* loads of 16 bytes */
    while (kernel->cols % run || d->stride % run) run /= 2;
    return run;
}
