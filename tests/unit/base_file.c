/* Files: whole reads, mappings, atomic output. */
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/file.h"
#include "base_testing.h"

static int entries(void) {
    DIR *folder = opendir(test_folder);
    int n = 0;
    for (struct dirent *e; (e = readdir(folder));) n += e->d_name[0] != '.' || strstr(e->d_name, ".partial");
    closedir(folder);
    return n;
}

static void assert_content(const char *path, const char *text, recorder *r) {
    syl_arena arena;
    syl_arena_init(&arena);
    syl_source source;
    expect_ok(r, syl_file_read(&arena, path, 1 << 20, r->diag, &source));
    assert_int_equal(source.size, strlen(text));
    assert_string_equal(source.text, text);
    assert_string_equal(source.name, path);
    syl_arena_free(&arena);
}

static void test_read(void **state) {
    (void)state;
    recorder r;
    recorder_init(&r);
    syl_arena arena;
    syl_arena_init(&arena);
    const char *path = in_folder(&arena, "read.txt");
    syl_source source;
    expect_error(&r, syl_file_read(&arena, path, 10, r.diag, &source), "file-open", "absent");
    expect_error(&r, syl_file_read(&arena, test_folder, 10, r.diag, &source), "file-open", "folder");
    assert_null(source.text);
    expect_ok(&r, syl_file_write(path, "0123456789", 10, r.diag));
    expect_ok(&r, syl_file_read(&arena, path, 10, r.diag, &source));
    assert_string_equal(source.text, "0123456789");
    expect_error(&r, syl_file_read(&arena, path, 9, r.diag, &source), "file-too-large", "ten of nine");
    expect_ok(&r, syl_file_write(path, "", 0, r.diag));
    assert_content(path, "", &r);

    int ends[2]; /* a pipe tells no size */
    assert_int_equal(pipe(ends), 0);
    static char many[20000];
    memset(many, 'x', sizeof many - 1);
    assert_int_equal(write(ends[1], many, sizeof many - 1), sizeof many - 1);
    close(ends[1]);
    assert_content(syl_arena_printf(&arena, "/proc/self/fd/%d", ends[0]), many, &r);
    close(ends[0]);
    unlink(path);
    syl_arena_free(&arena);
    syl_diag_destroy(r.diag);
}

static void test_map(void **state) {
    (void)state;
    recorder r;
    recorder_init(&r);
    syl_arena arena;
    syl_arena_init(&arena);
    const char *path = in_folder(&arena, "map.bin");
    syl_mapping mapping;
    expect_error(&r, syl_file_map(path, r.diag, &mapping), "file-open", "absent");
    expect_error(&r, syl_file_map("/dev/null", r.diag, &mapping), "file-open", "device");
    expect_ok(&r, syl_file_write(path, "ab\0c", 4, r.diag));
    expect_ok(&r, syl_file_map(path, r.diag, &mapping));
    assert_int_equal(mapping.size, 4);
    assert_memory_equal(mapping.data, "ab\0c", 4);
    syl_file_unmap(&mapping);
    syl_file_unmap(&mapping);
    expect_ok(&r, syl_file_write(path, "", 0, r.diag));
    expect_ok(&r, syl_file_map(path, r.diag, &mapping));
    assert_int_equal(mapping.size, 0);
    assert_non_null(mapping.data);
    syl_file_unmap(&mapping);
    unlink(path);
    syl_arena_free(&arena);
    syl_diag_destroy(r.diag);
}

static void test_output(void **state) {
    (void)state;
    recorder r;
    recorder_init(&r);
    syl_arena arena;
    syl_arena_init(&arena);
    const char *path = in_folder(&arena, "out.txt");
    syl_output *output;
    expect_ok(&r, syl_file_write(path, "old", 3, r.diag));

    /* Until the commit the old content stands; a discard leaves it and nothing else. */
    expect_ok(&r, syl_output_open(path, r.diag, &output));
    expect_ok(&r, syl_output_write(output, "new", 3));
    assert_content(path, "old", &r);
    assert_int_equal(entries(), 2);
    syl_output_discard(output);
    syl_output_discard(NULL);
    assert_content(path, "old", &r);
    assert_int_equal(entries(), 1);

    expect_ok(&r, syl_output_open(path, r.diag, &output));
    expect_ok(&r, syl_output_write(output, "ab", 2));
    expect_ok(&r, syl_output_write_at(output, 6, "g", 1));
    expect_ok(&r, syl_output_write(output, "cd", 2));
    expect_ok(&r, syl_output_write_at(output, 4, "ef", 2));
    expect_ok(&r, syl_output_commit(output));
    assert_content(path, "abcdefg", &r);
    assert_int_equal(entries(), 1);

    mode_t mask = umask(022);
    expect_ok(&r, syl_file_write(path, "x", 1, r.diag));
    umask(mask);
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0644);
    unlink(path);
    syl_arena_free(&arena);
    syl_diag_destroy(r.diag);
}

