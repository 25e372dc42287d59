/* Materialize: what is stored computes the same, to the bit, as the reference on the expressions it replaces.
 */
#include "driver_testing.h"

#include <pthread.h>

/* Stored bytes, kept in memory. */
typedef struct store {
    fixture *f;
    syl_map tensors; /* "name" or "name.scale" -> bytes, as long as asked for */
} store;

enum { CAPACITY = 4 << 20 };
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static syl_status keep(void *user, const char *name, int part, size_t offset, const void *data, size_t size) {
    store *s = user;
    if (offset + size > CAPACITY) return SYL_INTERNAL;
    pthread_mutex_lock(&lock);
    const char *full = syl_arena_printf(&s->f->arena, "%s%s", name, part ? ".scale" : "");
    void **slot = syl_map_slot(&s->tensors, full, strlen(full), NULL);
    if (!*slot) *slot = syl_arena_alloc(&s->f->arena, CAPACITY);
    memcpy((char *)*slot + offset, data, size);
    pthread_mutex_unlock(&lock);
    return SYL_OK;
}

static syl_status read_kept(void *user, const char *name, const syl_type *type, syl_diag *diag,
                            syl_ref_tensor *out) {
    store *s = user;
    const unsigned char *data = syl_map_get_str(&s->tensors, name);
    int64_t n = 0;
    (void)diag;
    assert_non_null(data);
    assert_true(syl_type_elements(type, &n));
    const char *scale_name = syl_arena_printf(&s->f->arena, "%s.scale", name);
    const float *scales = syl_map_get_str(&s->tensors, scale_name);
    if (out->codes) {
        assert_non_null(scales);
        memcpy(out->codes, data, (size_t)n);
        for (int64_t i = 0; i < type->dims[0].size; i++) out->scales[i] = scales[i];
        return SYL_OK;
    }
    for (int64_t i = 0; i < n; i++) {
        out->data[i] = type->dtype == SYL_f32   ? ((const float *)data)[i]
                       : type->dtype == SYL_f16 ? syl_f16_to_f32(((const uint16_t *)data)[i])
                                                : syl_bf16_to_f32(((const uint16_t *)data)[i]);
    }
    return SYL_OK;
}

static void run_pipeline(fixture *f, syl_module *module, const char *text) {
    syl_source source = {"passes", text, strlen(text)};
    syl_pipeline *pipeline;
    fixture_ok(f, syl_pipeline_parse(&f->arena, &source, f->diag, &pipeline));
    fixture_ok(f, syl_pipeline_run(pipeline, module, f->diag, NULL));
}

static void materialize(fixture *f, syl_module *module, store *s) {
    syl_materializer *m;
    fixture_ok(f, syl_materialize_begin(module, f->diag, &m));
    fixture_ok(f, syl_module_verify(module, f->diag));
    fixture_ok(f, syl_materialize_run(m, f->pool, keep, s, NULL, NULL));
    syl_materialize_end(m);
}

static void stored_weights_equal_the_reference(void **state) {
    (void)state;
    static const char *const pipelines[] = {
        "group,round-weights{type=f32}",
        "fold-norms,rotate-residual,rotate-values,rotate-down,group,round-weights{type=bf16}",
        ("fold-norms,rotate-residual,rotate-values,rotate-down,group,quantize-weights,round-weights,"
         "canonicalize,cse,dce"),
        "rotate-residual{seed=7},quantize-weights{clip=absmax},round-weights{type=f16}",
    };
    for (uint64_t seed = 0; seed < 40; seed++) {
        fixture f;
        ir_random r;
        fixture_open(&f, 1 + (int)(seed % 3));
        store s = {.f = &f};
        syl_map_init(&s.tensors, &f.arena);
        syl_module *module = ir_random_module(seed, &r);
        write_weights(&f, module, &r, test_path(&f, "weights.safetensors"));
        run_pipeline(&f, module, pipelines[seed % 4]);
        ir_random_outputs before = ir_random_run(module, &r, SYL_REF_F32, f.diag);
        materialize(&f, module, &s);
        syl_ref_weights weights = {&s, NULL, read_kept};
        ir_random_outputs after = ir_random_run_with(module, &r, &weights, SYL_REF_F32, f.diag);
        double error = ir_random_error(&before, &after);
        if (error != 0) fail_msg("seed %d: %g: %s", (int)seed, error, f.messages.p ? f.messages.p : "-");
        ir_random_free(&before);
        ir_random_free(&after);
        syl_module_destroy(module);
        fixture_close(&f);
    }
}

