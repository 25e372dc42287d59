/* The reference ops against numbers worked out by hand or by a second, naive formula; the interpreter on
 * whole graphs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <cmocka.h>
#include "base/numeric.h"
#include "unit/ir_random.h"

/* ---- small functions from text ---- */

enum { MAX_ARGS = 8 };

typedef struct fixture {
    syl_arena arena;
    syl_text messages;
    syl_diag *diag;
    const double *weight; /* what every weight is */
    int reads;            /* how often it was asked for */
    syl_ref_value in[MAX_ARGS], out[MAX_ARGS];
    int n_in, n_out;
} fixture;

static int setup(void **state) {
    fixture *f = calloc(1, sizeof *f);
    syl_arena_init(&f->arena);
    f->messages.arena = &f->arena;
    f->diag = syl_diag_create(syl_diag_capture, &f->messages);
    *state = f;
    return 0;
}

static void clear(fixture *f) {
    for (int i = 0; i < f->n_in; i++) {
        syl_ref_tensor_release(f->in[i].tensor);
        syl_ref_kv_destroy(f->in[i].kv);
    }
    for (int i = 0; i < f->n_out; i++) syl_ref_tensor_release(f->out[i].tensor);
    f->n_in = f->n_out = 0;
}

static int teardown(void **state) {
    fixture *f = *state;
    clear(f);
    syl_diag_destroy(f->diag);
    syl_arena_free(&f->arena);
    free(f);
    return 0;
}

static syl_status read_weight(void *user, const char *name, int64_t source, const syl_type *type,
                              syl_diag *diag, double *out) {
    fixture *f = user;
    int64_t n;
    (void)name, (void)source, (void)diag;
    assert_true(syl_type_elements(type, &n));
    memcpy(out, f->weight, (size_t)n * sizeof *out);
    f->reads++;
    return SYL_OK;
}

static void give(fixture *f, int64_t rows, int64_t cols, const double *data) {
    syl_ref_tensor *x = syl_ref_tensor_create(SYL_f32, cols ? 2 : 1, (int64_t[]){rows, cols});
    memcpy(x->data, data, (size_t)(rows * (cols ? cols : 1)) * sizeof *data);
    f->in[f->n_in++] = (syl_ref_value){.tensor = x};
}

static void give_ints(fixture *f, int64_t n, const int32_t *data) {
    f->in[f->n_in++] = (syl_ref_value){.tensor = ir_random_ints(data, n)};
}

/* Runs "func @f" whose arguments, result types and body are given. */
static syl_status run(fixture *f, syl_ref_precision precision, const char *args, const char *results,
                      const char *body) {
    char *text = syl_arena_printf(&f->arena, "module @m { source \"s\" func @f(%s) -> %s { %s } }", args,
                                  results, body);
    syl_source source = {"test.sir", text, strlen(text)};
    syl_module *module;
    f->messages.n = 0;
    if (syl_module_parse(&source, f->diag, &module) != SYL_OK || syl_module_verify(module, f->diag) != SYL_OK)
        fail_msg("%s\n%s", text, f->messages.p);
    for (int i = 0; i < f->n_in; i++)
        if (module->funcs->args[i].type.kind == SYL_KV && !f->in[i].kv)
            f->in[i].kv = syl_ref_kv_create(&module->funcs->args[i].type);
    for (int i = 0; i < f->n_out; i++) syl_ref_tensor_release(f->out[i].tensor);
    f->n_out = module->funcs->n_results;
    syl_ref_weights weights = {f, read_weight, NULL};
    syl_status status = syl_ref_run(module->funcs, f->in, f->n_in, &weights, precision, f->diag, f->out);
    syl_module_destroy(module);
    return status;
}

static void expect(const fixture *f, int result, int64_t n, const double *data, double tolerance) {
    const syl_ref_tensor *y = f->out[result].tensor;
    assert_non_null(y);
    assert_int_equal(syl_ref_tensor_elements(y), n);
    for (int64_t i = 0; i < n; i++)
        if (!(fabs(y->data[i] - data[i]) <= tolerance * (1 + fabs(data[i]))))
            fail_msg("element %d is %.17g, expected %.17g", (int)i, y->data[i], data[i]);
}

#define DOUBLES(...) ((const double[]){__VA_ARGS__})
#define SET_WEIGHT(f, ...)                                                                                   \
    do {                                                                                                     \
        static const double set_weight[] = {__VA_ARGS__};                                                    \
        (f)->weight = set_weight;                                                                            \
    } while (0)
#define INTS(...) ((const int32_t[]){__VA_ARGS__})
static const double tolerances[] = {[SYL_REF_F32] = 1e-6, [SYL_REF_F64] = 1e-14};
#define EACH_PRECISION(p) for (syl_ref_precision p = SYL_REF_F32; p <= SYL_REF_F64; p++, clear(f))

/* ---- ops ---- */

