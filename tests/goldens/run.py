#!/usr/bin/env python3
"""run.py SYL WORKDIR [MODEL.syl]: the logits of a model compiled with the recipe f32 against NumPy: without MODEL.syl those of a random
small Llama made on the spot, with it those of SmolLM2 stored in smollm2.npz. The relative error (norm of the difference over norm of the
reference) must be at most 1e-4."""
import json
import pathlib
import subprocess
import sys

import numpy as np

import gguf
import llama
import make_llama_numpy
import tiny_llama

HERE = pathlib.Path(__file__).resolve().parent
TOLERANCE = 1e-4


def logits(syl, artifact, ids, work):
    out = work / "logits.npy"
    subprocess.run([syl, "logits", artifact, "--ids", ",".join(map(str, ids)), "-o", out], check=True)
    return np.load(out)


def compare(got, want):
    """Both as of make_llama_numpy.summary."""
    error = np.linalg.norm(got["logits"] - want["logits"]) / np.linalg.norm(want["logits"])
    norms = np.max(np.abs(got["norms"] / want["norms"] - 1))
    top = np.mean(got["top"] == want["top"])
    print(f"{len(want['norms'])} tokens: relative error {error:.2e}, of the rows' norms {norms:.2e} (limit {TOLERANCE:.0e}), equal top tokens {top:.2%}")
    return error <= TOLERANCE and norms <= TOLERANCE and top >= 0.99


def tiny(syl, work):
    model, artifact = work / "tiny.gguf", work / "tiny.syl"
    tiny_llama.write(model)
    subprocess.run([syl, "compile", model, "-o", artifact, "--recipe", "f32"], check=True)
    reader = gguf.Reader(model)
    ids = [int(x) for x in np.random.Generator(np.random.PCG64(7)).integers(0, reader.metadata["llama.vocab_size"], 256)]
    want = llama.forward(reader.metadata, llama.tensors_of(reader), ids, np.float64)
    return compare(make_llama_numpy.summary(logits(syl, artifact, ids, work)), make_llama_numpy.summary(want))


def smollm2(syl, work, artifact):
    ids = json.loads((HERE / "smollm2_ids.json").read_text(encoding="utf-8"))["ids"]
    return compare(make_llama_numpy.summary(logits(syl, artifact, ids, work)), np.load(HERE / "smollm2.npz"))


if __name__ == "__main__":
    work = pathlib.Path(sys.argv[2])
    work.mkdir(parents=True, exist_ok=True)
    ok = smollm2(sys.argv[1], work, sys.argv[3]) if len(sys.argv) > 3 else tiny(sys.argv[1], work)
    sys.exit(0 if ok else 1)
