/* Reads cubins and the assembler's log (resources.h). A cubin is believed as little as any file: every offset is checked against its size.
 *
 * .nv.info is a row of records: format, attribute, then two bytes of value, or (format 4) a length and as many bytes. Those that matter hold the
 * number of a symbol and a count. */
#include "codegen/cuda/resources.h"
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INFO_SIZED = 4, INFO_FRAME_SIZE = 0x11, INFO_REGISTERS = 0x2f };

typedef struct elf_file {
    const unsigned char *data;
    size_t size;
    Elf64_Ehdr header;
} elf_file;

static bool take(const elf_file *f, uint64_t offset, void *out, size_t n) {
    if (offset > f->size || n > f->size - offset) return false;
    memcpy(out, f->data + offset, n);
    return true;
}

static bool section(const elf_file *f, unsigned index, Elf64_Shdr *out) {
    if (index >= f->header.e_shnum || f->header.e_shoff > f->size) return false;
    if (!take(f, f->header.e_shoff + (uint64_t)index * sizeof *out, out, sizeof *out)) return false;
    return out->sh_type == SHT_NOBITS ||
           (out->sh_offset <= f->size && out->sh_size <= f->size - out->sh_offset);
}

/* A NUL-terminated text of a section of texts; NULL where it does not end inside. */
static const char *text_of(const elf_file *f, const Elf64_Shdr *texts, uint64_t offset) {
    if (texts->sh_type != SHT_STRTAB || offset >= texts->sh_size) return NULL;
    const char *text = (const char *)f->data + texts->sh_offset + offset;
    return memchr(text, 0, (size_t)(texts->sh_size - offset)) ? text : NULL;
}

static bool find_section(const elf_file *f, const char *name, Elf64_Shdr *out) {
    Elf64_Shdr names;
    if (!section(f, f->header.e_shstrndx, &names)) return false;
    for (unsigned i = 0; i < f->header.e_shnum; i++) {
        const char *found = section(f, i, out) ? text_of(f, &names, out->sh_name) : NULL;
        if (found && strcmp(found, name) == 0) return true;
    }
    return false;
}

/* The number of a function's symbol, 0 where there is none. */
static uint32_t find_symbol(const elf_file *f, const char *name) {
    Elf64_Shdr symbols, names;
    if (!find_section(f, ".symtab", &symbols) || symbols.sh_type != SHT_SYMTAB ||
        !section(f, symbols.sh_link, &names))
        return 0;
    for (uint64_t i = 1; (i + 1) * sizeof(Elf64_Sym) <= symbols.sh_size && i < UINT32_MAX; i++) {
        Elf64_Sym symbol;
        if (!take(f, symbols.sh_offset + i * sizeof symbol, &symbol, sizeof symbol)) return 0;
        const char *found =
            ELF64_ST_TYPE(symbol.st_info) == STT_FUNC ? text_of(f, &names, symbol.st_name) : NULL;
        if (found && strcmp(found, name) == 0) return (uint32_t)i;
    }
    return 0;
}

static void read_info(const elf_file *f, const Elf64_Shdr *info, uint32_t symbol, syl_cuda_resources *out) {
    struct {
        uint8_t format, attribute;
        uint16_t size;
    } record;
    uint64_t end = info->sh_offset + info->sh_size;
    for (uint64_t at = info->sh_offset; at + 4 <= end && take(f, at, &record, sizeof record);) {
        uint32_t value[2];
        at += 4;
        if (record.format != INFO_SIZED) continue;
        if (record.size == sizeof value && at + record.size <= end && take(f, at, value, sizeof value) &&
            value[0] == symbol) {
            if (record.attribute == INFO_REGISTERS) out->registers = (int)(value[1] & 0xffff);
            if (record.attribute == INFO_FRAME_SIZE) out->stack = value[1];
        }
        at += record.size;
    }
}

static bool read_cubin(const void *cubin, size_t size, const char *entry, syl_cuda_resources *out) {
    elf_file f = {.data = cubin, .size = size};
    Elf64_Shdr info;
    if (!take(&f, 0, &f.header, sizeof f.header) || memcmp(f.header.e_ident, ELFMAG, SELFMAG) ||
        f.header.e_ident[EI_CLASS] != ELFCLASS64 || f.header.e_ident[EI_DATA] != ELFDATA2LSB ||
        f.header.e_machine != EM_CUDA || f.header.e_shentsize != sizeof(Elf64_Shdr))
        return false;
    uint32_t symbol = find_symbol(&f, entry);
    if (!symbol || !find_section(&f, ".nv.info", &info) || info.sh_type == SHT_NOBITS) return false;
    read_info(&f, &info, symbol, out);
    return out->registers > 0;
}

/* The number in front of `unit` in a line, -1 where it isn't there. */
static int64_t number_before(const char *line, size_t n, const char *unit) {
    const char *at = memmem(line, n, unit, strlen(unit));
    if (!at) return -1;
    while (at > line && at[-1] == ' ') at--;
    const char *end = at;
    while (at > line && at[-1] >= '0' && at[-1] <= '9') at--;
    return at == end ? -1 : strtoll(at, NULL, 10);
}

/* One kernel a source, so what the log says is of that kernel and the functions it calls:
 *     256 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
 *     Used 32 registers, used 1 barriers, 400 bytes smem */
static void read_log(const char *log, syl_cuda_resources *out) {
    out->serialized = strstr(log, "wgmma.mma_async instructions are serialized") != NULL;
    for (; *log; log += strcspn(log, "\n"), log += *log == '\n') {
        size_t n = strcspn(log, "\n");
        int64_t stores = number_before(log, n, "bytes spill stores"),
                loads = number_before(log, n, "bytes spill loads");
        if (stores >= 0) out->spill_stores = stores + (out->spill_stores < 0 ? 0 : out->spill_stores);
        if (loads >= 0) out->spill_loads = loads + (out->spill_loads < 0 ? 0 : out->spill_loads);
        if (number_before(log, n, "registers") < 0) continue;
        int64_t shared = number_before(log, n, "bytes smem");
        out->shared = shared < 0 ? 0 : shared; /* a kernel without has no such words */
    }
}

syl_status syl_cuda_resources_read(const void *cubin, size_t size, const char *entry, const char *log,
                                   const char *name, syl_diag *diag, syl_cuda_resources *out) {
    *out = (syl_cuda_resources){.spill_stores = -1, .spill_loads = -1, .shared = -1};
    if (!read_cubin(cubin, size, entry, out))
        return syl_error(diag, SYL_ERR_codegen_cuda, SYL_NOWHERE,
                         "kernel '%s': the compiled code is no cubin with a function '%s'", name, entry);
    if (log) read_log(log, out);
    return SYL_OK;
}
