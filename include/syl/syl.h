/* Sylvester: compiles quantized model graphs, and runs them on code made for this machine. The one public header: C11 and C++17.
 *
 *     instance    threads, target, kernel cache, messages     syl_instance_create
 *     program     an artifact made ready to run; read only    syl_program_load
 *     session     a program in use: its KV cache, its state   syl_session_create
 *
 * Errors are values: a function that can fail returns a syl_status. What failed and what to do next is a message: the instance's
 * `message` callback gets it as it happens, and syl_instance_error keeps the errors of the last call. An argument that is
 * missing or makes no sense is SYL_USAGE, never a crash, and so is an instance that another thread, or a callback's caller, is using. After a failure every `out` handle and text is NULL.
 *
 * Options and results are structs whose first field is their size: set it to sizeof, and zero the rest, which stands for the
 * defaults: syl_x x = {.size = sizeof x}. A program built with an older header passes a shorter struct, and gets what it knows of.
 *
 * Threads: there is no global state. An instance, and the sessions made with it, are used by one thread at a time; several instances
 * work at the same time, independent of each other. A program does not change after loading: sessions of any instances may share it.
 * Callbacks are called by one thread at a time, which may be another than the caller's, and must not call functions of the instance.
 *
 * Ownership: every syl_x_create or syl_x_load has its syl_x_destroy, for which NULL is fine. A program may outlive the instance it was
 * loaded with; a session is destroyed before its instance and its program. Texts and lists returned through `char **` or `int32_t **`
 * are the caller's, freed with syl_free. Texts returned as `const char *` belong to the handle, as said with each. docs/api.md has a
 * guide. */
#ifndef SYL_SYL_H
#define SYL_SYL_H

#include <stddef.h>
#include <stdint.h>

#include "status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Before a function: exported from libsyl.so. */
#if defined(__GNUC__)
#define SYL_API __attribute__((visibility("default")))
#else
#define SYL_API
#endif

#define SYL_VERSION "0.1.0" /* of this header; before 1.0 a new minor version may change the interface */

/* ---- everywhere ---- */

SYL_API const char *syl_version(void); /* of the library, "0.1.0"; any thread */
SYL_API const char *
syl_status_text(syl_status status); /* "an input file is malformed"; never NULL; any thread */
SYL_API const char *syl_status_identifier(syl_status status); /* "INPUT"; never NULL; any thread */
enum { SYL_MAX_DIMS = 8 };                                    /* of a tensor */
SYL_API void syl_free(void *memory); /* what a call gave to its caller; NULL is fine; any thread */

/* ---- instances ---- */

typedef struct syl_instance syl_instance;
typedef struct syl_program syl_program;
typedef struct syl_session syl_session;

typedef enum syl_level { SYL_LEVEL_ERROR, SYL_LEVEL_WARNING, SYL_LEVEL_REMARK, SYL_LEVEL_NOTE } syl_level;

/* A message. All texts are borrowed for the call. */
typedef struct syl_notice {
    size_t size;
    int level;            /* syl_level */
    const char *name;     /* of an error, as in docs/errors.md: "json-syntax"; else NULL */
    const char *text;     /* one line */
    const char *help;     /* of an error: what to do next; else NULL */
    const char *file;     /* where, or NULL */
    size_t line, column;  /* 1-based; 0: unknown */
    const char *rendered; /* as the command prints it, with the place and the help; ends with a newline */
} syl_notice;

typedef struct syl_instance_options {
    size_t size;
    int threads;     /* 0: one a core */
    const char *cpu; /* code for "host" (NULL), "x86-64-v3" or "generic" */
    const char *
        cache_dir; /* of compiled kernels. NULL: $SYL_CACHE_DIR, $XDG_CACHE_HOME/sylvester or ~/.cache/sylvester; "": none */
    void (*message)(void *user,
                    const syl_notice *notice); /* NULL: errors are only kept (syl_instance_error) */
    void *user;
    /* Where programs run: "cpu", "cuda" (the first GPU), "cuda:1". NULL: as $SYL_DEVICE says; without it, the first GPU if there is one,
     * else the CPU. */
    const char *device;
    /* Of work that may take long, with `user`: "compiling kernels" while a program is loaded for a GPU. May be NULL. */
    void (*progress)(void *user, const char *what, int64_t done, int64_t total);
} syl_instance_options;

