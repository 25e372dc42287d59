/* Showing passes (pass_options.h). */
#include "tools/pass_options.h"

static void show_pass(void *user, const syl_pass_event *event) {
    pass_settings *settings = user;
    settings->seconds += event->seconds;
    if (settings->timing)
        fprintf(stderr, "%3d %-22s %9.3f ms\n", event->index, event->pass, 1e3 * event->seconds);
    for (size_t i = 0; settings->stats && i < event->n_counters; i++) {
        fprintf(stderr, "%3d %-22s %9lld %s\n", event->index, event->pass,
                (long long)event->counters[i].value, event->counters[i].name);
    }
    char *text;
    if (!settings->print_ir || syl_pass_event_ir(event, &text, NULL) != SYL_OK) return;
    fprintf(stderr, "// after %d: %s\n%s\n", event->index, event->pass, text);
    syl_free(text);
}

void pass_options_apply(pass_settings *settings, syl_compile_settings *compile) {
    compile->after_pass = show_pass;
    compile->after_pass_user = settings;
    compile->reproducer = settings->reproducer;
}
