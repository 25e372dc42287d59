#!/usr/bin/env python3
"""Mutation test of the passes: each row of MUTATIONS breaks one line of a pass on purpose; the tests named with it must fail.

usage: run.py BUILD_DIR [NAME...]

A mutated source is compiled alone and linked before the libraries, so the broken object takes the place of the good one. A mutation whose
text is no longer in the source, or that does not compile, is an error: the table must follow the code.
"""
import os
import subprocess
import sys
import tempfile
import threading

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LOSSLESS, QUANTIZE, FUSE, MANAGER, CACHE, LOW_RANK = "passes_lossless", "passes_quantize", "passes_fuse", "passes_manager", "passes_kv", "passes_low_rank"

# file, text, replacement, test that must fail, what the mutation does
MUTATIONS = [
    ("passes/fold_norms.c", "syl_op_set_operand(linear, 1, scaled);", "(void)scaled;", LOSSLESS, "the gain is dropped, not folded"),
    ("passes/fold_norms.c", 'syl_attr_float(norm, "eps"))', '2 * syl_attr_float(norm, "eps") + 1e-3)', LOSSLESS, "epsilon changes"),
    ("passes/rotate_residual.c", "syl_rotation_fold(module, q, s->readers.p[i], 1);", "(void)i;", LOSSLESS, "readers do not rotate back"),
    ("passes/rotate_residual.c", "syl_rotation_fold(module, q, s->writers.p[i], 0);", "(void)i;", LOSSLESS, "writers are not rotated"),
    ("passes/rotate_residual.c", "return op->code == SYL_OP_add || operand == 0;", "return operand == 0;", LOSSLESS, "half of each add is forgotten"),
    ("passes/rotate_residual.c", "op->code == SYL_OP_rms_norm && op->n_operands == 1", "op->code == SYL_OP_rms_norm", LOSSLESS, "a gain is taken to commute with the rotation"),
    ("passes/rotate_residual.c", ' && syl_attr_int(op, "heads") <= 1', "", LOSSLESS, "a norm of heads is taken to commute with the rotation"),
    ("passes/fold_norms.c", 'if (syl_attr_get(norm, "heads"))', "if (false)", LOSSLESS, "a norm of heads becomes one of the row"),
    ("passes/rotate_residual.c", "redirect(s, s->out.p[i], syl_rotation_invert(", "redirect(s, s->out.p[i], syl_rotation_apply(", LOSSLESS, "the online inverse is not one"),
    ("passes/rewrite.c", "if (axis == 0 && linear->n_operands == 3)", "if (axis == 7)", LOSSLESS, "biases of rotated writers are forgotten"),
    ("passes/rewrite.c", "return build_signs(b, q, build_hadamard(b, q, x, axis, true), axis);", "return build_hadamard(b, q, build_signs(b, q, x, axis), axis, true);", LOSSLESS,
     "the inverse in the wrong order"),
    ("passes/rewrite.c", 'if (transpose) syl_attr_set_bool(b->module, y->def, "transpose", true);', "(void)transpose;", LOSSLESS, "the inverse without the transpose"),
    ("passes/rotate_values.c", "q.period = l.head_dim;", "q.period = 0;", LOSSLESS, "signs run on over the heads"),
    ("passes/rotate_values.c", "syl_rotation_fold(ctx->module, &q, l.outputs.p[i], 1);", "(void)i;", LOSSLESS, "the output projection does not rotate back"),
    ("passes/rotate_keys.c", "if (!reads || syl_attr_int", "if (op->code != SYL_OP_kv_append || syl_attr_int", LOSSLESS, "only the keys are rotated"),
    ("passes/rotate_keys.c", "what, l.head_dim, &q)", "what, l.head_dim / 2, &q)", CACHE, "a head is rotated in halves"),
    ("passes/rotate_keys.c", 'l->obstacle = "they are rotated already";', "(void)l;", CACHE, "keys are rotated twice"),
    ("passes/quantize_kv.c", "c->bits[part] == 4 ? 95 : 100", "100", CACHE, "4-bit keys and values are not clipped"),
    ("passes/quantize_kv.c", "quantize_type(c, &op->results[i].type);", "(void)i;", CACHE, "the appended cache keeps its floats"),
    ("passes/rotate_down.c", "syl_rotation_fold(ctx->module, &q, linear, 1);", "(void)linear;", LOSSLESS, "the inverse is not folded"),
    ("passes/group.c", "begin = end;", "begin = 0;", LOSSLESS, "every slice begins at 0"),
    ("passes/group.c", 'syl_attr_set_int(b->module, concat, "axis", 0);', 'syl_attr_set_int(b->module, concat, "axis", 1);', LOSSLESS, "weights are joined along the wrong axis"),
    ("passes/canonicalize.c", "return is_symmetric(op) || syl_attr_bool", "return true || syl_attr_bool", LOSSLESS, "two transforms in a row cancel without a transpose"),
    ("passes/cse.c", 'syl_text_printf(&key, "%lld", (long long)attr->i);', "(void)0;", LOSSLESS, "ops with different attributes are merged"),
    ("passes/dce.c", "if (is_unused(op) && is_pure(op)) {", "if (is_unused(op)) {", FUSE, "ops with state are removed"),
    ("passes/fuse.c", "if (*r && n->region != *r) return false;", "(void)n;", FUSE, "a value read by two regions moves into one"),
    ("passes/plan_memory.c", "if (s->last >= place ||", "if (s->last > place ||", FUSE, "a value may take the slot of an operand of its own region"),
    ("passes/plan_memory.c", "at = last_read(p, syl_result(use->user), at);", "(void)at;", FUSE, "reads through slices are not counted"),
    ("passes/quantize_weights.c", 'syl_attr_set_enum(ctx->module, codes->def, "clip", "mse");', "(void)codes;", QUANTIZE, "the clip asked for is not searched"),
    ("passes/rewrite.c", "bool wide = cols >= 2048 && cols % 128 == 0;", "bool wide = cols >= 2048;", QUANTIZE, "groups of 128 where they do not fill the row"),
    ("passes/quantize_weights.c", "scheme = SYL_int8_channel;", "(void)scheme;", QUANTIZE, "rows that are no whole number of groups keep the scheme"),
    ("passes/quantize_weights.c", "(!heads_only || is_head(use->user))", "is_head(use->user)", QUANTIZE, "only heads read the codes"),
    ("passes/quantize_activations.c", "if (syl_op_is(weight->def, SYL_OP_dequantize)) weight = syl_operand(weight->def, 0);", "(void)0;", QUANTIZE, "codes behind a dequantize are not found"),
    ("passes/canonicalize.c", "syl_op_set_operand(op, 1, syl_operand(weight, 0));", "(void)op;", QUANTIZE, "dequantized weights stay where codes could be read"),
    ("passes/quantize_activations.c", "syl_op_set_operand(linear, 1, codes);", "(void)codes;", QUANTIZE, "integer codes meet float weights"),
    ("passes/round_weights.c", "rounded.dtype = rounded.rank >= 2 ? type : SYL_f32;", "rounded.dtype = type;", QUANTIZE, "vectors are rounded like matrices"),
    ("passes/store_activations.c", "if (type == SYL_f32) return SYL_OK;", "return SYL_OK;", FUSE, "nothing is stored in the type asked for"),
    ("passes/split_low_rank.c", "syl_op_set_operand(linear, 1, &parts->results[2]);", "(void)parts;", LOSSLESS, "the branch is added to the whole weight"),
    ("passes/split_low_rank.c", "syl_value_replace_uses_except(y, sum, sum->def);", "(void)sum;", LOSSLESS, "the branch is not added"),
    ("passes/split_low_rank.c", "SYL_OP_linear, down, 2, x, &parts->results[1]);", "SYL_OP_linear, down, 2, y, &parts->results[1]);", LOSSLESS,
     "the branch reads the result instead of the input"),
    ("ir/ref/low_rank.c", "round_bf16(u, s->rows * s->rank);", "(void)u;", LOW_RANK, "half of the branch is not rounded"),
    ("ir/ref/low_rank.c", "if (!(error < least)) continue;", "", LOW_RANK, "the last round is kept, not the best"),
    ("ir/ref/low_rank.c", "s->w[(begin + i) * s->cols + k] - value;", "s->w[i * s->cols + k] - value;", LOW_RANK, "rounds decompose the rest of other rows"),
    ("passes/split_low_rank.c", "if (!syl_row_fits(scheme, cols)) scheme = SYL_int8_channel;", "", LOW_RANK, "rounds with a scheme that rows do not fit"),
    ("ir/ref/low_rank.c", "-1, u, d,", "-0.999, u, d,", LOSSLESS, "the residual is not what the branch leaves"),
    ("passes/fuse.c", "if (reader <= place) return false;", "(void)reader;", FUSE, "a projection moves behind its readers"),
    ("passes/quantize_weights.c", "if (syl_is_branch(syl_operand(linear, 1))) continue;", "", LOW_RANK, "the branch is quantized too"),
    ("passes/manager.c", "syl_module_verify(module, diag)", "SYL_OK", MANAGER, "modules are not verified"),
]

