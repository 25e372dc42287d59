/* What the code generator knows of the CPU, and the micro tiles chosen for it. */
#include "codegen/host/emit.h"
#include <llvm-c/TargetMachine.h>
#include <stdio.h>
#include <string.h>
#include "base/json.h"

static bool has_feature(const char *features, const char *name) {
    size_t n = strlen(name);
    for (const char *at = strchr(features, '+'); at; at = strchr(at + 1, '+'))
        if (!strncmp(at + 1, name, n) && (at[n + 1] == ',' || !at[n + 1])) return true;
    return false;
}

static void describe_x86(syl_host_target *target, bool avx2, bool fma, bool avx512, bool vnni512,
                         bool vnni256) {
    target->int8_dot = vnni512 || vnni256 ? KIR_DOT_VNNI : avx2 ? KIR_DOT_MADD : KIR_DOT_I8;
    target->vector_registers = avx512 ? 32 : 16;
    target->vector_floats = avx512 ? 16 : avx2 ? 8 : 4;
    target->fma = fma;
}

static void copy_text(char *out, size_t size, const char *text) {
    snprintf(out, size, "%s", text);
}

syl_status syl_host_target_find(const char *name, syl_diag *diag, syl_host_target *out) {
    static const char *const names[] = {"host", "generic", "x86-64-v3", NULL};
    em_start_llvm();
    *out = (syl_host_target){.int8_dot = KIR_DOT_I8, .vector_registers = 16, .vector_floats = 4};
    char *triple = LLVMGetDefaultTargetTriple(), *cpu = LLVMGetHostCPUName(),
         *features = LLVMGetHostCPUFeatures();
    bool x86 = !strncmp(triple, "x86_64", 6), arm = !strncmp(triple, "aarch64", 7);
    bool avx2 = has_feature(features, "avx2") && has_feature(features, "fma");
    bool avx512 = has_feature(features, "avx512f") && has_feature(features, "avx512vl") &&
                  has_feature(features, "avx512bw");
    syl_status status = SYL_OK;
    copy_text(out->triple, sizeof out->triple, triple);
    if (!strcmp(name, "host")) {
        copy_text(out->cpu, sizeof out->cpu, cpu);
        copy_text(out->features, sizeof out->features, features);
        if (x86)
            describe_x86(out, avx2, avx2, avx512, avx512 && has_feature(features, "avx512vnni"),
                         avx2 && has_feature(features, "avxvnni"));
        if (arm) out->fma = true, out->vector_registers = 32;
    } else if (!strcmp(name, "generic")) {
        copy_text(out->cpu, sizeof out->cpu, x86 ? "x86-64" : "generic");
        if (arm) out->fma = true, out->vector_registers = 32;
    } else if (!strcmp(name, "x86-64-v3") && avx2) {
        copy_text(out->cpu, sizeof out->cpu, "x86-64-v3");
        describe_x86(out, true, true, false, false, false);
    } else if (!strcmp(name, "x86-64-v3")) {
        status = syl_error(diag, SYL_ERR_codegen_target, SYL_NOWHERE,
                           "target 'x86-64-v3' needs avx2 and fma, which this cpu ('%s') does not have", cpu);
    } else {
        const char *near = syl_nearest(name, names);
        status = syl_error(diag, SYL_ERR_codegen_target, SYL_NOWHERE,
                           "unknown target '%s': expected 'host', 'generic' or 'x86-64-v3'%s%s%s", name,
                           near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
    }
    LLVMDisposeMessage(triple);
    LLVMDisposeMessage(cpu);
    LLVMDisposeMessage(features);
    return status;
}

/* Accumulators fill the registers but for one row of weights and a broadcast. The block of rows is what, converted, stays in L2 beside a panel. */
void syl_host_tile(const syl_host_target *target, kir_type a, kir_type w, kir_gemm *gemm) {
    bool integer = a == KIR_I8 && w == KIR_I8;
    gemm->dot = integer ? target->int8_dot : KIR_DOT_F32;
    gemm->ku = gemm->dot == KIR_DOT_VNNI ? 4 : gemm->dot == KIR_DOT_MADD ? 2 : 1;
    gemm->mblock = 64;
    if (target->vector_floats >= 16) {
        gemm->mr = 8;
        gemm->nr = 48;
    } else if (target->vector_floats >= 8) {
        gemm->mr = 6;
        gemm->nr = 16;
    } else {
        gemm->mr = target->vector_registers >= 32 ? 4 : 2;
        gemm->nr = 16;
    }
}
