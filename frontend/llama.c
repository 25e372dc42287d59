/* Tensors and graph of a Llama-like checkpoint. Every tensor is read or refused by name: what is written computes
 * what the checkpoint means. */
#include "frontend/llama.h"
#include <ctype.h>
#include <stdarg.h>
#include <math.h>
#include <string.h>
#include "base/json.h"
#include "base/map.h"

const char *syl_llama_name(syl_arena *arena, const char *text) {
    char *name = syl_arena_printf(arena, "%s%.60s", isalpha((unsigned char)*text) ? "" : "model_", text);
    for (char *p = name; *p; p++) *p = isalnum((unsigned char)*p) ? (char)tolower((unsigned char)*p) : '_';
    return name;
}

syl_status syl_llama_check_sizes(const syl_llama *m, syl_loc loc) {
    if (m->heads % m->kv_heads != 0)
        return syl_error(m->diag, SYL_ERR_import_value, loc, "%lld heads can't share %lld key heads evenly",
                         (long long)m->heads, (long long)m->kv_heads);
    if (m->rope_dims % 2 != 0 || m->rope_dims > m->head_dim)
        return syl_error(
            m->diag, SYL_ERR_import_value, loc,
            "rotary positions turn %lld of the %lld elements of a head, expected an even number of them",
            (long long)m->rope_dims, (long long)m->head_dim);
    if (!(m->rope_base > 0) || !(m->eps >= 0))
        return syl_error(m->diag, SYL_ERR_import_value, loc,
                         "the rotary base is %g and eps %g, expected a positive base and eps >= 0",
                         m->rope_base, m->eps);
    const syl_rope_scaling *s = &m->scaling;
    if (s->kind && !(s->factor >= 1))
        return syl_error(m->diag, SYL_ERR_import_value, loc,
                         "rotary positions are scaled by %g, expected at least 1", s->factor);
    if (s->kind && strcmp(s->kind, "llama3") == 0 && !(s->low > 0 && s->high > s->low && s->original > 0))
        return syl_error(
            m->diag, SYL_ERR_import_value, loc,
            "the rotary scaling llama3 has the frequency factors %g and %g, expected 0 < low < high", s->low,
            s->high);
    return SYL_OK;
}

/* ---- tensors ---- */

/* One kind of tensor of a layer, or of the model. */
typedef struct part {
    const char *value, *gguf,
        *hf;            /* its name in the graph; in the file (of a layer: behind the layer's prefix) */
    int64_t rows, cols; /* cols 0: a vector */
    syl_presence presence;
    bool present;
} part;

enum {
    ATTN_NORM,
    Q,
    QB,
    QN,
    K,
    KB,
    KN,
    V,
    VB,
    O,
    OB,
    FFN_NORM,
    GATE,
    GATEB,
    UP,
    UPB,
    DOWN,
    DOWNB,
    LAYER_PARTS
};
enum { EMBEDDING, NORM, HEAD, MODEL_PARTS };

typedef struct writer {
    syl_llama *m;
    part layer[LAYER_PARTS], model[MODEL_PARTS];
    syl_map used; /* tensors the graph reads -> their file */
    syl_text *out;
    const char *indent;
    bool first; /* no comma before the next item */
} writer;

static syl_loc loc_of(const syl_llama *m) {
    return (syl_loc){m->source, 0};
}

static const char *tensor_name(const writer *w, const part *p) {
    return w->m->hugging_face ? p->hf : p->gguf;
}

static const char *layer_tensor(const writer *w, const part *p, int64_t layer) {
    return syl_arena_printf(w->m->arena, w->m->hugging_face ? "model.layers.%lld.%s" : "blk.%lld.%s",
                            (long long)layer, tensor_name(w, p));
}

