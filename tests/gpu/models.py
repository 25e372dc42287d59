#!/usr/bin/env python3
"""Whole models on the GPU against the CPU: SmolLM2 and emoji-dit with every recipe.

    models.py SYL WORK [--gguf FILE] [--only perplexity|greedy|emoji|determinism|tune|api|values] [--recipes A,B] [--json FILE] [--programs FOLDER]

perplexity: within 0.2 % of the CPU's (8 windows). emoji: PSNR to the float pictures within 0.3 dB of the CPU's. greedy: 128 tokens of w8a8 equal, or parted by a
tie. determinism: the same bits in 100 runs, alone and in a batch, with and without graphs, before and behind tuning. api: streams and device memory of a caller's. values: `syl diff` of f32 and w8a8, value by value, tells on the GPU what it
tells on the CPU. Exit code 77: no GPU."""
import argparse
import concurrent.futures
import ctypes
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
LM_RECIPES = ["f32", "f32-rotated", "bf16", "w8a8-plain", "w8a8", "w8a8-kv8", "w8a8-kv4", "w8a8-svd32", "w4a8", "w4a8-svd32", "w4a16"]
EMOJI_RECIPES = ["f32", "f32-rotated", "bf16", "w8a8-plain", "w8a8", "w8a8-svd32", "w4a8", "w4a8-svd32", "w4a16"]
PERPLEXITY, PSNR, VALUES = 0.002, 0.3, 0.1

results, failed = [], []


def has_gpu():
    try:
        return ctypes.CDLL("libcuda.so.1").cuInit(0) == 0
    except OSError:
        return False


def report(good, test, model, **figures):
    results.append({"test": test, "model": model, "ok": bool(good), **figures})
    print("ok  " if good else "FAIL", test, model, " ".join(f"{key} {value}" for key, value in figures.items()), flush=True)
    if not good:
        failed.append(f"{test} {model}")


def run(*command, **options):
    return subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def compile_all(args, source, prefix, recipes):
    """Artifacts by recipe; several at a time, since much of a compile runs on one thread."""
    def one(recipe):
        out = args.work / f"{prefix}-{recipe}.syl"
        if not out.exists():
            done = run(args.syl, "compile", source, "-o", out, "--recipe", recipe, "--quiet")
            if done.returncode:
                return recipe, done.stderr
        return recipe, out

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        made = dict(pool.map(one, recipes))
    for recipe, out in made.items():
        if isinstance(out, str):
            report(False, "compile", f"{prefix} {recipe}", error=out.strip().replace("\n", " "))
    return {recipe: out for recipe, out in made.items() if not isinstance(out, str)}


def perplexity(args, artifacts):
    for recipe, artifact in artifacts.items():
        ppl = {}
        for device in ("cpu", "cuda"):
            begin = time.monotonic()
            done = run(args.syl, "perplexity", artifact, "-f", ROOT / "tests/data/evaluation.txt", "--windows", args.windows, "--json", "--quiet", "--device", device)
            if done.returncode:
                report(False, "perplexity", recipe, device=device, error=done.stderr.strip().replace("\n", " "))
                break
            ppl[device] = json.loads(done.stdout)["ppl"]
            ppl[device + "_s"] = round(time.monotonic() - begin, 1)
        else:
            difference = ppl["cuda"] / ppl["cpu"] - 1
            report(abs(difference) <= PERPLEXITY, "perplexity", recipe, cpu=round(ppl["cpu"], 5), cuda=round(ppl["cuda"], 5), relative=f"{difference:.2e}",
                   seconds=ppl["cuda_s"])


def emoji(args, artifacts):
    sys.path.insert(0, str(ROOT / "bench"))
    import emoji_psnr  # needs NumPy
    from emoji_psnr import emoji_dit

    want = emoji_psnr.reference(args.work / f"emoji-{args.pictures}-{args.steps}.npz", args.pictures, args.steps)
    for recipe, artifact in artifacts.items():
        psnr = {}
        for device in ("cpu", "cuda"):
            os.environ["SYL_DEVICE"] = device
            try:
                with tempfile.TemporaryDirectory() as folder:
                    got = emoji_dit.draw(emoji_psnr.velocity_of(str(args.syl), artifact, pathlib.Path(folder)), emoji_dit.spread(args.pictures),
                                         emoji_dit.noise(args.pictures), args.steps)
            except subprocess.CalledProcessError as error:
                report(False, "emoji", recipe, device=device, error=f"exit code {error.returncode}")
                break
            psnr[device] = float(emoji_dit.psnr(got, want).mean())
        else:
            # pictures that are nearly the reference's own have no PSNR to speak of: 80 dB is a rounding of the last bit
            good = abs(psnr["cuda"] - psnr["cpu"]) <= PSNR or min(psnr.values()) >= 80
            report(good, "emoji", recipe, cpu_db=round(psnr["cpu"], 2), cuda_db=round(psnr["cuda"], 2))
    os.environ.pop("SYL_DEVICE", None)


