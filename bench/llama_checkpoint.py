"""Random Hugging Face checkpoints of the shapes of Llama models: sharded safetensors, bfloat16, no tokenizer. They are written as fast as a disk takes
them: all numbers come from one random block, each tensor from another place of it."""
import concurrent.futures
import dataclasses
import json
import struct

import numpy as np

BLOCK = 64 << 20  # elements


@dataclasses.dataclass
class Shape:
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int = 128256
    head: int = 128
    tied: bool = True


LLAMA_3B = Shape(hidden=3072, layers=28, heads=24, kv_heads=8, ffn=8192)
LLAMA_8B = Shape(hidden=4096, layers=32, heads=32, kv_heads=8, ffn=14336, tied=False)


def tensors(s):
    yield "model.embed_tokens.weight", (s.vocab, s.hidden)
    for i in range(s.layers):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (s.hidden,)
        yield p + "self_attn.q_proj.weight", (s.heads * s.head, s.hidden)
        yield p + "self_attn.k_proj.weight", (s.kv_heads * s.head, s.hidden)
        yield p + "self_attn.v_proj.weight", (s.kv_heads * s.head, s.hidden)
        yield p + "self_attn.o_proj.weight", (s.hidden, s.heads * s.head)
        yield p + "post_attention_layernorm.weight", (s.hidden,)
        yield p + "mlp.gate_proj.weight", (s.ffn, s.hidden)
        yield p + "mlp.up_proj.weight", (s.ffn, s.hidden)
        yield p + "mlp.down_proj.weight", (s.hidden, s.ffn)
    yield "model.norm.weight", (s.hidden,)
    if not s.tied:
        yield "lm_head.weight", (s.vocab, s.hidden)


def random_block(n):
    """Sign and mantissa at random, exponents of 1/256 to 1/32."""
    bits = np.frombuffer(np.random.default_rng(1).bytes(2 * n), np.uint16)
    return (bits & 0x807F) | (0x3B80 + ((bits >> 7 & 3) << 7)).astype(np.uint16)


def write_shard(path, rows, block, at):
    """Tensors from place `at` of the block on; the bytes written."""
    header, end = {}, 0
    for name, shape in rows:
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb", buffering=0) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in rows:
            left = int(np.prod(shape))
            if "norm" in name:
                file.write(np.full(left, 0x3F80, "<u2"))  # 1.0
                continue
            while left:
                n = min(left, len(block) - at, 8 << 20)
                n = file.write(memoryview(block[at:at + n]).cast("B")) // 2  # pieces of 16 MB, never cut inside of an element
                left -= n
                at = (at + n) % len(block)
    return end


def write(folder, shape, shard=2 << 30):
    """(bytes, shards); config.json and the index too."""
    folder.mkdir(parents=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": shape.hidden, "intermediate_size": shape.ffn,
              "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
              "head_dim": shape.head, "vocab_size": shape.vocab, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
              "max_position_embeddings": 8192, "tie_word_embeddings": shape.tied, "hidden_act": "silu", "torch_dtype": "bfloat16",
              "attention_bias": False, "mlp_bias": False, "bos_token_id": 128000, "eos_token_id": 128001}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shards, size = [[]], 0
    for name, dims in tensors(shape):
        if size > shard:
            shards.append([])
            size = 0
        shards[-1].append((name, dims))
        size += 2 * int(np.prod(dims))
    block = random_block(BLOCK).astype("<u2")
    files = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        starts = np.random.default_rng(2).integers(0, BLOCK, len(shards)).tolist()
        sizes = list(pool.map(lambda i: write_shard(folder / files[i], shards[i], block, starts[i]), range(len(shards))))
    places = {name: files[i] for i, rows in enumerate(shards) for name, _ in rows}
    index = {"metadata": {"total_size": sum(sizes)}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return sum(sizes), len(shards)
