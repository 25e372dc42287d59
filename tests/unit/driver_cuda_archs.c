/* Every row of codegen/cuda/kernels.def for every architecture it claims, compiled without a GPU: kernels of real plans, made by all recipes
 * for language models of two shapes and a diffusion model, in variants that cover each value of each parameter. What they take is held to
 * the row: registers, spills, shared memory. Prints a table.
 *
 * The models are checkpoints of the right shapes without numbers: passes and plans never look at weights. */
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include "base/safetensors.h"
#include "codegen/cuda/compile.h"
#include "codegen/cuda/nvrtc.h"
#include "driver/compile.h"
#include "driver/materialize.h"
#include "runtime_testing.h"

/* ---- models ---- */

typedef struct shape {
    const char *name;
    int width, hidden, heads, kv_heads, vocabulary;
    const char *const *recipes;
} shape;

/* Without a power of two anywhere; and a common large one. */
static const char *const all_recipes[] = {"f32",   "bf16",     "w8a8",     "w4a8", "w4a8-svd32",
                                          "w4a16", "w8a8-kv8", "w8a8-kv4", NULL};
static const char *const large_recipes[] = {"w8a8", "w4a8-svd32", NULL};
static const char *const picture_recipes[] = {"f32", "bf16", "w8a8", "w4a8-svd32", "w4a16", NULL};
static const shape shapes[] = {{"small", 576, 1536, 9, 3, 49152, all_recipes},
                               {"large", 4096, 14336, 32, 8, 128256, large_recipes}};

static void put_text(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

typedef struct header {
    syl_text text;
    int64_t bytes;
} header;

static void declare(header *h, const char *name, int64_t rows, int64_t cols) {
    int64_t size = 2 * rows * (cols ? cols : 1);
    syl_text_printf(&h->text, "%s\"%s\": {\"dtype\": \"BF16\", \"shape\": [%lld", h->bytes ? ", " : "{", name,
                    (long long)rows);
    if (cols) syl_text_printf(&h->text, ", %lld", (long long)cols);
    syl_text_printf(&h->text, "], \"data_offsets\": [%lld, %lld]}", (long long)h->bytes,
                    (long long)(h->bytes + size));
    h->bytes += size;
}

/* A file with a hole in place of the numbers. */
static void put_weights(syl_arena *arena, const char *path, const shape *s) {
    header h = {.text = {.arena = arena}};
    int64_t head = s->width / s->heads;
    declare(&h, "model.embed_tokens.weight", s->vocabulary, s->width);
    declare(&h, "model.norm.weight", s->width, 0);
    declare(&h, "model.layers.0.input_layernorm.weight", s->width, 0);
    declare(&h, "model.layers.0.post_attention_layernorm.weight", s->width, 0);
    declare(&h, "model.layers.0.self_attn.q_proj.weight", s->width, s->width);
    declare(&h, "model.layers.0.self_attn.k_proj.weight", s->kv_heads * head, s->width);
    declare(&h, "model.layers.0.self_attn.v_proj.weight", s->kv_heads * head, s->width);
    declare(&h, "model.layers.0.self_attn.o_proj.weight", s->width, s->width);
    declare(&h, "model.layers.0.mlp.gate_proj.weight", s->hidden, s->width);
    declare(&h, "model.layers.0.mlp.up_proj.weight", s->hidden, s->width);
    declare(&h, "model.layers.0.mlp.down_proj.weight", s->width, s->hidden);
    syl_text_printf(&h.text, "}");
    uint64_t size = h.text.n;
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(&size, sizeof size, 1, file), 1);
    assert_int_equal(fwrite(h.text.p, 1, h.text.n, file), h.text.n);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(truncate(path, (off_t)(sizeof size + size) + h.bytes), 0);
}

