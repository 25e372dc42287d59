/* Finished tensors on disk: whole or absent, whatever happened to the file; and materializing through them. */
#include "driver_testing.h"

#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

#include "driver/cache.h"
#include "driver/tensor_store.h"

static const syl_store_shape shape = {3, {300, 64, 7}};
enum { TOTAL = 371 };

static unsigned char byte_of(size_t i) {
    return (unsigned char)(i * 37 + i / 256);
}

typedef struct taken {
    unsigned char bytes[TOTAL];
    size_t n;
} taken;

static syl_status take(void *user, int part, size_t offset, const void *data, size_t size) {
    taken *t = user;
    for (int p = 0; p < part; p++) offset += shape.size[p];
    assert_true(offset + size <= TOTAL);
    memcpy(t->bytes + offset, data, size);
    t->n += size;
    return SYL_OK;
}

/* Files a tensor in pieces, out of order. */
static void file_tensor(syl_store *store, const syl_hash *key) {
    unsigned char bytes[TOTAL];
    for (size_t i = 0; i < TOTAL; i++) bytes[i] = byte_of(i);
    syl_store_entry *entry = syl_store_begin(store, key, &shape);
    assert_non_null(entry);
    syl_store_put(entry, 2, 0, bytes + 364, 7);
    syl_store_put(entry, 0, 100, bytes + 100, 200);
    syl_store_put(entry, 1, 0, bytes + 300, 64);
    syl_store_put(entry, 0, 0, bytes, 100);
    syl_store_end(entry, true);
}

static bool load(fixture *f, syl_store *store, const syl_hash *key) {
    taken t = {.n = 0};
    bool found;
    fixture_ok(f, syl_store_load(store, key, &shape, take, &t, &found));
    assert_int_equal(t.n, found ? TOTAL : 0);
    for (size_t i = 0; found && i < TOTAL; i++) assert_int_equal(t.bytes[i], byte_of(i));
    return found;
}

static syl_store *open_store(fixture *f, const char *folder) {
    syl_store *store;
    fixture_ok(f, syl_store_open(folder, f->diag, &store));
    return store;
}

static void a_tensor_comes_back(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, 1);
    syl_store *store = open_store(&f, test_path(&f, "store/below"));
    syl_hash key = syl_hash_bytes("a", 1), other = syl_hash_bytes("b", 1);
    assert_false(load(&f, store, &key));
    file_tensor(store, &key);
    assert_true(syl_store_has(store, &key, &shape));
    assert_true(load(&f, store, &key));
    assert_false(load(&f, store, &other));
    syl_store_entry *entry = syl_store_begin(store, &other, &shape); /* given up */
    syl_store_put(entry, 0, 0, "x", 1);
    syl_store_end(entry, false);
    assert_false(load(&f, store, &other));
    entry = syl_store_begin(store, &other, &shape); /* incomplete */
    syl_store_put(entry, 0, 0, "x", 1);
    syl_store_end(entry, true);
    assert_false(load(&f, store, &other));
    syl_store_read_only(store);
    assert_null(syl_store_begin(store, &other, &shape));
    assert_true(load(&f, store, &key));
    syl_store_close(store);
    fixture_close(&f);
}

static void another_shape_is_absent(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, 1);
    syl_store *store = open_store(&f, test_path(&f, "shapes"));
    syl_hash key = syl_hash_bytes("a", 1);
    syl_store_shape more = shape;
    taken t = {.n = 0};
    bool found;
    file_tensor(store, &key);
    more.size[2]++;
    assert_false(syl_store_has(store, &key, &more));
    fixture_ok(&f, syl_store_load(store, &key, &more, take, &t, &found));
    assert_false(found);
    syl_store_close(store);
    fixture_close(&f);
}

/* Without waiting for the disk, as syl_file_write would. */
static void put_file(const char *path, const void *data, size_t size) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

