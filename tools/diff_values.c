/* Running two models side by side (diff.h). A runs some tokens and its values are kept, then B runs the same tokens and each value is
 * compared as it appears, so that memory holds the values of a few tokens only. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "tools/diff.h"
#include "tools/inputs.h"

enum { CHUNK = 64 /* tokens */, MAX_TEXT = 64 << 20 /* bytes */ };

/* ---- values ---- */

static diff_value *find_value(diff_run *run, const char *name) {
    size_t n = run->values.n;
    for (size_t i = 0; i < n; i++) {
        size_t at = (run->hint + i) % n;
        if (strcmp(run->values.p[at].name, name) != 0) continue;
        run->hint = at + 1;
        return &run->values.p[at];
    }
    return NULL;
}

static syl_status read_rows(diff_run *run, const syl_observation *o, float **out) {
    size_t elements = 0;
    if (!__builtin_mul_overflow((size_t)o->rows, (size_t)o->cols, &elements))
        *out = calloc(elements + 1, sizeof **out);
    if (!*out)
        return syl_error(run->t->diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for the rows of \"%s\"",
                         o->name);
    return syl_observation_read(o, 0, o->rows, *out);
}

static void keep(void *user, const syl_observation *o) {
    diff_run *run = user;
    if (run->status != SYL_OK) return;
    diff_value *v = run->values.n ? find_value(run, o->name) : NULL;
    if (!v) {
        diff_value fresh = {.name = syl_arena_strdup(&run->t->arena, o->name),
                            .element = {syl_arena_strdup(&run->t->arena, o->element)},
                            .basis = {o->basis},
                            .cols = o->cols};
        SYL_PUSH(&run->t->arena, &run->values, fresh);
        v = &run->values.p[run->values.n - 1];
    }
    free(v->kept);
    v->kept = NULL;
    v->kept_rows = o->rows;
    run->status = read_rows(run, o, &v->kept);
}

static void add_rows(diff_value *v, const float *a, const float *b) {
    for (int64_t r = 0; r < v->kept_rows; r++, a += v->cols, b += v->cols) {
        double a2 = 0, b2 = 0;
        for (int64_t c = 0; c < v->cols; c++) {
            double x = (double)a[c], y = (double)b[c], d = y - x;
            a2 += x * x;
            b2 += y * y;
            v->ab += x * y;
            v->d2 += d * d;
            if (fabs(d) > v->max_abs || isnan(d)) v->max_abs = fabs(d);
        }
        double n = sqrt(b2) - sqrt(a2);
        v->a2 += a2;
        v->b2 += b2;
        v->n2 += n * n;
    }
    v->rows += v->kept_rows;
}

static void compare(void *user, const syl_observation *o) {
    diff_run *run = user;
    diff_value *v = run->status == SYL_OK && run->values.n ? find_value(run, o->name) : NULL;
    if (!v || !v->kept || v->cols != o->cols || v->kept_rows != o->rows) return;
    float *rows = NULL;
    run->status = read_rows(run, o, &rows);
    if (run->status == SYL_OK) add_rows(v, v->kept, rows);
    free(rows);
    free(v->kept);
    v->kept = NULL;
    if (!v->met) v->element[1] = syl_arena_strdup(&run->t->arena, o->element);
    v->met = true;
    v->basis[1] = o->basis;
}

/* ---- language models ---- */

/* log of the sum of exponentials, and where the largest is. */
static double log_sum(const float *logits, int64_t n, int64_t *top) {
    double sum = 0;
    *top = 0;
    for (int64_t i = 1; i < n; i++)
        if (logits[i] > logits[*top]) *top = i;
    for (int64_t i = 0; i < n; i++) sum += exp((double)logits[i] - (double)logits[*top]);
    return log(sum) + (double)logits[*top];
}

/* KL(A || B) of a position. */
static void add_logits(diff_run *run, const float *a, const float *b, int64_t n) {
    int64_t top_a, top_b;
    double lse_a = log_sum(a, n, &top_a), lse_b = log_sum(b, n, &top_b), kl = 0;
    for (int64_t i = 0; i < n; i++) {
        double log_p = (double)a[i] - lse_a;
        kl += exp(log_p) * (log_p - ((double)b[i] - lse_b));
    }
    run->kl += kl;
    run->same_top += top_a == top_b;
}

