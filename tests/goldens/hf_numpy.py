"""Forward passes of the Hugging Face architectures Llama, Mistral, Qwen2 and Qwen3 in NumPy float64, written from their papers and
configurations: the oracle for checkpoints in directories. No cache: all positions of one sequence at once."""
import numpy as np

from llama import attention, rms_norm


def frequencies(config, size):
    """Radians a position of each rotary pair."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    base = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    f = base ** (-np.arange(0, size, 2, dtype=np.float64) / size)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "linear":
        return f / rope["factor"]
    if kind == "llama3":  # by wavelengths, as the model's authors wrote it
        old, low, high = rope["original_max_position_embeddings"], rope["low_freq_factor"], rope["high_freq_factor"]
        out = []
        for x in f:
            wavelength = 2 * np.pi / x
            if wavelength < old / high:
                out.append(x)
            elif wavelength > old / low:
                out.append(x / rope["factor"])
            else:
                smooth = (old / wavelength - low) / (high - low)
                out.append((1 - smooth) * x / rope["factor"] + smooth * x)
        return np.array(out)
    assert kind == "default"
    return f


def rotate(x, angle):
    """x: T x heads x size; pairs are (k, k + size / 2)."""
    cos, sin = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def forward(config, tensors, ids):
    """Logits, T x vocabulary. tensors: name -> float64 array."""
    heads, kv_heads, eps = config["num_attention_heads"], config["num_key_value_heads"], config["rms_norm_eps"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    angle = np.arange(len(ids), dtype=np.float64)[:, None] * frequencies(config, size)

    def linear(x, name):
        y = x @ tensors[name + ".weight"].T
        return y + tensors[name + ".bias"] if name + ".bias" in tensors else y

    def heads_of(x, at, name, n):
        x = linear(x, at + f"self_attn.{name}_proj").reshape(len(ids), n, size)
        gain = tensors.get(at + f"self_attn.{name}_norm.weight")
        return x if gain is None else rms_norm(x, gain, eps)

    x = tensors["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        h = rms_norm(x, tensors[at + "input_layernorm.weight"], eps)
        q, k = rotate(heads_of(h, at, "q", heads), angle), rotate(heads_of(h, at, "k", kv_heads), angle)
        x = x + linear(attention(q, k, heads_of(h, at, "v", kv_heads)), at + "self_attn.o_proj")
        h = rms_norm(x, tensors[at + "post_attention_layernorm.weight"], eps)
        gate = linear(h, at + "mlp.gate_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(h, at + "mlp.up_proj"), at + "mlp.down_proj")
    x = rms_norm(x, tensors["model.norm.weight"], eps)
    return x @ (tensors["model.embed_tokens.weight"] if config["tie_word_embeddings"] else tensors["lm_head.weight"]).T
