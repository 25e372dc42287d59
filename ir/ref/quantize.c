/* Quantization of weights: scales of least squared error by search, codes rounded once from the exact values.
 *
 * The search runs over every weight of a model 41 times, so its loop is made for vectors: eight sums side by
 * side, always added up in the same order, so that every machine finds the same scale. */
#include <math.h>
#include <stdlib.h>
#include "base/numeric.h"
#include "ir/ref/ops.h"

enum { LANES = 8, STEP = 32 * LANES, CANDIDATES = 41 };

/* Sum of (x - scale * code)^2 over n elements, n a multiple of LANES; or, once they exceed `limit`, of the
 * first ones: the sum only grows, so stopping early never changes which candidate wins. */
static double squared_error(const float *x, int64_t n, float scale, double limit) {
    const float inverse = 1.0f / scale,
                magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer, ties to even */
    double sum[LANES] = {0}, total = 0;
    for (int64_t begin = 0; begin < n && !(total > limit); begin += STEP) {
        int64_t end = begin + STEP < n ? begin + STEP : n;
        for (int64_t i = begin; i < end; i += LANES)
            for (int j = 0; j < LANES; j++) {
                float code = x[i + j] * inverse;
                code = code < 127.0f ? code : 127.0f;
                code = code > -127.0f ? code : -127.0f;
                code = (code + magic) - magic;
                float error = x[i + j] - code * scale;
                sum[j] += (double)error * (double)error;
            }
        total = ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
    }
    return total;
}

static float best_scale(const float *x, int64_t n, double absmax) {
    float best = (float)(absmax / 127);
    double least = squared_error(x, n, best, INFINITY);
    for (int i = 1; i < CANDIDATES; i++) {
        float scale = (float)(absmax * (100 - i) / 100 / 127);
        double error = scale > 0 ? squared_error(x, n, scale, least) : INFINITY;
        if (error < least) {
            least = error;
            best = scale;
        }
    }
    return best;
}

bool syl_ref_quantize(const double *x, int64_t rows, int64_t cols, bool mse, int8_t *codes, float *scales) {
    int64_t padded = (cols + LANES - 1) / LANES * LANES;
    float *copy = syl_ref_alloc(padded, sizeof *copy);
    if (!copy) return false;
    for (int64_t k = cols; k < padded; k++) copy[k] = 0;
    for (int64_t r = 0; r < rows; r++) {
        const double *row = x + r * cols;
        double absmax = 0;
        for (int64_t k = 0; k < cols; k++) {
            copy[k] = isnan(row[k]) ? 0.0f : (float)row[k];
            if (fabs(row[k]) > absmax) absmax = fabs(row[k]);
        }
        float scale = (float)(absmax / 127);
        if (mse && scale > 0) scale = best_scale(copy, padded, absmax);
        for (int64_t k = 0; k < cols; k++)
            codes[r * cols + k] = scale > 0 ? syl_int8_from_f64(row[k] / scale) : 0;
        scales[r] = scale;
    }
    free(copy);
    return true;
}
