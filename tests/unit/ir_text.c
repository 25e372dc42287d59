/* The text of the IR: what prints reads back and prints the same; every error is named and points at its
 * place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <cmocka.h>
#include "unit/ir_random.h"

static const char example[] =
    "module @example {\n"
    "  source \"a \\\"quoted\\\" \\\\ path\\n\\x01\\xC3\\xA9.gguf\"\n"
    "  func @none() -> () {\n"
    "    return\n"
    "  }\n"
    "  func @forward(%x: tensor<Tx8xf32>, %0: tensor<Txi32>, %kv: kv<2x1x8xbf16>) -> (tensor<Tx6xf32>, "
    "kv<2x1x8xbf16>) {\n"
    "    %w = weight \"blk.0.attn_q.weight\" {source = 0} : tensor<6x8xreal>\n"
    "    %h = hadamard %w {axis = 1, factors = [8], transpose = true} : tensor<6x8xreal>\n"
    "    %wq = quantize %h {clip = mse} : tensor<6x8xint8_channel>\n"
    "    %1 = rope_table %0 {base = 10000.0, dims = 8} : tensor<Tx8xf32>\n"
    "    %xq, %k.v = fused {slots = [0, 1]} : tensor<Tx8xint8_token>, tensor<Tx8xf32> {\n"
    "      %n = rms_norm %x {eps = 1e-05} : tensor<Tx8xf32>\n"
    "      %2 = rope %n, %1 {heads = 1, style = interleaved} : tensor<Tx8xf32>\n"
    "      %3 = quantize %n : tensor<Tx8xint8_token>\n"
    "      yield %3, %2\n"
    "    }\n"
    "    %4 = kv_append %kv, %k.v, %k.v, %0, %0 {layer = 0} : kv<2x1x8xbf16>\n"
    "    %y = linear %xq, %wq : tensor<Tx6xf32>\n"
    "    return %y, %4\n"
    "  }\n"
    "}\n";

static syl_module *parse(const char *text, syl_source *source, syl_text *messages) {
    *source = (syl_source){"test.sir", text, strlen(text)};
    syl_diag *diag = syl_diag_create(syl_diag_capture, messages);
    syl_module *module;
    syl_status status = syl_module_parse(source, diag, &module);
    assert_int_equal(status == SYL_OK, module != NULL);
    assert_int_equal(syl_diag_errors(diag), status == SYL_OK ? 0 : 1);
    syl_diag_destroy(diag);
    return module;
}

static void print_is_fixed_point(const char *text) {
    syl_arena arena;
    syl_arena_init(&arena);
    syl_text messages = {.arena = &arena}, printed = {.arena = &arena};
    syl_source source;
    syl_module *module = parse(text, &source, &messages);
    if (!module) fail_msg("%s", messages.p);
    syl_module_print(module, &printed);
    assert_string_equal(printed.p, text);
    syl_module_destroy(module);
    syl_arena_free(&arena);
}

static const char caches[] =
    "module @caches {\n"
    "  func @f(%a: kv<2x1x64xint8_g64>, %b: kv<2x1x64xint8_g64.int4_g32>, %c: kv<2x1x64xbf16.int4_g16>, %d: "
    "kv<2x1x64xint4_g32.f32>) -> kv<2x1x64xint8_g64> {\n"
    "    return %a\n"
    "  }\n"
    "}\n";

static void test_example(void **state) {
    (void)state;
    print_is_fixed_point(example);
    print_is_fixed_point(caches);
}

static void test_canonical(void **state) {
    (void)state;
    syl_arena arena;
    syl_arena_init(&arena);
    syl_text messages = {.arena = &arena}, printed = {.arena = &arena};
    syl_source source;
    syl_module *module =
        parse("// comment\nmodule @m { func @f(%7: tensor<2xf32>)->(tensor<2xf32>) { // here\n"
              "%9=signs %7{seed=3,axis=0}:tensor<2xf32> return %9}}",
              &source, &messages);
    if (!module) fail_msg("%s", messages.p);
    syl_module_print(module, &printed);
    assert_string_equal(printed.p,
                        "module @m {\n  func @f(%0: tensor<2xf32>) -> tensor<2xf32> {\n"
                        "    %1 = signs %0 {axis = 0, seed = 3} : tensor<2xf32>\n    return %1\n  }\n}\n");
    syl_module_destroy(module);
    syl_arena_free(&arena);
}

static void test_clashes(void **state) {
    (void)state;
    syl_module *module = syl_module_create("m");
    syl_type type = syl_tensor1(SYL_f32, syl_size(2));
    syl_func *func = syl_func_create(module, "f", 1, &type, (const char *[]){"x"});
    syl_builder b = syl_build_at_end(module, func->body);
    syl_value *value = &func->args[0];
    static const char *const names[] = {"x", "x", "x_1", NULL, "x", "x_1"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        value = syl_build(&b, SYL_OP_silu, type, 1, value);
        syl_value_set_name(module, value, names[i]);
    }
    syl_build_op(&b, SYL_OP_return, 1, &value, 0, NULL);
    func->n_results = 1;
    func->result_types = &type;
    syl_text printed = {.arena = &module->arena};
    syl_module_print(module, &printed);
    assert_non_null(strstr(printed.p, "%x_1 = silu %x :"));
    assert_non_null(strstr(printed.p, "%x_2 = silu %x_1 :"));
    assert_non_null(strstr(printed.p, "%x_1_1 = silu %x_2 :"));
    assert_non_null(strstr(printed.p, "%0 = silu %x_1_1 :"));
    assert_non_null(strstr(printed.p, "%x_3 = silu %0 :"));
    assert_non_null(strstr(printed.p, "%x_1_2 = silu %x_3 :"));
    print_is_fixed_point(printed.p);
    syl_module_destroy(module);
}

static void test_floats(void **state) {
    (void)state;
    static const double values[] = {0.0,
                                    -0.0,
                                    1.0,
                                    1e-5,
                                    0.1,
                                    1.0 / 3.0,
                                    1e22,
                                    123456789.0,
                                    5e-324,
                                    1.7976931348623157e308,
                                    0.35355339059327373,
                                    1e6};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        syl_module *module = syl_module_create("m");
        syl_type type = syl_tensor1(SYL_f32, syl_size(2));
        syl_func *func = syl_func_create(module, "f", 1, &type, NULL);
        syl_builder b = syl_build_at_end(module, func->body);
        syl_attr_set_float(module, syl_build(&b, SYL_OP_rms_norm, type, 1, &func->args[0])->def, "eps",
                           values[i]);
        syl_text printed = {.arena = &module->arena}, messages = {.arena = &module->arena};
        syl_module_print(module, &printed);
        syl_source source;
        syl_module *back = parse(printed.p, &source, &messages);
        if (!back) fail_msg("%s", messages.p);
        double read = syl_attr_float(back->funcs->body->first, "eps");
        assert_memory_equal(&read, &values[i], sizeof read);
        syl_module_destroy(back);
        syl_module_destroy(module);
    }
}

static void test_random(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 100; seed++) {
        ir_random r;
        syl_module *module = ir_random_module(seed, &r);
        syl_text printed = {.arena = &module->arena};
        syl_module_print(module, &printed);
        print_is_fixed_point(printed.p);
        syl_module_destroy(module);
    }
}

/* Errors: the text with '^' where the error must point, its name, and a piece of the message. */
#define BODY(op)                                                                                             \
    "module @m { func @f(%x: tensor<2x4xf32>, %i: tensor<2xi32>) -> tensor<2x4xf32> { " op " return %x } }"
