/* Row-wise kernels: elementwise ops, norms, transforms, quantize, positions, rows picked by an index. */
#include "cases.h"

#define NAME(...) syl_arena_printf(c->arena, __VA_ARGS__)

static const gpu_problem_spec close = {.nmse = 1e-7}, coded = {.nmse = 1e-5}, exactly = {.exact = true};

static void elementwise(gpu_cases *c, int w) {
    static const char *const unary[] = {"silu", "gelu tanh", "gelu erf"};
    static const char *const text[] = {"silu %x", "gelu %x {form = tanh}", "gelu %x {form = erf}"};
    for (int i = 0; i < 3; i++)
        gpu_cases_add(c, close, NAME("%s %d", unary[i], w),
                      "module @m { func @forward(%%x: tensor<Tx%dxf32>) -> tensor<Tx%dxf32> { %%y = %s : "
                      "tensor<Tx%dxf32> return %%y } }",
                      w, w, text[i], w);
    static const char *const pairs[] = {"mul", "add"}, *const types[] = {"f32", "bf16", "f16"};
    for (int i = 0; i < 2; i++)
        for (int in = 0; in < 3; in++)
            gpu_cases_add(c, close, NAME("%s %s %d", pairs[i], types[in], w),
                          "module @m { func @forward(%%x: tensor<Tx%dx%s>, %%z: tensor<Tx%dxf32>) -> "
                          "tensor<Tx%dx%s> { %%y = %s %%x, %%z : tensor<Tx%dx%s> return %%y } }",
                          w, types[in], w, w, types[(in + 1) % 3], pairs[i], w, types[(in + 1) % 3]);
    gpu_cases_add(
        c, close, NAME("gated %d of views", w),
        "module @m { func @forward(%%x: tensor<Tx%dxf32>) -> tensor<Tx%dxf32> { %%a = slice %%x {axis = "
        "1, begin = 0, end = %d} : tensor<Tx%dxf32> %%b = slice %%x {axis = 1, begin = %d, end = %d} : "
        "tensor<Tx%dxf32> %%s = silu %%a : tensor<Tx%dxf32> %%y = mul %%s, %%b : tensor<Tx%dxf32> return "
        "%%y } }",
        2 * w, w, w, w, w, 2 * w, w, w, w);
}

static void norms(gpu_cases *c, int w) {
    gpu_cases_add(
        c, close, NAME("rms_norm %d", w),
        "module @m { func @forward(%%x: tensor<Tx%dxf32>) -> tensor<Tx%dxf32> { %%y = rms_norm %%x {eps = "
        "1e-05} : tensor<Tx%dxf32> return %%y } }",
        w, w, w);
    gpu_cases_add(
        c, close, NAME("rms_norm gain %d", w),
        "module @m { func @forward(%%x: tensor<Tx%dxf32>) -> tensor<Tx%dxbf16> { %%g = materialized \"g\" : "
        "tensor<%dxf32> %%y = rms_norm %%x, %%g {eps = 1e-05} : tensor<Tx%dxbf16> return %%y } }",
        w, w, w, w);
    gpu_cases_add(
        c, close, NAME("layer_norm gain bias %d", w),
        "module @m { func @forward(%%x: tensor<Tx%dxf32>) -> tensor<Tx%dxf32> { %%g = materialized \"g\" : "
        "tensor<%dxf32> %%b = materialized \"b\" : tensor<%dxf32> %%y = layer_norm %%x, %%g, %%b {eps = "
        "1e-06} : tensor<Tx%dxf32> return %%y } }",
        w, w, w, w, w);
    gpu_cases_add(
        c, close, NAME("modulated layer_norm %d", w),
        "module @m { func @forward(%%x: tensor<Tx%dxf32>, %%m: tensor<Bx%dxf32>, %%sample: tensor<Txi32>) -> "
        "tensor<Tx%dxf32> { %%n = layer_norm %%x {eps = 1e-06} : tensor<Tx%dxf32> %%a = slice %%m {axis = 1, "
        "begin = 0, end = %d} : tensor<Bx%dxf32> %%s = take %%a, %%sample : tensor<Tx%dxf32> %%b = slice %%m "
        "{axis = 1, begin = %d, end = %d} : tensor<Bx%dxf32> %%h = take %%b, %%sample : tensor<Tx%dxf32> %%k "
        "= "
        "mul %%n, %%s : tensor<Tx%dxf32> %%l = add %%n, %%k : tensor<Tx%dxf32> %%o = add %%l, %%h : "
        "tensor<Tx%dxf32> return %%o } }",
        w, 2 * w, w, w, w, w, w, w, 2 * w, w, w, w, w, w);
    /* a region of its own, since fuse would join quantize and dequantize */
    gpu_cases_add(
        c, coded, NAME("rms_norm quantize dequantize %d", w),
        "module @m { func @forward(%%x: tensor<Tx%dxf32>) -> tensor<Tx%dxf32> { %%q = fused : "
        "tensor<Tx%dxint8_token> { %%n = rms_norm %%x {eps = 1e-05} : tensor<Tx%dxf32> %%c = "
        "quantize %%n : tensor<Tx%dxint8_token> yield %%c } %%y = dequantize %%q : tensor<Tx%dxf32> "
        "return %%y } }",
        w, w, w, w, w, w);
    gpu_cases_add(c, exactly, NAME("quantize dequantize %d", w),
                  "module @m { func @forward(%%x: tensor<Tx%dxf32>) -> tensor<Tx%dxf32> { %%q = fused : "
                  "tensor<Tx%dxint8_token> { %%c = quantize %%x : tensor<Tx%dxint8_token> yield %%c } %%y = "
                  "dequantize %%q : tensor<Tx%dxf32> return %%y } }",
                  w, w, w, w, w);
}