static void test_elementwise(void **state) {
    fixture *f = *state;
    EACH_PRECISION(p) {
        give(f, 2, 2, DOUBLES(1, -2, 0.5, 3));
        give(f, 2, 2, DOUBLES(4, 0.25, -1, 2));
        assert_int_equal(run(f, p, "%a: tensor<Tx2xf32>, %b: tensor<Tx2xf32>",
                             "(tensor<Tx2xf32>, tensor<Tx2xf32>, tensor<Tx2xf32>)",
                             "%s = add %a, %b : tensor<Tx2xf32> %m = mul %a, %b : tensor<Tx2xf32> %z = silu "
                             "%a : tensor<Tx2xf32> return %s, %m, %z"),
                         SYL_OK);
        expect(f, 0, 4, DOUBLES(5, -1.75, -0.5, 5), 0);
        expect(f, 1, 4, DOUBLES(4, -0.5, -0.5, 6), 0);
        expect(f, 2, 4,
               DOUBLES(1 / (1 + exp(-1)), -2 / (1 + exp(2)), 0.5 / (1 + exp(-0.5)), 3 / (1 + exp(-3))),
               tolerances[p]);
    }
}

/* Numbers worked out by hand: a row of mean 2 and variance 2; gelu at 1 in both forms; times 0 and 1/2. */
static void test_diffusion(void **state) {
    fixture *f = *state;
    EACH_PRECISION(p) {
        give(f, 1, 4, DOUBLES(0, 2, 2, 4));
        give(f, 4, 0, DOUBLES(1, 2, 3, 4));
        give(f, 4, 0, DOUBLES(1, 0, 0, -1));
        assert_int_equal(
            run(f, p, "%x: tensor<Tx4xf32>, %g: tensor<4xf32>, %b: tensor<4xf32>",
                "(tensor<Tx4xf32>, tensor<Tx4xf32>)",
                "%y = layer_norm %x {eps = 2.0} : tensor<Tx4xf32> %z = layer_norm %x, %g, %b {eps = 2.0} : "
                "tensor<Tx4xf32> return %y, %z"),
            SYL_OK);
        expect(f, 0, 4, DOUBLES(-1, 0, 0, 1), tolerances[p]);
        expect(f, 1, 4, DOUBLES(0, 0, 0, 3), tolerances[p]);
    }
    EACH_PRECISION(p) {
        give(f, 1, 3, DOUBLES(1, 0, -20));
        assert_int_equal(run(f, p, "%x: tensor<Tx3xf32>", "(tensor<Tx3xf32>, tensor<Tx3xf32>)",
                             "%e = gelu %x {form = erf} : tensor<Tx3xf32> %t = gelu %x {form = tanh} : "
                             "tensor<Tx3xf32> return %e, %t"),
                         SYL_OK);
        expect(f, 0, 3, DOUBLES(0.84134474606854293, 0, 0), 1e-6);
        expect(f, 1, 3, DOUBLES(0.84119199060827676, 0, 0), 1e-6);
    }
    EACH_PRECISION(p) {
        give(f, 2, 0, DOUBLES(0, 0.5));
        assert_int_equal(run(f, p, "%t: tensor<Bxf32>", "tensor<Bx4xf32>",
                             "%y = timestep_embedding %t {base = 100.0, dims = 4, scale = 20.0} : "
                             "tensor<Bx4xf32> return %y"),
                         SYL_OK);
        expect(f, 0, 8, DOUBLES(1, 1, 0, 0, cos(10), cos(1), sin(10), sin(1)), tolerances[p]);
    }
}

/* Two sequences of two rows, two heads of one feature: the weights of equal scores are halves, of scores 0 and ln 3 a quarter and three. */
static void test_full_attention(void **state) {
    fixture *f = *state;
    EACH_PRECISION(p) {
        give(f, 4, 2, DOUBLES(0, 1, 0, 1, 0, 0, 0, 0));
        give(f, 4, 2, DOUBLES(5, 0, 7, log(3), 1, 1, 2, 2));
        give(f, 4, 2, DOUBLES(2, 4, 6, 8, 10, 20, 30, 40));
        assert_int_equal(run(f, p, "%q: tensor<Tx2xf32>, %k: tensor<Tx2xf32>, %v: tensor<Tx2xf32>",
                             "tensor<Tx2xf32>",
                             "%y = full_attention %q, %k, %v {heads = 2, scale = 1.0, tokens = 2} : "
                             "tensor<Tx2xf32> return %y"),
                         SYL_OK);
        expect(f, 0, 8, DOUBLES(4, 7, 4, 7, 20, 30, 20, 30), tolerances[p]);
    }
    give(f, 3, 2, DOUBLES(1, 2, 3, 4, 5, 6));
    assert_int_equal(run(f, SYL_REF_F64, "%x: tensor<Tx2xf32>", "tensor<Tx2xf32>",
                         "%y = full_attention %x, %x, %x {heads = 1, scale = 1.0, tokens = 2} : "
                         "tensor<Tx2xf32> return %y"),
                     SYL_INPUT);
    assert_non_null(strstr(f->messages.p, "3 rows are not sequences of 2"));
}