static const struct {
    const char *text, *name, *message;
} errors[] = {
    {"^", "ir-syntax", "expected 'module', found the end of the text"},
    {"^modul @m {}", "ir-syntax", "expected 'module', found 'modul'"},
    {"module ^m {}", "ir-syntax", "a module name"},
    {"module @m {} ^module @m {}", "ir-syntax", "the end of the text"},
    {"module @m { ^", "ir-syntax", "expected '}'"},
    {"module @m { source ^3 }", "ir-syntax", "a path"},
    {"module @m { source ^\"abc\n }", "ir-syntax", "no end on its line"},
    {"module @m { source \"a^\\q\" }", "ir-syntax", "unknown escape"},
    {"module @m { source \"a^\\x00\" }", "ir-syntax", "\\x00"},
    {"module @m { source \"a^\\x4\" }", "ir-syntax", "two hex digits"},
    {"module @m { source \"a^\tb\" }", "ir-syntax", "control characters"},
    {"module ^$ {}", "ir-syntax", "'$' has no meaning"},
    {"module ^\x80 {}", "ir-syntax", "byte 0x80"},
    {"module @m { func @f() -> () { return } func ^@f() -> () { return } }", "ir-redefined", "'@f'"},
    {"module @m { func @f(%a: tensor<2xf32>, ^%a: tensor<2xf32>) -> () { return } }", "ir-redefined", "'%a'"},
    {"module @m { func @f(%a: ^tensor<2xf33>) -> () { return } }", "ir-type", "did you mean 'f32'"},
    {"module @m { func @f(%a: ^tensor<f32>) -> () { return } }", "ir-type", "no dimensions"},
    {"module @m { func @f(%a: ^tensor<0xf32>) -> () { return } }", "ir-type", "'0'"},
    {"module @m { func @f(%a: ^tensor<99999999999999999999xf32>) -> () { return } }", "ir-type",
     "neither a size"},
    {"module @m { func @f(%a: ^tensor<1x2x3x4x5xf32>) -> () { return } }", "ir-type", "more than 4"},
    {"module @m { func @f(%a: ^tensor<Tqxf32>) -> () { return } }", "ir-type", "dimension symbol"},
    {"module @m { func @f(%a: tensor<2xf32^) -> () { return } }", "ir-syntax", "expected '>'"},
    {"module @m { func @f(%a: ^kv<2x3xf32>) -> () { return } }", "ir-type", "kv<layers"},
    {"module @m { func @f(%a: ^kv<1x1x8xint8>) -> () { return } }", "ir-type", "unknown element type 'int8'"},
    {"module @m { func @f(%a: ^kv<1x1x8xint4_g0>) -> () { return } }", "ir-type", "'0'"},
    {"module @m { func @f(%a: ^kv<1x1x8xf32.bf16>) -> () { return } }", "ir-type", "one element type"},
    {"module @m { func @f(%a: ^kv<1x1x8xint4_g8.int8_g8.f32>) -> () { return } }", "ir-type", "'8.f32'"},
    {"module @m { func @f(%a: ^tensor<8xint8_g8>) -> () { return } }", "ir-type", "unknown element type"},
    {"module @m { func @f(%a: ^tensor) -> () { return } }", "ir-syntax", "a type"},
    {BODY("%y = ^siluu %x : tensor<2x4xf32>"), "ir-unknown-op", "did you mean 'silu'"},
    {BODY("%y = silu ^%z : tensor<2x4xf32>"), "ir-undefined",
     "'%z' is not defined above; did you mean '%x'?"},
    {BODY("%y = silu ^%y : tensor<2x4xf32>"), "ir-undefined", "'%y'"},
    {BODY("^%x = silu %x : tensor<2x4xf32>"), "ir-redefined", "'%x'"},
    {BODY("%y = ^silu %x"), "ir-syntax", "defines 1 values but gives 0 result types"},
    {BODY("^silu %x : tensor<2x4xf32>"), "ir-syntax", "defines 0 values but gives 1"},
    {BODY("%y = rms_norm %x {^epz = 0.5} : tensor<2x4xf32>"), "ir-attribute", "did you mean 'eps'"},
    {BODY("%y = rms_norm %x {eps = ^1} : tensor<2x4xf32>"), "ir-syntax", "a float"},
    {BODY("%y = rms_norm %x {eps = ^1e999} : tensor<2x4xf32>"), "ir-syntax", "out of range"},
    {BODY("%y = rms_norm %x {eps = 0.5, ^eps = 0.5} : tensor<2x4xf32>"), "ir-redefined", "twice"},
    {BODY("%y = rms_norm %x {eps = 0.5 ^eps = 0.5} : tensor<2x4xf32>"), "ir-syntax", "',' or '}'"},
    {BODY("%y = signs %x {axis = ^99999999999999999999, seed = 0} : tensor<2x4xf32>"), "ir-syntax",
     "out of range"},
    {BODY("%y = signs %x {axis = 1^a} : tensor<2x4xf32>"), "ir-syntax", "cannot follow a number"},
    {BODY("%y = hadamard %x {axis = 1, factors = [2 ^2]} : tensor<2x4xf32>"), "ir-syntax", "expected ','"},
    {BODY("%y = hadamard %x {transpose = ^maybe} : tensor<2x4xf32>"), "ir-syntax", "'true' or 'false'"},
    {BODY("%y = quantize %x {clip = ^max} : tensor<2x4xint8_token>"), "ir-attribute",
     "expected one of absmax|mse"},
    {BODY("%y = weight ^: tensor<2x4xreal>"), "ir-syntax", "the name as a string"},
    {BODY("%y = fused : tensor<2x4xf32> { %z = ^fused : tensor<2x4xf32> { yield %x } yield %z }"),
     "ir-structure", "don't nest"},
    {BODY("%y = fused : tensor<2x4xf32> { %z = silu %x : tensor<2x4xf32> yield %z } %u = silu ^%z : "
          "tensor<2x4xf32>"),
     "ir-undefined", "inside a region"},
    {BODY("%y = fused : tensor<2x4xf32> { yield ^%y }"), "ir-undefined", "'%y'"},
    {BODY("%1a^ = silu %x : tensor<2x4xf32>"), "ir-syntax", "does not begin with a digit"},
};

