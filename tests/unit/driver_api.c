/* The public API on a tiny model: what each function gives, that bad arguments are SYL_USAGE and never a crash, that structs of other
 * sizes are understood, that two threads don't meet, and that a hundred loads leave nothing behind. */
#include <fcntl.h>
#include <pthread.h>
#include "include/syl/syl.h"
#include "runtime_tiny.h"
#include "base/file.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED
#endif
#endif

static const char tokenizer[] = "{\"type\":\"bpe\",\"pre\":\"smollm\",\"tokens\":[\"a\",\"b\",\"c\",\"ab\","
                                "\"Ġ\",\"<end>\"],\"types\":[{\"id\":5,"
                                "\"special\":true}],\"merges\":[\"a "
                                "b\"],\"bos\":5,\"eos\":[5],\"unk\":null,\"add_bos\":false,\"chat\":null}";

typedef struct api {
    syl_instance *instance;
    syl_program *program;
    syl_session *session;
} api;

static const char *path_of(const char *name) {
    static _Thread_local char path[256];
    snprintf(path, sizeof path, "%s/%s", test_folder, name);
    return path;
}

static void ok(const api *a, syl_status status) {
    if (status != SYL_OK) fail_msg("%s: %s", syl_status_identifier(status), syl_instance_error(a->instance));
}

/* That the call was refused, and said so. */
static void refused(const api *a, syl_status status, const char *said) {
    assert_int_equal(status, SYL_USAGE);
    if (!strstr(syl_instance_error(a->instance), said))
        fail_msg("expected \"%s\", found \"%s\"", said, syl_instance_error(a->instance));
}

static void open_instance(api *a, int threads) {
    char cache[256];
    snprintf(cache, sizeof cache, "%s", test_folder);
    syl_instance_options options = {.size = sizeof options, .threads = threads, .cache_dir = cache};
    *a = (api){0};
    assert_int_equal(syl_instance_create(&options, &a->instance), SYL_OK);
}

static void open_api(api *a, const char *name) {
    open_instance(a, 2);
    ok(a, syl_program_load(a->instance, path_of(name), &a->program));
    ok(a, syl_session_create(a->instance, a->program, NULL, &a->session));
}

static void close_api(api *a) {
    syl_session_destroy(a->session);
    syl_program_destroy(a->program);
    syl_instance_destroy(a->instance);
}

/* Makes tiny.syl, and text.syl with a tokenizer. */
static int setup(void **state) {
    if (make_folder(state) != 0) return -1;
    fixture f;
    fixture_open(&f, 1);
    write_tiny(&f, path_of("tiny.syl"));
    write_tiny_with(&f, path_of("text.syl"), tokenizer);
    fixture_close(&f);
    return 0;
}

/* ---- what calls give ---- */

static void describes_programs(void **state) {
    (void)state;
    api a;
    open_api(&a, "tiny.syl");
    syl_program_info info = {.size = sizeof info};
    ok(&a, syl_program_describe(a.program, &info));
    assert_string_equal(info.name, "tiny");
    assert_string_equal(info.path, path_of("tiny.syl"));
    assert_int_equal(info.context_length, TINY_CONTEXT);
    assert_int_equal(info.vocabulary, TINY_VOCAB);
    assert_int_equal(info.token_limit, TINY_VOCAB);
    assert_false(info.has_tokenizer);
    assert_int_equal(info.kernels, info.kernels_compiled + info.kernels_cached);
    assert_int_equal(syl_program_values(a.program, SYL_DIRECTION_IN), 5);
    assert_int_equal(syl_program_values(a.program, SYL_DIRECTION_OUT), 2);
    syl_value_info value = {.size = sizeof value};
    ok(&a, syl_program_value(a.program, SYL_DIRECTION_IN, 0, &value));
    assert_string_equal(value.name, "ids");
    assert_string_equal(value.element, "i32");
    assert_int_equal(value.rank, 1);
    assert_int_equal(value.dims[0], -1);
    assert_string_equal(value.symbols[0], "T");
    ok(&a, syl_program_value(a.program, SYL_DIRECTION_OUT, 0, &value));
    assert_string_equal(value.element, "f32");
    assert_int_equal(value.dims[1], TINY_VOCAB);
    assert_null(value.symbols[1]);
    ok(&a, syl_program_value(a.program, SYL_DIRECTION_OUT, 1, &value));
    assert_true(value.is_cache);
    assert_int_equal(syl_program_value(a.program, SYL_DIRECTION_OUT, 2, &value), SYL_USAGE);
    close_api(&a);
}

