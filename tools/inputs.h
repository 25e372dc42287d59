/* What verbs run models on: token ids and tensors, as command lines give them. */
#ifndef SYL_TOOLS_INPUTS_H
#define SYL_TOOLS_INPUTS_H

#include "base/npy.h"
#include "tools/tool.h"

/* "1,2,3" of --ids; *out is malloc'd, also where it fails. */
SYL_NODISCARD syl_status inputs_ids(tool *t, const char *text, int32_t **out, size_t *out_n);

/* An argument or result of the program. */
syl_value_info inputs_value(const syl_program *p, syl_direction direction, int i);
/* "tensor<Tx8xf32>" */
const char *inputs_type_text(tool *t, const syl_value_info *info);
/* How many rows "256" or "B=1,T=256" of --random means for a symbol; 0: it says nothing of it. */
SYL_NODISCARD syl_status inputs_rows(tool *t, const syl_program *p, const char *text, const char *symbol,
                                     int64_t *out);
/* Finds the tensor that "NAME=@PATH" is about. */
SYL_NODISCARD syl_status inputs_find(tool *t, const syl_program *p, const char *option, const char *text,
                                     syl_direction direction, int *out, const char **path);
/* Opens the files of --input; files[i] is that of argument i. Those it opened are the caller's, also where it fails. */
SYL_NODISCARD syl_status inputs_open(tool *t, const opt_list *list, const syl_program *p, syl_npy *files);
syl_tensor inputs_tensor(const char *name, const syl_npy *npy);

#endif
