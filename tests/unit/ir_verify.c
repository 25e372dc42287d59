/* The verifier: what it must let through, and what it must name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <cmocka.h>
#include "unit/ir_random.h"

static syl_arena arena;
static syl_text messages;

static syl_status verify(const syl_module *module) {
    syl_diag *diag = syl_diag_create(syl_diag_capture, &messages);
    syl_status status = syl_module_verify(module, diag);
    assert_int_equal(status == SYL_OK, syl_diag_errors(diag) == 0);
    syl_diag_destroy(diag);
    return status;
}

static int setup(void **state) {
    (void)state;
    syl_arena_init(&arena);
    messages = (syl_text){.arena = &arena};
    return 0;
}

static int teardown(void **state) {
    (void)state;
    syl_arena_free(&arena);
    return 0;
}

/* ---- from text ---- */

#define FUNC(body)                                                                                           \
    "module @m { source \"s\" func @f(%x: tensor<Tx8xf32>, %i: tensor<Txi32>, %r: tensor<Rxi32>, %kv: "      \
    "kv<2x1x4xf32>) -> "                                                                                     \
    "tensor<Tx8xf32> { " body " return %x } }"
#define W "%w = weight \"w\" : tensor<6x8xreal> "

static syl_status verify_text(const char *text) {
    syl_source source = {"test.sir", text, strlen(text)};
    syl_diag *diag = syl_diag_create(syl_diag_capture, &messages);
    syl_module *module;
    if (syl_module_parse(&source, diag, &module) != SYL_OK) fail_msg("%s\n%s", text, messages.p);
    syl_diag_destroy(diag);
    syl_status status = verify(module);
    syl_module_destroy(module);
    return status;
}

