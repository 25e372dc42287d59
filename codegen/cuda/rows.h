/* Private to the files rows*.c: how a row lies in the registers of its threads, and what is being printed.
 *
 * A row has a fixed number of threads, which depends on the kernel alone: so every sum has one order, however many rows share a block. The
 * columns of a row lie in registers by a layout. Work that needs neighbours goes through an exchange: all write a layout to the row's shared memory and read
 * another one. */
#ifndef SYL_CODEGEN_CUDA_ROWS_H
#define SYL_CODEGEN_CUDA_ROWS_H

#include "codegen/cuda/emit.h"
#include "codegen/rows_layout.h"

/* Where float j of an exchanged row lies: j + (j >> 5) * a + (j >> shift) * b. */
typedef struct rows_padding {
    int a, shift, b;
} rows_padding;

rows_padding rows_choose_padding(const rows_layout *from, const rows_layout *to, int threads,
                                 int64_t row_floats);

/* A loop over a layout's registers, and where its text lies. */
typedef struct rows_loop {
    const char *body; /* NULL: none */
    int layout;
    size_t begin, end;
} rows_loop;

/* What is being printed. */
typedef struct rows_state {
    cu_source *s;
    rows_shape shape;
    int rows_per_block;
    int parts; /* of the block's threads: rows in shared memory; those behind rows_per_block are no rows */
    bool own;  /* each row's threads meet at a barrier of their own */
    int block_threads;
    int64_t shared;    /* where the rows begin in shared memory, bytes */
    const char *first; /* C expression: the block's first row */
    int current;       /* layout of the code being printed */
    rows_layout layouts[ROWS_LAYOUTS];
    int n_layouts;
    bool *have; /* [ROWS_LAYOUTS][body.n]: printed; rows and uniforms count in layout 0 */
    bool busy;  /* the row in shared memory may still be read */
    int reductions, exchanges;
    bool turns;     /* the code is in a loop over rows */
    bool scarce;    /* registers are, for values of all elements */
    rows_loop loop; /* printed last, for elements one by one */
} rows_state;

const char *rows_suffix(rows_state *r, int layout); /* "[e]", "_2[e]" */
const char *rows_array(rows_state *r, int inst, int layout);
const char *rows_meeting(const rows_state *r); /* "128, true": how the threads of a row meet */
void rows_sync(rows_state *r);
void rows_before_writing(rows_state *r);                       /* a sync where the row is still being read */
int rows_use_layout(rows_state *r, const rows_layout *layout); /* its number; declares its columns once */
/* "t + n * 128 < 400", or "true". */
const char *rows_live(rows_state *r, int layout);
/* Array `name` of a layout's registers to or from the row in shared memory. */
void rows_write(rows_state *r, int layout, const char *name, rows_padding padding);
void rows_read(rows_state *r, int layout, const char *name, rows_padding padding);
/* One run of w neighbours, number k of group n: a statement that reads it to the place `to`. */
const char *rows_read_run(rows_state *r, int layout, const char *to, rows_padding padding);
/* The row of registers `name` into shared memory without padding, and a sync: what rope and the like read. */
void rows_publish(rows_state *r, int layout, const char *name);
/* Makes sure that a value is printed, in a layout. */
SYL_NODISCARD syl_status rows_need(rows_state *r, int inst, int layout);
SYL_NODISCARD syl_status rows_need_row(rows_state *r, int inst);

/* rows_hadamard.c: the tables of a kernel, before its function; the transform, whose result is in the layout that is current then. */
SYL_NODISCARD syl_status rows_print_signs(rows_state *r);
SYL_NODISCARD syl_status rows_hadamard(rows_state *r, int inst);
/* rows_wide.c */
void rows_reduce(rows_state *r, int inst, int layout);
void rows_head_norm(rows_state *r, int inst);
void rows_rope(rows_state *r, int inst);
void rows_project(rows_state *r, int inst);
/* rows_cache.c. The page and the place in it, which the code of the append finds there. */
void rows_place_append(rows_state *r, int inst);
void rows_append(rows_state *r, int inst);
void rows_append_codes(rows_state *r, int inst);

#endif
