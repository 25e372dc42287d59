/* The cache of compiled CUDA kernels (private to codegen/cuda, but for syl_cuda_entry_valid): entries of codegen/code_cache.h that say of
 * themselves, in lines of text in front of the code, what they are. */
#ifndef SYL_CODEGEN_CUDA_CACHE_H
#define SYL_CODEGEN_CUDA_CACHE_H

#include "base/hash.h"
#include "codegen/cuda/resources.h"

#define SYL_CUDA_SUFFIX ".cuda" /* of entries */
#define SYL_CUDA_FAILED ".cu"   /* of sources that did not compile, left for the user to look at */

/* What the text in front of the code says. All texts are single lines. */
typedef struct cu_entry {
    const char *name, *variant, *entry;
    const char *options,
        *compiler;   /* parts of the key: the options with the architecture, NVRTC's identity */
    syl_hash source; /* and the hash of the source */
    syl_cuda_resources resources;
    double seconds; /* that compiling took */
    char *code;     /* malloc; a NUL is behind it */
    size_t size;
} cu_entry;

syl_hash cu_entry_key(const char *source, const char *entry, const char *options, const char *compiler);

/* Fills resources, seconds, code and size of the valid entry of this key; false where there is none. */
bool cu_entry_load(const char *dir, const syl_hash *key, cu_entry *out);
void cu_entry_store(const char *dir, const syl_hash *key, const cu_entry *entry);

/* True if a file of the cache is whole, undamaged and of the name it has. */
bool syl_cuda_entry_valid(const char *path);

#endif
