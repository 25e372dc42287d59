/* Where NVRTC lies (nvrtc.h). Nothing is opened: a start that finds all its kernels in the cache must not pay for loading a library of 100 MB, so
 * candidates are looked at as files. The version is read off the name of the builtins beside it, the identity off its ELF notes. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/file.h"
#include "base/hash.h"
#include "codegen/cuda/nvrtc.h"

static const char *const names[] = {"libnvrtc.so.13", "libnvrtc.so.12"}; /* the better first */
enum { N_NAMES = 2 };

typedef struct search {
    syl_arena *arena;
    SYL_VEC(const char *) folders;
    const char *old; /* the first library that is too old */
    int old_major, old_minor;
} search;

/* ---- identity ---- */

static bool read_at(int fd, void *data, size_t size, uint64_t offset) {
    return offset <= INT64_MAX && pread(fd, data, size, (off_t)offset) == (ssize_t)size;
}

/* The build id in the notes of an ELF file, as hexadecimal digits. */
static bool find_build_id(int fd, char out[64]) {
    Elf64_Ehdr file;
    if (!read_at(fd, &file, sizeof file, 0) || memcmp(file.e_ident, ELFMAG, SELFMAG) ||
        file.e_ident[EI_CLASS] != ELFCLASS64 || file.e_phentsize != sizeof(Elf64_Phdr))
        return false;
    for (unsigned i = 0; i < file.e_phnum && i < 64; i++) {
        Elf64_Phdr part;
        unsigned char notes[1024];
        if (!read_at(fd, &part, sizeof part, file.e_phoff + i * sizeof part)) return false;
        if (part.p_type != PT_NOTE || part.p_filesz > sizeof notes) continue;
        if (!read_at(fd, notes, (size_t)part.p_filesz, part.p_offset)) return false;
        for (size_t at = 0; at + sizeof(Elf64_Nhdr) <= part.p_filesz;) {
            Elf64_Nhdr note;
            memcpy(&note, notes + at, sizeof note);
            if (note.n_namesz > sizeof notes || note.n_descsz > sizeof notes) break;
            size_t name = at + sizeof note, value = name + ((note.n_namesz + 3) & ~3u);
            at = value + ((note.n_descsz + 3) & ~3u);
            if (at > part.p_filesz) break;
            if (note.n_type != NT_GNU_BUILD_ID || note.n_namesz != 4 || memcmp(notes + name, "GNU", 4) ||
                note.n_descsz < 8 || note.n_descsz > 28)
                continue;
            int n = snprintf(out, 64, "build ");
            for (unsigned b = 0; b < note.n_descsz; b++)
                n += snprintf(out + n, 64 - (size_t)n, "%02x", notes[value + b]);
            return true;
        }
    }
    return false;
}

static void identify(int fd, const struct stat *info, char out[64]) {
    if (find_build_id(fd, out)) return;
    const int64_t facts[] = {(int64_t)info->st_dev, (int64_t)info->st_ino, info->st_size,
                             info->st_mtim.tv_sec, info->st_mtim.tv_nsec};
    snprintf(out, 64, "file %s", syl_hash_bytes(facts, sizeof facts).hex);
}

/* libnvrtc-builtins.so.13.0 tells that the library beside it is 13.0. */
static void version_beside(syl_nvrtc_place *place) {
    char pattern[4200];
    const char *slash = strrchr(place->path, '/'), *name = slash ? slash + 1 : place->path;
    int soname = 0;
    glob_t found;
    sscanf(name, "libnvrtc.so.%d", &soname);
    if (snprintf(pattern, sizeof pattern, "%.*slibnvrtc-builtins.so.*", (int)(name - place->path),
                 place->path) >= (int)sizeof pattern ||
        glob(pattern, GLOB_NOESCAPE, NULL, &found) != 0)
        return;
    for (size_t i = 0; i < found.gl_pathc; i++) {
        int major, minor;
        const char *end = strstr(strrchr(found.gl_pathv[i], '/'), ".so.");
        if (sscanf(end, ".so.%d.%d", &major, &minor) != 2 || (soname && major != soname)) continue;
        place->major = major;
        place->minor = minor;
    }
    globfree(&found);
}

/* False where there is no such file. */
static bool look_at(const char *path, syl_nvrtc_place *out) {
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    bool file = fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
    if (file) {
        *out = (syl_nvrtc_place){.path = path};
        identify(fd, &info, out->identity);
        version_beside(out);
    }
    close(fd);
    return file;
}

/* ---- the places ---- */

static void add(search *s, const char *folder) {
    for (size_t i = 0; i < s->folders.n; i++)
        if (strcmp(s->folders.p[i], folder) == 0) return;
    SYL_PUSH(s->arena, &s->folders, folder);
}

static void add_matches(search *s, const char *pattern) {
    glob_t found;
    if (glob(pattern, GLOB_ONLYDIR, NULL, &found) != 0) return;
    for (size_t i = 0; i < found.gl_pathc; i++) add(s, syl_arena_strdup(s->arena, found.gl_pathv[i]));
    globfree(&found);
}

static void add_beside_program(search *s) {
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n <= 0) return;
    path[n] = 0;
    char *slash = strrchr(path, '/');
    if (!slash) return;
    *slash = 0;
    add(s, syl_arena_strdup(s->arena, path));
    add(s, syl_arena_printf(s->arena, "%s/../lib", path));
}

