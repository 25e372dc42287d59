/* Which devices there are, and which one is meant where none is named. */
#ifndef SYL_RUNTIME_DEVICES_H
#define SYL_RUNTIME_DEVICES_H

#include "runtime/cuda/device.h"

/* GPUs, as syl_cuda_list; where there are none, *why says so in the driver's words (the arena's), and nothing is reported. */
void syl_devices_gpus(syl_arena *arena, syl_cuda_properties **out, int *n, const char **why);

/* What `given` means: a name as it is; NULL: that of the environment's SYL_DEVICE; where that is not set, the first GPU, or the CPU if
 * there is none. Warns if a GPU's driver is there and cannot be used. The text is the arena's, or lives as long as the program. */
const char *syl_devices_choose(const char *given, syl_arena *arena, syl_diag *diag);

#endif