def program(args, name, test, artifact):
    """One of the programs beside; returns its `bits` line."""
    done = run(args.programs / name, artifact)
    for line in done.stdout.splitlines():
        print("    " + line)
    if done.returncode == 77:
        sys.exit(77)
    report(done.returncode == 0, test, artifact.stem, output=done.stdout.strip().splitlines()[-1:] + done.stderr.strip().splitlines()[-1:])
    return [line for line in done.stdout.splitlines() if line.startswith("bits ")]


def tuned(args, artifact, before):
    """The bits behind `syl tune`, which chooses other variants of the kernels."""
    done = run(args.syl, "tune", artifact, "--budget", "30s", "--device", "cuda")
    if done.returncode:
        return report(False, "tune", artifact.stem, error=done.stderr.strip().replace("\n", " "))
    after = run(args.programs / "gpu_determinism", "--runs", "2", artifact)
    bits = [line for line in after.stdout.splitlines() if line.startswith("bits ")]
    report(bits == before and bits, "tune", artifact.stem, before=before, after=bits)


def values(args, artifacts):
    """Errors of quantizing by value and their KL, relative to those on the CPU."""
    told = {}
    for device in ("cpu", "cuda"):
        done = run(args.syl, "diff", artifacts["f32"], artifacts["w8a8"], "-f", ROOT / "tests/data/evaluation.txt", "--device", device, "--json", "--quiet")
        if done.returncode:
            return report(False, "values", "f32 w8a8", device=device, code=done.returncode, error=done.stderr.strip().replace("\n", " "))
        told[device] = json.loads(done.stdout)
    errors = {device: {value["name"]: value["error"] for layer in result["layers"] for value in layer["values"]} for device, result in told.items()}
    cpu, cuda = errors["cpu"], errors["cuda"]
    most = max((abs(cuda[name] - error) / max(error, 1e-4) for name, error in cpu.items() if name in cuda), default=1)
    report(cpu.keys() == cuda.keys() and cpu and most <= VALUES and abs(told["cuda"]["kl"] / told["cpu"]["kl"] - 1) <= VALUES, "values", "f32 w8a8",
           values=len(cuda), kl_cpu=told["cpu"]["kl"], kl_cuda=told["cuda"]["kl"], furthest=round(most, 4))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("syl", type=pathlib.Path)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--gguf", type=pathlib.Path, default=ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--programs", type=pathlib.Path)
    parser.add_argument("--only", default="perplexity,greedy,emoji,determinism,tune")
    parser.add_argument("--recipes")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    args.syl = args.syl.absolute()
    args.programs = args.programs or args.syl.parent
    args.work.mkdir(parents=True, exist_ok=True)
    wanted = args.only.split(",")
    if not has_gpu():
        print("not run: there is no GPU here", file=sys.stderr)
        return 77
    chosen = lambda recipes: [r for r in recipes if not args.recipes or r in args.recipes.split(",")]
    if not args.gguf.exists():
        report(False, "SmolLM2", "all", error=f"{args.gguf} is missing: scripts/get-model, or the parts of scripts/gpu-bundle")
        models = {}
    elif "perplexity" in wanted:
        models = compile_all(args, args.gguf, "smollm2", chosen(LM_RECIPES))
        perplexity(args, models)
    else:
        models = compile_all(args, args.gguf, "smollm2", ["w8a8", "w4a8-svd32"]) if set(wanted) & {"greedy", "determinism", "tune"} else {}
        if "api" in wanted or "values" in wanted:
            models |= compile_all(args, args.gguf, "smollm2", ["w8a8", "f32"] if "values" in wanted else ["w8a8"])
    pictures = {}
    if set(wanted) & {"emoji", "determinism", "api"}:
        pictures = compile_all(args, ROOT / "examples/emoji-dit/graph.json", "emoji", chosen(EMOJI_RECIPES) if "emoji" in wanted else ["w8a8"])
    if "emoji" in wanted:
        emoji(args, pictures)
    if "greedy" in wanted and "w8a8" in models:
        program(args, "gpu_greedy", "greedy", models["w8a8"])
    if "api" in wanted:
        for artifact in [models.get("w8a8"), pictures.get("w8a8")]:
            if artifact:
                program(args, "gpu_api", "api", artifact)
    if "values" in wanted and {"f32", "w8a8"} <= models.keys():
        values(args, models)
    bits = {}
    for artifact in [models.get("w8a8"), models.get("w4a8-svd32"), pictures.get("w8a8")]:
        if artifact and set(wanted) & {"determinism", "tune"}:
            bits[artifact] = program(args, "gpu_determinism", "determinism", artifact)
    if "tune" in wanted and "w8a8" in models:
        tuned(args, models["w8a8"], bits[models["w8a8"]])
    print(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    if args.json:
        args.json.write_text(json.dumps({"what": "models", "results": results}, indent=1) + "\n", encoding="utf-8")
    return 1 if failed or not results else 0


if __name__ == "__main__":
    sys.exit(main())
