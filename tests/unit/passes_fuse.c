/* What fuse, store-activations and plan-memory leave: every op in one legal region, nothing computed twice,
 * types at the borders, and buffers that no two living values share. The rules are checked here by other code
 * than that of the passes. */
#include "passes_testing.h"

static const char *const recipes[] = {"f32", "bf16", "w8a8", "f32-rotated", "w8a8-plain", "w4a8", "w4a16"};

/* ---- regions ---- */

static bool is_weight_side(const syl_op *op) {
    if (op->body || !syl_op_has(op, SYL_TRAIT_PURE)) return false;
    for (int i = 0; i < op->n_operands; i++)
        if (!syl_operand(op, i)->def || !is_weight_side(syl_operand(op, i)->def)) return false;
    return true;
}

static bool is_rowwise(const syl_op *op) {
    switch (op->code) {
    case SYL_OP_hadamard:
    case SYL_OP_signs:
    case SYL_OP_slice:
        return syl_attr_int(op, "axis") == 1;
    case SYL_OP_embedding:
    case SYL_OP_take:
    case SYL_OP_kv_append:
    case SYL_OP_yield:
        return true;
    default:
        return syl_op_has(op, SYL_TRAIT_ROWWISE);
    }
}

static void check_region(const syl_op *fused) {
    int linears = 0, attentions = 0, appends = 0, tables = 0, gathers = 0, ops = 0, elementwise = 0,
        rowwise = 0;
    assert_int_equal(fused->n_results, 1);
    for (const syl_op *op = fused->body->first; op->next; op = op->next) {
        ops += op->code != SYL_OP_slice;
        linears += op->code == SYL_OP_linear;
        attentions += op->code == SYL_OP_attention;
        appends += op->code == SYL_OP_kv_append;
        tables += op->code == SYL_OP_rope_table;
        gathers += op->code == SYL_OP_take || op->code == SYL_OP_embedding;
        elementwise += syl_op_has(op, SYL_TRAIT_ELEMENTWISE);
        rowwise += is_rowwise(op) && op->code != SYL_OP_slice;
        /* Nothing is computed for nothing, and only the last op leaves. */
        assert_true(op->n_results == 1 && op->results[0].uses);
        bool yielded = false;
        for (const syl_use *use = op->results[0].uses; use; use = use->next) {
            assert_ptr_equal(use->user->parent, fused->body);
            yielded = yielded || use->user->code == SYL_OP_yield;
        }
        assert_int_equal(yielded, op->next == fused->body->last);
        /* Gathers read what other regions made. */
        if (op->code == SYL_OP_take || op->code == SYL_OP_embedding)
            for (int i = 0; i < op->n_operands; i++)
                assert_true(!syl_operand(op, i)->def || syl_operand(op, i)->def->parent != fused->body);
        if (op->code == SYL_OP_linear) assert_ptr_equal(op, fused->body->first);
    }
    assert_true(ops > 0);
    if (linears)
        assert_true(linears == 1 && elementwise == ops - 1);
    else if (attentions)
        assert_true(attentions == 1 && ops == 1);
    else
        assert_true(rowwise == ops);
    assert_true(appends <= 1 && gathers <= 1);
    if (tables) assert_int_equal(ops, 1);
}

static void check_fused(const syl_func *func) {
    for (const syl_op *op = func->body->first; op; op = op->next) {
        if (op->code == SYL_OP_fused)
            check_region(op);
        else
            assert_true(op->code == SYL_OP_return || is_weight_side(op));
    }
}

