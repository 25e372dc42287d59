/* Pipelines as text: `fold-norms,rotate-residual{seed=1 online=2},cse`.
 *
 *     pipeline = [ pass { "," pass } ]      pass = name [ "{" { key "=" value } "}" ]
 * Spaces and line ends may stand between tokens. A parsed pipeline has a checked value for every option of
 * every pass, so passes need no error paths for options. */
#include <ctype.h>
#include <string.h>
#include "base/json.h"
#include "passes/pipeline.h"

const syl_pass_info syl_passes[SYL_PASS_COUNT] = {
#define PASS(ident, name, options, doc) {name, options, doc, syl_pass_##ident},
#include "passes/passes.def"
};

bool syl_option_next(const char **cursor, syl_option_spec *spec) {
    const char *p = *cursor + strspn(*cursor, " ");
    if (!*p) return false;
    spec->name = p;
    spec->name_size = (int)strcspn(p, "=");
    spec->choices = p + spec->name_size + 1;
    spec->choices_size = (int)strcspn(spec->choices, " ");
    spec->number = isdigit((unsigned char)*spec->choices) != 0;
    *cursor = spec->choices + spec->choices_size;
    return true;
}

/* ---- parsing ---- */

typedef struct parser {
    syl_arena *arena;
    const syl_source *source;
    syl_diag *diag;
    size_t at;
} parser;

static syl_loc here(const parser *p, size_t at) {
    return (syl_loc){p->source, at};
}

static int peek(parser *p) {
    while (p->at < p->source->size && isspace((unsigned char)p->source->text[p->at])) p->at++;
    return p->at < p->source->size ? (unsigned char)p->source->text[p->at] : -1;
}

static const char *found(parser *p) {
    int c = peek(p);
    if (c < 0) return "the end";
    return isprint(c) ? syl_arena_printf(p->arena, "'%c'", c)
                      : syl_arena_printf(p->arena, "byte 0x%02x", (unsigned)c);
}

/* A word of letters, digits, '-' and '_'; *start is where it begins. */
static syl_status parse_word(parser *p, const char *what, const char **out, size_t *start) {
    const char *place = found(p);
    size_t begin = p->at;
    while (p->at < p->source->size) {
        unsigned char c = (unsigned char)p->source->text[p->at];
        if (!isalnum(c) && c != '-' && c != '_') break;
        p->at++;
    }
    *start = begin;
    if (p->at == begin)
        return syl_error(p->diag, SYL_ERR_pipeline_syntax, here(p, begin), "expected %s, found %s", what,
                         place);
    *out = syl_arena_strndup(p->arena, p->source->text + begin, p->at - begin);
    return SYL_OK;
}

/* The words of a list "a<separator>b", NULL-terminated; `name_only` cuts each at '='. */
static const char **split(syl_arena *arena, const char *text, size_t size, char separator, bool name_only) {
    SYL_VEC(const char *) words = {0};
    for (size_t i = 0; i < size;) {
        size_t end = i;
        while (end < size && text[end] != separator) end++;
        const char *equals = name_only ? memchr(text + i, '=', end - i) : NULL;
        if (end > i)
            SYL_PUSH(arena, &words,
                     syl_arena_strndup(arena, text + i, equals ? (size_t)(equals - (text + i)) : end - i));
        i = end + 1;
    }
    SYL_PUSH(arena, &words, NULL);
    return words.p;
}

static const char *suggestion(syl_arena *arena, const char *word, const char *const *words) {
    const char *nearest = syl_nearest(word, words);
    return nearest ? syl_arena_printf(arena, "; did you mean '%s'?", nearest) : "";
}

static const char *join(syl_arena *arena, const char *const *words) {
    syl_text text = {.arena = arena};
    for (int i = 0; words[i]; i++) syl_text_printf(&text, "%s%s", i ? ", " : "", words[i]);
    return text.p ? text.p : "none";
}

