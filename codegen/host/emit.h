/* Internal to codegen/host: building LLVM IR for one kernel. Everything here works on an `em`: one LLVM context, one module, one
 * builder, used by one thread. Values are LLVM values; "vector" means KIR_LANES lanes unless said, whatever the machine's registers are: LLVM
 * splits them, so the order of float operations is the same on every machine. No fast-math flag is ever set. */
#ifndef SYL_CODEGEN_HOST_EMIT_H
#define SYL_CODEGEN_HOST_EMIT_H

#include <llvm-c/Core.h>
#include "base/hash.h"
#include "codegen/host/host.h"

typedef LLVMValueRef em_value;
typedef LLVMTypeRef em_type;

typedef struct em {
    const kir_kernel *kernel;
    const syl_host_target *target;
    syl_arena arena; /* for this kernel's emission */
    LLVMContextRef context;
    LLVMModuleRef module;
    LLVMBuilderRef b;
    em_value function;                                                 /* under construction */
    em_type nothing, ptr, i1, i8, i16, i32, i64, f32, f64, f32v, i32v; /* f32v, i32v: KIR_LANES lanes */
    em_value *buffers; /* base pointer of each buffer, loaded in the entry block of the current function */
    em_value rows, begin, end, scratch; /* arguments of the kernel's function */
} em;

/* ---- llvm_util.c ---- */

/* A fresh module for the target; the kernel's arguments outlive it. dispose frees all that emission made, module included. */
void em_init(em *e, const kir_kernel *kernel, const syl_host_target *target);
void em_dispose(em *e);

/* Starts the kernel's function `symbol` with its entry block, and fills buffers, rows, begin, end, scratch. */
void em_begin_kernel(em *e, const char *symbol);
void em_load_buffers(em *e, em_value arguments); /* fills buffers from the array of pointers, at this place */
/* Starts an internal function with pointer/i64 parameters, never inlined; em_resume goes back to where the builder stood. */
typedef struct em_place {
    em_value function;
    LLVMBasicBlockRef block;
} em_place;
em_value em_begin_helper(em *e, const char *name, const em_type *params, int n, em_place *saved);
void em_end_helper(em *e, em_place saved);
em_value em_call_helper(em *e, em_value helper, em_value *args, int n);

em_type em_vec(em_type element, int lanes);
em_type em_lane(em_type type);                   /* the element of a vector type, or the type itself */
int em_lanes(em_type type);                      /* 0 for a scalar */
em_type em_like(em_type shape, em_type element); /* `element`, with as many lanes as `shape` has */
em_value em_int(em_type type, int64_t value);    /* splatted where the type is a vector */
em_value em_real(em_type type, double value);
em_value em_long(em *e, int64_t value); /* i64 */
em_value em_splat(em *e, em_value scalar, int lanes);
em_value em_ints(em_type element, const int64_t *values, int n); /* constant vector */
em_value em_first_lanes(em *e, int valid, int lanes);            /* constant mask: the first `valid` lanes */

em_value em_add(em *e, em_value a, em_value b); /* integers */
em_value em_mul(em *e, em_value a, em_value b);
em_value em_mul_add(em *e, em_value a, int64_t factor, em_value b); /* a * factor + b, i64 */
em_value em_min(em *e, em_value a, em_value b);                     /* signed */

em_value em_at(em *e, em_type element, em_value pointer, em_value index);
em_value em_offset(em *e, em_value pointer, int64_t bytes);
em_value em_load(em *e, em_type type, em_value pointer, int align);
void em_store(em *e, em_value value, em_value pointer, int align);
void em_store_first(em *e, em_value vector, em_value pointer, int align,
                    int valid);                          /* the first `valid` lanes */
em_value em_local(em *e, em_type type);                  /* stack memory, allocated in the entry block */
em_value em_local_array(em *e, em_type type, int64_t n); /* 64-byte aligned */
em_value em_global(em *e, const char *name, em_value constant); /* private constant data, 64-byte aligned */
em_value em_intrinsic(em *e, const char *name, em_type *overloads, int n_overloads, em_value *args,
                      int n_args);
em_value em_fma(em *e, em_value a, em_value b, em_value c); /* fused where the target can */
em_value em_shuffle(em *e, em_value a, em_value b, const int *lanes, int n);

/* for (index = lo; index < hi; index += step) between begin and end. */
typedef struct em_loop {
    LLVMBasicBlockRef head, exit;
    em_value index;
    int64_t step;
} em_loop;
em_loop em_loop_begin(em *e, em_value lo, em_value hi, int64_t step);
void em_loop_end(em *e, em_loop *loop);
/* if (condition) ... else ... */
typedef struct em_branch {
    LLVMBasicBlockRef otherwise, exit;
} em_branch;
em_branch em_if(em *e, em_value condition);
void em_else(em *e, em_branch *branch);
void em_endif(em *e, em_branch *branch);

