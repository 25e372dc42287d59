/* Kernel IR: building, checking, scheduling, printing. */
#include "codegen/kir.h"
#include <string.h>
#include "base/size.h"

const kir_op_info kir_ops[KIR_OP_COUNT] = {
#define KIR(ident, name, args, role, doc) {name, doc, args, KIR_##role},
#include "codegen/kir.def"
};

static const char *const type_names[] = {"f32", "f64", "bf16", "f16", "i8", "i32"};
static const char *const role_names[] = {"uniform", "row", "col", "elem", "same", "none"};
static const char *const dot_names[] = {"f32", "i8", "madd", "vnni", "mma_i8", "mma_bf16"};

int kir_elem_bytes(kir_type elem) {
    static const int bytes[] = {
        [KIR_F32] = 4, [KIR_F64] = 8, [KIR_BF16] = 2, [KIR_F16] = 2, [KIR_I8] = 1, [KIR_I32] = 4};
    return bytes[elem];
}

/* ---- building ---- */

static kir_role widest(kir_role a, kir_role b) {
    if (a == KIR_ELEM || b == KIR_ELEM || (a == KIR_ROW && b == KIR_COL) || (a == KIR_COL && b == KIR_ROW))
        return KIR_ELEM;
    return a > b ? a : b;
}

static kir_role role_of(const kir_kernel *kernel, const kir_inst *inst) {
    kir_role role = kir_ops[inst->op].role;
    if (role != KIR_SAME) return role;
    role = KIR_UNIFORM;
    for (int i = 0; i < kir_ops[inst->op].args; i++) role = widest(role, kernel->body.p[inst->args[i]].role);
    return role;
}

static kir_type register_type(kir_type elem) {
    return elem == KIR_I8 || elem == KIR_I32 ? KIR_I32 : elem == KIR_F64 ? KIR_F64 : KIR_F32;
}

static kir_type type_of(const kir_kernel *kernel, const kir_inst *inst) {
    switch (inst->op) {
    case KIR_load:
    case KIR_load_row:
    case KIR_load_col:
    case KIR_load_at:
    case KIR_load_patch:
    case KIR_load_picture:
        return register_type(kernel->buffers.p[inst->buffer].elem);
    case KIR_table:
    case KIR_to_f64:
        return KIR_F64;
    case KIR_imm:
    case KIR_to_f32:
    case KIR_low_rank:
        return KIR_F32;
    case KIR_to_i8:
        return KIR_I8;
    case KIR_acc:
        return kir_acc_type(&kernel->gemm);
    default:
        return kernel->body.p[inst->args[0]].type;
    }
}

int kir_emit(syl_arena *arena, kir_kernel *kernel, kir_inst inst) {
    inst.role = role_of(kernel, &inst);
    inst.type = type_of(kernel, &inst);
    SYL_PUSH(arena, &kernel->body, inst);
    return (int)kernel->body.n - 1;
}

int kir_add_buffer(syl_arena *arena, kir_kernel *kernel, kir_buffer buffer) {
    SYL_PUSH(arena, &kernel->buffers, buffer);
    return (int)kernel->buffers.n - 1;
}

/* ---- tasks and scratch ---- */

int64_t kir_tasks(const kir_kernel *kernel, int64_t rows) {
    switch (kernel->kind) {
    case KIR_ROWS:
        return rows;
    case KIR_GEMM:
        return syl_ceil_div(rows, kernel->gemm.mblock) * syl_ceil_div(kernel->gemm.n, kernel->gemm.nr);
    case KIR_ATTENTION:
        return syl_ceil_div(rows, kernel->attention.mr) * kernel->attention.heads;
    case KIR_FULL_ATTENTION:
        return rows / kernel->full_attention.tokens * kernel->full_attention.heads;
    }
    return 0;
}

/* ---- the KV cache ---- */

int64_t kir_cache_unit(const kir_cache *cache, kir_codes codes) {
    return codes.bits ? 1 : cache->elem == KIR_F32 ? 4 : 2;
}

int64_t kir_cache_units(const kir_cache *cache, kir_codes codes) {
    return codes.bits == 4 ? (cache->dim + 1) / 2 : cache->dim;
}

