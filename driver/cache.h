/* The folder of the user's own (syl_cache_folder) as a whole: compiled kernels in it (*.o, *.cuda), finished tensors in
 * its folder "tensors" (*.tensor). Everything in it can be made again, so anything may be dropped at any time. */
#ifndef SYL_DRIVER_CACHE_H
#define SYL_DRIVER_CACHE_H

#include "base/diag.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum syl_cache_kind { SYL_CACHE_KERNEL, SYL_CACHE_TENSOR } syl_cache_kind;

typedef struct syl_cache_entry {
    syl_cache_kind kind;
    const char *path;
    int64_t bytes;
    int64_t used; /* nanoseconds since 1970; the last use */
} syl_cache_entry;

typedef struct syl_cache_list {
    SYL_VEC(syl_cache_entry) entries; /* the longest unused first */
    int64_t bytes;
} syl_cache_list;

/* The folder of finished tensors below the cache folder; NULL in *out where there is no cache folder. */
SYL_NODISCARD syl_status syl_cache_tensors(syl_arena *arena, syl_diag *diag, const char **out);

/* What is in a folder and in its folder "tensors", if there is one; other files are left alone by everything here. */
SYL_NODISCARD syl_status syl_cache_read(syl_arena *arena, const char *folder, syl_diag *diag,
                                        syl_cache_list *out);

/* True if the entry is whole and undamaged. */
bool syl_cache_valid(const syl_cache_entry *entry);

/* Removes one entry; one that is gone already is fine. */
SYL_NODISCARD syl_status syl_cache_remove(const syl_cache_entry *entry, syl_diag *diag);

/* Drops entries, the longest unused first, until the folder holds at most max_bytes. *freed may be NULL. */
SYL_NODISCARD syl_status syl_cache_trim(const char *folder, int64_t max_bytes, syl_diag *diag,
                                        int64_t *freed);

#endif