static syl_status run_tokens(diff_run *run, const int32_t *ids, size_t n) {
    int32_t rows[CHUNK];
    syl_program_info info = {.size = sizeof info};
    SYL_TRY(syl_program_describe(run->program[0], &info));
    for (int i = 0; i < CHUNK; i++) rows[i] = i;
    tool_progress progress = tool_progress_begin(run->t, "diff");
    syl_status status = SYL_OK;
    for (size_t begin = 0; begin < n && status == SYL_OK; begin += CHUNK) {
        size_t count = n - begin < CHUNK ? n - begin : CHUNK;
        syl_tokens tokens = {
            .size = sizeof tokens, .ids = ids + begin, .n = count, .rows = rows, .n_rows = count};
        for (int side = 0; side < 2 && status == SYL_OK; side++) {
            run->hint = 0;
            status = syl_session_run(run->session[side], &tokens);
            if (status == SYL_OK) status = run->status;
        }
        for (size_t r = 0; r < count && status == SYL_OK; r++)
            add_logits(run, syl_session_logits(run->session[0], r), syl_session_logits(run->session[1], r),
                       info.vocabulary);
        tool_progress_update(&progress, (double)(begin + count), (double)n, NULL);
    }
    tool_progress_end(&progress);
    run->tokens = (int64_t)n;
    run->kl /= (double)n;
    run->same_top /= (double)n;
    return status;
}

static syl_status check_vocabularies(const diff_run *run) {
    syl_program_info info[2] = {{.size = sizeof info[0]}, {.size = sizeof info[1]}};
    for (int side = 0; side < 2; side++) SYL_TRY(syl_program_describe(run->program[side], &info[side]));
    if (info[0].vocabulary == info[1].vocabulary) return SYL_OK;
    return syl_error(run->t->diag, SYL_ERR_lm_compare, SYL_NOWHERE,
                     "the models have vocabularies of %lld and %lld tokens", (long long)info[0].vocabulary,
                     (long long)info[1].vocabulary);
}

/* The tokens of the text, by both tokenizers. */
static syl_status text_ids(const diff_run *run, const diff_settings *s, int32_t *ids[2], size_t *n) {
    syl_source text;
    size_t counts[2];
    SYL_TRY(syl_file_read(&run->t->arena, s->file, MAX_TEXT, run->t->diag, &text));
    for (int side = 0; side < 2; side++)
        SYL_TRY(syl_session_encode(run->session[side], text.text, text.size, SYL_TEXT_PLAIN, &ids[side],
                                   &counts[side]));
    if (counts[0] != counts[1] || memcmp(ids[0], ids[1], counts[0] * sizeof *ids[0]) != 0) {
        return syl_error(run->t->diag, SYL_ERR_lm_compare, SYL_NOWHERE,
                         "the models' tokenizers make different tokens of \"%s\"", s->file);
    }
    *n = counts[0];
    if (*n == 0)
        return syl_error(run->t->diag, SYL_ERR_lm_text, SYL_NOWHERE, "\"%s\" has no tokens", s->file);
    return SYL_OK;
}

static syl_status run_language(diff_run *run, const diff_settings *s) {
    int32_t *ids[2] = {0};
    size_t n = 0;
    if ((!s->file == !s->ids) || s->inputs.n || s->random)
        return syl_error(run->t->diag, SYL_ERR_cli_argument, SYL_NOWHERE,
                         "language models are compared on a text or on tokens: -f TEXT or --ids 1,2,3");
    SYL_TRY(check_vocabularies(run));
    syl_status status = s->file ? text_ids(run, s, ids, &n) : inputs_ids(run->t, s->ids, &ids[0], &n);
    if (n > (size_t)s->tokens) n = (size_t)s->tokens;
    if (status == SYL_OK) status = run_tokens(run, ids[0], n);
    for (int side = 0; side < 2; side++) syl_free(ids[side]);
    return status;
}

/* ---- functions of tensors ---- */

/* Uniform numbers by SplitMix64, normal ones by Box and Muller. */
static double uniform(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return ldexp((double)((z ^ z >> 31) >> 11) + 0.5, -53);
}
static float normal(uint64_t *state) {
    double u = uniform(state), v = uniform(state);
    return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}

/* An input that was not given: normal numbers, or zeros where it picks rows. Symbols have the sizes that inputs that were given have for
 * them, else --random. */
