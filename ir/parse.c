/* The parser: a recursive descent that stops at the first error and says where it is. It builds through
 * build.c, so the graph is consistent; what the ops mean is the verifier's business. docs/ir.md has the
 * grammar. */
#include <string.h>
#include "base/map.h"
#include "ir/lex.h"

enum { MAX_OPS = 4000000, MAX_LIST = 65536, MAX_FUNCS = 1024 };

typedef SYL_VEC(syl_token) token_list;
typedef SYL_VEC(syl_type) type_list;

typedef struct parser {
    syl_lexer lexer;
    syl_diag *diag;
    syl_arena scratch;
    syl_token token, ahead; /* the current one, and the one behind it if looked at */
    bool has_ahead;
    syl_module *module;
    syl_func *func;
    syl_map values; /* printed name -> syl_value *, of the function */
    int64_t n_ops, n_funcs;
} parser;

/* ---- tokens ---- */

static syl_loc loc_at(const parser *p, size_t offset) {
    return (syl_loc){p->lexer.source, offset};
}
#define FAIL(p, id, token, ...)                                                                              \
    syl_error((p)->diag, SYL_ERR_ir_##id, loc_at((p), (token)->offset), __VA_ARGS__)

static syl_status advance(parser *p) {
    if (p->has_ahead) {
        p->token = p->ahead;
        p->has_ahead = false;
        return SYL_OK;
    }
    return syl_lex(&p->lexer, &p->token);
}

static syl_status look_ahead(parser *p) {
    if (p->has_ahead) return SYL_OK;
    p->has_ahead = true;
    return syl_lex(&p->lexer, &p->ahead);
}

static bool at_punct(const parser *p, char c) {
    return p->token.kind == SYL_TOK_PUNCT && p->token.punct == c;
}
static bool at_name(const parser *p, const char *name) {
    return p->token.kind == SYL_TOK_NAME && strcmp(p->token.text, name) == 0;
}

static syl_status unexpected(parser *p, const char *expected) {
    return FAIL(p, syntax, &p->token, "expected %s, found %s", expected,
                syl_token_describe(&p->lexer, &p->token));
}

static syl_status expect_punct(parser *p, char c) {
    char expected[] = {'\'', c, '\'', 0};
    return at_punct(p, c) ? advance(p) : unexpected(p, expected);
}

static syl_status expect_name(parser *p, const char *name) {
    return at_name(p, name) ? advance(p) : unexpected(p, syl_arena_printf(&p->scratch, "'%s'", name));
}

static syl_status expect_kind(parser *p, syl_token_kind kind, const char *expected, syl_token *out) {
    if (p->token.kind != kind) return unexpected(p, expected);
    *out = p->token;
    return advance(p);
}

/* ---- suggestions ---- */

/* Levenshtein distance, or `limit` where it is at least that. */
static int distance(const char *a, const char *b, int limit) {
    enum { LONGEST = 64 };
    size_t n = strlen(a), m = strlen(b);
    if (n > LONGEST || m > LONGEST) return limit;
    int row[LONGEST + 1];
    for (size_t j = 0; j <= m; j++) row[j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= m; j++) {
            int best = diagonal + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[m] < limit ? row[m] : limit;
}

/* The nearest name so far; a suggestion is at most a third of the word's letters away. */
typedef struct nearest {
    const char *word, *name;
    int distance;
} nearest;

static nearest nearest_to(const char *word) {
    return (nearest){word, NULL, (int)strlen(word) / 3 + 2};
}

static void consider(nearest *n, const char *name) {
    int d = distance(n->word, name, n->distance);
    if (d >= n->distance) return;
    n->distance = d;
    n->name = name;
}

/* "; did you mean 'x'?" or "". */
static const char *suggestion(parser *p, const nearest *n, const char *sigil) {
    return n->name ? syl_arena_printf(&p->scratch, "; did you mean '%s%s'?", sigil, n->name) : "";
}

/* ---- types ---- */

static syl_status parse_dim(parser *p, const syl_token *token, const char *text, syl_dim *out) {
    if (*text >= 'A' && *text <= 'Z') {
        if (strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != strlen(text))
            return FAIL(p, type, token, "'%s' is no dimension symbol", text);
        *out = (syl_dim){0, syl_module_symbol(p->module, text)};
        return SYL_OK;
    }
    int64_t size = 0;
    for (const char *c = text; *c; c++)
        if (*c < '0' || *c > '9' || __builtin_mul_overflow(size, 10, &size) ||
            __builtin_add_overflow(size, *c - '0', &size))
            return FAIL(p, type, token, "'%s' is neither a size nor a dimension symbol", text);
    if (size < 1 || *text == '0')
        return FAIL(p, type, token, "'%s' is no size, sizes are 1 or more without leading zeros", text);
    *out = syl_size(size);
    return SYL_OK;
}

/* "f32" */
static syl_status parse_element(parser *p, const syl_token *token, const char *text, syl_dtype *out) {
    *out = syl_dtype_of(text);
    if (*out != SYL_DTYPE_COUNT) return SYL_OK;
    nearest near = nearest_to(text);
    for (int i = 0; i < SYL_DTYPE_COUNT; i++) consider(&near, syl_dtypes[i].name);
    return FAIL(p, type, token, "unknown element type '%s'%s", text, suggestion(p, &near, ""));
}

/* "int4_g32": codes, or else an element type. */
static syl_status parse_store(parser *p, const syl_token *token, const char *text, syl_kv_store *store,
                              syl_dtype *dtype) {
    bool codes = (strncmp(text, "int8_g", 6) == 0 || strncmp(text, "int4_g", 6) == 0);
    if (!codes || text[6] < '0' || text[6] > '9') return parse_element(p, token, text, dtype);
    syl_dim group;
    SYL_TRY(parse_dim(p, token, text + 6, &group));
    *store = (syl_kv_store){text[3] - '0', group.size};
    return SYL_OK;
}

/* "f32", "int8_g64", "int8_g64.int4_g32": of keys, and of values where they differ. */
static syl_status parse_stores(parser *p, const syl_token *token, char *text, syl_type *out) {
    char *dot = strchr(text, '.');
    if (dot) *dot = 0;
    syl_dtype none = SYL_DTYPE_COUNT, k = none, v = none;
    SYL_TRY(parse_store(p, token, text, &out->k, &k));
    out->v = out->k, v = k;
    if (dot) {
        out->v = (syl_kv_store){0}, v = none;
        SYL_TRY(parse_store(p, token, dot + 1, &out->v, &v));
    }
    if (k != none && v != none && k != v)
        return FAIL(p, type, token, "%s: keys and values that are not quantized have one element type",
                    token->text);
    out->dtype = k != none ? k : v != none ? v : SYL_f32;
    return SYL_OK;
}

/* "tensor<TxKxf32>": the token is the whole type; dimensions end at each 'x'. */
static syl_status parse_type(parser *p, syl_type *out) {
    syl_token token;
    SYL_TRY(expect_kind(p, SYL_TOK_TYPE, "a type", &token));
    const char *begin = strchr(token.text, '<') + 1;
    char *text = syl_arena_strndup(&p->scratch, begin, strlen(begin) - 1);
    *out = (syl_type){.kind = token.text[0] == 'k' ? SYL_KV : SYL_TENSOR};
    while ((*text >= '0' && *text <= '9') || (*text >= 'A' && *text <= 'Z')) {
        char *end = strchr(text, 'x');
        if (!end) return FAIL(p, type, &token, "the type %s has no element type", token.text);
        *end = 0;
        if (out->rank == SYL_MAX_RANK)
            return FAIL(p, type, &token, "the type %s has more than %d dimensions", token.text, SYL_MAX_RANK);
        SYL_TRY(parse_dim(p, &token, text, &out->dims[out->rank++]));
        text = end + 1;
    }
    SYL_TRY(out->kind == SYL_KV ? parse_stores(p, &token, text, out)
                                : parse_element(p, &token, text, &out->dtype));
    if (out->rank == 0) return FAIL(p, type, &token, "the type %s has no dimensions", token.text);
    if (out->kind == SYL_KV && out->rank != 3)
        return FAIL(p, type, &token, "a kv type is kv<layers x heads x head_dim x element>, found %s",
                    token.text);
    return SYL_OK;
}

static syl_status parse_types(parser *p, type_list *types) {
    for (;;) {
        syl_type type;
        if (types->n == MAX_LIST) return FAIL(p, limit, &p->token, "more than %d types in a list", MAX_LIST);
        SYL_TRY(parse_type(p, &type));
        SYL_PUSH(&p->scratch, types, type);
        if (!at_punct(p, ',')) return SYL_OK;
        SYL_TRY(advance(p));
    }
}

/* ---- values ---- */

static syl_status define(parser *p, const syl_token *token, syl_value *value) {
    int is_new;
    void **slot = syl_map_slot(&p->values, token->text, strlen(token->text), &is_new);
    if (!is_new) return FAIL(p, redefined, token, "'%%%s' is already defined", token->text);
    *slot = value;
    bool numbered = token->text[0] >= '0' && token->text[0] <= '9';
    if (!numbered) syl_value_set_name(p->module, value, token->text);
    return SYL_OK;
}

static bool visible(const syl_value *value, const syl_block *block) {
    return !value->def || value->def->parent == block || value->def->parent == block->func->body;
}

static syl_status find(parser *p, const syl_token *token, const syl_block *block, syl_value **out) {
    *out = syl_map_get_str(&p->values, token->text);
    if (*out && visible(*out, block)) return SYL_OK;
    if (*out)
        return FAIL(p, undefined, token, "'%%%s' is defined inside a region and cannot be used outside of it",
                    token->text);
    nearest near = nearest_to(token->text);
    for (size_t i = 0; i < p->values.entries.n; i++) {
        const syl_map_entry *entry = &p->values.entries.p[i];
        if (entry->value && visible(entry->value, block)) consider(&near, entry->key);
    }
    return FAIL(p, undefined, token, "'%%%s' is not defined above%s", token->text, suggestion(p, &near, "%"));
}

/* ---- attributes ---- */

static syl_status parse_ints(parser *p, syl_attr *attr) {
    SYL_VEC(int64_t) list = {0};
    SYL_TRY(expect_punct(p, '['));
    while (!at_punct(p, ']')) {
        syl_token token;
        if (list.n) SYL_TRY(expect_punct(p, ','));
        if (list.n == MAX_LIST) return FAIL(p, limit, &p->token, "more than %d numbers in a list", MAX_LIST);
        SYL_TRY(expect_kind(p, SYL_TOK_INT, "an int", &token));
        SYL_PUSH(&p->scratch, &list, token.i);
    }
    attr->ints.p = list.p;
    attr->ints.n = (int)list.n;
    return advance(p);
}

static syl_status parse_choice(parser *p, const char *choices, syl_attr *attr) {
    syl_token token;
    SYL_TRY(expect_kind(p, SYL_TOK_NAME, "a word", &token));
    size_t n = strlen(token.text);
    for (const char *c = choices;; c++) {
        size_t length = strcspn(c, "|)");
        if (length == n && memcmp(c, token.text, n) == 0) break;
        c += length;
        if (*c == ')')
            return FAIL(p, attribute, &token, "'%s' is no choice for '%s', expected one of %.*s", token.text,
                        attr->name, (int)(c - choices), choices);
    }
    attr->s = token.text;
    return SYL_OK;
}

static syl_status parse_attr_value(parser *p, const char *choices, syl_attr *attr) {
    syl_token token;
    switch (attr->kind) {
    case SYL_ATTR_INTS:
        return parse_ints(p, attr);
    case SYL_ATTR_ENUM:
        return parse_choice(p, choices, attr);
    case SYL_ATTR_INT:
        SYL_TRY(expect_kind(p, SYL_TOK_INT, "an int", &token));
        break;
    case SYL_ATTR_FLOAT:
        SYL_TRY(expect_kind(p, SYL_TOK_FLOAT, "a float (with '.' or 'e')", &token));
        break;
    case SYL_ATTR_STR:
        SYL_TRY(expect_kind(p, SYL_TOK_STRING, "a string", &token));
        break;
    case SYL_ATTR_BOOL:
        if (!at_name(p, "true") && !at_name(p, "false")) return unexpected(p, "'true' or 'false'");
        attr->b = at_name(p, "true");
        return advance(p);
    }
    if (attr->kind == SYL_ATTR_INT) attr->i = token.i;
    if (attr->kind == SYL_ATTR_FLOAT) attr->f = token.f;
    if (attr->kind == SYL_ATTR_STR) attr->s = token.text;
    return SYL_OK;
}

static syl_status unknown_attr(parser *p, const syl_token *token, syl_opcode code) {
    nearest near = nearest_to(token->text);
    for (const char *a = syl_ops[code].attrs; *a; a += strcspn(a, " "), a += strspn(a, " "))
        consider(&near, syl_arena_strndup(&p->scratch, a, strcspn(a, ":")));
    return FAIL(p, attribute, token, "%s has no attribute '%s'%s", syl_ops[code].name, token->text,
                suggestion(p, &near, ""));
}

typedef SYL_VEC(syl_attr) attr_list;

static syl_status parse_attrs(parser *p, syl_opcode code, attr_list *attrs) {
    SYL_TRY(expect_punct(p, '{'));
    while (!at_punct(p, '}')) {
        if (attrs->n && !at_punct(p, ',')) return unexpected(p, "',' or '}'");
        if (attrs->n) SYL_TRY(advance(p));
        syl_token name;
        SYL_TRY(expect_kind(p, SYL_TOK_NAME, "an attribute", &name));
        syl_attr attr = {.name = name.text};
        bool optional;
        const char *choices;
        if (strcmp(name.text, "name") == 0 ||
            !syl_op_attr_spec(code, name.text, &attr.kind, &optional, &choices))
            return unknown_attr(p, &name, code);
        for (size_t i = 0; i < attrs->n; i++)
            if (strcmp(attrs->p[i].name, attr.name) == 0)
                return FAIL(p, redefined, &name, "attribute '%s' is given twice", attr.name);
        SYL_TRY(expect_punct(p, '='));
        SYL_TRY(parse_attr_value(p, choices, &attr));
        SYL_PUSH(&p->scratch, attrs, attr);
    }
    return advance(p);
}

/* ---- ops ---- */

static syl_status parse_values(parser *p, token_list *out) {
    for (;;) {
        syl_token token;
        if (out->n == MAX_LIST) return FAIL(p, limit, &p->token, "more than %d values in a list", MAX_LIST);
        SYL_TRY(expect_kind(p, SYL_TOK_VALUE, "a value", &token));
        SYL_PUSH(&p->scratch, out, token);
        if (!at_punct(p, ',')) return SYL_OK;
        SYL_TRY(advance(p));
    }
}

static syl_status parse_opcode(parser *p, syl_token *token, syl_opcode *out) {
    SYL_TRY(expect_kind(p, SYL_TOK_NAME, "an op", token));
    *out = syl_opcode_of(token->text);
    if (*out != SYL_OP_COUNT) return SYL_OK;
    nearest near = nearest_to(token->text);
    for (int i = 0; i < SYL_OP_COUNT; i++) consider(&near, syl_ops[i].name);
    return FAIL(p, unknown_op, token, "unknown op '%s'%s", token->text, suggestion(p, &near, ""));
}

/* '{' opens attributes where no region can stand, or where a word follows that is no op. */
static syl_status at_attrs(parser *p, bool region, bool *out) {
    *out = false;
    if (!at_punct(p, '{')) return SYL_OK;
    if (!region) {
        *out = true;
        return SYL_OK;
    }
    SYL_TRY(look_ahead(p));
    if (p->ahead.kind != SYL_TOK_NAME) return SYL_OK;
    *out = syl_opcode_of(p->ahead.text) == SYL_OP_COUNT;
    return SYL_OK;
}

static syl_status parse_block(parser *p, syl_block *block);

static syl_status parse_op(parser *p, syl_block *block) {
    token_list results = {0}, operands = {0};
    type_list types = {0};
    attr_list attrs = {0};
    syl_token op_token, name;
    syl_opcode code;
    if (p->n_ops++ == MAX_OPS) return FAIL(p, limit, &p->token, "more than %d ops", MAX_OPS);
    if (p->token.kind == SYL_TOK_VALUE) {
        SYL_TRY(parse_values(p, &results));
        SYL_TRY(expect_punct(p, '='));
    }
    SYL_TRY(parse_opcode(p, &op_token, &code));
    bool region = (syl_ops[code].traits & SYL_TRAIT_REGION) != 0, has_attrs, optional;
    if (region && block->owner) return FAIL(p, structure, &op_token, "regions don't nest");
    syl_attr_kind kind;
    if (syl_op_attr_spec(code, "name", &kind, &optional, NULL)) {
        SYL_TRY(expect_kind(p, SYL_TOK_STRING, "the name as a string", &name));
        SYL_PUSH(&p->scratch, &attrs, (syl_attr){.name = "name", .kind = SYL_ATTR_STR, .s = name.text});
    }
    if (p->token.kind == SYL_TOK_VALUE) SYL_TRY(parse_values(p, &operands));
    SYL_TRY(at_attrs(p, region, &has_attrs));
    attr_list braced = {0};
    if (has_attrs) SYL_TRY(parse_attrs(p, code, &braced));
    if (at_punct(p, ':')) {
        SYL_TRY(advance(p));
        SYL_TRY(parse_types(p, &types));
    }
    if (types.n != results.n)
        return FAIL(p, syntax, &op_token, "%s defines %zu values but gives %zu result types", op_token.text,
                    results.n, types.n);

    syl_value **values = SYL_NEW_ARRAY(&p->scratch, syl_value *, operands.n);
    for (size_t i = 0; i < operands.n; i++) SYL_TRY(find(p, &operands.p[i], block, &values[i]));
    syl_builder b = syl_build_at_end(p->module, block);
    b.loc = loc_at(p, op_token.offset);
    syl_op *op = syl_build_op(&b, code, (int)operands.n, values, (int)results.n, types.p);
    for (size_t i = 0; i < attrs.n; i++) syl_attr_set(p->module, op, &attrs.p[i]);
    for (size_t i = 0; i < braced.n; i++) syl_attr_set(p->module, op, &braced.p[i]);
    if (region) {
        SYL_TRY(expect_punct(p, '{'));
        SYL_TRY(parse_block(p, op->body));
    }
    /* The results become visible behind the body, which cannot use them. */
    for (size_t i = 0; i < results.n; i++) SYL_TRY(define(p, &results.p[i], &op->results[i]));
    return SYL_OK;
}

static syl_status parse_block(parser *p, syl_block *block) {
    while (!at_punct(p, '}')) {
        if (p->token.kind != SYL_TOK_VALUE && p->token.kind != SYL_TOK_NAME)
            return unexpected(p, "an op or '}'");
        SYL_TRY(parse_op(p, block));
    }
    return advance(p);
}

/* ---- functions and modules ---- */

static syl_status parse_func(parser *p) {
    token_list args = {0};
    type_list arg_types = {0}, result_types = {0};
    syl_token name;
    if (p->n_funcs++ == MAX_FUNCS) return FAIL(p, limit, &p->token, "more than %d functions", MAX_FUNCS);
    SYL_TRY(expect_name(p, "func"));
    SYL_TRY(expect_kind(p, SYL_TOK_FUNC, "a function name", &name));
    if (syl_module_func(p->module, name.text))
        return FAIL(p, redefined, &name, "'@%s' is already defined", name.text);
    SYL_TRY(expect_punct(p, '('));
    while (!at_punct(p, ')')) {
        syl_token arg;
        syl_type type;
        if (args.n) SYL_TRY(expect_punct(p, ','));
        if (args.n == MAX_LIST) return FAIL(p, limit, &p->token, "more than %d arguments", MAX_LIST);
        SYL_TRY(expect_kind(p, SYL_TOK_VALUE, "an argument", &arg));
        SYL_TRY(expect_punct(p, ':'));
        SYL_TRY(parse_type(p, &type));
        SYL_PUSH(&p->scratch, &args, arg);
        SYL_PUSH(&p->scratch, &arg_types, type);
    }
    SYL_TRY(advance(p));
    if (p->token.kind != SYL_TOK_ARROW) return unexpected(p, "'->'");
    SYL_TRY(advance(p));
    bool brackets = at_punct(p, '(');
    if (brackets) SYL_TRY(advance(p));
    if (!brackets || !at_punct(p, ')')) SYL_TRY(parse_types(p, &result_types));
    if (brackets) SYL_TRY(expect_punct(p, ')'));
    SYL_TRY(expect_punct(p, '{'));

    p->func = syl_func_create(p->module, name.text, (int)args.n, arg_types.p, NULL);
    p->func->loc = loc_at(p, name.offset);
    p->func->n_results = (int)result_types.n;
    p->func->result_types = SYL_NEW_ARRAY(&p->module->arena, syl_type, result_types.n);
    if (result_types.n)
        memcpy(p->func->result_types, result_types.p, result_types.n * sizeof *result_types.p);
    syl_map_init(&p->values, &p->scratch);
    for (size_t i = 0; i < args.n; i++) SYL_TRY(define(p, &args.p[i], &p->func->args[i]));
    return parse_block(p, p->func->body);
}

static syl_status parse_module(parser *p) {
    syl_token name;
    SYL_TRY(advance(p));
    SYL_TRY(expect_name(p, "module"));
    SYL_TRY(expect_kind(p, SYL_TOK_FUNC, "a module name", &name));
    p->module = syl_module_create(name.text);
    SYL_TRY(expect_punct(p, '{'));
    while (at_name(p, "source")) {
        syl_token path;
        SYL_TRY(advance(p));
        if (p->module->sources.n == MAX_LIST)
            return FAIL(p, limit, &p->token, "more than %d sources", MAX_LIST);
        SYL_TRY(expect_kind(p, SYL_TOK_STRING, "a path as a string", &path));
        SYL_PUSH(&p->module->arena, &p->module->sources, syl_arena_strdup(&p->module->arena, path.text));
    }
    while (at_name(p, "func")) SYL_TRY(parse_func(p));
    SYL_TRY(expect_punct(p, '}'));
    return p->token.kind == SYL_TOK_END ? SYL_OK : unexpected(p, "the end of the text behind the module");
}

syl_status syl_module_parse(const syl_source *source, syl_diag *diag, syl_module **out) {
    parser p = {.diag = diag};
    *out = NULL;
    syl_arena_init(&p.scratch);
    p.lexer = (syl_lexer){.source = source, .diag = diag, .arena = &p.scratch};
    syl_status status = parse_module(&p);
    if (status == SYL_OK)
        *out = p.module;
    else
        syl_module_destroy(p.module);
    syl_arena_free(&p.scratch);
    return status;
}
