/* syl dump: the text of any stage, from the IR after a pass to assembly. */
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "driver/compile.h"
#include "tools/tool.h"

typedef struct settings {
    bool ir, plan, kernels, llvm, llvm_raw, assembly;
    const char *recipe, *after;
} settings;

static const opt_spec options[] = {
    OPT_ROW_FLAG(settings, ir, "ir", 0,
                 "the IR: an artifact's, or with --recipe that of a checkpoint or graph after its passes"),
    OPT_ROW_TEXT(settings, recipe, "recipe", 'r', "NAME|FILE.json", "the recipe for a checkpoint or graph"),
    OPT_ROW_TEXT(settings, after, "after", 0, "PASS",
                 "the IR after this pass of the recipe: its name (the last of that name) or its number; 0 = "
                 "before all"),
    OPT_ROW_FLAG(settings, plan, "plan", 0, "the plan: the steps of one call, their kernels and buffers"),
    OPT_ROW_FLAG(settings, kernels, "kernels", 0, "the kernel IR, of all kernels or of KERNEL"),
    OPT_ROW_FLAG(settings, llvm, "llvm", 0, "the optimised LLVM IR of KERNEL (default: of all)"),
    OPT_ROW_FLAG(settings, llvm_raw, "llvm-raw", 0, "the LLVM IR before optimisation"),
    OPT_ROW_FLAG(settings, assembly, "asm", 0, "the assembly"),
    {0},
};

/* ---- IR of a checkpoint after a pass ---- */

typedef struct capture {
    const char *after;
    syl_text *out;
    char *names; /* of the passes that ran, for the error */
    syl_arena *arena;
    bool found;
} capture;

static void after_pass(void *user, int index, const char *pass, const syl_module *module,
                       const syl_pass_stat *stats, size_t n_stats, double seconds) {
    (void)stats, (void)n_stats, (void)seconds;
    capture *c = user;
    c->names = syl_arena_printf(c->arena, "%s%s%s", c->names, *c->names ? ", " : "", pass);
    char number[16];
    snprintf(number, sizeof number, "%d", index);
    if (strcmp(c->after, pass) != 0 && strcmp(c->after, number) != 0) return;
    c->found = true;
    c->out->n = 0;
    syl_module_print(module, c->out);
}

static syl_status dump_front(tool *t, const settings *s, const char *path) {
    if (!s->recipe) {
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE,
                         "\"%s\" is no artifact: syl dump --ir needs --recipe for a checkpoint or graph",
                         path);
    }
    syl_text text = {.arena = &t->arena};
    capture c = {.after = s->after ? s->after : "",
                 .out = &text,
                 .names = syl_arena_strdup(&t->arena, ""),
                 .arena = &t->arena};
    syl_model model;
    if (s->after && strcmp(s->after, "0") == 0) {
        SYL_TRY(syl_model_open(path, t->diag, &model));
        c.found = true;
        syl_module_print(model.module, &text);
    } else {
        syl_compile_options compile = {.recipe = s->recipe, .passes = {.after = after_pass, .user = &c}};
        SYL_TRY(syl_compile_front(path, &compile, t->diag, &model));
        if (!s->after) syl_module_print(model.module, &text);
    }
    syl_model_close(&model);
    if (s->after && !c.found) {
        return syl_error(t->diag, SYL_ERR_cli_value, SYL_NOWHERE,
                         "--after: the recipe has no pass \"%s\"; it has %s", s->after, c.names);
    }
    return tool_print(t, text.p, text.n);
}

/* ---- artifacts ---- */

static syl_status append_kernel(tool *t, const settings *s, const kir_kernel *kernel,
                                const syl_host_target *target, syl_text *out) {
    if (s->kernels) {
        kir_print(kernel, out);
        return SYL_OK;
    }
    syl_host_text stage = s->assembly ? SYL_HOST_ASM : s->llvm_raw ? SYL_HOST_LLVM : SYL_HOST_LLVM_OPTIMIZED;
    return syl_host_dump(kernel, target, stage, t->diag, out);
}