/* Two pictures of two channels, 2 x 4, cut into two squares each, and put together again. */
static void test_patches(void **state) {
    fixture *f = *state;
    static const char cut
        [] = "%y = patchify %x {channels = 2, height = 2, patch = 2, width = 4} : tensor<Tx8xf32> return %y",
     join[] =
         "%y = unpatchify %x {channels = 2, height = 2, patch = 2, width = 4} : tensor<Bx16xf32> return %y",
     cut_args[] = "%x: tensor<Bx16xf32>, %i: tensor<Txi32>",
     join_args[] = "%x: tensor<Tx8xf32>, %i: tensor<Bxi32>";
    double pictures[32];
    for (int k = 0; k < 32; k++) pictures[k] = k;
    static const double patches[32] = {0,  1,  4,  5,  8,  9,  12, 13, 2,  3,  6,  7,  10, 11, 14, 15,
                                       16, 17, 20, 21, 24, 25, 28, 29, 18, 19, 22, 23, 26, 27, 30, 31};
    EACH_PRECISION(p) {
        give(f, 2, 16, pictures);
        give_ints(f, 4, (const int32_t[]){0, 0, 0, 0});
        assert_int_equal(run(f, p, cut_args, "tensor<Tx8xf32>", cut), SYL_OK);
        expect(f, 0, 32, patches, 0);
        clear(f);
        give(f, 4, 8, patches);
        give_ints(f, 2, (const int32_t[]){0, 0});
        assert_int_equal(run(f, p, join_args, "tensor<Bx16xf32>", join), SYL_OK);
        expect(f, 0, 32, pictures, 0);
    }
    clear(f);
    give(f, 2, 16, pictures);
    give_ints(f, 3, (const int32_t[]){0, 0, 0});
    assert_int_equal(run(f, SYL_REF_F64, cut_args, "tensor<Tx8xf32>", cut), SYL_INPUT);
    assert_non_null(strstr(f->messages.p, "3 rows of patches are not 2 for each of 2 pictures"));
}

static void test_rounding(void **state) {
    fixture *f = *state;
    static const char args[] = "%a: tensor<3xf32>", types[] = "(tensor<3xbf16>, tensor<3xf16>)";
    static const char body[] = "%b = cast %a : tensor<3xbf16> %h = add %a, %a : tensor<3xf16> return %b, %h";
    give(f, 3, 0, DOUBLES(1.00390625, 1.01171875, 1e5));
    assert_int_equal(run(f, SYL_REF_F32, args, types, body), SYL_OK);
    expect(f, 0, 3, DOUBLES(1.0, 1.015625, 99840), 0); /* ties to even */
    assert_true(isinf(f->out[1].tensor->data[2]));
    assert_int_equal(run(f, SYL_REF_F64, args, types, body), SYL_OK);
    expect(f, 0, 3, DOUBLES(1.00390625, 1.01171875, 1e5), 0);
    expect(f, 1, 3, DOUBLES(2.0078125, 2.0234375, 2e5), 0);
    clear(f);
    /* A weight is rounded once: just above the middle of two bf16 numbers, where a detour over f32 would find
     * a tie. */
    SET_WEIGHT(f, 1.00390625 + 1e-12);
    assert_int_equal(run(f, SYL_REF_F32, "", "tensor<1xbf16>",
                         "%w = weight \"w\" : tensor<1xreal> %y = cast %w : tensor<1xbf16> return %y"),
                     SYL_OK);
    expect(f, 0, 1, DOUBLES(1.0078125), 0);
}

static void test_rms_norm(void **state) {
    fixture *f = *state;
    SET_WEIGHT(f, 2, 10);
    EACH_PRECISION(p) {
        give(f, 2, 2, DOUBLES(3, 4, 0, 0));
        assert_int_equal(
            run(f, p, "%x: tensor<Tx2xf32>", "(tensor<Tx2xf32>, tensor<Tx2xf32>)",
                "%g = weight \"g\" : tensor<2xreal> %y = rms_norm %x {eps = 0.5} : tensor<Tx2xf32> "
                "%z = rms_norm %x, %g {eps = 0.5} : tensor<Tx2xf32> return %y, %z"),
            SYL_OK);
        double r = 1 / sqrt(13);
        expect(f, 0, 4, DOUBLES(3 * r, 4 * r, 0, 0), tolerances[p]);
        expect(f, 1, 4, DOUBLES(6 * r, 40 * r, 0, 0), tolerances[p]);
    }
}

/* Two heads by themselves, with a gain as long as the row. */
static void test_head_norm(void **state) {
    fixture *f = *state;
    SET_WEIGHT(f, 1, 2, 3, 4);
    EACH_PRECISION(p) {
        give(f, 1, 4, DOUBLES(3, 4, 6, 8));
        assert_int_equal(run(f, p, "%x: tensor<Tx4xf32>", "tensor<Tx4xf32>",
                             "%g = weight \"g\" : tensor<4xreal> "
                             "%y = rms_norm %x, %g {eps = 0.5, heads = 2} : tensor<Tx4xf32> return %y"),
                         SYL_OK);
        double r = 1 / sqrt(13), s = 1 / sqrt(50.5);
        expect(f, 0, 4, DOUBLES(3 * r, 8 * r, 18 * s, 32 * s), tolerances[p]);
    }
}

