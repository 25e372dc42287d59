"""A Llama forward pass in NumPy, written for clarity from the papers (Touvron et al. 2023; Su et al. 2021; Ainslie et al. 2023): the
oracle that the compiled models are compared with. No cache, no blocks: all positions at once."""
import numpy as np


def tensors_of(reader):
    return {name: reader.tensor(name) for name in reader.tensors}


def rms_norm(x, gain, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * gain


def rope(x, positions, base):
    """x: T x heads x head_dim; pairs are neighbours (2k, 2k + 1), the row order of GGUF."""
    dims = x.shape[-1]
    angle = positions[:, None] * base ** (-np.arange(0, dims, 2) / dims)
    cos, sin = (f(angle)[:, None, :].astype(x.dtype) for f in (np.cos, np.sin))
    even, odd = x[..., 0::2], x[..., 1::2]
    return np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)


def attention(q, k, v):
    """q: T x heads x dim, k and v: T x kv_heads x dim; causal; query head h reads kv head h / (heads / kv_heads)."""
    tokens, heads, dim = q.shape
    k, v = (np.repeat(x, heads // x.shape[1], axis=1) for x in (k, v))
    future = np.triu(np.ones((tokens, tokens), bool), 1)
    out = np.empty_like(q)
    for head in range(heads):
        score = q[:, head] @ k[:, head].T / q.dtype.type(np.sqrt(dim))
        score[future] = -np.inf
        weight = np.exp(score - score.max(axis=1, keepdims=True))
        out[:, head] = weight / weight.sum(axis=1, keepdims=True) @ v[:, head]
    return out.reshape(tokens, heads * dim)


def forward(metadata, tensors, ids, dtype):
    """Logits, T x vocabulary, of one sequence; all arithmetic in dtype (np.float32 or np.float64)."""
    heads = metadata["llama.attention.head_count"]
    kv_heads = metadata["llama.attention.head_count_kv"]
    eps = dtype(metadata["llama.attention.layer_norm_rms_epsilon"])
    base = metadata["llama.rope.freq_base"]
    positions = np.arange(len(ids), dtype=np.float64)

    def linear(x, name):
        y = x @ tensors[name + ".weight"].astype(dtype).T
        return y + tensors[name + ".bias"].astype(dtype) if name + ".bias" in tensors else y

    def norm(x, name):
        return rms_norm(x, tensors[name + ".weight"].astype(dtype), eps)

    split = lambda x, n: x.reshape(len(ids), n, -1)
    x = tensors["token_embd.weight"][ids].astype(dtype)
    for layer in range(metadata["llama.block_count"]):
        at = f"blk.{layer}."
        h = norm(x, at + "attn_norm")
        q = rope(split(linear(h, at + "attn_q"), heads), positions, base)
        k = rope(split(linear(h, at + "attn_k"), kv_heads), positions, base)
        v = split(linear(h, at + "attn_v"), kv_heads)
        x = x + linear(attention(q, k, v), at + "attn_output")
        h = norm(x, at + "ffn_norm")
        gate = linear(h, at + "ffn_gate")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(h, at + "ffn_up"), at + "ffn_down")
    x = norm(x, "output_norm")
    return linear(x, "output" if "output.weight" in tensors else "token_embd")