/* A tensor of several blocks, whose bounds meet neither those of the transform nor of its parts. */
#define BLOCKS_IR(root)                                                                                      \
    "module @blocks {\n"                                                                                     \
    "  source \"s\"\n"                                                                                       \
    "  func @forward(%x: tensor<Tx256xf32>) -> tensor<Tx2028xf32> {\n"                                       \
    "    %a = weight \"a\" : tensor<1030x256xreal>\n"                                                        \
    "    %b = weight \"b\" : tensor<1000x256xreal>\n"                                                        \
    "    %c = concat %a, %b {axis = 0} : tensor<2030x256xreal>\n"                                            \
    "    %s = signs %c {axis = 0, seed = 3} : tensor<2030x256xreal>\n"                                       \
    "    %h = hadamard %s {axis = 0, factors = [2]} : tensor<2030x256xreal>\n"                               \
    "    %l = slice %h {axis = 0, begin = 1, end = 2029} : tensor<2028x256xreal>\n" root                     \
    "    %y = linear %x, %w : tensor<Tx2028xf32>\n"                                                          \
    "    return %y\n"                                                                                        \
    "  }\n"                                                                                                  \
    "}\n"

static void check_blocks(const char *text) {
    fixture f;
    ir_random r = {.seed = 5};
    fixture_open(&f, 2);
    store s = {.f = &f};
    syl_map_init(&s.tensors, &f.arena);
    syl_source source = {"blocks.sir", text, strlen(text)};
    syl_module *module;
    fixture_ok(&f, syl_module_parse(&source, f.diag, &module));
    fixture_ok(&f, syl_module_verify(module, f.diag));
    write_weights(&f, module, &r, test_path(&f, "blocks.safetensors"));
    syl_ref_value x = {.tensor = syl_ref_tensor_create(SYL_f32, 2, (int64_t[]){2, 256})}, before, after;
    for (int i = 0; i < 512; i++) x.tensor->data[i] = (float)(i * 29 % 64 - 31);
    syl_ref_weights weights = {&r, ir_random_weights, NULL}, kept = {&s, NULL, read_kept};
    fixture_ok(&f, syl_ref_run(module->funcs, &x, 1, &weights, SYL_REF_F32, f.diag, &before));
    materialize(&f, module, &s);
    fixture_ok(&f, syl_ref_run(module->funcs, &x, 1, &kept, SYL_REF_F32, f.diag, &after));
    assert_memory_equal(before.tensor->data, after.tensor->data, 2 * 2028 * sizeof(double));
    syl_ref_tensor_release(x.tensor);
    syl_ref_tensor_release(before.tensor);
    syl_ref_tensor_release(after.tensor);
    syl_module_destroy(module);
    fixture_close(&f);
}

static void blocks_fit_together(void **state) {
    (void)state;
    check_blocks(BLOCKS_IR("    %w = cast %l : tensor<2028x256xf32>\n"));
    check_blocks(BLOCKS_IR("    %q = quantize %l : tensor<2028x256xint8_channel>\n"
                           "    %w = dequantize %q : tensor<2028x256xf32>\n"));
}

/* No weight-side op and no source is left. */
static void the_module_is_final(void **state) {
    (void)state;
    fixture f;
    ir_random r;
    fixture_open(&f, 1);
    store s = {.f = &f};
    syl_map_init(&s.tensors, &f.arena);
    syl_module *module = ir_random_module(3, &r);
    write_weights(&f, module, &r, test_path(&f, "weights.safetensors"));
    run_pipeline(&f, module, "group,quantize-weights,round-weights");
    materialize(&f, module, &s);
    syl_text text = {.arena = &f.arena};
    syl_module_print(module, &text);
    assert_null(strstr(text.p, "xreal>"));
    assert_null(strstr(text.p, test_folder));
    assert_non_null(strstr(text.p, "materialized \"token_embd.weight\""));
    syl_module_destroy(module);
    fixture_close(&f);
}

