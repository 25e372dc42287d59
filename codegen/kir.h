/* Kernel IR: one description a kernel, from which the host (LLVM) and the CUDA printer generate code.
 *
 * Three kinds share one body of scalar instructions with row, column and element roles:
 *   ROWS       a row-wise kernel over `rows` rows of `cols` columns: the body is the whole kernel
 *   GEMM       a main loop acc[i, n] = sum over k of a[i, k] * w[n, k], then the body as its epilogue
 *   ATTENTION  causal attention over the paged KV cache; no body
 *   FULL_ATTENTION  attention within sequences of a fixed number of consecutive rows; no body
 * Kernels are compared and cached by their printed text (kir_print), so equal layers share code: whatever
 * changes the generated code must be printed. */
#ifndef SYL_CODEGEN_KIR_H
#define SYL_CODEGEN_KIR_H

#include <stdbool.h>
#include <stdint.h>
#include "base/arena.h"
#include "base/diag.h"

typedef enum kir_op {
#define KIR(ident, name, args, role, doc) KIR_##ident,
#include "codegen/kir.def"
    KIR_OP_COUNT
} kir_op;

typedef enum kir_role { KIR_UNIFORM, KIR_ROW, KIR_COL, KIR_ELEM, KIR_SAME, KIR_NONE } kir_role;
typedef enum kir_type {
    KIR_F32,
    KIR_F64,
    KIR_BF16,
    KIR_F16,
    KIR_I8,
    KIR_I32
} kir_type; /* registers: F32, F64, I8, I32 */
int kir_elem_bytes(kir_type elem);

typedef struct kir_op_info {
    const char *name, *doc;
    int args;
    kir_role role;
} kir_op_info;
extern const kir_op_info kir_ops[KIR_OP_COUNT];

/* What a buffer argument points at. */
typedef enum kir_shape {
    KIR_MATRIX,  /* [rows, cols], `stride` elements between rows */
    KIR_PER_ROW, /* [rows] */
    KIR_PER_COL, /* [cols] */
    KIR_TILED,   /* [rows, cols] in atoms of 8 rows x 128 bytes, for tensor cores (below) */
    KIR_PACKED,  /* GEMM weights in the order the main loop wants (host/pack.c, cuda/pack.c) */
    KIR_CACHE,   /* syl_kv_view (below) */
} kir_shape;

/* A tiled matrix: row i, byte b of the row (j * size of an element) lies at
 *     ((b / 128) * ceil(rows / 8) + i / 8) * 1024 + (i % 8) * 128 + (((b / 16) % 8) ^ (i % 8)) * 16 + b % 16
 * so a block of rows is one piece for each 128 bytes of k, and 8 rows of 16 bytes are free of bank conflicts in shared memory (the 128-byte
 * swizzle of wgmma). Rows are padded with zeros to whole 128 bytes by who writes them. */
enum { KIR_ATOM_ROWS = 8, KIR_ATOM_BYTES = 128 };

typedef struct kir_buffer {
    const char *name;
    kir_shape shape;
    kir_type elem;
    int64_t cols, stride;
    bool written;
} kir_buffer;

/* Pictures of channels x height x width elements in that order, cut into squares of patch x patch: n = (height / patch) (width / patch)
 * of them, row by row. Element e of patch p, e = [channel, row, column], is the pixel [channel, p / across * patch + row, p mod across *
 * patch + column], across = width / patch. */
typedef struct kir_pictures {
    int64_t channels, height, width, patch;
} kir_pictures;

typedef struct kir_inst {
    kir_op op;
    kir_type type;          /* of the result register */
    kir_role role;          /* of the result */
    int args[3];            /* instruction numbers, each smaller than its own */
    int buffer;             /* loads, stores, append, rope, project; else -1 */
    int second;             /* project: the buffer of d */
    double f;               /* imm; head_norm: eps; append_codes: clip */
    int table;              /* table */
    const int64_t *factors; /* hadamard */
    int n_factors;
    bool transpose;
    int heads, dims; /* rope; head_norm: heads */
    bool interleaved;
    kir_pictures pictures; /* load_patch, load_picture */
} kir_inst;

typedef struct kir_table {
    int64_t n;
    const double *values;
} kir_table;

