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

syl_host_layout syl_host_layout_of(const kir_weight_codes *codes, kir_type elem, kir_dot dot, int64_t k,
                                   int nr, int ku) {
    if (!codes->bits) {
        int64_t steps = syl_ceil_div(k, ku);
        return (syl_host_layout){
            .groups = 1, .steps = steps, .panel = steps * ku * nr * (int64_t)elem_size(elem)};
    }
    syl_host_layout l = {.groups = codes->group ? k / codes->group : 1};
    l.steps = codes->group ? codes->group / ku : syl_ceil_div(k, 2 * ku) * 2;
    if (codes->two_level) l.header = 2 * nr;
    if (kir_scaled_groups(codes)) l.header = (dot == KIR_DOT_VNNI ? 8 : 4) * nr;
    int64_t align = nr < 32 ? 2 * nr : 64;
    l.header = syl_ceil_div(l.header, align) * align;
    l.group = l.header + l.steps * ku * nr / 2;
    l.panel = l.groups * l.group;
    return l;
}

static syl_host_layout layout_of(const syl_plan_weight *w) {
    return syl_host_layout_of(&w->codes, w->elem, w->dot, w->cols, w->nr, w->ku);
}

/* int32 sums stand behind the panels. */
static bool has_sums(const syl_plan_weight *weight) {
    return weight->dot == KIR_DOT_VNNI && !kir_scaled_groups(&weight->codes);
}

bool syl_host_packed_size(const syl_plan_weight *weight, size_t *out) {
    size_t bytes, sums, panels = (size_t)syl_host_panels(weight);
    if (!syl_size_mul(panels, (size_t)layout_of(weight).panel, &bytes)) return false;
    if (!syl_size_mul(panels, (size_t)weight->nr * sizeof(int32_t), &sums)) return false;
    if (has_sums(weight) && !syl_size_add(bytes, sums, &bytes)) return false;
    *out = bytes;
    return true;
}

/* ---- elements ---- */

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

static void pack_elements(const syl_plan_weight *weight, const void *source, unsigned char *panel,
                          int64_t first, int64_t rows, int32_t *sums) {
    size_t elem = elem_size(weight->elem);
    if (rows < weight->nr) memset(panel, 0, (size_t)layout_of(weight).panel);
    for (int64_t r = 0; r < rows; r++)
        pack_row(weight, (const unsigned char *)source + (size_t)((first + r) * weight->cols) * elem, panel,
                 r);
    for (int64_t r = 0; sums && r < weight->nr; r++) {
        int32_t sum = 0;
        const int8_t *row = (const int8_t *)source + (first + r) * weight->cols;
        for (int64_t k = 0; r < rows && k < weight->cols; k++) sum += row[k];
        sums[r] = -128 * sum;
    }
}

/* ---- codes of 4 bits ---- */

static int code_at(const void *codes, int64_t i) {
    int byte = ((const uint8_t *)codes)[i / 2];
    return i % 2 ? byte >> 4 : byte & 15;
}

static int clamp_int8(int x) {
    return x < -127 ? -127 : x > 127 ? 127 : x;
}

/* Row `row` of the weight becomes row r of the panel, whose halves of bytes hold code 0 so far. Returns the sum of its INT8 values. */
static int32_t pack_code_row(const syl_plan_weight *weight, const syl_weight_source *source,
                             unsigned char *panel, int64_t row, int64_t r) {
    syl_host_layout l = layout_of(weight);
    const kir_weight_codes *codes = &weight->codes;
    int64_t size = codes->group ? codes->group : weight->cols, nr = weight->nr, ku = weight->ku;
    int32_t row_sum = 0;
    for (int64_t g = 0; g < l.groups; g++) {
        int64_t group = row * l.groups + g;
        int scale = codes->two_level ? source->group_scale[group] : 1;
        int zero = codes->two_level ? source->group_zero[group] : 8;
        unsigned char *header = panel + g * l.group, *bytes = header + l.header;
        int32_t sum = 0;
        for (int64_t k = 0; k < size; k++) {
            int code = code_at(source->data, row * weight->cols + g * size + k);
            int64_t step = k / ku;
            bytes[step / 2 * nr * ku + r * ku + k % ku] ^= (unsigned char)(step % 2 ? code << 4 : code);
            sum += clamp_int8(((codes->two_level ? code : code ^ 8) - zero) * scale);
        }
        if (codes->two_level) {
            header[r] = (unsigned char)scale;
            header[nr + r] = (unsigned char)(scale * zero);
        } else if (codes->group) {
            int32_t compensation = -128 * sum;
            memcpy(header + 4 * r, &source->scales[group], 4);
            if (weight->dot == KIR_DOT_VNNI) memcpy(header + 4 * (nr + r), &compensation, 4);
        }
        row_sum += sum;
    }
    return row_sum;
}

static void pack_codes(const syl_plan_weight *weight, const syl_weight_source *source, unsigned char *panel,
                       int64_t first, int64_t rows, int32_t *sums) {
    syl_host_layout l = layout_of(weight);
    /* code 0 everywhere: symmetric ones are stored as code + 8, and two-level codes without a scale are 0 */
    memset(panel, weight->codes.two_level ? 0 : 0x88, (size_t)l.panel);
    for (int64_t g = 0; g < l.groups; g++) memset(panel + g * l.group, 0, (size_t)l.header);
    for (int64_t r = 0; r < weight->nr; r++) {
        int32_t sum = r < rows ? pack_code_row(weight, source, panel, first + r, r) : 0;
        if (sums) sums[r] = -128 * sum;
    }
}

void syl_host_pack(const syl_plan_weight *weight, const syl_weight_source *source, void *packed,
                   int64_t panel_begin, int64_t panel_end) {
    size_t panel_bytes = (size_t)layout_of(weight).panel;
    unsigned char *bytes = packed;
    int32_t *sums = (int32_t *)(void *)(bytes + (size_t)syl_host_panels(weight) * panel_bytes);
    for (int64_t p = panel_begin; p < panel_end; p++) {
        unsigned char *panel = bytes + (size_t)p * panel_bytes;
        int64_t first = p * weight->nr,
                rows = weight->rows - first < weight->nr ? weight->rows - first : weight->nr;
        int32_t *panel_sums = has_sums(weight) ? sums + first : NULL;
        if (weight->codes.bits)
            pack_codes(weight, source, panel, first, rows, panel_sums);
        else
            pack_elements(weight, source->data, panel, first, rows, panel_sums);
    }
}
