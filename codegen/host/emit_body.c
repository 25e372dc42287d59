/* The scalar instructions of a body, as row kernels and GEMM epilogues share them.
 *
 * Invariant: an instruction of role UNIFORM or ROW is one scalar value a row; COL and ELEM instructions are one vector a place, computed at most once
 * there. In row kernels a vector that an earlier loop kept is read back, any other is computed again. */
#include "codegen/host/emit.h"

static bool is_scalar(const kir_inst *inst) {
    return inst->role == KIR_UNIFORM || inst->role == KIR_ROW;
}

static bool is_row_wide(kir_op op) {
    return op == KIR_reduce_sum || op == KIR_reduce_max || op == KIR_hadamard || op == KIR_rope ||
           op == KIR_head_norm || op == KIR_append_codes_k || op == KIR_append_codes_v || op == KIR_project;
}

bool em_is_vector_store(kir_op op) {
    return op == KIR_store || op == KIR_append_k || op == KIR_append_v;
}

/* ---- memory ---- */

int em_elem_size(kir_type type) {
    return kir_elem_bytes(type);
}

em_type em_elem_type(em *e, kir_type type) {
    switch (type) {
    case KIR_F32:
        return e->f32;
    case KIR_F64:
        return e->f64;
    case KIR_BF16:
    case KIR_F16:
        return e->i16;
    case KIR_I8:
        return e->i8;
    case KIR_I32:
        return e->i32;
    }
    return NULL;
}

em_value em_load_widened(em *e, kir_type elem, em_value base, em_value index, int lanes) {
    em_type element = em_elem_type(e, elem), type = lanes ? em_vec(element, lanes) : element;
    em_value value = em_load(e, type, em_at(e, element, base, index), em_elem_size(elem));
    switch (elem) {
    case KIR_BF16:
        return em_bf16_to_f32(e, value);
    case KIR_F16:
        return em_f16_to_f32(e, value);
    case KIR_I8:
        return LLVMBuildSExt(e->b, value, em_like(type, e->i32), "");
    default:
        return value;
    }
}

em_value em_load_first(em *e, kir_type elem, em_value base, em_value index, int valid) {
    if (valid >= KIR_LANES) return em_load_widened(e, elem, base, index, KIR_LANES);
    em_type element = em_elem_type(e, elem), type = em_vec(element, KIR_LANES), overloads[] = {type, e->ptr};
    em_value args[] = {em_at(e, element, base, index), em_int(e->i32, em_elem_size(elem)),
                       em_first_lanes(e, valid, KIR_LANES), LLVMConstNull(type)};
    em_value raw = em_intrinsic(e, "llvm.masked.load", overloads, 2, args, 4);
    return elem == KIR_BF16 ? em_bf16_to_f32(e, raw) : elem == KIR_F16 ? em_f16_to_f32(e, raw) : raw;
}

void em_store_rounded(em *e, kir_type elem, em_value base, em_value index, em_value value, int valid) {
    em_type element = em_elem_type(e, elem);
    if (elem == KIR_BF16) value = em_bf16_from_f32(e, value);
    if (elem == KIR_F16) value = em_f16_from_f32(e, value);
    if (elem == KIR_I8 && em_lane(LLVMTypeOf(value)) != e->i8)
        value = LLVMBuildTrunc(e->b, value, em_like(LLVMTypeOf(value), e->i8), "");
    em_value pointer = em_at(e, element, base, index);
    if (em_lanes(LLVMTypeOf(value)))
        em_store_first(e, value, pointer, em_elem_size(elem), valid);
    else
        em_store(e, value, pointer, em_elem_size(elem));
}

/* Address of element (row, col) of a matrix, as base and index. */
static em_value matrix_index(em_body *body, const kir_buffer *buffer, em_value row) {
    return em_mul_add(body->e, row, buffer->stride, body->col);
}

static em_value scalar_of(const em_body *body, int index) {
    return body->scalar[index];
}

static em_value load_vector(em_body *body, const kir_inst *inst) {
    em *e = body->e;
    const kir_buffer *buffer = &e->kernel->buffers.p[inst->buffer];
    em_value index = body->col;
    if (inst->op == KIR_load) index = matrix_index(body, buffer, body->row);
    if (inst->op == KIR_load_at)
        index = matrix_index(body, buffer, LLVMBuildSExt(e->b, scalar_of(body, inst->args[0]), e->i64, ""));
    return em_load_widened(e, buffer->elem, e->buffers[inst->buffer], index, KIR_LANES);
}

