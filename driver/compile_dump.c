/* Stages of a compile as files (compile_dump.h). */
#include "driver/compile_dump.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "codegen/host/host.h"
#include "frontend/frontend.h"

static void write_stage(compile_dump *dump, const char *stage, const syl_text *text) {
    if (dump->status != SYL_OK) return;
    syl_arena arena;
    syl_arena_init(&arena);
    const char *path = syl_arena_printf(&arena, "%s/%02d.%s", dump->folder, dump->next++, stage);
    dump->status = syl_file_write(path, text->p ? text->p : "", text->n, dump->diag);
    syl_arena_free(&arena);
}

static void write_module(compile_dump *dump, const char *stage, const syl_module *module) {
    syl_arena arena;
    syl_arena_init(&arena);
    syl_text text = {.arena = &arena};
    syl_module_print(module, &text);
    write_stage(dump, syl_arena_printf(&arena, "%s.sir", stage), &text);
    syl_arena_free(&arena);
}

/* A checkpoint is a folder or a binary file; a graph is JSON text. */
static bool is_graph(const char *path) {
    struct stat info;
    int first = 0;
    FILE *file = stat(path, &info) == 0 && S_ISREG(info.st_mode) ? fopen(path, "rb") : NULL;
    if (!file) return false;
    while ((first = getc(file)) == ' ' || first == '\n' || first == '\r' || first == '\t') continue;
    fclose(file);
    return first == '{';
}

void dump_begin(compile_dump *dump, const char *in, const syl_module *module) {
    if (!dump->folder) return;
    if (mkdir(dump->folder, 0777) != 0 && errno != EEXIST) {
        dump->status = syl_error(dump->diag, SYL_ERR_file_write, SYL_NOWHERE,
                                 "cannot make the folder \"%s\": %s", dump->folder, strerror(errno));
        return;
    }
    if (in && !is_graph(in)) {
        syl_arena arena;
        syl_arena_init(&arena);
        syl_text json = {.arena = &arena};
        const char *path = syl_arena_printf(&arena, "%s/00.import.json", dump->folder);
        dump->status = syl_import_checkpoint(in, path, dump->diag, &json);
        write_stage(dump, "import.json", &json);
        syl_arena_free(&arena);
    }
    dump->next = 1;
    write_module(dump, "import", module);
}

static void after_pass(void *user, int index, const char *pass, const syl_module *module,
                       const syl_pass_stat *stats, size_t n_stats, double seconds) {
    compile_dump *dump = user;
    write_module(dump, pass, module);
    if (dump->passes->after)
        dump->passes->after(dump->passes->user, index, pass, module, stats, n_stats, seconds);
}

syl_pass_options dump_passes(compile_dump *dump) {
    syl_pass_options options = *dump->passes;
    if (!dump->folder) return options;
    options.after = after_pass;
    options.user = dump;
    return options;
}

static syl_status write_plan(compile_dump *dump, const syl_module *module, syl_arena *arena) {
    syl_host_target *target = SYL_NEW(arena, syl_host_target);
    syl_plan *plan;
    SYL_TRY(syl_host_target_find(dump->cpu ? dump->cpu : "host", dump->diag, target));
    SYL_TRY(syl_plan_create(module, target, dump->diag, &plan));
    syl_text steps = {.arena = arena}, kernels = {.arena = arena};
    syl_plan_print(plan, &steps);
    for (size_t i = 0; i < plan->kernels.n; i++) {
        syl_text_printf(&kernels, "// k%zu: %s\n", i, plan->kernels.p[i]->name);
        kir_print(plan->kernels.p[i], &kernels);
        syl_text_printf(&kernels, "\n");
    }
    syl_plan_destroy(plan);
    write_stage(dump, "plan.txt", &steps);
    write_stage(dump, "kernels.txt", &kernels);
    return SYL_OK;
}

syl_status dump_end(compile_dump *dump, const syl_module *module) {
    if (!dump->folder || dump->status != SYL_OK) return dump->status;
    syl_arena arena;
    syl_arena_init(&arena);
    write_module(dump, "materialized", module);
    syl_status status = write_plan(dump, module, &arena);
    syl_arena_free(&arena);
    return status == SYL_OK ? dump->status : status;
}
