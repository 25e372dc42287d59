/* Graph JSON: what it becomes, and what is refused where. */
#include "frontend_gguf_file.h"
#include "base/json.h"
#include "frontend/frontend.h"
#include <cjson/cJSON.h>

static syl_arena arena;
static recorder r;

static int setup(void **state) {
    syl_arena_init(&arena);
    recorder_init(&r);
    if (make_folder(state)) return -1;
    /* w.gguf: w [4, 3] in F32, g [3] in F16, q [1, 256] in Q2_K, layers.{0,1}.w [3, 3]. */
    static bytes b;
    begin(&b, 5, 0);
    tensor(&b, "w", 4, 3, 0, 0);
    tensor(&b, "g", 3, 0, 1, 64);
    tensor(&b, "q", 1, 256, 10, 96);
    tensor(&b, "layers.0.w", 3, 3, 0, 320);
    tensor(&b, "layers.1.w", 3, 3, 0, 384);
    pad(&b, 32);
    for (int i = 0; i < 448; i++) put_int(&b, 0, 1);
    save(&arena, "w.gguf", b.p, b.n);
    return 0;
}

static int teardown(void **state) {
    syl_diag_destroy(r.diag);
    syl_arena_free(&arena);
    return delete_folder(state);
}

static syl_status read_text(const char *text, syl_model *model) {
    syl_source source = {in_folder(&arena, "graph.json"), text, strlen(text)};
    return syl_graph_read(&source, r.diag, model);
}

/* The module's text without the line that names the weight file. */
static char *print_module(const syl_module *module) {
    syl_text text = {.arena = &arena};
    syl_module_print(module, &text);
    char *source = strstr(text.p, "  source \""), *end = source ? strchr(source, '\n') + 1 : NULL;
    if (source) memmove(source, end, strlen(end) + 1);
    return text.p;
}

static void test_graph(void **state) {
    (void)state;
    static const char graph[] =
        "{\"sylvester\": 1, \"name\": \"small\", \"context_length\": 64, \"sources\": [\"w.gguf\"],\n"
        "\"inputs\": [{\"name\": \"x\", \"type\": \"tensor<Tx3xf32>\"}],\n"
        "\"nodes\": [\n"
        "  {\"op\": \"weight\", \"name\": \"w\", \"type\": \"tensor<4x3xreal>\", \"out\": \"w\"},\n"
        "  {\"op\": \"weight\", \"name\": \"g\", \"source\": 0, \"type\": \"tensor<3xreal>\", \"out\": "
        "\"gain\"},\n"
        "  {\"op\": \"rms_norm\", \"in\": [\"x\", \"gain\"], \"eps\": 0.5, \"type\": \"tensor<Tx3xbf16>\", "
        "\"out\": \"n\"},\n"
        "  {\"op\": \"linear\", \"in\": [\"n\", \"w\"], \"out\": \"y\"},\n"
        "  {\"op\": \"hadamard\", \"in\": [\"y\"], \"axis\": 1, \"factors\": [4], \"transpose\": true, "
        "\"out\": \"h\"}\n"
        "], \"outputs\": [\"h\", \"y\"]}\n";
    static const char expected[] =
        "module @small {\n"
        "  func @forward(%x: tensor<Tx3xf32>) -> (tensor<Tx4xf32>, tensor<Tx4xf32>) {\n"
        "    %w = weight \"w\" : tensor<4x3xreal>\n"
        "    %gain = weight \"g\" {source = 0} : tensor<3xreal>\n"
        "    %n = rms_norm %x, %gain {eps = 0.5} : tensor<Tx3xbf16>\n"
        "    %y = linear %n, %w : tensor<Tx4xf32>\n"
        "    %h = hadamard %y {axis = 1, factors = [4], transpose = true} : tensor<Tx4xf32>\n"
        "    return %h, %y\n"
        "  }\n"
        "}\n";
    syl_model model;
    expect_ok(&r, read_text(graph, &model));
    assert_string_equal(print_module(model.module), expected);
    assert_int_equal(model.context_length, 64);
    assert_null(model.tokenizer);
    assert_string_equal(model.module->sources.p[0], in_folder(&arena, "w.gguf"));
    size_t line, column;
    syl_loc_line(model.module->funcs->body->first->loc, &line, &column);
    assert_true(line == 4 && column == 3); /* ops know their node, after the caller's text is gone too */
    syl_model_close(&model);
}

