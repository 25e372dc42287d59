/* Hands out the work of materialize (materialize.h), in waves of tensors that follow each other.
 *
 * The more threads there are, the longer is a wave: many tensors are one block, which one thread evaluates.
 *
 * A wave first hashes its leaves, which gives the keys of its tensors; takes those that the store has; then
 * evaluates the others block by block over all threads, each block handed to the sink and filed at once. The
 * leaves' pages are still in the page cache then, and only a wave's worth of them is needed at a time.
 *
 * What is stored depends on neither waves nor threads. Blocks in flight share a budget of memory: a block that
 * does not fit waits until others are done, and the largest goes alone. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/size.h"
#include "driver/machine.h"
#include "driver/materialize_plan.h"

enum {
    BLOCK_ELEMENTS = 256 << 10,
    WAVE_ELEMENTS = 64 << 20, /* a thread: 128 MiB of 16-bit weights */
    WAVE_TENSORS = 64
};

void syl_materialize_keep(syl_materializer *m, syl_store *store) {
    m->store = store;
}

void syl_materialize_memory(syl_materializer *m, int64_t bytes) {
    m->memory = bytes;
}

syl_materialize_stats syl_materialize_counts(const syl_materializer *m) {
    return m->stats;
}

static int64_t bytes_of(const mat_root *root) {
    int64_t bytes = 0;
    for (int p = 0; p < root->shape.parts; p++) bytes += (int64_t)root->shape.size[p];
    return bytes;
}

int64_t syl_materialize_bytes(const syl_materializer *m) {
    int64_t bytes = 0;
    for (size_t r = 0; r < m->roots.n; r++) {
        if (__builtin_add_overflow(bytes, bytes_of(&m->roots.p[r]), &bytes)) return INT64_MAX;
    }
    return bytes;
}

static int64_t elements_of(const mat_root *root) {
    return root->node->rows * root->node->cols;
}

/* ---- blocks and their memory ---- */

static int64_t greatest_divisor(int64_t a, int64_t b) {
    return b ? greatest_divisor(b, a % b) : a;
}

/* The row count that blocks of `node` should be multiples of; at most its rows. */
static int64_t granule(const mat_node *node) {
    int64_t result = 1;
    if (node->op->code == SYL_OP_hadamard && node->axis == 0) result = node->block;
    if (node->op->code == SYL_OP_low_rank_split && node->result < 2) return 1;
    int n = node->op->code == SYL_OP_scale ? 1 : node->n_inputs;
    for (int i = 0; i < n; i++) {
        int64_t g = granule(node->inputs[i]);
        result = result / greatest_divisor(result, g) * g;
        if (result >= node->rows) return node->rows;
    }
    return result;
}

int64_t mat_task_rows(const mat_root *root) {
    int64_t unit = granule(root->node), rows = syl_ceil_div(BLOCK_ELEMENTS, root->node->cols);
    rows = syl_ceil_div(rows, unit) * unit;
    return rows < root->node->rows ? rows : root->node->rows;
}

static int64_t matrix_bytes(int64_t rows, int64_t cols) {
    size_t cells, bytes;
    bool ok = syl_size_mul((size_t)rows, (size_t)cols, &cells) && syl_size_mul(cells, sizeof(double), &bytes);
    return ok && bytes < INT64_MAX / 16 ? (int64_t)bytes : INT64_MAX / 16;
}