static const struct {
    const char *text, *name, *message;
} bad[] = {
    {"module @m { func @f() -> () { } }", "ir-structure", "empty"},
    {FUNC("%y = silu %x : tensor<Tx8xf32> return %y"), "ir-structure", "before the end"},
    {FUNC("yield %x"), "ir-structure", "before the end"},
    {"module @m { func @f(%x: tensor<2xf32>) -> tensor<2xf32> { yield %x } }", "ir-structure",
     "expected return"},
    {"module @m { func @f(%x: tensor<2xf32>) -> tensor<2xf32> { %y = silu %x : tensor<2xf32> } }",
     "ir-structure", "does not end with return"},
    {"module @m { func @f(%x: tensor<2xf32>) -> (tensor<2xf32>, tensor<2xf32>) { return %x } }",
     "ir-structure", "has 2 results"},
    {"module @m { func @f(%x: tensor<2xf32>) -> tensor<2xbf16> { return %x } }", "ir-type",
     "declared tensor<2xbf16>"},
    {"module @m { func @f(%x: tensor<4000000000x4000000000x4000000000xf32>) -> () { return } }", "ir-shape",
     "overflows"},
    {"module @m { func @f(%x: tensor<2xint8_token>) -> () { return } }", "ir-type", "for matrices"},
    {"module @m { func @f(%x: kv<Lx2x3xf32>) -> () { return } }", "ir-shape", "must be numbers"},
    {"module @m { func @f(%x: kv<2x2x3xi32>) -> () { return } }", "ir-type", "must be a float type"},
    {"module @m { func @f(%x: kv<2x2x64xint8_g48>) -> () { return } }", "ir-shape", "a head of 64 features"},
    {"module @m { func @f(%x: kv<2x2x64xint8_g64.int4_g8>) -> () { return } }", "ir-shape", "multiple of 16"},
    {"module @m { func @f(%x: kv<2x2x64xf32.int4_g128>) -> () { return } }", "ir-shape",
     "a head of 64 features"},
    {FUNC("%k = slice %x {axis = 1, begin = 0, end = 4} : tensor<Tx4xf32> %y = kv_append %kv, %k, %k, %i, %i "
          "{k_clip = 0.5, layer = 0} : kv<2x1x4xf32>"),
     "ir-attribute", "does not quantize"},
    {"module @m { func @f(%x: tensor<Tx4xf32>, %i: tensor<Txi32>, %kv: kv<1x1x4xint4_g4>) -> () { "
     "%y = kv_append %kv, %x, %x, %i, %i {layer = 0, v_clip = 1.5} : kv<1x1x4xint4_g4> return } }",
     "ir-attribute", "at most 1"},
    {FUNC("%y = fused : tensor<Tx8xf32> { %z = silu %x : tensor<Tx8xf32> }"), "ir-structure",
     "does not end with yield"},
    {FUNC("%y = fused : tensor<Tx8xf32> { return %x }"), "ir-structure", "expected yield"},
    {FUNC("%y = fused : tensor<Tx8xf32> { yield %x, %x }"), "ir-structure", "yield has 2 operands"},
    {FUNC("%y = fused : tensor<Tx8xbf16> { yield %x }"), "ir-type", "expected tensor<Tx8xf32>"},
    {FUNC("%y = fused {slots = [0, 1]} : tensor<Tx8xf32> { yield %x }"), "ir-attribute",
     "2 numbers for 1 results"},
    {FUNC("%y = fused {slots = [-2]} : tensor<Tx8xf32> { yield %x }"), "ir-attribute", "slot -2"},
    {FUNC("%y = silu : tensor<Tx8xf32>"), "ir-type", "takes 1 operands, found 0"},
    {FUNC("%y = linear %x : tensor<Tx8xf32>"), "ir-type", "2 to 3 operands"},
    {FUNC("%y = concat {axis = 0} : tensor<Tx8xf32>"), "ir-type", "at least 1"},
    {FUNC("%y, %z = silu %x : tensor<Tx8xf32>, tensor<Tx8xf32>"), "ir-type", "has 1 results"},
    {FUNC("%y = rms_norm %x : tensor<Tx8xf32>"), "ir-attribute", "needs the attribute 'eps'"},
    {FUNC("%y = rms_norm %x {eps = -0.5} : tensor<Tx8xf32>"), "ir-attribute", "negative"},
    {FUNC("%y = layer_norm %x : tensor<Tx8xf32>"), "ir-attribute", "needs the attribute 'eps'"},
    {FUNC("%y = layer_norm %x {eps = -0.5} : tensor<Tx8xf32>"), "ir-attribute", "negative"},
    {FUNC("%g = weight \"g\" : tensor<6xreal> %y = layer_norm %x, %g {eps = 0.5} : tensor<Tx8xf32>"),
     "ir-shape", "not as long as the last axis"},
    {FUNC("%y = gelu %x : tensor<Tx8xf32>"), "ir-attribute", "needs the attribute 'form'"},
    {FUNC("%y = timestep_embedding %i {base = 10.0, dims = 4, scale = 1.0} : tensor<Tx4xf32>"), "ir-type",
     "a float tensor"},
    {FUNC("%t = slice %x {axis = 1, begin = 0, end = 1} : tensor<Tx1xf32> %y = timestep_embedding %t {base = "
          "10.0, dims = 4, scale = 1.0} : tensor<Tx4xf32>"),
     "ir-type", "a vector"},
    {FUNC("%y = full_attention %x, %x, %x {heads = 3, scale = 1.0, tokens = 2} : tensor<Tx8xf32>"),
     "ir-shape", "not 3 heads"},
    {FUNC("%y = full_attention %x, %x, %x {heads = 2, scale = 1.0, tokens = 0} : tensor<Tx8xf32>"),
     "ir-attribute", "tokens is 0"},
    {FUNC("%z = take %x, %r : tensor<Rx8xf32> %y = full_attention %x, %z, %x {heads = 2, scale = 1.0, tokens "
          "= 2} : tensor<Tx8xf32>"),
     "ir-shape", "their shapes differ"},
#define PATCHES(sizes, type) FUNC("%y = patchify %x {channels = 2, " sizes "} : " type)
    {PATCHES("height = 2, width = 2", "tensor<Rx2xf32>"), "ir-attribute", "needs the attribute 'patch'"},
    {PATCHES("height = 2, width = 2, patch = 0", "tensor<Rx2xf32>"), "ir-attribute", "expected 1 to 65536"},
    {PATCHES("height = 65537, width = 2, patch = 1", "tensor<Rx2xf32>"), "ir-attribute", "65537"},
    {PATCHES("height = 2, width = 3, patch = 2", "tensor<Rx2xf32>"), "ir-attribute", "do not fill 2 x 3"},
    {PATCHES("height = 65536, width = 65536, patch = 1", "tensor<Rx2xf32>"), "ir-attribute",
     "at most 268435456"},
    {PATCHES("height = 2, width = 4, patch = 2", "tensor<Rx8xf32>"), "ir-shape",
     "not 16 elements, a picture"},
    {PATCHES("height = 2, width = 2, patch = 1", "tensor<Tx2xf32>"), "ir-shape", "4 times those of pictures"},
    {PATCHES("height = 2, width = 2, patch = 1", "tensor<4x2xf32>"), "ir-shape", "4 times those of pictures"},
    {PATCHES("height = 2, width = 2, patch = 1", "tensor<Sx2xf32>"), "ir-shape", "no argument has S"},
    {PATCHES("height = 2, width = 2, patch = 1", "tensor<Rx4xf32>"), "ir-shape", "expected tensor<Rx2xf32>"},
    {PATCHES("height = 2, width = 2, patch = 1", "tensor<Rxf32>"), "ir-shape", "declared as a matrix"},
    {PATCHES("height = 2, width = 2, patch = 1", "kv<2x1x4xf32>"), "ir-shape", "declared as a matrix"},
    {FUNC("%y = unpatchify %x {channels = 2, height = 4, patch = 1, width = 2} : tensor<Rx16xf32>"),
     "ir-shape", "not 2 elements, a patch"},
    {FUNC("%y = unpatchify %x {channels = 2, height = 4, patch = 2, width = 2} : tensor<Tx16xf32>"),
     "ir-shape", "2 times those of pictures"},
    {FUNC("%y = unpatchify %i {channels = 2, height = 4, patch = 2, width = 2} : tensor<Rx16xf32>"),
     "ir-type", "a float tensor"},
    {FUNC("%y = silu %x : tensor<Tx9xf32>"), "ir-shape", "expected tensor<Tx8xf32>"},
    {FUNC("%y = silu %x : tensor<Tx8xi32>"), "ir-type", "expected tensor<Tx8xf32>"},
    {FUNC("%y = silu %i : tensor<Txf32>"), "ir-type", "a float tensor"},
    {FUNC(W "%y = silu %w : tensor<6x8xf32>"), "ir-type", "a float tensor"},
    {FUNC("%w = weight \"\" : tensor<6x8xreal>"), "ir-attribute", "name is empty"},
    {FUNC("%w = weight \"w\" {source = 1} : tensor<6x8xreal>"), "ir-attribute", "has 1 sources"},
    {FUNC("%w = weight \"w\" : tensor<6x8xf32>"), "ir-type", "real tensor"},
    {FUNC("%w = weight \"w\" : tensor<Tx8xreal>"), "ir-shape", "fixed sizes"},
    {FUNC("%w = materialized \"w\" : tensor<6x8xreal>"), "ir-type", "of a weight's codes"},
    {FUNC("%w = materialized \"w\" : tensor<6x8xint8_token>"), "ir-type", "of a weight's codes"},
    {FUNC(W "%y = cast %w : tensor<6x8xi32>"), "ir-type", "float tensor"},
    {FUNC(W "%y = cast %w : tensor<8x6xbf16>"), "ir-shape", "not the shape"},
    {FUNC(W "%v = materialized \"v\" : tensor<8xf32> %y = scale %w, %v {axis = 1} : tensor<6x8xreal>"),
     "ir-type", "real, as operand 1"},
    {FUNC(W "%v = weight \"v\" : tensor<8xreal> %y = scale %w, %v {axis = 0} : tensor<6x8xreal>"), "ir-shape",
     "not as long as the axis"},
    {FUNC(W "%v = weight \"v\" : tensor<8xreal> %y = scale %w, %v {axis = 2} : tensor<6x8xreal>"), "ir-shape",
     "axis 2"},
    {FUNC(W "%v = weight \"v\" : tensor<8xreal> %y = scale %w, %v {axis = 1} : tensor<6x8xf32>"), "ir-type",
     "expected tensor<6x8xreal>"},
    {FUNC("%y = signs %x {axis = 0, seed = 1} : tensor<Tx8xf32>"), "ir-shape", "no fixed size"},
    {FUNC("%y = signs %x {axis = 1, seed = -1} : tensor<Tx8xf32>"), "ir-attribute", "negative"},
    {FUNC("%y = hadamard %x {axis = 1, factors = [3]} : tensor<Tx8xf32>"), "ir-attribute", "factors"},
    {FUNC("%y = hadamard %x {axis = 1, factors = [16]} : tensor<Tx8xf32>"), "ir-attribute", "size 8"},
    {FUNC("%y = hadamard %x {axis = 1, factors = []} : tensor<Tx8xf32>"), "ir-attribute", "factors"},
    {FUNC("%y = hadamard %x {axis = -1, factors = [8]} : tensor<Tx8xf32>"), "ir-shape", "axis -1"},
    {FUNC(W "%y = concat %x, %w {axis = 1} : tensor<Tx16xf32>"), "ir-type", "float tensor, as operand 1"},
    {FUNC(W "%u = weight \"u\" : tensor<6x7xreal> %y = concat %w, %u {axis = 0} : tensor<12x8xreal>"),
     "ir-shape", "off the axis"},
    {FUNC(W
          "%u, %d, %e = low_rank_split %w {rank = 7} : tensor<6x7xreal>, tensor<7x8xreal>, tensor<6x8xreal>"),
     "ir-attribute", "1 to the smaller size"},
    {FUNC(W
          "%u, %d, %e = low_rank_split %w {rank = 0} : tensor<6x1xreal>, tensor<1x8xreal>, tensor<6x8xreal>"),
     "ir-attribute", "rank is 0"},
    {FUNC(W
          "%u, %d, %e = low_rank_split %w {rank = 2} : tensor<6x2xreal>, tensor<8x2xreal>, tensor<6x8xreal>"),
     "ir-shape", "expected tensor<2x8xreal>"},
#define SPLIT(attributes)                                                                                    \
    FUNC(W "%u, %d, %e = low_rank_split %w {rank = 2, " attributes                                           \
           "} : tensor<6x2xreal>, tensor<2x8xreal>, tensor<6x8xreal>")
    {SPLIT("rounds = -1, scheme = \"int8_channel\""), "ir-attribute", "rounds is -1"},
    {SPLIT("rounds = 1001, scheme = \"int8_channel\""), "ir-attribute", "expected 0 to 1000"},
    {SPLIT("rounds = 2"), "ir-attribute", "scheme is ''"},
    {SPLIT("rounds = 2, scheme = \"int8_token\""), "ir-attribute", "the type of a weight's codes"},
    {SPLIT("rounds = 2, scheme = \"bf16\""), "ir-attribute", "the type of a weight's codes"},
    {SPLIT("rounds = 2, scheme = \"int4_two_level_g64\""), "ir-shape", "rows of 8 elements do not fit"},
    {SPLIT("scheme = \"int8_channel\""), "ir-attribute", "for splits with rounds"},
    {SPLIT("clip = mse"), "ir-attribute", "for splits with rounds"},
    {FUNC(W "%u, %d = low_rank_split %w {rank = 2} : tensor<6x2xreal>, tensor<2x8xreal>"), "ir-type",
     "3 results"},
    {FUNC("%u, %d, %e = low_rank_split %x {rank = 2} : tensor<6x2xreal>, tensor<2x8xreal>, tensor<6x8xreal>"),
     "ir-type", "a real matrix"},
    {FUNC("%y = slice %x {axis = 1, begin = 4, end = 9} : tensor<Tx5xf32>"), "ir-shape", "4 to 9"},
    {FUNC("%y = slice %x {axis = 1, begin = 4, end = 4} : tensor<Tx1xf32>"), "ir-shape", "4 to 4"},
    {FUNC("%y = quantize %x : tensor<Tx8xint8_channel>"), "ir-type", "quantized to int8_token"},
    {FUNC(W "%y = quantize %w : tensor<6x8xint8_token>"), "ir-type", "quantized to a weight scheme"},
    {FUNC("%y = quantize %x {clip = mse} : tensor<Tx8xint8_token>"), "ir-attribute", "mse is for weights"},
    {FUNC("%y = dequantize %x : tensor<Tx8xf32>"), "ir-type", "quantized tensor"},
    {FUNC(W "%y = embedding %r, %i : tensor<Rx8xf32>"), "ir-type", "real or float tensor"},
    {FUNC(W "%y = embedding %x, %w : tensor<Tx8xf32>"), "ir-type", "vector of i32"},
    {FUNC("%y = take %x, %r : tensor<Tx8xf32>"), "ir-shape", "expected tensor<Rx8xf32>"},
    {FUNC("%w = weight \"w\" : tensor<8x6xreal> %y = linear %x, %w : tensor<Tx8xf32>"), "ir-shape",
     "differ in length"},
    {FUNC(W "%b = weight \"b\" : tensor<8xreal> %y = linear %x, %w, %b : tensor<Tx6xf32>"), "ir-shape",
     "bias"},
    {FUNC(W "%q = quantize %x : tensor<Tx8xint8_token> %y = linear %x, %q : tensor<Tx6xf32>"), "ir-type",
     "real or float numbers or of a weight's codes"},
    {FUNC(W "%q = quantize %x : tensor<Tx8xint8_token> %y = linear %q, %w : tensor<Tx6xf32>"), "ir-type",
     "a weight's codes, as operand 1 is int8_token"},
    {FUNC(W "%q = quantize %w : tensor<6x8xint4_group64> %y = linear %x, %q : tensor<Tx6xf32>"), "ir-shape",
     "multiple of 64 elements, found 8"},
    {FUNC("%q = materialized \"q\" : tensor<6x7xint4_channel> %y = dequantize %q : tensor<6x7xf32>"),
     "ir-shape", "multiple of 2 elements, found 7"},
    {FUNC("%q = materialized \"q\" : tensor<8xint4_channel> %y = silu %x : tensor<Tx8xf32>"), "ir-type",
     "is for matrices"},
    {FUNC("%g = weight \"g\" : tensor<6xreal> %y = rms_norm %x, %g {eps = 0.5} : tensor<Tx8xf32>"),
     "ir-shape", "the gain"},
    {FUNC("%z = take %x, %r : tensor<Rx8xf32> %y = add %x, %z : tensor<Tx8xf32>"), "ir-shape",
     "shapes differ"},
    {FUNC("%y = rope_table %i {base = 10000.0, dims = 3} : tensor<Tx3xf32>"), "ir-attribute", "even"},
    {FUNC("%y = rope_table %i {base = 0.0, dims = 2} : tensor<Tx2xf32>"), "ir-attribute", "positive"},
    {FUNC("%y = rope_table %i {base = 9.0, dims = 2, factor = 2.0} : tensor<Tx2xf32>"), "ir-attribute",
     "does not have the attribute 'factor'"},
    {FUNC("%y = rope_table %i {base = 9.0, dims = 2, scaling = linear} : tensor<Tx2xf32>"), "ir-attribute",
     "needs the attribute 'factor'"},
    {FUNC("%y = rope_table %i {base = 9.0, dims = 2, factor = 0.5, scaling = linear} : tensor<Tx2xf32>"),
     "ir-attribute", "at least 1"},
    {FUNC("%y = rope_table %i {base = 9.0, dims = 2, factor = 2.0, low = 1.0, scaling = linear} : "
          "tensor<Tx2xf32>"),
     "ir-attribute", "does not have the attribute 'low'"},
    {FUNC("%y = rope_table %i {base = 9.0, dims = 2, factor = 2.0, high = 1.0, low = 1.0, original = 8, "
          "scaling = llama3} : "
          "tensor<Tx2xf32>"),
     "ir-attribute", "0 < low < high"},
    {FUNC("%y = rms_norm %x {eps = 0.5, heads = 3} : tensor<Tx8xf32>"), "ir-shape", "3 heads"},
    {FUNC("%y = rms_norm %x {eps = 0.5, heads = 0} : tensor<Tx8xf32>"), "ir-attribute", "heads is 0"},
    {FUNC("%t = rope_table %i {base = 10000.0, dims = 6} : tensor<Tx6xf32> %y = rope %x, %t {heads = 2, "
          "style = half} : tensor<Tx8xf32>"),
     "ir-shape", "a head wide"},
    {FUNC("%t = rope_table %i {base = 10000.0, dims = 2} : tensor<Tx2xf32> %y = rope %x, %t {heads = 3, "
          "style = half} : tensor<Tx8xf32>"),
     "ir-shape", "not 3 heads"},
    {FUNC("%k = slice %x {axis = 1, begin = 0, end = 4} : tensor<Tx4xf32> %y = kv_append %kv, %k, %k, %i, %i "
          "{layer = 2} : kv<2x1x4xf32>"),
     "ir-attribute", "layer 2"},
    {FUNC("%y = kv_append %kv, %x, %x, %i, %i {layer = 1} : kv<2x1x4xf32>"), "ir-shape",
     "kv_heads * head_dim"},
    {FUNC("%k = slice %x {axis = 1, begin = 0, end = 4} : tensor<Tx4xf32> %y = kv_append %kv, %k, %k, %i, %r "
          "{layer = 1} : kv<2x1x4xf32>"),
     "ir-shape", "rows"},
    {FUNC("%k = slice %x {axis = 1, begin = 0, end = 4} : tensor<Tx4xf32> %y = kv_append %kv, %k, %k, %i, %i "
          "{layer = 0} : kv<2x1x4xf32> "
          "%z = kv_append %kv, %k, %k, %i, %i {layer = 1} : kv<2x1x4xf32>"),
     "ir-structure", "more than one kv_append"},
    {FUNC("%k = slice %x {axis = 1, begin = 0, end = 4} : tensor<Tx4xf32> %y = kv_append %kv, %k, %k, %i, %i "
          "{layer = 0} : kv<2x1x4xf32> "
          "%a = attention %x, %kv, %i, %i {heads = 2, layer = 0, scale = 0.5} : tensor<Tx8xf32>"),
     "ir-structure", "behind the kv_append"},
    {FUNC("%a = attention %x, %kv, %i, %i {heads = 3, layer = 0, scale = 0.5} : tensor<Tx8xf32>"), "ir-shape",
     "not 3 heads"},
    {FUNC("%a = attention %x, %kv, %i, %i {heads = 4, layer = 0, scale = 0.5} : tensor<Tx8xf32>"), "ir-shape",
     "differ in size"},
    {FUNC("%a = attention %x, %kv, %i, %r {heads = 2, layer = 0, scale = 0.5} : tensor<Tx8xf32>"), "ir-shape",
     "each row of operand 1"},
    {FUNC("%a = attention %x, %x, %i, %i {heads = 2, layer = 0, scale = 0.5} : tensor<Tx8xf32>"), "ir-type",
     "a kv cache"},
};

