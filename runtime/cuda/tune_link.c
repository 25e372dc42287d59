/* Questions to the one who measures (tune.h): lines of JSON to another process over its standard input and output, or to this one.
 *
 * Nothing that comes back is believed: a line that is no answer to the question counts as a crash. Behind a crash, nonsense or silence past
 * the limit the process is killed, and with it whatever it left on the GPU. */
#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/json.h"
#include "runtime/cuda/tune.h"

enum { MOST_LINE = 1 << 20, MOST_ARGUMENTS = 64 };
static const double START_S = 120; /* for a process to find its GPU; the first start of a machine is slow */
static const double DEATH_S = 10;  /* for a killed process to be gone */

struct tune_link {
    tune_link_options options;
    tune_worker *worker; /* in this process */
    bool dead;           /* this process has lost the GPU */
    pid_t pid;           /* 0: no process runs */
    int fd;
    char *buffer;
    size_t used;
    int64_t id;
    int lost;
    syl_arena arena; /* texts of the last answer */
    char end[96];    /* how the last process ended */
};

syl_status tune_link_open(const tune_link_options *options, syl_diag *diag, tune_link **out) {
    tune_link *link = *out = calloc(1, sizeof *link);
    if (link) link->buffer = malloc(MOST_LINE);
    if (!link || !link->buffer) {
        free(link);
        *out = NULL;
        return syl_error(diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for messages of a process");
    }
    link->options = *options;
    link->fd = -1;
    syl_arena_init(&link->arena);
    return SYL_OK;
}

int tune_link_lost(const tune_link *link) {
    return link->lost;
}

/* ---- a process ---- */

static void describe_end(tune_link *link, int status) {
    if (WIFSIGNALED(status))
        snprintf(link->end, sizeof link->end, "it was ended by signal %d (%s)", WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    else
        snprintf(link->end, sizeof link->end, "it ended with exit code %d", WEXITSTATUS(status));
}

/* Waits a while for the process to end. */
static bool reap(tune_link *link, double seconds) {
    int status = 0;
    for (double until = tune_now() + seconds;;) {
        pid_t got = waitpid(link->pid, &status, WNOHANG);
        if (got == link->pid) describe_end(link, status);
        if (got != 0 && !(got < 0 && errno == EINTR)) break;
        if (tune_now() > until) return false;
        usleep(2000);
    }
    link->pid = 0;
    return true;
}

/* One that ended by itself tells how; others are killed. A process that the kernel cannot end is left behind. */
static void end_process(tune_link *link, bool kill_it) {
    if (!link->pid) return;
    close(link->fd);
    link->fd = -1;
    snprintf(link->end, sizeof link->end, "it does not end");
    if (!kill_it && reap(link, 0.5)) return;
    kill(link->pid, SIGKILL);
    reap(link, DEATH_S);
    link->pid = 0;
}

static int spawn(tune_link *link, int child_end) {
    posix_spawn_file_actions_t actions;
    char *argv[MOST_ARGUMENTS + 1];
    int n = 0;
    const char *const *worker = link->options.worker;
    for (int i = 1; worker[i] && n < MOST_ARGUMENTS; i++) argv[n++] = (char *)(uintptr_t)worker[i];
    argv[n] = NULL;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, child_end, STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, child_end, STDOUT_FILENO);
    extern char **environ;
    int error = posix_spawn(&link->pid, worker[0], &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (error) link->pid = 0;
    return error;
}

static bool send_line(tune_link *link, const char *text, size_t n) {
    for (size_t done = 0; done < n;) {
        ssize_t sent = send(link->fd, text + done, n - done, MSG_NOSIGNAL); /* no signal where nobody reads */
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) return false;
        done += (size_t)sent;
    }
    return true;
}

/* A line of the process, without its end, in the arena; NULL: see *outcome. */
static char *read_line(tune_link *link, double until, tune_outcome *outcome) {
    for (;;) {
        char *end = memchr(link->buffer, '\n', link->used);
        if (end) {
            size_t n = (size_t)(end - link->buffer);
            char *line = syl_arena_strndup(&link->arena, link->buffer, n);
            link->used -= n + 1;
            memmove(link->buffer, end + 1, link->used);
            return line;
        }
        double left = until - tune_now();
        struct pollfd fd = {.fd = link->fd, .events = POLLIN};
        *outcome = left <= 0 ? TUNE_HUNG : TUNE_CRASHED;
        if (left <= 0 || link->used == MOST_LINE) return NULL;
        int ready = poll(&fd, 1, left > 1e6 ? 1000000000 : (int)(left * 1000) + 1);
        if (ready == 0 || (ready < 0 && errno == EINTR)) continue;
        ssize_t got = ready < 0 ? -1 : recv(link->fd, link->buffer + link->used, MOST_LINE - link->used, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return NULL;
        link->used += (size_t)got;
    }
}

/* ---- answers ---- */

/* A line as JSON, in silence; false if it is none. */
static bool parse(const char *line, syl_source *source, syl_json *out) {
    syl_diag *quiet = syl_diag_create(NULL, NULL);
    *source = (syl_source){"answer", line, strlen(line)};
    bool good = quiet && syl_json_parse(source, quiet, out) == SYL_OK;
    syl_diag_destroy(quiet);
    return good;
}

static const char *text_of(const syl_json *json, const char *key) {
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(json->root, key);
    return cJSON_IsString(node) ? node->valuestring : NULL;
}

static bool read_seconds(const syl_json *json, tune_answer *out) {
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(json->root, "seconds"), *item;
    if (!list) return true;
    if (!cJSON_IsArray(list)) return false;
    cJSON_ArrayForEach(item, list) {
        if (out->n == sizeof out->seconds / sizeof *out->seconds || !cJSON_IsNumber(item) ||
            !(item->valuedouble > 0 && item->valuedouble < 1e6))
            return false;
        out->seconds[out->n++] = item->valuedouble;
    }
    return true;
}

static bool read_answer(tune_link *link, const char *line, int expected, tune_answer *out) {
    syl_source source;
    syl_json json = {0};
    *out = (tune_answer){.state = SYL_TUNING_STATE_COUNT, .message = ""};
    if (!parse(line, &source, &json)) return false;
    const cJSON *id = cJSON_GetObjectItemCaseSensitive(json.root, "id");
    const char *state = text_of(&json, "state"), *message = text_of(&json, "message");
    for (int s = 0; s < SYL_TUNING_STATE_COUNT && state; s++)
        if (strcmp(state, syl_tuning_state_name((syl_tuning_state)s)) == 0) out->state = (syl_tuning_state)s;
    bool good = cJSON_IsNumber(id) && id->valuedouble == (double)link->id &&
                out->state != SYL_TUNING_STATE_COUNT && read_seconds(&json, out) &&
                (out->state != SYL_TUNING_GOOD || out->n == expected);
    if (message) out->message = syl_arena_strdup(&link->arena, message);
    syl_json_free(&json);
    return good;
}

/* ---- starting ---- */

/* The line that a worker of this version begins with; one that cannot work says why instead. */
static syl_status check_hello(tune_link *link, const char *line, syl_diag *diag) {
    syl_source source;
    syl_json json = {0};
    syl_text expected = {.arena = &link->arena};
    tune_worker_hello(&expected);
    if (strncmp(line, expected.p, expected.n - 1) == 0) return SYL_OK;
    const char *why = NULL;
    if (parse(line, &source, &json)) {
        why = text_of(&json, "message");
        if (why) why = syl_arena_strdup(&link->arena, why);
    }
    syl_json_free(&json);
    return why ? syl_error(diag, SYL_ERR_tune_worker, SYL_NOWHERE,
                           "the process that measures cannot begin: %s", why)
               : syl_error(diag, SYL_ERR_tune_worker, SYL_NOWHERE,
                           "the process that measures began with \"%.60s\", expected %.*s", line,
                           (int)expected.n - 1, expected.p);
}

static syl_status start(tune_link *link, syl_diag *diag) {
    int ends[2];
    const char *path = link->options.worker[0];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        return syl_error(diag, SYL_ERR_tune_worker, SYL_NOWHERE, "cannot connect to a process: %s",
                         strerror(errno));
    link->fd = ends[0];
    link->used = 0;
    int error = spawn(link, ends[1]);
    close(ends[1]);
    if (error) {
        close(link->fd);
        return syl_error(diag, SYL_ERR_tune_worker, SYL_NOWHERE, "cannot start \"%s\": %s", path,
                         strerror(error));
    }
    tune_outcome outcome;
    const char *line = read_line(link, tune_now() + START_S, &outcome);
    syl_status status = line ? check_hello(link, line, diag) : SYL_DEVICE;
    if (status == SYL_OK) return SYL_OK;
    end_process(link, line || outcome == TUNE_HUNG);
    return line ? status
                : syl_error(diag, SYL_ERR_tune_worker, SYL_NOWHERE,
                            "the process that measures, \"%s\", did not begin: %s", path,
                            outcome == TUNE_HUNG ? "it said nothing" : link->end);
}

/* ---- asking ---- */

static const char *request_line(tune_link *link, const char *request) {
    return syl_arena_printf(&link->arena, "{\"id\": %lld, %s}\n", (long long)++link->id, request);
}

static tune_outcome ask_here(tune_link *link, const char *request, int expected, syl_diag *diag,
                             tune_answer *out) {
    const tune_link_options *o = &link->options;
    if (link->dead) {
        syl_error(
            diag, SYL_ERR_tune_worker, SYL_NOWHERE,
            "a kernel failed, and this process has lost the GPU: measured in a process of its own it would "
            "have cost that process alone");
        return TUNE_BROKEN;
    }
    if (!link->worker &&
        tune_worker_open(o->path, o->device, o->cache_dir, o->pool, diag, &link->worker) != SYL_OK)
        return TUNE_BROKEN;
    syl_text line = {.arena = &link->arena};
    link->dead = !tune_worker_answer(link->worker, request_line(link, request), &line);
    if (!read_answer(link, line.p ? line.p : "", expected, out) || out->state == SYL_TUNING_CRASHED)
        return TUNE_CRASHED;
    return TUNE_ANSWERED;
}

static tune_outcome lose(tune_link *link, tune_outcome outcome, const char *why, tune_answer *out) {
    end_process(link, outcome == TUNE_HUNG || why);
    link->lost++;
    out->state = outcome == TUNE_HUNG ? SYL_TUNING_HUNG : SYL_TUNING_CRASHED;
    out->n = 0;
    out->message = syl_arena_strdup(&link->arena, why ? why : link->end);
    return outcome;
}

tune_outcome tune_link_ask(tune_link *link, const char *request, int expected, syl_diag *diag,
                           tune_answer *out) {
    *out = (tune_answer){.state = SYL_TUNING_FAILED, .message = ""};
    syl_arena_free(&link->arena);
    if (!link->options.worker) return ask_here(link, request, expected, diag, out);
    if (!link->pid && start(link, diag) != SYL_OK) return TUNE_BROKEN;
    const char *line = request_line(link, request);
    tune_outcome outcome = TUNE_CRASHED;
    if (!send_line(link, line, strlen(line))) return lose(link, TUNE_CRASHED, NULL, out);
    const char *answer = read_line(link, tune_now() + link->options.limit, &outcome);
    if (!answer && link->used == MOST_LINE) return lose(link, TUNE_CRASHED, "its answer has no end", out);
    if (!answer)
        return lose(link, outcome,
                    outcome == TUNE_HUNG
                        ? syl_arena_printf(&link->arena, "no answer within %.3g s", link->options.limit)
                        : NULL,
                    out);
    if (!read_answer(link, answer, expected, out))
        return lose(link, TUNE_CRASHED,
                    syl_arena_printf(&link->arena, "what it said is no answer: %.80s", answer), out);
    if (out->state == SYL_TUNING_CRASHED) return lose(link, TUNE_CRASHED, out->message, out);
    return TUNE_ANSWERED;
}

void tune_link_close(tune_link *link) {
    if (!link) return;
    if (link->pid) {
        shutdown(link->fd, SHUT_WR); /* the end of its questions */
        if (!reap(link, 2)) end_process(link, true);
        if (link->fd >= 0) close(link->fd);
    }
    tune_worker_close(link->worker);
    syl_arena_free(&link->arena);
    free(link->buffer);
    free(link);
}
