/* Lowering: fused regions to kernels and steps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "codegen/host/host.h"
#include "codegen/plan.h"

#define MODEL_HEAD                                                                                           \
    "module @tiny {\n"                                                                                       \
    "  func @forward(%ids: tensor<Txi32>, %pos: tensor<Txi32>, %seq: tensor<Txi32>, %rows: tensor<Rxi32>, "  \
    "%kv: kv<2x1x16xf32>) -> (tensor<Rx40xf32>, kv<2x1x16xf32>) {\n"                                         \
    "    %table = materialized \"table\" : tensor<40x32xbf16>\n"                                             \
    "    %w0 = materialized \"w0\" : tensor<32x32xint8_channel>\n"                                           \
    "    %w1 = materialized \"w1\" : tensor<32x32xint8_channel>\n"                                           \
    "    %b = materialized \"b\" : tensor<32xf32>\n"                                                         \
    "    %x = fused {slots = [0]} : tensor<Tx32xf32> {\n"                                                    \
    "      %e = embedding %ids, %table : tensor<Tx32xf32>\n"                                                 \
    "      yield %e\n"                                                                                       \
    "    }\n"
#define LAYER(in, out, w, bias, q_slot, out_slot)                                                            \
    "    %q" w " = fused {slots = [" q_slot "]} : tensor<Tx32xint8_token> {\n"                               \
    "      %n" w " = rms_norm %" in " {eps = 1e-05} : tensor<Tx32xf32>\n"                                    \
    "      %c" w " = quantize %n" w " : tensor<Tx32xint8_token>\n"                                           \
    "      yield %c" w "\n"                                                                                  \
    "    }\n"                                                                                                \
    "    %" out " = fused {slots = [" out_slot "]} : tensor<Tx32xf32> {\n"                                   \
    "      %y" w " = linear %q" w ", %" w bias " : tensor<Tx32xf32>\n"                                       \
    "      %r" w " = add %y" w ", %" in " : tensor<Tx32xf32>\n"                                              \
    "      yield %r" w "\n"                                                                                  \
    "    }\n"
#define MODEL_TAIL(x)                                                                                        \
    "    %last = fused {slots = [3]} : tensor<Rx32xf32> {\n"                                                 \
    "      %t = take %" x ", %rows : tensor<Rx32xf32>\n"                                                     \
    "      yield %t\n"                                                                                       \
    "    }\n"                                                                                                \
    "    %logits = fused {slots = [-1]} : tensor<Rx40xf32> {\n"                                              \
    "      %l = linear %last, %table : tensor<Rx40xf32>\n"                                                   \
    "      yield %l\n"                                                                                       \
    "    }\n"                                                                                                \
    "    return %logits, %kv\n"                                                                              \
    "  }\n"                                                                                                  \
    "}\n"

typedef struct lowered {
    syl_arena arena;
    syl_text errors;
    syl_source source;
    syl_module *module;
    syl_plan *plan;
    syl_status status;
} lowered;

static void lower(lowered *l, const char *text, bool verify) {
    *l = (lowered){.source = {"test.sir", text, strlen(text)}};
    l->errors.arena = &l->arena;
    syl_diag *diag = syl_diag_create(syl_diag_capture, &l->errors);
    syl_host_target target = {
        .int8_dot = KIR_DOT_VNNI, .vector_registers = 32, .vector_floats = 16, .fma = true};
    if (syl_module_parse(&l->source, diag, &l->module) != SYL_OK) fail_msg("%s", l->errors.p);
    if (verify && syl_module_verify(l->module, diag) != SYL_OK) fail_msg("%s", l->errors.p);
    l->status = syl_plan_create(l->module, &target, diag, &l->plan);
    syl_diag_destroy(diag);
}

static void lowered_free(lowered *l) {
    syl_plan_destroy(l->plan);
    syl_module_destroy(l->module);
    syl_arena_free(&l->arena);
}

static void equal_layers_share_kernels(void **state) {
    (void)state;
    lowered l;
    lower(&l,
          MODEL_HEAD LAYER("x", "x1", "w0", "", "1", "2") LAYER("x1", "x2", "w1", "", "1", "0")
              MODEL_TAIL("x2"),
          true);
    if (l.status != SYL_OK) fail_msg("%s", l.errors.p);
    assert_int_equal(l.plan->steps.n, 7);
    assert_int_equal(l.plan->kernels.n, 5); /* embedding, norm + quantize, linear + add, take, head */
    assert_int_equal(l.plan->steps.p[1].kernel, l.plan->steps.p[3].kernel);
    assert_int_equal(l.plan->steps.p[2].kernel, l.plan->steps.p[4].kernel);
    assert_int_equal(l.plan->steps.p[6].rows, SYL_ROWS_R);
    assert_int_equal(l.plan->vocab, 40);
    /* slot 1 holds codes (32 bytes a row) and their scales */
    assert_int_equal(l.plan->slots.p[2].row_bytes, 32);
    assert_int_equal(l.plan->slots.p[3].row_bytes, 4);
    /* the table is stored once, read as rows by the embedding and packed by the head */
    int tables = 0;
    for (size_t i = 0; i < l.plan->weights.n; i++) tables += strcmp(l.plan->weights.p[i].name, "table") == 0;
    assert_int_equal(tables, 2);
    lowered_free(&l);
}

