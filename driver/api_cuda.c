/* The public API: CUDA code for people, of any architecture and without a GPU, and whether NVRTC works here. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "codegen/cuda/compile.h"
#include "codegen/cuda/nvrtc.h"
#include "codegen/cuda/schedule.h"
#include "driver/api.h"

/* ---- which kernels, in which variants ---- */

enum { MAX_VARIANTS = 256, DEFAULT_ROWS = 512 };

typedef struct view {
    api_call *call;
    syl_cuda_settings settings;
    syl_cuda_target target;
    const syl_plan *plan;
    SYL_VEC(syl_cuda_job) jobs;
    SYL_VEC(int) numbers;        /* of the job's kernel in the plan, or of several in the schedule */
    syl_cuda_schedule *schedule; /* of the rows asked for; NULL: nothing goes together */
} view;

static const char *variant_text(view *v, const syl_cuda_variant *variant) {
    syl_text text = {.arena = &v->call->arena};
    syl_cuda_variant_print(variant, &text);
    return text.p;
}

static void add_job(view *v, int number, const syl_cuda_variant *variant) {
    for (size_t i = 0; i < v->jobs.n; i++)
        if (v->numbers.p[i] == number && !v->jobs.p[i].fused &&
            memcmp(&v->jobs.p[i].variant, variant, sizeof *variant) == 0)
            return;
    SYL_PUSH(&v->call->arena, &v->jobs,
             (syl_cuda_job){.kernel = v->plan->kernels.p[number], .variant = *variant});
    SYL_PUSH(&v->call->arena, &v->numbers, number);
}

/* The variant asked for, where it is one of the kernel's. */
static syl_status add_variant(view *v, int number, const syl_cuda_variant *variants, int n) {
    syl_cuda_variant wanted;
    syl_diag *diag = v->call->diag;
    if (!syl_cuda_variant_parse(v->settings.variant, &wanted))
        return syl_error(diag, SYL_ERR_cuda_variant, SYL_NOWHERE, "\"%s\" is no variant of a kernel",
                         v->settings.variant);
    for (int i = 0; i < n; i++) {
        if (memcmp(&variants[i], &wanted, sizeof wanted) != 0) continue;
        add_job(v, number, &wanted);
        return SYL_OK;
    }
    if (!v->settings.kernel) return SYL_OK; /* of all kernels, those that have it */
    return syl_error(diag, SYL_ERR_cuda_variant, SYL_NOWHERE,
                     "kernel k%d (%s) has no variant \"%s\" on %s; the best is \"%s\"", number,
                     v->plan->kernels.p[number]->name, v->settings.variant, v->target.name,
                     variant_text(v, &variants[0]));
}

static syl_status add_kernel(view *v, int number, int64_t rows) {
    syl_cuda_variant variants[MAX_VARIANTS];
    const kir_kernel *kernel = v->plan->kernels.p[number];
    int n = syl_cuda_variants(kernel, &v->target, rows, variants, MAX_VARIANTS);
    if (n < 1)
        return syl_error(v->call->diag, SYL_ERR_internal, SYL_NOWHERE, "kernel k%d (%s) has no variant on %s",
                         number, kernel->name, v->target.name);
    if (v->settings.variant) return add_variant(v, number, variants, n);
    add_job(v, number, &variants[0]);
    return SYL_OK;
}

/* ---- kernels of few rows that are launched together ---- */

static syl_cuda_variant pick_best(void *user, int kernel, bool *measured) {
    view *v = user;
    *measured = false;
    syl_cuda_variant best = {0};
    syl_cuda_variants(v->plan->kernels.p[kernel], &v->target, v->settings.rows, &best, 1);
    return best;
}

static syl_status make_schedule(view *v) {
    if (v->settings.rows < 1 || v->settings.rows > SYL_CUDA_FEW || v->settings.variant) return SYL_OK;
    return syl_cuda_schedule_create(v->plan, &v->target, v->settings.rows, pick_best, v, v->call->diag,
                                    &v->schedule);
}

/* "f0", "f1", ..., as the plan shows them; all of them where no kernel is asked for. */
static bool add_together(view *v) {
    const char *name = v->settings.kernel;
    bool some = false;
    for (size_t i = 0; v->schedule && i < v->schedule->fused.n; i++) {
        if (name && strcmp(name, syl_arena_printf(&v->call->arena, "f%zu", i)) != 0) continue;
        SYL_PUSH(&v->call->arena, &v->jobs, (syl_cuda_job){.fused = &v->schedule->fused.p[i]});
        SYL_PUSH(&v->call->arena, &v->numbers, (int)i);
        some = true;
    }
    return some && name;
}

