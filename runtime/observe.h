/* Looking at the values that pass between kernels while a model runs.
 *
 * An executor with an observer calls it behind each step; where its buffers are, only `copy` knows. syl_points says
 * which steps make values that have a name in the graph, how to read them, and what they mean: codes are dequantized,
 * and rotations that the program applies at run time are undone, so that a value is told in the basis it has in the
 * graph wherever the final IR shows the way there. */
#ifndef SYL_RUNTIME_OBSERVE_H
#define SYL_RUNTIME_OBSERVE_H

#include "codegen/plan.h"

/* What a step has just written. */
typedef struct syl_step_view {
    size_t step; /* of the plan */
    int64_t rows;
    /* Copies bytes [offset, offset + size) of the buffer of argument `arg` to host memory. */
    void (*copy)(const struct syl_step_view *view, int arg, size_t offset, size_t size, void *out);
    const void *executor; /* for copy */
} syl_step_view;

/* Is called behind every step that has rows, by the thread that runs the steps. */
typedef struct syl_observer {
    void (*step)(void *user, const syl_step_view *view);
    void *user;
} syl_observer;

/* How a value of the program compares to the one of that name in the graph. */
typedef enum syl_meaning {
    SYL_MEANING_SAME,
    SYL_MEANING_ROTATED, /* up to an orthogonal transform that may be folded into weights: norms of rows are the same */
    SYL_MEANING_SCALED, /* a gain may be folded into its readers besides */
} syl_meaning;

/* A Hadamard transform or signs along a row, as the ops of these names; of a Hadamard `transpose`, of signs nothing, makes
 * the inverse. */
typedef struct syl_turn_op {
    bool hadamard, transpose;
    const int64_t *factors;
    int n_factors;
    int64_t seed, period;
} syl_turn_op;
typedef SYL_VEC(syl_turn_op) syl_turn_list;

/* A named result of a step. */
typedef struct syl_point {
    size_t step;
    int data, scale;  /* arguments of the step; scale -1: none */
    int64_t cols;     /* elements of a row, without holes */
    const char *name; /* in the graph */
    syl_dtype dtype;  /* as it is passed on */
    syl_meaning meaning;
    syl_turn_list undo; /* applied to a row, in order */
} syl_point;

typedef struct syl_points {
    const syl_plan *plan;
    SYL_VEC(syl_point) list; /* by rising step */
} syl_points;

/* In the arena; names are the module's. */
void syl_points_find(const syl_plan *plan, syl_arena *arena, syl_points *out);

/* Rows [begin, end) of a point, inside the observer's call; out[(end - begin) * cols]. False when out of memory. */
SYL_NODISCARD bool syl_point_read(const syl_point *point, const syl_step_view *view, int64_t begin,
                                  int64_t end, float *out);

#endif
