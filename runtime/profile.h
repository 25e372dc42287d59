/* What steps cost at least, and what they took: bytes and operations of a step from its kernel, times from the backend. */
#ifndef SYL_RUNTIME_PROFILE_H
#define SYL_RUNTIME_PROFILE_H

#include "runtime/backend.h"

typedef struct syl_step_cost {
    double bytes; /* each input read once, each output written once; of the KV cache what is attended to */
    double
        operations; /* products and sums of GEMMs and attention; of row-wise kernels one an instruction and element */
} syl_step_cost;
syl_step_cost syl_step_cost_of(const syl_plan *plan, const syl_plan_step *step, const syl_run *run);

/* Bytes of weights that a run reads, whatever its tokens (rows of tables that are picked one by one count as one row), and of keys and
 * values for each position attended to. */
double syl_plan_weight_bytes(const syl_plan *plan);
double syl_plan_position_bytes(const syl_plan *plan);

/* Operations a second that a kernel's main loop may reach on a GPU of this capability; 0: not known. */
double syl_peak_operations(const kir_kernel *kernel, int capability, int multiprocessors, int clock_mhz);

/* Who is told of the steps of a run that was measured, in order. */
typedef struct syl_profile {
    void (*step)(void *user, const syl_plan_step *step, const kir_kernel *kernel, int64_t rows,
                 const syl_step_time *time, const syl_step_cost *cost);
    void *user;
} syl_profile;
void syl_profile_report(const syl_profile *profile, const syl_runner *runner, const syl_run *run);

#endif
