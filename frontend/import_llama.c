/* Writes the graph of a Llama checkpoint (RMSNorm, rotary grouped-query attention, SwiGLU). Every key that
 * changes the computation is understood or refused by name, and so is every tensor: what is written computes
 * what the checkpoint means.
 *
 * Touvron et al., "LLaMA" (2023), "Llama 2" (2023); metadata and tensor names as in the GGUF specification.
 * Rows of q and k are in GGUF's order, in which rotary pairs are neighbours: rope is interleaved. */
#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include "base/json.h"
#include "frontend/import.h"

enum { max_layers = 1 << 12, max_size = 1 << 24, max_context = 1 << 30 };

typedef struct llama {
    const syl_gguf *file;
    syl_diag *diag;
    syl_arena arena;
    syl_map used; /* tensors the graph reads */
    int64_t layers, context, width, hidden, heads, kv_heads, head_dim, rope_dims, vocabulary;
    double eps, rope_base;
    bool untied, tokenizer;
    const char *name, *file_name;
} llama;

/* ---- metadata ---- */

/* Where the value of a key is; NULL: the file. */
static syl_loc loc_of(const llama *m, const char *key) {
    return syl_gguf_loc(m->file, key ? syl_gguf_value_of(m->file, key) : NULL);
}

static syl_status read_int(llama *m, const char *key, bool required, int64_t max, int64_t *out) {
    return syl_gguf_int(m->file, key, required, 1, max, m->diag, out);
}

/* Metadata floats are f32; written as the shortest decimal that is the same f32, which is what the model's
 * authors wrote. */
static syl_status read_float(llama *m, const char *key, bool required, double *out) {
    SYL_TRY(syl_gguf_float(m->file, key, required, m->diag, out));
    for (int digits = 1; digits <= 9; digits++) {
        char text[32];
        snprintf(text, sizeof text, "%.*g", digits, *out);
        if (strtof(text, NULL) != (float)*out) continue;
        *out = strtod(text, NULL);
        break;
    }
    return SYL_OK;
}

/* Keys whose presence (other than with the harmless value given) changes the computation in ways not known
 * here. */
static syl_status refuse_features(llama *m) {
    static const struct {
        const char *key, *harmless, *what;
    } features[] = {
        {"llama.expert_count", "0", "a mixture of experts"},
        {"llama.expert_used_count", "0", "a mixture of experts"},
        {"llama.attention.sliding_window", "0", "sliding-window attention"},
        {"llama.rope.scaling.type", "none", "scaled rotary positions"},
        {"llama.rope.scaling.factor", "1", "scaled rotary positions"},
        {"llama.rope.scale_linear", "1", "scaled rotary positions"},
        {"llama.rope.scaling.attn_factor", "1", "scaled rotary positions"},
        {"llama.attention.scale", NULL, "an own attention scale"},
        {"llama.attention.clamp_kqv", NULL, "clamped attention inputs"},
        {"llama.attention.max_alibi_bias", "0", "ALiBi positions"},
        {"llama.attention.causal", "true", "attention that is not causal"},
        {"llama.use_parallel_residual", "false", "parallel residuals"},
        {"llama.logit_scale", "1", "scaled logits"},
        {"llama.embedding_scale", "1", "scaled embeddings"},
        {"llama.residual_scale", "1", "scaled residuals"},
        {"llama.final_logit_softcapping", "0", "capped logits"},
        {"llama.attn_logit_softcapping", "0", "capped attention"},
    };
    for (size_t i = 0; i < sizeof features / sizeof *features; i++) {
        const syl_gguf_value *v = syl_gguf_value_of(m->file, features[i].key);
        if (!v) continue;
        char text[64] = "?";
        int64_t integer;
        double number;
        bool flag;
        if (v->kind == SYL_GGUF_STRING) {
            const char *s;
            SYL_TRY(syl_gguf_string(m->file, v->key, true, &m->arena, m->diag, &s));
            snprintf(text, sizeof text, "%s", s);
        } else if (v->kind == SYL_GGUF_BOOL) {
            SYL_TRY(syl_gguf_bool(m->file, v->key, true, m->diag, &flag));
            snprintf(text, sizeof text, "%s", flag ? "true" : "false");
        } else if (v->kind == SYL_GGUF_F32 || v->kind == SYL_GGUF_F64) {
            SYL_TRY(syl_gguf_float(m->file, v->key, true, m->diag, &number));
            snprintf(text, sizeof text, "%.9g", number);
        } else if (v->kind != SYL_GGUF_ARRAY) {
            SYL_TRY(syl_gguf_int(m->file, v->key, true, INT64_MIN, INT64_MAX, m->diag, &integer));
            snprintf(text, sizeof text, "%lld", (long long)integer);
        }
        if (!features[i].harmless || strcmp(text, features[i].harmless) != 0)
            return syl_error(m->diag, SYL_ERR_import_feature, syl_gguf_loc(m->file, v),
                             "\"%s\" is %s: %s is not supported", v->key, text, features[i].what);
    }
    if (syl_gguf_tensor_of(m->file, "rope_freqs.weight"))
        return syl_error(m->diag, SYL_ERR_import_feature, loc_of(m, NULL),
                         "tensor \"rope_freqs.weight\" is there: scaled rotary positions are not supported");
    return SYL_OK;
}