/* Beyond the block of `rows` rows that a node is evaluated into. */
static int64_t extra_bytes(const mat_node *node, int64_t rows) {
    int64_t most = 0;
    for (int i = 0; i < node->n_inputs; i++) {
        const mat_node *input = node->inputs[i];
        int64_t input_rows = input->rows < rows ? input->rows : rows, block = 0;
        switch (node->op->code) {
        case SYL_OP_low_rank_split: /* W, R and the work of the decomposition; U and D are small */
            input_rows = input->rows;
            block = (syl_attr_int(node->op, "rounds") > 0 ? 4 : 3) * matrix_bytes(input->rows, input->cols);
            break;
        case SYL_OP_scale:
            block = i == 1 ? matrix_bytes(input->rows, 1) : 0;
            break;
        case SYL_OP_concat:
        case SYL_OP_slice:
            block = node->axis == 1 ? matrix_bytes(input_rows, input->cols) : 0;
            break;
        case SYL_OP_hadamard: /* blocks that the asked rows cut */
            input_rows = node->axis == 0 && rows + 2 * node->block < input->rows ? rows + 2 * node->block
                         : node->axis == 0                                       ? input->rows
                                                                                 : rows;
            block = node->axis == 0 && granule(node) > rows ? matrix_bytes(input_rows, input->cols) : 0;
            break;
        default:
            break;
        }
        block += extra_bytes(input, input_rows);
        if (block > most) most = block;
    }
    return most < INT64_MAX / 16 ? most : INT64_MAX / 16;
}

int64_t mat_task_bytes(const mat_root *root, int64_t rows) {
    int64_t block = matrix_bytes(rows, root->node->cols);
    return block + block / 2 + extra_bytes(root->node, rows); /* the half: codes and their scales */
}

/* Waits until the bytes fit the budget; one task is always let through. */
static void take_memory(run_state *run, int64_t bytes) {
    pthread_mutex_lock(&run->lock);
    while (run->in_use > 0 && run->in_use + bytes > run->budget) pthread_cond_wait(&run->freed, &run->lock);
    run->in_use += bytes;
    pthread_mutex_unlock(&run->lock);
}

static void give_memory(run_state *run, int64_t bytes) {
    pthread_mutex_lock(&run->lock);
    run->in_use -= bytes;
    pthread_cond_broadcast(&run->freed);
    pthread_mutex_unlock(&run->lock);
}

static void fail(run_state *run, syl_status status) {
    int expected = SYL_OK;
    atomic_compare_exchange_strong(&run->status, &expected, status);
}

static bool failed(run_state *run) {
    return atomic_load_explicit(&run->status, memory_order_relaxed) != SYL_OK;
}

static void advance(run_state *run, int64_t elements) {
    pthread_mutex_lock(&run->lock);
    run->done += elements;
    if (run->progress) run->progress(run->progress_user, run->done, run->total);
    pthread_mutex_unlock(&run->lock);
}

/* ---- keys ---- */

static const syl_weights *source_of(const syl_materializer *m, const mat_node *leaf) {
    return m->sources[syl_attr_int(leaf->op, "source")];
}

typedef SYL_VEC(mat_node *) node_list;

static void collect_leaves(syl_materializer *m, mat_node *node, node_list *out) {
    for (int i = 0; i < node->n_inputs; i++) collect_leaves(m, node->inputs[i], out);
    if (node->op->code != SYL_OP_weight || node->content.hex[0]) return;
    node->content.hex[0] = '?'; /* collected */
    SYL_PUSH(&m->arena, out, node);
}

typedef struct node_work {
    run_state *run;
    node_list nodes;
} node_work;

static void hash_leaves(void *user, int64_t begin, int64_t end, int thread) {
    (void)thread;
    node_work *work = user;
    for (int64_t i = begin; i < end && !failed(work->run); i++) {
        mat_node *leaf = work->nodes.p[i];
        syl_hash content;
        if (syl_weights_hash(source_of(work->run->m, leaf), syl_attr_str(leaf->op, "name"), content.hex)) {
            leaf->content = content;
        } else {
            fail(work->run, syl_error(work->run->m->diag, SYL_ERR_out_of_memory, leaf->op->loc,
                                      "no memory to hash weight \"%s\"", syl_attr_str(leaf->op, "name")));
        }
    }
}

