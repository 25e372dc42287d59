/* split-low-rank beside the quantize passes: what stays in floats, what becomes codes, and what the split computes. */
#include "passes_testing.h"
#include "base/numeric.h"

/* Each quantized linear has a branch of two in bf16. */
static void branches_stay_in_bf16(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 10; seed++) {
        bench b;
        bench_open(&b);
        ir_random r;
        ir_random_sizes(seed, &r);
        syl_module *module = ir_random_build(&r);
        bench_run(
            &b, module,
            "fold-norms,group,split-low-rank{rank=2},quantize-weights,quantize-activations,round-weights");
        int codes = 0, branches = 0;
        for (const syl_op *op = module->funcs->body->first; op; op = op->next) {
            if (op->code != SYL_OP_linear) continue;
            const syl_op *w = syl_operand(op, 1)->def;
            bool split = w->n_operands && syl_op_is(syl_operand(w, 0)->def, SYL_OP_low_rank_split);
            codes += split && w->code == SYL_OP_quantize && syl_operand(w, 0)->index == 2;
            branches += split && w->code == SYL_OP_cast && syl_operand(w, 0)->index < 2 &&
                        syl_result(w)->type.dtype == SYL_bf16;
        }
        assert_true(codes > 0);
        assert_int_equal(branches, 2 * codes);
        assert_int_equal(bench_count(module->funcs->body, SYL_OP_low_rank_split), codes);
        syl_module_destroy(module);
        bench_close(&b);
    }
}

/* Rounds name the type that quantize-weights will choose: that of the scheme, or int8_channel where rows do not fit it. */
static void rounds_take_what_codes_will_be(void **state) {
    (void)state;
    bench b;
    bench_open(&b);
    ir_random r;
    ir_random_sizes(3, &r);
    syl_module *module = ir_random_build(&r);
    bench_run(
        &b, module,
        "split-low-rank{rank=2 rounds=1 scheme=int4_two_level},quantize-weights{scheme=int4_two_level}");
    int splits = 0;
    for (const syl_op *op = module->funcs->body->first; op; op = op->next) {
        if (op->code != SYL_OP_quantize || !syl_op_is(syl_operand(op, 0)->def, SYL_OP_low_rank_split))
            continue;
        const char *scheme = syl_attr_str(syl_operand(op, 0)->def, "scheme");
        assert_string_equal(scheme, syl_dtypes[syl_result(op)->type.dtype].name);
        splits++;
    }
    assert_true(splits > 0);
    syl_module_destroy(module);
    bench_close(&b);
}

static syl_status weight_of(void *user, const char *name, int64_t source, const syl_type *type,
                            syl_diag *diag, double *out) {
    (void)name, (void)source, (void)diag;
    int64_t n = type->dims[0].size * type->dims[1].size;
    for (int64_t i = 0; i < n; i++)
        out[i] = (double)ir_random_mix((uint64_t)i + *(const uint64_t *)user) / 0x1p63 - 1;
    if (*(const uint64_t *)user == 99) out[n / 2] = NAN;
    return SYL_OK;
}

/* Runs @forward of a split of a 20 x 12 weight in float64: results are U, D and R as they would be stored. */
static syl_status run_split(const char *attributes, uint64_t seed, double *u, double *d, double *r) {
    bench b;
    bench_open(&b);
    syl_module *module = bench_parse(
        &b, syl_arena_printf(
                &b.arena,
                "module @m {\n  source \"s\"\n  func @forward() -> (tensor<20x3xbf16>, tensor<3x12xbf16>, "
                "tensor<20x12xf32>) {\n    %%w = weight \"w\" : tensor<20x12xreal>\n"
                "    %%u, %%d, %%r = low_rank_split %%w {rank = 3%s} : tensor<20x3xreal>, "
                "tensor<3x12xreal>, tensor<20x12xreal>\n    %%a = cast %%u : tensor<20x3xbf16>\n"
                "    %%b = cast %%d : tensor<3x12xbf16>\n    %%c = cast %%r : tensor<20x12xf32>\n"
                "    return %%a, %%b, %%c\n  }\n}\n",
                attributes));
    assert_int_equal(syl_module_verify(module, b.diag), SYL_OK);
    syl_ref_weights weights = {.user = &seed, .weight = weight_of};
    syl_ref_value results[3];
    syl_status status = syl_ref_run(module->funcs, NULL, 0, &weights, SYL_REF_F64, b.diag, results);
    if (status == SYL_OK) {
        memcpy(u, results[0].tensor->data, 60 * sizeof *u);
        memcpy(d, results[1].tensor->data, 36 * sizeof *d);
        memcpy(r, results[2].tensor->data, 240 * sizeof *r);
        for (int i = 0; i < 3; i++) syl_ref_tensor_release(results[i].tensor);
    }
    syl_module_destroy(module);
    bench_close(&b);
    return status;
}

