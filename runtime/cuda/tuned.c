/* What was tuned, for loading (tuned.h). */
#include "runtime/cuda/tuned.h"

#include <stdlib.h>
#include <string.h>

#include "codegen/cuda/nvrtc.h"
#include "include/syl/syl.h"
#include "runtime/cuda/engine.h"

struct syl_cuda_tuned {
    syl_tuning *tuning;
    syl_diag *diag; /* quiet */
    syl_arena arena;
};

/* ---- identities ---- */

/* The driver's own version, where the system tells it, behind that of its interface. */
static const char *driver_text(const syl_cuda_properties *p, syl_arena *arena) {
    char version[64] = "";
    FILE *file = fopen("/sys/module/nvidia/version", "re");
    if (file && !fgets(version, sizeof version, file)) version[0] = 0;
    if (file) fclose(file);
    version[strcspn(version, "\n")] = 0;
    return syl_arena_printf(arena, "%d%s%s", p->driver, *version ? " " : "", version);
}

syl_status syl_cuda_tuning_machine(const syl_cuda_properties *gpu, syl_arena *arena, syl_diag *diag,
                                   syl_tuning_machine *out) {
    syl_nvrtc_place place;
    SYL_TRY(syl_nvrtc_find(arena, diag, &place));
    *out =
        (syl_tuning_machine){.gpu = gpu->name,
                             .capability = gpu->capability,
                             .sms = gpu->sms,
                             .memory_mhz = gpu->memory_mhz,
                             .driver = driver_text(gpu, arena),
                             .nvrtc = place.major ? syl_arena_printf(arena, "%d.%d", place.major, place.minor)
                                                  : syl_arena_strdup(arena, place.identity),
                             .library = SYL_VERSION};
    return SYL_OK;
}

syl_hash syl_cuda_kernel_hash(const kir_kernel *kernel) {
    syl_arena arena;
    syl_arena_init(&arena);
    syl_text text = {.arena = &arena};
    kir_print(kernel, &text);
    syl_hash hash = syl_hash_bytes(text.p, text.n);
    syl_arena_free(&arena);
    return hash;
}

bool syl_cuda_covers(const syl_cuda_launch *launch, int64_t bucket) {
    if (!launch->max_rows) return true;
    return bucket < syl_cuda_buckets[SYL_CUDA_BUCKETS - 1] && bucket <= launch->max_rows;
}

/* ---- the database ---- */

typedef struct first_error {
    syl_arena *arena;
    const char *text;
} first_error;

static void keep_first(void *user, const syl_message *message) {
    first_error *e = user;
    if (!e->text && message->severity == SYL_SEV_ERROR) e->text = syl_arena_strdup(e->arena, message->text);
}

static syl_status open_inside(syl_cuda_tuned *t, const char *cache_dir, const syl_cuda_properties *gpu,
                              syl_diag *diag) {
    syl_tuning_machine machine;
    SYL_TRY(syl_tuning_open(cache_dir, false, diag, &t->tuning));
    if (!t->tuning) return SYL_OK;
    SYL_TRY(syl_cuda_tuning_machine(gpu, &t->arena, diag, &machine));
    return syl_tuning_use(t->tuning, &machine, diag);
}

syl_cuda_tuned *syl_cuda_tuned_open(const char *cache_dir, const syl_cuda_properties *gpu, syl_diag *diag) {
    syl_cuda_tuned *t = cache_dir ? calloc(1, sizeof *t) : NULL;
    if (!t) return NULL;
    syl_arena_init(&t->arena);
    first_error error = {.arena = &t->arena};
    syl_diag *told = syl_diag_create(keep_first, &error);
    t->diag = syl_diag_create(NULL, NULL);
    bool good = told && t->diag && open_inside(t, cache_dir, gpu, told) == SYL_OK && t->tuning;
    if (error.text)
        syl_warning(diag, SYL_NOWHERE, "what was tuned is not used, kernels are chosen by the cost model: %s",
                    error.text);
    syl_diag_destroy(told);
    if (good) return t;
    syl_cuda_tuned_close(t);
    return NULL;
}

void syl_cuda_tuned_close(syl_cuda_tuned *t) {
    if (!t) return;
    syl_tuning_close(t->tuning);
    syl_diag_destroy(t->diag);
    syl_arena_free(&t->arena);
    free(t);
}

static bool is_variant(const kir_kernel *kernel, const syl_cuda_target *target, int64_t rows,
                       const syl_cuda_variant *variant) {
    enum { MOST = 256 };
    syl_cuda_variant list[MOST];
    int n = syl_cuda_variants(kernel, target, rows, list, MOST);
    for (int i = 0; i < n; i++)
        if (list[i].family == variant->family &&
            memcmp(list[i].values, variant->values, sizeof variant->values) == 0)
            return true;
    return false;
}

static bool find_inside(syl_cuda_tuned *t, syl_arena *arena, const kir_kernel *kernel,
                        const syl_cuda_target *target, int64_t rows, syl_cuda_variant *out) {
    syl_hash hash = syl_cuda_kernel_hash(kernel);
    syl_tuning_choice choice;
    syl_cuda_variant variant;
    syl_cuda_launch launch;
    syl_text source = {.arena = arena};
    if (syl_tuning_find(t->tuning, arena, hash.hex, rows, t->diag, &choice) != SYL_OK || !choice.variant ||
        !syl_cuda_variant_parse(choice.variant, &variant) || !is_variant(kernel, target, rows, &variant) ||
        syl_cuda_source(kernel, target, &variant, t->diag, &source, &launch) != SYL_OK)
        return false;
    if (strcmp(syl_hash_bytes(source.p, source.n).hex, choice.source) != 0 || !syl_cuda_covers(&launch, rows))
        return false;
    *out = variant;
    return true;
}

bool syl_cuda_tuned_find(syl_cuda_tuned *t, const kir_kernel *kernel, const syl_cuda_target *target,
                         int64_t rows, syl_cuda_variant *out) {
    if (!t) return false;
    syl_arena arena;
    syl_arena_init(&arena);
    bool found = find_inside(t, &arena, kernel, target, rows, out);
    syl_arena_free(&arena);
    return found;
}
