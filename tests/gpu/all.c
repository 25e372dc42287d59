/* All programs of the bundle in one, so that LLVM and the library are in it once: the name it is called by says which one runs. */
#include <libgen.h>
#include <stdio.h>
#include <string.h>

#define PROGRAMS(X)                                                                                          \
    X(tool, "syl")                                                                                           \
    X(gpu_diff, "gpu_diff")                                                                                  \
    X(gpu_determinism, "gpu_determinism")                                                                    \
    X(gpu_greedy, "gpu_greedy")                                                                              \
    X(gpu_api, "gpu_api")                                                                                    \
    X(gpu_faults, "gpu_faults")                                                                              \
    X(gpu_gemm, "gpu_gemm")                                                                                  \
    X(gpu_rows, "gpu_rows")

#define DECLARE(program, name) int program##_main(int argc, char **argv);
PROGRAMS(DECLARE)

int main(int argc, char **argv) {
    char copy[4096];
    snprintf(copy, sizeof copy, "%s", argv[0]);
    const char *called = basename(copy);
#define RUN(program, name)                                                                                   \
    if (strcmp(called, name) == 0) return program##_main(argc, argv);
    PROGRAMS(RUN)
    fprintf(stderr, "%s: no program is called so; call it as one of:", called);
#define NAME(program, name) fprintf(stderr, " %s", name);
    PROGRAMS(NAME)
    fprintf(stderr, "\n");
    return 2;
}
