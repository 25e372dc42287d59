/* NVRTC's functions, and compiling with them (nvrtc.h). Results come back in memory of our own, so nothing of a program outlives its
 * compile. */
#include "codegen/cuda/nvrtc.h"
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "base/file.h"
#include "base/hash.h"

typedef void *nvrtc_program;

struct syl_nvrtc {
    void *library, *builtins;
    int major, minor;
#define SYMBOL(name, parameters) int(*name) parameters;
#include "codegen/cuda/nvrtc.def"
};

/* ---- opening ---- */

static syl_status find_symbols(syl_nvrtc *n, const char *path, syl_diag *diag) {
    void *address;
#define SYMBOL(name, parameters)                                                                             \
    address = dlsym(n->library, "nvrtc" #name);                                                              \
    if (!address)                                                                                            \
        return syl_error(diag, SYL_ERR_nvrtc_old, SYL_NOWHERE, "NVRTC at '%s' lacks nvrtc%s", path, #name);  \
    memcpy(&n->name, &address, sizeof address);
#include "codegen/cuda/nvrtc.def"
    return SYL_OK;
}

static syl_status check_version(syl_nvrtc *n, const char *path, syl_diag *diag) {
    void *address = dlsym(n->library, "nvrtcVersion");
    int (*version)(int *major, int *minor);
    memcpy(&version, &address, sizeof address);
    if (!address || version(&n->major, &n->minor) != 0)
        return syl_error(diag, SYL_ERR_nvrtc_old, SYL_NOWHERE,
                         "'%s' doesn't tell its version: it is no NVRTC", path);
    if (n->major > SYL_NVRTC_MAJOR || (n->major == SYL_NVRTC_MAJOR && n->minor >= SYL_NVRTC_MINOR))
        return SYL_OK;
    return syl_error(diag, SYL_ERR_nvrtc_old, SYL_NOWHERE,
                     "NVRTC at '%s' is version %d.%d, needed is %d.%d or later", path, n->major, n->minor,
                     SYL_NVRTC_MAJOR, SYL_NVRTC_MINOR);
}

/* NVRTC opens its builtins by name alone when it first compiles, which the loader only finds on its own path. A library that is open already
 * is found by that name. */
static void open_builtins(syl_nvrtc *n, const char *path) {
    char file[4200];
    const char *slash = strrchr(path, '/');
    int folder = slash ? (int)(slash + 1 - path) : 0;
    if (snprintf(file, sizeof file, "%.*slibnvrtc-builtins.so.%d.%d", folder, path, n->major, n->minor) <
        (int)sizeof file)
        n->builtins = dlopen(file, RTLD_LAZY | RTLD_LOCAL | RTLD_NODELETE);
}

syl_status syl_nvrtc_open(const syl_nvrtc_place *place, syl_diag *diag, syl_nvrtc **out) {
    *out = NULL;
    syl_nvrtc *n = calloc(1, sizeof *n);
    if (!n) return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for NVRTC");
    /* NODELETE: it stays for the next compile; a compiler with threads and destructors of its own is not made to be unloaded. */
    n->library = dlopen(place->path, RTLD_LAZY | RTLD_LOCAL | RTLD_NODELETE);
    syl_status status = SYL_OK;
    if (!n->library) {
        const char *why = dlerror();
        status = syl_error(diag, SYL_ERR_nvrtc_missing, SYL_NOWHERE, "cannot open NVRTC at '%s': %s",
                           place->path, why ? why : "unknown error");
    }
    if (status == SYL_OK) status = check_version(n, place->path, diag);
    if (status == SYL_OK) status = find_symbols(n, place->path, diag);
    if (status != SYL_OK) {
        syl_nvrtc_close(n);
        return status;
    }
    open_builtins(n, place->path);
    *out = n;
    return SYL_OK;
}

void syl_nvrtc_close(syl_nvrtc *n) {
    if (!n) return;
    if (n->builtins) dlclose(n->builtins);
    if (n->library) dlclose(n->library);
    free(n);
}

void syl_nvrtc_version(const syl_nvrtc *n, int *major, int *minor) {
    *major = n->major;
    *minor = n->minor;
}

/* ---- options ---- */

/* -fmad=false: kernels say themselves where they mean fma, so that they compute what the CPU's do. -no-cache: our own cache is keyed
 * on more, and does not grow without bound. */
static const char *const common_options[] = {"--std=c++17", "--fmad=false",
                                             "--device-as-default-execution-space", "--no-cache"};
enum { N_COMMON = 4, MAX_OPTIONS = N_COMMON + 2 };

static int options_of(const char *arch, char text[64], const char *out[MAX_OPTIONS]) {
    int n = 0;
    snprintf(text, 64, "--gpu-architecture=%s", arch);
    out[n++] = text;
    for (int i = 0; i < N_COMMON; i++) out[n++] = common_options[i];
    if (strncmp(arch, "sm_", 3) == 0) out[n++] = "--ptxas-options=-v"; /* registers and spills, to the log */
    return n;
}

const char *syl_nvrtc_options(syl_arena *arena, const char *arch) {
    char text[64];
    const char *options[MAX_OPTIONS];
    syl_text line = {.arena = arena};
    int n = options_of(arch, text, options);
    for (int i = 0; i < n; i++) syl_text_printf(&line, "%s%s", i ? " " : "", options[i]);
    return line.p;
}

/* ---- compiling ---- */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef int get_size(nvrtc_program program, size_t *size);
typedef int get_text(nvrtc_program program, char *text);

/* A result of a program with a NUL behind it; NULL where there is none or no memory. */
static char *fetch(nvrtc_program program, get_size *size_of, get_text *copy, size_t *size) {
    char *text = NULL;
    *size = 0;
    if (size_of(program, size) != 0 || *size >= SIZE_MAX) return NULL;
    text = malloc(*size + 1);
    if (!text) return NULL;
    text[*size] = 0;
    if (*size && copy(program, text) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

/* Writes the source where it can be looked at; NULL where that fails. */
static const char *leave_source(syl_arena *arena, const syl_nvrtc_input *input) {
    const char *folder = input->failures_dir, *temporary = getenv("TMPDIR"), *path;
    syl_hash hash = syl_hash_bytes(input->source, strlen(input->source));
    syl_diag *quiet = syl_diag_create(NULL, NULL);
    bool written = false;
    if (folder) {
        path = syl_arena_printf(arena, "%s/%s.cu", folder, hash.hex);
        written = quiet && syl_file_write(path, input->source, strlen(input->source), quiet) == SYL_OK;
    } else { /* others write there too: a name nobody can have guessed */
        char *name =
            syl_arena_printf(arena, "%s/sylvester-XXXXXX.cu", temporary && *temporary ? temporary : "/tmp");
        int fd = mkstemps(name, 3);
        size_t size = strlen(input->source);
        written = fd >= 0 && write(fd, input->source, size) == (ssize_t)size;
        if (fd >= 0) close(fd);
        path = name;
    }
    syl_diag_destroy(quiet);
    return written ? path : NULL;
}

/* The lines of the log that tell what is wrong, at most `most`: the first errors, else the first lines. */
static const char *begin_of(syl_arena *arena, const char *log, int most) {
    syl_text text = {.arena = arena};
    bool errors = strstr(log, "error") != NULL;
    for (int n = 0; *log && n < most;) {
        size_t size = strcspn(log, "\n");
        const char *mark = errors ? "error" : "";
        if (size && memmem(log, size, mark, strlen(mark))) {
            syl_text_printf(&text, "\n    %.*s", (int)(size < 300 ? size : 300), log);
            n++;
        }
        log += size + (log[size] == '\n');
    }
    return text.p ? text.p : " the log is empty";
}

static syl_status fail(const syl_nvrtc *n, const syl_nvrtc_input *input, int code, const char *log,
                       syl_diag *diag) {
    syl_arena arena;
    syl_arena_init(&arena);
    syl_status status;
    if (log && strstr(log, "libnvrtc-builtins")) {
        status = syl_error(diag, SYL_ERR_nvrtc_builtins, SYL_NOWHERE,
                           "NVRTC %d.%d cannot use its library of builtins, libnvrtc-builtins.so.%d.%d:%s",
                           n->major, n->minor, n->major, n->minor, begin_of(&arena, log, 2));
    } else {
        const char *left = leave_source(&arena, input);
        status = syl_error(
            diag, SYL_ERR_codegen_cuda, SYL_NOWHERE,
            "kernel '%s' does not compile for %s (NVRTC %d.%d, code %d); its source is %s%s:%s", input->name,
            input->arch, n->major, n->minor, code, left ? "in " : "lost: no folder to write to",
            left ? left : "", begin_of(&arena, log ? log : "", 5));
    }
    syl_arena_free(&arena);
    return status;
}

static syl_status compile(const syl_nvrtc *n, nvrtc_program program, const syl_nvrtc_input *input,
                          syl_diag *diag, syl_nvrtc_output *out) {
    char text[64];
    const char *options[MAX_OPTIONS];
    int n_options = options_of(input->arch, text, options);
    bool cubin = strncmp(input->arch, "sm_", 3) == 0;
    size_t log_size;
    int code = n->CompileProgram(program, n_options, options);
    out->log = fetch(program, n->GetProgramLogSize, n->GetProgramLog, &log_size);
    if (code != 0) return fail(n, input, code, out->log, diag);
    out->code = cubin ? fetch(program, n->GetCUBINSize, n->GetCUBIN, &out->size)
                      : fetch(program, n->GetPTXSize, n->GetPTX, &out->size);
    if (!cubin && out->size) out->size--; /* PTX counts its NUL */
    if (out->code && out->log && out->size) return SYL_OK;
    return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE,
                     "no memory for the code of kernel '%s' (%zu bytes)", input->name, out->size);
}

syl_status syl_nvrtc_compile(const syl_nvrtc *n, const syl_nvrtc_input *input, syl_diag *diag,
                             syl_nvrtc_output *out) {
    double start = now();
    nvrtc_program program;
    *out = (syl_nvrtc_output){0};
    int code = n->CreateProgram(&program, input->source, "kernel.cu", 0, NULL, NULL);
    if (code != 0) return fail(n, input, code, NULL, diag);
    syl_status status = compile(n, program, input, diag, out);
    n->DestroyProgram(&program);
    out->seconds = now() - start;
    if (status != SYL_OK) syl_nvrtc_output_free(out);
    return status;
}

void syl_nvrtc_output_free(syl_nvrtc_output *output) {
    free(output->code);
    free(output->log);
    *output = (syl_nvrtc_output){0};
}