/* How keys or values are stored. bits 0: as elements. bits 4 or 8: codes with a scale and a zero point for each
 * `group` features of a head. */
typedef struct kir_codes {
    int bits, group;
} kir_codes;

/* One layer of the KV cache. */
typedef struct kir_cache {
    int heads, dim; /* kv heads, features of each; 0 where a kernel uses no cache */
    kir_type elem;  /* F32, BF16 or F16: of what is not quantized */
    kir_codes k, v;
} kir_cache;

typedef enum kir_kind { KIR_ROWS, KIR_GEMM, KIR_ATTENTION, KIR_FULL_ATTENTION } kir_kind;

/* How the products of the main loop are formed on the target. */
typedef enum kir_dot {
    KIR_DOT_F32,  /* a: F32 or BF16, w: F32 or BF16, f32 fma, k in order */
    KIR_DOT_I8,   /* i8 x i8: widened products, any machine */
    KIR_DOT_MADD, /* i8 x i8: pairs of k by pmaddwd (AVX2) */
    KIR_DOT_VNNI, /* (i8 + 128 as u8) x i8: fours of k by vpdpbusd; the packed weights carry -128 * sum_k w[n,
                     k] */
    KIR_DOT_MMA_I8,   /* i8 x i8 on CUDA tensor cores: a tiled, w in fragment order */
    KIR_DOT_MMA_BF16, /* bf16 x (bf16, or codes as bf16) on CUDA tensor cores, likewise; f32 sums */
} kir_dot;

/* How a GEMM's weights are coded. bits 0: as elements of the buffer's type. bits 4: codes that stand for INT8, as the
 * weight types of ir/types.def say; `group` values along k have parameters of their own: two_level, an integer scale
 * and a zero point inside INT8; else an f32 scale, by which each group's sum is multiplied. */
typedef struct kir_weight_codes {
    int bits, group;
    bool two_level;
} kir_weight_codes;

typedef struct kir_gemm {
    int a, w; /* buffers */
    int64_t n, k;
    kir_weight_codes codes;
    kir_dot dot;
    int mr, nr,
        ku;     /* micro tile: mr rows x nr columns, ku values of k a step; remaining rows run with 1 row */
    int mblock; /* rows of a task */
} kir_gemm;

/* A second product with the same tile, added in the epilogue: low_rank[i, n] = sum over r < rank of t[i, r] * u[n, r], by f32 fma,
 * r in order. rank 0: there is none. */
typedef struct kir_branch {
    int t,
        u; /* buffers: f32 or bf16 [rows, rank]; packed with the nr of the main loop, ku 1. CUDA: u in fragment order where t and u are
                 bf16 beside an MMA main loop, else as stored (KIR_MATRIX [n, rank]) */
    int64_t rank;
} kir_branch;

typedef struct kir_attention {
    int q, out, cache, pos, seq; /* buffers */
    int heads, kv_heads, head_dim;
    double scale;
    int mr; /* query rows sharing a pass over the keys when they are of one sequence */
} kir_attention;

typedef struct kir_full_attention {
    int q, k, v, out; /* buffers */
    int heads;
    int64_t head_dim, tokens; /* rows of a sequence */
    double scale;
    int mr; /* query rows sharing a pass over the keys */
} kir_full_attention;

typedef struct kir_kernel {
    kir_kind kind;
    const char *name;            /* descriptive: "rms_norm_quantize"; not part of the identity */
    int64_t cols;                /* ROWS */
    SYL_VEC(kir_buffer) buffers; /* in the order of the kernel's arguments */
    SYL_VEC(kir_inst) body;
    SYL_VEC(kir_table) tables;
    kir_gemm gemm;
    kir_branch branch; /* GEMM */
    kir_attention attention;
    kir_full_attention full_attention;
    kir_cache cache;
} kir_kernel;

/* KIR_PROJECT_COLS: the work row of a projection is rounded up to so many columns. */
enum { KIR_LANES = 16, KIR_PROJECT_COLS = 128, SYL_KV_PAGE = 64 };

