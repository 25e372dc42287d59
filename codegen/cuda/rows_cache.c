/* Keys and values of a row into the paged KV cache, as elements or as codes (kir_cache_layout of codegen/kir.h). Every byte written belongs to the row's own
 * position. */
#include "codegen/cuda/rows.h"

void rows_place_append(rows_state *r, int inst) {
    const kir_inst *p = &r->s->kernel->body.p[inst];
    syl_text_printf(r->s->out,
                    "\n    unsigned char *page%d = cache_layer((const KvView *)args.buffers[%d], v%d, v%d);\n"
                    "    const int at%d = v%d & 63;\n",
                    inst, p->buffer, p->args[2], p->args[1], inst, p->args[1]);
}

void rows_append(rows_state *r, int inst) {
    cu_source *s = r->s;
    const kir_inst *p = &s->kernel->body.p[inst];
    const kir_cache *cache = &s->kernel->cache;
    kir_cache_layout layout = kir_cache_layout_of(cache);
    const rows_layout *l = &r->layouts[r->current];
    const char *type = cu_elem_type(cache->elem), *x = rows_array(r, p->args[0], r->current);
    int bytes = cu_elem_bytes(cache->elem), run = l->w * bytes < 16 ? l->w * bytes : 16;
    bool key = p->op == KIR_append_k, whole = !key && cache->dim % l->w == 0 && cache->dim * bytes % run == 0;
    syl_text_printf(
        s->out,
        "    UNROLL\n    for (int n = 0; n < %d; n++)\n        UNROLL\n        for (int k = 0; k < %d; k++)\n"
        "            UNROLL for (int m = 0; m < %d; m += %d) {\n"
        "                const int j = c%d[n] + k * %lld + m, e = (n * %d + k) * %d + m, d = j %% %d;\n"
        "                if (!alive || !(%s)) continue;\n"
        "                %s *head = (%s *)(page%d + j / %d * %lld%s);\n",
        l->n, l->r, l->w, whole ? l->w : 1, r->current, (long long)l->stride, l->r, l->w, cache->dim,
        rows_live(r, r->current), type, type, inst, cache->dim, (long long)layout.size,
        key ? "" : syl_arena_printf(s->arena, " + %lld", (long long)layout.values));
    if (whole)
        syl_text_printf(
            s->out, "                store_some<%d>(head + at%d * %d + d, is_aligned(head, 16), &%s[e]);\n",
            l->w, inst, cache->dim, x);
    else if (key)
        syl_text_printf(s->out, "                narrow(%s[e], head[d * %d + at%d]);\n", x, SYL_KV_PAGE,
                        inst);
    else
        syl_text_printf(s->out, "                narrow(%s[e], head[at%d * %d + d]);\n", x, inst, cache->dim);
    syl_text_printf(s->out, "            }\n");
}

void rows_append_codes(rows_state *r, int inst) {
    cu_source *s = r->s;
    const kir_inst *p = &s->kernel->body.p[inst];
    const kir_cache *cache = &s->kernel->cache;
    kir_cache_layout layout = kir_cache_layout_of(cache);
    bool key = p->op == KIR_append_codes_k;
    kir_codes codes = key ? cache->k : cache->v;
    int lanes = r->shape.threads < 32 ? r->shape.threads : 32;
    rows_publish(r, r->current, rows_array(r, p->args[0], r->current));
    syl_text_printf(
        s->out,
        "    for (int g = t / %d; g < %lld; g += %d) {\n"
        "        const int first = g * %d, d = first %% %d;\n"
        "        unsigned char *head = page%d + first / %d * %lld;\n"
        "        append_group<%d, %d, %d>(row + first, %d, %s, alive, head + %lld + %s, head + %lld + d / %d "
        "* %d, at%d, t);\n"
        "    }\n",
        lanes, (long long)(s->kernel->cols / codes.group), r->shape.threads / lanes, codes.group, cache->dim,
        inst, cache->dim, (long long)layout.size, lanes, codes.bits, key ? SYL_KV_PAGE : 1, codes.group,
        cu_float(s, p->f), key ? 0LL : (long long)layout.values,
        key ? syl_arena_printf(s->arena, "d / %d * %d + at%d", codes.bits == 4 ? 2 : 1, SYL_KV_PAGE, inst)
            : syl_arena_printf(s->arena, "at%d * %lld + d / %d", inst,
                               (long long)kir_cache_units(cache, codes), codes.bits == 4 ? 2 : 1),
        (long long)(key ? layout.k_groups : layout.v_groups), codes.group, (int)KIR_GROUP_BYTES, inst);
}
