/* Causal attention over the paged KV cache (emit_attention.h).
 *
 * A pass takes 1 to mr lanes, each a (row, head), that read the same keys: rows of one sequence, or, where the block has one row only, the
 * heads of one kv head. Pages go in order of absolute position from 0. */
#include "codegen/host/emit_attention.h"

static em_value load_index(em *e, int buffer, em_value row) {
    return LLVMBuildSExt(e->b, em_load(e, e->i32, em_at(e, e->i32, e->buffers[buffer], row), 4), e->i64, "");
}

/* pass(buffers, scratch, row, row step, head, head step): lane i is (row + i * row step, head + i * head step). */
static em_value attention_pass(em *e, int lanes, em_value softmax) {
    const kir_attention *a = &e->kernel->attention;
    const kir_buffer *q = &e->kernel->buffers.p[a->q], *out = &e->kernel->buffers.p[a->out];
    attention_state s = {.e = e,
                         .cache = &e->kernel->cache,
                         .layout = kir_cache_layout_of(&e->kernel->cache),
                         .dim = a->head_dim,
                         .scale = a->scale,
                         .lanes = lanes};
    em_type params[] = {e->ptr, e->ptr, e->i64, e->i64, e->i64, e->i64};
    em_place saved;
    em_value function = em_begin_helper(e, syl_arena_printf(&e->arena, "pass%d", lanes), params, 6, &saved),
             *outer = e->buffers, row = NULL, head = NULL;
    em_load_buffers(e, LLVMGetParam(function, 0));
    attention_begin(&s, LLVMGetParam(function, 1));
    s.last = em_long(e, 0);
    s.cold = LLVMBuildICmp(e->b, LLVMIntEQ, LLVMGetParam(function, 3), em_long(e, 0), "");
    for (int i = lanes - 1; i >= 0; i--) { /* row and head stay those of lane 0 */
        row = em_add(e, LLVMGetParam(function, 2), em_mul(e, LLVMGetParam(function, 3), em_long(e, i)));
        head = em_add(e, LLVMGetParam(function, 4), em_mul(e, LLVMGetParam(function, 5), em_long(e, i)));
        em_value column = em_mul(e, head, em_long(e, s.dim));
        s.q_index[i] = em_mul_add(e, row, q->stride, column);
        s.out_index[i] = em_mul_add(e, row, out->stride, column);
        s.pos[i] = load_index(e, a->pos, row);
        s.last = LLVMBuildSelect(e->b, LLVMBuildICmp(e->b, LLVMIntSGT, s.pos[i], s.last, ""), s.pos[i],
                                 s.last, "");
    }
    em_value view = e->buffers[a->cache],
             kv_head = LLVMBuildUDiv(e->b, head, em_long(e, a->heads / a->kv_heads), "");
    em_value stride = em_view_field(e, view, e->i64, offsetof(syl_kv_view, table_stride)),
             pages = em_view_field(e, view, e->ptr, offsetof(syl_kv_view, pages));
    em_value table = em_at(e, e->i32, em_view_field(e, view, e->ptr, offsetof(syl_kv_view, table)),
                           em_mul(e, load_index(e, a->seq, row), stride));
    em_value layer = em_mul_add(e, kv_head, s.layout.size,
                                em_view_field(e, view, e->i64, offsetof(syl_kv_view, layer_offset)));
    attention_start(&s, a->q);

    em_loop page = em_loop_begin(e, em_long(e, 0), em_add(e, s.last, em_long(e, 1)), SYL_KV_PAGE);
    s.first = page.index;
    em_value memory = em_page_memory(e, table, pages, page.index);
    em_value following = em_add(e, page.index, em_long(e, SYL_KV_PAGE));
    following = LLVMBuildSelect(e->b, LLVMBuildICmp(e->b, LLVMIntSLE, following, s.last, ""), following,
                                page.index, "");
    s.next =
        LLVMBuildSub(e->b, LLVMBuildPtrToInt(e->b, em_page_memory(e, table, pages, following), e->i64, ""),
                     LLVMBuildPtrToInt(e->b, memory, e->i64, ""), "");
    s.memory = em_at(e, e->i8, memory, layer);
    attention_page(&s, softmax);
    em_loop_end(e, &page);
    attention_finish(&s, a->out);
    em_end_helper(e, saved);
    e->buffers = outer;
    return function;
}

