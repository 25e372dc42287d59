/* Sizes (sizes.h). */
#include "tools/sizes.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

syl_status size_parse(const char *option, const char *text, syl_diag *diag, int64_t *out) {
    static const char units[] = "KMGT";
    char *end;
    errno = 0;
    double value = strtod(text, &end), scale = 1;
    const char *unit = *end ? strchr(units, *end >= 'a' ? *end - ('a' - 'A') : *end) : NULL;
    if (unit) {
        scale = ldexp(1, 10 * (int)(unit - units + 1));
        end++;
    }
    if (end == text || *end || errno || !(value >= 0) || value * scale > 0x1p60) {
        return syl_error(diag, SYL_ERR_cli_value, SYL_NOWHERE,
                         "--%s must be a size such as 512M or 4G, found \"%s\"", option, text);
    }
    *out = (int64_t)(value * scale);
    return SYL_OK;
}

const char *size_text(syl_arena *arena, int64_t bytes) {
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    double value = (double)bytes;
    int unit = 0;
    while (value >= 999.95 && unit < 4) {
        value /= 1000;
        unit++;
    }
    return syl_arena_printf(arena, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
}