static void test_bad(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char head[64];
        messages.n = 0;
        if (verify_text(bad[i].text) != SYL_INPUT) fail_msg("case %zu passes: %s", i, bad[i].text);
        snprintf(head, sizeof head, "error[%s]", bad[i].name);
        if (!strstr(messages.p, head) || !strstr(messages.p, bad[i].message))
            fail_msg("case %zu: %s\nexpected %s ... %s, found\n%s", i, bad[i].text, head, bad[i].message,
                     messages.p);
    }
}

static void test_good(void **state) {
    (void)state;
    static const char *const good[] = {
        FUNC(""),
        FUNC("%y = silu %x : tensor<Tx8xbf16> %z = add %x, %y : tensor<Tx8xf16>"),
        FUNC(W "%a = cast %w : tensor<6x8xbf16> %b = linear %x, %a : tensor<Tx6xf32> %c = linear %x, %w : "
               "tensor<Tx6xbf16>"),
        FUNC(W "%q = quantize %w {clip = mse} : tensor<6x8xint8_channel> %p = quantize %x : "
               "tensor<Tx8xint8_token> %b = weight \"b\" : "
               "tensor<6xreal> %y = linear %p, %q, %b : tensor<Tx6xbf16>"),
        FUNC(W "%u, %d, %e = low_rank_split %w {rank = 6} : tensor<6x6xreal>, tensor<6x8xreal>, "
               "tensor<6x8xreal>"),
        PATCHES("height = 2, width = 2, patch = 1", "tensor<Rx2xf32>"),
        PATCHES("height = 2, width = 2, patch = 2", "tensor<Tx8xbf16>"),
        FUNC("%y = unpatchify %x {channels = 2, height = 4, patch = 2, width = 2} : tensor<Rx16xf32>"),
        SPLIT("rounds = 2, scheme = \"int4_channel\", clip = mse"),
        FUNC("%v = weight \"v\" : tensor<8xreal> %y = scale %x, %v {axis = 1} : tensor<Tx8xf32>"),
        FUNC(W "%u = concat %w, %w {axis = 0} : tensor<12x8xreal> %s = slice %u {axis = 0, begin = 3, end = "
               "9} : tensor<6x8xreal>"),
        FUNC("%y = hadamard %x {axis = 1, factors = [4]} : tensor<Tx8xf32> fused { yield }"),
        FUNC("%k = slice %x {axis = 1, begin = 0, end = 4} : tensor<Tx4xf32> %a, %c = fused : "
             "tensor<Tx8xf32>, kv<2x1x4xf32> { "
             "%b = attention %x, %kv, %i, %i {heads = 2, layer = 0, scale = 0.5} : tensor<Tx8xf32> "
             "%d = kv_append %kv, %k, %k, %i, %i {layer = 0} : kv<2x1x4xf32> yield %b, %d } "
             "%e = attention %x, %c, %i, %i {heads = 2, layer = 0, scale = 0.5} : tensor<Tx8xf32>"),
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        if (verify_text(good[i]) != SYL_OK) fail_msg("case %zu: %s", i, messages.p);
}

static void test_random(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 200; seed++) {
        ir_random r;
        syl_module *module = ir_random_module(seed, &r);
        if (verify(module) != SYL_OK) fail_msg("seed %d: %s", (int)seed, messages.p);
        syl_module_destroy(module);
    }
}