static void describes_the_machine(void **state) {
    (void)state;
    api a;
    char *folder;
    open_instance(&a, 3);
    syl_device device = {.size = sizeof device};
    ok(&a, syl_instance_device(a.instance, &device));
    assert_true(device.cores >= 1 && *device.cpu && *device.triple && *device.llvm && *device.int8_dot);
    assert_int_equal(syl_instance_threads(a.instance), 3);
    ok(&a, syl_instance_cache(a.instance, &folder));
    assert_string_equal(folder, test_folder);
    syl_free(folder);
    assert_string_equal(syl_version(), SYL_VERSION);
    assert_string_equal(syl_status_identifier(SYL_IO), "IO");
    assert_true(strlen(syl_status_text(SYL_IO)) > 5);
    close_api(&a);
}

static void runs_tokens(void **state) {
    (void)state;
    static const int32_t ids[] = {3, 1, 4, 1, 5}, sequences[] = {0, 1, 0, 1, 0}, rows[] = {4, 3};
    api a;
    open_instance(&a, 2);
    ok(&a, syl_program_load(a.instance, path_of("tiny.syl"), &a.program));
    syl_session_options two = {.size = sizeof two, .sequences = 2, .context = 20};
    ok(&a, syl_session_create(a.instance, a.program, &two, &a.session));
    assert_int_equal(syl_session_limit(a.session), 20);
    syl_tokens tokens = {sizeof tokens, ids, sequences, 5, rows, 2};
    ok(&a, syl_session_run(a.session, &tokens));
    assert_int_equal(syl_session_length(a.session, 0), 3);
    assert_int_equal(syl_session_length(a.session, 1), 2);
    float first[TINY_VOCAB];
    memcpy(first, syl_session_logits(a.session, 0), sizeof first);
    assert_non_null(syl_session_logits(a.session, 1));
    assert_null(syl_session_logits(a.session, 2));
    /* The same sequence by itself has the same bits. */
    static const int32_t own[] = {3, 4, 5};
    const float *logits;
    ok(&a, syl_session_truncate(a.session, 0, 0));
    assert_null(syl_session_logits(a.session, 0));
    ok(&a, syl_session_read(a.session, 0, own, 3, &logits));
    assert_memory_equal(first, logits, sizeof first);
    assert_ptr_equal(logits, syl_session_logits(a.session, 0));
    assert_true(syl_session_bytes(a.session) > 0);
    /* Errors of the runtime leave the session as it was. */
    static const int32_t wrong[] = {TINY_VOCAB};
    assert_int_equal(syl_session_read(a.session, 0, wrong, 1, &logits), SYL_USAGE);
    assert_null(logits);
    assert_non_null(strstr(syl_instance_error(a.instance), "error[exec-range]"));
    assert_int_equal(syl_session_length(a.session, 0), 3);
    close_api(&a);
}

typedef struct heard {
    int32_t ids[64];
    int n, stop_at;
    char text[256];
} heard;

static int hear(void *user, int32_t id, const char *text, size_t size) {
    heard *h = user;
    strncat(h->text, text, size);
    if (id >= 0) h->ids[h->n++] = id;
    return h->n != h->stop_at;
}

static void generates(void **state) {
    (void)state;
    static const int32_t prompt[] = {7, 8, 9};
    api a;
    heard h = {.stop_at = -1};
    open_api(&a, "tiny.syl");
    syl_generate_settings s = {
        .size = sizeof s, .tokens = prompt, .n_tokens = 3, .max_tokens = 9, .token = hear, .user = &h};
    syl_generate_result result = {.size = sizeof result};
    char *text;
    size_t size;
    ok(&a, syl_session_generate(a.session, &s, &text, &size, &result));
    assert_int_equal(h.n, 9);
    assert_int_equal(result.new_tokens, 9);
    assert_int_equal(result.prompt_tokens, 3);
    assert_int_equal(result.end, SYL_END_LENGTH);
    assert_string_equal(result.end_name, "length");
    assert_int_equal(size, 0); /* no tokenizer, no text */
    syl_free(text);
    /* Again, stopped. */
    heard again = {.stop_at = 4};
    s.user = &again;
    ok(&a, syl_session_generate(a.session, &s, NULL, NULL, &result));
    assert_int_equal(result.end, SYL_END_CALLER);
    assert_int_equal(again.n, 4);
    assert_memory_equal(again.ids, h.ids, 4 * sizeof *h.ids);
    s = (syl_generate_settings){.size = sizeof s, .prompt = "ab"};
    assert_int_equal(syl_session_generate(a.session, &s, NULL, NULL, NULL), SYL_UNSUPPORTED);
    assert_non_null(strstr(syl_instance_error(a.instance), "has no tokenizer"));
    assert_false(syl_session_has_tokenizer(a.session));
    close_api(&a);
}

