/* Hadamard transforms of rows in registers: y = x H / sqrt(n), factor by factor of the Kronecker product H.
 *
 * Powers of two are butterflies: over neighbours in a thread, over lanes of a warp, over registers a stride apart. A dense factor adds and subtracts its inputs
 * four at a time: the eight sums +-x0 +-x1 +-x2 +-x3 (up to sign) are made once and picked by every output. Factors above 64 read
 * their inputs from shared memory, some outputs a thread. */
#include <math.h>
#include <string.h>
#include "base/hadamard.h"
#include "codegen/cuda/rows.h"

/* H[input][output], or its transpose. */
static const int8_t *matrix_of(cu_source *s, int order, bool transpose) {
    size_t n = (size_t)order;
    int8_t *h = syl_arena_alloc(s->arena, n * n), *out = syl_arena_alloc(s->arena, n * n);
    if (!syl_hadamard_matrix(order, h)) return NULL;
    for (size_t a = 0; a < n; a++)
        for (size_t b = 0; b < n; b++) out[a * n + b] = h[transpose ? b * n + a : a * n + b];
    return out;
}

static syl_status print_dense(rows_state *r, int order, bool transpose) {
    cu_source *s = r->s;
    const int8_t *h = matrix_of(s, order, transpose);
    if (!h)
        return syl_error(s->diag, SYL_ERR_internal, SYL_NOWHERE,
                         "kernel '%s': no Hadamard matrix of order %d", s->kernel->name, order);
    const char *t = transpose ? "t" : "";
    syl_text_printf(s->out,
                    "\n// Inputs A .. A + 3 of the factor, W floats apart, to its outputs.\n"
                    "template <int A, int W>\n__device__ inline void dense%d%s(const float *x, float *y) {\n"
                    "    float s[8];\n    signed_sums(x[0], x[W], x[2 * W], x[3 * W], s);\n",
                    order, t);
    for (int a = 0; a < order; a += 4) {
        syl_text_printf(s->out, "    if constexpr (A == %d) {\n", a);
        for (int b = 0; b < order; b++) {
            bool minus;
            int sum = rows_signed_sum(h, order, a, b, &minus);
            if (a == 0)
                syl_text_printf(s->out, "%sy[%d * W] = %ss[%d];", b % 8 ? " " : "        ", b,
                                minus ? "-" : "", sum);
            else
                syl_text_printf(s->out, "%sy[%d * W] %s= s[%d];", b % 8 ? " " : "        ", b,
                                minus ? "-" : "+", sum);
            if (b % 8 == 7 || b == order - 1) syl_text_printf(s->out, "\n");
        }
        syl_text_printf(s->out, "    }\n");
    }
    syl_text_printf(s->out, "}\n");
    return SYL_OK;
}

/* Bit r of word [part][input][r / 32]: output part * outputs + r takes the input's negative. */
static syl_status print_large(rows_state *r, int order, int outputs, bool transpose) {
    cu_source *s = r->s;
    const int8_t *h = matrix_of(s, order, transpose);
    if (!h)
        return syl_error(s->diag, SYL_ERR_internal, SYL_NOWHERE,
                         "kernel '%s': no Hadamard matrix of order %d", s->kernel->name, order);
    syl_text_printf(s->out, "\n__device__ const uint32_t large%d%s[%d][%d][2] = {", order,
                    transpose ? "t" : "", order / outputs, order);
    for (int part = 0; part < order / outputs; part++) {
        syl_text_printf(s->out, "\n    {");
        for (int a = 0; a < order; a++) {
            uint32_t words[2] = {0, 0};
            for (int b = 0; b < outputs; b++)
                if (h[a * order + part * outputs + b] < 0) words[b / 32] |= UINT32_C(1) << b % 32;
            syl_text_printf(s->out, "{0x%x, 0x%x}, ", words[0], words[1]);
        }
        syl_text_printf(s->out, "},");
    }
    syl_text_printf(s->out, "\n};\n");
    return SYL_OK;
}

syl_status rows_print_signs(rows_state *r) {
    const kir_kernel *k = r->s->kernel;
    bool done[2][2][SYL_HADAMARD_MAX_ORDER + 1] = {0};
    for (size_t i = 0; i < k->body.n; i++) {
        const kir_inst *inst = &k->body.p[i];
        if (inst->op != KIR_hadamard) continue;
        rows_pass passes[ROWS_PASSES];
        int n = rows_plan_hadamard(k, inst, r->shape.threads, r->shape.vector, passes);
        for (int p = 0; p < n; p++) {
            bool large = passes[p].kind == PASS_LARGE, *seen = &done[large][inst->transpose][passes[p].order];
            if (*seen || (!large && passes[p].kind != PASS_DENSE)) continue;
            *seen = true;
            if (large)
                SYL_TRY(print_large(r, passes[p].order, passes[p].layout.r, inst->transpose));
            else
                SYL_TRY(print_dense(r, passes[p].order, inst->transpose));
        }
    }
    return SYL_OK;
}

