/* Strict JSON: scan, then cJSON, then one walk that ties nodes to places and checks what needs decoded values
 * (duplicate keys, numbers). Invariant after a successful parse: every node of the tree has its place in the
 * index. */
#include "base/json.h"
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/json_scan.h"

/* Sorted by node address. (Hiding the place in cJSON's valueint would save the search, and trap whoever reads
 * valueint.) */
typedef struct entry {
    const cJSON *node;
    syl_json_place place;
} entry;

struct syl_json_index {
    size_t n;
    entry entries[];
};

static const double max_integer = 9007199254740991.0; /* 2^53 - 1: RFC 7493 section 2.2 */

typedef struct builder {
    const syl_source *source;
    const syl_json_place *places;
    struct syl_json_index *index;
    size_t next;
    syl_arena *arena;
    syl_diag *diag;
} builder;

typedef struct keyed {
    const char *key;
    uint32_t offset;
} keyed;

static int compare_keys(const void *a, const void *b) {
    const keyed *left = a, *right = b;
    int order = strcmp(left->key, right->key);
    return order ? order : (left->offset > right->offset) - (left->offset < right->offset);
}

static int compare_nodes(const void *a, const void *b) {
    uintptr_t left = (uintptr_t)((const entry *)a)->node, right = (uintptr_t)((const entry *)b)->node;
    return (left > right) - (left < right);
}

static syl_status check_number(const builder *b, const cJSON *node, size_t offset) {
    const char *text = b->source->text;
    size_t end = offset;
    while (end < b->source->size && text[end] && strchr("+-0123456789.eE", text[end])) end++;
    bool integer = true;
    for (size_t i = offset; i < end; i++) integer = integer && !strchr(".eE", text[i]);
    if (isfinite(node->valuedouble) && !(integer && fabs(node->valuedouble) > max_integer)) return SYL_OK;
    return syl_error(b->diag, SYL_ERR_json_number, (syl_loc){b->source, offset}, "'%.*s' %s",
                     (int)(end - offset), text + offset,
                     integer ? "is beyond 2^53 - 1, so readers disagree on its value"
                             : "is too large for a double");
}

static syl_status check_duplicates(const builder *b, keyed *keys, size_t n) {
    if (n < 2) return SYL_OK;
    qsort(keys, n, sizeof *keys, compare_keys);
    const keyed *first = NULL;
    for (size_t i = 1; i < n; i++)
        if (strcmp(keys[i - 1].key, keys[i].key) == 0 && (!first || keys[i].offset < first->offset))
            first = &keys[i];
    if (!first) return SYL_OK;
    return syl_error(b->diag, SYL_ERR_json_duplicate_key, (syl_loc){b->source, first->offset},
                     "key '%s' appears twice in one object", first->key);
}

static syl_status index_node(builder *b, const cJSON *node) {
    const syl_json_place place = b->places[b->next];
    b->index->entries[b->next++] = (entry){node, place};
    if (cJSON_IsNumber(node)) return check_number(b, node, place.value);
    const bool object = cJSON_IsObject(node);
    size_t n = 0, i = 0;
    if (object)
        for (const cJSON *child = node->child; child; child = child->next) n++;
    keyed *keys = n ? SYL_NEW_ARRAY(b->arena, keyed, n) : NULL;
    for (const cJSON *child = node->child; child; child = child->next) {
        if (object) keys[i++] = (keyed){child->string, b->places[b->next].key};
        SYL_TRY(index_node(b, child));
    }
    return check_duplicates(b, keys, n);
}

syl_status syl_json_parse(const syl_source *source, syl_diag *diag, syl_json *out) {
    *out = (syl_json){.source = source};
    syl_arena arena;
    syl_arena_init(&arena);
    syl_json_place *places = NULL;
    size_t n = 0;
    syl_status status = syl_json_scan(source, &arena, diag, &places, &n);
    if (status == SYL_OK) {
        out->index = malloc(sizeof *out->index + n * sizeof(entry));
        out->root = cJSON_ParseWithLengthOpts(source->text, source->size, NULL, false);
        if (!out->index || !out->root) {
            /* The scan is stricter than cJSON, so only memory is left as a reason. */
            status = syl_error(diag, SYL_ERR_out_of_memory, (syl_loc){source, 0},
                               "no memory for %zu JSON values", n);
        } else {
            builder b = {source, places, out->index, 0, &arena, diag};
            status = index_node(&b, out->root);
            out->index->n = b.next;
            if (status == SYL_OK) qsort(out->index->entries, n, sizeof(entry), compare_nodes);
        }
    }
    syl_arena_free(&arena);
    if (status != SYL_OK) syl_json_free(out);
    return status;
}

void syl_json_free(syl_json *json) {
    cJSON_Delete(json->root);
    free(json->index);
    *json = (syl_json){0};
}

