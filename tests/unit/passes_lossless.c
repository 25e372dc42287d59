/* Passes that must not change what a module computes: the reference runs 200 random graphs before and after,
 * in float64. */
#include "passes_testing.h"

enum { graphs = 200, some = 50 };
static const double tolerance = 1e-10;

typedef struct tally {
    int64_t work; /* sum of all statistics */
} tally;

static void count_work(void *user, int index, const char *pass, const syl_module *module,
                       const syl_pass_stat *stats, size_t n_stats, double seconds) {
    (void)index, (void)pass, (void)module, (void)seconds;
    for (size_t i = 0; i < n_stats; i++) ((tally *)user)->work += stats[i].value;
}

/* Gives random norms and adds a reader that is no linear: their gains stay, and the stream has edges that do
 * not fold. */
static void add_readers(syl_module *module, uint64_t seed) {
    for (syl_op *op = module->funcs->body->first; op; op = op->next) {
        if (op->code != SYL_OP_rms_norm && op->code != SYL_OP_add) continue;
        if (ir_random_mix(seed++) % 3) continue;
        syl_builder b = syl_build_after(module, op);
        syl_value *twice = syl_build(&b, SYL_OP_add, op->results[0].type, 2, syl_result(op), syl_result(op));
        syl_value *gate = syl_build(&b, SYL_OP_silu, op->results[0].type, 1, syl_result(op));
        syl_value *sum = syl_build(&b, SYL_OP_mul, op->results[0].type, 2, twice, gate);
        for (syl_use *use = op->results[0].uses, *next; use; use = next) {
            next = use->next;
            if (use->user->code == SYL_OP_linear && ir_random_mix(seed) % 2)
                syl_op_set_operand(use->user, 0, sum);
        }
    }
}

/* Turns random norms of the stream into norms of its parts, which do not commute with a rotation. */
static void add_heads(syl_module *module, uint64_t seed) {
    for (syl_op *op = module->funcs->body->first; op; op = op->next) {
        if (op->code != SYL_OP_rms_norm || syl_attr_get(op, "heads") || ir_random_mix(seed++) % 3) continue;
        int64_t width = op->results[0].type.dims[1].size;
        syl_attr_set_int(module, op, "heads", width % 2 ? width : 2);
    }
}

/* The number of graphs that the passes did something to. */
static int check_lossless(const char *prepare, const char *passes, int n, double limit) {
    int changed = 0;
    for (uint64_t seed = 0; seed < (uint64_t)n; seed++) {
        bench b;
        bench_open(&b);
        ir_random r;
        bench_sizes(seed, &r);
        syl_module *module = ir_random_build(&r);
        if (strcmp(prepare, "readers") == 0) add_readers(module, seed);
        if (strcmp(prepare, "heads") == 0) add_heads(module, seed);
        bench_run(&b, module,
                  strcmp(prepare, "readers") == 0 ? "fold-norms"
                  : strcmp(prepare, "heads") == 0 ? ""
                                                  : prepare);
        ir_random_outputs before = ir_random_run(module, &r, SYL_REF_F64, b.diag);
        tally t = {0};
        if (bench_run_with(&b, module, passes, &(syl_pass_options){.after = count_work, .user = &t}) !=
            SYL_OK)
            fail_msg("seed %llu: %s", (unsigned long long)seed, b.messages.p);
        ir_random_outputs after = ir_random_run(module, &r, SYL_REF_F64, b.diag);
        double error = ir_random_error(&before, &after);
        if (!(error <= limit))
            fail_msg("%s, seed %llu: error %g\n%s", passes, (unsigned long long)seed, error,
                     bench_print(&b, module));
        changed += t.work > 0;
        ir_random_free(&before), ir_random_free(&after);
        syl_module_destroy(module);
        bench_close(&b);
    }
    return changed;
}

static void fold_norms(void **state) {
    (void)state;
    assert_in_range(check_lossless("", "fold-norms", graphs, tolerance), graphs / 2, graphs);
}

static void rotate_residual(void **state) {
    (void)state;
    assert_in_range(check_lossless("fold-norms", "rotate-residual", graphs, tolerance), graphs / 2, graphs);
}

