/* NVRTC, the resources of cubins and the cache of compiled kernels: what works, and every way in which it cannot. Needs NVRTC, but no GPU;
 * where SYL_NVRTC is not set and none is found, what needs it is skipped. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include "base/file.h"
#include "codegen/code_cache.h"
#include "codegen/cuda/cache.h"
#include "codegen/cuda/compile.h"
#include "codegen/cuda/nvrtc.h"

#define PLAIN  "extern \"C\" __global__ void plain(float *x) { x[threadIdx.x] *= 2; }\n"
#define OTHER  "extern \"C\" __global__ void other(float *x) { x[threadIdx.x] += 3; }\n"
#define BROKEN "extern \"C\" __global__ void broken(float *x) { x[0] = undeclared; }\n"
/* 400 bytes of static shared memory, 256 of stack: an array that is indexed by what only the run tells. */
#define SHARED                                                                                               \
    "extern \"C\" __global__ void __launch_bounds__(128) shared(float *x, int n) {\n"                        \
    "    __shared__ float s[100];\n"                                                                         \
    "    extern __shared__ char d[];\n"                                                                      \
    "    volatile float a[64];\n"                                                                            \
    "    for (int i = 0; i < 64; i++) a[(i * n) & 63] = x[i];\n"                                             \
    "    s[threadIdx.x % 100] = a[n & 63];\n"                                                                \
    "    __syncthreads();\n"                                                                                 \
    "    x[threadIdx.x] = s[(threadIdx.x + 1) % 100] + d[0];\n"                                              \
    "}\n"
/* 96 values alive at once in the 32 registers that 2,048 threads leave to each: it must spill. */
#define SPILLS                                                                                               \
    "extern \"C\" __global__ void __launch_bounds__(1024, 2) spills(float *x) {\n"                           \
    "    float a[96];\n"                                                                                     \
    "    #pragma unroll\n"                                                                                   \
    "    for (int i = 0; i < 96; i++) a[i] = x[threadIdx.x + 1024 * i];\n"                                   \
    "    __syncthreads();\n"                                                                                 \
    "    #pragma unroll\n"                                                                                   \
    "    for (int i = 0; i < 96; i++) x[threadIdx.x + 1024 * ((i * 37) % 96)] = a[i] * a[(i * 5) % 96];\n"   \
    "}\n"

static const syl_cuda_text plain = {"k0 plain", "test", "plain", PLAIN},
                           other = {"k1 other", "test", "other", OTHER},
                           broken = {"k2 broken", "test", "broken", BROKEN};

static bool have_nvrtc;
static char program[4096], given[4096]; /* this program; what SYL_NVRTC was at its start */

typedef struct fixture {
    syl_arena arena;
    syl_text messages;
    syl_diag *diag;
    char dir[64];
} fixture;

static int setup(void **state) {
    fixture *f = calloc(1, sizeof *f);
    syl_arena_init(&f->arena);
    f->messages.arena = &f->arena;
    f->diag = syl_diag_create(syl_diag_capture, &f->messages);
    snprintf(f->dir, sizeof f->dir, "/tmp/syl-cuda-XXXXXX");
    *state = f;
    if (*given)
        setenv("SYL_NVRTC", given, 1);
    else
        unsetenv("SYL_NVRTC");
    return mkdtemp(f->dir) ? 0 : -1;
}

