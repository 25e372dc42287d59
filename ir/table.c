/* The tables made from types.def and ops.def, and look-ups in them. */
#include <string.h>
#include "ir/ir.h"

const syl_dtype_info syl_dtypes[SYL_DTYPE_COUNT] = {
#define TYPE(ident, name, class, bits, granularity, group, two_level, doc)                                   \
    {name,                                                                                                   \
     doc,                                                                                                    \
     SYL_CLASS_##class,                                                                                      \
     bits,                                                                                                   \
     SYL_GRANULARITY_##granularity,                                                                          \
     group,                                                                                                  \
     two_level,                                                                                              \
     SYL_GRANULARITY_##granularity == SYL_GRANULARITY_TOKEN ||                                               \
         SYL_GRANULARITY_##granularity == SYL_GRANULARITY_CHANNEL},
#include "ir/types.def"
};

enum {
    PURE = SYL_TRAIT_PURE,
    ELEMENTWISE = SYL_TRAIT_ELEMENTWISE,
    ROWWISE = SYL_TRAIT_ROWWISE,
    WEIGHT = SYL_TRAIT_WEIGHT,
    FLOAT = SYL_TRAIT_FLOAT,
    STATE = SYL_TRAIT_STATE,
    TERMINATOR = SYL_TRAIT_TERMINATOR,
    REGION = SYL_TRAIT_REGION,
};

const syl_op_info syl_ops[SYL_OP_COUNT] = {
#define OP(ident, name, min, max, results, attrs, traits, doc) {name, attrs, doc, min, max, results, traits},
#include "ir/ops.def"
};

syl_opcode syl_opcode_of(const char *name) {
    for (int i = 0; i < SYL_OP_COUNT; i++)
        if (strcmp(syl_ops[i].name, name) == 0) return (syl_opcode)i;
    return SYL_OP_COUNT;
}

syl_dtype syl_dtype_of(const char *name) {
    for (int i = 0; i < SYL_DTYPE_COUNT; i++)
        if (strcmp(syl_dtypes[i].name, name) == 0) return (syl_dtype)i;
    return SYL_DTYPE_COUNT;
}

bool syl_op_attr_spec(syl_opcode code, const char *name, syl_attr_kind *kind, bool *optional,
                      const char **choices) {
    static const struct {
        const char *name;
        syl_attr_kind kind;
    } kinds[] = {{"ints", SYL_ATTR_INTS}, {"int", SYL_ATTR_INT}, {"float", SYL_ATTR_FLOAT},
                 {"bool", SYL_ATTR_BOOL}, {"str", SYL_ATTR_STR}, {"enum(", SYL_ATTR_ENUM}};
    size_t length = strlen(name);
    for (const char *p = syl_ops[code].attrs; *p;) {
        const char *end = p + strcspn(p, " ");
        if (strncmp(p, name, length) == 0 && p[length] == ':') {
            const char *spec = p + length + 1;
            for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
                size_t n = strlen(kinds[i].name);
                if (strncmp(spec, kinds[i].name, n) != 0) continue;
                *kind = kinds[i].kind;
                *optional = end[-1] == '?';
                if (choices) *choices = spec + n;
                return true;
            }
            return false;
        }
        p = end + strspn(end, " ");
    }
    return false;
}
