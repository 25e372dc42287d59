/* syl doctor: is this machine fit, and if not, what to do. Ends with the status of the first check that failed. */
#include "base/json.h"
#include "tools/sizes.h"
#include "tools/tool.h"

static const opt_spec options[] = {{0}};

typedef struct doctor {
    tool *t;
    syl_text text; /* the report */
    int failed;
    syl_status status; /* of the first failure */
} doctor;

/* Failures report themselves on stderr, with their help; the report names the check. */
static void note(doctor *d, const char *check, syl_status status, const char *found) {
    if (d->t->json) {
        syl_text_printf(&d->text, "%s{\"check\": \"%s\", \"ok\": %s, \"found\": ", d->text.n ? ", " : "",
                        check, status == SYL_OK ? "true" : "false");
        syl_json_quote(&d->text, found);
        syl_text_printf(&d->text, "}");
    } else {
        syl_text_printf(&d->text, "%-7s %-10s %s\n", status == SYL_OK ? "ok" : "FAILED", check, found);
    }
    if (status == SYL_OK) return;
    d->failed++;
    if (d->status == SYL_OK) d->status = status;
}

static void check_cpu(doctor *d, syl_instance *instance) {
    tool *t = d->t;
    syl_device device = {.size = sizeof device};
    syl_status status = syl_instance_device(instance, &device);
    const char *found = "not found";
    if (status == SYL_OK) {
        note(d, "llvm", SYL_OK, device.llvm);
        found = syl_arena_printf(&t->arena, "%s: vectors of %d floats%s, %d cores%s", device.cpu,
                                 device.vector_floats,
                                 device.fused_multiply_add ? ", fused multiply-add" : "", device.cores,
                                 device.vector_floats < 8 ? "; without AVX2 everything is slow" : "");
    }
    note(d, "cpu", status, found);
    if (status != SYL_OK) return;
    double start = tool_seconds();
    status = syl_instance_test(instance);
    found = status == SYL_OK ? syl_arena_printf(&t->arena, "a kernel was compiled and run in %.2f s",
                                                tool_seconds() - start)
                             : "a kernel could not be compiled and run";
    note(d, "self-test", status, found);
}

static void check_disk(doctor *d, const char *check, const char *path) {
    int64_t bytes = syl_disk_available(path);
    tool *t = d->t;
    if (bytes < 0) return;
    syl_status status = SYL_OK;
    if (bytes < (int64_t)1 << 30) {
        status = syl_error(t->diag, SYL_ERR_compile_disk, SYL_NOWHERE, "the disk of \"%s\" has only %s free",
                           path, size_text(&t->arena, bytes));
    }
    note(d, check, status, syl_arena_printf(&t->arena, "%s free at %s", size_text(&t->arena, bytes), path));
}

static void check_cache(doctor *d, syl_instance *instance) {
    tool *t = d->t;
    char *folder = NULL;
    syl_cache_settings settings = {.size = sizeof settings};
    syl_cache_report report = {.size = sizeof report};
    syl_status status = syl_instance_cache(instance, &folder);
    settings.folder = folder;
    if (status == SYL_OK && folder) status = syl_cache_sweep(instance, &settings, &report);
    const char *found = "not usable";
    if (status == SYL_OK && !folder) found = "none: HOME is not set; every start compiles its kernels";
    if (status == SYL_OK && folder) {
        found = syl_arena_printf(&t->arena, "%s: %lld files, %s", folder,
                                 (long long)(report.kernels + report.tensors),
                                 size_text(&t->arena, report.kernel_bytes + report.tensor_bytes));
    }
    note(d, "cache", status, found);
    if (status == SYL_OK && folder) check_disk(d, "cache disk", folder);
    syl_free(folder);
}

/* Only GPUs need their driver and NVRTC: a machine without a GPU is fit all the same. */
static void check_nvrtc(doctor *d, syl_instance *instance, bool needed) {
    tool *t = d->t;
    syl_nvrtc_info info = {.size = sizeof info};
    syl_status status = syl_instance_nvrtc(instance, &info);
    const char *found = "not looked for";
    if (status == SYL_OK && info.usable) {
        found = syl_arena_printf(&t->arena, "%d.%d at %s; a kernel for GPUs was compiled in %.2f s",
                                 info.major, info.minor, info.path, info.seconds);
    } else if (status == SYL_OK) {
        found = syl_arena_printf(&t->arena, "none to use, so no CUDA devices: %s; %s", info.why, info.help);
        if (needed) status = syl_error(t->diag, SYL_ERR_nvrtc_missing, SYL_NOWHERE, "%s", info.why);
    }
    note(d, "nvrtc", status, found);
}

static void check_cuda(doctor *d, syl_instance *instance) {
    tool *t = d->t;
    size_t n = 0;
    const char *why = "";
    syl_text found = {.arena = &t->arena};
    syl_status status = syl_instance_gpus(instance, &n, &why);
    if (!n) syl_text_printf(&found, "no GPU: %s", why);
    for (size_t i = 0; i < n && status == SYL_OK; i++) {
        syl_gpu gpu = {.size = sizeof gpu};
        status = syl_instance_gpu(instance, i, &gpu);
        if (status == SYL_OK)
            syl_text_printf(&found, "%s%s: %s, driver for CUDA %d.%d", i ? "; " : "", gpu.device, gpu.name,
                            gpu.driver / 1000, gpu.driver % 1000 / 10);
    }
    note(d, "cuda", status, found.p);
    if (status == SYL_OK) check_nvrtc(d, instance, n > 0);
}

static syl_status run(tool *t, void *user, const char **args, int n_args) {
    (void)user, (void)args, (void)n_args;
    syl_instance *instance;
    doctor d = {.t = t, .text = {.arena = &t->arena}};
    SYL_TRY(tool_instance(t, &instance));
    check_cpu(&d, instance);
    note(&d, "memory", SYL_OK,
         syl_arena_printf(&t->arena, "%s free", size_text(&t->arena, syl_memory_available())));
    check_cache(&d, instance);
    check_disk(&d, "disk", ".");
    check_cuda(&d, instance);
    syl_text out = {.arena = &t->arena};
    if (t->json) {
        syl_text_printf(&out, "{\"ok\": %s, \"checks\": [%s]}\n", d.failed ? "false" : "true", d.text.p);
    } else {
        syl_text_printf(&out, "%s", d.text.p);
        if (!d.failed) syl_text_printf(&out, "everything is fine\n");
    }
    SYL_TRY(tool_print(t, out.p, out.n));
    return d.status;
}

const verb verb_doctor = {
    .name = "doctor",
    .summary = "check that this machine is fit for compiling and running models",
    .usage = "",
    .details = "Compiles and runs a small kernel, and looks at LLVM, the CPU, memory, the cache folder and "
               "the disks. What\n"
               "fails is told with what to do about it; the exit code is that of the first failure.",
    .options = options,
    .settings_size = 1,
    .run = run,
};
