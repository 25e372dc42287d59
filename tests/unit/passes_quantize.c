/* The passes that change numbers: what is quantized or rounded and what not, that it happens once, and how
 * large the error gets. */
#include "passes_testing.h"

/* ---- what is quantized ---- */

/* No op that runs reads real values; codes meet codes. */
static void check_types(const syl_block *block) {
    for (const syl_op *op = block->first; op; op = op->next) {
        if (op->body) check_types(op->body);
        bool rounds = op->code == SYL_OP_cast || op->code == SYL_OP_quantize ||
                      (op->n_results && op->results[0].type.dtype == SYL_real);
        for (int i = 0; i < op->n_operands; i++)
            assert_true(rounds || syl_operand(op, i)->type.dtype != SYL_real);
        if (op->code == SYL_OP_linear)
            assert_int_equal(syl_operand(op, 0)->type.dtype == SYL_int8_token,
                             syl_operand(op, 1)->type.dtype == SYL_int8_channel);
    }
}

static int count_linears(const syl_block *block, syl_dtype weight) {
    int n = 0;
    for (const syl_op *op = block->first; op; op = op->next) {
        n += op->code == SYL_OP_linear && syl_operand(op, 1)->type.dtype == weight;
        if (op->body) n += count_linears(op->body, weight);
    }
    return n;
}

static void recipes_quantize_what_they_say(void **state) {
    (void)state;
    static const struct {
        const char *recipe;
        syl_dtype weights, head;
    } cases[] = {{"f32", SYL_f32, SYL_f32},
                 {"bf16", SYL_bf16, SYL_bf16},
                 {"w8a8", SYL_int8_channel, SYL_bf16},
                 {"w8a8-plain", SYL_int8_channel, SYL_bf16},
                 {"f32-rotated", SYL_f32, SYL_f32}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (uint64_t seed = 0; seed < 40; seed++) {
            bench b;
            bench_open(&b);
            ir_random r;
            bench_sizes(seed, &r);
            syl_module *module = ir_random_build(&r);
            bench_run(&b, module, bench_recipe(&b, cases[i].recipe));
            const syl_block *body = module->funcs->body;
            check_types(body);
            int all = bench_count(body, SYL_OP_linear), head = cases[i].head == cases[i].weights ? 0 : 1;
            assert_int_equal(count_linears(body, cases[i].weights), all - head);
            if (head) assert_int_equal(count_linears(body, cases[i].head), 1);
            /* A table is one tensor, tied or not. */
            int tables = 0;
            for (const syl_op *op = body->first; op; op = op->next)
                if (op->code == SYL_OP_weight && strcmp(syl_attr_str(op, "name"), "token_embd.weight") == 0)
                    for (const syl_use *use = op->results[0].uses; use; use = use->next) tables++;
            assert_int_equal(tables, 1);
            syl_module_destroy(module);
            bench_close(&b);
        }
}

static void options_choose(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 40; seed++) {
        bench b;
        bench_open(&b);
        ir_random r;
        ir_random_sizes(seed, &r);
        syl_module *module = ir_random_build(&r);
        bench_run(
            &b, module,
            "quantize-weights{head=int8_channel clip=absmax},quantize-activations,round-weights{type=f16}");
        const syl_block *body = module->funcs->body;
        int all = bench_count(body, SYL_OP_linear);
        assert_int_equal(count_linears(body, SYL_int8_channel), all); /* a tied head has codes of its own */
        int tables = 0;
        for (const syl_op *op = body->first; op; op = op->next)
            tables += op->code == SYL_OP_embedding && syl_operand(op, 1)->type.dtype == SYL_f16;
        assert_int_equal(tables, 1);
        assert_null(strstr(bench_print(&b, module), "clip = mse"));
        syl_module_destroy(module);
        bench_close(&b);
    }
}

/* 4 bits where rows are whole groups: the head in 8; activations in codes (w4a8) or floats that meet codes (w4a16). */
static void four_bits(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 10; seed++)
        for (int floats = 0; floats < 2; floats++) {
            bench b;
            bench_open(&b);
            ir_random r;
            ir_random_sizes(seed, &r);
            r.layers = 1, r.width = 64, r.heads = 4, r.kv_heads = 2, r.head_dim = r.rope_dims = 16,
            r.hidden = 128;
            syl_module *module = ir_random_build(&r);
            bench_run(&b, module, bench_recipe(&b, floats ? "w4a16" : "w4a8"));
            const syl_block *body = module->funcs->body;
            int all = bench_count(body, SYL_OP_linear);
            assert_int_equal(count_linears(body, SYL_int4_two_level_g64), all - 1);
            assert_int_equal(count_linears(body, SYL_int8_channel), 1);
            assert_int_equal(bench_count(body, SYL_OP_dequantize), 0);
            assert_non_null(strstr(bench_print(&b, module), "clip = mse"));
            assert_int_equal(strstr(bench_print(&b, module), "int8_token") == NULL, floats);
            syl_module_destroy(module);
            bench_close(&b);
        }
}

