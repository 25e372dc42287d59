/* fuse: puts every op that runs into a `fused` region, which becomes one kernel.
 *
 *     %n = rms_norm %x {eps = 1e-05}                  %1 = fused : tensor<Tx64xint8_token> {
 *     %q = quantize %n                                  %n = rms_norm %x {eps = 1e-05}
 *     %d = linear %q, %w                        =>      %2 = quantize %n
 *     %x1 = add %x, %d                                  yield %2
 *                                                     }
 *                                                     %x1 = fused : tensor<Tx64xf32> {
 *                                                       %d = linear %1, %w
 *                                                       %3 = add %x, %d
 *                                                       yield %3
 *                                                     }
 * A region has one result (but for low-rank branches, below): that of its root, the op that stands last. One walk from the end of the block to
 * its start decides for each op: it joins the region that holds all its readers if that region stays one of
 * three kinds, else it is the root of a new one. So nothing is computed twice, no value but the root's leaves
 * a region, and a region can stand where its root stood. GEMM       one linear, then elementwise ops on
 * results of its shape (residual, activation) and rows picked by an index (a gate of each sample): the epilogue row-wise   ops whose row i needs rows i only:
 * norms, gates, rotations, quantize, rope, and one embedding or take (patchify, unpatchify), first, to read rows from; kv_append may
 * be the root alone      attention, rope_table (read by every layer), and what is none of the above Slices
 * along the last axis are views: each region that reads one gets its own copy of the op, and none is left
 * outside. What depends on weights only (the weight side) stays outside too: it is materialized.
 *
 * A low-rank branch is a linear to few columns and a linear back, both in floats. The first joins the region that quantizes its
 * operand, as a further result of it; the second, beside the main linear, its GEMM:
 *
 *     %q = quantize %n                                %1, %t = fused {
 *     %t = linear %n, %d                                ... %2 = quantize %n
 *     %s = linear %t, %u                                %3 = linear %n, %d
 *     %m = linear %q, %r                        =>      yield %2, %3
 *     %y = add %m, %s                                 }
 *                                                     %y = fused { the linears of %s and %m, then the add } */
#include "base/map.h"
#include "passes/rewrite.h"

typedef enum role { ROLE_OUTSIDE, ROLE_WEIGHT, ROLE_VIEW, ROLE_COMPUTE } role;

typedef struct region {
    syl_op *root;
    syl_dim rows;
    bool elementwise;              /* all ops are */
    bool views;                    /* some op reads a view */
    bool linear;                   /* holds a linear */
    bool branch;                   /* holds a low-rank one beside it */
    SYL_VEC(syl_op *) projections; /* whose results leave the region too; the last one in the block first */
} region;

typedef struct node {
    syl_op *op;
    role role;
    region *region;
} node;

typedef struct fuser {
    syl_pass_ctx *ctx;
    syl_block *block;
    SYL_VEC(node) nodes; /* ops of the block in order */
    syl_map index;       /* op -> 1 + its node */
} fuser;

static node *node_of(const fuser *f, const syl_op *op) {
    uintptr_t at = (uintptr_t)syl_map_get(&f->index, &op, sizeof op);
    return at ? &f->nodes.p[at - 1] : NULL;
}

/* ---- roles ---- */

static bool along_last_axis(const syl_op *op) {
    return syl_attr_int(op, "axis") == op->results[0].type.rank - 1;
}

static bool is_rowwise(const syl_op *op) {
    switch (op->code) {
    case SYL_OP_hadamard:
    case SYL_OP_signs:
    case SYL_OP_scale:
    case SYL_OP_concat:
    case SYL_OP_slice:
        return along_last_axis(op);
    case SYL_OP_embedding:
    case SYL_OP_take:
    case SYL_OP_patchify:
    case SYL_OP_unpatchify:
    case SYL_OP_kv_append:
        return true;
    default:
        return syl_op_has(op, SYL_TRAIT_ROWWISE);
    }
}

