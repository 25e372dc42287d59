/* syl devices: what this machine offers. */
#include <string.h>

#include "tools/tool.h"

static const opt_spec options[] = {{0}};

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
    syl_instance *instance;
    syl_device device = {.size = sizeof device};
    char name[200];
    SYL_TRY(tool_instance(t, &instance));
    SYL_TRY(syl_instance_device(instance, &device));
    processor_name(name, sizeof name);
    if (t->json) {
        tool_json json = tool_json_begin(t);
        tool_json_text(&json, "processor", name);
        tool_json_text(&json, "cpu", device.cpu);
        tool_json_text(&json, "triple", device.triple);
        tool_json_int(&json, "cores", device.cores);
        tool_json_int(&json, "vector_floats", device.vector_floats);
        tool_json_int(&json, "vector_registers", device.vector_registers);
        tool_json_text(&json, "int8_dot", device.int8_dot);
        tool_json_text(&json, "llvm", device.llvm);
        return tool_json_end(t, &json);
    }
    syl_text text = {.arena = &t->arena};
    syl_text_printf(&text,
                    "cpu: %s, %d cores\n  target      %s (%s)\n  vectors     %d floats, %d registers%s\n  "
                    "int8        %s\n  LLVM        %s\n",
                    name, device.cores, device.cpu, device.triple, device.vector_floats,
                    device.vector_registers, device.fused_multiply_add ? ", fused multiply-add" : "",
                    device.int8_dot, device.llvm);
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
