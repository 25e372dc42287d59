/* The public API: instances, messages, and what all calls share (api.h). */
#include "driver/api.h"

#include <stdlib.h>
#include <string.h>

_Static_assert((int)SYL_LEVEL_ERROR == SYL_SEV_ERROR && (int)SYL_LEVEL_WARNING == SYL_SEV_WARNING &&
                   (int)SYL_LEVEL_REMARK == SYL_SEV_REMARK && (int)SYL_LEVEL_NOTE == SYL_SEV_NOTE,
               "public levels are the severities");

/* ---- everywhere ---- */

const char *syl_version(void) {
    return SYL_VERSION;
}
const char *syl_status_text(syl_status status) {
    return syl_status_meaning(status);
}
const char *syl_status_identifier(syl_status status) {
    return syl_status_name(status);
}
void syl_free(void *memory) {
    free(memory);
}

/* ---- messages ---- */

/* diag calls it for one message at a time. */
static void take_message(void *user, const syl_message *message) {
    syl_instance *instance = user;
    syl_arena arena;
    syl_arena_init(&arena);
    syl_text rendered = {.arena = &arena};
    syl_message_render(message, &rendered);
    bool is_error = message->severity == SYL_SEV_ERROR;
    if (is_error) syl_text_append(&instance->errors, rendered.p, rendered.n);
    if (instance->message) {
        syl_notice notice = {.size = sizeof notice,
                             .level = (int)message->severity,
                             .name = is_error ? syl_error_name(message->error) : NULL,
                             .text = message->text,
                             .help = is_error ? syl_error_help(message->error) : NULL,
                             .file = message->loc.source ? message->loc.source->name : NULL,
                             .rendered = rendered.p};
        syl_loc_line(message->loc, &notice.line, &notice.column);
        instance->message(instance->user, &notice);
    }
    syl_arena_free(&arena);
}

syl_status api_begin(api_call *call, syl_instance *instance) {
    if (!instance || atomic_flag_test_and_set_explicit(&instance->busy, memory_order_acquire))
        return SYL_USAGE;
    syl_arena_free(&instance->errors_arena);
    instance->errors = (syl_text){.arena = &instance->errors_arena};
    call->instance = instance;
    call->diag = syl_diag_create(take_message, instance);
    if (!call->diag) {
        atomic_flag_clear_explicit(&instance->busy, memory_order_release);
        return SYL_MEMORY;
    }
    syl_arena_init(&call->arena);
    return SYL_OK;
}

syl_status api_end(api_call *call, syl_status status) {
    syl_diag_destroy(call->diag);
    syl_arena_free(&call->arena);
    atomic_flag_clear_explicit(&call->instance->busy, memory_order_release);
    return status;
}

syl_status api_begin_lm(api_call *call, syl_session *session) {
    SYL_TRY(api_begin(call, session ? session->instance : NULL));
    if (session->lm.context) return SYL_OK;
    return api_end(call, syl_error(call->diag, SYL_ERR_exec_signature, SYL_NOWHERE,
                                   "\"%s\" is no language model", session->program->path));
}

syl_status api_bad(const api_call *call, const char *function, const char *what) {
    return syl_error(call->diag, SYL_ERR_api_argument, SYL_NOWHERE, "%s: %s", function, what);
}

/* ---- structs of callers ---- */

enum { MAX_STRUCT = 4096 }; /* no struct of any version is larger; a size above it is no size */

static size_t size_of(const void *given) {
    size_t size = 0;
    if (given) memcpy(&size, given, sizeof size);
    return size >= sizeof size && size <= MAX_STRUCT ? size : 0;
}

bool api_fits(const void *given) {
    return size_of(given) != 0;
}

bool api_take(void *own, size_t own_size, const void *given) {
    size_t size = size_of(given), known = size < own_size ? size : own_size;
    const unsigned char *bytes = given;
    if (!size) return false;
    for (size_t i = own_size; i < size; i++) {
        if (bytes[i]) return false; /* an option this version does not know must not be passed over */
    }
    memset(own, 0, own_size);
    memcpy(own, given, known);
    return true;
}

bool api_give(void *given, const void *own, size_t own_size) {
    size_t size = size_of(given);
    if (!size) return false;
    memset(given, 0, size);
    memcpy(given, own, size < own_size ? size : own_size);
    memcpy(given, &size, sizeof size);
    return true;
}

syl_status api_text(const api_call *call, const char *text, size_t n, char **out, size_t *size) {
    char *copy = malloc(n + 1);
    if (!copy)
        return syl_error(call->diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for %zu bytes of text",
                         n);
    if (n) memcpy(copy, text, n);
    copy[n] = 0;
    *out = copy;
    if (size) *size = n;
    return SYL_OK;
}

/* ---- instances ---- */

syl_status syl_instance_create(const syl_instance_options *options, syl_instance **out) {
    if (!out) return SYL_USAGE;
    *out = NULL;
    syl_instance_options o = {0};
    if (options && !api_take(&o, sizeof o, options)) return SYL_USAGE;
    if (o.threads < 0 || o.threads > 4096) return SYL_USAGE;
    syl_instance *instance = calloc(1, sizeof *instance);
    if (!instance) return SYL_MEMORY;
    syl_arena_init(&instance->arena);
    syl_arena_init(&instance->errors_arena);
    atomic_flag_clear(&instance->busy);
    instance->threads = o.threads;
    instance->cpu = syl_arena_strdup(&instance->arena, o.cpu ? o.cpu : "host");
    instance->device = o.device ? syl_arena_strdup(&instance->arena, o.device) : NULL;
    instance->n_gpus = -1;
    instance->cache_dir = o.cache_dir ? syl_arena_strdup(&instance->arena, o.cache_dir) : NULL;
    instance->message = o.message;
    instance->progress = o.progress;
    instance->user = o.user;
    *out = instance;
    return SYL_OK;
}

