/* From a checkpoint to a graph: finds the reader for what it is, and the way from the graph's folder to the
 * files. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "frontend/frontend.h"
#include "frontend/import.h"
#include "frontend/weights.h"

enum { max_graph = 64 << 20 };

/* `path` as seen from the folder of `graph_path`; absolute if that is NULL or does not exist. */
static char *path_from(syl_arena *arena, const char *graph_path, const char *path) {
    char *target = realpath(path, NULL), *folder = NULL, *result;
    if (target && graph_path) {
        const char *slash = strrchr(graph_path, '/');
        char *name = slash ? syl_arena_strndup(arena, graph_path, (size_t)(slash - graph_path) + 1)
                           : syl_arena_strdup(arena, ".");
        folder = realpath(name, NULL);
    }
    if (target && folder) {
        /* Drop the common folders; go up once for each of those left of `folder`. */
        const char *a = folder[1] ? folder : "", *b = target;
        size_t common = 0;
        for (size_t i = 0; a[i] == b[i] || (!a[i] && b[i] == '/'); i++) {
            if (b[i] == '/') common = i;
            if (!a[i]) break;
        }
        syl_text text = {.arena = arena};
        for (const char *p = a + common; *p; p++)
            if (*p == '/') syl_text_printf(&text, "../");
        syl_text_printf(&text, "%s", b + common + 1);
        result = text.p;
    } else {
        result = syl_arena_strdup(arena, target ? target : path);
    }
    free(target);
    free(folder);
    return result;
}

static syl_status import_architecture(syl_weights *weights, const char *file_name, syl_arena *arena,
                                      syl_diag *diag, syl_text *out) {
    static const char key[] = "general.architecture";
    static const char *const known[] = {"llama", "qwen2", "qwen3"};
    const char *architecture;
    SYL_TRY(syl_gguf_string(&weights->gguf, key, true, arena, diag, &architecture));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(architecture, known[i]) == 0)
            return syl_import_llama(weights, architecture, file_name, arena, diag, out);
    return syl_error(diag, SYL_ERR_import_architecture,
                     syl_gguf_loc(&weights->gguf, syl_gguf_value_of(&weights->gguf, key)),
                     "the checkpoint has the architecture \"%s\"", architecture);
}

static syl_status import_gguf(const char *path, const char *file_name, syl_arena *arena, syl_diag *diag,
                              syl_text *out) {
    syl_weights weights = {.is_gguf = true};
    SYL_TRY(syl_gguf_open(path, diag, &weights.gguf));
    syl_status status = import_architecture(&weights, file_name, arena, diag, out);
    syl_gguf_close(&weights.gguf);
    return status;
}

static bool is_directory(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

syl_status syl_import_checkpoint(const char *path, const char *graph_path, syl_diag *diag,
                                 syl_text *out_json) {
    syl_arena scratch;
    syl_arena_init(&scratch);
    syl_status status;
    if (is_directory(path)) {
        /* The way to a file of it, without the file. */
        char *prefix = path_from(&scratch, graph_path, syl_arena_printf(&scratch, "%s/config.json", path));
        char *slash = strrchr(prefix, '/');
        *(slash ? slash + 1 : prefix) = 0;
        status = syl_import_hf(path, prefix, &scratch, diag, out_json);
    } else {
        status = import_gguf(path, path_from(&scratch, graph_path, path), &scratch, diag, out_json);
    }
    syl_arena_free(&scratch);
    return status;
}

static syl_status open_checkpoint(const char *path, syl_arena *scratch, syl_diag *diag, syl_model *out) {
    syl_text json = {.arena = scratch};
    SYL_TRY(syl_import_checkpoint(path, NULL, diag, &json));
    syl_source source = {syl_arena_printf(scratch, "%s (as graph)", path), json.p, json.n};
    return syl_graph_read(&source, diag, out);
}

syl_status syl_model_open(const char *path, syl_diag *diag, syl_model *out) {
    *out = (syl_model){0};
    syl_mapping probe = {0};
    bool checkpoint = is_directory(path), safetensors = false;
    if (!checkpoint) {
        SYL_TRY(syl_file_map(path, diag, &probe));
        checkpoint = syl_gguf_magic(probe.data, probe.size);
        safetensors = !checkpoint && probe.size > 8 && probe.data[8] == '{' && probe.data[7] == 0;
        syl_file_unmap(&probe);
    }
    syl_source source = {path, NULL, 0};
    if (safetensors)
        return syl_error(diag, SYL_ERR_model_file, (syl_loc){&source, 0},
                         "a safetensors file holds weights but no graph");
    syl_arena scratch;
    syl_arena_init(&scratch);
    syl_status status = checkpoint ? open_checkpoint(path, &scratch, diag, out)
                                   : syl_file_read(&scratch, path, max_graph, diag, &source);
    if (status == SYL_OK && !checkpoint) status = syl_graph_read(&source, diag, out);
    syl_arena_free(&scratch);
    return status;
}
