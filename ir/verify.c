/* The verifier: the border behind which everything else may trust a module.
 *
 * Two rounds a function. First the structure, which assumes nothing but lists that end; only if that is
 * sound, the types of all ops by syl_infer. Every problem is reported, at the op that has it. */
#include <string.h>
#include "base/map.h"
#include "ir/ir.h"

typedef struct verifier {
    const syl_module *module;
    syl_diag *diag;
    syl_status status; /* of the first problem */
    size_t problems;
    syl_arena scratch;
    syl_map
        order; /* const syl_op * -> its place in the function, from 1; a region's op comes after its body */
    uintptr_t n_ops;
    size_t n_operands, n_uses; /* found at ops, found in lists of uses: must agree */
} verifier;

#define FAIL(v, id, loc, ...)                                                                                \
    do {                                                                                                     \
        syl_status fail_status = syl_error((v)->diag, SYL_ERR_ir_##id, (loc), __VA_ARGS__);                  \
        if ((v)->problems++ == 0) (v)->status = fail_status;                                                 \
    } while (0)

static const char *op_name(const syl_op *op) {
    return syl_ops[op->code].name;
}
static const char *value_name(const syl_value *value) {
    return value->name ? value->name : "<unnamed>";
}

/* ---- names and types ---- */

static bool name_valid(const char *name) {
    static const char *const first = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_";
    static const char *const others = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789.";
    return name && *name && strchr(first, *name) && strspn(name, others) == strlen(name);
}

static bool symbol_valid(const char *symbol) {
    static const char *const others = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";
    return *symbol >= 'A' && *symbol <= 'Z' && strspn(symbol, others) == strlen(symbol);
}

/* Groups are whole vectors of 16 features, so that kernels read one scale for each, or whole heads. */
static bool store_valid(syl_kv_store store, int64_t head_dim) {
    if (store.bits == 0) return store.group == 0;
    return (store.bits == 4 || store.bits == 8) && store.group >= 1 && head_dim % store.group == 0 &&
           (store.group == head_dim || store.group % 16 == 0);
}

static void check_type(verifier *v, const syl_value *value, syl_loc loc) {
    const syl_type *type = &value->type;
    bool kv = type->kind == SYL_KV;
    if ((type->kind != SYL_TENSOR && !kv) || type->dtype < 0 || type->dtype >= SYL_DTYPE_COUNT ||
        type->rank < 1 || type->rank > SYL_MAX_RANK) {
        FAIL(v, type, loc, "%%%s has a type that is none", value_name(value));
        return;
    }
    int64_t bytes = 8; /* the widest an element gets anywhere */
    for (int i = 0; i < type->rank; i++) {
        syl_dim dim = type->dims[i];
        if (dim.symbol && !symbol_valid(dim.symbol))
            FAIL(v, name, loc, "'%s' is no dimension symbol", dim.symbol);
        if (dim.symbol) continue;
        if (dim.size < 1) {
            FAIL(v, shape, loc, "%%%s: a dimension has size %lld", value_name(value), (long long)dim.size);
            return;
        }
        if (__builtin_mul_overflow(bytes, dim.size, &bytes)) {
            FAIL(v, shape, loc, "%%%s: the number of elements overflows", value_name(value));
            return;
        }
    }
    syl_type_class class = syl_type_class_of(type);
    if (class == SYL_CLASS_QUANT && type->rank != 2)
        FAIL(v, type, loc, "%%%s: %s is for matrices, found rank %d", value_name(value),
             syl_dtypes[type->dtype].name, type->rank);
    if (!kv) return;
    if (type->rank != 3)
        FAIL(v, type, loc, "%%%s: a kv type has three dimensions, found %d", value_name(value), type->rank);
    if (class != SYL_CLASS_FLOAT)
        FAIL(v, type, loc, "%%%s: the element of a kv type must be a float type, found %s", value_name(value),
             syl_dtypes[type->dtype].name);
    for (int i = 0; i < type->rank; i++)
        if (type->dims[i].symbol)
            FAIL(v, shape, loc, "%%%s: the dimensions of a kv type must be numbers", value_name(value));
    if (type->rank == 3 &&
        (!store_valid(type->k, type->dims[2].size) || !store_valid(type->v, type->dims[2].size)))
        FAIL(v, shape, loc,
             "%%%s: a group of a quantized kv cache is a head of %lld features, or a multiple of 16 that "
             "divides it",
             value_name(value), (long long)type->dims[2].size);
}

static void check_value(verifier *v, const syl_value *value, const syl_op *def, int index, syl_loc loc) {
    if (value->def != def || value->index != index)
        FAIL(v, structure, loc, "%%%s does not know where it is defined", value_name(value));
    if (value->name && !name_valid(value->name)) FAIL(v, name, loc, "'%%%s' is no value name", value->name);
    check_type(v, value, loc);
}

/* ---- structure ---- */

static void number_ops(verifier *v, const syl_block *block) {
    for (const syl_op *op = block->first; op; op = op->next) {
        if (op->body) number_ops(v, op->body);
        *syl_map_slot(&v->order, &op, sizeof op, NULL) = (void *)++v->n_ops;
    }
}

static uintptr_t place_of(const verifier *v, const syl_op *op) {
    return (uintptr_t)syl_map_get(&v->order, &op, sizeof op);
}

/* The op of `block`'s level of nesting that holds `user`: where a use counts in the order of that block. */
static uintptr_t place_in(const verifier *v, const syl_op *user, const syl_block *block) {
    const syl_op *op = syl_op_ancestor_in(user, block);
    return op ? place_of(v, op) : 0;
}

static bool value_visible(const verifier *v, const syl_value *value, const syl_op *user) {
    const syl_func *func = user->parent->func;
    const syl_op *def = value->def;
    if (!def) return value->index >= 0 && value->index < func->n_args && value == &func->args[value->index];
    uintptr_t place = place_of(v, def);
    if (!place || place >= place_of(v, user)) return false;
    if (value->index < 0 || value->index >= def->n_results || value != &def->results[value->index])
        return false;
    return def->parent == user->parent || (user->parent->owner && def->parent == user->parent->owner->parent);
}

static void check_operands(verifier *v, const syl_op *op) {
    for (int i = 0; i < op->n_operands; i++, v->n_operands++) {
        const syl_use *use = &op->operands[i];
        if (use->user != op || use->index != i || !use->value)
            FAIL(v, structure, op->loc, "%s: operand %d is not linked", op_name(op), i + 1);
        else if (!value_visible(v, use->value, op))
            FAIL(v, undefined, op->loc, "%s: operand %d, %%%s, is not defined before it", op_name(op), i + 1,
                 value_name(use->value));
    }
}

/* Counts the uses of a value, and holds a kv cache to one writer behind all its other readers. */
static void check_uses(verifier *v, const syl_value *value, syl_loc loc) {
    const syl_op *writer = NULL;
    const syl_use *prev = NULL;
    for (const syl_use *use = value->uses; use; prev = use, use = use->next) {
        if (use->prev != prev || use->value != value || !use->user || use->index < 0 ||
            use->index >= use->user->n_operands || &use->user->operands[use->index] != use ||
            !place_of(v, use->user)) {
            FAIL(v, structure, loc, "the list of uses of %%%s is broken", value_name(value));
            return;
        }
        v->n_uses++;
        if (value->type.kind != SYL_KV || use->user->code != SYL_OP_kv_append) continue;
        if (writer) FAIL(v, structure, use->user->loc, "%%%s has more than one kv_append", value_name(value));
        writer = use->user;
    }
    if (!writer) return;
    const syl_block *block = value->def ? value->def->parent : writer->parent->func->body;
    for (const syl_use *use = value->uses; use; use = use->next) {
        const syl_op *user = use->user;
        bool behind = user->parent == writer->parent ? place_of(v, user) > place_of(v, writer)
                                                     : place_in(v, user, block) > place_in(v, writer, block);
        if (behind)
            FAIL(v, structure, user->loc, "%s reads %%%s behind the kv_append that changes it", op_name(user),
                 value_name(value));
    }
}

static void check_block(verifier *v, const syl_block *block, const syl_func *func, const syl_op *owner);

static void check_op(verifier *v, const syl_op *op, const syl_block *block) {
    syl_opcode terminator = block->owner ? SYL_OP_yield : SYL_OP_return;
    if (syl_op_has(op, SYL_TRAIT_TERMINATOR)) {
        if (op->next) FAIL(v, structure, op->loc, "%s stands before the end of its block", op_name(op));
        if (op->code != terminator)
            FAIL(v, structure, op->loc, "%s ends %s, expected %s", op_name(op),
                 block->owner ? "a region" : "a function", syl_ops[terminator].name);
    } else if (!op->next) {
        FAIL(v, structure, op->loc, "the %s does not end with %s", block->owner ? "region" : "function",
             syl_ops[terminator].name);
    }
    check_operands(v, op);
    for (int i = 0; i < op->n_results; i++) {
        check_value(v, &op->results[i], op, i, op->loc);
        check_uses(v, &op->results[i], op->loc);
    }
    for (size_t i = 1; i < op->attrs.n; i++)
        if (strcmp(op->attrs.p[i - 1].name, op->attrs.p[i].name) >= 0)
            FAIL(v, attribute, op->loc, "%s: attributes are not sorted", op_name(op));
    if (syl_op_has(op, SYL_TRAIT_REGION) != (op->body != NULL)) {
        FAIL(v, structure, op->loc, "%s %s", op_name(op),
             op->body ? "must not have a region" : "has no region");
    } else if (op->body) {
        if (block->owner)
            FAIL(v, structure, op->loc, "regions don't nest");
        else
            check_block(v, op->body, block->func, op);
    }
}

static void check_block(verifier *v, const syl_block *block, const syl_func *func, const syl_op *owner) {
    syl_loc loc = owner ? owner->loc : func->loc;
    if (block->func != func || block->owner != owner)
        FAIL(v, structure, loc, "a block does not know its function");
    const syl_op *prev = NULL;
    for (const syl_op *op = block->first; op; prev = op, op = op->next) {
        if (op->parent != block || op->prev != prev) {
            FAIL(v, structure, op->loc, "the list of ops is broken at %s", op_name(op));
            return;
        }
        check_op(v, op, block);
    }
    if (block->last != prev) FAIL(v, structure, loc, "the list of ops is broken at its end");
    if (!prev)
        FAIL(v, structure, loc, "the %s is empty, expected %s at its end", owner ? "region" : "function",
             owner ? "yield" : "return");
}

/* ---- types ---- */

static void check_result_type(verifier *v, const syl_op *op, int i, const syl_type *inferred) {
    const syl_type *declared = &op->results[i].type;
    syl_type expected = *inferred;
    bool free_float = syl_op_has(op, SYL_TRAIT_FLOAT) && expected.kind == SYL_TENSOR &&
                      syl_type_class_of(&expected) == SYL_CLASS_FLOAT;
    if (free_float && syl_type_class_of(declared) == SYL_CLASS_FLOAT) expected.dtype = declared->dtype;
    if (syl_type_equal(&expected, declared)) return;
    syl_text a = {.arena = &v->scratch}, b = {.arena = &v->scratch};
    syl_type_print(declared, &a);
    syl_type_print(&expected, &b);
    expected.dtype = declared->dtype;
    if (syl_type_equal(&expected, declared))
        FAIL(v, type, op->loc, "%s: the result is declared %s, expected %s", op_name(op), a.p, b.p);
    else
        FAIL(v, shape, op->loc, "%s: the result is declared %s, expected %s", op_name(op), a.p, b.p);
}

static void check_block_types(verifier *v, const syl_block *block) {
    for (const syl_op *op = block->first; op; op = op->next) {
        if (op->body) check_block_types(v, op->body);
        syl_type one,
            *types = op->n_results <= 1 ? &one : SYL_NEW_ARRAY(&v->scratch, syl_type, (size_t)op->n_results);
        syl_status status = syl_infer(op, v->diag, types);
        if (status != SYL_OK) {
            if (v->problems++ == 0) v->status = status;
            continue;
        }
        for (int i = 0; i < op->n_results; i++) check_result_type(v, op, i, &types[i]);
        if (op->code == SYL_OP_weight && (uint64_t)syl_attr_int(op, "source") >= v->module->sources.n)
            FAIL(v, attribute, op->loc, "weight: source is %lld, the module has %zu sources",
                 (long long)syl_attr_int(op, "source"), v->module->sources.n);
    }
}

static void check_return(verifier *v, const syl_func *func) {
    const syl_op *op = func->body->last;
    if (op->n_operands != func->n_results) {
        FAIL(v, structure, op->loc, "return has %d operands, @%s has %d results", op->n_operands, func->name,
             func->n_results);
        return;
    }
    for (int i = 0; i < func->n_results; i++) {
        const syl_type *found = &syl_operand(op, i)->type;
        if (syl_type_equal(found, &func->result_types[i])) continue;
        syl_text a = {.arena = &v->scratch}, b = {.arena = &v->scratch};
        syl_type_print(found, &a);
        syl_type_print(&func->result_types[i], &b);
        FAIL(v, type, op->loc, "return: operand %d is %s, result %d of @%s is declared %s", i + 1, a.p, i + 1,
             func->name, b.p);
    }
}

static void check_func(verifier *v, const syl_func *func) {
    size_t problems = v->problems;
    v->n_ops = v->n_operands = v->n_uses = 0;
    syl_map_init(&v->order, &v->scratch);
    if (!name_valid(func->name)) FAIL(v, name, func->loc, "'@%s' is no function name", func->name);
    number_ops(v, func->body);
    for (int i = 0; i < func->n_args; i++) {
        check_value(v, &func->args[i], NULL, i, func->loc);
        check_uses(v, &func->args[i], func->loc);
    }
    check_block(v, func->body, func, NULL);
    if (v->n_operands != v->n_uses)
        FAIL(v, structure, func->loc, "@%s: %zu operands, but %zu uses are listed", func->name, v->n_operands,
             v->n_uses);
    if (v->problems != problems) return;
    check_block_types(v, func->body);
    check_return(v, func);
}

syl_status syl_module_verify(const syl_module *module, syl_diag *diag) {
    verifier v = {.module = module, .diag = diag, .status = SYL_OK};
    syl_arena_init(&v.scratch);
    if (!name_valid(module->name)) FAIL(&v, name, SYL_NOWHERE, "'@%s' is no module name", module->name);
    for (const syl_func *func = module->funcs; func; func = func->next) {
        if (syl_module_func(module, func->name) != func)
            FAIL(&v, redefined, func->loc, "there are two functions @%s", func->name);
        check_func(&v, func);
    }
    syl_arena_free(&v.scratch);
    return v.status;
}
