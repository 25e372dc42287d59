/* Block arena: memory with one lifetime, freed all at once.
 *
 * Metadata (IR, diagnostics, plans) lives in arenas and is never freed singly. Exhausting memory for metadata
 * calls the out-of-memory hook, whose default aborts; its size is bounded by the caps of the readers.
 * Tensor-sized buffers do not belong here: use syl_alloc_aligned (size.h) and report out_of_memory. */
#ifndef SYL_BASE_ARENA_H
#define SYL_BASE_ARENA_H

#include <stdarg.h>
#include <stddef.h>
#include "base/status.h"

typedef struct syl_arena {
    struct syl_arena_block *head;
    size_t used; /* bytes handed out since init */
} syl_arena;

void syl_arena_init(syl_arena *arena);
void syl_arena_free(
    syl_arena *arena); /* frees every block; the arena is usable again as if just initialised */

/* Zeroed memory aligned for any type; size 0 gives a unique pointer. Never NULL. */
void *syl_arena_alloc(syl_arena *arena, size_t size);
/* Zeroed array; overflow counts as out of memory. */
void *syl_arena_calloc(syl_arena *arena, size_t count, size_t size);
char *syl_arena_strdup(syl_arena *arena, const char *text);
char *syl_arena_strndup(syl_arena *arena, const char *text, size_t n); /* NUL-terminated copy */
char *syl_arena_printf(syl_arena *arena, const char *fmt, ...) SYL_PRINTF(2, 3);
char *syl_arena_vprintf(syl_arena *arena, const char *fmt, va_list args);

#define SYL_NEW(arena, type)          ((type *)syl_arena_alloc((arena), sizeof(type)))
#define SYL_NEW_ARRAY(arena, type, n) ((type *)syl_arena_calloc((arena), (n), sizeof(type)))

/* Called when metadata memory is exhausted; must not return. Default: abort. */
extern void (*syl_out_of_memory_hook)(size_t size);

/* A growable array in an arena: SYL_VEC(int) v = {0}; SYL_PUSH(arena, &v, 3); v.p[0], v.n */
#define SYL_VEC(type)                                                                                        \
    struct {                                                                                                 \
        type *p;                                                                                             \
        size_t n, cap;                                                                                       \
    }
#define SYL_PUSH(arena, vec, ...)                                                                            \
    do {                                                                                                     \
        (vec)->p = syl_vec_grow((arena), (vec)->p, (vec)->n, &(vec)->cap, sizeof *(vec)->p);                 \
        (vec)->p[(vec)->n++] = (__VA_ARGS__);                                                                \
    } while (0)
void *syl_vec_grow(syl_arena *arena, void *data, size_t count, size_t *cap, size_t elem_size);

/* A growable NUL-terminated text in an arena. */
typedef struct syl_text {
    syl_arena *arena;
    char *p; /* NULL while empty */
    size_t n, cap;
} syl_text;
void syl_text_append(syl_text *text, const char *bytes, size_t n);
void syl_text_printf(syl_text *text, const char *fmt, ...) SYL_PRINTF(2, 3);

#endif
