/* Running a language model (exec.h): every input is checked before the first step, so the generated code, which checks
 * nothing, stays inside its buffers. */
#include "runtime/exec.h"

#include <stdlib.h>
#include <string.h>

#include "base/size.h"

enum { DEFAULT_CONTEXT = 4096 };

struct syl_context {
    const syl_engine *engine;
    const syl_backend *backend;
    syl_runner *runner;
    syl_kv *kv; /* the runner's; NULL: the model has no cache */
    int sequences;
    int64_t limit;

    int argument[SYL_INPUT_COUNT]; /* number of the argument of each role, -1: the model has none */
    int32_t *in[SYL_INPUT_COUNT];  /* by role: where the run's inputs are written */
    int32_t *spare; /* for roles without an argument: tokens or rows of one run, whichever are more */
    int64_t cap_spare;
    int32_t *rows; /* [n_rows] of the last run */
    int64_t cap_rows;

    int64_t n_tokens, n_rows;   /* of the last run */
    const float *logits;        /* of the last run, once they are fetched */
    const syl_profile *profile; /* of the next run; NULL: none */
    int64_t *next;              /* [sequences] length of each sequence while a batch is checked */
};

/* ---- creation ---- */

static syl_status no_memory(syl_diag *diag, const char *what) {
    return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for %s", what);
}

static syl_status make_runner(syl_context *context, syl_pool *pool, syl_diag *diag) {
    const syl_plan *plan = context->engine->plan;
    const syl_signature *signature = &context->engine->signature;
    for (int r = 0; r < SYL_INPUT_COUNT; r++) context->argument[r] = -1;
    for (int i = 0; i < signature->n_args; i++) context->argument[signature->roles[i]] = i;
    syl_kv_shape shape = {.layers = plan->cache_layers,
                          .cache = plan->cache,
                          .sequences = context->sequences,
                          .context = context->limit};
    SYL_TRY(context->backend->open(context->engine, pool, signature->has[SYL_INPUT_CACHE] ? &shape : NULL,
                                   diag, &context->runner));
    context->kv = context->runner->kv;
    return SYL_OK;
}

static syl_status create(syl_context *context, syl_pool *pool, const syl_context_options *options,
                         syl_diag *diag) {
    const syl_engine *engine = context->engine;
    syl_signature signature;
    if (!engine->is_language_model) return syl_signature_find(engine->artifact.module, diag, &signature);
    context->sequences = options->sequences > 0 ? options->sequences : 1;
    int64_t trained = engine->artifact.context_length;
    context->limit = options->context > 0 ? options->context : trained > 0 ? trained : DEFAULT_CONTEXT;
    if (trained > 0 && context->limit > trained) {
        return syl_error(diag, SYL_ERR_kv_context, SYL_NOWHERE,
                         "a context of %lld positions is asked for, the model was trained for %lld",
                         (long long)context->limit, (long long)trained);
    }
    context->next = calloc((size_t)context->sequences, sizeof *context->next);
    if (!context->next) return no_memory(diag, "a context");
    return make_runner(context, pool, diag);
}

syl_status syl_context_create(const syl_engine *engine, syl_pool *pool, const syl_context_options *options,
                              syl_diag *diag, syl_context **out) {
    *out = NULL;
    syl_context *context = calloc(1, sizeof *context);
    if (!context) return no_memory(diag, "a context");
    context->engine = engine;
    context->backend = engine->backend;
    syl_status status = create(context, pool, options, diag);
    if (status != SYL_OK) {
        syl_context_destroy(context);
        return status;
    }
    *out = context;
    return SYL_OK;
}

void syl_context_destroy(syl_context *context) {
    if (!context) return;
    if (context->runner) context->backend->close(context->runner);
    free(context->spare);
    free(context->rows);
    free(context->next);
    free(context);
}

/* ---- buffers ---- */

/* Sizes of a run's arguments and results. */
typedef struct run_sizes {
    size_t inputs[SYL_INPUT_COUNT], outputs[SYL_INPUT_COUNT];
} run_sizes;

static syl_status describe_run(const syl_context *context, int64_t tokens, int64_t rows, run_sizes *sizes,
                               syl_run *run, syl_diag *diag) {
    const syl_signature *signature = &context->engine->signature;
    *sizes = (run_sizes){0};
    *run = (syl_run){.input_bytes = sizes->inputs, .output_bytes = sizes->outputs, .choose = -1};
    syl_engine_rows(context->engine, tokens, rows, run->rows);
    for (int r = 0; r < SYL_INPUT_CACHE; r++) {
        size_t n = (size_t)(r == SYL_INPUT_ROWS ? rows : tokens);
        if (context->argument[r] >= 0) sizes->inputs[context->argument[r]] = n * sizeof(int32_t);
    }
    if (!syl_size_mul((size_t)(signature->logits_by_rows ? rows : tokens),
                      sizeof(float) * (size_t)signature->vocab, &sizes->outputs[signature->logits])) {
        return syl_error(diag, SYL_ERR_size_overflow, SYL_NOWHERE, "logits of %lld rows are too large",
                         (long long)rows);
    }
    return SYL_OK;
}