/* Every byte of the file, changed; and every length. */
static void damage_is_absence(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, 1);
    const char *folder = test_path(&f, "damage");
    syl_store *store = open_store(&f, folder);
    syl_hash key = syl_hash_bytes("a", 1);
    const char *path = syl_arena_printf(&f.arena, "%s/%s.tensor", folder, key.hex);
    file_tensor(store, &key);
    assert_true(syl_store_valid(path));
    syl_source good;
    fixture_ok(&f, syl_file_read(&f.arena, path, 1 << 20, f.diag, &good));
    char *bytes = syl_arena_alloc(&f.arena, good.size + 1);
    for (size_t i = 0; i < good.size; i++) {
        memcpy(bytes, good.text, good.size);
        bytes[i] = (char)(bytes[i] ^ (1 << i % 8));
        put_file(path, bytes, good.size);
        if (syl_store_valid(path) || load(&f, store, &key))
            fail_msg("byte %zu changed, and nobody noticed", i);
        assert_int_equal(access(path, F_OK), -1); /* removed, so that it is written anew */
    }
    memcpy(bytes, good.text, good.size);
    bytes[good.size] = 0;
    for (size_t n = 0; n <= good.size + 1; n += n < 300 || n > good.size - 20 ? 1 : 13) {
        put_file(path, bytes, n);
        assert_int_equal(load(&f, store, &key), n == good.size);
    }
    syl_store_close(store);
    fixture_close(&f);
}

static void unsafe_folders_are_refused(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, 1);
    syl_store *store;
    const char *open_folder = test_path(&f, "open"), *file = test_path(&f, "file");
    assert_int_equal(mkdir(open_folder, 0777), 0);
    assert_int_equal(chmod(open_folder, 0777), 0);
    fixture_ok(&f, syl_file_write(file, "x", 1, f.diag));
    assert_int_equal(syl_store_open(open_folder, f.diag, &store), SYL_IO);
    assert_true(fixture_said(&f, "others may write to it"));
    assert_int_equal(syl_store_open(file, f.diag, &store), SYL_IO);
    assert_int_equal(syl_store_open(test_path(&f, "file/below"), f.diag, &store), SYL_IO);
    const char *closed = test_path(&f, "closed");
    assert_int_equal(mkdir(closed, 0), 0);
    if (geteuid() != 0) { /* nothing is closed to root */
        assert_int_equal(syl_store_open(closed, f.diag, &store), SYL_IO);
        assert_true(fixture_said(&f, "cannot be read and written"));
    } else {
        assert_int_equal(chown(closed, 12345, 12345), 0);
        assert_int_equal(syl_store_open(closed, f.diag, &store), SYL_IO);
        assert_true(fixture_said(&f, "belongs to another user"));
    }
    rmdir(closed);
    fixture_close(&f);
}

/* What a dead process left goes; what a living one writes stays. */
static void leftovers_are_swept(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, 1);
    const char *folder = test_path(&f, "sweep");
    syl_store_close(open_store(&f, folder));
    const char *dead = syl_arena_printf(&f.arena, "%s/.model.syl.4711.abcdef.partial", folder);
    const char *other = syl_arena_printf(&f.arena, "%s/.other.syl.4711.abcdef.partial", folder);
    const char *mine = syl_arena_printf(&f.arena, "%s/model.syl", folder);
    syl_output *output;
    fixture_ok(&f, syl_file_write(dead, "x", 1, f.diag));
    fixture_ok(&f, syl_file_write(other, "x", 1, f.diag));
    fixture_ok(&f, syl_output_open(mine, f.diag, &output));
    fixture_ok(&f, syl_output_write(output, "abc", 3));
    syl_output_sweep(folder, "model.syl");
    assert_int_equal(access(dead, F_OK), -1);
    assert_int_equal(access(other, F_OK), 0);
    syl_store_close(open_store(&f, folder));
    assert_int_equal(access(other, F_OK), -1);
    fixture_ok(&f, syl_output_commit(output));
    assert_int_equal(access(mine, F_OK), 0);
    fixture_close(&f);
}