/* ---- graphs that no text gives ---- */

typedef struct small {
    syl_module *module;
    syl_func *func;
    syl_value *a, *b;
} small;

/* func @f(%x) { %a = silu %x; %b = add %a, %x; return %b } */
static small make_small(void) {
    small s = {.module = syl_module_create("m")};
    syl_type type = syl_tensor1(SYL_f32, syl_size(4));
    s.func = syl_func_create(s.module, "f", 1, &type, (const char *[]){"x"});
    syl_builder builder = syl_build_at_end(s.module, s.func->body);
    s.a = syl_build(&builder, SYL_OP_silu, type, 1, &s.func->args[0]);
    s.b = syl_build(&builder, SYL_OP_add, type, 2, s.a, &s.func->args[0]);
    syl_build_op(&builder, SYL_OP_return, 1, &s.b, 0, NULL);
    s.func->n_results = 1;
    s.func->result_types = SYL_NEW(&s.module->arena, syl_type);
    *s.func->result_types = type;
    return s;
}

static void refuse(small *s, const char *name, const char *message) {
    messages.n = 0;
    assert_int_equal(verify(s->module), SYL_INPUT);
    if (!strstr(messages.p, name) || !strstr(messages.p, message))
        fail_msg("expected %s ... %s, found\n%s", name, message, messages.p);
    syl_module_destroy(s->module);
}

