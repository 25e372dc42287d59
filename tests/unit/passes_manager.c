/* Pipelines and recipes as text, the rules of every pass (idempotent, independent of how a module was made),
 * and what happens when a pass breaks a module. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "base/file.h"
#include "passes_testing.h"

/* ---- pipelines ---- */

static const char *reprint(bench *b, const char *text) {
    syl_source source = {"passes", text, strlen(text)};
    syl_pipeline *pipeline;
    if (syl_pipeline_parse(&b->arena, &source, b->diag, &pipeline) != SYL_OK) fail_msg("%s", b->messages.p);
    syl_text out = {.arena = &b->arena};
    syl_pipeline_print(pipeline, &out);
    return out.p ? out.p : "";
}

static void prints_canonically(void **state) {
    (void)state;
    bench b;
    bench_open(&b);
    assert_string_equal(reprint(&b, ""), "");
    assert_string_equal(reprint(&b, " cse ,\n dce { } "), "cse,dce");
    assert_string_equal(reprint(&b, "rotate-residual{online=2 seed=0}"), "rotate-residual");
    assert_string_equal(reprint(&b, "rotate-residual{online=07 seed=00}"), "rotate-residual{online=7}");
    assert_string_equal(reprint(&b, "rotate-residual{ online = 3  seed=9223372036854775807 }"),
                        "rotate-residual{seed=9223372036854775807 online=3}");
    assert_string_equal(reprint(&b, "round-weights{type=bf16},round-weights{type=f32}"),
                        "round-weights,round-weights{type=f32}");
    assert_string_equal(reprint(&b, "quantize-weights{clip=absmax head=int8_channel}"),
                        "quantize-weights{clip=absmax head=int8_channel}");
    bench_close(&b);
}

static void rejects(const char *text, const char *error, size_t column, const char *says) {
    bench b;
    bench_open(&b);
    syl_source source = {"passes", text, strlen(text)};
    syl_pipeline *pipeline;
    assert_int_equal(syl_pipeline_parse(&b.arena, &source, b.diag, &pipeline), SYL_USAGE);
    assert_null(pipeline);
    const char *place = syl_arena_printf(&b.arena, "passes:1:%zu: error[%s]: ", column, error);
    if (!bench_said(&b, place) || !bench_said(&b, says))
        fail_msg("expected %s%s, found %s", place, says, b.messages.p);
    bench_close(&b);
}

static void rejects_what_it_does_not_know(void **state) {
    (void)state;
    rejects("cse,fold-norm", "pass-unknown", 5, "there is no pass 'fold-norm'; did you mean 'fold-norms'?");
    rejects("zebra", "pass-unknown", 1, "there is no pass 'zebra'\n");
    rejects("rotate-residual{sed=1}", "pass-option", 17,
            "no option 'sed' (its options: seed, online); did you mean 'seed'?");
    rejects("cse{x=1}", "pass-option", 5, "no option 'x' (its options: none)");
    rejects("rotate-residual{seed=x}", "pass-option", 22, "'seed' takes a whole number, found 'x'");
    rejects("rotate-residual{seed=-1}", "pass-option", 22, "found '-1'");
    rejects("rotate-residual{seed=9223372036854775808}", "pass-option", 22, "found '9223372036854775808'");
    rejects("round-weights{type=bf16x}", "pass-option", 20,
            "takes one of bf16, f16, f32, found 'bf16x'; did you mean 'bf16'?");
    rejects("rotate-residual{seed=1 seed=2}", "pass-option", 24, "'seed' is given twice");
}

static void rejects_bad_syntax(void **state) {
    (void)state;
    rejects(",cse", "pipeline-syntax", 1, "expected the name of a pass, found ','");
    rejects("cse,", "pipeline-syntax", 5, "expected the name of a pass, found the end");
    rejects("cse dce", "pipeline-syntax", 5, "expected ',' or the end behind pass 'cse', found 'd'");
    rejects("rotate-residual{seed}", "pipeline-syntax", 21, "expected '=' behind option 'seed', found '}'");
    rejects("rotate-residual{seed=}", "pipeline-syntax", 22, "expected a value, found '}'");
    rejects("rotate-residual{seed=1", "pipeline-syntax", 23, "expected an option or '}', found the end");
    rejects("cse\x01", "pipeline-syntax", 4, "found byte 0x01");
}

