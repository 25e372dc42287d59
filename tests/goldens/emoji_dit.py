#!/usr/bin/env python3
"""The diffusion transformer of examples/emoji-dit in NumPy, written from its description alone (examples/emoji-dit/README.md): the
independent reference of its pictures. As a module: load(), forward(), draw(). As a command:

    emoji_dit.py OUT.npz [PICTURES [STEPS]]   pictures of the protocol in f32: classes spread evenly, guidance 1.5, noise of seed 7"""
import json
import math
import os
import pathlib
import sys

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # products this small are slower on several threads, by far where cores are shared

import numpy as np  # noqa: E402

MODEL = pathlib.Path(__file__).resolve().parents[2] / "examples/emoji-dit/model.safetensors"
DIM, DEPTH, HEADS, TOKENS, CLASSES = 192, 6, 3, 256, 251


def load(path=MODEL):
    """The tensors of a safetensors file of bf16 or f32, as f32."""
    raw = pathlib.Path(path).read_bytes()
    size = int.from_bytes(raw[:8], "little")
    tensors = {}
    for name, entry in json.loads(raw[8:8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        if entry["dtype"] == "BF16":
            bits = np.frombuffer(raw[begin:end], "<u2").astype(np.uint32) << 16
            tensors[name] = bits.view(np.float32).reshape(entry["shape"])
        else:
            tensors[name] = np.frombuffer(raw[begin:end], "<f4").reshape(entry["shape"])
    return tensors


def patchify(image):
    """[B, 3, 32, 32] -> [B, 256, 12]: patches of 2 x 2 in row order, channels first inside of each."""
    b = len(image)
    return image.reshape(b, 3, 16, 2, 16, 2).transpose(0, 2, 4, 1, 3, 5).reshape(b, TOKENS, 12)


def unpatchify(rows):
    b = len(rows)
    return rows.reshape(b, 16, 16, 3, 2, 2).transpose(0, 3, 1, 4, 2, 5).reshape(b, 3, 32, 32)


def forward(w, x, t, y):
    """Patches [B, 256, 12], times [B] and classes [B] -> velocities [B, 256, 12], all f32."""
    b = len(x)
    linear = lambda name, z: z @ w[name + ".weight"].T + w[name + ".bias"]
    silu = lambda z: z / (1 + np.exp(-z))

    def norm(z):
        z = z - z.mean(-1, keepdims=True)
        return z / np.sqrt((z * z).mean(-1, keepdims=True) + np.float32(1e-6))

    def gelu(z):
        return z * (0.5 * (1 + np.tanh(np.float32(math.sqrt(2 / math.pi)) * (z + np.float32(0.044715) * z * z * z))))

    def modulation(name, parts):
        return np.split(linear(name, s)[:, None, :], parts, axis=-1)

    frequencies = np.exp(-math.log(10000) * np.arange(128) / 128)
    angles = 1000 * t.astype(np.float64)[:, None] * frequencies
    time = np.concatenate([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    s = silu(linear("t2", silu(linear("t1", time))) + w["cls.weight"][y])
    x = linear("patch", x) + w["pos"]
    for i in range(DEPTH):
        block = f"blocks.{i}."
        shift, scale, gate, shift2, scale2, gate2 = modulation(block + "mod", 6)
        qkv = linear(block + "qkv", norm(x) * (1 + scale) + shift)
        q, k, v = qkv.reshape(b, TOKENS, 3, HEADS, DIM // HEADS).transpose(2, 0, 3, 1, 4)
        scores = q @ k.transpose(0, 1, 3, 2) * np.float32(1 / math.sqrt(DIM // HEADS))
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        x = x + gate * linear(block + "proj", (scores @ v).transpose(0, 2, 1, 3).reshape(b, TOKENS, DIM))
        x = x + gate2 * linear(block + "fc2", gelu(linear(block + "fc1", norm(x) * (1 + scale2) + shift2)))
    shift, scale = modulation("mod", 2)
    return linear("out", norm(x) * (1 + scale) + shift)


def spread(pictures):
    """Classes spread evenly."""
    return np.array([round(i * (CLASSES - 1) / max(pictures - 1, 1)) for i in range(pictures)], np.int32)


def noise(pictures, seed=7):
    return np.random.default_rng(seed).standard_normal((pictures, TOKENS, 12), dtype=np.float32)


def draw(velocity, classes, start, steps=25, guidance=1.5):
    """Euler steps from noise (t = 1) to pictures (t = 0) with a function (x, t, y) -> velocity; [B, 3, 32, 32] in [0, 1]."""
    x, b = start, len(classes)
    y = np.concatenate([classes, np.full(b, CLASSES)]).astype(np.int32)
    for k in range(steps):
        t = np.full(2 * b, 1 - k / steps, np.float32)
        v, u = np.split(velocity(np.concatenate([x, x]), t, y), 2)
        x = x - (u + np.float32(guidance) * (v - u)) / np.float32(steps)
    return np.clip(unpatchify(x), -1, 1) * 0.5 + 0.5


def psnr(a, b):
    """Of each picture, in dB."""
    error = np.square(a.astype(np.float64) - b).mean((1, 2, 3))
    return 10 * np.log10(1 / np.maximum(error, 1e-12))


def main(out, pictures=64, steps=25):
    w = load()

    def velocity(x, t, y):  # a few at a time: the hidden layers are large
        return np.concatenate([forward(w, x[i:i + 8], t[i:i + 8], y[i:i + 8]) for i in range(0, len(x), 8)])

    classes, start = spread(pictures), noise(pictures)
    np.savez(out, pictures=draw(velocity, classes, start, steps), classes=classes, noise=start)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