static void test_graphs(void **state) {
    (void)state;
    small s = make_small();
    assert_int_equal(verify(s.module), SYL_OK);
    syl_op_move_before(s.b->def, s.a->def);
    refuse(&s, "ir-undefined", "not defined before it");

    s = make_small();
    small other = make_small();
    syl_op_set_operand(s.b->def, 0, &other.func->args[0]);
    refuse(&s, "ir-undefined", "not defined before it");
    syl_module_destroy(other.module);

    s = make_small();
    s.a->uses = NULL;
    refuse(&s, "ir-structure", "uses are listed");

    s = make_small();
    s.a->uses->index = 1;
    refuse(&s, "ir-structure", "");

    s = make_small();
    s.b->def->parent = NULL;
    refuse(&s, "ir-structure", "list of ops is broken");

    s = make_small();
    s.a->index = 3;
    refuse(&s, "ir-structure", "does not know where it is defined");

    s = make_small();
    syl_value_set_name(s.module, s.a, "no spaces");
    refuse(&s, "ir-name", "'%no spaces'");

    s = make_small();
    s.func->name = "1f";
    refuse(&s, "ir-name", "'@1f'");

    s = make_small();
    s.module->name = "";
    refuse(&s, "ir-name", "module name");

    s = make_small();
    s.func->args[0].type.dims[0].symbol = "t";
    refuse(&s, "ir-name", "'t'");

    s = make_small();
    s.func->args[0].type.rank = 5;
    refuse(&s, "ir-type", "a type that is none");

    s = make_small();
    syl_attr_set_float(s.module, s.a->def, "eps", 0.5);
    refuse(&s, "ir-attribute", "no attribute 'eps'");

    s = make_small();
    s.a->def->code = SYL_OP_rms_norm;
    syl_attr_set_float(s.module, s.a->def, "eps", NAN);
    refuse(&s, "ir-attribute", "not a finite number");

    s = make_small();
    s.a->def->code = SYL_OP_rms_norm;
    syl_attr_set_int(s.module, s.a->def, "eps", 1);
    refuse(&s, "ir-attribute", "must be a float");

    s = make_small();
    s.a->def->code = SYL_OP_fused;
    refuse(&s, "ir-structure", "has no region");
}

/* More problems than the diagnostics show are no trouble. */
static void test_many(void **state) {
    (void)state;
    syl_text text = {.arena = &arena};
    syl_text_printf(&text, "module @m { func @f(%%x: tensor<2xf32>) -> tensor<2xf32> { ");
    for (int i = 0; i < 100; i++) syl_text_printf(&text, "%%%d = silu %%x : tensor<3xf32> ", i);
    syl_text_printf(&text, "return %%x } }");
    assert_int_equal(verify_text(text.p), SYL_INPUT);
    int shown = 0;
    for (const char *c = messages.p; (c = strstr(c, "error[")) != NULL; c++) shown++;
    assert_int_equal(shown, 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_bad, setup, teardown),
        cmocka_unit_test_setup_teardown(test_good, setup, teardown),
        cmocka_unit_test_setup_teardown(test_random, setup, teardown),
        cmocka_unit_test_setup_teardown(test_graphs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