/* Element j of a constant table, padded so that whole vectors can be read. */
static em_value load_table(em_body *body, int table) {
    em *e = body->e;
    const kir_table *source = &e->kernel->tables.p[table];
    char *name = syl_arena_printf(&e->arena, "table%d", table);
    em_value global = LLVMGetNamedGlobal(e->module, name);
    if (!global) {
        size_t n = ((size_t)source->n + KIR_LANES - 1) / KIR_LANES * KIR_LANES;
        em_value *values = SYL_NEW_ARRAY(&e->arena, em_value, n);
        for (size_t i = 0; i < n; i++)
            values[i] = em_real(e->f64, i < (size_t)source->n ? source->values[i] : 0.0);
        global = em_global(e, name, LLVMConstArray2(e->f64, values, n));
    }
    return em_load(e, em_vec(e->f64, KIR_LANES), em_at(e, e->f64, global, body->col), 8);
}

/* ---- arithmetic ---- */

static em_value convert(em *e, em_value x, em_type element) {
    em_type from = em_lane(LLVMTypeOf(x)), to = em_like(LLVMTypeOf(x), element);
    if (from == element) return x;
    if (from == e->i32 && element != e->i8) return LLVMBuildSIToFP(e->b, x, to, "");
    if (element == e->i8) {
        if (from != e->i32) x = LLVMBuildFPToSI(e->b, x, em_like(LLVMTypeOf(x), e->i32), "");
        return LLVMBuildTrunc(e->b, x, to, "");
    }
    return element == e->f64 ? LLVMBuildFPExt(e->b, x, to, "") : LLVMBuildFPTrunc(e->b, x, to, "");
}

static em_value select_int(em *e, LLVMIntPredicate predicate, em_value a, em_value b) {
    return LLVMBuildSelect(e->b, LLVMBuildICmp(e->b, predicate, a, b, ""), a, b, "");
}

static em_value arithmetic(em *e, const kir_inst *inst, em_value a, em_value b, em_value c) {
    em_type type = LLVMTypeOf(a);
    bool integer = em_lane(type) == e->i32;
    switch (inst->op) {
    case KIR_add:
        return integer ? em_add(e, a, b) : LLVMBuildFAdd(e->b, a, b, "");
    case KIR_sub:
        return integer ? LLVMBuildSub(e->b, a, b, "") : LLVMBuildFSub(e->b, a, b, "");
    case KIR_mul:
        return integer ? em_mul(e, a, b) : LLVMBuildFMul(e->b, a, b, "");
    case KIR_div:
        return LLVMBuildFDiv(e->b, a, b, "");
    case KIR_fma:
        return em_fma(e, a, b, c);
    case KIR_neg:
        return integer ? LLVMBuildNeg(e->b, a, "") : LLVMBuildFNeg(e->b, a, "");
    case KIR_abs:
        return integer ? select_int(e, LLVMIntSGT, a, LLVMBuildNeg(e->b, a, ""))
                       : em_intrinsic(e, "llvm.fabs", &type, 1, &a, 1);
    case KIR_max:
        return integer ? select_int(e, LLVMIntSGT, a, b) : em_larger(e, a, b);
    case KIR_min:
        return integer ? select_int(e, LLVMIntSLT, a, b) : em_smaller(e, a, b);
    case KIR_sqrt:
        return em_intrinsic(e, "llvm.sqrt", &type, 1, &a, 1);
    case KIR_exp:
        return em_exp(e, a);
    case KIR_round:
        return em_round_even(e, a);
    case KIR_recip_or_zero: {
        em_value zero = em_real(type, 0.0);
        em_value inverse = LLVMBuildFDiv(e->b, em_real(type, 1.0), a, "");
        return LLVMBuildSelect(e->b, LLVMBuildFCmp(e->b, LLVMRealOEQ, a, zero, ""), zero, inverse, "");
    }
    case KIR_to_f32:
        return convert(e, a, e->f32);
    case KIR_to_f64:
        return convert(e, a, e->f64);
    case KIR_to_i8:
        return convert(e, a, e->i8);
    case KIR_round_bf16:
        return em_bf16_to_f32(e, em_bf16_from_f32(e, a));
    case KIR_round_f16:
        return em_f16_to_f32(e, em_f16_from_f32(e, a));
    case KIR_cos:
        return em_cos(e, a);
    default:
        return NULL; /* memory and row-wide instructions: elsewhere */
    }
}

