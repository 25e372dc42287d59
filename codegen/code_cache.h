/* Compiled code in a cache folder: one file a kernel, named by the hash of everything that made it. host/cache.c keeps objects this way,
 * cuda/cache.c cubins.
 *
 * File: the kind's magic, the key again, the hash and the size of the content, the content. A file that is torn, damaged, of another key or of
 * another owner counts as absent and is written anew, by rename, so any number of processes may share a folder. Code from the folder is
 * run, so the folder must belong to this user and be closed to others. */
#ifndef SYL_CODEGEN_CODE_CACHE_H
#define SYL_CODEGEN_CODE_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include "base/diag.h"
#include "base/hash.h"

typedef struct syl_code_kind {
    char magic[9];
    const char *suffix; /* of file names: ".o" */
} syl_code_kind;

/* Makes the folder where there is none; false, with a warning, where it must not be used. */
bool syl_code_folder_usable(const char *dir, syl_diag *diag);

/* The content of an entry, to be freed by the caller; false where there is no valid one. The entry counts as used now. */
bool syl_code_load(const char *dir, const syl_code_kind *kind, const syl_hash *key, void **data,
                   size_t *size);
/* Writes an entry. Failing (a full disk) only costs the next start some time, so nothing is reported. */
void syl_code_store(const char *dir, const syl_code_kind *kind, const syl_hash *key, const void *data,
                    size_t size);
/* True if the file is a whole, undamaged entry of the name it has. */
bool syl_code_valid(const char *path, const syl_code_kind *kind);

#endif