/* Elements picked from a matrix that stands outside of the region (readers_agree sees to it): rows by an index, patches and pictures by
 * their place. It may stand in an epilogue too, and what it reads may be a view. */
static bool is_gather(const syl_op *op) {
    return op->code == SYL_OP_take || op->code == SYL_OP_embedding || op->code == SYL_OP_patchify ||
           op->code == SYL_OP_unpatchify;
}

static bool is_weight_side(const fuser *f, const syl_op *op) {
    if (!syl_op_has(op, SYL_TRAIT_PURE)) return false;
    for (int i = 0; i < op->n_operands; i++) {
        const node *def = syl_operand(op, i)->def ? node_of(f, syl_operand(op, i)->def) : NULL;
        if (!def || def->role != ROLE_WEIGHT) return false;
    }
    return true;
}

static bool is_view(const fuser *f, const syl_op *op) {
    if (op->code != SYL_OP_slice || !along_last_axis(op)) return false;
    for (const syl_use *use = op->results[0].uses; use; use = use->next)
        if (use->user->parent != f->block || use->user->code == SYL_OP_return) return false;
    return true;
}

static role role_of(const fuser *f, const syl_op *op) {
    if (op->body || syl_op_has(op, SYL_TRAIT_TERMINATOR)) return ROLE_OUTSIDE;
    if (is_weight_side(f, op)) return ROLE_WEIGHT;
    return is_view(f, op) ? ROLE_VIEW : ROLE_COMPUTE;
}

static bool is_view_value(const fuser *f, const syl_value *value) {
    const node *def = value->def ? node_of(f, value->def) : NULL;
    return def && def->role == ROLE_VIEW;
}

/* ---- regions ---- */

/* ---- low-rank branches ---- */

enum { MAX_BRANCH_RANK = 64 };

/* A linear in floats without a bias, whose weight is stored. */
static bool is_plain_linear(const fuser *f, const syl_op *op) {
    if (op->code != SYL_OP_linear || op->n_operands != 2 ||
        !syl_is_class(syl_operand(op, 0), SYL_CLASS_FLOAT) ||
        !syl_is_class(syl_operand(op, 1), SYL_CLASS_FLOAT) || !syl_operand(op, 1)->def)
        return false;
    const node *weight = node_of(f, syl_operand(op, 1)->def);
    return weight && weight->role == ROLE_WEIGHT;
}

static bool is_projection_of(const region *r, const syl_op *op) {
    for (size_t i = 0; i < r->projections.n; i++)
        if (r->projections.p[i] == op) return true;
    return false;
}

/* True if only linears read `value`, all of them behind `root`. */
static bool read_behind(const fuser *f, const syl_value *value, const syl_op *root) {
    const node *place = node_of(f, root);
    for (const syl_use *use = value->uses; use; use = use->next) {
        const node *n = use->user->parent == f->block ? node_of(f, use->user) : NULL;
        if (!n || use->user->code != SYL_OP_linear) return false;
        const node *reader = n->region ? node_of(f, n->region->root) : n;
        if (reader <= place) return false;
    }
    return true;
}

/* A down-projection to few columns joins the region that quantizes what it reads: one pass over the activation gives both. */
static region *region_to_project_in(const fuser *f, const syl_op *op) {
    if (!is_plain_linear(f, op) || syl_result(op)->type.dims[1].size > MAX_BRANCH_RANK) return NULL;
    for (const syl_use *use = syl_operand(op, 0)->uses; use; use = use->next) {
        const node *n = use->user->parent == f->block ? node_of(f, use->user) : NULL;
        if (!n || !n->region || n->region->root != use->user || use->user->code != SYL_OP_quantize) continue;
        if (n > node_of(f, op) && read_behind(f, syl_result(op), use->user)) return n->region;
    }
    return NULL;
}

/* An up-projection from few columns that a down-projection made, beside the linear of its region: computed with each tile
 * of it. */
static bool is_branch_of(const fuser *f, const region *r, const syl_op *op) {
    return r->linear && !r->branch && is_plain_linear(f, op) &&
           syl_op_is(syl_operand(op, 0)->def, SYL_OP_linear) &&
           syl_operand(op, 0)->type.dims[1].size <= MAX_BRANCH_RANK;
}

