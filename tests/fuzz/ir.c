/* IR text: the parser, the printer, the verifier, and on what verifies the recipes' passes. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz f;
    fuzz_open(&f);
    syl_source source = {"input.sir", (const char *)data, size};
    syl_module *module = NULL;
    if (fuzz_ok(&f, syl_module_parse(&source, f.diag, &module))) fuzz_recipes(&f, module);
    syl_module_destroy(module);
    fuzz_close(&f);
    return 0;
}
