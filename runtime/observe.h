/* Looking at the values that pass between kernels while a model runs.
 *
 * A backend whose runner has an observer calls it behind each step; where its buffers are, only its `peek` knows. syl_points says
 * which steps make values that have a name in the graph, how to read them, and what they mean: codes are dequantized,
 * values that lie in tiles are put in rows, and rotations that the program applies at run time are undone, so that a value is told
 * in the basis it has in the graph wherever the final IR shows the way there. */
#ifndef SYL_RUNTIME_OBSERVE_H
#define SYL_RUNTIME_OBSERVE_H

#include "runtime/backend.h"

/* What a step has just written. */
typedef struct syl_step_view {
    syl_runner *runner;
    size_t step; /* of the plan */
    int64_t rows;
    syl_diag *
        diag; /* of the run: what fails while a value is read fails the run, whatever the observer makes of it */
    syl_status *status; /* the first that failed */
} syl_step_view;

/* For backends, behind a step with rows of a runner that has an observer. Fails where reading a value failed. */
SYL_NODISCARD syl_status syl_observe_step(syl_runner *runner, size_t step, int64_t rows, syl_diag *diag);

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
    bool tiled;       /* data is KIR_TILED; else rows without holes */
    int64_t cols;     /* elements of a row */
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

/* Rows [begin, end) of a point, inside the observer's call; out[(end - begin) * cols]. Errors: out-of-memory, those of the device. */
SYL_NODISCARD syl_status syl_point_read(const syl_point *point, const syl_step_view *view, int64_t begin,
                                        int64_t end, float *out);

#endif