/* Walks the readers of a value: all must be in one region, *r, and allow the value to be made
 * inside it. */
static bool readers_agree(const fuser *f, const syl_value *value, region **r) {
    for (const syl_use *use = value->uses; use; use = use->next) {
        const syl_op *user = use->user;
        const node *n = user->parent == f->block ? node_of(f, user) : NULL;
        if (!n || n->role == ROLE_OUTSIDE || n->role == ROLE_WEIGHT) return false;
        if (n->role == ROLE_VIEW) return false; /* what is sliced has a place */
        /* These read other rows than they make, or all of them; a projection stands in a region that has all of the row. */
        bool projects = n->region && is_projection_of(n->region, user) && use->index == 0;
        if (!projects && (user->code == SYL_OP_linear || is_gather(user) || user->code == SYL_OP_attention ||
                          user->code == SYL_OP_full_attention))
            return false;
        if (*r && n->region != *r) return false;
        *r = n->region;
    }
    return true;
}

static bool reads_views(const fuser *f, const syl_op *op) {
    for (int i = 0; i < op->n_operands; i++)
        if (is_view_value(f, syl_operand(op, i))) return true;
    return false;
}

static bool fits_epilogue(const fuser *f, const syl_op *op) {
    return is_gather(op) || (syl_op_has(op, SYL_TRAIT_ELEMENTWISE) && !reads_views(f, op));
}

static syl_dim rows_of(const syl_op *op) {
    return op->code == SYL_OP_kv_append ? syl_operand(op, 1)->type.dims[0] : op->results[0].type.dims[0];
}

static region *region_to_join(const fuser *f, const syl_op *op) {
    if (op->n_results != 1 || op->code == SYL_OP_attention || op->code == SYL_OP_full_attention ||
        op->code == SYL_OP_kv_append || op->code == SYL_OP_rope_table)
        return NULL;
    region *r = NULL;
    if (!readers_agree(f, syl_result(op), &r) || !r) return NULL;
    if (!syl_dim_equal(rows_of(op), r->rows) || !is_rowwise(r->root)) return NULL;
    if (op->code == SYL_OP_linear)
        return r->elementwise && !r->views && (!r->linear || is_branch_of(f, r, op)) ? r : NULL;
    if (!is_rowwise(op)) return NULL;
    if (r->linear) return fits_epilogue(f, op) ? r : NULL;
    return r;
}

static void assign(fuser *f, node *n) {
    syl_op *op = n->op;
    n->region = region_to_project_in(f, op);
    if (n->region) {
        SYL_PUSH(f->ctx->scratch, &n->region->projections, op);
        return;
    }
    n->region = region_to_join(f, op);
    if (!n->region) {
        n->region = SYL_NEW(f->ctx->scratch, region);
        *n->region = (region){.root = op, .rows = rows_of(op), .elementwise = true};
        bool is_known = is_rowwise(op) || op->code == SYL_OP_linear || op->code == SYL_OP_attention ||
                        op->code == SYL_OP_full_attention;
        if (!is_known)
            syl_remark(f->ctx->diag, op->loc,
                       "%s stands alone in its region: it is neither row-wise nor a GEMM",
                       syl_ops[op->code].name);
    }
    n->region->elementwise = n->region->elementwise && (syl_op_has(op, SYL_TRAIT_ELEMENTWISE) ||
                                                        is_gather(op) || op->code == SYL_OP_linear);
    n->region->views = n->region->views || (reads_views(f, op) && !is_gather(op));
    if (n->region->linear && op->code == SYL_OP_linear) n->region->branch = true;
    n->region->linear = n->region->linear || op->code == SYL_OP_linear;
}

/* ---- building ---- */