int64_t kir_cache_groups(const kir_cache *cache, kir_codes codes) {
    return codes.bits ? cache->dim / codes.group : 0;
}

kir_cache_layout kir_cache_layout_of(const kir_cache *cache) {
    kir_cache_layout l = {0};
    l.values = SYL_KV_PAGE * kir_cache_unit(cache, cache->k) * kir_cache_units(cache, cache->k);
    l.k_groups = l.values + SYL_KV_PAGE * kir_cache_unit(cache, cache->v) * kir_cache_units(cache, cache->v);
    l.v_groups = l.k_groups + KIR_GROUP_BYTES * kir_cache_groups(cache, cache->k);
    l.size = l.v_groups + KIR_GROUP_BYTES * kir_cache_groups(cache, cache->v);
    return l;
}

kir_cache kir_full_attention_pages(const kir_full_attention *attention) {
    return (kir_cache){.heads = 1, .dim = (int)attention->head_dim, .elem = KIR_F32};
}

/* ---- scheduling ---- */

static bool is_transform(kir_op op) {
    return op == KIR_hadamard || op == KIR_rope || op == KIR_head_norm;
}

/* Appending codes and projecting read a scratch row, as transforms do. */
static bool needs_scratch_row(kir_op op) {
    return is_transform(op) || op == KIR_append_codes_k || op == KIR_append_codes_v || op == KIR_project;
}

static bool is_row_wide(kir_op op) {
    return op == KIR_reduce_sum || op == KIR_reduce_max || needs_scratch_row(op);
}

/* Instructions that cost less to compute again than to keep in memory for a later stage. */
static bool is_light(kir_op op) {
    switch (op) {
    case KIR_load:
    case KIR_load_at:
    case KIR_acc:
    case KIR_add:
    case KIR_sub:
    case KIR_mul:
    case KIR_fma:
    case KIR_neg:
    case KIR_abs:
    case KIR_max:
    case KIR_min:
    case KIR_to_f32:
    case KIR_round_bf16:
        return true;
    default:
        return false;
    }
}

enum { max_recompute = 6 }; /* element instructions; a longer chain is kept */

void kir_schedule(const kir_kernel *kernel, int *stage, bool *keep) {
    int n = (int)kernel->body.n;
    const kir_inst *body = kernel->body.p;
    for (int i = 0; i < n; i++) {
        stage[i] = 0;
        for (int a = 0; a < kir_ops[body[i].op].args; a++) {
            int arg = body[i].args[a], ready = stage[arg] + is_row_wide(body[arg].op);
            if (ready > stage[i]) stage[i] = ready;
        }
    }
    /* Heavy values with a later use are kept, and so are the rows that transforms make. */
    for (int i = 0; i < n; i++) {
        keep[i] = false;
        if (body[i].role != KIR_ELEM || is_transform(body[i].op))
            continue; /* a transform's row is always there */
        bool needed_later = false;
        for (int u = i + 1; u < n && !needed_later; u++)
            for (int a = 0; a < kir_ops[body[u].op].args; a++)
                if (body[u].args[a] == i && stage[u] > stage[i]) needed_later = true;
        keep[i] = needed_later && !is_light(body[i].op);
    }
    /* A light value needed later is computed again from its operands, so heavy operands of it must be kept,
     * and a chain of light ones must stay short. Walk back from each late use. */
    for (int u = 0; u < n; u++) {
        for (int a = 0; a < kir_ops[body[u].op].args; a++) {
            int stack[64], depth = 0, visited = 0;
            int arg = body[u].args[a];
            if (body[arg].role != KIR_ELEM || stage[arg] >= stage[u] || keep[arg] ||
                is_transform(body[arg].op))
                continue;
            stack[depth++] = arg;
            while (depth) {
                int i = stack[--depth];
                if (body[i].role != KIR_ELEM || keep[i] || is_transform(body[i].op)) continue;
                if (!is_light(body[i].op)) {
                    keep[i] = stage[i] < stage[u];
                    continue;
                }
                if (++visited > max_recompute) {
                    keep[arg] = true;
                    break;
                }
                for (int b = 0; b < kir_ops[body[i].op].args && depth < 64; b++)
                    stack[depth++] = body[i].args[b];
            }
        }
    }
}