static void bias_changes_the_kernel(void **state) {
    (void)state;
    lowered l;
    lower(&l,
          MODEL_HEAD LAYER("x", "x1", "w0", "", "1", "2") LAYER("x1", "x2", "w1", ", %b", "1", "0")
              MODEL_TAIL("x2"),
          true);
    if (l.status != SYL_OK) fail_msg("%s", l.errors.p);
    assert_int_equal(l.plan->kernels.n, 6);
    lowered_free(&l);
}

static void overlapping_slots_are_refused(void **state) {
    (void)state;
    lowered l;
    /* %x1 is put where %x lies, which its own residual add still reads */
    lower(&l, MODEL_HEAD LAYER("x", "x1", "w0", "", "1", "0") MODEL_TAIL("x1"), true);
    assert_int_equal(l.status, SYL_UNSUPPORTED);
    assert_non_null(strstr(l.errors.p, "lower-unsupported"));
    assert_non_null(strstr(l.errors.p, "its slot still holds a value"));
    lowered_free(&l);
}

static void missing_slots_are_refused(void **state) {
    (void)state;
    lowered l;
    lower(&l,
          MODEL_HEAD "    %n = fused : tensor<Tx32xf32> {\n      %s = silu %x : tensor<Tx32xf32>\n      "
                     "yield %s\n    }\n" MODEL_TAIL("n"),
          true);
    assert_int_equal(l.status, SYL_UNSUPPORTED);
    assert_non_null(strstr(l.errors.p, "plan-memory"));
    lowered_free(&l);
}

static void unfused_ops_are_refused(void **state) {
    (void)state;
    lowered l;
    lower(&l, MODEL_HEAD "    %s = silu %x : tensor<Tx32xf32>\n" MODEL_TAIL("s"), true);
    assert_int_equal(l.status, SYL_UNSUPPORTED);
    assert_non_null(strstr(l.errors.p, "run the pass fuse"));
    lowered_free(&l);
}

static int count(const char *text, const char *what) {
    int n = 0;
    for (const char *p = text; (p = strstr(p, what)); p += strlen(what)) n++;
    return n;
}

static void plans_and_kernels_print(void **state) {
    (void)state;
    lowered l;
    lower(&l, MODEL_HEAD LAYER("x", "x1", "w0", "", "1", "2") MODEL_TAIL("x1"), true);
    if (l.status != SYL_OK) fail_msg("%s", l.errors.p);
    syl_text text = {.arena = &l.arena};
    syl_plan_print(l.plan, &text);
    assert_int_equal(count(text.p, "over T"), 3);
    assert_int_equal(count(text.p, "over R"), 2);
    assert_int_equal(count(text.p, "weight w0 packed"), 1);
    text.n = 0;
    kir_print(l.plan->kernels.p[1], &text);
    assert_int_equal(count(text.p, "stage"), 3); /* sum of squares; absmax; codes */
    assert_int_equal(count(text.p, "reduce_"), 2);
    lowered_free(&l);
}

/* y = exp(x) and z = x * 2, both needed after a reduction of y: the heavy one is kept, the light one computed
 * again. */
static void schedule_keeps_heavy_values(void **state) {
    (void)state;
    syl_arena arena;
    syl_arena_init(&arena);
    kir_kernel kernel = {.kind = KIR_ROWS, .name = "test", .cols = 32};
    int in = kir_add_buffer(&arena, &kernel, (kir_buffer){"x", KIR_MATRIX, KIR_F32, 32, 32, false});
    int out = kir_add_buffer(&arena, &kernel, (kir_buffer){"y", KIR_MATRIX, KIR_F32, 32, 32, true});
    int x = kir_emit(&arena, &kernel, (kir_inst){.op = KIR_load, .buffer = in});
    int heavy = kir_emit(&arena, &kernel, (kir_inst){.op = KIR_exp, .args = {x}, .buffer = -1});
    int two = kir_emit(&arena, &kernel, (kir_inst){.op = KIR_imm, .f = 2, .buffer = -1});
    int light = kir_emit(&arena, &kernel, (kir_inst){.op = KIR_mul, .args = {x, two}, .buffer = -1});
    int sum = kir_emit(&arena, &kernel, (kir_inst){.op = KIR_reduce_sum, .args = {heavy}, .buffer = -1});
    int a = kir_emit(&arena, &kernel, (kir_inst){.op = KIR_fma, .args = {heavy, sum, light}, .buffer = -1});
    kir_emit(&arena, &kernel, (kir_inst){.op = KIR_store, .args = {a}, .buffer = out});
    assert_int_equal(kir_verify(&kernel, NULL), SYL_OK);
    int stage[7];
    bool keep[7];
    kir_schedule(&kernel, stage, keep);
    assert_int_equal(stage[heavy], 0);
    assert_int_equal(stage[a], 1);
    assert_true(keep[heavy]);
    assert_false(keep[light]);
    assert_false(keep[x]);
    assert_int_equal(kernel.body.p[sum].role, KIR_ROW);
    assert_int_equal(kernel.body.p[a].role, KIR_ELEM);
    kernel.body.p[light].args[0] = a;
    assert_int_equal(kir_verify(&kernel, NULL), SYL_INTERNAL);
    syl_arena_free(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_layers_share_kernels),    cmocka_unit_test(bias_changes_the_kernel),
        cmocka_unit_test(overlapping_slots_are_refused), cmocka_unit_test(missing_slots_are_refused),
        cmocka_unit_test(unfused_ops_are_refused),       cmocka_unit_test(plans_and_kernels_print),
        cmocka_unit_test(schedule_keeps_heavy_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
