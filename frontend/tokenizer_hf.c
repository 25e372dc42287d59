/* The vocabulary of a Hugging Face tokenizer.json: BPE, byte-level or of SentencePiece's kind. Whatever cuts or changes text is recognised or
 * refused by name: a tokenizer that does something else than the one the model was trained with gives wrong text.
 *
 * A pre-tokenizer is recognised by its pattern's text and becomes the name of the same patterns in the runtime. */
#include <unistd.h>
#include "base/file.h"
#include "base/map.h"
#include "frontend/tokenizer.h"
#include "frontend/tokenizer_hf.h"

enum { max_json = 64 << 20 };

typedef struct reader {
    const syl_json *json;
    syl_json config, model_config,
        generation; /* tokenizer_config.json, config.json, generation_config.json; root NULL: absent */
    syl_source config_source, model_config_source, generation_source;
    syl_map ids; /* text -> id + 1 */
    const char **tokens;
    unsigned char *kinds;
    bool split_prefers_tokens; /* the pre-tokenizer goes with "ignore_merges" */
    bool prepends;             /* the normalizer puts a space in front of texts */
    syl_vocabulary v;
} reader;

static syl_loc loc_of(const reader *r, const cJSON *node) {
    return syl_json_loc(r->json, node);
}

static syl_status refuse(const reader *r, const cJSON *node, const char *what) {
    return syl_error(r->v.diag, SYL_ERR_tokenizer_type, loc_of(r, node), "%s is not supported", what);
}

/* ---- how text is changed and cut ---- */

static syl_status read_normalizer(reader *r) {
    const cJSON *normalizer = member(r->json->root, "normalizer");
    if (!normalizer) return SYL_OK;
    r->v.nfc = strcmp(type_of(normalizer), "NFC") == 0;
    if (r->v.nfc || (strcmp(type_of(normalizer), "Sequence") == 0 &&
                     cJSON_GetArraySize(member(normalizer, "normalizers")) == 0))
        return SYL_OK;
    return refuse(
        r, normalizer,
        syl_arena_printf(r->v.arena, "a tokenizer with the normalizer \"%s\"", type_of(normalizer)));
}

/* Patterns as published in tokenizer.json files. */
static const struct {
    const char *pattern, *pre;
    bool prefers_tokens;
} patterns[] = {
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
     "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+"
     "|\\s+(?!\\S)|\\s+",
     "llama-bpe", true},
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
     "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+"
     "|\\s+(?!\\S)|\\s+",
     "qwen2", false},
    {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", "gpt-2", false},
};

static bool is_byte_level(const cJSON *part, bool regex) {
    const cJSON *use_regex = member(part, "use_regex");
    return part && strcmp(type_of(part), "ByteLevel") == 0 &&
           !cJSON_IsTrue(member(part, "add_prefix_space")) &&
           (use_regex ? cJSON_IsTrue(use_regex) : true) == regex;
}

static syl_status read_split(reader *r, const cJSON *split) {
    const cJSON *pattern = member(member(split, "pattern"), "Regex");
    if (!cJSON_IsString(pattern) || !text_is(member(split, "behavior"), "Isolated") ||
        cJSON_IsTrue(member(split, "invert")))
        return refuse(r, split, "a pre-tokenizer that splits other than in isolated matches of a pattern");
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++)
        if (strcmp(patterns[i].pattern, pattern->valuestring) == 0) {
            r->v.pre = patterns[i].pre;
            r->split_prefers_tokens = patterns[i].prefers_tokens;
            return SYL_OK;
        }
    return syl_error(r->v.diag, SYL_ERR_tokenizer_pre, loc_of(r, pattern),
                     "unknown pattern of a pre-tokenizer: \"%.200s\"", pattern->valuestring);
}

