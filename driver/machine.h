/* What this machine has left: memory and disk. */
#ifndef SYL_DRIVER_MACHINE_H
#define SYL_DRIVER_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

/* Bytes of memory this process may still use: what the kernel calls available, within the limit of its control
 * group; 1 GiB where neither is known. */
int64_t syl_machine_memory(void);

/* Bytes of memory this process has now, 0 where that is not known. */
int64_t syl_machine_resident(void);

/* Bytes free for this user on the file system of `path` (a file that need not exist, or a folder), and the
 * number of that file system; false where it cannot be found out. */
bool syl_machine_disk(const char *path, int64_t *free_bytes, uint64_t *file_system);

#endif
