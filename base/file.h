/* Files: reading whole, mapping, and writing whole or not at all. */
#ifndef SYL_BASE_FILE_H
#define SYL_BASE_FILE_H

#include <stdbool.h>
#include "base/diag.h"

/* Reads a whole text file into the arena (NUL-terminated); refuses files above max_size (input error
 * file-too-large). out->name = path. */
SYL_NODISCARD syl_status syl_file_read(syl_arena *arena, const char *path, size_t max_size, syl_diag *diag,
                                       syl_source *out);

/* A read-only private mapping of a file. */
typedef struct syl_mapping {
    const unsigned char *data;
    size_t size;
} syl_mapping;
SYL_NODISCARD syl_status syl_file_map(const char *path, syl_diag *diag, syl_mapping *out);
void syl_file_unmap(syl_mapping *mapping); /* fine on a zeroed one */
/* Gives back the memory behind a part of a mapping that was read and is not needed soon, so that reading a
 * large file once does not fill the memory of the process. The content stays: a later read fetches it again.
 * Small parts are left alone. */
void syl_mapping_drop(const void *data, size_t size);

/* A file that appears at `path` by rename when committed, after fsync; until then it is a temporary file in
 * the same folder, which discard (and a failed commit) removes. Errors are sticky: writes after a failure do
 * nothing and commit reports it. */
typedef struct syl_output syl_output;
SYL_NODISCARD syl_status syl_output_open(const char *path, syl_diag *diag, syl_output **out);
SYL_NODISCARD syl_status syl_output_write(syl_output *output, const void *data, size_t size);
/* Writes at an absolute offset (the file grows as needed). May be called from several threads. */
SYL_NODISCARD syl_status syl_output_write_at(syl_output *output, size_t offset, const void *data,
                                             size_t size);
SYL_NODISCARD syl_status syl_output_commit(syl_output *output); /* consumes output */
/* The same without waiting for the disk: for caches, whose files are verified when they are used. */
SYL_NODISCARD syl_status syl_output_publish(syl_output *output); /* consumes output */
void syl_output_discard(syl_output *output);                     /* consumes output; NULL is fine */
/* Removes the temporary files that killed processes left in a folder: those of the output called `name` in
 * it, or (NULL) all. A file that a living process still writes is locked by it and stays. */
void syl_output_sweep(const char *folder, const char *name);
/* Open, write, commit. */
SYL_NODISCARD syl_status syl_file_write(const char *path, const void *data, size_t size, syl_diag *diag);

bool syl_file_same(const char *a, const char *b); /* both exist and are one inode */
/* "dir/name" relative to the folder of `base` (a file path), unless `path` is absolute. */
char *syl_path_beside(syl_arena *arena, const char *base, const char *path);

#endif
