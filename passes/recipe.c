/* Recipes: JSON objects {"name", "description", "pipeline"}. Those in passes/recipes are part of the library,
 * byte for byte. A loaded recipe's pipeline parses. */
#include <string.h>
#include "base/file.h"
#include "base/json.h"
#include "passes/pass.h"

enum { max_recipe_size = 1 << 20 };

/* .incbin looks along the include path, which holds the root of the sources. */
#define RECIPE(ident, name)                                                                                  \
    __asm__(".pushsection .rodata\n"                                                                         \
            ".globl syl_recipe_" #ident "\n"                                                                 \
            ".hidden syl_recipe_" #ident "\n"                                                                \
            "syl_recipe_" #ident ":\n"                                                                       \
            ".incbin \"passes/recipes/" name ".json\"\n"                                                     \
            ".byte 0\n"                                                                                      \
            ".popsection\n");                                                                                \
    extern const char syl_recipe_##ident[];
#include "passes/recipes.def"

static const struct {
    const char *name, *text;
} embedded[] = {
#define RECIPE(ident, name) {name, syl_recipe_##ident},
#include "passes/recipes.def"
};

const char *const *syl_recipe_names(void) {
    static const char *const names[] = {
#define RECIPE(ident, name) name,
#include "passes/recipes.def"
        NULL};
    return names;
}

/* Where pass `name` stands in canonical pipeline text, or NULL. */
static const char *find_pass(const char *pipeline, const char *name) {
    size_t size = strlen(name);
    for (const char *p = pipeline; p; p = strchr(p, ',')) {
        p += *p == ',';
        if (strncmp(p, name, size) == 0 && strchr(",{", p[size])) return p;
    }
    return NULL;
}

syl_status syl_recipe_quantize_kv(syl_arena *arena, int bits, syl_diag *diag, syl_recipe *recipe) {
    syl_source source = {recipe->name, recipe->pipeline, strlen(recipe->pipeline)};
    syl_pipeline *parsed;
    SYL_TRY(syl_pipeline_parse(arena, &source, diag, &parsed));
    syl_text canonical = {.arena = arena}, pipeline = {.arena = arena}, json = {.arena = arena};
    syl_pipeline_print(parsed, &canonical);
    const char *text = canonical.p ? canonical.p : "", *fuse = find_pass(text, "fuse");
    if (bits != 8 && bits != 4)
        return syl_error(diag, SYL_ERR_recipe_kv, SYL_NOWHERE, "a KV cache of %d bits, expected 8 or 4",
                         bits);
    if (!fuse || find_pass(text, "quantize-kv"))
        return syl_error(diag, SYL_ERR_recipe_kv, SYL_NOWHERE,
                         "recipe '%s' %s, so its KV cache cannot be quantized by an option", recipe->name,
                         fuse ? "has quantize-kv already" : "has no pass 'fuse'");
    syl_text_printf(&pipeline, "%.*srotate-keys,quantize-kv%s,%s", (int)(fuse - text), text,
                    bits == 4 ? "{k=int4 v=int4}" : "", fuse);
    recipe->pipeline = pipeline.p;
    recipe->name = syl_arena_printf(arena, "%s-kv%d", recipe->name, bits);
    recipe->description =
        syl_arena_printf(arena, "%s; INT%d keys and values in the KV cache", recipe->description, bits);
    syl_text_printf(&json, "{\"name\": ");
    syl_json_quote(&json, recipe->name);
    syl_text_printf(&json, ", \"description\": ");
    syl_json_quote(&json, recipe->description);
    syl_text_printf(&json, ", \"pipeline\": ");
    syl_json_quote(&json, recipe->pipeline);
    syl_text_printf(&json, "}");
    recipe->text = json.p;
    return SYL_OK;
}

static syl_status read_fields(syl_arena *arena, const syl_source *source, const syl_json *json,
                              syl_diag *diag, syl_recipe *out) {
    static const char *const keys[] = {"name", "description", "pipeline", NULL};
    const char *name, *description, *pipeline;
    SYL_TRY(syl_json_known_keys(json, json->root, keys, diag));
    SYL_TRY(syl_json_string(json, json->root, "name", diag, &name));
    SYL_TRY(syl_json_string(json, json->root, "description", diag, &description));
    SYL_TRY(syl_json_string(json, json->root, "pipeline", diag, &pipeline));
    out->name = syl_arena_strdup(arena, name);
    out->description = syl_arena_strdup(arena, description);
    out->pipeline = syl_arena_strdup(arena, pipeline);
    out->text = source->text;
    syl_source text = {syl_arena_printf(arena, "%s: pipeline", source->name), out->pipeline,
                       strlen(out->pipeline)};
    syl_pipeline *parsed;
    return syl_pipeline_parse(arena, &text, diag, &parsed);
}

syl_status syl_recipe_load(syl_arena *arena, const char *name_or_path, syl_diag *diag, syl_recipe *out) {
    size_t size = strlen(name_or_path);
    syl_source source = {0};
    if (size >= 5 && strcmp(name_or_path + size - 5, ".json") == 0) {
        SYL_TRY(syl_file_read(arena, name_or_path, max_recipe_size, diag, &source));
    } else {
        for (size_t i = 0; i < sizeof embedded / sizeof *embedded; i++)
            if (strcmp(embedded[i].name, name_or_path) == 0)
                source = (syl_source){embedded[i].name, embedded[i].text, strlen(embedded[i].text)};
        if (!source.text) {
            const char *nearest = syl_nearest(name_or_path, syl_recipe_names());
            return syl_error(diag, SYL_ERR_recipe_unknown, SYL_NOWHERE, "there is no recipe '%s'%s%s%s",
                             name_or_path, nearest ? "; did you mean '" : "", nearest ? nearest : "",
                             nearest ? "'?" : "");
        }
    }
    syl_json json = {0};
    SYL_TRY(syl_json_parse(&source, diag, &json));
    syl_status status = read_fields(arena, &source, &json, diag, out);
    syl_json_free(&json);
    return status;
}
