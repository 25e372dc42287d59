/* Writers of graph JSON, one an architecture; inside the frontend. */
#ifndef SYL_FRONTEND_IMPORT_H
#define SYL_FRONTEND_IMPORT_H

#include "frontend/gguf.h"

/* The graph of a Llama checkpoint. `file_name` is how the graph names the file. */
SYL_NODISCARD syl_status syl_import_llama(const syl_gguf *file, const char *file_name, syl_diag *diag,
                                          syl_text *out);

#endif
