/* The epilogue of a GEMM: the kernel's body for a tile of sums in registers. */
#include "base/size.h"
#include "codegen/cuda/emit.h"

static bool is_of_row(const kir_kernel *k, const kir_inst *inst) {
    if (inst->op == KIR_store_row) return k->body.p[inst->args[0]].role != KIR_ELEM;
    return inst->role == KIR_ROW || inst->role == KIR_UNIFORM;
}

static syl_status print_one(cu_source *s, int index, const char *indent) {
    const kir_inst *inst = &s->kernel->body.p[index];
    const cu_place place = {"i", "j", ""};
    if (inst->op == KIR_acc)
        syl_text_printf(s->out, "%sconst %s v%d = acc[r][c];\n", indent, cu_register_type(inst->type), index);
    else if (inst->op == KIR_low_rank)
        syl_text_printf(s->out, "%sconst float v%d = low[r][c];\n", indent, index);
    else if (!cu_print_inst(s, index, &place, indent))
        return syl_error(s->diag, SYL_ERR_internal, SYL_NOWHERE, "kernel '%s': no CUDA code for '%s'",
                         s->kernel->name, kir_ops[inst->op].name);
    return SYL_OK;
}

syl_status cu_print_epilogue(cu_source *s) {
    const kir_kernel *k = s->kernel;
    const char *sum = kir_acc_type(&k->gemm) == KIR_I32 ? "int" : "float";
    syl_text_printf(
        s->out,
        "\ntemplate <int ROWS, int COLS>\n"
        "__device__ inline void epilogue(const Args &args, int first, int column, const %s (*acc)[COLS], "
        "const float (*low)[COLS]) {\n"
        "    #pragma unroll\n    for (int r = 0; r < ROWS; r++) {\n"
        "        const int i = first + r;\n        if (i >= args.rows) break;\n",
        sum);
    for (int x = 0; x < (int)k->body.n; x++) {
        const kir_inst *inst = &k->body.p[x];
        if (!is_of_row(k, inst)) continue;
        if (inst->op == KIR_store_row) syl_text_printf(s->out, "        if (column == 0)\n    ");
        SYL_TRY(print_one(s, x, "        "));
    }
    syl_text_printf(s->out,
                    "        #pragma unroll\n        for (int c = 0; c < COLS; c++) {\n"
                    "            const int j = column + c;\n            if (j >= %lld) break;\n",
                    (long long)k->gemm.n);
    for (int x = 0; x < (int)k->body.n; x++)
        if (!is_of_row(k, &k->body.p[x])) SYL_TRY(print_one(s, x, "            "));
    syl_text_printf(s->out, "        }\n    }\n}\n");
    return SYL_OK;
}

void cu_print_tiled_padding(cu_source *s, const char *first, const char *end, const char *indent) {
    for (size_t b = 0; b < s->kernel->buffers.n; b++) {
        const kir_buffer *buffer = &s->kernel->buffers.p[b];
        int64_t bytes = buffer->cols * cu_elem_bytes(buffer->elem);
        int64_t padded = syl_ceil_div(bytes, KIR_ATOM_BYTES) * KIR_ATOM_BYTES;
        if (buffer->shape != KIR_TILED || !buffer->written || padded == bytes) continue;
        syl_text_printf(s->out,
                        "%sfor (int i = %s; i < (%s) && i < args.rows; i++) // zeros up to whole atoms\n"
                        "%s    for (int b = %lld + (int)threadIdx.x; b < %lld; b += blockDim.x)\n"
                        "%s        *((char *)args.buffers[%zu] + tiled(i, b, args.rows)) = 0;\n",
                        indent, first, end, indent, (long long)bytes, (long long)padded, indent, b);
    }
}