static void every_op_is_in_a_legal_region(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++)
        for (uint64_t seed = 0; seed < 60; seed++) {
            bench b;
            bench_open(&b);
            ir_random r;
            bench_sizes(seed, &r);
            syl_module *module = ir_random_build(&r);
            bench_run(&b, module, bench_recipe(&b, recipes[i]));
            check_fused(module->funcs);
            /* Nothing was lost: one of each per layer. */
            int layers = (int)r.layers;
            assert_int_equal(bench_count(module->funcs->body, SYL_OP_attention), layers);
            assert_int_equal(bench_count(module->funcs->body, SYL_OP_kv_append), layers);
            assert_int_equal(bench_count(module->funcs->body, SYL_OP_add), 2 * layers);
            /* A layer: norm, rope q, append, attention, norm, gate, a quantize before o in w8a8, and its
             * linears, one of which may have taken the gate. Besides: embedding, rope table, last norm. */
            int linears = bench_count(module->funcs->body, SYL_OP_linear),
                quantized = recipes[i][0] == 'w' && !strstr(recipes[i], "a16");
            assert_in_range(linears, 4 * layers + 1, 7 * layers + 1);
            int most = linears + (6 + quantized) * layers + 3;
            assert_in_range(bench_count(module->funcs->body, SYL_OP_fused), most - layers, most);
            syl_module_destroy(module);
            bench_close(&b);
        }
}

/* A function with one argument %x (and %w, %b), its body given. */
static syl_module *parse_body(bench *b, const char *body, const char *result) {
    return bench_parse(
        b, syl_arena_printf(
               &b->arena,
               "module @m {\n  source \"s\"\n  func @f(%%x: tensor<Tx8xf32>, %%z: tensor<Tx8xf32>, %%ids: "
               "tensor<Txi32>, "
               "%%rows: tensor<Rxi32>) -> %s {\n    %%w = weight \"w\" : tensor<8x8xreal>\n%s  }\n}\n",
               result, body));
}

/* Regions as text: the opcodes of each, "linear add | silu | ...". */
static const char *regions(bench *b, const char *body, const char *result) {
    syl_module *module = parse_body(b, body, result);
    bench_run(b, module, "fuse");
    syl_text text = {.arena = &b->arena};
    for (const syl_op *op = module->funcs->body->first; op; op = op->next) {
        if (op->code != SYL_OP_fused) continue;
        if (text.n) syl_text_printf(&text, " | ");
        for (const syl_op *inner = op->body->first; inner->next; inner = inner->next)
            syl_text_printf(&text, "%s%s", inner == op->body->first ? "" : " ", syl_ops[inner->code].name);
    }
    syl_module_destroy(module);
    return text.p ? text.p : "";
}

