/* The public API: looking into artifacts. */
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "driver/api.h"

int syl_file_is_artifact(const char *path) {
    if (!path || access(path, R_OK) != 0) return -1;
    return syl_artifact_probe(path) ? 1 : 0;
}

/* ---- code ---- */

static syl_status append_kernel(const api_call *call, syl_stage stage, const kir_kernel *kernel,
                                const syl_host_target *target, syl_text *out) {
    if (stage == SYL_STAGE_KERNELS) {
        kir_print(kernel, out);
        return SYL_OK;
    }
    syl_host_text text = stage == SYL_STAGE_ASSEMBLY   ? SYL_HOST_ASM
                         : stage == SYL_STAGE_LLVM_RAW ? SYL_HOST_LLVM
                                                       : SYL_HOST_LLVM_OPTIMIZED;
    return syl_host_dump(kernel, target, text, call->diag, out);
}

syl_status api_pick_kernels(api_call *call, const syl_plan *plan, const char *name, const bool **out) {
    bool found = false, *picked = SYL_NEW_ARRAY(&call->arena, bool, plan->kernels.n + 1);
    const char **names = SYL_NEW_ARRAY(&call->arena, const char *, plan->kernels.n + 1);
    for (size_t i = 0; i < plan->kernels.n; i++) {
        char number[24];
        snprintf(number, sizeof number, "k%zu", i);
        names[i] = plan->kernels.p[i]->name;
        picked[i] = !name || strcmp(name, number) == 0 || strcmp(name, names[i]) == 0;
        found = found || picked[i];
    }
    *out = picked;
    if (found || !name) return SYL_OK;
    const char *nearest = syl_nearest(name, names);
    return syl_error(call->diag, SYL_ERR_cli_kernel, SYL_NOWHERE, "the plan has no kernel \"%s\"%s%s%s", name,
                     nearest ? "; did you mean \"" : "", nearest ? nearest : "", nearest ? "\"?" : "");
}

static syl_status print_kernels(api_call *call, syl_stage stage, const syl_plan *plan,
                                const syl_host_target *target, const char *name, syl_text *out) {
    const bool *picked;
    SYL_TRY(api_pick_kernels(call, plan, name, &picked));
    for (size_t i = 0; i < plan->kernels.n; i++) {
        if (!picked[i]) continue;
        syl_text_printf(out, "%s k%zu: %s\n", stage == SYL_STAGE_KERNELS ? "//" : ";", i,
                        plan->kernels.p[i]->name);
        SYL_TRY(append_kernel(call, stage, plan->kernels.p[i], target, out));
        syl_text_printf(out, "\n");
    }
    return SYL_OK;
}

static syl_status print_code(api_call *call, syl_stage stage, const syl_artifact *artifact,
                             const char *kernel, syl_text *out) {
    const syl_host_target *target;
    syl_plan *plan;
    SYL_TRY(api_target(call, &target));
    SYL_TRY(syl_plan_create(artifact->module, target, call->diag, &plan));
    syl_status status = SYL_OK;
    if (stage == SYL_STAGE_PLAN) {
        syl_plan_print(plan, out);
    } else {
        status = print_kernels(call, stage, plan, target, kernel, out);
    }
    syl_plan_destroy(plan);
    return status;
}

/* ---- tensors ---- */

static void print_tensors(const syl_artifact *artifact, syl_text *out) {
    const syl_safetensors *file = &artifact->file;
    for (size_t i = 0; i < file->tensors.n; i++) {
        const syl_st_tensor *tensor = &file->tensors.p[i];
        syl_text_printf(out, "%s %s [", tensor->name, syl_st_dtype_name(tensor->dtype));
        for (int d = 0; d < tensor->rank; d++)
            syl_text_printf(out, "%s%lld", d ? ", " : "", (long long)tensor->shape[d]);
        syl_text_printf(out, "] %zu\n", tensor->size);
    }
}

/* ---- the whole ---- */

static syl_status print_stage(api_call *call, syl_stage stage, const syl_artifact *artifact,
                              const char *kernel, syl_text *out) {
    switch (stage) {
    case SYL_STAGE_IR:
        syl_text_append(out, artifact->ir.text, artifact->ir.size);
        return SYL_OK;
    case SYL_STAGE_PLAN:
    case SYL_STAGE_KERNELS:
    case SYL_STAGE_LLVM:
    case SYL_STAGE_LLVM_RAW:
    case SYL_STAGE_ASSEMBLY:
        return print_code(call, stage, artifact, kernel, out);
    case SYL_STAGE_TENSORS:
        print_tensors(artifact, out);
        return SYL_OK;
    case SYL_STAGE_RECIPE:
        syl_text_printf(out, "%s", artifact->recipe);
        return SYL_OK;
    case SYL_STAGE_PROVENANCE:
        syl_text_printf(out, "%s", artifact->provenance);
        return SYL_OK;
    case SYL_STAGE_CUDA:
    case SYL_STAGE_PTX:
    case SYL_STAGE_RESOURCES: {
        const syl_cuda_settings settings = {.size = sizeof settings, .kernel = kernel};
        return api_print_cuda(call, "syl_inspect_file", stage, artifact->module, &settings, out);
    }
    }
    return api_bad(call, "syl_inspect_file", "there is no such stage");
}

static syl_status inspect_file(api_call *call, const char *path, syl_stage stage, const char *kernel,
                               char **text, size_t *size) {
    static const char name[] = "syl_inspect_file";
    if (!path || !text) return api_bad(call, name, "path or text is NULL");
    if (kernel && (stage < SYL_STAGE_KERNELS || stage > SYL_STAGE_ASSEMBLY) && stage < SYL_STAGE_CUDA)
        return api_bad(call, name, "a kernel goes with kernels, LLVM IR, assembly or CUDA code");
    if (syl_file_is_artifact(path) == 0) {
        return syl_error(call->diag, SYL_ERR_artifact_format, SYL_NOWHERE,
                         "\"%s\" is no artifact; plans and kernels are made of artifacts", path);
    }
    syl_artifact artifact;
    syl_text out = {.arena = &call->arena};
    SYL_TRY(syl_artifact_open(path, call->diag, &artifact));
    syl_status status = print_stage(call, stage, &artifact, kernel, &out);
    if (status == SYL_OK) status = api_text(call, out.p, out.n, text, size);
    syl_artifact_close(&artifact);
    return status;
}

syl_status syl_inspect_file(syl_instance *instance, const char *path, syl_stage stage, const char *kernel,
                            char **text, size_t *size) {
    api_call call;
    if (text) *text = NULL;
    SYL_TRY(api_begin(&call, instance));
    return api_end(&call, inspect_file(&call, path, stage, kernel, text, size));
}
