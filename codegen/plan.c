/* Plans: ownership and text. Lowering (lower.c) makes them. */
#include <stdlib.h>
#include "codegen/plan.h"

void syl_plan_destroy(syl_plan *plan) {
    if (!plan) return;
    syl_arena_free(&plan->arena);
    free(plan);
}

static void print_arg(const syl_plan *plan, const syl_plan_arg *arg, syl_text *out) {
    switch (arg->kind) {
    case SYL_ARG_SLOT:
        syl_text_printf(out, "slot %d", arg->index);
        break;
    case SYL_ARG_INPUT:
        syl_text_printf(out, "input %d", arg->index);
        break;
    case SYL_ARG_OUTPUT:
        syl_text_printf(out, "output %d", arg->index);
        break;
    case SYL_ARG_CACHE:
        syl_text_printf(out, "cache layer %d", arg->index);
        break;
    case SYL_ARG_WEIGHT:
        syl_text_printf(out, "weight %s%s", plan->weights.p[arg->index].name,
                        plan->weights.p[arg->index].packed ? " packed" : "");
        break;
    }
    if (arg->offset) syl_text_printf(out, " + %lld", (long long)arg->offset);
}

void syl_plan_print(const syl_plan *plan, syl_text *out) {
    syl_text_printf(out, "plan of @%s: %zu kernels, %zu steps\n", plan->module->name, plan->kernels.n,
                    plan->steps.n);
    for (size_t i = 0; i < plan->slots.n; i++)
        if (plan->slots.p[i].row_bytes)
            syl_text_printf(out, "  slot %zu: %s rows of %lld bytes\n", i,
                            plan->symbols[plan->slots.p[i].rows], (long long)plan->slots.p[i].row_bytes);
    for (size_t i = 0; i < plan->steps.n; i++) {
        const syl_plan_step *step = &plan->steps.p[i];
        const kir_kernel *kernel = plan->kernels.p[step->kernel];
        syl_text_printf(out, "  %3zu  k%d %s over %s  // %s\n", i, step->kernel, kernel->name,
                        plan->symbols[step->rows], step->label);
        for (int a = 0; a < step->n_args; a++) {
            syl_text_printf(out, "         %s = ", kernel->buffers.p[a].name);
            print_arg(plan, &step->args[a], out);
            syl_text_printf(out, "\n");
        }
    }
}
