/* The signature of a language model's @forward (engine.h). Argument roles are found by use, not by name: an
 * i32 argument that indexes the rows of a table is `ids`, and so on. Each argument has one role and each role
 * one argument, so the executor's check of an input's range covers every place that reads it. */
#include "runtime/engine.h"

#include <string.h>

static const char *const role_names[SYL_INPUT_COUNT] = {"token ids", "positions", "sequence numbers",
                                                        "row numbers", "the KV cache"};
static const char *const role_symbols[SYL_INPUT_COUNT] = {"T", "T", "T", "R", NULL};

/* The role an operand gives to an i32 argument; SYL_INPUT_COUNT: none. */
static syl_input_role role_of_use(const syl_use *use) {
    switch (use->user->code) {
    case SYL_OP_embedding:
        return use->index == 0 ? SYL_INPUT_IDS : SYL_INPUT_COUNT;
    case SYL_OP_take:
        return use->index == 1 ? SYL_INPUT_ROWS : SYL_INPUT_COUNT;
    case SYL_OP_rope_table:
        return SYL_INPUT_POS;
    case SYL_OP_kv_append:
        return use->index == 3 ? SYL_INPUT_POS : use->index == 4 ? SYL_INPUT_SEQ : SYL_INPUT_COUNT;
    case SYL_OP_attention:
        return use->index == 2 ? SYL_INPUT_POS : use->index == 3 ? SYL_INPUT_SEQ : SYL_INPUT_COUNT;
    default:
        return SYL_INPUT_COUNT;
    }
}

static bool is_symbol(syl_dim dim, const char *symbol) {
    return dim.symbol && strcmp(dim.symbol, symbol) == 0;
}

static syl_status bad_argument(const syl_func *func, int i, syl_diag *diag, const char *why) {
    const char *name = func->args[i].name;
    return syl_error(diag, SYL_ERR_exec_signature, func->loc, "argument %d (%s) of @forward %s", i,
                     name ? name : "unnamed", why);
}

static syl_status find_role(const syl_func *func, int i, syl_diag *diag, syl_signature *out,
                            syl_input_role *role) {
    const syl_value *arg = &func->args[i];
    *role = SYL_INPUT_COUNT;
    if (arg->type.kind == SYL_KV) {
        *role = SYL_INPUT_CACHE;
        return SYL_OK;
    }
    if (arg->type.dtype != SYL_i32 || arg->type.rank != 1)
        return bad_argument(func, i, diag, "is neither a vector of i32 nor a KV cache");
    for (const syl_use *use = arg->uses; use; use = use->next) {
        syl_input_role found = role_of_use(use);
        if (found == SYL_INPUT_COUNT)
            return bad_argument(func, i, diag, "is used where the executor cannot check its range");
        if (*role != SYL_INPUT_COUNT && found != *role)
            return bad_argument(func, i, diag, "is used in two meanings");
        *role = found;
        if (found == SYL_INPUT_IDS) {
            int64_t rows = syl_operand(use->user, 1)->type.dims[0].size;
            if (rows < 1) return bad_argument(func, i, diag, "indexes a table of unknown size");
            if (!out->id_limit || rows < out->id_limit) out->id_limit = rows;
        }
        if (found == SYL_INPUT_ROWS && !is_symbol(syl_operand(use->user, 0)->type.dims[0], "T")) {
            return bad_argument(func, i, diag, "takes rows of a matrix that has not one row a token");
        }
    }
    if (*role == SYL_INPUT_COUNT) {
        /* unused: known by its name, and harmless */
        static const char *const names[] = {"ids", "pos", "seq", "rows"};
        for (int r = 0; r < 4; r++) {
            if (arg->name && strcmp(arg->name, names[r]) == 0) *role = (syl_input_role)r;
        }
        if (*role == SYL_INPUT_COUNT) return bad_argument(func, i, diag, "is used nowhere");
    }
    return SYL_OK;
}

