/* Weight-side expressions taken out of the graph. Private to materialize. */
#ifndef SYL_DRIVER_MATERIALIZE_PLAN_H
#define SYL_DRIVER_MATERIALIZE_PLAN_H

#include "base/map.h"
#include "driver/materialize.h"

/* One op of the weight side. It keeps pointers to its op for the attributes: erased ops live as long as their
 * module. */
typedef struct mat_node {
    const syl_op *op;
    int64_t rows, cols; /* a vector has one column */
    int axis;           /* of `rows` x `cols`: 0 or 1 */
    int64_t block;      /* hadamard: rows or columns a transform mixes */
    int n_inputs;
    struct mat_node **inputs;
} mat_node;

/* A cast or quantize of a real value: one stored tensor. */
typedef struct mat_root {
    const char *name;
    const syl_op *op;
    syl_dtype dtype;
    mat_node *node; /* its operand */
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
    SYL_VEC(mat_task) tasks;
    syl_map nodes; /* syl_op * -> mat_node * */
    syl_map names; /* names taken */
};

#endif