static void test_linear(void **state) {
    fixture *f = *state;
    SET_WEIGHT(f, 1, 2, 3, 0, -1, 0.5);
    EACH_PRECISION(p) {
        double x[27], y[18]; /* 9 tokens: more than a group */
        for (int t = 0; t < 9; t++) {
            double *row = x + 3 * t;
            row[0] = t, row[1] = 1, row[2] = 2;
            y[2 * t] = t + 8 + 1;
            y[2 * t + 1] = 0 + 2;
        }
        give(f, 9, 3, x);
        assert_int_equal(run(f, p, "%x: tensor<Tx3xf32>", "tensor<Tx2xf32>",
                             "%w = weight \"w\" : tensor<2x3xreal> %b = weight \"b\" : tensor<2xreal> %y = "
                             "linear %x, %w, %b : tensor<Tx2xf32> return %y"),
                         SYL_OK);
        expect(f, 0, 18, y, tolerances[p]);
    }
}

static void test_quantized_linear(void **state) {
    fixture *f = *state;
    SET_WEIGHT(f, 1, -0.5, 127, 2, 0, 0);
    EACH_PRECISION(p) {
        give(f, 2, 2, DOUBLES(2, -1, 0, 0));
        assert_int_equal(
            run(f, p, "%x: tensor<Tx2xf32>",
                "(tensor<Tx3xf32>, tensor<Tx2xint8_token>, tensor<3x2xint8_channel>, tensor<3x2xf32>)",
                "%w = weight \"w\" : tensor<3x2xreal> %q = quantize %w : tensor<3x2xint8_channel> "
                "%a = quantize %x {clip = absmax} : tensor<Tx2xint8_token> %y = linear %a, %q : "
                "tensor<Tx3xf32> "
                "%d = dequantize %q : tensor<3x2xf32> return %y, %a, %q, %d"),
            SYL_OK);
        assert_memory_equal(f->out[1].tensor->codes, ((int8_t[]){127, -64, 0, 0}),
                            4); /* -63.5 goes to even */
        assert_memory_equal(f->out[2].tensor->codes, ((int8_t[]){127, -64, 127, 2, 0, 0}), 6);
        double sx = 2.0 / 127, sw = (float)(1.0 / 127);
        expect(f, 0, 6, DOUBLES((127 * 127 + 64 * 64) * sx * sw, (127 * 127 - 128) * sx, 0, 0, 0, 0),
               tolerances[p]);
        expect(f, 3, 6, DOUBLES(127 * sw, -64 * sw, 127, 2, 0, 0), tolerances[p]);
        assert_true(f->out[1].tensor->scales[1] == 0);
    }
}

static void test_rope(void **state) {
    fixture *f = *state;
    EACH_PRECISION(p) {
        give(f, 1, 6, DOUBLES(1, 2, 3, 4, 5, 6));
        give_ints(f, 1, INTS(7));
        assert_int_equal(
            run(f, p, "%x: tensor<Tx6xf32>, %p: tensor<Txi32>",
                "(tensor<Tx6xf32>, tensor<Tx6xf32>, tensor<Tx4xf32>)",
                "%t = rope_table %p {base = 16.0, dims = 4} : tensor<Tx4xf32> "
                "%a = rope %x, %t {heads = 1, style = interleaved} : tensor<Tx6xf32> "
                "%b = rope %x, %t {heads = 1, style = half} : tensor<Tx6xf32> return %a, %b, %t"),
            SYL_OK);
        double c0 = cos(7), s0 = sin(7), c1 = cos(7.0 / 4), s1 = sin(7.0 / 4);
        expect(f, 2, 4, DOUBLES(c0, c1, s0, s1), tolerances[p]);
        expect(f, 0, 6, DOUBLES(c0 - 2 * s0, s0 + 2 * c0, 3 * c1 - 4 * s1, 3 * s1 + 4 * c1, 5, 6),
               tolerances[p]);
        expect(f, 1, 6, DOUBLES(c0 - 3 * s0, 2 * c1 - 4 * s1, s0 + 3 * c0, 2 * s1 + 4 * c1, 5, 6),
               tolerances[p]);
    }
}

