/* Where compiled kernels and finished tensors are kept (engine.h). Objects in it are run, so the folder must be
 * the user's own. */
#include "runtime/engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* mkdir -p with mode 0700 for what is made. */
static bool make_folders(char *path) {
    for (char *slash = strchr(path + 1, '/');; slash = strchr(slash + 1, '/')) {
        if (slash) *slash = 0;
        bool made = mkdir(path, 0700) == 0 || errno == EEXIST;
        if (!slash) return made;
        *slash = '/';
        if (!made) return false;
    }
}

syl_status syl_private_folder(const char *folder, syl_diag *diag) {
    char *path = strdup(folder);
    struct stat info;
    bool made = path && make_folders(path) && stat(folder, &info) == 0 && S_ISDIR(info.st_mode);
    free(path);
    if (!made) {
        return syl_error(diag, SYL_ERR_cache_folder, SYL_NOWHERE, "cannot make the folder \"%s\": %s", folder,
                         strerror(errno && errno != EEXIST ? errno : ENOTDIR));
    }
    if (info.st_uid != geteuid() || (info.st_mode & (S_IWGRP | S_IWOTH))) {
        return syl_error(diag, SYL_ERR_cache_folder, SYL_NOWHERE,
                         "the folder \"%s\" belongs to another user or others may write to it", folder);
    }
    if (access(folder, R_OK | W_OK | X_OK) != 0) {
        return syl_error(diag, SYL_ERR_cache_folder, SYL_NOWHERE,
                         "the folder \"%s\" cannot be read and written: %s", folder, strerror(errno));
    }
    return SYL_OK;
}

syl_status syl_cache_folder(syl_arena *arena, syl_diag *diag, const char **out) {
    *out = NULL;
    const char *own = getenv("SYL_CACHE_DIR"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    const char *path;
    if (own && *own) {
        path = syl_arena_strdup(arena, own);
    } else if (xdg && *xdg == '/') {
        path = syl_arena_printf(arena, "%s/sylvester", xdg);
    } else if (home && *home == '/') {
        path = syl_arena_printf(arena, "%s/.cache/sylvester", home);
    } else {
        return SYL_OK;
    }
    SYL_TRY(syl_private_folder(path, diag));
    *out = path;
    return SYL_OK;
}
