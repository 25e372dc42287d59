#!/usr/bin/env python3
"""Faults on a machine with a GPU: each has its error's name and its exit code, and the next process is fine.

    faults.py SYL WORK [--gguf FILE] [--programs FOLDER] [--only nvrtc,driver,...] [--json FILE]

With the driver that pretends (tests/fake) first in LD_LIBRARY_PATH all of it runs without a GPU, to try this script. Exit code 77: no GPU."""
import argparse
import ctypes
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
MB = 1 << 20
PROMPT = ["-p", "Explain how a compiler works.", "-n", "24"]
LIMIT = 120  # seconds of a process

results, failed = [], []

# A process that holds memory of the GPU: "leave N" takes all but N bytes, and "free" takes nothing; both answer with the bytes that are free.
HOLDER = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
def must(result):
    if result:
        sys.exit(f"result {result}")
device, context, free, total = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
must(cuda.cuInit(0))
must(cuda.cuDeviceGet(ctypes.byref(device), 0))
must(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
must(cuda.cuCtxPushCurrent_v2(context))
def left():
    must(cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)))
    return free.value
blocks = []
for line in sys.stdin:
    word, n = line.split()
    if word == "leave":
        for block in blocks:
            must(cuda.cuMemFree_v2(block))
        blocks.clear()
        size = 4 << 30
        while size >= 2 << 20:
            block = ctypes.c_uint64()
            if left() - size >= int(n) and cuda.cuMemAlloc_v2(ctypes.byref(block), ctypes.c_size_t(size)) == 0:
                blocks.append(block)
            else:
                size //= 2
    print(left(), flush=True)