static void the_longest_unused_goes_first(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, 1);
    const char *folder = test_path(&f, "trim");
    syl_store *store = open_store(&f, folder);
    syl_hash keys[3];
    syl_cache_list list;
    for (int i = 0; i < 3; i++) {
        keys[i] = syl_hash_bytes(&i, sizeof i);
        file_tensor(store, &keys[i]);
        const char *path = syl_arena_printf(&f.arena, "%s/%s.tensor", folder, keys[i].hex);
        const struct timespec times[2] = {{1000 + i, 0}, {1000 + i, 0}};
        assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    }
    fixture_ok(&f, syl_file_write(syl_arena_printf(&f.arena, "%s/notes.txt", folder), "x", 1, f.diag));
    assert_true(load(&f, store, &keys[0])); /* used now */
    fixture_ok(&f, syl_cache_read(&f.arena, folder, f.diag, &list));
    assert_int_equal(list.entries.n, 3);
    assert_true(syl_cache_valid(&list.entries.p[0]));
    int64_t freed;
    fixture_ok(&f, syl_cache_trim(folder, list.bytes - 1, f.diag, &freed));
    assert_int_equal(freed, list.bytes / 3);
    assert_true(load(&f, store, &keys[0]) && !load(&f, store, &keys[1]) && load(&f, store, &keys[2]));
    fixture_ok(&f, syl_cache_trim(folder, 0, f.diag, &freed));
    assert_false(load(&f, store, &keys[0]));
    assert_int_equal(access(syl_arena_printf(&f.arena, "%s/notes.txt", folder), F_OK), 0);
    syl_store_close(store);
    fixture_close(&f);
}

/* ---- compiling through the store ---- */

/* The same artifact however much of it was finished before, with any memory limit and threads; and the store gives
 * back what it got. */
static void a_store_changes_no_byte(void **state) {
    (void)state;
    static const char *const recipes[] = {"w8a8", "f32-rotated", "w8a8-plain"};
    for (uint64_t seed = 0; seed < 3; seed++) {
        fixture f;
        ir_random r;
        syl_source first, second;
        fixture_open(&f, 1 + (int)seed);
        const char *path = test_path(&f, "stored.syl"),
                   *folder = syl_arena_printf(&f.arena, "%s/work%d", test_folder, (int)seed);
        for (int64_t run = 0; run < 4; run++) {
            syl_model model = {.module = ir_random_module(seed, &r), .context_length = 300};
            syl_compile_options options = {
                .recipe = recipes[seed], .work_dir = run ? folder : NULL, .memory = run == 2 ? 1 : 0};
            syl_compile_stats stats = {0};
            write_weights(&f, model.module, &r, test_path(&f, "stored.safetensors"));
            fixture_ok(&f, syl_compile_model(&model, NULL, path, &options, f.pool, f.diag, &stats));
            assert_int_equal(stats.reused, run > 1 ? stats.tensors : 0);
            fixture_ok(&f, syl_file_read(&f.arena, path, 1 << 28, f.diag, run ? &second : &first));
            if (run)
                assert_true(first.size == second.size && memcmp(first.text, second.text, first.size) == 0);
            syl_module_destroy(model.module);
        }
        fixture_close(&f);
    }
}

/* The keys depend on the numbers in the files and on the expressions, not on names. */
static void changed_weights_are_not_reused(void **state) {
    (void)state;
    fixture f;
    ir_random r;
    fixture_open(&f, 2);
    const char *path = test_path(&f, "changed.syl"), *folder = test_path(&f, "changed");
    for (int run = 0; run < 3; run++) {
        syl_model model = {.module = ir_random_module(1, &r), .context_length = 300};
        syl_compile_options options = {.recipe = "w8a8-plain", .work_dir = folder};
        syl_compile_stats stats = {0};
        if (run == 2) r.seed++; /* other numbers */
        write_weights(&f, model.module, &r, test_path(&f, "changed.safetensors"));
        fixture_ok(&f, syl_compile_model(&model, NULL, path, &options, f.pool, f.diag, &stats));
        assert_int_equal(stats.reused, run == 1 ? stats.tensors : 0);
        syl_module_destroy(model.module);
    }
    fixture_close(&f);
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *place) {
    (void)info, (void)kind, (void)place;
    return remove(path);
}

static int remove_all(void **state) {
    (void)state;
    return nftw(test_folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_tensor_comes_back),     cmocka_unit_test(another_shape_is_absent),
        cmocka_unit_test(damage_is_absence),       cmocka_unit_test(unsafe_folders_are_refused),
        cmocka_unit_test(leftovers_are_swept),     cmocka_unit_test(the_longest_unused_goes_first),
        cmocka_unit_test(a_store_changes_no_byte), cmocka_unit_test(changed_weights_are_not_reused),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_all);
}
