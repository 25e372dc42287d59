/* Row-wise kernels: a row's columns in the registers of its threads, one array an instruction, all indices constant.
 *
 * Instructions are printed when something needs them: stores, appends and projections in the body's order ask for their operands. After a
 * transform the row lies in another layout; what is needed there is computed again from its loads, or exchanged where it stands on a transform. */
#include "codegen/cuda/rows.h"
#include <math.h>
#include <string.h>
#include "base/size.h"

enum { unrolled_registers = 64 }; /* wider rows are kept in local memory, by loops */

/* ---- printing ---- */

const char *rows_suffix(rows_state *r, int layout) {
    return layout ? syl_arena_printf(r->s->arena, "_%d[e]", layout) : "[e]";
}

const char *rows_array(rows_state *r, int inst, int layout) {
    return layout ? syl_arena_printf(r->s->arena, "v%d_%d", inst, layout)
                  : syl_arena_printf(r->s->arena, "v%d", inst);
}

const char *rows_meeting(const rows_state *r) {
    return syl_arena_printf(r->s->arena, "%d, %s", r->shape.threads, r->own ? "true" : "false");
}

void rows_sync(rows_state *r) {
    syl_text_printf(r->s->out, "    meet<%s>(part);\n", rows_meeting(r));
    r->busy = false;
}

void rows_before_writing(rows_state *r) {
    if (r->busy) rows_sync(r);
}

const char *rows_live(rows_state *r, int layout) {
    const rows_layout *l = &r->layouts[layout];
    if (l->groups % r->shape.threads == 0) return "true";
    return syl_arena_printf(r->s->arena, "t + n * %d < %lld", r->shape.threads, (long long)l->groups);
}

int rows_use_layout(rows_state *r, const rows_layout *layout) {
    for (int i = 0; i < r->n_layouts; i++) {
        const rows_layout *l = &r->layouts[i];
        if (l->r == layout->r && l->w == layout->w && l->stride == layout->stride) return i;
    }
    int number = r->n_layouts++;
    r->layouts[number] = *layout;
    long long span = layout->stride * layout->r, columns = layout->stride / layout->w;
    syl_text_printf(r->s->out,
                    "\n    // layout %d: %d groups of %d x %d columns, %lld apart\n    int c%d[%d];\n"
                    "    #pragma unroll\n    for (int n = 0; n < %d; n++) {\n        int g = t + n * %d;\n",
                    number, layout->n, layout->r, layout->w, (long long)layout->stride, number, layout->n,
                    layout->n, r->shape.threads);
    if (columns == 1 || layout->groups <= columns) /* one column of groups, or one row of them */
        syl_text_printf(r->s->out, "        c%d[n] = g * %lld;\n    }\n", number,
                        columns == 1 ? span : layout->w);
    else
        syl_text_printf(
            r->s->out,
            "        c%d[n] = (int)((unsigned)g / %lld * %lld + (unsigned)g %% %lld * %d);\n    }\n", number,
            columns, span, columns, layout->w);
    return number;
}

/* The loops over a layout's runs of w neighbours: `body` sees column j and the first register e of each; `before` is a thread's start of a group. One branch
 * around all runs of a group. */
static void print_groups(rows_state *r, int layout, const char *guard, const char *before, const char *body,
                         const char *otherwise) {
    const rows_layout *l = &r->layouts[layout];
    const char *live = rows_live(r, layout),
               *run = syl_arena_printf(
                   r->s->arena,
                   "UNROLL\n            for (int k = 0; k < %d; k++) {\n                const int j = "
                   "c%d[n] + k * %lld, e = (n * %d + k) * %d;\n",
                   l->r, layout, (long long)l->stride, l->r, l->w);
    bool always = !strcmp(live, "true") && !guard;
    syl_text_printf(r->s->out, "    UNROLL\n    for (int n = 0; n < %d; n++) {\n", l->n);
    if (always)
        syl_text_printf(r->s->out, "        {\n");
    else
        syl_text_printf(r->s->out, "        if (%s%s%s) {\n", guard ? guard : "", guard ? " && " : "", live);
    if (before) syl_text_printf(r->s->out, "            %s\n", before);
    syl_text_printf(r->s->out, "            %s                %s\n            }\n        }\n", run, body);
    if (otherwise && !always)
        syl_text_printf(r->s->out,
                        "        else {\n            %s                %s\n            }\n        }\n", run,
                        otherwise);
    syl_text_printf(r->s->out, "    }\n");
}

static void print_runs(rows_state *r, int layout, const char *guard, const char *body,
                       const char *otherwise) {
    print_groups(r, layout, guard, NULL, body, otherwise);
}

/* ---- exchanges ---- */

/* p(base + k * stride) = p(base) + p(k * stride): no carry of base and k * stride crosses a multiple of m. */
static bool separates(const rows_layout *l, int64_t m) {
    return l->r * l->stride % m == 0 && (l->stride % m == 0 || m % l->stride == 0);
}

