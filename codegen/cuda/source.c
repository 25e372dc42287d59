/* The source of a kernel: the comment of what it computes, the templates it stands on, and what its family prints.
 *
 * Templates are embedded as they stand in templates/. One may name others by #include "<name>.cuh"; here each appears once, behind those it
 * names. */
#include <string.h>
#include "base/size.h"
#include "codegen/cuda/emit.h"

/* .incbin looks along the include path, which holds the root of the sources. */
#define TEMPLATE(ident)                                                                                      \
    __asm__(".pushsection .rodata\n"                                                                         \
            ".globl syl_cuda_template_" #ident "\n"                                                          \
            ".hidden syl_cuda_template_" #ident "\n"                                                         \
            "syl_cuda_template_" #ident ":\n"                                                                \
            ".incbin \"codegen/cuda/templates/" #ident ".cuh\"\n"                                            \
            ".byte 0\n"                                                                                      \
            ".popsection\n");                                                                                \
    extern const char syl_cuda_template_##ident[];
#include "codegen/cuda/templates.def"

static const struct {
    const char *name, *text;
} embedded[] = {
#define TEMPLATE(ident) {#ident ".cuh", syl_cuda_template_##ident},
#include "codegen/cuda/templates.def"
};

static cu_emit *const emitters[SYL_CUDA_FAMILY_COUNT] = {
#define KERNEL(ident, ...) cu_emit_##ident,
#include "codegen/cuda/kernels.def"
};

static const char *find_template(const char *name, size_t size) {
    for (size_t i = 0; i < sizeof embedded / sizeof embedded[0]; i++)
        if (strlen(embedded[i].name) == size && !memcmp(embedded[i].name, name, size))
            return embedded[i].text;
    return NULL;
}

/* A line that names another template: the name's place and size. */
static const char *included(const char *line, size_t *size) {
    static const char word[] = "#include \"";
    if (strncmp(line, word, sizeof word - 1) != 0) return NULL;
    line += sizeof word - 1;
    *size = strcspn(line, "\"\n");
    return line;
}

static void append_template(cu_source *s, const char *name, size_t size) {
    const char *text = find_template(name, size);
    const char *mark = syl_arena_printf(s->arena, "/* ---- %.*s ---- */\n", (int)size, name);
    if (s->out->p && strstr(s->out->p, mark)) return;
    if (!text) { /* the printed code cannot compile, and says why */
        syl_text_printf(s->out, "#error \"no template %.*s\"\n", (int)size, name);
        return;
    }
    for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n') {
        size_t n;
        const char *other = included(line, &n);
        if (other) append_template(s, other, n);
    }
    syl_text_printf(s->out, "%s", mark);
    for (const char *line = text; *line;) {
        size_t n, length = strcspn(line, "\n");
        if (line[length]) length++;
        if (!included(line, &n)) syl_text_append(s->out, line, length);
        line += length;
    }
}

void cu_template(cu_source *s, const char *name) {
    append_template(s, name, strlen(name));
}

/* ---- the source ---- */

/* The kernel IR as a comment; constant tables are long and stand in the code below. */
void cu_print_comment(cu_source *s) {
    syl_text kir = {.arena = s->arena}, variant = {.arena = s->arena};
    kir_print(s->kernel, &kir);
    syl_cuda_variant_print(s->variant, &variant);
    syl_text_printf(s->out, "// %s for %s\n//\n", variant.p, s->target->name);
    for (const char *line = kir.p; *line;) {
        int length = (int)strcspn(line, "\n");
        syl_text_printf(s->out, length > 200 ? "// %.*s ...\n" : "// %.*s\n", length > 200 ? 200 : length,
                        line);
        line += length;
        line += *line == '\n';
    }
}

/* "syl_rms_norm_quantize": readable in profilers. */
void cu_name_entry(const char *name, syl_cuda_launch *launch) {
    size_t n = 0;
    for (const char *p = "syl_"; *p; p++) launch->entry[n++] = *p;
    for (const char *p = name; *p && n < sizeof launch->entry - 1; p++) {
        bool plain = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9');
        launch->entry[n++] = *p == '_' || plain ? *p : '_';
    }
    launch->entry[n] = 0;
}

syl_status syl_cuda_source(const kir_kernel *kernel, const syl_cuda_target *target,
                           const syl_cuda_variant *variant, syl_diag *diag, syl_text *out,
                           syl_cuda_launch *launch) {
    *launch = (syl_cuda_launch){.threads = 128,
                                .cluster = 1,
                                .blocks_y = 1,
                                .blocks_z = 1,
                                .rows_per_block = 1,
                                .dependent = target->arch >= 90};
    cu_name_entry(kernel->name, launch);
    cu_source s = {kernel, target, variant, out->arena, diag, out, launch, NULL};
    cu_print_comment(&s);
    cu_template(&s, "base.cuh");
    return emitters[variant->family](&s);
}

/* ---- launching ---- */

syl_cuda_grid syl_cuda_grid_of(const syl_cuda_launch *launch, int64_t rows, int64_t positions) {
    syl_cuda_grid grid = {launch->blocks_x, launch->blocks_y, launch->blocks_z};
    if (launch->rows_per_block) grid.x = syl_ceil_div(rows, launch->rows_per_block);
    if (launch->positions_per_block)
        grid.z = positions > 0 ? syl_ceil_div(positions, launch->positions_per_block) : 1;
    if (launch->cluster_z > 1) grid.z = syl_ceil_div(grid.z, launch->cluster_z) * launch->cluster_z;
    return grid;
}

int64_t syl_cuda_workspace_of(const syl_cuda_launch *launch, int64_t rows, int64_t positions) {
    syl_cuda_grid grid = syl_cuda_grid_of(launch, rows, positions);
    return launch->counters + grid.x * grid.y * grid.z * launch->workspace_block;
}
