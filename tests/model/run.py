#!/usr/bin/env python3
"""run.py SYL GGUF WORKDIR TEST: one integration test on the real model. The compile tests leave WORKDIR/RECIPE.syl for the others; the
figures they print are the ones that docs/testing.md explains."""
import filecmp
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np

SOURCE = pathlib.Path(__file__).resolve().parents[2]
TEXT = SOURCE / "tests/data/evaluation.txt"

PPL_F32 = 23.9515  # all 8 windows, by tests/goldens/perplexity_numpy.py
KL_W8A8 = 0.0055  # all 8 windows
KL_PLAIN = 0.05  # the first 2 windows

PROMPT = "What is a compiler?"


def syl(*args):
    """Runs the command; returns what it printed on stdout."""
    print("+ syl", *map(str, args), flush=True)
    return subprocess.run([SYL, *args], check=True, stdout=subprocess.PIPE, text=True).stdout


def expect(condition, message):
    if not condition:
        sys.exit(f"FAILED: {message}")
    print("ok:", message)


def artifact(recipe):
    return WORK / f"{recipe}.syl"


def compile_model(recipe, threads=2, out=None):
    begin = time.monotonic()
    process = subprocess.Popen([SYL, "compile", GGUF, "-o", out or artifact(recipe), "--recipe", recipe, "--threads", str(threads), "--no-resume"])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    expect(process.returncode == 0, f"compiled {recipe} with {threads} threads in {time.monotonic() - begin:.1f} s, peak memory {usage.ru_maxrss / 1024:.0f} MiB")
    expect(usage.ru_maxrss < 1024 * 1024, "peak memory below 1 GiB")


def perplexity(recipe, against, *options):
    report = json.loads(syl("perplexity", artifact(recipe), "-f", TEXT, "--against", artifact(against), "--json", *options))
    print(recipe, report)
    return report


def logits(recipe):
    ids = json.loads((SOURCE / "tests/goldens/smollm2_ids.json").read_text(encoding="utf-8"))["ids"]
    out = WORK / f"{recipe}-{os.getpid()}.npy"
    syl("logits", artifact(recipe), "--ids", ",".join(map(str, ids)), "-o", out)
    result = np.load(out).astype(np.float64)
    out.unlink()
    return result


def test_perplexity():
    report = perplexity("w8a8", "f32")
    ppl = report["against_ppl"]
    expect(abs(ppl - PPL_F32) <= 0.003, f"f32: perplexity {ppl:.4f}, NumPy {PPL_F32} +- 0.003")
    expect(report["kl"] <= KL_W8A8, f"w8a8: KL {report['kl']:.5f} against f32, at most {KL_W8A8}")


def test_rotations_matter():
    kl = perplexity("w8a8-plain", "f32", "--windows", "2")["kl"]
    expect(kl >= KL_PLAIN, f"w8a8 without rotations: KL {kl:.5f}, at least {KL_PLAIN}")


def test_rotations_are_lossless():
    want, got = logits("f32"), logits("f32-rotated")
    error = np.linalg.norm(got - want) / np.linalg.norm(want)
    expect(error <= 1e-4, f"logits with all rotations differ by {error:.2e} relative, at most 1e-4")


def test_determinism():
    out = WORK / "w8a8-again.syl"
    compile_model("w8a8", threads=1, out=out)
    expect(filecmp.cmp(artifact("w8a8"), out, shallow=False), "the artifacts of 2 threads and of 1 are byte-equal")
    out.unlink()


def test_safetensors():
    from safetensors import safe_open

    for recipe in ("f32", "w8a8"):
        with safe_open(artifact(recipe), framework="numpy") as file:
            names = list(file.keys())
            # A bfloat16 tensor has no NumPy type; its slice still has a shape.
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            metadata = file.metadata()
        expect(names and metadata, f"{recipe}.syl opens in safetensors: {len(names)} tensors, metadata {sorted(metadata)}")
        tables = [name for name, shape in shapes.items() if shape == (49152, 576)]
        expect(len(tables) == 1, f"the tied embedding is one tensor: {tables}")


def test_round_trip():
    """Every IR of the model and the examples, after each pass of each recipe, reads back and prints the same bytes."""
    inputs, texts = [GGUF, *SOURCE.glob("examples/*/graph.json")], 0
    for recipe in sorted(path.stem for path in (SOURCE / "passes/recipes").glob("*.json")):
        passes = json.loads((SOURCE / f"passes/recipes/{recipe}.json").read_text(encoding="utf-8"))["pipeline"].count(",") + 1
        for source in inputs:
            for number in range(passes + 1):
                text = subprocess.run([SYL, "dump", source, "--ir", "--recipe", recipe, "--after", str(number), "-q"], check=True, stdout=subprocess.PIPE).stdout
                (WORK / "round-trip.sir").write_bytes(text)
                again = subprocess.run([SYL, "opt", WORK / "round-trip.sir", "--passes", "", "-q"], check=True, stdout=subprocess.PIPE).stdout
                if not text or again != text:
                    sys.exit(f"FAILED: {source} after pass {number} of {recipe} prints differently when read back")
                texts += 1
    print(f"ok: {texts} IR texts of {len(inputs)} models read back to the same bytes")


def test_generate():
    for recipe in ("f32", "w8a8"):
        text = syl("generate", artifact(recipe), "-p", PROMPT, "-n", "64")
        print(text)
        expect(len(text.split()) >= 20, f"{recipe} generates text")
        expect(text == syl("generate", artifact(recipe), "-p", PROMPT, "-n", "64"), f"{recipe} generates the same text again")


def test_schema():
    import jsonschema

    schema = json.loads((SOURCE / "docs/graph.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    imported = WORK / "imported.json"
    syl("import", GGUF, "-o", imported)
    graphs = [*sorted((SOURCE / "examples").glob("**/*.json")), imported]
    for path in graphs:
        graph = json.loads(path.read_text(encoding="utf-8"))
        errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(graph)]
        expect(not errors, f"{path.name} keeps to docs/graph.schema.json {errors[:3]}")
        if isinstance(graph, dict):  # the schema must be able to refuse
            expect(not validator.is_valid({**graph, "unknown-key": 1}), f"{path.name} with an unknown key does not")


def main():
    global SYL, GGUF, WORK
    SYL, GGUF, work, test = sys.argv[1:]
    WORK = pathlib.Path(work)
    WORK.mkdir(parents=True, exist_ok=True)
    expect(os.path.exists(GGUF), f"{GGUF} is there (scripts/get-model fetches it)")
    if test.startswith("compile-"):
        compile_model(test.removeprefix("compile-"))
    else:
        globals()["test_" + test.replace("-", "_")]()


if __name__ == "__main__":
    main()
