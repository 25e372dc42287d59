/* Import of Hugging Face directories: the graph, the tokenizer, and that what is not supported is refused by name. */
#include <sys/stat.h>
#include "base/safetensors.h"
#include "frontend/frontend.h"
#include "frontend_gguf_file.h"

static syl_arena arena;
static recorder r;

static int setup(void **state) {
    syl_arena_init(&arena);
    recorder_init(&r);
    return make_folder(state);
}

static int teardown(void **state) {
    syl_diag_destroy(r.diag);
    syl_arena_free(&arena);
    return delete_folder(state);
}

/* Width 8, 2 heads of 4 on 1 key head, hidden 12, one layer, 5 tokens. */
static const char config[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 8, \"intermediate_size\": 12,\n"
    "\"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"num_key_value_heads\": 1,\n"
    "\"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-05, \"rope_theta\": 10000.0, \"rope_scaling\": "
    "null,\n"
    "\"tie_word_embeddings\": false, \"hidden_act\": \"silu\", \"eos_token_id\": 4}";
static const char tokenizer[] =
    "{\"version\": \"1.0\", \"added_tokens\": [{\"id\": 4, \"content\": \"<|end|>\", \"lstrip\": false, "
    "\"special\": true}],\n"
    "\"normalizer\": null, \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false},\n"
    "\"post_processor\": null, \"decoder\": {\"type\": \"ByteLevel\"},\n"
    "\"model\": {\"type\": \"BPE\", \"unk_token\": null, \"byte_fallback\": false, \"vocab\": {\"a\": 0, "
    "\"b\": 1, \"ab\": 2},\n"
    "\"merges\": [\"a b\"]}}";

/* How a directory differs from the one above: `find` becomes `put` in a file (the whole file where `find` is NULL; no
 * file where `put` is NULL too), a tensor is left out or there is one more, [4]. */
typedef struct change {
    const char *file, *find, *put, *without, *extra;
} change;

static const char *changed(const change *c, const char *file, const char *text) {
    if (!c->file || strcmp(c->file, file) != 0) return text;
    if (!c->find) return c->put;
    const char *at = strstr(text, c->find);
    assert_non_null(at);
    return syl_arena_printf(&arena, "%.*s%s%s", (int)(at - text), text, c->put, at + strlen(c->find));
}

static void put_file(const char *folder, const char *name, const char *text) {
    char *path = syl_arena_printf(&arena, "%s/%s", folder, name);
    remove(in_folder(&arena, path));
    if (text) save(&arena, path, text, strlen(text));
}

static void put_weights(const char *path, const change *c) {
    static const struct {
        const char *name;
        int64_t rows, cols;
    } tensors[] = {
        {"model.embed_tokens.weight", 5, 8},
        {"model.norm.weight", 8, 0},
        {"lm_head.weight", 5, 8},
        {"model.layers.0.input_layernorm.weight", 8, 0},
        {"model.layers.0.post_attention_layernorm.weight", 8, 0},
        {"model.layers.0.self_attn.q_proj.weight", 8, 8},
        {"model.layers.0.self_attn.k_proj.weight", 4, 8},
        {"model.layers.0.self_attn.v_proj.weight", 4, 8},
        {"model.layers.0.self_attn.o_proj.weight", 8, 8},
        {"model.layers.0.mlp.gate_proj.weight", 12, 8},
        {"model.layers.0.mlp.up_proj.weight", 12, 8},
        {"model.layers.0.mlp.down_proj.weight", 8, 12},
        {NULL, 4, 0},
    };
    enum { n = sizeof tensors / sizeof *tensors };
    static const float zeros[96] = {0};
    syl_st_writer *w;
    int ids[n];
    expect_ok(&r, syl_st_writer_create(path, r.diag, &w));
    for (int i = 0; i < n; i++) {
        const char *name = tensors[i].name ? tensors[i].name : c->extra;
        ids[i] = -1;
        if (!name || (c->without && strcmp(c->without, name) == 0)) continue;
        const int64_t shape[] = {tensors[i].rows, tensors[i].cols};
        expect_ok(&r, syl_st_writer_declare(w, name, SYL_ST_F32, tensors[i].cols ? 2 : 1, shape, &ids[i]));
    }
    expect_ok(&r, syl_st_writer_begin(w));
    for (int i = 0; i < n; i++)
        if (ids[i] >= 0)
            expect_ok(&r, syl_st_writer_write(
                              w, ids[i], 0, zeros,
                              (size_t)(tensors[i].rows * (tensors[i].cols ? tensors[i].cols : 1)) * 4));
    expect_ok(&r, syl_st_writer_commit(w));
}

/* Makes the directory and opens it. */
static syl_status open_made(const change *c, syl_model *model) {
    static int n;
    const char *name = syl_arena_printf(&arena, "model%d", n++);
    char *folder = in_folder(&arena, name),
         *weights = syl_arena_printf(&arena, "%s/model.safetensors", folder);
    recorder_renew(&r);
    assert_int_equal(mkdir(folder, 0700), 0);
    put_weights(weights, c);
    put_file(name, "config.json", changed(c, "config.json", config));
    put_file(name, "tokenizer.json", changed(c, "tokenizer.json", tokenizer));
    put_file(name, "model.safetensors.index.json", changed(c, "model.safetensors.index.json", NULL));
    if (c->file && strcmp(c->file, "model.safetensors.index.json") == 0)
        rename(weights, syl_arena_printf(&arena, "%s/part.safetensors", folder));
    if (c->file && strcmp(c->file, "model.safetensors") == 0) remove(weights);
    return syl_model_open(folder, r.diag, model);
}

static const char *text_of(const syl_module *module) {
    syl_text text = {.arena = &arena};
    syl_module_print(module, &text);
    return text.p;
}

static void test_import(void **state) {
    (void)state;
    syl_model model;
    expect_ok(&r, open_made(&(change){0}, &model));
    assert_int_equal(model.context_length, 64);
    assert_string_equal(
        model.tokenizer,
        "{\"type\":\"bpe\",\"pre\":\"gpt-2\",\"tokens\":[\"a\",\"b\",\"ab\",\"\",\"<|end|>\"],"
        "\"types\":[{\"id\":4,\"special\":true}],\"merges\":[\"a b\"],\"bos\":null,"
        "\"eos\":[4],\"unk\":null,\"add_bos\":false,\"chat\":null}");
    static const char *const lines[] = {
        "%angles = rope_table %pos {base = 10000.0, dims = 4}",
        "%model.layers.0.q = rope %model.layers.0.q0, %angles {heads = 2, style = half} : tensor<Tx8xf32>",
        "%logits = linear %f, %head : tensor<Rx5xf32>",
    };
    const char *text = text_of(model.module);
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        if (!strstr(text, lines[i])) fail_msg("no '%s' in\n%s", lines[i], text);
    syl_model_close(&model);
}

/* What the directory may also hold. */
static void test_accepted(void **state) {
    (void)state;
    static const change cases[] = {
        {.extra = "model.layers.0.self_attn.rotary_emb.inv_freq"},
        {.file = "tokenizer.json"}, /* none */
        {.file = "tokenizer.json", .find = "\"a b\"", .put = "[\"a\", \"b\"]"},
        {.file = "config.json",
         .find = "\"rope_scaling\": null",
         .put = "\"rope_scaling\": {\"rope_type\": \"default\"}"},
        {.file = "config.json", .find = "\"hidden_act\": \"silu\"", .put = "\"partial_rotary_factor\": 1.0"},
        {.file = "config.json",
         .find = "\"tie_word_embeddings\": false",
         .put = "\"tie_word_embeddings\": true"}, /* equal */
        {.file = "config.json", .find = "\"LlamaFor", .put = "\"MistralFor"},
        {.file = "config.json",
         .find = "\"LlamaForCausalLM\"]",
         .put = "\"MistralForCausalLM\"], \"sliding_window\": 64"},
        {.file = "config.json",
         .find = "\"hidden_act\"",
         .put = "\"sliding_window\": 8, \"hidden_act\""}, /* not Llama's */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        syl_model model;
        syl_status status = open_made(&cases[i], &model);
        if (status != SYL_OK) fail_msg("case %zu: %s", i, r.text);
        syl_model_close(&model);
    }
}

#define CONFIG(from, to)    .file = "config.json", .find = from, .put = to
#define ADD(text)           CONFIG("\"hidden_act\": \"silu\"", text)
#define ROPE(text)          CONFIG("\"rope_scaling\": null", "\"rope_scaling\": " text)
#define TOKENIZER(from, to) .file = "tokenizer.json", .find = from, .put = to
#define INDEX(text)         .file = "model.safetensors.index.json", .put = text

static void test_refused(void **state) {
    (void)state;
    static const struct {
        change change;
        const char *error, *named; /* the message names what is wrong */
    } cases[] = {
        {{CONFIG("LlamaForCausalLM", "GemmaForCausalLM")}, "import-architecture", "GemmaForCausalLM"},
        {{CONFIG("[\"LlamaForCausalLM\"]", "[]")}, "json-type", "architecture"},
        {{.file = "config.json"}, "file-open", "config.json"},
        {{ADD("\"quantization_config\": {\"quant_method\": \"gptq\"}")},
         "import-feature",
         "quantization_config"},
        {{ADD("\"auto_map\": {\"AutoModel\": \"m.M\"}")}, "import-feature", "auto_map"},
        {{ADD("\"hidden_act\": \"gelu\"")}, "import-feature", "hidden_act"},
        {{ADD("\"num_local_experts\": 8")}, "import-feature", "num_local_experts"},
        {{ADD("\"partial_rotary_factor\": 0.5")}, "import-feature", "partial_rotary_factor"},
        {{ADD("\"final_logit_softcapping\": 30.0")}, "import-feature", "final_logit_softcapping"},
        {{ADD("\"logits_scaling\": 8.0")}, "import-feature", "logits_scaling"},
        {{ADD("\"layer_types\": [\"sliding_attention\"]")}, "import-feature", "layer_types"},
        {{ADD("\"vision_config\": {}")}, "import-feature", "vision_config"},
        {{CONFIG("\"LlamaForCausalLM\"]", "\"MistralForCausalLM\"], \"sliding_window\": 32")},
         "import-feature",
         "sliding_window"},
        {{ADD("\"sliding_window\": 32, \"use_sliding_window\": true")}, "import-feature", "sliding_window"},
        {{ROPE("{\"rope_type\": \"yarn\", \"factor\": 4.0}")}, "import-feature", "yarn"},
        {{ROPE("{\"type\": \"dynamic\", \"factor\": 4.0}")}, "import-feature", "dynamic"},
        {{ROPE("{\"rope_type\": \"longrope\"}")}, "import-feature", "longrope"},
        {{ROPE("{\"rope_type\": \"linear\", \"factor\": 0.5}")}, "import-value", "0.5"},
        {{ROPE("{\"rope_type\": \"linear\"}")}, "json-missing", "factor"},
        {{ROPE("{\"rope_type\": \"linear\", \"factor\": 2.0, \"beta_fast\": 32}")},
         "json-unknown-key",
         "beta_fast"},
        {{ROPE("{\"rope_type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": 4.0, \"high_freq_factor\": "
               "1.0, "
               "\"original_max_position_embeddings\": 64}")},
         "import-value",
         "llama3"},
        {{CONFIG("\"num_key_value_heads\": 1", "\"num_key_value_heads\": 3")}, "import-value", "3 key heads"},
        {{CONFIG("\"num_attention_heads\": 2", "\"num_attention_heads\": 3")}, "import-value", "3 heads"},
        {{CONFIG("\"rms_norm_eps\": 1e-05,", "")}, "json-missing", "rms_norm_eps"},
        {{CONFIG("\"hidden_size\": 8", "\"hidden_size\": \"8\"")}, "json-type", "hidden_size"},
        {{CONFIG("\"hidden_size\": 8", "\"hidden_size\": 16")}, "weights-shape", "embed_tokens"},
        {{CONFIG("\"num_hidden_layers\": 1", "\"num_hidden_layers\": 2")},
         "weights-missing",
         "model.layers.1."},
        {{CONFIG("Llama", "Qwen2")}, "weights-missing", "q_proj.bias"},
        {{CONFIG("Llama", "Qwen3")}, "json-missing", "head_dim"},
        {{ADD("\"attention_bias\": true")}, "weights-missing", "q_proj.bias"},
        {{.without = "lm_head.weight"}, "weights-missing", "lm_head.weight"},
        {{.extra = "model.layers.0.self_attn.q_norm.weight"}, "import-tensor", "q_norm"},
        {{.extra = "model.layers.0.self_attn.q_proj.bias"}, "import-tensor", "q_proj.bias"},
        {{.extra = "score.weight"}, "import-tensor", "score.weight"},
        {{.file = "model.safetensors"}, "weights-file", "model.safetensors"},
        {{INDEX("{\"weight_map\": {}}")}, "weights-missing", "no tensors"},
        {{INDEX("{\"weight_map\": {\"a\": \"../part.safetensors\"}}")}, "json-type", "\"a\""},
        {{INDEX("{\"weight_map\": {\"a\": \"part.safetensors\"}}")}, "weights-missing", "\"a\""},
        {{INDEX("{\"weight_map\": {\"model.norm.weight\": \"none.safetensors\"}}")},
         "file-open",
         "none.safetensors"},
        {{TOKENIZER("\"BPE\"", "\"Unigram\"")}, "tokenizer-type", "Unigram"},
        {{TOKENIZER("\"byte_fallback\": false", "\"byte_fallback\": true")}, "tokenizer-type", "ByteLevel"},
        {{TOKENIZER("\"a b\"", "\"b a\"")}, "tokenizer-data", "merge 0"},
        {{TOKENIZER("\"normalizer\": null", "\"normalizer\": {\"type\": \"Lowercase\"}")},
         "tokenizer-type",
         "Lowercase"},
        {{TOKENIZER("\"ByteLevel\"", "\"Metaspace\"")}, "tokenizer-type", "Metaspace"},
        {{TOKENIZER("\"add_prefix_space\": false", "\"add_prefix_space\": true")},
         "tokenizer-type",
         "ByteLevel"},
        {{TOKENIZER("{\"type\": \"ByteLevel\", \"add_prefix_space\": false}",
                    "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": "
                    "{\"Regex\": \"x+\"}, "
                    "\"behavior\": \"Isolated\"}, {\"type\": \"ByteLevel\", \"use_regex\": false}]}")},
         "tokenizer-pre",
         "x+"},
        {{TOKENIZER("\"post_processor\": null", "\"post_processor\": {\"type\": \"BertProcessing\"}")},
         "tokenizer-type",
         "BertProcessing"},
        {{TOKENIZER("\"lstrip\": false", "\"lstrip\": true")}, "tokenizer-type", "<|end|>"},
        {{TOKENIZER("\"unk_token\": null", "\"ignore_merges\": true")}, "tokenizer-type", "ignore_merges"},
        {{TOKENIZER("\"id\": 4", "\"id\": 2")}, "tokenizer-data", "<|end|>"},
        {{TOKENIZER("\"a b\"", "\"a  b\"")}, "tokenizer-data", "merge 0"},
        {{CONFIG(", \"eos_token_id\": 4", "")}, "tokenizer-data", "eos"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        syl_model model;
        const char *what = syl_arena_printf(&arena, "case %zu", i);
        expect_error(&r, open_made(&cases[i].change, &model), cases[i].error, what);
        if (!strstr(r.text, cases[i].named)) fail_msg("%s: no '%s' in '%s'", what, cases[i].named, r.text);
        assert_null(model.module);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_import),
        cmocka_unit_test(test_accepted),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
