/* A Hugging Face directory. The input is up to four files with a zero byte between: config.json, the header of
 * model.safetensors (its length before it and zeros behind it are added here), model.safetensors.index.json,
 * tokenizer.json; a file is there if its part is. The graph of what is imported must be JSON. */
#include "fuzz.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "frontend/frontend.h"
#include "frontend/import.h"

/* The graph reader meets the same files: the graph names them with the same folder. */
static const char *const paths[] = {"hf/config.json", "hf/model.safetensors",
                                    "hf/model.safetensors.index.json", "hf/tokenizer.json"};
enum { n_paths = sizeof paths / sizeof *paths, max_data = 1 << 16 };

/* The file of a header: as much data as its offsets ask for. */
static void serve_tensors(fuzz *f, const char *path, const char *header, size_t size) {
    static const char key[] = "\"data_offsets\":[";
    const char *text = syl_arena_strndup(&f->arena, header, size);
    size_t data = 0;
    for (const char *p = text; (p = strstr(p, key)); p++) {
        unsigned long begin, end;
        if (sscanf(p + sizeof key - 1, "%5lu,%5lu]", &begin, &end) == 2 && end > data && end <= max_data)
            data = end;
    }
    unsigned char *file = syl_arena_alloc(&f->arena, 8 + size + data);
    for (int i = 0; i < 8; i++) file[i] = (unsigned char)((uint64_t)size >> (8 * i));
    memcpy(file + 8, header, size);
    fuzz_serve(path, file, 8 + size + data);
}

static void serve_parts(fuzz *f, const uint8_t *data, size_t size) {
    for (int i = 0; i < n_paths; i++) {
        const uint8_t *end = i + 1 < n_paths && size ? memchr(data, 0, size) : NULL;
        size_t n = end ? (size_t)(end - data) : size;
        if (n && i == 1) serve_tensors(f, paths[i], (const char *)data, n);
        if (n && i != 1) fuzz_serve(paths[i], data, n);
        data += n + (end != NULL);
        size -= n + (end != NULL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz f;
    fuzz_open(&f);
    serve_parts(&f, data, size);
    syl_text json = {.arena = &f.arena};
    if (fuzz_ok(&f, syl_import_hf("hf", "hf/", &f.arena, f.diag, &json))) {
        fuzz_json(&f, "graph", json.p, json.n);
        syl_source source = {"graph.json", json.p, json.n};
        syl_model model;
        if (fuzz_ok(&f, syl_graph_read(&source, f.diag, &model))) {
            fuzz_module(&f, model.module);
            syl_model_close(&model);
        }
    }
    fuzz_close(&f);
    return 0;
}