static syl_status grow(int32_t **list, int64_t *cap, int64_t n, syl_diag *diag) {
    if (*list && n <= *cap) return SYL_OK;
    free(*list);
    *list = calloc((size_t)n + 1, sizeof **list);
    *cap = *list ? n : 0;
    return *list ? SYL_OK : no_memory(diag, "a batch");
}

static syl_status make_room(syl_context *context, const syl_run *run, int64_t tokens, int64_t rows,
                            syl_diag *diag) {
    SYL_TRY(grow(&context->spare, &context->cap_spare, tokens > rows ? tokens : rows, diag));
    SYL_TRY(grow(&context->rows, &context->cap_rows, rows, diag));
    SYL_TRY(context->backend->reserve(context->runner, run, diag));
    for (int r = 0; r < SYL_INPUT_CACHE; r++) {
        int argument = context->argument[r];
        context->in[r] = argument < 0 ? context->spare : context->backend->input(context->runner, argument);
    }
    return SYL_OK;
}

/* ---- inputs ---- */

static syl_status out_of_range(syl_diag *diag, const char *what, int64_t i, int32_t value, int64_t limit) {
    return syl_error(diag, SYL_ERR_exec_range, SYL_NOWHERE, "%s %lld is %d, expected 0..%lld", what,
                     (long long)i, value, (long long)limit - 1);
}

/* Checks the batch and fills the input buffers; the new length of each sequence goes to context->next. */
static syl_status fill_inputs(syl_context *context, const syl_batch *batch, syl_diag *diag) {
    const syl_signature *signature = &context->engine->signature;
    int32_t **in = context->in;
    for (int s = 0; s < context->sequences; s++)
        context->next[s] = context->kv ? syl_kv_length(context->kv, s) : 0;
    for (int64_t t = 0; t < batch->n_tokens; t++) {
        int32_t id = batch->ids ? batch->ids[t] : 0, seq = batch->seq ? batch->seq[t] : 0;
        if (id < 0 || id >= signature->id_limit)
            return out_of_range(diag, "token", t, id, signature->id_limit);
        if (seq < 0 || seq >= context->sequences) {
            return syl_error(diag, SYL_ERR_kv_sequence, SYL_NOWHERE,
                             "token %lld is of sequence %d, expected 0..%d", (long long)t, seq,
                             context->sequences - 1);
        }
        if (context->next[seq] >= context->limit) {
            return syl_error(diag, SYL_ERR_kv_context, SYL_NOWHERE,
                             "sequence %d would have more than the %lld positions of the context", seq,
                             (long long)context->limit);
        }
        in[SYL_INPUT_IDS][t] = id;
        in[SYL_INPUT_SEQ][t] = seq;
        in[SYL_INPUT_POS][t] = (int32_t)context->next[seq]++;
    }
    for (int64_t r = 0; r < batch->n_rows; r++) {
        if (batch->rows[r] < 0 || batch->rows[r] >= batch->n_tokens) {
            return out_of_range(diag, "row", r, batch->rows[r], batch->n_tokens);
        }
        in[SYL_INPUT_ROWS][r] = context->rows[r] = batch->rows[r];
    }
    return SYL_OK;
}

static syl_status extend_cache(syl_context *context, syl_diag *diag) {
    for (int s = 0; context->kv && s < context->sequences; s++) {
        int64_t before = syl_kv_length(context->kv, s);
        syl_status status = syl_kv_extend(context->kv, s, context->next[s], diag);
        context->next[s] = before; /* what to go back to */
        if (status == SYL_OK) continue;
        for (int k = 0; k < s; k++) syl_kv_truncate(context->kv, k, context->next[k]);
        return status;
    }
    return SYL_OK;
}

/* Positions of the longest sequence of the batch, with it. */
static int64_t longest(const syl_context *context) {
    int64_t most = 0;
    for (int64_t t = 0; context->kv && t < context->n_tokens; t++)
        if (context->in[SYL_INPUT_POS][t] >= most) most = context->in[SYL_INPUT_POS][t] + 1;
    return most;
}

/* ---- running ---- */