static syl_json_place place_of(const syl_json *json, const cJSON *node) {
    const entry wanted = {.node = node};
    const entry *at = bsearch(&wanted, json->index->entries, json->index->n, sizeof wanted, compare_nodes);
    return at ? at->place : (syl_json_place){0, 0};
}

syl_loc syl_json_loc(const syl_json *json, const cJSON *node) {
    return (syl_loc){json->source, place_of(json, node).value};
}

/* Words for messages: what a node is. */
static const char *type_name(const cJSON *node) {
    if (cJSON_IsObject(node)) return "an object";
    if (cJSON_IsArray(node)) return "an array";
    if (cJSON_IsString(node)) return "a string";
    if (cJSON_IsNumber(node)) return "a number";
    return cJSON_IsNull(node) ? "null" : cJSON_IsTrue(node) ? "true" : "false";
}

static syl_status wrong_type(const syl_json *json, const cJSON *node, const char *key, const char *wanted,
                             syl_diag *diag) {
    return syl_error(diag, SYL_ERR_json_type, syl_json_loc(json, node), "expected %s for '%s', found %s",
                     wanted, key, type_name(node));
}

/* The member, or the error that it is missing; `wanted` words the type. */
static syl_status member(const syl_json *json, const cJSON *object, const char *key, const char *wanted,
                         bool required, syl_diag *diag, const cJSON **out) {
    *out = NULL;
    if (!cJSON_IsObject(object))
        return syl_error(diag, SYL_ERR_json_type, syl_json_loc(json, object),
                         "expected an object with '%s', found %s", key, type_name(object));
    *out = cJSON_GetObjectItemCaseSensitive(object, key);
    if (*out || !required) return SYL_OK;
    return syl_error(diag, SYL_ERR_json_missing, syl_json_loc(json, object),
                     "expected %s under the key '%s', which is missing", wanted, key);
}

syl_status syl_json_number(const syl_json *json, const cJSON *object, const char *key, syl_diag *diag,
                           double *out) {
    const cJSON *node;
    SYL_TRY(member(json, object, key, "a number", true, diag, &node));
    if (!cJSON_IsNumber(node)) return wrong_type(json, node, key, "a number", diag);
    *out = node->valuedouble;
    return SYL_OK;
}

syl_status syl_json_int(const syl_json *json, const cJSON *object, const char *key, int64_t min, int64_t max,
                        syl_diag *diag, int64_t *out) {
    const cJSON *node;
    SYL_TRY(member(json, object, key, "an integer", true, diag, &node));
    if (!cJSON_IsNumber(node)) return wrong_type(json, node, key, "an integer", diag);
    double value = node->valuedouble;
    if (value != trunc(value) || fabs(value) > max_integer)
        return syl_error(diag, SYL_ERR_json_type, syl_json_loc(json, node),
                         "expected an integer for '%s', found %.17g", key, value);
    if ((int64_t)value < min || (int64_t)value > max)
        return syl_error(diag, SYL_ERR_json_range, syl_json_loc(json, node),
                         "expected '%s' between %lld and %lld, found %lld", key, (long long)min,
                         (long long)max, (long long)value);
    *out = (int64_t)value;
    return SYL_OK;
}

syl_status syl_json_string(const syl_json *json, const cJSON *object, const char *key, syl_diag *diag,
                           const char **out) {
    const cJSON *node;
    SYL_TRY(member(json, object, key, "a string", true, diag, &node));
    if (!cJSON_IsString(node)) return wrong_type(json, node, key, "a string", diag);
    *out = node->valuestring;
    return SYL_OK;
}

syl_status syl_json_object(const syl_json *json, const cJSON *object, const char *key, bool required,
                           syl_diag *diag, const cJSON **out) {
    SYL_TRY(member(json, object, key, "an object", required, diag, out));
    if (*out && !cJSON_IsObject(*out)) return wrong_type(json, *out, key, "an object", diag);
    return SYL_OK;
}

syl_status syl_json_array(const syl_json *json, const cJSON *object, const char *key, bool required,
                          syl_diag *diag, const cJSON **out) {
    SYL_TRY(member(json, object, key, "an array", required, diag, out));
    if (*out && !cJSON_IsArray(*out)) return wrong_type(json, *out, key, "an array", diag);
    return SYL_OK;
}

syl_status syl_json_known_keys(const syl_json *json, const cJSON *object, const char *const *keys,
                               syl_diag *diag) {
    if (!cJSON_IsObject(object))
        return syl_error(diag, SYL_ERR_json_type, syl_json_loc(json, object), "expected an object, found %s",
                         type_name(object));
    for (const cJSON *child = object->child; child; child = child->next) {
        size_t i = 0;
        while (keys[i] && strcmp(keys[i], child->string) != 0) i++;
        if (keys[i]) continue;
        const char *near = syl_nearest(child->string, keys);
        const syl_loc loc = {json->source, place_of(json, child).key};
        return syl_error(diag, SYL_ERR_json_unknown_key, loc, "unknown key '%s'%s%s%s", child->string,
                         near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
    }
    return SYL_OK;
}