/* options NULL: the defaults. Threads start, and folders are looked at, when they are first needed. */
SYL_API syl_status syl_instance_create(const syl_instance_options *options, syl_instance **out);
SYL_API void syl_instance_destroy(syl_instance *instance);
/* The errors of the instance's last call, rendered; "" if it had none. Valid until the next call. */
SYL_API const char *syl_instance_error(const syl_instance *instance);
/* Threads this instance works with; -1 where they cannot be started. */
SYL_API int syl_instance_threads(syl_instance *instance);
/* The folder of compiled kernels, made if it is missing; *out is the caller's, or NULL where there is none. Error: cache-folder. */
SYL_API syl_status syl_instance_cache(syl_instance *instance, char **out);

/* What the machine offers to generated code. Texts live as long as the instance. */
typedef struct syl_device {
    size_t size;
    const char *cpu, *triple; /* LLVM's names */
    int cores, vector_floats, vector_registers;
    int fused_multiply_add; /* 0 or 1 */
    const char *int8_dot;   /* how products of INT8 are summed: "vpdpbusd (VNNI)" */
    const char *llvm;       /* version */
} syl_device;
SYL_API syl_status syl_instance_device(syl_instance *instance, syl_device *out);
/* Compiles a small kernel for the instance's cpu, runs it and checks what it computes. Error: doctor-result. */
SYL_API syl_status syl_instance_test(syl_instance *instance);
SYL_API int64_t syl_memory_available(void); /* bytes this process may still use; any thread */
/* Bytes free where the file or folder lies (or will lie); -1: not known. Any thread. */
SYL_API int64_t syl_disk_available(const char *path);

/* ---- the cache folder: compiled kernels and finished tensors, all of which can be made again ---- */

typedef enum syl_sweep {
    SYL_SWEEP_NOTHING,
    SYL_SWEEP_DAMAGED, /* removes what is torn or damaged: reads everything */
    SYL_SWEEP_UNUSED,  /* removes the longest unused until the rest has at most max_bytes */
    SYL_SWEEP_ALL
} syl_sweep;
typedef enum syl_cached { SYL_CACHED_KERNEL, SYL_CACHED_TENSOR } syl_cached;
/* A file of the cache. Borrowed for the call. */
typedef struct syl_cached_file {
    size_t size;
    const char *name;
    int kind; /* syl_cached */
    int64_t bytes;
    int64_t used; /* the last time, in nanoseconds since 1970 */
} syl_cached_file;
typedef struct syl_cache_settings {
    size_t size;
    const char *folder; /* NULL: the instance's */
    int sweep;          /* syl_sweep */
    int64_t max_bytes;
    void (*file)(void *user, const syl_cached_file *file); /* what stays, the longest unused first; or NULL */
    void *user;
} syl_cache_settings;
typedef struct syl_cache_report {
    size_t size;
    int64_t kernels, kernel_bytes, tensors, tensor_bytes; /* what stays */
    int64_t damaged, freed_bytes;                         /* what was removed */
} syl_cache_report;
/* Looks through the folder, and removes what `sweep` says; other files in it are left alone. settings NULL: removes nothing. report may be
 * NULL. Error: cache-folder. */
SYL_API syl_status syl_cache_sweep(syl_instance *instance, const syl_cache_settings *settings,
                                   syl_cache_report *report);

/* A GPU. Texts live as long as the instance. */
typedef struct syl_gpu {
    size_t size;
    const char *device; /* as options name it: "cuda:0" */
    const char *name;   /* "NVIDIA H200" */
    int capability;     /* compute capability * 10: 90 */
    int multiprocessors;
    int64_t memory, l2;        /* bytes */
    int clock_mhz, memory_mhz; /* at most; 0: not known */
    int memory_bits;           /* width of the memory's bus */
    int driver;                /* CUDA version that the driver serves: 13000 is 13.0 */
} syl_gpu;
/* How many GPUs there are; where none, *why (may be NULL) says why, as long as the instance: "cannot open the CUDA driver: ...". */
SYL_API syl_status syl_instance_gpus(syl_instance *instance, size_t *n, const char **why);
SYL_API syl_status syl_instance_gpu(syl_instance *instance, size_t index, syl_gpu *out);

/* ---- compiling ---- */

typedef struct syl_pass_counter {
    const char *name;
    int64_t value;
} syl_pass_counter;

/* A pass that has run. Borrowed for the call. */
typedef struct syl_pass_event {
    size_t size;
    int index; /* from 1 */
    const char *pass;
    double seconds;
    const syl_pass_counter *counters; /* [n_counters] what the pass counted */
    size_t n_counters;
    const void *module; /* for syl_pass_event_ir */
} syl_pass_event;
/* The IR behind the pass; *text is the caller's. Only inside of the callback. */
SYL_API syl_status syl_pass_event_ir(const syl_pass_event *event, char **text, size_t *size);

