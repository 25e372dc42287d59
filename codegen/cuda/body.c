/* Scalar instructions as CUDA C++: the same in row-wise kernels and in the epilogues of GEMMs. */
#include <math.h>
#include "codegen/cuda/emit.h"

/* ---- types ---- */

const char *cu_elem_type(kir_type elem) {
    static const char *const names[] = {[KIR_F32] = "float", [KIR_F64] = "double", [KIR_BF16] = "bf16",
                                        [KIR_F16] = "f16",   [KIR_I8] = "int8_t",  [KIR_I32] = "int"};
    return names[elem];
}

const char *cu_register_type(kir_type type) {
    return type == KIR_F64 ? "double" : type == KIR_I8 || type == KIR_I32 ? "int" : "float";
}

int cu_elem_bytes(kir_type elem) {
    static const int bytes[] = {
        [KIR_F32] = 4, [KIR_F64] = 8, [KIR_BF16] = 2, [KIR_F16] = 2, [KIR_I8] = 1, [KIR_I32] = 4};
    return bytes[elem];
}

const char *cu_float(cu_source *s, double value) {
    float x = (float)value;
    if (isnan(x)) return "__int_as_float(0x7fc00000)";
    if (isinf(x)) return x > 0 ? "__int_as_float(0x7f800000)" : "__int_as_float(0xff800000)";
    return syl_arena_printf(s->arena, "%af", (double)x);
}

static bool has_suffix(const kir_inst *inst) {
    return inst->role == KIR_ELEM || inst->role == KIR_COL;
}

const char *cu_name(cu_source *s, int index, const char *suffix) {
    return syl_arena_printf(s->arena, "v%d%s", index, has_suffix(&s->kernel->body.p[index]) ? suffix : "");
}

/* ---- arguments and tables ---- */

static const char *describe(cu_source *s, const kir_buffer *buffer) {
    const char *type = cu_elem_type(buffer->elem);
    switch (buffer->shape) {
    case KIR_MATRIX:
        return syl_arena_printf(s->arena, "%s [rows, %lld], stride %lld", type, (long long)buffer->cols,
                                (long long)buffer->stride);
    case KIR_TILED:
        return syl_arena_printf(s->arena, "%s [rows, %lld], tiled", type, (long long)buffer->cols);
    case KIR_PER_ROW:
        return syl_arena_printf(s->arena, "%s [rows]", type);
    case KIR_PER_COL:
        return syl_arena_printf(s->arena, "%s [%lld]", type, (long long)buffer->cols);
    case KIR_PACKED:
        return syl_arena_printf(s->arena, "%s, packed", type);
    case KIR_CACHE:
        return "one layer of the KV cache";
    }
    return "";
}

/* A table is stored in the narrowest type that holds its values exactly; reading it widens them again. */
static void print_table(cu_source *s, int number) {
    const kir_table *table = &s->kernel->tables.p[number];
    bool bytes = true, floats = true;
    for (int64_t i = 0; i < table->n; i++) {
        double x = table->values[i];
        bytes = bytes && x == rint(x) && fabs(x) <= 127 && !(x == 0 && signbit(x));
        floats = floats && x == (double)(float)x;
    }
    syl_text_printf(s->out, "\n__device__ const %s table%d[%lld] = {",
                    bytes    ? "int8_t"
                    : floats ? "float"
                             : "double",
                    number, (long long)table->n);
    for (int64_t i = 0; i < table->n; i++) {
        if (i % 16 == 0) syl_text_printf(s->out, "\n   ");
        if (bytes)
            syl_text_printf(s->out, " %d,", (int)table->values[i]);
        else
            syl_text_printf(s->out, floats ? " %af," : " %a,", table->values[i]);
    }
    syl_text_printf(s->out, "\n};\n");
}

void cu_print_args(cu_source *s) {
    const kir_kernel *k = s->kernel;
    syl_text_printf(s->out, "\nstruct Args {\n    void *buffers[%zu];\n", k->buffers.n ? k->buffers.n : 1);
    for (size_t i = 0; i < k->buffers.n; i++)
        syl_text_printf(s->out, "    // %zu: %s %s%s\n", i, k->buffers.p[i].name,
                        describe(s, &k->buffers.p[i]), k->buffers.p[i].written ? ", written" : "");
    syl_text_printf(s->out, "    void *workspace;\n    int rows, positions;\n};\n");
    for (size_t i = 0; i < k->tables.n; i++) print_table(s, (int)i);
}

