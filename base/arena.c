#include "base/arena.h"
#include <stdalign.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/size.h"

struct syl_arena_block {
    struct syl_arena_block *next;
    size_t used, size;
    alignas(max_align_t) unsigned char bytes[];
};

static const size_t block_size = 64 * 1024;

static void abort_on_exhaustion(size_t size) {
    (void)size;
    abort();
}

void (*syl_out_of_memory_hook)(size_t size) = abort_on_exhaustion;

void syl_arena_init(syl_arena *arena) {
    *arena = (syl_arena){0};
}

void syl_arena_free(syl_arena *arena) {
    for (struct syl_arena_block *block = arena->head, *next; block; block = next) {
        next = block->next;
        free(block);
    }
    syl_arena_init(arena);
}

void *syl_arena_alloc(syl_arena *arena, size_t size) {
    size_t aligned, total;
    if (!syl_size_align(size ? size : 1, alignof(max_align_t), &aligned)) {
        syl_out_of_memory_hook(size);
        abort();
    }
    struct syl_arena_block *block = arena->head;
    if (!block || block->size - block->used < aligned) {
        size_t payload = aligned > block_size ? aligned : block_size;
        struct syl_arena_block *fresh = NULL;
        if (syl_size_add(sizeof *fresh, payload, &total)) fresh = calloc(1, total);
        if (!fresh) {
            syl_out_of_memory_hook(size);
            abort();
        }
        fresh->size = payload;
        /* An oversized request goes behind the head, so the head's free space stays in use. */
        if (block && payload > block_size) {
            fresh->next = block->next;
            block->next = fresh;
        } else {
            fresh->next = block;
            arena->head = fresh;
        }
        block = fresh;
    }
    void *p = block->bytes + block->used;
    block->used += aligned;
    arena->used += aligned;
    return p;
}

void *syl_arena_calloc(syl_arena *arena, size_t count, size_t size) {
    size_t total;
    if (!syl_size_mul(count, size, &total)) {
        syl_out_of_memory_hook(SIZE_MAX);
        abort();
    }
    return syl_arena_alloc(arena, total);
}

char *syl_arena_strndup(syl_arena *arena, const char *text, size_t n) {
    char *copy = syl_arena_alloc(arena, n + 1);
    if (n) memcpy(copy, text, n);
    return copy;
}

char *syl_arena_strdup(syl_arena *arena, const char *text) {
    return syl_arena_strndup(arena, text, strlen(text));
}

char *syl_arena_vprintf(syl_arena *arena, const char *fmt, va_list args) {
    va_list again;
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    char *text = syl_arena_alloc(arena, (size_t)(n < 0 ? 0 : n) + 1);
    if (n >= 0) vsnprintf(text, (size_t)n + 1, fmt, again);
    va_end(again);
    return text;
}

char *syl_arena_printf(syl_arena *arena, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    char *text = syl_arena_vprintf(arena, fmt, args);
    va_end(args);
    return text;
}

void *syl_vec_grow(syl_arena *arena, void *data, size_t count, size_t *cap, size_t elem_size) {
    if (count < *cap) return data;
    size_t fresh_cap = *cap ? *cap * 2 : 8;
    void *fresh = syl_arena_calloc(arena, fresh_cap, elem_size);
    if (count) memcpy(fresh, data, count * elem_size);
    *cap = fresh_cap;
    return fresh;
}

void syl_text_append(syl_text *text, const char *bytes, size_t n) {
    size_t need = text->n + n + 1;
    if (need > text->cap) {
        size_t cap = text->cap ? text->cap : 256;
        while (cap < need) cap *= 2;
        char *fresh = syl_arena_alloc(text->arena, cap);
        if (text->n) memcpy(fresh, text->p, text->n);
        text->p = fresh;
        text->cap = cap;
    }
    if (n) memcpy(text->p + text->n, bytes, n);
    text->n += n;
    text->p[text->n] = 0;
}

void syl_text_printf(syl_text *text, const char *fmt, ...) {
    char stack[512];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(stack, sizeof stack, fmt, args);
    va_end(args);
    if (n < 0) return;
    if ((size_t)n < sizeof stack) {
        syl_text_append(text, stack, (size_t)n);
        return;
    }
    va_start(args, fmt);
    char *long_text = syl_arena_vprintf(text->arena, fmt, args);
    va_end(args);
    syl_text_append(text, long_text, (size_t)n);
}
