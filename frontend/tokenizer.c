/* Finding out what a tokenizer file is. */
#include "frontend/tokenizer.h"
#include <cjson/cJSON.h>
#include "base/json.h"

/* Tokenizer JSON as it is, or the tokenizer.json of Hugging Face, which has a "model". */
static syl_status load_json(const char *path, syl_arena *scratch, syl_arena *arena, syl_diag *diag,
                            char **out) {
    syl_source source;
    syl_json json;
    SYL_TRY(syl_file_read(scratch, path, (size_t)64 << 20, diag, &source));
    SYL_TRY(syl_json_parse(&source, diag, &json));
    syl_text text = {.arena = scratch, .p = (char *)source.text, .n = source.size};
    syl_status status = SYL_OK;
    if (!cJSON_IsObject(json.root)) {
        status = syl_error(diag, SYL_ERR_json_type, syl_json_loc(&json, json.root),
                           "expected an object: a tokenizer");
    } else if (cJSON_GetObjectItemCaseSensitive(json.root, "model")) {
        text = (syl_text){.arena = scratch};
        status = syl_tokenizer_from_hf(&json, scratch, diag, &text);
    }
    syl_json_free(&json);
    if (status == SYL_OK) *out = syl_arena_strndup(arena, text.p, text.n);
    return status;
}

syl_status syl_tokenizer_load(const char *path, syl_arena *arena, syl_diag *diag, char **out) {
    syl_mapping probe;
    SYL_TRY(syl_file_map(path, diag, &probe));
    bool is_gguf = syl_gguf_magic(probe.data, probe.size);
    syl_file_unmap(&probe);
    syl_arena scratch;
    syl_arena_init(&scratch);
    syl_status status;
    if (is_gguf) {
        syl_gguf file;
        syl_text text = {.arena = &scratch};
        status = syl_gguf_open(path, diag, &file);
        if (status == SYL_OK) {
            status = syl_tokenizer_from_gguf(&file, diag, &text);
            if (status == SYL_OK) *out = syl_arena_strndup(arena, text.p, text.n);
            syl_gguf_close(&file);
        }
    } else {
        status = load_json(path, &scratch, arena, diag, out);
    }
    syl_arena_free(&scratch);
    return status;
}