static void call_pass(em *e, em_value pass, em_value row, int row_step, em_value head, int head_step) {
    em_value args[] = {LLVMGetParam(e->function, 0), e->scratch, row,
                       em_long(e, row_step),         head,       em_long(e, head_step)};
    em_call_helper(e, pass, args, 6);
}

/* Runs the pass of `n` lanes, n known at run time in [1, mr]. */
static void call_pass_of(em *e, em_value *passes, em_value n, em_value row, int row_step, em_value head,
                         int head_step) {
    int mr = e->kernel->attention.mr;
    for (int lanes = 1; lanes <= mr; lanes++) {
        em_branch branch = em_if(e, LLVMBuildICmp(e->b, LLVMIntEQ, n, em_long(e, lanes), ""));
        call_pass(e, passes[lanes], row, row_step, head, head_step);
        em_endif(e, &branch);
    }
}

void em_attention(em *e, const char *symbol) {
    const kir_attention *a = &e->kernel->attention;
    int64_t group = a->heads / a->kv_heads;
    em_begin_kernel(e, symbol);
    em_value *passes = SYL_NEW_ARRAY(&e->arena, em_value, (size_t)a->mr + 1), softmax = attention_softmax(e);
    for (int lanes = 1; lanes <= a->mr; lanes++) passes[lanes] = attention_pass(e, lanes, softmax);

    em_value skip = em_local(e, e->i64),
             same = em_local(e, e->i1); /* tasks already done by an earlier pass of this loop */
    em_store(e, em_long(e, 0), skip, 8);
    em_loop t = em_loop_begin(e, e->begin, e->end, 1);
    em_value block = LLVMBuildUDiv(e->b, t.index, em_long(e, a->heads), ""),
             head = LLVMBuildURem(e->b, t.index, em_long(e, a->heads), "");
    em_value row = em_mul(e, block, em_long(e, a->mr));
    em_value count = em_min(e, LLVMBuildSub(e->b, e->rows, row, ""), em_long(e, a->mr));
    em_value pending = em_load(e, e->i64, skip, 8);
    em_branch todo = em_if(e, LLVMBuildICmp(e->b, LLVMIntEQ, pending, em_long(e, 0), ""));
    em_branch alone = em_if(e, LLVMBuildICmp(e->b, LLVMIntEQ, count, em_long(e, 1), ""));
    {
        /* the heads of one kv head read the same keys */
        em_value rest =
            LLVMBuildSub(e->b, em_long(e, group), LLVMBuildURem(e->b, head, em_long(e, group), ""), "");
        em_value n = em_min(e, em_min(e, rest, LLVMBuildSub(e->b, e->end, t.index, "")), em_long(e, a->mr));
        call_pass_of(e, passes, n, row, 0, head, 1);
        em_store(e, LLVMBuildSub(e->b, n, em_long(e, 1), ""), skip, 8);
    }
    em_else(e, &alone);
    {
        em_store(e, em_int(e->i1, 1), same, 1);
        em_value sequence = load_index(e, a->seq, row);
        em_loop i = em_loop_begin(e, em_long(e, 1), count, 1);
        em_value equal =
            LLVMBuildICmp(e->b, LLVMIntEQ, sequence, load_index(e, a->seq, em_add(e, row, i.index)), "");
        em_store(e, LLVMBuildAnd(e->b, em_load(e, e->i1, same, 1), equal, ""), same, 1);
        em_loop_end(e, &i);
        em_branch one = em_if(e, em_load(e, e->i1, same, 1));
        call_pass_of(e, passes, count, row, 1, head, 0);
        em_else(e, &one);
        em_loop r = em_loop_begin(e, em_long(e, 0), count, 1);
        call_pass(e, passes[1], em_add(e, row, r.index), 0, head, 0);
        em_loop_end(e, &r);
        em_endif(e, &one);
    }
    em_endif(e, &alone);
    em_else(e, &todo);
    em_store(e, LLVMBuildSub(e->b, pending, em_long(e, 1), ""), skip, 8);
    em_endif(e, &todo);
    em_loop_end(e, &t);
    LLVMBuildRetVoid(e->b);
}
