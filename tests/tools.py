#!/usr/bin/env python3
"""tools.py SYL FOLDER: the verbs that look at things (inspect, diff, cache, tune, doctor) and the stages of a compile (--dump-dir, --estimate,
--memory), on a small random checkpoint."""
import json
import os
import pathlib
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "goldens"))
import tiny_llama

SYL, FOLDER = sys.argv[1], pathlib.Path(sys.argv[2])
MODEL = FOLDER / "model.gguf"


def expect(condition, what):
    if not condition:
        sys.exit(f"failed: {what}")
    print(f"ok: {what}")


def syl(*arguments):
    return subprocess.run([SYL, *map(str, arguments)], check=True, capture_output=True, text=True).stdout


def data(*arguments):
    return json.loads(syl(*arguments, "--json", "-q"))


shutil.rmtree(FOLDER, ignore_errors=True)
FOLDER.mkdir(parents=True)
os.environ["SYL_CACHE_DIR"] = str(FOLDER / "cache")
tiny_llama.write(MODEL, layers=2)
A, B = FOLDER / "a.syl", FOLDER / "b.syl"

# --estimate
first = data("compile", MODEL, "--recipe", "w8a8", "--estimate")
expect(first["reused"] == 0 and first["bytes"] > 0 and first["memory_bytes"] > 0, "a forecast without an output")
expect("free" in syl("compile", MODEL, "-o", A, "--recipe", "w8a8", "--estimate", "-q") and not A.exists(), "a forecast writes nothing")
report = data("compile", MODEL, "-o", A, "--recipe", "w8a8")
expect(0 < report["bytes"] - first["bytes"] < 1e6 and report["tensors"] == first["tensors"], "the forecast tells the size of the artifact's tensors")
again = data("compile", MODEL, "-o", A, "--recipe", "w8a8", "--estimate")
expect(again["reused"] == again["tensors"] and again["work_bytes"] == 0, "a forecast knows what is finished")

# --memory, --work-dir, --no-resume
whole = A.read_bytes()
for options in (["--memory", "1"], ["--work-dir", FOLDER / "work"], ["--work-dir", FOLDER / "work", "--memory", "64K"], ["--threads", "3"]):
    syl("compile", MODEL, "-o", B, "--recipe", "w8a8", "-q", *(options if "--work-dir" in options else [*options, "--no-resume"]))
    expect(B.read_bytes() == whole, f"the same bytes with {' '.join(map(str, options))}")

# --dump-dir
stages = FOLDER / "stages"
syl("compile", MODEL, "-o", B, "--recipe", "w8a8", "-q", "--dump-dir", stages)
expect(B.read_bytes() == whole, "the same bytes with --dump-dir")
names = sorted(path.name for path in stages.iterdir())
print(names)
expect(names[:2] == ["00.import.json", "01.import.sir"], "the imported graph, and its IR")
expect([name.split(".", 1)[1] for name in names[-3:]] == ["materialized.sir", "plan.txt", "kernels.txt"], "the final module, plan and kernels")
expect(len(names) == int(names[-1][:2]) + 1, "stages are numbered without a gap")
passes = [name.split(".")[1] for name in names[2:-3]]
expect((stages / names[-3]).read_text() == syl("dump", B, "--ir"), "the final module is the artifact's")
expect((stages / names[-2]).read_text() == syl("dump", B, "--plan"), "the plan is the artifact's")
text = syl("opt", stages / "01.import.sir", "--passes", passes[0])
expect(text == (stages / names[2]).read_text(), f"syl opt reads a stage: {passes[0]} makes the next one of it")
expect(syl("compile", stages / "00.import.json", "-o", FOLDER / "c.syl", "--recipe", "w8a8", "-q") == "", "the imported graph compiles")

# inspect
for path, kind in ((A, "artifact"), (MODEL, "gguf")):
    found = data("inspect", path, "--tensors", ".", "--hashes")
    expect(found["kind"] == kind and len(found["list"]) == found["tensors"] > 0, f"inspect {kind}")
    expect(sum(t["bytes"] for t in found["list"]) == found["bytes"] == sum(t["bytes"] for t in found["types"]), "sizes add up")
    expect(len({t["xxh3_128"] for t in found["list"]}) > 1 and path.stat().st_size == found["file_bytes"], "hashes and file size")
found = data("inspect", A, "--tensors", r"blk\.0\..*down\.weight")
expect([t["name"] for t in found["list"]] == ["blk.0.ffn_down.weight"] and found["list"][0]["type"] == "int8_channel", "inspect --tensors")
expect(8 < found["list"][0]["bits"] < 9, "bits a weight, scales included")
expect(found["recipe"]["name"] == "w8a8" and found["provenance"]["input"]["file"] == "model.gguf", "recipe and provenance")
expect("artifact" in syl("inspect", A) and "int8_channel" in syl("inspect", A, "--tensors", "."), "inspect for people")

