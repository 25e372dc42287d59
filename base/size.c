#include "base/size.h"
#include <stdlib.h>

void *syl_alloc_aligned(size_t size) {
    size_t rounded;
    if (!syl_size_align(size ? size : 1, 64, &rounded)) return NULL;
    return aligned_alloc(64, rounded);
}