static void test_blocks(void **state) {
    (void)state;
    static const char graph[] =
        "{\"sylvester\": 1, \"name\": \"chain\", \"sources\": [\"w.gguf\"],\n"
        "\"inputs\": [{\"name\": \"x\", \"type\": \"tensor<Tx3xf32>\"}, {\"name\": \"pos\", \"type\": "
        "\"tensor<Txi32>\"}],\n"
        "\"blocks\": {\"layer\": {\"in\": [\"x\", \"t\"], \"out\": [\"y\"], \"nodes\": [\n"
        "  {\"op\": \"weight\", \"name\": \"w\", \"type\": \"tensor<3x3xreal>\", \"out\": \"w\"},\n"
        "  {\"op\": \"linear\", \"in\": [\"x\", \"w\"], \"out\": \"l\"},\n"
        "  {\"op\": \"signs\", \"in\": [\"l\"], \"axis\": 1, \"seed\": \"{i}\", \"out\": \"s\"},\n"
        "  {\"op\": \"rope\", \"in\": [\"s\", \"t\"], \"heads\": 1, \"style\": \"half\", \"out\": "
        "\"y\"}]}},\n"
        "\"nodes\": [{\"op\": \"rope_table\", \"in\": [\"pos\"], \"base\": 10000, \"dims\": 2, \"out\": "
        "\"t\"},\n"
        "  {\"block\": \"layer\", \"repeat\": 2, \"prefix\": \"layers.{i}.\", \"in\": [\"x\", \"t\"], "
        "\"out\": [\"y\"]}],\n"
        "\"outputs\": [\"y\"]}\n";
    static const char expected[] =
        "module @chain {\n"
        "  func @forward(%x: tensor<Tx3xf32>, %pos: tensor<Txi32>) -> tensor<Tx3xf32> {\n"
        "    %t = rope_table %pos {base = 10000.0, dims = 2} : tensor<Tx2xf32>\n"
        "    %layers.0.w = weight \"layers.0.w\" : tensor<3x3xreal>\n"
        "    %layers.0.l = linear %x, %layers.0.w : tensor<Tx3xf32>\n"
        "    %layers.0.s = signs %layers.0.l {axis = 1, seed = 0} : tensor<Tx3xf32>\n"
        "    %layers.0.y = rope %layers.0.s, %t {heads = 1, style = half} : tensor<Tx3xf32>\n"
        "    %layers.1.w = weight \"layers.1.w\" : tensor<3x3xreal>\n"
        "    %layers.1.l = linear %layers.0.y, %layers.1.w : tensor<Tx3xf32>\n"
        "    %layers.1.s = signs %layers.1.l {axis = 1, seed = 1} : tensor<Tx3xf32>\n"
        "    %layers.1.y = rope %layers.1.s, %t {heads = 1, style = half} : tensor<Tx3xf32>\n"
        "    return %layers.1.y\n"
        "  }\n"
        "}\n";
    syl_model model;
    expect_ok(&r, read_text(graph, &model));
    assert_string_equal(print_module(model.module), expected);
    syl_model_close(&model);
}

