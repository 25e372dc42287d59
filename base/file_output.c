/* Atomic output. Invariant: `path` either keeps what it had or holds the whole new file; a temporary file
 * exists only between open and commit or discard. A killed process may leave one, named
 * .NAME.PID.XXXXXX.partial; while its writer lives it holds a lock on it, by which syl_output_sweep knows
 * which to remove. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/file.h"
#include "base/size.h"

struct syl_output {
    syl_arena arena;
    syl_source source; /* for locations: the path as given */
    const char *path;  /* what the rename replaces: symbolic links followed */
    const char *temporary;
    syl_diag *diag;
    int fd;
    size_t position; /* of sequential writes */
    pthread_mutex_t lock;
    syl_status status; /* first failure; guarded by lock */
};

/* Keeps the first failure and reports only that one. */
static syl_status fail(syl_output *output, const char *verb, const char *why) {
    pthread_mutex_lock(&output->lock);
    if (output->status == SYL_OK) {
        syl_loc loc = {&output->source, 0};
        output->status = syl_error(output->diag, SYL_ERR_file_write, loc, "cannot %s '%s': %s", verb,
                                   output->source.name, why);
    }
    syl_status status = output->status;
    pthread_mutex_unlock(&output->lock);
    return status;
}

static syl_status current_status(syl_output *output) {
    pthread_mutex_lock(&output->lock);
    syl_status status = output->status;
    pthread_mutex_unlock(&output->lock);
    return status;
}

/* mkstemp would force mode 0600; opening by a random name of our own keeps the user's umask. */
static int open_temporary(syl_output *output) {
    enum { max_name = 200, attempts = 100 }; /* the decorated name stays below NAME_MAX */
    const char *slash = strrchr(output->path, '/'), *name = slash ? slash + 1 : output->path;
    for (int i = 0; i < attempts; i++) {
        unsigned random;
        if (getrandom(&random, sizeof random, 0) != sizeof random) return -1;
        char *temporary =
            syl_arena_printf(&output->arena, "%.*s.%.*s.%ld.%06x.partial", (int)(name - output->path),
                             output->path, max_name, name, (long)getpid(), random & 0xffffff);
        int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd < 0 && errno != EEXIST) return -1;
        if (fd < 0) continue;
        if (flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) { /* some file systems have no locks */
            output->temporary = temporary;
            return fd;
        }
        close(fd); /* a sweep came between: it removes the file */
    }
    return -1;
}

static void release(syl_output *output) {
    if (output->fd >= 0) close(output->fd);
    if (output->temporary) unlink(output->temporary);
    pthread_mutex_destroy(&output->lock);
    syl_arena_free(&output->arena);
    free(output);
}

syl_status syl_output_open(const char *path, syl_diag *diag, syl_output **out) {
    *out = NULL;
    syl_output *output = calloc(1, sizeof *output);
    if (!output) return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory to write '%s'", path);
    pthread_mutex_init(&output->lock, NULL);
    output->diag = diag;
    output->fd = -1;
    output->path = syl_arena_strdup(&output->arena, path);
    output->source.name = output->path;

    struct stat info;
    syl_status status = SYL_OK;
    if (stat(path, &info) == 0) {
        /* Renaming over a device or a folder is never what was meant. */
        if (!S_ISREG(info.st_mode)) status = fail(output, "replace", "it is not a regular file");
        char *resolved = realpath(path, NULL);
        if (resolved) output->path = syl_arena_strdup(&output->arena, resolved);
        free(resolved);
    }
    if (status == SYL_OK && (output->fd = open_temporary(output)) < 0)
        status = fail(output, "create", strerror(errno));
    if (status != SYL_OK) {
        release(output);
        return status;
    }
    *out = output;
    return SYL_OK;
}

syl_status syl_output_write_at(syl_output *output, size_t offset, const void *data, size_t size) {
    size_t end;
    SYL_TRY(current_status(output));
    if (!syl_size_add(offset, size, &end) || end > INT64_MAX) return fail(output, "write", strerror(EFBIG));
    for (const char *p = data; size > 0;) {
        ssize_t wrote = pwrite(output->fd, p, size, (off_t)offset);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote <= 0) return fail(output, "write", strerror(wrote < 0 ? errno : EIO));
        p += wrote;
        offset += (size_t)wrote;
        size -= (size_t)wrote;
    }
    return SYL_OK;
}

syl_status syl_output_write(syl_output *output, const void *data, size_t size) {
    SYL_TRY(syl_output_write_at(output, output->position, data, size));
    output->position += size;
    return SYL_OK;
}

/* Makes the rename itself durable. Some file systems cannot sync a folder and say EINVAL: nothing more can be
 * done there. */
static syl_status sync_folder(syl_output *output) {
    const char *slash = strrchr(output->path, '/');
    const char *folder =
        !slash ? "." : syl_arena_strndup(&output->arena, output->path, (size_t)(slash - output->path) + 1);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return errno == EACCES ? SYL_OK : fail(output, "sync the folder of", strerror(errno));
    int result = fsync(fd), error = errno;
    close(fd);
    return result == 0 || error == EINVAL ? SYL_OK : fail(output, "sync the folder of", strerror(error));
}

/* The file is closed after the rename: closing gives up the lock. */
static syl_status finish(syl_output *output, bool durable) {
    syl_status status = current_status(output);
    if (status == SYL_OK && durable && fsync(output->fd) != 0)
        status = fail(output, "write", strerror(errno));
    if (status == SYL_OK) {
        if (rename(output->temporary, output->path) != 0)
            status = fail(output, "replace", strerror(errno));
        else {
            output->temporary = NULL;
            if (durable) status = sync_folder(output);
        }
    }
    release(output);
    return status;
}

syl_status syl_output_commit(syl_output *output) {
    return finish(output, true);
}

syl_status syl_output_publish(syl_output *output) {
    return finish(output, false);
}

void syl_output_discard(syl_output *output) {
    if (output) release(output);
}

syl_status syl_file_write(const char *path, const void *data, size_t size, syl_diag *diag) {
    syl_output *output;
    SYL_TRY(syl_output_open(path, diag, &output));
    /* A failed write is sticky: the commit returns it and removes the temporary file. */
    (void)!syl_output_write(output, data, size);
    return syl_output_commit(output);
}

/* .NAME.PID.XXXXXX.partial, NAME cut as open_temporary cuts it. */
static bool is_temporary(const char *file, const char *name) {
    static const char end[] = ".partial";
    size_t size = strlen(file);
    if (file[0] != '.' || size < sizeof end || strcmp(file + size - (sizeof end - 1), end) != 0) return false;
    if (!name) return true;
    size_t kept = strnlen(name, 200);
    return size > kept + 1 && strncmp(file + 1, name, kept) == 0 && file[kept + 1] == '.';
}

void syl_output_sweep(const char *folder, const char *name) {
    DIR *dir = opendir(folder);
    if (!dir) return;
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (!is_temporary(entry->d_name, name)) continue;
        int fd = openat(dirfd(dir), entry->d_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        struct stat info;
        if (fd < 0) continue;
        if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && flock(fd, LOCK_EX | LOCK_NB) == 0)
            unlinkat(dirfd(dir), entry->d_name, 0);
        close(fd);
    }
    closedir(dir);
}
