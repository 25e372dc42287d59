/* Faults that only a GPU can have, for tests/gpu/faults.py: kernels that trap, which no product contains.
 *
 *     gpu_faults trap FOLDER       each kernel in the cache FOLDER is replaced by one that traps, under the key that it had
 *     gpu_faults lost ARTIFACT     of a language model whose kernels trap: a run fails (cuda-launch), all behind it too (cuda-lost), and what
 *                                  was made can still be destroyed
 *
 * The entries are whole and of the right name, so they are taken for what they say: a cache folder belongs to its user alone. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "codegen/cuda/cache.h"
#include "codegen/cuda/nvrtc.h"
#include "syl/syl.h"

/* ---- trap ---- */

enum { HEADER = 80 /* of codegen/code_cache.c, in front of the text */ };

static void print_message(void *user, const syl_message *message) {
    (void)user;
    fprintf(stderr, "%s\n", message->text);
}

/* The value of a line "word value" of the text, with a NUL in place of the line's end. */
static char *take_line(syl_arena *arena, const char *text, const char *word) {
    const char *at = strstr(text, word);
    if (!at) return NULL;
    at += strlen(word);
    return syl_arena_strndup(arena, at, strcspn(at, "\n"));
}

static syl_status replace_entry(const syl_nvrtc *nvrtc, const char *folder, const char *name,
                                syl_arena *arena, syl_diag *diag) {
    char text[4096] = "";
    const char *path = syl_arena_printf(arena, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, HEADER, SEEK_SET) != 0 || fread(text, 1, sizeof text - 1, file) < 1)
        return syl_error(diag, SYL_ERR_file_read, SYL_NOWHERE, "cannot read '%s'", path);
    fclose(file);
    cu_entry entry = {.name = take_line(arena, text, "kernel "),
                      .variant = take_line(arena, text, "\nvariant "),
                      .entry = take_line(arena, text, "\nentry "),
                      .options = take_line(arena, text, "\noptions "),
                      .compiler = take_line(arena, text, "\ncompiler ")};
    const char *arch = take_line(arena, text, "--gpu-architecture=");
    if (!entry.name || !entry.variant || !entry.entry || !entry.compiler || !arch)
        return syl_error(diag, SYL_ERR_file_read, SYL_NOWHERE, "'%s' is no kernel", path);
    arch = syl_arena_strndup(arena, arch, strcspn(arch, " "));
    syl_nvrtc_input input = {
        .name = entry.name,
        .source = syl_arena_printf(arena, "extern \"C\" __global__ void %s() { asm volatile(\"trap;\"); }\n",
                                   entry.entry),
        .arch = arch};
    syl_nvrtc_output output;
    SYL_TRY(syl_nvrtc_compile(nvrtc, &input, diag, &output));
    entry.code = output.code;
    entry.size = output.size;
    syl_hash key = {{0}};
    memcpy(key.hex, name, 32);
    cu_entry_store(folder, &key, &entry);
    syl_nvrtc_output_free(&output);
    return SYL_OK;
}

static syl_status replace_all(const char *folder, syl_arena *arena, syl_diag *diag, int *n) {
    syl_nvrtc_place place;
    syl_nvrtc *nvrtc;
    SYL_TRY(syl_nvrtc_find(arena, diag, &place));
    SYL_TRY(syl_nvrtc_open(&place, diag, &nvrtc));
    DIR *dir = opendir(folder);
    syl_status status =
        dir ? SYL_OK : syl_error(diag, SYL_ERR_file_open, SYL_NOWHERE, "cannot open '%s'", folder);
    SYL_VEC(const char *) names = {0}; /* first: entries are written by rename */
    for (struct dirent *one; dir && (one = readdir(dir));)
        if (strlen(one->d_name) == 32 + strlen(SYL_CUDA_SUFFIX) &&
            strcmp(one->d_name + 32, SYL_CUDA_SUFFIX) == 0)
            SYL_PUSH(arena, &names, syl_arena_strdup(arena, one->d_name));
    if (dir) closedir(dir);
    for (size_t i = 0; i < names.n && status == SYL_OK; i++, ++*n)
        status = replace_entry(nvrtc, folder, names.p[i], arena, diag);
    syl_nvrtc_close(nvrtc);
    return status;
}

static int trap(const char *folder) {
    syl_arena arena;
    syl_diag *diag = syl_diag_create(print_message, NULL);
    int n = 0;
    syl_arena_init(&arena);
    syl_status status = diag ? replace_all(folder, &arena, diag, &n) : SYL_MEMORY;
    printf("%d kernels replaced\n", n);
    syl_arena_free(&arena);
    syl_diag_destroy(diag);
    return status == SYL_OK && !n ? 1 : (int)status;
}

/* ---- lost ---- */

static int failures;

static void expect_error(syl_instance *instance, syl_status status, const char *name, const char *what) {
    int good = status == SYL_DEVICE && strstr(syl_instance_error(instance), name);
    printf("%s %s: %s\n", good ? "ok  " : "FAIL", what,
           status == SYL_OK ? "no error" : syl_instance_error(instance));
    failures += !good;
}

static int lost(const char *path) {
    syl_instance_options options = {.size = sizeof options, .device = "cuda"};
    syl_instance *instance;
    syl_program *program;
    syl_session *session = NULL;
    const int32_t ids[] = {1, 2, 3};
    const float *logits;
    syl_status status = syl_instance_create(&options, &instance);
    if (status != SYL_OK) return (int)status;
    status = syl_program_load(instance, path, &program);
    if (status == SYL_OK) status = syl_session_create(instance, program, NULL, &session);
    if (status != SYL_OK) {
        fprintf(stderr, "%s", syl_instance_error(instance));
        return (int)status;
    }
    expect_error(instance, syl_session_read(session, 0, ids, 3, &logits), "error[cuda-launch]",
                 "a run that traps");
    expect_error(instance, syl_session_read(session, 0, ids, 3, &logits), "error[cuda-lost]",
                 "a run behind it");
    syl_session_destroy(session);
    expect_error(instance, syl_session_create(instance, program, NULL, &session), "error[cuda-lost]",
                 "a session behind it");
    syl_session_destroy(session);
    syl_program_destroy(program);
    syl_instance_destroy(instance);
    return failures > 0;
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "trap") == 0) return trap(argv[2]);
    if (argc == 3 && strcmp(argv[1], "lost") == 0) return lost(argv[2]);
    fprintf(stderr, "usage: gpu_faults trap FOLDER | gpu_faults lost ARTIFACT\n");
    return 2;
}