/* The file that holds a tensor, or NULL. */
static const syl_weights *file_of(const writer *w, const char *name) {
    int rank;
    int64_t dims[SYL_MAX_RANK];
    for (size_t i = 0; i < w->m->n_files; i++)
        if (syl_weights_shape(w->m->files[i], name, &rank, dims)) return w->m->files[i];
    return NULL;
}

/* Marks a tensor as read and checks its shape and format. */
static syl_status need_tensor(writer *w, const char *name, const part *p) {
    const syl_weights *file = file_of(w, name);
    if (!file)
        return syl_error(w->m->diag, SYL_ERR_weights_missing, loc_of(w->m),
                         "the checkpoint has no tensor \"%s\"", name);
    *syl_map_slot(&w->used, name, strlen(name), NULL) = (void *)(uintptr_t)file;
    syl_dim dims[] = {syl_size(p->rows), syl_size(p->cols)};
    return syl_weights_check(file, name, p->cols ? 2 : 1, dims, loc_of(w->m), w->m->diag);
}

static void list_parts(writer *w) {
    const syl_llama *m = w->m;
    int64_t q = m->heads * m->head_dim, kv = m->kv_heads * m->head_dim;
    int rank;
    int64_t dims[SYL_MAX_RANK] = {0};
    const part layer[LAYER_PARTS] = {
        [ATTN_NORM] = {"attn_norm", "attn_norm.weight", "input_layernorm.weight", m->width, 0, SYL_REQUIRED,
                       false},
        [Q] = {"wq", "attn_q.weight", "self_attn.q_proj.weight", q, m->width, SYL_REQUIRED, false},
        [QB] = {"bq", "attn_q.bias", "self_attn.q_proj.bias", q, 0, m->qkv_bias, false},
        [QN] = {"q_norm", "attn_q_norm.weight", "self_attn.q_norm.weight", m->head_dim, 0, m->qk_norm, false},
        [K] = {"wk", "attn_k.weight", "self_attn.k_proj.weight", kv, m->width, SYL_REQUIRED, false},
        [KB] = {"bk", "attn_k.bias", "self_attn.k_proj.bias", kv, 0, m->qkv_bias, false},
        [KN] = {"k_norm", "attn_k_norm.weight", "self_attn.k_norm.weight", m->head_dim, 0, m->qk_norm, false},
        [V] = {"wv", "attn_v.weight", "self_attn.v_proj.weight", kv, m->width, SYL_REQUIRED, false},
        [VB] = {"bv", "attn_v.bias", "self_attn.v_proj.bias", kv, 0, m->qkv_bias, false},
        [O] = {"wo", "attn_output.weight", "self_attn.o_proj.weight", m->width, q, SYL_REQUIRED, false},
        [OB] = {"bo", "attn_output.bias", "self_attn.o_proj.bias", m->width, 0, m->o_bias, false},
        [FFN_NORM] = {"ffn_norm", "ffn_norm.weight", "post_attention_layernorm.weight", m->width, 0,
                      SYL_REQUIRED, false},
        [GATE] = {"wg", "ffn_gate.weight", "mlp.gate_proj.weight", m->hidden, m->width, SYL_REQUIRED, false},
        [GATEB] = {"bg", "ffn_gate.bias", "mlp.gate_proj.bias", m->hidden, 0, m->mlp_bias, false},
        [UP] = {"wu", "ffn_up.weight", "mlp.up_proj.weight", m->hidden, m->width, SYL_REQUIRED, false},
        [UPB] = {"bu", "ffn_up.bias", "mlp.up_proj.bias", m->hidden, 0, m->mlp_bias, false},
        [DOWN] = {"wd", "ffn_down.weight", "mlp.down_proj.weight", m->width, m->hidden, SYL_REQUIRED, false},
        [DOWNB] = {"bd", "ffn_down.bias", "mlp.down_proj.bias", m->width, 0, m->mlp_bias, false},
    };
    part model[MODEL_PARTS] = {
        [EMBEDDING] = {"embedding", "token_embd.weight", "model.embed_tokens.weight", 0, m->width,
                       SYL_REQUIRED, false},
        [NORM] = {"output_norm", "output_norm.weight", "model.norm.weight", m->width, 0, SYL_REQUIRED, false},
        [HEAD] = {"head", "output.weight", "lm_head.weight", 0, m->width, m->head, false},
    };
    memcpy(w->layer, layer, sizeof layer);
    memcpy(w->model, model, sizeof model);
    const char *embedding = tensor_name(w, &model[EMBEDDING]);
    const syl_weights *file = file_of(w, embedding);
    if (file && syl_weights_shape(file, embedding, &rank, dims) && rank == 2)
        w->model[EMBEDDING].rows = w->model[HEAD].rows = dims[0]; /* else the check says so */
    /* The first layer decides; one that differs has a tensor too few or too many. */
    for (int i = 0; i < LAYER_PARTS; i++)
        w->layer[i].present =
            layer[i].presence == SYL_REQUIRED ||
            (layer[i].presence == SYL_OPTIONAL && file_of(w, layer_tensor(w, &layer[i], 0)));
    for (int i = 0; i < MODEL_PARTS; i++)
        w->model[i].present = model[i].presence == SYL_REQUIRED ||
                              (model[i].presence == SYL_OPTIONAL && file_of(w, tensor_name(w, &model[i])));
}