/* Where run k of group n lies in the row: an expression. */
static const char *place_of(rows_state *r, int layout, rows_padding p) {
    const rows_layout *l = &r->layouts[layout];
    const char *pad = syl_arena_printf(r->s->arena, "padded<%d, %d, %d>", p.a, p.shift, p.b);
    bool apart = separates(l, 32) && separates(l, (int64_t)1 << p.shift);
    if (l->r == 1) return syl_arena_printf(r->s->arena, "%s(c%d[n])", pad, layout);
    if (apart)
        return syl_arena_printf(r->s->arena, "%s(c%d[n]) + %s(k * %lld)", pad, layout, pad,
                                (long long)l->stride);
    return syl_arena_printf(r->s->arena, "%s(c%d[n] + k * %lld)", pad, layout, (long long)l->stride);
}

const char *rows_read_run(rows_state *r, int layout, const char *to, rows_padding padding) {
    const rows_layout *l = &r->layouts[layout];
    const char *at = place_of(r, layout, padding);
    if (l->w > 1 && l->stride % l->w == 0)
        return syl_arena_printf(r->s->arena, "get<%d>(row + %s, &%s);", l->w, at, to);
    return syl_arena_printf(r->s->arena, "%s = row[%s];", to, at);
}

static void exchange(rows_state *r, int layout, const char *name, rows_padding p, bool write) {
    const rows_layout *l = &r->layouts[layout];
    const char *body, *first = syl_arena_printf(r->s->arena, "%s[e]", name);
    if (!write)
        body = rows_read_run(r, layout, first, p);
    else if (l->w > 1 && l->stride % l->w == 0)
        body = syl_arena_printf(r->s->arena, "put<%d>(row + %s, &%s);", l->w, place_of(r, layout, p), first);
    else
        body = syl_arena_printf(r->s->arena, "row[%s] = %s;", place_of(r, layout, p), first);
    const char *none =
        syl_arena_printf(r->s->arena, "UNROLL for (int m = 0; m < %d; m++) %s[e + m] = 0;", l->w, name);
    print_runs(r, layout, NULL, body, write ? NULL : none);
}

void rows_write(rows_state *r, int layout, const char *name, rows_padding padding) {
    rows_before_writing(r);
    exchange(r, layout, name, padding, true);
}

void rows_read(rows_state *r, int layout, const char *name, rows_padding padding) {
    exchange(r, layout, name, padding, false);
    r->busy = true;
}

void rows_publish(rows_state *r, int layout, const char *name) {
    rows_write(r, layout, name, (rows_padding){0, 5, 0});
    rows_sync(r);
    r->busy = true;
}

/* ---- instructions ---- */

static bool is_transform(kir_op op) {
    return op == KIR_hadamard || op == KIR_rope || op == KIR_head_norm;
}

/* Computing it again would mean transforming again. */
static bool stands_on_transform(const kir_kernel *k, int inst) {
    const kir_inst *p = &k->body.p[inst];
    if (p->role != KIR_ELEM) return false;
    if (is_transform(p->op)) return true;
    for (int a = 0; a < kir_ops[p->op].args; a++)
        if (stands_on_transform(k, p->args[a])) return true;
    return false;
}

static bool *have(rows_state *r, int layout, int inst) {
    return &r->have[(size_t)layout * r->s->kernel->body.n + (size_t)inst];
}

static void declare(rows_state *r, int inst, int layout) {
    syl_text_printf(r->s->out, "    %s %s[%d];\n", cu_register_type(r->s->kernel->body.p[inst].type),
                    rows_array(r, inst, layout), rows_registers(&r->layouts[layout]));
}

/* Whether runs of w neighbours may be read or written as a whole where the buffer begins at a multiple of 16 bytes. */
static bool whole_runs(const kir_buffer *buffer, int w) {
    int bytes = w * cu_elem_bytes(buffer->elem), unit = bytes < 16 ? bytes : 16;
    return w > 1 && buffer->elem != KIR_F64 &&
           (buffer->shape == KIR_PER_COL || buffer->stride * cu_elem_bytes(buffer->elem) % unit == 0);
}

/* The loads of one instruction, by whole runs or one by one. */
static void print_load_runs(rows_state *r, int inst, int layout, bool aligned) {
    cu_source *s = r->s;
    const kir_inst *p = &s->kernel->body.p[inst];
    const kir_buffer *b = &s->kernel->buffers.p[p->buffer];
    const rows_layout *l = &r->layouts[layout];
    const char *name = rows_array(r, inst, layout);
    const char *row = p->op == KIR_load_at ? cu_name(s, p->args[0], "") : "i";
    const char *from = p->op == KIR_load_col
                           ? "j"
                           : syl_arena_printf(s->arena, "(int64_t)%s * %lld + j", row, (long long)b->stride);
    const char *body = syl_arena_printf(
        s->arena, "load_some<%d>((const %s *)args.buffers[%d] + %s, %s, &%s[e]);", l->w,
        cu_elem_type(b->elem), p->buffer, from, aligned && whole_runs(b, l->w) ? "true" : "false", name);
    const char *none =
        syl_arena_printf(s->arena, "UNROLL for (int m = 0; m < %d; m++) %s[e + m] = 0;", l->w, name);
    print_runs(r, layout, NULL, body, none);
}