/* Writes a Hugging Face directory of one layer; its folder. */
static const char *put_model(syl_arena *arena, const shape *s) {
    const char *folder = syl_arena_printf(arena, "%s/%s", test_folder, s->name);
    assert_int_equal(mkdir(folder, 0700), 0);
    put_text(syl_arena_printf(arena, "%s/config.json", folder),
             syl_arena_printf(
                 arena,
                 "{\"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": %d, \"intermediate_size\": "
                 "%d, \"num_hidden_layers\": 1, \"num_attention_heads\": %d, \"num_key_value_heads\": %d, "
                 "\"max_position_embeddings\": 2048, \"rms_norm_eps\": 1e-05, \"rope_theta\": 10000.0, "
                 "\"rope_scaling\": null, \"tie_word_embeddings\": true, \"hidden_act\": \"silu\", "
                 "\"vocab_size\": %d, \"eos_token_id\": 2}",
                 s->width, s->hidden, s->heads, s->kv_heads, s->vocabulary));
    put_text(
        syl_arena_printf(arena, "%s/tokenizer.json", folder),
        "{\"version\": \"1.0\", \"added_tokens\": [], \"normalizer\": null, \"pre_tokenizer\": {\"type\": "
        "\"ByteLevel\", \"add_prefix_space\": false}, \"post_processor\": null, \"decoder\": {\"type\": "
        "\"ByteLevel\"}, \"model\": {\"type\": \"BPE\", \"unk_token\": null, \"byte_fallback\": false, "
        "\"vocab\": "
        "{\"a\": 0, \"b\": 1, \"ab\": 2}, \"merges\": [\"a b\"]}}");
    put_weights(arena, syl_arena_printf(arena, "%s/model.safetensors", folder), s);
    return folder;
}

static void remove_model(syl_arena *arena, const char *folder) {
    static const char *const files[] = {"config.json", "tokenizer.json", "model.safetensors"};
    for (int i = 0; i < 3; i++) unlink(syl_arena_printf(arena, "%s/%s", folder, files[i]));
    rmdir(folder);
}

/* ---- their kernels ---- */

typedef struct program {
    syl_model model;
    syl_materializer *materializer;
    syl_plan *plan;
} program;

typedef struct candidate {
    const kir_kernel *kernel;
    const char *from, *text; /* its kernel IR without the name */
} candidate;

static struct {
    fixture f;
    SYL_VEC(program *) programs;
    SYL_VEC(candidate) kernels; /* all different */
    bool have_nvrtc;
} suite;

static void add_kernels(const char *input, const char *recipe) {
    fixture *f = &suite.f;
    program *p = SYL_NEW(&f->arena, program);
    syl_compile_options options = {.recipe = recipe};
    fixture_ok(f, syl_compile_front(input, &options, f->diag, &p->model));
    fixture_ok(f, syl_materialize_begin(p->model.module, f->diag, &p->materializer));
    fixture_ok(f, syl_plan_create_cuda(p->model.module, f->diag, &p->plan));
    SYL_PUSH(&f->arena, &suite.programs, p);
    const char *slash = strrchr(input, '/');
    for (size_t i = 0; i < p->plan->kernels.n; i++) {
        kir_kernel nameless = *p->plan->kernels.p[i];
        syl_text text = {.arena = &f->arena};
        bool known = false;
        nameless.name = "";
        kir_print(&nameless, &text);
        for (size_t k = 0; k < suite.kernels.n && !known; k++)
            known = strcmp(suite.kernels.p[k].text, text.p) == 0;
        if (known) continue;
        SYL_PUSH(&f->arena, &suite.kernels,
                 (candidate){p->plan->kernels.p[i],
                             syl_arena_printf(&f->arena, "%s %s", slash ? slash + 1 : input, recipe),
                             text.p});
    }
}

static int open_suite(void **state) {
    syl_nvrtc_place place;
    fixture *f = &suite.f;
    fixture_open(f, 1);
    syl_diag *quiet = syl_diag_create(NULL, NULL);
    suite.have_nvrtc = getenv("SYL_NVRTC") || syl_nvrtc_find(&f->arena, quiet, &place) == SYL_OK;
    syl_diag_destroy(quiet);
    assert_int_equal(make_folder(state), 0);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const char *folder = put_model(&f->arena, &shapes[i]);
        for (int r = 0; shapes[i].recipes[r]; r++) add_kernels(folder, shapes[i].recipes[r]);
        remove_model(&f->arena, folder); /* open files stay */
    }
    for (int r = 0; picture_recipes[r]; r++)
        add_kernels(SYL_SOURCE_DIR "/examples/emoji-dit/graph.json", picture_recipes[r]);
    return 0;
}

static int close_suite(void **state) {
    for (size_t i = 0; i < suite.programs.n; i++) {
        program *p = suite.programs.p[i];
        syl_plan_destroy(p->plan);
        syl_materialize_end(p->materializer);
        syl_model_close(&p->model);
    }
    fixture_close(&suite.f);
    return remove_folder(state);
}

/* ---- instances ---- */

enum { CAP = 256, ROWS_FEW = 1, ROWS_SOME = 24, ROWS_MANY = 512 };

typedef struct instances {
    SYL_VEC(syl_cuda_job) jobs;
    SYL_VEC(const char *) from;
} instances;

