/* syl logits: the logits of given tokens, as a NumPy file. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "tools/tool.h"

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

static syl_status parse_ids(tool *t, const char *text, syl_token_list *out) {
    size_t n = 1;
    for (const char *p = text; *p; p++) n += *p == ',';
    out->p = SYL_NEW_ARRAY(&t->arena, int32_t, n);
    for (const char *p = text;; p++) {
        char *end;
        errno = 0;
        long value = strtol(p, &end, 10);
        if (end == p || (*end && *end != ',') || errno || value < 0 || value > INT32_MAX) {
            return syl_error(t->diag, SYL_ERR_cli_value, SYL_NOWHERE,
                             "--ids: expected token ids separated by commas, found \"%.20s\"", p);
        }
        out->p[out->n++] = (int32_t)value;
        p = end;
        if (!*p) return SYL_OK;
    }
}

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

static syl_status write_rows(tool *t, syl_lm *lm, const syl_token_list *ids, syl_output *file) {
    int64_t vocab = syl_context_vocab(lm->context), n = (int64_t)ids->n;
    char header[NPY_HEADER];
    int32_t rows[CHUNK];
    for (int i = 0; i < CHUNK; i++) rows[i] = i;
    npy_header(header, n, vocab);
    SYL_TRY(syl_output_write(file, header, sizeof header));
    for (int64_t begin = 0; begin < n; begin += CHUNK) {
        int64_t count = n - begin < CHUNK ? n - begin : CHUNK;
        syl_batch batch = {.n_tokens = count, .ids = ids->p + begin, .n_rows = count, .rows = rows};
        SYL_TRY(syl_context_run(lm->context, &batch, t->diag));
        for (int64_t r = 0; r < count; r++) {
            SYL_TRY(
                syl_output_write(file, syl_context_logits(lm->context, r), (size_t)vocab * sizeof(float)));
        }
    }
    return SYL_OK;
}

static syl_status write_logits(tool *t, const settings *s, syl_lm *lm, const char *path) {
    syl_token_list ids = {.arena = &t->arena};
    if (s->ids) SYL_TRY(parse_ids(t, s->ids, &ids));
    if (s->text) {
        SYL_TRY(tool_need_tokenizer(t, lm, path));
        SYL_TRY(
            syl_tokenizer_encode(lm->tokenizer, s->text, strlen(s->text), SYL_ENCODE_PLAIN, t->diag, &ids));
    }
    syl_output *file;
    SYL_TRY(syl_output_open(s->output, t->diag, &file));
    syl_status status = write_rows(t, lm, &ids, file);
    if (status != SYL_OK) {
        syl_output_discard(file);
        return status;
    }
    SYL_TRY(syl_output_commit(file));
    tool_say(t, "wrote %s: %zu x %lld", s->output, ids.n, (long long)syl_context_vocab(lm->context));
    return SYL_OK;
}

static syl_status run(tool *t, void *user, const char **args, int n_args) {
    (void)n_args;
    const settings *s = user;
    syl_engine *engine;
    syl_lm lm = {0};
    if (!s->ids == !s->text)
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE,
                         "syl logits needs tokens: --ids 1,2,3 or --text TEXT");
    if (!s->output)
        return syl_error(t->diag, SYL_ERR_cli_argument, SYL_NOWHERE, "syl logits needs -o OUT.npy");
    SYL_TRY(tool_load(t, args[0], &engine));
    syl_status status = tool_session(t, engine, 0, &lm);
    if (status == SYL_OK) status = write_logits(t, s, &lm, args[0]);
    syl_lm_destroy(&lm);
    syl_engine_destroy(engine);
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