static void head_norm(gpu_cases *c, int heads, int dim) {
    int w = heads * dim;
    gpu_cases_add(
        c, close, NAME("rms_norm %d heads of %d", heads, dim),
        "module @m { func @forward(%%x: tensor<Tx%dxf32>) -> tensor<Tx%dxf32> { %%g = materialized \"g\" : "
        "tensor<%dxf32> %%y = rms_norm %%x, %%g {eps = 1e-06, heads = %d} : tensor<Tx%dxf32> return %%y } }",
        w, w, w, heads, w);
}

static void transform(gpu_cases *c, int w, const char *factors, const char *transpose) {
    int64_t rows = w > 8192 ? 2048 : 0;
    gpu_problem_spec plain = close, quantized = coded;
    plain.max_rows = quantized.max_rows = rows;
    gpu_cases_add(c, plain, NAME("hadamard [%s]%s of %d", factors, transpose, w),
                  "module @m { func @forward(%%x: tensor<Tx%dxf32>) -> tensor<Tx%dxf32> { %%y = hadamard %%x "
                  "{axis = 1, "
                  "factors = [%s]%s} : tensor<Tx%dxf32> return %%y } }",
                  w, w, factors, transpose, w);
    gpu_cases_add(
        c, quantized, NAME("silu mul hadamard [%s]%s quantize of %d", factors, transpose, w),
        "module @m { func @forward(%%x: tensor<Tx%dxf32>, %%z: tensor<Tx%dxf32>) -> tensor<Tx%dxf32> { %%q = "
        "fused : tensor<Tx%dxint8_token> { %%s = silu %%x : tensor<Tx%dxf32> %%m = mul %%s, %%z : "
        "tensor<Tx%dxf32> %%h = hadamard %%m {axis = 1, factors = [%s]%s} : tensor<Tx%dxf32> %%c = quantize "
        "%%h : tensor<Tx%dxint8_token> yield %%c } %%y = dequantize %%q : tensor<Tx%dxf32> return %%y } }",
        w, w, w, w, w, w, factors, transpose, w, w, w);
}

static void projection(gpu_cases *c, int w, const char *factors, int rank) {
    gpu_cases_add(
        c, coded, NAME("hadamard [%s] project %d quantize of %d", factors, rank, w),
        "module @m { func @forward(%%x: tensor<Tx%dxf32>) -> (tensor<Tx%dxf32>, tensor<Tx%dxf32>) { %%d = "
        "materialized \"d\" : tensor<%dx%dxbf16> %%u = materialized \"u\" : tensor<48x%dxbf16> %%w = "
        "materialized \"w\" : tensor<48x%dxint8_channel> %%h = hadamard %%x {axis = 1, factors = [%s]} : "
        "tensor<Tx%dxf32> %%t = linear %%h, %%d : tensor<Tx%dxf32> %%q = quantize %%h : "
        "tensor<Tx%dxint8_token> %%s = linear %%t, %%u : tensor<Tx48xf32> %%m = linear %%q, %%w : "
        "tensor<Tx48xf32> %%y = add %%m, %%s : tensor<Tx48xf32> %%z = linear %%t, %%u : tensor<Tx48xf32> "
        "return "
        "%%y, %%z } }",
        w, 48, 48, rank, w, rank, w, factors, w, rank, w);
}

