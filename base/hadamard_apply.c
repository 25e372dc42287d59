/* Transforms by Kronecker products, one factor at a time, in f64 and f32 from one text. */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include "base/hadamard.h"

/* Every order that is not a power of two is 4m with m <= 64; its matrix is made at first use and kept. Matrix
 * m begins after those of smaller m: 16 (1^2 + ... + (m - 1)^2) bytes. The table is zero pages until touched.
 */
enum { max_m = SYL_HADAMARD_MAX_ORDER / 4, table_size = 16 * (max_m * (max_m + 1) * (2 * max_m + 1) / 6) };

static const int8_t *dense_matrix(int order) {
    static int8_t table[table_size];
    static atomic_bool made[max_m + 1];
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    const int m = order / 4;
    int8_t *h = table + 16 * ((m - 1) * m * (2 * m - 1) / 6);
    if (!atomic_load_explicit(&made[m], memory_order_acquire)) {
        pthread_mutex_lock(&lock);
        if (!atomic_load_explicit(&made[m], memory_order_relaxed)) {
            syl_hadamard_matrix(order, h);
            atomic_store_explicit(&made[m], true, memory_order_release);
        }
        pthread_mutex_unlock(&lock);
    }
    return h;
}

#define T       double
#define NAME(x) x##_f64
#include "base/hadamard_apply.inc"
#undef T
#undef NAME

#define T       float
#define NAME(x) x##_f32
#include "base/hadamard_apply.inc"
