/* Printing what becomes of a GEMM's sums, from the body of its kernel. Instructions are sorted by what they depend on: Row and Col hold what is the same for a
 * row or a column, Elem what is read of other matrices, and store() does the rest for WIDTH neighbours of a row.
 *
 * With a low-rank branch the body is cut where it is added: Scaled computes what it is added to, on the accumulators. */
#include "codegen/cuda/gemm.h"

/* Instructions that `root` needs, but for those behind `stop`. */
static void mark(const kir_kernel *kernel, int root, int stop, bool *needed) {
    if (needed[root]) return;
    needed[root] = true;
    if (root == stop) return;
    for (int a = 0; a < kir_ops[kernel->body.p[root].op].args; a++)
        mark(kernel, kernel->body.p[root].args[a], stop, needed);
}

/* The add of the low-rank branch, and the instruction that it is added to; -1 without a branch. */
static int branch_sum(const kir_kernel *kernel, int *other) {
    for (int i = 0; cu_gemm_has_branch(kernel) && i < (int)kernel->body.n; i++) {
        const kir_inst *inst = &kernel->body.p[i];
        if (inst->op != KIR_add) continue;
        for (int a = 0; a < 2; a++)
            if (kernel->body.p[inst->args[a]].op == KIR_low_rank) {
                *other = inst->args[1 - a];
                return i;
            }
    }
    return -1;
}

typedef struct part {
    cu_source *s;
    const kir_kernel *kernel;
    bool *needed;
    int start; /* the branch's sum, or -1: acc */
    int width; /* columns an element function works on */
} part;

static bool has_value(const kir_inst *inst) {
    return kir_ops[inst->op].role != KIR_NONE;
}

static bool is_read(const kir_inst *inst) {
    return inst->op == KIR_load || inst->op == KIR_load_at;
}

static const char *lane_name(const part *p, int lane) {
    return syl_arena_printf(p->s->arena, "_%d", lane);
}

static cu_place lane_place(const part *p, int lane) {
    return (cu_place){.i = "i",
                      .j = lane ? syl_arena_printf(p->s->arena, "j + %d", lane) : "j",
                      .suffix = lane_name(p, lane)};
}

/* Members of a struct: values of one role, `width` of each where it is not 1. */
static void print_members(const part *p, const char *type, bool (*belongs)(const kir_inst *), int width) {
    syl_text_printf(p->s->out, "    struct %s {\n", type);
    for (size_t i = 0; i < p->kernel->body.n; i++) {
        const kir_inst *inst = &p->kernel->body.p[i];
        if (!p->needed[i] || !has_value(inst) || !belongs(inst) || (int)i == p->start) continue;
        syl_text_printf(p->s->out, width > 1 ? "        %s v%zu[%d];\n" : "        %s v%zu;\n",
                        cu_register_type(inst->type), i, width);
    }
    syl_text_printf(p->s->out, "    };\n");
}

static bool in_row(const kir_inst *inst) {
    return inst->role == KIR_ROW;
}
static bool in_col(const kir_inst *inst) {
    return inst->role == KIR_COL;
}

static bool print_row(const part *p) {
    cu_place place = {.i = "i", .j = "0", .suffix = ""};
    print_members(p, "Row", in_row, 1);
    syl_text_printf(
        p->s->out,
        "    static __device__ __forceinline__ Row row(const Args &args, int i) {\n        Row all;\n");
    for (size_t i = 0; i < p->kernel->body.n; i++) {
        const kir_inst *inst = &p->kernel->body.p[i];
        if (!p->needed[i] || !has_value(inst) || (inst->role != KIR_ROW && inst->role != KIR_UNIFORM))
            continue;
        if (!cu_print_inst(p->s, (int)i, &place, "        ")) return false;
        if (inst->role == KIR_ROW) syl_text_printf(p->s->out, "        all.v%zu = v%zu;\n", i, i);
    }
    syl_text_printf(p->s->out, "        return all;\n    }\n");
    return true;
}

static bool print_col(const part *p) {
    print_members(p, "Col", in_col, p->width);
    syl_text_printf(
        p->s->out,
        "    static __device__ __forceinline__ Col col(const Args &args, int j) {\n        Col all;\n");
    for (int lane = 0; lane < p->width; lane++) {
        cu_place place = lane_place(p, lane);
        for (size_t i = 0; i < p->kernel->body.n; i++) {
            const kir_inst *inst = &p->kernel->body.p[i];
            bool uniform = inst->role == KIR_UNIFORM;
            if (!p->needed[i] || !has_value(inst) || (inst->role != KIR_COL && !(uniform && lane == 0)))
                continue;
            if (!cu_print_inst(p->s, (int)i, &place, "        ")) return false;
            if (uniform) continue;
            if (p->width > 1)
                syl_text_printf(p->s->out, "        all.v%zu[%d] = v%zu_%d;\n", i, lane, i, lane);
            else
                syl_text_printf(p->s->out, "        all.v%zu = v%zu_0;\n", i, i);
        }
    }
    syl_text_printf(p->s->out, "        return all;\n    }\n");
    return true;
}

