/* Content hashes: XXH3-128 as 32 hex digits. Against accidents (stale caches, torn files), not against
 * attackers. */
#ifndef SYL_BASE_HASH_H
#define SYL_BASE_HASH_H

#include <stddef.h>

typedef struct syl_hash {
    char hex[33];
} syl_hash;
syl_hash syl_hash_bytes(const void *data, size_t size);
/* The same of a part of a mapped file, in constant memory: pages are dropped behind (file.h). */
syl_hash syl_hash_mapped(const void *data, size_t size);

/* Incremental, over length-prefixed fields, so ("ab","c") and ("a","bc") differ. */
typedef struct syl_hasher syl_hasher;
syl_hasher *syl_hasher_create(void); /* NULL when out of memory */
void syl_hasher_field(syl_hasher *hasher, const void *data, size_t size);
void syl_hasher_mapped(syl_hasher *hasher, const void *data, size_t size); /* a field, as syl_hash_mapped */
void syl_hasher_text(syl_hasher *hasher, const char *text);
syl_hash syl_hasher_finish(syl_hasher *hasher); /* consumes */

#endif
