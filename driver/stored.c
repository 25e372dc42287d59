/* Dequantizing stored tensors (stored.h). The artifact was checked when it was opened: every part has its size. */
#include "driver/stored.h"

#include <string.h>

#include "base/numeric.h"
#include "ir/ref/ref.h"

void syl_stored_find(const syl_artifact *artifact, const syl_op *op, syl_stored_tensor *out) {
    syl_stored stored;
    syl_arena arena;
    int64_t elements = 0;
    syl_arena_init(&arena);
    *out = (syl_stored_tensor){.name = syl_attr_str(op, "name"), .type = syl_result(op)->type};
    bool known = syl_stored_of(&out->type, &stored) && syl_type_elements(&out->type, &elements);
    out->parts = known ? stored.parts : 0;
    out->cols = known && out->type.rank ? out->type.dims[out->type.rank - 1].size : 1;
    out->rows = elements / out->cols;
    for (int p = 0; p < out->parts; p++) {
        const char *name = syl_arena_printf(&arena, "%s%s", out->name, syl_artifact_suffixes[p]);
        const syl_st_tensor *tensor = syl_safetensors_find(&artifact->file, name);
        out->part[p] = syl_safetensors_data(&artifact->file, tensor);
        out->part_bytes[p] = (int64_t)tensor->size;
        out->bytes += out->part_bytes[p];
    }
    syl_arena_free(&arena);
}

static double float_at(const syl_stored_tensor *tensor, int64_t i) {
    uint16_t h;
    float f;
    if (tensor->type.dtype == SYL_f32) {
        memcpy(&f, tensor->part[0] + 4 * i, sizeof f);
        return f;
    }
    memcpy(&h, tensor->part[0] + 2 * i, sizeof h);
    return tensor->type.dtype == SYL_bf16 ? syl_bf16_to_f32(h) : syl_f16_to_f32(h);
}

/* The code of element i as stored: signed, but for two-level types. */
static int code_at(const syl_stored_tensor *tensor, const syl_dtype_info *info, int64_t i) {
    if (info->bits == 8) return (int8_t)tensor->part[0][i];
    int nibble = tensor->part[0][i / 2] >> (i % 2 ? 4 : 0) & 15;
    return !info->two_level && nibble >= 8 ? nibble - 16 : nibble;
}

static void read_row(const syl_stored_tensor *tensor, int64_t row, double *out) {
    const syl_dtype_info *info = &syl_dtypes[tensor->type.dtype];
    int64_t groups = syl_row_groups(tensor->type.dtype, tensor->cols), size = tensor->cols / groups;
    int64_t scales = info->row_scale ? 1 : groups; /* of a row */
    for (int64_t c = 0; c < tensor->cols; c++) {
        int64_t group = c / size;
        int code = code_at(tensor, info, row * tensor->cols + c);
        if (info->two_level) {
            code = syl_ref_inner_code(code, tensor->part[2][row * groups + group],
                                      tensor->part[3][row * groups + group]);
        }
        float scale;
        memcpy(&scale, tensor->part[1] + 4 * (row * scales + (scales > 1 ? group : 0)), sizeof scale);
        out[c] = (double)code * scale;
    }
}

void syl_stored_read(const syl_stored_tensor *tensor, int64_t begin, int64_t end, double *out) {
    bool codes = syl_dtypes[tensor->type.dtype].class == SYL_CLASS_QUANT;
    for (int64_t row = begin; row < end; row++, out += tensor->cols) {
        if (codes) read_row(tensor, row, out);
        for (int64_t c = 0; !codes && c < tensor->cols; c++)
            out[c] = float_at(tensor, row * tensor->cols + c);
    }
}
