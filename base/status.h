/* Status codes: how failure travels up the stack. What failed and where goes to the diagnostics (diag.h). */
#ifndef SYL_BASE_STATUS_H
#define SYL_BASE_STATUS_H

#include "include/syl/status.h"

#if defined(__GNUC__)
#define SYL_NODISCARD         __attribute__((warn_unused_result))
#define SYL_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define SYL_NODISCARD
#define SYL_PRINTF(fmt, args)
#endif

/* Returns the status of `expr` from the calling function unless it is SYL_OK. */
#define SYL_TRY(expr)                                                                                        \
    do {                                                                                                     \
        syl_status syl_try_status = (expr);                                                                  \
        if (syl_try_status != SYL_OK) return syl_try_status;                                                 \
    } while (0)

/* The identifier ("INPUT") and the meaning of a status; never NULL. */
const char *syl_status_name(syl_status status);
const char *syl_status_meaning(syl_status status);

#endif
