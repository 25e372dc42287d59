/* NumPy's .npy files: one array each, format versions 1.0 to 3.0 (numpy.lib.format). Read strictly: little-endian f32 ('<f4')
 * and i32 ('<i4') in C order, rank 1 to 4, and not a byte too few or too many. Written as version 1.0. */
#ifndef SYL_BASE_NPY_H
#define SYL_BASE_NPY_H

#include <stdbool.h>
#include <stdint.h>
#include "base/diag.h"
#include "base/file.h"

enum { SYL_NPY_MAX_RANK = 4 };

typedef struct syl_npy {
    bool is_int; /* i32, else f32 */
    int rank;
    int64_t dims[SYL_NPY_MAX_RANK];
    int64_t elements;
    const void *data; /* read: into the mapping, aligned for the element */
    syl_mapping mapping;
} syl_npy;

/* Errors: npy-format, npy-type, npy-shape, and those of opening a file. */
SYL_NODISCARD syl_status syl_npy_open(const char *path, syl_diag *diag, syl_npy *out);
void syl_npy_close(syl_npy *npy); /* fine on a zeroed one */

/* Writes is_int, rank, dims and data; the file appears whole or not at all. */
SYL_NODISCARD syl_status syl_npy_write(const char *path, const syl_npy *npy, syl_diag *diag);

#endif
