/* A tiny language model as an artifact: one layer of attention over 40 tokens, one tensor in f32 and one
 * quantized. */
#ifndef TESTS_UNIT_RUNTIME_TINY_H
#define TESTS_UNIT_RUNTIME_TINY_H

#include "runtime/artifact.h"
#include "runtime_testing.h"

static const char tiny_ir[] =
    "module @tiny {\n"
    "  func @forward(%ids: tensor<Txi32>, %pos: tensor<Txi32>, %seq: tensor<Txi32>, %rows: tensor<Rxi32>, "
    "%kv: kv<1x1x16xf32>) -> (tensor<Rx40xf32>, kv<1x1x16xf32>) {\n"
    "    %table = materialized \"table\" : tensor<40x16xf32>\n"
    "    %w = materialized \"w\" : tensor<40x16xint8_channel>\n"
    "    %x = fused {slots = [0]} : tensor<Tx16xf32> {\n"
    "      %e = embedding %ids, %table : tensor<Tx16xf32>\n"
    "      yield %e\n"
    "    }\n"
    "    %kv1 = fused {slots = [-1]} : kv<1x1x16xf32> {\n"
    "      %c = kv_append %kv, %x, %x, %pos, %seq {layer = 0} : kv<1x1x16xf32>\n"
    "      yield %c\n"
    "    }\n"
    "    %a = fused {slots = [1]} : tensor<Tx16xf32> {\n"
    "      %b = attention %x, %kv1, %pos, %seq {heads = 1, layer = 0, scale = 0.25} : tensor<Tx16xf32>\n"
    "      yield %b\n"
    "    }\n"
    "    %last = fused {slots = [2]} : tensor<Rx16xint8_token> {\n"
    "      %t = take %a, %rows : tensor<Rx16xf32>\n"
    "      %q = quantize %t : tensor<Rx16xint8_token>\n"
    "      yield %q\n"
    "    }\n"
    "    %logits = fused {slots = [-1]} : tensor<Rx40xf32> {\n"
    "      %l = linear %last, %w : tensor<Rx40xf32>\n"
    "      yield %l\n"
    "    }\n"
    "    return %logits, %kv1\n"
    "  }\n"
    "}\n";

enum { TINY_VOCAB = 40, TINY_WIDTH = 16, TINY_CONTEXT = 200 };

/* Writes the tiny model by the library's own writer; tokenizer: JSON, or NULL. */
static inline void write_tiny_with(fixture *f, const char *path, const char *tokenizer) {
    syl_source source = {"tiny.sir", tiny_ir, sizeof tiny_ir - 1};
    syl_module *module;
    fixture_ok(f, syl_module_parse(&source, f->diag, &module));
    fixture_ok(f, syl_module_verify(module, f->diag));
    syl_artifact_info info = {"tiny", TINY_CONTEXT, "{\"name\": \"none\"}", "{}", tokenizer};
    syl_artifact_writer *writer;
    float table[TINY_VOCAB * TINY_WIDTH], scales[TINY_VOCAB];
    int8_t codes[TINY_VOCAB * TINY_WIDTH];
    for (int i = 0; i < TINY_VOCAB * TINY_WIDTH; i++) {
        table[i] = (float)(i * 37 % 101 - 50) / 32;
        codes[i] = (int8_t)(i * 53 % 255 - 127);
    }
    for (int i = 0; i < TINY_VOCAB; i++) scales[i] = 0.01f;
    fixture_ok(f, syl_artifact_begin(path, module, &info, f->diag, &writer));
    fixture_ok(f, syl_artifact_write(writer, "table", 0, 0, table, sizeof table));
    fixture_ok(f, syl_artifact_write(writer, "w", 0, 0, codes, sizeof codes));
    fixture_ok(f, syl_artifact_write(writer, "w", 1, 0, scales, sizeof scales));
    fixture_ok(f, syl_artifact_commit(writer));
    syl_module_destroy(module);
}

static inline void write_tiny(fixture *f, const char *path) {
    write_tiny_with(f, path, NULL);
}

#endif
