/* What needs a whole row and leaves its layout as it is: reductions, norms by heads, rotary embeddings, projections. */
#include "base/size.h"
#include "codegen/cuda/rows.h"

/* Lanes that share a head or a group of a row. */
static int lanes_of(const rows_state *r) {
    return r->shape.threads < 32 ? r->shape.threads : 32;
}

/* A thread's four partial results. */
static void print_partial(rows_state *r, int inst, const char *call) {
    const rows_layout *l = &r->layouts[r->current];
    cu_source *s = r->s;
    const kir_inst *p = &s->kernel->body.p[inst];
    const char *x = rows_array(r, p->args[0], r->current);
    syl_text_printf(s->out,
                    "    UNROLL\n    for (int n = 0; n < %d; n++)\n        if (%s)\n"
                    "            UNROLL for (int e = n * %d; e < (n + 1) * %d; e++)\n",
                    l->n, rows_live(r, r->current), l->r * l->w, l->r * l->w);
    if (p->op == KIR_reduce_sum)
        syl_text_printf(s->out, "                part%d[e %% 4] += %s[e];\n", inst, x);
    else
        syl_text_printf(s->out, "                part%d[e %% 4] = %s(part%d[e %% 4], %s[e]);\n", inst, call,
                        inst, x);
}

/* Four partial sums over a thread's registers, then lanes by halves, then warps in order. */
void rows_reduce(rows_state *r, int inst) {
    cu_source *s = r->s;
    const kir_inst *p = &s->kernel->body.p[inst];
    bool sum = p->op == KIR_reduce_sum;
    const char *none = sum ? "0.0f" : "__int_as_float(0xff800000)";
    bool bounds = rows_bounds_codes(r, inst);
    syl_text_printf(s->out, "\n    float part%d[4] = {%s, %s, %s, %s};\n", inst, none, none, none, none);
    print_partial(r, inst, bounds ? "larger_or_nan" : "larger");
    const char *place = "nullptr";
    if (r->shape.threads > 32)
        place = syl_arena_printf(s->arena, "partial + %d", r->reductions++ * (r->shape.threads / 32));
    syl_text_printf(s->out, "    %sfloat v%d = %s_over<%s%s>(part%d, %s, t, part);\n", bounds ? "" : "const ",
                    inst, sum ? "sum" : "max", rows_meeting(r), bounds ? ", true" : "", inst, place);
    if (r->shape.threads > 32) r->busy = false;
    if (!bounds) return;
    syl_text_printf(
        s->out,
        "    const bool finite%d = v%d < __int_as_float(0x7f800000);\n"
        "    if (!finite%d) { // once more, past what is no number\n    part%d[0] = part%d[1] = part%d[2] = "
        "part%d[3] = %s;\n",
        inst, inst, inst, inst, inst, inst, inst, none);
    print_partial(r, inst, "larger");
    rows_sync(r);
    syl_text_printf(s->out, "    v%d = max_over<%s>(part%d, %s, t, part);\n    }\n", inst, rows_meeting(r),
                    inst, place);
}

void rows_head_norm(rows_state *r, int inst) {
    cu_source *s = r->s;
    const kir_inst *p = &s->kernel->body.p[inst];
    long long cols = s->kernel->cols, width = cols / p->heads;
    const char *x = rows_array(r, p->args[0], r->current), *y = rows_array(r, inst, r->current);
    const rows_layout *l = &r->layouts[r->current];
    syl_text_printf(s->out, "\n    // norm of %d heads\n", p->heads);
    rows_publish(r, r->current, x);
    syl_text_printf(s->out, "    norm_factors<%d, %d>(row, row + %lld, %d, %lld, %s, %s, t);\n",
                    r->shape.threads, lanes_of(r), cols, p->heads, width, cu_float(s, 1.0 / (double)width),
                    cu_float(s, p->f));
    rows_sync(r);
    r->busy = true;
    syl_text_printf(s->out,
                    "    float %s[%d];\n    UNROLL\n    for (int n = 0; n < %d; n++)\n        UNROLL\n       "
                    " for (int k = 0; k < %d; k++)\n"
                    "            UNROLL for (int m = 0; m < %d; m++) {\n"
                    "                const int j = c%d[n] + k * %lld + m, e = (n * %d + k) * %d + m;\n"
                    "                %s[e] = %s ? %s[e] * row[%lld + j / %lld] : 0.0f;\n            }\n",
                    y, rows_registers(l), l->n, l->r, l->w, r->current, (long long)l->stride, l->r, l->w, y,
                    rows_live(r, r->current), x, cols, width);
}

