/* Devices of the machine (devices.h). */
#include "runtime/devices.h"

#include <stdlib.h>

/* The first error of a quiet look. */
typedef struct quiet_error {
    syl_arena *arena;
    const char *text;
    syl_error_id id;
} quiet_error;

static void keep_first(void *user, const syl_message *message) {
    quiet_error *e = user;
    if (e->text || message->severity != SYL_SEV_ERROR) return;
    e->text = syl_arena_strdup(e->arena, message->text);
    e->id = message->error;
}

static void look(syl_arena *arena, syl_cuda_properties **out, int *n, quiet_error *error) {
    *error = (quiet_error){.arena = arena};
    *out = NULL;
    *n = 0;
    syl_diag *quiet = syl_diag_create(keep_first, error);
    if (quiet && syl_cuda_list(arena, quiet, out, n) != SYL_OK) *n = 0;
    syl_diag_destroy(quiet);
}

void syl_devices_gpus(syl_arena *arena, syl_cuda_properties **out, int *n, const char **why) {
    quiet_error error;
    look(arena, out, n, &error);
    *why = error.text ? error.text : "";
}

const char *syl_devices_choose(const char *given, syl_arena *arena, syl_diag *diag) {
    const char *environment = getenv("SYL_DEVICE");
    syl_cuda_properties *gpus;
    quiet_error error;
    int n;
    if (given && *given) return given;
    if (environment && *environment) return syl_arena_strdup(arena, environment);
    look(arena, &gpus, &n, &error);
    if (n > 0) return "cuda";
    if (error.text && error.id != SYL_ERR_cuda_no_driver && error.id != SYL_ERR_cuda_no_device)
        syl_warning(diag, SYL_NOWHERE, "running on the CPU, as the GPU cannot be used: %s", error.text);
    return "cpu";
}
