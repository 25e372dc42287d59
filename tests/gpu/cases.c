/* What all problems share: names, defaults, numbers of rows. */
#include "cases.h"
#include <stdarg.h>

void gpu_cases_add(gpu_cases *cases, gpu_problem_spec spec, const char *name, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    spec.name = name;
    spec.text = syl_arena_vprintf(cases->arena, fmt, args);
    va_end(args);
    if (!spec.max_rows) spec.max_rows = 8192;
    if (!spec.multiple) spec.multiple = 1;
    if (!spec.others) spec.others = 5;
    SYL_PUSH(cases->arena, &cases->problems, spec);
}

/* Around every size that some tile has, and primes; each problem gets some of them, so that all are met by many. */
int gpu_case_rows(const gpu_problem_spec *spec, size_t index, int64_t *out) {
    static const int64_t sizes[] = {2,  7,   8,   9,   15,  16,  17,   31,   64,
                                    65, 127, 128, 129, 256, 333, 1000, 2048, 4099};
    enum { N = sizeof sizes / sizeof *sizes, STEP = 4 };
    int n = 0;
    if (spec->multiple > 1) {
        for (int64_t sequences = 1; n < GPU_MAX_ROW_COUNTS && sequences * spec->multiple < spec->max_rows;
             sequences = sequences * 3 + 1)
            out[n++] = sequences * spec->multiple;
    } else {
        out[n++] = 1;
        for (size_t i = index % STEP; i < N; i += STEP)
            if (sizes[i] < spec->max_rows) out[n++] = sizes[i];
        if (n > 1 && out[n - 1] == 1) n--;
    }
    if (spec->max_rows > 1) out[n++] = spec->max_rows;
    return n;
}
