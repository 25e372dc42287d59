/* Building and rewriting: keeps the lists of ops and of uses in step. */
#include <assert.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include "ir/ir.h"
#include "base/size.h"

/* ---- types ---- */

bool syl_dim_equal(syl_dim a, syl_dim b) {
    if (!a.symbol || !b.symbol) return a.symbol == b.symbol && a.size == b.size;
    return strcmp(a.symbol, b.symbol) == 0;
}

bool syl_type_equal(const syl_type *a, const syl_type *b) {
    if (a->kind != b->kind || a->dtype != b->dtype || a->rank != b->rank) return false;
    for (int i = 0; i < a->rank; i++)
        if (!syl_dim_equal(a->dims[i], b->dims[i])) return false;
    return a->k.bits == b->k.bits && a->k.group == b->k.group && a->v.bits == b->v.bits &&
           a->v.group == b->v.group;
}

syl_type syl_tensor2(syl_dtype dtype, syl_dim rows, syl_dim cols) {
    return (syl_type){.kind = SYL_TENSOR, .dtype = dtype, .rank = 2, .dims = {rows, cols}};
}
syl_type syl_tensor1(syl_dtype dtype, syl_dim size) {
    return (syl_type){.kind = SYL_TENSOR, .dtype = dtype, .rank = 1, .dims = {size}};
}

bool syl_type_elements(const syl_type *type, int64_t *out) {
    int64_t n = 1;
    for (int i = 0; i < type->rank; i++)
        if (type->dims[i].symbol || __builtin_mul_overflow(n, type->dims[i].size, &n)) return false;
    *out = n;
    return true;
}

static void print_store(syl_dtype dtype, syl_kv_store store, syl_text *out) {
    if (store.bits)
        syl_text_printf(out, "int%d_g%lld", store.bits, (long long)store.group);
    else
        syl_text_printf(out, "%s", syl_dtypes[dtype].name);
}

void syl_type_print(const syl_type *type, syl_text *out) {
    syl_text_printf(out, type->kind == SYL_KV ? "kv<" : "tensor<");
    for (int i = 0; i < type->rank; i++) {
        if (type->dims[i].symbol)
            syl_text_printf(out, "%sx", type->dims[i].symbol);
        else
            syl_text_printf(out, "%lldx", (long long)type->dims[i].size);
    }
    print_store(type->dtype, type->k, out);
    if (type->v.bits != type->k.bits || type->v.group != type->k.group) {
        syl_text_printf(out, ".");
        print_store(type->dtype, type->v, out);
    }
    syl_text_printf(out, ">");
}

/* ---- modules and functions ---- */

syl_module *syl_module_create(const char *name) {
    syl_module *module = calloc(1, sizeof *module);
    if (!module) {
        syl_out_of_memory_hook(sizeof *module);
        abort();
    }
    syl_arena_init(&module->arena);
    module->name = syl_arena_strdup(&module->arena, name);
    return module;
}

void syl_module_destroy(syl_module *module) {
    if (!module) return;
    syl_arena_free(&module->arena);
    free(module);
}

syl_func *syl_module_func(const syl_module *module, const char *name) {
    for (syl_func *func = module->funcs; func; func = func->next)
        if (strcmp(func->name, name) == 0) return func;
    return NULL;
}

const char *syl_module_symbol(syl_module *module, const char *name) {
    return syl_arena_strdup(&module->arena, name);
}

static syl_block *new_block(syl_func *func, syl_op *owner) {
    syl_block *block = SYL_NEW(&func->module->arena, syl_block);
    block->func = func;
    block->owner = owner;
    return block;
}

syl_func *syl_func_create(syl_module *module, const char *name, int n_args, const syl_type *arg_types,
                          const char *const *arg_names) {
    syl_func *func = SYL_NEW(&module->arena, syl_func);
    func->module = module;
    func->name = syl_arena_strdup(&module->arena, name);
    func->args = SYL_NEW_ARRAY(&module->arena, syl_value, (size_t)n_args);
    func->n_args = n_args;
    for (int i = 0; i < n_args; i++) {
        func->args[i].type = arg_types[i];
        func->args[i].index = i;
        if (arg_names && arg_names[i]) func->args[i].name = syl_arena_strdup(&module->arena, arg_names[i]);
    }
    func->body = new_block(func, NULL);
    syl_func **tail = &module->funcs;
    while (*tail) tail = &(*tail)->next;
    *tail = func;
    return func;
}

/* ---- lists ---- */

static void link_use(syl_use *use, syl_value *value) {
    use->value = value;
    use->prev = NULL;
    use->next = value ? value->uses : NULL;
    if (use->next) use->next->prev = use;
    if (value) value->uses = use;
}

