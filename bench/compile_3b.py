#!/usr/bin/env python3
"""compile_3b.py SYL [RECIPE...] [--layers N] [--work DIR] [--limit GIB]: compiles a synthetic checkpoint of the shape of a 3B
Llama (sharded safetensors, bfloat16, random numbers, about 6.4 GB in DIR, deleted afterwards) and prints what `syl compile
--estimate` foretold, the time it took and the peak memory of the process. Fails if a peak is above the limit (4 GiB). Nothing is
reused: finished tensors are kept in a folder of its own, empty at first. NumPy is all it needs."""
import argparse
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import time

import numpy as np

HIDDEN, FFN, HEADS, KV_HEADS, HEAD, VOCAB = 3072, 8192, 24, 8, 128, 128256
SHARD = 2 << 30
CHUNK = 8 << 20  # elements made at a time


def tensors(layers):
    yield "model.embed_tokens.weight", (VOCAB, HIDDEN)
    for i in range(layers):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (HIDDEN,)
        yield p + "self_attn.q_proj.weight", (HEADS * HEAD, HIDDEN)
        yield p + "self_attn.k_proj.weight", (KV_HEADS * HEAD, HIDDEN)
        yield p + "self_attn.v_proj.weight", (KV_HEADS * HEAD, HIDDEN)
        yield p + "self_attn.o_proj.weight", (HIDDEN, HEADS * HEAD)
        yield p + "post_attention_layernorm.weight", (HIDDEN,)
        yield p + "mlp.gate_proj.weight", (FFN, HIDDEN)
        yield p + "mlp.up_proj.weight", (FFN, HIDDEN)
        yield p + "mlp.down_proj.weight", (HIDDEN, FFN)
    yield "model.norm.weight", (HIDDEN,)


def write_shard(path, rows, random):
    header, at = {}, 0
    for name, shape in rows:
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in rows:
            left = int(np.prod(shape))
            while left:
                n = min(left, CHUNK)
                if "norm" in name:
                    values = np.full(n, 0x3F80, np.uint16)  # 1.0
                else:  # sign and mantissa at random, exponents of 1/256 to 1/32
                    bits = np.frombuffer(random.bytes(2 * n), np.uint16)
                    values = (bits & 0x807F) | (0x3B80 + ((bits >> 7 & 3) << 7)).astype(np.uint16)
                file.write(values.astype("<u2").tobytes())
                left -= n
    return at


def write_checkpoint(folder, layers):
    folder.mkdir(parents=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": FFN,
              "num_hidden_layers": layers, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD,
              "vocab_size": VOCAB, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 8192,
              "tie_word_embeddings": True, "hidden_act": "silu", "torch_dtype": "bfloat16", "attention_bias": False,
              "mlp_bias": False, "bos_token_id": 128000, "eos_token_id": 128001}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shards, size = [[]], 0
    for name, shape in tensors(layers):
        if size > SHARD:
            shards.append([])
            size = 0
        shards[-1].append((name, shape))
        size += 2 * int(np.prod(shape))
    random, total, places = np.random.default_rng(1), 0, {}
    for i, rows in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        total += write_shard(folder / file, rows, random)
        places.update({name: file for name, _ in rows})
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return total, len(shards)


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
        total, shards = write_checkpoint(work / "model", options.layers)
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