FLAGS = ["-std=c17", "-D_GNU_SOURCE", "-O1", "-I" + ROOT, "-w"]


def run(args):
    return subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def check(build, work, mutation, base_objects):
    """Returns None if the mutation is caught, else what went wrong."""
    path, text, replacement, test, _ = mutation
    source = open(os.path.join(ROOT, path)).read()
    if text not in source:
        return "the text to change is not in " + path
    mutant = os.path.join(work, "mutant.c")
    with open(mutant, "w") as file:
        file.write(source.replace(text, replacement, 1))
    if test not in base_objects:
        made = os.path.join(work, test + ".o")
        compiled = run(["cc", *FLAGS, "-I" + os.path.join(ROOT, "tests"), "-I" + os.path.join(ROOT, "tests/unit"), '-DSYL_TEST_DATA="%s/tests/data"' % ROOT, '-DSYL_SOURCE_DIR="%s"' % ROOT, "-c",
                        os.path.join(ROOT, "tests/unit", test + ".c"), "-o", made])
        if compiled.returncode != 0:
            return compiled.stdout
        base_objects[test] = made
        problem = link_and_run(build, work, [made])
        if problem != (0, ""):
            return "test %s fails without a mutation\n%s" % (test, problem[1])
    code, output = link_and_run(build, work, [mutant, base_objects[test]])
    if code is None:
        return output
    return None if code != 0 else "test %s still passes" % test