static void print_attr(const syl_attr *attr, syl_text *out) {
    syl_text_printf(out, " %s=", attr->name);
    switch (attr->kind) {
    case SYL_ATTR_INT:
        syl_text_printf(out, "%lld", (long long)attr->i);
        break;
    case SYL_ATTR_FLOAT:
        syl_text_printf(out, "%a", attr->f);
        break;
    case SYL_ATTR_BOOL:
        syl_text_printf(out, "%d", attr->b);
        break;
    case SYL_ATTR_STR:
    case SYL_ATTR_ENUM:
        syl_text_printf(out, "%s", attr->s);
        break;
    case SYL_ATTR_INTS:
        for (int i = 0; i < attr->ints.n; i++) syl_text_printf(out, "%lld,", (long long)attr->ints.p[i]);
        break;
    }
}

/* The canonical text of an op: what it computes, without names. Attributes stand sorted, as the IR keeps them. */
static void print_op(const syl_op *op, syl_text *out) {
    syl_text_printf(out, "%s", syl_ops[op->code].name);
    for (size_t i = 0; i < op->attrs.n; i++) print_attr(&op->attrs.p[i], out);
    for (int i = 0; i < op->n_results; i++) {
        syl_text_printf(out, " ");
        syl_type_print(&op->results[i].type, out);
    }
}

static void print_node(const mat_node *node, syl_text *out) {
    syl_text_printf(out, "(");
    if (node->op->code == SYL_OP_weight) {
        syl_text_printf(out, "weight %s ", node->content.hex);
        syl_type_print(&syl_result(node->op)->type, out);
    } else {
        print_op(node->op, out);
        syl_text_printf(out, " #%d", node->result);
    }
    for (int i = 0; i < node->n_inputs; i++) print_node(node->inputs[i], out);
    syl_text_printf(out, ")");
}

static syl_hash key_of(const mat_root *root) {
    syl_arena arena;
    syl_arena_init(&arena);
    syl_text text = {.arena = &arena};
    syl_text_printf(&text, "evaluator %d: ", SYL_EVALUATOR);
    print_op(root->op, &text);
    print_node(root->node, &text);
    syl_hash key = syl_hash_bytes(text.p, text.n);
    syl_arena_free(&arena);
    return key;
}

/* ---- the store ---- */

typedef struct hand_on {
    run_state *run;
    const mat_root *root;
} hand_on;

static syl_status hand_part(void *user, int part, size_t offset, const void *data, size_t size) {
    hand_on *to = user;
    return to->run->out(to->run->out_user, to->root->name, part, offset, data, size);
}

static void look_up(void *user, int64_t begin, int64_t end, int thread) {
    (void)thread;
    run_state *run = user;
    for (int64_t i = begin; i < end && !failed(run); i++) {
        mat_root *root = &run->m->roots.p[run->wave_begin + (size_t)i];
        hand_on to = {run, root};
        root->key = key_of(root);
        root->have_key = true;
        syl_status status =
            syl_store_load(run->m->store, &root->key, &root->shape, hand_part, &to, &root->done);
        if (status != SYL_OK) fail(run, status);
        if (root->done) advance(run, elements_of(root));
    }
}

/* The sink of the evaluation: files what it hands on. */
static syl_status file_and_hand_on(void *user, const char *name, int part, size_t offset, const void *data,
                                   size_t size) {
    run_state *run = user;
    mat_root *root = syl_map_get_str(&run->roots, name);
    SYL_TRY(run->out(run->out_user, name, part, offset, data, size));
    if (root && root->entry) syl_store_put(root->entry, part, offset, data, size);
    return SYL_OK;
}

static void open_entry(run_state *run, mat_root *root) {
    if (!root->have_key) return;
    pthread_mutex_lock(&root->lock);
    if (!root->opened) root->entry = syl_store_begin(run->m->store, &root->key, &root->shape);
    root->opened = true;
    pthread_mutex_unlock(&root->lock);
}

