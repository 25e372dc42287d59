/* Hugging Face directories: config.json to the description of llama.h. What would change the computation is
 * understood or refused by name; a key that is not known at all gets a warning.
 *
 * Keys and defaults as in the transformers library (LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config). Rotary
 * pairs are (k, k + dims/2). */
#include <cjson/cJSON.h>
#include <string.h>
#include <unistd.h>
#include "base/json.h"
#include "base/map.h"
#include "frontend/import.h"
#include "frontend/llama.h"
#include "frontend/tokenizer.h"

enum {
    max_layers = 1 << 12,
    max_size = 1 << 24,
    max_context = 1 << 30,
    max_json = 64 << 20,
    max_shards = 1 << 12
};

typedef enum family { LLAMA, MISTRAL, QWEN2, QWEN3, FAMILIES } family;
static const struct {
    const char *architecture, *name;
} families[FAMILIES] = {
    {"LlamaForCausalLM", "llama"},
    {"MistralForCausalLM", "mistral"},
    {"Qwen2ForCausalLM", "qwen2"},
    {"Qwen3ForCausalLM", "qwen3"},
};

typedef struct reader {
    const char *directory, *prefix;
    syl_source source; /* config.json */
    syl_json json;
    family family;
    syl_llama m;
} reader;

static const char *path_of(const reader *r, const char *file) {
    return syl_arena_printf(r->m.arena, "%s/%s", r->directory, file);
}

/* A member that is there and not null. */
static const cJSON *member(const cJSON *object, const char *key) {
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsNull(node) ? NULL : node;
}

static syl_loc loc_of(const reader *r, const cJSON *node) {
    return syl_json_loc(&r->json, node ? node : r->json.root);
}

static syl_status read_int(reader *r, const char *key, bool required, int64_t max, int64_t *out) {
    if (!required && !member(r->json.root, key)) return SYL_OK;
    return syl_json_int(&r->json, r->json.root, key, 1, max, r->m.diag, out);
}

static syl_status read_bool(reader *r, const char *key, bool *out) {
    const cJSON *node = member(r->json.root, key);
    if (!node) return SYL_OK;
    *out = cJSON_IsTrue(node);
    if (cJSON_IsBool(node)) return SYL_OK;
    return syl_error(r->m.diag, SYL_ERR_json_type, loc_of(r, node), "'%s' must be true or false", key);
}

static syl_status refuse(reader *r, const cJSON *node, const char *what) {
    char *text = cJSON_PrintUnformatted(node);
    syl_status status =
        syl_error(r->m.diag, SYL_ERR_import_feature, loc_of(r, node), "\"%s\" is %.60s: %s is not supported",
                  node->string, text ? text : "?", what);
    cJSON_free(text);
    return status;
}

/* ---- what is not supported ---- */

static bool is_harmless(const cJSON *node, const char *harmless) {
    if (cJSON_IsNull(node)) return true;
    if (!harmless) return false;
    if (cJSON_IsBool(node)) return strcmp(harmless, cJSON_IsTrue(node) ? "true" : "false") == 0;
    if (cJSON_IsString(node)) return strcmp(harmless, node->valuestring) == 0;
    return cJSON_IsNumber(node) && *harmless >= '0' && *harmless <= '9' &&
           node->valuedouble == *harmless - '0';
}

