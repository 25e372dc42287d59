/* The database of what was tuned: keys, records, other processes, damage, records as text. */
#include <sqlite3.h>
#include <stdio.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/tuning.h"
#include "runtime_testing.h"

static const syl_tuning_machine h200 = {"NVIDIA H200", 90, 132, 3201, "13000 580.65.06", "13.0", "0.1.0"};
#define KERNEL "00112233445566778899aabbccddeeff"
#define SOURCE "ffeeddccbbaa99887766554433221100"

static const syl_tuning_measured good = {.kernel = KERNEL,
                                         .rows = 16,
                                         .variant = "gemm_mma tokens=16 warps=4 blocks=1 stages=3",
                                         .source = SOURCE,
                                         .name = "linear",
                                         .state = SYL_TUNING_GOOD,
                                         .seconds = 1.25e-6,
                                         .model = 2.5e-6,
                                         .registers = 96,
                                         .shared = 6144,
                                         .date = 1700000000};
static const syl_tuning_choice choice = {.kernel = KERNEL,
                                         .rows = 16,
                                         .variant = "gemm_mma tokens=16 warps=4 blocks=1 stages=3",
                                         .source = SOURCE,
                                         .name = "linear",
                                         .seconds = 1.25e-6,
                                         .tried = 12,
                                         .candidates = 24,
                                         .budget = 60,
                                         .date = 1700000000};

static void remove_database(fixture *f) {
    static const char *const names[] = {"tuning.db", "tuning.db-wal", "tuning.db-shm"};
    for (int i = 0; i < 3; i++) unlink(test_path(f, names[i]));
}

static syl_tuning *start(fixture *f, const syl_tuning_machine *machine) {
    syl_tuning *t;
    fixture_ok(f, syl_tuning_open(test_folder, true, f->diag, &t));
    fixture_ok(f, syl_tuning_use(t, machine, f->diag));
    return t;
}

static syl_tuning_choice find(fixture *f, syl_tuning *t, const char *kernel, int64_t rows) {
    syl_tuning_choice found;
    fixture_ok(f, syl_tuning_find(t, &f->arena, kernel, rows, f->diag, &found));
    return found;
}

/* ---- records ---- */

static void records_come_back(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, 1);
    remove_database(&f);
    syl_tuning *t = start(&f, &h200);
    syl_tuning_measured bad = good, *list;
    size_t n;
    bad.variant = "gemm_mma tokens=32 warps=4 blocks=1 stages=3";
    bad.state = SYL_TUNING_HUNG;
    bad.seconds = 0;
    fixture_ok(&f, syl_tuning_put(t, &bad, f.diag));
    fixture_ok(&f, syl_tuning_put(t, &good, f.diag));
    fixture_ok(&f, syl_tuning_choose(t, &choice, f.diag));
    syl_tuning_close(t); /* and by another process */
    fixture_ok(&f, syl_tuning_open(test_folder, false, f.diag, &t));
    fixture_ok(&f, syl_tuning_use(t, &h200, f.diag));
    syl_tuning_choice found = find(&f, t, KERNEL, 16);
    assert_string_equal(found.variant, choice.variant);
    assert_string_equal(found.source, SOURCE);
    assert_true(found.seconds == choice.seconds && found.budget == 60);
    assert_int_equal(found.tried, 12);
    assert_int_equal(found.candidates, 24);
    assert_int_equal(found.date, choice.date);
    fixture_ok(&f, syl_tuning_list(t, &f.arena, KERNEL, 16, f.diag, &list, &n));
    assert_int_equal(n, 2);
    assert_int_equal(list[0].state, SYL_TUNING_GOOD); /* good ones first */
    assert_true(list[0].seconds == good.seconds && list[0].model == good.model);
    assert_int_equal(list[0].registers, 96);
    assert_int_equal(list[0].shared, 6144);
    assert_int_equal(list[1].state, SYL_TUNING_HUNG);
    syl_tuning_close(t);
    fixture_close(&f);
}

