/* The CUDA runtime on a driver without a GPU (tests/fake/cuda.c): arguments, page tables, graphs, choices, the account of memory, and
 * every way in which a driver or a device fails. */
#include "runtime/cuda/engine.h"
#include "runtime/function.h"
#include "runtime/lm.h"
#include "runtime_cuda_machine.h"

typedef struct running {
    fixture f;
    fake_cuda_state *gpu;
    syl_engine *engine;
    syl_lm lm;
} running;

static const char *model(fixture *f) {
    const char *path = test_path(f, "tiny.syl");
    write_tiny(f, path);
    return path;
}

static void start(running *r, int sequences) {
    fixture_open(&r->f, 2);
    r->gpu = machine_start();
    syl_engine_options options = {.device = "cuda"};
    syl_context_options context = {.sequences = sequences};
    fixture_ok(&r->f, syl_engine_load(model(&r->f), &options, r->f.pool, r->f.diag, &r->engine));
    fixture_ok(&r->f, syl_lm_create(r->engine, r->f.pool, &context, r->f.diag, &r->lm));
}

static void stop(running *r) {
    syl_lm_destroy(&r->lm);
    syl_engine_destroy(r->engine);
    machine_stop(r->gpu);
    fixture_close(&r->f);
}

/* ---- the same numbers ---- */

static bool collect(void *user, int32_t id) {
    int32_t **next = user;
    *(*next)++ = id;
    return true;
}

enum { NEW = 90, PROMPT = 50 };
static const int32_t *prompt(void) {
    static int32_t ids[PROMPT];
    for (int i = 0; i < PROMPT; i++) ids[i] = i * 7 % TINY_VOCAB;
    return ids;
}

static void generate(running *r, int32_t *out) {
    int32_t *next = out;
    syl_generate_options options = {
        .max_tokens = NEW, .sampling = {.top_p = 1}, .token = collect, .user = &next};
    syl_generation g;
    fixture_ok(&r->f, syl_lm_generate(&r->lm, prompt(), PROMPT, &options, r->f.diag, &g));
    assert_int_equal(g.new_tokens, NEW);
    assert_int_equal(syl_context_length(r->lm.context, 0), PROMPT + NEW - 1);
}

/* Tokens one after the other, chosen by the host. */
static void generate_slowly(running *r, int32_t *out) {
    const float *logits;
    syl_context_truncate(r->lm.context, 0, 0);
    fixture_ok(&r->f, syl_lm_prefill(&r->lm, 0, prompt(), PROMPT, r->f.diag, &logits));
    for (int i = 0; i < NEW; i++) {
        out[i] = (int32_t)syl_argmax(logits, TINY_VOCAB);
        fixture_ok(&r->f, syl_lm_prefill(&r->lm, 0, &out[i], 1, r->f.diag, &logits));
    }
}

static void graphs_change_no_bit(void **state) {
    (void)state;
    running r;
    int32_t with[NEW], again[NEW], without[NEW], slowly[NEW];
    start(&r, 1);
    generate(&r, with);
    long launched = r.gpu->graph_launches, captured = r.gpu->captures;
    assert_true(launched > NEW / 2); /* nearly every decode step is one graph */
    assert_true(captured <= 6);      /* of a few numbers of positions */
    generate(&r, again);
    generate_slowly(&r, slowly);
    assert_memory_equal(with, again, sizeof with);
    assert_memory_equal(with, slowly, sizeof with);
    stop(&r);
    setenv("SYL_CUDA_GRAPHS", "0", 1);
    start(&r, 1);
    unsetenv("SYL_CUDA_GRAPHS");
    generate(&r, without);
    assert_int_equal(r.gpu->captures, 0);
    assert_memory_equal(with, without, sizeof with);
    stop(&r);
}

