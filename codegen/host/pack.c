/* Weights in the order in which a micro kernel reads them (host.h): a panel is a transposition of nr rows in units of ku values. */
#include "codegen/host/host.h"
#include <string.h>
#include "base/size.h"

static size_t elem_size(kir_type type) {
    return type == KIR_I8 ? 1 : type == KIR_BF16 || type == KIR_F16 ? 2 : type == KIR_F64 ? 8 : 4;
}

int64_t syl_host_panels(const syl_plan_weight *weight) {
    return syl_ceil_div(weight->rows, weight->nr);
}

static int64_t steps_of(const syl_plan_weight *weight) {
    return syl_ceil_div(weight->cols, weight->ku);
}

bool syl_host_packed_size(const syl_plan_weight *weight, size_t *out) {
    size_t bytes, sums;
    if (!syl_size_mul((size_t)syl_host_panels(weight), (size_t)weight->nr, &sums)) return false;
    if (!syl_size_mul(sums, (size_t)steps_of(weight) * (size_t)weight->ku, &bytes)) return false;
    if (!syl_size_mul(bytes, elem_size(weight->elem), &bytes)) return false;
    if (weight->dot == KIR_DOT_VNNI &&
        (!syl_size_mul(sums, sizeof(int32_t), &sums) || !syl_size_add(bytes, sums, &bytes)))
        return false;
    *out = bytes;
    return true;
}

/* Whole units of one row: to[step * nr] = from[step]. */
#define TRANSPOSE(type)                                                                                      \
    static void transpose_##type(type *to, const type *from, int64_t steps, int64_t nr) {                    \
        for (int64_t i = 0; i < steps; i++) to[i * nr] = from[i];                                            \
    }
TRANSPOSE(uint8_t)
TRANSPOSE(uint16_t)
TRANSPOSE(uint32_t)

static void pack_row(const syl_plan_weight *weight, const unsigned char *row, unsigned char *panel,
                     int64_t r) {
    size_t elem = elem_size(weight->elem), unit = elem * (size_t)weight->ku;
    int64_t whole = weight->cols / weight->ku, rest = weight->cols % weight->ku;
    unsigned char *to = panel + (size_t)r * unit;
    bool aligned = ((uintptr_t)row | (uintptr_t)to) % unit == 0;
    if (aligned && unit == 1)
        transpose_uint8_t(to, row, whole, weight->nr);
    else if (aligned && unit == 2)
        transpose_uint16_t((uint16_t *)(void *)to, (const uint16_t *)(const void *)row, whole, weight->nr);
    else if (aligned && unit == 4)
        transpose_uint32_t((uint32_t *)(void *)to, (const uint32_t *)(const void *)row, whole, weight->nr);
    else
        for (int64_t i = 0; i < whole; i++)
            memcpy(to + (size_t)(i * weight->nr) * unit, row + (size_t)i * unit, unit);
    if (rest) {
        unsigned char *last = to + (size_t)(whole * weight->nr) * unit;
        memset(last, 0, unit);
        memcpy(last, row + (size_t)whole * unit, (size_t)rest * elem);
    }
}

void syl_host_pack(const syl_plan_weight *weight, const void *source, void *packed, int64_t panel_begin,
                   int64_t panel_end) {
    size_t elem = elem_size(weight->elem),
           panel_bytes = (size_t)steps_of(weight) * (size_t)(weight->nr * weight->ku) * elem;
    int32_t *sums =
        (int32_t *)(void *)((unsigned char *)packed + (size_t)syl_host_panels(weight) * panel_bytes);
    for (int64_t p = panel_begin; p < panel_end; p++) {
        unsigned char *panel = (unsigned char *)packed + (size_t)p * panel_bytes;
        int64_t first = p * weight->nr,
                rows = weight->rows - first < weight->nr ? weight->rows - first : weight->nr;
        if (rows < weight->nr) memset(panel, 0, panel_bytes);
        for (int64_t r = 0; r < rows; r++)
            pack_row(weight, (const unsigned char *)source + (size_t)((first + r) * weight->cols) * elem,
                     panel, r);
        if (weight->dot != KIR_DOT_VNNI) continue;
        for (int64_t r = 0; r < weight->nr; r++) {
            int32_t sum = 0;
            const int8_t *row = (const int8_t *)source + (first + r) * weight->cols;
            for (int64_t k = 0; r < rows && k < weight->cols; k++) sum += row[k];
            sums[first + r] = -128 * sum;
        }
    }
}