/* Each malformed graph is the frame below with `inputs` ... `outputs` of its own, from line 2 on. */
static void test_malformed(void **state) {
    (void)state;
#define X    "\"inputs\": [{\"name\": \"x\", \"type\": \"tensor<Tx3xf32>\"}],\n\"nodes\": [\n"
#define Y    "], \"outputs\": [\"y\"]"
#define W    "{\"op\": \"weight\", \"name\": \"w\", \"type\": \"tensor<4x3xreal>\", \"out\": \"w\"},\n"
#define SILU "{\"op\": \"silu\", \"in\": [\"x\"], \"out\": \"y\"}\n"
#define BLOCK(inside)                                                                                        \
    "\"blocks\": {\"b\": {\"in\": [\"x\"], \"out\": [\"y\"], \"nodes\": [\n" inside "]}},\n" X
    static const struct {
        const char *text, *error;
        size_t line, column; /* 0: not checked */
    } cases[] = {
        {X "{\"op\": \"silo\", \"in\": [\"x\"], \"out\": \"y\"}\n" Y, "graph-op", 4, 8},
        {X "{\"op\": \"return\", \"in\": [\"x\"], \"out\": \"y\"}\n" Y, "graph-op", 4, 8},
        {X "{\"op\": \"materialized\", \"name\": \"w\", \"type\": \"tensor<3xf32>\", \"out\": \"y\"}\n" Y,
         "graph-op", 4, 8},
        {X "{\"in\": [\"x\"], \"out\": \"y\"}\n" Y, "json-missing", 4, 1},
        {X "{\"op\": \"silu\", \"in\": [\"z\"], \"out\": \"y\"}\n" Y, "graph-name", 4, 23},
        {X "{\"op\": \"silu\", \"in\": [\"x!\"], \"out\": \"y\"}\n" Y, "graph-name", 4, 23},
        {X "{\"op\": \"silu\", \"in\": [7], \"out\": \"y\"}\n" Y, "json-type", 4, 23},
        {X "{\"op\": \"silu\", \"in\": [\"x\"], \"out\": \"x\"}\n" Y, "graph-name", 4, 36},
        {X "{\"op\": \"silu\", \"in\": [\"x\"], \"out\": \"9\"}\n" Y, "graph-name", 4, 36},
        {X "{\"op\": \"silu\", \"in\": [\"x\"]}\n" Y, "json-missing", 4, 1},
        {X "{\"op\": \"silu\", \"in\": [\"x\", \"x\"], \"out\": \"y\"}\n" Y, "ir-type", 4, 1},
        {X "{\"op\": \"silu\", \"in\": [\"x\"], \"eps\": 1, \"out\": \"y\"}\n" Y, "json-unknown-key", 4, 29},
        {X "{\"op\": \"silu\", \"in\": [\"x\"], \"type\": \"tensor<Tx4xf32>\", \"out\": \"y\"}\n" Y,
         "graph-type", 4, 37},
        {X "{\"op\": \"silu\", \"in\": [\"x\"], \"type\": \"tensor<Tx3xf23>\", \"out\": \"y\"}\n" Y,
         "graph-type", 4, 37},
        {X "{\"op\": \"silu\", \"in\": [\"x\"], \"type\": \"tensor<T*3xf32>\", \"out\": \"y\"}\n" Y,
         "graph-type", 4, 37},
        {X "{\"op\": \"silu\", \"in\": [\"x\"], \"type\": \"Tx3xf32\", \"out\": \"y\"}\n" Y, "graph-type", 4,
         37},
        {X "{\"op\": \"silu\", \"in\": [\"x\"], \"type\": \"tensor<0x3xf32>\", \"out\": \"y\"}\n" Y,
         "graph-type", 4, 37},
        {X "{\"op\": \"silu\", \"in\": [\"x\"], \"type\": \"tensor<1x1x1x1x1xf32>\", \"out\": \"y\"}\n" Y,
         "graph-type", 4, 37},
        {X "{\"op\": \"rms_norm\", \"in\": [\"x\"], \"out\": \"y\"}\n" Y, "ir-attribute", 4, 1},
        {X "{\"op\": \"rms_norm\", \"in\": [\"x\"], \"eps\": \"1\", \"out\": \"y\"}\n" Y, "graph-attr", 4,
         40},
        {X "{\"op\": \"signs\", \"in\": [\"x\"], \"axis\": 1, \"seed\": 1.5, \"out\": \"y\"}\n" Y,
         "graph-attr", 4, 49},
        {X "{\"op\": \"signs\", \"in\": [\"x\"], \"axis\": 1, \"seed\": \"{i}\", \"out\": \"y\"}\n" Y,
         "graph-attr", 4, 49},
        {X "{\"op\": \"hadamard\", \"in\": [\"x\"], \"axis\": 1, \"factors\": [1.5], \"out\": \"y\"}\n" Y,
         "graph-attr", 4, 55},
        {X
         "{\"op\": \"rope\", \"in\": [\"x\", \"x\"], \"heads\": 1, \"style\": \"other\", \"out\": \"y\"}\n" Y,
         "graph-attr", 4, 55},
        {X W "{\"op\": \"linear\", \"in\": [\"x\"], \"out\": \"y\"}\n" Y, "ir-type", 5, 1},
        {X "{\"op\": \"weight\", \"name\": \"w\", \"out\": \"y\"}\n" Y, "graph-type", 4, 1},
        {X "{\"op\": \"weight\", \"name\": \"w\", \"type\": \"tensor<3x4xreal>\", \"out\": \"y\"}\n" Y,
         "weights-shape", 4, 1},
        {X "{\"op\": \"weight\", \"name\": \"v\", \"source\": 0, \"type\": \"tensor<4x3xreal>\", \"out\": "
           "\"y\"}\n" Y,
         "weights-missing", 4, 1},
        {X "{\"op\": \"weight\", \"name\": \"q\", \"type\": \"tensor<1x256xreal>\", \"out\": \"y\"}\n" Y,
         "weights-format", 4, 1},
        {X "{\"op\": \"weight\", \"name\": \"w\", \"type\": \"tensor<Nx3xreal>\", \"out\": \"y\"}\n" Y,
         "ir-shape", 4, 1},
        {X "{\"op\": \"weight\", \"name\": \"w\", \"source\": 2, \"type\": \"tensor<4x3xreal>\", \"out\": "
           "\"y\"}\n" Y,
         "graph-attr", 4, 1},
        {X "{\"op\": \"weight\", \"name\": \"w\", \"source\": 1, \"type\": \"tensor<4x3xreal>\", \"out\": "
           "\"y\"}\n" Y,
         "file-open", 0, 0},
        {X "7" Y, "json-type", 4, 1},
        {X SILU "], \"outputs\": [\"z\"]", "graph-name", 5, 16},
        {X SILU "], \"outputs\": \"y\"", "json-type", 5, 15},
        {X SILU "], \"output\": [\"y\"]", "json-unknown-key", 5, 4},
        {X "{\"block\": \"c\", \"in\": [\"x\"], \"out\": [\"y\"]}\n" Y, "graph-block", 4, 11},
        {BLOCK(SILU) "{\"block\": \"b\", \"in\": [\"x\", \"x\"], \"out\": [\"y\"]}\n" Y, "graph-block", 0, 0},
        {BLOCK(SILU) "{\"block\": \"b\", \"in\": [\"x\"], \"out\": [\"y\", \"z\"]}\n" Y, "graph-block", 0, 0},
        {BLOCK(SILU) "{\"block\": \"b\", \"repeat\": 0, \"in\": [\"x\"], \"out\": [\"y\"]}\n" Y, "json-range",
         0, 0},
        {BLOCK(SILU) "{\"block\": \"b\", \"prefix\": \"0.\", \"in\": [\"x\"], \"out\": [\"y\"]}\n" Y,
         "graph-name", 0, 0},
        {BLOCK(SILU) "{\"block\": \"b\", \"repeat\": 65536, \"prefix\": \"a{i}.\", \"in\": [\"z\"], \"out\": "
                     "[\"y\"]}\n" Y,
         "graph-name", 0, 0},
        {BLOCK("{\"block\": \"b\", \"in\": [\"x\"], \"out\": [\"y\"]}") "{\"block\": \"b\", \"in\": [\"x\"], "
                                                                        "\"out\": [\"y\"]}\n" Y,
         "graph-block", 3, 1},
        {BLOCK(
             W
             "{\"op\": \"linear\", \"in\": [\"x\", \"w\"], \"out\": \"y\"}") "{\"block\": \"b\", \"repeat\": "
                                                                             "2, \"in\": [\"x\"], \"out\": "
                                                                             "[\"y\"]}\n" Y,
         "graph-block", 2, 39},
        {BLOCK("{\"op\": \"silu\", \"in\": [\"v\"], \"out\": \"y\"}") "{\"block\": \"b\", \"in\": [\"x\"], "
                                                                      "\"out\": [\"y\"]}\n" Y,
         "graph-name", 3, 23},
        {X SILU Y ", \"tokenizer\": {\"file\": \"none.json\"}", "file-open", 0, 0},
        {X SILU Y ", \"context_length\": 0", "json-range", 5, 40},
        {X SILU Y ",", "json-syntax", 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        syl_model model;
        recorder_renew(&r);
        char *text = syl_arena_printf(
            &arena, "{\"sylvester\": 1, \"name\": \"bad\", \"sources\": [\"w.gguf\", \"none.gguf\"],\n%s}\n",
            cases[i].text);
        syl_status status = read_text(text, &model);
        expect_error(&r, status, cases[i].error, text);
        assert_null(model.module);
        if (cases[i].line && (r.line != cases[i].line || r.column != cases[i].column))
            fail_msg("%s: %s at %zu:%zu, expected %zu:%zu", text, r.text, r.line, r.column, cases[i].line,
                     cases[i].column);
    }
    static const char *const versions[][2] = {{"{\"sylvester\": 2, \"anything\": 1}", "graph-version"},
                                              {"{}", "json-missing"},
                                              {"[]", "json-type"},
                                              {"", "json-syntax"}};
    for (size_t i = 0; i < sizeof versions / sizeof *versions; i++) {
        syl_model model;
        recorder_renew(&r);
        expect_error(&r, read_text(versions[i][0], &model), versions[i][1], versions[i][0]);
    }
    recorder_renew(&r);
}

static void test_size_limit(void **state) {
    (void)state;
    syl_text text = {.arena = &arena};
    syl_text_printf(&text, "{\"sylvester\": 1, \"name\": \"n\", \"blocks\": {\"b\": {\"in\": [\"v\"], "
                           "\"out\": [\"v17\"], \"nodes\": [\n");
    for (int i = 0; i <= 16; i++)
        syl_text_printf(&text, "%s{\"op\": \"silu\", \"in\": [\"v\"], \"out\": \"v%d\"}", i ? ",\n" : "",
                        i + 1);
    syl_text_printf(
        &text, "]}},\n" X "{\"block\": \"b\", \"repeat\": 65536, \"in\": [\"x\"], \"out\": [\"y\"]}\n" Y "}");
    syl_model model;
    recorder_renew(&r);
    expect_error(&r, read_text(text.p, &model), "graph-size", "more than 2^20 ops");
}

static void test_example(void **state) {
    (void)state;
    syl_model model;
    recorder_renew(&r);
    expect_ok(&r, syl_model_open(SYL_SOURCE_DIR "/examples/mlp/graph.json", r.diag, &model));
    assert_non_null(
        strstr(print_module(model.module), "%layers.1.y = add %layers.0.y, %layers.1.d : tensor<Tx8xf32>"));
    syl_model_close(&model);
}

/* docs/graph.schema.json has one op_ definition for each op a graph may use, with that op's attributes. */
static void test_schema(void **state) {
    (void)state;
    syl_source source;
    syl_json json;
    recorder_renew(&r);
    expect_ok(&r, syl_file_read(&arena, SYL_SOURCE_DIR "/docs/graph.schema.json", 1 << 20, r.diag, &source));
    expect_ok(&r, syl_json_parse(&source, r.diag, &json));
    const cJSON *defs = cJSON_GetObjectItemCaseSensitive(json.root, "$defs");
    int found = 0, listed = 0;
    for (const cJSON *def = defs->child; def; def = def->next) listed += strncmp(def->string, "op_", 3) == 0;
    for (int code = 0; code < SYL_OP_COUNT; code++) {
        const syl_op_info *info = &syl_ops[code];
        if ((info->traits & (SYL_TRAIT_TERMINATOR | SYL_TRAIT_REGION)) || info->results != 1 ||
            code == SYL_OP_materialized)
            continue;
        found++;
        const cJSON *def =
            cJSON_GetObjectItemCaseSensitive(defs, syl_arena_printf(&arena, "op_%s", info->name));
        if (!def) fail_msg("the schema lacks op_%s", info->name);
        const cJSON *properties = cJSON_GetObjectItemCaseSensitive(def, "properties"),
                    *required = cJSON_GetObjectItemCaseSensitive(def, "required");
        const cJSON *in = cJSON_GetObjectItemCaseSensitive(properties, "in"),
                    *max = cJSON_GetObjectItemCaseSensitive(in, "maxItems");
        assert_true(cJSON_GetObjectItemCaseSensitive(in, "minItems")->valueint == info->min_operands);
        assert_true(max ? max->valueint == info->max_operands : info->max_operands < 0);
        int attrs = 0;
        for (const cJSON *property = properties->child; property; property = property->next) {
            static const char *const own[] = {"op", "in", "out", "type", NULL};
            bool is_own = false, optional, is_required = false;
            for (int i = 0; own[i]; i++) is_own = is_own || strcmp(property->string, own[i]) == 0;
            if (is_own) continue;
            syl_attr_kind kind;
            const char *choices;
            attrs++;
            if (!syl_op_attr_spec((syl_opcode)code, property->string, &kind, &optional, &choices))
                fail_msg("%s has no attribute %s", info->name, property->string);
            for (const cJSON *name = required->child; name; name = name->next)
                is_required = is_required || strcmp(name->valuestring, property->string) == 0;
            assert_int_equal(is_required, !optional);
        }
        int expected = 0;
        for (const char *p = info->attrs; *p; p++) expected += *p == ':';
        assert_int_equal(attrs, expected);
    }
    assert_int_equal(found, listed);
    syl_json_free(&json);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_graph),      cmocka_unit_test(test_blocks),  cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_size_limit), cmocka_unit_test(test_example), cmocka_unit_test(test_schema),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
