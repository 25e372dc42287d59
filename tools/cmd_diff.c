/* syl diff: two artifacts, tensor by tensor: how far apart the numbers are, and how large. With an input for the models, their values
 * between kernels instead (diff_values.c). */
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "tools/diff.h"
#include "tools/sizes.h"

static const opt_spec options[] = {
    OPT_ROW_TEXT(diff_settings, file, "file", 'f', "TEXT", "run both language models on a text"),
    OPT_ROW_TEXT(diff_settings, ids, "ids", 0, "1,2,3", "or on tokens"),
    OPT_ROW_INT(diff_settings, tokens, "tokens", 'n', "N", 1, 1 << 24, "the first N of them (default: 256)"),
    OPT_ROW_LIST(diff_settings, inputs, "input", 'i', "NAME=@X.npy", "run both models on tensors"),
    OPT_ROW_TEXT(diff_settings, random, "random", 0, "ROWS",
                 "or on normal numbers (integers: 0) where none are given: 256 rows, or B=1,T=256"),
    OPT_ROW_INT(diff_settings, seed, "seed", 0, "S", 0, 1 << 30, "of these (default: 0)"),
    {0},
};

static void defaults(void *user) {
    ((diff_settings *)user)->tokens = 256;
}

typedef struct pair {
    const char *name;
    syl_tensor_info tensor[2];
    size_t index[2];
    bool has[2], same_shape;
    double error; /* ||b - a|| / ||a||, Frobenius; NaN where it cannot be told */
} pair;

typedef struct comparison {
    tool *t;
    syl_instance *instance;
    syl_container *containers[2];
    SYL_VEC(pair) pairs;
} comparison;

/* The pair of that name; artifacts list their tensors in the order of the model, so it is near `hint`. */
static pair *find_pair(comparison *c, const char *name, size_t hint) {
    for (size_t i = 0; i < c->pairs.n; i++) {
        pair *p = &c->pairs.p[(hint + i) % c->pairs.n];
        if (strcmp(p->name, name) == 0) return p;
    }
    SYL_PUSH(&c->t->arena, &c->pairs, (pair){.name = name, .error = NAN});
    return &c->pairs.p[c->pairs.n - 1];
}

static syl_status collect(comparison *c, int side, const char *path) {
    syl_container_info info = {.size = sizeof info};
    SYL_TRY(syl_container_load(c->instance, path, &c->containers[side]));
    SYL_TRY(syl_container_describe(c->containers[side], &info));
    if (strcmp(info.kind, "artifact") != 0) {
        return syl_error(c->t->diag, SYL_ERR_artifact_format, SYL_NOWHERE,
                         "\"%s\" is no artifact: it is a %s file", path, info.kind);
    }
    for (size_t i = 0; i < info.tensors; i++) {
        syl_tensor_info tensor = {.size = sizeof tensor};
        SYL_TRY(syl_container_tensor(c->containers[side], i, &tensor));
        pair *p = find_pair(c, tensor.name, i);
        p->tensor[side] = tensor;
        p->index[side] = i;
        p->has[side] = true;
    }
    return SYL_OK;
}

static bool same_shape(const syl_tensor_info *a, const syl_tensor_info *b) {
    bool same = a->rank == b->rank;
    for (int i = 0; same && i < a->rank; i++) same = a->dims[i] == b->dims[i];
    return same;
}

static syl_status compare(comparison *c, pair *p) {
    p->same_shape = p->has[0] && p->has[1] && same_shape(&p->tensor[0], &p->tensor[1]);
    if (!p->same_shape) return SYL_OK;
    return syl_container_distance(c->instance, c->containers[0], p->index[0], c->containers[1], p->index[1],
                                  &p->error);
}

/* ---- printing ---- */

static const char *type_name(const pair *p, int side) {
    return p->has[side] ? p->tensor[side].type : "-";
}

static void print_pair(const comparison *c, const pair *p, bool first, syl_text *out) {
    char error[32];
    if (c->t->json) {
        snprintf(error, sizeof error, "%.6g", p->error);
        syl_text_printf(out, "%s{\"name\": ", first ? "" : ", ");
        syl_json_quote(out, p->name);
        for (int side = 0; side < 2; side++) {
            syl_text_printf(out, ", \"%s_type\": ", side ? "b" : "a");
            if (p->has[side]) {
                syl_text_printf(out, "\"%s\", \"%s_bytes\": %lld", type_name(p, side), side ? "b" : "a",
                                (long long)p->tensor[side].bytes);
            } else {
                syl_text_printf(out, "null, \"%s_bytes\": 0", side ? "b" : "a");
            }
        }
        syl_text_printf(out, ", \"error\": %s}", isfinite(p->error) ? error : "null");
        return;
    }
    snprintf(error, sizeof error, "%.3e", p->error);
    syl_text_printf(out, "%-11s %10s %10s  %-20s %-20s %s\n",
                    p->same_shape ? error
                    : !p->has[0]  ? "only in B"
                    : !p->has[1]  ? "only in A"
                                  : "other shape",
                    p->has[0] ? size_text(&c->t->arena, p->tensor[0].bytes) : "-",
                    p->has[1] ? size_text(&c->t->arena, p->tensor[1].bytes) : "-", type_name(p, 0),
                    type_name(p, 1), p->name);
}