/* base 16, dims 6: 1, 16^(-1/3), 16^(-2/3) radians a position, that is 1, 0.4 and 0.16 turns in 2 pi positions. */
static void test_scaled_rope(void **state) {
    fixture *f = *state;
    EACH_PRECISION(p) {
        give_ints(f, 1, INTS(3));
        assert_int_equal(run(f, p, "%p: tensor<Txi32>", "(tensor<Tx6xf32>, tensor<Tx6xf32>)",
                             "%a = rope_table %p {base = 16.0, dims = 6, factor = 4.0, scaling = linear} : "
                             "tensor<Tx6xf32> "
                             "%b = rope_table %p {base = 16.0, dims = 6, factor = 4.0, high = 8.0, low = "
                             "2.0, original = 44, "
                             "scaling = llama3} : tensor<Tx6xf32> return %a, %b"),
                         SYL_OK);
        double u = pow(16, -1.0 / 3), v = u * u, x = 3 * 0.25;
        expect(f, 0, 6, DOUBLES(cos(x), cos(x * u), cos(x * v), sin(x), sin(x * u), sin(x * v)),
               tolerances[p]);
        /* 44 positions are 7.00, 2.78 and 1.10 turns: between low and high, likewise, below low. */
        double turns = 44 / (2 * 3.14159265358979323846), k0 = (turns - 2) / 6, k1 = (turns * u - 2) / 6;
        double a0 = 3 * (k0 + (1 - k0) / 4), a1 = 3 * u * (k1 + (1 - k1) / 4), a2 = 3 * v / 4;
        expect(f, 1, 6, DOUBLES(cos(a0), cos(a1), cos(a2), sin(a0), sin(a1), sin(a2)), tolerances[p]);
    }
}

/* Two query heads share one kv head; two sequences do not see each other. */
static void test_attention(void **state) {
    fixture *f = *state;
    EACH_PRECISION(p) {
        give(f, 3, 2, DOUBLES(1, 2, 3, -1, 5, 5));
        give_ints(f, 3, INTS(0, 1, 0));
        give_ints(f, 3, INTS(0, 0, 1));
        f->in[f->n_in++] = (syl_ref_value){0};
        assert_int_equal(run(f, p,
                             "%q: tensor<Tx2xf32>, %p: tensor<Txi32>, %s: tensor<Txi32>, %kv: kv<1x1x1xf32>",
                             "(tensor<Tx2xf32>, kv<1x1x1xf32>)",
                             "%k = slice %q {axis = 1, begin = 0, end = 1} : tensor<Tx1xf32> %v = slice %q "
                             "{axis = 1, begin = 1, end = 2} : tensor<Tx1xf32> "
                             "%kv1 = kv_append %kv, %k, %v, %p, %s {layer = 0} : kv<1x1x1xf32> "
                             "%y = attention %q, %kv1, %p, %s {heads = 2, layer = 0, scale = 0.5} : "
                             "tensor<Tx2xf32> return %y, %kv1"),
                         SYL_OK);
        double a0 = exp(0.5 * 3 * 1), a1 = exp(0.5 * 3 * 3), b0 = exp(0.5 * -1 * 1), b1 = exp(0.5 * -1 * 3);
        expect(f, 0, 6, DOUBLES(2, 2, (2 * a0 - a1) / (a0 + a1), (2 * b0 - b1) / (b0 + b1), 5, 5),
               tolerances[p]);
        assert_ptr_equal(f->out[1].kv, f->in[3].kv);
        /* A hole in a sequence is an error. */
        f->in[1].tensor->ints[2] = 2;
        f->in[2].tensor->ints[2] = 3;
        assert_int_equal(run(f, p,
                             "%q: tensor<Tx2xf32>, %p: tensor<Txi32>, %s: tensor<Txi32>, %kv: kv<1x1x1xf32>",
                             "tensor<Tx2xf32>",
                             "%y = attention %q, %kv, %p, %s {heads = 2, layer = 0, scale = 0.5} : "
                             "tensor<Tx2xf32> return %y"),
                         SYL_INPUT);
        assert_non_null(strstr(f->messages.p, "position 0 of sequence 3, which was never appended"));
    }
}

