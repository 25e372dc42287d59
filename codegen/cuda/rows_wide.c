/* What needs a whole row and leaves its layout as it is: reductions, norms by heads, rotary embeddings, projections. */
#include "base/size.h"
#include "codegen/cuda/rows.h"

/* Lanes that share a head or a group of a row. */
static int lanes_of(const rows_state *r) {
    return r->shape.threads < 32 ? r->shape.threads : 32;
}

/* Four partial sums over a thread's registers, then lanes by halves, then warps in order. */
void rows_reduce(rows_state *r, int inst) {
    cu_source *s = r->s;
    const kir_inst *p = &s->kernel->body.p[inst];
    const rows_layout *l = &r->layouts[r->current];
    bool sum = p->op == KIR_reduce_sum;
    const char *none = sum ? "0.0f" : "__int_as_float(0xff800000)",
               *x = rows_array(r, p->args[0], r->current);
    syl_text_printf(s->out,
                    "\n    float part%d[4] = {%s, %s, %s, %s};\n    UNROLL\n    for (int n = 0; n < %d; "
                    "n++)\n        if (%s)\n"
                    "            UNROLL for (int e = n * %d; e < (n + 1) * %d; e++)\n",
                    inst, none, none, none, none, l->n, rows_live(r, r->current), l->r * l->w, l->r * l->w);
    if (sum)
        syl_text_printf(s->out, "                part%d[e %% 4] += %s[e];\n", inst, x);
    else
        syl_text_printf(s->out, "                part%d[e %% 4] = larger(part%d[e %% 4], %s[e]);\n", inst,
                        inst, x);
    const char *place = "nullptr";
    if (r->shape.threads > 32)
        place = syl_arena_printf(s->arena, "partial + %d", r->reductions++ * (r->shape.threads / 32));
    syl_text_printf(s->out, "    const float v%d = %s_over<%s>(part%d, %s, t, part);\n", inst,
                    sum ? "sum" : "max", rows_meeting(r), inst, place);
    if (r->shape.threads > 32) r->busy = false;
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