/* One branch around all loads of some instructions, so that they are in flight together. */
static void print_loads(rows_state *r, const int *insts, int n, int layout) {
    cu_source *s = r->s;
    bool some = false;
    for (int i = 0; i < n; i++) declare(r, insts[i], layout);
    for (int i = 0; i < n; i++) {
        const kir_inst *p = &s->kernel->body.p[insts[i]];
        if (!whole_runs(&s->kernel->buffers.p[p->buffer], r->layouts[layout].w)) continue;
        syl_text_printf(s->out, some ? " && aligned%d" : "    if (aligned%d", p->buffer);
        some = true;
    }
    if (some) {
        syl_text_printf(s->out, ") {\n");
        for (int i = 0; i < n; i++) print_load_runs(r, insts[i], layout, true);
        syl_text_printf(s->out, "    } else {\n");
    }
    for (int i = 0; i < n; i++) print_load_runs(r, insts[i], layout, false);
    if (some) syl_text_printf(s->out, "    }\n");
}

static void print_table(rows_state *r, int inst, int of, int layout) {
    cu_source *s = r->s;
    const rows_layout *l = &r->layouts[layout];
    const char *name = rows_array(r, inst, layout);
    declare(r, inst, layout);
    int table = s->kernel->body.p[of].table;
    const char *body = syl_arena_printf(
        s->arena, "UNROLL for (int m = 0; m < %d; m++) %s[e + m] = table%d[j + m];", l->w, name, table);
    const char *none =
        syl_arena_printf(s->arena, "UNROLL for (int m = 0; m < %d; m++) %s[e + m] = 0;", l->w, name);
    print_runs(r, layout, NULL, body, none);
}

/* Values of one element after the other. What has a loop of its own is computed for all elements before the next one is, so where registers are scarce the loop
 * that was printed last goes on. */
static void print_elements(rows_state *r, int inst, int layout, const char *expression) {
    syl_text *out = r->s->out;
    int n = rows_registers(&r->layouts[layout]);
    const char *one = syl_arena_printf(r->s->arena, "%s[e] = %s;", rows_array(r, inst, layout), expression);
    bool goes_on = r->scarce && r->loop.body && r->loop.layout == layout && r->loop.end == out->n;
    if (goes_on) {
        one = syl_arena_printf(r->s->arena, "%s\n        %s", r->loop.body, one);
        out->n = r->loop.begin;
    }
    declare(r, inst, layout);
    size_t begin = out->n;
    syl_text_printf(out,
                    goes_on ? "    UNROLL\n    for (int e = 0; e < %d; e++) {\n        %s\n    }\n"
                            : "    UNROLL\n    for (int e = 0; e < %d; e++) %s\n",
                    n, one);
    r->loop = (rows_loop){one, layout, begin, out->n};
}

static syl_status print_scalar(rows_state *r, int inst, int layout) {
    cu_source *s = r->s;
    const kir_inst *p = &s->kernel->body.p[inst];
    syl_text expression = {.arena = s->arena};
    cu_place place = {"i", "j", rows_suffix(r, layout)};
    if (!cu_expression(s, inst, &place, &expression))
        return syl_error(s->diag, SYL_ERR_internal, SYL_NOWHERE, "kernel '%s': no CUDA code for '%s'",
                         s->kernel->name, kir_ops[p->op].name);
    if (p->role == KIR_UNIFORM || p->role == KIR_ROW) {
        syl_text_printf(s->out, "    const %s v%d = %s;\n", cu_register_type(p->type), inst, expression.p);
        return SYL_OK;
    }
    print_elements(r, inst, layout, expression.p);
    return SYL_OK;
}

/* Elements whose places are no neighbours, one by one. */
static void print_gather(rows_state *r, int inst, int layout) {
    cu_source *s = r->s;
    const char *name = rows_array(r, inst, layout);
    syl_text expression = {.arena = s->arena};
    cu_place place = {"i", "j + m", rows_suffix(r, layout)};
    cu_expression(s, inst, &place, &expression);
    declare(r, inst, layout);
    print_runs(r, layout, "alive",
               syl_arena_printf(s->arena, "UNROLL for (int m = 0; m < %d; m++) %s[e + m] = %s;",
                                r->layouts[layout].w, name, expression.p),
               syl_arena_printf(s->arena, "UNROLL for (int m = 0; m < %d; m++) %s[e + m] = 0;",
                                r->layouts[layout].w, name));
}

static void print_move(rows_state *r, int inst, int from, int to) {
    rows_padding padding =
        rows_choose_padding(&r->layouts[from], &r->layouts[to], r->shape.threads, r->shape.row_floats);
    rows_write(r, from, rows_array(r, inst, from), padding);
    rows_sync(r);
    declare(r, inst, to);
    rows_read(r, to, rows_array(r, inst, to), padding);
}

static int layout_with(rows_state *r, int inst) {
    for (int l = 0; l < r->n_layouts; l++)
        if (*have(r, l, inst)) return l;
    return -1;
}