static void reads_and_writes_text(void **state) {
    (void)state;
    api a;
    int32_t *ids;
    size_t n, size;
    char *text;
    open_api(&a, "text.syl");
    assert_true(syl_session_has_tokenizer(a.session));
    assert_false(syl_session_has_chat(a.session));
    ok(&a, syl_session_encode(a.session, "ab c<end>", 9, SYL_TEXT_CONTROL, &ids, &n));
    static const int32_t want[] = {3, 4, 2, 5};
    assert_int_equal(n, 4);
    assert_memory_equal(ids, want, sizeof want);
    ok(&a, syl_session_decode(a.session, ids, n, 0, &text, &size));
    assert_string_equal(text, "ab c");
    syl_free(text);
    ok(&a, syl_session_decode(a.session, ids, n, SYL_TEXT_CONTROL, &text, &size));
    assert_string_equal(text, "ab c<end>");
    assert_int_equal(size, 9);
    syl_free(text);
    syl_free(ids);
    syl_turn turn = {"user", "ab", 2};
    assert_int_equal(syl_session_chat(a.session, &turn, 1, &ids, &n), SYL_UNSUPPORTED);
    assert_null(ids);
    heard h = {.stop_at = -1};
    syl_generate_settings s = {
        .size = sizeof s, .prompt = "ab c", .raw = 1, .max_tokens = 12, .token = hear, .user = &h};
    ok(&a, syl_session_generate(a.session, &s, &text, &size, NULL));
    assert_string_equal(text, h.text);
    assert_int_equal(strlen(text), size);
    syl_free(text);
    close_api(&a);
}

static void measures_perplexity(void **state) {
    (void)state;
    api a;
    int32_t ids[60];
    for (int i = 0; i < 60; i++) ids[i] = i * 7 % TINY_VOCAB;
    open_api(&a, "tiny.syl");
    syl_session *other;
    ok(&a, syl_session_create(a.instance, a.program, NULL, &other));
    syl_perplexity_settings s = {
        .size = sizeof s, .tokens = ids, .n_tokens = 60, .window = 20, .against = other};
    syl_perplexity_result p = {.size = sizeof p};
    ok(&a, syl_session_perplexity(a.session, &s, &p));
    assert_int_equal(p.windows, 3);
    assert_int_equal(p.tokens, 3 * 16);
    assert_true(p.nll > 0 && p.nll == p.against_nll && p.same_top == 1 && p.kl >= 0 && p.kl < 1e-12);
    s.against = a.session;
    refused(&a, syl_session_perplexity(a.session, &s, &p), "another session");
    syl_session_destroy(other);
    close_api(&a);
}

static void shows_stages(void **state) {
    (void)state;
    static const struct {
        syl_stage stage;
        const char *kernel, *said;
    } cases[] = {
        {SYL_STAGE_IR, NULL, "module @tiny"}, {SYL_STAGE_PLAN, NULL, "k0"},
        {SYL_STAGE_KERNELS, NULL, "// k0"},   {SYL_STAGE_KERNELS, "k1", "// k1"},
        {SYL_STAGE_LLVM, "k0", "define"},     {SYL_STAGE_LLVM_RAW, "k0", "define"},
        {SYL_STAGE_ASSEMBLY, "k0", "ret"},    {SYL_STAGE_TENSORS, NULL, "table F32 [40, 16] 2560"},
        {SYL_STAGE_RECIPE, NULL, "\"name\""}, {SYL_STAGE_PROVENANCE, NULL, "{}"},
    };
    api a;
    open_instance(&a, 1);
    char *text;
    size_t size;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ok(&a,
           syl_inspect_file(a.instance, path_of("tiny.syl"), cases[i].stage, cases[i].kernel, &text, &size));
        if (!strstr(text, cases[i].said)) fail_msg("stage %d: %s", (int)cases[i].stage, text);
        assert_int_equal(strlen(text), size);
        syl_free(text);
    }
    assert_int_equal(
        syl_inspect_file(a.instance, path_of("tiny.syl"), SYL_STAGE_KERNELS, "k99", &text, &size), SYL_USAGE);
    assert_non_null(strstr(syl_instance_error(a.instance), "error[cli-kernel]"));
    assert_int_equal(syl_file_is_artifact(path_of("tiny.syl")), 1);
    assert_int_equal(syl_file_is_artifact(SYL_SOURCE_DIR "/examples/mlp/graph.json"), 0);
    assert_int_equal(syl_file_is_artifact("/no/such/file"), -1);
    for (int what = SYL_LIST_PASSES; what <= SYL_LIST_RECIPES; what++) {
        ok(&a, syl_list_text(a.instance, (syl_list)what, &text, NULL));
        assert_non_null(strstr(text, "\n    "));
        syl_free(text);
    }
    close_api(&a);
}

