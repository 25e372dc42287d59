/* Parsing command lines by tables (options.h). */
#include "tools/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

typedef struct found_option {
    const opt_spec *spec;
    void *settings;
} found_option;

enum { MAX_NAMES = 64 };

static found_option find_option(const opt_spec *const *tables, void *const *settings, int n_tables,
                                const char *name, size_t size, char letter) {
    for (int t = 0; t < n_tables; t++) {
        for (const opt_spec *spec = tables[t]; spec->name; spec++) {
            bool same = letter ? spec->letter == letter
                               : strlen(spec->name) == size && memcmp(spec->name, name, size) == 0;
            if (same) return (found_option){spec, settings[t]};
        }
    }
    return (found_option){0};
}

static syl_status unknown_option(const opt_spec *const *tables, int n_tables, const char *word,
                                 const char *name, const char *verb, syl_diag *diag) {
    const char *names[MAX_NAMES + 1];
    int n = 0;
    for (int t = 0; t < n_tables; t++) {
        for (const opt_spec *spec = tables[t]; spec->name && n < MAX_NAMES; spec++) names[n++] = spec->name;
    }
    names[n] = NULL;
    const char *nearest = name ? syl_nearest(name, names) : NULL;
    if (nearest)
        return syl_error(diag, SYL_ERR_cli_option, SYL_NOWHERE,
                         "syl %s has no option \"%s\"; did you mean \"--%s\"?", verb, word, nearest);
    return syl_error(diag, SYL_ERR_cli_option, SYL_NOWHERE, "syl %s has no option \"%s\"", verb, word);
}

/* True if `value` is one of "a|b|c". */
static bool is_choice(const char *choices, const char *value) {
    size_t size = strlen(value);
    for (const char *p = choices; p;) {
        const char *end = strchr(p, '|');
        if ((end ? (size_t)(end - p) : strlen(p)) == size && memcmp(p, value, size) == 0) return true;
        p = end ? end + 1 : NULL;
    }
    return false;
}

static syl_status set_value(const found_option *option, const char *text, syl_diag *diag) {
    const opt_spec *spec = option->spec;
    void *field = (char *)option->settings + spec->offset;
    char *end;
    errno = 0;
    switch (spec->kind) {
    case OPT_FLAG:
        *(bool *)field = true;
        return SYL_OK;
    case OPT_CHOICE:
        if (!is_choice(spec->value, text)) {
            return syl_error(diag, SYL_ERR_cli_value, SYL_NOWHERE, "--%s is \"%s\", expected one of %s",
                             spec->name, text, spec->value);
        }
        *(const char **)field = text;
        return SYL_OK;
    case OPT_TEXT:
        *(const char **)field = text;
        return SYL_OK;
    case OPT_LIST: {
        opt_list *list = field;
        if (list->n == OPT_LIST_MAX)
            return syl_error(diag, SYL_ERR_cli_value, SYL_NOWHERE, "--%s is given more than %d times",
                             spec->name, OPT_LIST_MAX);
        list->p[list->n++] = text;
        return SYL_OK;
    }
    case OPT_INT: {
        long long value = strtoll(text, &end, 10);
        if (end == text || *end || errno || (double)value < spec->min || (double)value > spec->max) {
            return syl_error(diag, SYL_ERR_cli_value, SYL_NOWHERE,
                             "--%s is \"%s\", expected an integer from %.0f to %.0f", spec->name, text,
                             spec->min, spec->max);
        }
        *(int64_t *)field = value;
        return SYL_OK;
    }
    case OPT_NUMBER: {
        double value = strtod(text, &end);
        if (end == text || *end || errno || !(value >= spec->min && value <= spec->max)) {
            return syl_error(diag, SYL_ERR_cli_value, SYL_NOWHERE,
                             "--%s is \"%s\", expected a number from %g to %g", spec->name, text, spec->min,
                             spec->max);
        }
        *(double *)field = value;
        return SYL_OK;
    }
    }
    return SYL_OK;
}

syl_status opt_parse(const opt_spec *const *tables, void *const *settings, int n_tables, int argc,
                     char **argv, const char *verb, syl_diag *diag, const char **args, int *out_n_args) {
    int n = 0;
    bool options = true;
    for (int i = 0; i < argc; i++) {
        const char *word = argv[i];
        if (!options || word[0] != '-' || !word[1]) {
            args[n++] = word;
            continue;
        }
        if (strcmp(word, "--") == 0) {
            options = false;
            continue;
        }
        bool is_long = word[1] == '-';
        const char *name = word + 2, *equals = is_long ? strchr(name, '=') : NULL;
        size_t size = equals ? (size_t)(equals - name) : strlen(name);
        if (!is_long && word[2]) return unknown_option(tables, n_tables, word, NULL, verb, diag);
        found_option option = find_option(tables, settings, n_tables, name, size, is_long ? 0 : word[1]);
        if (!option.spec) return unknown_option(tables, n_tables, word, is_long ? name : NULL, verb, diag);
        const char *value = equals ? equals + 1 : NULL;
        if (option.spec->kind == OPT_FLAG && value) {
            return syl_error(diag, SYL_ERR_cli_value, SYL_NOWHERE, "--%s takes no value", option.spec->name);
        }
        if (option.spec->kind != OPT_FLAG && !value) {
            if (i + 1 == argc) {
                return syl_error(diag, SYL_ERR_cli_value, SYL_NOWHERE, "--%s needs a value: %s",
                                 option.spec->name, option.spec->value);
            }
            value = argv[++i];
        }
        SYL_TRY(set_value(&option, value, diag));
    }
    *out_n_args = n;
    return SYL_OK;
}

void opt_print_help(const opt_spec *table, syl_text *out) {
    for (const opt_spec *spec = table; spec->name; spec++) {
        char left[80];
        int n = snprintf(left, sizeof left, "%s%c%s --%s%s%s", spec->letter ? "-" : " ",
                         spec->letter ? spec->letter : ' ', spec->letter ? "," : " ", spec->name,
                         spec->value ? " " : "", spec->value ? spec->value : "");
        if (n < 30) {
            syl_text_printf(out, "  %-30s%s\n", left, spec->help);
        } else {
            syl_text_printf(out, "  %s\n  %-30s%s\n", left, "", spec->help);
        }
    }
}
