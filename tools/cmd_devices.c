/* syl devices: what this machine offers. */
#include <string.h>

#include "codegen/host/host.h"
#include "tools/tool.h"

static const opt_spec options[] = {{0}};

static const char *dot_name(kir_dot dot) {
    switch (dot) {
    case KIR_DOT_VNNI:
        return "vpdpbusd (VNNI)";
    case KIR_DOT_MADD:
        return "vpmaddwd (AVX2)";
    case KIR_DOT_I8:
        return "widened products";
    case KIR_DOT_F32:
        break;
    }
    return "none";
}

/* The processor's own name, as the kernel tells it. */
static void processor_name(char *name, size_t size) {
    char line[256];
    snprintf(name, size, "unknown");
    FILE *file = fopen("/proc/cpuinfo", "r");
    if (!file) return;
    while (fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon) continue;
        snprintf(name, size, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
        break;
    }
    fclose(file);
}

static syl_status run(tool *t, void *user, const char **args, int n_args) {
    (void)user, (void)args, (void)n_args;
    syl_host_target *target = SYL_NEW(&t->arena, syl_host_target);
    char name[200];
    SYL_TRY(syl_host_target_find(t->cpu, t->diag, target));
    processor_name(name, sizeof name);
    if (t->json) {
        tool_json json = tool_json_begin(t);
        tool_json_text(&json, "processor", name);
        tool_json_text(&json, "cpu", target->cpu);
        tool_json_text(&json, "triple", target->triple);
        tool_json_int(&json, "cores", syl_cpu_count());
        tool_json_int(&json, "vector_floats", target->vector_floats);
        tool_json_int(&json, "vector_registers", target->vector_registers);
        tool_json_text(&json, "int8_dot", dot_name(target->int8_dot));
        tool_json_text(&json, "llvm", syl_host_llvm_version());
        return tool_json_end(t, &json);
    }
    syl_text text = {.arena = &t->arena};
    syl_text_printf(&text,
                    "cpu: %s, %d cores\n  target      %s (%s)\n  vectors     %d floats, %d registers%s\n  "
                    "int8        %s\n  LLVM        %s\n",
                    name, syl_cpu_count(), target->cpu, target->triple, target->vector_floats,
                    target->vector_registers, target->fma ? ", fused multiply-add" : "",
                    dot_name(target->int8_dot), syl_host_llvm_version());
    return tool_print(t, text.p, text.n);
}

const verb verb_devices = {
    .name = "devices",
    .summary = "show what this machine offers",
    .usage = "",
    .options = options,
    .settings_size = 1,
    .run = run,
};