/* ---- math.c: scalar or vector of any width, see docs/numerics.md ---- */
em_value em_exp(em *e, em_value x);           /* f32 */
em_value em_cos(em *e, em_value x);           /* f64, |x| < 2^30 */
em_value em_round_even(em *e, em_value x);    /* f32 to integer, ties to even */
em_value em_bf16_from_f32(em *e, em_value x); /* -> i16 */
em_value em_bf16_to_f32(em *e, em_value h);
em_value em_f16_from_f32(em *e, em_value x);
em_value em_f16_to_f32(em *e, em_value h);
em_value em_larger(em *e, em_value a, em_value b);
em_value em_smaller(em *e, em_value a, em_value b);
em_value em_reduce_add(em *e, em_value v); /* tree: lane i + lane i + n/2, and so on */
em_value em_reduce_max(em *e, em_value v);

/* ---- emit_body.c ---- */

/* The body of a kernel at one place: row `row`, columns [col, col + KIR_LANES), of which `valid` exist. Scalars (UNIFORM, ROW) live as long
 * as the row, vectors (COL, ELEM) as long as the place. */
typedef struct em_body {
    em *e;
    em_value *scalar, *vector; /* one an instruction; NULL where not computed yet */
    em_value row, col;
    int valid;
    em_value acc, low_rank; /* GEMM: the vectors of the main loop and of the low-rank branch */
    /* ROWS: the loop being emitted, and where kept vectors are. */
    const int *stage;
    const bool *keep;
    int current;
    em_value *memory; /* scratch row of a kept instruction or transform, else NULL */
} em_body;
void em_body_init(em_body *body, em *e);
void em_body_new_row(em_body *body, em_value row);
void em_body_new_place(em_body *body, em_value col, int valid);
/* Emits every scalar instruction whose operands exist and that was not emitted in this row. */
void em_body_scalars(em_body *body);
/* The vector of instruction `index`, computed here or read back from its scratch row. */
em_value em_body_vector(em_body *body, int index);
/* A store or append of the element role, at this place. */
void em_body_store(em_body *body, int index);
bool em_is_vector_store(kir_op op);
/* Memory of element `type` as a register (f32, or i32 for integers), for a scalar or a vector of `lanes`. */
em_value em_load_widened(em *e, kir_type elem, em_value base, em_value index, int lanes);
/* The vector of floats at base[index], of which the first `valid` may be read; the others are 0. */
em_value em_load_first(em *e, kir_type elem, em_value base, em_value index, int valid);
void em_store_rounded(em *e, kir_type elem, em_value base, em_value index, em_value value, int valid);
int em_elem_size(kir_type type);
em_type em_elem_type(em *e, kir_type type);

/* ---- emit_pictures.c: load_patch and load_picture, the vector at this place of the body ---- */
em_value em_load_pictures(em_body *body, const kir_inst *inst);

/* ---- emit_cache.c: the KV cache ---- */
em_value em_view_field(em *e, em_value view, em_type type, int64_t offset); /* of a syl_kv_view */
/* The page that holds a position, by its sequence's row of the page table. */
em_value em_page_memory(em *e, em_value table, em_value pages, em_value position);
/* append_k and append_v: a vector at this place of the body. append_codes_*: the whole row, f32 in scratch memory. */
void em_append(em_body *body, const kir_inst *inst, em_value vector);
void em_append_codes(em_body *body, const kir_inst *inst, em_value row);

/* ---- one file a kind of kernel: the whole function, into e->module ---- */
void em_rows(em *e, const char *symbol);
void em_gemm(em *e, const char *symbol);
void em_attention(em *e, const char *symbol);
void em_full_attention(em *e, const char *symbol);

/* emit_hadamard.c, emit_rope.c, emit_head_norm.c: in place on a scratch row of the kernel's columns */
void em_hadamard(em *e, const kir_inst *inst, em_value row, em_value work);
void em_head_norm(em *e, const kir_inst *inst, em_value row);
void em_rope(em *e, const kir_inst *inst, em_value row, em_value row_index);

/* emit_low_rank.c. Down: the projections of a scratch row; `work` is a row, too, of whole KIR_PROJECT_COLS. Up: a helper (t of the first row, panel of u, tile) that fills tile[rows][nr]. */
void em_project(em *e, const kir_inst *inst, em_value row, em_value row_index, em_value work);
em_value em_low_rank_helper(em *e, int rows);
void em_low_rank_tile(em *e, em_value helper, em_value row, em_value col,
                      em_value tile); /* the call, for rows from `row` and the panel at column `col` */

/* ---- object.c: from a kernel to the bytes of its object ---- */
typedef struct em_object {
    void *data; /* malloc */
    size_t size;
} em_object;
void em_start_llvm(void); /* once a process, from any thread */
SYL_NODISCARD syl_status em_make_object(const kir_kernel *kernel, const syl_host_target *target,
                                        const char *symbol, syl_diag *diag, em_object *out);

/* ---- cache.c ---- */
/* Version of the generator: any change of the generated code must change it. */
enum { EM_GENERATOR = 4 };
syl_hash em_cache_key(const kir_kernel *kernel, const syl_host_target *target);
bool em_cache_load(const char *dir, const syl_hash *key, em_object *out);
void em_cache_store(const char *dir, const syl_hash *key, const em_object *object);

#endif
