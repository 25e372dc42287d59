/* Whole regions through lowering and generated code, against the reference in f32: the ops of diffusion transformers, alone and fused as the
 * pass makes them. Every target, row counts and widths off the vector size. */
#include "codegen_testing.h"
#include <math.h>
#include "codegen/plan.h"
#include "ir/ref/ref.h"

enum { MAX = 8 };

typedef struct testing {
    syl_arena arena;
    syl_text errors;
    syl_source source;
    syl_module *module;
    const syl_func *func;
    syl_diag *diag;
    int64_t sizes[2]; /* of the symbols T and B */
    int32_t limit;    /* i32 arguments are below it */
    syl_ref_value args[MAX];
    void *inputs[MAX]; /* the same as the kernels read them */
} testing;

static int64_t size_of(const testing *t, syl_dim dim) {
    return !dim.symbol ? dim.size : t->sizes[dim.symbol[0] == 'B'];
}

/* Stored vectors: element k is (k mod 7) / 4 - 0.5. */
static double stored(int64_t k) {
    return (double)(k % 7) / 4 - 0.5;
}

static syl_status give_stored(void *user, const char *name, const syl_type *type, syl_diag *diag,
                              syl_ref_tensor *out) {
    (void)user, (void)name, (void)type, (void)diag;
    for (int64_t k = 0; k < syl_ref_tensor_elements(out); k++) out->data[k] = stored(k);
    return SYL_OK;
}

static void make_argument(testing *t, int i) {
    const syl_type *type = &t->func->args[i].type;
    int64_t dims[SYL_MAX_RANK];
    for (int d = 0; d < type->rank; d++) dims[d] = size_of(t, type->dims[d]);
    syl_ref_tensor *x = syl_ref_tensor_create(type->dtype, type->rank, dims);
    assert_non_null(x);
    int64_t n = syl_ref_tensor_elements(x);
    t->inputs[i] = new_buffer((size_t)n * 4);
    for (int64_t k = 0; k < n; k++) {
        if (type->dtype == SYL_i32) {
            x->ints[k] = ((int32_t *)t->inputs[i])[k] = (int32_t)(random_bits() % (uint64_t)t->limit);
        } else {
            x->data[k] = ((float *)t->inputs[i])[k] = 3 * random_float();
        }
    }
    t->args[i] = (syl_ref_value){.tensor = x};
}

static void start(testing *t, const char *text, int64_t rows, int64_t samples) {
    *t = (testing){
        .source = {"test.sir", text, strlen(text)}, .sizes = {rows, samples}, .limit = (int32_t)samples};
    t->errors.arena = &t->arena;
    t->diag = syl_diag_create(syl_diag_capture, &t->errors);
    if (syl_module_parse(&t->source, t->diag, &t->module) != SYL_OK ||
        syl_module_verify(t->module, t->diag) != SYL_OK)
        fail_msg("%s", t->errors.p);
    t->func = syl_module_func(t->module, "forward");
    for (int i = 0; i < t->func->n_args; i++) make_argument(t, i);
}

static void stop(testing *t) {
    for (int i = 0; i < t->func->n_args; i++) {
        check_slack(t->inputs[i], (size_t)syl_ref_tensor_elements(t->args[i].tensor) * 4);
        free(t->inputs[i]);
        syl_ref_tensor_release(t->args[i].tensor);
    }
    syl_module_destroy(t->module);
    syl_diag_destroy(t->diag);
    syl_arena_free(&t->arena);
}

/* Runs the plan's steps, each cut into two ranges of tasks; one result, no weights but vectors. T is the first symbol. */
static void run_plan(testing *t, const syl_host_target *target, float *out) {
    syl_plan *plan;
    syl_host_code *code;
    if (syl_plan_create(t->module, target, t->diag, &plan) != SYL_OK ||
        syl_host_compile(plan, target, &(syl_host_options){.threads = 1}, t->diag, NULL, &code) != SYL_OK)
        fail_msg("%s", t->errors.p);
    void *slots[32] = {0};
    for (size_t i = 0; i < plan->slots.n; i++)
        slots[i] = new_buffer((size_t)(t->sizes[plan->slots.p[i].rows] * plan->slots.p[i].row_bytes));
    float *vector = new_buffer(1024 * 4);
    for (int64_t k = 0; k < 1024; k++) vector[k] = (float)stored(k);
    for (size_t i = 0; i < plan->steps.n; i++) {
        const syl_plan_step *step = &plan->steps.p[i];
        const kir_kernel *kernel = plan->kernels.p[step->kernel];
        void *buffers[16], *scratch = new_buffer((size_t)kir_scratch(kernel));
        for (int a = 0; a < step->n_args; a++) {
            const syl_plan_arg *arg = &step->args[a];
            unsigned char *base = arg->kind == SYL_ARG_INPUT    ? t->inputs[arg->index]
                                  : arg->kind == SYL_ARG_OUTPUT ? (void *)out
                                  : arg->kind == SYL_ARG_WEIGHT ? (void *)vector
                                                                : slots[arg->index];
            buffers[a] = base + arg->offset;
        }
        int64_t rows = t->sizes[step->rows], tasks = kir_tasks(kernel, rows);
        kir_function f = syl_host_function(code, step->kernel);
        f(buffers, rows, tasks / 3, tasks, scratch);
        f(buffers, rows, 0, tasks / 3, scratch);
        check_slack(scratch, (size_t)kir_scratch(kernel));
        free(scratch);
    }
    for (size_t i = 0; i < plan->slots.n; i++) free(slots[i]);
    free(vector);
    syl_host_code_destroy(code);
    syl_plan_destroy(plan);
}

