/* Import of Llama checkpoints: the graph, the tokenizer, and what is refused. */
#include "frontend_gguf_file.h"
#include <sys/stat.h>
#include "frontend/frontend.h"

static syl_arena arena;
static recorder r;
static bytes b;

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

/* What a checkpoint is made with; width 8, 2 heads of 4 on 1 key head, hidden 12, 5 tokens. */
typedef struct recipe {
    const char *architecture, *model, *template;
    bool untied, biased;
    const char *key; /* an additional key: u32, or text if `text` is set */
    uint32_t value;
    const char *text;
    const char *without;      /* a key or tensor to leave out */
    const char *extra_tensor; /* [4] */
    uint32_t embedding_type;  /* GGUF's number */
    int64_t hidden;           /* of the tensors; 0: as in the metadata */
} recipe;

static int n_items;
static const recipe *now;
static bool wanted(const char *name) {
    bool yes = !now->without || strcmp(now->without, name) != 0;
    n_items += yes;
    return yes;
}

static void write_keys(void) {
    static const char *const tokens[] = {"<|im_start|>", "<|im_end|>", "a", "\xc4\xa0", "\u0120a"},
                             *const merges[] = {"\xc4\xa0 a"};
    static const int types[] = {3, 3, 1, 1, 4};
    if (wanted("general.architecture"))
        key_text(&b, "general.architecture", now->architecture ? now->architecture : "llama");
    if (wanted("general.name")) key_text(&b, "general.name", "Tiny Llama 1.1");
    static const struct {
        const char *key;
        uint32_t value;
    } ints[] = {{"llama.block_count", 2},           {"llama.context_length", 32},
                {"llama.embedding_length", 8},      {"llama.feed_forward_length", 12},
                {"llama.attention.head_count", 2},  {"llama.attention.head_count_kv", 1},
                {"tokenizer.ggml.bos_token_id", 0}, {"tokenizer.ggml.eos_token_id", 2}};
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++)
        if (wanted(ints[i].key)) key_u32(&b, ints[i].key, ints[i].value);
    if (wanted("llama.attention.layer_norm_rms_epsilon"))
        key_f32(&b, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    if (wanted("tokenizer.ggml.model"))
        key_text(&b, "tokenizer.ggml.model", now->model ? now->model : "gpt2");
    if (wanted("tokenizer.ggml.pre")) key_text(&b, "tokenizer.ggml.pre", "smollm");
    if (wanted("tokenizer.ggml.tokens")) key_texts(&b, "tokenizer.ggml.tokens", tokens, 5);
    if (wanted("tokenizer.ggml.merges")) key_texts(&b, "tokenizer.ggml.merges", merges, 1);
    if (wanted("tokenizer.ggml.token_type")) {
        key(&b, "tokenizer.ggml.token_type", SYL_GGUF_ARRAY), put_int(&b, SYL_GGUF_I32, 4), put_int(&b, 5, 8);
        for (int i = 0; i < 5; i++) put_int(&b, (uint64_t)types[i], 4);
    }
    if (now->template && wanted("tokenizer.chat_template"))
        key_text(&b, "tokenizer.chat_template", now->template);
    if (now->key && wanted(now->key)) {
        if (now->text)
            key_text(&b, now->key, now->text);
        else
            key_u32(&b, now->key, now->value);
    }
}

static uint64_t offset;
static void f32(const char *name, uint64_t rows, uint64_t cols) {
    if (!wanted(name)) return;
    tensor(&b, name, rows, cols, 0, offset);
    offset += (rows * (cols ? cols : 1) * 4 + 31) / 32 * 32;
}