/* A token that sees itself alone gets its value as the cache has it: 8 bits, then 4 with a clip; steps of 1/64 and 1/4. */
static void test_quantized_cache(void **state) {
    fixture *f = *state;
    static const struct {
        const char *type, *clip;
        double x[4][3], y[4][3];
    } cases[] = {{"kv<1x1x3xint8_g3>",
                  "",
                  {{-10. / 64, 245. / 64, 3.4 / 64}, {0, 0, 0}, {255, 3.4, 7}, {-510, -1, -2.2}},
                  {{-10. / 64, 245. / 64, 3. / 64}, {0, 0, 0}, {255, 3, 7}, {-510, 0, -2}}},
                 {"kv<1x1x3xf32.int4_g3>",
                  ", v_clip = 0.5",
                  {{-2, 5.5, 0.8}, {0, 0, 0}, {7.5, 0.8, 3}, {-7.5, -0.8, 0}},
                  {{-1, 2.75, 0.75}, {0, 0, 0}, {3.75, 0.75, 3}, {-3.75, -0.75, 0}}}};
    for (int c = 0; c < 2; c++) EACH_PRECISION(p) {
            give(f, 4, 3, &cases[c].x[0][0]);
            give_ints(f, 4, INTS(0, 0, 0, 0));
            give_ints(f, 4, INTS(0, 1, 2, 3));
            f->in[f->n_in++] = (syl_ref_value){0};
            char args[200], body[400];
            snprintf(args, sizeof args,
                     "%%x: tensor<Tx3xf32>, %%p: tensor<Txi32>, %%s: tensor<Txi32>, %%kv: %s", cases[c].type);
            snprintf(
                body, sizeof body,
                "%%kv1 = kv_append %%kv, %%x, %%x, %%p, %%s {layer = 0%s} : %s "
                "%%y = attention %%x, %%kv1, %%p, %%s {heads = 1, layer = 0, scale = 1.0} : tensor<Tx3xf32> "
                "return %%y",
                cases[c].clip, cases[c].type);
            assert_int_equal(run(f, p, args, "tensor<Tx3xf32>", body), SYL_OK);
            expect(f, 0, 12, &cases[c].y[0][0], 0);
        }
    /* keys: two positions whose weights tell which keys the cache has */
    EACH_PRECISION(p) {
        give(f, 2, 2, DOUBLES(-2, 5.5, 1, 1));
        give_ints(f, 2, INTS(0, 1));
        give_ints(f, 2, INTS(0, 0));
        f->in[f->n_in++] = (syl_ref_value){0};
        assert_int_equal(
            run(f, p, "%x: tensor<Tx2xf32>, %p: tensor<Txi32>, %s: tensor<Txi32>, %kv: kv<1x1x2xint4_g2.f32>",
                "tensor<Tx2xf32>",
                "%kv1 = kv_append %kv, %x, %x, %p, %s {k_clip = 0.5, layer = 0} : kv<1x1x2xint4_g2.f32> "
                "%y = attention %x, %kv1, %p, %s {heads = 1, layer = 0, scale = 1.0} : tensor<Tx2xf32> "
                "return %y"),
            SYL_OK);
        /* (1, 1) has the scale bf16(0.5 / 15), so its keys are 15 times that */
        double key = 15 * 0x1.12p-5, a = exp(-1 + 2.75), b = exp(2 * key);
        expect(f, 0, 4, DOUBLES(-2, 5.5, (-2 * a + b) / (a + b), (5.5 * a + b) / (a + b)), tolerances[p]);
    }
}

static void test_moves(void **state) {
    fixture *f = *state;
    SET_WEIGHT(f, 0, 1, 10, 11, 20, 21);
    EACH_PRECISION(p) {
        give_ints(f, 2, INTS(2, 0));
        give_ints(f, 3, INTS(1, 1, 0));
        static const char args[] = "%i: tensor<Txi32>, %r: tensor<Rxi32>";
        assert_int_equal(run(f, p, args,
                             "(tensor<Tx2xf32>, tensor<Rx2xf32>, tensor<Tx3xf32>, tensor<4x2xf32>)",
                             "%t = weight \"t\" : tensor<3x2xreal> %x = embedding %i, %t : tensor<Tx2xf32> "
                             "%y = take %x, %r : tensor<Rx2xf32> "
                             "%c = concat %x, %x {axis = 1} : tensor<Tx4xf32> %s = slice %c {axis = 1, begin "
                             "= 1, end = 4} : tensor<Tx3xf32> "
                             "%u = concat %t, %t {axis = 0} : tensor<6x2xreal> %v = slice %u {axis = 0, "
                             "begin = 1, end = 5} : tensor<4x2xreal> "
                             "%w = cast %v : tensor<4x2xf32> return %x, %y, %s, %w"),
                         SYL_OK);
        expect(f, 0, 4, DOUBLES(20, 21, 0, 1), 0);
        expect(f, 1, 6, DOUBLES(0, 1, 0, 1, 20, 21), 0);
        expect(f, 2, 6, DOUBLES(21, 20, 21, 1, 0, 1), 0);
        expect(f, 3, 8, DOUBLES(10, 11, 20, 21, 0, 1, 10, 11), 0);
        f->in[0].tensor->ints[1] = 3;
        assert_int_equal(
            run(f, p, args, "tensor<Tx2xf32>",
                "%t = weight \"t\" : tensor<3x2xreal> %x = embedding %i, %t : tensor<Tx2xf32> return %x"),
            SYL_INPUT);
        assert_non_null(strstr(f->messages.p, "index 3 of row 1 is not in 0..2"));
    }
}

