/* Constructions of Hadamard matrices. For each order one construction is used, the first of: Sylvester, Paley
 * I, Paley II, Kronecker product with the smallest possible left factor. So a given order means the same
 * matrix everywhere, always. */
#include "base/hadamard.h"

enum { max_q = SYL_HADAMARD_MAX_ORDER };

static bool is_power_of_two(int64_t n) {
    return n > 0 && (n & (n - 1)) == 0;
}

/* If q = p^k for a prime p and k >= 1: true, and p, k. */
static bool prime_power(int q, int *out_p, int *out_k) {
    if (q < 2) return false;
    int p = 2, k = 0;
    while (q % p) p++;
    for (; q % p == 0; q /= p) k++;
    *out_p = p;
    *out_k = k;
    return q == 1;
}

static bool is_paley_field(int q, int residue) {
    int p, k;
    return q % 4 == residue && prime_power(q, &p, &k);
}
static bool is_paley_1(int n) {
    return is_paley_field(n - 1, 3);
}
static bool is_paley_2(int n) {
    return n % 2 == 0 && is_paley_field(n / 2 - 1, 1);
}

/* The smallest a > 1 so that orders a and n / a both exist; 0 if there is none. */
static int kronecker_left(int n) {
    for (int a = 2; a * a <= n; a++)
        if (n % a == 0 && syl_hadamard_exists(a) && syl_hadamard_exists(n / a)) return a;
    return 0;
}

bool syl_hadamard_exists(int n) {
    if (n < 1 || n > SYL_HADAMARD_MAX_ORDER) return false;
    return is_power_of_two(n) || is_paley_1(n) || is_paley_2(n) || kronecker_left(n) != 0;
}

/* Elements of GF(p^k) are polynomials over GF(p) of degree below k, written as numbers in base p. */
static int field_subtract(int a, int b, int p) {
    int difference = 0;
    for (int place = 1; a || b; place *= p, a /= p, b /= p) difference += (a % p - b % p + p) % p * place;
    return difference;
}

/* a * x modulo the polynomial x^k + low, of which `low` holds the lower coefficients. */
static int field_times_x(int a, int low, int p, int q) {
    const int top = a / (q / p);
    int product = a % (q / p) * p;
    for (int i = 0; i < top; i++) product = field_subtract(product, low, p);
    return product;
}

/* The quadratic character of GF(q), q an odd prime power: 0 at zero, 1 at squares, -1 elsewhere. If x has
 * order q - 1 modulo a polynomial, every non-zero residue is a power of x, so the residues are a field, and
 * the squares are the even powers. Such (primitive) polynomials exist for every p and k; the first is taken.
 */
static void quadratic_character(int q, int8_t character[max_q]) {
    int p, k;
    prime_power(q, &p, &k);
    for (int low = 1; low < q; low++) {
        int order = 1;
        for (int power = field_times_x(1, low, p, q); power > 1 && order < q; order++)
            power = field_times_x(power, low, p, q);
        if (order == q - 1) {
            int power = 1;
            character[0] = 0;
            for (int i = 0; i < q - 1; i++, power = field_times_x(power, low, p, q))
                character[power] = i % 2 ? -1 : 1;
            return;
        }
    }
}

/* Entry (i, j) of the matrix [0 1; s Q] of order q + 1, Q[a][b] = character(a - b): skew for q = 3 mod 4 (s =
 * -1), a symmetric conference matrix for q = 1 mod 4 (s = 1). */
static int paley_core(int i, int j, int p, int s, const int8_t *character) {
    if (i == 0) return j != 0;
    if (j == 0) return s;
    return character[field_subtract(i - 1, j - 1, p)];
}

static void paley_1(int n, int8_t *h) {
    int8_t character[max_q];
    int p, k;
    prime_power(n - 1, &p, &k);
    quadratic_character(n - 1, character);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) h[i * n + j] = (int8_t)(i == j ? 1 : paley_core(i, j, p, -1, character));
}

/* C (x) [1 1; 1 -1] + I (x) [1 -1; -1 -1] with the conference matrix C of order n / 2. */
static void paley_2(int n, int8_t *h) {
    static const int8_t off_diagonal[2][2] = {{1, 1}, {1, -1}}, diagonal[2][2] = {{1, -1}, {-1, -1}};
    int8_t character[max_q];
    int p, k;
    prime_power(n / 2 - 1, &p, &k);
    quadratic_character(n / 2 - 1, character);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            h[i * n + j] =
                i / 2 == j / 2
                    ? diagonal[i % 2][j % 2]
                    : (int8_t)(paley_core(i / 2, j / 2, p, 1, character) * off_diagonal[i % 2][j % 2]);
}

bool syl_hadamard_matrix(int n, int8_t *h) {
    if (!syl_hadamard_exists(n)) return false;
    if (is_power_of_two(n)) {
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++) h[i * n + j] = __builtin_popcount((unsigned)(i & j)) % 2 ? -1 : 1;
    } else if (is_paley_1(n)) {
        paley_1(n, h);
    } else if (is_paley_2(n)) {
        paley_2(n, h);
    } else {
        int8_t left[SYL_HADAMARD_MAX_ORDER], right[SYL_HADAMARD_MAX_ORDER / 2 * SYL_HADAMARD_MAX_ORDER / 2];
        const int a = kronecker_left(n), b = n / a; /* a * a <= n, so `left` holds a x a */
        if (!syl_hadamard_matrix(a, left) || !syl_hadamard_matrix(b, right)) return false;
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++)
                h[i * n + j] = (int8_t)(left[i / b * a + j / b] * right[i % b * b + j % b]);
    }
    return true;
}
