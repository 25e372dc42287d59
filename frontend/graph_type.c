/* Reads the types in a graph. */
#include "frontend/graph_type.h"
#include <string.h>
#include "base/json.h"

bool syl_graph_name_valid(const char *name) {
    for (const char *p = name; *p; p++) {
        bool letter = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || *p == '_';
        if (!letter && (p == name || !((*p >= '0' && *p <= '9') || *p == '.'))) return false;
    }
    return *name != 0;
}

/* A size or a symbol of `n` bytes; false if it is neither. */
static bool dimension(const char *p, size_t n, syl_module *module, syl_dim *out) {
    *out = (syl_dim){0};
    if (*p >= 'A' && *p <= 'Z') {
        char symbol[64];
        if (n >= sizeof symbol || strspn(p, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") < n) return false;
        memcpy(symbol, p, n);
        symbol[n] = 0;
        out->symbol = syl_module_symbol(module, symbol);
        return true;
    }
    if (n > 15 || *p == '0') return false; /* sizes stay below 10^15, without leading zeros */
    for (size_t i = 0; i < n; i++) {
        if (p[i] < '0' || p[i] > '9') return false;
        out->size = out->size * 10 + (p[i] - '0');
    }
    return n > 0;
}

static syl_status bad_dtype(const char *text, const char *word, syl_loc loc, syl_diag *diag) {
    const char *names[SYL_DTYPE_COUNT + 1] = {0};
    for (int i = 0; i < SYL_DTYPE_COUNT; i++) names[i] = syl_dtypes[i].name;
    const char *near = syl_nearest(word, names);
    return near ? syl_error(diag, SYL_ERR_graph_type, loc,
                            "\"%s\": there is no element type '%s'; did you mean '%s'?", text, word, near)
                : syl_error(diag, SYL_ERR_graph_type, loc, "\"%s\": there is no element type '%s'", text,
                            word);
}

syl_status syl_graph_type(const char *text, syl_module *module, syl_loc loc, syl_diag *diag, syl_type *out) {
    *out = (syl_type){.kind = SYL_TENSOR};
    const char *p = text;
    if (strncmp(p, "tensor<", 7) == 0)
        p += 7;
    else if (strncmp(p, "kv<", 3) == 0)
        p += 3, out->kind = SYL_KV;
    else
        return syl_error(diag, SYL_ERR_graph_type, loc, "\"%s\": expected tensor<...> or kv<...>", text);
    /* Symbols are upper case and element types lower case, so 'x' only separates. */
    while ((*p >= '0' && *p <= '9') || (*p >= 'A' && *p <= 'Z')) {
        size_t n = strcspn(p, "x>");
        if (p[n] != 'x')
            return syl_error(diag, SYL_ERR_graph_type, loc,
                             "\"%s\": expected 'x' and an element type behind the dimensions", text);
        if (out->rank == SYL_MAX_RANK)
            return syl_error(diag, SYL_ERR_graph_type, loc, "\"%s\": more than %d dimensions", text,
                             SYL_MAX_RANK);
        if (!dimension(p, n, module, &out->dims[out->rank++]))
            return syl_error(diag, SYL_ERR_graph_type, loc,
                             "\"%s\": '%.*s' is neither a size >= 1 nor a symbol such as T", text, (int)n, p);
        p += n + 1;
    }
    char word[32];
    size_t n = strcspn(p, ">");
    if (p[n] != '>' || p[n + 1] || n >= sizeof word)
        return syl_error(diag, SYL_ERR_graph_type, loc, "\"%s\": expected an element type and '>' at the end",
                         text);
    memcpy(word, p, n);
    word[n] = 0;
    out->dtype = syl_dtype_of(word);
    if (out->dtype == SYL_DTYPE_COUNT) return bad_dtype(text, word, loc, diag);
    if (out->rank == 0 || (out->kind == SYL_KV && out->rank != 3))
        return syl_error(diag, SYL_ERR_graph_type, loc, "\"%s\": expected %s", text,
                         out->rank ? "kv<layers x kv_heads x head_dim x element>" : "at least one dimension");
    if (out->kind == SYL_KV)
        for (int i = 0; i < out->rank; i++)
            if (out->dims[i].symbol)
                return syl_error(diag, SYL_ERR_graph_type, loc, "\"%s\": the sizes of a kv cache are numbers",
                                 text);
    return SYL_OK;
}