typedef struct syl_compile_settings {
    size_t size;
    const char *recipe;     /* a name ("w8a8") or the path of a .json file */
    const char *passes;     /* or a pipeline: "fold-norms,rotate-residual{seed=1}" */
    const char *reproducer; /* where to write IR and pipeline if a pass fails; NULL: nowhere */
    void (*after_pass)(void *user, const syl_pass_event *event);
    void *after_pass_user;
    void (*progress)(void *user, int64_t done, int64_t total); /* elements of the stored tensors */
    void *progress_user;
    int kv; /* bits of the KV cache, 8 or 4, added to the recipe or passes; 0: as they say */
    const char
        *work_dir; /* where finished tensors are kept for the next compile. NULL: in the cache; "": nowhere */
    int64_t memory;       /* bytes for tensors in flight; 0: half of what is free */
    const char *dump_dir; /* a folder that gets the text of every stage; NULL: none */
} syl_compile_settings;

typedef struct syl_compile_result {
    size_t size;
    double open_s, passes_s, materialize_s, write_s;
    int64_t tensors, elements; /* stored */
    int64_t reused;            /* of the tensors: finished by an earlier compile */
} syl_compile_result;

/* Compiles a checkpoint or a graph.json to an artifact, which appears when it is complete. Exactly one of recipe and passes is needed.
 * The bytes depend on the input, the recipe and the version only. An interrupted compile goes on where it was. result may be NULL. */
SYL_API syl_status syl_compile_file(syl_instance *instance, const char *in, const char *out,
                                    const syl_compile_settings *settings, syl_compile_result *result);

/* What a compile will take. */
typedef struct syl_forecast {
    size_t size;
    int64_t tensors, reused; /* in all, and finished by an earlier compile */
    int64_t bytes;           /* of the artifact's tensors */
    int64_t work_bytes;      /* to be added to the work folder */
    int64_t memory;          /* of the process, at its peak */
    double seconds;
    int64_t disk_free; /* where the output goes; -1: not known */
} syl_forecast;
/* Runs the passes and measures a few blocks; writes nothing. out may be NULL. */
SYL_API syl_status syl_compile_forecast_file(syl_instance *instance, const char *in, const char *out,
                                             const syl_compile_settings *settings, syl_forecast *forecast);
/* The IR of a checkpoint or graph behind the passes of settings; behind none where settings is NULL or names none. */
SYL_API syl_status syl_compile_ir(syl_instance *instance, const char *in,
                                  const syl_compile_settings *settings, char **text, size_t *size);
/* Runs settings->passes on IR text. `name` stands in messages for the text's place; `passes_name` (may be NULL) for the pipeline's. */
SYL_API syl_status syl_optimize_ir(syl_instance *instance, const char *name, const char *ir, size_t ir_size,
                                   const syl_compile_settings *settings, const char *passes_name, char **text,
                                   size_t *size);
/* The graph JSON of a checkpoint. Paths of weight files in it are relative to `graph_path`, where it will be stored (NULL: absolute). */
SYL_API syl_status syl_import_file(syl_instance *instance, const char *in, const char *graph_path,
                                   char **json, size_t *size);

typedef enum syl_list { SYL_LIST_PASSES, SYL_LIST_OPS, SYL_LIST_RECIPES } syl_list;
/* What the library knows of, for people: names, options, a line about each. */
SYL_API syl_status syl_list_text(syl_instance *instance, syl_list what, char **text, size_t *size);

/* ---- looking into artifacts ---- */

typedef enum syl_stage {
    SYL_STAGE_IR,         /* the final IR */
    SYL_STAGE_PLAN,       /* the steps of one call, their kernels and buffers */
    SYL_STAGE_KERNELS,    /* kernel IR */
    SYL_STAGE_LLVM,       /* LLVM IR, optimised */
    SYL_STAGE_LLVM_RAW,   /* and before */
    SYL_STAGE_ASSEMBLY,   /* for the instance's cpu */
    SYL_STAGE_TENSORS,    /* a line a tensor: name, element type, shape, bytes */
    SYL_STAGE_RECIPE,     /* JSON */
    SYL_STAGE_PROVENANCE, /* JSON */
    SYL_STAGE_CUDA,       /* CUDA C++, self-contained */
    SYL_STAGE_PTX,        /* what NVRTC makes of it */
    SYL_STAGE_RESOURCES,  /* a line a kernel and variant: registers, spills, shared memory */
} syl_stage;
/* The text of a stage of an artifact. `kernel` picks one by name or number ("k3") for SYL_STAGE_KERNELS to SYL_STAGE_ASSEMBLY and those of
 * CUDA (numbered apart: their plan is another); NULL: all. */