/* Logits of a sequence alone, and in a batch with another, cut otherwise. */
static void batches_change_no_bit(void **state) {
    (void)state;
    running r;
    float alone[TINY_VOCAB];
    const float *logits;
    start(&r, 3);
    fixture_ok(&r.f, syl_lm_prefill(&r.lm, 0, prompt(), PROMPT, r.f.diag, &logits));
    memcpy(alone, logits, sizeof alone);
    for (int done = 0, step = 1; done < PROMPT; done += step, step = step % 7 + 1) {
        int32_t ids[16], seq[16], rows[1], n = 0;
        int count = PROMPT - done < step ? PROMPT - done : step;
        for (int i = 0; i < 3; i++, n++) ids[n] = (done + i) % TINY_VOCAB, seq[n] = 2;
        for (int i = 0; i < count; i++, n++) ids[n] = prompt()[done + i], seq[n] = 1;
        rows[0] = n - 1;
        syl_batch batch = {.n_tokens = n, .ids = ids, .seq = seq, .n_rows = 1, .rows = rows};
        fixture_ok(&r.f, syl_context_run(r.lm.context, &batch, r.f.diag));
    }
    fixture_ok(&r.f, syl_context_fetch(r.lm.context, r.f.diag));
    assert_memory_equal(alone, syl_context_logits(r.lm.context, 0), sizeof alone);
    stop(&r);
}

static void truncation_forgets(void **state) {
    (void)state;
    running r;
    float first[TINY_VOCAB];
    const float *logits;
    int32_t other[100];
    start(&r, 1);
    for (int i = 0; i < 100; i++) other[i] = i * 11 % TINY_VOCAB;
    fixture_ok(&r.f, syl_lm_prefill(&r.lm, 0, prompt(), PROMPT, r.f.diag, &logits));
    memcpy(first, logits, sizeof first);
    syl_context_truncate(r.lm.context, 0, 30);
    fixture_ok(&r.f, syl_lm_prefill(&r.lm, 0, other, 100, r.f.diag, &logits));
    syl_context_truncate(r.lm.context, 0, 30);
    fixture_ok(&r.f, syl_lm_prefill(&r.lm, 0, prompt() + 30, PROMPT - 30, r.f.diag, &logits));
    assert_memory_equal(first, logits, sizeof first);
    stop(&r);
}

static const char wide_ir[] = "module @wide {\n"
                              "  func @forward(%ids: tensor<Txi32>) -> tensor<Tx3000xf32> {\n"
                              "    %table = materialized \"table\" : tensor<40x1024xf32>\n"
                              "    %w = materialized \"w\" : tensor<3000x1024xint8_channel>\n"
                              "    %u = materialized \"u\" : tensor<3000x1024xint4_two_level_g64>\n"
                              "    %x = fused {slots = [0]} : tensor<Tx1024xint8_token> {\n"
                              "      %e = embedding %ids, %table : tensor<Tx1024xf32>\n"
                              "      %q = quantize %e : tensor<Tx1024xint8_token>\n"
                              "      yield %q\n"
                              "    }\n"
                              "    %a = fused {slots = [1]} : tensor<Tx3000xf32> {\n"
                              "      %l = linear %x, %w : tensor<Tx3000xf32>\n"
                              "      yield %l\n"
                              "    }\n"
                              "    %y = fused {slots = [-1]} : tensor<Tx3000xf32> {\n"
                              "      %m = linear %x, %u : tensor<Tx3000xf32>\n"
                              "      %s = add %m, %a : tensor<Tx3000xf32>\n"
                              "      yield %s\n"
                              "    }\n"
                              "    return %y\n"
                              "  }\n"
                              "}\n";

enum { ROWS = 3000, COLS = 1024, GROUPS = COLS / 64 };

static void write_part(fixture *f, syl_artifact_writer *writer, const char *name, int part, size_t size,
                       int low, int span) {
    unsigned char *bytes = malloc(size);
    uint64_t state = size;
    for (size_t i = 0; i < size; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        bytes[i] = (unsigned char)(low + (int)(state >> 40) % span);
    }
    fixture_ok(f, syl_artifact_write(writer, name, part, 0, bytes, size));
    free(bytes);
}

