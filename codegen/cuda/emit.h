/* Printing CUDA C++ (private to codegen/cuda): what the families share. body.c prints scalar instructions, which are the same in row-wise
 * kernels and in the epilogues of GEMMs; templates/ holds the .cuh files, embedded in the library. */
#ifndef SYL_CODEGEN_CUDA_EMIT_H
#define SYL_CODEGEN_CUDA_EMIT_H

#include "codegen/cuda/cuda.h"

typedef struct cu_source {
    const kir_kernel *kernel;
    const syl_cuda_target *target;
    const syl_cuda_variant *variant;
    syl_arena *arena;
    syl_diag *diag;
    syl_text *out;
    syl_cuda_launch *launch;
    const char *space; /* of a source of several kernels: the namespace this one is printed in; NULL: none */
} cu_source;

/* One row of kernels.def, in the file named after it. */
typedef bool cu_fits(const kir_kernel *kernel, const syl_cuda_target *target,
                     const syl_cuda_variant *variant);
typedef syl_status cu_emit(cu_source *s);
typedef double cu_cost(const kir_kernel *kernel, const syl_cuda_target *target,
                       const syl_cuda_variant *variant, int64_t rows);
#define KERNEL(ident, ...)                                                                                   \
    cu_fits cu_fits_##ident;                                                                                 \
    cu_emit cu_emit_##ident;                                                                                 \
    cu_cost cu_cost_##ident;
#include "codegen/cuda/kernels.def"

/* The value of a parameter by its name; the name must be one of the row's. */
int cu_param(const syl_cuda_variant *variant, const char *name);

/* Appends a template ("tile.cuh") once; those it names by #include "..." stand in front of it. */
void cu_template(cu_source *s, const char *name);

/* C type of a buffer's elements in memory ("float", "bf16", "f16", "int8_t", "int32_t", "double"), of a register, and bytes of an element. */
const char *cu_elem_type(kir_type elem);
const char *cu_register_type(kir_type type);
int cu_elem_bytes(kir_type elem);

/* Prints `struct Args { void *buffers[n]; void *workspace; int rows, positions; };` with a comment of each buffer, and the constant tables. */
void cu_print_args(cu_source *s);

/* An epilogue as a function template, for families that hold a tile of sums in registers:
 *     template <int ROWS, int COLS> void epilogue(const Args &args, int first, int column, const T (*acc)[COLS], const float (*low)[COLS])
 * for rows [first, first + ROWS) and columns [column, column + COLS), those that exist; T is the type of the kernel's sums. */
SYL_NODISCARD syl_status cu_print_epilogue(cu_source *s);
/* Zeros behind the last column of tiled results, up to whole atoms, for rows [first, end): by all threads of a block. */
void cu_print_tiled_padding(cu_source *s, const char *first, const char *end, const char *indent);

/* Weights of KIR_DOT_F32 and KIR_DOT_I8 (pack_simt.c): panels of 32 channels, 16 bytes of each channel side by side; codes of 4 bits become INT8
 * values. Blocks are of 64 channels. */
bool cu_pack_simt_size(const syl_plan_weight *weight, size_t *out);
void cu_pack_simt(const syl_plan_weight *weight, const syl_weight_source *source, void *packed, int64_t begin,
                  int64_t end);
/* Bytes of the panels, in front of the scales of groups. */
int64_t cu_pack_simt_panels(int64_t n, int64_t k, kir_type elem);

/* ---- kernels in a launch with others (fused.c) ---- */

/* A row-wise kernel in blocks that are not its own. Rows have as many threads as in a launch of their own, so that their sums have the same
 * order; threads that are left over compute a row and store nothing. */
typedef struct cu_rows_part {
    bool fits;
    int threads;    /* of the block that take part: at least a row's */
    int rows;       /* that are computed together */
    int registers;  /* of a thread, about, beside what waits meanwhile */
    int64_t shared; /* bytes */
    double seconds; /* that all rows take a block, without the launch */
} cu_rows_part;
/* For blocks of so many threads that have so many rows to compute. */
cu_rows_part cu_rows_part_of(const kir_kernel *kernel, int threads, int64_t rows);
/* Prints Args and `compute_rows(const Args &args, int first, int end)`, for part->threads threads; `shared`: where its shared memory begins; `waits`: it waits
 * for the kernel in front itself, which a kernel with appends must. */
SYL_NODISCARD syl_status cu_print_rows_part(cu_source *s, const cu_rows_part *part, int64_t shared,
                                            bool waits);

/* A GEMM of gemm_stream behind a prologue: its shared memory in bytes, in front of the prologue's; where the tokens' codes begin there; its time
 * where each block first computes for `before` seconds, and has `more` bytes of shared memory. `registers`: so many of a thread's are left for weights while
 * it computes rows; at least one chunk's. */
typedef struct cu_stream_part {
    bool fits;
    int threads, registers; /* that a chunk of weights takes of a thread */
    int64_t shared, tokens;
} cu_stream_part;
cu_stream_part cu_stream_part_of(const kir_kernel *kernel, const syl_cuda_target *target,
                                 const syl_cuda_variant *variant);
double cu_stream_part_cost(const kir_kernel *kernel, const syl_cuda_target *target,
                           const syl_cuda_variant *variant, int registers, double before, int64_t more);
/* Prints Args, Epilogue and Shape, and fills the launch but for threads and shared memory. */
SYL_NODISCARD syl_status cu_print_stream_part(cu_source *s, int registers);

/* The entry's name of a kernel: "syl_" and its name. */
void cu_name_entry(const char *name, syl_cuda_launch *launch);
/* The comment in front of a kernel's code: variant and kernel IR. */
void cu_print_comment(cu_source *s);

/* What a load, store or scalar instruction computes: for a load or an operation a C expression, for a store a statement without its
 * semicolon, at row `i` and column `j` (texts of C expressions, ints). Operands are read as v<number><suffix> where their role is ELEM or COL, as
 * v<number> where it is ROW or UNIFORM. Loads read global memory (args.buffers), stores write it, tiled buffers by their address; store_row and
 * stores are for one thread a value. False for row-wide instructions, appends, acc and low_rank, which the family prints itself. */
typedef struct cu_place {
    const char *i, *j, *suffix;
} cu_place;
bool cu_expression(cu_source *s, int index, const cu_place *place, syl_text *out);
/* Prints the declaration `const float v<index><suffix> = ...;` (no suffix where the role is ROW or UNIFORM), or the statement of a store. */
bool cu_print_inst(cu_source *s, int index, const cu_place *place, const char *indent);
/* "v7[e]", "v7_0" or "v7": how instruction `index` is read. */
const char *cu_name(cu_source *s, int index, const char *suffix);
/* An f32 constant, exactly: "0x1.8p+1f". */
const char *cu_float(cu_source *s, double value);

/* ---- weights (pack.c) ---- */

bool cu_is_mma(kir_dot dot);
/* Fragment order of a weight, as pack.c describes it. Sizes in bytes. */
typedef struct cu_layout {
    int64_t chunks;           /* along k */
    int mmas, mma_k, chunk_k; /* mma instructions of a chunk, k of each, and of all */
    int groups;               /* of parameters in a chunk; 0: codes have none */
    int data, params, chunk;  /* of 64 rows: codes or elements, parameters, both */
} cu_layout;
cu_layout cu_layout_of(kir_dot dot, kir_type elem, const kir_weight_codes *codes, int64_t k);

#endif