static const char *job_name(view *v, size_t job, bool variant) {
    const syl_cuda_job *j = &v->jobs.p[job];
    syl_text text = {.arena = &v->call->arena};
    if (!j->fused) return variant ? variant_text(v, &j->variant) : j->kernel->name;
    if (variant)
        syl_cuda_fused_print(j->fused, &text);
    else
        syl_cuda_fused_name(j->fused, &text);
    return text.p;
}

static syl_status choose_jobs(view *v, bool buckets) {
    static const int64_t several[] = {1, 16, 64, 512, 4096};
    const bool *picked;
    int n = buckets && !v->settings.rows ? 5 : 1;
    if (add_together(v)) return SYL_OK;
    SYL_TRY(api_pick_kernels(v->call, v->plan, v->settings.kernel, &picked));
    for (size_t k = 0; k < v->plan->kernels.n; k++) {
        for (int i = 0; i < n && picked[k]; i++) {
            int64_t rows = v->settings.rows ? v->settings.rows : buckets ? several[i] : DEFAULT_ROWS;
            SYL_TRY(add_kernel(v, (int)k, rows));
        }
    }
    if (v->jobs.n || !v->settings.variant) return SYL_OK;
    return syl_error(v->call->diag, SYL_ERR_cuda_variant, SYL_NOWHERE, "no kernel has a variant \"%s\" on %s",
                     v->settings.variant, v->target.name);
}

/* ---- the texts ---- */

static void print_title(view *v, size_t job, syl_text *out) {
    syl_text_printf(out, "// %c%d: %s, %s\n", v->jobs.p[job].fused ? 'f' : 'k', v->numbers.p[job],
                    job_name(v, job, false), job_name(v, job, true));
}

static syl_status print_sources(view *v, syl_text *out) {
    for (size_t i = 0; i < v->jobs.n; i++) {
        syl_cuda_launch launch;
        print_title(v, i, out);
        syl_text source = {.arena = out->arena}; /* of its own: templates appear once in each */
        SYL_TRY(syl_cuda_job_source(&v->jobs.p[i], &v->target, v->call->diag, &source, &launch));
        syl_text_append(out, source.p, source.n);
        syl_text_printf(out, "\n");
    }
    return SYL_OK;
}

static void print_resources(view *v, const syl_cuda_binaries *b, syl_text *out) {
    syl_text_printf(out, "%-5s %-40s %-36s %4s %4s %6s %6s %7s %6s\n", "", v->target.name, "variant", "regs",
                    "thr", "spill", "stack", "shared", "code");
    for (size_t i = 0; i < v->jobs.n; i++) {
        const syl_cuda_code *code = &b->codes[i];
        const syl_cuda_resources *r = &code->resources;
        char number[16];
        snprintf(number, sizeof number, "%c%d", v->jobs.p[i].fused ? 'f' : 'k', v->numbers.p[i]);
        syl_text_printf(out, "%-5s %-40.40s %-36s %4d %4d %6lld %6lld %7lld %6zu%s\n", number,
                        job_name(v, i, false), job_name(v, i, true), r->registers, code->launch.threads,
                        (long long)(r->spill_stores + r->spill_loads), (long long)r->stack,
                        (long long)(r->shared + code->launch.shared), code->size,
                        r->serialized ? "  wgmma serialized" : "");
    }
}

static syl_status print_compiled(view *v, syl_stage stage, syl_text *out) {
    api_call *call = v->call;
    syl_cuda_binaries *b;
    syl_cuda_compile_options options = {.threads = call->instance->threads};
    if (stage == SYL_STAGE_PTX)
        options.arch = syl_arena_printf(&call->arena, "compute_%s", v->target.name + strlen("sm_"));
    SYL_TRY(api_cache(call, &options.cache_dir));
    SYL_TRY(syl_cuda_compile(v->jobs.p, v->jobs.n, &v->target, &options, call->diag, &b));
    if (stage == SYL_STAGE_RESOURCES) print_resources(v, b, out);
    for (size_t i = 0; i < b->n && stage == SYL_STAGE_PTX; i++) {
        print_title(v, i, out);
        syl_text_append(out, b->codes[i].code, b->codes[i].size);
        syl_text_printf(out, "\n");
    }
    syl_cuda_binaries_destroy(b);
    return SYL_OK;
}