SYL_API syl_status syl_inspect_file(syl_instance *instance, const char *path, syl_stage stage,
                                    const char *kernel, char **text, size_t *size);

/* Which CUDA code to show. */
typedef struct syl_cuda_settings {
    size_t size;
    const char *arch; /* "sm_75", "sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120a"; NULL: "sm_90a" */
    const char *kernel; /* by name or number; NULL: all */
    const char *
        variant; /* "gemm_mma tokens=64 warps=4 stages=3" (docs/kernels.md); NULL: the best by the cost model */
    int64_t rows; /* for so many rows; 0: 512, and for resources 1, 16, 64, 512 and 4096 */
} syl_cuda_settings;
/* SYL_STAGE_CUDA, SYL_STAGE_PTX and SYL_STAGE_RESOURCES of any architecture, and SYL_STAGE_PLAN: the plan for GPUs. Needs no GPU, and for PTX and resources
 * NVRTC. With 1 to 8 rows also what is launched together: "f0", "f1", ... among the kernels. Errors: cuda-arch, cuda-variant, cli-kernel, nvrtc-missing. */
SYL_API syl_status syl_inspect_cuda(syl_instance *instance, const char *path, syl_stage stage,
                                    const syl_cuda_settings *settings, char **text, size_t *text_size);

/* NVRTC, NVIDIA's compiler of CUDA C++, which kernels for GPUs need. Texts live as long as the instance. */
typedef struct syl_nvrtc_info {
    size_t size;
    int usable;       /* 1: it was found and has compiled a small kernel */
    const char *path; /* NULL: not found */
    int major, minor;
    double seconds;         /* for opening it and the small kernel */
    const char *why, *help; /* not usable: what is wrong, and what to do about it; else "" */
} syl_nvrtc_info;
SYL_API syl_status syl_instance_nvrtc(syl_instance *instance, syl_nvrtc_info *out);
/* 1 if the file begins like an artifact, 0 if not, -1 where it cannot be read. Any thread. */
SYL_API int syl_file_is_artifact(const char *path);

/* ---- files of tensors ---- */

/* An open artifact, GGUF checkpoint or safetensors file. It does not change: any threads may share it. */
typedef struct syl_container syl_container;
/* Errors: weights-file where it is none of them, and those of its format. */
SYL_API syl_status syl_container_load(syl_instance *instance, const char *path, syl_container **out);
SYL_API void syl_container_destroy(syl_container *container);

/* Texts live as long as the container. */
typedef struct syl_container_info {
    size_t size;
    const char *kind; /* "artifact", "gguf" or "safetensors" */
    int64_t file_bytes;
    size_t tensors;
    const char *name, *recipe, *provenance; /* of an artifact, the last two JSON; else NULL */
    int64_t context_length;                 /* 0: not a language model's artifact */
} syl_container_info;
SYL_API syl_status syl_container_describe(const syl_container *container,
                                          syl_container_info *out); /* any thread */

/* A stored tensor; of an artifact the codes with their scales are one. Texts live as long as the container. */
typedef struct syl_tensor_info {
    size_t size;
    const char *name;
    const char *type; /* as the format calls it: "int8_channel", "Q4_1", "BF16" */
    int rank;
    int64_t dims[SYL_MAX_DIMS];
    int64_t elements, bytes;
} syl_tensor_info;
SYL_API syl_status syl_container_tensor(const syl_container *container, size_t index,
                                        syl_tensor_info *out); /* any thread */
/* The XXH3-128 of its bytes, 32 digits and a NUL; of codes with scales, of the hashes of both. Any thread. */
SYL_API syl_status syl_container_hash(const syl_container *container, size_t index, char out[33]);
/* How far the numbers of tensor index_b (dequantized) are from those of index_a, relative to these: the quotient of Frobenius norms. Both
 * containers are artifacts, the tensors of one shape. */
SYL_API syl_status syl_container_distance(syl_instance *instance, const syl_container *a, size_t index_a,
                                          const syl_container *b, size_t index_b, double *out);

/* ---- programs ---- */

SYL_API syl_status syl_program_load(syl_instance *instance, const char *path, syl_program **out);
SYL_API void syl_program_destroy(syl_program *program);

