/* The object cache: what makes a kernel's object, and its entry in the cache folder (codegen/code_cache.h). */
#include <string.h>
#include "codegen/code_cache.h"
#include "codegen/host/emit.h"

static const syl_code_kind objects = {"SYLOBJ1\n", ".o"};

syl_hash em_cache_key(const kir_kernel *kernel, const syl_host_target *target) {
    syl_arena arena;
    syl_arena_init(&arena);
    syl_text text = {.arena = &arena};
    kir_kernel nameless = *kernel;
    nameless.name = "";
    kir_print(&nameless, &text);
    int *stage = SYL_NEW_ARRAY(&arena, int, kernel->body.n);
    bool *keep = SYL_NEW_ARRAY(&arena, bool, kernel->body.n);
    kir_schedule(kernel, stage, keep);
    for (size_t i = 0; i < kernel->body.n; i++) syl_text_printf(&text, "%d%c", stage[i], keep[i] ? '+' : ' ');
    const kir_attention *a = &kernel->attention;
    syl_text_printf(&text, "generator %d llvm %s\n", EM_GENERATOR, syl_host_llvm_version());
    syl_text_printf(&text, "gemm buffers %d %d attention buffers %d %d %d %d %d\n", kernel->gemm.a,
                    kernel->gemm.w, a->q, a->out, a->cache, a->pos, a->seq);
    syl_text_printf(&text, "target %s %s %s registers %d x %d fma %d\n", target->triple, target->cpu,
                    target->features, target->vector_registers, target->vector_floats, target->fma);
    syl_hash hash = syl_hash_bytes(text.p, text.n);
    syl_arena_free(&arena);
    return hash;
}

bool em_cache_load(const char *dir, const syl_hash *key, em_object *out) {
    return syl_code_load(dir, &objects, key, &out->data, &out->size);
}

bool syl_host_object_valid(const char *path) {
    return syl_code_valid(path, &objects);
}

void em_cache_store(const char *dir, const syl_hash *key, const em_object *object) {
    syl_code_store(dir, &objects, key, object->data, object->size);
}
