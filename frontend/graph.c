/* Reads graph JSON (docs/graph.md) into a module: each node becomes the op it names, blocks are inlined,
 * types come from inference. The document's order is the program's order, so a name is defined before it is
 * used and there are no cycles. */
#include <cjson/cJSON.h>
#include <string.h>
#include "base/json.h"
#include "base/map.h"
#include "frontend/frontend.h"
#include "frontend/graph_type.h"
#include "frontend/tokenizer.h"
#include "frontend/weights.h"

enum { max_ops = 1 << 20, max_repeat = 1 << 16, max_path = 4096 };

typedef struct reader {
    syl_diag *diag;
    syl_json json;
    syl_arena scratch;
    syl_model *model;
    syl_module *module;
    syl_builder build;
    const cJSON *blocks; /* object or NULL */
    syl_map used_blocks;
    SYL_VEC(syl_weights *) weights; /* one a source, NULL until needed */
    size_t n_ops;
} reader;

/* Names that nodes see: of the graph, or of one repetition of a block. */
typedef struct scope {
    syl_map values; /* name -> syl_value * */
    const char *prefix;
    bool in_block;
    int64_t index;
} scope;

static syl_loc loc_of(const reader *r, const cJSON *node) {
    return syl_json_loc(&r->json, node);
}

/* ---- names ---- */

static syl_status need_object(reader *r, const cJSON *node, const char *what) {
    if (cJSON_IsObject(node)) return SYL_OK;
    return syl_error(r->diag, SYL_ERR_json_type, loc_of(r, node), "expected an object: %s", what);
}

/* An element of a list of names. */
static syl_status name_in(reader *r, const cJSON *node, const char **out) {
    if (!cJSON_IsString(node))
        return syl_error(r->diag, SYL_ERR_json_type, loc_of(r, node),
                         "expected the name of a value, as a string");
    if (!syl_graph_name_valid(node->valuestring))
        return syl_error(r->diag, SYL_ERR_graph_name, loc_of(r, node), "'%s' is not a name",
                         node->valuestring);
    *out = node->valuestring;
    return SYL_OK;
}

static syl_status define(reader *r, scope *s, const cJSON *node, syl_value *value) {
    const char *name;
    int fresh;
    SYL_TRY(name_in(r, node, &name));
    void **slot = syl_map_slot(&s->values, name, strlen(name), &fresh);
    if (!fresh)
        return syl_error(r->diag, SYL_ERR_graph_name, loc_of(r, node), "'%s' is already defined", name);
    *slot = value;
    return SYL_OK;
}

static syl_status lookup(reader *r, const scope *s, const cJSON *node, syl_value **out) {
    const char *name;
    SYL_TRY(name_in(r, node, &name));
    *out = syl_map_get_str(&s->values, name);
    if (*out) return SYL_OK;
    const char **known = SYL_NEW_ARRAY(&r->scratch, const char *, s->values.entries.n + 1);
    for (size_t i = 0; i < s->values.entries.n; i++) known[i] = s->values.entries.p[i].key;
    const char *near = syl_nearest(name, known);
    return near ? syl_error(r->diag, SYL_ERR_graph_name, loc_of(r, node),
                            "'%s' is not defined before here; did you mean '%s'?", name, near)
                : syl_error(r->diag, SYL_ERR_graph_name, loc_of(r, node), "'%s' is not defined before here",
                            name);
}

static syl_status lookup_all(reader *r, const scope *s, const cJSON *list, int *count, syl_value ***out) {
    *count = cJSON_GetArraySize(list);
    *out = SYL_NEW_ARRAY(&r->scratch, syl_value *, (size_t)*count);
    int i = 0;
    for (const cJSON *item = list ? list->child : NULL; item; item = item->next)
        SYL_TRY(lookup(r, s, item, &(*out)[i++]));
    return SYL_OK;
}

/* The text with "{i}" replaced by the repetition's number. */
static const char *expand(reader *r, const scope *s, const char *text) {
    if (!s->in_block) return text;
    syl_text out = {.arena = &r->scratch};
    syl_text_append(&out, "", 0);
    for (const char *p = text; *p;) {
        const char *mark = strstr(p, "{i}");
        syl_text_append(&out, p, mark ? (size_t)(mark - p) : strlen(p));
        if (!mark) break;
        syl_text_printf(&out, "%lld", (long long)s->index);
        p = mark + 3;
    }
    return out.p ? out.p : "";
}