static void unlink_use(syl_use *use) {
    if (!use->value) return;
    if (use->prev)
        use->prev->next = use->next;
    else
        use->value->uses = use->next;
    if (use->next) use->next->prev = use->prev;
    use->value = NULL;
}

static void link_op(syl_op *op, syl_block *block, syl_op *before) {
    op->parent = block;
    op->next = before;
    op->prev = before ? before->prev : block->last;
    if (op->prev)
        op->prev->next = op;
    else
        block->first = op;
    if (before)
        before->prev = op;
    else
        block->last = op;
}

static void unlink_op(syl_op *op) {
    if (op->prev)
        op->prev->next = op->next;
    else
        op->parent->first = op->next;
    if (op->next)
        op->next->prev = op->prev;
    else
        op->parent->last = op->prev;
    op->parent = NULL;
}

/* ---- building ---- */

syl_builder syl_build_at_end(syl_module *module, syl_block *block) {
    return (syl_builder){module, block, NULL, SYL_NOWHERE};
}
syl_builder syl_build_before(syl_module *module, syl_op *op) {
    return (syl_builder){module, op->parent, op, op->loc};
}
syl_builder syl_build_after(syl_module *module, syl_op *op) {
    return (syl_builder){module, op->parent, op->next, op->loc};
}

syl_op *syl_build_op(syl_builder *b, syl_opcode code, int n_operands, syl_value *const *operands,
                     int n_results, const syl_type *result_types) {
    syl_arena *arena = &b->module->arena;
    syl_op *op = SYL_NEW(arena, syl_op);
    op->code = code;
    op->loc = b->loc;
    op->operands = SYL_NEW_ARRAY(arena, syl_use, (size_t)n_operands);
    op->n_operands = op->cap_operands = n_operands;
    for (int i = 0; i < n_operands; i++) {
        op->operands[i].user = op;
        op->operands[i].index = i;
        link_use(&op->operands[i], operands[i]);
    }
    op->results = SYL_NEW_ARRAY(arena, syl_value, (size_t)n_results);
    op->n_results = n_results;
    for (int i = 0; i < n_results; i++) {
        op->results[i].type = result_types[i];
        op->results[i].def = op;
        op->results[i].index = i;
    }
    link_op(op, b->block, b->before);
    if (syl_ops[code].traits & SYL_TRAIT_REGION) op->body = new_block(b->block->func, op);
    return op;
}

syl_value *syl_build(syl_builder *b, syl_opcode code, syl_type type, int n_operands, ...) {
    syl_value *operands[8];
    assert(n_operands <= 8);
    va_list args;
    va_start(args, n_operands);
    for (int i = 0; i < n_operands; i++) operands[i] = va_arg(args, syl_value *);
    va_end(args);
    return syl_result(syl_build_op(b, code, n_operands, operands, 1, &type));
}

/* ---- attributes ---- */

const syl_attr *syl_attr_get(const syl_op *op, const char *name) {
    for (size_t i = 0; i < op->attrs.n; i++)
        if (strcmp(op->attrs.p[i].name, name) == 0) return &op->attrs.p[i];
    return NULL;
}

void syl_attr_set(syl_module *module, syl_op *op, const syl_attr *attr) {
    syl_arena *arena = &module->arena;
    syl_attr copy = *attr;
    copy.name = syl_arena_strdup(arena, attr->name);
    if (copy.kind == SYL_ATTR_STR || copy.kind == SYL_ATTR_ENUM) copy.s = syl_arena_strdup(arena, attr->s);
    if (copy.kind == SYL_ATTR_INTS) {
        int64_t *p = SYL_NEW_ARRAY(arena, int64_t, (size_t)attr->ints.n);
        if (attr->ints.n) memcpy(p, attr->ints.p, (size_t)attr->ints.n * sizeof *p);
        copy.ints.p = p;
    }
    size_t at = 0;
    while (at < op->attrs.n && strcmp(op->attrs.p[at].name, attr->name) < 0) at++;
    if (at < op->attrs.n && strcmp(op->attrs.p[at].name, attr->name) == 0) {
        op->attrs.p[at] = copy;
        return;
    }
    SYL_PUSH(arena, &op->attrs, copy);
    memmove(&op->attrs.p[at + 1], &op->attrs.p[at], (op->attrs.n - 1 - at) * sizeof copy);
    op->attrs.p[at] = copy;
}

void syl_attr_remove(syl_op *op, const char *name) {
    for (size_t i = 0; i < op->attrs.n; i++)
        if (strcmp(op->attrs.p[i].name, name) == 0) {
            memmove(&op->attrs.p[i], &op->attrs.p[i + 1], (op->attrs.n - 1 - i) * sizeof *op->attrs.p);
            op->attrs.n--;
            return;
        }
}

