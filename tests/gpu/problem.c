/* Problems: modules from text, numbers at random, the reference over a sample of rows. */
#include "problem.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/numeric.h"
#include "base/size.h"
#include "codegen/host/host.h"
#include "passes/pass.h"

/* ---- random numbers ---- */

static uint64_t random_bits(gpu_problem *p) {
    p->random += 0x9e3779b97f4a7c15u;
    uint64_t z = p->random;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* In [-1, 1). */
static float random_float(gpu_problem *p) {
    return (float)((double)(random_bits(p) >> 11) * 0x1p-52 - 1.0);
}

/* The sum of four bytes: bell-shaped, one draw a number; standard deviation 1. */
static float random_bell(gpu_problem *p) {
    uint64_t z = random_bits(p);
    int sum = (int)(z & 255) + (int)(z >> 8 & 255) + (int)(z >> 16 & 255) + (int)(z >> 24 & 255) - 510;
    return (float)sum * (1.0f / 147.8f);
}

/* A byte of whose bits a code is made: with two draws in place of one, so that small codes are likelier. */
static int bell_byte(int a, int b, int bits) {
    return bits == 8 ? (a + b) / 2 : (a & 7) + (b & 7) + 1;
}

static uint64_t hash_text(const char *text) {
    uint64_t h = 14695981039346656037u;
    for (; *text; text++) h = (h ^ (unsigned char)*text) * 1099511628211u;
    return h;
}

/* ---- elements ---- */

static size_t element_size(syl_dtype dtype) {
    return dtype == SYL_bf16 || dtype == SYL_f16 ? 2 : 4;
}

double gpu_element(const void *data, syl_dtype dtype, int64_t i) {
    if (dtype == SYL_bf16) return syl_bf16_to_f32(((const uint16_t *)data)[i]);
    if (dtype == SYL_f16) return syl_f16_to_f32(((const uint16_t *)data)[i]);
    if (dtype == SYL_i32) return ((const int32_t *)data)[i];
    return ((const float *)data)[i];
}

static void set_element(void *data, syl_dtype dtype, int64_t i, float x) {
    if (dtype == SYL_bf16)
        ((uint16_t *)data)[i] = syl_bf16_from_f32(x);
    else if (dtype == SYL_f16)
        ((uint16_t *)data)[i] = syl_f16_from_f32(x);
    else
        ((float *)data)[i] = x;
}

static syl_status no_memory(gpu_problem *p) {
    return syl_error(p->diag, SYL_ERR_out_of_memory, SYL_NOWHERE, "no memory for the problem's numbers");
}

/* ---- sizes ---- */

int64_t gpu_problem_positions(const gpu_problem *p) {
    int64_t most = 0;
    for (int s = 0; s < p->spec->context.sequences; s++)
        if (p->spec->context.lengths[s] > most) most = p->spec->context.lengths[s];
    return most;
}

static int64_t all_positions(const gpu_context *c) {
    int64_t sum = 0;
    for (int s = 0; s < c->sequences; s++) sum += c->lengths[s];
    return sum;
}

/* Attention appends T positions once and is asked for R rows; elsewhere T varies, and B is the number of samples. */
static int64_t symbol_size(const gpu_problem *p, const char *symbol, int64_t rows) {
    if (symbol[0] == p->varies) return rows;
    return symbol[0] == 'T' ? all_positions(&p->spec->context) : p->spec->others;
}

int64_t gpu_problem_size(const gpu_problem *p, int symbol, int64_t rows) {
    return symbol_size(p, p->plan->symbols[symbol], rows);
}

/* ---- arguments ---- */

/* Place `row` of the cache's positions, sequence after sequence. */
static void position_of(const gpu_context *c, int64_t row, int32_t *sequence, int32_t *position) {
    int s = 0;
    while (s < c->sequences - 1 && row >= c->lengths[s]) row -= c->lengths[s++];
    *sequence = s;
    *position = (int32_t)row;
}

/* Queries: the last position of each sequence first (decoding), then runs of neighbours (reading a prompt). */
static void query_of(const gpu_context *c, int64_t row, int32_t *sequence, int32_t *position) {
    *sequence = (int32_t)(row < c->sequences ? row : row / 16 % c->sequences);
    int64_t length = c->lengths[*sequence];
    *position = (int32_t)(row < c->sequences ? length - 1 : (row * 37 / 16 + row % 16) % length);
}

static int32_t integer_of(gpu_problem *p, const char *name, int64_t row) {
    const gpu_context *c = &p->spec->context;
    int32_t sequence, position;
    if (!c->sequences) return (int32_t)(random_bits(p) % (uint64_t)p->spec->others);
    if (name[0] == 'q')
        query_of(c, row, &sequence, &position);
    else
        position_of(c, row, &sequence, &position);
    return strstr(name, "pos") ? position : sequence;
}

/* A row of codes times a power of two, one code of the largest size, so that its scale is exactly that power. */
static void exact_row(gpu_problem *p, void *data, syl_dtype dtype, int64_t first, int64_t cols) {
    float power = ldexpf(1, (int)(random_bits(p) % 5) - 2);
    for (int64_t j = 0; j < cols; j++)
        set_element(data, dtype, first + j, power * (float)((int)(random_bits(p) % 255) - 127));
    set_element(data, dtype, first + (int64_t)(random_bits(p) % (uint64_t)cols), 127 * power);
}

static void fill_argument(gpu_problem *p, const syl_value *value, gpu_argument *a) {
    const char *name = value->name ? value->name : "";
    for (int64_t i = 0; i < a->rows; i++) {
        if (a->dtype == SYL_i32) {
            for (int64_t j = 0; j < a->cols; j++)
                ((int32_t *)a->data)[i * a->cols + j] = integer_of(p, name, i);
        } else if (p->spec->exact && strcmp(name, "x") == 0) {
            exact_row(p, a->data, a->dtype, i * a->cols, a->cols);
        } else if (p->spec->noise) {
            for (int64_t j = 0; j < a->cols; j++)
                set_element(a->data, a->dtype, i * a->cols + j, random_bell(p));
        } else {
            for (int64_t j = 0; j < a->cols; j++)
                set_element(a->data, a->dtype, i * a->cols + j,
                            (j % 61 == 17 ? 12 : 3) * random_float(p)); /* a few outliers */
        }
    }
}

static syl_status make_arguments(gpu_problem *p) {
    if (p->func->n_args > GPU_MAX_ARGS)
        return syl_error(p->diag, SYL_ERR_exec_input, SYL_NOWHERE, "more than %d arguments", GPU_MAX_ARGS);
    for (int i = 0; i < p->func->n_args; i++) {
        const syl_type *type = &p->func->args[i].type;
        gpu_argument *a = &p->args[i];
        if (type->kind == SYL_KV) continue;
        a->dtype = type->dtype;
        a->varies = type->dims[0].symbol && type->dims[0].symbol[0] == p->varies;
        a->rows = symbol_size(p, type->dims[0].symbol, p->spec->max_rows);
        a->cols = type->rank > 1 ? type->dims[1].size : 1;
        a->row_bytes = (size_t)a->cols * element_size(a->dtype);
        if (!(a->data = malloc((size_t)a->rows * a->row_bytes + 64))) return no_memory(p);
        fill_argument(p, &p->func->args[i], a);
    }
    return SYL_OK;
}

/* ---- stored tensors ---- */

/* The arrays of a stored tensor, from its name alone: the reference and the device get the same. */
typedef struct stored {
    int64_t rows, cols, groups;
    int8_t *codes;
    float *scales, *floats;
    uint8_t *group_scale, *group_zero;
} stored;

static void drop_stored(stored *s) {
    free(s->codes);
    free(s->scales);
    free(s->floats);
    free(s->group_scale);
    free(s->group_zero);
}

static bool make_stored(gpu_problem *p, const char *name, const syl_type *type, stored *out) {
    const syl_dtype_info *info = &syl_dtypes[type->dtype];
    int64_t cols = type->dims[type->rank - 1].size, rows = type->rank > 1 ? type->dims[0].size : 1;
    size_t n = (size_t)(rows * cols);
    uint64_t saved = p->random;
    p->random = hash_text(name);
    *out = (stored){.rows = rows, .cols = cols, .groups = info->group ? cols / info->group : 0};
    size_t groups = (size_t)(rows * out->groups);
    bool ok = true;
    if (info->class != SYL_CLASS_QUANT) {
        ok = (out->floats = malloc(n * sizeof *out->floats)) != NULL;
        float size = name[0] == 'd' || name[0] == 'u' ? 0.05f : 1; /* of low-rank branches: small */
        for (size_t i = 0; ok && i < n; i++) {
            float x = size * random_float(p);
            out->floats[i] = type->dtype == SYL_bf16  ? syl_bf16_to_f32(syl_bf16_from_f32(x))
                             : type->dtype == SYL_f16 ? syl_f16_to_f32(syl_f16_from_f32(x))
                                                      : x;
        }
    } else {
        size_t n_scales = info->row_scale ? (size_t)rows : groups;
        out->codes = malloc(n);
        out->scales = malloc(n_scales * sizeof *out->scales);
        out->group_scale = info->two_level ? malloc(groups) : NULL;
        out->group_zero = info->two_level ? malloc(groups) : NULL;
        ok = out->codes && out->scales && (!info->two_level || (out->group_scale && out->group_zero));
        for (size_t i = 0; ok && i < n;) {
            uint64_t bits = random_bits(p);
            for (int b = 0; b < 8 && i < n; b++, i++, bits >>= 8) {
                int byte = (int)(bits & 255);
                if (p->spec->noise) byte = bell_byte(byte, (int)(bits >> 8 & 255), info->bits);
                out->codes[i] = (int8_t)(info->bits == 8   ? (byte == 255 ? 0 : byte - 127)
                                         : info->two_level ? byte & 15
                                                           : (byte & 15) - 8);
            }
        }
        for (size_t i = 0; ok && i < n_scales; i++) out->scales[i] = 0.01f * (1.5f + random_float(p));
        for (size_t i = 0; ok && info->two_level && i < groups; i++) {
            out->group_scale[i] = (uint8_t)(1 + random_bits(p) % 16);
            out->group_zero[i] = (uint8_t)(random_bits(p) % 16);
        }
        /* as quantize makes them: no code stands for more than +-127 (ops.def: scale = absmax / 119) */
        for (size_t i = 0; ok && info->two_level && i < n; i++) {
            size_t group = i / (size_t)info->group;
            int reach = 127 / out->group_scale[group], zero = out->group_zero[group];
            if (out->codes[i] > zero + reach) out->codes[i] = (int8_t)(zero + reach);
            if (out->codes[i] < zero - reach) out->codes[i] = (int8_t)(zero - reach);
        }
    }
    p->random = saved;
    return ok;
}

static syl_status give_stored(void *user, const char *name, const syl_type *type, syl_diag *diag,
                              syl_ref_tensor *out) {
    gpu_problem *p = user;
    stored s;
    (void)diag;
    bool ok = make_stored(p, name, type, &s);
    int64_t n = s.rows * s.cols, groups = s.rows * s.groups;
    if (ok && s.floats)
        for (int64_t i = 0; i < n; i++) out->data[i] = s.floats[i];
    if (ok && s.codes) {
        memcpy(out->codes, s.codes, (size_t)n);
        int64_t n_scales = syl_dtypes[type->dtype].row_scale ? s.rows : groups;
        for (int64_t i = 0; i < n_scales; i++) out->scales[i] = s.scales[i];
    }
    if (ok && s.group_scale) {
        memcpy(out->group_scale, s.group_scale, (size_t)groups);
        memcpy(out->group_zero, s.group_zero, (size_t)groups);
    }
    drop_stored(&s);
    return ok ? SYL_OK : no_memory(p);
}

static const syl_type *find_stored(const gpu_problem *p, const char *name, size_t size) {
    for (const syl_op *op = p->func->body->first; op; op = op->next)
        if (op->code == SYL_OP_materialized && strncmp(syl_attr_str(op, "name"), name, size) == 0 &&
            !syl_attr_str(op, "name")[size])
            return &op->results[0].type;
    return NULL;
}

/* As the artifact stores it: floats in their type, codes of 4 bits two a byte. */
static void *as_stored(const stored *s, syl_dtype dtype) {
    const syl_dtype_info *info = &syl_dtypes[dtype];
    int64_t n = s->rows * s->cols;
    unsigned char *out = calloc((size_t)n + 64, s->codes ? 1 : element_size(dtype));
    for (int64_t i = 0; out && i < n; i++) {
        if (!s->codes)
            set_element(out, dtype, i, s->floats[i]);
        else if (info->bits == 8)
            out[i] = (unsigned char)s->codes[i];
        else
            out[i / 2] |= (unsigned char)((s->codes[i] & 15) << (i % 2 * 4));
    }
    return out;
}

/* Memory of a packed weight; NULL where there is none. */
static void *pack(const syl_plan_weight *weight, const syl_weight_source *source, bool host, size_t *size) {
    bool fits = host ? syl_host_packed_size(weight, size) : syl_cuda_packed_size(weight, size);
    void *out = fits ? syl_alloc_aligned(*size + 64) : NULL;
    if (out && host) syl_host_pack(weight, source, out, 0, syl_host_panels(weight));
    if (out && !host) syl_cuda_pack(weight, source, out, 0, syl_cuda_pack_units(weight));
    return out;
}

syl_status gpu_problem_weight(gpu_problem *p, const syl_plan_weight *weight, bool host, gpu_weight *out) {
    size_t size = strlen(weight->name), suffix = strlen(".scale");
    const syl_type *type = find_stored(p, weight->name, size);
    bool scale = !type && size > suffix;
    if (scale) type = find_stored(p, weight->name, size - suffix);
    if (!type)
        return syl_error(p->diag, SYL_ERR_exec_input, SYL_NOWHERE, "there is no stored tensor '%s'",
                         weight->name);
    char *name = syl_arena_strndup(&p->arena, weight->name, scale ? size - suffix : size);
    stored s;
    bool ok = make_stored(p, name, type, &s);
    if (ok && scale) {
        out->size = (size_t)weight->cols * sizeof(float);
        ok = (out->data = malloc(out->size + 64)) != NULL;
        if (ok) memcpy(out->data, s.scales, out->size);
    } else if (ok) {
        void *data = as_stored(&s, type->dtype);
        if (weight->packed) {
            syl_weight_source source = {data, s.scales, s.group_scale, s.group_zero};
            ok = data && (out->data = pack(weight, &source, host, &out->size)) != NULL;
            free(data);
        } else {
            out->size = (size_t)(s.rows * s.cols) * (s.codes ? 1 : element_size(type->dtype));
            ok = (out->data = data) != NULL;
        }
    }
    drop_stored(&s);
    return ok ? SYL_OK : no_memory(p);
}

static syl_status make_weights(gpu_problem *p) {
    p->weights = SYL_NEW_ARRAY(&p->arena, gpu_weight, p->plan->weights.n + 1);
    for (size_t i = 0; i < p->plan->weights.n; i++)
        SYL_TRY(gpu_problem_weight(p, &p->plan->weights.p[i], false, &p->weights[i]));
    return SYL_OK;
}

/* ---- the sample ---- */

/* The first rows, the last, and some between; of full_attention a few whole sequences. */
static void choose_sample(gpu_problem *p) {
    int64_t rows = p->spec->max_rows, step = p->spec->multiple, most = GPU_MAX_SAMPLE;
    if (step > 1) {
        int64_t sequences = most / step ? most / step : 1;
        if (sequences > rows / step) sequences = rows / step;
        for (int64_t s = 0; s < sequences; s++)
            for (int64_t i = 0; i < step && p->n_sample < most; i++) p->sample[p->n_sample++] = s * step + i;
        return;
    }
    static const int64_t wanted[] = {0,   1,   2,    6,    7,    8,    12,   15,   16,   31,
                                     63,  64,  100,  126,  127,  128,  255,  256,  333,  511,
                                     512, 999, 1000, 1500, 2047, 2048, 4095, 5000, 8190, 8191};
    int64_t heavy = p->spec->exact ? 12 : 24; /* integer products are slow in the reference */
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        int64_t left = (int64_t)(sizeof wanted / sizeof *wanted - i);
        if (wanted[i] >= rows || (i % 2 && left + p->n_sample > heavy)) continue;
        if (p->n_sample < most - 1) p->sample[p->n_sample++] = wanted[i];
    }
    if (p->sample[p->n_sample - 1] != rows - 1) p->sample[p->n_sample++] = rows - 1;
}