static bool all_bf16(const double *x, int n) {
    for (int i = 0; i < n; i++)
        if (x[i] != syl_bf16_to_f32(syl_bf16_from_f64(x[i]))) return false;
    return true;
}

static void parts_add_up(void **state) {
    (void)state;
    double u[60], d[36], r[240], w[240];
    for (uint64_t seed = 0; seed < 20; seed++) {
        syl_type type = syl_tensor2(SYL_real, syl_size(20), syl_size(12));
        assert_int_equal(weight_of(&seed, "w", 0, &type, NULL, w), SYL_OK);
        for (int rounds = 0; rounds < 2; rounds++) {
            assert_int_equal(run_split(rounds ? ", round = bf16" : "", seed, u, d, r), SYL_OK);
            assert_int_equal(all_bf16(u, 60), rounds);
            assert_int_equal(all_bf16(d, 36), rounds);
            double left = 0, whole = 0;
            for (int i = 0; i < 240; i++) {
                double sum = r[i];
                for (int k = 0; k < 3; k++) sum += u[i / 12 * 3 + k] * d[k * 12 + i % 12];
                assert_true(fabs(sum - w[i]) <= 1e-12);
                left += r[i] * r[i], whole += w[i] * w[i];
            }
            assert_true(left < 0.8 * whole); /* 3 of 12 directions, the largest ones */
        }
    }
}

/* Squared error of a residual's codes. */
static double error_of(syl_dtype scheme, bool mse, const double *r) {
    int8_t codes[240];
    float scales[20];
    uint8_t group_scale[20], group_zero[20];
    double error = 0;
    assert_true(
        syl_ref_quantize(r, 20, 12, scheme, mse, &(syl_ref_codes){codes, scales, group_scale, group_zero}));
    for (int i = 0; i < 240; i++)
        error += (r[i] - codes[i] * scales[i / 12]) * (r[i] - codes[i] * scales[i / 12]);
    return error;
}

/* With rounds the parts still add up, and the codes of the residual lose less: never more, whatever the number of rounds. */
static void rounds_lose_less(void **state) {
    (void)state;
    double u[60], d[36], r[240], w[240], first = 0, best = 0;
    for (uint64_t seed = 0; seed < 20; seed++) {
        syl_type type = syl_tensor2(SYL_real, syl_size(20), syl_size(12));
        assert_int_equal(weight_of(&seed, "w", 0, &type, NULL, w), SYL_OK);
        assert_int_equal(run_split(", round = bf16", seed, u, d, r), SYL_OK);
        double least = error_of(SYL_int4_channel, true, r);
        first += least;
        for (int rounds = 1; rounds < 9; rounds++) {
            char text[100];
            snprintf(text, sizeof text, ", round = bf16, rounds = %d, scheme = \"int4_channel\", clip = mse",
                     rounds);
            assert_int_equal(run_split(text, seed, u, d, r), SYL_OK);
            assert_true(all_bf16(u, 60) && all_bf16(d, 36));
            for (int i = 0; i < 240; i++) {
                double sum = r[i] - w[i];
                for (int k = 0; k < 3; k++) sum += u[i / 12 * 3 + k] * d[k * 12 + i % 12];
                assert_true(fabs(sum) <= 1e-12);
            }
            double error = error_of(SYL_int4_channel, true, r);
            assert_true(error <= least * (1 + 1e-6)); /* r came back as f32 */
            least = error;
        }
        best += least;
    }
    assert_true(best < 0.8 * first);
}

static void bad_numbers_are_an_error(void **state) {
    (void)state;
    double u[60], d[36], r[240];
    assert_int_equal(run_split("", 99, u, d, r), syl_error_status(SYL_ERR_ir_low_rank));
}

static void options_are_checked(void **state) {
    (void)state;
    bench b;
    bench_open(&b);
    ir_random r;
    ir_random_sizes(1, &r);
    syl_module *module = ir_random_build(&r);
    assert_int_not_equal(bench_run_with(&b, module, "split-low-rank{rank=0}", NULL), SYL_OK);
    assert_non_null(strstr(b.messages.p, "pass-option"));
    assert_int_not_equal(bench_run_with(&b, module, "split-low-rank{rounds=1001}", NULL), SYL_OK);
    assert_non_null(strstr(b.messages.p, "at most 1000"));
    syl_module_destroy(module);
    bench_close(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(branches_stay_in_bf16),          cmocka_unit_test(parts_add_up),
        cmocka_unit_test(rounds_take_what_codes_will_be), cmocka_unit_test(rounds_lose_less),
        cmocka_unit_test(bad_numbers_are_an_error),       cmocka_unit_test(options_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
