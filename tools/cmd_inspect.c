/* syl inspect: what is in an artifact, a GGUF checkpoint or a safetensors file. */
#include <regex.h>
#include <string.h>

#include "base/hash.h"
#include "base/json.h"
#include "driver/stored.h"
#include "frontend/gguf.h"
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

/* A tensor of any container; of an artifact all parts of one. */
typedef struct row {
    const char *name, *type, *shape;
    int64_t elements, bytes;
    int parts;
    const unsigned char *part[SYL_STORED_PARTS];
    int64_t part_bytes[SYL_STORED_PARTS];
} row;

typedef struct contents {
    syl_arena *arena;
    const char *kind, *name, *recipe, *provenance;
    int64_t context_length, file_bytes;
    SYL_VEC(row) rows;
    const syl_artifact *artifact; /* while it is read */
} contents;

/* ---- reading ---- */

static const char *shape_text(syl_arena *arena, int rank, const int64_t *dims) {
    syl_text text = {.arena = arena};
    syl_text_printf(&text, "%s", rank ? "" : "scalar");
    for (int i = 0; i < rank; i++) syl_text_printf(&text, "%s%lld", i ? "x" : "", (long long)dims[i]);
    return text.p;
}

static syl_status add_stored(void *user, const syl_op *op) {
    contents *c = user;
    syl_stored_tensor tensor;
    syl_stored_find(c->artifact, op, &tensor);
    for (size_t i = 0; i < c->rows.n; i++) {
        if (strcmp(c->rows.p[i].name, tensor.name) == 0) return SYL_OK; /* one tensor under several ops */
    }
    int64_t dims[SYL_MAX_RANK];
    for (int i = 0; i < tensor.type.rank; i++) dims[i] = tensor.type.dims[i].size;
    row r = {.name = syl_arena_strdup(c->arena, tensor.name),
             .type = syl_dtypes[tensor.type.dtype].name,
             .shape = shape_text(c->arena, tensor.type.rank, dims),
             .elements = tensor.rows * tensor.cols,
             .bytes = tensor.bytes,
             .parts = tensor.parts};
    memcpy(r.part, tensor.part, sizeof r.part);
    memcpy(r.part_bytes, tensor.part_bytes, sizeof r.part_bytes);
    SYL_PUSH(c->arena, &c->rows, r);
    return SYL_OK;
}

static syl_status read_artifact(contents *c, const syl_artifact *artifact) {
    c->kind = "artifact";
    c->name = artifact->name;
    c->recipe = artifact->recipe;
    c->provenance = artifact->provenance;
    c->context_length = artifact->context_length;
    c->file_bytes = (int64_t)artifact->file.mapping.size;
    c->artifact = artifact;
    return syl_artifact_each(artifact->module, add_stored, c);
}

static void add_plain(contents *c, const char *name, const char *type, int rank, const int64_t *dims,
                      const unsigned char *data, size_t size) {
    row r = {.name = name,
             .type = type,
             .shape = shape_text(c->arena, rank, dims),
             .elements = 1,
             .bytes = (int64_t)size,
             .parts = 1,
             .part = {data},
             .part_bytes = {(int64_t)size}};
    for (int i = 0; i < rank; i++) r.elements *= dims[i];
    SYL_PUSH(c->arena, &c->rows, r);
}

static void read_safetensors(contents *c, const syl_safetensors *file) {
    c->kind = "safetensors";
    c->file_bytes = (int64_t)file->mapping.size;
    for (size_t i = 0; i < file->tensors.n; i++) {
        const syl_st_tensor *t = &file->tensors.p[i];
        add_plain(c, t->name, syl_st_dtype_name(t->dtype), t->rank, t->shape, syl_safetensors_data(file, t),
                  t->size);
    }
}

static void read_gguf(contents *c, const syl_gguf *file) {
    c->kind = "gguf";
    c->file_bytes = (int64_t)file->mapping.size;
    for (size_t i = 0; i < file->tensors.n; i++) {
        const syl_gguf_tensor *t = &file->tensors.p[i];
        int64_t dims[SYL_GGUF_MAX_RANK];
        for (int k = 0; k < t->rank; k++) dims[k] = t->dims[t->rank - 1 - k];
        add_plain(c, t->name, t->format->name, t->rank, dims, file->mapping.data + t->offset, t->size);
    }
}

/* ---- printing ---- */

static double bits(const row *r) {
    return r->elements ? 8 * (double)r->bytes / (double)r->elements : 0;
}

static const char *hash_of(syl_arena *arena, const row *r) {
    if (r->parts == 1)
        return syl_arena_strdup(arena, syl_hash_mapped(r->part[0], (size_t)r->part_bytes[0]).hex);
    syl_text all = {.arena = arena}; /* of several parts: the hash of their hashes */
    for (int p = 0; p < r->parts; p++)
        syl_text_printf(&all, "%s", syl_hash_mapped(r->part[p], (size_t)r->part_bytes[p]).hex);
    return syl_arena_strdup(arena, syl_hash_bytes(all.p, all.n).hex);
}