/* ---- attributes ---- */

static bool whole(const cJSON *node) {
    return cJSON_IsNumber(node) && node->valuedouble >= -0x1p53 && node->valuedouble <= 0x1p53 &&
           node->valuedouble == (double)(int64_t)node->valuedouble;
}

static syl_status bad_attr(reader *r, const cJSON *node, const char *op, const char *expected) {
    return syl_error(r->diag, SYL_ERR_graph_attr, loc_of(r, node), "attribute '%s' of %s must be %s",
                     node->string, op, expected);
}

static syl_status read_enum(reader *r, syl_op *op, const cJSON *node, const char *choices) {
    const char *words[16] = {0};
    size_t n = 0;
    for (const char *p = choices; *p && *p != ')' && n < 15;) {
        size_t length = strcspn(p, "|)");
        words[n++] = syl_arena_strndup(&r->scratch, p, length);
        p += length + (p[length] == '|');
    }
    const char *text = cJSON_IsString(node) ? node->valuestring : "";
    for (size_t i = 0; i < n; i++)
        if (strcmp(words[i], text) == 0) {
            syl_attr_set_enum(r->module, op, node->string, text);
            return SYL_OK;
        }
    syl_text expected = {.arena = &r->scratch};
    for (size_t i = 0; i < n; i++) syl_text_printf(&expected, "%s\"%s\"", i ? " or " : "", words[i]);
    return bad_attr(r, node, syl_ops[op->code].name, expected.p);
}

static syl_status read_attr(reader *r, const scope *s, syl_op *op, const cJSON *node) {
    const char *op_name = syl_ops[op->code].name, *choices = "";
    syl_attr_kind kind;
    bool optional;
    if (!syl_op_attr_spec(op->code, node->string, &kind, &optional, &choices))
        return bad_attr(r, node, op_name, "known");
    switch (kind) {
    case SYL_ATTR_INT:
        if (s->in_block && cJSON_IsString(node) && strcmp(node->valuestring, "{i}") == 0)
            syl_attr_set_int(r->module, op, node->string, s->index);
        else if (whole(node))
            syl_attr_set_int(r->module, op, node->string, (int64_t)node->valuedouble);
        else
            return bad_attr(r, node, op_name, s->in_block ? "an integer or \"{i}\"" : "an integer");
        return SYL_OK;
    case SYL_ATTR_FLOAT:
        if (!cJSON_IsNumber(node)) return bad_attr(r, node, op_name, "a number");
        syl_attr_set_float(r->module, op, node->string, node->valuedouble);
        return SYL_OK;
    case SYL_ATTR_BOOL:
        if (!cJSON_IsBool(node)) return bad_attr(r, node, op_name, "true or false");
        syl_attr_set_bool(r->module, op, node->string, cJSON_IsTrue(node));
        return SYL_OK;
    case SYL_ATTR_STR:
        if (!cJSON_IsString(node)) return bad_attr(r, node, op_name, "a string");
        syl_attr_set_str(r->module, op, node->string, expand(r, s, node->valuestring));
        return SYL_OK;
    case SYL_ATTR_INTS: {
        if (!cJSON_IsArray(node)) return bad_attr(r, node, op_name, "a list of integers");
        int n = 0;
        int64_t *ints = SYL_NEW_ARRAY(&r->scratch, int64_t, (size_t)cJSON_GetArraySize(node));
        for (const cJSON *item = node->child; item; item = item->next) {
            if (!whole(item)) return bad_attr(r, node, op_name, "a list of integers");
            ints[n++] = (int64_t)item->valuedouble;
        }
        syl_attr_set_ints(r->module, op, node->string, ints, n);
        return SYL_OK;
    }
    case SYL_ATTR_ENUM:
        return read_enum(r, op, node, choices);
    }
    return SYL_OK;
}

/* ---- nodes ---- */