static syl_status read_pre_tokenizer(reader *r) {
    const cJSON *pre = member(r->json->root, "pre_tokenizer"), *first = pre, *second = NULL;
    if (!pre) return refuse(r, r->json->root, "a tokenizer without a pre-tokenizer");
    if (strcmp(type_of(pre), "Sequence") == 0) {
        const cJSON *parts = member(pre, "pretokenizers");
        first = cJSON_GetArrayItem(parts, 0);
        second = cJSON_GetArrayItem(parts, 1);
        if (cJSON_GetArraySize(parts) != 2)
            return refuse(r, pre, "a sequence of other than two pre-tokenizers");
    }
    r->v.pre = "gpt-2";
    if (!second && is_byte_level(first, true)) return SYL_OK;
    if (second && strcmp(type_of(first), "Split") == 0 && is_byte_level(second, false))
        return read_split(r, first);
    if (second && strcmp(type_of(first), "Digits") == 0 && cJSON_IsTrue(member(first, "individual_digits")) &&
        is_byte_level(second, true)) {
        r->v.pre = "smollm";
        return SYL_OK;
    }
    return refuse(r, pre,
                  syl_arena_printf(r->v.arena, "the pre-tokenizer \"%s\"%s%s%s", type_of(first),
                                   second ? " with \"" : "", second ? type_of(second) : "",
                                   second ? "\"" : ""));
}

/* ---- tokens ---- */

static syl_status read_id(const reader *r, const cJSON *node, int64_t *out) {
    double id = cJSON_IsNumber(node) ? node->valuedouble : -1;
    if (!(id >= 0 && id < SYL_VOCABULARY_TOKENS) || id != (double)(int64_t)id)
        return syl_error(r->v.diag, SYL_ERR_tokenizer_data, loc_of(r, node),
                         "expected the id of a token, 0 to %d", SYL_VOCABULARY_TOKENS - 1);
    *out = (int64_t)id;
    return SYL_OK;
}

static syl_status put_token(reader *r, const cJSON *at, int64_t id, const char *text) {
    if (r->tokens[id] && strcmp(r->tokens[id], text) != 0)
        return syl_error(r->v.diag, SYL_ERR_tokenizer_data, loc_of(r, at),
                         "id %lld is \"%.80s\" and \"%.80s\"", (long long)id, r->tokens[id], text);
    r->tokens[id] = text;
    void **slot = syl_map_slot(&r->ids, text, strlen(text), NULL);
    if (!*slot) *slot = (void *)(uintptr_t)(id + 1);
    return SYL_OK;
}

/* Ids without a token (gaps) get the empty text, which nothing encodes to. */
static syl_status read_vocabulary(reader *r, const cJSON *vocab, const cJSON *added) {
    int64_t id, limit = 0;
    const cJSON *node;
    cJSON_ArrayForEach(node, vocab) {
        SYL_TRY(read_id(r, node, &id));
        if (id >= limit) limit = id + 1;
    }
    cJSON_ArrayForEach(node, added) {
        SYL_TRY(read_id(r, member(node, "id"), &id));
        if (id >= limit) limit = id + 1;
    }
    r->tokens = SYL_NEW_ARRAY(r->v.arena, const char *, (size_t)limit + 1);
    r->kinds = SYL_NEW_ARRAY(r->v.arena, unsigned char, (size_t)limit + 1);
    cJSON_ArrayForEach(node, vocab) SYL_TRY(put_token(r, node, (int64_t)node->valuedouble, node->string));
    cJSON_ArrayForEach(node, added) {
        const char *text;
        id = (int64_t)member(node, "id")->valuedouble;
        SYL_TRY(syl_json_string(r->json, node, "content", r->v.diag, &text));
        if (!*text)
            return syl_error(r->v.diag, SYL_ERR_tokenizer_data, loc_of(r, node),
                             "an added token has no text");
        if (cJSON_IsTrue(member(node, "lstrip")) || cJSON_IsTrue(member(node, "rstrip")) ||
            cJSON_IsTrue(member(node, "single_word")))
            return refuse(r, node,
                          syl_arena_printf(r->v.arena,
                                           "the added token \"%.80s\" with lstrip, rstrip or single_word",
                                           text));
        bool special = cJSON_IsTrue(member(node, "special"));
        if (r->prepends && !special && cJSON_IsTrue(member(node, "normalized")))
            return refuse(r, node,
                          syl_arena_printf(r->v.arena,
                                           "the added token \"%.80s\" with a space in front (normalized)",
                                           text));
        SYL_TRY(put_token(r, node, id, text));
        r->kinds[id] = special ? SYL_WORD_CONTROL : SYL_WORD_USER;
    }
    for (int64_t i = 0; i < limit; i++)
        if (!r->tokens[i]) r->tokens[i] = "";
    r->v.tokens = r->tokens;
    r->v.kinds = r->kinds;
    r->v.n_tokens = (size_t)limit;
    return SYL_OK;
}

