/* The .npy reader: what opens can be read to the last element, which is aligned. */
#include "fuzz.h"
#include "base/npy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz f;
    fuzz_open(&f);
    fuzz_serve("input.npy", data, size);
    syl_npy array;
    if (fuzz_ok(&f, syl_npy_open("input.npy", f.diag, &array))) {
        int64_t elements = 1;
        volatile int32_t bits = 0;
        for (int i = 0; i < array.rank; i++) elements *= array.dims[i];
        if (elements != array.elements) fuzz_die(&f, "finding: the dimensions are not those of the elements");
        for (int64_t i = 0; i < array.elements; i++) bits = bits ^ ((const int32_t *)array.data)[i];
        syl_npy_close(&array);
    }
    fuzz_close(&f);
    return 0;
}