static syl_status find_logits(const syl_func *func, syl_diag *diag, syl_signature *out) {
    out->logits = -1;
    for (int i = 0; i < func->n_results; i++) {
        const syl_type *type = &func->result_types[i];
        if (type->kind == SYL_KV) continue;
        bool matrix = type->dtype == SYL_f32 && type->rank == 2 && type->dims[1].size > 0 &&
                      (is_symbol(type->dims[0], "T") || is_symbol(type->dims[0], "R"));
        if (!matrix || out->logits >= 0) {
            return syl_error(
                diag, SYL_ERR_exec_signature, func->loc,
                "result %d of @forward: expected one f32 matrix of logits with a row for each of T or R", i);
        }
        out->logits = i;
        out->vocab = type->dims[1].size;
        out->logits_by_rows = is_symbol(type->dims[0], "R");
    }
    if (out->logits < 0)
        return syl_error(diag, SYL_ERR_exec_signature, func->loc, "@forward gives no logits");
    return SYL_OK;
}

syl_status syl_signature_find(const syl_module *module, syl_diag *diag, syl_signature *out) {
    *out = (syl_signature){0};
    const syl_func *func = syl_module_func(module, "forward");
    if (!func)
        return syl_error(diag, SYL_ERR_exec_signature, SYL_NOWHERE, "the module has no function @forward");
    if (func->n_args > SYL_INPUT_COUNT) {
        return syl_error(diag, SYL_ERR_exec_signature, func->loc,
                         "@forward has %d arguments, at most %d have a meaning", func->n_args,
                         SYL_INPUT_COUNT);
    }
    if (func->n_results > SYL_INPUT_COUNT)
        return syl_error(diag, SYL_ERR_exec_signature, func->loc, "@forward has %d results", func->n_results);
    for (const syl_op *op = func->body->first; op; op = op->next) {
        const syl_op *inner = op->body ? op->body->first : op;
        for (; inner; inner = op->body ? inner->next : NULL)
            if (inner->code == SYL_OP_full_attention || inner->code == SYL_OP_patchify ||
                inner->code == SYL_OP_unpatchify)
                return syl_error(diag, SYL_ERR_exec_signature, inner->loc,
                                 "%s is no part of a language model: run it as a function of tensors",
                                 syl_ops[inner->code].name);
    }
    out->n_args = func->n_args;
    for (int i = 0; i < func->n_args; i++) {
        syl_input_role role;
        SYL_TRY(find_role(func, i, diag, out, &role));
        if (out->has[role]) {
            return syl_error(diag, SYL_ERR_exec_signature, func->loc, "two arguments of @forward are %s",
                             role_names[role]);
        }
        if (role_symbols[role] && !is_symbol(func->args[i].type.dims[0], role_symbols[role])) {
            return syl_error(diag, SYL_ERR_exec_signature, func->loc,
                             "argument %d of @forward: %s must be tensor<%sxi32>", i, role_names[role],
                             role_symbols[role]);
        }
        out->roles[i] = role;
        out->has[role] = true;
    }
    bool indexed = out->has[SYL_INPUT_POS] && out->has[SYL_INPUT_SEQ];
    if (!out->has[SYL_INPUT_IDS] || (out->has[SYL_INPUT_CACHE] && !indexed)) {
        return syl_error(diag, SYL_ERR_exec_signature, func->loc, "@forward takes no %s",
                         out->has[SYL_INPUT_IDS] ? "positions or sequence numbers" : "token ids");
    }
    if (out->has[SYL_INPUT_ROWS] == false) {
        for (int i = 0; i < func->n_results; i++) {
            if (func->result_types[i].kind == SYL_TENSOR && is_symbol(func->result_types[i].dims[0], "R")) {
                return syl_error(diag, SYL_ERR_exec_signature, func->loc,
                                 "@forward gives rows R but takes no row numbers");
            }
        }
    }
    return find_logits(func, diag, out);
}