static const char *pointer(const part *p, int buffer, const char *i) {
    const kir_buffer *b = &p->kernel->buffers.p[buffer];
    const char *type = cu_elem_type(b->elem);
    if (b->shape == KIR_TILED)
        return syl_arena_printf(p->s->arena,
                                "(%s *)((char *)args.buffers[%d] + tiled(%s, j * %d, args.rows))", type,
                                buffer, i, cu_elem_bytes(b->elem));
    return syl_arena_printf(p->s->arena, "(%s *)args.buffers[%d] + (int64_t)(%s) * %lld + j", type, buffer, i,
                            (long long)b->stride);
}

/* All addresses of WIDTH elements are aligned if the first one is: the stride is a multiple, and j. */
static const char *aligned(const part *p, int buffer) {
    const kir_buffer *b = &p->kernel->buffers.p[buffer];
    if (b->shape == KIR_TILED) return "true";
    if (b->stride % p->width) return "false";
    return syl_arena_printf(p->s->arena, "is_aligned(args.buffers[%d], %d)", buffer,
                            p->width * cu_elem_bytes(b->elem));
}

static void print_elem(const part *p) {
    print_members(p, "Elem", is_read, p->width);
    syl_text_printf(p->s->out, "    static __device__ __forceinline__ Elem elem(const Args &args, int i, int "
                               "j, const Row &row) {\n        Elem all;\n");
    for (size_t i = 0; i < p->kernel->body.n; i++) {
        const kir_inst *inst = &p->kernel->body.p[i];
        if (!p->needed[i] || !is_read(inst)) continue;
        const char *row =
            inst->op == KIR_load_at ? syl_arena_printf(p->s->arena, "row.v%d", inst->args[0]) : "i";
        syl_text_printf(p->s->out, "        load_some<%d>(%s, %s, %sall.v%zu);\n", p->width,
                        pointer(p, inst->buffer, row), aligned(p, inst->buffer), p->width > 1 ? "" : "&", i);
    }
    syl_text_printf(p->s->out, "        return all;\n    }\n");
}

/* The chain of products of the branch, where it is not on tensor cores. */
static void print_scalar_branch(const part *p, size_t i, int lane) {
    const kir_kernel *k = p->kernel;
    const kir_buffer *t = &k->buffers.p[k->branch.t], *u = &k->buffers.p[k->branch.u];
    syl_text_printf(
        p->s->out,
        "        float v%zu_%d = 0;\n"
        "        for (int r = 0; r < %lld; r++)\n"
        "            v%zu_%d = fused(widen(((const %s *)args.buffers[%d])[(int64_t)i * %lld + r]), "
        "widen(((const %s *)args.buffers[%d])[(int64_t)(j + %d) * %lld + r]), v%zu_%d);\n",
        i, lane, (long long)k->branch.rank, i, lane, cu_elem_type(t->elem), k->branch.t, (long long)t->stride,
        cu_elem_type(u->elem), k->branch.u, lane, (long long)u->stride, i, lane);
}

/* The instructions that work on an element, for each of `width` neighbours; stores at the end. */
static bool print_body(const part *p, bool stores) {
    const kir_kernel *k = p->kernel;
    syl_text *out = p->s->out;
    for (int lane = 0; lane < p->width; lane++) {
        cu_place place = lane_place(p, lane);
        const char *at = p->width > 1 ? syl_arena_printf(p->s->arena, "[%d]", lane) : "";
        for (size_t i = 0; i < k->body.n; i++) {
            const kir_inst *inst = &k->body.p[i];
            const char *type = cu_register_type(inst->type);
            if (!p->needed[i] || !has_value(inst)) continue;
            bool once = inst->role == KIR_ROW || inst->role == KIR_UNIFORM;
            if (once && lane > 0) continue;
            if ((int)i == p->start || inst->op == KIR_acc)
                syl_text_printf(out, "        const %s v%zu_%d = sums[%d];\n", type, i, lane, lane);
            else if (inst->role == KIR_ROW)
                syl_text_printf(out, "        const %s v%zu = row.v%zu;\n", type, i, i);
            else if (inst->role == KIR_COL)
                syl_text_printf(out, "        const %s v%zu_%d = col.v%zu%s;\n", type, i, lane, i, at);
            else if (is_read(inst))
                syl_text_printf(out, "        const %s v%zu_%d = elem.v%zu%s;\n", type, i, lane, i, at);
            else if (inst->op == KIR_low_rank)
                print_scalar_branch(p, i, lane);
            else if (!cu_print_inst(p->s, (int)i, &place, "        "))
                return false;
        }
    }
    for (size_t i = 0; stores && i < k->body.n; i++) {
        const kir_inst *inst = &k->body.p[i];
        if (has_value(inst)) continue;
        if (inst->op != KIR_store) return false;
        const kir_inst *value = &k->body.p[inst->args[0]];
        bool many = value->role == KIR_ELEM || value->role == KIR_COL;
        syl_text_printf(out, "        const %s out%zu[%d] = {", cu_register_type(value->type), i, p->width);
        for (int lane = 0; lane < p->width; lane++)
            syl_text_printf(out, "%sv%d%s", lane ? ", " : "", inst->args[0], many ? lane_name(p, lane) : "");
        syl_text_printf(out, "};\n        store_some<%d>(%s, %s, out%zu);\n", p->width,
                        pointer(p, inst->buffer, "i"), aligned(p, inst->buffer), i);
    }
    return true;
}

