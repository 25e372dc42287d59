/* The artifact reader. What opens is promised to need no further checks: its module keeps the invariants of
 * modules, every tensor is there to its last byte, and it is planned or refused. */
#include "fuzz.h"
#include "codegen/plan.h"
#include "runtime/artifact.h"
#include "runtime/tokenizer.h"

static const syl_host_target target = {.cpu = "x86-64",
                                       .triple = "x86_64-pc-linux-gnu",
                                       .vector_registers = 16,
                                       .vector_floats = 8,
                                       .fma = true};

static syl_status touch(void *user, const syl_op *op) {
    const syl_artifact *artifact = user;
    syl_stored stored;
    volatile unsigned sum = 0;
    if (!syl_stored_of(&syl_result(op)->type, &stored)) return SYL_INTERNAL;
    const syl_st_tensor *tensor = syl_safetensors_find(&artifact->file, syl_attr_str(op, "name"));
    if (!tensor) return SYL_INTERNAL;
    const unsigned char *bytes = syl_safetensors_data(&artifact->file, tensor);
    for (size_t i = 0; i < tensor->size; i++) sum = sum + bytes[i];
    return SYL_OK;
}

static void use(fuzz *f, syl_artifact *artifact) {
    fuzz_module(f, artifact->module);
    if (syl_artifact_each(artifact->module, touch, artifact) != SYL_OK)
        fuzz_die(f, "finding: a materialized value without its tensor");
    syl_plan *plan = NULL;
    if (fuzz_ok(f, syl_plan_create(artifact->module, &target, f->diag, &plan))) {
        syl_text text = {.arena = &f->arena};
        syl_plan_print(plan, &text);
        syl_plan_destroy(plan);
    }
    if (!artifact->tokenizer) return;
    syl_source source = {"tokenizer.json", artifact->tokenizer, artifact->tokenizer_size};
    syl_tokenizer *tokenizer;
    if (fuzz_ok(f, syl_tokenizer_create(&source, f->diag, &tokenizer))) syl_tokenizer_destroy(tokenizer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz f;
    fuzz_open(&f);
    fuzz_serve("input.syl", data, size);
    syl_artifact artifact;
    if (fuzz_ok(&f, syl_artifact_open("input.syl", f.diag, &artifact))) {
        use(&f, &artifact);
        syl_artifact_close(&artifact);
    }
    fuzz_close(&f);
    return 0;
}