/* ---- recipes ---- */

static void embedded_recipes_load(void **state) {
    (void)state;
    int n = 0;
    for (const char *const *name = syl_recipe_names(); *name; name++, n++) {
        bench b;
        bench_open(&b);
        syl_recipe recipe;
        assert_int_equal(syl_recipe_load(&b.arena, *name, b.diag, &recipe), SYL_OK);
        assert_string_equal(recipe.name, *name);
        assert_true(strlen(recipe.description) > 0);
        /* The library holds the bytes of the file, and both roads give the same. */
        syl_source file;
        const char *path = syl_arena_printf(&b.arena, SYL_SOURCE_DIR "/passes/recipes/%s.json", *name);
        assert_int_equal(syl_file_read(&b.arena, path, 1 << 20, b.diag, &file), SYL_OK);
        assert_string_equal(recipe.text, file.text);
        syl_recipe again;
        assert_int_equal(syl_recipe_load(&b.arena, path, b.diag, &again), SYL_OK);
        assert_string_equal(again.pipeline, recipe.pipeline);
        const char *canonical = reprint(&b, recipe.pipeline);
        assert_string_equal(reprint(&b, canonical), canonical);
        bench_close(&b);
    }
    assert_true(n >= 3);
}

static char *temporary(bench *b, const char *text) {
    char *path = syl_arena_strdup(&b->arena, "/tmp/syl_recipe_XXXXXX.json");
    int fd = mkstemps(path, 5);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    return path;
}

/* The option --kv makes what the recipes with a quantized cache say. */
static void recipes_take_a_quantized_cache(void **state) {
    (void)state;
    static const int bits[] = {8, 4};
    for (int i = 0; i < 2; i++) {
        bench b;
        bench_open(&b);
        syl_recipe made, written;
        assert_int_equal(syl_recipe_load(&b.arena, "w8a8", b.diag, &made), SYL_OK);
        assert_int_equal(syl_recipe_quantize_kv(&b.arena, bits[i], b.diag, &made), SYL_OK);
        assert_int_equal(syl_recipe_load(&b.arena, made.name, b.diag, &written), SYL_OK);
        assert_string_equal(made.pipeline, written.pipeline);
        assert_string_equal(made.description, written.description);
        assert_int_not_equal(syl_recipe_quantize_kv(&b.arena, bits[i], b.diag, &made), SYL_OK);
        assert_true(bench_said(&b, "has quantize-kv already"));
        made.pipeline = "group,cse";
        assert_int_not_equal(syl_recipe_quantize_kv(&b.arena, bits[i], b.diag, &made), SYL_OK);
        assert_true(bench_said(&b, "has no pass 'fuse'"));
        bench_close(&b);
    }
}

static void bad_recipe(const char *text, const char *error) {
    bench b;
    bench_open(&b);
    char *path = temporary(&b, text);
    syl_recipe recipe;
    assert_int_not_equal(syl_recipe_load(&b.arena, path, b.diag, &recipe), SYL_OK);
    if (!bench_said(&b, error)) fail_msg("expected %s, found %s", error, b.messages.p);
    unlink(path);
    bench_close(&b);
}

