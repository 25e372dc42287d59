/* Memory and disk (machine.h), as Linux tells them. */
#include "driver/machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* "MemAvailable:   123456 kB" */
static int64_t available_memory(void) {
    char line[256];
    long long kib;
    int64_t result = INT64_MAX;
    FILE *file = fopen("/proc/meminfo", "r");
    if (!file) return result;
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "MemAvailable: %lld kB", &kib) == 1) result = kib * 1024;
    }
    fclose(file);
    return result;
}

static int64_t number_in(const char *path) {
    long long value;
    FILE *file = fopen(path, "r");
    if (!file) return -1;
    int n = fscanf(file, "%lld", &value); /* "max" is no number */
    fclose(file);
    return n == 1 ? value : -1;
}

/* Of the control group this process sees as its root (a container's). */
static int64_t group_memory(void) {
    int64_t limit = number_in("/sys/fs/cgroup/memory.max"), used = number_in("/sys/fs/cgroup/memory.current");
    if (limit < 0) return INT64_MAX;
    return used > 0 && used < limit ? limit - used : limit;
}

int64_t syl_machine_memory(void) {
    int64_t available = available_memory(), group = group_memory();
    if (group < available) available = group;
    return available == INT64_MAX ? (int64_t)1 << 30 : available;
}

int64_t syl_machine_resident(void) {
    long long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file) return 0;
    int n = fscanf(file, "%*d %lld", &pages);
    fclose(file);
    return n == 1 ? pages * sysconf(_SC_PAGESIZE) : 0;
}

bool syl_machine_disk(const char *path, int64_t *free_bytes, uint64_t *file_system) {
    char *folder = strdup(path);
    struct statvfs info;
    struct stat place;
    bool found = false;
    /* The nearest folder above that exists. */
    while (folder && !found) {
        found = statvfs(folder, &info) == 0 && stat(folder, &place) == 0;
        char *slash = strrchr(folder, '/');
        if (found) break;
        if (!slash) {
            found = statvfs(".", &info) == 0 && stat(".", &place) == 0;
            break;
        }
        if (slash == folder) {
            found = statvfs("/", &info) == 0 && stat("/", &place) == 0;
            break;
        }
        *slash = 0;
    }
    free(folder);
    if (!found) return false;
    unsigned long long bytes;
    if (__builtin_mul_overflow((unsigned long long)info.f_bavail, (unsigned long long)info.f_frsize,
                               &bytes) ||
        bytes > INT64_MAX)
        bytes = INT64_MAX;
    *free_bytes = (int64_t)bytes;
    *file_system = (uint64_t)place.st_dev;
    return true;
}