/* A module name from the model's name: lower case, everything else '_'. */
static const char *module_name(llama *m, const char *text) {
    char *name = syl_arena_printf(&m->arena, "%s%.60s", isalpha((unsigned char)*text) ? "" : "model_", text);
    for (char *p = name; *p; p++) *p = isalnum((unsigned char)*p) ? (char)tolower((unsigned char)*p) : '_';
    return name;
}

static syl_status read_metadata(llama *m) {
    const char *name = "llama";
    int64_t value_length;
    SYL_TRY(refuse_features(m));
    SYL_TRY(syl_gguf_string(m->file, "general.name", false, &m->arena, m->diag, &name));
    m->name = module_name(m, name);
    SYL_TRY(read_int(m, "llama.block_count", true, max_layers, &m->layers));
    SYL_TRY(read_int(m, "llama.context_length", true, max_context, &m->context));
    SYL_TRY(read_int(m, "llama.embedding_length", true, max_size, &m->width));
    SYL_TRY(read_int(m, "llama.feed_forward_length", true, max_size, &m->hidden));
    SYL_TRY(read_int(m, "llama.attention.head_count", true, max_size, &m->heads));
    m->kv_heads = m->heads;
    SYL_TRY(read_int(m, "llama.attention.head_count_kv", false, max_size, &m->kv_heads));
    if (m->heads % m->kv_heads != 0)
        return syl_error(m->diag, SYL_ERR_gguf_value, loc_of(m, "llama.attention.head_count_kv"),
                         "%lld heads can't share %lld key heads evenly", (long long)m->heads,
                         (long long)m->kv_heads);
    m->head_dim = m->width / m->heads;
    if (!syl_gguf_value_of(m->file, "llama.attention.key_length") && m->width % m->heads != 0)
        return syl_error(
            m->diag, SYL_ERR_gguf_value, loc_of(m, "llama.attention.head_count"),
            "the width %lld is not a multiple of %lld heads, and there is no \"llama.attention.key_length\"",
            (long long)m->width, (long long)m->heads);
    SYL_TRY(read_int(m, "llama.attention.key_length", false, max_size, &m->head_dim));
    value_length = m->head_dim;
    SYL_TRY(read_int(m, "llama.attention.value_length", false, max_size, &value_length));
    if (value_length != m->head_dim)
        return syl_error(m->diag, SYL_ERR_import_feature, loc_of(m, "llama.attention.value_length"),
                         "keys of %lld and values of %lld elements: different sizes are not supported",
                         (long long)m->head_dim, (long long)value_length);
    m->rope_dims = m->head_dim;
    SYL_TRY(read_int(m, "llama.rope.dimension_count", false, m->head_dim, &m->rope_dims));
    if (m->rope_dims % 2 != 0)
        return syl_error(m->diag, SYL_ERR_gguf_value, loc_of(m, "llama.rope.dimension_count"),
                         "rotary positions turn %lld elements of a head, expected an even number",
                         (long long)m->rope_dims);
    m->rope_base = 10000;
    SYL_TRY(read_float(m, "llama.rope.freq_base", false, &m->rope_base));
    SYL_TRY(read_float(m, "llama.attention.layer_norm_rms_epsilon", true, &m->eps));
    if (m->rope_base <= 0 || m->eps < 0)
        return syl_error(
            m->diag, SYL_ERR_gguf_value,
            loc_of(m, m->eps < 0 ? "llama.attention.layer_norm_rms_epsilon" : "llama.rope.freq_base"),
            "the rotary base is %g and eps %g, expected a positive base and eps >= 0", m->rope_base, m->eps);
    const char *tokenizer = "no_vocab";
    SYL_TRY(syl_gguf_string(m->file, "tokenizer.ggml.model", false, &m->arena, m->diag, &tokenizer));
    m->tokenizer = strcmp(tokenizer, "no_vocab") != 0;
    if (m->tokenizer && strcmp(tokenizer, "gpt2") != 0)
        return syl_error(m->diag, SYL_ERR_tokenizer_type, loc_of(m, "tokenizer.ggml.model"),
                         "the checkpoint has a tokenizer of type \"%s\"", tokenizer);
    return SYL_OK;
}