static void add_instance(instances *in, const candidate *c, const syl_cuda_variant *variant) {
    for (size_t i = 0; i < in->jobs.n; i++) {
        const syl_cuda_job *job = &in->jobs.p[i];
        if (job->kernel == c->kernel && memcmp(&job->variant, variant, sizeof *variant) == 0) return;
    }
    SYL_PUSH(&suite.f.arena, &in->jobs, (syl_cuda_job){.kernel = c->kernel, .variant = *variant});
    SYL_PUSH(&suite.f.arena, &in->from, c->from);
}

static bool is_covered(const instances *in, int family, int parameter, int value) {
    for (size_t i = 0; i < in->jobs.n; i++) {
        const syl_cuda_variant *v = &in->jobs.p[i].variant;
        if ((int)v->family == family && v->values[parameter] == value) return true;
    }
    return false;
}

/* What would run: the best variant for one row, some and many, in turn. An instance takes NVRTC a third of a second and more, so each
 * architecture gets a part of the kernels, each another one; SYL_TEST_ALL in the environment: all of them. */
static void choose_best(instances *in, const syl_cuda_target *target, size_t index) {
    static const int64_t rows[] = {ROWS_FEW, ROWS_MANY, ROWS_SOME};
    static const size_t parts[SYL_CUDA_ARCHS] = {8, 4, 8, 8, 1, 8, 8};
    size_t part = getenv("SYL_TEST_ALL") ? 1 : parts[index];
    syl_cuda_variant variants[CAP];
    for (size_t k = 0; k < suite.kernels.n; k++) {
        const candidate *c = &suite.kernels.p[k];
        int n = syl_cuda_variants(c->kernel, target, rows[k % 3], variants, CAP);
        if (n < 1) fail_msg("%s: no variant of %s for %s", target->name, c->kernel->name, c->from);
        if (k % part == index % part) add_instance(in, c, &variants[0]);
    }
}

/* And one instance for each value of a parameter that none of them has, where any kernel can have it. */
static void cover_values(instances *in, const syl_cuda_target *target) {
    syl_cuda_variant variants[CAP];
    for (size_t k = 0; k < suite.kernels.n; k++) {
        int n = syl_cuda_variants(suite.kernels.p[k].kernel, target, ROWS_SOME, variants, CAP);
        for (int i = 0; i < n; i++) {
            syl_cuda_parameter parameter;
            bool fresh = false;
            for (int p = 0; syl_cuda_parameter_of(variants[i].family, p, &parameter); p++)
                fresh = fresh || !is_covered(in, (int)variants[i].family, p, variants[i].values[p]);
            if (fresh) add_instance(in, &suite.kernels.p[k], &variants[i]);
        }
    }
}

/* ---- the check ---- */

typedef struct summary {
    int instances, registers;
    int64_t spills, shared;
    double seconds;
} summary;

static void check_instance(const syl_cuda_job *job, const char *from, const syl_cuda_code *code,
                           const struct syl_cuda_arch *arch, summary *out, syl_text *wrong) {
    const syl_cuda_family_info *row = &syl_cuda_families[job->variant.family];
    const syl_cuda_resources *r = &code->resources;
    int64_t spills = r->spill_stores + r->spill_loads, shared = r->shared + code->launch.shared;
    out->instances++;
    out->seconds += code->seconds;
    if (r->registers > out->registers) out->registers = r->registers;
    if (spills > out->spills) out->spills = spills;
    if (shared > out->shared) out->shared = shared;
    if (r->spill_stores >= 0 && r->shared >= 0 && r->registers <= row->registers && spills <= row->spills &&
        shared <= arch->shared && !r->serialized && r->registers * code->launch.threads <= 65536)
        return;
    syl_text variant = {.arena = &suite.f.arena};
    syl_cuda_variant_print(&job->variant, &variant);
    syl_text_printf(wrong,
                    "  %s: kernel %s of %s, %s: %d registers in %d threads, %lld bytes spilled, %lld of "
                    "shared memory%s\n",
                    arch->name, job->kernel->name, from, variant.p, r->registers, code->launch.threads,
                    (long long)spills, (long long)shared, r->serialized ? ", wgmma serialized" : "");
}

static void print_summary(const struct syl_cuda_arch *arch, const summary *of) {
    for (int i = 0; i < SYL_CUDA_FAMILY_COUNT; i++) {
        if (!of[i].instances) continue;
        printf("%-8s %-15s %4d instances  %3d of %3d registers  %4lld of %4d bytes spilled  %6lld of %6lld "
               "bytes shared  %5.1f s\n",
               arch->name, syl_cuda_families[i].name, of[i].instances, of[i].registers,
               syl_cuda_families[i].registers, (long long)of[i].spills, syl_cuda_families[i].spills,
               (long long)of[i].shared, (long long)arch->shared, of[i].seconds);
    }
}

