/* Looking at values on a GPU, without one (tests/fake/cuda.c, runtime_cuda_machine.h): what an observer reads is what kernels wrote, also of
 * values that lie in tiles; kernels are launched one by one and nothing is captured meanwhile; no bit of the run changes; what fails while
 * a value is read fails the run. */
#include "runtime/function.h"
#include "runtime/lm.h"
#include "runtime/observe.h"
#include "runtime_cuda_machine.h"

enum { TOKENS = 13 }; /* two blocks of tiled rows, the second not whole */

typedef struct watching {
    fixture f;
    fake_cuda_state *gpu;
    syl_engine *engine;
    syl_lm lm;
    syl_arena arena;
    syl_points points;
    long steps, values;
    enum {
        READS,
        FAILS,
        LOSES
    } how; /* while the first value is read memory is short, or the device is lost */
    syl_status read;
    float last[TOKENS * TINY_WIDTH], logits[TOKENS * TINY_VOCAB];
} watching;

/* ---- a second way to read: by the address that the last launch was given, byte by byte ---- */

static uint64_t last_parameter[FAKE_PARAMETER / 8];
static const kir_kernel *last_kernel;
static void launch(void *user, const fake_launch *l) {
    const machine_image *image = l->image;
    last_kernel = image->kernel;
    memcpy(last_parameter, l->parameter, sizeof last_parameter);
    machine_launch(user, l);
}

static double element(const syl_point *point, int64_t rows, int64_t i, int64_t j) {
    const kir_buffer *buffer = &last_kernel->buffers.p[point->data];
    uint64_t base = last_parameter[point->data];
    if (buffer->elem == KIR_I8) {
        const float *scales = (const float *)(uintptr_t)last_parameter[point->scale];
        return (double)((float)(int8_t)*machine_byte(buffer, base, rows, i, j) * scales[i]);
    }
    float value;
    assert_int_equal(buffer->elem, KIR_F32);
    memcpy(&value, machine_byte(buffer, base, rows, i, 4 * j), 4);
    return (double)value;
}

static void watch(void *user, const syl_step_view *view) {
    watching *w = user;
    w->steps++;
    for (size_t k = 0; k < w->points.list.n; k++) {
        const syl_point *point = &w->points.list.p[k];
        float rows[TOKENS * TINY_VOCAB], part[TOKENS * TINY_VOCAB];
        if (point->step != view->step) continue;
        assert_int_equal(view->rows, TOKENS);
        w->values++;
        if (w->how == LOSES) w->gpu->dead = 700;
        if (w->how == FAILS) w->gpu->fail_pin = 1;
        w->read = syl_point_read(point, view, 0, TOKENS, rows);
        if (w->how != READS) return;
        assert_int_equal(w->read, SYL_OK);
        for (int64_t i = 0; i < TOKENS && point->undo.n == 0; i++)
            for (int64_t j = 0; j < point->cols; j++)
                assert_true((double)rows[i * point->cols + j] == element(point, TOKENS, i, j));
        for (int64_t begin = 0; begin <= TOKENS; begin += 3) /* parts, also such as begin inside of a tile */
            for (int64_t end = begin; end <= TOKENS; end += 5) {
                assert_int_equal(syl_point_read(point, view, begin, end, part), SYL_OK);
                assert_memory_equal(part, rows + begin * point->cols,
                                    (size_t)((end - begin) * point->cols) * sizeof *part);
            }
        if (strcmp(point->name, "logits") == 0) memcpy(w->logits, rows, sizeof w->logits);
    }
}

/* ---- the model ---- */

static void start(watching *w) {
    memset(w, 0, sizeof *w);
    fixture_open(&w->f, 1);
    w->gpu = machine_start();
    w->gpu->launch = launch;
    const char *path = test_path(&w->f, "tiny.syl");
    write_tiny(&w->f, path);
    syl_engine_options options = {.device = "cuda"};
    syl_context_options context = {.sequences = 1};
    fixture_ok(&w->f, syl_engine_load(path, &options, w->f.pool, w->f.diag, &w->engine));
    fixture_ok(&w->f, syl_lm_create(w->engine, w->f.pool, &context, w->f.diag, &w->lm));
    syl_arena_init(&w->arena);
    syl_points_find(w->engine->plan, &w->arena, &w->points);
}

static void stop(watching *w) {
    syl_lm_destroy(&w->lm);
    syl_engine_destroy(w->engine);
    machine_stop(w->gpu);
    syl_arena_free(&w->arena);
    fixture_close(&w->f);
}