/* ---- tensors ---- */

/* Marks a tensor as read and checks that it is [rows, cols] (cols 0: a vector) in a format that can be read.
 */
static syl_status need_tensor(llama *m, const char *name, int64_t rows, int64_t cols) {
    const syl_gguf_tensor *t = syl_gguf_tensor_of(m->file, name);
    if (!t)
        return syl_error(m->diag, SYL_ERR_weights_missing, loc_of(m, NULL),
                         "the checkpoint has no tensor \"%s\"", name);
    *syl_map_slot(&m->used, name, strlen(name), NULL) = (void *)t;
    if (!t->format->decode)
        return syl_error(m->diag, SYL_ERR_weights_format, loc_of(m, NULL),
                         "tensor \"%s\" has the format %s, which is not read", name, t->format->name);
    bool equal =
        cols ? t->rank == 2 && t->dims[0] == cols && t->dims[1] == rows : t->rank == 1 && t->dims[0] == rows;
    if (equal) return SYL_OK;
    syl_text found = {.arena = &m->arena}, expected = {.arena = &m->arena};
    for (int i = t->rank - 1; i >= 0; i--)
        syl_text_printf(&found, "%lld%s", (long long)t->dims[i], i ? ", " : "");
    syl_text_printf(&expected, cols ? "%lld, %lld" : "%lld", (long long)rows, (long long)cols);
    return syl_error(m->diag, SYL_ERR_weights_shape, loc_of(m, NULL),
                     "tensor \"%s\" is [%s], the metadata ask for [%s]", name, found.p, expected.p);
}

/* One kind of tensor of a layer. */
typedef struct part {
    const char *value, *tensor; /* its name in the graph; in the file behind "blk.N." */
    int64_t rows, cols;
    bool present; /* optional ones */
} part;

enum { ATTN_NORM, Q, QB, K, KB, V, VB, O, OB, FFN_NORM, GATE, GATEB, UP, UPB, DOWN, DOWNB, PARTS };

static void list_parts(llama *m, part parts[PARTS]) {
    int64_t q = m->heads * m->head_dim, kv = m->kv_heads * m->head_dim;
    const part all[PARTS] = {
        [ATTN_NORM] = {"attn_norm", "attn_norm.weight", m->width, 0, true},
        [Q] = {"wq", "attn_q.weight", q, m->width, true},
        [QB] = {"bq", "attn_q.bias", q, 0, false},
        [K] = {"wk", "attn_k.weight", kv, m->width, true},
        [KB] = {"bk", "attn_k.bias", kv, 0, false},
        [V] = {"wv", "attn_v.weight", kv, m->width, true},
        [VB] = {"bv", "attn_v.bias", kv, 0, false},
        [O] = {"wo", "attn_output.weight", m->width, q, true},
        [OB] = {"bo", "attn_output.bias", m->width, 0, false},
        [FFN_NORM] = {"ffn_norm", "ffn_norm.weight", m->width, 0, true},
        [GATE] = {"wg", "ffn_gate.weight", m->hidden, m->width, true},
        [GATEB] = {"bg", "ffn_gate.bias", m->hidden, 0, false},
        [UP] = {"wu", "ffn_up.weight", m->hidden, m->width, true},
        [UPB] = {"bu", "ffn_up.bias", m->hidden, 0, false},
        [DOWN] = {"wd", "ffn_down.weight", m->width, m->hidden, true},
        [DOWNB] = {"bd", "ffn_down.bias", m->width, 0, false},
    };
    memcpy(parts, all, sizeof all);
    for (int i = 0; i < PARTS;
         i++) /* the first layer decides; one that differs has a tensor too few or too many */
        if (!parts[i].present)
            parts[i].present =
                syl_gguf_tensor_of(m->file, syl_arena_printf(&m->arena, "blk.0.%s", parts[i].tensor)) != NULL;
}