static void positions(gpu_cases *c) {
    static const char *const scalings[] = {
        "", ", factor = 4.0, scaling = linear",
        ", factor = 8.0, high = 4.0, low = 1.0, original = 8192, scaling = llama3"};
    for (int i = 0; i < 3; i++)
        gpu_cases_add(c, (gpu_problem_spec){.nmse = 1e-7, .others = 100000}, NAME("rope_table %d", i),
                      "module @m { func @forward(%%pos: tensor<Txi32>) -> tensor<Tx64xf32> { %%y = "
                      "rope_table %%pos {base "
                      "= 100000.0, dims = 64%s} : tensor<Tx64xf32> return %%y } }",
                      scalings[i]);
    static const struct {
        int heads, dim, dims;
        const char *style;
    } ropes[] = {
        {9, 64, 64, "interleaved"}, {8, 128, 128, "half"}, {3, 80, 32, "half"}, {2, 10, 6, "interleaved"}};
    for (int i = 0; i < 4; i++) {
        int w = ropes[i].heads * ropes[i].dim;
        gpu_cases_add(
            c, close,
            NAME("rope %d heads of %d dims %d %s", ropes[i].heads, ropes[i].dim, ropes[i].dims,
                 ropes[i].style),
            "module @m { func @forward(%%x: tensor<Tx%dxf32>, %%t: tensor<Tx%dxf32>) -> tensor<Tx%dxf32> { "
            "%%y = rope %%x, %%t {heads = %d, style = %s} : tensor<Tx%dxf32> return %%y } }",
            w, ropes[i].dims, w, ropes[i].heads, ropes[i].style, w);
    }
    static const int dims[] = {20, 256};
    for (int i = 0; i < 2; i++)
        gpu_cases_add(c, close, NAME("timestep_embedding %d", dims[i]),
                      "module @m { func @forward(%%t: tensor<Txf32>) -> tensor<Tx%dxf32> { %%y = "
                      "timestep_embedding %%t "
                      "{base = 10000.0, dims = %d, scale = 1000.0} : tensor<Tx%dxf32> return %%y } }",
                      dims[i], dims[i], dims[i]);
}

static void picked(gpu_cases *c, const char *type, int w, const char *factors) {
    gpu_cases_add(
        c, (gpu_problem_spec){.nmse = 1e-7, .others = 1000}, NAME("embedding %s signs hadamard %d", type, w),
        "module @m { func @forward(%%ids: tensor<Txi32>) -> tensor<Tx%dxf32> { %%w = materialized \"e\" : "
        "tensor<1000x%dx%s> %%e = embedding %%ids, %%w : tensor<Tx%dxf32> %%s = signs %%e {axis = 1, seed = "
        "3} : "
        "tensor<Tx%dxf32> %%y = hadamard %%s {axis = 1, factors = [%s]} : tensor<Tx%dxf32> return %%y } }",
        w, w, type, w, w, factors, w);
    gpu_cases_add(
        c, (gpu_problem_spec){.nmse = 1e-7, .others = 77}, NAME("take %s norm %d", type, w),
        "module @m { func @forward(%%x: tensor<Bx%dx%s>, %%rows: tensor<Txi32>) -> tensor<Tx%dxf32> { %%t = "
        "take "
        "%%x, %%rows : tensor<Tx%dxf32> %%y = rms_norm %%t {eps = 1e-05} : tensor<Tx%dxf32> return %%y } }",
        w, type, w, w, w);
}

void gpu_cases_add_rows(gpu_cases *c) {
    static const int widths[] = {1, 33, 577, 4096};
    for (int i = 0; i < 4; i++) {
        elementwise(c, widths[i]);
        norms(c, widths[i]);
    }
    norms(c, 5120);
    norms(c, 14336 / 2);
    head_norm(c, 8, 128);
    head_norm(c, 3, 20);
    head_norm(c, 14, 64);
    static const struct {
        int width;
        const char *factors;
    } sizes[] = {{2, "2"},           {16, "16"},         {12, "12"},     {20, "20"},      {28, "28"},
                 {36, "36"},         {60, "4"},          {256, "128"},   {576, "36, 16"}, {1536, "12, 128"},
                 {1920, "60, 32"},   {2560, "20, 128"},  {4096, "4096"}, {8192, "8192"},  {8192, "64, 128"},
                 {14336, "28, 512"}, {18944, "148, 128"}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        transform(c, sizes[i].width, sizes[i].factors, "");
    transform(c, 576, "36, 16", ", transpose = true");
    transform(c, 640, "20, 32", ", transpose = true");
    projection(c, 576, "36, 16", 32);
    projection(c, 1536, "12, 128", 16);
    projection(c, 4096, "4096", 64);
    projection(c, 640, "20, 32", 5);
    positions(c);
    picked(c, "f32", 33, "1");
    picked(c, "bf16", 576, "36, 16");
    picked(c, "bf16", 4096, "4096");
}