static bool is_scalar(const kir_inst *p) {
    return p->role == KIR_UNIFORM || p->role == KIR_ROW;
}

static syl_status need_transform(rows_state *r, int inst);

/* Prints the transforms that a value stands on; where the last one's result lies is current then. */
static syl_status settle(rows_state *r, int inst) {
    const kir_inst *p = &r->s->kernel->body.p[inst];
    if (p->role != KIR_ELEM) return SYL_OK;
    if (is_transform(p->op)) {
        if (layout_with(r, inst) < 0) return need_transform(r, inst);
        r->current = layout_with(r, inst);
        return SYL_OK;
    }
    for (int a = 0; a < kir_ops[p->op].args; a++) SYL_TRY(settle(r, p->args[a]));
    return SYL_OK;
}

syl_status rows_need_row(rows_state *r, int inst) {
    const kir_inst *p = &r->s->kernel->body.p[inst];
    if (*have(r, 0, inst)) return SYL_OK;
    if (p->op == KIR_reduce_sum || p->op == KIR_reduce_max) {
        SYL_TRY(settle(r, p->args[0]));
        int layout = p->op == KIR_reduce_sum ? 0 : r->current; /* sums have the order of the row at home */
        SYL_TRY(rows_need(r, p->args[0], layout));
        rows_reduce(r, inst, layout);
    } else {
        for (int a = 0; a < kir_ops[p->op].args; a++) SYL_TRY(rows_need_row(r, p->args[a]));
        SYL_TRY(print_scalar(r, inst, 0));
    }
    *have(r, 0, inst) = true;
    return SYL_OK;
}

/* In the current layout, which stays current whatever is printed on the way. */
static syl_status need_here(rows_state *r, int inst) {
    int layout = r->current;
    SYL_TRY(rows_need(r, inst, layout));
    r->current = layout;
    return SYL_OK;
}

static syl_status need_transform(rows_state *r, int inst) {
    const kir_inst *p = &r->s->kernel->body.p[inst];
    SYL_TRY(settle(r, p->args[0]));
    if (p->op == KIR_hadamard) r->current = 0; /* transforms begin at home */
    SYL_TRY(need_here(r, p->args[0]));
    if (p->op == KIR_hadamard) SYL_TRY(rows_hadamard(r, inst));
    if (p->op == KIR_rope) rows_rope(r, inst);
    if (p->op == KIR_head_norm) rows_head_norm(r, inst);
    *have(r, r->current, inst) = true;
    return SYL_OK;
}

syl_status rows_need(rows_state *r, int inst, int layout) {
    const kir_kernel *k = r->s->kernel;
    const kir_inst *p = &k->body.p[inst];
    if (is_scalar(p)) return rows_need_row(r, inst);
    if (*have(r, layout, inst)) return SYL_OK;
    if (is_transform(p->op) && layout_with(r, inst) < 0) {
        SYL_TRY(need_transform(r, inst));
        if (*have(r, layout, inst)) return SYL_OK;
    }
    int there = layout_with(r, inst);
    if (there >= 0 && stands_on_transform(k, inst)) {
        if (p->type == KIR_F64)
            return syl_error(r->s->diag, SYL_ERR_internal, SYL_NOWHERE, "kernel '%s': a transform of f64",
                             k->name);
        print_move(r, inst, there, layout);
    } else if (p->op == KIR_load || p->op == KIR_load_at || p->op == KIR_load_col) {
        if (p->op == KIR_load_at) SYL_TRY(rows_need_row(r, p->args[0]));
        print_loads(r, &inst, 1, layout);
    } else if (p->op == KIR_load_patch || p->op == KIR_load_picture) {
        print_gather(r, inst, layout);
    } else if (p->op == KIR_table || (p->op == KIR_to_f32 && k->body.p[p->args[0]].op == KIR_table)) {
        print_table(r, inst, p->op == KIR_table ? inst : p->args[0], layout);
    } else {
        for (int a = 0; a < kir_ops[p->op].args; a++) SYL_TRY(rows_need(r, p->args[a], layout));
        SYL_TRY(print_scalar(r, inst, layout));
    }
    *have(r, layout, inst) = true;
    return SYL_OK;
}

/* ---- effects ---- */

