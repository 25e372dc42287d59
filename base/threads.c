/* The pool. A loop is published in one atomic word, `state`: generation, an open bit, and the number of
 * workers inside.
 *
 * The caller writes the loop's description, then opens a new generation. A worker enters an open generation
 * by adding one to the count (a compare-and-swap, so never after closing), takes ranges from the shared
 * counter until none is left, and leaves by subtracting one. The caller takes ranges too, closes the
 * generation, and waits for the count to reach zero. So the description changes only while no worker reads
 * it, and a worker still asleep is never waited for.
 *
 * No wake-up is lost: the caller publishes `state` and then reads `sleepers`; a worker raises `sleepers` and
 * then reads `state`, all sequentially consistent, so at least one of them sees the other, and signalling
 * takes the lock. */
#include "base/threads.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { max_threads = 4096, count_mask = 0xffff, open_bit = 0x10000, generation_unit = 0x20000 };
static const int64_t spin_ns = 50000;

typedef struct worker {
    syl_pool *pool;
    pthread_t thread;
    int index;
} worker;

struct syl_pool {
    int n_threads;
    bool spin; /* off where threads outnumber cores: a spinning worker would take the caller's core */
    _Atomic uint64_t state;
    _Atomic int64_t next; /* the next range to hand out */
    _Atomic int sleepers;
    _Atomic bool stop;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    /* The loop: written only while no worker is inside. */
    int64_t n, grain, n_ranges;
    void (*fn)(void *user, int64_t begin, int64_t end, int thread);
    void *user;
    worker workers[];
};

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void run_ranges(syl_pool *pool, int thread) {
    for (;;) {
        int64_t i = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
        if (i >= pool->n_ranges) return;
        int64_t begin = i * pool->grain, left = pool->n - begin;
        pool->fn(pool->user, begin, begin + (left < pool->grain ? left : pool->grain), thread);
    }
}

/* True if a generation other than `last` is open, or the pool stops: then waiting is over. */
static bool has_news(syl_pool *pool, uint64_t last) {
    uint64_t state = atomic_load(&pool->state);
    return ((state & open_bit) && state / generation_unit != last) || atomic_load(&pool->stop);
}

static void wait_for_news(syl_pool *pool, uint64_t last) {
    if (pool->spin)
        for (int64_t until = now_ns() + spin_ns; now_ns() < until;)
            for (int i = 0; i < 32; i++) {
                if (has_news(pool, last)) return;
                relax();
            }
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->sleepers, 1);
    while (!has_news(pool, last)) pthread_cond_wait(&pool->wake, &pool->lock);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->lock);
}

static void *work(void *argument) {
    worker *self = argument;
    syl_pool *pool = self->pool;
    for (uint64_t last = 0;;) {
        wait_for_news(pool, last);
        if (atomic_load(&pool->stop)) return NULL;
        uint64_t state = atomic_load(&pool->state);
        while ((state & open_bit) && !atomic_compare_exchange_weak(&pool->state, &state, state + 1)) continue;
        if (!(state & open_bit)) continue; /* closed before we got in */
        last = state / generation_unit;
        run_ranges(pool, self->index);
        atomic_fetch_sub_explicit(&pool->state, 1, memory_order_release);
    }
}

syl_pool *syl_pool_create(int n_threads) {
    const int cores = syl_cpu_count();
    if (n_threads == 0) n_threads = cores;
    if (n_threads < 0 || n_threads > max_threads) return NULL;
    syl_pool *pool = calloc(1, sizeof *pool + (size_t)n_threads * sizeof(worker));
    if (!pool) return NULL;
    pool->spin = n_threads <= cores;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pool->n_threads = 1;
    for (int i = 1; i < n_threads; i++) {
        worker *w = &pool->workers[i];
        *w = (worker){.pool = pool, .index = i};
        if (pthread_create(&w->thread, NULL, work, w) != 0) {
            syl_pool_destroy(pool);
            return NULL;
        }
        pool->n_threads = i + 1; /* only the creator and destroy read it: workers don't */
    }
    return pool;
}

void syl_pool_destroy(syl_pool *pool) {
    if (!pool) return;
    atomic_store(&pool->stop, true);
    pthread_mutex_lock(&pool->lock);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 1; i < pool->n_threads; i++) pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

int syl_pool_threads(const syl_pool *pool) {
    return pool->n_threads;
}

void syl_pool_for(syl_pool *pool, int64_t n, int64_t grain, void (*fn)(void *, int64_t, int64_t, int),
                  void *user) {
    if (n <= 0) return;
    if (grain <= 0) grain = n / pool->n_threads + (n % pool->n_threads != 0);
    if (pool->n_threads == 1 || n <= grain) {
        for (int64_t begin = 0, size; begin < n; begin += size) {
            size = n - begin < grain ? n - begin : grain;
            fn(user, begin, begin + size, 0);
        }
        return;
    }
    pool->n = n;
    pool->grain = grain;
    pool->n_ranges = n / grain + (n % grain != 0);
    pool->fn = fn;
    pool->user = user;
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    /* The last generation is closed and empty: nobody else changes the word now. */
    uint64_t generation = atomic_load_explicit(&pool->state, memory_order_relaxed) / generation_unit + 1;
    atomic_store(&pool->state, generation * generation_unit | open_bit);
    if (atomic_load(&pool->sleepers)) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->lock);
    }
    run_ranges(pool, 0);
    atomic_fetch_and(&pool->state, ~(uint64_t)open_bit);
    for (int spins = 0; atomic_load_explicit(&pool->state, memory_order_acquire) & count_mask; spins++) {
        if (pool->spin && spins < 2000)
            relax();
        else
            sched_yield();
    }
}

int syl_cpu_count(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
    long n = sysconf(_SC_NPROCESSORS_ONLN); /* more cores than a cpu_set_t holds */
    return n > 0 ? (int)n : 1;
}