static const char *write_wide(fixture *f) {
    const char *path = test_path(f, "wide.syl");
    syl_source source = {"wide.sir", wide_ir, sizeof wide_ir - 1};
    syl_artifact_info info = {"wide", 0, "{\"name\": \"none\"}", "{}", NULL};
    syl_artifact_writer *writer;
    syl_module *module;
    fixture_ok(f, syl_module_parse(&source, f->diag, &module));
    fixture_ok(f, syl_module_verify(module, f->diag));
    fixture_ok(f, syl_artifact_begin(path, module, &info, f->diag, &writer));
    write_part(f, writer, "table", 0, sizeof(float) * 40 * COLS, 0, 64);
    write_part(f, writer, "w", 0, (size_t)ROWS * COLS, -127, 255);
    write_part(f, writer, "w", 1, sizeof(float) * ROWS, 0, 64);
    write_part(f, writer, "u", 0, (size_t)ROWS * COLS / 2, 0, 256);
    write_part(f, writer, "u", 1, sizeof(float) * ROWS, 0, 64);
    write_part(f, writer, "u", 2, (size_t)ROWS * GROUPS, 1, 8);
    write_part(f, writer, "u", 3, (size_t)ROWS * GROUPS, 0, 16);
    fixture_ok(f, syl_artifact_commit(writer));
    syl_module_destroy(module);
    return path;
}

/* What lies on the device is each tensor as it is stored, or packed as a whole: slices, batches and reads change nothing. */
static void weights_arrive(void **state) {
    (void)state;
    running r;
    fixture_open(&r.f, 2);
    r.gpu = machine_start();
    syl_engine_options options = {.device = "cuda"};
    fixture_ok(&r.f, syl_engine_load(write_wide(&r.f), &options, r.f.pool, r.f.diag, &r.engine));
    assert_string_equal(r.engine->device, "cuda:0");
    assert_string_equal(r.engine->processor, "Fake GPU 0");
    assert_string_equal(r.engine->target, "sm_90a");
    const syl_cuda_engine *cuda = syl_cuda_engine_of(r.engine);
    const syl_plan *plan = r.engine->plan;
    int packed_weights = 0;
    for (size_t i = 0; i < plan->weights.n; i++) {
        const syl_plan_weight *weight = &plan->weights.p[i];
        const void *there = (const void *)(uintptr_t)(cuda->memory.at + cuda->weight_offset[i]);
        syl_weight_source source;
        size_t size;
        fixture_ok(&r.f, syl_engine_source(r.engine, weight, r.f.diag, &source, &size));
        if (!weight->packed) {
            assert_memory_equal(there, source.data, size);
            continue;
        }
        assert_true(syl_cuda_packed_size(weight, &size));
        void *packed = malloc(size);
        assert_true(syl_cuda_pack(weight, &source, packed, 0, syl_cuda_pack_units(weight)));
        assert_memory_equal(there, packed, size);
        free(packed);
        packed_weights++;
    }
    assert_int_equal(packed_weights, 2);
    syl_engine_destroy(r.engine);
    machine_stop(r.gpu);
    fixture_close(&r.f);
}

/* A two-level code that stands for more than INT8 holds is refused: CUDA kernels don't cut. */
static void codes_that_are_cut(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, 1);
    fake_cuda_state *gpu = machine_start();
    const char *path = write_wide(&f);
    syl_engine_options options = {.device = "cuda"};
    syl_engine *engine;
    fixture_ok(&f, syl_engine_load(path, &options, f.pool, f.diag, &engine));
    const syl_st_tensor *scales = syl_safetensors_find(&engine->artifact.file, "u.group_scale");
    size_t offset = scales->offset + 777;
    syl_engine_destroy(engine);
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, (long)offset, SEEK_SET), 0);
    assert_int_equal(fputc(16, file), 16); /* of codes 0 to 15 some are now beyond 127 */
    assert_int_equal(fclose(file), 0);
    syl_status status = syl_engine_load(path, &options, f.pool, f.diag, &engine);
    assert_int_equal(status, SYL_INPUT);
    fixture_error(&f, status, "cuda-weight", "\"u\"", "a code that is cut");
    machine_stop(gpu);
    fixture_close(&f);
}

