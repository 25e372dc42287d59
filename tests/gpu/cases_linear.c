/* GEMMs: activations INT8, bfloat16 and float, weights of every type, epilogues as passes make them. */
#include <string.h>
#include "cases.h"

static const char *const schemes[] = {"int8_channel",  "int4_channel",       "int4_group64",
                                      "int4_group128", "int4_two_level_g64", "int4_two_level_g128"};
enum { N_SCHEMES = sizeof schemes / sizeof *schemes };

typedef struct shape {
    int n, k;
} shape;

/* The low-rank branch of `rank`, 0: none. x is quantized or rounded in a region of its own, beside the projection. */
static void linear(gpu_cases *c, const char *act, const char *weight, const char *epilogue, int rank, shape s,
                   int64_t max_rows) {
    syl_text t = {.arena = c->arena};
    bool integer = strcmp(act, "int8") == 0, plain = strcmp(act, "f32") == 0;
    bool bias = strstr(epilogue, "bias"), gate = strstr(epilogue, "gate"), residual = bias || gate;
    const char *out = strstr(epilogue, "bf16") ? "bf16" : "f32";
    int n = s.n, k = s.k;
    syl_text_printf(&t, "module @m { func @forward(%%x: tensor<Tx%dxf32>", k);
    if (residual) syl_text_printf(&t, ", %%r: tensor<Tx%dxf32>", n);
    if (gate) syl_text_printf(&t, ", %%g: tensor<Bx%dxf32>, %%sample: tensor<Txi32>", n);
    syl_text_printf(&t, ") -> tensor<Tx%dx%s> {\n%%w = materialized \"w\" : tensor<%dx%dx%s>\n", n, out, n, k,
                    weight);
    if (bias) syl_text_printf(&t, "%%b = materialized \"b\" : tensor<%dxf32>\n", n);
    if (rank)
        syl_text_printf(&t,
                        "%%d = materialized \"d\" : tensor<%dx%dxbf16>\n%%u = materialized \"u\" : "
                        "tensor<%dx%dxbf16>\n%%t = linear %%x, %%d : tensor<Tx%dx%s>\n",
                        rank, k, n, rank, rank, rank % 16 ? "f32" : "bf16");
    if (integer) syl_text_printf(&t, "%%q = quantize %%x : tensor<Tx%dxint8_token>\n", k);
    if (!integer && !plain) syl_text_printf(&t, "%%q = cast %%x : tensor<Tx%dxbf16>\n", k);
    if (rank) syl_text_printf(&t, "%%s = linear %%t, %%u : tensor<Tx%dxf32>\n", n);
    bool last = !rank && !gate && strcmp(epilogue, "silu") != 0 && strcmp(epilogue, "gelu") != 0 && !bias;
    syl_text_printf(&t, "%%m = linear %s, %%w%s : tensor<Tx%dx%s>\n", plain ? "%x" : "%q", bias ? ", %b" : "",
                    n, last ? out : "f32");
    const char *y = "%m";
    if (rank)
        syl_text_printf(&t, "%%a = add %s, %%s : tensor<Tx%dx%s>\n", y, n, residual ? "f32" : out), y = "%a";
    if (strstr(epilogue, "silu"))
        syl_text_printf(&t, "%%f = silu %s : tensor<Tx%dx%s>\n", y, n, out), y = "%f";
    if (strstr(epilogue, "gelu"))
        syl_text_printf(&t, "%%f = gelu %s {form = tanh} : tensor<Tx%dx%s>\n", y, n, out), y = "%f";
    if (gate) {
        syl_text_printf(&t,
                        "%%h = take %%g, %%sample : tensor<Tx%dxf32>\n%%i = mul %s, %%h : tensor<Tx%dxf32>\n",
                        n, y, n);
        y = "%i";
    }
    if (residual) syl_text_printf(&t, "%%j = add %%r, %s : tensor<Tx%dx%s>\n", y, n, out), y = "%j";
    syl_text_printf(&t, "return %s } }\n", y);

    bool exact = integer && !rank && !strstr(epilogue, "lu");
    char *name =
        syl_arena_printf(c->arena, "linear %s %s %s rank=%d %dx%d", act, weight, epilogue, rank, n, k);
    gpu_cases_add(c, (gpu_problem_spec){.nmse = exact ? 0 : 1e-5, .exact = integer, .max_rows = max_rows},
                  name, "%s", t.p);
}