typedef struct watch {
    int passes;
    bool saw_ir;
    int64_t done, total;
} watch;

static void see_pass(void *user, const syl_pass_event *event) {
    watch *w = user;
    char *ir;
    size_t size;
    assert_int_equal(event->index, ++w->passes);
    assert_int_equal(syl_pass_event_ir(event, &ir, &size), SYL_OK);
    w->saw_ir = strstr(ir, "@forward") != NULL && strlen(ir) == size;
    syl_free(ir);
}

static void see_progress(void *user, int64_t done, int64_t total) {
    watch *w = user;
    assert_true(done > w->done);
    w->done = done;
    w->total = total;
}

static void compiles(void **state) {
    (void)state;
    static const char graph[] = SYL_SOURCE_DIR "/examples/mlp/graph.json";
    api a;
    watch w = {0};
    char out[256], *before, *after, *again;
    size_t size;
    open_instance(&a, 2);
    snprintf(out, sizeof out, "%s", path_of("mlp.syl"));
    syl_compile_settings s = {.size = sizeof s,
                              .recipe = "f32",
                              .after_pass = see_pass,
                              .after_pass_user = &w,
                              .progress = see_progress,
                              .progress_user = &w,
                              .work_dir = ""};
    syl_compile_result result = {.size = sizeof result};
    syl_forecast forecast = {.size = sizeof forecast};
    ok(&a, syl_compile_forecast_file(a.instance, graph, out, &s, &forecast));
    assert_true(forecast.tensors > 0 && forecast.bytes > 0 && forecast.memory > 0);
    w = (watch){0};
    ok(&a, syl_compile_file(a.instance, graph, out, &s, &result));
    assert_int_equal(result.tensors, forecast.tensors);
    assert_true(w.passes > 0 && w.saw_ir && w.done == w.total && w.total > 0);
    assert_true(result.tensors > 0 && result.elements > 0);
    assert_int_equal(syl_file_is_artifact(out), 1);
    ok(&a, syl_compile_ir(a.instance, graph, NULL, &before, &size));
    syl_compile_settings passes = {.size = sizeof passes, .passes = "canonicalize,cse,dce"};
    ok(&a, syl_compile_ir(a.instance, graph, &passes, &after, &size));
    assert_non_null(strstr(before, "weight"));
    /* Passes on the text come to the same. */
    ok(&a, syl_optimize_ir(a.instance, "before", before, strlen(before), &passes, NULL, &again, &size));
    assert_string_equal(after, again);
    syl_free(again);
    assert_int_equal(syl_optimize_ir(a.instance, "bad.sir", "module @", 8, &passes, NULL, &again, &size),
                     SYL_INPUT);
    assert_null(again);
    assert_non_null(strstr(syl_instance_error(a.instance), "bad.sir:1:"));
    syl_free(before);
    syl_free(after);
    close_api(&a);
}