/* ---- callers on the device ---- */

static const char function_ir[] =
    "module @rows {\n"
    "  func @forward(%x: tensor<Tx16xf32>, %rows: tensor<Rxi32>) -> tensor<Rx16xf32> {\n"
    "    %y = fused {slots = [-1]} : tensor<Rx16xf32> {\n"
    "      %t = take %x, %rows : tensor<Rx16xf32>\n"
    "      %n = silu %t : tensor<Rx16xf32>\n"
    "      yield %n\n"
    "    }\n"
    "    return %y\n"
    "  }\n"
    "}\n";

static const char *write_function(fixture *f) {
    const char *path = test_path(f, "rows.syl");
    syl_source source = {"rows.sir", function_ir, sizeof function_ir - 1};
    syl_artifact_info info = {"rows", 0, "{\"name\": \"none\"}", "{}", NULL};
    syl_artifact_writer *writer;
    syl_module *module;
    fixture_ok(f, syl_module_parse(&source, f->diag, &module));
    fixture_ok(f, syl_module_verify(module, f->diag));
    fixture_ok(f, syl_artifact_begin(path, module, &info, f->diag, &writer));
    fixture_ok(f, syl_artifact_commit(writer));
    syl_module_destroy(module);
    return path;
}

typedef struct cu {
    int (*push)(void *), (*pop)(void **), (*alloc)(uint64_t *, size_t), (*free)(uint64_t),
        (*stream)(void **, unsigned), (*unstream)(void *);
} cu;
static cu caller(void) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    cu c;
    *(void **)&c.push = dlsym(library, "cuCtxPushCurrent_v2");
    *(void **)&c.pop = dlsym(library, "cuCtxPopCurrent_v2");
    *(void **)&c.alloc = dlsym(library, "cuMemAlloc_v2");
    *(void **)&c.free = dlsym(library, "cuMemFree_v2");
    *(void **)&c.stream = dlsym(library, "cuStreamCreate");
    *(void **)&c.unstream = dlsym(library, "cuStreamDestroy_v2");
    return c;
}

static void tensors_on_the_device(void **state) {
    (void)state;
    running r;
    fixture_open(&r.f, 1);
    r.gpu = machine_start();
    syl_engine_options options = {.device = "cuda"};
    syl_function *function;
    fixture_ok(&r.f, syl_engine_load(write_function(&r.f), &options, r.f.pool, r.f.diag, &r.engine));
    fixture_ok(&r.f, syl_function_create(r.engine, r.f.pool, r.f.diag, &function));
    float x[5 * 16], expected[3 * 16];
    int32_t rows[3] = {4, 0, 2};
    for (int i = 0; i < 5 * 16; i++) x[i] = (float)i;
    syl_array inputs[2] = {{SYL_f32, 2, {5, 16}, x, false}, {SYL_i32, 1, {3}, rows, false}};
    fixture_ok(&r.f, syl_function_run(function, inputs, r.f.diag));
    memcpy(expected, syl_function_output(function, 0).data, sizeof expected);
    cu c = caller();
    void *stream;
    uint64_t on_device, rows_there;
    c.push(r.gpu);
    assert_int_equal(c.stream(&stream, 1) | c.alloc(&on_device, sizeof x) | c.alloc(&rows_there, sizeof rows),
                     0);
    memcpy((void *)(uintptr_t)on_device, x, sizeof x);
    memcpy((void *)(uintptr_t)rows_there, rows, sizeof rows);
    fixture_ok(&r.f, syl_function_stream(function, stream, r.f.diag));
    fixture_ok(&r.f, syl_function_stay(function, true, r.f.diag));
    inputs[0].data = (void *)(uintptr_t)on_device;
    inputs[1].data = (void *)(uintptr_t)rows_there;
    inputs[0].on_device = inputs[1].on_device = true;
    for (int i = 0; i < 3; i++) { /* the second run is captured, the third replayed */
        long copies = r.gpu->copies_in;
        fixture_ok(&r.f, syl_function_run(function, inputs, r.f.diag));
        assert_int_equal(r.gpu->copies_in, copies);
        syl_array y = syl_function_output(function, 0);
        assert_true(y.on_device);
        assert_memory_equal(y.data, expected, sizeof expected); /* the fake's device memory can be read */
        memset((void *)(uintptr_t)y.data, 0, sizeof expected);
    }
    ((int32_t *)(uintptr_t)rows_there)[1] = 5;
    syl_status status = syl_function_run(function, inputs, r.f.diag);
    fixture_error(&r.f, status, "exec-range", "element 1 of input \"rows\" is 5, expected 0..4",
                  "a row on the device");
    fixture_ok(&r.f, syl_function_stream(function, NULL, r.f.diag));
    c.unstream(stream);
    c.free(on_device);
    c.free(rows_there);
    c.pop(&stream);
    syl_function_destroy(function);
    syl_engine_destroy(r.engine);
    machine_stop(r.gpu);
    fixture_close(&r.f);
}

