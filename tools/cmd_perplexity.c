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

static void defaults(void *user) {
    ((settings *)user)->context = 2048;
}

static void show_progress(void *user, double done, double total, double nll) {
    char extra[40];
    snprintf(extra, sizeof extra, "nll %.4f so far", nll);
    tool_progress_update(user, done, total, extra);
}

/* Two models are comparable if they read the same tokens. */
static syl_status check_pair(tool *t, const syl_engine *a, const syl_engine *b) {
    const syl_artifact *x = &a->artifact, *y = &b->artifact;
    if (x->tokenizer && y->tokenizer && x->tokenizer_size == y->tokenizer_size &&
        memcmp(x->tokenizer, y->tokenizer, x->tokenizer_size) == 0) {
        return SYL_OK;
    }
    return syl_error(t->diag, SYL_ERR_lm_compare, SYL_NOWHERE, "\"%s\" and \"%s\" have different tokenizers",
                     x->file.source.name, y->file.source.name);
}

static syl_status report(tool *t, const settings *s, const syl_perplexity *p) {
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

static syl_status measure(tool *t, const settings *s, syl_lm *lm, syl_lm *against, const char *path) {
    syl_source text;
    syl_token_list ids = {.arena = &t->arena};
    SYL_TRY(tool_need_tokenizer(t, lm, path));
    SYL_TRY(syl_file_read(&t->arena, s->file, SYL_MAX_TEXT, t->diag, &text));
    SYL_TRY(syl_tokenizer_encode(lm->tokenizer, text.text, text.size, SYL_ENCODE_PLAIN, t->diag, &ids));
    tool_progress progress = tool_progress_begin(t, "perplexity");
    syl_perplexity_options perplexity = {.window = s->context,
                                         .max_windows = s->windows,
                                         .against = against,
                                         .progress = show_progress,
                                         .user = &progress};
    syl_perplexity result;
    syl_status status = syl_lm_perplexity(lm, ids.p, (int64_t)ids.n, &perplexity, t->diag, &result);
    tool_progress_end(&progress);
    return status == SYL_OK ? report(t, s, &result) : status;
}

static syl_status with_other(tool *t, const settings *s, const syl_engine *engine, syl_lm *lm,
                             const char *path) {
    syl_engine *other;
    syl_lm against = {0};
    SYL_TRY(tool_load(t, s->against, &other));
    syl_status status = check_pair(t, engine, other);
    if (status == SYL_OK) status = tool_session(t, other, s->context, &against);
    if (status == SYL_OK) status = measure(t, s, lm, &against, path);
    syl_lm_destroy(&against);
    syl_engine_destroy(other);
    return status;
}

static syl_status run(tool *t, void *user, const char **args, int n_args) {
    (void)n_args;
    const settings *s = user;
    syl_engine *engine;
    syl_lm lm = {0};
    if (!s->file)
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE, "syl perplexity needs a text: -f FILE");
    SYL_TRY(tool_load(t, args[0], &engine));
    syl_status status = tool_session(t, engine, s->context, &lm);
    if (status == SYL_OK)
        status = s->against ? with_other(t, s, engine, &lm, args[0]) : measure(t, s, &lm, NULL, args[0]);
    syl_lm_destroy(&lm);
    syl_engine_destroy(engine);
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
