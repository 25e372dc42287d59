/* syl inspect: what is in an artifact, a GGUF checkpoint or a safetensors file. */
#include <regex.h>
#include <string.h>

#include "base/json.h"
#include "tools/sizes.h"
#include "tools/tool.h"

typedef struct settings {
    const char *tensors;
    bool hashes;
} settings;

static const opt_spec options[] = {
    OPT_ROW_TEXT(settings, tensors, "tensors", 't', "RE",
                 "list the tensors whose names match (extended regular expression; . = all)"),
    OPT_ROW_FLAG(settings, hashes, "hashes", 0, "with the XXH3-128 of each tensor's bytes"),
    {0},
};

typedef struct contents {
    syl_arena *arena;
    const syl_container *container;
    syl_container_info info;
    syl_tensor_info *rows; /* [info.tensors] */
} contents;

/* ---- printing ---- */

static double bits(const syl_tensor_info *r) {
    return r->elements ? 8 * (double)r->bytes / (double)r->elements : 0;
}

static const char *shape_text(syl_arena *arena, const syl_tensor_info *r) {
    syl_text text = {.arena = arena};
    syl_text_printf(&text, "%s", r->rank ? "" : "scalar");
    for (int i = 0; i < r->rank; i++) syl_text_printf(&text, "%s%lld", i ? "x" : "", (long long)r->dims[i]);
    return text.p;
}

/* Elements and bytes by type, in order of first appearance. */
static void print_types(const contents *c, bool json, syl_text *out) {
    bool first = true;
    for (size_t i = 0; i < c->info.tensors; i++) {
        syl_tensor_info sum = {.type = c->rows[i].type};
        int64_t count = 0;
        bool seen = false;
        for (size_t k = 0; k < c->info.tensors; k++) {
            if (strcmp(c->rows[k].type, sum.type) != 0) continue;
            seen = seen || k < i;
            sum.elements += c->rows[k].elements;
            sum.bytes += c->rows[k].bytes;
            count++;
        }
        if (seen) continue;
        if (json) {
            syl_text_printf(out,
                            "%s{\"type\": \"%s\", \"tensors\": %lld, \"elements\": %lld, \"bytes\": %lld, "
                            "\"bits\": %.4f}",
                            first ? "" : ", ", sum.type, (long long)count, (long long)sum.elements,
                            (long long)sum.bytes, bits(&sum));
        } else {
            syl_text_printf(out, "  %-20s %6lld tensors  %14lld elements  %10s  %7.3f bits each\n", sum.type,
                            (long long)count, (long long)sum.elements, size_text(c->arena, sum.bytes),
                            bits(&sum));
        }
        first = false;
    }
}

static syl_status print_row(const contents *c, size_t index, bool json, bool hashes, bool first,
                            syl_text *out) {
    const syl_tensor_info *r = &c->rows[index];
    const char *shape = shape_text(c->arena, r);
    char hash[33] = "";
    if (hashes) SYL_TRY(syl_container_hash(c->container, index, hash));
    if (!json) {
        syl_text_printf(out, "%-20s %-18s %10s %8.3f bits  %s%s%s\n", r->type, shape,
                        size_text(c->arena, r->bytes), bits(r), hash, hashes ? "  " : "", r->name);
        return SYL_OK;
    }
    syl_text_printf(out, "%s{\"name\": ", first ? "" : ", ");
    syl_json_quote(out, r->name);
    syl_text_printf(
        out, ", \"type\": \"%s\", \"shape\": \"%s\", \"elements\": %lld, \"bytes\": %lld, \"bits\": %.4f",
        r->type, shape, (long long)r->elements, (long long)r->bytes, bits(r));
    if (hashes) syl_text_printf(out, ", \"xxh3_128\": \"%s\"", hash);
    syl_text_printf(out, "}");
    return SYL_OK;
}

