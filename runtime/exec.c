/* Running a language model (exec.h): every input is checked before the first step, so the generated code, which checks
 * nothing, stays inside its buffers. */
#include "runtime/exec.h"

#include <stdlib.h>
#include <string.h>

#include "base/size.h"

enum { DEFAULT_CONTEXT = 4096 };

struct syl_context {
    const syl_engine *engine;
    syl_pool *pool;
    syl_kv *kv; /* NULL: the model has no cache */
    int sequences;
    int64_t limit;

    syl_steps steps;
    int64_t cap_tokens, cap_rows;     /* sizes the inputs and logits are made for */
    int32_t *inputs[SYL_INPUT_COUNT]; /* by role; the cache has none */
    float *logits;

    int64_t n_tokens, n_rows; /* of the current run */
    int64_t *next;            /* [sequences] length of each sequence while a batch is checked */
};

/* ---- creation ---- */

static syl_status no_memory(syl_diag *diag, const char *what) {
    return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for %s", what);
}

static syl_status make_cache(syl_context *context, syl_diag *diag) {
    const syl_plan *plan = context->engine->plan;
    if (!context->engine->signature.has[SYL_INPUT_CACHE]) return SYL_OK;
    syl_kv_shape shape = {.layers = plan->cache_layers,
                          .cache = plan->cache,
                          .sequences = context->sequences,
                          .context = context->limit};
    return syl_kv_create(&shape, diag, &context->kv);
}

static syl_status create(syl_context *context, const syl_context_options *options, syl_diag *diag) {
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
    SYL_TRY(make_cache(context, diag));
    return syl_steps_create(engine, context->pool, diag, &context->steps);
}

syl_status syl_context_create(const syl_engine *engine, syl_pool *pool, const syl_context_options *options,
                              syl_diag *diag, syl_context **out) {
    *out = NULL;
    syl_context *context = calloc(1, sizeof *context);
    if (!context) return no_memory(diag, "a context");
    context->engine = engine;
    context->pool = pool;
    syl_status status = create(context, options, diag);
    if (status != SYL_OK) {
        syl_context_destroy(context);
        return status;
    }
    *out = context;
    return SYL_OK;
}

static void free_buffers(syl_context *context) {
    free(context->logits);
    for (int r = 0; r < SYL_INPUT_COUNT; r++) free(context->inputs[r]);
    context->logits = NULL;
    memset(context->inputs, 0, sizeof context->inputs);
    context->cap_tokens = context->cap_rows = 0;
}

void syl_context_destroy(syl_context *context) {
    if (!context) return;
    free_buffers(context);
    syl_steps_destroy(&context->steps);
    syl_kv_destroy(context->kv);
    free(context->next);
    free(context);
}

/* ---- buffers ---- */

/* Rows that a row symbol of the plan stands for. */
static int64_t rows_of(const syl_plan *plan, syl_rows rows, int64_t n_tokens, int64_t n_rows) {
    return plan->symbols[rows] && strcmp(plan->symbols[rows], "R") == 0 ? n_rows : n_tokens;
}

/* Bytes of a buffer with slack behind it. */
static bool buffer_size(int64_t rows, int64_t row_bytes, size_t *out) {
    return syl_size_mul((size_t)rows, (size_t)row_bytes, out) && syl_size_add(*out, SYL_READ_SLACK, out);
}

