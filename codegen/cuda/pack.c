/* Weights for tensor cores: fragment order, in which a lane's 16 bytes are the registers of an mma operand A (cuda.h).
 *
 * The unit is 64 rows (output channels) by a chunk of k: 128 INT8 values, or 64 bf16 (less where the whole k is): what stands beside 128 bytes of
 * a tiled activation row. Units of the same rows follow each other along k. In a unit, for each of its 4 blocks of 16 rows, pieces of 512 bytes:
 *     i8 x i8      a piece is 32 of k, one mma m16n8k32
 *     int4 x i8    64 of k: low halves of the bytes are the first 32, high halves the second
 *     bf16 x bf16  16 of k, one mma m16n8k16
 *     i8 x bf16    32 of k: 8 bytes for each 16 of k
 *     int4 x bf16  64 of k: 4 bytes for each 16 of k, elements (2j, 2j + 1) in bits 4j and 16 + 4j
 * Behind the pieces stand the parameters of the groups that the chunk touches, for each group by block and row r of the upper 8:
 *     two-level    u8 s[r], z[r], s[r + 8], z[r + 8]
 *     f32 scales   f32 scale[r], scale[r + 8]
 * Symmetric INT4 codes are two's complement where they meet INT8, and code + 8 where they meet bf16. Rows and k are padded with zero values. */
#include <string.h>
#include "base/size.h"
#include "codegen/cuda/emit.h"

bool cu_is_mma(kir_dot dot) {
    return dot == KIR_DOT_MMA_I8 || dot == KIR_DOT_MMA_BF16;
}

cu_layout cu_layout_of(kir_dot dot, kir_type elem, const kir_weight_codes *codes, int64_t k) {
    bool integer = dot == KIR_DOT_MMA_I8;
    int bits = codes->bits ? codes->bits : elem == KIR_I8 ? 8 : 16;
    cu_layout l = {.mmas = 4, .mma_k = integer ? 32 : 16};
    if (!integer && bits == 16 && k < 64) l.mmas = (int)syl_ceil_div(k, 16);
    l.chunk_k = l.mmas * l.mma_k;
    l.chunks = syl_ceil_div(k, l.chunk_k);
    l.data = 64 * l.chunk_k * bits / 8;
    l.groups = codes->group ? codes->group < l.chunk_k ? l.chunk_k / codes->group : 1 : 0;
    l.params = l.groups * (codes->two_level ? 128 : 256);
    l.chunk = l.data + l.params;
    return l;
}

static cu_layout layout_of(const syl_plan_weight *w) {
    return cu_layout_of(w->dot, w->elem, &w->codes, w->cols);
}

int64_t syl_cuda_pack_units(const syl_plan_weight *weight) {
    return syl_ceil_div(weight->rows, 64);
}

bool syl_cuda_packed_size(const syl_plan_weight *weight, size_t *out) {
    if (!cu_is_mma(weight->dot)) return cu_pack_simt_size(weight, out);
    cu_layout l = layout_of(weight);
    return syl_size_mul((size_t)syl_cuda_pack_units(weight), (size_t)l.chunks, out) &&
           syl_size_mul(*out, (size_t)l.chunk, out);
}

/* ---- codes ---- */

static int nibble(const uint8_t *row, int64_t k) {
    return row[k / 2] >> 4 * (k % 2) & 15;
}

/* Where the value of row r (of 16) and k (of the piece) lies in a piece of values of `bytes` bytes for an mma of mma_k: bytes from its begin. */
static int place_of(int r, int k, int mma_k, int bytes) {
    int half = mma_k / 2, per_register = 4 / bytes;
    int lane = r % 8 * 4 + k % half / per_register, reg = (r >= 8) + 2 * (k >= half);
    return lane * 16 + reg * 4 + k % per_register * bytes;
}

static void pack_row_i8(const uint8_t *row, int64_t n, int r, unsigned char *block) {
    for (int k = 0; k < n; k += 4) { /* four of k are one register */
        unsigned char *to = block + k / 32 * 512 + place_of(r, k % 32, 32, 1);
        for (int i = 0; i < 4 && k + i < n; i++) to[i] = row[k + i];
    }
}

static void pack_row_bf16(const uint16_t *row, int64_t n, int r, unsigned char *block) {
    for (int k = 0; k < n; k++) memcpy(block + k / 16 * 512 + place_of(r, k % 16, 16, 2), row + k, 2);
}

static void pack_row_i8_bf16(const uint8_t *row, int64_t n, int r, unsigned char *block) {
    for (int k = 0; k < n; k++) {
        int place = place_of(r, k % 16, 16, 2); /* lane * 16 + reg * 4 + 2 * (k % 2) */
        block[k / 32 * 512 + place / 16 * 16 + k % 32 / 16 * 8 + place % 16 / 2] = row[k];
    }
}