static syl_status refuse_features(reader *r) {
    static const struct {
        const char *key, *harmless, *what;
    } features[] = {
        {"quantization_config", NULL, "a checkpoint that is quantized already"},
        {"compression_config", NULL, "a checkpoint that is quantized already"},
        {"auto_map", NULL, "a model with code of its own"},
        {"hidden_act", "silu", "another activation than SiLU"},
        {"hidden_activation", "silu", "another activation than SiLU"},
        {"num_local_experts", "0", "a mixture of experts"},
        {"num_experts", "0", "a mixture of experts"},
        {"n_routed_experts", "0", "a mixture of experts"},
        {"num_experts_per_tok", "0", "a mixture of experts"},
        {"partial_rotary_factor", "1", "a partial rotary embedding"},
        {"alibi", "false", "ALiBi positions"},
        {"attn_logit_softcapping", NULL, "capped attention"},
        {"final_logit_softcapping", NULL, "capped logits"},
        {"query_pre_attn_scalar", NULL, "an own attention scale"},
        {"attention_multiplier", "1", "an own attention scale"},
        {"embedding_multiplier", "1", "scaled embeddings"},
        {"residual_multiplier", "1", "scaled residuals"},
        {"logits_scaling", "1", "scaled logits"},
        {"logit_scale", "1", "scaled logits"},
        {"clip_qkv", NULL, "clamped attention inputs"},
        {"use_qk_norm", "false", "a norm of queries and keys by this key"},
        {"qk_layernorm", "false", "a norm of queries and keys by this key"},
        {"parallel_attn", "false", "parallel residuals"},
        {"use_parallel_residual", "false", "parallel residuals"},
        {"is_encoder_decoder", "false", "an encoder and decoder"},
        {"add_cross_attention", "false", "cross attention"},
        {"is_causal", "true", "attention that is not causal"},
        {"vision_config", NULL, "a model with pictures"},
        {"text_config", NULL, "a model in parts"},
        {"no_rope_layers", NULL, "layers without rotary positions"},
        {"attn_temperature_tuning", "false", "an attention scale by position"},
        {"kv_lora_rank", NULL, "latent attention"},
    };
    for (size_t i = 0; i < sizeof features / sizeof *features; i++) {
        const cJSON *node = cJSON_GetObjectItemCaseSensitive(r->json.root, features[i].key);
        if (node && !is_harmless(node, features[i].harmless)) return refuse(r, node, features[i].what);
    }
    const cJSON *types, *type;
    SYL_TRY(syl_json_array(&r->json, r->json.root, "layer_types", false, r->m.diag, &types));
    cJSON_ArrayForEach(type, types) {
        if (!cJSON_IsString(type) || strcmp(type->valuestring, "full_attention") != 0)
            return refuse(r, types, "a layer type other than \"full_attention\"");
    }
    return SYL_OK;
}

/* A window that no position reaches beyond changes nothing. */
static syl_status refuse_window(reader *r) {
    bool used = r->family == MISTRAL;
    SYL_TRY(read_bool(r, "use_sliding_window", &used));
    const cJSON *window = member(r->json.root, "sliding_window");
    if (!used || !window) return SYL_OK;
    int64_t size;
    SYL_TRY(read_int(r, "sliding_window", true, max_context, &size));
    return size >= r->m.context ? SYL_OK : refuse(r, window, "sliding-window attention");
}

static void warn_unknown(reader *r) {
    /* Read here, or of no weight for what the model computes. */
    static const char *const known[] = {"architectures",
                                        "model_type",
                                        "hidden_size",
                                        "intermediate_size",
                                        "num_hidden_layers",
                                        "num_attention_heads",
                                        "num_key_value_heads",
                                        "head_dim",
                                        "max_position_embeddings",
                                        "rms_norm_eps",
                                        "rope_theta",
                                        "rope_scaling",
                                        "rope_parameters",
                                        "tie_word_embeddings",
                                        "attention_bias",
                                        "mlp_bias",
                                        "vocab_size",
                                        "sliding_window",
                                        "use_sliding_window",
                                        "max_window_layers",
                                        "layer_types",
                                        "torch_dtype",
                                        "dtype",
                                        "transformers_version",
                                        "use_cache",
                                        "initializer_range",
                                        "bos_token_id",
                                        "eos_token_id",
                                        "pad_token_id",
                                        "unk_token_id",
                                        "attention_dropout",
                                        "hidden_dropout",
                                        "embd_pdrop",
                                        "resid_pdrop",
                                        "pretraining_tp",
                                        "_name_or_path",
                                        "name_or_path",
                                        "output_attentions",
                                        "output_hidden_states",
                                        "return_dict",
                                        "torchscript",
                                        "id2label",
                                        "label2id",
                                        "chunk_size_feed_forward",
                                        "_attn_implementation",
                                        "_attn_implementation_autoset",
                                        "gradient_checkpointing",
                                        "tokenizer_class",
                                        "keys_to_ignore_at_inference",
                                        "transformers.js_config",
                                        "is_decoder",
                                        "hidden_act",
                                        NULL};
    for (const cJSON *node = r->json.root->child; node; node = node->next) {
        bool is_known = false;
        for (int i = 0; known[i]; i++) is_known = is_known || strcmp(known[i], node->string) == 0;
        if (is_known) continue;
        /* Features that are off passed the check before. */
        if (cJSON_IsNull(node) || cJSON_IsFalse(node)) continue;
        syl_warning(r->m.diag, loc_of(r, node),
                    "the key \"%s\" of the configuration is not known and was not read", node->string);
    }
}

