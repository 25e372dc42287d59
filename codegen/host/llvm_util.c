/* Small words for building LLVM IR, so that the emitters read like the loops they make. */
#include "codegen/host/emit.h"
#include <string.h>

void em_init(em *e, const kir_kernel *kernel, const syl_host_target *target) {
    *e = (em){.kernel = kernel, .target = target};
    syl_arena_init(&e->arena);
    e->context = LLVMContextCreate();
    e->module = LLVMModuleCreateWithNameInContext("kernel", e->context);
    e->b = LLVMCreateBuilderInContext(e->context);
    e->nothing = LLVMVoidTypeInContext(e->context);
    e->ptr = LLVMPointerTypeInContext(e->context, 0);
    e->i1 = LLVMInt1TypeInContext(e->context);
    e->i8 = LLVMInt8TypeInContext(e->context);
    e->i16 = LLVMInt16TypeInContext(e->context);
    e->i32 = LLVMInt32TypeInContext(e->context);
    e->i64 = LLVMInt64TypeInContext(e->context);
    e->f32 = LLVMFloatTypeInContext(e->context);
    e->f64 = LLVMDoubleTypeInContext(e->context);
    e->f32v = LLVMVectorType(e->f32, KIR_LANES);
    e->i32v = LLVMVectorType(e->i32, KIR_LANES);
}

void em_dispose(em *e) {
    LLVMDisposeBuilder(e->b);
    LLVMDisposeModule(e->module);
    LLVMContextDispose(e->context);
    syl_arena_free(&e->arena);
}

/* ---- functions ---- */

static void set_attribute(em *e, em_value function, const char *name) {
    unsigned kind = LLVMGetEnumAttributeKindForName(name, strlen(name));
    LLVMAddAttributeAtIndex(function, LLVMAttributeFunctionIndex,
                            LLVMCreateEnumAttribute(e->context, kind, 0));
}

static LLVMBasicBlockRef new_block(em *e) {
    return LLVMAppendBasicBlockInContext(e->context, e->function, "");
}

void em_begin_kernel(em *e, const char *symbol) {
    em_type params[] = {e->ptr, e->i64, e->i64, e->i64, e->ptr};
    e->function = LLVMAddFunction(e->module, symbol, LLVMFunctionType(e->nothing, params, 5, false));
    set_attribute(e, e->function, "nounwind");
    LLVMPositionBuilderAtEnd(e->b, new_block(e));
    e->rows = LLVMGetParam(e->function, 1);
    e->begin = LLVMGetParam(e->function, 2);
    e->end = LLVMGetParam(e->function, 3);
    e->scratch = LLVMGetParam(e->function, 4);
    em_load_buffers(e, LLVMGetParam(e->function, 0));
}

void em_load_buffers(em *e, em_value arguments) {
    size_t n = e->kernel->buffers.n;
    e->buffers = SYL_NEW_ARRAY(&e->arena, em_value, n);
    for (size_t i = 0; i < n; i++) {
        e->buffers[i] =
            em_load(e, e->ptr, em_offset(e, arguments, (int64_t)(i * sizeof(void *))), sizeof(void *));
        LLVMSetValueName2(e->buffers[i], e->kernel->buffers.p[i].name, strlen(e->kernel->buffers.p[i].name));
    }
}

em_value em_begin_helper(em *e, const char *name, const em_type *params, int n, em_place *saved) {
    *saved = (em_place){e->function, LLVMGetInsertBlock(e->b)};
    em_type list[16];
    memcpy(list, params, (size_t)n * sizeof *list);
    e->function = LLVMAddFunction(e->module, name, LLVMFunctionType(e->nothing, list, (unsigned)n, false));
    LLVMSetLinkage(e->function, LLVMInternalLinkage);
    set_attribute(e, e->function, "nounwind");
    set_attribute(e, e->function, "noinline");
    LLVMPositionBuilderAtEnd(e->b, new_block(e));
    return e->function;
}

void em_end_helper(em *e, em_place saved) {
    LLVMBuildRetVoid(e->b);
    e->function = saved.function;
    if (saved.block) LLVMPositionBuilderAtEnd(e->b, saved.block);
}

em_value em_call_helper(em *e, em_value helper, em_value *args, int n) {
    return LLVMBuildCall2(e->b, LLVMGlobalGetValueType(helper), helper, args, (unsigned)n, "");
}

/* ---- types and constants ---- */