void syl_instance_destroy(syl_instance *instance) {
    if (!instance) return;
    syl_pool_destroy(instance->pool);
    syl_arena_free(&instance->errors_arena);
    syl_arena_free(&instance->arena);
    free(instance);
}

const char *syl_instance_error(const syl_instance *instance) {
    return instance && instance->errors.p ? instance->errors.p : "";
}

syl_status api_pool(const api_call *call, syl_pool **out) {
    syl_instance *instance = call->instance;
    if (!instance->pool) instance->pool = syl_pool_create(instance->threads);
    *out = instance->pool;
    return *out ? SYL_OK
                : syl_error(call->diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "cannot start %d threads",
                            instance->threads);
}

int syl_instance_threads(syl_instance *instance) {
    api_call call;
    syl_pool *pool;
    if (api_begin(&call, instance) != SYL_OK) return -1;
    syl_status status = api_pool(&call, &pool);
    return api_end(&call, status) == SYL_OK ? syl_pool_threads(pool) : -1;
}

syl_status api_cache(api_call *call, const char **out) {
    const char *folder = call->instance->cache_dir;
    if (!folder) return syl_cache_folder(&call->arena, call->diag, out);
    *out = *folder ? folder : NULL;
    return *folder ? syl_private_folder(folder, call->diag) : SYL_OK;
}

syl_status syl_instance_cache(syl_instance *instance, char **out) {
    if (out) *out = NULL;
    api_call call;
    SYL_TRY(api_begin(&call, instance));
    if (!out) return api_end(&call, api_bad(&call, __func__, "out is NULL"));
    const char *folder;
    syl_status status = api_cache(&call, &folder);
    if (status == SYL_OK && folder) status = api_text(&call, folder, strlen(folder), out, NULL);
    return api_end(&call, status);
}

/* ---- the machine ---- */

syl_status api_target(const api_call *call, const syl_host_target **out) {
    syl_instance *instance = call->instance;
    *out = instance->target;
    if (*out) return SYL_OK;
    syl_host_target *target = SYL_NEW(&instance->arena, syl_host_target);
    SYL_TRY(syl_host_target_find(instance->cpu, call->diag, target));
    *out = instance->target = target;
    return SYL_OK;
}

const char *api_device(const api_call *call) {
    syl_instance *instance = call->instance;
    instance->device = syl_devices_choose(instance->device, &instance->arena, call->diag);
    return instance->device;
}

static void find_gpus(syl_instance *instance) {
    if (instance->n_gpus < 0)
        syl_devices_gpus(&instance->arena, &instance->gpus, &instance->n_gpus, &instance->no_gpu);
}

syl_status syl_instance_gpus(syl_instance *instance, size_t *n, const char **why) {
    api_call call;
    if (n) *n = 0;
    if (why) *why = "";
    SYL_TRY(api_begin(&call, instance));
    if (!n) return api_end(&call, api_bad(&call, __func__, "n is NULL"));
    find_gpus(instance);
    *n = (size_t)instance->n_gpus;
    if (why) *why = instance->no_gpu;
    return api_end(&call, SYL_OK);
}

syl_status syl_instance_gpu(syl_instance *instance, size_t index, syl_gpu *out) {
    api_call call;
    SYL_TRY(api_begin(&call, instance));
    if (!api_fits(out)) return api_end(&call, api_bad(&call, __func__, "out is NULL or has no size"));
    find_gpus(instance);
    if (index >= (size_t)instance->n_gpus) return api_end(&call, api_bad(&call, __func__, "no such GPU"));
    const syl_cuda_properties *p = &instance->gpus[index];
    syl_gpu gpu = {.device = syl_arena_printf(&instance->arena, "cuda:%d", p->ordinal),
                   .name = p->name,
                   .capability = p->capability,
                   .multiprocessors = p->sms,
                   .memory = p->memory,
                   .l2 = p->l2,
                   .clock_mhz = p->clock_mhz,
                   .memory_mhz = p->memory_mhz,
                   .memory_bits = p->memory_bits,
                   .driver = p->driver};
    api_give(out, &gpu, sizeof gpu);
    return api_end(&call, SYL_OK);
}

static const char *dot_name(kir_dot dot) {
    switch (dot) {
    case KIR_DOT_VNNI:
        return "vpdpbusd (VNNI)";
    case KIR_DOT_MADD:
        return "vpmaddwd (AVX2)";
    case KIR_DOT_I8:
        return "widened products";
    default:
        break;
    }
    return "none";
}

syl_status syl_instance_device(syl_instance *instance, syl_device *out) {
    api_call call;
    const syl_host_target *target;
    SYL_TRY(api_begin(&call, instance));
    if (!api_fits(out)) return api_end(&call, api_bad(&call, __func__, "out is NULL or has no size"));
    syl_status status = api_target(&call, &target);
    if (status == SYL_OK) {
        syl_device device = {.cpu = target->cpu,
                             .triple = target->triple,
                             .cores = syl_cpu_count(),
                             .vector_floats = target->vector_floats,
                             .vector_registers = target->vector_registers,
                             .fused_multiply_add = target->fma,
                             .int8_dot = dot_name(target->int8_dot),
                             .llvm = syl_host_llvm_version()};
        api_give(out, &device, sizeof device);
    }
    return api_end(&call, status);
}