"""


class Holder:
    def __init__(self):
        self.process = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ask("free")

    def ask(self, word, n=0):
        self.process.stdin.write(f"{word} {n}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def end(self):
        self.process.stdin.close()
        self.process.wait(30)


def report(good, test, **figures):
    results.append({"test": test, "ok": bool(good), **figures})
    print("ok  " if good else "FAIL", test, " ".join(f"{key}={value}" for key, value in figures.items()), flush=True)
    if not good:
        failed.append(test)


class Faults:
    def __init__(self, args):
        self.args, self.artifact, self.cache = args, args.work / "smollm2-w8a8.syl", args.work / "cache-faults"
        self.fake = hasattr(ctypes.CDLL("libcuda.so.1"), "fake_cuda")
        self.text = None  # of a run without faults

    def run(self, *command, cache=None, program=None, **environment):
        """A process with a cache folder of ours; its stderr also tells of a load how many kernels were compiled (attribute `compiled`)."""
        env = {**os.environ, "SYL_CACHE_DIR": str(cache or self.cache), **environment}
        try:
            done = subprocess.run([str(program or self.args.syl), *map(str, command)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                  timeout=LIMIT)
        except subprocess.TimeoutExpired:
            done = subprocess.CompletedProcess(command, 124, "", f"not done within {LIMIT} s")
        counts = re.search(r"(\d+) compiled, (\d+) from the cache", done.stderr)
        done.compiled, done.cached = map(int, counts.groups()) if counts else (-1, -1)
        return done

    def generate(self, **options):
        """Writes text. The driver that pretends computes nothing, so there it is a benchmark."""
        work = ["bench", self.artifact, "-p", "16", "-n", "2", "-r", "1"] if self.fake else ["generate", self.artifact, *PROMPT]
        return self.run(*work, "--json", "--device", "cuda", **options)

    def text_of(self, done):
        """What it computed, as far as it must be the same again."""
        return json.loads(done.stdout).get("text", "") if done.returncode == 0 else None

    def expect(self, test, done, code, *said):
        out = done.stdout + done.stderr
        good = done.returncode == code and all(part in out for part in said)
        first = next((line for line in done.stderr.splitlines() if line.startswith("error")), "")
        report(good, test, code=done.returncode, said=first[:300])
        if not good:
            print(f"    expected {code} and {said}; found:\n{out[-2000:]}", flush=True)

    def fine(self, test, cache=None, compiled=None):
        """A run behind the fault: the text is that of the run before all faults, and so many kernels were compiled."""
        done = self.generate(cache=cache)
        good = self.text_of(done) == self.text and (compiled is None or compiled(done.compiled))
        report(good, test, code=done.returncode, compiled=done.compiled, cached=done.cached)
        if not good:
            print(f"    found:\n{(done.stdout + done.stderr)[-2000:]}", flush=True)
        return done

    def copy(self, name):
        cache = self.args.work / f"cache-{name}"
        shutil.rmtree(cache, ignore_errors=True)
        shutil.copytree(self.cache, cache)
        return cache

    def empty(self, name):
        cache = self.args.work / f"cache-{name}"
        shutil.rmtree(cache, ignore_errors=True)
        return cache

    # ---- the faults ----

    def prepare(self):
        if not self.artifact.exists():
            self.expect("compile", self.run("compile", self.args.gguf, "-o", self.artifact, "--recipe", "w8a8", "--quiet"), 0)
        shutil.rmtree(self.cache, ignore_errors=True)
        done = self.generate()
        report(done.returncode == 0 and done.compiled > 0, "a run without faults", compiled=done.compiled)
        if done.returncode:
            raise SystemExit(done.stderr)
        self.text = self.text_of(done)

    def driver(self):
        broken = self.args.work / "broken"
        broken.mkdir(exist_ok=True)
        (broken / "libcuda.so.1").write_text("no library")
        path = f"{broken}:{os.environ.get('LD_LIBRARY_PATH', '')}"
        self.expect("no driver", self.generate(LD_LIBRARY_PATH=path), 7, "error[cuda-no-driver]", "--device cpu")
        default = self.run("devices", LD_LIBRARY_PATH=path)
        self.expect("no driver: devices", default, 0, "gpu: none")
        self.expect("no such GPU", self.run("generate", self.artifact, *PROMPT, "--device", "cuda:99"), 2, "error[cuda-device]")
        self.fine("behind no driver")

    def nvrtc(self):
        cache = self.empty("nvrtc")
        self.expect("no NVRTC", self.generate(cache=cache, SYL_NVRTC="/nonexistent"), 4, "error[nvrtc-missing]", "pip install")
        opened = {}
        for name in ("cold", "warm"):
            for old in self.args.work.glob(f"loader-{name}.*"):
                old.unlink()
            done = self.generate(cache=cache, LD_DEBUG="files", LD_DEBUG_OUTPUT=str(self.args.work / f"loader-{name}"))
            text = "".join(path.read_text(errors="replace") for path in self.args.work.glob(f"loader-{name}.*"))
            opened[name] = done.returncode == 0 and "libcuda" in text, "libnvrtc" in text, done.compiled
        report(opened["cold"][0] and opened["cold"][1] and opened["cold"][2] > 0, "a cold start opens NVRTC", compiled=opened["cold"][2])
        report(opened["warm"][0] and not opened["warm"][1] and opened["warm"][2] == 0, "a warm start does not open NVRTC", compiled=opened["warm"][2])

    def memory(self):
        def full(test, leave, *said):
            if self.fake:
                done = self.generate(FAKE_CUDA_MEMORY=str(leave))
            else:
                report(True, f"{test}: left", bytes=holder.ask("leave", leave))
                done = self.generate()
            self.expect(test, done, 6, "error[cuda-memory]", *said)

        holder = None
        overhead = 0
        try:
            if not self.fake:
                holder = Holder()
                before = holder.ask("free")
                other = Holder()  # takes what a context takes
                overhead = before - holder.ask("free")
                other.end()
                report(overhead > 0, "a context takes memory", bytes=overhead)
            full("a full GPU", overhead + 128 * MB, "are needed on", "are free; largest: weights", "a recipe of fewer bits needs less")
            if not self.fake:
                full("a GPU without room for a context", overhead // 4)
        finally:
            if holder:
                holder.end()
        self.expect("a KV cache that does not fit", self.run("bench", self.artifact, "-b", "4096", "-c", "8000", "-p", "16", "-n", "1", "--device", "cuda"),
                    6, "error[cuda-memory]", "largest: the KV cache", "--context")
        self.fine("behind a full GPU")

    def trap(self):
        cache, program = self.copy("trap"), self.args.programs / "gpu_faults"
        trap = {"FAKE_CUDA_TRAP": "3"} if self.fake else {}
        self.expect("kernels are replaced", self.run("trap", cache, program=program), 0, "kernels replaced")
        self.expect("a launch that traps", self.generate(cache=cache, **trap), 7, "error[cuda-launch]")
        done = self.run("lost", self.artifact, program=program, cache=cache, **trap)
        self.expect("the context is lost", done, 0, "ok   a run that traps", "ok   a run behind it", "ok   a session behind it")
        self.fine("behind a trap")

    def damage(self):
        cache = self.copy("damage")
        files = sorted(cache.glob("*.cuda"))
        for path in files:
            data = bytearray(path.read_bytes())
            data[len(data) * 2 // 3] ^= 0x40
            path.write_bytes(data)
        self.fine("a bit of each cached kernel flipped", cache, lambda n: n == len(files))
        self.fine("behind it", cache, lambda n: n == 0)
        files[0].write_bytes(files[1].read_bytes())  # of another key: what a stale entry is
        files[2].write_bytes(files[2].read_bytes()[:-100])
        files[3].write_bytes(b"")
        files[4].unlink()
        files[4].mkdir()
        self.fine("entries of another key, cut, empty, a folder", cache, lambda n: 3 <= n <= 5)
        (cache / "tuning.db").write_bytes(b"SQLite format 3\0" + os.urandom(8192))
        done = self.fine("a damaged database of tuning", cache)
        report("warning" in done.stderr, "it is warned of")
        self.expect("tuning with it", self.run("tune", self.artifact, "--device", "cuda", "--budget", "5s", cache=cache), 3, "error[tuning-damaged]")

    def killed(self):
        cache = self.empty("killed")
        env = {**os.environ, "SYL_CACHE_DIR": str(cache)}
        process = subprocess.Popen([str(self.args.syl), "generate", str(self.artifact), *PROMPT, "--device", "cuda", "-q"], env=env,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 30
        while len(list(cache.glob("*.cuda"))) < 3 and process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        process.kill()
        process.wait(30)
        made = len(list(cache.glob("*.cuda")))
        done = self.fine("behind a start that was killed while it compiled", cache)
        report(process.returncode == -signal.SIGKILL and done.cached > 0, "what it had compiled is used", made=made, cached=done.cached)

    def worker_runs(self):
        for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except OSError:
                continue
            if b"--worker" in words and str(self.artifact).encode() in words:
                return True
        return False

    def interrupted(self, name, number, lines):
        """A tuning is ended when it has told of so many choices; the next takes these over and does the rest."""
        cache = self.copy(f"tune-{name}")
        command = ["tune", str(self.artifact), "--device", "cuda", "--budget", "60s", "--rows", "1,16"]
        process = subprocess.Popen([str(self.args.syl), *command, "-q"], env={**os.environ, "SYL_CACHE_DIR": str(cache)}, stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL, text=True)
        told = 0
        for _ in process.stdout:
            told += 1
            if told == lines:
                process.send_signal(number)
                break
        rest = process.stdout.read()  # ends with the process
        process.wait(30)
        until = time.monotonic() + 10
        while self.worker_runs() and time.monotonic() < until:
            time.sleep(0.1)
        report(process.returncode == -number and not self.worker_runs(), f"tuning ended by {name}", code=process.returncode, told=told + rest.count("rows"))
        done = self.run(*command, "--json", "-q", cache=cache)
        again = json.loads(done.stdout) if done.returncode == 0 else {}
        report(again.get("known", 0) >= lines and again.get("tuned", 0) > 0 and not again.get("left", 1), f"tuning behind {name} goes on", code=done.returncode,
               **{key: again.get(key) for key in ("choices", "known", "tuned", "left", "bad", "seconds")})
        self.fine(f"behind tuning and {name}", cache)

    def tuning(self):
        self.interrupted("SIGKILL", signal.SIGKILL, 3)
        self.interrupted("SIGINT", signal.SIGINT, 2)


FAULTS = ["driver", "nvrtc", "memory", "trap", "damage", "killed", "tuning"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("syl", type=pathlib.Path)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--gguf", type=pathlib.Path, default=ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--programs", type=pathlib.Path)
    parser.add_argument("--only", default=",".join(FAULTS))
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    args.syl, args.work = args.syl.absolute(), args.work.absolute()
    args.programs = (args.programs or args.syl.parent).absolute()
    args.work.mkdir(parents=True, exist_ok=True)
    os.environ.pop("SYL_DEVICE", None)
    try:
        there = ctypes.CDLL("libcuda.so.1").cuInit(0) == 0
    except OSError:
        there = False
    if not there:
        print("not run: there is no GPU here", file=sys.stderr)
        return 77
    faults = Faults(args)
    faults.prepare()
    for name in args.only.split(","):
        start = time.monotonic()
        getattr(faults, name)()
        print(f"    {name}: {time.monotonic() - start:.1f} s", flush=True)
    for cache in args.work.glob("cache-*"):
        shutil.rmtree(cache, ignore_errors=True)
    print(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    if args.json:
        args.json.write_text(json.dumps({"what": "faults", "commit": os.environ.get("SYL_COMMIT", ""), "results": results}, indent=1) + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
