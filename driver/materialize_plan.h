/* Weight-side expressions taken out of the graph. Private to materialize. */
#ifndef SYL_DRIVER_MATERIALIZE_PLAN_H
#define SYL_DRIVER_MATERIALIZE_PLAN_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/map.h"
#include "driver/materialize.h"

/* U and D of a low_rank_split: found by who needs them first, for all roots made of its results. */
typedef struct mat_factors {
    pthread_mutex_t lock;
    double *u, *d; /* NULL: not found yet */
} mat_factors;

/* One value of the weight side. It keeps pointers to its op for the attributes: erased ops live as long as their
 * module. */
typedef struct mat_node {
    const syl_op *op;
    int result;         /* which of the op's */
    int64_t rows, cols; /* a vector has one column */
    int axis;           /* of `rows` x `cols`: 0 or 1 */
    int64_t block;      /* hadamard: rows or columns a transform mixes */
    int n_inputs;
    struct mat_node **inputs;
    mat_factors *factors; /* low_rank_split */
    syl_hash content;     /* weight: of the stored tensor, once it is known */
} mat_node;

/* A cast or quantize of a real value: one stored tensor of one or more parts. */
typedef struct mat_root {
    const char *name;
    const syl_op *op;
    syl_dtype dtype;
    mat_node *node; /* its operand */
    syl_store_shape shape;
    /* while it is made */
    syl_hash key;
    bool have_key, done, opened;
    pthread_mutex_t lock; /* opened */
    syl_store_entry *entry;
    atomic_int tasks_left;
} mat_root;

typedef struct mat_task {
    size_t root;
    int64_t begin, end; /* rows */
} mat_task;

struct syl_materializer {
    syl_arena arena;
    syl_diag *diag;
    syl_weights **sources; /* [n_sources] */
    size_t n_sources;
    SYL_VEC(mat_root) roots;
    SYL_VEC(mat_task) tasks; /* of the wave */
    syl_map nodes;           /* syl_value * -> mat_node * */
    syl_map names;           /* names taken */
    syl_map factors;         /* syl_op * -> mat_factors * */
    syl_store *store;        /* NULL: nothing is kept */
    int64_t memory;          /* for the work in flight; 0: the default */
    syl_materialize_stats stats;
};

typedef struct run_state {
    syl_materializer *m;
    syl_materialize_sink sink; /* files the bytes, then hands them on */
    void *sink_user;
    syl_map roots; /* name -> mat_root * */
    syl_materialize_sink out;
    void *out_user;
    syl_materialize_progress progress;
    void *progress_user;
    pthread_mutex_t lock; /* progress, memory, statistics */
    pthread_cond_t freed;
    int64_t done, total; /* elements */
    int64_t in_use, budget;
    size_t wave_begin, wave_end;
    atomic_int status; /* of the first failure */
} run_state;

/* Evaluates and stores rows of a root (materialize.c). */
syl_status mat_run_task(run_state *run, const mat_task *task);
/* Finds the factors of a low_rank_split, if they are not there yet. */
syl_status mat_find_factors(run_state *run, const mat_node *node);
/* Rows that a root's tasks have; a multiple of what its expression mixes. */
int64_t mat_task_rows(const mat_root *root);
/* Bytes of memory that evaluating and rounding `rows` rows of a root takes at its worst. */
int64_t mat_task_bytes(const mat_root *root, int64_t rows);

#endif
