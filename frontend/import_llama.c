/* Llama-like checkpoints in GGUF: metadata to the description of llama.h. Every key that changes the computation is
 * understood or refused by name.
 *
 * Names as in the GGUF specification, behind the name of the architecture. Rows of q and k of the architecture
 * llama are in an order in which rotary pairs are neighbours (the converter moved them); those of the others are as
 * they were trained. Llama 3's rotary scaling comes as a tensor of divisors, rope_freqs.weight. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "frontend/import.h"
#include "frontend/llama.h"
#include "ir/rope.h"

enum { max_layers = 1 << 12, max_size = 1 << 24, max_context = 1 << 30 };

typedef struct reader {
    const syl_gguf *file;
    const char *prefix; /* of the keys: the architecture */
    syl_llama m;
} reader;

static const char *key_of(const reader *r, const char *key) {
    return syl_arena_printf(r->m.arena, "%s.%s", r->prefix, key);
}

/* Where the value of a key is; NULL: the file. */
static syl_loc loc_of(const reader *r, const char *key) {
    return syl_gguf_loc(r->file, key ? syl_gguf_value_of(r->file, key_of(r, key)) : NULL);
}

static syl_status read_int(reader *r, const char *key, bool required, int64_t max, int64_t *out) {
    return syl_gguf_int(r->file, key_of(r, key), required, 1, max, r->m.diag, out);
}

/* Metadata floats are f32; written as the shortest decimal that is the same f32, which is what the model's
 * authors wrote. */