static void groups_follow_the_rows(void **state) {
    (void)state;
    static const struct {
        const char *options;
        int cols;
        syl_dtype type;
    } cases[] = {{"scheme=int4_two_level", 2048, SYL_int4_two_level_g128},
                 {"scheme=int4_two_level", 2112, SYL_int4_two_level_g64},
                 {"scheme=int4_two_level", 1920, SYL_int4_two_level_g64},
                 {"scheme=int4_two_level group=64", 2048, SYL_int4_two_level_g64},
                 {"scheme=int4_group group=128", 256, SYL_int4_group128},
                 {"scheme=int4_group", 256, SYL_int4_group64},
                 {"scheme=int4_channel", 96, SYL_int4_channel},
                 {"scheme=int4_channel", 97, SYL_int8_channel},
                 {"scheme=int4_group", 96, SYL_int8_channel}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bench b;
        bench_open(&b);
        char text[512], pipeline[128];
        snprintf(
            text, sizeof text,
            "module @m {\n  source \"s\"\n  func @f(%%x: tensor<Tx%dxf32>) -> tensor<Tx8xf32> {\n"
            "    %%w = weight \"wide\" : tensor<8x%dxreal>\n    %%a = linear %%x, %%w : tensor<Tx8xf32>\n"
            "    %%b = silu %%a : tensor<Tx8xf32>\n    return %%b\n  }\n}\n",
            cases[i].cols, cases[i].cols);
        snprintf(pipeline, sizeof pipeline, "quantize-weights{%s}", cases[i].options);
        syl_module *module = bench_parse(&b, text);
        bench_run(&b, module, pipeline);
        bench_run(&b, module, "canonicalize,dce");
        assert_int_equal(count_linears(module->funcs->body, cases[i].type), 1);
        assert_int_equal(bench_said(&b, "weight 'wide' becomes int8_channel"),
                         cases[i].type == SYL_int8_channel);
        bench_run(&b, module, "quantize-activations"); /* also behind canonicalize */
        assert_int_equal(bench_count(module->funcs->body, SYL_OP_quantize), 2);
        syl_module_destroy(module);
        bench_close(&b);
    }
}

static void once_per_value(void **state) {
    (void)state;
    bench b;
    bench_open(&b);
    syl_module *module =
        bench_parse(&b, "module @m {\n  source \"s\"\n  func @f(%x: tensor<Tx8xf32>) -> tensor<Tx8xf32> {\n"
                        "    %w = weight \"w\" : tensor<8x8xreal>\n    %v = weight \"v\" : tensor<8x8xreal>\n"
                        "    %a = linear %x, %w : tensor<Tx8xf32>\n    %b = linear %a, %w : tensor<Tx8xf32>\n"
                        "    %c = linear %x, %v : tensor<Tx8xf32>\n    %d = add %b, %c : tensor<Tx8xf32>\n"
                        "    return %d\n  }\n}\n");
    bench_run(&b, module, "quantize-weights");
    const syl_block *body = module->funcs->body;
    assert_int_equal(bench_count(body, SYL_OP_quantize), 2);
    assert_int_equal(bench_count(body, SYL_OP_dequantize), 2);      /* weights only, and valid so */
    assert_non_null(strstr(bench_print(&b, module), "clip = mse")); /* the default */
    bench_run(&b, module, "quantize-activations");
    assert_int_equal(bench_count(body, SYL_OP_dequantize), 0);
    assert_int_equal(bench_count(body, SYL_OP_quantize), 4); /* w, v, x, a */
    assert_int_equal(count_linears(body, SYL_int8_channel), 3);
    syl_module_destroy(module);
    bench_close(&b);
}

/* ---- errors ---- */

typedef struct outliers {
    ir_random *r;
    double factor; /* of one channel in 16 of the norms' gains and of the gated activation */
} outliers;