static void rules_of_fusion(void **state) {
    (void)state;
    bench b;
    bench_open(&b);
#define T8 " : tensor<Tx8xf32>\n"
    /* An epilogue takes elementwise ops behind the linear, however many. */
    assert_string_equal(regions(&b,
                                "%a = linear %x, %w" T8 "%s = silu %a" T8 "%m = mul %s, %z" T8
                                "%y = add %m, %x" T8 "return %y\n",
                                "tensor<Tx8xf32>"),
                        "linear silu mul add");
    /* A sum of two linears belongs to the later one. */
    assert_string_equal(
        regions(&b, "%a = linear %x, %w" T8 "%c = linear %z, %w" T8 "%y = add %a, %c" T8 "return %y\n",
                "tensor<Tx8xf32>"),
        "linear | linear add");
    /* What feeds a linear is not its epilogue. */
    assert_string_equal(
        regions(&b, "%s = silu %x" T8 "%a = linear %s, %w" T8 "return %a\n", "tensor<Tx8xf32>"),
        "silu | linear");
    assert_string_equal(regions(&b,
                                "%s = silu %x" T8 "%a = linear %s, %w" T8 "%y = add %s, %a" T8 "return %y\n",
                                "tensor<Tx8xf32>"),
                        "silu | linear add");
    /* Not elementwise: no epilogue. */
    assert_string_equal(regions(&b, "%a = linear %x, %w" T8 "%n = rms_norm %a {eps = 0.1}" T8 "return %n\n",
                                "tensor<Tx8xf32>"),
                        "linear | rms_norm");
    /* A value with readers in two regions is made once. */
    assert_string_equal(regions(&b,
                                "%n = rms_norm %x {eps = 0.1}" T8 "%a = linear %n, %w" T8 "%s = silu %n" T8
                                "return %a, %s\n",
                                "(tensor<Tx8xf32>, tensor<Tx8xf32>)"),
                        "rms_norm | linear | silu");
    /* Two readers in one region are one region. */
    assert_string_equal(
        regions(&b, "%n = rms_norm %x {eps = 0.1}" T8 "%s = silu %n" T8 "%m = mul %s, %n" T8 "return %m\n",
                "tensor<Tx8xf32>"),
        "rms_norm silu mul");
    /* A gather reads rows that other regions made. */
    assert_string_equal(regions(&b,
                                "%s = silu %x" T8 "%y = take %s, %rows : tensor<Rx8xf32>\n%n = rms_norm %y "
                                "{eps = 0.1} : tensor<Rx8xf32>\nreturn %n\n",
                                "tensor<Rx8xf32>"),
                        "silu | take rms_norm");
    /* Also where it makes as many. */
    assert_string_equal(
        regions(&b, "%s = silu %x" T8 "%y = take %s, %ids" T8 "return %y\n", "tensor<Tx8xf32>"),
        "silu | take");
    /* A rotation of rows is row-wise; one of columns is not. */
    assert_string_equal(
        regions(&b, "%s = silu %x" T8 "%h = hadamard %s {axis = 1, factors = [8]}" T8 "return %h\n",
                "tensor<Tx8xf32>"),
        "silu hadamard");
    /* Views are copied to where they are read, also views of views, and a returned one is a region. */
    assert_string_equal(
        regions(
            &b,
            "%a = linear %x, %w" T8 "%v = slice %a {axis = 1, begin = 0, end = 4} : tensor<Tx4xf32>\n"
            "%u = slice %v {axis = 1, begin = 0, end = 2} : tensor<Tx2xf32>\n%s = silu %u : tensor<Tx2xf32>\n"
            "%q = silu %v : tensor<Tx4xf32>\nreturn %s, %q\n",
            "(tensor<Tx2xf32>, tensor<Tx4xf32>)"),
        "linear | slice slice silu | slice silu");
    assert_string_equal(regions(&b,
                                "%v = slice %x {axis = 1, begin = 0, end = 4} : tensor<Tx4xf32>\nreturn %v\n",
                                "tensor<Tx4xf32>"),
                        "slice");
    /* A value whose views are read stays whole: they are places in it. */
    assert_string_equal(regions(&b,
                                "%a = silu %x" T8
                                "%u = slice %a {axis = 1, begin = 0, end = 4} : tensor<Tx4xf32>\n"
                                "%v = slice %a {axis = 1, begin = 4, end = 8} : tensor<Tx4xf32>\n%m = mul "
                                "%u, %v : tensor<Tx4xf32>\nreturn %m\n",
                                "tensor<Tx4xf32>"),
                        "silu | slice slice mul");
    /* A low-rank branch: down beside the quantize, up beside the main linear; not where t is read in front of the codes, nor without codes. */
    for (int i = 0; i < 3; i++)
        assert_string_equal(
            regions(&b,
                    syl_arena_printf(
                        &b.arena,
                        "%%d = weight \"d\" : tensor<2x8xreal>\n%%dd = cast %%d : tensor<2x8xbf16>\n"
                        "%%u = weight \"u\" : tensor<8x2xreal>\n%%uu = cast %%u : tensor<8x2xbf16>\n"
                        "%%wq = quantize %%w : tensor<8x8xint8_channel>\n%%wf = cast %%w : tensor<8x8xf32>\n"
                        "%%n = silu %%x" T8
                        "%%t = linear %%n, %%dd : tensor<Tx2xf32>\n%%s = linear %%t, %%uu" T8 "%s%s"
                        "%%y = add %%m, %s" T8 "return %%y\n",
                        i == 1 ? "%e = add %s, %z" T8 "%e2 = rms_norm %e {eps = 0.1}" T8 : "",
                        i == 2 ? "%m = linear %n, %wf" T8
                               : "%q = quantize %n : tensor<Tx8xint8_token>\n%m = linear %q, %wq" T8,
                        i == 1 ? "%e2" : "%s"),
                    "tensor<Tx8xf32>"),
            i == 0   ? "silu linear quantize | linear linear add"
            : i == 1 ? "silu | linear | linear | add rms_norm | quantize | linear add"
                     : "silu | linear | linear linear add");
    bench_close(&b);
}