static void bad_recipes_are_named(void **state) {
    (void)state;
    bench b;
    bench_open(&b);
    syl_recipe recipe;
    assert_int_equal(syl_recipe_load(&b.arena, "w8a", b.diag, &recipe), SYL_USAGE);
    assert_true(bench_said(&b, "error[recipe-unknown]: there is no recipe 'w8a'; did you mean 'w8a8'?"));
    assert_int_equal(syl_recipe_load(&b.arena, "/nowhere/x.json", b.diag, &recipe), SYL_IO);
    bench_close(&b);
    bad_recipe("{\"name\":\"x\",\"description\":\"y\"}", "error[json-missing]");
    bad_recipe("{\"name\":\"x\",\"description\":\"y\",\"pipeline\":\"cse\",\"seed\":1}",
               "error[json-unknown-key]");
    bad_recipe("{\"name\":\"x\",\"description\":\"y\",\"pipeline\":3}", "error[json-type]");
    bad_recipe("{\"name\":\"x\",\"description\":\"y\",\"pipeline\":\"cse,dse\"}",
               ": pipeline:1:5: error[pass-unknown]");
    bad_recipe("[]", "error[json-type]");
}

/* ---- running ---- */

typedef struct log {
    char text[512];
    syl_module *module; /* to break, or NULL */
} log_t;

static void note_pass(void *user, int index, const char *pass, const syl_module *module,
                      const syl_pass_stat *stats, size_t n_stats, double seconds) {
    log_t *l = user;
    size_t n = strlen(l->text);
    assert_non_null(module);
    assert_true(seconds >= 0);
    n += (size_t)snprintf(l->text + n, sizeof l->text - n, "%d %s", index, pass);
    for (size_t i = 0; i < n_stats; i++)
        n += (size_t)snprintf(l->text + n, sizeof l->text - n, " %s=%lld", stats[i].name,
                              (long long)stats[i].value);
    snprintf(l->text + n, sizeof l->text - n, ";");
}

static const char small[] = "module @m {\n"
                            "  source \"w\"\n"
                            "  func @f(%x: tensor<Tx8xf32>) -> tensor<Tx8xf32> {\n"
                            "    %w = weight \"w\" : tensor<8x8xreal>\n"
                            "    %a = linear %x, %w : tensor<Tx8xf32>\n"
                            "    %b = linear %x, %w : tensor<Tx8xf32>\n"
                            "    %c = add %a, %b : tensor<Tx8xf32>\n"
                            "    %d = silu %b : tensor<Tx8xf32>\n"
                            "    return %c\n"
                            "  }\n"
                            "}\n";

static void reports_each_pass(void **state) {
    (void)state;
    bench b;
    bench_open(&b);
    syl_module *module = bench_parse(&b, small);
    log_t l = {0};
    assert_int_equal(
        bench_run_with(&b, module, "cse,dce,cse", &(syl_pass_options){.after = note_pass, .user = &l}),
        SYL_OK);
    assert_string_equal(l.text, "1 cse merged=1;2 dce ops=1;3 cse;");
    syl_module_destroy(module);
    bench_close(&b);
}

static void broken_module_is_refused(void **state) {
    (void)state;
    bench b;
    bench_open(&b);
    syl_module *module = bench_parse(&b, small);
    bench_find(module->funcs->body, "c")->type.dtype = SYL_i32;
    log_t l = {0};
    assert_int_equal(bench_run_with(&b, module, "cse", &(syl_pass_options){.after = note_pass, .user = &l}),
                     SYL_INPUT);
    assert_string_equal(l.text, "");
    assert_false(bench_said(&b, "pass-broke-module"));
    syl_module_destroy(module);
    bench_close(&b);
}

/* Breaks the module behind the first pass, so that the second is found guilty. */
static void break_module(void *user, int index, const char *pass, const syl_module *module,
                         const syl_pass_stat *stats, size_t n_stats, double seconds) {
    (void)index, (void)pass, (void)module, (void)stats, (void)n_stats, (void)seconds;
    log_t *l = user;
    syl_op_set_operand(bench_find(l->module->funcs->body, "a")->def, 1, &l->module->funcs->args[0]);
}

