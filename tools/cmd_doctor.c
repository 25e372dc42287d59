/* syl doctor: is this machine fit, and if not, what to do. Ends with the status of the first check that failed. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/size.h"
#include "codegen/host/host.h"
#include "driver/cache.h"
#include "driver/machine.h"
#include "passes/pass.h"
#include "runtime/engine.h"
#include "tools/sizes.h"
#include "tools/tool.h"

static const opt_spec options[] = {{0}};

typedef struct doctor {
    tool *t;
    syl_text text; /* the report */
    int failed;
    syl_status status; /* of the first failure */
} doctor;

/* Failures report themselves on stderr, with their help; the report names the check. */
static void note(doctor *d, const char *check, syl_status status, const char *found) {
    if (d->t->json) {
        syl_text_printf(&d->text, "%s{\"check\": \"%s\", \"ok\": %s, \"found\": ", d->text.n ? ", " : "",
                        check, status == SYL_OK ? "true" : "false");
        syl_json_quote(&d->text, found);
        syl_text_printf(&d->text, "}");
    } else {
        syl_text_printf(&d->text, "%-7s %-10s %s\n", status == SYL_OK ? "ok" : "FAILED", check, found);
    }
    if (status == SYL_OK) return;
    d->failed++;
    if (d->status == SYL_OK) d->status = status;
}

/* ---- the self-test: a kernel compiled, loaded and run ---- */

enum { ROWS = 3, COLS = 64 };

static const char self_test[] = "module @doctor {\n"
                                "  func @forward(%x: tensor<Tx64xf32>) -> tensor<Tx64xf32> {\n"
                                "    %y = silu %x : tensor<Tx64xf32>\n"
                                "    return %y\n"
                                "  }\n"
                                "}\n";