/* A choice is for its machine, kernel and rows alone. */
static void keys_keep_records_apart(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, 1);
    remove_database(&f);
    syl_tuning *t = start(&f, &h200);
    fixture_ok(&f, syl_tuning_choose(t, &choice, f.diag));
    assert_null(find(&f, t, KERNEL, 1).variant);
    assert_null(find(&f, t, SOURCE, 16).variant);
    for (int part = 0; part < 7; part++) {
        syl_tuning_machine other = h200;
        if (part == 0) other.gpu = "NVIDIA H100";
        if (part == 1) other.capability = 80;
        if (part == 2) other.sms = 114;
        if (part == 3) other.memory_mhz = 2619;
        if (part == 4) other.driver = "13000 580.82.07";
        if (part == 5) other.nvrtc = "12.9";
        if (part == 6) other.library = "0.2.0";
        fixture_ok(&f, syl_tuning_use(t, &other, f.diag));
        assert_null(find(&f, t, KERNEL, 16).variant);
    }
    fixture_ok(&f, syl_tuning_use(t, &h200, f.diag));
    assert_non_null(find(&f, t, KERNEL, 16).variant);
    syl_tuning_close(t);
    fixture_close(&f);
}

static void newer_records_stay(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, 1);
    remove_database(&f);
    syl_tuning *t = start(&f, &h200);
    syl_tuning_choice older = choice, newer = choice;
    older.variant = "older";
    older.date--;
    newer.variant = "newer";
    newer.date++;
    fixture_ok(&f, syl_tuning_choose(t, &choice, f.diag));
    fixture_ok(&f, syl_tuning_choose(t, &older, f.diag));
    assert_string_equal(find(&f, t, KERNEL, 16).variant, choice.variant);
    fixture_ok(&f, syl_tuning_choose(t, &newer, f.diag));
    assert_string_equal(find(&f, t, KERNEL, 16).variant, "newer");
    syl_tuning_close(t);
    fixture_close(&f);
}

static void reading_makes_no_file(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, 1);
    remove_database(&f);
    syl_tuning *t;
    fixture_ok(&f, syl_tuning_open(test_folder, false, f.diag, &t));
    assert_null(t);
    assert_int_not_equal(access(test_path(&f, "tuning.db"), F_OK), 0);
    t = start(&f, &h200);
    syl_tuning_close(t);
    fixture_ok(&f, syl_tuning_open(test_folder, false, f.diag, &t));
    const syl_tuning_machine unknown = {"other", 80, 1, 0, "", "", ""};
    fixture_ok(&f, syl_tuning_use(t, &unknown, f.diag)); /* which has no records, and gets none */
    assert_null(find(&f, t, KERNEL, 16).variant);
    syl_status status = syl_tuning_choose(t, &choice, f.diag);
    fixture_error(&f, status, "tuning-database", "readonly", "a write without the right to");
    syl_tuning_close(t);
    fixture_close(&f);
}

/* ---- several processes ---- */

enum { PROCESSES = 16, EACH = 25 };

static int child(int number) {
    fixture f;
    fixture_open(&f, 1);
    syl_tuning *t;
    syl_tuning_machine machine = h200;
    machine.sms = 100 + number % 3;
    syl_status status = syl_tuning_open(test_folder, true, f.diag, &t);
    if (status == SYL_OK) status = syl_tuning_use(t, &machine, f.diag);
    for (int i = 0; i < EACH && status == SYL_OK; i++) {
        syl_tuning_measured m = good;
        syl_tuning_choice c = choice;
        m.variant = c.variant = syl_arena_printf(&f.arena, "p%d i%d", number, i);
        m.rows = c.rows = i + 1;
        status = syl_tuning_put(t, &m, f.diag);
        if (status == SYL_OK) status = syl_tuning_choose(t, &c, f.diag);
    }
    if (status != SYL_OK) fprintf(stderr, "process %d: %s\n", number, f.messages.p);
    syl_tuning_close(t);
    fixture_close(&f);
    return status == SYL_OK ? 0 : 1;
}

