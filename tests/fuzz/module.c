/* The invariants of modules and of recipes (fuzz.h). */
#include "fuzz.h"
#include <string.h>
#include "passes/pass.h"

static syl_text print(fuzz *f, const syl_module *module) {
    syl_text text = {.arena = &f->arena};
    syl_module_print(module, &text);
    return text;
}

static syl_module *reparse(fuzz *f, const syl_module *module) {
    syl_text text = print(f, module);
    syl_source *source = SYL_NEW(&f->arena, syl_source);
    *source = (syl_source){"printed.sir", text.p, text.n};
    syl_module *copy = NULL;
    if (!fuzz_ok(f, syl_module_parse(source, f->diag, &copy)))
        fuzz_die(f, "finding: what was printed does not parse:\n%s", text.p);
    syl_text again = print(f, copy);
    if (text.n != again.n || memcmp(text.p, again.p, text.n) != 0)
        fuzz_die(f, "finding: a module prints as\n%s\nand after parsing this as\n%s", text.p, again.p);
    return copy;
}

bool fuzz_module(fuzz *f, const syl_module *module) {
    bool verifies = fuzz_ok(f, syl_module_verify(module, f->diag));
    syl_module *copy = reparse(f, module);
    if (fuzz_ok(f, syl_module_verify(copy, f->diag)) != verifies)
        fuzz_die(f, "finding: a module that %s is, printed and parsed, one that %s",
                 verifies ? "verifies" : "does not verify", verifies ? "does not" : "does");
    syl_module_destroy(copy);
    return verifies;
}

static void run_recipe(fuzz *f, const char *name, syl_module *module) {
    syl_recipe recipe;
    syl_pipeline *pipeline;
    if (!fuzz_ok(f, syl_recipe_load(&f->arena, name, f->diag, &recipe)))
        fuzz_die(f, "finding: recipe %s does not load", name);
    syl_source text = {name, recipe.pipeline, strlen(recipe.pipeline)};
    if (!fuzz_ok(f, syl_pipeline_parse(&f->arena, &text, f->diag, &pipeline)))
        fuzz_die(f, "finding: the pipeline of recipe %s does not parse", name);
    if (!fuzz_ok(f, syl_pipeline_run(pipeline, module, f->diag, NULL))) return;
    if (!fuzz_module(f, module)) fuzz_die(f, "finding: after recipe %s the module does not verify", name);
}

void fuzz_recipes(fuzz *f, const syl_module *module) {
    if (!fuzz_module(f, module)) return;
    for (const char *const *name = syl_recipe_names(); *name; name++) {
        syl_module *copy = reparse(f, module);
        run_recipe(f, *name, copy);
        syl_module_destroy(copy);
    }
}