/* All tokens anew; logits may be NULL. */
static syl_status run(watching *w, float *logits) {
    int32_t ids[TOKENS], rows[TOKENS];
    for (int i = 0; i < TOKENS; i++) ids[i] = i * 7 % TINY_VOCAB, rows[i] = i;
    syl_batch batch = {.n_tokens = TOKENS, .ids = ids, .n_rows = TOKENS, .rows = rows};
    syl_context_truncate(w->lm.context, 0, 0);
    SYL_TRY(syl_context_run(w->lm.context, &batch, w->f.diag));
    SYL_TRY(syl_context_fetch(w->lm.context, w->f.diag));
    if (logits) memcpy(logits, syl_context_logits(w->lm.context, 0), TOKENS * TINY_VOCAB * sizeof *logits);
    return SYL_OK;
}

static void values_are_what_kernels_wrote(void **state) {
    (void)state;
    static watching w;
    static float before[TOKENS * TINY_VOCAB], after[TOKENS * TINY_VOCAB];
    start(&w);
    int tiled = 0;
    for (size_t k = 0; k < w.points.list.n; k++) tiled += w.points.list.p[k].tiled;
    assert_int_equal(w.points.list.n, 4); /* as on the host: x, a, last, logits */
    assert_int_equal(tiled, 1);           /* the codes of last */
    fixture_ok(&w.f, run(&w, before));
    fixture_ok(&w.f, run(&w, before));
    assert_int_equal(w.gpu->captures, 1);
    syl_observer observer = {watch, &w};
    syl_context_observe(w.lm.context, &observer);
    long captured = w.gpu->captures, replayed = w.gpu->graph_launches, launched = w.gpu->launches;
    for (int i = 0; i < 3; i++) fixture_ok(&w.f, run(&w, after));
    assert_int_equal(w.gpu->captures, captured);
    assert_int_equal(w.gpu->graph_launches, replayed);
    assert_int_equal(w.gpu->launches - launched, 3 * (long)w.engine->plan->steps.n);
    assert_int_equal(w.steps, 3 * (long)w.engine->plan->steps.n);
    assert_int_equal(w.values, 3 * 4);
    assert_memory_equal(before, after, sizeof before);
    assert_memory_equal(before, w.logits, sizeof before);
    syl_context_observe(w.lm.context, NULL);
    fixture_ok(&w.f, run(&w, after));
    assert_int_equal(w.values, 3 * 4);
    assert_int_equal(w.gpu->graph_launches, replayed + 1);
    assert_memory_equal(before, after, sizeof before);
    stop(&w);
}

/* A run may be measured and observed. */
static long timed;
static void time_step(void *user, const syl_plan_step *step, const kir_kernel *kernel, int64_t rows,
                      const syl_step_time *time, const syl_step_cost *cost) {
    (void)user, (void)step, (void)kernel, (void)cost;
    assert_true(rows == TOKENS && time->seconds > 0);
    timed++;
}

static void observed_runs_are_measured_too(void **state) {
    (void)state;
    static watching w;
    syl_step_time times[64];
    syl_profile profile = {.step = time_step};
    syl_observer observer = {watch, &w};
    start(&w);
    w.gpu->launch = NULL; /* positions are written twice, which the machine takes for a mistake */
    w.points.list.n = 0;
    assert_true(w.engine->plan->steps.n < 64);
    timed = 0;
    syl_context_observe(w.lm.context, &observer);
    syl_context_profile(w.lm.context, &profile, times);
    fixture_ok(&w.f, run(&w, NULL));
    assert_int_equal(timed, w.engine->plan->steps.n);
    assert_int_equal(w.steps, w.engine->plan->steps.n);
    stop(&w);
}

static void what_fails_while_reading_fails_the_run(void **state) {
    (void)state;
    static watching w;
    syl_observer observer = {watch, &w};
    start(&w);
    w.how = FAILS;
    syl_context_observe(w.lm.context, &observer);
    long launched = w.gpu->launches;
    syl_status status = run(&w, NULL);
    assert_int_equal(status, w.read);
    fixture_error(&w.f, status, "out-of-memory", "", "no pinned memory");
    assert_int_equal(w.values, 1);
    assert_true(w.gpu->launches - launched < (long)w.engine->plan->steps.n); /* nothing runs behind it */
    w.how = READS;
    fixture_ok(&w.f, run(&w, NULL));
    assert_int_equal(w.values, 5);
    stop(&w);

    start(&w);
    w.how = LOSES;
    syl_context_observe(w.lm.context, &observer);
    status = run(&w, NULL);
    assert_true(status != SYL_OK);
    assert_int_equal(status, w.read);
    assert_int_equal(w.values, 1);
    assert_true(fixture_said(&w.f, "error[cuda-l"));
    w.gpu->errors = 0; /* the context is lost, its memory with it */
    stop(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_what_kernels_wrote),
        cmocka_unit_test(observed_runs_are_measured_too),
        cmocka_unit_test(what_fails_while_reading_fails_the_run),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
