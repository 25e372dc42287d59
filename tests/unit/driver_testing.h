/* What the tests of the driver share: random models with a weight file, compiled, loaded, and run both by the
 * reference and by generated code. */
#ifndef TESTS_UNIT_DRIVER_TESTING_H
#define TESTS_UNIT_DRIVER_TESTING_H

#include "base/numeric.h"
#include "driver/compile.h"
#include "driver/materialize.h"
#include "ir_random.h"
#include "runtime/exec.h"
#include "runtime_testing.h"

/* Writes the weights of a random module as F64 to a safetensors file and makes it the module's source. */
static inline void write_weights(fixture *f, syl_module *module, ir_random *r, const char *path) {
    syl_st_writer *writer;
    fixture_ok(f, syl_st_writer_create(path, f->diag, &writer));
    for (int pass = 0; pass < 2; pass++) {
        int id = 0;
        for (const syl_op *op = module->funcs->body->first; op; op = op->next) {
            if (op->code != SYL_OP_weight) continue;
            const syl_type *type = &syl_result(op)->type;
            int64_t shape[SYL_MAX_RANK], n;
            for (int i = 0; i < type->rank; i++) shape[i] = type->dims[i].size;
            assert_true(syl_type_elements(type, &n));
            if (pass == 0) {
                fixture_ok(f, syl_st_writer_declare(writer, syl_attr_str(op, "name"), SYL_ST_F64, type->rank,
                                                    shape, &id));
                continue;
            }
            double *data = SYL_NEW_ARRAY(&f->arena, double, (size_t)n);
            fixture_ok(f, ir_random_weights(r, syl_attr_str(op, "name"), 0, type, f->diag, data));
            fixture_ok(f, syl_st_writer_write(writer, id++, 0, data, (size_t)n * sizeof *data));
        }
        if (pass == 0) fixture_ok(f, syl_st_writer_begin(writer));
    }
    fixture_ok(f, syl_st_writer_commit(writer));
    module->sources.p[0] = syl_arena_strdup(&module->arena, path);
}

/* The `materialized` callback of the reference, from an artifact. */
static inline syl_status read_materialized(void *user, const char *name, const syl_type *type, syl_diag *diag,
                                           syl_ref_tensor *out) {
    const syl_artifact *artifact = user;
    const syl_st_tensor *tensor = syl_safetensors_find(&artifact->file, name);
    const unsigned char *data = syl_safetensors_data(&artifact->file, tensor);
    int64_t n = 0;
    (void)diag;
    if (!syl_type_elements(type, &n)) return SYL_INTERNAL;
    if (tensor->dtype == SYL_ST_I8) {
        char scale_name[300];
        snprintf(scale_name, sizeof scale_name, "%s.scale", name);
        const syl_st_tensor *scale = syl_safetensors_find(&artifact->file, scale_name);
        memcpy(out->codes, data, (size_t)n);
        for (int64_t i = 0; i < type->dims[0].size; i++) {
            float s;
            memcpy(&s, (const char *)syl_safetensors_data(&artifact->file, scale) + 4 * i, 4);
            out->scales[i] = s;
        }
        return SYL_OK;
    }
    for (int64_t i = 0; i < n; i++) {
        uint16_t h;
        float s;
        if (tensor->dtype == SYL_ST_F32) {
            memcpy(&s, data + 4 * i, 4);
        } else {
            memcpy(&h, data + 2 * i, 2);
            s = syl_bf16_to_f32(h);
        }
        out->data[i] = s;
    }
    return SYL_OK;
}

/* Compiles the random module of `seed` to `path`. */
static inline void compile_random(fixture *f, uint64_t seed, const char *recipe, const char *path,
                                  ir_random *r) {
    syl_model model = {.module = ir_random_module(seed, r), .context_length = 300};
    const char *weights = test_path(f, "weights.safetensors");
    write_weights(f, model.module, r, weights);
    syl_compile_options options = {.recipe = recipe};
    syl_compile_stats stats = {0};
    fixture_ok(f, syl_compile_model(&model, weights, path, &options, f->pool, f->diag, &stats));
    syl_module_destroy(model.module);
}

#endif
