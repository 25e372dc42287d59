/* Graph JSON, with a file of weights beside it: "w", [4, 8], and "v", [4], in f32. */
#include "fuzz.h"
#include <string.h>
#include "frontend/frontend.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char header[] = "{\"w\":{\"dtype\":\"F32\",\"shape\":[4,8],\"data_offsets\":[0,128]},"
                                 "\"v\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[128,144]}}";
    static const char tokenizer[] = "{\"type\":\"bpe\"}";
    enum { header_size = sizeof header - 1 };
    static unsigned char weights[8 + header_size + 144] = {header_size & 0xff, header_size >> 8};
    memcpy(weights + 8, header, header_size);

    fuzz f;
    fuzz_open(&f);
    fuzz_serve("w.safetensors", weights, sizeof weights);
    fuzz_serve("t.json", tokenizer, sizeof tokenizer - 1);
    syl_source source = {"input.json", (const char *)data, size};
    syl_model model;
    if (fuzz_ok(&f, syl_graph_read(&source, f.diag, &model))) {
        fuzz_recipes(&f, model.module);
        syl_model_close(&model);
    }
    fuzz_close(&f);
    return 0;
}