void syl_attr_set_int(syl_module *module, syl_op *op, const char *name, int64_t value) {
    syl_attr_set(module, op, &(syl_attr){name, SYL_ATTR_INT, {.i = value}});
}
void syl_attr_set_float(syl_module *module, syl_op *op, const char *name, double value) {
    syl_attr_set(module, op, &(syl_attr){name, SYL_ATTR_FLOAT, {.f = value}});
}
void syl_attr_set_bool(syl_module *module, syl_op *op, const char *name, bool value) {
    syl_attr_set(module, op, &(syl_attr){name, SYL_ATTR_BOOL, {.b = value}});
}
void syl_attr_set_str(syl_module *module, syl_op *op, const char *name, const char *value) {
    syl_attr_set(module, op, &(syl_attr){name, SYL_ATTR_STR, {.s = value}});
}
void syl_attr_set_enum(syl_module *module, syl_op *op, const char *name, const char *value) {
    syl_attr_set(module, op, &(syl_attr){name, SYL_ATTR_ENUM, {.s = value}});
}
void syl_attr_set_ints(syl_module *module, syl_op *op, const char *name, const int64_t *values, int n) {
    syl_attr_set(module, op, &(syl_attr){name, SYL_ATTR_INTS, {.ints = {values, n}}});
}

int64_t syl_attr_int(const syl_op *op, const char *name) {
    const syl_attr *attr = syl_attr_get(op, name);
    return attr && attr->kind == SYL_ATTR_INT ? attr->i : 0;
}

double syl_attr_float(const syl_op *op, const char *name) {
    const syl_attr *attr = syl_attr_get(op, name);
    return attr && attr->kind == SYL_ATTR_FLOAT ? attr->f : 0.0;
}

bool syl_attr_bool(const syl_op *op, const char *name) {
    const syl_attr *attr = syl_attr_get(op, name);
    return attr && attr->kind == SYL_ATTR_BOOL && attr->b;
}

const char *syl_attr_str(const syl_op *op, const char *name) {
    const syl_attr *attr = syl_attr_get(op, name);
    return attr && (attr->kind == SYL_ATTR_STR || attr->kind == SYL_ATTR_ENUM) ? attr->s : "";
}

/* ---- rewriting ---- */

void syl_op_set_operand(syl_op *op, int index, syl_value *value) {
    unlink_use(&op->operands[index]);
    link_use(&op->operands[index], value);
}

void syl_op_add_operand(syl_module *module, syl_op *op, syl_value *value) {
    if (op->n_operands == op->cap_operands) {
        /* Uses are links of lists, so growing the array moves every link. */
        int cap = op->cap_operands ? op->cap_operands * 2 : 4;
        syl_use *fresh = SYL_NEW_ARRAY(&module->arena, syl_use, (size_t)cap);
        for (int i = 0; i < op->n_operands; i++) {
            syl_value *kept = op->operands[i].value;
            unlink_use(&op->operands[i]);
            fresh[i].user = op;
            fresh[i].index = i;
            link_use(&fresh[i], kept);
        }
        op->operands = fresh;
        op->cap_operands = cap;
    }
    syl_use *use = &op->operands[op->n_operands];
    use->user = op;
    use->index = op->n_operands++;
    link_use(use, value);
}

void syl_op_move_before(syl_op *op, syl_op *before) {
    unlink_op(op);
    link_op(op, before->parent, before);
}

void syl_op_move_to_end(syl_op *op, syl_block *block) {
    unlink_op(op);
    link_op(op, block, NULL);
}

void syl_op_erase(syl_op *op) {
    if (op->body)
        while (op->body->last) syl_op_erase(op->body->last);
    for (int i = 0; i < op->n_results; i++)
        assert(!op->results[i].uses && "erasing an op that is still used");
    for (int i = 0; i < op->n_operands; i++) unlink_use(&op->operands[i]);
    op->n_operands = 0;
    unlink_op(op);
}

void syl_value_replace_uses(syl_value *value, syl_value *with) {
    syl_value_replace_uses_except(value, with, NULL);
}

void syl_value_replace_uses_except(syl_value *value, syl_value *with, const syl_op *except) {
    for (syl_use *use = value->uses, *next; use; use = next) {
        next = use->next;
        if (use->user != except) syl_op_set_operand(use->user, use->index, with);
    }
}

void syl_value_set_name(syl_module *module, syl_value *value, const char *name) {
    value->name = name ? syl_arena_strdup(&module->arena, name) : NULL;
}

syl_op *syl_op_ancestor_in(const syl_op *op, const syl_block *block) {
    while (op && op->parent != block) op = op->parent ? op->parent->owner : NULL;
    return (syl_op *)op;
}