/* Where the parts of one kv head lie, in bytes from its begin in a page of SYL_KV_PAGE positions:
 *   keys    [head_dim][SYL_KV_PAGE] elements or 8-bit codes; 4 bits: [head_dim / 2, rounded up][SYL_KV_PAGE] bytes
 *   values  [SYL_KV_PAGE][head_dim], likewise
 *   for each group of keys, then of values: scales bf16[SYL_KV_PAGE], zero points u8[SYL_KV_PAGE]
 * A byte of 4-bit codes holds features 2i (low half) and 2i + 1 of one position, so that no two positions share a
 * byte. Every part is a multiple of 64 bytes. */
typedef struct kir_cache_layout {
    int64_t values, k_groups, v_groups, size;
} kir_cache_layout;
enum { KIR_GROUP_BYTES = 3 * SYL_KV_PAGE, KIR_GROUP_ZEROS = 2 * SYL_KV_PAGE };

int64_t kir_cache_unit(const kir_cache *cache,
                       kir_codes codes); /* bytes of an element or of one or two codes */
int64_t kir_cache_units(const kir_cache *cache, kir_codes codes); /* of the features of a position */
int64_t kir_cache_groups(const kir_cache *cache,
                         kir_codes codes); /* of a head; 0 where it is not quantized */
kir_cache_layout kir_cache_layout_of(const kir_cache *cache);

/* The order of sums in attention, on every target: a score is so many chains of fma, over equal parts of the features, added as (0 + 1) + (2 + 3). */
static inline int kir_score_chains(int64_t head_dim) {
    return head_dim % 8 == 0 ? 4 : 1;
}
/* On the host, keys and values of a sequence of full attention stand in pages of this form. */
kir_cache kir_full_attention_pages(const kir_full_attention *attention);

/* One layer of the KV cache as kernels see it. A page holds SYL_KV_PAGE positions of one sequence for all
 * layers: [layer][kv_head] of kir_cache_layout. Pages start zeroed. */
typedef struct syl_kv_view {
    void *const *pages;   /* page number -> memory */
    const int32_t *table; /* [sequences][table_stride]: page number of position p of sequence s is table[s *
                             table_stride + p / SYL_KV_PAGE] */
    int64_t table_stride;
    int64_t layer_offset; /* bytes from the start of a page to this layer: a view is of one layer, so layers
                             share code */
} syl_kv_view;

/* The generated function. buffers[i] is the i-th buffer (KIR_CACHE: const syl_kv_view *). Tasks [begin, end)
 * of kir_tasks() many; scratch has kir_scratch() bytes, 64-byte aligned, one a thread. Buffers have 64
 * readable bytes behind their end. */
typedef void (*kir_function)(void *const *buffers, int64_t rows, int64_t begin, int64_t end, void *scratch);

/* Number of independent tasks for a number of rows. ROWS: a task a row. GEMM: task t = block of mblock rows
 * (t / panels), panel of nr columns (t % panels). ATTENTION: task t = block of mr rows (t / heads), head (t %
 * heads). */
int64_t kir_tasks(const kir_kernel *kernel, int64_t rows);
int64_t kir_scratch(const kir_kernel *kernel);
/* GEMM: the type of the sums that reach the epilogue, and whether groups are scaled in f32 on the way. */
kir_type kir_acc_type(const kir_gemm *gemm);
bool kir_scaled_groups(const kir_weight_codes *codes);
/* GEMM with 4-bit weights: bytes from the start of the scratch to the place of an expanded panel. */
int64_t kir_panel_scratch(const kir_gemm *gemm);

/* Appends an instruction, computing role (and type where it follows from the operands); returns its number.
 */
int kir_emit(syl_arena *arena, kir_kernel *kernel, kir_inst inst);
int kir_add_buffer(syl_arena *arena, kir_kernel *kernel, kir_buffer buffer);

/* The schedule of a ROWS body: row-wide instructions (reductions, transforms) cut it into stages; stage[i] is
 * that of instruction i. Elements that later stages need are kept in a scratch row (keep[i]) unless they are
 * loads or cheap, which are computed again. Arrays have body.n entries. */
void kir_schedule(const kir_kernel *kernel, int *stage, bool *keep);

void kir_print(const kir_kernel *kernel, syl_text *out);
/* Internal consistency: operand numbers, roles, types, buffers, sizes. */
SYL_NODISCARD syl_status kir_verify(const kir_kernel *kernel, syl_diag *diag);

#endif