static int for_each_file(const char *dir, void (*visit)(const char *path)) {
    DIR *d = opendir(dir);
    int n = 0;
    for (struct dirent *entry; d && (entry = readdir(d));) {
        char path[512];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
        if (visit) visit(path);
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

static void need_nvrtc(void) {
    if (!have_nvrtc) skip();
}

static syl_cuda_binaries *compile(fixture *f, const syl_cuda_text *texts, size_t n, const char *arch,
                                  const char *dir) {
    syl_cuda_binaries *b = NULL;
    syl_cuda_compile_options options = {.cache_dir = dir, .threads = 2, .arch = arch};
    if (syl_cuda_compile_texts(texts, n, &options, f->diag, &b) != SYL_OK) fail_msg("%s", f->messages.p);
    assert_int_equal(b->n, n);
    return b;
}

static void expect_message(const fixture *f, const char *words) {
    assert_non_null(f->messages.p);
    if (!strstr(f->messages.p, words)) fail_msg("'%s' is not in: %s", words, f->messages.p);
}

/* ---- what works ---- */

static void every_architecture_is_compiled_for(void **state) {
    fixture *f = *state;
    static const char *const archs[] = {"sm_75",      "sm_80",      "sm_86",      "sm_89",
                                        "sm_90a",     "sm_100a",    "sm_120a",    "compute_75",
                                        "compute_80", "compute_89", "compute_90a"};
    need_nvrtc();
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++) {
        syl_cuda_binaries *b = compile(f, &plain, 1, archs[i], NULL);
        const syl_cuda_code *code = &b->codes[0];
        if (archs[i][0] == 's') {
            assert_memory_equal(code->code,
                                "\x7f"
                                "ELF",
                                4);
            assert_in_range(code->resources.registers, 4, 40);
            assert_int_equal(code->resources.spill_stores + code->resources.spill_loads, 0);
        } else {
            char target[40];
            snprintf(target, sizeof target, ".target sm_%s", archs[i] + 8);
            assert_non_null(strstr(code->code, target));
            assert_int_equal(strlen(code->code), code->size);
        }
        syl_cuda_binaries_destroy(b);
    }
    assert_null(f->messages.p);
}

static void resources_are_read(void **state) {
    fixture *f = *state;
    static const syl_cuda_text texts[] = {{"k0 shared", "", "shared", SHARED},
                                          {"k1 spills", "", "spills", SPILLS}};
    static const char *const archs[] = {"sm_75", "sm_80", "sm_90a", "sm_100a", "sm_120a"};
    need_nvrtc();
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++) {
        syl_cuda_binaries *b = compile(f, texts, 2, archs[i], NULL);
        const syl_cuda_resources *shared = &b->codes[0].resources, *spills = &b->codes[1].resources;
        assert_int_equal(shared->shared, 400);
        assert_int_equal(shared->stack, 256);
        assert_int_equal(shared->spill_stores, 0);
        assert_int_equal(spills->shared, 0);
        if (strcmp(archs[i], "sm_75") != 0) {           /* which has 1,024 threads at most */
            assert_in_range(spills->registers, 24, 64); /* sm_120 has room for one such block only */
            assert_in_range(spills->spill_stores, 4, 1024);
            assert_in_range(spills->spill_loads, 4, 1024);
            assert_in_range(spills->stack, 4, 1024); /* less than the stores: places are used again */
        }
        syl_cuda_binaries_destroy(b);
    }
}

static void damaged_cubins_are_refused(void **state) {
    fixture *f = *state;
    need_nvrtc();
    syl_cuda_binaries *b = compile(f, &plain, 1, "sm_90a", NULL);
    size_t size = b->codes[0].size;
    syl_cuda_resources r;
    unsigned char *copy = malloc(size);
    memcpy(copy, b->codes[0].code, size);
    assert_int_equal(syl_cuda_resources_read(copy, size, "plain", NULL, "k0", f->diag, &r), SYL_OK);
    assert_int_equal(r.registers, b->codes[0].resources.registers);
    assert_int_equal(r.spill_stores, -1);
    assert_int_equal(syl_cuda_resources_read(copy, size, "no_such", NULL, "k0", f->diag, &r), SYL_COMPILER);
    expect_message(f, "no cubin with a function 'no_such'");
    syl_diag *quiet = syl_diag_create(NULL, NULL);
    for (size_t cut = 0; cut < size; cut += 97) { /* never reads outside: the sanitizers look on */
        unsigned char *part = malloc(cut ? cut : 1);
        memcpy(part, copy, cut);
        (void)!syl_cuda_resources_read(part, cut, "plain", NULL, "k0", quiet, &r);
        free(part);
    }
    for (size_t at = 0; at < size; at += 7) { /* every kind of field is hit by some */
        unsigned char before = copy[at];
        copy[at] = 0xff;
        (void)!syl_cuda_resources_read(copy, size, "plain", NULL, "k0", quiet, &r);
        copy[at] = before;
    }
    syl_diag_destroy(quiet);
    free(copy);
    syl_cuda_binaries_destroy(b);
}

typedef struct watch {
    int calls, done, total, cached;
} watch;

static void watch_progress(void *user, const syl_cuda_progress *p) {
    watch *w = user;
    assert_int_equal(p->done, ++w->calls);
    assert_non_null(p->name);
    w->done = p->done;
    w->total = p->total;
    w->cached = p->cached;
}