static void runs_functions_of_tensors(void **state) {
    (void)state;
    static const char graph[] = SYL_SOURCE_DIR "/examples/mlp/graph.json";
    static const int32_t id = 0;
    api a;
    float x[3 * 8], first[3 * 8];
    for (int i = 0; i < 3 * 8; i++) x[i] = (float)(i % 7) - 3;
    open_instance(&a, 2);
    syl_compile_settings compile = {.size = sizeof compile, .recipe = "f32", .work_dir = ""};
    ok(&a, syl_compile_file(a.instance, graph, path_of("function.syl"), &compile, NULL));
    ok(&a, syl_program_load(a.instance, path_of("function.syl"), &a.program));
    ok(&a, syl_session_create(a.instance, a.program, NULL, &a.session));
    syl_program_info info = {.size = sizeof info};
    ok(&a, syl_program_describe(a.program, &info));
    assert_int_equal(info.vocabulary, 0);
    assert_int_equal(syl_session_limit(a.session), 0);
    assert_int_equal(syl_session_length(a.session, 0), -1);
    syl_tensor in = {sizeof in, "x", "f32", 2, {3, 8}, x, 0}, out = {.size = sizeof out};
    assert_int_equal(syl_session_output(a.session, 0, &out), SYL_USAGE); /* not called yet */
    ok(&a, syl_session_call(a.session, &in, 1));
    ok(&a, syl_session_output(a.session, 0, &out));
    assert_string_equal(out.element, "f32");
    assert_int_equal(out.rank, 2);
    assert_int_equal(out.dims[0], 3);
    assert_int_equal(out.dims[1], 8);
    memcpy(first, out.data, sizeof first);
    assert_memory_not_equal(first, x, sizeof first);
    /* A row alone has the bits it had among others. */
    syl_tensor row = {sizeof row, "x", "f32", 2, {1, 8}, x + 8, 0};
    ok(&a, syl_session_call(a.session, &row, 1));
    ok(&a, syl_session_output(a.session, 0, &out));
    assert_memory_equal(out.data, first + 8, 8 * sizeof(float));
    assert_int_equal(syl_session_output(a.session, 1, &out), SYL_USAGE);
    /* What is refused. */
    syl_tensor twice[] = {in, in}, other = in, element = in, empty = in, shape = in;
    other.name = "xx";
    element.element = "f64";
    empty.data = NULL;
    shape.dims[1] = 7;
    refused(&a, syl_session_call(a.session, NULL, 0), "\"x\" is missing");
    refused(&a, syl_session_call(a.session, NULL, 1), "error[api-argument]");
    refused(&a, syl_session_call(a.session, twice, 2), "given twice");
    refused(&a, syl_session_call(a.session, &other, 1), "is no argument of the model");
    refused(&a, syl_session_call(a.session, &element, 1), "expected f32 or i32");
    refused(&a, syl_session_call(a.session, &empty, 1), "no name, element or data");
    refused(&a, syl_session_call(a.session, &shape, 1), "error[exec-input]");
    assert_int_equal(syl_session_read(a.session, 0, &id, 1, NULL), SYL_UNSUPPORTED);
    assert_non_null(strstr(syl_instance_error(a.instance), "is no language model"));
    assert_int_equal(syl_session_call(NULL, &in, 1), SYL_USAGE);
    close_api(&a);
    open_api(&a, "tiny.syl");
    assert_int_equal(syl_session_call(a.session, &in, 1), SYL_UNSUPPORTED);
    close_api(&a);
}

/* ---- bad arguments ---- */

