#!/usr/bin/env python3
"""compile_3b.py SYL [RECIPE...] [--layers N] [--work DIR] [--limit GIB]: compiles a synthetic checkpoint of the shape of a 3B
Llama (sharded safetensors, bfloat16, random numbers, about 6.4 GB in DIR, deleted afterwards) and prints what `syl compile
--estimate` foretold, the time it took and the peak memory of the process. Fails if a peak is above the limit (4 GiB). Nothing is
reused: finished tensors are kept in a folder of its own, empty at first. NumPy is all it needs."""
import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import llama_checkpoint


def peak_of(command, environment):
    """Runs a command; its peak resident memory in bytes and its seconds."""
    start = time.monotonic()
    pid = os.posix_spawn(command[0], command, environment)
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(map(str, command))}")
    return usage.ru_maxrss * 1024, time.monotonic() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("syl")
    parser.add_argument("recipes", nargs="*", default=["w4a8"])
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--work", default=tempfile.gettempdir())
    parser.add_argument("--limit", type=float, default=4.0, help="GiB")
    options = parser.parse_args()
    syl = os.path.realpath(options.syl)
    work = pathlib.Path(tempfile.mkdtemp(prefix="compile-3b-", dir=options.work))
    failed = False
    try:
        start = time.monotonic()
        total, shards = llama_checkpoint.write(work / "model", dataclasses.replace(llama_checkpoint.LLAMA_3B, layers=options.layers))
        print(f"checkpoint: {total / 1e9:.2f} GB in {shards} shards, written in {time.monotonic() - start:.0f} s", flush=True)
        for recipe in options.recipes or ["w4a8"]:
            environment = {**os.environ, "SYL_CACHE_DIR": str(work / "cache")}
            model, out = str(work / "model"), str(work / "out.syl")
            foretold = json.loads(subprocess.run([syl, "compile", model, "-o", out, "--recipe", recipe, "--estimate", "--json", "-q"],
                                                 env=environment, check=True, capture_output=True, text=True).stdout)
            print(f"{recipe}: foretold {foretold['seconds']:.0f} s, {foretold['memory_bytes'] / 2**30:.2f} GiB of memory, "
                  f"{foretold['bytes'] / 1e9:.2f} GB", flush=True)
            peak, seconds = peak_of([syl, "compile", model, "-o", out, "--recipe", recipe, "-q"], environment)
            size = os.path.getsize(out)
            print(f"{recipe}: {seconds:.0f} s, peak {peak / 2**30:.2f} GiB of memory, {size / 1e9:.2f} GB written", flush=True)
            _, again = peak_of([syl, "compile", model, "-o", out, "--recipe", recipe, "-q"], environment)
            print(f"{recipe}: {again:.0f} s once more, from the finished tensors", flush=True)
            failed |= peak > options.limit * 2**30
            os.unlink(out)
    finally:
        shutil.rmtree(work)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