static void close_entry(mat_root *root, bool keep) {
    syl_store_end(root->entry, keep);
    root->entry = NULL;
}

/* ---- waves ---- */

static void run_tasks(void *user, int64_t begin, int64_t end, int thread) {
    (void)thread;
    run_state *run = user;
    for (int64_t t = begin; t < end && !failed(run); t++) {
        const mat_task *task = &run->m->tasks.p[t];
        mat_root *root = &run->m->roots.p[task->root];
        int64_t bytes = mat_task_bytes(root, task->end - task->begin);
        take_memory(run, bytes);
        open_entry(run, root);
        syl_status status = mat_run_task(run, task);
        give_memory(run, bytes);
        if (status != SYL_OK) {
            fail(run, status);
            return;
        }
        if (atomic_fetch_sub(&root->tasks_left, 1) == 1) close_entry(root, true);
        advance(run, (task->end - task->begin) * root->node->cols);
    }
}

static int compare_tasks(const void *a, const void *b, void *user) {
    const syl_materializer *m = user;
    const mat_task *x = a, *y = b;
    int64_t x_size = (x->end - x->begin) * m->roots.p[x->root].node->cols;
    int64_t y_size = (y->end - y->begin) * m->roots.p[y->root].node->cols;
    if (x_size != y_size) return x_size < y_size ? 1 : -1;
    return x->root != y->root ? (x->root > y->root) - (x->root < y->root)
                              : (x->begin > y->begin) - (x->begin < y->begin);
}

static void cut_into_tasks(run_state *run) {
    syl_materializer *m = run->m;
    m->tasks.n = 0;
    for (size_t r = run->wave_begin; r < run->wave_end; r++) {
        mat_root *root = &m->roots.p[r];
        if (root->done) continue;
        int64_t rows = mat_task_rows(root), total = root->node->rows;
        atomic_store(&root->tasks_left, (int)syl_ceil_div(total, rows));
        for (int64_t begin = 0; begin < total; begin += rows) {
            int64_t end = begin + rows < total ? begin + rows : total;
            SYL_PUSH(&m->arena, &m->tasks, (mat_task){r, begin, end});
        }
    }
    /* The longest first, so that no thread begins one when the others are done. */
    if (m->tasks.n) qsort_r(m->tasks.p, m->tasks.n, sizeof *m->tasks.p, compare_tasks, m);
}

static void find_wave(run_state *run, int threads) {
    const syl_materializer *m = run->m;
    const int64_t enough = (int64_t)WAVE_ELEMENTS * threads;
    int64_t elements = 0;
    size_t end = run->wave_begin;
    while (end < m->roots.n && end - run->wave_begin < WAVE_TENSORS && elements < enough)
        elements += elements_of(&m->roots.p[end++]);
    run->wave_end = end;
}

static void find_keys(run_state *run, syl_pool *pool) {
    node_work work = {.run = run};
    for (size_t r = run->wave_begin; r < run->wave_end; r++)
        collect_leaves(run->m, run->m->roots.p[r].node, &work.nodes);
    syl_pool_for(pool, (int64_t)work.nodes.n, 1, hash_leaves, &work);
}

/* Factors whose last reader was in the wave are of no use any more; a reader of a later wave finds them anew. */
static void drop_factors(syl_materializer *m) {
    for (size_t i = 0; i < m->factors.entries.n; i++) {
        mat_factors *factors = m->factors.entries.p[i].value;
        free(factors->u);
        free(factors->d);
        factors->u = factors->d = NULL;
    }
}

/* Splits whose factors the wave needs, each once: they are found first, so that threads work on several at a time
 * and none waits for another's. */
static void collect_splits(syl_materializer *m, mat_node *node, node_list *out) {
    for (int i = 0; i < node->n_inputs; i++) collect_splits(m, node->inputs[i], out);
    for (size_t i = 0; i < out->n; i++) {
        if (out->p[i]->factors == node->factors) return;
    }
    if (node->factors) SYL_PUSH(&m->arena, out, node);
}

