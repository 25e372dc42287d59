/* An engine: an artifact made ready to run on a device: planned, its weights packed, its kernels compiled
 * (or taken from the code cache). It never changes after loading, so any number of contexts (exec.h) on any
 * threads may share it. What loading and running mean on a device is its backend's (backend.h). */
#ifndef SYL_RUNTIME_ENGINE_H
#define SYL_RUNTIME_ENGINE_H

#include "base/threads.h"
#include "codegen/plan.h"
#include "runtime/artifact.h"

/* What an argument of @forward is for. Each serves one purpose; the verifier of the signature (signature.c)
 * sees to it. */
typedef enum syl_input_role {
    SYL_INPUT_IDS,
    SYL_INPUT_POS,
    SYL_INPUT_SEQ,
    SYL_INPUT_ROWS,
    SYL_INPUT_CACHE,
    SYL_INPUT_COUNT
} syl_input_role;

typedef struct syl_signature {
    int n_args;
    syl_input_role roles[SYL_INPUT_COUNT]; /* of argument i */
    bool has[SYL_INPUT_COUNT];
    int64_t id_limit;    /* ids are below it: rows of the smallest table they index */
    int logits;          /* which result is the matrix of logits */
    int64_t vocab;       /* its columns */
    bool logits_by_rows; /* a row for each of `rows`; else for each token */
} syl_signature;

/* Checks that @forward is the function of a language model (ids, pos, seq, rows, cache -> logits), and that
 * every index is used only where the executor's range checks make it safe. Error: exec-signature. */
SYL_NODISCARD syl_status syl_signature_find(const syl_module *module, syl_diag *diag, syl_signature *out);

typedef struct syl_engine_stats {
    double open_s, pack_s, compile_s, total_s;
    double driver_s;  /* of open_s: starting a GPU's driver and entering the device */
    double modules_s; /* of compile_s: giving the code to that driver */
    int kernels, compiled, cached;
    int tuned; /* kernels that run, for some numbers of rows, as syl tune chose */
    size_t packed_bytes;
} syl_engine_stats;

typedef struct syl_backend syl_backend;
typedef struct syl_engine {
    syl_artifact artifact;
    bool is_language_model;  /* @forward is a language model's: */
    syl_signature signature; /* then exec.h runs it; else function.h may */
    const syl_backend *backend;
    void *loaded;          /* the backend's */
    syl_plan *plan;        /* made by the backend, the engine's */
    const char *device;    /* "cpu", "cuda:0"; in the artifact's arena, like the next */
    const char *target;    /* what code is made for: "znver4", "sm_90a" */
    const char *processor; /* its name, where the device tells it: "NVIDIA H200"; else NULL */
    size_t device_bytes;   /* memory of a GPU in use by weights and code */
    int capability, multiprocessors, clock_mhz; /* of a GPU; else 0 */
    syl_engine_stats stats;
} syl_engine;

typedef struct syl_engine_options {
    const char *cpu;       /* as for syl_host_target_find; NULL: "host" */
    const char *cache_dir; /* of compiled kernels; NULL: none */
    const char *device;    /* "cpu" (NULL), "cuda" (the first GPU), "cuda:1" */
    /* Of compiling for a GPU, which may take long: kernels, those from the cache too; one call at a time, from any thread. May be NULL. */
    void (*progress)(void *user, int done, int total);
    void *progress_user;
} syl_engine_options;

/* Errors: device-unknown, those of artifacts, lowering, code generation and the device. */
SYL_NODISCARD syl_status syl_engine_load(const char *path, const syl_engine_options *options, syl_pool *pool,
                                         syl_diag *diag, syl_engine **out);
void syl_engine_destroy(syl_engine *engine); /* NULL is fine; after its contexts */

/* Rows of the plan's symbols for a run of a language model: "R" stands for the rows with logits, the other for tokens. */
void syl_engine_rows(const syl_engine *engine, int64_t tokens, int64_t rows, int64_t out[2]);
/* A stored tensor as a weight of the plan reads it. Fills the parts that the weight's codes need; data points into the mapping. Error
 * (internal): plan and artifact disagree. */
SYL_NODISCARD syl_status syl_engine_source(const syl_engine *engine, const syl_plan_weight *weight,
                                           syl_diag *diag, syl_weight_source *out, size_t *size);

/* The folder for compiled kernels: $SYL_CACHE_DIR, else $XDG_CACHE_HOME/sylvester, else ~/.cache/sylvester;
 * made (0700) if it is missing. Refuses a folder of another owner or that others may write (error
 * cache-folder). NULL in *out where there is no home. */
SYL_NODISCARD syl_status syl_cache_folder(syl_arena *arena, syl_diag *diag, const char **out);
/* Makes a folder and those above it (0700) where they are missing, and refuses one of another owner, one that
 * others may write, or that cannot be read and written (error cache-folder). */
SYL_NODISCARD syl_status syl_private_folder(const char *path, syl_diag *diag);

#endif
