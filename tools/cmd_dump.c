/* syl dump: the text of any stage, from the IR after a pass to assembly. */
#include <string.h>

#include "tools/tool.h"

typedef struct settings {
    bool ir, plan, kernels, llvm, llvm_raw, assembly, cuda, ptx, resources;
    const char *recipe, *after, *arch, *variant;
    int64_t rows;
} settings;

static const opt_spec options[] = {
    OPT_ROW_FLAG(settings, ir, "ir", 0,
                 "the IR: an artifact's, or with --recipe that of a checkpoint or graph after its passes"),
    OPT_ROW_TEXT(settings, recipe, "recipe", 'r', "NAME|FILE.json", "the recipe for a checkpoint or graph"),
    OPT_ROW_TEXT(settings, after, "after", 0, "PASS",
                 "the IR after this pass of the recipe: its name (the last of that name) or its number; 0 = "
                 "before all"),
    OPT_ROW_FLAG(settings, plan, "plan", 0,
                 "the plan: the steps of one call, their kernels and buffers; with --arch or --rows that for "
                 "CUDA, and what "
                 "of up to 8 rows is launched together"),
    OPT_ROW_FLAG(settings, kernels, "kernels", 0, "the kernel IR, of all kernels or of KERNEL"),
    OPT_ROW_FLAG(settings, llvm, "llvm", 0, "the optimised LLVM IR of KERNEL (default: of all)"),
    OPT_ROW_FLAG(settings, llvm_raw, "llvm-raw", 0, "the LLVM IR before optimisation"),
    OPT_ROW_FLAG(settings, assembly, "asm", 0, "the assembly"),
    OPT_ROW_FLAG(settings, cuda, "cuda", 0, "the CUDA C++ of KERNEL (default: of all)"),
    OPT_ROW_FLAG(settings, ptx, "ptx", 0, "the PTX that NVRTC makes of it"),
    OPT_ROW_FLAG(settings, resources, "resources", 0,
                 "registers, spills and shared memory of CUDA kernels, for 1 to 4096 rows"),
    OPT_ROW_TEXT(settings, arch, "arch", 0, "sm_NN",
                 "CUDA: sm_75, sm_80, sm_86, sm_89, sm_90a, sm_100a or sm_120a (default: sm_90a)"),
    OPT_ROW_INT(settings, rows, "rows", 0, "N", 1, 1 << 20, "CUDA: the kernels for N rows (default: 512)"),
    OPT_ROW_TEXT(settings, variant, "variant", 0, "TEXT",
                 "CUDA: this variant, as --resources shows them, in place of the best"),
    {0},
};

/* ---- IR of a checkpoint after a pass ---- */

typedef struct capture {
    const char *after;
    char *text; /* the IR after it, NULL until then */
    size_t size;
    syl_status status;
    const char *names; /* of the passes that ran, for the error */
    syl_arena *arena;
} capture;

static void after_pass(void *user, const syl_pass_event *event) {
    capture *c = user;
    c->names = syl_arena_printf(c->arena, "%s%s%s", c->names, *c->names ? ", " : "", event->pass);
    char number[16];
    snprintf(number, sizeof number, "%d", event->index);
    if (strcmp(c->after, event->pass) != 0 && strcmp(c->after, number) != 0) return;
    syl_free(c->text);
    c->text = NULL;
    c->status = syl_pass_event_ir(event, &c->text, &c->size);
}

static syl_status dump_front(tool *t, const settings *s, syl_instance *instance, const char *path) {
    if (!s->recipe) {
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE,
                         "\"%s\" is no artifact: syl dump --ir needs --recipe for a checkpoint or graph",
                         path);
    }
    bool before = s->after && strcmp(s->after, "0") == 0;
    capture c = {
        .after = s->after ? s->after : "", .names = syl_arena_strdup(&t->arena, ""), .arena = &t->arena};
    syl_compile_settings compile = {
        .size = sizeof compile, .recipe = s->recipe, .after_pass = after_pass, .after_pass_user = &c};
    char *text;
    size_t size;
    syl_status status = syl_compile_ir(instance, path, before ? NULL : &compile, &text, &size);
    if (status == SYL_OK) status = c.status;
    if (status == SYL_OK && s->after && !before && !c.text) {
        status = syl_error(t->diag, SYL_ERR_cli_value, SYL_NOWHERE,
                           "--after: the recipe has no pass \"%s\"; it has %s", s->after, c.names);
    }
    if (status == SYL_OK) status = c.text ? tool_print(t, c.text, c.size) : tool_print(t, text, size);
    syl_free(c.text);
    syl_free(text);
    return status;
}

