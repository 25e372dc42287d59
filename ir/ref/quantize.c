/* Quantization of weights: scales of least error by search, codes rounded once from the exact values.
 *
 * Symmetric types (a row or a group at a time): the scale of least squared error. Two-level types (QoQ, arXiv
 * 2405.04532): the row becomes INT8 by scale absmax / 119, and each group of it INT4 with an integer scale and a
 * zero point; 119 leaves the room that rounding by half a group scale (at most 8) needs below 127.
 *
 * The searches run over every weight of a model many times, so their loops are made for vectors: eight sums side
 * by side, always added up in the same order, so that every machine finds the same parameters. */
#include <math.h>
#include <stdlib.h>
#include "base/numeric.h"
#include "ir/ref/ops.h"

enum { LANES = 8, STEP = 32 * LANES, CANDIDATES = 41, GROUP_CANDIDATES = 7, INNER_MAX = 119 };

static const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer, ties to even */

static double total_of(const double *sum) {
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

static double clamp(double x, double low, double high) {
    return x < low ? low : x > high ? high : x;
}

/* ---- symmetric ---- */

/* Codes of a symmetric type. */
typedef struct code_range {
    double low, high;
} code_range;

static code_range range_of(syl_dtype scheme) {
    return syl_dtypes[scheme].bits == 8 ? (code_range){-127, 127} : (code_range){-8, 7};
}

/* Sum of (x - scale * code)^2 over n elements, n a multiple of LANES; or, once they exceed `limit`, of the
 * first ones: the sum only grows, so stopping early never changes which candidate wins. */
static double squared_error(const float *x, int64_t n, float scale, code_range range, double limit) {
    const float inverse = 1.0f / scale, low = (float)range.low, high = (float)range.high;
    double sum[LANES] = {0}, total = 0;
    for (int64_t begin = 0; begin < n && !(total > limit); begin += STEP) {
        int64_t end = begin + STEP < n ? begin + STEP : n;
        for (int64_t i = begin; i < end; i += LANES)
            for (int j = 0; j < LANES; j++) {
                float code = x[i + j] * inverse;
                code = code < high ? code : high;
                code = code > low ? code : low;
                code = (code + magic) - magic;
                float error = x[i + j] - code * scale;
                sum[j] += (double)error * (double)error;
            }
        total = total_of(sum);
    }
    return total;
}

static float best_scale(const float *x, int64_t n, double absmax, code_range range) {
    float best = (float)(absmax / range.high);
    double least = squared_error(x, n, best, range, INFINITY);
    for (int i = 1; i < CANDIDATES; i++) {
        float scale = (float)(absmax * (100 - i) / 100 / range.high);
        double error = scale > 0 ? squared_error(x, n, scale, range, least) : INFINITY;
        if (error < least) {
            least = error;
            best = scale;
        }
    }
    return best;
}

/* `cols` elements that share a scale; copy: as f32, padded with zeros to a multiple of LANES. */
static float quantize_symmetric(const double *x, const float *copy, int64_t cols, double absmax,
                                code_range range, bool mse, int8_t *codes) {
    float scale = (float)(absmax / range.high);
    if (mse && scale > 0) scale = best_scale(copy, (cols + LANES - 1) / LANES * LANES, absmax, range);
    for (int64_t k = 0; k < cols; k++) {
        double code = scale > 0 ? x[k] / scale : 0;
        codes[k] = isnan(code) ? 0 : (int8_t)clamp(rint(code), range.low, range.high);
    }
    return scale;
}

/* ---- two-level ---- */

typedef struct group_grid {
    int scale, zero;
} group_grid;

/* Squared error, as squared_error, of a group of `n` elements on the grid inside the row's scale. */
static double grid_error(const float *x, int64_t n, float scale, group_grid grid) {
    const float inverse = 1.0f / (scale * (float)grid.scale), s = (float)grid.scale, z = (float)grid.zero;
    double sum[LANES] = {0};
    for (int64_t i = 0; i < n; i += LANES)
        for (int j = 0; j < LANES; j++) {
            float code = x[i + j] * inverse + z;
            code = code < 15.0f ? code : 15.0f;
            code = code > 0.0f ? code : 0.0f;
            code = ((code + magic) - magic - z) * s;
            code = code < 127.0f ? code : 127.0f;
            code = code > -127.0f ? code : -127.0f;
            float error = x[i + j] - code * scale;
            sum[j] += (double)error * (double)error;
        }
    return total_of(sum);
}

static group_grid best_grid(const float *x, int64_t n, float scale, bool mse) {
    float low = x[0], high = x[0];
    for (int64_t i = 1; i < n; i++) {
        if (x[i] < low) low = x[i];
        if (x[i] > high) high = x[i];
    }
    double from = clamp(rint((double)low / scale), -INNER_MAX, INNER_MAX),
           to = clamp(rint((double)high / scale), -INNER_MAX, INNER_MAX), least = INFINITY;
    group_grid best = {1, 0}, last = {0, 0};
    for (int i = 0; i < (mse ? GROUP_CANDIDATES : 1); i++) {
        double part = (100 - 5 * i) / 100.0;
        group_grid grid = {.scale = (int)clamp(rint((to - from) * part / 15), 1, SYL_GROUP_SCALE_MAX)};
        grid.zero = (int)clamp(rint(-from * part / grid.scale), 0, SYL_GROUP_ZERO_MAX);
        if (grid.scale == last.scale && grid.zero == last.zero) continue; /* measured */
        last = grid;
        double error = grid_error(x, n, scale, grid);
        if (error < least) {
            least = error;
            best = grid;
        }
    }
    return best;
}

static void quantize_two_level(const double *x, const float *copy, int64_t cols, int64_t group, double absmax,
                               bool mse, int8_t *codes, float *scale, uint8_t *group_scale,
                               uint8_t *group_zero) {
    *scale = (float)(absmax / INNER_MAX);
    for (int64_t g = 0; g < cols / group; g++) {
        bool has_grid = *scale > 0 && isfinite(*scale);
        group_grid grid = has_grid ? best_grid(copy + g * group, group, *scale, mse) : (group_grid){1, 0};
        group_scale[g] = (uint8_t)grid.scale;
        group_zero[g] = (uint8_t)grid.zero;
        for (int64_t k = g * group; k < (g + 1) * group; k++) {
            double code = has_grid ? x[k] / *scale / grid.scale + grid.zero : grid.zero;
            codes[k] = (int8_t)clamp(rint(isnan(code) ? grid.zero : code), 0, 15);
        }
    }
}

/* ---- rows ---- */

/* The largest size of the elements, NaNs left out, which are copied as 0. */
static double copy_row(const double *row, int64_t n, float *copy) {
    double absmax = 0;
    for (int64_t k = 0; k < n; k++) {
        copy[k] = isnan(row[k]) ? 0.0f : (float)row[k];
        if (fabs(row[k]) > absmax) absmax = fabs(row[k]);
    }
    return absmax;
}

bool syl_ref_quantize(const double *x, int64_t rows, int64_t cols, syl_dtype scheme, bool mse,
                      const syl_ref_codes *out) {
    const syl_dtype_info *info = &syl_dtypes[scheme];
    code_range range = range_of(scheme);
    int64_t padded = (cols + LANES - 1) / LANES * LANES, groups = syl_row_groups(scheme, cols),
            size = cols / groups;
    float *copy = syl_ref_alloc(padded, sizeof *copy);
    if (!copy) return false;
    for (int64_t k = cols; k < padded; k++) copy[k] = 0;
    for (int64_t r = 0; r < rows; r++) {
        const double *row = x + r * cols;
        int8_t *codes = out->codes + r * cols;
        if (info->two_level) {
            double absmax = copy_row(row, cols, copy);
            quantize_two_level(row, copy, cols, size, absmax, mse, codes, &out->scales[r],
                               out->group_scale + r * groups, out->group_zero + r * groups);
            continue;
        }
        for (int64_t g = 0; g < groups; g++) {
            double absmax = copy_row(row + g * size, size, copy);
            out->scales[r * groups + g] =
                quantize_symmetric(row + g * size, copy, size, absmax, range, mse, codes + g * size);
        }
    }
    free(copy);
    return true;
}

int syl_ref_inner_code(int code, int group_scale, int group_zero) {
    return (int)clamp((code - group_zero) * group_scale, -127, 127);
}