static void second_start_compiles_nothing(void **state) {
    fixture *f = *state;
    const syl_cuda_text texts[] = {plain, other, plain};
    need_nvrtc();
    for (int round = 0; round < 2; round++) {
        watch w = {0};
        syl_cuda_binaries *b;
        syl_cuda_compile_options options = {
            .cache_dir = f->dir, .threads = 2, .arch = "sm_90a", .progress = watch_progress, .user = &w};
        assert_int_equal(syl_cuda_compile_texts(texts, 3, &options, f->diag, &b), SYL_OK);
        assert_int_equal(b->compiled, round ? 0 : 2); /* equal sources once */
        assert_int_equal(b->cached, round ? 2 : 0);
        assert_int_equal(w.done, 2);
        assert_int_equal(w.total, 2);
        assert_int_equal(w.cached, b->cached);
        assert_ptr_equal(b->codes[0].code, b->codes[2].code);
        assert_int_equal(b->codes[0].cached, round);
        assert_true(b->codes[1].seconds > 0);
        assert_true(b->codes[1].resources.registers > 0);
        syl_cuda_binaries_destroy(b);
    }
    assert_int_equal(for_each_file(f->dir, NULL), 2);
    syl_cuda_binaries *b = compile(f, texts, 1, "sm_80", f->dir); /* another architecture, another entry */
    assert_int_equal(b->compiled, 1);
    syl_cuda_binaries_destroy(b);
    b = compile(f, texts, 1, "compute_80", f->dir);
    assert_int_equal(b->compiled, 1);
    syl_cuda_binaries_destroy(b);
    b = compile(f, texts, 1, "compute_80", f->dir);
    assert_int_equal(b->cached, 1);
    assert_int_equal(strlen(b->codes[0].code), b->codes[0].size);
    syl_cuda_binaries_destroy(b);
    assert_null(f->messages.p);
}

static void nothing_to_do_is_fine(void **state) {
    fixture *f = *state;
    need_nvrtc();
    syl_cuda_binaries_destroy(compile(f, NULL, 0, "sm_90a", f->dir));
    syl_cuda_binaries_destroy(NULL);
}

/* ---- the cache, damaged ---- */

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
static void give_away(const char *path) {
    if (geteuid() == 0) assert_int_equal(chown(path, 1, 1), 0);
}
static void make_link(const char *path) {
    char elsewhere[600];
    snprintf(elsewhere, sizeof elsewhere, "%s.elsewhere", path);
    assert_int_equal(rename(path, elsewhere), 0);
    assert_int_equal(symlink(elsewhere, path), 0);
}
static void check_whole(const char *path) {
    if (strcmp(path + strlen(path) - 5, SYL_CUDA_SUFFIX) == 0) assert_true(syl_cuda_entry_valid(path));
}
static void check_damaged(const char *path) {
    if (strcmp(path + strlen(path) - 5, SYL_CUDA_SUFFIX) == 0) assert_false(syl_cuda_entry_valid(path));
}

static void damaged_entries_are_made_anew(void **state) {
    fixture *f = *state;
    static void (*const damages[])(const char *) = {flip_a_byte, cut_off, make_empty, give_away, make_link};
    need_nvrtc();
    syl_cuda_binaries_destroy(compile(f, &plain, 1, "sm_90a", f->dir));
    for_each_file(f->dir, check_whole);
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        if (damages[i] == give_away && geteuid() != 0) continue; /* only root can */
        assert_true(for_each_file(f->dir, damages[i]) >= 1);
        for_each_file(f->dir, check_damaged);
        for (int round = 0; round < 2; round++) {
            syl_cuda_binaries *b = compile(f, &plain, 1, "sm_90a", f->dir);
            assert_int_equal(b->cached, round);
            syl_cuda_binaries_destroy(b);
        }
        for_each_file(f->dir, check_whole);
    }
    assert_null(f->messages.p);
}

static char first_path[512], second_path[512];
static void remember(const char *path) {
    snprintf(first_path[0] ? second_path : first_path, 512, "%s", path);
}