static syl_status check_tensors(llama *m, const part *parts) {
    const syl_gguf_tensor *embedding = syl_gguf_tensor_of(m->file, "token_embd.weight");
    m->vocabulary = embedding && embedding->rank == 2 ? embedding->dims[1] : 0;
    m->untied = syl_gguf_tensor_of(m->file, "output.weight") != NULL;
    SYL_TRY(need_tensor(m, "token_embd.weight", m->vocabulary, m->width));
    SYL_TRY(need_tensor(m, "output_norm.weight", m->width, 0));
    if (m->untied) SYL_TRY(need_tensor(m, "output.weight", m->vocabulary, m->width));
    for (int64_t layer = 0; layer < m->layers; layer++)
        for (int i = 0; i < PARTS; i++)
            if (parts[i].present)
                SYL_TRY(need_tensor(
                    m, syl_arena_printf(&m->arena, "blk.%lld.%s", (long long)layer, parts[i].tensor),
                    parts[i].rows, parts[i].cols));
    for (size_t i = 0; i < m->file->tensors.n; i++)
        if (!syl_map_get_str(&m->used, m->file->tensors.p[i].name))
            return syl_error(m->diag, SYL_ERR_import_tensor, loc_of(m, NULL),
                             "tensor \"%s\" has no place in a llama graph of %lld layers",
                             m->file->tensors.p[i].name, (long long)m->layers);
    return SYL_OK;
}

/* ---- the graph ---- */

typedef struct writer {
    syl_text *out;
    const char *indent;
    bool first; /* no comma before the next item */
} writer;

/* One item of the current list, on a line of its own. */
static void item(writer *w, const char *fmt, ...) SYL_PRINTF(2, 3);
static void item(writer *w, const char *fmt, ...) {
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args); /* fixed texts, names of parts and numbers: short */
    va_end(args);
    syl_text_printf(w->out, "%s\n%s%s", w->first ? "" : ",", w->indent, text);
    w->first = false;
}

static void weight(writer *w, const part *p) {
    if (!p->present) return;
    if (p->cols)
        item(w,
             "{\"op\": \"weight\", \"name\": \"%s\", \"type\": \"tensor<%lldx%lldxreal>\", \"out\": \"%s\"}",
             p->tensor, (long long)p->rows, (long long)p->cols, p->value);
    else
        item(w, "{\"op\": \"weight\", \"name\": \"%s\", \"type\": \"tensor<%lldxreal>\", \"out\": \"%s\"}",
             p->tensor, (long long)p->rows, p->value);
}

static void linear(writer *w, const char *x, const part *weight_and_bias, const char *out) {
    const part *bias = weight_and_bias + 1;
    item(w, "{\"op\": \"linear\", \"in\": [\"%s\", \"%s\"%s%s%s], \"out\": \"%s\"}", x,
         weight_and_bias->value, bias->present ? ", \"" : "", bias->present ? bias->value : "",
         bias->present ? "\"" : "", out);
}

static const char *number(llama *m, double value) {
    syl_text text = {.arena = &m->arena};
    syl_json_print_number(&text, value);
    return text.p;
}

static void write_layer(llama *m, const part *parts, writer *w) {
    const char *eps = number(m, m->eps), *scale = number(m, 1 / sqrt((double)m->head_dim));
    long long heads = m->heads, kv_heads = m->kv_heads;
    for (int i = 0; i < PARTS; i++) weight(w, &parts[i]);
    item(w, "{\"op\": \"rms_norm\", \"in\": [\"x\", \"attn_norm\"], \"eps\": %s, \"out\": \"n\"}", eps);
    linear(w, "n", &parts[Q], "q0");
    linear(w, "n", &parts[K], "k0");
    linear(w, "n", &parts[V], "v");
    item(w,
         "{\"op\": \"rope\", \"in\": [\"q0\", \"angles\"], \"heads\": %lld, \"style\": \"interleaved\", "
         "\"out\": \"q\"}",
         heads);
    item(w,
         "{\"op\": \"rope\", \"in\": [\"k0\", \"angles\"], \"heads\": %lld, \"style\": \"interleaved\", "
         "\"out\": \"k\"}",
         kv_heads);
    item(w, "{\"op\": \"kv_append\", \"in\": [\"kv\", \"k\", \"v\", \"pos\", \"seq\"], \"layer\": \"{i}\", "
            "\"out\": \"kv1\"}");
    item(w,
         "{\"op\": \"attention\", \"in\": [\"q\", \"kv1\", \"pos\", \"seq\"], \"heads\": %lld, \"layer\": "
         "\"{i}\", \"scale\": %s, \"out\": \"a\"}",
         heads, scale);
    linear(w, "a", &parts[O], "o");
    item(w, "{\"op\": \"add\", \"in\": [\"x\", \"o\"], \"out\": \"x1\"}");
    item(w, "{\"op\": \"rms_norm\", \"in\": [\"x1\", \"ffn_norm\"], \"eps\": %s, \"out\": \"n1\"}", eps);
    linear(w, "n1", &parts[GATE], "g");
    linear(w, "n1", &parts[UP], "u");
    item(w, "{\"op\": \"silu\", \"in\": [\"g\"], \"out\": \"s\"}");
    item(w, "{\"op\": \"mul\", \"in\": [\"s\", \"u\"], \"out\": \"m\"}");
    linear(w, "m", &parts[DOWN], "d");
    item(w, "{\"op\": \"add\", \"in\": [\"x1\", \"d\"], \"out\": \"x2\"}");
}

