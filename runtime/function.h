/* @forward of an engine as a function of tensors: any signature of float and i32 tensors without a KV cache.
 *
 * Symbols ("T") get their sizes from the shapes of the inputs, which must agree. Before the first step every element that
 * picks a row (of a table, or of another tensor) is checked against the number of rows. A function is used by one thread at a
 * time; several may share an engine. */
#ifndef SYL_RUNTIME_FUNCTION_H
#define SYL_RUNTIME_FUNCTION_H

#include "runtime/profile.h"

typedef struct syl_function syl_function;

/* A tensor of the caller's, row major; dtype f32 or i32. */
typedef struct syl_array {
    syl_dtype dtype;
    int rank;
    int64_t dims[SYL_MAX_RANK];
    const void *data;
    bool on_device; /* data is an address in the device's memory */
} syl_array;

/* engine and pool are borrowed. Error: exec-signature where @forward is no such function. */
SYL_NODISCARD syl_status syl_function_create(const syl_engine *engine, syl_pool *pool, syl_diag *diag,
                                             syl_function **out);
void syl_function_destroy(syl_function *function); /* NULL is fine */

int syl_function_inputs(const syl_function *function);
int syl_function_outputs(const syl_function *function);
/* The names of the graph, as long as the engine; "" where it gave none. */
const char *syl_function_input_name(const syl_function *function, int i);
const char *syl_function_output_name(const syl_function *function, int i);
const syl_type *syl_function_input_type(const syl_function *function, int i);
const syl_type *syl_function_output_type(const syl_function *function, int i);

/* Runs on inputs[i] for argument i; the data is copied, and the results are in the host's memory behind it. Errors: exec-input (shape,
 * type), exec-range, out-of-memory, those of the device. */
SYL_NODISCARD syl_status syl_function_run(syl_function *function, const syl_array *inputs, syl_diag *diag);
/* Callers on the device: backend.h. Where results stay there, a run may be under way when syl_function_run returns, and
 * syl_function_output gives addresses. Error where the engine runs on the host: device-host. */
SYL_NODISCARD syl_status syl_function_stream(syl_function *function, void *stream, syl_diag *diag);
SYL_NODISCARD syl_status syl_function_stay(syl_function *function, bool on_device, syl_diag *diag);
SYL_NODISCARD syl_status syl_function_wait(syl_function *function, syl_diag *diag);
/* As of contexts (exec.h). */
void syl_function_profile(syl_function *function, const syl_profile *profile, syl_step_time *times);
SYL_NODISCARD syl_status syl_function_copy_rate(syl_function *function, syl_diag *diag, double *out);
/* From the next run on, behind each step; NULL: no longer. */
void syl_function_observe(syl_function *function, const syl_observer *observer);
/* Result i of the last run; its data is valid until the next, and NULL before the first. */
syl_array syl_function_output(const syl_function *function, int i);

#endif