/* A run that is measured gives the same numbers, and a time for each step. */
static int reported;
static void report_step(void *user, const syl_plan_step *step, const kir_kernel *kernel, int64_t rows,
                        const syl_step_time *time, const syl_step_cost *cost) {
    (void)user;
    assert_non_null(step->label);
    assert_true(rows >= 1 && time->seconds > 0 && cost->bytes > 0);
    assert_true(kernel->kind == KIR_ROWS || cost->operations > 0);
    reported++;
}

static void steps_are_timed(void **state) {
    (void)state;
    running r;
    start(&r, 1);
    syl_step_time times[64];
    syl_profile profile = {.step = report_step};
    double rate;
    assert_true(r.engine->plan->steps.n < 64);
    reported = 0;
    int32_t id = 3;
    r.gpu->launch =
        NULL; /* a graph is replayed twice, and the machine looks for positions that are written twice */
    syl_context_profile(r.lm.context, &profile, times);
    syl_batch batch = {.n_tokens = 1, .ids = &id, .n_rows = 1, .rows = (const int32_t[]){0}};
    fixture_ok(&r.f, syl_context_run(r.lm.context, &batch, r.f.diag));
    assert_int_equal(reported, r.engine->plan->steps.n);
    fixture_ok(&r.f, syl_context_run(r.lm.context, &batch, r.f.diag)); /* only the next is measured */
    assert_int_equal(reported, r.engine->plan->steps.n);
    r.gpu->memory = (size_t)4 << 30;
    fixture_ok(&r.f, syl_context_copy_rate(r.lm.context, r.f.diag, &rate));
    assert_true(rate > 0);
    stop(&r);
}

static void a_hundred_loads_leave_nothing(void **state) {
    (void)state;
    running r;
    fixture_open(&r.f, 1);
    r.gpu = machine_start();
    const char *path = model(&r.f);
    for (int i = 0; i < 100; i++) {
        syl_engine_options options = {.device = "cuda:0"};
        syl_context_options context = {0};
        int32_t out[NEW];
        fixture_ok(&r.f, syl_engine_load(path, &options, r.f.pool, r.f.diag, &r.engine));
        fixture_ok(&r.f, syl_lm_create(r.engine, r.f.pool, &context, r.f.diag, &r.lm));
        if (i % 20 == 0) generate(&r, out);
        syl_lm_destroy(&r.lm);
        syl_engine_destroy(r.engine);
        machine_stop(r.gpu);
    }
    fixture_close(&r.f);
}

/* ---- what fails ---- */

/* Loading fails so, and leaves nothing. */
static void check_load(fixture *f, fake_cuda_state *gpu, const char *device, syl_status expected,
                       const char *name, const char *said) {
    syl_engine_options options = {.device = device};
    syl_engine *engine;
    syl_status status = syl_engine_load(model(f), &options, f->pool, f->diag, &engine);
    assert_int_equal(status, expected);
    assert_null(engine);
    fixture_error(f, status, name, said, said);
    machine_stop(gpu);
}