static void test_transforms(void **state) {
    fixture *f = *state;
    SET_WEIGHT(f, 1, 2, 3, 4, 5, 6, 7, 8);
    EACH_PRECISION(p) {
        give(f, 2, 4, f->weight);
        assert_int_equal(
            run(f, p, "%x: tensor<2x4xf32>",
                "(tensor<2x4xf32>, tensor<2x4xf32>, tensor<2x4xf32>, tensor<2x4xf32>, tensor<2x4xf32>)",
                "%v = weight \"v\" : tensor<4xreal> %u = weight \"u\" : tensor<2xreal> "
                "%a = scale %x, %v {axis = 1} : tensor<2x4xf32> %b = scale %x, %u {axis = 0} : "
                "tensor<2x4xf32> "
                "%h = hadamard %x {axis = 1, factors = [2]} : tensor<2x4xf32> %g = hadamard %x {axis = 0, "
                "factors = [2]} : tensor<2x4xf32> "
                "%s = signs %x {axis = 1, period = 2, seed = 9} : tensor<2x4xf32> return %a, %b, %h, %g, %s"),
            SYL_OK);
        double r = sqrt(0.5), s0 = syl_random_sign(9, 0), s1 = syl_random_sign(9, 1);
        expect(f, 0, 8, DOUBLES(1, 4, 9, 16, 5, 12, 21, 32), 0);
        expect(f, 1, 8, DOUBLES(1, 2, 3, 4, 10, 12, 14, 16), 0);
        expect(f, 2, 8, DOUBLES(3 * r, -r, 7 * r, -r, 11 * r, -r, 15 * r, -r), tolerances[p]);
        expect(f, 3, 8, DOUBLES(6 * r, 8 * r, 10 * r, 12 * r, -4 * r, -4 * r, -4 * r, -4 * r), tolerances[p]);
        expect(f, 4, 8, DOUBLES(s0, 2 * s1, 3 * s0, 4 * s1, 5 * s0, 6 * s1, 7 * s0, 8 * s1), 0);
    }
}

/* H then H^T is the identity along both axes, and blocks of rows may be transformed by themselves. */
static void test_hadamard_inverse(void **state) {
    (void)state;
    enum { ROWS = 37, COLS = 72 };
    static const int64_t factors[] = {12, 2}, twelve[] = {36};
    static double x[COLS * ROWS], y[COLS * ROWS], z[COLS * ROWS];
    for (int i = 0; i < ROWS * COLS; i++) x[i] = sin(i);
    memcpy(y, x, sizeof y);
    assert_true(syl_ref_hadamard(y, ROWS, COLS, 1, factors, 2, false));
    memcpy(z, x, sizeof z);
    assert_true(syl_ref_hadamard(z, 10, COLS, 1, factors, 2, false));
    assert_true(syl_ref_hadamard(z + 10 * COLS, ROWS - 10, COLS, 1, factors, 2, false));
    assert_memory_equal(y, z, sizeof y);
    assert_true(syl_ref_hadamard(y, ROWS, COLS, 1, factors, 2, true));
    for (int i = 0; i < ROWS * COLS; i++) assert_true(fabs(x[i] - y[i]) < 1e-14);
    assert_true(syl_ref_hadamard(y, 1, COLS, ROWS, twelve, 1, false));
    assert_true(fabs(y[5] - x[5]) > 1e-3);
    assert_true(syl_ref_hadamard(y, 1, COLS, ROWS, twelve, 1, true));
    for (int i = 0; i < ROWS * COLS; i++) assert_true(fabs(x[i] - y[i]) < 1e-14);
}

/* The fast search against the definition. */
static void test_mse(void **state) {
    (void)state;
    enum { ROWS = 12, COLS = 6003 }; /* long rows: one clipped element costs less than a finer grid gains */
    static double x[ROWS * COLS];
    static int8_t codes[ROWS * COLS], plain[ROWS * COLS];
    float scales[ROWS], plain_scales[ROWS];
    int clipped = 0;
    for (int i = 0; i < ROWS * COLS; i++) {
        double u = (double)(ir_random_mix((uint64_t)i) >> 11) / 9007199254740992.0 - 0.5;
        x[i] = i / COLS == 3 ? 0 : u * u * u * (i / COLS + 1);
    }
    assert_true(syl_ref_quantize(x, ROWS, COLS, SYL_int8_channel, true,
                                 &(syl_ref_codes){.codes = codes, .scales = scales}));
    assert_true(syl_ref_quantize(x, ROWS, COLS, SYL_int8_channel, false,
                                 &(syl_ref_codes){.codes = plain, .scales = plain_scales}));
    for (int r = 0; r < ROWS; r++) {
        const double *row = x + r * COLS;
        double absmax = 0, least = INFINITY, best = 0;
        for (int k = 0; k < COLS; k++) absmax = fmax(absmax, fabs(row[k]));
        for (int i = 0; i <= 40 && absmax > 0; i++) {
            double scale = (float)(absmax * (100 - i) / 100 / 127), error = 0;
            for (int k = 0; k < COLS; k++) {
                double d = row[k] - scale * fmax(-127, fmin(127, rint(row[k] / scale)));
                error += d * d;
            }
            if (error < least * (1 - 1e-6)) least = error, best = scale;
        }
        double found = 0;
        for (int k = 0; k < COLS; k++) {
            double d = row[k] - scales[r] * codes[r * COLS + k];
            found += d * d;
            assert_int_equal(codes[r * COLS + k],
                             scales[r] > 0 ? (int)fmax(-127, fmin(127, rint(row[k] / scales[r]))) : 0);
        }
        if (absmax > 0)
            assert_true(found <= least * (1 + 1e-5));
        else
            assert_true(scales[r] == 0 && best == 0);
        assert_true(plain_scales[r] == (float)(absmax / 127));
        clipped += scales[r] < plain_scales[r];
    }
    assert_true(clipped > ROWS / 4);
    /* What is no number is no reason to fail. */
    static const double odd[] = {NAN, 1, INFINITY, 2, 1e-320, -1e-320};
    assert_true(syl_ref_quantize(odd, 3, 2, SYL_int8_channel, true,
                                 &(syl_ref_codes){.codes = codes, .scales = scales}));
    assert_int_equal(codes[0], 0);
    assert_int_equal(codes[1], 127);
    assert_int_equal(codes[3], 0);
    assert_int_equal(codes[4], 0);
}

