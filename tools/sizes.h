/* Sizes in bytes as people write them. */
#ifndef SYL_TOOLS_SIZES_H
#define SYL_TOOLS_SIZES_H

#include <stdint.h>

#include "base/diag.h"

/* "4G", "512M", "64K", "1000": powers of 1024, at most 2^60. `option` names the option in the error (cli-value). */
SYL_NODISCARD syl_status size_parse(const char *option, const char *text, syl_diag *diag, int64_t *out);

/* "12.3 MB", in powers of 1000. The text is in the arena. */
const char *size_text(syl_arena *arena, int64_t bytes);

#endif