syl_status api_print_cuda(api_call *call, const char *name, syl_stage stage, const syl_module *module,
                          const syl_cuda_settings *given, syl_text *out) {
    view v = {.call = call};
    syl_plan *plan;
    if (given && !api_take(&v.settings, sizeof v.settings, given))
        return api_bad(call, name, "settings has no size, or asks for what this version lacks");
    if (v.settings.rows < 0 || v.settings.rows > INT32_MAX)
        return api_bad(call, name, "rows is below 0 or above 2^31 - 1");
    const char *arch = v.settings.arch ? v.settings.arch : "sm_90a";
    if (!syl_cuda_target_named(arch, &v.target))
        return syl_error(call->diag, SYL_ERR_cuda_arch, SYL_NOWHERE, "there is no architecture \"%s\"", arch);
    SYL_TRY(syl_plan_create_cuda(module, call->diag, &plan));
    v.plan = plan;
    syl_status status = make_schedule(&v);
    if (status == SYL_OK && stage == SYL_STAGE_PLAN) {
        syl_plan_print(plan, out);
        if (v.schedule) syl_cuda_schedule_print(v.schedule, plan, out);
    } else {
        if (status == SYL_OK) status = choose_jobs(&v, stage == SYL_STAGE_RESOURCES);
        if (status == SYL_OK)
            status = stage == SYL_STAGE_CUDA ? print_sources(&v, out) : print_compiled(&v, stage, out);
    }
    syl_cuda_schedule_destroy(v.schedule);
    syl_plan_destroy(plan);
    return status;
}

static syl_status inspect_cuda(api_call *call, const char *path, syl_stage stage,
                               const syl_cuda_settings *settings, char **text, size_t *size) {
    static const char name[] = "syl_inspect_cuda";
    if (!path || !text) return api_bad(call, name, "path or text is NULL");
    if (stage != SYL_STAGE_PLAN && (stage < SYL_STAGE_CUDA || stage > SYL_STAGE_RESOURCES))
        return api_bad(call, name, "the stage is not one of CUDA");
    if (syl_file_is_artifact(path) == 0) {
        return syl_error(call->diag, SYL_ERR_artifact_format, SYL_NOWHERE,
                         "\"%s\" is no artifact; plans and kernels are made of artifacts", path);
    }
    syl_artifact artifact;
    syl_text out = {.arena = &call->arena};
    SYL_TRY(syl_artifact_open(path, call->diag, &artifact));
    syl_status status = api_print_cuda(call, name, stage, artifact.module, settings, &out);
    if (status == SYL_OK) status = api_text(call, out.p ? out.p : "", out.n, text, size);
    syl_artifact_close(&artifact);
    return status;
}

syl_status syl_inspect_cuda(syl_instance *instance, const char *path, syl_stage stage,
                            const syl_cuda_settings *settings, char **text, size_t *text_size) {
    api_call call;
    if (text) *text = NULL;
    SYL_TRY(api_begin(&call, instance));
    return api_end(&call, inspect_cuda(&call, path, stage, settings, text, text_size));
}

/* ---- NVRTC ---- */

typedef struct reason {
    syl_arena *arena;
    const char *why, *help;
} reason;

static void keep_first(void *user, const syl_message *message) {
    reason *r = user;
    if (message->severity != SYL_SEV_ERROR || r->why) return;
    r->why = syl_arena_strdup(r->arena, message->text);
    r->help = syl_error_help(message->error);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static syl_status try_nvrtc(syl_arena *arena, syl_diag *diag, syl_nvrtc_info *info) {
    static const char kernel[] =
        "extern \"C\" __global__ void self_test(float *x) { x[threadIdx.x] *= 2; }\n";
    const syl_nvrtc_input input = {.name = "self-test", .source = kernel, .arch = "sm_90a"};
    double start = now();
    syl_nvrtc_place place;
    syl_nvrtc *nvrtc;
    syl_nvrtc_output output;
    SYL_TRY(syl_nvrtc_find(arena, diag, &place));
    info->path = place.path;
    info->major = place.major;
    info->minor = place.minor;
    SYL_TRY(syl_nvrtc_open(&place, diag, &nvrtc));
    syl_nvrtc_version(nvrtc, &info->major, &info->minor);
    syl_status status = syl_nvrtc_compile(nvrtc, &input, diag, &output);
    if (status == SYL_OK) syl_nvrtc_output_free(&output);
    syl_nvrtc_close(nvrtc);
    info->seconds = now() - start;
    return status;
}

syl_status syl_instance_nvrtc(syl_instance *instance, syl_nvrtc_info *out) {
    api_call call;
    SYL_TRY(api_begin(&call, instance));
    if (!api_fits(out)) return api_end(&call, api_bad(&call, __func__, "out is NULL or has no size"));
    syl_nvrtc_info info = {0};
    reason r = {.arena = &instance->arena};
    syl_diag *diag = syl_diag_create(keep_first, &r);
    if (!diag)
        return api_end(&call,
                       syl_error(call.diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for messages"));
    info.usable = try_nvrtc(&instance->arena, diag, &info) == SYL_OK;
    info.why = r.why ? r.why : "";
    info.help = r.help ? r.help : "";
    syl_diag_destroy(diag);
    api_give(out, &info, sizeof info);
    return api_end(&call, SYL_OK);
}
