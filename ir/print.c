/* Prints modules as text. The text is a function of the graph alone, and what the parser makes of it prints
 * the same: print(parse(print(m))) == print(m). docs/ir.md is the specification. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/map.h"
#include "ir/ir.h"

typedef struct printer {
    syl_text *out;
    syl_arena scratch;
    syl_map names; /* syl_value * -> printed name, without '%' */
    syl_map taken; /* printed name -> the last suffix tried behind it, plus one */
    int64_t next;  /* number of the next unnamed value */
} printer;

/* ---- names ---- */

static void name_value(printer *p, const syl_value *value) {
    const char *name;
    if (!value->name) {
        name = syl_arena_printf(&p->scratch, "%lld", (long long)p->next++);
    } else {
        name = value->name;
        for (;;) {
            int is_new;
            void **slot = syl_map_slot(&p->taken, name, strlen(name), &is_new);
            if (is_new) {
                *slot = (void *)1;
                break;
            }
            slot = syl_map_slot(&p->taken, value->name, strlen(value->name), NULL);
            uintptr_t suffix = (uintptr_t)*slot;
            *slot = (void *)(suffix + 1);
            name = syl_arena_printf(&p->scratch, "%s_%llu", value->name, (unsigned long long)suffix);
        }
    }
    *syl_map_slot(&p->names, &value, sizeof value, NULL) = (void *)name;
}

/* Results come before the ops of the body, as in the text. */
static void name_block(printer *p, const syl_block *block) {
    for (const syl_op *op = block->first; op; op = op->next) {
        for (int i = 0; i < op->n_results; i++) name_value(p, &op->results[i]);
        if (op->body) name_block(p, op->body);
    }
}

static void print_value(printer *p, const syl_value *value) {
    const char *name = syl_map_get(&p->names, &value, sizeof value);
    syl_text_printf(p->out, "%%%s", name ? name : "<not in this function>");
}

/* ---- attributes ---- */

static void print_string(const char *s, syl_text *out) {
    syl_text_append(out, "\"", 1);
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\')
            syl_text_printf(out, "\\%c", c);
        else if (c == '\n')
            syl_text_append(out, "\\n", 2);
        else if (c == '\t')
            syl_text_append(out, "\\t", 2);
        else if (c < 0x20 || c >= 0x7f)
            syl_text_printf(out, "\\x%02X", c);
        else
            syl_text_append(out, s, 1);
    }
    syl_text_append(out, "\"", 1);
}

/* The shortest digits that read back as the same double; whole numbers below 1e15 without an exponent. */
static void print_float(double value, syl_text *out) {
    char text[40];
    if (fabs(value) < 1e15 && trunc(value) == value) {
        syl_text_printf(out, "%.1f", value);
        return;
    }
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    bool marked = !isfinite(value) || strpbrk(text, ".e");
    syl_text_printf(out, "%s%s", text, marked ? "" : ".0");
}

static void print_attr(const syl_attr *attr, syl_text *out) {
    switch (attr->kind) {
    case SYL_ATTR_INT:
        syl_text_printf(out, "%lld", (long long)attr->i);
        break;
    case SYL_ATTR_FLOAT:
        print_float(attr->f, out);
        break;
    case SYL_ATTR_BOOL:
        syl_text_printf(out, "%s", attr->b ? "true" : "false");
        break;
    case SYL_ATTR_STR:
        print_string(attr->s, out);
        break;
    case SYL_ATTR_ENUM:
        syl_text_printf(out, "%s", attr->s);
        break;
    case SYL_ATTR_INTS:
        syl_text_append(out, "[", 1);
        for (int i = 0; i < attr->ints.n; i++)
            syl_text_printf(out, "%s%lld", i ? ", " : "", (long long)attr->ints.p[i]);
        syl_text_append(out, "]", 1);
        break;
    }
}

/* ---- ops ---- */

static void print_block(printer *p, const syl_block *block, int indent);

static void print_op(printer *p, const syl_op *op, int indent) {
    syl_text *out = p->out;
    syl_text_printf(out, "%*s", indent, "");
    for (int i = 0; i < op->n_results; i++) {
        if (i) syl_text_append(out, ", ", 2);
        print_value(p, &op->results[i]);
    }
    syl_text_printf(out, "%s%s", op->n_results ? " = " : "", syl_ops[op->code].name);
    const syl_attr *name = syl_attr_get(op, "name");
    if (name && name->kind != SYL_ATTR_STR) name = NULL;
    if (name) {
        syl_text_append(out, " ", 1);
        print_string(name->s, out);
    }
    for (int i = 0; i < op->n_operands; i++) {
        syl_text_printf(out, i ? ", " : " ");
        print_value(p, syl_operand(op, i));
    }
    bool open = false;
    for (size_t i = 0; i < op->attrs.n; i++) {
        const syl_attr *attr = &op->attrs.p[i];
        if (attr == name) continue;
        syl_text_printf(out, "%s%s = ", open ? ", " : " {", attr->name);
        print_attr(attr, out);
        open = true;
    }
    if (open) syl_text_append(out, "}", 1);
    for (int i = 0; i < op->n_results; i++) {
        syl_text_printf(out, i ? ", " : " : ");
        syl_type_print(&op->results[i].type, out);
    }
    if (op->body) {
        syl_text_append(out, " {\n", 3);
        print_block(p, op->body, indent + 2);
        syl_text_printf(out, "%*s}", indent, "");
    }
    syl_text_append(out, "\n", 1);
}

static void print_block(printer *p, const syl_block *block, int indent) {
    for (const syl_op *op = block->first; op; op = op->next) print_op(p, op, indent);
}

/* ---- functions and modules ---- */

static void print_func(const syl_func *func, syl_text *out) {
    printer p = {.out = out};
    syl_arena_init(&p.scratch);
    syl_map_init(&p.names, &p.scratch);
    syl_map_init(&p.taken, &p.scratch);
    for (int i = 0; i < func->n_args; i++) name_value(&p, &func->args[i]);
    name_block(&p, func->body);

    syl_text_printf(out, "  func @%s(", func->name);
    for (int i = 0; i < func->n_args; i++) {
        if (i) syl_text_append(out, ", ", 2);
        print_value(&p, &func->args[i]);
        syl_text_append(out, ": ", 2);
        syl_type_print(&func->args[i].type, out);
    }
    bool brackets = func->n_results != 1;
    syl_text_printf(out, ") -> %s", brackets ? "(" : "");
    for (int i = 0; i < func->n_results; i++) {
        if (i) syl_text_append(out, ", ", 2);
        syl_type_print(&func->result_types[i], out);
    }
    syl_text_printf(out, "%s {\n", brackets ? ")" : "");
    print_block(&p, func->body, 4);
    syl_text_append(out, "  }\n", 4);
    syl_arena_free(&p.scratch);
}

void syl_module_print(const syl_module *module, syl_text *out) {
    syl_text_printf(out, "module @%s {\n", module->name);
    for (size_t i = 0; i < module->sources.n; i++) {
        syl_text_append(out, "  source ", 9);
        print_string(module->sources.p[i], out);
        syl_text_append(out, "\n", 1);
    }
    for (const syl_func *func = module->funcs; func; func = func->next) print_func(func, out);
    syl_text_append(out, "}\n", 2);
}