bool kir_scaled_groups(const kir_weight_codes *codes) {
    return codes->group && !codes->two_level;
}

kir_type kir_acc_type(const kir_gemm *gemm) {
    return gemm->dot == KIR_DOT_F32 || gemm->dot == KIR_DOT_MMA_BF16 || kir_scaled_groups(&gemm->codes)
               ? KIR_F32
               : KIR_I32;
}

int64_t kir_panel_scratch(const kir_gemm *gemm) {
    return gemm->mblock * syl_ceil_div(gemm->k, 64) * 64 * 4;
}

static int64_t attention_scratch(int mr, int64_t dim) {
    return mr * 4 * (SYL_KV_PAGE + 2 * syl_ceil_div(dim, KIR_LANES) * KIR_LANES + 64);
}

/* What the printers lay out in scratch memory: a row of f32 a kept value (two for f64), one a transform, one
 * to work in; the block of A rows in the form the dot product wants; the tiles of online softmax, and scales and
 * zero points of a page's values. */
int64_t kir_scratch(const kir_kernel *kernel) {
    if (kernel->kind == KIR_GEMM) {
        const kir_gemm *g = &kernel->gemm;
        int64_t panel = syl_ceil_div(g->k, 2 * g->ku) * 2 * g->ku * g->nr;
        return 64 + kir_panel_scratch(g) + (g->codes.bits ? panel : 0);
    }
    if (kernel->kind == KIR_ATTENTION)
        return 64 + attention_scratch(kernel->attention.mr, kernel->attention.head_dim) +
               kir_cache_groups(&kernel->cache, kernel->cache.v) * 2 * SYL_KV_PAGE * 4;
    if (kernel->kind == KIR_FULL_ATTENTION) {
        const kir_full_attention *a = &kernel->full_attention;
        kir_cache cache = kir_full_attention_pages(a);
        return 64 + syl_ceil_div(a->tokens, SYL_KV_PAGE) * kir_cache_layout_of(&cache).size +
               attention_scratch(a->mr, a->head_dim);
    }
    syl_arena arena;
    syl_arena_init(&arena);
    int *stage = SYL_NEW_ARRAY(&arena, int, kernel->body.n);
    bool *keep = SYL_NEW_ARRAY(&arena, bool, kernel->body.n);
    kir_schedule(kernel, stage, keep);
    int64_t rows = 0, work = syl_ceil_div(kernel->cols, KIR_PROJECT_COLS) * KIR_PROJECT_COLS;
    for (size_t i = 0; i < kernel->body.n; i++) {
        if (keep[i]) rows += kernel->body.p[i].type == KIR_F64 ? 2 : 1;
        if (needs_scratch_row(kernel->body.p[i].op)) rows++;
    }
    syl_arena_free(&arena);
    return 64 + (rows * syl_ceil_div(kernel->cols, KIR_LANES) * KIR_LANES + work) * 4;
}

/* ---- checking ---- */

static syl_status broken(syl_diag *diag, const kir_kernel *kernel, const char *what, int where) {
    return syl_error(diag, SYL_ERR_internal, SYL_NOWHERE, "kernel '%s': %s at instruction %d", kernel->name,
                     what, where);
}

static bool uses_buffer(kir_op op) {
    switch (op) {
    case KIR_load:
    case KIR_load_row:
    case KIR_load_col:
    case KIR_load_at:
    case KIR_load_patch:
    case KIR_load_picture:
    case KIR_store:
    case KIR_store_row:
    case KIR_append_k:
    case KIR_append_v:
    case KIR_append_codes_k:
    case KIR_append_codes_v:
    case KIR_project:
    case KIR_rope:
        return true;
    default:
        return false;
    }
}

static bool shape_fits(kir_op op, kir_shape shape) {
    switch (op) {
    case KIR_load_row:
    case KIR_store_row:
        return shape == KIR_PER_ROW;
    case KIR_load_col:
        return shape == KIR_PER_COL;
    case KIR_append_k:
    case KIR_append_v:
    case KIR_append_codes_k:
    case KIR_append_codes_v:
        return shape == KIR_CACHE;
    case KIR_store:
        return shape == KIR_MATRIX || shape == KIR_TILED;
    default:
        return shape == KIR_MATRIX;
    }
}

