/* From a kernel to the bytes of an object file: emission, verification, LLVM's pipeline, machine code. */
#include "codegen/host/emit.h"
#include <llvm-c/Analysis.h>
#include <llvm-c/Error.h>
#include <llvm-c/Target.h>
#include <llvm-c/TargetMachine.h>
#include <llvm-c/Transforms/PassBuilder.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char version[32];

static void start_once(void) {
    unsigned major, minor, patch;
    LLVMGetVersion(&major, &minor, &patch);
    snprintf(version, sizeof version, "%u.%u.%u", major, minor, patch);
    LLVMInitializeNativeTarget();
    LLVMInitializeNativeAsmPrinter();
    LLVMInitializeNativeAsmParser();
}

void em_start_llvm(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, start_once);
}

const char *syl_host_llvm_version(void) {
    em_start_llvm();
    return version;
}

static syl_status fail(syl_diag *diag, const kir_kernel *kernel, const char *step, const char *message) {
    return syl_error(diag, SYL_ERR_codegen_llvm, SYL_NOWHERE, "kernel '%s': %s: %s", kernel->name, step,
                     message ? message : "unknown error");
}

static syl_status make_machine(const kir_kernel *kernel, const syl_host_target *target, syl_diag *diag,
                               LLVMTargetMachineRef *out) {
    LLVMTargetRef llvm_target;
    char *message = NULL;
    if (LLVMGetTargetFromTriple(target->triple, &llvm_target, &message)) {
        syl_status status = fail(diag, kernel, "no such machine", message);
        LLVMDisposeMessage(message);
        return status;
    }
    *out = LLVMCreateTargetMachine(llvm_target, target->triple, target->cpu, target->features,
                                   LLVMCodeGenLevelDefault, LLVMRelocPIC, LLVMCodeModelSmall);
    return *out ? SYL_OK : fail(diag, kernel, "no machine for", target->cpu);
}

static syl_status emit_module(em *e, const char *symbol, LLVMTargetMachineRef machine, syl_diag *diag) {
    LLVMTargetDataRef layout = LLVMCreateTargetDataLayout(machine);
    LLVMSetModuleDataLayout(e->module, layout);
    LLVMDisposeTargetData(layout);
    LLVMSetTarget(e->module, e->target->triple);
    switch (e->kernel->kind) {
    case KIR_ROWS:
        em_rows(e, symbol);
        break;
    case KIR_GEMM:
        em_gemm(e, symbol);
        break;
    case KIR_ATTENTION:
        em_attention(e, symbol);
        break;
    case KIR_FULL_ATTENTION:
        em_full_attention(e, symbol);
        break;
    }
    char *message = NULL;
    syl_status status = SYL_OK;
    if (LLVMVerifyModule(e->module, LLVMReturnStatusAction, &message))
        status = fail(diag, e->kernel, "generated code is malformed", message);
    LLVMDisposeMessage(message);
    return status;
}

/* The kernels are vector code already: LLVM's own vectorizers are off. */
static syl_status optimise(em *e, LLVMTargetMachineRef machine, syl_diag *diag) {
    LLVMPassBuilderOptionsRef options = LLVMCreatePassBuilderOptions();
    LLVMPassBuilderOptionsSetLoopVectorization(options, false);
    LLVMPassBuilderOptionsSetSLPVectorization(options, false);
    LLVMPassBuilderOptionsSetLoopUnrolling(options, false);
    LLVMErrorRef error = LLVMRunPasses(e->module, "default<O2>", machine, options);
    LLVMDisposePassBuilderOptions(options);
    if (!error) return SYL_OK;
    char *message = LLVMGetErrorMessage(error);
    syl_status status = fail(diag, e->kernel, "optimisation", message);
    LLVMDisposeErrorMessage(message);
    return status;
}

