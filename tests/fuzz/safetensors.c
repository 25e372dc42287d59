/* The safetensors reader: what opens can be read to the last byte of each tensor, as bytes and as numbers. */
#include "fuzz.h"
#include "frontend/frontend.h"
#include "base/safetensors.h"

enum { max_read = 1 << 16 };

static void read_rows(fuzz *f, const syl_weights *weights, const syl_st_tensor *tensor) {
    size_t elements = tensor->size / syl_st_dtype_size(tensor->dtype);
    if (elements > max_read) return;
    double *out = SYL_NEW_ARRAY(&f->arena, double, elements);
    int64_t rows = tensor->rank ? tensor->shape[0] : 1;
    fuzz_ok(f, syl_weights_read(weights, tensor->name, 0, rows, f->diag, out));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz f;
    fuzz_open(&f);
    fuzz_serve("input", data, size);
    syl_safetensors file;
    if (fuzz_ok(&f, syl_safetensors_open("input", f.diag, &file))) {
        volatile unsigned sum = 0; /* every byte is there */
        for (size_t i = 0; i < file.tensors.n; i++) {
            const syl_st_tensor *tensor = &file.tensors.p[i];
            const unsigned char *bytes = syl_safetensors_data(&file, tensor);
            for (size_t k = 0; k < tensor->size; k++) sum = sum + bytes[k];
            if (syl_safetensors_find(&file, tensor->name) != tensor)
                fuzz_die(&f, "finding: '%s' is not found by its name", tensor->name);
        }
        syl_weights *weights;
        if (!fuzz_ok(&f, syl_weights_open("input", f.diag, &weights)))
            fuzz_die(&f, "finding: a safetensors file that opens alone, but not as weights");
        for (size_t i = 0; i < file.tensors.n; i++) read_rows(&f, weights, &file.tensors.p[i]);
        syl_weights_close(weights);
        syl_safetensors_close(&file);
    }
    fuzz_close(&f);
    return 0;
}