/* The buffer holds pictures, or their patches, and the kernel's columns are the other. */
static bool pictures_fit(const kir_kernel *kernel, const kir_inst *inst) {
    const kir_pictures *p = &inst->pictures;
    const kir_buffer *buffer = &kernel->buffers.p[inst->buffer];
    if (p->channels < 1 || p->patch < 1 || p->height < 1 || p->width < 1 || p->height % p->patch ||
        p->width % p->patch)
        return false;
    int64_t picture = p->channels * p->height * p->width, patch = p->channels * p->patch * p->patch,
            cols = kernel->kind == KIR_GEMM ? kernel->gemm.n : kernel->cols;
    return inst->op == KIR_load_patch ? buffer->cols == picture && cols == patch
                                      : buffer->cols == patch && cols == picture;
}

syl_status kir_verify(const kir_kernel *kernel, syl_diag *diag) {
    int n_buffers = (int)kernel->buffers.n;
    for (int i = 0; i < (int)kernel->body.n; i++) {
        const kir_inst *inst = &kernel->body.p[i];
        const kir_op_info *info = &kir_ops[inst->op];
        for (int a = 0; a < info->args; a++) {
            if (inst->args[a] < 0 || inst->args[a] >= i)
                return broken(diag, kernel, "operand out of order", i);
            if (kir_ops[kernel->body.p[inst->args[a]].op].role == KIR_NONE)
                return broken(diag, kernel, "operand without a value", i);
        }
        if (inst->role != role_of(kernel, inst)) return broken(diag, kernel, "wrong role", i);
        if (uses_buffer(inst->op)) {
            if (inst->buffer < 0 || inst->buffer >= n_buffers)
                return broken(diag, kernel, "no such buffer", i);
            if (!shape_fits(inst->op, kernel->buffers.p[inst->buffer].shape))
                return broken(diag, kernel, "buffer of the wrong shape", i);
        }
        if ((inst->op == KIR_load_patch || inst->op == KIR_load_picture) && !pictures_fit(kernel, inst))
            return broken(diag, kernel, "pictures of other sizes", i);
        if ((inst->op == KIR_store || inst->op == KIR_store_row) && !kernel->buffers.p[inst->buffer].written)
            return broken(diag, kernel, "store to a read-only buffer", i);
        if (inst->op == KIR_project &&
            (inst->second < 0 || inst->second >= n_buffers || !kernel->buffers.p[inst->buffer].written ||
             kernel->buffers.p[inst->second].shape != KIR_MATRIX ||
             kernel->buffers.p[inst->second].cols != kernel->cols))
            return broken(diag, kernel, "no matrix to project by", i);
        if (inst->op == KIR_low_rank && (kernel->kind != KIR_GEMM || kernel->branch.rank < 1))
            return broken(diag, kernel, "low_rank without a branch", i);
        if (inst->op == KIR_acc && kernel->kind != KIR_GEMM)
            return broken(diag, kernel, "acc outside a GEMM", i);
        if (is_row_wide(inst->op) && kernel->kind != KIR_ROWS)
            return broken(diag, kernel, "row-wide instruction outside a row kernel", i);
        if (inst->op == KIR_table && (inst->table < 0 || inst->table >= (int)kernel->tables.n))
            return broken(diag, kernel, "no such table", i);
    }
    if (kernel->kind == KIR_ROWS && kernel->cols < 1) return broken(diag, kernel, "no columns", 0);
    if (kernel->kind == KIR_GEMM) {
        const kir_gemm *gemm = &kernel->gemm;
        if (gemm->a >= n_buffers || gemm->w >= n_buffers || gemm->mr < 1 || gemm->nr < 1 || gemm->ku < 1 ||
            gemm->mblock < 1 || gemm->n < 1 || gemm->k < 1)
            return broken(diag, kernel, "bad GEMM parameters", 0);
        const kir_branch *branch = &kernel->branch;
        if (branch->rank && (branch->rank < 0 || branch->t < 0 || branch->t >= n_buffers || branch->u < 0 ||
                             branch->u >= n_buffers || kernel->buffers.p[branch->t].cols != branch->rank ||
                             (kernel->buffers.p[branch->u].shape != KIR_PACKED &&
                              kernel->buffers.p[branch->u].shape != KIR_MATRIX)))
            return broken(diag, kernel, "bad low-rank branch", 0);
    }
    return SYL_OK;
}

