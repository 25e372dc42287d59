/* The reference ops in float: what the compiled code computes, up to the order of sums. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/hadamard.h"
#include "base/numeric.h"
#include "ir/ref/ops.h"

#define REAL                   float
#define FN(name)               f32_##name
#define MATH(name)             name##f
#define HADAMARD               syl_hadamard_apply_f32
#define TO_INT8                syl_int8_from_f32
#define ROUND_STORED(dtype, x) syl_ref_round((dtype), (x))
#define OPS                    syl_ref_ops_f32

/* Run by the interpreter itself. */
#define f32_weight       NULL
#define f32_materialized NULL
#define f32_fused        NULL
#define f32_yield        NULL
#define f32_return       NULL

#include "ir/ref/ops.inc"
