/* Choosing tokens on the device: a kernel behind the steps (codegen/cuda/choose.h) puts the token where the next step reads its ids, and
 * into memory of the host, which looks at it when it wants to. */
#include <stdlib.h>
#include <string.h>

#include "codegen/cuda/compile.h"
#include "runtime/cuda/runner.h"

syl_status syl_cuda_choose_load(syl_engine *engine, const syl_engine_options *options, syl_diag *diag) {
    syl_cuda_engine *cuda = syl_cuda_engine_of(engine);
    const syl_cuda_driver *driver = &cuda->device->driver;
    syl_arena arena;
    syl_arena_init(&arena);
    syl_cuda_text text = {.name = "choose",
                          .variant = "",
                          .entry = SYL_CUDA_CHOOSE_ENTRY,
                          .source = syl_cuda_choose_source(&arena)};
    syl_cuda_compile_options compile = {
        .cache_dir = options->cache_dir, .threads = 1, .arch = cuda->target.name};
    syl_cuda_binaries *binaries = NULL;
    syl_status status = syl_cuda_compile_texts(&text, 1, &compile, diag, &binaries);
    if (status == SYL_OK)
        status =
            syl_cuda_check(cuda->device, driver->module_load(&cuda->choose_module, binaries->codes[0].code),
                           "loading a kernel", diag);
    if (status == SYL_OK)
        status = syl_cuda_check(
            cuda->device, driver->module_function(&cuda->choose, cuda->choose_module, SYL_CUDA_CHOOSE_ENTRY),
            "finding a kernel in its module", diag);
    if (status == SYL_OK) {
        engine->stats.compiled += binaries->compiled;
        engine->stats.cached += binaries->cached;
    }
    syl_cuda_binaries_destroy(binaries);
    syl_arena_free(&arena);
    return status;
}

void syl_cuda_choose_unload(syl_cuda_engine *cuda) {
    if (cuda->choose_module) cuda->device->driver.module_unload(cuda->choose_module);
    cuda->choose_module = NULL;
}

/* ---- a runner's choices ---- */

static syl_status make(syl_cuda_runner *r, syl_diag *diag) {
    syl_cuda_choices *c = &r->choices;
    syl_cuda_device *device = r->cuda->device;
    if (c->state.at) return SYL_OK;
    SYL_TRY(syl_cuda_alloc(device, SYL_CUDA_TENSORS, sizeof(syl_cuda_choice), diag, &c->state));
    SYL_TRY(syl_cuda_pin(device, sizeof(syl_cuda_choice) + SYL_CUDA_RING * sizeof(int32_t), diag, &c->host));
    for (int i = 0; i < SYL_CUDA_RING; i++)
        SYL_TRY(syl_cuda_check(device, device->driver.event_create(&c->done[i], CU_EVENT_NO_TIMING),
                               "making an event", diag));
    return SYL_OK;
}

void syl_cuda_choose_destroy(syl_cuda_runner *r) {
    syl_cuda_choices *c = &r->choices;
    for (int i = 0; i < SYL_CUDA_RING; i++)
        if (c->done[i]) r->cuda->device->driver.event_destroy(c->done[i]);
    syl_cuda_free(r->cuda->device, &c->state);
    syl_cuda_unpin(r->cuda->device, &c->host);
}

/* The ring lies behind the state's copy in pinned memory. */
static int32_t *ring_of(const syl_cuda_choices *c) {
    return (int32_t *)(void *)((syl_cuda_choice *)c->host.data + 1);
}

syl_status syl_cuda_choose_begin(syl_cuda_runner *r, const syl_sampling *sampling, syl_diag *diag) {
    const syl_signature *signature = &r->base.engine->signature;
    const syl_cuda_driver *driver = &r->cuda->device->driver;
    syl_cuda_choices *c = &r->choices;
    if (signature->vocab > signature->id_limit)
        return syl_error(diag, SYL_ERR_lm_vocabulary, SYL_NOWHERE,
                         "the model has logits of %lld tokens, its table %lld rows",
                         (long long)signature->vocab, (long long)signature->id_limit);
    SYL_TRY(syl_sampling_check(sampling, signature->vocab, diag));
    SYL_TRY(make(r, diag));
    SYL_TRY(syl_cuda_check(r->cuda->device, driver->stream_wait(r->stream), "waiting for runs", diag));
    c->made = c->taken = 0;
    syl_cuda_choice *state = c->host.data;
    *state = (syl_cuda_choice){.temperature = sampling->temperature,
                               .top_p = sampling->top_p,
                               .top_k = sampling->top_k,
                               .random = sampling->seed};
    r->after_kernel = false;
    return syl_cuda_check(r->cuda->device, driver->copy_in(c->state.at, state, sizeof *state, r->stream),
                          "beginning to choose tokens", diag);
}

syl_status syl_cuda_choose_launch(syl_cuda_runner *r, int64_t row, syl_diag *diag) {
    const syl_signature *signature = &r->base.engine->signature;
    const syl_cuda_choices *c = &r->choices;
    int ids = 0;
    while (signature->roles[ids] != SYL_INPUT_IDS) ids++;
    syl_cuda_choose_args args = {
        .logits = r->out.memory.at + r->out.offsets[signature->logits] +
                  (cu_address)(row * signature->vocab) * sizeof(float),
        .state = c->state.at,
        .ids = r->in.memory.at + r->in.offsets[ids],
        .ring = (uint64_t)(uintptr_t)ring_of(c), /* pinned memory has one address for both */
        .n = (int32_t)signature->vocab,
        .ring_size = SYL_CUDA_RING};
    cu_launch_attribute attribute = {.id = CU_LAUNCH_PROGRAMMATIC, .value.programmatic = 1};
    cu_launch_config config = {.grid = {1, 1, 1},
                               .block = {SYL_CUDA_CHOOSE_THREADS, 1, 1},
                               .shared = SYL_CUDA_CHOOSE_SHARED,
                               .stream = r->stream,
                               .attributes = &attribute,
                               .n_attributes = r->after_kernel && r->cuda->target.arch >= 90};
    void *parameters[] = {&args};
    int result = r->cuda->device->driver.launch(&config, r->cuda->choose, parameters, NULL);
    r->after_kernel = true;
    return syl_cuda_check(r->cuda->device, result, "launching the choice of a token", diag);
}

syl_status syl_cuda_choose_made(syl_cuda_runner *r, syl_diag *diag) {
    syl_cuda_choices *c = &r->choices;
    cu_event done = c->done[c->made++ % SYL_CUDA_RING];
    return syl_cuda_check(r->cuda->device, r->cuda->device->driver.event_record(done, r->stream),
                          "choosing a token", diag);
}

syl_status syl_cuda_choose_take(syl_cuda_runner *r, syl_diag *diag, int32_t *id) {
    syl_cuda_choices *c = &r->choices;
    int64_t place = c->taken++ % SYL_CUDA_RING;
    SYL_TRY(syl_cuda_check(r->cuda->device, r->cuda->device->driver.event_wait(c->done[place]),
                           "running the model", diag));
    *id = ring_of(c)[place];
    if (*id == SYL_CUDA_CHOICE_NOTHING)
        return syl_error(diag, SYL_ERR_sample_logits, SYL_NOWHERE,
                         "every token is excluded: all logits are -inf");
    if (*id < 0 || *id >= r->base.engine->signature.vocab)
        return syl_error(diag, SYL_ERR_sample_logits, SYL_NOWHERE,
                         "a logit is NaN or infinite, expected numbers");
    return SYL_OK;
}