/* A tied head may be stored all the same, if it is a copy of the embedding. */
static bool is_tied_copy(const writer *w, const syl_weights *file, const char *name) {
    char hash[33], embedding_hash[33];
    const char *embedding = tensor_name(w, &w->model[EMBEDDING]);
    return !w->model[HEAD].present && strcmp(name, tensor_name(w, &w->model[HEAD])) == 0 &&
           syl_weights_hash(file, name, hash) &&
           syl_weights_hash(file_of(w, embedding), embedding, embedding_hash) &&
           strcmp(hash, embedding_hash) == 0;
}

static syl_status check_tensors(writer *w, bool (*allowed)(const char *name)) {
    syl_llama *m = w->m;
    for (int i = 0; i < MODEL_PARTS; i++)
        if (w->model[i].present) SYL_TRY(need_tensor(w, tensor_name(w, &w->model[i]), &w->model[i]));
    for (int64_t layer = 0; layer < m->layers; layer++)
        for (int i = 0; i < LAYER_PARTS; i++)
            if (w->layer[i].present)
                SYL_TRY(need_tensor(w, layer_tensor(w, &w->layer[i], layer), &w->layer[i]));
    for (size_t f = 0; f < m->n_files; f++)
        for (size_t i = 0; i < syl_weights_count(m->files[f]); i++) {
            const char *name = syl_weights_name(m->files[f], i);
            const void *read_from = syl_map_get_str(&w->used, name);
            if (read_from == m->files[f]) continue;
            if (read_from)
                return syl_error(m->diag, SYL_ERR_import_tensor, loc_of(m),
                                 "tensor \"%s\" is in \"%s\" and again in \"%s\"", name,
                                 syl_weights_path(read_from), syl_weights_path(m->files[f]));
            if ((allowed && allowed(name)) || is_tied_copy(w, m->files[f], name)) continue;
            return syl_error(m->diag, SYL_ERR_import_tensor, loc_of(m),
                             "tensor \"%s\" has no place in a %s graph of %lld layers", name, m->architecture,
                             (long long)m->layers);
        }
    return SYL_OK;
}

/* ---- the graph ---- */

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
             tensor_name(w, p), (long long)p->rows, (long long)p->cols, p->value);
    else
        item(w, "{\"op\": \"weight\", \"name\": \"%s\", \"type\": \"tensor<%lldxreal>\", \"out\": \"%s\"}",
             tensor_name(w, p), (long long)p->rows, p->value);
}