/* A dense factor reads its inputs as it adds them, four runs at a time. */
static void print_dense_pass(rows_state *r, const rows_pass *p, int layout, const char *x, bool transpose,
                             rows_padding padding) {
    cu_source *s = r->s;
    const rows_layout *l = &p->layout;
    const char *live = rows_live(r, layout);
    bool always = !strcmp(live, "true");
    syl_text_printf(s->out, "    UNROLL\n    for (int n = 0; n < %d; n++) {\n        float z[%d];\n", l->n,
                    4 * l->w);
    for (int a = 0; a < p->order; a += 4) {
        syl_text_printf(
            s->out,
            "        UNROLL for (int q = 0; q < 4; q++) {\n            const int k = %d + q, e = q * "
            "%d;\n            ",
            a, l->w);
        if (!always) syl_text_printf(s->out, "if (%s) ", live);
        syl_text_printf(s->out, "%s\n", rows_read_run(r, layout, "z[e]", padding));
        if (!always)
            syl_text_printf(s->out,
                            "            else { UNROLL for (int m = 0; m < %d; m++) z[e + m] = 0; }\n", l->w);
        syl_text_printf(
            s->out,
            "        }\n        UNROLL for (int m = 0; m < %d; m++) dense%d%s<%d, %d>(&z[m], &%s[n * %d + "
            "m]);\n",
            l->w, p->order, transpose ? "t" : "", a, l->w, x, l->r * l->w);
    }
    syl_text_printf(s->out, "    }\n");
    r->busy = true;
}

static void print_pass(rows_state *r, const rows_pass *p, int layout, const char *x, bool transpose) {
    cu_source *s = r->s;
    const rows_layout *l = &p->layout;
    int registers = rows_registers(l);
    if (p->low > 1) syl_text_printf(s->out, "    butterflies<%d, 1, %d>(%s);\n", registers, p->low, x);
    if (p->lanes > 1)
        syl_text_printf(s->out, "    lane_butterflies<%d, %d>(%s, t);\n", registers, p->lanes, x);
    if (p->high > 1)
        syl_text_printf(s->out, "    butterflies<%d, %d, %d>(%s);\n", registers, l->w, p->high, x);
    if (p->kind == PASS_LARGE) {
        long long span = p->inner * p->order, piece = p->inner * l->r;
        syl_text_printf(s->out,
                        "    UNROLL\n    for (int n = 0; n < %d; n++)\n        if (%s) {\n"
                        "            const int first = c%d[n] / %lld * %lld, column = c%d[n] %% %lld;\n"
                        "            large_factor<%d, %d, %lld>(row + first + column %% %lld, "
                        "large%d%s[column / %lld], &%s[n * %d]);\n"
                        "        }\n",
                        l->n, rows_live(r, layout), layout, span, span, layout, span, l->r, p->order,
                        (long long)p->inner, (long long)p->inner, p->order, transpose ? "t" : "", piece, x,
                        l->r);
    }
}

syl_status rows_hadamard(rows_state *r, int inst) {
    cu_source *s = r->s;
    const kir_inst *p = &s->kernel->body.p[inst];
    rows_pass passes[ROWS_PASSES];
    int n = rows_plan_hadamard(s->kernel, p, r->shape.threads, r->shape.vector, passes), layout = 0;
    int64_t block = 1;
    if (r->n_layouts + n > ROWS_LAYOUTS)
        return syl_error(s->diag, SYL_ERR_internal, SYL_NOWHERE,
                         "kernel '%s': more transforms than %d layouts", s->kernel->name, ROWS_LAYOUTS);
    for (int i = 0; i < p->n_factors; i++) block *= p->factors[i];
    const char *x = syl_arena_printf(s->arena, "h%d", inst);
    syl_text_printf(s->out,
                    "\n    // transform of %lld columns\n    float %s[%d];\n    UNROLL for (int e = 0; e < "
                    "%d; e++) %s[e] = %s[e];\n",
                    (long long)block, x, rows_registers(&passes[0].layout), rows_registers(&passes[0].layout),
                    x, rows_array(r, p->args[0], 0));
    for (int i = 0; i < n; i++) {
        bool some = false;
        if (i && passes[i].kind == PASS_LARGE) { /* the factor's inputs stay in shared memory */
            rows_publish(r, layout, x);
            layout = rows_use_layout(r, &passes[i].layout);
            x = syl_arena_printf(s->arena, "h%d_%d", inst, i);
            syl_text_printf(s->out, "    float %s[%d] = {};\n", x, rows_registers(&passes[i].layout));
        } else if (i) {
            rows_padding padding = rows_choose_padding(&passes[i - 1].layout, &passes[i].layout,
                                                       r->shape.threads, r->shape.row_floats);
            rows_write(r, layout, x, padding);
            rows_sync(r);
            layout = rows_use_layout(r, &passes[i].layout);
            x = syl_arena_printf(s->arena, "h%d_%d", inst, i);
            syl_text_printf(s->out, "    float %s[%d];\n", x, rows_registers(&passes[i].layout));
            /* threads without columns have no part in a pass in the middle */
            const rows_layout *l = &passes[i].layout;
            some = i < n - 1 && l->n == 1 && l->groups < r->shape.threads;
            if (some) syl_text_printf(s->out, "    if (t < %lld) {\n", (long long)l->groups);
            if (passes[i].kind == PASS_DENSE)
                print_dense_pass(r, &passes[i], layout, x, p->transpose, padding);
            else
                rows_read(r, layout, x, padding);
        }
        print_pass(r, &passes[i], layout, x, p->transpose);
        if (some) syl_text_printf(s->out, "    }");
        if (some && r->turns) /* not what the row before left there: it would stay in registers */
            syl_text_printf(s->out, " else {\n        UNROLL for (int e = 0; e < %d; e++) %s[e] = 0;\n    }",
                            rows_registers(&passes[i].layout), x);
        if (some) syl_text_printf(s->out, "\n");
    }
    r->current = layout;
    int registers = rows_registers(&r->layouts[layout]);
    syl_text_printf(s->out,
                    "    float %s[%d];\n    UNROLL for (int e = 0; e < %d; e++) %s[e] = %s[e] * %s;\n\n",
                    rows_array(r, inst, layout), registers, registers, rows_array(r, inst, layout), x,
                    cu_float(s, 1.0 / sqrt((double)block)));
    return SYL_OK;
}