void rows_rope(rows_state *r, int inst) {
    cu_source *s = r->s;
    const kir_inst *p = &s->kernel->body.p[inst];
    const kir_buffer *table = &s->kernel->buffers.p[p->buffer];
    const rows_layout *l = &r->layouts[r->current];
    long long width = s->kernel->cols / p->heads, half = p->dims / 2;
    const char *x = rows_array(r, p->args[0], r->current), *y = rows_array(r, inst, r->current);
    bool pairs = p->interleaved && l->w % 2 == 0 && width % 2 == 0; /* both of a pair are a thread's */
    syl_text_printf(s->out, "\n    // rotary embedding of %d heads\n", p->heads);
    if (!pairs) rows_publish(r, r->current, x);
    syl_text_printf(
        s->out,
        "    float %s[%d];\n    UNROLL\n    for (int n = 0; n < %d; n++)\n        UNROLL\n        for (int k "
        "= 0; k < %d; k++)\n"
        "            UNROLL for (int m = 0; m < %d; m += %d) {\n"
        "                const int j = c%d[n] + k * %lld + m, e = (n * %d + k) * %d + m, d = j %% %lld;\n"
        "                const %s *angle = (const %s *)args.buffers[%d] + (int64_t)i * %lld;\n"
        "                const bool turns = %s && d < %d;\n",
        y, rows_registers(l), l->n, l->r, l->w, pairs ? 2 : 1, r->current, (long long)l->stride, l->r, l->w,
        width, cu_elem_type(table->elem), cu_elem_type(table->elem), p->buffer, (long long)table->stride,
        rows_live(r, r->current), p->dims);
    if (pairs)
        syl_text_printf(s->out,
                        "                const float c = turns ? widen(angle[d / 2]) : 1.0f, q = turns ? "
                        "widen(angle[%lld + d / 2]) : 0.0f;\n"
                        "                const float a = %s[e], b = %s[e + 1];\n"
                        "                %s[e] = turns ? a * c - b * q : a;\n"
                        "                %s[e + 1] = turns ? a * q + b * c : b;\n            }\n",
                        half, x, x, y, y);
    else
        syl_text_printf(
            s->out,
            "                const bool second = %s;\n"
            "                const int pair = %s;\n"
            "                const float c = turns ? widen(angle[pair]) : 1.0f, q = turns ? widen(angle[%lld "
            "+ pair]) : 0.0f;\n"
            "                const float other = turns ? row[second ? j - %lld : j + %lld] : 0.0f;\n"
            "                %s[e] = !turns ? %s[e] : second ? other * q + %s[e] * c : %s[e] * c - other * "
            "q;\n            }\n",
            p->interleaved ? "d & 1" : syl_arena_printf(s->arena, "d >= %lld", half),
            p->interleaved ? "d / 2" : syl_arena_printf(s->arena, "second ? d - %lld : d", half), half,
            p->interleaved ? 1LL : half, p->interleaved ? 1LL : half, y, x, x, x);
}

/* The rows of a block share what is read of the matrix; each warp has some outputs, each lane some columns of them. */
void rows_project(rows_state *r, int inst) {
    cu_source *s = r->s;
    const kir_inst *p = &s->kernel->body.p[inst];
    const kir_buffer *d = &s->kernel->buffers.p[p->second], *out = &s->kernel->buffers.p[p->buffer];
    int vector = d->elem == KIR_F32 ? 4 : 8, rows = r->rows_per_block, together = rows < 4 ? rows : 4;
    while (s->kernel->cols % vector || d->stride % vector) vector /= 2;
    while (rows % together) together--;
    syl_text_printf(s->out, "\n    // projection to %lld columns\n", (long long)out->cols);
    rows_publish(r, r->current, rows_array(r, p->args[0], r->current));
    if (r->shape.threads <= 32) syl_text_printf(s->out, "    __syncthreads();\n");
    syl_text_printf(
        s->out,
        "    for (int begin = 0; begin < %d; begin += %d)\n"
        "        project_rows<%d, %d, %lld>(row + (begin - part) * %lld, %lld, (const %s *)args.buffers[%d], "
        "%lld, %lld, "
        "aligned%d, (%s *)args.buffers[%d], %lld, %s + begin, args.rows, %d);\n",
        rows, together, together, vector, (long long)s->kernel->cols, (long long)r->shape.row_floats,
        (long long)r->shape.row_floats, cu_elem_type(d->elem), p->second, (long long)d->stride,
        (long long)out->cols, p->second, cu_elem_type(out->elem), p->buffer, (long long)out->stride, r->first,
        r->block_threads / 32);
    if (r->shape.threads <= 32) syl_text_printf(s->out, "    __syncthreads();\n");
    r->busy = r->shape.threads > 32;
}