static void processes_share_it(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, 1);
    remove_database(&f);
    pid_t pids[PROCESSES];
    for (int i = 0; i < PROCESSES; i++) {
        pids[i] = fork();
        if (pids[i] == 0) _exit(child(i));
    }
    for (int i = 0; i < PROCESSES; i++) {
        int status;
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
    }
    syl_tuning *t;
    int64_t n;
    syl_text text = {.arena = &f.arena};
    fixture_ok(&f, syl_tuning_open(test_folder, false, f.diag, &t));
    fixture_ok(&f, syl_tuning_export(t, f.diag, &text, &n));
    assert_int_equal(n, PROCESSES * EACH + 3 * EACH); /* each measurement; a choice of each machine and row */
    syl_tuning_close(t);
    fixture_close(&f);
}

/* A process that is killed in the midst of writing leaves what it had written before. */
static void killed_writers_lose_nothing(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, 1);
    for (int round = 0; round < 5; round++) {
        remove_database(&f);
        int ends[2];
        assert_int_equal(pipe(ends), 0);
        pid_t pid = fork();
        if (pid == 0) {
            syl_tuning *t = start(&f, &h200);
            syl_tuning_measured m = good;
            for (char i = 1;; i = i < 100 ? (char)(i + 1) : 1) {
                m.rows = i;
                if (syl_tuning_put(t, &m, f.diag) != SYL_OK || write(ends[1], &i, 1) != 1) _exit(1);
            }
        }
        char last = 0;
        for (int i = 0; i < 20 + round; i++) assert_int_equal(read(ends[0], &last, 1), 1);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        close(ends[0]);
        close(ends[1]);
        syl_tuning *t = start(&f, &h200);
        for (int rows = 1; rows <= last; rows++) {
            syl_tuning_measured *list;
            size_t n;
            fixture_ok(&f, syl_tuning_list(t, &f.arena, KERNEL, rows, f.diag, &list, &n));
            assert_int_equal(n, 1);
        }
        syl_tuning_close(t);
    }
    fixture_close(&f);
}

/* ---- damage ---- */

static void write_file(const char *path, long at, const char *bytes, size_t n) {
    FILE *file = fopen(path, at < 0 ? "wb" : "r+b");
    assert_non_null(file);
    if (at >= 0) fseek(file, at, SEEK_SET);
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    fclose(file);
}

static void expect_damaged(fixture *f, const char *name, const char *said) {
    syl_tuning *t;
    syl_status status = syl_tuning_open(test_folder, true, f->diag, &t);
    assert_null(t);
    fixture_error(f, status, name, said, said);
}

static void damage_is_named(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, 1);
    remove_database(&f);
    const char *path = test_path(&f, "tuning.db");
    char garbage[4096];
    memset(garbage, 'x', sizeof garbage);
    write_file(path, -1, garbage, sizeof garbage);
    expect_damaged(&f, "tuning-damaged", "not a database");
    remove_database(&f); /* the way out that the help names */
    syl_tuning *t = start(&f, &h200);
    fixture_ok(&f, syl_tuning_choose(t, &choice, f.diag));
    for (int i = 0; i < 200; i++) {
        syl_tuning_measured m = good;
        m.rows = i + 1;
        fixture_ok(&f, syl_tuning_put(t, &m, f.diag));
    }
    syl_tuning_close(t);
    write_file(path, 3 * 4096 + 8, garbage, 3000); /* a page in the midst */
    expect_damaged(&f, "tuning-damaged", "is damaged");
    remove_database(&f);
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "CREATE TABLE letters(x)", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    expect_damaged(&f, "tuning-damaged", "another program");
    remove_database(&f);
    syl_tuning_close(start(&f, &h200));
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA user_version = 7", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    expect_damaged(&f, "tuning-version", "layout 7");
    remove_database(&f);
    assert_int_equal(mkdir(path, 0700), 0); /* not a file at all */
    expect_damaged(&f, "tuning-database", "cannot be used");
    rmdir(path);
    fixture_close(&f);
}

/* ---- text ---- */

