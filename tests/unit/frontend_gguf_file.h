/* Builds GGUF files for tests, byte by byte. */
#ifndef SYL_TESTS_FRONTEND_GGUF_FILE_H
#define SYL_TESTS_FRONTEND_GGUF_FILE_H

#include <ftw.h>
#include <stdio.h>
#include <unistd.h>
#include "base_testing.h"
#include "base/file.h"
#include "frontend/gguf.h"

typedef struct bytes {
    unsigned char p[1 << 16];
    size_t n;
} bytes;

static inline void put(bytes *b, const void *data, size_t n) {
    assert_true(b->n + n <= sizeof b->p);
    if (n) memcpy(b->p + b->n, data, n);
    b->n += n;
}
static inline void put_int(bytes *b, uint64_t v, size_t size) {
    for (size_t i = 0; i < size; i++) put(b, &(unsigned char){i < 8 ? (unsigned char)(v >> (8 * i)) : 0}, 1);
}
static inline void put_f32(bytes *b, float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    put_int(b, u, 4);
}
static inline void put_text(bytes *b, const char *text) {
    put_int(b, strlen(text), 8);
    put(b, text, strlen(text));
}

static inline void begin(bytes *b, uint64_t tensors, uint64_t keys) {
    b->n = 0;
    put(b, "GGUF", 4);
    put_int(b, 3, 4);
    put_int(b, tensors, 8);
    put_int(b, keys, 8);
}
static inline void key(bytes *b, const char *name, syl_gguf_kind kind) {
    put_text(b, name);
    put_int(b, kind, 4);
}
static inline void key_text(bytes *b, const char *name, const char *text) {
    key(b, name, SYL_GGUF_STRING);
    put_text(b, text);
}
static inline void key_u32(bytes *b, const char *name, uint32_t v) {
    key(b, name, SYL_GGUF_U32);
    put_int(b, v, 4);
}
static inline void key_f32(bytes *b, const char *name, float v) {
    key(b, name, SYL_GGUF_F32);
    put_f32(b, v);
}
static inline void key_texts(bytes *b, const char *name, const char *const *texts, size_t n) {
    key(b, name, SYL_GGUF_ARRAY);
    put_int(b, SYL_GGUF_STRING, 4);
    put_int(b, n, 8);
    for (size_t i = 0; i < n; i++) put_text(b, texts[i]);
}
/* cols 0: a vector. */
static inline void tensor(bytes *b, const char *name, uint64_t rows, uint64_t cols, uint32_t type,
                          uint64_t offset) {
    put_text(b, name);
    put_int(b, cols ? 2 : 1, 4);
    if (cols) put_int(b, cols, 8);
    put_int(b, rows, 8);
    put_int(b, type, 4);
    put_int(b, offset, 8);
}
static inline void pad(bytes *b, size_t alignment) {
    while (b->n % alignment) put_int(b, 0, 1);
}

/* Writes the bytes to a file of the test's folder and returns its path. */
static inline char *save(syl_arena *arena, const char *name, const void *data, size_t n) {
    char *path = in_folder(arena, name);
    FILE *file = fopen(path, "wb"); /* without syl_file_write's fsync: tests write thousands */
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, n, file), n);
    fclose(file);
    return path;
}

static inline int remove_one(const char *path, const struct stat *info, int kind, struct FTW *place) {
    (void)info, (void)place;
    return kind == FTW_DP ? rmdir(path) : unlink(path);
}
/* The group's teardown. */
static inline int delete_folder(void **state) {
    (void)state;
    return nftw(test_folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

#endif
