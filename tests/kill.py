#!/usr/bin/env python3
"""kill.py SYL FOLDER [KILLS] [MODEL]: an interrupted compile goes on where it was. A checkpoint (MODEL, or a small random one made here) is
compiled KILLS times over (10), each time killed (SIGKILL) at a random moment, then once to its end. The artifact must have the bytes of an
undisturbed compile; no file may be left beside it or among the finished tensors but whole ones; what was finished is not computed again."""
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "goldens"))

SYL, FOLDER = sys.argv[1], pathlib.Path(sys.argv[2])
KILLS = int(sys.argv[3]) if len(sys.argv) > 3 else 10
MODEL = pathlib.Path(sys.argv[4]) if len(sys.argv) > 4 else FOLDER / "random.gguf"
RECIPE = "w8a8"
CACHE, OUT = FOLDER / "cache", FOLDER / "out"


def expect(condition, what):
    if not condition:
        sys.exit(f"failed: {what}")
    print(f"ok: {what}")


def compile_to(path, *options):
    return [SYL, "compile", MODEL, "-o", path, "--recipe", RECIPE, *options]


def stray():
    """Files that are neither the artifact nor whole tensors."""
    beside = [p.name for p in OUT.iterdir() if p.name != "model.syl"]
    kept = [p.name for p in (CACHE / "tensors").iterdir() if not re.fullmatch(r"[0-9a-f]{32}\.tensor", p.name)]
    return beside + kept


def tensors():
    return len(list((CACHE / "tensors").glob("*.tensor"))) if CACHE.exists() else 0


shutil.rmtree(FOLDER, ignore_errors=True)
OUT.mkdir(parents=True)
if len(sys.argv) <= 4:
    import tiny_llama

    tiny_llama.write(MODEL, layers=4)
os.environ["SYL_CACHE_DIR"] = str(CACHE)

start = time.monotonic()
subprocess.run(compile_to(FOLDER / "whole.syl", "--no-resume", "-q"), check=True)
seconds = time.monotonic() - start
whole = (FOLDER / "whole.syl").read_bytes()
expect(not CACHE.exists() or tensors() == 0, "--no-resume keeps nothing")

seed = int.from_bytes(os.urandom(4), "little")
print(f"an undisturbed compile takes {seconds:.2f} s; seed {seed}")
randomness, killed, finished, leftovers = random.Random(seed), 0, 0, 0
while killed < KILLS:
    # Often from the beginning, so that moments of the computing are met too, not only those of copying what is there.
    if randomness.random() < 0.3:
        shutil.rmtree(CACHE, ignore_errors=True)
    (OUT / "model.syl").unlink(missing_ok=True)
    process = subprocess.Popen(compile_to(OUT / "model.syl", "-q"))
    try:
        process.wait(randomness.uniform(0, 1.1 * seconds))
    except subprocess.TimeoutExpired:
        pass
    process.send_signal(signal.SIGKILL)
    if process.wait() == -signal.SIGKILL:
        killed += 1
    else:
        finished += 1
        if process.returncode:
            sys.exit(f"failed: an interrupted compile broke the next one: exit code {process.returncode}")
    leftovers += len(list(OUT.glob(".*.partial"))) + len(list((CACHE / "tensors").glob(".*.partial")))
    if (OUT / "model.syl").exists() and (OUT / "model.syl").read_bytes() != whole:
        sys.exit("failed: an artifact that appeared is not whole")

before = tensors()
report = json.loads(subprocess.run(compile_to(OUT / "model.syl", "--json", "-q"), check=True, capture_output=True, text=True).stdout)
expect((OUT / "model.syl").read_bytes() == whole, f"after {killed} kills ({finished} compiles were faster) the bytes are those of an undisturbed compile")
expect(report["reused"] == before, f"{before} of {report['tensors']} tensors were finished before and not computed again")
expect(not stray(), f"no stray file is left {stray()} ({leftovers} temporary files of killed compiles were seen)")
verified = json.loads(subprocess.run([SYL, "cache", "verify", "--json"], check=True, capture_output=True, text=True).stdout)
expect(verified["damaged"] == 0, "no finished tensor is damaged")

# Damage is found when it is used: the tensor counts as absent, and the artifact is the same.
victims = sorted((CACHE / "tensors").glob("*.tensor"))[:3]
for number, path in enumerate(victims):
    data = bytearray(path.read_bytes())
    if number == 0:
        data[len(data) // 2] ^= 1
    elif number == 1:
        del data[-7:]
    else:
        data[8] ^= 3  # the key
    path.write_bytes(data)
report = json.loads(subprocess.run(compile_to(OUT / "model.syl", "--json", "-q"), check=True, capture_output=True, text=True).stdout)
expect((OUT / "model.syl").read_bytes() == whole and report["reused"] == report["tensors"] - 3, "three damaged tensors are computed again")
victims[0].write_bytes(b"")
verified = json.loads(subprocess.run([SYL, "cache", "verify", "--json"], check=True, capture_output=True, text=True).stdout)
expect(verified["damaged"] == 1, "syl cache verify finds a damaged tensor and removes it")

# A recipe that shares some tensors redoes the others only.
subprocess.run(compile_to(OUT / "model.syl", "-q"), check=True)
RECIPE = "w8a8-plain"
report = json.loads(subprocess.run(compile_to(OUT / "other.syl", "--json", "-q"), check=True, capture_output=True, text=True).stdout)
again = json.loads(subprocess.run(compile_to(OUT / "other.syl", "--json", "-q"), check=True, capture_output=True, text=True).stdout)
expect(again["reused"] == again["tensors"] and report["reused"] < report["tensors"], f"another recipe: {report['reused']} of {report['tensors']} tensors shared")
shutil.rmtree(FOLDER)