static syl_status opcode_in(reader *r, const cJSON *node, syl_opcode *out) {
    const char *text;
    SYL_TRY(syl_json_string(&r->json, node, "op", r->diag, &text));
    *out = syl_opcode_of(text);
    const cJSON *at = cJSON_GetObjectItemCaseSensitive(node, "op");
    if (*out == SYL_OP_COUNT) {
        const char *names[SYL_OP_COUNT + 1] = {0};
        for (int i = 0; i < SYL_OP_COUNT; i++) names[i] = syl_ops[i].name;
        const char *near = syl_nearest(text, names);
        return near ? syl_error(r->diag, SYL_ERR_graph_op, loc_of(r, at),
                                "there is no op '%s'; did you mean '%s'?", text, near)
                    : syl_error(r->diag, SYL_ERR_graph_op, loc_of(r, at), "there is no op '%s'", text);
    }
    if ((syl_ops[*out].traits & (SYL_TRAIT_TERMINATOR | SYL_TRAIT_REGION)) || syl_ops[*out].results != 1 ||
        *out == SYL_OP_materialized)
        return syl_error(r->diag, SYL_ERR_graph_op, loc_of(r, at),
                         "the op '%s' is made by passes and has no place in a graph", text);
    return SYL_OK;
}

/* The keys a node of this op may have. */
static const char *const *keys_of(reader *r, syl_opcode code) {
    SYL_VEC(const char *) keys = {0};
    static const char *const own[] = {"op", "in", "out", "type"};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) SYL_PUSH(&r->scratch, &keys, own[i]);
    for (const char *p = syl_ops[code].attrs; *p;) {
        SYL_PUSH(&r->scratch, &keys, syl_arena_strndup(&r->scratch, p, strcspn(p, ":")));
        p += strcspn(p, " ");
        p += strspn(p, " ");
    }
    SYL_PUSH(&r->scratch, &keys, NULL);
    return keys.p;
}

static bool needs_type(syl_opcode code) {
    return code == SYL_OP_weight || code == SYL_OP_cast || code == SYL_OP_quantize ||
           code == SYL_OP_patchify || code == SYL_OP_unpatchify;
}

/* Sets the result's type: inferred, or declared where the op leaves a choice. */
static syl_status settle_type(reader *r, syl_op *op, const cJSON *declared_at, const syl_type *declared) {
    syl_type inferred;
    SYL_TRY(syl_infer(op, r->diag, &inferred));
    if (declared_at && !syl_type_equal(declared, &inferred)) {
        syl_type same_shape = inferred;
        same_shape.dtype = declared->dtype;
        bool choice = syl_op_has(op, SYL_TRAIT_FLOAT) && syl_type_class_of(&inferred) == SYL_CLASS_FLOAT &&
                      syl_type_class_of(declared) == SYL_CLASS_FLOAT && syl_type_equal(declared, &same_shape);
        if (!choice) {
            syl_text made = {.arena = &r->scratch};
            syl_type_print(&inferred, &made);
            return syl_error(r->diag, SYL_ERR_graph_type, loc_of(r, declared_at),
                             "the node declares \"%s\", but its op makes %s", declared_at->valuestring,
                             made.p);
        }
        inferred.dtype = declared->dtype;
    }
    syl_result(op)->type = inferred;
    return SYL_OK;
}

static syl_status open_source(reader *r, const syl_op *op, int64_t source) {
    syl_weights **weights = &r->weights.p[source];
    if (*weights) return SYL_OK;
    syl_status status = syl_weights_open(r->module->sources.p[source], r->diag, weights);
    if (status != SYL_OK) syl_note(r->diag, op->loc, "needed for weight \"%s\"", syl_attr_str(op, "name"));
    return status;
}

/* A weight that names no source is in the first one that has it; in none: in the first, where the check says so. */
static syl_status find_source(reader *r, syl_op *op) {
    if (r->weights.n < 2 || syl_attr_get(op, "source")) return SYL_OK;
    for (int64_t i = 0; i < (int64_t)r->weights.n; i++) {
        int rank;
        int64_t dims[SYL_MAX_RANK];
        SYL_TRY(open_source(r, op, i));
        if (!syl_weights_shape(r->weights.p[i], syl_attr_str(op, "name"), &rank, dims)) continue;
        if (i) syl_attr_set_int(r->module, op, "source", i);
        break;
    }
    return SYL_OK;
}

/* The weight's tensor must be in its file as declared. */
static syl_status check_weight(reader *r, syl_op *op) {
    SYL_TRY(find_source(r, op));
    int64_t source = syl_attr_int(op, "source");
    if (source < 0 || (size_t)source >= r->weights.n)
        return syl_error(r->diag, SYL_ERR_graph_attr, op->loc,
                         "weight \"%s\" is in source %lld, but \"sources\" has %zu", syl_attr_str(op, "name"),
                         (long long)source, r->weights.n);
    SYL_TRY(open_source(r, op, source));
    const syl_type *type = &syl_result(op)->type;
    return syl_weights_check(r->weights.p[source], syl_attr_str(op, "name"), type->rank, type->dims, op->loc,
                             r->diag);
}

