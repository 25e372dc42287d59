/* The IR: a module of functions in SSA form. docs/ir.md is the specification of its text.
 *
 * Ownership: everything reachable from a module lives in its arena and dies with it. Ops are erased from the
 * graph but their memory stays until the module is destroyed. A module is used by one thread at a time. */
#ifndef SYL_IR_IR_H
#define SYL_IR_IR_H

#include <stdbool.h>
#include <stdint.h>
#include "base/arena.h"
#include "base/diag.h"

/* ---- types
 * ---------------------------------------------------------------------------------------------------- */

typedef enum syl_dtype {
#define TYPE(ident, name, class, bits, granularity, group, two_level, doc) SYL_##ident,
#include "ir/types.def"
    SYL_DTYPE_COUNT
} syl_dtype;

typedef enum syl_type_class {
    SYL_CLASS_REAL,
    SYL_CLASS_FLOAT,
    SYL_CLASS_INT,
    SYL_CLASS_QUANT
} syl_type_class;

typedef enum syl_granularity {
    SYL_GRANULARITY_NONE,
    SYL_GRANULARITY_TOKEN,
    SYL_GRANULARITY_CHANNEL,
    SYL_GRANULARITY_GROUP
} syl_granularity;

typedef struct syl_dtype_info {
    const char *name, *doc;
    syl_type_class class;
    int bits;
    syl_granularity granularity;
    int group;      /* 0: none */
    bool two_level; /* integer scale and zero point a group, inside the row's scale */
    bool row_scale; /* one f32 scale a row: TOKEN or CHANNEL */
} syl_dtype_info;
extern const syl_dtype_info syl_dtypes[SYL_DTYPE_COUNT];

enum { SYL_GROUP_SCALE_MAX = 16, SYL_GROUP_ZERO_MAX = 15 }; /* s and z of two-level types */

enum {
    SYL_PICTURE_MAX = 1 << 16,
    SYL_PICTURE_MAX_ELEMENTS = 1 << 28
}; /* sides and channels, and elements, of patchify's pictures */
enum { SYL_SPLIT_MAX_ROUNDS = 1000 }; /* of low_rank_split */

/* QUANT types of weights, as against those that activations get at run time. */
static inline bool syl_is_weight_scheme(syl_dtype dtype) {
    return syl_dtypes[dtype].granularity >= SYL_GRANULARITY_CHANNEL;
}
/* Groups of a row of `cols` elements, 1 where the type has none. */
static inline int64_t syl_row_groups(syl_dtype dtype, int64_t cols) {
    return syl_dtypes[dtype].group ? cols / syl_dtypes[dtype].group : 1;
}
/* A row of `cols` elements can have the type: codes fill whole bytes, groups fill the row. */
static inline bool syl_row_fits(syl_dtype dtype, int64_t cols) {
    const syl_dtype_info *info = &syl_dtypes[dtype];
    return cols * info->bits % 8 == 0 && (!info->group || cols % info->group == 0);
}

enum { SYL_MAX_RANK = 4 };

/* A dimension: a size >= 1, or a symbol ("T") whose size is known at run time. */
typedef struct syl_dim {
    int64_t size;       /* 0 if symbolic */
    const char *symbol; /* interned in the module, or NULL; [A-Z][A-Z0-9_]* */
} syl_dim;

typedef enum syl_type_kind { SYL_TENSOR, SYL_KV } syl_type_kind;

/* How a KV cache stores its keys, or its values. bits 0: as elements of the type's dtype. bits 4 or 8:
 * asymmetric codes, (code - zero) * scale with one scale and zero point for each `group` features of a head. */
typedef struct syl_kv_store {
    int bits;
    int64_t group; /* 0 where bits is */
} syl_kv_store;

/* tensor<TxKxf32>, or the paged KV cache kv<layers x kv_heads x head_dim x store>: see docs/ir.md. */
typedef struct syl_type {
    syl_type_kind kind;
    syl_dtype dtype; /* KV: of what is not quantized; f32 where both keys and values are */
    int rank;        /* KV: 3 */
    syl_dim dims[SYL_MAX_RANK];
    syl_kv_store k, v; /* KV; zero in tensors */
} syl_type;

bool syl_type_equal(const syl_type *a, const syl_type *b);
bool syl_dim_equal(syl_dim a, syl_dim b);
static inline syl_type_class syl_type_class_of(const syl_type *type) {
    return syl_dtypes[type->dtype].class;
}
syl_type syl_tensor2(syl_dtype dtype, syl_dim rows, syl_dim cols);
syl_type syl_tensor1(syl_dtype dtype, syl_dim size);
static inline syl_dim syl_size(int64_t size) {
    return (syl_dim){size, NULL};
}
void syl_type_print(const syl_type *type, syl_text *out);
/* Number of elements of a static tensor; false if a dimension is symbolic or the product overflows. */
bool syl_type_elements(const syl_type *type, int64_t *out);

