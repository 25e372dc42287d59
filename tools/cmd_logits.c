/* syl logits: the logits of given tokens, as a NumPy file. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "tools/inputs.h"

typedef struct settings {
    const char *ids, *text, *output;
} settings;

static const opt_spec options[] = {
    OPT_ROW_TEXT(settings, ids, "ids", 0, "1,2,3", "token ids, separated by commas"),
    OPT_ROW_TEXT(settings, text, "text", 't', "TEXT", "or a text, tokenized without special tokens"),
    OPT_ROW_TEXT(settings, output, "output", 'o', "OUT.npy", "where to write them"),
    {0},
};

enum { CHUNK = 128, NPY_HEADER = 128 };

/* The header of NumPy's format 1.0: magic, version, length, a Python dictionary padded with spaces to a
 * multiple of 64. */
static void npy_header(char header[NPY_HEADER], int64_t rows, int64_t cols) {
    memset(header, ' ', NPY_HEADER);
    memcpy(header, "\x93NUMPY\x01\x00", 8);
    header[8] = NPY_HEADER - 10;
    header[9] = 0;
    char dictionary[NPY_HEADER];
    int n = snprintf(dictionary, sizeof dictionary,
                     "{'descr': '<f4', 'fortran_order': False, 'shape': (%lld, %lld), }", (long long)rows,
                     (long long)cols);
    memcpy(header + 10, dictionary, (size_t)n);
    header[NPY_HEADER - 1] = '\n';
}

static syl_status write_rows(syl_session *session, int64_t vocabulary, const int32_t *ids, size_t n,
                             syl_output *file) {
    char header[NPY_HEADER];
    int32_t rows[CHUNK];
    for (int i = 0; i < CHUNK; i++) rows[i] = i;
    npy_header(header, (int64_t)n, vocabulary);
    SYL_TRY(syl_output_write(file, header, sizeof header));
    for (size_t begin = 0; begin < n; begin += CHUNK) {
        size_t count = n - begin < CHUNK ? n - begin : CHUNK;
        syl_tokens tokens = {
            .size = sizeof tokens, .ids = ids + begin, .n = count, .rows = rows, .n_rows = count};
        SYL_TRY(syl_session_run(session, &tokens));
        for (size_t r = 0; r < count; r++) {
            SYL_TRY(
                syl_output_write(file, syl_session_logits(session, r), (size_t)vocabulary * sizeof(float)));
        }
    }
    return SYL_OK;
}

static syl_status write_file(tool *t, const settings *s, const syl_program *program, syl_session *session,
                             const int32_t *ids, size_t n) {
    syl_program_info info = {.size = sizeof info};
    syl_output *file;
    SYL_TRY(syl_program_describe(program, &info));
    SYL_TRY(syl_output_open(s->output, t->diag, &file));
    syl_status status = write_rows(session, info.vocabulary, ids, n, file);
    if (status != SYL_OK) {
        syl_output_discard(file);
        return status;
    }
    SYL_TRY(syl_output_commit(file));
    tool_say(t, "wrote %s: %zu x %lld", s->output, n, (long long)info.vocabulary);
    return SYL_OK;
}

static syl_status write_logits(tool *t, const settings *s, const syl_program *program, syl_session *session) {
    int32_t *ids = NULL;
    size_t n = 0;
    syl_status status = s->ids
                            ? inputs_ids(t, s->ids, &ids, &n)
                            : syl_session_encode(session, s->text, strlen(s->text), SYL_TEXT_PLAIN, &ids, &n);
    if (status == SYL_OK) status = write_file(t, s, program, session, ids, n);
    syl_free(ids);
    return status;
}

static syl_status run(tool *t, void *user, const char **args, int n_args) {
    (void)n_args;
    const settings *s = user;
    syl_program *program;
    syl_session *session;
    if (!s->ids == !s->text)
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE,
                         "syl logits needs tokens: --ids 1,2,3 or --text TEXT");
    if (!s->output)
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE, "syl logits needs -o OUT.npy");
    SYL_TRY(tool_open_lm(t, args[0], 0, &program, &session));
    syl_status status = write_logits(t, s, program, session);
    syl_session_destroy(session);
    syl_program_destroy(program);
    return status;
}

const verb verb_logits = {
    .name = "logits",
    .summary = "write the logits of given tokens as a NumPy file",
    .usage = "FILE.syl --ids 1,2,3 | --text TEXT  -o OUT.npy",
    .details = "Row t holds the logits behind token t (f32, as many columns as the vocabulary has tokens).",
    .options = options,
    .settings_size = sizeof(settings),
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