static void write_tensors(void) {
    offset = 0;
    uint64_t hidden = now->hidden ? (uint64_t)now->hidden : 12;
    if (wanted("token_embd.weight"))
        tensor(&b, "token_embd.weight", 5, now->embedding_type == 10 ? 256 : 8, now->embedding_type, 0),
            offset = 1056;
    for (int layer = 0; layer < 2; layer++) {
#define NAME(suffix) syl_arena_printf(&arena, "blk.%d." suffix, layer)
        f32(NAME("attn_norm.weight"), 8, 0), f32(NAME("attn_q.weight"), 8, 8),
            f32(NAME("attn_k.weight"), 4, 8), f32(NAME("attn_v.weight"), 4, 8);
        f32(NAME("attn_output.weight"), 8, 8), f32(NAME("ffn_norm.weight"), 8, 0);
        f32(NAME("ffn_gate.weight"), hidden, 8), f32(NAME("ffn_up.weight"), hidden, 8),
            f32(NAME("ffn_down.weight"), 8, hidden);
        if (now->biased)
            f32(NAME("attn_q.bias"), 8, 0), f32(NAME("attn_v.bias"), 4, 0), f32(NAME("ffn_down.bias"), 8, 0);
    }
    f32("output_norm.weight", 8, 0);
    if (now->untied) f32("output.weight", 5, 8);
    if (now->extra_tensor) f32(now->extra_tensor, 4, 0);
}

/* Writes the checkpoint and returns its path. */
static char *make(const recipe *with) {
    now = with;
    n_items = 0;
    begin(&b, 0, 0);
    write_keys();
    int keys = n_items;
    write_tensors();
    int tensors = n_items - keys;
    begin(&b, (uint64_t)tensors, (uint64_t)keys);
    write_keys();
    write_tensors();
    pad(&b, 32);
    put_int(&b, 0, offset + 32);
    return save(&arena, "tiny.gguf", b.p, b.n);
}

static syl_status open_made(const recipe *with, syl_model *model) {
    const char *path = make(with);
    recorder_renew(&r);
    return syl_model_open(path, r.diag, model);
}

static char *print_module(const syl_module *module) {
    syl_text text = {.arena = &arena};
    syl_module_print(module, &text);
    return text.p;
}

static const char chatml[] =
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nBe brief.<|im_end|>\\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>'}}";

