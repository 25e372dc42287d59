/* The two containers behind syl_weights, seen as one table of float tensors; inside the frontend. */
#ifndef SYL_FRONTEND_WEIGHTS_H
#define SYL_FRONTEND_WEIGHTS_H

#include "frontend/frontend.h"
#include "frontend/gguf.h"
#include "base/safetensors.h"

struct syl_weights {
    bool is_gguf;
    syl_gguf gguf;
    syl_safetensors safetensors;
};

/* Its tensors, in file order, and the file's path. */
size_t syl_weights_count(const syl_weights *weights);
const char *syl_weights_name(const syl_weights *weights, size_t index);
const char *syl_weights_path(const syl_weights *weights);

/* Checks that tensor `name` exists, is readable and has this shape (row major); reports at `loc`. */
SYL_NODISCARD syl_status syl_weights_check(const syl_weights *weights, const char *name, int rank,
                                           const syl_dim *dims, syl_loc loc, syl_diag *diag);

#endif