static void test_output_errors(void **state) {
    (void)state;
    recorder r;
    recorder_init(&r);
    syl_arena arena;
    syl_arena_init(&arena);
    const char *path = in_folder(&arena, "out.txt");
    syl_output *output;
    expect_error(&r, syl_output_open("/nonexistent-folder/x", r.diag, &output), "file-write", "no folder");
    assert_null(output);
    expect_error(&r, syl_output_open(test_folder, r.diag, &output), "file-write", "a folder");
    expect_error(&r, syl_output_open("/dev/null", r.diag, &output), "file-write", "a device");
    expect_error(&r, syl_file_write(in_folder(&arena, "none/x"), "x", 1, r.diag), "file-write",
                 "no subfolder");

    /* A failed write is reported once and sticks, and the commit fails with it and cleans up. */
    expect_ok(&r, syl_file_write(path, "old", 3, r.diag));
    expect_ok(&r, syl_output_open(path, r.diag, &output));
    syl_status status = syl_output_write_at(output, SIZE_MAX - 1, "abc", 3);
    assert_int_equal(status, SYL_IO);
    assert_int_equal(syl_output_write(output, "abc", 3), SYL_IO);
    assert_int_equal(r.count, 1);
    status = syl_output_commit(output);
    expect_error(&r, status, "file-write", "sticky");
    assert_content(path, "old", &r);
    assert_int_equal(entries(), 1);
    unlink(path);
    syl_arena_free(&arena);
    syl_diag_destroy(r.diag);
}

static void test_links(void **state) {
    (void)state;
    recorder r;
    recorder_init(&r);
    syl_arena arena;
    syl_arena_init(&arena);
    const char *path = in_folder(&arena, "real.txt"), *alias = in_folder(&arena, "alias.txt");
    const char *other = in_folder(&arena, "other.txt");
    expect_ok(&r, syl_file_write(path, "one", 3, r.diag));
    expect_ok(&r, syl_file_write(other, "one", 3, r.diag));
    assert_int_equal(symlink("real.txt", alias), 0);
    assert_true(syl_file_same(path, alias));
    assert_false(syl_file_same(path, other));
    assert_false(syl_file_same(path, in_folder(&arena, "absent")));
    assert_false(syl_file_same(in_folder(&arena, "absent"), in_folder(&arena, "absent")));

    expect_ok(&r, syl_file_write(alias, "two", 3, r.diag)); /* through the link */
    struct stat info;
    assert_int_equal(lstat(alias, &info), 0);
    assert_true(S_ISLNK(info.st_mode));
    assert_content(path, "two", &r);

    char name[256]; /* the longest name a file may have still gets its temporary file */
    memset(name, 'n', sizeof name);
    name[255] = 0;
    const char *longest = in_folder(&arena, name);
    expect_ok(&r, syl_file_write(longest, "x", 1, r.diag));
    assert_content(longest, "x", &r);
    unlink(longest);
    unlink(path);
    unlink(alias);
    unlink(other);
    assert_int_equal(rmdir(test_folder), 0);
    syl_arena_free(&arena);
    syl_diag_destroy(r.diag);
}

static void test_path_beside(void **state) {
    (void)state;
    syl_arena arena;
    syl_arena_init(&arena);
    assert_string_equal(syl_path_beside(&arena, "models/graph.json", "w.safetensors"),
                        "models/w.safetensors");
    assert_string_equal(syl_path_beside(&arena, "graph.json", "w"), "w");
    assert_string_equal(syl_path_beside(&arena, "/graph.json", "w"), "/w");
    assert_string_equal(syl_path_beside(&arena, "a/b/graph.json", "../w"), "a/b/../w");
    assert_string_equal(syl_path_beside(&arena, "a/graph.json", "/w"), "/w");
    syl_arena_free(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read),   cmocka_unit_test(test_map),
        cmocka_unit_test(test_output), cmocka_unit_test(test_output_errors),
        cmocka_unit_test(test_links),  cmocka_unit_test(test_path_beside),
    };
    return cmocka_run_group_tests(tests, make_folder, NULL);
}
