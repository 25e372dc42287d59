/* What syl diff has found in two models that ran (diff.h), layer by layer. */
#include <ctype.h>
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "tools/diff.h"
#include "tools/sizes.h"

/* ---- layers ---- */

/* A name's layer is the first number between its dots, where the text in front of it is that of the layers: "blk.0.x1". */
typedef struct prefix {
    const char *text;
    int size;
    int64_t most; /* the largest number seen behind it */
} prefix;

/* Size of the text in front of the first number, or -1; *number gets it. */
static int find_number(const char *name, int64_t *number) {
    for (const char *p = name; p; p = strchr(p, '.'), p = p ? p + 1 : NULL) {
        int64_t n = 0;
        const char *end = p;
        for (; isdigit((unsigned char)*end) && n < 1000000; end++) n = 10 * n + (*end - '0');
        if (end == p || *end != '.') continue;
        *number = n;
        return (int)(p - name);
    }
    return -1;
}

/* Of the prefixes of names the one with the largest number. */
static void meet(prefix *best, const char *name) {
    int64_t number;
    int size = find_number(name, &number);
    if (size >= 0 && (!best->text || number > best->most)) *best = (prefix){name, size, number};
}

static int64_t layer_of(const prefix *p, const char *name) {
    int64_t number;
    int size = find_number(name, &number);
    return size >= 0 && p->text && size == p->size && strncmp(name, p->text, (size_t)size) == 0 ? number : -1;
}

typedef struct layer {
    int64_t number; /* -1: what is in none */
    int64_t bytes[2];
} layer;

typedef struct layers {
    SYL_VEC(layer) list; /* by number, then what is in none */
    int64_t bytes[2];
} layers;

static syl_status add_sizes(const diff_run *run, int side, const char *path, layers *out) {
    syl_container *container;
    syl_container_info info = {.size = sizeof info};
    prefix of = {0};
    SYL_TRY(syl_container_load(run->instance, path, &container));
    syl_status status = syl_container_describe(container, &info);
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < info.tensors && status == SYL_OK; i++) {
            syl_tensor_info tensor = {.size = sizeof tensor};
            status = syl_container_tensor(container, i, &tensor);
            if (status != SYL_OK) break;
            if (pass == 0) {
                meet(&of, tensor.name);
                continue;
            }
            int64_t number = layer_of(&of, tensor.name);
            layer *l =
                &out->list
                     .p[number >= 0 && number < (int64_t)out->list.n - 1 ? (size_t)number : out->list.n - 1];
            l->bytes[side] += tensor.bytes;
            out->bytes[side] += tensor.bytes;
        }
    }
    syl_container_destroy(container);
    return status;
}

/* ---- values ---- */

typedef enum compared { AS_VALUES, AS_NORMS, NOT } compared;

/* Values of one name mean the same where both are the graph's, or where the same passes made both; else a rotation may lie between them,
 * which leaves the norms of rows; of columns that are scaled too nothing can be said. */
static compared how(const diff_run *run, const diff_value *v) {
    if (!v->met) return NOT;
    bool same = v->basis[0] == v->basis[1] && (v->basis[0] == SYL_BASIS_GRAPH || run->same_folds);
    if (same) return AS_VALUES;
    return v->basis[0] == SYL_BASIS_SCALED || v->basis[1] == SYL_BASIS_SCALED ? NOT : AS_NORMS;
}

static double error_of(const diff_value *v, compared c) {
    double d2 = c == AS_VALUES ? v->d2 : v->n2;
    return d2 == 0 ? 0 : sqrt(d2 / v->a2);
}

static void print_value(const diff_run *run, const diff_value *v, syl_text *out) {
    compared c = how(run, v);
    double error = error_of(v, c), db = -20 * log10(error), cosine = v->ab / sqrt(v->a2 * v->b2);
    if (c == NOT) return;
    char number[24] = "equal";
    if (error > 0) snprintf(number, sizeof number, "%.1f", db);
    if (c == AS_VALUES) {
        syl_text_printf(out, "  %-20s  %9.3e %8s %10.6f %10.4g  %-12s %s\n", v->name, error, number, cosine,
                        v->max_abs, v->element[0], v->element[1]);
    } else {
        syl_text_printf(out, "  %-20s  %9.3e %8s %10s %10s  %-12s %s\n", v->name, error, number, "norms", "-",
                        v->element[0], v->element[1]);
    }
}

static void json_number(syl_text *out, const char *key, double value) {
    syl_text_printf(out, ", \"%s\": ", key);
    if (isfinite(value)) {
        syl_json_print_number(out, value);
    } else {
        syl_text_printf(out, "null");
    }
}

