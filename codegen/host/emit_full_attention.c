/* Attention within fixed-length sequences of consecutive rows, read from matrices: no cache and no mask.
 *
 * A task is one head of one sequence. It copies the head's keys and values as f32 into pages of the KV cache's form in scratch, once; then rows go through them in blocks of
 * `mr` (what is left over: one by one), as emit_attention.h says.
 *
 * Scratch: the pages, then that of emit_attention.h. */
#include "base/size.h"
#include "codegen/host/emit_attention.h"

typedef struct full_state {
    em *e;
    const kir_full_attention *a;
    kir_cache cache; /* the form of the pages: one head of f32 */
    kir_cache_layout layout;
    em_value pages, scratch;
    em_value first, column; /* first row of the sequence, first column of the head */
} full_state;

static em_value index_of(const full_state *s, int buffer, em_value row) {
    return em_mul_add(s->e, row, s->e->kernel->buffers.p[buffer].stride, s->column);
}

static em_value load(const full_state *s, int buffer, em_value row, em_value d) {
    em *e = s->e;
    return em_load_widened(e, e->kernel->buffers.p[buffer].elem, e->buffers[buffer],
                           em_add(e, index_of(s, buffer, row), d), 0);
}

/* Keys and values of the task. What is behind the last position is masked. */
static void gather(const full_state *s) {
    em *e = s->e;
    em_loop p = em_loop_begin(e, em_long(e, 0), em_long(e, s->a->tokens), 1);
    em_value row = em_add(e, s->first, p.index);
    em_value page = LLVMBuildUDiv(e->b, p.index, em_long(e, SYL_KV_PAGE), ""),
             within = LLVMBuildURem(e->b, p.index, em_long(e, SYL_KV_PAGE), "");
    em_value keys = em_at(e, e->i8, s->pages, em_mul(e, page, em_long(e, s->layout.size)));
    em_value values = em_offset(e, keys, s->layout.values);
    em_loop d = em_loop_begin(e, em_long(e, 0), em_long(e, s->a->head_dim), 1);
    em_store(e, load(s, s->a->k, row, d.index),
             em_at(e, e->f32, keys, em_mul_add(e, d.index, SYL_KV_PAGE, within)), 4);
    em_store(e, load(s, s->a->v, row, d.index),
             em_at(e, e->f32, values, em_mul_add(e, within, s->a->head_dim, d.index)), 4);
    em_loop_end(e, &d);
    em_loop_end(e, &p);
}

/* Rows [row, row + lanes) of the matrices. */
static void attend(const full_state *f, int lanes, em_value row, em_value softmax) {
    em *e = f->e;
    attention_state s = {.e = e,
                         .cache = &f->cache,
                         .layout = f->layout,
                         .dim = f->a->head_dim,
                         .scale = f->a->scale,
                         .lanes = lanes,
                         .last = em_long(e, f->a->tokens - 1)};
    attention_begin(&s, f->scratch);
    for (int i = 0; i < lanes; i++) {
        s.pos[i] = s.last;
        s.q_index[i] = index_of(f, f->a->q, em_add(e, row, em_long(e, i)));
        s.out_index[i] = index_of(f, f->a->out, em_add(e, row, em_long(e, i)));
    }
    attention_start(&s, f->a->q);
    em_loop page = em_loop_begin(e, em_long(e, 0), em_long(e, f->a->tokens), SYL_KV_PAGE);
    s.first = page.index;
    em_value number = LLVMBuildUDiv(e->b, page.index, em_long(e, SYL_KV_PAGE), "");
    s.memory = em_at(e, e->i8, f->pages, em_mul(e, number, em_long(e, s.layout.size)));
    attention_page(&s, softmax);
    em_loop_end(e, &page);
    attention_finish(&s, f->a->out);
}

void em_full_attention(em *e, const char *symbol) {
    const kir_full_attention *a = &e->kernel->full_attention;
    full_state s = {.e = e, .a = a, .cache = kir_full_attention_pages(a)};
    s.layout = kir_cache_layout_of(&s.cache);
    em_begin_kernel(e, symbol);
    em_value softmax = attention_softmax(e);
    s.pages = e->scratch;
    s.scratch = em_offset(e, s.pages, syl_ceil_div(a->tokens, SYL_KV_PAGE) * s.layout.size);

    em_loop t = em_loop_begin(e, e->begin, e->end, 1);
    s.first = em_mul(e, LLVMBuildUDiv(e->b, t.index, em_long(e, a->heads), ""), em_long(e, a->tokens));
    s.column = em_mul(e, LLVMBuildURem(e->b, t.index, em_long(e, a->heads), ""), em_long(e, a->head_dim));
    gather(&s);
    int64_t whole = a->tokens / a->mr * a->mr;
    em_value end = em_add(e, s.first, em_long(e, a->tokens)), middle = em_add(e, s.first, em_long(e, whole));
    if (whole) {
        em_loop row = em_loop_begin(e, s.first, middle, a->mr);
        attend(&s, a->mr, row.index, softmax);
        em_loop_end(e, &row);
    }
    if (whole < a->tokens) {
        em_loop row = em_loop_begin(e, middle, end, 1);
        attend(&s, 1, row.index, softmax);
        em_loop_end(e, &row);
    }
    em_loop_end(e, &t);
    LLVMBuildRetVoid(e->b);
}