static void print_store(rows_state *r, int inst, int layout) {
    cu_source *s = r->s;
    const kir_inst *p = &s->kernel->body.p[inst];
    const kir_buffer *b = &s->kernel->buffers.p[p->buffer];
    int w = r->layouts[layout].w, size = cu_elem_bytes(b->elem);
    const char *type = cu_elem_type(b->elem), *name = rows_array(r, p->args[0], layout);
    if (b->shape != KIR_TILED) {
        print_runs(r, layout, "alive",
                   syl_arena_printf(
                       s->arena,
                       "store_some<%d>((%s *)args.buffers[%d] + (int64_t)i * %lld + j, %s, &%s[e]);", w, type,
                       p->buffer, (long long)b->stride,
                       whole_runs(b, w) ? syl_arena_printf(s->arena, "aligned%d", p->buffer) : "false", name),
                   NULL);
        return;
    }
    const rows_layout *l = &r->layouts[layout];
    int unit = w * size > 16 ? 16 / size : w;                /* neighbours that the swizzle keeps together */
    if (unit == w && l->stride * size % KIR_ATOM_BYTES == 0) /* runs of a group are whole atoms apart */
        print_groups(
            r, layout, "alive",
            syl_arena_printf(s->arena,
                             "char *to = (char *)args.buffers[%d] + tiled(i, c%d[n] * %d, args.rows);\n"
                             "            const int64_t step = atoms_apart(%lld, args.rows);",
                             p->buffer, layout, size, (long long)(l->stride * size / KIR_ATOM_BYTES)),
            syl_arena_printf(s->arena, "store_some<%d>((%s *)to, true, &%s[e]), to += step;", w, type, name),
            NULL);
    else
        print_runs(
            r, layout, "alive",
            syl_arena_printf(
                s->arena,
                "UNROLL for (int m = 0; m < %d; m += %d) store_some<%d>((%s *)((char *)args.buffers[%d] + "
                "tiled(i, (j + m) * %d, args.rows)), true, &%s[e + m]);",
                w, unit, unit, type, p->buffer, size, name),
            NULL);
    int64_t bytes = b->cols * size, padded = syl_ceil_div(bytes, KIR_ATOM_BYTES) * KIR_ATOM_BYTES;
    if (padded > bytes)
        syl_text_printf(
            s->out,
            "    if (alive) // zeros up to whole atoms\n        for (int b = %lld + t; b < %lld; b += %d)\n"
            "            *((char *)args.buffers[%d] + tiled(i, b, args.rows)) = 0;\n",
            (long long)bytes, (long long)padded, r->shape.threads, p->buffer);
}

static syl_status print_effect(rows_state *r, int inst) {
    cu_source *s = r->s;
    const kir_inst *p = &s->kernel->body.p[inst];
    if (p->op == KIR_store_row) {
        SYL_TRY(rows_need_row(r, p->args[0]));
        syl_text expression = {.arena = s->arena};
        cu_place place = {"i", "0", ""};
        cu_expression(s, inst, &place, &expression);
        syl_text_printf(s->out, "    if (alive && t == 0) %s;\n", expression.p);
        return SYL_OK;
    }
    const kir_inst *value = &s->kernel->body.p[p->args[0]];
    if (is_scalar(value))
        return syl_error(s->diag, SYL_ERR_internal, SYL_NOWHERE,
                         "kernel '%s': a row's value stored as elements", s->kernel->name);
    SYL_TRY(settle(r, p->args[0]));
    SYL_TRY(need_here(r, p->args[0]));
    switch (p->op) {
    case KIR_store:
        print_store(r, inst, r->current);
        return SYL_OK;
    case KIR_project:
        rows_project(r, inst);
        return SYL_OK;
    default:
        if (p->op == KIR_append_k || p->op == KIR_append_v)
            rows_append(r, inst);
        else
            rows_append_codes(r, inst);
        return SYL_OK;
    }
}

/* ---- the kernel ---- */

/* Shared memory of a block, in floats: rows, then partial results of each reduction. */
static int64_t shared_floats(const rows_shape *shape, int rows) {
    return rows * (shape->row_floats + (int64_t)shape->reductions * (shape->threads / 32));
}

static int rows_of_block(const rows_shape *shape, const syl_cuda_variant *variant) {
    int rows = cu_param(variant, "threads") / shape->threads,
        least = shape->threads < 32 ? 32 / shape->threads : 1;
    return rows / least * least;
}

static bool projects(const kir_kernel *kernel) {
    for (size_t i = 0; i < kernel->body.n; i++)
        if (kernel->body.p[i].op == KIR_project) return true;
    return false;
}

/* About as many as a thread will have: the row, something to work with, the sums of a projection. */
static int registers_of(const kir_kernel *kernel, const rows_shape *shape) {
    int registers = shape->registers * 2 + 40;
    return projects(kernel) && registers < 160 ? 160 : registers;
}

bool cu_fits_rows(const kir_kernel *kernel, const syl_cuda_target *target, const syl_cuda_variant *variant) {
    if (kernel->kind != KIR_ROWS) return false;
    rows_shape shape = rows_shape_of(kernel);
    int threads = cu_param(variant, "threads"), rows = rows_of_block(&shape, variant);
    bool shared = shared_floats(&shape, rows) * 4 <= target->shared;
    /* a row that no shared memory holds is exchanged through the workspace, one row a block */
    int64_t one = shape.threads < 32 ? 32 / shape.threads : 1;
    if (rows > one && rows * shape.threads * registers_of(kernel, &shape) > 65536) return false;
    if (rows >= 1 && shared) return true;
    bool least = rows == one || (rows < 1 && threads == 1024);
    return least && shared_floats(&shape, (int)one) * 4 > target->shared;
}