static bool parse_number(const char *word, int64_t *out) {
    int64_t n = 0;
    for (; *word; word++)
        if (!isdigit((unsigned char)*word) || __builtin_mul_overflow(n, 10, &n) ||
            __builtin_add_overflow(n, *word - '0', &n))
            return false;
    *out = n;
    return true;
}

static syl_status set_option(parser *p, syl_option_value *value, const syl_option_spec *spec,
                             const char *word, size_t at) {
    value->word = word;
    if (spec->number) {
        if (parse_number(word, &value->number)) return SYL_OK;
        return syl_error(p->diag, SYL_ERR_pass_option, here(p, at),
                         "option '%s' takes a whole number, found '%s'", value->name, word);
    }
    const char **choices = split(p->arena, spec->choices, (size_t)spec->choices_size, '|', false);
    for (int i = 0; choices[i]; i++)
        if (strcmp(choices[i], word) == 0) return SYL_OK;
    return syl_error(p->diag, SYL_ERR_pass_option, here(p, at), "option '%s' takes one of %s, found '%s'%s",
                     value->name, join(p->arena, choices), word, suggestion(p->arena, word, choices));
}

static void fill_defaults(syl_arena *arena, struct syl_pass_run *run) {
    syl_option_spec spec;
    for (const char *cursor = run->pass->options; syl_option_next(&cursor, &spec);) run->n_options++;
    run->options = SYL_NEW_ARRAY(arena, syl_option_value, (size_t)run->n_options);
    int i = 0;
    for (const char *cursor = run->pass->options; syl_option_next(&cursor, &spec); i++) {
        size_t size = 0;
        while ((int)size < spec.choices_size && spec.choices[size] != '|') size++;
        run->options[i].name = syl_arena_strndup(arena, spec.name, (size_t)spec.name_size);
        run->options[i].word = syl_arena_strndup(arena, spec.choices, size);
        if (spec.number && !parse_number(run->options[i].word, &run->options[i].number))
            run->options[i].number = 0;
    }
}

static syl_status parse_option(parser *p, struct syl_pass_run *run, bool *given) {
    const char *key, *word;
    size_t key_at, word_at;
    SYL_TRY(parse_word(p, "an option or '}'", &key, &key_at));
    syl_option_spec spec;
    int i = 0;
    const char *cursor = run->pass->options;
    while (i < run->n_options && syl_option_next(&cursor, &spec) && strcmp(run->options[i].name, key) != 0)
        i++;
    if (i == run->n_options) {
        const char **names = split(p->arena, run->pass->options, strlen(run->pass->options), ' ', true);
        return syl_error(p->diag, SYL_ERR_pass_option, here(p, key_at),
                         "pass '%s' has no option '%s' (its options: %s)%s", run->pass->name, key,
                         join(p->arena, names), suggestion(p->arena, key, names));
    }
    if (given[i])
        return syl_error(p->diag, SYL_ERR_pass_option, here(p, key_at), "option '%s' is given twice", key);
    given[i] = true;
    if (peek(p) != '=')
        return syl_error(p->diag, SYL_ERR_pipeline_syntax, here(p, p->at),
                         "expected '=' behind option '%s', found %s", key, found(p));
    p->at++;
    SYL_TRY(parse_word(p, "a value", &word, &word_at));
    return set_option(p, &run->options[i], &spec, word, word_at);
}

static syl_status parse_pass(parser *p, struct syl_pass_run *run) {
    const char *name, *names[SYL_PASS_COUNT + 1] = {0};
    size_t at;
    SYL_TRY(parse_word(p, "the name of a pass", &name, &at));
    for (int i = 0; i < SYL_PASS_COUNT; i++) {
        names[i] = syl_passes[i].name;
        if (strcmp(syl_passes[i].name, name) == 0) run->pass = &syl_passes[i];
    }
    if (!run->pass)
        return syl_error(p->diag, SYL_ERR_pass_unknown, here(p, at), "there is no pass '%s'%s", name,
                         suggestion(p->arena, name, names));
    fill_defaults(p->arena, run);
    if (peek(p) != '{') return SYL_OK;
    p->at++;
    bool *given = SYL_NEW_ARRAY(p->arena, bool, (size_t)run->n_options);
    while (peek(p) != '}') SYL_TRY(parse_option(p, run, given));
    p->at++;
    return SYL_OK;
}