static void write_nodes(llama *m, writer *w) {
    part embedding = {"embedding", "token_embd.weight", m->vocabulary, m->width, true},
         norm = {"output_norm", "output_norm.weight", m->width, 0, true},
         head = {"head", "output.weight", m->vocabulary, m->width, m->untied};
    weight(w, &embedding);
    item(w, "{\"op\": \"embedding\", \"in\": [\"ids\", \"embedding\"], \"out\": \"x0\"}");
    item(w, "{\"op\": \"rope_table\", \"in\": [\"pos\"], \"base\": %s, \"dims\": %lld, \"out\": \"angles\"}",
         number(m, m->rope_base), (long long)m->rope_dims);
    item(w,
         "{\"block\": \"layer\", \"repeat\": %lld, \"prefix\": \"blk.{i}.\", \"in\": [\"x0\", \"kv\", "
         "\"pos\", \"seq\", \"angles\"], \"out\": [\"x\", \"kv_out\"]}",
         (long long)m->layers);
    item(w, "{\"op\": \"take\", \"in\": [\"x\", \"rows\"], \"out\": \"y\"}");
    weight(w, &norm);
    item(w, "{\"op\": \"rms_norm\", \"in\": [\"y\", \"output_norm\"], \"eps\": %s, \"out\": \"f\"}",
         number(m, m->eps));
    weight(w, &head);
    item(w, "{\"op\": \"linear\", \"in\": [\"f\", \"%s\"], \"out\": \"logits\"}",
         m->untied ? head.value : embedding.value);
}

static void write_graph(llama *m, const part *parts, syl_text *out) {
    syl_text quoted = {.arena = &m->arena};
    syl_json_quote(&quoted, m->file_name);
    syl_text_printf(out, "{\n  \"sylvester\": 1,\n  \"name\": \"%s\",\n  \"context_length\": %lld,\n",
                    m->name, (long long)m->context);
    if (m->tokenizer) syl_text_printf(out, "  \"tokenizer\": {\"file\": %s},\n", quoted.p);
    syl_text_printf(out, "  \"sources\": [%s],\n  \"inputs\": [", quoted.p);
    writer w = {out, "    ", true};
    item(&w, "{\"name\": \"ids\", \"type\": \"tensor<Txi32>\"}");
    item(&w, "{\"name\": \"pos\", \"type\": \"tensor<Txi32>\"}");
    item(&w, "{\"name\": \"seq\", \"type\": \"tensor<Txi32>\"}");
    item(&w, "{\"name\": \"rows\", \"type\": \"tensor<Rxi32>\"}");
    item(&w, "{\"name\": \"kv\", \"type\": \"kv<%lldx%lldx%lldxf32>\"}", (long long)m->layers,
         (long long)m->kv_heads, (long long)m->head_dim);
    syl_text_printf(out, "\n  ],\n  \"blocks\": {\n    \"layer\": {\n      \"in\": [\"x\", \"kv\", \"pos\", "
                         "\"seq\", \"angles\"],\n      \"out\": [\"x2\", \"kv1\"],\n      \"nodes\": [");
    w = (writer){out, "        ", true};
    write_layer(m, parts, &w);
    syl_text_printf(out, "\n      ]\n    }\n  },\n  \"nodes\": [");
    w = (writer){out, "    ", true};
    write_nodes(m, &w);
    syl_text_printf(out, "\n  ],\n  \"outputs\": [\"logits\", \"kv_out\"]\n}\n");
}

static syl_status import(llama *m, syl_text *out) {
    part parts[PARTS];
    SYL_TRY(read_metadata(m));
    list_parts(m, parts);
    SYL_TRY(check_tensors(m, parts));
    write_graph(m, parts, out);
    return SYL_OK;
}

syl_status syl_import_llama(const syl_gguf *file, const char *file_name, syl_diag *diag, syl_text *out) {
    llama m = {.file = file, .diag = diag, .file_name = file_name};
    syl_arena_init(&m.arena);
    syl_map_init(&m.used, &m.arena);
    syl_status status = import(&m, out);
    syl_arena_free(&m.arena);
    return status;
}
