#include "base/map.h"
#include <string.h>
#include <xxhash.h>

void syl_map_init(syl_map *map, syl_arena *arena) {
    *map = (syl_map){0};
    map->arena = arena;
}

static size_t probe(const syl_map *map, const void *key, size_t key_size) {
    size_t mask = map->table_size - 1, at = (size_t)XXH3_64bits(key, key_size) & mask;
    while (map->table[at]) {
        const syl_map_entry *entry = &map->entries.p[map->table[at] - 1];
        if (entry->key_size == key_size && memcmp(entry->key, key, key_size) == 0) break;
        at = (at + 1) & mask;
    }
    return at;
}

static void rehash(syl_map *map) {
    map->table_size = map->table_size ? map->table_size * 2 : 16;
    map->table = SYL_NEW_ARRAY(map->arena, unsigned, map->table_size);
    for (size_t i = 0; i < map->entries.n; i++)
        map->table[probe(map, map->entries.p[i].key, map->entries.p[i].key_size)] = (unsigned)i + 1;
}

void **syl_map_slot(syl_map *map, const void *key, size_t key_size, int *out_new) {
    if (map->entries.n * 2 >= map->table_size) rehash(map);
    size_t at = probe(map, key, key_size);
    if (out_new) *out_new = map->table[at] == 0;
    if (!map->table[at]) {
        syl_map_entry entry = {syl_arena_strndup(map->arena, key, key_size), key_size, NULL};
        SYL_PUSH(map->arena, &map->entries, entry);
        map->table[at] = (unsigned)map->entries.n;
    }
    return &map->entries.p[map->table[at] - 1].value;
}

void *syl_map_get(const syl_map *map, const void *key, size_t key_size) {
    if (!map->table_size) return NULL;
    unsigned index = map->table[probe(map, key, key_size)];
    return index ? map->entries.p[index - 1].value : NULL;
}

void *syl_map_get_str(const syl_map *map, const char *key) {
    return syl_map_get(map, key, strlen(key));
}
