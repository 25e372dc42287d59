/* syl perplexity: how well a model predicts a text, and how far it is from another. */
#include <string.h>

#include "base/file.h"
#include "tools/tool.h"

typedef struct settings {
    const char *file, *against;
    int64_t windows, context;
} settings;

static const opt_spec options[] = {
    OPT_ROW_TEXT(settings, file, "file", 'f', "TEXT", "the text to predict"),
    OPT_ROW_TEXT(settings, against, "against", 0, "OTHER.syl",
                 "compare with another artifact: KL divergence, share of equal top tokens"),
    OPT_ROW_INT(settings, windows, "windows", 0, "N", 1, 1 << 30, "only the first N windows (default: all)"),
    OPT_ROW_INT(settings, context, "context", 0, "N", 5, 1 << 24, "tokens a window (default: 2048)"),
    {0},
};

enum { MAX_TEXT = 64 << 20 }; /* bytes; the tokenizer takes no more */

static void defaults(void *user) {
    ((settings *)user)->context = 2048;
}

static void show_progress(void *user, double done, double total, double nll) {
    char extra[40];
    snprintf(extra, sizeof extra, "nll %.4f so far", nll);
    tool_progress_update(user, done, total, extra);
}

static syl_status report(tool *t, const settings *s, const syl_perplexity_result *p) {
    if (t->json) {
        tool_json json = tool_json_begin(t);
        tool_json_number(&json, "ppl", p->ppl);
        tool_json_number(&json, "nll", p->nll);
        tool_json_int(&json, "tokens", p->tokens);
        tool_json_int(&json, "windows", p->windows);
        if (s->against) {
            tool_json_number(&json, "against_ppl", p->against_ppl);
            tool_json_number(&json, "against_nll", p->against_nll);
            tool_json_number(&json, "kl", p->kl);
            tool_json_number(&json, "same_top", p->same_top);
        }
        tool_json_number(&json, "tokens_per_s", (double)p->tokens / p->seconds);
        return tool_json_end(t, &json);
    }
    syl_text text = {.arena = &t->arena};
    syl_text_printf(&text, "perplexity %.4f (nll %.6f) over %lld tokens of %lld windows\n", p->ppl, p->nll,
                    (long long)p->tokens, (long long)p->windows);
    if (s->against) {
        syl_text_printf(&text, "against %s: perplexity %.4f there, KL %.6f, same top token %.2f %%\n",
                        s->against, p->against_ppl, p->kl, 100 * p->same_top);
    }
    return tool_print(t, text.p, text.n);
}

static syl_status measure(tool *t, const settings *s, syl_session *session, syl_session *against) {
    syl_source text;
    SYL_TRY(syl_file_read(&t->arena, s->file, MAX_TEXT, t->diag, &text));
    tool_progress progress = tool_progress_begin(t, "perplexity");
    syl_perplexity_settings perplexity = {.size = sizeof perplexity,
                                          .text = text.text,
                                          .text_size = text.size,
                                          .window = s->context,
                                          .max_windows = s->windows,
                                          .against = against,
                                          .progress = show_progress,
                                          .user = &progress};
    syl_perplexity_result result = {.size = sizeof result};
    syl_status status = syl_session_perplexity(session, &perplexity, &result);
    tool_progress_end(&progress);
    return status == SYL_OK ? report(t, s, &result) : status;
}

static syl_status with_other(tool *t, const settings *s, syl_session *session) {
    syl_program *other;
    syl_session *against;
    SYL_TRY(tool_open_lm(t, s->against, s->context, &other, &against));
    syl_status status = measure(t, s, session, against);
    syl_session_destroy(against);
    syl_program_destroy(other);
    return status;
}

static syl_status run(tool *t, void *user, const char **args, int n_args) {
    (void)n_args;
    const settings *s = user;
    syl_program *program;
    syl_session *session;
    if (!s->file)
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE, "syl perplexity needs a text: -f FILE");
    SYL_TRY(tool_open_lm(t, args[0], s->context, &program, &session));
    syl_status status = s->against ? with_other(t, s, session) : measure(t, s, session, NULL);
    syl_session_destroy(session);
    syl_program_destroy(program);
    return status;
}

const verb verb_perplexity = {
    .name = "perplexity",
    .summary = "measure how well a model predicts a text",
    .usage = "FILE.syl -f TEXT [--against OTHER.syl] [--windows N] [--context 2048]",
    .details = "The whole text is tokenized once, without special tokens, and cut into consecutive windows "
               "(the rest is dropped). Each\n"
               "window runs from an empty cache; its first 4 tokens are not scored. ppl = exp(nll), nll the "
               "mean negative\n"
               "log-likelihood in nats. --against: kl is the mean of sum p_other (log p_other - log p_this) "
               "over the positions.",
    .options = options,
    .settings_size = sizeof(settings),
    .defaults = defaults,
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
