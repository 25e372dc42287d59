/* Sampling and likelihoods.
 *
 * Invariant: tokens are ordered by (logit, descending; id, ascending), a total order, so every choice is
 * determined by logits and seed. Random numbers: SplitMix64 (Steele, Lea and Flood 2014), the upper 53 bits
 * as a number in [0, 1). */
#include "runtime/sample.h"
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

int64_t syl_argmax(const float *logits, int64_t n) {
    int64_t best = n ? 0 : -1;
    for (int64_t i = 0; i < n; i++) {
        if (isnan(logits[i])) return -1;
        if (logits[i] > logits[best]) best = i;
    }
    return best;
}

static float largest(const float *logits, int64_t n) {
    float max = logits[0];
    for (int64_t i = 1; i < n; i++)
        if (logits[i] > max) max = logits[i];
    return max;
}

double syl_log_sum_exp(const float *logits, int64_t n) {
    double max = (double)largest(logits, n), sum = 0;
    if (isinf(max)) max = 0;
    for (int64_t i = 0; i < n; i++) sum += exp((double)logits[i] - max);
    return max + log(sum);
}

double syl_nll(const float *logits, int64_t n, int64_t target) {
    return syl_log_sum_exp(logits, n) - (double)logits[target];
}

double syl_kl(const float *p, const float *q, int64_t n, double *lse_p, double *lse_q) {
    /* sum P (p - log_sum_exp(p) - q + log_sum_exp(q)), with P = exp(p - max) / sum. */
    double max = (double)largest(p, n), sum = 0, cross = 0;
    for (int64_t i = 0; i < n; i++) {
        double weight = exp((double)p[i] - max);
        sum += weight;
        if (weight != 0) cross += weight * ((double)p[i] - (double)q[i]);
    }
    *lse_p = max + log(sum);
    *lse_q = syl_log_sum_exp(q, n);
    return cross / sum - *lse_p + *lse_q;
}

typedef struct entry {
    float logit;
    int32_t id;
} entry;

struct syl_sampler {
    syl_sampling options;
    uint64_t state;
    int64_t n, n_taken;
    entry *heap;     /* [n - n_taken], the first of the order on top */
    double *weights; /* [n_taken] of the tokens taken off the heap, in order */
    int32_t *ids;    /* [n_taken] */
};

syl_status syl_sampling_check(const syl_sampling *o, int64_t n, syl_diag *diag) {
    if (!(o->temperature >= 0) || isinf(o->temperature))
        return syl_error(diag, SYL_ERR_sample_options, SYL_NOWHERE,
                         "the temperature is %g, expected a number from 0 on", o->temperature);
    if (o->top_k < 0)
        return syl_error(diag, SYL_ERR_sample_options, SYL_NOWHERE, "top-k is %lld, expected 0 (all) or more",
                         (long long)o->top_k);
    if (!(o->top_p > 0 && o->top_p <= 1))
        return syl_error(diag, SYL_ERR_sample_options, SYL_NOWHERE,
                         "top-p is %g, expected a number above 0, at most 1", o->top_p);
    if (n < 1 || n > INT32_MAX)
        return syl_error(diag, SYL_ERR_sample_options, SYL_NOWHERE, "cannot sample from %lld logits",
                         (long long)n);
    return SYL_OK;
}

syl_status syl_sampler_create(const syl_sampling *o, int64_t n, syl_diag *diag, syl_sampler **out) {
    *out = NULL;
    SYL_TRY(syl_sampling_check(o, n, diag));
    syl_sampler *s = calloc(1, sizeof *s);
    if (s) {
        s->options = *o;
        s->state = o->seed;
        s->n = n;
        s->heap = calloc((size_t)n, sizeof *s->heap);
        s->weights = calloc((size_t)n, sizeof *s->weights);
        s->ids = calloc((size_t)n, sizeof *s->ids);
        if (s->heap && s->weights && s->ids) {
            *out = s;
            return SYL_OK;
        }
    }
    syl_sampler_destroy(s);
    return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory to sample from %lld logits",
                     (long long)n);
}

void syl_sampler_destroy(syl_sampler *s) {
    if (!s) return;
    free(s->heap);
    free(s->weights);
    free(s->ids);
    free(s);
}

static double next_uniform(syl_sampler *s) {
    uint64_t z = s->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

static bool before(entry a, entry b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

static void sift_down(entry *heap, int64_t n, int64_t at) {
    entry moved = heap[at];
    for (int64_t down; (down = 2 * at + 1) < n; at = down) {
        if (down + 1 < n && before(heap[down + 1], heap[down])) down++;
        if (!before(heap[down], moved)) break;
        heap[at] = heap[down];
    }
    heap[at] = moved;
}

/* The weight of the i-th token of the order; the heap gives up only as many as are asked for: of a peaked
 * distribution a few. */
static double weight_at(syl_sampler *s, int64_t i, double max) {
    for (; s->n_taken <= i; s->n_taken++) {
        entry top = s->heap[0];
        int64_t left = s->n - s->n_taken - 1;
        s->heap[0] = s->heap[left];
        sift_down(s->heap, left, 0);
        s->ids[s->n_taken] = top.id;
        s->weights[s->n_taken] = exp(((double)top.logit - max) / s->options.temperature);
    }
    return s->weights[i];
}

static int32_t draw(syl_sampler *s, const float *logits, double max) {
    const syl_sampling *o = &s->options;
    for (int64_t i = 0; i < s->n; i++) s->heap[i] = (entry){logits[i], (int32_t)i};
    for (int64_t i = s->n / 2; i-- > 0;) sift_down(s->heap, s->n, i);
    s->n_taken = 0;

    int64_t kept = s->n, last = 0;
    double total = 0, sum = 0;
    if (o->top_k && o->top_k < s->n) {
        kept = o->top_k;
        for (int64_t i = 0; i < kept; i++) total += weight_at(s, i, max);
    } else {
        for (int64_t i = 0; i < s->n; i++) total += exp(((double)logits[i] - max) / o->temperature);
    }
    if (o->top_p < 1) {
        int64_t n = 0;
        while (n < kept && sum < o->top_p * total) sum += weight_at(s, n++, max);
        kept = n;
        total = sum;
    }
    double target = next_uniform(s) * total;
    sum = 0;
    for (int64_t i = 0; i < kept; i++) {
        double weight = weight_at(s, i, max);
        if (weight > 0) last = i; /* rounding may leave the sum below the target at the end */
        sum += weight;
        if (sum > target) break;
    }
    return s->ids[last];
}

syl_status syl_sampler_next(syl_sampler *s, const float *logits, syl_diag *diag, int32_t *out) {
    int64_t best = 0;
    for (int64_t i = 0; i < s->n; i++) {
        if (isnan(logits[i]) || logits[i] == INFINITY)
            return syl_error(diag, SYL_ERR_sample_logits, SYL_NOWHERE,
                             "the logit of token %lld is %g, expected a number", (long long)i,
                             (double)logits[i]);
        if (logits[i] > logits[best]) best = i;
    }
    if (isinf(logits[best]))
        return syl_error(diag, SYL_ERR_sample_logits, SYL_NOWHERE,
                         "every token is excluded: all logits are -inf");
    *out = s->options.temperature > 0 ? draw(s, logits, (double)logits[best]) : (int32_t)best;
    return SYL_OK;
}