static void linear(writer *w, const char *x, const part *weight_and_bias, const char *out) {
    const part *bias = weight_and_bias + 1;
    item(w, "{\"op\": \"linear\", \"in\": [\"%s\", \"%s\"%s%s%s], \"out\": \"%s\"}", x,
         weight_and_bias->value, bias->present ? ", \"" : "", bias->present ? bias->value : "",
         bias->present ? "\"" : "", out);
}

static const char *number(const syl_llama *m, double value) {
    syl_text text = {.arena = m->arena};
    syl_json_print_number(&text, value);
    return text.p;
}

/* The norm of each head by itself. All share one gain, which the op wants as long as the row. */
static void head_norm(writer *w, const char *x, const part *gain, int64_t heads, const char *out) {
    syl_text list = {.arena = w->m->arena};
    for (int64_t h = 0; h < heads; h++) syl_text_printf(&list, "%s\"%s\"", h ? ", " : "", gain->value);
    syl_text_printf(w->out, ",\n%s{\"op\": \"concat\", \"in\": [%s], \"axis\": 0, \"out\": \"%ss\"}",
                    w->indent, list.p, gain->value);
    item(w,
         "{\"op\": \"rms_norm\", \"in\": [\"%s\", \"%ss\"], \"eps\": %s, \"heads\": %lld, \"out\": \"%s\"}",
         x, gain->value, number(w->m, w->m->eps), (long long)heads, out);
}

static void rope(writer *w, const char *x, int64_t heads, const char *out) {
    item(w,
         "{\"op\": \"rope\", \"in\": [\"%s\", \"angles\"], \"heads\": %lld, \"style\": \"%s\", \"out\": "
         "\"%s\"}",
         x, (long long)heads, w->m->half ? "half" : "interleaved", out);
}