/* ---- the interpreter ---- */

static void test_regions(void **state) {
    fixture *f = *state;
    SET_WEIGHT(f, 1, 1);
    f->reads = 0;
    give(f, 1, 2, DOUBLES(1, 2));
    assert_int_equal(run(f, SYL_REF_F64, "%x: tensor<Tx2xf32>",
                         "(tensor<Tx2xf32>, tensor<Tx2xf32>, tensor<Tx2xf32>)",
                         "%g = weight \"g\" : tensor<2xreal> %unused = weight \"u\" : tensor<2xreal> "
                         "%a, %b = fused : tensor<Tx2xf32>, tensor<Tx2xf32> { %c = add %x, %x : "
                         "tensor<Tx2xf32> %s = scale %c, %g {axis = 1} : tensor<Tx2xf32> "
                         "%dead = add %s, %s : tensor<Tx2xf32> yield %s, %x } %d = scale %a, %g {axis = 1} : "
                         "tensor<Tx2xf32> return %d, %b, %d"),
                     SYL_OK);
    expect(f, 0, 2, DOUBLES(2, 4), 0);
    expect(f, 1, 2, DOUBLES(1, 2), 0);
    expect(f, 2, 2, DOUBLES(2, 4), 0);
    assert_int_equal(f->reads, 1);
}

static void test_arguments(void **state) {
    fixture *f = *state;
    static const char args[] = "%a: tensor<Tx2xf32>, %b: tensor<Tx2xf32>", type[] = "tensor<Tx2xf32>",
                      body[] = "return %a";
    assert_int_equal(run(f, SYL_REF_F64, args, type, body), SYL_INPUT);
    give(f, 1, 2, DOUBLES(1, 2));
    give(f, 2, 2, DOUBLES(1, 2, 3, 4));
    assert_int_equal(run(f, SYL_REF_F64, args, type, body), SYL_INPUT);
    assert_non_null(strstr(f->messages.p, "argument 2 of @f has 2 elements in dimension 0, expected 1"));
    assert_null(f->out[0].tensor);
    clear(f);
    give(f, 1, 2, DOUBLES(1, 2));
    give_ints(f, 2, INTS(1, 2));
    assert_int_equal(run(f, SYL_REF_F64, args, type, body), SYL_INPUT);
    clear(f);
    SET_WEIGHT(f, 1);
    assert_int_equal(
        run(f, SYL_REF_F64, "", "tensor<1xf32>", "%m = materialized \"m\" : tensor<1xf32> return %m"),
        SYL_INPUT);
    assert_non_null(strstr(f->messages.p, "nobody provides the stored tensor 'm'"));
}

static void test_every_op(void **state) {
    (void)state;
    for (int i = 0; i < SYL_OP_COUNT; i++)
        if (!syl_ref_has((syl_opcode)i)) fail_msg("%s has no reference", syl_ops[i].name);
}

/* Whole models: f32 is close to f64 but not the same; a token alone gives what it gives in a batch. */
static void test_random_models(void **state) {
    fixture *f = *state;
    double largest = 0;
    for (uint64_t seed = 0; seed < 40; seed++) {
        ir_random r;
        syl_module *module = ir_random_module(seed, &r);
        assert_int_equal(syl_module_verify(module, f->diag), SYL_OK);
        ir_random_outputs exact = ir_random_run(module, &r, SYL_REF_F64, f->diag),
                          again = ir_random_run(module, &r, SYL_REF_F64, f->diag);
        ir_random_outputs rounded = ir_random_run(module, &r, SYL_REF_F32, f->diag);
        if (exact.status != SYL_OK || rounded.status != SYL_OK) fail_msg("%s", f->messages.p);
        assert_true(ir_random_error(&exact, &again) == 0);
        double error = ir_random_error(&exact, &rounded);
        assert_true(error < 1e-5);
        if (error > largest) largest = error;
        ir_random_free(&exact);
        ir_random_free(&again);
        ir_random_free(&rounded);
        syl_module_destroy(module);
    }
    assert_true(largest > 1e-9);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(elementwise),      TEST(diffusion),   TEST(full_attention),
        TEST(patches),          TEST(rounding),    TEST(rms_norm),
        TEST(head_norm),        TEST(scaled_rope), TEST(linear),
        TEST(quantized_linear), TEST(rope),        TEST(attention),
        TEST(quantized_cache),  TEST(moves),       TEST(transforms),
        TEST(hadamard_inverse), TEST(mse),         TEST(regions),
        TEST(arguments),        TEST(every_op),    TEST(random_models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
