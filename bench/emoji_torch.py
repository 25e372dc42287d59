#!/usr/bin/env python3
"""The pictures of examples/emoji-dit by PyTorch, on the CPU: the model as it was trained (modules, fused attention, pictures cut into patches
inside), so that what it shares with the compiler is the weights alone. 64 pictures by the protocol of bench/emoji_psnr.py, which compares them:

    emoji_torch.py OUT.npz [--pictures N] [--steps N] [--dtype float32|float64]
    emoji_psnr.py SYL f32 w8a8 ... --reference OUT.npz

Needs torch (2.0 or later), which nothing else here does: `python3 -m venv V && V/bin/pip install torch numpy`."""
import argparse
import math
import pathlib
import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/goldens"))
import emoji_dit  # noqa: E402

DIM, DEPTH, HEADS, SIDE, PATCH, CLASSES = 192, 6, 3, 32, 2, 251
GRID = SIDE // PATCH
WIDTH = 3 * PATCH * PATCH


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.fc1, self.fc2, self.mod = nn.Linear(DIM, 4 * DIM), nn.Linear(4 * DIM, DIM), nn.Linear(DIM, 6 * DIM)

    def forward(self, x, c):
        shift1, scale1, gate1, shift2, scale2, gate2 = self.mod(F.silu(c)).unsqueeze(1).chunk(6, dim=-1)
        h = F.layer_norm(x, (DIM,), eps=1e-6) * (1 + scale1) + shift1
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(h).chunk(3, dim=-1))
        x = x + gate1 * self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        h = F.layer_norm(x, (DIM,), eps=1e-6) * (1 + scale2) + shift2
        return x + gate2 * self.fc2(F.gelu(self.fc1(h), approximate="tanh"))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch, self.cls = nn.Linear(WIDTH, DIM), nn.Embedding(CLASSES + 1, DIM)
        self.register_buffer("pos", torch.zeros(GRID * GRID, DIM))
        self.t1, self.t2 = nn.Linear(256, DIM), nn.Linear(DIM, DIM)
        self.blocks = nn.ModuleList(Layer() for _ in range(DEPTH))
        self.mod, self.out = nn.Linear(DIM, 2 * DIM), nn.Linear(DIM, WIDTH)

    def forward(self, image, t, y):
        """Pictures [B, 3, 32, 32], times and classes -> velocities, pictures too."""
        frequencies = torch.exp(-math.log(10000) * torch.arange(128, dtype=t.dtype) / 128)
        angles = 1000 * t[:, None] * frequencies
        time = torch.cat([angles.cos(), angles.sin()], dim=1)
        c = self.t2(F.silu(self.t1(time))) + self.cls(y)
        # unfold lists the elements of a patch as channel, row, column, and the patches row by row
        x = self.patch(F.unfold(image, PATCH, stride=PATCH).transpose(1, 2)) + self.pos
        for block in self.blocks:
            x = block(x, c)
        shift, scale = self.mod(F.silu(c)).unsqueeze(1).chunk(2, dim=-1)
        x = self.out(F.layer_norm(x, (DIM,), eps=1e-6) * (1 + scale) + shift)
        return F.fold(x.transpose(1, 2), SIDE, PATCH, stride=PATCH)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    torch.set_num_threads(1)  # its threads wait for each other busily: slower by far where cores are shared
    model = Transformer()
    model.load_state_dict({name: torch.from_numpy(np.array(w)) for name, w in emoji_dit.load().items()})
    model = model.to(dtype).eval()
    classes, start = emoji_dit.spread(args.pictures), emoji_dit.noise(args.pictures)
    y = torch.from_numpy(classes).long()
    x = torch.from_numpy(emoji_dit.unpatchify(start)).to(dtype)
    with torch.inference_mode():
        for k in range(args.steps):
            t = torch.full((8,), 1 - k / args.steps, dtype=dtype)
            for i in range(0, len(x), 8):  # a few at a time: the hidden layers are large
                some, of = x[i:i + 8], y[i:i + 8]
                v = model(some, t[:len(some)], of)
                u = model(some, t[:len(some)], torch.full_like(of, CLASSES))
                x[i:i + 8] = some - (u + 1.5 * (v - u)) / args.steps
    np.savez(args.out, pictures=(x.clamp(-1, 1) * 0.5 + 0.5).numpy(), classes=classes, noise=start)
    print(f"{args.pictures} pictures by PyTorch {torch.__version__} in {args.dtype}")


if __name__ == "__main__":
    main()
