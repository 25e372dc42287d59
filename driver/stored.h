/* Stored tensors of an artifact as numbers: what a materialized value stands for, rows at a time. */
#ifndef SYL_DRIVER_STORED_H
#define SYL_DRIVER_STORED_H

#include "runtime/artifact.h"

/* A materialized value with the bytes of its parts, in the mapping of its artifact. */
typedef struct syl_stored_tensor {
    const char *name;
    syl_type type;
    int64_t rows, cols; /* a vector has one row */
    int64_t bytes;      /* of all parts */
    int parts;
    const unsigned char *part[SYL_STORED_PARTS];
    int64_t part_bytes[SYL_STORED_PARTS];
} syl_stored_tensor;

/* The tensor of a materialized op of an open artifact; matrices and vectors of known size. */
void syl_stored_find(const syl_artifact *artifact, const syl_op *op, syl_stored_tensor *out);

/* Elements of rows [begin, end) as float64, dequantized as docs/artifact.md says. */
void syl_stored_read(const syl_stored_tensor *tensor, int64_t begin, int64_t end, double *out);

#endif