/* ---- instructions ---- */

/* Element of a buffer, as an lvalue. */
static const char *element(cu_source *s, int number, const char *i, const char *j) {
    const kir_buffer *b = &s->kernel->buffers.p[number];
    const char *type = cu_elem_type(b->elem);
    switch (b->shape) {
    case KIR_TILED:
        return syl_arena_printf(s->arena,
                                "*(%s *)((char *)args.buffers[%d] + tiled(%s, (%s) * %d, args.rows))", type,
                                number, i, j, cu_elem_bytes(b->elem));
    case KIR_PER_ROW:
        return syl_arena_printf(s->arena, "((%s *)args.buffers[%d])[%s]", type, number, i);
    case KIR_PER_COL:
        return syl_arena_printf(s->arena, "((%s *)args.buffers[%d])[%s]", type, number, j);
    default:
        return syl_arena_printf(s->arena, "((%s *)args.buffers[%d])[(int64_t)(%s) * %lld + (%s)]", type,
                                number, i, (long long)b->stride, j);
    }
}

/* load_patch, load_picture (kir.def): the place by division with constants. */
static const char *picture_element(cu_source *s, const kir_inst *inst, const char *i, const char *j) {
    const kir_buffer *b = &s->kernel->buffers.p[inst->buffer];
    const kir_pictures *p = &inst->pictures;
    int patch = (int)p->patch, width = (int)p->width, height = (int)p->height, across = width / patch;
    int count = height / patch * across;
    const char *place;
    if (inst->op == KIR_load_patch)
        place = syl_arena_printf(s->arena,
                                 "(int64_t)((%s) / %d) * %lld + ((%s) %% %d / %d * %d + (%s) %% %d %% %d * "
                                 "%d) + ((%s) / %d * %d + "
                                 "(%s) / %d %% %d * %d + (%s) %% %d)",
                                 i, count, (long long)b->stride, i, count, across, patch * width, i, count,
                                 across, patch, j, patch * patch, height * width, j, patch, patch, width, j,
                                 patch);
    else
        place = syl_arena_printf(s->arena,
                                 "((int64_t)(%s) * %d + (%s) / %d %% %d / %d * %d + (%s) %% %d / %d) * %lld "
                                 "+ ((%s) / %d * %d + (%s) / %d "
                                 "%% %d %% %d * %d + (%s) %% %d %% %d)",
                                 i, count, j, width, height, patch, across, j, width, patch,
                                 (long long)b->stride, j, height * width, patch * patch, j, width, height,
                                 patch, patch, j, width, patch);
    return syl_arena_printf(s->arena, "((%s *)args.buffers[%d])[%s]", cu_elem_type(b->elem), inst->buffer,
                            place);
}

/* The operand of max(min(round(x), 127), -127), in either order, or -1: with to_i8 behind it, it is one function. */
static int cut_and_rounded(const kir_kernel *k, int index) {
    bool low = false, high = false;
    for (int step = 0; step < 2; step++) {
        const kir_inst *inst = &k->body.p[index];
        if (inst->op != KIR_min && inst->op != KIR_max) return -1;
        const kir_inst *bound = &k->body.p[inst->args[1]];
        if (bound->op != KIR_imm || bound->f != (inst->op == KIR_min ? 127 : -127)) return -1;
        low = low || inst->op == KIR_max;
        high = high || inst->op == KIR_min;
        index = inst->args[0];
    }
    const kir_inst *round = &k->body.p[index];
    return low && high && round->op == KIR_round && round->type == KIR_F32 ? round->args[0] : -1;
}