/* Largest error relative to the largest result must stay below `tolerance`. */
static void check(const char *text, int64_t rows, int64_t samples, double tolerance) {
    testing t;
    start(&t, text, rows, samples);
    syl_ref_weights weights = {.materialized = give_stored};
    syl_ref_value want;
    if (syl_ref_run(t.func, t.args, t.func->n_args, &weights, SYL_REF_F32, t.diag, &want) != SYL_OK)
        fail_msg("%s", t.errors.p);
    int64_t n = syl_ref_tensor_elements(want.tensor);
    double largest = 0;
    for (int64_t k = 0; k < n; k++) largest = fmax(largest, fabs(want.tensor->data[k]));
    assert_true(largest > 0.1);
    for (int i = 0; i < N_TARGETS; i++) {
        syl_host_target target;
        if (!find_target(all_targets[i], &target)) continue;
        float *out = new_buffer((size_t)n * 4);
        memset(out, 0xff, (size_t)n * 4);
        run_plan(&t, &target, out);
        check_slack(out, (size_t)n * 4);
        for (int64_t k = 0; k < n; k++)
            if (!(fabs((double)out[k] - want.tensor->data[k]) <= tolerance * largest))
                fail_msg("%s, element %lld: %.9g, expected %.9g", all_targets[i], (long long)k,
                         (double)out[k], want.tensor->data[k]);
        free(out);
    }
    syl_ref_tensor_release(want.tensor);
    stop(&t);
}

#define ONE(args, type, ops)                                                                                 \
    "module @m { func @forward(" args ") -> " type " { %y = fused {slots = [-1]} : " type " { " ops          \
    " yield %r } return %y } }"

static void layer_norm(void **state) {
    (void)state;
    check(ONE("%x: tensor<Tx33xf32>", "tensor<Tx33xf32>",
              "%r = layer_norm %x {eps = 1e-06} : tensor<Tx33xf32>"),
          3, 1, 1e-6);
    check("module @m { func @forward(%x: tensor<Tx96xf32>) -> tensor<Tx96xf32> { %g = materialized \"g\" : "
          "tensor<96xf32> %b = materialized \"b\" : "
          "tensor<96xf32> %y = fused {slots = [-1]} : tensor<Tx96xf32> { %r = layer_norm %x, %g, %b {eps = "
          "1e-06} : tensor<Tx96xf32> yield %r } "
          "return %y } }",
          5, 1, 1e-6);
}

static void gelu(void **state) {
    (void)state;
    check(ONE("%x: tensor<Tx100xf32>", "tensor<Tx100xf32>", "%r = gelu %x {form = tanh} : tensor<Tx100xf32>"),
          7, 1, 1e-6);
    check(ONE("%x: tensor<Tx100xf32>", "tensor<Tx100xf32>", "%r = gelu %x {form = erf} : tensor<Tx100xf32>"),
          7, 1, 1e-6);
}

static void timestep_embedding(void **state) {
    (void)state;
    check(ONE("%t: tensor<Bxf32>", "tensor<Bx20xf32>",
              "%r = timestep_embedding %t {base = 10000.0, dims = 20, scale = 1000.0} : tensor<Bx20xf32>"),
          4, 4, 1e-6);
}

/* norm, modulate by gathered rows, quantize: one region; then back to floats. */
static void modulated_rows(void **state) {
    (void)state;
    check("module @m { func @forward(%x: tensor<Tx48xf32>, %m: tensor<Bx96xf32>, %sample: tensor<Txi32>) -> "
          "tensor<Tx48xf32> {\n"
          "%q = fused {slots = [0]} : tensor<Tx48xint8_token> { %n = layer_norm %x {eps = 1e-06} : "
          "tensor<Tx48xf32>\n"
          "%a = slice %m {axis = 1, begin = 0, end = 48} : tensor<Bx48xf32> %s = take %a, %sample : "
          "tensor<Tx48xf32>\n"
          "%b = slice %m {axis = 1, begin = 48, end = 96} : tensor<Bx48xf32> %h = take %b, %sample : "
          "tensor<Tx48xf32>\n"
          "%k = mul %n, %s : tensor<Tx48xf32> %l = add %n, %k : tensor<Tx48xf32> %o = add %l, %h : "
          "tensor<Tx48xf32>\n"
          "%c = quantize %o : tensor<Tx48xint8_token> yield %c }\n"
          "%y = fused {slots = [-1]} : tensor<Tx48xf32> { %r = dequantize %q : tensor<Tx48xf32> yield %r } "
          "return %y } }",
          9, 3, 0.01); /* a code may differ by one where a value lies between two */
}

