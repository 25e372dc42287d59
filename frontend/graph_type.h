/* Types as text, for graph JSON. */
#ifndef SYL_FRONTEND_GRAPH_TYPE_H
#define SYL_FRONTEND_GRAPH_TYPE_H

#include "ir/ir.h"

/* "tensor<TxKxf32>" or "kv<30x3x64xf32>", as the IR prints them; symbols are interned in `module`. Reports at
 * `loc`. */
SYL_NODISCARD syl_status syl_graph_type(const char *text, syl_module *module, syl_loc loc, syl_diag *diag,
                                        syl_type *out);
/* [A-Za-z_][A-Za-z0-9_.]*, as the IR names values. */
bool syl_graph_name_valid(const char *name);

#endif
