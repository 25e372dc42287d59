/* The thread pool of the command, for verbs that work inside the library and not through its public API. */
#ifndef SYL_TOOLS_POOL_H
#define SYL_TOOLS_POOL_H

#include "base/threads.h"
#include "tools/tool.h"

/* By --threads; the command's. */
SYL_NODISCARD syl_status tool_pool(tool *t, syl_pool **out);

#endif
