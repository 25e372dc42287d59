/* Where compiled kernels are kept (engine.h). Objects in it are run, so the folder must be the user's own. */
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

syl_status syl_cache_folder(syl_arena *arena, syl_diag *diag, const char **out) {
    *out = NULL;
    const char *own = getenv("SYL_CACHE_DIR"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char *path;
    if (own && *own) {
        path = syl_arena_strdup(arena, own);
    } else if (xdg && *xdg == '/') {
        path = syl_arena_printf(arena, "%s/sylvester", xdg);
    } else if (home && *home == '/') {
        path = syl_arena_printf(arena, "%s/.cache/sylvester", home);
    } else {
        return SYL_OK;
    }
    struct stat info;
    if (!make_folders(path) || stat(path, &info) != 0 || !S_ISDIR(info.st_mode)) {
        return syl_error(diag, SYL_ERR_cache_folder, SYL_NOWHERE,
                         "cannot make the folder \"%s\" for compiled kernels: %s", path,
                         strerror(errno ? errno : ENOTDIR));
    }
    if (info.st_uid != geteuid() || (info.st_mode & (S_IWGRP | S_IWOTH))) {
        return syl_error(
            diag, SYL_ERR_cache_folder, SYL_NOWHERE,
            "the folder \"%s\" for compiled kernels belongs to another user or others may write to it", path);
    }
    *out = path;
    return SYL_OK;
}