static syl_status read_op(reader *r, scope *s, const cJSON *node) {
    syl_opcode code;
    SYL_TRY(opcode_in(r, node, &code));
    SYL_TRY(syl_json_known_keys(&r->json, node, keys_of(r, code), r->diag));
    if (r->n_ops++ == max_ops)
        return syl_error(r->diag, SYL_ERR_graph_size, loc_of(r, node), "the graph has more than %d ops",
                         max_ops);

    const cJSON *in, *type_at = cJSON_GetObjectItemCaseSensitive(node, "type");
    int n_operands;
    syl_value **operands;
    SYL_TRY(syl_json_array(&r->json, node, "in", syl_ops[code].min_operands > 0, r->diag, &in));
    SYL_TRY(lookup_all(r, s, in, &n_operands, &operands));
    syl_type declared = {0};
    if (type_at) {
        const char *text;
        SYL_TRY(syl_json_string(&r->json, node, "type", r->diag, &text));
        SYL_TRY(syl_graph_type(text, r->module, loc_of(r, type_at), r->diag, &declared));
    } else if (needs_type(code)) {
        return syl_error(r->diag, SYL_ERR_graph_type, loc_of(r, node), "%s needs a \"type\"",
                         syl_ops[code].name);
    }

    r->build.loc = loc_of(r, node);
    syl_op *op = syl_build_op(&r->build, code, n_operands, operands, 1, &declared);
    for (const cJSON *item = node->child; item; item = item->next) {
        static const char *const own[] = {"op", "in", "out", "type"};
        bool is_attr = true;
        for (size_t i = 0; i < sizeof own / sizeof *own; i++)
            is_attr = is_attr && strcmp(item->string, own[i]) != 0;
        if (is_attr) SYL_TRY(read_attr(r, s, op, item));
    }
    if (code == SYL_OP_weight && *s->prefix && syl_attr_get(op, "name"))
        syl_attr_set_str(r->module, op, "name",
                         syl_arena_printf(&r->scratch, "%s%s", s->prefix, syl_attr_str(op, "name")));
    SYL_TRY(settle_type(r, op, type_at, &declared));
    if (code == SYL_OP_weight) SYL_TRY(check_weight(r, op));

    const char *name;
    SYL_TRY(syl_json_string(&r->json, node, "out", r->diag, &name));
    SYL_TRY(define(r, s, cJSON_GetObjectItemCaseSensitive(node, "out"), syl_result(op)));
    syl_value_set_name(r->module, syl_result(op), syl_arena_printf(&r->scratch, "%s%s", s->prefix, name));
    return SYL_OK;
}

/* ---- blocks ---- */

typedef struct block_call {
    const cJSON *at, *in, *out, *nodes; /* of the block */
    const char *name;
    int n_in, n_out;
    syl_value **
        values; /* the arguments of the next repetition; after the last one the first n_out are the results */
} block_call;

static syl_status read_repetition(reader *r, block_call *call, const char *prefix, int64_t index) {
    scope s = {.in_block = true, .index = index};
    s.prefix = expand(r, &s, prefix);
    if (*s.prefix && !syl_graph_name_valid(s.prefix))
        return syl_error(r->diag, SYL_ERR_graph_name, loc_of(r, call->at),
                         "the prefix '%s' can't begin a name", s.prefix);
    syl_map_init(&s.values, &r->scratch);
    int i = 0;
    for (const cJSON *item = call->in->child; item; item = item->next)
        SYL_TRY(define(r, &s, item, call->values[i++]));
    for (const cJSON *node = call->nodes->child; node; node = node->next) {
        SYL_TRY(need_object(r, node, "a node"));
        if (cJSON_GetObjectItemCaseSensitive(node, "block"))
            return syl_error(r->diag, SYL_ERR_graph_block, loc_of(r, node), "a block can't call blocks");
        SYL_TRY(read_op(r, &s, node));
    }
    i = 0;
    syl_value **results = SYL_NEW_ARRAY(&r->scratch, syl_value *, (size_t)call->n_out);
    for (const cJSON *item = call->out->child; item; item = item->next)
        SYL_TRY(lookup(r, &s, item, &results[i++]));
    for (i = 0; i < call->n_out; i++) call->values[i] = results[i];
    return SYL_OK;
}

