"""tiny_llama.py OUT.gguf [LAYERS]: a random small Llama, always the same: grouped queries, untied embeddings, biases on all linears of the
blocks, gains that are not 1, F32 and F16 tensors, no size a power of two but the head's. Its tokenizer has a token a byte and a few merges."""
import sys

import numpy as np

import gguf

DIM, HEADS, KV_HEADS, FFN, EPS, BASE = 96, 6, 2, 160, 1e-5, 10000.0


def byte_alphabet():
    """The characters that GPT-2's byte-level BPE writes the 256 bytes as: itself where it prints, else the next free one from 256 on."""
    printing = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = iter(range(256, 512))
    return [chr(byte if byte in printing else next(rest)) for byte in range(256)]


def write(path, layers=2):
    random = np.random.Generator(np.random.PCG64(2026))
    normal = lambda *shape: random.standard_normal(shape).astype(np.float32)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    merges = ["t h", "th e", "a n", "Ġ the", "i n", "e r"]
    tokens = special + byte_alphabet() + [merge.replace(" ", "") for merge in merges]
    metadata = {
        "general.architecture": "llama",
        "general.name": "tiny",
        "llama.block_count": layers,
        "llama.context_length": 512,
        "llama.embedding_length": DIM,
        "llama.feed_forward_length": FFN,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.rope.freq_base": BASE,
        "llama.rope.dimension_count": DIM // HEADS,
        "llama.attention.layer_norm_rms_epsilon": EPS,
        "llama.vocab_size": len(tokens),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * len(special) + [1] * (len(tokens) - len(special)),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
    }
    tensors = {"token_embd.weight": normal(len(tokens), DIM)}

    def linear(name, rows, cols, bias=True):
        tensors[name + ".weight"] = (normal(rows, cols) / np.sqrt(cols)).astype(np.float16)
        if bias:
            tensors[name + ".bias"] = normal(rows) * 0.3

    kv = DIM // HEADS * KV_HEADS
    for layer in range(layers):
        at = f"blk.{layer}."
        tensors[at + "attn_norm.weight"] = 1 + 0.3 * normal(DIM)
        linear(at + "attn_q", DIM, DIM)
        linear(at + "attn_k", kv, DIM)
        linear(at + "attn_v", kv, DIM)
        linear(at + "attn_output", DIM, DIM)
        tensors[at + "ffn_norm.weight"] = 1 + 0.3 * normal(DIM)
        linear(at + "ffn_gate", FFN, DIM)
        linear(at + "ffn_up", FFN, DIM)
        linear(at + "ffn_down", DIM, FFN)
    tensors["output_norm.weight"] = 1 + 0.3 * normal(DIM)
    linear("output", len(tokens), DIM, bias=False)
    gguf.write(path, metadata, tensors)


if __name__ == "__main__":
    write(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 2)