em_type em_vec(em_type element, int lanes) {
    return LLVMVectorType(element, (unsigned)lanes);
}
em_type em_lane(em_type type) {
    return LLVMGetTypeKind(type) == LLVMVectorTypeKind ? LLVMGetElementType(type) : type;
}
int em_lanes(em_type type) {
    return LLVMGetTypeKind(type) == LLVMVectorTypeKind ? (int)LLVMGetVectorSize(type) : 0;
}
em_type em_like(em_type shape, em_type element) {
    return em_lanes(shape) ? em_vec(element, em_lanes(shape)) : element;
}

static em_value repeat(em_type type, em_value constant) {
    int n = em_lanes(type);
    if (!n) return constant;
    em_value values[64];
    for (int i = 0; i < n; i++) values[i] = constant;
    return LLVMConstVector(values, (unsigned)n);
}

em_value em_int(em_type type, int64_t value) {
    return repeat(type, LLVMConstInt(em_lane(type), (unsigned long long)value, true));
}
em_value em_real(em_type type, double value) {
    return repeat(type, LLVMConstReal(em_lane(type), value));
}
em_value em_long(em *e, int64_t value) {
    return em_int(e->i64, value);
}

enum { MOST_LANES = 128 }; /* of a constant vector */

em_value em_ints(em_type element, const int64_t *values, int n) {
    em_value constants[MOST_LANES];
    for (int i = 0; i < n; i++) constants[i] = em_int(element, values[i]);
    return LLVMConstVector(constants, (unsigned)n);
}

em_value em_first_lanes(em *e, int valid, int lanes) {
    int64_t bits[MOST_LANES];
    for (int i = 0; i < lanes; i++) bits[i] = i < valid;
    return em_ints(e->i1, bits, lanes);
}

em_value em_splat(em *e, em_value scalar, int lanes) {
    em_type type = em_vec(LLVMTypeOf(scalar), lanes);
    em_value one = LLVMBuildInsertElement(e->b, LLVMGetPoison(type), scalar, em_long(e, 0), "");
    return LLVMBuildShuffleVector(e->b, one, LLVMGetPoison(type), LLVMConstNull(em_vec(e->i32, lanes)), "");
}

em_value em_add(em *e, em_value a, em_value b) {
    return LLVMBuildAdd(e->b, a, b, "");
}
em_value em_mul(em *e, em_value a, em_value b) {
    return LLVMBuildMul(e->b, a, b, "");
}
em_value em_mul_add(em *e, em_value a, int64_t factor, em_value b) {
    return em_add(e, em_mul(e, a, em_long(e, factor)), b);
}
em_value em_min(em *e, em_value a, em_value b) {
    return LLVMBuildSelect(e->b, LLVMBuildICmp(e->b, LLVMIntSLT, a, b, ""), a, b, "");
}

/* ---- memory ---- */

em_value em_at(em *e, em_type element, em_value pointer, em_value index) {
    return LLVMBuildInBoundsGEP2(e->b, element, pointer, &index, 1, "");
}
em_value em_offset(em *e, em_value pointer, int64_t bytes) {
    return bytes ? em_at(e, e->i8, pointer, em_long(e, bytes)) : pointer;
}

em_value em_load(em *e, em_type type, em_value pointer, int align) {
    em_value value = LLVMBuildLoad2(e->b, type, pointer, "");
    LLVMSetAlignment(value, (unsigned)align);
    return value;
}

void em_store(em *e, em_value value, em_value pointer, int align) {
    LLVMSetAlignment(LLVMBuildStore(e->b, value, pointer), (unsigned)align);
}

void em_store_first(em *e, em_value vector, em_value pointer, int align, int valid) {
    em_type type = LLVMTypeOf(vector);
    int lanes = em_lanes(type);
    if (valid >= lanes) {
        em_store(e, vector, pointer, align);
        return;
    }
    em_type overloads[] = {type, e->ptr};
    em_value args[] = {vector, pointer, em_int(e->i32, align), em_first_lanes(e, valid, lanes)};
    em_intrinsic(e, "llvm.masked.store", overloads, 2, args, 4);
}

static em_value entry_alloca(em *e, em_type type) {
    LLVMBasicBlockRef here = LLVMGetInsertBlock(e->b), entry = LLVMGetEntryBasicBlock(e->function);
    em_value first = LLVMGetFirstInstruction(entry);
    if (first)
        LLVMPositionBuilderBefore(e->b, first);
    else
        LLVMPositionBuilderAtEnd(e->b, entry);
    em_value memory = LLVMBuildAlloca(e->b, type, "");
    LLVMPositionBuilderAtEnd(e->b, here);
    return memory;
}

