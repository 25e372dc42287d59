/* Exchanges of a row through shared memory without bank conflicts. */
#include "codegen/cuda/rows.h"

static int64_t column_of(const rows_layout *l, int64_t t, int k) {
    int64_t g = t % l->groups, columns = l->stride / l->w;
    return g / columns * l->r * l->stride + g % columns * l->w + k * l->stride;
}

/* Turns that a warp's access takes beyond one for each 128 bytes. */
static int conflicts(const rows_layout *l, rows_padding p, int threads, int64_t row_floats) {
    int width = l->w % 4 == 0 ? 4 : l->w % 2 == 0 ? 2 : 1, sum = 0;
    for (int k = 0; k < l->r && k < 8; k++)
        for (int begin = 0; begin < 32; begin += 32 / width) {
            int banks[32] = {0}, most = 0;
            for (int lane = begin; lane < begin + 32 / width; lane++) {
                int64_t j = column_of(l, lane % threads, k);
                int64_t at = lane / threads * row_floats + j + (j >> 5) * p.a + (j >> p.shift) * p.b;
                for (int i = 0; i < width; i++)
                    if (++banks[(at + i) % 32] > most) most = banks[(at + i) % 32];
            }
            sum += most - 1;
        }
    return sum * 8 / (l->r < 8 ? l->r : 8);
}

rows_padding rows_choose_padding(const rows_layout *from, const rows_layout *to, int threads,
                                 int64_t row_floats) {
    rows_padding best = {0, 5, 0};
    int least = conflicts(from, best, threads, row_floats) + conflicts(to, best, threads, row_floats);
    for (int a = 0; a <= 8; a += 4)
        for (int shift = 6; shift <= 10; shift++)
            for (int b = 0; b <= 16; b += 4) {
                rows_padding p = {a, shift, b};
                if (2 * a + (b << 6 >> shift) > 16) continue; /* a quarter of a row more is the limit */
                int n = conflicts(from, p, threads, row_floats) + conflicts(to, p, threads, row_floats);
                if (n < least) {
                    least = n;
                    best = p;
                }
            }
    return best;
}