static void convert(cu_source *s, const kir_inst *inst, const char *a, const cu_place *place, syl_text *out) {
    int cut;
    switch (inst->op) {
    case KIR_to_f32:
        syl_text_printf(out, "(float)%s", a);
        return;
    case KIR_to_f64:
        syl_text_printf(out, "(double)%s", a);
        return;
    case KIR_to_i8:
        cut = cut_and_rounded(s->kernel, inst->args[0]);
        if (cut >= 0)
            syl_text_printf(out, "code_of(%s)", cu_name(s, cut, place->suffix));
        else
            syl_text_printf(out, "(int)(int8_t)(int)%s", a);
        return;
    case KIR_round_bf16:
        syl_text_printf(out, "widen(round_to_bf16(%s))", a);
        return;
    default:
        syl_text_printf(out, "widen(round_to_f16(%s))", a);
        return;
    }
}

bool cu_expression(cu_source *s, int index, const cu_place *place, syl_text *out) {
    const kir_inst *inst = &s->kernel->body.p[index];
    const char *a[3] = {"", "", ""};
    for (int i = 0; i < kir_ops[inst->op].args; i++) a[i] = cu_name(s, inst->args[i], place->suffix);
    switch (inst->op) {
    case KIR_load:
    case KIR_load_row:
    case KIR_load_col:
        syl_text_printf(out, "widen(%s)", element(s, inst->buffer, place->i, place->j));
        return true;
    case KIR_load_at:
        syl_text_printf(out, "widen(%s)", element(s, inst->buffer, a[0], place->j));
        return true;
    case KIR_load_patch:
    case KIR_load_picture:
        syl_text_printf(out, "widen(%s)", picture_element(s, inst, place->i, place->j));
        return true;
    case KIR_store:
    case KIR_store_row:
        syl_text_printf(out, "narrow(%s, %s)", a[0], element(s, inst->buffer, place->i, place->j));
        return true;
    case KIR_imm:
        syl_text_printf(out, "%s", cu_float(s, inst->f));
        return true;
    case KIR_table:
        syl_text_printf(out, "(double)table%d[%s]", inst->table, place->j);
        return true;
    case KIR_add:
        syl_text_printf(out, "%s + %s", a[0], a[1]);
        return true;
    case KIR_sub:
        syl_text_printf(out, "%s - %s", a[0], a[1]);
        return true;
    case KIR_mul:
        syl_text_printf(out, "%s * %s", a[0], a[1]);
        return true;
    case KIR_div:
        syl_text_printf(out, "divide(%s, %s)", a[0], a[1]);
        return true;
    case KIR_fma:
        syl_text_printf(out, "fused(%s, %s, %s)", a[0], a[1], a[2]);
        return true;
    case KIR_neg:
        syl_text_printf(out, "-%s", a[0]);
        return true;
    case KIR_abs:
        syl_text_printf(out, "absolute(%s)", a[0]);
        return true;
    case KIR_max:
        syl_text_printf(out, "larger(%s, %s)", a[0], a[1]);
        return true;
    case KIR_min:
        syl_text_printf(out, "smaller(%s, %s)", a[0], a[1]);
        return true;
    case KIR_sqrt:
        syl_text_printf(out, "square_root(%s)", a[0]);
        return true;
    case KIR_exp:
        syl_text_printf(out, "exponential(%s)", a[0]);
        return true;
    case KIR_round:
        syl_text_printf(out, "round_even(%s)", a[0]);
        return true;
    case KIR_recip_or_zero:
        syl_text_printf(out, "recip_or_zero(%s)", a[0]);
        return true;
    case KIR_cos:
        syl_text_printf(out, "cosine(%s)", a[0]);
        return true;
    case KIR_to_f32:
    case KIR_to_f64:
    case KIR_to_i8:
    case KIR_round_bf16:
    case KIR_round_f16:
        convert(s, inst, a[0], place, out);
        return true;
    default:
        return false;
    }
}

bool cu_print_inst(cu_source *s, int index, const cu_place *place, const char *indent) {
    const kir_inst *inst = &s->kernel->body.p[index];
    syl_text expression = {.arena = s->arena};
    if (!cu_expression(s, index, place, &expression)) return false;
    if (kir_ops[inst->op].role == KIR_NONE)
        syl_text_printf(s->out, "%s%s;\n", indent, expression.p);
    else
        syl_text_printf(s->out, "%sconst %s %s = %s;\n", indent, cu_register_type(inst->type),
                        cu_name(s, index, place->suffix), expression.p);
    return true;
}