/* Texts live as long as the program. */
typedef struct syl_program_info {
    size_t size;
    const char *path, *name, *cpu; /* cpu: what code is made for, of a GPU its architecture: "sm_90a" */
    int64_t context_length;        /* positions the model was trained for; 0: not a language model */
    int64_t vocabulary;            /* logits a row; 0: not a language model */
    int64_t token_limit;           /* token ids are below it */
    int has_tokenizer;
    const char *recipe, *provenance; /* JSON */
    double open_s, pack_s, compile_s, total_s;
    int kernels, kernels_compiled, kernels_cached;
    size_t packed_bytes;
    const char *device;     /* "cpu", "cuda:0" */
    const char *processor;  /* a GPU's name; NULL on the CPU */
    size_t device_bytes;    /* of a GPU's memory, for weights; 0 on the CPU */
    int64_t weight_bytes;   /* of weights that a run reads at least, as they are stored */
    int64_t position_bytes; /* of the KV cache for a position of a sequence, all layers */
    int kernels_tuned;      /* of the kernels: chosen by measurements of syl_tune_file */
    /* Of the pipeline it was compiled by, the passes that put rotations and scales of activations into weights (syl_observation); NULL: not
     * known. */
    const char *folds;
    /* Of open_s, the start of a GPU's driver; of compile_s, giving the code to it. 0 on the CPU. */
    double driver_s, modules_s;
} syl_program_info;
SYL_API syl_status syl_program_describe(const syl_program *program, syl_program_info *out); /* any thread */

typedef enum syl_direction { SYL_DIRECTION_IN, SYL_DIRECTION_OUT } syl_direction;
/* An argument or result of @forward. Texts live as long as the program. */
typedef struct syl_value_info {
    size_t size;
    const char *name;    /* as in the graph; "" where it gives none */
    const char *element; /* "f32", "i32"; of the KV cache that of its pages */
    int is_cache;        /* the KV cache, which the session keeps */
    int rank;
    int64_t dims[SYL_MAX_DIMS];        /* -1 where the size is known at run time */
    const char *symbols[SYL_MAX_DIMS]; /* and its symbol there, else NULL */
} syl_value_info;
SYL_API size_t syl_program_values(const syl_program *program,
                                  syl_direction direction); /* how many; any thread */
SYL_API syl_status syl_program_value(const syl_program *program, syl_direction direction, size_t index,
                                     syl_value_info *out); /* any thread */

/* ---- tuning: kernels chosen by measuring them on a GPU ---- */

/* A variant of a kernel. Texts are borrowed for the call. */
typedef struct syl_tune_candidate {
    size_t size;
    const char *variant; /* as syl_cuda_settings has it: "gemm_mma tokens=64 warps=4 blocks=1 stages=3" */
    const char *
        state; /* "good"; "wrong" (other bits), "crashed", "hung" or "failed"; "" where it was not measured */
    double seconds;    /* of a launch; 0 unless good */
    double expected_s; /* by the cost model */
    int registers;     /* of a thread; 0: not known */
    int threads;       /* of a block */
    int64_t shared;    /* bytes of shared memory of a block */
    int64_t blocks;
    int resident;    /* blocks that a multiprocessor holds at a time */
    double waves;    /* blocks / all that are resident */
    const char *why; /* of one that is not good; else "" */
} syl_tune_candidate;

/* A kernel for a number of rows: a choice. Texts and lists are borrowed for the call. */
typedef struct syl_tune_report {
    size_t size;
    const char *kernel;
    int kernel_number;                    /* as for SYL_STAGE_CUDA */
    int64_t rows;                         /* for so many and fewer, down to the choice before */
    int64_t steps;                        /* of a run that are this kernel */
    int done, total;                      /* choices */
    int known;                            /* 1: measured by an earlier call */
    double bytes, operations;             /* of a launch, at least */
    double memory_s, arithmetic_s;        /* what these take at the GPU's peak; 0: not known */
    const syl_tune_candidate *candidates; /* [n_candidates] the quickest first, those not measured last */
    size_t n_candidates;
    size_t all_candidates; /* that the kernel has, those that the cost model ruled out too */
    const char *why;       /* the first is the quickest */
    const char *before;    /* exhaustive: what was chosen until now, and its time in the same race; */
    double before_s;       /* else NULL and 0 */
} syl_tune_report;