static void breaking_a_module_is_reported(void **state) {
    (void)state;
    bench b;
    bench_open(&b);
    syl_module *module = bench_parse(&b, small);
    char *path = temporary(&b, "old");
    log_t l = {.module = module};
    const char *passes = "cse,rotate-values{seed=7},dce";
    assert_int_equal(
        bench_run_with(&b, module, passes,
                       &(syl_pass_options){.after = break_module, .user = &l, .reproducer = path}),
        SYL_INTERNAL);
    assert_true(bench_said(
        &b, "error[pass-broke-module]: pass 'rotate-values' (2 of 3) left a module that does not verify"));
    assert_true(bench_said(&b, "error[ir-shape]"));
    syl_source file;
    assert_int_equal(syl_file_read(&b.arena, path, 1 << 20, b.diag, &file), SYL_OK);
    const char *head = "// pipeline: rotate-values{seed=7},dce\nmodule @m {\n";
    assert_memory_equal(file.text, head, strlen(head));
    /* The file parses: comments are comments. */
    syl_module *again = bench_parse(&b, file.text);
    syl_module_destroy(again);
    unlink(path);
    syl_module_destroy(module);
    bench_close(&b);
}

/* ---- the rules of every pass ---- */

/* Runs the passes of a pipeline one by one on a random module. Each must be idempotent, and do to the module
 * as parsed from its text what it does to the module in memory. */
static void check_rules(const char *recipe, uint64_t seed) {
    bench b;
    bench_open(&b);
    ir_random r;
    bench_sizes(seed, &r);
    syl_module *module = ir_random_build(&r);
    char *passes = syl_arena_strdup(&b.arena, bench_recipe(&b, recipe));
    for (char *rest = passes, *pass; (pass = strtok_r(rest, ",", &rest));) {
        const char *before = bench_print(&b, module);
        bench_run(&b, module, pass);
        const char *once = bench_print(&b, module);
        syl_module *parsed = bench_parse(&b, before);
        bench_run(&b, parsed, pass);
        assert_string_equal(bench_print(&b, parsed), once);
        bench_run(&b, parsed, pass);
        if (strcmp(bench_print(&b, parsed), once) != 0)
            fail_msg("%s is not idempotent on seed %llu:\n%s\n%s", pass, (unsigned long long)seed, once,
                     bench_print(&b, parsed));
        syl_module_destroy(parsed);
        /* What a pass leaves is text that reads back byte for byte. */
        parsed = bench_parse(&b, once);
        assert_string_equal(bench_print(&b, parsed), once);
        syl_module_destroy(parsed);
    }
    syl_module_destroy(module);
    bench_close(&b);
}

static void passes_keep_the_rules(void **state) {
    (void)state;
    for (const char *const *name = syl_recipe_names(); *name; name++)
        for (uint64_t seed = 0; seed < 20; seed++) check_rules(*name, seed);
}

static void names_what_folds(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"", ""},
        {"group,cse", ""},
        {"fold-norms,rotate-residual{seed=1 online=2}, rotate-values ,rotate-down,group",
         "fold-norms,rotate-residual{seed=1 online=2},rotate-values"},
        {"rotate-values-more,quantize-weights{scheme=rotate-values},rotate-residual", "rotate-residual"},
        {"later-pass{a=b,c=d},fold-norms", "fold-norms"}, /* of another version */
        {"fold-norms{", "fold-norms{"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        syl_arena arena;
        syl_arena_init(&arena);
        syl_text out = {.arena = &arena};
        syl_text_append(&out, "", 0);
        syl_pipeline_folds(cases[i][0], &out);
        assert_string_equal(out.p, cases[i][1]);
        syl_arena_free(&arena);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prints_canonically),       cmocka_unit_test(rejects_what_it_does_not_know),
        cmocka_unit_test(rejects_bad_syntax),       cmocka_unit_test(embedded_recipes_load),
        cmocka_unit_test(bad_recipes_are_named),    cmocka_unit_test(recipes_take_a_quantized_cache),
        cmocka_unit_test(names_what_folds),         cmocka_unit_test(reports_each_pass),
        cmocka_unit_test(broken_module_is_refused), cmocka_unit_test(breaking_a_module_is_reported),
        cmocka_unit_test(passes_keep_the_rules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