/* An entry under another entry's name, and one that is whole outside but not inside. */
static void foreign_entries_are_refused(void **state) {
    fixture *f = *state;
    const syl_cuda_text texts[] = {plain, other};
    need_nvrtc();
    syl_cuda_binaries_destroy(compile(f, texts, 2, "sm_90a", f->dir));
    first_path[0] = second_path[0] = 0;
    assert_int_equal(for_each_file(f->dir, remember), 2);
    assert_int_equal(rename(first_path, second_path), 0);
    syl_cuda_binaries *b = compile(f, texts, 2, "sm_90a", f->dir);
    assert_int_equal(b->compiled, 2);
    syl_cuda_binaries_destroy(b);

    static const syl_code_kind kind = {"SYLCUDA\n", SYL_CUDA_SUFFIX};
    static const char *const contents[] = {"", "no line at all", "seconds 1\n\ncode",
                                           "resources 1 2 3\nseconds 1\n\ncode"};
    syl_hash key = {"0123456789abcdef0123456789abcdef"};
    for (size_t i = 0; i < sizeof contents / sizeof *contents; i++) {
        cu_entry entry = {0};
        syl_code_store(f->dir, &kind, &key, contents[i], strlen(contents[i]));
        assert_false(cu_entry_load(f->dir, &key, &entry));
    }
}

static void unsafe_folders_are_not_used(void **state) {
    fixture *f = *state;
    need_nvrtc();
    assert_int_equal(chmod(f->dir, 0755), 0);
    syl_cuda_binaries *b = compile(f, &plain, 1, "sm_90a", f->dir);
    assert_int_equal(b->compiled, 1);
    syl_cuda_binaries_destroy(b);
    assert_int_equal(for_each_file(f->dir, NULL), 0);
    expect_message(f, "no code cache");
    assert_int_equal(syl_diag_errors(f->diag), 0);
}

/* ---- faults ---- */

static void a_missing_nvrtc_is_reported(void **state) {
    fixture *f = *state;
    syl_nvrtc_place place;
    setenv("SYL_NVRTC", "/no/such/folder", 1);
    assert_int_equal(syl_nvrtc_find(&f->arena, f->diag, &place), SYL_UNSUPPORTED);
    expect_message(f, "nvrtc-missing");
    expect_message(f, "/no/such/folder");
    expect_message(f, "pip install nvidia-cuda-nvrtc");
    setenv("SYL_NVRTC", f->dir, 1); /* a folder without */
    syl_cuda_binaries *b = NULL;
    syl_cuda_compile_options options = {.arch = "sm_90a"};
    assert_int_equal(syl_cuda_compile_texts(&plain, 1, &options, f->diag, &b), SYL_UNSUPPORTED);
    assert_null(b);
    expect_message(f, "no libnvrtc.so.13 or libnvrtc.so.12 at");
}

static void put_file(fixture *f, const char *name, const char *text) {
    assert_int_equal(
        syl_file_write(syl_arena_printf(&f->arena, "%s/%s", f->dir, name), text, strlen(text), f->diag),
        SYL_OK);
}

static void an_old_nvrtc_is_reported(void **state) {
    fixture *f = *state;
    syl_nvrtc_place place;
    syl_nvrtc *nvrtc;
    setenv("SYL_NVRTC", SYL_FAKE_NVRTC_OLD, 1); /* tells its version only when it is open */
    assert_int_equal(syl_nvrtc_find(&f->arena, f->diag, &place), SYL_OK);
    assert_int_equal(syl_nvrtc_open(&place, f->diag, &nvrtc), SYL_UNSUPPORTED);
    expect_message(f, "nvrtc-old");
    expect_message(f, "is version 12.6, needed is 12.8 or later");
    f->messages.n = 0;
    put_file(f, "libnvrtc.so.12", "not opened"); /* and one that its builtins tell the version of */
    put_file(f, "libnvrtc-builtins.so.12.6", "");
    setenv("SYL_NVRTC", f->dir, 1);
    assert_int_equal(syl_nvrtc_find(&f->arena, f->diag, &place), SYL_UNSUPPORTED);
    expect_message(f, "libnvrtc.so.12' is version 12.6, needed is 12.8 or later");
    put_file(f, "libnvrtc.so.13", "another"); /* with a newer one beside it, that is taken */
    assert_int_equal(syl_nvrtc_find(&f->arena, f->diag, &place), SYL_OK);
    assert_non_null(strstr(place.path, "libnvrtc.so.13"));
    assert_int_equal(place.major, 0);
}