/* ---- errors ---- */

static const char *const head = "module @m {\n"
                                "  source \"%s\"\n"
                                "  func @forward(%%x: tensor<Tx4xf32>) -> tensor<Tx3xf32> {\n"
                                "    %%w = weight \"w\" : tensor<3x4xreal>\n";

static syl_module *parse(fixture *f, const char *body) {
    syl_source *source = SYL_NEW(&f->arena, syl_source);
    syl_text text = {.arena = &f->arena};
    syl_text_printf(&text, head, test_path(f, "w.safetensors"));
    syl_text_printf(&text, "%s  }\n}\n", body);
    *source = (syl_source){"test.sir", text.p, text.n};
    syl_module *module;
    fixture_ok(f, syl_module_parse(source, f->diag, &module));
    fixture_ok(f, syl_module_verify(module, f->diag));
    return module;
}

static void write_matrix(fixture *f, const double values[12]) {
    syl_st_writer *writer;
    int id;
    fixture_ok(f, syl_st_writer_create(test_path(f, "w.safetensors"), f->diag, &writer));
    fixture_ok(f, syl_st_writer_declare(writer, "w", SYL_ST_F64, 2, (int64_t[]){3, 4}, &id));
    fixture_ok(f, syl_st_writer_begin(writer));
    fixture_ok(f, syl_st_writer_write(writer, id, 0, values, 12 * sizeof *values));
    fixture_ok(f, syl_st_writer_commit(writer));
}

#define LINEAR(w) "    %y = linear %x, %" w " : tensor<Tx3xf32>\n    return %y\n"

static syl_status try_materialize(fixture *f, const char *body) {
    store s = {.f = f};
    syl_map_init(&s.tensors, &f->arena);
    syl_module *module = parse(f, body);
    syl_materializer *m;
    syl_status status = syl_materialize_begin(module, f->diag, &m);
    if (status == SYL_OK) {
        status = syl_materialize_run(m, f->pool, keep, &s, NULL, NULL);
        syl_materialize_end(m);
    }
    syl_module_destroy(module);
    return status;
}

static void bad_weights_are_named(void **state) {
    (void)state;
    static const struct {
        const char *what, *body, *error, *said;
        double value;
    } cases[] = {
        {"a real value that is never rounded", LINEAR("w"), "materialize-real",
         "weight \"w\" and was never rounded", 1},
        {"a NaN", "    %c = cast %w : tensor<3x4xf32>\n" LINEAR("c"), "materialize-value",
         "element [1, 2] of weight \"w\" is not a number", NAN},
        {"an infinity", "    %c = cast %w : tensor<3x4xbf16>\n" LINEAR("c"), "materialize-value",
         "is infinite", -INFINITY},
        {"too large for f16", "    %c = cast %w : tensor<3x4xf16>\n" LINEAR("c"), "materialize-value",
         "too large for f16", 70000},
        {"too large for f32", "    %c = cast %w : tensor<3x4xf32>\n" LINEAR("c"), "materialize-value",
         "too large for f32", 1e39},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture f;
        fixture_open(&f, 2);
        double values[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
        values[6] = cases[i].value;
        write_matrix(&f, values);
        syl_status status = try_materialize(&f, cases[i].body);
        if (status == SYL_OK || !fixture_said(&f, cases[i].error) || !fixture_said(&f, cases[i].said)) {
            fail_msg("%s: %s: %s", cases[i].what, syl_status_name(status), f.messages.p ? f.messages.p : "-");
        }
        fixture_close(&f);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stored_weights_equal_the_reference),
        cmocka_unit_test(blocks_fit_together),
        cmocka_unit_test(the_module_is_final),
        cmocka_unit_test(bad_weights_are_named),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