/* The copy of a view in a region, made at its end. */
static syl_value *copy_view(fuser *f, syl_map *copies, syl_builder *b, syl_value *view) {
    if (!is_view_value(f, view)) return view;
    void **slot = syl_map_slot(copies, &view, sizeof view, NULL);
    if (*slot) return *slot;
    syl_value *source = copy_view(f, copies, b, syl_operand(view->def, 0));
    syl_value *copy = syl_build(b, SYL_OP_slice, view->type, 1, source);
    for (size_t i = 0; i < view->def->attrs.n; i++)
        syl_attr_set(b->module, copy->def, &view->def->attrs.p[i]);
    *syl_map_slot(copies, &view, sizeof view, NULL) = copy;
    return copy;
}

static void build(fuser *f, const region *r) {
    syl_module *module = f->ctx->module;
    syl_builder before = syl_build_before(module, r->root);
    size_t n_results = 1 + r->projections.n;
    syl_value **inner = SYL_NEW_ARRAY(f->ctx->scratch, syl_value *, n_results);
    syl_type *types = SYL_NEW_ARRAY(f->ctx->scratch, syl_type, n_results);
    for (size_t i = 0; i < n_results; i++) {
        inner[i] = syl_result(i ? r->projections.p[r->projections.n - i] : r->root);
        types[i] = inner[i]->type;
    }
    syl_op *fused = syl_build_op(&before, SYL_OP_fused, 0, NULL, (int)n_results, types);
    syl_builder b = syl_build_at_end(module, fused->body);
    syl_map copies;
    syl_map_init(&copies, f->ctx->scratch);
    size_t last = (size_t)(node_of(f, r->root) - f->nodes.p), first = last;
    for (size_t i = 0; i <= last; i++)
        if (f->nodes.p[i].region == r && i < first) first = i;
    for (size_t i = first; i <= last; i++) {
        syl_op *op = f->nodes.p[i].op;
        if (f->nodes.p[i].region != r) continue;
        b.loc = op->loc;
        for (int k = 0; k < op->n_operands; k++) {
            syl_value *operand = syl_operand(op, k), *copy = copy_view(f, &copies, &b, operand);
            if (copy != operand) syl_op_set_operand(op, k, copy);
        }
        syl_op_move_to_end(op, fused->body);
    }
    for (size_t i = 0; i < n_results; i++) {
        fused->results[i].name = inner[i]->name;
        inner[i]->name = NULL;
        syl_value_replace_uses(inner[i], &fused->results[i]);
    }
    syl_build_op(&b, SYL_OP_yield, (int)n_results, inner, 0, NULL);
    syl_pass_count(f->ctx, "regions", 1);
    syl_pass_count(f->ctx,
                   r->linear                                                                     ? "gemm"
                   : r->root->code == SYL_OP_attention || r->root->code == SYL_OP_full_attention ? "attention"
                                                                                                 : "row-wise",
                   1);
}

static void fuse_block(syl_pass_ctx *ctx, syl_block *block) {
    fuser f = {.ctx = ctx, .block = block};
    syl_map_init(&f.index, ctx->scratch);
    for (syl_op *op = block->first; op; op = op->next) {
        SYL_PUSH(ctx->scratch, &f.nodes, (node){op, role_of(&f, op), NULL});
        *syl_map_slot(&f.index, &op, sizeof op, NULL) = (void *)(uintptr_t)f.nodes.n;
    }
    for (size_t i = f.nodes.n; i-- > 0;)
        if (f.nodes.p[i].role == ROLE_COMPUTE) assign(&f, &f.nodes.p[i]);
    for (size_t i = 0; i < f.nodes.n; i++)
        if (f.nodes.p[i].region && f.nodes.p[i].region->root == f.nodes.p[i].op)
            build(&f, f.nodes.p[i].region);
    for (size_t i = f.nodes.n; i-- > 0;)
        if (f.nodes.p[i].role == ROLE_VIEW && !syl_result(f.nodes.p[i].op)->uses)
            syl_op_erase(f.nodes.p[i].op);
}

syl_status syl_pass_fuse(syl_pass_ctx *ctx) {
    for (syl_func *func = ctx->module->funcs; func; func = func->next) fuse_block(ctx, func->body);
    return SYL_OK;
}
