/* syl generate: text from a language model, as it comes. */
#include <string.h>

#include "base/file.h"
#include "tools/tool.h"

typedef struct settings {
    const char *prompt, *file, *system;
    bool raw, greedy;
    int64_t max_tokens, top_k, seed, context;
    double temperature, top_p;
} settings;

static const opt_spec options[] = {
    OPT_ROW_TEXT(settings, prompt, "prompt", 'p', "TEXT", "the prompt"),
    OPT_ROW_TEXT(settings, file, "file", 'f', "FILE", "read the prompt from a file"),
    OPT_ROW_FLAG(settings, raw, "raw", 0,
                 "continue the prompt as it stands, without the model's chat format"),
    OPT_ROW_TEXT(settings, system, "system", 0, "TEXT", "the system message, in place of the model's own"),
    OPT_ROW_INT(settings, max_tokens, "tokens", 'n', "N", 1, 1 << 20, "new tokens at most (default: 128)"),
    OPT_ROW_FLAG(settings, greedy, "greedy", 0, "take the likeliest token each time (the default)"),
    OPT_ROW_NUMBER(settings, temperature, "temp", 0, "X", 0, 100, "draw with this temperature; 0 = greedy"),
    OPT_ROW_INT(settings, top_k, "top-k", 0, "N", 0, 1 << 20,
                "draw from the N likeliest tokens; 0 = all (the default)"),
    OPT_ROW_NUMBER(settings, top_p, "top-p", 0, "X", 1e-9, 1,
                   "draw from the likeliest tokens of this probability together (default: 1)"),
    OPT_ROW_INT(settings, seed, "seed", 0, "N", 0, 9007199254740991.0, "of the random numbers (default: 0)"),
    OPT_ROW_INT(settings, context, "context", 0, "N", 1, 1 << 24,
                "positions at most (default: what the model was trained for)"),
    {0},
};

enum { MAX_PROMPT = 64 << 20 }; /* bytes; the tokenizer takes no more */

static void defaults(void *user) {
    settings *s = user;
    s->max_tokens = 128;
    s->top_p = 1;
}

static int print_token(void *user, int32_t id, const char *text, size_t size) {
    tool *t = user;
    (void)id;
    return t->json || !size || tool_print(t, text, size) == SYL_OK;
}

static double rate(int64_t tokens, double seconds) {
    return seconds > 0 && tokens > 0 ? (double)tokens / seconds : 0;
}

static syl_status report(tool *t, const char *text, const syl_generate_result *g, double load_s) {
    double prefill = rate(g->prompt_tokens, g->prefill_s), decode = rate(g->new_tokens - 1, g->decode_s);
    tool_say(t,
             "%lld tokens read at %.1f tokens/s, %lld written at %.1f tokens/s (stopped: %s), first token "
             "after %.2f s",
             (long long)g->prompt_tokens, prefill, (long long)g->new_tokens, decode, g->end_name,
             load_s + g->first_token_s);
    if (!t->json) return SYL_OK;
    tool_json json = tool_json_begin(t);
    tool_json_text(&json, "text", text);
    tool_json_int(&json, "prompt_tokens", g->prompt_tokens);
    tool_json_int(&json, "tokens", g->new_tokens);
    tool_json_text(&json, "stop", g->end_name);
    tool_json_number(&json, "load_s", load_s);
    tool_json_number(&json, "first_token_s", load_s + g->first_token_s);
    tool_json_number(&json, "prefill_tokens_per_s", prefill);
    tool_json_number(&json, "decode_tokens_per_s", decode);
    return tool_json_end(t, &json);
}

static syl_status generate(tool *t, const settings *s, syl_session *session, double start) {
    syl_source prompt = {"--prompt", s->prompt, s->prompt ? strlen(s->prompt) : 0};
    if (s->file) SYL_TRY(syl_file_read(&t->arena, s->file, MAX_PROMPT, t->diag, &prompt));
    double load_s = tool_seconds() - start;
    syl_generate_settings generate = {.size = sizeof generate,
                                      .prompt = prompt.text,
                                      .prompt_size = prompt.size,
                                      .system = s->system,
                                      .raw = s->raw,
                                      .max_tokens = s->max_tokens,
                                      .temperature = s->temperature,
                                      .top_k = s->top_k,
                                      .top_p = s->top_p,
                                      .seed = (uint64_t)s->seed,
                                      .token = print_token,
                                      .user = t};
    syl_generate_result result = {.size = sizeof result};
    char *text;
    SYL_TRY(syl_session_generate(session, &generate, &text, NULL, &result));
    syl_status status = result.end == SYL_END_CALLER ? SYL_IO : SYL_OK; /* reported by tool_print */
    if (status == SYL_OK && !t->json) status = tool_print(t, "\n", 1);
    if (status == SYL_OK) status = report(t, text, &result, load_s);
    syl_free(text);
    return status;
}

static syl_status run(tool *t, void *user, const char **args, int n_args) {
    (void)n_args;
    const settings *s = user;
    double start = tool_seconds();
    if (!s->prompt == !s->file)
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE,
                         "syl generate needs a prompt: -p TEXT or -f FILE");
    if (s->raw && s->system)
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE,
                         "--system needs the chat format that --raw leaves out");
    if (s->greedy && s->temperature > 0)
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE,
                         "--greedy and --temp contradict each other");
    syl_program *program;
    syl_session *session;
    SYL_TRY(tool_open_lm(t, args[0], s->context, &program, &session));
    syl_status status = generate(t, s, session, start);
    syl_session_destroy(session);
    syl_program_destroy(program);
    return status;
}

const verb verb_generate = {
    .name = "generate",
    .summary = "write text with a language model",
    .usage = "FILE.syl -p TEXT [-n 128] [--temp X --top-k N --top-p X --seed N]",
    .details = "The text goes to the standard output as it is made; speed to the standard error at the end. "
               "A model with a chat format\n"
               "gets the prompt as a user's message, unless --raw.",
    .options = options,
    .settings_size = sizeof(settings),
    .defaults = defaults,
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
