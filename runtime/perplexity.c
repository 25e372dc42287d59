/* Perplexity and divergence over a text (lm.h). Logits are made CHUNK tokens at a time and scored in parallel
 * by row; sums run in order of position, so the number of threads changes no bit. */
#include <math.h>
#include <time.h>

#include "runtime/lm.h"

enum { CHUNK = 128 };

typedef struct row_score {
    double nll, against_nll, kl, same_top;
} row_score;

typedef struct score_job {
    syl_lm *lm, *against;
    const int32_t *targets; /* token behind row r */
    row_score scores[CHUNK];
} score_job;

static void score_rows(void *user, int64_t begin, int64_t end, int thread) {
    (void)thread;
    score_job *job = user;
    int64_t vocab = syl_context_vocab(job->lm->context);
    for (int64_t r = begin; r < end; r++) {
        const float *logits = syl_context_logits(job->lm->context, r);
        row_score *score = &job->scores[r];
        if (!job->against) {
            score->nll = syl_nll(logits, vocab, job->targets[r]);
            continue;
        }
        const float *reference = syl_context_logits(job->against->context, r);
        double reference_lse, lse;
        score->kl = syl_kl(reference, logits, vocab, &reference_lse, &lse);
        score->nll = lse - (double)logits[job->targets[r]];
        score->against_nll = reference_lse - (double)reference[job->targets[r]];
        score->same_top = syl_argmax(reference, vocab) == syl_argmax(logits, vocab) ? 1 : 0;
    }
}

/* Runs tokens [begin, begin + count) of a window and scores the tokens behind them. */
static syl_status score_chunk(const int32_t *window, int64_t begin, int64_t count, int64_t size,
                              score_job *job, syl_diag *diag, row_score *sum) {
    int32_t rows[CHUNK];
    int64_t first = begin < SYL_PPL_SKIPPED - 1 ? SYL_PPL_SKIPPED - 1 - begin : 0;
    int64_t last = begin + count < size ? count : size - 1 - begin, n = last > first ? last - first : 0;
    for (int64_t r = 0; r < n; r++) rows[r] = (int32_t)(first + r);
    syl_batch batch = {.n_tokens = count, .ids = window + begin, .n_rows = n, .rows = rows};
    SYL_TRY(syl_context_run(job->lm->context, &batch, diag));
    if (job->against) SYL_TRY(syl_context_run(job->against->context, &batch, diag));
    SYL_TRY(syl_context_fetch(job->lm->context, diag));
    if (job->against) SYL_TRY(syl_context_fetch(job->against->context, diag));
    job->targets = window + begin + first + 1;
    syl_pool_for(job->lm->pool, n, 4, score_rows, job);
    for (int64_t r = 0; r < n; r++) {
        sum->nll += job->scores[r].nll;
        sum->against_nll += job->scores[r].against_nll;
        sum->kl += job->scores[r].kl;
        sum->same_top += job->scores[r].same_top;
    }
    return SYL_OK;
}

static syl_status check_input(syl_lm *lm, const int32_t *ids, int64_t n,
                              const syl_perplexity_options *options, syl_diag *diag) {
    int64_t vocab = syl_context_vocab(lm->context);
    if (options->window <= SYL_PPL_SKIPPED) {
        return syl_error(diag, SYL_ERR_lm_text, SYL_NOWHERE,
                         "a window of %lld tokens leaves nothing to score", (long long)options->window);
    }
    if (n < options->window) {
        return syl_error(diag, SYL_ERR_lm_text, SYL_NOWHERE, "the text has %lld tokens, a window takes %lld",
                         (long long)n, (long long)options->window);
    }
    if (options->against && syl_context_vocab(options->against->context) != vocab) {
        return syl_error(diag, SYL_ERR_lm_compare, SYL_NOWHERE,
                         "the models have vocabularies of %lld and %lld tokens", (long long)vocab,
                         (long long)syl_context_vocab(options->against->context));
    }
    for (int64_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= vocab) {
            return syl_error(diag, SYL_ERR_exec_range, SYL_NOWHERE,
                             "token %lld is %d, the vocabulary has %lld", (long long)i, ids[i],
                             (long long)vocab);
        }
    }
    return SYL_OK;
}

syl_status syl_lm_perplexity(syl_lm *lm, const int32_t *ids, int64_t n, const syl_perplexity_options *options,
                             syl_diag *diag, syl_perplexity *out) {
    *out = (syl_perplexity){0};
    SYL_TRY(check_input(lm, ids, n, options, diag));
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    int64_t size = options->window, scored = size - SYL_PPL_SKIPPED, windows = n / size;
    if (options->max_windows && windows > options->max_windows) windows = options->max_windows;
    score_job job = {.lm = lm, .against = options->against};
    row_score sum = {0};
    for (int64_t w = 0; w < windows; w++) {
        syl_context_truncate(lm->context, 0, 0);
        if (options->against) syl_context_truncate(options->against->context, 0, 0);
        for (int64_t done = 0; done < size;) {
            int64_t count = size - done < CHUNK ? size - done : CHUNK;
            SYL_TRY(score_chunk(ids + w * size, done, count, size, &job, diag, &sum));
            done += count;
            double positions = (double)(w * scored + done - SYL_PPL_SKIPPED);
            if (options->progress && positions > 0) {
                options->progress(options->user, (double)(w * size + done), (double)(windows * size),
                                  sum.nll / positions);
            }
        }
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    double tokens = (double)(windows * scored);
    *out = (syl_perplexity){.windows = windows, .tokens = windows * scored, .nll = sum.nll / tokens};
    out->ppl = exp(out->nll);
    out->against_nll = sum.against_nll / tokens;
    out->against_ppl = exp(out->against_nll);
    out->kl = sum.kl / tokens;
    out->same_top = sum.same_top / tokens;
    out->seconds = (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec);
    return SYL_OK;
}