double cu_cost_rows(const kir_kernel *kernel, const syl_cuda_target *target, const syl_cuda_variant *variant,
                    int64_t rows) {
    rows_shape shape = rows_shape_of(kernel);
    int together = rows_of_block(&shape, variant), threads = together * shape.threads;
    if (together < 1) together = 1, threads = shape.threads;
    int64_t bytes = 0;
    for (size_t i = 0; i < kernel->buffers.n; i++)
        bytes += kernel->buffers.p[i].cols * cu_elem_bytes(kernel->buffers.p[i].elem);
    /* blocks in flight on a multiprocessor; below 768 threads it does not reach the memory's bandwidth */
    double blocks = (double)syl_ceil_div(rows, together), row = (double)bytes / 20e9;
    double resident = 65536.0 / (threads * (shape.registers * 1.5 + 20));
    if (resident > 16) resident = 16;
    if (resident > 2048.0 / threads) resident = 2048.0 / threads;
    resident = resident < 1 ? 1 : floor(resident);
    double waves = ceil(blocks / (target->sms * resident)), slow = 768 / (resident * threads);
    if (slow < 1) slow = 1;
    if (together > 1 && shape.threads >= 128) slow *= 1.15; /* its rows wait for one another at barriers */
    /* a projection's outputs are dealt to the warps of a block, four each, so a block of few warps goes through the matrix for long */
    int64_t columns = 0;
    for (size_t i = 0; i < kernel->body.n; i++)
        if (kernel->body.p[i].op == KIR_project) columns += kernel->buffers.p[kernel->body.p[i].buffer].cols;
    double turns = (double)syl_ceil_div(columns, (int64_t)4 * (threads / 32 > 0 ? threads / 32 : 1));
    /* starting a block costs the machine some tenths of a ns */
    return 2e-6 + turns * waves * (double)syl_ceil_div(kernel->cols, 512) * 7e-7 +
           (waves - 1) * row * together * resident * slow + row * together + 1.5e-10 * blocks;
}

/* The rows' places in shared memory or, where none holds them, in the workspace; what is aligned. */
static void print_places(rows_state *r, bool in_shared) {
    cu_source *s = r->s;
    int t = r->shape.threads;
    const char *shared = r->shared
                             ? syl_arena_printf(s->arena, "(shared_memory + %lld)", (long long)r->shared)
                             : "shared_memory";
    syl_text_printf(s->out, "    const bool alive = number < args.rows;\n"
                            "    const int i = alive ? number : args.rows - 1; // the others compute the "
                            "last row, and store nothing\n");
    if (!in_shared)
        syl_text_printf(
            s->out, "    float *row = (float *)args.workspace + ((int64_t)blockIdx.x * %d + part) * %lld;\n",
            r->rows_per_block, (long long)r->shape.row_floats);
    else if (r->shape.exchanges)
        syl_text_printf(s->out, "    float *row = (float *)%s + part * %lld;\n", shared,
                        (long long)r->shape.row_floats);
    if (r->shape.reductions)
        syl_text_printf(s->out, "    float *partial = (float *)%s + %lld + part * %d;\n", shared,
                        in_shared ? (long long)(r->parts * r->shape.row_floats) : 0LL,
                        r->shape.reductions * (t / 32));
    for (size_t b = 0; b < s->kernel->buffers.n; b++) {
        const kir_buffer *buffer = &s->kernel->buffers.p[b];
        if (buffer->shape == KIR_MATRIX || buffer->shape == KIR_PER_COL)
            syl_text_printf(s->out, "    const bool aligned%zu = is_aligned(args.buffers[%zu], 16);\n", b, b);
    }
}

/* Where appends go is found before the kernel in front has ended: positions, sequences and page tables are arguments of the run. Those are reads that wait for
 * each other. */
static syl_status print_wait(rows_state *r) {
    const kir_kernel *k = r->s->kernel;
    for (int i = 0; i < (int)k->body.n; i++) {
        kir_op op = k->body.p[i].op;
        if (op != KIR_append_k && op != KIR_append_v && op != KIR_append_codes_k && op != KIR_append_codes_v)
            continue;
        SYL_TRY(rows_need_row(r, k->body.p[i].args[1]));
        SYL_TRY(rows_need_row(r, k->body.p[i].args[2]));
        rows_place_append(r, i);
    }
    syl_text_printf(r->s->out, "    let_next_begin();\n    wait_for_previous();\n");
    return SYL_OK;
}

/* Loads of a thread in front of the first transform. */
static int loads_of(const kir_kernel *k) {
    int n = 0;
    for (size_t i = 0; i < k->body.n; i++) {
        if (k->body.p[i].op == KIR_hadamard) return n;
        n += k->body.p[i].op == KIR_load || k->body.p[i].op == KIR_load_at;
    }
    return n;
}

/* Blocks that a multiprocessor is to have at a time, for the compiler to divide registers by. A transform of a long row has its columns in registers and little
 * else; the more rows there are, the better their phases cover each other. */
