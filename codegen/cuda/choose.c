/* The source of choose.h: the template behind the one it names. */
#include "codegen/cuda/choose.h"

#include <string.h>

#include "codegen/cuda/emit.h"

/* .incbin looks along the include path, which holds the root of the sources. */
__asm__(".pushsection .rodata\n"
        ".globl syl_cuda_choose_template\n"
        ".hidden syl_cuda_choose_template\n"
        "syl_cuda_choose_template:\n"
        ".incbin \"codegen/cuda/templates/choose.cuh\"\n"
        ".byte 0\n"
        ".popsection\n");
extern const char syl_cuda_choose_template[];

const char *syl_cuda_choose_source(syl_arena *arena) {
    static const char include[] = "#include \"base.cuh\"\n";
    const char *at = strstr(syl_cuda_choose_template, include);
    syl_text out = {.arena = arena};
    cu_source s = {.arena = arena, .out = &out};
    cu_template(&s, "base.cuh");
    if (at) {
        syl_text_append(&out, syl_cuda_choose_template, (size_t)(at - syl_cuda_choose_template));
        syl_text_printf(&out, "%s", at + sizeof include - 1);
    }
    return out.p;
}