/* ---- values, ops, blocks
 * --------------------------------------------------------------------------------------- */

typedef enum syl_opcode {
#define OP(ident, name, min, max, results, attrs, traits, doc) SYL_OP_##ident,
#include "ir/ops.def"
    SYL_OP_COUNT
} syl_opcode;

enum {
    SYL_TRAIT_PURE = 1,
    SYL_TRAIT_ELEMENTWISE = 2,
    SYL_TRAIT_ROWWISE = 4,
    SYL_TRAIT_WEIGHT = 8,
    SYL_TRAIT_FLOAT = 16,
    SYL_TRAIT_STATE = 32,
    SYL_TRAIT_TERMINATOR = 64,
    SYL_TRAIT_REGION = 128,
};

typedef struct syl_op_info {
    const char *name, *attrs, *doc;
    int min_operands, max_operands, results; /* -1: any */
    unsigned traits;
} syl_op_info;
extern const syl_op_info syl_ops[SYL_OP_COUNT];

typedef struct syl_module syl_module;
typedef struct syl_func syl_func;
typedef struct syl_block syl_block;
typedef struct syl_op syl_op;
typedef struct syl_value syl_value;

/* One operand of one op, and a link in the list of uses of its value. */
typedef struct syl_use {
    syl_value *value;
    syl_op *user;
    int index; /* operand number in user */
    struct syl_use *prev, *next;
} syl_use;

struct syl_value {
    syl_type type;
    const char *name; /* without '%'; NULL: numbered when printed */
    syl_op *def;      /* NULL: a function argument */
    int index;        /* result or argument number */
    syl_use *uses;    /* in no particular order */
};

typedef enum syl_attr_kind {
    SYL_ATTR_INT,
    SYL_ATTR_FLOAT,
    SYL_ATTR_BOOL,
    SYL_ATTR_STR,
    SYL_ATTR_INTS,
    SYL_ATTR_ENUM
} syl_attr_kind;

typedef struct syl_attr {
    const char *name;
    syl_attr_kind kind;
    union {
        int64_t i;
        double f;
        bool b;
        const char *s; /* STR, ENUM */
        struct {
            const int64_t *p;
            int n;
        } ints;
    };
} syl_attr;

struct syl_op {
    syl_opcode code;
    syl_loc loc;
    syl_block *parent; /* NULL while detached */
    syl_op *prev, *next;
    syl_use *operands;
    int n_operands, cap_operands;
    syl_value *results;
    int n_results;
    SYL_VEC(syl_attr) attrs; /* sorted by name */
    syl_block *body;         /* REGION ops */
};

struct syl_block {
    syl_func *func;
    syl_op *owner; /* the REGION op, or NULL: the function's own block */
    syl_op *first, *last;
};

struct syl_func {
    syl_module *module;
    const char *name; /* without '@' */
    syl_value *args;
    int n_args;
    syl_type *result_types; /* equal to the operand types of the return */
    int n_results;
    syl_block *body;
    syl_func *next;
    syl_loc loc;
};

struct syl_module {
    syl_arena arena;
    const char *name;
    SYL_VEC(const char *) sources; /* file paths that `weight` ops refer to by number */
    syl_func *funcs;               /* in order */
};

/* ---- building and rewriting: the only ways to change a graph (build.c)
 * ------------------------------------------- */

syl_module *syl_module_create(const char *name); /* the caller destroys it */
void syl_module_destroy(syl_module *module);     /* NULL is fine */
syl_func *syl_module_func(const syl_module *module, const char *name);
const char *syl_module_symbol(syl_module *module, const char *name); /* interned dimension symbol */

/* A function with an empty body. Argument names may be NULL. */
syl_func *syl_func_create(syl_module *module, const char *name, int n_args, const syl_type *arg_types,
                          const char *const *arg_names);

/* Where new ops go: before `before`, or at the end of `block` if that is NULL. */
typedef struct syl_builder {
    syl_module *module;
    syl_block *block;
    syl_op *before;
    syl_loc loc;
} syl_builder;
syl_builder syl_build_at_end(syl_module *module, syl_block *block);
syl_builder syl_build_before(syl_module *module, syl_op *op);
syl_builder syl_build_after(syl_module *module, syl_op *op);

/* Creates and inserts an op. Nothing is checked here: run the verifier. Result types are given by the caller
 * (syl_infer in verify.h computes them). */
