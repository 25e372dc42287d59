/* Timing by graphs and events, and what is written beside every figure: device, driver, clocks, commit. */
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "gpu.h"

cu_graph_exec gpu_capture(gpu *g, gpu_work *work, void *user, int calls) {
    cu_graph graph;
    cu_graph_exec exec;
    gpu_must(g, g->driver.stream_capture(g->stream, CU_CAPTURE_THREAD_LOCAL), "beginning a capture");
    for (int i = 0; i < calls; i++) work(user, i);
    gpu_must(g, g->driver.stream_captured(g->stream, &graph), "ending a capture");
    gpu_must(g, g->driver.graph_instantiate(&exec, graph, 0), "instantiating a graph");
    gpu_must(g, g->driver.graph_destroy(graph), "dropping a graph");
    return exec;
}

double gpu_time_graph(gpu *g, cu_graph_exec graph) {
    static cu_event events[2];
    float milliseconds = 0;
    for (int i = 0; i < 2; i++)
        if (!events[i]) gpu_must(g, g->driver.event_create(&events[i], CU_EVENT_DEFAULT), "making an event");
    gpu_must(g, g->driver.event_record(events[0], g->stream), "recording an event");
    gpu_must(g, g->driver.graph_launch(graph, g->stream), "launching a graph");
    gpu_must(g, g->driver.event_record(events[1], g->stream), "recording an event");
    gpu_must(g, g->driver.event_wait(events[1]), "waiting for an event");
    gpu_must(g, g->driver.event_elapsed(&milliseconds, events[0], events[1]), "reading events");
    return milliseconds * 1e-3;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double gpu_median(double *values, int n) {
    qsort(values, (size_t)n, sizeof *values, compare);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

gpu_state gpu_read_state(void) {
    gpu_state s = {0};
    FILE *smi = popen("nvidia-smi --query-gpu=clocks.sm,clocks.mem,power.draw,temperature.gpu "
                      "--format=csv,noheader,nounits 2>/dev/null",
                      "r");
    if (!smi) return s;
    if (fscanf(smi, "%lf, %lf, %lf, %lf", &s.sm_clock, &s.memory_clock, &s.power, &s.temperature) < 1)
        s = (gpu_state){0};
    pclose(smi);
    return s;
}

/* The commit of the build: of the environment, or of the file that scripts/gpu-bundle lays beside the programs. */
static void read_commit(char *out, size_t size) {
    const char *given = getenv("SYL_COMMIT");
    snprintf(out, size, "%s", given ? given : "unknown");
    char path[4096];
    ssize_t n = given ? -1 : readlink("/proc/self/exe", path, sizeof path - 8);
    if (n < 0) return;
    path[n] = 0;
    char file[4200];
    snprintf(file, sizeof file, "%s/COMMIT", dirname(path));
    FILE *f = fopen(file, "r");
    if (!f) return;
    if (fgets(out, (int)size, f)) out[strcspn(out, "\n")] = 0;
    fclose(f);
}

void gpu_print_machine(const gpu *g, FILE *out) {
    char commit[128];
    read_commit(commit, sizeof commit);
    gpu_state s = gpu_read_state();
    fprintf(out,
            "\"device\": \"%s\", \"driver\": %d, \"nvrtc\": %d, \"target\": \"%s\", \"sms\": %d, \"commit\": "
            "\"%s\", \"sm_clock_mhz\": %.0f, "
            "\"memory_clock_mhz\": %.0f, \"power_w\": %.0f, \"temperature_c\": %.0f",
            g->name, g->driver.version, g->nvrtc_version, g->target.name, g->target.sms, commit, s.sm_clock,
            s.memory_clock, s.power, s.temperature);
}