/* Finds the block and checks its form. */
static syl_status find_block(reader *r, const cJSON *node, block_call *call) {
    static const char *const keys[] = {"in", "out", "nodes", NULL};
    SYL_TRY(syl_json_string(&r->json, node, "block", r->diag, &call->name));
    const cJSON *block = r->blocks ? cJSON_GetObjectItemCaseSensitive(r->blocks, call->name) : NULL;
    if (!block) {
        SYL_VEC(const char *) names = {0};
        for (const cJSON *item = r->blocks ? r->blocks->child : NULL; item; item = item->next)
            SYL_PUSH(&r->scratch, &names, item->string);
        SYL_PUSH(&r->scratch, &names, NULL);
        const char *near = syl_nearest(call->name, names.p);
        syl_loc loc = loc_of(r, cJSON_GetObjectItemCaseSensitive(node, "block"));
        return near ? syl_error(r->diag, SYL_ERR_graph_block, loc,
                                "there is no block '%s'; did you mean '%s'?", call->name, near)
                    : syl_error(r->diag, SYL_ERR_graph_block, loc, "there is no block '%s'", call->name);
    }
    *syl_map_slot(&r->used_blocks, call->name, strlen(call->name), NULL) = (void *)block;
    SYL_TRY(need_object(r, block, "a block"));
    SYL_TRY(syl_json_known_keys(&r->json, block, keys, r->diag));
    SYL_TRY(syl_json_array(&r->json, block, "in", true, r->diag, &call->in));
    SYL_TRY(syl_json_array(&r->json, block, "out", true, r->diag, &call->out));
    return syl_json_array(&r->json, block, "nodes", true, r->diag, &call->nodes);
}

static syl_status read_block(reader *r, scope *s, const cJSON *node) {
    static const char *const keys[] = {"block", "repeat", "prefix", "in", "out", NULL};
    block_call call = {.at = node};
    const cJSON *in, *out;
    const char *prefix = "";
    int64_t repeat = 1;
    SYL_TRY(syl_json_known_keys(&r->json, node, keys, r->diag));
    SYL_TRY(find_block(r, node, &call));
    if (cJSON_GetObjectItemCaseSensitive(node, "repeat"))
        SYL_TRY(syl_json_int(&r->json, node, "repeat", 1, max_repeat, r->diag, &repeat));
    if (cJSON_GetObjectItemCaseSensitive(node, "prefix"))
        SYL_TRY(syl_json_string(&r->json, node, "prefix", r->diag, &prefix));
    SYL_TRY(syl_json_array(&r->json, node, "in", true, r->diag, &in));
    SYL_TRY(syl_json_array(&r->json, node, "out", true, r->diag, &out));
    SYL_TRY(lookup_all(r, s, in, &call.n_in, &call.values));
    call.n_out = cJSON_GetArraySize(call.out);
    if (call.n_in != cJSON_GetArraySize(call.in))
        return syl_error(r->diag, SYL_ERR_graph_block, loc_of(r, in), "block '%s' takes %d values, found %d",
                         call.name, cJSON_GetArraySize(call.in), call.n_in);
    if (call.n_out != cJSON_GetArraySize(out))
        return syl_error(r->diag, SYL_ERR_graph_block, loc_of(r, out), "block '%s' makes %d values, found %d",
                         call.name, call.n_out, cJSON_GetArraySize(out));
    if (call.n_out > call.n_in) {
        if (repeat > 1)
            return syl_error(r->diag, SYL_ERR_graph_block, loc_of(r, node),
                             "block '%s' makes %d values of %d, so it can't feed them to its next repetition",
                             call.name, call.n_out, call.n_in);
        syl_value **room = SYL_NEW_ARRAY(&r->scratch, syl_value *, (size_t)call.n_out);
        memcpy(room, call.values, (size_t)call.n_in * sizeof *room);
        call.values = room;
    }
    if (repeat * cJSON_GetArraySize(call.nodes) > (int64_t)(max_ops - r->n_ops))
        return syl_error(r->diag, SYL_ERR_graph_size, loc_of(r, node),
                         "with %lld repetitions of block '%s' the graph has more than %d ops",
                         (long long)repeat, call.name, max_ops);
    for (int64_t i = 0; i < repeat; i++) {
        syl_value **before = SYL_NEW_ARRAY(&r->scratch, syl_value *, (size_t)call.n_out);
        memcpy(before, call.values, (size_t)call.n_out * sizeof *before);
        syl_status status = read_repetition(r, &call, prefix, i);
        for (int k = 0; status == SYL_OK && repeat > 1 && k < call.n_out; k++)
            if (!syl_type_equal(&before[k]->type, &call.values[k]->type))
                status =
                    syl_error(r->diag, SYL_ERR_graph_block, loc_of(r, cJSON_GetArrayItem(call.out, k)),
                              "result %d has another type than input %d, which it becomes", k + 1, k + 1);
        if (status != SYL_OK) {
            syl_note(r->diag, loc_of(r, node), "in repetition %lld of block '%s'", (long long)i, call.name);
            return status;
        }
    }
    int k = 0;
    for (const cJSON *item = out->child; item; item = item->next)
        SYL_TRY(define(r, s, item, call.values[k++]));
    return SYL_OK;
}