/* ---- types at the borders ---- */

static void store_activations_declares_types(void **state) {
    (void)state;
    bench b;
    bench_open(&b);
    ir_random r;
    ir_random_sizes(3, &r);
    syl_module *module = ir_random_build(&r);
    bench_run(&b, module, bench_recipe(&b, "bf16"));
    const syl_func *func = module->funcs;
    assert_int_equal(func->args[4].type.dtype, SYL_bf16);
    assert_int_equal(func->result_types[0].dtype, SYL_f32); /* logits */
    assert_int_equal(func->result_types[1].dtype, SYL_bf16);
    int stored = 0;
    for (const syl_op *op = func->body->first; op; op = op->next) {
        if (op->code != SYL_OP_fused) continue;
        const syl_op *last = op->body->last->prev;
        bool exempt = last->code == SYL_OP_rope_table || op->results[0].uses->user->code == SYL_OP_return;
        if (op->results[0].type.kind == SYL_TENSOR)
            assert_int_equal(op->results[0].type.dtype, exempt ? SYL_f32 : SYL_bf16);
        stored += !exempt;
        for (const syl_op *inner = op->body->first; inner != last; inner = inner->next)
            assert_true(inner->results[0].type.dtype == SYL_f32 || inner->code == SYL_OP_kv_append);
    }
    assert_true(stored > 5);
    syl_module_destroy(module);
    bench_close(&b);
}

/* ---- buffers ---- */

enum { max_slots = 64 };

/* Plays the regions in order: who reads a value must find it still in its slot. */
static void check_plan(const syl_func *func) {
    const syl_value *holds[max_slots] = {0};
    const syl_value *first[max_slots] = {0};
    int n_slots = 0, returned = 0;
    for (const syl_op *op = func->body->first; op; op = op->next) {
        if (op->code != SYL_OP_fused) continue;
        for (const syl_op *inner = op->body->first; inner; inner = inner->next)
            for (int i = 0; i < inner->n_operands; i++) {
                const syl_op *def = syl_operand(inner, i)->def;
                if (!syl_op_is(def, SYL_OP_fused)) continue;
                int64_t slot = syl_attr_get(def, "slots")->ints.p[syl_operand(inner, i)->index];
                if (slot >= 0) assert_ptr_equal(holds[slot], syl_operand(inner, i));
            }
        const syl_attr *slots = syl_attr_get(op, "slots");
        assert_non_null(slots);
        assert_int_equal(slots->ints.n, op->n_results);
        int64_t slot = slots->ints.p[0];
        assert_true(slot >= -1 && slot < max_slots);
        const syl_value *result = &op->results[0];
        bool leaves =
            result->type.kind == SYL_KV || (result->uses && result->uses->user->code == SYL_OP_return);
        assert_int_equal(slot == -1, leaves);
        returned += leaves;
        if (slot < 0) continue;
        if (!first[slot]) first[slot] = result;
        assert_true(syl_dim_equal(first[slot]->type.dims[0], result->type.dims[0]));
        if (slot >= n_slots) n_slots = (int)slot + 1;
        /* Its operands may still be read while it is written. */
        for (const syl_op *inner = op->body->first; inner; inner = inner->next)
            for (int i = 0; i < inner->n_operands; i++)
                assert_ptr_not_equal(holds[slot], syl_operand(inner, i));
        holds[slot] = result;
    }
    assert_true(returned > 0);
    for (int i = 0; i < n_slots; i++) assert_non_null(first[i]); /* slots are numbered without holes */
}

static void count_slots(void *user, int index, const char *pass, const syl_module *module,
                        const syl_pass_stat *stats, size_t n_stats, double seconds) {
    (void)index, (void)module, (void)seconds;
    int64_t *out = user; /* slots, values, row-bytes, row-bytes-unshared */
    static const char *const names[] = {"slots", "values", "row-bytes", "row-bytes-unshared"};
    if (strcmp(pass, "plan-memory") != 0) return;
    for (size_t i = 0; i < n_stats; i++)
        for (int k = 0; k < 4; k++)
            if (strcmp(stats[i].name, names[k]) == 0) out[k] = stats[i].value;
}