static syl_status allocate(syl_context *context, int64_t tokens, int64_t rows, syl_diag *diag) {
    const syl_plan *plan = context->engine->plan;
    const syl_signature *signature = &context->engine->signature;
    int64_t sizes[2];
    for (int s = 0; s < 2; s++) sizes[s] = rows_of(plan, (syl_rows)s, tokens, rows);
    SYL_TRY(syl_steps_reserve(&context->steps, sizes, diag));
    size_t logits;
    if (!buffer_size(signature->logits_by_rows ? rows : tokens, 4 * signature->vocab, &logits)) {
        return syl_error(diag, SYL_ERR_size_overflow, SYL_NOWHERE, "logits of %lld rows are too large",
                         (long long)rows);
    }
    context->logits = syl_alloc_aligned(logits);
    bool ok = context->logits != NULL;
    for (int r = 0; r < SYL_INPUT_CACHE; r++) {
        int64_t n = r == SYL_INPUT_ROWS ? rows : tokens;
        context->inputs[r] = syl_alloc_aligned((size_t)n * sizeof(int32_t) + SYL_READ_SLACK);
        ok = ok && context->inputs[r];
    }
    return ok ? SYL_OK : no_memory(diag, "activations");
}

static syl_status grow_buffers(syl_context *context, int64_t tokens, int64_t rows, syl_diag *diag) {
    if (context->logits && tokens <= context->cap_tokens && rows <= context->cap_rows) return SYL_OK;
    if (tokens < context->cap_tokens) tokens = context->cap_tokens;
    if (rows < context->cap_rows) rows = context->cap_rows;
    free_buffers(context);
    syl_status status = allocate(context, tokens, rows, diag);
    if (status != SYL_OK) {
        free_buffers(context);
        return status;
    }
    context->cap_tokens = tokens;
    context->cap_rows = rows;
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
    int32_t **in = context->inputs;
    for (int s = 0; s < context->sequences; s++)
        context->next[s] = context->kv ? syl_kv_length(context->kv, s) : 0;
    for (int64_t t = 0; t < batch->n_tokens; t++) {
        int32_t id = batch->ids[t], seq = batch->seq ? batch->seq[t] : 0;
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
        in[SYL_INPUT_ROWS][r] = batch->rows[r];
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

/* ---- steps ---- */

static void run_steps(syl_context *context) {
    const syl_signature *signature = &context->engine->signature;
    const syl_plan *plan = context->engine->plan;
    void *inputs[SYL_INPUT_COUNT] = {0}, *outputs[SYL_INPUT_COUNT] = {0};
    for (int i = 0; i < signature->n_args; i++) inputs[i] = context->inputs[signature->roles[i]];
    outputs[signature->logits] = context->logits;
    syl_steps_io io = {
        .inputs = inputs, .outputs = outputs, .kv = context->kv, .pos = context->inputs[SYL_INPUT_POS]};
    for (int s = 0; s < 2; s++) io.rows[s] = rows_of(plan, (syl_rows)s, context->n_tokens, context->n_rows);
    syl_steps_run(&context->steps, &io);
}

syl_status syl_context_run(syl_context *context, const syl_batch *batch, syl_diag *diag) {
    if (batch->n_tokens < 1 || batch->n_tokens > INT32_MAX || batch->n_rows < 0 ||
        batch->n_rows > INT32_MAX) {
        return syl_error(diag, SYL_ERR_exec_range, SYL_NOWHERE, "a batch of %lld tokens and %lld rows",
                         (long long)batch->n_tokens, (long long)batch->n_rows);
    }
    SYL_TRY(grow_buffers(context, batch->n_tokens, batch->n_rows, diag));
    SYL_TRY(fill_inputs(context, batch, diag));
    SYL_TRY(extend_cache(context, diag));
    context->n_tokens = batch->n_tokens;
    context->n_rows = batch->n_rows;
    run_steps(context);
    return SYL_OK;
}

/* ---- access ---- */

const float *syl_context_logits(const syl_context *context, int64_t row) {
    const syl_signature *signature = &context->engine->signature;
    if (!signature->logits_by_rows) row = context->inputs[SYL_INPUT_ROWS][row];
    return context->logits + row * signature->vocab;
}

void syl_context_observe(syl_context *context, const syl_observer *observer) {
    context->steps.observer = observer ? *observer : (syl_observer){0};
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
    return context->steps.arena_size + (context->kv ? syl_kv_bytes(context->kv) : 0);
}