/* ---- printing ---- */

static void print_buffer(const kir_buffer *buffer, syl_text *out) {
    syl_text_printf(out, "  %s %s : ", buffer->written ? "out" : "in", buffer->name);
    switch (buffer->shape) {
    case KIR_MATRIX:
        syl_text_printf(out, "%s[rows, %lld] stride %lld\n", type_names[buffer->elem],
                        (long long)buffer->cols, (long long)buffer->stride);
        break;
    case KIR_TILED:
        syl_text_printf(out, "%s[rows, %lld] tiled\n", type_names[buffer->elem], (long long)buffer->cols);
        break;
    case KIR_PER_ROW:
        syl_text_printf(out, "%s[rows]\n", type_names[buffer->elem]);
        break;
    case KIR_PER_COL:
        syl_text_printf(out, "%s[%lld]\n", type_names[buffer->elem], (long long)buffer->cols);
        break;
    case KIR_PACKED:
        syl_text_printf(out, "%s packed\n", type_names[buffer->elem]);
        break;
    case KIR_CACHE:
        syl_text_printf(out, "kv cache\n");
        break;
    }
}

static void print_inst(const kir_kernel *kernel, int index, syl_text *out) {
    const kir_inst *inst = &kernel->body.p[index];
    const kir_op_info *info = &kir_ops[inst->op];
    syl_text_printf(out, "    ");
    if (info->role != KIR_NONE) syl_text_printf(out, "%%%d = ", index);
    syl_text_printf(out, "%s", info->name);
    if (uses_buffer(inst->op)) syl_text_printf(out, " %s", kernel->buffers.p[inst->buffer].name);
    for (int a = 0; a < info->args; a++)
        syl_text_printf(out, "%s %%%d", a || uses_buffer(inst->op) ? "," : "", inst->args[a]);
    if (inst->op == KIR_append_codes_k || inst->op == KIR_append_codes_v)
        syl_text_printf(out, " clip %.17g", inst->f);
    if (inst->op == KIR_project) syl_text_printf(out, ", %s", kernel->buffers.p[inst->second].name);
    if (inst->op == KIR_imm) syl_text_printf(out, " %.17g", inst->f);
    if (inst->op == KIR_table) syl_text_printf(out, " t%d", inst->table);
    if (inst->op == KIR_hadamard) {
        syl_text_printf(out, "%s", inst->transpose ? " transpose" : "");
        for (int i = 0; i < inst->n_factors; i++)
            syl_text_printf(out, "%s%lld", i ? "x" : " ", (long long)inst->factors[i]);
    }
    if (inst->op == KIR_head_norm) syl_text_printf(out, " heads %d eps %.17g", inst->heads, inst->f);
    if (inst->op == KIR_rope)
        syl_text_printf(out, " heads %d dims %d %s", inst->heads, inst->dims,
                        inst->interleaved ? "interleaved" : "half");
    if (inst->op == KIR_load_patch || inst->op == KIR_load_picture)
        syl_text_printf(out, " of %lldx%lldx%lld by %lld", (long long)inst->pictures.channels,
                        (long long)inst->pictures.height, (long long)inst->pictures.width,
                        (long long)inst->pictures.patch);
    if (info->role != KIR_NONE)
        syl_text_printf(out, " : %s %s", type_names[inst->type], role_names[inst->role]);
    syl_text_printf(out, "\n");
}