/* ---- the body ---- */

void em_body_init(em_body *body, em *e) {
    size_t n = e->kernel->body.n;
    *body = (em_body){.e = e, .valid = KIR_LANES};
    body->scalar = SYL_NEW_ARRAY(&e->arena, em_value, n);
    body->vector = SYL_NEW_ARRAY(&e->arena, em_value, n);
    body->memory = SYL_NEW_ARRAY(&e->arena, em_value, n);
}

void em_body_new_row(em_body *body, em_value row) {
    body->row = row;
    for (size_t i = 0; i < body->e->kernel->body.n; i++) body->scalar[i] = NULL;
}

void em_body_new_place(em_body *body, em_value col, int valid) {
    body->col = col;
    body->valid = valid;
    for (size_t i = 0; i < body->e->kernel->body.n; i++) body->vector[i] = NULL;
}

void em_body_scalars(em_body *body) {
    em *e = body->e;
    for (size_t i = 0; i < e->kernel->body.n; i++) {
        const kir_inst *inst = &e->kernel->body.p[i];
        em_value args[3] = {0};
        bool ready = true;
        if (body->scalar[i] || is_row_wide(inst->op)) continue;
        if (!is_scalar(inst) && inst->op != KIR_store_row) continue;
        for (int a = 0; a < kir_ops[inst->op].args; a++) {
            args[a] = body->scalar[inst->args[a]];
            ready = ready && args[a];
        }
        if (!ready) continue;
        switch (inst->op) {
        case KIR_imm:
            body->scalar[i] = em_real(e->f32, inst->f);
            break;
        case KIR_load_row:
            body->scalar[i] = em_load_widened(e, e->kernel->buffers.p[inst->buffer].elem,
                                              e->buffers[inst->buffer], body->row, 0);
            break;
        case KIR_store_row:
            em_store_rounded(e, e->kernel->buffers.p[inst->buffer].elem, e->buffers[inst->buffer], body->row,
                             args[0], 1);
            body->scalar[i] = args[0]; /* done in this row */
            break;
        default:
            body->scalar[i] = arithmetic(e, inst, args[0], args[1], args[2]);
        }
    }
}

em_value em_body_vector(em_body *body, int index) {
    em *e = body->e;
    const kir_inst *inst = &e->kernel->body.p[index];
    if (body->vector[index]) return body->vector[index];
    em_value result;
    bool earlier = body->stage && body->stage[index] < body->current;
    if (is_scalar(inst)) {
        result = em_splat(e, body->scalar[index], KIR_LANES);
    } else if (earlier && body->memory[index]) {
        em_type element = inst->type == KIR_F64   ? e->f64
                          : inst->type == KIR_F32 ? e->f32
                          : inst->type == KIR_I8  ? e->i8
                                                  : e->i32;
        result = em_load(e, em_vec(element, KIR_LANES), em_at(e, element, body->memory[index], body->col),
                         KIR_LANES);
    } else {
        em_value args[3] = {0};
        if (inst->op != KIR_load_at)
            for (int a = 0; a < kir_ops[inst->op].args; a++) args[a] = em_body_vector(body, inst->args[a]);
        switch (inst->op) {
        case KIR_load:
        case KIR_load_col:
        case KIR_load_at:
            result = load_vector(body, inst);
            break;
        case KIR_load_patch:
        case KIR_load_picture:
            result = em_load_pictures(body, inst);
            break;
        case KIR_table:
            result = load_table(body, inst->table);
            break;
        case KIR_acc:
            result = body->acc;
            break;
        case KIR_low_rank:
            result = body->low_rank;
            break;
        default:
            result = arithmetic(e, inst, args[0], args[1], args[2]);
        }
        if (body->stage && body->keep[index] && body->memory[index] && !earlier)
            em_store(e, result, em_at(e, em_lane(LLVMTypeOf(result)), body->memory[index], body->col),
                     KIR_LANES);
    }
    return body->vector[index] = result;
}

void em_body_store(em_body *body, int index) {
    em *e = body->e;
    const kir_inst *inst = &e->kernel->body.p[index];
    em_value value = em_body_vector(body, inst->args[0]);
    if (inst->op != KIR_store) {
        em_append(body, inst, value);
        return;
    }
    const kir_buffer *buffer = &e->kernel->buffers.p[inst->buffer];
    em_store_rounded(e, buffer->elem, e->buffers[inst->buffer], matrix_index(body, buffer, body->row), value,
                     body->valid);
}
