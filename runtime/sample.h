/* From logits to tokens and to probabilities. Logits are f32 rows, one value a token; probabilities are
 * computed in float64, sums in order of rising index, so that the same logits always give the same number. */
#ifndef SYL_RUNTIME_SAMPLE_H
#define SYL_RUNTIME_SAMPLE_H

#include <stdint.h>
#include "base/diag.h"

/* Index of the largest value, the lowest of equal ones; -1 if n is 0 or a value is NaN. */
int64_t syl_argmax(const float *logits, int64_t n);
/* log(sum(exp(logits))), n >= 1; NaN if a value is NaN. */
double syl_log_sum_exp(const float *logits, int64_t n);
/* Negative log-likelihood of a token, in nats: log_sum_exp - logits[target], 0 <= target < n. */
double syl_nll(const float *logits, int64_t n, int64_t target);
/* Kullback-Leibler divergence KL(P || Q) in nats, P = softmax(p), Q = softmax(q). Infinite where Q has no
 * chance of what P has. Also gives the log_sum_exp of both, which costs nothing more. */
double syl_kl(const float *p, const float *q, int64_t n, double *lse_p, double *lse_q);

/* How the next token is drawn. The logits are divided by the temperature, then only the top_k likeliest
 * tokens are kept, then of these the fewest whose probabilities sum to top_p (Holtzman et al. 2020) or more,
 * the likeliest first. Equal logits count in order of their ids. */
typedef struct syl_sampling {
    double temperature; /* 0: always the likeliest token (greedy), the lowest id of equal ones */
    int64_t top_k;      /* 0: all */
    double top_p;       /* in (0, 1]; 1: all */
    uint64_t seed;
} syl_sampling;

/* Error: sample-options. */
SYL_NODISCARD syl_status syl_sampling_check(const syl_sampling *options, int64_t n, syl_diag *diag);

typedef struct syl_sampler syl_sampler;
/* For rows of `n` logits. Errors: sample-options, out-of-memory. */
SYL_NODISCARD syl_status syl_sampler_create(const syl_sampling *options, int64_t n, syl_diag *diag,
                                            syl_sampler **out);
void syl_sampler_destroy(syl_sampler *sampler); /* NULL is fine */
/* Draws a token. Minus infinity excludes a token; NaN, plus infinity, or nothing left is the error
 * sample-logits. A draw uses up one random number, greedy choice none. */
SYL_NODISCARD syl_status syl_sampler_next(syl_sampler *sampler, const float *logits, syl_diag *diag,
                                          int32_t *out);

#endif