static syl_status run_step(tool *t, const syl_plan *plan, const syl_host_code *code) {
    const syl_plan_step *step = &plan->steps.p[0];
    const kir_kernel *kernel = plan->kernels.p[step->kernel];
    size_t bytes = ROWS * COLS * sizeof(float);
    float *x = syl_alloc_aligned(bytes + 64), *y = syl_alloc_aligned(bytes + 64);
    void *scratch = syl_alloc_aligned((size_t)kir_scratch(kernel) + 64);
    void **buffers = SYL_NEW_ARRAY(&t->arena, void *, (size_t)step->n_args);
    syl_status status = SYL_OK;
    if (!x || !y || !scratch) {
        status = syl_error(t->diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for the self-test");
    } else {
        for (int i = 0; i < ROWS * COLS; i++) x[i] = (float)(i - 90) / 16;
        memset(y, 0, bytes);
        for (int i = 0; i < step->n_args; i++) buffers[i] = step->args[i].kind == SYL_ARG_INPUT ? x : y;
        syl_host_function(code, step->kernel)(buffers, ROWS, 0, kir_tasks(kernel, ROWS), scratch);
        for (int i = 0; i < ROWS * COLS && status == SYL_OK; i++) {
            double want = x[i] / (1 + exp(-(double)x[i]));
            if (fabs(y[i] - want) <= 1e-6 * (1 + fabs(want))) continue;
            status = syl_error(t->diag, SYL_ERR_doctor_result, SYL_NOWHERE,
                               "the self-test computed %.9g where %.9g was expected", (double)y[i], want);
        }
    }
    free(x);
    free(y);
    free(scratch);
    return status;
}

static syl_status plan_and_run(tool *t, const syl_module *module, const syl_host_target *target) {
    syl_plan *plan;
    syl_host_code *code = NULL;
    syl_host_options host = {.threads = 1};
    SYL_TRY(syl_plan_create(module, target, t->diag, &plan));
    syl_status status = syl_host_compile(plan, target, &host, t->diag, NULL, &code);
    if (status == SYL_OK) status = run_step(t, plan, code);
    syl_host_code_destroy(code);
    syl_plan_destroy(plan);
    return status;
}

static syl_status self_test_kernel(tool *t, const syl_host_target *target) {
    static const char passes[] = "fuse,plan-memory";
    syl_source source = {"self-test", self_test, sizeof self_test - 1},
               text = {"self-test", passes, sizeof passes - 1};
    syl_module *module;
    syl_pipeline *pipeline;
    SYL_TRY(syl_pipeline_parse(&t->arena, &text, t->diag, &pipeline));
    SYL_TRY(syl_module_parse(&source, t->diag, &module));
    syl_status status = syl_pipeline_run(pipeline, module, t->diag, NULL);
    if (status == SYL_OK) status = plan_and_run(t, module, target);
    syl_module_destroy(module);
    return status;
}

/* ---- the checks ---- */

static void check_cpu(doctor *d) {
    tool *t = d->t;
    syl_host_target *target = SYL_NEW(&t->arena, syl_host_target);
    syl_status status = syl_host_target_find(t->cpu, t->diag, target);
    const char *found = "not found";
    if (status == SYL_OK)
        found = syl_arena_printf(&t->arena, "%s: vectors of %d floats%s, %d cores%s", target->cpu,
                                 target->vector_floats, target->fma ? ", fused multiply-add" : "",
                                 syl_cpu_count(),
                                 target->vector_floats < 8 ? "; without AVX2 everything is slow" : "");
    note(d, "cpu", status, found);
    if (status != SYL_OK) return;
    double start = tool_seconds();
    status = self_test_kernel(t, target);
    found = status == SYL_OK ? syl_arena_printf(&t->arena, "a kernel was compiled and run in %.2f s",
                                                tool_seconds() - start)
                             : "a kernel could not be compiled and run";
    note(d, "self-test", status, found);
}

static void check_disk(doctor *d, const char *check, const char *path) {
    int64_t bytes;
    uint64_t disk;
    tool *t = d->t;
    if (!syl_machine_disk(path, &bytes, &disk)) return;
    syl_status status = SYL_OK;
    if (bytes < (int64_t)1 << 30) {
        status = syl_error(t->diag, SYL_ERR_compile_disk, SYL_NOWHERE, "the disk of \"%s\" has only %s free",
                           path, size_text(&t->arena, bytes));
    }
    note(d, check, status, syl_arena_printf(&t->arena, "%s free at %s", size_text(&t->arena, bytes), path));
}

static void check_cache(doctor *d) {
    tool *t = d->t;
    const char *folder = NULL;
    syl_cache_list cache = {0};
    syl_status status = syl_cache_folder(&t->arena, t->diag, &folder);
    if (status == SYL_OK && folder) status = syl_cache_read(&t->arena, folder, t->diag, &cache);
    const char *found = status != SYL_OK ? "not usable"
                        : !folder        ? "none: HOME is not set; every start compiles its kernels"
                                  : syl_arena_printf(&t->arena, "%s: %zu files, %s", folder, cache.entries.n,
                                                     size_text(&t->arena, cache.bytes));
    note(d, "cache", status, found);
    if (status == SYL_OK && folder) check_disk(d, "cache disk", folder);
}

/* Only GPUs need their driver and NVRTC: a machine without a GPU is fit all the same. */
static void check_nvrtc(doctor *d, syl_instance *instance, bool needed) {
    tool *t = d->t;
    syl_nvrtc_info info = {.size = sizeof info};
    syl_status status = syl_instance_nvrtc(instance, &info);
    const char *found = "not looked for";
    if (status == SYL_OK && info.usable) {
        found = syl_arena_printf(&t->arena, "%d.%d at %s; a kernel for GPUs was compiled in %.2f s",
                                 info.major, info.minor, info.path, info.seconds);
    } else if (status == SYL_OK) {
        found = syl_arena_printf(&t->arena, "none to use, so no CUDA devices: %s; %s", info.why, info.help);
        if (needed) status = syl_error(t->diag, SYL_ERR_nvrtc_missing, SYL_NOWHERE, "%s", info.why);
    }
    note(d, "nvrtc", status, found);
}

static void check_cuda(doctor *d) {
    tool *t = d->t;
    syl_instance *instance;
    size_t n = 0;
    const char *why = "";
    syl_text found = {.arena = &t->arena};
    syl_status status = tool_instance(t, &instance);
    if (status == SYL_OK) status = syl_instance_gpus(instance, &n, &why);
    if (!n) syl_text_printf(&found, "no GPU: %s", why);
    for (size_t i = 0; i < n && status == SYL_OK; i++) {
        syl_gpu gpu = {.size = sizeof gpu};
        status = syl_instance_gpu(instance, i, &gpu);
        if (status == SYL_OK)
            syl_text_printf(&found, "%s%s: %s, driver for CUDA %d.%d", i ? "; " : "", gpu.device, gpu.name,
                            gpu.driver / 1000, gpu.driver % 1000 / 10);
    }
    note(d, "cuda", status, found.p);
    if (status == SYL_OK) check_nvrtc(d, instance, n > 0);
}

static syl_status run(tool *t, void *user, const char **args, int n_args) {
    (void)user, (void)args, (void)n_args;
    doctor d = {.t = t, .text = {.arena = &t->arena}};
    note(&d, "llvm", SYL_OK, syl_host_llvm_version());
    check_cpu(&d);
    note(&d, "memory", SYL_OK,
         syl_arena_printf(&t->arena, "%s free", size_text(&t->arena, syl_machine_memory())));
    check_cache(&d);
    check_disk(&d, "disk", ".");
    check_cuda(&d);
    syl_text out = {.arena = &t->arena};
    if (t->json) {
        syl_text_printf(&out, "{\"ok\": %s, \"checks\": [%s]}\n", d.failed ? "false" : "true", d.text.p);
    } else {
        syl_text_printf(&out, "%s", d.text.p);
        if (!d.failed) syl_text_printf(&out, "everything is fine\n");
    }
    SYL_TRY(tool_print(t, out.p, out.n));
    return d.status;
}

const verb verb_doctor = {
    .name = "doctor",
    .summary = "check that this machine is fit for compiling and running models",
    .usage = "",
    .details = "Compiles and runs a small kernel, and looks at LLVM, the CPU, memory, the cache folder and "
               "the disks. What\n"
               "fails is told with what to do about it; the exit code is that of the first failure.",
    .options = options,
    .settings_size = 1,
    .run = run,
};
