/* Strict JSON over cJSON (RFC 8259 with I-JSON's limits, RFC 7493): the whole text, valid UTF-8, no duplicate
 * keys, no leading zeros, no control bytes, no NUL in strings, numbers finite and integers within 2^53 - 1,
 * depth and size capped. A grammar scan before cJSON finds the error with its place, and remembers where each
 * node starts, so later errors point into the text. */
#ifndef SYL_BASE_JSON_H
#define SYL_BASE_JSON_H

#include <stdbool.h>
#include <stdint.h>
#include "base/diag.h"

typedef struct cJSON cJSON;

typedef struct syl_json {
    const syl_source *source; /* borrowed */
    cJSON *root;
    struct syl_json_index *index; /* node -> offset */
} syl_json;

SYL_NODISCARD syl_status syl_json_parse(const syl_source *source, syl_diag *diag, syl_json *out);
void syl_json_free(syl_json *json); /* fine on a zeroed one */
/* Where a node (its value) begins in the text. */
syl_loc syl_json_loc(const syl_json *json, const cJSON *node);

/* Typed access to members of an object, each reporting json-type / json-missing at the right place. `what`
 * names the object in messages. */
SYL_NODISCARD syl_status syl_json_int(const syl_json *json, const cJSON *object, const char *key, int64_t min,
                                      int64_t max, syl_diag *diag, int64_t *out);
SYL_NODISCARD syl_status syl_json_number(const syl_json *json, const cJSON *object, const char *key,
                                         syl_diag *diag, double *out);
SYL_NODISCARD syl_status syl_json_string(const syl_json *json, const cJSON *object, const char *key,
                                         syl_diag *diag, const char **out);
/* An object or array member; NULL and SYL_OK where it is absent and `required` is false. */
SYL_NODISCARD syl_status syl_json_object(const syl_json *json, const cJSON *object, const char *key,
                                         bool required, syl_diag *diag, const cJSON **out);
SYL_NODISCARD syl_status syl_json_array(const syl_json *json, const cJSON *object, const char *key,
                                        bool required, syl_diag *diag, const cJSON **out);
/* Refuses keys outside the NULL-terminated list, naming the nearest known key. */
SYL_NODISCARD syl_status syl_json_known_keys(const syl_json *json, const cJSON *object,
                                             const char *const *keys, syl_diag *diag);

/* Writing: appends a quoted, escaped string. */
void syl_json_quote(syl_text *out, const char *text);
/* The shortest decimal form that reads back to the same double. */
void syl_json_print_number(syl_text *out, double value);

/* The word of the list nearest to `word` (edit distance <= 1/3 of its length), or NULL: for "did you mean".
 */
const char *syl_nearest(const char *word, const char *const *words);

#endif