static void print_body(const kir_kernel *kernel, syl_text *out) {
    int n = (int)kernel->body.n;
    if (kernel->kind != KIR_ROWS) {
        syl_text_printf(out, "  epilogue\n");
        for (int i = 0; i < n; i++) print_inst(kernel, i, out);
        return;
    }
    syl_arena arena;
    syl_arena_init(&arena);
    int *stage = SYL_NEW_ARRAY(&arena, int, (size_t)n), stages = 0;
    bool *keep = SYL_NEW_ARRAY(&arena, bool, (size_t)n);
    kir_schedule(kernel, stage, keep);
    for (int i = 0; i < n; i++)
        if (stage[i] >= stages) stages = stage[i] + 1;
    for (int s = 0; s < stages; s++) {
        syl_text_printf(out, "  stage %d\n", s);
        for (int i = 0; i < n; i++)
            if (stage[i] == s) print_inst(kernel, i, out);
    }
    syl_arena_free(&arena);
}

static void print_codes(const kir_cache *cache, kir_codes codes, syl_text *out) {
    if (codes.bits)
        syl_text_printf(out, " %d bits by %d", codes.bits, codes.group);
    else
        syl_text_printf(out, " %s", type_names[cache->elem]);
}

void kir_print(const kir_kernel *kernel, syl_text *out) {
    static const char *const kinds[] = {"rows", "gemm", "attention", "full_attention"};
    syl_text_printf(out, "%s @%s {\n", kinds[kernel->kind], kernel->name);
    for (size_t i = 0; i < kernel->buffers.n; i++) print_buffer(&kernel->buffers.p[i], out);
    if (kernel->cache.heads) {
        syl_text_printf(out, "  cache heads %d dim %d : ", kernel->cache.heads, kernel->cache.dim);
        print_codes(&kernel->cache, kernel->cache.k, out);
        print_codes(&kernel->cache, kernel->cache.v, out);
        syl_text_printf(out, "\n");
    }
    for (size_t i = 0; i < kernel->tables.n; i++) {
        syl_text_printf(out, "  t%zu = [", i);
        for (int64_t k = 0; k < kernel->tables.p[i].n; k++)
            syl_text_printf(out, "%s%.17g", k ? " " : "", kernel->tables.p[i].values[k]);
        syl_text_printf(out, "]\n");
    }
    if (kernel->kind == KIR_ROWS) syl_text_printf(out, "  cols %lld\n", (long long)kernel->cols);
    if (kernel->kind == KIR_GEMM) {
        const kir_gemm *g = &kernel->gemm;
        syl_text_printf(out,
                        "  acc = sum_k %s[i, k] * %s[n, k] : n %lld k %lld dot %s tile %dx%dx%d block %d",
                        kernel->buffers.p[g->a].name, kernel->buffers.p[g->w].name, (long long)g->n,
                        (long long)g->k, dot_names[g->dot], g->mr, g->nr, g->ku, g->mblock);
        if (g->codes.bits) syl_text_printf(out, " codes of %d bits", g->codes.bits);
        if (g->codes.group)
            syl_text_printf(out, " in groups of %d%s", g->codes.group,
                            g->codes.two_level ? ", two levels" : "");
        syl_text_printf(out, "\n");
    }
    if (kernel->branch.rank)
        syl_text_printf(out, "  low_rank = sum_r %s[i, r] * %s[n, r] : rank %lld\n",
                        kernel->buffers.p[kernel->branch.t].name, kernel->buffers.p[kernel->branch.u].name,
                        (long long)kernel->branch.rank);
    if (kernel->kind == KIR_ATTENTION) {
        const kir_attention *a = &kernel->attention;
        syl_text_printf(out, "  heads %d kv_heads %d head_dim %d scale %.17g rows together %d\n", a->heads,
                        a->kv_heads, a->head_dim, a->scale, a->mr);
    }
    if (kernel->kind == KIR_FULL_ATTENTION) {
        const kir_full_attention *a = &kernel->full_attention;
        syl_text_printf(
            out, "  %s, %s, %s -> %s : heads %d head_dim %lld tokens %lld scale %.17g rows together %d\n",
            kernel->buffers.p[a->q].name, kernel->buffers.p[a->k].name, kernel->buffers.p[a->v].name,
            kernel->buffers.p[a->out].name, a->heads, (long long)a->head_dim, (long long)a->tokens, a->scale,
            a->mr);
    }
    if (kernel->body.n) print_body(kernel, out);
    syl_text_printf(out, "}\n");
}