static int blocks_of(const rows_state *r) {
    int threads = r->shape.threads * r->rows_per_block;
    if (projects(r->s->kernel)) return 1;
    if (65536 / threads / 2 >= r->shape.registers * 8 / 5 + 40) return 2;
    int64_t shared = shared_floats(&r->shape, r->rows_per_block) * 4 + 1024;
    int loads = loads_of(r->s->kernel);
    if (!r->shape.exchanges || loads == 0 || r->rows_per_block > 1) return 1;
    /* code for sm_100 and later takes some more registers */
    int registers = r->shape.registers + 40 * loads - (r->s->target->arch >= 100 ? 16 : 24);
    for (int n = loads > 1 ? 2 : 3; n > 1; n--)
        if (65536 / threads / n / 8 * 8 >= registers && n * shared <= r->s->target->shared + 1024) return n;
    return 1;
}

static syl_status print_entry(rows_state *r, bool in_shared) {
    cu_source *s = r->s;
    int t = r->shape.threads, rows = r->rows_per_block, threads = t * rows;
    syl_text_printf(
        s->out,
        "\nextern \"C\" __global__ void __launch_bounds__(%d, %d) %s(const __grid_constant__ Args args) {\n",
        threads, blocks_of(r), s->launch->entry);
    if (rows == 1)
        syl_text_printf(s->out, "    const int t = threadIdx.x, part = 0, number = blockIdx.x;\n");
    else
        syl_text_printf(s->out,
                        "    const int t = threadIdx.x %% %d, part = threadIdx.x / %d, number = blockIdx.x * "
                        "%d + part;\n",
                        t, t, rows);
    print_places(r, in_shared);
    return print_wait(r);
}

static bool has_effect(kir_op op) {
    return kir_ops[op].role == KIR_NONE;
}

enum { most_first_loads = 8 };

static void collect_loads(const kir_kernel *k, int inst, int *loads, int *n) {
    const kir_inst *p = &k->body.p[inst];
    bool load = p->op == KIR_load || p->op == KIR_load_at;
    for (int i = 0; load && i < *n; i++)
        if (loads[i] == inst) return;
    if (load && *n < most_first_loads) loads[(*n)++] = inst;
    for (int a = 0; !load && a < kir_ops[p->op].args; a++)
        if (k->body.p[p->args[a]].role == KIR_ELEM) collect_loads(k, p->args[a], loads, n);
}

/* What the first row-wide instruction or effect needs of memory is loaded at once, where registers allow. */
static syl_status print_first_loads(rows_state *r) {
    const kir_kernel *k = r->s->kernel;
    int loads[most_first_loads], n = 0, first = 0;
    while (first < (int)k->body.n && !has_effect(k->body.p[first].op) && !is_transform(k->body.p[first].op) &&
           k->body.p[first].op != KIR_reduce_sum && k->body.p[first].op != KIR_reduce_max)
        first++;
    if (first == (int)k->body.n || kir_ops[k->body.p[first].op].args == 0) return SYL_OK;
    collect_loads(k, k->body.p[first].args[0], loads, &n);
    int most = unrolled_registers / rows_registers(&r->shape.home);
    if (n > most) n = most;
    if (n == 0) return SYL_OK;
    for (int i = 0; i < n; i++)
        if (k->body.p[loads[i]].op == KIR_load_at) SYL_TRY(rows_need_row(r, k->body.p[loads[i]].args[0]));
    print_loads(r, loads, n, 0);
    for (int i = 0; i < n; i++) *have(r, 0, loads[i]) = true;
    return SYL_OK;
}

/* Everything behind the places: loads that come first, then whatever effects need. */
static syl_status print_rows(rows_state *r) {
    const kir_kernel *k = r->s->kernel;
    rows_use_layout(r, &r->shape.home);
    SYL_TRY(print_first_loads(r));
    for (int i = 0; i < (int)k->body.n; i++)
        if (has_effect(k->body.p[i].op)) SYL_TRY(print_effect(r, i));
    return SYL_OK;
}

enum { most_barriers = 15 }; /* besides that of the whole block */

/* A long row of several loads: two of them and a value in between are more than a thread has registers for. */
static bool is_scarce(const rows_state *r) {
    return r->s->kernel->cols > 2048 && loads_of(r->s->kernel) > 1 && r->shape.exchanges;
}

/* Args, tables and functions that the rows' code stands on. */
static syl_status print_before(rows_state *r) {
    cu_source *s = r->s;
    /* a projection is work of the whole block */
    r->own = r->block_threads > r->shape.threads && r->parts <= most_barriers && !projects(s->kernel);
    r->scarce = is_scarce(r);
    r->have = SYL_NEW_ARRAY(s->arena, bool, s->kernel->body.n *ROWS_LAYOUTS);
    cu_template(s, "rows.cuh");
    cu_print_args(s);
    SYL_TRY(rows_print_signs(r));
    syl_text_printf(s->out, "\n#define UNROLL %s\n",
                    r->shape.registers <= unrolled_registers ? "_Pragma(\"unroll\")"
                                                             : "_Pragma(\"unroll 1\")");
    return SYL_OK;
}