/* Edges in all places: gains that stay, readers that are no linears. */
static void rotate_residual_online(void **state) {
    (void)state;
    assert_in_range(check_lossless("readers", "rotate-residual{online=100 seed=5}", graphs, tolerance),
                    graphs / 2, graphs);
}

static void norms_of_heads(void **state) {
    (void)state;
    check_lossless("heads", "fold-norms", some, tolerance);
    assert_in_range(
        check_lossless("heads", "fold-norms,rotate-residual{online=100 seed=5}", graphs, tolerance),
        graphs / 2, graphs);
}

static void rotate_values(void **state) {
    (void)state;
    assert_in_range(check_lossless("", "rotate-values", graphs, tolerance), graphs / 2, graphs);
}

/* Scores stay: R3 stands between rotary embeddings and attention, in every layer. */
static void rotate_keys(void **state) {
    (void)state;
    assert_int_equal(check_lossless("", "rotate-keys", graphs, tolerance), graphs);
    check_lossless("rotate-values,group", "rotate-keys,rotate-keys,canonicalize,cse,dce,fuse", some,
                   tolerance);
}

static void rotate_down(void **state) {
    (void)state;
    assert_in_range(check_lossless("", "rotate-down", graphs, tolerance), graphs / 2, graphs);
}

static void group(void **state) {
    (void)state;
    assert_int_equal(check_lossless("", "group", graphs, 1e-13), graphs);
}

/* The sum of branch and residual, exact and with the branch rounded: the residual holds the rounding. Ranks up to that of the weights. */
static void split_low_rank(void **state) {
    (void)state;
    assert_int_equal(check_lossless("", "split-low-rank{rank=3 round=none}", graphs, tolerance), graphs);
    assert_int_equal(check_lossless("", "split-low-rank{rank=8}", some, tolerance), some);
    assert_int_equal(check_lossless("", "split-low-rank{rank=1000 round=none}", some, tolerance), some);
    assert_int_equal(check_lossless("group", "split-low-rank{rank=5},round-weights,canonicalize,cse,dce,fuse",
                                    some, tolerance),
                     some);
}

static void all_together(void **state) {
    (void)state;
    check_lossless("", "fold-norms,rotate-residual,rotate-values,rotate-down,group,canonicalize,cse,dce",
                   some, tolerance);
}

static void all_together_with_readers(void **state) {
    (void)state;
    check_lossless("readers",
                   "rotate-residual{online=100},rotate-values,rotate-down,group,canonicalize,cse,dce,fuse",
                   some, tolerance);
}

/* In another order, twice, and with the clean-up between. */
static void any_order(void **state) {
    (void)state;
    check_lossless("",
                   "rotate-down,cse,rotate-values,fold-norms,canonicalize,rotate-residual,rotate-down,rotate-"
                   "values,group,cse,dce",
                   some, tolerance);
}

/* Structure only: the same numbers, bit by bit. */
static void structure(void **state) {
    (void)state;
    const char *rotated = "fold-norms,rotate-residual,rotate-values,rotate-down,group";
    check_lossless(rotated, "cse,dce", some, 0);
    check_lossless(rotated, "fuse,store-activations,plan-memory", some, 0);
    check_lossless("group,quantize-weights{clip=absmax},quantize-activations,round-weights",
                   "cse,dce,fuse,store-activations,plan-memory", some, 0);
}

/* SmolLM2's sizes: 576 = 36 * 16, 1536 = 12 * 128, 9 heads of 64 that share 3. */
static void real_sizes(void **state) {
    (void)state;
    for (int tied = 0; tied < 2; tied++) {
        bench b;
        bench_open(&b);
        ir_random r;
        ir_random_sizes(7, &r);
        r.layers = 1, r.width = 576, r.heads = 9, r.kv_heads = 3, r.head_dim = r.rope_dims = 64,
        r.hidden = 1536;
        r.tied = tied, r.gains = true;
        syl_module *module = ir_random_build(&r);
        ir_random_outputs before = ir_random_run(module, &r, SYL_REF_F64, b.diag);
        bench_run(&b, module, "fold-norms,rotate-residual,rotate-values,rotate-down,group");
        const char *text = bench_print(&b, module);
        assert_non_null(strstr(text, "factors = [36, 16]"));
        assert_non_null(strstr(text, "factors = [12, 128]"));
        assert_non_null(strstr(text, "factors = [64]"));
        ir_random_outputs after = ir_random_run(module, &r, SYL_REF_F64, b.diag);
        assert_true(ir_random_error(&before, &after) <= tolerance);
        ir_random_free(&before), ir_random_free(&after);
        syl_module_destroy(module);
        bench_close(&b);
    }
}