/* One activation that both a GEMM and a row-wise kernel read: it is no tiled one, and tensor cores cannot have it. */
static void shared_codes(gpu_cases *c, const char *weight, shape s) {
    char *name = syl_arena_printf(c->arena, "linear shared-int8 %s %dx%d", weight, s.n, s.k);
    gpu_cases_add(
        c, (gpu_problem_spec){.exact = true, .max_rows = 1024}, name,
        "module @m { func @forward(%%x: tensor<Tx%dxf32>) -> (tensor<Tx%dxf32>, tensor<Tx%dxf32>) {\n"
        "%%w = materialized \"w\" : tensor<%dx%dx%s>\n%%q = quantize %%x : tensor<Tx%dxint8_token>\n"
        "%%y = linear %%q, %%w : tensor<Tx%dxf32>\n%%z = dequantize %%q : tensor<Tx%dxf32>\n"
        "return %%y, %%z } }\n",
        s.k, s.n, s.k, s.n, s.k, weight, s.k, s.n, s.k);
}

static void add_integers(gpu_cases *c) {
    static const shape shapes[] = {{1, 128}, {97, 384}, {130, 640}, {960, 1152}};
    static const char *const epilogues[] = {"plain", "bias", "silu", "gate", "bf16", "bias bf16"};
    for (int i = 0; i < N_SCHEMES; i++)
        for (int s = 0; s < 4; s++) {
            for (size_t e = 0; e < sizeof epilogues / sizeof *epilogues; e++)
                linear(c, "int8", schemes[i], epilogues[e], 0, shapes[s], 0);
            linear(c, "int8", schemes[i], s % 2 ? "bias" : "plain", 32, shapes[s], 0);
        }
    static const int ranks[] = {5, 16, 48, 64};
    for (int i = 0; i < N_SCHEMES; i++) {
        linear(c, "int8", schemes[i], "gate", ranks[i % 4], (shape){97, 384}, 0);
        linear(c, "int8", schemes[i], "bf16", ranks[(i + 1) % 4], (shape){960, 1152}, 0);
        shared_codes(c, schemes[i], (shape){97, 384});
    }
    /* sizes that divide nothing, where there are no groups; SmolLM2's */
    static const shape odd[] = {{13, 34}, {127, 130}, {61, 1026}, {193, 576}, {576, 1536}};
    for (size_t s = 0; s < sizeof odd / sizeof *odd; s++) {
        linear(c, "int8", "int8_channel", "bias", 0, odd[s], 0);
        linear(c, "int8", "int4_channel", "plain", 0, odd[s], 0);
    }
    static const shape prime[] = {{1, 1}, {3, 7}, {31, 127}, {257, 577}};
    for (size_t s = 0; s < sizeof prime / sizeof *prime; s++)
        linear(c, "int8", "int8_channel", "plain", 0, prime[s], 0);
    /* large */
    for (int i = 0; i < N_SCHEMES; i++)
        linear(c, "int8", schemes[i], "bias", i % 2 * 32, (shape){4096, 4096}, 0);
    linear(c, "int8", "int8_channel", "plain", 0, (shape){6144, 4096}, 2048);
    linear(c, "int8", "int4_two_level_g128", "plain", 0, (shape){4096, 14336}, 2048);
    linear(c, "int8", "int4_two_level_g64", "silu", 32, (shape){14336, 4096}, 2048);
}

static void add_floats(gpu_cases *c) {
    static const shape shapes[] = {{97, 384}, {130, 640}, {960, 1152}};
    static const char *const epilogues[] = {"plain", "bias bf16", "gate"};
    for (int i = -1; i < N_SCHEMES; i++) {
        const char *weight = i < 0 ? "bf16" : schemes[i];
        for (int s = 0; s < 3; s++) {
            for (int e = 0; e < 3; e++) linear(c, "bf16", weight, epilogues[e], 0, shapes[s], 0);
            linear(c, "bf16", weight, "plain", s ? 32 : 5, shapes[s], 0);
        }
    }
    for (int i = -2; i < N_SCHEMES; i++) {
        const char *weight = i == -2 ? "f32" : i < 0 ? "bf16" : schemes[i];
        linear(c, "f32", weight, "plain", 0, (shape){97, 384}, 1024);
        linear(c, "f32", weight, "bias", 0, (shape){200, 640}, 1024);
    }
    static const shape odd[] = {{1, 1}, {3, 7}, {61, 127}, {193, 577}};
    for (int s = 0; s < 4; s++) {
        linear(c, "f32", "f32", "gelu", 0, odd[s], 1024);
        linear(c, "f32", "bf16", "silu", 0, odd[s], 1024);
        linear(c, "bf16", "bf16", "silu", 0, odd[s], 0);
    }
    linear(c, "bf16", "bf16", "plain", 0, (shape){4096, 4096}, 0);
    linear(c, "bf16", "int4_two_level_g128", "plain", 0, (shape){4096, 4096}, 2048);
}

void gpu_cases_add_linear(gpu_cases *cases) {
    add_integers(cases);
    add_floats(cases);
}