/* Kernels called `name` or numbered k<N>; all where name is NULL. */
static syl_status dump_kernels(tool *t, const settings *s, const syl_plan *plan,
                               const syl_host_target *target, const char *name, syl_text *out) {
    bool found = false;
    const char **names = SYL_NEW_ARRAY(&t->arena, const char *, plan->kernels.n + 1);
    for (size_t i = 0; i < plan->kernels.n; i++) {
        char number[24];
        snprintf(number, sizeof number, "k%zu", i);
        names[i] = plan->kernels.p[i]->name;
        if (name && strcmp(name, number) != 0 && strcmp(name, names[i]) != 0) continue;
        found = true;
        syl_text_printf(out, "%s k%zu: %s\n", s->kernels ? "//" : ";", i, names[i]);
        SYL_TRY(append_kernel(t, s, plan->kernels.p[i], target, out));
        syl_text_printf(out, "\n");
    }
    if (found || !name) return SYL_OK;
    const char *nearest = syl_nearest(name, names);
    return syl_error(t->diag, SYL_ERR_cli_kernel, SYL_NOWHERE, "the plan has no kernel \"%s\"%s%s%s", name,
                     nearest ? "; did you mean \"" : "", nearest ? nearest : "", nearest ? "\"?" : "");
}

static syl_status dump_artifact(tool *t, const settings *s, const syl_artifact *artifact,
                                const char *kernel) {
    if (s->ir) return tool_print(t, artifact->ir.text, artifact->ir.size);
    syl_host_target *target = SYL_NEW(&t->arena, syl_host_target);
    syl_plan *plan;
    syl_text out = {.arena = &t->arena};
    SYL_TRY(syl_host_target_find(t->cpu, t->diag, target));
    SYL_TRY(syl_plan_create(artifact->module, target, t->diag, &plan));
    syl_status status = SYL_OK;
    if (s->plan) {
        syl_plan_print(plan, &out);
    } else {
        status = dump_kernels(t, s, plan, target, kernel, &out);
    }
    syl_plan_destroy(plan);
    return status == SYL_OK ? tool_print(t, out.p ? out.p : "", out.n) : status;
}

static syl_status run(tool *t, void *user, const char **args, int n_args) {
    const settings *s = user;
    int stages = s->ir + s->plan + s->kernels + s->llvm + s->llvm_raw + s->assembly;
    if (stages != 1) {
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE,
                         "syl dump needs one of --ir, --plan, --kernels, --llvm, --llvm-raw, --asm");
    }
    if (n_args == 2 && (s->ir || s->plan)) {
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE,
                         "a kernel (\"%s\") goes with --kernels, --llvm or --asm", args[1]);
    }
    if (access(args[0], R_OK) == 0 && !syl_artifact_probe(args[0])) {
        if (s->ir) return dump_front(t, s, args[0]);
        return syl_error(t->diag, SYL_ERR_artifact_format, SYL_NOWHERE,
                         "\"%s\" is no artifact; plans and kernels are made of artifacts", args[0]);
    }
    if (s->recipe || s->after) {
        return syl_error(
            t->diag, SYL_ERR_cli_argument, SYL_NOWHERE,
            "an artifact holds its final IR only: give --recipe and --after with the checkpoint");
    }
    syl_artifact artifact;
    SYL_TRY(syl_artifact_open(args[0], t->diag, &artifact));
    syl_status status = dump_artifact(t, s, &artifact, n_args == 2 ? args[1] : NULL);
    syl_artifact_close(&artifact);
    return status;
}

const verb verb_dump = {
    .name = "dump",
    .summary = "show the text of any stage: IR, plan, kernel IR, LLVM IR, assembly",
    .usage = "FILE --ir [--recipe R --after PASS] | --plan | --kernels|--llvm|--asm [KERNEL]",
    .details = "FILE is an artifact; for --ir with --recipe a checkpoint or a graph. KERNEL is a name or a "
               "number as \"k3\", as --kernels shows them.",
    .options = options,
    .settings_size = sizeof(settings),
    .min_args = 1,
    .max_args = 2,
    .run = run,
};