/* Columns behind the last of a tiled result, to whole 64: they are read as padding of k. */
static void print_pad(const part *p) {
    syl_text_printf(p->s->out,
                    "    static __device__ __forceinline__ void pad(const Args &args, int i, int j) {\n");
    for (size_t i = 0; i < p->kernel->body.n; i++) {
        const kir_inst *inst = &p->kernel->body.p[i];
        if (inst->op != KIR_store || p->kernel->buffers.p[inst->buffer].shape != KIR_TILED) continue;
        syl_text_printf(p->s->out,
                        "        const float zero%zu[%d] = {};\n        store_some<%d>(%s, true, zero%zu);\n",
                        i, p->width, p->width, pointer(p, inst->buffer, "i"), i);
    }
    syl_text_printf(p->s->out, "    }\n");
}

bool cu_gemm_print_epilogue(cu_source *s) {
    const kir_kernel *k = s->kernel;
    int other = -1, sum = branch_sum(k, &other);
    const char *acc = cu_register_type(kir_acc_type(&k->gemm));
    part p = {.s = s,
              .kernel = k,
              .needed = SYL_NEW_ARRAY(s->arena, bool, k->body.n + 1),
              .start = sum,
              .width = k->gemm.n % 4 == 0 ? 4 : 1};
    for (size_t i = 0; i < k->body.n; i++)
        if (!has_value(&k->body.p[i])) mark(k, (int)i, sum, p.needed);
    syl_text_printf(s->out,
                    "\n// What becomes of sums.\nstruct Epilogue {\n    static constexpr int WIDTH = %d;\n",
                    p.width);
    if (!print_row(&p) || !print_col(&p)) return false;
    print_elem(&p);
    syl_text_printf(s->out,
                    "    static __device__ __forceinline__ void store(const Args &args, int i, int j, const "
                    "%s *tile, const Row &row, "
                    "const Col &col, const Elem &elem) {\n        %s sums[%d];\n",
                    sum < 0 ? acc : "float", sum < 0 ? acc : "float", p.width);
    if (p.width == 4)
        syl_text_printf(s->out, "        *(uint4 *)sums = *(const uint4 *)tile;\n");
    else
        syl_text_printf(s->out, "        sums[0] = tile[0];\n");
    if (!print_body(&p, true)) return false;
    syl_text_printf(s->out, "    }\n");
    print_pad(&p);
    syl_text_printf(s->out, "};\n");
    if (sum < 0) {
        syl_text_printf(s->out, "typedef Epilogue Scaled;\n");
        return true;
    }
    for (size_t i = 0; i < k->body.n; i++) p.needed[i] = false;
    mark(k, other, -1, p.needed);
    for (size_t i = 0; i < k->body.n; i++)
        if (p.needed[i] && is_read(&k->body.p[i])) return false;
    p.start = -1;
    p.width = 1;
    syl_text_printf(s->out, "\n// What the low-rank branch is added to.\nstruct Scaled {\n");
    if (!print_row(&p) || !print_col(&p)) return false;
    syl_text_printf(
        s->out,
        "    static __device__ __forceinline__ float value(%s sum, const Row &row, const Col &col) {\n"
        "        const %s sums[1] = {sum};\n",
        acc, acc);
    if (!print_body(&p, false)) return false;
    const kir_inst *result = &k->body.p[other];
    syl_text_printf(s->out, "        return v%d%s;\n    }\n};\n", other,
                    result->role == KIR_ELEM || result->role == KIR_COL ? "_0" : "");
    return true;
}