/* "a b" or ["a", "b"]. */
static syl_status read_merges(reader *r, const cJSON *list) {
    size_t n = 0;
    const cJSON *node;
    const char **merges = SYL_NEW_ARRAY(r->v.arena, const char *, (size_t)cJSON_GetArraySize(list) + 1);
    cJSON_ArrayForEach(node, list) {
        const cJSON *a = cJSON_GetArrayItem(node, 0), *b = cJSON_GetArrayItem(node, 1);
        if (cJSON_IsString(node))
            merges[n++] = node->valuestring;
        else if (cJSON_IsArray(node) && cJSON_GetArraySize(node) == 2 && cJSON_IsString(a) &&
                 cJSON_IsString(b))
            merges[n++] = syl_arena_printf(r->v.arena, "%s %s", a->valuestring, b->valuestring);
        else
            return syl_error(r->v.diag, SYL_ERR_tokenizer_data, loc_of(r, node),
                             "expected a merge: two tokens");
    }
    r->v.merges = merges;
    r->v.n_merges = n;
    return SYL_OK;
}

static syl_status read_model(reader *r) {
    const cJSON *model, *vocab, *merges, *added;
    SYL_TRY(syl_json_object(r->json, r->json->root, "model", true, r->v.diag, &model));
    if (strcmp(type_of(model), "BPE") != 0)
        return refuse(r, model,
                      syl_arena_printf(r->v.arena, "a tokenizer of the type \"%s\"", type_of(model)));
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (int i = 0; i < 2; i++)
        if (member(model, affixes[i]) && !text_is(member(model, affixes[i]), ""))
            return refuse(r, model, syl_arena_printf(r->v.arena, "a tokenizer with \"%s\"", affixes[i]));
    if (member(model, "dropout") &&
        !(cJSON_IsNumber(member(model, "dropout")) && member(model, "dropout")->valuedouble == 0))
        return refuse(r, model, "a tokenizer with \"dropout\"");
    if (cJSON_IsTrue(member(model, "byte_fallback"))) {
        SYL_TRY(syl_hf_read_spaces(r->json, &r->v, &r->prepends));
    } else {
        SYL_TRY(read_normalizer(r));
        SYL_TRY(read_pre_tokenizer(r));
    }
    if (cJSON_IsTrue(member(model, "ignore_merges")) != r->split_prefers_tokens)
        return refuse(r, model,
                      syl_arena_printf(r->v.arena, "the pre-tokenizer '%s' %s \"ignore_merges\"", r->v.pre,
                                       r->split_prefers_tokens ? "without" : "with"));
    SYL_TRY(syl_json_object(r->json, model, "vocab", true, r->v.diag, &vocab));
    SYL_TRY(syl_json_array(r->json, model, "merges", true, r->v.diag, &merges));
    SYL_TRY(syl_json_array(r->json, r->json->root, "added_tokens", false, r->v.diag, &added));
    SYL_TRY(read_vocabulary(r, vocab, added));
    if (r->v.n_tokens == 0)
        return syl_error(r->v.diag, SYL_ERR_tokenizer_data, loc_of(r, vocab), "the vocabulary is empty");
    SYL_TRY(read_merges(r, merges));
    const cJSON *unk = member(model, "unk_token");
    r->v.unk = cJSON_IsString(unk) ? (int64_t)(uintptr_t)syl_map_get_str(&r->ids, unk->valuestring) - 1 : -1;
    return SYL_OK;
}

/* ---- begin and end ---- */

/* The id of a token that a configuration names by its text, as a string or as an object with "content"; -1. */
static int64_t id_of(const reader *r, const cJSON *config, const char *key) {
    const cJSON *node = config ? member(config, key) : NULL;
    if (cJSON_IsObject(node)) node = member(node, "content");
    return cJSON_IsString(node) ? (int64_t)(uintptr_t)syl_map_get_str(&r->ids, node->valuestring) - 1 : -1;
}

/* Ids that a configuration gives as a number or a list; those the tokenizer lacks are left out. */
static void add_ends(reader *r, const cJSON *config) {
    const cJSON *node = config ? member(config, "eos_token_id") : NULL;
    const cJSON *first = cJSON_IsArray(node) ? node->child : node;
    for (const cJSON *id = first; id; id = cJSON_IsArray(node) ? id->next : NULL)
        if (cJSON_IsNumber(id) && id->valuedouble >= 0 && id->valuedouble < (double)r->v.n_tokens)
            syl_vocabulary_add_end(&r->v, (int64_t)id->valuedouble);
}