typedef struct syl_tune_settings {
    size_t size;
    double budget_s;     /* 0: 60 */
    const char *kernels; /* POSIX extended regular expression for names and numbers ("k3"); NULL: all */
    const int64_t *rows; /* [n_rows] numbers of rows to tune for; n_rows 0: all */
    size_t n_rows;
    int frozen;     /* nothing is measured or written: an error (tune-frozen) if something is not tuned */
    int exhaustive; /* all variants, without a limit of time, and again what is known */
    /* The program that measures, so that a variant which crashes or hangs costs one process: started with `worker_arguments` (argv, the
     * last NULL), it calls syl_tune_worker with its standard input and output, for the same artifact, device and cache folder. NULL: this
     * process measures, and a variant that crashes ends its use of the GPU. */
    const char *worker;
    const char *const *worker_arguments;
    double limit_s;                                            /* for a variant; 0: 30 */
    void (*report)(void *user, const syl_tune_report *report); /* may be NULL, as may be the next */
    void (*progress)(void *user, double done, double total, const char *kernel);
    void *user;
} syl_tune_settings;

typedef struct syl_tune_result {
    size_t size;
    int choices, known, tuned; /* known: before this call */
    int left; /* that could not be measured, or not in the time: the next call goes on with them */
    int64_t measured, bad; /* variants of this call */
    int lost;              /* processes that crashed or hung */
    double worst; /* exhaustive: the least share of the best speed that a choice of before reached; 0: none */
    double seconds, compile_s; /* compile_s: of all threads */
} syl_tune_result;

/* Measures the variants of the kernels of an artifact on the instance's GPU, and keeps what is found in the cache folder: programs that are
 * loaded from then on run the quickest. No result depends on it: all variants compute the same bits. What was measured is kept at once, and
 * a call that was interrupted is gone on with by the next. result may be NULL. Errors: tune-*, tuning-*, those of loading. */
SYL_API syl_status syl_tune_file(syl_instance *instance, const char *path, const syl_tune_settings *settings,
                                 syl_tune_result *result);
/* The process that measures: answers questions from the descriptor `in` on `out`, until `in` ends. */
SYL_API syl_status syl_tune_worker(syl_instance *instance, const char *path, int in, int out);
/* All that was measured, of any machine, as lines of JSON (docs/tuning.md); *text is the caller's. n (may be NULL): how many lines. */
SYL_API syl_status syl_tune_export(syl_instance *instance, char **text, size_t *size, int64_t *n);
/* Takes such lines over, all or none; of two for the same the newer stays. `name` stands in messages for the text's place. */
SYL_API syl_status syl_tune_import(syl_instance *instance, const char *name, const char *text, size_t size,
                                   int64_t *n);

/* ---- sessions ---- */

typedef struct syl_session_options {
    size_t size;
    int64_t context; /* positions a sequence may have; 0: what the model was trained for */
    int sequences;   /* 0: 1 */
} syl_session_options;
/* options NULL: the defaults; they matter to language models only. The session works with the threads of `instance`. */
SYL_API syl_status syl_session_create(syl_instance *instance, const syl_program *program,
                                      const syl_session_options *options, syl_session **out);
SYL_API void syl_session_destroy(syl_session *session);
SYL_API int64_t syl_session_limit(
    const syl_session *session); /* positions a sequence may have; 0: no language model; -1: NULL */
SYL_API int64_t syl_session_length(const syl_session *session,
                                   int sequence);             /* positions it has; -1: no such sequence */
SYL_API size_t syl_session_bytes(const syl_session *session); /* memory of buffers and KV pages */
/* Forgets the positions from `length` on; 0 empties the sequence. */
SYL_API syl_status syl_session_truncate(syl_session *session, int sequence, int64_t length);

/* A step of a run: a kernel over some rows. Texts are borrowed for the call. */
typedef struct syl_step_report {
    size_t size;
    const char *kernel; /* its name; several may share one */
    int kernel_number;  /* as syl_inspect_file numbers them; on a GPU in a plan of its own */
    const char *label;  /* what it computes: "%blk.0.x1" */
    int64_t rows;
    double start_s, seconds;  /* from the begin of the run */
    double bytes, operations; /* at least: inputs and outputs once; a fused multiply-add counts as two */
    double peak; /* operations a second that the GPU's datasheet gives for such a kernel; 0: not known */
} syl_step_report;
/* The next run or call with this session is measured: when it is done, `step` is called for each of its steps, in order. */
SYL_API syl_status syl_session_profile(syl_session *session,
                                       void (*step)(void *user, const syl_step_report *report), void *user);
/* Bytes a second, read and written together, that a copy in the device's memory reaches, measured now. */
SYL_API syl_status syl_session_copy_rate(syl_session *session, double *out);
/* Waits for work that is under way on a GPU, and reports what failed there. */
SYL_API syl_status syl_session_wait(syl_session *session);

/* ---- on a GPU, beside other programs of the caller's ---- */

/* Work of the session goes to this stream from here on: a CUstream or cudaStream_t of the device's primary context, alive until another is
 * set; NULL: a stream of the session's own. Calls then return when their work is in the stream, but for what brings results to the host.
 * Waits for earlier work. Error on the CPU: device-host. */
