/* Finds the roots of the weight side, gives them names, and replaces them by `materialized` ops
 * (materialize.h). */
#include "driver/materialize_plan.h"

#include <stdlib.h>
#include <string.h>

#include "base/hadamard.h"
#include "runtime/artifact.h"

enum { MAX_NAME = 200, MAX_JOINED = 4 };

static bool is_real(const syl_value *value) {
    return value->type.kind == SYL_TENSOR && value->type.dtype == SYL_real;
}

static bool is_root(const syl_op *op) {
    return (op->code == SYL_OP_cast || op->code == SYL_OP_quantize) && is_real(syl_operand(op, 0)) &&
           !is_real(syl_result(op));
}

/* ---- expressions ---- */

static syl_status check_weight(const syl_materializer *m, const syl_op *op) {
    int64_t source = syl_attr_int(op, "source");
    if (source < 0 || (size_t)source >= m->n_sources) {
        return syl_error(m->diag, SYL_ERR_ir_attribute, op->loc,
                         "weight \"%s\" names source file %lld, the module has %zu", syl_attr_str(op, "name"),
                         (long long)source, m->n_sources);
    }
    int rank;
    int64_t dims[SYL_MAX_RANK];
    const syl_type *type = &syl_result(op)->type;
    if (!syl_weights_shape(m->sources[source], syl_attr_str(op, "name"), &rank, dims)) {
        return syl_error(m->diag, SYL_ERR_ir_undefined, op->loc, "the source file has no tensor \"%s\"",
                         syl_attr_str(op, "name"));
    }
    bool same = rank == type->rank;
    for (int i = 0; same && i < rank; i++) same = dims[i] == type->dims[i].size;
    if (same) return SYL_OK;
    return syl_error(m->diag, SYL_ERR_ir_shape, op->loc, "tensor \"%s\" has another shape in its file",
                     syl_attr_str(op, "name"));
}

/* Of all results of a low_rank_split. */
static mat_factors *factors_of(syl_materializer *m, const syl_op *op) {
    void **slot = syl_map_slot(&m->factors, &op, sizeof op, NULL);
    if (!*slot) {
        mat_factors *factors = SYL_NEW(&m->arena, mat_factors);
        pthread_mutex_init(&factors->lock, NULL);
        *slot = factors;
    }
    return *slot;
}

/* The node of a real value. A verified module has no cycles, so the recursion ends. */
static syl_status node_of(syl_materializer *m, const syl_value *value, mat_node **out) {
    const syl_op *op = value->def;
    if (!op || !(syl_op_has(op, SYL_TRAIT_WEIGHT))) {
        return syl_error(m->diag, SYL_ERR_materialize_real, op ? op->loc : SYL_NOWHERE,
                         "a real value must come from a weight op");
    }
    void **slot = syl_map_slot(&m->nodes, &value, sizeof value, NULL);
    if (*slot) {
        *out = *slot;
        return SYL_OK;
    }
    const syl_type *type = &value->type;
    int64_t elements;
    if (type->rank < 1 || type->rank > 2 || !syl_type_elements(type, &elements)) {
        return syl_error(m->diag, SYL_ERR_materialize_real, op->loc,
                         "weights are vectors and matrices of known size");
    }
    mat_node *node = SYL_NEW(&m->arena, mat_node);
    node->op = op;
    node->result = value->index;
    node->rows = type->dims[0].size;
    node->cols = type->rank == 2 ? type->dims[1].size : 1;
    node->axis = (int)syl_attr_int(op, "axis");
    if (op->code == SYL_OP_weight) SYL_TRY(check_weight(m, op));
    if (op->code == SYL_OP_hadamard) {
        const syl_attr *factors = syl_attr_get(op, "factors");
        if (!syl_hadamard_valid(node->axis ? node->cols : node->rows, factors->ints.p, factors->ints.n,
                                &node->block)) {
            return syl_error(m->diag, SYL_ERR_ir_attribute, op->loc,
                             "hadamard: the factors do not fit the axis");
        }
    }
    node->n_inputs = op->n_operands;
    node->inputs = SYL_NEW_ARRAY(&m->arena, mat_node *, (size_t)op->n_operands);
    for (int i = 0; i < op->n_operands; i++) SYL_TRY(node_of(m, syl_operand(op, i), &node->inputs[i]));
    if (op->code == SYL_OP_low_rank_split) node->factors = factors_of(m, op);
    *syl_map_slot(&m->nodes, &value, sizeof value, NULL) = node; /* the slot may have moved */
    *out = node;
    return SYL_OK;
}

