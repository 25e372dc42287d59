/* Two models at once, each on a thread of its own with an instance of its own; and a third thread that shares the first model.
 *
 *     two_models A.syl B.syl [TOKENS]
 *
 * Prints the tokens of each. A program is read only, so any number of sessions use it at the same time; an instance and its sessions
 * belong to one thread. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include <syl/syl.h>

enum { MAX_TOKENS = 256, THREADS = 2 /* of each instance */ };

typedef struct job {
    const char *path;           /* loads this, */
    const syl_program *program; /* or uses a loaded one */
    int64_t max_tokens;
    syl_status status;
    int32_t ids[MAX_TOKENS];
    size_t n;
} job;

static int take_token(void *user, int32_t id, const char *text, size_t size) {
    job *j = user;
    (void)text, (void)size;
    if (id >= 0 && j->n < MAX_TOKENS) j->ids[j->n++] = id;
    return 1;
}

static syl_status generate(job *j, syl_instance *instance, const syl_program *program) {
    static const int32_t prompt[] = {1, 2, 3, 5, 8, 13};
    syl_session *session;
    syl_status status = syl_session_create(instance, program, NULL, &session);
    if (status != SYL_OK) return status;
    syl_generate_settings settings = {.size = sizeof settings,
                                      .tokens = prompt,
                                      .n_tokens = sizeof prompt / sizeof *prompt,
                                      .max_tokens = j->max_tokens,
                                      .temperature = 1,
                                      .seed = 7,
                                      .token = take_token,
                                      .user = j};
    status = syl_session_generate(session, &settings, NULL, NULL, NULL);
    syl_session_destroy(session);
    return status;
}

static void *run(void *user) {
    job *j = user;
    syl_instance_options options = {.size = sizeof options, .threads = THREADS};
    syl_instance *instance;
    syl_program *own = NULL;
    j->status = syl_instance_create(&options, &instance);
    if (j->status != SYL_OK) return NULL;
    if (!j->program) j->status = syl_program_load(instance, j->path, &own);
    if (j->status == SYL_OK) j->status = generate(j, instance, j->program ? j->program : own);
    if (j->status != SYL_OK) fputs(syl_instance_error(instance), stderr);
    syl_program_destroy(own);
    syl_instance_destroy(instance);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: %s A.syl B.syl [TOKENS]\n", argv[0]);
        return SYL_USAGE;
    }
    long tokens = argc > 3 ? strtol(argv[3], NULL, 10) : 32;
    if (tokens < 1 || tokens > MAX_TOKENS) {
        fprintf(stderr, "TOKENS is a number from 1 to %d\n", MAX_TOKENS);
        return SYL_USAGE;
    }
    syl_instance *instance;
    syl_program *shared;
    syl_status status = syl_instance_create(NULL, &instance);
    if (status != SYL_OK) return (int)status;
    status = syl_program_load(instance, argv[1], &shared);
    if (status != SYL_OK) fputs(syl_instance_error(instance), stderr);
    job jobs[3] = {{.program = shared}, {.path = argv[2]}, {.program = shared}};
    pthread_t threads[3];
    int started = 0;
    for (; status == SYL_OK && started < 3; started++) {
        jobs[started].max_tokens = tokens;
        if (pthread_create(&threads[started], NULL, run, &jobs[started]) != 0) break;
    }
    if (status == SYL_OK && started < 3) status = SYL_MEMORY;
    for (int i = 0; i < started; i++) {
        pthread_join(threads[i], NULL);
        if (status == SYL_OK) status = jobs[i].status;
        printf("%c:", "ABA"[i]);
        for (size_t t = 0; t < jobs[i].n; t++) printf(" %d", jobs[i].ids[t]);
        printf("\n");
    }
    /* The same model with the same seed writes the same tokens, whatever runs beside it. */
    if (status == SYL_OK) {
        status = jobs[0].n == jobs[2].n ? SYL_OK : SYL_MISMATCH;
        for (size_t t = 0; status == SYL_OK && t < jobs[0].n; t++)
            if (jobs[0].ids[t] != jobs[2].ids[t]) status = SYL_MISMATCH;
    }
    syl_program_destroy(shared);
    syl_instance_destroy(instance);
    return (int)status;
}
