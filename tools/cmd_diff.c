/* syl diff: two artifacts, tensor by tensor: how far apart the numbers are, and how large. */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/map.h"
#include "base/size.h"
#include "driver/stored.h"
#include "tools/pool.h"
#include "tools/sizes.h"
#include "tools/tool.h"

static const opt_spec options[] = {{0}};

enum { BLOCK_ELEMENTS = 256 << 10 };

typedef struct pair {
    const char *name;
    syl_stored_tensor tensor[2];
    bool has[2], same_shape;
    double error; /* ||b - a|| / ||a||, Frobenius; NaN where it cannot be told */
} pair;

typedef struct comparison {
    tool *t;
    const syl_artifact *artifact; /* whose tensors are being collected */
    int side;
    syl_map by_name; /* -> 1 + index */
    SYL_VEC(pair) pairs;
    int64_t elements, done;
} comparison;

static syl_status collect(void *user, const syl_op *op) {
    comparison *c = user;
    syl_stored_tensor tensor;
    syl_stored_find(c->artifact, op, &tensor);
    void **slot = syl_map_slot(&c->by_name, tensor.name, strlen(tensor.name), NULL);
    if (!*slot) {
        SYL_PUSH(&c->t->arena, &c->pairs, (pair){.name = tensor.name});
        *slot = (void *)(uintptr_t)c->pairs.n;
    }
    pair *p = &c->pairs.p[(uintptr_t)*slot - 1];
    p->tensor[c->side] = tensor;
    p->has[c->side] = true;
    return SYL_OK;
}

static bool same_shape(const syl_type *a, const syl_type *b) {
    bool same = a->rank == b->rank;
    for (int i = 0; same && i < a->rank; i++) same = a->dims[i].size == b->dims[i].size;
    return same;
}

typedef struct sums {
    pair *p;
    double *difference, *reference; /* a row each */
    atomic_int out_of_memory;
} sums;

/* Sums of each row on its own, so that no result depends on the threads. */
static void add_rows(void *user, int64_t begin, int64_t end, int thread) {
    (void)thread;
    sums *s = user;
    int64_t cols = s->p->tensor[0].cols;
    double *a = malloc((size_t)cols * sizeof *a), *b = malloc((size_t)cols * sizeof *b);
    if (!a || !b) atomic_store(&s->out_of_memory, 1);
    for (int64_t r = begin; r < end && a && b; r++) {
        syl_stored_read(&s->p->tensor[0], r, r + 1, a);
        syl_stored_read(&s->p->tensor[1], r, r + 1, b);
        s->difference[r] = s->reference[r] = 0;
        for (int64_t c = 0; c < cols; c++) {
            s->difference[r] += (b[c] - a[c]) * (b[c] - a[c]);
            s->reference[r] += a[c] * a[c];
        }
    }
    free(a);
    free(b);
}

static syl_status compare(comparison *c, syl_pool *pool, pair *p) {
    p->error = NAN;
    p->same_shape = p->has[0] && p->has[1] && same_shape(&p->tensor[0].type, &p->tensor[1].type);
    if (!p->same_shape) return SYL_OK;
    int64_t rows = p->tensor[0].rows, cols = p->tensor[0].cols;
    sums s = {p, calloc((size_t)rows, sizeof(double)), calloc((size_t)rows, sizeof(double)), 0};
    if (s.difference && s.reference)
        syl_pool_for(pool, rows, syl_ceil_div(BLOCK_ELEMENTS, cols), add_rows, &s);
    bool ok = s.difference && s.reference && !atomic_load(&s.out_of_memory);
    double difference = 0, reference = 0;
    for (int64_t r = 0; ok && r < rows; r++) {
        difference += s.difference[r];
        reference += s.reference[r];
    }
    free(s.difference);
    free(s.reference);
    if (!ok)
        return syl_error(c->t->diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory to compare \"%s\"",
                         p->name);
    p->error = difference == 0 ? 0 : sqrt(difference / reference);
    return SYL_OK;
}

static const char *type_name(const pair *p, int side) {
    return p->has[side] ? syl_dtypes[p->tensor[side].type.dtype].name : "-";
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

static syl_status compare_all(comparison *c, const syl_artifact artifacts[2]) {
    syl_pool *pool;
    SYL_TRY(tool_pool(c->t, &pool));
    for (c->side = 0; c->side < 2; c->side++) {
        c->artifact = &artifacts[c->side];
        SYL_TRY(syl_artifact_each(c->artifact->module, collect, c));
    }
    for (size_t i = 0; i < c->pairs.n; i++)
        c->elements += c->pairs.p[i].tensor[0].rows * c->pairs.p[i].tensor[0].cols;
    tool_progress progress = tool_progress_begin(c->t, "diff");
    syl_status status = SYL_OK;
    for (size_t i = 0; i < c->pairs.n && status == SYL_OK; i++) {
        status = compare(c, pool, &c->pairs.p[i]);
        c->done += c->pairs.p[i].tensor[0].rows * c->pairs.p[i].tensor[0].cols;
        tool_progress_update(&progress, (double)c->done, (double)c->elements, NULL);
    }
    tool_progress_end(&progress);
    return status == SYL_OK ? report(c) : status;
}

static syl_status run(tool *t, void *user, const char **args, int n_args) {
    (void)user, (void)n_args;
    syl_artifact artifacts[2] = {0};
    comparison c = {.t = t};
    syl_map_init(&c.by_name, &t->arena);
    SYL_TRY(syl_artifact_open(args[0], t->diag, &artifacts[0]));
    syl_status status = syl_artifact_open(args[1], t->diag, &artifacts[1]);
    if (status == SYL_OK) status = compare_all(&c, artifacts);
    syl_artifact_close(&artifacts[1]);
    syl_artifact_close(&artifacts[0]);
    return status;
}

const verb verb_diff = {
    .name = "diff",
    .summary = "compare two artifacts, tensor by tensor: error and size",
    .usage = "A.syl B.syl",
    .details = "error: the distance of B's numbers, dequantized, from A's, relative to A's (Frobenius "
               "norms). Tensors are\n"
               "paired by name. Recipes with other rotations store a layer in another basis, where the "
               "numbers differ "
               "altogether:\nsyl perplexity --against compares what such models compute.",
    .options = options,
    .settings_size = 1,
    .min_args = 2,
    .max_args = 2,
    .run = run,
};
