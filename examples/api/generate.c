/* Compiles a checkpoint, loads the artifact, and writes text: the whole way through the library.
 *
 *     generate CHECKPOINT|GRAPH.json OUT.syl PROMPT [RECIPE]
 *     generate MODEL.syl PROMPT
 *
 * Build it against an installed library: cc generate.c $(pkg-config --cflags --libs sylvester) */
#include <stdio.h>
#include <string.h>

#include <syl/syl.h>

/* Every message of the library, as it happens. */
static void print_message(void *user, const syl_notice *notice) {
    (void)user;
    fputs(notice->rendered, stderr);
}

static int print_token(void *user, int32_t id, const char *text, size_t size) {
    (void)user, (void)id;
    fwrite(text, 1, size, stdout);
    fflush(stdout);
    return 1; /* 0 would stop here */
}

static syl_status generate(syl_instance *instance, const char *path, const char *prompt) {
    syl_program *program;
    syl_session *session;
    syl_status status = syl_program_load(instance, path, &program);
    if (status != SYL_OK) return status;
    status = syl_session_create(instance, program, NULL, &session);
    if (status == SYL_OK) {
        syl_generate_settings settings = {
            .size = sizeof settings, .prompt = prompt, .max_tokens = 64, .token = print_token};
        syl_generate_result result = {.size = sizeof result};
        status = syl_session_generate(session, &settings, NULL, NULL, &result);
        printf("\n");
        if (status == SYL_OK)
            fprintf(stderr, "%lld tokens (%s)\n", (long long)result.new_tokens, result.end_name);
        syl_session_destroy(session);
    }
    syl_program_destroy(program);
    return status;
}

int main(int argc, char **argv) {
    if (argc < 3 || argc > 5) {
        fprintf(stderr, "usage: %s CHECKPOINT OUT.syl PROMPT [RECIPE] | MODEL.syl PROMPT\n", argv[0]);
        return SYL_USAGE;
    }
    syl_instance_options options = {.size = sizeof options, .message = print_message};
    syl_instance *instance;
    syl_status status = syl_instance_create(&options, &instance);
    if (status != SYL_OK) return (int)status;
    if (argc > 3) {
        syl_compile_settings settings = {.size = sizeof settings, .recipe = argc == 5 ? argv[4] : "w8a8"};
        status = syl_compile_file(instance, argv[1], argv[2], &settings, NULL);
        if (status == SYL_OK) status = generate(instance, argv[2], argv[3]);
    } else {
        status = generate(instance, argv[1], argv[2]);
    }
    syl_instance_destroy(instance);
    return (int)status;
}