static void print_value_json(const diff_run *run, const diff_value *v, bool *first, syl_text *out) {
    compared c = how(run, v);
    if (c == NOT) return;
    double error = error_of(v, c), cosine = c == AS_VALUES ? v->ab / sqrt(v->a2 * v->b2) : NAN;
    syl_text_printf(out, "%s{\"name\": ", *first ? "" : ", ");
    syl_json_quote(out, v->name);
    syl_text_printf(out,
                    ", \"compared\": \"%s\", \"a_element\": \"%s\", \"b_element\": \"%s\", \"rows\": %lld",
                    c == AS_VALUES ? "values" : "norms", v->element[0], v->element[1], (long long)v->rows);
    json_number(out, "error", error);
    json_number(out, "sqnr_db", -20 * log10(error));
    json_number(out, "cosine", cosine);
    json_number(out, "max_abs", c == AS_VALUES ? v->max_abs : NAN);
    syl_text_printf(out, "}");
    *first = false;
}

/* ---- printing ---- */

static void print_layer(const diff_run *run, const layer *l, const prefix *of, syl_text *out) {
    syl_arena *arena = &run->t->arena;
    const char *name =
        l->number < 0 ? "in no layer" : syl_arena_printf(arena, "layer %lld", (long long)l->number);
    syl_text_printf(out, "%-44s %20s  %-12s %s\n", name, "", size_text(arena, l->bytes[0]),
                    size_text(arena, l->bytes[1]));
    for (size_t i = 0; i < run->values.n; i++)
        if (layer_of(of, run->values.p[i].name) == l->number) print_value(run, &run->values.p[i], out);
}

static void print_layer_json(const diff_run *run, const layer *l, const prefix *of, bool last,
                             syl_text *out) {
    bool first = true;
    if (l->number < 0) {
        syl_text_printf(out, "{\"layer\": null");
    } else {
        syl_text_printf(out, "{\"layer\": %lld", (long long)l->number);
    }
    syl_text_printf(out, ", \"a_bytes\": %lld, \"b_bytes\": %lld, \"values\": [", (long long)l->bytes[0],
                    (long long)l->bytes[1]);
    for (size_t i = 0; i < run->values.n; i++)
        if (layer_of(of, run->values.p[i].name) == l->number)
            print_value_json(run, &run->values.p[i], &first, out);
    syl_text_printf(out, last ? "]}" : "]}, ");
}

syl_status diff_report(const diff_run *run, const char *const paths[2]) {
    syl_text out = {.arena = &run->t->arena};
    layers all = {0};
    prefix of = {0};
    int64_t counts[3] = {0};
    for (size_t i = 0; i < run->values.n; i++) {
        meet(&of, run->values.p[i].name);
        counts[how(run, &run->values.p[i])]++;
    }
    for (int64_t n = 0; of.text && n <= of.most; n++)
        SYL_PUSH(&run->t->arena, &all.list, (layer){.number = n});
    SYL_PUSH(&run->t->arena, &all.list, (layer){.number = -1});
    for (int side = 0; side < 2; side++) SYL_TRY(add_sizes(run, side, paths[side], &all));
    if (run->t->json) {
        syl_text_printf(&out, "{\"layers\": [");
        for (size_t i = 0; i < all.list.n; i++)
            print_layer_json(run, &all.list.p[i], &of, i + 1 == all.list.n, &out);
        syl_text_printf(&out,
                        "], \"compared\": %lld, \"norms\": %lld, \"left_out\": %lld, \"a_bytes\": %lld, "
                        "\"b_bytes\": %lld",
                        (long long)counts[AS_VALUES], (long long)counts[AS_NORMS], (long long)counts[NOT],
                        (long long)all.bytes[0], (long long)all.bytes[1]);
        if (run->tokens) {
            syl_text_printf(&out, ", \"tokens\": %lld", (long long)run->tokens);
            json_number(&out, "kl", run->kl);
            json_number(&out, "same_top", run->same_top);
        }
        syl_text_printf(&out, "}\n");
        return tool_print(run->t, out.p, out.n);
    }
    syl_text_printf(&out, "  %-20s  %9s %8s %10s %10s  %-12s %s\n", "value", "error", "SQNR dB", "cosine",
                    "max abs", "in A", "in B");
    for (size_t i = 0; i < all.list.n; i++) print_layer(run, &all.list.p[i], &of, &out);
    syl_text_printf(&out, "%lld values compared, %lld by the norms of their rows, %lld left out; %s and %s\n",
                    (long long)counts[AS_VALUES], (long long)counts[AS_NORMS], (long long)counts[NOT],
                    size_text(&run->t->arena, all.bytes[0]), size_text(&run->t->arena, all.bytes[1]));
    if (run->tokens)
        syl_text_printf(&out, "KL %.6f, same top token %.2f %%, over %lld tokens\n", run->kl,
                        100 * run->same_top, (long long)run->tokens);
    return tool_print(run->t, out.p, out.n);
}