/* Sequences longer than the sample are run whole; rows behind the sample are not compared. */
int64_t gpu_problem_sample_rows(const gpu_problem *p) {
    return p->spec->multiple > 1 && p->n_sample < p->spec->multiple ? p->spec->multiple : p->n_sample;
}

static syl_ref_tensor *reference_argument(const gpu_problem *p, int i) {
    const syl_type *type = &p->func->args[i].type;
    const gpu_argument *a = &p->args[i];
    int64_t rows = a->varies ? gpu_problem_sample_rows(p) : a->rows, dims[SYL_MAX_RANK] = {rows, a->cols};
    syl_ref_tensor *x = syl_ref_tensor_create(type->dtype, type->rank, dims);
    for (int64_t r = 0; x && r < rows; r++) {
        int64_t from = !a->varies || r >= p->n_sample ? r : p->sample[r];
        for (int64_t j = 0; j < a->cols; j++) {
            if (x->ints)
                x->ints[r * a->cols + j] = ((int32_t *)a->data)[from * a->cols + j];
            else
                x->data[r * a->cols + j] = gpu_element(a->data, a->dtype, from * a->cols + j);
        }
    }
    return x;
}

syl_status gpu_problem_expect(gpu_problem *p) {
    syl_ref_weights weights = {.user = p, .materialized = give_stored};
    syl_ref_value args[GPU_MAX_ARGS] = {0}, results[4] = {0};
    bool ok = true;
    for (int i = 0; i < p->func->n_args && ok; i++) {
        if (p->func->args[i].type.kind == SYL_KV)
            ok = (args[i].kv = syl_ref_kv_create(&p->func->args[i].type)) != NULL;
        else
            ok = (args[i].tensor = reference_argument(p, i)) != NULL;
    }
    syl_status status =
        ok ? syl_ref_run(p->func, args, p->func->n_args, &weights, SYL_REF_F32, p->diag, results)
           : no_memory(p);
    for (int i = 0; status == SYL_OK && i < p->n_results; i++) {
        gpu_result *r = &p->results[i];
        size_t n = (size_t)p->n_sample * (size_t)r->cols;
        if (!(r->expected = malloc(n * sizeof *r->expected)))
            status = no_memory(p);
        else
            memcpy(r->expected, results[i].tensor->data, n * sizeof *r->expected);
    }
    for (int i = 0; i < p->func->n_args; i++) {
        syl_ref_tensor_release(args[i].tensor);
        syl_ref_kv_destroy(args[i].kv);
    }
    for (int i = 0; i < p->n_results; i++) syl_ref_tensor_release(results[i].tensor);
    return status;
}