/* ---- the document ---- */

static syl_status read_sources(reader *r, const cJSON *root) {
    const cJSON *sources;
    SYL_TRY(syl_json_array(&r->json, root, "sources", false, r->diag, &sources));
    for (const cJSON *item = sources ? sources->child : NULL; item; item = item->next) {
        if (!cJSON_IsString(item) || !*item->valuestring || strlen(item->valuestring) > max_path)
            return syl_error(r->diag, SYL_ERR_json_type, loc_of(r, item),
                             "expected the path of a weight file, as a string");
        SYL_PUSH(&r->module->arena, &r->module->sources,
                 syl_path_beside(&r->module->arena, r->json.source->name, item->valuestring));
        SYL_PUSH(&r->scratch, &r->weights, NULL);
    }
    return SYL_OK;
}

static syl_status read_tokenizer(reader *r, const cJSON *root) {
    static const char *const keys[] = {"file", NULL};
    const cJSON *tokenizer;
    const char *file;
    SYL_TRY(syl_json_object(&r->json, root, "tokenizer", false, r->diag, &tokenizer));
    if (!tokenizer) return SYL_OK;
    SYL_TRY(syl_json_known_keys(&r->json, tokenizer, keys, r->diag));
    SYL_TRY(syl_json_string(&r->json, tokenizer, "file", r->diag, &file));
    char *path = syl_path_beside(&r->scratch, r->json.source->name, file);
    syl_status status = syl_tokenizer_load(path, &r->module->arena, r->diag, &r->model->tokenizer);
    if (status != SYL_OK) syl_note(r->diag, loc_of(r, tokenizer), "needed as the tokenizer");
    return status;
}

static syl_status read_inputs(reader *r, scope *s, const cJSON *root) {
    static const char *const keys[] = {"name", "type", NULL};
    const cJSON *inputs;
    SYL_TRY(syl_json_array(&r->json, root, "inputs", true, r->diag, &inputs));
    int n = cJSON_GetArraySize(inputs), i = 0;
    syl_type *types = SYL_NEW_ARRAY(&r->scratch, syl_type, (size_t)n);
    const char **names = SYL_NEW_ARRAY(&r->scratch, const char *, (size_t)n);
    for (const cJSON *item = inputs->child; item; item = item->next, i++) {
        const char *text;
        SYL_TRY(need_object(r, item, "an input with name and type"));
        SYL_TRY(syl_json_known_keys(&r->json, item, keys, r->diag));
        SYL_TRY(syl_json_string(&r->json, item, "name", r->diag, &names[i]));
        SYL_TRY(syl_json_string(&r->json, item, "type", r->diag, &text));
        SYL_TRY(syl_graph_type(text, r->module, loc_of(r, cJSON_GetObjectItemCaseSensitive(item, "type")),
                               r->diag, &types[i]));
    }
    syl_func *func = syl_func_create(r->module, "forward", n, types, names);
    func->loc = loc_of(r, inputs);
    r->build = syl_build_at_end(r->module, func->body);
    i = 0;
    for (const cJSON *item = inputs->child; item; item = item->next)
        SYL_TRY(define(r, s, cJSON_GetObjectItemCaseSensitive(item, "name"), &func->args[i++]));
    return SYL_OK;
}

