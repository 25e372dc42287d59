/* The object cache: hits, damage, foreign entries, folders that must not be used, determinism; and the dumps. */
#include "codegen_testing.h"
#include <dirent.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct fixture {
    syl_arena arena;
    syl_text messages;
    syl_diag *diag;
    kir_kernel scale, twin, negate;
    kir_kernel *kernels[3];
    syl_plan plan;
    syl_host_target target;
    char dir[64];
} fixture;

static kir_kernel kernel_of(syl_arena *arena, const char *name, kir_op op) {
    kir_kernel k = {.kind = KIR_ROWS, .name = name, .cols = 20};
    int in = kir_add_buffer(arena, &k, (kir_buffer){"x", KIR_MATRIX, KIR_F32, 20, 20, false}),
        out = kir_add_buffer(arena, &k, (kir_buffer){"y", KIR_MATRIX, KIR_F32, 20, 20, true});
    int x = kir_emit(arena, &k, (kir_inst){.op = KIR_load, .buffer = in}),
        y = kir_emit(arena, &k, (kir_inst){.op = op, .args = {x, x}, .buffer = -1});
    kir_emit(arena, &k, (kir_inst){.op = KIR_store, .args = {y}, .buffer = out});
    return k;
}

static int setup(void **state) {
    fixture *f = calloc(1, sizeof *f);
    syl_arena_init(&f->arena);
    f->messages.arena = &f->arena;
    f->diag = syl_diag_create(syl_diag_capture, &f->messages);
    f->scale = kernel_of(&f->arena, "double", KIR_add);
    f->twin = kernel_of(&f->arena, "double_again", KIR_add); /* another name, the same code */
    f->negate = kernel_of(&f->arena, "negate", KIR_neg);
    kir_kernel *list[] = {&f->scale, &f->twin, &f->negate};
    memcpy(f->kernels, list, sizeof list);
    f->plan.kernels.p = f->kernels;
    f->plan.kernels.n = 3;
    snprintf(f->dir, sizeof f->dir, "/tmp/syl-cache-XXXXXX");
    *state = f;
    return mkdtemp(f->dir) && find_target("host", &f->target) ? 0 : -1;
}

static int for_each_file(const char *dir, void (*visit)(const char *path)) {
    DIR *d = opendir(dir);
    int n = 0;
    for (struct dirent *entry; d && (entry = readdir(d));) {
        char path[512];
        if (entry->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
        visit(path);
        n++;
    }
    if (d) closedir(d);
    return n;
}

static void remove_file(const char *path) {
    unlink(path);
}

static int teardown(void **state) {
    fixture *f = *state;
    chmod(f->dir, 0700);
    for_each_file(f->dir, remove_file);
    rmdir(f->dir);
    syl_diag_destroy(f->diag);
    syl_arena_free(&f->arena);
    free(f);
    return 0;
}

/* Compiles the plan and runs all three functions. */
static syl_host_stats compile_and_run(fixture *f, const char *dir) {
    syl_host_code *code;
    syl_host_stats stats;
    assert_int_equal(syl_host_compile(&f->plan, &f->target,
                                      &(syl_host_options){.cache_dir = dir, .threads = 2}, f->diag, &stats,
                                      &code),
                     SYL_OK);
    float *x = new_buffer(80), *y = new_buffer(80);
    for (int i = 0; i < 20; i++) x[i] = (float)i;
    for (int k = 0; k < 3; k++) {
        void *buffers[] = {x, y};
        syl_host_function(code, k)(buffers, 1, 0, 1, NULL);
        for (int i = 0; i < 20; i++) assert_true(y[i] == (k < 2 ? 2 : -1) * x[i]);
    }
    assert_true(syl_host_function(code, 0) == syl_host_function(code, 1));
    free(x);
    free(y);
    syl_host_code_destroy(code);
    return stats;
}

static void second_start_compiles_nothing(void **state) {
    fixture *f = *state;
    syl_host_stats first = compile_and_run(f, f->dir), second = compile_and_run(f, f->dir);
    assert_int_equal(first.compiled, 2); /* equal kernels once */
    assert_int_equal(first.cached, 0);
    assert_int_equal(second.compiled, 0);
    assert_int_equal(second.cached, 2);
    syl_host_stats without = compile_and_run(f, NULL);
    assert_int_equal(without.compiled, 2);
    assert_null(f->messages.p);
}

static void flip_a_byte(const char *path) {
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    fseek(file, 300, SEEK_SET);
    int c = fgetc(file);
    fseek(file, 300, SEEK_SET);
    fputc(c ^ 1, file);
    fclose(file);
}
static void cut_off(const char *path) {
    assert_int_equal(truncate(path, 200), 0);
}
static void make_empty(const char *path) {
    assert_int_equal(truncate(path, 0), 0);
}

static void damaged_entries_are_made_anew(void **state) {
    fixture *f = *state;
    static void (*const damages[])(const char *) = {flip_a_byte, cut_off, make_empty};
    compile_and_run(f, f->dir);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(for_each_file(f->dir, damages[i]), 2);
        assert_int_equal(compile_and_run(f, f->dir).compiled, 2);
        assert_int_equal(compile_and_run(f, f->dir).cached, 2);
    }
}

