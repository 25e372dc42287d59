/* syl devices: what this machine offers. */
#include <string.h>

#include "base/json.h"
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

/* A line of JSON for each device: the processor first. */
static syl_status print_json(tool *t, syl_instance *instance, const syl_device *device, const char *name,
                             size_t n_gpus, const char *no_gpu) {
    syl_text list = {.arena = &t->arena};
    for (size_t i = 0; i < n_gpus; i++) {
        syl_gpu gpu = {.size = sizeof gpu};
        SYL_TRY(syl_instance_gpu(instance, i, &gpu));
        syl_text_printf(&list, "%s{\"device\": ", i ? ", " : "");
        syl_json_quote(&list, gpu.device);
        syl_text_printf(&list, ", \"name\": ");
        syl_json_quote(&list, gpu.name);
        syl_text_printf(&list,
                        ", \"capability\": %d, \"multiprocessors\": %d, \"memory\": %lld, \"l2\": %lld, "
                        "\"clock_mhz\": %d, \"memory_mhz\": %d, \"memory_bits\": %d, \"driver\": %d}",
                        gpu.capability, gpu.multiprocessors, (long long)gpu.memory, (long long)gpu.l2,
                        gpu.clock_mhz, gpu.memory_mhz, gpu.memory_bits, gpu.driver);
    }
    tool_json json = tool_json_begin(t);
    tool_json_text(&json, "processor", name);
    tool_json_text(&json, "cpu", device->cpu);
    tool_json_text(&json, "triple", device->triple);
    tool_json_int(&json, "cores", device->cores);
    tool_json_int(&json, "vector_floats", device->vector_floats);
    tool_json_int(&json, "vector_registers", device->vector_registers);
    tool_json_text(&json, "int8_dot", device->int8_dot);
    tool_json_text(&json, "llvm", device->llvm);
    tool_json_raw(&json, "gpus", syl_arena_printf(&t->arena, "[%s]", list.p ? list.p : ""));
    if (!n_gpus) tool_json_text(&json, "no_gpu", no_gpu);
    return tool_json_end(t, &json);
}

static syl_status print_gpus(syl_instance *instance, size_t n_gpus, const char *no_gpu, syl_text *text) {
    if (!n_gpus) syl_text_printf(text, "gpu: none (%s)\n", no_gpu);
    for (size_t i = 0; i < n_gpus; i++) {
        syl_gpu gpu = {.size = sizeof gpu};
        SYL_TRY(syl_instance_gpu(instance, i, &gpu));
        syl_text_printf(
            text, "%s: %s\n  capability  %d.%d, %d multiprocessors\n  memory      %.1f GB, L2 %.0f MB\n",
            gpu.device, gpu.name, gpu.capability / 10, gpu.capability % 10, gpu.multiprocessors,
            1e-9 * (double)gpu.memory, 1e-6 * (double)gpu.l2);
        if (gpu.clock_mhz && gpu.memory_mhz)
            syl_text_printf(text, "  clocks      %d MHz, memory %d MHz, %d bits\n", gpu.clock_mhz,
                            gpu.memory_mhz, gpu.memory_bits);
        syl_text_printf(text, "  driver      CUDA %d.%d\n", gpu.driver / 1000, gpu.driver % 1000 / 10);
    }
    return SYL_OK;
}

static syl_status run(tool *t, void *user, const char **args, int n_args) {
    (void)user, (void)args, (void)n_args;
    syl_instance *instance;
    syl_device device = {.size = sizeof device};
    char name[200];
    const char *no_gpu;
    size_t n_gpus;
    SYL_TRY(tool_instance(t, &instance));
    SYL_TRY(syl_instance_device(instance, &device));
    SYL_TRY(syl_instance_gpus(instance, &n_gpus, &no_gpu));
    processor_name(name, sizeof name);
    if (t->json) return print_json(t, instance, &device, name, n_gpus, no_gpu);
    syl_text text = {.arena = &t->arena};
    syl_text_printf(&text,
                    "cpu: %s, %d cores\n  target      %s (%s)\n  vectors     %d floats, %d registers%s\n  "
                    "int8        %s\n  LLVM        %s\n",
                    name, device.cores, device.cpu, device.triple, device.vector_floats,
                    device.vector_registers, device.fused_multiply_add ? ", fused multiply-add" : "",
                    device.int8_dot, device.llvm);
    SYL_TRY(print_gpus(instance, n_gpus, no_gpu, &text));
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
