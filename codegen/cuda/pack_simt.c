/* Weights of GEMMs without tensor cores: panels of 32 channels, [k / u][32] units of 16 bytes, u values of k of one channel, zeros behind the
 * last k and the last channel; then, where groups have f32 scales, [panel][group][32] of them. */
#include <string.h>
#include "base/size.h"
#include "codegen/cuda/emit.h"

enum { panel_rows = 32, unit_bytes = 16, block_rows = 64 };

static int64_t units_of(int64_t k, kir_type elem) {
    return syl_ceil_div(k, unit_bytes / cu_elem_bytes(elem));
}

static int64_t panels_of(int64_t n) {
    return syl_ceil_div(n, block_rows) * (block_rows / panel_rows);
}

int64_t cu_pack_simt_panels(int64_t n, int64_t k, kir_type elem) {
    return panels_of(n) * units_of(k, elem) * panel_rows * unit_bytes;
}

static int64_t groups_of(const syl_plan_weight *weight) {
    return kir_scaled_groups(&weight->codes) ? weight->cols / weight->codes.group : 0;
}

bool cu_pack_simt_size(const syl_plan_weight *weight, size_t *out) {
    size_t panels = (size_t)panels_of(weight->rows), bytes, scales;
    size_t units = (size_t)units_of(weight->cols, weight->elem);
    if (weight->rows < 0 || weight->rows > INT64_MAX - block_rows) return false;
    if (!syl_size_mul(panels * panel_rows, unit_bytes, &bytes) || !syl_size_mul(bytes, units, &bytes))
        return false;
    if (!syl_size_mul(panels * panel_rows * sizeof(float), (size_t)groups_of(weight), &scales)) return false;
    return syl_size_add(bytes, scales, out);
}

static int clamp_int8(int x) {
    return x < -127 ? -127 : x > 127 ? 127 : x;
}

/* The INT8 value that a 4-bit code stands for. */
static int8_t expand(const syl_plan_weight *weight, const syl_weight_source *source, int64_t row, int64_t k) {
    int64_t at = row * weight->cols + k;
    int byte = ((const uint8_t *)source->data)[at / 2], code = at % 2 ? byte >> 4 : byte & 15;
    if (!weight->codes.two_level) return (int8_t)((code ^ 8) - 8);
    int64_t group = row * (weight->cols / weight->codes.group) + k / weight->codes.group;
    return (int8_t)clamp_int8((code - source->group_zero[group]) * source->group_scale[group]);
}

static void pack_row(const syl_plan_weight *weight, const syl_weight_source *source, int64_t row,
                     unsigned char *to) {
    size_t elem = (size_t)cu_elem_bytes(weight->elem), bytes = (size_t)weight->cols * elem;
    if (weight->codes.bits) {
        int8_t values[unit_bytes];
        for (int64_t k = 0; k < weight->cols; k += unit_bytes, to += panel_rows * unit_bytes) {
            memset(values, 0, sizeof values);
            for (int64_t m = 0; m < unit_bytes && k + m < weight->cols; m++)
                values[m] = expand(weight, source, row, k + m);
            memcpy(to, values, sizeof values);
        }
        return;
    }
    const unsigned char *from = (const unsigned char *)source->data + (size_t)row * bytes;
    for (size_t at = 0; at < bytes; at += unit_bytes, to += panel_rows * unit_bytes)
        memcpy(to, from + at, bytes - at < unit_bytes ? bytes - at : unit_bytes);
}

void cu_pack_simt(const syl_plan_weight *weight, const syl_weight_source *source, void *packed, int64_t begin,
                  int64_t end) {
    int64_t units = units_of(weight->cols, weight->elem), groups = groups_of(weight);
    int64_t panel_bytes = units * panel_rows * unit_bytes;
    unsigned char *panels = packed;
    float *scales = (float *)(void *)(panels + cu_pack_simt_panels(weight->rows, weight->cols, weight->elem));
    for (int64_t p = begin * (block_rows / panel_rows); p < end * (block_rows / panel_rows); p++) {
        memset(panels + p * panel_bytes, 0, (size_t)panel_bytes);
        for (int64_t r = 0; r < panel_rows; r++) {
            int64_t row = p * panel_rows + r;
            if (row < weight->rows) pack_row(weight, source, row, panels + p * panel_bytes + r * unit_bytes);
            for (int64_t g = 0; g < groups; g++)
                scales[(p * groups + g) * panel_rows + r] =
                    row < weight->rows ? source->scales[row * groups + g] : 0;
        }
    }
}