static char swap_first[512], swap_second[512];
static void remember(const char *path) {
    snprintf(swap_first[0] ? swap_second : swap_first, 512, "%s", path);
}

/* An entry under another entry's name echoes the wrong key. */
static void foreign_entries_are_refused(void **state) {
    fixture *f = *state;
    compile_and_run(f, f->dir);
    swap_first[0] = swap_second[0] = 0;
    assert_int_equal(for_each_file(f->dir, remember), 2);
    assert_int_equal(rename(swap_first, swap_second), 0);
    syl_host_stats stats = compile_and_run(f, f->dir);
    assert_int_equal(stats.compiled, 2);
}

static void other_targets_have_other_entries(void **state) {
    fixture *f = *state;
    compile_and_run(f, f->dir);
    assert_true(find_target("generic", &f->target));
    assert_int_equal(compile_and_run(f, f->dir).compiled, 2);
    assert_int_equal(for_each_file(f->dir, remember), 4);
}

static void unsafe_folders_are_not_used(void **state) {
    fixture *f = *state;
    assert_int_equal(chmod(f->dir, 0755), 0);
    assert_int_equal(compile_and_run(f, f->dir).compiled, 2);
    assert_int_equal(for_each_file(f->dir, remove_file), 0);
    assert_non_null(strstr(f->messages.p, "no code cache"));
    assert_int_equal(syl_diag_errors(f->diag), 0);
    assert_int_equal(compile_and_run(f, "/proc/no/such/place").compiled, 2);
}

static char copied[2][1 << 16];
static size_t copied_size[2];
static void copy_files(const char *path) {
    int i = copied_size[0] ? 1 : 0;
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    copied_size[i] = fread(copied[i], 1, sizeof copied[i], file);
    fclose(file);
}

static void entries_are_deterministic(void **state) {
    fixture *f = *state;
    f->plan.kernels.n = 1;
    kir_kernel *only[] = {&f->scale};
    f->plan.kernels.p = only;
    copied_size[0] = copied_size[1] = 0;
    for (int round = 0; round < 2; round++) {
        syl_host_code *code;
        assert_int_equal(syl_host_compile(&f->plan, &f->target,
                                          &(syl_host_options){.cache_dir = f->dir, .threads = 1}, f->diag,
                                          NULL, &code),
                         SYL_OK);
        syl_host_code_destroy(code);
        assert_int_equal(for_each_file(f->dir, copy_files), 1);
        for_each_file(f->dir, remove_file);
    }
    assert_true(copied_size[0] > 0 && copied_size[0] == copied_size[1]);
    assert_memory_equal(copied[0], copied[1], copied_size[0]);
}

static void dumps_show_each_stage(void **state) {
    fixture *f = *state;
    syl_text text = {.arena = &f->arena};
    assert_int_equal(syl_host_dump(&f->negate, &f->target, SYL_HOST_LLVM, f->diag, &text), SYL_OK);
    assert_non_null(strstr(text.p, "fneg <16 x float>"));
    assert_non_null(strstr(text.p, "define void @kernel("));
    text = (syl_text){.arena = &f->arena};
    assert_int_equal(syl_host_dump(&f->negate, &f->target, SYL_HOST_LLVM_OPTIMIZED, f->diag, &text), SYL_OK);
    assert_non_null(strstr(text.p, "fneg <16 x float>"));
    text = (syl_text){.arena = &f->arena};
    assert_int_equal(syl_host_dump(&f->negate, &f->target, SYL_HOST_ASM, f->diag, &text), SYL_OK);
    assert_non_null(strstr(text.p, "kernel:"));
    assert_non_null(strchr(syl_host_llvm_version(), '.'));
}

int main(void) {
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(second_start_compiles_nothing), CASE(damaged_entries_are_made_anew),
        CASE(foreign_entries_are_refused),   CASE(other_targets_have_other_entries),
        CASE(unsafe_folders_are_not_used),   CASE(entries_are_deterministic),
        CASE(dumps_show_each_stage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
