/* Families of CUDA kernels and their variants: reading the rows of kernels.def, and choosing among the variants that fit a kernel.
 *
 * Invariant: a variant that syl_cuda_variants or syl_cuda_variant_parse returns gives each parameter one of its legal values, and 0 behind
 * the last. */
#include <stdlib.h>
#include <string.h>
#include "codegen/cuda/emit.h"

enum {
    SM75 = 1 << 0,
    SM80 = 1 << 1,
    SM86 = 1 << 2,
    SM89 = 1 << 3,
    SM90 = 1 << 4,
    SM100 = 1 << 5,
    SM120 = 1 << 6,
};

const syl_cuda_family_info syl_cuda_families[SYL_CUDA_FAMILY_COUNT] = {
#define KERNEL(ident, name, archs, params, registers, spills, doc)                                           \
    {name, doc, archs, params, registers, spills},
#include "codegen/cuda/kernels.def"
};

static const struct {
    cu_fits *fits;
    cu_cost *cost;
} functions[SYL_CUDA_FAMILY_COUNT] = {
#define KERNEL(ident, ...) {cu_fits_##ident, cu_cost_##ident},
#include "codegen/cuda/kernels.def"
};

/* ---- architectures ---- */

const struct syl_cuda_arch syl_cuda_archs[SYL_CUDA_ARCHS] = {
    {75, "sm_75", 64 << 10},   {80, "sm_80", 163 << 10},  {86, "sm_86", 99 << 10},
    {89, "sm_89", 99 << 10},   {90, "sm_90a", 227 << 10}, {100, "sm_100a", 227 << 10},
    {120, "sm_120a", 99 << 10}};

static void fill_target(const struct syl_cuda_arch *arch, int sms, int64_t l2, syl_cuda_target *out) {
    *out = (syl_cuda_target){.arch = arch->arch, .sms = sms, .shared = arch->shared, .l2 = l2};
    memcpy(out->name, arch->name, strlen(arch->name) + 1);
}

bool syl_cuda_target_named(const char *name, syl_cuda_target *out) {
    for (int i = 0; i < SYL_CUDA_ARCHS; i++)
        if (strcmp(syl_cuda_archs[i].name, name) == 0) {
            fill_target(&syl_cuda_archs[i], 132, 50 << 20, out);
            return true;
        }
    return false;
}

bool syl_cuda_target_for(int capability, int sms, int64_t l2, syl_cuda_target *out) {
    const struct syl_cuda_arch *best = NULL;
    for (int i = 0; i < SYL_CUDA_ARCHS; i++)
        if (syl_cuda_archs[i].arch <= capability) best = &syl_cuda_archs[i];
    if (!best) return false;
    fill_target(best, sms, l2, out);
    return true;
}

static bool claims(syl_cuda_family family, int arch) {
    for (int i = 0; i < SYL_CUDA_ARCHS; i++)
        if (syl_cuda_archs[i].arch == arch) return syl_cuda_families[family].archs >> i & 1;
    return false;
}

/* ---- parameters ---- */

bool syl_cuda_parameter_of(syl_cuda_family family, int index, syl_cuda_parameter *out) {
    const char *p = syl_cuda_families[family].params;
    for (; index > 0 && *p; index--) {
        p += strcspn(p, " ");
        p += strspn(p, " ");
    }
    if (!*p) return false;
    *out = (syl_cuda_parameter){.name = p, .name_size = (int)strcspn(p, "=")};
    p += out->name_size;
    while ((*p == '=' || *p == '|') && out->n < SYL_CUDA_CHOICES) {
        char *end;
        out->choices[out->n++] = (int)strtol(p + 1, &end, 10);
        p = end;
    }
    return true;
}

static bool is_legal(const syl_cuda_parameter *parameter, int value) {
    for (int i = 0; i < parameter->n; i++)
        if (parameter->choices[i] == value) return true;
    return false;
}

/* Called for each variant that is weighed, many thousand times a load: choices are not read. */
int cu_param(const syl_cuda_variant *variant, const char *name) {
    size_t size = strlen(name);
    const char *p = syl_cuda_families[variant->family].params;
    for (int i = 0; *p; i++) {
        if (strncmp(p, name, size) == 0 && p[size] == '=') return variant->values[i];
        p += strcspn(p, " ");
        p += strspn(p, " ");
    }
    return 0;
}