/* ---- names ---- */

/* Weights below a node, each once, in order; the vectors that only scale others are left out. */
static void collect_names(const mat_node *node, syl_map *names) {
    if (node->op->code == SYL_OP_weight) {
        const char *name = syl_attr_str(node->op, "name");
        *syl_map_slot(names, name, strlen(name), NULL) = (void *)1;
    }
    int n = node->op->code == SYL_OP_scale ? 1 : node->n_inputs;
    for (int i = 0; i < n; i++) collect_names(node->inputs[i], names);
}

/* Takes the names of a tensor's parts, or none of them where one is taken. */
static bool take_names(syl_materializer *m, const char *name, int parts) {
    const char *full[SYL_STORED_PARTS];
    for (int p = 0; p < parts; p++) {
        full[p] = syl_arena_printf(&m->arena, "%s%s", name, syl_artifact_suffixes[p]);
        if (syl_map_get_str(&m->names, full[p])) return false;
    }
    for (int p = 0; p < parts; p++) *syl_map_slot(&m->names, full[p], strlen(full[p]), NULL) = (void *)1;
    return true;
}

static syl_status name_root(syl_materializer *m, mat_root *root, int parts) {
    syl_map leaves;
    syl_map_init(&leaves, &m->arena);
    collect_names(root->node, &leaves);
    syl_text text = {.arena = &m->arena};
    size_t shown = leaves.entries.n <= MAX_JOINED ? leaves.entries.n : 1;
    for (size_t i = 0; i < shown; i++) syl_text_printf(&text, "%s%s", i ? "+" : "", leaves.entries.p[i].key);
    if (shown < leaves.entries.n) syl_text_printf(&text, "+%zu", leaves.entries.n - shown);
    if (text.n > MAX_NAME * MAX_JOINED / 2) {
        return syl_error(m->diag, SYL_ERR_materialize_name, root->op->loc,
                         "the name \"%.60s...\" has %zu characters", text.p, text.n);
    }
    const char *name = text.p;
    for (int i = 2; !take_names(m, name, parts); i++) name = syl_arena_printf(&m->arena, "%s.%d", text.p, i);
    root->name = name;
    return SYL_OK;
}

/* ---- the graph ---- */

/* An op that reads a real value must make one, or round it. */
static syl_status check_readers(syl_materializer *m, const syl_op *op) {
    for (int i = 0; i < op->n_operands; i++) {
        const syl_value *value = syl_operand(op, i);
        bool ok =
            !is_real(value) || is_root(op) || (syl_op_has(op, SYL_TRAIT_WEIGHT) && is_real(syl_result(op)));
        if (ok) continue;
        mat_node *node;
        SYL_TRY(node_of(m, value, &node));
        while (node->n_inputs) node = node->inputs[0];
        return syl_error(m->diag, SYL_ERR_materialize_real, op->loc,
                         "operand %d of %s is made of weight \"%s\" and was never rounded", i,
                         syl_ops[op->code].name, syl_attr_str(node->op, "name"));
    }
    return SYL_OK;
}

