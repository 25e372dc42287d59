/* A kernel compiled, loaded and run (self_test.h). Nothing is cached: the test must really compile. */
#include "driver/self_test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "passes/pass.h"

enum { ROWS = 3, COLS = 64 };

static const char program[] = "module @doctor {\n"
                              "  func @forward(%x: tensor<Tx64xf32>) -> tensor<Tx64xf32> {\n"
                              "    %y = silu %x : tensor<Tx64xf32>\n"
                              "    return %y\n"
                              "  }\n"
                              "}\n";

static syl_status check_result(const float *x, const float *y, syl_diag *diag) {
    for (int i = 0; i < ROWS * COLS; i++) {
        double want = x[i] / (1 + exp(-(double)x[i]));
        if (fabs(y[i] - want) <= 1e-6 * (1 + fabs(want))) continue;
        return syl_error(diag, SYL_ERR_doctor_result, SYL_NOWHERE,
                         "the self-test computed %.9g where %.9g was expected", (double)y[i], want);
    }
    return SYL_OK;
}

static syl_status run_step(const syl_plan *plan, const syl_host_code *code, syl_arena *arena,
                           syl_diag *diag) {
    const syl_plan_step *step = &plan->steps.p[0];
    const kir_kernel *kernel = plan->kernels.p[step->kernel];
    size_t bytes = ROWS * COLS * sizeof(float);
    float *x = syl_alloc_aligned(bytes + 64), *y = syl_alloc_aligned(bytes + 64);
    void *scratch = syl_alloc_aligned((size_t)kir_scratch(kernel) + 64);
    void **buffers = SYL_NEW_ARRAY(arena, void *, (size_t)step->n_args);
    syl_status status = SYL_OK;
    if (!x || !y || !scratch) {
        status = syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for the self-test");
    } else {
        for (int i = 0; i < ROWS * COLS; i++) x[i] = (float)(i - 90) / 16;
        memset(y, 0, bytes);
        for (int i = 0; i < step->n_args; i++) buffers[i] = step->args[i].kind == SYL_ARG_INPUT ? x : y;
        syl_host_function(code, step->kernel)(buffers, ROWS, 0, kir_tasks(kernel, ROWS), scratch);
        status = check_result(x, y, diag);
    }
    free(x);
    free(y);
    free(scratch);
    return status;
}

static syl_status plan_and_run(const syl_module *module, const syl_host_target *target, syl_arena *arena,
                               syl_diag *diag) {
    syl_plan *plan;
    syl_host_code *code = NULL;
    syl_host_options host = {.threads = 1};
    SYL_TRY(syl_plan_create(module, target, diag, &plan));
    syl_status status = syl_host_compile(plan, target, &host, diag, NULL, &code);
    if (status == SYL_OK) status = run_step(plan, code, arena, diag);
    syl_host_code_destroy(code);
    syl_plan_destroy(plan);
    return status;
}

static syl_status optimize_and_run(const syl_host_target *target, syl_arena *arena, syl_diag *diag) {
    static const char passes[] = "fuse,plan-memory";
    syl_source source = {"self-test", program, sizeof program - 1},
               text = {"self-test", passes, sizeof passes - 1};
    syl_module *module;
    syl_pipeline *pipeline;
    SYL_TRY(syl_pipeline_parse(arena, &text, diag, &pipeline));
    SYL_TRY(syl_module_parse(&source, diag, &module));
    syl_status status = syl_pipeline_run(pipeline, module, diag, NULL);
    if (status == SYL_OK) status = plan_and_run(module, target, arena, diag);
    syl_module_destroy(module);
    return status;
}

syl_status syl_self_test(const syl_host_target *target, syl_diag *diag) {
    syl_arena arena;
    syl_arena_init(&arena);
    syl_status status = optimize_and_run(target, &arena, diag);
    syl_arena_free(&arena);
    return status;
}