static void buffers_are_shared_safely(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++)
        for (uint64_t seed = 0; seed < 40; seed++) {
            bench b;
            bench_open(&b);
            ir_random r;
            bench_sizes(seed, &r);
            r.layers = 1 + (int64_t)(seed % 4);
            syl_module *module = ir_random_build(&r);
            int64_t stats[4] = {0};
            assert_int_equal(bench_run_with(&b, module, bench_recipe(&b, recipes[i]),
                                            &(syl_pass_options){.after = count_slots, .user = stats}),
                             SYL_OK);
            check_plan(module->funcs);
            assert_in_range(
                stats[0], 5,
                7); /* residual before and after, two to four for work, rope table; one for the R rows */
            assert_true(stats[1] > stats[0]);
            assert_true(stats[2] <= stats[3] && (r.layers < 3 || 2 * stats[2] < stats[3]));
            syl_module_destroy(module);
            bench_close(&b);
        }
}

/* An append whose cache nobody returns is still seen by later calls. */
static void dce_keeps_state(void **state) {
    (void)state;
    bench b;
    bench_open(&b);
    syl_module *module =
        bench_parse(&b, "module @m {\n"
                        "  func @forward(%k: tensor<Tx8xf32>, %pos: tensor<Txi32>, %seq: tensor<Txi32>, %kv: "
                        "kv<1x1x8xf32>) -> tensor<Tx8xf32> {\n"
                        "    %dead = silu %k : tensor<Tx8xf32>\n"
                        "    %kv1 = kv_append %kv, %k, %k, %pos, %seq {layer = 0} : kv<1x1x8xf32>\n"
                        "    return %k\n"
                        "  }\n"
                        "}\n");
    bench_run(&b, module, "dce");
    assert_int_equal(bench_count(module->funcs->body, SYL_OP_kv_append), 1);
    assert_int_equal(bench_count(module->funcs->body, SYL_OP_silu), 0);
    syl_module_destroy(module);
    bench_close(&b);
}

/* A slice between regions keeps the buffer of what it cuts busy. */
static void slices_keep_slots_busy(void **state) {
    (void)state;
    bench b;
    bench_open(&b);
    syl_module *module = bench_parse(
        &b,
        "module @m {\n"
        "  func @forward(%x: tensor<Tx8xf32>) -> tensor<Tx4xf32> {\n"
        "    %a = fused : tensor<Tx8xf32> {\n      %a1 = silu %x : tensor<Tx8xf32>\n      yield %a1\n    }\n"
        "    %part = slice %a {axis = 1, begin = 0, end = 4} : tensor<Tx4xf32>\n"
        "    %c = fused : tensor<Tx8xf32> {\n      %c1 = silu %x : tensor<Tx8xf32>\n      yield %c1\n    }\n"
        "    %d = fused : tensor<Tx4xf32> {\n      %d0 = slice %c {axis = 1, begin = 0, end = 4} : "
        "tensor<Tx4xf32>\n"
        "      %d1 = add %part, %d0 : tensor<Tx4xf32>\n      yield %d1\n    }\n"
        "    return %d\n"
        "  }\n"
        "}\n");
    bench_run(&b, module, "plan-memory");
    const syl_attr *a = syl_attr_get(bench_find(module->funcs->body, "a")->def, "slots");
    const syl_attr *c = syl_attr_get(bench_find(module->funcs->body, "c")->def, "slots");
    assert_int_not_equal(a->ints.p[0], c->ints.p[0]);
    syl_module_destroy(module);
    bench_close(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_op_is_in_a_legal_region),
        cmocka_unit_test(rules_of_fusion),
        cmocka_unit_test(store_activations_declares_types),
        cmocka_unit_test(buffers_are_shared_safely),
        cmocka_unit_test(dce_keeps_state),
        cmocka_unit_test(slices_keep_slots_busy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
