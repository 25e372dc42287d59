/* A pool of threads for loops over independent tasks.
 *
 * One caller at a time. Workers spin for a short while between loops (a decode step is hundreds of short
 * loops), then sleep. */
#ifndef SYL_BASE_THREADS_H
#define SYL_BASE_THREADS_H

#include <stdint.h>

typedef struct syl_pool syl_pool;

/* n_threads counts the caller; 0 = one a core this process may run on. NULL if threads cannot be made. */
syl_pool *syl_pool_create(int n_threads);
void syl_pool_destroy(syl_pool *pool); /* NULL is fine */
int syl_pool_threads(const syl_pool *pool);

/* Calls fn(user, begin, end, thread) on disjoint ranges that cover [0, n), each at most `grain` long (0 = one
 * range a thread), from the caller (thread 0) and the workers; ranges are handed out dynamically in order.
 * Returns when all are done. With n <= grain or one thread the caller runs it alone, without waking anyone.
 */
void syl_pool_for(syl_pool *pool, int64_t n, int64_t grain,
                  void (*fn)(void *user, int64_t begin, int64_t end, int thread), void *user);

int syl_cpu_count(void); /* cores this process may run on, >= 1 */

#endif