static void write_layer(writer *w) {
    const syl_llama *m = w->m;
    const part *parts = w->layer;
    const char *eps = number(m, m->eps), *scale = number(m, 1 / sqrt((double)m->head_dim));
    for (int i = 0; i < LAYER_PARTS; i++) weight(w, &parts[i]);
    item(w, "{\"op\": \"rms_norm\", \"in\": [\"x\", \"attn_norm\"], \"eps\": %s, \"out\": \"n\"}", eps);
    linear(w, "n", &parts[Q], "q0");
    linear(w, "n", &parts[K], "k0");
    linear(w, "n", &parts[V], "v");
    if (parts[QN].present) {
        head_norm(w, "q0", &parts[QN], m->heads, "q1");
        head_norm(w, "k0", &parts[KN], m->kv_heads, "k1");
    }
    rope(w, parts[QN].present ? "q1" : "q0", m->heads, "q");
    rope(w, parts[KN].present ? "k1" : "k0", m->kv_heads, "k");
    item(w, "{\"op\": \"kv_append\", \"in\": [\"kv\", \"k\", \"v\", \"pos\", \"seq\"], \"layer\": \"{i}\", "
            "\"out\": \"kv1\"}");
    item(w,
         "{\"op\": \"attention\", \"in\": [\"q\", \"kv1\", \"pos\", \"seq\"], \"heads\": %lld, \"layer\": "
         "\"{i}\", \"scale\": %s, \"out\": \"a\"}",
         (long long)m->heads, scale);
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

/* The attributes of a rope_table that scale it. */
static const char *scaling(const syl_llama *m) {
    const syl_rope_scaling *s = &m->scaling;
    if (!s->kind) return "";
    const char *text =
        syl_arena_printf(m->arena, "\"scaling\": \"%s\", \"factor\": %s, ", s->kind, number(m, s->factor));
    if (strcmp(s->kind, "linear") == 0) return text;
    return syl_arena_printf(m->arena, "%s\"low\": %s, \"high\": %s, \"original\": %lld, ", text,
                            number(m, s->low), number(m, s->high), (long long)s->original);
}

static void write_nodes(writer *w) {
    const syl_llama *m = w->m;
    const part *parts = w->model;
    weight(w, &parts[EMBEDDING]);
    item(w, "{\"op\": \"embedding\", \"in\": [\"ids\", \"embedding\"], \"out\": \"x0\"}");
    item(w,
         "{\"op\": \"rope_table\", \"in\": [\"pos\"], \"base\": %s, %s\"dims\": %lld, \"out\": \"angles\"}",
         number(m, m->rope_base), scaling(m), (long long)m->rope_dims);
    item(w,
         "{\"block\": \"layer\", \"repeat\": %lld, \"prefix\": \"%s{i}.\", \"in\": [\"x0\", \"kv\", "
         "\"pos\", \"seq\", \"angles\"], \"out\": [\"x\", \"kv_out\"]}",
         (long long)m->layers, m->hugging_face ? "model.layers." : "blk.");
    item(w, "{\"op\": \"take\", \"in\": [\"x\", \"rows\"], \"out\": \"y\"}");
    weight(w, &parts[NORM]);
    item(w, "{\"op\": \"rms_norm\", \"in\": [\"y\", \"output_norm\"], \"eps\": %s, \"out\": \"f\"}",
         number(m, m->eps));
    weight(w, &parts[HEAD]);
    item(w, "{\"op\": \"linear\", \"in\": [\"f\", \"%s\"], \"out\": \"logits\"}",
         parts[parts[HEAD].present ? HEAD : EMBEDDING].value);
}

static void write_graph(writer *w) {
    const syl_llama *m = w->m;
    syl_text *out = w->out;
    syl_text_printf(out, "{\n  \"sylvester\": 1,\n  \"name\": \"%s\",\n  \"context_length\": %lld,\n",
                    m->name, (long long)m->context);
    if (m->tokenizer_file) {
        syl_text_printf(out, "  \"tokenizer\": {\"file\": ");
        syl_json_quote(out, m->tokenizer_file);
        syl_text_printf(out, "},\n");
    }
    syl_text_printf(out, "  \"sources\": [");
    for (size_t i = 0; i < m->n_files; i++) {
        if (i) syl_text_printf(out, ", ");
        syl_json_quote(out, m->file_names[i]);
    }
    syl_text_printf(out, "],\n  \"inputs\": [");
    w->indent = "    ";
    w->first = true;
    item(w, "{\"name\": \"ids\", \"type\": \"tensor<Txi32>\"}");
    item(w, "{\"name\": \"pos\", \"type\": \"tensor<Txi32>\"}");
    item(w, "{\"name\": \"seq\", \"type\": \"tensor<Txi32>\"}");
    item(w, "{\"name\": \"rows\", \"type\": \"tensor<Rxi32>\"}");
    item(w, "{\"name\": \"kv\", \"type\": \"kv<%lldx%lldx%lldxf32>\"}", (long long)m->layers,
         (long long)m->kv_heads, (long long)m->head_dim);
    syl_text_printf(out, "\n  ],\n  \"blocks\": {\n    \"layer\": {\n      \"in\": [\"x\", \"kv\", \"pos\", "
                         "\"seq\", \"angles\"],\n      \"out\": [\"x2\", \"kv1\"],\n      \"nodes\": [");
    w->indent = "        ";
    w->first = true;
    write_layer(w);
    syl_text_printf(out, "\n      ]\n    }\n  },\n  \"nodes\": [");
    w->indent = "    ";
    w->first = true;
    write_nodes(w);
    syl_text_printf(out, "\n  ],\n  \"outputs\": [\"logits\", \"kv_out\"]\n}\n");
}

syl_status syl_llama_write(syl_llama *m, bool (*allowed)(const char *name), syl_text *out) {
    writer w = {.m = m, .out = out};
    syl_map_init(&w.used, m->arena);
    list_parts(&w);
    SYL_TRY(check_tensors(&w, allowed));
    write_graph(&w);
    return SYL_OK;
}