/* The tokens that every text gets: one at its begin, or none. */
static syl_status read_template(reader *r, const cJSON *processor) {
    const cJSON *single = member(processor, "single"), *node;
    int at = 0;
    cJSON_ArrayForEach(node, single) {
        const cJSON *special = member(node, "SpecialToken");
        if (special && at == 0 && cJSON_GetArraySize(single) == 2) {
            r->v.bos = id_of(r, special, "id");
            r->v.add_bos = true;
        } else if (!member(node, "Sequence")) {
            return refuse(r, processor, "a post-processor that adds tokens other than one at the begin");
        }
        at++;
    }
    return SYL_OK;
}

static syl_status read_post_processor(reader *r) {
    const cJSON *post = member(r->json->root, "post_processor");
    const cJSON *list = post && strcmp(type_of(post), "Sequence") == 0 ? member(post, "processors") : NULL;
    for (const cJSON *node = list ? list->child : post; node; node = list ? node->next : NULL) {
        if (strcmp(type_of(node), "TemplateProcessing") == 0)
            SYL_TRY(read_template(r, node));
        else if (strcmp(type_of(node), "ByteLevel") != 0)
            return refuse(r, node, syl_arena_printf(r->v.arena, "the post-processor \"%s\"", type_of(node)));
    }
    return SYL_OK;
}

/* "chat_template" of the configuration, a text or a list of named ones, or the file of newer checkpoints. */
static syl_status read_chat(reader *r) {
    const char *path = syl_path_beside(r->v.arena, r->json->source->name, "chat_template.jinja");
    const cJSON *node = r->config.root ? member(r->config.root, "chat_template") : NULL, *named;
    if (node) r->v.template_loc = syl_json_loc(&r->config, node);
    if (cJSON_IsString(node)) r->v.template = node->valuestring;
    if (cJSON_IsArray(node)) cJSON_ArrayForEach(named, node) {
            if (text_is(member(named, "name"), "default") && cJSON_IsString(member(named, "template")))
                r->v.template = member(named, "template")->valuestring;
        }
    if (r->v.template || access(path, F_OK) != 0) return SYL_OK;
    syl_source source;
    SYL_TRY(syl_file_read(r->v.arena, path, 1 << 20, r->v.diag, &source));
    r->v.template = source.text;
    return SYL_OK;
}

static syl_status read_beside(reader *r, const char *name, syl_source *source, syl_json *out) {
    const char *path = syl_path_beside(r->v.arena, r->json->source->name, name);
    if (access(path, F_OK) != 0) return SYL_OK;
    SYL_TRY(syl_file_read(r->v.arena, path, max_json, r->v.diag, source));
    SYL_TRY(syl_json_parse(source, r->v.diag, out));
    if (cJSON_IsObject(out->root)) return SYL_OK;
    return syl_error(r->v.diag, SYL_ERR_json_type, syl_json_loc(out, out->root),
                     "expected an object: a configuration");
}

static syl_status read_all(reader *r, syl_text *out) {
    SYL_TRY(read_model(r));
    SYL_TRY(read_beside(r, "tokenizer_config.json", &r->config_source, &r->config));
    SYL_TRY(read_beside(r, "config.json", &r->model_config_source, &r->model_config));
    SYL_TRY(read_beside(r, "generation_config.json", &r->generation_source, &r->generation));
    r->v.bos = id_of(r, r->config.root, "bos_token");
    SYL_TRY(read_post_processor(r));
    if (!r->v.add_bos && r->config.root && cJSON_IsTrue(member(r->config.root, "add_bos_token")) &&
        r->v.bos >= 0 && !member(r->json->root, "post_processor"))
        r->v.add_bos = true;
    syl_vocabulary_add_end(&r->v, id_of(r, r->config.root, "eos_token"));
    add_ends(r, r->model_config.root);
    add_ends(r, r->generation.root);
    SYL_TRY(read_chat(r));
    return syl_vocabulary_write(&r->v, out);
}

syl_status syl_tokenizer_from_hf(const syl_json *json, syl_arena *arena, syl_diag *diag, syl_text *out) {
    reader r = {.json = json, .v = {.diag = diag, .arena = arena, .loc = syl_json_loc(json, json->root)}};
    syl_map_init(&r.ids, arena);
    syl_status status = read_all(&r, out);
    syl_json_free(&r.config);
    syl_json_free(&r.model_config);
    syl_json_free(&r.generation);
    return status;
}
