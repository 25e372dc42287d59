/* The thread pool of the command (pool.h). */
#include "tools/pool.h"

syl_status tool_pool(tool *t, syl_pool **out) {
    if (!t->pool) t->pool = syl_pool_create((int)t->threads);
    *out = t->pool;
    return t->pool ? SYL_OK
                   : syl_error(t->diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "cannot start %lld threads",
                               (long long)t->threads);
}
