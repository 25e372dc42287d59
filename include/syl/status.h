/* The status codes of Sylvester, made from status.def. Part of syl.h; include that. */
#ifndef SYL_STATUS_H
#define SYL_STATUS_H

/* SYL_OK, SYL_USAGE, SYL_INPUT, ... */
typedef enum syl_status {
#define STATUS(name, code, meaning) SYL_##name = (code),
#include "status.def"
} syl_status;

#endif