syl_op *syl_build_op(syl_builder *b, syl_opcode code, int n_operands, syl_value *const *operands,
                     int n_results, const syl_type *result_types);
/* The common case of one result; returns it. */
syl_value *syl_build(syl_builder *b, syl_opcode code, syl_type type, int n_operands,
                     ...); /* ... = syl_value * */

void syl_attr_set_int(syl_module *module, syl_op *op, const char *name, int64_t value);
void syl_attr_set_float(syl_module *module, syl_op *op, const char *name, double value);
void syl_attr_set_bool(syl_module *module, syl_op *op, const char *name, bool value);
void syl_attr_set_str(syl_module *module, syl_op *op, const char *name, const char *value);
void syl_attr_set_enum(syl_module *module, syl_op *op, const char *name, const char *value);
void syl_attr_set_ints(syl_module *module, syl_op *op, const char *name, const int64_t *values, int n);
void syl_attr_set(syl_module *module, syl_op *op, const syl_attr *attr); /* copies */
void syl_attr_remove(syl_op *op, const char *name);
const syl_attr *syl_attr_get(const syl_op *op, const char *name); /* NULL if absent */
/* Absent attributes read as 0, 0.0, false, "". */
int64_t syl_attr_int(const syl_op *op, const char *name);
double syl_attr_float(const syl_op *op, const char *name);
bool syl_attr_bool(const syl_op *op, const char *name);
const char *syl_attr_str(const syl_op *op, const char *name); /* STR or ENUM */

void syl_op_set_operand(syl_op *op, int index, syl_value *value);
void syl_op_add_operand(syl_module *module, syl_op *op, syl_value *value);
void syl_op_move_before(syl_op *op, syl_op *before);
void syl_op_move_to_end(syl_op *op, syl_block *block);
/* Removes an op whose results have no uses (and, of a REGION op, the ops inside). */
void syl_op_erase(syl_op *op);
void syl_value_replace_uses(syl_value *value, syl_value *with);
void syl_value_replace_uses_except(syl_value *value, syl_value *with, const syl_op *except);
void syl_value_set_name(syl_module *module, syl_value *value, const char *name);

static inline syl_value *syl_result(const syl_op *op) {
    return &op->results[0];
}
static inline syl_value *syl_operand(const syl_op *op, int index) {
    return op->operands[index].value;
}
static inline bool syl_value_has_one_use(const syl_value *value) {
    return value->uses && !value->uses->next;
}
static inline bool syl_op_is(const syl_op *op, syl_opcode code) {
    return op && op->code == code;
}
static inline bool syl_op_has(const syl_op *op, unsigned trait) {
    return (syl_ops[op->code].traits & trait) != 0;
}
/* The opcode named `name`, or SYL_OP_COUNT. */
syl_opcode syl_opcode_of(const char *name);
syl_dtype syl_dtype_of(const char *name); /* SYL_DTYPE_COUNT if there is none */

/* The kind and optionality of attribute `name` in the op's row of ops.def; false if the op has no such
 * attribute. For ENUM, *choices (may be NULL) gets the text between the parentheses, not NUL-terminated at
 * ')'. */
bool syl_op_attr_spec(syl_opcode code, const char *name, syl_attr_kind *kind, bool *optional,
                      const char **choices);

/* The block of `block`'s function that directly holds `op` or one of its owners; NULL if none: the ancestor
 * in `block`. */
syl_op *syl_op_ancestor_in(const syl_op *op, const syl_block *block);

/* ---- text (print.c, parse.c)
 * --------------------------------------------------------------------------------------- */

void syl_module_print(const syl_module *module, syl_text *out);
/* Parses a module; `source->text` must outlive it (locations). On failure *out is NULL and the error is
 * reported. The parser does not verify. */
SYL_NODISCARD syl_status syl_module_parse(const syl_source *source, syl_diag *diag, syl_module **out);

/* ---- checking (verify.c, infer.c)
 * ------------------------------------------------------------------------------------ */

/* Structure (dominance, uses, terminators, attributes) and types of every op. Reports each problem (at most
 * 20). */
SYL_NODISCARD syl_status syl_module_verify(const syl_module *module, syl_diag *diag);

/* The result types an op must have by its operands and attributes, into types[n_results]. Where the row has
 * the FLOAT trait and the operands are not `real`, the dtype is f32 and any FLOAT type may be declared
 * instead. For ops whose type is declared freely (weight, materialized, cast, quantize) the declared result
 * type is checked and returned. Reports and fails where the operands or attributes don't fit. */
SYL_NODISCARD syl_status syl_infer(const syl_op *op, syl_diag *diag, syl_type *types);

#endif