/* The measure itself: one wrong sign sequence, one transform too many, one gain lost are all far beyond the
 * tolerance. */
static double error_after(void (*spoil)(syl_module *module)) {
    bench b;
    bench_open(&b);
    ir_random r;
    ir_random_sizes(1, &r);
    r.gains = true;
    syl_module *module = ir_random_build(&r);
    ir_random_outputs before = ir_random_run(module, &r, SYL_REF_F64, b.diag);
    bench_run(&b, module, "fold-norms,rotate-residual,rotate-values,rotate-down");
    spoil(module);
    assert_int_equal(syl_module_verify(module, b.diag), SYL_OK);
    ir_random_outputs after = ir_random_run(module, &r, SYL_REF_F64, b.diag);
    double error = ir_random_error(&before, &after);
    ir_random_free(&before), ir_random_free(&after);
    syl_module_destroy(module);
    bench_close(&b);
    return error;
}

static syl_op *first_of(syl_module *module, syl_opcode code) {
    for (syl_op *op = module->funcs->body->first; op; op = op->next)
        if (op->code == code) return op;
    fail();
    return NULL;
}

static void drop(syl_op *op) {
    syl_value_replace_uses(syl_result(op), syl_operand(op, 0));
    syl_op_erase(op);
}

static void spoil_seed(syl_module *module) {
    syl_attr_set_int(module, first_of(module, SYL_OP_signs), "seed", 4711);
}
static void spoil_hadamard(syl_module *module) {
    drop(first_of(module, SYL_OP_hadamard));
}
static void spoil_gain(syl_module *module) {
    drop(first_of(module, SYL_OP_scale));
}

static void errors_show(void **state) {
    (void)state;
    assert_true(error_after(spoil_seed) > 1e-3);
    assert_true(error_after(spoil_hadamard) > 1e-3);
    assert_true(error_after(spoil_gain) > 1e-3);
}

/* H of order 12 is not symmetric: only H and its transpose cancel. */
static void only_inverse_pairs_cancel(void **state) {
    (void)state;
    static const struct {
        const char *second;
        int left;
    } cases[] = {{"", 2}, {", transpose = true", 0}};
    for (int i = 0; i < 2; i++) {
        bench b;
        bench_open(&b);
        const char *text =
            syl_arena_printf(&b.arena,
                             "module @m {\n"
                             "  func @forward(%%x: tensor<Tx12xf32>) -> tensor<Tx12xf32> {\n"
                             "    %%a = hadamard %%x {axis = 1, factors = [12]} : tensor<Tx12xf32>\n"
                             "    %%b = hadamard %%a {axis = 1, factors = [12]%s} : tensor<Tx12xf32>\n"
                             "    return %%b\n"
                             "  }\n"
                             "}\n",
                             cases[i].second);
        syl_module *module = bench_parse(&b, text);
        bench_run(&b, module, "canonicalize,dce");
        assert_int_equal(bench_count(module->funcs->body, SYL_OP_hadamard), cases[i].left);
        syl_module_destroy(module);
        bench_close(&b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_inverse_pairs_cancel),
        cmocka_unit_test(fold_norms),
        cmocka_unit_test(rotate_residual),
        cmocka_unit_test(rotate_residual_online),
        cmocka_unit_test(norms_of_heads),
        cmocka_unit_test(rotate_values),
        cmocka_unit_test(rotate_keys),
        cmocka_unit_test(rotate_down),
        cmocka_unit_test(group),
        cmocka_unit_test(split_low_rank),
        cmocka_unit_test(all_together),
        cmocka_unit_test(all_together_with_readers),
        cmocka_unit_test(any_order),
        cmocka_unit_test(structure),
        cmocka_unit_test(real_sizes),
        cmocka_unit_test(errors_show),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
