/* The public API: what the machine has and whether it works, and the folder of things that can be made again. */
#include <string.h>

#include "driver/api.h"
#include "driver/cache.h"
#include "driver/machine.h"
#include "driver/self_test.h"

_Static_assert((int)SYL_CACHED_KERNEL == SYL_CACHE_KERNEL && (int)SYL_CACHED_TENSOR == SYL_CACHE_TENSOR,
               "public kinds are those of the cache");

/* ---- the machine ---- */

int64_t syl_memory_available(void) {
    return syl_machine_memory();
}

int64_t syl_disk_available(const char *path) {
    int64_t bytes;
    uint64_t disk;
    return path && syl_machine_disk(path, &bytes, &disk) ? bytes : -1;
}

syl_status syl_instance_test(syl_instance *instance) {
    api_call call;
    const syl_host_target *target;
    SYL_TRY(api_begin(&call, instance));
    syl_status status = api_target(&call, &target);
    if (status == SYL_OK) status = syl_self_test(target, call.diag);
    return api_end(&call, status);
}

/* ---- the cache folder ---- */

/* Entry by entry: tells the caller what stays, and removes what shall not. */
static syl_status sweep_entry(const api_call *call, const syl_cache_settings *s, const syl_cache_entry *entry,
                              syl_cache_report *report) {
    bool damaged = s->sweep == SYL_SWEEP_DAMAGED && !syl_cache_valid(entry);
    if (s->sweep == SYL_SWEEP_ALL || damaged) {
        SYL_TRY(syl_cache_remove(entry, call->diag));
        report->damaged += damaged;
        report->freed_bytes += entry->bytes;
        return SYL_OK;
    }
    if (entry->kind == SYL_CACHE_KERNEL) {
        report->kernels++;
        report->kernel_bytes += entry->bytes;
    } else {
        report->tensors++;
        report->tensor_bytes += entry->bytes;
    }
    if (s->file) {
        const char *slash = strrchr(entry->path, '/');
        syl_cached_file file = {.size = sizeof file,
                                .name = slash ? slash + 1 : entry->path,
                                .kind = (int)entry->kind,
                                .bytes = entry->bytes,
                                .used = entry->used};
        s->file(s->user, &file);
    }
    return SYL_OK;
}

static syl_status sweep(api_call *call, const syl_cache_settings *given, syl_cache_report *out) {
    static const char name[] = "syl_cache_sweep";
    syl_cache_settings s = {0};
    syl_cache_report report = {0};
    syl_cache_list list;
    if (given && !api_take(&s, sizeof s, given))
        return api_bad(call, name, "settings has no size, or asks for what this version lacks");
    if (out && !api_fits(out)) return api_bad(call, name, "report has no size");
    if (s.sweep < SYL_SWEEP_NOTHING || s.sweep > SYL_SWEEP_ALL || s.max_bytes < 0)
        return api_bad(call, name, "there is no such sweep, or max_bytes is below 0");
    if (!s.folder) SYL_TRY(api_cache(call, &s.folder));
    if (!s.folder) {
        return syl_error(call->diag, SYL_ERR_cache_folder, SYL_NOWHERE,
                         "there is no cache folder: neither SYL_CACHE_DIR, XDG_CACHE_HOME nor HOME is set");
    }
    if (s.sweep == SYL_SWEEP_UNUSED)
        SYL_TRY(syl_cache_trim(s.folder, s.max_bytes, call->diag, &report.freed_bytes));
    SYL_TRY(syl_cache_read(&call->arena, s.folder, call->diag, &list));
    for (size_t i = 0; i < list.entries.n; i++) SYL_TRY(sweep_entry(call, &s, &list.entries.p[i], &report));
    if (out) api_give(out, &report, sizeof report);
    return SYL_OK;
}

syl_status syl_cache_sweep(syl_instance *instance, const syl_cache_settings *settings,
                           syl_cache_report *report) {
    api_call call;
    SYL_TRY(api_begin(&call, instance));
    return api_end(&call, sweep(&call, settings, report));
}