static syl_status replace_root(syl_materializer *m, syl_module *module, syl_op *op) {
    mat_root root = {.op = op, .dtype = syl_result(op)->type.dtype};
    syl_stored stored;
    if (!syl_stored_of(&syl_result(op)->type, &stored)) {
        return syl_error(m->diag, SYL_ERR_artifact_type, op->loc, "a value of type %s cannot be stored",
                         syl_dtypes[root.dtype].name);
    }
    root.shape.parts = stored.parts;
    for (int p = 0; p < stored.parts; p++) {
        root.shape.size[p] = syl_st_dtype_size(stored.part[p].dtype);
        for (int i = 0; i < stored.part[p].rank; i++) root.shape.size[p] *= (size_t)stored.part[p].shape[i];
    }
    SYL_TRY(node_of(m, syl_operand(op, 0), &root.node));
    SYL_TRY(name_root(m, &root, stored.parts));
    syl_builder b = syl_build_before(module, op);
    b.loc = op->loc;
    syl_value *value = syl_build(&b, SYL_OP_materialized, syl_result(op)->type, 0);
    syl_attr_set_str(module, value->def, "name", root.name);
    if (syl_result(op)->name) syl_value_set_name(module, value, syl_result(op)->name);
    syl_value_replace_uses(syl_result(op), value);
    SYL_PUSH(&m->arena, &m->roots, root);
    return SYL_OK;
}

static syl_status replace_roots(syl_materializer *m, syl_module *module, syl_block *block) {
    for (syl_op *op = block->first, *next; op; op = next) {
        next = op->next;
        SYL_TRY(check_readers(m, op));
        if (is_root(op)) SYL_TRY(replace_root(m, module, op));
        if (op->body) SYL_TRY(replace_roots(m, module, op->body));
    }
    return SYL_OK;
}

/* Every reader of a weight-side value stands behind it, so one walk backwards finds them unused. */
static void erase_weight_side(syl_block *block) {
    for (syl_op *op = block->last, *prev; op; op = prev) {
        prev = op->prev;
        if (op->body) erase_weight_side(op->body);
        bool weight_side = op->n_results > 0 && (is_real(syl_result(op)) || is_root(op));
        for (int i = 0; i < op->n_results; i++) weight_side = weight_side && !op->results[i].uses;
        if (weight_side) syl_op_erase(op);
    }
}

static syl_status open_sources(syl_materializer *m, const syl_module *module) {
    m->n_sources = module->sources.n;
    m->sources = SYL_NEW_ARRAY(&m->arena, syl_weights *, m->n_sources);
    for (size_t i = 0; i < m->n_sources; i++)
        SYL_TRY(syl_weights_open(module->sources.p[i], m->diag, &m->sources[i]));
    return SYL_OK;
}

static syl_status begin(syl_materializer *m, syl_module *module) {
    SYL_TRY(open_sources(m, module));
    for (syl_func *func = module->funcs; func; func = func->next)
        SYL_TRY(replace_roots(m, module, func->body));
    for (syl_func *func = module->funcs; func; func = func->next) erase_weight_side(func->body);
    module->sources.n = 0; /* nothing refers to them any more */
    return SYL_OK;
}

syl_status syl_materialize_begin(syl_module *module, syl_diag *diag, syl_materializer **out) {
    *out = NULL;
    syl_materializer *m = calloc(1, sizeof *m);
    if (!m) return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory to materialize");
    syl_arena_init(&m->arena);
    m->diag = diag;
    syl_map_init(&m->nodes, &m->arena);
    syl_map_init(&m->names, &m->arena);
    syl_map_init(&m->factors, &m->arena);
    *syl_map_slot(&m->names, SYL_ARTIFACT_TOKENIZER, strlen(SYL_ARTIFACT_TOKENIZER), NULL) = (void *)1;
    syl_status status = begin(m, module);
    if (status != SYL_OK) {
        syl_materialize_end(m);
        return status;
    }
    *out = m;
    return SYL_OK;
}

void syl_materialize_end(syl_materializer *m) {
    if (!m) return;
    for (size_t i = 0; i < m->n_sources; i++) syl_weights_close(m->sources[i]);
    for (size_t i = 0; i < m->factors.entries.n; i++) {
        mat_factors *factors = m->factors.entries.p[i].value;
        free(factors->u);
        free(factors->d);
        pthread_mutex_destroy(&factors->lock);
    }
    syl_arena_free(&m->arena);
    free(m);
}