static void null_is_refused(void **state) {
    (void)state;
    api a;
    open_api(&a, "text.syl");
    syl_instance *i = a.instance;
    syl_session *x = a.session;
    const char *path = path_of("text.syl");
    char *text = NULL;
    int32_t *ids = NULL, id = 1;
    size_t n;
    syl_program *program;
    syl_session *session;
    syl_compile_settings compile = {.size = sizeof compile, .recipe = "f32", .passes = "dce"};
    syl_device unsized = {0};
    syl_turn turn = {0};
    syl_tokens no_ids = {.size = sizeof no_ids, .n = 3},
               no_rows = {.size = sizeof no_rows, .ids = &id, .n = 1, .n_rows = 1};
    syl_session_options negative = {.size = sizeof negative, .context = -1};
    syl_generate_settings both = {.size = sizeof both, .prompt = "a", .tokens = &id, .n_tokens = 1};
    syl_generate_settings cold = {.size = sizeof cold, .tokens = &id, .n_tokens = 1, .temperature = -1};
    syl_perplexity_settings none = {.size = sizeof none};
    syl_instance_options bad = {.size = sizeof bad, .threads = -1};
    assert_int_equal(syl_instance_create(NULL, NULL), SYL_USAGE);
    assert_int_equal(syl_instance_create(&bad, &i), SYL_USAGE);
    assert_null(i);
    i = a.instance;
    const syl_status bare[] = {
        syl_instance_cache(NULL, &text),
        syl_instance_device(NULL, &unsized),
        syl_pass_event_ir(NULL, &text, &n),
        syl_compile_file(NULL, path, path, &compile, NULL),
        syl_compile_ir(NULL, path, NULL, &text, &n),
        syl_optimize_ir(NULL, "x", "", 0, &compile, NULL, &text, &n),
        syl_import_file(NULL, path, NULL, &text, &n),
        syl_list_text(NULL, SYL_LIST_OPS, &text, &n),
        syl_inspect_file(NULL, path, SYL_STAGE_IR, NULL, &text, &n),
        syl_program_load(NULL, path, &program),
        syl_program_describe(NULL, NULL),
        syl_program_describe(a.program, NULL),
        syl_program_value(NULL, SYL_DIRECTION_IN, 0, NULL),
        syl_program_value(a.program, SYL_DIRECTION_IN, 0, NULL),
        syl_session_create(NULL, a.program, NULL, &session),
        syl_session_truncate(NULL, 0, 0),
        syl_session_run(NULL, NULL),
        syl_session_read(NULL, 0, &id, 1, NULL),
        syl_session_encode(NULL, "a", 1, 0, &ids, &n),
        syl_session_decode(NULL, &id, 1, 0, &text, &n),
        syl_session_chat(NULL, NULL, 0, &ids, &n),
        syl_session_generate(NULL, &cold, NULL, NULL, NULL),
        syl_session_perplexity(NULL, &none, NULL),
    };
    for (size_t k = 0; k < sizeof bare / sizeof *bare; k++) {
        if (bare[k] != SYL_USAGE)
            fail_msg("call %zu without a handle gave %s", k, syl_status_identifier(bare[k]));
    }
#define REFUSED(call) refused(&a, call, "error[api-argument]")
    REFUSED(syl_instance_cache(i, NULL));
    REFUSED(syl_instance_device(i, NULL));
    REFUSED(syl_instance_device(i, &unsized));
    REFUSED(syl_compile_file(i, NULL, path, &compile, NULL));
    REFUSED(syl_compile_file(i, path, NULL, &compile, NULL));
    REFUSED(syl_compile_file(i, path, path, NULL, NULL));
    REFUSED(syl_compile_file(i, path, path, &compile, NULL)); /* both recipe and passes */
    REFUSED(syl_compile_ir(i, NULL, NULL, &text, &n));
    REFUSED(syl_compile_ir(i, path, NULL, NULL, NULL));
    REFUSED(syl_compile_ir(i, path, &compile, &text, &n));
    REFUSED(syl_optimize_ir(i, NULL, "", 0, &compile, NULL, &text, &n));
    REFUSED(syl_optimize_ir(i, "x", NULL, 0, &compile, NULL, &text, &n));
    REFUSED(syl_optimize_ir(i, "x", "", 0, NULL, NULL, &text, &n));
    REFUSED(syl_import_file(i, NULL, NULL, &text, &n));
    REFUSED(syl_import_file(i, path, NULL, NULL, &n));
    REFUSED(syl_list_text(i, SYL_LIST_OPS, NULL, &n));
    REFUSED(syl_list_text(i, (syl_list)99, &text, &n));
    REFUSED(syl_inspect_file(i, NULL, SYL_STAGE_IR, NULL, &text, &n));
    REFUSED(syl_inspect_file(i, path, SYL_STAGE_IR, NULL, NULL, &n));
    REFUSED(syl_inspect_file(i, path, SYL_STAGE_IR, "k0", &text, &n));
    REFUSED(syl_inspect_file(i, path, (syl_stage)99, NULL, &text, &n));
    REFUSED(syl_program_load(i, NULL, &program));
    REFUSED(syl_program_load(i, path, NULL));
    REFUSED(syl_session_create(i, NULL, NULL, &session));
    REFUSED(syl_session_create(i, a.program, NULL, NULL));
    REFUSED(syl_session_create(i, a.program, &negative, &session));
    REFUSED(syl_session_truncate(x, 1, 0));
    REFUSED(syl_session_truncate(x, 0, -1));
    REFUSED(syl_session_run(x, NULL));
    REFUSED(syl_session_run(x, &no_ids));
    REFUSED(syl_session_run(x, &no_rows));
    REFUSED(syl_session_read(x, 0, NULL, 1, NULL));
    REFUSED(syl_session_read(x, 0, &id, 0, NULL));
    REFUSED(syl_session_read(x, -1, &id, 1, NULL));
    REFUSED(syl_session_encode(x, NULL, 1, 0, &ids, &n));
    REFUSED(syl_session_encode(x, "a", 1, 0, NULL, &n));
    REFUSED(syl_session_encode(x, "a", 1, 0, &ids, NULL));
    REFUSED(syl_session_encode(x, "a", 1, 99, &ids, &n));
    REFUSED(syl_session_decode(x, NULL, 1, 0, &text, &n));
    REFUSED(syl_session_decode(x, &id, 1, 0, NULL, &n));
    REFUSED(syl_session_chat(x, NULL, 1, &ids, &n));
    REFUSED(syl_session_chat(x, &turn, 1, &ids, &n));
    REFUSED(syl_session_chat(x, &turn, 1, NULL, &n));
    REFUSED(syl_session_generate(x, NULL, NULL, NULL, NULL));
    REFUSED(syl_session_generate(x, &both, NULL, NULL, NULL));
    REFUSED(syl_session_perplexity(x, NULL, NULL));
    REFUSED(syl_session_perplexity(x, &none, NULL));
    refused(&a, syl_session_generate(x, &cold, NULL, NULL, NULL), "error[sample-options]");
    assert_int_equal(syl_session_limit(NULL), -1);
    assert_int_equal(syl_session_length(NULL, 0), -1);
    assert_int_equal(syl_session_length(x, 7), -1);
    assert_int_equal(syl_session_bytes(NULL), 0);
    assert_int_equal(syl_instance_threads(NULL), -1);
    assert_int_equal(syl_program_values(NULL, SYL_DIRECTION_IN), 0);
    assert_null(syl_session_logits(NULL, 0));
    assert_false(syl_session_has_tokenizer(NULL) || syl_session_has_chat(NULL));
    assert_int_equal(syl_file_is_artifact(NULL), -1);
    assert_string_equal(syl_instance_error(NULL), "");
    assert_string_equal(syl_status_identifier((syl_status)1234), "?");
    syl_session_destroy(NULL);
    syl_program_destroy(NULL);
    syl_instance_destroy(NULL);
    syl_free(NULL);
    close_api(&a);
}