syl_status syl_context_run(syl_context *context, const syl_batch *batch, syl_diag *diag) {
    if (batch->n_tokens < 1 || batch->n_tokens > INT32_MAX || batch->n_rows < 0 ||
        batch->n_rows > INT32_MAX) {
        return syl_error(diag, SYL_ERR_exec_range, SYL_NOWHERE, "a batch of %lld tokens and %lld rows",
                         (long long)batch->n_tokens, (long long)batch->n_rows);
    }
    if ((!batch->ids && batch->n_tokens != 1) || (batch->choose && batch->n_rows < 1)) {
        return syl_error(diag, SYL_ERR_exec_range, SYL_NOWHERE,
                         "a batch of %lld tokens and %lld rows cannot follow or choose",
                         (long long)batch->n_tokens, (long long)batch->n_rows);
    }
    run_sizes sizes;
    syl_run run;
    SYL_TRY(describe_run(context, batch->n_tokens, batch->n_rows, &sizes, &run, diag));
    context->n_rows = 0;
    context->logits = NULL;
    SYL_TRY(make_room(context, &run, batch->n_tokens, batch->n_rows, diag));
    SYL_TRY(fill_inputs(context, batch, diag));
    SYL_TRY(extend_cache(context, diag));
    context->n_tokens = batch->n_tokens;
    context->n_rows = batch->n_rows;
    run.pos = context->in[SYL_INPUT_POS];
    run.seq = context->in[SYL_INPUT_SEQ];
    run.positions = longest(context);
    run.follow = !batch->ids;
    if (batch->choose)
        run.choose =
            context->engine->signature.logits_by_rows ? batch->n_rows - 1 : batch->rows[batch->n_rows - 1];
    SYL_TRY(context->backend->run(context->runner, &run, diag));
    if (context->profile) syl_profile_report(context->profile, context->runner, &run);
    context->profile = NULL;
    context->runner->times = NULL;
    return SYL_OK;
}

/* ---- access ---- */

syl_status syl_context_fetch(syl_context *context, syl_diag *diag) {
    const syl_signature *signature = &context->engine->signature;
    if (syl_context_fetched(context)) return SYL_OK;
    int64_t rows = signature->logits_by_rows ? context->n_rows : context->n_tokens;
    size_t size = (size_t)rows * (size_t)signature->vocab * sizeof(float); /* described without overflow */
    const void *data;
    SYL_TRY(context->backend->fetch(context->runner, signature->logits, 0, size, diag, &data));
    context->logits = data;
    return SYL_OK;
}

bool syl_context_fetched(const syl_context *context) {
    return context->logits || context->n_rows == 0;
}

const float *syl_context_logits(const syl_context *context, int64_t row) {
    const syl_signature *signature = &context->engine->signature;
    if (!signature->logits_by_rows) row = context->rows[row];
    return context->logits + row * signature->vocab;
}

syl_status syl_context_stream(syl_context *context, void *stream, syl_diag *diag) {
    if (!context->backend->device_stream)
        return syl_error(diag, SYL_ERR_device_host, SYL_NOWHERE, "the model runs on %s",
                         context->engine->device);
    return context->backend->device_stream(context->runner, stream, diag);
}

uint64_t syl_context_device_logits(const syl_context *context, int64_t row) {
    const syl_signature *signature = &context->engine->signature;
    if (!context->backend->device_output) return 0;
    if (!signature->logits_by_rows) row = context->rows[row];
    return context->backend->device_output(context->runner, signature->logits) +
           (uint64_t)(row * signature->vocab) * sizeof(float);
}

void syl_context_profile(syl_context *context, const syl_profile *profile, syl_step_time *times) {
    context->profile = profile;
    context->runner->times = times;
}

syl_status syl_context_copy_rate(syl_context *context, syl_diag *diag, double *out) {
    return context->backend->copy_rate(context->runner, diag, out);
}

syl_status syl_context_wait(syl_context *context, syl_diag *diag) {
    return context->backend->wait(context->runner, diag);
}

syl_status syl_context_choose_begin(syl_context *context, const syl_sampling *sampling, syl_diag *diag) {
    return context->backend->choose_begin(context->runner, sampling, diag);
}

syl_status syl_context_chosen(syl_context *context, syl_diag *diag, int32_t *id) {
    return context->backend->chosen(context->runner, diag, id);
}

void syl_context_observe(syl_context *context, const syl_observer *observer) {
    context->runner->observer = observer ? *observer : (syl_observer){0};
}

int64_t syl_context_vocab(const syl_context *context) {
    return context->engine->signature.vocab;
}

int64_t syl_context_limit(const syl_context *context) {
    return context->limit;
}

int64_t syl_context_length(const syl_context *context, int sequence) {
    return context->kv ? syl_kv_length(context->kv, sequence) : 0;
}

void syl_context_truncate(syl_context *context, int sequence, int64_t length) {
    if (context->kv) syl_kv_truncate(context->kv, sequence, length);
}

size_t syl_context_bytes(const syl_context *context) {
    return context->backend->bytes(context->runner);
}