syl_status cu_emit_rows(cu_source *s) {
    rows_state r = {.s = s, .shape = rows_shape_of(s->kernel), .first = "(int)blockIdx.x"};
    r.rows_per_block = rows_of_block(&r.shape, s->variant);
    if (r.rows_per_block < 1) r.rows_per_block = 1;
    r.parts = r.rows_per_block;
    r.block_threads = r.shape.threads * r.rows_per_block;
    if (r.rows_per_block > 1) r.first = syl_arena_printf(s->arena, "(int)blockIdx.x * %d", r.rows_per_block);
    bool in_shared = shared_floats(&r.shape, r.rows_per_block) * 4 <= s->target->shared;
    SYL_TRY(print_before(&r));
    SYL_TRY(print_entry(&r, in_shared));
    SYL_TRY(print_rows(&r));
    syl_text_printf(s->out, "}\n");

    s->launch->threads = r.block_threads;
    s->launch->rows_per_block = r.rows_per_block;
    if (in_shared)
        s->launch->shared = shared_floats(&r.shape, r.rows_per_block) * 4;
    else {
        s->launch->shared = (int64_t)r.shape.reductions * (r.shape.threads / 32) * 4 * r.rows_per_block;
        s->launch->workspace_block = r.rows_per_block * r.shape.row_floats * 4;
    }
    return SYL_OK;
}

/* ---- in a launch with other kernels ---- */

cu_rows_part cu_rows_part_of(const kir_kernel *kernel, int threads, int64_t rows) {
    rows_shape shape = rows_shape_of(kernel);
    cu_rows_part part = {.threads = threads};
    int least = shape.threads < 32 ? 32 / shape.threads : 1; /* a warp has no rest */
    if (part.threads < shape.threads * least) part.threads = shape.threads * least;
    int parts = part.threads / shape.threads / least * least, wanted = (int)syl_ceil_div(rows, least) * least;
    part.rows = parts < wanted ? parts : wanted;
    /* threads without a row of their own compute one too, for the barriers */
    part.shared =
        syl_ceil_div(shared_floats(&shape, (int)syl_ceil_div(part.threads, shape.threads)) * 4, 128) * 128;
    int64_t turns = syl_ceil_div(rows, part.rows);
    double matrix = 0;
    bool transforms = false;
    int steps = 2;
    for (size_t i = 0; i < kernel->body.n; i++) {
        const kir_inst *inst = &kernel->body.p[i];
        rows_pass passes[ROWS_PASSES];
        transforms = transforms || inst->op == KIR_hadamard;
        if (inst->op == KIR_hadamard)
            steps += 2 * rows_plan_hadamard(kernel, inst, shape.threads, shape.vector, passes);
        else if (inst->op == KIR_project)
            matrix += (double)syl_ceil_div(kernel->buffers.p[inst->buffer].cols, part.threads / 8) *
                      (double)syl_ceil_div(kernel->cols, 512) * 7e-7; /* as cu_cost_rows */
        else if (inst->op == KIR_reduce_sum || inst->op == KIR_reduce_max || inst->op == KIR_head_norm)
            steps += 2;
    }
    /* a read of memory, exchanges and barriers behind each other, the row itself; a projection's matrix */
    double turn = 0.5e-6 + steps * 0.04e-6 + shape.registers * 8e-9 + matrix;
    part.seconds = turn + (double)(turns - 1) * (turn - 0.2e-6);
    part.registers =
        projects(kernel) ? registers_of(kernel, &shape) : shape.registers + (transforms ? 60 : 40);
    part.fits = part.threads <= 512 && shape.registers <= unrolled_registers &&
                part.threads * registers_of(kernel, &shape) <= 65536;
    return part;
}

syl_status cu_print_rows_part(cu_source *s, const cu_rows_part *part, int64_t shared, bool waits) {
    rows_state r = {.s = s,
                    .shape = rows_shape_of(s->kernel),
                    .rows_per_block = part->rows,
                    .block_threads = part->threads,
                    .shared = shared,
                    .first = "first",
                    .turns = true};
    int t = r.shape.threads;
    r.parts = (int)syl_ceil_div(part->threads, t);
    SYL_TRY(print_before(&r));
    syl_text_printf(
        s->out,
        "\n// Rows [first, end), %d at a time.\n"
        "__device__ __forceinline__ void compute_rows(const Args &args, int first, const int end) {\n"
        "    const int t = threadIdx.x %% %d, part = threadIdx.x / %d;\n"
        "    for (;;) {\n",
        part->rows, t, t);
    if (r.own && r.parts > part->rows) /* the others have nothing to do */
        syl_text_printf(s->out, "    if (part < %d) {\n    const int number = first + part;\n", part->rows);
    else
        syl_text_printf(s->out, "    {\n    const int number = %s;\n",
                        r.parts > part->rows
                            ? syl_arena_printf(s->arena, "part < %d ? first + part : args.rows", part->rows)
                            : "first + part");
    print_places(&r, true);
    if (waits) SYL_TRY(print_wait(&r));
    SYL_TRY(print_rows(&r));
    syl_text_printf(
        s->out,
        "    }\n    first += %d;\n    if (first >= end) break;\n    __syncthreads(); // shared memory is "
        "used again\n    }\n}\n#undef UNROLL\n",
        part->rows);
    return SYL_OK;
}