syl_status syl_pipeline_parse(syl_arena *arena, const syl_source *text, syl_diag *diag, syl_pipeline **out) {
    parser p = {arena, text, diag, 0};
    SYL_VEC(struct syl_pass_run) runs = {0};
    *out = NULL;
    while (runs.n == 0 ? peek(&p) >= 0 : peek(&p) == ',') {
        if (runs.n) p.at++;
        struct syl_pass_run run = {0};
        SYL_TRY(parse_pass(&p, &run));
        SYL_PUSH(arena, &runs, run);
    }
    if (peek(&p) >= 0)
        return syl_error(diag, SYL_ERR_pipeline_syntax, here(&p, p.at),
                         "expected ',' or the end behind pass '%s', found %s", runs.p[runs.n - 1].pass->name,
                         found(&p));
    *out = SYL_NEW(arena, syl_pipeline);
    **out = (syl_pipeline){runs.p, (int)runs.n};
    return SYL_OK;
}

/* ---- printing ---- */

static void print_run(const struct syl_pass_run *run, syl_text *out) {
    syl_text_printf(out, "%s", run->pass->name);
    const char *cursor = run->pass->options, *open = "{";
    syl_option_spec spec;
    for (int i = 0; i < run->n_options && syl_option_next(&cursor, &spec); i++) {
        const char *word = run->options[i].word;
        size_t size = strlen(word);
        int64_t number;
        bool is_default = (int)size <= spec.choices_size && strncmp(spec.choices, word, size) == 0 &&
                          ((int)size == spec.choices_size || spec.choices[size] == '|');
        if (spec.number)
            is_default = parse_number(syl_arena_strndup(out->arena, spec.choices, (size_t)spec.choices_size),
                                      &number) &&
                         number == run->options[i].number;
        if (is_default) continue;
        if (spec.number)
            syl_text_printf(out, "%s%s=%lld", open, run->options[i].name, (long long)run->options[i].number);
        else
            syl_text_printf(out, "%s%s=%s", open, run->options[i].name, word);
        open = " ";
    }
    if (*open == ' ') syl_text_printf(out, "}");
}

void syl_pipeline_print_from(const syl_pipeline *pipeline, int first, syl_text *out) {
    for (int i = first; i < pipeline->n_runs; i++) {
        if (i > first) syl_text_printf(out, ",");
        print_run(&pipeline->runs[i], out);
    }
}

void syl_pipeline_print(const syl_pipeline *pipeline, syl_text *out) {
    syl_pipeline_print_from(pipeline, 0, out);
}

/* ---- what a pipeline leaves in the weights ---- */

void syl_pipeline_folds(const char *pipeline, syl_text *out) {
    static const char *const folding[] = {
#define PASS(ident, name, options, doc)
#define FOLDS(name) name,
#include "passes/passes.def"
    };
    for (const char *p = pipeline; *p;) {
        size_t size = 0, name;
        bool inside = false;
        p += strspn(p, ", \t\r\n");
        for (; p[size] && (inside || p[size] != ','); size++)
            inside = p[size] == '{' || (inside && p[size] != '}');
        name = strcspn(p, "{, \t\r\n");
        size_t end = size;
        while (end > 0 && isspace((unsigned char)p[end - 1])) end--;
        for (size_t i = 0; i < sizeof folding / sizeof *folding; i++)
            if (strlen(folding[i]) == name && strncmp(folding[i], p, name) == 0)
                syl_text_printf(out, "%s%.*s", out->n ? "," : "", (int)end, p);
        p += size;
    }
}