/* ---- artifacts ---- */

static syl_status dump_artifact(tool *t, const settings *s, syl_instance *instance, const char *path,
                                const char *kernel) {
    syl_stage stage = s->ir         ? SYL_STAGE_IR
                      : s->plan     ? SYL_STAGE_PLAN
                      : s->kernels  ? SYL_STAGE_KERNELS
                      : s->llvm     ? SYL_STAGE_LLVM
                      : s->llvm_raw ? SYL_STAGE_LLVM_RAW
                                    : SYL_STAGE_ASSEMBLY;
    char *text;
    size_t size;
    SYL_TRY(syl_inspect_file(instance, path, stage, kernel, &text, &size));
    syl_status status = tool_print(t, text, size);
    syl_free(text);
    return status;
}

static syl_status dump_cuda(tool *t, const settings *s, syl_instance *instance, const char *path,
                            const char *kernel) {
    syl_stage stage = s->plan   ? SYL_STAGE_PLAN
                      : s->cuda ? SYL_STAGE_CUDA
                      : s->ptx  ? SYL_STAGE_PTX
                                : SYL_STAGE_RESOURCES;
    syl_cuda_settings wanted = {
        .size = sizeof wanted, .arch = s->arch, .kernel = kernel, .variant = s->variant, .rows = s->rows};
    char *text;
    size_t size;
    SYL_TRY(syl_inspect_cuda(instance, path, stage, &wanted, &text, &size));
    syl_status status = tool_print(t, text, size);
    syl_free(text);
    return status;
}

static syl_status check_arguments(tool *t, const settings *s, const char **args, int n_args) {
    int cuda = s->cuda + s->ptx + s->resources,
        stages = s->ir + s->plan + s->kernels + s->llvm + s->llvm_raw + s->assembly + cuda;
    if (stages != 1) {
        return syl_error(
            t->diag, SYL_ERR_cli_argument, SYL_NOWHERE,
            "syl dump needs one of --ir, --plan, --kernels, --llvm, --llvm-raw, --asm, --cuda, --ptx, "
            "--resources");
    }
    if (n_args == 2 && (s->ir || s->plan)) {
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE,
                         "a kernel (\"%s\") goes with --kernels, --llvm, --asm, --cuda, --ptx or --resources",
                         args[1]);
    }
    if (!cuda && (s->variant || (!s->plan && (s->arch || s->rows)))) {
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE,
                         "--arch, --rows and --variant go with --cuda, --ptx or --resources, the first two "
                         "with --plan too");
    }
    return SYL_OK;
}

static syl_status run(tool *t, void *user, const char **args, int n_args) {
    const settings *s = user;
    SYL_TRY(check_arguments(t, s, args, n_args));
    syl_instance *instance;
    SYL_TRY(tool_instance(t, &instance));
    if (syl_file_is_artifact(args[0]) == 0) {
        if (s->ir) return dump_front(t, s, instance, args[0]);
        return syl_error(t->diag, SYL_ERR_artifact_format, SYL_NOWHERE,
                         "\"%s\" is no artifact; plans and kernels are made of artifacts", args[0]);
    }
    if (s->recipe || s->after) {
        return syl_error(
            t->diag, SYL_ERR_cli_argument, SYL_NOWHERE,
            "an artifact holds its final IR only: give --recipe and --after with the checkpoint");
    }
    const char *kernel = n_args == 2 ? args[1] : NULL;
    if (s->cuda || s->ptx || s->resources || s->arch || s->rows)
        return dump_cuda(t, s, instance, args[0], kernel);
    return dump_artifact(t, s, instance, args[0], kernel);
}

const verb verb_dump = {
    .name = "dump",
    .summary = "show the text of any stage: IR, plan, kernel IR, LLVM IR, assembly, CUDA C++, PTX",
    .usage = "FILE --ir [--recipe R --after PASS] | --plan | --kernels|--llvm|--asm|--cuda|--ptx|--resources "
             "[KERNEL]",
    .details =
        "FILE is an artifact; for --ir with --recipe a checkpoint or a graph. KERNEL is a name or a "
        "number as \"k3\", as --kernels shows them; or \"f3\", of a CUDA plan for few rows several that are "
        "launched together.",
    .options = options,
    .settings_size = sizeof(settings),
    .min_args = 1,
    .max_args = 2,
    .run = run,
};
