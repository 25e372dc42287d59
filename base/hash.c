/* Content hashes through xxHash. The hexadecimal form is the canonical (big-endian) one, so it is the same on
 * every machine. */
#include "base/hash.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "base/file.h"

struct syl_hasher {
    XXH3_state_t *state;
};

static syl_hash to_hex(XXH128_hash_t value) {
    static const char digits[] = "0123456789abcdef";
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, value);
    syl_hash hash = {{0}};
    for (int i = 0; i < 16; i++) {
        hash.hex[2 * i] = digits[canonical.digest[i] >> 4];
        hash.hex[2 * i + 1] = digits[canonical.digest[i] & 15];
    }
    return hash;
}

syl_hash syl_hash_bytes(const void *data, size_t size) {
    return to_hex(XXH3_128bits(data, size));
}

static void update_mapped(XXH3_state_t *state, const unsigned char *data, size_t size) {
    enum { piece = 8 << 20 };
    for (size_t at = 0, n; at < size; at += n) {
        n = size - at < piece ? size - at : piece;
        XXH3_128bits_update(state, data + at, n);
        syl_mapping_drop(data + at, n);
    }
}

syl_hash syl_hash_mapped(const void *data, size_t size) {
    syl_hasher *hasher = syl_hasher_create();
    if (!hasher) return syl_hash_bytes(data, size); /* the same hash, of more memory */
    update_mapped(hasher->state, data, size);
    return syl_hasher_finish(hasher);
}

syl_hasher *syl_hasher_create(void) {
    syl_hasher *hasher = malloc(sizeof *hasher);
    if (!hasher) return NULL;
    hasher->state = XXH3_createState();
    if (!hasher->state) {
        free(hasher);
        return NULL;
    }
    XXH3_128bits_reset(hasher->state);
    return hasher;
}

void syl_hasher_field(syl_hasher *hasher, const void *data, size_t size) {
    unsigned char length[8];
    for (int i = 0; i < 8; i++) length[i] = (unsigned char)((uint64_t)size >> 8 * i);
    XXH3_128bits_update(hasher->state, length, sizeof length);
    if (size) XXH3_128bits_update(hasher->state, data, size);
}

void syl_hasher_mapped(syl_hasher *hasher, const void *data, size_t size) {
    unsigned char length[8];
    for (int i = 0; i < 8; i++) length[i] = (unsigned char)((uint64_t)size >> 8 * i);
    XXH3_128bits_update(hasher->state, length, sizeof length);
    update_mapped(hasher->state, data, size);
}

void syl_hasher_text(syl_hasher *hasher, const char *text) {
    syl_hasher_field(hasher, text, strlen(text));
}

syl_hash syl_hasher_finish(syl_hasher *hasher) {
    syl_hash hash = to_hex(XXH3_128bits_digest(hasher->state));
    XXH3_freeState(hasher->state);
    free(hasher);
    return hash;
}
