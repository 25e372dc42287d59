#!/usr/bin/env python3
"""Writes mlp.safetensors beside this file: the weights of graph.json, from a fixed seed, without any package."""
import json
import pathlib
import random
import struct

rng = random.Random(8)
tensors = {}
for layer in range(2):
    prefix = f"layers.{layer}."
    tensors[prefix + "norm"] = [8]
    tensors[prefix + "gate"] = [24, 8]
    tensors[prefix + "up"] = [24, 8]
    tensors[prefix + "down"] = [8, 24]

header, data = {}, b""
for name, shape in tensors.items():
    n = 1
    for size in shape:
        n *= size
    if name.endswith("norm"):
        values = [1 + rng.uniform(-0.25, 0.25) for _ in range(n)]
    else:
        values = [rng.gauss(0, shape[1] ** -0.5) for _ in range(n)]
    begin = len(data)
    data += struct.pack(f"<{n}f", *values)
    header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, len(data)]}

text = json.dumps(header, separators=(",", ":")).encode()
text += b" " * (-(8 + len(text)) % 64)
path = pathlib.Path(__file__).parent / "mlp.safetensors"
path.write_bytes(struct.pack("<Q", len(text)) + text + data)