/* ---- config.json ---- */

static syl_status read_family(reader *r) {
    const cJSON *list;
    SYL_TRY(syl_json_array(&r->json, r->json.root, "architectures", true, r->m.diag, &list));
    const cJSON *name = cJSON_GetArrayItem(list, 0);
    if (!cJSON_IsString(name) || cJSON_GetArraySize(list) != 1)
        return syl_error(r->m.diag, SYL_ERR_json_type, loc_of(r, list),
                         "expected a list of one name of an architecture");
    for (r->family = 0; r->family < FAMILIES; r->family++)
        if (strcmp(families[r->family].architecture, name->valuestring) == 0) return SYL_OK;
    return syl_error(r->m.diag, SYL_ERR_import_architecture, loc_of(r, name),
                     "the checkpoint has the architecture \"%s\"", name->valuestring);
}

/* "rope_scaling", or "rope_parameters" as newer versions write it, with the base in it. */
static syl_status read_rope(reader *r) {
    syl_llama *m = &r->m;
    const cJSON *root = r->json.root, *rope = member(root, "rope_parameters");
    if (!rope) rope = member(root, "rope_scaling");
    m->rope_base = 10000;
    if (member(root, "rope_theta"))
        SYL_TRY(syl_json_number(&r->json, root, "rope_theta", m->diag, &m->rope_base));
    if (!rope) return SYL_OK;
    if (!cJSON_IsObject(rope))
        return syl_error(m->diag, SYL_ERR_json_type, loc_of(r, rope),
                         "expected an object: the scaling of rotary positions");
    if (member(rope, "rope_theta"))
        SYL_TRY(syl_json_number(&r->json, rope, "rope_theta", m->diag, &m->rope_base));
    static const char *const keys[] = {"rope_type",
                                       "type",
                                       "rope_theta",
                                       "factor",
                                       "low_freq_factor",
                                       "high_freq_factor",
                                       "partial_rotary_factor",
                                       "original_max_position_embeddings",
                                       NULL};
    const char *kind = "default", *key = member(rope, "rope_type") ? "rope_type" : "type";
    if (member(rope, key)) SYL_TRY(syl_json_string(&r->json, rope, key, m->diag, &kind));
    const cJSON *partial = member(rope, "partial_rotary_factor");
    if (partial && !is_harmless(partial, "1")) return refuse(r, partial, "a partial rotary embedding");
    if (strcmp(kind, "default") == 0) return syl_json_known_keys(&r->json, rope, keys, m->diag);
    bool llama3 = strcmp(kind, "llama3") == 0;
    if (!llama3 && strcmp(kind, "linear") != 0)
        return syl_error(m->diag, SYL_ERR_import_feature, loc_of(r, member(rope, key)),
                         "\"%s\" is \"%s\": this scaling of rotary positions is not supported", key, kind);
    SYL_TRY(syl_json_known_keys(&r->json, rope, keys, m->diag));
    m->scaling.kind = llama3 ? "llama3" : "linear";
    SYL_TRY(syl_json_number(&r->json, rope, "factor", m->diag, &m->scaling.factor));
    if (!llama3) return SYL_OK;
    SYL_TRY(syl_json_number(&r->json, rope, "low_freq_factor", m->diag, &m->scaling.low));
    SYL_TRY(syl_json_number(&r->json, rope, "high_freq_factor", m->diag, &m->scaling.high));
    return syl_json_int(&r->json, rope, "original_max_position_embeddings", 1, max_context, m->diag,
                        &m->scaling.original);
}