static void something_else_is_reported(void **state) {
    fixture *f = *state;
    syl_nvrtc_place place;
    syl_nvrtc *nvrtc;
    setenv("SYL_NVRTC", SYL_FAKE_NVRTC_EMPTY, 1);
    assert_int_equal(syl_nvrtc_find(&f->arena, f->diag, &place), SYL_OK);
    assert_int_equal(syl_nvrtc_open(&place, f->diag, &nvrtc), SYL_UNSUPPORTED);
    expect_message(f, "lacks nvrtcCreateProgram");
    put_file(f, "libnvrtc.so.13", "no library");
    setenv("SYL_NVRTC", f->dir, 1);
    assert_int_equal(syl_nvrtc_find(&f->arena, f->diag, &place), SYL_OK);
    assert_int_equal(syl_nvrtc_open(&place, f->diag, &nvrtc), SYL_UNSUPPORTED);
    expect_message(f, "cannot open NVRTC at");
}

/* What the file is, not where or when it was put there; and another file is another. */
static void identities_tell_files_apart(void **state) {
    fixture *f = *state;
    syl_nvrtc_place place;
    char first[64];
    setenv("SYL_NVRTC", SYL_FAKE_NVRTC_OLD, 1);
    assert_int_equal(syl_nvrtc_find(&f->arena, f->diag, &place), SYL_OK);
    memcpy(first, place.identity, sizeof first);
    setenv("SYL_NVRTC", SYL_FAKE_NVRTC_EMPTY, 1);
    assert_int_equal(syl_nvrtc_find(&f->arena, f->diag, &place), SYL_OK);
    assert_string_not_equal(first, place.identity);
    for (int i = 0; i < 2; i++) { /* without notes: the file's place and time */
        put_file(f, "libnvrtc.so.13", i ? "some bytes" : "other bytes");
        setenv("SYL_NVRTC", f->dir, 1);
        assert_int_equal(syl_nvrtc_find(&f->arena, f->diag, &place), SYL_OK);
        assert_memory_equal(place.identity, "file ", 5);
        if (i) assert_string_not_equal(first, place.identity);
        memcpy(first, place.identity, sizeof first);
    }
}

static void stale_entries_are_not_used(void **state) {
    fixture *f = *state;
    need_nvrtc();
    syl_nvrtc_place place;
    syl_cuda_binaries_destroy(compile(f, &plain, 1, "sm_90a", f->dir));
    assert_int_equal(syl_nvrtc_find(&f->arena, f->diag, &place), SYL_OK);
    const char *options = syl_nvrtc_options(&f->arena, "sm_90a");
    cu_entry entry = {0};
    syl_hash now = cu_entry_key(PLAIN, "plain", options, place.identity),
             before = cu_entry_key(PLAIN, "plain", options, "build 00"),
             changed = cu_entry_key(PLAIN " ", "plain", options, place.identity);
    assert_true(cu_entry_load(f->dir, &now, &entry));
    free(entry.code);
    assert_false(cu_entry_load(f->dir, &before, &entry));
    assert_false(cu_entry_load(f->dir, &changed, &entry));
}

static void broken_sources_are_left_to_look_at(void **state) {
    fixture *f = *state;
    const syl_cuda_text texts[] = {plain, broken, other};
    syl_cuda_binaries *b = NULL;
    syl_cuda_compile_options options = {.cache_dir = f->dir, .threads = 1, .arch = "sm_90a"};
    need_nvrtc();
    assert_int_equal(syl_cuda_compile_texts(texts, 3, &options, f->diag, &b), SYL_COMPILER);
    assert_null(b);
    assert_int_equal(syl_diag_errors(f->diag), 1);
    expect_message(f, "error[codegen-cuda]: kernel 'k2 broken, test' does not compile for sm_90a");
    expect_message(f, "identifier \"undeclared\" is undefined");
    const char *begin = strstr(f->messages.p, f->dir);
    assert_non_null(begin);
    char *path = syl_arena_strndup(&f->arena, begin, strcspn(begin, ":"));
    syl_source left;
    assert_int_equal(syl_file_read(&f->arena, path, 1 << 20, f->diag, &left), SYL_OK);
    assert_string_equal(left.text, BROKEN);
    options.cache_dir = NULL; /* and without a cache folder */
    setenv("TMPDIR", f->dir, 1);
    assert_int_equal(syl_cuda_compile_texts(&broken, 1, &options, f->diag, &b), SYL_COMPILER);
    unsetenv("TMPDIR");
    expect_message(f, "/sylvester-");
}

