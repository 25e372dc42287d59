/* Hash map from byte strings to pointers, in an arena. Iteration goes in order of insertion, so results never
 * depend on hashes. */
#ifndef SYL_BASE_MAP_H
#define SYL_BASE_MAP_H

#include "base/arena.h"

typedef struct syl_map_entry {
    const char *key; /* NUL-terminated copy in the arena */
    size_t key_size;
    void *value;
} syl_map_entry;

typedef struct syl_map {
    syl_arena *arena;
    SYL_VEC(syl_map_entry) entries; /* in order of insertion */
    unsigned *table;                /* open addressing: 1 + index into entries, 0 = free */
    size_t table_size;              /* power of two, 0 while empty */
} syl_map;

void syl_map_init(syl_map *map, syl_arena *arena);
/* Returns the value's slot, inserting NULL where the key is new; *out_new may be NULL. The slot is valid
 * until the next insertion. */
void **syl_map_slot(syl_map *map, const void *key, size_t key_size, int *out_new);
void *syl_map_get(const syl_map *map, const void *key, size_t key_size); /* NULL if absent */
void *syl_map_get_str(const syl_map *map, const char *key);

#endif