static syl_status read_config(reader *r) {
    syl_llama *m = &r->m;
    bool tied = false, attention_bias = false, mlp_bias = false;
    if (!cJSON_IsObject(r->json.root))
        return syl_error(m->diag, SYL_ERR_json_type, loc_of(r, NULL),
                         "expected an object: the configuration of a model");
    SYL_TRY(read_family(r));
    SYL_TRY(refuse_features(r));
    m->architecture = families[r->family].name;
    m->name = syl_llama_name(m->arena, m->architecture);
    SYL_TRY(read_int(r, "num_hidden_layers", true, max_layers, &m->layers));
    SYL_TRY(read_int(r, "max_position_embeddings", true, max_context, &m->context));
    SYL_TRY(read_int(r, "hidden_size", true, max_size, &m->width));
    SYL_TRY(read_int(r, "intermediate_size", true, max_size, &m->hidden));
    SYL_TRY(read_int(r, "num_attention_heads", true, max_size, &m->heads));
    m->kv_heads = m->heads;
    SYL_TRY(read_int(r, "num_key_value_heads", r->family != LLAMA, max_size, &m->kv_heads));
    /* Qwen3's default size of a head has nothing to do with the width. */
    if (r->family != QWEN3 && !member(r->json.root, "head_dim") && m->width % m->heads != 0)
        return syl_error(m->diag, SYL_ERR_import_value,
                         loc_of(r, member(r->json.root, "num_attention_heads")),
                         "the width %lld is not a multiple of %lld heads, and there is no \"head_dim\"",
                         (long long)m->width, (long long)m->heads);
    m->head_dim = m->width / m->heads;
    SYL_TRY(read_int(r, "head_dim", r->family == QWEN3, max_size, &m->head_dim));
    m->rope_dims = m->head_dim;
    SYL_TRY(syl_json_number(&r->json, r->json.root, "rms_norm_eps", m->diag, &m->eps));
    SYL_TRY(read_rope(r));
    SYL_TRY(syl_llama_check_sizes(m, loc_of(r, NULL)));
    SYL_TRY(refuse_window(r));
    SYL_TRY(read_bool(r, "tie_word_embeddings", &tied));
    SYL_TRY(read_bool(r, "attention_bias", &attention_bias));
    SYL_TRY(read_bool(r, "mlp_bias", &mlp_bias));
    m->head = tied ? SYL_ABSENT : SYL_REQUIRED;
    m->qkv_bias = attention_bias || r->family == QWEN2 ? SYL_REQUIRED : SYL_ABSENT;
    m->o_bias = attention_bias && r->family != QWEN2 ? SYL_REQUIRED : SYL_ABSENT;
    m->mlp_bias = mlp_bias ? SYL_REQUIRED : SYL_ABSENT;
    m->qk_norm = r->family == QWEN3 ? SYL_REQUIRED : SYL_ABSENT;
    warn_unknown(r);
    return SYL_OK;
}

/* ---- the files of weights ---- */

static bool exists(const reader *r, const char *file) {
    return access(path_of(r, file), F_OK) == 0;
}

/* The shards that an index names, each once, in the order of their names' first appearance. */
static syl_status read_index(reader *r, const syl_json *json, syl_map *shards) {
    const cJSON *map;
    if (!cJSON_IsObject(json->root))
        return syl_error(r->m.diag, SYL_ERR_json_type, syl_json_loc(json, json->root),
                         "expected an object: an index of shards");
    SYL_TRY(syl_json_object(json, json->root, "weight_map", true, r->m.diag, &map));
    for (const cJSON *node = map->child; node; node = node->next) {
        if (!cJSON_IsString(node) || !*node->valuestring || strchr(node->valuestring, '/') ||
            node->valuestring[0] == '.')
            return syl_error(r->m.diag, SYL_ERR_json_type, syl_json_loc(json, node),
                             "expected the name of a file beside the index, for tensor \"%s\"", node->string);
        int fresh;
        *syl_map_slot(shards, node->valuestring, strlen(node->valuestring), &fresh) = (void *)node;
        if (shards->entries.n > max_shards)
            return syl_error(r->m.diag, SYL_ERR_import_value, syl_json_loc(json, node), "more than %d shards",
                             max_shards);
    }
    if (shards->entries.n == 0)
        return syl_error(r->m.diag, SYL_ERR_weights_missing, syl_json_loc(json, map),
                         "the index names no tensors");
    return SYL_OK;
}

/* Every tensor must be in the shard that the index says. */
static syl_status check_index(reader *r, const syl_json *json, const syl_map *shards) {
    const cJSON *map = cJSON_GetObjectItemCaseSensitive(json->root, "weight_map");
    for (const cJSON *node = map->child; node; node = node->next) {
        size_t i = 0;
        int rank;
        int64_t dims[SYL_MAX_RANK];
        while (strcmp(shards->entries.p[i].key, node->valuestring) != 0) i++;
        if (!syl_weights_shape(r->m.files[i], node->string, &rank, dims))
            return syl_error(r->m.diag, SYL_ERR_weights_missing, syl_json_loc(json, node),
                             "the index places tensor \"%s\" in \"%s\", which does not hold it", node->string,
                             node->valuestring);
    }
    return SYL_OK;
}