static void print_summary(const contents *c, bool json, syl_text *out) {
    const syl_container_info *info = &c->info;
    syl_tensor_info sum = {0};
    for (size_t i = 0; i < info->tensors; i++) {
        sum.elements += c->rows[i].elements;
        sum.bytes += c->rows[i].bytes;
    }
    if (json) {
        syl_text_printf(out, "{\"kind\": \"%s\", \"file_bytes\": %lld, ", info->kind,
                        (long long)info->file_bytes);
        if (info->name) {
            syl_text_printf(out, "\"name\": ");
            syl_json_quote(out, info->name);
            syl_text_printf(out, ", \"context_length\": %lld, \"recipe\": %s, \"provenance\": %s, ",
                            (long long)info->context_length, info->recipe, info->provenance);
        }
        syl_text_printf(out,
                        "\"tensors\": %zu, \"elements\": %lld, \"bytes\": %lld, \"bits\": %.4f, \"types\": [",
                        info->tensors, (long long)sum.elements, (long long)sum.bytes, bits(&sum));
        print_types(c, true, out);
        syl_text_printf(out, "]");
        return;
    }
    syl_text_printf(out, "%s, %s\n", info->kind, size_text(c->arena, info->file_bytes));
    if (info->name) {
        syl_text_printf(out, "  model       %s, context %lld\n  recipe      %s\n  provenance  %s\n",
                        info->name, (long long)info->context_length, info->recipe, info->provenance);
    }
    print_types(c, false, out);
    syl_text_printf(out, "  %-20s %6zu tensors  %14lld elements  %10s  %7.3f bits each\n", "all",
                    info->tensors, (long long)sum.elements, size_text(c->arena, sum.bytes), bits(&sum));
}

static syl_status print_contents(tool *t, const settings *s, const contents *c) {
    syl_text out = {.arena = &t->arena};
    regex_t pattern;
    bool first = true;
    if (s->tensors) {
        int error = regcomp(&pattern, s->tensors, REG_EXTENDED | REG_NOSUB);
        if (error) {
            char why[120];
            regerror(error, &pattern, why, sizeof why);
            return syl_error(t->diag, SYL_ERR_cli_value, SYL_NOWHERE,
                             "--tensors: \"%s\" is no regular expression: %s", s->tensors, why);
        }
    }
    if (t->json || !s->tensors) print_summary(c, t->json, &out);
    if (t->json) syl_text_printf(&out, ", \"list\": [");
    syl_status status = SYL_OK;
    for (size_t i = 0; s->tensors && i < c->info.tensors && status == SYL_OK; i++) {
        if (regexec(&pattern, c->rows[i].name, 0, NULL, 0) != 0) continue;
        status = print_row(c, i, t->json, s->hashes, first, &out);
        first = false;
    }
    if (t->json) syl_text_printf(&out, "]}\n");
    if (s->tensors) regfree(&pattern);
    SYL_TRY(status);
    return tool_print(t, out.p ? out.p : "", out.n);
}

static syl_status inspect(tool *t, const settings *s, const syl_container *container) {
    contents c = {.arena = &t->arena, .container = container, .info = {.size = sizeof c.info}};
    SYL_TRY(syl_container_describe(container, &c.info));
    c.rows = SYL_NEW_ARRAY(&t->arena, syl_tensor_info, c.info.tensors + 1);
    for (size_t i = 0; i < c.info.tensors; i++) {
        c.rows[i].size = sizeof c.rows[i];
        SYL_TRY(syl_container_tensor(container, i, &c.rows[i]));
    }
    return print_contents(t, s, &c);
}

static syl_status run(tool *t, void *user, const char **args, int n_args) {
    (void)n_args;
    syl_instance *instance;
    syl_container *container;
    SYL_TRY(tool_instance(t, &instance));
    SYL_TRY(syl_container_load(instance, args[0], &container));
    syl_status status = inspect(t, user, container);
    syl_container_destroy(container);
    return status;
}

const verb verb_inspect = {
    .name = "inspect",
    .summary = "show what is in an artifact, a GGUF or a safetensors file",
    .usage = "FILE [--tensors RE] [--hashes]",
    .details = "Without --tensors: a summary, by element type; of an artifact also its recipe and what it "
               "was made of.",
    .options = options,
    .settings_size = sizeof(settings),
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
