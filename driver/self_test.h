/* The self-test of `syl doctor`: a small kernel made from IR, compiled for a target, run and checked. */
#ifndef SYL_DRIVER_SELF_TEST_H
#define SYL_DRIVER_SELF_TEST_H

#include "codegen/host/host.h"

/* Error: doctor-result where the kernel computes something wrong; else those of the stages on the way. */
SYL_NODISCARD syl_status syl_self_test(const syl_host_target *target, syl_diag *diag);

#endif