static void find_factors(void *user, int64_t begin, int64_t end, int thread) {
    (void)thread;
    node_work *work = user;
    for (int64_t i = begin; i < end && !failed(work->run); i++) {
        int64_t bytes = extra_bytes(work->nodes.p[i], 0);
        take_memory(work->run, bytes);
        syl_status status = mat_find_factors(work->run, work->nodes.p[i]);
        give_memory(work->run, bytes);
        if (status != SYL_OK) fail(work->run, status);
    }
}

static void run_wave(run_state *run, syl_pool *pool) {
    syl_materializer *m = run->m;
    if (m->store) {
        find_keys(run, pool);
        if (!failed(run)) syl_pool_for(pool, (int64_t)(run->wave_end - run->wave_begin), 1, look_up, run);
    }
    if (failed(run)) return;
    node_work splits = {.run = run};
    for (size_t r = run->wave_begin; r < run->wave_end; r++) {
        if (!m->roots.p[r].done) collect_splits(m, m->roots.p[r].node, &splits.nodes);
    }
    syl_pool_for(pool, (int64_t)splits.nodes.n, 1, find_factors, &splits);
    cut_into_tasks(run);
    syl_pool_for(pool, (int64_t)m->tasks.n, 1, run_tasks, run);
    drop_factors(m);
    for (size_t r = run->wave_begin; r < run->wave_end; r++) {
        close_entry(&m->roots.p[r], false); /* open still: after a failure */
        m->stats.tensors++;
        m->stats.reused += m->roots.p[r].done;
    }
}

static void begin_run(run_state *run, syl_materializer *m) {
    *run = (run_state){.m = m, .sink = file_and_hand_on};
    run->sink_user = run;
    run->budget = m->memory ? m->memory : syl_machine_memory() / 2;
    pthread_mutex_init(&run->lock, NULL);
    pthread_cond_init(&run->freed, NULL);
    syl_map_init(&run->roots, &m->arena);
    m->stats = (syl_materialize_stats){0};
    for (size_t r = 0; r < m->roots.n; r++) {
        mat_root *root = &m->roots.p[r];
        run->total += elements_of(root);
        root->done = root->opened = false;
        pthread_mutex_init(&root->lock, NULL);
        *syl_map_slot(&run->roots, root->name, strlen(root->name), NULL) = root;
    }
}

static syl_status end_run(run_state *run) {
    for (size_t r = 0; r < run->m->roots.n; r++) pthread_mutex_destroy(&run->m->roots.p[r].lock);
    pthread_cond_destroy(&run->freed);
    pthread_mutex_destroy(&run->lock);
    return (syl_status)atomic_load(&run->status);
}

syl_status syl_materialize_run(syl_materializer *m, syl_pool *pool, syl_materialize_sink sink,
                               void *sink_user, syl_materialize_progress progress, void *progress_user) {
    run_state run;
    begin_run(&run, m);
    run.out = sink;
    run.out_user = sink_user;
    run.progress = progress;
    run.progress_user = progress_user;
    for (; run.wave_begin < m->roots.n && !failed(&run); run.wave_begin = run.wave_end) {
        find_wave(&run, syl_pool_threads(pool));
        run_wave(&run, pool);
    }
    return end_run(&run);
}

/* ---- the forecast ---- */

enum { MEASURE_SECONDS = 2 };

static syl_status swallow(void *user, const char *name, int part, size_t offset, const void *data,
                          size_t size) {
    (void)user, (void)name, (void)part, (void)offset, (void)data, (void)size;
    return SYL_OK;
}

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* What makes blocks cost the same: the ops and the sizes, whatever the weights. */
static void print_kind(const mat_node *node, syl_text *out) {
    syl_text_printf(out, "(%s %lld %lld", syl_ops[node->op->code].name, (long long)node->rows,
                    (long long)node->cols);
    for (int i = 0; i < node->n_inputs; i++) print_kind(node->inputs[i], out);
    syl_text_printf(out, ")");
}

