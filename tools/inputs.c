/* Inputs of models from command lines (inputs.h). */
#include "tools/inputs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

syl_status inputs_ids(tool *t, const char *text, int32_t **out, size_t *out_n) {
    size_t n = 1;
    for (const char *p = text; *p; p++) n += *p == ',';
    *out_n = 0;
    *out = malloc(n * sizeof **out);
    if (!*out) return syl_error(t->diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for %zu tokens", n);
    for (const char *p = text;; p++) {
        char *end;
        errno = 0;
        long value = strtol(p, &end, 10);
        if (end == p || (*end && *end != ',') || errno || value < 0 || value > INT32_MAX) {
            return syl_error(t->diag, SYL_ERR_cli_value, SYL_NOWHERE,
                             "--ids: expected token ids separated by commas, found \"%.20s\"", p);
        }
        (*out)[(*out_n)++] = (int32_t)value;
        p = end;
        if (!*p) return SYL_OK;
    }
}

syl_value_info inputs_value(const syl_program *p, syl_direction direction, int i) {
    syl_value_info info = {.size = sizeof info};
    if (syl_program_value(p, direction, (size_t)i, &info) != SYL_OK) info.name = "";
    return info;
}

const char *inputs_type_text(tool *t, const syl_value_info *info) {
    syl_text text = {.arena = &t->arena};
    syl_text_printf(&text, "tensor<");
    for (int d = 0; d < info->rank; d++) {
        if (info->symbols[d])
            syl_text_printf(&text, "%sx", info->symbols[d]);
        else
            syl_text_printf(&text, "%lldx", (long long)info->dims[d]);
    }
    syl_text_printf(&text, "%s>", info->element);
    return text.p;
}

static bool has_symbol(const syl_program *p, const char *name, size_t n) {
    for (int i = 0; i < (int)syl_program_values(p, SYL_DIRECTION_IN); i++) {
        syl_value_info info = inputs_value(p, SYL_DIRECTION_IN, i);
        for (int d = 0; d < info.rank; d++)
            if (info.symbols[d] && strlen(info.symbols[d]) == n && strncmp(info.symbols[d], name, n) == 0)
                return true;
    }
    return false;
}

syl_status inputs_rows(tool *t, const syl_program *p, const char *text, const char *symbol, int64_t *out) {
    *out = 0;
    for (const char *item = text;; item++) {
        const char *equals = item + strcspn(item, "=,"), *number = item;
        size_t n = *equals == '=' ? (size_t)(equals - item) : 0;
        char *end;
        if (n) number = equals + 1;
        errno = 0;
        long long value = strtoll(number, &end, 10);
        if (end == number || (*end && *end != ',') || errno || value < 1 || value > 1 << 24)
            return syl_error(
                t->diag, SYL_ERR_cli_value, SYL_NOWHERE,
                "--random: expected rows, 1 to %d, or SYMBOL=ROWS separated by commas, found \"%.20s\"",
                1 << 24, item);
        if (n && !has_symbol(p, item, n))
            return syl_error(t->diag, SYL_ERR_cli_value, SYL_NOWHERE,
                             "--random: no input of the model has rows \"%.*s\"", (int)n, item);
        bool named = n && strlen(symbol) == n && strncmp(symbol, item, n) == 0;
        if (named || (!n && !*out)) *out = value;
        item = end;
        if (!*item) return SYL_OK;
    }
}

syl_status inputs_find(tool *t, const syl_program *p, const char *option, const char *text,
                       syl_direction direction, int *out, const char **path) {
    int n = (int)syl_program_values(p, direction);
    const char *equals = strchr(text, '=');
    if (!equals || equals[1] != '@' || !equals[2])
        return syl_error(t->diag, SYL_ERR_cli_value, SYL_NOWHERE, "--%s is \"%s\", expected NAME=@FILE.npy",
                         option, text);
    const char *name = syl_arena_printf(&t->arena, "%.*s", (int)(equals - text), text);
    const char **names = SYL_NEW_ARRAY(&t->arena, const char *, (size_t)n + 1);
    *path = equals + 2;
    for (int i = 0; i < n; i++) {
        names[i] = inputs_value(p, direction, i).name;
        if (strcmp(names[i], name) == 0) {
            *out = i;
            return SYL_OK;
        }
    }
    const char *nearest = syl_nearest(name, names);
    if (nearest)
        return syl_error(t->diag, SYL_ERR_cli_value, SYL_NOWHERE,
                         "--%s: the model has no \"%s\"; did you mean \"%s\"?", option, name, nearest);
    return syl_error(t->diag, SYL_ERR_cli_value, SYL_NOWHERE, "--%s: the model has no \"%s\"", option, name);
}

syl_tensor inputs_tensor(const char *name, const syl_npy *npy) {
    syl_tensor tensor = {.size = sizeof tensor,
                         .name = name,
                         .element = npy->is_int ? "i32" : "f32",
                         .rank = npy->rank,
                         .data = npy->data};
    for (int d = 0; d < npy->rank; d++) tensor.dims[d] = npy->dims[d];
    return tensor;
}

syl_status inputs_open(tool *t, const opt_list *list, const syl_program *p, syl_npy *files) {
    int index;
    for (int i = 0; i < list->n; i++) {
        const char *path;
        SYL_TRY(inputs_find(t, p, "input", list->p[i], SYL_DIRECTION_IN, &index, &path));
        if (files[index].mapping.data)
            return syl_error(t->diag, SYL_ERR_cli_value, SYL_NOWHERE, "--input \"%s\" is given twice",
                             inputs_value(p, SYL_DIRECTION_IN, index).name);
        SYL_TRY(syl_npy_open(path, t->diag, &files[index]));
    }
    return SYL_OK;
}