static void pack_row_i4(const uint8_t *row, int64_t begin, int64_t n, int r, int flip, unsigned char *block) {
    for (int k = 0; k < n; k++)
        block[k / 64 * 512 + place_of(r, k % 32, 32, 1)] |=
            (unsigned char)((nibble(row, begin + k) ^ flip) << 4 * (k % 64 / 32));
}

static void pack_row_i4_bf16(const uint8_t *row, int64_t begin, int64_t n, int r, int flip,
                             unsigned char *block) {
    for (int k = 0; k < n; k++) {
        int place = place_of(r, k % 16, 16, 2), reg = place % 16 / 4, shift = 16 * (k % 2) + 4 * reg;
        block[place / 16 * 16 + k / 16 * 4 + shift / 8] |=
            (unsigned char)((nibble(row, begin + k) ^ flip) << shift % 8);
    }
}

/* One row of a chunk: k in [begin, begin + n). */
static void pack_row(const syl_plan_weight *w, const syl_weight_source *source, int64_t row, int64_t begin,
                     int64_t n, int r, unsigned char *block) {
    bool integer = w->dot == KIR_DOT_MMA_I8;
    if (w->codes.bits ==
        4) { /* the artifact's nibbles: unsigned q of two-level types, else two's complement */
        const uint8_t *from = (const uint8_t *)source->data + row * (w->cols / 2);
        int flip = !integer && !w->codes.two_level ? 8 : 0; /* two's complement to code + 8 */
        integer ? pack_row_i4(from, begin, n, r, flip, block)
                : pack_row_i4_bf16(from, begin, n, r, flip, block);
    } else if (w->elem == KIR_I8) {
        const uint8_t *from = (const uint8_t *)source->data + row * w->cols + begin;
        integer ? pack_row_i8(from, n, r, block) : pack_row_i8_bf16(from, n, r, block);
    } else {
        pack_row_bf16((const uint16_t *)source->data + row * w->cols + begin, n, r, block);
    }
}

/* The zero points of padding: codes 0 must stand for the value 0 there, whatever the kernel multiplies with, so s and z are 0. */
static void pack_params(const syl_plan_weight *w, const syl_weight_source *source, const cu_layout *l,
                        int64_t row, int64_t chunk, unsigned char *params) {
    int64_t groups = w->cols / w->codes.group;
    int r = (int)(row % 16), block = (int)(row % 64 / 16);
    for (int g = 0; g < l->groups; g++) {
        int64_t group = chunk * l->chunk_k / w->codes.group + g;
        if (group >= groups) break;
        if (w->codes.two_level) {
            unsigned char *to = params + g * 128 + block * 32 + r % 8 * 4 + r / 8 * 2;
            to[0] = source->group_scale[row * groups + group];
            to[1] = source->group_zero[row * groups + group];
        } else {
            memcpy(params + g * 256 + block * 64 + r % 8 * 8 + r / 8 * 4,
                   source->scales + row * groups + group, 4);
        }
    }
}

/* Codes of a two-level weight mean INT8 values that no cutting to [-127, 127] changes: kernels compute (q - z) s in bytes. */
static bool codes_fit(const syl_plan_weight *w, const syl_weight_source *source, int64_t row) {
    const uint8_t *codes = (const uint8_t *)source->data + row * (w->cols / 2);
    int64_t groups = w->cols / w->codes.group;
    for (int64_t g = 0; g < groups; g++) {
        int s = source->group_scale[row * groups + g], z = source->group_zero[row * groups + g];
        int low = z - 127 / (s ? s : 1), high = z + 127 / (s ? s : 1);
        if (low <= 0 && high >= 15) continue;
        for (int64_t k = g * w->codes.group; k < (g + 1) * w->codes.group; k++) {
            int q = nibble(codes, k);
            if (q < low || q > high) return false;
        }
    }
    return true;
}

bool syl_cuda_pack(const syl_plan_weight *weight, const syl_weight_source *source, void *packed,
                   int64_t begin, int64_t end) {
    if (!cu_is_mma(weight->dot)) {
        cu_pack_simt(weight, source, packed, begin, end);
        return true;
    }
    cu_layout l = layout_of(weight);
    bool fits = true;
    unsigned char *units = packed;
    memset(units + begin * l.chunks * l.chunk, 0, (size_t)((end - begin) * l.chunks * l.chunk));
    for (int64_t row = begin * 64; row < end * 64 && row < weight->rows; row++) {
        if (weight->codes.two_level) fits = codes_fit(weight, source, row) && fits;
        for (int64_t c = 0; c < l.chunks; c++) {
            unsigned char *unit = units + (row / 64 * l.chunks + c) * l.chunk;
            int64_t k = c * l.chunk_k, n = weight->cols - k < l.chunk_k ? weight->cols - k : l.chunk_k;
            pack_row(weight, source, row, k, n, (int)(row % 16), unit + row % 64 / 16 * (l.data / 4));
            if (l.groups) pack_params(weight, source, &l, row, c, unit + l.data);
        }
    }
    return fits;
}