static void unknown_architectures_are_reported(void **state) {
    fixture *f = *state;
    syl_cuda_binaries *b = NULL;
    syl_cuda_compile_options options = {.cache_dir = f->dir, .arch = "sm_13"};
    need_nvrtc();
    assert_int_equal(syl_cuda_compile_texts(&plain, 1, &options, f->diag, &b), SYL_COMPILER);
    expect_message(f, "sm_13");
}

/* ---- other processes: this program again, with "child" ---- */

enum { CHILD_FAILED = 1, CHILD_OPENED_NVRTC = 2 };

static bool nvrtc_is_mapped(void) {
    char line[4096];
    bool found = false;
    FILE *file = fopen("/proc/self/maps", "r");
    while (file && fgets(line, sizeof line, file)) found = found || strstr(line, "libnvrtc") != NULL;
    if (file) fclose(file);
    return found;
}

static int child(const char *dir) {
    syl_diag *diag = syl_diag_create(NULL, NULL);
    const syl_cuda_text texts[] = {plain, other};
    syl_cuda_binaries *b = NULL;
    syl_cuda_compile_options options = {.cache_dir = dir, .threads = 1, .arch = "sm_90a"};
    syl_status status = syl_cuda_compile_texts(texts, 2, &options, diag, &b);
    bool good = status == SYL_OK && memcmp(b->codes[0].code,
                                           "\x7f"
                                           "ELF",
                                           4) == 0;
    syl_cuda_binaries_destroy(b);
    syl_diag_destroy(diag);
    return (good ? 0 : CHILD_FAILED) | (nvrtc_is_mapped() ? CHILD_OPENED_NVRTC : 0);
}

static pid_t start_child(const char *dir) {
    pid_t pid = fork();
    if (pid == 0) {
        execl(program, program, "child", dir, (char *)NULL);
        _exit(127);
    }
    return pid;
}

static int wait_for(pid_t pid) {
    int status;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void processes_share_the_folder(void **state) {
    fixture *f = *state;
    pid_t children[16];
    need_nvrtc();
    for (int i = 0; i < 16; i++) children[i] = start_child(f->dir);
    for (int i = 0; i < 16; i++) assert_int_equal(wait_for(children[i]) & ~CHILD_OPENED_NVRTC, 0);
    assert_int_equal(for_each_file(f->dir, check_whole), 2); /* and nothing half-written */
}

static void a_warm_start_does_not_open_nvrtc(void **state) {
    fixture *f = *state;
    need_nvrtc();
    assert_int_equal(wait_for(start_child(f->dir)), CHILD_OPENED_NVRTC);
    assert_int_equal(wait_for(start_child(f->dir)), 0);
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "child") == 0) return child(argv[2]);
    syl_arena arena;
    syl_nvrtc_place place;
    syl_arena_init(&arena);
    syl_diag *quiet = syl_diag_create(NULL, NULL);
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (getenv("SYL_NVRTC")) snprintf(given, sizeof given, "%s", getenv("SYL_NVRTC"));
    have_nvrtc = n > 0 && (*given || syl_nvrtc_find(&arena, quiet, &place) == SYL_OK);
    syl_diag_destroy(quiet);
    syl_arena_free(&arena);
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(every_architecture_is_compiled_for),
        CASE(resources_are_read),
        CASE(damaged_cubins_are_refused),
        CASE(second_start_compiles_nothing),
        CASE(nothing_to_do_is_fine),
        CASE(damaged_entries_are_made_anew),
        CASE(foreign_entries_are_refused),
        CASE(unsafe_folders_are_not_used),
        CASE(a_missing_nvrtc_is_reported),
        CASE(an_old_nvrtc_is_reported),
        CASE(something_else_is_reported),
        CASE(identities_tell_files_apart),
        CASE(stale_entries_are_not_used),
        CASE(broken_sources_are_left_to_look_at),
        CASE(unknown_architectures_are_reported),
        CASE(processes_share_the_folder),
        CASE(a_warm_start_does_not_open_nvrtc),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