SYL_API syl_status syl_session_set_stream(syl_session *session, void *stream);
/* Whether results of syl_session_call stay in the GPU's memory: syl_session_output then gives their addresses, with on_device set, and the
 * call may still be under way. Error on the CPU: device-host. */
SYL_API syl_status syl_session_keep_on_device(syl_session *session, int keep);
/* Where the logits of row `row` of the last run lie in the GPU's memory, written in the order of the stream; until the next run. NULL: no
 * such row, or on the CPU. */
SYL_API const void *syl_session_device_logits(const syl_session *session, size_t row);

/* ---- any model: the values between kernels ---- */

/* What a value is to the one of that name in the graph. Rotations and gains that passes fold into weights leave no trace in a program, but
 * two programs made of one graph by the same folding passes (syl_program_info.folds) have values of the same meaning. */
typedef enum syl_basis {
    SYL_BASIS_GRAPH,   /* the same, but for rounding */
    SYL_BASIS_ROTATED, /* perhaps rotated: its rows have the same norms */
    SYL_BASIS_SCALED   /* perhaps rotated, and its columns scaled */
} syl_basis;

/* A named value that a kernel has just made. Borrowed for the call. */
typedef struct syl_observation {
    size_t size;
    const char *name;    /* as in the graph: "blk.0.x1" */
    const char *element; /* as kernels pass it on: "f32", "bf16", "int8_token" */
    int basis;           /* syl_basis */
    int64_t rows, cols;
    const void *source; /* for syl_observation_read */
} syl_observation;
/* Rows [begin, end) as floats, out[(end - begin) * cols]: codes dequantized, rotations at run time undone. Only inside of the callback. What
 * fails in memory or on the device fails the run too. */
SYL_API syl_status syl_observation_read(const syl_observation *observation, int64_t begin, int64_t end,
                                        float *out);
/* From the next run on `observe` is called behind each kernel that makes named values; NULL: no longer. It does not change a bit of what
 * the session computes. On a GPU kernels are then launched one by one, and each value that is read is waited for. */
SYL_API syl_status syl_session_observe(syl_session *session,
                                       void (*observe)(void *user, const syl_observation *observation),
                                       void *user);

/* ---- any model: tensors in, tensors out ---- */

/* A tensor, row major. `data` of an input is the caller's, and copied; that of an output is the session's. */
typedef struct syl_tensor {
    size_t size;
    const char *name;    /* of the argument or result, as syl_program_value gives it */
    const char *element; /* "f32" or "i32" */
    int rank;
    int64_t dims[SYL_MAX_DIMS];
    const void *data;
    int on_device; /* data is an address in the memory of the GPU that the program was loaded for; i32 inputs are read from there and checked */
} syl_tensor;
/* Runs @forward of a program that is no language model on its arguments by name, each given once, in any order. inputs is an array of
 * n structs of one size. Errors: exec-input, exec-range, out-of-memory. */
SYL_API syl_status syl_session_call(syl_session *session, const syl_tensor *inputs, size_t n);
/* A result of the last call, 0 <= index < syl_program_values(program, SYL_DIRECTION_OUT); its data is valid until the next. */
SYL_API syl_status syl_session_output(const syl_session *session, size_t index, syl_tensor *out);

/* ---- language models: tokens in, logits out ---- */

/* Tokens to run: a mix of any sequences, each token at the next position of its sequence. */
typedef struct syl_tokens {
    size_t size;
    const int32_t *ids;       /* [n] */
    const int32_t *sequences; /* [n] or NULL: all 0 */
    size_t n;
    const int32_t *rows; /* [n_rows] numbers of the tokens behind which logits are wanted */
    size_t n_rows;
} syl_tokens;
/* Runs the model. Errors (exec-range, kv-sequence, kv-context, out-of-memory) leave the session as it was. */
SYL_API syl_status syl_session_run(syl_session *session, const syl_tokens *tokens);
/* The logits of row `row` of the last run, [vocabulary]; valid until the next call with this session. On a GPU this waits for them.
 * NULL: no such row, or the GPU failed (syl_instance_error). */
SYL_API const float *syl_session_logits(const syl_session *session, size_t row);
/* Appends tokens to a sequence, any number of them; *logits gets those behind the last, as for syl_session_logits. logits NULL: on a
 * GPU the work may be under way when this returns. */
SYL_API syl_status syl_session_read(syl_session *session, int sequence, const int32_t *ids, size_t n,
                                    const float **logits);

