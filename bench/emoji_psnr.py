#!/usr/bin/env python3
"""PSNR of the pictures that compiled emoji-dit artifacts draw, against the pictures of NumPy in f32 at the same noise: 64 pictures, classes
spread evenly, 25 Euler steps, guidance 1.5 (mean over pictures, and the worst one).

    emoji_psnr.py SYL [ARTIFACT | RECIPE ...] [--pictures N] [--steps N] [--reference REF.npz] [--at-least DB]

A word that is no file is a recipe: examples/emoji-dit is compiled with it. Default: f32 and w8a8. --reference: where the pictures of NumPy are
kept (made if they are missing; takes minutes), or those that bench/emoji_torch.py made. --at-least: exit code 1 where an artifact's mean is below."""
import argparse
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/goldens"))
import emoji_dit  # noqa: E402


def velocity_of(syl, artifact, folder):
    """(patches, t, y) -> velocity in patches, by `syl run`, which takes and gives pictures."""
    def save(name, array):
        np.save(folder / name, array)
        return ["--input", f"{name}=@{folder / name}.npy"]

    def velocity(x, t, y):
        b = len(x)
        pictures = np.ascontiguousarray(emoji_dit.unpatchify(x).reshape(b, -1), np.float32)
        options = save("x", pictures) + save("t", t) + save("class", y)
        options += save("sample", np.repeat(np.arange(b, dtype=np.int32), emoji_dit.TOKENS))
        options += save("place", np.tile(np.arange(emoji_dit.TOKENS, dtype=np.int32), b))
        subprocess.run([syl, "run", artifact, *options, "--output", f"v=@{folder / 'v.npy'}", "--quiet"], check=True)
        return emoji_dit.patchify(np.load(folder / "v.npy").reshape(b, 3, 32, 32))

    return velocity


def reference(path, pictures, steps):
    if path and path.exists():
        stored = np.load(path)
        if len(stored["pictures"]) != pictures:
            sys.exit(f"{path} holds {len(stored['pictures'])} pictures")
        return stored["pictures"]
    with tempfile.TemporaryDirectory() as folder:
        out = path or pathlib.Path(folder) / "reference.npz"
        emoji_dit.main(out, pictures, steps)
        return np.load(out)["pictures"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("syl")
    parser.add_argument("models", nargs="*", default=["f32", "w8a8"])
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--reference", type=pathlib.Path)
    parser.add_argument("--at-least", type=float, default=-1e9)
    args = parser.parse_args()
    want = reference(args.reference, args.pictures, args.steps)
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for model in args.models:
            artifact = model
            if not pathlib.Path(model).is_file():
                artifact = folder / f"{model}.syl"
                subprocess.run([args.syl, "compile", ROOT / "examples/emoji-dit/graph.json", "-o", artifact, "--recipe", model, "--quiet"],
                               check=True)
            start = time.time()
            got = emoji_dit.draw(velocity_of(args.syl, artifact, folder), emoji_dit.spread(args.pictures),
                                 emoji_dit.noise(args.pictures), args.steps)
            values = emoji_dit.psnr(got, want)
            print(f"{model}: PSNR {values.mean():.2f} dB, worst {values.min():.2f} dB, {args.pictures} pictures in {time.time() - start:.0f} s",
                  flush=True)
            failed |= not values.mean() >= args.at_least
    return failed


if __name__ == "__main__":
    sys.exit(main())
