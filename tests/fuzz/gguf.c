/* The GGUF reader; the import, whose graph must be JSON and may be refused only for its weights; the tokenizer
 * JSON that is made of the metadata; the decoders of the tensors. */
#include "fuzz.h"
#include "frontend/frontend.h"
#include "frontend/gguf.h"
#include "frontend/tokenizer.h"
#include "runtime/tokenizer.h"

enum { max_read = 1 << 16 };

static void try_import(fuzz *f) {
    syl_text graph = {.arena = &f->arena};
    syl_model model;
    if (fuzz_ok(f, syl_import_checkpoint("input.gguf", NULL, f->diag, &graph)))
        fuzz_json(f, "graph", graph.p, graph.n);
    if (!fuzz_ok(f, syl_model_open("input.gguf", f->diag, &model))) return;
    fuzz_module(f, model.module);
    syl_model_close(&model);
}

static void try_tokenizer(fuzz *f, const syl_gguf *file) {
    syl_text text = {.arena = &f->arena};
    if (!fuzz_ok(f, syl_tokenizer_from_gguf(file, f->diag, &text))) return;
    fuzz_json(f, "tokenizer", text.p, text.n);
    syl_source source = {"tokenizer", text.p, text.n};
    syl_tokenizer *tokenizer;
    if (fuzz_ok(f, syl_tokenizer_create(&source, f->diag, &tokenizer))) syl_tokenizer_destroy(tokenizer);
}

static void try_tensors(fuzz *f, const syl_gguf *file) {
    syl_weights *weights;
    if (!fuzz_ok(f, syl_weights_open("input.gguf", f->diag, &weights)))
        fuzz_die(f, "finding: a GGUF file that opens alone, but not as weights");
    for (size_t i = 0; i < file->tensors.n; i++) {
        const syl_gguf_tensor *tensor = &file->tensors.p[i];
        size_t elements = tensor->size / tensor->format->bytes * tensor->format->block;
        if (elements > max_read) continue;
        double *out = SYL_NEW_ARRAY(&f->arena, double, elements);
        int64_t rows = tensor->dims[tensor->rank - 1];
        fuzz_ok(f, syl_weights_read(weights, tensor->name, 0, rows, f->diag, out));
    }
    syl_weights_close(weights);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz f;
    fuzz_open(&f);
    fuzz_serve("input.gguf", data, size);
    syl_gguf file;
    if (fuzz_ok(&f, syl_gguf_open("input.gguf", f.diag, &file))) {
        try_tensors(&f, &file);
        try_tokenizer(&f, &file);
        syl_gguf_close(&file);
        try_import(&f);
    }
    fuzz_close(&f);
    return 0;
}
