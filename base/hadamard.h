/* Hadamard matrices of every order up to 256 that the constructions of Sylvester and Paley (I and II) and
 * their Kronecker products give, and transforms with Kronecker products of them.
 *
 * Paley, "On orthogonal matrices", J. Math. Phys. 12 (1933): I: q+1 for prime powers q = 3 mod 4; II: 2(q+1)
 * for prime powers q = 1 mod 4. Prime powers use arithmetic in GF(p^k). */
#ifndef SYL_BASE_HADAMARD_H
#define SYL_BASE_HADAMARD_H

#include <stdbool.h>
#include <stdint.h>

enum { SYL_HADAMARD_MAX_ORDER = 256, SYL_HADAMARD_MAX_FACTORS = 8 };

/* True if order n (1 <= n <= 256) can be made by one of the constructions. */
bool syl_hadamard_exists(int n);
/* Writes the n x n matrix of +1 and -1, row major. Powers of two are Sylvester's: h[i][j] = (-1)^popcount(i &
 * j). */
bool syl_hadamard_matrix(int n, int8_t *h);

/* Factors n into Hadamard orders whose product is n: at most one power of two (last, as large as possible),
 * the others odd multiples of 4 chosen to minimise the work (sum of the dense orders plus 16 for each pass,
 * then fewest factors): 576 = {36, 16}, 1536 = {12, 128}, 14336 = {28, 512}, 29568 = {12, 28, 44, 2}. A power
 * of two may exceed 256. Returns the number of factors, or 0 where none exists. n = 1 gives {1}. */
int syl_hadamard_factor(int64_t n, int64_t factors[SYL_HADAMARD_MAX_FACTORS]);
/* The largest divisor d of n with a factorisation: the block size of a block-diagonal transform; >= 1. */
int64_t syl_hadamard_block(int64_t n);
/* True if every factor is a power of two or an existing order, and the product divides n; *out_block gets the
 * product. */
bool syl_hadamard_valid(int64_t n, const int64_t *factors, int n_factors, int64_t *out_block);

/* In place on x[n] with stride 1: each block of n / prod(factors) elements y = x H / sqrt(block), H the
 * Kronecker product of the factors in order (factor 0 slowest), or x H^T. `work` has n elements. The factors
 * must be valid for n. */
void syl_hadamard_apply_f64(double *x, int64_t n, const int64_t *factors, int n_factors, bool transpose,
                            double *work);
void syl_hadamard_apply_f32(float *x, int64_t n, const int64_t *factors, int n_factors, bool transpose,
                            float *work);

#endif
