/* Showing passes (pass_options.h). */
#include "tools/pass_options.h"

static void after_pass(void *user, int index, const char *pass, const syl_module *module,
                       const syl_pass_stat *stats, size_t n_stats, double seconds) {
    pass_settings *settings = user;
    settings->seconds += seconds;
    if (settings->timing) fprintf(stderr, "%3d %-22s %9.3f ms\n", index, pass, 1e3 * seconds);
    for (size_t i = 0; settings->stats && i < n_stats; i++) {
        fprintf(stderr, "%3d %-22s %9lld %s\n", index, pass, (long long)stats[i].value, stats[i].name);
    }
    if (!settings->print_ir) return;
    syl_arena arena;
    syl_arena_init(&arena);
    syl_text text = {.arena = &arena};
    syl_module_print(module, &text);
    fprintf(stderr, "// after %d: %s\n%s\n", index, pass, text.p);
    syl_arena_free(&arena);
}

syl_pass_options pass_options_of(pass_settings *settings) {
    return (syl_pass_options){.after = after_pass, .user = settings, .reproducer = settings->reproducer};
}