static syl_status make_input(diff_run *run, const diff_settings *s, int i, const syl_npy *files,
                             syl_tensor *out) {
    const syl_program *p = run->program[0];
    syl_value_info info = inputs_value(p, SYL_DIRECTION_IN, i);
    bool is_int = strcmp(info.element, "i32") == 0;
    int64_t elements = 1;
    *out = (syl_tensor){.size = sizeof *out, .name = info.name, .element = info.element, .rank = info.rank};
    for (int d = 0; d < info.rank; d++) {
        out->dims[d] = info.dims[d];
        if (info.symbols[d]) SYL_TRY(inputs_rows(run->t, p, s->random, info.symbols[d], &out->dims[d]));
        for (int k = 0; info.symbols[d] && k < (int)syl_program_values(p, SYL_DIRECTION_IN); k++) {
            syl_value_info other = inputs_value(p, SYL_DIRECTION_IN, k);
            for (int e = 0; files[k].mapping.data && e < other.rank && e < files[k].rank; e++)
                if (other.symbols[e] && strcmp(other.symbols[e], info.symbols[d]) == 0)
                    out->dims[d] = files[k].dims[e];
        }
        if (out->dims[d] < 1)
            return syl_error(run->t->diag, SYL_ERR_cli_value, SYL_NOWHERE,
                             "--random \"%s\" says nothing of the rows %s of input \"%s\"", s->random,
                             info.symbols[d], info.name);
        if (__builtin_mul_overflow(elements, out->dims[d], &elements) || elements > (int64_t)1 << 28)
            return syl_error(run->t->diag, SYL_ERR_size_overflow, SYL_NOWHERE, "input \"%s\" is too large",
                             info.name);
    }
    float *data = syl_arena_alloc(&run->t->arena, (size_t)elements * sizeof *data); /* zeroed */
    uint64_t state = (uint64_t)s->seed * 1000003 + (uint64_t)i;
    for (int64_t k = 0; !is_int && k < elements; k++) data[k] = normal(&state);
    out->data = data;
    return SYL_OK;
}

static syl_status call_both(diff_run *run, const diff_settings *s, syl_npy *files) {
    size_t n = syl_program_values(run->program[0], SYL_DIRECTION_IN);
    syl_tensor *inputs = SYL_NEW_ARRAY(&run->t->arena, syl_tensor, n + 1);
    SYL_TRY(inputs_open(run->t, &s->inputs, run->program[0], files));
    for (size_t i = 0; i < n; i++) {
        syl_value_info info = inputs_value(run->program[0], SYL_DIRECTION_IN, (int)i);
        if (files[i].mapping.data) {
            inputs[i] = inputs_tensor(info.name, &files[i]);
        } else if (s->random) {
            SYL_TRY(make_input(run, s, (int)i, files, &inputs[i]));
        } else {
            return syl_error(run->t->diag, SYL_ERR_cli_argument, SYL_NOWHERE,
                             "input \"%s\" (%s) is missing: --input %s=@FILE.npy, or --random ROWS",
                             info.name, inputs_type_text(run->t, &info), info.name);
        }
    }
    for (int side = 0; side < 2; side++) {
        run->hint = 0;
        SYL_TRY(syl_session_call(run->session[side], inputs, n));
        SYL_TRY(run->status);
    }
    return SYL_OK;
}

static syl_status run_function(diff_run *run, const diff_settings *s) {
    if (s->file || s->ids)
        return syl_error(run->t->diag, SYL_ERR_cli_argument, SYL_NOWHERE,
                         "the models are functions of tensors: --input NAME=@X.npy, or --random ROWS");
    size_t n = syl_program_values(run->program[0], SYL_DIRECTION_IN);
    syl_npy *files = SYL_NEW_ARRAY(&run->t->arena, syl_npy, n + 1);
    syl_status status = call_both(run, s, files);
    for (size_t i = 0; i < n; i++) syl_npy_close(&files[i]);
    return status;
}

/* ---- the whole ---- */

static syl_status open_both(diff_run *run, const char *const paths[2]) {
    syl_program_info info[2] = {{.size = sizeof info[0]}, {.size = sizeof info[1]}};
    for (int side = 0; side < 2; side++) {
        SYL_TRY(tool_open(run->t, paths[side], &run->program[side]));
        SYL_TRY(syl_program_describe(run->program[side], &info[side]));
        SYL_TRY(syl_session_create(run->instance, run->program[side], NULL, &run->session[side]));
        SYL_TRY(syl_session_observe(run->session[side], side ? compare : keep, run));
    }
    run->same_folds = info[0].folds && info[1].folds && strcmp(info[0].folds, info[1].folds) == 0;
    if (!info[0].vocabulary == !info[1].vocabulary) return SYL_OK;
    return syl_error(run->t->diag, SYL_ERR_lm_compare, SYL_NOWHERE,
                     "\"%s\" is a language model, \"%s\" is none", paths[info[0].vocabulary ? 0 : 1],
                     paths[info[0].vocabulary ? 1 : 0]);
}

syl_status diff_values(tool *t, const diff_settings *s, const char *const paths[2]) {
    diff_run run = {.t = t};
    SYL_TRY(tool_instance(t, &run.instance));
    syl_status status = open_both(&run, paths);
    if (status == SYL_OK)
        status = syl_session_limit(run.session[0]) > 0 ? run_language(&run, s) : run_function(&run, s);
    if (status == SYL_OK) status = diff_report(&run, paths);
    for (size_t i = 0; i < run.values.n; i++) free(run.values.p[i].kept);
    for (int side = 0; side < 2; side++) {
        syl_session_destroy(run.session[side]);
        syl_program_destroy(run.program[side]);
    }
    return status;
}
