#!/usr/bin/env python3
"""Prefill and decode speed of a compiled model beside llama.cpp on this CPU, interleaved, medians.

    PYTHON bench/compare_llamacpp.py --syl build/release/syl --artifact w8a8.syl --gguf MODEL.gguf [--rounds 7] [--threads 2] [--llama-type Q8_0|Q4_0] [--out RESULT.json]

PYTHON is one that has llama-cpp-python (it is built from source, which takes minutes, so no script here installs it):
    python3 -m venv /tmp/llama && /tmp/llama/bin/pip install llama-cpp-python==0.3.36 && /tmp/llama/bin/python bench/compare_llamacpp.py ...

llama.cpp runs the same checkpoint in the type of --llama-type (Q8_0 beside 8-bit weights, Q4_0 beside 4-bit ones), made of MODEL.gguf by its own
quantizer and kept beside RESULT.json. Each round measures one
and then the other, so that both meet the same machine: prefill of 512 random tokens into an empty cache, then decode of 128 tokens one at
a time behind them, three times, of which the median counts; both warm up first and use the same number of threads for everything."""
import argparse
import ctypes
import datetime
import json
import pathlib
import random
import statistics
import subprocess
import sys
import time

try:
    import llama_cpp
except ImportError:
    sys.exit(__doc__ + "\ncompare_llamacpp: this Python has no llama-cpp-python")

PROMPT, NEW, REPEAT = 512, 128, 3
METRICS = ("prefill_tokens_per_s", "decode_tokens_per_s")


@llama_cpp.llama_log_callback
def quiet(level, text, user):
    pass


class Llama:
    """llama.cpp through its C API: no sampling, logits of the last token only, as `syl bench`."""

    def __init__(self, path, threads):
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = 1024
        params.n_batch = params.n_ubatch = PROMPT
        params.n_threads = params.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.model or not self.context:
            sys.exit(f"compare_llamacpp: llama.cpp cannot load {path}")
        vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.random = random.Random(1)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(vocab)

    def decode(self, count):
        tokens = (llama_cpp.llama_token * count)(*(self.random.randrange(self.vocab_size) for _ in range(count)))
        if llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(tokens, count)) != 0:
            sys.exit("compare_llamacpp: llama_decode failed")
        llama_cpp.llama_synchronize(self.context)

    def clear(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def run_once(self):
        self.clear()
        begin = time.perf_counter()
        self.decode(PROMPT)
        middle = time.perf_counter()
        for _ in range(NEW):
            self.decode(1)
        end = time.perf_counter()
        return {"prefill_tokens_per_s": PROMPT / (middle - begin), "decode_tokens_per_s": NEW / (end - middle)}

    def measure(self):
        self.clear()
        self.decode(16)  # warm up, as `syl bench` does
        runs = [self.run_once() for _ in range(REPEAT)]
        return {key: statistics.median(run[key] for run in runs) for key in METRICS}


TYPES = {"Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0}


def quantize(source, target, file_type, threads):
    if target.exists():
        return
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = TYPES[file_type]
    params.allow_requantize = True
    params.nthread = threads
    partial = target.with_suffix(".partial")
    if llama_cpp.llama_model_quantize(str(source).encode(), str(partial).encode(), ctypes.byref(params)) != 0:
        sys.exit(f"compare_llamacpp: llama.cpp cannot quantize {source}")
    partial.rename(target)


def run_syl(arguments):
    command = [arguments.syl, "bench", arguments.artifact, "-p", str(PROMPT), "-n", str(NEW), "-r", str(REPEAT), "--threads", str(arguments.threads), "--json"]
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return {key: report[key] for key in METRICS}


def first_line(command):
    """What a command prints first, or "unknown": for the record only."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=pathlib.Path(__file__).parent)
    return (done.stdout.splitlines() or ["unknown"])[0]


def cpu_name():
    for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--syl", required=True)
    parser.add_argument("--artifact", required=True)
    parser.add_argument("--gguf", required=True, type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--llama-type", choices=TYPES, default="Q8_0")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("build/compare_llamacpp.json"))
    arguments = parser.parse_args()
    if arguments.rounds < 5:
        parser.error("--rounds: a median needs at least 5")

    llama_cpp.llama_log_set(quiet, None)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    quantized = arguments.out.parent / f"{arguments.gguf.stem.rsplit('.', 1)[0]}.{arguments.llama_type}.gguf"
    quantize(arguments.gguf, quantized, arguments.llama_type, arguments.threads)
    llama = Llama(quantized, arguments.threads)

    rounds = {"sylvester": [], "llama.cpp": []}
    for number in range(arguments.rounds):
        rounds["sylvester"].append(run_syl(arguments))
        rounds["llama.cpp"].append(llama.measure())
        print(f"round {number + 1}:", {who: {key: round(x) for key, x in runs[-1].items()} for who, runs in rounds.items()}, flush=True)

    medians = {who: {key: statistics.median(run[key] for run in runs) for key in METRICS} for who, runs in rounds.items()}
    result = {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu_name(),
        "threads": arguments.threads,
        "sylvester": first_line([arguments.syl, "--version"]),
        "commit": first_line(["git", "describe", "--always", "--dirty", "--abbrev=12"]),
        "artifact": pathlib.Path(arguments.artifact).name,
        "llama_cpp_python": llama_cpp.__version__,
        "llama_cpp_model": quantized.name,
        "prompt_tokens": PROMPT,
        "new_tokens": NEW,
        "rounds": rounds,
        "medians": medians,
        "ratio": {key: medians["sylvester"][key] / medians["llama.cpp"][key] for key in METRICS},
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    print(f"\n{result['cpu']}, {arguments.threads} threads, median of {arguments.rounds} interleaved rounds (min to max)\n")
    print(f"| tokens per second | sylvester {result['artifact']} | llama.cpp {arguments.llama_type} | ratio |\n|---|---|---|---|")
    for key, label in zip(METRICS, (f"prefill of {PROMPT}", f"decode of {NEW}")):
        cells = []
        for who in rounds:
            values = [run[key] for run in rounds[who]]
            cells.append(f"{medians[who][key]:.1f} ({min(values):.1f} to {max(values):.1f})")
        print(f"| {label} | {cells[0]} | {cells[1]} | {result['ratio'][key]:.2f} |")


if __name__ == "__main__":
    main()