static void full_attention(void **state) {
    (void)state;
    /* whole vectors and blocks; then heads of 20 and sequences of 7, views of one matrix */
    check(ONE("%q: tensor<Tx64xf32>, %k: tensor<Tx64xf32>, %v: tensor<Tx64xf32>", "tensor<Tx64xf32>",
              "%r = full_attention %q, %k, %v {heads = 2, scale = 0.17, tokens = 32} : tensor<Tx64xf32>"),
          96, 1, 2e-6);
    check(ONE("%x: tensor<Tx120xf32>", "tensor<Tx40xf32>",
              "%q = slice %x {axis = 1, begin = 0, end = 40} : tensor<Tx40xf32> %k = slice %x {axis = 1, "
              "begin = 40, end = 80} : tensor<Tx40xf32> "
              "%v = slice %x {axis = 1, begin = 80, end = 120} : tensor<Tx40xf32> "
              "%r = full_attention %q, %k, %v {heads = 2, scale = 0.5, tokens = 7} : tensor<Tx40xf32>"),
          21, 1, 2e-6);
    check(ONE("%q: tensor<Tx16xf32>, %k: tensor<Tx16xf32>, %v: tensor<Tx16xf32>", "tensor<Tx16xf32>",
              "%r = full_attention %q, %k, %v {heads = 1, scale = 0.25, tokens = 1} : tensor<Tx16xf32>"),
          3, 1, 2e-6);
}

/* Pictures to patches and back: alone, in a row-wise region behind which codes stand, from columns of a wider matrix, from bf16. */
static void pictures(void **state) {
    (void)state;
#define SIZES(channels, height, width, patch)                                                                \
    "{channels = " #channels ", height = " #height ", patch = " #patch ", width = " #width "}"
    check(ONE("%i: tensor<Txi32>, %x: tensor<Bx48xf32>", "tensor<Tx12xf32>",
              "%r = patchify %x " SIZES(3, 4, 4, 2) " : tensor<Tx12xf32>"),
          12, 3, 0);
    check(
        ONE("%z: tensor<Tx18xf32>, %x: tensor<Bx210xf32>", "tensor<Tx18xf32>",
            "%v = slice %x {axis = 1, begin = 30, end = 210} : tensor<Bx180xf32> %p = patchify %v " SIZES(
                2, 6, 15,
                3) " : tensor<Tx18xf32> "
                   "%n = layer_norm %p {eps = 1e-06} : tensor<Tx18xf32> %r = mul %n, %z : tensor<Tx18xf32>"),
        20, 2, 2e-6);
    check(ONE("%x: tensor<Tx12xf32>, %i: tensor<Bxi32>", "tensor<Bx120xf32>",
              "%r = unpatchify %x " SIZES(3, 4, 10, 2) " : tensor<Bx120xf32>"),
          30, 3, 0);
    check(ONE("%x: tensor<Tx20xf32>, %z: tensor<Bx64xf32>", "tensor<Bx64xf32>",
              "%v = slice %x {axis = 1, begin = 3, end = 19} : tensor<Tx16xf32> %p = unpatchify %v " SIZES(
                  1, 8, 8, 4) " : tensor<Bx64xf32> "
                              "%r = add %p, %z : tensor<Bx64xf32>"),
          16, 4, 0);
    check("module @m { func @forward(%i: tensor<Txi32>, %x: tensor<Bx48xf32>) -> tensor<Bx48xf32> { "
          "%p = fused {slots = [0]} : tensor<Tx12xbf16> { %a = patchify %x " SIZES(
              3, 4, 4, 2) " : tensor<Tx12xbf16> yield %a } "
                          "%y = fused {slots = [-1]} : tensor<Bx48xf32> { %b = unpatchify %p " SIZES(
                              3, 4, 4, 2) " : tensor<Bx48xf32> yield %b } "
                                          "return %y } }",
          20, 5, 0);
}

/* A row's result depends on its own sequence only. */
static void sequences_do_not_mix(void **state) {
    (void)state;
    testing t;
    start(&t,
          ONE("%q: tensor<Tx16xf32>, %k: tensor<Tx16xf32>, %v: tensor<Tx16xf32>", "tensor<Tx16xf32>",
              "%r = full_attention %q, %k, %v {heads = 1, scale = 0.25, tokens = 5} : tensor<Tx16xf32>"),
          10, 1);
    syl_host_target target;
    assert_true(find_target("host", &target));
    float *before = new_buffer(160 * 4), *after = new_buffer(160 * 4);
    run_plan(&t, &target, before);
    for (int i = 1; i < 3; i++)
        for (int k = 0; k < 80; k++) ((float *)t.inputs[i])[k] += 1;
    run_plan(&t, &target, after);
    assert_memory_equal(before + 80, after + 80, 80 * 4);
    assert_memory_not_equal(before, after, 80 * 4);
    free(before);
    free(after);
    stop(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layer_norm),
        cmocka_unit_test(gelu),
        cmocka_unit_test(timestep_embedding),
        cmocka_unit_test(modulated_rows),
        cmocka_unit_test(pictures),
        cmocka_unit_test(full_attention),
        cmocka_unit_test(sequences_do_not_mix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
