#!/usr/bin/env python3
"""make_llama_numpy.py MODEL.gguf IDS.json OUT.npz: golden logits of a Llama checkpoint, by llama.py in float64 on the weights that
docs/numerics.md defines (block formats dequantized, then rounded to bfloat16). Kept small: of the row of each position the logits in 64
columns, the row's norm and the largest logit's column. Prints how far the same in float32 is from it, which is what f32 can be held to."""
import json
import sys

import numpy as np

import gguf
import llama


def summary(logits):
    columns = np.random.Generator(np.random.PCG64(64)).choice(logits.shape[1], 64, replace=False)
    columns.sort()
    return {
        "columns": columns.astype(np.int32),
        "logits": logits[:, columns].astype(np.float32),
        "norms": np.linalg.norm(logits.astype(np.float64), axis=1).astype(np.float32),
        "top": logits.argmax(axis=1).astype(np.int32),
    }


def main(model, ids_path, out):
    with open(ids_path, encoding="utf-8") as file:
        ids = json.load(file)["ids"]
    reader = gguf.Reader(model)
    tensors = llama.tensors_of(reader)
    golden = llama.forward(reader.metadata, tensors, ids, np.float64)
    single = llama.forward(reader.metadata, tensors, ids, np.float32)
    error = np.linalg.norm(single - golden) / np.linalg.norm(golden)
    print(f"{len(ids)} tokens; NumPy in float32 differs from float64 by {error:.2e} relative")
    np.savez_compressed(out, **summary(golden))


if __name__ == "__main__":
    main(*sys.argv[1:])