static syl_status read_float(reader *r, const char *key, bool required, double *out) {
    SYL_TRY(syl_gguf_float(r->file, key_of(r, key), required, r->m.diag, out));
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
static syl_status refuse_features(reader *r) {
    static const struct {
        const char *key, *harmless, *what;
    } features[] = {
        {"expert_count", "0", "a mixture of experts"},
        {"expert_used_count", "0", "a mixture of experts"},
        {"attention.sliding_window", "0", "sliding-window attention"},
        {"rope.scaling.attn_factor", "1", "scaled attention"},
        {"attention.scale", NULL, "an own attention scale"},
        {"attention.clamp_kqv", NULL, "clamped attention inputs"},
        {"attention.max_alibi_bias", "0", "ALiBi positions"},
        {"attention.causal", "true", "attention that is not causal"},
        {"use_parallel_residual", "false", "parallel residuals"},
        {"logit_scale", "1", "scaled logits"},
        {"embedding_scale", "1", "scaled embeddings"},
        {"residual_scale", "1", "scaled residuals"},
        {"final_logit_softcapping", "0", "capped logits"},
        {"attn_logit_softcapping", "0", "capped attention"},
    };
    for (size_t i = 0; i < sizeof features / sizeof *features; i++) {
        const syl_gguf_value *v = syl_gguf_value_of(r->file, key_of(r, features[i].key));
        if (!v) continue;
        char text[64] = "?";
        int64_t integer;
        double number;
        bool flag;
        if (v->kind == SYL_GGUF_STRING) {
            const char *s;
            SYL_TRY(syl_gguf_string(r->file, v->key, true, r->m.arena, r->m.diag, &s));
            snprintf(text, sizeof text, "%s", s);
        } else if (v->kind == SYL_GGUF_BOOL) {
            SYL_TRY(syl_gguf_bool(r->file, v->key, true, r->m.diag, &flag));
            snprintf(text, sizeof text, "%s", flag ? "true" : "false");
        } else if (v->kind == SYL_GGUF_F32 || v->kind == SYL_GGUF_F64) {
            SYL_TRY(syl_gguf_float(r->file, v->key, true, r->m.diag, &number));
            snprintf(text, sizeof text, "%.9g", number);
        } else if (v->kind != SYL_GGUF_ARRAY) {
            SYL_TRY(syl_gguf_int(r->file, v->key, true, INT64_MIN, INT64_MAX, r->m.diag, &integer));
            snprintf(text, sizeof text, "%lld", (long long)integer);
        }
        if (!features[i].harmless || strcmp(text, features[i].harmless) != 0)
            return syl_error(r->m.diag, SYL_ERR_import_feature, syl_gguf_loc(r->file, v),
                             "\"%s\" is %s: %s is not supported", v->key, text, features[i].what);
    }
    return SYL_OK;
}

/* Whether the divisors of the rotary frequencies, n of them, are those of the scaling llama3. */
static bool is_llama3(const syl_llama *m, const syl_rope_scaling *s, const double *divisors, int64_t n) {
    for (int64_t k = 0; k < n; k++) {
        double f = pow(m->rope_base, -2.0 * (double)k / (double)m->rope_dims);
        double divisor = f / syl_rope_llama3(f, s->factor, s->low, s->high, s->original);
        if (!(fabs(divisors[k] / divisor - 1) <= 1e-4)) return false;
    }
    return true;
}

/* The file holds divisors, not what they were made of; every checkpoint published with them has the frequency
 * factors 1 and 4 of 8192 positions, and a largest divisor that is the factor. */
static syl_status read_rope_divisors(reader *r) {
    static const char name[] = "rope_freqs.weight";
    syl_llama *m = &r->m;
    int64_t n = m->rope_dims / 2;
    if (!syl_gguf_tensor_of(r->file, name)) return SYL_OK;
    syl_dim dims = syl_size(n);
    SYL_TRY(syl_weights_check(m->files[0], name, 1, &dims, loc_of(r, NULL), m->diag));
    double *divisors = SYL_NEW_ARRAY(m->arena, double, (size_t)n), largest = 0;
    SYL_TRY(syl_weights_read(m->files[0], name, 0, n, m->diag, divisors));
    for (int64_t k = 0; k < n; k++) largest = fmax(largest, divisors[k]);
    syl_rope_scaling scaling = {"llama3", largest, 1, 4, 8192};
    if (m->scaling.kind || !(largest >= 1) || !is_llama3(m, &scaling, divisors, n))
        return syl_error(
            m->diag, SYL_ERR_import_feature, loc_of(r, NULL),
            "tensor \"%s\" does not hold the divisors of Llama 3's scaled rotary positions; others are not "
            "supported",
            name);
    if (largest > 1) m->scaling = scaling;
    return SYL_OK;
}

/* llama.cpp takes a factor without a type as linear. */
static syl_status read_rope_scaling(reader *r) {
    const char *type = "linear";
    double factor = 1;
    SYL_TRY(syl_gguf_string(r->file, key_of(r, "rope.scaling.type"), false, r->m.arena, r->m.diag, &type));
    SYL_TRY(read_float(r, "rope.scale_linear", false, &factor));
    SYL_TRY(read_float(r, "rope.scaling.factor", false, &factor));
    if (strcmp(type, "linear") != 0 && strcmp(type, "none") != 0)
        return syl_error(r->m.diag, SYL_ERR_import_feature, loc_of(r, "rope.scaling.type"),
                         "\"%s\" is %s: this scaling of rotary positions is not supported",
                         key_of(r, "rope.scaling.type"), type);
    if (strcmp(type, "linear") == 0 && factor != 1 && factor != 0)
        r->m.scaling = (syl_rope_scaling){.kind = "linear", .factor = factor};
    return read_rope_divisors(r);
}

static syl_status read_metadata(reader *r) {
    syl_llama *m = &r->m;
    const char *name = r->prefix;
    int64_t value_length;
    SYL_TRY(refuse_features(r));
    SYL_TRY(syl_gguf_string(r->file, "general.name", false, m->arena, m->diag, &name));
    m->name = syl_llama_name(m->arena, name);
    SYL_TRY(read_int(r, "block_count", true, max_layers, &m->layers));
    SYL_TRY(read_int(r, "context_length", true, max_context, &m->context));
    SYL_TRY(read_int(r, "embedding_length", true, max_size, &m->width));
    SYL_TRY(read_int(r, "feed_forward_length", true, max_size, &m->hidden));
    SYL_TRY(read_int(r, "attention.head_count", true, max_size, &m->heads));
    m->kv_heads = m->heads;
    SYL_TRY(read_int(r, "attention.head_count_kv", false, max_size, &m->kv_heads));
    m->head_dim = m->width / m->heads;
    if (!syl_gguf_value_of(r->file, key_of(r, "attention.key_length")) && m->width % m->heads != 0)
        return syl_error(m->diag, SYL_ERR_import_value, loc_of(r, "attention.head_count"),
                         "the width %lld is not a multiple of %lld heads, and there is no \"%s\"",
                         (long long)m->width, (long long)m->heads, key_of(r, "attention.key_length"));
    SYL_TRY(read_int(r, "attention.key_length", false, max_size, &m->head_dim));
    value_length = m->head_dim;
    SYL_TRY(read_int(r, "attention.value_length", false, max_size, &value_length));
    if (value_length != m->head_dim)
        return syl_error(m->diag, SYL_ERR_import_feature, loc_of(r, "attention.value_length"),
                         "keys of %lld and values of %lld elements: different sizes are not supported",
                         (long long)m->head_dim, (long long)value_length);
    m->rope_dims = m->head_dim;
    SYL_TRY(read_int(r, "rope.dimension_count", false, max_size, &m->rope_dims));
    m->rope_base = 10000;
    SYL_TRY(read_float(r, "rope.freq_base", false, &m->rope_base));
    SYL_TRY(read_float(r, "attention.layer_norm_rms_epsilon", true, &m->eps));
    SYL_TRY(syl_llama_check_sizes(m, loc_of(r, NULL)));
    SYL_TRY(read_rope_scaling(r));
    return syl_llama_check_sizes(m, loc_of(r, NULL));
}

/* Whether the checkpoint has a tokenizer; refuses one that can't be read. */
static syl_status read_tokenizer(reader *r, bool *out) {
    const char *tokenizer = "no_vocab";
    SYL_TRY(syl_gguf_string(r->file, "tokenizer.ggml.model", false, r->m.arena, r->m.diag, &tokenizer));
    *out = strcmp(tokenizer, "no_vocab") != 0;
    if (!*out || strcmp(tokenizer, "gpt2") == 0 || strcmp(tokenizer, "llama") == 0) return SYL_OK;
    return syl_error(r->m.diag, SYL_ERR_tokenizer_type,
                     syl_gguf_loc(r->file, syl_gguf_value_of(r->file, "tokenizer.ggml.model")),
                     "the checkpoint has a tokenizer of type \"%s\"", tokenizer);
}

static bool read_as_metadata(const char *name) {
    return strcmp(name, "rope_freqs.weight") == 0;
}

syl_status syl_import_llama(syl_weights *weights, const char *architecture, const char *file_name,
                            syl_arena *arena, syl_diag *diag, syl_text *out) {
    bool qwen2 = strcmp(architecture, "qwen2") == 0, qwen3 = strcmp(architecture, "qwen3") == 0, tokenizer;
    syl_presence others = qwen2 || qwen3 ? SYL_ABSENT : SYL_OPTIONAL;
    reader r = {.file = &weights->gguf,
                .prefix = architecture,
                .m = {.diag = diag,
                      .arena = arena,
                      .source = &weights->gguf.source,
                      .architecture = architecture,
                      .half = qwen2 || qwen3,
                      .qkv_bias = qwen2 ? SYL_REQUIRED : others,
                      .o_bias = others,
                      .mlp_bias = others,
                      .qk_norm = qwen3 ? SYL_REQUIRED : SYL_ABSENT,
                      .head = SYL_OPTIONAL,
                      .files = &weights,
                      .file_names = &file_name,
                      .n_files = 1}};
    SYL_TRY(read_metadata(&r));
    SYL_TRY(read_tokenizer(&r, &tokenizer));
    if (tokenizer) r.m.tokenizer_file = file_name;
    return syl_llama_write(&r.m, read_as_metadata, out);
}