static void text_goes_round(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, 1);
    remove_database(&f);
    syl_tuning *t = start(&f, &h200);
    syl_tuning_measured bad = good;
    bad.state = SYL_TUNING_CRASHED;
    bad.seconds = 0;
    bad.variant = "with \"quotes\"\n";
    fixture_ok(&f, syl_tuning_put(t, &good, f.diag));
    fixture_ok(&f, syl_tuning_put(t, &bad, f.diag));
    fixture_ok(&f, syl_tuning_choose(t, &choice, f.diag));
    syl_text first = {.arena = &f.arena}, second = {.arena = &f.arena};
    int64_t n;
    fixture_ok(&f, syl_tuning_export(t, f.diag, &first, &n));
    assert_int_equal(n, 3);
    syl_tuning_close(t);
    remove_database(&f);
    t = start(&f, &h200);
    const syl_source source = {"records.jsonl", first.p, first.n};
    for (int i = 0; i < 2; i++) { /* the second time changes nothing */
        fixture_ok(&f, syl_tuning_import(t, &source, f.diag, &n));
        assert_int_equal(n, 3);
    }
    assert_string_equal(find(&f, t, KERNEL, 16).variant,
                        choice.variant); /* the machine is the same as before */
    fixture_ok(&f, syl_tuning_export(t, f.diag, &second, &n));
    assert_string_equal(first.p, second.p);
    syl_tuning_close(t);
    fixture_close(&f);
}

/* A line with one thing changed, behind a good one: nothing of the text is taken. */
static void refuse(fixture *f, syl_tuning *t, const char *line, const char *old, const char *new,
                   const char *name) {
    const char *at = strstr(line, old);
    assert_non_null(at);
    const char *changed =
        syl_arena_printf(&f->arena, "%s\n%.*s%s%s\n", line, (int)(at - line), line, new, at + strlen(old));
    const syl_source source = {"records.jsonl", changed, strlen(changed)};
    int64_t n;
    syl_status status = syl_tuning_import(t, &source, f->diag, &n);
    fixture_error(f, status, name, "records.jsonl, line 2", new);
    assert_null(find(f, t, KERNEL, 16).variant);
}

static void malformed_lines_are_refused(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, 1);
    remove_database(&f);
    syl_tuning *t = start(&f, &h200);
    syl_text text = {.arena = &f.arena};
    int64_t n;
    fixture_ok(&f, syl_tuning_choose(t, &choice, f.diag));
    fixture_ok(&f, syl_tuning_put(t, &good, f.diag));
    fixture_ok(&f, syl_tuning_export(t, f.diag, &text, &n));
    syl_tuning_close(t);
    remove_database(&f);
    t = start(&f, &h200);
    char *line = text.p, *second = strchr(text.p, '\n') + 1;
    second[-1] = 0;
    *strchr(second, '\n') = 0;
    refuse(&f, t, line, "\"choice\"", "\"chance\"", "tuning-record");
    refuse(&f, t, line, "\"rows\": 16", "\"rows\": 0", "json-range");
    refuse(&f, t, line, "\"rows\": 16", "\"rows\": \"16\"", "json-type");
    refuse(&f, t, line, "\"rows\": 16, ", "", "json-missing");
    refuse(&f, t, line, "\"tried\"", "\"tired\"", "json-unknown-key");
    refuse(&f, t, line, KERNEL, "0011", "tuning-record");
    refuse(&f, t, line, SOURCE, "../../../etc/passwd0000000000000", "tuning-record");
    refuse(&f, t, line, "1.25e-06", "-1", "tuning-record");
    refuse(&f, t, line, "1.25e-06", "1e99", "tuning-record");
    refuse(&f, t, line, "}", "", "json-syntax");
    refuse(&f, t, second, "\"good\"", "\"fine\"", "tuning-record");
    refuse(&f, t, second, "1.25e-06", "0", "tuning-record");
    syl_tuning_close(t);
    fixture_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_come_back),
        cmocka_unit_test(keys_keep_records_apart),
        cmocka_unit_test(newer_records_stay),
        cmocka_unit_test(reading_makes_no_file),
        cmocka_unit_test(processes_share_it),
        cmocka_unit_test(killed_writers_lose_nothing),
        cmocka_unit_test(damage_is_named),
        cmocka_unit_test(text_goes_round),
        cmocka_unit_test(malformed_lines_are_refused),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