static syl_status report(const comparison *c) {
    syl_text out = {.arena = &c->t->arena};
    int64_t bytes[2] = {0}, alone[2] = {0}, compared = 0;
    double worst = 0;
    if (c->t->json) {
        syl_text_printf(&out, "{\"tensors\": [");
    } else {
        syl_text_printf(&out, "%-11s %10s %10s  %-20s %-20s %s\n", "error", "A", "B", "type in A",
                        "type in B", "tensor");
    }
    for (size_t i = 0; i < c->pairs.n; i++) {
        const pair *p = &c->pairs.p[i];
        print_pair(c, p, i == 0, &out);
        for (int side = 0; side < 2; side++) {
            bytes[side] += p->tensor[side].bytes;
            alone[side] += p->has[side] && !p->has[1 - side];
        }
        compared += p->same_shape;
        if (p->error > worst) worst = p->error;
    }
    if (c->t->json) {
        syl_text_printf(&out,
                        "], \"compared\": %lld, \"only_a\": %lld, \"only_b\": %lld, \"a_bytes\": %lld, "
                        "\"b_bytes\": %lld, \"largest_error\": ",
                        (long long)compared, (long long)alone[0], (long long)alone[1], (long long)bytes[0],
                        (long long)bytes[1]);
        if (isfinite(worst)) {
            syl_json_print_number(&out, worst);
        } else {
            syl_text_printf(&out, "null");
        }
        syl_text_printf(&out, "}\n");
    } else {
        syl_text_printf(&out,
                        "%lld compared, largest error %.3e; %lld only in A, %lld only in B; %s and %s\n",
                        (long long)compared, worst, (long long)alone[0], (long long)alone[1],
                        size_text(&c->t->arena, bytes[0]), size_text(&c->t->arena, bytes[1]));
    }
    return tool_print(c->t, out.p, out.n);
}

static syl_status compare_all(comparison *c) {
    double elements = 0, done = 0;
    for (size_t i = 0; i < c->pairs.n; i++) elements += (double)c->pairs.p[i].tensor[0].elements;
    tool_progress progress = tool_progress_begin(c->t, "diff");
    syl_status status = SYL_OK;
    for (size_t i = 0; i < c->pairs.n && status == SYL_OK; i++) {
        status = compare(c, &c->pairs.p[i]);
        done += (double)c->pairs.p[i].tensor[0].elements;
        tool_progress_update(&progress, done, elements, NULL);
    }
    tool_progress_end(&progress);
    return status == SYL_OK ? report(c) : status;
}

static syl_status run(tool *t, void *user, const char **args, int n_args) {
    (void)n_args;
    comparison c = {.t = t};
    if (diff_runs(user)) return diff_values(t, user, args);
    SYL_TRY(tool_instance(t, &c.instance));
    syl_status status = collect(&c, 0, args[0]);
    if (status == SYL_OK) status = collect(&c, 1, args[1]);
    if (status == SYL_OK) status = compare_all(&c);
    for (int side = 0; side < 2; side++) syl_container_destroy(c.containers[side]);
    return status;
}

const verb verb_diff = {
    .name = "diff",
    .summary = "compare two artifacts: stored tensors, or the values between kernels, layer by layer",
    .usage = "A.syl B.syl [-f TEXT | --ids 1,2,3 | --input NAME=@X.npy ... | --random ROWS]",
    .details =
        "Alone: the distance of B's tensors, dequantized, from A's, relative to A's (Frobenius norms), "
        "paired by name. Recipes with\n"
        "other rotations store a layer in another basis, where the numbers differ altogether. With an "
        "input both models run on it,\n"
        "and the values that kernels pass on are compared by the names of the graph: relative error, "
        "SQNR, cosine, largest difference;\n"
        "the norms of rows where folded rotations may differ (docs/cli.md). Of language models also the "
        "KL divergence.",
    .options = options,
    .settings_size = sizeof(diff_settings),
    .defaults = defaults,
    .min_args = 2,
    .max_args = 2,
    .run = run,
};
