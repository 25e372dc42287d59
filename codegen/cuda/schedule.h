/* The launches of a plan over few rows: which steps go together (syl_cuda_fused), and where values lie then. Made once for a device and a number of rows;
 * the plan stays what it is.
 *
 * Steps that are launched together would read and write at the same time what the plan's slots keep apart in time, so the schedule gives values
 * places of its own, cells: a cell is written by a launch only if all that read its last value came before. */
#ifndef SYL_CODEGEN_CUDA_SCHEDULE_H
#define SYL_CODEGEN_CUDA_SCHEDULE_H

#include "codegen/cuda/cuda.h"

enum { SYL_CUDA_FEW = 8 }; /* rows */

typedef struct syl_cuda_step {
    int first, n; /* steps of the plan */
    int fused;    /* number in the schedule's list, or -1: a step by itself */
    syl_rows rows;
    const syl_plan_arg *args; /* of the launch's buffers; of a slot: `index` is a cell */
    int n_args;
} syl_cuda_step;

typedef struct syl_cuda_schedule {
    syl_arena arena;
    int64_t max_rows;
    SYL_VEC(syl_cuda_step) steps;
    SYL_VEC(syl_cuda_fused) fused; /* equal ones once */
    SYL_VEC(size_t) cells;         /* where each begins, bytes; a multiple of 1024 */
    size_t bytes;                  /* of all cells */
} syl_cuda_schedule;

/* The variant that kernel number `kernel` of the plan has by itself, for the schedule's rows; *measured: it was found by measuring, so that it is kept in
 * a launch with others where it can be. */
typedef syl_cuda_variant syl_cuda_pick(void *user, int kernel, bool *measured);

/* For runs of up to max_rows rows (at most SYL_CUDA_FEW) of every symbol. *out is NULL where nothing goes together. */
SYL_NODISCARD syl_status syl_cuda_schedule_create(const syl_plan *plan, const syl_cuda_target *target,
                                                  int64_t max_rows, syl_cuda_pick *pick, void *user,
                                                  syl_diag *diag, syl_cuda_schedule **out);
void syl_cuda_schedule_destroy(syl_cuda_schedule *schedule); /* NULL is fine */
/* One line a launch. */
void syl_cuda_schedule_print(const syl_cuda_schedule *schedule, const syl_plan *plan, syl_text *out);

#endif