void syl_cuda_variant_print(const syl_cuda_variant *variant, syl_text *out) {
    syl_cuda_parameter parameter;
    syl_text_printf(out, "%s", syl_cuda_families[variant->family].name);
    for (int i = 0; syl_cuda_parameter_of(variant->family, i, &parameter); i++)
        syl_text_printf(out, " %.*s=%d", parameter.name_size, parameter.name, variant->values[i]);
}

bool syl_cuda_variant_parse(const char *text, syl_cuda_variant *out) {
    syl_cuda_variant variant = {.family = SYL_CUDA_FAMILY_COUNT};
    size_t size = strcspn(text, " ");
    for (int f = 0; f < SYL_CUDA_FAMILY_COUNT; f++)
        if (strlen(syl_cuda_families[f].name) == size && !memcmp(syl_cuda_families[f].name, text, size))
            variant.family = (syl_cuda_family)f;
    if (variant.family == SYL_CUDA_FAMILY_COUNT) return false;
    text += size;
    syl_cuda_parameter parameter;
    for (int i = 0; syl_cuda_parameter_of(variant.family, i, &parameter); i++) {
        if (*text++ != ' ' || strncmp(text, parameter.name, (size_t)parameter.name_size) != 0) return false;
        text += parameter.name_size;
        if (*text != '=' || text[1] < '0' || text[1] > '9') return false;
        char *end;
        long value = strtol(text + 1, &end, 10);
        if (value > 1 << 20 || !is_legal(&parameter, (int)value)) return false;
        variant.values[i] = (int)value;
        text = end;
    }
    if (*text) return false;
    *out = variant;
    return true;
}

/* ---- choosing ---- */

enum { max_variants = 256 }; /* more than any kernel has */

typedef struct choice {
    syl_cuda_variant variant;
    double cost;
} choice;

typedef struct choices {
    const kir_kernel *kernel;
    const syl_cuda_target *target;
    int64_t rows;
    choice best[max_variants]; /* ascending in cost; equal ones in the order of kernels.def */
    int n, cap;
} choices;

static void add_choice(choices *c, const syl_cuda_variant *variant) {
    double cost = functions[variant->family].cost(c->kernel, c->target, variant, c->rows);
    int at = c->n;
    while (at > 0 && c->best[at - 1].cost > cost) at--;
    if (at >= c->cap) return;
    if (c->n < c->cap) c->n++;
    memmove(&c->best[at + 1], &c->best[at], (size_t)(c->n - 1 - at) * sizeof c->best[0]);
    c->best[at] = (choice){*variant, cost};
}

/* All values of the parameters from `index` on. */
static void try_values(choices *c, syl_cuda_variant *variant, int index) {
    syl_cuda_parameter parameter;
    if (!syl_cuda_parameter_of(variant->family, index, &parameter)) {
        if (functions[variant->family].fits(c->kernel, c->target, variant)) add_choice(c, variant);
        return;
    }
    for (int i = 0; i < parameter.n; i++) {
        variant->values[index] = parameter.choices[i];
        try_values(c, variant, index + 1);
    }
    variant->values[index] = 0;
}

int syl_cuda_variants(const kir_kernel *kernel, const syl_cuda_target *target, int64_t rows,
                      syl_cuda_variant *out, int cap) {
    choices c = {.kernel = kernel, .target = target, .rows = rows};
    c.cap = cap < max_variants ? cap : max_variants;
    for (int f = 0; f < SYL_CUDA_FAMILY_COUNT; f++) {
        syl_cuda_variant variant = {.family = (syl_cuda_family)f};
        if (claims(variant.family, target->arch)) try_values(&c, &variant, 0);
    }
    for (int i = 0; i < c.n; i++) out[i] = c.best[i].variant;
    return c.n;
}

double syl_cuda_cost(const kir_kernel *kernel, const syl_cuda_target *target, const syl_cuda_variant *variant,
                     int64_t rows) {
    return functions[variant->family].cost(kernel, target, variant, rows);
}
