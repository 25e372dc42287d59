/* Which Kronecker factors a dimension gets.
 *
 * Dense factors are odd multiples of 4 (an order 8 * odd never helps: up to 256, whenever it exists, so does
 * 4 * odd, and the butterfly does the rest cheaper). The work of a dense factor is counted as its order, for
 * the sums, plus pass_cost for going over the data once more; without the latter 576 would be 12 * 12 * 4
 * rather than 36 * 16. A power of two behind dense factors that is shorter than a vector (16) costs short_cost, since
 * the dense sums then run over scattered elements: 960 is 60 * 16, not 12 * 20 * 4. */
#include "base/hadamard.h"
#include <string.h>

enum { pass_cost = 16, short_cost = 32, vector = 16, first_dense = 12, dense_step = 8 };

typedef struct search {
    int64_t chosen[SYL_HADAMARD_MAX_FACTORS], best[SYL_HADAMARD_MAX_FACTORS];
    int n_best;
    int64_t best_work;
} search;

static bool is_power_of_two(int64_t n) {
    return n > 0 && (n & (n - 1)) == 0;
}

/* All ascending sequences of dense factors, from `least` on, of which a power of two remains. Ascending order
 * and keeping the first of equals make the result unique. */
static void search_from(search *s, int64_t rest, int least, int n, int64_t work) {
    if (work > s->best_work) return;
    if (is_power_of_two(rest)) {
        if (n > 0 && rest < vector) work += short_cost;
        const int total = n + (rest > 1 || n == 0);
        if (total <= SYL_HADAMARD_MAX_FACTORS &&
            (work < s->best_work || (work == s->best_work && total < s->n_best))) {
            memcpy(s->best, s->chosen, sizeof s->best);
            if (total > n) s->best[n] = rest;
            s->n_best = total;
            s->best_work = work;
        }
        return;
    }
    if (n == SYL_HADAMARD_MAX_FACTORS) return;
    for (int order = least; order <= SYL_HADAMARD_MAX_ORDER; order += dense_step)
        if (rest % order == 0 && syl_hadamard_exists(order)) {
            s->chosen[n] = order;
            search_from(s, rest / order, order, n + 1, work + order + pass_cost);
        }
}

int syl_hadamard_factor(int64_t n, int64_t factors[SYL_HADAMARD_MAX_FACTORS]) {
    if (n < 1) return 0;
    search s = {.best_work = INT64_MAX, .n_best = SYL_HADAMARD_MAX_FACTORS + 1};
    search_from(&s, n, first_dense, 0, 0);
    if (s.best_work == INT64_MAX) return 0;
    memcpy(factors, s.best, (size_t)s.n_best * sizeof *factors);
    return s.n_best;
}

/* The largest product of odd parts of dense factors that fit into `rest`; the powers of two are used up
 * anyway. */
static int64_t largest_odd_part(int64_t rest, int least, int n) {
    int64_t largest = 1;
    if (n == SYL_HADAMARD_MAX_FACTORS - 1) return largest;
    for (int order = least; order <= SYL_HADAMARD_MAX_ORDER; order += dense_step)
        if (rest % order == 0 && syl_hadamard_exists(order)) {
            int64_t odd = order / 4 * largest_odd_part(rest / order, order, n + 1);
            if (odd > largest) largest = odd;
        }
    return largest;
}

int64_t syl_hadamard_block(int64_t n) {
    return n < 1 ? 1 : (n & -n) * largest_odd_part(n, first_dense, 0);
}

bool syl_hadamard_valid(int64_t n, const int64_t *factors, int n_factors, int64_t *out_block) {
    if (n < 1 || n_factors < 1 || n_factors > SYL_HADAMARD_MAX_FACTORS) return false;
    int64_t block = 1;
    for (int i = 0; i < n_factors; i++) {
        const int64_t factor = factors[i];
        if (!is_power_of_two(factor) &&
            !(factor <= SYL_HADAMARD_MAX_ORDER && syl_hadamard_exists((int)factor)))
            return false;
        if (__builtin_mul_overflow(block, factor, &block)) return false;
    }
    if (n % block != 0) return false;
    *out_block = block;
    return true;
}