static void files_that_are_wrong_have_their_names(void **state) {
    (void)state;
    api a;
    syl_program *program;
    open_instance(&a, 1);
    assert_int_equal(syl_program_load(a.instance, "/no/such.syl", &program), SYL_IO);
    assert_null(program);
    assert_non_null(strstr(syl_instance_error(a.instance), "error[file-open]"));
    assert_int_equal(syl_program_load(a.instance, SYL_SOURCE_DIR "/README.md", &program), SYL_INPUT);
    assert_non_null(strstr(syl_instance_error(a.instance), "error[artifact-format]"));
    syl_compile_settings s = {.size = sizeof s, .recipe = "no-such-recipe"};
    assert_int_equal(
        syl_compile_file(a.instance, SYL_SOURCE_DIR "/examples/mlp/graph.json", path_of("x.syl"), &s, NULL),
        SYL_USAGE);
    assert_non_null(strstr(syl_instance_error(a.instance), "error[recipe-unknown]"));
    char *text;
    ok(&a, syl_list_text(a.instance, SYL_LIST_OPS, &text, NULL)); /* and the errors are gone */
    assert_string_equal(syl_instance_error(a.instance), "");
    syl_free(text);
    close_api(&a);
}

/* ---- sizes of structs ---- */

static void other_sizes_are_understood(void **state) {
    (void)state;
    api a;
    open_api(&a, "tiny.syl");
    /* Shorter: an older program. Only the first fields are written. */
    struct {
        syl_program_info info;
    } older;
    memset(&older, 0x5a, sizeof older);
    older.info.size = offsetof(syl_program_info, cpu);
    ok(&a, syl_program_describe(a.program, &older.info));
    assert_string_equal(older.info.name, "tiny");
    assert_int_equal(older.info.size, offsetof(syl_program_info, cpu));
    assert_int_equal(((unsigned char *)&older.info.cpu)[0], 0x5a);
    /* Longer: a newer one. What this version does not know is zero in results, and refused in options. */
    struct {
        syl_program_info info;
        int more;
    } newer = {.info = {.size = sizeof newer}, .more = 9};
    ok(&a, syl_program_describe(a.program, &newer.info));
    assert_int_equal(newer.more, 0);
    struct {
        syl_session_options options;
        int64_t more;
    } asks = {.options = {.size = sizeof asks}};
    syl_session *session;
    ok(&a, syl_session_create(a.instance, a.program, &asks.options, &session));
    syl_session_destroy(session);
    asks.more = 1;
    refused(&a, syl_session_create(a.instance, a.program, &asks.options, &session), "this version lacks");
    asks.options.size = SIZE_MAX;
    refused(&a, syl_session_create(a.instance, a.program, &asks.options, &session), "has no size");
    close_api(&a);
}

/* ---- messages ---- */

static void count_message(void *user, const syl_notice *notice) {
    int *count = user;
    assert_int_equal(notice->size, sizeof *notice);
    if (notice->level == SYL_LEVEL_ERROR) {
        assert_string_equal(notice->name, "ir-syntax");
        assert_string_equal(notice->file, "bad.sir");
        assert_int_equal(notice->line, 2);
        assert_true(strlen(notice->help) > 0 && notice->rendered[strlen(notice->rendered) - 1] == '\n');
        ++*count;
    }
}

static void messages_reach_the_callback(void **state) {
    (void)state;
    int count = 0;
    syl_instance *instance;
    char *text;
    syl_instance_options options = {
        .size = sizeof options, .threads = 1, .message = count_message, .user = &count};
    assert_int_equal(syl_instance_create(&options, &instance), SYL_OK);
    syl_compile_settings s = {.size = sizeof s, .passes = "dce"};
    /* Each call reports anew: the library's limit of messages counts by call. */
    for (int i = 0; i < 30; i++)
        assert_int_equal(syl_optimize_ir(instance, "bad.sir", "module @x {\n ?", 14, &s, NULL, &text, NULL),
                         SYL_INPUT);
    assert_int_equal(count, 30);
    syl_instance_destroy(instance);
}