static syl_status read_outputs(reader *r, const scope *s, const cJSON *root) {
    const cJSON *outputs;
    int n;
    syl_value **values;
    SYL_TRY(syl_json_array(&r->json, root, "outputs", true, r->diag, &outputs));
    SYL_TRY(lookup_all(r, s, outputs, &n, &values));
    r->build.loc = loc_of(r, outputs);
    syl_func *func = r->build.block->func;
    func->n_results = n;
    func->result_types = SYL_NEW_ARRAY(&r->module->arena, syl_type, (size_t)n);
    for (int i = 0; i < n; i++) func->result_types[i] = values[i]->type;
    syl_build_op(&r->build, SYL_OP_return, n, values, 0, NULL);
    return SYL_OK;
}

static syl_status read_document(reader *r) {
    static const char *const keys[] = {"sylvester", "name",   "context_length", "tokenizer", "sources",
                                       "inputs",    "blocks", "nodes",          "outputs",   NULL};
    const cJSON *root = r->json.root, *nodes;
    const char *name;
    int64_t version;
    SYL_TRY(need_object(r, root, "a graph"));
    SYL_TRY(syl_json_int(&r->json, root, "sylvester", 0, INT32_MAX, r->diag, &version));
    if (version != 1)
        return syl_error(r->diag, SYL_ERR_graph_version,
                         loc_of(r, cJSON_GetObjectItemCaseSensitive(root, "sylvester")),
                         "the graph has format version %lld, expected 1", (long long)version);
    SYL_TRY(syl_json_known_keys(&r->json, root, keys, r->diag));
    SYL_TRY(syl_json_string(&r->json, root, "name", r->diag, &name));
    if (!syl_graph_name_valid(name))
        return syl_error(r->diag, SYL_ERR_graph_name,
                         loc_of(r, cJSON_GetObjectItemCaseSensitive(root, "name")), "'%s' is not a name",
                         name);
    r->module->name = syl_arena_strdup(&r->module->arena, name);
    if (cJSON_GetObjectItemCaseSensitive(root, "context_length"))
        SYL_TRY(
            syl_json_int(&r->json, root, "context_length", 1, INT32_MAX, r->diag, &r->model->context_length));
    SYL_TRY(syl_json_object(&r->json, root, "blocks", false, r->diag, &r->blocks));
    SYL_TRY(read_sources(r, root));

    scope top = {.prefix = ""};
    syl_map_init(&top.values, &r->scratch);
    SYL_TRY(read_inputs(r, &top, root));
    SYL_TRY(syl_json_array(&r->json, root, "nodes", true, r->diag, &nodes));
    for (const cJSON *node = nodes->child; node; node = node->next) {
        SYL_TRY(need_object(r, node, "a node"));
        SYL_TRY(cJSON_GetObjectItemCaseSensitive(node, "block") ? read_block(r, &top, node)
                                                                : read_op(r, &top, node));
    }
    SYL_TRY(read_outputs(r, &top, root));
    for (const cJSON *block = r->blocks ? r->blocks->child : NULL; block; block = block->next)
        if (!syl_map_get_str(&r->used_blocks, block->string))
            syl_warning(r->diag, loc_of(r, block), "block '%s' is never used", block->string);
    SYL_TRY(syl_module_verify(r->module, r->diag));
    return read_tokenizer(r, root);
}

syl_status syl_graph_read(const syl_source *source, syl_diag *diag, syl_model *out) {
    *out = (syl_model){.module = syl_module_create("graph")};
    /* Locations of ops point into the text, so it lives as long as the module. */
    syl_arena *arena = &out->module->arena;
    syl_source *kept = SYL_NEW(arena, syl_source);
    *kept = (syl_source){syl_arena_strdup(arena, source->name),
                         syl_arena_strndup(arena, source->text, source->size), source->size};
    reader r = {.diag = diag, .model = out, .module = out->module};
    syl_arena_init(&r.scratch);
    syl_map_init(&r.used_blocks, &r.scratch);
    syl_status status = syl_json_parse(kept, diag, &r.json);
    if (status == SYL_OK) status = read_document(&r);
    for (size_t i = 0; i < r.weights.n; i++) syl_weights_close(r.weights.p[i]);
    syl_json_free(&r.json);
    syl_arena_free(&r.scratch);
    if (status != SYL_OK) syl_model_close(out);
    return status;
}

void syl_model_close(syl_model *model) {
    syl_module_destroy(model->module);
    *model = (syl_model){0};
}
