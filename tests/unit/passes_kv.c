/* The KV cache as codes: rotate-keys and quantize-kv do their work once, and lose what their bits say. */
#include "passes_testing.h"

/* The two hadamards of a layer span whole heads however often the passes run, and 4 bits are clipped. */
static void caches_are_quantized_once(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        bench b;
        bench_open(&b);
        ir_random r;
        syl_module *module = ir_random_module(seed, &r);
        bench_run(&b, module, "rotate-keys,quantize-kv{k=int4},rotate-keys,quantize-kv{k=int8 v=int4},fuse");
        int hadamards = 0, appends = 0;
        for (const syl_op *fused = module->funcs->body->first; fused; fused = fused->next)
            for (const syl_op *op = fused->body ? fused->body->first : NULL; op; op = op->next) {
                if (op->code == SYL_OP_hadamard) {
                    const syl_attr *factors = syl_attr_get(op, "factors");
                    int64_t n = 1;
                    for (int i = 0; i < factors->ints.n; i++) n *= factors->ints.p[i];
                    assert_int_equal(n, r.head_dim);
                    hadamards++;
                }
                if (op->code != SYL_OP_kv_append) continue;
                const syl_type *type = &fused->results[0].type;
                assert_true(type->k.bits == 4 && type->v.bits == 8 && type->k.group == r.head_dim);
                assert_true(syl_attr_float(op, "k_clip") == 0.95 && !syl_attr_get(op, "v_clip"));
                appends++;
            }
        assert_int_equal(appends, r.layers);
        assert_int_equal(hadamards, 2 * r.layers);
        syl_module_destroy(module);
        bench_close(&b);
    }
}

/* The mean error over random models, relative to the largest logit. */
static double error_of(const char *passes) {
    enum { models = 10 };
    double sum = 0;
    for (uint64_t seed = 0; seed < models; seed++) {
        bench b;
        bench_open(&b);
        ir_random r;
        ir_random_sizes(seed, &r);
        r.layers = 1, r.kv_heads = 2, r.heads = 4, r.head_dim = r.rope_dims = 16;
        syl_module *module = ir_random_build(&r);
        ir_random_outputs before = ir_random_run(module, &r, SYL_REF_F64, b.diag);
        bench_run(&b, module, passes);
        ir_random_outputs after = ir_random_run(module, &r, SYL_REF_F64, b.diag);
        sum += ir_random_error(&before, &after);
        ir_random_free(&before), ir_random_free(&after);
        syl_module_destroy(module);
        bench_close(&b);
    }
    return sum / models;
}

static void errors_are_those_of_the_bits(void **state) {
    (void)state;
    double kv8 = error_of("rotate-keys,quantize-kv"),
           kv4 = error_of("rotate-keys,quantize-kv{k=int4 v=int4}");
    double keys = error_of("quantize-kv{k=int4 v=none}"), values = error_of("quantize-kv{k=none v=int4}");
    if (!(kv8 > 0 && kv8 < 0.03 && kv4 > 4 * kv8 && kv4 < 0.3)) fail_msg("8 bits %g, 4 bits %g", kv8, kv4);
    if (!(keys > kv8 && values > kv8 && keys < 0.3 && values < 0.3))
        fail_msg("keys %g, values %g", keys, values);
    assert_true(error_of("quantize-kv{k=none v=none}") == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(caches_are_quantized_once),
        cmocka_unit_test(errors_are_those_of_the_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
