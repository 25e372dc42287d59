/* Finished tensors, kept between compiles, so that an interrupted one goes on where it was and a changed recipe
 * redoes only what changed.
 *
 * A tensor is filed under the hash of what it is made by: the weight-side expression with the content hashes of
 * its leaves, and the evaluator's version (materialize.h). A file is written whole and appears by rename; it
 * describes itself and is verified byte by byte before use: what is torn, damaged or of another key counts as
 * absent. docs/artifact.md has the format. */
#ifndef SYL_DRIVER_TENSOR_STORE_H
#define SYL_DRIVER_TENSOR_STORE_H

#include <stdbool.h>

#include "base/diag.h"
#include "base/hash.h"

enum { SYL_STORE_PARTS = 4 };
#define SYL_STORE_SUFFIX ".tensor"

/* The parts of a tensor and their sizes in bytes. */
typedef struct syl_store_shape {
    int parts;
    size_t size[SYL_STORE_PARTS];
} syl_store_shape;

typedef struct syl_store syl_store;

/* Opens a folder, made (0700) if it is missing, and removes what killed processes left half written in it.
 * Errors: cache-folder where it is not the user's own, or cannot be read and written. */
SYL_NODISCARD syl_status syl_store_open(const char *folder, syl_diag *diag, syl_store **out);
void syl_store_read_only(syl_store *store); /* nothing more is filed */
void syl_store_close(syl_store *store);     /* NULL is fine */

/* Hands the tensor filed under `key` to `sink`, in pieces, if it is there and whole: *found. The sink's failure
 * is returned. Any thread. */
SYL_NODISCARD syl_status syl_store_load(syl_store *store, const syl_hash *key, const syl_store_shape *shape,
                                        syl_status (*sink)(void *user, int part, size_t offset,
                                                           const void *data, size_t size),
                                        void *user, bool *found);

/* True if a file of that key and of the right size is there; its bytes are not looked at. */
bool syl_store_has(const syl_store *store, const syl_hash *key, const syl_store_shape *shape);

/* Filing a tensor: begin, put every byte once (in any order, from any thread), then end. Where the disk fails
 * the tensor is not kept, with one warning for all. NULL from begin is such a tensor; put and end take it. */
typedef struct syl_store_entry syl_store_entry;
syl_store_entry *syl_store_begin(syl_store *store, const syl_hash *key, const syl_store_shape *shape);
void syl_store_put(syl_store_entry *entry, int part, size_t offset, const void *data, size_t size);
void syl_store_end(syl_store_entry *entry, bool keep); /* consumes */

/* True if the file is a whole, undamaged entry of the name it has. */
bool syl_store_valid(const char *path);

#endif