/* ---- making one ---- */

static syl_status find_results(gpu_problem *p) {
    const syl_op *ret = p->func->body->last;
    for (int i = 0; i < ret->n_operands; i++) {
        const syl_type *type = &syl_operand(ret, i)->type;
        if (type->kind != SYL_TENSOR || type->rank != 2 || p->n_results == 4)
            return syl_error(p->diag, SYL_ERR_exec_input, SYL_NOWHERE,
                             "result %d is no matrix, or there are more than 4", i);
        p->results[p->n_results++] =
            (gpu_result){.dtype = type->dtype,
                         .cols = type->dims[1].size,
                         .row_bytes = (size_t)type->dims[1].size * element_size(type->dtype)};
    }
    return SYL_OK;
}

syl_status gpu_problem_create(const gpu_problem_spec *spec, gpu_problem *p) {
    static const char passes[] = "fuse,plan-memory";
    *p = (gpu_problem){.spec = spec,
                       .source = {spec->name, spec->text, strlen(spec->text)},
                       .pipeline_source = {"passes", passes, sizeof passes - 1},
                       .varies = spec->context.sequences ? 'R' : 'T',
                       .random = hash_text(spec->name)};
    syl_arena_init(&p->arena);
    p->errors.arena = &p->arena;
    p->diag = syl_diag_create(syl_diag_capture, &p->errors);
    if (!p->diag) return SYL_MEMORY;
    syl_pipeline *pipeline;
    SYL_TRY(syl_module_parse(&p->source, p->diag, &p->module));
    SYL_TRY(syl_pipeline_parse(&p->arena, &p->pipeline_source, p->diag, &pipeline));
    SYL_TRY(syl_pipeline_run(pipeline, p->module, p->diag, NULL));
    p->func = syl_module_func(p->module, "forward");
    SYL_TRY(syl_plan_create_cuda(p->module, p->diag, &p->plan));
    SYL_TRY(find_results(p));
    SYL_TRY(make_arguments(p));
    SYL_TRY(make_weights(p));
    choose_sample(p);
    return SYL_OK;
}

void gpu_problem_destroy(gpu_problem *p) {
    for (int i = 0; i < GPU_MAX_ARGS; i++) free(p->args[i].data);
    for (int i = 0; i < p->n_results; i++) {
        free(p->results[i].expected);
        free(p->results[i].host);
    }
    for (size_t i = 0; p->weights && i < p->plan->weights.n; i++) free(p->weights[i].data);
    syl_plan_destroy(p->plan);
    syl_module_destroy(p->module);
    syl_diag_destroy(p->diag);
    syl_arena_free(&p->arena);
}