/* Where wheels of CUDA 13 and 12 put it, below a root of Python packages. */
static void add_wheels(search *s, const char *root) {
    static const char *const packages[] = {"site-packages", "dist-packages"};
    static const char *const wheels[] = {"cu13", "cuda_nvrtc"};
    for (int p = 0; p < 2; p++)
        for (int w = 0; w < 2; w++)
            add_matches(s, syl_arena_printf(s->arena, "%s/lib/python3*/%s/nvidia/%s/lib", root, packages[p],
                                            wheels[w]));
}

static void add_path_list(search *s, const char *list) {
    while (list && *list) {
        size_t n = strcspn(list, ":");
        if (n) add(s, syl_arena_strndup(s->arena, list, n));
        list += n + (list[n] == ':');
    }
}

/* The folders that the loader's configuration names. */
static void add_loader_configuration(search *s, const char *path, int depth) {
    char line[4096];
    FILE *file = fopen(path, "r");
    if (!file) return;
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "#\n")] = 0;
        char *at = line + strspn(line, " \t");
        for (char *end = at + strlen(at); end > at && (end[-1] == ' ' || end[-1] == '\t');) *--end = 0;
        if (*at == '/') add(s, syl_arena_strdup(s->arena, at));
        if (strncmp(at, "include", 7) != 0 || !strchr(" \t", at[7]) || !at[7] || depth == 4) continue;
        glob_t found;
        if (glob(at + 7 + strspn(at + 7, " \t"), 0, NULL, &found) != 0) continue;
        for (size_t i = 0; i < found.gl_pathc; i++) add_loader_configuration(s, found.gl_pathv[i], depth + 1);
        globfree(&found);
    }
    fclose(file);
}

static void add_places(search *s) {
    static const char *const loader[] = {
        "/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"};
    static const char *const toolkits[] = {"/usr/local/cuda/lib64", "/usr/local/cuda/lib", "/opt/cuda/lib64"};
    const char *environment = getenv("VIRTUAL_ENV"), *home = getenv("HOME"), *cuda = getenv("CUDA_HOME");
    add_beside_program(s);
    if (environment && *environment == '/') add_wheels(s, environment);
    if (home && *home == '/') add_wheels(s, syl_arena_printf(s->arena, "%s/.local", home));
    add_wheels(s, "/usr/local");
    add_wheels(s, "/usr");
    add_path_list(s, getenv("LD_LIBRARY_PATH"));
    add_loader_configuration(s, "/etc/ld.so.conf", 0);
    for (size_t i = 0; i < sizeof loader / sizeof *loader; i++) add(s, loader[i]);
    if (cuda && *cuda == '/') add(s, syl_arena_printf(s->arena, "%s/lib64", cuda));
    for (size_t i = 0; i < sizeof toolkits / sizeof *toolkits; i++) add(s, toolkits[i]);
}

/* ---- the search ---- */

static bool is_old(const syl_nvrtc_place *place) {
    return place->major && (place->major < SYL_NVRTC_MAJOR ||
                            (place->major == SYL_NVRTC_MAJOR && place->minor < SYL_NVRTC_MINOR));
}

static bool try_file(search *s, const char *path, syl_nvrtc_place *out) {
    syl_nvrtc_place place;
    if (!look_at(path, &place)) return false;
    if (is_old(&place)) {
        if (!s->old) {
            s->old = path;
            s->old_major = place.major;
            s->old_minor = place.minor;
        }
        return false;
    }
    *out = place;
    return true;
}

static bool try_folder(search *s, const char *folder, int name, syl_nvrtc_place *out) {
    return try_file(s, syl_arena_printf(s->arena, "%s/%s", folder, names[name]), out);
}

static syl_status report(const search *s, const char *where, syl_diag *diag) {
    if (s->old) {
        return syl_error(diag, SYL_ERR_nvrtc_old, SYL_NOWHERE,
                         "NVRTC at '%s' is version %d.%d, needed is %d.%d or later", s->old, s->old_major,
                         s->old_minor, SYL_NVRTC_MAJOR, SYL_NVRTC_MINOR);
    }
    return syl_error(diag, SYL_ERR_nvrtc_missing, SYL_NOWHERE,
                     "NVRTC, the compiler of CUDA kernels, was not found: no %s or %s %s", names[0], names[1],
                     where);
}

/* SYL_NVRTC is what the user wants: nothing else is taken in its place. */
static syl_status find_given(search *s, const char *given, syl_diag *diag, syl_nvrtc_place *out) {
    struct stat info;
    if (stat(given, &info) != 0) {
        return syl_error(diag, SYL_ERR_nvrtc_missing, SYL_NOWHERE, "SYL_NVRTC names '%s': %s", given,
                         strerror(errno));
    }
    if (!S_ISDIR(info.st_mode) && try_file(s, syl_arena_strdup(s->arena, given), out)) return SYL_OK;
    for (int i = 0; i < N_NAMES && S_ISDIR(info.st_mode); i++)
        if (try_folder(s, given, i, out)) return SYL_OK;
    return report(s, syl_arena_printf(s->arena, "at '%s', which SYL_NVRTC names", given), diag);
}

syl_status syl_nvrtc_find(syl_arena *arena, syl_diag *diag, syl_nvrtc_place *out) {
    search s = {.arena = arena};
    const char *given = getenv("SYL_NVRTC");
    if (given && *given) return find_given(&s, given, diag, out);
    add_places(&s);
    for (int i = 0; i < N_NAMES; i++)
        for (size_t f = 0; f < s.folders.n; f++)
            if (try_folder(&s, s.folders.p[f], i, out)) return SYL_OK;
    return report(
        &s, "beside the program, in Python's wheels, on the loader's path or in /usr/local/cuda/lib64", diag);
}