# diff
same = data("diff", A, B)
expect(same["largest_error"] == 0 and same["compared"] == len(same["tensors"]) and same["a_bytes"] == same["b_bytes"], "an artifact equals itself")
syl("compile", MODEL, "-o", FOLDER / "plain.syl", "--recipe", "f32", "-q")
syl("compile", MODEL, "-o", B, "--recipe", "w8a8-plain", "-q")
different = data("diff", FOLDER / "plain.syl", B)
name = "blk.1.ffn_down.weight"
error = next(t["error"] for t in different["tensors"] if t["name"] == name)
expect(1e-4 < error < 0.02, f"w8a8-plain: {name} differs by {error:.4f}")
expect(different["b_bytes"] < different["a_bytes"] / 2 and name in syl("diff", FOLDER / "plain.syl", B), "and is smaller")

# diff on an input: rotations that are undone leave float noise; where they cannot be, norms are compared
syl("compile", MODEL, "-o", FOLDER / "rotated.syl", "--recipe", "f32-rotated", "-q")
ids = ["--ids", ",".join(str(7 * i % 90) for i in range(100))]
undone = data("diff", FOLDER / "plain.syl", FOLDER / "rotated.syl", *ids)
values = {v["name"]: v for layer in undone["layers"] for v in layer["values"]}
expect(undone["tokens"] == 100 and abs(undone["kl"]) < 1e-8 and undone["same_top"] == 1, "rotations change no logits")
expect({"blk.0.q", "blk.1.m", "logits"} <= {n for n, v in values.items() if v["compared"] == "values"}, "values whose basis is known")
for name in ("blk.0.a", "blk.1.x2"): # an untied model: every edge of the residual stream is folded
    expect(values[name]["compared"] == "norms" and values[name]["max_abs"] is None, f"{name} by the norms of its rows")
expect("blk.0.n" not in values and undone["left_out"] > 0, "what a gain was folded out of is left out")
expect(all(v["error"] < 1e-5 and v["rows"] == 100 for v in values.values()), f"all within {max(v['error'] for v in values.values()):.1e}")
quantized = data("diff", FOLDER / "plain.syl", A, *ids)
values = {v["name"]: v for layer in quantized["layers"] for v in layer["values"]}
expect(1e-4 < values["blk.1.x2"]["error"] < 0.1 and values["blk.1.m"]["b_element"] == "int8_token", f"w8a8: SQNR {values['blk.1.x2']['sqnr_db']:.1f} dB behind the last layer")
expect([layer["layer"] for layer in quantized["layers"]] == [0, 1, None] and quantized["a_bytes"] == sum(layer["a_bytes"] for layer in quantized["layers"]), "layers and their sizes")
kl = data("perplexity", FOLDER / "plain.syl", "-f", __file__, "--against", A, "--context", "64", "--windows", "1")
text = data("diff", A, FOLDER / "plain.syl", "-f", __file__, "--tokens", "64")
expect(text["tokens"] == 64 and abs(text["kl"] / kl["kl"] - 1) < 0.5, f"KL {text['kl']:.2e}, {kl['kl']:.2e} by syl perplexity without the first tokens")
same = data("diff", A, A, *ids)
expect(same["norms"] == same["left_out"] == 0 and all(v["error"] == 0 for layer in same["layers"] for v in layer["values"]), "a model equals itself")
expect("layer 1" in syl("diff", FOLDER / "plain.syl", A, *ids, "-q"), "diff for people")
DIT = pathlib.Path(__file__).resolve().parent.parent / "examples" / "emoji-dit" / "graph.json"
for recipe in ("f32", "f32-rotated"):
    syl("compile", DIT, "-o", FOLDER / f"dit-{recipe}.syl", "--recipe", recipe, "-q")
functions = data("diff", FOLDER / "dit-f32.syl", FOLDER / "dit-f32-rotated.syl", "--random", "B=1,T=256")
values = [v for layer in functions["layers"] for v in layer["values"]]
expect("kl" not in functions and functions["compared"] > 30 and "blocks.3.x1" in {v["name"] for v in values if v["compared"] == "values"} and all(v["error"] < 1e-5 for v in values), "a function on random tensors")

lost = subprocess.run([SYL, "diff", FOLDER / "dit-f32.syl", FOLDER / "dit-f32-rotated.syl", "--random", "B=1"], capture_output=True, text=True)
expect(lost.returncode == 2 and "error[cli-value]" in lost.stderr and "the rows T" in lost.stderr, "--random names the rows that it lacks")

# cache
stats = data("cache", "stats")
listed = data("cache", "ls")["entries"]
expect(stats["tensors"] == sum(e["kind"] == "tensor" for e in listed) > 0 and stats["kernels"] == sum(e["kind"] == "kernel" for e in listed), "cache stats and ls")
expect(sum(e["bytes"] for e in listed) == stats["tensor_bytes"] + stats["kernel_bytes"], "cache sizes")
expect(data("cache", "verify")["damaged"] == 0, "cache verify")
syl("logits", A, "--ids", "1,2,3", "-o", FOLDER / "logits.npy", "-q")
kernels = sorted((FOLDER / "cache").glob("*.o"))
expect(kernels, "kernels are in the cache")
damaged = bytearray(kernels[0].read_bytes())
damaged[-1] ^= 1
kernels[0].write_bytes(damaged)
expect(data("cache", "verify")["damaged"] == 1 and not kernels[0].exists(), "a damaged kernel is found and removed")
half = (stats["tensor_bytes"] + stats["kernel_bytes"]) // 2
left = data("cache", "gc", "--max-size", half)
expect(left["freed_bytes"] > 0 and left["tensor_bytes"] + left["kernel_bytes"] <= half, "cache gc")
empty = data("cache", "clear")
expect(empty["tensors"] == empty["kernels"] == 0 and not list((FOLDER / "cache").rglob("*.tensor")), "cache clear")