/* Elements and bytes by type, in order of first appearance. */
static void print_types(const contents *c, bool json, syl_text *out) {
    bool first = true;
    for (size_t i = 0; i < c->rows.n; i++) {
        row sum = {.type = c->rows.p[i].type};
        int64_t count = 0;
        bool seen = false;
        for (size_t k = 0; k < c->rows.n; k++) {
            if (strcmp(c->rows.p[k].type, sum.type) != 0) continue;
            seen = seen || k < i;
            sum.elements += c->rows.p[k].elements;
            sum.bytes += c->rows.p[k].bytes;
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

static void print_row(const contents *c, const row *r, bool json, bool hashes, bool first, syl_text *out) {
    const char *hash = hashes ? hash_of(c->arena, r) : NULL;
    if (!json) {
        syl_text_printf(out, "%-20s %-18s %10s %8.3f bits  %s%s%s\n", r->type, r->shape,
                        size_text(c->arena, r->bytes), bits(r), hash ? hash : "", hash ? "  " : "", r->name);
        return;
    }
    syl_text_printf(out, "%s{\"name\": ", first ? "" : ", ");
    syl_json_quote(out, r->name);
    syl_text_printf(
        out, ", \"type\": \"%s\", \"shape\": \"%s\", \"elements\": %lld, \"bytes\": %lld, \"bits\": %.4f",
        r->type, r->shape, (long long)r->elements, (long long)r->bytes, bits(r));
    if (hash) syl_text_printf(out, ", \"xxh3_128\": \"%s\"", hash);
    syl_text_printf(out, "}");
}

static void print_summary(const contents *c, bool json, syl_text *out) {
    row sum = {0};
    for (size_t i = 0; i < c->rows.n; i++) {
        sum.elements += c->rows.p[i].elements;
        sum.bytes += c->rows.p[i].bytes;
    }
    if (json) {
        syl_text_printf(out, "{\"kind\": \"%s\", \"file_bytes\": %lld, ", c->kind, (long long)c->file_bytes);
        if (c->name) {
            syl_text_printf(out, "\"name\": ");
            syl_json_quote(out, c->name);
            syl_text_printf(out, ", \"context_length\": %lld, \"recipe\": %s, \"provenance\": %s, ",
                            (long long)c->context_length, c->recipe, c->provenance);
        }
        syl_text_printf(out,
                        "\"tensors\": %zu, \"elements\": %lld, \"bytes\": %lld, \"bits\": %.4f, \"types\": [",
                        c->rows.n, (long long)sum.elements, (long long)sum.bytes, bits(&sum));
        print_types(c, true, out);
        syl_text_printf(out, "]");
        return;
    }
    syl_text_printf(out, "%s, %s\n", c->kind, size_text(c->arena, c->file_bytes));
    if (c->name) {
        syl_text_printf(out, "  model       %s, context %lld\n  recipe      %s\n  provenance  %s\n", c->name,
                        (long long)c->context_length, c->recipe, c->provenance);
    }
    print_types(c, false, out);
    syl_text_printf(out, "  %-20s %6zu tensors  %14lld elements  %10s  %7.3f bits each\n", "all", c->rows.n,
                    (long long)sum.elements, size_text(c->arena, sum.bytes), bits(&sum));
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
    for (size_t i = 0; s->tensors && i < c->rows.n; i++) {
        if (regexec(&pattern, c->rows.p[i].name, 0, NULL, 0) != 0) continue;
        print_row(c, &c->rows.p[i], t->json, s->hashes, first, &out);
        first = false;
    }
    if (t->json) syl_text_printf(&out, "]}\n");
    if (s->tensors) regfree(&pattern);
    return tool_print(t, out.p ? out.p : "", out.n);
}

static syl_status inspect_artifact(tool *t, const settings *s, const char *path, contents *c) {
    syl_artifact artifact;
    SYL_TRY(syl_artifact_open(path, t->diag, &artifact));
    syl_status status = read_artifact(c, &artifact);
    if (status == SYL_OK) status = print_contents(t, s, c);
    syl_artifact_close(&artifact);
    return status;
}

static syl_status inspect_safetensors(tool *t, const settings *s, const char *path, contents *c) {
    syl_safetensors file;
    SYL_TRY(syl_safetensors_open(path, t->diag, &file));
    bool artifact = syl_safetensors_metadata(&file, "sylvester.version") != NULL;
    syl_status status = SYL_OK;
    if (!artifact) {
        read_safetensors(c, &file);
        status = print_contents(t, s, c);
    }
    syl_safetensors_close(&file);
    return artifact ? inspect_artifact(t, s, path, c) : status;
}

static syl_status run(tool *t, void *user, const char **args, int n_args) {
    (void)n_args;
    const settings *s = user;
    contents c = {.arena = &t->arena};
    syl_mapping probe;
    SYL_TRY(syl_file_map(args[0], t->diag, &probe));
    bool gguf = syl_gguf_magic(probe.data, probe.size);
    syl_file_unmap(&probe);
    if (gguf) {
        syl_gguf file;
        SYL_TRY(syl_gguf_open(args[0], t->diag, &file));
        read_gguf(&c, &file);
        syl_status status = print_contents(t, s, &c);
        syl_gguf_close(&file);
        return status;
    }
    if (!syl_artifact_probe(args[0])) {
        return syl_error(t->diag, SYL_ERR_weights_file, SYL_NOWHERE,
                         "\"%s\" is neither an artifact nor a GGUF or safetensors file", args[0]);
    }
    return inspect_safetensors(t, s, args[0], &c);
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