static void rows_keep_their_limits(void **state) {
    const struct syl_cuda_arch *arch = *state;
    int index = (int)(arch - syl_cuda_archs);
    fixture *f = &suite.f;
    syl_cuda_target target;
    syl_cuda_binaries *b;
    syl_cuda_compile_options options = {.threads = 0};
    instances in = {0};
    summary of[SYL_CUDA_FAMILY_COUNT] = {0};
    syl_text wrong = {.arena = &f->arena};
    const char *only = getenv("SYL_TEST_ARCH");
    if (!suite.have_nvrtc || (only && strcmp(only, arch->name) != 0)) skip();
    clock_t start = clock();
    assert_true(syl_cuda_target_named(arch->name, &target));
    choose_best(&in, &target, (size_t)index);
    cover_values(&in, &target);
    fixture_ok(f, syl_cuda_compile(in.jobs.p, in.jobs.n, &target, &options, f->diag, &b));
    for (size_t i = 0; i < in.jobs.n; i++)
        check_instance(&in.jobs.p[i], in.from.p[i], &b->codes[i], arch, &of[in.jobs.p[i].variant.family],
                       &wrong);
    syl_cuda_binaries_destroy(b);
    print_summary(arch, of);
    printf("%-8s %zu of %zu kernels and variants in %.1f s of processor time\n", arch->name, in.jobs.n,
           suite.kernels.n, (double)(clock() - start) / CLOCKS_PER_SEC);
    for (int i = 0; i < SYL_CUDA_FAMILY_COUNT; i++) {
        bool claimed = syl_cuda_families[i].archs >> index & 1;
        if (claimed && !of[i].instances)
            syl_text_printf(&wrong, "  %s: no kernel has a variant of %s\n", arch->name,
                            syl_cuda_families[i].name);
        if (!claimed && of[i].instances)
            syl_text_printf(&wrong, "  %s: %s does not claim it\n", arch->name, syl_cuda_families[i].name);
    }
    if (!wrong.p) return;
    printf("%s", wrong.p); /* however long: the library cuts messages */
    fail_msg("%s: outside the bounds of kernels.def, as listed above", arch->name);
}

/* A value that no kernel can have on any architecture should not stand in the table. */
static void every_value_is_used(void **state) {
    syl_cuda_variant variants[CAP];
    instances all = {0};
    (void)state;
    for (int a = 0; a < SYL_CUDA_ARCHS; a++) {
        syl_cuda_target target;
        assert_true(syl_cuda_target_named(syl_cuda_archs[a].name, &target));
        for (size_t k = 0; k < suite.kernels.n; k++) {
            int n = syl_cuda_variants(suite.kernels.p[k].kernel, &target, ROWS_MANY, variants, CAP);
            assert_in_range(n, 1, CAP - 1);
            for (int i = 0; i < n; i++) {
                syl_cuda_parameter parameter;
                for (int p = 0; syl_cuda_parameter_of(variants[i].family, p, &parameter); p++)
                    if (!is_covered(&all, (int)variants[i].family, p, variants[i].values[p]))
                        add_instance(&all, &suite.kernels.p[k], &variants[i]);
            }
        }
    }
    for (int family = 0; family < SYL_CUDA_FAMILY_COUNT; family++) {
        syl_cuda_parameter parameter;
        for (int p = 0; syl_cuda_parameter_of((syl_cuda_family)family, p, &parameter); p++)
            for (int i = 0; i < parameter.n; i++)
                if (!is_covered(&all, family, p, parameter.choices[i]))
                    fail_msg("%s: no kernel can have %.*s=%d", syl_cuda_families[family].name,
                             parameter.name_size, parameter.name, parameter.choices[i]);
    }
}

int main(void) {
    struct CMUnitTest tests[SYL_CUDA_ARCHS + 1] = {cmocka_unit_test(every_value_is_used)};
    for (int i = 0; i < SYL_CUDA_ARCHS; i++)
        tests[i + 1] = (struct CMUnitTest){syl_cuda_archs[i].name, rows_keep_their_limits, NULL, NULL,
                                           (void *)(uintptr_t)&syl_cuda_archs[i]};
    return cmocka_run_group_tests(tests, open_suite, close_suite);
}