em_value em_local(em *e, em_type type) {
    return entry_alloca(e, type);
}

em_value em_local_array(em *e, em_type type, int64_t n) {
    em_value memory = entry_alloca(e, LLVMArrayType2(type, (uint64_t)n));
    LLVMSetAlignment(memory, 64);
    return memory;
}

em_value em_global(em *e, const char *name, em_value constant) {
    em_value global = LLVMAddGlobal(e->module, LLVMTypeOf(constant), name);
    LLVMSetInitializer(global, constant);
    LLVMSetGlobalConstant(global, true);
    LLVMSetLinkage(global, LLVMPrivateLinkage);
    LLVMSetAlignment(global, 64);
    return global;
}

em_value em_intrinsic(em *e, const char *name, em_type *overloads, int n_overloads, em_value *args,
                      int n_args) {
    unsigned id = LLVMLookupIntrinsicID(name, strlen(name));
    em_value declaration = LLVMGetIntrinsicDeclaration(e->module, id, overloads, (size_t)n_overloads);
    em_type type = LLVMIntrinsicGetType(e->context, id, overloads, (size_t)n_overloads);
    return LLVMBuildCall2(e->b, type, declaration, args, (unsigned)n_args, "");
}

em_value em_fma(em *e, em_value a, em_value b, em_value c) {
    if (!e->target->fma) return LLVMBuildFAdd(e->b, LLVMBuildFMul(e->b, a, b, ""), c, "");
    em_type type = LLVMTypeOf(a);
    em_value args[] = {a, b, c};
    return em_intrinsic(e, "llvm.fma", &type, 1, args, 3);
}

em_value em_shuffle(em *e, em_value a, em_value b, const int *lanes, int n) {
    int64_t wide[64];
    for (int i = 0; i < n; i++) wide[i] = lanes[i];
    return LLVMBuildShuffleVector(e->b, a, b ? b : LLVMGetPoison(LLVMTypeOf(a)), em_ints(e->i32, wide, n),
                                  "");
}

/* ---- control flow ---- */

em_loop em_loop_begin(em *e, em_value lo, em_value hi, int64_t step) {
    em_loop loop = {.step = step};
    LLVMBasicBlockRef before = LLVMGetInsertBlock(e->b), body;
    loop.head = new_block(e);
    body = new_block(e);
    loop.exit = new_block(e);
    LLVMBuildBr(e->b, loop.head);
    LLVMPositionBuilderAtEnd(e->b, loop.head);
    loop.index = LLVMBuildPhi(e->b, e->i64, "");
    LLVMAddIncoming(loop.index, &lo, &before, 1);
    LLVMBuildCondBr(e->b, LLVMBuildICmp(e->b, LLVMIntSLT, loop.index, hi, ""), body, loop.exit);
    LLVMPositionBuilderAtEnd(e->b, body);
    return loop;
}

void em_loop_end(em *e, em_loop *loop) {
    em_value next = LLVMBuildNSWAdd(e->b, loop->index, em_long(e, loop->step), "");
    LLVMBasicBlockRef latch = LLVMGetInsertBlock(e->b);
    LLVMAddIncoming(loop->index, &next, &latch, 1);
    LLVMBuildBr(e->b, loop->head);
    LLVMMoveBasicBlockAfter(loop->exit, latch);
    LLVMPositionBuilderAtEnd(e->b, loop->exit);
}

em_branch em_if(em *e, em_value condition) {
    LLVMBasicBlockRef then = new_block(e);
    em_branch branch = {new_block(e), new_block(e)};
    LLVMBuildCondBr(e->b, condition, then, branch.otherwise);
    LLVMPositionBuilderAtEnd(e->b, then);
    return branch;
}

void em_else(em *e, em_branch *branch) {
    LLVMBuildBr(e->b, branch->exit);
    LLVMPositionBuilderAtEnd(e->b, branch->otherwise);
    branch->otherwise = NULL;
}

void em_endif(em *e, em_branch *branch) {
    LLVMBuildBr(e->b, branch->exit);
    if (branch->otherwise) {
        LLVMPositionBuilderAtEnd(e->b, branch->otherwise);
        LLVMBuildBr(e->b, branch->exit);
    }
    LLVMPositionBuilderAtEnd(e->b, branch->exit);
}
