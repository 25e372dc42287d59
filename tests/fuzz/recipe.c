/* A recipe's JSON: the pipeline in it, printed, parses and prints to the same text; so does that of the recipe
 * with a quantized KV cache, whose text is JSON. */
#include "fuzz.h"
#include <string.h>
#include "passes/pass.h"

static syl_text round_trip(fuzz *f, const char *text) {
    syl_source source = {"pipeline", text, strlen(text)};
    syl_pipeline *pipeline;
    syl_text out = {.arena = &f->arena};
    if (!fuzz_ok(f, syl_pipeline_parse(&f->arena, &source, f->diag, &pipeline)))
        fuzz_die(f, "finding: the pipeline '%s' does not parse", text);
    syl_pipeline_print(pipeline, &out);
    if (!out.p) syl_text_append(&out, "", 0);
    return out;
}

static void check(fuzz *f, const char *pipeline) {
    syl_text once = round_trip(f, pipeline), twice = round_trip(f, once.p);
    if (strcmp(once.p, twice.p) != 0)
        fuzz_die(f, "finding: a pipeline prints as '%s' and then as '%s'", once.p, twice.p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz f;
    fuzz_open(&f);
    fuzz_serve("input.json", data, size);
    syl_recipe recipe;
    if (fuzz_ok(&f, syl_recipe_load(&f.arena, "input.json", f.diag, &recipe))) {
        check(&f, recipe.pipeline);
        if (fuzz_ok(&f, syl_recipe_quantize_kv(&f.arena, 4, f.diag, &recipe))) {
            check(&f, recipe.pipeline);
            fuzz_json(&f, "recipe", recipe.text, strlen(recipe.text));
        }
    }
    fuzz_close(&f);
    return 0;
}