# CUDA code, without a GPU; what needs NVRTC only where it is found
source = syl("dump", A, "--cuda", "k0", "--arch", "sm_80")
expect("sm_80" in source and 'extern "C" __global__' in source, "dump --cuda")
if "compiled in" in next(c["found"] for c in data("doctor")["checks"] if c["check"] == "nvrtc"):
    expect(".target sm_75" in syl("dump", A, "--ptx", "k0", "--arch", "sm_75"), "dump --ptx")
    table = syl("dump", A, "--resources", "k0", "--rows", "1")
    expect("sm_90a" in table.splitlines()[0] and table.count("\n") == 2 and table.splitlines()[1].startswith("k0"), "dump --resources")
    cubins = sorted((FOLDER / "cache").glob("*.cuda"))
    expect(len(cubins) == 2 and data("cache", "stats")["kernels"] == 2, "CUDA kernels are in the cache")
    expect(b"variant rows" in cubins[0].read_bytes(), "and say what they are")
    cubins[0].write_bytes(cubins[0].read_bytes()[:-1])
    expect(data("cache", "verify")["damaged"] == 1 and not cubins[0].exists(), "a damaged one is found and removed")
    expect(syl("dump", A, "--resources", "k0", "--rows", "1") == table, "and made again")

# tune: records from file to file; a damaged database is named, and so is the way out
record = {"record": "choice", "gpu": "NVIDIA H200", "capability": 90, "sms": 132, "memory_mhz": 3201, "driver": "13000", "nvrtc": "13.0", "library": "0.1.0",
          "kernel": "00112233445566778899aabbccddeeff", "rows": 16, "variant": "rows threads=64", "source": "ffeeddccbbaa99887766554433221100", "name": "quantize",
          "seconds": 1.25e-06, "tried": 4, "candidates": 6, "budget": 60, "date": 1700000000}
lines, copied, database = FOLDER / "lines.jsonl", FOLDER / "copied.jsonl", FOLDER / "cache" / "tuning.db"
expect(data("tune", "--export", copied)["exported"] == 0 and copied.read_text() == "" and not database.exists(), "nothing is exported where nothing was tuned")
lines.write_text("".join(json.dumps({**record, "rows": rows}) + "\n" for rows in (1, 16, 512)))
expect(data("tune", "--import", lines)["imported"] == 3, "tune --import")
expect(data("tune", "--export", copied)["exported"] == 3 and sorted(copied.read_text().splitlines()) == sorted(lines.read_text().splitlines()), "tune --export")
expect(data("cache", "clear")["kernels"] == 0 and database.exists(), "cache clear leaves what was tuned")
for name in ("tuning.db", "tuning.db-wal", "tuning.db-shm"):
    (FOLDER / "cache" / name).unlink(missing_ok=True)
database.write_bytes(b"damaged" * 1000)
sick = subprocess.run([SYL, "tune", "--import", str(lines)], capture_output=True, text=True)
expect(sick.returncode == 3 and "error[tuning-damaged]" in sick.stderr and "delete the file" in sick.stderr, "a damaged database is named")
database.unlink()
expect(data("tune", "--import", lines)["imported"] == 3, "and made anew when it is deleted")

# doctor
health = data("doctor")
expect(health["ok"] and {"llvm", "cpu", "self-test", "cache"} <= {c["check"] for c in health["checks"]}, "doctor")
expect("everything is fine" in syl("doctor"), "doctor for people")
nvrtc = next(c["found"] for c in health["checks"] if c["check"] == "nvrtc")
without = subprocess.run([SYL, "doctor", "--json"], env={**os.environ, "SYL_NVRTC": "/no/such/folder"}, capture_output=True, text=True)
found = next(c["found"] for c in json.loads(without.stdout)["checks"] if c["check"] == "nvrtc")
expect("/no/such/folder" in found and "pip install nvidia-cuda-nvrtc" in found, "doctor tells how to get NVRTC")
(FOLDER / "open").mkdir()
(FOLDER / "open").chmod(0o777)
sick = subprocess.run([SYL, "doctor", "--json"], env={**os.environ, "SYL_CACHE_DIR": str(FOLDER / "open")}, capture_output=True, text=True)
expect(sick.returncode == 8 and not json.loads(sick.stdout)["ok"] and "error[cache-folder]" in sick.stderr, "doctor names an open cache folder")

stray = [str(p) for p in FOLDER.rglob(".*")]
expect(not stray, f"no stray file is left {stray}")
shutil.rmtree(FOLDER)