static void test_tied(void **state) {
    (void)state;
    syl_model model;
    expect_ok(&r, open_made(&(recipe){.template = chatml}, &model));
    const char *text = print_module(model.module);
    static const char *const lines[] = {
        "module @tiny_llama_1_1 {",
        "func @forward(%ids: tensor<Txi32>, %pos: tensor<Txi32>, %seq: tensor<Txi32>, %rows: tensor<Rxi32>, "
        "%kv: kv<2x1x4xf32>) -> (tensor<Rx5xf32>, kv<2x1x4xf32>) {",
        "%angles = rope_table %pos {base = 10000.0, dims = 4} : tensor<Tx4xf32>",
        "%blk.1.n = rms_norm %blk.0.x2, %blk.1.attn_norm {eps = 1e-05} : tensor<Tx8xf32>",
        "%blk.1.q0 = linear %blk.1.n, %blk.1.wq : tensor<Tx8xf32>",
        "%blk.1.q = rope %blk.1.q0, %angles {heads = 2, style = interleaved} : tensor<Tx8xf32>",
        "%blk.1.kv1 = kv_append %blk.0.kv1, %blk.1.k, %blk.1.v, %pos, %seq {layer = 1} : kv<2x1x4xf32>",
        "%blk.1.a = attention %blk.1.q, %blk.1.kv1, %pos, %seq {heads = 2, layer = 1, scale = 0.5} : "
        "tensor<Tx8xf32>",
        "%y = take %blk.1.x2, %rows : tensor<Rx8xf32>",
        "%logits = linear %f, %embedding : tensor<Rx5xf32>",
        "return %logits, %blk.1.kv1",
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        if (!strstr(text, lines[i])) fail_msg("no '%s' in\n%s", lines[i], text);
    assert_int_equal(model.context_length, 32);
    assert_string_equal(model.tokenizer, "{\"type\":\"bpe\",\"pre\":\"smollm\",\"tokens\":[\"<|im_start|>\","
                                         "\"<|im_end|>\",\"a\",\"\xc4\xa0\",\"\xc4\xa0"
                                         "a\"],"
                                         "\"types\":[{\"id\":0,\"special\":true},{\"id\":1,\"special\":true},"
                                         "{\"id\":4,\"special\":false}],\"merges\":[\"\xc4\xa0 a\"],"
                                         "\"bos\":0,\"eos\":[1,2],\"unk\":null,\"add_bos\":false,\"chat\":{"
                                         "\"format\":\"chatml\",\"system\":\"Be brief.\"}}");
    syl_model_close(&model);
}

static void test_untied_with_biases(void **state) {
    (void)state;
    syl_model model;
    expect_ok(&r, open_made(&(recipe){.untied = true,
                                      .biased = true,
                                      .without = "tokenizer.ggml.model",
                                      .key = "llama.attention.key_length",
                                      .value = 4},
                            &model));
    const char *text = print_module(model.module);
    assert_non_null(strstr(text, "%blk.0.q0 = linear %blk.0.n, %blk.0.wq, %blk.0.bq : tensor<Tx8xf32>"));
    assert_non_null(strstr(text, "%blk.0.k0 = linear %blk.0.n, %blk.0.wk : tensor<Tx4xf32>"));
    assert_non_null(strstr(text, "%blk.1.d = linear %blk.1.m, %blk.1.wd, %blk.1.bd : tensor<Tx8xf32>"));
    assert_non_null(strstr(text, "%logits = linear %f, %head : tensor<Rx5xf32>"));
    assert_null(model.tokenizer);
    syl_model_close(&model);
}

/* The graph written beside the checkpoint, or in a folder of its own, finds it again. */
static void test_paths(void **state) {
    (void)state;
    recorder_renew(&r);
    const char *path = make(&(recipe){.template = chatml}), *inner = in_folder(&arena, "inner");
    static const char *const graphs[] = {"graph.json", "inner/graph.json"}, *const names[] = {
                                                                                "[\"tiny.gguf\"]",
                                                                                "[\"../tiny.gguf\"]"};
    assert_int_equal(mkdir(inner, 0700), 0);
    for (int i = 0; i < 2; i++) {
        const char *graph = in_folder(&arena, graphs[i]);
        syl_text json = {.arena = &arena};
        syl_model model;
        expect_ok(&r, syl_import_checkpoint(path, graph, r.diag, &json));
        assert_non_null(strstr(json.p, names[i]));
        expect_ok(&r, syl_file_write(graph, json.p, json.n, r.diag));
        expect_ok(&r, syl_model_open(graph, r.diag, &model));
        assert_non_null(model.tokenizer);
        syl_model_close(&model);
    }
}

static void test_refused(void **state) {
    (void)state;
    static const struct {
        recipe recipe;
        const char *error;
    } cases[] = {
        {{.architecture = "mamba"}, "import-architecture"},
        {{.without = "general.architecture"}, "gguf-missing-key"},
        {{.without = "llama.embedding_length"}, "gguf-missing-key"},
        {{.without = "llama.attention.layer_norm_rms_epsilon"}, "gguf-missing-key"},
        {{.key = "llama.rope.scaling.type", .text = "yarn"}, "import-feature"},
        {{.key = "llama.expert_count", .value = 8}, "import-feature"},
        {{.key = "llama.attention.sliding_window", .value = 4096}, "import-feature"},
        {{.key = "llama.attention.value_length", .value = 2}, "import-feature"},
        {{.key = "llama.rope.dimension_count", .value = 3}, "import-value"},
        {{.key = "llama.rope.dimension_count", .value = 6}, "import-value"},
        {{.key = "llama.rope.freq_base", .value = 3}, "gguf-type"},
        {{.extra_tensor = "rope_freqs.weight"}, "weights-shape"},
        {{.extra_tensor = "blk.0.attn_q_norm.weight"}, "import-tensor"},
        {{.extra_tensor = "blk.1.attn_q.bias"}, "import-tensor"}, /* not in layer 0 */
        {{.extra_tensor = "blk.2.attn_norm.weight"}, "import-tensor"},
        {{.biased = true, .without = "blk.1.attn_q.bias"}, "weights-missing"},
        {{.without = "token_embd.weight"}, "weights-missing"},
        {{.without = "blk.1.ffn_up.weight"}, "weights-missing"},
        {{.hidden = 16}, "weights-shape"},
        {{.embedding_type = 10}, "weights-format"},
        {{.model = "bert"}, "tokenizer-type"},
        {{.without = "tokenizer.ggml.tokens"}, "gguf-missing-key"},
        {{.without = "tokenizer.ggml.eos_token_id"}, "tokenizer-data"},
        {{.key = "tokenizer.ggml.eot_token_id", .value = 5}, "gguf-value"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        syl_model model;
        expect_error(&r, open_made(&cases[i].recipe, &model), cases[i].error,
                     syl_arena_printf(&arena, "case %zu", i));
        assert_null(model.module);
    }
    /* Harmless values of the same keys are fine. */
    static const recipe fine[] = {{.key = "llama.rope.scaling.type", .text = "none", .template = chatml},
                                  {.key = "llama.expert_count", .template = chatml}};
    for (size_t i = 0; i < 2; i++) {
        syl_model model;
        expect_ok(&r, open_made(&fine[i], &model));
        syl_model_close(&model);
    }
}

static void test_chat(void **state) {
    (void)state;
    static const struct {
        const char *template, *chat;
    } cases[] = {
        {NULL, "\"eos\":[2],\"unk\":null,\"add_bos\":false,\"chat\":null}"},
        {"{{ message['content'] }}", "\"chat\":null}"},
        {"{{ '[INST] ' + message['content'] + ' [/INST]' }}", "\"chat\":null}"},
        {"{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' }}",
         "\"chat\":{\"format\":\"chatml\",\"system\":null}}"},
        {"{{ '<|im_start|>system\n' + system + '<|im_end|>' + message['role'] }}",
         "\"chat\":{\"format\":\"chatml\",\"system\":null}}"},
        {"{{ '<|im_start|>system\n' + x }}{{ '<|im_start|>system\nSay \xc3\xa9.<|im_end|>' + message.role }}",
         "\"chat\":{\"format\":\"chatml\",\"system\":\"Say \xc3\xa9.\"}}"},
        {"{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>' + '<|eot_id|>' }}",
         "\"chat\":null}"}, /* no such tokens here */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        syl_model model;
        expect_ok(&r, open_made(&(recipe){.template = cases[i].template}, &model));
        size_t n = strlen(model.tokenizer), m = strlen(cases[i].chat);
        if (n < m || strcmp(model.tokenizer + n - m, cases[i].chat) != 0)
            fail_msg("expected %s at the end of %s", cases[i].chat, model.tokenizer);
        syl_model_close(&model);
    }
}

static void test_model_open(void **state) {
    (void)state;
    syl_model model;
    recorder_renew(&r);
    expect_error(&r, syl_model_open(in_folder(&arena, "absent"), r.diag, &model), "file-open", "no file");
    expect_error(&r, syl_model_open(SYL_SOURCE_DIR "/examples/mlp/mlp.safetensors", r.diag, &model),
                 "model-file", "weights only");
    expect_error(&r, syl_model_open(save(&arena, "x.txt", "hello", 5), r.diag, &model), "json-syntax",
                 "text");
}

/* A checkpoint with any byte of its header changed is read or refused, with exactly one error. */
static void test_changed_bytes(void **state) {
    (void)state;
    const char *path = make(&(recipe){.biased = true, .template = chatml});
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    setbuf(file, NULL);
    size_t header = b.n - (size_t)offset - 32, refused = 0;
    for (size_t at = 0; at < header; at++) {
        static const unsigned char masks[] = {0x01, 0x80, 0xff};
        unsigned char changed = b.p[at] ^ masks[at % 3];
        assert_int_equal(fseek(file, (long)at, SEEK_SET) | (fputc(changed, file) != changed), 0);
        syl_model model;
        recorder_renew(&r);
        syl_status status = syl_model_open(path, r.diag, &model);
        if ((status == SYL_OK) != (r.count == 0) || r.count > 1 || status == SYL_INTERNAL)
            fail_msg("byte %zu: %zu errors, %s: %s", at, r.count, syl_status_name(status), r.text);
        refused += status != SYL_OK;
        if (status == SYL_OK) syl_model_close(&model);
        assert_int_equal(fseek(file, (long)at, SEEK_SET) | (fputc(b.p[at], file) != b.p[at]), 0);
    }
    fclose(file);
    assert_true(refused > header / 2); /* most changes matter */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tied),          cmocka_unit_test(test_untied_with_biases),
        cmocka_unit_test(test_paths),         cmocka_unit_test(test_refused),
        cmocka_unit_test(test_chat),          cmocka_unit_test(test_model_open),
        cmocka_unit_test(test_changed_bytes),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
