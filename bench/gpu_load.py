#!/usr/bin/env python3
"""How long a model of the shape of Llama 3 8B takes to load on a GPU: cold, with no kernel in the cache, and warm.

    gpu_load.py SYL WORK [--layers N] [--vocab N] [--recipe w8a8] [--runs 3] [--tune 60s] [--device cuda] [--keep] [--json FILE]

Writes a random checkpoint (16 GB in WORK, deleted when it is compiled), compiles it (8.5 GB, kept there with --keep and used by the next call), and
loads it with `syl bench`. Expected: cold at most 10 s in all; warm at most 0.3 s beside reading weights (`pack_s`, while which kernels may be loaded too), the
start of the driver included. --tune: tunes then, and loads once more. The last load measures decoding behind 512 positions. Exit code 1: too slow, or failed."""
import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

COLD_S, WARM_S = 10.0, 0.3
PARTS = ["load_s", "open_s", "driver_s", "pack_s", "compile_s", "modules_s", "kernels", "kernels_compiled", "kernels_cached", "kernels_tuned"]


def say(text):
    print(text, flush=True)


def run(args, command, limit, cache):
    """(seconds, JSON) of the command; ends the script where it fails."""
    start = time.monotonic()
    try:
        done = subprocess.run([str(args.syl), *map(str, command)], env={**os.environ, "SYL_CACHE_DIR": str(cache)}, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        raise SystemExit(f"FAIL {command[0]}: not done within {limit} s")
    if done.returncode:
        raise SystemExit(f"FAIL {command[0]}: exit code {done.returncode}\n{done.stderr}")
    return time.monotonic() - start, json.loads(done.stdout)


def load(args, name, cache, *options):
    """A load by `syl bench`: its parts; `besides_s`: all but reading weights."""
    seconds, result = run(args, ["bench", args.artifact, "--device", args.device, "--json", "-q", *options], 120, cache)
    parts = {key: result[key] for key in PARTS}
    parts |= {"load": name, "process_s": seconds, "besides_s": parts["load_s"] - parts["pack_s"], "packed_bytes": result["packed_bytes"]}
    say(f"{name:<7} {parts['load_s']:7.3f} s: open {parts['open_s']:.3f} (driver {parts['driver_s']:.3f}), weights {parts['pack_s']:.3f} "
        f"({1e-9 * parts['packed_bytes'] / max(parts['pack_s'], 1e-9):.1f} GB/s), kernels {parts['compile_s']:.3f} (modules {parts['modules_s']:.3f}; "
        f"{parts['kernels_compiled']} compiled, {parts['kernels_cached']} cached); besides weights {parts['besides_s']:.3f}; process {seconds:.1f} s")
    return parts, result


def make_artifact(args, results):
    import llama_checkpoint  # needs NumPy

    shape = dataclasses.replace(llama_checkpoint.LLAMA_8B, layers=args.layers, vocab=args.vocab)
    source, start = args.work / "checkpoint", time.monotonic()
    shutil.rmtree(source, ignore_errors=True)
    total, shards = llama_checkpoint.write(source, shape)
    results["checkpoint_bytes"], results["write_s"] = total, time.monotonic() - start
    say(f"checkpoint: {1e-9 * total:.1f} GB in {shards} files, {results['write_s']:.1f} s")
    part = args.artifact.with_suffix(".part")
    seconds, done = run(args, ["compile", source, "-o", part, "--recipe", args.recipe, "--no-resume", "--json", "-q"], 300, args.work / "cache-compile")
    part.rename(args.artifact)
    shutil.rmtree(source)
    results["compile_model_s"], results["artifact_bytes"] = seconds, done["bytes"]
    say(f"compiled: {1e-9 * done['bytes']:.1f} GB, {seconds:.1f} s")


def measure(args, results):
    cache = args.work / "cache-load"
    shutil.rmtree(cache, ignore_errors=True)
    seconds, _ = run(args, ["devices", "--json"], 60, cache)
    results["devices_s"] = seconds
    say(f"syl devices: {seconds:.2f} s (the first start of the driver)")
    quick = ["-p", 16, "-n", 8, "-r", 1]
    loads = results["loads"] = [load(args, "cold", cache, *quick)[0]]
    for _ in range(args.runs - 1):
        loads.append(load(args, "warm", cache, *quick)[0])
    parts, bench = load(args, "warm", cache, "-p", 512, "-n", 64, "-r", 3)
    loads.append(parts)
    speeds = {"untuned": bench}
    if args.tune:
        seconds, tuned = run(args, ["tune", args.artifact, "--budget", args.tune, "--device", args.device, "--json", "-q"], 300, cache)
        results["tune_s"], results["tune"] = seconds, {key: tuned[key] for key in ["choices", "tuned", "left", "measured", "bad"]}
        say(f"tuned in {seconds:.1f} s: {results['tune']}")
        load(args, "tuned", cache, *quick)  # compiles what the choice brought
        parts, speeds["tuned"] = load(args, "tuned", cache, "-p", 512, "-n", 64, "-r", 3)
        loads.append(parts)
    for name, bench in speeds.items():
        first = bench["results"][0]
        results[name] = {"decode_tokens_per_s": first["tokens_per_s"], "roofline_percent": first["roofline_percent"], "step_s": first["step_s"],
                         "step_bytes": first["step_bytes"], "prefill_tokens_per_s": bench["prefill_tokens_per_s"],
                         "copy_bytes_per_s": bench["copy_bytes_per_s"]}
        results["processor"] = bench.get("processor", bench["cpu"])
        say(f"{name}: {first['tokens_per_s']:.1f} tokens/s, {first['roofline_percent']:.1f} % of a copy's rate ({1e-9 * bench['copy_bytes_per_s']:.0f} GB/s); "
            f"prefill {bench['prefill_tokens_per_s']:.0f} tokens/s")


def judge(results):
    cold = results["loads"][0]
    warm = [one for one in results["loads"] if one["load"] == "warm"]
    results["cold_s"] = cold["load_s"]
    results["warm_besides_s"] = statistics.median(one["besides_s"] for one in warm)
    results["warm_besides_driver_s"] = statistics.median(one["besides_s"] - one["driver_s"] for one in warm)
    results["warm_compiled"] = sum(one["kernels_compiled"] for one in warm)
    checks = {"cold": cold["load_s"] <= COLD_S and cold["kernels_compiled"] > 0, "warm": results["warm_besides_s"] <= WARM_S and not results["warm_compiled"]}
    say(f"{'ok  ' if checks['cold'] else 'FAIL'} cold {cold['load_s']:.2f} s, at most {COLD_S} s")
    say(f"{'ok  ' if checks['warm'] else 'FAIL'} warm {results['warm_besides_s']:.3f} s beside reading weights, at most {WARM_S} s; without the start of the driver "
        f"{results['warm_besides_driver_s']:.3f} s")
    results["checks"] = checks
    return all(checks.values())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("syl", type=pathlib.Path)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--vocab", type=int, default=128256)
    parser.add_argument("--recipe", default="w8a8")
    parser.add_argument("--runs", type=int, default=3, help="warm loads")
    parser.add_argument("--tune", metavar="TIME")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    args.syl = args.syl.absolute()
    args.work.mkdir(parents=True, exist_ok=True)
    args.artifact = args.work / f"llama-{args.layers}x{args.vocab}-{args.recipe}.syl"
    results = {"what": "load", "commit": os.environ.get("SYL_COMMIT", ""), "cores": os.cpu_count(), "layers": args.layers, "recipe": args.recipe}
    good = False
    try:
        if not args.artifact.exists():
            make_artifact(args, results)
        measure(args, results)
        good = judge(results)
    finally:
        if args.json:
            args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        shutil.rmtree(args.work / "checkpoint", ignore_errors=True)
        if not args.keep:
            args.artifact.unlink(missing_ok=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