static void drivers_fail(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, 1);
    fake_cuda_state *gpu = machine_start();
    gpu->version = 12040;
    check_load(&f, gpu, "cuda", SYL_DEVICE, "cuda-old-driver", "CUDA 12.4, at least 12.8");
    gpu = machine_start();
    gpu->devices = 0;
    check_load(&f, gpu, "cuda", SYL_DEVICE, "cuda-no-device", "finds no GPU");
    gpu = machine_start();
    check_load(&f, gpu, "cuda:3", SYL_USAGE, "cuda-device", "no cuda:3: this machine has 1 GPU");
    check_load(&f, gpu, "cuda:x", SYL_USAGE, "device-unknown", "\"cuda:x\"");
    check_load(&f, gpu, "cpu:1", SYL_USAGE, "device-unknown", "\"cpu:1\"");
    check_load(&f, gpu, "tpu", SYL_USAGE, "device-unknown", "\"tpu\"");
    gpu->capability = 70;
    check_load(&f, gpu, "cuda", SYL_UNSUPPORTED, "cuda-capability", "7.0, at least 7.5");
    fixture_close(&f);
}

static void memory_runs_out(void **state) {
    (void)state;
    running r;
    fixture_open(&r.f, 1);
    r.gpu = machine_start();
    r.gpu->memory = 100000;
    r.gpu->others = 95000;
    check_load(&r.f, r.gpu, "cuda", SYL_DEVICE_MEMORY, "cuda-memory", "5.0 kB are free; largest: ");
    r.gpu->memory = (size_t)1 << 30; /* the plan fits, an allocation fails all the same */
    r.gpu->others = 0;
    r.gpu->fail_alloc = 1;
    check_load(&r.f, r.gpu, "cuda", SYL_DEVICE_MEMORY, "cuda-memory", "weights");
    fixture_close(&r.f);
    start(&r, 1);
    syl_context_options many = {.sequences = 1 << 20};
    syl_context *context;
    syl_status status = syl_context_create(r.engine, r.f.pool, &many, r.f.diag, &context);
    assert_int_equal(status, SYL_DEVICE_MEMORY);
    fixture_error(&r.f, status, "cuda-memory", "a smaller --context", "too many sequences");
    int32_t out[NEW]; /* the engine works on */
    generate(&r, out);
    stop(&r);
}

static void a_trap_loses_the_context(void **state) {
    (void)state;
    running r;
    start(&r, 1);
    const float *logits;
    fixture_ok(&r.f, syl_lm_prefill(&r.lm, 0, prompt(), PROMPT, r.f.diag, &logits));
    r.gpu->trap = r.gpu->launches + 3;
    syl_status status = syl_lm_prefill(&r.lm, 0, prompt(), PROMPT, r.f.diag, &logits);
    assert_int_equal(status, SYL_DEVICE);
    fixture_error(&r.f, status, "cuda-launch", "on cuda:0 (Fake GPU 0): CUDA_ERROR_LAUNCH_FAILED (719",
                  "a trap");
    status = syl_lm_prefill(&r.lm, 0, prompt(), 1, r.f.diag, &logits);
    assert_int_equal(status, SYL_DEVICE);
    fixture_error(&r.f, status, "cuda-lost", "cannot be used any more", "after it");
    stop(&r);
    start(&r, 1); /* another process */
    int32_t out[NEW];
    generate(&r, out);
    stop(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(graphs_change_no_bit),
        cmocka_unit_test(batches_change_no_bit),
        cmocka_unit_test(truncation_forgets),
        cmocka_unit_test(weights_arrive),
        cmocka_unit_test(codes_that_are_cut),
        cmocka_unit_test(tensors_on_the_device),
        cmocka_unit_test(steps_are_timed),
        cmocka_unit_test(a_hundred_loads_leave_nothing),
        cmocka_unit_test(drivers_fail),
        cmocka_unit_test(memory_runs_out),
        cmocka_unit_test(a_trap_loses_the_context),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
