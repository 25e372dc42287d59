/* The pool: every element exactly once, whatever the sizes and the number of threads. */
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>
#include "base/threads.h"
#include "base_testing.h"

enum { max_n = 1000 };

typedef struct loop {
    int64_t grain;
    int threads;
    _Atomic int seen[max_n];
    _Atomic int bad;
    int64_t plain[max_n]; /* not atomic: a race detector watches who writes */
} loop;

static void visit(void *user, int64_t begin, int64_t end, int thread) {
    loop *l = user;
    if (begin < 0 || begin >= end || end - begin > l->grain || thread < 0 || thread >= l->threads)
        atomic_fetch_add(&l->bad, 1);
    for (int64_t i = begin; i < end; i++) {
        atomic_fetch_add(&l->seen[i], 1);
        l->plain[i] += i + 1;
    }
}

static void test_coverage(void **state) {
    (void)state;
    static const int64_t sizes[] = {0, 1, 2, 3, 7, 64, 999, 1000}, grains[] = {0, 1, 2, 3, 64, 1000, 5000};
    for (int threads = 1; threads <= 5; threads++) {
        syl_pool *pool = syl_pool_create(threads);
        assert_non_null(pool);
        assert_int_equal(syl_pool_threads(pool), threads);
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (size_t g = 0; g < sizeof grains / sizeof *grains; g++) {
                static loop l;
                memset(&l, 0, sizeof l);
                l.threads = threads;
                l.grain = grains[g] ? grains[g] : (sizes[s] + threads - 1) / threads;
                syl_pool_for(pool, sizes[s], grains[g], visit, &l);
                assert_int_equal(l.bad, 0);
                for (int64_t i = 0; i < max_n; i++) {
                    assert_int_equal(l.seen[i], i < sizes[s]);
                    assert_int_equal(l.plain[i], i < sizes[s] ? i + 1 : 0);
                }
            }
        syl_pool_destroy(pool);
    }
}

static void count(void *user, int64_t begin, int64_t end, int thread) {
    (void)thread;
    int64_t *totals = user;
    for (int64_t i = begin; i < end; i++) totals[i]++;
}

/* Many short loops, some after pauses long enough for the workers to fall asleep. */
static void test_stress(void **state) {
    (void)state;
    syl_pool *pool = syl_pool_create(3);
    assert_non_null(pool);
    int64_t totals[8] = {0};
    for (int i = 0; i < 100000; i++) {
        syl_pool_for(pool, 8, 1, count, totals);
        if (i % 2000 == 0) nanosleep(&(struct timespec){0, 300000}, NULL);
    }
    for (int i = 0; i < 8; i++) assert_int_equal(totals[i], 100000);
    syl_pool_destroy(pool);
}

/* Two ranges that each wait for the other: only workers that really run get them done, also out of their
 * sleep. */
static void meet(void *user, int64_t begin, int64_t end, int thread) {
    (void)begin, (void)end, (void)thread;
    _Atomic int *arrived = user;
    atomic_fetch_add(arrived, 1);
    while (atomic_load(arrived) < 2) sched_yield();
}

static void test_wakes(void **state) {
    (void)state;
    syl_pool *pool = syl_pool_create(2);
    assert_non_null(pool);
    for (int i = 0; i < 100; i++) {
        _Atomic int arrived = 0;
        if (i % 2) nanosleep(&(struct timespec){0, 1000000}, NULL);
        syl_pool_for(pool, 2, 1, meet, &arrived);
        assert_int_equal(arrived, 2);
    }
    syl_pool_destroy(pool);
}

static void test_create(void **state) {
    (void)state;
    assert_true(syl_cpu_count() >= 1);
    syl_pool *pool = syl_pool_create(0);
    assert_non_null(pool);
    assert_int_equal(syl_pool_threads(pool), syl_cpu_count());
    syl_pool_destroy(pool);
    assert_null(syl_pool_create(-1));
    assert_null(syl_pool_create(1 << 20));
    syl_pool_destroy(NULL);
    for (int i = 0; i < 50; i++)
        syl_pool_destroy(syl_pool_create(4)); /* destroyed before the workers settle */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_coverage),
        cmocka_unit_test(test_stress),
        cmocka_unit_test(test_wakes),
        cmocka_unit_test(test_create),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
