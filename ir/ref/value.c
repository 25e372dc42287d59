/* Values of the interpreter: tensors with a count of references, and the dense store behind a kv cache. */
#include <stdlib.h>
#include <string.h>
#include "base/numeric.h"
#include "base/size.h"
#include "ir/ref/ops.h"

void *syl_ref_alloc(int64_t count, size_t size) {
    size_t total;
    if (count < 0 || !syl_size_mul((size_t)count, size, &total)) return NULL;
    return syl_alloc_aligned(total);
}

syl_status syl_ref_no_memory(const syl_ref_call *call) {
    return syl_error(call->diag, SYL_ERR_out_of_memory, call->op->loc, "no memory to evaluate %s",
                     syl_ops[call->op->code].name);
}

double syl_ref_round(syl_dtype dtype, double x) {
    switch (dtype) {
    case SYL_bf16:
        return syl_bf16_to_f32(syl_bf16_from_f64(x));
    case SYL_f16:
        return syl_f16_to_f32(syl_f16_from_f64(x));
    default:
        return (float)x;
    }
}

/* ---- tensors ---- */

static bool create_codes(syl_ref_tensor *tensor, int64_t n) {
    const syl_dtype_info *info = &syl_dtypes[tensor->dtype];
    int64_t rows = tensor->dims[0], groups = info->group ? n / info->group : rows;
    tensor->codes = syl_ref_alloc(n, sizeof *tensor->codes);
    tensor->scales = syl_ref_alloc(info->row_scale ? rows : groups, sizeof *tensor->scales);
    if (!tensor->codes || !tensor->scales) return false;
    if (!info->two_level) return true;
    tensor->group_scale = syl_ref_alloc(groups, 1);
    tensor->group_zero = syl_ref_alloc(groups, 1);
    return tensor->group_scale && tensor->group_zero;
}

syl_ref_tensor *syl_ref_tensor_create(syl_dtype dtype, int rank, const int64_t *dims) {
    int64_t n = 1;
    for (int i = 0; i < rank; i++)
        if (dims[i] < 0 || __builtin_mul_overflow(n, dims[i], &n)) return NULL;
    syl_ref_tensor *tensor = calloc(1, sizeof *tensor);
    if (!tensor) return NULL;
    tensor->dtype = dtype;
    tensor->rank = rank;
    tensor->refs = 1;
    memcpy(tensor->dims, dims, (size_t)rank * sizeof *dims);
    bool ok;
    switch (syl_dtypes[dtype].class) {
    case SYL_CLASS_INT:
        ok = (tensor->ints = syl_ref_alloc(n, sizeof *tensor->ints)) != NULL;
        break;
    case SYL_CLASS_QUANT:
        ok = create_codes(tensor, n);
        break;
    default:
        ok = (tensor->data = syl_ref_alloc(n, sizeof *tensor->data)) != NULL;
        break;
    }
    if (ok) return tensor;
    syl_ref_tensor_release(tensor);
    return NULL;
}

syl_ref_tensor *syl_ref_tensor_share(syl_ref_tensor *tensor) {
    tensor->refs++;
    return tensor;
}

void syl_ref_tensor_release(syl_ref_tensor *tensor) {
    if (!tensor || --tensor->refs > 0) return;
    free(tensor->data);
    free(tensor->ints);
    free(tensor->codes);
    free(tensor->scales);
    free(tensor->group_scale);
    free(tensor->group_zero);
    free(tensor);
}

int64_t syl_ref_tensor_elements(const syl_ref_tensor *tensor) {
    int64_t n = 1;
    for (int i = 0; i < tensor->rank; i++) n *= tensor->dims[i];
    return n;
}

syl_ref_view syl_ref_view_of(const syl_ref_tensor *tensor, int64_t axis) {
    syl_ref_view view = {1, tensor->dims[axis], 1};
    for (int i = 0; i < axis; i++) view.outer *= tensor->dims[i];
    for (int i = (int)axis + 1; i < tensor->rank; i++) view.inner *= tensor->dims[i];
    return view;
}

/* ---- kv ---- */

/* The positions of one layer of one sequence. */
typedef struct kv_rows {
    double *rows; /* [cap][2][width] */
    bool *filled; /* [cap] */
    int64_t cap;
} kv_rows;

struct syl_ref_kv {
    int64_t layers, width, seqs;
    kv_rows *table; /* [seqs][layers] */
};

syl_ref_kv *syl_ref_kv_create(const syl_type *type) {
    syl_ref_kv *kv = calloc(1, sizeof *kv);
    if (!kv) return NULL;
    kv->layers = type->dims[0].size;
    if (!__builtin_mul_overflow(type->dims[1].size, type->dims[2].size, &kv->width)) return kv;
    free(kv);
    return NULL;
}

void syl_ref_kv_destroy(syl_ref_kv *kv) {
    if (!kv) return;
    for (int64_t i = 0; i < kv->seqs * kv->layers; i++) {
        free(kv->table[i].rows);
        free(kv->table[i].filled);
    }
    free(kv->table);
    free(kv);
}

double *syl_ref_kv_find(const syl_ref_kv *kv, int64_t layer, int32_t seq, int32_t pos) {
    if (seq < 0 || seq >= kv->seqs || pos < 0) return NULL;
    const kv_rows *rows = &kv->table[seq * kv->layers + layer];
    if (pos >= rows->cap || !rows->filled[pos]) return NULL;
    return rows->rows + pos * 2 * kv->width;
}

static bool grow_seqs(syl_ref_kv *kv, int64_t seqs) {
    int64_t count;
    if (__builtin_mul_overflow(seqs, kv->layers, &count)) return false;
    kv_rows *table = calloc((size_t)count, sizeof *table);
    if (!table) return false;
    if (kv->table) memcpy(table, kv->table, (size_t)(kv->seqs * kv->layers) * sizeof *table);
    free(kv->table);
    kv->table = table;
    kv->seqs = seqs;
    return true;
}

static bool grow_rows(kv_rows *rows, int64_t width, int64_t cap) {
    int64_t count;
    if (__builtin_mul_overflow(cap * 2, width, &count)) return false;
    double *fresh = syl_ref_alloc(count, sizeof *fresh);
    bool *filled = calloc((size_t)cap, sizeof *filled);
    if (!fresh || !filled) {
        free(fresh);
        free(filled);
        return false;
    }
    if (rows->cap) memcpy(fresh, rows->rows, (size_t)(rows->cap * 2 * width) * sizeof *fresh);
    if (rows->cap) memcpy(filled, rows->filled, (size_t)rows->cap * sizeof *filled);
    free(rows->rows);
    free(rows->filled);
    *rows = (kv_rows){fresh, filled, cap};
    return true;
}

double *syl_ref_kv_make(syl_ref_kv *kv, int64_t layer, int32_t seq, int32_t pos) {
    if (seq >= kv->seqs && !grow_seqs(kv, (int64_t)seq + 1)) return NULL;
    kv_rows *rows = &kv->table[seq * kv->layers + layer];
    if (pos >= rows->cap &&
        !grow_rows(rows, kv->width, pos + 1 > rows->cap * 2 ? (int64_t)pos + 1 : rows->cap * 2))
        return NULL;
    rows->filled[pos] = true;
    return rows->rows + pos * 2 * kv->width;
}