static syl_status weights_with_outliers(void *user, const char *name, int64_t source, const syl_type *type,
                                        syl_diag *diag, double *out) {
    const outliers *o = user;
    SYL_TRY(ir_random_weights(o->r, name, source, type, diag, out));
    int64_t rows = type->dims[0].size, cols = type->rank == 2 ? type->dims[1].size : 1;
    bool grows = strstr(name, "norm") || strstr(name, "ffn_up"),
         shrinks = strstr(name, "attn_q") || strstr(name, "attn_k") || strstr(name, "attn_v") ||
                   strstr(name, "ffn_gate") || strstr(name, "ffn_up") || strstr(name, "ffn_down");
    for (int64_t i = 0; i < rows * cols && !strstr(name, "bias"); i++) {
        if (grows && i / cols % 16 == 3) out[i] *= o->factor;
        if (shrinks && i % cols % 16 == 3) out[i] /= o->factor;
    }
    return SYL_OK;
}

/* The error of the logits of a recipe, or of a pipeline, against the module as it was, both in `precision`. */
static double recipe_error(uint64_t seed, const char *recipe, double factor, syl_ref_precision precision) {
    bench b;
    bench_open(&b);
    ir_random r;
    ir_random_sizes(seed, &r);
    r.layers = 1, r.width = 48, r.heads = 3, r.kv_heads = 1, r.head_dim = r.rope_dims = 16, r.hidden = 96,
    r.gains = true;
    outliers o = {&r, factor};
    syl_ref_weights weights = {&o, weights_with_outliers, NULL};
    syl_module *module = ir_random_build(&r);
    ir_random_outputs before = ir_random_run_with(module, &r, &weights, precision, b.diag);
    bench_run(&b, module, strchr(recipe, ',') ? recipe : bench_recipe(&b, recipe));
    ir_random_outputs after = ir_random_run_with(module, &r, &weights, precision, b.diag);
    if (before.status != SYL_OK || after.status != SYL_OK) fail_msg("%s", b.messages.p);
    double error = ir_random_error(&before, &after);
    ir_random_free(&before), ir_random_free(&after);
    syl_module_destroy(module);
    bench_close(&b);
    return error;
}

static void errors_are_those_of_the_formats(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 10; seed++) {
        assert_true(recipe_error(seed, "f32", 1, SYL_REF_F64) == 0);
        assert_true(recipe_error(seed, "f32-rotated", 1, SYL_REF_F64) < 1e-10);
        double f32 = recipe_error(seed, "f32-rotated", 1, SYL_REF_F32),
               bf16 = recipe_error(seed, "bf16", 1, SYL_REF_F32);
        double w8a8 = recipe_error(seed, "w8a8", 1, SYL_REF_F64);
        assert_true(f32 < 1e-5);
        assert_true(bf16 > 1e-4 && bf16 < 5e-2);
        assert_true(w8a8 > 1e-4 && w8a8 < 1e-1);
    }
}

/* Channels 100 times as large as the others take the bits of their row; folding and rotating give them back. */
static void rotations_remove_outliers(void **state) {
    (void)state;
    double plain = 0, rotated = 0;
    for (uint64_t seed = 0; seed < 10; seed++) {
        plain +=
            recipe_error(seed, "group,quantize-weights,quantize-activations,round-weights", 100, SYL_REF_F64);
        rotated += recipe_error(seed, "w8a8", 100, SYL_REF_F64);
    }
    if (!(rotated < plain / 4)) fail_msg("plain %g, rotated %g", plain / 10, rotated / 10);
}

/* Gains and biases are added in f32: rounding them would cost accuracy and save nothing. */
static void vectors_stay_f32(void **state) {
    (void)state;
    bench b;
    bench_open(&b);
    ir_random r;
    syl_module *module = ir_random_module(3, &r);
    bench_run(&b, module, "round-weights{type=bf16}");
    int vectors = 0, matrices = 0;
    for (const syl_op *op = module->funcs->body->first; op; op = op->next) {
        if (op->code != SYL_OP_cast) continue;
        bool is_vector = op->results[0].type.rank == 1;
        assert_int_equal(op->results[0].type.dtype, is_vector ? SYL_f32 : SYL_bf16);
        vectors += is_vector, matrices += !is_vector;
    }
    assert_true(vectors > 0 && matrices > 0);
    syl_module_destroy(module);
    bench_close(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recipes_quantize_what_they_say),
        cmocka_unit_test(options_choose),
        cmocka_unit_test(four_bits),
        cmocka_unit_test(groups_follow_the_rows),
        cmocka_unit_test(once_per_value),
        cmocka_unit_test(errors_are_those_of_the_formats),
        cmocka_unit_test(rotations_remove_outliers),
        cmocka_unit_test(vectors_stay_f32),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