def link_and_run(build, work, sources):
    """Returns (exit code, "" or output), or (None, compiler output)."""
    program = os.path.join(work, "mutant")
    libraries = [os.path.join(build, "libsyl_%s.a" % name) for name in ("passes", "ir", "base")]
    built = run(["cc", *FLAGS, "-I" + os.path.join(ROOT, "passes"), *sources, *libraries, "-lcmocka", "-lcjson", "-lxxhash", "-llapacke", "-lopenblas", "-lm", "-lpthread", "-o", program])
    if built.returncode != 0:
        return None, built.stdout
    return run_test(program, work)


def run_test(program, work):
    """Returns (exit code, "" or output). One failure is enough: the rest is not waited for."""
    lines = []
    with subprocess.Popen([program], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace", cwd=work) as test:
        timer = threading.Timer(60, test.kill)  # an endless loop
        timer.start()
        for line in test.stderr:
            lines.append(line)
            if "[  ERROR   ]" in line:
                test.kill()
        code = test.wait()
        timer.cancel()
    return code, "" if code == 0 else "".join(lines)


def main():
    build, names = os.path.abspath(sys.argv[1]), sys.argv[2:]
    caught, missed = 0, 0
    with tempfile.TemporaryDirectory() as work:
        base_objects = {}
        for mutation in MUTATIONS:
            if names and not any(name in mutation[0] for name in names):
                continue
            problem = check(build, work, mutation, base_objects)
            caught, missed = caught + (problem is None), missed + (problem is not None)
            print("%s %s: %s%s" % ("caught" if problem is None else "MISSED", mutation[0], mutation[4], "" if problem is None else "\n    " + problem), flush=True)
    print("%d passed, %d failed" % (caught, missed))
    return 1 if missed or not caught else 0


if __name__ == "__main__":
    sys.exit(main())
