/* The strict grammar pass over a JSON text, private to base/json*.c. */
#ifndef SYL_BASE_JSON_SCAN_H
#define SYL_BASE_JSON_SCAN_H

#include <stdint.h>
#include "base/diag.h"

enum {
    SYL_JSON_MAX_SIZE = 64 << 20,
    SYL_JSON_MAX_NODES = 4000000,
    SYL_JSON_MAX_DEPTH = 64,
    SYL_JSON_MAX_NUMBER = 63 /* characters: what cJSON's buffer holds */
};

/* Where a node begins: the key's opening quote (0: no key) and the value's first byte. The size cap makes
 * offsets fit. */
typedef struct syl_json_place {
    uint32_t key, value;
} syl_json_place;

/* Accepts exactly the texts json.h describes, except that duplicate keys and the range of numbers are left to
 * the caller, who has them decoded. *out_places: one per value, in preorder, in the arena. */
SYL_NODISCARD syl_status syl_json_scan(const syl_source *source, syl_arena *arena, syl_diag *diag,
                                       syl_json_place **out_places, size_t *out_n);

#endif
