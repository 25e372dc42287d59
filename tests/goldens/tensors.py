#!/usr/bin/env python3
"""tensors.py SYL WORKDIR: models that are functions of tensors, by `syl run`: examples/mlp and examples/emoji-dit against NumPy, and what the
command says about inputs that do not fit."""
import json
import pathlib
import subprocess
import sys

import numpy as np

import emoji_dit

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"
SYL, WORK = sys.argv[1], pathlib.Path(sys.argv[2])
WORK.mkdir(parents=True, exist_ok=True)
failures = 0


def check(good, what):
    global failures
    failures += not good
    print("ok:" if good else "FAILED:", what, flush=True)


def compile_model(name, recipe):
    out = WORK / f"{name}-{recipe}.syl"
    subprocess.run([SYL, "compile", EXAMPLES / name / "graph.json", "-o", out, "--recipe", recipe, "--quiet"], check=True)
    return out


def save(name, array):
    np.save(WORK / f"{name}.npy", array)
    return f"{name}=@{WORK / name}.npy"


def run(artifact, inputs, *more):
    options = [word for name, array in inputs.items() for word in ("--input", save(name, array))]
    return subprocess.run([SYL, "run", artifact, *options, *more], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def output(artifact, inputs, name):
    result = run(artifact, inputs, "--output", f"{name}=@{WORK / 'out'}.npy")
    if result.returncode:
        sys.exit(result.stderr)
    return np.load(WORK / "out.npy")


def expect_error(artifact, inputs, code, name, text, *more):
    result = run(artifact, inputs, *more)
    check(result.returncode == code and f"error[{name}]" in result.stderr and text in result.stderr, f"{name}: {text}")


def mlp():
    w = emoji_dit.load(EXAMPLES / "mlp/mlp.safetensors")
    x = np.random.default_rng(1).standard_normal((5, 8), dtype=np.float32)
    y = x
    for i in range(2):
        p = f"layers.{i}."
        n = y / np.sqrt((y * y).mean(-1, keepdims=True) + 1e-5) * w[p + "norm"]
        g = n @ w[p + "gate"].T
        y = y + (g / (1 + np.exp(-g)) * (n @ w[p + "up"].T)) @ w[p + "down"].T
    result = run(compile_model("mlp", "f32"), {"x": x}, "--expect", save("layers.1.y", y.astype(np.float32)))
    check(result.returncode == 0, "mlp f32 " + result.stderr.splitlines()[-1])


def dit_inputs(samples, seed):
    return {"x": emoji_dit.unpatchify(emoji_dit.noise(samples, seed)).reshape(samples, -1), "t": np.linspace(1, 0.04, samples, dtype=np.float32),
            "class": emoji_dit.spread(samples + 1)[1:], "sample": np.repeat(np.arange(samples, dtype=np.int32), 256),
            "place": np.tile(np.arange(256, dtype=np.int32), samples)}


def dit():
    inputs = dit_inputs(3, 5)
    inputs["class"][0] = emoji_dit.CLASSES  # no class
    patches = emoji_dit.patchify(inputs["x"].reshape(3, 3, 32, 32))
    want = emoji_dit.unpatchify(emoji_dit.forward(emoji_dit.load(), patches, inputs["t"], inputs["class"])).reshape(3, -1)
    largest = np.abs(want).max()
    for recipe, limit in ("f32", 1e-5), ("f32-rotated", 1e-5), ("bf16", 0.05), ("w8a8", 0.06):
        artifact = compile_model("emoji-dit", recipe)
        got = output(artifact, inputs, "v")
        error = np.sqrt(np.mean((got - want) ** 2))
        check(error <= limit and (limit > 1e-4 or np.abs(got - want).max() <= 1e-5 * largest), f"emoji-dit {recipe}: rms error {error:.2g}, limit {limit}")
        alone = {name: array[:256] if len(array) == 768 else array[:1] for name, array in inputs.items()}
        check(np.array_equal(output(artifact, alone, "v"), got[:1]), f"emoji-dit {recipe}: a picture alone has the same bits as in a batch")
    return compile_model("emoji-dit", "f32")


def patches_in_an_epilogue():
    """A linear over patches, to which the patches of other pictures are added: they are read in the epilogue of its GEMM."""
    graph = {"sylvester": 1, "name": "p", "sources": [str(emoji_dit.MODEL)],
             "inputs": [{"name": n, "type": t} for n, t in (("x", "tensor<Bx48xf32>"), ("z", "tensor<Bx768xf32>"), ("i", "tensor<Txi32>"))],
             "nodes": [{"op": "weight", "name": "patch.weight", "type": "tensor<192x12xreal>", "out": "w"},
                       {"op": "patchify", "in": ["x"], "channels": 3, "height": 4, "width": 4, "patch": 2, "type": "tensor<Tx12xf32>", "out": "p"},
                       {"op": "linear", "in": ["p", "w"], "out": "l"},
                       {"op": "patchify", "in": ["z"], "channels": 3, "height": 16, "width": 16, "patch": 8, "type": "tensor<Tx192xf32>", "out": "q"},
                       {"op": "add", "in": ["l", "q"], "out": "y"},
                       {"op": "weight", "name": "pos", "type": "tensor<256x192xreal>", "out": "table"},
                       {"op": "embedding", "in": ["i", "table"], "out": "e"},
                       {"op": "add", "in": ["y", "e"], "out": "r"}], "outputs": ["r"]}
    (WORK / "patches.json").write_text(json.dumps(graph))
    subprocess.run([SYL, "compile", WORK / "patches.json", "-o", WORK / "patches.syl", "--recipe", "f32", "--quiet"], check=True)
    random, w, b = np.random.default_rng(3), emoji_dit.load(), 5
    cut = lambda a, side, p: a.reshape(b, 3, side // p, p, side // p, p).transpose(0, 2, 4, 1, 3, 5).reshape(4 * b, -1)
    x, z = (random.standard_normal((b, 3 * side * side), dtype=np.float32) for side in (4, 16))
    i = random.integers(0, 256, 4 * b, dtype=np.int32)
    want = cut(x, 4, 2) @ w["patch.weight"].T + cut(z, 16, 8) + w["pos"][i]
    got = output(WORK / "patches.syl", {"x": x, "z": z, "i": i}, "r")
    check(np.abs(got - want).max() <= 1e-5 * np.abs(want).max(), "patches in an epilogue")


def errors(artifact):
    good = dit_inputs(2, 6)
    bad = lambda **changes: {**good, **changes}
    without = {name: array for name, array in good.items() if name != "t"}
    expect_error(artifact, without, 2, "cli-argument", 'input "t" (tensor<Bxf32>) is missing')
    expect_error(artifact, {**good, "classes": good["class"]}, 2, "cli-value", 'did you mean "class"?')
    expect_error(artifact, good, 2, "cli-value", "is given twice", "--input", f"t=@{WORK}/t.npy")
    expect_error(artifact, good, 2, "cli-value", "expected NAME=@FILE.npy", "--input", "t=t.npy")
    expect_error(artifact, bad(t=np.ones(2)), 3, "npy-type", "'<f8'")
    expect_error(artifact, bad(t=np.ones(2, np.int32)), 2, "exec-input", "is i32 of 1 dimensions, expected f32 of 1")
    expect_error(artifact, bad(t=np.ones((2, 1), np.float32)), 2, "exec-input", "is f32 of 2 dimensions")
    expect_error(artifact, bad(t=np.ones(3, np.float32)), 2, "exec-input", "has 3 elements in dimension 0, expected B = 2")
    expect_error(artifact, bad(x=good["x"][:, :3071].copy()), 2, "exec-input", "has 3071 elements in dimension 1, expected 3072")
    expect_error(artifact, bad(**{n: good[n][:500] for n in ("sample", "place")}), 2, "exec-input", "expected a multiple of 256")
    expect_error(artifact, bad(**{n: good[n][:256] for n in ("sample", "place")}), 2, "exec-input", "T is 256, expected 256 for each of B = 2")
    expect_error(artifact, bad(**{n: np.tile(good[n], 2) for n in ("sample", "place")}), 2, "exec-input", "T is 1024, expected 256 for each of B = 2")
    expect_error(artifact, bad(x=good["x"][:0]), 2, "exec-input", "has 0 elements in dimension 0, expected 1 to")
    expect_error(artifact, bad(sample=good["sample"] + 1), 2, "exec-range", 'input "sample" is 2, expected 0..1')
    expect_error(artifact, bad(place=good["place"] - 1), 2, "exec-range", 'element 0 of input "place" is -1')
    expect_error(artifact, bad(**{"class": np.array([0, 252], np.int32)}), 2, "exec-range", "is 252, expected 0..251")
    expect_error(artifact, good, 1, "exec-expect", "differ in type or shape", "--expect", "v=@" + str(WORK / "t.npy"))
    expect_error(artifact, good, 1, "exec-expect", "outside atol", "--expect", "v=@" + str(WORK / "x.npy"))
    (WORK / "cut.npy").write_bytes((WORK / "x.npy").read_bytes()[:-1])
    expect_error(artifact, without, 3, "npy-shape", "the shape needs", "--input", f"t=@{WORK}/cut.npy")
    result = subprocess.run([SYL, "logits", artifact, "--ids", "1", "-o", WORK / "l.npy"], stderr=subprocess.PIPE, text=True)
    check(result.returncode == 4 and "exec-signature" in result.stderr, "a function of tensors is no language model")


mlp()
patches_in_an_epilogue()
errors(dit())
sys.exit(failures > 0)