static syl_status open_files(reader *r, const char *const *names, size_t n) {
    const char **graph_names = SYL_NEW_ARRAY(r->m.arena, const char *, n);
    r->m.files = SYL_NEW_ARRAY(r->m.arena, syl_weights *, n);
    r->m.file_names = graph_names;
    for (; r->m.n_files < n; r->m.n_files++) {
        const char *name = names[r->m.n_files];
        graph_names[r->m.n_files] = syl_arena_printf(r->m.arena, "%s%s", r->prefix, name);
        SYL_TRY(syl_weights_open(path_of(r, name), r->m.diag, &r->m.files[r->m.n_files]));
    }
    return SYL_OK;
}

static syl_status open_shards(reader *r, const char *index) {
    syl_source source;
    syl_json json;
    syl_map shards;
    syl_map_init(&shards, r->m.arena);
    SYL_TRY(syl_file_read(r->m.arena, path_of(r, index), max_json, r->m.diag, &source));
    SYL_TRY(syl_json_parse(&source, r->m.diag, &json));
    syl_status status = read_index(r, &json, &shards);
    const char **names = SYL_NEW_ARRAY(r->m.arena, const char *, shards.entries.n + 1);
    for (size_t i = 0; i < shards.entries.n; i++) names[i] = shards.entries.p[i].key;
    if (status == SYL_OK) status = open_files(r, names, shards.entries.n);
    if (status == SYL_OK) status = check_index(r, &json, &shards);
    syl_json_free(&json);
    return status;
}

static syl_status open_weights(reader *r) {
    static const char single[] = "model.safetensors", index[] = "model.safetensors.index.json";
    if (exists(r, single)) return open_files(r, (const char *const[]){single}, 1);
    if (exists(r, index)) return open_shards(r, index);
    syl_source directory = {r->directory, NULL, 0};
    bool pickled = exists(r, "pytorch_model.bin") || exists(r, "pytorch_model.bin.index.json");
    return syl_error(r->m.diag, SYL_ERR_weights_file, (syl_loc){&directory, 0},
                     "there is neither \"%s\" nor \"%s\"%s", single, index,
                     pickled ? ", and \"pytorch_model.bin\" is not read" : "");
}

/* Buffers that old versions stored, which follow from the configuration. */
static bool is_buffer(const char *name) {
    static const char inv_freq[] = "rotary_emb.inv_freq";
    size_t n = strlen(name);
    return n >= sizeof inv_freq - 1 && strcmp(name + n - (sizeof inv_freq - 1), inv_freq) == 0;
}

static syl_status import(reader *r, syl_text *out) {
    static const char tokenizer[] = "tokenizer.json";
    SYL_TRY(syl_json_parse(&r->source, r->m.diag, &r->json));
    SYL_TRY(read_config(r));
    SYL_TRY(open_weights(r));
    if (exists(r, tokenizer)) {
        char *text;
        SYL_TRY(syl_tokenizer_load(path_of(r, tokenizer), r->m.arena, r->m.diag, &text));
        r->m.tokenizer_file = syl_arena_printf(r->m.arena, "%s%s", r->prefix, tokenizer);
    } else {
        syl_warning(r->m.diag, loc_of(r, NULL),
                    "there is no \"%s\", so the model is imported without a tokenizer", tokenizer);
    }
    return syl_llama_write(&r->m, is_buffer, out);
}

syl_status syl_import_hf(const char *directory, const char *prefix, syl_arena *arena, syl_diag *diag,
                         syl_text *out) {
    reader r = {.directory = directory,
                .prefix = prefix,
                .m = {.diag = diag, .arena = arena, .hugging_face = true, .half = true}};
    SYL_TRY(syl_file_read(arena, path_of(&r, "config.json"), max_json, diag, &r.source));
    r.m.source = &r.source;
    syl_status status = import(&r, out);
    for (size_t i = 0; i < r.m.n_files; i++) syl_weights_close(r.m.files[i]);
    syl_json_free(&r.json);
    return status;
}
