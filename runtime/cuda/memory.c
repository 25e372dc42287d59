/* What runs need of the device's memory. */
#include "base/size.h"
#include "runtime/cuda/engine.h"

enum { SLOT_ALIGN = 1024 }; /* an atom of tiled values */

bool syl_cuda_slots(const syl_plan *plan, const int64_t rows[2], size_t *offsets, size_t *total) {
    *total = 0;
    for (size_t i = 0; i < plan->slots.n; i++) {
        const syl_plan_slot *slot = &plan->slots.p[i];
        size_t count, bytes;
        if (offsets) offsets[i] = *total;
        if (!syl_size_align((size_t)rows[slot->rows], KIR_ATOM_ROWS, &count) ||
            !syl_size_mul(count, (size_t)slot->row_bytes, &bytes) ||
            !syl_size_align(bytes, SLOT_ALIGN, &bytes) || !syl_size_add(bytes, *total, total))
            return false;
    }
    return true;
}

size_t syl_cuda_cells(const syl_cuda_engine *cuda) {
    size_t most = 0;
    for (int b = 0; b < SYL_CUDA_FEW_BUCKETS; b++)
        if (cuda->code.few[b] && cuda->code.few[b]->bytes > most) most = cuda->code.few[b]->bytes;
    return most;
}

bool syl_cuda_workspace(const syl_engine *engine, const int64_t rows[2], int64_t positions, size_t *total) {
    const syl_cuda_engine *cuda = syl_cuda_engine_of(engine);
    const syl_plan *plan = engine->plan;
    *total = 0;
    for (size_t i = 0; i < plan->steps.n; i++) {
        const syl_plan_step *step = &plan->steps.p[i];
        int64_t most = rows[step->rows];
        for (int b = 0; b < SYL_CUDA_BUCKETS && most > 0; b++) {
            bool last = b == SYL_CUDA_BUCKETS - 1 || most <= syl_cuda_buckets[b];
            const syl_cuda_loaded *loaded =
                &cuda->code.loaded[cuda->code.choice[step->kernel * SYL_CUDA_BUCKETS + b]];
            int64_t size =
                syl_cuda_workspace_of(&loaded->launch, last ? most : syl_cuda_buckets[b], positions);
            if (size < 0) return false;
            if ((size_t)size > *total) *total = (size_t)size;
            if (last) break;
        }
    }
    for (size_t i = 0; i < cuda->code.n; i++) {
        const syl_cuda_launch *launch = &cuda->code.loaded[i].launch;
        if (!cuda->code.loaded[i].fused) continue;
        int64_t size = syl_cuda_workspace_of(launch, launch->max_rows, positions);
        if (size < 0) return false;
        if ((size_t)size > *total) *total = (size_t)size;
    }
    return true;
}