static syl_status emit_code(em *e, LLVMTargetMachineRef machine, LLVMCodeGenFileType type, syl_diag *diag,
                            LLVMMemoryBufferRef *out) {
    char *message = NULL;
    if (!LLVMTargetMachineEmitToMemoryBuffer(machine, e->module, type, &message, out)) return SYL_OK;
    syl_status status = fail(diag, e->kernel, "machine code", message);
    LLVMDisposeMessage(message);
    return status;
}

static syl_status copy_buffer(LLVMMemoryBufferRef buffer, const kir_kernel *kernel, syl_diag *diag,
                              em_object *out) {
    out->size = LLVMGetBufferSize(buffer);
    out->data = malloc(out->size);
    if (!out->data)
        return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE,
                         "no memory for the code of kernel '%s' (%zu bytes)", kernel->name, out->size);
    memcpy(out->data, LLVMGetBufferStart(buffer), out->size);
    return SYL_OK;
}

static syl_status check_limits(const kir_kernel *kernel, syl_diag *diag) {
    const kir_attention *a = &kernel->attention;
    if (kernel->kind == KIR_ATTENTION &&
        (a->mr < 1 || a->mr > 16 || a->kv_heads < 1 || a->heads % a->kv_heads || a->head_dim < 1))
        return syl_error(diag, SYL_ERR_internal, SYL_NOWHERE, "kernel '%s': bad attention parameters",
                         kernel->name);
    const kir_gemm *g = &kernel->gemm;
    if (kernel->kind == KIR_GEMM && (g->nr % KIR_LANES || g->mr < 1 || g->mr > 16 || g->k < 1 || g->n < 1))
        return syl_error(diag, SYL_ERR_internal, SYL_NOWHERE, "kernel '%s': bad gemm parameters",
                         kernel->name);
    return SYL_OK;
}

/* The stages up to `text`, or up to an object where `text` is negative. */
static syl_status run_stages(em *e, LLVMTargetMachineRef machine, const char *symbol, int text,
                             syl_diag *diag, em_object *object, syl_text *out) {
    SYL_TRY(emit_module(e, symbol, machine, diag));
    if (text != SYL_HOST_LLVM) SYL_TRY(optimise(e, machine, diag));
    if (text == SYL_HOST_LLVM || text == SYL_HOST_LLVM_OPTIMIZED) {
        char *printed = LLVMPrintModuleToString(e->module);
        syl_text_append(out, printed, strlen(printed));
        LLVMDisposeMessage(printed);
        return SYL_OK;
    }
    LLVMMemoryBufferRef buffer;
    SYL_TRY(emit_code(e, machine, text == SYL_HOST_ASM ? LLVMAssemblyFile : LLVMObjectFile, diag, &buffer));
    syl_status status = SYL_OK;
    if (text == SYL_HOST_ASM)
        syl_text_append(out, LLVMGetBufferStart(buffer), LLVMGetBufferSize(buffer));
    else
        status = copy_buffer(buffer, e->kernel, diag, object);
    LLVMDisposeMemoryBuffer(buffer);
    return status;
}

static syl_status generate(const kir_kernel *kernel, const syl_host_target *target, const char *symbol,
                           int text, syl_diag *diag, em_object *object, syl_text *out) {
    em_start_llvm();
    SYL_TRY(check_limits(kernel, diag));
    LLVMTargetMachineRef machine;
    SYL_TRY(make_machine(kernel, target, diag, &machine));
    em e;
    em_init(&e, kernel, target);
    syl_status status = run_stages(&e, machine, symbol, text, diag, object, out);
    em_dispose(&e);
    LLVMDisposeTargetMachine(machine);
    return status;
}

syl_status em_make_object(const kir_kernel *kernel, const syl_host_target *target, const char *symbol,
                          syl_diag *diag, em_object *out) {
    return generate(kernel, target, symbol, -1, diag, out, NULL);
}

syl_status syl_host_dump(const kir_kernel *kernel, const syl_host_target *target, syl_host_text stage,
                         syl_diag *diag, syl_text *out) {
    return generate(kernel, target, "kernel", (int)stage, diag, NULL, out);
}