/* ---- language models: text ---- */

enum {
    SYL_TEXT_PLAIN = 0,
    SYL_TEXT_CONTROL =
        1, /* names of control tokens in the text become these tokens (encode), and are written (decode) */
    SYL_TEXT_BEGIN = 2 /* encode: begin with the begin-of-text token if the model was trained so */
};
/* Text to tokens; *ids is the caller's. Error: lm-tokenizer where the model has none. */
SYL_API syl_status syl_session_encode(syl_session *session, const char *text, size_t size, int flags,
                                      int32_t **ids, size_t *n);
/* Tokens to text, as the begin of one: a space that the tokenizer puts in front of texts is left out. */
SYL_API syl_status syl_session_decode(syl_session *session, const int32_t *ids, size_t n, int flags,
                                      char **text, size_t *size);

typedef struct syl_turn {
    const char *role;    /* "system", "user" or "assistant" */
    const char *content; /* always plain text: names of control tokens in it stay text */
    size_t content_size;
} syl_turn;
/* A conversation to tokens, up to where the assistant answers; *ids is the caller's. Error: chat-format where the model has none. */
SYL_API syl_status syl_session_chat(syl_session *session, const syl_turn *turns, size_t n_turns,
                                    int32_t **ids, size_t *n);
SYL_API int syl_session_has_tokenizer(const syl_session *session);
SYL_API int syl_session_has_chat(const syl_session *session);

typedef enum syl_end { SYL_END_TOKEN, SYL_END_LENGTH, SYL_END_CONTEXT, SYL_END_CALLER } syl_end;

typedef struct syl_generate_settings {
    size_t size;
    /* The prompt: tokens, or turns of a conversation, or text. Text is one user's message where the model has a chat format, unless
     * `raw`; then, and without one, it is continued as it stands. */
    const int32_t *tokens;
    size_t n_tokens;
    const syl_turn *turns;
    size_t n_turns;
    const char *prompt; /* NUL-terminated where prompt_size is 0 */
    size_t prompt_size;
    const char *system; /* with prompt: the system message in place of the model's own; NULL: that */
    int raw;
    int64_t max_tokens; /* 0: 128 */
    double temperature; /* 0: the likeliest token each time */
    int64_t top_k;      /* 0: all */
    double top_p;       /* in (0, 1]; 0: 1 */
    uint64_t seed;
    /* Each new token with the text it completes (size may be 0); return 0 to stop. Text that is left at the end comes with id -1. */
    int (*token)(void *user, int32_t id, const char *text, size_t size);
    void *user;
} syl_generate_settings;

typedef struct syl_generate_result {
    size_t size;
    int64_t prompt_tokens, new_tokens; /* the end token counts as none */
    int end;                           /* syl_end */
    const char *end_name;              /* "end-token", "length", "context", "caller"; static */
    double prefill_s;                  /* reading the prompt */
    double first_token_s;              /* prefill_s and drawing the first token */
    double decode_s;                   /* all tokens behind the first */
} syl_generate_result;

/* Empties sequence 0, reads the prompt and goes on from it. `text` (may be NULL, like size and result) gets all of the new text, the
 * caller's. The same settings give the same text, whatever the number of threads. */
SYL_API syl_status syl_session_generate(syl_session *session, const syl_generate_settings *settings,
                                        char **text, size_t *size, syl_generate_result *result);

typedef struct syl_perplexity_settings {
    size_t size;
    const char *text; /* tokenized without special tokens; or tokens */
    size_t text_size;
    const int32_t *tokens;
    size_t n_tokens;
    int64_t window;       /* tokens; 0: what a sequence may have */
    int64_t max_windows;  /* 0: all */
    syl_session *against; /* of another model over the same tokens, with the same instance; or NULL */
    void (*progress)(void *user, double done, double total, double nll); /* nll: the mean so far */
    void *user;
} syl_perplexity_settings;

typedef struct syl_perplexity_result {
    size_t size;
    int64_t windows, tokens; /* scored */
    double nll, ppl;         /* mean negative log-likelihood in nats, and its exponential */
    double against_nll, against_ppl;
    double kl;       /* mean of KL(against || this) in nats */
    double same_top; /* share of positions where both hold the same token likeliest */
    double seconds;
} syl_perplexity_result;

/* Cuts the tokens into consecutive windows, runs each from an empty cache (sequence 0) and scores all but its first 4 tokens. */
SYL_API syl_status syl_session_perplexity(syl_session *session, const syl_perplexity_settings *settings,
                                          syl_perplexity_result *result);

#ifdef __cplusplus
}
#endif

#endif