static int reenter(void *user, int32_t id, const char *text, size_t size) {
    const api *a = user;
    char *list;
    (void)id, (void)text, (void)size;
    assert_int_equal(syl_list_text(a->instance, SYL_LIST_OPS, &list, NULL), SYL_USAGE);
    return 0;
}

static void callbacks_cannot_use_their_instance(void **state) {
    (void)state;
    api a;
    static const int32_t id = 1;
    open_api(&a, "tiny.syl");
    syl_generate_settings s = {.size = sizeof s, .tokens = &id, .n_tokens = 1, .token = reenter, .user = &a};
    ok(&a, syl_session_generate(a.session, &s, NULL, NULL, NULL));
    close_api(&a);
}

/* ---- threads ---- */

typedef struct worker {
    const syl_program *shared; /* NULL: loads its own */
    heard heard;
} worker;

static void *work(void *user) {
    worker *w = user;
    static const int32_t prompt[] = {1, 2, 3};
    api a;
    open_instance(&a, 2);
    if (!w->shared) ok(&a, syl_program_load(a.instance, path_of("tiny.syl"), &a.program));
    ok(&a, syl_session_create(a.instance, w->shared ? w->shared : a.program, NULL, &a.session));
    syl_generate_settings s = {.size = sizeof s,
                               .tokens = prompt,
                               .n_tokens = 3,
                               .max_tokens = 40,
                               .temperature = 1,
                               .token = hear,
                               .user = &w->heard};
    ok(&a, syl_session_generate(a.session, &s, NULL, NULL, NULL));
    close_api(&a);
    return NULL;
}

static void threads_do_not_meet(void **state) {
    (void)state;
    api a;
    open_instance(&a, 1);
    ok(&a, syl_program_load(a.instance, path_of("tiny.syl"), &a.program));
    pthread_t threads[3];
    worker workers[3] = {{.shared = a.program, .heard.stop_at = -1},
                         {.heard.stop_at = -1},
                         {.shared = a.program, .heard.stop_at = -1}};
    for (int i = 0; i < 3; i++) assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(workers[i].heard.n, 40);
        assert_memory_equal(workers[i].heard.ids, workers[0].heard.ids, sizeof workers[0].heard.ids);
    }
    close_api(&a);
}

/* ---- a hundred loads ---- */

static long resident_kib(void) {
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%*s %ld", &pages) != 1) pages = 0;
    if (file) fclose(file);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static void a_hundred_loads_leave_nothing(void **state) {
    (void)state;
    static const int32_t id = 1;
    long before = 0;
    api a;
    open_instance(&a, 2);
    for (int i = 0; i < 120; i++) {
        const float *logits;
        if (i == 20) before = resident_kib();
        ok(&a, syl_program_load(a.instance, path_of("tiny.syl"), &a.program));
        ok(&a, syl_session_create(a.instance, a.program, NULL, &a.session));
        ok(&a, syl_session_read(a.session, 0, &id, 1, &logits));
        syl_session_destroy(a.session);
        syl_program_destroy(a.program);
    }
    a.session = NULL;
    a.program = NULL;
    long grown = resident_kib() - before;
    print_message("resident memory grew by %ld KiB in 100 loads\n", grown);
#ifndef SANITIZED /* sanitizers keep freed memory */
    assert_true(grown < 4096);
#endif
    close_api(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(describes_programs),
        cmocka_unit_test(describes_the_machine),
        cmocka_unit_test(runs_tokens),
        cmocka_unit_test(generates),
        cmocka_unit_test(reads_and_writes_text),
        cmocka_unit_test(measures_perplexity),
        cmocka_unit_test(shows_stages),
        cmocka_unit_test(compiles),
        cmocka_unit_test(runs_functions_of_tensors),
        cmocka_unit_test(null_is_refused),
        cmocka_unit_test(files_that_are_wrong_have_their_names),
        cmocka_unit_test(other_sizes_are_understood),
        cmocka_unit_test(messages_reach_the_callback),
        cmocka_unit_test(callbacks_cannot_use_their_instance),
        cmocka_unit_test(threads_do_not_meet),
        cmocka_unit_test(a_hundred_loads_leave_nothing),
    };
    return cmocka_run_group_tests(tests, setup, remove_folder);
}
