/* What the tests of passes share: modules from text and at random, pipelines run on them, diagnostics as
 * text. */
#ifndef TESTS_UNIT_PASSES_TESTING_H
#define TESTS_UNIT_PASSES_TESTING_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "ir_random.h"
#include "passes/pass.h"

typedef struct bench {
    syl_arena arena;
    syl_text messages; /* everything reported, rendered */
    syl_diag *diag;
} bench;

static inline void bench_open(bench *b) {
    memset(b, 0, sizeof *b);
    syl_arena_init(&b->arena);
    b->messages.arena = &b->arena;
    b->diag = syl_diag_create(syl_diag_capture, &b->messages);
    assert_non_null(b->diag);
}

static inline void bench_close(bench *b) {
    syl_diag_destroy(b->diag);
    syl_arena_free(&b->arena);
}

static inline bool bench_said(const bench *b, const char *text) {
    return b->messages.p && strstr(b->messages.p, text);
}

static inline const char *bench_print(bench *b, const syl_module *module) {
    syl_text text = {.arena = &b->arena};
    syl_module_print(module, &text);
    return text.p;
}

static inline syl_module *bench_parse(bench *b, const char *text) {
    syl_source *source = SYL_NEW(&b->arena, syl_source);
    *source = (syl_source){"test.sir", text, strlen(text)};
    syl_module *module = NULL;
    if (syl_module_parse(source, b->diag, &module) != SYL_OK) fail_msg("%s", b->messages.p);
    return module;
}

static inline syl_status bench_run_with(bench *b, syl_module *module, const char *passes,
                                        const syl_pass_options *options) {
    syl_source source = {"passes", passes, strlen(passes)};
    syl_pipeline *pipeline;
    SYL_TRY(syl_pipeline_parse(&b->arena, &source, b->diag, &pipeline));
    return syl_pipeline_run(pipeline, module, b->diag, options);
}

/* Runs passes that must succeed. */
static inline void bench_run(bench *b, syl_module *module, const char *passes) {
    if (bench_run_with(b, module, passes, NULL) != SYL_OK) fail_msg("%s: %s", passes, b->messages.p);
}

static inline const char *bench_recipe(bench *b, const char *name) {
    syl_recipe recipe;
    if (syl_recipe_load(&b->arena, name, b->diag, &recipe) != SYL_OK) fail_msg("%s", b->messages.p);
    return recipe.pipeline;
}

/* Random sizes; every third graph has some that no single Hadamard matrix fits: blocks of 2 and 4, or none.
 */
static inline void bench_sizes(uint64_t seed, ir_random *r) {
    static const int64_t widths[] = {6, 7, 22, 34, 92}, head_dims[] = {6, 8, 10}, hiddens[] = {9, 10, 44, 46};
    ir_random_sizes(seed, r);
    if (seed % 3 != 0) return;
    r->width = widths[seed / 3 % 5];
    r->head_dim = r->rope_dims = head_dims[seed / 3 % 3];
    r->hidden = hiddens[seed / 3 % 4];
}

static inline int bench_count(const syl_block *block, syl_opcode code) {
    int n = 0;
    for (const syl_op *op = block->first; op; op = op->next) {
        n += op->code == code;
        if (op->body) n += bench_count(op->body, code);
    }
    return n;
}

/* The value of that name in a function, also inside of regions; fails where there is none. */
static inline syl_value *bench_find(const syl_block *block, const char *name) {
    for (const syl_op *op = block->first; op; op = op->next) {
        for (int i = 0; i < op->n_results; i++)
            if (op->results[i].name && strcmp(op->results[i].name, name) == 0) return &op->results[i];
        for (const syl_op *inner = op->body ? op->body->first : NULL; inner; inner = inner->next)
            for (int i = 0; i < inner->n_results; i++)
                if (inner->results[i].name && strcmp(inner->results[i].name, name) == 0)
                    return &inner->results[i];
    }
    fail_msg("there is no %%%s", name);
    return NULL;
}

#endif