static void test_errors(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        syl_arena arena;
        syl_arena_init(&arena);
        syl_text messages = {.arena = &arena};
        char *text = syl_arena_strdup(&arena, errors[i].text), *caret = strchr(text, '^'), place[64];
        memmove(caret, caret + 1, strlen(caret));
        /* "%1a" is reported where the value begins. */
        const char *at = strncmp(caret - (caret > text + 2 ? 3 : 0), "%1a", 3) == 0 ? caret - 3 : caret;
        size_t line = 1, column = 1;
        for (const char *c = text; c < at; c++) {
            column = *c == '\n' ? 1 : column + 1;
            line += *c == '\n';
        }
        syl_source source;
        assert_null(parse(text, &source, &messages));
        snprintf(place, sizeof place, "test.sir:%zu:%zu: error[%s]", line, column, errors[i].name);
        if (!strstr(messages.p, place) || !strstr(messages.p, errors[i].message))
            fail_msg("case %zu: %s\nexpected %s ... %s, found\n%s", i, text, place, errors[i].message,
                     messages.p);
        syl_arena_free(&arena);
    }
}

/* No beginning of a good text, and no text with a byte changed, does worse than fail with a message. */
static void test_mangled(void **state) {
    (void)state;
    size_t n = strlen(example);
    for (size_t i = 0; i < 2 * n; i++) {
        syl_arena arena;
        syl_arena_init(&arena);
        syl_text messages = {.arena = &arena};
        char *text = syl_arena_strdup(&arena, example);
        if (i < n)
            text[i] = 0;
        else
            text[i - n] = "%@{}[]<>:=,\"\\x09-.e\n~"[i % 21];
        syl_source source;
        syl_module *module = parse(text, &source, &messages);
        assert_true(module || messages.n > 0);
        syl_module_destroy(module);
        syl_arena_free(&arena);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_example), cmocka_unit_test(test_canonical), cmocka_unit_test(test_clashes),
        cmocka_unit_test(test_floats),  cmocka_unit_test(test_random),    cmocka_unit_test(test_errors),
        cmocka_unit_test(test_mangled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
