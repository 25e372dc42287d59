/* The cache of compiled CUDA kernels (cache.h). Content of an entry: lines "word value", an empty line, the code:
 *
 *     kernel k3 rms_norm_quantize
 *     variant rows threads=256
 *     entry rms_norm_quantize
 *     options --gpu-architecture=sm_90a ...
 *     compiler build 65be0db3...
 *     source 5f0c...                       hash of the text that was compiled
 *     resources 32 0 0 0 400 0             registers, stack, spill stores and loads, shared memory, serialized
 *     seconds 0.061
 *
 * Name and variant are for people: equal sources of two kernels share an entry. */
#include "codegen/cuda/cache.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "codegen/code_cache.h"

static const syl_code_kind cubins = {"SYLCUDA\n", SYL_CUDA_SUFFIX};

syl_hash cu_entry_key(const char *source, const char *entry, const char *options, const char *compiler) {
    syl_arena arena;
    syl_arena_init(&arena);
    syl_text text = {.arena = &arena};
    const char *parts[] = {options, compiler, entry, source};
    for (int i = 0; i < 4; i++) {
        size_t size = strlen(parts[i]);
        syl_text_printf(&text, "%zu ", size);
        syl_text_append(&text, parts[i], size);
        syl_text_append(&text, "\n", 1);
    }
    syl_hash key = syl_hash_bytes(text.p, text.n);
    syl_arena_free(&arena);
    return key;
}

/* The value of the line that begins with `word`, up to the end of the line; NULL where there is none. */
static const char *value_of(const char *text, const char *word) {
    size_t n = strlen(word);
    for (; *text; text += strcspn(text, "\n"), text += *text == '\n')
        if (strncmp(text, word, n) == 0 && text[n] == ' ') return text + n + 1;
    return NULL;
}

static bool read_text(const char *text, cu_entry *out) {
    const char *resources = value_of(text, "resources"), *seconds = value_of(text, "seconds");
    syl_cuda_resources *r = &out->resources;
    long long stack, stores, loads, shared;
    int serialized;
    if (!resources || !seconds || sscanf(seconds, "%lf", &out->seconds) != 1 ||
        sscanf(resources, "%d %lld %lld %lld %lld %d", &r->registers, &stack, &stores, &loads, &shared,
               &serialized) != 6)
        return false;
    r->stack = stack;
    r->spill_stores = stores;
    r->spill_loads = loads;
    r->shared = shared;
    r->serialized = serialized != 0;
    return true;
}

bool cu_entry_load(const char *dir, const syl_hash *key, cu_entry *out) {
    void *data;
    size_t size;
    if (!syl_code_load(dir, &cubins, key, &data, &size)) return false;
    char *text = data, *end = memmem(text, size, "\n\n", 2);
    if (end) *end = 0;
    if (!end || !read_text(text, out)) {
        free(data);
        return false;
    }
    out->size = size - (size_t)(end + 2 - text);
    memmove(text, end + 2, out->size); /* the code, in the memory that was read */
    text[out->size] = 0;               /* inside: the text in front was longer */
    out->code = text;
    return true;
}

void cu_entry_store(const char *dir, const syl_hash *key, const cu_entry *e) {
    syl_arena arena;
    syl_arena_init(&arena);
    syl_text text = {.arena = &arena};
    const syl_cuda_resources *r = &e->resources;
    syl_text_printf(&text, "kernel %s\nvariant %s\nentry %s\noptions %s\ncompiler %s\nsource %s\n", e->name,
                    e->variant, e->entry, e->options, e->compiler, e->source.hex);
    syl_text_printf(&text, "resources %d %lld %lld %lld %lld %d\nseconds %.6f\n\n", r->registers,
                    (long long)r->stack, (long long)r->spill_stores, (long long)r->spill_loads,
                    (long long)r->shared, r->serialized, e->seconds);
    syl_text_append(&text, e->code, e->size);
    syl_code_store(dir, &cubins, key, text.p, text.n);
    syl_arena_free(&arena);
}

bool syl_cuda_entry_valid(const char *path) {
    return syl_code_valid(path, &cubins);
}