/* One block of each kind is evaluated by the calling thread, until the time is up; kinds beyond it are assumed to
 * cost as much an element as those before. */
static syl_status measure(run_state *run, double *seconds) {
    syl_materializer *m = run->m;
    syl_map rates; /* kind -> double *, seconds an element */
    syl_map_init(&rates, &m->arena);
    double start = seconds_now(), spent = 0, known = 0;
    int64_t unknown = 0, sampled = 0;
    run->out = swallow;
    for (size_t r = 0; r < m->roots.n; r++) {
        mat_root *root = &m->roots.p[r];
        if (root->done) continue;
        syl_text kind = {.arena = &m->arena};
        syl_text_printf(&kind, "%d %s ", (int)root->dtype, syl_attr_str(root->op, "clip"));
        print_kind(root->node, &kind);
        void **slot = syl_map_slot(&rates, kind.p, kind.n, NULL);
        if (!*slot && seconds_now() - start < MEASURE_SECONDS) {
            double *rate = SYL_NEW(&m->arena, double);
            mat_task task = {r, 0, mat_task_rows(root)};
            int64_t cells = task.end * root->node->cols;
            double before = seconds_now();
            SYL_TRY(mat_run_task(run, &task));
            *rate = (seconds_now() - before) / (double)cells;
            spent += *rate * (double)cells;
            sampled += cells;
            *slot = rate;
            drop_factors(m);
        }
        if (*slot) {
            known += *(const double *)*slot * (double)elements_of(root);
        } else {
            unknown += elements_of(root);
        }
    }
    *seconds = known + (sampled ? spent / (double)sampled * (double)unknown : 0);
    return SYL_OK;
}

/* What `threads` blocks at once take: the largest ones, within the budget. */
static int64_t peak_memory(const run_state *run, int threads) {
    const syl_materializer *m = run->m;
    int64_t largest = 0;
    for (size_t r = 0; r < m->roots.n; r++) {
        int64_t bytes =
            m->roots.p[r].done ? 0 : mat_task_bytes(&m->roots.p[r], mat_task_rows(&m->roots.p[r]));
        if (bytes > largest) largest = bytes;
    }
    int64_t together = largest < INT64_MAX / threads ? largest * threads : INT64_MAX;
    int64_t bound = run->budget > largest ? run->budget : largest;
    return together < bound ? together : bound;
}

static syl_status hash_and_find(run_state *run, syl_pool *pool) {
    run->wave_begin = 0;
    run->wave_end = run->m->roots.n;
    find_keys(run, pool);
    for (size_t r = 0; r < run->m->roots.n && !failed(run); r++) {
        mat_root *root = &run->m->roots.p[r];
        root->key = key_of(root);
        root->done = syl_store_has(run->m->store, &root->key, &root->shape);
    }
    return (syl_status)atomic_load(&run->status);
}

syl_status syl_materialize_estimate(syl_materializer *m, syl_pool *pool, syl_materialize_forecast *out) {
    run_state run;
    *out = (syl_materialize_forecast){0};
    begin_run(&run, m);
    syl_status status = m->store ? hash_and_find(&run, pool) : SYL_OK;
    for (size_t r = 0; r < m->roots.n; r++) {
        const mat_root *root = &m->roots.p[r];
        out->tensors++;
        out->reused += root->done;
        if (!root->done) out->new_bytes += bytes_of(root);
    }
    out->bytes = syl_materialize_bytes(m);
    int threads = syl_pool_threads(pool);
    out->memory = peak_memory(&run, threads);
    if (status == SYL_OK) status = measure(&run, &out->seconds);
    out->seconds /= threads;
    syl_status ended = end_run(&run);
    return status == SYL_OK ? ended : status;
}
